//! The address that a request comes from, also where proxies stand between.
//!
//! A proxy adds the address of whoever spoke to it at the end of `X-Forwarded-For`; everything before that may be made up
//! by the client. So only the entries that trusted proxies have added are believed, read from the right.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use axum::http::{HeaderMap, HeaderName};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The proxies whose word is taken, as networks; none by default.
#[derive(Debug, Clone, Default)]
pub struct TrustedProxies(Vec<Network>);

/// A block of addresses, as in RFC 4632: all whose first `prefix` bits are those of `first`.
#[derive(Debug, Clone, Copy)]
struct Network {
    first: Ipv6Addr,
    prefix: u32,
}

impl TrustedProxies {
    /// Where a request comes from: the peer of its socket, unless that is a trusted proxy; then the right-most
    /// `X-Forwarded-For` entry, over all header lines, that is none. The peer too where an entry before that cannot be
    /// read, or all are trusted proxies.
    pub fn client_address(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.trust(peer) {
            return peer;
        }
        for line in headers.get_all(FORWARDED_FOR).iter().rev() {
            let Ok(line) = line.to_str() else { return peer };
            // RFC 9110 §5.6.1.2: empty elements of a list are ignored.
            for entry in line.rsplit(',').map(str::trim).filter(|entry| !entry.is_empty()) {
                match parse(entry) {
                    Some(address) if self.trust(address) => {}
                    Some(address) => return address,
                    None => return peer,
                }
            }
        }
        peer
    }

    fn trust(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }
}

impl FromStr for TrustedProxies {
    type Err = ();

    /// Addresses and blocks such as `10.0.0.0/8`, separated by commas.
    fn from_str(text: &str) -> Result<Self, ()> {
        text.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Network {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u32>().map_err(drop)?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(drop)?;
        // IPv4 is compared within the IPv6 addresses that stand for it.
        let (offset, bits) = if address.is_ipv4() { (96, 32) } else { (0, 128) };
        let prefix = prefix.unwrap_or(bits);
        if prefix > bits {
            return Err(());
        }
        Ok(Self { first: mapped(address), prefix: offset + prefix })
    }
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        let differing = self.first.to_bits() ^ mapped(address).to_bits();
        differing.leading_zeros() >= self.prefix
    }
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// An entry: an address, in brackets or with a port as some proxies write it.
fn parse(entry: &str) -> Option<IpAddr> {
    let bare = entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = match bare {
        Some(bare) => bare.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => entry.parse().ok().or_else(|| entry.parse::<SocketAddr>().ok().map(|address| address.ip())),
    };
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const PROXY: &str = "10.0.0.1";

    #[test]
    fn s09_the_client_is_the_right_most_address_that_no_trusted_proxy_has() {
        // Peer, header lines, address.
        let cases: [(&str, &[&str], &str); 43] = [
            // Nobody in between: nothing is believed.
            ("192.0.2.9", &[], "192.0.2.9"),
            ("192.0.2.9", &["198.51.100.1"], "192.0.2.9"),
            ("192.0.2.9", &["198.51.100.1, 10.0.0.1"], "192.0.2.9"),
            ("192.0.2.9", &["not an address"], "192.0.2.9"),
            ("11.0.0.1", &["198.51.100.1"], "11.0.0.1"),
            ("9.255.255.255", &["198.51.100.1"], "9.255.255.255"),
            ("192.168.7.2", &["198.51.100.1"], "192.168.7.2"),
            ("2001:db8:1::1", &["198.51.100.1"], "2001:db8:1::1"),
            ("::ffff:192.0.2.9", &["198.51.100.1"], "192.0.2.9"),
            ("::", &["198.51.100.1"], "::"),
            // A trusted proxy, one entry.
            (PROXY, &["198.51.100.1"], "198.51.100.1"),
            ("10.255.255.255", &["198.51.100.1"], "198.51.100.1"),
            ("192.168.7.1", &["198.51.100.1"], "198.51.100.1"),
            ("2001:db8::1", &["198.51.100.1"], "198.51.100.1"),
            ("::ffff:10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            (PROXY, &["2001:db8:1::1"], "2001:db8:1::1"),
            (PROXY, &["::ffff:198.51.100.1"], "198.51.100.1"),
            (PROXY, &["  198.51.100.1\t"], "198.51.100.1"),
            (PROXY, &["198.51.100.1:4711"], "198.51.100.1"),
            (PROXY, &["[2001:db8:1::1]"], "2001:db8:1::1"),
            (PROXY, &["[2001:db8:1::1]:4711"], "2001:db8:1::1"),
            // Several: what stands left of the first untrusted one may be made up.
            (PROXY, &["203.0.113.1, 198.51.100.1"], "198.51.100.1"),
            (PROXY, &["203.0.113.1,198.51.100.1"], "198.51.100.1"),
            (PROXY, &["127.0.0.1, 198.51.100.1"], "198.51.100.1"),
            (PROXY, &["10.0.0.7, 198.51.100.1"], "198.51.100.1"),
            (PROXY, &["nonsense, 198.51.100.1"], "198.51.100.1"),
            (PROXY, &["198.51.100.1, 10.0.0.2"], "198.51.100.1"),
            (PROXY, &["203.0.113.1, 198.51.100.1, 10.0.0.2, 192.168.7.1"], "198.51.100.1"),
            (PROXY, &["198.51.100.1, 192.168.7.2"], "192.168.7.2"),
            // Over all lines, the last one first.
            (PROXY, &["203.0.113.1", "198.51.100.1"], "198.51.100.1"),
            (PROXY, &["198.51.100.1", "10.0.0.2"], "198.51.100.1"),
            (PROXY, &["203.0.113.1, 198.51.100.1", "10.0.0.2, 10.0.0.3"], "198.51.100.1"),
            (PROXY, &["198.51.100.1", ""], "198.51.100.1"),
            (PROXY, &["198.51.100.1,,"], "198.51.100.1"),
            // Nothing to go by: the peer.
            (PROXY, &[], PROXY),
            (PROXY, &[""], PROXY),
            (PROXY, &["10.0.0.2, 10.0.0.3"], PROXY),
            (PROXY, &["unknown"], PROXY),
            (PROXY, &["198.51.100.1, unknown"], PROXY),
            (PROXY, &["198.51.100.1", "999.1.1.1"], PROXY),
            (PROXY, &["198.51.100.1:port"], PROXY),
            (PROXY, &["fe80::1%eth0"], PROXY),
            (PROXY, &["198.51.100.1, 10.0.0.\u{e9}"], PROXY),
        ];
        let trusted: TrustedProxies = "10.0.0.0/8, 192.168.7.1,2001:db8::/48".parse().unwrap();
        for (peer, lines, expected) in cases {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(FORWARDED_FOR, HeaderValue::from_bytes(line.as_bytes()).unwrap());
            }
            let address = trusted.client_address(peer.parse().unwrap(), &headers);
            assert_eq!(address.to_string(), expected, "{peer} {lines:?}");
        }
    }

    #[test]
    fn s09_what_is_no_address_or_block_is_refused() {
        for wrong in
            ["10.0.0.0/33", "2001:db8::/129", "10.0.0", "10.0.0.1/", "proxy.example", "10.0.0.1,,10.0.0.2", "*"]
        {
            assert!(wrong.parse::<TrustedProxies>().is_err(), "{wrong}");
        }
        let all: TrustedProxies = "0.0.0.0/0,::/0".parse().unwrap();
        assert!(all.trust("192.0.2.1".parse().unwrap()) && all.trust("2001:db8::1".parse().unwrap()));
    }
}
