//! The sessions as this node knows them: begun, seen and ended, here or by other gateways.
//!
//! An end made here is applied before its reply leaves; one made by another gateway arrives through [`Logins::follow`].
//! Both mark what every connection of the session shares, and close its sockets. What ends all sessions of a user at once,
//! a greater generation, comes through the directory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::clock::{Clock, Contact};
use crate::feed::tail::pause;
use crate::sessions::{Known, KnownSessions, Peer, Presence, Revocation, Revoked};
use crate::store::{Store, StoreError};
use crate::users::session::{Lifetimes, Origin};
use crate::users::{Session, User};

/// How often it is asked which sessions other gateways have ended, though nothing tells of any: to know that the store is
/// there.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often a change is computed anew when others change the same session meanwhile.
const MAX_ATTEMPTS: usize = 16;

/// How much is done at once that nobody waits for, such as writing that a session was seen. With thousands of sockets this
/// comes together, and must not be in the way of calls; what finds no room is done another time.
const BESIDE_AT_ONCE: usize = 16;

/// How many sessions of one user are ended at once.
const ENDS_AT_ONCE: usize = 16;

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
    /// The most sessions of one user.
    max: usize,
    known: KnownSessions,
    /// Counts applied ends: a read that overlaps one may be older, and is made once more.
    ends: AtomicU64,
    contact: Contact,
    beside: Arc<Semaphore>,
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
        max: usize,
    ) -> Self {
        Self {
            store,
            presence,
            clock,
            node,
            lifetimes,
            max,
            known: KnownSessions::default(),
            ends: AtomicU64::new(0),
            contact: Contact::default(),
            beside: Arc::new(Semaphore::new(BESIDE_AT_ONCE)),
            tasks: TaskTracker::new(),
        }
    }

    /// Keeps a new session; `None` when its user's generation has passed it meanwhile, and nothing is left of it.
    pub async fn begin(self: &Arc<Self>, session: Session) -> Result<Option<Arc<Known>>, StoreError> {
        let logins = self.clone();
        // A task of its own: a caller who leaves does not leave a session behind that nobody looks at again.
        let begun = self.tasks.spawn(async move {
            let ends = logins.ends.load(Ordering::Acquire);
            logins.store.session_create(session.clone()).await?;
            // Whoever made the generation grow has ended the sessions that were there by then.
            let is_good = match logins.store.user_get(&session.user).await {
                Ok(user) => Ok(user.is_some_and(|user| session.is_good(&user, logins.clock.now()))),
                Err(error) => Err(error),
            };
            if !matches!(is_good, Ok(true)) {
                logins.change(session.id, |session| Ok::<_, StoreError>(Some(session.end(0)))).await?;
                return is_good.map(|_| None);
            }
            let known = logins.known.insert(session);
            logins.catch_up(&known, ends).await?;
            logins.make_room(&known);
            Ok(Some(known))
        });
        begun.await.unwrap_or_else(|error| Err(StoreError::OutcomeUnknown(error.to_string())))
    }

    /// Ends sessions of the same user where there are too many, and clears away those that expired long ago. Nobody waits
    /// for it.
    fn make_room(self: &Arc<Self>, begun: &Arc<Known>) {
        let begun = begun.clone();
        self.beside(|logins| async move {
            let surplus = match logins.store.sessions_make_room(&begun.session, logins.max).await {
                Ok(surplus) => surplus,
                Err(error) => return tracing::debug!(%error, "the next login makes room for sessions"),
            };
            for session in surplus {
                let end = |session: &Session| Ok::<_, StoreError>(Some(session.end(0)));
                if let Err(error) = logins.end_now(session.id, None, end).await {
                    tracing::debug!(%error, "the next login makes room for sessions");
                }
            }
        });
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
        self.beside(|logins| {
            known.saw(now);
            let (id, origin) = (known.session.id, origin());
            let sockets = logins.presence.sockets_in(&known.session.user, id);
            async move {
                let next = |session: &Session| Ok(session.seen_by(&logins.node, sockets, origin.clone(), now));
                if let Err::<_, StoreError>(error) = logins.change(id, next).await {
                    tracing::debug!(%error, "it was not written that a session was seen");
                }
            }
        });
    }

    /// Begins what nobody waits for, unless as much of that is under way as may be.
    fn beside<W: Future<Output = ()> + Send + 'static>(self: &Arc<Self>, begin: impl FnOnce(Arc<Self>) -> W) {
        let Ok(turn) = self.beside.clone().try_acquire_owned() else { return };
        let work = begin(self.clone());
        self.tasks.spawn(async move {
            let _turn = turn;
            work.await;
        });
    }

    /// How many sockets a session has: here, and on other gateways as far as these have told.
    pub fn sockets_of(&self, session: &Session) -> usize {
        let here = self.presence.sockets_in(&session.user, session.id);
        here + session.sockets_elsewhere(&self.node, self.clock.now())
    }

    /// Changes a session that has not ended: `next` computes the new state from the current one, or `None` when nothing
    /// would change. Answers with the state it made.
    pub async fn change<E: From<StoreError>>(
        &self,
        id: Uuid,
        next: impl Fn(&Session) -> Result<Option<Session>, E>,
    ) -> Result<Option<Session>, E> {
        let mut conflict = StoreError::NotFound;
        for _ in 0..MAX_ATTEMPTS {
            let current = self.store.session_get_to_replace(id).await?.filter(|session| !session.ended);
            let next = current.as_ref().map(&next).transpose()?.flatten();
            let Some(next) = next else { return Ok(None) };
            match self.store.session_replace(next.clone()).await {
                Ok(()) => return Ok(Some(next)),
                Err(error @ (StoreError::RevConflict { .. } | StoreError::NotFound)) => conflict = error,
                Err(error) => return Err(error.into()),
            }
        }
        Err(conflict.into())
    }

    /// Ends a session, and answers with what it ended: nothing when it had ended before. `may` judges whether it is
    /// still to be done, in the step that writes. `actor` is the connection that asked: its own socket closes only after its
    /// reply.
    pub async fn end<E: From<StoreError> + Send + 'static>(
        self: &Arc<Self>,
        id: Uuid,
        actor: &Arc<Peer>,
        may: impl Fn(&Session) -> Result<(), E> + Send + Sync + 'static,
    ) -> Result<Revoked, E> {
        self.end_now(id, Some(actor), move |session| may(session).map(|()| Some(session.end(0)))).await
    }

    /// Ends the sessions that a greater generation of their user is over with already, but for the one that is `spared`,
    /// and counts those that had not expired. Nothing personal is kept of them.
    pub async fn end_former(
        self: &Arc<Self>,
        user: &User,
        spared: Option<Uuid>,
        actor: &Arc<Peer>,
    ) -> Result<usize, StoreError> {
        let (generation, now) = (user.generation, self.clock.now());
        let mut former = self.store.sessions_of(&user.username).await?;
        former.retain(|session| session.generation < generation && Some(session.id) != spared);
        let count = former.iter().filter(|session| now < session.expires_at).count();
        let ends = former.into_iter().map(|session| self.end_now(session.id, Some(actor), end_before(generation)));
        let ends: Vec<Result<Revoked, StoreError>> = stream::iter(ends).buffer_unordered(ENDS_AT_ONCE).collect().await;
        ends.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(count)
    }

    /// Ends a session that was met although its user's generation is over with it: who should have ended it was cut off.
    /// Nobody waits for it.
    pub fn end_met(self: &Arc<Self>, session: &Session, user: &User) {
        let (id, generation) = (session.id, user.generation);
        if session.ended || session.user != user.username || session.generation >= generation {
            return;
        }
        self.beside(|logins| async move {
            if let Err(error) = logins.end_now(id, None, end_before(generation)).await {
                tracing::debug!(%error, "a session that is over is ended by who meets it next");
            }
        });
    }

    async fn end_now<E: From<StoreError> + Send + 'static>(
        self: &Arc<Self>,
        id: Uuid,
        actor: Option<&Arc<Peer>>,
        next: impl Fn(&Session) -> Result<Option<Session>, E> + Send + Sync + 'static,
    ) -> Result<Revoked, E> {
        let (logins, actor) = (self.clone(), actor.cloned());
        // A task of its own: a caller who leaves does not keep what was written from being applied.
        let end = self.tasks.spawn(async move {
            let Some(ended) = logins.change(id, next).await? else { return Ok(Revoked::default()) };
            audit(&ended, actor.as_deref());
            Ok(Revoked { sessions: 1, ..logins.apply(&ended, actor.map(|actor| actor.id)) })
        });
        end.await.unwrap_or_else(|error| Err(StoreError::OutcomeUnknown(error.to_string()).into()))
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

/// Ends a session of an earlier generation than this one of its user.
fn end_before(generation: u64) -> impl Fn(&Session) -> Result<Option<Session>, StoreError> + Clone {
    move |session| Ok((session.generation < generation).then(|| session.end(generation)))
}

/// One line of the audit trail: who ended whose session, and from where. Nobody did where there were too many.
fn audit(session: &Session, actor: Option<&Peer>) {
    let by = actor.and_then(Peer::identity).map_or_else(String::new, |by| by.account.user().username.to_string());
    let address = actor.map_or_else(String::new, |actor| actor.address.to_string());
    tracing::info!(target: "audit", event = "session_ended", actor = by, user = %session.user, session = %session.id, address);
}
