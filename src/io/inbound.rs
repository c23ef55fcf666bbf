//! One connection that came in, from its first byte to its answer, or until it is a client link.

use std::io::{self, Read, Write};
use std::net::Shutdown;

use crate::io::http::{Door, HttpError, Parsed, Request, Response, parse_head, upgrade_bytes};
use crate::limits::HTTP_HEAD_BYTES_MAX;

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
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
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
    /// [`Inbound::answer`] or [`Inbound::upgrade`].
    Asked(Request),
    /// To become a link: the answer is written. With the bytes that came after the head.
    Upgraded(Vec<u8>),
    /// To be dropped.
    Done,
}

impl<S: Read + Write + HalfClose> Inbound<S> {
    /// A connection of which nothing is read yet.
    pub fn new(socket: S, door: Door) -> Self {
        Inbound { socket, door, stage: Stage::Head(Vec::new()) }
    }

    /// The listener it came in on.
    pub fn door(&self) -> Door {
        self.door
    }

    /// Whether the head is still to come.
    pub fn awaits_head(&self) -> bool {
        matches!(self.stage, Stage::Head(_))
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
        self.stage = Stage::Answering { bytes: response.into_bytes(head_only), written: 0, upgrade: None };
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

    fn read_head(&mut self) -> io::Result<Option<Progress>> {
        let Stage::Head(head) = &mut self.stage else { panic!("the head is read once") };
        let mut chunk = [0; 1024];
        let room = (HTTP_HEAD_BYTES_MAX - head.len()).min(chunk.len());
        let n = self.socket.read(&mut chunk[..room])?;
        if n == 0 {
            return Ok(Some(Progress::Done));
        }
        head.extend_from_slice(&chunk[..n]);
        // Only a line's end can make the head whole: a peer that trickles does not have it parsed with every byte.
        let parsed = if chunk[..n].contains(&b'\n') { parse_head(head) } else { Ok(Parsed::Partial) };
        match parsed {
            Ok(Parsed::Complete(request)) => {
                self.stage = Stage::Asked(head.split_off(request.head_len));
                Ok(Some(Progress::Asked(request)))
            }
            Ok(Parsed::Partial) if head.len() < HTTP_HEAD_BYTES_MAX => Ok(None),
            Ok(Parsed::Partial) => {
                self.answer(HttpError::TooLarge.response(), false);
                Ok(None)
            }
            Err(error) => {
                self.answer(error.response(), false);
                Ok(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::http::{Route, route};
    use crate::io::pipe::{Pipe, Temper, pipe};

    const TEMPERS: [Temper; 4] = [Temper::Smooth, Temper::Trickle, Temper::Random(1), Temper::Random(2)];

    /// Writes `request`, answers it by the book, and collects what comes back until the connection wants to be dropped
    /// or upgraded. The tail in the latter case.
    fn serve(temper: Temper, request: &str) -> (String, Option<Vec<u8>>) {
        let (mut peer, socket) = pipe(temper);
        let mut inbound = Inbound::new(socket, Door::Public);
        let (mut written, mut answer) = (0, Vec::new());
        for _ in 0..1_000_000 {
            if written < request.len() {
                written += peer.write(&request.as_bytes()[written..]).unwrap_or(0);
            }
            match inbound.advance() {
                Progress::Pending => {}
                Progress::Asked(request) => match route(Door::Public, &request) {
                    Route::Upgrade(accept) => inbound.upgrade(&accept),
                    Route::Answer(response) => inbound.answer(response, false),
                    other => panic!("{other:?}"),
                },
                Progress::Upgraded(tail) => {
                    read_all(&mut peer, &mut answer);
                    return (String::from_utf8(answer).unwrap(), Some(tail));
                }
                Progress::Done => return (String::from_utf8(answer).unwrap(), None),
            }
            if read_all(&mut peer, &mut answer) {
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
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with(".\n"), "{temper:?}: {answer}");
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
        let mut inbound = Inbound::new(socket, Door::Public);
        peer.write_all(b"GET").unwrap();
        peer.end_sending();
        assert_eq!(inbound.advance(), Progress::Done);

        let (mut peer, socket) = pipe(Temper::Smooth);
        let mut inbound = Inbound::new(socket, Door::Public);
        inbound.answer(Response::text(404, ""), false);
        let dropped = (0..LINGER_BYTES_MAX).any(|_| {
            peer.write_all(&[0; 1000]).unwrap();
            inbound.advance() == Progress::Done
        });
        assert!(dropped);
    }
}
