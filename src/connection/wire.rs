//! The socket beneath the frames: counts what the client accepts, and knows whether a message of theirs is under way.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A stream that knows how many bytes it has got rid of, and where the bytes that it has read end.
#[derive(Debug)]
pub struct Wire {
    io: TcpStream,
    written: u64,
    frames: Frames,
}

impl Wire {
    /// Wraps a stream of which this much has been read already.
    pub fn new(io: TcpStream, leftover: &[u8]) -> Self {
        let mut frames = Frames::default();
        frames.follow(leftover);
        Self { io, written: 0, frames }
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
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        self.frames.follow(&buf.filled()[before..]);
        read
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

    fn follow(&mut self, mut bytes: &[u8]) {
        while let [first, rest @ ..] = bytes {
            if self.have < self.head_length() {
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
                followed.follow(piece);
            }
            assert_eq!(followed.begun(), Some(4), "in pieces of {pieces}");
            followed.follow(&bytes[bytes.len() - 1..]);
            assert_eq!((followed.begun(), followed.ended), (None, 5));
        }
        let mut followed = Frames::default();
        followed.follow(&[frame(part, 3), frame(ping, 3)].concat());
        assert_eq!(followed.begun(), Some(0), "a control frame does not end the message around it");
    }
}
