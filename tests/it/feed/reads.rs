//! What reaches the store of those who read the feed: next to nothing, however many they are.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{change, told};
use crate::support::elastic::elastic_address;
use crate::support::proxy::{Fault, FaultProxy, Rule, When};
use crate::support::{Home, Indices, Process, TestClient, count, on_elasticsearch, value_of_metric};

/// Pages that were read for subscribers and callers.
const OTHERS: &str = r#"doorward_feed_pages_total{reader="others"}"#;

/// Gateways whose reads of changes are counted: by a proxy before Elasticsearch, on the embedded store by a metric.
struct Counted {
    home: Home,
    proxy: Option<(FaultProxy, Arc<Rule>)>,
}

impl Counted {
    async fn new() -> Self {
        if !on_elasticsearch() {
            return Self { home: Home::embedded(), proxy: None };
        }
        let proxy = FaultProxy::start(elastic_address()).await;
        let is_read = |_: &hyper::Method, path: &str| path.contains("-users") && path.contains("/_search");
        let searches = proxy.rule(is_read, When::Always, Fault::DelayAnswer(Duration::ZERO));
        Self { home: Home::elastic(Indices::at(proxy.url(), 1)), proxy: Some((proxy, searches)) }
    }

    async fn start(&self) -> Process {
        let settings = [
            ("DOORWARD_MAX_SOCKETS_PER_USER", "20000"),
            ("DOORWARD_CALL_TIMEOUT_SECONDS", "60"),
            ("DOORWARD_TOKEN_SECONDS", "3600"),
            ("DOORWARD_LOG", "warn"),
        ];
        self.home.start(&settings).await
    }

    /// Those of former gateways that [`Counted::reads`] would count for the next one.
    fn reads_before_start(&self) -> usize {
        self.proxy.as_ref().map_or(0, |(_, searches)| searches.seen())
    }

    /// Reads of changes up to now: of this gateway's subscribers, and on Elasticsearch of its tail as well.
    async fn reads(&self, gateway: &Process) -> usize {
        match &self.proxy {
            Some((_, searches)) => searches.seen(),
            None => value_of_metric(gateway, OTHERS).await as usize,
        }
    }
}

/// Signs in on so many new sockets, which each resume one of these places in turn, and waits until each has been told of
/// this revision of alice.
async fn resume(gateway: &Process, token: &str, sockets: usize, places: &[Value], last: u64) -> Vec<TestClient> {
    // As many at once as a listener takes without pushing back.
    let mut resumed = Vec::new();
    for first in (0..sockets).step_by(100) {
        let socket = async |number: usize| {
            let mut socket = TestClient::reach(gateway.address, token).await.unwrap();
            let resume = json!([{"since": places[number % places.len()]}]);
            let back =
                socket.call("auth.authenticate", json!({"access_token": token, "resume": resume})).await.unwrap();
            assert_eq!(back["subscriptions"][0]["subscription"], 1, "{back}");
            while told(&socket.notification("users.changed").await).1 < last {}
            socket
        };
        resumed.extend(join_all((first..sockets.min(first + 100)).map(socket)).await);
    }
    resumed
}

/// Alice's socket, the places of her latest changes but the last, and the revision of that.
async fn changed_often(gateway: &Process, times: usize) -> (TestClient, Vec<Value>, u64) {
    let mut alice = TestClient::connect(gateway.address, &[]).await;
    alice.register("alice").await;
    let (mut places, mut last) = (Vec::new(), 0);
    for number in 0..times {
        places.push(alice.call("users.changes", json!({})).await.unwrap()["position"].clone());
        last = change(&mut alice, &number.to_string()).await;
    }
    (alice, places, last)
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_resume_from_what_is_in_memory_cost_the_store_nothing() {
    let counted = Counted::new().await;
    let gateway = counted.start().await;
    let (alice, places, last) = changed_often(&gateway, 30).await;
    // Until the last one is final, places behind it are not in memory.
    let mut waiting = TestClient::reach(gateway.address, &alice.token).await.unwrap();
    let mut since = places[0].clone();
    loop {
        let next = waiting.call("users.changes", json!({"since": since, "wait_ms": 15_000})).await.unwrap();
        since = next["position"].clone();
        if next["changes"].as_array().unwrap().iter().any(|change| told(change).1 == last) {
            break;
        }
    }

    let before = counted.reads(&gateway).await;
    resume(&gateway, &alice.token, count(100, 10_000), &places, last).await;
    assert_eq!(counted.reads(&gateway).await - before, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_resume_after_a_restart_share_what_is_read_for_them() {
    let counted = Counted::new().await;
    let gateway = counted.start().await;
    let (alice, places, last) = changed_often(&gateway, 40).await;
    gateway.kill().await;

    let before = counted.reads_before_start();
    let gateway = counted.start().await;
    resume(&gateway, &alice.token, count(200, 10_000), &places, last).await;
    let reads = counted.reads(&gateway).await - before;
    assert!(reads <= 20, "{reads} reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_resume_from_one_place_far_behind_share_its_pages() {
    let counted = Counted::new().await;
    let gateway = counted.start().await;
    let mut alice = TestClient::connect(gateway.address, &[]).await;
    alice.register("alice").await;
    let place = alice.call("users.changes", json!({})).await.unwrap()["position"].clone();
    for number in 0..40 {
        TestClient::connect(gateway.address, &[]).await.register(&format!("user{number}")).await;
    }
    // More than is kept in memory.
    let filling = "x".repeat(4000);
    for number in 0..900 {
        let patch = json!({"attributes": {"number": number, "filling": filling}});
        alice.call("users.update", json!({"username": "me", "patch": patch})).await.unwrap();
    }
    let last = change(&mut alice, "the last").await;

    let before = counted.reads(&gateway).await;
    resume(&gateway, &alice.token, count(200, 10_000), &[place], last).await;
    let reads = counted.reads(&gateway).await - before;
    assert!(reads <= count(20, 200), "{reads} reads");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_wait_for_a_change_read_nothing_for_those_of_others() {
    let counted = Counted::new().await;
    let gateway = counted.start().await;
    let (mut alice, ..) = changed_often(&gateway, 1).await;
    let since = alice.call("users.changes", json!({})).await.unwrap()["position"].clone();
    let waiters = count(20, 1000);
    let mut waiting = JoinSet::new();
    for _ in 0..waiters {
        let mut socket = TestClient::reach(gateway.address, &alice.token).await.unwrap();
        let mut since = since.clone();
        waiting.spawn(async move {
            loop {
                let params = json!({"since": since, "filter": {"username": {"eq": "bob"}}, "wait_ms": 15_000});
                let answer = socket.call("users.changes", params).await.unwrap();
                // It may be told that alice, whom it does not hold, is out.
                if answer["changes"].as_array().unwrap().iter().any(|change| told(change).0 == "bob") {
                    return;
                }
                since = answer["position"].clone();
            }
        });
    }
    let before = value_of_metric(&gateway, OTHERS).await;
    for number in 0..30 {
        change(&mut alice, &format!("to none of them {number}")).await;
    }
    TestClient::connect(gateway.address, &[]).await.register("bob").await;
    while let Some(ended) = waiting.join_next().await {
        ended.unwrap();
    }
    let reads = value_of_metric(&gateway, OTHERS).await - before;
    assert!(reads <= waiters as f64, "{reads} reads for {waiters} who wait during 31 changes");
}
