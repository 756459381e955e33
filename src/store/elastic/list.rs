//! Lists and searches: pages by `search_after`, never by offset.

use std::sync::Arc;

use serde_json::{Value, json};

use super::client::Deadline;
use super::document::{FIELDS, UserFields};
use super::finding::{self, Copies};
use super::{ElasticStore, query};
use crate::store::{Hit, ListQuery, Page, PageKey, SEARCH_COUNT_MAX, SearchPage, SearchQuery, SortField, StoreError};
use crate::users::User;
use crate::users::filter::Filter;
use crate::users::search::{Class, beginnings, score};

/// A day, in milliseconds.
const DAY_MS: i64 = 86_400_000;
/// The most words near to a word of a query that are looked up.
const NEAR_MAX: usize = 256;
/// What every word being there adds to the score of a hit; see [`class_of`].
const EXACT_BOOST: f64 = 4.0;
/// What every word being there at least as the beginning of one adds.
const PREFIX_BOOST: f64 = 2.0;

impl ElasticStore {
    /// One page of a list.
    pub(super) async fn list(&self, query: &ListQuery, deadline: Deadline) -> Result<Page, StoreError> {
        self.freshness.catch_up(&self.client, &self.names.users, deadline).await?;
        let order = if query.sort.descending { "desc" } else { "asc" };
        let fields = sort_fields(query.sort.field);
        let mut body = json!({
            "sort": fields.iter().map(|field| json!({*field: order})).collect::<Vec<_>>(),
            "size": query.limit.saturating_add(1),
            "track_total_hits": false,
            "_source": FIELDS,
        });
        if let Some(key) = &query.after {
            body["search_after"] = check_page_key(query.sort.field, key)?.into();
        }
        let matching = query::of_filter(query.filter.as_ref());
        for oldest in self.windows(query, deadline).await? {
            body["query"] = match oldest {
                Some(oldest) => json!({"bool": {"filter": [matching, {"range": {fields[0]: {"gte": oldest}}}]}}),
                None => matching.clone(),
            };
            let found = self.client.find(&self.names.users, Copies::All, &body, deadline).await?;
            if oldest.is_none() || found.hits.len() > query.limit {
                let (users, next) = page(found.hits, query.limit)?;
                return Ok(Page { users: users.into_iter().map(|(user, _)| user).collect(), next });
            }
        }
        unreachable!("the last window has no bound")
    }

    /// How far back a list from the newest on looks, one after the other until a page is full: `None` is as far as
    /// there is.
    ///
    /// Documents lie in the order in which they were written, so each next one is newer, and without a bound
    /// Elasticsearch would have to rank every one of them anew (0.5 s for a million, against 10 ms).
    async fn windows(&self, query: &ListQuery, deadline: Deadline) -> Result<Vec<Option<i64>>, StoreError> {
        let sort = query.sort;
        if !(sort.descending && matches!(sort.field, SortField::CreatedAt | SortField::UpdatedAt)) {
            return Ok(vec![None]);
        }
        let newest = match &query.after {
            Some(key) => key.0.first().and_then(Value::as_i64),
            None => self.client.greatest(&self.names.users, sort_fields(sort.field)[0], deadline).await?,
        };
        let newest = newest.unwrap_or_default();
        Ok(vec![Some(newest - DAY_MS), Some(newest - 60 * DAY_MS), None])
    }

    /// How many users match.
    pub(super) async fn count(&self, filter: Option<&Filter>, deadline: Deadline) -> Result<u64, StoreError> {
        self.freshness.catch_up(&self.client, &self.names.users, deadline).await?;
        self.client.count(&self.names.users, &query::of_filter(filter), deadline).await
    }

    /// One page of a search.
    pub(super) async fn search(&self, query: &SearchQuery, deadline: Deadline) -> Result<SearchPage, StoreError> {
        if query.words.is_empty() {
            return Ok(SearchPage { hits: Vec::new(), next: None, count: 0 });
        }
        self.freshness.catch_up(&self.client, &self.names.users, deadline).await?;
        let mut body = json!({
            "query": hits_of(query),
            // Classes first; within one by name, since hits of one class are equally good.
            "sort": [{"_score": "desc"}, {"username_key": "asc"}],
            "size": query.limit.saturating_add(1),
            "track_total_hits": SEARCH_COUNT_MAX,
            "_source": FIELDS,
        });
        if let Some(key) = &query.after {
            let [score, name] = key.0.as_slice() else { return Err(StoreError::BadPageKey) };
            if !score.is_f64() || !name.is_string() {
                return Err(StoreError::BadPageKey);
            }
            body["search_after"] = json!([score, name]);
        }
        let found = self.client.find(&self.names.users, Copies::All, &body, deadline).await?;
        let count = found.total.min(SEARCH_COUNT_MAX);
        let (users, next) = page(found.hits, query.limit)?;
        let hits = users.into_iter().map(|(user, sort)| Hit { user, score: score(class_of(&sort)) }).collect();
        Ok(SearchPage { hits, next, count })
    }
}

/// A user and the values they were sorted by.
type Sorted = (Arc<User>, Vec<Value>);

/// The users of a page, and where the next one begins: the hit beyond the limit shows that there is one.
fn page(mut hits: Vec<finding::Hit<UserFields>>, limit: usize) -> Result<(Vec<Sorted>, Option<PageKey>), StoreError> {
    let has_more = hits.len() > limit;
    hits.truncate(limit);
    let next = hits.last().filter(|_| has_more).map(|hit| PageKey(hit.sort.clone()));
    let users = hits.into_iter().map(|hit| Ok((Arc::new(User::try_from(&hit.source)?), hit.sort)));
    Ok((users.collect::<Result<_, StoreError>>()?, next))
}

/// Every word must match; those that match better add to the score, a constant for each class.
fn hits_of(query: &SearchQuery) -> Value {
    let every = |of_word: &dyn Fn(&str) -> Value| -> Value {
        json!({"bool": {"filter": query.words.iter().map(|word| of_word(word)).collect::<Vec<_>>()}})
    };
    let exact = |word: &str| json!({"term": {"terms": {"value": word}}});
    let prefix = |word: &str| {
        let begins = |beginning: String| json!({"prefix": {"terms": {"value": beginning}}});
        let any: Vec<Value> = beginnings(word).into_iter().map(begins).collect();
        json!({"bool": {"should": any, "minimum_should_match": 1}})
    };
    let near = |word: &str| {
        let fuzzy = json!({"fuzzy": {"terms": {
            "value": word, "fuzziness": "AUTO", "prefix_length": 1, "max_expansions": NEAR_MAX,
            "rewrite": "constant_score",
        }}});
        json!({"bool": {"should": [prefix(word), fuzzy], "minimum_should_match": 1}})
    };
    let constant = |query: Value, boost: f64| json!({"constant_score": {"filter": query, "boost": boost}});
    let mut must = vec![query::of_filter(query.filter.as_ref())];
    must.push(if query.fuzzy { every(&near) } else { every(&prefix) });
    json!({"bool": {
        "filter": must,
        "should": [constant(every(&exact), EXACT_BOOST), constant(every(&prefix), PREFIX_BOOST)],
    }})
}

/// The class of a hit by its score: an exact one has both boosts, a prefix only its own.
fn class_of(sort: &[Value]) -> Class {
    match sort.first().and_then(Value::as_f64) {
        Some(score) if score >= EXACT_BOOST => Class::Exact,
        Some(score) if score >= PREFIX_BOOST => Class::Prefix,
        _ => Class::Fuzzy,
    }
}

/// What a list is sorted by: never by `_id`, which has no order on disk.
fn sort_fields(field: SortField) -> &'static [&'static str] {
    match field {
        SortField::Username => &["username_key"],
        SortField::DisplayName => &["display_fold", "username_key"],
        SortField::CreatedAt => &["created_at", "username_key"],
        SortField::UpdatedAt => &["updated_at", "username_key"],
    }
}

/// The values of a key of this sort's shape.
fn check_page_key(field: SortField, key: &PageKey) -> Result<Vec<Value>, StoreError> {
    let good = match (field, key.0.as_slice()) {
        (SortField::Username, [name]) => name.is_string(),
        (SortField::DisplayName, [value, name]) => value.is_string() && name.is_string(),
        (SortField::CreatedAt | SortField::UpdatedAt, [value, name]) => value.is_i64() && name.is_string(),
        _ => false,
    };
    if good { Ok(key.0.clone()) } else { Err(StoreError::BadPageKey) }
}
