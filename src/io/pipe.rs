//! A socket in memory for tests and fuzz targets: cuts what goes through it into pieces and blocks at the whim of a seed.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::rc::Rc;

use crate::io::inbound::HalfClose;

/// How a pipe mistreats its bytes.
#[derive(Clone, Copy, Debug)]
pub enum Temper {
    /// One byte at a time, and every other call blocks.
    Trickle,
    /// Pieces and blocks drawn from this seed.
    Random(u64),
    /// Takes and gives everything at once.
    Smooth,
}

/// One end of a pipe.
#[derive(Debug)]
pub struct Pipe {
    incoming: Rc<RefCell<Queue>>,
    outgoing: Rc<RefCell<Queue>>,
    temper: Temper,
    /// Calls so far of reading and of writing.
    calls: [u64; 2],
}

#[derive(Debug, Default)]
struct Queue {
    bytes: VecDeque<u8>,
    has_ended: bool,
}

/// Bytes that a queue holds before writing blocks, as a kernel's would.
const CAPACITY: usize = 64 << 10;

/// Both ends.
pub fn pipe(temper: Temper) -> (Pipe, Pipe) {
    let (a, b) = (Rc::<RefCell<Queue>>::default(), Rc::<RefCell<Queue>>::default());
    let end = |incoming: &Rc<_>, outgoing: &Rc<_>, start: u64| Pipe {
        incoming: Rc::clone(incoming),
        outgoing: Rc::clone(outgoing),
        temper,
        calls: [start, start + (1 << 16)],
    };
    (end(&a, &b, 0), end(&b, &a, 1 << 32))
}

impl Pipe {
    /// Bytes written here that the other end has not read.
    pub fn unread(&self) -> usize {
        self.outgoing.borrow().bytes.len()
    }

    /// How many of `len` bytes go through now; 0 blocks.
    fn share(&mut self, len: usize, direction: usize) -> usize {
        self.calls[direction] += 1;
        let calls = self.calls[direction];
        match self.temper {
            Temper::Smooth => len,
            Temper::Trickle => (calls % 2) as usize,
            Temper::Random(seed) => {
                // splitmix64
                let mut z = seed.wrapping_add(calls.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                z ^= z >> 31;
                match z % 4 {
                    0 => 0,
                    1 => 1,
                    2 => (z >> 8) as usize % 100 + 1,
                    _ => len,
                }
            }
        }
        .min(len)
    }
}

impl Read for Pipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let share = self.share(buf.len(), 0);
        let mut queue = self.incoming.borrow_mut();
        if queue.bytes.is_empty() && queue.has_ended {
            return Ok(0);
        }
        let n = share.min(queue.bytes.len());
        if n == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        queue.bytes.read(&mut buf[..n])
    }
}

impl Write for Pipe {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let share = self.share(buf.len(), 1);
        let mut queue = self.outgoing.borrow_mut();
        let n = share.min(CAPACITY - queue.bytes.len());
        if n == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        queue.bytes.extend(&buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl HalfClose for Pipe {
    fn end_sending(&mut self) {
        self.outgoing.borrow_mut().has_ended = true;
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.end_sending();
    }
}
