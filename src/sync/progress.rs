//! What is complete with one relay, durably (spec section 6, "Confirmed / through").
//!
//! A repo is *confirmed* up to the store sequence number whose sweeps have all finished: neither it nor any of its root
//! events up to that number has to be asked for from the beginning again. *Through* is the last moment at which the
//! relay was live with every sweep finished: what is confirmed has to be asked for only since then. Both are written in
//! the transaction of the events they speak for, so a crash can never claim more than was kept.

use std::collections::{BTreeMap, BTreeSet};

use crate::limits::CLOCK_SLACK_SECS;
use crate::state::{RepoId, RootId, State};
use crate::store::Seq;
use crate::time::{Duration, Now, UnixTime};

/// The durable progress of one relay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayProgress {
    confirmed: BTreeMap<RepoId, Seq>,
    through: UnixTime,
    full_catchup: UnixTime,
    /// When events were last lost that had been fetched: a catch-up that began before has taken them for held.
    lost: Option<UnixTime>,
}

impl RelayProgress {
    /// Sets what the store remembers: `EPOCH` for never.
    pub fn restore(&mut self, through: UnixTime, full_catchup: UnixTime) {
        self.through = through;
        self.full_catchup = full_catchup;
    }

    /// The last moment up to which everything confirmed is complete; `EPOCH` for never.
    pub fn through(&self) -> UnixTime {
        self.through
    }

    /// When the last complete full catch-up began; `EPOCH` for never.
    pub fn full_catchup(&self) -> UnixTime {
        self.full_catchup
    }

    /// A full catch-up that began at `began` has finished. A `through` that a wrong clock left in the future ends with it.
    pub fn finish_full_catchup(&mut self, began: UnixTime, now: Now) {
        if self.lost.is_none_or(|lost| began > lost) {
            self.full_catchup = began;
        }
        if is_ahead(self.through, now) {
            self.through = UnixTime::EPOCH;
        }
    }

    /// How long until the next full catch-up is due; zero if it is. What lies in the future was written by a clock that
    /// was wrong: neither the record nor what was asked meanwhile can be believed.
    pub fn full_catchup_in(&self, now: Now, every: Duration) -> Duration {
        if self.full_catchup == UnixTime::EPOCH || is_ahead(self.full_catchup.max(self.through), now) {
            return Duration::ZERO;
        }
        let due = self.full_catchup.plus_secs(every.as_secs());
        Duration::from_secs(due.as_secs().saturating_sub(now.wall.as_secs()))
    }

    /// Sweeps up to `seq` have finished for this repo. Says whether that is news.
    pub fn confirm(&mut self, repo: RepoId, seq: Seq) -> bool {
        let before = self.confirmed.insert(repo, seq);
        before != Some(seq)
    }

    /// These repos are to be asked for from the beginning again. Returns those that were confirmed.
    pub fn forget(&mut self, repos: &BTreeSet<RepoId>) -> Vec<RepoId> {
        repos.iter().copied().filter(|repo| self.confirmed.remove(repo).is_some()).collect()
    }

    /// Events that were fetched are held no more: a full catch-up that begins later is due.
    pub fn on_events_lost(&mut self, now: Now) {
        (self.full_catchup, self.lost) = (UnixTime::EPOCH, Some(now.wall));
    }

    /// Everything is to be asked for from the beginning again. Returns the repos that were confirmed.
    pub fn forget_everything(&mut self) -> Vec<RepoId> {
        let confirmed = std::mem::take(self).confirmed;
        confirmed.into_keys().collect()
    }

    /// Repos that are confirmed.
    #[cfg(test)]
    pub fn confirmed_repos(&self) -> impl Iterator<Item = RepoId> {
        self.confirmed.keys().copied()
    }

    /// Whether a repo is confirmed.
    pub fn covers_repo(&self, repo: RepoId) -> bool {
        self.confirmed.contains_key(&repo)
    }

    /// Whether a root event is confirmed through any of its repos.
    pub fn covers_root(&self, root: RootId, state: &State) -> bool {
        let seq = state.root_seq(root);
        state.repos_of_root(root).iter().any(|repo| self.confirmed.get(repo).is_some_and(|upto| *upto >= seq))
    }

    /// Moves `through` to `to`, never back and never past now. Says whether it moved.
    pub fn advance_through(&mut self, to: UnixTime, now: Now) -> bool {
        let to = to.min(now.wall);
        let moves = to > self.through;
        if moves {
            self.through = to;
        }
        moves
    }

    /// The `since` for what is confirmed; `None` if nothing is.
    pub fn since(&self, now: Now, overlap_secs: u64) -> Option<UnixTime> {
        (self.through != UnixTime::EPOCH).then(|| self.through.min(now.wall).minus_secs(overlap_secs))
    }
}

/// Whether a moment that was recorded lies further ahead of the clock than small corrections explain.
fn is_ahead(recorded: UnixTime, now: Now) -> bool {
    recorded > now.wall.plus_secs(CLOCK_SLACK_SECS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Instant;

    fn now(wall: u64) -> Now {
        Now { mono: Instant::ZERO, wall: UnixTime::from_secs(wall) }
    }

    #[test]
    fn through_never_moves_back_or_past_now() {
        let mut progress = RelayProgress::default();
        assert_eq!(progress.since(now(10_000), 900), None);
        assert!(progress.advance_through(UnixTime::from_secs(50_000), now(10_000)));
        assert_eq!(progress.through(), UnixTime::from_secs(10_000));
        assert!(!progress.advance_through(UnixTime::from_secs(9_000), now(20_000)));
        assert!(!progress.advance_through(UnixTime::from_secs(10_000), now(20_000)), "nothing to write");
        assert_eq!(progress.since(now(20_000), 900), Some(UnixTime::from_secs(9_100)));
        assert_eq!(progress.since(now(5_000), 900), Some(UnixTime::from_secs(4_100)), "a clock that went back");
    }

    #[test]
    fn a_full_catchup_is_due_a_day_after_the_last_one_began() {
        let day = Duration::from_secs(86_400);
        let mut progress = RelayProgress::default();
        assert_eq!(progress.full_catchup_in(now(1), day), Duration::ZERO, "never done");
        progress.finish_full_catchup(UnixTime::from_secs(1_000), now(1_000));
        assert_eq!(progress.full_catchup_in(now(1_000), day), day);
        assert_eq!(progress.full_catchup_in(now(87_399), day).as_secs(), 1);
        assert_eq!(progress.full_catchup_in(now(200_000), day), Duration::ZERO);
    }

    #[test]
    fn what_is_lost_is_fetched_by_a_full_catchup_that_begins_later() {
        let day = Duration::from_secs(86_400);
        let mut progress = RelayProgress::default();
        progress.finish_full_catchup(UnixTime::from_secs(1_000), now(1_010));
        progress.on_events_lost(now(2_000));
        assert_eq!(progress.full_catchup_in(now(2_000), day), Duration::ZERO);
        progress.finish_full_catchup(UnixTime::from_secs(1_990), now(2_010));
        assert_eq!(progress.full_catchup_in(now(2_010), day), Duration::ZERO, "it had begun before");
        progress.finish_full_catchup(UnixTime::from_secs(2_011), now(2_020));
        assert!(progress.full_catchup_in(now(2_020), day) > Duration::ZERO);
    }

    #[test]
    fn what_a_clock_wrote_that_was_ahead_is_not_believed() {
        let day = Duration::from_secs(86_400);
        let mut progress = RelayProgress::default();
        progress.finish_full_catchup(UnixTime::from_secs(100_000), now(100_000));
        assert!(progress.advance_through(UnixTime::from_secs(101_000), now(101_000)));
        assert!(progress.full_catchup_in(now(100_100), day) > Duration::ZERO, "a small correction");
        assert_eq!(progress.full_catchup_in(now(100_099), day), Duration::ZERO, "through lies ahead");
        progress.finish_full_catchup(UnixTime::from_secs(50_000), now(50_010));
        assert!(progress.advance_through(UnixTime::from_secs(50_010), now(50_010)));
        assert_eq!(progress.through(), UnixTime::from_secs(50_010));
        assert!(progress.full_catchup_in(now(50_010), day) > Duration::ZERO);
    }
}
