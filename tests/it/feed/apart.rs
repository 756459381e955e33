//! What one gateway over the cluster has under way, or remembers, is not in the way of what others have changed.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::{change, told};
use crate::support::elastic::{elastic_address, elastic_url};
use crate::support::proxy::{Fault, FaultProxy, JSON, When};
use crate::support::{Indices, PATIENCE, TestGateway};

#[tokio::test]
async fn r09_a_write_that_is_slow_to_be_answered_keeps_no_change_of_others_from_being_told() {
    let (indices, proxy) = (Indices::new(), FaultProxy::start(elastic_address()).await);
    let direct = TestGateway::over(indices.config()).await;
    let slow = TestGateway::over(indices.config_at(&proxy.url())).await;
    let (mut alice, mut bob) = (slow.logged_in("alice").await, direct.logged_in("bob").await);
    let mut carol = slow.logged_in("carol").await;
    carol.call("users.subscribe", json!({})).await.unwrap();
    // Done long before it is answered.
    let delay = Fault::DelayAnswer(Duration::from_millis(1_800));
    let rule = proxy.rule(|method, path| method == "PUT" && path.contains("-users"), When::Times(1), delay);
    alice.begin("users.update", json!({"username": "me", "patch": {"bio": "slow"}})).await;
    rule.wait_for(1).await;
    let of_bob = async {
        change(&mut bob, "meanwhile").await;
        while told(&carol.notification("users.changed").await).0 != "bob" {}
    };
    tokio::select! {
        () = of_bob => {}
        () = rule.wait_for_end() => panic!("bob's change waits for the answer"),
    }
}

#[tokio::test]
async fn s14_a_session_that_cannot_be_looked_up_is_not_called_ended() {
    let (indices, proxy) = (Indices::new(), FaultProxy::start(elastic_address()).await);
    let gateway = TestGateway::over(indices.config_at(&proxy.url())).await;
    let alice = gateway.logged_in("alice").await;
    let cut = |what: &'static str| {
        let sessions = format!("{}-sessions", indices.prefix);
        proxy.rule(move |_, path| path.contains(&sessions) && path.contains(what), When::Always, Fault::CutBefore)
    };
    let (_stats, documents) = (cut("/_stats"), cut("/_doc"));
    let started = Instant::now();
    let refused = loop {
        if let Err(failure) = gateway.call(Some(&alice.token), "users.changes", json!({})).await {
            break failure;
        }
        assert!(started.elapsed() < PATIENCE, "answered from what may be stale");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(refused.code, 1501, "{refused:?}");
    assert!(documents.seen() > 0);
}

#[tokio::test]
async fn s14_what_was_known_of_a_data_set_that_was_replaced_is_forgotten() {
    let indices = Indices::new();
    let gateway = TestGateway::over(indices.config()).await;
    let mut admin = gateway.admin("keeper").await;
    admin.call("users.subscribe", json!({})).await.unwrap();
    let all = format!("{}/{}-*?expand_wildcards=all", elastic_url(), indices.prefix);
    let names = reqwest::get(&all).await.unwrap().json::<serde_json::Value>().await.unwrap();
    for name in names.as_object().unwrap().keys() {
        let gone = reqwest::Client::new().delete(format!("{}/{name}", elastic_url())).send().await.unwrap();
        assert_eq!(gone.status(), 200, "{name}");
    }
    // Another gateway makes them anew, where somebody else takes the name.
    let other = TestGateway::over(indices.config()).await;
    other.logged_in("keeper").await;
    assert_eq!(admin.closed().await.0, 1012);
    let refused = gateway.call(Some(&admin.token), "users.find_by_email", json!({"email": "x@example.com"})).await;
    assert_eq!(refused.unwrap_err().code, 1004);
}

#[tokio::test]
async fn r04_what_is_written_and_does_not_become_final_shows_as_lag() {
    let (indices, proxy) = (Indices::new(), FaultProxy::start(elastic_address()).await);
    let gateway = TestGateway::over(indices.config_at(&proxy.url())).await;
    gateway.logged_in("alice").await;
    let feed = &gateway.server().app().rpc.context.feed;
    // Twice the pause after which the tail looks although nothing has happened.
    let long = Duration::from_secs(4);
    let until = async |is_so: &dyn Fn() -> bool| {
        let started = Instant::now();
        while !is_so() {
            assert!(started.elapsed() < PATIENCE, "lag {:?}, silence {:?}", feed.lag(), feed.silence());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    until(&|| feed.lag() < long).await;
    let prefix = &indices.prefix;
    let stats = format!("{}/{prefix}-users,{prefix}-sessions/_stats/docs?level=shards", elastic_url());
    let now = reqwest::get(stats).await.unwrap().text().await.unwrap();
    // As if a write had its number, and one of the copies did not answer. A fault's body lives as long as the program.
    let written = now.replace(r#""seq_no":{"max_seq_no":"#, r#""seq_no":{"max_seq_no":1"#).leak();
    proxy.rule(
        |_, path| path.contains("-users") && path.contains("/_stats"),
        When::Always,
        Fault::Answer(200, JSON, written),
    );
    until(&|| feed.lag() > long && feed.silence() < long).await;
    proxy.clear();
    until(&|| feed.lag() < long).await;
}
