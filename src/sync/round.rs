//! The sweeps that have to finish before a relay is complete: those of a catch-up, and those that windows add to it.

use std::collections::BTreeSet;

use crate::limits::{UNFILTERED_FOREIGN_MIN, UNFILTERED_FOREIGN_PER_OWN_MAX};
use crate::state::{RepoId, State};
use crate::sync::filters::Subject;
use crate::time::Now;

/// Sweeps under way together, and what they brought.
#[derive(Debug)]
pub struct Round {
    /// Why it is made.
    pub why: RoundWhy,
    /// When it began.
    pub began: Now,
    /// Sweeps begun or waiting.
    left: usize,
    /// Units whose threads are to be looked up, so that further sweeps may follow.
    lookups_left: usize,
    /// Sweeps it ever had.
    total: usize,
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
    /// Everything is asked for: it never was, or not within a day.
    FullCatchUp,
}

impl RoundWhy {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            RoundWhy::Window => "a window has brought something new",
            RoundWhy::CatchUp => "catch-up on a new link",
            RoundWhy::FullCatchUp => "full catch-up",
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
}

impl Tally {
    /// Whether most of what came is not ours, so that asking for everything costs more than asking for ours.
    pub fn is_mostly_foreign(&self) -> bool {
        let own = self.new + self.known;
        self.refused >= UNFILTERED_FOREIGN_MIN && self.refused > UNFILTERED_FOREIGN_PER_OWN_MAX * own
    }
}

impl Round {
    /// A round without sweeps: finished.
    pub fn new(now: Now) -> Self {
        Round {
            why: RoundWhy::Window,
            began: now,
            left: 0,
            lookups_left: 0,
            total: 0,
            touched: BTreeSet::new(),
            failed: BTreeSet::new(),
            broken: false,
            gapped: BTreeSet::new(),
            tally: Tally::default(),
        }
    }

    /// A sweep joins it, from a plan or by a split.
    pub fn add_sweep(&mut self) {
        self.left += 1;
        self.total += 1;
    }

    /// What tags a unit is to be looked up before the round can end.
    pub fn add_lookup(&mut self) {
        self.lookups_left += 1;
    }

    /// It was looked up: the sweeps that follow from it are part of the round.
    pub fn on_lookup(&mut self) {
        assert!(self.lookups_left > 0, "a unit is looked up once");
        self.lookups_left -= 1;
    }

    /// These repos will be confirmed when every sweep has finished.
    pub fn touch(&mut self, repos: impl IntoIterator<Item = RepoId>) {
        self.touched.extend(repos);
    }

    /// A sweep ended for good.
    pub fn on_sweep_end(&mut self, subject: &Subject, ok: bool, state: &State) {
        assert!(self.left > 0, "a sweep ends once");
        self.left -= 1;
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

    /// Sweeps begun or waiting.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Whether no sweep is left, and none can follow.
    pub fn is_over(&self) -> bool {
        self.left == 0 && self.lookups_left == 0
    }

    /// Whether every sweep that is over succeeded.
    pub fn is_sound(&self) -> bool {
        !self.broken && self.failed.is_empty()
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

    /// Sweeps finished, and sweeps in all, as far as they are known: of what is yet to be looked up, one for each unit.
    pub fn sweeps_done(&self) -> (usize, usize) {
        (self.total - self.left, self.total + self.lookups_left)
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
