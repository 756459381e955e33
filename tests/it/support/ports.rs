//! Addresses to listen on again, after a while in which nobody did.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

/// Below what Linux gives to whoever asks for any port (`ip_local_port_range`, from 32768 on), connections too: what is let
/// go there is still free later.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// An address of this machine that nobody listens on, and that nobody is given by chance. No other call in this process
/// gives the same.
pub fn lasting_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Other processes look for theirs elsewhere.
    let start = u16::try_from(std::process::id() % u32::from(COUNT / 100)).expect("it is small") * 100;
    let addresses = (0..COUNT).map(|_| {
        let port = FIRST + (start + NEXT.fetch_add(1, Relaxed) % COUNT) % COUNT;
        SocketAddr::from(([127, 0, 0, 1], port))
    });
    addresses.into_iter().find(|address| TcpListener::bind(address).is_ok()).expect("a port is free")
}
