//! Rights are judged when a change is told, not only when it was asked for.

use serde_json::json;

use super::change;
use crate::support::TestGateway;

#[tokio::test]
async fn s14_who_loses_a_right_is_told_nothing_later() {
    let gateway = TestGateway::start().await;
    let mut keeper = gateway.admin("keeper").await;
    let mut alice = gateway.logged_in("alice").await;
    for (name, method, params) in [
        ("carol", "users.set_role", json!({"username": "carol", "role": "user"})),
        ("dave", "users.deactivate", json!({"username": "dave"})),
        ("erin", "users.erase", json!({"username": "erin"})),
    ] {
        let mut admin = gateway.admin(name).await;
        let filter = json!({"email": {"exists": true}});
        admin.call("users.subscribe", json!({"filter": filter})).await.unwrap();
        let seen = change(&mut alice, name).await;
        assert_eq!(admin.notification("users.changed").await["user"]["rev"], seen);
        keeper.call(method, params).await.unwrap();
        change(&mut alice, "not for them").await;
        loop {
            let frame = admin.frame().await;
            let Some(frame) = frame else { break };
            assert!(!frame.to_string().contains("not for them"), "{name}: {frame}");
        }
    }
}

#[tokio::test]
async fn s14_who_is_deactivated_while_waiting_for_a_change_is_told_so_instead() {
    let gateway = TestGateway::start().await;
    let mut keeper = gateway.admin("keeper").await;
    let alice = gateway.logged_in("alice").await.token;
    let now = keeper.call("users.changes", json!({})).await.unwrap()["position"].clone();
    let waiting = gateway.call(Some(&alice), "users.changes", json!({"since": now, "wait_ms": 30_000}));
    let deactivate = async { drop(keeper.call("users.deactivate", json!({"username": "alice"})).await.unwrap()) };
    let (outcome, ()) = tokio::join!(waiting, deactivate);
    assert_eq!(outcome.unwrap_err().code, 1004);
}
