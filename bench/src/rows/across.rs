//! Row 8: how soon a change is seen on another of three gateways over the same Elasticsearch, and on the same one; and what
//! gateways ask of the store, and cost it, while nothing happens.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::{Plan, millis};
use crate::Result;
use crate::client::{connect, source_address, upgrade};
use crate::cpu;
use crate::gateway::{Gateway, User};
use crate::http::Http;
use crate::placement::Placement;
use crate::table::{Figure, Outcome};
use crate::wire::{Call, Carrier, FIRST_ID, Message, call_text, first_message, push_pong};

const GATE_ACROSS_MS: f64 = 400.0;
const GATE_SAME_MS: f64 = 5.0;
/// Requests a second of one gateway whose tail has nothing to read.
const GATE_IDLE: f64 = 5.0;
/// Changes of one round.
const CHANGES: usize = 60;
/// Pauses between changes, of so many milliseconds in turn: a reader that polls is met at every phase.
const PAUSES: [u64; 4] = [10, 150, 330, 610];
/// For one change to be told.
const PATIENCE: Duration = Duration::from_secs(10);
/// Until gateways that have just started are idle.
const SETTLE: Duration = Duration::from_secs(5);

/// Measures the row; nothing without an Elasticsearch.
pub async fn measure(plan: &Plan) -> Result<Vec<Outcome>> {
    let embedded = plan.start_gateway(&[], Placement::WholeMachine).await?;
    let mut writer = Writer::register(&embedded).await?;
    let alone = writer.changes_until(&mut Listener::open(&embedded, &writer.user).await?).await?;
    embedded.stop().await?;
    let mut outcomes = vec![seen("same gateway, embedded store", &alone, GATE_SAME_MS)];

    let Ok(url) = std::env::var("TEST_ES_URL") else {
        eprintln!("  embedded store only: set TEST_ES_URL to an Elasticsearch without security for the rest");
        return Ok(outcomes);
    };
    let counter = Counter::start(&url).await?;
    let settings = counter.settings();
    let alone = counter.share_while(plan.duration.max(SETTLE)).await?;
    let mut gateways = Vec::new();
    for _ in 0..3 {
        gateways.push(plan.start_gateway(&settings, Placement::WholeMachine).await?);
    }
    let mut writer = Writer::register(&gateways[0]).await?;
    let same = writer.changes_until(&mut Listener::open(&gateways[0], &writer.user).await?).await?;
    outcomes.push(seen("same gateway, Elasticsearch", &same, GATE_SAME_MS));
    let across = writer.changes_until(&mut Listener::open(&gateways[2], &writer.user).await?).await?;
    outcomes.push(seen("other gateway, Elasticsearch", &across, GATE_ACROSS_MS));
    drop(writer);

    gateways.truncate(1);
    for count in [1, 3, 8] {
        while gateways.len() < count {
            gateways.push(plan.start_gateway(&settings, Placement::WholeMachine).await?);
        }
        outcomes.push(idle(&gateways, &counter, alone, plan).await?);
    }
    for gateway in gateways {
        gateway.stop().await?;
    }
    counter.delete_indices().await?;
    Ok(outcomes)
}

/// Times from the reply to a change until it is told elsewhere; zero for what is told before the reply.
fn seen(by: &str, sorted: &[Duration], gate: f64) -> Outcome {
    let at = |part: usize| sorted[(sorted.len() * part / 100).min(sorted.len() - 1)].as_secs_f64() * 1e3;
    Outcome {
        row: 8,
        what: format!("p99 from the reply to a change until it is told by the {by}"),
        ours: millis(at(99)),
        reference: None,
        ratio: None,
        gate: format!("≤ {gate} ms"),
        met: at(99) <= gate,
        details: vec![format!("p50 {:.2} ms, of {} changes", at(50), sorted.len())],
    }
}

/// What gateways ask of the store while nothing happens. `alone` is the share of a processor that it uses without any.
async fn idle(gateways: &[Gateway], counter: &Counter, alone: f64, plan: &Plan) -> Result<Outcome> {
    sleep(SETTLE).await;
    let read = || gateways.iter().map(|gateway| cpu::read(gateway.process.pid)).collect::<Result<Vec<_>>>();
    let (before, asked, began) = (read()?, counter.requests(), Instant::now());
    let store = counter.share_while(plan.duration.max(SETTLE)).await?;
    let seconds = began.elapsed().as_secs_f64();
    let a_second = (counter.requests() - asked) as f64 / seconds / gateways.len() as f64;
    let spent: Duration = before.iter().zip(&read()?).map(|(before, after)| before.until(after).total).sum();
    let share = spent.as_secs_f64() / seconds / gateways.len() as f64;
    Ok(Outcome {
        row: 8,
        what: format!("requests a second of an idle gateway, {} of them", gateways.len()),
        ours: Figure { value: a_second, unit: "/s" },
        reference: None,
        ratio: None,
        gate: format!("≤ {GATE_IDLE} /s"),
        met: a_second <= GATE_IDLE,
        details: vec![format!(
            "{:.1} /s in all; a gateway uses {:.2} % of a processor, Elasticsearch {:.1} % (without gateways {:.1} %)",
            a_second * gateways.len() as f64,
            share * 100.0,
            store * 100.0,
            alone * 100.0
        )],
    })
}

/// Someone who changes themselves.
struct Writer {
    user: User,
    http: Http,
    changes: u64,
}

impl Writer {
    async fn register(gateway: &Gateway) -> Result<Self> {
        let user = gateway.register(1).await?.remove(0);
        Ok(Self { user, http: Http::connect(gateway.process.address, 0).await?, changes: 0 })
    }

    /// Makes changes, one after the other, and gives how long after the reply each was told, sorted.
    async fn changes_until(&mut self, listener: &mut Listener) -> Result<Vec<Duration>> {
        let mut delays = Vec::new();
        for change in 0..CHANGES {
            sleep(Duration::from_millis(PAUSES[change % PAUSES.len()])).await;
            self.changes += 1;
            let bio = format!("change {};", self.changes);
            let params = json!({"username": "me", "patch": {"bio": bio}});
            let made = async {
                self.http.call("users.update", params, Some(&self.user.token)).await?;
                Result::<_>::Ok(Instant::now())
            };
            let (replied, told) = tokio::join!(made, listener.hears(&bio));
            delays.push(told?.saturating_duration_since(replied?));
        }
        delays.sort_unstable();
        Ok(delays)
    }
}

/// A subscriber.
struct Listener {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Listener {
    async fn open(gateway: &Gateway, user: &User) -> Result<Self> {
        let address = gateway.process.address;
        let stream = upgrade(connect(address, source_address(1), None).await?, address, &user.token).await?;
        let mut listener = Self { stream, buffer: Vec::new() };
        let mut call = Vec::new();
        Call::frame(&call_text("users.subscribe", "{}")).write(FIRST_ID, &mut call);
        listener.stream.write_all(&call).await?;
        listener.hears("\"subscription\":1").await?;
        Ok(listener)
    }

    /// When a text with this part came.
    async fn hears(&mut self, part: &str) -> Result<Instant> {
        let heard = async {
            loop {
                while let Some((message, length)) = first_message(Carrier::WebSocket, &self.buffer)? {
                    let mut pong = Vec::new();
                    let is_it = match message {
                        Message::Text(text) => String::from_utf8_lossy(text).contains(part),
                        Message::Ping(payload) => {
                            push_pong(&mut pong, payload);
                            false
                        }
                        Message::Pong | Message::Close(..) => false,
                    };
                    self.stream.write_all(&pong).await?;
                    self.buffer.drain(..length);
                    if is_it {
                        return Result::<_>::Ok(Instant::now());
                    }
                }
                if self.stream.read_buf(&mut self.buffer).await? == 0 {
                    return Err("the gateway hung up".into());
                }
            }
        };
        timeout(PATIENCE, heard).await.map_err(|_| format!("{part} was not told in time"))?
    }
}

/// Passes bytes on to Elasticsearch and counts requests.
struct Counter {
    server: SocketAddr,
    address: SocketAddr,
    prefix: String,
    requests: Arc<AtomicUsize>,
}

impl Counter {
    async fn start(url: &str) -> Result<Self> {
        let host = url.strip_prefix("http://").ok_or("TEST_ES_URL must begin with http://")?;
        let server = host.trim_end_matches('/').to_socket_addrs()?.next().ok_or("TEST_ES_URL names nobody")?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let requests = Arc::new(AtomicUsize::new(0));
        let count = requests.clone();
        tokio::spawn(async move {
            while let Ok((gateway, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(server).await else { continue };
                let ((asks, answers), (answered, asked)) = (gateway.into_split(), server.into_split());
                tokio::spawn(pass(asks, asked, Some(count.clone())));
                tokio::spawn(pass(answered, answers, None));
            }
        });
        Ok(Self { server, address, prefix: format!("bench-{}", std::process::id()), requests })
    }

    /// What gateways are told that are to come this way.
    fn settings(&self) -> [(&'static str, String); 5] {
        let secret = || "a secret that only this bench knows 1".to_owned();
        [
            ("ES_URL", format!("http://{}", self.address)),
            ("DOORWARD_INDEX_PREFIX", self.prefix.clone()),
            ("JWT_SECRET", secret()),
            ("DOORWARD_PASSWORD_PEPPER", secret()),
            ("DOORWARD_LOG", "warn".to_owned()),
        ]
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// The share of a processor that the server's nodes use during this time.
    async fn share_while(&self, time: Duration) -> Result<f64> {
        let (before, began) = (self.processor_time().await?, Instant::now());
        sleep(time).await;
        Ok((self.processor_time().await? - before).as_secs_f64() / began.elapsed().as_secs_f64())
    }

    /// The processor time of all nodes so far. Source: Elasticsearch Nodes stats API.
    async fn processor_time(&self) -> Result<Duration> {
        let answer = self.ask("GET", "/_nodes/stats/process?filter_path=nodes.*.process.cpu.total_in_millis").await?;
        // So small that it comes in one chunk, if in chunks at all.
        let body = answer.find('{').zip(answer.rfind('}')).ok_or("no body")?;
        let stats: Value = serde_json::from_str(&answer[body.0..=body.1])?;
        let nodes = stats["nodes"].as_object().ok_or("no nodes")?.values();
        let ms = nodes.map(|node| node["process"]["cpu"]["total_in_millis"].as_u64());
        Ok(Duration::from_millis(ms.sum::<Option<u64>>().ok_or("a node does not tell its processor time")?))
    }

    /// Leaves the server as it was.
    async fn delete_indices(&self) -> Result<()> {
        let kinds = ["users", "emails", "sessions", "state"];
        let names = kinds.map(|kind| format!("{}-{kind}-000001", self.prefix)).join(",");
        self.ask("DELETE", &format!("/{names}")).await.map(drop)
    }

    /// The server's whole answer.
    async fn ask(&self, method: &str, path: &str) -> Result<String> {
        let mut server = TcpStream::connect(self.server).await?;
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.server);
        server.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        server.read_to_string(&mut answer).await?;
        Ok(answer)
    }
}

/// Passes on what comes; each request has its version once, in its first line.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, count: Option<Arc<AtomicUsize>>) -> Result<()> {
    const VERSION: &[u8] = b" HTTP/1.1\r\n";
    let mut bytes = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut bytes).await?;
        if read == 0 {
            return Ok(());
        }
        if let Some(count) = &count {
            let requests = bytes[..read].windows(VERSION.len()).filter(|part| *part == VERSION).count();
            count.fetch_add(requests, Ordering::Relaxed);
        }
        to.write_all(&bytes[..read]).await?;
    }
}
