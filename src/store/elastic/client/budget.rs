//! The budget of retries: a store in trouble is not asked for more than it was asked before.

use std::sync::atomic::{AtomicU32, Ordering};

/// What a request earns, in hundredths of a retry: with it the store sees at most 1.2 times the calls.
const EARNED: u32 = 20;
/// What one retry costs.
const COST: u32 = 100;
/// The most that can be saved up: bursts of so many hundredths of a retry.
const SAVED_MAX: u32 = 1_000;

/// Earned by requests, spent by retries.
pub(super) struct Budget(AtomicU32);

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicU32::new(SAVED_MAX))
    }
}

impl Budget {
    /// A request was sent.
    pub(super) fn earn(&self) {
        let _ =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| Some((saved + EARNED).min(SAVED_MAX)));
    }

    /// Whether a retry can be afforded; pays for it.
    pub(super) fn take(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| saved.checked_sub(COST)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r07_retries_are_a_fifth_of_the_requests_at_most() {
        let budget = Budget::default();
        let (mut requests, mut retries) = (0, 0);
        for _ in 0..1_000 {
            requests += 1;
            budget.earn();
            // A retry earns too: it is a request of its own.
            while budget.take() {
                retries += 1;
                requests += 1;
                budget.earn();
            }
        }
        assert!(f64::from(retries) <= 0.2 * f64::from(requests) + 10.0, "{retries} of {requests}");
    }
}
