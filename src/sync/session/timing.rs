//! What time does to one link: it is pinged, given up, or asked again; answers that do not come are waited for no longer.

use super::subscription::Subscription;
use super::{Number, Session};
use crate::contract::Output;
use crate::metrics::Side;
use crate::sync::Cx;
use crate::sync::liveness::Silence;
use crate::time::{Duration, Instant};

impl Session {
    /// Time has passed. Says whether the link is dead.
    pub fn on_time(&mut self, cx: &mut Cx<'_>) -> bool {
        match self.heard.liveness.poll(cx.now.mono, self.budget.ping_after(&cx.settings.timing), &cx.settings.timing) {
            Silence::Dead => {
                cx.metrics.relay_links_closed.add("silent");
                return true;
            }
            Silence::Ping => {
                cx.metrics.pings_sent.add(Side::Relay);
                cx.out.push_back(Output::Ping { link: self.link });
            }
            Silence::Fine => {}
        }
        self.end_silent(cx);
        self.end_held(cx);
        self.end_silent_exchanges(cx);
        self.agenda.queue.on_time(cx.now.mono);
        self.cooldown_until.take_if(|until| *until <= cx.now.mono);
        self.end_unknown(cx);
        self.pump(cx);
        false
    }

    /// When time next matters.
    pub fn next_deadline(&self, cx: &Cx<'_>) -> Instant {
        let timing = &cx.settings.timing;
        let ends = |sub: &Subscription| match sub.silent_since() {
            Some(since) => Some(since + timing.sweep_timeout),
            None => self.held_until(sub),
        };
        let silent = self.subscriptions.values().filter_map(ends);
        let silent = silent.chain(self.next_silent_exchange(timing.sweep_timeout)).chain(self.next_look());
        let known = self.auth.deadline(timing.sweep_timeout);
        let rest = silent.chain(self.wait.until).chain(known).min();
        let liveness = self.heard.liveness.deadline(self.budget.ping_after(timing), timing);
        rest.map_or(liveness, |at| at.min(liveness))
    }

    /// Something was sent on the link.
    pub fn on_sent(&mut self, now: Instant) {
        self.heard.liveness.on_sent(now);
    }

    /// For how long nothing has passed on the link in either direction.
    pub fn silence(&self, now: Instant) -> Duration {
        self.heard.liveness.silence(now)
    }

    /// Gives up subscriptions whose answer does not come: a page has failed, and what was to be live is polled.
    fn end_silent(&mut self, cx: &mut Cx<'_>) {
        let timeout = cx.settings.timing.sweep_timeout;
        let is_silent =
            |subscription: &Subscription| subscription.silent_since().is_some_and(|at| at + timeout <= cx.now.mono);
        let silent: Vec<Number> =
            self.subscriptions.iter().filter(|(_, sub)| is_silent(sub)).map(|(number, _)| *number).collect();
        for number in silent {
            match self.subscriptions.get(&number) {
                // It went with the others of its reconciliation.
                None => {}
                Some(Subscription::Live { .. }) => {
                    self.send_close(number, cx);
                    self.poll_live(number, "unanswered", cx);
                }
                Some(Subscription::Page { .. }) => {
                    let task = self.close_page(number, cx).expect("it is a page");
                    self.fail(task, cx);
                }
                Some(Subscription::Fetch { of, .. }) => self.on_fetch_silent(*of, cx),
            }
        }
    }
}
