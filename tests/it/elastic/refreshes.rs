//! What an index has written is shown by a refresh, which is dear: one is made for all who need it.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use doorward::store::Store;
use futures_util::future::join_all;
use serde_json::json;
use tokio::time::Instant;

use super::{Faulty, open};
use crate::store::contract::{create, user};
use crate::support::elastic::{elastic_address, elastic_url};
use crate::support::proxy::{Fault, FaultProxy, When};
use crate::support::{Indices, TestGateway};

#[tokio::test]
async fn the_users_are_refreshed_once_for_all_who_read_changes() {
    let indices = Indices::new();
    let (clean, faulty) = (open(&indices).await, Faulty::with_timeout(&indices, Duration::from_secs(4)).await);
    let start = faulty.store.start().await.unwrap();
    create(&clean, &user("alice")).await;
    let refreshes = faulty.proxy.rule(|_, path| path.ends_with("/_refresh"), When::Always, Fault::Hold);
    let asked = |_: &hyper::Method, path: &str| path.contains("/_stats");
    let looks = faulty.proxy.rule(asked, When::Always, Fault::DelayAnswer(Duration::ZERO));
    let released = async {
        looks.wait_for(10).await;
        refreshes.wait_for(1).await;
        refreshes.release();
    };
    let (pages, ()) = tokio::join!(join_all((0..10).map(|_| faulty.store.changes_after(&start, 10))), released);
    for page in pages {
        assert_eq!(page.unwrap().records.len(), 1);
    }
    assert_eq!(refreshes.seen(), 1);
    create(&clean, &user("bob")).await;
    assert_eq!(faulty.store.changes_after(&start, 10).await.unwrap().records.len(), 2);
    assert_eq!(refreshes.seen(), 2);
}

/// With several shards the tail reads what this gateway itself has written, and is told of each write.
#[tokio::test]
async fn the_feed_keeps_its_pace_of_refreshing_however_many_changes_this_gateway_makes() {
    let (indices, proxy) = (Indices::at(elastic_url(), 2), FaultProxy::start(elastic_address()).await);
    let gateway = TestGateway::over(indices.config_at(&proxy.url())).await;
    let (mut writers, mut watcher) = (Vec::new(), gateway.logged_in("watcher").await);
    for number in 0..8 {
        writers.push(gateway.logged_in(&format!("user{number}")).await);
    }
    watcher.call("users.subscribe", json!({})).await.unwrap();
    let is_refresh = |_: &hyper::Method, path: &str| path.contains("-users") && path.contains("/_refresh");
    let refreshes = proxy.rule(is_refresh, When::Always, Fault::DelayAnswer(Duration::ZERO));
    let (begun, changes) = (Instant::now(), AtomicUsize::new(0));
    join_all(writers.iter_mut().map(async |writer| {
        while begun.elapsed() < Duration::from_secs(3) {
            let patch = json!({"bio": changes.fetch_add(1, Relaxed).to_string()});
            writer.call("users.update", json!({"username": "me", "patch": patch})).await.unwrap();
        }
    }))
    .await;
    let changes = changes.into_inner();
    // One in 50 ms at the most, and the one that was under way.
    let (seen, most) = (refreshes.seen(), begun.elapsed().as_millis() as usize / 50 + 1);
    assert!(changes > most, "{changes} changes are too few to tell");
    watcher.notification("users.changed").await;
    assert!(seen <= most, "{seen} refreshes for {changes} changes in {:?}", begun.elapsed());
}
