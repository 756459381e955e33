//! The users feed: what changed, to everyone who asked, from any place on.
//!
//! One [`tail`] a node reads the store and publishes to the ring. A subscription pulls from there when its socket
//! accepts bytes, and from the store when it has fallen behind: nothing is queued for anyone, and nobody loses
//! anything.

mod change;
mod pages;
pub mod position;
mod reader;
mod ring;
pub mod subscription;
pub mod tail;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use metrics::counter;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use change::{Change, Scope};
pub use pages::Page;
pub use reader::Reader;

use crate::clock::Contact;
use crate::metrics::FEED_PAGES;
use crate::sessions::Mailbox;
use crate::store::{Changes, Position, Store, StoreError, Written};
use pages::Pages;
use position::Place;
use ring::Ring;

/// How long a place that is ahead of the tail is waited for: as long as a change may take to be told.
const REACHED_WITHIN: Duration = Duration::from_secs(1);

/// The feed as this node knows it.
pub struct Feed {
    store: Arc<dyn Store>,
    ring: Ring,
    listeners: DashMap<u64, Arc<Listener>>,
    /// Counts what was published, and what has become final, for calls that wait.
    news: watch::Sender<u64>,
    /// Whether somebody who does not read the ring waits for what is final to move.
    behind: AtomicBool,
    pages: Pages,
    /// Told when this node has written what the tail must read before it can be told of.
    written: Notify,
    /// With the store.
    contact: Contact,
    /// With its end: everything that was written had been told.
    end: Contact,
    stopping: CancellationToken,
}

/// A socket with subscriptions.
pub struct Listener {
    mailbox: Mailbox,
    /// Whether it has looked and wants to be woken: a stalled one is left alone.
    waiting: AtomicBool,
}

impl Feed {
    /// The feed of a store that stands at `position`. `stopping` ends what waits for changes.
    ///
    /// It begins as many writes earlier as it keeps in memory: whoever comes back after a restart finds there what they
    /// missed, and does not ask the store for it one by one.
    pub fn new(store: Arc<dyn Store>, position: Position, stopping: CancellationToken) -> Self {
        let shards = position.numbers.len().max(1);
        let position = position.earlier((ring::LENGTH / shards) as u64);
        Self {
            store,
            ring: Ring::new(Place::complete(position)),
            listeners: DashMap::new(),
            news: watch::Sender::new(0),
            behind: AtomicBool::new(false),
            pages: Pages::new(),
            written: Notify::new(),
            contact: Contact::default(),
            end: Contact::default(),
            stopping,
        }
    }

    /// Where the feed stands now: every write that returned is included.
    pub async fn now(&self) -> Result<Place, StoreError> {
        self.store.position().await.map(Place::complete)
    }

    /// Where everything is still to come.
    pub async fn start(&self) -> Result<Place, StoreError> {
        self.store.start().await.map(Place::complete)
    }

    /// Tells of what this node has written: at once where that is known, and else as soon as the tail has read it.
    pub fn wrote(&self, written: Written) {
        match written.record {
            // The tail finds it in its own time.
            Some(record) => {
                if self.ring.publish_own(record) {
                    self.wake();
                }
            }
            None => self.written.notify_one(),
        }
    }

    /// How long the store has not been heard of.
    pub fn silence(&self) -> Duration {
        self.contact.silence()
    }

    /// For how long there may have been something written that is not told yet: everything older is in the ring or has left it.
    pub fn lag(&self) -> Duration {
        self.end.silence()
    }

    /// Whether the store was heard of lately, so that what is known of users is not stale.
    pub fn has_contact(&self) -> bool {
        self.contact.is_kept()
    }

    /// The store's changes behind a place. `reader` is who is counted as having asked.
    async fn changes_after(&self, place: &Place, limit: usize, reader: &'static str) -> Result<Changes, StoreError> {
        counter!(FEED_PAGES, "reader" => reader).increment(1);
        let page = self.store.changes_after(&place.position, limit).await?;
        match &place.floor {
            // The store knows of former places what they say themselves: so it is asked from the floor.
            Some(floor) if page.position.history != place.position.history => {
                let from_floor = Position { numbers: floor.clone(), ..place.position.clone() };
                self.store.changes_after(&from_floor, limit).await
            }
            _ => Ok(page),
        }
    }

    /// Whether all changes behind a place that anyone may have named are in memory, so that it is one of this data set. A
    /// place that the tail has yet to reach, as another gateway may have given it, is waited for a little.
    pub async fn covers(&self, place: &Place) -> bool {
        let (mut news, asked) = (self.news(), Instant::now());
        loop {
            news.mark_unchanged();
            let left = REACHED_WITHIN.saturating_sub(asked.elapsed());
            match self.ring.covers(place) {
                Some(covers) => return covers,
                None if left.is_zero() || self.is_stopping() => return false,
                None => self.wait(&mut news, left).await,
            }
        }
    }

    /// The final changes behind a place of this data set, at most `limit`, where all of them are in memory. `looked` belongs to one caller, who
    /// goes on from page to page, and begins at 0.
    pub fn recent(&self, place: &Place, limit: usize, looked: &mut u64) -> Option<Page> {
        let (changes, after) = self.ring.finals(place, limit, looked)?;
        Some(Page { changes, after, more: false })
    }

    /// Notices what is published or becomes final from now on, for [`Feed::wait`].
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Waits until there are news that `news` has not noticed, `within` has passed or the gateway stops.
    pub async fn wait(&self, news: &mut watch::Receiver<u64>, within: Duration) {
        tokio::select! {
            _ = news.changed() => {}
            () = tokio::time::sleep(within) => {}
            () = self.stopping.cancelled() => {}
        }
    }

    /// Whether the gateway stops.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    fn publish(&self, changes: Vec<Change>, after: Place) {
        self.ring.publish(changes, after);
        self.wake();
    }

    /// Has the next move of what is final wake everyone, though it may bring no change to the ring.
    fn waits_for_moves(&self) {
        self.behind.store(true, Ordering::SeqCst);
    }

    /// What is final has moved without a change in the ring.
    fn moved(&self) {
        if self.behind.swap(false, Ordering::SeqCst) {
            self.wake_listeners();
        }
        self.news.send_modify(|count| *count += 1);
    }

    /// Wakes everyone who waits, after the ring has changed: who looks later sees the change.
    fn wake(&self) {
        self.wake_listeners();
        self.news.send_modify(|count| *count += 1);
    }

    fn wake_listeners(&self) {
        for listener in &self.listeners {
            // `SeqCst`: see `Ring::head`.
            if listener.waiting.swap(false, Ordering::SeqCst) {
                listener.mailbox.wake();
            }
        }
    }
}
