//! Sessions as rows.

use rusqlite::{Connection, OptionalExtension, named_params};
use uuid::Uuid;

use super::users::{from_json, to_json};
use crate::store::StoreError;
use crate::users::{Session, Username};

/// The session of an id.
pub(super) fn get(connection: &Connection, id: Uuid) -> Result<Option<Session>, StoreError> {
    let mut statement = connection.prepare_cached("SELECT session FROM sessions WHERE id = ?1")?;
    let json: Option<String> = statement.query_row([id.to_string()], |row| row.get(0)).optional()?;
    json.map(|json| from_json("session", &json)).transpose()
}

/// The sessions of a user that were not ended, oldest first. Ids are in the order in which they were made.
pub(super) fn of_user(connection: &Connection, user: &Username) -> Result<Vec<Session>, StoreError> {
    let sql = "SELECT session FROM sessions WHERE user_key = ?1 AND NOT ended ORDER BY id";
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map([user.key()], |row| row.get::<_, String>(0))?;
    rows.map(|json| from_json("session", &json?)).collect()
}

/// Deletes the sessions of the same user that expired long before this one began.
pub(super) fn clear_away(connection: &Connection, session: &Session) -> Result<u64, StoreError> {
    connection
        .prepare_cached("DELETE FROM sessions WHERE user_key = ?1 AND expires_at < ?2")?
        .execute((session.user.key(), session.clears_before().ms()))?;
    Ok(0)
}

/// Whether there are such.
pub(super) fn has_expired(connection: &Connection, session: &Session) -> Result<bool, StoreError> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sessions WHERE user_key = ?1 AND expires_at < ?2)";
    let key = (session.user.key(), session.clears_before().ms());
    Ok(connection.prepare_cached(sql)?.query_row(key, |row| row.get(0))?)
}

/// The sessions of the same user that were not ended, but for those that expire last: so many with this one.
pub(super) fn surplus(connection: &Connection, session: &Session, max: usize) -> Result<Vec<Session>, StoreError> {
    let sql = "SELECT session FROM sessions WHERE user_key = ?1 AND NOT ended AND id <> ?2
               ORDER BY expires_at DESC, id DESC LIMIT -1 OFFSET ?3";
    let mut statement = connection.prepare_cached(sql)?;
    let stay = i64::try_from(max.saturating_sub(1)).unwrap_or(i64::MAX);
    let rows =
        statement.query_map((session.user.key(), session.id.to_string(), stay), |row| row.get::<_, String>(0))?;
    rows.map(|json| from_json("session", &json?)).collect()
}

/// Keeps a new session.
pub(super) fn create(connection: &Connection, session: &Session) -> Result<u64, StoreError> {
    connection
        .prepare_cached(
            "INSERT INTO sessions (id, user_key, ended, expires_at, rev, session)
             VALUES (:id, :user_key, :ended, :expires_at, :rev, :session)",
        )?
        .execute(named_params! {
            ":id": session.id.to_string(),
            ":user_key": session.user.key(),
            ":ended": session.ended,
            ":expires_at": session.expires_at.ms(),
            ":rev": session.rev,
            ":session": to_json(session),
        })?;
    Ok(0)
}

/// Replaces the state before `session`.
pub(super) fn replace(connection: &Connection, session: &Session) -> Result<u64, StoreError> {
    let replaced = connection
        .prepare_cached(
            "UPDATE sessions SET ended = :ended, expires_at = :expires_at, rev = :rev, session = :session
             WHERE id = :id AND rev = :rev - 1",
        )?
        .execute(named_params! {
            ":id": session.id.to_string(),
            ":ended": session.ended,
            ":expires_at": session.expires_at.ms(),
            ":rev": session.rev,
            ":session": to_json(session),
        })?;
    match (replaced, get(connection, session.id)?) {
        (1, _) => Ok(0),
        (_, Some(now)) => Err(StoreError::RevConflict { current_rev: now.rev }),
        (_, None) => Err(StoreError::NotFound),
    }
}
