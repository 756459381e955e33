//! The circuit breaker: while the store does not answer, calls fail at once instead of waiting for it.
//!
//! No call is risked on finding out whether the store is back, nor made to wait for that: see `Link::probe`.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::gauge;
use tokio::time::Instant;

use crate::metrics::STORE_CIRCUIT_OPEN;

/// Failures in a row, over all nodes, after which nothing is sent for a while.
const FAILURES_TO_OPEN: u32 = 5;
/// How long nothing is sent, and then one probe at a time until one succeeds.
const OPEN_FOR: Duration = Duration::from_millis(500);

/// Counts failures in a row.
#[derive(Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Default)]
struct State {
    failures: u32,
    /// When the next probe may try, while the circuit is open.
    open_until: Option<Instant>,
    /// Why the last request failed.
    cause: String,
}

impl Breaker {
    /// Lets a request through. Error: why the circuit is open.
    pub(super) fn enter(&self) -> Result<(), String> {
        let state = self.state();
        if state.open_until.is_some() { Err(state.cause.clone()) } else { Ok(()) }
    }

    /// Whether it is time for a probe; the next one's time is later then.
    pub(super) fn is_probe_due(&self) -> bool {
        let (mut state, now) = (self.state(), Instant::now());
        let due = state.open_until.is_some_and(|until| until <= now);
        if due {
            state.open_until = Some(now + OPEN_FOR);
        }
        due
    }

    /// The store has answered.
    pub(super) fn succeeded(&self) {
        *self.state() = State::default();
        gauge!(STORE_CIRCUIT_OPEN).set(0);
    }

    /// It has not.
    pub(super) fn failed(&self, cause: &str) {
        let mut state = self.state();
        cause.clone_into(&mut state.cause);
        state.failures += 1;
        if state.failures >= FAILURES_TO_OPEN {
            state.open_until = Some(Instant::now() + OPEN_FOR);
            gauge!(STORE_CIRCUIT_OPEN).set(1);
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn r07_it_opens_after_failures_in_a_row_and_closes_with_the_first_success() {
        let breaker = Breaker::default();
        for _ in 0..FAILURES_TO_OPEN - 1 {
            breaker.failed("first");
        }
        breaker.succeeded();
        for _ in 0..FAILURES_TO_OPEN {
            assert!(breaker.enter().is_ok() && !breaker.is_probe_due());
            breaker.failed("again");
        }
        assert!(!breaker.is_probe_due());
        assert_eq!(breaker.enter().unwrap_err(), "again");

        tokio::time::advance(OPEN_FOR).await;
        assert!(breaker.is_probe_due() && !breaker.is_probe_due(), "one at a time");
        breaker.failed("still");
        assert!(breaker.enter().is_err() && !breaker.is_probe_due());
        tokio::time::advance(OPEN_FOR).await;
        assert!(breaker.is_probe_due());
        breaker.succeeded();
        assert!(breaker.enter().is_ok());
    }
}
