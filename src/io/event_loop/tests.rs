//! The loop against real sockets on loopback, with a scripted core in the engine's place and threads as peers.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tungstenite::{Message, WebSocket};

use super::*;
use crate::contract::{RedirectRefusal, RetryAfter};
use crate::io::tls;
use crate::limits::{MESSAGE_BYTES_MAX, RELAY_MESSAGE_BYTES_MAX};
use crate::protocol::relay_url::RelayUrl;
use crate::shares::Account;

mod crowd;
mod inquiry;
mod proxies;
mod redirects;
mod shares;

/// What a core was told, with the clock's words left out.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Told {
    Opened(LinkId),
    Accepted(LinkId),
    Text(LinkId, String),
    Alive(LinkId),
    Drained(LinkId),
    Info(LinkId, Result<String, CloseReason>),
    Closed(LinkId, CloseReason),
    Stop,
}

/// Remembers what it is told and says what it was given to say.
#[derive(Default)]
struct Script {
    told: Vec<Told>,
    outputs: VecDeque<Output>,
    /// Whose the clients are.
    accounts: Vec<Account>,
    /// Sends every text back.
    echoes: bool,
    /// Takes so long for every text.
    slow: std::time::Duration,
    commits: usize,
    ticks: usize,
    /// The pages have a bug.
    broken_pages: bool,
}

impl Core for Script {
    fn handle(&mut self, _: Now, input: Input<'_>) -> Result<(), StoreError> {
        let told = match input {
            Input::Opened { link } => Told::Opened(link),
            Input::Accepted { link, account } => {
                self.accounts.push(account);
                Told::Accepted(link)
            }
            Input::Text { link, text } => {
                thread::sleep(self.slow);
                if self.echoes {
                    self.outputs.push_back(Output::Send { link, text: text.to_owned() });
                }
                Told::Text(link, text.to_owned())
            }
            Input::Alive { link } => Told::Alive(link),
            Input::Drained { link } => Told::Drained(link),
            Input::Info { link, document } => Told::Info(link, document.map(str::to_owned)),
            Input::Closed { link, reason } => Told::Closed(link, reason),
            Input::Stop => Told::Stop,
            Input::Tick => {
                self.ticks += 1;
                return Ok(());
            }
            Input::CommitTook(_) | Input::Space(_) => return Ok(()),
        };
        self.told.push(told);
        Ok(())
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn commit_due(&self, _: Now, _: bool) -> bool {
        false
    }

    fn commit(&mut self, _: Now) -> Result<(), StoreError> {
        self.commits += 1;
        Ok(())
    }

    fn metrics_text(&self) -> String {
        assert!(!self.broken_pages, "a bug");
        "# EOF\n".to_owned()
    }

    fn status_json(&self, _: Now) -> String {
        r#"{"relays":[]}"#.to_owned()
    }

    fn relay_info_json(&self) -> String {
        r#"{"name":"ours"}"#.to_owned()
    }

    fn names_json(&self, name: Option<&str>) -> Option<String> {
        (name == Some("_")).then(|| r#"{"names":{}}"#.to_owned())
    }

    fn page_html(&self, _: Now) -> String {
        "<!doctype html>".to_owned()
    }

    fn space_due(&self, _: Now) -> bool {
        false
    }

    fn shortage(&self) -> Option<Shortage> {
        None
    }
}

struct World {
    event_loop: EventLoop,
    core: Script,
}

const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// Of this machine, but no peer of these tests listens there.
const REFUSING: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const LINK: LinkId = LinkId::Relay(1);

impl World {
    fn new() -> World {
        World::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut LoopOptions)) -> World {
        let mut options = LoopOptions {
            listen: ANY_PORT,
            admin_listen: ANY_PORT,
            allow_private: true,
            service: Service::parse("ours.test").unwrap(),
            tls: tls::client_config(None).unwrap(),
            connect_timeout: Duration::from_secs(30),
            loopback_exempt: true,
            clients_max: 4,
            clients_per_address: 4,
            trusted_proxies: Vec::new(),
            buffers_bytes: 32 << 20,
            // Nobody listens there, so that no test asks the real world.
            names: NameSource::Fixed(ResolverConfig {
                servers: vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 1)],
                hosts: BTreeMap::from([("both.test".into(), vec![REFUSING, Ipv4Addr::LOCALHOST.into()])]),
                ..ResolverConfig::default()
            }),
        };
        change(&mut options);
        World { event_loop: EventLoop::bind(options).unwrap(), core: Script::default() }
    }

    fn dial(&mut self, url: &str) {
        let url = RelayUrl::parse(url).unwrap();
        self.core.outputs.push_back(Output::Dial { link: LINK, url });
    }

    fn turn(&mut self, wait_max: Duration) {
        self.event_loop.turn(&mut self.core, Some(wait_max)).unwrap();
    }

    /// Turns until the core has been told something that `wanted` accepts.
    fn until(&mut self, wanted: impl Fn(&Told) -> bool) -> Told {
        let deadline = self.event_loop.now().mono + Duration::from_secs(20);
        loop {
            if let Some(told) = self.core.told.iter().find(|t| wanted(t)) {
                return told.clone();
            }
            assert!(self.event_loop.now().mono < deadline, "told only {:?}", self.core.told);
            self.turn(Duration::from_millis(100));
        }
    }

    fn until_closed(&mut self) -> CloseReason {
        match self.until(|t| matches!(t, Told::Closed(LINK, _))) {
            Told::Closed(_, reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    /// Turns until a peer's thread has ended.
    fn until_joined<T>(&mut self, peer: JoinHandle<T>) -> T {
        let deadline = self.event_loop.now().mono + Duration::from_secs(20);
        while !peer.is_finished() {
            assert!(self.event_loop.now().mono < deadline, "the peer waits; told {:?}", self.core.told);
            self.turn(Duration::from_millis(10));
        }
        peer.join().unwrap()
    }
}

/// A relay of one connection, in a thread.
fn relay<T: Send + 'static>(serve: impl FnOnce(TcpStream) -> T + Send + 'static) -> (u16, JoinHandle<T>) {
    let listener = TcpListener::bind(ANY_PORT).unwrap();
    let port = listener.local_addr().unwrap().port();
    (port, thread::spawn(move || serve(bounded(listener.accept().unwrap().0))))
}

/// A peer that waits for ever would hang the test instead of failing it.
fn bounded(socket: TcpStream) -> TcpStream {
    socket.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    socket.set_write_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    socket
}

fn echo<S: Read + Write>(mut peer: WebSocket<S>) {
    while let Ok(message) = peer.read() {
        if message.is_text() {
            peer.send(message).unwrap();
        }
    }
}

fn send(text: impl Into<String>) -> Output {
    Output::Send { link: LINK, text: text.into() }
}

#[test]
fn a_dialled_link_carries_messages_both_ways_and_says_when_it_has_drained() {
    let (port, peer) = relay(|socket| echo(tungstenite::accept(socket).unwrap()));
    let mut world = World::new();
    world.dial(&format!("ws://127.0.0.1:{port}"));
    world.until(|t| *t == Told::Opened(LINK));
    let long = "x".repeat(MESSAGE_BYTES_MAX);
    world.core.outputs.extend([send("hello"), send(long.clone())]);
    world.until(|t| *t == Told::Text(LINK, "hello".into()));
    world.until(|t| *t == Told::Text(LINK, long.clone()));
    world.until(|t| *t == Told::Drained(LINK));
    world.core.outputs.push_back(Output::Ping { link: LINK });
    world.until(|t| *t == Told::Alive(LINK));
    world.core.outputs.push_back(Output::Close { link: LINK, code: 1000 });
    world.until_joined(peer);
    let deadline = world.event_loop.now().mono + Duration::from_secs(20);
    while !world.event_loop.connections.is_empty() {
        assert!(world.event_loop.now().mono < deadline);
        world.turn(Duration::from_millis(100));
    }
    assert!(!world.core.told.iter().any(|t| matches!(t, Told::Closed(..))), "the engine closed it itself");
}

#[test]
fn an_answer_that_trickles_in_is_an_answer() {
    let (port, peer) = relay(|mut socket| {
        socket.set_nodelay(true).unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        let text = String::from_utf8(request).unwrap();
        let key = text.lines().find_map(|l| l.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
        let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
        let head = format!(
            "HTTP/1.1 101 Fine\r\nconnection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\nsec-websocket-accept: {accept}\r\n\r\n"
        );
        for byte in head.bytes().chain([0x81, 2, b'h', b'i']) {
            socket.write_all(&[byte]).unwrap();
        }
        let _ = socket.read(&mut [0]);
        text
    });
    let mut world = World::new();
    world.dial(&format!("ws://localhost:{port}/a/path?x=1"));
    world.until(|t| *t == Told::Text(LINK, "hi".into()));
    world.core.outputs.push_back(Output::Close { link: LINK, code: 1000 });
    let request = world.until_joined(peer);
    assert!(request.starts_with("GET /a/path?x=1 HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("\r\nHost: localhost:{port}\r\n")), "{request}");
    assert!(!request.to_ascii_lowercase().contains("extensions"), "{request}");
}

#[test]
fn a_refused_upgrade_says_its_status() {
    let head = |head: &'static str| {
        let (port, peer) = relay(move |mut socket| {
            let _ = socket.read(&mut [0; 4096]);
            let _ = socket.write_all(head.as_bytes());
        });
        let mut world = World::new();
        world.dial(&format!("ws://127.0.0.1:{port}"));
        let reason = world.until_closed();
        world.until_joined(peer);
        reason
    };
    assert_eq!(head("HTTP/1.1 429 Slow\r\n\r\n"), CloseReason::Handshake(429));
    let retry = RetryAfter::Wait(Duration::from_secs(5));
    assert_eq!(head("HTTP/1.1 429 Slow\r\nRetry-After: 5\r\n\r\n"), CloseReason::RetryAfter { status: 429, retry });
    let insecure = CloseReason::Redirect(RedirectRefusal::Insecure);
    assert_eq!(head("HTTP/1.1 301 Moved\r\nLocation: ws://127.0.0.2/\r\n\r\n"), insecure);
    assert_eq!(head("SSH-2.0-OpenSSH\r\n"), CloseReason::Handshake(0));
    assert_eq!(head(""), CloseReason::Handshake(0));
    assert_eq!(
        head("HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: no\r\n\r\n"),
        CloseReason::Handshake(101)
    );
}

#[test]
fn a_message_over_the_limit_closes_the_link() {
    let (port, peer) = relay(|socket| {
        let mut peer = tungstenite::accept(socket).unwrap();
        let _ = peer.send(Message::text("x".repeat(RELAY_MESSAGE_BYTES_MAX)));
        let _ = peer.send(Message::text("x".repeat(RELAY_MESSAGE_BYTES_MAX + 1)));
        peer.read()
    });
    let mut world = World::new();
    world.dial(&format!("ws://127.0.0.1:{port}"));
    assert_eq!(world.until_closed(), CloseReason::TooLarge);
    let told = |len: usize| world.core.told.iter().any(|t| matches!(t, Told::Text(LINK, text) if text.len() == len));
    assert!(told(RELAY_MESSAGE_BYTES_MAX), "the largest step of a reconciliation");
    let _ = world.until_joined(peer);
}

#[test]
fn a_refused_address_is_followed_by_the_next_one() {
    let (port, peer) = relay(|socket| echo(tungstenite::accept(socket).unwrap()));
    let mut world = World::new();
    world.dial(&format!("ws://both.test:{port}"));
    world.until(|t| *t == Told::Opened(LINK));
    world.core.outputs.push_back(Output::Close { link: LINK, code: 1000 });
    world.until_joined(peer);
}

#[test]
fn nobody_at_any_address_is_connect() {
    let port = TcpListener::bind(ANY_PORT).unwrap().local_addr().unwrap().port();
    let mut world = World::new();
    world.dial(&format!("ws://127.0.0.1:{port}"));
    assert_eq!(world.until_closed(), CloseReason::Connect);
}

#[test]
fn a_private_address_is_not_dialled_unless_allowed() {
    let mut world = World::with(|o| o.allow_private = false);
    world.dial("ws://127.0.0.1:8");
    assert_eq!(world.until_closed(), CloseReason::PrivateAddress);
}

#[test]
fn a_name_that_moves_between_two_lookups_is_judged_at_each() {
    let (port, peer) = relay(|socket| echo(tungstenite::accept(socket).unwrap()));
    let mut world = World::with(|o| {
        o.allow_private = false;
        let NameSource::Fixed(config) = &mut o.names else { unreachable!("the tests' own") };
        config.hosts.insert("moves.test".into(), vec![Ipv4Addr::new(240, 0, 0, 1).into()]);
    });
    // Whatever a name has answered before, what is dialled is what was judged.
    let hosts = BTreeMap::from([("moves.test".into(), vec![Ipv4Addr::LOCALHOST.into()])]);
    world.event_loop.resolver.reload(ResolverConfig { hosts, ..ResolverConfig::default() });
    world.dial(&format!("ws://moves.test:{port}"));
    assert_eq!(world.until_closed(), CloseReason::PrivateAddress);
    world.core.told.clear();
    world.event_loop.options.allow_private = true;
    let url = RelayUrl::parse(&format!("ws://moves.test:{port}")).unwrap();
    let link = LinkId::Relay(2);
    world.core.outputs.push_back(Output::Dial { link, url });
    world.until(|t| *t == Told::Opened(link));
    world.core.outputs.push_back(Output::Close { link, code: 1000 });
    world.until_joined(peer);
}

#[test]
fn a_name_without_an_address_is_resolve() {
    let mut world = World::new();
    world.dial("ws://nowhere.invalid");
    assert_eq!(world.until_closed(), CloseReason::Resolve);
}

#[test]
fn a_name_that_no_server_answers_for_is_our_own_lack() {
    let mut world = World::new();
    world.dial("ws://relay.test");
    assert_eq!(world.until_closed(), CloseReason::NoNameServer);
}

#[test]
fn an_address_without_a_route_is_our_own_lack() {
    let mut world = World::new();
    // No TCP goes to a broadcast address: the kernel itself says so.
    world.dial("ws://255.255.255.255");
    assert_eq!(world.until_closed(), CloseReason::NoRoute);
    world.core.told.clear();
    let url = RelayUrl::parse(&format!("ws://{REFUSING}:8")).unwrap();
    world.core.outputs.push_back(Output::Dial { link: LinkId::Relay(2), url });
    world.until(|t| *t == Told::Closed(LinkId::Relay(2), CloseReason::Connect));
}

#[test]
fn a_peer_that_says_nothing_runs_into_the_deadline_and_the_loop_sleeps_until_then() {
    let listener = TcpListener::bind(ANY_PORT).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut world = World::with(|o| o.connect_timeout = Duration::from_millis(300));
    world.dial(&format!("ws://127.0.0.1:{port}"));
    assert_eq!(world.until_closed(), CloseReason::Timeout);
    assert!(world.core.ticks < 20, "{} turns for one silent peer", world.core.ticks);
}

#[test]
fn a_dial_that_the_engine_gives_up_is_gone() {
    let listener = TcpListener::bind(ANY_PORT).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut world = World::new();
    world.dial(&format!("ws://127.0.0.1:{port}"));
    world.turn(Duration::from_millis(10));
    world.core.outputs.push_back(Output::Close { link: LINK, code: 1000 });
    world.turn(Duration::from_millis(10));
    assert!(world.event_loop.connections.is_empty());
}

mod over_tls {
    use super::*;
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use rustls::{ServerConfig, ServerConnection, StreamOwned};

    pub(super) struct Authority {
        pem: String,
        issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    }

    impl Authority {
        pub(super) fn new() -> Self {
            let mut params = rcgen::CertificateParams::default();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            let key = rcgen::KeyPair::generate().unwrap();
            let pem = params.self_signed(&key).unwrap().pem();
            Authority { pem, issuer: rcgen::Issuer::new(params, key) }
        }

        pub(super) fn server(&self, name: &str) -> Arc<ServerConfig> {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
            let certificate = params.signed_by(&key, &self.issuer).unwrap();
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
            Arc::new(config.with_no_client_auth().with_single_cert(vec![certificate.into()], key).unwrap())
        }

        pub(super) fn world(&self) -> World {
            // Tests run beside each other, and certificates are often of one length.
            static WORLDS: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
            let world = WORLDS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("grasp-sync-ca-{}-{world}.pem", std::process::id()));
            std::fs::write(&path, &self.pem).unwrap();
            let config = tls::client_config(Some(&path)).unwrap();
            let _ = std::fs::remove_file(&path);
            World::with(|o| o.tls = config)
        }
    }

    pub(super) fn tls_relay(config: Arc<ServerConfig>) -> (u16, JoinHandle<()>) {
        relay(move |socket| {
            let stream = StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
            if let Ok(peer) = tungstenite::accept(stream) {
                echo(peer);
            }
        })
    }

    #[test]
    fn a_ca_file_is_trusted_and_messages_pass() {
        let authority = Authority::new();
        let (port, peer) = tls_relay(authority.server("localhost"));
        let mut world = authority.world();
        world.dial(&format!("wss://localhost:{port}"));
        world.until(|t| *t == Told::Opened(LINK));
        let long = "x".repeat(MESSAGE_BYTES_MAX);
        world.core.outputs.extend([send("hello"), send(long.clone())]);
        world.until(|t| *t == Told::Text(LINK, "hello".into()));
        world.until(|t| *t == Told::Text(LINK, long.clone()));
        world.core.outputs.push_back(Output::Close { link: LINK, code: 1000 });
        world.until_joined(peer);
    }

    #[test]
    fn a_document_is_fetched_over_tls_too() {
        let authority = Authority::new();
        let config = authority.server("localhost");
        let (port, peer) = relay(move |socket| {
            let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
            let _ = stream.read(&mut [0; 4096]);
            // No length, and no farewell either: the end of the socket is the end of the document.
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{}");
        });
        let mut world = authority.world();
        let url = RelayUrl::parse(&format!("wss://localhost:{port}")).unwrap();
        world.core.outputs.push_back(Output::Inquire { link: LINK, url: url.clone() });
        assert_eq!(world.until(|_| true), Told::Info(LINK, Ok("{}".to_owned())));
        world.until_joined(peer);

        let (port, peer) = tls_relay(Authority::new().server("localhost"));
        let mut world = authority.world();
        let url = RelayUrl::parse(&format!("wss://localhost:{port}")).unwrap();
        world.core.outputs.push_back(Output::Inquire { link: LINK, url });
        assert_eq!(world.until(|_| true), Told::Info(LINK, Err(CloseReason::Tls)));
        world.until_joined(peer);
    }

    #[test]
    fn an_address_can_be_certified_too() {
        let authority = Authority::new();
        let (port, peer) = tls_relay(authority.server("127.0.0.1"));
        let mut world = authority.world();
        world.dial(&format!("wss://127.0.0.1:{port}"));
        world.until(|t| *t == Told::Opened(LINK));
        world.core.outputs.push_back(Output::Close { link: LINK, code: 1000 });
        world.until_joined(peer);
    }

    #[test]
    fn an_unknown_authority_a_wrong_name_and_no_tls_at_all_are_refused() {
        let authority = Authority::new();
        let (port, peer) = tls_relay(authority.server("localhost"));
        let mut world = World::new();
        world.dial(&format!("wss://localhost:{port}"));
        assert_eq!(world.until_closed(), CloseReason::Tls);
        world.until_joined(peer);

        let (port, peer) = tls_relay(authority.server("relay.example"));
        let mut world = authority.world();
        world.dial(&format!("wss://localhost:{port}"));
        assert_eq!(world.until_closed(), CloseReason::Tls);
        world.until_joined(peer);

        let (port, peer) = relay(|mut socket| {
            let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        });
        let mut world = authority.world();
        world.dial(&format!("wss://localhost:{port}"));
        assert_eq!(world.until_closed(), CloseReason::Tls);
        world.until_joined(peer);
    }
}

mod who_comes_in {
    use super::*;

    pub(super) fn ask(world: &mut World, address: SocketAddr, request: &str) -> String {
        let request = request.to_owned();
        let peer = thread::spawn(move || {
            let mut socket = bounded(TcpStream::connect(address).unwrap());
            socket.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            socket.read_to_string(&mut answer).unwrap();
            answer
        });
        world.until_joined(peer)
    }

    pub(super) fn connect(address: SocketAddr) -> Result<WebSocket<TcpStream>, u16> {
        let socket = bounded(TcpStream::connect(address).unwrap());
        match tungstenite::client(format!("ws://{address}/"), socket) {
            Ok((peer, _)) => Ok(peer),
            Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
                Err(answer.status().as_u16())
            }
            Err(e) => panic!("{e}"),
        }
    }

    #[test]
    fn a_client_is_accepted_heard_and_answered() {
        let mut world = World::new();
        world.core.echoes = true;
        let address = world.event_loop.local_addr();
        let peer = thread::spawn(move || {
            let mut peer = connect(address).unwrap();
            peer.send(Message::text("hello")).unwrap();
            let answer = peer.read().unwrap();
            peer.close(None).unwrap();
            while peer.read().is_ok() {}
            answer
        });
        assert_eq!(world.until_joined(peer), Message::text("hello"));
        let id = LinkId::Client(0);
        world.until(|t| *t == Told::Closed(id, CloseReason::Peer(1005)));
        // Whether it is also told to have drained depends on how soon the peer closes.
        world.core.told.retain(|t| *t != Told::Drained(id));
        let expected = [Told::Accepted(id), Told::Text(id, "hello".into()), Told::Closed(id, CloseReason::Peer(1005))];
        assert_eq!(world.core.told, expected);
    }

    #[test]
    fn one_client_too_many_gets_503() {
        let mut world = World::with(|o| o.clients_max = 1);
        let address = world.event_loop.local_addr();
        let first = thread::spawn(move || connect(address).unwrap());
        let first = world.until_joined(first);
        let second = thread::spawn(move || connect(address).map(drop));
        assert_eq!(world.until_joined(second), Err(503));
        drop(first);
        world.until(|t| matches!(t, Told::Closed(LinkId::Client(0), _)));
        let third = thread::spawn(move || connect(address).map(drop));
        assert_eq!(world.until_joined(third), Ok(()));
    }

    #[test]
    fn a_bug_in_a_page_ends_that_answer_alone() {
        let mut world = World::new();
        let admin = world.event_loop.admin_addr();
        world.core.broken_pages = true;
        let broken = ask(&mut world, admin, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(broken.starts_with("HTTP/1.1 500 "), "{broken}");
        world.core.broken_pages = false;
        let mended = ask(&mut world, admin, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(mended.contains("\ngrasp_sync_page_faults_total 1\n"), "{mended}");
    }

    #[test]
    fn each_door_serves_its_own() {
        let mut world = World::new();
        let (public, admin) = (world.event_loop.local_addr(), world.event_loop.admin_addr());
        let info = ask(&mut world, public, "GET / HTTP/1.1\r\nHost: x\r\nAccept: application/nostr+json\r\n\r\n");
        assert!(info.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/nostr+json\r\n"), "{info}");
        assert!(info.contains("\r\nAccess-Control-Allow-Origin: *\r\n"), "{info}");
        assert!(info.ends_with("\r\n\r\n{\"name\":\"ours\"}"), "{info}");
        let greeting = ask(&mut world, public, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(greeting.ends_with("<!doctype html>"), "{greeting}");
        let name = ask(&mut world, public, "GET /.well-known/nostr.json?name=_ HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(name.ends_with(r#"{"names":{}}"#), "{name}");
        let nobody = ask(&mut world, public, "GET /.well-known/nostr.json HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(nobody.starts_with("HTTP/1.1 404 "), "{nobody}");
        let hidden = ask(&mut world, public, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(hidden.starts_with("HTTP/1.1 404 "), "{hidden}");

        let metrics = ask(&mut world, admin, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(metrics.contains("Content-Type: application/openmetrics-text; version=1.0.0"), "{metrics}");
        assert!(metrics.contains("\ngrasp_sync_http_answers_total 5\n"), "{metrics}");
        assert!(metrics.ends_with("# EOF\n"), "{metrics}");
        let health = ask(&mut world, admin, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(health.starts_with("HTTP/1.1 200 OK\r\n") && health.ends_with("\r\n\r\nok\n"), "{health}");
        let head = ask(&mut world, admin, "HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(head.contains("Content-Length: 3\r\n") && head.ends_with("\r\n\r\n"), "{head}");
        let status = ask(&mut world, admin, "GET /status.json HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert!(status.ends_with(r#"{"relays":[]}"#), "{status}");
        let rebound = ask(&mut world, admin, "GET /status.json HTTP/1.1\r\nHost: evil.example\r\n\r\n");
        assert!(rebound.starts_with("HTTP/1.1 421 "), "{rebound}");
    }

    #[test]
    fn an_endless_head_gets_431() {
        let mut world = World::new();
        let address = world.event_loop.local_addr();
        let request = format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(10_000));
        let answer = ask(&mut world, address, &request);
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }

    #[test]
    fn a_head_that_never_ends_runs_into_its_deadline() {
        let mut world = World::new();
        let address = world.event_loop.local_addr();
        let mut socket = bounded(TcpStream::connect(address).unwrap());
        socket.write_all(b"GET / HTT").unwrap();
        while world.event_loop.connections.is_empty() {
            world.turn(Duration::from_millis(100));
        }
        let deadline = world.event_loop.connections.next_deadline().unwrap();
        let now = world.event_loop.now().mono;
        assert!(deadline > now && deadline <= now + crate::limits::HTTP_HEAD_TIMEOUT);
        let key = world.event_loop.connections.poll_expired(deadline).unwrap();
        let now = world.event_loop.now();
        world.event_loop.on_time(now, key, &mut world.core).unwrap();
        assert!(world.event_loop.connections.is_empty());
    }

    #[test]
    fn one_that_floods_does_not_starve_the_others() {
        let mut world = World::new();
        let address = world.event_loop.local_addr();
        let flood = thread::spawn(move || {
            let mut peer = connect(address).unwrap();
            for _ in 0..20_000 {
                peer.write(Message::text("x")).unwrap();
            }
            peer.flush().unwrap();
            peer
        });
        world.until(|t| matches!(t, Told::Text(..)));
        let quiet = thread::spawn(move || {
            let mut peer = connect(address).unwrap();
            peer.send(Message::text("me too")).unwrap();
            peer
        });
        world.until(|t| matches!(t, Told::Text(_, text) if text == "me too"));
        let texts_in_a_turn = {
            let before = world.core.told.len();
            world.turn(Duration::ZERO);
            world.core.told.len() - before
        };
        assert!(texts_in_a_turn <= READS_PER_TURN);
        let flood = world.until_joined(flood);
        let quiet = world.until_joined(quiet);
        let deadline = world.event_loop.now().mono + Duration::from_secs(20);
        while world.core.told.iter().filter(|t| matches!(t, Told::Text(..))).count() < 20_001 {
            assert!(world.event_loop.now().mono < deadline);
            world.turn(Duration::from_millis(100));
        }
        drop((flood, quiet));
    }

    #[test]
    fn a_link_whose_messages_take_long_has_fewer_of_them_read_in_a_turn() {
        const FLOODERS: usize = 3;
        const MESSAGES: usize = 40;
        let mut world = World::new();
        world.core.slow = std::time::Duration::from_millis(4);
        let address = world.event_loop.local_addr();
        let peer = thread::spawn(move || {
            let mut flooders: Vec<_> = (0..FLOODERS).map(|_| connect(address).expect("there is room")).collect();
            for flooder in &mut flooders {
                (0..MESSAGES).for_each(|_| flooder.write(Message::text("x")).unwrap());
                flooder.flush().unwrap();
            }
            flooders
        });
        let flooders = world.until_joined(peer);
        let heard = |world: &World| world.core.told.iter().filter(|told| matches!(told, Told::Text(..))).count();
        let mut before = heard(&world);
        while heard(&world) < FLOODERS * MESSAGES {
            world.turn(Duration::from_millis(100));
            let now = heard(&world);
            // Each link two or three in its share, and all of them no more than in that of a turn.
            let most = (READ_TIME_PER_TURN.as_millis() / 4 + 2) as usize;
            assert!(now - before <= most, "{} in one turn", now - before);
            before = now;
        }
        drop(flooders);
    }

    #[test]
    fn stopping_commits_and_takes_leave() {
        let mut world = World::new();
        let address = world.event_loop.local_addr();
        let peer = thread::spawn(move || {
            let mut peer = connect(address).unwrap();
            match peer.read().unwrap() {
                Message::Close(Some(frame)) => {
                    while peer.read().is_ok() {}
                    u16::from(frame.code)
                }
                other => panic!("{other}"),
            }
        });
        world.until(|t| matches!(t, Told::Accepted(_)));
        let link = LinkId::Client(0);
        world.core.outputs.push_back(Output::Close { link, code: 1001 });
        let World { event_loop, mut core } = world;
        event_loop.stop(&mut core).unwrap();
        assert_eq!(peer.join().unwrap(), 1001);
        assert_eq!(core.told.last(), Some(&Told::Stop));
        assert!(core.commits > 0);
    }
}
