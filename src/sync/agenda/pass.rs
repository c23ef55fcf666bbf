//! A pass: sweeps that are over together, so that what they ask for is complete then. A catch-up is one, with what windows
//! add to it; so are each poll and each audit.
//!
//! A pass goes step by step: a step begins when every sweep before it has ended. What a step asks may have to be looked up
//! in the store first: the authors whose deletions are asked for, and the threads of a unit, which are what tags the events
//! that tag it (spec section 8, one generation further). The store is asked once what the sweeps brought is committed.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use nostr::event::EventId;

use crate::limits::{BATCH_AGE_MAX, THREAD_LOOKUP_PAUSE, THREAD_LOOKUPS_AT_ONCE};
use crate::sync::filters::{Subject, THREAD_TAG_LETTERS, Unit, chunk};
use crate::sync::sweep::Sweep;
use crate::time::{Instant, UnixTime};

/// Sweeps that are over together.
#[derive(Debug, Default)]
pub struct Pass {
    /// What comes when no sweep is left.
    steps: VecDeque<Step>,
    /// Sweeps begun or waiting.
    left: usize,
    /// Sweeps it ever had.
    total: usize,
    lookup: Lookup,
}

/// A part of a pass.
#[derive(Clone, Debug)]
pub enum Step {
    /// These sweeps.
    Ask(Vec<Sweep>),
    /// What tags the events that tag a unit.
    Threads(Unit),
    /// Deletions by the authors whose events are held.
    Authors,
}

impl Step {
    /// One sweep for each of these questions.
    pub fn ask(subjects: impl IntoIterator<Item = Subject>, since: Option<UnixTime>) -> Step {
        Step::Ask(subjects.into_iter().map(|subject| Sweep::new(subject, since)).collect())
    }
}

/// How far the lookups of the steps are that come next.
#[derive(Debug, Default)]
struct Lookup {
    /// When the sweeps before them had ended; `None` until then.
    ready_at: Option<Instant>,
    /// A part of what tags the unit was had.
    is_begun: bool,
    /// Lookups since the last pause.
    since_pause: usize,
    /// No lookup before this.
    pause_until: Instant,
    /// Events of threads that were found, and are fewer than fill a filter.
    ids: BTreeSet<EventId>,
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

impl ThreadPart {
    /// The events, and whether no more will come.
    pub fn into_ids(self) -> (Vec<EventId>, bool) {
        match self {
            ThreadPart::More(ids) => (ids, false),
            ThreadPart::Last(ids) => (ids, true),
            ThreadPart::TooLarge => (Vec::new(), true),
        }
    }
}

/// Steps and sweeps.
impl Pass {
    /// A step comes behind all others.
    pub fn add_step(&mut self, step: Step) {
        self.steps.push_back(step);
    }

    /// A step comes before all others that have not begun.
    pub fn add_next_step(&mut self, step: Step) {
        self.steps.push_front(step);
    }

    /// The threads of these units are asked about when all other sweeps have ended, and before the deletions.
    pub fn add_threads(&mut self, units: impl IntoIterator<Item = Unit>) {
        let authors = self.steps.iter().position(|step| matches!(step, Step::Authors)).unwrap_or(self.steps.len());
        let after = self.steps.split_off(authors);
        self.steps.extend(units.into_iter().filter(|unit| !unit.is_layer_1()).map(Step::Threads));
        self.steps.extend(after);
        self.lookup.ready_at = None;
    }

    /// So many sweeps join it.
    pub fn add_sweeps(&mut self, sweeps: usize) {
        self.left += sweeps;
        self.total += sweeps;
    }

    /// Begins the next step if it is due: what it asks now, if that is known.
    pub fn begin_step(&mut self, now: Instant) -> Option<Vec<Sweep>> {
        if self.left > 0 {
            return None;
        }
        match self.steps.pop_front()? {
            Step::Ask(sweeps) => {
                self.add_sweeps(sweeps.len());
                Some(sweeps)
            }
            step @ (Step::Threads(_) | Step::Authors) => {
                self.lookup.ready_at.get_or_insert(now);
                self.steps.push_front(step);
                None
            }
        }
    }

    /// Whether some step asks what is known now.
    pub fn has_more_to_ask(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Ask(_)))
    }

    /// Nothing is asked but what has begun.
    pub fn drop_steps(&mut self) {
        self.steps.clear();
    }

    /// A sweep ended.
    pub fn on_sweep_end(&mut self) {
        assert!(self.left > 0, "a sweep ends once");
        self.left -= 1;
    }

    /// Sweeps begun or waiting.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Whether it has neither sweeps nor steps, and never had any.
    pub fn is_empty(&self) -> bool {
        self.total == 0 && self.steps.is_empty()
    }

    /// Whether no sweep is left, and none can follow.
    pub fn is_over(&self) -> bool {
        self.left == 0 && self.steps.is_empty()
    }

    /// Sweeps that have ended, and sweeps in all, as far as they are known: of threads, one for each unit.
    pub fn sweeps_done(&self) -> (usize, usize) {
        let to_come = self.steps.iter().map(|step| match step {
            Step::Ask(sweeps) => sweeps.len(),
            Step::Threads(_) => 1,
            Step::Authors => 0,
        });
        (self.total - self.left, self.total + to_come.sum::<usize>())
    }
}

/// Lookups.
impl Pass {
    /// Whether the authors whose events are held are wanted.
    pub fn wants_authors(&self) -> bool {
        self.left == 0 && self.lookup.ready_at.is_some() && matches!(self.steps.front(), Some(Step::Authors))
    }

    /// They are known.
    pub fn end_authors(&mut self) {
        if matches!(self.steps.front(), Some(Step::Authors)) {
            self.steps.pop_front();
        }
    }

    /// The unit of which it is wanted to be known what tags it, if there is one; `since` when.
    pub fn wanted_thread(&self, since: Option<UnixTime>, now: Instant) -> Option<WantedThread<'_>> {
        let settled_at = self.settled_at().filter(|_| self.lookup.pause_until <= now)?;
        let Some(Step::Threads(unit)) = self.steps.front() else { return None };
        Some(WantedThread { unit, since, may_wait: now < settled_at, is_begun: self.lookup.is_begun })
    }

    /// Whether it goes on when something has been looked up.
    pub fn is_looking_up(&self) -> bool {
        self.lookup.ready_at.is_some() && matches!(self.steps.front(), Some(Step::Threads(_) | Step::Authors))
    }

    /// When a thread is wanted at the latest, if that is not now.
    pub fn next_thread_at(&self, now: Instant) -> Option<Instant> {
        let settled_at = self.settled_at().filter(|_| matches!(self.steps.front(), Some(Step::Threads(_))))?;
        [self.lookup.pause_until, settled_at].into_iter().filter(|at| *at > now).min()
    }

    /// Whether a part of what tags a unit was had.
    pub fn has_begun_thread(&self) -> bool {
        self.lookup.is_begun
    }

    /// Until when a lookup waits for a commit: then nothing that came before is still in a batch.
    fn settled_at(&self) -> Option<Instant> {
        self.lookup.ready_at.map(|at| at + BATCH_AGE_MAX + BATCH_AGE_MAX)
    }

    /// Events that tag the unit of [`Pass::wanted_thread`]; `is_last`: no more do. Returns what is to be asked about them, in
    /// chunks of at most `values_max` values; what tags the next unit may share one with the rest.
    pub fn add_thread(
        &mut self,
        ids: Vec<EventId>,
        is_last: bool,
        values_max: usize,
        now: Instant,
    ) -> Vec<[Subject; 2]> {
        if is_last && matches!(self.steps.front(), Some(Step::Threads(_))) {
            self.steps.pop_front();
        }
        let lookup = &mut self.lookup;
        lookup.is_begun = !is_last;
        lookup.since_pause += 1;
        if lookup.since_pause >= THREAD_LOOKUPS_AT_ONCE || !is_last {
            (lookup.since_pause, lookup.pause_until) = (0, now + THREAD_LOOKUP_PAUSE);
        }
        lookup.ids.extend(ids);
        let was_last_unit = is_last && !matches!(self.steps.front(), Some(Step::Threads(_)));
        let mut chunks = Vec::new();
        while lookup.ids.len() >= values_max || (was_last_unit && !lookup.ids.is_empty()) {
            let some: Vec<EventId> = std::iter::from_fn(|| lookup.ids.pop_first()).take(values_max).collect();
            chunks.extend(chunk(some, values_max).iter().map(thread_subjects));
        }
        chunks
    }
}

/// The filters for what tags some events.
fn thread_subjects(ids: &Rc<[EventId]>) -> [Subject; 2] {
    THREAD_TAG_LETTERS.map(|letter| Subject::ThreadTag(letter, ids.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::testing::root_id;
    use crate::time::Duration;

    const NOW: Instant = Instant::ZERO;

    fn repos() -> Unit {
        Unit::Repos([].into())
    }

    fn step(sweeps: usize) -> Step {
        Step::Ask(vec![Sweep::new(Subject::Everything, None); sweeps])
    }

    fn ids(range: std::ops::Range<u32>) -> Vec<EventId> {
        range.map(root_id).collect()
    }

    #[test]
    fn a_step_begins_when_every_sweep_before_it_has_ended() {
        let mut pass = Pass::default();
        pass.add_step(step(2));
        pass.add_step(step(1));
        assert_eq!(pass.begin_step(NOW).map(|sweeps| sweeps.len()), Some(2));
        pass.add_sweeps(1);
        assert_eq!(pass.sweeps_done(), (0, 4));
        (0..3).for_each(|_| {
            assert!(pass.begin_step(NOW).is_none());
            pass.on_sweep_end();
        });
        assert!(!pass.is_over());
        assert_eq!(pass.begin_step(NOW).map(|sweeps| sweeps.len()), Some(1));
        pass.on_sweep_end();
        assert!(pass.is_over() && pass.begin_step(NOW).is_none());
    }

    #[test]
    fn threads_wait_for_sweeps_and_deletions_for_threads() {
        let mut pass = Pass::default();
        pass.add_step(Step::Authors);
        pass.add_threads([Unit::Announcements, repos()]);
        pass.add_sweeps(1);
        assert!(pass.begin_step(NOW).is_none() && pass.wanted_thread(None, NOW).is_none());
        pass.on_sweep_end();
        assert!(pass.begin_step(NOW).is_none());
        let settled_at = NOW + BATCH_AGE_MAX + BATCH_AGE_MAX;
        assert_eq!(pass.next_thread_at(NOW), Some(settled_at));
        assert!(pass.wanted_thread(None, NOW).is_some_and(|wanted| wanted.may_wait && !wanted.is_begun));
        assert!(pass.wanted_thread(None, settled_at).is_some_and(|wanted| !wanted.may_wait));
        assert!(!pass.wants_authors());
        assert_eq!(pass.add_thread(ids(0..3), true, 100, NOW).len(), 1);
        pass.add_sweeps(2);
        assert!(pass.begin_step(NOW).is_none() && !pass.wants_authors(), "the thread is being asked about");
        (0..2).for_each(|_| pass.on_sweep_end());
        assert!(pass.wants_authors() && !pass.is_over());
        pass.end_authors();
        assert!(pass.is_over());
    }

    #[test]
    fn what_tags_two_units_may_share_a_filter() {
        let mut pass = Pass::default();
        pass.add_threads([repos(), repos()]);
        assert!(pass.begin_step(NOW).is_none());
        let of = |chunks: Vec<[Subject; 2]>| chunks.iter().map(|[first, _]| first.values()).collect::<Vec<_>>();
        assert_eq!(of(pass.add_thread(ids(0..5), false, 4, NOW)), [4]);
        assert!(pass.has_begun_thread() && pass.wanted_thread(None, NOW).is_none(), "a pause comes between two parts");
        let later = NOW + Duration::from_secs(1);
        assert!(pass.wanted_thread(None, later).is_some_and(|wanted| wanted.is_begun));
        assert_eq!(of(pass.add_thread(ids(5..7), true, 4, later)), Vec::<usize>::new());
        assert_eq!(of(pass.add_thread(ids(6..9), true, 4, later)), [4, 1]);
        assert!(pass.is_over());
    }
}
