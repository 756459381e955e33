//! The file, its tables, and how older ones become the newest.

use std::fs::{OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::{OpenError, search, users};
use crate::store::StoreError;
use crate::users::fold::fold;

/// Marks the file as ours (`PRAGMA application_id`): "Door" in ASCII.
const APPLICATION_ID: i64 = 0x446F_6F72;

/// How long a connection waits for another process that holds a lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Brings the schema one version further.
type Migration = fn(&Connection) -> Result<(), StoreError>;

/// The version of a schema is the number of migrations that made it. Released ones never change.
const MIGRATIONS: [Migration; 3] = [
    |connection| Ok(connection.execute_batch(VERSION_1)?),
    |connection| Ok(connection.execute_batch(VERSION_2)?),
    refold,
];

/// Folded columns hold [`crate::users::fold::fold`] of their neighbour, so that SQLite's byte order is the order of
/// filters and sorts.
///
/// Every sort has an index that begins with its value and the username: a page is a range of it. The index goes on
/// with all short filterable fields, so that users whom a filter passes over cost a step in the index (0.1 µs) and
/// not a row from somewhere in the file (3 µs). The few users of an unusual role or status have such indexes of
/// their own, because consoles list just these.
///
/// `words`, called `terms` since version 3, are the words of both names, joined by spaces: all that the full-text index is given. The tokenizer
/// `ascii` splits at spaces and leaves other scripts alone; positions, columns and sizes are not kept because
/// only the set of matching users is asked for. Prefixes up to 12 are kept ready; without, `anna` would merge the
/// users of every word that begins with it (30 ms of 1,000,000 users).
const VERSION_1: &str = "
CREATE TABLE meta (
    id       INTEGER PRIMARY KEY CHECK (id = 1),
    history  TEXT NOT NULL,
    last_seq INTEGER NOT NULL
) STRICT;

CREATE TABLE users (
    id           INTEGER PRIMARY KEY,
    username     TEXT NOT NULL,
    username_key TEXT NOT NULL UNIQUE,
    email        TEXT,
    email_key    TEXT UNIQUE,
    display_name TEXT NOT NULL,
    display_fold TEXT NOT NULL,
    words        TEXT NOT NULL,
    bio          TEXT NOT NULL,
    avatar_url   TEXT,
    attributes   TEXT NOT NULL,
    status       TEXT NOT NULL,
    role         TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL,
    rev          INTEGER NOT NULL,
    last_change  TEXT NOT NULL,
    generation   INTEGER NOT NULL,
    password     TEXT,
    seq          INTEGER NOT NULL UNIQUE,
    prev_seq     INTEGER,
    before       TEXT
) STRICT;

CREATE INDEX users_by_username ON users (username_key, role, status, created_at, updated_at, rev);
CREATE INDEX users_by_display_name ON users (display_fold, username_key, role, status, created_at, updated_at, rev);
CREATE INDEX users_by_created_at ON users (created_at, username_key, role, status, updated_at, rev);
CREATE INDEX users_by_updated_at ON users (updated_at, username_key, role, status, created_at, rev);

CREATE INDEX unusual_roles_by_username ON users (username_key, role, status, created_at, updated_at, rev)
    WHERE role <> 'user';
CREATE INDEX unusual_roles_by_display_name ON users (display_fold, username_key, role, status, created_at, updated_at, rev)
    WHERE role <> 'user';
CREATE INDEX unusual_roles_by_created_at ON users (created_at, username_key, role, status, updated_at, rev)
    WHERE role <> 'user';
CREATE INDEX unusual_roles_by_updated_at ON users (updated_at, username_key, role, status, created_at, rev)
    WHERE role <> 'user';

CREATE INDEX unusual_statuses_by_username ON users (username_key, role, status, created_at, updated_at, rev)
    WHERE status <> 'active';
CREATE INDEX unusual_statuses_by_display_name ON users (display_fold, username_key, role, status, created_at, updated_at, rev)
    WHERE status <> 'active';
CREATE INDEX unusual_statuses_by_created_at ON users (created_at, username_key, role, status, updated_at, rev)
    WHERE status <> 'active';
CREATE INDEX unusual_statuses_by_updated_at ON users (updated_at, username_key, role, status, created_at, rev)
    WHERE status <> 'active';

CREATE VIRTUAL TABLE users_fts USING fts5 (
    words, content = 'users', content_rowid = 'id',
    tokenize = 'ascii', prefix = '1 2 3 4 5 6 7 8 9 10 11 12', detail = none, columnsize = 0
);

-- Removed words are overwritten, not just marked: erased names must be gone.
INSERT INTO users_fts (users_fts, rank) VALUES ('secure-delete', 1);

-- Identifiers are never used twice, so that what was added since can be asked for.
CREATE TABLE words (
    id    INTEGER PRIMARY KEY AUTOINCREMENT,
    word  TEXT NOT NULL UNIQUE,
    users INTEGER NOT NULL
) STRICT;
";

/// Sessions: what is asked for as columns, and the whole of it as JSON.
const VERSION_2: &str = "
CREATE TABLE sessions (
    id         TEXT PRIMARY KEY,
    user_key   TEXT NOT NULL,
    ended      INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    rev        INTEGER NOT NULL,
    session    TEXT NOT NULL
) STRICT;

CREATE INDEX sessions_by_user ON sessions (user_key, expires_at);
";

/// Other folding, and terms that begin inside a word. The column has a new name, so that a program of an earlier version
/// that still has the file open cannot write texts folded as before.
const VERSION_3: &str = "
DROP TABLE users_fts;
ALTER TABLE users RENAME COLUMN words TO terms;

CREATE VIRTUAL TABLE users_fts USING fts5 (
    terms, content = 'users', content_rowid = 'id',
    tokenize = 'ascii', prefix = '1 2 3 4 5 6 7 8 9 10 11 12', detail = none, columnsize = 0
);
INSERT INTO users_fts (users_fts, rank) VALUES ('secure-delete', 1);

DELETE FROM words;
";

/// Users whose texts are folded anew at a time.
const REFOLD_PAGE: usize = 1_000;

/// [`VERSION_3`], and what each user is compared, sorted and found by.
fn refold(connection: &Connection) -> Result<(), StoreError> {
    connection.execute_batch(VERSION_3)?;
    let sql = format!("SELECT {}, id FROM users WHERE id > ?1 ORDER BY id LIMIT ?2", users::COLUMNS);
    let mut page = connection.prepare(&sql)?;
    let mut keep = connection.prepare("UPDATE users SET display_fold = ?2, terms = ?3 WHERE id = ?1")?;
    let mut last = i64::MIN;
    loop {
        let mut rows = page.query((last, REFOLD_PAGE))?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push((row.get::<_, i64>("id")?, users::read(row)?));
        }
        for (id, user) in &found {
            let terms = search::terms_text(user);
            keep.execute((id, fold(&user.display_name), &terms))?;
            search::add(connection, *id, &terms)?;
        }
        match found.last() {
            Some((id, _)) if found.len() == REFOLD_PAGE => last = *id,
            _ => return Ok(()),
        }
    }
}

/// A connection that can write. Makes the file, readable by its owner only, if there is none.
pub(super) fn connect(path: &Path) -> Result<Connection, OpenError> {
    // Only a new file is opened here: to close one that SQLite has open would drop SQLite's locks on it.
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
        _ => {}
    }
    // SQLite gives its companion files the mode of the database.
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;

    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    let foreign = connection.query_row(
        "SELECT (SELECT application_id FROM pragma_application_id) NOT IN (0, ?1)
             OR ((SELECT application_id FROM pragma_application_id) = 0 AND EXISTS (SELECT 1 FROM sqlite_schema))",
        [APPLICATION_ID],
        |row| row.get::<_, bool>(0),
    )?;
    if foreign {
        return Err(OpenError::Foreign);
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    // Erased data are overwritten, not just unlinked.
    connection.pragma_update(None, "secure_delete", true)?;
    connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024)?;
    connection.pragma_update(None, "cache_size", -32 * 1024)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// A connection that cannot write.
pub(super) fn connect_to_read(path: &Path) -> Result<Connection, OpenError> {
    // Read-write for SQLite, which needs the shared index of the log; `query_only` keeps it from writing.
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cache_size", -16 * 1024)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// Brings the schema to the newest version, whole or not at all, and answers with the identity of the data set.
pub(super) fn migrate(connection: &mut Connection) -> Result<String, OpenError> {
    // Two processes may start at once: the second finds the work done.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = MIGRATIONS.len() as i64;
    let Some(done) = usize::try_from(found).ok().filter(|&done| done <= MIGRATIONS.len()) else {
        return Err(OpenError::NewerSchema { found, known });
    };
    for migration in &MIGRATIONS[done..] {
        migration(&transaction)?;
    }
    if done == 0 {
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        let history = uuid::Uuid::new_v4().simple().to_string();
        transaction.execute("INSERT INTO meta (id, history, last_seq) VALUES (1, ?1, 0)", [history])?;
    }
    transaction.pragma_update(None, "user_version", known)?;
    let history = transaction.query_row("SELECT history FROM meta", [], |row| row.get(0))?;
    transaction.commit()?;
    Ok(history)
}
