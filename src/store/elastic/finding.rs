//! Documents by query, from every shard of the index.

use elasticsearch::http::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::client::{Client, Deadline, Request, whole};
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
        let answer = self.send_until(&Request::json(Method::Post, path, search), deadline, whole).await?;
        if !answer.is_success() {
            return Err(answer.unexpected());
        }
        let SearchAnswer { hits } = answer.read()?;
        Ok(Found { hits: hits.hits, total: hits.total.value })
    }

    /// How many documents of an index match a query, exactly.
    /// Source: Elasticsearch Count API.
    pub(super) async fn count(&self, index: &str, query: &Value, deadline: Deadline) -> Result<u64, StoreError> {
        let body = json!({"query": query});
        let request = Request::json(Method::Post, format!("/{index}/_count"), &body);
        let answer = self.send_until(&request, deadline, whole).await?;
        if !answer.is_success() {
            return Err(answer.unexpected());
        }
        Ok(answer.read::<CountAnswer>()?.count)
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
        let answer = self.send_until(&Request::json(Method::Post, path, &search), deadline, whole).await?;
        if !answer.is_success() {
            return Err(answer.unexpected());
        }
        // Times in milliseconds are far below what a double holds exactly.
        Ok(answer.read::<Answer>()?.aggregations.greatest.value.map(|value| value as i64))
    }
}
