//! The users feed: what changed, to everyone who asked, from any place on.
//!
//! One [`tail`] a node reads the store and publishes to the ring. A subscription pulls from there when its socket
//! accepts bytes, and from the store when it has fallen behind: nothing is queued for anyone, and nobody loses
//! anything.

mod change;
pub mod position;
mod reader;
mod ring;
pub mod subscription;
pub mod tail;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

pub use change::{Change, Scope, changes_of};
pub use reader::Reader;

use crate::clock::Contact;
use crate::sessions::Mailbox;
use crate::store::{Changes, Position, Store, StoreError, Written};
use position::Place;
use ring::Ring;

/// Pages that are read at once for all who are behind. They take turns in the order in which they asked.
const PAGES_AT_ONCE: usize = 2;

/// The feed as this node knows it.
pub struct Feed {
    store: Arc<dyn Store>,
    ring: Ring,
    listeners: DashMap<u64, Arc<Listener>>,
    /// Counts what was published, for calls that wait.
    news: watch::Sender<u64>,
    /// Whether somebody who does not read the ring waits for what is final to move.
    behind: AtomicBool,
    pages: Semaphore,
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
    /// The feed of a store from `position` on. `stopping` ends what waits for changes.
    pub fn new(store: Arc<dyn Store>, position: Position, stopping: CancellationToken) -> Self {
        Self {
            store,
            ring: Ring::new(Place::complete(position)),
            listeners: DashMap::new(),
            news: watch::Sender::new(0),
            behind: AtomicBool::new(false),
            pages: Semaphore::new(PAGES_AT_ONCE),
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

    /// For how long there has been something written that is not told yet; up to the tail's heartbeat where there is nothing.
    pub fn lag(&self) -> Duration {
        self.end.silence()
    }

    /// Whether the store was heard of lately, so that what is known of users is not stale.
    pub fn has_contact(&self) -> bool {
        self.contact.is_kept()
    }

    /// A page behind a place, when it is its turn.
    pub async fn page(self: &Arc<Self>, place: &Place, limit: usize) -> Result<Changes, StoreError> {
        let (feed, place) = (self.clone(), place.clone());
        // A task of its own: a socket whose client does not read is not polled, and would keep its turn from all others.
        let page = AbortOnDropHandle::new(tokio::spawn(async move {
            let _turn = feed.pages.acquire().await.expect("the semaphore is never closed");
            feed.changes_after(&place, limit).await
        }));
        page.await.unwrap_or_else(|error| Err(StoreError::Unavailable(error.to_string())))
    }

    async fn changes_after(&self, place: &Place, limit: usize) -> Result<Changes, StoreError> {
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

    /// A page, as soon as the store gives it.
    async fn page_at_last(self: &Arc<Self>, place: &Place, limit: usize) -> Result<Changes, StoreError> {
        let mut failures = 0;
        loop {
            match self.page(place, limit).await {
                Err(StoreError::Unavailable(_) | StoreError::Timeout) => {
                    tokio::time::sleep(tail::pause(failures)).await;
                    failures += 1;
                }
                done => return done,
            }
        }
    }

    /// Notices what is published from now on, for [`Feed::wait`].
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// Waits until something is published that `news` has not noticed, `within` has passed or the gateway stops.
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
            self.wake();
        }
    }

    /// Wakes everyone who waits, after the ring has changed: who looks later sees the change.
    fn wake(&self) {
        for listener in &self.listeners {
            if listener.waiting.swap(false, Ordering::AcqRel) {
                listener.mailbox.wake();
            }
        }
        self.news.send_modify(|count| *count += 1);
    }
}
