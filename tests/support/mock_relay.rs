//! A relay of the test's own: NIP-01 over real sockets, one thread per connection, and NIP-77 if it is told to. It answers
//! as strfry does, newest event first and capped in silence, and it counts what it is asked, what it sends, and every limit
//! that a client breaks.

mod connection;
mod data;
mod reconciling;

pub use data::{RelayData, RelayFilter};
pub use reconciling::Reconciles;

use connection::{Inbox, Mail};
use nostr::event::EventId;
use rustls::ServerConfig;
use std::collections::{BTreeMap, HashMap};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;
use tungstenite::Message;

/// What the relay allows one connection.
#[derive(Clone, Copy, Debug)]
pub struct RelayLimits {
    /// Events per filter of one answer; more are left out without a word.
    pub answer_max: usize,
    /// Open subscriptions; a REQ beyond is refused by a NOTICE without its id.
    pub subscriptions_max: usize,
    /// Filters in a REQ; more are refused by CLOSED.
    pub filters_max: usize,
    /// Bytes of one message; a larger one ends the connection with 1009.
    pub message_bytes_max: usize,
    /// How it reconciles; `None`: it does not.
    pub reconciles: Option<Reconciles>,
}

impl Default for RelayLimits {
    /// The strictest common set: strfry before 1.1 (20 subscriptions), its answers (500) and messages (128 KiB).
    fn default() -> Self {
        RelayLimits {
            answer_max: 500,
            subscriptions_max: 20,
            filters_max: 20,
            message_bytes_max: 131_072,
            reconciles: None,
        }
    }
}

impl RelayLimits {
    /// The same with NIP-77. The relay's NIP-11 document is to list it, too: [`MockRelay::set_info`].
    pub fn reconciling(self) -> RelayLimits {
        RelayLimits { reconciles: Some(Reconciles::default()), ..self }
    }
}

/// Messages of one kind in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub messages: u64,
    /// Of their text; WebSocket adds 2 to 14 a message.
    pub bytes: u64,
}

/// What the relay has seen and done, since it was made or last asked to forget.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub connections: u64,
    /// Requests without an upgrade: somebody asks what the relay is.
    pub inquiries: u64,
    pub reqs: u64,
    pub filters: u64,
    pub filters_without_limit: u64,
    pub closes: u64,
    /// EVENT messages from clients.
    pub published: u64,
    pub eoses: u64,
    pub pings: u64,
    /// Events sent, each time anew.
    pub events_sent: u64,
    /// Bytes of EVENT messages sent.
    pub event_bytes_sent: u64,
    pub message_bytes_received: u64,
    /// What came, by the first word of the message.
    pub received: BTreeMap<String, Traffic>,
    /// What was sent, likewise.
    pub said: BTreeMap<&'static str, Traffic>,
    /// Bytes of the filters in NEG-OPENs.
    pub neg_filter_bytes: u64,
    /// Of `events_sent`, those that were asked for by id.
    pub events_fetched: u64,
    /// How often each event was sent.
    pub sent: HashMap<EventId, u32>,
    pub subscriptions_peak: usize,
    pub filters_peak: usize,
    pub message_bytes_peak: usize,
    pub breaches: Breaches,
}

impl Seen {
    /// Bytes of text received and sent.
    pub fn bytes(&self) -> (u64, u64) {
        let sent = self.said.values().map(|traffic| traffic.bytes).sum();
        (self.message_bytes_received, sent)
    }
}

/// Limits broken, by limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Breaches {
    pub subscriptions: u64,
    pub filters: u64,
    pub message_bytes: u64,
    /// Messages that NIP-01 does not know, or that are not JSON.
    pub malformed: u64,
}

impl Breaches {
    pub fn total(&self) -> u64 {
        self.subscriptions + self.filters + self.message_bytes + self.malformed
    }
}

/// A relay on its own port. Dropping it ends it.
pub struct MockRelay {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

/// What the listener and the connections of one relay have in common.
pub(crate) struct Shared {
    limits: RelayLimits,
    data: RelayData,
    tls: Option<Arc<ServerConfig>>,
    stopped: AtomicBool,
    frozen: AtomicBool,
    next_connection: AtomicU64,
    info: Mutex<Option<String>>,
    seen: Mutex<Seen>,
    open: Mutex<BTreeMap<u64, Open>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Open {
    socket: TcpStream,
    inbox: Option<Arc<Inbox>>,
    subscriptions: Vec<String>,
}

impl MockRelay {
    /// Starts on a free port with data of its own and the default limits.
    pub fn start() -> MockRelay {
        MockRelay::with(RelayData::default(), RelayLimits::default(), None)
    }

    /// Starts on a free port, serving `data`, which other relays may share, over TLS if `tls` is given.
    pub fn with(data: RelayData, limits: RelayLimits, tls: Option<Arc<ServerConfig>>) -> MockRelay {
        let shared = Arc::new(Shared {
            limits,
            data,
            tls,
            stopped: AtomicBool::new(true),
            frozen: AtomicBool::new(false),
            next_connection: AtomicU64::new(0),
            info: Mutex::default(),
            seen: Mutex::default(),
            open: Mutex::default(),
            threads: Mutex::default(),
        });
        let mut relay = MockRelay { address: SocketAddr::from(([127, 0, 0, 1], 0)), shared, listener: None };
        relay.resume();
        relay
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its `ws://` URL, as a client normalises it.
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Its events.
    pub fn data(&self) -> &RelayData {
        &self.shared.data
    }

    /// From now on it serves this NIP-11 document; until then, none.
    pub fn set_info(&self, document: &str) {
        *self.shared.info.lock().expect("no holder panics") = Some(document.to_owned());
    }

    /// What it has seen and done.
    pub fn seen(&self) -> Seen {
        self.shared.seen().clone()
    }

    /// Looks at what it has seen without copying it.
    pub fn with_seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.shared.seen())
    }

    /// Starts counting anew.
    pub fn forget_seen(&self) {
        *self.shared.seen() = Seen::default();
    }

    /// Connections open now, past their handshake.
    pub fn connections(&self) -> usize {
        self.shared.open().values().filter(|open| open.inbox.is_some()).count()
    }

    /// Ids of the subscriptions open now, over all connections.
    pub fn subscriptions(&self) -> Vec<String> {
        self.shared.open().values().flat_map(|open| open.subscriptions.iter().cloned()).collect()
    }

    /// Sends one message on every connection, outside of any rule.
    pub fn send_to_all(&self, message: &Message) {
        for open in self.shared.open().values() {
            if let Some(inbox) = &open.inbox {
                inbox.put(Mail::Raw(message.clone()));
            }
        }
    }

    /// Cuts every connection without a word; new ones are taken.
    pub fn cut(&self) {
        for open in self.shared.open().values() {
            let _ = open.socket.shutdown(Shutdown::Both);
        }
    }

    /// Leaves every connection open but neither reads nor writes on any, until told otherwise.
    pub fn freeze(&self, frozen: bool) {
        self.shared.frozen.store(frozen, Ordering::SeqCst);
    }

    /// Ends every connection and stops listening, until [`MockRelay::resume`].
    pub fn stop(&mut self) {
        let Some(listener) = self.listener.take() else { return };
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        let _ = listener.join();
        self.cut();
        let threads = std::mem::take(&mut *self.shared.threads.lock().expect("no holder panics"));
        for thread in threads {
            let _ = thread.join();
        }
    }

    /// Listens again on the port it had, with the events it has.
    pub fn resume(&mut self) {
        assert!(self.listener.is_none(), "the relay is running");
        let listener = TcpListener::bind(self.address).expect("the port is still free");
        self.address = listener.local_addr().expect("a bound socket has an address");
        self.shared.stopped.store(false, Ordering::SeqCst);
        let shared = Arc::clone(&self.shared);
        self.listener = Some(std::thread::spawn(move || listen(&listener, &shared)));
    }
}

impl Drop for MockRelay {
    fn drop(&mut self) {
        self.freeze(false);
        self.stop();
    }
}

fn listen(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let Ok((socket, _)) = listener.accept() else { continue };
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        let Ok(handle) = socket.try_clone() else { continue };
        let number = shared.next_connection.fetch_add(1, Ordering::SeqCst);
        shared.open().insert(number, Open { socket: handle, inbox: None, subscriptions: Vec::new() });
        let of_thread = Arc::clone(shared);
        let thread = std::thread::spawn(move || {
            connection::serve(socket, number, &of_thread);
            of_thread.open().remove(&number);
        });
        let mut threads = shared.threads.lock().expect("no holder panics");
        threads.retain(|t| !t.is_finished());
        threads.push(thread);
    }
}

impl Shared {
    /// The answer to whoever asks what the relay is.
    fn info_answer(&self) -> String {
        match &*self.info.lock().expect("no holder panics") {
            Some(document) => format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/nostr+json\r\nContent-Length: {}\r\n\r\n{document}",
                document.len()
            ),
            None => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no holder panics")
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, Open>> {
        self.open.lock().expect("no holder panics")
    }
}
