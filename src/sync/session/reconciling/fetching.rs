//! What reconciliations need, fetched by id: REQs that share the subscriptions with pages.

use std::collections::BTreeSet;

use nostr::event::EventId;

use super::Fallback;
use crate::contract::Output;
use crate::sync::Cx;
use crate::sync::agenda::Class;
use crate::sync::filters::{ID_BYTES, ids_req};
use crate::sync::reconcile::Batch;
use crate::sync::refusal::Refusal;
use crate::sync::session::Number;
use crate::sync::session::subscription::Subscription;
use crate::sync::session::{Arrival, Fate, Purpose, Session};

/// Ids to be asked for.
#[derive(Debug)]
pub(in crate::sync::session) struct Fetch {
    /// The reconciliation that needs them.
    of: u64,
    /// Why that is made.
    purpose: Purpose,
    batch: Batch,
}

impl Session {
    /// The ids to ask for next, if any are needed.
    pub(in crate::sync::session) fn next_fetch(&mut self, cx: &Cx<'_>) -> Option<Fetch> {
        let bytes = self.shape(cx).bytes;
        let max = self.budget.reconciling.fetch_ids().min(self.budget.page_limit(false)).min(bytes / ID_BYTES - 1);
        // Some relays leave a REQ unanswered that is identical to an open one.
        let asked: BTreeSet<EventId> = self
            .subscriptions
            .values()
            .filter_map(|subscription| match subscription {
                Subscription::Fetch { batch, .. } => Some(&batch.left),
                Subscription::Live { .. } | Subscription::Page { .. } => None,
            })
            .flatten()
            .copied()
            .collect();
        let mut open = self.reconciling.open.iter_mut();
        open.find_map(|(key, open)| {
            let batch = open.run.next_batch(max, &asked)?;
            Some(Fetch { of: *key, purpose: open.task.purpose, batch })
        })
    }

    /// Asks for some ids.
    pub(in crate::sync::session) fn ask_ids(&mut self, fetch: Fetch, cx: &mut Cx<'_>) {
        let Fetch { of, purpose, batch } = fetch;
        let number = Number::new(self.take_nth(), Class::Fetch);
        cx.out.push_back(Output::Send { link: self.link, text: ids_req(&number.to_string(), &batch.left) });
        self.subscriptions.insert(number, Subscription::Fetch { of, purpose, batch, heard_at: cx.now.mono });
    }

    /// An event came for a REQ for ids.
    pub(in crate::sync::session) fn on_fetched(&mut self, number: Number, arrival: &Arrival, cx: &mut Cx<'_>) {
        let Arrival { id, place, fate, .. } = *arrival;
        let Some(Subscription::Fetch { of, batch, heard_at, .. }) = self.subscriptions.get_mut(&number) else { return };
        if place.vouched().is_none() || !batch.left.remove(&id) {
            return;
        }
        *heard_at = cx.now.mono;
        let (mut others, mut is_free) = (Vec::new(), false);
        for (key, open) in &mut self.reconciling.open {
            is_free |= open.run.waits_with(&id);
            match key == of {
                true => open.run.on_event(id, fate == Fate::New),
                false if open.run.on_came_by_other(&id) => others.push(*key),
                false => {}
            }
        }
        // It may have been the last that one of them waited for.
        if is_free || !others.is_empty() {
            others.into_iter().for_each(|key| self.advance(key, cx));
            self.pump(cx);
        }
    }

    /// A REQ for ids has had its answer. `open`: it has to be closed.
    pub(in crate::sync::session) fn on_fetch_end(&mut self, number: Number, open: bool, cx: &mut Cx<'_>) {
        let Some(Subscription::Fetch { of, batch, .. }) = self.subscriptions.remove(&number) else { return };
        if open {
            self.send_close(number, cx);
        }
        let asked = batch.asked;
        let run = self.reconciling.open.get_mut(&of);
        if run.is_some_and(|open| open.run.on_batch_end(batch)) {
            self.budget.reconciling.on_short_answer(asked);
        }
        self.advance(of, cx);
    }

    /// A REQ for ids was refused. Some relays end every one like this, without a reason, after or instead of EOSE.
    pub(in crate::sync::session) fn refuse_fetch(&mut self, number: Number, refusal: Refusal, cx: &mut Cx<'_>) {
        let Some(subscription) = self.subscriptions.get(&number) else { return };
        let again = match refusal {
            Refusal::RateLimited => true,
            Refusal::TooManySubscriptions(_) => {
                let req = self.describe(number, subscription);
                cx.metrics.refusals.add(refusal.name());
                self.budget.learn(refusal, req, cx.now.wall)
            }
            _ => false,
        };
        match again {
            true => self.put_fetch_back(number, cx),
            false => self.on_fetch_end(number, false, cx),
        }
    }

    /// A REQ for ids was not answered, for a reason that has nothing to do with them: they are asked for again.
    pub(in crate::sync::session) fn put_fetch_back(&mut self, number: Number, cx: &mut Cx<'_>) {
        let Some(Subscription::Fetch { of, batch, .. }) = self.subscriptions.remove(&number) else { return };
        if let Some(open) = self.reconciling.open.get_mut(&of) {
            open.run.return_batch(batch);
        }
        // All of them may have come before.
        self.advance(of, cx);
    }

    /// Panics if a reconciliation waits for a REQ for ids that is not open, or one is open that none waits for.
    pub(in crate::sync::session) fn assert_fetches(&self) {
        let of = |key: u64| {
            let is_of = |sub: &&Subscription| matches!(sub, Subscription::Fetch { of, .. } if *of == key);
            self.subscriptions.values().filter(is_of).count()
        };
        let all = self.subscriptions.values().filter(|sub| matches!(sub, Subscription::Fetch { .. })).count();
        let awaited = self.reconciling.open.iter().map(|(key, open)| {
            assert_eq!(of(*key), open.run.in_flight(), "every REQ for ids is open");
            open.run.in_flight()
        });
        assert_eq!(awaited.sum::<usize>(), all, "every REQ for ids is awaited");
    }

    /// A REQ for ids is not answered at all.
    pub(in crate::sync::session) fn on_fetch_silent(&mut self, of: u64, cx: &mut Cx<'_>) {
        self.fall_back(of, Fallback::FetchSilent, cx);
    }
}
