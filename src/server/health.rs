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
use crate::store::Failing;

/// `GET /healthz`: the process answers. Never asks the store.
pub async fn live() -> HttpResponse {
    alive()
}

/// That the process answers.
pub fn alive() -> HttpResponse {
    respond(StatusCode::OK, Some("application/json"), Body::from(json!({"status": "ok"}).to_string()))
}

/// How long an answer of the store stands: the check writes, and anyone may ask for it.
const CHECK_EVERY: Duration = Duration::from_millis(500);

/// When the store was last checked, and what of it was failing.
#[derive(Debug, Default)]
pub struct LastCheck(Mutex<Option<(Instant, Vec<&'static str>)>>);

/// What of the store cannot be used. Askers wait for one check under way instead of making their own.
async fn failing_of_store(app: &App) -> Vec<&'static str> {
    let mut last = app.last_check.0.lock().await;
    if let Some((at, failing)) = &*last
        && at.elapsed() < CHECK_EVERY
    {
        return failing.clone();
    }
    let checked = app.rpc.context.store.check().await;
    for Failing { part, cause } in &checked {
        tracing::warn!(%cause, "{part} is not ready");
    }
    let failing: Vec<&str> = checked.iter().map(|failing| failing.part).collect();
    *last = Some((Instant::now(), failing.clone()));
    failing
}

/// `GET /readyz`: 200 when calls can be served, else 503 with what is failing.
pub async fn ready(State(app): State<Arc<App>>) -> HttpResponse {
    let draining = app.stopping.is_cancelled().then_some("draining");
    readiness(&draining.into_iter().chain(failing_of_store(&app).await).collect::<Vec<_>>())
}

/// What `/readyz` answers while this fails.
pub fn readiness(failing: &[&str]) -> HttpResponse {
    let (status, word) = match failing.is_empty() {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not_ready"),
    };
    let body = json!({"status": word, "failing": failing});
    respond(status, Some("application/json"), Body::from(body.to_string()))
}
