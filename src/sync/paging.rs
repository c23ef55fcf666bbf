//! How one relay answers pages, as its pages have shown it: in which order, whether `until` counts its own second, how
//! much it gives at once, and whether it says EOSE before it has sent everything. Sweeps ask accordingly.
//!
//! Nothing of it is believed for longer than [`LEARNED_FOR`]: relays are upgraded. That a relay is punctual each full catch-up
//! looks at anew: no page shows what is missing of it.

use serde::{Deserialize, Serialize};

use crate::limits::{LEARNED_FOR, PUNCTUAL_FOR, SWEEP_CAP_MIN, SWEEP_FULL_PAGE_MIN, SWEEP_TIME_SPLITS_MAX};
use crate::time::UnixTime;

/// What the pages of one relay have shown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Paging {
    /// When the first of it was shown; [`UnixTime::EPOCH`] for never.
    at: UnixTime,
    order: Order,
    /// `since` and `until` do not count their own second (NIP-01 says that they do).
    excludes_bounds: bool,
    punctuality: Punctuality,
    /// When it was last shown to be punctual; [`UnixTime::EPOCH`] for never.
    punctual_at: UnixTime,
    /// Events of the largest page: what the relay gives at once is not less.
    #[serde(skip)]
    largest: usize,
    /// Events of the smallest page that is known not to have held everything.
    #[serde(skip)]
    cut: Option<usize>,
    /// Questions that were split by time on this link.
    #[serde(skip)]
    time_splits: usize,
    /// A sweep of this link has asked for the order.
    #[serde(skip)]
    order_asked: bool,
    /// What was claimed complete so far rests on something that does not hold.
    #[serde(skip)]
    refuted: bool,
    #[serde(skip)]
    changed: bool,
}

/// Which events a relay gives if more match than it gives at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// Not shown yet; taken for the newest, as NIP-01 has it.
    #[default]
    Unknown,
    /// The newest.
    NewestFirst,
    /// The oldest.
    OldestFirst,
}

/// Whether EOSE comes after the events that it ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Punctuality {
    /// Not shown yet.
    #[default]
    Unknown,
    /// A page with events was held open after its EOSE, and nothing came.
    Punctual,
    /// Stored events came after EOSE.
    Late,
}

/// In which direction a sweep walks through time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// From the newest to the oldest, by `until`.
    Down,
    /// From the oldest to the newest, by `since`.
    Up,
}

impl Paging {
    /// Of a relay that has shown that it answers as most do.
    #[cfg(test)]
    pub(crate) fn proven() -> Paging {
        Paging { order: Order::NewestFirst, punctuality: Punctuality::Punctual, ..Paging::default() }
    }

    /// A link has opened: what only a link shows is not known of it.
    pub fn begin_link(&mut self) {
        (self.time_splits, self.order_asked, self.refuted) = (0, false, false);
    }

    /// The direction in which sweeps walk.
    pub fn walk(&self) -> Walk {
        if self.order == Order::OldestFirst { Walk::Up } else { Walk::Down }
    }

    /// Which events come if more match than come at once.
    pub fn order(&self) -> Order {
        self.order
    }

    /// Whether the order is to be asked for; it then is, once a link. That a relay gives the oldest first is asked again on
    /// each link: if it is wrong, sweeps end at once.
    pub fn take_order_question(&mut self) -> bool {
        self.order != Order::NewestFirst && !std::mem::replace(&mut self.order_asked, true)
    }

    /// A page has shown the order.
    pub fn on_order(&mut self, order: Order, now: UnixTime) {
        let before = std::mem::replace(&mut self.order, order);
        self.refuted |= before != order && [before, order].contains(&Order::OldestFirst);
        self.note(now);
    }

    /// Whether bounds do not count their own second.
    pub fn excludes_bounds(&self) -> bool {
        self.excludes_bounds
    }

    /// A page has shown that bounds do not count their own second.
    pub fn on_bounds_excluded(&mut self, now: UnixTime) {
        self.excludes_bounds = true;
        self.note(now);
    }

    /// Whether EOSE can be believed.
    pub fn punctuality(&self) -> Punctuality {
        self.punctuality
    }

    /// A full catch-up begins: a relay that was punctual is to show it again, unless it has of late.
    pub fn begin_full(&mut self, now: UnixTime) {
        let is_old = self.punctual_at != UnixTime::EPOCH && self.punctual_at.plus_secs(PUNCTUAL_FOR.as_secs()) <= now;
        if self.punctuality == Punctuality::Punctual && is_old {
            self.punctuality = Punctuality::Unknown;
            self.changed = true;
        }
    }

    /// A page that was held open after its EOSE has shown whether it can be.
    pub fn on_punctuality(&mut self, punctuality: Punctuality, now: UnixTime) {
        self.refuted |= punctuality == Punctuality::Late && self.punctuality != Punctuality::Late;
        self.punctuality = punctuality;
        if punctuality == Punctuality::Punctual {
            self.punctual_at = now;
        }
        self.note(now);
    }

    /// A page had so many events.
    pub fn on_page(&mut self, events: usize) {
        self.largest = self.largest.max(events);
    }

    /// A page of so many events did not hold everything.
    pub fn on_cut(&mut self, events: usize) {
        if events >= SWEEP_CAP_MIN {
            self.cut = Some(self.cut.map_or(events, |cut| cut.min(events)));
        }
    }

    /// Whether a page of so many events may have been cut. `limit`: what it was asked with. One smaller than another that
    /// came was not, unless one as small is known to have been.
    pub fn may_be_cut(&self, events: usize, limit: usize) -> bool {
        events >= limit || events >= SWEEP_CAP_MIN && (events >= self.largest || self.was_cut(events))
    }

    /// Whether a page of so many events is to be taken for one that was cut, though nothing shows what is missing.
    pub fn is_full(&self, events: usize, limit: usize) -> bool {
        events >= limit || events >= self.largest.max(SWEEP_FULL_PAGE_MIN)
    }

    /// Whether a page no larger is known to have been cut.
    pub fn was_cut(&self, events: usize) -> bool {
        self.cut.is_some_and(|cut| events >= cut)
    }

    /// A question is to be split by time. Says whether this link may have one more of them.
    pub fn take_time_split(&mut self) -> bool {
        self.time_splits += 1;
        self.time_splits <= SWEEP_TIME_SPLITS_MAX
    }

    /// Whether what was claimed complete before has to be asked for again, because of what was shown since.
    pub fn is_refuted(&self) -> bool {
        self.refuted
    }

    /// Forgets what was shown too long ago.
    pub(super) fn forget_old(&mut self, now: UnixTime) {
        if self.at != UnixTime::EPOCH && self.at.plus_secs(LEARNED_FOR.as_secs()) <= now {
            *self = Paging { largest: self.largest, changed: true, ..Paging::default() };
        }
    }

    /// Whether the store is to keep it anew.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn note(&mut self, now: UnixTime) {
        if self.at == UnixTime::EPOCH {
            self.at = now;
        }
        self.changed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(2_000_000);

    #[test]
    fn the_order_is_asked_for_once_a_link_until_it_is_the_newest() {
        let mut paging = Paging::default();
        assert!(paging.take_order_question());
        assert!(!paging.take_order_question(), "an answer that shows nothing is not asked for again");
        paging.begin_link();
        assert!(paging.take_order_question());
        paging.on_order(Order::OldestFirst, NOW);
        paging.begin_link();
        assert!(paging.take_order_question());
        paging.on_order(Order::NewestFirst, NOW);
        paging.begin_link();
        assert!(!paging.take_order_question());
    }

    #[test]
    fn a_full_catch_up_looks_anew_whether_a_relay_is_punctual() {
        let mut paging = Paging::default();
        paging.on_punctuality(Punctuality::Punctual, NOW);
        paging.begin_full(NOW.plus_secs(PUNCTUAL_FOR.as_secs() - 1));
        assert_eq!(paging.punctuality(), Punctuality::Punctual);
        paging.begin_full(NOW.plus_secs(PUNCTUAL_FOR.as_secs()));
        assert_eq!(paging.punctuality(), Punctuality::Unknown);
        paging.on_punctuality(Punctuality::Late, NOW);
        paging.begin_full(NOW.plus_secs(2 * PUNCTUAL_FOR.as_secs()));
        assert_eq!(paging.punctuality(), Punctuality::Late, "that costs time, and loses nothing");
    }

    #[test]
    fn what_pages_have_shown_is_believed_for_a_week() {
        let mut paging = Paging::default();
        paging.on_bounds_excluded(NOW);
        paging.on_punctuality(Punctuality::Late, NOW.plus_secs(9));
        paging.forget_old(NOW.plus_secs(LEARNED_FOR.as_secs() - 1));
        assert!(paging.excludes_bounds());
        paging.forget_old(NOW.plus_secs(LEARNED_FOR.as_secs()));
        assert_eq!((paging.excludes_bounds(), paging.punctuality()), (false, Punctuality::Unknown));
    }
}
