//! `users.list` and `users.search`: the pages of many users.

use serde::{Deserialize, Serialize};

use super::error::{FieldError, RpcError};
use super::params::StrictJson;
use super::{Context, UserView};
use crate::permission::{self, Caller, Target};
use crate::sessions::{CallerUser, Peer};
use crate::store::{ListQuery, SearchQuery, Sort, SortField, StoreError};
use crate::users::filter::Filter;
use crate::users::user::Refusal;
use crate::users::{fold, search as matching};

/// The most users in one page.
const PAGE_MAX: usize = 200;
/// The users in one page unless asked otherwise.
const PAGE_DEFAULT: usize = 50;
/// The longest search text, in characters.
const TEXT_MAX_CHARS: usize = 200;
/// The most distinct words of a search: as many as a username can have, so that each is found by itself.
const WORDS_MAX: usize = 16;

/// Whether a list tells how many users match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Count {
    /// It does not.
    None,
    /// Exactly.
    Exact,
}

/// Parameters of `users.list`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListParams {
    #[serde(default)]
    filter: Option<StrictJson>,
    #[serde(default)]
    sort: Option<String>,
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    cursor: Option<String>,
    #[serde(default)]
    count: Option<Count>,
}

/// Parameters of `users.search`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchParams {
    text: String,
    #[serde(default)]
    filter: Option<StrictJson>,
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    cursor: Option<String>,
    #[serde(default)]
    fuzzy: Option<bool>,
}

/// Result of `users.list`.
#[derive(Clone, Serialize)]
pub struct ListResult {
    #[serde(flatten)]
    page: PageView,
    position: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
}

/// Result of `users.search`.
#[derive(Clone, Serialize)]
pub struct SearchResult {
    hits: Vec<HitView>,
    next_cursor: Option<String>,
    count: usize,
}

/// One user found.
#[derive(Clone, Serialize)]
struct HitView {
    user: UserView,
    score: f64,
    highlights: Highlights,
}

/// Where the query matches: `[start, end)` in code points of the field's text, so that no markup is ever
/// mixed into what a user wrote.
#[derive(Clone, Serialize)]
struct Highlights {
    username: Vec<(usize, usize)>,
    display_name: Vec<(usize, usize)>,
}

/// What a cursor is bound to.
#[derive(Serialize)]
struct Scope<'a> {
    method: &'static str,
    caller: &'static str,
    filter: Option<&'a Filter>,
    sort: Option<Sort>,
    text: Option<&'a [String]>,
    fuzzy: bool,
}

/// Which users a page of a list has, checked.
pub(super) struct PagePart {
    filter: Option<Filter>,
    sort: Sort,
    limit: usize,
}

/// One page of a list.
#[derive(Clone, Serialize)]
pub(super) struct PageView {
    users: Vec<UserView>,
    next_cursor: Option<String>,
}

impl PagePart {
    /// Checks order and length.
    pub(super) fn check(
        caller: &CallerUser,
        filter: Option<Filter>,
        sort: Option<&str>,
        limit: Option<usize>,
    ) -> Result<Self, RpcError> {
        Ok(Self { filter, sort: checked_sort(caller, sort)?, limit: checked_limit(limit)? })
    }
}

/// Answers `users.list`.
pub(super) async fn list(ctx: &Context, peer: &Peer, params: ListParams) -> Result<ListResult, RpcError> {
    let caller = &peer.caller();
    let filter = checked_filter(caller, params.filter)?;
    let part = PagePart::check(caller, filter.clone(), params.sort.as_deref(), params.limit)?;
    // Before the page: what changes while it is read comes again from this position, and nothing is missed.
    let position = ctx.feed.now().await?.encode();
    let count = match params.count {
        Some(Count::Exact) => Some(in_turn(peer, ctx.store.user_count(filter)).await?),
        Some(Count::None) | None => None,
    };
    // The last that is read: by it the caller is judged once more.
    let page = page(ctx, peer, caller, part, params.cursor.as_deref()).await?;
    Ok(ListResult { page, position, count })
}

/// The first page of a list; the others come by `users.list` with its cursor.
pub(super) async fn first_page(
    ctx: &Context,
    peer: &Peer,
    caller: &CallerUser,
    part: PagePart,
) -> Result<PageView, RpcError> {
    page(ctx, peer, caller, part, None).await
}

/// One page, asked for by `caller` and shown by the rights that the peer has when it has been read.
async fn page(
    ctx: &Context,
    peer: &Peer,
    caller: &CallerUser,
    part: PagePart,
    cursor: Option<&str>,
) -> Result<PageView, RpcError> {
    let PagePart { filter, sort, limit } = part;
    let scope = Scope {
        method: "users.list",
        caller: rights(caller),
        filter: filter.as_ref(),
        sort: Some(sort),
        text: None,
        fuzzy: false,
    };
    let after = cursor.map(|cursor| ctx.cursors.open(&scope, cursor)).transpose()?;
    let query = ListQuery { filter: filter.clone(), sort, after, limit };
    let page = in_turn(peer, ctx.store.user_list(query)).await?;
    let next_cursor = page.next.as_ref().map(|key| ctx.cursors.seal(&scope, key));
    let caller = ctx.caller_now(peer).await?;
    let users = page.users.into_iter().map(|user| UserView::new(user, &caller)).collect();
    Ok(PageView { users, next_cursor })
}

/// Answers `users.search`.
pub(super) async fn search(ctx: &Context, peer: &Peer, params: SearchParams) -> Result<SearchResult, RpcError> {
    let caller = &peer.caller();
    let words = checked_words(&params.text)?;
    let filter = checked_filter(caller, params.filter)?;
    let limit = checked_limit(params.limit)?;
    let fuzzy = params.fuzzy.unwrap_or(true);
    let scope = Scope {
        method: "users.search",
        caller: rights(caller),
        filter: filter.as_ref(),
        sort: None,
        text: Some(&words),
        fuzzy,
    };
    let after = params.cursor.as_deref().map(|cursor| ctx.cursors.open(&scope, cursor)).transpose()?;
    let query = SearchQuery { words: words.clone(), fuzzy, filter: filter.clone(), after, limit };
    let page = in_turn(peer, ctx.store.user_search(query)).await?;
    let next_cursor = page.next.as_ref().map(|key| ctx.cursors.seal(&scope, key));
    let caller = ctx.caller_now(peer).await?;
    let hits = page.hits.into_iter().map(|hit| {
        let highlights = Highlights {
            username: matching::highlights(hit.user.username.as_str(), &words, fuzzy),
            display_name: matching::highlights(&hit.user.display_name, &words, fuzzy),
        };
        HitView { user: UserView::new(hit.user, &caller), score: hit.score, highlights }
    });
    Ok(SearchResult { hits: hits.collect(), next_cursor, count: page.count })
}

/// What the store finds among many users, once few others that the same user has asked for are under way.
async fn in_turn<T>(peer: &Peer, scan: impl Future<Output = Result<T, StoreError>>) -> Result<T, RpcError> {
    let account = peer.identity().ok_or(RpcError::Unauthenticated)?.account;
    let _turn = account.scans.acquire().await.expect("the semaphore is never closed");
    Ok(scan.await?)
}

fn rights(caller: &CallerUser) -> &'static str {
    match caller.kind() {
        Caller::Anonymous => "anonymous",
        Caller::User => "user",
        Caller::Admin => "admin",
    }
}

/// A filter on fields that the caller may read of anyone.
pub(super) fn checked_filter(caller: &CallerUser, given: Option<StrictJson>) -> Result<Option<Filter>, RpcError> {
    let Some(StrictJson(value)) = given else { return Ok(None) };
    let filter = Filter::parse(&value).map_err(|error| {
        RpcError::InvalidParams(vec![FieldError {
            path: error.path,
            rule: error.rule.to_owned(),
            message: error.message,
        }])
    })?;
    let may_read = permission::may_read(caller.kind(), permission::Field::Email, Target::Another);
    match filter.names_private_field() {
        Some(path) if !may_read => Err(RpcError::FilterRefused(path.to_owned())),
        _ => Ok(Some(filter)),
    }
}

/// The order of a list: by username unless asked otherwise; a `-` before the field is greatest first.
fn checked_sort(caller: &CallerUser, given: Option<&str>) -> Result<Sort, RpcError> {
    let Some(text) = given else { return Ok(Sort { field: SortField::Username, descending: false }) };
    let (descending, name) = text.strip_prefix('-').map_or((false, text), |name| (true, name));
    let field = match name {
        "username" => SortField::Username,
        "display_name" => SortField::DisplayName,
        "created_at" => SortField::CreatedAt,
        "updated_at" => SortField::UpdatedAt,
        "email" if caller.kind() != Caller::Admin => return Err(RpcError::FilterRefused("sort".to_owned())),
        _ => {
            let rule = "must be username, display_name, created_at or updated_at, with - before it for descending";
            return Err(RpcError::param("sort", Refusal::new("choice", rule)));
        }
    };
    Ok(Sort { field, descending })
}

pub(super) fn checked_limit(given: Option<usize>) -> Result<usize, RpcError> {
    match given {
        None => Ok(PAGE_DEFAULT),
        Some(limit) if (1..=PAGE_MAX).contains(&limit) => Ok(limit),
        Some(_) => Err(RpcError::param("limit", Refusal::new("range", "must be 1 to 200"))),
    }
}

/// The words of a text; none of one that holds no letters or digits, which finds nobody.
fn checked_words(text: &str) -> Result<Vec<String>, RpcError> {
    let refuse = |rule, message| Err(RpcError::param("text", Refusal::new(rule, message)));
    if text.chars().count() > TEXT_MAX_CHARS {
        return refuse("length", "must have at most 200 characters");
    }
    let words = fold::words(text);
    if words.len() > WORDS_MAX {
        return refuse("length", "must hold at most 16 different words");
    }
    Ok(words)
}
