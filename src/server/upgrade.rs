//! `GET /rpc`: from a request to a socket.

use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use axum::http::{HeaderMap, HeaderName, Request, Response, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::App;
use super::http::{HttpResponse, bearer, client_address, rpc_error, status_of, user_agent};
use super::stream::Stream;
use crate::auth::throttle::network;
use crate::connection::{Connection, Service};
use crate::rpc::error::RpcError;
use crate::rpc::{Answer, Client, Rpc};
use crate::sessions::{Admission, Anonymous, Full, Identity, Peer};
use crate::users::session::Origin;

/// The subprotocol of this version.
const PROTOCOL: &str = "doorward.v1";
/// The subprotocol that carries a token, for browsers, which cannot set headers.
const TOKEN_PROTOCOL: &str = "bearer.";

/// Dispatches the texts of one socket.
struct Calls {
    rpc: Arc<Rpc>,
    client: Client,
}

impl Service for Calls {
    fn text(&mut self, text: &str) -> Answer {
        self.rpc.dispatch(&self.client, text, None)
    }

    fn is_full(&self) -> bool {
        self.client.is_full()
    }

    fn alive(&self) {
        let peer = &self.client.peer;
        if let Some(identity) = peer.identity() {
            self.rpc.context.logins.seen(&identity.session, || peer.origin());
        }
    }

    fn poll_notification(&mut self, cx: &mut Context<'_>) -> Poll<Utf8Bytes> {
        match &self.client.subscriptions {
            Some(subscriptions) => subscriptions.poll_next(cx),
            None => Poll::Pending,
        }
    }
}

/// Why a request is not upgraded.
type Refusal = (StatusCode, RpcError);

/// Answers `GET /rpc`.
pub async fn upgrade(State(app): State<Arc<App>>, mut request: Request<Body>) -> HttpResponse {
    match accept(&app, &mut request).await {
        Ok(response) => response,
        Err((status, error)) => {
            let mut response = rpc_error(status, error);
            if status == StatusCode::UPGRADE_REQUIRED {
                // RFC 9110 §15.5.22 and RFC 6455 §4.4.
                response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
                response.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            }
            response
        }
    }
}

async fn accept(app: &Arc<App>, request: &mut Request<Body>) -> Result<HttpResponse, Refusal> {
    let headers = request.headers();
    let key = handshake_key(headers)?;
    if request.uri().query().is_some_and(|query| query.to_ascii_lowercase().contains("token")) {
        let why =
            "A token must not be in the URL: send it as Authorization: Bearer, or as a subprotocol bearer.<token>.";
        return Err((StatusCode::BAD_REQUEST, RpcError::InvalidRequest(why)));
    }
    let offered = offered_protocols(headers);
    let speaks_ours = offered.contains(&PROTOCOL);
    let address = client_address(app, request.extensions(), headers);
    let identity = identify(app, address, headers, &offered).await?;
    let limits = &app.rpc.context.config.limits;
    let anonymous = match &identity {
        Some(identity) => {
            let username = &identity.account.user().username;
            if app.rpc.context.presence.sockets_of(username) >= limits.sockets_per_user {
                return Err((StatusCode::TOO_MANY_REQUESTS, busy()));
            }
            None
        }
        None => {
            let max = limits.unauthenticated_per_address;
            Some(app.sockets.admit_anonymous(network(address), max).map_err(full)?)
        }
    };
    let admission = app.sockets.admit(limits.sockets).map_err(full)?;
    if app.stopping.is_cancelled() {
        // Admitted too late to be told with the others.
        return Err((StatusCode::SERVICE_UNAVAILABLE, busy()));
    }
    let mailbox = Some(admission.mailbox.clone());
    let peer = Arc::new(Peer::new(admission.id, address, user_agent(headers), mailbox));
    let upgrade = hyper::upgrade::on(request);
    app.tasks.spawn(serve(app.clone(), upgrade, peer, identity, admission, anonymous));
    Ok(switching(&key, speaks_ours))
}

/// Serves the socket once the response has been sent.
async fn serve(
    app: Arc<App>,
    upgrade: OnUpgrade,
    peer: Arc<Peer>,
    identity: Option<Identity>,
    admission: Admission,
    anonymous: Option<Anonymous>,
) {
    let Ok(upgraded) = upgrade.await else { return };
    let Some((io, leftover)) = into_stream(upgraded) else { return };
    let context = app.rpc.context.clone();
    if let Some(identity) = identity {
        // A refusal has posted the close that the socket then sends.
        let _ = context.bind(&peer, identity);
    }
    let client = Client::new(peer.clone(), &context.feed, app.connection.calls_in_flight);
    let service = Calls { rpc: app.rpc.clone(), client };
    let clock = context.clock.clone();
    let mut connection = Connection::new(io, leftover, peer.clone(), service, app.connection.clone(), clock).await;
    if let Some(anonymous) = anonymous {
        connection = connection.on_sign_in(move || drop(anonymous));
    }
    connection.run().await;
    context.presence.leave(&peer);
    drop(admission);
}

/// The socket itself, and what was read behind the head. hyper's buffer of 8 KiB is given back.
fn into_stream(upgraded: Upgraded) -> Option<(TcpStream, Vec<u8>)> {
    let parts = upgraded.downcast::<TokioIo<Stream>>().ok()?;
    Some((parts.io.into_inner().into_inner(), parts.read_buf.to_vec()))
}

/// The key of a WebSocket handshake (RFC 6455 §4.2.1).
fn handshake_key(headers: &HeaderMap) -> Result<HeaderValue, Refusal> {
    let lists = |name: HeaderName, word: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|text| text.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
    };
    if !lists(CONNECTION, "upgrade") || !lists(UPGRADE, "websocket") {
        let why = "GET /rpc opens a WebSocket; to make one call, use POST.";
        return Err((StatusCode::UPGRADE_REQUIRED, RpcError::InvalidRequest(why)));
    }
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let why = "The Sec-WebSocket-Version must be 13.";
        return Err((StatusCode::UPGRADE_REQUIRED, RpcError::InvalidRequest(why)));
    }
    match headers.get(SEC_WEBSOCKET_KEY) {
        Some(key) if key.len() == 24 => Ok(key.clone()),
        _ => Err((StatusCode::BAD_REQUEST, RpcError::InvalidRequest("The Sec-WebSocket-Key is missing or not one."))),
    }
}

fn offered_protocols(headers: &HeaderMap) -> Vec<&str> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|text| text.split(',')).map(str::trim).collect()
}

/// Who opens the socket: by header or subprotocol, or nobody yet.
async fn identify(
    app: &App,
    address: IpAddr,
    headers: &HeaderMap,
    offered: &[&str],
) -> Result<Option<Identity>, Refusal> {
    let refused = |error: RpcError| (status_of(error.code()), error);
    let by_header = bearer(headers).map_err(refused)?;
    let by_protocol = offered.iter().find_map(|protocol| protocol.strip_prefix(TOKEN_PROTOCOL));
    let origin = || Origin { address, user_agent: user_agent(headers).map(String::from) };
    match by_header.or(by_protocol) {
        None => Ok(None),
        Some(token) => {
            match timeout(app.rpc.context.config.call_timeout, app.rpc.context.identity_of(token, origin)).await {
                Ok(identity) => identity.map(Some).map_err(refused),
                Err(_) => Err(refused(RpcError::StoreTimeout)),
            }
        }
    }
}

fn full(full: Full) -> Refusal {
    match full {
        Full::Address => (StatusCode::TOO_MANY_REQUESTS, busy()),
        Full::Node => (StatusCode::SERVICE_UNAVAILABLE, busy()),
    }
}

fn busy() -> RpcError {
    RpcError::ServerBusy { retry_after: std::time::Duration::from_secs(5) }
}

fn switching(key: &HeaderValue, speaks_ours: bool) -> HttpResponse {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let accept = derive_accept_key(key.as_bytes());
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept).expect("base64 is ASCII"));
    if speaks_ours {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    }
    response
}
