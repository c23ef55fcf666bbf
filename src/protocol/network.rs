//! Addresses that belong together.

use std::net::IpAddr;

/// All addresses that begin with the same bits, as CIDR (RFC 4632) writes them; or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    bits: u32,
}

impl Network {
    /// `192.0.2.1`, `192.0.2.0/24`, `2001:db8::/32`. `None` if it is none of these, or if bits are set beyond those that
    /// count: somebody has meant another network.
    pub fn parse(text: &str) -> Option<Network> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let first = address.parse::<IpAddr>().ok()?.to_canonical();
        let bits = match bits {
            Some(bits) if bits.bytes().all(|digit| digit.is_ascii_digit()) => bits.parse().ok()?,
            Some(_) => return None,
            None => width(first),
        };
        let network = Network { first, bits };
        (bits <= width(first) && kept(first, bits) == Some(to_bits(first))).then_some(network)
    }

    /// All addresses that begin with the first bits of this one, which has no others.
    pub(super) const fn of(first: IpAddr, bits: u32) -> Network {
        Network { first, bits }
    }

    /// Whether an address is one of them. An IPv4 address within IPv6 (RFC 4291, section 2.5.5.2) counts as itself.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        width(address) == width(self.first) && kept(address, self.bits) == Some(to_bits(self.first))
    }
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { u32::BITS } else { u128::BITS }
}

fn to_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The first bits of an address; `None` if it has fewer.
fn kept(address: IpAddr, bits: u32) -> Option<u128> {
    let dropped = width(address).checked_sub(bits)?;
    Some(to_bits(address).checked_shr(dropped).unwrap_or(0).checked_shl(dropped).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(network: &str, address: &str) -> bool {
        Network::parse(network).unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn a_network_has_what_begins_alike() {
        for (network, inside, outside) in [
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("10.0.0.0/8", "::ffff:10.1.2.3", "11.0.0.0"),
            ("192.0.2.128/25", "192.0.2.129", "192.0.2.127"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("2001:db8::1", "2001:db8::1", "2001:db8::2"),
            ("::1/128", "::1", "::2"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("::/0", "ffff::", "127.0.0.1"),
            ("::ffff:192.0.2.1", "192.0.2.1", "192.0.2.2"),
        ] {
            assert!(contains(network, inside), "{network} has {inside}");
            assert!(!contains(network, outside), "{network} has not {outside}");
        }
    }

    #[test]
    fn what_is_no_network_is_none() {
        for text in
            ["", "/", "x", "10.0.0.0/", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.0/+8", "10/8", "::1/64", "::/129", "[::1]"]
        {
            assert_eq!(Network::parse(text), None, "{text}");
        }
    }
}
