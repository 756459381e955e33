//! A client's connection while it speaks HTTP: given up when the client sends or accepts nothing for too long, and ended so
//! that the last answer arrives.
//!
//! hyper has one deadline for a request's head and the idle time before it together, and none for what it writes. After an
//! upgrade, `connection` looks to it itself.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// The most that is taken of a body that was answered before it had come.
const DISCARD_BYTES: usize = 16 << 20;

/// How long a connection waits for its client.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// From the connection, or the first byte of a later request, to the end of the request's head.
    pub head: Duration,
    /// From an answer to the next request.
    pub idle: Duration,
    /// For the rest of a body that was answered before it had come.
    pub rest: Duration,
    /// For the client to accept a byte.
    pub write: Duration,
}

/// How far the request of a connection is, told by whoever answers it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Grows with each head that has come, and with each answer that is made: odd in between.
    steps: AtomicUsize,
    /// Something of its body may be on the way.
    unread: AtomicBool,
}

impl Progress {
    /// The head of a request has come, with or without a body behind it.
    pub fn begin(&self, has_body: bool) {
        self.unread.store(has_body, Ordering::Relaxed);
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Its body has come, or was waited for long enough.
    pub fn read(&self) {
        self.unread.store(false, Ordering::Relaxed);
    }

    /// Its answer is made. Whether something of its body may be on the way still.
    pub fn answered(&self) -> bool {
        self.steps.fetch_add(1, Ordering::Relaxed);
        self.unread.load(Ordering::Relaxed)
    }
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    /// Nothing of the client's: its request is being answered.
    Answer,
    /// The next request.
    Request,
    /// The rest of a request's head.
    Head,
    /// The rest of a body that nobody reads.
    Rest,
}

/// A stream with a deadline for whatever its client is to do.
#[derive(Debug)]
pub struct Stream {
    io: TcpStream,
    patience: Patience,
    progress: Arc<Progress>,
    /// The last step of the progress that was seen.
    step: usize,
    awaited: Awaited,
    /// Until when.
    deadline: Pin<Box<Sleep>>,
    /// What was taken of the body that nobody reads.
    discarded: usize,
    /// Runs while the client accepts nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Stream {
    /// A new connection, which waits for the head of its first request.
    pub fn new(io: TcpStream, patience: Patience, progress: Arc<Progress>) -> Self {
        let deadline = Box::pin(sleep(patience.head));
        Self { io, patience, progress, step: 0, awaited: Awaited::Head, deadline, discarded: 0, stalled: None }
    }

    /// The connection itself.
    pub fn into_inner(self) -> TcpStream {
        self.io
    }

    /// Waits for something else from now on.
    fn awaits(&mut self, awaited: Awaited) {
        if self.awaited == awaited {
            return;
        }
        self.awaited = awaited;
        let patience = match awaited {
            Awaited::Answer => return,
            Awaited::Request => self.patience.idle,
            Awaited::Head => self.patience.head,
            Awaited::Rest => self.patience.rest,
        };
        self.deadline.as_mut().reset(Instant::now() + patience);
    }

    /// A write's outcome, unless it has been waited for too long.
    fn in_time<T>(&mut self, cx: &mut Context<'_>, written: Poll<Result<T>>) -> Poll<Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience.write;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(patience)));
        stalled.as_mut().poll(cx).map(|()| Err(Error::from(ErrorKind::TimedOut)))
    }

    /// Takes what still comes, up to a bound: unread, it would turn the end of the connection into a reset, which destroys the
    /// answer on its way.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.awaits(Awaited::Rest);
        let mut bytes = [0; 8 << 10];
        while self.discarded < DISCARD_BYTES {
            let mut buf = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.io).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => self.discarded += buf.filled().len(),
                Poll::Ready(_) => break,
                Poll::Pending => return self.deadline.as_mut().poll(cx),
            }
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Stream {
    /// What has not come in time is the end of the input, on which hyper ends the connection without an answer.
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        let step = self.progress.steps.load(Ordering::Relaxed);
        if std::mem::replace(&mut self.step, step) != step {
            self.awaits(Awaited::Answer);
        }
        if step % 2 == 1 {
            return read;
        }
        if read.is_pending() {
            if self.awaited == Awaited::Answer {
                self.awaits(Awaited::Request);
            }
            return self.deadline.as_mut().poll(cx).map(Ok);
        }
        if buf.filled().len() > before {
            self.awaits(Awaited::Head);
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.in_time(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bytes);
        self.in_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
        if self.progress.unread.load(Ordering::Relaxed) {
            ready!(self.poll_discard(cx));
        }
        Poll::Ready(Ok(()))
    }
}
