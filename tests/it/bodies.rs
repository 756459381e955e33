//! Bodies: how they may be declared, and answers that come before they were read.

use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{PATIENCE, RawClient, TestGateway, bound};

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"system.ping"}"#;

/// The response to a head (without its length and its end) and a body, which are sent whole before anything is read.
async fn respond(gateway: &TestGateway, head: &str, body: &str) -> std::io::Result<String> {
    let mut io = TcpStream::connect(gateway.address).await?;
    let length = body.len();
    io.write_all(format!("{head}\r\nContent-Length: {length}\r\n\r\n").as_bytes()).await?;
    for part in body.as_bytes().chunks(16 << 10) {
        io.write_all(part).await?;
    }
    io.shutdown().await?;
    let mut response = String::new();
    timeout(PATIENCE, io.read_to_string(&mut response)).await.expect("the gateway ends it in time")?;
    Ok(response)
}

#[tokio::test]
async fn what_is_answered_before_the_body_was_read_arrives() {
    let gateway = TestGateway::start().await;
    let json = "Content-Type: application/json";
    let cases = [
        ("POST /rpc HTTP/1.1\r\nHost: a", 1 << 20, 413),
        ("POST /rpc HTTP/1.1\r\nHost: a", 8 << 20, 413),
        ("POST /auth/login HTTP/1.1\r\nHost: a", 1 << 20, 413),
        ("DELETE /users/me HTTP/1.1\r\nHost: a", 1 << 20, 413),
        ("POST /nowhere HTTP/1.1\r\nHost: a", 60 << 10, 404),
        ("POST /nowhere HTTP/1.1\r\nHost: a", 1 << 20, 404),
        ("PUT /users HTTP/1.1\r\nHost: a", 60 << 10, 405),
        ("POST /rpc HTTP/1.1\r\nHost: a\r\nOrigin: https://evil.example", 60 << 10, 403),
        ("POST /auth/login HTTP/1.1\r\nHost: a\r\nOrigin: https://evil.example", 1 << 20, 403),
        ("GET /rpc HTTP/1.1\r\nHost: a", 1 << 20, 426),
        ("POST /rpc HTTP/1.1\r\nHost: a\r\nHost: b", 1 << 20, 400),
        ("POST /rpc HTTP/1.1", 60 << 10, 400),
    ];
    let mut lost = Vec::new();
    for (head, bytes, status) in cases {
        let body = " ".repeat(bytes);
        let mut arrived = 0;
        let mut seen = String::new();
        for _ in 0..20 {
            match respond(&gateway, &format!("{head}\r\n{json}"), &body).await {
                Ok(response) if response.starts_with(&format!("HTTP/1.1 {status} ")) => arrived += 1,
                other => seen = format!("{other:?}"),
            }
        }
        if arrived < 20 {
            lost.push(format!("{head:?}, {bytes} bytes: {status} arrived {arrived} of 20, else {seen}"));
        }
    }
    assert!(lost.is_empty(), "{lost:#?}");
}

#[tokio::test]
async fn a_body_that_is_announced_too_large_is_refused_before_it_is_sent() {
    let gateway = TestGateway::start().await;
    for path in ["/rpc", "/auth/login"] {
        let mut raw = RawClient::connected(gateway.address).await;
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1000000");
        raw.write(format!("{head}\r\nExpect: 100-continue\r\n\r\n").as_bytes()).await;
        let mut io = raw.into_inner();
        let mut status = [0; 13];
        timeout(PATIENCE, io.read_exact(&mut status)).await.expect("it is answered").unwrap();
        assert_eq!(&status, b"HTTP/1.1 413 ");
    }
}

#[tokio::test]
async fn the_rest_of_an_answered_body_is_waited_for_no_longer_than_any_body_and_only_so_much_of_it_is_taken() {
    let second = std::time::Duration::from_secs(1);
    let gateway = TestGateway::with(|config| config.timeouts.body = second).await;
    let head = "POST /nowhere HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n";
    let begun = Instant::now();
    let mut io = TcpStream::connect(gateway.address).await.unwrap();
    io.write_all(head.as_bytes()).await.unwrap();
    let mut response = [0; 4096];
    assert!(io.read(&mut response).await.unwrap() > 0 && response.starts_with(b"HTTP/1.1 404 "));
    // The gateway has no more to say, but takes what comes for a while.
    while timeout(PATIENCE, io.write_all(b" ")).await.expect("the gateway ends it in time").is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(begun.elapsed() < bound(2 * second), "{:?}", begun.elapsed());

    let gateway = TestGateway::start().await;
    let mut io = TcpStream::connect(gateway.address).await.unwrap();
    io.write_all(head.as_bytes()).await.unwrap();
    let (part, mut taken) = (vec![b' '; 64 << 10], 0);
    while timeout(PATIENCE, io.write_all(&part)).await.expect("the gateway ends it in time").is_ok() {
        taken += part.len();
        assert!(taken < 64 << 20, "there is no bound");
    }
}

#[tokio::test]
async fn a_body_is_json_by_any_of_its_names_and_not_encoded() {
    let gateway = TestGateway::start().await;
    let token = gateway.logged_in("alice").await.token;
    let (rpc, patch) = ("POST /rpc", "PATCH /users/me");
    let cases = [
        (rpc, "Content-Type: application/json", 200),
        (rpc, "Content-Type: Application/JSON-RPC; charset=utf-8", 200),
        (rpc, "Content-Type: application/json\r\nContent-Encoding: identity", 200),
        (rpc, "Content-Type: application/merge-patch+json", 415),
        (rpc, "Content-Type: text/plain", 415),
        (rpc, "X-None: a", 415),
        (rpc, "Content-Type: application/json\r\nContent-Encoding: gzip", 415),
        (rpc, "Content-Type: application/json\r\nContent-Encoding: identity\r\nContent-Encoding: br", 415),
        (patch, "Content-Type: application/json", 200),
        (patch, "Content-Type: application/merge-patch+json", 200),
        (patch, "Content-Type: application/json-rpc", 415),
        (patch, "Content-Type: application/json\r\nContent-Encoding: deflate", 415),
        ("POST /auth/login", "Content-Type: application/merge-patch+json", 415),
        ("POST /auth/login", "Content-Type: application/json\r\nContent-Encoding: gzip", 415),
    ];
    for (what, headers, status) in cases {
        let body = if what == rpc { PING } else { r#"{"bio": "x"}"# };
        let head = format!("{what} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n{headers}");
        let response = respond(&gateway, &head, body).await.unwrap();
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{what} {headers}: {response}");
        // RFC 7694 §3: named where the encoding is the reason, and only there.
        let encoded = headers.contains("Encoding") && status == 415;
        assert_eq!(response.contains("accept-encoding: identity"), encoded, "{what} {headers}: {response}");
    }
}

#[tokio::test]
async fn a_request_names_one_host() {
    let gateway = TestGateway::start().await;
    let type_ = "Content-Type: application/json";
    for (version, hosts, status) in [
        ("1.1", "Host: a\r\n", 200),
        ("1.1", "", 400),
        ("1.1", "Host: a\r\nHost: a\r\n", 400),
        ("1.0", "", 200),
        ("1.0", "Host: a\r\n", 200),
        ("1.0", "Host: a\r\nHost: b\r\n", 400),
    ] {
        let response = respond(&gateway, &format!("POST /rpc HTTP/{version}\r\n{hosts}{type_}"), PING).await.unwrap();
        assert!(response.contains(&format!(" {status} ")), "HTTP/{version} {hosts:?}: {response}");
        assert_eq!(response.contains("-32600"), status == 400, "{response}");
        let response = respond(&gateway, &format!("GET /healthz HTTP/{version}\r\n{hosts}{type_}"), "").await.unwrap();
        assert!(response.contains(&format!(" {status} ")), "HTTP/{version} {hosts:?}: {response}");
        assert_eq!(response.contains("application/problem+json"), status == 400, "{response}");
    }
}
