//! The two kinds of load. *Closed loop*: every connection keeps a number of calls in flight, which shows what a call
//! costs and how many a second there can be. *Open loop*: calls leave at fixed times whether or not answers came, and
//! latency counts from the time a call was meant to leave, so that a stall is charged to every call it delayed.

pub mod closed;
pub mod open;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::Result;
use crate::cpu::{self, Reading, Spent};

/// Before every measurement, so that buffers, caches and the scheduler have settled.
const WARM_UP: Duration = Duration::from_millis(400);

/// One measurement of one server.
#[derive(Clone)]
pub struct Measured {
    /// Calls answered, each rightly.
    pub calls: u64,
    /// In how long.
    pub elapsed: Duration,
    /// Processor time of the server.
    pub cpu: Spent,
    /// Processor time of the load generator.
    pub generator: Spent,
    /// Nanoseconds from call to answer.
    pub latency: Histogram<u64>,
    /// Nanoseconds by which the generator itself was late; empty in a closed loop.
    pub lateness: Histogram<u64>,
}

impl Measured {
    /// Calls answered a second.
    pub fn rate(&self) -> f64 {
        self.calls as f64 / self.elapsed.as_secs_f64()
    }

    /// Calls the server answers in a second of processor time: its saturation on one processor, whatever else ran there.
    pub fn rate_of_a_processor(&self) -> f64 {
        1e6 / self.cpu_micros()
    }

    /// The server's processor time a call, in microseconds.
    pub fn cpu_micros(&self) -> f64 {
        self.cpu.total.as_secs_f64() * 1e6 / self.calls.max(1) as f64
    }

    /// The part of it in the kernel, between 0 and 1.
    pub fn system_share(&self) -> f64 {
        let (user, system) = (self.cpu.user.as_secs_f64(), self.cpu.system.as_secs_f64());
        if user + system > 0.0 { system / (user + system) } else { 0.0 }
    }

    /// How much of the time the server, or the generator, was ready to run and was not let, between 0 and 1. On
    /// processors of their own that is the work of others: with more than a little of it a measurement is worth nothing.
    pub fn disturbance(&self) -> f64 {
        self.cpu.waited.max(self.generator.waited).as_secs_f64() / self.elapsed.as_secs_f64()
    }

    /// A quantile of the latency, in milliseconds.
    pub fn latency_ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e6
    }

    /// A quantile of the generator's own lateness, in milliseconds.
    pub fn lateness_ms(&self, quantile: f64) -> f64 {
        self.lateness.value_at_quantile(quantile) as f64 / 1e6
    }
}

/// The clocks of both processes at one moment.
struct Clocks {
    server: Reading,
    generator: Reading,
}

impl Clocks {
    fn read(server: u32) -> Result<Self> {
        Ok(Self { server: cpu::read(server)?, generator: cpu::read(std::process::id())? })
    }

    /// What the server and the generator used until a later moment.
    fn until(&self, later: &Clocks) -> (Spent, Spent) {
        (self.server.until(&later.server), self.generator.until(&later.generator))
    }
}

/// What all connections of one measurement write down. One thread runs them all, so nothing here is contended.
struct Tally {
    calls: AtomicU64,
    latency: Mutex<Histogram<u64>>,
}

impl Tally {
    fn new() -> Arc<Self> {
        Arc::new(Self { calls: AtomicU64::new(0), latency: Mutex::new(histogram()) })
    }

    fn record(&self, latencies: impl Iterator<Item = Duration>) {
        let mut histogram = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        for latency in latencies {
            histogram.saturating_record(latency.as_nanos() as u64);
        }
    }

    fn count(&self, calls: usize) {
        self.calls.fetch_add(calls as u64, Ordering::Relaxed);
    }

    fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    fn latency(&self) -> Histogram<u64> {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// From a nanosecond to a minute, to three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are in order")
}
