//! The store on a real Elasticsearch: the contract.

mod migrate;

use std::ops::Deref;

use doorward::store::Store;
use doorward::store::elastic::ElasticStore;
use serde_json::{Value, json};

use super::contract::name;
use super::{sessions, test_contract};
use crate::support::Indices;
use crate::support::elastic::elastic_url;

/// A store whose indices go with it.
struct Home {
    store: ElasticStore,
    _indices: Indices,
}

impl Deref for Home {
    type Target = dyn Store;

    fn deref(&self) -> &Self::Target {
        &self.store
    }
}

async fn open() -> Home {
    let indices = Indices::new();
    let store = ElasticStore::open(&indices.config()).await.unwrap();
    Home { store, _indices: indices }
}

test_contract!(open);

#[tokio::test]
async fn s14_the_end_of_a_session_is_told_to_the_other_stores() {
    let indices = Indices::new();
    let config = indices.config();
    let one = ElasticStore::open(&config).await.unwrap();
    let early = sessions::begun(&one).await;
    one.session_replace(early.end(0)).await.unwrap();
    // What was ended before the first call, nobody there can believe to be open.
    let two = ElasticStore::open(&config).await.unwrap();
    assert_eq!(two.sessions_ended().await.unwrap(), []);
    let begun = sessions::begun(&one).await;
    assert_eq!(two.sessions_ended().await.unwrap(), []);
    one.session_replace(begun.end(0)).await.unwrap();
    assert_eq!(two.sessions_ended().await.unwrap(), [begun.end(0)]);
    assert_eq!(two.sessions_ended().await.unwrap(), []);
}

#[tokio::test]
async fn s14_more_sessions_than_one_search_gives_are_all_listed() {
    const COPIES: usize = 20_001;
    let indices = Indices::new();
    let store = ElasticStore::open(&indices.config()).await.unwrap();
    let session = sessions::begun(&store).await;
    let (http, index) = (reqwest::Client::new(), format!("{}/{}-sessions", elastic_url(), indices.prefix));
    assert_eq!(store.sessions_of(&name("alice")).await.unwrap(), [session]); // which refreshes
    let found: Value =
        http.get(format!("{index}/_search")).send().await.unwrap().error_for_status().unwrap().json().await.unwrap();
    let document = &found["hits"]["hits"][0]["_source"];
    // Many of one moment, as those who log in at once.
    let copies = (0..COPIES).map(|at| {
        let mut copy = document.clone();
        copy["created_at"] = json!(at / 500);
        format!("{}\n{copy}\n", json!({"create": {}}))
    });
    let bulk = http.post(format!("{index}/_bulk")).header("content-type", "application/x-ndjson");
    let answer = bulk.body(copies.collect::<String>()).send().await.unwrap().error_for_status().unwrap();
    assert_eq!(answer.json::<Value>().await.unwrap()["errors"], false);
    assert_eq!(store.sessions_of(&name("alice")).await.unwrap().len(), COPIES + 1);
}
