//! `/metrics`: what operators watch, on a listener of its own.

use std::collections::BTreeSet;

use serde_json::json;

use crate::support::{PASSWORD, Process, TestClient};

/// A scrape.
pub async fn scrape(gateway: &Process) -> String {
    let response = reqwest::get(format!("http://{}/metrics", gateway.metrics)).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &"text/plain; version=0.0.4".parse().unwrap())
    );
    response.text().await.unwrap()
}

/// The value of a metric by its name and labels.
pub fn value(scrape: &str, metric: &str) -> Option<f64> {
    scrape.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' ')?.parse().ok())
}

/// The words after `# TYPE`: the names of all metrics.
fn names(scrape: &str) -> BTreeSet<&str> {
    scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect()
}

#[tokio::test]
async fn calls_sockets_and_the_feed_are_told_and_every_metric_is_documented() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Process::start(&folder.path().join("data"), &[("DOORWARD_LOGIN_FAILURES", "1")]).await;
    let mut alice = TestClient::connect(gateway.address, &[]).await;
    alice.register("alice").await;
    let _anonymous = TestClient::connect(gateway.address, &[]).await;
    alice.call("users.subscribe", json!({})).await.unwrap();
    alice.call("users.update", json!({"username": "me", "patch": {"bio": "a canary"}})).await.unwrap();
    alice.notification("users.changed").await;
    alice.call("users.get", json!({"username": "canary"})).await.unwrap_err();
    alice.call("users.get", json!({"username": "alice"})).await.unwrap();
    alice.call("canary.method", json!({})).await.unwrap_err();
    let wrong = json!({"login": "alice", "password": "a wrong canary"});
    for code in [1005, 1302] {
        assert_eq!(alice.call("auth.login", wrong.clone()).await.unwrap_err().code, code);
    }

    // What never becomes a call is told by the method that it was for, where that is known.
    let http = reqwest::Client::new();
    for (path, kind, body) in [
        ("/rpc", "application/json", "{"),
        ("/rpc", "application/json", "[]"),
        ("/rpc", "application/json", r#"{"jsonrpc":"2.0","id":[1],"method":"system.ping"}"#),
        ("/rpc", "text/plain", "{}"),
        ("/auth/register", "application/json", "{"),
        ("/auth/register", "text/plain", "{}"),
    ] {
        let request = http.post(format!("http://{}{path}", gateway.address)).header("content-type", kind).body(body);
        request.send().await.unwrap();
    }
    reqwest::get(format!("http://{}/users?limit=x", gateway.address)).await.unwrap();

    let scrape = scrape(&gateway).await;
    for (metric, expected) in [
        (r#"doorward_calls_total{method="unknown",code="-32700"}"#, 1.0),
        (r#"doorward_calls_total{method="unknown",code="-32600"}"#, 3.0),
        (r#"doorward_calls_total{method="auth.register",code="-32700"}"#, 1.0),
        (r#"doorward_calls_total{method="auth.register",code="-32600"}"#, 1.0),
        (r#"doorward_calls_total{method="users.list",code="1001"}"#, 1.0),
        (r#"doorward_calls_total{method="users.update",code="ok"}"#, 1.0),
        (r#"doorward_calls_total{method="users.get",code="1201"}"#, 1.0),
        (r#"doorward_calls_total{method="unknown",code="-32601"}"#, 1.0),
        (r#"doorward_calls_total{method="auth.login",code="1005"}"#, 1.0),
        (r#"doorward_call_seconds_count{method="auth.login"}"#, 2.0),
        (r#"doorward_call_seconds_bucket{method="users.update",le="+Inf"}"#, 1.0),
        ("doorward_sockets", 2.0),
        ("doorward_sockets_anonymous", 1.0),
        ("doorward_subscriptions", 1.0),
        ("doorward_hashes_waiting", 0.0),
        (r#"doorward_throttled_total{what="login"}"#, 1.0),
    ] {
        assert_eq!(value(&scrape, metric), Some(expected), "{metric}\n{scrape}");
    }
    assert!(value(&scrape, "doorward_feed_changes_total").unwrap() >= 1.0);
    for since in ["doorward_feed_silence_seconds", "doorward_feed_lag_seconds"] {
        assert!(value(&scrape, since).unwrap() < 5.0, "{since}");
    }
    assert!(value(&scrape, r#"doorward_user_lookups_total{result="hit"}"#).unwrap() >= 1.0);
    for secret in ["alice", "canary", PASSWORD, "127.0.0.1"] {
        assert!(!scrape.contains(secret), "s16: {secret} is in it");
    }

    let documented: BTreeSet<&str> = include_str!("../../docs/metrics.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(['`', '{']).next())
        .filter(|name| name.starts_with("doorward_") && !name.starts_with("doorward_store_")) // there is no Elasticsearch here
        .collect();
    assert_eq!(names(&scrape), documented);
}

#[tokio::test]
async fn metrics_are_on_their_own_listener_only() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = Process::start(&folder.path().join("data"), &[]).await;
    for (address, path, status) in
        [(gateway.address, "/metrics", 404), (gateway.metrics, "/rpc", 404), (gateway.metrics, "/metrics", 200)]
    {
        assert_eq!(reqwest::get(format!("http://{address}{path}")).await.unwrap().status(), status);
    }
}
