//! Sockets that others connect to.

use std::io;
use std::net::SocketAddr;

use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};

use crate::io::http::Door;
use crate::limits::ACCEPT_PAUSE;
use crate::time::Instant;

/// One listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    door: Door,
    /// Somebody may be waiting: the last answer was not yet "nobody".
    is_ready: bool,
    /// The system had no socket to give; until then it is not asked again.
    rests_until: Option<Instant>,
}

impl Listener {
    /// Listens on an address.
    ///
    /// # Errors
    ///
    /// As the system says.
    pub fn bind(registry: &Registry, token: Token, door: Door, address: SocketAddr) -> io::Result<Self> {
        let mut socket = TcpListener::bind(address)?;
        registry.register(&mut socket, token, Interest::READABLE)?;
        Ok(Listener { socket, door, is_ready: false, rests_until: None })
    }

    /// What it serves.
    pub fn door(&self) -> Door {
        self.door
    }

    /// The address, with the port that the system chose if it was asked to.
    ///
    /// # Errors
    ///
    /// As the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The poll says that somebody waits.
    pub fn on_ready(&mut self) {
        self.is_ready = true;
    }

    /// Whether [`Listener::accept`] is worth a call now.
    pub fn may_accept(&self, now: Instant) -> bool {
        self.is_ready && self.rests_until.is_none_or(|until| until <= now)
    }

    /// When it has rested, if somebody waits for that.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.is_ready { self.rests_until } else { None }
    }

    /// The next who waits; `None` if nobody does or the listener has to rest.
    pub fn accept(&mut self, now: Instant) -> Option<(TcpStream, SocketAddr)> {
        self.rests_until = None;
        loop {
            match self.socket.accept() {
                Ok(accepted) => return Some(accepted),
                Err(e) => match e.kind() {
                    io::ErrorKind::WouldBlock => {
                        self.is_ready = false;
                        return None;
                    }
                    // The caller hung up while waiting; that is no word about the next one.
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset => {}
                    _ => {
                        // Out of file descriptors, most likely. Asking again at once would spin: whoever waits keeps
                        // waiting.
                        log::warn!("cannot accept connections for a moment: {e}");
                        self.rests_until = Some(now + ACCEPT_PAUSE);
                        return None;
                    }
                },
            }
        }
    }
}
