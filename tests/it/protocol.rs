//! JSON-RPC 2.0 itself: the specification's own exchanges, ids, hostile JSON and batches, over both carriers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::support::{PASSWORD, TestClient, TestGateway, count};

/// A reply without what differs from call to call (time, request id) or is for people (messages).
fn essence(mut reply: Value) -> Value {
    if let Value::Array(replies) = reply {
        return replies.into_iter().map(essence).collect();
    }
    if let Some(result) = reply.get_mut("result").and_then(Value::as_object_mut) {
        result.remove("time");
    }
    if let Some(error) = reply.get("error").cloned() {
        assert!(error["message"].is_string() && error["data"]["request_id"].is_string(), "{error}");
        reply["error"] = json!([error["code"], error["data"]["kind"]]);
    }
    reply
}

/// The essence of an error reply.
fn failed(id: Value, code: i32, kind: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": [code, kind]})
}

/// The answer to a message on a socket; `None` when a call sent behind it is answered first.
async fn on_socket(client: &mut TestClient, text: &str) -> Option<Value> {
    client.send(text).await;
    client.send(r#"{"jsonrpc":"2.0","id":"behind","method":"system.ping"}"#).await;
    let first: Value = serde_json::from_str(&client.text().await).unwrap();
    if first["id"] == "behind" {
        return None;
    }
    let behind: Value = serde_json::from_str(&client.text().await).unwrap();
    assert_eq!(behind["id"], "behind");
    Some(essence(first))
}

#[tokio::test]
async fn j01_the_exchanges_of_the_specification() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    let email = json!({"jsonrpc": "2.0", "id": 3, "result": {"users": [], "missing": ["nobody"]}});
    let exchanges = [
        // Positional parameters are refused here; named ones are the rule.
        (
            r#"{"jsonrpc": "2.0", "method": "system.ping", "params": [42, 23], "id": 1}"#,
            200,
            Some(failed(json!(1), -32602, "invalid_params")),
        ),
        (
            r#"{"jsonrpc": "2.0", "method": "users.get_many", "params": {"usernames": ["nobody"]}, "id": 3}"#,
            200,
            Some(email.clone()),
        ),
        (
            r#"{"id": 3, "params": {"usernames": ["nobody"]}, "method": "users.get_many", "jsonrpc": "2.0"}"#,
            200,
            Some(email),
        ),
        // Notifications, good and bad.
        (r#"{"jsonrpc": "2.0", "method": "system.ping"}"#, 204, None),
        (r#"{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}"#, 204, None),
        (r#"{"jsonrpc": "2.0", "method": "system.ping", "params": [1,2,3,4,5]}"#, 204, None),
        (r#"{"jsonrpc": "2.0", "method": "foobar"}"#, 204, None),
        (
            r#"{"jsonrpc": "2.0", "method": "foobar", "id": "1"}"#,
            200,
            Some(failed(json!("1"), -32601, "unknown_method")),
        ),
        (
            r#"{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]"#,
            400,
            Some(failed(Value::Null, -32700, "parse_error")),
        ),
        (
            r#"{"jsonrpc": "2.0", "method": 1, "params": "bar"}"#,
            400,
            Some(failed(Value::Null, -32600, "invalid_request")),
        ),
        (
            r#"[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"}, {"jsonrpc": "2.0", "method"]"#,
            400,
            Some(failed(Value::Null, -32700, "parse_error")),
        ),
        ("[]", 400, Some(failed(Value::Null, -32600, "invalid_request"))),
        ("[1]", 200, Some(json!([failed(Value::Null, -32600, "invalid_request")]))),
        ("[1,2,3]", 200, Some(vec![failed(Value::Null, -32600, "invalid_request"); 3].into())),
        (
            r#"[
                {"jsonrpc": "2.0", "method": "system.ping", "params": {}, "id": "1"},
                {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},
                {"jsonrpc": "2.0", "method": "system.ping", "params": [42, 23], "id": "2"},
                {"foo": "boo"},
                {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
                {"jsonrpc": "2.0", "method": "users.get_many", "params": {"usernames": []}, "id": 9}
            ]"#,
            200,
            Some(json!([
                {"jsonrpc": "2.0", "id": "1", "result": {}},
                failed(json!("2"), -32602, "invalid_params"),
                failed(Value::Null, -32600, "invalid_request"),
                failed(json!("5"), -32601, "unknown_method"),
                {"jsonrpc": "2.0", "id": 9, "result": {"users": [], "missing": []}},
            ])),
        ),
        (
            r#"[{"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]}, {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}]"#,
            204,
            None,
        ),
    ];
    for (text, status, answer) in exchanges {
        let (http, body) = gateway.post(Some(&alice.token), text).await;
        assert_eq!(http, status, "{text} gave {body}");
        let body = (!body.is_empty()).then(|| essence(serde_json::from_str(&body).unwrap()));
        assert_eq!(body, answer, "{text} over HTTP");
        assert_eq!(on_socket(&mut alice, text).await, answer, "{text} over WebSocket");
    }
}

#[tokio::test]
async fn j01_an_envelope_is_judged_alike_on_both_carriers() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.socket().await;
    let cases = [
        (r#"{"jsonrpc":"2.0","id":null,"method":"foobar"}"#, json!(null), -32601, 200),
        (r#"{"jsonrpc":"2.0","id":7,"method":"system.ping","params":"x"}"#, json!(7), -32600, 200),
        (r#"{"jsonrpc":"2.0","id":7,"method":"system.ping","params":false}"#, json!(7), -32600, 200),
        (r#"{"jsonrpc":"2.0","id":7,"method":"system.ping","params":[null]}"#, json!(7), -32602, 200),
        (r#"{"jsonrpc":"2.0","id":7,"method":"\ud800"}"#, json!(7), -32600, 200),
        (r#"{"jsonrpc":"2.0","id":7,"method":"system.ping","params":{"\ud800":1}}"#, json!(7), -32602, 200),
        (r#"{"jsonrpc":"2.0","id":7,"method":"system.ping","params":{"x":1e400}}"#, json!(7), -32602, 200),
        (r#"{"jsonrpc":"2.0","id":7}"#, json!(7), -32600, 200),
        (r#"{"jsonrpc":"1.0","id":7,"method":"system.ping"}"#, json!(7), -32600, 200),
        (r#"{"id":7,"method":"system.ping"}"#, json!(7), -32600, 200),
        (r#"{"jsonrpc":"2.0","id":true,"method":"system.ping"}"#, json!(null), -32600, 400),
        (r#"{"jsonrpc":"2.0","id":[1],"method":"system.ping"}"#, json!(null), -32600, 400),
        (r#"{"jsonrpc":"2.0","id":{},"method":"system.ping"}"#, json!(null), -32600, 400),
        ("\u{feff}{\"jsonrpc\":\"2.0\",\"id\":7,\"method\":\"system.ping\"}", json!(null), -32700, 400),
        ("7", json!(null), -32600, 400),
        ("", json!(null), -32700, 400),
    ];
    for (text, id, code, status) in cases {
        let (http, body) = gateway.post(None, text).await;
        let reply = essence(serde_json::from_str(&body).unwrap());
        assert_eq!((&reply["id"], &reply["error"][0], http), (&id, &json!(code), status), "{text}");
        assert_eq!(on_socket(&mut client, text).await, Some(reply), "{text}");
    }
    // Members of other names are passed over, whatever their names and values are.
    for beside in [r#""meta":{"a":[1]},"meta":2"#, r#""\ud800":1"#, r#""x":"\ud800""#, r#""x":1e400"#] {
        let text = format!(r#"{{"jsonrpc":"2.0","id":7,{beside},"method":"system.ping"}}"#);
        assert_eq!(on_socket(&mut client, &text).await.unwrap()["result"], json!({}), "{text}");
        assert!(gateway.post(None, text).await.1.contains("result"));
    }
}

#[tokio::test]
async fn j01_params_that_hold_nothing_are_no_params() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    for params in ["null", "[]", "[ ]", "[\n\t\r ]", "{}"] {
        let call = |method: &str| format!(r#"{{"jsonrpc":"2.0","id":7,"method":"{method}","params":{params}}}"#);
        let pong = json!({"jsonrpc": "2.0", "id": 7, "result": {}});
        for (method, expected) in [("system.ping", pong), ("users.get", failed(json!(7), -32602, "invalid_params"))] {
            assert_eq!(on_socket(&mut alice, &call(method)).await, Some(expected.clone()), "{method} {params}");
            let (_, reply) = gateway.post(Some(&alice.token), call(method)).await;
            assert_eq!(essence(serde_json::from_str(&reply).unwrap()), expected, "{method} {params}");
        }
        let reply: Value = serde_json::from_str(&alice.exchange(call("users.get")).await).unwrap();
        let field = &reply["error"]["data"]["fields"][0];
        assert_eq!((&field["path"], &field["rule"]), (&json!("username"), &json!("required")), "{params}");
    }
}

/// Texts of legal ids of every kind.
fn ids(how_many: usize) -> Vec<String> {
    let number = r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,10})?([eE][+-]?[0-9]{1,3})?";
    let text = r#""([a-z 0-9é🦀]|\\n|\\"|\\\\|\\/|\\u00e9|\\ud83d\\ude00|\\u0000){0,20}""#;
    let strategy = proptest::string::string_regex(&format!("({number}|{text}|null)")).unwrap();
    let mut runner = TestRunner::deterministic();
    let known = ["0", "-0", "1.0", "1e2", "01e", "18446744073709551615", "18446744073709551616", "\"\"", "null"];
    let known = known.into_iter().filter(|id| *id != "01e").map(str::to_owned);
    known.chain((0..how_many).map(|_| strategy.new_tree(&mut runner).unwrap().current())).collect()
}

#[tokio::test]
async fn j02_ids_come_back_with_their_exact_text() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.socket().await;
    for ids in ids(count(300, 20_000)).chunks(50) {
        let mut members = Vec::new();
        for (number, id) in ids.iter().enumerate() {
            let (method, outcome) = if number % 2 == 0 { ("system.ping", "result") } else { ("no.such", "error") };
            let call = format!(r#"{{"method":"{method}","id" : {id} ,"jsonrpc":"2.0"}}"#);
            let head = format!(r#"{{"jsonrpc":"2.0","id":{id},"{outcome}":"#);
            let reply = client.exchange(call.as_str()).await;
            assert!(reply.starts_with(&head), "{call} gave {reply}");
            members.push((call, head));
        }
        let batch = format!("[{}]", members.iter().map(|(call, _)| call.as_str()).collect::<Vec<_>>().join(" , "));
        for replies in [client.exchange(batch.as_str()).await, gateway.post(None, batch).await.1] {
            let mut rest = replies.as_str();
            for (_, head) in &members {
                let at = rest.find(head.as_str()).unwrap_or_else(|| panic!("{head} is missing in {rest}"));
                rest = &rest[at + head.len()..];
            }
        }
    }
}

#[tokio::test]
async fn j02_an_absent_id_is_never_answered() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    for (method, params) in [
        ("system.ping", "{}"),
        ("system.ping", r#"{"more":1}"#),
        ("system.ping", "[1]"),
        ("no.such", "{}"),
        ("users.get", r#"{"username":"nobody"}"#),
        ("users.create", "{}"),
        ("auth.authenticate", "{}"),
    ] {
        let text = format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#);
        assert_eq!(on_socket(&mut alice, &text).await, None, "{text}");
        assert_eq!(on_socket(&mut alice, &format!("[{text},{text}]")).await, None, "{text}");
        assert_eq!(gateway.post(Some(&alice.token), text).await, (204, String::new()));
    }
    // It was carried out all the same.
    let text = r#"{"jsonrpc":"2.0","method":"users.update","params":{"username":"me","patch":{"bio":"hello"}}}"#;
    assert_eq!(gateway.post(Some(&alice.token), text).await.0, 204);
    let user = alice.call("users.get", json!({"username": "me"})).await.unwrap();
    assert_eq!(user["user"]["bio"], "hello");
}

/// The files of JSONTestSuite whose names begin so, with the two that are too large to keep.
fn suite(prefix: &str) -> Vec<(String, Vec<u8>)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/json");
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
        .filter(|(name, _)| name.starts_with(prefix))
        .collect();
    if prefix == "n_" {
        files.push(("n_structure_100000_opening_arrays.json".to_owned(), b"[".repeat(100_000)));
        files.push(("n_structure_open_array_object.json".to_owned(), b"[{\"\":".repeat(50_000)));
    }
    assert!(files.len() > 90, "the suite is in tests/data/json");
    files
}

/// A call with a document as a member of its params, as its id, and beside it in a batch.
fn embedded(document: &[u8]) -> [Vec<u8>; 3] {
    let around = |before: &str, after: &str| [before.as_bytes(), document, after.as_bytes()].concat();
    [
        around(r#"{"jsonrpc":"2.0","id":1,"method":"system.ping","params":{"x":"#, "}}"),
        around(r#"{"jsonrpc":"2.0","method":"system.ping","id":"#, "}"),
        around("[", r#",{"jsonrpc":"2.0","id":1,"method":"system.ping"}]"#),
    ]
}

/// The status, and the code of the whole message where it gave one error, within 100 ms.
async fn judged(gateway: &TestGateway, name: &str, body: Vec<u8>) -> (u16, Value) {
    let mut times = Vec::new();
    loop {
        let begun = Instant::now();
        let (status, reply) = gateway.post(None, body.clone()).await;
        times.push(begun.elapsed());
        if begun.elapsed() <= Duration::from_millis(100) {
            let reply: Value = serde_json::from_str(&reply).unwrap_or_default();
            return (status, reply["error"]["code"].clone());
        }
        // Once may be the machine; three times are the message.
        assert!(times.len() < 3, "{name} took {times:?}");
    }
}

#[tokio::test]
async fn j03_what_is_not_json_is_refused_wherever_it_stands() {
    let gateway = TestGateway::with(|config| config.limits.message_bytes = 1 << 20).await;
    for (name, document) in suite("n_") {
        for body in [document.clone()].into_iter().chain(embedded(&document)) {
            assert_eq!(judged(&gateway, &name, body).await, (400, json!(-32700)), "{name}");
        }
        let mut client = gateway.socket().await;
        let Ok(text) = String::from_utf8(document) else {
            continue; // not a text frame: see `limits`
        };
        assert_eq!(on_socket(&mut client, &text).await, Some(failed(Value::Null, -32700, "parse_error")), "{name}");
    }
}

#[tokio::test]
async fn j03_what_is_json_is_read_wherever_it_stands() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.socket().await;
    for (name, document) in suite("y_") {
        let text = String::from_utf8(document.clone()).unwrap();
        let is_filled_array = matches!(serde_json::from_str(&text), Ok(Value::Array(members)) if !members.is_empty());
        let (status, code) = judged(&gateway, &name, document.clone()).await;
        match is_filled_array {
            true => assert_eq!((status, code), (200, Value::Null), "{name} is a batch"),
            false => assert_eq!(code, json!(-32600), "{name} is no request"),
        }
        assert!(on_socket(&mut client, &text).await.is_some(), "{name}");
        let [params, id, batch] = embedded(&document);
        assert_eq!(judged(&gateway, &name, params).await, (200, json!(-32602)), "{name}");
        let (status, code) = judged(&gateway, &name, id).await;
        assert!((status, &code) == (200, &Value::Null) || (status, &code) == (400, &json!(-32600)), "{name}: {code}");
        assert_eq!(judged(&gateway, &name, batch).await, (200, Value::Null), "{name}");
    }
}

#[tokio::test]
async fn j03_a_member_given_twice_is_refused() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    for text in [
        r#"{"jsonrpc":"2.0","jsonrpc":"2.0","id":1,"method":"system.ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"id":1,"method":"system.ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"system.ping","method":"system.ping"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"system.ping","me\u0074hod":"system.info"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"system.ping","params":{},"params":{}}"#,
    ] {
        let reply = on_socket(&mut alice, text).await;
        assert_eq!(reply, Some(failed(json!(1), -32600, "invalid_request")), "{text}");
    }
    for (method, params, path) in [
        ("users.get", r#"{"username":"alice","username":"alice"}"#, "username"),
        ("users.get", r#"{"username":"alice","user\u006eame":"bob"}"#, "username"),
        ("users.update", r#"{"username":"me","patch":{"bio":"a","bio":"b"}}"#, "patch.bio"),
        ("users.update", r#"{"username":"me","patch":{"attributes":{"a":1,"a":1}}}"#, "patch.attributes"),
        ("users.update", r#"{"username":"me","patch":{"attributes":{"a":[{"b":1,"b":2}]}}}"#, "patch.attributes.a[0]"),
        ("users.list", r#"{"filter":{"role":{"eq":"user"},"role":{"eq":"admin"}}}"#, "filter"),
        ("users.list", r#"{"filter":{"or":[{"rev":{"gt":1,"gt":2}}]}}"#, "filter.or[0].rev"),
    ] {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        let reply: Value = serde_json::from_str(&alice.exchange(text.as_str()).await).unwrap();
        let field = &reply["error"]["data"]["fields"][0];
        assert_eq!((&reply["error"]["code"], &field["rule"]), (&json!(-32602), &json!("repeated")), "{text}");
        assert!(field["path"].as_str().unwrap().starts_with(path), "{text}: {field}");
    }
    let user = alice.call("users.get", json!({"username": "me"})).await.unwrap();
    assert_eq!(user["user"]["rev"], 1);
}

#[tokio::test]
async fn j05_members_of_a_batch_do_not_touch_each_other() {
    let gateway = TestGateway::start().await;
    let mut alice = gateway.logged_in("alice").await;
    let batch = json!([
        {"jsonrpc": "2.0", "id": "slow", "method": "users.update",
            "params": {"username": "me", "patch": {"email": "a@example.com"}, "current_password": PASSWORD}},
        {"jsonrpc": "2.0", "id": "failing", "method": "users.get", "params": {"username": "nobody"}},
        {"jsonrpc": "2.0", "method": "users.update", "params": {"username": "me", "patch": {"bio": "notified"}}},
        17,
        {"jsonrpc": "2.0", "id": "refused", "method": "users.erase", "params": {"username": "alice"}},
        {"jsonrpc": "2.0", "id": "quick", "method": "system.ping"},
    ]);
    let replies: Value = serde_json::from_str(&alice.exchange(batch.to_string()).await).unwrap();
    let replies = replies.as_array().unwrap();
    let of = |id: Value| replies.iter().find(|reply| reply["id"] == id).unwrap();
    assert_eq!(replies.len(), 5);
    assert_eq!(of(json!("slow"))["result"]["user"]["email"], "a@example.com");
    assert_eq!(of(json!("failing"))["error"]["code"], 1201);
    assert_eq!(of(Value::Null)["error"]["code"], -32600);
    assert_eq!(of(json!("refused"))["error"]["code"], 1101);
    assert!(of(json!("quick"))["result"]["time"].is_string());
    let user = alice.call("users.get", json!({"username": "me"})).await.unwrap();
    assert_eq!((&user["user"]["bio"], &user["user"]["rev"]), (&json!("notified"), &json!(3)));
}

#[tokio::test]
async fn j05_a_batch_above_the_limit_is_refused_whole() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.socket().await;
    let batch =
        |members: usize| format!("[{}]", vec![r#"{"jsonrpc":"2.0","id":1,"method":"system.ping"}"#; members].join(","));
    let refused = failed(Value::Null, -32010, "batch_too_large");
    assert_eq!(on_socket(&mut client, &batch(51)).await, Some(refused.clone()));
    assert_eq!(on_socket(&mut client, &batch(50)).await.unwrap().as_array().unwrap().len(), 50);
    let (status, body) = gateway.post(None, batch(51)).await;
    assert_eq!((status, essence(serde_json::from_str(&body).unwrap())), (400, refused));
}

/// The words in backquotes of the one row or entry of the reference that begins so.
fn documented(beginning: &str) -> BTreeSet<&'static str> {
    let parts: Vec<&str> = include_str!("../../docs/protocol.md").split(&format!("\n{beginning}")).collect();
    let [_, found] = parts[..] else { panic!("not one entry begins with {beginning}") };
    let end = found.find("\n-").into_iter().chain(found.find("\n|")).min().expect("others follow");
    found[..end].split('`').skip(1).step_by(2).flat_map(str::split_whitespace).collect()
}

#[tokio::test]
async fn what_the_gateway_tells_of_itself_is_what_the_reference_says() {
    let gateway = TestGateway::start().await;
    let info = gateway.call(None, "system.info", json!({})).await.unwrap();
    let members = info.as_object().unwrap().keys().map(String::as_str).collect::<BTreeSet<_>>();
    assert_eq!(members, documented("| `system.info` | any | – |"));
    let features = info["features"].as_array().unwrap().iter().map(|feature| feature.as_str().unwrap());
    let described = documented("- `system.info`:");
    for feature in features {
        assert!(described.contains(feature), "{feature} is not described");
    }
}
