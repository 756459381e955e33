//! The open loop: calls leave when they are due.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::sleep;

use super::{Clocks, Measured, Tally, WARM_UP, histogram};
use crate::Result;
use crate::client::{Connection, Fleet, write_now};
use crate::cpu::Spent;
use crate::wire::{Call, FIRST_ID};

/// How long answers may be outstanding after the last call.
const PATIENCE: Duration = Duration::from_secs(10);
/// Answers are read after at most so many calls, or a late generator would look like a late server.
const BURST: u64 = 16;

/// How the generator waits for the next call's time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pace {
    /// Looks at the clock all the time: exact, and takes a whole processor.
    Spin,
    /// Sleeps a millisecond at a time: late by up to two, and leaves the processors to the server.
    Sleep,
}

/// Sends `rate` calls a second, evenly over time and connections, for `duration`.
pub async fn measure(fleet: &mut Fleet, pid: u32, rate: f64, pace: Pace, duration: Duration) -> Result<Measured> {
    let connections = fleet.wake().await?;
    // The first calls leave when all readers run.
    let schedule = Schedule { begin: Instant::now() + Duration::from_millis(50), gap_nanos: 1e9 / rate };
    let (tally, (stopping, stop)) = (Tally::new(), watch::channel(()));
    let mut sender = Sender::new(&connections, schedule, pace);
    let reading: Vec<_> = connections
        .into_iter()
        .map(|connection| tokio::spawn(keep_reading(connection, schedule, tally.clone(), stop.clone())))
        .collect();

    let sent = sender.run(pid, duration, &tally).await;
    drop(stopping);
    // A connection that broke says why; that its calls were not answered is only the consequence.
    fleet.park_when_done(reading).await?;
    let (calls, (cpu, generator)) = sent?;
    Ok(Measured { calls, elapsed: duration, cpu, generator, latency: tally.latency(), lateness: sender.lateness })
}

/// When each call is meant to leave: call number `n` after `n` gaps, on connection `n` modulo their number.
#[derive(Clone, Copy)]
struct Schedule {
    begin: Instant,
    gap_nanos: f64,
}

impl Schedule {
    fn time_of(&self, number: u64) -> Instant {
        self.begin + Duration::from_nanos((number as f64 * self.gap_nanos) as u64)
    }

    fn number_at(&self, since_begin: Duration) -> u64 {
        (since_begin.as_nanos() as f64 / self.gap_nanos) as u64
    }
}

/// The sending half of a connection.
struct Line {
    stream: Arc<TcpStream>,
    call: Arc<Call>,
    /// What the system did not take when it was due: the delay is charged to the call.
    waiting: Vec<u8>,
}

impl Line {
    fn write(&mut self) -> Result<()> {
        let written = write_now(&self.stream, &self.waiting)?;
        self.waiting.drain(..written);
        Ok(())
    }
}

/// Sends every call of a measurement.
struct Sender {
    lines: Vec<Line>,
    schedule: Schedule,
    pace: Pace,
    next: u64,
    lateness: Histogram<u64>,
}

impl Sender {
    fn new(connections: &[Connection], schedule: Schedule, pace: Pace) -> Self {
        let line = |one: &Connection| Line { stream: one.stream.clone(), call: one.call.clone(), waiting: Vec::new() };
        Self { lines: connections.iter().map(line).collect(), schedule, pace, next: 0, lateness: histogram() }
    }

    /// Warms up, sends, and waits for the last answer. Returns the calls measured, what they cost the server and what
    /// they cost the generator.
    async fn run(&mut self, pid: u32, duration: Duration, tally: &Tally) -> Result<(u64, (Spent, Spent))> {
        let warm = self.schedule.number_at(WARM_UP);
        self.send_until(warm).await?;
        self.lateness.reset();
        let before = Clocks::read(pid)?;
        let end = self.schedule.number_at(WARM_UP + duration);
        self.send_until(end).await?;

        let deadline = Instant::now() + PATIENCE;
        while tally.calls() < end {
            if Instant::now() > deadline {
                return Err(format!("{} of {end} calls were not answered", end - tally.calls()).into());
            }
            for line in &mut self.lines {
                line.write()?;
            }
            sleep(Duration::from_millis(1)).await;
        }
        Ok((end - warm, before.until(&Clocks::read(pid)?)))
    }

    async fn send_until(&mut self, end: u64) -> Result<()> {
        while self.next < end {
            let (now, first) = (Instant::now(), self.next);
            while self.next < end.min(first + BURST) {
                let due = self.schedule.time_of(self.next);
                let Some(late) = now.checked_duration_since(due) else { break };
                self.lateness.saturating_record(late.as_nanos() as u64);
                let at = (self.next % self.lines.len() as u64) as usize;
                let line = &mut self.lines[at];
                line.call.write(FIRST_ID + self.next, &mut line.waiting);
                line.write()?;
                self.next += 1;
            }
            let behind = self.next == first + BURST;
            match self.pace {
                Pace::Sleep if !behind => sleep(Duration::from_millis(1)).await,
                Pace::Sleep | Pace::Spin => yield_now().await,
            }
        }
        Ok(())
    }
}

async fn keep_reading(
    mut connection: Connection,
    schedule: Schedule,
    tally: Arc<Tally>,
    mut stop: watch::Receiver<()>,
) -> Result<Connection> {
    let warm = schedule.number_at(WARM_UP);
    let mut ids = Vec::new();
    loop {
        tokio::select! {
            biased;
            received = connection.answers(&mut ids) => received?,
            _ = stop.changed() => return Ok(connection),
        }
        let now = Instant::now();
        let numbers = ids.iter().map(|id| id - FIRST_ID).filter(|&number| number >= warm);
        tally.record(numbers.map(|number| now.saturating_duration_since(schedule.time_of(number))));
        tally.count(ids.len());
    }
}
