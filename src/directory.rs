//! The users as this node knows them: a bounded cache over the store, kept coherent by every change.
//!
//! A change made here is applied before its reply leaves; a change made by another process arrives
//! through [`follow`]. Both go through [`Directory::apply`], which also closes the sockets that a
//! change of rights or of the password makes stale.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use quick_cache::sync::Cache;
use tokio::sync::Notify;

use crate::sessions::{Account, Peer, Presence, Revocation, Revoked};
use crate::store::{PasswordChange, PasswordHash, Store, StoreError};
use crate::users::{ChangeKind, Status, User, Username};

/// How many users without open sockets are kept in memory.
const CACHE_USERS: usize = 20_000;
/// How often a change is computed anew when others change the same user meanwhile.
const MAX_ATTEMPTS: usize = 16;
/// How long to wait before reading again what could not be read.
const FOLLOW_PAUSE: Duration = Duration::from_millis(200);
/// How many changes of other processes are read at a time.
const FOLLOW_PAGE: usize = 500;

/// The node's view of the users.
pub struct Directory {
    store: Arc<dyn Store>,
    presence: Arc<Presence>,
    cache: Cache<String, Arc<Account>>,
    /// Counts applied changes: a read that overlaps one may be older, and is made once more.
    applied: AtomicU64,
    /// Held by a change that has met another: those that compete then take turns.
    turn: tokio::sync::Mutex<()>,
    /// Revisions that this node is writing, by username and number, with how many try each. Whoever succeeds
    /// applies it, knowing which socket asked; [`follow`] comes after them.
    writing: DashMap<(String, u64), usize>,
    /// Told when one of them has been written, or not.
    written: Notify,
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
    pub fn new(store: Arc<dyn Store>, presence: Arc<Presence>) -> Self {
        Self {
            store,
            presence,
            cache: Cache::new(CACHE_USERS),
            applied: AtomicU64::new(0),
            turn: <_>::default(),
            writing: DashMap::new(),
            written: Notify::new(),
        }
    }

    /// The account of a name, or `None` when there is no such user.
    pub async fn account(&self, username: &Username) -> Result<Option<Arc<Account>>, StoreError> {
        let key = username.key();
        if let Some(account) = self.presence.account(&key).or_else(|| self.cache.get(&key)) {
            return Ok(Some(account));
        }
        let applied = self.applied.load(Ordering::Acquire);
        let Some(user) = self.store.user_get(username).await? else { return Ok(None) };
        let new = || Ok::<_, StoreError>(Arc::new(Account::new(user.clone())));
        let account = self.cache.get_or_insert_with(&key, new)?;
        account.update(&user);
        if applied != self.applied.load(Ordering::Acquire) {
            // A change may have been applied between the read and the insertion, which no later one will repeat.
            if let Some(user) = self.store.user_get(username).await? {
                account.update(&user);
            }
        }
        Ok(Some(account))
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
            directory.store.user_create(user.clone(), password).await?;
            let account = Arc::new(Account::new(Arc::new(user)));
            directory.applied.fetch_add(1, Ordering::AcqRel);
            directory.cache.insert(account.user().username.key(), account.clone());
            audit(&account.user(), &actor);
            Ok(account)
        });
        created.await.unwrap_or_else(|error| Err(StoreError::OutcomeUnknown(error.to_string())))
    }

    /// Changes a user: `next` computes the new state from the current one, or `None` when nothing would change.
    ///
    /// With `if_rev` the change is refused unless the user is at that revision; without, a change by others
    /// meanwhile makes `next` run again. `actor` is the connection that asked, closed after its reply where the
    /// change ends its own session.
    pub async fn change<E: From<StoreError>>(
        self: &Arc<Self>,
        username: &Username,
        if_rev: Option<u64>,
        password: PasswordChange,
        actor: &Arc<Peer>,
        next: impl Fn(&User) -> Result<Option<User>, E>,
    ) -> Result<Changed, E> {
        let mut turn = None;
        for _ in 0..MAX_ATTEMPTS {
            // Straight from the store: the state that the compare-and-set will meet.
            let current = self.store.user_get(username).await?.ok_or(StoreError::NotFound)?;
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
                        turn = Some(self.turn.lock().await);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        let current_rev = self.store.user_get(username).await?.map_or(0, |user| user.rev);
        Err(StoreError::RevConflict { current_rev }.into())
    }

    /// Writes a state and applies it.
    async fn write(
        self: Arc<Self>,
        user: Arc<User>,
        password: PasswordChange,
        actor: Arc<Peer>,
    ) -> Result<Changed, StoreError> {
        let _writing = Writing::begin(&self.writing, &self.written, (user.username.key(), user.rev));
        self.store.user_replace(User::clone(&user), password).await?;
        let revoked = self.apply(&user, Some(actor.id));
        audit(&user, &actor);
        Ok(Changed { user, revoked })
    }

    /// Waits until nobody here is writing this revision.
    async fn settled(&self, revision: &(String, u64)) {
        loop {
            let written = self.written.notified();
            if !self.writing.contains_key(revision) {
                return;
            }
            written.await;
        }
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
        self.presence.revoke(&user, revocation(&user), actor)
    }
}

/// One line of the audit trail: who changed whom, how, and from where. Values are never in it.
fn audit(user: &User, actor: &Peer) {
    let change = &user.last_change;
    let by = change.actor.as_ref().map_or("", Username::as_str);
    let fields = change.fields.join(",");
    tracing::info!(target: "audit", event = change.kind.as_str(), actor = by, user = %user.username, fields, address = %actor.address);
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

/// Applies what other processes change, such as `doorward admin promote`, for as long as it is polled.
pub async fn follow(directory: Arc<Directory>, store: Arc<dyn Store>, mut seq: u64) {
    loop {
        match store.changes_after(seq, FOLLOW_PAGE).await {
            Ok(records) => {
                for record in &records {
                    let revision = (record.user.username.key(), record.user.rev);
                    directory.settled(&revision).await;
                    directory.apply(&record.user, None);
                    seq = record.seq;
                }
                if records.len() < FOLLOW_PAGE {
                    store.changed_elsewhere().await;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read what changed; trying again");
                tokio::time::sleep(FOLLOW_PAUSE).await;
            }
        }
    }
}
