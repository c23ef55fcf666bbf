//! What ended a link, on the next ones: it is looked for before anything else is asked, and gone around once it is known.

use super::subscription::Subscription;
use super::{Purpose, Session, Sweep, Task};
use crate::contract::CloseReason;
use crate::sync::Cx;
use crate::sync::detour::{Open, Suspect, reason_of};
use crate::sync::filters::Subject;
use crate::sync::gap::{Gap, Span};
use crate::time::UnixTime;

impl Session {
    /// The link has ended. If an answer has ended it, what was open is to be asked alone.
    pub fn look_for_what_broke(&mut self, reason: CloseReason, cx: &mut Cx<'_>) {
        let Some(reason) = reason_of(reason) else { return };
        let paging = &self.budget.paging;
        let suspect = |sweep: &Sweep| {
            let span = sweep.span_left(paging, cx.now.wall);
            Suspect { subject: sweep.subject().clone(), span, is_near: !sweep.page_is_empty() }
        };
        let tasks = self.subscriptions.values().filter_map(|subscription| match subscription {
            Subscription::Page { task, .. } => Some(task),
            Subscription::Live { .. } | Subscription::Fetch { .. } => None,
        });
        let alone = tasks.clone().find(|task| task.purpose == Purpose::Detour);
        let some: Vec<Suspect> = tasks.map(|task| &task.sweep).chain(self.sweeps_fetched()).map(suspect).collect();
        let open = match alone {
            Some(task) => Open::Suspect(task.sweep.span_left(paging, cx.now.wall)),
            None if some.is_empty() => Open::Live,
            None => Open::Some(some),
        };
        let walk = paging.walk();
        let found = self.budget.detours.on_break(open, reason, &mut self.budget.gaps, walk, cx.now, cx.state);
        cx.metrics.sweep_gaps += u64::from(found);
    }

    /// What is to be asked alone, if nothing else is open that has not had its answer.
    pub(super) fn next_alone(&mut self) -> Option<Task> {
        let suspect = self.budget.detours.next()?;
        let waits = self.subscriptions.values().any(|sub| sub.is_unanswered());
        let pages = self.subscriptions.len() > self.live_subscriptions();
        if waits || pages || !self.has_slot() {
            return None;
        }
        let begun = Sweep::within(suspect.subject.clone(), suspect.span);
        let next = self.agenda.queue.take_first(true, |task| task.purpose == Purpose::Detour);
        Some(next.unwrap_or_else(|| Task::new(begun, Purpose::Detour)))
    }

    pub(super) fn on_detour_end(&mut self) {
        if self.agenda.queue.count(Purpose::Detour) == 0 {
            self.budget.detours.on_answer();
        }
    }

    /// Gives back a sweep that does not ask for what ends links; one that does is replaced by what lies around that.
    pub(super) fn go_around(&mut self, task: Task, cx: &mut Cx<'_>) -> Option<Task> {
        if !self.budget.gaps.end_links() {
            return Some(task);
        }
        let span = task.sweep.span(cx.now.wall);
        let asks = |gap: &Gap, subject: &Subject| subject.whole(None, false, cx.state) == gap.what;
        let is_asked = |gap: &Gap| {
            let subject = task.sweep.subject();
            asks(gap, subject) || subject.singles().iter().any(|single| asks(gap, single))
        };
        let Some(gap) = self.budget.gaps.ending_links(span, is_asked) else { return Some(task) };
        let at = gap.span;
        let (mut gapped, mut others) = (Vec::new(), Vec::new());
        tell_apart(task.sweep.subject().clone(), &|subject| asks(gap, subject), &mut gapped, &mut others);
        for subject in &gapped {
            self.agenda.round.on_gap(subject, cx.state);
        }
        let parts = around(&task.sweep, at, others, cx.now.wall);
        match parts.is_empty() {
            true => self.end(task, true, cx),
            false => self.split(task, parts, cx),
        }
        None
    }
}

/// What is left of a sweep beside a gap, in the order of time, and of the gap's own time what asks for other values.
fn around(sweep: &Sweep, gap: Span, others: Vec<Subject>, now: UnixTime) -> Vec<Sweep> {
    let span = sweep.span(now);
    let mut parts = Vec::new();
    if span.from < gap.from {
        parts.push(sweep.within_until(gap.from.minus_secs(1)));
    }
    let within = Span { from: span.from.max(gap.from), to: span.to.min(gap.to) };
    parts.extend(others.into_iter().map(|subject| Sweep::within(subject, within)));
    if gap.to < span.to {
        parts.push(sweep.within_since(gap.to.plus_secs(1)));
    }
    parts
}

/// Cuts a question into parts that are the one in question, and parts that do not hold it.
fn tell_apart(subject: Subject, is_it: &impl Fn(&Subject) -> bool, it: &mut Vec<Subject>, others: &mut Vec<Subject>) {
    if is_it(&subject) {
        it.push(subject);
    } else if let Some(halves) = subject.halves().filter(|_| subject.singles().iter().any(is_it)) {
        halves.into_iter().for_each(|half| tell_apart(half, is_it, it, others));
    } else {
        others.push(subject);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::testing::author;

    fn by(authors: impl IntoIterator<Item = u8>) -> Subject {
        Subject::Deletions(authors.into_iter().map(author).collect())
    }

    #[test]
    fn all_that_lies_around_a_place_is_asked_for() {
        let (mut it, mut others) = (Vec::new(), Vec::new());
        tell_apart(by(1..=4), &|subject| *subject == by([3]), &mut it, &mut others);
        assert_eq!((it, &others), (vec![by([3])], &vec![by([1, 2]), by([4])]));
        let now = UnixTime::from_secs(1_000);
        let place = Span::of_second(UnixTime::from_secs(9));
        let asked = |since| {
            let sweep = Sweep::new(by(1..=4), Some(UnixTime::from_secs(since)));
            let parts = around(&sweep, place, others.clone(), now);
            Vec::from_iter(parts.iter().map(|part| {
                let span = part.span(now);
                (part.subject().values(), span.from.as_secs(), span.to.as_secs())
            }))
        };
        let end = Sweep::new(by([1]), None).span(now).to.as_secs();
        assert_eq!(asked(5), [(4, 5, 8), (2, 9, 9), (1, 9, 9), (4, 10, end)]);
        assert_eq!(asked(9), [(2, 9, 9), (1, 9, 9), (4, 10, end)], "nothing lies before it");
    }
}
