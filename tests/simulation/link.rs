//! One socket between the process and a model relay or client, seen from the middle: latency in order, sudden loss,
//! and half-open silence in which both ends believe that the other is still there.

use crate::clock::{MILLI, Micros};

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
    pub state: LinkState,
    /// Nothing passes any more in either direction, and nobody is told.
    pub silent: bool,
    path: Path,
    last_out: Micros,
    last_in: Micros,
    /// Whether the process has been promised word that its writes are done.
    pub drain_owed: bool,
}

impl Link {
    pub fn new(far: Far, path: Path) -> Link {
        Link { far, state: LinkState::Connecting, silent: false, path, last_out: 0, last_in: 0, drain_owed: false }
    }

    /// When something sent by the process at `now` arrives, given a draw for the jitter.
    pub fn arrives_out(&mut self, now: Micros, draw: u64) -> Micros {
        self.last_out = self.last_out.max(now + self.path.delay(draw));
        self.last_out
    }

    /// When something sent to the process at `now` arrives.
    pub fn arrives_in(&mut self, now: Micros, draw: u64) -> Micros {
        self.last_in = self.last_in.max(now + self.path.delay(draw));
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
    let mut link = Link::new(Far::Relay(0), Path { latency: 10, jitter: 100 });
    let slow = link.arrives_out(0, 99);
    assert_eq!(slow, 109);
    assert_eq!(link.arrives_out(5, 0), slow);
    assert_eq!(link.arrives_in(5, 0), 15);
}
