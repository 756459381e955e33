//! Search: three tiers of hits, each in the order in which the users came.
//!
//! First who has every word exactly, then who has every word exactly or as a prefix, then who has every word at
//! least nearly. Each tier is one full-text expression without the tiers before it, walked only as far as needed.

use std::sync::{PoisonError, RwLock};

use rusqlite::{Connection, params_from_iter};
use serde_json::Value;

use super::conditions::Sql;
use super::users;
use super::vocabulary::Vocabulary;
use crate::store::{Hit, PageKey, SEARCH_COUNT_MAX, SearchPage, SearchQuery, StoreError};
use crate::users::User;
use crate::users::filter::Filter;
use crate::users::search::{Class, beginnings, is_word, score, terms_of};

/// Best first.
const TIERS: [Class; 3] = [Class::Exact, Class::Prefix, Class::Fuzzy];

/// The most near words that one search looks up, shared by its words. Numbered names (`user000123`) have thousands of
/// neighbours, and each costs 0.1 ms to look up and merge.
const NEAR_MAX: usize = 256;

/// A place in the order of hits: the index of a tier, and a row of `users` in it.
type Place = (usize, i64);

/// One page of a search.
pub(super) fn search(
    connection: &Connection,
    vocabulary: &RwLock<Vocabulary>,
    query: &SearchQuery,
) -> Result<SearchPage, StoreError> {
    let after = query.after.as_ref().map(check_page_key).transpose()?;
    // One state of the database for the vocabulary, the count and the page.
    let snapshot = connection.unchecked_transaction()?;
    let tiers = expressions(&snapshot, vocabulary, query)?;
    let filter = query.filter.as_ref();

    let first_hits = places(&snapshot, &tiers, filter, None, SEARCH_COUNT_MAX)?;
    let count = first_hits.len();
    let wanted = query.limit.saturating_add(1);
    let mut page: Vec<Place> = first_hits.into_iter().filter(|&place| Some(place) > after).take(wanted).collect();
    if page.len() < wanted && count == SEARCH_COUNT_MAX {
        page = places(&snapshot, &tiers, filter, after, wanted)?;
    }

    let has_more = page.len() > query.limit;
    page.truncate(query.limit);
    let next = page.last().filter(|_| has_more).map(|&(tier, row)| PageKey(vec![Value::from(tier), Value::from(row)]));
    Ok(SearchPage { hits: hits(&snapshot, &page)?, next, count })
}

/// The full-text expressions of the tiers; `None` for a tier that can add nothing.
fn expressions(
    connection: &Connection,
    vocabulary: &RwLock<Vocabulary>,
    query: &SearchQuery,
) -> Result<[Option<String>; 3], StoreError> {
    if query.words.is_empty() {
        return Ok([None, None, None]);
    }
    let all_of = |words: Vec<String>| words.join(" AND ");
    let exact = all_of(query.words.iter().map(|word| quoted(word)).collect());
    let prefix = all_of(query.words.iter().map(|word| format!("({})", prefixes(word))).collect());
    let behind_exact = Some(format!("({prefix}) NOT ({exact})"));
    if !query.fuzzy {
        return Ok([Some(exact), behind_exact, None]);
    }

    if vocabulary.read().unwrap_or_else(PoisonError::into_inner).is_behind(connection)? {
        vocabulary.write().unwrap_or_else(PoisonError::into_inner).catch_up(connection)?;
    }
    let vocabulary = vocabulary.read().unwrap_or_else(PoisonError::into_inner);
    let limit = NEAR_MAX / query.words.len();
    let near: Vec<Vec<&str>> = query.words.iter().map(|word| vocabulary.near(word, limit)).collect();
    if near.iter().all(Vec::is_empty) {
        return Ok([Some(exact), behind_exact, None]);
    }
    let any_of = |(word, near): (&String, &Vec<&str>)| {
        let near: String = near.iter().map(|near| format!(" OR {}", quoted(near))).collect();
        format!("({}{near})", prefixes(word))
    };
    let fuzzy = all_of(query.words.iter().zip(&near).map(any_of).collect());
    Ok([Some(exact), behind_exact, Some(format!("({fuzzy}) NOT ({prefix})"))])
}

/// Finds a word as the beginning of a term.
fn prefixes(word: &str) -> String {
    beginnings(word).iter().map(|beginning| format!("{}*", quoted(beginning))).collect::<Vec<_>>().join(" OR ")
}

/// A string of FTS5's query language (SQLite: FTS5, section 3.1).
fn quoted(word: &str) -> String {
    format!("\"{}\"", word.replace('"', "\"\""))
}

/// The first `limit` hits behind `after`.
fn places(
    connection: &Connection,
    tiers: &[Option<String>; 3],
    filter: Option<&Filter>,
    after: Option<Place>,
    limit: usize,
) -> Result<Vec<Place>, StoreError> {
    let (first_tier, first_row) = after.unwrap_or((0, i64::MIN));
    let mut places = Vec::new();
    for (tier, expression) in tiers.iter().enumerate().skip(first_tier) {
        let Some(expression) = expression else { continue };
        let behind = if tier == first_tier { first_row } else { i64::MIN };
        let mut sql = Sql::default();
        sql.push("SELECT users_fts.rowid FROM users_fts");
        if filter.is_some() {
            // `CROSS JOIN` fixes the order: the index first, then the rows it names.
            sql.push(" CROSS JOIN users ON users.id = users_fts.rowid");
        }
        sql.push(" WHERE users_fts MATCH ").bind(expression.clone()).push(" AND users_fts.rowid > ").bind(behind);
        if let Some(filter) = filter {
            sql.push(" AND ").push_filter(filter);
        }
        sql.push(" ORDER BY users_fts.rowid LIMIT ").bind(i64::try_from(limit - places.len()).unwrap_or(i64::MAX));
        let mut statement = connection.prepare_cached(&sql.text)?;
        let mut rows = statement.query(params_from_iter(sql.params))?;
        while let Some(row) = rows.next()? {
            places.push((tier, row.get(0)?));
        }
        if places.len() == limit {
            break;
        }
    }
    Ok(places)
}

fn hits(connection: &Connection, page: &[Place]) -> Result<Vec<Hit>, StoreError> {
    let mut statement = connection.prepare_cached(&format!("SELECT {} FROM users WHERE id = ?1", users::COLUMNS))?;
    let mut hits = Vec::with_capacity(page.len());
    for &(tier, row) in page {
        let mut rows = statement.query([row])?;
        if let Some(row) = rows.next()? {
            hits.push(Hit { user: users::read(row)?.into(), score: score(TIERS[tier]) });
        }
    }
    Ok(hits)
}

fn check_page_key(key: &PageKey) -> Result<Place, StoreError> {
    let [tier, row] = key.0.as_slice() else { return Err(StoreError::BadPageKey) };
    let tier = tier.as_u64().and_then(|tier| usize::try_from(tier).ok()).filter(|&tier| tier < TIERS.len());
    tier.zip(row.as_i64()).ok_or(StoreError::BadPageKey)
}

/// The terms of a user as the index is given them.
pub(super) fn terms_text(user: &User) -> String {
    terms_of(user).join(" ")
}

/// Adds a user to the index.
pub(super) fn add(connection: &Connection, row: i64, terms: &str) -> Result<(), StoreError> {
    connection.prepare_cached("INSERT INTO users_fts (rowid, terms) VALUES (?1, ?2)")?.execute((row, terms))?;
    let mut add = connection.prepare_cached(
        "INSERT INTO words (word, users) VALUES (?1, 1) ON CONFLICT (word) DO UPDATE SET users = users + 1",
    )?;
    for word in terms.split(' ').filter(|term| is_word(term)) {
        add.execute([word])?;
    }
    Ok(())
}

/// Removes a user from the index, to which these terms were added.
pub(super) fn remove(connection: &Connection, row: i64, terms: &str) -> Result<(), StoreError> {
    connection
        .prepare_cached("INSERT INTO users_fts (users_fts, rowid, terms) VALUES ('delete', ?1, ?2)")?
        .execute((row, terms))?;
    let mut remove = connection.prepare_cached("UPDATE words SET users = users - 1 WHERE word = ?1")?;
    let mut forget = connection.prepare_cached("DELETE FROM words WHERE word = ?1 AND users <= 0")?;
    for word in terms.split(' ').filter(|term| is_word(term)) {
        remove.execute([word])?;
        forget.execute([word])?;
    }
    Ok(())
}
