"""What a proxy must let through: refusals before the body was read, a WebSocket that stays, the client's address.

    through.py URL

Refusals must arrive as themselves, each time: the proxy is still sending the body then.
"""

import json
import sys
from collections import Counter

import httpx

import steps
from rpc import PostClient, SocketClient
from steps import equal

ALICE = "plenty of tea at four"
# From where a client in front of the proxy says that it comes: an address of RFC 5737.
ELSEWHERE = "203.0.113.7"
TRIES = 20


class Through:
    def __init__(self, url: str):
        self._url = url
        self._http = httpx.Client(base_url=url, timeout=60)

    def a_websocket_is_held(self):
        self._alice = SocketClient(self._url)
        answer = self._alice.call("auth.register", username="alice", email="alice@example.org", password=ALICE)
        self._token = answer["tokens"]["access_token"]

    def the_clients_address_is_passed_on(self):
        login = {"login": "alice", "password": ALICE}
        answer = self._http.post("/auth/login", json=login, headers={"X-Forwarded-For": ELSEWHERE})
        equal((answer.status_code, answer.json()["session"]["address"]), (200, ELSEWHERE))

    def the_gateways_own_page_is_let_in(self):
        origin = str(self._http.base_url.copy_with(path="/")).rstrip("/")
        answer = self._http.get("/users/me", headers={"Authorization": f"Bearer {self._token}", "Origin": origin})
        equal((answer.status_code, answer.headers["access-control-allow-origin"]), (200, origin))

    def too_large_a_call_is_told_so(self):
        self._refused("POST", "/rpc", 1_000_000, 413, -32007)

    def too_large_a_request_is_told_so(self):
        self._refused("POST", "/auth/login", 1_000_000, 413, -32007)

    def a_path_that_is_not_there_is_told_so(self):
        self._refused("POST", "/nowhere", 60_000, 404, -32601)

    def a_method_that_is_not_there_is_told_so(self):
        self._refused("PUT", "/users", 60_000, 405, -32601)

    def a_foreign_page_is_told_so(self):
        foreign = {"Origin": "https://evil.example"}
        self._refused("POST", "/rpc", 60_000, 403, -32600, foreign)
        self._refused("POST", "/auth/login", 60_000, 403, -32600, foreign)

    def a_bad_token_is_told_so(self):
        # What needs no token is answered, so the call is read first.
        call = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "users.list"}).encode()
        self._refused("POST", "/rpc", call.ljust(60_000), 401, 1003, {"Authorization": "Bearer x.y.z"})

    def an_unknown_type_is_told_so(self):
        self._refused("POST", "/rpc", 60_000, 415, -32600, {"Content-Type": "text/plain"})

    def a_connection_is_used_again(self):
        call = {"jsonrpc": "2.0", "id": 1, "method": "system.ping"}
        statuses = Counter(self._http.post("/rpc", json=call).status_code for _ in range(200))
        equal(statuses, {200: 200})

    def the_websocket_is_there_still(self):
        equal(self._alice.call("users.get", username="me")["user"]["username"], "alice")
        self._alice.call("users.subscribe")
        patched = PostClient(self._url)
        patched.sign_in({"tokens": {"access_token": self._token}})
        patched.call("users.update", username="me", patch={"bio": "Ships and harbours."})
        equal(self._alice.notification("users.changed")["user"]["bio"], "Ships and harbours.")
        self._alice.close()
        equal(self._alice.socket.protocol.close_rcvd.code, 1000)

    def _refused(
        self, method: str, path: str, body: int | bytes, status: int, code: int, headers: dict[str, str] | None = None
    ) -> None:
        headers = {"Content-Type": "application/json"} | (headers or {})
        body = body if isinstance(body, bytes) else b" " * body
        seen: Counter = Counter()
        for _ in range(TRIES):
            try:
                answer = self._http.request(method, path, content=body, headers=headers)
                seen[answer.status_code, code_of(answer)] += 1
            except httpx.HTTPError as error:
                seen[type(error).__name__] += 1
        equal(dict(seen), {(status, code): TRIES})


def code_of(answer: httpx.Response) -> int | None:
    """The code of a refusal of ours, as JSON-RPC or as a problem document."""
    try:
        body = answer.json()
    except json.JSONDecodeError:
        return None
    return body.get("error", body).get("code")


def main() -> int:
    return steps.main(Through(sys.argv[1]))


if __name__ == "__main__":
    sys.exit(main())
