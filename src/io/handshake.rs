//! The client's way from a connected socket to an open link: TLS if the URL asks for it, then the WebSocket upgrade
//! (RFC 6455, section 4.1).
//!
//! The upgrade is our own rather than tungstenite's, which takes an answer that comes in more than 64 small pieces for
//! an attack, allows a head of 64 KiB, and knows a `Connection` header only if `Upgrade` is its one word.

use std::io::{self, Read, Write};

use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;

use crate::contract::CloseReason;
use crate::io::http::has_token;
use crate::io::link::{Link, reason_of_io};
use crate::io::transport::Transport;
use crate::limits::{HTTP_HEAD_BYTES_MAX, HTTP_HEADERS_MAX};
use crate::protocol::relay_url::RelayUrl;

/// A handshake under way.
#[derive(Debug)]
pub struct Handshake<S: Read + Write> {
    transport: Transport<S>,
    stage: Stage,
    /// The answer's `Sec-WebSocket-Accept`.
    accept: String,
    request: Vec<u8>,
}

#[derive(Debug)]
enum Stage {
    Tls,
    Sending { written: usize },
    Receiving { head: Vec<u8> },
}

/// Where a handshake has got to.
#[derive(Debug)]
pub enum Step<S: Read + Write> {
    /// Waiting for the peer.
    Pending(Handshake<S>),
    /// Done.
    Open(Box<Link<S>>),
}

impl<S: Read + Write> Handshake<S> {
    /// A handshake that asks for `url`.
    pub fn new(transport: Transport<S>, url: &RelayUrl) -> Self {
        Handshake::with_key(transport, url, &generate_key())
    }

    fn with_key(transport: Transport<S>, url: &RelayUrl, key: &str) -> Self {
        let request = request(url, key).into_bytes();
        Handshake { transport, stage: Stage::Tls, accept: derive_accept_key(key.as_bytes()), request }
    }

    /// The transport, for its grant and its counts.
    pub fn transport_mut(&mut self) -> &mut Transport<S> {
        &mut self.transport
    }

    /// Goes on as far as the socket allows.
    ///
    /// # Errors
    ///
    /// [`CloseReason::Tls`] or [`CloseReason::Handshake`], or what the socket ran into.
    pub fn advance(mut self) -> Result<Step<S>, CloseReason> {
        loop {
            match &mut self.stage {
                Stage::Tls => match self.transport.advance_tls() {
                    Ok(true) => self.stage = Stage::Sending { written: 0 },
                    Ok(false) => return Ok(Step::Pending(self)),
                    Err(e) => return Err(tls_reason(&e)),
                },
                Stage::Sending { written } => match send(&mut self.transport, &self.request, written) {
                    Ok(()) => self.stage = Stage::Receiving { head: Vec::new() },
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Step::Pending(self)),
                    Err(e) => return Err(reason_of_io(&e)),
                },
                Stage::Receiving { head } => match receive(&mut self.transport, head, &self.accept)? {
                    Some(head_len) => {
                        let tail = head.split_off(head_len);
                        return Ok(Step::Open(Box::new(Link::new(self.transport, Role::Client, tail))));
                    }
                    None => return Ok(Step::Pending(self)),
                },
            }
        }
    }
}

/// Also covers a peer that hangs up in the middle: most often it does not speak TLS, or not to us.
fn tls_reason(error: &io::Error) -> CloseReason {
    log::debug!("TLS handshake: {error}");
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => CloseReason::Tls,
        _ => reason_of_io(error),
    }
}

fn request(url: &RelayUrl, key: &str) -> String {
    let host = url.host();
    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let default_port = if url.is_tls() { 443 } else { 80 };
    let port = if url.port() == default_port { String::new() } else { format!(":{}", url.port()) };
    format!(
        "GET {path} HTTP/1.1\r\n\
         Host: {bracketed}{port}\r\n\
         Upgrade: websocket\r\n\
         Connection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {key}\r\n\
         User-Agent: {name}/{version}\r\n\r\n",
        path = url.path(),
        name = env!("CARGO_PKG_NAME"),
        version = env!("CARGO_PKG_VERSION"),
    )
}

fn send<S: Read + Write>(transport: &mut Transport<S>, request: &[u8], written: &mut usize) -> io::Result<()> {
    while *written < request.len() {
        match transport.write(&request[*written..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => *written += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    transport.flush()
}

/// Reads until the head is whole. Its length then, `None` if more is to come.
fn receive<S: Read + Write>(
    transport: &mut Transport<S>,
    head: &mut Vec<u8>,
    accept: &str,
) -> Result<Option<usize>, CloseReason> {
    loop {
        let mut chunk = [0; 1024];
        let room = (HTTP_HEAD_BYTES_MAX - head.len()).min(chunk.len());
        match transport.read(&mut chunk[..room]) {
            Ok(0) => return Err(CloseReason::Handshake(0)),
            Ok(n) => {
                head.extend_from_slice(&chunk[..n]);
                // Only a line's end can make the head whole: a peer that trickles does not have it parsed every byte.
                if chunk[..n].contains(&b'\n')
                    && let Some(head_len) = check_response(head, accept)?
                {
                    return Ok(Some(head_len));
                }
                if head.len() == HTTP_HEAD_BYTES_MAX {
                    return Err(CloseReason::Handshake(0));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(reason_of_io(&e)),
        }
    }
}

/// Checks the answer to an upgrade (RFC 6455, section 4.1). The length of its head if it is a good one, `None` if more of
/// it is to come.
///
/// # Errors
///
/// [`CloseReason::Handshake`] with the status, which is 101 if the answer agrees but breaks the rules, and 0 if it is
/// not HTTP. An extension or a subprotocol that was not asked for breaks the rules.
pub fn check_response(head: &[u8], accept: &str) -> Result<Option<usize>, CloseReason> {
    let mut headers = [httparse::EMPTY_HEADER; HTTP_HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(head);
    let refused = CloseReason::Handshake(response.code.unwrap_or(0));
    let Ok(status) = parsed else { return Err(refused) };
    let httparse::Status::Complete(head_len) = status else { return Ok(None) };
    let header = |name: &str| {
        let found = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
        found.map(|h| h.value)
    };
    let agreed = response.code == Some(101)
        && has_token(response.headers, "Upgrade", "websocket")
        && has_token(response.headers, "Connection", "upgrade")
        && header("Sec-WebSocket-Accept").is_some_and(|value| value.trim_ascii() == accept.as_bytes())
        && header("Sec-WebSocket-Extensions").is_none_or(|value| value.trim_ascii().is_empty())
        && header("Sec-WebSocket-Protocol").is_none();
    if agreed { Ok(Some(head_len)) } else { Err(refused) }
}
