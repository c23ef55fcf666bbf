//! The REQs of one link: what each is for, and how it is named.

use std::collections::BTreeSet;

use crate::state::{RepoId, RootId};
use crate::sync::budget::Learnt;
use crate::sync::filters::{Bounds, ID_BYTES, Subject, Unit};
use crate::sync::reconcile::{Batch, Unserved};
use crate::sync::sweep::Sweep;
use crate::time::{Instant, UnixTime};

/// Why a sweep is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The relay is not complete before it has ended.
    Round,
    /// A turn of rotation.
    Rotation,
    /// A part of an audit.
    Audit,
    /// Asked alone, to find what ends the link.
    Detour,
}

/// A sweep and its fate so far.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) sweep: Sweep,
    pub(super) purpose: Purpose,
    pub(super) failures: u32,
    /// It is not to be reconciled: that was tried.
    pub(super) by_pages: bool,
    /// What its reconciliation listed and did not serve.
    pub(super) unserved: Unserved,
}

impl Task {
    /// One that has not been tried.
    pub(super) fn new(sweep: Sweep, purpose: Purpose) -> Task {
        Task { sweep, purpose, failures: 0, by_pages: false, unserved: Unserved::default() }
    }

    /// Whether it may be reconciled, where the relay and the round are for that: what audits ask, and what is asked from
    /// the beginning. Of a shorter time there is less than a set's frame.
    pub(super) fn is_reconcilable(&self) -> bool {
        let is_long = match self.purpose {
            Purpose::Round => self.sweep.since().is_none(),
            Purpose::Audit => true,
            Purpose::Rotation | Purpose::Detour => false,
        };
        is_long && self.sweep.until().is_none() && !self.by_pages
    }
}

/// The form of a REQ when it was sent: what is known of the relay by the time of its answer may be more.
#[derive(Debug)]
pub(super) struct Asked {
    /// What it cost.
    pub(super) bytes: usize,
    /// What its filters have in common.
    pub(super) bounds: Bounds,
    /// What the relay's refusals had taught.
    pub(super) learnt: Learnt,
}

/// A REQ that is open.
#[derive(Debug)]
pub(super) enum Subscription {
    /// Stays open.
    Live {
        units: Vec<Unit>,
        asked: Asked,
        /// It was opened later than it should have been: because too much was unanswered, or after a rate limit.
        late: bool,
        /// Its units are complete up to this moment: it was asked since then, less the overlap.
        covered: UnixTime,
        /// Events it has brought before EOSE.
        brought: usize,
        /// Silent since then; `None` once it has reached EOSE. A live subscription that never does is not live.
        waiting_since: Option<Instant>,
    },
    /// One page of a sweep.
    Page {
        task: Task,
        asked: Asked,
        /// Silent since then.
        heard_at: Instant,
        /// A NOTICE came meanwhile, which may speak of this page.
        noticed: bool,
        /// It has brought nothing new.
        barren: bool,
        /// When EOSE came, if it is held open for what may come after it.
        ended: Option<Instant>,
        /// Events had come by then.
        had_events: bool,
    },
    /// Some events of a reconciliation, by their ids.
    Fetch {
        /// The reconciliation.
        of: u64,
        /// Why that is made.
        purpose: Purpose,
        batch: Batch,
        /// Silent since then.
        heard_at: Instant,
    },
}

impl Subscription {
    /// Whether it stays open.
    pub(super) fn is_live(&self) -> bool {
        matches!(self, Subscription::Live { .. })
    }

    /// Whether it waits for its EOSE.
    pub(super) fn is_unanswered(&self) -> bool {
        self.silent_since().is_some()
    }

    /// What its REQ cost.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Subscription::Live { asked, .. } | Subscription::Page { asked, .. } => asked.bytes,
            Subscription::Fetch { batch, .. } => batch.asked * ID_BYTES,
        }
    }

    /// In what form its REQ was; `None` if it asks for ids and has but one.
    pub(super) fn asked(&self) -> Option<&Asked> {
        match self {
            Subscription::Live { asked, .. } | Subscription::Page { asked, .. } => Some(asked),
            Subscription::Fetch { .. } => None,
        }
    }

    /// What its filters ask.
    pub(super) fn subjects(&self) -> Vec<Subject> {
        match self {
            Subscription::Live { units, .. } => units.iter().flat_map(Unit::subjects).collect(),
            Subscription::Page { task, .. } => vec![task.sweep.subject().clone()],
            Subscription::Fetch { .. } => Vec::new(),
        }
    }

    /// Since when an answer has been awaited in vain.
    pub(super) fn silent_since(&self) -> Option<Instant> {
        match self {
            Subscription::Live { waiting_since, .. } => *waiting_since,
            Subscription::Page { ended: Some(_), .. } => None,
            Subscription::Page { heard_at, .. } | Subscription::Fetch { heard_at, .. } => Some(*heard_at),
        }
    }
}

pub(super) fn is_page_of(subscription: &Subscription, purpose: Purpose) -> bool {
    match subscription {
        Subscription::Live { .. } => false,
        Subscription::Page { task, .. } => task.purpose == purpose,
        Subscription::Fetch { purpose: of, .. } => *of == purpose,
    }
}

/// Everything that some units hold.
#[derive(Default)]
pub(super) struct Held {
    announcements: bool,
    everything: bool,
    repos: BTreeSet<RepoId>,
    roots: BTreeSet<RootId>,
}

impl Held {
    pub(super) fn of<'a>(units: impl Iterator<Item = &'a Unit>) -> Held {
        let mut held = Held::default();
        for unit in units {
            match unit {
                Unit::Announcements | Unit::Identifiers(_) => held.announcements = true,
                Unit::Everything => held.everything = true,
                Unit::Repos(repos) => held.repos.extend(repos.iter()),
                Unit::Roots(roots) => held.roots.extend(roots.iter()),
            }
        }
        held
    }

    pub(super) fn meets(&self, unit: &Unit) -> bool {
        match unit {
            _ if self.everything => true,
            Unit::Announcements | Unit::Identifiers(_) => self.announcements,
            Unit::Everything => self.announcements || !self.repos.is_empty() || !self.roots.is_empty(),
            Unit::Repos(repos) => repos.iter().any(|repo| self.repos.contains(repo)),
            Unit::Roots(roots) => roots.iter().any(|root| self.roots.contains(root)),
        }
    }
}

/// Subscription ids are short, plain and never used twice on a link.
pub(super) fn name_of(number: u64) -> String {
    format!("g{number}")
}

pub(super) fn number_of(name: &str) -> Option<u64> {
    number_written(name.strip_prefix('g')?)
}

/// A number in the one way in which we write it.
pub(super) fn number_written(digits: &str) -> Option<u64> {
    let as_we_do = digits == "0" || !digits.starts_with(['0', '+']);
    if as_we_do { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_that_we_give_names_a_number() {
        for number in [0, 1, 10, u64::MAX] {
            assert_eq!(number_of(&name_of(number)), Some(number));
        }
        for name in ["", "g", "g00", "g01", "g+1", "g-1", "g 1", "h1", "1", "G1", "g18446744073709551616"] {
            assert_eq!(number_of(name), None, "{name}");
        }
    }
}
