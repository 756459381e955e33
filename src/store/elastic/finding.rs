//! Documents by query, from every shard of the index.

use elasticsearch::http::Method;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};

use super::client::{Answer, Client, Deadline, Failure, Request, Shards};
use crate::store::StoreError;

/// Which copies a search asks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Copies<'a> {
    /// One of each shard.
    All,
    /// One of this shard.
    Of(usize),
    /// That of this shard on this node, and no other: what a node that is cut off from the others has, is from before.
    On(usize, &'a str),
}

impl Copies<'_> {
    fn preference(self) -> String {
        match self {
            Self::All => String::new(),
            Self::Of(shard) => format!("&preference=_shards:{shard}"),
            Self::On(shard, node) => format!("&preference=_shards:{shard}%7C_only_nodes:{node}"),
        }
    }
}

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
    aggregations: Option<Aggregations>,
}

#[derive(Deserialize)]
struct Aggregations {
    greatest: Greatest,
}

#[derive(Deserialize)]
struct Greatest {
    value: Option<f64>,
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
    #[serde(rename = "_shards")]
    shards: Shards,
    count: u64,
}

impl Client {
    /// The documents of an index that a search asks for.
    pub(super) async fn find<T: DeserializeOwned>(
        &self,
        index: &str,
        copies: Copies<'_>,
        search: &Value,
        deadline: Deadline,
    ) -> Result<Found<T>, StoreError> {
        let SearchAnswer { hits, .. } = self.search(index, copies, search, deadline).await?;
        Ok(Found { hits: hits.hits, total: hits.total.value })
    }

    /// How many documents of an index match a query, exactly.
    /// Source: Elasticsearch Count API.
    pub(super) async fn count(&self, index: &str, query: &Value, deadline: Deadline) -> Result<u64, StoreError> {
        let body = json!({"query": query});
        let request = Request::json(Method::Post, format!("/{index}/_count"), &body);
        let read = |answer: Answer| {
            let CountAnswer { shards, count } = answer.read_done()?;
            shards.all_there().map(|()| count)
        };
        Ok(self.send_until(&request, deadline, read).await?)
    }

    /// The greatest value of a numeric field of an index, or `None` when there is none. Costs the same for any number of
    /// documents. Source: Elasticsearch Max aggregation.
    pub(super) async fn greatest(
        &self,
        index: &str,
        field: &str,
        deadline: Deadline,
    ) -> Result<Option<i64>, StoreError> {
        let search = json!({"size": 0, "aggs": {"greatest": {"max": {"field": field}}}});
        let SearchAnswer::<IgnoredAny> { aggregations, .. } =
            self.search(index, Copies::All, &search, deadline).await?;
        // Times in milliseconds are far below what a double holds exactly.
        Ok(aggregations.and_then(|of| of.greatest.value).map(|value| value as i64))
    }

    /// What all shards answer to a search. Source: Elasticsearch Search API.
    async fn search<T: DeserializeOwned>(
        &self,
        index: &str,
        copies: Copies<'_>,
        search: &Value,
        deadline: Deadline,
    ) -> Result<SearchAnswer<T>, Failure> {
        let path = format!("/{index}/_search?allow_partial_search_results=false{}", copies.preference());
        let read = |answer: Answer| {
            if answer.status == 400 && matches!(copies, Copies::On(..)) {
                // How Elasticsearch says, too, that it does not know the node any more.
                return Err(Failure::passing(format!("a search was refused: {}", answer.error_type())));
            }
            let answer: SearchAnswer<T> = answer.read_done()?;
            answer.shards.all_there()?;
            if answer.timed_out { Err(Failure::passing("the search was cut short".to_owned())) } else { Ok(answer) }
        };
        self.send_until(&Request::json(Method::Post, path, search), deadline, read).await
    }
}
