//! The wire surface: a text comes in, the method it names answers.
//!
//! Methods are jsonrpsee `#[rpc]` traits, one a namespace, collected in one table that is indexed by
//! [`Method`]. This file owns everything around them: envelope, batch, rights before parameters, deadlines,
//! panics, and the exact text of ids.

pub mod auth;
pub mod cursor;
mod envelope;
pub mod error;
pub mod listing;
pub mod params;
pub mod system;
pub mod users;
mod view;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use jsonrpsee::core::server::{MethodCallback, MethodResponse, Methods};
use jsonrpsee::types::{ErrorObjectOwned, Id, Params};
use jsonrpsee::{ConnectionId, Extensions};
use tokio::sync::Semaphore;

pub use envelope::MAX_DEPTH;
use error::RpcError;
pub use view::UserView;

use crate::auth::hashing::Hasher;
use crate::auth::password::Policy;
use crate::auth::token::Tokens;
use crate::clock::Clock;
use crate::config::Config;
use crate::directory::Directory;
use crate::permission::{Method, Target, Verdict, may_call};
use crate::sessions::{CallerUser, Peer, Presence};
use crate::store::Store;
use crate::users::user::Refusal;
use cursor::CursorKey;

/// What handlers need, built once.
pub struct Context {
    /// The settings.
    pub config: Config,
    /// The time.
    pub clock: Clock,
    /// The home of the users.
    pub store: Arc<dyn Store>,
    /// The users as this node knows them.
    pub directory: Arc<Directory>,
    /// The signed-in sockets.
    pub presence: Arc<Presence>,
    /// The pool that hashes passwords.
    pub hasher: Hasher,
    /// What a new password must be like.
    pub policy: Arc<Policy>,
    /// Access tokens.
    pub tokens: Tokens,
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
    /// Carries the peer through jsonrpsee to the handlers.
    extensions: Extensions,
    /// A permit for each member of a batch that may be under way.
    calls: Arc<Semaphore>,
}

impl Client {
    /// The client behind a peer, with at most this many members of batches under way at once.
    pub fn new(peer: Arc<Peer>, calls_in_flight: usize) -> Self {
        let mut extensions = Extensions::new();
        extensions.insert(peer.clone());
        Self { peer, extensions, calls: Arc::new(Semaphore::new(calls_in_flight)) }
    }

    /// Whether its batches have as many members under way as it may have calls.
    pub fn is_full(&self) -> bool {
        self.calls.available_permits() == 0
    }
}

/// The connection that a call came on.
fn peer_of(extensions: &Extensions) -> Result<&Arc<Peer>, RpcError> {
    extensions.get::<Arc<Peer>>().ok_or(RpcError::Internal)
}

/// The caller of a call, checked against the table for a call about `target`.
fn allow(caller: &CallerUser, method: Method, target: Target) -> Result<(), RpcError> {
    match may_call(caller.kind(), method, target) {
        Verdict::Allowed => Ok(()),
        Verdict::SignInFirst => Err(RpcError::Unauthenticated),
        Verdict::Forbidden => Err(RpcError::Forbidden),
    }
}

/// The reply to one message.
#[derive(Debug)]
pub struct Reply {
    /// The text to send; `None` when the message held only notifications.
    pub text: Option<String>,
    /// The error with id null that the whole message gave, when nothing of it was dispatched.
    pub refused: Option<i32>,
}

impl Reply {
    /// This text, as it is.
    pub fn verbatim(text: String) -> Self {
        Self::answered(Some(text))
    }

    fn answered(text: Option<String>) -> Self {
        Self { text, refused: None }
    }

    fn refused(error: RpcError) -> Self {
        let code = error.code();
        Self { text: Some(error_text("null", error)), refused: Some(code) }
    }

    /// Whether the message was not JSON-RPC at all.
    pub fn unparsable(&self) -> bool {
        matches!(self.refused, Some(-32700 | -32600))
    }
}

/// A reply, or the work that leads to it.
pub enum Answer {
    /// Ready at once.
    Now(Reply),
    /// Still under way; dropping it abandons the call.
    Later(BoxFuture<'static, Reply>),
}

/// The dispatcher over all methods.
pub struct Rpc {
    /// By `Method as usize`.
    callbacks: Vec<MethodCallback>,
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
            Methods::from(users::UsersServer::into_rpc(handlers.clone())),
            Methods::from(system::SystemServer::into_rpc(handlers)),
        ] {
            methods.merge(module).expect("no two namespaces share a method name");
        }
        assert_eq!(methods.method_names().count(), Method::ALL.len(), "every handler has a row in the table");
        let callback = |method: &Method| {
            let (_, callback) = methods.method_with_name(method.name()).expect("every row has a handler");
            callback.clone()
        };
        Self { callbacks: Method::ALL.iter().map(callback).collect(), context }
    }

    /// Takes one message of a client: a call, a notification or a batch.
    pub fn dispatch(self: &Arc<Self>, client: &Client, text: &str) -> Answer {
        match envelope::open(text, self.context.config.limits.batch_calls) {
            Ok(envelope::Message::Single(text)) => self.single(client, envelope::read(text)),
            Ok(envelope::Message::Batch(members)) => {
                let members = members.iter().map(|member| member.get().to_owned()).collect();
                Answer::Later(self.clone().batch(client.clone(), members).boxed())
            }
            Err(error) => Answer::Now(Reply::refused(error)),
        }
    }

    fn single(&self, client: &Client, read: Result<envelope::Request<'_>, envelope::Rejected<'_>>) -> Answer {
        let request = match read {
            Ok(request) => request,
            Err(rejected) if rejected.id == "null" => return Answer::Now(Reply::refused(rejected.error)),
            Err(rejected) => return Answer::Now(Reply::answered(Some(error_text(rejected.id, rejected.error)))),
        };
        let max_reply = self.context.config.limits.reply_bytes;
        let (mut call, id) = match self.start(client, &request) {
            Ok(started) => started,
            Err(error) => {
                return Answer::Now(Reply::answered(request.id.map(|id| error_text(id, error))));
            }
        };
        // Most calls are answered from memory: poll once in place before parking anything.
        if let Some(response) = (&mut call).now_or_never() {
            return Answer::Now(Reply::answered(id.map(|id| id.answer(response, max_reply))));
        }
        let method = Method::from_name(&request.method);
        let deadline = self.context.config.call_timeout;
        Answer::Later(
            async move {
                let response = match tokio::time::timeout(deadline, call).await {
                    Ok(response) => response,
                    Err(_) => MethodResponse::error(Id::Number(0), ErrorObjectOwned::from(overdue(method))),
                };
                Reply::answered(id.map(|id| id.answer(response, max_reply)))
            }
            .boxed(),
        )
    }

    /// Checks the method and the caller's right to it, and starts the call.
    fn start(
        &self,
        client: &Client,
        request: &envelope::Request<'_>,
    ) -> Result<(BoxFuture<'static, MethodResponse>, Option<ReplyId>), RpcError> {
        let method = Method::from_name(&request.method).ok_or(RpcError::UnknownMethod)?;
        if method.needs_socket() && client.peer.mailbox.is_none() {
            return Err(RpcError::WebsocketOnly);
        }
        allow(&client.peer.caller(), method, Target::Nobody)?;
        if request.params.is_some_and(|params| params.starts_with('[')) {
            let refusal = Refusal::new("by_name", "params must be an object: pass them by name");
            return Err(RpcError::param("", refusal));
        }
        let id = request.id.map(ReplyId::new);
        // One closed object is one positional parameter of the trait's method.
        let params = format!("[{}]", request.params.unwrap_or("{}"));
        let params = Params::new(Some(&params)).into_owned();
        let max = self.context.config.limits.reply_bytes;
        let extensions = client.extensions.clone();
        let for_jsonrpsee = id.as_ref().map_or(Id::Number(0), ReplyId::for_jsonrpsee);
        let call = match &self.callbacks[method as usize] {
            MethodCallback::Async(callback) => callback(for_jsonrpsee, params, ConnectionId(0), max, extensions),
            MethodCallback::Sync(callback) => {
                let callback = callback.clone();
                async move { callback(for_jsonrpsee, params, max, extensions) }.boxed()
            }
            MethodCallback::Subscription(_) | MethodCallback::Unsubscription(_) => return Err(RpcError::Internal),
        };
        Ok((contained(method, call), id))
    }

    /// Runs the members of a batch beside each other and answers in their order.
    async fn batch(self: Arc<Self>, client: Client, members: Vec<String>) -> Reply {
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
                    let reply = match rpc.single(&client, read) {
                        Answer::Now(reply) => reply,
                        Answer::Later(reply) => reply.await,
                    };
                    (id, reply.text, permit)
                }
            })
            .buffered(self.context.config.limits.calls_in_flight);
        let max = self.context.config.limits.reply_bytes;
        let mut text = String::from("[");
        while let Some((id, reply, _permit)) = replies.next().await {
            let Some(mut reply) = reply else { continue };
            if text.len() + reply.len() + 2 > max {
                reply = error_text(id.as_deref().unwrap_or("null"), RpcError::ResponseTooLarge);
            }
            if text.len() > 1 {
                text.push(',');
            }
            text.push_str(&reply);
        }
        text.push(']');
        Reply::answered((text.len() > 2).then_some(text))
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
}
