//! The routes, and `POST /rpc`.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT,
    WWW_AUTHENTICATE,
};
use axum::http::{HeaderMap, Request, Response, StatusCode};
use axum::routing::{any, delete, get, post};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use jsonrpsee::types::ErrorObjectOwned;
use serde_json::json;

use super::{App, health, rest, upgrade};
use crate::rpc::error::RpcError;
use crate::rpc::{Answer, Client};
use crate::sessions::{Identity, Peer};

/// The longest `User-Agent` that is kept, in bytes.
const USER_AGENT_MAX_BYTES: usize = 256;

/// The address of the client, put beside each request by the accept loop.
#[derive(Debug, Clone, Copy)]
pub struct ClientAddress(pub IpAddr);

/// The type of every response.
pub type HttpResponse = Response<Body>;

/// Every route of the gateway.
pub fn routes(app: Arc<App>) -> Router {
    let admin = delete(rest::deactivate).patch(rest::update).fallback(|| wrong_method("PATCH, DELETE"));
    let user = get(rest::get).patch(rest::update_me).delete(rest::deactivate_me);
    Router::new()
        .route("/rpc", post(rpc).get(upgrade::upgrade).fallback(|| wrong_method("GET, POST")))
        .route("/healthz", get(health::live).fallback(|| wrong_method("GET")))
        .route("/readyz", get(health::ready).fallback(|| wrong_method("GET")))
        .route("/auth/register", post(rest::register).fallback(|| wrong_method("POST")))
        .route("/auth/login", post(rest::login).fallback(|| wrong_method("POST")))
        .route("/users", get(rest::list).fallback(|| wrong_method("GET")))
        .route("/users/{username}", user.fallback(|| wrong_method("GET, PATCH, DELETE")))
        .route("/admin/users/{username}", admin)
        .fallback(any(not_found))
        .with_state(app)
}

/// Answers `POST /rpc`.
async fn rpc(State(app): State<Arc<App>>, request: Request<Body>) -> HttpResponse {
    if !is_json(request.headers()) {
        let error = RpcError::InvalidRequest("The Content-Type must be application/json.");
        return rpc_error(StatusCode::UNSUPPORTED_MEDIA_TYPE, error);
    }
    let (client, body) = match receive(&app, request).await {
        Ok(received) => received,
        Err(error) => return rpc_error(status_of(error.code()), error),
    };
    let Ok(text) = std::str::from_utf8(&body) else {
        return rpc_error(StatusCode::BAD_REQUEST, RpcError::Parse("The message is not UTF-8."));
    };
    let reply = match app.rpc.dispatch(&client, text) {
        Answer::Now(reply) => reply,
        Answer::Later(reply) => reply.await,
    };
    match reply.text {
        None => respond(StatusCode::NO_CONTENT, None, Body::empty()),
        Some(text) => {
            let status = if reply.refused.is_some() { StatusCode::BAD_REQUEST } else { StatusCode::OK };
            respond(status, Some("application/json"), Body::from(text))
        }
    }
}

/// The caller of a request, by its bearer token, and its body up to the limit and in time.
pub async fn receive(app: &App, request: Request<Body>) -> Result<(Client, Bytes), RpcError> {
    let identity = match bearer(request.headers())? {
        Some(token) => Some(app.rpc.context.identity_of(token).await?),
        None => None,
    };
    let client = client(&request, identity);
    let limits = &app.rpc.context.config.limits;
    let body = Limited::new(request.into_body(), limits.message_bytes).collect();
    match tokio::time::timeout(app.rpc.context.config.timeouts.body, body).await {
        Ok(Ok(body)) => Ok((client, body.to_bytes())),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(RpcError::RequestTooLarge),
        Ok(Err(_)) => Err(RpcError::InvalidRequest("The body could not be read.")),
        Err(_) => Err(RpcError::InvalidRequest("The body did not come in time.")),
    }
}

/// The client of one request.
fn client(request: &Request<Body>, identity: Option<Identity>) -> Client {
    let peer = Peer::new(0, client_address(request), user_agent(request.headers()), None);
    if let Some(identity) = identity {
        peer.identify(identity);
    }
    Client::new(Arc::new(peer))
}

/// The address that the accept loop put beside the request.
pub fn client_address(request: &Request<Body>) -> IpAddr {
    request.extensions().get::<ClientAddress>().expect("the accept loop adds it to every request").0
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

/// Whether the body is declared as JSON.
pub fn is_json(headers: &HeaderMap) -> bool {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
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
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// Tells when to come back, in whole seconds.
pub fn retry_after(response: &mut HttpResponse, ms: u64) {
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000).max(1)));
}

/// A refusal of a whole request to `/rpc`: a JSON-RPC error with id null.
pub fn rpc_error(status: StatusCode, error: RpcError) -> HttpResponse {
    let after = error.retry_after();
    let body = json!({"jsonrpc": "2.0", "id": null, "error": ErrorObjectOwned::from(error)});
    let mut response = respond(status, Some("application/json"), Body::from(body.to_string()));
    if let Some(after) = after {
        retry_after(&mut response, u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
    }
    response
}

async fn not_found() -> HttpResponse {
    rest::problem_of_route(StatusCode::NOT_FOUND, "There is nothing at this path.")
}

/// The answer to a method that the path does not have.
pub async fn wrong_method(allowed: &'static str) -> HttpResponse {
    let mut response = rest::problem_of_route(StatusCode::METHOD_NOT_ALLOWED, "This path has other methods.");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}
