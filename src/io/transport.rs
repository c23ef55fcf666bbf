//! What carries a WebSocket: a socket, metered, with TLS over it or without.
//!
//! The meter sits under TLS, so that nothing a peer can send (empty records, key updates, zero-length fragments) keeps
//! one link busy for longer than its grant: when the grant is spent, reading answers `WouldBlock` and the link says that
//! it was [cut short](Transport::cut_short). Everything above then ends its turn in the way it ends any other.

use std::io::{self, Read, Write};

use rustls::{ClientConnection, StreamOwned};

/// A socket that reads at most what it was granted.
#[derive(Debug)]
pub struct Metered<S> {
    socket: S,
    grant: usize,
    cut_short: bool,
    bytes_in: u64,
    bytes_out: u64,
    /// As `bytes_in`, never taken.
    total_in: u64,
}

impl<S> Metered<S> {
    /// Wraps a socket; nothing is granted yet.
    pub fn new(socket: S) -> Self {
        Metered { socket, grant: 0, cut_short: false, bytes_in: 0, bytes_out: 0, total_in: 0 }
    }
}

impl<S: Read> Read for Metered<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.grant == 0 {
            self.cut_short = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let len = buf.len().min(self.grant);
        let n = self.socket.read(&mut buf[..len])?;
        self.grant -= n;
        self.bytes_in += n as u64;
        self.total_in += n as u64;
        Ok(n)
    }
}

impl<S: Write> Write for Metered<S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.socket.write(buf)?;
        self.bytes_out += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// A metered socket, plain or under TLS.
#[derive(Debug)]
pub enum Transport<S: Read + Write> {
    /// TCP as it is.
    Plain(Metered<S>),
    /// TLS as a client. Boxed: a connection's state is many times the size of a socket.
    Tls(Box<StreamOwned<ClientConnection, Metered<S>>>),
}

impl<S: Read + Write> Transport<S> {
    /// A plain transport.
    pub fn plain(socket: S) -> Self {
        Transport::Plain(Metered::new(socket))
    }

    /// A transport whose TLS handshake is still to be done; see [`Transport::advance_tls`].
    pub fn tls(socket: S, connection: ClientConnection) -> Self {
        Transport::Tls(Box::new(StreamOwned::new(connection, Metered::new(socket))))
    }

    /// Goes on with the TLS handshake. True when it is done; always so for a plain transport.
    ///
    /// # Errors
    ///
    /// What rustls found (as an inner error of kind `InvalidData`), or the socket's own error.
    pub fn advance_tls(&mut self) -> io::Result<bool> {
        let Transport::Tls(stream) = self else { return Ok(true) };
        while stream.conn.is_handshaking() {
            match stream.conn.complete_io(&mut stream.sock) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// Allows this many more bytes to be read from the socket, instead of what was left of the last grant.
    pub fn grant(&mut self, bytes: usize) {
        let metered = self.metered_mut();
        metered.grant = bytes;
        metered.cut_short = false;
    }

    /// Whether reading stopped for want of a grant rather than of bytes: nobody will say when there is more to read.
    pub fn cut_short(&self) -> bool {
        self.metered().cut_short
    }

    /// Bytes read from and written to the socket since the last call, TLS included.
    pub fn take_bytes(&mut self) -> (u64, u64) {
        let metered = self.metered_mut();
        (std::mem::take(&mut metered.bytes_in), std::mem::take(&mut metered.bytes_out))
    }

    /// Bytes read from the socket since the beginning.
    pub fn total_in(&self) -> u64 {
        self.metered().total_in
    }

    /// The socket itself.
    pub fn socket_mut(&mut self) -> &mut S {
        &mut self.metered_mut().socket
    }

    fn metered(&self) -> &Metered<S> {
        match self {
            Transport::Plain(metered) => metered,
            Transport::Tls(stream) => &stream.sock,
        }
    }

    fn metered_mut(&mut self) -> &mut Metered<S> {
        match self {
            Transport::Plain(metered) => metered,
            Transport::Tls(stream) => &mut stream.sock,
        }
    }
}

impl<S: Read + Write> Read for Transport<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(metered) => metered.read(buf),
            Transport::Tls(stream) => stream.read(buf),
        }
    }
}

impl<S: Read + Write> Write for Transport<S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Transport::Plain(metered) => metered.write(buf),
            Transport::Tls(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Transport::Plain(metered) => metered.flush(),
            Transport::Tls(stream) => stream.flush(),
        }
    }
}
