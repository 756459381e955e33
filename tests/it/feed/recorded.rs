//! R4: recorded histories of many subscribers while gateways are killed: ordered, complete, filter-correct, and good to
//! resume from every position that was handed out.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use doorward::store::elastic::{ElasticConfig, migrate};
use futures_util::future::join_all;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::history::{Held, Watched};
use super::seam::random_change;
use crate::support::{Home, Indices, PATIENCE, Process, TestClient, admin_beside, count, long_run};

const USERS: usize = 24;
const SUBSCRIBERS: usize = 50;
const WRITERS: usize = 16;
/// Before gateways are tried again that all refused.
const REACH_AGAIN: Duration = Duration::from_millis(250);

/// Where the gateways of one data set listen at present, and who may watch everything there.
#[derive(Clone)]
pub struct Nodes {
    addresses: watch::Receiver<Vec<SocketAddr>>,
    pub admin_token: String,
}

impl Nodes {
    /// Where one of them listens, as far as is known.
    pub fn any(&self) -> Option<SocketAddr> {
        let addresses = self.addresses.borrow();
        (!addresses.is_empty()).then(|| addresses[rand::random_range(0..addresses.len())])
    }

    /// A socket on any of them that answers. One that serves may refuse for a moment, with its store too busy to look up
    /// a session.
    pub async fn connect(&mut self) -> TestClient {
        let connected = async {
            loop {
                let addresses = self.addresses.borrow_and_update().clone();
                let first = rand::random_range(0..addresses.len().max(1));
                for at in 0..addresses.len() {
                    let address = addresses[(first + at) % addresses.len()];
                    if let Some(client) = TestClient::reach(address, &self.admin_token).await {
                        return client;
                    }
                }
                let _ = tokio::time::timeout(REACH_AGAIN, self.addresses.changed()).await;
            }
        };
        tokio::time::timeout(3 * PATIENCE, connected).await.expect("a gateway comes back")
    }
}

/// One place in a history: where it was, and what the subscriber held there.
struct Handed {
    position: Value,
    held: Held,
}

/// A subscriber that returns after every cut and goes on from where it was.
struct Recorder {
    nodes: Nodes,
    watched: Watched,
    held: Held,
    position: Value,
    connections: usize,
    told: usize,
    /// Positions that no other subscriber was handed first.
    handed: Vec<Handed>,
}

impl Recorder {
    /// Records until it holds what it should at the end; `finals` has all users once nobody changes them any more.
    async fn run(mut self, claimed: Arc<Mutex<HashSet<String>>>, mut finals: watch::Receiver<Vec<Value>>) -> Self {
        loop {
            let mut client = self.nodes.connect().await;
            self.connections += 1;
            // Anything goes wrong only when the gateway is killed: whatever it was, another connection follows.
            client.begin("users.subscribe", json!({"filter": self.watched.filter, "since": self.position})).await;
            let (mut revs, mut heard) = (BTreeMap::new(), Instant::now());
            loop {
                if self.is_done(&finals.borrow()) {
                    return self;
                }
                let frame = tokio::select! {
                    frame = client.frame() => frame,
                    _ = finals.changed() => continue,
                    // A store that was away may have nothing to tell for long, but not when all is written.
                    () = tokio::time::sleep(PATIENCE / 2) => {
                        if !finals.borrow().is_empty() {
                            let missing = self.missing(&finals.borrow());
                            eprintln!("told nothing for {:?}: {missing}", heard.elapsed());
                            assert!(heard.elapsed() < 2 * PATIENCE, "{missing}");
                        }
                        continue;
                    }
                };
                heard = Instant::now();
                let Some(frame) = frame else { break };
                if let Some(error) = frame.get("error") {
                    assert!(is_passing(&error["data"]), "{frame}");
                    break;
                }
                if frame["method"] == "users.changed" {
                    self.take(&frame["params"], &mut revs, &claimed);
                }
            }
        }
    }

    fn is_done(&self, users: &[Value]) -> bool {
        !users.is_empty() && self.held.users() == self.watched.expected(users)
    }

    /// What it should hold by now and does not, and the other way round.
    fn missing(&self, users: &[Value]) -> String {
        let (held, expected) = (self.held.users(), self.watched.expected(users));
        let not_in = |other: &BTreeMap<&str, u64>, all: &BTreeMap<&str, u64>| -> Vec<_> {
            all.iter()
                .filter(|(name, rev)| other.get(*name) != Some(rev))
                .map(|(name, rev)| format!("{name} {rev}"))
                .collect()
        };
        let (untold, wrong) = (not_in(&held, &expected), not_in(&expected, &held));
        format!("{:?} behind {}: {untold:?} were not told, {wrong:?} are not so", self.watched.filter, self.position)
    }

    fn take(&mut self, params: &Value, revs: &mut BTreeMap<String, u64>, claimed: &Mutex<HashSet<String>>) {
        assert_eq!(self.watched.fault(params), None);
        let name = params["user"]["username"].as_str().unwrap().to_owned();
        let rev = params["user"]["rev"].as_u64().unwrap();
        let last = revs.insert(name, rev);
        // At least once: Elasticsearch may have to write a user anew who has not changed.
        assert!(last.is_none_or(|last| last <= rev), "revision {rev} after {last:?}: {params}");
        self.held.apply(params);
        self.position = params["position"].clone();
        self.told += 1;
        let text = self.position.as_str().unwrap().to_owned();
        if claimed.lock().unwrap().insert(text) {
            self.handed.push(Handed { position: self.position.clone(), held: self.held.clone() });
        }
    }

    /// Resumes from every position that it was first to be handed. Answers how many there were.
    async fn resume_everywhere(mut self, finals: watch::Receiver<Vec<Value>>) -> usize {
        let mut client = self.nodes.connect().await;
        let count = self.handed.len();
        for handed in std::mem::take(&mut self.handed) {
            (self.position, self.held) = (handed.position, handed.held);
            let mut patience = Instant::now() + PATIENCE;
            while !self.is_done(&finals.borrow()) {
                assert!(Instant::now() < patience, "resumed, {}", self.missing(&finals.borrow()));
                let params = json!({"since": self.position, "filter": self.watched.filter, "limit": 7, "wait_ms": 500});
                let page = match client.call("users.changes", params).await {
                    Ok(page) => page,
                    Err(failure) if is_passing(&failure.data) => continue,
                    Err(failure) => panic!("{failure:?}"),
                };
                for change in page["changes"].as_array().unwrap() {
                    assert_eq!(self.watched.fault(change), None);
                    self.held.apply(change);
                }
                self.position = page["position"].clone();
                if page["more"] == true {
                    patience = Instant::now() + PATIENCE;
                }
            }
        }
        count
    }
}

/// Whether the store was only away for a moment, or too busy.
pub fn is_passing(data: &Value) -> bool {
    data["retryable"] == true
}

/// Changes users until told to stop, on whichever gateway answers. Counts acknowledged changes.
async fn write(mut nodes: Nodes, stop: Arc<AtomicBool>, acknowledged: Arc<AtomicUsize>) {
    let mut client = nodes.connect().await;
    while !stop.load(Ordering::Relaxed) {
        let (method, params) = random_change();
        client.begin(method, params).await;
        match client.frame().await {
            Some(frame) if frame.get("result").is_some() => drop(acknowledged.fetch_add(1, Ordering::Relaxed)),
            Some(_) => {}
            None => client = nodes.connect().await,
        }
    }
}

/// Lists everybody again and again: a change of unknown outcome may arrive after its writer has left.
async fn list(mut nodes: Nodes, finals: watch::Sender<Vec<Value>>) {
    let mut admin = nodes.connect().await;
    let mut every = tokio::time::interval(Duration::from_secs(1));
    loop {
        every.tick().await;
        // A list need not show yet what another node wrote a moment ago; having asked the feed, it does.
        let told = admin.call("users.changes", json!({})).await;
        let listed = admin.call("users.list", json!({"limit": 200})).await;
        match (told, listed) {
            (Ok(_), Ok(page)) => {
                let users = page["users"].as_array().unwrap().clone();
                finals.send_if_modified(|known| std::mem::replace(known, users) != *known);
            }
            (told, listed) => {
                let failures = [told.err(), listed.err()];
                assert!(failures.iter().flatten().all(|failure| is_passing(&failure.data)), "{failures:?}");
            }
        }
    }
}

/// Records and checks under load: after `warm_up`, while `disturb` does what it likes with the gateways behind `nodes`. It
/// answers with those that serve at the end. Answers with the acknowledged changes a second meanwhile.
pub async fn record<G>(nodes: Nodes, warm_up: Duration, disturb: impl Future<Output = G>) -> f64 {
    let mut admin = nodes.clone().connect().await;
    for number in 0..USERS {
        admin.create(&format!("user{number}")).await;
    }
    let claimed = Arc::new(Mutex::new(HashSet::new()));
    let (finals, final_users) = watch::channel(Vec::new());
    let filters = Watched::all();
    let mut recorders = JoinSet::new();
    for number in 0..SUBSCRIBERS {
        let recorder = Recorder {
            nodes: nodes.clone(),
            watched: filters[number % filters.len()].clone(),
            held: Held::default(),
            position: json!("start"),
            connections: 0,
            told: 0,
            handed: Vec::new(),
        };
        recorders.spawn(recorder.run(claimed.clone(), final_users.clone()));
    }
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut writers = JoinSet::new();
    for _ in 0..WRITERS {
        writers.spawn(write(nodes.clone(), stop.clone(), acknowledged.clone()));
    }
    tokio::time::sleep(warm_up).await;
    let (started, before) = (Instant::now(), acknowledged.load(Ordering::Relaxed));
    let _gateways = disturb.await;
    let (under_load, seconds) = (acknowledged.load(Ordering::Relaxed) - before, started.elapsed().as_secs_f64());
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    let listing = AbortOnDropHandle::new(tokio::spawn(list(nodes, finals)));
    let (mut told, mut connections, mut checks) = (0, 0, JoinSet::new());
    while let Some(recorder) = recorders.join_next().await {
        let recorder = recorder.unwrap();
        (told, connections) = (told + recorder.told, connections + recorder.connections);
        checks.spawn(recorder.resume_everywhere(final_users.clone()));
    }
    let mut resumed = 0;
    while let Some(checked) = checks.join_next().await {
        resumed += checked.unwrap();
    }
    drop(listing);
    let acknowledged = acknowledged.load(Ordering::Relaxed);
    let rate = under_load as f64 / seconds;
    eprintln!(
        "{SUBSCRIBERS} subscribers over {connections} connections were told {told} changes of {acknowledged} acknowledged \
         ({rate:.0}/s); resumed from each of {resumed} positions; nothing missing, nothing out of order"
    );
    rate
}

/// The load that R4 asks for. What a machine that does other work besides can do is not what the short run is about.
fn assert_loaded(rate: f64) {
    assert!(rate >= 200.0 || !long_run(), "only {rate:.0} changes/s");
}

/// Settings of gateways that are recorded.
const SETTINGS: [(&str, &str); 3] =
    [("DOORWARD_LOG", "warn"), ("DOORWARD_TOKEN_SECONDS", "86400"), ("DOORWARD_MAX_SOCKETS_PER_USER", "1000")];

/// Gateways over one home, with an admin there.
pub struct Gateways {
    home: Home,
    running: Vec<Process>,
    addresses: watch::Sender<Vec<SocketAddr>>,
}

impl Gateways {
    /// So many.
    pub async fn start(home: Home, count: usize) -> (Self, Nodes) {
        let running = join_all((0..count).map(|_| home.start(&SETTINGS))).await;
        let admin_token = admin_beside(&running[0], &home, "keeper").await.token;
        let (sender, addresses) = watch::channel(Vec::new());
        let gateways = Self { home, running, addresses: sender };
        gateways.tell();
        (gateways, Nodes { addresses, admin_token })
    }

    /// Kills any of them so many times, each time after a while under load.
    async fn be_killed(mut self, kills: usize) -> Self {
        for _ in 0..kills {
            under_load_for_a_while().await;
            let victim = rand::random_range(0..self.running.len());
            self.running.swap_remove(victim).kill().await;
            self.tell();
            self.running.push(self.home.start(&SETTINGS).await);
            self.tell();
        }
        under_load_for_a_while().await;
        self
    }

    /// Has each of them replaced so many times, one after the other, as an operator does it.
    pub async fn be_restarted(mut self, times: usize) -> Self {
        for _ in 0..times * self.running.len() {
            under_load_for_a_while().await;
            let mut old = self.running.remove(0);
            old.signal(Signal::TERM);
            self.tell();
            assert_eq!(old.wait().await.code(), Some(0));
            self.running.push(self.home.start(&SETTINGS).await);
            self.tell();
        }
        under_load_for_a_while().await;
        self
    }

    fn tell(&self) {
        self.addresses.send_replace(self.running.iter().map(|gateway| gateway.address).collect());
    }
}

/// Lets the load go on: this waits for nothing.
pub async fn under_load_for_a_while() {
    tokio::time::sleep(Duration::from_millis(rand::random_range(500..2500))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r04_subscribers_miss_nothing_while_the_gateway_is_killed_and_restarted() {
    let (gateways, nodes) = Gateways::start(Home::embedded(), 1).await;
    assert_loaded(record(nodes, Duration::ZERO, gateways.be_killed(count(3, 30))).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn r04_subscribers_of_three_gateways_miss_nothing_while_these_are_killed_and_restarted() {
    let (gateways, nodes) = Gateways::start(Home::elastic(Indices::new()), 3).await;
    // Java compiles what is hot while it serves: the load is that on a server which has run for a while.
    let warm_up = Duration::from_secs(count(0, 120) as u64);
    assert_loaded(record(nodes, warm_up, gateways.be_killed(count(5, 60))).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn r04_r14_subscribers_miss_nothing_while_the_users_move_to_other_shards() {
    let indices = Indices::new();
    let config = indices.config();
    let (gateways, nodes) = Gateways::start(Home::elastic(indices), 2).await;
    let moves = async {
        for shards in [3, 2, 1].into_iter().cycle().take(count(2, 12)) {
            under_load_for_a_while().await;
            migrate(&ElasticConfig { shards, ..config.clone() }, &[], &|_| {}).await.unwrap();
        }
        under_load_for_a_while().await;
        gateways
    };
    // Each move holds the writes for a while: the load is what that leaves.
    record(nodes, Duration::ZERO, moves).await;
}
