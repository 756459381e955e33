//! R13: whoever sets the system's clock changes neither order nor waits nor who is let in.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::support::{PASSWORD, TestClient, TestGateway};

/// Ten minutes ahead, ten behind, right again; in milliseconds.
const STEPS: [i64; 3] = [600_000, -1_200_000, 600_000];

#[tokio::test]
async fn r13_steps_of_the_systems_clock_change_neither_order_nor_throttles_nor_sockets() {
    let wait = Duration::from_secs(300);
    let gateway = TestGateway::with(|config| {
        config.trusted_proxies = "127.0.0.1".parse().unwrap();
        (config.throttle.failures_in_a_row, config.throttle.delay) = (2, wait);
    })
    .await;
    let (mut alice, mut watcher) = (gateway.logged_in("alice").await, gateway.logged_in("bob").await);
    let stranger = async || {
        let mut stranger = TestClient::connect(gateway.address, &[("x-forwarded-for", "192.0.2.9")]).await;
        stranger.call("auth.login", json!({"login": "alice", "password": "a wrong one for alice"})).await.unwrap_err()
    };
    for _ in 0..2 {
        assert_eq!(stranger().await.code, 1005);
    }
    watcher.call("users.subscribe", json!({})).await.unwrap();
    let start = watcher.call("users.changes", json!({})).await.unwrap()["position"].clone();
    let mut revs = Vec::new();
    for step in STEPS {
        gateway.clock.step(step);
        let refused = stranger().await;
        let left = refused.data["retry_after_ms"].as_u64().unwrap();
        assert_eq!(refused.code, 1302, "stepped by {step} ms");
        // What a busy machine may take for all of this has passed, and no step.
        assert!((wait - Duration::from_secs(60)..=wait).contains(&Duration::from_millis(left)), "{left}");
        for change in 0..3 {
            let patch = json!({"bio": format!("{step} {change}")});
            let user =
                alice.call("users.update", json!({"username": "me", "patch": patch})).await.unwrap()["user"].clone();
            assert_eq!(watcher.notification("users.changed").await["user"]["rev"], user["rev"]);
            revs.push(user["rev"].clone());
        }
        // Who knows the password gets in where she did before, and a refresh goes on.
        let login = json!({"login": "alice", "password": PASSWORD});
        let tokens = gateway.call(None, "auth.login", login).await.unwrap()["tokens"].clone();
        gateway.call(None, "auth.refresh", json!({"refresh_token": tokens["refresh_token"]})).await.unwrap();
        gateway.call(tokens["access_token"].as_str(), "users.get", json!({"username": "me"})).await.unwrap();
    }
    assert!(revs.is_sorted_by_key(|rev| rev.as_u64()));
    // Of one user the newest state only, at its own place: behind everything.
    let page = watcher.call("users.changes", json!({"since": start})).await.unwrap();
    let told: Vec<_> = page["changes"].as_array().unwrap().iter().map(|change| &change["user"]["rev"]).collect();
    assert_eq!(told, [revs.last().unwrap()]);
}

/// The code of what alice's read is refused with; 0 when it is not.
async fn read(gateway: &TestGateway, token: &str) -> i64 {
    let read = gateway.call(Some(token), "users.get", json!({"username": "me"})).await;
    read.map_or_else(|failure| failure.code, |_| 0)
}

#[tokio::test]
async fn r13_a_token_of_before_the_clock_was_set_back_is_good_for_five_minutes_and_then_to_be_refreshed() {
    let gateway = TestGateway::start().await;
    for name in ["bob", "carol", "dave"] {
        gateway.logged_in(name).await;
    }
    let mut alice = gateway.logged_in("alice").await;
    let login = json!({"login": "alice", "password": PASSWORD});
    let tokens = gateway.call(None, "auth.login", login).await.unwrap()["tokens"].clone();
    let [token, refresh] = ["access_token", "refresh_token"].map(|name| tokens[name].as_str().unwrap().to_owned());
    let page = alice.call("users.list", json!({"limit": 1})).await.unwrap();

    gateway.clock.step(-4 * 60_000);
    assert_eq!(read(&gateway, &token).await, 0);
    gateway.clock.step(-56 * 60_000);
    // Told as what a client answers with a refresh, on every way in.
    assert_eq!(read(&gateway, &token).await, 1002);
    let mut socket = gateway.socket().await;
    let refused = socket.call("auth.authenticate", json!({"access_token": token})).await.unwrap_err();
    assert_eq!((refused.code, &refused.data["kind"]), (1002, &json!("token_expired")));
    let bearer = format!("Bearer {token}");
    assert_eq!(TestClient::try_connect(gateway.address, &[("authorization", &bearer)]).await.err(), Some(401));
    assert_eq!(gateway.rest("GET", "/users/me", Some(&token), None).await.status(), 401);

    // Whatever else was given out before goes on: the refresh token, the session, a cursor, an open socket.
    let next = gateway.call(None, "auth.refresh", json!({"refresh_token": refresh})).await.unwrap();
    let next_token = next["tokens"]["access_token"].as_str().unwrap();
    assert_eq!(read(&gateway, next_token).await, 0);
    let sessions = gateway.call(Some(next_token), "auth.sessions", json!({})).await.unwrap();
    assert_eq!(sessions["sessions"].as_array().unwrap().len(), 2);
    let more = alice.call("users.list", json!({"limit": 1, "cursor": page["next_cursor"]})).await.unwrap();
    assert_eq!(more["users"].as_array().unwrap().len(), 1);
    alice.call("users.update", json!({"username": "me", "patch": {"bio": "an hour before"}})).await.unwrap();

    // Right again: each token is judged by its own times.
    gateway.clock.step(60 * 60_000);
    assert_eq!(read(&gateway, &token).await, 0);
    assert_eq!(read(&gateway, next_token).await, 1002);
    let refresh = &next["tokens"]["refresh_token"];
    gateway.call(None, "auth.refresh", json!({"refresh_token": refresh})).await.unwrap();
}

#[test]
fn r13_only_the_clock_asks_for_the_wall_clocks_time() {
    fn search(folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                search(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                if ["SystemTime", "Timestamp::now", "Zoned::now"].iter().any(|word| text.contains(word)) {
                    found.push(path.display().to_string());
                }
            }
        }
    }
    let mut found = Vec::new();
    search(Path::new("src"), &mut found);
    assert_eq!(found, ["src/clock.rs"]);
}
