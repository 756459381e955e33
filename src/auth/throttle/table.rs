//! A bounded memory of when things happened, by key.
//!
//! Holds keyed hashes, no names and no addresses. When it is full, what it has held longest goes first, but not what is
//! held against somebody who goes on: those get another turn.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash, RandomState};

/// Entries passed over in search of one to drop, before the oldest goes whatever it is: bounds one insertion.
const MAX_SPARED: usize = 64;

/// What an entry remembers, for how long.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// Tells the keys of one rule from those of another.
    pub(super) name: &'static str,
    /// How long an event counts, in milliseconds.
    pub(super) window_ms: u64,
    /// An entry with more events than this is dropped only when all are.
    pub(super) spare_above: usize,
}

/// What is remembered of one key.
#[derive(Debug)]
pub(super) struct Entry {
    /// When it happened, oldest first, in milliseconds.
    pub(super) times: Vec<u64>,
    /// Attempts under way, whose outcome is not known yet.
    pub(super) pending: u32,
    rule: &'static Rule,
}

impl Entry {
    /// Events and attempts under way.
    pub(super) fn count(&self) -> usize {
        self.times.len() + self.pending as usize
    }

    /// Forgets what no longer counts.
    fn expire(&mut self, now: u64) {
        let kept = self.times.iter().position(|time| now < time.saturating_add(self.rule.window_ms));
        self.times.drain(..kept.unwrap_or(self.times.len()));
    }

    /// Whether it is to be kept before others: somebody goes on, or is at it now.
    fn is_active(&self) -> bool {
        self.pending > 0 || self.times.len() > self.rule.spare_above
    }
}

/// At most so many entries.
pub(super) struct Table {
    entries: HashMap<u64, Entry>,
    /// Every key once, oldest first.
    order: VecDeque<u64>,
    max: usize,
    hasher: RandomState,
}

impl Table {
    /// An empty table for `max` keys, which takes its memory as it fills: about 110 bytes a key with few events.
    pub(super) fn new(max: usize) -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new(), max, hasher: RandomState::new() }
    }

    /// The key of a subject under a rule. Two subjects of a full table share one with a chance of one in ten million.
    pub(super) fn key(&self, rule: &Rule, subject: impl Hash) -> u64 {
        self.hasher.hash_one((rule.name, subject))
    }

    /// What counts at `now`, or `None` when there is nothing.
    pub(super) fn get(&mut self, key: u64, now: u64) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(&key)?;
        entry.expire(now);
        Some(entry)
    }

    /// The entry of a key, made where there is none. May drop the oldest one.
    pub(super) fn entry(&mut self, key: u64, rule: &'static Rule, now: u64) -> &mut Entry {
        if !self.entries.contains_key(&key) {
            if self.entries.len() >= self.max {
                self.drop_one(now);
            }
            self.order.push_back(key);
        }
        let entry = self.entries.entry(key).or_insert(Entry { times: Vec::new(), pending: 0, rule });
        entry.expire(now);
        entry
    }

    /// How many keys are held.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Drops the oldest entry that nobody is at, else the oldest.
    fn drop_one(&mut self, now: u64) {
        for spared in 0.. {
            let Some(oldest) = self.order.pop_front() else { return };
            let entry = self.entries.get_mut(&oldest).expect("whatever is in the order is held");
            entry.expire(now);
            if entry.is_active() && spared < MAX_SPARED {
                self.order.push_back(oldest);
                continue;
            }
            self.entries.remove(&oldest);
            return;
        }
    }
}
