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
