//! S19: clients that send a byte now and then hold nothing for longer than its deadline, and nobody up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::support::{PASSWORD, Process, RawClient, TestClient, TestGateway, bound, long_run, opcode};

/// Connections of each kind: 2,000 in all.
const EACH: usize = 400;
/// What a deadline may take longer.
const GRACE: Duration = Duration::from_secs(5);
/// Connections that are opened at once: fewer than may wait to be accepted.
const AT_ONCE: usize = 200;

/// What is dribbled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A request's head.
    Head,
    /// A request's body.
    Body,
    /// A message on a socket that nobody signs in on.
    Anonymous,
    /// The payload of a frame, by a signed-in user.
    Frame,
    /// Fragments of a message with pongs between them, by a signed-in user.
    Fragments,
}

impl Kind {
    /// Opens a connection and sends the beginning. Answers with what to send now and then.
    async fn begin(self, address: SocketAddr, token: &str) -> (TcpStream, &'static [u8]) {
        let connect = async |beginning: &[u8]| {
            let mut io = TcpStream::connect(address).await.unwrap();
            io.write_all(beginning).await.unwrap();
            io
        };
        let upgraded = async |token, beginning: &[u8]| {
            let mut socket = RawClient::upgraded(address, token).await;
            socket.write(beginning).await;
            socket.into_inner()
        };
        let half_frame = &[0x81, 0xfe, 0x10, 0x00, 0, 0, 0, 0][..];
        match self {
            Self::Head => (connect(b"GET /rpc HTTP/1.1\r\nX-Filling: ").await, b"x"),
            Self::Body => {
                let head =
                    "POST /rpc HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 4096\r\n";
                (connect(format!("{head}\r\n").as_bytes()).await, b" ")
            }
            Self::Anonymous => (upgraded(None, half_frame).await, b" "),
            Self::Frame => (upgraded(Some(token), half_frame).await, b" "),
            // A continuation of one byte, a pong.
            Self::Fragments => {
                (upgraded(Some(token), b"\x01\x81\0\0\0\0 ").await, b"\x00\x81\0\0\0\0 \x8a\x80\0\0\0\0")
            }
        }
    }

    /// Goes on until the gateway has ended the connection. Answers how long that took.
    async fn dribble(self, address: SocketAddr, token: String, opening: Arc<Semaphore>) -> (Self, Duration) {
        let turn = opening.acquire().await;
        let begun = Instant::now();
        let (mut io, dribbled) = self.begin(address, &token).await;
        drop(turn);
        let mut next =
            tokio::time::interval(if long_run() { Duration::from_secs(2) } else { Duration::from_millis(500) });
        let mut answer = [0; 1024];
        loop {
            tokio::select! {
                read = io.read(&mut answer) => if !matches!(read, Ok(1..)) { break },
                _ = next.tick() => if io.write_all(dribbled).await.is_err() { break },
            }
        }
        (self, begun.elapsed())
    }
}

/// Lets this process, and the gateways that it starts, have as many files open as the system grants.
fn open_many_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    assert!(maximum.is_none_or(|maximum| maximum >= 4096), "2,000 connections need `ulimit -Hn 4096`, not {maximum:?}");
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// One login over HTTP, timed.
async fn login(http: &reqwest::Client, address: SocketAddr) -> Duration {
    let begun = Instant::now();
    let body = json!({"login": "alice", "password": PASSWORD}).to_string();
    let request = http.post(format!("http://{address}/auth/login")).header("content-type", "application/json");
    assert_eq!(request.body(body).send().await.unwrap().status(), 200);
    begun.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn s19_two_thousand_dribbling_connections_are_gone_in_time_and_logins_do_not_wait_for_them() {
    open_many_files();
    let folder = tempfile::tempdir().unwrap();
    let short = [
        ("DOORWARD_HEAD_TIMEOUT_SECONDS", "4"),
        ("DOORWARD_BODY_TIMEOUT_SECONDS", "4"),
        ("DOORWARD_SIGN_IN_TIMEOUT_SECONDS", "4"),
        ("DOORWARD_MESSAGE_TIMEOUT_SECONDS", "6"),
    ];
    let caps = [("DOORWARD_MAX_SOCKETS_PER_USER", "2000"), ("DOORWARD_MAX_UNAUTHENTICATED_PER_ADDRESS", "2000")];
    let settings = if long_run() { caps.to_vec() } else { [&caps[..], &short[..]].concat() };
    let gateway = Process::start(&folder.path().join("data"), &settings).await;
    let address = gateway.address;
    let mut alice = TestClient::connect(address, &[]).await;
    alice.register("alice").await;
    let limits = alice.call("system.info", json!({})).await.unwrap()["limits"].clone();
    let message = Duration::from_secs(limits["message_seconds"].as_u64().unwrap());
    // The same number of seconds for a head, a body and a sign-in.
    let others = Duration::from_secs(limits["sign_in_seconds"].as_u64().unwrap());
    let http = reqwest::Client::new();
    let mut alone = Vec::new();
    for _ in 0..9 {
        alone.push(login(&http, address).await);
    }
    let alone = median(alone);

    let mut dribbling = JoinSet::new();
    let opening = Arc::new(Semaphore::new(AT_ONCE));
    for _ in 0..EACH {
        for kind in [Kind::Head, Kind::Body, Kind::Anonymous, Kind::Frame, Kind::Fragments] {
            dribbling.spawn(kind.dribble(address, alice.token.clone(), opening.clone()));
        }
    }
    let slowest = async {
        let mut slowest = Duration::ZERO;
        while let Some(gone) = dribbling.join_next().await {
            let (kind, took) = gone.unwrap();
            let deadline = if matches!(kind, Kind::Frame | Kind::Fragments) { message } else { others };
            assert!(deadline <= took && took <= deadline + bound(GRACE), "{kind:?} took {took:?}");
            slowest = slowest.max(took);
        }
        slowest
    };
    let mut beside = Vec::new();
    let log_in = async {
        loop {
            beside.push(login(&http, address).await);
        }
    };
    let slowest = tokio::select! {
        slowest = tokio::time::timeout(2 * (message + bound(GRACE)), slowest) => slowest.expect("all of them are ended"),
        () = log_in => unreachable!("it has no end of its own"),
    };
    assert!(beside.len() >= 5, "only {} logins", beside.len());
    let worst = beside.iter().max().copied().unwrap();
    let beside = median(beside);
    eprintln!(
        "2,000 dribbling connections were gone after {slowest:?} at most; a login took {alone:?} alone, {beside:?} \
         beside them, {worst:?} at worst"
    );
    assert!(beside <= alone + bound(Duration::from_secs(1)), "{beside:?} instead of {alone:?}");
    alice.call("system.ping", json!({})).await.unwrap();
}

#[tokio::test]
async fn s19_a_client_that_does_not_read_its_responses_is_given_up() {
    let deadline = Duration::from_secs(2);
    let gateway = TestGateway::with(|config| config.timeouts.write = deadline).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut deaf = socket.connect(gateway.address).await.unwrap();
    let begun = Instant::now();
    let flood = async { while deaf.write_all(&b"GET /users HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100)).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(60), flood).await.expect("its connection is ended");
    assert!(begun.elapsed() >= deadline);
}

#[tokio::test]
async fn s19_a_message_may_come_in_pieces_for_as_long_as_it_comes_to_its_end() {
    let gateway = TestGateway::with(|config| config.timeouts.message = Duration::from_secs(3)).await;
    let token = gateway.logged_in("alice").await.token;
    let mut patient = RawClient::upgraded(gateway.address, Some(&token)).await;
    let mut slow = RawClient::upgraded(gateway.address, Some(&token)).await;
    let (begin, end) = (br#"{"jsonrpc":"2.0","id":1,"#, br#""method":"system.ping"}"#);
    slow.frame(false, opcode::TEXT, begin).await;
    let begun = Instant::now();
    // Whole messages, one after the other, for longer than one may take.
    while begun.elapsed() < Duration::from_secs(4) {
        patient.frame(false, opcode::TEXT, begin).await;
        patient.frame(true, opcode::PING, b"").await;
        assert_eq!(patient.next().await.unwrap().0, opcode::PONG, "the first half was read");
        patient.frame(true, opcode::CONTINUATION, end).await;
        assert_eq!(patient.next().await.unwrap().0, opcode::TEXT);
    }
    assert_eq!(slow.closed().await, Some(4003));
}
