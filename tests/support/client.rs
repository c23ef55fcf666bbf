//! A stock NIP-01 client: blocking, over a plain socket.

use super::events::{event_message, parse};
use nostr::event::Event;
use serde_json::Value;
use std::collections::VecDeque;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, Message, WebSocket};

/// How long a client waits for an answer before the test fails.
pub const ANSWER: Duration = Duration::from_secs(20);

pub struct Client {
    socket: WebSocket<TcpStream>,
    /// Messages that came while another was waited for.
    waiting: VecDeque<Value>,
    next_subscription: u64,
}

/// What a relay answered to an EVENT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub accepted: bool,
    pub why: String,
}

impl Client {
    /// Connects to the relay at `address`.
    pub fn connect(address: SocketAddr) -> Client {
        Client::try_connect(address).unwrap_or_else(|e| panic!("no WebSocket at {address}: {e}"))
    }

    /// Like [`Client::connect`], without the panic.
    pub fn try_connect(address: SocketAddr) -> Result<Client, Box<dyn std::error::Error>> {
        let stream = TcpStream::connect_timeout(&address, ANSWER)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER))?;
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let (socket, _) = tungstenite::client::client_with_config(format!("ws://{address}/"), stream, Some(config))
            .map_err(|e| e.to_string())?;
        Ok(Client { socket, waiting: VecDeque::new(), next_subscription: 0 })
    }

    /// Sends any text.
    pub fn send(&mut self, text: impl Into<String>) {
        self.try_send(Message::text(text.into())).expect("the link is open");
    }

    /// Sends any message; an error if the link has ended.
    pub fn try_send(&mut self, message: Message) -> Result<(), Error> {
        self.socket.send(message)
    }

    /// Publishes an event and waits for its OK.
    pub fn publish(&mut self, event: &Event) -> Published {
        self.send(event_message(event));
        self.answer_to(event).unwrap_or_else(|| panic!("no OK for {}", event.id))
    }

    /// Publishes an event that the relay must take.
    pub fn publish_ok(&mut self, event: &Event) {
        let published = self.publish(event);
        assert!(published.accepted, "{} of kind {} refused: {}", event.id, event.kind, published.why);
    }

    /// The OK for an event already sent; `None` if the link ended first.
    pub fn answer_to(&mut self, event: &Event) -> Option<Published> {
        let id = event.id.to_hex();
        let ok = self.next_matching(ANSWER, |m| m[0] == "OK" && m[1] == id.as_str())?;
        Some(Published {
            accepted: ok[2].as_bool().expect("OK carries a boolean"),
            why: ok[3].as_str().unwrap_or_default().to_owned(),
        })
    }

    /// Stored events that match a filter (JSON), in the relay's order, then closes the subscription.
    pub fn query(&mut self, filter: &Value) -> Vec<Event> {
        let id = self.subscribe(std::slice::from_ref(filter));
        let events = self.stored(&id);
        self.close(&id);
        events
    }

    /// The one stored event that matches, if there is exactly one.
    pub fn query_one(&mut self, filter: &Value) -> Option<Event> {
        let mut events = self.query(filter);
        if events.len() == 1 { events.pop() } else { None }
    }

    /// Opens a subscription and gives its id.
    pub fn subscribe(&mut self, filters: &[Value]) -> String {
        self.next_subscription += 1;
        let id = format!("sub-{}", self.next_subscription);
        let mut message = vec![Value::from("REQ"), Value::from(id.as_str())];
        message.extend_from_slice(filters);
        self.send(Value::Array(message).to_string());
        id
    }

    /// Events of a subscription up to its EOSE. Panics if it is closed instead.
    pub fn stored(&mut self, subscription: &str) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let message = self
                .next_matching(ANSWER, |m| m[1] == subscription && m[0] != "OK")
                .unwrap_or_else(|| panic!("no EOSE for {subscription}"));
            match message[0].as_str() {
                Some("EVENT") => events.push(parse(&message[2].to_string())),
                Some("EOSE") => return events,
                _ => panic!("instead of EOSE: {message}"),
            }
        }
    }

    /// The next event of a subscription that is already past its EOSE.
    pub fn next_event(&mut self, subscription: &str, deadline: Duration) -> Option<Event> {
        let message = self.next_matching(deadline, |m| m[0] == "EVENT" && m[1] == subscription)?;
        Some(parse(&message[2].to_string()))
    }

    /// Ends a subscription.
    pub fn close(&mut self, subscription: &str) {
        self.send(format!(r#"["CLOSE",{}]"#, Value::from(subscription)));
    }

    /// The next message that `wanted` holds for; the others stay for later. `None` once `deadline` has passed or the link
    /// has ended.
    pub fn next_matching(&mut self, deadline: Duration, wanted: impl Fn(&Value) -> bool) -> Option<Value> {
        if let Some(at) = self.waiting.iter().position(&wanted) {
            return self.waiting.remove(at);
        }
        let end = Instant::now() + deadline;
        loop {
            let message = self.read_until(end).ok().flatten()?;
            if wanted(&message) {
                return Some(message);
            }
            self.waiting.push_back(message);
        }
    }

    /// Whether the relay ends this link within `deadline`. What it says before that stays to be read.
    pub fn ends_within(&mut self, deadline: Duration) -> bool {
        let end = Instant::now() + deadline;
        loop {
            match self.read_until(end) {
                Ok(Some(message)) => self.waiting.push_back(message),
                Ok(None) => return false,
                Err(_) => return true,
            }
        }
    }

    /// Ends the link without a word, as a client that lost its network.
    pub fn cut(self) {
        let _ = self.socket.get_ref().shutdown(Shutdown::Both);
    }

    /// The next text message as JSON; `Ok(None)` at `end`.
    fn read_until(&mut self, end: Instant) -> Result<Option<Value>, Error> {
        loop {
            let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return Ok(None);
            };
            self.socket.get_ref().set_read_timeout(Some(left))?;
            match self.socket.read() {
                Ok(Message::Text(text)) => {
                    let value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("not JSON ({e}): {text}"));
                    return Ok(Some(value));
                }
                Ok(_) => {}
                Err(Error::Io(e)) if is_timeout(&e) => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}
