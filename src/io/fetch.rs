//! A relay's NIP-11 document, from a connected socket to its text: TLS if the URL asks for it, one GET, one answer, and
//! no second look. Redirects are not followed: what a relay says of itself it says where it is.

use std::io::{self, Read, Write};

use crate::contract::CloseReason;
use crate::io::handshake::{host_header, send, tls_reason};
use crate::io::http_body::Body;
use crate::io::link::reason_of_io;
use crate::io::transport::Transport;
use crate::limits::{HTTP_HEAD_BYTES_MAX, HTTP_HEADERS_MAX};
use crate::protocol::relay_url::RelayUrl;

/// A document under way.
#[derive(Debug)]
pub struct Fetch<S: Read + Write> {
    transport: Transport<S>,
    stage: Stage,
    request: Vec<u8>,
}

#[derive(Debug)]
enum Stage {
    Tls,
    Sending { written: usize },
    Head(Vec<u8>),
    Body(Body),
}

impl<S: Read + Write> Fetch<S> {
    /// A GET of `url` as NIP-11 wants it.
    pub fn new(transport: Transport<S>, url: &RelayUrl) -> Self {
        Fetch { transport, stage: Stage::Tls, request: request(url).into_bytes() }
    }

    /// The transport, for its grant.
    pub fn transport_mut(&mut self) -> &mut Transport<S> {
        &mut self.transport
    }

    /// Whether TLS is done, if there is any: the relay is reached.
    pub fn is_connected(&self) -> bool {
        !matches!(self.stage, Stage::Tls)
    }

    /// Goes on as far as the socket allows; the text of the document when it is whole.
    ///
    /// # Errors
    ///
    /// [`CloseReason::Tls`], [`CloseReason::TooLarge`], what the socket ran into, or [`CloseReason::Handshake`] with the
    /// status of an answer that is no document; 0 if it is not HTTP.
    pub fn advance(&mut self) -> Result<Option<String>, CloseReason> {
        loop {
            match &mut self.stage {
                Stage::Tls => match self.transport.advance_tls() {
                    Ok(true) => self.stage = Stage::Sending { written: 0 },
                    Ok(false) => return Ok(None),
                    Err(e) => return Err(tls_reason(&e)),
                },
                Stage::Sending { written } => match send(&mut self.transport, &self.request, written) {
                    Ok(()) => self.stage = Stage::Head(Vec::new()),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                    Err(e) => return Err(reason_of_io(&e)),
                },
                Stage::Head(_) | Stage::Body(_) => {
                    let mut chunk = [0; 4096];
                    match self.transport.read(&mut chunk) {
                        // Many servers hang up without TLS's own farewell.
                        Ok(0) => return self.end().map(Some),
                        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return self.end().map(Some),
                        Ok(n) => self.take(&chunk[..n])?,
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(e) => return Err(reason_of_io(&e)),
                    }
                    if matches!(&self.stage, Stage::Body(body) if body.is_whole()) {
                        return self.end().map(Some);
                    }
                }
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), CloseReason> {
        match &mut self.stage {
            Stage::Body(body) => body.push(bytes),
            Stage::Head(head) => {
                head.extend_from_slice(bytes);
                // Only a line's end can make the head whole: a peer that trickles does not have it parsed every byte.
                if bytes.contains(&b'\n')
                    && let Some(body) = body_after(head)?
                {
                    self.stage = Stage::Body(body);
                } else if head.len() >= HTTP_HEAD_BYTES_MAX {
                    return Err(CloseReason::Handshake(0));
                }
                Ok(())
            }
            Stage::Tls | Stage::Sending { .. } => unreachable!("nothing is read before the request is sent"),
        }
    }

    /// Nothing more is to come.
    fn end(&mut self) -> Result<String, CloseReason> {
        match std::mem::replace(&mut self.stage, Stage::Head(Vec::new())) {
            Stage::Body(body) => body.into_text(true),
            _ => Err(CloseReason::Handshake(0)),
        }
    }
}

fn request(url: &RelayUrl) -> String {
    format!(
        "GET {path} HTTP/1.1\r\n\
         Host: {host}\r\n\
         Accept: application/nostr+json\r\n\
         Connection: close\r\n\
         User-Agent: {name}/{version}\r\n\r\n",
        path = url.path(),
        host = host_header(url),
        name = env!("CARGO_PKG_NAME"),
        version = env!("CARGO_PKG_VERSION"),
    )
}

/// The body whose head, and perhaps beginning, this is; `None` if more of the head is to come.
fn body_after(bytes: &[u8]) -> Result<Option<Body>, CloseReason> {
    let mut headers = [httparse::EMPTY_HEADER; HTTP_HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes);
    let refused = CloseReason::Handshake(response.code.unwrap_or(0));
    match parsed {
        Err(_) => Err(refused),
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete(_)) if response.code != Some(200) => Err(refused),
        Ok(httparse::Status::Complete(head_len)) => {
            let mut body = Body::of(&response)?;
            body.push(&bytes[head_len..])?;
            Ok(Some(body))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::pipe::{Temper, pipe};
    use crate::limits::{INFO_BYTES_MAX, LINK_READ_BYTES_PER_TURN};

    const TEMPERS: [Temper; 5] =
        [Temper::Smooth, Temper::Trickle, Temper::Random(1), Temper::Random(2), Temper::Random(3)];
    /// What is written of an answer that never ends, at the most.
    const ENDLESS: usize = 8 << 20;

    /// Fetches from a peer that answers `answer`, and `endlessly` again and again after it; hangs up if that is empty.
    /// What came of it, and how much of the answer the peer got rid of.
    fn fetch(temper: Temper, answer: &[u8], endlessly: &[u8]) -> (Result<String, CloseReason>, usize) {
        let (peer, socket) = pipe(temper);
        let mut fetch = Fetch::new(Transport::plain(socket), &RelayUrl::parse("ws://relay.example:7777/sub").unwrap());
        let (mut peer, mut taken, mut asked) = (Some(peer), 0_usize, Vec::new());
        loop {
            if let Some(open) = &mut peer {
                let mut chunk = [0; 256];
                let n = open.read(&mut chunk).unwrap_or(0);
                asked.extend_from_slice(&chunk[..n]);
                let rest = match taken.checked_sub(answer.len()) {
                    None => &answer[taken..],
                    Some(behind) => &endlessly[behind % endlessly.len().max(1)..],
                };
                if rest.is_empty() {
                    peer = None;
                } else {
                    taken += open.write(rest).unwrap_or(0);
                }
            }
            assert!(taken < ENDLESS, "reads without end");
            fetch.transport_mut().grant(LINK_READ_BYTES_PER_TURN);
            let done = fetch.advance();
            if let Some(done) = done.transpose() {
                let asked = String::from_utf8(asked).unwrap();
                assert!("GET /sub HTTP/1.1\r\nHost: relay.example:7777\r\n".starts_with(&asked[..asked.len().min(45)]));
                return (done, taken);
            }
        }
    }

    fn ended(answer: &str) -> Result<String, CloseReason> {
        fetch(Temper::Smooth, answer.as_bytes(), b"").0
    }

    #[test]
    fn a_document_is_fetched_however_the_socket_cuts_it() {
        let document = r#"{"name":"föö","limitation":{"max_subscriptions":20}}"#;
        let answers = [
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{document}", document.len()),
            format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{document}\r\n0\r\n\r\n",
                document.len()
            ),
            format!("HTTP/1.0 200 OK\r\nContent-Type: application/nostr+json\r\n\r\n{document}"),
        ];
        for temper in TEMPERS {
            for answer in &answers {
                assert_eq!(fetch(temper, answer.as_bytes(), b"").0.as_deref(), Ok(document), "{temper:?}");
            }
        }
    }

    #[test]
    fn the_request_is_what_nip_11_wants() {
        let text = request(&RelayUrl::parse("wss://relay.example/a?b=c").unwrap());
        assert!(text.starts_with("GET /a?b=c HTTP/1.1\r\nHost: relay.example\r\n"), "{text}");
        assert!(text.contains("\r\nAccept: application/nostr+json\r\n") && text.contains("\r\nConnection: close\r\n"));
        assert!(text.ends_with("\r\n\r\n"));
    }

    #[test]
    fn what_is_no_document_says_its_status() {
        let moved = "HTTP/1.1 301 Moved Permanently\r\nLocation: http://127.0.0.1/\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(ended(moved), Err(CloseReason::Handshake(301)), "redirects are not followed");
        for status in [100, 101, 204, 206, 400, 404, 429, 503] {
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\n{{}}");
            assert_eq!(ended(&answer), Err(CloseReason::Handshake(status)));
        }
        for answer in ["", "220 mail.example ESMTP\r\n", "HTTP/1.1 200 OK\r\n", "\0\0\0\n"] {
            let reason = ended(answer).unwrap_err();
            assert!(matches!(reason, CloseReason::Handshake(0 | 200)), "{answer:?}: {reason:?}");
        }
    }

    #[test]
    fn what_never_ends_is_cut_off() {
        let head = b"HTTP/1.1 200 OK\r\n";
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let open = b"HTTP/1.1 200 OK\r\n\r\n";
        let refused = CloseReason::Handshake(0);
        let some = CloseReason::Handshake(200);
        for (answer, endlessly, reason, room) in [
            (&head[..], &b"x"[..], refused, HTTP_HEAD_BYTES_MAX),
            (head, b"X: ", refused, HTTP_HEAD_BYTES_MAX),
            (head, b"X: y\r\n", some, HTTP_HEAD_BYTES_MAX),
            (open, b"x", CloseReason::TooLarge, INFO_BYTES_MAX),
            (chunked, b"1\r\nx\r\n", CloseReason::TooLarge, 6 * INFO_BYTES_MAX),
            (chunked, b"1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nx\r\n", CloseReason::TooLarge, 40 * INFO_BYTES_MAX),
            (chunked, b"0", some, HTTP_HEAD_BYTES_MAX),
            (chunked, b"1\r\nx\r", some, HTTP_HEAD_BYTES_MAX),
        ] {
            // In steps of one byte the whole takes long; a head is enough to show that it makes no difference.
            for temper in if room <= HTTP_HEAD_BYTES_MAX { &TEMPERS[..] } else { &TEMPERS[..1] } {
                let (got, taken) = fetch(*temper, answer, endlessly);
                assert_eq!(got, Err(reason), "{temper:?} {:?}", String::from_utf8_lossy(endlessly));
                // What a pipe holds counts as taken.
                assert!(taken <= room + (80 << 10), "{taken} bytes were taken");
            }
        }
    }
}
