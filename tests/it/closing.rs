//! Calls whose client ends the connection behind them: what came before the end is carried out, and answered where somebody
//! is left to read the answer.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{PASSWORD, PATIENCE, RawClient, TestGateway, count, masked, on_elasticsearch, opcode};

/// Another password that the policy accepts.
const OTHER: &str = "wrong donkey 8 capacitor";

/// Every method that writes.
const WRITING: [&str; 13] = [
    "auth.register",
    "auth.login",
    "auth.refresh",
    "auth.logout",
    "auth.change_password",
    "auth.end_session",
    "users.create",
    "users.update",
    "users.deactivate",
    "users.reactivate",
    "users.set_role",
    "users.set_password",
    "users.erase",
];
/// Some that read.
const READING: [&str; 5] = ["users.get", "users.list", "users.search", "users.changes", "auth.sessions"];
/// How many calls are made at once.
const AT_ONCE: usize = 6;

/// How often each method is tried.
fn rounds() -> usize {
    if on_elasticsearch() { count(2, 20) } else { 20 }
}

/// A gateway where logins may fail as often as these tests ask whether a password is another now, and the token of an admin.
async fn gateway() -> (TestGateway, String) {
    let gateway = TestGateway::with(|config| {
        let throttle = &mut config.throttle;
        (throttle.failures, throttle.failures_in_a_row, throttle.failures_per_address) =
            (1_000_000, 1_000_000, 1_000_000);
    })
    .await;
    let admin = gateway.admin("root1").await.token;
    (gateway, admin)
}

/// A call that is ready to be made, once.
struct Call {
    method: &'static str,
    params: Value,
    /// Whose call it is.
    token: Option<String>,
    /// Whom it is about.
    subject: String,
}

impl Call {
    /// Prepares a call of a method about a user of its own. `admin` is the token of one.
    async fn prepare(gateway: &TestGateway, admin: &str, method: &'static str, subject: String) -> Self {
        let newcomer = json!({"username": subject, "email": format!("{subject}@example.com"), "password": PASSWORD});
        if !matches!(method, "auth.register" | "users.create") {
            gateway.call(Some(admin), "users.create", newcomer.clone()).await.unwrap();
        }
        let login = json!({"login": subject, "password": PASSWORD});
        let by_admin = [
            "users.create",
            "users.deactivate",
            "users.reactivate",
            "users.set_role",
            "users.set_password",
            "users.erase",
            "auth.end_session",
        ];
        let mut signed_in = Value::Null;
        let token = match method {
            "auth.register" | "auth.login" => None,
            _ if by_admin.contains(&method) && method != "auth.end_session" => Some(admin.to_owned()),
            _ => {
                signed_in = gateway.call(None, "auth.login", login.clone()).await.unwrap();
                let own = signed_in["tokens"]["access_token"].as_str().unwrap().to_owned();
                Some(if method == "auth.end_session" { admin.to_owned() } else { own })
            }
        };
        if method == "users.reactivate" {
            gateway.call(Some(admin), "users.deactivate", json!({"username": subject})).await.unwrap();
        }
        let params = match method {
            "auth.register" | "users.create" => newcomer,
            "auth.login" => login,
            "auth.refresh" => json!({"refresh_token": signed_in["tokens"]["refresh_token"]}),
            "auth.logout" | "users.list" => json!({}),
            "auth.change_password" => json!({"current_password": PASSWORD, "new_password": OTHER}),
            "auth.end_session" => json!({"session": signed_in["session"]["id"]}),
            "users.update" => json!({"username": "me", "patch": {"bio": "changed"}}),
            "users.set_role" => json!({"username": subject, "role": "admin"}),
            "users.set_password" => json!({"username": subject, "new_password": OTHER}),
            "users.search" => json!({"text": subject}),
            "users.changes" => json!({"since": "start", "limit": 1}),
            _ => json!({"username": subject}),
        };
        Self { method, params, token, subject }
    }

    fn text(&self) -> String {
        json!({"jsonrpc": "2.0", "id": "it", "method": self.method, "params": self.params}).to_string()
    }

    /// The frame of a text message that makes it.
    fn frame(&self) -> Vec<u8> {
        masked(true, opcode::TEXT, self.text().as_bytes())
    }

    /// The request that makes it over HTTP.
    fn request(&self) -> String {
        let bearer = self.token.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n"));
        let (bearer, text) = (bearer.unwrap_or_default(), self.text());
        format!(
            "POST /rpc HTTP/1.1\r\nHost: a\r\n{bearer}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{text}",
            text.len()
        )
    }

    /// Whether its effect can be seen, as far as one can tell from outside.
    async fn is_done(&self, gateway: &TestGateway, admin: &str) -> bool {
        let about = json!({"username": self.subject});
        let user = gateway.call(Some(admin), "users.get", about.clone()).await;
        let user = user.map(|found| found["user"].clone()).unwrap_or_default();
        match self.method {
            "auth.register" | "users.create" => user["status"] == "active",
            "users.update" => user["bio"] == "changed",
            "users.deactivate" => user["status"] == "deactivated",
            "users.reactivate" => user["status"] == "active",
            "users.set_role" => user["role"] == "admin",
            "users.erase" => user["status"] == "erased",
            "auth.change_password" | "users.set_password" => {
                let login = json!({"login": self.subject, "password": OTHER});
                gateway.call(None, "auth.login", login).await.is_ok()
            }
            "auth.logout" | "auth.end_session" => {
                gateway.call(Some(admin), "auth.sessions", about).await.unwrap()["sessions"] == json!([])
            }
            // Whether a login or a refresh was made, only its answer tells.
            _ => true,
        }
    }

    /// Waits for its effect.
    async fn becomes_done(&self, gateway: &TestGateway, admin: &str) {
        let done = async { while !self.is_done(gateway, admin).await {} };
        tokio::time::timeout(PATIENCE, done).await.unwrap_or_else(|_| panic!("{} was not made", self.method));
    }
}

/// The way in which a client ends its socket behind a call.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    /// By a close frame.
    Close,
    /// By the end of what it sends, without a close frame.
    HalfClose,
    /// By a frame that the gateway refuses.
    Binary,
}

/// Makes a call on a socket of its own and ends that behind it. Answers with the reply, and the code of the close frame
/// that follows.
async fn call_and_end(gateway: &TestGateway, call: &Call, end: End) -> (Option<Value>, Option<u16>) {
    let mut socket = RawClient::upgraded(gateway.address, call.token.as_deref()).await;
    let mut sent = call.frame();
    match end {
        End::Close => sent.extend(masked(true, opcode::CLOSE, &1000_u16.to_be_bytes())),
        End::HalfClose => {}
        End::Binary => sent.extend(masked(true, opcode::BINARY, b"{}")),
    }
    socket.write(&sent).await;
    if end == End::HalfClose {
        socket.finish().await;
    }
    let mut reply = None;
    while let Some((kind, payload)) = socket.next().await {
        if kind == opcode::CLOSE {
            return (reply, Some(u16::from_be_bytes([payload[0], payload[1]])));
        }
        let frame: Value = serde_json::from_slice(&payload).unwrap();
        if frame["id"] == "it" {
            reply = Some(frame);
        }
    }
    (reply, None)
}

/// Tries every one of these methods several times, and tells how often it failed: by its name, with what was seen.
async fn failures<F: Future<Output = Result<(), String>>>(
    methods: &[&'static str],
    one: impl Fn(&'static str, usize) -> F,
) -> Vec<String> {
    let tries = (0..rounds()).flat_map(|round| methods.iter().map(move |method| (*method, round)));
    let outcomes = stream::iter(tries).map(|(method, round)| {
        let outcome = one(method, round);
        async move { (method, outcome.await) }
    });
    let outcomes: Vec<_> = outcomes.buffer_unordered(AT_ONCE).collect().await;
    let of = |method: &str| {
        let failed: Vec<_> =
            outcomes.iter().filter(|(name, _)| *name == method).filter_map(|(_, each)| each.clone().err()).collect();
        let first = failed.first()?;
        Some(format!("{method}: {} of {}, {first}", failed.len(), rounds()))
    };
    methods.iter().filter_map(|method| of(method)).collect()
}

/// Ends sockets so behind every kind of call: each must be answered, and be done.
async fn each_is_answered_before(end: End) {
    let (gateway, admin) = gateway().await;
    let all = [&WRITING[..], &READING[..]].concat();
    let failed = failures(&all, async |method, round| {
        let subject = format!("{}{round}", method.replace(['.', '_'], "-"));
        let call = Call::prepare(&gateway, &admin, method, subject).await;
        let (reply, code) = call_and_end(&gateway, &call, end).await;
        let is_answered = reply.as_ref().is_some_and(|reply| reply.get("result").is_some());
        let is_closed = match end {
            End::Close => code == Some(1000) || matches!(method, "auth.logout" | "auth.end_session"),
            End::HalfClose => true,
            End::Binary => code == Some(1003) || matches!(method, "auth.logout" | "auth.end_session"),
        };
        match call.is_done(&gateway, &admin).await {
            true if is_answered && is_closed => Ok(()),
            done => Err(format!("done: {done}, reply: {reply:?}, close: {code:?}")),
        }
    })
    .await;
    assert!(failed.is_empty(), "{failed:#?}");
}

#[tokio::test]
async fn what_came_before_a_close_frame_is_done_and_answered() {
    each_is_answered_before(End::Close).await;
}

#[tokio::test]
async fn what_came_before_the_end_of_a_clients_input_is_done_and_answered() {
    each_is_answered_before(End::HalfClose).await;
}

#[tokio::test]
async fn what_came_before_a_frame_that_is_refused_is_done_and_answered() {
    each_is_answered_before(End::Binary).await;
}

#[tokio::test]
async fn a_write_goes_on_when_its_socket_is_reset() {
    let (gateway, admin) = gateway().await;
    let failed = failures(&WRITING, async |method, round| {
        let subject = format!("{}{round}", method.replace(['.', '_'], "-"));
        let call = Call::prepare(&gateway, &admin, method, subject).await;
        let mut socket = RawClient::upgraded(gateway.address, call.token.as_deref()).await;
        let ping = br#"{"jsonrpc":"2.0","id":"ping","method":"system.ping"}"#;
        socket.write(&[call.frame(), masked(true, opcode::TEXT, ping)].concat()).await;
        // Whatever is answered first: the call was taken before the ping.
        socket.next().await.ok_or("nothing is answered")?;
        socket.reset();
        let done = async { while !call.is_done(&gateway, &admin).await {} };
        tokio::time::timeout(Duration::from_secs(3), done).await.map_err(|_| "it was not made".to_owned())
    })
    .await;
    assert!(failed.is_empty(), "{failed:#?}");
}

#[tokio::test]
async fn more_calls_than_may_be_under_way_are_all_answered_before_the_close() {
    let (gateway, admin) = gateway().await;
    let mut socket = RawClient::upgraded(gateway.address, Some(&admin)).await;
    let call = |id: usize| {
        let params = json!({"username": format!("user{id}"), "email": format!("user{id}@example.com"),
            "password": PASSWORD});
        json!({"jsonrpc": "2.0", "id": id, "method": "users.create", "params": params})
    };
    let mut sent = Vec::new();
    for id in 0..60 {
        sent.extend(masked(true, opcode::TEXT, call(id).to_string().as_bytes()));
    }
    let batch: Value = (60..80).map(call).collect();
    sent.extend(masked(true, opcode::TEXT, batch.to_string().as_bytes()));
    sent.extend(masked(true, opcode::CLOSE, &1000_u16.to_be_bytes()));
    socket.write(&sent).await;
    let mut answered = Vec::new();
    let code = loop {
        let (kind, payload) = socket.next().await.expect("the close is answered");
        if kind == opcode::CLOSE {
            break u16::from_be_bytes([payload[0], payload[1]]);
        }
        let replies = match serde_json::from_slice(&payload).unwrap() {
            Value::Array(replies) => replies,
            reply => vec![reply],
        };
        assert!(replies.iter().all(|reply| reply.get("result").is_some()), "{replies:?}");
        answered.extend(replies.iter().map(|reply| reply["id"].as_u64().unwrap()));
    };
    answered.sort_unstable();
    assert_eq!((answered, code), ((0..80).collect(), 1000));
}

#[tokio::test]
async fn a_call_that_waits_does_not_hold_up_the_close_for_longer_than_a_call_may_take() {
    let gateway = TestGateway::with(|config| config.call_timeout = Duration::from_secs(1)).await;
    let token = gateway.logged_in("alice").await.token;
    let now = gateway.call(Some(&token), "users.changes", json!({})).await.unwrap()["position"].clone();
    let params = json!({"since": now, "wait_ms": 30_000});
    let waiting = json!({"jsonrpc": "2.0", "id": "it", "method": "users.changes", "params": params}).to_string();
    let mut socket = RawClient::upgraded(gateway.address, Some(&token)).await;
    socket.frame(true, opcode::TEXT, waiting.as_bytes()).await;
    socket.frame(true, opcode::CLOSE, &1000_u16.to_be_bytes()).await;
    // The time-out of every wait of these tests is shorter than that of the call.
    assert_eq!(socket.closed().await, Some(1000));
}

#[tokio::test]
async fn a_request_whose_client_sends_nothing_more_is_answered() {
    let (gateway, admin) = gateway().await;
    let all = [&WRITING[..], &READING[..]].concat();
    let failed = failures(&all, async |method, round| {
        let subject = format!("{}{round}", method.replace(['.', '_'], "-"));
        let call = Call::prepare(&gateway, &admin, method, subject).await;
        let response = send_and_finish(&gateway, &call.request()).await;
        match response.starts_with("HTTP/1.1 200 ") && response.contains(r#""result":"#) {
            true if call.is_done(&gateway, &admin).await => Ok(()),
            _ => Err(format!("response: {response:?}")),
        }
    })
    .await;
    assert!(failed.is_empty(), "{failed:#?}");
}

#[tokio::test]
async fn a_rest_request_whose_client_sends_nothing_more_is_answered() {
    let (gateway, admin) = gateway().await;
    for round in 0..rounds() {
        let alice = gateway.logged_in(&format!("alice{round}")).await.token;
        let newcomer = json!({"username": format!("bob{round}"), "email": format!("bob{round}@example.com"),
            "password": PASSWORD});
        let login = json!({"login": format!("bob{round}"), "password": PASSWORD});
        let user = format!("/admin/users/bob{round}");
        let requests = [
            ("POST", "/auth/register", None, newcomer, 201),
            ("POST", "/auth/login", None, login, 200),
            ("GET", "/users/me", Some(&alice), Value::Null, 200),
            ("GET", "/users?limit=1", Some(&alice), Value::Null, 200),
            ("PATCH", "/users/me", Some(&alice), json!({"bio": "changed"}), 200),
            ("PATCH", &user, Some(&admin), json!({"bio": "changed"}), 200),
            ("PATCH", &user, Some(&admin), json!({"role": "admin"}), 200),
            ("DELETE", &user, Some(&admin), Value::Null, 204),
            ("DELETE", "/users/me", Some(&alice), Value::Null, 204),
        ];
        for (method, path, token, body, status) in requests {
            let body = if body.is_null() { String::new() } else { body.to_string() };
            let mut head = format!("{method} {path} HTTP/1.1\r\nHost: a\r\n");
            if let Some(token) = token {
                head += &format!("Authorization: Bearer {token}\r\n");
            }
            if !body.is_empty() {
                head += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
            }
            let response = send_and_finish(&gateway, &format!("{head}\r\n{body}")).await;
            assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {path}: {response:?}");
        }
    }
}

#[tokio::test]
async fn a_request_whose_client_is_gone_is_carried_out() {
    let (gateway, admin) = gateway().await;
    for method in WRITING {
        let call = Call::prepare(&gateway, &admin, method, method.replace(['.', '_'], "-")).await;
        let mut io = TcpStream::connect(gateway.address).await.unwrap();
        io.write_all(call.request().as_bytes()).await.unwrap();
        drop(io);
        call.becomes_done(&gateway, &admin).await;
    }
}

/// Sends a request and the end of all input. Answers with everything that comes back.
async fn send_and_finish(gateway: &TestGateway, request: &str) -> String {
    let mut io = TcpStream::connect(gateway.address).await.unwrap();
    io.write_all(request.as_bytes()).await.unwrap();
    io.shutdown().await.unwrap();
    let mut response = Vec::new();
    let read = tokio::time::timeout(PATIENCE, io.read_to_end(&mut response)).await.expect("it ends in time");
    read.map(|_| String::from_utf8(response).unwrap()).unwrap_or_default()
}
