//! Which addresses may be dialled, and in which order.
//!
//! Relay URLs come from strangers, so a name may point into our own network. The address is judged after resolution and
//! is the very address then dialled, so that a name which changes its mind in between gains nothing. What is refused is
//! everything that IANA's special-purpose registries (RFC 6890) do not call globally reachable, and every IPv6 form that
//! carries such an IPv4 address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::network::Network;

/// IPv4 blocks that are not the public Internet: first address and prefix length.
const V4_REFUSED: [Network; 15] = [
    v4([0, 0, 0, 0], 8),       // this network (RFC 791)
    v4([10, 0, 0, 0], 8),      // private (RFC 1918)
    v4([100, 64, 0, 0], 10),   // shared by carriers' NAT (RFC 6598)
    v4([127, 0, 0, 0], 8),     // loopback (RFC 1122)
    v4([169, 254, 0, 0], 16),  // link-local (RFC 3927), cloud metadata too
    v4([172, 16, 0, 0], 12),   // private (RFC 1918)
    v4([192, 0, 0, 0], 24),    // IETF protocols (RFC 6890)
    v4([192, 0, 2, 0], 24),    // documentation (RFC 5737)
    v4([192, 88, 99, 0], 24),  // former 6to4 relays (RFC 7526)
    v4([192, 168, 0, 0], 16),  // private (RFC 1918)
    v4([198, 18, 0, 0], 15),   // benchmarking (RFC 2544)
    v4([198, 51, 100, 0], 24), // documentation (RFC 5737)
    v4([203, 0, 113, 0], 24),  // documentation (RFC 5737)
    v4([224, 0, 0, 0], 4),     // multicast (RFC 5771)
    v4([240, 0, 0, 0], 4),     // reserved (RFC 1112), broadcast
];

/// IPv6 blocks inside [`V6_GLOBAL`] that are not the public Internet.
const V6_REFUSED: [Network; 3] = [
    // IETF protocols (RFC 2928): Teredo, benchmarking, ORCHID. Teredo is refused whatever it carries: no relay lives there.
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), // documentation (RFC 3849)
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),     // documentation (RFC 9637)
];

/// Global unicast (RFC 4291). All else is refused: loopback, unspecified, mapped and compatible IPv4, link-local,
/// site-local, unique local, multicast, discard-only, and what has not been handed out.
const V6_GLOBAL: Network = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);
/// NAT64 (RFC 6052): IPv4 in the last 32 bits.
const V6_NAT64: Network = v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96);
/// 6to4 (RFC 3056): IPv4 in bits 16 to 47.
const V6_6TO4: Network = v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16);

const fn v4([a, b, c, d]: [u8; 4], bits: u32) -> Network {
    Network::of(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), bits)
}

const fn v6([a, b, c, d, e, f, g, h]: [u16; 8], bits: u32) -> Network {
    Network::of(IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)), bits)
}

/// Whether `ip` belongs to the public Internet, so that a stranger's URL may make us dial it.
///
/// IPv4-mapped and IPv4-compatible IPv6 addresses are refused whatever they carry: DNS has A records for that. NAT64 and
/// 6to4 addresses are as public as the IPv4 address inside.
pub fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

fn is_public_v4(ip: Ipv4Addr) -> bool {
    !V4_REFUSED.iter().any(|block| block.contains(ip.into()))
}

fn is_public_v6(ip: Ipv6Addr) -> bool {
    let is_in = |block: &Network| block.contains(ip.into());
    if is_in(&V6_NAT64) {
        return is_public_v4(Ipv4Addr::from(u128::from(ip) as u32));
    }
    if is_in(&V6_6TO4) {
        return is_public_v4(Ipv4Addr::from((u128::from(ip) >> 80) as u32));
    }
    is_in(&V6_GLOBAL) && !V6_REFUSED.iter().any(is_in)
}

/// The order in which to dial: IPv6 first, then families in turn (RFC 8305 section 4), each in the order it came, without
/// doubles, at most `max`. On a host without IPv6 the first dial fails at once and the next address follows.
pub fn interleave(v6: &[IpAddr], v4: &[IpAddr], max: usize) -> Vec<IpAddr> {
    let mut ordered = Vec::with_capacity(max.min(v6.len() + v4.len()));
    for i in 0..v6.len().max(v4.len()) {
        for &ip in v6.get(i).into_iter().chain(v4.get(i)) {
            if ordered.len() < max && !ordered.contains(&ip) {
                ordered.push(ip);
            }
        }
        if ordered.len() == max {
            break;
        }
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn refuses_all_that_is_not_public() {
        for refused in [
            "0.0.0.0",
            "0.255.255.255",
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.0",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.0.1",
            "169.254.169.254",
            "172.16.0.0",
            "172.31.255.255",
            "192.0.0.0",
            "192.0.0.170",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.0",
            "192.168.255.255",
            "198.18.0.0",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.255",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.0",
            "255.255.255.255",
            "::",
            "::1",
            "::2",
            "::127.0.0.1",
            "::8.8.8.8",
            "::ffff:127.0.0.1",
            "::ffff:10.1.2.3",
            "::ffff:8.8.8.8",
            "::ffff:0:8.8.8.8",
            "64:ff9b::10.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::8.8.8.8",
            "64:ff9b::1:808:808",
            "100::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
            "2001:1ff:ffff::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2002:a00:1::",
            "2002:c0a8:101::1",
            "2002:a9fe:a9fe::1",
            "3fff::1",
            "3fff:fff:ffff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fdff:ffff::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "feff::1",
            "ff02::1",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        ] {
            assert!(!is_public(ip(refused)), "{refused}");
        }
    }

    #[test]
    fn lets_public_addresses_pass_up_to_the_edges_of_each_block() {
        for public in [
            "1.0.0.0",
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "191.255.255.255",
            "192.0.1.0",
            "192.0.3.0",
            "192.88.98.255",
            "192.88.100.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "198.51.101.0",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2001:db7::1",
            "2001:db9::1",
            "2002:808:808::1",
            "2606:4700:4700::1111",
            "2a00:1450:4001::1",
            "3ffe:ffff::1",
            "3fff:1000::1",
            "64:ff9b::8.8.8.8",
        ] {
            assert!(is_public(ip(public)), "{public}");
        }
    }

    #[test]
    fn interleaves_families_with_ipv6_first() {
        let v6 = [ip("2001:4860::1"), ip("2001:4860::2"), ip("2001:4860::1")];
        let v4 = [ip("1.1.1.1")];
        assert_eq!(interleave(&v6, &v4, 16), [v6[0], v4[0], v6[1]]);
        assert_eq!(interleave(&[], &v4, 16), v4);
        assert_eq!(interleave(&v6, &v4, 2), [v6[0], v4[0]]);
        assert!(interleave(&[], &[], 16).is_empty());
    }
}
