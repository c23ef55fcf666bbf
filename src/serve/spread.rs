//! What a commit has made durable goes to the live subscriptions that match, in the order of the events and, for each, of
//! the subscriptions. Clients choose how many filters an event is compared with, and a stranger how many tags it has: so
//! one turn of the loop does a bounded part, and what is left goes on in the next.
//!
//! Events that wait are held as sequence numbers and read from the store again, like those that wait for one client.

use std::collections::{BTreeMap, VecDeque};
use std::vec;

use nostr::event::Event;

use super::fanout::SubscriptionKey;
use super::{Serve, TRY_AGAIN_LATER};
use crate::limits::{FANOUT_BACKLOG_MAX, FANOUT_STEP_COST};
use crate::metrics::Metrics;
use crate::protocol::filter::EventTags;
use crate::store::{Seq, Store, StoreError, StoredEvent};

/// What sending one event costs beside its bytes: writing it down, and its way to the socket.
const SEND_COST: u64 = 32;

/// Events on their way to live subscriptions.
#[derive(Debug, Default)]
pub(super) struct Spread {
    current: Option<Spreading>,
    waiting: VecDeque<Seq>,
    /// What comparing has cost for each client since events last waited.
    spent: BTreeMap<u64, u64>,
}

/// One event, and the subscriptions that it has yet to be compared with.
#[derive(Debug)]
struct Spreading {
    stored: StoredEvent,
    event: Event,
    /// `None`: they have not been looked for.
    keys: Option<vec::IntoIter<SubscriptionKey>>,
}

impl Spreading {
    /// Begins with an event. Returns what that costs, too.
    fn new(stored: StoredEvent) -> (Spreading, u64) {
        let event = stored.event();
        let cost = 32 + stored.json.len() as u64 / 32 + 4 * event.tags.len() as u64;
        (Spreading { stored, event, keys: None }, cost)
    }
}

impl Spread {
    /// Whether events wait.
    pub fn is_pending(&self) -> bool {
        self.current.is_some() || !self.waiting.is_empty()
    }

    /// Events that wait for their turn.
    pub fn len(&self) -> usize {
        self.waiting.len() + usize::from(self.current.is_some())
    }

    fn clear(&mut self) {
        *self = Spread::default();
    }
}

impl Serve {
    /// Events are durable: they go to every live subscription that matches, whatever their source. Called once for each
    /// commit, in order.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn on_committed(
        &mut self,
        stored: Vec<StoredEvent>,
        store: &Store,
        metrics: &mut Metrics,
    ) -> Result<(), StoreError> {
        self.ready.on_committed(store);
        let mut left = FANOUT_STEP_COST;
        self.spread_waiting(&mut left, store, metrics)?;
        for stored in stored {
            if self.fanout.is_empty() {
                self.spread.clear();
                break;
            }
            match left == 0 || self.spread.is_pending() {
                true => self.spread.waiting.push_back(stored.seq),
                false => {
                    let (spreading, cost) = Spreading::new(stored);
                    left = left.saturating_sub(cost);
                    self.spread_one(spreading, &mut left, metrics);
                }
            }
        }
        while self.spread.waiting.len() > FANOUT_BACKLOG_MAX {
            let costliest = self.spread.spent.iter().max_by_key(|(_, spent)| **spent).map(|(client, _)| *client);
            let Some(client) = costliest else { break };
            self.spread.spent.remove(&client);
            if self.sessions.contains_key(&client) {
                metrics.clients_closed.add("costly");
                self.end(client, TRY_AGAIN_LATER);
                break;
            }
        }
        Ok(())
    }

    /// Goes on with what waits.
    pub(super) fn spread_on(&mut self, store: &Store, metrics: &mut Metrics) -> Result<(), StoreError> {
        let mut left = FANOUT_STEP_COST;
        self.spread_waiting(&mut left, store, metrics)
    }

    fn spread_waiting(&mut self, left: &mut u64, store: &Store, metrics: &mut Metrics) -> Result<(), StoreError> {
        while *left > 0 && self.spread.is_pending() {
            if self.fanout.is_empty() {
                self.spread.clear();
                break;
            }
            let spreading = match (self.spread.current.take(), self.spread.waiting.front()) {
                (Some(current), _) => current,
                (None, Some(&seq)) => {
                    let json = store.event_json(seq)?;
                    self.spread.waiting.pop_front();
                    // It may have been removed meanwhile.
                    let Some(json) = json else { continue };
                    let (spreading, cost) = Spreading::new(StoredEvent { seq, json: json.into() });
                    *left = left.saturating_sub(cost);
                    spreading
                }
                (None, None) => break,
            };
            self.spread_one(spreading, left, metrics);
        }
        if !self.spread.is_pending() {
            self.spread.spent.clear();
        }
        Ok(())
    }

    /// Compares one event with subscriptions until what is left is used up; then it is the current one.
    fn spread_one(&mut self, mut spreading: Spreading, left: &mut u64, metrics: &mut Metrics) {
        let was_waiting = !self.spread.waiting.is_empty();
        let Spreading { stored, event, keys } = &mut spreading;
        let tags = EventTags::of(event);
        let keys = keys.get_or_insert_with(|| self.fanout.candidates(&tags).into_iter());
        for key in keys.by_ref() {
            let cost = self.alone(key.client, metrics, |serve, metrics| {
                // The client may have been closed by an earlier subscription of its own.
                let Some(session) = serve.sessions.get_mut(&key.client) else { return 1 };
                let mut cost = session.cost_of(key.number, tags.len_max()) + stored.json.len() as u64 / 256;
                let said_before = serve.out.len();
                if session.on_stored(key.number, stored, &tags, &mut serve.out, metrics) {
                    if serve.out.len() > said_before {
                        cost += SEND_COST + stored.json.len() as u64 / 32;
                    }
                    serve.note_work(key.client);
                } else {
                    metrics.clients_closed.add("slow");
                    serve.end(key.client, TRY_AGAIN_LATER);
                }
                cost
            });
            let cost = cost.unwrap_or(1);
            *left = left.saturating_sub(cost);
            if was_waiting {
                *self.spread.spent.entry(key.client).or_default() += cost;
            }
            if *left == 0 {
                break;
            }
        }
        if *left == 0 && keys.len() > 0 {
            self.spread.current = Some(spreading);
        }
    }
}
