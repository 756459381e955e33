//! The wire surface: a text comes in, the method it names answers.
//!
//! Methods are jsonrpsee `#[rpc]` traits, one a namespace, collected in one table that is indexed by
//! [`Method`]. This file owns everything around them: envelope, batch, rights before parameters, deadlines,
//! panics, and the exact text of ids.

pub mod auth;
mod closed;
pub mod cursor;
pub(crate) mod envelope;
pub mod error;
pub mod feed;
pub mod listing;
pub mod params;
pub mod sessions;
pub mod system;
pub mod users;

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use jsonrpsee::core::server::{MethodCallback, MethodResponse, Methods};
use jsonrpsee::types::{ErrorObjectOwned, Id, Params};
use jsonrpsee::{ConnectionId, Extensions};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

pub use envelope::MAX_DEPTH;
use envelope::Request;
use error::RpcError;

use crate::auth::hashing::{Busy, Hasher};
use crate::auth::password::Policy;
use crate::auth::refresh::RefreshKey;
use crate::auth::throttle::Throttle;
use crate::auth::token::{LEEWAY, Tokens};
use crate::clock::Clock;
use crate::config::Config;
use crate::directory::Directory;
use crate::feed::Feed;
use crate::feed::subscription::{Opening, Subscriptions};
use crate::logins::Logins;
use crate::metrics::Calls;
use crate::permission::{Method, Target, Verdict, is_privileged, may_call};
use crate::sessions::{Budget, CallerUser, Lost, Peer, Presence};
use crate::store::Store;
use crate::users::user::Refusal;
pub use crate::view::UserView;
use cursor::CursorKey;

/// What handlers need, built once.
pub struct Context {
    /// The settings.
    pub config: Config,
    /// The time.
    pub clock: Clock,
    /// The home of the users.
    pub store: Arc<dyn Store>,
    /// The users feed.
    pub feed: Arc<Feed>,
    /// The users as this node knows them.
    pub directory: Arc<Directory>,
    /// The sessions as this node knows them.
    pub logins: Arc<Logins>,
    /// The signed-in sockets.
    pub presence: Arc<Presence>,
    /// The pool that hashes passwords.
    pub hasher: Arc<Hasher>,
    /// Held while a hash of lower cost is replaced.
    pub upgrading: Arc<tokio::sync::Mutex<()>>,
    /// What a new password must be like.
    pub policy: Arc<Policy>,
    /// How often passwords may be tried and accounts made.
    pub throttle: Throttle,
    /// Access tokens.
    pub tokens: Tokens,
    /// Refresh tokens.
    pub refresh_key: RefreshKey,
    /// Seals cursors.
    pub cursors: CursorKey,
    /// The name of this process in `system.info`.
    pub node: String,
}

/// One client of the table: a connection or an HTTP request.
#[derive(Clone)]
pub struct Client {
    /// Who it is.
    pub peer: Arc<Peer>,
    /// What it is subscribed to; `None` over HTTP.
    pub subscriptions: Option<Arc<Subscriptions>>,
    /// Why it is nobody although it has sent a token.
    pub unidentified: Option<RpcError>,
    /// Carries peer and subscriptions through jsonrpsee to the handlers.
    extensions: Extensions,
    /// A permit for each member of a batch that may be under way.
    calls: Arc<Semaphore>,
}

impl Client {
    /// The client behind a peer, with at most this many members of batches under way at once.
    pub fn new(peer: Arc<Peer>, feed: &Arc<Feed>, calls_in_flight: usize) -> Self {
        let mut extensions = Extensions::new();
        extensions.insert(peer.clone());
        let on_socket = || Arc::new(Subscriptions::new(feed.clone(), peer.clone()));
        let subscriptions = peer.mailbox.as_ref().map(|_| on_socket());
        if let Some(subscriptions) = &subscriptions {
            extensions.insert(subscriptions.clone());
        }
        let calls = Arc::new(Semaphore::new(calls_in_flight));
        Self { peer, subscriptions, unidentified: None, extensions, calls }
    }

    /// Whether its batches have as many members under way as it may have calls.
    pub fn is_full(&self) -> bool {
        self.calls.available_permits() == 0
    }
}

/// When a call came, for those that mind the time themselves.
#[derive(Clone, Copy)]
struct Came(Instant);

/// The connection that a call came on.
fn peer_of(extensions: &Extensions) -> Result<&Arc<Peer>, RpcError> {
    extensions.get::<Arc<Peer>>().ok_or(RpcError::Internal)
}

/// Until when a call may wait for a hash. Not until its own deadline: what has only waited is told so, whatever it spent
/// the time on before.
fn patience(context: &Context, extensions: &Extensions) -> Instant {
    let came = extensions.get::<Came>().map_or_else(Instant::now, |came| came.0);
    came + context.config.call_timeout.mul_f64(0.8)
}

impl From<Lost> for RpcError {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Session => Self::SessionEnded,
            Lost::Right => Self::Forbidden,
            Lost::RightOnOneself => Self::OwnPassword,
            Lost::Contact => Self::StoreUnavailable,
            Lost::Password => Self::BadCredentials,
        }
    }
}

impl Context {
    /// The caller of a call, checked against the table for a call about `target`.
    ///
    /// Errors: `Unauthenticated`, `Forbidden`; `StoreUnavailable` when only a role would allow it that may be stale.
    fn allow(&self, caller: &CallerUser, method: Method, target: Target) -> Result<(), RpcError> {
        match may_call(caller.kind(), method, target) {
            Verdict::Allowed if is_privileged(caller.kind(), method, target) && !self.feed.has_contact() => {
                Err(RpcError::StoreUnavailable)
            }
            Verdict::Allowed => Ok(()),
            Verdict::SignInFirst => Err(RpcError::Unauthenticated),
            Verdict::Forbidden => Err(RpcError::Forbidden),
            Verdict::OwnPassword => Err(RpcError::OwnPassword),
        }
    }

    /// The caller once more, when what they asked for has been read: by their rights now, which may have been revoked
    /// while the store was asked.
    ///
    /// Errors: `SessionEnded` when they were; `TokenExpired`.
    async fn caller_now(&self, peer: &Peer) -> Result<CallerUser, RpcError> {
        let identity = peer.identity().ok_or(RpcError::Unauthenticated)?;
        // As the store has the user, where this node may not have heard of a change.
        self.directory.account(&identity.account.user().username).await?.ok_or(RpcError::SessionEnded)?;
        if !self.logins.has_contact() {
            // As the store has it, or an error that says that it cannot be asked.
            self.logins.get(identity.session.session.id).await?.ok_or(RpcError::SessionEnded)?;
        }
        if self.clock.now() >= identity.expires_at.plus(LEEWAY) {
            return Err(RpcError::TokenExpired);
        }
        if identity.is_current() { Ok(peer.caller()) } else { Err(RpcError::SessionEnded) }
    }
}

/// The reply to one message.
pub struct Reply {
    text: Option<String>,
    /// The error with id null that the whole message gave, when nothing of it was dispatched.
    pub refused: Option<RpcError>,
    /// Whether a call of it needed the token with which it came, and that does not say who calls.
    pub unidentified: bool,
    /// What its calls have opened.
    opened: Vec<Opening>,
}

impl Reply {
    /// This text, as it is.
    pub fn verbatim(text: String) -> Self {
        Self::answered(Some(text))
    }

    fn answered(text: Option<String>) -> Self {
        Self { text, refused: None, unidentified: false, opened: Vec::new() }
    }

    fn refused(error: RpcError) -> Self {
        Self { refused: Some(error.clone()), ..Self::answered(Some(error_text("null", error))) }
    }

    /// The text to send now; `None` when the message held only notifications. A reply that is dropped instead leaves no
    /// subscription behind.
    pub fn into_text(self) -> Option<String> {
        self.opened.into_iter().for_each(Opening::told);
        self.text
    }

    /// Whether the message was not JSON-RPC at all.
    pub fn unparsable(&self) -> bool {
        matches!(self.refused.as_ref().map(RpcError::code), Some(-32700 | -32600))
    }
}

/// A reply, or the work that leads to it.
pub enum Answer {
    /// Ready at once.
    Now(Reply),
    /// Still under way; dropping it abandons what only reads.
    Later(BoxFuture<'static, Reply>),
}

/// A call that was let through.
struct Started {
    call: BoxFuture<'static, MethodResponse>,
    /// `None` for a notification.
    id: Option<ReplyId>,
    /// `None` for methods that cannot open a subscription.
    opening: Option<Opening>,
}

/// The dispatcher over all methods.
pub struct Rpc {
    /// By `Method as usize`.
    callbacks: Vec<MethodCallback>,
    /// Calls under way that write. Each is a task of its own: neither its caller's leaving nor its deadline ends it.
    writes: TaskTracker,
    budget: Budget,
    answers: Arc<Calls>,
    /// Shared with the handlers.
    pub context: Arc<Context>,
}

impl Rpc {
    /// Collects the methods of all namespaces.
    ///
    /// # Panics
    /// When a method of the permission table has no handler, or a handler no row in the table.
    pub fn new(context: Arc<Context>) -> Self {
        let handlers = Handlers(context.clone());
        let mut methods = Methods::new();
        for module in [
            Methods::from(auth::AuthServer::into_rpc(handlers.clone())),
            Methods::from(sessions::SessionsServer::into_rpc(handlers.clone())),
            Methods::from(users::UsersServer::into_rpc(handlers.clone())),
            Methods::from(feed::FeedServer::into_rpc(handlers.clone())),
            Methods::from(system::SystemServer::into_rpc(handlers)),
        ] {
            methods.merge(module).expect("no two namespaces share a method name");
        }
        assert_eq!(methods.method_names().count(), Method::ALL.len(), "every handler has a row in the table");
        let callback = |method: &Method| {
            let (_, callback) = methods.method_with_name(method.name()).expect("every row has a handler");
            callback.clone()
        };
        let limits = &context.config.limits;
        let budget = Budget::new(limits.calls_per_second, limits.calls_burst);
        let callbacks = Method::ALL.iter().map(callback).collect();
        Self { callbacks, writes: TaskTracker::new(), budget, answers: Arc::default(), context }
    }

    /// Waits for what is being written.
    pub async fn close(&self) {
        self.writes.close();
        self.writes.wait().await;
    }

    /// Takes one message of a client: a call, a notification or a batch. Its deadline counts from when it came, which is now
    /// where nothing else is said.
    pub fn dispatch(self: &Arc<Self>, client: &Client, text: &str, came: Option<Instant>) -> Answer {
        match envelope::open(text, self.context.config.limits.batch_calls) {
            Ok(envelope::Message::Single(text)) => self.single(client, envelope::read(text), came),
            Ok(envelope::Message::Batch(members)) => {
                let members = members.iter().map(|member| member.get().to_owned()).collect();
                let came = came.unwrap_or_else(Instant::now);
                let mut batch = self.clone().batch(client.clone(), members, came).boxed();
                // Begun in place, so that its members count before the next message is taken.
                match (&mut batch).now_or_never() {
                    Some(reply) => Answer::Now(reply),
                    None => Answer::Later(batch),
                }
            }
            Err(error) => {
                Answer::Now(Reply::refused(self.refuse(client, None, came.unwrap_or_else(Instant::now), error)))
            }
        }
    }

    /// Makes one call, whose params are this object. Its id is of no consequence.
    pub fn call(&self, client: &Client, method: Method, params: &str, came: Instant) -> Answer {
        let request = Request { id: Some("0"), method: Cow::Borrowed(method.name()), params: Some(params) };
        self.single(client, Ok(request), Some(came))
    }

    /// Counts what cannot be read as a call, like a call: in the budget of who sent it, and in the metrics. Answers with the
    /// error to tell, which is another one where the caller may not call the method, or not now.
    pub fn refuse(&self, client: &Client, method: Option<Method>, came: Instant, error: RpcError) -> RpcError {
        let caller = self.take(client, Instant::now());
        let judged = caller.and_then(|caller| method.map_or(Ok(()), |method| self.judge(client, &caller, method)));
        let error = judged.err().unwrap_or(error);
        self.answers.answered(method, Some(error.code()), came.elapsed());
        error
    }

    /// Takes a call from the budget of its caller.
    ///
    /// Errors: `RateLimited`.
    fn take(&self, client: &Client, now: Instant) -> Result<CallerUser, RpcError> {
        client.peer.call(&self.budget, now).map_err(|retry_after| {
            client.peer.refuse_call(&self.budget, now);
            RpcError::RateLimited { retry_after }
        })
    }

    /// Checks whether the caller may call a method at all.
    ///
    /// Errors: as [`Context::allow`]; where the caller's token says why they are nobody, that.
    fn judge(&self, client: &Client, caller: &CallerUser, method: Method) -> Result<(), RpcError> {
        self.context.allow(caller, method, Target::Nobody).map_err(|error| match (error, &client.unidentified) {
            (RpcError::Unauthenticated, Some(why)) => why.clone(),
            (error, _) => error,
        })
    }

    fn single(
        &self,
        client: &Client,
        read: Result<Request<'_>, envelope::Rejected<'_>>,
        came: Option<Instant>,
    ) -> Answer {
        let now = Instant::now();
        let came = came.unwrap_or(now);
        let request = match read {
            Ok(request) => request,
            Err(rejected) => {
                let error = self.refuse(client, None, came, rejected.error);
                return Answer::Now(match rejected.id {
                    "null" => Reply::refused(error),
                    id => Reply::answered(Some(error_text(id, error))),
                });
            }
        };
        let max_reply = self.context.config.limits.reply_bytes;
        let method = Method::from_name(&request.method);
        let caller = match self.take(client, now) {
            Ok(caller) => caller,
            Err(error) => return Answer::Now(self.refused(method, request.id, came, error)),
        };
        let Started { mut call, id, opening } = match self.start(client, &caller, &request, came) {
            Ok(started) => started,
            Err(error) => {
                let unidentified = client.unidentified.as_ref().is_some_and(|why| why.code() == error.code());
                let reply = self.refused(method, request.id, came, error);
                return Answer::Now(Reply { unidentified, ..reply });
            }
        };
        let answers = self.answers.clone();
        let reply = move |response: MethodResponse| {
            answers.answered(method, response.as_error_code(), came.elapsed());
            let opened = opening.into_iter().filter(|_| response.is_success()).collect();
            Reply { opened, ..Reply::answered(id.map(|id| id.answer(response, max_reply))) }
        };
        // Most calls are answered from memory: poll once in place before parking anything.
        if let Some(response) = (&mut call).now_or_never() {
            return Answer::Now(reply(response));
        }
        if method.is_some_and(Method::outlives_its_caller) {
            let write = self.writes.spawn(call);
            let lost = move |_| MethodResponse::error(Id::Number(0), ErrorObjectOwned::from(overdue(method)));
            call = write.map(move |done| done.unwrap_or_else(lost)).boxed();
        }
        let mut deadline = self.context.config.call_timeout;
        if method == Some(Method::UsersChanges) {
            // It waits for as long as it is asked to, and minds its deadline itself.
            deadline += feed::WAIT_MAX;
        }
        Answer::Later(
            async move {
                reply(match tokio::time::timeout_at(came + deadline, call).await {
                    Ok(response) => response,
                    Err(_) => MethodResponse::error(Id::Number(0), ErrorObjectOwned::from(overdue(method))),
                })
            }
            .boxed(),
        )
    }

    /// The answer to a call that is not made.
    fn refused(&self, method: Option<Method>, id: Option<&str>, came: Instant, error: RpcError) -> Reply {
        self.answers.answered(method, Some(error.code()), came.elapsed());
        Reply::answered(id.map(|id| error_text(id, error)))
    }

    /// Checks the method and the caller's right to it, and starts the call.
    fn start(
        &self,
        client: &Client,
        caller: &CallerUser,
        request: &Request<'_>,
        came: Instant,
    ) -> Result<Started, RpcError> {
        let method = Method::from_name(&request.method).ok_or(RpcError::UnknownMethod)?;
        if method.needs_socket() && client.peer.mailbox.is_none() {
            return Err(RpcError::WebsocketOnly);
        }
        self.judge(client, caller, method)?;
        if request.params.is_some_and(|params| params.starts_with('[')) {
            let refusal = Refusal::new("by_name", "params must be an object: pass them by name");
            return Err(RpcError::param("", refusal));
        }
        let id = request.id.map(ReplyId::new);
        // One closed object is one positional parameter of the trait's method.
        let params = format!("[{}]", request.params.unwrap_or("{}"));
        let params = Params::new(Some(&params)).into_owned();
        let max = self.context.config.limits.reply_bytes;
        let mut extensions = client.extensions.clone();
        let opening = client.subscriptions.clone().filter(|_| method.needs_socket()).map(Opening::new);
        if let Some(opening) = &opening {
            extensions.insert(opening.replied.clone());
        }
        if method == Method::UsersChanges || method.hashes() {
            extensions.insert(Came(came));
        }
        let for_jsonrpsee = id.as_ref().map_or(Id::Number(0), ReplyId::for_jsonrpsee);
        let call = match &self.callbacks[method as usize] {
            MethodCallback::Async(callback) => callback(for_jsonrpsee, params, ConnectionId(0), max, extensions),
            MethodCallback::Sync(callback) => {
                let callback = callback.clone();
                async move { callback(for_jsonrpsee, params, max, extensions) }.boxed()
            }
            MethodCallback::Subscription(_) | MethodCallback::Unsubscription(_) => return Err(RpcError::Internal),
        };
        Ok(Started { call: contained(method, call), id, opening })
    }

    /// Runs the members of a batch beside each other and answers in their order. Those whose turn comes when half of their
    /// time is over are not begun: what would be cut off then may be a write.
    async fn batch(self: Arc<Self>, client: Client, members: Vec<String>, came: Instant) -> Reply {
        let mut replies = stream::iter(members)
            .map(|member| {
                let (rpc, client) = (self.clone(), client.clone());
                async move {
                    // Held until the reply is taken, so that replies that wait for an earlier one are bounded too.
                    let permit = client.calls.clone().acquire_owned().await.ok();
                    let read = envelope::read(&member);
                    let id = match &read {
                        Ok(request) => request.id.map(str::to_owned),
                        Err(rejected) => Some(rejected.id.to_owned()),
                    };
                    let patience = rpc.context.config.call_timeout / 2;
                    let answer = match read {
                        Ok(request) if came.elapsed() > patience => {
                            let (method, busy) = (Method::from_name(&request.method), Busy { retry_after: patience });
                            let error = rpc.refuse(&client, method, came, busy.into());
                            Answer::Now(Reply::answered(request.id.map(|id| error_text(id, error))))
                        }
                        read => rpc.single(&client, read, Some(came)),
                    };
                    let reply = match answer {
                        Answer::Now(reply) => reply,
                        Answer::Later(reply) => reply.await,
                    };
                    (id, reply, permit)
                }
            })
            .buffered(self.context.config.limits.calls_in_flight);
        let max = self.context.config.limits.reply_bytes;
        let mut text = String::from("[");
        let (mut opened, mut unidentified) = (Vec::new(), false);
        while let Some((id, reply, permit)) = replies.next().await {
            let was_full = client.is_full();
            drop(permit);
            if let Some(mailbox) = client.peer.mailbox.as_ref().filter(|_| was_full) {
                // The socket is read again.
                mailbox.wake();
            }
            unidentified |= reply.unidentified;
            let mut part = reply.text;
            if part.as_ref().is_some_and(|part| text.len() + part.len() + 2 > max) {
                part = Some(error_text(id.as_deref().unwrap_or("null"), RpcError::ResponseTooLarge));
            } else {
                opened.extend(reply.opened);
            }
            let Some(part) = part else { continue };
            if text.len() > 1 {
                text.push(',');
            }
            text.push_str(&part);
        }
        text.push(']');
        Reply { opened, unidentified, ..Reply::answered((text.len() > 2).then_some(text)) }
    }
}

/// The call, whose panic costs only itself.
fn contained(method: Method, call: BoxFuture<'static, MethodResponse>) -> BoxFuture<'static, MethodResponse> {
    let call = AssertUnwindSafe(call).catch_unwind().map(move |outcome| {
        outcome.unwrap_or_else(|_| {
            tracing::error!(rpc.method = method.name(), "a handler panicked");
            MethodResponse::error(Id::Number(0), ErrorObjectOwned::from(RpcError::Internal))
        })
    });
    call.boxed()
}

/// What a call that passed its deadline is told.
fn overdue(method: Option<Method>) -> RpcError {
    match method {
        Some(method) if method.writes() => RpcError::OutcomeUnknown,
        _ => RpcError::StoreTimeout,
    }
}

/// The error reply under an id of any legal text.
fn error_text(id: &str, error: RpcError) -> String {
    let error = serde_json::to_string(&ErrorObjectOwned::from(error)).expect("an error object is plain data");
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
}

/// The id of a call, with the way to get its exact text into jsonrpsee's reply.
enum ReplyId {
    /// jsonrpsee writes this number as the client did.
    Number(u64),
    /// jsonrpsee cannot hold it or would write it otherwise: its reply is given this text instead.
    Verbatim(String),
}

/// How every reply of jsonrpsee to an id of 0 begins.
const PLACEHOLDER: &str = r#"{"jsonrpc":"2.0","id":0,"#;

impl ReplyId {
    fn new(text: &str) -> Self {
        match text.parse::<u64>() {
            Ok(number) if !(text.starts_with('+') || text.starts_with('0') && text.len() > 1) => Self::Number(number),
            _ => Self::Verbatim(text.to_owned()),
        }
    }

    fn for_jsonrpsee(&self) -> Id<'static> {
        match self {
            Self::Number(number) => Id::Number(*number),
            Self::Verbatim(_) => Id::Number(0),
        }
    }

    /// The text of the reply under this id.
    fn answer(&self, response: MethodResponse, max_reply: usize) -> String {
        let number = match self {
            Self::Number(number) => *number,
            Self::Verbatim(_) => 0,
        };
        if response.as_error_code() == Some(-32008) {
            tracing::warn!(max_reply, "a reply was larger than the limit");
            return error_text(&self.text(), RpcError::ResponseTooLarge);
        }
        let text = String::from(Box::<str>::from(response.into_json()));
        match self {
            // A failure of the dispatcher itself was written under 0.
            Self::Number(_) if number == 0 || !text.starts_with(PLACEHOLDER) => text,
            _ => match text.strip_prefix(PLACEHOLDER) {
                Some(rest) => format!(r#"{{"jsonrpc":"2.0","id":{},{rest}"#, self.text()),
                None => error_text(&self.text(), RpcError::Internal),
            },
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Verbatim(text) => text.clone(),
        }
    }
}

/// Answers the methods of every namespace.
#[derive(Clone)]
struct Handlers(Arc<Context>);

impl std::ops::Deref for Handlers {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn j05_a_panic_is_an_internal_error_of_its_call_alone() {
        let panicking = async { panic!("a handler has a fault") }.boxed();
        let response = contained(Method::SystemPing, panicking).await;
        let text = ReplyId::new("\"x\"").answer(response, 1 << 20);
        assert!(text.starts_with(r#"{"jsonrpc":"2.0","id":"x","error":{"code":-32603,"#), "{text}");
        assert!(!text.contains("fault"));
    }

    /// A log that is read by the one who writes it.
    #[derive(Clone, Default)]
    struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn s24_the_request_id_of_an_internal_error_is_in_the_log_with_its_cause() {
        let log = Log::default();
        let writer = log.clone();
        let lines = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
        let text = tracing::subscriber::with_default(lines, || {
            let panicking = async { panic!("a handler has a fault") }.boxed();
            let response = contained(Method::SystemPing, panicking).now_or_never().unwrap();
            ReplyId::new("1").answer(response, 1 << 20)
        });
        let reply: serde_json::Value = serde_json::from_str(&text).unwrap();
        let request = reply["error"]["data"]["request_id"].as_str().unwrap();
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<&str> = log.lines().collect();
        assert!(lines[0].contains("system.ping") && lines[0].contains("panicked"), "{log}");
        assert!(lines[1].contains(request), "{request} is not in {log}");
    }
}
