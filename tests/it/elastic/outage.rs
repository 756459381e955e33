//! A store that fails: sockets stay, the codes are right and come at once, and all is well soon after its return.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::elastic::{elastic_address, elastic_url};
use crate::support::proxy::{Fault, FaultProxy, JSON, When};
use crate::support::{Failure, Indices, PASSWORD, PATIENCE, TestClient, TestGateway, bound, count, long_run};

/// For how long a gateway that hears nothing of the store tells from memory what it knew of its users; a little less.
const REMEMBERED: Duration = Duration::from_secs(4);

/// A gateway with a proxy before its store, and a socket signed in.
struct Rig {
    proxy: FaultProxy,
    gateway: TestGateway,
    alice: TestClient,
    indices: Indices,
}

impl Rig {
    async fn start() -> Self {
        let (indices, proxy) = (Indices::new(), FaultProxy::start(elastic_address()).await);
        let gateway = TestGateway::over(indices.config_at(&proxy.url())).await;
        let alice = gateway.logged_in("alice").await;
        Self { proxy, gateway, alice, indices }
    }

    /// A call that needs the store: the name was never seen here.
    async fn login(&self) -> Result<Value, Failure> {
        let name = format!("u{}", &uuid::Uuid::new_v4().simple().to_string()[..12]);
        self.gateway.call(None, "auth.login", json!({"login": name, "password": PASSWORD})).await
    }

    /// What the gateway answers while the store fails: right codes, at once when it has noticed, and from memory what
    /// it has there.
    async fn fails_well(&mut self, named: &str) {
        let failing = Instant::now();
        // Let it notice.
        for answer in join_all((0..10).map(|_| self.login())).await {
            assert_unavailable(&answer, named);
        }
        let me = self.alice.call("users.get", json!({"username": "me"})).await;
        assert!(me.is_ok() || failing.elapsed() >= REMEMBERED, "{named}: {me:?}");
        let (calls, before) = (count(100, 1_000), self.proxy.requests());
        let mut times = Vec::new();
        // So many a second that the gateway probes the store several times meanwhile.
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        for _ in 0..calls {
            pace.tick().await;
            let began = Instant::now();
            let answer = self.login().await;
            times.push(began.elapsed());
            assert_unavailable(&answer, named);
        }
        let asked = self.proxy.requests() - before;
        let p99 = percentile(&mut times, 99);
        eprintln!("{named}: p99 of {calls} refusals {p99:?}, the store was asked {asked} times");
        assert!(p99 <= quick(100), "{named}: p99 {p99:?}");
        assert!(asked <= calls * 12 / 10, "{named}: the store was asked {asked} times for {calls} calls");
        self.alice.call("system.ping", json!({})).await.unwrap();
    }

    /// Waits until the store is of use again, and tells how long that took since its return.
    async fn recovers(&mut self, named: &str) {
        let returned = Instant::now();
        let useful = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(20));
            while self.login().await.unwrap_err().code != 1005 || self.update().await.is_err() {
                ticks.tick().await;
            }
        };
        tokio::time::timeout(bound(PATIENCE), useful).await.expect("it recovers");
        eprintln!("{named}: recovered {:?} after the return", returned.elapsed());
        assert!(returned.elapsed() <= bound(Duration::from_secs(5)), "{named}");
    }

    async fn update(&mut self) -> Result<Value, Failure> {
        self.alice.call("users.update", json!({"username": "me", "patch": {"bio": "changed"}})).await
    }
}

fn assert_unavailable(answer: &Result<Value, Failure>, named: &str) {
    let code = answer.as_ref().unwrap_err().code;
    assert!([1501, 1502].contains(&code), "{named}: {answer:?}");
}

/// So many milliseconds in the long run. Other tests run beside the short one.
fn quick(ms: u64) -> Duration {
    Duration::from_millis(if long_run() { ms } else { 20 * ms })
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

const HTML: &str = "<html>an answer of something in between</html>";
const QUEUE: &str = r#"{"error":{"type":"es_rejected_execution_exception","reason":"queue","root_cause":[]}}"#;
const MEMORY: &str = r#"{"error":{"type":"circuit_breaking_exception","reason":"memory","root_cause":[]}}"#;

#[tokio::test]
async fn r07_whatever_the_store_answers_sockets_stay_and_codes_are_right_and_quick() {
    let faults = [
        ("429, queue full", Fault::Answer(429, JSON, QUEUE)),
        ("429, memory", Fault::Answer(429, JSON, MEMORY)),
        ("429 of a proxy", Fault::Answer(429, "text/html", HTML)),
        ("503 of a proxy", Fault::Answer(503, "text/html", HTML)),
        ("404 in HTML", Fault::Answer(404, "text/html", HTML)),
        ("connections cut", Fault::CutBefore),
        ("no answer", Fault::Hold),
        ("slow", Fault::DelayAnswer(Duration::from_secs(10))),
        ("slow bytes", Fault::Throttle(5)),
    ];
    let judge = async |(named, fault)| {
        let mut rig = Rig::start().await;
        let rule = rig.proxy.rule(|_, _| true, When::Always, fault);
        rig.fails_well(named).await;
        rig.proxy.clear();
        rule.release();
        rig.recovers(named).await;
    };
    if long_run() {
        // One after the other: each is measured.
        for fault in faults {
            judge(fault).await;
        }
    } else {
        join_all(faults.into_iter().map(judge)).await;
    }
}

#[tokio::test]
async fn r07_a_store_that_refuses_connections_is_missed_and_found_again() {
    let mut rig = Rig::start().await;
    rig.proxy.refuse().await;
    rig.fails_well("refused").await;
    rig.proxy.accept().await;
    rig.recovers("refused").await;
}

#[tokio::test]
async fn r07_a_read_only_store_is_read_and_its_writes_are_unavailable() {
    for block in ["read_only_allow_delete", "read_only"] {
        let mut rig = Rig::start().await;
        let settings = format!("{}/{}-users/_settings", elastic_url(), rig.indices.prefix);
        let http = reqwest::Client::new();
        let set = async |on: Value| {
            let body = json!({"index": {"blocks": {block: on}}});
            http.put(&settings).json(&body).send().await.unwrap().error_for_status().unwrap();
        };
        set(json!(true)).await;
        for _ in 0..10 {
            let began = Instant::now();
            assert_unavailable(&rig.update().await, block);
            assert!(began.elapsed() <= bound(Duration::from_secs(1)), "{block}: nothing is to be waited for");
            // What can be read is read: nobody has this name.
            assert_eq!(rig.login().await.unwrap_err().code, 1005, "{block}");
        }
        set(Value::Null).await;
        rig.recovers(block).await;
    }
}

#[tokio::test]
async fn r09_slow_answers_of_the_store_do_not_touch_calls_that_need_none() {
    let mut rig = Rig::start().await;
    rig.proxy.rule(|_, _| true, When::Chance(0.1), Fault::DelayAnswer(Duration::from_secs(3)));
    let (gateway, alice) = (&rig.gateway, &mut rig.alice);
    let token = alice.token.clone();
    let load = join_all((0..16).map(async |_| {
        loop {
            let params = json!({"limit": 10});
            // It may fail: the store is slow.
            let _ = gateway.call(Some(&token), "users.list", params).await;
        }
    }));
    let measure = async {
        let mut times = Vec::new();
        for _ in 0..count(1_000, 10_000) {
            let began = Instant::now();
            alice.call("users.get", json!({"username": "me"})).await.unwrap();
            times.push(began.elapsed());
        }
        percentile(&mut times, 99)
    };
    let p99 = tokio::select! {
        p99 = measure => p99,
        _ = load => unreachable!("it goes on for ever"),
    };
    eprintln!("p99 of users.get me while one answer of the store in ten takes 3 s: {p99:?}");
    assert!(p99 <= quick(50), "{p99:?}");
}
