//! Whose link it is.

use std::net::{IpAddr, Ipv6Addr};

/// Bits of an IPv6 address that tell one customer of a network from another; the rest is the customer's to choose.
const IPV6_CUSTOMER_BITS: u32 = 64;

/// Who pays for a link, whoever has begun it: an IPv4 address, or the first half of an IPv6 address; or a proxy of the
/// operator's, which stands for many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account {
    address: IpAddr,
    is_proxy: bool,
}

impl Account {
    /// The account of the peer at an address. An IPv4 address within IPv6 (RFC 4291, section 2.5.5.2) counts as itself.
    pub fn of(address: IpAddr) -> Account {
        let address = match address.to_canonical() {
            IpAddr::V6(v6) => {
                let kept = u128::MAX << (u128::BITS - IPV6_CUSTOMER_BITS);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & kept))
            }
            v4 @ IpAddr::V4(_) => v4,
        };
        Account { address, is_proxy: false }
    }

    /// The account of a proxy at an address, as long as nobody knows for whom it speaks.
    pub fn of_proxy(address: IpAddr) -> Account {
        Account { address: address.to_canonical(), is_proxy: true }
    }

    /// Whether it is free of what goes by address: proxies are, and this machine itself if it is to be.
    pub fn is_exempt(&self, loopback_exempt: bool) -> bool {
        self.is_proxy || loopback_exempt && self.is_loopback()
    }

    /// Whether it is this machine itself, where a proxy of the operator's may stand.
    fn is_loopback(&self) -> bool {
        // Of ::1 the account has lost its last bit.
        match self.address {
            IpAddr::V4(v4) => v4.is_loopback(),
            IpAddr::V6(v6) => v6.is_unspecified(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(text: &str) -> Account {
        Account::of(text.parse().unwrap())
    }

    #[test]
    fn an_ipv4_address_and_half_an_ipv6_address_are_accounts() {
        assert_ne!(account("192.0.2.1"), account("192.0.2.2"));
        assert_eq!(account("192.0.2.1"), account("::ffff:192.0.2.1"));
        assert_eq!(account("2001:db8:1:2::1"), account("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(account("2001:db8:1:2::1"), account("2001:db8:1:3::1"));
        assert!(account("127.0.0.1").is_loopback() && account("::1").is_loopback());
        assert!(!account("192.0.2.1").is_loopback() && !account("2001:db8::1").is_loopback());
    }

    #[test]
    fn a_proxy_is_exempt_and_its_neighbours_are_not() {
        let proxy = Account::of_proxy("2001:db8::1".parse().unwrap());
        assert!(proxy.is_exempt(true) && proxy.is_exempt(false));
        assert_ne!(proxy, account("2001:db8::1"));
        assert!(!account("2001:db8::1").is_exempt(true));
        assert!(account("127.0.0.1").is_exempt(true) && !account("127.0.0.1").is_exempt(false));
    }
}
