//! The users as this node knows them: a bounded cache over the store, kept coherent by every change.
//!
//! A change made here is applied before its reply leaves; a change made by another process arrives
//! from the feed's tail through [`Directory::follow`]. Both go through [`Directory::apply`], which also closes the sockets that a
//! change of rights or of the password makes stale.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use metrics::{Counter, counter};
use tokio::sync::Notify;

use crate::feed::Feed;
use crate::logins::Logins;
use crate::metrics::USER_LOOKUPS;
use crate::sessions::{About, Account, Accounts, Identity, Lost, Presence, Proof, Revocation, Revoked};
use crate::store::{PasswordChange, PasswordHash, Store, StoreError};
use crate::users::{ChangeKind, Status, User, Username};

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
    logins: Arc<Logins>,
    accounts: Accounts,
    hits: Counter,
    misses: Counter,
    /// Held by a change that has met another of its user: those that compete then take turns. A user has the one that the
    /// hash of the name says, and shares it with few others.
    turns: Vec<tokio::sync::Mutex<()>>,
    /// Revisions that this node is writing, by username and number, with how many try each. Whoever succeeds
    /// applies it, knowing which socket asked; [`Directory::follow`] comes after them.
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
    /// How many sessions of the user it was over with, on all nodes.
    pub sessions_ended: usize,
}

impl Directory {
    /// A view that knows nobody yet.
    pub fn new(store: Arc<dyn Store>, feed: Arc<Feed>, presence: Arc<Presence>, logins: Arc<Logins>) -> Self {
        Self {
            store,
            feed,
            presence,
            logins,
            accounts: Accounts::default(),
            hits: counter!(USER_LOOKUPS, "result" => "hit"),
            misses: counter!(USER_LOOKUPS, "result" => "miss"),
            turns: (0..TURNS).map(|_| <_>::default()).collect(),
            writing: DashMap::new(),
            written: Notify::new(),
        }
    }

    /// The account of a name, or `None` when there is no such user.
    pub async fn account(&self, username: &Username) -> Result<Option<Arc<Account>>, StoreError> {
        if let Some(account) = self.accounts.get(username)
            && self.feed.has_contact()
        {
            self.hits.increment(1);
            return Ok(Some(account));
        }
        self.misses.increment(1);
        self.accounts.read(username, self.store.user_get(username)).await
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

    /// Whether the caller may still do what they were let through for.
    pub fn judge(&self, proof: &Proof, about: About<'_>) -> Result<(), Lost> {
        proof.judge(about, self.feed.has_contact())
    }

    /// Keeps a new user, and answers with its account.
    pub async fn create<E: From<StoreError> + From<Lost>>(
        self: &Arc<Self>,
        proof: &Proof,
        user: User,
        password: PasswordHash,
    ) -> Result<Arc<Account>, E> {
        self.judge(proof, About::Nobody)?;
        let (directory, address) = (self.clone(), proof.peer.address);
        let created = tokio::spawn(async move {
            let written = directory.store.user_create(user.clone(), password).await?;
            let account = directory.accounts.insert(&Arc::new(user));
            directory.feed.wrote(written);
            audit(&account.user(), address);
            Ok(account)
        });
        Ok(created.await.unwrap_or_else(|error| Err(StoreError::OutcomeUnknown(error.to_string())))?)
    }

    /// Changes a user: `next` computes the new state from the current one, or `None` when nothing would change. The proof
    /// is judged by the state that is replaced. What follows for the user's sessions, and for what an erased user may have
    /// left, is done before the answer, also where nothing changes: what was left half done is done again.
    ///
    /// With `if_rev` the change is refused unless the user is at that revision; without, a change by others
    /// meanwhile makes `next` run again.
    pub async fn change<E: From<StoreError> + From<Lost>>(
        self: &Arc<Self>,
        proof: &Proof,
        username: &Username,
        if_rev: Option<u64>,
        password: PasswordChange,
        next: impl Fn(&User) -> Result<Option<User>, E>,
    ) -> Result<Changed, E> {
        let mut turn = None;
        for _ in 0..MAX_ATTEMPTS {
            // Straight from the store: the state that the compare-and-set will meet.
            let current = self.store.user_get_to_replace(username).await?.ok_or(StoreError::NotFound)?;
            self.judge(proof, About::State(&current))?;
            self.judge_password::<E>(proof, &current).await?;
            if if_rev.is_some_and(|rev| rev != current.rev) {
                return Err(StoreError::RevConflict { current_rev: current.rev }.into());
            }
            let next = next(&current)?.map(Arc::new);
            // A task of its own: a caller who leaves does not keep what was begun from being finished.
            let made = tokio::spawn(self.clone().make(current, next, password.clone(), proof.clone()));
            match made.await.unwrap_or_else(|error| Err(StoreError::OutcomeUnknown(error.to_string()))) {
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

    /// Whether the password that was proven is still the one of the state that is replaced.
    async fn judge_password<E: From<StoreError> + From<Lost>>(&self, proof: &Proof, current: &User) -> Result<(), E> {
        match &proof.password {
            // Where the hash is another at the same revision, a login has replaced it by a better one of the same password.
            Some(proven)
                if proven.rev != current.rev
                    && self.store.password_get(&current.username).await?.as_ref() != Some(&proven.hash) =>
            {
                Err(Lost::Password.into())
            }
            _ => Ok(()),
        }
    }

    fn turn_of(&self, username: &Username) -> &tokio::sync::Mutex<()> {
        let mut hasher = DefaultHasher::new();
        username.key().hash(&mut hasher);
        &self.turns[hasher.finish() as usize % TURNS]
    }

    /// Writes the next state, where there is one, and does what belongs to the change.
    async fn make(
        self: Arc<Self>,
        current: Arc<User>,
        next: Option<Arc<User>>,
        password: PasswordChange,
        proof: Proof,
    ) -> Result<Changed, StoreError> {
        let (user, revoked) = match next {
            Some(user) => {
                let revoked = self.write(&user, password, &proof).await?;
                (user, revoked)
            }
            None => (current, Revoked::default()),
        };
        let sessions_ended = match proof.method.ends_sessions() {
            true => self.finish(&user, &proof).await.map_err(StoreError::after_a_write)?,
            false => 0,
        };
        Ok(Changed { user, revoked, sessions_ended })
    }

    /// Writes a state and applies it.
    async fn write(&self, user: &Arc<User>, password: PasswordChange, proof: &Proof) -> Result<Revoked, StoreError> {
        let _writing = Writing::begin(&self.writing, &self.written, (user.username.key(), user.rev));
        let written = self.store.user_replace(User::clone(user), password).await?;
        if let Some(session) = proof.spared {
            proof.peer.outlive(session, user.generation);
        }
        let revoked = self.apply(user, Some(proof.peer.id));
        self.feed.wrote(written);
        audit(user, proof.peer.address);
        Ok(revoked)
    }

    /// Ends the sessions that the user's generation is over with, and clears away what an erased user has left. Answers
    /// with the number of sessions. It may be done any number of times.
    async fn finish(&self, user: &User, proof: &Proof) -> Result<usize, StoreError> {
        let ended = self.logins.end_former(user, proof.spared, &proof.peer).await?;
        if user.status == Status::Erased {
            self.store.user_clear_away(&user.username).await?;
        }
        Ok(ended)
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
        self.accounts.forget();
        self.presence.forget(1012, "the users are others now");
    }

    /// Takes over a newer state of a user and closes the sockets that it makes stale.
    ///
    /// `actor` is the connection that made the change: its own socket closes only after its reply.
    pub fn apply(&self, user: &Arc<User>, actor: Option<u64>) -> Revoked {
        // By the newest state: a change that arrives late does not close what a later one has allowed again.
        let Some(user) = self.accounts.apply(user) else { return Revoked::default() };
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
