//! The nodes of the cluster: asked in turn, and set aside while they do not answer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use elasticsearch::auth::Credentials;
use elasticsearch::cert::{Certificate, CertificateValidation};
use elasticsearch::http::Url;
use elasticsearch::http::transport::{SingleNodeConnectionPool, Transport, TransportBuilder};
use secrecy::ExposeSecret;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{Effect, Failure};
use crate::authority::Authority;
use crate::store::elastic::{CA_FILE, ElasticConfig, ElasticCredentials};

/// How long a node is set aside after its first failure; doubled with each further one.
const FIRST_REST: Duration = Duration::from_millis(250);
/// The longest it is set aside.
const LONGEST_REST: Duration = Duration::from_secs(3);
/// A node that answered within this time is not probed before a request.
const FRESH: Duration = Duration::from_secs(1);

/// All nodes of the list.
pub(super) struct Nodes {
    nodes: Vec<Arc<Node>>,
    next: AtomicUsize,
}

/// One node.
pub(super) struct Node {
    pub(super) transport: Transport,
    /// Without credentials.
    name: String,
    host: String,
    port: u16,
    connect_timeout: Duration,
    health: Mutex<Health>,
}

#[derive(Default)]
struct Health {
    failures: u32,
    rests_until: Option<Instant>,
    answered_at: Option<Instant>,
}

impl Nodes {
    /// The nodes of the settings.
    pub(super) fn new(config: &ElasticConfig) -> Result<Self, String> {
        let authority = config.ca_file.as_deref().map(|path| Authority::read(CA_FILE, path)).transpose()?;
        let nodes = config.nodes.iter().map(|url| Node::new(url, config, authority.as_ref()).map(Arc::new));
        // Not every gateway should begin with the same node.
        let next = AtomicUsize::new(rand::random_range(0..config.nodes.len().max(1)));
        Ok(Self { nodes: nodes.collect::<Result<_, _>>()?, next })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The next node that is not set aside; when all are, the one whose rest ends first.
    pub(super) fn pick(&self) -> Arc<Node> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..self.nodes.len()).map(|at| &self.nodes[(first + at) % self.nodes.len()]);
        let now = Instant::now();
        let node = in_turn.min_by_key(|node| node.health().rests_until.filter(|until| *until > now));
        node.expect("the settings name at least one node").clone()
    }
}

impl Node {
    fn new(url: &Url, config: &ElasticConfig, authority: Option<&Authority>) -> Result<Self, String> {
        let mut builder = TransportBuilder::new(SingleNodeConnectionPool::new(url.clone())).disable_proxy();
        builder = builder.enable_meta_header(false);
        if let Some(credentials) = &config.credentials {
            builder = builder.auth(match credentials {
                ElasticCredentials::ApiKey(key) => Credentials::EncodedApiKey(key.expose_secret().to_owned()),
                ElasticCredentials::Basic { username, password } => {
                    Credentials::Basic(username.clone(), password.expose_secret().to_owned())
                }
            });
        }
        if let Some(Authority { pem, .. }) = authority {
            let chain = Certificate::from_pem(pem).map_err(|error| format!("{CA_FILE}: {error}"))?;
            builder = builder.cert_validation(CertificateValidation::Full(chain));
        }
        let transport = builder.build().map_err(|error| format!("ES_URL: {error}"))?;
        let host = url.host_str().ok_or("ES_URL: has a node without a host")?.trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().ok_or("ES_URL: has a node without a port")?;
        let name = format!("{host}:{port}");
        Ok(Self { transport, name, host, port, connect_timeout: config.connect_timeout, health: Mutex::default() })
    }

    /// Makes sure that the node accepts connections: the transport itself knows no time-out for that alone.
    pub(super) async fn reach(&self, patience: Duration) -> Result<(), Failure> {
        if self.health().answered_at.is_some_and(|at| at.elapsed() < FRESH) {
            return Ok(());
        }
        let connected = TcpStream::connect((self.host.as_str(), self.port));
        match tokio::time::timeout(self.connect_timeout.min(patience), connected).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Failure::unreachable(&self.name, &error.to_string())),
            Err(_) if patience < self.connect_timeout => Err(Failure::timeout(Effect::None)),
            Err(_) => Err(Failure::unreachable(&self.name, "no answer in time")),
        }
    }

    /// Takes note of an answer.
    pub(super) fn answered(&self) {
        *self.health() = Health { answered_at: Some(Instant::now()), ..Health::default() };
    }

    /// Sets the node aside for a while.
    pub(super) fn failed(&self) {
        let mut health = self.health();
        let rest = FIRST_REST.saturating_mul(1 << health.failures.min(8)).min(LONGEST_REST);
        let failures = health.failures + 1;
        *health = Health { failures, rests_until: Some(Instant::now() + rest), answered_at: None };
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
