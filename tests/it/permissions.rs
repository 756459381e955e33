//! Who may do and see what: the permission table against a running gateway.

use doorward::permission::{Caller, Field, Method, Target, Verdict, may_call, may_read, set_at_creation, set_by};
use serde_json::{Value, json};

use crate::support::{Failure, PASSWORD, TestClient, TestGateway};

/// A gateway with an admin who stays, so that no other is the last.
async fn with_admin() -> (TestGateway, TestClient) {
    let gateway = TestGateway::start().await;
    let admin = gateway.admin("keeper").await;
    (gateway, admin)
}

/// A fresh caller of a kind: the name, and the token unless anonymous.
async fn caller(gateway: &TestGateway, kind: Caller, name: &str) -> Option<String> {
    match kind {
        Caller::Anonymous => None,
        Caller::User => Some(gateway.logged_in(name).await.token),
        Caller::Admin => Some(gateway.admin(name).await.token),
    }
}

/// The outcome of a call as the table would say it.
fn verdict(outcome: &Result<Value, Failure>) -> Verdict {
    match outcome {
        Ok(_) => Verdict::Allowed,
        Err(failure) if failure.code == 1001 => Verdict::SignInFirst,
        Err(failure) if failure.code == 1101 && failure.message.contains("auth.change_password") => {
            Verdict::OwnPassword
        }
        Err(failure) if failure.code == 1101 => Verdict::Forbidden,
        Err(other) => panic!("neither allowed nor forbidden: {other:?}"),
    }
}

/// Good parameters of a method about `who`; `fresh` is a name that nobody has.
fn params(method: Method, who: &str, fresh: &str) -> Value {
    let email = format!("{fresh}@example.com");
    match method {
        Method::AuthRegister | Method::UsersCreate => json!({"username": fresh, "email": email, "password": PASSWORD}),
        Method::AuthLogin => json!({"login": "keeper", "password": PASSWORD}),
        Method::AuthAuthenticate | Method::SystemInfo | Method::SystemPing => json!({}),
        Method::UsersList | Method::UsersChanges | Method::UsersSubscribe | Method::AuthLogout => json!({}),
        Method::AuthRefresh => json!({"refresh_token": ""}),
        Method::AuthChangePassword => json!({"current_password": PASSWORD, "new_password": "another horse 8 battery"}),
        Method::AuthSessions => json!({"username": who}),
        // A session that nobody has is another's.
        Method::AuthEndSession => json!({"session": uuid::Uuid::nil()}),
        Method::UsersUnsubscribe => json!({"subscription": 1}),
        Method::UsersSearch => json!({"text": "keeper"}),
        Method::UsersFindByEmail => json!({"email": "keeper@example.com"}),
        Method::UsersGetMany => json!({"usernames": [who]}),
        Method::UsersGet | Method::UsersDeactivate | Method::UsersReactivate | Method::UsersErase => {
            json!({"username": who})
        }
        Method::UsersUpdate => json!({"username": who, "patch": {"bio": "changed"}}),
        Method::UsersSetRole => json!({"username": who, "role": "admin"}),
        Method::UsersSetPassword => json!({"username": who, "new_password": "another horse 8 battery"}),
    }
}

#[tokio::test]
async fn a01_every_cell_of_the_methods_table_is_what_the_gateway_does() {
    let (gateway, keeper) = with_admin().await;
    let mut cell = 0;
    for kind in Caller::ALL {
        for target in [Target::Oneself, Target::Another] {
            for &method in Method::ALL {
                cell += 1;
                let (own, other) = (format!("alice{cell}"), format!("bob{cell}"));
                let token = caller(&gateway, kind, &own).await;
                gateway.logged_in(&other).await;
                let who = if target == Target::Oneself { "me" } else { &other };
                let expected = match may_call(kind, method, Target::Nobody) {
                    Verdict::Allowed => may_call(kind, method, target),
                    refused => refused,
                };
                let outcome = match method {
                    Method::AuthAuthenticate => {
                        let mut socket = gateway.socket().await;
                        let token = token.unwrap_or(keeper.token.clone());
                        socket.call(method.name(), json!({"access_token": token})).await
                    }
                    Method::UsersSubscribe | Method::UsersUnsubscribe => {
                        let mut socket = gateway.socket().await;
                        if let Some(token) = token {
                            let resume = json!({"access_token": token, "resume": [{}]});
                            socket.call("auth.authenticate", resume).await.unwrap();
                        }
                        socket.call(method.name(), params(method, who, "")).await
                    }
                    Method::AuthEndSession if target == Target::Oneself && token.is_some() => {
                        let own = gateway.call(token.as_deref(), "auth.sessions", json!({})).await.unwrap();
                        let own = json!({"session": own["sessions"][0]["id"]});
                        gateway.call(token.as_deref(), method.name(), own).await
                    }
                    Method::AuthRefresh => {
                        let login = json!({"login": "keeper", "password": PASSWORD});
                        let login = gateway.call(None, "auth.login", login).await.unwrap();
                        let refresh = json!({"refresh_token": login["tokens"]["refresh_token"]});
                        gateway.call(token.as_deref(), method.name(), refresh).await
                    }
                    _ => {
                        let params = params(method, who, &format!("fresh{cell}"));
                        gateway.call(token.as_deref(), method.name(), params).await
                    }
                };
                assert_eq!(verdict(&outcome), expected, "{kind:?} calls {} on {target:?}", method.name());
            }
        }
    }
}

#[tokio::test]
async fn s15_an_admin_who_sets_passwords_needs_the_current_one_for_their_own() {
    let (gateway, _keeper) = with_admin().await;
    let token = gateway.admin("alice").await.token;
    for who in ["me", "alice", "ALICE"] {
        let params = json!({"username": who, "new_password": "another horse 8 battery"});
        let failure = gateway.call(Some(&token), "users.set_password", params).await.unwrap_err();
        assert_eq!((failure.code, &failure.data["kind"]), (1101, &json!("forbidden")), "{who}");
    }
    gateway.call(None, "auth.login", json!({"login": "alice", "password": PASSWORD})).await.unwrap();
}

#[tokio::test]
async fn a01_a_forbidden_call_says_nothing_about_who_exists() {
    let (gateway, _keeper) = with_admin().await;
    let alice = gateway.logged_in("alice").await;
    for method in [Method::UsersUpdate, Method::UsersDeactivate, Method::UsersErase, Method::UsersSetRole] {
        let of = async |who: &str| {
            let outcome = gateway.call(Some(&alice.token), method.name(), params(method, who, "")).await;
            let failure = outcome.unwrap_err();
            (failure.code, failure.message)
        };
        assert_eq!(of("keeper").await, of("nobody").await);
    }
}

#[tokio::test]
async fn a01_every_cell_of_the_fields_table_is_what_the_gateway_shows() {
    let (gateway, _keeper) = with_admin().await;
    gateway.logged_in("bob").await;
    for kind in Caller::ALL {
        let token = caller(&gateway, kind, &format!("{kind:?}-alice")).await;
        for (target, who) in [(Target::Oneself, "me"), (Target::Another, "bob")] {
            let outcome = gateway.call(token.as_deref(), "users.get", json!({"username": who})).await;
            let user = outcome.map(|result| result["user"].clone()).unwrap_or_default();
            for &field in Field::ALL {
                let shown = user.get(field.name()).is_some();
                assert_eq!(shown, may_read(kind, field, target), "{kind:?} reads {} of {target:?}", field.name());
            }
            let known = |name: &String| Field::ALL.iter().any(|field| field.name() == name);
            assert!(user.as_object().is_none_or(|user| user.keys().all(known)), "{user} has a field of no table");
        }
    }
}

/// Names that a curious client tries, beside those of the fields.
const TRIED: [&str; 24] = [
    "is_admin",
    "admin",
    "roles",
    "gen",
    "sid",
    "hash",
    "password_hash",
    "salt",
    "verified",
    "id",
    "_id",
    "uuid",
    "version",
    "_version",
    "actor",
    "at",
    "reason_code",
    "caller",
    "__proto__",
    "constructor",
    "$set",
    "displayName",
    "Role",
    "status ",
];

#[tokio::test]
async fn a02_no_writing_method_takes_a_field_that_is_not_its_own() {
    let (gateway, mut keeper) = with_admin().await;
    gateway.logged_in("bob").await;
    let names = Field::ALL.iter().map(|field| field.name()).chain(TRIED);
    let names: Vec<&str> = names.collect();
    let before = keeper.call("users.list", json!({})).await.unwrap()["position"].clone();
    for &method in Method::ALL.iter().filter(|method| method.writes()) {
        let good = params(method, "bob", "fresh");
        for &name in &names {
            let field = Field::ALL.iter().find(|field| field.name() == name);
            if good.get(name).is_some() || field.is_some_and(|&field| set_at_creation(method, field)) {
                continue;
            }
            for value in [json!("admin"), json!(1), json!(true), json!(null), json!({})] {
                let mut tried = good.clone();
                tried[name] = value;
                let failure = keeper.call(method.name(), tried).await.unwrap_err();
                let field = &failure.data["fields"][0];
                assert_eq!(
                    (failure.code, &field["rule"]),
                    (-32602, &json!("unknown_member")),
                    "{} {name}",
                    method.name()
                );
                assert_eq!(field["path"], name);
            }
        }
    }
    for &name in &names {
        let field = Field::ALL.iter().find(|field| field.name() == name);
        if field.is_some_and(|&field| set_by(field) == Some(Method::UsersUpdate)) {
            continue;
        }
        let tried = json!({"username": "bob", "patch": {"bio": "changed", name: "admin"}});
        let failure = keeper.call("users.update", tried).await.unwrap_err();
        assert_eq!((failure.code, &failure.data["fields"][0]["path"]), (-32602, &json!(format!("patch.{name}"))));
    }
    let after = keeper.call("users.list", json!({})).await.unwrap()["position"].clone();
    assert_eq!(before, after, "something was written");
    let bob = keeper.call("users.get", json!({"username": "bob"})).await.unwrap();
    assert_eq!((&bob["user"]["rev"], &bob["user"]["bio"]), (&json!(1), &json!("")));
}

#[tokio::test]
async fn a03_an_address_is_shown_to_its_owner_and_to_admins_only() {
    let (gateway, keeper) = with_admin().await;
    let mut alice = gateway.socket().await;
    let email = "canary.7f3a@secret.example";
    alice.call("auth.register", json!({"username": "alice", "email": email, "password": PASSWORD})).await.unwrap();
    let alice = gateway.call(None, "auth.login", json!({"login": email, "password": PASSWORD})).await.unwrap();
    let alice = alice["tokens"]["access_token"].as_str().unwrap().to_owned();
    let mut bob = gateway.logged_in("bob").await;

    let calls = [
        ("users.get", json!({"username": "alice"})),
        ("users.get_many", json!({"usernames": ["alice", "bob"]})),
        ("users.list", json!({})),
        ("users.list", json!({"filter": {"username": {"eq": "alice"}}, "count": "exact"})),
        ("users.search", json!({"text": "alice"})),
    ];
    for (method, params) in &calls {
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        for seen in [bob.exchange(call.as_str()).await, gateway.post(Some(&bob.token), call.clone()).await.1] {
            assert!(seen.contains("alice") && !seen.contains("canary") && !seen.contains("secret.example"), "{seen}");
        }
        for token in [&alice, &keeper.token] {
            let (_, seen) = gateway.post(Some(token), call.clone()).await;
            assert!(seen.contains(email), "{method} hides the address from its owner or an admin: {seen}");
        }
    }
    for path in ["/users/alice", "/users", "/users?q=alice", "/users?role=user"] {
        let seen = gateway.rest("GET", path, Some(&bob.token), None).await.text().await.unwrap();
        assert!(seen.contains("alice") && !seen.contains("canary"), "{path}: {seen}");
    }
    let errors = [
        ("users.create", json!({"username": "carol", "email": email, "password": PASSWORD})),
        ("users.find_by_email", json!({"email": email})),
        ("users.update", json!({"username": "alice", "patch": {"bio": ""}})),
        ("users.update", json!({"username": "me", "patch": {"email": email}, "current_password": PASSWORD})),
        ("users.search", json!({"text": "canary"})),
        ("users.search", json!({"text": email})),
    ];
    for (method, params) in errors {
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        let seen = bob.exchange(call).await;
        assert!(!seen.contains("alice") && !seen.contains("canary"), "{method}: {seen}");
    }
    let taken = json!({"username": "carol", "email": email.to_uppercase(), "password": PASSWORD});
    let failure = gateway.call(None, "auth.register", taken).await.unwrap_err();
    assert_eq!((failure.code, &failure.data["field"]), (1202, &json!("email")));
    assert!(!format!("{failure:?}").contains("alice"));
}

#[tokio::test]
async fn a03_nobody_but_an_admin_asks_for_users_by_their_address() {
    let (gateway, mut keeper) = with_admin().await;
    let mut bob = gateway.logged_in("bob").await;
    let tests = [
        json!({"email": {"eq": "keeper@example.com"}}),
        json!({"email": {"exists": true}}),
        json!({"not": {"email": {"prefix": "k"}}}),
        json!({"or": [{"role": {"eq": "user"}}, {"and": [{"email": {"in": ["keeper@example.com"]}}]}]}),
    ];
    for filter in tests {
        for (method, mut params) in [("users.list", json!({})), ("users.search", json!({"text": "keeper"}))] {
            params["filter"] = filter.clone();
            let failure = bob.call(method, params.clone()).await.unwrap_err();
            assert_eq!((failure.code, &failure.data["kind"]), (1404, &json!("filter_refused")), "{method} {filter}");
            let path = failure.data["fields"][0]["path"].as_str().unwrap();
            assert!(path.starts_with("filter") && path.contains("email"), "{path}");
            keeper.call(method, params).await.unwrap();
        }
    }
    for sort in ["email", "-email"] {
        assert_eq!(bob.call("users.list", json!({"sort": sort})).await.unwrap_err().code, 1404);
        assert_eq!(gateway.rest("GET", &format!("/users?sort={sort}"), Some(&bob.token), None).await.status(), 400);
    }
}

/// Spellings that a person takes for `alice`, none of which may become a second account.
fn look_alike_names() -> Vec<String> {
    let mut names: Vec<String> =
        ["ALICE", "Alice", "aLICE", "alicE", "AlIcE", "aLiCe", "ALIce", "aliCE", "AlicE", "alIce"]
            .map(str::to_owned)
            .to_vec();
    let hidden =
        ["\u{200b}", "\u{200c}", "\u{200d}", "\u{2060}", "\u{feff}", "\u{ad}", "\u{202e}", "\u{301}", "\0", "\t"];
    for hidden in hidden {
        names.push(format!("al{hidden}ice"));
        names.push(format!("alice{hidden}"));
    }
    names.extend([" alice", "alice ", "alice\u{a0}", "\u{3000}alice", "alice\n", "al ice"].map(str::to_owned));
    // Full width, mathematical, circled, Cyrillic, Greek, dotless, ligature, accented, enclosed.
    let others = [
        "ａｌｉｃｅ",
        "ａlice",
        "ALIＣE",
        "𝐚𝐥𝐢𝐜𝐞",
        "𝒶𝓁𝒾𝒸ℯ",
        "ⓐⓛⓘⓒⓔ",
        "аlice",
        "aliсe",
        "alicе",
        "αlice",
        "alıce",
        "alİce",
        "álice",
        "ªlice",
        "aliⅽe",
        "aⅼice",
        "alⅰce",
        "alice\u{2060}",
    ];
    names.extend(others.map(str::to_owned));
    names
}

/// The same for her address.
fn look_alike_addresses() -> Vec<String> {
    let cased = ["ALICE@example.com", "alice@EXAMPLE.com", "Alice@Example.Com", "alice@example.COM"];
    let broken = [
        " alice@example.com",
        "alice@example.com ",
        "alice@example.com.",
        "alice@example.com\n",
        "alice@ example.com",
        "alice @example.com",
        "\"alice\"@example.com",
        "<alice@example.com>",
        "alice@example.com\0",
        "alice@example。com",
        "ａｌｉｃｅ@example.com",
        "alice＠example.com",
        "alice@ｅｘａｍｐｌｅ.com",
        "alice@examp1e.com\u{200b}",
        "al\u{200b}ice@example.com",
        "alice@еxample.com",
        "alíce@example.com",
        "alice@example..com",
        "alice@@example.com",
        "alice(home)@example.com",
        "mailto:alice@example.com",
        "alice@[example.com]",
        "alice@example.com\t",
        "alice@-example.com",
        "\u{feff}alice@example.com",
        "alice%00@example.com\u{2028}",
    ];
    cased.into_iter().chain(broken).map(str::to_owned).collect()
}

#[tokio::test]
async fn a06_look_alike_spellings_give_one_account() {
    let (gateway, mut keeper) = with_admin().await;
    gateway.logged_in("alice").await;
    let (names, addresses) = (look_alike_names(), look_alike_addresses());
    assert!(names.len() + addresses.len() >= 60);
    for (number, name) in names.iter().enumerate() {
        let email = format!("other{number}@example.com");
        let params = json!({"username": name, "email": email, "password": PASSWORD});
        let failure = gateway.call(None, "auth.register", params).await.unwrap_err();
        match name.eq_ignore_ascii_case("alice") {
            true => assert_eq!((failure.code, &failure.data["field"]), (1202, &json!("username")), "{name:?}"),
            false => {
                assert_eq!((failure.code, &failure.data["fields"][0]["path"]), (-32602, &json!("username")), "{name:?}")
            }
        }
    }
    for (number, email) in addresses.iter().enumerate() {
        let params = json!({"username": format!("other{number}"), "email": email, "password": PASSWORD});
        let failure = gateway.call(None, "auth.register", params).await.unwrap_err();
        match email.eq_ignore_ascii_case("alice@example.com") {
            true => assert_eq!((failure.code, &failure.data["field"]), (1202, &json!("email")), "{email:?}"),
            false => {
                assert_eq!((failure.code, &failure.data["fields"][0]["path"]), (-32602, &json!("email")), "{email:?}")
            }
        }
    }
    let all = keeper.call("users.list", json!({"count": "exact"})).await.unwrap();
    assert_eq!(all["count"], 2, "{all}");
    for login in ["ALICE", "Alice@Example.Com"] {
        let outcome = gateway.call(None, "auth.login", json!({"login": login, "password": PASSWORD})).await.unwrap();
        assert_eq!(outcome["user"]["username"], "alice");
    }
}
