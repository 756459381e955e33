"""JSON-RPC over a WebSocket (websockets) and over POST (httpx): two clients with one face.

They know the protocol's envelope and nothing of the gateway's code. Every answer's envelope is checked on the way in.
"""

import itertools
import json
from collections import deque
from collections.abc import Callable
from typing import Any

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

# How long anything may take before the step that waits for it fails.
TIMEOUT_SECONDS = 10


class RpcError(Exception):
    """The error of an answer."""

    def __init__(self, error: dict):
        super().__init__(json.dumps(error))
        self.code: int = error["code"]
        self.message: str = error["message"]
        self.data: dict = error["data"]


def result_of(answer: dict, call_id: int) -> dict:
    """The result of an answer, or its error raised; both must have their full shape."""
    assert answer.get("jsonrpc") == "2.0" and answer.get("id") == call_id, f"a malformed answer to {call_id}: {answer}"
    if "error" not in answer:
        assert set(answer) == {"jsonrpc", "id", "result"}, f"a malformed answer: {answer}"
        assert isinstance(answer["result"], dict), f"a result is an object: {answer}"
        return answer["result"]
    assert set(answer) == {"jsonrpc", "id", "error"}, f"a malformed answer: {answer}"
    check_error(answer["error"])
    raise RpcError(answer["error"])


def check_error(error: dict) -> None:
    """`data` always has kind, retryable and request_id, whatever went wrong."""
    data = error.get("data")
    whole = (
        isinstance(error.get("code"), int)
        and isinstance(error.get("message"), str)
        and isinstance(data, dict)
        and isinstance(data.get("kind"), str)
        and isinstance(data.get("retryable"), bool)
        and isinstance(data.get("request_id"), str)
    )
    assert whole, f"a malformed error: {error}"


def refused(code: int, call: Callable[[], Any]) -> RpcError:
    """The error of a call that must end with `code`."""
    try:
        result = call()
    except RpcError as error:
        assert error.code == code, f"wanted error {code}, found {error}"
        return error
    raise AssertionError(f"wanted error {code}, found the result {result}")


class SocketClient:
    """One WebSocket; signing in binds it."""

    carrier = "websockets"

    def __init__(self, base_url: str, query: str = "", **options: Any):
        options = {
            "subprotocols": ["doorward.v1"],
            "compression": None,
            "open_timeout": TIMEOUT_SECONDS,
            "legacy": True,
        } | options
        self.socket = connect(f"{base_url.replace('http', 'ws', 1)}/rpc{query}", **options)
        self._begin()

    def _begin(self) -> None:
        self.ids = itertools.count(1)
        self.notifications: deque[dict] = deque()

    def call(self, method: str, **params: Any) -> dict:
        call_id = next(self.ids)
        call = {"jsonrpc": "2.0", "id": call_id, "method": method}
        self.socket.send(json.dumps(call | ({"params": params} if params else {})))
        while "method" in (frame := self.receive()):
            self.notifications.append(frame)
        return result_of(frame, call_id)

    def receive(self) -> Any:
        """The next frame; a `TimeoutError` when none comes, `ConnectionClosed` when none can."""
        frame = self.socket.recv(timeout=TIMEOUT_SECONDS)
        assert isinstance(frame, str), f"a binary frame: {frame!r}"
        return json.loads(frame)

    def notification(self, method: str) -> dict:
        """The params of the next notification, which must be `method`."""
        frame = self.notifications.popleft() if self.notifications else self.receive()
        assert frame.get("method") == method and "id" not in frame, f"wanted {method}, found {frame}"
        return frame["params"]

    def close_code(self) -> int | None:
        """How the gateway closed the socket; frames that come before are kept."""
        try:
            while True:
                self.notifications.append(self.receive())
        except ConnectionClosed as closed:
            return closed.rcvd and closed.rcvd.code

    def signed_out(self, close_code: int) -> None:
        """The gateway has said that the session is over, and closed the socket with `close_code`."""
        revoked = self.notification("auth.revoked")
        assert set(revoked) == {"reason"} and isinstance(revoked["reason"], str), revoked
        code = self.close_code()
        assert code == close_code and not self.notifications, f"{code} {self.notifications}"

    def sign_in(self, answer: dict) -> dict:
        """Registering and logging in have bound the socket already."""
        return answer

    def close(self) -> None:
        self.socket.close()


class PostClient:
    """POST /rpc with a bearer token, once there is one."""

    carrier = "httpx"

    def __init__(self, base_url: str):
        self.http = httpx.Client(base_url=base_url, timeout=TIMEOUT_SECONDS)
        self.ids = itertools.count(1)

    def call(self, method: str, **params: Any) -> dict:
        call_id = next(self.ids)
        call = {"jsonrpc": "2.0", "id": call_id, "method": method}
        response = self.http.post("/rpc", json=call | ({"params": params} if params else {}))
        assert response.status_code in (200, 401), f"{response.status_code} {response.text}"
        assert response.headers["content-type"].split(";")[0] == "application/json", response.headers
        assert response.headers["cache-control"] == "no-store", response.headers
        answer = response.json()
        return result_of(answer, call_id)

    def signed_out(self, close_code: int) -> None:
        """The token is no good any more; there is no socket that could close with `close_code`."""
        del close_code
        refused(1004, lambda: self.call("users.get", username="me"))

    def sign_in(self, answer: dict) -> dict:
        """Later calls carry this answer's access token."""
        self.http.headers["authorization"] = f"Bearer {answer['tokens']['access_token']}"
        return answer

    def close(self) -> None:
        self.http.close()
