//! How many calls a caller may make: one budget a user, or an address before sign-in, however calls are carried.

use std::time::Instant;

use serde_json::{Value, json};

use crate::support::{RawClient, TestClient, TestGateway, opcode};

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"system.ping"}"#;
const BURST: usize = 30;

/// A gateway where callers may make thirty calls at once, and then hardly any.
async fn strict() -> TestGateway {
    TestGateway::with(|config| {
        config.trusted_proxies = "127.0.0.1".parse().unwrap();
        (config.limits.calls_per_second, config.limits.calls_burst) = (1, BURST as u32);
    })
    .await
}

fn batch(calls: usize) -> String {
    format!("[{}]", vec![PING; calls].join(","))
}

/// How many calls of a reply, or of a batch's, were answered, and how many refused with 1301.
fn counted(reply: &str) -> (usize, usize) {
    let replies = match serde_json::from_str(reply).unwrap() {
        Value::Array(replies) => replies,
        reply => vec![reply],
    };
    for error in replies.iter().filter_map(|reply| reply.get("error")) {
        assert_eq!((&error["code"], &error["data"]["kind"]), (&json!(1301), &json!("rate_limited")));
        assert_eq!(error["data"]["retryable"], true);
        assert!((1..=1000).contains(&error["data"]["retry_after_ms"].as_u64().unwrap()), "{error}");
    }
    let refused = replies.iter().filter(|reply| reply.get("error").is_some()).count();
    (replies.len() - refused, refused)
}

#[tokio::test]
async fn s08_calls_of_a_user_draw_on_one_budget_however_they_are_carried() {
    let gateway = strict().await;
    let mut first = gateway.logged_in("alice").await;
    let begun = Instant::now();
    let bearer = format!("Bearer {}", first.token);
    let mut second = TestClient::connect(gateway.address, &[("authorization", &bearer)]).await;
    let token = Some(first.token.as_str());
    let mut replies = vec![
        gateway.post(token, batch(12)).await.1,
        second.exchange(batch(12)).await,
        gateway.post(token, PING).await.1,
    ];
    assert_eq!(gateway.rest("GET", "/users/me", token, None).await.status(), 200);
    // One of nothing but an id, one that names no method: calls as well.
    assert!(gateway.post(token, r#"{"id":1}"#).await.1.contains("-32600"));
    assert!(second.exchange(r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#).await.contains("-32601"));
    assert_eq!(replies.iter().map(|reply| counted(reply)).fold(0, |sum, (_, refused)| sum + refused), 0);

    // Two are left, and what has come back meanwhile.
    let token = first.token.clone();
    replies = vec![first.exchange(batch(20)).await, second.exchange(batch(5)).await];
    let answered = replies.iter().map(|reply| counted(reply).0).sum::<usize>();
    assert!((2..=3 + begun.elapsed().as_secs() as usize).contains(&answered), "{answered} answered: {replies:?}");
    let refused = loop {
        let response = gateway.rest("GET", "/users/me", Some(&token), None).await;
        if response.status() != 200 {
            break response;
        }
    };
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (429, &"1".parse().unwrap()));

    let mut bob = gateway.logged_in("bob").await;
    bob.call("system.ping", json!({})).await.unwrap();
    // It fills again.
    while counted(&gateway.post(Some(&token), PING).await.1).0 == 0 {}
}

#[tokio::test]
async fn s08_callers_who_have_not_signed_in_draw_on_the_budget_of_their_address() {
    let gateway = strict().await;
    let from = async |address| TestClient::connect(gateway.address, &[("x-forwarded-for", address)]).await;
    let begun = Instant::now();
    let mut answered = 0;
    for address in ["2001:db8::1", "2001:db8::2"] {
        let mut one = from(address).await;
        answered += counted(&one.exchange(batch(25)).await).0;
        answered += counted(&from(address).await.exchange(PING).await).0;
    }
    assert!((BURST..=BURST + 1 + begun.elapsed().as_secs() as usize).contains(&answered), "{answered}");
    assert_eq!(counted(&from("2001:db8:0:1::1").await.exchange(batch(2)).await), (2, 0));
}

#[tokio::test]
async fn s08_requests_that_never_become_a_call_draw_on_the_budget_too() {
    let gateway = strict().await;
    let deep = "[".repeat(100);
    let many = batch(51);
    for (number, (method, path, kind, body, status)) in [
        ("GET", "/users/me", "", "", 401),
        ("GET", "/users?limit=x", "", "", 401),
        ("DELETE", "/users/me", "", "", 401),
        ("DELETE", "/admin/users/alice", "", "", 401),
        ("PATCH", "/users/me", "application/json", "{", 401),
        ("POST", "/auth/login", "application/json", "{", 400),
        ("POST", "/auth/login", "application/json", "[]", 400),
        ("POST", "/auth/register", "application/json", &deep, 400),
        ("POST", "/auth/login", "text/plain", "{}", 415),
        ("POST", "/rpc", "text/plain", PING, 415),
        ("POST", "/rpc", "application/json", "[]", 400),
        ("POST", "/rpc", "application/json", &many, 400),
        ("POST", "/rpc", "application/json", &deep, 400),
        ("POST", "/rpc", "application/json", "{", 400),
        ("POST", "/rpc", "application/json", "7", 400),
    ]
    .into_iter()
    .enumerate()
    {
        let begun = Instant::now();
        let mut statuses = Vec::new();
        let mut last = String::new();
        for _ in 0..=BURST + 5 {
            let request =
                reqwest::Client::new().request(method.parse().unwrap(), format!("http://{}{path}", gateway.address));
            let request = request.header("x-forwarded-for", format!("192.0.2.{number}")).body(body.to_owned());
            let request = if kind.is_empty() { request } else { request.header("content-type", kind) };
            let response = request.send().await.unwrap();
            statuses.push(response.status().as_u16());
            last = response.text().await.unwrap();
        }
        let told = statuses.iter().filter(|told| **told == status).count();
        let bounds = BURST..=BURST + 1 + begun.elapsed().as_secs() as usize;
        assert!(bounds.contains(&told), "{method} {path} {kind} {body}: {statuses:?}");
        assert!(last.contains("rate_limited"), "{method} {path} {kind} {body}: {last}");
        let refused = statuses.iter().find(|told| **told != status).unwrap();
        assert_eq!(*refused, 429, "{method} {path}: {statuses:?}");
    }
    // On a socket as well, where a refusal that goes on closes it.
    let alice = gateway.logged_in("alice").await;
    let mut flood = RawClient::upgraded(gateway.address, Some(&alice.token)).await;
    for _ in 0..2 * BURST + 10 {
        flood.frame(true, opcode::TEXT, format!("[1{}]", ",1".repeat(50)).as_bytes()).await;
    }
    let mut refused = 0;
    let closed = loop {
        let (kind, payload) = flood.next().await.unwrap();
        match kind {
            opcode::CLOSE => break u16::from_be_bytes([payload[0], payload[1]]),
            _ => refused += usize::from(String::from_utf8_lossy(&payload).contains("1301")),
        }
    };
    assert_eq!(closed, 4004);
    assert!(refused >= BURST, "{refused} refused");
}

#[tokio::test]
async fn s23_a_socket_that_goes_on_regardless_is_closed_with_4004_and_its_siblings_are_not() {
    let gateway = strict().await;
    let mut alice = gateway.logged_in("alice").await;
    let mut flood = RawClient::upgraded(gateway.address, Some(&alice.token)).await;
    for _ in 0..4 {
        flood.frame(true, opcode::TEXT, batch(BURST).as_bytes()).await;
    }
    let (mut answered, mut refused) = (0, 0);
    let closed = loop {
        let (kind, payload) = flood.next().await.unwrap();
        match kind {
            opcode::CLOSE => break u16::from_be_bytes([payload[0], payload[1]]),
            _ => {
                let counted = counted(std::str::from_utf8(&payload).unwrap());
                (answered, refused) = (answered + counted.0, refused + counted.1);
            }
        }
    };
    assert_eq!(closed, 4004);
    assert!(answered >= BURST && refused > BURST, "{answered} answered, {refused} refused");
    assert!(alice.exchange(PING).await.contains(r#""id":1"#), "a socket that does not flood stays open");
}
