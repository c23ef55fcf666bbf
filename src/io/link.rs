//! One open WebSocket, client or server, over any transport.
//!
//! The socket is watched edge-triggered for both directions from its first moment to its last, so there is no interest
//! to compute or to keep: a link reads until there is nothing more or its grant is spent, and flushes until nothing is
//! left or the kernel takes no more. What was cut short is the event loop's to come back to.
//!
//! Permessage-deflate is neither offered nor taken: an inflated message has no bound that a peer could not choose.

use std::io::{self, Read, Write};

use tungstenite::error::{CapacityError, ProtocolError};
use tungstenite::protocol::frame::Utf8Bytes;
use tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tungstenite::{Bytes, Error, Message, WebSocket};

use crate::engine::CloseReason;
use crate::io::transport::Transport;
use crate::limits::{LINK_OUT_BYTES_MAX, LINK_READ_BUFFER_BYTES, LINK_WRITE_BUFFER_BYTES, MESSAGE_BYTES_MAX};

/// Close code for a peer that broke the protocol (RFC 6455, section 7.4.1).
const CLOSE_PROTOCOL: u16 = 1002;
/// Close code that stands for a close frame without a code; never on the wire.
const CLOSE_NO_STATUS: u16 = 1005;
/// Close code that stands for a socket that just ended; never on the wire.
const CLOSE_ABNORMAL: u16 = 1006;
/// Close code for a message over the limit.
const CLOSE_TOO_LARGE: u16 = 1009;

/// What a link brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A whole text message.
    Text(Utf8Bytes),
    /// A ping, a pong or a binary message: proof of life. Pings are answered here.
    Alive,
}

/// One open WebSocket.
#[derive(Debug)]
pub struct Link<S: Read + Write> {
    socket: WebSocket<Transport<S>>,
    phase: Phase,
    /// Something was queued since the last flush that went through.
    unflushed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// A close frame is queued or sent; the peer's is awaited.
    Closing,
    /// As `Closing`, after the peer broke the protocol: what it sends is no longer read as frames.
    Broken,
}

impl<S: Read + Write> Link<S> {
    /// A link whose handshake is done. `tail`: bytes that came after it.
    pub fn new(transport: Transport<S>, role: Role, tail: Vec<u8>) -> Self {
        let socket = WebSocket::from_partially_read(transport, tail, role, Some(web_socket_config()));
        Link { socket, phase: Phase::Open, unflushed: false }
    }

    /// The next frame; `None` when there is nothing more for now.
    ///
    /// # Errors
    ///
    /// Why the link ended. Afterwards only [`Link::close_after`] and [`Link::advance_close`] make sense.
    pub fn read(&mut self) -> Result<Option<Frame>, CloseReason> {
        assert_eq!(self.phase, Phase::Open, "a closing link is not read");
        match self.socket.read() {
            Ok(Message::Text(text)) => Ok(Some(Frame::Text(text))),
            Ok(Message::Ping(_)) => {
                self.unflushed = true;
                Ok(Some(Frame::Alive))
            }
            Ok(Message::Close(frame)) => {
                self.unflushed = true;
                self.phase = Phase::Closing;
                Err(CloseReason::Peer(frame.map_or(CLOSE_NO_STATUS, |f| f.code.into())))
            }
            Ok(Message::Pong(_) | Message::Binary(_) | Message::Frame(_)) => Ok(Some(Frame::Alive)),
            Err(e) if would_block(&e) => Ok(None),
            Err(e) => Err(reason_of(&e)),
        }
    }

    /// Queues a text message.
    ///
    /// # Errors
    ///
    /// [`CloseReason::OutBufferFull`] if more than [`LINK_OUT_BYTES_MAX`] would wait; otherwise what writing ran into.
    pub fn send(&mut self, text: String) -> Result<(), CloseReason> {
        self.write(Message::Text(text.into()))
    }

    /// Queues a ping.
    ///
    /// # Errors
    ///
    /// As [`Link::send`].
    pub fn ping(&mut self) -> Result<(), CloseReason> {
        self.write(Message::Ping(Bytes::new()))
    }

    fn write(&mut self, message: Message) -> Result<(), CloseReason> {
        assert_eq!(self.phase, Phase::Open, "nothing is sent on a closing link");
        self.unflushed = true;
        match self.socket.write(message) {
            Ok(()) => Ok(()),
            Err(e) if would_block(&e) => Ok(()),
            Err(e) => Err(reason_of(&e)),
        }
    }

    /// Hands what is queued to the kernel. True when nothing is left, false when the kernel takes no more for now.
    ///
    /// # Errors
    ///
    /// Why the link ended.
    pub fn flush(&mut self) -> Result<bool, CloseReason> {
        if !self.unflushed {
            return Ok(true);
        }
        match self.socket.flush() {
            Ok(()) => {
                self.unflushed = false;
                Ok(true)
            }
            Err(e) if would_block(&e) => Ok(false),
            Err(e) => Err(reason_of(&e)),
        }
    }

    /// Begins to close with a code of RFC 6455, section 7.4. To be followed by [`Link::advance_close`].
    pub fn close(&mut self, code: u16) {
        if self.phase == Phase::Open {
            self.phase = Phase::Closing;
        }
        self.unflushed = true;
        // An error here, a full buffer say, only means that the peer will not learn the code; it comes back from
        // `advance_close` if it is one that ends the link.
        let _ = self.socket.close(Some(CloseFrame { code: code.into(), reason: Utf8Bytes::default() }));
    }

    /// After [`Link::read`] or a write failed: whether the peer should still be told, in which case the link is closing.
    pub fn close_after(&mut self, reason: CloseReason) -> bool {
        match reason {
            CloseReason::Protocol => self.break_off(CLOSE_PROTOCOL),
            CloseReason::TooLarge => self.break_off(CLOSE_TOO_LARGE),
            CloseReason::Peer(_) => self.phase == Phase::Closing,
            _ => false,
        }
    }

    fn break_off(&mut self, code: u16) -> bool {
        self.close(code);
        self.phase = Phase::Broken;
        true
    }

    /// Goes on closing: flushes, drops what still comes in. True when both sides are done and the socket may be dropped.
    pub fn advance_close(&mut self) -> bool {
        assert_ne!(self.phase, Phase::Open, "the link is closing");
        if self.flush().is_err() {
            return true;
        }
        let mut scratch = [0; 1024];
        loop {
            let ended = match self.phase {
                Phase::Broken => match self.socket.get_mut().read(&mut scratch) {
                    Ok(0) => true,
                    Ok(_) => continue,
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(e) => e.kind() != io::ErrorKind::WouldBlock,
                },
                _ => match self.socket.read() {
                    Ok(_) => continue,
                    Err(e) => !would_block(&e),
                },
            };
            return ended;
        }
    }

    /// The transport under the WebSocket, for its grant and its counts.
    pub fn transport_mut(&mut self) -> &mut Transport<S> {
        self.socket.get_mut()
    }
}

/// The limits of every WebSocket, each of them set.
fn web_socket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(LINK_READ_BUFFER_BYTES)
        .write_buffer_size(LINK_WRITE_BUFFER_BYTES)
        .max_write_buffer_size(LINK_OUT_BYTES_MAX)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
        .accept_unmasked_frames(false)
}

fn would_block(error: &Error) -> bool {
    matches!(error, Error::Io(e) if e.kind() == io::ErrorKind::WouldBlock)
}

fn reason_of(error: &Error) -> CloseReason {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => CloseReason::Peer(CLOSE_ABNORMAL),
        Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => CloseReason::Peer(CLOSE_ABNORMAL),
        Error::Capacity(CapacityError::MessageTooLong { .. }) => CloseReason::TooLarge,
        Error::WriteBufferFull(_) => CloseReason::OutBufferFull,
        Error::Io(e) => reason_of_io(e),
        _ => CloseReason::Protocol,
    }
}

/// What an error of the socket, or of TLS over it, means for the link.
pub fn reason_of_io(error: &io::Error) -> CloseReason {
    if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
        return CloseReason::Tls;
    }
    match error.kind() {
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe => CloseReason::Peer(CLOSE_ABNORMAL),
        _ => CloseReason::Io,
    }
}
