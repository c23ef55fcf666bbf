//! What is asked on one link, in one place: the units that it follows, the sweeps that wait, and the passes that they are
//! part of. It says what comes next; whether the relay lets it be asked, the session knows.
//!
//! Three passes may be under way, each with its own idea of what is complete when it is over:
//!
//! | pass | over | complete then |
//! |---|---|---|
//! | [`Round`] | all that the relay shares, or what a window brought | its repos are confirmed |
//! | poll ([`Units`]) | one unit that is not live | the unit, up to when the poll began |
//! | audit ([`Audits`]) | what is followed, with deletions and threads | everything, up to when it began |
//!
//! What the round asks comes first. When none of it waits, one poll or one step of an audit is begun, by turns. Both keep
//! within [`POLL_BYTES_PER_SEC`]: a large table is polled more slowly, never more heavily.
//!
//! It does not know links, subscriptions or the store.

use nostr::event::EventId;
use nostr::key::PublicKey;

use crate::limits::{AUDIT_AUTHORS_MAX, POLL_BYTES_PER_SEC};
use crate::state::State;
use crate::store::Seq;
use crate::sync::filters::{Subject, Unit, chunk};
use crate::sync::plan::unit_sweeps;
use crate::sync::sweep::Sweep;
use crate::time::{Duration, Instant, Now, UnixTime};

pub mod audit;
mod class;
pub mod pass;
mod queue;
pub mod round;
pub mod task;
pub mod units;

pub use class::{Class, Number};

use audit::{Audits, By};
use pass::{ThreadPart, WantedThread};
use queue::Queue;
use round::{Round, RoundWhy};
use task::{Purpose, Task};
use units::Units;

/// What is asked on one link.
#[derive(Debug)]
pub struct Agenda {
    /// What is followed, and how.
    pub units: Units,
    /// The sweeps that have to finish.
    pub round: Round,
    /// What comes late, or was missed.
    pub audits: Audits,
    /// The sweeps that wait.
    pub queue: Queue,
    /// Of polls and audits, what was begun last.
    last_begun: Purpose,
    /// Neither is begun before this: what they have asked cost so much.
    paced_until: Instant,
}

/// What has begun because nothing else waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begun {
    /// A poll.
    Poll,
    /// An audit, with its first step.
    Audit,
    /// The next step of one.
    AuditStep,
    /// An audit is over. When it began, if it has found everything.
    AuditOver(Option<UnixTime>),
}

/// How an audit that begins goes.
#[derive(Clone, Copy, Debug)]
pub struct AuditManner {
    /// How it asks.
    pub by: By,
    /// When the last one that found everything began; [`UnixTime::EPOCH`] for never.
    pub audited: UnixTime,
}

impl Agenda {
    /// That of a link that has just opened.
    pub fn new(audits: Audits, now: Now) -> Agenda {
        Agenda {
            units: Units::default(),
            round: Round::new(RoundWhy::Window, now),
            audits,
            queue: Queue::default(),
            last_begun: Purpose::Audit,
            paced_until: Instant::ZERO,
        }
    }

    /// What is followed is followed no more; what the round asks stays.
    pub fn unfollow(&mut self) {
        self.queue.keep_round();
        self.units = Units::default();
        self.audits.abandon();
    }
}

/// The round.
impl Agenda {
    /// A new round without sweeps; those of the last one are dropped.
    pub fn begin_round(&mut self, why: RoundWhy, now: Now) {
        self.queue.drop_round();
        self.round = Round::new(why, now);
    }

    /// Makes sweeps part of the round, at once.
    pub fn add_sweeps(&mut self, sweeps: impl IntoIterator<Item = Sweep>) {
        for sweep in sweeps {
            self.round.pass.add_sweeps(1);
            self.queue.push_back(Task::new(sweep, Purpose::Round));
        }
    }

    /// The round begins with one look at everything the relay has ([`Round::begin_overview`]).
    pub fn begin_overview(&mut self, followed: Seq) {
        let sweep = self.round.begin_overview(followed);
        self.queue.push_back(Task::new(sweep, Purpose::Round));
    }

    /// Begins the next step of the round, if it is due. `followed`: the last number that has changed what we follow.
    pub fn begin_step(&mut self, followed: Seq, now: Instant) {
        let sweeps = self.round.begin_step(followed, now).unwrap_or_default();
        sweeps.into_iter().for_each(|sweep| self.queue.push_back(Task::new(sweep, Purpose::Round)));
    }
}

/// Polls and audits.
impl Agenda {
    /// Begins a poll or the next step of an audit, whichever was not the last, if both are due.
    pub fn begin_due(&mut self, manner: AuditManner, overlap_secs: u64, now: Now) -> Option<Begun> {
        match self.last_begun {
            Purpose::Poll => self.begin_audit(manner, overlap_secs, now).or_else(|| self.begin_poll(overlap_secs, now)),
            Purpose::Round | Purpose::Audit | Purpose::Detour => {
                self.begin_poll(overlap_secs, now).or_else(|| self.begin_audit(manner, overlap_secs, now))
            }
        }
    }

    fn begin_poll(&mut self, overlap_secs: u64, now: Now) -> Option<Begun> {
        self.next_poll_at().filter(|at| *at <= now.mono)?;
        let (unit, since) = self.units.begin_poll(now, overlap_secs)?;
        self.last_begun = Purpose::Poll;
        for sweep in unit_sweeps(std::iter::once(unit), Some(since)) {
            self.queue.push_back(Task::new(sweep, Purpose::Poll));
        }
        Some(Begun::Poll)
    }

    fn begin_audit(&mut self, manner: AuditManner, overlap_secs: u64, now: Now) -> Option<Begun> {
        self.next_audit_at().filter(|at| *at <= now.mono)?;
        self.last_begun = Purpose::Audit;
        let mut begun = Begun::AuditStep;
        if !self.audits.is_open() {
            begun = Begun::Audit;
            let units: Vec<(Unit, bool)> = self.units.all().map(|(unit, live)| (unit.clone(), live)).collect();
            self.audits.begin(units, manner.by, manner.audited, overlap_secs, now);
        }
        match self.audits.next(now.mono) {
            audit::Next::Wait => None,
            audit::Next::Over(complete) => Some(Begun::AuditOver(complete)),
            audit::Next::Ask(sweeps, by) => {
                for sweep in sweeps {
                    let task = Task::new(sweep, Purpose::Audit);
                    self.queue.push_back(Task { by_pages: by == By::Pages, ..task });
                }
                Some(begun)
            }
        }
    }

    /// When a poll or a step of an audit is due; `None` while both are under way or nothing is to be asked.
    pub fn next_due(&self) -> Option<Instant> {
        [self.next_poll_at(), self.next_audit_at()].into_iter().flatten().min()
    }

    fn next_poll_at(&self) -> Option<Instant> {
        self.units.next_poll_at().map(|at| at.max(self.paced_until))
    }

    /// When the next step of an audit is due; not while a full catch-up is under way, which finds whatever it would.
    pub fn next_audit_at(&self) -> Option<Instant> {
        self.audits.next_at().filter(|_| !self.round.is_full()).map(|at| at.max(self.paced_until))
    }

    /// The units that wait for their next poll, and when that may begin.
    pub fn polls_due(&self) -> impl Iterator<Item = (&Unit, Instant)> {
        self.units.due().map(|(unit, at)| (unit, at.max(self.paced_until)))
    }

    /// What was asked for some purpose cost so many bytes.
    pub fn on_bytes(&mut self, purpose: Purpose, bytes: usize, now: Instant) {
        if purpose != Purpose::Round {
            let micros = bytes as u64 * 1_000_000 / POLL_BYTES_PER_SEC as u64;
            self.paced_until = self.paced_until.max(now) + Duration::from_micros(micros);
        }
    }
}

/// Sweeps.
impl Agenda {
    /// Parts of a question are asked instead of the whole, the last one first. There is one at least.
    pub fn split(&mut self, task: Task, parts: Vec<Sweep>) {
        let more = parts.len() - 1;
        match task.purpose {
            Purpose::Round => self.round.pass.add_sweeps(more),
            Purpose::Poll => self.units.add_sweeps(more),
            Purpose::Audit => self.audits.add_sweeps(more),
            Purpose::Detour => {}
        }
        for sweep in parts {
            self.queue.push_front(Task { sweep, unserved: Default::default(), ..task });
        }
    }

    /// A sweep has ended for good.
    pub fn on_sweep_end(&mut self, purpose: Purpose, subject: &Subject, ok: bool, state: &State) {
        match purpose {
            Purpose::Round => self.round.on_sweep_end(subject, ok, state),
            Purpose::Poll => self.units.on_sweep_end(ok),
            Purpose::Audit => self.audits.on_sweep_end(subject, ok),
            Purpose::Detour => {}
        }
    }
}

/// What has to be looked up in the store.
impl Agenda {
    /// Whether the authors whose events are held are wanted.
    pub fn wants_authors(&self) -> bool {
        self.round.pass.wants_authors() || self.audits.wants_authors()
    }

    /// The authors whose events are held, in the order of their keys: their deletions are asked for. Returns how many are
    /// beyond the bound of an audit.
    pub fn add_authors(&mut self, authors: &[PublicKey], values_max: usize) -> u64 {
        let chunks = |count| chunk(authors.iter().copied().take(count), values_max).into_iter().map(Subject::Deletions);
        if self.round.pass.wants_authors() {
            self.round.pass.end_authors();
            self.add_sweeps(chunks(usize::MAX).map(|subject| Sweep::new(subject, None)));
            return 0;
        }
        if self.audits.wants_authors() {
            self.audits.add_authors(chunks(AUDIT_AUTHORS_MAX).collect());
            return authors.len().saturating_sub(AUDIT_AUTHORS_MAX) as u64;
        }
        0
    }

    /// Of what it is wanted to be known which events tag it. What has been begun comes first: the store looks up one thing
    /// for a relay at a time.
    pub fn wanted_thread(&self, now: Now) -> Option<WantedThread<'_>> {
        match self.is_thread_of_round(now) {
            true => self.round_thread(now.mono),
            false => self.audits.wanted_thread(now),
        }
    }

    fn is_thread_of_round(&self, now: Now) -> bool {
        match self.audits.wanted_thread(now) {
            Some(of_audit) => !of_audit.is_begun && self.round.pass.has_begun_thread(),
            None => !self.audits.has_begun_thread(),
        }
    }

    /// Sweeps that wait come first.
    fn round_thread(&self, now: Instant) -> Option<WantedThread<'_>> {
        self.round.pass.wanted_thread(None, now).filter(|_| self.queue.is_empty())
    }

    /// When a thread is wanted at the latest, if that is not now.
    pub fn next_thread_at(&self, now: Instant) -> Option<Instant> {
        let of_round = self.round.pass.next_thread_at(now).filter(|_| self.queue.is_empty());
        of_round.into_iter().chain(self.audits.next_thread_at(now)).min()
    }

    /// Events that tag the unit of [`Agenda::wanted_thread`]. Returns how many are beyond the bound of an audit, with a thread
    /// that is too large counted as one.
    pub fn add_thread(&mut self, part: ThreadPart, values_max: usize, now: Now) -> u64 {
        let too_large = u64::from(part == ThreadPart::TooLarge);
        let (ids, is_last): (Vec<EventId>, bool) = part.into_ids();
        if !self.is_thread_of_round(now) {
            return too_large + self.audits.add_thread(ids, is_last, values_max, now.mono);
        }
        if self.round_thread(now.mono).is_some() {
            let chunks = self.round.pass.add_thread(ids, is_last, values_max, now.mono);
            self.add_sweeps(chunks.into_iter().flatten().map(|subject| Sweep::new(subject, None)));
        }
        too_large
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(secs: u64) -> Now {
        Now { mono: Instant::ZERO + Duration::from_secs(secs), wall: UnixTime::from_secs(1_000_000 + secs) }
    }

    #[test]
    fn polls_and_audits_keep_within_their_bytes() {
        let audits = Audits::new(UnixTime::EPOCH, By::Pages, Duration::from_secs(60), now(0));
        let mut agenda = Agenda::new(audits, now(0));
        agenda.units.poll(Unit::Announcements, now(0).wall, now(0), 100);
        agenda.on_bytes(Purpose::Round, POLL_BYTES_PER_SEC * 100, now(0).mono);
        assert_eq!((agenda.next_poll_at(), agenda.next_audit_at()), (Some(now(60).mono), Some(now(60).mono)));
        agenda.on_bytes(Purpose::Audit, POLL_BYTES_PER_SEC * 100, now(0).mono);
        assert_eq!((agenda.next_poll_at(), agenda.next_audit_at()), (Some(now(100).mono), Some(now(100).mono)));
    }

    #[test]
    fn a_poll_and_a_step_of_an_audit_come_by_turns() {
        let audits = Audits::new(UnixTime::EPOCH, By::Pages, Duration::from_secs(60), now(0));
        let mut agenda = Agenda::new(audits, now(0));
        agenda.units.poll(Unit::Announcements, now(0).wall, now(0), 100);
        agenda.units.poll(Unit::Repos([].into()), now(0).wall, now(0), 100);
        let manner = AuditManner { by: By::Pages, audited: UnixTime::EPOCH };
        let begun: Vec<Begun> = std::iter::from_fn(|| {
            let begun = agenda.begin_due(manner, 900, now(60))?;
            while let Some(task) = agenda.queue.take_first(true, |_| true) {
                let state = State::new(crate::sync::testing::settings());
                agenda.on_sweep_end(task.purpose, task.sweep.subject(), true, &state);
            }
            Some(begun)
        })
        .take(5)
        .collect();
        assert_eq!(begun, [Begun::Poll, Begun::Audit, Begun::Poll, Begun::AuditStep, Begun::AuditStep]);
    }
}
