//! The users as this node knows them: a bounded cache over the store, kept coherent by every change.
//!
//! A change made here is applied before its reply leaves; a change made by another process arrives
//! from the feed's tail through [`Directory::follow`]. Both go through [`Directory::apply`], which also closes the sockets that a
//! change of rights or of the password makes stale.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use metrics::{Counter, counter};
use quick_cache::sync::Cache;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::feed::Feed;
use crate::metrics::USER_LOOKUPS;
use crate::sessions::{Account, Identity, Peer, Presence, Revocation, Revoked};
use crate::store::{PasswordChange, PasswordHash, Store, StoreError};
use crate::users::{ChangeKind, Status, User, Username};

/// How many users without open sockets are kept in memory.
const CACHE_USERS: usize = 20_000;
/// How many users may have changes that compete without waiting for each other.
const TURNS: usize = 256;
/// How long the feed waits for a write of this node that it knows the outcome of already.
const WRITING_MAX: Duration = Duration::from_millis(200);
/// How often a change is computed anew when others change the same user meanwhile.
const MAX_ATTEMPTS: usize = 16;

/// The node's view of the users.
pub struct Directory {
    store: Arc<dyn Store>,
    feed: Arc<Feed>,
    presence: Arc<Presence>,
    cache: Cache<String, Arc<Account>>,
    hits: Counter,
    misses: Counter,
    /// Counts applied changes: a read that overlaps one may be older, and is made once more.
    applied: AtomicU64,
    /// Held by a change that has met another of its user: those that compete then take turns. A user has the one that the
    /// hash of the name says, and shares it with few others.
    turns: Vec<tokio::sync::Mutex<()>>,
    /// Revisions that this node is writing, by username and number, with how many try each. Whoever succeeds
    /// applies it, knowing which socket asked; [`Directory::follow`] comes after them.
    writing: DashMap<(String, u64), usize>,
    /// Told when one of them has been written, or not.
    written: Notify,
}

/// Who asks for a change.
#[derive(Debug, Clone)]
pub struct Actor {
    /// The connection; closed after its reply where the change ends its own session.
    pub peer: Arc<Peer>,
    /// The session of its socket that outlives the change; `None` when none does.
    pub stays: Option<Uuid>,
}

impl From<&Arc<Peer>> for Actor {
    fn from(peer: &Arc<Peer>) -> Self {
        Self { peer: peer.clone(), stays: None }
    }
}

/// What a change led to.
#[derive(Debug)]
pub struct Changed {
    /// The state now; the former one when there was nothing to change.
    pub user: Arc<User>,
    /// The sockets and sessions that the change ended on this node.
    pub revoked: Revoked,
}

impl Directory {
    /// A view that knows nobody yet.
    pub fn new(store: Arc<dyn Store>, feed: Arc<Feed>, presence: Arc<Presence>) -> Self {
        Self {
            store,
            feed,
            presence,
            cache: Cache::new(CACHE_USERS),
            hits: counter!(USER_LOOKUPS, "result" => "hit"),
            misses: counter!(USER_LOOKUPS, "result" => "miss"),
            applied: AtomicU64::new(0),
            turns: (0..TURNS).map(|_| <_>::default()).collect(),
            writing: DashMap::new(),
            written: Notify::new(),
        }
    }

    /// The account of a name, or `None` when there is no such user.
    pub async fn account(&self, username: &Username) -> Result<Option<Arc<Account>>, StoreError> {
        let key = username.key();
        let online = self.presence.account(&key);
        if let Some(account) = online.clone().or_else(|| self.cache.get(&key))
            && self.feed.has_contact()
        {
            self.hits.increment(1);
            return Ok(Some(account));
        }
        self.misses.increment(1);
        let applied = self.applied.load(Ordering::Acquire);
        let Some(user) = self.store.user_get(username).await? else { return Ok(None) };
        let new = || Ok::<_, StoreError>(Arc::new(Account::new(user.clone())));
        let account = online.map_or_else(|| self.cache.get_or_insert_with(&key, new), Ok)?;
        account.update(&user);
        self.catch_up(&account, applied).await?;
        Ok(Some(account))
    }

    /// Reads a user once more if changes were applied since so many had been: one of them may have been this user's, before
    /// the account was known, and no later one will repeat it.
    async fn catch_up(&self, account: &Account, applied: u64) -> Result<(), StoreError> {
        if applied != self.applied.load(Ordering::Acquire)
            && let Some(user) = self.store.user_get(&account.user().username).await?
        {
            account.update(&user);
        }
        Ok(())
    }

    /// The account of a name, as it is since its user has had this generation: what a token says may be news.
    pub async fn account_since(
        &self,
        username: &Username,
        generation: u64,
    ) -> Result<Option<Arc<Account>>, StoreError> {
        let account = self.account(username).await?;
        if account.as_ref().is_some_and(|account| account.user().generation < generation)
            && let Some(user) = self.store.user_get(username).await?
        {
            self.apply(&user, None);
        }
        Ok(account)
    }

    /// The user of a name, or `None` when there is no such user.
    pub async fn get(&self, username: &Username) -> Result<Option<Arc<User>>, StoreError> {
        Ok(self.account(username).await?.map(|account| account.user()))
    }

    /// Keeps a new user, at the request of `actor`, and answers with its account.
    pub async fn create(
        self: &Arc<Self>,
        user: User,
        password: PasswordHash,
        actor: &Arc<Peer>,
    ) -> Result<Arc<Account>, StoreError> {
        let (directory, actor) = (self.clone(), actor.clone());
        let created = tokio::spawn(async move {
            let applied = directory.applied.load(Ordering::Acquire);
            let written = directory.store.user_create(user.clone(), password).await?;
            let account = Arc::new(Account::new(Arc::new(user)));
            directory.cache.insert(account.user().username.key(), account.clone());
            if directory.catch_up(&account, applied).await.is_err() {
                // Whoever asks next reads it.
                directory.cache.remove(&account.user().username.key());
            }
            directory.applied.fetch_add(1, Ordering::AcqRel);
            directory.feed.wrote(written);
            audit(&account.user(), actor.address);
            Ok(account)
        });
        created.await.unwrap_or_else(|error| Err(StoreError::OutcomeUnknown(error.to_string())))
    }

    /// Changes a user: `next` computes the new state from the current one, or `None` when nothing would change.
    ///
    /// With `if_rev` the change is refused unless the user is at that revision; without, a change by others
    /// meanwhile makes `next` run again.
    pub async fn change<E: From<StoreError>>(
        self: &Arc<Self>,
        username: &Username,
        if_rev: Option<u64>,
        password: PasswordChange,
        actor: impl Into<Actor>,
        next: impl Fn(&User) -> Result<Option<User>, E>,
    ) -> Result<Changed, E> {
        let actor = actor.into();
        let mut turn = None;
        for _ in 0..MAX_ATTEMPTS {
            // Straight from the store: the state that the compare-and-set will meet.
            let current = self.store.user_get_to_replace(username).await?.ok_or(StoreError::NotFound)?;
            if if_rev.is_some_and(|rev| rev != current.rev) {
                return Err(StoreError::RevConflict { current_rev: current.rev }.into());
            }
            let Some(user) = next(&current)? else {
                return Ok(Changed { user: current, revoked: Revoked::default() });
            };
            // A task of its own: a caller who leaves does not keep what was written from being applied.
            let write = tokio::spawn(self.clone().write(Arc::new(user), password.clone(), actor.clone()));
            match write.await.unwrap_or_else(|error| Err(StoreError::OutcomeUnknown(error.to_string()))) {
                Ok(changed) => return Ok(changed),
                Err(StoreError::RevConflict { .. }) if if_rev.is_none() => {
                    if turn.is_none() {
                        turn = Some(self.turn_of(username).lock().await);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        let current_rev = self.store.user_get(username).await?.map_or(0, |user| user.rev);
        Err(StoreError::RevConflict { current_rev }.into())
    }

    fn turn_of(&self, username: &Username) -> &tokio::sync::Mutex<()> {
        let mut hasher = DefaultHasher::new();
        username.key().hash(&mut hasher);
        &self.turns[hasher.finish() as usize % TURNS]
    }

    /// Writes a state and applies it.
    async fn write(
        self: Arc<Self>,
        user: Arc<User>,
        password: PasswordChange,
        Actor { peer, stays }: Actor,
    ) -> Result<Changed, StoreError> {
        let _writing = Writing::begin(&self.writing, &self.written, (user.username.key(), user.rev));
        let written = self.store.user_replace(User::clone(&user), password).await?;
        if let Some(session) = stays {
            peer.outlive(session, user.generation);
        }
        let revoked = self.apply(&user, Some(peer.id));
        self.feed.wrote(written);
        audit(&user, peer.address);
        Ok(Changed { user, revoked })
    }

    /// Applies a change that the feed tells of, once nobody here is writing it; or if that takes long, since everybody
    /// waits who is to be told of anything.
    pub async fn follow(&self, user: &Arc<User>) {
        let revision = (user.username.key(), user.rev);
        let is_written = async {
            loop {
                let written = self.written.notified();
                if !self.writing.contains_key(&revision) {
                    break;
                }
                written.await;
            }
        };
        let _ = tokio::time::timeout(WRITING_MAX, is_written).await;
        self.apply(user, None);
    }

    /// Forgets all users and closes all sockets: the store is another one, whose users of the same names are others.
    pub fn forget(&self) {
        self.applied.fetch_add(1, Ordering::AcqRel);
        self.cache.clear();
        self.presence.forget(1012, "the users are others now");
    }

    /// Takes over a newer state of a user and closes the sockets that it makes stale.
    ///
    /// `actor` is the connection that made the change: its own socket closes only after its reply.
    pub fn apply(&self, user: &Arc<User>, actor: Option<u64>) -> Revoked {
        self.applied.fetch_add(1, Ordering::AcqRel);
        let key = user.username.key();
        if let Some(account) = self.cache.get(&key) {
            account.update(user);
        }
        let Some(account) = self.presence.account(&key) else { return Revoked::default() };
        account.update(user);
        // By the newest state: a change that arrives late does not close what a later one has allowed again.
        let user = account.user();
        let is_stale = |identity: &Identity| identity.generation < user.generation || user.status != Status::Active;
        self.presence.revoke(&user.username, revocation(&user), actor, is_stale)
    }
}

/// One line of the audit trail: who changed whom, how, and from where. Values are never in it.
pub fn audit(user: &User, address: impl std::fmt::Display) {
    let change = &user.last_change;
    let by = change.actor.as_ref().map_or("", Username::as_str);
    let fields = change.fields.join(",");
    tracing::info!(target: "audit", event = change.kind.as_str(), actor = by, user = %user.username, fields, %address);
}

/// A revision that is being written here, until dropped.
struct Writing<'a> {
    all: &'a DashMap<(String, u64), usize>,
    ended: &'a Notify,
    revision: (String, u64),
}

impl<'a> Writing<'a> {
    fn begin(all: &'a DashMap<(String, u64), usize>, ended: &'a Notify, revision: (String, u64)) -> Self {
        *all.entry(revision.clone()).or_default() += 1;
        Self { all, ended, revision }
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if let Entry::Occupied(mut tries) = self.all.entry(self.revision.clone()) {
            *tries.get_mut() -= 1;
            if *tries.get() == 0 {
                tries.remove();
            }
        }
        self.ended.notify_waiters();
    }
}

/// What the sockets of a user are told when this change ends them.
pub fn revocation(user: &User) -> Revocation {
    match (user.status, user.last_change.kind) {
        (Status::Deactivated, _) => Revocation { reason: "account_deactivated", code: 4504 },
        (Status::Erased, _) => Revocation { reason: "account_erased", code: 4504 },
        (Status::Active, ChangeKind::RoleChanged) => Revocation { reason: "role_changed", code: 4503 },
        (Status::Active, _) => Revocation { reason: "session_ended", code: 4503 },
    }
}
