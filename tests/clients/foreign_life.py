"""The whole life of an account through libraries that others wrote for JSON-RPC and WebSockets.

    foreign_life.py LIBRARY URL GATEWAY

LIBRARY is one of those below. A library in Python is used here; one in another language is lent by a program that takes
calls as lines of JSON: node/adapter.mjs, go/.
"""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonrpclib
import websocket

import steps
from account_life import AccountLife
from rpc import TIMEOUT_SECONDS, RpcError, SocketClient, check_error, refused

HERE = Path(__file__).parent
NODE = ("node", str(HERE / "node" / "adapter.mjs"))
GO = (str(HERE.parent.parent / "target" / "clients" / "foreignclients"),)

# How a library is reached, and what carries its calls.
LENT = {
    "jayson": (NODE, "http"),
    "open-rpc-http": (NODE, "http"),
    "ybbus": (GO, "http"),
    "coder": (GO, "websockets"),
    "json-rpc-2.0": (NODE, "websockets"),
    "open-rpc-websocket": (NODE, "websockets"),
    "reconnecting-websocket": (NODE, "websockets"),
    "rpc-websockets": (NODE, "websockets"),
    "wscat": (NODE, "websockets"),
}


class Lender:
    """The program that lends a library: one command and one answer after the other."""

    def __init__(self, library: str, url: str):
        command, self.carrier = LENT[library]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([*command, library, url], **pipes)
        self.numbers = itertools.count(1)

    def ask(self, **command: Any) -> dict:
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        assert "failed" not in answer, answer["failed"]
        return answer

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=TIMEOUT_SECONDS)


class LentClient:
    """One client of a lent library."""

    def __init__(self, lender: Lender):
        self.lender, self.carrier, self.number = lender, lender.carrier, next(lender.numbers)
        self._ask("open")

    def call(self, method: str, **params: Any) -> dict:
        answer = self._ask("call", method=method, **({"params": params} if params else {}))
        if "error" in answer:
            check_error(answer["error"])
            raise RpcError(answer["error"])
        return answer["result"]

    def sign_in(self, answer: dict) -> dict:
        self._ask("sign in", token=answer["tokens"]["access_token"])
        return answer

    def signed_out(self, close_code: int) -> None:
        if self.carrier == "http":
            refused(1004, lambda: self.call("users.get", username="me"))
            return
        ended = self._ask("ended")
        last = ended["notifications"][-1]
        assert (last["method"], ended["code"]) == ("auth.revoked", close_code), ended

    def close(self) -> None:
        self._ask("close")

    def _ask(self, act: str, **beside: Any) -> dict:
        return self.lender.ask(act=act, client=self.number, **beside)


class WebSocketClient(SocketClient):
    """websocket-client, which sends the server's own origin with each handshake."""

    def __init__(self, base_url: str):
        url = f"{base_url.replace('http', 'ws', 1)}/rpc"
        self.socket = websocket.create_connection(url, timeout=TIMEOUT_SECONDS, subprotocols=["doorward.v1"])
        self._begin()

    def receive(self) -> dict:
        return json.loads(self.socket.recv())

    def signed_out(self, close_code: int) -> None:
        self.notification("auth.revoked")
        opcode, payload = self.socket.recv_data()
        assert (opcode, int.from_bytes(payload[:2])) == (websocket.ABNF.OPCODE_CLOSE, close_code), (opcode, payload)


class JsonRpcLibClient:
    """jsonrpclib-pelix, whose content type is application/json-rpc."""

    carrier = "http"

    def __init__(self, base_url: str):
        self.url, self.history = f"{base_url}/rpc", jsonrpclib.history.History()
        self.headers = {}
        self._open()

    def call(self, method: str, **params: Any) -> dict:
        try:
            return getattr(self.proxy, method)(**params)
        except jsonrpclib.TransportError:
            # The library drops the body of a status beside 200; its history has the call's answer.
            raise
        except jsonrpclib.ProtocolError as error:
            answer = json.loads(self.history.response)["error"]
            check_error(answer)
            raise RpcError(answer) from error

    def sign_in(self, answer: dict) -> dict:
        self.headers["Authorization"] = f"Bearer {answer['tokens']['access_token']}"
        self._open()
        return answer

    def signed_out(self, close_code: int) -> None:
        del close_code
        try:
            self.call("users.get", username="me")
        except jsonrpclib.TransportError as error:
            assert error.errcode == 401, error
        else:
            raise AssertionError("the token is still good")

    def close(self) -> None:
        self.proxy("close")()

    def _open(self) -> None:
        self.proxy = jsonrpclib.ServerProxy(self.url, headers=self.headers, history=self.history)


def main() -> int:
    library, url, gateway = sys.argv[1:]
    if library in LENT:
        lender = Lender(library, url)
        code = steps.main(AccountLife(lambda: LentClient(lender), gateway))
        lender.end()
        return code
    client = {"websocket-client": WebSocketClient, "jsonrpclib-pelix": JsonRpcLibClient}[library]
    return steps.main(AccountLife(lambda: client(url), gateway))


if __name__ == "__main__":
    sys.exit(main())
