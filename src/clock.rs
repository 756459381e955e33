//! The only place that asks for the time.
//!
//! Wall-clock time appears in documents and tokens; durations are measured with
//! [`tokio::time::Instant`], and nothing is ever ordered by wall-clock time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use jiff::SignedDuration;
use jiff::civil::DateTime;
use jiff::fmt::temporal::Pieces;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::time::Instant;

/// 1970-01-01T00:00:00, from which milliseconds are counted.
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

/// A moment in UTC with millisecond precision, as every document and token carries it.
///
/// On the wire: RFC 3339 with exactly three decimals and `Z`, e.g. `2026-01-31T08:05:00.250Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(i64);

impl Time {
    /// The latest moment a document may carry: the last millisecond of the year 9999.
    const MAX_MS: i64 = 253_402_300_799_999;
    /// The earliest moment a document may carry: the start of the year 0000.
    const MIN_MS: i64 = -62_167_219_200_000;

    /// A moment from milliseconds since 1970-01-01T00:00:00Z, kept within the years 0000–9999.
    pub fn from_ms(ms: i64) -> Self {
        Self(ms.clamp(Self::MIN_MS, Self::MAX_MS))
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub fn ms(self) -> i64 {
        self.0
    }

    /// Whole seconds since 1970-01-01T00:00:00Z, as JWT claims count them.
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// The moment `duration` later.
    pub fn plus(self, duration: Duration) -> Self {
        Self::from_ms(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How far apart two moments are, whichever is the later.
    pub fn apart_from(self, other: Self) -> Duration {
        Duration::from_millis(self.0.abs_diff(other.0))
    }

    /// Reads RFC 3339 text with any offset and any number of decimals; finer than a
    /// millisecond is cut off. `None` when it is not such a text or outside the years 0000–9999.
    pub fn parse(text: &str) -> Option<Self> {
        // By the parts of the text: jiff's timestamps end two hours before the last day of the year 9999.
        let pieces = Pieces::parse(text).ok()?;
        let local = pieces.date().to_datetime(pieces.time()?).duration_since(EPOCH);
        let offset = SignedDuration::from_secs(pieces.to_numeric_offset()?.seconds().into());
        let ms = i64::try_from((local - offset).as_nanos().div_euclid(1_000_000)).ok()?;
        (Self::MIN_MS..=Self::MAX_MS).contains(&ms).then_some(Self(ms))
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let time = EPOCH.checked_add(SignedDuration::from_millis(self.0)).expect("the constructors keep it in range");
        write!(f, "{time:.3}Z")
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("must be a time as in RFC 3339"))
    }
}

/// Tells the wall-clock time, and how much time has passed; tests move both by hand.
#[derive(Debug, Clone)]
pub struct Clock {
    /// Milliseconds added to the system's clocks; zero outside tests.
    shift_ms: Arc<AtomicI64>,
    /// Milliseconds added to the wall clock alone; zero outside tests.
    step_ms: Arc<AtomicI64>,
    started: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self { shift_ms: Arc::default(), step_ms: Arc::default(), started: Instant::now() }
    }
}

impl Clock {
    /// The current moment.
    pub fn now(&self) -> Time {
        let shift = self.shift_ms.load(Ordering::Relaxed) + self.step_ms.load(Ordering::Relaxed);
        Time::from_ms(jiff::Timestamp::now().as_millisecond().saturating_add(shift))
    }

    /// Milliseconds since this clock was made, by the monotonic clock: setting the system's time changes nothing.
    pub fn elapsed_ms(&self) -> u64 {
        let shift = u64::try_from(self.shift_ms.load(Ordering::Relaxed)).unwrap_or_default();
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(shift)
    }

    /// Moves this clock and its clones forward: for tests of expiry.
    pub fn advance(&self, by: Duration) {
        let ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.shift_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Steps the wall clock of this clock and its clones, as setting the system's time does: no time has passed. For tests.
    pub fn step(&self, ms: i64) {
        self.step_ms.fetch_add(ms, Ordering::Relaxed);
    }
}

/// When something was last heard of, by the monotonic clock.
#[derive(Debug)]
pub struct Contact {
    started: Instant,
    /// Milliseconds from `started`.
    heard: AtomicU64,
}

impl Default for Contact {
    /// Heard of now.
    fn default() -> Self {
        Self { started: Instant::now(), heard: AtomicU64::new(0) }
    }
}

impl Contact {
    /// Without a sign for so long, what is known may be stale.
    const MAX: Duration = Duration::from_secs(5);

    /// Takes note of a sign.
    pub fn heard(&self) {
        self.heard_at(Instant::now());
    }

    /// Takes note of a sign of so long ago.
    pub fn heard_at(&self, at: Instant) {
        let since_start = at.saturating_duration_since(self.started).as_millis();
        self.heard.store(u64::try_from(since_start).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How long there has been no sign.
    pub fn silence(&self) -> Duration {
        let heard = Duration::from_millis(self.heard.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(heard)
    }

    /// Whether there was a sign lately.
    pub fn is_kept(&self) -> bool {
        self.silence() < Self::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_with_three_decimals_and_read_back() {
        for text in [
            "2026-01-31T08:05:00.250Z",
            "1970-01-01T00:00:00.000Z",
            "1969-12-31T23:59:59.999Z",
            "9999-12-31T23:59:59.999Z",
        ] {
            assert_eq!(Time::parse(text).map(|time| time.to_string()).as_deref(), Some(text));
        }
        assert_eq!(Time::parse("2026-01-31T09:05:00+01:00"), Time::parse("2026-01-31T08:05:00Z"));
        assert_eq!(Time::parse("1969-12-31T23:59:59.9999Z").map(Time::ms), Some(-1));
        for text in
            ["yesterday", "2026-01-31", "2026-01-31T08:05:00", "9999-12-31T23:00:00-02:00", "-000001-12-31T00:00:00Z"]
        {
            assert_eq!(Time::parse(text), None, "{text}");
        }
        assert_eq!(Time::from_ms(i64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
        assert_eq!(Time::from_ms(i64::MIN).to_string(), "0000-01-01T00:00:00.000Z");
    }
}
