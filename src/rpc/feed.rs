//! `users.subscribe`, `users.unsubscribe`, `users.changes`: the users feed.

use std::sync::Arc;
use std::time::Duration;

use jsonrpsee::Extensions;
use jsonrpsee::proc_macros::rpc;
use jsonrpsee::types::ErrorObjectOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use tokio::time::Instant;

use super::error::RpcError;
use super::listing::{self, PagePart};
use super::params::{Named, StrictJson};
use super::{Came, Context, Handlers, peer_of};
use crate::feed::position::Place;
use crate::feed::subscription::{Replied, Subscriptions, may_watch};
use crate::feed::{Page, Reader};
use crate::permission::{Method, Target};
use crate::sessions::{CallerUser, Peer};
use crate::users::filter::Filter;
use crate::users::user::Refusal;
use crate::view::Form;

/// The longest that `users.changes` waits for a change.
pub const WAIT_MAX: Duration = Duration::from_secs(30);
/// How long `users.changes` looks for a first change that matches its filter before it answers that there is more.
const LOOK_MAX: Duration = Duration::from_secs(1);
/// What an answer of `users.changes` has beside its changes, at most, in bytes.
const ENVELOPE_BYTES: usize = 20 << 10;

/// Parameters of `users.subscribe`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubscribeParams {
    /// Only users that match, before or now.
    #[serde(default)]
    pub filter: Option<StrictJson>,
    /// Everything behind this position; `start` is everything.
    #[serde(default)]
    pub since: Option<String>,
    /// The users that match now as well, as the first page of a list.
    #[serde(default)]
    pub snapshot: Option<SnapshotParams>,
}

/// What a snapshot is to be like, as in `users.list`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotParams {
    #[serde(default)]
    sort: Option<String>,
    #[serde(default)]
    limit: Option<usize>,
}

/// Parameters of `users.unsubscribe`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnsubscribeParams {
    /// The id that `users.subscribe` gave.
    pub subscription: u32,
}

/// Parameters of `users.changes`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangesParams {
    #[serde(default)]
    since: Option<String>,
    #[serde(default)]
    filter: Option<StrictJson>,
    #[serde(default)]
    limit: Option<usize>,
    #[serde(default)]
    wait_ms: Option<u64>,
}

/// Result of `users.subscribe`.
#[derive(Clone, Serialize)]
pub struct Subscribed {
    subscription: u32,
    position: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<Box<RawValue>>,
}

/// What became of one subscription that `auth.authenticate` was to resume: the result of `users.subscribe`, or its
/// error.
#[derive(Clone, Serialize)]
#[serde(untagged)]
pub enum Resumed {
    /// It goes on.
    Subscribed(Subscribed),
    /// It does not.
    Refused {
        /// As the error of a call.
        error: ErrorObjectOwned,
    },
}

/// Result of `users.unsubscribe`.
#[derive(Clone, Serialize)]
pub struct Done {}

/// Result of `users.changes`.
#[derive(Clone, Serialize)]
pub struct ChangesResult {
    changes: Vec<Box<RawValue>>,
    position: String,
    more: bool,
}

/// The methods of the feed.
#[rpc(server, namespace = "users", namespace_separator = ".")]
pub trait Feed {
    /// `users.subscribe`: has every change told to this socket, from now, a position or a snapshot on.
    ///
    /// Errors: `TooManySubscriptions`, `PositionUnknown`, `FilterRefused`.
    #[method(name = "subscribe", with_extensions)]
    async fn subscribe(&self, params: Named<SubscribeParams>) -> Result<Subscribed, RpcError>;

    /// `users.unsubscribe`: ends a subscription of this socket; nothing of it follows the reply.
    ///
    /// Errors: `NoSuchSubscription`.
    #[method(name = "unsubscribe", with_extensions)]
    async fn unsubscribe(&self, params: Named<UnsubscribeParams>) -> Result<Done, RpcError>;

    /// `users.changes`: what changed behind a position, waiting for it if asked to.
    ///
    /// Errors: `PositionUnknown`, `FilterRefused`; `SessionEnded` when the caller was revoked while it waited.
    #[method(name = "changes", with_extensions)]
    async fn changes(&self, params: Named<ChangesParams>) -> Result<ChangesResult, RpcError>;
}

#[jsonrpsee::core::async_trait]
impl FeedServer for Handlers {
    async fn subscribe(&self, extensions: &Extensions, params: Named<SubscribeParams>) -> Result<Subscribed, RpcError> {
        self.open_subscription(extensions, params.get()?).await
    }

    async fn unsubscribe(&self, extensions: &Extensions, params: Named<UnsubscribeParams>) -> Result<Done, RpcError> {
        let params = params.get()?;
        if subscriptions_of(extensions)?.end(params.subscription) {
            Ok(Done {})
        } else {
            Err(RpcError::NoSuchSubscription)
        }
    }

    async fn changes(&self, extensions: &Extensions, params: Named<ChangesParams>) -> Result<ChangesResult, RpcError> {
        let (peer, params) = (peer_of(extensions)?, params.get()?);
        let filter = listing::checked_filter(&peer.caller(), params.filter)?;
        let limit = listing::checked_limit(params.limit)?;
        let wait = match Duration::from_millis(params.wait_ms.unwrap_or(0)) {
            wait if wait <= WAIT_MAX => wait,
            _ => return Err(RpcError::param("wait_ms", Refusal::new("range", "must be 0 to 30000"))),
        };
        let came = extensions.get::<Came>().ok_or(RpcError::Internal)?.0;
        let changes = self.changes_since(peer, params.since, filter, limit, wait);
        let changes = tokio::time::timeout_at(came + self.config.call_timeout + wait, changes).await;
        changes.unwrap_or(Err(RpcError::StoreTimeout))
    }
}

impl Context {
    /// The next changes behind a place, waiting for one; the current place where none is named.
    async fn changes_since(
        &self,
        peer: &Arc<Peer>,
        since: Option<String>,
        filter: Option<Filter>,
        limit: usize,
        wait: Duration,
    ) -> Result<ChangesResult, RpcError> {
        let Some(since) = since else {
            return Ok(ChangesResult { changes: vec![], position: self.feed.now().await?.encode(), more: false });
        };
        let mut place = self.place_of(&since).await?;
        let (started, mut news, mut looked) = (Instant::now(), self.feed.news(), 0);
        // Whether it is one of this data set: else the store has to say so.
        let mut is_known = !wait.is_zero() && self.feed.covers(&place).await;
        loop {
            news.mark_unchanged();
            let waited = started.elapsed();
            let left = wait.saturating_sub(waited);
            // What was acknowledged before the call must be in an answer: in memory it may be a moment later.
            let may_lack = left.is_zero() && self.feed.lag() >= waited;
            let recent = if may_lack || !is_known { None } else { self.feed.recent(&place, limit, &mut looked) };
            let in_memory = match recent {
                Some(page) => Some(self.matching(peer, &place, page, filter.as_ref()).await?),
                None => None,
            };
            let result;
            (result, place) = match in_memory.filter(|(result, _)| !result.more) {
                Some(found) => found,
                // Also where it is too much for one answer: the store tells a place in the middle.
                None => {
                    let page = self.feed.page(&place, limit).await?;
                    self.matching(peer, &place, page, filter.as_ref()).await?
                }
            };
            is_known = true;
            let enough = if result.more { started.elapsed() >= LOOK_MAX } else { left.is_zero() };
            if !result.changes.is_empty() || enough || self.feed.is_stopping() {
                return Ok(result);
            }
            if !result.more {
                self.feed.wait(&mut news, left).await;
            }
        }
    }

    /// Opens a subscription of the socket.
    pub(super) async fn open_subscription(
        &self,
        extensions: &Extensions,
        params: SubscribeParams,
    ) -> Result<Subscribed, RpcError> {
        let (subscriptions, peer) = (subscriptions_of(extensions)?, peer_of(extensions)?);
        let caller = peer.caller();
        let max = self.config.limits.subscriptions;
        if subscriptions.count() >= max {
            return Err(RpcError::TooManySubscriptions);
        }
        let filter = listing::checked_filter(&caller, params.filter)?;
        let (reader, place) = match &params.since {
            Some(_) if params.snapshot.is_some() => {
                let why = "goes on from a position, a snapshot begins anew: give one of the two";
                return Err(RpcError::param("since", Refusal::new("exclusive", why)));
            }
            Some(since) => {
                let place = self.place_of(since).await?;
                (Reader::behind(&self.feed, place.clone()).await?, place)
            }
            None => {
                let place = self.feed.now().await?;
                (Reader::new(place.clone()), place)
            }
        };
        // After the reader: what changes while it is read comes again, and nothing is missed.
        let snapshot = match params.snapshot {
            Some(SnapshotParams { sort, limit }) => {
                let part = PagePart::check(&caller, filter.clone(), sort.as_deref(), limit)
                    .map_err(|error| error.within("snapshot"))?;
                let page = listing::first_page(self, peer, &caller, part).await?;
                let page = to_raw_value(&page).map_err(|_| RpcError::Internal)?;
                // Refused here: a subscription whose reply is too large to be sent would have no owner.
                if page.get().len() + ENVELOPE_BYTES > self.config.limits.reply_bytes {
                    return Err(RpcError::ResponseTooLarge);
                }
                Some(page)
            }
            None => None,
        };
        let replied = extensions.get::<Replied>().cloned().ok_or(RpcError::Internal)?;
        let subscription = subscriptions.open(filter, reader, replied, max).ok_or(RpcError::TooManySubscriptions)?;
        Ok(Subscribed { subscription, position: place.encode(), snapshot })
    }

    /// Opens each of the subscriptions that a returning client asks for. Beyond as many as a socket may have nothing is
    /// looked at: each costs the store a read, whether it can be opened or not.
    pub(super) async fn resume(&self, extensions: &Extensions, resume: Vec<SubscribeParams>) -> Vec<Resumed> {
        let max = self.config.limits.subscriptions;
        let mut resumed = Vec::with_capacity(resume.len());
        for (at, params) in resume.into_iter().enumerate() {
            let opened = match at < max {
                true => self.open_subscription(extensions, params).await,
                false => Err(RpcError::TooManySubscriptions),
            };
            resumed.push(match opened {
                Ok(subscribed) => Resumed::Subscribed(subscribed),
                Err(error) => Resumed::Refused { error: error.into() },
            });
        }
        resumed
    }

    /// The place that a client names.
    async fn place_of(&self, since: &str) -> Result<Place, RpcError> {
        Ok(if since == "start" { self.feed.start().await? } else { Place::decode(since)? })
    }

    /// The changes of a page behind `place` that match, and the place behind those.
    async fn matching(
        &self,
        peer: &Peer,
        place: &Place,
        page: Page,
        filter: Option<&Filter>,
    ) -> Result<(ChangesResult, Place), RpcError> {
        let caller = self.caller_behind(&page, peer, filter).await?;
        let Page { changes: read, mut after, mut more } = page;
        let mut bytes = ENVELOPE_BYTES;
        let mut changes = Vec::new();
        let mut last = place;
        for (at, change) in read.iter().enumerate() {
            if let Some(scope) = change.scope(filter) {
                // In memory there are changes that were told before they were final: they name an earlier place.
                let place = if at + 1 == read.len() { &after } else { &*change.place };
                let body = change.body(place, Form::of(caller.kind(), caller.target(&change.user().username)), scope);
                bytes += body.len();
                if bytes > self.config.limits.reply_bytes && !changes.is_empty() {
                    (more, after) = (true, last.clone());
                    break;
                }
                changes.push(RawValue::from_string(body).map_err(|_| RpcError::Internal)?);
            }
            last = &change.place;
        }
        Ok((ChangesResult { changes, position: after.encode(), more }, after))
    }

    /// The caller whom a page is for, if they may still have it, with whatever the page itself says about them.
    async fn caller_behind(&self, page: &Page, peer: &Peer, filter: Option<&Filter>) -> Result<CallerUser, RpcError> {
        let identity = peer.identity().ok_or(RpcError::Unauthenticated)?;
        let username = &identity.account.user().username;
        for change in page.changes.iter().filter(|change| change.user().username == *username) {
            self.directory.follow(change.user()).await;
        }
        let caller = self.caller_now(peer).await?;
        self.allow(&caller, Method::UsersChanges, Target::Nobody)?;
        if may_watch(&caller, filter) { Ok(caller) } else { Err(RpcError::FilterRefused("filter".to_owned())) }
    }
}

fn subscriptions_of(extensions: &Extensions) -> Result<&Arc<Subscriptions>, RpcError> {
    extensions.get::<Arc<Subscriptions>>().ok_or(RpcError::WebsocketOnly)
}
