//! `GET /metrics`, on a listener of its own that only operators should reach.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use metrics::gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::MissedTickBehavior;

use super::http::{HttpResponse, respond};
use super::stream::Stream;
use super::{ACCEPT_PAUSE, App, patience};
use crate::metrics as names;

/// How often single measurements are added up, which bounds what waits for it.
const ADD_UP_EVERY: Duration = Duration::from_secs(1);

/// Answers scrapes until the gateway stops.
pub async fn serve(listener: TcpListener, app: Arc<App>) {
    let mut add_up = tokio::time::interval(ADD_UP_EVERY);
    add_up.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(app.tasks.spawn(answer(stream, app.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection for metrics");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            _ = add_up.tick() => names::recorder().run_upkeep(),
            () = app.stopping.cancelled() => return,
        }
    }
}

/// Answers one request.
async fn answer(stream: TcpStream, app: Arc<App>) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = response(&app, &request);
        async { Ok::<_, Infallible>(response) }
    });
    let timeouts = &app.rpc.context.config.timeouts;
    let connection = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(Stream::new(stream, patience(timeouts), Arc::default())), service);
    tokio::select! {
        _ = connection => {}
        () = app.stopping.cancelled() => {}
    }
}

fn response(app: &App, request: &Request<Incoming>) -> HttpResponse {
    if request.method() != Method::GET || request.uri().path() != "/metrics" {
        return respond(StatusCode::NOT_FOUND, None, Body::empty());
    }
    let context = &app.rpc.context;
    let set = |name: &'static str, value: usize| gauge!(name).set(u32::try_from(value).unwrap_or(u32::MAX));
    set(names::SOCKETS, app.sockets.open());
    set(names::SOCKETS_ANONYMOUS, app.sockets.anonymous());
    set(names::TASKS, tokio::runtime::Handle::current().metrics().num_alive_tasks());
    set(names::HASHES_WAITING, context.hasher.waiting());
    gauge!(names::FEED_LAG).set(context.feed.lag().as_secs_f64());
    gauge!(names::FEED_SILENCE).set(context.feed.silence().as_secs_f64());
    respond(StatusCode::OK, Some("text/plain; version=0.0.4"), Body::from(names::recorder().render()))
}
