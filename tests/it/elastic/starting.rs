//! A gateway that waits for its store: it lives, is not ready, and says so.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Child;

use crate::support::elastic::elastic_address;
use crate::support::proxy::{Fault, FaultProxy, When};
use crate::support::{Indices, PATIENCE, Process, SECRETS, TestClient, lasting_address};

/// A process that starts, on addresses that are known before it says so.
struct Starting {
    _child: Child,
    address: String,
    metrics: String,
    _folder: tempfile::TempDir,
}

impl Starting {
    fn begin(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (address, metrics) = (lasting_address().to_string(), lasting_address().to_string());
        let own = [("DOORWARD_LISTEN", address.as_str()), ("DOORWARD_METRICS_LISTEN", metrics.as_str())];
        let mut command = Process::command(&folder.path().join("data"), &[&SECRETS[..], &own, settings].concat());
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { _child: child, address, metrics, _folder: folder }
    }

    /// One request; waits until somebody listens.
    async fn ask(&self, method: &str, path: &str) -> reqwest::Response {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).build().unwrap();
        let address = if path == "/metrics" { &self.metrics } else { &self.address };
        let request = http.request(method.parse().unwrap(), format!("http://{address}{path}"));
        let asked = async {
            loop {
                let request = request.try_clone().unwrap().header("content-type", "application/json").body("{}");
                match request.send().await {
                    Err(error) if error.is_connect() => tokio::time::sleep(Duration::from_millis(20)).await,
                    answer => return answer.expect("it answers at once"),
                }
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.expect("it listens in time")
    }
}

#[tokio::test]
async fn while_the_store_is_awaited_the_gateway_lives_and_says_that_it_starts() {
    let proxy = FaultProxy::start(elastic_address()).await;
    let held = proxy.rule(|_, _| true, When::Always, Fault::Hold);
    let indices = Indices::new();
    let url = proxy.url();
    let settings = [
        ("ES_URL", url.as_str()),
        ("DOORWARD_INDEX_PREFIX", indices.prefix.as_str()),
        ("DOORWARD_ES_REQUEST_TIMEOUT_MS", "30000"),
    ];
    let gateway = Starting::begin(&settings);
    assert_eq!(gateway.ask("GET", "/healthz").await.json::<Value>().await.unwrap(), json!({"status": "ok"}));
    held.wait_for(1).await;
    let ready = gateway.ask("GET", "/readyz").await;
    assert_eq!(ready.status(), 503);
    assert!(ready.headers().contains_key("retry-after"));
    assert_eq!(ready.json::<Value>().await.unwrap(), json!({"status": "not_ready", "failing": ["starting"]}));
    for (method, path) in [
        ("POST", "/rpc"),
        ("GET", "/rpc"),
        ("POST", "/auth/login"),
        ("GET", "/users"),
        ("GET", "/.well-known/jwks.json"),
        ("GET", "/nowhere"),
        ("GET", "/metrics"),
    ] {
        let answer = gateway.ask(method, path).await;
        assert_eq!(answer.status(), 503, "{method} {path}");
        assert_eq!(answer.headers()["retry-after"], "1", "{method} {path}");
        let body = answer.json::<Value>().await.unwrap();
        let code = if path == "/rpc" { &body["error"]["code"] } else { &body["code"] };
        assert_eq!(*code, 1501, "{method} {path}: {body}");
    }
    held.release();
    let address = gateway.address.parse().unwrap();
    let ready = async {
        // Each is answered: there is no moment in which nobody listens.
        while gateway.ask("GET", "/readyz").await.status() != 200 {}
    };
    tokio::time::timeout(PATIENCE, ready).await.expect("it becomes ready");
    TestClient::connect(address, &[]).await.register("alice").await;
    assert_eq!(gateway.ask("GET", "/metrics").await.status(), 200);
}
