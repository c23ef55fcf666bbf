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
//! succeeded, less a look-back: longer where the relay reconciles, since what is held already costs only ids there.

use std::collections::BTreeSet;

use nostr::event::EventId;

use crate::limits::{
    AUDIT_LOOK_BACK_RECONCILED_SECS, AUDIT_LOOK_BACK_SECS, AUDIT_PERIOD_MAX, AUDIT_PERIOD_MIN, AUDIT_PERIOD_RECONCILED,
    AUDIT_THREAD_IDS_MAX, AUDIT_THREAD_SECS, CLOCK_SLACK_SECS,
};
use crate::protocol::repo::GIT_KINDS;
use crate::sync::agenda::pass::{Pass, Step, WantedThread};
use crate::sync::filters::{Subject, Unit};
use crate::sync::sweep::Sweep;
use crate::time::{Duration, Instant, Now, UnixTime};

/// The audits of one link.
#[derive(Debug)]
pub struct Audits {
    /// Between the beginnings of two audits.
    period: Duration,
    /// No audit begins before this.
    due: Instant,
    open: Option<Audit>,
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
    pass: Pass,
    /// Of the steps to come, the first so many are about units that are live.
    live_steps: usize,
    /// The step that has begun last is about one.
    is_live: bool,
    /// Events about whose threads it has asked.
    threads: BTreeSet<EventId>,
    failed: bool,
    /// It has found what should have come live.
    found: bool,
}

/// What comes next in an audit.
#[derive(Debug)]
pub enum Next {
    /// Something is under way, or to be looked up.
    Wait,
    /// These sweeps.
    Ask(Vec<Sweep>, By),
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
        Audits { period, due, open: None }
    }

    /// The time between the beginnings of two audits.
    pub fn period(&self) -> Duration {
        self.period
    }

    /// When something is next to be asked, by the time that has passed alone; `None` while something is under way.
    pub fn next_at(&self) -> Option<Instant> {
        match &self.open {
            None => Some(self.due),
            Some(audit) => (audit.pass.left() == 0 && !audit.pass.is_looking_up()).then_some(Instant::ZERO),
        }
    }

    /// Whether one is under way.
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Begins one over some units, each with whether it is live. `overlap_secs`: by which live subscriptions reach back.
    pub fn begin(&mut self, mut units: Vec<(Unit, bool)>, by: By, audited: UnixTime, overlap_secs: u64, now: Now) {
        self.period = self.period.min(by.period());
        // Where nothing is known, a full catch-up is due, or was had within the day.
        let (since, live_since) = match is_known(audited, now) {
            true => (audited.min(now.wall).minus_secs(by.look_back_secs()), audited.minus_secs(overlap_secs)),
            false => (now.wall.minus_secs(AUDIT_LOOK_BACK_RECONCILED_SECS), now.wall),
        };
        units.sort_by_key(|(_, is_live)| !is_live);
        let live_steps = units.iter().filter(|(_, is_live)| *is_live).count();
        let mut pass = Pass::default();
        for (unit, _) in &units {
            pass.add_step(Step::ask(unit.subjects(), Some(since)));
        }
        if !units.iter().any(|(unit, _)| *unit == Unit::Everything) {
            pass.add_step(Step::ask([Subject::DeletionsOf(GIT_KINDS.into())], Some(since)));
            pass.add_step(Step::Authors);
            let tagged = units.into_iter().map(|(unit, _)| unit).filter(|unit| !unit.is_layer_1());
            tagged.for_each(|unit| pass.add_step(Step::Threads(unit)));
        }
        self.open = Some(Audit {
            began: now,
            by,
            since,
            live_since,
            pass,
            live_steps,
            is_live: false,
            threads: BTreeSet::new(),
            failed: false,
            found: false,
        });
    }

    /// What comes next in the open one.
    pub fn next(&mut self, now: Instant) -> Next {
        let Some(audit) = &mut self.open else { return Next::Wait };
        if let Some(sweeps) = audit.pass.begin_step(now) {
            audit.is_live = audit.live_steps > 0;
            audit.live_steps = audit.live_steps.saturating_sub(1);
            return Next::Ask(sweeps, audit.by);
        }
        if audit.pass.is_over() { Next::Over(self.end()) } else { Next::Wait }
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
    pub fn wanted_thread(&self, now: Now) -> Option<WantedThread<'_>> {
        let pass = &self.open.as_ref()?.pass;
        let since = now.wall.minus_secs(AUDIT_THREAD_SECS);
        pass.wanted_thread(Some(since), now.mono).filter(|_| pass.left() == 0)
    }

    /// When a thread is wanted at the latest, if that is not now.
    pub fn next_thread_at(&self, now: Instant) -> Option<Instant> {
        self.open.as_ref().filter(|audit| audit.pass.left() == 0)?.pass.next_thread_at(now)
    }

    /// Whether some of what tags it was had already.
    pub fn has_begun_thread(&self) -> bool {
        self.open.as_ref().is_some_and(|audit| audit.pass.has_begun_thread())
    }

    /// Events that tag it. Returns how many of them are beyond the bound.
    pub fn add_thread(&mut self, mut ids: Vec<EventId>, is_last: bool, values_max: usize, now: Instant) -> u64 {
        let Some(audit) = &mut self.open else { return 0 };
        let mut left_out = 0;
        ids.retain(|id| {
            let has_room = audit.threads.len() < AUDIT_THREAD_IDS_MAX;
            left_out += u64::from(!has_room && !audit.threads.contains(id));
            has_room && audit.threads.insert(*id)
        });
        for subjects in audit.pass.add_thread(ids, is_last, values_max, now).into_iter().rev() {
            audit.pass.add_next_step(Step::ask(subjects, Some(audit.since)));
        }
        left_out
    }

    /// Whether the authors whose events are held are to be looked up.
    pub fn wants_authors(&self) -> bool {
        self.open.as_ref().is_some_and(|audit| audit.pass.wants_authors())
    }

    /// Chunks of the authors whose events are held.
    pub fn add_authors(&mut self, chunks: Vec<Subject>) {
        let Some(audit) = &mut self.open else { return };
        audit.pass.end_authors();
        for subject in chunks.into_iter().rev() {
            audit.pass.add_next_step(Step::ask([subject], Some(audit.since)));
        }
    }

    /// Sweeps that have not ended.
    pub fn sweeps_left(&self) -> usize {
        self.open.as_ref().map_or(0, |audit| audit.pass.left())
    }

    /// So many sweeps join it: one was split.
    pub fn add_sweeps(&mut self, sweeps: usize) {
        if let Some(audit) = &mut self.open {
            audit.pass.add_sweeps(sweeps);
        }
    }

    /// A sweep ended.
    pub fn on_sweep_end(&mut self, subject: &Subject, ok: bool) {
        let Some(audit) = &mut self.open else { return };
        // Deletions that name what kind they are of are found by their authors, too.
        audit.failed |= !ok && !matches!(subject, Subject::DeletionsOf(_));
        audit.pass.on_sweep_end();
    }

    /// Something new was found, created then. If it should have come live, audits come sooner for a while.
    pub fn on_found(&mut self, created_at: UnixTime) {
        let Some(audit) = &mut self.open else { return };
        if audit.is_live && created_at >= audit.live_since {
            audit.found = true;
            self.period = Duration::from_micros(self.period.as_micros() / 2).max(AUDIT_PERIOD_MIN);
        }
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

/// Whether a recorded audit can be believed. What lies ahead was written by a clock that was wrong.
fn is_known(audited: UnixTime, now: Now) -> bool {
    audited != UnixTime::EPOCH && audited <= now.wall.plus_secs(CLOCK_SLACK_SECS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::filters::chunk;
    use crate::sync::testing::{author, root_id};
    use nostr::key::PublicKey;

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
        let later = now(100_000);
        let mut asked = Vec::new();
        loop {
            match audits.next(later.mono) {
                Next::Over(began) => {
                    assert!(began.is_some());
                    return asked;
                }
                Next::Ask(sweeps, _) => {
                    for sweep in sweeps {
                        asked.push(sweep.subject().clone());
                        audits.on_sweep_end(sweep.subject(), true);
                    }
                }
                Next::Wait if audits.wants_authors() => {
                    let authors: BTreeSet<PublicKey> = (1..=authors).map(author).collect();
                    audits.add_authors(chunk(authors, 2).into_iter().map(Subject::Deletions).collect());
                }
                Next::Wait => {
                    assert_eq!(audits.add_thread((0..ids).map(root_id).collect(), true, 2, now(0).mono), 0);
                }
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
                let Next::Ask(sweeps, asked_by) = audits.next(now(10_000).mono) else {
                    panic!("deletions are asked for")
                };
                (sweeps[0].since().expect("not everything"), asked_by)
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
        let asked = Subject::Announcements;
        audits.begin(vec![(Unit::Announcements, true)], By::Pages, now(0).wall, OVERLAP, at);
        assert!(matches!(audits.next(at.mono), Next::Ask(..)));
        audits.open.as_mut().expect("it was begun").pass.drop_steps();
        assert_eq!(audits.next_at(), None, "one at a time");
        audits.add_sweeps(1);
        found.into_iter().for_each(|at| audits.on_found(at));
        audits.on_sweep_end(&asked, ok);
        assert_eq!(audits.next_at(), None, "a half is left");
        audits.on_sweep_end(&asked, true);
        let Next::Over(complete) = audits.next(at.mono) else { panic!("it is over") };
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
        let ids = (0..AUDIT_THREAD_IDS_MAX as u32 + 3).chain(0..5).map(root_id).collect();
        assert_eq!(audits.add_thread(ids, true, 100, now(0).mono), 3, "those that are there already count once");
    }
}
