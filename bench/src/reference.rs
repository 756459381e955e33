//! The least a server of the same traffic can do: a bare tokio-tungstenite loop and a bare hyper service, each
//! sending ready bytes in which only the id changes. They read no JSON, check nothing and know nobody.
//! Their settings are the gateway's: read buffer, message limit, no delay, worker threads.

use std::convert::Infallible;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use futures_util::{FutureExt, SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio_tungstenite::accept_async_with_config;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::Result;
use crate::placement::{Placement, Processors};
use crate::process::{Process, TempFolder, free_address};
use crate::wire::{Answer, Carrier};

const READ_BUFFER_BYTES: usize = 4 << 10;
const MESSAGE_LIMIT_BYTES: usize = 64 << 10;

/// What a reference sends: the gateway's answer to the same call.
#[derive(Serialize, Deserialize)]
pub struct Reply {
    /// The answer to the call with the first id.
    pub text: String,
    /// The headers the gateway set itself; empty for sockets.
    pub headers: Vec<(String, String)>,
}

/// A running reference of the bench's own.
pub struct Reference {
    /// Its process.
    pub process: Process,
    /// Last: the folder goes after the process.
    _folder: TempFolder,
}

impl Reference {
    /// Starts this program again as the reference for a carrier.
    pub async fn start(carrier: Carrier, reply: &Reply, placement: Placement, processors: &Processors) -> Result<Self> {
        let mode = match carrier {
            Carrier::WebSocket => "echo",
            Carrier::Http => "respond",
        };
        Self::start_as(mode, reply, placement, processors).await
    }

    /// Starts it as the reference of row 5: a connection that begins with `!` has the text written to all sockets.
    pub async fn start_spread(reply: &Reply, placement: Placement, processors: &Processors) -> Result<Self> {
        Self::start_as("spread", reply, placement, processors).await
    }

    async fn start_as(mode: &str, reply: &Reply, placement: Placement, processors: &Processors) -> Result<Self> {
        let folder = TempFolder::new()?;
        let (address, file) = (free_address()?, folder.path().join("reply.json"));
        fs::write(&file, serde_json::to_vec(reply)?)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(mode).arg("--listen").arg(address.to_string()).arg("--reply").arg(file);
        let log = folder.path().join("reference.log");
        let mut process = Process::start("the reference", command, address, log, placement, processors)?;
        process.ready(None).await?;
        Ok(Self { process, _folder: folder })
    }

    /// Stops it.
    pub async fn stop(self) -> Result<()> {
        self.process.stop().await
    }
}

/// The tokio-tungstenite loop, until it is killed.
pub fn echo(listen: SocketAddr, reply: &Path) -> Result<ExitCode> {
    let answer = Arc::new(Answer::from_first(read_reply(reply)?.text.as_bytes())?);
    serve(listen, move |stream| {
        let answer = answer.clone();
        async move { answer_frames(stream, &answer).await }
    })
}

/// The loop over all sockets, until it is killed: each `!` on a connection that begins with it has the frame written to
/// everyone, and is answered with the same byte.
pub fn spread(listen: SocketAddr, reply: &Path) -> Result<ExitCode> {
    let frame = Utf8Bytes::from(read_reply(reply)?.text);
    let sockets = Arc::new(Mutex::new(Vec::new()));
    serve(listen, move |mut stream| {
        let (frame, sockets) = (frame.clone(), sockets.clone());
        async move {
            let mut byte = [0];
            stream.peek(&mut byte).await?;
            if byte != *b"!" {
                let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER_BYTES);
                sockets.lock().await.push(accept_async_with_config(stream, Some(config)).await?);
                return Ok(());
            }
            while stream.read_exact(&mut byte).await.is_ok() {
                for socket in sockets.lock().await.iter_mut() {
                    socket.send(Message::Text(frame.clone())).await?;
                }
                stream.write_all(&byte).await?;
            }
            Ok(())
        }
    })
}

/// The hyper service, until it is killed.
pub fn respond(listen: SocketAddr, reply: &Path) -> Result<ExitCode> {
    let reply = read_reply(reply)?;
    let answer = Arc::new(Answer::from_first(reply.text.as_bytes())?);
    let mut headers = HeaderMap::new();
    for (name, value) in &reply.headers {
        headers.append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
    }
    serve(listen, move |stream| {
        let (answer, headers) = (answer.clone(), headers.clone());
        async move {
            let service = service_fn(|request| answer_request(request, &answer, &headers));
            Ok(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await?)
        }
    })
}

fn read_reply(path: &Path) -> Result<Reply> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn serve<F>(listen: SocketAddr, mut connection: impl FnMut(TcpStream) -> F) -> Result<ExitCode>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    crate::table::raise_open_files()?;
    // The worker threads come from TOKIO_WORKER_THREADS, as for the gateway.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(listen).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            // How a connection ends is the client's business: it compares every answer.
            tokio::spawn(connection(stream).map(drop));
        }
    })
}

async fn answer_frames(stream: TcpStream, answer: &Answer) -> Result<()> {
    let limit = Some(MESSAGE_LIMIT_BYTES);
    let config =
        WebSocketConfig::default().read_buffer_size(READ_BUFFER_BYTES).max_message_size(limit).max_frame_size(limit);
    let mut socket = accept_async_with_config(stream, Some(config)).await?;
    while let Some(message) = socket.next().await {
        let mut message = message?;
        // Answer all that has come, then write once: what any pipelining server does.
        loop {
            if let Message::Text(call) = message {
                let text = Utf8Bytes::try_from(answer.to(call.as_bytes()))?;
                socket.feed(Message::Text(text)).await?;
            }
            match socket.next().now_or_never() {
                Some(Some(next)) => message = next?,
                Some(None) | None => break,
            }
        }
        socket.flush().await?;
    }
    Ok(())
}

async fn answer_request(
    request: Request<Incoming>,
    answer: &Answer,
    headers: &HeaderMap,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = match request.into_body().collect().await {
        Ok(body) => answer.to(&body.to_bytes()),
        Err(_) => Vec::new(),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.headers_mut() = headers.clone();
    Ok(response)
}
