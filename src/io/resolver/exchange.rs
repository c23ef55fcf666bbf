//! One question to one server over one socket: a datagram and its answer, or a TCP stream for an answer too long for that.
//!
//! Each question has a socket of its own, on a port that the kernel picks, connected to the server: packets from elsewhere
//! never reach us, and who wants to forge an answer has to guess the port as well as the id (RFC 5452).

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use mio::net::{TcpStream, UdpSocket};
use mio::{Interest, Registry, Token};

use super::packet::{self, Family, Reply, Stray};
use crate::limits::{DNS_MESSAGE_BYTES_MAX, DNS_STRAYS_MAX};
use crate::time::Instant;

/// Bytes read of one datagram: above the 512 that a server may send without EDNS, so that a longer one is seen as wrong.
const DATAGRAM_BYTES: usize = 2 << 10;
/// Bytes of the length before each message on a stream (RFC 1035 section 4.2.2).
const LENGTH_BYTES: usize = 2;

/// What is to be found out, from try to try.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub(super) name: String,
    pub(super) family: Family,
    /// Tries before this one; they choose the server.
    pub(super) tries: usize,
    /// Some server has answered, if only that it cannot say.
    pub(super) answered: bool,
    /// When to stop trying, because the other family has brought addresses.
    pub(super) give_up: Option<Instant>,
}

/// What a ready socket has brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing yet.
    Wait,
    /// The server's answer.
    Done(Reply),
    /// Nothing will come of this try.
    Failed,
}

/// A question under way.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) task: Task,
    pub(super) server: SocketAddr,
    deadline: Instant,
    id: u16,
    /// Datagrams that were not the answer.
    strays: usize,
    transport: Transport,
}

#[derive(Debug)]
enum Transport {
    Udp(UdpSocket),
    Tcp { stream: TcpStream, out: Vec<u8>, written: usize, input: Vec<u8> },
}

impl Exchange {
    /// Sends the question of `task` to `server` as a datagram.
    pub(super) fn udp(
        registry: &Registry,
        token: Token,
        task: Task,
        server: SocketAddr,
        deadline: Instant,
    ) -> io::Result<Exchange> {
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let mut socket = UdpSocket::bind(any)?;
        socket.connect(server)?;
        registry.register(&mut socket, token, Interest::READABLE)?;
        let id = random_id()?;
        match socket.send(&packet::question(id, &task.name, task.family)) {
            // A full send buffer loses the datagram as the network may; the deadline covers both.
            Err(e) if e.kind() != ErrorKind::WouldBlock => return Err(e),
            _ => {}
        }
        Ok(Exchange { task, server, deadline, id, strays: 0, transport: Transport::Udp(socket) })
    }

    /// Begins to ask the question of `task` over TCP.
    pub(super) fn tcp(
        registry: &Registry,
        token: Token,
        task: Task,
        server: SocketAddr,
        deadline: Instant,
    ) -> io::Result<Exchange> {
        let mut stream = TcpStream::connect(server)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let id = random_id()?;
        let message = packet::question(id, &task.name, task.family);
        let length = u16::try_from(message.len()).expect("one question is far below 64 KiB");
        let out = [&length.to_be_bytes()[..], &message].concat();
        let transport = Transport::Tcp { stream, out, written: 0, input: Vec::new() };
        Ok(Exchange { task, server, deadline, id, strays: 0, transport })
    }

    /// When this try is over.
    pub(super) fn deadline(&self) -> Instant {
        self.task.give_up.map_or(self.deadline, |give_up| give_up.min(self.deadline))
    }

    /// Goes on as far as the socket lets it: until it would block, as edge-triggered readiness demands.
    pub(super) fn on_ready(&mut self) -> Step {
        match &mut self.transport {
            Transport::Udp(_) => self.on_datagrams(),
            Transport::Tcp { .. } => self.on_stream().unwrap_or(Step::Failed),
        }
    }

    /// Frees the socket; what it was to find out remains.
    pub(super) fn close(mut self, registry: &Registry) -> (Task, SocketAddr) {
        let deregistered = match &mut self.transport {
            Transport::Udp(socket) => registry.deregister(socket),
            Transport::Tcp { stream, .. } => registry.deregister(stream),
        };
        if let Err(e) = deregistered {
            // Closing the descriptor takes it off the poll as well.
            log::debug!("resolver: deregister: {e}");
        }
        (self.task, self.server)
    }

    fn on_datagrams(&mut self) -> Step {
        let Transport::Udp(socket) = &self.transport else { return Step::Failed };
        let mut datagram = [0; DATAGRAM_BYTES];
        while self.strays < DNS_STRAYS_MAX {
            match socket.recv(&mut datagram) {
                Ok(n) => match packet::check(&datagram[..n], self.id, &self.task.name, self.task.family) {
                    Ok(reply) => return Step::Done(reply),
                    Err(Stray::Malformed | Stray::NotOurs) => self.strays += 1,
                },
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Step::Wait,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Step::Failed,
            }
        }
        // Somebody guesses; a new port and a new id make the guesses so far worthless.
        Step::Failed
    }

    fn on_stream(&mut self) -> io::Result<Step> {
        let Transport::Tcp { stream, out, written, input } = &mut self.transport else { return Ok(Step::Failed) };
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        while *written < out.len() {
            match stream.write(&out[*written..]) {
                Ok(0) => return Ok(Step::Failed),
                Ok(n) => *written += n,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return Ok(Step::Wait),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        loop {
            let wanted = match input[..] {
                [high, low, ..] => LENGTH_BYTES + usize::from(u16::from_be_bytes([high, low])),
                _ => LENGTH_BYTES,
            };
            if wanted > LENGTH_BYTES + DNS_MESSAGE_BYTES_MAX {
                return Ok(Step::Failed);
            }
            if input.len() >= LENGTH_BYTES && input.len() == wanted {
                let reply = packet::check(&input[LENGTH_BYTES..], self.id, &self.task.name, self.task.family);
                // A stream comes from the server alone: what does not answer the question here never will.
                return Ok(reply.map_or(Step::Failed, Step::Done));
            }
            let before = input.len();
            match (&*stream).take((wanted - before) as u64).read_to_end(input) {
                Ok(_) if input.len() < wanted => return Ok(Step::Failed),
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(Step::Wait),
                Err(e) => return Err(e),
            }
        }
    }
}

/// An id that cannot be predicted (RFC 5452 section 4.3).
fn random_id() -> io::Result<u16> {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).map_err(|_| io::Error::from(ErrorKind::Other))?;
    Ok(u16::from_be_bytes(bytes))
}
