//! What a link does when the relay refuses: it learns (`crate::sync::budget`), asks again in a form that the relay
//! takes, or waits. Every refusal either makes the budget smaller, or ends a try: nothing is asked for ever.

use log::debug;

use super::live::LiveLost;
use super::subscription::Subscription;
use super::{Number, Reception, Session, Task};
use crate::sync::Cx;
use crate::sync::budget::Refused;
use crate::sync::filters::{Subject, Unit};
use crate::sync::refusal::Refusal;
use crate::time::{Duration, Instant};

/// Why a relay answers nothing that we ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockout {
    /// It wants us to authenticate (NIP-42).
    AuthRequired,
    /// It is for others.
    Restricted,
}

/// The last refusal that taught us something.
#[derive(Clone, Copy, Debug)]
pub(super) struct LearnedLimit {
    of: &'static str,
    /// The number of the next subscription then.
    next: u64,
    at: Instant,
}

/// Time for which refusals of the same kind speak of what was asked before the learned_limit: a relay's answers to all that was
/// under way.
const LEARNED_FRESH_FOR: Duration = Duration::from_secs(5);

impl Session {
    /// The relay closed a subscription.
    pub fn on_closed(&mut self, subscription: &str, why: &str, cx: &mut Cx<'_>) {
        if self.on_neg_err(subscription, why, None, cx) {
            return;
        }
        let refusal = Refusal::of(why);
        if refusal == Refusal::RateLimited {
            self.cool_down(cx);
        }
        if let Some(number) = Number::named(subscription) {
            self.refuse(number, refusal, cx);
        }
        self.pump(cx);
    }

    /// The relay said something to a person. If it speaks of a question, one of those that it has not answered was
    /// refused, and that is the one to give up: the largest, or the newest where the number of them is too large. If
    /// all were answered, the newest live one is not live, though it had its EOSE.
    pub fn on_notice(&mut self, text: &str, cx: &mut Cx<'_>) {
        cx.metrics.notices += 1;
        if self.on_neg_notice(text, cx) {
            return;
        }
        for subscription in self.subscriptions.values_mut() {
            if let Subscription::Page { noticed, .. } = subscription {
                *noticed = true;
            }
        }
        let refusal = Refusal::of(text);
        match refusal {
            Refusal::RateLimited => self.cool_down(cx),
            _ if refusal.is_of_a_question() => {
                if let Some(number) = self.meant_by(refusal, cx.now.mono) {
                    self.send_close(number, cx);
                    self.refuse(number, refusal, cx);
                }
            }
            _ => {}
        }
        self.pump(cx);
    }

    /// While what a refusal has taught is fresh, another of the same kind speaks of what was asked before.
    fn meant_by(&self, refusal: Refusal, now: Instant) -> Option<Number> {
        let asked_before = match self.learned_limit {
            Some(LearnedLimit { of, next, at }) if of == refusal.name() && now < at + LEARNED_FRESH_FOR => next,
            _ => u64::MAX,
        };
        let asked_before = Number::before(asked_before);
        let unanswered = self.subscriptions.range(..asked_before).filter(|(_, sub)| sub.is_unanswered());
        if !matches!(refusal, Refusal::TooManySubscriptions(_)) {
            return unanswered.max_by_key(|(number, sub)| (sub.bytes(), **number)).map(|(number, _)| *number);
        }
        let newest = unanswered.max_by_key(|(number, _)| **number).map(|(number, _)| *number);
        newest.or_else(|| self.newest_live(asked_before))
    }

    /// One of our subscriptions is not open, for this reason.
    fn refuse(&mut self, number: Number, refusal: Refusal, cx: &mut Cx<'_>) {
        let Some(subscription) = self.subscriptions.get(&number) else { return };
        match subscription {
            Subscription::Fetch { .. } => return self.refuse_fetch(number, refusal, cx),
            // It has had its answer.
            Subscription::Page { ended: Some(_), .. } => return self.end_page(number, false, cx),
            Subscription::Page { .. } | Subscription::Live { .. } => {}
        }
        cx.metrics.refusals.add(refusal.name());
        let req = self.describe(number, subscription);
        // Whether it is what we ask or who we are, the answer to layer 1 will tell.
        let for_us = matches!(refusal, Refusal::AuthRequired | Refusal::Restricted) && !self.has_answered();
        // What an answer to a challenge may still open is neither learned from nor given up.
        let answerable = refusal == Refusal::AuthRequired && self.wants_to_be_known(cx);
        let for_us = for_us && !answerable;
        let known = self.budget.learned.clone();
        let again = answerable || (!for_us && self.budget.learn(refusal, req, cx.now.wall));
        if self.budget.learned != known {
            self.learned_limit =
                Some(LearnedLimit { of: refusal.name(), next: self.next_subscription, at: cx.now.mono });
        }
        debug!("subscription g{number} of {} filters is not open: {}", req.filters, refusal.name());
        if self.subscriptions[&number].is_live() {
            if for_us {
                self.reception = Reception::Doubted;
            }
            self.refuse_live(number, refusal, again || for_us, cx);
        } else if let Some(Subscription::Page { task, .. }) = self.subscriptions.remove(&number) {
            self.refuse_page(*task, refusal, again, cx);
        }
    }

    /// What was live is opened again, in another form or later, or polled.
    fn refuse_live(&mut self, number: Number, refusal: Refusal, again: bool, cx: &mut Cx<'_>) {
        let Some(LiveLost { units, covered, late }) = self.lose_live(number, "closed", cx) else { return };
        let wait = if refusal == Refusal::RateLimited { !late } else { again };
        for unit in units {
            match wait {
                true => self.agenda.units.pend(unit, covered),
                false => self.poll(unit, covered, cx),
            }
        }
    }

    fn refuse_page(&mut self, mut task: Task, refusal: Refusal, again: bool, cx: &mut Cx<'_>) {
        task.sweep.restart_page();
        let layer_1 = *task.sweep.subject() == Subject::Announcements;
        match refusal {
            Refusal::RateLimited => self.agenda.queue.push_front(task),
            _ if again => self.agenda.queue.push_front(task),
            Refusal::AuthRequired | Refusal::Restricted if layer_1 && !self.has_answered() => {
                self.reception = Reception::LockedOut(match refusal {
                    Refusal::AuthRequired => Lockout::AuthRequired,
                    _ => Lockout::Restricted,
                });
                self.agenda.queue.push_front(task);
            }
            _ => {
                if layer_1 {
                    self.budget.use_small_pages(cx.now.wall);
                }
                self.fail(task, cx);
            }
        }
    }

    pub(super) fn describe(&self, number: Number, subscription: &Subscription) -> Refused {
        let asked = subscription.asked();
        let had_learned = asked.map_or(&self.budget.learned, |asked| &asked.learned);
        let mut subjects: Vec<Subject> = match subscription {
            Subscription::Live { .. } => self.agenda.units.live_by(number).flat_map(Unit::subjects).collect(),
            Subscription::Page { task, .. } => vec![task.sweep.subject().clone()],
            Subscription::Fetch { .. } => Vec::new(),
        };
        subjects.retain(|subject| !(had_learned.lower_case_tags && subject.is_upper_case()));
        Refused {
            filters: subjects.len(),
            values: subjects.iter().map(Subject::values).max().unwrap_or(0),
            bytes: subscription.bytes(),
            open: self.subscriptions.len(),
            limit: asked.map_or(0, |asked| asked.bounds.limit),
            layer_1: subjects.contains(&Subject::Announcements),
            upper_case: subjects.iter().any(Subject::is_upper_case),
            kindless: !had_learned.named_kinds && subjects.iter().any(Subject::is_kindless),
            is_old: *had_learned != self.budget.learned,
        }
    }

    pub(super) fn cool_down(&mut self, cx: &mut Cx<'_>) {
        cx.metrics.rate_limit_cooldowns += 1;
        self.cooldown_until = Some(cx.now.mono + cx.settings.timing.rate_limit_cooldown);
        self.rest_reconciling(cx);
    }
}
