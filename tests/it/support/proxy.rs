//! A proxy before an HTTP server that does what a bad network and a bad server do, request by request.
//!
//! It reads whole requests and whole answers, so a fault falls exactly before or after the server applied a request. A
//! request that was read is seen through although its client has gone, as a network may deliver what nobody waits for.

mod tests;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, TRANSFER_ENCODING};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::{PATIENCE, lasting_address};

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It reaches the server that much later.
    DelayRequest(Duration),
    /// Its answer comes that much later.
    DelayAnswer(Duration),
    /// The connection ends, and the server never sees it.
    CutBefore,
    /// The server applies it, and the connection ends instead of an answer.
    CutAfter,
    /// The body of its answer comes so many bytes a second, after a head that comes at once.
    Throttle(usize),
    /// It waits for [`Rule::release`]; for ever, when nobody does.
    Hold,
    /// This status, content type and body, and the server never sees it. JSON comes with Elasticsearch's own header.
    Answer(u16, &'static str, &'static str),
    /// The server applies it, and this JSON comes instead of its answer.
    AnswerAfter(u16, &'static str),
}

/// Which of the requests that match a rule it acts on.
#[derive(Clone, Copy)]
pub enum When {
    /// Every one.
    Always,
    /// So many, the first ones.
    Times(usize),
    /// Each with this probability, 0 to 1.
    Chance(f64),
}

type Matches = dyn Fn(&Method, &str) -> bool + Send + Sync;

/// A fault and the requests that it is for.
pub struct Rule {
    matches: Box<Matches>,
    when: When,
    fault: Fault,
    seen: watch::Sender<usize>,
    ended: watch::Sender<usize>,
    released: CancellationToken,
}

impl Rule {
    /// How many requests it has acted on.
    pub fn seen(&self) -> usize {
        *self.seen.borrow()
    }

    /// Waits until it has acted on so many requests.
    pub async fn wait_for(&self, requests: usize) {
        reaches(&self.seen, requests).await;
    }

    /// Waits until nothing more will become of the requests that it has acted on: the server has answered each, or
    /// will never see it.
    pub async fn wait_for_end(&self) {
        reaches(&self.ended, self.seen()).await;
    }

    /// Lets the held requests go on to the server, and those that it would hold later.
    pub fn release(&self) {
        self.released.cancel();
    }

    fn takes(&self, method: &Method, path: &str) -> bool {
        if !(self.matches)(method, path) {
            return false;
        }
        self.seen.send_if_modified(|seen| {
            let takes = match self.when {
                When::Always => true,
                When::Times(times) => *seen < times,
                When::Chance(chance) => rand::random_bool(chance),
            };
            *seen += usize::from(takes);
            takes
        })
    }

    /// What becomes of a request, which `forward` sends on to the server.
    async fn act(&self, forward: impl Future<Output = io::Result<Answer>>) -> io::Result<Answer> {
        match self.fault {
            Fault::DelayRequest(delay) => {
                tokio::time::sleep(delay).await;
                forward.await
            }
            Fault::DelayAnswer(delay) => {
                let answer = forward.await;
                tokio::time::sleep(delay).await;
                answer
            }
            Fault::CutBefore => Err(io::Error::other("cut before the server")),
            Fault::CutAfter => {
                forward.await?;
                Err(io::Error::other("cut after the server"))
            }
            Fault::Throttle(bytes_per_second) => {
                let answer = forward.await?;
                let (head, body) = answer.into_parts();
                let body = body.collect().await.expect("it is whole").to_bytes();
                Ok(Response::from_parts(head, throttled(body, bytes_per_second)))
            }
            Fault::Hold => {
                self.released.cancelled().await;
                forward.await
            }
            Fault::Answer(status, kind, body) => Ok(answer(status, kind, body)),
            Fault::AnswerAfter(status, body) => {
                forward.await?;
                Ok(answer(status, JSON, body))
            }
        }
    }
}

/// An answer on its way to the client.
type Answer = Response<BoxBody<Bytes, Infallible>>;

/// The content type of Elasticsearch's answers.
pub const JSON: &str = "application/json";

fn answer(status: u16, kind: &str, body: &'static str) -> Answer {
    let mut answer = Response::builder().status(status).header(CONTENT_TYPE, kind);
    if kind == JSON {
        answer = answer.header("x-elastic-product", "Elasticsearch");
    }
    answer.body(whole(body)).expect("a status and a content type")
}

fn whole(body: impl Into<Bytes>) -> BoxBody<Bytes, Infallible> {
    Full::new(body.into()).boxed()
}

/// A body that comes a byte at a time.
fn throttled(body: Bytes, bytes_per_second: usize) -> BoxBody<Bytes, Infallible> {
    let pace = Duration::from_secs(1) / u32::try_from(bytes_per_second).expect("a slow one");
    let bytes = stream::iter(0..body.len()).then(move |at| {
        let byte = body.slice(at..=at);
        async move {
            tokio::time::sleep(pace).await;
            Ok(Frame::data(byte))
        }
    });
    BodyExt::boxed(StreamBody::new(bytes))
}

async fn reaches(count: &watch::Sender<usize>, requests: usize) {
    let mut count = count.subscribe();
    let enough = count.wait_for(|count| *count >= requests);
    tokio::time::timeout(PATIENCE, enough).await.expect("it happens in time").expect("the rule lives");
}

/// A running proxy. It stops on drop.
pub struct FaultProxy {
    address: SocketAddr,
    inner: Arc<Inner>,
    /// `None` while connections are refused.
    listening: Option<JoinHandle<Infallible>>,
}

struct Inner {
    target: SocketAddr,
    client: reqwest::Client,
    rules: Mutex<Vec<Arc<Rule>>>,
    requests: AtomicUsize,
}

impl FaultProxy {
    /// A proxy before this server, without any rule.
    pub async fn start(target: SocketAddr) -> Self {
        let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().expect("a plain client");
        let inner = Arc::new(Inner { target, client, rules: Mutex::default(), requests: AtomicUsize::new(0) });
        let mut proxy = Self { address: lasting_address(), inner, listening: None };
        proxy.accept().await;
        proxy
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many requests it has read.
    pub fn requests(&self) -> usize {
        self.inner.requests.load(Relaxed)
    }

    /// From now on, what matches by method and path (with its query) suffers this. The latest rule is asked first.
    pub fn rule(
        &self,
        matches: impl Fn(&Method, &str) -> bool + Send + Sync + 'static,
        when: When,
        fault: Fault,
    ) -> Arc<Rule> {
        let released = CancellationToken::new();
        let (seen, ended) = (watch::Sender::new(0), watch::Sender::new(0));
        let rule = Arc::new(Rule { matches: Box::new(matches), when, fault, seen, ended, released });
        self.inner.rules.lock().expect("nothing panics with it").insert(0, rule.clone());
        rule
    }

    /// Forgets every rule. What is held stays held.
    pub fn clear(&self) {
        self.inner.rules.lock().expect("nothing panics with it").clear();
    }

    /// Ends all connections and refuses new ones, as when the server's process is gone.
    pub async fn refuse(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
            // Its sockets are closed when it has ended.
            let _ = listening.await;
        }
    }

    /// Listens again, where it did before.
    pub async fn accept(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("the port is free");
        self.listening = Some(tokio::spawn(serve(listener, self.inner.clone())));
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        if let Some(listening) = &self.listening {
            listening.abort();
        }
    }
}

/// Accepts for ever. The connections end with it.
async fn serve(listener: TcpListener, inner: Arc<Inner>) -> Infallible {
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.expect("a listener accepts");
        let inner = inner.clone();
        connections.spawn(async move {
            let answer = service_fn(move |request| {
                let act = tokio::spawn(inner.clone().act(request));
                async { act.await.expect("the proxy does not panic") }
            });
            // It ends with an error where a fault cuts it.
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), answer).await;
        });
    }
}

impl Inner {
    /// The answer; an error ends the connection without one.
    async fn act(self: Arc<Self>, request: Request<Incoming>) -> io::Result<Answer> {
        let (head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        self.requests.fetch_add(1, Relaxed);
        let rules = self.rules.lock().expect("nothing panics with it").clone();
        let rule = rules.iter().find(|rule| rule.takes(&head.method, path));
        let forward = self.forward(&head.method, path, &head.headers, body);
        let Some(rule) = rule else { return forward.await };
        let answer = rule.act(forward).await;
        rule.ended.send_modify(|ended| *ended += 1);
        answer
    }

    async fn forward(&self, method: &Method, path: &str, headers: &HeaderMap, body: Bytes) -> io::Result<Answer> {
        let url = format!("http://{}{path}", self.target);
        let request = self.client.request(method.clone(), url).headers(end_to_end(headers));
        let answer = request.body(body).send().await.map_err(io::Error::other)?;
        let (status, headers) = (answer.status(), end_to_end(answer.headers()));
        let mut response = Response::new(whole(answer.bytes().await.map_err(io::Error::other)?));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

/// The headers that are not about one connection or the framing on it.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    for name in [CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    headers
}
