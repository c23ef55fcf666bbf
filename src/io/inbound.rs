//! One connection that came in, from its first byte to its answer, or until it is a client link.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown};

use crate::io::http::{Door, HttpError, Parsed, Request, Response, parse_head, upgrade_bytes};
use crate::io::proxy_header::{self, Preface};
use crate::limits::{HTTP_HEAD_BYTES_MAX, PROXY_HEADER_BYTES_MAX};

/// Bytes that may still come in after an answer before the connection is dropped: a request body nobody asked for.
pub(crate) const LINGER_BYTES_MAX: usize = 64 << 10;

/// A socket whose sending half can be ended, so that the peer sees the end of an answer before the connection goes.
pub trait HalfClose {
    /// Ends the sending half. That the peer is gone already is not an error.
    fn end_sending(&mut self);
}

impl HalfClose for mio::net::TcpStream {
    fn end_sending(&mut self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

/// One connection that came in.
#[derive(Debug)]
pub struct Inbound<S> {
    socket: S,
    door: Door,
    peer: IpAddr,
    /// What was read too far.
    early: Vec<u8>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// A proxy may say for whom it speaks.
    Preface(Vec<u8>),
    Head(Vec<u8>),
    /// A request was handed out; its answer is awaited. Holds what came after the head.
    Asked(Vec<u8>),
    /// `upgrade`: what came after the head, if a WebSocket is to follow the answer.
    Answering {
        bytes: Vec<u8>,
        written: usize,
        upgrade: Option<Vec<u8>>,
    },
    /// The peer has its answer and is to hang up.
    Lingering {
        discarded: usize,
    },
}

/// What a connection needs next.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// The peer.
    Pending,
    /// A trusted proxy has said for whom it speaks: [`Inbound::peer`] is another now.
    Introduced,
    /// [`Inbound::answer`] or [`Inbound::upgrade`].
    Asked(Request),
    /// What came is no request, and is answered with why.
    Refused(HttpError),
    /// To become a link: the answer is written. With the bytes that came after the head.
    Upgraded(Vec<u8>),
    /// To be dropped.
    Done,
}

impl<S: Read + Write + HalfClose> Inbound<S> {
    /// A connection of which nothing is read yet.
    pub fn new(socket: S, door: Door, peer: IpAddr) -> Self {
        Inbound { socket, door, peer, early: Vec::new(), stage: Stage::Head(Vec::new()) }
    }

    /// One of a trusted proxy, which may begin with a header of the PROXY protocol.
    pub fn of_proxy(socket: S, door: Door, peer: IpAddr) -> Self {
        Inbound { stage: Stage::Preface(Vec::new()), ..Inbound::new(socket, door, peer) }
    }

    /// Whose it is: the address at the other end of the socket, or the one for which a trusted proxy says that it speaks.
    pub fn peer(&self) -> IpAddr {
        self.peer
    }

    /// The listener it came in on.
    pub fn door(&self) -> Door {
        self.door
    }

    /// Whether the head is still to come.
    pub fn awaits_head(&self) -> bool {
        matches!(self.stage, Stage::Preface(_) | Stage::Head(_))
    }

    /// The socket itself.
    pub fn socket_mut(&mut self) -> &mut S {
        &mut self.socket
    }

    /// The socket, to be used for something else.
    pub fn into_socket(self) -> S {
        self.socket
    }

    /// Answers the request that was handed out, and ends the connection afterwards.
    pub fn answer(&mut self, response: Response, head_only: bool) {
        self.stage = Stage::Answering { bytes: response.into_bytes(self.door, head_only), written: 0, upgrade: None };
    }

    /// Answers the request that was handed out with an upgrade.
    pub fn upgrade(&mut self, accept: &str) {
        let Stage::Asked(tail) = &mut self.stage else { panic!("an upgrade answers a request") };
        let upgrade = Some(std::mem::take(tail));
        self.stage = Stage::Answering { bytes: upgrade_bytes(accept), written: 0, upgrade };
    }

    /// Goes on as far as the socket and the caller allow.
    pub fn advance(&mut self) -> Progress {
        loop {
            match self.step() {
                Ok(None) => {}
                Ok(Some(progress)) => return progress,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Progress::Pending,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Progress::Done,
            }
        }
    }

    fn step(&mut self) -> io::Result<Option<Progress>> {
        match &mut self.stage {
            Stage::Preface(_) => self.read_preface(),
            Stage::Head(_) => self.read_head(),
            Stage::Asked(_) => Ok(Some(Progress::Pending)),
            Stage::Answering { bytes, written, .. } if *written < bytes.len() => {
                match self.socket.write(&bytes[*written..])? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    n => *written += n,
                }
                Ok(None)
            }
            Stage::Answering { upgrade: Some(tail), .. } => Ok(Some(Progress::Upgraded(std::mem::take(tail)))),
            Stage::Answering { .. } => {
                self.socket.end_sending();
                self.stage = Stage::Lingering { discarded: 0 };
                Ok(None)
            }
            Stage::Lingering { discarded } => {
                let n = self.socket.read(&mut [0; 1024])?;
                *discarded += n;
                Ok((n == 0 || *discarded > LINGER_BYTES_MAX).then_some(Progress::Done))
            }
        }
    }

    fn read_preface(&mut self) -> io::Result<Option<Progress>> {
        let Stage::Preface(bytes) = &mut self.stage else { panic!("a preface is read once") };
        let mut chunk = [0; 1024];
        let n = self.socket.read(&mut chunk)?;
        if n == 0 {
            return Ok(Some(Progress::Done));
        }
        bytes.extend_from_slice(&chunk[..n]);
        match proxy_header::parse(bytes) {
            Ok(Preface::Partial) if bytes.len() <= PROXY_HEADER_BYTES_MAX => Ok(None),
            Ok(Preface::Absent) => {
                self.early = std::mem::take(bytes);
                self.stage = Stage::Head(Vec::new());
                Ok(None)
            }
            Ok(Preface::Complete { len, source }) => {
                self.early = bytes.split_off(len);
                self.stage = Stage::Head(Vec::new());
                self.peer = source.unwrap_or(self.peer);
                Ok(Some(Progress::Introduced))
            }
            Ok(Preface::Partial) | Err(_) => Ok(Some(self.refuse(HttpError::Proxy))),
        }
    }

    fn refuse(&mut self, error: HttpError) -> Progress {
        self.answer(error.response(), false);
        Progress::Refused(error)
    }

    fn read_head(&mut self) -> io::Result<Option<Progress>> {
        let Stage::Head(head) = &mut self.stage else { panic!("the head is read once") };
        let mut chunk = [0; 1024];
        let room = (HTTP_HEAD_BYTES_MAX - head.len()).min(chunk.len());
        let n = match self.early.len().min(room) {
            0 => self.socket.read(&mut chunk[..room])?,
            early => {
                chunk[..early].copy_from_slice(&self.early[..early]);
                self.early.drain(..early);
                early
            }
        };
        if n == 0 {
            return Ok(Some(Progress::Done));
        }
        head.extend_from_slice(&chunk[..n]);
        // Only a line's end can make the head whole: a peer that trickles does not have it parsed with every byte.
        let parsed = if chunk[..n].contains(&b'\n') { parse_head(head) } else { Ok(Parsed::Partial) };
        match parsed {
            Ok(Parsed::Complete(request)) => {
                let tail = [head.split_off(request.head_len), std::mem::take(&mut self.early)].concat();
                self.stage = Stage::Asked(tail);
                Ok(Some(Progress::Asked(request)))
            }
            Ok(Parsed::Partial) if head.len() < HTTP_HEAD_BYTES_MAX => Ok(None),
            Ok(Parsed::Partial) => Ok(Some(self.refuse(HttpError::TooLarge))),
            Err(error) => Ok(Some(self.refuse(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::http::{Route, route};
    use crate::io::pipe::{Pipe, Temper, pipe};

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    const TEMPERS: [Temper; 4] = [Temper::Smooth, Temper::Trickle, Temper::Random(1), Temper::Random(2)];

    /// Writes `request`, answers it by the book, and collects what comes back until the connection wants to be dropped
    /// or upgraded. The tail in the latter case.
    fn serve(temper: Temper, request: &str) -> (String, Option<Vec<u8>>) {
        let (mut peer, socket) = pipe(temper);
        let inbound = Inbound::new(socket, Door::Public, PEER);
        let (answer, tail, _) = serve_as(inbound, &mut peer, request.as_bytes());
        (answer, tail)
    }

    /// The same; and as whom.
    fn serve_as(mut inbound: Inbound<Pipe>, peer: &mut Pipe, request: &[u8]) -> (String, Option<Vec<u8>>, IpAddr) {
        let (mut written, mut answer) = (0, Vec::new());
        for _ in 0..1_000_000 {
            if written < request.len() {
                written += peer.write(&request[written..]).unwrap_or(0);
            }
            match inbound.advance() {
                Progress::Pending | Progress::Introduced | Progress::Refused(_) => {}
                Progress::Asked(request) => match route(Door::Public, &request) {
                    Route::Upgrade(accept) => inbound.upgrade(&accept),
                    Route::Answer(response) => inbound.answer(response, false),
                    Route::Page => inbound.answer(Response::page("<!doctype html>".to_owned()), false),
                    other => panic!("{other:?}"),
                },
                Progress::Upgraded(tail) => {
                    read_all(peer, &mut answer);
                    return (String::from_utf8(answer).unwrap(), Some(tail), inbound.peer());
                }
                Progress::Done => return (String::from_utf8(answer).unwrap(), None, inbound.peer()),
            }
            if read_all(peer, &mut answer) {
                peer.end_sending();
            }
        }
        panic!("no end; so far {:?}", String::from_utf8_lossy(&answer));
    }

    /// Reads what is there now. Whether the other end has ended.
    fn read_all(peer: &mut Pipe, into: &mut Vec<u8>) -> bool {
        let mut blocked = 0;
        while blocked < 50 {
            let mut chunk = [0; 64];
            match peer.read(&mut chunk) {
                Ok(0) => return true,
                Ok(n) => into.extend(&chunk[..n]),
                Err(_) => blocked += 1,
            }
        }
        false
    }

    #[test]
    fn a_request_is_answered_whole_however_the_socket_cuts_it() {
        for temper in TEMPERS {
            let (answer, tail) = serve(temper, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
            assert!(
                answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("<!doctype html>"),
                "{temper:?}: {answer}"
            );
            assert!(tail.is_none());
        }
    }

    #[test]
    fn an_upgrade_keeps_what_came_after_it() {
        let request = "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nearly";
        let (answer, tail) = serve(Temper::Smooth, request);
        assert!(answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("\r\n\r\n"), "{answer}");
        assert_eq!(tail.as_deref(), Some(&b"early"[..]));
    }

    #[test]
    fn a_proxy_says_first_for_whom_it_speaks_if_it_likes() {
        let request = "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nearly";
        let client = [198, 51, 100, 7].into();
        let v2 = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[198, 51, 100, 7, 0, 0, 0, 0, 0, 1, 0, 1]].concat();
        for (header, expected) in [
            (&b"PROXY TCP4 198.51.100.7 10.0.0.1 1 2\r\n"[..], client),
            (&v2, client),
            (b"PROXY UNKNOWN\r\n", PEER),
            (b"", PEER),
        ] {
            for temper in TEMPERS {
                let (mut peer, socket) = pipe(temper);
                let inbound = Inbound::of_proxy(socket, Door::Public, PEER);
                let (answer, tail, whose) = serve_as(inbound, &mut peer, &[header, request.as_bytes()].concat());
                assert!(answer.starts_with("HTTP/1.1 101 "), "{temper:?} {header:?}: {answer}");
                assert_eq!(whose, expected);
                // A socket that cuts may not have given what comes after the head.
                assert!(b"early".starts_with(&tail.unwrap()), "{temper:?}");
            }
        }
    }

    #[test]
    fn a_header_of_no_proxy_or_of_none_that_is_trusted_is_a_bad_request() {
        for temper in TEMPERS {
            for header in [&b"PROXY TCP4 nowhere\r\n"[..], b"\r\n\r\n\0\r\nQUIT\n\x99\x11\0\0"] {
                let (mut peer, socket) = pipe(temper);
                let inbound = Inbound::of_proxy(socket, Door::Public, PEER);
                let (answer, _, _) = serve_as(inbound, &mut peer, header);
                assert!(answer.starts_with("HTTP/1.1 400 "), "{temper:?}: {answer}");
            }
            for header in ["PROXY TCP4 198.51.100.7 10.0.0.1 1 2\r\n", "\r\n\r\n\0\r\nQUIT\n!\x11\0\0"] {
                let (answer, _) = serve(temper, &format!("{header}GET / HTTP/1.1\r\n\r\n"));
                assert!(answer.starts_with("HTTP/1.1 400 "), "{temper:?}: {answer}");
            }
        }
    }

    #[test]
    fn a_head_that_is_too_long_or_no_head_is_answered_with_why() {
        for temper in TEMPERS {
            let (answer, _) = serve(temper, &format!("GET /{}", "x".repeat(HTTP_HEAD_BYTES_MAX)));
            assert!(answer.starts_with("HTTP/1.1 431 "), "{temper:?}: {answer}");
            let (answer, _) = serve(temper, "EHLO relay.example\r\n\r\n");
            assert!(answer.starts_with("HTTP/1.1 400 "), "{temper:?}: {answer}");
        }
    }

    #[test]
    fn one_that_hangs_up_or_sends_without_end_is_dropped() {
        let (mut peer, socket) = pipe(Temper::Smooth);
        let mut inbound = Inbound::new(socket, Door::Public, PEER);
        peer.write_all(b"GET").unwrap();
        peer.end_sending();
        assert_eq!(inbound.advance(), Progress::Done);

        let (mut peer, socket) = pipe(Temper::Smooth);
        let mut inbound = Inbound::new(socket, Door::Public, PEER);
        inbound.answer(Response::text(404, ""), false);
        let dropped = (0..LINGER_BYTES_MAX).any(|_| {
            peer.write_all(&[0; 1000]).unwrap();
            inbound.advance() == Progress::Done
        });
        assert!(dropped);
    }
}
