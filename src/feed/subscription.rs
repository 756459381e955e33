//! The subscriptions of one socket, pulled by its task when the client accepts bytes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use metrics::gauge;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::reader::Reader;
use super::{Feed, Listener};
use crate::metrics::SUBSCRIPTIONS;
use crate::permission::{Caller, Field, Target, may_read};
use crate::sessions::{CallerUser, Peer};
use crate::store::StoreError;
use crate::users::filter::Filter;
use crate::view::Form;

/// The reply that a subscription waits for, so that no notification precedes it.
#[derive(Debug, Clone, Default)]
pub struct Replied(Arc<AtomicBool>);

impl Replied {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What one call opens. Dropped before its reply is on its way, it ends the subscriptions: nobody was told of them.
pub struct Opening {
    subscriptions: Arc<Subscriptions>,
    /// What each of them waits for.
    pub replied: Replied,
}

impl Opening {
    /// Nothing yet.
    pub fn new(subscriptions: Arc<Subscriptions>) -> Self {
        Self { subscriptions, replied: Replied::default() }
    }

    /// The reply is on its way.
    pub fn told(self) {
        self.replied.0.store(true, Ordering::Release);
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if !self.replied.is_set() {
            let of_this = |other: &Replied| Arc::ptr_eq(&other.0, &self.replied.0);
            let mut open = self.subscriptions.lock();
            open.subscriptions.retain(|subscription| !subscription.replied.as_ref().is_some_and(of_this));
        }
    }
}

/// Everything that a socket is subscribed to. A socket without subscriptions has just this.
pub struct Subscriptions {
    feed: Arc<Feed>,
    peer: Arc<Peer>,
    /// Spares the socket's task the lock.
    some: AtomicBool,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    listener: Option<Arc<Listener>>,
    subscriptions: Vec<Subscription>,
    /// How many there have ever been.
    last_id: u32,
    /// Whose turn it is.
    turn: usize,
}

struct Subscription {
    id: u32,
    filter: Option<Box<Filter>>,
    reader: Reader,
    /// `None` once the reply has left.
    replied: Option<Replied>,
}

impl Subscriptions {
    /// None yet.
    pub fn new(feed: Arc<Feed>, peer: Arc<Peer>) -> Self {
        Self { feed, peer, some: AtomicBool::new(false), open: Mutex::default() }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().subscriptions.len()
    }

    /// Opens one, unless there are `max`, and answers with its id: a small number, so that one frame serves many
    /// sockets. It tells nothing before `replied` is set.
    pub fn open(&self, filter: Option<Filter>, reader: Reader, replied: Replied, max: usize) -> Option<u32> {
        let mut open = self.lock();
        if open.subscriptions.len() >= max {
            return None;
        }
        if open.listener.is_none()
            && let Some(mailbox) = self.peer.mailbox.clone()
        {
            let listener = Arc::new(Listener { mailbox, waiting: AtomicBool::new(false) });
            self.feed.listeners.insert(self.peer.id, listener.clone());
            open.listener = Some(listener);
        }
        open.last_id += 1;
        let id = open.last_id;
        open.subscriptions.push(Subscription { id, filter: filter.map(Box::new), reader, replied: Some(replied) });
        gauge!(SUBSCRIPTIONS).increment(1);
        self.some.store(true, Ordering::Release);
        Some(id)
    }

    /// Ends one. False when there is none of this id.
    pub fn end(&self, id: u32) -> bool {
        let mut open = self.lock();
        let before = open.subscriptions.len();
        open.subscriptions.retain(|subscription| subscription.id != id);
        open.subscriptions.len() < before
    }

    /// The next frame to send, of each subscription in turn. For the socket's task only, whose mailbox wakes it.
    pub fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Utf8Bytes> {
        if !self.some.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        let caller = self.peer.caller();
        let mut open = self.lock();
        if let Some(listener) = &open.listener {
            // Before the look: what is published between the two wakes the task. `SeqCst`: see `Ring::head`.
            listener.waiting.store(true, Ordering::SeqCst);
        }
        let count = open.subscriptions.len();
        for _ in 0..count {
            let turn = open.turn % count;
            open.turn = turn + 1;
            match open.subscriptions[turn].poll_next(&self.feed, &caller, cx) {
                Poll::Ready(Ok(frame)) => return Poll::Ready(frame),
                Poll::Ready(Err(error)) => {
                    tracing::warn!(%error, "a subscription has lost its place");
                    if let Some(mailbox) = &self.peer.mailbox {
                        mailbox.close(1012, "the feed has begun anew");
                    }
                    open.subscriptions.clear();
                    return Poll::Pending;
                }
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        self.feed.listeners.remove(&self.peer.id);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        gauge!(SUBSCRIPTIONS).decrement(1);
    }
}

impl Subscription {
    fn poll_next(
        &mut self,
        feed: &Arc<Feed>,
        caller: &CallerUser,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Utf8Bytes, StoreError>> {
        self.replied.take_if(|replied| replied.is_set());
        if self.replied.is_some() || !may_watch(caller, self.filter.as_deref()) {
            return Poll::Pending;
        }
        loop {
            let change = ready!(self.reader.poll_next(feed, cx))?;
            if let Some(scope) = change.scope(self.filter.as_deref()) {
                let form = Form::of(caller.kind(), caller.target(&change.user().username));
                return Poll::Ready(Ok(change.frame(self.id, form, scope)));
            }
        }
    }
}

/// Whether the caller may watch users through this filter now: signed in, and not by a field that is private to them.
pub fn may_watch(caller: &CallerUser, filter: Option<&Filter>) -> bool {
    let private = filter.and_then(Filter::names_private_field).is_some();
    caller.kind() != Caller::Anonymous && (!private || may_read(caller.kind(), Field::Email, Target::Another))
}
