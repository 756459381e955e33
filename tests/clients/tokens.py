"""Access tokens, as a service verifies them that has no other tie to the gateway. Client: PyJWT.

    tokens.py HS256|EdDSA URL

The key of HS256 is the secret in the gateway's data folder, that of EdDSA whatever the gateway publishes.
"""

import os
import sys
from pathlib import Path
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import steps
from rpc import PostClient, refused
from steps import equal

ALICE = "plenty of tea at four"
CLAIMS = ["iss", "aud", "sub", "sid", "gen", "role", "iat", "exp", "jti"]


class Tokens:
    def __init__(self, algorithm: str, url: str):
        self._algorithm = algorithm
        self._url = url

    def a_token_names_its_kind_its_algorithm_and_its_key(self):
        client = PostClient(self._url)
        answer = client.call("auth.register", username="alice", email="alice@example.org", password=ALICE)
        self._token = answer["tokens"]["access_token"]
        self._session = answer["session"]["id"]
        self._header = jwt.get_unverified_header(self._token)
        equal(sorted(self._header), ["alg", "kid", "typ"])
        equal((self._header["alg"], self._header["typ"]), (self._algorithm, "at+jwt"))

    def the_key_verifies_it(self):
        self._key = self._find_key()
        self._claims = self._decode(self._token)
        equal(sorted(self._claims), sorted(CLAIMS))
        equal((self._claims["sub"], self._claims["sid"]), ("alice", self._session))
        equal((self._claims["role"], self._claims["exp"] - self._claims["iat"]), ("user", 900))

    def a_changed_claim_is_noticed(self):
        header, _, signature = self._token.split(".")
        payload = jwt.encode(self._claims | {"role": "admin"}, None, algorithm="none").split(".")[1]
        forged = f"{header}.{payload}.{signature}"
        try:
            self._decode(forged)
        except jwt.InvalidSignatureError:
            pass
        else:
            raise AssertionError("a forged token was verified")
        self._refused(forged)

    def whatever_else_this_library_signs_the_gateway_refuses(self):
        names = {name: value for name, value in self._header.items() if name != "alg"}
        keys = [
            (None, "none"),
            ("a secret that nobody shares with us", "HS256"),
            (Ed25519PrivateKey.generate(), "EdDSA"),
        ]
        if self._algorithm == "EdDSA":
            keys.append((self._key.public_bytes_raw(), "HS256"))
        for key, algorithm in keys:
            self._refused(jwt.encode(self._claims, key, algorithm=algorithm, headers=names))

    def the_gateway_takes_its_own(self):
        equal(self._client(self._token).call("users.get", username="me")["user"]["username"], "alice")

    def _find_key(self) -> Any:
        published = f"{self._url}/.well-known/jwks.json"
        if self._algorithm == "EdDSA":
            return jwt.PyJWKClient(published).get_signing_key_from_jwt(self._token).key
        equal(httpx.get(published).json(), {"keys": []})
        return Path(os.environ["DOORWARD_DATA_DIR"], "jwt.secret").read_text().strip()

    def _decode(self, token: str) -> dict:
        options = {"require": CLAIMS}
        return jwt.decode(
            token, self._key, algorithms=[self._algorithm], issuer="doorward", audience="doorward", options=options
        )

    def _client(self, token: str) -> PostClient:
        client = PostClient(self._url)
        client.sign_in({"tokens": {"access_token": token}})
        return client

    def _refused(self, token: str) -> None:
        refused(1003, lambda: self._client(token).call("users.get", username="me"))


def main() -> int:
    return steps.main(Tokens(*sys.argv[1:]))


if __name__ == "__main__":
    sys.exit(main())
