//! Revocation on every node: each of its causes closes the sockets and kills the tokens within a second.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{access, judged, log_in, refresh, until};
use crate::support::{PASSWORD, TestClient, TestGateway, bound};

/// What is promised.
const SOON: Duration = Duration::from_secs(1);

/// A way to end the session of `victim`, by another session of hers or by an admin.
type Cause = (&'static str, &'static str, fn(&str, &Value) -> Value, (&'static str, u16));

const ENDED: (&str, u16) = ("session_ended", 4503);

/// Who, which method, its params for a name and a session, and what the sockets are told.
const CAUSES: [Cause; 9] = [
    ("own", "auth.logout", |_, _| json!({}), ENDED),
    ("other", "auth.logout", |_, _| json!({"scope": "others"}), ENDED),
    ("other", "auth.logout", |_, _| json!({"scope": "all"}), ENDED),
    ("admin", "auth.end_session", |_, session| json!({"session": session}), ENDED),
    (
        "other",
        "auth.change_password",
        |_, _| json!({"current_password": PASSWORD, "new_password": "another horse 8 battery"}),
        ENDED,
    ),
    (
        "admin",
        "users.set_password",
        |name, _| json!({"username": name, "new_password": "another horse 8 battery"}),
        ENDED,
    ),
    ("admin", "users.set_role", |name, _| json!({"username": name, "role": "admin"}), ("role_changed", 4503)),
    ("admin", "users.deactivate", |name, _| json!({"username": name}), ("account_deactivated", 4504)),
    ("admin", "users.erase", |name, _| json!({"username": name}), ("account_erased", 4504)),
];

/// A socket that follows the feed.
async fn subscribed(node: &TestGateway, token: &str) -> TestClient {
    let mut socket = node.socket().await;
    socket.call("auth.authenticate", json!({"access_token": token, "resume": [{}]})).await.unwrap();
    socket
}

/// A socket, a remembered token and a new one at each of the nodes are refused in time, and told why.
async fn expect_revoked(nodes: &[&TestGateway], sockets: Vec<TestClient>, token: &str, told: (&str, u16), cause: &str) {
    let began = Instant::now();
    for mut socket in sockets {
        assert_eq!(socket.revoked().await, (told.0.to_owned(), told.1), "{cause}");
    }
    for node in nodes {
        until(1004, async || judged(node, token).await).await;
    }
    let took = began.elapsed();
    assert!(took <= bound(SOON), "{cause} took {took:?}");
    eprintln!("{cause}: {} ms", took.as_millis());
}

#[tokio::test(flavor = "multi_thread")]
async fn s14_every_cause_of_revocation_reaches_every_node_within_a_second() {
    let first = TestGateway::start().await;
    let second = first.sibling().await;
    let nodes: Vec<&TestGateway> = std::iter::once(&first).chain(&second).collect();
    let admin = first.admin("keeper").await;
    for (at, (who, method, params, told)) in CAUSES.into_iter().enumerate() {
        let name = format!("alice{at}");
        first.logged_in(&name).await;
        let (own, other) = (log_in(&first, &name, "own").await, log_in(&first, &name, "other").await);
        let mut sockets = Vec::new();
        for node in &nodes {
            sockets.push(subscribed(node, access(&own)).await);
            assert_eq!(judged(node, access(&own)).await, 0);
        }
        let token = match who {
            "own" => access(&own),
            "other" => access(&other),
            _ => &admin.token,
        };
        first.call(Some(token), method, params(&name, &own["session"]["id"])).await.unwrap();
        expect_revoked(&nodes, sockets, access(&own), told, method).await;
        assert_eq!(refresh(nodes[nodes.len() - 1], &own).await, Err(1004), "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s14_a_refresh_token_used_twice_ends_the_session_on_every_node() {
    let first = TestGateway::start().await;
    let second = first.sibling().await;
    let nodes: Vec<&TestGateway> = std::iter::once(&first).chain(&second).collect();
    first.logged_in("alice").await;
    let own = log_in(&first, "alice", "own").await;
    let mut sockets = Vec::new();
    for node in &nodes {
        sockets.push(subscribed(node, access(&own)).await);
    }
    let next = refresh(&first, &own).await.unwrap();
    refresh(&first, &next).await.unwrap();
    assert_eq!(refresh(&first, &own).await, Err(1004));
    expect_revoked(&nodes, sockets, access(&own), ENDED, "reuse").await;
}

#[tokio::test]
async fn s14_tokens_of_a_changed_password_are_good_on_every_node_at_once() {
    let first = TestGateway::start().await;
    let second = first.sibling().await;
    let last = second.as_ref().unwrap_or(&first);
    let own = first.socket().await.register("alice").await;
    assert_eq!(judged(last, access(&own)).await, 0);
    let change = json!({"current_password": PASSWORD, "new_password": "another horse 8 battery"});
    let changed = first.call(Some(access(&own)), "auth.change_password", change).await.unwrap();
    assert_eq!(judged(last, access(&changed)).await, 0);
    assert_eq!(judged(last, access(&own)).await, 1004, "the new token has told of the change");
}

#[tokio::test(flavor = "multi_thread")]
async fn s14_no_change_that_is_made_after_a_revocation_is_told_to_the_revoked_on_any_node() {
    let first = TestGateway::start().await;
    let second = first.sibling().await;
    let last = second.as_ref().unwrap_or(&first);
    let mut admin = first.admin("keeper").await;
    for (at, (who, method, params, (reason, _))) in CAUSES.into_iter().enumerate().skip(2) {
        let name = format!("alice{at}");
        first.logged_in(&name).await;
        let (own, other) = (log_in(&first, &name, "own").await, log_in(&first, &name, "other").await);
        let (mut revoked, mut healthy) = (subscribed(last, access(&own)).await, subscribed(last, &admin.token).await);
        let token = if who == "other" { access(&other) } else { &admin.token };
        first.call(Some(token), method, params(&name, &own["session"]["id"])).await.unwrap();
        let began = Instant::now();
        let told = tokio::spawn(async move {
            let mut seen = Vec::new();
            while let Some(frame) = revoked.frame().await {
                seen.push(frame);
            }
            seen
        });
        let mut number = 0;
        let late = loop {
            // Beside other tests the revocation may need longer, but the change must come after the end of the socket.
            let is_late = began.elapsed() > SOON && (told.is_finished() || began.elapsed() > bound(SOON));
            let bio = json!({"username": "me", "patch": {"bio": format!("{number} after {method}")}});
            let user = admin.call("users.update", bio).await.unwrap()["user"].take();
            number += 1;
            if is_late {
                break user;
            }
        };
        // Everyone else is told of the last one there.
        while healthy.notification("users.changed").await["user"]["bio"] != late["bio"] {}
        let seen = told.await.unwrap();
        let [before @ .., told] = &seen[..] else { panic!("{method}: not even told") };
        assert_eq!((&told["method"], &told["params"]["reason"]), (&json!("auth.revoked"), &json!(reason)), "{method}");
        assert!(before.iter().all(|frame| frame["params"]["user"]["bio"] != late["bio"]), "{method}");
    }
}
