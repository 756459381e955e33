"""What only HTTP has: the statuses of POST /rpc, and the nine REST endpoints with their problem documents (httpx).

    http_life.py URL GATEWAY

GATEWAY is the program whose `admin create` makes the admin while the gateway at URL runs.
"""

import json
import subprocess
import sys
from http.client import HTTPConnection
from select import select
from typing import Any

import httpx

import steps
from rpc import TIMEOUT_SECONDS, check_error
from steps import equal, members

ALICE = "plenty of tea at four"
BOB = "seven bricks and a spade"
CAROL = "keys on a heavy ring"

CALL = {"jsonrpc": "2.0", "id": 1, "method": "system.ping"}


class PostRules:
    """Protocol, section 1: which status carries which answer."""

    def __init__(self, http: httpx.Client):
        self._http = http

    def a_dispatched_call_is_200_also_when_it_fails(self):
        answer = self._post(json.dumps(CALL), 200)
        equal((answer["id"], "result" in answer), (1, True))
        answer = self._post(json.dumps(CALL | {"method": "users.get", "params": {"username": "me"}}), 200)
        equal(answer["error"]["code"], 1001)

    def notifications_alone_are_204(self):
        note = {"jsonrpc": "2.0", "method": "system.ping"}
        for body in (note, [note, note], note | {"method": "nope"}):
            response = self._http.post("/rpc", json=body)
            equal((response.status_code, response.content), (204, b""))

    def a_batch_is_200_and_its_members_stand_alone(self):
        answers = self._post(json.dumps([CALL, {"id": 2}, CALL | {"id": None, "params": [1]}]), 200)
        equal([answer["id"] for answer in answers], [1, 2, None])
        equal([answer.get("error", {}).get("code") for answer in answers], [None, -32600, -32602])

    def a_body_that_gives_one_error_without_id_is_400(self):
        for body, code in (
            ("{", -32700),
            ("", -32700),
            ("\ufeff{}", -32700),
            ("[" * 60_000, -32700),
            ("[]", -32600),
            ("1", -32600),
            (json.dumps([CALL] * 51), -32010),
        ):
            answer = self._post(body, 400)
            equal((answer["id"], answer["error"]["code"]), (None, code))

    def a_bad_bearer_token_is_401(self):
        for token in ("x", "a.b.c"):
            needs = CALL | {"method": "users.list"}
            answer = self._post(json.dumps(needs), 401, {"authorization": f"Bearer {token}"})
            equal((answer["id"], answer["error"]["code"]), (CALL["id"], 1003))
            self._post(json.dumps(CALL), 200, {"authorization": f"Bearer {token}"})

    def another_content_type_is_415_and_a_large_body_413(self):
        self._post(json.dumps(CALL), 415, {"content-type": "text/plain"})
        equal(self._post(json.dumps(CALL) + " " * 65536, 413)["error"]["code"], -32007)

    def a_body_far_over_the_limit_gets_its_answer_too(self):
        equal(self._post(" " * (4 << 20), 413)["error"]["code"], -32007)

    def a_refusal_before_the_body_keeps_the_connection_or_says_that_it_ends(self):
        body = json.dumps(CALL | {"method": "users.list"}).encode()
        for refused, headers in (
            (415, {"content-type": "text/plain"}),
            (401, {"content-type": "application/json", "authorization": "Bearer a.b.c"}),
        ):
            connection = HTTPConnection(self._http.base_url.host, self._http.base_url.port, timeout=TIMEOUT_SECONDS)
            connection.putrequest("POST", "/rpc")
            for name, value in {"content-length": str(len(body)), **headers}.items():
                connection.putheader(name, value)
            connection.endheaders()
            answered = select([connection.sock], [], [], 0.5)[0]  # else the gateway waits for the body
            if not answered:
                connection.sock.sendall(body)
            response = connection.getresponse()
            equal(response.status, refused)
            response.read()
            if response.headers.get("connection", "").lower() != "close":
                if answered:
                    connection.sock.sendall(body)
                connection.request("GET", "/healthz")
                equal(connection.getresponse().status, 200)
            connection.close()

    def a_method_that_needs_a_socket_says_so(self):
        error = self._post(json.dumps(CALL | {"method": "auth.authenticate"}), 200)["error"]
        equal((error["code"], error["data"]["reason"]), (-32601, "websocket_only"))

    def other_methods_and_paths_are_refused(self):
        upgrade = self._http.get("/rpc")
        equal((upgrade.status_code, upgrade.headers.get("upgrade")), (426, "websocket"))  # RFC 9110 §15.5.22
        for method, path in (("PUT", "/rpc"), ("PATCH", "/users/bob")):
            response = self._http.request(method, path)
            equal((response.status_code, "GET" in response.headers.get("allow", "")), (405, True))  # RFC 9110 §15.5.6
        for path, status in (("/nowhere", 404), ("/users/%ff", 401)):
            response = self._http.get(path)
            equal((response.status_code, response.headers["content-type"]), (status, "application/problem+json"))

    def the_operators_pages_are_there(self):
        equal(self._http.get("/healthz").status_code, 200)
        equal(self._http.get("/readyz").status_code, 200)
        equal(self._http.get("/metrics").status_code, 404)  # not on the listener of the public

    def _post(self, body: str, status: int, headers: dict | None = None) -> Any:
        headers = {"content-type": "application/json"} | (headers or {})
        response = self._http.post("/rpc", content=body.encode(), headers=headers)
        assert response.status_code == status, f"{body[:80]}: {response.status_code} {response.text}"
        equal(response.headers["content-type"].split(";")[0], "application/json")
        equal((response.headers["cache-control"], response.headers["x-content-type-options"]), ("no-store", "nosniff"))
        answer = response.json()
        for error in (each["error"] for each in (answer if isinstance(answer, list) else [answer]) if "error" in each):
            check_error(error)
        return answer


class RestLife:
    """Protocol, section 7: the nine endpoints."""

    def __init__(self, http: httpx.Client, gateway: str):
        self._http = http
        self._gateway = gateway

    def registering_is_201(self):
        alice = {"username": "alice", "email": "alice@example.org", "password": ALICE}
        answer = self._ask("POST", "/auth/register", 201, json=alice)
        members(answer, "user", "session", "tokens")
        self._alice = answer["tokens"]["access_token"]
        bob = {"username": "bob", "email": "bob@example.org", "password": BOB, "display_name": "Bob B."}
        self._bob = self._ask("POST", "/auth/register", 201, json=bob)["tokens"]["access_token"]
        self._problem("POST", "/auth/register", 409, 1202, json=alice, field="username")
        eve = {"username": "eve", "email": "eve@example.org", "password": "whatever the weather"}
        self._problem("POST", "/auth/register", 422, 1205, json=eve | {"password": "short"})
        self._problem("POST", "/auth/register", 400, -32602, json=eve | {"username": "e"})
        self._problem("POST", "/auth/register", 400, -32602, json=eve | {"role": "admin"})
        self._problem("POST", "/auth/register", 400, -32700, content="{", headers={"content-type": "application/json"})

    def logging_in_is_200(self):
        answer = self._ask("POST", "/auth/login", 200, json={"login": "alice@example.org", "password": ALICE})
        members(answer, "user", "session", "tokens")
        self._alice = answer["tokens"]["access_token"]
        wrong = self._problem("POST", "/auth/login", 401, 1005, json={"login": "alice", "password": "wrong word"})
        unknown = self._problem("POST", "/auth/login", 401, 1005, json={"login": "nobody", "password": "wrong word"})
        equal(*(problem | {"request_id": ""} for problem in (wrong, unknown)))

    def a_users_own_account_is_read_and_patched(self):
        answer = self._ask("GET", "/users/me", 200, self._alice)
        equal((answer["user"]["username"], answer["user"]["email"]), ("alice", "alice@example.org"))
        patch = {"display_name": "Alice Liddéll", "if_rev": 1}
        user = self._ask("PATCH", "/users/me", 200, self._alice, json=patch)["user"]
        equal((user["display_name"], user["rev"]), ("Alice Liddéll", 2))
        conflict = self._problem("PATCH", "/users/me", 409, 1203, self._alice, json=patch)
        equal(conflict["current_rev"], 2)
        self._problem("PATCH", "/users/me", 400, -32602, self._alice, json={"role": "admin"})
        self._problem("PATCH", "/users/me", 400, -32602, self._alice, json={"nonsense": 1})
        email = {"email": "alice@example.com", "current_password": "wrong word"}
        self._problem("PATCH", "/users/me", 401, 1005, self._alice, json=email)
        email["current_password"] = ALICE
        equal(self._ask("PATCH", "/users/me", 200, self._alice, json=email)["user"]["email"], "alice@example.com")

    def another_user_is_read_in_the_public_form(self):
        user = self._ask("GET", "/users/bob", 200, self._alice)["user"]
        assert "email" not in user and "last_change" not in user, user
        self._problem("GET", "/users/nobody", 404, 1201, self._alice)
        self._problem("GET", "/users/no%20name", 400, -32602, self._alice)

    def without_a_good_token_everything_is_401(self):
        for method, path in (
            ("GET", "/users/me"),
            ("PATCH", "/users/me"),
            ("DELETE", "/users/me"),
            ("GET", "/users"),
            ("GET", "/users/alice"),
            ("PATCH", "/admin/users/alice"),
            ("DELETE", "/admin/users/alice"),
        ):
            body = {"json": {}} if method == "PATCH" else {}
            self._problem(method, path, 401, 1001, **body)
            self._problem(method, path, 401, 1003, "x.y.z", **body)

    def a_list_is_filtered_sorted_and_paged(self):
        page = self._ask("GET", "/users?limit=1&sort=-username&role=user&status=active", 200, self._alice)
        members(page, "users", "next_cursor", "position")
        equal([user["username"] for user in page["users"]], ["bob"])
        query = {"limit": 1, "sort": "-username", "role": "user", "status": "active", "cursor": page["next_cursor"]}
        page = self._ask("GET", "/users", 200, self._alice, params=query)
        equal([user["username"] for user in page["users"]], ["alice"])
        self._problem("GET", "/users", 400, 1401, self._alice, params=query | {"sort": "username"})
        for query in ("limit=0", "limit=x", "sort=rev", "role=king", "status=gone", "nonsense=1"):
            self._problem("GET", f"/users?{query}", 400, -32602, self._alice)
        self._problem("GET", "/users?sort=email", 400, 1404, self._alice)

    def a_search_forgives_a_typo(self):
        page = self._ask("GET", "/users?q=lidell", 200, self._bob)
        equal([hit["user"]["username"] for hit in page["hits"]], ["alice"])

    def only_an_admin_reaches_the_admins_endpoints(self):
        self._problem("PATCH", "/admin/users/bob", 403, 1101, self._alice, json={"role": "admin"})
        self._problem("DELETE", "/admin/users/bob", 403, 1101, self._alice)

    def an_admin_patches_a_user_or_sets_the_role(self):
        command = [self._gateway, "admin", "create", "carol", "--email", "carol@example.org", "--password-stdin"]
        subprocess.run(command, input=CAROL + "\n", text=True, check=True, timeout=30)
        answer = self._ask("POST", "/auth/login", 200, json={"login": "carol", "password": CAROL})
        self._carol = answer["tokens"]["access_token"]
        user = self._ask("PATCH", "/admin/users/bob", 200, self._carol, json={"bio": "builder", "if_rev": 1})["user"]
        equal((user["bio"], user["email"], user["rev"]), ("builder", "bob@example.org", 2))
        user = self._ask("PATCH", "/admin/users/bob", 200, self._carol, json={"role": "admin"})["user"]
        equal((user["role"], user["last_change"]["kind"]), ("admin", "role_changed"))
        self._problem("GET", "/users/me", 401, 1004, self._bob)  # a new role ends the sessions of the old one
        mixed = {"role": "user", "bio": "both at once"}
        self._problem("PATCH", "/admin/users/bob", 400, -32602, self._carol, json=mixed)
        self._ask("PATCH", "/admin/users/bob", 200, self._carol, json={"role": "user"})
        self._problem("PATCH", "/admin/users/nobody", 404, 1201, self._carol, json={"bio": "x"})
        self._problem("PATCH", "/admin/users/carol", 403, 1102, self._carol, json={"role": "user"})

    def an_admin_deactivates_a_user(self):
        equal(self._ask("DELETE", "/admin/users/bob", 204, self._carol), None)
        equal(self._ask("GET", "/users/bob", 200, self._alice)["user"]["status"], "deactivated")
        self._problem("POST", "/auth/login", 401, 1005, json={"login": "bob", "password": BOB})
        self._problem("DELETE", "/admin/users/carol", 403, 1102, self._carol)

    def a_user_deactivates_their_own_account(self):
        equal(self._ask("DELETE", "/users/me", 204, self._alice), None)
        self._problem("GET", "/users/me", 401, 1004, self._alice)

    def _ask(self, method: str, path: str, status: int, token: str | None = None, **request: Any) -> Any:
        """The body of an answer with `status`; `None` for no body."""
        headers = request.pop("headers", {}) | ({"authorization": f"Bearer {token}"} if token else {})
        response = self._http.request(method, path, headers=headers, **request)
        asked = f"{method} {path} {request}"
        assert response.status_code == status, f"{asked}: {response.status_code} {response.text}"
        equal((response.headers["cache-control"], response.headers["x-content-type-options"]), ("no-store", "nosniff"))
        if status == 204:
            equal(response.content, b"")
            return None
        kind = "application/json" if status < 400 else "application/problem+json"
        assert response.headers["content-type"].split(";")[0] == kind, f"{asked}: {response.headers}"
        assert status != 401 or "www-authenticate" in response.headers, f"{asked}: {response.headers}"
        return response.json()

    def _problem(
        self, method: str, path: str, status: int, code: int, token: str | None = None, **request: Any
    ) -> dict:
        """An RFC 9457 document with `status` and `code`, with the members of JSON-RPC's `data` beside them."""
        field = request.pop("field", None)
        problem = self._ask(method, path, status, token, **request)
        equal((problem["status"], problem["code"], problem.get("field")), (status, code, field))
        for member, kind in {"title": str, "detail": str, "kind": str, "retryable": bool, "request_id": str}.items():
            assert isinstance(problem.get(member), kind), f"{member} is missing: {problem}"
        return problem


def main() -> int:
    url, gateway = sys.argv[1:]
    with httpx.Client(base_url=url, timeout=TIMEOUT_SECONDS) as http:
        return steps.main(PostRules(http), RestLife(http, gateway))


if __name__ == "__main__":
    sys.exit(main())
