//! One relay being dialled: name, address, TCP, TLS, then the WebSocket or what the relay says of itself, all under one
//! deadline.
//!
//! Addresses are tried one after the other, in the resolver's order. The guard against private addresses looks at the
//! very address that is then dialled, so a name cannot answer one thing to the guard and another to the socket. A relay
//! that took the TCP connection and then failed at TLS or the upgrade is not tried at its other addresses: it is the
//! same relay, and its answer is an answer.
//!
//! Why no address took the connection is told apart, because the engine must know whether that says anything of the
//! relay: a refusal proves that the network works, an address that could not even be tried is this side's own lack.
//!
//! One redirect is followed (spec section 7), as if the dial had begun there: the name is resolved, its addresses are
//! judged, and the deadline stays. It must lead to `wss`, so that it never takes protection away, and not to this service
//! itself. The engine does not learn of it: the relay goes by the URL that announcements list, and where that leads may be
//! another place tomorrow.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::ClientConfig;

use crate::contract::{CloseReason, LinkId, RedirectRefusal};
use crate::io::answer::{Moved, Refused};
use crate::io::crowd::Crowd;
use crate::io::fetch::Fetch;
use crate::io::handshake::{Handshake, Step};
use crate::io::link::Link;
use crate::io::resolver::{Answer, LookupId, ResolveError};
use crate::io::tls;
use crate::io::transport::Transport;
use crate::limits::{DIAL_ADDRESSES_MAX, DIAL_ATTEMPT_TIMEOUT, INFO_TIMEOUT, LINK_READ_BYTES_PER_TURN};
use crate::protocol::address::is_public;
use crate::protocol::relay_url::{RelayUrl, Service};
use crate::time::Instant;

/// A relay being dialled.
#[derive(Debug)]
pub struct Dial {
    link: LinkId,
    /// The relay's, or where it has redirected us.
    url: RelayUrl,
    purpose: DialPurpose,
    deadline: Instant,
    /// The status of the redirect that was followed.
    redirected: Option<u16>,
    /// What the resolver was asked, while it has not answered. The caller keeps it, for it also talks to the resolver.
    pub lookup: Option<LookupId>,
    stage: Stage,
}

/// What a relay is dialled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialPurpose {
    /// A link.
    Link,
    /// Its NIP-11 document.
    Info,
}

#[derive(Debug)]
enum Stage {
    /// The resolver has been asked; or, for the length of one call, between two stages.
    Resolving,
    Connecting {
        socket: TcpStream,
        /// When the next address is tried.
        attempt_deadline: Instant,
        rest: VecDeque<SocketAddr>,
        /// What the addresses before it have come to.
        so_far: Attempts,
    },
    Shaking(Handshake<TcpStream>),
    Fetching {
        fetch: Fetch<TcpStream>,
        /// When the document must be here; set when the relay has been reached.
        answer_by: Option<Instant>,
    },
}

/// What the addresses tried so far have come to, if none took the connection; the greatest says most of the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Attempts {
    /// None could even be tried.
    NoRoute,
    /// Too many links lead there already.
    Full,
    /// None answered.
    Silent,
    /// One refused.
    Refused,
}

impl Attempts {
    /// What a failed attempt comes to. What is no word of the other side is taken for a lack of this one: a missing route,
    /// a downed interface, a firewall, no descriptor left.
    fn of(error: &io::Error) -> Attempts {
        match error.kind() {
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => Attempts::Refused,
            io::ErrorKind::TimedOut => Attempts::Silent,
            _ => Attempts::NoRoute,
        }
    }

    fn reason(self) -> CloseReason {
        match self {
            Attempts::NoRoute => CloseReason::NoRoute,
            Attempts::Full => CloseReason::AddressFull,
            Attempts::Silent => CloseReason::Timeout,
            Attempts::Refused => CloseReason::Connect,
        }
    }
}

/// What all dials have in common.
#[derive(Debug)]
pub struct Dialling<'a> {
    /// Where sockets are registered.
    pub registry: &'a Registry,
    /// Roots and protocol versions.
    pub tls: &'a Arc<ClientConfig>,
    /// Whether private addresses may be dialled.
    pub allow_private: bool,
    /// Ourselves: no redirect leads there.
    pub service: &'a Service,
    /// Where links lead.
    pub crowd: &'a mut Crowd,
}

/// Where a dial has got to.
#[derive(Debug)]
pub enum Progress {
    /// Waiting: for the resolver, the peer, or a deadline.
    Pending,
    /// The relay is elsewhere: the addresses of [`Dial::url`]'s host are wanted anew.
    Redirected,
    /// The link is open.
    Open(Box<Link<TcpStream>>),
    /// The document is here.
    Told(String),
    /// The dial has ended.
    Failed(CloseReason),
}

impl Dial {
    /// A dial that waits for the addresses of its host until `deadline`.
    pub fn new(link: LinkId, url: RelayUrl, purpose: DialPurpose, deadline: Instant) -> Self {
        Dial { link, url, purpose, deadline, redirected: None, lookup: None, stage: Stage::Resolving }
    }

    /// What for.
    pub fn purpose(&self) -> DialPurpose {
        self.purpose
    }

    /// The link that this is to become.
    pub fn link(&self) -> LinkId {
        self.link
    }

    /// Where the relay is, as far as is known.
    pub fn url(&self) -> &RelayUrl {
        &self.url
    }

    /// Whether this is the answer that its handshake waits for: whoever is asked for that is asked by us.
    pub fn awaits(&self, accept: &str) -> bool {
        matches!(&self.stage, Stage::Shaking(handshake) if handshake.accept() == accept)
    }

    /// Whether the resolver's answer is still awaited.
    pub fn is_resolving(&self) -> bool {
        matches!(self.stage, Stage::Resolving)
    }

    /// When [`Dial::on_time`] is due.
    pub fn next_deadline(&self) -> Instant {
        match &self.stage {
            Stage::Connecting { attempt_deadline, .. } => self.deadline.min(*attempt_deadline),
            Stage::Fetching { answer_by: Some(answer_by), .. } => self.deadline.min(*answer_by),
            _ => self.deadline,
        }
    }

    /// The moment at which the dial has failed, whatever it waits for.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Why there is no document. A relay whose redirect leads nowhere was reached all the same, so the dial of its link
    /// may still succeed.
    pub fn no_document(&self, reason: CloseReason) -> CloseReason {
        match (self.redirected, reason) {
            (
                Some(status),
                CloseReason::Resolve
                | CloseReason::PrivateAddress
                | CloseReason::OwnAddress
                | CloseReason::AddressFull
                | CloseReason::Connect
                | CloseReason::Tls
                | CloseReason::Timeout,
            ) => CloseReason::Handshake(status),
            _ => reason,
        }
    }

    /// The resolver's answer.
    pub fn on_addresses(&mut self, now: Instant, token: Token, common: &mut Dialling<'_>, answer: &Answer) -> Progress {
        assert!(self.is_resolving(), "addresses come once");
        self.lookup = None;
        let found = match answer {
            Ok(found) => found,
            Err(error) => {
                log::debug!("{}: {error}", self.url);
                return Progress::Failed(reason_of(*error));
            }
        };
        let mut addresses = dialable(found, common.allow_private, self.url.port());
        if addresses.is_empty() {
            return Progress::Failed(CloseReason::PrivateAddress);
        }
        addresses.retain(|address| !common.crowd.is_own(*address));
        if addresses.is_empty() {
            return Progress::Failed(CloseReason::OwnAddress);
        }
        self.connect(now, token, common, addresses, Attempts::NoRoute)
    }

    /// The socket may have got further.
    pub fn on_ready(&mut self, now: Instant, token: Token, common: &mut Dialling<'_>) -> Progress {
        match std::mem::replace(&mut self.stage, Stage::Resolving) {
            Stage::Resolving => Progress::Pending,
            Stage::Connecting { socket, attempt_deadline, rest, so_far } => match connected(&socket) {
                Ok(true) => self.greet(now, socket, common),
                Ok(false) => {
                    self.stage = Stage::Connecting { socket, attempt_deadline, rest, so_far };
                    Progress::Pending
                }
                Err(e) => {
                    log::debug!("{}: {e}", self.url);
                    drop(socket);
                    self.connect(now, token, common, rest, so_far.max(Attempts::of(&e)))
                }
            },
            Stage::Shaking(handshake) => self.advance(handshake, common),
            Stage::Fetching { fetch, answer_by } => self.advance_fetch(now, fetch, answer_by, common),
        }
    }

    /// A deadline may have passed.
    pub fn on_time(&mut self, now: Instant, token: Token, common: &mut Dialling<'_>) -> Progress {
        if let Stage::Fetching { answer_by: Some(answer_by), .. } = &self.stage
            && now >= self.deadline.min(*answer_by)
        {
            return Progress::Failed(CloseReason::Handshake(0));
        }
        if now >= self.deadline {
            return Progress::Failed(CloseReason::Timeout);
        }
        match std::mem::replace(&mut self.stage, Stage::Resolving) {
            Stage::Connecting { socket, attempt_deadline, rest, so_far } if now >= attempt_deadline => {
                drop(socket);
                self.connect(now, token, common, rest, so_far.max(Attempts::Silent))
            }
            other => {
                self.stage = other;
                Progress::Pending
            }
        }
    }

    /// Whether the handshake has more to read than its grant allowed.
    pub fn cut_short(&mut self) -> bool {
        match &mut self.stage {
            Stage::Shaking(handshake) => handshake.transport_mut().cut_short(),
            Stage::Fetching { fetch, .. } => fetch.transport_mut().cut_short(),
            _ => false,
        }
    }

    fn connect(
        &mut self,
        now: Instant,
        token: Token,
        common: &mut Dialling<'_>,
        mut addresses: VecDeque<SocketAddr>,
        mut so_far: Attempts,
    ) -> Progress {
        while let Some(address) = addresses.pop_front() {
            if !common.crowd.enter(token.0, address.ip()) {
                so_far = so_far.max(Attempts::Full);
                continue;
            }
            match open_socket(common.registry, token, address) {
                Ok(socket) => {
                    let attempt_deadline =
                        if addresses.is_empty() { self.deadline } else { now + DIAL_ATTEMPT_TIMEOUT };
                    self.stage = Stage::Connecting { socket, attempt_deadline, rest: addresses, so_far };
                    return Progress::Pending;
                }
                Err(e) => {
                    log::debug!("{} at {address}: {e}", self.url);
                    so_far = so_far.max(Attempts::of(&e));
                }
            }
        }
        Progress::Failed(so_far.reason())
    }

    fn greet(&mut self, now: Instant, socket: TcpStream, common: &mut Dialling<'_>) -> Progress {
        // Requests are whole messages; nothing is won by holding back their last packet.
        let _ = socket.set_nodelay(true);
        let transport = if self.url.is_tls() {
            match tls::connection(common.tls, self.url.host()) {
                Ok(connection) => Transport::tls(socket, connection),
                Err(reason) => return Progress::Failed(reason),
            }
        } else {
            Transport::plain(socket)
        };
        match self.purpose {
            DialPurpose::Link => self.advance(Handshake::new(transport, &self.url), common),
            DialPurpose::Info => self.advance_fetch(now, Fetch::new(transport, &self.url), None, common),
        }
    }

    fn advance_fetch(
        &mut self,
        now: Instant,
        mut fetch: Fetch<TcpStream>,
        answer_by: Option<Instant>,
        common: &mut Dialling<'_>,
    ) -> Progress {
        fetch.transport_mut().grant(LINK_READ_BYTES_PER_TURN);
        match fetch.advance() {
            Ok(None) => {
                let answer_by = answer_by.or(fetch.is_connected().then_some(now + INFO_TIMEOUT));
                self.stage = Stage::Fetching { fetch, answer_by };
                Progress::Pending
            }
            Ok(Some(document)) => Progress::Told(document),
            Err(refused) => self.refused(refused, common),
        }
    }

    fn advance(&mut self, mut handshake: Handshake<TcpStream>, common: &mut Dialling<'_>) -> Progress {
        handshake.transport_mut().grant(LINK_READ_BYTES_PER_TURN);
        match handshake.advance() {
            Ok(Step::Pending(handshake)) => {
                self.stage = Stage::Shaking(handshake);
                Progress::Pending
            }
            Ok(Step::Open(link)) => Progress::Open(link),
            Err(refused) => self.refused(refused, common),
        }
    }

    fn refused(&mut self, refused: Refused, common: &mut Dialling<'_>) -> Progress {
        let followed = match refused {
            Refused::Ended(reason) => Err(reason),
            Refused::Moved(_) if self.redirected.is_some() => Err(CloseReason::Redirect(RedirectRefusal::Second)),
            Refused::Moved(moved) => self.follow(&moved, common.service).map_err(CloseReason::Redirect),
        };
        match followed {
            Ok(()) => Progress::Redirected,
            Err(reason) => Progress::Failed(reason),
        }
    }

    /// Begins anew where a redirect leads. The old socket is gone already; its place is given back with the next address.
    fn follow(&mut self, moved: &Moved, service: &Service) -> Result<(), RedirectRefusal> {
        let location = moved.location.as_deref().ok_or(RedirectRefusal::Location)?;
        let url = self.url.redirected(location).map_err(|error| {
            log::debug!("{}: redirected to {location:?}: {error}", self.url);
            RedirectRefusal::Location
        })?;
        if !url.is_tls() {
            return Err(RedirectRefusal::Insecure);
        }
        if service.is_at(&url) {
            return Err(RedirectRefusal::Own);
        }
        log::debug!("{}: {} leads to {url}", self.url, moved.status);
        (self.url, self.redirected, self.stage) = (url, Some(moved.status), Stage::Resolving);
        Ok(())
    }
}

/// What a name without addresses is to the engine.
fn reason_of(error: ResolveError) -> CloseReason {
    match error {
        ResolveError::ServersSilent => CloseReason::NoNameServer,
        ResolveError::ServersFailed => CloseReason::NameServersFailed,
        ResolveError::NoSuchName | ResolveError::NoAddress | ResolveError::BadName | ResolveError::Busy => {
            CloseReason::Resolve
        }
    }
}

/// Of the addresses of a name, those that may be dialled, as far as they are tried: the socket gets these and no others.
fn dialable(found: &[IpAddr], allow_private: bool, port: u16) -> VecDeque<SocketAddr> {
    let allowed = found.iter().filter(|address| allow_private || is_public(**address));
    allowed.take(DIAL_ADDRESSES_MAX).map(|ip| SocketAddr::new(*ip, port)).collect()
}

fn open_socket(registry: &Registry, token: Token, address: SocketAddr) -> io::Result<TcpStream> {
    let mut socket = TcpStream::connect(address)?;
    registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
    Ok(socket)
}

/// Whether a connecting socket has got its peer. Events may be spurious, so "not yet" is an answer.
fn connected(socket: &TcpStream) -> io::Result<bool> {
    if let Some(error) = socket.take_error()? {
        return Err(error);
    }
    match socket.peer_addr() {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where dials of `from` have got to after redirects to `locations`, and what the last of them led to.
    fn redirect(from: &str, locations: &[Option<&str>]) -> (Result<(), CloseReason>, String) {
        let (poll, tls) = (mio::Poll::new().unwrap(), tls::client_config(None).unwrap());
        let service = Service::parse("ours.example/git").unwrap();
        let mut crowd = Crowd::default();
        let crowd = &mut crowd;
        let mut common =
            Dialling { registry: poll.registry(), tls: &tls, allow_private: true, service: &service, crowd };
        let url = RelayUrl::parse(from).unwrap();
        let mut dial = Dial::new(LinkId::Relay(1), url, DialPurpose::Link, Instant::ZERO);
        let mut last = Ok(());
        for location in locations {
            let location = location.map(str::to_owned);
            last = match dial.refused(Refused::Moved(Moved { status: 308, location }), &mut common) {
                Progress::Redirected => Ok(()),
                Progress::Failed(reason) => Err(reason),
                other => panic!("{other:?}"),
            };
        }
        assert!(dial.is_resolving());
        (last, dial.url().to_string())
    }

    #[test]
    fn one_redirect_to_wss_is_followed() {
        for (from, location, to) in [
            ("wss://a.example/x", "wss://b.example/y", "wss://b.example/y"),
            ("wss://a.example/x", "https://b.example", "wss://b.example"),
            ("wss://a.example/x", "/y", "wss://a.example/y"),
            ("ws://a.example/x", "https://a.example/x", "wss://a.example/x"),
        ] {
            assert_eq!(redirect(from, &[Some(location)]), (Ok(()), to.to_owned()), "{from} {location}");
        }
        let refused = |from: &str, locations: &[Option<&str>]| redirect(from, locations).0;
        let named = |refusal| Err(CloseReason::Redirect(refusal));
        let twice = [Some("/y"), Some("/z")];
        assert_eq!(refused("wss://a.example", &twice), named(RedirectRefusal::Second));
        assert_eq!(refused("wss://a.example", &[Some("http://a.example")]), named(RedirectRefusal::Insecure));
        assert_eq!(refused("ws://a.example", &[Some("/y")]), named(RedirectRefusal::Insecure));
        for bad in [None, Some(""), Some("ftp://b.example"), Some("https://"), Some("https://user@b.example")] {
            assert_eq!(refused("wss://a.example", &[bad]), named(RedirectRefusal::Location), "{bad:?}");
        }
        for own in ["https://ours.example/git", "https://OURS.example/other"] {
            assert_eq!(refused("wss://a.example", &[Some(own)]), named(RedirectRefusal::Own), "{own}");
        }
    }

    #[test]
    fn a_relay_whose_redirect_leads_nowhere_was_reached() {
        let mut dial =
            Dial::new(LinkId::Relay(1), RelayUrl::parse("wss://a.example").unwrap(), DialPurpose::Info, Instant::ZERO);
        assert_eq!(dial.no_document(CloseReason::Connect), CloseReason::Connect);
        dial.redirected = Some(302);
        for reason in [CloseReason::Resolve, CloseReason::PrivateAddress, CloseReason::Connect, CloseReason::Tls] {
            assert_eq!(dial.no_document(reason), CloseReason::Handshake(302));
        }
        assert_eq!(dial.no_document(CloseReason::TooLarge), CloseReason::TooLarge);
    }

    fn addresses(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn of_public_and_private_addresses_only_the_public_are_dialled() {
        let found = addresses(&["127.0.0.1", "8.8.8.8", "::1", "10.0.0.1", "2606:4700::1", "::ffff:192.168.0.1"]);
        let public: Vec<_> = dialable(&found, false, 443).iter().map(ToString::to_string).collect();
        assert_eq!(public, ["8.8.8.8:443", "[2606:4700::1]:443"]);
        assert_eq!(dialable(&found, true, 443).len(), found.len());
        assert!(dialable(&addresses(&["169.254.169.254", "fd00::1"]), false, 80).is_empty());
    }

    #[test]
    fn what_addresses_come_to_is_what_says_most_of_the_relay() {
        let error = |code| io::Error::from_raw_os_error(code);
        // ENETDOWN, ENETUNREACH, EHOSTUNREACH, EADDRNOTAVAIL, EPERM, EMFILE: numbers of Linux.
        for code in [100, 101, 113, 99, 1, 24] {
            assert_eq!(Attempts::of(&error(code)).reason(), CloseReason::NoRoute, "{}", error(code));
        }
        assert_eq!(Attempts::of(&error(110)).reason(), CloseReason::Timeout, "ETIMEDOUT");
        assert_eq!(Attempts::of(&error(111)).reason(), CloseReason::Connect, "ECONNREFUSED");
        let dual = Attempts::NoRoute.max(Attempts::of(&error(101))).max(Attempts::of(&error(111)));
        assert_eq!(dual.reason(), CloseReason::Connect, "no IPv6 here, and nobody listens at the IPv4 address");
    }

    #[test]
    fn private_addresses_do_not_use_up_the_places_of_public_ones() {
        let mut found = vec![IpAddr::from([10, 0, 0, 1]); 100];
        found.extend((0..100).map(|n| IpAddr::from([8, 8, 8, n])));
        let tried = dialable(&found, false, 80);
        assert_eq!(tried.len(), DIAL_ADDRESSES_MAX);
        assert!(tried.iter().all(|address| is_public(address.ip())));
    }
}
