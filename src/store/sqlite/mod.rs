//! The embedded store: one SQLite file, no set-up.
//!
//! One thread writes, a fixed few read; async callers hand them jobs through bounded queues and await the
//! answers. Threads of our own rather than tokio's blocking pool: each keeps its connection with its prepared
//! statements, and slow reads can neither use up that pool nor be used up by it.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::{Connection, ErrorCode};
use uuid::Uuid;

use self::place::Place;
use self::readers::Readers;
use self::vocabulary::Vocabulary;
use self::watcher::Watcher;
use self::writer::{Write, Writer};
use super::{
    Changes, Failing, ListQuery, Page, PasswordChange, PasswordHash, Position, SCANS_PER_USER, SearchPage, SearchQuery,
    Store, StoreError, Written,
};
use crate::users::filter::Filter;
use crate::users::{Email, Session, User, Username};

mod conditions;
mod list;
mod place;
mod readers;
mod schema;
mod search;
mod sessions;
mod users;
mod vocabulary;
mod watcher;
mod writer;

/// The longest that a read may take where calls have more time: what is slow keeps one of few threads from all others.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// Why a database was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A newer program has written it.
    #[error(
        "the database has schema version {found}, but this program knows only up to {known}: use the newer program"
    )]
    NewerSchema {
        /// Its schema version.
        found: i64,
        /// The newest that this program knows.
        known: i64,
    },
    /// It is a database, but not one of ours.
    #[error("the file is the database of another application")]
    Foreign,
    /// The file cannot be made, read or written.
    #[error("cannot open the database: {0}")]
    File(#[from] std::io::Error),
    /// SQLite refuses it.
    #[error("cannot open the database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// What it holds cannot be brought to this schema.
    #[error("cannot open the database: {0}")]
    Store(#[from] StoreError),
}

/// What can be chosen about a database.
#[derive(Debug, Clone, Copy)]
pub struct SqliteOptions {
    /// The most pages of 4 KiB that the file may grow to; `None` is as the disk allows. Beyond it writes are
    /// refused as on a full disk.
    pub max_pages: Option<u32>,
    /// The longest that a read may take.
    pub read_timeout: Duration,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { max_pages: None, read_timeout: READ_TIMEOUT }
    }
}

impl SqliteOptions {
    /// For operations that must not take longer than this.
    pub fn within(operation: Duration) -> Self {
        Self { read_timeout: READ_TIMEOUT.min(operation), ..Self::default() }
    }
}

/// The store in one SQLite file.
pub struct SqliteStore {
    writer: Writer,
    /// For what an index finds at once: single users and sessions, positions and what was written behind them.
    lookups: Readers,
    /// For what may look at many users: lists, counts and searches.
    scans: Readers,
    watcher: Watcher,
    vocabulary: Arc<RwLock<Vocabulary>>,
    history: String,
}

impl SqliteStore {
    /// Opens the database at `path`, or makes it. Blocks: for the start of the program and for tests.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        Self::open_with(path, SqliteOptions::default())
    }

    /// As [`SqliteStore::open`], with options.
    pub fn open_with(path: &Path, options: SqliteOptions) -> Result<Self, OpenError> {
        let mut connection = schema::connect(path)?;
        let history = schema::migrate(&mut connection)?;
        if let Some(pages) = options.max_pages {
            connection.pragma_update(None, "max_page_count", pages)?;
        }
        let vocabulary = Arc::new(RwLock::new(Vocabulary::default()));
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let lookups =
            Readers::start("store-lookup", cores.clamp(2, 4), options.read_timeout, || schema::connect_to_read(path))?;
        // More than one user may have under way.
        let scans = Readers::start("store-scan", cores.clamp(SCANS_PER_USER + 2, 16), options.read_timeout, || {
            schema::connect_to_read(path)
        })?;
        let warmed = Arc::clone(&vocabulary);
        // A head start for the first search; it would load the vocabulary itself.
        let _ = scans.submit(Box::new(move |connection: &Connection| {
            let _ = warmed.write().unwrap_or_else(PoisonError::into_inner).catch_up(connection);
        }));
        let place = Arc::new(Place::of(path)?);
        let watcher = Watcher::start(schema::connect_to_read(path)?, place.clone())?;
        Ok(Self { writer: Writer::start(connection, place)?, lookups, scans, watcher, vocabulary, history })
    }

    fn position_at(&self, seq: u64) -> Position {
        Position { history: self.history.clone(), numbers: vec![seq], former: None }
    }

    /// Runs `work` on the connection of a thread for lookups.
    async fn look_up<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.lookups.read(work).await
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn user_create(&self, user: User, password: PasswordHash) -> Result<Written, StoreError> {
        let seq = self.writer.write(Write::Create { user: Box::new(user), password }).await?;
        Ok(Written { seq: Some(seq), record: None })
    }

    async fn user_replace(&self, user: User, password: PasswordChange) -> Result<Written, StoreError> {
        let seq = self.writer.write(Write::Replace { user: Box::new(user), password }).await?;
        Ok(Written { seq: Some(seq), record: None })
    }

    async fn user_get(&self, username: &Username) -> Result<Option<Arc<User>>, StoreError> {
        let key = username.key();
        self.look_up(move |connection| users::get(connection, &key)).await
    }

    async fn user_get_many(&self, usernames: &[Username]) -> Result<Vec<Arc<User>>, StoreError> {
        let mut keys: Vec<String> = usernames.iter().map(Username::key).collect();
        keys.sort_unstable();
        keys.dedup();
        self.look_up(move |connection| {
            let found: Result<Vec<_>, _> = keys.iter().map(|key| users::get(connection, key)).collect();
            Ok(found?.into_iter().flatten().collect())
        })
        .await
    }

    async fn user_get_by_email(&self, email: &Email) -> Result<Option<Arc<User>>, StoreError> {
        let key = email.key();
        self.look_up(move |connection| users::get_by_email(connection, &key)).await
    }

    async fn password_get(&self, username: &Username) -> Result<Option<PasswordHash>, StoreError> {
        let key = username.key();
        self.look_up(move |connection| users::password(connection, &key)).await
    }

    async fn password_upgrade(
        &self,
        username: &Username,
        old: PasswordHash,
        new: PasswordHash,
    ) -> Result<(), StoreError> {
        self.writer.write(Write::UpgradePassword { username: username.clone(), old, new }).await.map(|_| ())
    }

    async fn user_list(&self, query: ListQuery) -> Result<Page, StoreError> {
        self.scans.read(move |connection| list::list(connection, &query)).await
    }

    async fn user_count(&self, filter: Option<Filter>) -> Result<u64, StoreError> {
        self.scans.read(move |connection| list::count(connection, filter.as_ref())).await
    }

    async fn user_search(&self, query: SearchQuery) -> Result<SearchPage, StoreError> {
        let vocabulary = Arc::clone(&self.vocabulary);
        self.scans.read(move |connection| search::search(connection, &vocabulary, &query)).await
    }

    async fn position(&self) -> Result<Position, StoreError> {
        Ok(self.position_at(self.look_up(users::last_seq).await?))
    }

    async fn start(&self) -> Result<Position, StoreError> {
        Ok(self.position_at(0))
    }

    async fn changes_after(&self, position: &Position, limit: usize) -> Result<Changes, StoreError> {
        let [seq] = position.numbers[..] else { return Err(StoreError::BadPosition) };
        if position.history != self.history || position.former.is_some() {
            return Err(StoreError::BadPosition);
        }
        let (records, more) = self.look_up(move |connection| users::changes_after(connection, seq, limit)).await?;
        let position = self.position_at(records.last().map_or(seq, |record| record.seq));
        Ok(Changes { records, position, more, complete: !more })
    }

    async fn changed_elsewhere(&self) {
        self.watcher.changed().await;
    }

    async fn session_create(&self, session: Session) -> Result<(), StoreError> {
        self.writer.write(Write::CreateSession(Box::new(session))).await.map(|_| ())
    }

    async fn sessions_make_room(&self, session: &Session, max: usize) -> Result<Vec<Session>, StoreError> {
        let begun = session.clone();
        let (expired, surplus) = self
            .look_up(move |connection| {
                Ok((sessions::has_expired(connection, &begun)?, sessions::surplus(connection, &begun, max)?))
            })
            .await?;
        if expired {
            self.writer.write(Write::ClearAwaySessions(Box::new(session.clone()))).await?;
        }
        Ok(surplus)
    }

    async fn session_get(&self, id: Uuid) -> Result<Option<Session>, StoreError> {
        self.look_up(move |connection| sessions::get(connection, id)).await
    }

    async fn session_replace(&self, session: Session) -> Result<(), StoreError> {
        self.writer.write(Write::ReplaceSession(Box::new(session))).await.map(|_| ())
    }

    async fn sessions_of(&self, user: &Username) -> Result<Vec<Session>, StoreError> {
        let user = user.clone();
        self.look_up(move |connection| sessions::of_user(connection, &user)).await
    }

    async fn sessions_ended(&self) -> Result<Vec<Session>, StoreError> {
        // One gateway serves a file, and no command ends sessions.
        Ok(Vec::new())
    }

    async fn session_ended_elsewhere(&self) {
        std::future::pending().await
    }

    async fn check(&self) -> Vec<Failing> {
        let checked = async {
            self.look_up(|connection| users::last_seq(connection).map(|_| ())).await?;
            self.writer.write(Write::Probe).await.map(|_| ())
        };
        checked.await.err().map(|cause| Failing { part: "store", cause }).into_iter().collect()
    }

    async fn close(&self) {
        self.writer.close().await;
        self.lookups.close().await;
        self.scans.close().await;
        self.watcher.close().await;
    }
}

/// What SQLite says of a read, or of a write that was rolled back.
impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::OperationInterrupted) => Self::Timeout,
            // A statement or a value that is not as it must be: it never will be.
            None
            | Some(
                ErrorCode::Unknown
                | ErrorCode::ApiMisuse
                | ErrorCode::ConstraintViolation
                | ErrorCode::ParameterOutOfRange
                | ErrorCode::TooBig
                | ErrorCode::TypeMismatch,
            ) => Self::Unexpected(error.to_string()),
            Some(_) => Self::Unavailable(error.to_string()),
        }
    }
}

/// Threads of a part of the store; joined when it closes.
struct Threads(Mutex<Vec<std::thread::JoinHandle<()>>>);

impl Threads {
    fn spawn(name: &str, bodies: Vec<Box<dyn FnOnce() + Send>>) -> std::io::Result<Self> {
        let spawn = |body| std::thread::Builder::new().name(name.to_owned()).spawn(body);
        let threads: Result<Vec<_>, _> = bodies.into_iter().map(spawn).collect();
        Ok(Self(Mutex::new(threads?)))
    }

    /// Waits for their end, which the caller has asked for.
    async fn join(&self) {
        let threads = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let join = move || threads.into_iter().for_each(|thread| drop(thread.join()));
        // Fails only when the runtime is being shut down, and then nobody waits.
        let _ = tokio::task::spawn_blocking(join).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    /// However many scans there are.
    #[tokio::test]
    async fn r09_scans_that_take_long_hold_up_neither_a_lookup_nor_the_tail() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("doorward.db")).unwrap();
        let (begun, beginnings) = channel();
        let mut ends = Vec::new();
        for _ in 0..100 {
            let (end, ended) = channel::<()>();
            let begun = begun.clone();
            let scan = move |_: &Connection| {
                let _ = begun.send(());
                let _ = ended.recv();
            };
            store.scans.submit(Box::new(scan)).unwrap();
            ends.push(end);
        }
        beginnings.recv_timeout(Duration::from_secs(20)).unwrap();
        let alice = Username::parse("alice").unwrap();
        let lookups = async {
            assert_eq!(store.user_get(&alice).await, Ok(None));
            assert_eq!(store.session_get(Uuid::nil()).await, Ok(None));
            let position = store.position().await.unwrap();
            assert!(store.changes_after(&position, 1).await.unwrap().complete);
            assert_eq!(store.check().await, []);
        };
        tokio::time::timeout(Duration::from_secs(20), lookups).await.expect("none waits for a scan");
        drop(ends);
        assert_eq!(store.user_count(None).await, Ok(0));
    }
}
