//! What the tests share: a gateway of their own, and clients that speak to it through real sockets.

mod client;
mod process;
mod raw;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use doorward::clock::Clock;
use doorward::config::Config;
use doorward::server::Server;
use serde_json::{Value, json};

pub use client::{Failure, TestClient};
pub use process::{Ended, Process};
pub use raw::{RawClient, opcode};

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

/// A gateway in this process: port 0, a data folder of its own, the cheapest hashes; stopped on drop.
pub struct TestGateway {
    server: Option<Server>,
    /// Moves its wall clock.
    pub clock: Clock,
    /// Where it listens.
    pub address: SocketAddr,
    _folder: tempfile::TempDir,
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
        config.data_dir = folder.path().join("data");
        config.bcrypt_cost = 4;
        config.hash_queue = 1000;
        change(&mut config);
        let clock = Clock::default();
        let server = Server::start(config, clock.clone()).await.expect("the gateway starts");
        Self { address: server.address(), server: Some(server), clock, _folder: folder, http: reqwest::Client::new() }
    }

    /// The server itself, for tests that look inside.
    pub fn server(&self) -> &Server {
        self.server.as_ref().expect("it runs until it is stopped")
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
        self.logged_in(username).await;
        let store = &self.server().app().rpc.context.store;
        let username = doorward::users::Username::parse(username).expect("a good name");
        let user = store.user_get(&username).await.expect("the store answers").expect("just registered");
        let act = doorward::users::rules::Act { actor: None, at: self.clock.now(), reason: None };
        let next = doorward::users::rules::set_role(&user, doorward::users::Role::Admin, act).expect("was none");
        let directory = &self.server().app().rpc.context.directory;
        store.user_replace(next.clone(), doorward::store::PasswordChange::Keep).await.expect("nobody else writes");
        directory.apply(&std::sync::Arc::new(next), None);
        let mut client = self.socket().await;
        client.login(username.as_str()).await;
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
