//! One way to have a socket closed with each code.

use std::time::Duration;

use doorward::config::Config;
use serde_json::json;

use crate::limits::told_of_the_stall;
use crate::support::{PASSWORD, RawClient, TestClient, TestGateway};

const SOON: Duration = Duration::from_secs(1);

/// The code that the gateway closed with.
pub async fn provoke(code: u16) -> u16 {
    match code {
        1002 => closed_for(b"\xc1\x80\0\0\0\0").await,
        1003 => closed_for(b"\x82\x80\0\0\0\0").await,
        1007 => closed_for(b"\x81\x83\0\0\0\0\"\xff\"").await,
        1009 => too_large_a_message().await,
        1011 => crate::connection::closed_by_a_fault().await,
        1012 => drained().await,
        4001 => expired().await,
        4002 => told_of_the_stall().await.0,
        4003 => answers_no_ping().await,
        4004 => goes_on_calling().await,
        4500 => {
            sent(|_| (), 3, r#"{"jsonrpc":"2.0","id":1,"method":"auth.authenticate","params":{"access_token":"x"}}"#)
                .await
        }
        4501 => sent(|_| (), 20, "not JSON").await,
        4502 => sent(|config| config.timeouts.sign_in = SOON, 0, "").await,
        4503 => ended("auth.logout", json!({})).await,
        4504 => ended("users.deactivate", json!({"username": "me"})).await,
        4505 => too_many_sockets().await,
        _ => panic!("nothing here provokes {code}"),
    }
}

/// After these bytes on a new socket.
async fn closed_for(bytes: &[u8]) -> u16 {
    let gateway = TestGateway::start().await;
    let mut raw = RawClient::upgraded(gateway.address, None).await;
    raw.write(bytes).await;
    raw.closed().await.expect("a close frame")
}

/// After so many times this text on a new socket.
async fn sent(settings: impl FnOnce(&mut Config), times: usize, text: &str) -> u16 {
    let gateway = TestGateway::with(settings).await;
    let mut client = gateway.socket().await;
    for _ in 0..times {
        client.send(text).await;
    }
    client.closed().await.0
}

async fn too_large_a_message() -> u16 {
    let gateway = TestGateway::start().await;
    let mut client = gateway.socket().await;
    client.send("x".repeat(100_000)).await;
    client.closed().await.0
}

async fn drained() -> u16 {
    let gateway = TestGateway::start().await;
    let mut client = gateway.socket().await;
    client.call("system.ping", json!({})).await.unwrap();
    tokio::join!(client.closed(), gateway.stop()).0.0
}

async fn expired() -> u16 {
    let gateway = TestGateway::with(|config| config.token_life = Duration::from_secs(10)).await;
    let token = gateway.logged_in("alice").await.token;
    // Of the life and the leeway of 30 s two or three seconds are left.
    gateway.clock.advance(Duration::from_secs(37));
    let mut client = gateway.socket().await;
    client.call("auth.authenticate", json!({"access_token": token})).await.unwrap();
    client.closed().await.0
}

async fn answers_no_ping() -> u16 {
    let settings = |config: &mut Config| (config.timeouts.ping, config.timeouts.pong) = (SOON, SOON);
    let gateway = TestGateway::with(settings).await;
    RawClient::upgraded(gateway.address, None).await.closed().await.expect("a close frame")
}

async fn goes_on_calling() -> u16 {
    let settings = |config: &mut Config| (config.limits.calls_per_second, config.limits.calls_burst) = (1, 5);
    sent(settings, 20, r#"{"jsonrpc":"2.0","id":1,"method":"system.ping"}"#).await
}

/// After alice ended her session in this way by HTTP.
async fn ended(method: &str, params: serde_json::Value) -> u16 {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    gateway.call(Some(&alice.token), method, params).await.unwrap();
    alice.closed().await.0
}

async fn too_many_sockets() -> u16 {
    let gateway = TestGateway::with(|config| config.limits.sockets_per_user = 1).await;
    let _first = gateway.logged_in("alice").await;
    let mut second: TestClient = gateway.socket().await;
    let login = json!({"login": "alice", "password": PASSWORD});
    second.send(json!({"jsonrpc": "2.0", "id": 1, "method": "auth.login", "params": login}).to_string()).await;
    second.closed().await.0
}
