//! A few threads for work that would hold up every other call: bounded, of low priority, passing over what nobody
//! waits for any more.
//!
//! It refuses rather than lets its queue grow, and never starts a job whose caller has gone. It has not heard of
//! passwords.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use tokio::sync::oneshot;
use tracing::error;

/// How much the threads yield to those that answer calls, in steps of `nice` (0 to 19).
#[cfg(target_os = "linux")]
const NICENESS: i32 = 5;

/// Why a job was not done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Undone {
    /// The queue is full.
    Full,
    /// The pool was closed, or the job panicked.
    Lost,
}

/// A fixed number of threads behind one bounded queue, served in order of arrival.
pub(super) struct Pool {
    shared: Arc<Shared>,
    /// The longest queue, not counting what the threads have in hand.
    queue_max: usize,
    /// Empty once closed.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Pool {
    /// Starts `threads` threads. Errors: the operating system's, when it gives no more of them.
    pub(super) fn start(threads: usize, queue_max: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { queue: Mutex::default(), filled: Condvar::new() });
        let pool = Self { shared, queue_max, threads: Mutex::default() };
        for number in 0..threads {
            let shared = pool.shared.clone();
            let thread = std::thread::Builder::new().name(format!("hashing-{number}")).spawn(move || shared.work())?;
            pool.lock_threads().push(thread);
        }
        Ok(pool)
    }

    /// Has `work` done by a thread of the pool; not when the future is dropped before a thread took the job.
    pub(super) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Undone> {
        let (reply, answer) = oneshot::channel();
        self.push(Box::new(Task { work, reply }))?;
        answer.await.map_err(|_| Undone::Lost)
    }

    /// How many jobs wait for a thread.
    pub(super) fn queued(&self) -> usize {
        self.shared.lock().jobs.len()
    }

    /// Drops the jobs that wait and returns when those in hand are done. Safe to call again.
    pub(super) fn close(&self) {
        {
            let mut queue = self.shared.lock();
            queue.closed = true;
            queue.jobs.clear();
        }
        self.shared.filled.notify_all();
        let threads = std::mem::take(&mut *self.lock_threads());
        for thread in threads {
            if thread.join().is_err() {
                error!("a hashing thread had ended by a panic");
            }
        }
    }

    /// A full queue first loses the jobs whose callers have gone.
    fn push(&self, job: Box<dyn Job>) -> Result<(), Undone> {
        let mut queue = self.shared.lock();
        if queue.closed {
            return Err(Undone::Lost);
        }
        if queue.jobs.len() >= self.queue_max {
            queue.jobs.retain(|job| job.is_wanted());
        }
        if queue.jobs.len() >= self.queue_max {
            return Err(Undone::Full);
        }
        queue.jobs.push_back(job);
        drop(queue);
        self.shared.filled.notify_one();
        Ok(())
    }

    fn lock_threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().expect("nothing panics while it holds this lock")
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
    }
}

/// What the threads and the pool's owner both see.
struct Shared {
    queue: Mutex<Queue>,
    /// Signalled for each new job and at closing.
    filled: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Box<dyn Job>>,
    closed: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("jobs run outside this lock, and nothing else panics")
    }

    /// The life of a thread.
    fn work(&self) {
        lower_priority();
        while let Some(job) = self.next() {
            if job.is_wanted() && catch_unwind(AssertUnwindSafe(|| job.run())).is_err() {
                error!("a job of the hashing pool panicked; its caller was told to try again");
            }
        }
    }

    /// The next job, waiting for it; `None` once the pool is closed.
    fn next(&self) -> Option<Box<dyn Job>> {
        let waiting = |queue: &mut Queue| queue.jobs.is_empty() && !queue.closed;
        let mut queue =
            self.filled.wait_while(self.lock(), waiting).expect("jobs run outside this lock, and nothing else panics");
        queue.jobs.pop_front()
    }
}

/// Work with somebody waiting for its result.
trait Job: Send {
    /// Whether the caller still waits.
    fn is_wanted(&self) -> bool;
    /// Does the work and tells the caller.
    fn run(self: Box<Self>);
}

struct Task<T, W> {
    work: W,
    reply: oneshot::Sender<T>,
}

impl<T: Send, W: FnOnce() -> T + Send> Job for Task<T, W> {
    fn is_wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    fn run(self: Box<Self>) {
        let Self { work, reply } = *self;
        // A caller that has gone meanwhile needs no answer.
        let _ = reply.send(work());
    }
}

/// Lowers the calling thread's priority; on systems where priority belongs to the process, leaves it.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS) {
        tracing::warn!(%error, "hashing threads keep the priority of all others");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::{FutureExt, poll};

    use super::*;

    /// A job that holds a thread until the sender is dropped, and a signal that it runs.
    fn blocker() -> (impl FnOnce() + Send + 'static, mpsc::Sender<()>, mpsc::Receiver<()>) {
        let (release, released) = mpsc::channel::<()>();
        let (running, runs) = mpsc::channel();
        let block = move || {
            running.send(()).unwrap();
            let _ = released.recv();
        };
        (block, release, runs)
    }

    #[tokio::test]
    async fn a_full_queue_refuses_until_a_caller_goes() {
        let pool = Pool::start(1, 1).unwrap();
        let (block, release, runs) = blocker();
        let mut held = Box::pin(pool.run(block));
        assert!(poll!(&mut held).is_pending());
        runs.recv().unwrap();

        let mut second = Box::pin(pool.run(|| 2));
        assert!(poll!(&mut second).is_pending());
        assert_eq!(pool.run(|| 3).await, Err(Undone::Full));
        drop(second);
        let mut fourth = Box::pin(pool.run(|| 4));
        assert!(poll!(&mut fourth).is_pending());
        assert_eq!(pool.queued(), 1);

        drop(release);
        assert_eq!(fourth.await, Ok(4));
        assert_eq!(held.await, Ok(()));
    }

    #[tokio::test]
    async fn a_job_whose_caller_has_gone_is_not_done() {
        let pool = Pool::start(1, 8).unwrap();
        let (block, release, runs) = blocker();
        let mut held = Box::pin(pool.run(block));
        assert!(poll!(&mut held).is_pending());
        runs.recv().unwrap();

        let (done, was_done) = mpsc::channel();
        let mut abandoned = Box::pin(pool.run(move || done.send(())));
        assert!(poll!(&mut abandoned).is_pending());
        drop(abandoned);
        drop(release);
        assert_eq!(pool.run(|| 1).await, Ok(1)); // a later job is done, so the earlier one was passed over
        assert_eq!(was_done.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    }

    #[tokio::test]
    async fn a_panic_costs_its_caller_only() {
        let pool = Pool::start(1, 8).unwrap();
        assert_eq!(pool.run(|| -> u32 { panic!("on purpose") }).await, Err(Undone::Lost));
        assert_eq!(pool.run(|| 5).await, Ok(5));
    }

    #[tokio::test]
    async fn closing_finishes_what_runs_and_drops_what_waits() {
        let pool = Pool::start(1, 8).unwrap();
        let (block, release, runs) = blocker();
        let mut held = Box::pin(pool.run(block));
        assert!(poll!(&mut held).is_pending());
        runs.recv().unwrap();
        let mut waiting = Box::pin(pool.run(|| 1));
        assert!(poll!(&mut waiting).is_pending());

        drop(release);
        pool.close();
        assert_eq!(held.now_or_never(), Some(Ok(())));
        assert!(matches!(waiting.now_or_never(), Some(Ok(1) | Err(Undone::Lost))));
        assert_eq!(pool.run(|| 1).await, Err(Undone::Lost));
        pool.close();
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_threads_yield_to_all_others() {
        let pool = Pool::start(1, 1).unwrap();
        let niceness = || rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap();
        assert_eq!(pool.run(niceness).await, Ok(niceness().max(NICENESS)));
    }
}
