//! What is known of one relay's reconciling: whether it does, how much of it at once, which ids it lists and does not
//! serve. It outlives the link.

use std::collections::BTreeSet;

use nostr::event::EventId;
use serde::{Deserialize, Serialize};

use super::refusal::NegRefusal;
use crate::limits::{
    CLOCK_SLACK_SECS, FETCH_IDS_MAX, FETCH_IDS_MIN, FULL_BY_PAGES_EVERY, NEGENTROPY_RETRY_AFTER,
    NEGENTROPY_STRIKES_MAX, RECONCILIATIONS_MAX, UNSERVED_IDS_MAX,
};
use crate::store::Seq;
use crate::time::{Duration, UnixTime};

/// Whether a relay reconciles (NIP-77).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Negentropy {
    /// It has not been tried.
    #[default]
    Unknown,
    /// It has answered.
    Works,
    /// It has not, or no longer.
    Refused {
        /// When.
        at: UnixTime,
        /// How.
        why: NegRefusal,
    },
}

/// How a full catch-up with a relay is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// `negentropy` or `pages`.
    pub by: &'static str,
    /// Why.
    pub why: &'static str,
}

/// What is kept of it in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    standing: Negentropy,
    /// It allows one reconciliation at a time.
    alone: bool,
    /// Ids in one REQ; 0 for the usual number.
    fetch_ids: usize,
    /// When the last full catch-up by pages began, or the first one at all; `EPOCH` for never.
    paged_at: UnixTime,
}

/// What is known of one relay's reconciling. In several places it is asked whether the relay's NIP-11 document lists
/// NIP-77: `listed`, `None` if there is no list. Some relays list it and refuse; few know it and do not list it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Record {
    kept: Kept,
    /// What is kept differs from what was last written.
    #[serde(skip)]
    changed: bool,
    /// Failures in a row that were not about one question.
    #[serde(skip)]
    strikes: u8,
    /// Reconciliations that have come to their end.
    #[serde(skip)]
    completed: usize,
    #[serde(skip)]
    unserved: Unserved,
}

/// Ids that the relay lists and does not serve. They hold as long as no new repo, root event or maintainer is known:
/// what we ask the relay for is then the same, too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unserved {
    /// The last number that had changed what we follow.
    pub state_seq: Seq,
    /// The ids.
    pub ids: BTreeSet<EventId>,
}

impl Record {
    /// Whether what the store keeps of it has changed since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn keep(&mut self, change: impl FnOnce(&mut Kept)) {
        let before = self.kept;
        change(&mut self.kept);
        self.changed |= self.kept != before;
    }

    /// Whether it is worth asking: it works, or has not been tried for a while, and does not say that it does not know it.
    pub fn may_try(&self, listed: Option<bool>, now: UnixTime) -> bool {
        match self.kept.standing {
            Negentropy::Works => true,
            Negentropy::Unknown => listed != Some(false),
            Negentropy::Refused { at, .. } => listed != Some(false) && is_past(at, NEGENTROPY_RETRY_AFTER, now),
        }
    }

    /// Whether it will answer, as far as can be told: it has, or it is listed and has never been tried.
    pub fn is_expected(&self, listed: Option<bool>) -> bool {
        match self.kept.standing {
            Negentropy::Works => true,
            Negentropy::Unknown => listed == Some(true),
            Negentropy::Refused { .. } => false,
        }
    }

    /// Whether it has answered.
    pub fn works(&self) -> bool {
        self.kept.standing == Negentropy::Works
    }

    /// Reconciliations that may be open at once: one until it has answered, and one more with each that ends well.
    pub fn at_once(&self) -> usize {
        if self.works() && !self.kept.alone { (1 + self.completed).min(RECONCILIATIONS_MAX) } else { 1 }
    }

    /// Ids in one REQ.
    pub fn fetch_ids(&self) -> usize {
        if self.kept.fetch_ids == 0 { FETCH_IDS_MAX } else { self.kept.fetch_ids }
    }

    /// It has answered a NEG-OPEN.
    pub fn on_answer(&mut self) {
        self.keep(|kept| kept.standing = Negentropy::Works);
    }

    /// A reconciliation has come to its end.
    pub fn on_complete(&mut self) {
        self.strikes = 0;
        self.completed += 1;
    }

    /// A reconciliation has failed.
    pub fn on_refusal(&mut self, why: NegRefusal, now: UnixTime) {
        let counts = match why {
            NegRefusal::TooManyRecords | NegRefusal::RateLimited => return,
            NegRefusal::TooManyAtOnce => return self.keep(|kept| kept.alone = true),
            NegRefusal::Unsupported | NegRefusal::Silent => NEGENTROPY_STRIKES_MAX,
            NegRefusal::LinkLost | NegRefusal::Ended | NegRefusal::Broken | NegRefusal::Other if self.works() => 1,
            NegRefusal::LinkLost | NegRefusal::Ended | NegRefusal::Broken | NegRefusal::Other => NEGENTROPY_STRIKES_MAX,
        };
        self.strikes = self.strikes.saturating_add(counts);
        if self.strikes >= NEGENTROPY_STRIKES_MAX {
            self.strikes = 0;
            self.keep(|kept| kept.standing = Negentropy::Refused { at: now, why });
        }
    }

    /// Of `asked` ids in one REQ so few came that fewer are to be asked for.
    pub fn on_short_answer(&mut self, asked: usize) {
        let fewer = (asked / 2).max(FETCH_IDS_MIN).min(self.fetch_ids());
        self.keep(|kept| kept.fetch_ids = fewer);
    }

    /// Whether a full catch-up that begins now is to be done by pages, which find what a peer's reconciling loses.
    pub fn pages_due(&mut self, now: UnixTime) -> bool {
        if self.kept.paged_at == UnixTime::EPOCH {
            self.keep(|kept| kept.paged_at = now);
        }
        is_past(self.kept.paged_at, FULL_BY_PAGES_EVERY, now)
    }

    /// A full catch-up by pages, which began then, has ended well.
    pub fn on_paged(&mut self, began: UnixTime) {
        self.keep(|kept| kept.paged_at = began);
        self.unserved.ids.clear();
    }

    /// Whether an id was listed before and not served. `state_seq`: the last number that changed what we follow.
    pub fn is_unserved(&self, id: &EventId, state_seq: Seq) -> bool {
        self.unserved.state_seq == state_seq && self.unserved.ids.contains(id)
    }

    /// An id was listed and not served.
    pub fn on_unserved(&mut self, id: EventId, state_seq: Seq) {
        if self.unserved.state_seq != state_seq {
            self.unserved = Unserved { state_seq, ids: BTreeSet::new() };
        }
        if self.unserved.ids.len() < UNSERVED_IDS_MAX {
            self.unserved.ids.insert(id);
        }
    }

    /// How full catch-ups are done, for the status.
    pub fn manner(&self, listed: Option<bool>) -> Manner {
        match (self.kept.standing, listed) {
            (Negentropy::Works, _) => Manner { by: "negentropy", why: "works" },
            (Negentropy::Refused { why, .. }, _) => Manner { by: "pages", why: why.name() },
            (Negentropy::Unknown, Some(false)) => Manner { by: "pages", why: "not_listed" },
            (Negentropy::Unknown, _) => Manner { by: "pages", why: "not_tried" },
        }
    }
}

/// Whether `after` has gone by since `at`. A moment that lies ahead was written by a clock that was wrong.
fn is_past(at: UnixTime, after: Duration, now: UnixTime) -> bool {
    now >= at.plus_secs(after.as_secs()) || at > now.plus_secs(CLOCK_SLACK_SECS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400;

    fn at(secs: u64) -> UnixTime {
        UnixTime::from_secs(1_700_000_000 + secs)
    }

    #[test]
    fn a_refusal_is_remembered_for_a_week() {
        let mut record = Record::default();
        assert!(record.may_try(None, at(0)));
        record.on_refusal(NegRefusal::Unsupported, at(0));
        assert!(!record.may_try(None, at(7 * DAY - 1)));
        assert!(record.may_try(None, at(7 * DAY)));
        assert_eq!(record.manner(None), Manner { by: "pages", why: "unsupported" });
        assert!(record.may_try(None, UnixTime::from_secs(1_600_000_000)), "a clock that was ahead is not believed");
    }

    #[test]
    fn one_that_works_may_fail_now_and_then() {
        let mut record = Record::default();
        record.on_answer();
        for _ in 0..5 {
            record.on_refusal(NegRefusal::Ended, at(0));
            record.on_refusal(NegRefusal::Broken, at(0));
            assert!(record.works());
            record.on_complete();
        }
        (0..3).for_each(|_| record.on_refusal(NegRefusal::LinkLost, at(0)));
        assert!(!record.may_try(None, at(1)), "three in a row");
    }

    #[test]
    fn what_concerns_one_question_is_not_held_against_the_relay() {
        let mut record = Record::default();
        record.on_answer();
        (0..9).for_each(|_| record.on_refusal(NegRefusal::TooManyRecords, at(0)));
        assert_eq!(record.at_once(), 1);
        (0..9).for_each(|_| record.on_complete());
        assert_eq!(record.at_once(), RECONCILIATIONS_MAX);
        record.on_refusal(NegRefusal::TooManyAtOnce, at(0));
        assert_eq!((record.works(), record.at_once()), (true, 1));
    }

    #[test]
    fn a_list_without_77_is_believed_and_one_with_it_is_a_hint() {
        let mut record = Record::default();
        assert!(!record.may_try(Some(false), at(0)));
        record.on_answer();
        assert!(record.may_try(Some(false), at(0)), "what it has shown counts");
        let mut record = Record::default();
        record.on_refusal(NegRefusal::Unsupported, at(0));
        assert!(!record.may_try(Some(true), at(1)));
    }

    #[test]
    fn a_full_catch_up_is_by_pages_once_a_week() {
        let mut record = Record::default();
        assert!(!record.pages_due(at(0)), "the week begins with the first");
        assert!(!record.pages_due(at(7 * DAY - 1)));
        assert!(record.pages_due(at(7 * DAY)));
        assert!(record.pages_due(at(8 * DAY)), "until one has ended well");
        record.on_paged(at(8 * DAY));
        assert!(!record.pages_due(at(9 * DAY)));
    }

    #[test]
    fn what_is_not_served_is_remembered_until_it_might_matter_again() {
        let mut record = Record::default();
        let id = |n: usize| EventId::from_byte_array(std::array::from_fn(|i| (n >> (8 * (i % 4))) as u8));
        (0..UNSERVED_IDS_MAX + 1).for_each(|n| record.on_unserved(id(n), 7));
        assert!(record.is_unserved(&id(0), 7) && !record.is_unserved(&id(UNSERVED_IDS_MAX), 7), "bounded");
        assert!(!record.is_unserved(&id(0), 8), "there is a new repo or root event");
        record.on_unserved(id(1), 8);
        assert!(!record.is_unserved(&id(0), 7));
        record.on_paged(at(0));
        assert!(!record.is_unserved(&id(1), 8));
    }
}
