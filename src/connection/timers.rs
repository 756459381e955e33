//! The deadlines of a socket, kept by one timer.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep};

use super::Options;

/// When to look at what next. All moments are of the monotonic clock.
pub(super) struct Timers {
    pub(super) sleep: Pin<Box<Sleep>>,
    pub(super) sign_in: Option<Instant>,
    pub(super) ping: Instant,
    /// Since when a ping, or one that could not be sent, is without a sign of life.
    pub(super) pong: Option<Instant>,
    /// Since when a message is half there, and which.
    pub(super) message: Option<(Instant, u64)>,
    pub(super) expiring: Option<Instant>,
    pub(super) expired: Option<Instant>,
    /// Since when the client has accepted no byte, and how many it had accepted then.
    pub(super) stalled: Option<(Instant, u64)>,
    /// Until when a close waits for the calls under way.
    pub(super) ending: Option<Instant>,
    /// The identity that `expiring` and `expired` were computed from.
    pub(super) identity_version: u32,
}

impl Timers {
    pub(super) fn new(options: &Options) -> Self {
        let now = Instant::now();
        let mut timers = Self {
            sleep: Box::pin(tokio::time::sleep_until(now)),
            sign_in: options.sign_in.map(|within| now + within),
            ping: now + options.ping,
            pong: None,
            message: None,
            expiring: None,
            expired: None,
            stalled: None,
            ending: None,
            identity_version: 0,
        };
        timers.rearm(options);
        timers
    }

    /// Sets the one timer to whatever comes first.
    pub(super) fn rearm(&mut self, options: &Options) {
        let next = [
            self.sign_in,
            self.pong.map(|since| since + options.pong),
            self.message.map(|(since, _)| since + options.message),
            self.expiring,
            self.expired,
            self.stalled.map(|(since, _)| since + options.write),
            self.ending,
        ];
        let next = next.into_iter().flatten().fold(self.ping, Instant::min);
        self.sleep.as_mut().reset(next);
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.sleep.as_mut().poll(cx)
    }
}
