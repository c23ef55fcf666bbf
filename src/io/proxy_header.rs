//! What a proxy says before the first byte that it passes on: the PROXY protocol, versions 1 and 2, as HAProxy's
//! `doc/proxy-protocol.txt` has it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::limits::PROXY_HEADER_BYTES_MAX;

/// How much of a header there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preface {
    /// The connection begins with something else.
    Absent,
    /// More is to come.
    Partial,
    /// All of it.
    Complete {
        /// Bytes of the header.
        len: usize,
        /// For whom the proxy speaks; `None` if that is itself, or not known to it.
        source: Option<IpAddr>,
    },
}

/// It begins as a header and is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadHeader;

const V1_BEGIN: &[u8] = b"PROXY ";
/// With its line end.
const V1_BYTES_MAX: usize = 107;
const V2_BEGIN: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Before the addresses.
const V2_FIXED_BYTES: usize = 16;

/// Reads a header off the first bytes of a connection.
///
/// # Errors
///
/// If it begins as one and is none. One of more than [`PROXY_HEADER_BYTES_MAX`] is none.
pub fn parse(bytes: &[u8]) -> Result<Preface, BadHeader> {
    if bytes.starts_with(V1_BEGIN) {
        return parse_v1(bytes);
    }
    if bytes.starts_with(V2_BEGIN) {
        return parse_v2(bytes);
    }
    let may_become = |begin: &[u8]| begin.starts_with(bytes);
    Ok(if may_become(V1_BEGIN) || may_become(V2_BEGIN) { Preface::Partial } else { Preface::Absent })
}

fn parse_v1(bytes: &[u8]) -> Result<Preface, BadHeader> {
    let seen = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(line_len) = seen.windows(2).position(|end| end == b"\r\n") else {
        return if seen.len() == V1_BYTES_MAX { Err(BadHeader) } else { Ok(Preface::Partial) };
    };
    let line = std::str::from_utf8(&seen[V1_BEGIN.len()..line_len]).map_err(|_| BadHeader)?;
    let is_port = |text: &&str| text.bytes().all(|digit| digit.is_ascii_digit()) && text.parse::<u16>().is_ok();
    let words: Vec<&str> = line.split(' ').collect();
    let source = match words[..] {
        ["UNKNOWN", ..] => None,
        ["TCP4", source, to, ref ports @ ..] if ports.len() == 2 && ports.iter().all(is_port) => {
            to.parse::<Ipv4Addr>().map_err(|_| BadHeader)?;
            Some(IpAddr::V4(source.parse().map_err(|_| BadHeader)?))
        }
        ["TCP6", source, to, ref ports @ ..] if ports.len() == 2 && ports.iter().all(is_port) => {
            to.parse::<Ipv6Addr>().map_err(|_| BadHeader)?;
            Some(IpAddr::V6(source.parse().map_err(|_| BadHeader)?))
        }
        _ => return Err(BadHeader),
    };
    Ok(Preface::Complete { len: line_len + 2, source })
}

fn parse_v2(bytes: &[u8]) -> Result<Preface, BadHeader> {
    let Some((fixed, rest)) = bytes.split_first_chunk::<V2_FIXED_BYTES>() else { return Ok(Preface::Partial) };
    let [.., command, family, len_high, len_low] = *fixed;
    let addresses_len = usize::from(u16::from_be_bytes([len_high, len_low]));
    let len = V2_FIXED_BYTES + addresses_len;
    if len > PROXY_HEADER_BYTES_MAX {
        return Err(BadHeader);
    }
    let Some(addresses) = rest.get(..addresses_len) else { return Ok(Preface::Partial) };
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    const UNSPECIFIED: u8 = 0x00;
    const TCP4: u8 = 0x11;
    const TCP6: u8 = 0x21;
    const UNIX_STREAM: u8 = 0x31;
    // Source, destination, two ports; whatever follows are further values that nobody here asks for.
    let source = match (command, family) {
        (LOCAL, _) | (PROXY, UNSPECIFIED | UNIX_STREAM) => None,
        (PROXY, TCP4) if addresses_len >= 12 => addresses.first_chunk::<4>().map(|source| IpAddr::from(*source)),
        (PROXY, TCP6) if addresses_len >= 36 => addresses.first_chunk::<16>().map(|source| IpAddr::from(*source)),
        _ => return Err(BadHeader),
    };
    Ok(Preface::Complete { len, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let len = u16::try_from(addresses.len()).unwrap().to_be_bytes();
        [V2_BEGIN, &[command, family], &len, addresses].concat()
    }

    fn source(header: &[u8]) -> Option<IpAddr> {
        match parse(header) {
            Ok(Preface::Complete { len, source }) if len == header.len() => source,
            other => panic!("{header:?}: {other:?}"),
        }
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn both_versions_say_for_whom_a_proxy_speaks() {
        assert_eq!(source(b"PROXY TCP4 192.0.2.1 10.0.0.1 56324 443\r\n"), ip("192.0.2.1"));
        assert_eq!(source(b"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n"), ip("2001:db8::1"));
        let ports = [0xdc, 0x04, 0x01, 0xbb];
        let tcp4 = [&[192, 0, 2, 1, 10, 0, 0, 1][..], &ports].concat();
        assert_eq!(source(&v2(0x21, 0x11, &tcp4)), ip("192.0.2.1"));
        let from = "2001:db8::1".parse::<Ipv6Addr>().unwrap().octets();
        let tcp6 = [&from[..], &[0; 16], &ports].concat();
        assert_eq!(source(&v2(0x21, 0x21, &tcp6)), ip("2001:db8::1"));
        let with_values = [&tcp4[..], &[0x04, 0, 3, 1, 2, 3]].concat();
        assert_eq!(source(&v2(0x21, 0x11, &with_values)), ip("192.0.2.1"));
    }

    #[test]
    fn a_proxy_may_speak_for_itself() {
        for header in [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n".to_vec(),
            v2(0x20, 0, &[]),
            v2(0x20, 0x11, &[1; 12]),
            v2(0x21, 0, &[1; 40]),
            v2(0x21, 0x31, &[b'/'; 216]),
        ] {
            assert_eq!(source(&header), None);
        }
    }

    #[test]
    fn what_begins_as_a_header_and_is_none_is_refused() {
        for header in [
            b"PROXY TCP4 192.0.2.1 10.0.0.1 1\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 1 65536\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 +1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2 3\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::1 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 x 1 2\r\n".to_vec(),
            b"PROXY TCP6 192.0.2.1 ::1 1 2\r\n".to_vec(),
            b"PROXY  TCP4 192.0.2.1 10.0.0.1 1 2\r\n".to_vec(),
            b"PROXY / HTTP/1.1\r\n".to_vec(),
            b"PROXY \r\n".to_vec(),
            b"PROXY \xff\r\n".to_vec(),
            [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; V1_BYTES_MAX]].concat(),
            v2(0x11, 0x11, &[0; 12]),
            v2(0x22, 0x11, &[0; 12]),
            v2(0x21, 0x11, &[0; 11]),
            v2(0x21, 0x21, &[0; 35]),
            v2(0x21, 0x12, &[0; 12]),
            v2(0x21, 0x11, &vec![0; PROXY_HEADER_BYTES_MAX]),
        ] {
            assert_eq!(parse(&header), Err(BadHeader), "{:?}", String::from_utf8_lossy(&header));
        }
    }

    #[test]
    fn whatever_is_cut_off_is_waited_for_and_what_follows_is_left_alone() {
        for header in [b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n".to_vec(), v2(0x21, 0x11, &[1; 40])] {
            for cut in 0..header.len() {
                assert_eq!(parse(&header[..cut]), Ok(Preface::Partial), "{cut}");
            }
            let followed = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
            assert!(matches!(parse(&followed), Ok(Preface::Complete { len, .. }) if len == header.len()));
        }
        for other in ["GET / HTTP/1.1\r\n", "PROXIES", "\r\n\r\nGET", "P\r\n", "\r\n\r\n\0\r\nQUIET"] {
            assert_eq!(parse(other.as_bytes()), Ok(Preface::Absent), "{other:?}");
        }
    }
}
