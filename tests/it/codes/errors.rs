//! One way to be refused with each error code.

use std::time::Duration;

use doorward::config::Config;
use hyper::Method;
use serde_json::{Value, json};

use crate::support::elastic::elastic_address;
use crate::support::proxy::{Fault, FaultProxy, JSON, When};
use crate::support::{Failure, Indices, PASSWORD, TestClient, TestGateway, outcome};

/// The failure that has this code.
pub async fn provoke(code: i64) -> Failure {
    match code {
        -32700 => posted("{").await,
        -32600 => posted(r#"{"jsonrpc": "2.0"}"#).await,
        -32601 => as_alice("users.no_such_method", json!({})).await,
        -32602 => as_alice("users.get", json!({"name": "alice"})).await,
        -32603 | 1501 | 1502 | 1503 => failing_store(code).await,
        -32006 => too_many_subscriptions().await,
        -32007 => posted("x".repeat(100_000)).await,
        -32008 => too_large_a_reply().await,
        -32010 => posted(format!("[{}]", vec!["1"; 51].join(","))).await,
        1001 => TestGateway::start().await.call(None, "users.get", json!({"username": "me"})).await.unwrap_err(),
        1002 => expired().await,
        1003 => as_alice("auth.authenticate", json!({"access_token": "no token"})).await,
        1004 => after_logout().await,
        1005 => as_alice("auth.login", json!({"login": "alice", "password": "none of hers"})).await,
        1007 => another_identity().await,
        1101 => as_alice("users.erase", json!({"username": "alice"})).await,
        1102 => as_admin("users.set_role", json!({"username": "me", "role": "user"})).await,
        1201 => as_alice("users.get", json!({"username": "nobody"})).await,
        1202 => registered("keeper", PASSWORD).await,
        1203 => as_alice("users.update", json!({"username": "me", "patch": {"bio": "x"}, "if_rev": 7})).await,
        1205 => registered("alice", "password1").await,
        1301 => too_many_calls().await,
        1302 => too_many_registrations().await,
        1303 => too_many_hashes().await,
        1401 => as_alice("users.list", json!({"cursor": "none"})).await,
        1402 => as_alice("users.changes", json!({"since": "none"})).await,
        1403 => as_alice("users.unsubscribe", json!({"subscription": 7})).await,
        1404 => as_alice("users.list", json!({"filter": {"email": {"exists": true}}})).await,
        _ => panic!("nothing here provokes {code}"),
    }
}

/// The failure of a message over HTTP.
async fn posted(body: impl Into<reqwest::Body>) -> Failure {
    let (_, reply) = TestGateway::start().await.post(None, body).await;
    outcome(serde_json::from_str(&reply).unwrap()).unwrap_err()
}

/// The failure of a call on the socket of a user.
async fn as_alice(method: &str, params: Value) -> Failure {
    let gateway = TestGateway::start().await;
    gateway.logged_in("alice").await.call(method, params).await.unwrap_err()
}

async fn as_admin(method: &str, params: Value) -> Failure {
    let gateway = TestGateway::start().await;
    gateway.admin("keeper").await.call(method, params).await.unwrap_err()
}

/// The failure of registering somebody beside a user `keeper`.
async fn registered(username: &str, password: &str) -> Failure {
    let gateway = TestGateway::start().await;
    gateway.logged_in("keeper").await;
    let params = json!({"username": username, "email": "new@example.com", "password": password});
    gateway.call(None, "auth.register", params).await.unwrap_err()
}

async fn too_many_subscriptions() -> Failure {
    let gateway = TestGateway::with(|config| config.limits.subscriptions = 1).await;
    let mut alice = gateway.logged_in("alice").await;
    alice.call("users.subscribe", json!({})).await.unwrap();
    alice.call("users.subscribe", json!({})).await.unwrap_err()
}

async fn too_large_a_reply() -> Failure {
    let gateway = TestGateway::with(|config| config.limits.reply_bytes = 16 << 10).await;
    let mut alice = gateway.logged_in("alice").await;
    for number in 0..5 {
        let mut user = gateway.logged_in(&format!("user{number}")).await;
        let attributes = json!({"filling": "x".repeat(4000)});
        user.call("users.update", json!({"username": "me", "patch": {"attributes": attributes}})).await.unwrap();
    }
    alice.call("users.list", json!({})).await.unwrap_err()
}

async fn expired() -> Failure {
    let gateway = TestGateway::with(|config| config.token_life = Duration::from_secs(10)).await;
    let token = gateway.logged_in("alice").await.token;
    gateway.clock.advance(Duration::from_secs(60));
    gateway.socket().await.call("auth.authenticate", json!({"access_token": token})).await.unwrap_err()
}

async fn after_logout() -> Failure {
    let gateway = TestGateway::start().await;
    let token = gateway.logged_in("alice").await.token;
    gateway.call(Some(&token), "auth.logout", json!({})).await.unwrap();
    gateway.call(Some(&token), "users.get", json!({"username": "me"})).await.unwrap_err()
}

async fn another_identity() -> Failure {
    let gateway = TestGateway::start().await;
    let (mut alice, _bob) = (gateway.logged_in("alice").await, gateway.logged_in("bob").await);
    alice.call("auth.login", json!({"login": "bob", "password": PASSWORD})).await.unwrap_err()
}

async fn too_many_calls() -> Failure {
    let settings = |config: &mut Config| (config.limits.calls_per_second, config.limits.calls_burst) = (1, 1);
    let gateway = TestGateway::with(settings).await;
    loop {
        if let Err(failure) = gateway.call(None, "system.ping", json!({})).await {
            return failure;
        }
    }
}

async fn too_many_registrations() -> Failure {
    let gateway = TestGateway::with(|config| config.throttle.registrations_per_address = 1).await;
    gateway.logged_in("alice").await;
    let params = json!({"username": "bob", "email": "bob@example.com", "password": PASSWORD});
    gateway.call(None, "auth.register", params).await.unwrap_err()
}

async fn too_many_hashes() -> Failure {
    let settings = |config: &mut Config| (config.bcrypt_cost, config.hash_threads, config.hash_queue) = (10, 1, 1);
    let gateway = TestGateway::with(settings).await;
    let mut client = gateway.socket().await;
    let login = |id: u64| {
        let params = json!({"login": format!("nobody{id}"), "password": "none of theirs"});
        json!({"jsonrpc": "2.0", "id": id, "method": "auth.login", "params": params})
    };
    let replies = client.exchange((0..20).map(login).collect::<Value>().to_string()).await;
    let replies: Vec<Value> = serde_json::from_str(&replies).unwrap();
    let mut failures = replies.into_iter().filter_map(|reply| outcome(reply).err());
    failures.find(|failure| failure.code != 1005).expect("more hashes were asked for than may wait")
}

/// A gateway whose Elasticsearch fails it.
async fn failing_store(code: i64) -> Failure {
    let (indices, proxy) = (Indices::new(), FaultProxy::start(elastic_address()).await);
    let gateway = TestGateway::over(indices.config_at(&proxy.url())).await;
    let mut alice = gateway.logged_in("alice").await;
    let get = |client: TestClient| async {
        let mut client = client;
        client.call("users.get", json!({"username": "nobody"})).await.unwrap_err()
    };
    let users = |_: &Method, path: &str| path.contains("-users");
    match code {
        -32603 => {
            let refused = r#"{"error": {"type": "illegal_argument_exception", "reason": "of a test"}, "status": 400}"#;
            proxy.rule(users, When::Always, Fault::Answer(400, JSON, refused));
            get(alice).await
        }
        1501 => {
            proxy.rule(users, When::Always, Fault::CutBefore);
            get(alice).await
        }
        1502 => {
            let held = proxy.rule(users, When::Always, Fault::Hold);
            let failure = get(alice).await;
            held.release();
            failure
        }
        _ => {
            let put = |method: &Method, path: &str| method == Method::PUT && path.contains("-users");
            let write = proxy.rule(put, When::Always, Fault::CutAfter);
            let read_back =
                move |method: &Method, path: &str| method == Method::GET && path.contains("-users") && write.seen() > 0;
            proxy.rule(read_back, When::Always, Fault::CutBefore);
            alice.call("users.update", json!({"username": "me", "patch": {"bio": "written"}})).await.unwrap_err()
        }
    }
}
