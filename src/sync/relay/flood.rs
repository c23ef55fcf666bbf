//! What brings nothing: pings, nonsense, challenges, NOTICEs, events for a subscription that is not open, live events whose
//! signature was verified in vain. Each is harmless; a relay that sends little else, and much of it, loses its link. So does
//! one that sends forged events live: what is published to it, it could verify.

use super::{Relay, Why, linked_in};
use crate::limits::{
    FORGED_EVENTS_MAX, FORGED_PERCENT_MAX, USELESS_FRAMES_MAX, USELESS_FRAMES_PERIOD, VAIN_EVENT_FRAMES,
};
use crate::sync::Cx;
use crate::sync::session::{Fate, Origin};
use crate::time::Instant;

/// How many came of late.
#[derive(Debug)]
pub(super) struct Useless {
    since: Instant,
    frames: u32,
    events: u64,
    forged: u64,
}

impl Useless {
    pub fn new(now: Instant) -> Useless {
        Useless { since: now, frames: 0, events: 0, forged: 0 }
    }

    /// One came. Says whether that is too many.
    fn on_frame(&mut self, now: Instant) -> bool {
        self.on_frames(1, now)
    }

    fn on_frames(&mut self, frames: u32, now: Instant) -> bool {
        self.begin_anew_if_due(now);
        self.frames += frames;
        self.frames > USELESS_FRAMES_MAX
    }

    /// A live event came. Says what it has cost the link for, if it has.
    fn on_live_event(&mut self, fate: Fate, now: Instant) -> Option<Why> {
        self.begin_anew_if_due(now);
        self.events += 1;
        if !fate.is_in_vain() {
            return None;
        }
        self.forged += u64::from(fate == Fate::Forged);
        if self.forged > FORGED_EVENTS_MAX && self.forged * 100 > self.events * FORGED_PERCENT_MAX {
            return Some(Why::Forged);
        }
        self.on_frames(VAIN_EVENT_FRAMES, now).then_some(Why::Flood)
    }

    fn begin_anew_if_due(&mut self, now: Instant) {
        if now.since(self.since) >= USELESS_FRAMES_PERIOD {
            *self = Useless::new(now);
        }
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

    /// An event came for a subscription of ours and was judged. Says whether it has cost the link.
    pub(super) fn note_judged(&mut self, fate: Fate, origin: Option<Origin>, cx: &mut Cx<'_>) -> bool {
        // A relay that does not verify may have stored what others forged, and serve it among the rest; what comes for pages
        // has a measure of its own: `unproductive`.
        if origin != Some(Origin::Live) {
            return false;
        }
        let Some(linked) = linked_in(&mut self.state) else { return false };
        let Some(why) = linked.useless.on_live_event(fate, cx.now.mono) else { return false };
        self.hang_up(1008, why, cx);
        true
    }
}
