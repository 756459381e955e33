//! Documents by query. An answer in which a shard is missing is none.

use elasticsearch::http::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::client::{Client, Deadline, Request};
use super::index::Shards;
use crate::store::StoreError;

/// The documents found, in order.
pub(super) struct Found<T> {
    pub(super) hits: Vec<Hit<T>>,
    /// How many match, counted as far as was asked for.
    pub(super) total: usize,
}

/// One document found.
#[derive(Deserialize)]
pub(super) struct Hit<T> {
    #[serde(rename = "_id")]
    pub(super) id: String,
    #[serde(rename = "_source")]
    pub(super) source: T,
    /// The values it was sorted by.
    #[serde(default)]
    pub(super) sort: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
struct SearchAnswer<T> {
    timed_out: bool,
    #[serde(rename = "_shards")]
    shards: Shards,
    hits: Hits<T>,
}

#[derive(Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
struct Hits<T> {
    #[serde(default)]
    total: Total,
    hits: Vec<Hit<T>>,
}

#[derive(Default, Deserialize)]
struct Total {
    value: usize,
}

#[derive(Deserialize)]
struct CountAnswer {
    count: u64,
    #[serde(rename = "_shards")]
    shards: Shards,
}

impl Client {
    /// The documents of an index that a search asks for; of one shard only, where it is named.
    /// Source: Elasticsearch Search API.
    pub(super) async fn find<T: DeserializeOwned>(
        &self,
        index: &str,
        shard: Option<usize>,
        search: &Value,
        deadline: Deadline,
    ) -> Result<Found<T>, StoreError> {
        let preference = shard.map(|shard| format!("&preference=_shards:{shard}")).unwrap_or_default();
        let path = format!("/{index}/_search?allow_partial_search_results=false{preference}");
        let answer = self.send(&Request::json(Method::Post, path, search), deadline).await?;
        if !answer.is_success() {
            return Err(answer.unexpected());
        }
        let SearchAnswer { timed_out, shards, hits } = answer.read()?;
        if timed_out || shards.failed > 0 {
            return Err(StoreError::Unavailable("a part of the index did not answer".to_owned()));
        }
        Ok(Found { hits: hits.hits, total: hits.total.value })
    }

    /// How many documents of an index match a query, exactly.
    /// Source: Elasticsearch Count API.
    pub(super) async fn count(&self, index: &str, query: &Value, deadline: Deadline) -> Result<u64, StoreError> {
        let body = json!({"query": query});
        let answer = self.send(&Request::json(Method::Post, format!("/{index}/_count"), &body), deadline).await?;
        if !answer.is_success() {
            return Err(answer.unexpected());
        }
        match answer.read()? {
            CountAnswer { count, shards: Shards { failed: 0 } } => Ok(count),
            _ => Err(StoreError::Unavailable("a part of the index did not answer".to_owned())),
        }
    }

    /// The greatest value of a numeric field of an index, or `None` when there is none. Costs the same for any number of
    /// documents. Source: Elasticsearch Max aggregation.
    pub(super) async fn greatest(
        &self,
        index: &str,
        field: &str,
        deadline: Deadline,
    ) -> Result<Option<i64>, StoreError> {
        #[derive(Deserialize)]
        struct Answer {
            aggregations: Aggregations,
        }
        #[derive(Deserialize)]
        struct Aggregations {
            greatest: Greatest,
        }
        #[derive(Deserialize)]
        struct Greatest {
            value: Option<f64>,
        }
        let search = json!({"size": 0, "aggs": {"greatest": {"max": {"field": field}}}});
        let path = format!("/{index}/_search?allow_partial_search_results=false");
        let answer = self.send(&Request::json(Method::Post, path, &search), deadline).await?;
        if !answer.is_success() {
            return Err(answer.unexpected());
        }
        // Times in milliseconds are far below what a double holds exactly.
        Ok(answer.read::<Answer>()?.aggregations.greatest.value.map(|value| value as i64))
    }
}
