//! Whether the gateway lives, and whether it can serve.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::App;
use super::http::{HttpResponse, respond};

/// `GET /healthz`: the process answers. Never asks the store.
pub async fn live() -> HttpResponse {
    respond(StatusCode::OK, Some("application/json"), Body::from(json!({"status": "ok"}).to_string()))
}

/// How long an answer of the store stands: the check writes, and anyone may ask for it.
const CHECK_EVERY: Duration = Duration::from_millis(500);

/// When the store was last checked, and whether it was ready.
#[derive(Debug, Default)]
pub struct LastCheck(Mutex<Option<(Instant, bool)>>);

/// Whether the store can be used. Askers wait for one check under way instead of making their own.
async fn store_is_ready(app: &App) -> bool {
    let mut last = app.last_check.0.lock().await;
    if let Some((at, ready)) = *last
        && at.elapsed() < CHECK_EVERY
    {
        return ready;
    }
    let checked = app.rpc.context.store.check().await;
    if let Err(error) = &checked {
        tracing::warn!(%error, "the store is not ready");
    }
    *last = Some((Instant::now(), checked.is_ok()));
    checked.is_ok()
}

/// `GET /readyz`: 200 when calls can be served, else 503 with what is failing.
pub async fn ready(State(app): State<Arc<App>>) -> HttpResponse {
    let mut failing = Vec::new();
    if app.stopping.is_cancelled() {
        failing.push("draining");
    }
    if !store_is_ready(&app).await {
        failing.push("store");
    }
    let (status, word) = match failing.is_empty() {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not_ready"),
    };
    let body = json!({"status": word, "failing": failing});
    respond(status, Some("application/json"), Body::from(body.to_string()))
}
