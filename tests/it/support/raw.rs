//! A WebSocket client made of bytes: it can break every rule of RFC 6455, ignore pings, or never read.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::PATIENCE;

/// One socket.
pub struct RawClient {
    io: TcpStream,
}

/// The opcodes of RFC 6455 §5.2.
pub mod opcode {
    pub const CONTINUATION: u8 = 0;
    pub const TEXT: u8 = 1;
    pub const BINARY: u8 = 2;
    pub const CLOSE: u8 = 8;
    pub const PING: u8 = 9;
    pub const PONG: u8 = 10;
}

impl RawClient {
    /// A connection over which nothing was sent yet, with the smallest receive buffer.
    pub async fn connected(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket can be had");
        socket.set_recv_buffer_size(4096).expect("the buffer can be set");
        Self { io: socket.connect(address).await.expect("the gateway listens") }
    }

    /// An upgraded socket.
    pub async fn upgraded(address: SocketAddr, token: Option<&str>) -> Self {
        let mut raw = Self::connected(address).await;
        let bearer = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let head = format!(
            "GET /rpc HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{bearer}\r\n"
        );
        raw.write(head.as_bytes()).await;
        let mut response = Vec::new();
        while !response.ends_with(b"\r\n\r\n") {
            response.push(raw.byte().await.expect("a response"));
        }
        let status = String::from_utf8_lossy(&response).into_owned();
        assert!(status.starts_with("HTTP/1.1 101 "), "{status}");
        raw
    }

    /// The connection itself.
    pub fn into_inner(self) -> TcpStream {
        self.io
    }

    /// Sends bytes as they are.
    pub async fn write(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.expect("the connection is open");
    }

    /// Ends the sending side.
    pub async fn finish(&mut self) {
        self.io.shutdown().await.expect("the connection is open");
    }

    /// Resets the connection.
    pub fn reset(self) {
        self.io.set_zero_linger().expect("the connection is open");
    }

    /// Sends one masked frame.
    pub async fn frame(&mut self, last: bool, opcode: u8, payload: &[u8]) {
        self.write(&masked(last, opcode, payload)).await;
    }

    /// The next frame: its opcode and payload; `None` at the end. Pings are not answered.
    pub async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let opcode = self.byte().await? & 0x0f;
        let extra = match self.byte().await? {
            126 => 2,
            127 => 8,
            length => return Some((opcode, self.read(length.into()).await?)),
        };
        let length = self.read(extra).await?.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        Some((opcode, self.read(length).await?))
    }

    /// The code of the close frame, passing over what comes before; `None` when the end comes without one.
    pub async fn closed(&mut self) -> Option<u16> {
        while let Some((opcode, payload)) = self.next().await {
            if opcode == opcode::CLOSE {
                return Some(u16::from_be_bytes([payload[0], payload[1]]));
            }
        }
        None
    }

    /// Everything until the gateway closes the connection.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let read = self.io.read_to_end(&mut bytes);
        let _ = tokio::time::timeout(PATIENCE, read).await.expect("the gateway closes in time");
        bytes
    }

    async fn byte(&mut self) -> Option<u8> {
        self.read(1).await.map(|bytes| bytes[0])
    }

    async fn read(&mut self, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        let read = self.io.read_exact(&mut bytes);
        tokio::time::timeout(PATIENCE, read).await.expect("the gateway writes in time").ok()?;
        Some(bytes)
    }
}

/// One masked frame.
pub fn masked(last: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![u8::from(last) << 7 | opcode];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length @ 126..0x1_0000 => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]); // a mask of zeros
    bytes.extend(payload);
    bytes
}
