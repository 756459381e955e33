//! The upgrade: who is let in, as whom, and how many.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{PASSWORD, TestClient, TestGateway};

/// The headers of a good handshake.
const HANDSHAKE: [(&str, &str); 4] = [
    ("connection", "Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

/// The response to a handshake with these headers.
async fn handshake(gateway: &TestGateway, path: &str, headers: &[(&str, &str)]) -> reqwest::Response {
    let mut request = reqwest::Client::new().get(format!("http://{}{path}", gateway.address));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

/// The handshake with one header more.
fn with<'a>(name: &'a str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    HANDSHAKE.into_iter().chain([(name, value)]).collect()
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

async fn me(client: &mut TestClient) -> Value {
    client.call("users.get", json!({"username": "me"})).await.unwrap()["user"]["username"].clone()
}

#[tokio::test]
async fn a_socket_is_signed_in_by_header_or_subprotocol() {
    let gateway = TestGateway::start().await;
    let token = gateway.logged_in("alice").await.token;
    let mut by_header = TestClient::connect(gateway.address, &[("authorization", &bearer(&token))]).await;
    assert_eq!(me(&mut by_header).await, "alice");
    let offered = format!("doorward.v1, bearer.{token}");
    let mut by_protocol = TestClient::connect(gateway.address, &[("sec-websocket-protocol", &offered)]).await;
    assert_eq!(me(&mut by_protocol).await, "alice");
}

#[tokio::test]
async fn only_the_protocol_of_this_version_is_echoed() {
    let gateway = TestGateway::start().await;
    let token = gateway.logged_in("alice").await.token;
    let cases = [
        (format!("doorward.v1, bearer.{token}"), Some("doorward.v1")),
        (format!("bearer.{token}, other,doorward.v1"), Some("doorward.v1")),
        ("doorward.v2".to_owned(), None),
        (format!("bearer.{token}"), None),
    ];
    for (offered, echoed) in cases {
        let response = handshake(&gateway, "/rpc", &with("sec-websocket-protocol", &offered)).await;
        assert_eq!(response.status(), 101);
        let chosen = response.headers().get("sec-websocket-protocol").map(|value| value.to_str().unwrap());
        assert_eq!(chosen, echoed);
        // The example of RFC 6455 §1.3.
        assert_eq!(response.headers()["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}

#[tokio::test]
async fn a_bad_token_is_refused_before_the_upgrade() {
    let gateway = TestGateway::start().await;
    for (name, value) in [
        ("authorization", "Bearer x"),
        ("authorization", "Basic YWxpY2U6c2VjcmV0"),
        ("authorization", "Bearer"),
        ("sec-websocket-protocol", "doorward.v1, bearer.x"),
        ("sec-websocket-protocol", "bearer."),
    ] {
        let response = handshake(&gateway, "/rpc", &with(name, value)).await;
        assert_eq!(response.status(), 401, "{name}: {value}");
        assert_eq!(response.headers()["www-authenticate"], r#"Bearer error="invalid_token""#);
        let body: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        assert_eq!((&body["error"]["code"], &body["id"]), (&json!(1003), &Value::Null));
    }
}

#[tokio::test]
async fn a_token_in_the_url_is_refused_even_if_it_is_good() {
    let gateway = TestGateway::start().await;
    let token = gateway.logged_in("alice").await.token;
    for name in ["token", "access_token", "TOKEN"] {
        let path = format!("/rpc?{name}={token}");
        let response = handshake(&gateway, &path, &HANDSHAKE).await;
        assert_eq!(response.status(), 400);
        let body = response.text().await.unwrap();
        assert!(body.contains("-32600") && !body.contains(&token), "{body}");
    }
}

#[tokio::test]
async fn what_is_no_handshake_is_told_what_is_missing() {
    let gateway = TestGateway::start().await;
    for (missing, status) in
        [("connection", 426), ("upgrade", 426), ("sec-websocket-version", 426), ("sec-websocket-key", 400)]
    {
        let headers: Vec<_> = HANDSHAKE.into_iter().filter(|(name, _)| *name != missing).collect();
        let response = handshake(&gateway, "/rpc", &headers).await;
        assert_eq!(response.status(), status, "without {missing}");
        assert!(response.text().await.unwrap().contains("-32600"));
    }
    let response = handshake(&gateway, "/rpc", &[]).await;
    assert_eq!((response.status().as_u16(), &response.headers()["upgrade"]), (426, &"websocket".parse().unwrap()));
}

#[tokio::test]
async fn s18_an_address_has_so_many_sockets_that_did_not_sign_in() {
    let gateway = TestGateway::with(|config| config.limits.unauthenticated_per_address = 2).await;
    let mut first = gateway.socket().await;
    let _second = gateway.socket().await;
    assert_eq!(TestClient::try_connect(gateway.address, &[]).await.err(), Some(429));
    let refused = handshake(&gateway, "/rpc", &HANDSHAKE).await;
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    // Signing in makes room, and whoever comes signed in needs none.
    first.register("alice").await;
    let _third = gateway.socket().await;
    assert_eq!(TestClient::try_connect(gateway.address, &[]).await.err(), Some(429));
    TestClient::connect(gateway.address, &[("authorization", &bearer(&first.token))]).await;
}

#[tokio::test]
async fn s18_a_user_has_so_many_sockets() {
    let gateway = TestGateway::with(|config| config.limits.sockets_per_user = 2).await;
    let mut first = gateway.logged_in("alice").await;
    let authorization = bearer(&first.token);
    let mut second = TestClient::connect(gateway.address, &[("authorization", &authorization)]).await;
    // The second is counted once it answers.
    assert_eq!(me(&mut second).await, "alice");
    let refused = TestClient::try_connect(gateway.address, &[("authorization", &authorization)]).await;
    assert_eq!(refused.err(), Some(429));
    for (method, params) in [
        ("auth.login", json!({"login": "alice", "password": PASSWORD})),
        ("auth.authenticate", json!({"access_token": first.token})),
    ] {
        let mut third = gateway.socket().await;
        third.send(json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string()).await;
        assert_eq!(third.closed().await.0, 4505);
    }
    // The others go on, also when one signs in once more.
    first.call("auth.authenticate", json!({"access_token": first.token.clone()})).await.unwrap();
    assert_eq!(me(&mut first).await, "alice");
    second.send_message(Message::Close(None)).await;
    second.closed().await;
}

#[tokio::test]
async fn s18_a_node_has_so_many_sockets() {
    let gateway = TestGateway::with(|config| config.limits.sockets = 2).await;
    let alice = gateway.logged_in("alice").await;
    let _second = gateway.socket().await;
    let authorization = bearer(&alice.token);
    for headers in [HANDSHAKE.to_vec(), with("authorization", &authorization)] {
        let refused = handshake(&gateway, "/rpc", &headers).await;
        assert_eq!(refused.status(), 503);
        assert!(refused.headers().contains_key("retry-after"));
        assert!(refused.text().await.unwrap().contains("1303"));
    }
    // Calls over HTTP need no socket.
    assert_eq!(gateway.post(None, r#"{"jsonrpc":"2.0","id":1,"method":"system.ping"}"#).await.0, 200);
}
