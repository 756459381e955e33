//! The only place that speaks to Elasticsearch, and the only reader of its answers.
//!
//! The official crate carries the bytes. What a gateway needs beyond is here: a deadline for each operation, few
//! retries with full jitter and within a budget, nodes that do not answer set aside, a circuit breaker, and an exact
//! account of whether a failed request may have taken effect.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use elasticsearch::http::Method;
use elasticsearch::http::headers::{HeaderMap, HeaderName, HeaderValue};
use metrics::{counter, histogram};
use rand::Rng;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::ElasticConfig;
use super::index::Names;
use crate::metrics::{STORE_REQUESTS, STORE_SECONDS};

mod breaker;
mod budget;
mod nodes;
mod reading;

use nodes::{Node, Nodes};
pub(super) use reading::{Effect, Failure, Kind, Shards};

/// The most attempts at one request.
const MAX_ATTEMPTS: u32 = 3;
/// The upper end of the first pause between attempts; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The most requests under way; further ones wait.
const MAX_IN_FLIGHT: usize = 256;

/// The moment at which an operation, of however many requests, gives up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(Instant);

impl Deadline {
    /// So much time from now.
    pub(super) fn within(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    /// What is left of it.
    pub(super) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Waits for a random part of `time`; false when the deadline comes first.
    pub(super) async fn pause(self, time: Duration) -> bool {
        let pause = time.mul_f64(rand::rng().random());
        if pause >= self.left() {
            return false;
        }
        tokio::time::sleep(pause).await;
        true
    }
}

/// One request. Its path is made of checked names only: see `documents::DocId` and `index::Names`.
#[derive(Debug, Clone)]
pub(super) struct Request {
    method: Method,
    path: String,
    body: Option<Bytes>,
    content_type: &'static str,
    /// Whether retries of it are exempt from the budget: those that find out what became of a write.
    resolves: bool,
    /// The longest one attempt may take; `None` is as configured.
    patience: Option<Duration>,
}

impl Request {
    /// A request without a body.
    pub(super) fn new(method: Method, path: String) -> Self {
        Self { method, path, body: None, content_type: "application/json", resolves: false, patience: None }
    }

    /// A request with a JSON body.
    pub(super) fn json(method: Method, path: String, body: &Value) -> Self {
        Self { body: Some(body.to_string().into()), ..Self::new(method, path) }
    }

    /// Its retries find out what became of a write, and are exempt from the budget.
    pub(super) fn resolving(self) -> Self {
        Self { resolves: true, ..self }
    }

    /// One attempt at it may take as long as the operation.
    pub(super) fn patient(self, deadline: Deadline) -> Self {
        Self { patience: Some(deadline.left()), ..self }
    }

    /// A request whose body is lines of JSON: `_bulk`.
    pub(super) fn lines(path: String, body: String) -> Self {
        Self { body: Some(body.into()), content_type: "application/x-ndjson", ..Self::new(Method::Post, path) }
    }
}

/// What Elasticsearch answered: any status that tells something about the request itself.
#[derive(Debug)]
pub(super) struct Answer {
    /// The HTTP status: 2xx, 400, 404 or 409.
    pub(super) status: u16,
    body: Bytes,
    /// What earlier attempts at the same request, which were not answered, may have done.
    earlier: Effect,
}

impl Answer {
    /// Whether the request was done.
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Reads the body.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Failure::unexpected(format!("an answer of Elasticsearch cannot be read: {error}")))
    }

    /// Reads the body of an answer that is of use only when the request was done.
    pub(super) fn read_done<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        if self.is_success() { self.read() } else { Err(self.unexpected()) }
    }

    /// What Elasticsearch names the error, e.g. `index_not_found_exception`; empty when there is none.
    pub(super) fn error_type(&self) -> String {
        reading::error_type(&self.body)
    }

    /// An answer that was not expected, as the failure of the operation.
    pub(super) fn unexpected(&self) -> Failure {
        let error = self.error_type();
        let text = format!("Elasticsearch answered {} {error}", self.status);
        let failure = match (self.status, error.as_str()) {
            // An index that is missing or closed, until somebody acts.
            (400, "index_closed_exception") | (404, _) => Failure::gone(text),
            _ => Failure::unexpected(text),
        };
        Failure { effect: self.earlier, ..failure }
    }
}

/// Requests to a cluster.
pub(super) struct Client {
    link: Arc<Link>,
    budget: budget::Budget,
    in_flight: Semaphore,
}

/// The way to the cluster, which requests share with probes.
struct Link {
    nodes: Nodes,
    breaker: breaker::Breaker,
    request_timeout: Duration,
    /// Reads a document: what must work again before calls may.
    probe: Request,
}

impl Client {
    /// A client of these nodes; connects at the first request. Errors: one line about the settings.
    pub(super) fn new(config: &ElasticConfig) -> Result<Self, String> {
        let link = Link {
            nodes: Nodes::new(config)?,
            breaker: breaker::Breaker::default(),
            request_timeout: config.request_timeout.min(config.operation),
            probe: Request::new(Method::Get, format!("/{}/_doc/probe", Names::new(&config.prefix).users)),
        };
        Ok(Self::over(Arc::new(link)))
    }

    /// Another client of the same cluster, for work that must not wait for what goes through this one.
    pub(super) fn apart(&self) -> Self {
        Self::over(self.link.clone())
    }

    fn over(link: Arc<Link>) -> Self {
        Self { link, budget: budget::Budget::default(), in_flight: Semaphore::new(MAX_IN_FLIGHT) }
    }

    /// How many nodes are asked in turn.
    pub(super) fn nodes(&self) -> usize {
        self.link.nodes.len()
    }

    /// Sends a request that may be repeated, and repeats it while that can help.
    ///
    /// A failure's effect counts over all attempts: it is [`Effect::None`] only when none of them can have done anything.
    pub(super) async fn send(&self, request: &Request, deadline: Deadline) -> Result<Answer, Failure> {
        self.send_until(request, deadline, Ok).await
    }

    /// The same, and repeats it also while `read` finds that the answer fails by a part of the index that is away for a
    /// moment. That says nothing about the node which answered.
    pub(super) async fn send_until<T>(
        &self,
        request: &Request,
        deadline: Deadline,
        read: impl Fn(Answer) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut pause = FIRST_PAUSE;
        let mut effect = Effect::None;
        for attempt in 1.. {
            let answer = self.attempt(request, deadline).await;
            let failure = match answer.map(|answer| Answer { earlier: effect, ..answer }).and_then(&read) {
                Ok(read) => return Ok(read),
                Err(failure) => failure,
            };
            effect = effect.max(failure.effect);
            let failure = Failure { effect, ..failure };
            let may_retry = attempt < MAX_ATTEMPTS
                && failure.kind.is_passing()
                && (request.resolves || self.budget.take())
                && deadline.pause(pause).await;
            if !may_retry {
                return Err(failure);
            }
            pause *= 2;
        }
        unreachable!("the last attempt returns")
    }

    /// Sends a request once.
    pub(super) async fn attempt(&self, request: &Request, deadline: Deadline) -> Result<Answer, Failure> {
        let permit = tokio::time::timeout(deadline.left(), self.in_flight.acquire()).await;
        let _permit = permit.map_err(|_| Failure::timeout(Effect::None))?.expect("the semaphore is never closed");
        if let Err(cause) = self.link.breaker.enter() {
            self.link.probe();
            return Err(Failure::circuit_open(&cause));
        }
        self.budget.earn();
        self.link.attempt(request, deadline).await
    }
}

impl Link {
    /// Tries, when it is time, whether the cluster answers again.
    fn probe(self: &Arc<Self>) {
        if self.breaker.is_probe_due() {
            let link = self.clone();
            // Nobody waits for it: it ends by itself within a request's time-out, and the breaker knows the outcome.
            tokio::spawn(async move { link.attempt(&link.probe, Deadline::within(link.request_timeout)).await });
        }
    }

    /// Sends a request to a node, and takes note of what came of it.
    async fn attempt(&self, request: &Request, deadline: Deadline) -> Result<Answer, Failure> {
        let node = self.nodes.pick();
        let began = Instant::now();
        let patience = deadline.left().min(request.patience.unwrap_or(self.request_timeout));
        let result = self.exchange(&node, request, patience).await;
        let outcome = if result.is_ok() { "answered" } else { "failed" };
        counter!(STORE_REQUESTS, "outcome" => outcome).increment(1);
        histogram!(STORE_SECONDS).record(began.elapsed());
        match &result {
            // What an operation has left at its end may be a millisecond: that it passed says nothing about the node.
            Err(failure) if failure.kind == Kind::Timeout && patience < self.request_timeout / 2 => {}
            Err(failure) if failure.kind.is_of_the_node() => {
                node.failed();
                self.breaker.failed(&failure.text);
            }
            Err(failure) if failure.kind == Kind::Overloaded => self.breaker.failed(&failure.text),
            _ => {
                node.answered();
                self.breaker.succeeded();
            }
        }
        result
    }

    async fn exchange(&self, node: &Arc<Node>, request: &Request, patience: Duration) -> Result<Answer, Failure> {
        if patience.is_zero() {
            return Err(Failure::timeout(Effect::None));
        }
        node.reach(patience).await?;
        let headers = [
            ("content-type", request.content_type),
            ("accept", "application/json"),
            // To compress an answer costs the server more than to send it near by. Over TLS it never does.
            ("accept-encoding", "identity"),
        ];
        let headers = headers.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let sent = node.transport.send(
            request.method,
            &request.path,
            HeaderMap::from_iter(headers),
            None::<&()>,
            request.body.clone(),
            Some(patience),
        );
        let response = sent.await.map_err(|error| reading::failure_of(&error))?;
        let status = response.status_code().as_u16();
        let names_itself =
            response.headers().get("x-elastic-product").is_some_and(|product| product == "Elasticsearch");
        let body = response.bytes().await.map_err(|error| reading::failure_of(&error))?;
        reading::judge(status, names_itself, body)
    }
}

#[cfg(test)]
mod tests {
    use elasticsearch::http::Url;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn r07_a_node_is_judged_by_what_had_its_time_and_not_by_what_an_operation_has_left() {
        // It accepts, and never answers.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let request_timeout = Duration::from_millis(200);
        let config = ElasticConfig {
            nodes: vec![Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap()],
            credentials: None,
            ca_file: None,
            prefix: "doorward".to_owned(),
            shards: 1,
            connect_timeout: Duration::from_millis(500),
            request_timeout,
            operation: Duration::from_secs(4),
            start_patience: Duration::from_secs(1),
        };
        let client = Client::new(&config).unwrap();
        let request = Request::new(Method::Get, "/".to_owned());
        let fails = async |within| client.attempt(&request, Deadline::within(within)).await.unwrap_err().kind;
        for _ in 0..20 {
            assert_eq!(fails(Duration::from_millis(3)).await, Kind::Timeout);
        }
        for _ in 0..5 {
            assert_eq!(fails(request_timeout).await, Kind::Timeout);
        }
        assert_eq!(fails(request_timeout).await, Kind::CircuitOpen);
    }
}
