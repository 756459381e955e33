//! The socket's loop by itself, with a service of these tests in the dispatcher's place.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use doorward::clock::Clock;
use doorward::connection::{Connection, Options, Service};
use doorward::rpc::{Answer, Reply};
use doorward::sessions::{Accounts, Identity, KnownSessions, Peer};
use doorward::users::Session;
use doorward::users::session::Lifetimes;
use futures_util::FutureExt;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::store::contract::user;
use crate::support::{PATIENCE, RawClient, opcode};

const HOUR: Duration = Duration::from_secs(3_600);

/// Answers what it is told to.
#[derive(Clone, Default)]
struct Script(Arc<Stage>);

#[derive(Default)]
struct Stage {
    /// A message was taken.
    taken: Notify,
    /// Lets the call `wait` end.
    go: Notify,
    /// It has ended.
    ended: Notify,
    /// Whose socket it is.
    peer: OnceLock<Arc<Peer>>,
}

impl Stage {
    /// Signs the socket in.
    fn sign_in(&self) {
        let (peer, alice, now) = (self.peer.get().unwrap(), user("alice"), Clock::default().now());
        let lifetimes = Lifetimes { idle: HOUR, whole: HOUR };
        let session = KnownSessions::default().insert(Session::begin(&alice, None, peer.origin(), now, lifetimes));
        let (generation, account) = (alice.generation, Accounts::default().insert(&Arc::new(alice)));
        peer.identify(Identity { account, session, generation, expires_at: now.plus(HOUR) });
    }
}

impl Service for Script {
    fn text(&mut self, text: &str) -> Answer {
        let stage = self.0.clone();
        stage.taken.notify_one();
        let signs_in = text == "sign in";
        match text {
            "wait" | "sign in" => Answer::Later(
                async move {
                    if signs_in {
                        stage.sign_in();
                    }
                    stage.go.notified().await;
                    stage.ended.notify_one();
                    Reply::verbatim("ended".to_owned())
                }
                .boxed(),
            ),
            "break" => Answer::Later(async { panic!("outside a handler") }.boxed()),
            _ => Answer::Now(Reply::verbatim("x".repeat(60 << 10))),
        }
    }
}

/// Serves one socket, whose upgrade is over, and which must sign in within this time if any.
async fn serve(script: Script, sign_in: Option<Duration>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (io, from) = listener.accept().await.unwrap();
        let options = Options {
            message_bytes: 1 << 10,
            calls_in_flight: 32,
            sign_in,
            message: HOUR,
            ping: HOUR,
            pong: HOUR,
            write: HOUR,
            call: HOUR,
        };
        let peer = Arc::new(Peer::new(0, from.ip(), None, None));
        script.0.peer.set(peer.clone()).expect("a script is of one socket");
        Connection::new(io, Vec::new(), peer, script, Arc::new(options), Clock::default()).await.run().await;
    });
    address
}

#[tokio::test]
async fn r09_a_call_goes_on_and_gives_back_what_it_holds_while_its_client_reads_nothing() {
    let script = Script::default();
    let mut client = RawClient::connected(serve(script.clone(), None).await).await;
    client.frame(true, opcode::TEXT, b"wait").await;
    // Far more than the system takes for a client who reads nothing: some of them are never taken.
    for _ in 0..1_000 {
        client.frame(true, opcode::TEXT, b"more").await;
    }
    while timeout(Duration::from_millis(250), script.0.taken.notified()).await.is_ok() {}
    script.0.go.notify_one();
    timeout(PATIENCE, script.0.ended.notified()).await.expect("the call goes on");
    loop {
        let (_, payload) = client.next().await.expect("the socket is open");
        if payload == b"ended" {
            break;
        }
    }
}

/// What a socket is closed with when a call of it fails outside its handler.
pub async fn closed_by_a_fault() -> u16 {
    let mut client = RawClient::connected(serve(Script::default(), None).await).await;
    client.frame(true, opcode::TEXT, b"break").await;
    client.closed().await.expect("a close frame")
}

#[tokio::test]
async fn r14_a_fault_outside_a_handler_closes_its_socket_with_1011() {
    assert_eq!(closed_by_a_fault().await, 1011);
}

#[tokio::test]
async fn s18_a_socket_that_a_call_under_way_has_signed_in_is_not_closed_as_nobodys() {
    let (script, second) = (Script::default(), Some(Duration::from_secs(1)));
    let mut alice = RawClient::connected(serve(script.clone(), second).await).await;
    alice.frame(true, opcode::TEXT, b"sign in").await;
    script.0.taken.notified().await;
    // One that is served after hers, and nobody's, is our clock.
    let mut nobody = RawClient::connected(serve(Script::default(), second).await).await;
    assert_eq!(nobody.closed().await, Some(4502));
    script.0.go.notify_one();
    assert_eq!(alice.next().await.map(|(_, payload)| payload), Some(b"ended".to_vec()));
}
