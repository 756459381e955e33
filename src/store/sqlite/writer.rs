//! The one thread that writes, and its group commit.
//!
//! Whatever is queued when the thread comes back from a commit goes into the next one, so that the cost of
//! reaching the disk is shared. Each write is a savepoint: a refused one rolls back alone. Nobody is answered
//! before the commit.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tokio::sync::oneshot;

use super::place::Place;
use super::{OpenError, Threads, sessions, users};
use crate::store::{PasswordChange, PasswordHash, StoreError};
use crate::users::{Session, User, Username};

/// The most writes that wait; a full queue refuses further ones at once.
const QUEUE_LENGTH: usize = 1024;
/// The most writes of one commit: bounds how long the first of them waits for its answer.
const GROUP_LENGTH: usize = 256;

/// A change to the database. Answered with the number of the write, or 0 when it has none.
pub(super) enum Write {
    /// Keeps a new user.
    Create { user: Box<User>, password: PasswordHash },
    /// Replaces the state before it.
    Replace { user: Box<User>, password: PasswordChange },
    /// Replaces a hash by a better one of the same password.
    UpgradePassword { username: Username, old: PasswordHash, new: PasswordHash },
    /// Keeps a new session.
    CreateSession(Box<Session>),
    /// Deletes sessions that expired long before this one began.
    ClearAwaySessions(Box<Session>),
    /// Replaces the state of a session before it.
    ReplaceSession(Box<Session>),
    /// Writes without changing anything: shows that writing works.
    Probe,
}

type Outcome = Result<u64, StoreError>;

struct Job {
    write: Write,
    reply: oneshot::Sender<Outcome>,
}

/// Hands writes to the writing thread.
pub(super) struct Writer {
    /// `None` once closed.
    queue: Mutex<Option<SyncSender<Job>>>,
    threads: Threads,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(mut connection: Connection, place: Arc<Place>) -> Result<Self, OpenError> {
        let (queue, jobs) = sync_channel(QUEUE_LENGTH);
        let body = move || {
            while let Some(group) = next_group(&jobs) {
                // A panic costs its group: their replies are dropped, the transaction is rolled back.
                let _ = catch_unwind(AssertUnwindSafe(|| commit_group(&mut connection, &place, group)));
            }
            // What is in the log only would be lost where that was removed; then this takes it into the database.
            let _ = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)");
        };
        Ok(Self { queue: Mutex::new(Some(queue)), threads: Threads::spawn("store-writer", vec![Box::new(body)])? })
    }

    /// Queues a write and waits until it is on disk, or refused.
    pub(super) async fn write(&self, write: Write) -> Outcome {
        let (reply, outcome) = oneshot::channel();
        self.submit(Job { write, reply })?;
        outcome.await.unwrap_or_else(|_| Err(StoreError::OutcomeUnknown("the writer gave no answer".into())))
    }

    fn submit(&self, job: Job) -> Result<(), StoreError> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queue.as_ref().ok_or_else(|| StoreError::Unavailable("the store is closed".into()))?;
        queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::Unavailable("too many writes are waiting".into()),
            TrySendError::Disconnected(_) => StoreError::Unavailable("the writer has ended".into()),
        })
    }

    /// Finishes what is queued, then ends the thread.
    pub(super) async fn close(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.threads.join().await;
    }
}

/// Waits for a job and takes what else is queued. `None` once the store is closed and the queue empty.
fn next_group(jobs: &Receiver<Job>) -> Option<Vec<Job>> {
    let mut group = vec![jobs.recv().ok()?];
    group.extend(jobs.try_iter().take(GROUP_LENGTH - 1));
    Some(group)
}

fn commit_group(connection: &mut Connection, place: &Place, mut group: Vec<Job>) {
    // A caller that is gone before its write started does not want it any more.
    group.retain(|job| !job.reply.is_closed());
    if group.is_empty() {
        return;
    }
    let result = place.check().and_then(|()| apply_group(connection, &group));
    // Nothing is acknowledged that went into a file which nobody finds again.
    let result = result.and_then(|outcomes| place.check().map_err(in_doubt).map(|()| outcomes));
    if !connection.is_autocommit() {
        // A failed COMMIT leaves its transaction open.
        let _ = connection.execute_batch("ROLLBACK");
    }
    match result {
        Ok(outcomes) => {
            for (job, outcome) in group.into_iter().zip(outcomes) {
                let _ = job.reply.send(outcome);
            }
        }
        Err(error) => {
            tracing::warn!(error = %error, writes = group.len(), "the store could not write");
            for job in group {
                let _ = job.reply.send(Err(error.clone()));
            }
        }
    }
}

/// What became of each write of a committed group, or why none of them was done.
fn apply_group(connection: &mut Connection, group: &[Job]) -> Result<Vec<Outcome>, StoreError> {
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut outcomes = Vec::with_capacity(group.len());
    for job in group {
        let savepoint = transaction.savepoint()?;
        let outcome = apply(&savepoint, &job.write);
        if savepoint.is_autocommit() {
            // On a full disk and the like SQLite may roll back the whole transaction by itself.
            return Err(outcome.err().unwrap_or_else(|| StoreError::Unavailable("rolled back".into())));
        }
        match outcome {
            Ok(_) => savepoint.commit()?,
            Err(_) => savepoint.finish()?,
        }
        outcomes.push(outcome);
    }
    transaction.commit().map_err(not_committed)?;
    Ok(outcomes)
}

/// The same, of writes that were made.
fn in_doubt(error: StoreError) -> StoreError {
    StoreError::OutcomeUnknown(error.to_string())
}

/// A commit that failed while its log was synced may still be found whole after a crash of the machine.
fn not_committed(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::SystemIoFailure) => StoreError::OutcomeUnknown(error.to_string()),
        _ => StoreError::Unavailable(error.to_string()),
    }
}

fn apply(connection: &Connection, write: &Write) -> Outcome {
    match write {
        Write::Create { user, password } => users::create(connection, user, password),
        Write::Replace { user, password } => users::replace(connection, user, password),
        Write::UpgradePassword { username, old, new } => users::upgrade_password(connection, username, old, new),
        Write::CreateSession(session) => sessions::create(connection, session),
        Write::ClearAwaySessions(session) => sessions::clear_away(connection, session),
        Write::ReplaceSession(session) => sessions::replace(connection, session),
        Write::Probe => {
            // SQLite writes no page for a row that is set to what it is; one that was another in between it does.
            for step in ["UPDATE meta SET last_seq = last_seq + 1", "UPDATE meta SET last_seq = last_seq - 1"] {
                connection.prepare_cached(step)?.execute([])?;
            }
            Ok(0)
        }
    }
}
