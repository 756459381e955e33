//! One connection of the load generator. tokio-tungstenite opens the sockets; the measuring loop then writes ready
//! frames and compares bytes, so that the generator costs less than the server it drives.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use futures_util::future::try_join_all;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use crate::Result;
use crate::gateway::User;
use crate::wire::{Answer, Call, Carrier, FIRST_ID, Message, first_message, push_pong};

/// Each source address has some 28,000 ports and its own allowance of unauthenticated connections.
const SOURCE_ADDRESSES: usize = 32;
/// Handshakes at once: two from each address.
const OPENING_AT_ONCE: usize = 64;
/// All connections share this many bytes to read into.
const READ_BYTES: usize = 256 << 10;

thread_local! {
    static READ: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// The loopback address from which connection number `index` comes.
pub fn source_address(index: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, 2 + (index % SOURCE_ADDRESSES) as u8)
}

/// A TCP connection without delays; `receive_bytes` limits what the system takes for a client that does not read.
pub async fn connect(address: SocketAddr, from: Ipv4Addr, receive_bytes: Option<u32>) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if let Some(bytes) = receive_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.bind((from, 0).into())?;
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A socket signed in on the upgrade. What the server sends before the first call would be lost: it sends nothing.
pub async fn upgrade(stream: TcpStream, address: SocketAddr, token: &str) -> Result<TcpStream> {
    let mut request = format!("ws://{address}/rpc").into_client_request()?;
    request.headers_mut().insert("authorization", HeaderValue::try_from(format!("Bearer {token}"))?);
    let (socket, _) = tokio_tungstenite::client_async(request, stream).await?;
    Ok(socket.into_inner())
}

/// A connection that knows its one call and the answer it must get.
pub struct Connection {
    /// Shared with the task that writes when reading and writing are two tasks.
    pub stream: Arc<TcpStream>,
    /// The call it makes.
    pub call: Arc<Call>,
    carrier: Carrier,
    answer: Answer,
    partial: Vec<u8>,
}

impl Connection {
    /// Connects and signs in.
    pub async fn open(address: SocketAddr, carrier: Carrier, index: usize, user: &User, text: &str) -> Result<Self> {
        let stream = connect(address, source_address(index), None).await?;
        let (stream, call) = match carrier {
            Carrier::WebSocket => (upgrade(stream, address, &user.token).await?, Call::frame(text)),
            Carrier::Http => (stream, Call::post(text, &address.to_string(), &user.token)),
        };
        let (stream, call) = (Arc::new(stream), Arc::new(call));
        Ok(Self { stream, call, carrier, answer: Answer::default(), partial: Vec::new() })
    }

    /// Makes the call once and remembers the answer, which must be a result.
    pub async fn learn(&mut self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        self.call.write(FIRST_ID, &mut out);
        self.send(&out).await?;
        let mut first = None;
        while first.is_none() {
            self.receive(|_, text| {
                first = Some(text.to_vec());
                Ok(())
            })
            .await?;
        }
        let first = first.unwrap_or_default();
        self.answer = Answer::from_first(&first)?;
        Ok(first)
    }

    /// Writes all of `bytes`.
    pub async fn send(&self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            bytes = &bytes[write_now(&self.stream, bytes)?..];
            if !bytes.is_empty() {
                self.stream.writable().await?;
            }
        }
        Ok(())
    }

    /// Waits until something came and puts the ids of the answers in `ids`; any answer but the right one is an error.
    /// Pings are answered. Nothing is lost when the future is dropped.
    pub async fn answers(&mut self, ids: &mut Vec<u64>) -> Result<()> {
        ids.clear();
        self.receive(|answer, text| match answer.id_in(text) {
            Some(id) => {
                ids.push(id);
                Ok(())
            }
            None => Err(format!("a wrong answer: {}", String::from_utf8_lossy(text)).into()),
        })
        .await
    }

    async fn receive(&mut self, mut text: impl FnMut(&Answer, &[u8]) -> Result<()>) -> Result<()> {
        self.stream.readable().await?;
        let pongs = READ.with_borrow_mut(|buffer| self.read_now(buffer, &mut text))?;
        if pongs.is_empty() { Ok(()) } else { self.send(&pongs).await }
    }

    /// Reads what is there, hands over the texts, and returns the pongs to send.
    fn read_now(&mut self, buffer: &mut [u8], text: &mut impl FnMut(&Answer, &[u8]) -> Result<()>) -> Result<Vec<u8>> {
        let read = match self.stream.try_read(buffer) {
            Ok(0) => return Err("the server hung up".into()),
            Ok(read) => &buffer[..read],
            Err(empty) if empty.kind() == ErrorKind::WouldBlock => return Ok(Vec::new()),
            Err(broken) => return Err(broken.into()),
        };
        let mut pongs = Vec::new();
        let each = |message: Message<'_>| match message {
            Message::Text(bytes) => text(&self.answer, bytes),
            Message::Ping(payload) => {
                push_pong(&mut pongs, payload);
                Ok(())
            }
            Message::Pong => Ok(()),
            Message::Close(code, why) => Err(format!("closed: {code} {}", String::from_utf8_lossy(why)).into()),
        };
        if self.partial.is_empty() {
            let used = messages(self.carrier, read, each)?;
            self.partial.extend_from_slice(&read[used..]);
        } else {
            self.partial.extend_from_slice(read);
            let used = messages(self.carrier, &self.partial, each)?;
            self.partial.drain(..used);
        }
        Ok(pongs)
    }
}

/// Writes what the system takes at once, perhaps nothing.
pub fn write_now(stream: &TcpStream, bytes: &[u8]) -> Result<usize> {
    match stream.try_write(bytes) {
        Ok(written) => Ok(written),
        Err(full) if full.kind() == ErrorKind::WouldBlock => Ok(0),
        Err(broken) => Err(broken.into()),
    }
}

/// Hands over every whole message and returns the bytes they took.
fn messages(carrier: Carrier, buffer: &[u8], mut each: impl FnMut(Message<'_>) -> Result<()>) -> Result<usize> {
    let mut used = 0;
    while let Some((message, length)) = first_message(carrier, &buffer[used..])? {
        each(message)?;
        used += length;
    }
    Ok(used)
}

/// Connections between two measurements: each still answers pings, and notices when the server closes it.
pub struct Fleet {
    resting: Vec<JoinHandle<Result<Connection>>>,
    /// Dropped to wake them.
    asleep: watch::Sender<()>,
}

impl Fleet {
    /// Opens `count` connections, spread over the users.
    pub async fn open(to: SocketAddr, carrier: Carrier, count: usize, users: &[User], text: &str) -> Result<Self> {
        let mut connections = Vec::with_capacity(count);
        while connections.len() < count {
            let batch = connections.len()..count.min(connections.len() + OPENING_AT_ONCE);
            let opening = batch.map(|index| Connection::open(to, carrier, index, &users[index % users.len()], text));
            connections.extend(try_join_all(opening).await?);
        }
        let mut fleet = Self { resting: Vec::new(), asleep: watch::channel(()).0 };
        fleet.park(connections);
        Ok(fleet)
    }

    /// Has every connection make its call once; returns one of the answers.
    pub async fn learn(&mut self) -> Result<String> {
        let mut connections = self.wake().await?;
        let mut answer = Vec::new();
        for batch in connections.chunks_mut(OPENING_AT_ONCE) {
            let answers = try_join_all(batch.iter_mut().map(Connection::learn)).await?;
            answer = answers.into_iter().next().unwrap_or(answer);
        }
        self.park(connections);
        Ok(String::from_utf8(answer)?)
    }

    /// Takes the connections up; an error if one was closed meanwhile.
    pub async fn wake(&mut self) -> Result<Vec<Connection>> {
        self.asleep = watch::channel(()).0;
        join(std::mem::take(&mut self.resting)).await
    }

    /// Takes the connections back from the tasks that used them; an error if one of those failed.
    pub async fn park_when_done(&mut self, working: Vec<JoinHandle<Result<Connection>>>) -> Result<()> {
        let connections = join(working).await?;
        self.park(connections);
        Ok(())
    }

    /// Leaves the connections to themselves.
    fn park(&mut self, connections: Vec<Connection>) {
        let wake = self.asleep.subscribe();
        self.resting = connections.into_iter().map(|connection| tokio::spawn(rest(connection, wake.clone()))).collect();
    }
}

async fn join(tasks: Vec<JoinHandle<Result<Connection>>>) -> Result<Vec<Connection>> {
    let mut connections = Vec::with_capacity(tasks.len());
    for task in tasks {
        connections.push(task.await??);
    }
    Ok(connections)
}

async fn rest(mut connection: Connection, mut wake: watch::Receiver<()>) -> Result<Connection> {
    let mut ids = Vec::new();
    loop {
        tokio::select! {
            _ = wake.changed() => return Ok(connection),
            received = connection.answers(&mut ids) => received?,
        }
    }
}
