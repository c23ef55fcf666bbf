//! What is to be sent, between a WebSocket and its transport: whole frames, in order, in memory that is given back when
//! they have gone out. tungstenite keeps as much as its largest message ever took, which a hundred links with REQs of
//! tens of kilobytes feel; so only its control frames pass through its own buffer, and messages are framed here. What comes
//! in passes a [`FrameMeter`] for the same reason.

use std::io::{self, Read, Write};

use crate::io::frame_meter::FrameMeter;
use crate::io::transport::Transport;
use crate::limits::{LINK_OUT_BYTES_KEPT, LINK_WRITE_BUFFER_BYTES};

/// First byte of a frame that is a whole text message (RFC 6455, section 5.2).
const WHOLE_TEXT: u8 = 0x81;
/// In the second byte: the payload is masked, as a client's always is.
const MASKED: u8 = 0x80;
/// Lengths from here on take two bytes more.
const LENGTH_IN_2: usize = 126;
/// And from here on eight.
const LENGTH_IN_8: usize = 1 << 16;

/// A transport, and the frames that wait for it.
#[derive(Debug)]
pub struct Outlet<S: Read + Write> {
    transport: Transport<S>,
    out: Vec<u8>,
    /// Of `out`, what has been written.
    written: usize,
    meter: FrameMeter,
}

impl<S: Read + Write> Outlet<S> {
    /// Nothing waits yet. `tail`: what was read before.
    pub fn new(transport: Transport<S>, tail: &[u8]) -> Self {
        Outlet { transport, out: Vec::new(), written: 0, meter: FrameMeter::new(tail) }
    }

    /// Adds a text message as one frame. `mask`: what a client masks it with.
    pub fn add_text(&mut self, text: &str, mask: Option<[u8; 4]>) {
        let masked = if mask.is_some() { MASKED } else { 0 };
        self.out.reserve(text.len() + 14);
        self.out.push(WHOLE_TEXT);
        match text.len() {
            len if len < LENGTH_IN_2 => self.out.push(masked | len as u8),
            len if len < LENGTH_IN_8 => {
                self.out.push(masked | 126);
                self.out.extend((len as u16).to_be_bytes());
            }
            len => {
                self.out.push(masked | 127);
                self.out.extend((len as u64).to_be_bytes());
            }
        }
        self.out.extend(mask.into_iter().flatten());
        let begin = self.out.len();
        self.out.extend(text.as_bytes());
        if let Some(mask) = mask {
            apply(mask, &mut self.out[begin..]);
        }
    }

    /// Whether so much waits that it should be written before there is more.
    pub fn is_full(&self) -> bool {
        self.waiting() >= LINK_WRITE_BUFFER_BYTES
    }

    /// Bytes that wait to be written.
    pub fn waiting(&self) -> usize {
        self.out.len() - self.written
    }

    /// What is read, by its frames.
    pub fn meter(&self) -> &FrameMeter {
        &self.meter
    }

    /// The same, to change it.
    pub fn meter_mut(&mut self) -> &mut FrameMeter {
        &mut self.meter
    }

    /// Writes what waits. True when nothing is left, false when the transport takes no more for now.
    ///
    /// # Errors
    ///
    /// The transport's own.
    pub fn drain(&mut self) -> io::Result<bool> {
        while self.written < self.out.len() {
            match self.transport.write(&self.out[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::ConnectionReset.into()),
                Ok(n) => self.written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.out.drain(..self.written);
                    self.written = 0;
                    return Ok(false);
                }
                Err(e) => return Err(e),
            }
        }
        self.out.clear();
        self.out.shrink_to(LINK_OUT_BYTES_KEPT);
        self.written = 0;
        match self.transport.flush() {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(false),
            flushed => flushed.map(|()| true),
        }
    }

    /// The transport.
    pub fn transport(&self) -> &Transport<S> {
        &self.transport
    }

    /// The same, to change it.
    pub fn transport_mut(&mut self) -> &mut Transport<S> {
        &mut self.transport
    }
}

/// Masks a payload (RFC 6455, 5.3).
fn apply(mask: [u8; 4], payload: &mut [u8]) {
    /// So many at once that the compiler does them together.
    const AT_ONCE: usize = 32;
    let mask: [u8; AT_ONCE] = std::array::from_fn(|n| mask[n % mask.len()]);
    let mut parts = payload.chunks_exact_mut(AT_ONCE);
    for part in &mut parts {
        part.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    }
    parts.into_remainder().iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
}

impl<S: Read + Write> Read for Outlet<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = buf.len().min(self.meter.allowed());
        let n = self.transport.read(&mut buf[..len])?;
        self.meter.on_read(&buf[..n]);
        Ok(n)
    }
}

impl<S: Read + Write> Write for Outlet<S> {
    /// Takes all of it or nothing, so that frames never mix.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.is_full() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.out.extend(buf);
        Ok(buf.len())
    }

    /// There is nothing to do: [`Outlet::drain`] says when all has gone out.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::pipe::{Temper, pipe};

    #[test]
    fn each_byte_is_masked_by_the_one_of_its_place() {
        let mask = [0x17, 0x2a, 0x3c, 0xf1];
        for len in (0..130).chain([1_000]) {
            let plain: Vec<u8> = (0..len).map(|n| n as u8).collect();
            let mut masked = plain.clone();
            apply(mask, &mut masked);
            assert!(masked.iter().enumerate().all(|(n, byte)| *byte == plain[n] ^ mask[n % 4]), "{len}");
        }
    }

    #[test]
    fn what_has_gone_out_leaves_no_memory_behind() {
        let (near, mut far) = pipe(Temper::Smooth);
        let mut outlet = Outlet::new(Transport::plain(near), &[]);
        let text = "x".repeat(20 * LINK_WRITE_BUFFER_BYTES);
        outlet.add_text(&text, Some([1, 2, 3, 4]));
        assert!(outlet.is_full() && outlet.write(b"more").is_err());
        let mut received: Vec<u8> = Vec::new();
        let mut buffer = [0; 4096];
        while !outlet.drain().expect("the pipe works") {
            while let Ok(n) = far.read(&mut buffer) {
                received.extend(&buffer[..n]);
            }
        }
        while let Ok(n @ 1..) = far.read(&mut buffer) {
            received.extend(&buffer[..n]);
        }
        assert_eq!(received.len(), text.len() + 14);
        assert_eq!(received[..16], [0x81, 0xff, 0, 0, 0, 0, 0, 5, 0, 0, 1, 2, 3, 4, b'x' ^ 1, b'x' ^ 2]);
        assert!(outlet.out.capacity() <= LINK_OUT_BYTES_KEPT);
    }
}
