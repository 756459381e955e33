//! The log: what it always says, and what it never does.

use std::fs::File;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::EncodePrivateKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{Home, PASSWORD, Process, TestClient, admin_beside};

/// As verbose as can be asked for: by level, and by the names of those who see what comes and goes.
const MOST: &str = "trace,tungstenite::protocol=trace,tungstenite::protocol::frame=trace,tokio_tungstenite::compat=trace,\
    hyper=trace,hyper::proto=trace,hyper_util::client=trace,h2::codec=trace,reqwest::connect=trace,rustls=trace,\
    elasticsearch=trace,elastic_transport=trace,jsonrpsee_core=trace,tower_http=trace,axum=trace";

/// Passwords beside the usual one.
const CHANGED: &str = "a changed canary 7 for alice";
const CREATED: &str = "a created canary 7 for dave";
const SET: &str = "a set canary 7 for dave";

/// A gateway of this log level, whose standard error goes into a file beside its data folder.
async fn logging(data: &Path, level: &str) -> Process {
    logging_as(Process::command(data, &[]), data, level).await
}

/// A command that becomes such a gateway.
async fn logging_as(mut command: Command, data: &Path, level: &str) -> Process {
    command.env("DOORWARD_LOG", level).env("DOORWARD_LOG_FORMAT", "json");
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
    let home = Home::of_this_run();
    let data = home.data();
    let folder = data.parent().unwrap();
    // Secrets of every kind: made by the gateway, of a file, and of the settings.
    let (accepted, credentials) = ("an accepted canary that signs nothing", "a-canary-for-the-cluster");
    let (key, env) = (folder.join("key.pem"), folder.join(".env"));
    SigningKey::from_bytes(&[7; 32]).write_pkcs8_pem_file(&key, LineEnding::LF).unwrap();
    std::fs::write(env, format!("DOORWARD_JWT_KEY_FILE=key.pem\nDOORWARD_JWT_ACCEPT_SECRET='{accepted}'\n")).unwrap();
    let mut command = home.command(&[]);
    if home.is_elastic() {
        // A cluster without users of its own lets everybody in.
        command.envs([("DOORWARD_ES_USERNAME", "gateway"), ("DOORWARD_ES_PASSWORD", credentials)]);
    }
    let gateway = logging_as(command, &data, MOST).await;
    let token_of = |signed_in: &Value| signed_in["tokens"]["access_token"].as_str().unwrap().to_owned();
    let refresh_of = |signed_in: &Value| signed_in["tokens"]["refresh_token"].as_str().unwrap().to_owned();

    let mut alice = TestClient::connect(gateway.address, &[]).await;
    let mut tokens = vec![token_of(&alice.register("alice").await)];
    let signed_in = alice.login("alice").await;
    tokens.extend([token_of(&signed_in), refresh_of(&signed_in)]);
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

    // Everything else that takes or gives a secret.
    let refreshed = &alice.call("auth.refresh", json!({"refresh_token": refresh_of(&signed_in)})).await.unwrap();
    let params = json!({"current_password": PASSWORD, "new_password": CHANGED});
    let changed = &alice.call("auth.change_password", params).await.unwrap();
    for given in [refreshed, changed] {
        tokens.extend([token_of(given), refresh_of(given)]);
    }
    let mut keeper = admin_beside(&gateway, &home, "keeper").await;
    tokens.push(keeper.token.clone());
    let dave = json!({"username": "dave", "email": "dave@example.com", "password": CREATED});
    keeper.call("users.create", dave).await.unwrap();
    let params = json!({"username": "dave", "new_password": SET});
    keeper.call("users.set_password", params).await.unwrap();
    keeper.call("auth.logout", json!({"scope": "all"})).await.unwrap();

    // What is refused is not repeated either: in an answer, in the log, or as a metric.
    let refused = "a canary that opens nothing";
    let mut carol = TestClient::connect(gateway.address, &[]).await;
    let mut told = String::new();
    for (method, params) in [
        ("auth.login", json!({"login": "alice", "password": refused})),
        ("auth.login", json!({"login": "nobody", "password": refused})),
        ("auth.login", json!({"login": refused, "password": refused})),
        ("auth.register", json!({"username": "carol", "email": "carol@example.com", "password": [refused]})),
        ("auth.register", json!({"username": "carol", "email": "carol@example.com", "password": "password1"})),
        ("auth.authenticate", json!({"access_token": refused})),
    ] {
        told += &format!("{:?}", carol.call(method, params).await.unwrap_err());
    }
    let params = json!({"username": "me", "patch": patch("a2@example.com"), "current_password": refused});
    told += &format!("{:?}", alice.call("users.update", params).await.unwrap_err());
    told += &reqwest::get(format!("http://{}/metrics", gateway.metrics)).await.unwrap().text().await.unwrap();
    // With a cluster the settings have what is in the folder otherwise.
    let mut keys = home.secrets();
    keys.push(std::fs::read_to_string(key).unwrap());
    // Of the key file the line that holds the key.
    let keys = keys.iter().map(|key| key.lines().nth(1).unwrap_or(key.trim()));

    let log = logged(gateway, &data).await;
    for (event, count) in [("updated", 5), ("login_failed", 3), ("proof_failed", 1), ("created", 3)] {
        assert_eq!(log.matches(&format!(r#""event":"{event}""#)).count(), count, "it is not the log: {log}");
    }
    let log = log + &told;
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let passwords = [PASSWORD, CHANGED, CREATED, SET, refused, credentials];
    let basic = STANDARD.encode(format!("gateway:{credentials}"));
    let others = passwords.into_iter().chain([accepted, "$2b$", &basic]).chain(keys);
    for secret in tokens.iter().map(String::as_str).chain(others) {
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
