//! What a host name is before anyone is asked: its one form, and the names that are never asked for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Characters of a name without the trailing dot (RFC 1035 section 2.3.4: 255 octets on the wire).
const NAME_CHARS_MAX: usize = 253;
/// Characters of one label (RFC 1035 section 2.3.4).
const LABEL_CHARS_MAX: usize = 63;

/// A name in its one form, or what it means without a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    /// Lower case, without a trailing dot; every label a host name label, with `_` allowed as it occurs in the wild.
    Name(String),
    /// The name is an IPv4 or IPv6 address.
    Address(IpAddr),
    /// Not a host name.
    Bad,
}

/// Parses `name` as it stands in a URL, IPv6 without brackets.
///
/// A name whose last label is a number is refused, as URLs do (WHATWG "ends in a number"): only old C functions read an
/// address into it, and nothing is delegated there.
pub(super) fn parse(name: &str) -> Host {
    if let Ok(ip) = name.parse() {
        return Host::Address(ip);
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        (1..=LABEL_CHARS_MAX).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.len() > NAME_CHARS_MAX || !name.split('.').all(is_label) || ends_in_number(name) {
        return Host::Bad;
    }
    Host::Name(name.to_ascii_lowercase())
}

fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    last.bytes().all(|b| b.is_ascii_digit()) || hex.is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// What names of special use mean, so that no server is asked for them: `localhost` and what is under it are the
/// loopback addresses, `invalid` does not exist (RFC 6761), `onion` is not a matter of DNS (RFC 7686). `None`: ordinary.
/// The hosts file goes before.
pub(super) fn special(name: &str) -> Option<Vec<IpAddr>> {
    let is_under = |top: &str| name.strip_suffix(top).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    if is_under("localhost") {
        return Some(vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()]);
    }
    (is_under("invalid") || is_under("onion")).then(Vec::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brings_names_to_one_form() {
        assert_eq!(parse("Relay.Example.COM."), Host::Name("relay.example.com".into()));
        assert_eq!(parse("_x.a-b.example"), Host::Name("_x.a-b.example".into()));
        assert_eq!(parse("localhost"), Host::Name("localhost".into()));
        assert_eq!(parse("1.example"), Host::Name("1.example".into()));
    }

    #[test]
    fn knows_addresses() {
        assert_eq!(parse("192.0.2.1"), Host::Address("192.0.2.1".parse().unwrap()));
        assert_eq!(parse("2001:db8::1"), Host::Address("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn refuses_what_is_no_host_name() {
        let long = format!("{}.example", "a".repeat(64));
        let longest = vec!["a".repeat(63); 4].join(".");
        let names =
            ["", ".", "a..b", ".a", "a b", "a\\.b", "a\0b", "ü.example", "[::1]", "127.1", "1", "a.0x7f", "a.0x"];
        for bad in names.into_iter().chain([long.as_str(), longest.as_str()]) {
            assert_eq!(parse(bad), Host::Bad, "{bad:?}");
        }
    }

    #[test]
    fn answers_special_names_alone() {
        assert_eq!(special("localhost").unwrap().len(), 2);
        assert_eq!(special("a.localhost").unwrap().len(), 2);
        assert_eq!(special("a.onion"), Some(Vec::new()));
        assert_eq!(special("invalid"), Some(Vec::new()));
        assert_eq!(special("notlocalhost"), None);
        assert_eq!(special("localhost.example"), None);
    }
}
