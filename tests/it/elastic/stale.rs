//! A node that is cut off from the others: it answers with what was, as the proxy does here for one server.

use serde_json::{Value, json};

use crate::support::elastic::{elastic_address, elastic_url};
use crate::support::proxy::{Fault, FaultProxy, JSON, When};
use crate::support::{Indices, TestClient, TestGateway};

/// A gateway with a proxy before its store, and another over the same users with nothing in its way.
async fn rig() -> (Indices, FaultProxy, TestGateway, TestGateway) {
    let (indices, proxy) = (Indices::new(), FaultProxy::start(elastic_address()).await);
    let gateway = TestGateway::over(indices.config_at(&proxy.url())).await;
    let other = TestGateway::over(indices.config()).await;
    (indices, proxy, gateway, other)
}

/// What is written by now, as a node answers that could ask so many copies in vain.
async fn statistics(indices: &Indices, failed: usize) -> Fault {
    let prefix = &indices.prefix;
    let url = format!("{}/{prefix}-users,{prefix}-sessions/_stats/docs?level=shards", elastic_url());
    let mut now: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
    now["_shards"]["failed"] = json!(failed);
    // A fault's body lives as long as the program.
    Fault::Answer(200, JSON, now.to_string().leak())
}

async fn change(client: &mut TestClient, bio: &str) {
    client.call("users.update", json!({"username": "me", "patch": {"bio": bio}})).await.unwrap();
}

/// The next change that is told: its text and position.
async fn told(client: &mut TestClient) -> (Value, Value) {
    let told = client.notification("users.changed").await;
    (told["user"]["bio"].clone(), told["position"].clone())
}

#[tokio::test]
async fn r04_a_node_that_answers_with_what_was_closes_no_socket_and_refuses_no_position() {
    let (indices, proxy, gateway, other) = rig().await;
    let (mut alice, mut elsewhere) = (gateway.logged_in("alice").await, other.logged_in("bob").await);
    let old = statistics(&indices, 0).await;
    alice.call("users.subscribe", json!({})).await.unwrap();
    for bio in ["one", "two", "three"] {
        change(&mut elsewhere, bio).await;
        assert_eq!(told(&mut alice).await.0, bio);
    }
    change(&mut alice, "four").await;
    let (_, position) = told(&mut alice).await;

    let stale = proxy.rule(|_, path| path.contains("/_stats"), When::Always, old);
    stale.wait_for(4).await;
    let failure = alice.call("users.changes", json!({"since": position})).await.unwrap_err();
    assert_eq!((failure.code, &failure.data["retryable"]), (1501, &json!(true)));
    // The tail stands there itself.
    alice.call("users.subscribe", json!({"since": position})).await.unwrap();
    stale.wait_for(12).await;
    proxy.clear();
    change(&mut elsewhere, "five").await;
    // By either subscription; what is behind a position of before all was final is told again.
    let mut fives = 0;
    while fives < 2 {
        let bio = told(&mut alice).await.0;
        assert!(bio == "four" || bio == "five", "{bio}");
        fives += usize::from(bio == "five");
    }
}

#[tokio::test]
async fn r04_a_position_that_one_node_does_not_know_is_good_where_another_does() {
    let (indices, proxy) = (Indices::new(), FaultProxy::start(elastic_address()).await);
    let other = TestGateway::over(indices.config()).await;
    let mut elsewhere = other.logged_in("bob").await;
    proxy.rule(|_, path| path.contains("/_stats"), When::Always, statistics(&indices, 0).await);
    let nodes = format!("{},{}", proxy.url(), elastic_url());
    let gateway = TestGateway::over(indices.config_at(&nodes)).await;
    for number in 0..10 {
        change(&mut elsewhere, &format!("change {number}")).await;
        let position = elsewhere.call("users.changes", json!({})).await.unwrap()["position"].clone();
        gateway.call(Some(&elsewhere.token), "users.changes", json!({"since": position})).await.unwrap();
    }
}

#[tokio::test]
async fn r04_a_position_is_not_called_unknown_by_a_node_that_cannot_ask_every_copy() {
    let (indices, proxy, gateway, other) = rig().await;
    let (alice, mut elsewhere) = (gateway.logged_in("alice").await, other.logged_in("bob").await);
    proxy.rule(|_, path| path.contains("/_stats"), When::Always, statistics(&indices, 1).await);
    change(&mut elsewhere, "one").await;
    let position = elsewhere.call("users.changes", json!({})).await.unwrap()["position"].clone();
    let failure = gateway.call(Some(&alice.token), "users.changes", json!({"since": position})).await.unwrap_err();
    assert_eq!((failure.code, &failure.data["retryable"]), (1501, &json!(true)));
    proxy.clear();
    gateway.call(Some(&alice.token), "users.changes", json!({"since": position})).await.unwrap();
}
