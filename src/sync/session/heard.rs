//! What has come on a link: how far the relay has been heard, and whether too much came that nobody asked for.

use crate::limits::{BACKLOG_READ_WITHIN, SLEEP_SECS_MIN, UNASKED_EVENTS_MIN, UNASKED_PERCENT_MAX};
use crate::sync::liveness::Liveness;
use crate::time::{Instant, Now, UnixTime};

/// What has come on a link.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) liveness: Liveness,
    /// When the last frame came.
    last: Now,
    /// After a sleep, what was sent before it may still come until then.
    backlog_until: Instant,
    upto: UnixTime,
    /// Events that came, and those of them that nothing was asked for.
    events: u64,
    unasked: u64,
}

impl Heard {
    /// On a link that has just opened.
    pub(super) fn new(now: Now) -> Heard {
        Heard {
            liveness: Liveness::new(now.mono),
            last: now,
            backlog_until: now.mono,
            upto: now.wall,
            events: 0,
            unasked: 0,
        }
    }

    /// What the relay had by then has come, as far as it sends it by itself.
    pub(super) fn upto(&self) -> UnixTime {
        self.upto
    }

    /// Any frame came.
    ///
    /// After the machine has slept, what comes first was sent before: until all that waited can have been read, frames say
    /// nothing of how far the relay has been heard.
    pub(super) fn on_frame(&mut self, now: Now) {
        self.liveness.on_frame(now.mono);
        let awake = now.mono.since(self.last.mono).as_secs();
        if now.wall > self.last.wall.plus_secs(awake + SLEEP_SECS_MIN) {
            self.backlog_until = now.mono + BACKLOG_READ_WITHIN;
        }
        self.last = now;
        if now.mono >= self.backlog_until {
            self.upto = now.wall;
        }
    }

    /// An event came; `asked`: it matches something that was asked. Says whether too many do not.
    pub(super) fn on_event(&mut self, asked: bool) -> bool {
        self.events += 1;
        self.unasked += u64::from(!asked);
        !asked && self.events >= UNASKED_EVENTS_MIN && self.unasked * 100 > self.events * UNASKED_PERCENT_MAX
    }
}
