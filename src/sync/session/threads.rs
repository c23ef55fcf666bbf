//! The threads of a round: when its sweeps have brought what tags repos and root events, the round asks what tags that in
//! turn (spec section 8, one generation further). What it asks about is looked up a few units at a time, and
//! once what the sweeps brought is committed.

use std::collections::{BTreeSet, VecDeque};

use nostr::event::EventId;

use super::Session;
use super::subscription::{Purpose, Task};
use crate::limits::{AUDIT_THREAD_SECS, BATCH_AGE_MAX, THREAD_LOOKUP_PAUSE, THREAD_LOOKUPS_AT_ONCE};
use crate::sync::Cx;
use crate::sync::audit::thread_subjects;
use crate::sync::filters::{Unit, chunk};
use crate::sync::sweep::Sweep;
use crate::time::{Instant, UnixTime};

/// The units whose threads the round has yet to ask about.
#[derive(Debug, Default)]
pub(super) struct Threads {
    units: VecDeque<Unit>,
    /// Found, and fewer than fill a filter.
    ids: BTreeSet<EventId>,
    /// When the sweeps before them had ended; `None` until then.
    ready_at: Option<Instant>,
    /// A part of what tags the first unit was had.
    is_begun: bool,
    /// Lookups since the last pause.
    lookups: usize,
    /// No lookup before this.
    pause_until: Instant,
}

/// Of what it is wanted to be known which events tag it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedThread<'a> {
    /// The repos or root events.
    pub unit: &'a Unit,
    /// Only what was created since then.
    pub since: Option<UnixTime>,
    /// It may wait until what came before has been committed.
    pub may_wait: bool,
    /// A part of it was had already: what comes next is wanted.
    pub is_begun: bool,
}

/// Events that tag it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ThreadPart {
    /// Some of them.
    More(Vec<EventId>),
    /// The rest.
    Last(Vec<EventId>),
    /// There are more than may be looked at.
    TooLarge,
}

impl Threads {
    pub(super) fn clear(&mut self) {
        *self = Threads::default();
    }

    /// All other sweeps of the round have ended.
    pub(super) fn begin(&mut self, now: Instant) {
        if !self.units.is_empty() {
            self.ready_at.get_or_insert(now);
        }
    }

    /// Until when a lookup waits for a commit: then nothing that came before is still in a batch.
    fn settled_at(&self) -> Option<Instant> {
        self.ready_at.map(|at| at + BATCH_AGE_MAX + BATCH_AGE_MAX)
    }
}

impl Session {
    /// The round asks about the threads of these units, too, when all its sweeps have ended.
    pub fn add_threads(&mut self, units: impl IntoIterator<Item = Unit>) {
        for unit in units.into_iter().filter(|unit| !unit.is_layer_1()) {
            self.round.add_lookup();
            self.threads.units.push_back(unit);
            self.threads.ready_at = None;
        }
    }

    /// The unit for which [`Session::add_thread`] is wanted, if one is.
    pub fn wanted_thread(&self, cx: &Cx<'_>) -> Option<WantedThread<'_>> {
        if let Some(unit) = self.audits.wanted_thread() {
            let since = Some(cx.now.wall.minus_secs(AUDIT_THREAD_SECS));
            return Some(WantedThread { unit, since, may_wait: false, is_begun: self.audits.has_begun_thread() });
        }
        let settled_at = self.threads.settled_at()?;
        let is_next = self.queue.is_empty() && self.threads.pause_until <= cx.now.mono;
        let unit = self.threads.units.front().filter(|_| is_next)?;
        Some(WantedThread { unit, since: None, may_wait: cx.now.mono < settled_at, is_begun: self.threads.is_begun })
    }

    /// When a thread that is wanted is to be looked up at the latest.
    pub(super) fn next_thread_at(&self, now: Instant) -> Option<Instant> {
        let settled_at = self.threads.settled_at().filter(|_| self.queue.is_empty())?;
        let waits = [self.threads.pause_until, settled_at];
        waits.into_iter().filter(|at| *at > now && !self.threads.units.is_empty()).min()
    }

    /// Events that tag the unit of [`Session::wanted_thread`].
    pub fn add_thread(&mut self, part: ThreadPart, cx: &mut Cx<'_>) {
        cx.metrics.audit_left_out += u64::from(part == ThreadPart::TooLarge);
        let is_last = !matches!(part, ThreadPart::More(_));
        let ids = match part {
            ThreadPart::More(ids) | ThreadPart::Last(ids) => ids,
            ThreadPart::TooLarge => Vec::new(),
        };
        if self.audits.wanted_thread().is_some() {
            cx.metrics.audit_left_out += self.audits.add_thread(ids);
            if is_last {
                let subjects = self.audits.end_thread();
                self.ask_audit(subjects);
            }
            return self.pump(cx);
        }
        if self.threads.units.is_empty() {
            return;
        }
        if is_last {
            self.threads.units.pop_front();
        }
        self.threads.is_begun = !is_last;
        self.threads.lookups += 1;
        if self.threads.lookups >= THREAD_LOOKUPS_AT_ONCE || !is_last {
            self.threads.lookups = 0;
            self.threads.pause_until = cx.now.mono + THREAD_LOOKUP_PAUSE;
        }
        self.threads.ids.extend(ids);
        let values_max = self.shape(cx).values;
        // What tags the next unit may share a filter with the rest.
        while self.threads.ids.len() >= values_max || (self.threads.units.is_empty() && !self.threads.ids.is_empty()) {
            let some: Vec<EventId> = std::iter::from_fn(|| self.threads.ids.pop_first()).take(values_max).collect();
            for subject in chunk(some, values_max).iter().flat_map(thread_subjects) {
                self.round.add_sweep();
                self.queue.push_back(Task::new(Sweep::new(subject, None), Purpose::Round));
            }
        }
        if is_last {
            self.round.on_lookup();
        }
        self.pump(cx);
    }
}
