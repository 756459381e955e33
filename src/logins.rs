//! The sessions as this node knows them: begun, seen and ended, here or by other gateways.
//!
//! An end made here is applied before its reply leaves; one made by another gateway arrives through [`Logins::follow`].
//! Both mark what every connection of the session shares, and close its sockets. What ends all sessions of a user at once,
//! a greater generation, comes through the directory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::clock::{Clock, Contact};
use crate::feed::tail::pause;
use crate::sessions::{Known, KnownSessions, Peer, Presence, Revocation, Revoked};
use crate::store::{Store, StoreError};
use crate::users::Session;
use crate::users::session::{Lifetimes, Origin};

/// How often it is asked which sessions other gateways have ended, though nothing tells of any: to know that the store is
/// there.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often a change is computed anew when others change the same session meanwhile.
const MAX_ATTEMPTS: usize = 16;

/// How many sessions are written at once that they were seen. With thousands of sockets these writes come together, and must
/// not be in the way of calls; for a session that finds no room it is tried at its next use.
const SEEN_AT_ONCE: usize = 16;

/// What the sockets of an ended session are told.
const ENDED: Revocation = Revocation { reason: "session_ended", code: 4503 };

/// The node's view of the sessions.
pub struct Logins {
    store: Arc<dyn Store>,
    presence: Arc<Presence>,
    clock: Clock,
    /// The name of this gateway.
    node: String,
    /// How long sessions last.
    pub lifetimes: Lifetimes,
    known: KnownSessions,
    /// Counts applied ends: a read that overlaps one may be older, and is made once more.
    ends: AtomicU64,
    contact: Contact,
    seeing: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Logins {
    /// A view that knows no session yet.
    pub fn new(
        store: Arc<dyn Store>,
        presence: Arc<Presence>,
        clock: Clock,
        node: String,
        lifetimes: Lifetimes,
    ) -> Self {
        Self {
            store,
            presence,
            clock,
            node,
            lifetimes,
            known: KnownSessions::default(),
            ends: AtomicU64::new(0),
            contact: Contact::default(),
            seeing: Arc::new(Semaphore::new(SEEN_AT_ONCE)),
            tasks: TaskTracker::new(),
        }
    }

    /// Keeps a new session.
    pub async fn begin(&self, session: Session) -> Result<Arc<Known>, StoreError> {
        let ends = self.ends.load(Ordering::Acquire);
        self.store.session_create(session.clone()).await?;
        let known = self.known.insert(session);
        self.catch_up(&known, ends).await?;
        Ok(known)
    }

    /// The session of an id, ended or not; `None` when there is none any more.
    pub async fn get(&self, id: Uuid) -> Result<Option<Arc<Known>>, StoreError> {
        if let Some(known) = self.known.get(id)
            && self.has_contact()
        {
            return Ok(Some(known));
        }
        let ends = self.ends.load(Ordering::Acquire);
        let Some(session) = self.store.session_get(id).await? else { return Ok(None) };
        let has_ended = session.ended;
        let known = self.known.insert(session);
        if has_ended {
            known.end();
        }
        self.catch_up(&known, ends).await?;
        Ok(Some(known))
    }

    /// Reads a session once more if others have ended since so many had: an end may have been applied before it was known
    /// here, which no later one will repeat.
    async fn catch_up(&self, known: &Known, ends: u64) -> Result<(), StoreError> {
        if ends != self.ends.load(Ordering::Acquire)
            && self.store.session_get(known.session.id).await?.is_none_or(|session| session.ended)
        {
            known.end();
        }
        Ok(())
    }

    /// Whether the store was heard of lately, so that what is known of sessions is not stale.
    pub fn has_contact(&self) -> bool {
        self.contact.is_kept()
    }

    /// Takes note that a session is used, and writes so now and then, with the number of its sockets here. Nobody waits for
    /// it.
    pub fn seen(self: &Arc<Self>, known: &Known, origin: impl FnOnce() -> Origin) {
        let now = self.clock.now();
        if !known.is_due(now) {
            return;
        }
        let Ok(turn) = self.seeing.clone().try_acquire_owned() else { return };
        known.saw(now);
        let (logins, id, origin) = (self.clone(), known.session.id, origin());
        let sockets = self.presence.sockets_in(&known.session.user, id);
        self.tasks.spawn(async move {
            let _turn = turn;
            let next = |session: &Session| session.seen_by(&logins.node, sockets, origin.clone(), now);
            if let Err(error) = logins.change(id, next).await {
                tracing::debug!(%error, "it was not written that a session was seen");
            }
        });
    }

    /// How many sockets a session has: here, and on other gateways as far as these have told.
    pub fn sockets_of(&self, session: &Session) -> usize {
        let here = self.presence.sockets_in(&session.user, session.id);
        here + session.sockets_elsewhere(&self.node, self.clock.now())
    }

    /// Changes a session that has not ended: `next` computes the new state from the current one, or `None` when nothing
    /// would change. Answers with the state it made.
    pub async fn change(
        &self,
        id: Uuid,
        next: impl Fn(&Session) -> Option<Session>,
    ) -> Result<Option<Session>, StoreError> {
        let mut conflict = StoreError::NotFound;
        for _ in 0..MAX_ATTEMPTS {
            let current = self.store.session_get(id).await?.filter(|session| !session.ended);
            let Some(next) = current.as_ref().and_then(&next) else { return Ok(None) };
            match self.store.session_replace(next.clone()).await {
                Ok(()) => return Ok(Some(next)),
                Err(error @ (StoreError::RevConflict { .. } | StoreError::NotFound)) => conflict = error,
                Err(error) => return Err(error),
            }
        }
        Err(conflict)
    }

    /// Ends a session, and answers with what it ended: nothing when it had ended before.
    ///
    /// `generation` is the user's where a greater one is the reason, else 0. `actor` is the connection that asked: its own
    /// socket closes only after its reply.
    pub async fn end(self: &Arc<Self>, id: Uuid, generation: u64, actor: &Arc<Peer>) -> Result<Revoked, StoreError> {
        let (logins, actor) = (self.clone(), actor.clone());
        // A task of its own: a caller who leaves does not keep what was written from being applied.
        let end = self.tasks.spawn(async move {
            let ended = logins.change(id, |session| Some(session.end(generation))).await?;
            let Some(ended) = ended else { return Ok(Revoked::default()) };
            audit(&ended, &actor);
            Ok(Revoked { sessions: 1, ..logins.apply(&ended, Some(actor.id)) })
        });
        end.await.unwrap_or_else(|error| Err(StoreError::OutcomeUnknown(error.to_string())))
    }

    /// Marks a session as ended for all who speak in it, and closes its sockets.
    fn apply(&self, ended: &Session, actor: Option<u64>) -> Revoked {
        self.ends.fetch_add(1, Ordering::AcqRel);
        if let Some(known) = self.known.get(ended.id) {
            known.end();
        }
        self.presence.revoke(&ended.user, ENDED, actor, |identity| identity.session.session.id == ended.id)
    }

    /// Applies what other gateways end, for as long as it is polled.
    ///
    /// A change of the user that ended a session is to be applied first, so that its sockets are told of that: of what is
    /// known here, `catch_up` brings the user up to the generation of the ended session.
    pub async fn follow<C: Future<Output = ()>>(self: Arc<Self>, catch_up: impl Fn(Session) -> C) {
        let mut failures = 0;
        loop {
            match self.store.sessions_ended().await {
                Ok(ended) => {
                    failures = 0;
                    for session in ended {
                        if self.known.get(session.id).is_some_and(|known| !known.is_ended()) {
                            catch_up(session.clone()).await;
                        }
                        self.apply(&session, None);
                    }
                    self.contact.heard();
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot read which sessions have ended; trying again");
                    tokio::time::sleep(pause(failures)).await;
                    failures += 1;
                }
            }
            let _ = tokio::time::timeout(HEARTBEAT, self.store.session_ended_elsewhere()).await;
        }
    }

    /// Forgets all sessions: the store is another one.
    pub fn forget(&self) {
        self.ends.fetch_add(1, Ordering::AcqRel);
        self.known.forget();
    }

    /// Waits for what is being written.
    pub async fn close(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// One line of the audit trail: who ended whose session, and from where.
fn audit(session: &Session, actor: &Peer) {
    let by = actor.identity().map_or_else(String::new, |identity| identity.account.user().username.to_string());
    tracing::info!(target: "audit", event = "session_ended", actor = by, user = %session.user, session = %session.id, address = %actor.address);
}
