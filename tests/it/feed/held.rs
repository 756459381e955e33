//! What Elasticsearch shows late, by halves or not at all makes no gap. One gateway writes; another one, whose way to the
//! server is through a proxy, tells.

use serde_json::{Value, json};

use super::{change, told};
use crate::support::elastic::{elastic_address, elastic_url};
use crate::support::proxy::{Fault, FaultProxy, JSON, Rule, When};
use crate::support::{Indices, TestClient, TestGateway};

/// Two gateways over the same users, one of them through a proxy.
struct Pair {
    direct: TestGateway,
    proxied: TestGateway,
    proxy: FaultProxy,
    indices: Indices,
}

impl Pair {
    async fn start() -> Self {
        let (indices, proxy) = (Indices::new(), FaultProxy::start(elastic_address()).await);
        let direct = TestGateway::over(indices.config()).await;
        let proxied = TestGateway::over(indices.config_at(&proxy.url())).await;
        Self { direct, proxied, proxy, indices }
    }

    /// Someone who is subscribed to everything from now on, where the proxy is in the way.
    async fn listener(&self) -> TestClient {
        let mut carol = self.proxied.logged_in("carol").await;
        carol.call("users.subscribe", json!({})).await.unwrap();
        carol
    }

    /// What the server says of its checkpoints now.
    async fn checkpoint(&self) -> &'static str {
        let url = format!("{}/{}-users/_stats/docs?level=shards", elastic_url(), self.indices.prefix);
        // A fault's body lives as long as the program.
        reqwest::get(url).await.unwrap().text().await.unwrap().leak()
    }

    /// Changes alice while the proxy answers requests of this path so, and holds that she is told of nonetheless.
    async fn told_despite(&self, part: &'static str, status: u16, body: &'static str) {
        let (mut alice, mut carol) = (self.direct.socket().await, self.proxied.socket().await);
        alice.login("alice").await;
        carol.login("carol").await;
        carol.call("users.subscribe", json!({})).await.unwrap();
        let fault = Fault::Answer(status, JSON, body);
        let rule = self.proxy.rule(move |_, path| of_users(path, part), When::Times(3), fault);
        let revs = [change(&mut alice, part).await, change(&mut alice, body).await];
        rule.wait_for(3).await;
        // The first state may be replaced before anyone could read it.
        let mut last = 0;
        while last < revs[1] {
            let (name, rev, _) = told(&carol.notification("users.changed").await);
            assert!(name == "alice" && rev > last && revs.contains(&rev), "{part}: {rev} of {name}");
            last = rev;
        }
    }
}

/// Whether a request is about the index of users and has this part. The followers of sessions ask the same of theirs.
fn of_users(path: &str, part: &str) -> bool {
    path.contains("-users") && path.contains(part)
}

/// The users and revisions of the next changes.
async fn next<const N: usize>(client: &mut TestClient) -> [(String, u64); N] {
    let mut found = Vec::new();
    while found.len() < N {
        let (name, rev, _) = told(&client.notification("users.changed").await);
        found.push((name, rev));
    }
    found.try_into().unwrap()
}

#[tokio::test]
async fn r04_a_write_that_is_visible_waits_for_those_before_it() {
    let pair = Pair::start().await;
    let (mut alice, mut bob) = (pair.direct.logged_in("alice").await, pair.direct.logged_in("bob").await);
    let mut carol = pair.listener().await;
    let first = change(&mut alice, "first").await;
    // Up to here all is final; what follows is visible to searches, but something before it may not be.
    let checkpoint = pair.checkpoint().await;
    let [of_alice] = next(&mut carol).await;
    assert_eq!(of_alice, ("alice".to_owned(), first));
    let rule = pair.proxy.rule(|_, path| of_users(path, "/_stats"), When::Always, Fault::Answer(200, JSON, checkpoint));
    change(&mut alice, "second").await;
    let of_bob = change(&mut bob, "third").await;
    let mut read = TestClient::reach(pair.proxied.address, &carol.token).await.unwrap();
    let before = read.call("users.changes", json!({})).await.unwrap()["position"].clone();
    rule.wait_for(rule.seen() + 3).await;
    let page = read.call("users.changes", json!({"since": before})).await.unwrap();
    assert_eq!((&page["changes"], &page["position"]), (&json!([]), &before), "the checkpoint stands still");
    let third = change(&mut alice, "fourth").await;
    pair.proxy.clear();
    // As they are now, in the order of their numbers.
    assert_eq!(next(&mut carol).await, [("bob".to_owned(), of_bob), ("alice".to_owned(), third)]);
    let page = read.call("users.changes", json!({"since": before})).await.unwrap();
    let found: Vec<_> = page["changes"].as_array().unwrap().iter().map(told).collect();
    let now = |name: &str, rev| (name.to_owned(), rev, "in".to_owned());
    assert_eq!(found, [now("bob", of_bob), now("alice", third)]);
}

#[tokio::test]
async fn r04_no_position_is_behind_a_state_that_comes_back_if_its_successor_is_lost() {
    let pair = Pair::start().await;
    let mut alice = pair.direct.logged_in("alice").await;
    let mut read = pair.proxied.logged_in("carol").await;
    let before = read.call("users.changes", json!({})).await.unwrap()["position"].clone();
    change(&mut alice, "final").await;
    let checkpoint = pair.checkpoint().await;
    pair.proxy.rule(|_, path| of_users(path, "/_stats"), When::Always, Fault::Answer(200, JSON, checkpoint));
    // A primary that takes over need not have this one, which hides the one before.
    let last = change(&mut alice, "visible").await;
    // The gateway may have had everything shown already that it knows to be final.
    pair.indices.refresh("users").await;
    let page = read.call("users.changes", json!({"since": before})).await.unwrap();
    assert_eq!((&page["changes"], &page["position"], &page["more"]), (&json!([]), &before, &json!(true)));
    pair.proxy.clear();
    let page = read.call("users.changes", json!({"since": before})).await.unwrap();
    let found: Vec<_> = page["changes"].as_array().unwrap().iter().map(told).collect();
    assert_eq!(found, [("alice".to_owned(), last, "in".to_owned())]);
}

#[tokio::test]
async fn r04_a_write_held_on_its_way_is_told_when_it_arrives() {
    let pair = Pair::start().await;
    let (mut alice, mut bob) = (pair.proxied.logged_in("alice").await, pair.direct.logged_in("bob").await);
    let mut carol = pair.listener().await;
    let held: std::sync::Arc<Rule> =
        pair.proxy.rule(|method, path| method == "PUT" && path.contains("-users"), When::Times(1), Fault::Hold);
    alice.begin("users.update", json!({"username": "me", "patch": {"bio": "held"}})).await;
    held.wait_for(1).await;
    let of_bob = change(&mut bob, "overtakes").await;
    assert_eq!(next(&mut carol).await, [("bob".to_owned(), of_bob)]);
    held.release();
    held.wait_for_end().await;
    assert_eq!(next(&mut carol).await, [("alice".to_owned(), 2)]);
    let updated = alice.frame().await.unwrap();
    assert_eq!(updated["result"]["user"]["bio"], Value::from("held"), "{updated}");
}

#[tokio::test]
async fn r04_what_fails_by_halves_makes_no_gap() {
    let pair = Pair::start().await;
    for name in ["alice", "carol"] {
        pair.direct.logged_in(name).await;
    }
    let failed = r#"{"_shards": {"total": 1, "successful": 0, "failed": 1}}"#;
    let half = r#"{"timed_out": false, "_shards": {"total": 1, "successful": 0, "failed": 1}, "hits": {"hits": []}}"#;
    let late = r#"{"timed_out": true, "_shards": {"total": 1, "successful": 1, "failed": 0}, "hits": {"hits": []}}"#;
    let error = r#"{"error": {"type": "some_exception", "reason": "whatever"}, "status": 500}"#;
    for (part, status, body) in [
        ("/_refresh", 200, failed),
        ("/_refresh", 500, error),
        ("/_search", 200, half),
        ("/_search", 200, late),
        ("/_search", 500, error),
        ("/_stats", 200, r#"{"indices": {}}"#),
        ("/_stats", 500, error),
    ] {
        pair.told_despite(part, status, body).await;
    }
}
