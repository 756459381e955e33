//! R5: a snapshot and the feed behind it have no seam.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::history::{Held, Watched};
use crate::support::{TestClient, TestGateway, count};

const USERS: usize = 24;
const WRITERS: usize = 3;

/// Every user, as an admin is shown them.
pub async fn everyone(admin: &mut TestClient) -> Vec<Value> {
    let page = admin.call("users.list", json!({"limit": 200})).await.unwrap();
    assert!(page["next_cursor"].is_null(), "a small fixture");
    page["users"].as_array().unwrap().clone()
}

/// A change that moves users into and out of every filter.
pub fn random_change() -> (&'static str, Value) {
    let username = format!("user{}", rand::random_range(0..USERS));
    match rand::random_range(0..10) {
        0 => ("users.deactivate", json!({"username": username})),
        1 => ("users.reactivate", json!({"username": username})),
        2 => ("users.set_role", json!({"username": username, "role": "admin"})),
        3 => ("users.set_role", json!({"username": username, "role": "user"})),
        4 => {
            let email = format!("{username}.{}@example.com", rand::random::<u32>());
            ("users.update", json!({"username": username, "patch": {"email": email}}))
        }
        kind => {
            let name = format!("{}{}", if kind % 2 == 0 { "x" } else { "y" }, rand::random::<u32>());
            ("users.update", json!({"username": username, "patch": {"display_name": name}}))
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r05_the_feed_applied_to_its_snapshot_is_the_stores_exact_state() {
    let rounds = count(60, 1000);
    let gateway = Arc::new(TestGateway::start().await);
    let mut admin = gateway.admin("keeper").await;
    for number in 0..USERS {
        gateway.logged_in(&format!("user{number}")).await;
    }
    let filters = Watched::all();
    let mut told = 0;
    for round in 0..rounds {
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = JoinSet::new();
        for _ in 0..WRITERS {
            let mut writer = gateway.socket().await;
            writer.call("auth.authenticate", json!({"access_token": admin.token})).await.unwrap();
            let stop = stop.clone();
            writers.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let (method, params) = random_change();
                    writer.call(method, params).await.unwrap();
                }
            });
        }
        let watched = &filters[round % filters.len()];
        let limit = if round % 2 == 0 { 200 } else { 5 };
        let mut held = Held::default();
        let mut reader = gateway.socket().await;
        reader.call("auth.authenticate", json!({"access_token": admin.token})).await.unwrap();
        let params = json!({"filter": watched.filter, "snapshot": {"sort": "-updated_at", "limit": limit}});
        let subscribed = reader.call("users.subscribe", params).await.unwrap();
        held.add(&subscribed["snapshot"]["users"]);
        let mut cursor = subscribed["snapshot"]["next_cursor"].clone();
        while !cursor.is_null() {
            let params = json!({"filter": watched.filter, "sort": "-updated_at", "limit": limit, "cursor": cursor});
            let page = reader.call("users.list", params).await.unwrap();
            held.add(&page["users"]);
            cursor = page["next_cursor"].clone();
        }
        for _ in 0..10 {
            told += usize::from(held.apply(&reader.notification("users.changed").await));
        }
        stop.store(true, Ordering::Relaxed);
        while let Some(ended) = writers.join_next().await {
            ended.unwrap();
        }
        let users = everyone(&mut admin).await;
        while held.users() != watched.expected(&users) {
            let params = reader.notification("users.changed").await;
            assert_eq!(watched.fault(&params), None, "round {round}");
            told += usize::from(held.apply(&params));
        }
    }
    eprintln!("{rounds} snapshots with concurrent writes, {told} changes applied to them");
}

#[tokio::test]
async fn r05_a_page_has_whatever_was_changed_before_its_position_also_at_another_gateway() {
    let first = TestGateway::start().await;
    let second = first.sibling().await;
    let other = second.as_ref().unwrap_or(&first);
    let mut alice = first.logged_in("alice").await;
    let mut reader = other.socket().await;
    for round in 0..20 {
        let patch = json!({"username": "me", "patch": {"bio": format!("{round}")}});
        let changed = alice.call("users.update", patch).await.unwrap();
        let page = if round % 2 == 0 {
            other.call(Some(&alice.token), "users.list", json!({})).await.unwrap()
        } else {
            let subscribe = json!({"access_token": alice.token, "resume": [{"snapshot": {}}]});
            let authenticated = reader.call("auth.authenticate", subscribe).await.unwrap();
            authenticated["subscriptions"][0]["snapshot"].clone()
        };
        assert_eq!(page["users"][0]["rev"], changed["user"]["rev"], "round {round}: {page}");
    }
}
