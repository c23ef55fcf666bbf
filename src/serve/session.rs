//! One client of the own relay: its subscriptions, what of their answers is still owed, and how much may be put on its link.
//!
//! Each event reaches a subscription at most once. Events stored before the REQ (sequence number up to the store's last one
//! at that moment, the **snapshot**) come from the query; later ones from the fan-out, and only after EOSE: until then, and
//! while the client does not read, they are **held** as sequence numbers and read from the store again when their turn
//! comes. So a client that reads slowly costs eight bytes an event, not a copy of it. What was removed meanwhile is skipped.
//!
//! After [`CLIENT_PAGE_BYTES`] nothing more of the store goes out until the link has drained.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::rc::Rc;

use super::asks::Asks;
use super::fanout::{Fanout, Slot};
use super::{Outbox, ServeOutput};
use crate::limits::{
    CLIENT_HELD_EVENTS_MAX, CLIENT_LIVE_BYTES, CLIENT_PAGE_BYTES, LINK_HOLD_STEP_BYTES, QUERY_LIMIT_MAX,
};
use crate::metrics::Metrics;
use crate::protocol::filter::{EventTags, Filter};
use crate::protocol::message;
use crate::shares::{Account, Share};
use crate::store::{Query, QueryStep, Seq, Store, StoreError, StoredEvent};
use crate::time::{Instant, UnixTime};

/// Bytes of memory that a subscription takes beside its filters, about.
const SUBSCRIPTION_BYTES: usize = 512;
/// Bytes of memory that a filter takes beside its own and those of its values, about: what counts who shares it, and what
/// the allocator adds to some pieces.
const SHARED_FILTER_BYTES: usize = 96;
/// Bytes of memory for one sequence number, in the sets and queues that hold them, about.
const SEQ_BYTES: usize = 12;

/// A subscription of one client.
#[derive(Debug)]
pub struct Subscription {
    /// The id the client gave it.
    pub id: String,
    /// What it asks for.
    pub filters: Box<[Rc<Filter>]>,
    /// Where the fan-out has it, if it is open.
    pub slot: Option<Slot>,
    /// Bytes of memory that it takes, about.
    pub bytes: usize,
    /// The store's last sequence number when it was opened.
    pub snapshot: Seq,
    /// Values of all its filters.
    values: usize,
    /// Whether EOSE has been sent.
    eose: bool,
    /// Live events not yet sent.
    held: VecDeque<Seq>,
}

impl Subscription {
    /// A subscription whose stored events are still owed.
    pub fn new(id: String, filters: Vec<Filter>, snapshot: Seq) -> Subscription {
        let bytes_of = |filter: &Filter| SHARED_FILTER_BYTES + filter.bytes() + Fanout::bytes_of(filter);
        let bytes = SUBSCRIPTION_BYTES + filters.iter().map(bytes_of).sum::<usize>();
        let values = filters.iter().map(Filter::values).sum();
        // Not in place, for what is shrunk is of no use to the next REQ.
        let mut shared = Vec::with_capacity(filters.len());
        shared.extend(filters.into_iter().map(Rc::new));
        let filters = shared.into();
        Subscription { id, filters, slot: None, bytes, snapshot, values, eose: false, held: VecDeque::new() }
    }

    fn matches(&self, tags: &EventTags<'_>) -> bool {
        self.filters.iter().any(|filter| filter.matches_tags(tags))
    }
}

/// The query that is under way: one filter of the first subscription that still waits for its stored events.
#[derive(Debug)]
struct Running {
    filter: usize,
    query: Query,
    /// Events sent for this subscription, kept only where filters may overlap.
    sent: BTreeSet<Seq>,
    /// Candidates that the filters before it have looked at.
    looked_at: usize,
}

/// One client.
#[derive(Debug)]
pub struct Session {
    client: u64,
    /// Who pays for it.
    pub account: Account,
    /// What it has taken of the time for answers.
    pub share: Share,
    /// When the client last sent anything.
    pub last_heard: Instant,
    /// When it was pinged, if it has been silent since.
    pub pinged: Option<Instant>,
    subscriptions: BTreeMap<u64, Subscription>,
    numbers: BTreeMap<String, u64>,
    /// Subscriptions whose stored events are not all sent, in the order of their REQs.
    querying: VecDeque<u64>,
    running: Option<Running>,
    /// Subscriptions past EOSE with held events.
    behind: BTreeSet<u64>,
    /// Held events of all subscriptions.
    held: usize,
    /// Bytes put on the link since it last drained.
    undrained: usize,
    /// Bytes of memory that all subscriptions take, about.
    bytes: usize,
    /// What [`Session::take_hold`] last said.
    told: usize,
    /// What it asks beside events, if it ever has.
    pub(super) asks: Option<Box<Asks>>,
}

impl Session {
    /// A client that has just come.
    pub fn new(client: u64, account: Account, now: Instant) -> Session {
        Session {
            client,
            account,
            share: Share::default(),
            last_heard: now,
            pinged: None,
            subscriptions: BTreeMap::new(),
            numbers: BTreeMap::new(),
            querying: VecDeque::new(),
            running: None,
            behind: BTreeSet::new(),
            held: 0,
            undrained: 0,
            bytes: 0,
            told: 0,
            asks: None,
        }
    }

    /// Its open subscriptions.
    pub fn subscriptions(&self) -> impl ExactSizeIterator<Item = &Subscription> {
        self.subscriptions.values()
    }

    /// What was open, at the end.
    pub fn into_subscriptions(self) -> impl Iterator<Item = Subscription> {
        self.subscriptions.into_values()
    }

    /// Bytes of memory that its open subscriptions take, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What is held for this client, if it is [`LINK_HOLD_STEP_BYTES`] more or less than was last said.
    pub fn take_hold(&mut self) -> Option<usize> {
        let querying =
            self.running.as_ref().map_or(0, |running| running.query.bytes() + running.sent.len() * SEQ_BYTES);
        let asks = self.asks.as_ref().map_or(0, |asks| asks.bytes());
        let bytes = self.bytes + querying + self.held * SEQ_BYTES + asks;
        if bytes.abs_diff(self.told) < LINK_HOLD_STEP_BYTES {
            return None;
        }
        self.told = bytes;
        Some(bytes)
    }

    /// Live events that wait for this client.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Whether [`Session::step`] could do something now.
    pub fn has_work(&self) -> bool {
        let asks = || self.asks.as_ref().is_some_and(|asks| asks.has_work());
        self.undrained < CLIENT_PAGE_BYTES && (!(self.querying.is_empty() && self.behind.is_empty()) || asks())
    }

    /// Puts a message on the link.
    pub fn send(&mut self, text: String, out: &mut Outbox) {
        self.undrained += text.len();
        out.push_back(ServeOutput::Send { client: self.client, text });
    }

    /// Everything put on the link so far has left.
    pub fn on_drained(&mut self) {
        self.undrained = 0;
    }

    /// Opens a subscription; none of that id may be open. One that wants no stored events has its EOSE at once.
    pub fn open(&mut self, number: u64, subscription: Subscription, out: &mut Outbox) {
        self.bytes += subscription.bytes;
        let queries = subscription.filters.iter().any(|filter| wants_stored(filter));
        let before = self.numbers.insert(subscription.id.clone(), number);
        assert!(before.is_none(), "a subscription id names two subscriptions");
        self.subscriptions.insert(number, subscription);
        if queries {
            self.querying.push_back(number);
        } else {
            self.end_of_stored(number, out);
        }
    }

    /// Ends a subscription, if it is open, and returns it.
    pub fn close(&mut self, id: &str) -> Option<Subscription> {
        let number = self.numbers.remove(id)?;
        let subscription = self.subscriptions.remove(&number).expect("every number in `numbers` is open");
        if self.querying.front() == Some(&number) {
            self.running = None;
        }
        self.querying.retain(|n| *n != number);
        self.behind.remove(&number);
        self.held -= subscription.held.len();
        self.bytes -= subscription.bytes;
        Some(subscription)
    }

    /// What it costs at most to compare an event of so many tags with this subscription.
    pub fn cost_of(&self, number: u64, tags: usize) -> u64 {
        let Some(subscription) = self.subscriptions.get(&number) else { return 1 };
        let filters = subscription.filters.len();
        1 + (filters + subscription.values.min(filters * tags)) as u64
    }

    /// An event has been stored that may match this subscription. `false`: too many are waiting already, the client cannot
    /// be kept complete and has to come again.
    pub fn on_stored(
        &mut self,
        number: u64,
        stored: &StoredEvent,
        tags: &EventTags<'_>,
        out: &mut Outbox,
        metrics: &mut Metrics,
    ) -> bool {
        let Some(subscription) = self.subscriptions.get_mut(&number) else { return true };
        if stored.seq <= subscription.snapshot || !subscription.matches(tags) {
            return true;
        }
        if subscription.eose && subscription.held.is_empty() && self.undrained < CLIENT_LIVE_BYTES {
            let text = message::event_message(&subscription.id, &stored.json);
            metrics.client_events_live += 1;
            self.send(text, out);
            return true;
        }
        if self.held == CLIENT_HELD_EVENTS_MAX {
            return false;
        }
        subscription.held.push_back(stored.seq);
        self.held += 1;
        if subscription.eose {
            self.behind.insert(number);
        }
        true
    }

    /// Goes one slice on with what is owed: at most `slice` candidates of the query under way, then as many held events. Returns
    /// what was looked at, in candidates.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn step(
        &mut self,
        now: UnixTime,
        slice: usize,
        store: &Store,
        out: &mut Outbox,
        metrics: &mut Metrics,
    ) -> Result<usize, StoreError> {
        let queried = match self.querying.front() {
            Some(&number) => self.step_query(number, now, slice, store, out, metrics)?,
            None => 0,
        };
        let held = self.held;
        self.step_held(slice, store, out, metrics)?;
        Ok(queried + (held - self.held))
    }

    fn step_query(
        &mut self,
        number: u64,
        now: UnixTime,
        slice: usize,
        store: &Store,
        out: &mut Outbox,
        metrics: &mut Metrics,
    ) -> Result<usize, StoreError> {
        let subscription = self.subscriptions.get(&number).expect("what is querying is open");
        if self.running.is_none() {
            self.running = next_query(subscription, 0);
        }
        let Some(running) = self.running.as_mut() else {
            self.end_of_stored(number, out);
            return Ok(0);
        };
        let (client, undrained) = (self.client, &mut self.undrained);
        let (sent, overlapping) = (&mut running.sent, subscription.filters.len() > 1);
        let mut take = |seq, json: &str| {
            if !overlapping || sent.insert(seq) {
                let text = message::event_message(&subscription.id, json);
                *undrained += text.len();
                metrics.client_events_stored += 1;
                out.push_back(ServeOutput::Send { client, text });
            }
            if *undrained < CLIENT_PAGE_BYTES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let before = running.query.looked_at();
        let step = store.query(&mut running.query, now, slice, &mut take)?;
        let took = running.query.looked_at() - before;
        if step == QueryStep::Done {
            let looked_at = running.looked_at + running.query.looked_at();
            let sent = std::mem::take(&mut running.sent);
            match next_query(subscription, running.filter + 1) {
                Some(next) => self.running = Some(Running { sent, looked_at, ..next }),
                None => self.end_of_stored(number, out),
            }
        }
        Ok(took)
    }

    /// The subscription whose query is under way, and what that has looked at so far, in candidates.
    pub fn scan(&self) -> Option<(&str, usize)> {
        let (running, number) = (self.running.as_ref()?, self.querying.front()?);
        let id = &self.subscriptions.get(number)?.id;
        Some((id, running.looked_at + running.query.looked_at()))
    }

    fn end_of_stored(&mut self, number: u64, out: &mut Outbox) {
        if self.querying.front() == Some(&number) {
            self.querying.pop_front();
            self.running = None;
        }
        let subscription = self.subscriptions.get_mut(&number).expect("what ends its stored events is open");
        assert!(!subscription.eose, "EOSE is sent once");
        subscription.eose = true;
        if !subscription.held.is_empty() {
            self.behind.insert(number);
        }
        let text = message::eose_message(&subscription.id);
        self.send(text, out);
    }

    fn step_held(
        &mut self,
        slice: usize,
        store: &Store,
        out: &mut Outbox,
        metrics: &mut Metrics,
    ) -> Result<(), StoreError> {
        for _ in 0..slice {
            let Some(&number) = self.behind.first() else { break };
            if self.undrained >= CLIENT_PAGE_BYTES {
                break;
            }
            let subscription = self.subscriptions.get_mut(&number).expect("what is behind is open");
            let seq = subscription.held.pop_front().expect("what is behind holds something");
            self.held -= 1;
            if subscription.held.is_empty() {
                self.behind.remove(&number);
            }
            if let Some(json) = store.event_json(seq)? {
                let text = message::event_message(&subscription.id, &json);
                metrics.client_events_live += 1;
                self.send(text, out);
            }
        }
        Ok(())
    }

    /// Panics if the session contradicts itself.
    pub fn assert_invariants(&self) {
        assert_eq!(self.numbers.len(), self.subscriptions.len());
        assert_eq!(self.held, self.subscriptions.values().map(|s| s.held.len()).sum::<usize>());
        assert_eq!(self.bytes, self.subscriptions.values().map(|s| s.bytes).sum::<usize>());
        assert!(self.running.is_none() || !self.querying.is_empty());
        assert!(self.held <= CLIENT_HELD_EVENTS_MAX);
        self.asks.iter().for_each(|asks| asks.reconciliations.assert_invariants());
        for (number, subscription) in &self.subscriptions {
            assert_eq!(self.numbers.get(&subscription.id), Some(number));
            assert_eq!(self.querying.contains(number), !subscription.eose);
            assert_eq!(self.behind.contains(number), subscription.eose && !subscription.held.is_empty());
        }
    }
}

/// NIP-01: a filter with `limit` 0 wants live events only.
fn wants_stored(filter: &Filter) -> bool {
    filter.limit() != Some(0)
}

/// The query of the first filter from `from` on that wants stored events.
fn next_query(subscription: &Subscription, from: usize) -> Option<Running> {
    let (filter, wanted) =
        subscription.filters.iter().enumerate().skip(from).find(|(_, filter)| wants_stored(filter))?;
    let query = Query::new(Rc::clone(wanted), subscription.snapshot, QUERY_LIMIT_MAX);
    Some(Running { filter, query, sent: BTreeSet::new(), looked_at: 0 })
}
