//! What follows from an input: a round that is over is confirmed, a finished catch-up goes live, a stale set is
//! consolidated, the daily turn begins, `through` moves along.

use log::info;

use super::{Linked, Reach, Relay, State, Why, linked_in};
use crate::limits::FULL_CATCHUP_RETRY_AFTER;
use crate::protocol::relay_url::RelayUrl;
use crate::state::RepoId;
use crate::store::Progress;
use crate::sync::Cx;
use crate::sync::agenda::round::{RoundWhy, Tally};
use crate::sync::session::Session;
use crate::time::{Duration, Instant, UnixTime};

impl Relay {
    /// Acts on what the last input completed.
    pub(super) fn run_transitions(&mut self, cx: &mut Cx<'_>) {
        self.note_stability(cx);
        self.note_budget();
        if let Some(lockout) = self.session().and_then(Session::lockout) {
            // It is tried again in a while.
            return self.hang_up(1000, Why::LockedOut(lockout), cx);
        }
        if self.session().is_some_and(|session| session.budget().paging.is_refuted()) {
            return self.begin_anew(cx);
        }
        match &mut self.state {
            State::Catchup { linked } if linked.session.round().is_over() => self.finish_catchup(cx),
            State::Consolidating { linked }
                if linked.session.round().is_over() && linked.session.cooldown_until().is_none() =>
            {
                self.finish_consolidation(cx);
            }
            State::Live { linked } => {
                if linked.session.round().is_over() && !linked.session.round().is_empty() {
                    self.finish_round(None, cx);
                    self.pump(cx);
                }
                self.follow(cx);
                self.consolidate_if_due(cx);
                self.begin_daily_turn_if_due(cx);
            }
            _ => {}
        }
    }

    fn pump(&mut self, cx: &mut Cx<'_>) {
        if let Some(linked) = linked_in(&mut self.state) {
            linked.session.pump(cx);
        }
    }

    /// The relay has shown that it answers in another way than was believed: what was claimed complete is asked for again
    /// on a new link, from the beginning.
    fn begin_anew(&mut self, cx: &mut Cx<'_>) {
        for repo in self.progress.forget_everything() {
            self.unsaved.push(forget_repo(&self.url, repo, cx));
        }
        self.unsaved.push(self.progress_record());
        self.hang_up(1000, Why::Relearned, cx);
    }

    /// What was told and learned outlives the link and the process.
    pub(super) fn note_budget(&mut self) {
        if let Some(record) = self.budget_mut().take_record() {
            self.unsaved.push(Progress::Budget { relay: self.url.clone(), record });
        }
    }

    pub(super) fn note_frame(&mut self, cx: &mut Cx<'_>) {
        cx.network.on_reached(cx.now);
        if let Some(linked) = linked_in(&mut self.state) {
            linked.session.on_frame(cx.now);
        }
    }

    fn note_stability(&mut self, cx: &Cx<'_>) {
        let stable_after = cx.settings.timing.stable_after;
        let Some(linked) = linked_in(&mut self.state).filter(|linked| !linked.stable) else { return };
        if linked.session.has_answered() || cx.now.mono.since(linked.session.opened_at()) >= stable_after {
            linked.stable = true;
            linked.session.budget_mut().note_standing(|standing| standing.on_reached(cx.now.wall));
            self.health.on_stable(cx.now.mono);
        }
    }

    fn finish_catchup(&mut self, cx: &mut Cx<'_>) {
        let reach = self.linked().map(|linked| linked.reach);
        self.finish_round(reach, cx);
        self.budget_mut().detours.on_caught_up();
        self.pump(cx);
        self.enter(Why::SweepsFinished, cx, |state| State::Live { linked: state.into_linked() });
        self.run_transitions(cx);
    }

    fn finish_consolidation(&mut self, cx: &mut Cx<'_>) {
        self.finish_round(None, cx);
        let linked = linked_in(&mut self.state).expect("only called in Consolidating");
        linked.consolidate_because = None;
        linked.open_minimal(&self.url, cx);
        linked.session.pump(cx);
        self.enter(Why::Consolidated, cx, |state| State::Live { linked: state.into_linked() });
        self.run_transitions(cx);
    }

    fn consolidate_if_due(&mut self, cx: &mut Cx<'_>) {
        let State::Live { linked } = &self.state else { return };
        let Some(why) = linked.consolidate_because.filter(|_| linked.session.cooldown_until().is_none()) else {
            return;
        };
        self.enter(why, cx, |state| State::Consolidating { linked: state.into_linked() });
        self.run_transitions(cx);
    }

    /// Every sweep of the round has ended: what they covered is confirmed.
    fn finish_round(&mut self, catchup: Option<Reach>, cx: &mut Cx<'_>) {
        let linked = linked_in(&mut self.state).expect("a round belongs to a link");
        let round = linked.session.round();
        let (began, sound, broken) = (round.began, round.is_sound(), round.is_broken());
        linked.failed.extend(round.failed_repos());
        linked.broken |= round.is_broken();
        linked.gapped.extend(round.gapped_repos());
        let gapped = self.progress.forget(&linked.gapped);
        for repo in round.finished_repos() {
            // A repo that was lost meanwhile is planned no more, even if the state has it back before its window closes.
            let asked = linked.planned.contains(&repo) && !self.pending_requery.contains(&repo);
            let confirmed = asked && !linked.failed.contains(&repo) && !linked.gapped.contains(&repo);
            if confirmed && self.progress.confirm(repo, linked.planned_upto) {
                let addr = cx.state.addr(repo).clone();
                self.unsaved.push(Progress::Confirmed {
                    relay: self.url.clone(),
                    repo: addr,
                    seq: linked.planned_upto,
                });
            }
        }
        self.unsaved.extend(gapped.into_iter().map(|repo| forget_repo(&self.url, repo, cx)));
        let hides = catchup == Some(Reach::Full) && !broken && round.tally.hides_layer_1();
        match (catchup, sound) {
            // Asked anew at once, by names.
            (Some(Reach::Full), _) if hides && linked.session.budget_mut().name_everything(cx.now.wall) => {}
            (Some(Reach::Full), true) => {
                self.progress.finish_full_catchup(began.wall, cx.now);
                linked.session.note_full_catchup(began);
            }
            (Some(Reach::Full), false) => linked.full_not_before = cx.now.mono + FULL_CATCHUP_RETRY_AFTER,
            _ => {}
        }
        let wide = linked.session.filtering().is_unfiltered();
        if wide && catchup == Some(Reach::Full) && linked.session.round().tally.is_mostly_foreign() {
            linked.session.budget_mut().note_crowd(cx.now.wall);
            linked.consolidate_because.get_or_insert(Why::Crowded);
        }
        self.follow(cx);
        self.through_moved_at = None;
        self.unsaved.push(self.progress_record());
        self.report_round(catchup, cx);
        if let Some(linked) = linked_in(&mut self.state) {
            linked.session.begin_round(RoundWhy::Window, cx);
        }
    }

    /// One line for a finished catch-up, or for what a window asked for.
    fn report_round(&self, catchup: Option<Reach>, cx: &Cx<'_>) {
        let Some(round) = self.session().map(Session::round) else { return };
        let took = cx.now.mono.since(round.began.mono).as_secs_f64();
        let done = match catchup {
            Some(Reach::Full) => format!("full catch-up done in {took:.1} s"),
            Some(Reach::Since(_)) => format!("short catch-up done in {took:.1} s"),
            None => "what a window asked for is here".to_owned(),
        };
        let Tally { new, known, refused, .. } = round.tally;
        let (_, sweeps) = round.pass.sweeps_done();
        let flaw = if self.is_incomplete() { "; incomplete: some sweeps failed" } else { "" };
        info!("{}: {done}: {new} new, {known} known, {refused} refused, {sweeps} sweeps{flaw}", self.url);
    }

    /// Moves `through` along, as far as everything is complete.
    fn follow(&mut self, cx: &Cx<'_>) {
        let Some(linked) = linked_in(&mut self.state).filter(|linked| !linked.is_incomplete()) else { return };
        let Some(until) = linked.session.complete_until() else { return };
        if self.progress.advance_through(until, cx.now) {
            self.through_moved_at.get_or_insert(cx.now.mono);
        }
    }

    fn begin_daily_turn_if_due(&mut self, cx: &mut Cx<'_>) {
        let State::Live { linked } = &self.state else { return };
        let busy = !linked.session.round().is_empty() || linked.session.cooldown_until().is_some();
        if busy || self.full_catchup_at(linked, cx) > cx.now.mono {
            return;
        }
        let linked = linked_in(&mut self.state).expect("just looked at");
        linked.plan_catchup(&self.url, Reach::Full, &self.progress, cx);
        self.enter(Why::DailyTurn, cx, |state| State::Catchup { linked: state.into_linked() });
        self.inquire_beside_if_due(cx);
        self.run_transitions(cx);
    }

    pub(super) fn full_catchup_in(&self, cx: &Cx<'_>) -> Duration {
        self.progress.full_catchup_in(cx.now, cx.settings.timing.daily_catchup)
    }

    pub(super) fn full_catchup_at(&self, linked: &Linked, cx: &Cx<'_>) -> Instant {
        let cooled_down = linked.session.cooldown_until().unwrap_or_default();
        (cx.now.mono + self.full_catchup_in(cx)).max(linked.full_not_before).max(cooled_down)
    }

    /// Whether what the round finds new was missed live: it asks about a time at which we were following already.
    pub(super) fn is_looking_back(&self) -> bool {
        let followed = self.progress.full_catchup() != UnixTime::EPOCH;
        followed && matches!(self.state, State::Catchup { .. })
    }

    pub(super) fn progress_record(&self) -> Progress {
        Progress::Relay {
            relay: self.url.clone(),
            through: self.progress.through(),
            full_catchup: self.progress.full_catchup(),
        }
    }
}

/// A repo is confirmed no more.
fn forget_repo(relay: &RelayUrl, repo: RepoId, cx: &Cx<'_>) -> Progress {
    Progress::ForgetRepo { relay: relay.clone(), repo: cx.state.addr(repo).clone() }
}
