//! The sweeps that have to finish before a relay is complete: those of a catch-up, and those that windows add to it.

use std::collections::BTreeSet;

use crate::limits::{UNFILTERED_FOREIGN_MIN, UNFILTERED_FOREIGN_PER_OWN_MAX};
use crate::state::{RepoId, State};
use crate::store::Seq;
use crate::sync::agenda::audit::By;
use crate::sync::agenda::pass::Pass;
use crate::sync::filters::Subject;
use crate::sync::sweep::Sweep;
use crate::time::{Instant, Now};

/// Sweeps under way together, and what they brought.
#[derive(Debug)]
pub struct Round {
    /// Why it is made.
    pub why: RoundWhy,
    /// When it began.
    pub began: Now,
    /// Its sweeps.
    pub pass: Pass,
    /// Its first look at everything the relay has, if it is being taken.
    overview: Option<Overview>,
    /// Repos whose sweeps it has, to be confirmed at its end.
    touched: BTreeSet<RepoId>,
    /// Repos of sweeps that failed.
    failed: BTreeSet<RepoId>,
    /// A sweep failed that belongs to no repo.
    broken: bool,
    /// Repos of which something cannot be had.
    gapped: BTreeSet<RepoId>,
    /// What it brought so far.
    pub tally: Tally,
}

/// Why a round is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundWhy {
    /// A window has brought something new.
    Window,
    /// The link is new, and what is confirmed is asked for since it was lost.
    CatchUp,
    /// Everything is asked for: it never was, or not within a day. By comparing sets a relay may be tried.
    FullCatchUp(By),
}

impl RoundWhy {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            RoundWhy::Window => "a window has brought something new",
            RoundWhy::CatchUp => "catch-up on a new link",
            RoundWhy::FullCatchUp(_) => "full catch-up",
        }
    }
}

/// Events that a round brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Not held before.
    pub new: u64,
    /// Held already, or refused for good before.
    pub known: u64,
    /// Refused.
    pub refused: u64,
    /// Of layer 1, asked for by kinds alone.
    by_kind: u64,
    /// The same, asked for by identifiers.
    by_identifier: u64,
}

impl Tally {
    /// Something came that was asked for by this, or was found to be there.
    pub fn note_layer_1(&mut self, subject: &Subject) {
        match subject {
            Subject::Announcements => self.by_kind += 1,
            Subject::Identifiers(_) => self.by_identifier += 1,
            _ => {}
        }
    }

    /// Whether it shows that the relay hides what is asked for by kinds alone.
    pub fn hides_layer_1(&self) -> bool {
        self.by_kind == 0 && self.by_identifier > 0
    }

    /// Whether most of what came is not ours, so that asking for everything costs more than asking for ours.
    pub fn is_mostly_foreign(&self) -> bool {
        let own = self.new + self.known;
        self.refused >= UNFILTERED_FOREIGN_MIN && self.refused > UNFILTERED_FOREIGN_PER_OWN_MAX * own
    }
}

/// A round's first look at everything the relay has: what things were when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Overview {
    /// New events that the round had brought.
    new: u64,
    /// The last number that had changed what we follow.
    followed: Seq,
}

impl Round {
    /// A round without sweeps: finished.
    pub fn new(why: RoundWhy, now: Now) -> Self {
        Round {
            why,
            began: now,
            pass: Pass::default(),
            overview: None,
            touched: BTreeSet::new(),
            failed: BTreeSet::new(),
            broken: false,
            gapped: BTreeSet::new(),
            tally: Tally::default(),
        }
    }

    /// Begins with one look at everything the relay has: if that finds nothing new, the steps that follow have nothing to
    /// find either. Cheap where sets are compared; by pages it would cost as much as the steps. `followed`: the last number
    /// that has changed what we follow. Returns what is to be asked.
    pub fn begin_overview(&mut self, followed: Seq) -> Sweep {
        self.overview = Some(Overview { new: self.tally.new, followed });
        self.pass.add_sweeps(1);
        Sweep::new(Subject::Everything, None)
    }

    /// Begins the next step, if it is due and the look at everything has left it something to find.
    pub fn begin_step(&mut self, followed: Seq, now: Instant) -> Option<Vec<Sweep>> {
        if self.pass.left() == 0
            && let Some(before) = self.overview.take()
            && before == (Overview { new: self.tally.new, followed })
            && !self.broken
        {
            self.pass.drop_steps();
        }
        self.pass.begin_step(now)
    }

    /// These repos will be confirmed when every sweep has finished.
    pub fn touch(&mut self, repos: impl IntoIterator<Item = RepoId>) {
        self.touched.extend(repos);
    }

    /// A sweep ended for good.
    pub fn on_sweep_end(&mut self, subject: &Subject, ok: bool, state: &State) {
        self.pass.on_sweep_end();
        if ok {
            return;
        }
        match repos_of(subject, state) {
            Some(repos) => self.failed.extend(repos),
            None => self.broken = true,
        }
    }

    /// Something of what a sweep asks for cannot be had: its repos are not confirmed by this round. What belongs to no
    /// repo leaves the repos as they are.
    pub fn on_gap(&mut self, subject: &Subject, state: &State) {
        self.gapped.extend(repos_of(subject, state).into_iter().flatten());
    }

    /// Whether nothing is to come of it: nothing is or was to be asked, and nothing is to be confirmed.
    pub fn is_empty(&self) -> bool {
        self.pass.is_empty() && self.touched.is_empty()
    }

    /// Whether no sweep is left, and none can follow.
    pub fn is_over(&self) -> bool {
        self.pass.is_over()
    }

    /// Whether every sweep that is over succeeded.
    pub fn is_sound(&self) -> bool {
        !self.broken && self.failed.is_empty()
    }

    /// Whether it is a full catch-up: it finds whatever an audit would.
    pub fn is_full(&self) -> bool {
        matches!(self.why, RoundWhy::FullCatchUp(_))
    }

    /// Repos to be confirmed now that the round is over.
    pub fn finished_repos(&self) -> impl Iterator<Item = RepoId> {
        debug_assert!(self.is_over());
        self.touched.difference(&self.failed).copied()
    }

    /// Repos of sweeps that failed.
    pub fn failed_repos(&self) -> impl Iterator<Item = RepoId> {
        self.failed.iter().copied()
    }

    /// Repos of which something cannot be had.
    pub fn gapped_repos(&self) -> impl Iterator<Item = RepoId> {
        self.gapped.iter().copied()
    }

    /// Whether a sweep failed that belongs to no repo.
    pub fn is_broken(&self) -> bool {
        self.broken
    }
}

/// The repos that a question is about; `None` if it is about none in particular.
fn repos_of(subject: &Subject, state: &State) -> Option<Vec<RepoId>> {
    match subject {
        Subject::Announcements
        | Subject::RootKinds
        | Subject::Everything
        | Subject::ThreadTag(..)
        | Subject::Deletions(_)
        | Subject::DeletionsOf(_) => None,
        Subject::Identifiers(names) => Some(names.iter().flat_map(|forks| forks.iter().copied()).collect()),
        Subject::RepoTag(_, repos) => Some(repos.to_vec()),
        Subject::RootTag(_, roots) => Some(roots.iter().flat_map(|root| state.repos_of_root(*root)).copied().collect()),
    }
}
