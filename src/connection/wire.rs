//! The socket beneath the frames: counts what the client accepts, knows whether a message of theirs is under way, and keeps
//! the end of what they send back.
//!
//! tungstenite sends nothing more once it has read a close frame or the end of input. Both are therefore kept from it until
//! what came before them is answered.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A stream that knows how many bytes it has got rid of, and where the bytes that it has read end.
#[derive(Debug)]
pub struct Wire {
    io: TcpStream,
    written: u64,
    frames: Frames,
    end: End,
}

/// How far the client has come to the end of what it sends.
#[derive(Debug)]
enum End {
    /// It may send more calls.
    Open,
    /// A close frame has begun, with these bytes, which nobody was given yet.
    Kept(Vec<u8>),
    /// These bytes are to be read next.
    Released(Vec<u8>),
    /// There is nothing more to read.
    Input,
}

impl Wire {
    /// Wraps a stream of which this much has been read already. A close frame is taken away from that, and kept.
    pub fn new(io: TcpStream, leftover: &mut Vec<u8>) -> Self {
        let mut frames = Frames::default();
        let calls = frames.follow(leftover, true);
        let kept = leftover.split_off(calls);
        let end = if kept.is_empty() { End::Open } else { End::Kept(kept) };
        Self { io, written: 0, frames, end }
    }

    /// Whether the client sends no more calls. Nothing is read any more, until the end is released.
    pub fn is_ending(&self) -> bool {
        matches!(self.end, End::Kept(_) | End::Input)
    }

    /// Gives the close frame to whoever reads next. False when the input has ended without one.
    pub fn release(&mut self) -> bool {
        match &mut self.end {
            End::Kept(bytes) => {
                self.end = End::Released(std::mem::take(bytes));
                true
            }
            End::Open | End::Released(_) => true,
            End::Input => false,
        }
    }

    /// The connection itself.
    pub fn into_inner(self) -> TcpStream {
        self.io
    }

    /// The bytes that the client's side has accepted so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The number of the message that has begun and not ended in what was read; `None` between messages.
    pub fn begun(&self) -> Option<u64> {
        self.frames.begun()
    }

    /// Whether something waits to be read.
    pub fn is_readable(&self) -> bool {
        self.io.poll_read_ready(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    /// Whether reading would find something.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_read_ready(cx)
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let stop = match &mut self.end {
            // The loop knows why.
            End::Kept(_) | End::Input => return Poll::Pending,
            End::Released(bytes) if !bytes.is_empty() => {
                let here = bytes.len().min(buf.remaining());
                buf.put_slice(&bytes[..here]);
                bytes.drain(..here);
                false
            }
            open => {
                let is_open = matches!(open, End::Open);
                ready!(Pin::new(&mut self.io).poll_read(cx, buf))?;
                if buf.filled().len() == before {
                    self.end = End::Input;
                    return Poll::Pending;
                }
                is_open
            }
        };
        let bytes = &buf.filled()[before..];
        let calls = self.frames.follow(bytes, stop);
        if calls < bytes.len() {
            self.end = End::Kept(bytes[calls..].to_vec());
            buf.set_filled(before + calls);
            if calls == 0 {
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, bytes);
        if let Poll::Ready(Ok(bytes)) = &written {
            self.written += *bytes as u64;
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// The opcode of a close frame.
const CLOSE: u8 = 8;

/// Follows frames (RFC 6455 §5.2) only so far as to know where messages end: tungstenite does not tell of half ones.
#[derive(Debug, Default)]
struct Frames {
    /// Opcode, length and extended length of the frame under way.
    head: [u8; 10],
    /// How much of it has come.
    have: usize,
    /// What is to come of its mask and payload, once the head is there.
    left: u64,
    /// Its message has begun in an earlier frame.
    fragmented: bool,
    /// Messages, and control frames between them, that have ended.
    ended: u64,
}

impl Frames {
    fn begun(&self) -> Option<u64> {
        (self.fragmented || self.have > 0).then_some(self.ended)
    }

    /// Takes note of these bytes, or with `stop` of those before a close frame. Answers how many it has taken.
    fn follow(&mut self, all: &[u8], stop: bool) -> usize {
        let mut bytes = all;
        while let [first, rest @ ..] = bytes {
            if self.have < self.head_length() {
                if stop && self.have == 0 && first & 0x0f == CLOSE {
                    break;
                }
                self.head[self.have] = *first;
                self.have += 1;
                bytes = rest;
                if self.have < self.head_length() {
                    continue;
                }
                self.left = self.length();
            } else {
                let here = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= here as u64;
                bytes = &bytes[here..];
            }
            if self.left == 0 {
                self.end();
            }
        }
        all.len() - bytes.len()
    }

    /// Takes note of the end of a frame.
    fn end(&mut self) {
        let (is_last, is_control) = (self.head[0] & 0x80 != 0, self.head[0] & 0x08 != 0);
        if !is_control {
            self.fragmented = !is_last;
        }
        self.ended += u64::from(!self.fragmented);
        self.have = 0;
    }

    /// The bytes of the head, as far as that is known.
    fn head_length(&self) -> usize {
        match self.head[1] & 0x7f {
            126 if self.have >= 2 => 4,
            127 if self.have >= 2 => 10,
            _ => 2,
        }
    }

    /// The bytes of mask and payload that a whole head announces.
    fn length(&self) -> u64 {
        let payload = match &self.head[2..self.have] {
            [] => u64::from(self.head[1] & 0x7f),
            extended => extended.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
        };
        let mask = if self.head[1] & 0x80 != 0 { 4 } else { 0 };
        payload.saturating_add(mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A masked frame.
    fn frame(first: u8, payload: usize) -> Vec<u8> {
        let mut bytes = vec![first];
        match payload {
            0..126 => bytes.push(0x80 | payload as u8),
            126..0x1_0000 => bytes.extend([&[0x80 | 126][..], &(payload as u16).to_be_bytes()].concat()),
            _ => bytes.extend([&[0x80 | 127][..], &(payload as u64).to_be_bytes()].concat()),
        }
        bytes.extend(vec![0xff; 4 + payload]);
        bytes
    }

    #[test]
    fn s19_where_messages_end_is_known_however_the_bytes_come() {
        let (text, part, more, last, ping) = (0x81, 0x01, 0x00, 0x80, 0x89);
        let frames =
            [(text, 5), (text, 0), (ping, 0), (part, 200), (ping, 125), (more, 0), (last, 70_000), (text, 126)];
        let bytes: Vec<u8> = frames.iter().flat_map(|(first, payload)| frame(*first, *payload)).collect();
        for pieces in [1, 2, 3, 7, 4096, bytes.len()] {
            let mut followed = Frames::default();
            for piece in bytes[..bytes.len() - 1].chunks(pieces) {
                followed.follow(piece, true);
            }
            assert_eq!(followed.begun(), Some(4), "in pieces of {pieces}");
            followed.follow(&bytes[bytes.len() - 1..], true);
            assert_eq!((followed.begun(), followed.ended), (None, 5));
        }
        let mut followed = Frames::default();
        followed.follow(&[frame(part, 3), frame(ping, 3)].concat(), true);
        assert_eq!(followed.begun(), Some(0), "a control frame does not end the message around it");
    }

    #[test]
    fn a_close_frame_is_found_however_the_bytes_come() {
        let (text, part, ping, last, close) = (0x81, 0x01, 0x89, 0x80, 0x88);
        // Within a message, too, and none where only a payload looks like one.
        let before = [(text, 5), (part, 200), (ping, 125)].map(|(first, payload)| frame(first, payload)).concat();
        let bytes = [before.clone(), frame(close, 2), frame(last, 3)].concat();
        for pieces in [1, 2, 3, 7, bytes.len()] {
            let mut followed = Frames::default();
            let mut taken = 0;
            for piece in bytes.chunks(pieces) {
                let here = followed.follow(piece, true);
                taken += here;
                if here < piece.len() {
                    break;
                }
            }
            assert_eq!(taken, before.len(), "in pieces of {pieces}");
            assert_eq!(followed.follow(&bytes[taken..], false), bytes.len() - taken);
            assert_eq!(followed.begun(), None);
        }
        assert_eq!(Frames::default().follow(&[&[text, 0x81][..], &[close; 5]].concat(), true), 7);
    }
}
