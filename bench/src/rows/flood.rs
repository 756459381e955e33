//! Row 10: clients that send calls as fast as they can and never read an answer. Each may cost little memory, and
//! must be gone when the gateway's write deadline has passed.

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::Plan;
use crate::Result;
use crate::client::{Fleet, connect, source_address, upgrade, write_now};
use crate::cpu::resident_kib;
use crate::gateway::{Gateway, SOCKETS_PER_USER, User};
use crate::load::closed;
use crate::placement::Placement;
use crate::table::{Figure, Outcome};
use crate::wire::{Call, Carrier, FIRST_ID, call_text};

/// Several, so that what the allocator takes in steps is shared among them.
const CLIENTS: usize = 10;
/// Shorter than the default of 30 s: the rule is the same.
const DEADLINE: Duration = Duration::from_secs(5);
/// After the deadline the gateway says goodbye and lets the client read it.
const GRACE: Duration = Duration::from_secs(3);
/// Of the client's system: small, so that the gateway soon stands alone with the flood.
const RECEIVE_BYTES: u32 = 16 << 10;
const GATE_KIB: f64 = 1024.0;

/// How one client fared.
struct Flood {
    /// Bytes of calls the gateway's side took before it first stood still.
    accepted: usize,
    /// From then until the connection was cut; `None` if it was not.
    gone_after: Option<Duration>,
}

/// Measures the row.
pub async fn measure(plan: &Plan) -> Result<Vec<Outcome>> {
    let settings = [("DOORWARD_WRITE_TIMEOUT_SECONDS", DEADLINE.as_secs().to_string())];
    let gateway = plan.start_gateway(&settings, Placement::WholeMachine).await?;
    let users = gateway.register_for(CLIENTS + SOCKETS_PER_USER).await?;
    let pid = gateway.process.pid;
    let text = call_text("users.get", r#"{"username":"me"}"#);
    warm_up(&gateway, &users[0], &text).await?;

    let base = resident_kib(pid)?;
    let floods = try_join_all((0..CLIENTS).map(|index| flood(&gateway, index, &users[1], &text)));
    let (floods, most) = with_most_resident(pid, floods).await?;
    sleep(Duration::from_secs(1)).await;
    let left = resident_kib(pid)?;
    gateway.stop().await?;

    let each = |kib: u64| kib.saturating_sub(base) as f64 / CLIENTS as f64;
    let accepted = floods.iter().map(|flood| flood.accepted).max().unwrap_or(0) >> 10;
    let stayed = floods.iter().filter(|flood| flood.gone_after.is_none()).count();
    let slowest = floods.iter().filter_map(|flood| flood.gone_after).max().unwrap_or_default();
    let limit = DEADLINE + GRACE;
    let seconds = |time: Duration| Figure { value: time.as_secs_f64(), unit: "s" };
    Ok(vec![
        Outcome {
            row: 10,
            what: format!("memory of a client that floods, {CLIENTS} of them"),
            ours: Figure { value: each(most), unit: "KiB" },
            reference: None,
            ratio: None,
            gate: format!("≤ {GATE_KIB} KiB"),
            met: each(most) <= GATE_KIB,
            details: vec![format!(
                "at most {accepted} KiB of calls were taken from one; {:.1} KiB each stayed when they were gone",
                each(left)
            )],
        },
        Outcome {
            row: 10,
            what: "until the last of them was gone".to_owned(),
            ours: seconds(if stayed > 0 { limit } else { slowest }),
            reference: Some(seconds(DEADLINE)),
            ratio: None,
            gate: format!("≤ {} s, {} s after the write deadline", limit.as_secs(), GRACE.as_secs()),
            met: stayed == 0 && slowest <= limit,
            details: if stayed == 0 { Vec::new() } else { vec![format!("{stayed} of {CLIENTS} were never cut off")] },
        },
    ])
}

/// The same calls, read: what a server sets up once under load is not the flood's.
async fn warm_up(gateway: &Gateway, user: &User, text: &str) -> Result<()> {
    let users = std::slice::from_ref(user);
    let mut fleet = Fleet::open(gateway.process.address, Carrier::WebSocket, CLIENTS, users, text).await?;
    fleet.learn().await?;
    closed::measure(&mut fleet, gateway.process.pid, 32, Duration::from_secs(1)).await?;
    drop(fleet);
    sleep(Duration::from_secs(2)).await;
    Ok(())
}

/// Runs `work` to its end and returns the largest memory seen meanwhile.
async fn with_most_resident<T>(pid: u32, work: impl Future<Output = Result<T>>) -> Result<(T, u64)> {
    let mut most = 0;
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            () = sleep(Duration::from_millis(50)) => most = most.max(resident_kib(pid)?),
            done = &mut work => return Ok((done?, most)),
        }
    }
}

async fn flood(gateway: &Gateway, index: usize, user: &User, text: &str) -> Result<Flood> {
    /// The gateway does not read while it waits for this client: no byte for so long is a standstill.
    const STANDSTILL: Duration = Duration::from_millis(250);
    const CALLS: u64 = 200;
    let address = gateway.process.address;
    let stream = connect(address, source_address(index), Some(RECEIVE_BYTES)).await?;
    let stream = upgrade(stream, address, &user.token).await?;
    let (call, mut calls) = (Call::frame(text), Vec::new());
    for number in 0..CALLS {
        call.write(FIRST_ID + number, &mut calls);
    }

    let (mut sent, mut accepted, mut still_since) = (0, 0, None);
    let give_up = Instant::now() + DEADLINE * 4 + GRACE;
    while Instant::now() < give_up {
        match timeout(STANDSTILL, write_some(&stream, &calls[sent % calls.len()..])).await {
            Ok(Ok(written)) => sent += written,
            Ok(Err(_)) => {
                let gone_after = still_since.map(|since: Instant| since.elapsed());
                return Ok(Flood { accepted: accepted.max(sent), gone_after: gone_after.or(Some(Duration::ZERO)) });
            }
            Err(_) if still_since.is_none() => (accepted, still_since) = (sent, Some(Instant::now() - STANDSTILL)),
            Err(_) => {}
        }
    }
    Ok(Flood { accepted, gone_after: None })
}

/// Writes what the system takes, waiting until it takes something. Fails when the connection is cut.
async fn write_some(stream: &TcpStream, bytes: &[u8]) -> Result<usize> {
    loop {
        stream.writable().await?;
        match write_now(stream, bytes)? {
            0 => tokio::task::yield_now().await,
            written => return Ok(written),
        }
    }
}
