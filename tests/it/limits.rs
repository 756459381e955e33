//! Limits: sizes, counts and times, and the close code or status of each that is passed.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use doorward::config::Config;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{PASSWORD, PATIENCE, RawClient, TestClient, TestGateway, bound, on_elasticsearch, opcode};

const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"system.ping"}"#;

/// A call of exactly so many bytes.
fn call_of(bytes: usize) -> String {
    let call = |pad: usize| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"system.ping","pad":"{}"}}"#, "x".repeat(pad));
    call(bytes - call(0).len())
}

/// The code of the error in a body.
fn code(body: &str) -> Value {
    serde_json::from_str::<Value>(body).unwrap()["error"]["code"].clone()
}

#[tokio::test]
async fn s20_a_message_may_have_64_kib_and_not_a_byte_more() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.socket().await;
    assert!(client.exchange(call_of(64 << 10)).await.contains("result"));
    client.send(call_of((64 << 10) + 1)).await;
    assert_eq!(client.closed().await.0, 1009);

    assert_eq!(gateway.post(None, call_of(64 << 10)).await.0, 200);
    let (status, body) = gateway.post(None, call_of((64 << 10) + 1)).await;
    assert_eq!((status, code(&body)), (413, json!(-32007)));
    let body = Some(call_of((64 << 10) + 1).into());
    let response = gateway.rest("POST", "/auth/login", None, body).await;
    assert_eq!(response.status(), 413);
    let problem: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
    assert_eq!((&problem["code"], &problem["kind"]), (&json!(-32007), &json!("request_too_large")));
}

#[tokio::test]
async fn s20_a_chunked_body_is_bounded_too() {
    let gateway = TestGateway::start().await;
    for (bytes, status) in [(64 << 10, "HTTP/1.1 200 "), ((64 << 10) + 1, "HTTP/1.1 413 ")] {
        let mut raw = RawClient::connected(gateway.address).await;
        let head = "POST /rpc HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n";
        raw.write(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes()).await;
        for part in call_of(bytes).as_bytes().chunks(10_000) {
            raw.write(format!("{:x}\r\n{}\r\n", part.len(), std::str::from_utf8(part).unwrap()).as_bytes()).await;
        }
        raw.write(b"0\r\n\r\n").await;
        let response = String::from_utf8(raw.rest().await).unwrap();
        assert!(response.starts_with(status), "{response}");
    }
}

#[tokio::test]
async fn s20_fragments_make_one_message_with_one_limit() {
    let gateway = TestGateway::start().await;
    let mut raw = RawClient::upgraded(gateway.address, None).await;
    let (first, rest) = PING.as_bytes().split_at(10);
    let (second, third) = rest.split_at(7);
    raw.frame(false, opcode::TEXT, first).await;
    raw.frame(false, opcode::CONTINUATION, second).await;
    raw.frame(true, opcode::PING, b"between").await;
    raw.frame(true, opcode::CONTINUATION, third).await;
    let mut seen = [raw.next().await.unwrap(), raw.next().await.unwrap()];
    seen.sort();
    assert_eq!((seen[0].0, seen[1].clone()), (opcode::TEXT, (opcode::PONG, b"between".to_vec())));

    raw.frame(false, opcode::TEXT, &vec![b' '; 60 << 10]).await;
    raw.frame(false, opcode::CONTINUATION, &vec![b' '; 5 << 10]).await;
    assert_eq!(raw.closed().await, Some(1009));
}

#[tokio::test]
async fn s20_nesting_ends_at_64_levels() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.socket().await;
    // The envelope and its params are two levels.
    let nested = |levels: usize| {
        let (open, close) = ("[".repeat(levels - 2), "]".repeat(levels - 2));
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"system.ping","params":{{"x":{open}{close}}}}}"#)
    };
    for (text, expected) in [(nested(64), -32602), (nested(65), -32700), (format!("[{}]", nested(64)), -32700)] {
        assert_eq!(code(&client.exchange(text.as_str()).await), expected);
        assert_eq!(code(&gateway.post(None, text).await.1), expected);
    }
    // Brackets in a string are no levels.
    let text = nested(3).replace("[]", &format!("\"{}\"", "[".repeat(100)));
    assert_eq!(code(&client.exchange(text).await), -32602);
}

#[tokio::test]
async fn s20_a_reply_that_would_be_too_large_is_an_error_of_its_call() {
    let gateway = TestGateway::with(|config| config.limits.reply_bytes = 4000).await;
    let mut alice = gateway.logged_in("alice").await;
    for number in 0..20 {
        gateway.logged_in(&format!("user{number}")).await;
    }
    let failure = alice.call("users.list", json!({})).await.unwrap_err();
    assert_eq!((failure.code, &failure.data["kind"]), (-32008, &json!("response_too_large")));

    let six = |id: &str| json!({"jsonrpc": "2.0", "id": id, "method": "users.list", "params": {"limit": 6}});
    let ping = json!({"jsonrpc": "2.0", "id": "d", "method": "system.ping"});
    let batch = json!([six("a"), six("b"), six("c"), ping]).to_string();
    for replies in [alice.exchange(batch.as_str()).await, gateway.post(Some(&alice.token), batch.clone()).await.1] {
        let replies: Value = serde_json::from_str(&replies).unwrap();
        let outcomes: Vec<_> =
            replies.as_array().unwrap().iter().map(|reply| (&reply["id"], &reply["error"]["code"])).collect();
        let (a, b, c, d, null, refused) = (json!("a"), json!("b"), json!("c"), json!("d"), Value::Null, json!(-32008));
        assert_eq!(outcomes, [(&a, &null), (&b, &null), (&c, &refused), (&d, &null)]);
    }
}

/// Lets logins fail as often as a test likes.
fn lift_throttles(config: &mut doorward::config::Config) {
    let throttle = &mut config.throttle;
    (throttle.failures, throttle.failures_in_a_row, throttle.failures_per_address) = (1_000_000, 1_000_000, 1_000_000);
}

#[tokio::test]
async fn s20_at_most_32_calls_of_a_socket_are_under_way_and_all_are_answered() {
    // One thread hashes and 32 may wait: the 34th call at once would be refused as busy.
    let settings = |config: &mut doorward::config::Config| {
        config.hash_threads = 1;
        config.hash_queue = 32;
        lift_throttles(config);
    };
    let gateway = TestGateway::with(settings).await;
    gateway.logged_in("alice").await;
    let mut raw = RawClient::upgraded(gateway.address, None).await;
    let params = json!({"login": "alice", "password": "a wrong one for alice"});
    for id in 0..200 {
        let call = json!({"jsonrpc": "2.0", "id": id, "method": "auth.login", "params": params}).to_string();
        raw.frame(true, opcode::TEXT, call.as_bytes()).await;
    }
    let mut answered = HashSet::new();
    while answered.len() < 200 {
        let (kind, payload) = raw.next().await.unwrap();
        assert_eq!(kind, opcode::TEXT);
        let reply: Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!(reply["error"]["code"], 1005, "{reply}");
        assert!(answered.insert(reply["id"].as_u64().unwrap()));
    }
}

/// A batch of logins, each of which costs a hash and fails.
fn slow_batch(members: usize) -> String {
    let params = json!({"login": "nobody", "password": "a wrong one for nobody"});
    let member = |id| json!({"jsonrpc": "2.0", "id": id, "method": "auth.login", "params": params});
    (0..members).map(member).collect::<Value>().to_string()
}

#[tokio::test]
async fn s20_members_of_all_batches_on_a_socket_share_its_32_calls() {
    // One thread hashes and four may wait: were the four calls allowed for each batch, some would be refused as busy.
    let settings = |config: &mut doorward::config::Config| {
        (config.bcrypt_cost, config.hash_threads, config.hash_queue) = (8, 1, 4);
        config.limits.calls_in_flight = 4;
        lift_throttles(config);
    };
    let gateway = TestGateway::with(settings).await;
    let mut raw = RawClient::upgraded(gateway.address, None).await;
    // The first leaves a call free, so that the second is read.
    for members in [3, 8, 8] {
        raw.frame(true, opcode::TEXT, slow_batch(members).as_bytes()).await;
    }
    for members in [3, 8, 8] {
        let (kind, payload) = raw.next().await.unwrap();
        assert_eq!(kind, opcode::TEXT);
        let replies: Vec<Value> = serde_json::from_slice(&payload).unwrap();
        let codes: Vec<_> = replies.iter().map(|reply| reply["error"]["code"].clone()).collect();
        assert_eq!(codes, vec![json!(1005); members]);
    }
}

#[tokio::test]
async fn s20_a_socket_is_not_read_while_its_batches_have_all_calls_under_way() {
    let settings = |config: &mut doorward::config::Config| {
        (config.bcrypt_cost, config.hash_threads, config.hash_queue) = (10, 1, 8);
        config.limits.calls_in_flight = 4;
        config.call_timeout = PATIENCE;
        lift_throttles(config);
    };
    let gateway = TestGateway::with(settings).await;
    let mut bob = gateway.socket().await;
    let mut raw = RawClient::upgraded(gateway.address, None).await;
    // All four calls stay taken until 21 of these members have been answered.
    raw.frame(true, opcode::TEXT, slow_batch(24).as_bytes()).await;
    raw.frame(true, opcode::TEXT, PING.as_bytes()).await;
    // Hashes are made in the order in which they were asked for: behind at most four of these at the time when the store
    // has been asked for the name.
    let login = json!({"login": "nobody", "password": "a wrong one for nobody"});
    tokio::select! {
        biased;
        failure = bob.call("auth.login", login) => assert_eq!(failure.unwrap_err().code, 1005),
        frame = raw.next() => panic!("answered while the bound was reached: {frame:?}"),
    }
    let (_, first) = raw.next().await.unwrap();
    assert!(first.starts_with(br#"{"jsonrpc":"2.0","id":1,"result":"#), "the ping comes before the batch ends");
    let (_, second) = raw.next().await.unwrap();
    assert_eq!(serde_json::from_slice::<Vec<Value>>(&second).unwrap().len(), 24);
}

#[tokio::test]
async fn s23_frames_that_break_the_protocol_close_with_its_codes() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.socket().await;
    client.send_message(Message::binary(PING.as_bytes().to_vec())).await;
    assert_eq!(client.closed().await.0, 1003);

    let frames: [(&str, &[u8], u16); 7] = [
        ("invalid UTF-8", b"\x81\x83\0\0\0\0\"\xff\"", 1007),
        ("half a character", b"\x81\x82\0\0\0\0\"\xc3", 1007),
        ("a reserved bit", b"\xc1\x80\0\0\0\0", 1002),
        ("a reserved opcode", b"\x83\x80\0\0\0\0", 1002),
        ("no mask", b"\x81\x02{}", 1002),
        ("a continuation of nothing", b"\x80\x80\0\0\0\0", 1002),
        ("a ping in fragments", b"\x09\x80\0\0\0\0", 1002),
    ];
    for (what, bytes, code) in frames {
        let mut raw = RawClient::upgraded(gateway.address, None).await;
        raw.write(bytes).await;
        assert_eq!(raw.closed().await, Some(code), "{what}");
    }
}

#[tokio::test]
async fn s23_twenty_unparsable_messages_in_a_row_close_with_4501() {
    let gateway = TestGateway::start().await;
    let mut client = gateway.socket().await;
    for _ in 0..2 {
        for _ in 0..19 {
            assert_eq!(code(&client.exchange("no JSON").await), -32700);
        }
        assert!(client.exchange(PING).await.contains("result"));
    }
    for _ in 0..20 {
        client.send("no JSON").await;
    }
    assert_eq!(client.closed().await.0, 4501);
}

#[tokio::test]
async fn s18_a_socket_that_does_not_sign_in_is_closed_with_4502() {
    let gateway = TestGateway::with(|config| config.timeouts.sign_in = Duration::from_secs(1)).await;
    let mut alice = gateway.logged_in("alice").await;
    let mut nobody = gateway.socket().await;
    nobody.call("system.ping", json!({})).await.unwrap();
    assert_eq!(nobody.closed().await.0, 4502);
    alice.call("users.get", json!({"username": "me"})).await.unwrap();
}

#[tokio::test]
async fn s23_the_third_bad_token_closes_with_4500() {
    let gateway = TestGateway::start().await;
    let alice = gateway.logged_in("alice").await;
    let mut client = gateway.socket().await;
    for _ in 0..2 {
        let failure = client.call("auth.authenticate", json!({"access_token": "x"})).await.unwrap_err();
        assert_eq!((failure.code, &failure.data["kind"]), (1003, &json!("token_invalid")));
    }
    // What is no token at all does not count; a good one after two bad ones is welcome.
    assert_eq!(client.call("auth.authenticate", json!({})).await.unwrap_err().code, -32602);
    // They are forgotten then: a socket may live for long, and be extended often.
    client.call("auth.authenticate", json!({"access_token": alice.token})).await.unwrap();
    for _ in 0..3 {
        let failure = client.call("auth.authenticate", json!({"access_token": "x"})).await.unwrap_err();
        assert_eq!(failure.code, 1003, "the third is answered, too");
    }
    assert_eq!(client.closed().await.0, 4500);
}

#[tokio::test]
async fn s11_a_socket_ends_30_seconds_after_its_token() {
    let gateway = TestGateway::with(|config| config.token_life = Duration::from_secs(10)).await;
    let token = gateway.logged_in("alice").await.token;
    // Five seconds of the leeway are left, or four: tokens count whole ones.
    gateway.clock.advance(Duration::from_secs(35));
    let begun = Instant::now();
    let mut by_header = TestClient::connect(gateway.address, &[("authorization", &format!("Bearer {token}"))]).await;
    let mut in_band = gateway.socket().await;
    in_band.call("auth.authenticate", json!({"access_token": token})).await.unwrap();
    // What may wait looks at the token once more.
    gateway.call(Some(&token), "users.changes", json!({"since": "start"})).await.unwrap();
    assert_eq!(by_header.closed().await.0, 4001);
    assert_eq!(in_band.closed().await.0, 4001);
    assert!(begun.elapsed() < Duration::from_secs(5) + bound(Duration::from_secs(1)));

    gateway.clock.advance(Duration::from_secs(2));
    let refused = TestClient::try_connect(gateway.address, &[("authorization", &format!("Bearer {token}"))]).await;
    assert_eq!(refused.err(), Some(401));
    let failure = gateway.socket().await.call("auth.authenticate", json!({"access_token": token})).await.unwrap_err();
    assert_eq!((failure.code, &failure.data["kind"]), (1002, &json!("token_expired")));
}

#[tokio::test]
async fn s11_a_socket_is_told_before_its_token_expires_and_a_new_one_extends_it() {
    let gateway = TestGateway::with(|config| config.token_life = Duration::from_secs(2)).await;
    let mut alice = gateway.logged_in("alice").await;
    let first = alice.notification("auth.expiring").await["expires_at"].clone();
    let login = json!({"login": "alice", "password": PASSWORD});
    let tokens = gateway.call(None, "auth.login", login).await.unwrap()["tokens"].clone();
    let extended = alice.call("auth.authenticate", json!({"access_token": tokens["access_token"]})).await.unwrap();
    assert!(extended["expires_at"].as_str() > first.as_str());
    assert_eq!(alice.notification("auth.expiring").await["expires_at"], extended["expires_at"]);
}

#[tokio::test]
async fn r12_a_client_that_does_not_answer_pings_is_closed_with_4003() {
    let (ping, pong) = (Duration::from_secs(1), Duration::from_secs(5));
    let gateway = TestGateway::with(|config| (config.timeouts.ping, config.timeouts.pong) = (ping, pong)).await;
    let mut alice = gateway.logged_in("alice").await;
    let mut deaf = RawClient::upgraded(gateway.address, Some(&alice.token)).await;
    // Alice's client answers pings while it waits.
    tokio::select! {
        closed = deaf.closed() => assert_eq!(closed, Some(4003)),
        closed = alice.closed() => panic!("alice was closed: {closed:?}"),
    }
    alice.call("system.ping", json!({})).await.unwrap();
}

/// The calls of a client who reads nothing.
const UNREAD: usize = 600;

/// What becomes of a client who sends many calls for large replies and reads nothing until the stall is over: the code of
/// the close, and how many replies came before.
///
/// The close is there to be read from a second after the stall until two seconds later. A busy machine may be late for
/// that, and then nothing is left to read but an end.
pub async fn told_of_the_stall() -> (u16, usize) {
    let settings = |config: &mut Config| {
        config.timeouts.write = Duration::from_secs(1);
        config.timeouts.sign_in = Duration::from_secs(2);
    };
    let gateway = TestGateway::with(settings).await;
    let mut alice = gateway.logged_in("alice").await;
    for number in 0..10 {
        let mut user = gateway.logged_in(&format!("user{number}")).await;
        let attributes = json!({"filling": "x".repeat(4000)});
        user.call("users.update", json!({"username": "me", "patch": {"attributes": attributes}})).await.unwrap();
    }
    for _ in 0..5 {
        let mut stalled = RawClient::upgraded(gateway.address, Some(&alice.token)).await;
        for _ in 0..UNREAD {
            stalled.frame(true, opcode::TEXT, br#"{"jsonrpc":"2.0","id":1,"method":"users.list"}"#).await;
        }
        // A socket that may idle for longer than the stalled one is our clock.
        let mut idle = gateway.socket().await;
        assert_eq!(idle.closed().await.0, 4502);
        alice.call("users.list", json!({})).await.expect("others are served meanwhile");

        let (mut replies, mut closed) = (0, None);
        while let Some((kind, payload)) = stalled.next().await {
            match kind {
                opcode::TEXT => replies += 1,
                opcode::CLOSE => closed = Some(u16::from_be_bytes([payload[0], payload[1]])),
                _ => {}
            }
        }
        if let Some(code) = closed {
            return (code, replies);
        }
    }
    panic!("it was never told why it was closed");
}

#[tokio::test]
async fn s21_a_client_that_does_not_read_is_closed_with_4002_and_nothing_is_kept_for_it() {
    let (closed, replies) = told_of_the_stall().await;
    assert_eq!(closed, 4002);
    // Only what the system's own buffers took was ever made.
    assert!(replies < UNREAD / 2, "{replies} of {UNREAD} calls were answered to a client that did not read");
}

#[tokio::test]
async fn s19_a_request_that_does_not_come_is_given_up() {
    let second = Duration::from_secs(1);
    let gateway = TestGateway::with(|config| (config.timeouts.head, config.timeouts.body) = (second, second)).await;
    let head = "POST /rpc HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
    for (what, sent) in [
        ("no byte", String::new()),
        ("half a line", "GET /rp".to_owned()),
        ("half a head", head.to_owned()),
        ("half a body", format!("{head}Content-Length: 100\r\nConnection: close\r\n\r\n{{")),
    ] {
        let begun = Instant::now();
        let mut raw = RawClient::connected(gateway.address).await;
        raw.write(sent.as_bytes()).await;
        let response = String::from_utf8(raw.rest().await).unwrap();
        assert!(begun.elapsed() < bound(Duration::from_secs(2)), "{what} was waited for {:?}", begun.elapsed());
        assert!(!response.contains(" 200 "), "{what}: {response}");
    }
}

#[tokio::test]
async fn a_connection_may_be_idle_for_longer_than_a_head_may_take() {
    let (second, idle) = (Duration::from_secs(1), Duration::from_secs(3));
    let gateway = TestGateway::with(|config| {
        (config.timeouts.head, config.timeouts.keep_alive) = (second, idle);
    })
    .await;
    let request = format!(
        "POST /rpc HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{PING}",
        PING.len()
    );
    let mut io = TcpStream::connect(gateway.address).await.unwrap();
    let mut buffer = [0; 4096];
    for _ in 0..2 {
        io.write_all(request.as_bytes()).await.unwrap();
        let read = io.read(&mut buffer).await.unwrap();
        assert!(buffer[..read].starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&buffer[..read]));
        // Longer than a head may take.
        tokio::time::sleep(second + second / 2).await;
    }
    // It has been idle for half of its time already.
    let begun = Instant::now();
    assert_eq!(timeout(PATIENCE, io.read(&mut buffer)).await.expect("it is ended").unwrap(), 0);
    assert!(begun.elapsed() < bound(idle), "{:?}", begun.elapsed());

    // A later head has no longer than the first.
    let mut io = TcpStream::connect(gateway.address).await.unwrap();
    io.write_all(request.as_bytes()).await.unwrap();
    assert!(io.read(&mut buffer).await.unwrap() > 0);
    io.write_all(b"POST /rpc").await.unwrap();
    let begun = Instant::now();
    assert_eq!(timeout(PATIENCE, io.read(&mut buffer)).await.expect("it is ended").unwrap(), 0);
    assert!(begun.elapsed() < bound(2 * second), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn r11_a_stopping_gateway_answers_tells_and_closes() {
    let gateway = TestGateway::with(|config| config.bcrypt_cost = 10).await;
    let mut alice = gateway.logged_in("alice").await;
    let patch = json!({"email": "new@example.com"});
    let params = json!({"username": "me", "patch": patch, "current_password": PASSWORD});
    let slow = json!({"jsonrpc": "2.0", "id": "slow", "method": "users.update", "params": params});
    alice.send(slow.to_string()).await;
    // The ping is answered while the password is being checked: the slow call is under way.
    assert!(alice.exchange(PING).await.contains(r#""id":1"#));
    let address = gateway.address;
    let told = async {
        let (mut answered, mut draining) = (false, None);
        while !answered || draining.is_none() {
            let message: Value = serde_json::from_str(&alice.text().await).unwrap();
            match message["method"].as_str() {
                Some("system.draining") => draining = message["params"]["reconnect_after_ms"].as_u64(),
                _ => answered = message["id"] == "slow" && message["result"]["user"]["email"] == "new@example.com",
            }
        }
        (draining, alice.closed().await.0)
    };
    let ((draining, closed), ()) = tokio::join!(told, gateway.stop());
    assert!(draining.unwrap() < 10_000);
    assert_eq!(closed, 1012);
    assert!(TcpStream::connect(address).await.is_err());
}

/// The keys in the reference's table of limits.
fn documented_limits() -> BTreeSet<&'static str> {
    let section = include_str!("../../docs/protocol.md").split("\n| key | |\n").nth(1).expect("the table of limits");
    let rows = section.lines().take_while(|line| line.starts_with('|')).skip(1);
    rows.flat_map(|row| row.split('|').nth(1).expect("a cell").split('`').skip(1).step_by(2)).collect()
}

#[tokio::test]
async fn s20_system_info_tells_every_limit_of_the_reference_and_the_home_of_the_users() {
    let gateway = TestGateway::start().await;
    let mut info = gateway.call(None, "system.info", json!({})).await.unwrap();
    let mut limits = info["limits"].take();
    let expected = BTreeMap::from([
        ("message_bytes", 64 << 10),
        ("nesting", 64),
        ("reply_bytes", 1 << 20),
        ("batch_calls", 50),
        ("calls_in_flight", 32),
        ("subscriptions_per_socket", 32),
        ("sockets_per_user", 20),
        ("sessions_per_user", 100),
        ("unauthenticated_sockets_per_address", 20),
        ("ping_seconds", 25),
        ("pong_seconds", 10),
        ("call_seconds", 5),
        ("sign_in_seconds", 10),
        ("head_seconds", 10),
        ("keep_alive_seconds", 75),
        ("keep_alive_seconds", 75),
        ("body_seconds", 10),
        ("message_seconds", 30),
        ("write_seconds", 30),
        // As this test's gateway has it: the default is 1,000.
        ("calls_per_second", 1_000_000),
        ("calls_burst", 10_000),
        ("sockets", 20_000),
        ("search_count_max", 1_000),
        ("password_min_chars", 8),
        ("access_token_seconds", 900),
        ("session_idle_seconds", 86_400),
        ("session_seconds", 2_592_000),
    ]);
    assert!(limits.as_object_mut().unwrap().remove("password_hash_ms").unwrap().as_f64().unwrap() > 0.0);
    assert_eq!(limits, json!(expected));
    assert_eq!(documented_limits(), expected.into_keys().chain(["password_hash_ms"]).collect());
    let home = if on_elasticsearch() { "store:elasticsearch" } else { "store:sqlite" };
    let features = info["features"].as_array().unwrap();
    let homes = features.iter().filter(|feature| feature.as_str().unwrap().starts_with("store:"));
    assert_eq!(homes.collect::<Vec<_>>(), [home]);
}

#[tokio::test]
async fn r09_a_socket_is_read_again_as_soon_as_its_batch_leaves_room() {
    let gateway = TestGateway::with(|config| (config.bcrypt_cost, config.limits.calls_in_flight) = (12, 2)).await;
    let mut alice = gateway.logged_in("alice").await;
    let since = alice.call("users.changes", json!({})).await.unwrap()["position"].take();
    let member =
        |id: u64, method: &str, params: Value| json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
    // As many as may be under way: one ends with its hash, the other waits for longer than this test does.
    let batch = json!([
        member(1, "auth.login", json!({"login": "alice", "password": "none of their passwords"})),
        member(2, "users.changes", json!({"since": since, "wait_ms": 30_000})),
    ]);
    alice.send(batch.to_string()).await;
    alice.call("system.ping", json!({})).await.unwrap();
}
