//! Revocation: a right that is taken away is gone at once, wherever its holder had been recognised before.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Indices, PASSWORD, TestGateway, bound};

/// The status of a REST request and the code of the error in its body, which is read whole: the connection is kept.
async fn asked(gateway: &TestGateway, method: &str, path: &str, token: &str, body: Value) -> (u16, Value) {
    let body = (!body.is_null()).then(|| body.to_string().into());
    let response = gateway.rest(method, path, Some(token), body).await;
    let (status, text) = (response.status().as_u16(), response.text().await.unwrap());
    (status, serde_json::from_str::<Value>(&text).unwrap_or_default()["code"].clone())
}

#[tokio::test]
async fn s14_the_first_socket_of_a_process_is_closed_by_http_without_waiting_for_its_calls() {
    const CALLS: usize = 20;
    let settings = |config: &mut doorward::config::Config| (config.bcrypt_cost, config.hash_threads) = (12, 1);
    let gateway = TestGateway::with(settings).await;
    let mut alice = gateway.logged_in("alice").await; // the first socket
    let admin = gateway.admin("keeper").await.token;
    let params = json!({"username": "me", "patch": {"email": "alice@example.com"}, "current_password": PASSWORD});
    for id in 0..CALLS {
        let slow = json!({"jsonrpc": "2.0", "id": id, "method": "users.update", "params": params});
        alice.send(slow.to_string()).await;
    }
    // The ping overtakes them: they are under way.
    alice.send(r#"{"jsonrpc":"2.0","id":"ping","method":"system.ping"}"#).await;
    let mut answered = 0;
    while !alice.text().await.contains(r#""id":"ping""#) {
        answered += 1;
    }
    assert_eq!(asked(&gateway, "DELETE", "/admin/users/alice", &admin, Value::Null).await, (204, Value::Null));
    loop {
        let frame: Value = serde_json::from_str(&alice.text().await).unwrap();
        if frame["method"] == "auth.revoked" {
            assert_eq!(frame["params"], json!({"reason": "account_deactivated"}));
            break;
        }
        answered += 1;
    }
    assert!(answered < CALLS, "she was closed only after her calls");
    assert_eq!(alice.closed().await, (4504, "account_deactivated".to_owned()));
}

#[tokio::test]
async fn s14_a_caller_remembered_on_a_connection_is_forgotten_when_revoked() {
    let gateway = TestGateway::start().await;
    let mut root = gateway.admin("keeper").await;
    // Demoted, promoted or deactivated: neither the former right nor the token is left. None of them has a socket.
    for (name, method, params) in [
        ("alice", "users.deactivate", json!({"username": "alice"})),
        ("bob", "users.set_role", json!({"username": "bob", "role": "admin"})),
        ("carol", "users.set_role", json!({"username": "carol", "role": "user"})),
        ("dave", "users.deactivate", json!({"username": "dave"})),
        ("erin", "users.erase", json!({"username": "erin"})),
    ] {
        let admin = ["carol", "dave"].contains(&name);
        let token = if admin { gateway.admin(name).await.token } else { gateway.logged_in(name).await.token };
        for _ in 0..2 {
            assert_eq!(asked(&gateway, "GET", "/users/me", &token, Value::Null).await.0, 200);
        }
        if admin {
            let bio = json!({"bio": format!("by {name}")});
            assert_eq!(asked(&gateway, "PATCH", "/admin/users/keeper", &token, bio).await.0, 200);
        }
        root.call(method, params).await.unwrap();
        let refused = (401, json!(1004));
        assert_eq!(asked(&gateway, "GET", "/users/me", &token, Value::Null).await, refused, "{name} {method}");
        let bio = json!({"bio": "by nobody"});
        assert_eq!(asked(&gateway, "PATCH", "/admin/users/keeper", &token, bio).await, refused, "{name} {method}");
        assert_eq!(gateway.call(Some(&token), "users.list", json!({})).await.unwrap_err().code, 1004);
    }
    let keeper = root.call("users.get", json!({"username": "me"})).await.unwrap();
    assert_eq!(keeper["user"]["bio"], "by dave");
}

#[tokio::test]
async fn s14_members_of_a_batch_that_start_after_the_revocation_of_their_caller_are_refused() {
    let gateway = TestGateway::with(|config| config.limits.calls_in_flight = 1).await;
    let _keeper = gateway.admin("keeper").await;
    let bob = json!({"username": "bob", "email": "bob@example.com", "password": PASSWORD, "role": "admin"});
    for (name, revoking) in [
        ("alice", json!({"method": "users.deactivate", "params": {"username": "me"}})),
        ("carol", json!({"method": "users.set_role", "params": {"username": "me", "role": "user"}})),
    ] {
        for by_socket in [false, true] {
            let name = format!("{name}-{by_socket}");
            let mut admin = gateway.admin(&name).await;
            let member = |id: u64, mut call: Value| {
                (call["jsonrpc"], call["id"]) = (json!("2.0"), json!(id));
                call
            };
            let batch = json!([
                member(0, revoking.clone()),
                member(1, json!({"method": "users.get", "params": {"username": "me"}})),
                member(2, json!({"method": "users.create", "params": bob})),
                member(3, json!({"method": "system.ping"})),
            ]);
            let replies = match by_socket {
                true => admin.exchange(batch.to_string()).await,
                false => gateway.post(Some(&admin.token), batch.to_string()).await.1,
            };
            let replies: Vec<Value> = serde_json::from_str(&replies).unwrap();
            let codes: Vec<_> = replies.iter().map(|reply| reply["error"]["code"].clone()).collect();
            assert_eq!(codes, [Value::Null, json!(1001), json!(1001), Value::Null], "{name}: {replies:?}");
        }
    }
}

#[tokio::test]
async fn s14_sockets_on_another_node_are_told_and_closed_within_a_second() {
    let indices = Indices::new();
    let (here, there) = (TestGateway::over(indices.config()).await, TestGateway::over(indices.config()).await);
    let mut root = here.admin("keeper").await;
    for (name, method, params, reason) in [
        ("alice", "users.set_role", json!({"username": "alice", "role": "admin"}), "role_changed"),
        ("bob", "users.deactivate", json!({"username": "bob"}), "account_deactivated"),
        ("carol", "users.erase", json!({"username": "carol"}), "account_erased"),
    ] {
        let mut socket = there.logged_in(name).await;
        socket.call("users.subscribe", json!({})).await.unwrap();
        root.call(method, params).await.unwrap();
        let revoked = Instant::now();
        assert_eq!(socket.notification("auth.revoked").await, json!({"reason": reason}));
        assert_eq!(socket.closed().await.1, reason);
        eprintln!("{name} was closed on the other node {:?} after the reply to {method}", revoked.elapsed());
        assert!(revoked.elapsed() < bound(Duration::from_secs(1)), "{method}: {:?}", revoked.elapsed());
        let refused = there.call(Some(&socket.token), "users.get", json!({"username": "me"})).await.unwrap_err();
        assert_eq!(refused.code, 1004);
    }
}
