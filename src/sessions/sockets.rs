//! Every socket of this node: counted against its bounds, and told when the node goes away.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use serde_json::json;

use super::{Mailbox, Outbound, When, notification};

/// Why a socket is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// This address has too many that have not signed in.
    Address,
    /// This node has too many.
    Node,
}

/// The sockets of this node.
#[derive(Debug)]
pub struct Sockets {
    open: DashMap<u64, Mailbox>,
    anonymous: DashMap<IpAddr, usize>,
    next: AtomicU64,
}

impl Default for Sockets {
    fn default() -> Self {
        // 0 is the id of every HTTP request.
        Self { open: DashMap::new(), anonymous: DashMap::new(), next: AtomicU64::new(1) }
    }
}

/// One admitted socket, until dropped.
#[derive(Debug)]
pub struct Admission {
    sockets: Arc<Sockets>,
    /// Unique in this process.
    pub id: u64,
    /// The way to it.
    pub mailbox: Mailbox,
}

/// One socket that has not signed in, until dropped.
#[derive(Debug)]
pub struct Anonymous {
    sockets: Arc<Sockets>,
    address: IpAddr,
}

impl Sockets {
    /// How many there are.
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// How many of them have not signed in.
    pub fn anonymous(&self) -> usize {
        self.anonymous.iter().map(|entry| *entry.value()).sum()
    }

    /// Admits a socket below `max` in all.
    pub fn admit(self: &Arc<Self>, max: usize) -> Result<Admission, Full> {
        if self.open.len() >= max {
            return Err(Full::Node);
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mailbox = Mailbox::default();
        self.open.insert(id, mailbox.clone());
        Ok(Admission { sockets: self.clone(), id, mailbox })
    }

    /// Counts a socket of `address` as not signed in, below `max`.
    pub fn admit_anonymous(self: &Arc<Self>, address: IpAddr, max: usize) -> Result<Anonymous, Full> {
        let mut count = self.anonymous.entry(address).or_default();
        if *count >= max {
            return Err(Full::Address);
        }
        *count += 1;
        drop(count);
        Ok(Anonymous { sockets: self.clone(), address })
    }

    /// Tells every socket that the node goes away, each with a delay of its own up to `spread` before it should
    /// come back, and closes it once its calls are answered.
    pub fn drain(&self, spread: Duration) {
        let spread = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX).max(1);
        for entry in &self.open {
            let params = json!({"reconnect_after_ms": rand::random_range(0..spread)});
            entry.value().post(Outbound::Frame(notification("system.draining", &params)));
            entry.value().post(Outbound::close(1012, "the gateway is restarting", When::AfterReplies));
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.sockets.open.remove(&self.id);
    }
}

impl Drop for Anonymous {
    fn drop(&mut self) {
        if let Some(mut count) = self.sockets.anonymous.get_mut(&self.address) {
            *count -= 1;
        }
        self.sockets.anonymous.remove_if(&self.address, |_, count| *count == 0);
    }
}
