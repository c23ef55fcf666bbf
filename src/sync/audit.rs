//! Audits: a relay is asked once more for everything it shares with us, reaching back further than the overlap, and for
//! what neither a live subscription nor a poll asks for (spec sections 5, 6 and 8).
//!
//! Live subscriptions and polls ask since a little before they last did, by the date that an event bears. What is dated
//! further back when it comes to the relay is not among it; nor are deletions and reactions that tag a comment alone;
//! nor what a relay has lost on its way to us without a word. The daily full catch-up finds all of it, and an audit most,
//! within hours.
//!
//! An audit goes through the units that are followed when it begins, one at a time, then asks for deletions, then for what
//! tags the newer of the events that tag the units' repos and root events. All of it is asked since the last audit that
//! succeeded, less a look-back: longer where the relay reconciles, since what is held already costs only ids there. Audits
//! keep within the bytes of polls, which also count here.
//!
//! This module decides what is asked next. It does not know links, subscriptions or the store.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use nostr::event::EventId;
use nostr::key::PublicKey;

use crate::limits::{
    AUDIT_AUTHORS_MAX, AUDIT_LOOK_BACK_RECONCILED_SECS, AUDIT_LOOK_BACK_SECS, AUDIT_PERIOD_MAX, AUDIT_PERIOD_MIN,
    AUDIT_PERIOD_RECONCILED, AUDIT_THREAD_IDS_MAX, CLOCK_SLACK_SECS, POLL_BYTES_PER_SEC,
};
use crate::protocol::repo::GIT_KINDS;
use crate::sync::filters::{Subject, THREAD_TAG_LETTERS, Unit, chunk};
use crate::time::{Duration, Instant, Now, UnixTime};

/// The audits of one link.
#[derive(Debug)]
pub struct Audits {
    /// Between the beginnings of two audits.
    period: Duration,
    /// No audit begins before this.
    due: Instant,
    open: Option<Audit>,
    /// Nothing is asked before this: what was asked before cost so much.
    paced_until: Instant,
}

/// How an audit asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Page by page.
    Pages,
    /// By comparing sets of ids (NIP-77).
    Sets,
}

impl By {
    fn period(self) -> Duration {
        match self {
            By::Pages => AUDIT_PERIOD_MAX,
            By::Sets => AUDIT_PERIOD_RECONCILED,
        }
    }

    fn look_back_secs(self) -> u64 {
        match self {
            By::Pages => AUDIT_LOOK_BACK_SECS,
            By::Sets => AUDIT_LOOK_BACK_RECONCILED_SECS,
        }
    }
}

/// An audit that is under way.
#[derive(Debug)]
struct Audit {
    began: Now,
    by: By,
    since: UnixTime,
    /// What was created since then should have come live.
    live_since: UnixTime,
    steps: VecDeque<Step>,
    asking: Asking,
    /// Events of whose threads something may be new.
    thread: BTreeSet<EventId>,
    failed: bool,
    /// It has found what should have come live.
    found: bool,
}

/// A part of an audit.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// What is new of a unit. `live`: it is followed by a live subscription.
    Unit { unit: Unit, live: bool },
    /// What a filter asks, for each tag by which it may be asked.
    Ask(Vec<Subject>),
    /// Deletions by the authors whose events are held, who have to be looked up.
    Authors,
    /// What tags the events that were found to tag the units.
    Threads,
}

/// What is under way of an audit.
#[derive(Debug)]
enum Asking {
    Nothing,
    /// What tags the unit is to be looked up.
    ThreadOf {
        unit: Unit,
        live: bool,
        /// A part of it was had.
        begun: bool,
    },
    /// Authors are to be looked up.
    Authors,
    Sweeps {
        left: usize,
        live: bool,
    },
}

/// What comes next in an audit.
#[derive(Debug, PartialEq, Eq)]
pub enum Poll {
    /// Something is under way, or to be looked up.
    Wait,
    /// This is to be asked, from the time that the audit holds.
    Ask(Vec<Subject>),
    /// It is over. When it began, if it has found everything.
    Over(Option<UnixTime>),
}

impl Audits {
    /// Those of a new link. `audited`: when the last one that found everything began. What was due while there was no link
    /// begins after `spread`.
    pub fn new(audited: UnixTime, by: By, spread: Duration, now: Now) -> Audits {
        let period = by.period();
        let since = now.wall.as_secs().checked_sub(audited.as_secs()).filter(|_| is_known(audited, now));
        let left = since.map_or(0, |since| period.as_secs().saturating_sub(since));
        let due = now.mono + Duration::from_secs(left).max(spread);
        Audits { period, due, open: None, paced_until: Instant::ZERO }
    }

    /// The time between the beginnings of two audits.
    pub fn period(&self) -> Duration {
        self.period
    }

    /// When something is next to be asked; `None` while something is under way.
    pub fn next_at(&self) -> Option<Instant> {
        match &self.open {
            None => Some(self.due.max(self.paced_until)),
            Some(Audit { asking: Asking::Nothing, .. }) => Some(self.paced_until),
            Some(_) => None,
        }
    }

    /// Whether one is under way.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Begins one over some units, each with whether it is live. `overlap_secs`: by which live subscriptions reach back.
    pub fn begin(&mut self, units: Vec<(Unit, bool)>, by: By, audited: UnixTime, overlap_secs: u64, now: Now) {
        self.period = self.period.min(by.period());
        let unfiltered = units.iter().any(|(unit, _)| *unit == Unit::Everything);
        let mut steps: VecDeque<Step> = units.into_iter().map(|(unit, live)| Step::Unit { unit, live }).collect();
        if !unfiltered {
            let of_kinds = Step::Ask(vec![Subject::DeletionsOf(GIT_KINDS.into())]);
            steps.extend([of_kinds, Step::Authors, Step::Threads]);
        }
        // Where nothing is known, a full catch-up is due, or was had within the day.
        let (since, live_since) = match is_known(audited, now) {
            true => (audited.min(now.wall).minus_secs(by.look_back_secs()), audited.minus_secs(overlap_secs)),
            false => (now.wall.minus_secs(AUDIT_LOOK_BACK_RECONCILED_SECS), now.wall),
        };
        self.open = Some(Audit {
            began: now,
            by,
            since,
            live_since,
            steps,
            asking: Asking::Nothing,
            thread: BTreeSet::new(),
            failed: false,
            found: false,
        });
    }

    /// What comes next in the open one. Chunks have at most `values_max` values.
    pub fn poll(&mut self, values_max: usize) -> Poll {
        let Some(audit) = &mut self.open else { return Poll::Wait };
        while matches!(audit.asking, Asking::Nothing) {
            match audit.steps.pop_front() {
                Some(Step::Unit { unit, live }) if unit.is_layer_1() => {
                    return Poll::Ask(audit.ask(unit.subjects(), live));
                }
                Some(Step::Unit { unit, live }) => audit.asking = Asking::ThreadOf { unit, live, begun: false },
                Some(Step::Ask(subjects)) => return Poll::Ask(audit.ask(subjects, false)),
                Some(Step::Authors) => audit.asking = Asking::Authors,
                Some(Step::Threads) => {
                    let ids = chunk(std::mem::take(&mut audit.thread), values_max);
                    audit.steps.extend(ids.into_iter().map(|ids| Step::Ask(thread_subjects(&ids).into())));
                }
                None => return Poll::Over(self.end()),
            }
        }
        Poll::Wait
    }

    fn end(&mut self) -> Option<UnixTime> {
        let Audit { began, by, failed, found, .. } = self.open.take()?;
        if !found {
            self.period = Duration::from_micros(self.period.as_micros() / 4 * 5).min(by.period());
        }
        self.due = began.mono + self.period;
        (!failed).then_some(began.wall)
    }

    /// The unit of which it is to be looked up what tags it, if that is next.
    pub fn wanted_thread(&self) -> Option<&Unit> {
        match self.open.as_ref()?.asking {
            Asking::ThreadOf { ref unit, .. } => Some(unit),
            _ => None,
        }
    }

    /// Whether some of what tags it was had already.
    pub fn has_begun_thread(&self) -> bool {
        self.open.as_ref().is_some_and(|audit| matches!(audit.asking, Asking::ThreadOf { begun: true, .. }))
    }

    /// Events that tag it. Returns how many of them are beyond the bound.
    pub fn add_thread(&mut self, ids: impl IntoIterator<Item = EventId>) -> u64 {
        let Some(audit) = &mut self.open else { return 0 };
        let Asking::ThreadOf { begun, .. } = &mut audit.asking else { return 0 };
        *begun = true;
        let mut left_out = 0;
        for id in ids {
            match audit.thread.len() < AUDIT_THREAD_IDS_MAX || audit.thread.contains(&id) {
                true => _ = audit.thread.insert(id),
                false => left_out += 1,
            }
        }
        left_out
    }

    /// Those were all. Returns what is to be asked.
    pub fn end_thread(&mut self) -> Vec<Subject> {
        let Some(audit) = &mut self.open else { return Vec::new() };
        match std::mem::replace(&mut audit.asking, Asking::Nothing) {
            Asking::ThreadOf { unit, live, .. } => audit.ask(unit.subjects(), live),
            other => {
                audit.asking = other;
                Vec::new()
            }
        }
    }

    /// Whether the authors whose events are held are to be looked up.
    pub fn wants_authors(&self) -> bool {
        self.open.as_ref().is_some_and(|audit| matches!(audit.asking, Asking::Authors))
    }

    /// The authors whose events are held. Returns how many are beyond the bound.
    pub fn add_authors(&mut self, authors: &[PublicKey], values_max: usize) -> u64 {
        let Some(audit) = self.open.as_mut().filter(|audit| matches!(audit.asking, Asking::Authors)) else { return 0 };
        audit.asking = Asking::Nothing;
        let left_out = authors.len().saturating_sub(AUDIT_AUTHORS_MAX) as u64;
        let chunks = chunk(authors.iter().copied().take(AUDIT_AUTHORS_MAX), values_max);
        for authors in chunks.into_iter().rev() {
            audit.steps.push_front(Step::Ask(vec![Subject::Deletions(authors)]));
        }
        left_out
    }

    /// Since when the open one asks, and how.
    pub fn manner(&self) -> Option<(UnixTime, By)> {
        self.open.as_ref().map(|audit| (audit.since, audit.by))
    }

    /// Sweeps that have not ended.
    pub fn sweeps_left(&self) -> usize {
        match &self.open {
            Some(Audit { asking: Asking::Sweeps { left, .. }, .. }) => *left,
            _ => 0,
        }
    }

    /// A sweep was split in two.
    pub fn on_sweep_split(&mut self) {
        if let Some(Audit { asking: Asking::Sweeps { left, .. }, .. }) = &mut self.open {
            *left += 1;
        }
    }

    /// A sweep ended.
    pub fn on_sweep_end(&mut self, ok: bool) {
        let Some(audit) = &mut self.open else { return };
        let Asking::Sweeps { left, .. } = &mut audit.asking else { return };
        audit.failed |= !ok;
        *left = left.saturating_sub(1);
        if *left == 0 {
            audit.asking = Asking::Nothing;
        }
    }

    /// Something new was found, created then. If it should have come live, audits come sooner for a while.
    pub fn on_found(&mut self, created_at: UnixTime) {
        let Some(audit) = &mut self.open else { return };
        if matches!(audit.asking, Asking::Sweeps { live: true, .. }) && created_at >= audit.live_since {
            audit.found = true;
            self.period = Duration::from_micros(self.period.as_micros() / 2).max(AUDIT_PERIOD_MIN);
        }
    }

    /// What polls and audits have asked cost this many bytes.
    pub fn on_bytes(&mut self, now: Instant, bytes: usize) {
        let micros = bytes as u64 * 1_000_000 / POLL_BYTES_PER_SEC as u64;
        self.paced_until = self.paced_until.max(now) + Duration::from_micros(micros);
    }

    /// The open one ends without a result; another begins as soon as it may.
    pub fn abandon(&mut self) {
        self.open = None;
    }

    /// A full catch-up that began then has found everything, as an audit would have.
    pub fn on_full_catchup(&mut self, began: Now, by: By) {
        self.open = None;
        self.period = self.period.min(by.period());
        self.due = began.mono + self.period;
    }
}

impl Audit {
    fn ask(&mut self, subjects: Vec<Subject>, live: bool) -> Vec<Subject> {
        self.asking = Asking::Sweeps { left: subjects.len(), live };
        subjects
    }
}

/// The filters for what tags some events.
pub fn thread_subjects(ids: &Rc<[EventId]>) -> [Subject; 2] {
    THREAD_TAG_LETTERS.map(|letter| Subject::ThreadTag(letter, ids.clone()))
}

/// Whether a recorded audit can be believed. What lies ahead was written by a clock that was wrong.
fn is_known(audited: UnixTime, now: Now) -> bool {
    audited != UnixTime::EPOCH && audited <= now.wall.plus_secs(CLOCK_SLACK_SECS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::testing::{author, root_id};

    const OVERLAP: u64 = 900;

    fn now(secs: u64) -> Now {
        Now { mono: Instant::ZERO + Duration::from_secs(secs), wall: UnixTime::from_secs(1_000_000 + secs) }
    }

    fn audits(audited: UnixTime, by: By) -> Audits {
        Audits::new(audited, by, Duration::from_secs(60), now(0))
    }

    fn repos() -> Unit {
        Unit::Repos([].into())
    }

    /// Goes through an audit of these units, in which so many events tag each and so many authors are held.
    fn asked(audits: &mut Audits, ids: u32, authors: u8) -> Vec<Subject> {
        let mut asked = Vec::new();
        loop {
            match audits.poll(2) {
                Poll::Over(began) => {
                    assert!(began.is_some());
                    return asked;
                }
                Poll::Ask(subjects) => asked.extend(subjects),
                Poll::Wait if audits.wants_authors() => {
                    assert_eq!(
                        audits.add_authors(
                            &(1..=authors).map(author).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>(),
                            2
                        ),
                        0
                    );
                    continue;
                }
                Poll::Wait => {
                    audits.add_thread((0..ids).map(root_id));
                    asked.extend(audits.end_thread());
                }
            }
            while audits.next_at().is_none() {
                audits.on_sweep_end(true);
            }
        }
    }

    #[test]
    fn units_come_first_then_deletions_then_threads() {
        let mut audits = audits(now(0).wall, By::Pages);
        let units = vec![(Unit::Announcements, true), (repos(), true), (repos(), false)];
        audits.begin(units, By::Pages, now(0).wall, OVERLAP, now(100));
        let asked = asked(&mut audits, 3, 3);
        let thread = |letter, ids: &[u32]| Subject::ThreadTag(letter, ids.iter().map(|n| root_id(*n)).collect());
        let mut expected = vec![Subject::Announcements];
        expected.extend(repos().subjects().into_iter().chain(repos().subjects()));
        expected.push(Subject::DeletionsOf(GIT_KINDS.into()));
        let authors: BTreeSet<PublicKey> = (1..=3).map(author).collect();
        expected.extend(chunk(authors, 2).into_iter().map(Subject::Deletions));
        expected.extend([thread('e', &[0, 1]), thread('q', &[0, 1]), thread('e', &[2]), thread('q', &[2])]);
        assert_eq!(asked, expected, "what two units have is asked about once");
    }

    #[test]
    fn everything_has_neither_deletions_nor_threads_beside_it() {
        let mut audits = audits(now(0).wall, By::Pages);
        audits.begin(vec![(Unit::Everything, true)], By::Pages, now(0).wall, OVERLAP, now(100));
        assert_eq!(asked(&mut audits, 3, 3), [Subject::Everything]);
    }

    #[test]
    fn it_asks_since_the_last_one_less_the_look_back_of_its_manner() {
        for (by, look_back) in [(By::Pages, AUDIT_LOOK_BACK_SECS), (By::Sets, AUDIT_LOOK_BACK_RECONCILED_SECS)] {
            let since = |audited| {
                let mut audits = audits(audited, by);
                audits.begin(Vec::new(), by, audited, OVERLAP, now(10_000));
                audits.manner().expect("one is open")
            };
            assert_eq!(since(now(5_000).wall), (now(5_000).wall.minus_secs(look_back), by));
            let day = now(10_000).wall.minus_secs(AUDIT_LOOK_BACK_RECONCILED_SECS);
            assert_eq!(since(UnixTime::EPOCH), (day, by));
            assert_eq!(since(now(20_000).wall), (day, by), "a clock that was ahead is not believed");
        }
    }

    #[test]
    fn on_a_new_link_it_is_due_a_period_after_the_last_or_soon() {
        let due = |audited, by| audits(audited, by).next_at();
        let period = AUDIT_PERIOD_RECONCILED.as_secs();
        let ago = |secs| now(0).wall.minus_secs(secs);
        assert_eq!(due(ago(100), By::Sets), Some(now(period - 100).mono));
        for long_ago in [ago(period), ago(10 * period), UnixTime::EPOCH, now(5_000).wall] {
            assert_eq!(due(long_ago, By::Sets), Some(now(60).mono));
        }
        assert_eq!(due(ago(period), By::Pages), Some(now(AUDIT_PERIOD_MAX.as_secs() - period).mono));
    }

    /// Runs an audit of layer 1 that finds something created then; says what it found complete.
    fn run(audits: &mut Audits, at: Now, found: Option<UnixTime>, ok: bool) -> Option<UnixTime> {
        audits.begin(vec![(Unit::Announcements, true)], By::Pages, now(0).wall, OVERLAP, at);
        audits.open.as_mut().expect("it was begun").steps.truncate(1);
        assert!(matches!(audits.poll(100), Poll::Ask(_)));
        assert_eq!(audits.next_at(), None, "one at a time");
        audits.on_sweep_split();
        found.into_iter().for_each(|at| audits.on_found(at));
        audits.on_sweep_end(ok);
        assert_eq!(audits.next_at(), None, "a half is left");
        audits.on_sweep_end(true);
        let Poll::Over(complete) = audits.poll(100) else { panic!("it is over") };
        complete
    }

    #[test]
    fn what_should_have_come_live_brings_the_next_forward_and_quiet_ones_put_it_off_again() {
        let mut audits = audits(now(0).wall, By::Pages);
        let half = Duration::from_micros(AUDIT_PERIOD_MAX.as_micros() / 2);
        run(&mut audits, now(100), Some(now(0).wall.minus_secs(OVERLAP + 1)), true);
        assert_eq!(audits.period(), AUDIT_PERIOD_MAX, "no live subscription had asked for it");
        run(&mut audits, now(100), Some(now(0).wall.minus_secs(OVERLAP)), true);
        assert_eq!((audits.period(), audits.next_at()), (half, Some(now(100).mono + half)));
        (0..20).for_each(|_| _ = run(&mut audits, now(100), Some(now(0).wall), true));
        assert_eq!(audits.period(), AUDIT_PERIOD_MIN);
        (0..20).for_each(|_| _ = run(&mut audits, now(100), None, true));
        assert_eq!(audits.period(), AUDIT_PERIOD_MAX);
    }

    #[test]
    fn one_that_failed_covers_nothing() {
        let mut audits = audits(now(0).wall, By::Pages);
        assert_eq!(run(&mut audits, now(100), None, false), None);
        assert_eq!(run(&mut audits, now(200), None, true), Some(now(200).wall));
    }

    #[test]
    fn it_keeps_within_its_bytes() {
        let mut audits = audits(now(0).wall, By::Pages);
        audits.begin(vec![(Unit::Announcements, true)], By::Pages, now(0).wall, OVERLAP, now(100));
        audits.on_bytes(now(100).mono, POLL_BYTES_PER_SEC * 50);
        assert_eq!(audits.next_at(), Some(now(150).mono));
    }

    #[test]
    fn a_full_catch_up_takes_the_place_of_one() {
        let mut audits = audits(UnixTime::EPOCH, By::Pages);
        audits.begin(vec![(Unit::Announcements, true)], By::Pages, UnixTime::EPOCH, OVERLAP, now(100));
        audits.on_full_catchup(now(50), By::Pages);
        assert_eq!(audits.next_at(), Some(now(50).mono + AUDIT_PERIOD_MAX));
        audits.on_full_catchup(now(50), By::Sets);
        assert_eq!(audits.next_at(), Some(now(50).mono + AUDIT_PERIOD_RECONCILED), "it has shown that it reconciles");
    }

    #[test]
    fn events_and_authors_beyond_the_bounds_are_counted() {
        let mut audits = audits(now(0).wall, By::Pages);
        audits.begin(vec![(repos(), true)], By::Pages, now(0).wall, OVERLAP, now(100));
        assert_eq!((audits.poll(100), audits.wanted_thread()), (Poll::Wait, Some(&repos())));
        let ids = (0..AUDIT_THREAD_IDS_MAX as u32 + 3).chain(0..5).map(root_id);
        assert_eq!(audits.add_thread(ids), 3, "those that are there already count once");
    }
}
