//! Whether the gateway lives, and whether it can serve.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::json;

use super::App;
use super::http::{HttpResponse, respond};

/// `GET /healthz`: the process answers. Never asks the store.
pub async fn live() -> HttpResponse {
    respond(StatusCode::OK, Some("application/json"), Body::from(json!({"status": "ok"}).to_string()))
}

/// `GET /readyz`: 200 when calls can be served, else 503 with what is failing.
pub async fn ready(State(app): State<Arc<App>>) -> HttpResponse {
    let mut failing = Vec::new();
    if app.stopping.is_cancelled() {
        failing.push("draining");
    }
    if let Err(error) = app.rpc.context.store.check().await {
        tracing::warn!(%error, "the store is not ready");
        failing.push("store");
    }
    let (status, word) = match failing.is_empty() {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not_ready"),
    };
    let body = json!({"status": word, "failing": failing});
    respond(status, Some("application/json"), Body::from(body.to_string()))
}
