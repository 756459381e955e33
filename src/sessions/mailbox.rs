//! What others want a socket to send: frames and the order to close.
//!
//! A channel would cost every idle socket a kilobyte; an empty mailbox costs a few words. It needs no bound: the only frame
//! that is ever left in one is that the gateway stops, and nothing is taken after a close.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// The close code of a client that accepts no bytes.
pub const STALLED: u16 = 4002;

/// One thing for a socket to do.
#[derive(Debug)]
pub enum Outbound {
    /// Send this text frame.
    Frame(Utf8Bytes),
    /// Close. What waits behind it is not sent.
    Close(Closing, When),
}

/// How a socket closes.
#[derive(Debug)]
pub struct Closing {
    /// The text frame to send before it.
    pub told: Option<Utf8Bytes>,
    /// The close code.
    pub code: u16,
    /// The reason, at most 123 bytes.
    pub reason: &'static str,
}

/// When a socket closes.
#[derive(Debug, Clone, Copy)]
pub enum When {
    /// At once; calls under way are not answered any more.
    Now,
    /// Once the calls under way are answered, as far as they take no longer than a call may.
    AfterReplies,
}

impl Outbound {
    /// Close with this code and reason, and say no more.
    pub fn close(code: u16, reason: &'static str, when: When) -> Self {
        Self::Close(Closing { told: None, code, reason }, when)
    }
}

/// The way to one socket: cheap to clone, never waits.
#[derive(Debug, Clone, Default)]
pub struct Mailbox(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    queue: Mutex<Queue>,
    /// Whether the queue may hold something: spares the socket's task the lock.
    filled: AtomicBool,
    waker: AtomicWaker,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Outbound>,
    closing: bool,
}

impl Mailbox {
    /// Leaves something for the socket. Nothing is taken after a close.
    pub fn post(&self, outbound: Outbound) {
        let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.closing {
            return;
        }
        queue.closing = matches!(outbound, Outbound::Close(..));
        queue.items.push_back(outbound);
        self.0.filled.store(true, Ordering::Release);
        drop(queue);
        self.0.waker.wake();
    }

    /// Has the socket close at once.
    pub fn close(&self, code: u16, reason: &'static str) {
        self.post(Outbound::close(code, reason, When::Now));
    }

    /// Has the socket's task look for what it may send of its own accord, and whether it may read again.
    pub fn wake(&self) {
        self.0.waker.wake();
    }

    /// Ready once there is an order to close at once; registers the task otherwise. For the socket's task only.
    pub fn poll_closing(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.waker.register(cx.waker());
        let queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        match queue.items.back() {
            Some(Outbound::Close(_, When::Now)) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }

    /// The next thing to do; registers the task to be woken when there is none. For the socket's task only.
    pub fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Outbound> {
        // Registered before the look: what comes between the two wakes the task.
        self.0.waker.register(cx.waker());
        self.try_next().map_or(Poll::Pending, Poll::Ready)
    }

    /// The next thing to do, if there is one.
    pub fn try_next(&self) -> Option<Outbound> {
        if !self.0.filled.load(Ordering::Acquire) {
            return None;
        }
        let mut queue = self.0.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(outbound) = queue.items.pop_front() else {
            self.0.filled.store(false, Ordering::Release);
            return None;
        };
        Some(outbound)
    }
}
