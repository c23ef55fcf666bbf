//! One socket between the process and a model relay or client, seen from the middle: latency in order, sudden loss,
//! and half-open silence in which both ends believe that the other is still there.

use crate::clock::{MILLI, Micros};
use std::rc::Rc;

/// How a path behaves.
#[derive(Clone, Copy, Debug)]
pub struct Path {
    /// One way.
    pub latency: Micros,
    /// Added to the latency, drawn anew for each message, order kept.
    pub jitter: Micros,
}

impl Default for Path {
    fn default() -> Path {
        Path { latency: 20 * MILLI, jitter: 10 * MILLI }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    Connecting,
    Open,
    /// For one question: what the relay is. `beside`: there is an open link to it already.
    Inquiring {
        beside: bool,
    },
}

/// Which model is at the far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Far {
    Relay(usize),
    Client(usize),
}

#[derive(Clone, Debug)]
pub struct Link {
    pub far: Far,
    /// Of the far end, for the trace.
    pub name: Rc<str>,
    pub state: LinkState,
    /// Nothing passes any more in either direction, and nobody is told.
    pub silent: bool,
    path: Path,
    last_out: Micros,
    last_in: Micros,
    /// Until then the far end reads nothing.
    pub slow_until: Micros,
    /// Until then nothing arrives at either end; it is only late.
    pub stalled_until: Micros,
    /// Bytes that the process has sent and that have not been taken off its hands.
    pub waiting_bytes: usize,
    /// Whether the process has been promised word that its writes are done.
    pub drain_owed: bool,
}

impl Link {
    pub fn new(far: Far, name: Rc<str>, path: Path) -> Link {
        Link {
            far,
            name,
            state: LinkState::Connecting,
            silent: false,
            path,
            last_out: 0,
            last_in: 0,
            slow_until: 0,
            stalled_until: 0,
            waiting_bytes: 0,
            drain_owed: false,
        }
    }

    /// When something last passed on it, or will, in either direction.
    pub fn last(&self) -> Micros {
        self.last_out.max(self.last_in)
    }

    /// When something sent by the process at `now` arrives, given a draw for the jitter.
    pub fn arrives_out(&mut self, now: Micros, draw: u64) -> Micros {
        self.last_out = self.last_out.max(now + self.path.delay(draw)).max(self.slow_until).max(self.stalled_until);
        self.last_out
    }

    /// When something sent to the process at `now` arrives.
    pub fn arrives_in(&mut self, now: Micros, draw: u64) -> Micros {
        self.last_in = self.last_in.max(now + self.path.delay(draw)).max(self.stalled_until);
        self.last_in
    }
}

impl Path {
    pub fn delay(&self, draw: u64) -> Micros {
        self.latency + if self.jitter == 0 { 0 } else { draw % self.jitter }
    }
}

#[test]
fn messages_never_overtake() {
    let mut link = Link::new(Far::Relay(0), "r".into(), Path { latency: 10, jitter: 100 });
    let slow = link.arrives_out(0, 99);
    assert_eq!(slow, 109);
    assert_eq!(link.arrives_out(5, 0), slow);
    assert_eq!(link.arrives_in(5, 0), 15);
    link.slow_until = 500;
    assert_eq!((link.arrives_out(200, 0), link.arrives_in(200, 0)), (500, 210));
    link.stalled_until = 600;
    assert_eq!((link.arrives_out(300, 0), link.arrives_in(300, 0)), (600, 600));
}
