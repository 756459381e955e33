//! J4: the carriers answer alike. Generated messages go over HTTP and over a socket of the same caller.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::Value;

use crate::support::{TestClient, TestGateway, count};

/// Calls that are good, or nearly: none of them changes anything, however often it is made.
const CALLS: [(&str, &str); 30] = [
    ("system.ping", "{}"),
    ("system.info", "null"),
    ("system.ping", "[]"),
    ("system.ping", "[1]"),
    ("users.get", r#"{"username":"me"}"#),
    ("users.get", r#"{"username":"bob"}"#),
    ("users.get", r#"{"username":"nobody"}"#),
    ("users.get_many", r#"{"usernames":["alice","nobody"]}"#),
    ("users.find_by_email", r#"{"email":"bob@example.com"}"#),
    ("users.list", r#"{"limit":2,"sort":"-username","count":"exact"}"#),
    ("users.list", r#"{"filter":{"or":[{"username":{"prefix":"a"}},{"role":{"eq":"admin"}}]}}"#),
    ("users.list", r#"{"filter":{"email":{"exists":true}}}"#),
    ("users.list", r#"{"cursor":"x"}"#),
    ("users.search", r#"{"text":"alcie","fuzzy":true}"#),
    ("users.update", r#"{"username":"me","patch":{}}"#),
    ("users.update", r#"{"username":"me","patch":{"bio":"x"},"if_rev":7}"#),
    ("users.update", r#"{"username":"bob","patch":{"bio":"x"}}"#),
    ("users.update", r#"{"username":"me","patch":{"email":"a@example.com"},"current_password":"a wrong one"}"#),
    ("users.create", r#"{"username":"eve","email":"eve@example.com","password":"none of hers 7"}"#),
    ("users.set_role", r#"{"username":"me","role":"admin"}"#),
    ("users.erase", r#"{"username":"bob"}"#),
    ("users.changes", r#"{"since":"start","limit":3}"#),
    ("users.changes", r#"{"wait_ms":5}"#),
    ("auth.sessions", "{}"),
    ("auth.end_session", r#"{"session":"00000000-0000-7000-8000-000000000000"}"#),
    ("auth.login", r#"{"login":"alice","password":"a wrong one"}"#),
    ("auth.refresh", r#"{"refresh_token":"x"}"#),
    ("auth.change_password", r#"{"current_password":"a wrong one","new_password":"another 7 horses"}"#),
    ("no.such", "{}"),
    ("", "{}"),
];
const NAMES: [&str; 14] = [
    "username",
    "usernames",
    "filter",
    "limit",
    "cursor",
    "text",
    "patch",
    "if_rev",
    "login",
    "password",
    "since",
    "sort",
    r"us\u0065rname",
    r"\ud800",
];
const VALUES: [&str; 22] = [
    r#""me""#,
    r#""alice""#,
    r#""bob""#,
    r#""no one""#,
    r#""""#,
    r#""\ud800""#,
    r#""\u0000""#,
    r#""é🦀""#,
    "7",
    "-1",
    "1.5",
    "1e400",
    "123456789012345678901234567890",
    "true",
    "null",
    "[]",
    "{}",
    r#"["alice"]"#,
    r#"{"bio":7}"#,
    r#"{"role":{"eq":"user"}}"#,
    r#"{"not":{"rev":{"gt":1,"gt":2}}}"#,
    r#"{"a":[[[[[{"b":null}]]]]]}"#,
];
const IDS: [&str; 12] = [
    "1",
    "0",
    "-0",
    "1.50",
    "1e2",
    "123456789012345678901234567890",
    r#""x""#,
    r#""\u0041b""#,
    "null",
    "true",
    "[1]",
    "{}",
];
const VERSIONS: [&str; 4] = [r#""2.0""#, r#""2.\u0030""#, r#""1.0""#, "2.0"];
const BESIDE: [&str; 4] = [r#""meta":{"a":[1]}"#, r#""\ud800":1e400"#, r#""id":1"#, r#""method":"system.ping""#];
const MARKS: [&str; 12] = ["{", "}", "[", "]", "\"", ":", ",", "\\", " ", "0", "\u{feff}", "é"];

/// The params of some call, or what may be taken for it.
fn params() -> impl Strategy<Value = String> {
    let object = prop::collection::vec((select(&NAMES[..]), select(&VALUES[..])), 0..4).prop_map(|members| {
        let members: Vec<_> = members.iter().map(|(name, value)| format!(r#""{name}":{value}"#)).collect();
        format!("{{{}}}", members.join(","))
    });
    prop_oneof![object, select(&VALUES[..]).prop_map(str::to_owned)]
}

/// One call, notification or broken request.
fn request() -> impl Strategy<Value = String> {
    let good = select(&CALLS[..]).prop_map(|(method, params)| (format!(r#""{method}""#), params.to_owned()));
    let mixed = (select(&CALLS[..]), params()).prop_map(|((method, _), params)| (format!(r#""{method}""#), params));
    let odd = (select(&VALUES[..]), params()).prop_map(|(method, params)| (method.to_owned(), params));
    let version = prop_oneof![9 => Just(Some(VERSIONS[0])), 1 => prop::option::of(select(&VERSIONS[..]))];
    let beside = prop_oneof![6 => Just(None), 1 => select(&BESIDE[..]).prop_map(Some)];
    let call = prop_oneof![4 => good, 4 => mixed, 1 => odd];
    (call, version, prop::option::weighted(0.85, select(&IDS[..])), beside).prop_flat_map(
        |((method, params), version, id, beside)| {
            let members = [
                Some(format!(r#""method":{method}"#)),
                Some(format!(r#""params":{params}"#)),
                version.map(|version| format!(r#""jsonrpc":{version}"#)),
                id.map(|id| format!(r#""id":{id}"#)),
                beside.map(str::to_owned),
            ];
            let members: Vec<String> = members.into_iter().flatten().collect();
            Just(members).prop_shuffle().prop_map(|members| format!("{{{}}}", members.join(",")))
        },
    )
}

/// One message: a request or a batch, now and then with a mark too many or a piece too few.
fn message() -> impl Strategy<Value = String> {
    let batch = prop::collection::vec(request(), 0..6).prop_map(|members| format!("[{}]", members.join(" , ")));
    let whole = prop_oneof![5 => request(), 2 => batch, 1 => select(&VALUES[..]).prop_map(str::to_owned)];
    let mutation = (any::<prop::sample::Index>(), 0..3_usize, select(&MARKS[..]));
    (whole, prop::option::weighted(0.2, mutation)).prop_map(|(text, mutation)| match mutation {
        None => text,
        Some((at, removed, mark)) => {
            let characters: Vec<char> = text.chars().collect();
            let at = at.index(characters.len() + 1);
            let rest = characters.iter().skip(at + removed);
            characters[..at].iter().copied().chain(mark.chars()).chain(rest.copied()).collect()
        }
    })
}

/// A reply without what no two replies have in common: times, the request's id, and places in the feed.
fn comparable(mut reply: Value) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Array(values) => values.iter_mut().for_each(strip),
            Value::Object(members) => {
                members.retain(|name, _| {
                    !name.ends_with("_at") && !["at", "time", "request_id", "position"].contains(&name.as_str())
                });
                members.values_mut().for_each(strip);
            }
            _ => {}
        }
    }
    strip(&mut reply);
    reply
}

/// What a socket answers, after which it still serves.
async fn on_socket(socket: &mut TestClient, text: &str, answers: bool) -> Option<Value> {
    socket.send(text).await;
    let reply = match answers {
        true => Some(serde_json::from_str(&socket.text().await).unwrap()),
        false => None,
    };
    let behind = socket.exchange(r#"{"jsonrpc":"2.0","id":"behind","method":"system.ping"}"#).await;
    assert!(behind.starts_with(r#"{"jsonrpc":"2.0","id":"behind","#), "{text}: the answer is {behind}");
    reply
}

#[tokio::test]
async fn j04_generated_calls_are_answered_alike_over_http_and_websocket() {
    let gateway = TestGateway::with(|config| {
        config.timeouts.sign_in = std::time::Duration::from_secs(3600);
        let throttle = &mut config.throttle;
        (throttle.failures, throttle.failures_in_a_row, throttle.failures_per_address) =
            (1_000_000, 1_000_000, 1_000_000);
    })
    .await;
    gateway.logged_in("bob").await;
    let mut alice = gateway.logged_in("alice").await;
    let mut nobody = gateway.socket().await;
    let token = alice.token.clone();
    let mut runner = TestRunner::deterministic();
    let (message, mut seen) = (message(), BTreeMap::<i64, usize>::new());
    for number in 0..count(800, 10_000) {
        let text = message.new_tree(&mut runner).unwrap().current();
        let (socket, token) = if number % 4 == 0 { (&mut nobody, None) } else { (&mut alice, Some(token.as_str())) };
        let (_, body) = gateway.post(token, text.clone()).await;
        let over_http: Option<Value> = (!body.is_empty()).then(|| serde_json::from_str(&body).unwrap());
        let over_socket = on_socket(socket, &text, over_http.is_some()).await;
        for reply in over_http.iter().flat_map(|reply| reply.as_array().cloned().unwrap_or_else(|| vec![reply.clone()]))
        {
            *seen.entry(reply["error"]["code"].as_i64().unwrap_or(0)).or_default() += 1;
        }
        assert_eq!(over_http.map(comparable), over_socket.map(comparable), "{text}");
    }
    // Messages of every kind were among them.
    for code in [0, -32700, -32600, -32601, -32602, 1001, 1003, 1005, 1101, 1201, 1203, 1401, 1404] {
        assert!(seen.contains_key(&code), "nothing was answered with {code}: {seen:?}");
    }
}
