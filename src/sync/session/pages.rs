//! Sweeps on one link, page by page: which is asked next, what its end means, and what becomes of one that fails.

use log::warn;

use super::next::class_of;
use super::subscription::{Subscription, is_page_of};
use super::{Number, Purpose, Session, Sweep, Task};
use crate::limits::{SWEEP_ATTEMPTS_MAX, SWEEP_RETRY_AFTER};
use crate::sync::Cx;
use crate::sync::agenda::round::RoundWhy;
use crate::sync::filters::{Bounds, Subject};
use crate::sync::gap::{Gap, GapReason, Span};
use crate::sync::reconcile::Unserved;
use crate::sync::sweep::PageEnd;
use crate::time::Instant;

impl Session {
    /// Begins a new round without sweeps; any that wait are dropped.
    pub fn begin_round(&mut self, why: RoundWhy, cx: &Cx<'_>) {
        debug_assert!(!self.subscriptions.values().any(|sub| is_page_of(sub, Purpose::Round)), "a round ends first");
        debug_assert!(!self.is_reconciling_round(), "a round ends first");
        self.agenda.begin_round(why, cx.now);
        self.lateness.begin_round(why);
    }

    /// Asks parts of a question instead of the whole, the last one first. There is one at least.
    pub(super) fn split(&mut self, task: Task, parts: Vec<Sweep>, cx: &mut Cx<'_>) {
        cx.metrics.sweeps.add("split");
        self.agenda.split(task, parts);
    }

    /// The first task whose question is not open already: a repo that was lost and is back may be swept twice, and some
    /// relays leave a REQ that is identical to an open one unanswered.
    pub(super) fn next_task(&mut self, cx: &Cx<'_>) -> Option<Task> {
        let open: Vec<&Sweep> = self
            .subscriptions
            .values()
            .filter_map(|subscription| match subscription {
                Subscription::Page { task, .. } => Some(&task.sweep),
                Subscription::Live { .. } | Subscription::Fetch { .. } => None,
            })
            .collect();
        let paging = &self.budget.paging;
        let is_open = |sweep: &Sweep| {
            let same = |other: &&Sweep| {
                sweep.asked(paging, 0) == other.asked(paging, 0) && sweep.subject().asks_same(other.subject(), cx.state)
            };
            open.iter().any(same)
        };
        let to_reconcile = !self.waits_to_reconcile(cx.now.wall);
        self.agenda.queue.take_first(to_reconcile, |task| !is_open(&task.sweep))
    }

    pub(super) fn ask_page(&mut self, task: Task, cx: &mut Cx<'_>) {
        cx.metrics.sweep_pages += 1;
        let limit = self.budget.page_limit(*task.sweep.subject() == Subject::Announcements);
        let bounds = task.sweep.asked(&self.budget.paging, limit);
        let (number, asked) = self.send_req(class_of(&task), std::slice::from_ref(task.sweep.subject()), bounds, cx);
        self.log_task(number, &task, bounds);
        self.agenda.on_bytes(task.purpose, asked.bytes, cx.now.mono);
        self.subscriptions.insert(
            number,
            Subscription::Page {
                task: Box::new(task),
                asked,
                heard_at: cx.now.mono,
                noticed: false,
                unproductive: true,
                ended: None,
            },
        );
    }

    /// Keeps a page open whose EOSE has come.
    pub(super) fn hold_page(&mut self, number: Number, now: Instant) {
        if let Some(Subscription::Page { task, ended, heard_at, .. }) = self.subscriptions.get_mut(&number) {
            (*ended, *heard_at) = (Some((now, task.sweep.page_events())), now);
        }
    }

    /// A page is over. `open`: it has to be closed.
    pub(super) fn end_page(&mut self, number: Number, open: bool, cx: &mut Cx<'_>) {
        let Some(Subscription::Page { noticed, asked, .. }) = self.subscriptions.get(&number) else { return };
        let (noticed, asked) = (*noticed, asked.bounds);
        let Some(task) = self.take_page(number, cx) else { return };
        if open {
            self.send_close(number, cx);
        }
        self.remember_closed(number);
        // Some stores that fail say so in a NOTICE and then end the answer as if they held nothing.
        let doubtful = noticed && task.sweep.page_is_empty() && task.failures == 0;
        match doubtful && task.purpose == Purpose::Round {
            true => self.fail(task, cx),
            false => self.on_page_end(task, asked, cx),
        }
    }

    pub(super) fn close_page(&mut self, number: Number, cx: &mut Cx<'_>) -> Option<Task> {
        let task = self.take_page(number, cx)?;
        self.send_close(number, cx);
        Some(task)
    }

    /// Takes a page out of what is open.
    fn take_page(&mut self, number: Number, cx: &Cx<'_>) -> Option<Task> {
        match self.subscriptions.remove(&number)? {
            Subscription::Page { task, unproductive, .. } => {
                if unproductive {
                    self.budget.unproductive.on_page(cx.now.mono);
                }
                Some(*task)
            }
            other @ (Subscription::Live { .. } | Subscription::Fetch { .. }) => {
                self.subscriptions.insert(number, other);
                None
            }
        }
    }

    fn on_page_end(&mut self, mut task: Task, asked: Bounds, cx: &mut Cx<'_>) {
        task.by_pages = true;
        let end = task.sweep.on_eose(&mut self.budget.paging, asked, cx.now.wall);
        if let Some((span, reason)) = task.sweep.take_gap() {
            self.note_gap(task.sweep.subject(), span, reason, cx);
        }
        match end {
            PageEnd::Next => self.agenda.queue.push_front(task),
            PageEnd::Split(halves) => self.split(task, Vec::from(*halves), cx),
            PageEnd::Done => self.end(task, true, cx),
            PageEnd::PagesExceeded => self.end(task, false, cx),
        }
    }

    /// Some of what a sweep asks for cannot be had.
    pub(super) fn note_gap(&mut self, subject: &Subject, span: Span, reason: GapReason, cx: &mut Cx<'_>) {
        cx.metrics.sweep_gaps += 1;
        self.agenda.round.on_gap(subject, cx.state);
        let what = subject.whole(None, self.budget.learned.named_kinds, cx.state);
        warn!("cannot be had, from {} to {}: {}; {what}", span.from, span.to, reason.why());
        self.budget.gaps.add(Gap { span, what, reason, found_at: cx.now.wall });
    }

    /// A try failed: it is repeated later on this link, unless it was part of a turn, which comes round anyway.
    pub(super) fn fail(&mut self, mut task: Task, cx: &mut Cx<'_>) {
        task.sweep.restart_page();
        task.failures += 1;
        if task.purpose != Purpose::Round || task.failures >= SWEEP_ATTEMPTS_MAX {
            return self.end(task, false, cx);
        }
        cx.metrics.sweeps.add("retried");
        self.agenda.queue.retry(task, cx.now.mono + SWEEP_RETRY_AFTER);
    }

    pub(super) fn end(&mut self, task: Task, ok: bool, cx: &mut Cx<'_>) {
        match ok {
            true => cx.metrics.sweeps.add("done"),
            false => cx.metrics.sweeps.add("failed"),
        }
        let Unserved { state_seq, ids } = &task.unserved;
        if ok && *state_seq == cx.state.last_seq() {
            // Pages have not brought them either, or they are held by now.
            ids.iter().for_each(|id| self.budget.reconciling.on_unserved(*id, *state_seq));
        }
        self.agenda.on_sweep_end(task.purpose, task.sweep.subject(), ok, cx.state);
        if task.purpose == Purpose::Detour {
            self.on_detour_end();
        }
    }
}
