//! A node that hears nothing of the store does not judge rights on what may be stale.

use std::time::Duration;

use rusqlite::Connection;
use serde_json::json;
use tokio::time::Instant;

use super::change;
use crate::support::elastic::elastic_address;
use crate::support::proxy::{Fault, FaultProxy, When};
use crate::support::{Indices, PATIENCE, TestGateway};

/// Asks again and again until an admin's read is answered with this code, 0 for success.
async fn until_an_admin_is_answered(gateway: &TestGateway, token: &str, code: i64) {
    let started = Instant::now();
    let params = json!({"email": "alice@example.com"});
    loop {
        let outcome = gateway.call(Some(token), "users.find_by_email", params.clone()).await;
        if outcome.map_or_else(|failure| failure.code, |_| 0) == code {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "never answered {code}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Holds a gateway to it: `blind` takes from it what the feed needs, but not the users; `write` gives a user, who has
/// this token, the bio `by another` behind its back; `mend` undoes the first.
async fn judge(gateway: &TestGateway, blind: impl AsyncFn(), write: impl AsyncFn(&str), mend: impl AsyncFn()) {
    let (admin, mut alice) = (gateway.admin("keeper").await.token, gateway.logged_in("alice").await);
    alice.call("users.subscribe", json!({})).await.unwrap();
    blind().await;
    until_an_admin_is_answered(gateway, &admin, 1501).await;
    write(&alice.token).await;
    // A store that fails now and then may refuse the admin before the contact counts as lost.
    let started = Instant::now();
    loop {
        let read = alice.call("users.get", json!({"username": "me"})).await;
        if read.is_ok_and(|read| read["user"]["bio"] == "by another") {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "read from the cache");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    mend().await;
    until_an_admin_is_answered(gateway, &admin, 0).await;
    change(&mut alice, "told as before").await;
    while alice.notification("users.changed").await["user"]["bio"] != "told as before" {}
}

#[tokio::test]
async fn without_contact_privileged_calls_are_refused_and_others_read_the_store() {
    let gateway = TestGateway::with(|config| config.elastic = None).await;
    let other = Connection::open(gateway.database()).unwrap();
    let run = async |sql: &str| other.execute_batch(sql).unwrap();
    judge(
        &gateway,
        async || run("ALTER TABLE meta RENAME TO gone").await,
        async |_| run("UPDATE users SET bio = 'by another', rev = rev + 1 WHERE username = 'alice'").await,
        async || run("ALTER TABLE gone RENAME TO meta").await,
    )
    .await;
}

#[tokio::test]
async fn without_contact_to_elasticsearch_privileged_calls_are_refused_and_others_read_the_store() {
    let (indices, proxy) = (Indices::new(), FaultProxy::start(elastic_address()).await);
    let gateway = TestGateway::over(indices.config_at(&proxy.url())).await;
    let other = TestGateway::over(indices.config()).await;
    let patch = json!({"username": "me", "patch": {"bio": "by another"}});
    judge(
        &gateway,
        async || drop(proxy.rule(|_, path| path.contains("/_stats"), When::Always, Fault::CutBefore)),
        async |token| drop(other.call(Some(token), "users.update", patch.clone()).await.unwrap()),
        async || proxy.clear(),
    )
    .await;
}
