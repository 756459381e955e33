//! A listener while the gateway starts: it says so to whoever asks, and hands the listener over when there is more to say.

use std::convert::Infallible;
use std::sync::Arc;

use axum::http::{Method, Request, StatusCode};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::http::{HttpResponse, rpc_error, tell};
use super::stream::{Patience, Progress, Stream};
use super::{ACCEPT_PAUSE, health, patience, rest};
use crate::config::Timeouts;
use crate::rpc::error::RpcError;

/// Answers on a listener until it is ended, or dropped.
pub struct Starting {
    answering: JoinHandle<TcpListener>,
    end: DropGuard,
}

impl Starting {
    /// Begins to answer.
    pub fn on(listener: TcpListener, timeouts: &Timeouts) -> Self {
        let end = CancellationToken::new();
        let answering = tokio::spawn(answer(listener, patience(timeouts), end.clone()));
        Self { answering, end: end.drop_guard() }
    }

    /// The listener, on which nobody answers any more. What was accepted is answered yet.
    pub async fn end(self) -> TcpListener {
        drop(self.end);
        self.answering.await.expect("it does not panic, and nobody aborts it")
    }
}

async fn answer(listener: TcpListener, patience: Patience, end: CancellationToken) -> TcpListener {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = end.cancelled() => return listener,
        };
        match accepted {
            Ok((stream, _)) => drop(tokio::spawn(serve(stream, patience))),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers one request.
async fn serve(stream: TcpStream, patience: Patience) {
    let progress = Arc::new(Progress::default());
    let told = progress.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        // Told of a body that is never read, the stream takes it in, so that the answer arrives.
        told.begin(!request.body().is_end_stream());
        let response = response(&request);
        told.answered();
        async { Ok::<_, Infallible>(response) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .keep_alive(false)
        .half_close(true)
        .serve_connection(TokioIo::new(Stream::new(stream, patience, progress)), service);
    // It ends with an error where the client does not wait for the answer.
    let _ = connection.await;
}

fn response(request: &Request<Incoming>) -> HttpResponse {
    let unavailable = RpcError::StoreUnavailable;
    let (code, after) = (unavailable.code(), unavailable.retry_after());
    let mut response = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/healthz" | "/healthz/") => return health::alive(),
        (&Method::GET | &Method::HEAD, "/readyz" | "/readyz/") => health::readiness(&["starting"]),
        (_, "/rpc") => rpc_error(StatusCode::SERVICE_UNAVAILABLE, unavailable),
        _ => rest::problem_with(StatusCode::SERVICE_UNAVAILABLE, &unavailable.into()),
    };
    tell(&mut response, code, after);
    response
}
