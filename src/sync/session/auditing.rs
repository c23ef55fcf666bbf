//! What is asked when nothing else is to be: polls of what is not live, and audits, one at a time and in turn.

use nostr::key::PublicKey;

use super::Session;
use super::subscription::{Purpose, Task};
use crate::contract::LinkId;
use crate::limits::AUDIT_SPREAD;
use crate::sync::Cx;
use crate::sync::audit::{Audits, By, Poll};
use crate::sync::budget::Budget;
use crate::sync::filters::{Subject, Unit};
use crate::sync::plan::unit_sweeps;
use crate::sync::sweep::Sweep;
use crate::time::{Duration, Instant, Now, UnixTime};

impl Audits {
    /// Those of a link that has just opened.
    pub(super) fn of_link(link: LinkId, budget: &Budget, now: Now) -> Audits {
        let (LinkId::Relay(number) | LinkId::Client(number)) = link;
        // Links that the process opens together have numbers one after the other.
        let spread = Duration::from_secs(number.saturating_mul(7) % AUDIT_SPREAD.as_secs());
        Audits::new(budget.audited_at, audited_by(budget), spread, now)
    }
}

fn audited_by(budget: &Budget) -> By {
    if budget.reconciling.works() && !budget.goes_around() { By::Sets } else { By::Pages }
}

impl Session {
    /// Its audits.
    pub fn audits(&self) -> &Audits {
        &self.audits
    }

    /// Polls a unit, or asks for the next part of an audit: whichever was not the last, if both are due.
    pub(super) fn begin_turn(&mut self, cx: &mut Cx<'_>) {
        let begun = match self.last_polled {
            Purpose::Poll => self.poll_audit(cx) || self.poll_next(cx),
            Purpose::Round | Purpose::Audit | Purpose::Detour => self.poll_next(cx) || self.poll_audit(cx),
        };
        debug_assert!(begun || self.queue.is_empty(), "nothing was begun");
    }

    fn poll_next(&mut self, cx: &mut Cx<'_>) -> bool {
        let overlap = cx.settings.timing.overlap_secs;
        let Some((unit, since)) = self.agenda.begin_poll(cx.now, overlap) else { return false };
        self.last_polled = Purpose::Poll;
        cx.metrics.polls += 1;
        for sweep in unit_sweeps(std::iter::once(unit), Some(since)) {
            self.queue.push_back(Task::new(sweep, Purpose::Poll));
        }
        true
    }

    fn poll_audit(&mut self, cx: &mut Cx<'_>) -> bool {
        if self.next_audit_at().is_none_or(|at| at > cx.now.mono) {
            return false;
        }
        self.last_polled = Purpose::Audit;
        if !self.audits.is_open() {
            cx.metrics.audits += 1;
            let (by, audited) = (audited_by(&self.budget), self.budget.audited_at);
            self.audits.begin(self.units(), by, audited, cx.settings.timing.overlap_secs, cx.now);
        }
        let values_max = self.shape(cx).values;
        match self.audits.poll(values_max) {
            Poll::Wait => return false,
            Poll::Over(complete) => {
                complete.into_iter().for_each(|began| self.budget.note_audit(began));
                return false;
            }
            Poll::Ask(subjects) => self.ask_audit(subjects),
        }
        true
    }

    pub(super) fn ask_audit(&mut self, subjects: Vec<Subject>) {
        let Some((since, by)) = self.audits.manner() else { return };
        for subject in subjects {
            let task = Task::new(Sweep::new(subject, Some(since)), Purpose::Audit);
            self.queue.push_back(Task { by_pages: by == By::Pages, ..task });
        }
    }

    /// When the next part of an audit is due; not while a full catch-up is under way.
    pub(super) fn next_audit_at(&self) -> Option<Instant> {
        self.audits.next_at().filter(|_| !self.is_full())
    }

    /// Everything that is followed on the link, and whether it is live.
    fn units(&self) -> Vec<(Unit, bool)> {
        self.agenda.units().map(|(unit, live)| (unit.clone(), live)).collect()
    }

    /// Whether the authors whose events are held are wanted with [`Session::add_authors`].
    pub fn wants_authors(&self) -> bool {
        self.audits.wants_authors()
    }

    /// The authors whose events are held.
    pub fn add_authors(&mut self, authors: &[PublicKey], cx: &mut Cx<'_>) {
        let values_max = self.shape(cx).values;
        cx.metrics.audit_left_out += self.audits.add_authors(authors, values_max);
        self.pump(cx);
    }

    /// An audit has found something new.
    pub fn on_audit_found(&mut self, created_at: UnixTime) {
        self.audits.on_found(created_at);
    }

    /// Deletions that name what kind they are of are found by their authors, too.
    pub(super) fn on_audit_sweep_end(&mut self, subject: &Subject, ok: bool) {
        self.audits.on_sweep_end(ok || matches!(subject, Subject::DeletionsOf(_)));
    }

    /// What was asked counts against what polls and audits may cost together.
    pub(super) fn pace(&mut self, purpose: Purpose, bytes: usize, now: Instant) {
        if purpose != Purpose::Round {
            self.agenda.on_bytes(now, bytes);
            self.audits.on_bytes(now, bytes);
        }
    }

    /// The units of the open audit are followed no more as they were.
    pub(super) fn abandon_audit(&mut self, cx: &mut Cx<'_>) {
        self.drop_audit_reconciliations(cx);
        self.audits.abandon();
    }

    /// A full catch-up that began then has ended well.
    pub fn note_full_catchup(&mut self, began: Now) {
        self.end_full(began.wall);
        self.budget.note_audit(began.wall);
        self.audits.on_full_catchup(began, audited_by(&self.budget));
    }

    /// Whether only the policy can tell whether what comes for a subscription was asked for: the relay is asked for
    /// everything, or about a thread.
    pub fn leaves_to_policy(&self, subscription: &str) -> bool {
        self.filtering().is_unfiltered() || self.subject_of(subscription).is_some_and(Subject::is_of_thread)
    }
}
