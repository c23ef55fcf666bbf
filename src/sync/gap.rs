//! What cannot be had from a relay though it is there: said, and kept until it has been asked for again.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::limits::{GAP_RETRY_AFTER, GAPS_MAX};
use crate::time::UnixTime;

/// Some time, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Its first second.
    pub from: UnixTime,
    /// Its last second, not before the first.
    pub to: UnixTime,
}

impl Span {
    /// One second.
    pub fn of_second(second: UnixTime) -> Span {
        Span { from: second, to: second }
    }

    /// Seconds from the first to the last.
    pub fn secs(&self) -> u64 {
        self.to.as_secs() - self.from.as_secs()
    }

    /// The last second of its first half; `None` if it is a single second.
    pub fn middle(&self) -> Option<UnixTime> {
        (self.secs() > 0).then(|| self.from.plus_secs(self.secs() / 2))
    }

    /// Whether it has a second in common with another.
    pub fn meets(&self, other: &Span) -> bool {
        self.from <= other.to && other.from <= self.to
    }
}

/// Why something cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum GapReason {
    /// A second has more events than the relay gives at once.
    FullSecond,
    /// What the relay gives there cannot be placed in time: forged, or dated by no integer.
    Unplaced,
    /// What the relay gives there ends the link: a message too large.
    TooLarge,
    /// The same: no WebSocket message, or no text in UTF-8.
    Broken,
}

impl GapReason {
    /// In words.
    pub fn why(self) -> &'static str {
        match self {
            GapReason::FullSecond => "more events in one second than the relay gives at once",
            GapReason::Unplaced => "events that cannot be placed in time",
            GapReason::TooLarge => "message too large",
            GapReason::Broken => "websocket protocol broken",
        }
    }

    /// Whether asking for it ends the link.
    pub fn ends_link(self) -> bool {
        matches!(self, GapReason::TooLarge | GapReason::Broken)
    }
}

/// Something that cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// When it was created, as far as that is known.
    pub span: Span,
    /// The filter that asks for it.
    pub what: String,
    /// Why it cannot be had.
    pub reason: GapReason,
    /// When that was found.
    pub found_at: UnixTime,
}

/// The gaps of one relay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gaps {
    known: VecDeque<Gap>,
    #[serde(skip)]
    changed: bool,
}

impl Gaps {
    /// All of them, the oldest first; of more than [`GAPS_MAX`], the latest.
    pub fn iter(&self) -> impl Iterator<Item = &Gap> {
        self.known.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Another one was found, or the same once more.
    pub fn add(&mut self, gap: Gap) {
        self.known.retain(|known| known.what != gap.what || !known.span.meets(&gap.span));
        if self.known.len() == GAPS_MAX {
            self.known.pop_front();
        }
        self.known.push_back(gap);
        self.changed = true;
    }

    /// A full catch-up begins: it finds anew what it finds. What ends links is left for a week.
    pub fn begin_full(&mut self, now: UnixTime) {
        let before = self.known.len();
        self.known.retain(|gap| gap.reason.ends_link() && gap.found_at.plus_secs(GAP_RETRY_AFTER.as_secs()) > now);
        self.changed |= self.known.len() != before;
    }

    /// The first of which asking for ends the link, within some time, and for which this holds.
    pub fn ending_links(&self, span: Span, is: impl Fn(&Gap) -> bool) -> Option<&Gap> {
        self.known.iter().find(|gap| gap.reason.ends_link() && gap.span.meets(&span) && is(gap))
    }

    /// Whether asking for some of it ends the link.
    pub fn end_links(&self) -> bool {
        self.known.iter().any(|gap| gap.reason.ends_link())
    }

    /// Whether the store is to keep it anew.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(2_000_000);

    fn gap(second: u64, reason: GapReason) -> Gap {
        Gap { span: Span::of_second(UnixTime::from_secs(second)), what: "{}".to_owned(), reason, found_at: NOW }
    }

    #[test]
    fn a_full_catch_up_tries_again_what_ends_links_after_a_week() {
        let mut gaps = Gaps::default();
        gaps.add(gap(1, GapReason::FullSecond));
        gaps.add(gap(2, GapReason::TooLarge));
        gaps.begin_full(NOW.plus_secs(GAP_RETRY_AFTER.as_secs() - 1));
        assert!(gaps.iter().eq([&gap(2, GapReason::TooLarge)]));
        gaps.begin_full(NOW.plus_secs(GAP_RETRY_AFTER.as_secs()));
        assert!(gaps.is_empty());
    }

    #[test]
    fn a_gap_is_listed_once_and_the_oldest_gives_way() {
        let mut gaps = Gaps::default();
        for second in [1, 1].into_iter().chain(1..=GAPS_MAX as u64 + 1) {
            gaps.add(gap(second, GapReason::FullSecond));
        }
        let seconds: Vec<u64> = gaps.iter().map(|gap| gap.span.from.as_secs()).collect();
        assert_eq!(seconds, Vec::from_iter(2..=GAPS_MAX as u64 + 1));
    }
}
