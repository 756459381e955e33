//! `auth.*`: accounts, logins, and whose socket it is.

use std::sync::Arc;
use std::time::Duration;

use doorward::auth::password::Password;
use doorward::permission::Method;
use doorward::store::PasswordChange;
use doorward::users::Username;
use doorward::users::rules::{self, Act};
use serde_json::{Value, json};

use crate::support::{Failure, PASSWORD, TestClient, TestGateway};

#[tokio::test]
async fn a_registered_user_is_signed_in_and_sees_all_of_themself() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.socket().await;
    let params = json!({"username": "Alice", "email": "Alice@Example.com", "password": PASSWORD,
        "display_name": "Alice A.", "device": "a phone"});
    let signed_in = alice.call("auth.register", params).await.unwrap();
    let user = &signed_in["user"];
    for (field, value) in [
        ("username", json!("Alice")),
        ("email", json!("Alice@Example.com")),
        ("display_name", json!("Alice A.")),
        ("bio", json!("")),
        ("avatar_url", Value::Null),
        ("attributes", json!({})),
        ("status", json!("active")),
        ("role", json!("user")),
        ("rev", json!(1)),
    ] {
        assert_eq!(user[field], value, "{field}");
    }
    assert_eq!((&user["last_change"]["kind"], &user["last_change"]["actor"]), (&json!("created"), &json!("Alice")));
    assert_eq!((&signed_in["session"]["device"], &signed_in["session"]["current"]), (&json!("a phone"), &json!(true)));
    assert_eq!(
        (&signed_in["tokens"]["token_type"], &signed_in["tokens"]["expires_in"]),
        (&json!("Bearer"), &json!(900))
    );
    let me = alice.call("users.get", json!({"username": "me"})).await.unwrap();
    assert_eq!(me["user"], *user);
    let by_token =
        gateway.call(signed_in["tokens"]["access_token"].as_str(), "users.get", json!({"username": "alice"}));
    assert_eq!(by_token.await.unwrap()["user"], *user);
}

#[tokio::test]
async fn times_are_utc_with_milliseconds() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    let user = alice.call("users.get", json!({"username": "me"})).await.unwrap()["user"].clone();
    let ping = alice.call("system.ping", json!({})).await.unwrap();
    for time in [&user["created_at"], &user["updated_at"], &user["last_change"]["at"], &ping["time"]] {
        let text = time.as_str().unwrap();
        assert!(text.len() == 24 && text.ends_with('Z') && text.as_bytes()[19] == b'.', "{text}");
        assert!(doorward::clock::Time::parse(text).is_some());
    }
}

#[tokio::test]
async fn a_taken_name_or_address_is_told_apart() {
    let gateway = TestGateway::start().await;
    gateway.logged_in("alice").await;
    for (username, email, field) in [("ALICE", "new@example.com", "username"), ("bob", "ALICE@example.com", "email")] {
        let params = json!({"username": username, "email": email, "password": PASSWORD});
        let failure = gateway.call(None, "auth.register", params).await.unwrap_err();
        assert_eq!((failure.code, &failure.data["field"]), (1202, &json!(field)));
    }
}

#[tokio::test]
async fn everything_wrong_with_a_registration_is_told_at_once() {
    let gateway = TestGateway::start().await;
    let params = json!({"username": "-", "email": "nowhere", "password": PASSWORD, "display_name": "a\u{7}b"});
    let failure = gateway.call(None, "auth.register", params).await.unwrap_err();
    let paths: Vec<_> = failure.data["fields"].as_array().unwrap().iter().map(|field| field["path"].clone()).collect();
    assert_eq!((failure.code, json!(paths)), (-32602, json!(["username", "email", "display_name"])));
    for name in ["me", "ME", "admin", "rpc", "users", "Console"] {
        let params = json!({"username": name, "email": "a@example.com", "password": PASSWORD});
        let failure = gateway.call(None, "auth.register", params).await.unwrap_err();
        assert!(failure.code == -32602, "{name} was taken: {failure:?}");
    }
}

#[tokio::test]
async fn s01_a_weak_password_is_refused_with_its_reason() {
    let gateway = TestGateway::start().await;
    for (password, rule) in [
        ("7 chars", "length"),
        ("password1", "common"),
        ("alice.in.wonder", "own_name"),
        ("aaaaaaaaaaaa", "guessable"),
        (&"long and good ".repeat(10), "length"),
    ] {
        let params = json!({"username": "alice.in.wonder", "email": "alice@example.com", "password": password});
        let failure = gateway.call(None, "auth.register", params).await.unwrap_err();
        let field = &failure.data["fields"][0];
        assert_eq!(
            (failure.code, &field["path"], &field["rule"]),
            (1205, &json!("password"), &json!(rule)),
            "{failure:?}"
        );
        assert!(!format!("{failure:?}").contains(password), "the password is not repeated");
    }
}

#[tokio::test]
async fn s06_unknown_wrong_and_deactivated_answer_alike() {
    let gateway = TestGateway::start().await;
    gateway.logged_in("alice").await;
    let mut bob = gateway.logged_in("bob").await;
    bob.call("users.deactivate", json!({"username": "me"})).await.unwrap();
    let mut seen = Vec::new();
    for (login, password) in [
        ("alice", "a wrong one for alice"),
        ("nobody", PASSWORD),
        ("nobody@example.com", PASSWORD),
        ("no name at all", PASSWORD),
        ("bob", PASSWORD),
        ("bob@example.com", PASSWORD),
    ] {
        let failure =
            gateway.call(None, "auth.login", json!({"login": login, "password": password})).await.unwrap_err();
        seen.push((failure.code, failure.message, failure.data["kind"].clone(), failure.data["retryable"].clone()));
    }
    seen.dedup();
    assert_eq!((seen.len(), seen[0].0), (1, 1005), "{seen:?}");
}

#[tokio::test]
async fn s02_a_password_is_normalised_and_nothing_else() {
    let gateway = TestGateway::start().await;
    let composed = "caf\u{e9} au lait 9 batterie";
    let params = json!({"username": "alice", "email": "alice@example.com", "password": composed});
    gateway.call(None, "auth.register", params).await.unwrap();
    let log_in = async |password: &str| {
        let outcome = gateway.call(None, "auth.login", json!({"login": "alice", "password": password})).await;
        outcome.map(|_| ()).map_err(|failure| failure.code)
    };
    assert_eq!(log_in("cafe\u{301} au lait 9 batterie").await, Ok(()));
    assert_eq!(log_in("Caf\u{e9} au lait 9 batterie").await, Err(1005));
    assert_eq!(log_in("caf\u{e9} au lait 9 batterie ").await, Err(1005));
}

#[tokio::test]
async fn a_socket_belongs_to_one_user_for_good() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    let bob = gateway.logged_in("bob").await;
    for (method, params) in [
        ("auth.authenticate", json!({"access_token": bob.token})),
        ("auth.login", json!({"login": "bob", "password": PASSWORD})),
        ("auth.register", json!({"username": "carol", "email": "carol@example.com", "password": PASSWORD})),
    ] {
        let failure = alice.call(method, params).await.unwrap_err();
        assert_eq!((failure.code, &failure.data["kind"]), (1007, &json!("other_identity")), "{method}");
    }
    let me = alice.call("users.get", json!({"username": "me"})).await.unwrap();
    assert_eq!(me["user"]["username"], "alice");
    // The refused registration has left nothing behind.
    assert_eq!(alice.call("users.get", json!({"username": "carol"})).await.unwrap_err().code, 1201);
    // The same user may sign in again, by any way and over HTTP as anyone.
    alice.call("auth.authenticate", json!({"access_token": alice.token.clone()})).await.unwrap();
    alice.login("alice").await;
    let login = json!({"login": "bob", "password": PASSWORD});
    gateway.call(Some(&alice.token), "auth.login", login).await.unwrap();
}

#[tokio::test]
async fn authenticating_is_for_sockets() {
    let gateway = TestGateway::start().await;
    let alice = gateway.logged_in("alice").await;
    let params = json!({"access_token": alice.token});
    let failure = gateway.call(None, "auth.authenticate", params.clone()).await.unwrap_err();
    assert_eq!((failure.code, &failure.data["reason"]), (-32601, &json!("websocket_only")));
    let mut socket = gateway.socket().await;
    let signed_in = socket.call("auth.authenticate", params).await.unwrap();
    assert_eq!(signed_in["user"]["username"], "alice");
    assert!(signed_in["expires_at"].is_string() && signed_in["session"]["id"].is_string());
}

#[tokio::test]
async fn what_anyone_may_call_is_not_stopped_by_an_authorization_that_is_not_good() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.socket().await;
    let signed_in = alice.register("alice").await;
    gateway.clock.advance(Duration::from_secs(3600));
    let expired = format!("Bearer {}", alice.token);
    let foreign = format!("{expired}x");
    let http = reqwest::Client::new();
    for (number, (authorization, code)) in
        [(expired.as_str(), 1002), (&foreign, 1003), ("Bearer", 1003), ("Basic YWxpY2U6c2VjcmV0", 1003)]
            .into_iter()
            .enumerate()
    {
        let ask = async |method: &str, path: &str, body: Value| {
            let request = http.request(method.parse().unwrap(), format!("http://{}{path}", gateway.address));
            let request = if body.is_null() { request } else { request.json(&body) };
            let response = request.header("authorization", authorization).send().await.unwrap();
            let asks = response.headers().get("www-authenticate").map(|value| value.to_str().unwrap().to_owned());
            (response.status().as_u16(), asks.unwrap_or_default(), response.json::<Value>().await.unwrap_or_default())
        };
        let call = |id: u8, method: &str, params: Value| json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        let login = json!({"login": "alice", "password": PASSWORD});
        let newcomer =
            |name: &str| json!({"username": name, "email": format!("{name}@example.com"), "password": PASSWORD});
        for (method, params) in [
            ("system.ping", json!({})),
            ("system.info", json!({})),
            ("auth.refresh", json!({"refresh_token": signed_in["tokens"]["refresh_token"]})),
            ("auth.login", login.clone()),
            ("auth.register", newcomer(&format!("rpc-{number}"))),
        ] {
            let (status, _, reply) = ask("POST", "/rpc", call(1, method, params)).await;
            assert_eq!((status, reply.get("error")), (200, None), "{method} with {authorization}");
            if method == "auth.refresh" {
                // Good once, and for the next ten seconds.
                assert!(reply["result"]["tokens"]["access_token"].is_string());
            }
        }
        assert_eq!(ask("POST", "/auth/login", login).await.0, 200, "{authorization}");
        assert_eq!(ask("POST", "/auth/register", newcomer(&format!("rest-{number}"))).await.0, 201, "{authorization}");
        // A call that cannot be read is told so.
        assert_eq!(ask("POST", "/auth/login", json!({})).await.2["code"], -32602);

        // Where it is needed, it is refused by what is wrong with it.
        let told = r#"Bearer error="invalid_token""#;
        let me = json!({"username": "me"});
        let (status, asks, reply) = ask("POST", "/rpc", call(7, "users.get", me.clone())).await;
        assert_eq!((status, asks.as_str()), (401, told), "{authorization}: {reply}");
        assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!(7), &json!(code)), "{authorization}");
        let batch = json!([call(1, "system.ping", json!({})), call(2, "users.get", me)]);
        let (status, asks, replies) = ask("POST", "/rpc", batch).await;
        assert_eq!((status, asks.as_str(), &replies[1]["error"]["code"]), (401, told, &json!(code)), "{replies}");
        assert!(replies[0]["result"]["time"].is_string(), "{replies}");
        for (method, path, body) in [
            ("GET", "/users/me", Value::Null),
            ("GET", "/users?limit=x", Value::Null),
            ("PATCH", "/users/me", json!({"bio": "x"})),
            ("PATCH", "/users/me", json!([])),
            ("DELETE", "/users/me", Value::Null),
            ("PATCH", "/admin/users/alice", json!({"role": "admin"})),
        ] {
            let (status, asks, problem) = ask(method, path, body).await;
            assert_eq!((status, asks.as_str(), &problem["code"]), (401, told, &json!(code)), "{method} {path}");
        }
    }
    // Without a token nothing is wrong with it.
    for (method, path, body) in
        [("GET", "/users/me", None), ("POST", "/auth/login", Some(json!({"login": "alice", "password": "wrong one"})))]
    {
        let response = gateway.rest(method, path, None, body.map(|body| body.to_string().into())).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["www-authenticate"]),
            (401, &"Bearer".parse().unwrap())
        );
    }
    let (status, body) = gateway.post(None, r#"{"jsonrpc":"2.0","id":1,"method":"users.list"}"#).await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &body["error"]["code"], &body["id"]), (200, &json!(1001), &json!(1)));
}

#[tokio::test]
async fn blanks_around_a_login_are_ignored() {
    let gateway = TestGateway::start().await;
    gateway.logged_in("alice").await;
    for login in [" alice", "alice ", "\talice\r\n", " Alice@example.com ", "\u{a0}alice\u{3000}"] {
        let signed_in = gateway.call(None, "auth.login", json!({"login": login, "password": PASSWORD})).await.unwrap();
        assert_eq!(signed_in["user"]["username"], "alice", "{login:?}");
    }
    for login in ["al ice", "alice @example.com", " ", ""] {
        let failure =
            gateway.call(None, "auth.login", json!({"login": login, "password": PASSWORD})).await.unwrap_err();
        assert_eq!(failure.code, 1005, "{login:?}");
    }
}

#[tokio::test]
async fn s09_a_login_is_counted_as_one_name_whatever_blanks_are_around_it() {
    let gateway = TestGateway::with(|config| config.throttle.failures = 2).await;
    let mut codes = Vec::new();
    for login in ["bob", " bob", "bob\t"] {
        let wrong = json!({"login": login, "password": "a wrong one"});
        codes.push(gateway.call(None, "auth.login", wrong).await.unwrap_err().code);
    }
    assert_eq!(codes, [1005, 1005, 1302]);
}

#[tokio::test]
async fn s18_before_sign_in_only_these_methods_can_be_called() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.socket().await;
    for method in Method::ALL {
        let open = ["auth.register", "auth.login", "auth.authenticate", "auth.refresh"].contains(&method.name())
            || method.name().starts_with("system.");
        let outcome = client.call(method.name(), json!({})).await;
        let refused = outcome.is_err_and(|failure| failure.code == 1001);
        assert_eq!(refused, !open, "{}", method.name());
    }
}

#[tokio::test]
async fn s24_every_error_says_its_kind_whether_to_retry_and_its_request() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    let mut requests = Vec::new();
    for (method, params) in [
        ("no.such", json!({})),
        ("users.get", json!({})),
        ("users.get", json!({"username": "nobody"})),
        ("users.erase", json!({"username": "me"})),
        ("users.list", json!({"cursor": "x"})),
        ("users.list", json!({"sort": "email"})),
        ("users.update", json!({"username": "me", "patch": {}, "if_rev": 9})),
    ] {
        let failure = alice.call(method, params).await.unwrap_err();
        assert!(failure.data["kind"].is_string() && failure.data["retryable"] == false, "{failure:?}");
        assert!(failure.message.ends_with('.'), "{failure:?}");
        let told = format!("{failure:?}").to_lowercase();
        for inside in ["sqlite", "panicked", "src/", ".rs", "rusqlite", "serde", "data/"] {
            assert!(!told.contains(inside), "{told}");
        }
        requests.push(failure.data["request_id"].as_str().unwrap().to_owned());
    }
    let all = requests.len();
    requests.sort();
    requests.dedup();
    assert_eq!(requests.len(), all, "each call has a request id of its own");
}

/// A gateway whose one hashing thread takes its time, with a signed-in admin, and an account "alice".
async fn slow_to_hash() -> (TestGateway, TestClient) {
    let gateway = TestGateway::with(|config| (config.bcrypt_cost, config.hash_threads) = (11, 1)).await;
    let keeper = gateway.admin("keeper").await;
    gateway.logged_in("alice").await;
    (gateway, keeper)
}

/// Has alice log in twice, and something done while one password is hashed and the other waits.
async fn logging_in_meanwhile(gateway: &TestGateway, done: impl Future<Output = ()>) -> [Result<Value, Failure>; 2] {
    let login = || gateway.call(None, "auth.login", json!({"login": "alice", "password": PASSWORD}));
    let meanwhile = async {
        while gateway.server().app().rpc.context.hasher.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        done.await;
    };
    let (first, second, ()) = tokio::join!(login(), login(), meanwhile);
    [first, second]
}

#[tokio::test]
async fn a_login_goes_on_with_the_role_that_its_user_has_got_meanwhile() {
    let (gateway, mut keeper) = slow_to_hash().await;
    let promote = async {
        keeper.call("users.set_role", json!({"username": "alice", "role": "admin"})).await.unwrap();
    };
    for login in logging_in_meanwhile(&gateway, promote).await {
        let signed_in = login.unwrap();
        assert_eq!(signed_in["user"]["role"], "admin");
        let token = signed_in["tokens"]["access_token"].as_str().unwrap();
        gateway.call(Some(token), "auth.sessions", json!({"username": "keeper"})).await.unwrap();
    }
}

#[tokio::test]
async fn s14_a_login_with_what_was_the_password_when_it_began_is_refused() {
    let (gateway, _keeper) = slow_to_hash().await;
    let context = &gateway.server().app().rpc.context;
    let hash = context.hasher.hash(Password::parse("another horse 8 battery").unwrap()).await.unwrap();
    let replace = async {
        let alice = context.store.user_get(&Username::parse("alice").unwrap()).await.unwrap().unwrap();
        let act = Act { actor: None, at: gateway.clock.now(), reason: None };
        let next = rules::set_password(&alice, act);
        context.store.user_replace(next.clone(), PasswordChange::Set(hash)).await.unwrap();
        context.directory.apply(&Arc::new(next), None);
    };
    for login in logging_in_meanwhile(&gateway, replace).await {
        assert_eq!(login.unwrap_err().code, 1005);
    }
}

#[tokio::test]
async fn s18_an_account_that_was_made_on_a_socket_which_another_user_took_meanwhile_is_not_told_as_refused() {
    let gateway = TestGateway::with(|config| (config.bcrypt_cost, config.hash_threads) = (12, 1)).await;
    let bob = gateway.logged_in("bob").await;
    let mut socket = gateway.socket().await;
    let alice = json!({"username": "alice", "email": "alice@example.com", "password": PASSWORD});
    socket.send(json!({"jsonrpc": "2.0", "id": "slow", "method": "auth.register", "params": alice}).to_string()).await;
    let authenticate = json!({"jsonrpc": "2.0", "id": 1, "method": "auth.authenticate", "params":
        {"access_token": bob.token}});
    let reply: Value = serde_json::from_str(&socket.exchange(authenticate.to_string()).await).unwrap();
    assert_eq!((&reply["id"], &reply["result"]["user"]["username"]), (&json!(1), &json!("bob")), "{reply}");
    let reply: Value = serde_json::from_str(&socket.text().await).unwrap();
    assert_eq!((&reply["id"], &reply["error"]["code"]), (&json!("slow"), &json!(1503)), "{reply}");
    gateway.call(None, "auth.login", json!({"login": "alice", "password": PASSWORD})).await.unwrap();
}
