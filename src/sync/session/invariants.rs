//! What must hold of a link between two inputs, whatever its relay says: for tests and fuzz targets.

#[cfg(test)]
use super::Wait;
use super::subscription::{Held, Subscription, is_page_of};
use super::{Purpose, Session};
#[cfg(test)]
use crate::sync::Cx;
use crate::sync::filters::Unit;

/// Everything that is followed on a link.
pub struct Followed(Held);

impl Followed {
    /// Whether all that a unit holds is followed; of repos and root events, whether one of them is.
    pub fn meets(&self, unit: &Unit) -> bool {
        self.0.meets(unit)
    }
}

impl Session {
    /// What is live, polled, or waits to be live.
    pub fn followed(&self) -> Followed {
        Followed(Held::of(self.agenda.units.all().map(|(unit, _)| unit)))
    }

    /// Panics if more is open than the budget allows, or if a sweep that has not ended is neither open nor waiting: its
    /// round, or its unit that is polled, would never be complete.
    pub fn assert_invariants(&self) {
        let (open, live) = (self.subscriptions.len(), self.live_subscriptions());
        assert!(open <= self.budget.subscriptions(), "{open} of {} subscriptions", self.budget.subscriptions());
        assert!(live <= self.budget.live_subscriptions(), "{live} of {} live", self.budget.live_subscriptions());
        assert!(
            self.subscriptions.keys().all(|number| number.nth() < self.next_subscription),
            "each number is used once"
        );
        let pages = |purpose: Purpose| {
            let is_page = |subscription: &&Subscription| {
                is_page_of(subscription, purpose) && !matches!(subscription, Subscription::Fetch { .. })
            };
            self.subscriptions.values().filter(is_page).count() + self.agenda.queue.count(purpose)
        };
        let of_round = pages(Purpose::Round) + self.reconciliations(Purpose::Round);
        assert_eq!(of_round, self.agenda.round.pass.left(), "every sweep of the round is open or waits");
        assert_eq!(pages(Purpose::Poll), self.agenda.units.sweeps_left(), "every sweep of a poll is open or waits");
        let of_audit = pages(Purpose::Audit) + self.reconciliations(Purpose::Audit);
        assert_eq!(of_audit, self.agenda.audits.sweeps_left(), "every sweep of an audit is open or waits");
        self.assert_fetches();
    }

    /// Panics if an input has left something unasked that may be asked, or has left it open when to look again.
    #[cfg(test)]
    pub fn assert_pumped(&mut self, cx: &mut Cx<'_>) {
        let (sent, before) = (cx.out.len(), self.wait);
        self.pump(cx);
        let more: Vec<_> = cx.out.iter().skip(sent).collect();
        assert!(more.is_empty(), "it is asked only now: {more:?}");
        let until = |wait: Wait| wait.until.filter(|until| *until > cx.now.mono);
        assert_eq!((self.wait.why, until(self.wait)), (before.why, until(before)), "it would wait for something else");
    }
}
