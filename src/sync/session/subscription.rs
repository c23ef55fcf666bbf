//! The REQs of one link: what each is for, and how it is named.

use std::collections::BTreeSet;

use crate::state::{RepoId, RootId};
use crate::sync::agenda::task::{Purpose, Task};
use crate::sync::budget::Learned;
use crate::sync::filters::{Bounds, ID_BYTES, Unit};
use crate::sync::reconcile::Batch;
use crate::time::Instant;

/// The form of a REQ when it was sent: what is known of the relay by the time of its answer may be more.
#[derive(Debug)]
pub(super) struct Asked {
    /// What it cost.
    pub(super) bytes: usize,
    /// What its filters have in common.
    pub(super) bounds: Bounds,
    /// What the relay's refusals had taught.
    pub(super) learned: Learned,
}

/// A REQ that is open.
#[derive(Debug)]
pub(super) enum Subscription {
    /// Stays open.
    Live {
        asked: Asked,
        /// It was opened later than it should have been: because too much was unanswered, or after a rate limit.
        late: bool,
        /// Events it has brought before EOSE.
        brought: usize,
        /// Silent since then; `None` once it has reached EOSE. A live subscription that never does is not live.
        waiting_since: Option<Instant>,
    },
    /// One page of a sweep.
    Page {
        task: Box<Task>,
        asked: Asked,
        /// Silent since then.
        heard_at: Instant,
        /// A NOTICE came meanwhile, which may speak of this page.
        noticed: bool,
        /// It has brought nothing new.
        unproductive: bool,
        /// When EOSE came, if it is held open for what may come after it, and how many events had come by then.
        ended: Option<(Instant, usize)>,
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
