//! The system's files as values: who to ask, how long to wait, and what is known without asking.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::Path;

use resolv_conf::ScopedIp;

use super::name::{self, Host};
use crate::limits::{
    DNS_ADDRESSES_MAX, DNS_ATTEMPTS_MAX, DNS_SERVERS_MAX, DNS_TIMEOUT_SECS_MAX, HOSTS_BYTES_MAX, HOSTS_NAMES_MAX,
};
use crate::time::Duration;

const DNS_PORT: u16 = 53;

/// Who to ask and what is known without asking.
///
/// Names are taken as absolute: `search`, `domain` and `ndots` of resolv.conf are ignored, because a relay's URL must mean
/// the same host everywhere. Of its options `timeout` and `attempts` are honoured, within bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolverConfig {
    /// Servers in the order they are tried; not empty.
    pub servers: Vec<SocketAddr>,
    /// Names of the hosts file, lower case and without a trailing dot.
    pub hosts: BTreeMap<String, Vec<IpAddr>>,
    /// Time for one try with one server.
    pub timeout: Duration,
    /// Rounds over all servers, at least 1.
    pub attempts: usize,
}

impl Default for ResolverConfig {
    /// What `resolv.conf(5)` says without a file: the local server, 5 s, two rounds.
    fn default() -> Self {
        parse_resolv_conf(&[], BTreeMap::new())
    }
}

impl ResolverConfig {
    /// Reads the hosts file and resolv.conf (usually `/etc/hosts`, `/etc/resolv.conf`). Blocks, so call it at start.
    ///
    /// A file that is missing, unreadable or partly wrong is used as far as it goes, as the C library does; all but a
    /// missing one is logged as a warning.
    pub fn from_system_files(hosts_path: &Path, resolv_conf_path: &Path) -> Self {
        let hosts = parse_hosts(&read_or_empty(hosts_path));
        parse_resolv_conf(&read_or_empty(resolv_conf_path), hosts)
    }
}

fn read_or_empty(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too long.
    let read = File::open(path).and_then(|file| file.take(HOSTS_BYTES_MAX as u64 + 1).read_to_end(&mut bytes));
    match read {
        Ok(n) if n > HOSTS_BYTES_MAX => {
            log::warn!("{}: only the first {HOSTS_BYTES_MAX} bytes are used", path.display());
            bytes.truncate(HOSTS_BYTES_MAX);
        }
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => log::warn!("{}: {e}", path.display()),
    }
    bytes
}

/// Parses `hosts(5)`: an address and its names on each line, `#` begins a comment. Lines that are wrong are skipped.
fn parse_hosts(bytes: &[u8]) -> BTreeMap<String, Vec<IpAddr>> {
    let mut hosts: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
    let mut left_out = 0_usize;
    for line in bytes.split(|&b| b == b'\n') {
        let line = line.split(|&b| b == b'#').next().unwrap_or(line);
        let Ok(line) = std::str::from_utf8(line) else { continue };
        let mut words = line.split_whitespace();
        let Some(Ok(ip)) = words.next().map(str::parse::<IpAddr>) else { continue };
        for word in words {
            let Host::Name(name) = name::parse(word) else { continue };
            if hosts.len() >= HOSTS_NAMES_MAX && !hosts.contains_key(&name) {
                left_out += 1;
                continue;
            }
            let addresses = hosts.entry(name).or_default();
            if addresses.len() < DNS_ADDRESSES_MAX && !addresses.contains(&ip) {
                addresses.push(ip);
            }
        }
    }
    if left_out > 0 {
        log::warn!("hosts file: {left_out} names beyond the first {HOSTS_NAMES_MAX} are ignored");
    }
    hosts
}

fn parse_resolv_conf(bytes: &[u8], hosts: BTreeMap<String, Vec<IpAddr>>) -> ResolverConfig {
    let (parsed, errors) = resolv_conf::Config::parse_with_errors(bytes);
    for error in errors {
        log::warn!("resolv.conf: {error}");
    }
    let mut servers: Vec<SocketAddr> = parsed.nameservers.iter().filter_map(server).take(DNS_SERVERS_MAX).collect();
    if servers.is_empty() {
        servers.push(SocketAddr::from((Ipv4Addr::LOCALHOST, DNS_PORT)));
    }
    ResolverConfig {
        servers,
        hosts,
        timeout: Duration::from_secs(u64::from(parsed.timeout.clamp(1, DNS_TIMEOUT_SECS_MAX))),
        attempts: parsed.attempts.clamp(1, DNS_ATTEMPTS_MAX) as usize,
    }
}

fn server(ip: &ScopedIp) -> Option<SocketAddr> {
    match ip {
        ScopedIp::V4(ip) => Some((*ip, DNS_PORT).into()),
        ScopedIp::V6(ip, None) => Some((*ip, DNS_PORT).into()),
        ScopedIp::V6(ip, Some(scope)) => scoped_server(*ip, scope),
    }
}

/// A server on one link, such as `fe80::1%eth0`. The interface is found without the C library, from its file in `/sys`.
fn scoped_server(ip: Ipv6Addr, scope: &str) -> Option<SocketAddr> {
    let is_interface = !scope.is_empty() && !scope.starts_with('.') && !scope.contains('/');
    let index = scope.parse().ok().or_else(|| {
        let path = Path::new("/sys/class/net").join(is_interface.then_some(scope)?).join("ifindex");
        std::fs::read_to_string(path).ok()?.trim().parse().ok()
    });
    if index.is_none() {
        log::warn!("resolv.conf: no interface {scope} for nameserver {ip}");
    }
    Some(SocketAddrV6::new(ip, DNS_PORT, 0, index?).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_hosts() {
        let hosts = parse_hosts(
            b"# comment\n127.0.0.1 localhost\n::1 localhost ip6-localhost # more\n\n  10.0.0.1\tA.Example. b.example\r\n\
              nonsense a.example\n10.0.0.2 \xff\xfe\n10.0.0.1 a.example\n10.0.0.3 a.example bad..name 10.0.0.9\n",
        );
        let ips = |name: &str| hosts[name].iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(ips("localhost"), "127.0.0.1 ::1");
        assert_eq!(ips("ip6-localhost"), "::1");
        assert_eq!(ips("a.example"), "10.0.0.1 10.0.0.3");
        assert_eq!(ips("b.example"), "10.0.0.1");
        assert_eq!(hosts.len(), 4);
    }

    #[test]
    fn hosts_are_bounded() {
        let text: String = (0..HOSTS_NAMES_MAX + 10).map(|n| format!("10.0.0.1 n{n}.example\n")).collect();
        assert_eq!(parse_hosts(text.as_bytes()).len(), HOSTS_NAMES_MAX);
        let text: String = (0..100).map(|n| format!("10.0.0.{n} a.example\n")).collect();
        assert_eq!(parse_hosts(text.as_bytes())["a.example"].len(), DNS_ADDRESSES_MAX);
    }

    #[test]
    fn reads_servers_and_options_within_bounds() {
        let parse = |text: &str| parse_resolv_conf(text.as_bytes(), BTreeMap::new());
        let config =
            parse("search example.com\nnameserver 192.0.2.1\nnameserver 2001:db8::1\noptions timeout:3 attempts:4\n");
        assert_eq!(config.servers, ["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()]);
        assert_eq!((config.timeout, config.attempts), (Duration::from_secs(3), 4));

        let config = parse("options timeout:0 attempts:0\nnonsense here\nnameserver 192.0.2.1 \nnameserver x\n");
        assert_eq!(config.servers, ["192.0.2.1:53".parse().unwrap()]);
        assert_eq!((config.timeout, config.attempts), (Duration::from_secs(1), 1));

        let config = parse("options timeout:4000000000 attempts:99\n");
        assert_eq!((config.timeout, config.attempts), (Duration::from_secs(10), 5));

        let many: String = (0..9).map(|n| format!("nameserver 192.0.2.{n}\n")).collect();
        assert_eq!(parse(&many).servers.len(), DNS_SERVERS_MAX);
    }

    #[test]
    fn without_a_server_the_local_one_is_asked() {
        let config =
            ResolverConfig::from_system_files(Path::new("/nonexistent/hosts"), Path::new("/nonexistent/resolv.conf"));
        assert_eq!(config.servers, ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!(config, ResolverConfig::default());
        assert!(config.hosts.is_empty());
    }

    #[test]
    fn a_server_on_a_link_keeps_its_interface() {
        let scoped = |scope: &str| server(&ScopedIp::V6("fe80::1".parse().unwrap(), Some(scope.to_owned())));
        assert_eq!(scoped("7"), Some(SocketAddrV6::new("fe80::1".parse().unwrap(), 53, 0, 7).into()));
        assert_eq!(scoped("../../x"), None);
        assert_eq!(scoped("no-such-interface"), None);
    }
}
