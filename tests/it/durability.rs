//! What the embedded store promises: an acknowledged change stays, whatever ends the process.

mod disk;
mod history;
mod load;
mod stop;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use doorward::clock::Clock;
use doorward::data_dir::DataDir;
use doorward::store::sqlite::SqliteStore;
use doorward::store::{PasswordHash, Record, Store};
use doorward::users::rules::{self, Act};
use doorward::users::{Email, Role, Username};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rusqlite::{Connection, OpenFlags};
use serde_json::json;

use self::history::{Consumer, History, State};
use self::load::{Load, Plan};
use crate::support::{PASSWORD, Process, TestClient, count};

/// Users that the load changes.
const USERS: usize = 300;
/// The most acknowledged changes before a kill.
const ACKNOWLEDGED_MAX: usize = 600;
/// What the kill finds under way, in nine rounds of ten at least.
const UNDER_WAY_MIN: usize = 100;
/// Each round adds its number to it.
const SEED: u64 = 0x00D0_0D5E;

#[tokio::test(flavor = "multi_thread")]
async fn r01_r02_no_acknowledged_change_is_lost_and_none_is_half_applied_by_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let names = seed(&data).await;
    make_admin(&data).await;
    let settings = [("DOORWARD_LOG", "warn"), ("DOORWARD_TOKEN_SECONDS", "86400")];
    let mut gateway = Process::start(&data, &settings).await;
    let mut keeper = TestClient::connect(gateway.address, &[]).await;
    keeper.login("keeper").await;
    let token = keeper.token;
    let (mut consumer, mut users) = (Consumer::default(), users_now(&gateway, &token).await);
    assert_eq!(feed(&data, &mut consumer, &users).await, Vec::<String>::new());

    let rounds = count(12, 200);
    let mut totals = Totals::default();
    for round in 0..rounds {
        let seed = SEED + round as u64;
        let mut random = StdRng::seed_from_u64(seed);
        let (address, admin_token) = (gateway.address, token.clone());
        let plan = Plan { address, admin_token, round, seed, users: names.clone() };
        let load = Load::start(plan, users).await;
        load.acknowledged(random.random_range(1..=ACKNOWLEDGED_MAX)).await;
        // Every second kill comes with an answer, when a store that answers too early would be caught; the others fall
        // anywhere: this waits for nothing.
        if random.random_bool(0.5) {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..8))).await;
        }
        let sent = load.stop_sending();
        gateway.kill().await;
        let history = load.end().await;
        assert_eq!(check_integrity(&data), "ok", "round {round}, seed {seed}");
        gateway = Process::start(&data, &settings).await;
        users = users_now(&gateway, &token).await;
        let mut wrong = history.unexplained(&users);
        wrong.extend(feed(&data, &mut consumer, &users).await);
        assert!(wrong.is_empty(), "round {round}, seed {seed}:\n{}", wrong.join("\n"));
        totals.add(&history, sent, history.untold(&users));
    }
    gateway.kill().await;
    eprintln!("{rounds} kills, {totals}");
    assert!(totals.busy * 10 >= rounds * 9, "too little was under way at the kills: {totals}");
}

/// What the rounds had.
#[derive(Default)]
struct Totals {
    acknowledged: usize,
    /// Calls that were never answered, a round.
    open: Vec<usize>,
    /// Calls without an answer read when the signal was sent, over all rounds.
    sent: usize,
    /// Changes that took effect although nobody was told.
    untold: u64,
    /// Rounds in which enough were never answered.
    busy: usize,
}

impl Totals {
    fn add(&mut self, history: &History, sent: usize, untold: u64) {
        self.acknowledged += history.acknowledged();
        self.sent += sent;
        self.untold += untold;
        self.busy += usize::from(history.open() >= UNDER_WAY_MIN);
        self.open.push(history.open());
        self.open.sort_unstable();
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (rounds, open) = (self.open.len().max(1), &self.open);
        write!(
            f,
            "{} changes acknowledged; under way at the signal {} a round; never answered {} (least {}, median {}, most {}), \
             of which {} took effect; {} rounds with {UNDER_WAY_MIN} or more",
            self.acknowledged,
            self.sent / rounds,
            open.iter().sum::<usize>(),
            open[0],
            open[rounds / 2],
            open[rounds - 1],
            self.untold,
            self.busy
        )
    }
}

/// Puts users into a new data folder, without the hashes that they would cost.
async fn seed(data: &Path) -> Vec<String> {
    let data = DataDir::open(data).unwrap();
    let store = SqliteStore::open(&data.database()).unwrap();
    let mut names = Vec::new();
    for number in 0..USERS {
        let name = format!("user{number:03}");
        let email = Email::parse(&format!("{name}@example.com")).unwrap();
        let act = Act { actor: None, at: Clock::default().now(), reason: None };
        let user = rules::create(Username::parse(&name).unwrap(), email, None, Role::User, act);
        store.user_create(user, PasswordHash::new("none".to_owned())).await.unwrap();
        names.push(name);
    }
    store.close().await;
    names
}

/// Makes the admin `keeper`, whom no load changes.
async fn make_admin(data: &Path) {
    let mut command = Process::command(data, &[]);
    command.args(["admin", "create", "keeper", "--email", "keeper@example.com", "--password-stdin"]);
    let ended = Process::run(command, PASSWORD).await;
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
}

/// Every user, as the gateway tells an admin.
async fn users_now(gateway: &Process, token: &str) -> BTreeMap<String, State> {
    let header = format!("Bearer {token}");
    let mut admin = TestClient::connect(gateway.address, &[("authorization", &header)]).await;
    let mut users = BTreeMap::new();
    let mut params = json!({"limit": 200});
    loop {
        let page = admin.call("users.list", params.clone()).await.unwrap();
        for user in page["users"].as_array().unwrap() {
            users.insert(user["username"].as_str().unwrap().to_owned(), State::read(user));
        }
        if page["next_cursor"].is_null() {
            return users;
        }
        params["cursor"] = page["next_cursor"].clone();
    }
}

/// What is wrong with the changes since the consumer last looked, read in small pages beside the running gateway.
async fn feed(data: &Path, consumer: &mut Consumer, users: &BTreeMap<String, State>) -> Vec<String> {
    let store = SqliteStore::open(&DataDir::open(data).unwrap().database()).unwrap();
    let mut records: Vec<Record> = Vec::new();
    loop {
        let seq = records.last().map_or(consumer.seq, |record| record.seq);
        let page = store.changes_after(seq, 50).await.unwrap();
        if page.is_empty() {
            break;
        }
        records.extend(page);
    }
    let last_seq = store.position().await.unwrap().numbers[0];
    store.close().await;
    consumer.take(&records, last_seq, users)
}

/// SQLite's own word on the file as the kill left it.
fn check_integrity(data: &Path) -> String {
    let path = data.join("doorward.db");
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap()
}
