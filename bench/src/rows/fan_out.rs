//! Row 5: one change to 10,000 subscribers, against a loop that writes the ready frame to as many sockets; and what a
//! signed-in socket with a subscription takes.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Plan, median, micros};
use crate::Result;
use crate::client::{connect, source_address, upgrade, write_now};
use crate::cpu::{self, resident_kib};
use crate::gateway::User;
use crate::http::Http;
use crate::placement::Placement;
use crate::reference::{Reference, Reply};
use crate::table::{Figure, Outcome};
use crate::wire::{Call, Carrier, FIRST_ID, Message, call_text, first_message, push_pong};

const GATE_RATIO: f64 = 1.5;
const GATE_LAST: Duration = Duration::from_millis(120);
const GATE_KIB: f64 = 14.0;
/// Changes of one round.
const CHANGES: usize = 10;
/// For one change to reach everyone.
const PATIENCE: Duration = Duration::from_secs(30);

/// Text frames that the sockets of one server have received.
#[derive(Default)]
struct Received {
    frames: AtomicUsize,
    one_more: Notify,
    first: OnceLock<Vec<u8>>,
}

/// Sockets that count what they are sent.
struct Audience {
    received: Arc<Received>,
    _sockets: JoinSet<Result<()>>,
}

/// What one round took a delivery, and until the last of a change.
struct Round {
    cpu_micros: f64,
    last: Duration,
}

/// Measures the row.
pub async fn measure(plan: &Plan) -> Result<Vec<Outcome>> {
    let (count, placement) = (plan.idle_sockets, Placement::OneCore);
    let settings = [("DOORWARD_MAX_SOCKETS_PER_USER", "1000000".to_owned())];
    let gateway = plan.start_gateway(&settings, placement).await?;
    let user = gateway.register(1).await?.remove(0);
    let (address, pid) = (gateway.process.address, gateway.process.pid);
    let one = Audience::open(address, 1, &user, true).await?;
    let base = resident_kib(pid)?;
    let mut ours = Audience::open(address, count, &user, true).await?;
    let per_socket = |kib: u64| kib.saturating_sub(base) as f64 / count as f64;
    let subscribed = per_socket(resident_kib(pid)?);
    drop(one);
    let mut http = Http::connect(address, 0).await?;
    change(&mut http, &user, 0).await?;
    ours.wait_for(count).await?;
    let told = per_socket(resident_kib(pid)?);

    let frame = ours.received.first.get().ok_or("no frame")?.clone();
    let reply = Reply { text: String::from_utf8(frame)?, headers: Vec::new() };
    let (mut our_rounds, mut their_rounds) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        let mut number = round * CHANGES;
        let round = ours.round(pid, count, async || {
            number += 1;
            change(&mut http, &user, number).await
        });
        our_rounds.push(round.await?);
    }
    gateway.stop().await?;
    // One after the other: both at once would be more sockets than many systems let one process have.
    drop(ours);

    let reference = Reference::start_spread(&reply, placement, &plan.processors).await?;
    let mut theirs = Audience::open(reference.process.address, count, &user, false).await?;
    let mut trigger = TcpStream::connect(reference.process.address).await?;
    for _ in 0..plan.rounds {
        let round = theirs.round(reference.process.pid, count, async || {
            trigger.write_all(b"!").await?;
            trigger.read_u8().await?;
            Ok(())
        });
        their_rounds.push(round.await?);
    }
    reference.stop().await?;

    let cpu = |rounds: &[Round]| median(rounds.iter().map(|round| round.cpu_micros));
    let last = |rounds: &[Round]| median(rounds.iter().map(|round| round.last.as_secs_f64() * 1e3));
    let ratio = cpu(&our_rounds) / cpu(&their_rounds);
    let memory = subscribed.max(told);
    Ok(vec![
        Outcome {
            row: 5,
            what: format!("CPU of a delivery, one change to {count} subscribers"),
            ours: micros(cpu(&our_rounds)),
            reference: Some(micros(cpu(&their_rounds))),
            ratio: Some(ratio),
            gate: format!("≤ {GATE_RATIO}×, last ≤ {} ms", GATE_LAST.as_millis()),
            met: ratio <= GATE_RATIO && last(&our_rounds) <= GATE_LAST.as_secs_f64() * 1e3,
            details: vec![format!(
                "the last after {:.0} ms, reference {:.0} ms",
                last(&our_rounds),
                last(&their_rounds)
            )],
        },
        Outcome {
            row: 5,
            what: format!("memory per signed-in socket with a subscription, {count}"),
            ours: Figure { value: memory, unit: "KiB" },
            reference: None,
            ratio: None,
            gate: format!("≤ {GATE_KIB} KiB"),
            met: memory <= GATE_KIB,
            details: vec![format!("{subscribed:.2} KiB subscribed, {told:.2} after a change")],
        },
    ])
}

/// One change; every one has a text of the same length.
async fn change(http: &mut Http, user: &User, number: usize) -> Result<()> {
    let params = json!({"username": "me", "patch": {"bio": format!("{number:09}")}});
    http.call("users.update", params, Some(&user.token)).await.map(drop)
}

impl Audience {
    /// Opens sockets, has them subscribe where the server knows what that is, and leaves each to count.
    async fn open(to: std::net::SocketAddr, count: usize, user: &User, subscribe: bool) -> Result<Self> {
        let received = Arc::new(Received::default());
        let mut audience = Self { received, _sockets: JoinSet::new() };
        for index in 0..count {
            let stream = connect(to, source_address(index), None).await?;
            let mut stream = upgrade(stream, to, &user.token).await?;
            if subscribe {
                let mut call = Vec::new();
                Call::frame(&call_text("users.subscribe", "{}")).write(FIRST_ID, &mut call);
                stream.write_all(&call).await?;
                let mut reply = vec![0; 1024];
                let read = stream.read(&mut reply).await?;
                let reply = String::from_utf8_lossy(&reply[..read]);
                if !reply.contains("\"subscription\":1") {
                    return Err(format!("no subscription: {reply}").into());
                }
            }
            audience._sockets.spawn(listen(stream, audience.received.clone()));
        }
        // What the last one needs to settle in its server.
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(audience)
    }

    /// Waits until so many frames have come in all, and forgets them.
    async fn wait_for(&mut self, frames: usize) -> Result<()> {
        let all = async {
            loop {
                let more = self.received.one_more.notified();
                if self.received.frames.load(Ordering::Relaxed) >= frames {
                    return;
                }
                more.await;
            }
        };
        timeout(PATIENCE, all).await.map_err(|_| "not everyone was told in time")?;
        self.received.frames.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Makes changes, each when the one before has reached everyone.
    async fn round(&mut self, pid: u32, count: usize, mut change: impl AsyncFnMut() -> Result<()>) -> Result<Round> {
        let before = cpu::read(pid)?;
        let mut lasts = Vec::new();
        for _ in 0..CHANGES {
            let started = Instant::now();
            change().await?;
            self.wait_for(count).await?;
            lasts.push(started.elapsed().as_secs_f64());
        }
        let spent = before.until(&cpu::read(pid)?).total;
        let cpu_micros = spent.as_secs_f64() * 1e6 / (count * CHANGES) as f64;
        Ok(Round { cpu_micros, last: Duration::from_secs_f64(median(lasts)) })
    }
}

/// Counts the texts that come and answers pings, until the server hangs up.
async fn listen(stream: TcpStream, received: Arc<Received>) -> Result<()> {
    let mut buffer = Vec::new();
    loop {
        stream.readable().await?;
        match stream.try_read_buf(&mut buffer) {
            Ok(0) => return Err("the server hung up".into()),
            Err(empty) if empty.kind() != ErrorKind::WouldBlock => return Err(empty.into()),
            Ok(_) | Err(_) => {}
        }
        let mut used = 0;
        while let Some((message, length)) = first_message(Carrier::WebSocket, &buffer[used..])? {
            match message {
                Message::Text(text) => {
                    received.first.get_or_init(|| text.to_vec());
                    received.frames.fetch_add(1, Ordering::Relaxed);
                    received.one_more.notify_one();
                }
                Message::Ping(payload) => {
                    let mut pong = Vec::new();
                    push_pong(&mut pong, payload);
                    write_now(&stream, &pong)?;
                }
                Message::Pong | Message::Close(..) => {}
            }
            used += length;
        }
        buffer.drain(..used);
        if buffer.is_empty() {
            buffer = Vec::new();
        }
    }
}
