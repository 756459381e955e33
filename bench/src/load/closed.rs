//! The closed loop: a connection that gets an answer makes its next call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{Clocks, Measured, Tally, WARM_UP, histogram};
use crate::Result;
use crate::client::{Connection, Fleet};
use crate::wire::FIRST_ID;

/// What the connections look at between two answers.
#[derive(Default)]
struct Phase {
    counting: AtomicBool,
    stopping: AtomicBool,
}

/// Keeps `depth` calls in flight on every connection for `duration`.
pub async fn measure(fleet: &mut Fleet, pid: u32, depth: usize, duration: Duration) -> Result<Measured> {
    let (tally, phase) = (Tally::new(), Arc::new(Phase::default()));
    let connections = fleet.wake().await?.into_iter();
    let calling: Vec<_> = connections
        .map(|connection| tokio::spawn(keep_calling(connection, depth, tally.clone(), phase.clone())))
        .collect();

    sleep(WARM_UP).await;
    let (before, started) = (Clocks::read(pid)?, Instant::now());
    phase.counting.store(true, Ordering::Relaxed);
    sleep(duration).await;
    phase.counting.store(false, Ordering::Relaxed);
    let (elapsed, after) = (started.elapsed(), Clocks::read(pid)?);

    phase.stopping.store(true, Ordering::Relaxed);
    fleet.park_when_done(calling).await?;
    let (calls, latency, (cpu, generator)) = (tally.calls(), tally.latency(), before.until(&after));
    Ok(Measured { calls, elapsed, cpu, generator, latency, lateness: histogram() })
}

async fn keep_calling(
    mut connection: Connection,
    depth: usize,
    tally: Arc<Tally>,
    phase: Arc<Phase>,
) -> Result<Connection> {
    let (mut out, mut ids) = (Vec::new(), Vec::new());
    let mut in_flight: Vec<(u64, Instant)> = Vec::with_capacity(depth);
    let mut latencies: Vec<Duration> = Vec::with_capacity(depth);
    let mut next_id = FIRST_ID;
    loop {
        if !phase.stopping.load(Ordering::Relaxed) {
            let now = Instant::now();
            while in_flight.len() < depth {
                connection.call.write(next_id, &mut out);
                in_flight.push((next_id, now));
                next_id += 1;
            }
            connection.send(&out).await?;
            out.clear();
        }
        if in_flight.is_empty() {
            return Ok(connection);
        }
        connection.answers(&mut ids).await?;
        let now = Instant::now();
        for id in &ids {
            // Answers mostly come in order: the front of a short list beats any map.
            let at = in_flight.iter().position(|(sent, _)| sent == id).ok_or("an answer nobody asked for")?;
            latencies.push(now - in_flight.remove(at).1);
        }
        if phase.counting.load(Ordering::Relaxed) {
            tally.count(latencies.len());
            tally.record(latencies.drain(..));
        }
        latencies.clear();
    }
}
