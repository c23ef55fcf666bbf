//! One normal form per relay, and the one way to tell our own service from others.
//!
//! A relay that is written in five ways would be dialled five times, and one that is recognised by substring would let
//! `evil-ours.com` pass for `ours.com`. So a URL is parsed once, by the WHATWG rules of the `url` crate (IDNA included),
//! into a string that is equal exactly if the relay is, and compared by parsed parts ever after. Addresses are not
//! judged here: whether one may be dialled is known only after resolution.
//!
//! Slashes at the end of a path are in neither camp. To a server `/p` and `/p/` are two resources (RFC 3986, section
//! 6.2.3), and many answer 404 to one of them; to the people who write announcements they are one relay, which must not
//! be dialled twice. So a [`RelayUrl`] is its normal form, without them, wherever it is compared, sorted, stored or shown,
//! and carries the path as it was written beside it, for the request alone. Whoever keeps URLs in a set or map keeps the
//! form that came first. A key type of its own would say the same with two types at every door, and two strings to get
//! wrong in the store, whose records go by the normal form.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use nostr::key::PublicKey;
use nostr::nips::nip19::FromBech32;
use url::{Host, Url};

use super::address::is_public;
use crate::limits::RELAY_URL_BYTES_MAX;

/// The bad ports of the Fetch standard (section 2.9), in ascending order: behind each is a protocol whose servers might
/// take our handshake for something else.
pub const BLOCKED_PORTS: [u16; 83] = [
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109,
    110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531,
    532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060,
    5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
];

/// Why a text is not the URL of a relay (spec section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RelayUrlError {
    /// Longer than [`RELAY_URL_BYTES_MAX`], as given or in its normal form.
    TooLong,
    /// Not a URL at all, or with white space or control characters inside.
    Malformed,
    /// Another scheme than `ws` and `wss`.
    Scheme,
    /// A user name or password.
    UserInfo,
    /// A fragment.
    Fragment,
    /// No host, or one that is neither an IP address nor a host name.
    Host,
    /// Port 0, an empty port, or one above 65535.
    Port,
    /// A port of another protocol, to which no browser connects either ([`BLOCKED_PORTS`]).
    BlockedPort,
}

impl fmt::Display for RelayUrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RelayUrlError::TooLong => "the URL is too long",
            RelayUrlError::Malformed => "not a URL",
            RelayUrlError::Scheme => "the scheme must be ws or wss",
            RelayUrlError::UserInfo => "a user name or password is not allowed",
            RelayUrlError::Fragment => "a fragment is not allowed",
            RelayUrlError::Host => "the host is neither an IP address nor a host name",
            RelayUrlError::Port => "the port is not between 1 and 65535",
            RelayUrlError::BlockedPort => "the port belongs to another protocol",
        })
    }
}

impl std::error::Error for RelayUrlError {}

/// The URL of a remote relay (spec section 3). Equal by its normal form, whatever the form of its path.
#[derive(Clone, Debug)]
pub struct RelayUrl {
    normal: String,
    /// Path and query as they were written, where the normal form lacks slashes of theirs.
    written: Option<Box<str>>,
}

impl PartialEq for RelayUrl {
    fn eq(&self, other: &Self) -> bool {
        self.normal == other.normal
    }
}

impl Eq for RelayUrl {}

impl PartialOrd for RelayUrl {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RelayUrl {
    fn cmp(&self, other: &Self) -> Ordering {
        self.normal.cmp(&other.normal)
    }
}

impl Hash for RelayUrl {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.normal.hash(state);
    }
}

/// The host and the port of a URL.
pub type HostAndPort = (String, u16);

impl RelayUrl {
    /// Brings a URL into its normal form: ASCII white space around it trimmed, scheme and host lower-cased, IDNA, the
    /// root dot of a host name, default port, empty query, empty path and trailing slashes dropped. A path that is not
    /// empty is kept as it is written, too.
    ///
    /// # Errors
    ///
    /// If it is not the URL of a relay; see [`RelayUrlError`].
    pub fn parse(text: &str) -> Result<RelayUrl, RelayUrlError> {
        let text = text.trim_matches(|c: char| c.is_ascii_whitespace());
        if text.len() > RELAY_URL_BYTES_MAX {
            return Err(RelayUrlError::TooLong);
        }
        let url = parse_url(text)?;
        let scheme = match url.scheme() {
            scheme @ ("ws" | "wss") => scheme,
            _ => return Err(RelayUrlError::Scheme),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(RelayUrlError::UserInfo);
        }
        if url.fragment().is_some() {
            return Err(RelayUrlError::Fragment);
        }
        let host = normal_host(&url).ok_or(RelayUrlError::Host)?;
        let mut normal = format!("{scheme}://{host}");
        match url.port() {
            Some(0) => return Err(RelayUrlError::Port),
            Some(port) if BLOCKED_PORTS.binary_search(&port).is_ok() => return Err(RelayUrlError::BlockedPort),
            Some(port) => normal.push_str(&format!(":{port}")),
            None => {}
        }
        let path = url.path().trim_end_matches('/');
        normal.push_str(path);
        let query = url.query().filter(|query| !query.is_empty());
        if let Some(query) = query {
            // The slash stays before a query, so that `path` can always be a part of the normal form.
            normal.push_str(if path.is_empty() { "/?" } else { "?" });
            normal.push_str(query);
        }
        if normal.len() + url.path().len() - path.len() > RELAY_URL_BYTES_MAX {
            return Err(RelayUrlError::TooLong);
        }
        let is_normal = path.is_empty() || path.len() == url.path().len();
        let written = (!is_normal).then(|| with_query(url.path(), query));
        Ok(RelayUrl { normal, written })
    }

    /// The normal form.
    pub fn as_str(&self) -> &str {
        &self.normal
    }

    /// The URL as it is dialled: the normal form, but for the path, which is as it was written.
    pub fn written(&self) -> String {
        match &self.written {
            Some(path) => {
                let scheme_len = self.normal.len() - self.rest().len();
                format!("{}{}{path}", &self.normal[..scheme_len], self.authority())
            }
            None => self.normal.clone(),
        }
    }

    /// The same relay by the other form of its path: with a slash at the end, or without. `None` if there is none, because
    /// the path is empty.
    pub fn other_form(&self) -> Option<RelayUrl> {
        let normal = self.normal.clone();
        if self.written.is_some() {
            return Some(RelayUrl { normal, written: None });
        }
        let (path, query) = match self.path().split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (self.path(), None),
        };
        let written = (path != "/").then(|| with_query(&format!("{path}/"), query))?;
        Some(RelayUrl { normal, written: Some(written) })
    }

    /// The host in lower case: a name in its ASCII form, an IPv4 address, or an IPv6 address without its brackets.
    pub fn host(&self) -> &str {
        let (host, _) = split_port(self.authority());
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    /// The port to dial: the written one, or the scheme's default.
    pub fn port(&self) -> u16 {
        let (_, port) = split_port(self.authority());
        port.unwrap_or(if self.is_tls() { 443 } else { 80 })
    }

    /// Both, as a key of what goes by them.
    pub fn host_and_port(&self) -> HostAndPort {
        (self.host().to_owned(), self.port())
    }

    /// Whether the host is written as an address, and no public one.
    pub fn is_at_private_address(&self) -> bool {
        self.host().parse().is_ok_and(|ip| !is_public(ip))
    }

    /// Whether the scheme is `wss`.
    pub fn is_tls(&self) -> bool {
        self.normal.starts_with("wss:")
    }

    /// What the HTTP request asks for: path and query as they were written, at least `/`.
    pub fn path(&self) -> &str {
        if let Some(path) = &self.written {
            return path;
        }
        let rest = self.rest();
        rest.find('/').map_or("/", |start| &rest[start..])
    }

    /// Where a redirect from here leads (RFC 9110, section 10.2.2): `location` may be relative, and `https` stands for
    /// `wss`, `http` for `ws`. Its fragment means nothing to a relay.
    ///
    /// # Errors
    ///
    /// If that is not the URL of a relay; see [`RelayUrlError`].
    pub fn redirected(&self, location: &str) -> Result<RelayUrl, RelayUrlError> {
        let location = location.trim_matches(|c: char| c.is_ascii_whitespace());
        if location.len() > RELAY_URL_BYTES_MAX {
            return Err(RelayUrlError::TooLong);
        }
        if location.is_empty() || has_blanks(location) {
            return Err(RelayUrlError::Malformed);
        }
        let base = parse_url(&self.written())?;
        let mut url = base.join(location).map_err(unparsed)?;
        url.set_fragment(None);
        let (scheme, rest) = url.as_str().split_once(':').ok_or(RelayUrlError::Malformed)?;
        let scheme = match scheme {
            "https" => "wss",
            "http" => "ws",
            other => other,
        };
        RelayUrl::parse(&format!("{scheme}:{rest}"))
    }

    fn rest(&self) -> &str {
        // The normal form begins with `ws://` or `wss://`.
        &self.normal[if self.is_tls() { 6 } else { 5 }..]
    }

    fn authority(&self) -> &str {
        let rest = self.rest();
        rest.find('/').map_or(rest, |end| &rest[..end])
    }
}

impl fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.normal)
    }
}

/// Why a text does not name a service (spec section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceError {
    /// Longer than [`RELAY_URL_BYTES_MAX`].
    TooLong,
    /// Begins with a scheme such as `https://`.
    Scheme,
    /// Not of the form `host[:port][/path]`: user-info, a query, a fragment or white space.
    Malformed,
    /// No host, or one that is neither an IP address nor a host name.
    Host,
    /// Port 0, an empty port, or one above 65535.
    Port,
}

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ServiceError::TooLong => "the domain is too long",
            ServiceError::Scheme => "the domain must not begin with a scheme such as https://",
            ServiceError::Malformed => "the domain must have the form host[:port][/path]",
            ServiceError::Host => "the host is neither an IP address nor a host name",
            ServiceError::Port => "the port is not between 1 and 65535",
        })
    }
}

impl std::error::Error for ServiceError {}

/// The GRASP service, as announcements name it: `host[:port][/path]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    host: String,
    /// As written; without it, each scheme's default is meant.
    port: Option<u16>,
    /// Empty, or a slash and more, without trailing slashes.
    path: String,
}

impl Service {
    /// Parses `host[:port][/path]`, normalised like a [`RelayUrl`].
    ///
    /// # Errors
    ///
    /// If it has another form; see [`ServiceError`].
    pub fn parse(text: &str) -> Result<Service, ServiceError> {
        let text = text.trim_matches(|c: char| c.is_ascii_whitespace());
        if text.len() > RELAY_URL_BYTES_MAX {
            return Err(ServiceError::TooLong);
        }
        if text.split_once("://").is_some_and(|(scheme, _)| !scheme.contains('/')) {
            return Err(ServiceError::Scheme);
        }
        if text.contains(['?', '#']) {
            return Err(ServiceError::Malformed);
        }
        // Under a scheme whose default it is, a written port disappears; under the other one it is kept.
        let as_http = parse_url(&format!("http://{text}"))?;
        let as_https = parse_url(&format!("https://{text}"))?;
        if !as_http.username().is_empty() || as_http.password().is_some() {
            return Err(ServiceError::Malformed);
        }
        let host = normal_host(&as_http).ok_or(ServiceError::Host)?;
        let port = as_http.port().or(as_https.port());
        if port == Some(0) {
            return Err(ServiceError::Port);
        }
        let path = as_http.path().trim_end_matches('/').to_owned();
        let service = Service { host, port, path };
        if service.to_string().len() > RELAY_URL_BYTES_MAX {
            return Err(ServiceError::TooLong);
        }
        Ok(service)
    }

    /// The URL of its relay, as announcements are to list it.
    pub fn relay_url(&self) -> String {
        format!("wss://{self}")
    }

    /// Whether a relay URL is our own relay: same host, effective port and path. A query makes no difference.
    pub fn is_relay(&self, relay: &RelayUrl) -> bool {
        let path = relay.path().split('?').next().unwrap_or_default().trim_end_matches('/');
        self.is_at(relay) && path == self.path
    }

    /// Whether a relay URL that a stranger lists would lead to ourselves: our host at whatever port, unless the service
    /// names a port, which is then ours alone.
    pub fn may_be(&self, relay: &RelayUrl) -> bool {
        let (host, _) = split_port(relay.authority());
        host == self.host && self.port.is_none_or(|port| port == relay.port())
    }

    /// Whether a relay URL leads to this service's host and port, whatever its path.
    pub fn is_at(&self, relay: &RelayUrl) -> bool {
        let default_port = if relay.is_tls() { 443 } else { 80 };
        let (host, _) = split_port(relay.authority());
        host == self.host && relay.port() == self.port.unwrap_or(default_port)
    }

    /// Whether a clone URL is `http(s)://<service>/<author npub>/<identifier>.git` (GRASP-01).
    pub fn has_clone_url(&self, clone_url: &str, author: &PublicKey, identifier: &str) -> bool {
        self.clone_url_parts(clone_url).is_some_and(|(npub, file)| {
            npub.starts_with("npub1")
                && PublicKey::from_bech32(&npub).is_ok_and(|key| key == *author)
                && file.strip_suffix(b".git") == Some(identifier.as_bytes())
        })
    }

    /// The author and the percent-decoded rest of a clone URL on this service.
    fn clone_url_parts(&self, clone_url: &str) -> Option<(String, Vec<u8>)> {
        let url = Url::parse(clone_url.trim_matches(|c: char| c.is_ascii_whitespace())).ok()?;
        let default_port = match url.scheme() {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let ours = normal_host(&url)? == self.host
            && url.port().unwrap_or(default_port) == self.port.unwrap_or(default_port)
            && url.username().is_empty()
            && url.password().is_none();
        if !ours || url.query().is_some() || url.fragment().is_some() {
            return None;
        }
        let (npub, file) = url.path().strip_prefix(&self.path)?.strip_prefix('/')?.split_once('/')?;
        Some((npub.to_owned(), percent_decode(file)))
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        f.write_str(&self.path)
    }
}

/// What can be wrong before a URL has parts.
enum Unparsed {
    Malformed,
    Host,
    Port,
}

impl From<Unparsed> for RelayUrlError {
    fn from(error: Unparsed) -> Self {
        match error {
            Unparsed::Malformed => RelayUrlError::Malformed,
            Unparsed::Host => RelayUrlError::Host,
            Unparsed::Port => RelayUrlError::Port,
        }
    }
}

impl From<Unparsed> for ServiceError {
    fn from(error: Unparsed) -> Self {
        match error {
            Unparsed::Malformed => ServiceError::Malformed,
            Unparsed::Host => ServiceError::Host,
            Unparsed::Port => ServiceError::Port,
        }
    }
}

/// A URL by the WHATWG rules, less some of their forgiveness: they drop tabs and line ends, escape spaces, add missing
/// slashes and skip surplus ones, and pass an empty port. With that, two URLs run together and `wss://wss://host` would
/// be relays.
fn parse_url(text: &str) -> Result<Url, Unparsed> {
    if has_blanks(text) {
        return Err(Unparsed::Malformed);
    }
    let url = Url::parse(text).map_err(unparsed)?;
    let rest = text.get(url.scheme().len()..).and_then(|rest| rest.strip_prefix("://")).ok_or(Unparsed::Malformed)?;
    match rest.split(['/', '\\', '?', '#']).next().unwrap_or_default() {
        "" => Err(Unparsed::Host),
        authority if authority.ends_with(':') => Err(Unparsed::Port),
        _ => Ok(url),
    }
}

fn with_query(path: &str, query: Option<&str>) -> Box<str> {
    match query {
        Some(query) => format!("{path}?{query}").into(),
        None => path.into(),
    }
}

fn has_blanks(text: &str) -> bool {
    text.chars().any(|c| c.is_whitespace() || c.is_control())
}

fn unparsed(error: url::ParseError) -> Unparsed {
    match error {
        url::ParseError::InvalidPort => Unparsed::Port,
        url::ParseError::EmptyHost
        | url::ParseError::IdnaError
        | url::ParseError::InvalidIpv4Address
        | url::ParseError::InvalidIpv6Address
        | url::ParseError::InvalidDomainCharacter => Unparsed::Host,
        _ => Unparsed::Malformed,
    }
}

/// The host as URLs write it: IPv6 in brackets. `None` for what no resolver takes.
fn normal_host(url: &Url) -> Option<String> {
    match url.host()? {
        Host::Domain(name) => {
            let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
            is_host_name(&name).then_some(name)
        }
        Host::Ipv4(address) => Some(address.to_string()),
        Host::Ipv6(address) => Some(format!("[{address}]")),
    }
}

/// Letters, digits, hyphens and underscores in labels of 1 to 63 bytes, 253 bytes in all (RFC 1035, section 2.3.4).
fn is_host_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// Host and written port of an authority without user-info.
fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        // The last colon of a bracketed IPv6 address without a port is inside the brackets.
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()),
        _ => (authority, None),
    }
}

/// Undoes percent-encoding (RFC 3986, section 2.1); a percent sign without two digits stands for itself.
fn percent_decode(text: &str) -> Vec<u8> {
    let digit = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match (bytes[at], digit(bytes.get(at + 1)), digit(bytes.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                decoded.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                decoded.push(byte);
                at += 1;
            }
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use nostr::nips::nip19::ToBech32;

    use super::*;

    fn normal(text: &str) -> String {
        RelayUrl::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).as_str().to_owned()
    }

    #[test]
    fn forms_of_one_relay_are_one_url() {
        for text in ["wss://relay.example", "WSS://Relay.Example", "wss://relay.example/", "wss://relay.example:443//"]
        {
            assert_eq!(normal(text), "wss://relay.example", "{text}");
        }
        assert_eq!(normal(" wss://relay.example./a/b/ \n"), "wss://relay.example/a/b");
        assert_eq!(normal("ws://relay.example:80/?"), "ws://relay.example");
        assert_eq!(normal("ws://relay.example:443"), "ws://relay.example:443");
        assert_eq!(normal("wss://relay.example?a=b"), "wss://relay.example/?a=b");
        assert_eq!(normal("wss://bücher.example"), "wss://xn--bcher-kva.example");
        assert_eq!(normal("ws://[::1]:7777"), "ws://[::1]:7777");
    }

    #[test]
    fn a_path_is_asked_for_as_it_is_written_and_compared_without_slashes_at_its_end() {
        for (text, path, written) in [
            ("wss://relay.example/relay/", "/relay/", "wss://relay.example/relay/"),
            ("WSS://Relay.example:443/relay", "/relay", "wss://relay.example/relay"),
            ("ws://relay.example:81/a//", "/a//", "ws://relay.example:81/a//"),
            ("wss://relay.example/a/?b=c/", "/a/?b=c/", "wss://relay.example/a/?b=c/"),
            ("wss://relay.example/a?b=c", "/a?b=c", "wss://relay.example/a?b=c"),
            ("wss://relay.example//", "/", "wss://relay.example"),
            ("wss://relay.example/?b", "/?b", "wss://relay.example/?b"),
        ] {
            let url = RelayUrl::parse(text).unwrap();
            assert_eq!((url.path(), url.written().as_str()), (path, written), "{text}");
            let stored = RelayUrl::parse(url.as_str()).unwrap();
            assert_eq!((&stored, stored.cmp(&url)), (&url, Ordering::Equal), "{text}");
            assert!(!stored.as_str().ends_with('/') || text.contains('?'), "{text}");
        }
        assert_ne!(RelayUrl::parse("wss://relay.example/a"), RelayUrl::parse("wss://relay.example/b/"));
    }

    #[test]
    fn ports_of_other_protocols_are_refused() {
        assert!(BLOCKED_PORTS.is_sorted());
        for port in [22, 25, 6667, 10080] {
            let parsed = RelayUrl::parse(&format!("wss://relay.example:{port}"));
            assert_eq!(parsed, Err(RelayUrlError::BlockedPort), "{port}");
        }
        for port in [80, 443, 2048, 6664, 7777, 10081] {
            assert!(RelayUrl::parse(&format!("ws://relay.example:{port}")).is_ok(), "{port}");
        }
        let relay = RelayUrl::parse("wss://relay.example").unwrap();
        assert_eq!(relay.redirected("https://relay.example:25/"), Err(RelayUrlError::BlockedPort));
    }

    #[test]
    fn our_host_is_ourselves_at_whatever_port_and_path() {
        let service = Service::parse("git.example/p").unwrap();
        let may_be = |service: &Service, text| service.may_be(&RelayUrl::parse(text).unwrap());
        for own in ["wss://git.example/p", "ws://git.example/x1", "ws://GIT.example.:7334", "wss://git.example:80/?a"] {
            assert!(may_be(&service, own), "{own}");
        }
        assert!(!may_be(&service, "wss://sub.git.example/p") && !may_be(&service, "wss://git.example.evil.example"));
        let with_port = Service::parse("127.0.0.1:8080").unwrap();
        assert!(may_be(&with_port, "ws://127.0.0.1:8080/x1") && !may_be(&with_port, "ws://127.0.0.1:7777"));
    }

    #[test]
    fn a_path_has_two_forms_and_the_root_one() {
        let other = |text: &str| RelayUrl::parse(text).unwrap().other_form().map(|url| url.written());
        assert_eq!(other("wss://relay.example/a").as_deref(), Some("wss://relay.example/a/"));
        assert_eq!(other("wss://relay.example/a/").as_deref(), Some("wss://relay.example/a"));
        assert_eq!(other("wss://relay.example/a/b//?x=1").as_deref(), Some("wss://relay.example/a/b?x=1"));
        assert_eq!(other("ws://relay.example:81/a?x=1").as_deref(), Some("ws://relay.example:81/a/?x=1"));
        for root in ["wss://relay.example", "wss://relay.example/", "wss://relay.example/?x=1"] {
            assert_eq!(other(root), None, "{root}");
        }
    }

    #[test]
    fn parts_of_a_relay_url() {
        let url = RelayUrl::parse("ws://[2001:DB8::1]:7777/p?q=1").unwrap();
        assert_eq!((url.host(), url.port(), url.is_tls(), url.path()), ("2001:db8::1", 7777, false, "/p?q=1"));
        let url = RelayUrl::parse("wss://[::1]").unwrap();
        assert_eq!((url.host(), url.port(), url.is_tls(), url.path()), ("::1", 443, true, "/"));
        let url = RelayUrl::parse("wss://relay.example:8443?x").unwrap();
        assert_eq!((url.host(), url.port(), url.is_tls(), url.path()), ("relay.example", 8443, true, "/?x"));
    }

    #[test]
    fn a_redirect_leads_to_another_relay_url() {
        let from = RelayUrl::parse("wss://relay.example:8443/a/b?x=1").unwrap();
        let to = |location: &str| from.redirected(location).map(|url| format!("{}{}", url.as_str(), url.path()));
        for (location, url) in [
            ("wss://other.example/c", "wss://other.example/c/c"),
            ("https://Other.example:443/#top", "wss://other.example/"),
            ("http://other.example", "ws://other.example/"),
            ("/c", "wss://relay.example:8443/c/c"),
            ("c", "wss://relay.example:8443/a/c/a/c"),
            ("../?y", "wss://relay.example:8443/?y/?y"),
            (" //other.example ", "wss://other.example/"),
        ] {
            assert_eq!(to(location).as_deref(), Ok(url), "{location}");
        }
        for (location, error) in [
            ("", RelayUrlError::Malformed),
            ("https://other.example/a b", RelayUrlError::Malformed),
            ("ftp://other.example", RelayUrlError::Scheme),
            ("mailto:a@other.example", RelayUrlError::Malformed),
            ("https://user@other.example", RelayUrlError::UserInfo),
            ("https://a..b", RelayUrlError::Host),
            ("https://other.example:0", RelayUrlError::Port),
            ("https://other.example:65536", RelayUrlError::Port),
        ] {
            assert_eq!(to(location), Err(error), "{location}");
        }
        assert_eq!(to(&"a".repeat(RELAY_URL_BYTES_MAX + 1)), Err(RelayUrlError::TooLong));
        assert_eq!(to(&"a".repeat(RELAY_URL_BYTES_MAX)), Err(RelayUrlError::TooLong));
    }

    #[test]
    fn what_is_not_a_relay_is_refused() {
        use RelayUrlError::*;
        for (text, error) in [
            ("", Malformed),
            ("relay.example", Malformed),
            ("https://relay.example", Scheme),
            ("wss://user@relay.example", UserInfo),
            ("wss://:pw@relay.example", UserInfo),
            ("wss://relay.example/#top", Fragment),
            ("wss://", Host),
            ("wss://a,b.example", Host),
            ("wss://a,wss://b", Port),
            ("wss:relay.example", Malformed),
            ("wss:wss://relay.example", Malformed),
            ("wss://wss://relay.example", Port),
            ("wss:///relay.example", Host),
            ("wss://relay.example:", Port),
            ("wss://a b.example", Malformed),
            ("wss://a.example/ wss://b.example", Malformed),
            ("wss://a..example", Host),
            ("wss://relay.example:0", Port),
            ("wss://relay.example:65536", Port),
        ] {
            assert_eq!(RelayUrl::parse(text), Err(error), "{text}");
        }
        let long = format!("wss://relay.example/{}", "a".repeat(RELAY_URL_BYTES_MAX));
        assert_eq!(RelayUrl::parse(&long), Err(TooLong));
    }

    #[test]
    fn own_relay_is_told_by_parts_and_never_by_substring() {
        let service = Service::parse("Ours.Example").unwrap();
        let own = |text: &str| service.is_relay(&RelayUrl::parse(text).unwrap());
        assert!(own("wss://ours.example") && own("ws://ours.example/") && own("wss://OURS.example:443/?x=1"));
        for text in [
            "wss://evil-ours.example",
            "wss://ours.example.evil",
            "wss://sub.ours.example",
            "wss://evil.example/ours.example",
            "wss://ours.example:8443",
            "ws://ours.example:443",
            "wss://ours.example/other",
        ] {
            assert!(!own(text), "{text}");
        }
        let at = |text: &str| service.is_at(&RelayUrl::parse(text).unwrap());
        assert!(at("wss://ours.example/other") && at("ws://OURS.example:80"));
        assert!(!at("wss://ours.example:8443") && !at("wss://evil-ours.example"));
        let service = Service::parse("ours.example:443/relay/").unwrap();
        assert_eq!(service.to_string(), "ours.example:443/relay");
        assert!(service.is_relay(&RelayUrl::parse("wss://ours.example/relay").unwrap()));
        assert!(!service.is_relay(&RelayUrl::parse("ws://ours.example/relay").unwrap()));
        assert!(!service.is_relay(&RelayUrl::parse("wss://ours.example/relay2").unwrap()));
        let service = Service::parse("[::1]:7334").unwrap();
        assert!(service.is_relay(&RelayUrl::parse("ws://[0:0::1]:7334").unwrap()));
    }

    #[test]
    fn services_of_another_form_are_refused() {
        for (text, error) in [
            ("https://ours.example", ServiceError::Scheme),
            ("", ServiceError::Host),
            ("/path", ServiceError::Host),
            ("ours.example:", ServiceError::Port),
            ("user@ours.example", ServiceError::Malformed),
            ("ours.example?x", ServiceError::Malformed),
            ("ours example", ServiceError::Malformed),
            ("ours.example:0", ServiceError::Port),
            ("a..b", ServiceError::Host),
        ] {
            assert_eq!(Service::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn clone_urls() {
        let author = PublicKey::from_byte_array([7; 32]);
        let other = PublicKey::from_byte_array([8; 32]);
        let npub = author.to_bech32().unwrap();
        let service = Service::parse("ours.example/git").unwrap();
        let has = |url: &str, d: &str| service.has_clone_url(url, &author, d);
        assert!(has(&format!("https://ours.example/git/{npub}/repo.git"), "repo"));
        assert!(has(&format!("http://OURS.example:80/git/{npub}/a%20b%3Ac%25.git"), "a b:c%"));
        assert!(has(&format!("https://ours.example/git/{npub}/a b.git"), "a b"));
        assert!(has(&format!("https://ours.example/git/{npub}/bücher.git"), "bücher"));
        assert!(!service.has_clone_url(&format!("https://ours.example/git/{npub}/repo.git"), &other, "repo"));
        for url in [
            format!("https://ours.example/{npub}/repo.git"),
            format!("https://ours.example/git2/{npub}/repo.git"),
            format!("https://evil-ours.example/git/{npub}/repo.git"),
            format!("https://ours.example:8443/git/{npub}/repo.git"),
            format!("https://ours.example/git/{npub}/repo"),
            format!("https://ours.example/git/{npub}/repo2.git"),
            format!("ssh://ours.example/git/{npub}/repo.git"),
            format!("https://ours.example/git/{}/repo.git", author.to_hex()),
            "https://ours.example/git/repo.git".to_owned(),
        ] {
            assert!(!has(&url, "repo"), "{url}");
        }
    }
}
