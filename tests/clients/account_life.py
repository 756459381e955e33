"""The whole life of an account, from registration to erasure, over one carrier.

    account_life.py websockets|httpx URL GATEWAY

Each step is a sentence; they build on each other, in order. GATEWAY is the program whose `admin create` makes the admin
while the gateway at URL runs.
"""

import re
import subprocess
import sys
from collections.abc import Callable

import steps
from rpc import PostClient, SocketClient, refused
from steps import equal, members

PUBLIC = "username display_name bio avatar_url attributes status role created_at updated_at rev".split()
FULL = [*PUBLIC, "email", "last_change"]
SESSION = "id device address user_agent created_at last_seen_at current sockets".split()
TOKENS = "access_token token_type expires_in refresh_token refresh_expires_in".split()
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

ALICE = "plenty of tea at four"
BOB = "seven bricks and a spade"
BOB_LATER = "a spade but no bricks"
CAROL = "keys on a heavy ring"
OTHER = "whatever the weather"

Client = SocketClient | PostClient


class AccountLife:
    def __init__(self, connect: Callable[[], Client], gateway: str):
        self._connect = connect
        self._gateway = gateway

    def the_gateway_tells_what_it_is_to_anyone(self):
        info = self._anyone("system.info")
        assert {"version", "protocol", "node", "limits", "features"} <= set(info), info
        assert self._anyone("system.ping"), "a ping tells the server's time"

    def nobody_calls_a_users_method_before_signing_in(self):
        equal(refused(1001, lambda: self._anyone("users.list")).data["kind"], "unauthenticated")
        refused(1001, lambda: self._anyone("users.get", username="me"))
        refused(1001, lambda: self._anyone("users.erase", username="alice"))

    def an_unknown_method_is_not_found(self):
        equal(refused(-32601, lambda: self._anyone("users.burn")).data["kind"], "unknown_method")

    def registering_signs_in(self):
        self._alice = self._connect()
        answer = self._alice.call(
            "auth.register", username="alice", email="Alice@Example.org", password=ALICE, device="laptop"
        )
        members(answer, "user", "session", "tokens")
        members(answer["user"], *FULL)
        members(answer["session"], *SESSION)
        members(answer["tokens"], *TOKENS)
        user, session, tokens = answer["user"], answer["session"], answer["tokens"]
        equal((user["username"], user["display_name"], user["email"]), ("alice", "alice", "Alice@Example.org"))
        equal((user["status"], user["role"], user["rev"]), ("active", "user", 1))
        equal((user["bio"], user["avatar_url"], user["attributes"]), ("", None, {}))
        equal((user["last_change"]["kind"], user["last_change"]["actor"]), ("created", "alice"))
        assert TIME.fullmatch(user["created_at"]), user["created_at"]
        equal((session["device"], session["current"]), ("laptop", True))
        equal((tokens["token_type"], tokens["expires_in"]), ("Bearer", 900))
        self._alice.sign_in(answer)
        equal(self._alice.call("users.get", username="me"), {"user": user})
        equal(self._alice.call("users.get", username="ALICE"), {"user": user})

    def a_name_and_an_address_are_given_once_ignoring_case(self):
        register = self._register
        error = refused(1202, lambda: register(username="ALICE", email="other@example.org"))
        equal((error.data["kind"], error.data["field"], error.data["retryable"]), ("already_exists", "username", False))
        error = refused(1202, lambda: register(username="another", email="aLICE@eXAMPLE.org"))
        equal(error.data["field"], "email")

    def a_weak_password_is_refused_with_its_reason(self):
        for password in ("short", "password123"):
            error = refused(1205, lambda password=password: self._register(password=password))
            equal((error.data["kind"], error.data["fields"][0]["path"]), ("weak_password", "password"))

    def wrong_params_are_refused_by_their_path(self):
        error = refused(-32602, lambda: self._register(username="-no-"))
        equal(([field["path"] for field in error.data["fields"]], error.data["kind"]), (["username"], "invalid_params"))
        members(error.data["fields"][0], "path", "rule", "message")
        refused(-32602, lambda: self._register(role="admin"))
        refused(-32602, lambda: self._alice.call("users.get"))
        refused(-32602, lambda: self._alice.call("users.get", username="no such name!"))
        refused(-32602, lambda: self._alice.call("users.get", username="alice", extra=1))

    def a_profile_is_patched_at_a_known_revision(self):
        patch = {"display_name": "Alice Liddéll", "bio": "down the\nhole", "attributes": {"team": ["blue", 7]}}
        user = self._alice.call("users.update", username="me", patch=patch, if_rev=1)["user"]
        equal({name: user[name] for name in patch}, patch)
        equal((user["rev"], user["last_change"]["kind"]), (2, "updated"))
        equal(sorted(user["last_change"]["fields"]), sorted(patch))
        equal(self._alice.call("users.get", username="me")["user"], user)
        user = self._alice.call("users.update", username="alice", patch={"bio": None, "attributes": None})["user"]
        equal((user["bio"], user["attributes"], user["rev"]), ("", {}, 3))

    def a_patch_of_a_replaced_revision_is_refused(self):
        stale = refused(1203, lambda: self._alice.call("users.update", username="me", patch={"bio": "x"}, if_rev=1))
        equal((stale.data["kind"], stale.data["current_rev"]), ("rev_conflict", 3))

    def a_patch_holds_only_what_may_be_changed(self):
        for patch in ({"avatar_url": "javascript:alert(1)"}, {"bio": "b" * 501}, {"display_name": "a\u0000b"}):
            error = refused(-32602, lambda patch=patch: self._update(patch))
            equal([field["path"] for field in error.data["fields"]], [f"patch.{next(iter(patch))}"])
        for patch in ({"role": "admin"}, {"username": "eve"}, {"rev": 9}, {"status": "active"}, {"password": "x"}):
            refused(-32602, lambda patch=patch: self._update(patch))
        refused(-32602, lambda: self._update({"attributes": {"a": "b" * 4096}}))
        equal(self._alice.call("users.get", username="me")["user"]["rev"], 3)

    def an_address_changes_only_with_the_password(self):
        patch = {"email": "alice@example.com"}
        missing = refused(-32602, lambda: self._update(patch))
        equal([field["path"] for field in missing.data["fields"]], ["current_password"])
        refused(1005, lambda: self._update(patch, current_password="not the password"))
        equal(self._update(patch, current_password=ALICE)["user"]["email"], "alice@example.com")

    def others_see_the_public_form_only(self):
        self._bob = self._connect()
        self._bob.sign_in(self._bob.call("auth.register", username="bob", email="bob@example.org", password=BOB))
        members(self._bob.call("users.get", username="alice")["user"], *PUBLIC)
        members(self._bob.call("users.get", username="me")["user"], *FULL)
        answer = self._bob.call("users.get_many", usernames=["alice", "nobody", "bob"])
        members(answer, "users", "missing")
        equal({user["username"]: "email" in user for user in answer["users"]}, {"alice": False, "bob": True})
        equal(answer["missing"], ["nobody"])
        refused(-32602, lambda: self._bob.call("users.get_many", usernames=["alice"] * 101))
        equal(refused(1201, lambda: self._bob.call("users.get", username="nobody")).data["kind"], "not_found")

    def a_user_may_change_nobody_else(self):
        forbidden = {
            "users.update": {"username": "alice", "patch": {"bio": "hacked"}},
            "users.deactivate": {"username": "alice"},
            "users.reactivate": {"username": "bob"},
            "users.set_role": {"username": "bob", "role": "admin"},
            "users.set_password": {"username": "alice", "new_password": OTHER},
            "users.erase": {"username": "bob"},
            "users.find_by_email": {"email": "alice@example.com"},
            "users.create": {"username": "eve", "email": "eve@example.org", "password": OTHER},
        }
        for method, params in forbidden.items():
            error = refused(1101, lambda method=method, params=params: self._bob.call(method, **params))
            equal((error.data["kind"], error.data["retryable"]), ("forbidden", False))

    def private_fields_cannot_be_asked_about(self):
        by_email = {"email": {"prefix": "alice"}}
        refused(1404, lambda: self._bob.call("users.list", filter=by_email))
        refused(1404, lambda: self._bob.call("users.search", text="alice", filter={"not": by_email}))
        refused(1404, lambda: self._bob.call("users.list", sort="email"))

    def a_search_forgives_a_typo(self):
        answer = self._bob.call("users.search", text="alixe lidd")
        members(answer, "hits", "next_cursor", "count")
        equal([hit["user"]["username"] for hit in answer["hits"]], ["alice"])
        members(answer["hits"][0], "user", "score", "highlights")
        members(answer["hits"][0]["user"], *PUBLIC)
        equal((answer["count"], answer["next_cursor"]), (1, None))
        equal(self._bob.call("users.search", text="alixe", fuzzy=False)["hits"], [])
        equal(len(self._bob.call("users.search", text="LIDDELL", fuzzy=False)["hits"]), 1)
        equal(self._bob.call("users.search", text="alice@example.com", fuzzy=False)["hits"], [])

    def a_login_takes_the_name_or_the_address(self):
        for login in ("alice", "ALICE", "Alice@Example.com"):
            client = self._connect()
            answer = client.call("auth.login", login=login, password=ALICE)
            members(answer, "user", "session", "tokens")
            equal(answer["user"]["username"], "alice")
            client.sign_in(answer)
            equal(client.call("users.get", username="me")["user"], answer["user"])
            client.close()

    def a_wrong_password_and_an_unknown_name_are_one_answer(self):
        errors = [
            refused(1005, lambda login=login: self._anyone("auth.login", login=login, password="wrong word"))
            for login in ("alice", "nobody", "nobody@example.org")
        ]
        known, *unknown = [(error.message, error.data | {"request_id": ""}) for error in errors]
        assert all(answer == known for answer in unknown), f"an oracle: {known} {unknown}"

    def an_admin_is_made_beside_the_running_gateway(self):
        command = [self._gateway, "admin", "create", "carol", "--email", "carol@example.org", "--password-stdin"]
        subprocess.run(command, input=CAROL + "\n", text=True, check=True, timeout=30)
        self._carol = self._connect()
        user = self._carol.sign_in(self._carol.call("auth.login", login="carol", password=CAROL))["user"]
        equal((user["role"], user["last_change"]["actor"]), ("admin", None))

    def an_admin_creates_users(self):
        for number in range(5):
            name = f"list.{number}"
            person = {"username": name, "email": f"{name}@example.org", "password": OTHER}
            user = self._carol.call("users.create", **person)["user"]
            members(user, *FULL)
            equal((user["role"], user["last_change"]["actor"]), ("user", "carol"))
        refused(1202, lambda: self._carol.call("users.create", **person))
        weak = {"username": "list.5", "email": "list.5@example.org", "password": "list"}
        refused(1205, lambda: self._carol.call("users.create", **weak))

    def lists_are_filtered_sorted_and_paged(self):
        query = {"filter": {"username": {"prefix": "LIST."}}, "sort": "-username", "limit": 2}
        first = self._alice.call("users.list", **query)
        members(first, "users", "next_cursor", "position")
        names, cursor = [user["username"] for user in first["users"]], first["next_cursor"]
        while cursor:
            page = self._alice.call("users.list", **query, count="exact", cursor=cursor)
            members(page, "users", "next_cursor", "position", "count")
            equal(page["count"], 5)
            names += [user["username"] for user in page["users"]]
            cursor = page["next_cursor"]
        equal(names, ["list.4", "list.3", "list.2", "list.1", "list.0"])
        cursor = first["next_cursor"]
        refused(1401, lambda: self._alice.call("users.list", **query | {"sort": "username"}, cursor=cursor))
        refused(
            1401,
            lambda: self._alice.call(
                "users.list", **query | {"filter": {"username": {"prefix": "lis"}}}, cursor=cursor
            ),
        )
        refused(1401, lambda: self._carol.call("users.list", **query, cursor=cursor))  # another caller's rights
        refused(1401, lambda: self._alice.call("users.list", **query, cursor=cursor[:-1] + "~"))
        refused(-32602, lambda: self._alice.call("users.list", limit=201))
        refused(-32602, lambda: self._alice.call("users.list", sort="rev"))

    def a_filter_is_a_closed_tree(self):
        tree = {"role": {"eq": "user"}, "or": [{"username": {"prefix": "al"}}, {"not": {"rev": {"lte": 99}}}]}
        equal([user["username"] for user in self._alice.call("users.list", filter=tree)["users"]], ["alice"])
        for broken in ({"rev": {"gt": "x"}}, {"nope": {"eq": 1}}, {"rev": {"near": 1}}, {"or": {}}, []):
            error = refused(-32602, lambda broken=broken: self._alice.call("users.list", filter=broken))
            assert error.data["fields"][0]["path"].startswith("filter"), error

    def only_an_admin_finds_by_address(self):
        equal(self._carol.call("users.find_by_email", email="ALICE@example.com")["user"]["username"], "alice")
        refused(1201, lambda: self._carol.call("users.find_by_email", email="Alice@Example.org"))  # given up before
        (user,) = self._carol.call("users.list", filter={"email": {"eq": "bob@example.org"}})["users"]
        members(user, *FULL)

    def a_session_goes_on_by_its_refresh_token_until_one_is_used_again(self):
        first = self._anyone("auth.login", login="list.1", password=OTHER)["tokens"]
        second = self._refresh(first)
        equal(self._refresh(first)["refresh_token"], second["refresh_token"])  # the answer may have been lost
        third = self._refresh(second)
        refused(1004, lambda: self._refresh(first))
        refused(1004, lambda: self._refresh(third))
        refused(1003, lambda: self._anyone("auth.refresh", refresh_token="x"))

    def a_session_is_seen_and_ended(self):
        listed = self._connect()
        answer = listed.call("auth.login", login="list.2", password=OTHER, device="a tablet")
        listed.sign_in(answer)
        sessions = listed.call("auth.sessions")["sessions"]
        (own,) = [session for session in sessions if session["current"]]
        equal((own["id"], own["device"]), (answer["session"]["id"], "a tablet"))
        equal(own["sockets"], self._sockets(1))
        equal([s["id"] for s in self._carol.call("auth.sessions", username="list.2")["sessions"]][-1], own["id"])
        refused(1101, lambda: listed.call("auth.sessions", username="carol"))
        ended = self._carol.call("auth.end_session", session=own["id"])
        equal(ended, {"sessions_ended": 1, "sockets_closed": self._sockets(1)})
        listed.signed_out(4503)

    def a_user_changes_their_own_password(self):
        listed, other = self._connect(), self._connect()
        for client in (listed, other):
            client.sign_in(client.call("auth.login", login="list.3", password=OTHER))
        wrong = {"current_password": "not the password", "new_password": BOB_LATER}
        refused(1005, lambda: listed.call("auth.change_password", **wrong))
        changed = listed.call("auth.change_password", current_password=OTHER, new_password=BOB_LATER)
        assert changed["sessions_ended"] >= 1, changed
        members(changed["tokens"], *TOKENS)
        other.signed_out(4503)
        listed.sign_in(changed)
        equal(listed.call("auth.logout"), {"sessions_ended": 1, "sockets_closed": self._sockets(1)})
        listed.signed_out(4503)

    def a_new_role_ends_the_sessions_of_the_old_one(self):
        listed = self._connect()
        listed.sign_in(listed.call("auth.login", login="list.0", password=OTHER))
        user = self._carol.call("users.set_role", username="list.0", role="admin", if_rev=1)["user"]
        equal((user["role"], user["rev"], user["last_change"]["kind"]), ("admin", 2, "role_changed"))
        listed.signed_out(4503)
        refused(1203, lambda: self._carol.call("users.set_role", username="list.0", role="user", if_rev=1))
        equal(self._carol.call("users.set_role", username="list.0", role="user")["user"]["role"], "user")

    def the_last_admin_stays(self):
        for method, params in {
            "users.set_role": {"role": "user"},
            "users.deactivate": {},
            "users.erase": {},
        }.items():
            error = refused(
                1102, lambda method=method, params=params: self._carol.call(method, username="carol", **params)
            )
            equal(error.data["kind"], "last_admin")

    def a_deactivated_user_is_out_at_once(self):
        sessions = len(self._carol.call("auth.sessions", username="bob")["sessions"])
        answer = self._carol.call("users.deactivate", username="bob", reason="spam")
        members(answer, "user", "sessions_ended", "sockets_closed")
        equal((answer["user"]["status"], answer["user"]["last_change"]["reason"]), ("deactivated", "spam"))
        equal((answer["sessions_ended"], answer["sockets_closed"]), (sessions, self._sockets(1)))
        self._bob.signed_out(4504)
        refused(1005, lambda: self._anyone("auth.login", login="bob", password=BOB))
        equal(self._alice.call("users.get", username="bob")["user"]["status"], "deactivated")

    def a_reactivated_user_signs_in_again(self):
        equal(self._carol.call("users.reactivate", username="bob")["user"]["status"], "active")
        self._bob = self._connect()
        self._bob.sign_in(self._bob.call("auth.login", login="bob", password=BOB))

    def an_admin_sets_a_password(self):
        answer = self._carol.call("users.set_password", username="bob", new_password=BOB_LATER)
        equal(answer, {"sessions_ended": 1})
        self._bob.signed_out(4503)
        refused(1005, lambda: self._anyone("auth.login", login="bob", password=BOB))
        self._bob = self._connect()
        self._bob.sign_in(self._bob.call("auth.login", login="bob", password=BOB_LATER))

    def an_erased_user_leaves_only_the_name(self):
        self._bob.call("users.update", username="me", patch={"display_name": "Robert", "bio": "builder"})
        equal(self._carol.call("users.erase", username="bob"), {})
        self._bob.signed_out(4504)
        user = self._carol.call("users.get", username="bob")["user"]
        equal((user["username"], user["status"], user["last_change"]["kind"]), ("bob", "erased", "erased"))
        equal((user["email"], user["bio"], user["attributes"], user["avatar_url"]), (None, "", {}, None))
        assert user["display_name"] != "Robert", user
        equal(refused(1202, lambda: self._register(username="Bob")).data["field"], "username")
        refused(1005, lambda: self._anyone("auth.login", login="bob", password=BOB_LATER))
        equal(self._alice.call("users.search", text="robert", fuzzy=False)["hits"], [])

    def a_user_deactivates_their_own_account(self):
        user = self._alice.call("users.deactivate", username="me")["user"]
        equal((user["status"], user["last_change"]["actor"]), ("deactivated", "alice"))
        self._alice.signed_out(4504)
        refused(1005, lambda: self._anyone("auth.login", login="alice", password=ALICE))

    def _anyone(self, method: str, **params: str) -> dict:
        """A call of somebody who is not signed in."""
        client = self._connect()
        try:
            return client.call(method, **params)
        finally:
            client.close()

    def _register(self, **changes: str) -> dict:
        person = {"username": "eve", "email": "eve@example.org", "password": OTHER}
        return self._anyone("auth.register", **person | changes)

    def _update(self, patch: dict, **beside: str) -> dict:
        return self._alice.call("users.update", username="me", patch=patch, **beside)

    def _refresh(self, tokens: dict) -> dict:
        return self._anyone("auth.refresh", refresh_token=tokens["refresh_token"])["tokens"]

    def _sockets(self, count: int) -> int:
        """How many sockets `count` clients of this carrier hold."""
        return count if self._alice.carrier == "websockets" else 0


def main() -> int:
    carrier, url, gateway = sys.argv[1:]
    client = {"websockets": SocketClient, "httpx": PostClient}[carrier]
    return steps.main(AccountLife(lambda: client(url), gateway))


if __name__ == "__main__":
    sys.exit(main())
