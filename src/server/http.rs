//! The routes, and `POST /rpc`.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{
    ACCEPT_ENCODING, ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderName,
    HeaderValue, RETRY_AFTER, USER_AGENT, WWW_AUTHENTICATE,
};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, Request, Response, StatusCode, Version};
use axum::routing::{any, delete, get, post};
use axum::{BoxError, Router};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use jsonrpsee::types::ErrorObjectOwned;
use serde_json::json;
use tokio::time::Instant;

use super::stream::Progress;
use super::{App, health, jwks, rest, upgrade};
use crate::permission::Method;
use crate::rpc::error::RpcError;
use crate::rpc::{Answer, Client};
use crate::sessions::Peer;

/// The longest `User-Agent` that is kept, in bytes.
const USER_AGENT_MAX_BYTES: usize = 256;

/// What a connection knows of who is at its other end, put beside each request by the accept loop.
pub struct OtherEnd {
    /// The peer of the socket: a client, or a proxy.
    peer: IpAddr,
    /// How far its request is.
    progress: Arc<Progress>,
    /// The headers that named the last caller, and that caller: scripts send the same token again and again.
    last: Mutex<Option<Remembered>>,
}

/// A caller whose token was verified on this connection.
struct Remembered {
    authorization: HeaderValue,
    user_agent: Option<HeaderValue>,
    client: Client,
}

impl OtherEnd {
    /// A connection from an address, on which nobody has called yet.
    pub fn new(peer: IpAddr, progress: Arc<Progress>) -> Self {
        Self { peer, progress, last: Mutex::new(None) }
    }

    /// The last caller, if these headers named them and it called from this address.
    fn remembered(&self, address: IpAddr, headers: &HeaderMap) -> Option<Client> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |last: &&Remembered| {
            headers.get(AUTHORIZATION) == Some(&last.authorization)
                && headers.get(USER_AGENT) == last.user_agent.as_ref()
                && last.client.peer.address == address
        };
        last.as_ref().filter(same).map(|last| last.client.clone())
    }
}

/// The type of every response.
pub type HttpResponse = Response<Body>;

/// Every route of the gateway.
pub fn routes(app: Arc<App>) -> Router {
    let (read, only_rpc) = (|| wrong_method("GET, HEAD"), || wrong_method("GET, POST"));
    let me = get(rest::get_me).patch(rest::update_me).delete(rest::deactivate_me);
    let admin = delete(rest::deactivate).patch(rest::update).fallback(|| wrong_method("PATCH, DELETE"));
    Router::new()
        // A handshake is a GET, and HEAD would have nothing else to ask for.
        .route("/rpc", get(upgrade::upgrade).head(only_rpc).fallback(only_rpc))
        .route("/healthz", get(health::live).fallback(read))
        .route("/healthz/", get(health::live).fallback(read))
        .route("/readyz", get(health::ready).fallback(read))
        .route("/readyz/", get(health::ready).fallback(read))
        .route("/.well-known/jwks.json", get(jwks::jwks).fallback(read))
        .route("/auth/register", post(rest::register).fallback(|| wrong_method("POST")))
        .route("/auth/login", post(rest::login).fallback(|| wrong_method("POST")))
        .route("/users", get(rest::list).fallback(read))
        .route("/users/me", me.fallback(|| wrong_method("GET, HEAD, PATCH, DELETE")))
        .route("/users/{username}", get(rest::get).fallback(read))
        .route("/admin/users/{username}", admin)
        .fallback(any(not_found))
        .with_state(app)
}

/// Answers `POST /rpc`. The accept loop calls it: the router costs as much as a call.
pub async fn rpc(app: &App, request: Request<Incoming>) -> HttpResponse {
    let unreadable = unreadable(request.headers(), &["application/json", "application/json-rpc"]);
    let received = match receive(app, request).await {
        Ok(received) => received,
        Err(error) => return rpc_error(status_of(error.code()), error),
    };
    let refused = |status, error| {
        let (status, error) = refuse(app, &received, None, status, error);
        rpc_error(status, error)
    };
    if let Some(unreadable) = unreadable {
        return unreadable.declared(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, unreadable.error()));
    }
    let Ok(text) = std::str::from_utf8(&received.body) else {
        return refused(StatusCode::BAD_REQUEST, RpcError::Parse("The message is not UTF-8."));
    };
    let client = &received.client;
    let reply = match app.rpc.dispatch(client, text, Some(received.came)) {
        Answer::Now(reply) => reply,
        Answer::Later(reply) => reply.await,
    };
    let error = if reply.unidentified { client.unidentified.clone() } else { reply.refused.clone() };
    let status = error.as_ref().map(|error| status_of(error.code()));
    let mut response = match reply.into_text() {
        None => respond(status.unwrap_or(StatusCode::NO_CONTENT), None, Body::empty()),
        Some(text) => respond(status.unwrap_or(StatusCode::OK), Some("application/json"), Body::from(text)),
    };
    if let Some(error) = error {
        tell(&mut response, error.code(), error.retry_after());
    }
    response
}

/// The refusal of a request that is no call, under this status: it counts like a call, and there may be a better reason.
pub fn refuse(
    app: &App,
    received: &Received,
    method: Option<Method>,
    status: StatusCode,
    error: RpcError,
) -> (StatusCode, RpcError) {
    let code = error.code();
    let error = app.rpc.refuse(&received.client, method, received.came, error);
    (if error.code() == code { status } else { status_of(error.code()) }, error)
}

/// A request that has come whole.
pub struct Received {
    /// Its caller, by the bearer token: nobody where that does not say who, which matters to what not anyone may call.
    pub client: Client,
    /// Its body.
    pub body: Bytes,
    /// When its last byte came.
    pub came: Instant,
}

/// A request with its body up to the limit and in time. Who calls is found out within the call's deadline.
pub async fn receive<B>(app: &App, request: Request<B>) -> Result<Received, RpcError>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let (head, body) = request.into_parts();
    let config = &app.rpc.context.config;
    let max = config.limits.message_bytes;
    if body.size_hint().lower() > max as u64 {
        return Err(RpcError::RequestTooLarge);
    }
    let bytes = body.size_hint().upper().map_or(max, |bytes| usize::try_from(bytes).unwrap_or(max).min(max));
    let patience = config.timeouts.body + Duration::from_secs(1) * u32::try_from(bytes >> 16).unwrap_or(u32::MAX);
    // Read before anything is judged: a body left unread ends the connection.
    let body = match tokio::time::timeout(patience, Limited::new(body, max).collect()).await {
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(RpcError::RequestTooLarge),
        read => {
            // Whatever has not come by now is not waited for.
            other_end(&head.extensions).progress.read();
            match read {
                Ok(Ok(body)) => body.to_bytes(),
                Ok(Err(_)) => return Err(RpcError::InvalidRequest("The body could not be read.")),
                Err(_) => return Err(RpcError::InvalidRequest("The body did not come in time.")),
            }
        }
    };
    let came = Instant::now();
    let found = tokio::time::timeout_at(came + config.call_timeout, client(app, &head)).await;
    let client = found.unwrap_or(Err(RpcError::StoreTimeout)).unwrap_or_else(|why| {
        let mut client = nobody(app, &head);
        client.unidentified = Some(why);
        client
    });
    Ok(Received { client, body, came })
}

/// The client of a request that names nobody.
fn nobody(app: &App, head: &Parts) -> Client {
    let context = &app.rpc.context;
    let address = client_address(app, &head.extensions, &head.headers);
    let peer = Peer::new(0, address, user_agent(&head.headers), None);
    Client::new(Arc::new(peer), &context.feed, context.config.limits.calls_in_flight)
}

/// Who makes a request: remembered from the connection's last one where the token is the same and still good.
async fn client(app: &App, head: &Parts) -> Result<Client, RpcError> {
    let (other_end, headers) = (other_end(&head.extensions), &head.headers);
    let context = &app.rpc.context;
    let address = client_address(app, &head.extensions, headers);
    let Some(token) = bearer(headers)? else { return Ok(nobody(app, head)) };
    if let Some(client) = other_end.remembered(address, headers)
        && let Some(identity) = client.peer.identity()
        // As the store has the user, where this node may not have heard of a change.
        && context.directory.account(&identity.account.user().username).await?.is_some()
        && context.is_good(&identity)
    {
        context.logins.seen(&identity.session, || client.peer.origin());
        return Ok(client);
    }
    let client = nobody(app, head);
    let identity = context.identity_of(token, || client.peer.origin()).await?;
    client.peer.identify(identity);
    if let Some(authorization) = headers.get(AUTHORIZATION).cloned() {
        let remembered =
            Remembered { authorization, user_agent: headers.get(USER_AGENT).cloned(), client: client.clone() };
        *other_end.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(remembered);
    }
    Ok(client)
}

/// What the accept loop put beside the request.
fn other_end(extensions: &Extensions) -> Arc<OtherEnd> {
    extensions.get::<Arc<OtherEnd>>().expect("the accept loop adds it to every request").clone()
}

/// The address that a request comes from.
pub fn client_address(app: &App, extensions: &Extensions, headers: &HeaderMap) -> IpAddr {
    app.rpc.context.config.trusted_proxies.client_address(other_end(extensions).peer, headers)
}

/// The `User-Agent`, cut to 256 bytes of visible ASCII.
pub fn user_agent(headers: &HeaderMap) -> Option<Box<str>> {
    let text = headers.get(USER_AGENT)?.to_str().ok()?;
    Some(text[..text.len().min(USER_AGENT_MAX_BYTES)].into())
}

/// The bearer token of a request; `None` when there is no `Authorization`.
///
/// Errors: `TokenInvalid` for an `Authorization` of any other kind.
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>, RpcError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    match value.to_str().ok().and_then(|text| text.split_once(' ')) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && values.next().is_none() => {
            Ok(Some(token.trim()))
        }
        _ => Err(RpcError::TokenInvalid),
    }
}

/// Why a body is not read: by its headers.
#[derive(Debug, Clone, Copy)]
pub enum Unreadable {
    /// Its `Content-Type`.
    Type,
    /// Its `Content-Encoding`.
    Encoding,
}

/// Whether a body is something else than plain text of one of these types, which are the first one by another name.
pub fn unreadable(headers: &HeaderMap, types: &[&str]) -> Option<Unreadable> {
    let plain = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(CONTENT_ENCODING).iter().all(plain) {
        return Some(Unreadable::Encoding);
    }
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let given = text.split(';').next().unwrap_or_default().trim();
    (!types.iter().any(|each| each.eq_ignore_ascii_case(given))).then_some(Unreadable::Type)
}

impl Unreadable {
    /// As an error.
    pub fn error(self) -> RpcError {
        RpcError::InvalidRequest(match self {
            Self::Type => "The Content-Type must be application/json.",
            Self::Encoding => "The body must not be encoded: send it without a Content-Encoding.",
        })
    }

    /// The 415 of it: where the encoding is the reason, and only there, it names those that are read (RFC 7694 §3).
    pub fn declared(self, mut response: HttpResponse) -> HttpResponse {
        if matches!(self, Self::Encoding) {
            response.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        response
    }
}

/// The HTTP status that goes with an error code.
pub fn status_of(code: i32) -> StatusCode {
    match code {
        1001..=1005 => StatusCode::UNAUTHORIZED,
        1007 | 1101 | 1102 => StatusCode::FORBIDDEN,
        1201 => StatusCode::NOT_FOUND,
        1202 | 1203 => StatusCode::CONFLICT,
        1205 => StatusCode::UNPROCESSABLE_ENTITY,
        1301 | 1302 => StatusCode::TOO_MANY_REQUESTS,
        1303 | 1501..=1503 => StatusCode::SERVICE_UNAVAILABLE,
        -32603 | -32008 => StatusCode::INTERNAL_SERVER_ERROR,
        -32007 => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// A response with the headers that every one carries.
pub fn respond(status: StatusCode, content_type: Option<&'static str>, body: Body) -> HttpResponse {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if let Some(content_type) = content_type {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));
    response
}

/// Says in headers what they can say of an error: how to sign in, and when to come back, in whole seconds.
pub fn tell(response: &mut HttpResponse, code: i32, retry_after: Option<Duration>) {
    if response.status() == StatusCode::UNAUTHORIZED {
        // RFC 6750 §3: without a token nothing is wrong with it.
        let bearer = if matches!(code, 1002..=1004) { r#"Bearer error="invalid_token""# } else { "Bearer" };
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(bearer));
    }
    if let Some(after) = retry_after {
        let seconds = u64::try_from(after.as_millis().div_ceil(1000)).unwrap_or(u64::MAX).max(1);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
}

/// A refusal of a whole request to `/rpc`: a JSON-RPC error with id null.
pub fn rpc_error(status: StatusCode, error: RpcError) -> HttpResponse {
    let (code, after) = (error.code(), error.retry_after());
    let body = json!({"jsonrpc": "2.0", "id": null, "error": ErrorObjectOwned::from(error)});
    let mut response = respond(status, Some("application/json"), Body::from(body.to_string()));
    tell(&mut response, code, after);
    response
}

/// A refusal of a whole request to any path.
pub fn refusal(path: &str, status: StatusCode, error: RpcError) -> HttpResponse {
    match path {
        "/rpc" => rpc_error(status, error),
        _ => rest::problem_with(status, &error.into()),
    }
}

/// The answer to a request that does not name its host as it must (RFC 9112 §3.2).
pub fn refuse_host<B>(request: &Request<B>) -> Option<HttpResponse> {
    let hosts = request.headers().get_all(HOST).iter().count();
    if hosts == 1 || hosts == 0 && request.version() < Version::HTTP_11 {
        return None;
    }
    let error = RpcError::InvalidRequest("A request must have one Host header.");
    Some(refusal(request.uri().path(), StatusCode::BAD_REQUEST, error))
}

async fn not_found() -> HttpResponse {
    rest::problem_with(StatusCode::NOT_FOUND, &RpcError::UnknownMethod.into())
}

/// The answer to a method that the path does not have.
pub async fn wrong_method(allowed: &'static str) -> HttpResponse {
    let mut response = rest::problem_with(StatusCode::METHOD_NOT_ALLOWED, &RpcError::UnknownMethod.into());
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}
