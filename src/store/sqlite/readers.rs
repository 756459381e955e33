//! Threads that read, side by side. The store has two sets: scans, however many and slow, hold up no lookup.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{OpenError, Threads};
use crate::store::StoreError;

/// The most reads that wait; a full queue refuses further ones at once.
const QUEUE_LENGTH: usize = 4096;
/// How often the deadline is looked at, in steps of SQLite's virtual machine: well below a millisecond.
const STEPS_BETWEEN_CHECKS: i32 = 10_000;

/// Work on a reader's connection.
pub(super) type Job = Box<dyn FnOnce(&Connection) + Send>;

/// Hands reads to whichever thread is free.
pub(super) struct Readers {
    /// `None` once closed.
    queue: Mutex<Option<SyncSender<Job>>>,
    threads: Threads,
}

impl Readers {
    /// Starts so many threads. A read that takes longer than `patience` is given up with [`StoreError::Timeout`].
    pub(super) fn start(
        name: &str,
        count: usize,
        patience: Duration,
        connect: impl Fn() -> Result<Connection, OpenError>,
    ) -> Result<Self, OpenError> {
        let (queue, jobs) = sync_channel(QUEUE_LENGTH);
        let jobs = Arc::new(Mutex::new(jobs));
        let mut bodies: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
        for _ in 0..count {
            let (mut connection, jobs) = (connect()?, Arc::clone(&jobs));
            bodies.push(Box::new(move || run(&mut connection, &jobs, patience)));
        }
        Ok(Self { queue: Mutex::new(Some(queue)), threads: Threads::spawn(name, bodies)? })
    }

    /// Runs `work` on a free thread and waits for its answer. It is dropped unstarted when the caller is gone.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.submit(Box::new(move |connection| {
            if !reply.is_closed() {
                let _ = reply.send(work(connection));
            }
        }))?;
        answer.await.unwrap_or_else(|_| Err(StoreError::Unavailable("the reader gave no answer".into())))
    }

    /// Queues a job.
    pub(super) fn submit(&self, job: Job) -> Result<(), StoreError> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queue.as_ref().ok_or_else(|| StoreError::Unavailable("the store is closed".into()))?;
        queue.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::Unavailable("too many reads are waiting".into()),
            TrySendError::Disconnected(_) => StoreError::Unavailable("the readers have ended".into()),
        })
    }

    /// Finishes what is queued, then ends the threads.
    pub(super) async fn close(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.threads.join().await;
    }
}

fn run(connection: &mut Connection, jobs: &Mutex<Receiver<Job>>, patience: Duration) {
    loop {
        // One thread waits for a job, the others for this lock.
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        let deadline = Instant::now() + patience;
        let late = move || Instant::now() > deadline;
        if let Err(error) = connection.progress_handler(STEPS_BETWEEN_CHECKS, Some(late)) {
            tracing::warn!(error = %error, "a read has no deadline");
        }
        // A panic costs its own read: the reply is dropped.
        let _ = catch_unwind(AssertUnwindSafe(|| job(connection)));
    }
}
