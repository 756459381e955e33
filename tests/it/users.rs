//! `users.*` as callers meet it.

use serde_json::json;

use crate::support::TestGateway;

#[tokio::test]
async fn an_unknown_name_is_not_found() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    let error = alice.call("users.get", json!({"username": "nobody"})).await.unwrap_err();
    assert_eq!(error.code, 1201);
}

#[tokio::test]
async fn a_deactivated_user_is_told_and_closed() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    let mut root = gateway.admin("root_admin").await;
    let done = root.call("users.deactivate", json!({"username": "alice", "reason": "left"})).await.unwrap();
    assert_eq!((&done["sockets_closed"], &done["user"]["status"]), (&json!(1), &json!("deactivated")));
    assert_eq!(alice.notification("auth.revoked").await, json!({"reason": "account_deactivated"}));
    assert_eq!(alice.closed().await.0, 4504);
}
