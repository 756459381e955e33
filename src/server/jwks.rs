//! The public keys of access tokens, for services that verify them by themselves.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, HeaderValue};

use super::App;
use super::http::{HttpResponse, respond};

/// `GET /.well-known/jwks.json`: empty where tokens are signed with a shared secret. Whoever keeps it for five minutes knows
/// the next key before it signs: see docs/operations.md.
pub async fn jwks(State(app): State<Arc<App>>) -> HttpResponse {
    let set = Body::from(app.rpc.context.tokens.jwk_set());
    let mut response = respond(StatusCode::OK, Some("application/jwk-set+json"), set);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    response
}
