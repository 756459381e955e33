//! The end that was asked for: calls under way are answered, and a second signal does not wait.

use std::collections::BTreeSet;
use std::process::Stdio;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::support::{PASSWORD, PATIENCE, Process, TestClient};

#[tokio::test]
async fn r11_sigterm_answers_the_calls_under_way_closes_every_socket_and_exits_with_0() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    // Slow hashes, and time for them on a busy machine.
    let settings =
        [("DOORWARD_BCRYPT_COST", "12"), ("DOORWARD_CALL_TIMEOUT_SECONDS", "60"), ("DOORWARD_DRAIN_SECONDS", "60")];
    let mut gateway = Process::start(&data, &settings).await;
    let mut sockets = Vec::new();
    for number in 0..4 {
        let mut socket = TestClient::connect(gateway.address, &[]).await;
        let (username, email) = (format!("alice{number}"), format!("alice{number}@example.com"));
        let params = json!({"username": username, "email": email, "password": PASSWORD});
        let call = json!({"jsonrpc": "2.0", "id": "slow", "method": "auth.register", "params": params});
        socket.send(call.to_string()).await;
        // Answered while the hash of the call before it is computed: so that one is under way.
        socket.call("system.ping", json!({})).await.unwrap();
        sockets.push(socket);
    }
    gateway.signal(Signal::TERM);
    let mut delays = BTreeSet::new();
    for socket in &mut sockets {
        let mut draining = None;
        let reply = loop {
            let frame: Value = serde_json::from_str(&socket.text().await).unwrap();
            match frame["method"].as_str() {
                Some("system.draining") => draining = frame["params"]["reconnect_after_ms"].as_u64(),
                _ => break frame,
            }
        };
        assert_eq!((&reply["id"], &reply["error"]), (&json!("slow"), &Value::Null));
        delays.insert(draining.expect("told before the answer that takes long"));
        assert_eq!(socket.closed().await.0, 1012);
    }
    // Of 60,000 that each may have: that all are one is as good as impossible.
    assert!(delays.len() > 1 && delays.iter().all(|delay| *delay < 60_000), "each has its own: {delays:?}");
    assert_eq!(gateway.wait().await.code(), Some(0));

    let gateway = Process::start(&data, &[]).await;
    TestClient::connect(gateway.address, &[]).await.login("alice3").await;
}

#[tokio::test]
async fn r11_each_signal_that_asks_for_an_end_drains() {
    for signal in [Signal::TERM, Signal::INT, Signal::QUIT, Signal::HUP] {
        let folder = tempfile::tempdir().unwrap();
        let mut gateway = Process::start(&folder.path().join("data"), &[]).await;
        let mut socket = TestClient::connect(gateway.address, &[]).await;
        gateway.signal(signal);
        assert_eq!(socket.closed().await.0, 1012, "{signal:?}");
        assert_eq!(gateway.wait().await.code(), Some(0), "{signal:?}");
    }
}

#[tokio::test]
async fn a_gateway_that_was_started_with_nohup_outlives_its_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Process::command_within(Command::new("nohup"), &folder.path().join("data"), &[]);
    command.stderr(Stdio::null());
    let mut gateway = Process::spawn(command).await;
    gateway.signal(Signal::HUP);
    let mut alice = TestClient::connect(gateway.address, &[]).await;
    alice.register("alice").await;
    gateway.signal(Signal::TERM);
    assert_eq!(alice.closed().await.0, 1012);
    assert_eq!(gateway.wait().await.code(), Some(0));
}

#[tokio::test]
async fn r11_a_second_signal_stops_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    // Longer than this test waits for anything.
    let settings = [("DOORWARD_DRAIN_SECONDS", "60"), ("DOORWARD_BODY_TIMEOUT_SECONDS", "60")];
    let mut command = Process::command(&data, &settings);
    command.stderr(Stdio::piped());
    let mut gateway = Process::spawn(command).await;
    let mut log = gateway.stderr();
    let mut unfinished = TcpStream::connect(gateway.address).await.unwrap();
    let head = "POST /rpc HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\
                Expect: 100-continue\r\n\r\n";
    unfinished.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    unfinished.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100", "the gateway waits for the body");

    gateway.signal(Signal::TERM);
    let mut said = async |text: &str| {
        let line = async { while !log.next_line().await.unwrap().unwrap().contains(text) {} };
        tokio::time::timeout(PATIENCE, line).await.expect("it is said in time");
    };
    said("a second signal stops at once").await;
    gateway.signal(Signal::TERM);
    said("stopped at once by a second signal").await;
    assert_eq!(gateway.wait().await.code(), Some(1));
}
