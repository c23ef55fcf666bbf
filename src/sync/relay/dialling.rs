//! How the link to a relay comes and goes: dialled, open, lost, closed.

use log::debug;

use super::{Linked, Reach, Relay, State, Why, linked_in};
use crate::contract::{CloseReason, LinkId, Output};
use crate::limits::{REFUSED_RETRY_AFTER, RETRY_AFTER_MAX, Timing};
use crate::sync::Cx;
use crate::sync::dials::Caller;
use crate::sync::health::Rest;
use crate::sync::network::Evidence;
use crate::sync::places::Standing;
use crate::sync::relay::names::StateName;
use crate::sync::session::Session;
use crate::time::{Duration, Instant, UnixTime};

/// What a server answers where no relay is.
const NOT_FOUND: CloseReason = CloseReason::Handshake(404);

/// How far connecting has got, and the link of that step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The relay is asked what it says of itself.
    Inquiring(LinkId),
    /// It has been asked, and waits for its turn to be dialled.
    Waiting {
        /// Time left of the deadline from then on.
        left: Duration,
    },
    /// The WebSocket is being opened.
    Dialling(LinkId),
}

/// By which form of its path a relay is dialled (spec section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The one that answered last, or that is written.
    First,
    /// The other one: at the first it was not found.
    Second,
}

impl Relay {
    /// Its link, being dialled or open.
    pub fn link(&self) -> Option<LinkId> {
        match &self.state {
            State::Connecting { step: Step::Dialling(link), .. } => Some(*link),
            _ => self.session().map(Session::link),
        }
    }

    /// Every link it has: the one being dialled or open, and that of an inquiry.
    pub fn links(&self) -> [Option<LinkId>; 2] {
        [self.link(), self.inquiry()]
    }

    /// Something was sent on its link.
    pub fn on_sent(&mut self, now: Instant) {
        if let Some(linked) = linked_in(&mut self.state) {
            linked.session.on_sent(now);
        }
    }

    /// A relay that was failing when it was last known: it goes on waiting.
    pub fn resume(&mut self, rest: Rest, cx: &mut Cx<'_>) {
        let Rest { health, until } = rest;
        self.health = health;
        if until > cx.now.mono {
            self.enter(Why::Needed, cx, |_| State::Backoff { until });
        }
    }

    /// What to remember if the relay is forgotten now; a try whose outcome is open counts as failed. `None` if it stands
    /// well.
    pub fn rest(&self, now: Instant, timing: &Timing) -> Option<Rest> {
        let mut health = self.health.clone();
        let until = match &self.state {
            State::Backoff { until } => *until,
            State::Connecting { .. } => health.on_failure(now, timing),
            _ if self.linked().is_some_and(|linked| !linked.stable) => health.on_failure(now, timing),
            _ if self.dial_not_before > now => self.dial_not_before,
            _ => return None,
        };
        Some(Rest { health, until: until.max(self.dial_not_before) })
    }

    /// The dialled link is open.
    pub fn on_opened(&mut self, link: LinkId, cx: &mut Cx<'_>) {
        if !matches!(&self.state, State::Connecting { step: Step::Dialling(dialled), .. } if *dialled == link) {
            return;
        }
        self.totals.dials_ok += 1;
        self.note_reached(cx);
        let is_elsewhere = matches!(&self.state, State::Connecting { form: Form::Second, .. });
        let reach = match self.progress.since(cx.now, cx.settings.timing.overlap_secs) {
            Some(since) if self.full_catchup_in(cx) > Duration::ZERO => Reach::Since(since),
            _ => Reach::Full,
        };
        let budget = self.budget.take().expect("no link was open");
        let mut linked = Box::new(Linked::new(Session::new(self.url.clone(), link, budget, cx), cx.now.mono));
        linked.plan_catchup(&self.url, reach, &self.progress, cx);
        self.enter(Why::Opened, cx, |_| State::Catchup { linked });
        if is_elsewhere {
            self.inquire_elsewhere(cx);
        }
        self.run_transitions(cx);
    }

    /// The link is gone, or never came to be.
    pub fn on_closed(&mut self, link: LinkId, reason: CloseReason, cx: &mut Cx<'_>) {
        if self.link() == Some(link) && !(reason == NOT_FOUND && self.dial_other_form(cx)) {
            self.heed_retry_after(reason, cx);
            self.lose_link(Why::LinkClosed(reason), cx);
        }
    }

    /// The relay was asked something over HTTP and is busy: it is not dialled before it says, however well it stands.
    pub(super) fn heed_retry_after(&mut self, reason: CloseReason, cx: &Cx<'_>) {
        if let CloseReason::RetryAfter { retry, .. } = reason {
            let wait = retry.wait(cx.now.wall).min(RETRY_AFTER_MAX);
            self.dial_not_before = self.dial_not_before.max(cx.now.mono + wait);
        }
    }

    /// No repo needs the relay, or the process ends: its link is closed.
    pub fn close(&mut self, why: Why, cx: &mut Cx<'_>) {
        for link in self.links().into_iter().flatten() {
            let code = if why == Why::Stopping { 1001 } else { 1000 };
            cx.out.push_back(Output::Close { link, code });
        }
        cx.dials.withdraw(&self.url);
        if let Some(linked) = linked_in(&mut self.state) {
            self.budget = Some(linked.session.take_budget());
        }
        if self.state_name() != StateName::Closing {
            self.enter(why, cx, |_| State::Closing);
        }
    }

    /// The other side was reached. If this ends an outage of our own, that was no time without a success.
    pub(super) fn note_reached(&mut self, cx: &mut Cx<'_>) {
        cx.network.on_reached(cx.now);
        self.note_return(cx);
    }

    fn note_return(&mut self, cx: &Cx<'_>) {
        if let Some(outage) = cx.network.returned() {
            self.health.on_return(cx.now.mono, outage);
        }
    }

    /// Whether the relay waits for its next dial and may be dialled as a probe of our own network.
    pub fn can_be_probed(&self) -> bool {
        matches!(self.state, State::Backoff { .. }) && self.locked_out().is_none()
    }

    /// Whether a link is being opened.
    pub fn is_dialling(&self) -> bool {
        matches!(self.state, State::Connecting { .. })
    }

    /// Nothing can be reached: what the relay seems to have done since the last sign of life from anybody was our own
    /// fault.
    pub fn on_outage(&mut self, cx: &mut Cx<'_>) {
        self.health.excuse(cx.network.proven_at());
        if self.health.is_healthy() {
            self.budget_mut().note_standing(Standing::excuse);
        }
        if matches!(self.state, State::Backoff { .. }) {
            cx.dials.withdraw(&self.url);
        }
    }

    /// A probe of our own network is for this relay.
    pub fn probe(&mut self, cx: &mut Cx<'_>) {
        cx.dials.note(cx.now.mono, &self.url);
        self.begin_dial(Why::Probe, cx);
    }

    /// Our own network is back after so long, through another relay: this one is dialled when its turn comes, if it waits
    /// for nothing else.
    pub fn on_return(&mut self, outage: Duration, cx: &Cx<'_>) {
        self.health.on_return(cx.now.mono, outage);
        let free = self.can_be_probed();
        if let State::Backoff { until } = &mut self.state
            && free
        {
            *until = self.health.after_return(cx.now.mono, *until, &cx.settings.timing);
        }
    }

    /// There is room again after so long: it is dialled when its turn comes, unless it was failing before, and waits for that.
    pub fn on_room(&mut self, lasted: Duration, cx: &Cx<'_>) {
        self.health.on_return(cx.now.mono, lasted);
        let is_due = self.can_be_probed() && self.health.is_healthy();
        if let State::Backoff { until } = &mut self.state
            && is_due
        {
            *until = cx.now.mono;
        }
    }

    /// Nothing can be stored: what it would send has to be asked for later, so its link is closed, and nothing of this is
    /// charged to it. It waits in Backoff until [`Relay::on_room`].
    pub fn on_no_room(&mut self, cx: &mut Cx<'_>) {
        match &self.state {
            State::Catchup { .. } | State::Live { .. } | State::Consolidating { .. } => {
                self.hang_up(1000, Why::NoRoom, cx);
            }
            State::Connecting { .. } => {
                let links = self.links().into_iter().flatten();
                cx.out.extend(links.map(|link| Output::Close { link, code: 1000 }));
                self.lose_link(Why::NoRoom, cx);
            }
            State::Backoff { .. } => cx.dials.withdraw(&self.url),
            State::Idle | State::Closing => {}
        }
    }

    /// The relay is to be dialled: at once, or when its turn comes.
    pub(super) fn dial(&mut self, why: Why, cx: &mut Cx<'_>) {
        if cx.dials.ask(cx.now.mono, &self.url, self.caller()) {
            self.begin_dial(why, cx);
        } else if !matches!(self.state, State::Backoff { .. }) {
            let until = cx.now.mono;
            self.enter(why, cx, |_| State::Backoff { until });
        }
    }

    /// As who it waits to be dialled.
    fn caller(&self) -> Caller {
        let was_reached = self.totals.dials_ok > 0 || self.standing(UnixTime::EPOCH).was_reached();
        if was_reached && !self.health.is_dead() { Caller::Known } else { Caller::Stranger }
    }

    /// Its turn to be dialled, or asked what it is, has come.
    pub fn on_turn(&mut self, cx: &mut Cx<'_>) {
        match &mut self.state {
            State::Backoff { until } if *until <= cx.now.mono && !cx.network.rests() => {
                self.begin_dial(Why::WaitOver, cx);
            }
            State::Connecting { step: Step::Waiting { left }, deadline, .. } => {
                *deadline = cx.now.mono + *left;
                self.begin_link(cx);
            }
            State::Catchup { .. } | State::Live { .. } | State::Consolidating { .. } => self.inquire_beside(cx),
            State::Idle | State::Backoff { .. } | State::Connecting { .. } | State::Closing => {}
        }
    }

    fn begin_dial(&mut self, why: Why, cx: &mut Cx<'_>) {
        self.rests_until = match self.state {
            State::Backoff { until } => until,
            _ => cx.now.mono,
        };
        self.health.on_dial(cx.now.mono);
        let step = match self.inquire_if_due(cx) {
            Some(link) => Step::Inquiring(link),
            None => Step::Dialling(self.open_link(cx)),
        };
        let deadline = cx.now.mono + cx.settings.timing.connect_timeout;
        self.enter(why, cx, |_| State::Connecting { step, deadline, form: Form::First });
    }

    /// The relay is not found at its path, which announcements may have written with a slash too many or too few: it is
    /// dialled by the other form, once in each try and under the same deadline. The form that answers is kept for as long as
    /// the relay is followed; a restart begins with the written one again, at the cost of one answer. True if it is.
    fn dial_other_form(&mut self, cx: &mut Cx<'_>) -> bool {
        let State::Connecting { form, .. } = &mut self.state else { return false };
        let Some(url) = self.url.other_form() else { return false };
        // Not found by either: the next try begins as this one did.
        self.url = url;
        if std::mem::replace(form, Form::Second) == Form::Second {
            return false;
        }
        debug!("{}: not found, tried at {}", self.url, self.url.path());
        self.connect(cx);
        true
    }

    /// Goes on from the inquiry to the link itself, under the same deadline, which stands still while it waits for its
    /// turn.
    pub(super) fn connect(&mut self, cx: &mut Cx<'_>) {
        if cx.dials.ask(cx.now.mono, &self.url, Caller::Known) {
            return self.begin_link(cx);
        }
        let State::Connecting { step, deadline, .. } = &mut self.state else {
            unreachable!("only called in Connecting")
        };
        *step = Step::Waiting { left: deadline.since(cx.now.mono) };
    }

    fn begin_link(&mut self, cx: &mut Cx<'_>) {
        let link = self.open_link(cx);
        let State::Connecting { step, .. } = &mut self.state else { unreachable!("only called in Connecting") };
        *step = Step::Dialling(link);
    }

    fn open_link(&self, cx: &mut Cx<'_>) -> LinkId {
        let link = cx.new_link();
        cx.out.push_back(Output::Dial { link, url: self.url.clone() });
        link
    }

    /// Closes the open link with a code of RFC 6455, section 7.4, and acts on its loss.
    pub(super) fn hang_up(&mut self, code: u16, why: Why, cx: &mut Cx<'_>) {
        let link = self.link().expect("only called with an open link");
        cx.out.push_back(Output::Close { link, code });
        self.lose_link(why, cx);
    }

    /// What the end of a link, or of a dial, says of our own network, and so of the relay.
    fn note_evidence(&mut self, why: Why, cx: &mut Cx<'_>) {
        let evidence = why.evidence();
        cx.network.on_end(cx.now, self.url.host(), evidence);
        match evidence {
            Evidence::Reached => {
                self.health.blame();
                self.note_return(cx);
            }
            Evidence::Ours | Evidence::Silence | Evidence::Nothing => {
                self.health.remember(cx.now.mono, cx.network.proven_at());
            }
        }
    }

    pub(super) fn lose_link(&mut self, why: Why, cx: &mut Cx<'_>) {
        cx.dials.withdraw(&self.url);
        self.drop_inquiry(cx);
        let mut idle = false;
        if let Some(linked) = linked_in(&mut self.state) {
            linked.session.on_lost(cx.now.wall);
            if let Why::LinkClosed(reason) = why {
                linked.session.look_for_what_broke(reason, cx);
            }
            let mut budget = linked.session.take_budget();
            idle = linked.stable && why.is_drop() && budget.on_drop(linked.session.silence(cx.now.mono));
            self.budget = Some(budget);
        }
        self.note_evidence(why, cx);
        let (is_stable, rests) = (self.linked().is_some_and(|linked| linked.stable), cx.network.rests());
        self.budget_mut().note_standing(|standing| match is_stable {
            true => standing.on_reached(cx.now.wall),
            false => !rests && standing.on_failure(cx.now.wall),
        });
        self.note_budget();
        let (now, timing) = (cx.now.mono, &cx.settings.timing);
        let until = match self.linked() {
            Some(_) if matches!(why, Why::LockedOut(_)) => now + REFUSED_RETRY_AFTER,
            Some(linked) if why == Why::NoRoom => match linked.stable {
                true => self.health.on_idle_drop(now, timing),
                false => now,
            },
            Some(_) if idle => self.health.on_idle_drop(now, timing),
            Some(linked) if linked.stable => {
                let lived = now.since(linked.session.opened_at()) >= timing.stable_after;
                match why.breaks_rules() {
                    true => self.health.on_breach(now, lived, timing),
                    false => self.health.on_drop(now, lived, timing),
                }
            }
            Some(_) => self.health.on_failure(now, timing),
            None if matches!(self.state, State::Connecting { .. }) => {
                self.totals.dials_failed += 1;
                match cx.network.rests() {
                    // Names of ours are cheap. Whether one still leads here is not asked more often than of the dead.
                    _ if why == Why::LinkClosed(CloseReason::OwnAddress) => now + timing.dead_retry,
                    true => self.rests_until.max(now),
                    false => self.health.on_failure(now, timing),
                }
            }
            None => return,
        };
        let until = until.max(self.dial_not_before);
        self.lost = Some((why, cx.now.wall));
        if let Some(name) = why.own_rule() {
            cx.metrics.relay_links_closed.add(name);
        }
        match until <= now && !cx.network.rests() {
            true => self.dial(why, cx),
            false => self.enter(why, cx, |_| State::Backoff { until }),
        }
    }
}
