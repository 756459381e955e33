//! Users as rows.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row, named_params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::search;
use crate::clock::Time;
use crate::store::{Before, PasswordChange, PasswordHash, Record, StoreError, Unique};
use crate::users::fold::fold;
use crate::users::{Email, Role, Status, User, Username};

/// What [`read`] reads, in its order.
pub(super) const COLUMNS: &str = "username, email, display_name, bio, avatar_url, attributes, status, role, \
     created_at, updated_at, rev, last_change, generation";
/// Where the columns behind [`COLUMNS`] begin.
const NEXT_COLUMN: usize = 13;

/// The user of a name's key.
pub(super) fn get(connection: &Connection, key: &str) -> Result<Option<Arc<User>>, StoreError> {
    one(connection, "username_key", key)
}

/// The user of an address's key.
pub(super) fn get_by_email(connection: &Connection, key: &str) -> Result<Option<Arc<User>>, StoreError> {
    one(connection, "email_key", key)
}

fn one(connection: &Connection, column: &'static str, key: &str) -> Result<Option<Arc<User>>, StoreError> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM users WHERE {column} = ?1"))?;
    let mut rows = statement.query([key])?;
    rows.next()?.map(|row| read(row).map(Arc::new)).transpose()
}

/// The password hash of a name's key.
pub(super) fn password(connection: &Connection, key: &str) -> Result<Option<PasswordHash>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT password FROM users WHERE username_key = ?1")?;
    let hash: Option<Option<String>> = statement.query_row([key], |row| row.get(0)).optional()?;
    Ok(hash.flatten().map(PasswordHash::new))
}

/// The number of the last write.
pub(super) fn last_seq(connection: &Connection) -> Result<u64, StoreError> {
    Ok(connection.prepare_cached("SELECT last_seq FROM meta")?.query_row([], |row| row.get(0))?)
}

/// The newest states written after `seq`, and whether there are more. `BadPosition` when nothing was written at `seq` yet.
pub(super) fn changes_after(
    connection: &Connection,
    seq: u64,
    limit: usize,
) -> Result<(Vec<Record>, bool), StoreError> {
    if seq > last_seq(connection)? {
        return Err(StoreError::BadPosition);
    }
    let sql = format!("SELECT {COLUMNS}, seq, prev_seq, before FROM users WHERE seq > ?1 ORDER BY seq LIMIT ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    // One more than asked for shows that there is more.
    let most = i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1);
    let mut rows = statement.query((seq, most))?;
    let mut records = Vec::new();
    while let Some(row) = rows.next()? {
        if records.len() == limit {
            return Ok((records, true));
        }
        let before: Option<String> = row.get(NEXT_COLUMN + 2)?;
        records.push(Record {
            user: Arc::new(read(row)?),
            shard: 0,
            seq: row.get(NEXT_COLUMN)?,
            prev_seq: row.get(NEXT_COLUMN + 1)?,
            before: before.map(|json| from_json("before", &json)).transpose()?,
        });
    }
    Ok((records, false))
}

/// Keeps a new user.
pub(super) fn create(connection: &Connection, user: &User, password: &PasswordHash) -> Result<u64, StoreError> {
    let key = user.username.key();
    if exists(connection, "SELECT EXISTS (SELECT 1 FROM users WHERE username_key = ?1)", [&key])? {
        return Err(StoreError::AlreadyExists(Unique::Username));
    }
    check_email_free(connection, user, 0)?;
    let seq = next_seq(connection)?;
    let terms = search::terms_text(user);
    connection
        .prepare_cached(
            "INSERT INTO users (username, username_key, email, email_key, display_name, display_fold, terms, bio,
                avatar_url, attributes, status, role, created_at, updated_at, rev, last_change, generation, password,
                seq)
             VALUES (:username, :username_key, :email, :email_key, :display_name, :display_fold, :terms, :bio,
                :avatar_url, :attributes, :status, :role, :created_at, :updated_at, :rev, :last_change, :generation,
                :password, :seq)",
        )?
        .execute(named_params! {
            ":username": user.username.as_str(),
            ":username_key": key,
            ":email": user.email.as_ref().map(Email::as_str),
            ":email_key": user.email.as_ref().map(Email::key),
            ":display_name": user.display_name,
            ":display_fold": fold(&user.display_name),
            ":terms": terms,
            ":bio": user.bio,
            ":avatar_url": user.avatar_url,
            ":attributes": to_json(&user.attributes),
            ":status": user.status.as_str(),
            ":role": user.role.as_str(),
            ":created_at": user.created_at.ms(),
            ":updated_at": user.updated_at.ms(),
            ":rev": user.rev,
            ":last_change": to_json(&user.last_change),
            ":generation": user.generation,
            ":password": password.expose(),
            ":seq": seq,
        })?;
    search::add(connection, connection.last_insert_rowid(), &terms)?;
    Ok(seq)
}

/// Replaces the state before `user`.
pub(super) fn replace(connection: &Connection, user: &User, password: &PasswordChange) -> Result<u64, StoreError> {
    let Some(stored) = stored(connection, &user.username)? else {
        return Err(StoreError::NotFound);
    };
    let old = &stored.user;
    if Some(old.rev) != user.rev.checked_sub(1) {
        return Err(StoreError::RevConflict { current_rev: old.rev });
    }
    if old.is_active_admin() && !user.is_active_admin() && !has_other_active_admin(connection, old)? {
        return Err(StoreError::LastAdmin);
    }
    check_email_free(connection, user, stored.id)?;
    let seq = next_seq(connection)?;
    let terms = search::terms_text(user);
    if terms != stored.terms {
        search::remove(connection, stored.id, &stored.terms)?;
        search::add(connection, stored.id, &terms)?;
    }
    connection
        .prepare_cached(
            "UPDATE users SET email = :email, email_key = :email_key, display_name = :display_name,
                display_fold = :display_fold, terms = :terms, bio = :bio, avatar_url = :avatar_url,
                attributes = :attributes, status = :status, role = :role, created_at = :created_at,
                updated_at = :updated_at, rev = :rev, last_change = :last_change, generation = :generation,
                seq = :seq, prev_seq = :prev_seq, before = :before
             WHERE id = :id",
        )?
        .execute(named_params! {
            ":id": stored.id,
            ":email": user.email.as_ref().map(Email::as_str),
            ":email_key": user.email.as_ref().map(Email::key),
            ":display_name": user.display_name,
            ":display_fold": fold(&user.display_name),
            ":terms": terms,
            ":bio": user.bio,
            ":avatar_url": user.avatar_url,
            ":attributes": to_json(&user.attributes),
            ":status": user.status.as_str(),
            ":role": user.role.as_str(),
            ":created_at": user.created_at.ms(),
            ":updated_at": user.updated_at.ms(),
            ":rev": user.rev,
            ":last_change": to_json(&user.last_change),
            ":generation": user.generation,
            ":seq": seq,
            ":prev_seq": stored.seq,
            ":before": (user.status != Status::Erased).then(|| to_json(&Before::of(old))),
        })?;
    let hash = match password {
        PasswordChange::Keep => return Ok(seq),
        PasswordChange::Set(hash) => Some(hash.expose()),
        PasswordChange::Remove => None,
    };
    connection.prepare_cached("UPDATE users SET password = ?2 WHERE id = ?1")?.execute((stored.id, hash))?;
    Ok(seq)
}

/// Replaces `old` by `new` where it is still stored. Has no number: it is not a change of the user.
pub(super) fn upgrade_password(
    connection: &Connection,
    username: &Username,
    old: &PasswordHash,
    new: &PasswordHash,
) -> Result<u64, StoreError> {
    connection
        .prepare_cached("UPDATE users SET password = ?3 WHERE username_key = ?1 AND password = ?2")?
        .execute((username.key(), old.expose(), new.expose()))?;
    Ok(0)
}

/// A state that is about to be replaced.
struct Stored {
    id: i64,
    seq: u64,
    terms: String,
    user: User,
}

fn stored(connection: &Connection, username: &Username) -> Result<Option<Stored>, StoreError> {
    let sql = format!("SELECT {COLUMNS}, id, seq, terms FROM users WHERE username_key = ?1");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([username.key()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let (id, seq, terms) = (row.get(NEXT_COLUMN)?, row.get(NEXT_COLUMN + 1)?, row.get(NEXT_COLUMN + 2)?);
    Ok(Some(Stored { id, seq, terms, user: read(row)? }))
}

fn has_other_active_admin(connection: &Connection, user: &User) -> Result<bool, StoreError> {
    // `role <> 'user'` names the index of the few.
    let sql = "SELECT EXISTS (SELECT 1 FROM users
        WHERE role <> 'user' AND role = 'admin' AND status = 'active' AND username_key <> ?1)";
    exists(connection, sql, [user.username.key()])
}

/// `AlreadyExists` when a user other than the one of this row holds the address.
fn check_email_free(connection: &Connection, user: &User, id: i64) -> Result<(), StoreError> {
    let Some(email) = &user.email else { return Ok(()) };
    let sql = "SELECT EXISTS (SELECT 1 FROM users WHERE email_key = ?1 AND id <> ?2)";
    if exists(connection, sql, (email.key(), id))? {
        return Err(StoreError::AlreadyExists(Unique::Email));
    }
    Ok(())
}

fn exists(connection: &Connection, sql: &str, params: impl rusqlite::Params) -> Result<bool, StoreError> {
    Ok(connection.prepare_cached(sql)?.query_row(params, |row| row.get(0))?)
}

fn next_seq(connection: &Connection) -> Result<u64, StoreError> {
    let sql = "UPDATE meta SET last_seq = last_seq + 1 RETURNING last_seq";
    Ok(connection.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

/// Reads the user of a row that begins with [`COLUMNS`].
pub(super) fn read(row: &Row<'_>) -> Result<User, StoreError> {
    let text = |column| row.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
    let email = row.get_ref(1)?.as_str_or_null().map_err(rusqlite::Error::from)?;
    Ok(User {
        username: Username::parse(text(0)?).map_err(|_| damaged("username"))?,
        email: email.map(Email::parse).transpose().map_err(|_| damaged("email"))?,
        display_name: row.get(2)?,
        bio: row.get(3)?,
        avatar_url: row.get(4)?,
        attributes: from_json("attributes", text(5)?)?,
        status: Status::parse(text(6)?).ok_or_else(|| damaged("status"))?,
        role: Role::parse(text(7)?).ok_or_else(|| damaged("role"))?,
        created_at: Time::from_ms(row.get(8)?),
        updated_at: Time::from_ms(row.get(9)?),
        rev: row.get(10)?,
        last_change: from_json("last_change", text(11)?)?,
        generation: row.get(12)?,
        encoded: crate::users::Encoded::default(),
    })
}

pub(super) fn to_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("these types have only string keys")
}

pub(super) fn from_json<T: DeserializeOwned>(column: &'static str, json: &str) -> Result<T, StoreError> {
    serde_json::from_str(json).map_err(|_| damaged(column))
}

fn damaged(column: &'static str) -> StoreError {
    StoreError::Unexpected(format!("the database is damaged: column {column}"))
}
