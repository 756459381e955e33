//! One socket: frames in, answers and notifications out. One task reads and writes, and each call that cannot be answered
//! at once is a task of its own.
//!
//! What waits is bounded by [`Options::calls_in_flight`], calls under way and finished replies together. While the client
//! accepts no bytes nothing more is read, and no notification is produced; calls under way go on, and their replies
//! wait. Whatever ends what the client sends, calls that came before it are answered first, for as long as a call may take.
//! Those still under way at the socket's end are cut off at their next wait, but for writes: see `rpc`. Everything that a
//! client can do wrong ends in a close code of the protocol; nothing else is buffered for one who does not read.

mod end;
mod timers;
mod wire;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{Sink, Stream, StreamExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tokio_util::task::AbortOnDropHandle;

use crate::auth::token::LEEWAY;
use crate::clock::{Clock, Time};
use crate::rpc::{Answer, Reply};
use crate::sessions::{Closing, Outbound, Peer, STALLED, When, notification};
pub use end::CLOSE_TIMEOUT;
use end::{End, LINGER, fault_of, finish};
use timers::Timers;
use wire::Wire;

/// tungstenite's default of 128 KiB is zeroed at every read and kept per socket.
const READ_BUFFER_BYTES: usize = 4 << 10;
/// Answers are gathered up to this much before they are written without waiting for the flush.
const WRITE_BUFFER_BYTES: usize = 16 << 10;
/// Messages in a row that are not JSON-RPC before the socket is closed.
const MAX_UNPARSABLE: u32 = 20;

/// What answers the frames of a socket: the dispatcher, or an echo for conformance tests.
pub trait Service: Send + 'static {
    /// Takes a text message.
    fn text(&mut self, text: &str) -> Answer;

    /// Whether it has as much under way as it may have: the socket is not read until something is done.
    fn is_full(&self) -> bool {
        false
    }

    /// The next frame to send unasked. Called only while the client accepts bytes, so that nothing is produced for one
    /// who does not; pending must have the task woken, through the peer's mailbox or `cx`.
    fn poll_notification(&mut self, _cx: &mut Context<'_>) -> Poll<Utf8Bytes> {
        Poll::Pending
    }

    /// Told at each ping, when the client has given a sign of life since the one before.
    fn alive(&self) {}

    /// Takes a binary message; `None` refuses it with 1003.
    fn binary(&mut self, _data: Bytes) -> Option<Bytes> {
        None
    }
}

/// Bounds of a socket.
#[derive(Debug, Clone)]
pub struct Options {
    /// The largest message, in bytes.
    pub message_bytes: usize,
    /// Calls under way before the socket is no longer read.
    pub calls_in_flight: usize,
    /// From the upgrade to signing in; `None` never asks.
    pub sign_in: Option<Duration>,
    /// For a message, from its first byte to its last.
    pub message: Duration,
    /// Between pings.
    pub ping: Duration,
    /// From a ping to any sign of life.
    pub pong: Duration,
    /// For the client to accept a byte.
    pub write: Duration,
    /// For a call.
    pub call: Duration,
}

/// The calls under way on one socket. Each is a task of its own: while the client accepts no bytes this one polls none of
/// them, and what they hold, such as a turn to write, would be kept from everyone else.
type Calls = FuturesUnordered<AbortOnDropHandle<Reply>>;

/// A socket from the upgrade to its close.
pub struct Connection<S> {
    ws: WebSocketStream<Wire>,
    peer: Arc<Peer>,
    service: S,
    options: Arc<Options>,
    clock: Clock,
    /// Made at the first call that cannot be answered at once.
    calls: Option<Box<Calls>>,
    /// Frames may lie in tungstenite's buffer although the socket is not readable.
    maybe_buffered: bool,
    /// The last event was a notification: calls have their turn.
    notified: bool,
    /// Something was fed since the last flush.
    dirty: bool,
    /// Closing once the calls under way are answered.
    ending: Option<Ending>,
    unparsable: u32,
    timers: Timers,
    /// Called once when the socket signs in.
    on_sign_in: Option<Box<dyn FnOnce() + Send>>,
}

/// What a socket does next.
enum Event {
    Outbound(Outbound),
    Answered(Reply),
    /// A call ended without an answer: a fault of ours outside its handler.
    Failed,
    Inbound(Option<Result<Message, Error>>),
    Timer,
    WriteFailed,
    Finished(Ending),
}

/// Who closes a socket once the calls under way are answered.
enum Ending {
    /// We do.
    Ours(Closing),
    /// The client, whose close frame or end of input is kept back until then.
    Theirs,
}

impl<S: Service> Connection<S> {
    /// A connection over an upgraded stream; `leftover` is what came behind the request's head.
    pub async fn new(
        io: TcpStream,
        leftover: Vec<u8>,
        peer: Arc<Peer>,
        service: S,
        options: Arc<Options>,
        clock: Clock,
    ) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(WRITE_BUFFER_BYTES)
            .max_write_buffer_size(usize::MAX) // bounded by what is fed: nothing while the socket is blocked
            .max_message_size(Some(options.message_bytes))
            .max_frame_size(Some(options.message_bytes));
        let mut leftover = leftover;
        let wire = Wire::new(io, &mut leftover);
        // Also where only a close frame was: it is noticed where nothing else is left to be read.
        let maybe_buffered = !leftover.is_empty() || wire.is_ending();
        let ws = WebSocketStream::from_partially_read(wire, leftover, Role::Server, Some(config)).await;
        let timers = Timers::new(&options);
        Self {
            ws,
            peer,
            service,
            options,
            clock,
            calls: None,
            maybe_buffered,
            notified: false,
            dirty: false,
            ending: None,
            unparsable: 0,
            timers,
            on_sign_in: None,
        }
    }

    /// Has `hook` run once when the socket signs in; it is dropped with the socket otherwise.
    pub fn on_sign_in(mut self, hook: impl FnOnce() + Send + 'static) -> Self {
        self.on_sign_in = Some(Box::new(hook));
        self
    }

    /// Serves the socket until it ends.
    pub async fn run(mut self) {
        let end = loop {
            self.follow_identity();
            let event = std::future::poll_fn(|cx| self.poll_event(cx)).await;
            if let Some(end) = self.handle(event) {
                break end;
            }
        };
        let calls = self.calls.take();
        drop(calls);
        // Boxed, so that the buffers of this rare part are not in every socket's task.
        Box::pin(finish(self.ws, end)).await;
    }

    /// The next thing to do. Outbound frames and answers come before new calls; the flush comes when
    /// nothing else is ready, so that answers that are ready together leave together.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        match Pin::new(&mut self.ws).poll_ready(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(Event::WriteFailed),
            Poll::Pending => return self.poll_blocked(cx),
        }
        if let Some(mailbox) = &self.peer.mailbox
            && let Poll::Ready(outbound) = mailbox.poll_next(cx)
        {
            return Poll::Ready(Event::Outbound(outbound));
        }
        if !self.notified
            && let Some(event) = self.poll_notification(cx)
        {
            return Poll::Ready(event);
        }
        let mut under_way = 0;
        if let Some(calls) = &mut self.calls
            && !calls.is_empty()
        {
            if let Poll::Ready(Some(done)) = calls.poll_next_unpin(cx) {
                self.notified = false;
                return Poll::Ready(done.map_or(Event::Failed, Event::Answered));
            }
            under_way = calls.len();
        }
        if self.ending.is_none() && under_way < self.options.calls_in_flight && !self.service.is_full() {
            // Do not enter tungstenite's read path, and touch its buffer, when something else woke the task.
            if self.maybe_buffered || self.ws.get_ref().poll_read_ready(cx).is_ready() {
                match Pin::new(&mut self.ws).poll_next(cx) {
                    Poll::Ready(inbound) => {
                        (self.maybe_buffered, self.notified) = (true, false);
                        return Poll::Ready(Event::Inbound(inbound));
                    }
                    Poll::Pending => {
                        self.maybe_buffered = false;
                        self.follow_message();
                        if self.ws.get_ref().is_ending() {
                            self.end_after_replies(Ending::Theirs);
                        }
                    }
                }
            }
        }
        if under_way == 0
            && let Some(ending) = self.ending.take()
        {
            return Poll::Ready(Event::Finished(ending));
        }
        if std::mem::take(&mut self.notified)
            && let Some(event) = self.poll_notification(cx)
        {
            return Poll::Ready(event);
        }
        if self.dirty {
            match Pin::new(&mut self.ws).poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    self.dirty = false;
                    if self.timers.stalled.take().is_some() {
                        self.timers.pong = None;
                    }
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Event::WriteFailed),
                Poll::Pending => return self.poll_blocked(cx),
            }
        }
        self.timers.poll(cx).map(|()| Event::Timer)
    }

    /// What the service has to tell, unless the socket is closing.
    fn poll_notification(&mut self, cx: &mut Context<'_>) -> Option<Event> {
        if self.ending.is_some() {
            return None;
        }
        match self.service.poll_notification(cx) {
            Poll::Ready(frame) => {
                self.notified = true;
                Some(Event::Outbound(Outbound::Frame(frame)))
            }
            Poll::Pending => None,
        }
    }

    /// The client accepts no bytes: only the write deadline and an order to close matter.
    fn poll_blocked(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        if let Some(mailbox) = &self.peer.mailbox
            && mailbox.poll_closing(cx).is_ready()
        {
            return Poll::Ready(Event::WriteFailed);
        }
        let written = self.ws.get_ref().written();
        let before = self.timers.stalled.map(|(_, before)| before);
        // Counted from the last byte that was accepted, which is a sign of life: each wakes this task.
        if before != Some(written) {
            self.timers.stalled = Some((Instant::now(), written));
        }
        if before.is_some_and(|before| before != written) {
            self.timers.pong = None;
        }
        if before.is_none() {
            self.timers.rearm(&self.options);
        }
        self.timers.poll(cx).map(|()| Event::Timer)
    }

    fn handle(&mut self, event: Event) -> Option<End> {
        match event {
            Event::Outbound(Outbound::Frame(frame)) => return self.feed(Message::Text(frame)),
            Event::Outbound(Outbound::Close(closing, When::AfterReplies)) => {
                self.end_after_replies(Ending::Ours(closing));
            }
            Event::Finished(Ending::Theirs) => {
                if !self.ws.get_mut().release() {
                    return Some(End::ByPeer);
                }
                // The close frame is read next.
                (self.maybe_buffered, self.timers.ending) = (true, None);
            }
            Event::Outbound(Outbound::Close(closing, When::Now)) | Event::Finished(Ending::Ours(closing)) => {
                let Closing { told, code, reason } = closing;
                let gone = told.and_then(|frame| self.feed(Message::Text(frame)));
                return gone.or(Some(End::Close(code, reason)));
            }
            Event::Answered(reply) => return self.answer(reply),
            Event::Failed => return Some(End::Close(1011, "internal error")),
            Event::Inbound(inbound) => return self.inbound(inbound),
            Event::Timer => return self.tick(),
            Event::WriteFailed => return Some(End::Gone),
        }
        None
    }

    fn inbound(&mut self, inbound: Option<Result<Message, Error>>) -> Option<End> {
        self.timers.pong = None;
        match inbound {
            None => Some(End::Gone),
            Some(Err(error)) => match fault_of(&error) {
                Some((code, reason)) => self.refuse(code, reason),
                None => Some(End::Gone),
            },
            Some(Ok(Message::Text(text))) => match self.service.text(&text) {
                Answer::Now(reply) => self.answer(reply),
                Answer::Later(call) => {
                    self.calls.get_or_insert_default().push(AbortOnDropHandle::new(tokio::spawn(call)));
                    None
                }
            },
            Some(Ok(Message::Binary(data))) => match self.service.binary(data) {
                Some(data) => self.feed(Message::Binary(data)),
                None => self.refuse(1003, "text frames only"),
            },
            Some(Ok(Message::Close(_))) => Some(End::ByPeer),
            Some(Ok(Message::Ping(_))) => {
                self.dirty = true; // tungstenite has queued the pong
                None
            }
            Some(Ok(Message::Pong(_) | Message::Frame(_))) => None,
        }
    }

    fn answer(&mut self, reply: Reply) -> Option<End> {
        self.unparsable = if reply.unparsable() { self.unparsable + 1 } else { 0 };
        let end = reply.into_text().and_then(|text| self.feed(Message::text(text)));
        if self.unparsable >= MAX_UNPARSABLE && end.is_none() {
            return self.refuse(4501, "not JSON-RPC");
        }
        end
    }

    /// Reads nothing more, and closes with this code once the calls under way are answered.
    fn refuse(&mut self, code: u16, reason: &'static str) -> Option<End> {
        self.end_after_replies(Ending::Ours(Closing { told: None, code, reason }));
        None
    }

    /// Ends the socket once the calls under way are answered: those that wait longer than a call may take are not.
    fn end_after_replies(&mut self, ending: Ending) {
        self.ending = Some(ending);
        self.timers.ending.get_or_insert(Instant::now() + self.options.call + LINGER);
        self.timers.rearm(&self.options);
    }

    /// Hands a message to tungstenite, which was ready for it.
    fn feed(&mut self, message: Message) -> Option<End> {
        self.dirty = true;
        Pin::new(&mut self.ws).start_send(message).err().map(|_| End::Gone)
    }

    /// Follows a sign-in or an extension that a call has made.
    fn follow_identity(&mut self) {
        let version = self.peer.identity_version();
        if version == self.timers.identity_version {
            return;
        }
        let Some(identity) = self.peer.identity() else { return };
        self.timers.identity_version = version;
        self.timers.sign_in = None;
        if let Some(hook) = self.on_sign_in.take() {
            hook();
        }
        let (now, wall) = (Instant::now(), self.clock.now());
        let until = |time: Time| Duration::from_millis(u64::try_from(time.ms() - wall.ms()).unwrap_or(0));
        self.timers.expiring = Some(now + until(identity.expires_at).mul_f64(0.8));
        self.timers.expired = Some(now + until(identity.expires_at.plus(LEEWAY)));
        self.timers.rearm(&self.options);
    }

    /// Follows the message that was read up to somewhere in its middle, if there is one.
    fn follow_message(&mut self) {
        let begun = self.ws.get_ref().begun();
        if begun != self.timers.message.map(|(_, number)| number) {
            self.timers.message = begun.map(|number| (Instant::now(), number));
            self.timers.rearm(&self.options);
        }
    }

    /// Does what is due.
    fn tick(&mut self) -> Option<End> {
        // A call may have signed the socket in since the timer was set, and be under way still.
        self.follow_identity();
        let now = Instant::now();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.timers.sign_in) {
            return Some(End::Close(4502, "not authenticated in time"));
        }
        if due(self.timers.expired) {
            return Some(End::Close(4001, "token expired"));
        }
        if due(self.timers.ending) {
            self.timers.ending = None;
            self.calls = None;
        }
        if let Some((since, written)) = self.timers.stalled
            && since + self.options.write <= now
        {
            let accepted = self.ws.get_ref().written();
            if accepted == written {
                return Some(End::Close(STALLED, "stalled reader"));
            }
            self.timers.stalled = Some((now, accepted));
        }
        // A socket that is not read cannot show the rest of its message, nor its pong.
        let is_stalled = self.timers.stalled.is_some();
        let unread = is_stalled
            || self.ending.is_some()
            || self.service.is_full()
            || self.calls.as_ref().is_some_and(|calls| calls.len() >= self.options.calls_in_flight);
        if let Some((since, number)) = self.timers.message
            && since + self.options.message <= now
        {
            if !unread {
                return Some(End::Close(4003, "message not complete in time"));
            }
            self.timers.message = Some((now, number));
        }
        if due(self.timers.pong.map(|since| since + self.options.pong)) {
            if !unread {
                return Some(End::Close(4003, "no pong"));
            }
            // What waits to be read is a sign of life; so is a byte accepted, which would have ended the wait.
            if is_stalled && !self.ws.get_ref().is_readable() {
                return Some(End::Close(STALLED, "no sign of life"));
            }
            self.timers.pong = Some(now);
        }
        if due(self.timers.expiring) {
            self.timers.expiring = None;
            if let Some(identity) = self.peer.identity() {
                let params = serde_json::json!({"expires_at": identity.expires_at});
                let end = self.feed(Message::Text(notification("auth.expiring", &params)));
                if end.is_some() {
                    return end;
                }
            }
        }
        if self.timers.ping <= now {
            self.timers.ping = now + self.options.ping;
            if !unread {
                if self.timers.pong.is_none() {
                    self.service.alive();
                }
                self.timers.pong.get_or_insert(now);
                let end = self.feed(Message::Ping(Bytes::new()));
                if end.is_some() {
                    return end;
                }
            } else if is_stalled {
                // A ping would not get through, but whoever is there gives some sign by the time of its pong.
                self.timers.pong.get_or_insert(now);
            }
        }
        self.timers.rearm(&self.options);
        None
    }
}
