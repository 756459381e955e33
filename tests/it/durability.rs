//! What every home of the users promises: an acknowledged change stays, whatever ends the process.

pub mod consumer;
mod disk;
mod gone;
pub mod history;
pub mod load;
pub mod people;
mod stop;

use std::path::Path;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rusqlite::{Connection, OpenFlags};

use self::consumer::Numbers;
use self::history::History;
use self::load::{Load, Plan};
use crate::support::{Home, Indices, count};

/// The most acknowledged changes before a kill.
const ACKNOWLEDGED_MAX: usize = 600;
/// What the kill finds under way, in nine rounds of ten at least.
const UNDER_WAY_MIN: usize = 100;
/// Each round adds its number to it.
const SEED: u64 = 0x00D0_0D5E;

#[tokio::test(flavor = "multi_thread")]
async fn r01_r02_no_acknowledged_change_is_lost_and_none_is_half_applied_by_kill_9() {
    kill_gateways(&Home::embedded(), Numbers::OnePerRevision, count(12, 200)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn r01_on_elasticsearch_no_acknowledged_change_is_lost_and_none_is_half_applied_by_kill_9() {
    let home = Home::elastic(Indices::new());
    kill_gateways(&home, Numbers::AtLeastOnePerRevision, count(6, 200)).await;
}

async fn kill_gateways(home: &Home, numbers: Numbers, rounds: usize) {
    let names = people::seed(home).await;
    let settings = [("DOORWARD_LOG", "warn"), ("DOORWARD_TOKEN_SECONDS", "86400")];
    let mut gateway = home.start(&settings).await;
    let token = people::keeper(gateway.address).await;
    let mut consumer = people::consumer(home, numbers).await;
    let (mut users, wrong) = people::catch_up(&mut consumer, home, gateway.address, &token).await;
    assert_eq!(wrong, Vec::<String>::new());

    let mut totals = Totals::default();
    for round in 0..rounds {
        let seed = SEED + round as u64;
        let mut random = StdRng::seed_from_u64(seed);
        let (gateways, admin_token) = (vec![gateway.address], token.clone());
        let plan = Plan { gateways, admin_token, round, seed, users: names.clone(), may_fail: home.is_elastic() };
        let load = Load::start(plan, users).await;
        load.acknowledged(random.random_range(1..=ACKNOWLEDGED_MAX)).await;
        // Every second kill comes with an answer, when a store that answers too early would be caught; the others fall
        // anywhere: this waits for nothing.
        if random.random_bool(0.5) {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..8))).await;
        }
        load.stop_sending();
        let sent = load.under_way();
        gateway.kill().await;
        let history = load.end().await;
        if !home.is_elastic() {
            assert_eq!(check_integrity(&home.data()), "ok", "round {round}, seed {seed}");
        }
        gateway = home.start(&settings).await;
        let (now, in_feed) = people::catch_up(&mut consumer, home, gateway.address, &token).await;
        users = now;
        let mut wrong = history.unexplained(&users);
        wrong.extend(in_feed);
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

/// SQLite's own word on the file as the kill left it.
fn check_integrity(data: &Path) -> String {
    let path = data.join("doorward.db");
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap()
}
