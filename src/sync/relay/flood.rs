//! Frames that bring nothing: pings, nonsense, challenges, NOTICEs, events for a subscription that is not open. Each is
//! harmless; a relay that sends little else, and much of it, loses its link.

use super::{Relay, Why, linked_in};
use crate::limits::{USELESS_FRAMES_MAX, USELESS_FRAMES_PERIOD};
use crate::sync::Cx;
use crate::time::Instant;

/// How many came of late.
#[derive(Debug)]
pub(super) struct Useless {
    since: Instant,
    frames: u32,
}

impl Useless {
    pub fn new(now: Instant) -> Useless {
        Useless { since: now, frames: 0 }
    }

    /// One came. Says whether that is too many.
    fn on_frame(&mut self, now: Instant) -> bool {
        if now.since(self.since) >= USELESS_FRAMES_PERIOD {
            *self = Useless::new(now);
        }
        self.frames += 1;
        self.frames > USELESS_FRAMES_MAX
    }
}

impl Relay {
    /// A frame came that brings nothing. Says whether it has cost the link.
    pub(super) fn note_useless_frame(&mut self, cx: &mut Cx<'_>) -> bool {
        self.note_frame(cx);
        let Some(linked) = linked_in(&mut self.state) else { return false };
        if !linked.useless.on_frame(cx.now.mono) {
            return false;
        }
        self.hang_up(1008, Why::Flood, cx);
        true
    }
}
