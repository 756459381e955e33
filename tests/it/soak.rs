//! R15: sockets that come and go leave nothing behind.
//!
//! Memory is `RssAnon`, which is the heap with what the allocator keeps of it: no count of bytes in use, so it moves by
//! whole pages and some hundred KiB up and down. So the growth is that of medians over half a minute each, by regression,
//! and the test asks whether it is certainly more than may be: beyond twice the standard error of the slope.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::{Home, PASSWORD, Process, TestClient, long_run, value_of_metric};

/// Sockets at once at the most, each of a user of its own.
const VISITORS: usize = 8;
/// How long visits follow each other without pause, to know how many there can be.
const FULL_LOAD: Duration = Duration::from_secs(5);
/// The share of that which the soak is at.
const SHARE: f64 = 0.3;
/// How long it lasts, and how much of that is no warm-up any more: the allocator's arenas and the bounded caches fill for
/// some eight minutes.
const SOAK: Duration = Duration::from_secs(1200);
const MEASURED: Duration = Duration::from_secs(600);
/// A window whose median counts.
const WINDOW: Duration = Duration::from_secs(30);
/// The most that memory may grow, in bytes an hour.
const GROWTH_MAX: f64 = (1 << 20) as f64;

/// What a gateway holds.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
struct Held {
    descriptors: usize,
    tasks: f64,
    sockets: f64,
    subscriptions: f64,
}

impl Held {
    async fn by(gateway: &Process) -> Self {
        let tasks = value_of_metric(gateway, "doorward_tasks").await;
        let sockets = value_of_metric(gateway, "doorward_sockets").await;
        let subscriptions = value_of_metric(gateway, "doorward_subscriptions").await;
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", gateway.id())).unwrap().count();
        Self { descriptors, tasks, sockets, subscriptions }
    }

    fn is_within(&self, base: &Self) -> bool {
        self.descriptors <= base.descriptors
            && self.tasks <= base.tasks
            && (self.sockets, self.subscriptions) == (base.sockets, base.subscriptions)
    }
}

/// Waits until a gateway holds no more than it did.
async fn returns_to(base: &Held, gateway: &Process) {
    let begun = Instant::now();
    loop {
        let now = Held::by(gateway).await;
        if now.is_within(base) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{now:?}, and at first {base:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// One who comes and goes.
struct Visitor {
    address: SocketAddr,
    access: String,
    refresh: String,
    position: Value,
    visits: usize,
}

impl Visitor {
    async fn new(address: SocketAddr, username: &str) -> Self {
        let mut client = TestClient::connect(address, &[]).await;
        client.register(username).await;
        let login = json!({"login": username, "password": PASSWORD});
        let signed_in = client.call("auth.login", login).await.unwrap();
        let position = client.call("users.changes", json!({})).await.unwrap()["position"].clone();
        let mut visitor = Self { address, access: String::new(), refresh: String::new(), position, visits: 0 };
        visitor.take(&signed_in["tokens"]);
        visitor
    }

    fn take(&mut self, tokens: &Value) {
        let text = |name: &str| tokens[name].as_str().unwrap().to_owned();
        (self.access, self.refresh) = (text("access_token"), text("refresh_token"));
    }

    /// Connects, goes on where it was, changes something, hears of it, and leaves: every other time without a word.
    async fn visit(&mut self) {
        let mut client = TestClient::connect(self.address, &[]).await;
        if self.visits.is_multiple_of(4) {
            let refreshed = client.call("auth.refresh", json!({"refresh_token": self.refresh})).await.unwrap();
            self.take(&refreshed["tokens"]);
        }
        let filter = json!({"username": {"prefix": "visitor"}});
        let resume = json!([{"since": self.position, "filter": filter}]);
        let back = client.call("auth.authenticate", json!({"access_token": self.access, "resume": resume})).await;
        assert_eq!(back.unwrap()["subscriptions"][0]["subscription"], 1);
        let patch = json!({"bio": self.visits.to_string()});
        let changed = client.call("users.update", json!({"username": "me", "patch": patch})).await.unwrap();
        client.call("users.list", json!({"limit": 10, "count": "exact"})).await.unwrap();
        client.call("users.get", json!({"username": "nobody"})).await.unwrap_err();
        let user = &changed["user"];
        loop {
            let told = client.notification("users.changed").await;
            if (&told["user"]["username"], &told["user"]["rev"]) == (&user["username"], &user["rev"]) {
                self.position = told["position"].clone();
                break;
            }
        }
        self.visits += 1;
        if self.visits.is_multiple_of(2) {
            client.send_message(tokio_tungstenite::tungstenite::Message::Close(None)).await;
            client.closed().await;
        }
    }
}

/// Has everybody visit until `end`, each in so much time, and answers with them and the visits of all.
async fn visit(visitors: Vec<Visitor>, each: Duration, end: Instant) -> (Vec<Visitor>, usize) {
    let before: usize = visitors.iter().map(|visitor| visitor.visits).sum();
    let mut visiting = JoinSet::new();
    for mut visitor in visitors {
        visiting.spawn(async move {
            let mut next = Instant::now() + each.mul_f64(rand::random());
            while next < end {
                tokio::time::sleep_until(next.into()).await;
                visitor.visit().await;
                // Late ones are not made up for.
                next = (next + each).max(Instant::now());
            }
            visitor
        });
    }
    let visitors = visiting.join_all().await;
    let visits = visitors.iter().map(|visitor| visitor.visits).sum::<usize>() - before;
    (visitors, visits)
}

/// What a process has on its heap, in bytes.
fn heap(id: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    1024.0 * line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap()
}

/// The slope of a line through these points and its standard error.
fn slope(points: &[(f64, f64)]) -> (f64, f64) {
    let count = points.len() as f64;
    let mean = |of: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(&|point| point.0), mean(&|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let slope = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum::<f64>() / spread;
    let rest: f64 = points.iter().map(|point| (point.1 - y - slope * (point.0 - x)).powi(2)).sum();
    (slope, (rest / (count - 2.0) / spread).sqrt())
}

#[tokio::test(flavor = "multi_thread")]
async fn r15_sockets_that_come_and_go_leave_nothing_behind() {
    let home = Home::of_this_run();
    let gateway = home.start(&[("DOORWARD_LOG", "warn"), ("DOORWARD_TOKEN_SECONDS", "3600")]).await;
    let mut visitors = Vec::new();
    for number in 0..VISITORS {
        visitors.push(Visitor::new(gateway.address, &format!("visitor{number}")).await);
    }
    let full = if long_run() { FULL_LOAD } else { Duration::from_secs(1) };
    let (visitors, most) = visit(visitors, Duration::ZERO, Instant::now() + full).await;
    // Only now, since connections to the store stay open for the next calls.
    returns_to(&Held { sockets: 0.0, subscriptions: 0.0, descriptors: usize::MAX, tasks: f64::MAX }, &gateway).await;
    // What closes after its socket has had time to.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let base = Held::by(&gateway).await;
    let each = full.mul_f64(VISITORS as f64 / most as f64 / SHARE);
    if !long_run() {
        visit(visitors, each, Instant::now() + Duration::from_secs(2)).await;
        return returns_to(&base, &gateway).await;
    }
    let (id, begun) = (gateway.id(), Instant::now());
    let (ended, is_over) = watch::channel(false);
    let samples = tokio::spawn(async move {
        let mut samples = Vec::new();
        while !*is_over.borrow() {
            samples.push((begun.elapsed().as_secs_f64(), heap(id)));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        samples
    });
    let (_, visits) = visit(visitors, each, begun + SOAK).await;
    ended.send_replace(true);
    let samples = samples.await.unwrap();

    let first = (SOAK - MEASURED).as_secs_f64();
    let mut windows: Vec<(f64, f64)> = Vec::new();
    for window in 0..(MEASURED.as_secs() / WINDOW.as_secs()) {
        let from = first + window as f64 * WINDOW.as_secs_f64();
        let to = from + WINDOW.as_secs_f64();
        let mut within: Vec<f64> = samples.iter().filter(|(at, _)| (from..to).contains(at)).map(|it| it.1).collect();
        within.sort_unstable_by(f64::total_cmp);
        windows.push((from, within[within.len() / 2]));
    }
    let (growth, error) = slope(&windows);
    let [growth, error] = [growth, error].map(|a_second| a_second * 3600.0);
    let mib = |bytes: f64| bytes / (1 << 20) as f64;
    eprintln!(
        "{visits} visits in {SOAK:?}, at full load {:.0} a second; {:.1} MiB, growing by {:.2} ± {:.2} MiB an hour",
        most as f64 / full.as_secs_f64(),
        mib(windows[windows.len() - 1].1),
        mib(growth),
        mib(error)
    );
    assert!(growth - 2.0 * error <= GROWTH_MAX, "{:.2} ± {:.2} MiB an hour: {windows:?}", mib(growth), mib(error));
    returns_to(&base, &gateway).await;
}
