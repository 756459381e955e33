//! The connection of the gateway with an echo in the dispatcher's place: for WebSocket conformance tests.
//!
//! `cargo run --example echo -- 127.0.0.1:9001`; port 0 takes any free one. Binary frames are echoed too, and
//! the message limit is that of the conformance suite's largest cases. It serves any path.
#![expect(clippy::print_stdout, reason = "it says where it listens")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use doorward::clock::Clock;
use doorward::connection::{Connection, Options, Service};
use doorward::rpc::{Answer, Reply};
use doorward::sessions::Peer;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The largest message of the conformance suite.
const MESSAGE_BYTES: usize = 16 << 20;

/// Sends every message back.
struct Echo;

impl Service for Echo {
    fn text(&mut self, text: &str) -> Answer {
        Answer::Now(Reply::verbatim(text.to_owned()))
    }

    fn binary(&mut self, data: Bytes) -> Option<Bytes> {
        Some(data)
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, address) = listener.accept().await?;
        tokio::spawn(async move {
            let service = service_fn(move |request| async move { Ok::<_, Infallible>(upgrade(request, address)) });
            let http = hyper::server::conn::http1::Builder::new();
            let _ = http.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
        });
    }
}

fn upgrade(mut request: Request<Incoming>, address: SocketAddr) -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY) else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    };
    let accept = derive_accept_key(key.as_bytes());
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else { return };
        let options = Options {
            message_bytes: MESSAGE_BYTES,
            calls_in_flight: 32,
            sign_in: None,
            message: Duration::from_secs(600),
            ping: Duration::from_secs(600),
            pong: Duration::from_secs(10),
            write: Duration::from_secs(30),
            call: Duration::from_secs(5),
        };
        let peer = Arc::new(Peer::new(0, address.ip(), None, None));
        let (io, leftover) = (parts.io.into_inner(), parts.read_buf.to_vec());
        Connection::new(io, leftover, peer, Echo, Arc::new(options), Clock::default()).await.run().await;
    });
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, "upgrade".parse().expect("a plain word"));
    headers.insert(UPGRADE, "websocket".parse().expect("a plain word"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept.parse().expect("base64 is ASCII"));
    response
}
