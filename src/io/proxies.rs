//! For whom a proxy speaks (spec section 16, "The client's address").
//!
//! A proxy of the operator's is believed what it says of its client: by the PROXY protocol before the first byte, or in
//! `X-Forwarded-For`, to which each proxy adds whom it was asked by. So the last address in it that is no proxy's own is the
//! client's, and what stands before that is the client's to invent.

use std::net::{IpAddr, SocketAddr};

use crate::limits::FORWARDED_HOPS_MAX;
use crate::protocol::network::Network;
use crate::shares::Account;

/// The proxies whose word counts.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    trusted: Vec<Network>,
    /// Whether they are free of what goes by address where they speak for nobody.
    exempt: bool,
}

/// A trusted proxy says for whom it speaks, and it is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadForwarded;

impl Proxies {
    /// Those in these networks.
    pub fn new(trusted: Vec<Network>, exempt: bool) -> Proxies {
        Proxies { trusted, exempt }
    }

    /// Whether an address is one of theirs.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(address))
    }

    /// Who pays for a connection from an address of which nothing was heard yet. A proxy is not held to what goes by
    /// address before it could say for whom it speaks.
    pub fn newcomer(&self, address: IpAddr) -> Account {
        if self.trusts(address) { Account::of_proxy(address) } else { Account::of(address) }
    }

    /// Who pays for what is asked from an address.
    pub fn account(&self, address: IpAddr) -> Account {
        if self.exempt { self.newcomer(address) } else { Account::of(address) }
    }

    /// Whose request it is that came from `peer` and has gone along these hops ([`hops`]).
    ///
    /// # Errors
    ///
    /// If a trusted proxy names a hop that is no address.
    pub fn client(&self, peer: IpAddr, hops: &[Option<IpAddr>]) -> Result<IpAddr, BadForwarded> {
        let mut client = peer;
        for hop in hops.iter().rev() {
            if !self.trusts(client) {
                break;
            }
            client = hop.ok_or(BadForwarded)?;
        }
        Ok(client)
    }
}

/// The hops in the lines of `X-Forwarded-For`, the last [`FORWARDED_HOPS_MAX`]; `None` for what is no address.
pub fn hops<'a>(lines: impl DoubleEndedIterator<Item = &'a [u8]>) -> Vec<Option<IpAddr>> {
    let from_the_end = lines.rev().flat_map(|line| line.rsplit(|byte| *byte == b','));
    // RFC 9110, section 5.6.1.2: empty elements of a list say nothing.
    let said = from_the_end.map(<[u8]>::trim_ascii).filter(|hop| !hop.is_empty());
    let mut hops: Vec<Option<IpAddr>> = said.take(FORWARDED_HOPS_MAX).map(hop).collect();
    hops.reverse();
    hops
}

/// An address as proxies write it: alone, in brackets, with a port.
fn hop(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let in_brackets = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    text.parse().ok().or_else(in_brackets).or_else(with_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn proxies(exempt: bool) -> Proxies {
        Proxies::new(["127.0.0.1", "10.0.0.0/8"].map(|network| Network::parse(network).unwrap()).into(), exempt)
    }

    fn client(peer: &str, lines: &[&str]) -> Result<IpAddr, BadForwarded> {
        proxies(true).client(ip(peer), &hops(lines.iter().map(|line| line.as_bytes())))
    }

    #[test]
    fn the_last_hop_that_is_no_proxy_is_the_client() {
        for (peer, lines, expected) in [
            ("127.0.0.1", &["192.0.2.7"][..], "192.0.2.7"),
            ("127.0.0.1", &["203.0.113.1, 192.0.2.7"], "192.0.2.7"),
            ("127.0.0.1", &["nonsense, 192.0.2.7"], "192.0.2.7"),
            ("127.0.0.1", &["203.0.113.1", "192.0.2.7, 10.1.2.3"], "192.0.2.7"),
            ("127.0.0.1", &["203.0.113.1", "192.0.2.7", "10.1.2.3,,10.9.9.9, "], "192.0.2.7"),
            ("::ffff:127.0.0.1", &["2001:db8::1"], "2001:db8::1"),
            ("127.0.0.1", &["[2001:db8::1]"], "2001:db8::1"),
            ("127.0.0.1", &["[2001:db8::1]:443"], "2001:db8::1"),
            ("127.0.0.1", &["192.0.2.7:55555"], "192.0.2.7"),
            // All the way proxies: the first of them asks for itself.
            ("127.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("127.0.0.1", &[], "127.0.0.1"),
            ("127.0.0.1", &[" , "], "127.0.0.1"),
            // What others say is not looked at.
            ("198.51.100.1", &["192.0.2.7"], "198.51.100.1"),
            ("198.51.100.1", &["nonsense"], "198.51.100.1"),
        ] {
            assert_eq!(client(peer, lines), Ok(ip(expected)), "{peer} {lines:?}");
        }
    }

    #[test]
    fn a_proxy_that_names_no_address_is_not_understood() {
        for line in ["unknown", "192.0.2.7, unknown", "192.0.2.300", "192.0.2.7 10.0.0.1", "[192.0.2.7]", "\u{e9}"] {
            assert_eq!(client("127.0.0.1", &[line]), Err(BadForwarded), "{line}");
        }
        assert_eq!(client("127.0.0.1", &["192.0.2.7, unknown, 10.0.0.1"]), Err(BadForwarded));
    }

    #[test]
    fn of_many_hops_the_last_are_looked_at() {
        let line = format!("192.0.2.7{}", ", 10.0.0.1".repeat(FORWARDED_HOPS_MAX - 1));
        assert_eq!(client("127.0.0.1", &[&line]), Ok(ip("192.0.2.7")));
        let line = format!("192.0.2.7{}", ", 10.0.0.1".repeat(1_000));
        assert_eq!(client("127.0.0.1", &[&line]), Ok(ip("10.0.0.1")));
    }

    #[test]
    fn a_proxy_that_speaks_for_nobody_is_exempt_if_this_machine_is() {
        for exempt in [true, false] {
            let proxies = proxies(exempt);
            assert_eq!(proxies.newcomer(ip("10.0.0.1")), Account::of_proxy(ip("10.0.0.1")));
            assert_eq!(proxies.newcomer(ip("192.0.2.7")), Account::of(ip("192.0.2.7")));
            assert_eq!(proxies.account(ip("192.0.2.7")), Account::of(ip("192.0.2.7")));
            assert_eq!(proxies.account(ip("10.0.0.1")).is_exempt(exempt), exempt);
        }
    }
}
