//! `auth.change_password`, and what else needs the current password.

use serde_json::{Value, json};

use super::{access, devices, judged, log_in, refresh, registered};
use crate::support::{PASSWORD, TestGateway};

const NEW: &str = "another horse 8 battery";

fn change(current: &str, new: &str) -> Value {
    json!({"current_password": current, "new_password": new})
}

#[tokio::test]
async fn s15_a_change_of_the_password_ends_all_but_the_callers_session() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.socket().await;
    let own = alice.register("alice").await;
    let other = log_in(&gateway, "alice", "another").await;
    let mut others = gateway.socket().await;
    others.call("auth.authenticate", json!({"access_token": access(&other)})).await.unwrap();

    let changed = alice.call("auth.change_password", change(PASSWORD, NEW)).await.unwrap();
    assert_eq!(changed["sessions_ended"], 1);
    assert_eq!(others.revoked().await, ("session_ended".to_owned(), 4503));
    // The socket goes on, and so does the session with its new tokens; all the former ones are dead.
    alice.call("users.get", json!({"username": "me"})).await.unwrap();
    for former in [&own, &other] {
        assert_eq!(judged(&gateway, access(former)).await, 1004);
    }
    assert_eq!(judged(&gateway, access(&changed)).await, 0);
    assert_eq!(refresh(&gateway, &other).await, Err(1004));
    assert_eq!(judged(&gateway, access(&refresh(&gateway, &changed).await.unwrap())).await, 0);
    assert_eq!(devices(&gateway, access(&changed)).await, [""]);

    let login = |password| json!({"login": "alice", "password": password});
    assert_eq!(gateway.call(None, "auth.login", login(PASSWORD)).await.unwrap_err().code, 1005);
    gateway.call(None, "auth.login", login(NEW)).await.unwrap();
}

#[tokio::test]
async fn s15_the_refresh_token_of_before_is_no_predecessor_of_the_new_one() {
    let gateway = TestGateway::start().await;
    let own = gateway.socket().await.register("alice").await;
    let changed = gateway.call(Some(access(&own)), "auth.change_password", change(PASSWORD, NEW)).await.unwrap();
    assert_eq!(judged(&gateway, access(&own)).await, 1004, "also on the connection that made the change");
    assert_eq!(refresh(&gateway, &own).await, Err(1004));
    assert_eq!(refresh(&gateway, &changed).await, Err(1004), "whoever had the old one, it ended the session");
}

#[tokio::test]
async fn s15_other_sessions_are_kept_when_asked_for() {
    let gateway = TestGateway::start().await;
    let mut alice = registered(&gateway, "alice").await;
    let other = log_in(&gateway, "alice", "another").await;
    let mut params = change(PASSWORD, NEW);
    params["keep_other_sessions"] = json!(true);
    let changed = alice.call("auth.change_password", params).await.unwrap();
    assert_eq!(changed["sessions_ended"], 0);
    for tokens in [&other, &changed] {
        assert_eq!(judged(&gateway, access(tokens)).await, 0);
        refresh(&gateway, tokens).await.unwrap();
    }
    assert_eq!(devices(&gateway, &alice.token).await, ["", "another"]);
}

#[tokio::test]
async fn s15_the_current_password_is_needed_for_a_new_password_or_address() {
    let gateway = TestGateway::start().await;
    let mut alice = registered(&gateway, "alice").await;
    let other = log_in(&gateway, "alice", "another").await;
    let address =
        |current: Value| json!({"username": "me", "patch": {"email": "new@example.com"}, "current_password": current});
    for (method, params, code) in [
        ("auth.change_password", change("not hers at all", NEW), 1005),
        ("auth.change_password", change(PASSWORD, "password1"), 1205),
        ("auth.change_password", change(PASSWORD, "short"), 1205),
        ("users.update", address(json!("not hers at all")), 1005),
        ("users.update", address(Value::Null), -32602),
    ] {
        let failure = alice.call(method, params).await.unwrap_err();
        assert_eq!(failure.code, code, "{method}: {failure:?}");
    }
    assert_eq!(judged(&gateway, access(&other)).await, 0, "what was refused has ended nothing");
    alice.call("users.update", address(json!(PASSWORD))).await.unwrap();
}

#[tokio::test]
async fn of_changes_at_once_with_one_password_one_is_made() {
    let gateway = TestGateway::start().await;
    let mut sockets = vec![registered(&gateway, "alice").await];
    for _ in 0..3 {
        let mut socket = gateway.socket().await;
        socket.login("alice").await;
        sockets.push(socket);
    }
    let changes = sockets.iter().enumerate().map(async |(at, socket)| {
        let params = change(PASSWORD, &format!("{NEW} {at}"));
        gateway.call(Some(&socket.token), "auth.change_password", params).await.map_err(|failure| failure.code)
    });
    let changes = futures_util::future::join_all(changes).await;
    let made: Vec<usize> = (0..changes.len()).filter(|&at| changes[at].is_ok()).collect();
    assert_eq!(made.len(), 1, "{changes:?}");
    assert!(changes.iter().all(|change| matches!(change, Ok(_) | Err(1004 | 1005))), "{changes:?}");
    let login = json!({"login": "alice", "password": format!("{NEW} {}", made[0])});
    gateway.call(None, "auth.login", login).await.unwrap();
}
