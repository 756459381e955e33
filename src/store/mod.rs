//! Where everything but presence is kept: one trait, whose homes must be indistinguishable.
//!
//! The store has never heard of JSON-RPC, sockets or passwords in the clear. It keeps what it is
//! given, refuses what would break an invariant (uniqueness, `rev`, the last admin), and answers
//! truthfully about every write: done, not done, or unknown.
//!
//! Every write of a user gets the store's next sequence number, so "what changed since" is a range
//! query on the users themselves and no second log can disagree with them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::users::filter::{Field, Filter};
use crate::users::{Email, Session, User, Username};

pub mod elastic;
pub mod sqlite;

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another user holds this value of a unique field.
    #[error("already exists: {0:?}")]
    AlreadyExists(Unique),
    /// There is no such user or session.
    #[error("no such user or session")]
    NotFound,
    /// The user or session is no longer at the revision that the write replaces.
    #[error("at revision {current_rev}")]
    RevConflict {
        /// The revision it is at.
        current_rev: u64,
    },
    /// The write would leave no active admin.
    #[error("the last active admin")]
    LastAdmin,
    /// A page key that this store did not make for this query.
    #[error("not a page key of this query")]
    BadPageKey,
    /// A position of another data set, or one that was never reached.
    #[error("not a position of this data set")]
    BadPosition,
    /// The store cannot be reached or cannot write; nothing was changed. The text is for the log only.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// No answer in time; nothing was changed.
    #[error("store timed out")]
    Timeout,
    /// The store refuses what it was asked, or holds what this program cannot read: the same call fails the next time, too.
    /// Nothing was changed. The text is for the log only.
    #[error("a fault: {0}")]
    Unexpected(String),
    /// The write may or may not have happened. The text is for the log only.
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(String),
}

/// A part of the store that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// As `/readyz` names it: `store`, or `store.` and a part.
    pub part: &'static str,
    /// Why.
    pub cause: StoreError,
}

impl StoreError {
    /// The same after a write that was made: that nothing was changed would not be true.
    pub fn after_a_write(self) -> Self {
        match self {
            Self::OutcomeUnknown(_) => self,
            other => Self::OutcomeUnknown(format!("what belongs to a write is not done: {other}")),
        }
    }
}

/// A field whose values are unique among all users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unique {
    /// The name.
    Username,
    /// The e-mail address.
    Email,
}

/// A password hash as stored: the whole text of the bcrypt format. Has no readable `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// Wraps the text of a hash.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text of the hash: for the store and the verifier only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

/// What a write does to the password.
#[derive(Debug, Clone)]
pub enum PasswordChange {
    /// It stays as it is.
    Keep,
    /// It becomes this.
    Set(PasswordHash),
    /// There is none any more: nobody can log in.
    Remove,
}

/// A place in the users feed: which history of writes, and how far along it.
///
/// `numbers` has one entry a shard (one in all for the embedded store); everything at or below is
/// included, and 0 includes nothing. A position of another history is never compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Identifies the data set; a recreated one has another.
    pub history: String,
    /// The sequence number reached, per shard.
    pub numbers: Vec<u64>,
    /// Where reading began, when that was before the users were copied to a new index: kept until what was
    /// written there is read. Always `None` for the embedded store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub former: Option<Box<Position>>,
}

impl Position {
    /// The position of so many writes earlier, in each shard.
    #[must_use]
    pub fn earlier(mut self, writes: u64) -> Self {
        for number in &mut self.numbers {
            *number = number.saturating_sub(writes);
        }
        self
    }

    /// Whether everything within `numbers`, which are of the same data set, is within this position as well.
    pub fn covers(&self, numbers: &[u64]) -> bool {
        self.numbers.len() == numbers.len()
            && self.numbers.iter().zip(numbers).all(|(reached, number)| reached >= number)
    }
}

/// A user with its place in the sequence of writes.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// The newest state.
    pub user: Arc<User>,
    /// The shard that the user belongs to, for good.
    pub shard: usize,
    /// The sequence number, in the shard, of the write that made this state.
    pub seq: u64,
    /// The number of the state it replaced; `None` for a new user, and more than any position where it is not known.
    pub prev_seq: Option<u64>,
    /// The filterable fields of the state it replaced; `None` for a new user, and for an erased one, of whom
    /// nothing may remain.
    pub before: Option<Before>,
}

/// A write that was done.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// Its sequence number; `None` where others had followed before it could be read back.
    pub seq: Option<u64>,
    /// The change, where [`Store::changes_after`] may give it only later, when lower numbers are final as well. `None`
    /// where it has it by now, and where the shard is not known.
    pub record: Option<Record>,
}

/// What was written behind a position.
#[derive(Debug, Clone)]
pub struct Changes {
    /// The newest states, in the order of their numbers within each shard.
    pub records: Vec<Record>,
    /// The position that includes them and everything before.
    pub position: Position,
    /// Whether more was behind them when they were read.
    pub more: bool,
    /// Whether no state up to `position` was passed over because a newer one, behind `position`, had replaced it
    /// already: never while there is more, nor while writes are visible that are not final.
    pub complete: bool,
}

/// The filterable fields of a replaced state: what decides whether a filtered subscriber held the user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Before {
    /// The address, or `None`.
    pub email: Option<String>,
    /// The display name.
    pub display_name: String,
    /// The status.
    pub status: crate::users::Status,
    /// The role.
    pub role: crate::users::Role,
    /// When that state was written.
    pub updated_at: crate::clock::Time,
    /// Its revision.
    pub rev: u64,
}

impl Before {
    /// What is kept of a state that is replaced.
    fn of(user: &User) -> Self {
        Self {
            email: user.email.as_ref().map(|email| email.as_str().to_owned()),
            display_name: user.display_name.clone(),
            status: user.status,
            role: user.role,
            updated_at: user.updated_at,
            rev: user.rev,
        }
    }
}

/// By which field a list is ordered. Equal values are ordered by username, in the same direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SortField {
    /// The name, in lower case.
    Username,
    /// The display name, folded.
    DisplayName,
    /// The time of creation.
    CreatedAt,
    /// The time of the last change.
    UpdatedAt,
}

/// The order of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sort {
    /// By which field.
    pub field: SortField,
    /// Greatest first.
    pub descending: bool,
}

/// Where a page ended, as the store's own sort values. Opaque outside the store that made it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PageKey(pub Vec<Value>);

/// Which users, in which order, from where.
#[derive(Debug, Clone)]
pub struct ListQuery {
    /// `None` is every user.
    pub filter: Option<Filter>,
    /// The order.
    pub sort: Sort,
    /// Behind this key; `None` is from the start.
    pub after: Option<PageKey>,
    /// The most users to give.
    pub limit: usize,
}

/// One page of a list.
#[derive(Debug, Clone)]
pub struct Page {
    /// In the order asked for.
    pub users: Vec<Arc<User>>,
    /// Where the next page begins; `None` when there are no more.
    pub next: Option<PageKey>,
}

/// Users by words of their username and display name.
///
/// A user is a hit when *every* word equals, begins (as a prefix), or — with `fuzzy` — comes within the edit
/// distance of a word of the user. Distance as Elasticsearch's `AUTO` has it: 0 for words of up to 2 code
/// points, 1 up to 5, then 2; a swap of neighbours counts 1; the first letter is fixed. Of very many near words
/// a store may take the nearest only.
#[derive(Debug, Clone)]
pub struct SearchQuery {
    /// Folded and distinct (see [`crate::users::fold::words`]). Without any, nobody is found.
    pub words: Vec<String>,
    /// Whether words may differ a little.
    pub fuzzy: bool,
    /// Only users matching this.
    pub filter: Option<Filter>,
    /// Behind this key; `None` is from the start.
    pub after: Option<PageKey>,
    /// The most hits to give.
    pub limit: usize,
}

/// One user found.
#[derive(Debug, Clone)]
pub struct Hit {
    /// The user.
    pub user: Arc<User>,
    /// Greater is better; exact beats prefix beats fuzzy.
    pub score: f64,
}

/// One page of a search, best first.
#[derive(Debug, Clone)]
pub struct SearchPage {
    /// Best first.
    pub hits: Vec<Hit>,
    /// Where the next page begins; `None` when there are no more.
    pub next: Option<PageKey>,
    /// How many hits there are in all, counted up to [`SEARCH_COUNT_MAX`].
    pub count: usize,
}

/// The longest that an operation of a store may take in a call of so much time: what became of it is told before that is up.
pub fn operation_within(call: Duration) -> Duration {
    call.mul_f64(0.9).min(OPERATION_MAX)
}

/// The longest that an operation of a store takes, however much time calls have: others wait for what is left of it.
const OPERATION_MAX: Duration = Duration::from_millis(4_500);

/// Counting the hits of a search stops here: a count of this much means "this many or more".
pub const SEARCH_COUNT_MAX: usize = 1000;

/// How many lists, counts and searches one user may have under way at a gateway: beyond it they wait for each other, so
/// that nobody keeps the store from others.
pub const SCANS_PER_USER: usize = 4;

/// Where both homes keep the values of a field that are compared: texts folded, times as milliseconds since 1970.
fn kept_as(field: Field) -> &'static str {
    match field {
        Field::Username => "username_key",
        Field::DisplayName => "display_fold",
        Field::Email => "email_key",
        Field::Status => "status",
        Field::Role => "role",
        Field::CreatedAt => "created_at",
        Field::UpdatedAt => "updated_at",
        Field::Rev => "rev",
    }
}

/// The home of the users. Every method sees each write that returned before it was called.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Keeps a new user (its `rev` is 1).
    ///
    /// Errors: `AlreadyExists` for the first of username and e-mail that is taken.
    async fn user_create(&self, user: User, password: PasswordHash) -> Result<Written, StoreError>;

    /// Replaces the state at `user.rev - 1` by `user`.
    ///
    /// Errors: `NotFound`; `RevConflict` when the stored revision is not `user.rev - 1`; `AlreadyExists` for a
    /// taken e-mail; `LastAdmin` when the replaced state was the last active admin and the new one is none.
    async fn user_replace(&self, user: User, password: PasswordChange) -> Result<Written, StoreError>;

    /// One user, or `None` when there is no such name.
    async fn user_get(&self, username: &Username) -> Result<Option<Arc<User>>, StoreError>;

    /// The same for who is about to replace it: what the replacement needs to know is read by the way.
    async fn user_get_to_replace(&self, username: &Username) -> Result<Option<Arc<User>>, StoreError> {
        self.user_get(username).await
    }

    /// The users of these names that exist, in no particular order.
    async fn user_get_many(&self, usernames: &[Username]) -> Result<Vec<Arc<User>>, StoreError>;

    /// The user who holds this address, or `None`.
    async fn user_get_by_email(&self, email: &Email) -> Result<Option<Arc<User>>, StoreError>;

    /// The user's password hash, or `None` when there is no such user or no password.
    async fn password_get(&self, username: &Username) -> Result<Option<PasswordHash>, StoreError>;

    /// Replaces `old` by `new` where `old` is still stored: the upgrade of a weaker hash. Not a change of the user.
    async fn password_upgrade(
        &self,
        username: &Username,
        old: PasswordHash,
        new: PasswordHash,
    ) -> Result<(), StoreError>;

    /// Clears away what states that an erased user had may have left, so that nothing of them remains. A home whose
    /// transactions leave nothing has nothing to do.
    async fn user_clear_away(&self, username: &Username) -> Result<(), StoreError> {
        let _ = username;
        Ok(())
    }

    /// One page of users. Errors: `BadPageKey`.
    async fn user_list(&self, query: ListQuery) -> Result<Page, StoreError>;

    /// How many users match, exactly. `None` counts all.
    async fn user_count(&self, filter: Option<Filter>) -> Result<u64, StoreError>;

    /// One page of a search. Errors: `BadPageKey`.
    async fn user_search(&self, query: SearchQuery) -> Result<SearchPage, StoreError>;

    /// Where the feed stands now: every write that returned is included.
    async fn position(&self) -> Result<Position, StoreError>;

    /// Where nothing was written yet: behind it is everything.
    async fn start(&self) -> Result<Position, StoreError>;

    /// The newest states written behind a position that are final, in order, at most `limit`.
    ///
    /// Errors: `BadPosition`, also for a position ahead of the last write.
    async fn changes_after(&self, position: &Position, limit: usize) -> Result<Changes, StoreError>;

    /// How long the one who follows all changes lets pass after a call of [`Store::changes_after`] that took so long.
    fn pace(&self, _took: Duration) -> Duration {
        Duration::ZERO
    }

    /// Returns once another process may have written since the last call; may return early, never late by more than
    /// half a second.
    async fn changed_elsewhere(&self);

    /// Keeps a new session (its `rev` is 1).
    async fn session_create(&self, session: Session) -> Result<(), StoreError>;

    /// Makes room for a session that was just kept: clears away those of the same user that expired long ago, before
    /// [`Session::clears_before`], and gives those that are too many. These are, of the others that have not ended, all but
    /// the `max - 1` that expire last. Some may be left out of both until another time: those that began in the last
    /// second or so, and some of very many.
    async fn sessions_make_room(&self, session: &Session, max: usize) -> Result<Vec<Session>, StoreError>;

    /// One session, ended or not; `None` when there is none of this id any more.
    async fn session_get(&self, id: Uuid) -> Result<Option<Session>, StoreError>;

    /// The same for who is about to replace it: what the replacement needs to know is read by the way.
    async fn session_get_to_replace(&self, id: Uuid) -> Result<Option<Session>, StoreError> {
        self.session_get(id).await
    }

    /// Replaces the state at `session.rev - 1` by `session`.
    ///
    /// Errors: `NotFound`; `RevConflict` when the stored revision is not `session.rev - 1`.
    async fn session_replace(&self, session: Session) -> Result<(), StoreError>;

    /// The sessions of a user that were not ended, oldest first; those that have expired may be among them.
    async fn sessions_of(&self, user: &Username) -> Result<Vec<Session>, StoreError>;

    /// The sessions that other processes have ended since the last call; none at the first. May give some again, and some
    /// that this process has ended. Does not wait. For one caller at a time.
    async fn sessions_ended(&self) -> Result<Vec<Session>, StoreError>;

    /// Returns once other processes may have ended sessions since [`Store::sessions_ended`] was called; may return early.
    async fn session_ended_elsewhere(&self);

    /// What of the store cannot be read and written now, and why; nothing when all of it can.
    async fn check(&self) -> Vec<Failing>;

    /// Finishes writes under way and lets go of all resources.
    async fn close(&self);
}
