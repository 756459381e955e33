//! How often passwords may be tried and accounts made: against guessing, from one address or from many.
//!
//! An attempt is counted when it begins, so that a batch, many sockets and many requests at once draw on one budget; its
//! outcome decides what stays. Names are counted as they were typed, before anybody looks whether they exist: an unknown
//! name is throttled exactly as a known one. Each gateway counts for itself, in memory. `governor` keeps rates; these are
//! counts with a memory of outcomes, which it does not have.

mod table;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use table::{Entry, Rule, Table};

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Failures of one name from one address.
static PAIR: Rule = Rule { name: "name and address", window_ms: 15 * MINUTE_MS, spare_above: 1 };
/// Failures in a row of one name, from anywhere. A day without one ends the row.
static NAME: Rule = Rule { name: "name", window_ms: DAY_MS, spare_above: 1 };
/// Failures from one address.
static ADDRESS: Rule = Rule { name: "address", window_ms: DAY_MS, spare_above: 1 };
/// Registrations from one address.
static REGISTRATION: Rule = Rule { name: "registration", window_ms: HOUR_MS, spare_above: 1 };
/// The last time a name was signed in from an address.
static KNOWN: Rule = Rule { name: "known address", window_ms: 90 * DAY_MS, spare_above: 0 };

/// What an attempt is told that is refused while others are under way that may yet succeed.
const UNDER_WAY_MS: u64 = 1_000;

/// How much is too much. Every number is at least 1.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Failed logins of one name from one address in 15 minutes.
    pub failures: usize,
    /// Failed logins of one name in a row, from anywhere, before the next one has to wait.
    pub failures_in_a_row: usize,
    /// The first wait; doubled by each further failure.
    pub delay: Duration,
    /// The longest wait.
    pub delay_max: Duration,
    /// Failed logins from one address in a day.
    pub failures_per_address: usize,
    /// Registrations from one address in an hour.
    pub registrations_per_address: usize,
    /// Names, addresses and pairs of them that are remembered.
    pub keys: usize,
}

impl Limits {
    /// The wait after `failures` in a row, in milliseconds.
    fn delay_ms(&self, failures: usize) -> u64 {
        let Some(doublings) = failures.checked_sub(self.failures_in_a_row) else { return 0 };
        let factor = 1u32.checked_shl(u32::try_from(doublings).unwrap_or(u32::MAX)).unwrap_or(u32::MAX);
        ms(self.delay.saturating_mul(factor).min(self.delay_max))
    }
}

/// A refusal to try at all.
#[derive(Debug, PartialEq, Eq)]
pub struct TooMany {
    /// When the next attempt is let through.
    pub retry_after: Duration,
}

impl TooMany {
    fn ms(ms: u64) -> Self {
        Self { retry_after: Duration::from_millis(ms.max(1)) }
    }
}

/// Counts attempts.
pub struct Throttle {
    limits: Limits,
    clock: Clock,
    table: Mutex<Table>,
}

/// A login under way. Dropped without an outcome, it was abandoned by its client: the password was not judged, but once a hash
/// was asked for it has cost as much as a failure, and counts as one of its address.
#[must_use = "an attempt has an outcome"]
pub struct Attempt<'a> {
    throttle: &'a Throttle,
    /// Where a failure counts.
    counted: Vec<(&'static Rule, u64)>,
    /// Whether a hash was asked for whose outcome nobody has told.
    costs: bool,
}

impl Throttle {
    /// Nothing has happened yet.
    pub fn new(limits: Limits, clock: Clock) -> Self {
        let table = Mutex::new(Table::new(limits.keys));
        Self { limits, clock, table }
    }

    /// Begins an attempt to log in under a name, folded as logins compare it.
    pub fn login(&self, name: &str, address: IpAddr) -> Result<Attempt<'_>, TooMany> {
        let (address, now) = (network(address), self.clock.elapsed_ms());
        let mut table = self.table();
        let pair = table.key(&PAIR, (name, address));
        let own = table.key(&ADDRESS, address);
        let mut counted = vec![(&PAIR, pair), (&ADDRESS, own)];
        let known = table.key(&KNOWN, (name, address));
        let is_known = table.get(known, now).is_some_and(|entry| !entry.times.is_empty());
        // Who has signed in from here before neither feels the row of others' failures nor adds to it.
        if !is_known {
            let row = table.key(&NAME, name);
            if let Some(entry) = table.get(row, now) {
                let free_at = entry.times.last().map_or(0, |last| last + self.limits.delay_ms(entry.times.len()));
                if now < free_at {
                    return Err(TooMany::ms(free_at - now));
                }
                // Those under way may all fail: they are let through as far as the row may go without a wait.
                if entry.pending > 0 && entry.count() >= self.limits.failures_in_a_row {
                    return Err(TooMany::ms(UNDER_WAY_MS));
                }
            }
            counted.push((&NAME, row));
        }
        for (rule, key, max) in [(&PAIR, pair, self.limits.failures), (&ADDRESS, own, self.limits.failures_per_address)]
        {
            if let Some(entry) = table.get(key, now) {
                check(entry, rule, max, now)?;
            }
        }
        for (rule, key) in &counted {
            table.entry(*key, rule, now).pending += 1;
        }
        drop(table);
        Ok(Attempt { throttle: self, counted, costs: false })
    }

    /// Counts a registration from an address, whatever becomes of it: each may tell whether a name is taken.
    pub fn registration(&self, address: IpAddr) -> Result<(), TooMany> {
        let (address, now) = (network(address), self.clock.elapsed_ms());
        let mut table = self.table();
        let key = table.key(&REGISTRATION, address);
        let entry = table.entry(key, &REGISTRATION, now);
        check(entry, &REGISTRATION, self.limits.registrations_per_address, now)?;
        entry.times.push(now);
        Ok(())
    }

    /// Remembers that a name was signed in from an address.
    pub fn signed_in(&self, name: &str, address: IpAddr) {
        let now = self.clock.elapsed_ms();
        let mut table = self.table();
        let key = table.key(&KNOWN, (name, network(address)));
        table.entry(key, &KNOWN, now).times = vec![now];
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt<'_> {
    /// The password was wrong, or the name unknown.
    pub fn failed(mut self) {
        let now = self.throttle.clock.elapsed_ms();
        let mut table = self.throttle.table();
        for (rule, key) in std::mem::take(&mut self.counted) {
            let entry = table.entry(key, rule, now);
            entry.pending = entry.pending.saturating_sub(1);
            entry.times.push(now);
        }
    }

    /// A hash is asked for.
    pub fn costs(&mut self) {
        self.costs = true;
    }

    /// The password was right, whatever becomes of the attempt.
    pub fn was_right(&mut self) {
        self.costs = false;
    }

    /// It came to nothing by no fault of the client: it counts for nothing.
    pub fn void(mut self) {
        self.costs = false;
    }

    /// The password was right: the name starts anew, the address does not.
    pub fn succeeded(mut self) {
        self.costs = false;
        let now = self.throttle.clock.elapsed_ms();
        let mut table = self.throttle.table();
        for (rule, key) in &self.counted {
            if let (true, Some(entry)) = (*rule != &ADDRESS, table.get(*key, now)) {
                entry.times.clear();
            }
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let now = self.throttle.clock.elapsed_ms();
        let mut table = self.throttle.table();
        for (rule, key) in &self.counted {
            if let Some(entry) = table.get(*key, now) {
                entry.pending = entry.pending.saturating_sub(1);
                if self.costs && *rule == &ADDRESS {
                    entry.times.push(now);
                }
            }
        }
    }
}

/// Whether there is room for one more below `max`.
fn check(entry: &Entry, rule: &Rule, max: usize, now: u64) -> Result<(), TooMany> {
    if entry.count() < max {
        return Ok(());
    }
    match entry.times.len().checked_sub(max) {
        Some(oldest) => Err(TooMany::ms(entry.times[oldest] + rule.window_ms - now)),
        None => Err(TooMany::ms(UNDER_WAY_MS)),
    }
}

/// The network that is counted as one address: an IPv6 customer has at least a /64.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
