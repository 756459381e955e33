//! Searches that show what was written: the index is refreshed only when a search would otherwise miss something, and
//! then once for all who wait.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{MutexGuard, PoisonError};

use tokio::sync::Mutex;
use tokio::time::{Duration, Instant};

use super::changes::Written;
use super::checkpoint::Checkpoint;
use super::client::{Client, Deadline};
use crate::store::{Position, StoreError};

/// Counts the writes that this node knows of, and those that searches show.
#[derive(Debug)]
pub(super) struct Freshness {
    known: AtomicU64,
    /// The history and the greatest numbers that a position was given for.
    reached: std::sync::Mutex<(String, Vec<u64>)>,
    shown: AtomicU64,
    /// Held by who refreshes.
    refreshing: Mutex<()>,
}

impl Freshness {
    /// Of a node that knows nothing yet: what others wrote before it started counts as one write.
    pub(super) fn new() -> Self {
        let (known, shown) = (AtomicU64::new(1), AtomicU64::new(0));
        Self { known, reached: <_>::default(), shown, refreshing: Mutex::new(()) }
    }

    /// Something was written, or may have been, that searches must show from now on.
    pub(super) fn written(&self) {
        self.known.fetch_add(1, Ordering::AcqRel);
    }

    /// A position is given that includes so much, written by whomever: a page that is read behind it must show that.
    pub(super) fn reached(&self, written: &Written) {
        let (history, newest) = (&written.position.history, &written.newest);
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        if reached.0 != *history || reached.1 != *newest {
            *reached = (history.clone(), newest.clone());
            self.written();
        }
    }

    /// Makes searches of the index show everything known by now.
    pub(super) async fn catch_up(&self, client: &Client, index: &str, deadline: Deadline) -> Result<(), StoreError> {
        let wanted = self.known.load(Ordering::Acquire);
        if self.shown.load(Ordering::Acquire) >= wanted {
            return Ok(());
        }
        let turn = tokio::time::timeout(deadline.left(), self.refreshing.lock());
        let _turn = turn.await.map_err(|_| StoreError::Timeout)?;
        if self.shown.load(Ordering::Acquire) >= wanted {
            return Ok(());
        }
        let shows = self.known.load(Ordering::Acquire);
        client.refresh(index, deadline).await?;
        self.shown.fetch_max(shows, Ordering::AcqRel);
        Ok(())
    }
}

/// Up to where searches show what is final. A refresh makes a segment of its own out of what was written since the last
/// one, which costs the server more than ten writes do: one is made for all who wait.
///
/// What was shown stays so: a copy of the shard that starts later is refreshed before it answers, and a refresh that
/// misses a copy is a failure.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// What is final as far as any of those who wait has seen.
    wanted: std::sync::Mutex<Reach>,
    /// Held by who refreshes.
    shown: Mutex<Reach>,
}

impl Shown {
    /// Makes searches show everything that was final when `written` was read.
    pub(super) async fn catch_up(
        &self,
        client: &Client,
        written: &Written,
        deadline: Deadline,
    ) -> Result<(), StoreError> {
        let own = &written.position;
        self.wanted().include(own);
        let turn = tokio::time::timeout(deadline.left(), self.shown.lock());
        let mut shown = turn.await.map_err(|_| StoreError::Timeout)?;
        if shown.includes(own) {
            return Ok(());
        }
        let mut reach = self.wanted().clone();
        client.refresh(&written.index.name, deadline).await?;
        // In another index since, perhaps.
        reach.include(own);
        *shown = reach;
        Ok(())
    }

    fn wanted(&self) -> MutexGuard<'_, Reach> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long searches of an index that anybody may ask for go without another refresh.
const PACE: Duration = Duration::from_millis(100);

/// Searches that anybody may ask for, as often as they like, and that must show every write that has returned, whoever made
/// it. The index is refreshed only where something was written since it was last, once for all who wait, and at a pace.
#[derive(Debug, Default)]
pub(super) struct Paced {
    /// Counts those who have asked.
    asked: AtomicU64,
    /// Held by who refreshes.
    shown: Mutex<Refreshed>,
}

/// What the last refresh has shown.
#[derive(Debug, Default)]
struct Refreshed {
    /// Those who had asked before it began.
    asked: u64,
    /// What was final then.
    reach: Reach,
    at: Option<Instant>,
}

impl Paced {
    /// Makes searches show every write that had returned before `written` was read.
    pub(super) async fn catch_up(
        &self,
        client: &Client,
        written: &Checkpoint,
        deadline: Deadline,
    ) -> Result<(), StoreError> {
        let of = |numbers: &[u64]| {
            let numbers = numbers.to_vec();
            Position { history: written.history.clone(), numbers, former: None }
        };
        let asked = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        let turn = tokio::time::timeout(deadline.left(), self.shown.lock());
        let mut shown = turn.await.map_err(|_| StoreError::Timeout)?;
        // A write that is not final may have returned: by the numbers alone nothing is known of it.
        if shown.asked >= asked || shown.reach.includes(&of(&written.newest)) {
            return Ok(());
        }
        if let Some(at) = shown.at {
            tokio::time::sleep_until(at + PACE).await;
        }
        let asked = self.asked.load(Ordering::Acquire);
        client.refresh(&written.index, deadline).await?;
        // In another index since, perhaps.
        shown.reach.include(&of(&written.written));
        (shown.asked, shown.at) = (asked, Some(Instant::now()));
        Ok(())
    }
}

/// The furthest that the users were seen to be final. What is final is on every copy that can become the primary: a node
/// that knows less is cut off from the others, and serves what was.
#[derive(Debug, Default)]
pub(super) struct Furthest(std::sync::Mutex<Reach>);

impl Furthest {
    /// Whether what a node says includes all that was final by then; takes note of what it says is.
    pub(super) fn is_reached_by(&self, written: &Written) -> bool {
        let mut furthest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = Position { numbers: written.newest.clone(), ..written.position.clone() };
        let is_reached = furthest
            .0
            .as_ref()
            .is_none_or(|furthest| furthest.history != newest.history || newest.covers(&furthest.numbers));
        if is_reached {
            furthest.include(&written.position);
        }
        is_reached
    }
}

/// How far the shards of one index have come; `None` before anybody has asked.
#[derive(Debug, Clone, Default)]
struct Reach(Option<Position>);

impl Reach {
    fn includes(&self, position: &Position) -> bool {
        self.0.as_ref().is_some_and(|reach| reach.history == position.history && reach.covers(&position.numbers))
    }

    /// Extends it to a position; begins anew there when that is of another index.
    fn include(&mut self, position: &Position) {
        match &mut self.0 {
            Some(reach) if reach.history == position.history => {
                for (reach, to) in reach.numbers.iter_mut().zip(&position.numbers) {
                    *reach = (*to).max(*reach);
                }
            }
            reach => *reach = Some(position.clone()),
        }
    }
}
