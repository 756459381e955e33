//! Sessions as this node knows them: one object each, shared by every connection that speaks in it.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Weak};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use quick_cache::sync::Cache;
use uuid::Uuid;

use crate::clock::Time;
use crate::users::Session;
use crate::users::session::SEEN_EVERY;

/// How many sessions without a connection are kept in memory.
const CACHE_SESSIONS: usize = 20_000;

/// A session that this node knows.
#[derive(Debug)]
pub struct Known {
    /// As it was when this node first met it; ends and refreshes do not show here.
    pub session: Session,
    ended: AtomicBool,
    /// When it was last seen, as far as it was written, in milliseconds since 1970.
    seen_at: AtomicI64,
    /// Where it is found by others.
    all: Arc<DashMap<Uuid, Weak<Known>>>,
}

impl Known {
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

impl Drop for Known {
    fn drop(&mut self) {
        self.all.remove_if(&self.session.id, |_, known| known.strong_count() == 0);
    }
}

/// The sessions that this node knows: all that a connection speaks in, and the last that were met.
#[derive(Debug)]
pub struct KnownSessions {
    all: Arc<DashMap<Uuid, Weak<Known>>>,
    recent: Cache<Uuid, Arc<Known>>,
}

impl Default for KnownSessions {
    fn default() -> Self {
        Self { all: Arc::default(), recent: Cache::new(CACHE_SESSIONS) }
    }
}

impl KnownSessions {
    /// The session of an id, if it is known.
    pub fn get(&self, id: Uuid) -> Option<Arc<Known>> {
        // In memory for as long as somebody asks for it.
        self.recent.get(&id).or_else(|| self.all.get(&id).and_then(|known| known.upgrade()))
    }

    /// Ends all for those who speak in them, and knows none any more.
    pub fn forget(&self) {
        self.recent.clear();
        self.all.retain(|_, known| {
            known.upgrade().inspect(|known| known.end());
            false
        });
    }

    /// Takes note of a session, unless it is known by now.
    pub fn insert(&self, session: Session) -> Arc<Known> {
        let id = session.id;
        let known = Arc::new(Known {
            ended: AtomicBool::new(session.ended),
            seen_at: AtomicI64::new(session.last_seen_at.ms()),
            all: self.all.clone(),
            session,
        });
        let known = match self.all.entry(id) {
            Entry::Occupied(mut there) => match there.get().upgrade() {
                Some(there) => there,
                None => {
                    there.insert(Arc::downgrade(&known));
                    known
                }
            },
            Entry::Vacant(vacant) => {
                vacant.insert(Arc::downgrade(&known));
                known
            }
        };
        self.recent.insert(id, known.clone());
        known
    }
}
