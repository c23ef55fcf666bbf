//! What a link's agenda wants to know of the store, and when its audits begin.

use nostr::key::PublicKey;

use super::Session;
use crate::contract::LinkId;
use crate::limits::AUDIT_SPREAD;
use crate::sync::Cx;
use crate::sync::agenda::audit::{Audits, By};
use crate::sync::agenda::pass::{ThreadPart, WantedThread};
use crate::sync::agenda::round::RoundWhy;
use crate::sync::budget::Budget;
use crate::sync::filters::Subject;
use crate::time::{Duration, Now};

impl Audits {
    /// Those of a link that has just opened.
    pub(super) fn of_link(link: LinkId, budget: &Budget, now: Now) -> Audits {
        let (LinkId::Relay(number) | LinkId::Client(number)) = link;
        // Links that the process opens together have numbers one after the other.
        let spread = Duration::from_secs(number.saturating_mul(7) % AUDIT_SPREAD.as_secs());
        Audits::new(budget.audited_at, audited_by(budget), spread, now)
    }
}

pub(super) fn audited_by(budget: &Budget) -> By {
    if budget.reconciles() { By::Sets } else { By::Pages }
}

impl Session {
    /// Whether the authors whose events are held are wanted with [`Session::add_authors`].
    pub fn wants_authors(&self) -> bool {
        self.agenda.wants_authors()
    }

    /// The authors whose events are held, in the order of their keys.
    pub fn add_authors(&mut self, authors: &[PublicKey], cx: &mut Cx<'_>) {
        let values_max = self.shape(cx).values;
        cx.metrics.audit_left_out += self.agenda.add_authors(authors, values_max);
        self.pump(cx);
    }

    /// The unit for which [`Session::add_thread`] is wanted, if one is.
    pub fn wanted_thread(&self, now: Now) -> Option<WantedThread<'_>> {
        self.agenda.wanted_thread(now)
    }

    /// Events that tag the unit of [`Session::wanted_thread`].
    pub fn add_thread(&mut self, part: ThreadPart, cx: &mut Cx<'_>) {
        let values_max = self.shape(cx).values;
        cx.metrics.audit_left_out += self.agenda.add_thread(part, values_max, cx.now);
        self.pump(cx);
    }

    /// A full catch-up that began then has ended well.
    pub fn note_full_catchup(&mut self, began: Now) {
        if self.agenda.round.why == RoundWhy::FullCatchUp(By::Pages) {
            self.budget.reconciling.on_paged(began.wall);
        }
        self.budget.note_audit(began.wall);
        self.agenda.audits.on_full_catchup(began, audited_by(&self.budget));
    }

    /// Whether only the policy can tell whether what comes for a subscription was asked for: the relay is asked for
    /// everything, or about a thread.
    pub fn leaves_to_policy(&self, subscription: &str) -> bool {
        self.filtering().is_unfiltered() || self.subject_of(subscription).is_some_and(Subject::is_of_thread)
    }
}
