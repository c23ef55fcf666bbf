//! What clients ask beside events: COUNT (NIP-45) and reconciliations (NIP-77). Each goes on when its client has his turn,
//! in the same round as the queries.

use log::debug;

use super::count::{Counted, Counts};
use super::reconcile::{Failure, Opening, Reconciliations, Word};
use super::refusal::Refusal;
use super::{Serve, check_filters};
use crate::limits::{CLIENT_BYTES_MAX, SEARCH_STEP_ENTRIES, SUBSCRIPTION_ID_CHARS_MAX};
use crate::metrics::Metrics;
use crate::protocol::filter::Filter;
use crate::protocol::hex_bytes;
use crate::protocol::message::{self, ClientMessage};
use crate::store::{Store, StoreError};
use crate::time::{Instant, Now};

/// One client's.
#[derive(Debug, Default)]
pub struct Asks {
    pub(super) counts: Counts,
    pub(super) reconciliations: Reconciliations,
    /// Under which time the client is among those whose reconciliations may have an end.
    pub(super) idle_at: Option<Instant>,
}

impl Asks {
    /// Whether there is anything to do at once.
    pub fn has_work(&self) -> bool {
        self.counts.has_work() || self.reconciliations.has_work()
    }

    /// Bytes of memory that they take, about.
    pub fn bytes(&self) -> usize {
        self.counts.bytes() + self.reconciliations.bytes()
    }
}

impl Serve {
    /// A client asks for something beside events.
    pub(super) fn on_ask(
        &mut self,
        now: Now,
        client: u64,
        ask: ClientMessage<'_>,
        store: &Store,
        metrics: &mut Metrics,
    ) {
        match ask {
            ClientMessage::Count { subscription: name, filters } => {
                if let Err(why) = self.on_count(now, client, &name, filters, store) {
                    self.refuse(client, Some(&name), why, metrics);
                }
            }
            ClientMessage::NegOpen { subscription: name, filter, payload } => {
                // NIP-77: one with a name in use takes its place, and if it is refused, NEG-ERR ends it.
                self.close_reconciliation(client, &name, "replaced", metrics);
                if let Err(why) = self.on_neg_open(now, client, &name, filter, &payload, store) {
                    self.refuse_reconciliation(client, &name, why, metrics);
                }
            }
            ClientMessage::NegMsg { subscription: name, payload } => {
                if let Err(why) = self.on_neg_msg(now, client, &name, &payload) {
                    self.refuse_reconciliation(client, &name, why, metrics);
                }
            }
            ClientMessage::NegClose { subscription: name } => {
                self.close_reconciliation(client, &name, "closed", metrics);
            }
            ClientMessage::Event(_) | ClientMessage::Req { .. } | ClientMessage::Close { .. } => {}
        }
    }

    fn on_count(
        &mut self,
        now: Now,
        client: u64,
        name: &str,
        filters: Vec<Filter>,
        store: &Store,
    ) -> Result<(), Refusal> {
        self.check_ask(now, client, name)?;
        check_filters(&filters)?;
        let bytes: usize = filters.iter().map(Filter::bytes).sum();
        let session = self.sessions.get_mut(&client).expect("the client was heard");
        let held = session.bytes();
        let asks = session.asks.get_or_insert_default();
        if held + asks.counts.bytes() + bytes > CLIENT_BYTES_MAX {
            return Err(Refusal::TooManyBytes);
        }
        if asks.counts.open(name, filters, store) { Ok(()) } else { Err(Refusal::TooManyCounts) }
    }

    fn on_neg_open(
        &mut self,
        now: Now,
        client: u64,
        name: &str,
        filter: Filter,
        payload: &str,
        store: &Store,
    ) -> Result<(), Refusal> {
        self.check_ask(now, client, name)?;
        check_filters(std::slice::from_ref(&filter))?;
        let message = hex_bytes(payload).ok_or(Refusal::Reconciliation(Failure::NotHex))?;
        let Serve { sessions, ready, .. } = self;
        let session = sessions.get_mut(&client).expect("the client was heard");
        let held = session.bytes();
        let asks = session.asks.get_or_insert_default();
        if held + asks.reconciliations.filter_bytes() + filter.bytes() > CLIENT_BYTES_MAX {
            return Err(Refusal::TooManyBytes);
        }
        let opening = Opening { name, filter, message };
        asks.reconciliations.open(now, client, opening, store, ready).map_err(Refusal::Reconciliation)
    }

    fn on_neg_msg(&mut self, now: Now, client: u64, name: &str, payload: &str) -> Result<(), Refusal> {
        let session = self.sessions.get_mut(&client).expect("the client was heard");
        let asks = session.asks.as_mut().ok_or(Refusal::Reconciliation(Failure::Unknown))?;
        let message = hex_bytes(payload).ok_or(Failure::NotHex);
        let taken = message.and_then(|message| asks.reconciliations.on_message(now.mono, name, message));
        taken.map_err(Refusal::Reconciliation)
    }

    /// Ends a reconciliation, if it is open; `how` it ended is counted.
    pub(super) fn close_reconciliation(&mut self, client: u64, name: &str, how: &'static str, metrics: &mut Metrics) {
        let session = self.sessions.get_mut(&client).expect("the client was heard");
        if session.asks.as_mut().is_some_and(|asks| asks.reconciliations.close(name)) {
            metrics.client_reconciliations.add(how);
        }
    }

    /// Refuses a reconciliation, or ends it.
    pub(super) fn refuse_reconciliation(&mut self, client: u64, name: &str, why: Refusal, metrics: &mut Metrics) {
        if why == Refusal::SubscriptionId {
            return self.refuse(client, None, why, metrics);
        }
        debug!("client {client}: reconciliation {name:?}: {}", why.name());
        self.close_reconciliation(client, name, "failed", metrics);
        metrics.messages_refused.add(why.name());
        let session = self.sessions.get_mut(&client).expect("the client was heard");
        let max = if let Refusal::Reconciliation(Failure::TooLarge(max)) = why { Some(max) } else { None };
        session.send(message::neg_err_message(name, &why.text(), max), &mut self.out);
    }

    /// What COUNT and NEG-OPEN have in common with REQ.
    fn check_ask(&mut self, now: Now, client: u64, name: &str) -> Result<(), Refusal> {
        if name.is_empty() || name.chars().count() > SUBSCRIPTION_ID_CHARS_MAX {
            return Err(Refusal::SubscriptionId);
        }
        let is_over = self.account_bound(client).is_some_and(|account| !self.reqs.take(account, now.mono));
        if is_over { Err(Refusal::TooManyReqs) } else { Ok(()) }
    }

    /// Goes on with what one client asks. Returns what it has cost, in candidates of a query.
    pub(super) fn step_asks(
        &mut self,
        now: Now,
        client: u64,
        candidates: usize,
        store: &Store,
        metrics: &mut Metrics,
    ) -> Result<usize, StoreError> {
        let Serve { sessions, ready, .. } = self;
        let Some(session) = sessions.get_mut(&client) else { return Ok(0) };
        let Some(asks) = session.asks.as_mut() else { return Ok(0) };
        let counted = asks.counts.step(now.wall, candidates, store)?;
        let (word, cost) = asks.reconciliations.step(now, client, candidates, store, ready)?;
        match counted {
            Some((name, Counted::Events(count))) => {
                metrics.client_counts += 1;
                session.send(message::count_message(&name, count), &mut self.out);
            }
            Some((name, Counted::TooMuch)) => self.refuse(client, Some(&name), Refusal::LongCount, metrics),
            None => {}
        }
        match word {
            Some((name, Word::Message(answer))) => {
                let session = self.sessions.get_mut(&client).expect("a client who is answered");
                session.send(message::neg_answer_message(&name, &answer), &mut self.out);
            }
            Some((name, Word::Failed(failure))) => {
                metrics.client_reconciliations.add("failed");
                self.refuse_reconciliation(client, &name, Refusal::Reconciliation(failure), metrics);
            }
            None => {}
        }
        self.note_idle(client);
        Ok(cost)
    }

    /// Goes on with the sets that are kept ready, if anybody waits for one.
    pub(super) fn step_ready(&mut self, now: Now, store: &Store, metrics: &mut Metrics) -> Result<(), StoreError> {
        if !self.ready.has_work() {
            return Ok(());
        }
        let Some((slot, found, waiting)) = self.ready.step(SEARCH_STEP_ENTRIES, store, now)? else { return Ok(()) };
        for client in waiting {
            self.alone(client, metrics, |serve, metrics| {
                let Serve { sessions, ready, .. } = serve;
                let asks = sessions.get_mut(&client).and_then(|session| session.asks.as_mut());
                let failed = asks.map_or_else(Vec::new, |asks| asks.reconciliations.on_ready(slot, found, ready));
                for (name, failure) in failed {
                    metrics.client_reconciliations.add("failed");
                    serve.refuse_reconciliation(client, &name, Refusal::Reconciliation(failure), metrics);
                }
                serve.note_work(client);
            });
        }
        Ok(())
    }

    /// Sees to it that a reconciliation which the client forgets has an end.
    fn note_idle(&mut self, client: u64) {
        let Some(asks) = self.sessions.get_mut(&client).and_then(|session| session.asks.as_mut()) else { return };
        if asks.idle_at.is_none() {
            asks.idle_at = asks.reconciliations.next_deadline();
            self.idle.extend(asks.idle_at.map(|at| (at, client)));
        }
    }

    /// Ends what clients have forgotten, and lets go of sets that nobody asks for.
    pub(super) fn end_idle(&mut self, now: Now, store: &Store, metrics: &mut Metrics) {
        while let Some(&(at, client)) = self.idle.first()
            && at <= now.mono
        {
            self.idle.pop_first();
            self.alone(client, metrics, |serve, metrics| serve.end_idle_one(now.mono, client, metrics));
        }
        if self.ready.next_deadline().is_some_and(|at| at <= now.mono) {
            self.ready.on_time(store, now.mono);
        }
    }

    fn end_idle_one(&mut self, now: Instant, client: u64, metrics: &mut Metrics) {
        let session = self.sessions.get_mut(&client);
        let Some(asks) = session.and_then(|session| session.asks.as_mut()) else { return };
        asks.idle_at = None;
        for name in asks.reconciliations.end_idle(now) {
            metrics.client_reconciliations.add("idle");
            self.refuse_reconciliation(client, &name, Refusal::Reconciliation(Failure::Idle), metrics);
        }
        self.note_idle(client);
        self.note_work(client);
    }
}
