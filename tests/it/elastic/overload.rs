//! R6: however slow the store is and however much is asked, no answer comes later than its deadline.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::elastic::elastic_address;
use crate::support::proxy::{Fault, FaultProxy, Rule, When};
use crate::support::{
    Indices, PASSWORD, RawClient, TestClient, TestGateway, bound, count, keep_users_in, long_run, opcode,
};

/// Beyond the deadline.
const GRACE: Duration = Duration::from_millis(250);

fn new_name() -> String {
    format!("u{}", &uuid::Uuid::new_v4().simple().to_string()[..12])
}

/// Calls that need the store, each in another way. Every name is new to the gateway.
fn call(number: usize) -> Value {
    let name = new_name();
    let (method, params) = match number % 7 {
        0 => ("users.get", json!({"username": name})),
        1 => ("users.list", json!({"count": "exact"})),
        2 => ("users.search", json!({"text": name})),
        3 => ("users.get_many", json!({"usernames": [name, "alice", "bob"]})),
        4 => ("users.update", json!({"username": "me", "patch": {"bio": name}})),
        5 => ("users.changes", json!({"since": "start"})),
        _ => ("auth.sessions", json!({})),
    };
    json!({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
}

/// What became of the answers.
#[derive(Default)]
struct Seen {
    answers: usize,
    failures: usize,
    slowest: Duration,
}

impl Seen {
    fn add(&mut self, reply: &Value, took: Duration) {
        let replies = reply.as_array().map_or(std::slice::from_ref(reply), Vec::as_slice);
        for error in replies.iter().filter_map(|reply| reply.get("error")) {
            let code = error["code"].as_i64().unwrap();
            assert!([1005, 1201, 1202, 1203, 1303, 1501, 1502, 1503].contains(&code), "{error}");
            self.failures += 1;
        }
        self.answers += replies.len();
        self.slowest = self.slowest.max(took);
    }
}

/// Asks one after the other on a socket: batches of fifty, single calls. Answers with the socket, for more.
async fn on_socket(mut client: TestClient, rounds: usize, seen: Arc<Mutex<Seen>>) -> TestClient {
    for round in 0..rounds {
        let message = match round % 2 {
            0 => (0..50).map(call).collect::<Value>(),
            _ => call(round),
        };
        let begun = Instant::now();
        let reply = client.exchange(message.to_string()).await;
        seen.lock().unwrap().add(&serde_json::from_str(&reply).unwrap(), begun.elapsed());
    }
    client
}

/// The same over HTTP, by a token that this gateway may have to ask the store about, or by logins.
async fn over_http(gateway: Arc<TestGateway>, token: String, rounds: usize, seen: Arc<Mutex<Seen>>) {
    for round in 0..rounds {
        let login = json!({"jsonrpc": "2.0", "id": 1, "method": "auth.login", "params":
            {"login": new_name(), "password": PASSWORD}});
        let message = if round % 2 == 0 { call(round) } else { login };
        let begun = Instant::now();
        let (_, reply) = gateway.post(Some(&token), message.to_string()).await;
        seen.lock().unwrap().add(&serde_json::from_str(&reply).unwrap(), begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r06_no_answer_is_later_than_its_deadline_under_overload_with_a_slow_store() {
    let deadline = Duration::from_secs(if long_run() { 5 } else { 3 });
    let (indices, proxy) = (Indices::new(), FaultProxy::start(elastic_address()).await);
    let through_proxy = indices.config_at(&proxy.url());
    let gateway = TestGateway::with(|config| {
        keep_users_in(through_proxy, config);
        config.call_timeout = deadline;
        config.limits.sockets_per_user = 1000;
        let throttle = &mut config.throttle;
        (throttle.failures_per_address, config.hash_queue) = (1_000_000, 32);
    })
    .await;
    let gateway = Arc::new(gateway);
    let mut sockets = Vec::new();
    for number in 0..count(10, 40) {
        sockets.push(gateway.logged_in(&format!("user{number}")).await);
    }
    let tokens: Vec<String> = sockets.iter().map(|socket| socket.token.clone()).collect();

    // Slower than calls have time for, though each request has; then one that says nothing.
    let slow = |chance, fault| -> Arc<Rule> { proxy.rule(|_, _| true, When::Chance(chance), fault) };
    let _delays = [
        slow(0.7, Fault::DelayRequest(Duration::from_millis(1900))),
        slow(0.3, Fault::DelayAnswer(Duration::from_millis(1500))),
    ];
    for silent in [false, true] {
        if silent {
            slow(1.0, Fault::Hold);
        }
        let (seen, rounds) = (Arc::new(Mutex::new(Seen::default())), count(2, 6));
        let (mut asking, mut over) = (JoinSet::new(), JoinSet::new());
        for token in &tokens {
            over.spawn(over_http(gateway.clone(), token.clone(), rounds, seen.clone()));
        }
        for socket in std::mem::take(&mut sockets) {
            asking.spawn(on_socket(socket, rounds, seen.clone()));
        }
        while let Some(done) = over.join_next().await {
            done.unwrap();
        }
        while let Some(done) = asking.join_next().await {
            sockets.push(done.unwrap());
        }
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        eprintln!(
            "{}: {} answers, {} of them failures, the latest {:?} after its call (deadline {deadline:?})",
            if silent { "a silent store" } else { "a slow store" },
            seen.answers,
            seen.failures,
            seen.slowest
        );
        assert!(seen.slowest <= deadline + bound(GRACE), "{:?}", seen.slowest);
        assert!(seen.failures > 0, "the store was to be too slow");
    }
}

#[tokio::test]
async fn r06_work_for_a_gone_caller_is_dropped() {
    let gateway = TestGateway::with(|config| {
        (config.bcrypt_cost, config.hash_threads, config.hash_queue) = (11, 1, 100);
        (config.throttle.failures, config.throttle.failures_in_a_row) = (1_000_000, 1_000_000);
    })
    .await;
    let login = |id| {
        let params = json!({"login": "nobody", "password": "a wrong one for nobody"});
        json!({"jsonrpc": "2.0", "id": id, "method": "auth.login", "params": params})
    };
    // An orderly close would have its calls answered first.
    let mut leaver = RawClient::upgraded(gateway.address, None).await;
    let batch = (0..30).map(login).collect::<Value>().to_string();
    leaver.frame(true, opcode::TEXT, batch.as_bytes()).await;
    // The ping is answered when the batch has been begun.
    leaver.frame(true, opcode::TEXT, br#"{"jsonrpc":"2.0","id":1,"method":"system.ping"}"#).await;
    leaver.next().await.expect("the ping is answered");
    let hasher = &gateway.server().app().rpc.context.hasher;
    assert!(hasher.waiting() > 20, "{} wait", hasher.waiting());
    leaver.reset();
    let begun = Instant::now();
    gateway.logged_in("alice").await;
    let took = begun.elapsed();
    // What the same costs now, with nobody before it, whatever else the machine does.
    let begun = Instant::now();
    gateway.logged_in("bob").await;
    let alone = begun.elapsed();
    assert!(took < 10 * alone, "waited {took:?} behind more than 20 who had gone; alone it takes {alone:?}");
}
