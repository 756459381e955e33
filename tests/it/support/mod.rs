//! What the tests share: a gateway of their own, and clients that speak to it through real sockets.

mod client;
pub mod elastic;
mod home;
mod indices;
pub mod network;
mod ports;
mod process;
pub mod proxy;
mod raw;
mod tls;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use doorward::clock::Clock;
use doorward::config::{Config, MetricsListen};
use doorward::server::Server;
use doorward::store::elastic::ElasticConfig;
use serde_json::{Value, json};

pub use client::{Failure, TestClient, outcome};
pub use home::Home;
pub use indices::Indices;
pub use ports::lasting_address;
pub use process::{Ended, Process};
pub use raw::{RawClient, masked, opcode};
pub use tls::TlsProxy;

/// A password that the policy accepts.
pub const PASSWORD: &str = "correct horse 9 battery";

/// The one time-out of everything that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Whether the full counts were asked for.
pub fn long_run() -> bool {
    std::env::var_os("DOORWARD_TEST_LONG").is_some_and(|value| value == "1")
}

/// `short` by default, `full` for `make test-long`.
pub fn count(short: usize, full: usize) -> usize {
    if long_run() { full } else { short }
}

/// How long may pass where so much is asked for: that much in the long run, which has the machine to itself, and several
/// times as much beside all other tests.
pub fn bound(asked: Duration) -> Duration {
    if long_run() { asked } else { 8 * asked }
}

/// Whether gateways in this process keep their users in Elasticsearch: `make test` runs everything once so.
pub fn on_elasticsearch() -> bool {
    std::env::var_os("DOORWARD_TEST_STORE").is_some_and(|store| store == "elasticsearch")
}

/// The value of a metric of a process, by its name and labels; 0 where it has not been measured yet.
pub async fn value_of_metric(gateway: &Process, metric: &str) -> f64 {
    let scrape = reqwest::get(format!("http://{}/metrics", gateway.metrics)).await.expect("it answers");
    let scrape = scrape.text().await.expect("it is text");
    let value = scrape.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().expect("a number"))
}

/// Makes an admin beside a running process, and a socket where they are signed in.
pub async fn admin_beside(gateway: &Process, home: &Home, username: &str) -> TestClient {
    let mut command = home.command(&[]);
    let email = format!("{username}@example.com");
    command.args(["admin", "create", username, "--email", &email, "--password-stdin"]);
    let ended = Process::run(command, PASSWORD).await;
    assert_eq!((ended.code, ended.said().as_str()), (Some(0), ""));
    let mut client = TestClient::connect(gateway.address, &[]).await;
    client.login(username).await;
    client
}

/// The secrets of gateways whose users are in Elasticsearch: every node must know the same.
pub const SECRETS: [(&str, &str); 2] = [
    ("JWT_SECRET", "a secret that only these tests know 1"),
    ("DOORWARD_PASSWORD_PEPPER", "a pepper that only these tests know 1"),
];

/// Makes gateways with these settings nodes over one set of indices.
pub fn keep_users_in(elastic: ElasticConfig, config: &mut Config) {
    config.elastic = Some(elastic);
    let [secret, pepper] = SECRETS.map(|(_, value)| Some(value.to_owned().into()));
    (config.jwt_secret, config.password_pepper) = (secret, pepper);
}

/// A gateway in this process: port 0, a data folder of its own, the cheapest hashes; stopped on drop.
pub struct TestGateway {
    server: Option<Server>,
    /// Moves its wall clock.
    pub clock: Clock,
    /// Where it listens.
    pub address: SocketAddr,
    config: Config,
    folder: tempfile::TempDir,
    indices: Option<Indices>,
    http: reqwest::Client,
}

impl TestGateway {
    /// A gateway with the default settings.
    pub async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// A gateway with some settings changed.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let mut config = Config::from_variables(BTreeMap::new(), Vec::new()).expect("the defaults are good");
        config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.metrics = MetricsListen(None);
        config.data_dir = folder.path().join("data");
        config.bcrypt_cost = 4;
        config.hash_queue = 1000;
        // All of them come from one address, and one user may make most of a test's calls.
        config.throttle.registrations_per_address = 1_000_000;
        config.limits.calls_per_second = 1_000_000;
        let indices = on_elasticsearch().then(Indices::new);
        if let Some(indices) = &indices {
            keep_users_in(indices.config(), &mut config);
        }
        change(&mut config);
        let clock = Clock::default();
        let server = Server::start(config.clone(), clock.clone()).await.expect("the gateway starts");
        let (address, http) = (server.address(), reqwest::Client::new());
        Self { address, server: Some(server), clock, config, folder, indices, http }
    }

    /// Another gateway for the same users; `None` on the embedded store, whose file one gateway serves.
    pub async fn sibling(&self) -> Option<Self> {
        let elastic = self.indices.as_ref()?.config();
        Some(Self::with(|config| config.elastic = Some(elastic)).await)
    }

    /// One of several gateways over the same users.
    pub async fn over(elastic: ElasticConfig) -> Self {
        Self::with(|config| keep_users_in(elastic, config)).await
    }

    /// The server itself, for tests that look inside.
    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs until it is stopped")
    }

    /// The file of its embedded store.
    pub fn database(&self) -> PathBuf {
        self.folder.path().join("data/doorward.db")
    }

    /// Stops it in an orderly way.
    pub async fn stop(mut self) {
        self.server.take().expect("it runs until it is stopped").stop().await;
    }

    /// A socket that nobody has signed in on.
    pub async fn socket(&self) -> TestClient {
        TestClient::connect(self.address, &[]).await
    }

    /// A new user with a socket signed in.
    pub async fn logged_in(&self, username: &str) -> TestClient {
        let mut client = self.socket().await;
        client.register(username).await;
        client
    }

    /// A new admin with a socket signed in.
    pub async fn admin(&self, username: &str) -> TestClient {
        let mut promoted = self.logged_in(username).await;
        doorward::admin::promote(&self.config, username).await.expect("just registered");
        // The gateway has noticed when it ends the session of before.
        assert_eq!(promoted.revoked().await, ("role_changed".to_owned(), 4503));
        let mut client = self.socket().await;
        client.login(username).await;
        client
    }

    /// One message over HTTP: the status and the body.
    pub async fn post(&self, token: Option<&str>, body: impl Into<reqwest::Body>) -> (u16, String) {
        let response = self.rest("POST", "/rpc", token, Some(body.into())).await;
        (response.status().as_u16(), response.text().await.expect("the body is text"))
    }

    /// One HTTP request; a body is declared as JSON.
    pub async fn rest(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<reqwest::Body>,
    ) -> reqwest::Response {
        let method = method.parse().expect("a method");
        let mut request = self.http.request(method, format!("http://{}{path}", self.address));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        request.send().await.expect("the gateway answers")
    }

    /// One JSON-RPC call over HTTP: the result or the error.
    pub async fn call(&self, token: Option<&str>, method: &str, params: Value) -> Result<Value, Failure> {
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let (_, body) = self.post(token, call.to_string()).await;
        client::outcome(serde_json::from_str(&body).expect("the body is JSON"))
    }
}
