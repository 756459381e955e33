//! What `/readyz` says of each index.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Indices, PASSWORD, PATIENCE, TestGateway};

const KINDS: [&str; 4] = ["users", "emails", "sessions", "state"];

/// The status of `/readyz`, and what is failing.
async fn readiness(gateway: &TestGateway) -> (u16, Value) {
    let answer = gateway.rest("GET", "/readyz", None, None).await;
    let status = answer.status().as_u16();
    (status, answer.json::<Value>().await.unwrap()["failing"].clone())
}

/// Asks until this is failing, and nothing else.
async fn fails(gateway: &TestGateway, failing: Value, why: &str) {
    let expected = (if failing == json!([]) { 200 } else { 503 }, failing);
    let mut last = (0, Value::Null);
    let asked = async {
        while last != expected {
            last = readiness(gateway).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let told = tokio::time::timeout(PATIENCE, asked).await;
    assert!(told.is_ok(), "{why}: {last:?} and not {expected:?}");
}

async fn gateway_over(indices: &Indices) -> TestGateway {
    let gateway = TestGateway::over(indices.config()).await;
    gateway.logged_in("alice").await;
    fails(&gateway, json!([]), "before anything happens").await;
    gateway
}

#[tokio::test]
async fn readiness_names_each_index_that_is_closed_or_read_only() {
    let indices = Indices::new();
    let gateway = gateway_over(&indices).await;
    for kind in KINDS {
        let (index, part) = (indices.first(kind), json!([format!("store.{kind}")]));
        indices.ask("POST", &format!("{index}/_close"), Value::Null).await;
        fails(&gateway, part.clone(), "closed").await;
        indices.ask("POST", &format!("{index}/_open"), Value::Null).await;
        fails(&gateway, json!([]), "opened").await;
        for block in ["index.blocks.read_only", "index.blocks.read_only_allow_delete"] {
            let set = async |value: Value| {
                indices.ask("PUT", &format!("{index}/_settings"), json!({block: value})).await;
            };
            set(json!(true)).await;
            fails(&gateway, part.clone(), block).await;
            set(Value::Null).await;
            fails(&gateway, json!([]), "writable").await;
        }
    }
}

#[tokio::test]
async fn readiness_names_each_index_that_is_missing_and_none_is_made_anew() {
    let indices = Indices::new();
    let gateway = gateway_over(&indices).await;
    let alice = gateway.call(None, "auth.login", json!({"login": "alice", "password": PASSWORD})).await.unwrap();
    let token = alice["tokens"]["access_token"].as_str().unwrap().to_owned();
    let (mut missing, mut left) = (Vec::new(), indices.names().await);
    // Of the last one alone nobody could say what else there was.
    for kind in ["sessions", "emails", "state"] {
        indices.ask("DELETE", &indices.first(kind), Value::Null).await;
        missing.push(format!("store.{kind}"));
        left.retain(|name| *name != indices.first(kind));
        let failing: Vec<String> = ["emails", "sessions", "state"].map(|kind| format!("store.{kind}")).into();
        let failing: Vec<_> = failing.into_iter().filter(|part| missing.contains(part)).collect();
        fails(&gateway, json!(failing), "deleted").await;
        // Whatever is called now makes no index.
        let register = json!({"username": "bob", "email": "bob@example.com", "password": PASSWORD});
        assert!(gateway.call(None, "auth.register", register).await.is_err());
        let patch = json!({"username": "me", "patch": {"bio": kind}});
        let _ = gateway.call(Some(&token), "users.update", patch).await;
        let _ = gateway.call(None, "auth.login", json!({"login": "alice", "password": PASSWORD})).await;
        let _ = gateway.call(Some(&token), "auth.logout", json!({})).await;
        assert_eq!(indices.names().await, left, "after {kind} was deleted");
    }
}

#[tokio::test]
async fn an_index_of_users_deleted_under_a_gateway_is_not_made_anew_by_its_writes() {
    let indices = Indices::new();
    let gateway = gateway_over(&indices).await;
    let mut alice = gateway.socket().await;
    alice.login("alice").await;
    // Read and to be written next: no look at the alias comes between.
    let update = json!({"username": "me", "patch": {"bio": "changed"}});
    alice.call("users.update", update.clone()).await.unwrap();
    indices.ask("DELETE", &indices.first("users"), Value::Null).await;
    fails(&gateway, json!(["store.users"]), "deleted").await;
    assert!(alice.call("users.update", update).await.is_err());
    let _ = gateway.call(None, "auth.login", json!({"login": "alice", "password": PASSWORD})).await;
    let left = ["emails", "sessions", "state"].map(|kind| indices.first(kind));
    assert_eq!(indices.names().await, left);
}

#[tokio::test]
async fn a_short_hold_of_writes_is_no_failure_and_a_lasting_one_is() {
    let indices = Indices::new();
    let gateway = gateway_over(&indices).await;
    let hold = format!("{}/_block/write", indices.first("users"));
    indices.ask("PUT", &hold, Value::Null).await;
    // Older than the answer that is remembered.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(readiness(&gateway).await, (200, json!([])));
    fails(&gateway, json!(["store.users"]), "held").await;
    let settings = format!("{}/_settings", indices.first("users"));
    indices.ask("PUT", &settings, json!({"index.blocks.write": null})).await;
    fails(&gateway, json!([]), "released").await;
}
