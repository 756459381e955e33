//! Sessions as this node knows them: one object each, shared by every connection that speaks in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use uuid::Uuid;

use super::registry::{Entry, Registry};
use crate::clock::Time;
use crate::users::Session;
use crate::users::session::SEEN_EVERY;

/// How many bytes of sessions that nobody speaks in are kept in memory: some 20,000 usual ones.
const RECENT_BYTES: u64 = 12 << 20;

/// A session that this node knows.
pub type Known = Entry<Uuid, KnownState>;

/// What is in a [`Known`].
#[derive(Debug)]
pub struct KnownState {
    /// As it was when this node first met it; ends and refreshes do not show here.
    pub session: Session,
    ended: AtomicBool,
    /// When it was last seen, as far as it was written, in milliseconds since 1970.
    seen_at: AtomicI64,
}

impl KnownState {
    /// Marks it as ended, for everyone who speaks in it.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Whether it has ended, as far as this node knows.
    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Whether it is to be written that it was seen: once in [`SEEN_EVERY`].
    pub fn is_due(&self, now: Time) -> bool {
        now.apart_from(Time::from_ms(self.seen_at.load(Ordering::Relaxed))) >= SEEN_EVERY
    }

    /// It is being written that it was seen.
    pub fn saw(&self, now: Time) {
        self.seen_at.store(now.ms(), Ordering::Relaxed);
    }
}

/// The sessions that this node knows: all that a connection speaks in, and the last that were met.
#[derive(Debug)]
pub struct KnownSessions(Registry<Uuid, KnownState>);

impl Default for KnownSessions {
    fn default() -> Self {
        Self(Registry::new(RECENT_BYTES))
    }
}

impl KnownSessions {
    /// The session of an id, if it is known.
    pub fn get(&self, id: Uuid) -> Option<Arc<Known>> {
        self.0.get(&id)
    }

    /// Ends all for those who speak in them, and knows none any more.
    pub fn forget(&self) {
        self.0.forget().iter().for_each(|known| known.end());
    }

    /// Takes note of a session, unless it is known by now.
    pub fn insert(&self, session: Session) -> Arc<Known> {
        let known = self.0.get_or_insert(session.id, || KnownState {
            ended: AtomicBool::new(session.ended),
            seen_at: AtomicI64::new(session.last_seen_at.ms()),
            session,
        });
        self.0.keep(&known, size_of::<Known>() + known.session.bytes());
        known
    }
}
