//! Whether the other end of a link is still there (spec section 7): a ping after a time of silence, and the end of the
//! link after a time without any answer, so that a link that is up but silently dead is found within both together.

use crate::limits::Timing;
use crate::time::Instant;

/// When a link was last heard.
#[derive(Clone, Copy, Debug)]
pub struct Liveness {
    heard_at: Instant,
    pinged_at: Option<Instant>,
}

/// What silence asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Nothing yet.
    Fine,
    /// Send a ping.
    Ping,
    /// The peer is gone.
    Dead,
}

impl Liveness {
    /// A link that has just opened.
    pub fn new(now: Instant) -> Self {
        Liveness { heard_at: now, pinged_at: None }
    }

    /// Any frame came.
    pub fn on_frame(&mut self, now: Instant) {
        *self = Liveness::new(now);
    }

    /// What is due now. A ping that is asked for counts as sent.
    pub fn poll(&mut self, now: Instant, timing: &Timing) -> Silence {
        if now < self.deadline(timing) {
            return Silence::Fine;
        }
        match self.pinged_at {
            Some(_) => Silence::Dead,
            None => {
                self.pinged_at = Some(now);
                Silence::Ping
            }
        }
    }

    /// When something is next due.
    pub fn deadline(&self, timing: &Timing) -> Instant {
        match self.pinged_at {
            Some(pinged_at) => pinged_at + timing.pong_timeout,
            None => self.heard_at + timing.ping,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Duration;

    fn at(secs: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(secs)
    }

    #[test]
    fn a_silent_link_is_pinged_at_thirty_and_dead_at_sixty_seconds() {
        let timing = Timing::default();
        let mut liveness = Liveness::new(at(0));
        assert_eq!(liveness.poll(at(29), &timing), Silence::Fine);
        assert_eq!(liveness.poll(at(30), &timing), Silence::Ping);
        assert_eq!(liveness.poll(at(59), &timing), Silence::Fine);
        assert_eq!(liveness.poll(at(60), &timing), Silence::Dead);
    }

    #[test]
    fn any_frame_starts_over() {
        let timing = Timing::default();
        let mut liveness = Liveness::new(at(0));
        assert_eq!(liveness.poll(at(30), &timing), Silence::Ping);
        liveness.on_frame(at(31));
        assert_eq!(liveness.poll(at(60), &timing), Silence::Fine);
        assert_eq!(liveness.deadline(&timing), at(61));
    }
}
