//! A relay's NIP-11 document, from a connected socket to its text: TLS if the URL asks for it, one GET, one answer, and
//! no second look.

use std::io::{self, Read, Write};

use httparse::Response;

use crate::contract::CloseReason;
use crate::io::answer::{AnswerHead, Refused, refusal};
use crate::io::handshake::{host_header, send, tls_reason};
use crate::io::http_body::Body;
use crate::io::link::reason_of_io;
use crate::io::transport::Transport;
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
    Head(AnswerHead),
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
    /// A redirect; [`CloseReason::Tls`], [`CloseReason::TooLarge`], what the socket ran into, what [`AnswerHead`] finds, or
    /// what an answer that is no document means.
    pub fn advance(&mut self) -> Result<Option<String>, Refused> {
        loop {
            match &mut self.stage {
                Stage::Tls => match self.transport.advance_tls() {
                    Ok(true) => self.stage = Stage::Sending { written: 0 },
                    Ok(false) => return Ok(None),
                    Err(e) => return Err(tls_reason(&e).into()),
                },
                Stage::Sending { written } => match send(&mut self.transport, &self.request, written) {
                    Ok(()) => self.stage = Stage::Head(AnswerHead::default()),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                    Err(e) => return Err(reason_of_io(&e).into()),
                },
                Stage::Head(_) | Stage::Body(_) => {
                    let mut chunk = [0; 4096];
                    match self.transport.read(&mut chunk) {
                        // Many servers hang up without TLS's own farewell.
                        Ok(0) => return Ok(Some(self.end()?)),
                        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(Some(self.end()?)),
                        Ok(n) => self.take(&chunk[..n])?,
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(e) => return Err(reason_of_io(&e).into()),
                    }
                    if matches!(&self.stage, Stage::Body(body) if body.is_whole()) {
                        return Ok(Some(self.end()?));
                    }
                }
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        match &mut self.stage {
            Stage::Body(body) => body.push(bytes)?,
            Stage::Head(head) => {
                if let Some(body) = head.push(bytes, body_after)? {
                    self.stage = Stage::Body(body);
                }
            }
            Stage::Tls | Stage::Sending { .. } => unreachable!("nothing is read before the request is sent"),
        }
        Ok(())
    }

    /// Nothing more is to come.
    fn end(&mut self) -> Result<String, CloseReason> {
        match std::mem::replace(&mut self.stage, Stage::Head(AnswerHead::default())) {
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

/// The body behind a head, of which this much has come.
fn body_after(response: &Response<'_, '_>, beginning: &[u8]) -> Result<Body, Refused> {
    if response.code != Some(200) {
        return Err(refusal(response));
    }
    let mut body = Body::of(response)?;
    body.push(beginning)?;
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::answer::Moved;
    use crate::io::pipe::{Temper, pipe};
    use crate::limits::{ANSWER_HEAD_BYTES_MAX, INFO_BYTES_MAX, LINK_READ_BYTES_PER_TURN};

    const TEMPERS: [Temper; 5] =
        [Temper::Smooth, Temper::Trickle, Temper::Random(1), Temper::Random(2), Temper::Random(3)];
    /// What is written of an answer that never ends, at the most.
    const ENDLESS: usize = 8 << 20;
    /// What is read of a line that begins a chunk, before it is too long, at the most.
    const CHUNK_ROOM: usize = 8 << 10;

    /// Fetches from a peer that answers `answer`, and `endlessly` again and again after it; hangs up if that is empty.
    /// What came of it, and how much of the answer the peer got rid of.
    fn fetch(temper: Temper, answer: &[u8], endlessly: &[u8]) -> (Result<String, Refused>, usize) {
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

    fn ended(answer: &str) -> Result<String, Refused> {
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
        let refused = |status| Err(Refused::Ended(CloseReason::Handshake(status)));
        for status in [101, 204, 206, 400, 404, 429, 503] {
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\n{{}}");
            assert_eq!(ended(&answer), refused(status));
        }
        for (answer, status) in [
            ("", 0),
            ("220 mail.example ESMTP\r\n", 0),
            ("HTTP/1.1 100 Continue\r\n\r\n", 0),
            ("HTTP/1.1 200 OK\r\n", 0),
            ("HTTP/1.1 200 OK\r\na b: c\r\n", 200),
            ("\0\0\0\n", 0),
        ] {
            assert_eq!(ended(answer), refused(status), "{answer:?}");
        }
        let moved = "HTTP/1.1 301 Moved Permanently\r\nLocation: http://127.0.0.1/\r\nContent-Length: 2\r\n\r\n{}";
        let location = Some("http://127.0.0.1/".to_owned());
        assert_eq!(ended(moved), Err(Refused::Moved(Moved { status: 301, location })));
    }

    #[test]
    fn interim_answers_before_a_document_are_read_over() {
        let answer = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        for temper in TEMPERS {
            assert_eq!(fetch(temper, answer.as_bytes(), b"").0.as_deref(), Ok("{}"), "{temper:?}");
        }
    }

    #[test]
    fn what_never_ends_is_cut_off() {
        let head = b"HTTP/1.1 200 OK\r\n";
        let interim = b"HTTP/1.1 103 Early Hints\r\n\r\n";
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let open = b"HTTP/1.1 200 OK\r\n\r\n";
        let some = CloseReason::Handshake(200);
        for (answer, endlessly, reason, room) in [
            (&head[..], &b"x"[..], CloseReason::HeadTooLarge, ANSWER_HEAD_BYTES_MAX),
            (head, b"X: ", CloseReason::HeadTooLarge, ANSWER_HEAD_BYTES_MAX),
            (head, b"X: y\r\n", CloseReason::HeadTooLarge, ANSWER_HEAD_BYTES_MAX),
            (b"", b"\n", CloseReason::HeadTooLarge, ANSWER_HEAD_BYTES_MAX),
            (interim, interim, CloseReason::HeadTooLarge, ANSWER_HEAD_BYTES_MAX),
            (open, b"x", CloseReason::TooLarge, INFO_BYTES_MAX),
            (chunked, b"1\r\nx\r\n", CloseReason::TooLarge, 6 * INFO_BYTES_MAX),
            (chunked, b"1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nx\r\n", CloseReason::TooLarge, 40 * INFO_BYTES_MAX),
            (chunked, b"0", some, CHUNK_ROOM),
            (chunked, b"1\r\nx\r", some, CHUNK_ROOM),
        ] {
            // In steps of one byte the whole takes long; a head is enough to show that it makes no difference.
            for temper in if room <= ANSWER_HEAD_BYTES_MAX { &TEMPERS[..] } else { &TEMPERS[..1] } {
                let (got, taken) = fetch(*temper, answer, endlessly);
                assert_eq!(got, Err(Refused::Ended(reason)), "{temper:?} {:?}", String::from_utf8_lossy(endlessly));
                // What a pipe holds counts as taken.
                assert!(taken <= room + (80 << 10), "{taken} bytes were taken");
            }
        }
    }
}
