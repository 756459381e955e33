//! How many calls a caller may make: buckets that fill at a steady rate.
//!
//! A user has one on this node, which all of their sockets, requests and batches draw on; so has an address for those who
//! have not signed in. A bucket is the moment at which it will be full again (the virtual scheduling of ITU-T I.371, "GCRA"):
//! one number, changed without a lock, against a time that the caller has read already: the present, never one of before.
//! `governor` would read its own clock, and a thousand addresses would need a thousand of its entries.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::auth::throttle::network;

/// Buckets that the addresses share among themselves: 32 KiB, however many addresses there are.
const ADDRESSES: usize = 4096;

/// How many calls one caller has left.
#[derive(Debug, Default)]
pub struct Bucket {
    /// When it will be full again, in nanoseconds from the budget's start.
    full_at: AtomicU64,
}

/// The size of every bucket, and those of the addresses.
#[derive(Debug)]
pub struct Budget {
    started: Instant,
    /// Nanoseconds in which a bucket gains one call.
    interval: u64,
    /// Nanoseconds in which an empty one fills.
    depth: u64,
    addresses: Box<[Bucket]>,
    hasher: RandomState,
}

impl Budget {
    /// Buckets for a `burst` of calls that gain so many a second. Both are at least 1, the rate at most 10⁹.
    pub fn new(calls_per_second: u32, burst: u32) -> Self {
        let interval = 1_000_000_000 / u64::from(calls_per_second);
        Self {
            started: Instant::now(),
            interval,
            depth: interval * u64::from(burst),
            addresses: (0..ADDRESSES).map(|_| Bucket::default()).collect(),
            hasher: RandomState::new(),
        }
    }

    /// The bucket of an address; IPv6 counts by /64. A few addresses may have one together, but nobody can choose whose.
    pub fn of_address(&self, address: IpAddr) -> &Bucket {
        let hash = self.hasher.hash_one(network(address));
        &self.addresses[usize::try_from(hash % ADDRESSES as u64).expect("it is a small number")]
    }

    /// Takes one call from a bucket. Errors: how long until there is one, in whole milliseconds.
    pub fn take(&self, bucket: &Bucket, now: Instant) -> Result<(), Duration> {
        let now = u64::try_from(now.saturating_duration_since(self.started).as_nanos()).unwrap_or(u64::MAX);
        let after = |full_at: u64| full_at.max(now).saturating_add(self.interval);
        let taken = bucket.full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            (after(full_at) - now <= self.depth).then(|| after(full_at))
        });
        let over = |full_at| (after(full_at) - now - self.depth).div_ceil(1_000_000);
        taken.map(drop).map_err(|full_at| Duration::from_millis(over(full_at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s08_a_bucket_gives_its_burst_and_then_the_rate() {
        let budget = Budget::new(100, 5);
        let (bucket, start) = (Bucket::default(), budget.started + Duration::from_secs(1));
        let mut taken = |ms| budget.take(&bucket, start + Duration::from_millis(ms));
        assert_eq!([0; 5].map(&mut taken), [Ok(()); 5]);
        assert_eq!(taken(0), Err(Duration::from_millis(10)));
        assert_eq!(taken(9), Err(Duration::from_millis(1)), "a refusal takes nothing");
        assert_eq!([taken(10), taken(10)], [Ok(()), Err(Duration::from_millis(10))]);
        // However long it rests, it holds no more than its burst.
        assert_eq!([60_000; 6].map(&mut taken).iter().filter(|taken| taken.is_ok()).count(), 5);
    }

    #[test]
    fn s08_an_ipv6_customer_has_one_bucket() {
        let budget = Budget::new(1, 1);
        let of = |text: &str| std::ptr::from_ref(budget.of_address(text.parse().unwrap()));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert!((1..100).any(|n| of(&format!("2001:db8:{n}::1")) != of("2001:db8::1")));
    }
}
