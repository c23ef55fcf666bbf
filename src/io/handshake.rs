//! The client's way from a connected socket to an open link: TLS if the URL asks for it, then the WebSocket upgrade
//! (RFC 6455, section 4.1).
//!
//! The upgrade is our own rather than tungstenite's, which takes an answer that comes in more than 64 small pieces for
//! an attack, and interim answers for refusals, and knows a `Connection` header only if `Upgrade` is its one word.

use std::io::{self, Read, Write};

use httparse::Response;
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;

use crate::contract::CloseReason;
use crate::io::answer::{AnswerHead, Refused, header, refusal};
use crate::io::http::has_token;
use crate::io::link::{Link, reason_of_io};
use crate::io::transport::Transport;
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
    Receiving { head: AnswerHead },
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

    pub(crate) fn with_key(transport: Transport<S>, url: &RelayUrl, key: &str) -> Self {
        let request = request(url, key).into_bytes();
        Handshake { transport, stage: Stage::Tls, accept: derive_accept_key(key.as_bytes()), request }
    }

    /// What the other side has to answer to show that it has read our key, which nobody else has chosen.
    pub fn accept(&self) -> &str {
        &self.accept
    }

    /// The transport, for its grant and its counts.
    pub fn transport_mut(&mut self) -> &mut Transport<S> {
        &mut self.transport
    }

    /// Goes on as far as the socket allows.
    ///
    /// # Errors
    ///
    /// A redirect; [`CloseReason::Tls`], what [`AnswerHead`] finds or an answer refuses, or what the socket ran into.
    pub fn advance(mut self) -> Result<Step<S>, Refused> {
        loop {
            match &mut self.stage {
                Stage::Tls => match self.transport.advance_tls() {
                    Ok(true) => self.stage = Stage::Sending { written: 0 },
                    Ok(false) => return Ok(Step::Pending(self)),
                    Err(e) => return Err(tls_reason(&e).into()),
                },
                Stage::Sending { written } => match send(&mut self.transport, &self.request, written) {
                    Ok(()) => self.stage = Stage::Receiving { head: AnswerHead::default() },
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Step::Pending(self)),
                    Err(e) => return Err(reason_of_io(&e).into()),
                },
                Stage::Receiving { head } => match receive(&mut self.transport, head, &self.accept)? {
                    Some(tail) => {
                        return Ok(Step::Open(Box::new(Link::new(self.transport, Role::Client, tail))));
                    }
                    None => return Ok(Step::Pending(self)),
                },
            }
        }
    }
}

/// Also covers a peer that hangs up in the middle: most often it does not speak TLS, or not to us.
pub(super) fn tls_reason(error: &io::Error) -> CloseReason {
    log::debug!("TLS handshake: {error}");
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => CloseReason::Tls,
        _ => reason_of_io(error),
    }
}

/// The value of the `Host` header (RFC 9110, section 7.2).
pub(super) fn host_header(url: &RelayUrl) -> String {
    let host = url.host();
    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let default_port = if url.is_tls() { 443 } else { 80 };
    if url.port() == default_port { bracketed } else { format!("{bracketed}:{}", url.port()) }
}

fn request(url: &RelayUrl, key: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\n\
         Host: {host}\r\n\
         Upgrade: websocket\r\n\
         Connection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {key}\r\n\
         User-Agent: {name}/{version}\r\n\r\n",
        path = url.path(),
        host = host_header(url),
        name = env!("CARGO_PKG_NAME"),
        version = env!("CARGO_PKG_VERSION"),
    )
}

/// Sends what is left of a request.
pub(super) fn send<S: Read + Write>(
    transport: &mut Transport<S>,
    request: &[u8],
    written: &mut usize,
) -> io::Result<()> {
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

/// Reads until the head is whole. What came behind it then, `None` if more is to come.
fn receive<S: Read + Write>(
    transport: &mut Transport<S>,
    head: &mut AnswerHead,
    accept: &str,
) -> Result<Option<Vec<u8>>, Refused> {
    loop {
        let mut chunk = [0; 1024];
        let room = head.room().min(chunk.len());
        match transport.read(&mut chunk[..room]) {
            Ok(0) => return Err(CloseReason::Handshake(0).into()),
            Ok(n) => {
                let agreed = |response: &Response<'_, '_>, tail: &[u8]| match agrees(response, accept) {
                    true => Ok(tail.to_vec()),
                    false => Err(refusal(response)),
                };
                if let Some(tail) = head.push(&chunk[..n], agreed)? {
                    return Ok(Some(tail));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(reason_of_io(&e).into()),
        }
    }
}

/// Whether an answer agrees to the upgrade, by the rules (RFC 6455, section 4.1). An extension or a subprotocol that was
/// not asked for breaks them.
fn agrees(response: &Response<'_, '_>, accept: &str) -> bool {
    let header = |name: &str| header(response.headers, name).map(<[u8]>::trim_ascii);
    response.code == Some(101)
        && has_token(response.headers, "Upgrade", "websocket")
        && has_token(response.headers, "Connection", "upgrade")
        && header("Sec-WebSocket-Accept") == Some(accept.as_bytes())
        && header("Sec-WebSocket-Extensions").is_none_or(<[u8]>::is_empty)
        && header("Sec-WebSocket-Protocol").is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::RetryAfter;
    use crate::io::answer::Moved;
    use crate::io::link::Frame;
    use crate::io::pipe::{Pipe, Temper, pipe};
    use crate::limits::{ANSWER_HEAD_BYTES_MAX, ANSWER_HEADERS_MAX, LINK_READ_BYTES_PER_TURN};
    use crate::time::Duration;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const GOOD: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

    fn url(text: &str) -> RelayUrl {
        RelayUrl::parse(text).unwrap()
    }

    /// Shakes hands with a peer that answers `answer` to whatever it is sent.
    fn shake(temper: Temper, answer: &[u8]) -> Result<Box<Link<Pipe>>, Refused> {
        let (mut peer, socket) = pipe(temper);
        let mut handshake = Handshake::with_key(Transport::plain(socket), &url("ws://relay.example"), KEY);
        let mut written = 0;
        for _ in 0..1_000_000 {
            let _ = peer.read(&mut [0; 64]);
            if written < answer.len() {
                written += peer.write(&answer[written..]).unwrap_or(0);
            }
            handshake.transport_mut().grant(LINK_READ_BYTES_PER_TURN);
            match handshake.advance()? {
                Step::Pending(pending) => handshake = pending,
                Step::Open(link) => return Ok(link),
            }
        }
        panic!("no end");
    }

    #[test]
    fn a_good_answer_opens_the_link_with_what_came_after_it() {
        for temper in [Temper::Smooth, Temper::Trickle, Temper::Random(1), Temper::Random(2), Temper::Random(3)] {
            let answer = [GOOD.as_bytes(), &[0x81, 2, b'h', b'i']].concat();
            let (mut peer, socket) = pipe(temper);
            let mut handshake = Some(Handshake::with_key(Transport::plain(socket), &url("ws://relay.example"), KEY));
            let (mut link, mut written) = (None, 0);
            let frame = (0..1_000_000).find_map(|_| {
                let _ = peer.read(&mut [0; 64]);
                written += peer.write(&answer[written..]).unwrap_or(0);
                if let Some(mut pending) = handshake.take() {
                    pending.transport_mut().grant(LINK_READ_BYTES_PER_TURN);
                    match pending.advance().unwrap() {
                        Step::Pending(pending) => handshake = Some(pending),
                        Step::Open(open) => link = Some(open),
                    }
                }
                let link = link.as_mut()?;
                link.transport_mut().grant(LINK_READ_BYTES_PER_TURN);
                link.read().unwrap()
            });
            assert_eq!(frame, Some(Frame::Text("hi".into())), "{temper:?}");
        }
    }

    #[test]
    fn interim_answers_before_the_agreement_are_read_over() {
        let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n";
        for temper in [Temper::Smooth, Temper::Trickle, Temper::Random(1)] {
            for before in ["HTTP/1.1 100 Continue\r\n\r\n", hints, &hints.repeat(20)] {
                assert!(shake(temper, format!("{before}{GOOD}").as_bytes()).is_ok(), "{temper:?} {before}");
            }
        }
    }

    #[test]
    fn a_large_head_is_read_and_one_beyond_the_bounds_named() {
        let with = |lines: &str| GOOD.replacen("\r\n", &format!("\r\n{lines}"), 1);
        assert!(shake(Temper::Smooth, with(&format!("Set-Cookie: {}\r\n", "x".repeat(9_000))).as_bytes()).is_ok());
        assert!(shake(Temper::Smooth, with(&"a: b\r\n".repeat(ANSWER_HEADERS_MAX - 3)).as_bytes()).is_ok());
        let large = Refused::Ended(CloseReason::HeadTooLarge);
        let long = with(&"a: b\r\n".repeat(ANSWER_HEADERS_MAX - 2));
        assert_eq!(shake(Temper::Smooth, long.as_bytes()).unwrap_err(), large);
        let endless = format!("HTTP/1.1 101 Yes\r\nX: {}", "x".repeat(ANSWER_HEAD_BYTES_MAX));
        for temper in [Temper::Smooth, Temper::Random(1)] {
            assert_eq!(shake(temper, endless.as_bytes()).unwrap_err(), large, "{temper:?}");
        }
    }

    #[test]
    fn an_answer_that_does_not_agree_says_what_it_is() {
        let refused = |answer: &str| shake(Temper::Smooth, answer.as_bytes()).unwrap_err();
        for (answer, status) in [
            (GOOD.replace("Upgrade: websocket", "Upgrade: h2c"), 101),
            (GOOD.replace("Connection: Upgrade", "Connection: close"), 101),
            (GOOD.replace("s3pPL", "xxxxx"), 101),
            (GOOD.replace("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"), 101),
            (GOOD.replace("\r\n\r\n", "\r\nSec-WebSocket-Protocol: chat\r\n\r\n"), 101),
            (GOOD.replace("101", "503"), 503),
            ("220 mail.example ESMTP\r\n\r\n".to_owned(), 0),
        ] {
            assert_eq!(refused(&answer), Refused::Ended(CloseReason::Handshake(status)), "{answer}");
        }
        let moved = Moved { status: 308, location: Some("https://relay.example/".to_owned()) };
        let answer = "HTTP/1.1 308 There\r\nLocation: https://relay.example/\r\n\r\n";
        assert_eq!(refused(answer), Refused::Moved(moved));
        let retry = RetryAfter::Wait(Duration::from_secs(30));
        let busy = Refused::Ended(CloseReason::RetryAfter { status: 429, retry });
        assert_eq!(refused("HTTP/1.1 429 Slow\r\nRetry-After: 30\r\n\r\n"), busy);
    }

    #[test]
    fn the_host_is_named_as_a_server_expects_it() {
        let host = |text: &str| {
            let request = request(&url(text), KEY);
            request.lines().find_map(|l| l.strip_prefix("Host: ")).unwrap().to_owned()
        };
        assert_eq!(host("ws://relay.example"), "relay.example");
        assert_eq!(host("wss://relay.example:443/"), "relay.example");
        assert_eq!(host("wss://relay.example:80"), "relay.example:80");
        assert_eq!(host("ws://[2001:db8::1]:7777"), "[2001:db8::1]:7777");
        assert!(request(&url("wss://relay.example/a?b=c"), KEY).starts_with("GET /a?b=c HTTP/1.1\r\n"));
    }
}
