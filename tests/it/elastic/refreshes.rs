//! What an index has written is shown by a refresh, which is dear: one is made for all who need it.

use std::time::Duration;

use doorward::store::Store;
use futures_util::future::join_all;

use super::{Faulty, open};
use crate::store::contract::{create, user};
use crate::support::Indices;
use crate::support::proxy::{Fault, When};

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
