//! The log: what it always says, and what it never does.

use std::fs::File;
use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{PASSWORD, Process, TestClient};

/// A gateway of this log level, whose standard error goes into a file beside its data folder.
async fn logging(data: &Path, level: &str) -> Process {
    let settings = [("DOORWARD_LOG", level), ("DOORWARD_LOG_FORMAT", "json")];
    let mut command = Process::command(data, &settings);
    command.stderr(File::create(data.with_extension("log")).unwrap());
    Process::spawn(command).await
}

/// Stops it and gives what it has logged.
async fn logged(mut gateway: Process, data: &Path) -> String {
    gateway.signal(Signal::TERM);
    assert!(gateway.wait().await.success());
    std::fs::read_to_string(data.with_extension("log")).unwrap()
}

/// One HTTP request with a JSON body.
async fn http(gateway: &Process, method: &str, path: &str, token: Option<&str>, body: &Value) -> Value {
    let url = format!("http://{}{path}", gateway.address);
    let mut request = reqwest::Client::new().request(method.parse().unwrap(), url).json(body);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    let response = request.send().await.unwrap();
    let (status, text) = (response.status(), response.text().await.unwrap());
    assert!(status.is_success(), "{path}: {text}");
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn s16_no_password_token_or_hash_is_logged_at_any_level() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let gateway = logging(&data, "trace").await;
    let token_of = |signed_in: &Value| signed_in["tokens"]["access_token"].as_str().unwrap().to_owned();

    let mut alice = TestClient::connect(gateway.address, &[]).await;
    let mut tokens = vec![token_of(&alice.register("alice").await)];
    tokens.push(token_of(&alice.login("alice").await));
    alice.call("auth.authenticate", json!({"access_token": tokens[0]})).await.unwrap();
    let patch = |email: &str| json!({"email": email});
    let params = json!({"username": "me", "patch": patch("a1@example.com"), "current_password": PASSWORD});
    alice.call("users.update", params).await.unwrap();
    let bearer = format!("Bearer {}", tokens[0]);
    TestClient::connect(gateway.address, &[("authorization", &bearer)]).await;
    let protocol = format!("doorward.v1, bearer.{}", tokens[0]);
    TestClient::connect(gateway.address, &[("sec-websocket-protocol", &protocol)]).await;

    let bob = json!({"username": "bob", "email": "bob@example.com", "password": PASSWORD});
    let bob = token_of(&http(&gateway, "POST", "/auth/register", None, &bob).await);
    let login = json!({"login": "bob", "password": PASSWORD});
    tokens.push(token_of(&http(&gateway, "POST", "/auth/login", None, &login).await));
    let own = json!({"email": "b1@example.com", "current_password": PASSWORD});
    http(&gateway, "PATCH", "/users/me", Some(&bob), &own).await;
    let params = json!({"username": "me", "patch": patch("b2@example.com"), "current_password": PASSWORD});
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "users.update", "params": params});
    assert!(http(&gateway, "POST", "/rpc", Some(&bob), &call).await["result"].is_object());
    tokens.push(bob);

    let log = logged(gateway, &data).await;
    assert_eq!(log.matches(r#""event":"updated""#).count(), 3, "it is not the log: {log}");
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    for secret in tokens.iter().map(String::as_str).chain([PASSWORD, "$2b$"]) {
        let seen = log.lines().find(|line| line.contains(secret) || line.contains(&hex(secret)));
        assert_eq!(seen, None, "{secret} is in it");
    }
}

#[tokio::test]
async fn every_change_of_a_user_is_one_line_of_the_audit_trail_without_its_values() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut make = Process::command(&data, &[]);
    make.args(["admin", "create", "keeper", "--email", "keeper@example.com", "--password-stdin"]);
    assert_eq!(Process::run(make, PASSWORD).await.code, Some(0));

    let gateway = logging(&data, "info").await;
    let mut keeper = TestClient::connect(gateway.address, &[]).await;
    keeper.login("keeper").await;
    let bob = json!({"username": "bob", "email": "canary@example.com", "display_name": "Canary", "password": PASSWORD});
    for (method, params) in [
        ("users.create", bob),
        ("users.update", json!({"username": "bob", "patch": {"bio": "a canary", "attributes": {"canary": "canary"}}})),
        ("users.set_role", json!({"username": "bob", "role": "admin"})),
        ("users.deactivate", json!({"username": "bob", "reason": "a canary"})),
        ("users.deactivate", json!({"username": "bob"})), // changes nothing
    ] {
        keeper.call(method, params).await.unwrap();
    }
    let log = logged(gateway, &data).await;
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let changes = lines.iter().filter(|line| line["target"] == "audit" && line["fields"]["user"] == "bob");
    let told = changes.map(|line| ["event", "actor", "address", "fields"].map(|name| line["fields"][name].clone()));
    let change = |event: &str, fields: &str| [event, "keeper", "127.0.0.1", fields].map(|text| json!(text));
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            change("created", "username,email,display_name,role"),
            change("updated", "bio,attributes"),
            change("role_changed", "role"),
            change("deactivated", "status"),
        ]
    );
    assert!(!log.to_lowercase().contains("canary") && !log.contains(PASSWORD), "{log}");
}
