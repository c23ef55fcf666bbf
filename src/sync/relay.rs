//! The state machine of one remote relay (spec section 6).
//!
//! ```text
//! Idle ──> Connecting ──> Catchup ──> Live <──> Consolidating
//!            ^   │           ^         │
//!            │   v           └─────────┘ daily
//!         Backoff <── any state whose link is lost          Closing <── any state, when no repo needs the relay
//! ```
//!
//! A link whose loss was not a failure is dialled again from where it was. `Relay::enter` is the only function that
//! changes the state; it refuses a change that [`StateName::leads_to`] does not list.
//!
//! The machine decides when to dial, what to ask and when that is complete. What an event is worth, it is told.

use std::collections::BTreeSet;

use log::{debug, info};
use nostr::event::EventId;
use nostr::key::PublicKey;

use crate::contract::{CloseReason, LinkId, Output};
use crate::limits::FULL_CATCHUP_RETRY_AFTER;
use crate::protocol::relay_url::RelayUrl;
use crate::store::{Progress, Seq};
use crate::sync::Cx;
use crate::sync::filters::Unit;
use crate::sync::health::Health;
use crate::sync::plan::{Reach, deletion_sweeps, increment_sweeps, minimal_units, units_of};
use crate::sync::progress::RelayProgress;
use crate::sync::relay::linked::Linked;
use crate::sync::round::Tally;
use crate::sync::session::{Origin, Session};
use crate::sync::state::{RepoId, RootId};
use crate::time::{Duration, Instant, UnixTime};

mod linked;
mod names;

pub use names::{StateName, Why};

/// The machine's state; each variant owns what exists only in it.
#[derive(Debug)]
enum State {
    Idle,
    Backoff { until: Instant },
    Connecting { link: LinkId, deadline: Instant },
    Catchup { linked: Box<Linked>, reach: Reach, deletions: Deletions },
    Live { linked: Box<Linked> },
    Consolidating { linked: Box<Linked> },
    Closing,
}

/// How far a full catch-up is with the deletions, which come last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deletions {
    /// Not part of this catch-up, or asked already.
    Settled,
    /// To be asked when everything else has been.
    Owed,
    /// The authors whose deletions to ask for are wanted.
    AuthorsWanted,
}

impl Deletions {
    fn of(reach: Reach) -> Deletions {
        if reach == Reach::Full { Deletions::Owed } else { Deletions::Settled }
    }
}

/// Totals over the relay's life in this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Dials that led to an open link.
    pub dials_ok: u64,
    /// Dials that did not.
    pub dials_failed: u64,
    /// Events that only a catch-up found.
    pub gap_events: u64,
}

/// What became of an event that a relay sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Taken in.
    New,
    /// Held already, or refused for good before.
    Known,
    /// Refused.
    Refused,
}

/// One remote relay.
#[derive(Debug)]
pub struct Relay {
    url: RelayUrl,
    state: State,
    entered: UnixTime,
    why: Why,
    health: Health,
    progress: RelayProgress,
    unsaved: Vec<Progress>,
    /// `through` has moved since it was last written.
    through_moved_at: Option<Instant>,
    totals: Totals,
}

impl Relay {
    /// A relay that is to be dialled at once.
    pub fn new(url: RelayUrl, progress: RelayProgress, cx: &mut Cx<'_>) -> Relay {
        cx.metrics.state_entries.add(StateName::Idle.as_str());
        Relay {
            url,
            state: State::Idle,
            entered: cx.now.wall,
            why: Why::Needed,
            health: Health::new(cx.now.mono),
            progress,
            unsaved: Vec::new(),
            through_moved_at: None,
            totals: Totals::default(),
        }
    }

    /// Its URL.
    pub fn url(&self) -> &RelayUrl {
        &self.url
    }

    /// Its state.
    pub fn state_name(&self) -> StateName {
        match &self.state {
            State::Idle => StateName::Idle,
            State::Backoff { .. } => StateName::Backoff,
            State::Connecting { .. } => StateName::Connecting,
            State::Catchup { .. } => StateName::Catchup,
            State::Live { .. } => StateName::Live,
            State::Consolidating { .. } => StateName::Consolidating,
            State::Closing => StateName::Closing,
        }
    }

    /// When and why the state was entered.
    pub fn entered(&self) -> (UnixTime, Why) {
        (self.entered, self.why)
    }

    /// Its dialling record.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// What is complete with it.
    pub fn progress(&self) -> &RelayProgress {
        &self.progress
    }

    /// Its totals.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Its link, dialled or open.
    pub fn link(&self) -> Option<LinkId> {
        match &self.state {
            State::Connecting { link, .. } => Some(*link),
            _ => self.session().map(Session::link),
        }
    }

    /// Its open link, if there is one.
    pub fn session(&self) -> Option<&Session> {
        self.linked().map(|linked| &linked.session)
    }

    /// Whether some sweep has failed for good on this link, so that `through` stands still.
    pub fn is_incomplete(&self) -> bool {
        self.linked().is_some_and(Linked::is_incomplete)
    }

    /// What is to be written with the next commit.
    pub fn take_unsaved(&mut self) -> Vec<Progress> {
        std::mem::take(&mut self.unsaved)
    }

    /// `through`, if it has moved since it was last written. The caller writes it.
    pub fn take_moved_through(&mut self) -> Option<Progress> {
        self.through_moved_at.take().map(|_| self.progress_record())
    }

    /// Since when a moved `through` has been waiting to be written.
    pub fn through_moved_at(&self) -> Option<Instant> {
        self.through_moved_at
    }

    /// Whether the machine waits for [`Relay::add_deletions`].
    pub fn wants_authors(&self) -> bool {
        matches!(self.state, State::Catchup { deletions: Deletions::AuthorsWanted, .. })
    }

    /// The authors whose events are held: their deletions are asked for.
    pub fn add_deletions(&mut self, authors: BTreeSet<PublicKey>, cx: &mut Cx<'_>) {
        let State::Catchup { linked, deletions, .. } = &mut self.state else { return };
        *deletions = Deletions::Settled;
        linked.session.add_sweeps(deletion_sweeps(authors, cx.settings.limits.filter_values_max));
        linked.session.pump(cx);
        self.settle(cx);
    }

    /// The dialled link is open.
    pub fn on_opened(&mut self, link: LinkId, cx: &mut Cx<'_>) {
        if !matches!(&self.state, State::Connecting { link: dialled, .. } if *dialled == link) {
            return;
        }
        self.totals.dials_ok += 1;
        let reach = match self.progress.since(cx.now, cx.settings.timing.overlap_secs) {
            Some(since) if self.full_catchup_in(cx) > Duration::ZERO => Reach::Since(since),
            _ => Reach::Full,
        };
        let mut linked = Box::new(Linked::new(Session::new(link, cx), cx.now.mono));
        linked.plan_catchup(&self.url, reach, &self.progress, cx);
        self.enter(Why::Opened, cx, |_| State::Catchup { linked, reach, deletions: Deletions::of(reach) });
        self.settle(cx);
    }

    /// The link is gone, or never came to be.
    pub fn on_closed(&mut self, reason: CloseReason, cx: &mut Cx<'_>) {
        self.lose_link(Why::LinkClosed(reason), cx);
    }

    /// A frame came that says nothing else.
    pub fn on_alive(&mut self, cx: &mut Cx<'_>) {
        self.note_frame(cx);
        self.settle(cx);
    }

    /// What a subscription of ours is for; `None` if it is not ours.
    pub fn origin(&self, subscription: &str) -> Option<Origin> {
        self.session()?.origin(subscription)
    }

    /// An event came and was judged. `created_at` is given if a valid signature or the store vouches for it.
    pub fn on_event(
        &mut self,
        subscription: &str,
        id: EventId,
        created_at: Option<UnixTime>,
        fate: Fate,
        cx: &mut Cx<'_>,
    ) {
        self.note_frame(cx);
        let origin = self.origin(subscription);
        let gap = origin == Some(Origin::Rotation) || (origin == Some(Origin::Round) && self.is_looking_back());
        self.totals.gap_events += u64::from(gap && fate == Fate::New);
        if let Some(linked) = linked_in(&mut self.state) {
            let tally = &mut linked.session.round_mut().tally;
            match fate {
                Fate::New => tally.new += 1,
                Fate::Known => tally.known += 1,
                Fate::Refused => tally.refused += 1,
            }
            linked.session.on_event(subscription, id, created_at, cx);
        }
        self.settle(cx);
    }

    /// EOSE.
    pub fn on_eose(&mut self, subscription: &str, cx: &mut Cx<'_>) {
        self.note_frame(cx);
        if let Some(linked) = linked_in(&mut self.state) {
            linked.session.on_eose(subscription, cx);
        }
        self.settle(cx);
    }

    /// CLOSED.
    pub fn on_subscription_closed(&mut self, subscription: &str, why: &str, cx: &mut Cx<'_>) {
        self.note_frame(cx);
        debug!("{}: CLOSED {subscription}: {why}", self.url);
        if let Some(linked) = linked_in(&mut self.state) {
            linked.session.on_closed(subscription, why, cx);
        }
        self.settle(cx);
    }

    /// NOTICE.
    pub fn on_notice(&mut self, text: &str, cx: &mut Cx<'_>) {
        self.note_frame(cx);
        debug!("{}: NOTICE {text}", self.url);
        if let Some(linked) = linked_in(&mut self.state) {
            linked.session.on_notice(text, cx);
        }
        self.settle(cx);
    }

    /// A window has closed: these repos are newly shared, these root events are new. With it, windows have brought every
    /// root event up to number `upto`; the state may know later ones, of a batch that is not committed yet.
    pub fn on_window(&mut self, gained: &BTreeSet<RepoId>, roots: &BTreeSet<RootId>, upto: Seq, cx: &mut Cx<'_>) {
        let url = &self.url;
        let Some(linked) = linked_in(&mut self.state) else { return };
        let (repos, roots) = linked.take_new(url, gained, roots, upto, cx);
        if repos.is_empty() && roots.is_empty() {
            return;
        }
        let values_max = cx.settings.limits.filter_values_max;
        linked.session.add_sweeps(increment_sweeps(&repos, &roots, values_max, cx.state));
        linked.in_round = true;
        let units: Vec<Unit> = units_of(&repos, &roots, values_max, cx.state).collect();
        let consolidating = matches!(self.state, State::Consolidating { .. });
        let linked = linked_in(&mut self.state).expect("it was there a moment ago");
        if consolidating || linked.outgrown_by(&self.url, &units, cx) {
            units.into_iter().for_each(|unit| linked.session.add_rotating(unit, cx.now.wall, cx));
            linked.stale.get_or_insert(Why::TooManyFilters);
        } else {
            linked.session.add_live(units, cx);
        }
        linked.session.pump(cx);
        self.settle(cx);
    }

    /// The relay shares fewer repos than before: what it is no longer asked about is forgotten.
    pub fn on_repos_lost(&mut self, cx: &mut Cx<'_>) {
        let gone = |repo: &RepoId| !cx.state.shares(&self.url, *repo);
        let forgotten: Vec<RepoId> = self.progress.confirmed_repos().filter(gone).collect();
        for repo in forgotten {
            self.progress.forget(repo);
            let repo = cx.state.addr(repo).clone();
            self.unsaved.push(Progress::ForgetRepo { relay: self.url.clone(), repo });
        }
        let Some(linked) = linked_in(&mut self.state) else { return };
        let planned = linked.planned.len();
        linked.planned.retain(|repo| !gone(repo));
        if linked.planned.len() < planned {
            linked.stale = Some(Why::ReposLost);
        }
        self.settle(cx);
    }

    /// Time has passed.
    pub fn on_time(&mut self, cx: &mut Cx<'_>) {
        match &mut self.state {
            State::Idle => self.dial(Why::Needed, cx),
            State::Backoff { until } if *until <= cx.now.mono => self.dial(Why::WaitOver, cx),
            State::Connecting { link, deadline } if *deadline <= cx.now.mono => {
                let link = *link;
                cx.out.push_back(Output::Close { link, code: 1001 });
                self.lose_link(Why::LinkClosed(CloseReason::Timeout), cx);
            }
            State::Backoff { .. } | State::Connecting { .. } | State::Closing => {}
            State::Catchup { linked, .. } | State::Live { linked } | State::Consolidating { linked } => {
                let link = linked.session.link();
                if linked.session.on_time(cx) {
                    cx.out.push_back(Output::Close { link, code: 1001 });
                    self.lose_link(Why::Silent, cx);
                } else {
                    self.settle(cx);
                }
            }
        }
    }

    /// When time next matters.
    pub fn next_deadline(&self, cx: &Cx<'_>) -> Option<Instant> {
        match &self.state {
            State::Idle => Some(cx.now.mono),
            State::Backoff { until } => Some(*until),
            State::Connecting { deadline, .. } => Some(*deadline),
            State::Closing => None,
            State::Catchup { linked, .. } | State::Consolidating { linked } => Some(linked.next_deadline(cx)),
            State::Live { linked } => {
                let turn = (!linked.in_round).then(|| self.full_catchup_at(linked, cx));
                Some(turn.map_or(linked.next_deadline(cx), |at| at.min(linked.next_deadline(cx))))
            }
        }
    }

    /// No repo needs the relay, or the process ends: its link is closed.
    pub fn close(&mut self, why: Why, cx: &mut Cx<'_>) {
        if let Some(link) = self.link() {
            let code = if why == Why::Stopping { 1001 } else { 1000 };
            cx.out.push_back(Output::Close { link, code });
        }
        if self.state_name() != StateName::Closing {
            self.enter(why, cx, |_| State::Closing);
        }
    }

    /// The one function that changes the state.
    fn enter(&mut self, why: Why, cx: &mut Cx<'_>, next: impl FnOnce(State) -> State) {
        let from = self.state_name();
        self.state = next(std::mem::replace(&mut self.state, State::Closing));
        let to = self.state_name();
        assert!(from.leads_to(to), "{from:?} does not lead to {to:?}");
        self.entered = cx.now.wall;
        self.why = why;
        cx.metrics.state_entries.add(to.as_str());
        info!("{}: {} -> {} ({why})", self.url, from.as_str(), to.as_str());
    }

    fn dial(&mut self, why: Why, cx: &mut Cx<'_>) {
        let link = LinkId::Relay(*cx.next_link);
        *cx.next_link += 1;
        self.health.on_dial(cx.now.mono);
        cx.out.push_back(Output::Dial { link, url: self.url.clone() });
        let deadline = cx.now.mono + cx.settings.timing.connect_timeout;
        self.enter(why, cx, |_| State::Connecting { link, deadline });
    }

    fn lose_link(&mut self, why: Why, cx: &mut Cx<'_>) {
        let timing = &cx.settings.timing;
        let until = match self.linked() {
            Some(linked) if linked.stable => self.health.on_drop(cx.now.mono, timing),
            Some(_) => self.health.on_failure(cx.now.mono, timing),
            None if matches!(self.state, State::Connecting { .. }) => {
                self.totals.dials_failed += 1;
                self.health.on_failure(cx.now.mono, timing)
            }
            None => return,
        };
        match until <= cx.now.mono {
            true => self.dial(why, cx),
            false => self.enter(why, cx, |_| State::Backoff { until }),
        }
    }

    /// Acts on what the last input completed.
    fn settle(&mut self, cx: &mut Cx<'_>) {
        self.note_stability(cx);
        match &mut self.state {
            State::Catchup { linked, deletions, .. } if linked.session.round().is_over() => {
                if *deletions == Deletions::Owed {
                    *deletions = Deletions::AuthorsWanted;
                }
                if *deletions == Deletions::Settled {
                    self.finish_catchup(cx);
                }
            }
            State::Consolidating { linked }
                if linked.session.round().is_over() && linked.session.cooldown_until().is_none() =>
            {
                self.finish_consolidation(cx);
            }
            State::Live { linked } => {
                if linked.in_round && linked.session.round().is_over() {
                    self.finish_round(None, cx);
                }
                self.follow(cx);
                self.consolidate_if_stale(cx);
                self.begin_daily_turn_if_due(cx);
            }
            _ => {}
        }
    }

    fn note_frame(&mut self, cx: &Cx<'_>) {
        if let Some(linked) = linked_in(&mut self.state) {
            linked.session.on_frame(cx);
        }
    }

    fn note_stability(&mut self, cx: &Cx<'_>) {
        let stable_after = cx.settings.timing.stable_after;
        let Some(linked) = linked_in(&mut self.state).filter(|linked| !linked.stable) else { return };
        if linked.session.has_answered() || cx.now.mono.since(linked.session.opened_at()) >= stable_after {
            linked.stable = true;
            self.health.on_stable(cx.now.mono);
        }
    }

    fn finish_catchup(&mut self, cx: &mut Cx<'_>) {
        let State::Catchup { linked, reach, .. } = &self.state else { unreachable!("only called in Catchup") };
        let (reach, round) = (*reach, linked.session.round());
        let (tally, (_, sweeps)) = (round.tally, round.sweeps_done());
        let took = cx.now.mono.since(round.began.mono).as_secs_f64();
        self.finish_round(Some(reach), cx);
        let kind = if reach == Reach::Full { "full" } else { "short" };
        let flaw = if self.is_incomplete() { "; incomplete: some sweeps failed" } else { "" };
        let Tally { new, known, refused } = tally;
        info!(
            "{}: {kind} catch-up done: {new} new, {known} known, {refused} refused, {sweeps} sweeps, {took:.1} s{flaw}",
            self.url
        );
        self.enter(Why::SweepsFinished, cx, |state| State::Live { linked: state.into_linked() });
        self.settle(cx);
    }

    fn finish_consolidation(&mut self, cx: &mut Cx<'_>) {
        self.finish_round(None, cx);
        let units = minimal_units(&self.url, cx.settings.limits.filter_values_max, cx.state);
        let linked = linked_in(&mut self.state).expect("only called in Consolidating");
        linked.stale = None;
        linked.session.reopen(units, cx);
        linked.in_round = !linked.session.round().is_over();
        linked.session.pump(cx);
        self.enter(Why::Consolidated, cx, |state| State::Live { linked: state.into_linked() });
        self.settle(cx);
    }

    fn consolidate_if_stale(&mut self, cx: &mut Cx<'_>) {
        let State::Live { linked } = &self.state else { return };
        let Some(why) = linked.stale.filter(|_| linked.session.cooldown_until().is_none()) else { return };
        self.enter(why, cx, |state| State::Consolidating { linked: state.into_linked() });
        self.settle(cx);
    }

    /// Every sweep of the round has ended: what they covered is confirmed.
    fn finish_round(&mut self, catchup: Option<Reach>, cx: &mut Cx<'_>) {
        let linked = linked_in(&mut self.state).expect("a round belongs to a link");
        let round = linked.session.round();
        let (began, sound) = (round.began, round.is_sound());
        linked.failed.extend(round.failed_repos());
        linked.broken |= round.is_broken();
        for repo in round.finished_repos() {
            let confirmed = !linked.failed.contains(&repo) && cx.state.shares(&self.url, repo);
            if confirmed && self.progress.confirm(repo, linked.planned_upto) {
                let addr = cx.state.addr(repo).clone();
                self.unsaved.push(Progress::Confirmed {
                    relay: self.url.clone(),
                    repo: addr,
                    seq: linked.planned_upto,
                });
            }
        }
        match (catchup, sound) {
            (Some(Reach::Full), true) => self.progress.finish_full_catchup(began.wall),
            (Some(Reach::Full), false) => linked.full_not_before = cx.now.mono + FULL_CATCHUP_RETRY_AFTER,
            _ => {}
        }
        linked.in_round = false;
        self.follow(cx);
        self.through_moved_at = None;
        self.unsaved.push(self.progress_record());
        if let Some(linked) = linked_in(&mut self.state) {
            linked.session.begin_round(cx);
        }
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
        let reach = Reach::Full;
        let busy = linked.in_round || linked.session.cooldown_until().is_some();
        if busy || self.full_catchup_at(linked, cx) > cx.now.mono {
            return;
        }
        let linked = linked_in(&mut self.state).expect("just looked at");
        linked.plan_catchup(&self.url, reach, &self.progress, cx);
        self.enter(Why::DailyTurn, cx, |state| State::Catchup {
            linked: state.into_linked(),
            reach,
            deletions: Deletions::of(reach),
        });
        self.settle(cx);
    }

    fn full_catchup_in(&self, cx: &Cx<'_>) -> Duration {
        self.progress.full_catchup_in(cx.now, cx.settings.timing.daily_catchup)
    }

    fn full_catchup_at(&self, linked: &Linked, cx: &Cx<'_>) -> Instant {
        (cx.now.mono + self.full_catchup_in(cx)).max(linked.full_not_before)
    }

    /// Whether what the round finds new was missed live: it asks about a time at which we were following already.
    fn is_looking_back(&self) -> bool {
        let followed = self.progress.full_catchup() != UnixTime::EPOCH;
        followed && matches!(self.state, State::Catchup { .. })
    }

    fn progress_record(&self) -> Progress {
        Progress::Relay {
            relay: self.url.clone(),
            through: self.progress.through(),
            full_catchup: self.progress.full_catchup(),
        }
    }

    fn linked(&self) -> Option<&Linked> {
        match &self.state {
            State::Catchup { linked, .. } | State::Live { linked } | State::Consolidating { linked } => Some(linked),
            State::Idle | State::Backoff { .. } | State::Connecting { .. } | State::Closing => None,
        }
    }
}

impl State {
    fn into_linked(self) -> Box<Linked> {
        match self {
            State::Catchup { linked, .. } | State::Live { linked } | State::Consolidating { linked } => linked,
            State::Idle | State::Backoff { .. } | State::Connecting { .. } | State::Closing => {
                unreachable!("only states with a link lead to states with a link")
            }
        }
    }
}

/// The open link of a state, by field so that the rest of the relay stays free to borrow.
fn linked_in(state: &mut State) -> Option<&mut Linked> {
    match state {
        State::Catchup { linked, .. } | State::Live { linked } | State::Consolidating { linked } => Some(linked),
        State::Idle | State::Backoff { .. } | State::Connecting { .. } | State::Closing => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::testing::{Bench, addr, announcement, relay, root_id};

    /// A machine with its world, driven by hand.
    struct Rig {
        bench: Bench,
        relay: Relay,
        seq: u64,
    }

    impl Rig {
        fn new(progress: impl FnOnce(&mut Bench) -> RelayProgress) -> Rig {
            let mut bench = Bench::new();
            let progress = progress(&mut bench);
            let relay = Relay::new(relay("one"), progress, &mut bench.cx());
            Rig { bench, relay, seq: 100 }
        }

        fn state(&self) -> StateName {
            self.relay.state_name()
        }

        fn tick(&mut self) {
            self.relay.on_time(&mut self.bench.cx());
        }

        fn open(&mut self) {
            self.tick();
            let link = self.relay.link().expect("dialled");
            self.relay.on_opened(link, &mut self.bench.cx());
        }

        fn drop_link(&mut self) {
            self.relay.on_closed(CloseReason::Peer(1006), &mut self.bench.cx());
        }

        /// Answers every page with nothing until no page is asked any more; the texts that went out meanwhile.
        fn answer_all(&mut self) -> Vec<String> {
            let mut all = Vec::new();
            loop {
                let texts = self.bench.sent();
                if texts.is_empty() {
                    return all;
                }
                for text in &texts {
                    let message: serde_json::Value = serde_json::from_str(text).unwrap();
                    if message[0] == "REQ" {
                        self.relay.on_eose(message[1].as_str().unwrap(), &mut self.bench.cx());
                    }
                }
                if self.relay.wants_authors() {
                    self.relay.add_deletions(BTreeSet::new(), &mut self.bench.cx());
                }
                all.extend(texts);
            }
        }

        /// A window that brings one root event to repo `a`.
        fn window_with_root(&mut self) {
            self.seq += 1;
            let changes = self.bench.state.add_root(root_id(self.seq as u32), self.seq, &[addr(1, "a")]);
            self.relay.on_window(&BTreeSet::new(), &changes.roots, self.seq, &mut self.bench.cx());
        }
    }

    fn with_repo(bench: &mut Bench) -> RelayProgress {
        bench.state.set_announcement(&announcement(1, "a", &["one"]), 1);
        RelayProgress::default()
    }

    fn reqs(texts: &[String]) -> Vec<&String> {
        texts.iter().filter(|text| text.starts_with("[\"REQ\"")).collect()
    }

    #[test]
    fn live_opens_first_then_history_is_swept_then_it_is_live() {
        let mut rig = Rig::new(with_repo);
        assert_eq!(rig.state(), StateName::Idle);
        rig.open();
        assert_eq!(rig.state(), StateName::Catchup);
        let texts = rig.answer_all();
        let since = rig.bench.now.wall.as_secs() - 900;
        assert!(texts[0].contains(&format!("\"since\":{since}")), "live, from before now: {}", texts[0]);
        assert!(reqs(&texts)[1..].iter().all(|text| !text.contains("since")), "a first catch-up asks for everything");
        assert!(reqs(&texts).iter().all(|text| text.contains("\"limit\":")));
        assert_eq!(rig.state(), StateName::Live);
        assert_eq!(rig.relay.progress().through(), rig.bench.now.wall);
        assert_eq!(rig.relay.progress().full_catchup(), rig.bench.now.wall);
        let unsaved = rig.relay.take_unsaved();
        assert!(matches!(&unsaved[0], Progress::Confirmed { seq: 1, .. }), "{unsaved:?}");
        assert!(matches!(&unsaved[1], Progress::Relay { .. }));
    }

    #[test]
    fn a_reconnect_asks_since_through_less_the_overlap() {
        let mut rig = Rig::new(with_repo);
        rig.open();
        rig.answer_all();
        let through = rig.relay.progress().through().as_secs();
        rig.bench.advance(7_200);
        rig.drop_link();
        assert_eq!(rig.state(), StateName::Connecting, "a healthy relay is dialled at once");
        rig.open();
        let texts = rig.answer_all();
        let swept = format!("\"since\":{}", through - 900);
        assert!(reqs(&texts)[1..].iter().all(|text| text.contains(&swept)), "{texts:#?}");
        assert_eq!(rig.state(), StateName::Live);
    }

    #[test]
    fn through_follows_the_last_frame_not_the_clock() {
        let mut rig = Rig::new(with_repo);
        rig.open();
        rig.answer_all();
        let heard = rig.bench.now.wall;
        rig.bench.advance(25);
        rig.tick();
        assert_eq!(rig.relay.progress().through(), heard);
        rig.relay.on_alive(&mut rig.bench.cx());
        assert_eq!(rig.relay.progress().through(), rig.bench.now.wall);
    }

    #[test]
    fn a_link_that_drops_before_it_is_stable_is_a_failure() {
        let mut rig = Rig::new(with_repo);
        rig.open();
        rig.drop_link();
        assert_eq!(rig.state(), StateName::Backoff);
        rig.bench.advance(4);
        rig.tick();
        assert_eq!(rig.state(), StateName::Backoff);
        rig.bench.advance(1);
        rig.open();
        rig.bench.advance(60);
        rig.relay.on_alive(&mut rig.bench.cx());
        rig.drop_link();
        assert_eq!(rig.state(), StateName::Connecting, "sixty seconds of life are a success, EOSE or not");
    }

    #[test]
    fn connecting_has_a_deadline() {
        let mut rig = Rig::new(with_repo);
        rig.tick();
        assert_eq!(rig.state(), StateName::Connecting);
        rig.bench.advance(30);
        rig.tick();
        assert_eq!(rig.state(), StateName::Backoff);
        assert_eq!(rig.relay.entered().1, Why::LinkClosed(CloseReason::Timeout));
    }

    #[test]
    fn a_failed_sweep_leaves_its_repos_unconfirmed_and_through_where_it_was() {
        let mut rig = Rig::new(with_repo);
        rig.open();
        for _ in 0..SWEEP_TRIES {
            for text in rig.bench.sent() {
                let message: serde_json::Value = serde_json::from_str(&text).unwrap();
                if message[0] == "REQ" {
                    let name = message[1].as_str().unwrap();
                    // Layer 2 by `q` is refused whenever it is swept; everything else is answered.
                    match message[2].get("#q").is_some() && message.as_array().unwrap().len() == 3 {
                        true => rig.relay.on_subscription_closed(name, "error: no", &mut rig.bench.cx()),
                        false => rig.relay.on_eose(name, &mut rig.bench.cx()),
                    }
                }
            }
            if rig.relay.wants_authors() {
                rig.relay.add_deletions(BTreeSet::new(), &mut rig.bench.cx());
            }
            rig.bench.advance(20);
            rig.relay.on_alive(&mut rig.bench.cx());
            rig.tick();
        }
        assert_eq!(rig.state(), StateName::Live);
        assert!(rig.relay.is_incomplete());
        assert_eq!(rig.relay.progress().through(), UnixTime::EPOCH);
        assert_eq!(rig.relay.progress().confirmed_repos().count(), 0);
        assert_eq!(rig.relay.progress().full_catchup(), UnixTime::EPOCH);
    }

    /// Rounds of the test above: three tries with a minute between them, at twenty seconds a round, and some to spare.
    const SWEEP_TRIES: usize = 12;

    #[test]
    fn windows_consolidate_in_two_phases_when_their_filters_become_too_many() {
        let mut rig = Rig::new(with_repo);
        rig.open();
        rig.answer_all();
        let mut consolidated = 0;
        for _ in 0..30 {
            rig.bench.advance(5);
            rig.window_with_root();
            if rig.state() == StateName::Consolidating {
                let texts = rig.answer_all();
                let reqs = reqs(&texts);
                let since = format!("\"since\":{}", rig.bench.now.wall.as_secs() - 900);
                let reopened = reqs.iter().position(|text| text.contains(&since)).expect("phase two reopens");
                assert_eq!(reopened, 3, "phase one sweeps the new root event by its three letters: {reqs:#?}");
                assert!(reqs[..reopened].iter().all(|text| !text.contains("since")));
                assert_eq!(reqs.len(), reopened + 1, "the minimal set fits into one REQ");
                consolidated += 1;
            }
            rig.answer_all();
            assert_eq!(rig.state(), StateName::Live);
            let session = rig.relay.session().unwrap();
            assert!(session.open_subscriptions() <= crate::limits::RELAY_SUBSCRIPTIONS_MAX);
            assert_eq!(session.rotation().units().count(), 0, "a small relay is all live");
        }
        assert!((2..10).contains(&consolidated), "{consolidated} consolidations in 30 windows");
    }

    #[test]
    fn what_was_staged_when_a_window_closed_is_asked_about_by_the_next() {
        let mut rig = Rig::new(with_repo);
        rig.open();
        rig.answer_all();
        let committed = rig.bench.state.add_root(root_id(1), 101, &[addr(1, "a")]);
        // The state learns of an event when it is staged, the window only when it is committed.
        let staged = rig.bench.state.add_root(root_id(2), 102, &[addr(1, "a")]);
        for (changes, upto, id) in [(committed, 101, root_id(1)), (staged, 102, root_id(2))] {
            rig.relay.on_window(&BTreeSet::new(), &changes.roots, upto, &mut rig.bench.cx());
            let texts = rig.answer_all();
            assert!(reqs(&texts).iter().any(|text| text.contains(&id.to_hex())), "{id} is never asked about");
        }
    }

    #[test]
    fn a_large_window_in_a_catch_up_takes_its_live_slots_from_pages() {
        let mut rig = Rig::new(|bench| {
            bench.state.set_announcement(&announcement(1, "a", &["one"]), 1);
            for n in 0..2_000 {
                bench.state.add_root(root_id(n), u64::from(n) + 2, &[addr(1, "a")]);
            }
            RelayProgress::default()
        });
        rig.open();
        assert_eq!(rig.state(), StateName::Catchup);
        let mut changes = crate::sync::state::Changes::default();
        for n in 2_000..12_000 {
            changes.merge(rig.bench.state.add_root(root_id(n), u64::from(n) + 2, &[addr(1, "a")]));
        }
        rig.relay.on_window(&BTreeSet::new(), &changes.roots, 12_001, &mut rig.bench.cx());
        let session = rig.relay.session().expect("a link");
        assert!(session.open_subscriptions() <= crate::limits::RELAY_SUBSCRIPTIONS_MAX);
        // Every page that was taken back is asked again: each root event is asked about in all three ways.
        let texts = rig.answer_all();
        for n in [0, 1_999, 2_000, 11_999] {
            let id = root_id(n).to_hex();
            let pages = texts.iter().filter(|text| text.contains(&id) && !text.contains("since")).count();
            assert!(pages >= 3, "{n}: {pages} pages");
        }
        assert_eq!(rig.state(), StateName::Live);
    }

    #[test]
    fn the_daily_turn_asks_for_everything_again() {
        let mut rig = Rig::new(with_repo);
        rig.open();
        rig.answer_all();
        for _ in 0..86_400 / 20 {
            rig.bench.advance(20);
            rig.relay.on_alive(&mut rig.bench.cx());
        }
        assert_eq!(rig.state(), StateName::Catchup);
        assert_eq!(rig.relay.entered().1, Why::DailyTurn);
        let texts = rig.answer_all();
        let pages = reqs(&texts);
        assert!(pages[1..].iter().all(|text| !text.contains("since")), "{pages:#?}");
        assert_eq!(rig.state(), StateName::Live);
        assert_eq!(rig.relay.progress().full_catchup(), rig.bench.now.wall);
    }

    #[test]
    fn a_rate_limit_silences_us_for_65_seconds_on_the_same_link() {
        let mut rig = Rig::new(with_repo);
        rig.open();
        let first = rig.bench.sent();
        rig.relay.on_subscription_closed("g1", "rate-limited: slow down", &mut rig.bench.cx());
        rig.relay.on_eose("g2", &mut rig.bench.cx());
        assert!(reqs(&rig.bench.sent()).is_empty(), "nothing is asked while it cools down");
        rig.bench.advance(64);
        rig.relay.on_alive(&mut rig.bench.cx());
        rig.tick();
        assert!(reqs(&rig.bench.sent()).is_empty());
        rig.bench.advance(1);
        rig.tick();
        let again = rig.bench.sent();
        let question = |text: &str| text.split_once(',').unwrap().1.split_once(',').unwrap().1.to_owned();
        let refused = question(reqs(&first)[1]);
        assert!(reqs(&again).iter().any(|text| question(text) == refused), "the refused page is asked again");
        assert_eq!(rig.relay.health().failures(), 0, "no failure");
    }

    #[test]
    fn a_lost_repo_is_no_longer_asked_about_and_its_progress_is_forgotten() {
        let mut rig = Rig::new(with_repo);
        rig.bench.state.set_announcement(&announcement(1, "b", &["one"]), 2);
        rig.open();
        rig.answer_all();
        rig.relay.take_unsaved();
        rig.bench.state.remove_announcement(&addr(1, "a"));
        rig.relay.on_repos_lost(&mut rig.bench.cx());
        let texts = rig.answer_all();
        let live = reqs(&texts).last().copied().unwrap();
        assert!(live.contains(":b\"") && !live.contains(":a\""), "{live}");
        let forgotten = rig.relay.take_unsaved();
        assert!(forgotten.iter().any(|p| matches!(p, Progress::ForgetRepo { repo, .. } if *repo == addr(1, "a"))));
    }

    #[test]
    fn a_silent_link_is_pinged_and_then_given_up() {
        let mut rig = Rig::new(with_repo);
        rig.open();
        rig.answer_all();
        rig.bench.out.clear();
        rig.bench.advance(30);
        rig.tick();
        assert!(rig.bench.out.iter().any(|output| matches!(output, Output::Ping { .. })));
        rig.bench.advance(30);
        rig.tick();
        assert!(rig.bench.out.iter().any(|output| matches!(output, Output::Close { .. })));
        assert_eq!(rig.relay.entered().1, Why::Silent);
    }
}
