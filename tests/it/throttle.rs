//! Throttles, as clients meet them. Their numbers are shown by a clock in `auth::throttle`.
//!
//! Every test's gateway trusts the proxy that the tests pretend to be, so that clients come from addresses of their own.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{PASSWORD, PATIENCE, TestClient, TestGateway};

const WRONG: &str = "a wrong one for alice";

/// A gateway behind a proxy on this machine.
async fn proxied() -> TestGateway {
    TestGateway::with(|config| config.trusted_proxies = "127.0.0.1".parse().unwrap()).await
}

/// The same where waits begin with a minute: far longer than a test takes, so that only its clock ends them.
async fn proxied_with_waits() -> TestGateway {
    TestGateway::with(|config| {
        config.trusted_proxies = "127.0.0.1".parse().unwrap();
        config.throttle.delay = Duration::from_secs(60);
    })
    .await
}

/// A socket from an address.
async fn from(gateway: &TestGateway, address: &str) -> TestClient {
    TestClient::connect(gateway.address, &[("x-forwarded-for", address)]).await
}

/// The body of a login call.
fn login(name: &str, password: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "auth.login", "params": {"login": name, "password": password}})
}

/// One message over HTTP from an address.
async fn post(gateway: &TestGateway, address: &str, body: &Value) -> Value {
    let request = reqwest::Client::new().post(format!("http://{}/rpc", gateway.address));
    let response = request.header("x-forwarded-for", address).json(body).send().await.unwrap();
    response.json().await.unwrap()
}

fn codes(replies: &Value) -> Vec<i64> {
    replies.as_array().unwrap().iter().map(|reply| reply["error"]["code"].as_i64().unwrap_or_default()).collect()
}

#[tokio::test]
async fn s07_the_owner_gets_in_where_she_did_before_while_others_hammer_her_account() {
    let gateway = proxied_with_waits().await;
    from(&gateway, "192.0.2.1").await.register("alice").await;
    for number in 0..5 {
        let reply = post(&gateway, &format!("198.51.100.{number}"), &login("alice", WRONG)).await;
        assert_eq!(reply["error"]["code"], 1005);
    }
    let refused = post(&gateway, "203.0.113.1", &login("alice", PASSWORD)).await["error"].clone();
    assert_eq!((&refused["code"], &refused["data"]["kind"]), (&json!(1302), &json!("too_many_logins")));
    let wait = refused["data"]["retry_after_ms"].as_u64().unwrap();
    assert!((1..=60_000).contains(&wait), "{wait}");
    let mut alice = from(&gateway, "192.0.2.1").await;
    alice.login("alice").await;
    let by_address = json!({"login": "Alice@example.com", "password": PASSWORD});
    alice.call("auth.login", by_address).await.unwrap();

    gateway.clock.advance(Duration::from_millis(wait));
    from(&gateway, "203.0.113.1").await.login("alice").await;
}

#[tokio::test]
async fn s06_an_unknown_name_is_throttled_exactly_as_a_known_one() {
    let gateway = proxied_with_waits().await;
    from(&gateway, "192.0.2.1").await.register("alice").await;
    let mut seen = Vec::new();
    for (name, address) in [("alice", "192.0.2.2"), ("alicf", "192.0.2.3"), ("alice@example.com", "192.0.2.4")] {
        let mut replies = Vec::new();
        for _ in 0..12 {
            let mut reply = post(&gateway, address, &login(name, WRONG)).await["error"].clone();
            reply["data"]["request_id"].take();
            // In minutes: a wait is counted from the failure, a moment ago.
            let wait = reply["data"]["retry_after_ms"].take().as_u64().unwrap_or_default().div_ceil(60_000);
            gateway.clock.advance(Duration::from_secs(60 * wait));
            replies.push((reply, wait));
        }
        seen.push(replies);
    }
    assert_eq!(seen[0].iter().filter(|(reply, _)| reply["code"] == 1302).count(), 4, "{:?}", seen[0]);
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0], seen[2]);
}

#[tokio::test]
async fn s08_batches_sockets_and_requests_draw_on_one_budget() {
    let gateway = proxied().await;
    let mut socket = from(&gateway, "192.0.2.1").await;
    socket.register("alice").await;
    let mut other = from(&gateway, "192.0.2.1").await;
    let batch = |count: usize| Value::Array(vec![login("alice", WRONG); count]);
    let replies: Value = serde_json::from_str(&socket.exchange(batch(4).to_string()).await).unwrap();
    assert_eq!(codes(&replies), [1005; 4]);
    for _ in 0..3 {
        let params = json!({"login": "ALICE", "password": WRONG});
        assert_eq!(other.call("auth.login", params).await.unwrap_err().code, 1005);
    }
    // Three are left of ten.
    let mut last = codes(&post(&gateway, "192.0.2.1", &batch(50)).await);
    last.sort_unstable();
    assert_eq!(last, [vec![1005; 3], vec![1302; 47]].concat());
    let params = json!({"login": "alice", "password": PASSWORD});
    assert_eq!(other.call("auth.login", params).await.unwrap_err().code, 1302, "the right password too");

    // So does proving the password once more.
    let patch = json!({"username": "me", "patch": {"email": "a@example.com"}, "current_password": PASSWORD});
    assert_eq!(socket.call("users.update", patch).await.unwrap_err().code, 1302);
}

#[tokio::test]
async fn s15_who_guesses_the_current_password_in_a_session_is_throttled_as_at_login() {
    let gateway = proxied().await;
    let mut alice = from(&gateway, "192.0.2.1").await;
    alice.register("alice").await;
    let change = |current: &str| {
        let password = json!({"current_password": current, "new_password": "another horse 8 battery"});
        let patch = json!({"email": "new@example.com"});
        let address = json!({"username": "me", "patch": patch, "current_password": current});
        [("auth.change_password", password), ("users.update", address)]
    };
    for _ in 0..5 {
        for (method, params) in change(WRONG) {
            assert_eq!(alice.call(method, params).await.unwrap_err().code, 1005, "{method}");
        }
    }
    for (method, params) in change(PASSWORD) {
        let refused = alice.call(method, params).await.unwrap_err();
        assert_eq!((refused.code, &refused.data["kind"]), (1302, &json!("too_many_logins")), "{method}");
        let wait = refused.data["retry_after_ms"].as_u64().unwrap();
        assert!((880_000..=900_000).contains(&wait), "{wait}");
    }
    assert_eq!(post(&gateway, "192.0.2.1", &login("alice", PASSWORD)).await["error"]["code"], 1302);
    gateway.clock.advance(Duration::from_secs(15 * 60));
    let mut alice = from(&gateway, "192.0.2.1").await;
    alice.login("alice").await;
    let [_, (method, params)] = change(PASSWORD);
    alice.call(method, params).await.unwrap();
    let [(method, params), _] = change(PASSWORD);
    alice.call(method, params).await.unwrap();
}

#[tokio::test]
async fn s07_a_refused_login_over_rest_is_429_and_says_when_to_come_back() {
    let gateway = TestGateway::with(|config| config.throttle.failures = 1).await;
    gateway.logged_in("alice").await;
    let body = |password: &str| Some(json!({"login": "alice", "password": password}).to_string().into());
    assert_eq!(gateway.rest("POST", "/auth/login", None, body(WRONG)).await.status(), 401);
    let refused = gateway.rest("POST", "/auth/login", None, body(PASSWORD)).await;
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (429, &"900".parse().unwrap()));
    let problem: Value = serde_json::from_str(&refused.text().await.unwrap()).unwrap();
    assert_eq!((&problem["code"], &problem["retryable"]), (&json!(1302), &json!(true)));
    // As one call of perhaps many it is an error like any other.
    let (status, reply) = gateway.post(None, login("alice", PASSWORD).to_string()).await;
    let error = serde_json::from_str::<Value>(&reply).unwrap()["error"].take();
    assert_eq!((status, &error["code"]), (200, &json!(1302)));
    assert!(error["data"]["retry_after_ms"].as_u64().unwrap() > 890_000, "{error}");
}

#[tokio::test]
async fn s06_registrations_of_an_address_are_bounded_whatever_becomes_of_them() {
    let gateway = TestGateway::with(|config| config.throttle.registrations_per_address = 3).await;
    let register = |name: &str, password: &str| {
        let params = json!({"username": name, "email": format!("{name}@example.com"), "password": password});
        json!({"jsonrpc": "2.0", "id": 1, "method": "auth.register", "params": params})
    };
    let calls = [
        register("alice", PASSWORD),
        register("alice", PASSWORD),
        register("bob", "password1"),
        register("bob", PASSWORD),
    ];
    let mut seen = Vec::new();
    for call in &calls {
        let (_, body) = gateway.post(None, call.to_string()).await;
        seen.push(serde_json::from_str::<Value>(&body).unwrap()["error"]["code"].as_i64().unwrap_or_default());
    }
    assert_eq!(seen, [0, 1202, 1205, 1302]);
    gateway.clock.advance(Duration::from_secs(3600));
    assert!(gateway.post(None, calls[3].to_string()).await.1.contains("result"));
}

#[tokio::test]
async fn s07_a_login_whose_client_leaves_while_it_is_hashed_counts_under_the_address() {
    let gateway = TestGateway::with(|config| {
        (config.bcrypt_cost, config.throttle.failures_per_address) = (12, 1);
    })
    .await;
    let mut leaver = gateway.socket().await;
    leaver.send(login("alice", WRONG).to_string()).await;
    // The ping overtakes it: it is under way.
    leaver.send(r#"{"jsonrpc":"2.0","id":"ping","method":"system.ping"}"#).await;
    assert!(leaver.text().await.contains("ping"));
    drop(leaver);
    let refused = async {
        loop {
            let login = json!({"login": "bob", "password": WRONG});
            let failure = gateway.call(None, "auth.login", login).await.unwrap_err();
            assert_eq!(failure.code, 1302);
            // Until the gateway knows that the client has left, the attempt is one under way.
            if failure.data["retry_after_ms"].as_u64().unwrap() > 1_000 {
                return failure.data["retry_after_ms"].as_u64().unwrap();
            }
        }
    };
    let wait = tokio::time::timeout(PATIENCE, refused).await.expect("it is counted");
    assert!((86_000_000..=86_400_000).contains(&wait), "{wait}");
}
