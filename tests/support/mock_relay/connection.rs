//! One client of a mock relay, served by one thread: non-blocking, so that live events and answers do not wait for each
//! other.

use super::data::{RelayFilter, Stored};
use super::reconciling::Reconciliations;
use super::{Open, Shared, Traffic};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use nostr::event::Event;
use rustls::{ServerConnection, StreamOwned};
use serde_json::Value;
use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tungstenite::protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode};
use tungstenite::{Error, Message, WebSocket};

const SOCKET: Token = Token(0);
const MAIL: Token = Token(1);
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const HEAD_MAX: usize = 16 << 10;
/// How often a frozen connection looks whether it may go on.
const FROZEN_LOOK: Duration = Duration::from_millis(20);

/// What reaches a connection from outside of its socket.
pub(crate) enum Mail {
    /// A new event, for the subscriptions that match it.
    Live(Arc<Stored>),
    /// A message to send as it is.
    Raw(Message),
}

pub(crate) struct Inbox {
    mail: Mutex<VecDeque<Mail>>,
    waker: Waker,
}

impl Inbox {
    pub(crate) fn put(&self, mail: Mail) {
        self.mail.lock().expect("no holder panics").push_back(mail);
        let _ = self.waker.wake();
    }

    fn take(&self) -> VecDeque<Mail> {
        std::mem::take(&mut *self.mail.lock().expect("no holder panics"))
    }
}

/// Serves one socket to its end.
pub(crate) fn serve(socket: TcpStream, number: u64, shared: &Shared) {
    let _ = socket.set_nodelay(true);
    let _ = socket.set_read_timeout(Some(HANDSHAKE));
    let fd = socket.as_raw_fd();
    let stream = match &shared.tls {
        None => Stream::Plain(socket),
        Some(config) => {
            let Ok(tls) = ServerConnection::new(Arc::clone(config)) else { return };
            Stream::Tls(Box::new(StreamOwned::new(tls, socket)))
        }
    };
    let limit = Some(shared.limits.message_bytes_max);
    let config = WebSocketConfig::default().max_message_size(limit).max_frame_size(limit);
    let mut stream = Replayed { replay: VecDeque::new(), stream };
    let Some(head) = stream.read_head() else { return };
    if !head.to_ascii_lowercase().contains("\r\nupgrade: websocket") {
        shared.seen().inquiries += 1;
        let _ = stream.write_all(shared.info_answer().as_bytes());
        return stream.hang_up();
    }
    let Ok(socket) = tungstenite::accept_with_config(stream, Some(config)) else { return };
    let _ = socket.get_ref().stream.tcp().set_nonblocking(true);

    let Ok(poll) = Poll::new() else { return };
    let Ok(waker) = Waker::new(poll.registry(), MAIL) else { return };
    let interest = Interest::READABLE | Interest::WRITABLE;
    if poll.registry().register(&mut SourceFd(&fd), SOCKET, interest).is_err() {
        return;
    }
    let inbox = Arc::new(Inbox { mail: Mutex::default(), waker });
    shared.data.listen(&inbox);
    shared.seen().connections += 1;
    with_open(shared, number, |open| open.inbox = Some(Arc::clone(&inbox)));
    let subscriptions = BTreeMap::new();
    let reconciliations = Reconciliations::default();
    Connection { socket, poll, inbox, subscriptions, reconciliations, out: VecDeque::new(), number, shared }.run();
}

struct Connection<'a> {
    socket: WebSocket<Replayed>,
    poll: Poll,
    inbox: Arc<Inbox>,
    subscriptions: BTreeMap<String, Subscription>,
    reconciliations: Reconciliations,
    /// Messages not yet given to the socket.
    out: VecDeque<Message>,
    number: u64,
    shared: &'a Shared,
}

struct Subscription {
    filters: Vec<RelayFilter>,
    /// Events from this number on are news; earlier ones were in the answer.
    from: u64,
}

impl Connection<'_> {
    fn run(mut self) {
        let mut events = Events::with_capacity(4);
        loop {
            if self.shared.frozen.load(Ordering::SeqCst) && !self.shared.stopped.load(Ordering::SeqCst) {
                std::thread::park_timeout(FROZEN_LOOK);
                continue;
            }
            self.take_mail();
            let Ok(written) = self.write_out() else { return };
            // Nothing more is read from a client that does not take its answers: that is all the back-pressure it needs.
            if written {
                match self.socket.read() {
                    Ok(message) => {
                        self.on_message(&message);
                        continue;
                    }
                    Err(Error::Io(e)) if e.kind() == ErrorKind::WouldBlock => {}
                    Err(Error::Capacity(_)) => return self.refuse_large(),
                    Err(_) => return,
                }
            }
            match self.poll.poll(&mut events, None) {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn refuse_large(&mut self) {
        self.shared.seen().breaches.message_bytes += 1;
        let _ = self.socket.close(Some(CloseFrame { code: CloseCode::Size, reason: "".into() }));
        let _ = self.socket.flush();
    }

    /// Gives the socket what it takes. `Ok(false)`: it takes no more for now.
    fn write_out(&mut self) -> Result<bool, ()> {
        while let Some(message) = self.out.pop_front() {
            match self.socket.write(message) {
                Ok(()) => {}
                // The message itself is in the socket's buffer.
                Err(Error::Io(e)) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(_) => return Err(()),
            }
        }
        match self.socket.flush() {
            Ok(()) => Ok(true),
            Err(Error::Io(e)) if e.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(_) => Err(()),
        }
    }

    fn take_mail(&mut self) {
        for mail in self.inbox.take() {
            match mail {
                Mail::Raw(message) => self.out.push_back(message),
                Mail::Live(event) => {
                    let wanted: Vec<String> = self
                        .subscriptions
                        .iter()
                        .filter(|(_, s)| s.from <= event.number && s.filters.iter().any(|f| f.matches(&event)))
                        .map(|(id, _)| id.clone())
                        .collect();
                    for id in wanted {
                        self.send_events(&id, std::slice::from_ref(&event));
                    }
                }
            }
        }
    }

    fn on_message(&mut self, message: &Message) {
        let Message::Text(text) = message else {
            self.shared.seen().pings += u64::from(message.is_ping());
            return;
        };
        let value: Value = serde_json::from_str(text).unwrap_or(Value::Null);
        self.note_received(text, &value);
        let (kind, second) = (value[0].as_str(), &value[1]);
        match (kind, second.as_str()) {
            (Some("REQ"), Some(id)) => self.on_req(id, &value.as_array().expect("it has elements")[2..]),
            (Some("CLOSE"), Some(id)) => {
                self.shared.seen().closes += 1;
                self.subscriptions.remove(id);
                self.tell_subscriptions();
            }
            (Some("NEG-OPEN" | "NEG-MSG" | "NEG-CLOSE"), Some(_)) => self.on_neg(&value),
            (Some("EVENT"), None) if second.is_object() => self.on_event(&second.to_string()),
            _ => {
                self.shared.seen().breaches.malformed += 1;
                self.say(r#"["NOTICE","ERROR: bad msg: unparseable message"]"#);
            }
        }
    }

    fn note_received(&mut self, text: &str, message: &Value) {
        let mut seen = self.shared.seen();
        seen.message_bytes_received += text.len() as u64;
        seen.message_bytes_peak = seen.message_bytes_peak.max(text.len());
        let kind = message[0].as_str().unwrap_or("none").to_owned();
        if kind == "NEG-OPEN" {
            seen.neg_filter_bytes += message[2].to_string().len() as u64;
        }
        seen.received.entry(kind).or_default().add(text.len());
    }

    fn on_neg(&mut self, message: &Value) {
        match self.shared.limits.reconciles {
            Some(how) => {
                if let Some(answer) = self.reconciliations.answer(message, how, &self.shared.data) {
                    self.say(&answer);
                }
            }
            // It says that it does not know NIP-77 as many do.
            None => self.say(r#"["NOTICE","ERROR: bad msg: negentropy disabled"]"#),
        }
    }

    fn on_req(&mut self, id: &str, filters: &[Value]) {
        let parsed: Option<Vec<RelayFilter>> = filters.iter().map(RelayFilter::parse).collect();
        let limits = &self.shared.limits;
        {
            let mut seen = self.shared.seen();
            seen.reqs += 1;
            seen.filters += filters.len() as u64;
            seen.filters_peak = seen.filters_peak.max(filters.len());
            seen.filters_without_limit += filters.iter().filter(|f| f.get("limit").is_none()).count() as u64;
            let Some(_) = &parsed else {
                seen.breaches.malformed += 1;
                drop(seen);
                return self.say(&format!(r#"["CLOSED",{},"ERROR: bad req: unrecognised filter item"]"#, quoted(id)));
            };
            if filters.is_empty() || filters.len() > limits.filters_max {
                seen.breaches.filters += 1;
                drop(seen);
                return self.say(&format!(r#"["CLOSED",{},"ERROR: bad req: arr too big"]"#, quoted(id)));
            }
            if !self.subscriptions.contains_key(id) && self.subscriptions.len() >= limits.subscriptions_max {
                seen.breaches.subscriptions += 1;
                drop(seen);
                return self.say(r#"["NOTICE","ERROR: too many concurrent REQs"]"#);
            }
        }
        let filters = parsed.expect("looked at above");
        let (answer, from) = self.shared.data.answer(&filters, limits.answer_max);
        if filters.iter().all(RelayFilter::names_ids) {
            self.shared.seen().events_fetched += answer.len() as u64;
        }
        self.send_events(id, &answer);
        self.say(&format!(r#"["EOSE",{}]"#, quoted(id)));
        self.subscriptions.insert(id.to_owned(), Subscription { filters, from });
        self.tell_subscriptions();
        let mut seen = self.shared.seen();
        seen.eoses += 1;
        seen.subscriptions_peak = seen.subscriptions_peak.max(self.subscriptions.len());
    }

    fn on_event(&mut self, json: &str) {
        self.shared.seen().published += 1;
        let Ok(event) = Event::from_json(json) else {
            return self.say(r#"["NOTICE","ERROR: bad msg: bad event"]"#);
        };
        let good = event.verify().is_ok();
        if good {
            self.shared.data.add([&event]);
        }
        let why = if good { "" } else { "invalid: bad signature" };
        self.say(&format!(r#"["OK","{}",{good},"{why}"]"#, event.id));
    }

    fn send_events(&mut self, id: &str, events: &[Arc<Stored>]) {
        let id = quoted(id);
        let mut bytes = 0;
        for event in events {
            let text = format!(r#"["EVENT",{id},{}]"#, event.json);
            bytes += text.len() as u64;
            self.out.push_back(Message::text(text));
        }
        let mut seen = self.shared.seen();
        seen.events_sent += events.len() as u64;
        seen.event_bytes_sent += bytes;
        let traffic = seen.said.entry("EVENT").or_default();
        traffic.messages += events.len() as u64;
        traffic.bytes += bytes;
        for event in events {
            *seen.sent.entry(event.id).or_default() += 1;
        }
    }

    fn say(&mut self, text: &str) {
        let kind = ["EOSE", "NEG-MSG", "NEG-ERR", "OK", "CLOSED", "NOTICE"];
        let kind = kind.into_iter().find(|kind| text[2..].starts_with(kind)).unwrap_or("none");
        self.shared.seen().said.entry(kind).or_default().add(text.len());
        self.out.push_back(Message::text(text));
    }

    fn tell_subscriptions(&self) {
        let ids = self.subscriptions.keys().cloned().collect();
        with_open(self.shared, self.number, |open| open.subscriptions = ids);
    }
}

impl Traffic {
    fn add(&mut self, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes as u64;
    }
}

fn with_open(shared: &Shared, number: u64, change: impl FnOnce(&mut Open)) {
    if let Some(open) = shared.open().get_mut(&number) {
        change(open);
    }
}

fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

/// A stream whose beginning has been looked at, and comes again.
struct Replayed {
    replay: VecDeque<u8>,
    stream: Stream,
}

impl Replayed {
    /// The head of the request, which is still to be read. `None` if there is none, or none that ends.
    fn read_head(&mut self) -> Option<String> {
        let mut byte = [0];
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() >= HEAD_MAX || self.stream.read(&mut byte).ok()? == 0 {
                return None;
            }
            head.push(byte[0]);
        }
        self.replay.extend(&head);
        String::from_utf8(head).ok()
    }

    /// Says that nothing more is to come, and waits for the other end to have read it.
    fn hang_up(&mut self) {
        if let Stream::Tls(tls) = &mut self.stream {
            tls.conn.send_close_notify();
        }
        let _ = self.flush();
        let _ = self.stream.tcp().shutdown(Shutdown::Write);
        let _ = self.stream.tcp().read(&mut [0; 64]);
    }
}

impl Read for Replayed {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.replay.is_empty() { self.stream.read(buffer) } else { self.replay.read(buffer) }
    }
}

impl Write for Replayed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(tls) => &tls.sock,
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.read(buffer),
            Stream::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.write(bytes),
            Stream::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.flush(),
            Stream::Tls(tls) => tls.flush(),
        }
    }
}
