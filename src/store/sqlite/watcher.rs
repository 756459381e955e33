//! Notices that the database has changed, by whichever process, and that it was taken away.

use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::Notify;

use super::place::Place;
use super::{OpenError, Threads};

/// How often SQLite's data version is looked at: a few microseconds each time.
const PERIOD: Duration = Duration::from_millis(200);

/// Polls on a thread and a connection of its own, because a data version is good on one connection only.
pub(super) struct Watcher {
    changed: Arc<Notify>,
    /// Dropped to end the thread.
    stop: Mutex<Option<SyncSender<()>>>,
    threads: Threads,
}

impl Watcher {
    /// Starts the thread.
    pub(super) fn start(connection: Connection, place: Arc<Place>) -> Result<Self, OpenError> {
        let changed = Arc::new(Notify::new());
        let (stop, stopped) = sync_channel::<()>(0);
        let notify = Arc::clone(&changed);
        let mut known = data_version(&connection)?;
        let mut in_place = true;
        let body = move || {
            while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                let version = data_version(&connection).ok();
                // While it cannot be read, others may well be writing.
                if version != Some(known) {
                    known = version.unwrap_or(known);
                    notify.notify_one();
                }
                // The writer looks by itself; this tells of it before anybody writes.
                let looked = place.check();
                if looked.is_ok() != in_place {
                    in_place = looked.is_ok();
                    match looked {
                        Ok(()) => tracing::info!("the database is in its place again: writes go on"),
                        Err(error) => tracing::error!("writes are refused: {error}"),
                    }
                }
            }
        };
        let threads = Threads::spawn("store-watcher", vec![Box::new(body)])?;
        Ok(Self { changed, stop: Mutex::new(Some(stop)), threads })
    }

    /// Returns once the database has changed since the last return: for one caller at a time.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Ends the thread.
    pub(super) async fn close(&self) {
        drop(self.stop.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.threads.join().await;
    }
}

fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
}
