"""What only a WebSocket can do: ways of signing in, calls beside each other, close codes. Client: websockets.

socket_life.py URL
"""

import json
import sys
from contextlib import suppress

from websockets.exceptions import ConnectionClosed, InvalidStatus

import steps
from rpc import SocketClient, check_error, refused
from steps import equal, members

ALICE = "plenty of tea at four"
BOB = "seven bricks and a spade"


class SocketLife:
    def __init__(self, url: str):
        self._url = url

    def registering_binds_the_socket(self):
        self._alice = self._connect()
        equal(self._alice.socket.subprotocol, "doorward.v1")
        answer = self._alice.call("auth.register", username="alice", email="alice@example.org", password=ALICE)
        self._token = answer["tokens"]["access_token"]
        self._bob = self._connect()
        bob = self._bob.call("auth.register", username="bob", email="bob@example.org", password=BOB)
        self._tokens_of_bob = bob["tokens"]

    def a_header_or_a_subprotocol_signs_in_at_the_upgrade(self):
        header = {"additional_headers": {"Authorization": f"Bearer {self._token}"}}
        subprotocol = {"subprotocols": ["doorward.v1", f"bearer.{self._token}"]}
        for options in (header, subprotocol):
            client = self._connect(**options)
            equal(client.socket.subprotocol, "doorward.v1")
            equal(client.call("users.get", username="me")["user"]["username"], "alice")
            client.close()

    def a_socket_without_a_subprotocol_is_fine(self):
        client = self._connect(subprotocols=None)
        equal(client.socket.subprotocol, None)
        client.call("system.ping")
        client.close()

    def a_bad_token_is_refused_before_the_upgrade(self):
        for status, query, options in (
            (401, "", {"additional_headers": {"Authorization": "Bearer x.y.z"}}),
            (401, "", {"subprotocols": ["doorward.v1", "bearer.x.y.z"]}),
            (400, f"?access_token={self._token}", {}),
        ):
            try:
                SocketClient(self._url, query, **options)
            except InvalidStatus as refusal:
                equal(refusal.response.status_code, status)
                error = json.loads(refusal.response.body)
                check_error(error["error"])
                equal((error["jsonrpc"], error["id"]), ("2.0", None))
            else:
                raise AssertionError(f"{options} was let in")

    def a_socket_is_bound_by_authenticating(self):
        client = self._connect()
        equal(
            refused(1003, lambda: client.call("auth.authenticate", access_token="x.y.z")).data["kind"], "token_invalid"
        )
        answer = client.call("auth.authenticate", access_token=self._token)
        members(answer, "user", "session", "expires_at")
        equal(answer["user"]["username"], "alice")
        client.call("auth.authenticate", access_token=self._token)  # the same user again extends the socket
        other = {"access_token": self._tokens_of_bob["access_token"]}
        equal(refused(1007, lambda: client.call("auth.authenticate", **other)).data["kind"], "other_identity")
        equal(client.call("users.get", username="me")["user"]["username"], "alice")
        client.close()

    def the_third_bad_token_closes_the_socket(self):
        client = self._connect()
        for _ in range(3):
            refused(1003, lambda: client.call("auth.authenticate", access_token="x.y.z"))
        equal(client.close_code(), 4500)

    def ids_come_back_with_their_exact_text(self):
        for text in ("1.0", "1e2", "-1", "1" + "0" * 29, '"\\u0061"', "null", "1.50E+7"):
            self._alice.socket.send(f'{{"jsonrpc":"2.0","id":{text},"method":"system.ping"}}')
            answer = self._alice.socket.recv(timeout=10)
            assert f'"id":{text}' in answer.replace(": ", ":"), f"sent the id {text}, found {answer}"

    def a_batch_is_answered_as_one_frame_without_its_notifications(self):
        call = {"jsonrpc": "2.0", "method": "system.ping"}
        self._alice.socket.send(json.dumps([call | {"id": 1}, call, {"id": 2}, call | {"id": 3, "method": "nope"}]))
        answers = self._alice.receive()
        equal(
            sorted((each["id"], each.get("error", {}).get("code")) for each in answers),
            [(1, None), (2, -32600), (3, -32601)],
        )
        for batch, code in (("[]", -32600), (json.dumps([call | {"id": 1}] * 51), -32010)):
            self._alice.socket.send(batch)
            answer = self._alice.receive()
            equal((answer["id"], answer["error"]["code"]), (None, code))

    def calls_in_flight_are_all_answered(self):
        for number in range(100):
            self._alice.socket.send(
                json.dumps({"jsonrpc": "2.0", "id": number, "method": "users.get", "params": {"username": "bob"}})
            )
        equal(sorted(self._alice.receive()["id"] for _ in range(100)), list(range(100)))

    def a_binary_frame_closes_the_socket(self):
        client = self._connect()
        client.socket.send(b"{}")
        equal(client.close_code(), 1003)

    def a_message_over_the_limit_closes_the_socket(self):
        limit = self._alice.call("system.info")["limits"]["message_bytes"]
        equal(limit, 65536)
        client = self._connect()
        with suppress(ConnectionClosed):
            client.socket.send(" " * (limit + 1))
        equal(client.close_code(), 1009)

    def unparsable_messages_close_the_socket_in_the_end(self):
        client = self._connect()
        for _ in range(20):
            client.socket.send("{")
            answer = client.receive()
            equal((answer["id"], answer["error"]["code"]), (None, -32700))
        equal(client.close_code(), 4501)

    def deactivating_oneself_closes_every_socket_of_the_user(self):
        second = self._connect(additional_headers={"Authorization": f"Bearer {self._token}"})
        answer = self._alice.call("users.deactivate", username="me")
        equal((answer["user"]["status"], answer["sockets_closed"]), ("deactivated", 2))
        self._alice.signed_out(4504)
        second.signed_out(4504)
        try:
            self._connect(additional_headers={"Authorization": f"Bearer {self._token}"})
        except InvalidStatus as refusal:
            equal(refusal.response.status_code, 401)
            equal(json.loads(refusal.response.body)["error"]["code"], 1004)
        else:
            raise AssertionError("the token of a deactivated user was let in")

    def _connect(self, **options) -> SocketClient:
        return SocketClient(self._url, **options)


if __name__ == "__main__":
    sys.exit(steps.main(SocketLife(sys.argv[1])))
