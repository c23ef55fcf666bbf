//! The own relay: what clients ask for and get (NIP-01; spec section 9).
//!
//! [`Serve`] holds every client's [`session`] and the [`fanout`] index of their subscriptions. It is told what clients send
//! and what the store has kept, and says what to send back through [`Serve::poll_output`]. It knows no socket, no policy and
//! no relay: an event that a client publishes is handed up as it came, and its verdict comes back down.

mod asks;
pub mod count;
pub mod fanout;
pub mod info;
pub mod page;
pub mod reconcile;
mod refusal;
pub mod session;
mod spread;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use log::error;
use nostr::event::EventId;

use self::fanout::{Fanout, SubscriptionKey};
use self::reconcile::ready::Ready;
use self::refusal::Refusal;
use self::session::{Session, Subscription};
use self::spread::Spread;
use crate::fault::{Fault, Party, isolate};
use crate::limits::{
    CLIENT_AHEAD_CANDIDATES, CLIENT_BYTES_MAX, CLIENT_FILTER_VALUES_MAX, CLIENT_FILTERS_MAX,
    CLIENT_SCAN_CANDIDATES_MAX, CLIENT_STEP_CANDIDATES, CLIENT_STEP_CANDIDATES_MIN, CLIENT_SUBSCRIPTIONS_MAX,
    EVENT_RATE, FANOUT_LEAVING_STEP, Limits, QUERY_STEP_CANDIDATES, REQ_RATE, SUBSCRIPTION_ID_CHARS_MAX, Timing,
};
use crate::metrics::{Metrics, Side};
use crate::protocol::filter::Filter;
use crate::protocol::message::{self, ClientMessage, MessageError, RawEvent, Refused};
use crate::shares::{Account, Buckets, Turns};
use crate::store::{Store, StoreError};
use crate::time::{Duration, Instant, Now};

/// What the own relay wants done. `client` is the number that the caller of [`Serve::on_accepted`] gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServeOutput {
    /// Send a text message.
    Send {
        /// To whom.
        client: u64,
        /// The message.
        text: String,
    },
    /// Send a WebSocket ping.
    Ping {
        /// To whom.
        client: u64,
    },
    /// Close the link; the client is forgotten already.
    Close {
        /// Whose link.
        client: u64,
        /// WebSocket close code (RFC 6455, section 7.4).
        code: u16,
    },
    /// So many bytes are held for the client, in place of what was before.
    Hold {
        /// For whom.
        client: u64,
        /// Bytes, about.
        bytes: usize,
    },
}

/// Outputs in the order they are to be carried out. A client's share is bounded by
/// [`crate::limits::CLIENT_PAGE_BYTES`] and one reply for each message it sent.
pub type Outbox = VecDeque<ServeOutput>;

/// RFC 6455: the server is over its capacity; come again later (IANA 1013).
const TRY_AGAIN_LATER: u16 = 1013;
/// RFC 6455: a policy was violated; here, silence past the deadline.
const POLICY: u16 = 1008;
/// RFC 6455: something unexpected keeps this side from going on.
const INTERNAL_ERROR: u16 = 1011;

/// Every client session and their live subscriptions.
#[derive(Debug)]
pub struct Serve {
    clients_max: usize,
    /// Whether this machine itself is free of what goes by address.
    loopback_exempt: bool,
    reqs: Buckets<Account>,
    events: Buckets<Account>,
    ping: Duration,
    pong_timeout: Duration,
    sessions: BTreeMap<u64, Session>,
    fanout: Fanout,
    spread: Spread,
    /// One entry per client: when to look whether it is alive. Words from the client do not move it; it is set anew when due.
    deadlines: BTreeSet<(Instant, u64)>,
    /// Clients whose reconciliations may have an end then, each once.
    idle: BTreeSet<(Instant, u64)>,
    /// The sets that many ask for.
    ready: Ready,
    /// Clients with something to do for them and room on their link.
    /// What each takes is the candidates that were looked at for it.
    busy: Turns<u64>,
    /// Candidates that one REQ may have looked at.
    scan_max: usize,
    subscriptions_opened: u64,
    subscriptions: usize,
    out: Outbox,
}

impl Serve {
    /// An own relay without clients.
    pub fn new(limits: &Limits, timing: &Timing) -> Serve {
        Serve {
            clients_max: limits.clients_max,
            loopback_exempt: limits.loopback_exempt,
            reqs: Buckets::new(REQ_RATE),
            events: Buckets::new(EVENT_RATE),
            ping: timing.ping,
            pong_timeout: timing.pong_timeout,
            sessions: BTreeMap::new(),
            fanout: Fanout::default(),
            spread: Spread::default(),
            deadlines: BTreeSet::new(),
            idle: BTreeSet::new(),
            ready: Ready::default(),
            busy: Turns::new(CLIENT_AHEAD_CANDIDATES),
            scan_max: CLIENT_SCAN_CANDIDATES_MAX,
            subscriptions_opened: 0,
            subscriptions: 0,
            out: VecDeque::new(),
        }
    }

    /// A client has come. Past `clients_max` it is closed with 1013 at once. Numbers are never used twice.
    pub fn on_accepted(&mut self, now: Now, client: u64, account: Account, metrics: &mut Metrics) {
        if self.sessions.len() >= self.clients_max {
            metrics.clients_closed.add("full");
            self.out.push_back(ServeOutput::Close { client, code: TRY_AGAIN_LATER });
            return;
        }
        let before = self.sessions.insert(client, Session::new(client, account, now.mono));
        assert!(before.is_none(), "client number used twice");
        self.deadlines.insert((now.mono + self.ping, client));
    }

    /// A client sent a message. Everything is answered here except an event to be published, which is returned: put it
    /// through intake and call [`Serve::acknowledge`] when its fate is known. Words of unknown clients are ignored.
    pub fn on_text<'a>(
        &mut self,
        now: Now,
        client: u64,
        text: &'a str,
        store: &Store,
        metrics: &mut Metrics,
    ) -> Option<RawEvent<'a>> {
        if !self.heard(now, client) {
            return None;
        }
        match message::parse_client_message(text) {
            Ok(ClientMessage::Event(event)) => {
                if self.may_publish(now, client) {
                    return Some(event);
                }
                metrics.messages_refused.add(Refusal::TooManyEvents.name());
                self.acknowledge(client, &event.id, false, &Refusal::TooManyEvents.text());
            }
            Ok(ClientMessage::Req { subscription, filters }) => {
                let id = subscription.into_owned();
                if let Err(refusal) = self.on_req(now, client, &id, filters, store) {
                    self.refuse(client, Some(&id), refusal, metrics);
                }
            }
            Ok(ClientMessage::Close { subscription }) => self.on_close(client, &subscription),
            Ok(message) => self.on_ask(now, client, message, store, metrics),
            Err(error) => self.on_bad_message(client, text, error, metrics),
        }
        self.note_work(client);
        None
    }

    /// A client sent a ping, pong or binary frame.
    pub fn on_alive(&mut self, now: Now, client: u64) {
        self.heard(now, client);
    }

    /// Everything sent to this client has been handed to the kernel.
    pub fn on_drained(&mut self, client: u64) {
        if let Some(session) = self.sessions.get_mut(&client) {
            session.on_drained();
            self.note_work(client);
        }
    }

    /// A client's link is gone.
    pub fn on_closed(&mut self, client: u64) {
        self.forget(client);
    }

    /// The fate of an event that this client published (NIP-01 OK). `why` has a standard prefix when there is one.
    /// Clients that have gone are ignored.
    pub fn acknowledge(&mut self, client: u64, event: &EventId, accepted: bool, why: &str) {
        if let Some(session) = self.sessions.get_mut(&client) {
            session.send(message::ok_message(event, accepted, why), &mut self.out);
            self.note_work(client);
        }
    }

    /// Goes on with what clients are owed, at most [`QUERY_STEP_CANDIDATES`] stored events in all, one slice for each
    /// client in turn, and pings or closes silent clients. `true`: there is more to do at once.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn step(&mut self, now: Now, store: &Store, metrics: &mut Metrics) -> Result<bool, StoreError> {
        self.check_alive(now, metrics);
        self.fanout.let_go(FANOUT_LEAVING_STEP);
        self.end_idle(now, store, metrics);
        self.spread_on(store, metrics)?;
        // Every step of a query opens its ranges anew, so few clients get long slices.
        let slice = (QUERY_STEP_CANDIDATES / self.busy.len().max(1)).max(CLIENT_STEP_CANDIDATES);
        let mut left = QUERY_STEP_CANDIDATES;
        while left > 0 {
            let Some(client) = self.busy.pop() else { break };
            let stepped = self.alone(client, metrics, |serve, metrics| {
                let session = serve.sessions.get_mut(&client).expect("busy clients have sessions");
                let stepped = session.step(now.wall, slice, store, &mut serve.out, metrics);
                let long = session.scan().filter(|(_, looked_at)| *looked_at >= serve.scan_max);
                if let Some(id) = long.map(|(id, _)| id.to_owned()) {
                    serve.close_subscription(client, &id);
                    serve.refuse(client, Some(&id), Refusal::LongScan, metrics);
                }
                let cost = match stepped {
                    Ok(took) => serve.step_asks(now, client, slice, store, metrics).map(|cost| took + cost),
                    Err(error) => Err(error),
                };
                serve.note_work(client);
                cost
            });
            let took = stepped.transpose()?.unwrap_or(0);
            left = left.saturating_sub(took.max(CLIENT_STEP_CANDIDATES_MIN));
            if let Some(session) = self.sessions.get_mut(&client) {
                self.busy.note(client, &mut session.share, took as u64);
            }
        }
        self.step_ready(now, store, metrics)?;
        Ok(self.has_work())
    }

    /// Lets something be done for one client. `None` if that has panicked: the client is closed, and whatever that has left
    /// half done is put in order, for everything here is either the client's own or told by the sessions of the others.
    pub fn alone<R>(
        &mut self,
        client: u64,
        metrics: &mut Metrics,
        act: impl FnOnce(&mut Serve, &mut Metrics) -> R,
    ) -> Option<R> {
        let said_before = self.out.len();
        match isolate(Party::Client(client), || act(self, metrics)) {
            Ok(done) => Some(done),
            Err(fault) => {
                self.out.truncate(said_before);
                self.on_fault(client, &fault, metrics);
                None
            }
        }
    }

    /// What was done for a client has panicked: it is closed.
    pub fn on_fault(&mut self, client: u64, fault: &Fault, metrics: &mut Metrics) {
        metrics.faults.add(Side::Client);
        error!("client {client}: {fault}");
        self.end_broken(client);
    }

    /// The next thing to do, until `None`.
    pub fn poll_output(&mut self) -> Option<ServeOutput> {
        self.out.pop_front()
    }

    /// When [`Serve::step`] is next needed for silent clients. Clients with work in progress are reported by `step` itself;
    /// new work comes only with a message, a drained link or a stored event.
    pub fn next_deadline(&self) -> Option<Instant> {
        let idle = self.idle.first().map(|(at, _)| *at);
        self.deadlines.first().map(|(at, _)| *at).into_iter().chain(idle).chain(self.ready.next_deadline()).min()
    }

    /// Whether [`Serve::step`] has anything to send right now.
    pub fn has_work(&self) -> bool {
        let is_serving = !self.busy.is_empty() || self.ready.has_work();
        is_serving || self.spread.is_pending() || self.fanout.is_letting_go()
    }

    /// Clients connected.
    pub fn clients(&self) -> usize {
        self.sessions.len()
    }

    /// Subscriptions open, over all clients.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions
    }

    /// Reconciliations that clients have open.
    pub fn reconciliations(&self) -> usize {
        let asks = self.sessions.values().filter_map(|session| session.asks.as_ref());
        asks.map(|asks| asks.reconciliations.count()).sum()
    }

    /// Bytes of memory of the sets that are kept ready for all clients; bound
    /// [`crate::limits::READY_SETS_MAX`] times [`crate::limits::CLIENT_ENTRIES_MAX`] events.
    pub fn ready_bytes(&self) -> usize {
        self.ready.bytes()
    }

    /// Bytes of memory of the client whose open subscriptions take most, about; bound [`CLIENT_BYTES_MAX`].
    pub fn bytes_most(&self) -> usize {
        self.sessions.values().map(Session::bytes).max().unwrap_or(0)
    }

    /// Events that wait to be compared with live subscriptions; bound [`crate::limits::FANOUT_BACKLOG_MAX`] and one commit.
    pub fn spreading(&self) -> usize {
        self.spread.len()
    }

    /// Live events held for the client that is furthest behind; bound [`crate::limits::CLIENT_HELD_EVENTS_MAX`].
    pub fn held_most(&self) -> usize {
        self.sessions.values().map(Session::held).max().unwrap_or(0)
    }

    /// The numbers of all clients, for an orderly end.
    pub fn client_numbers(&self) -> impl Iterator<Item = u64> {
        self.sessions.keys().copied()
    }

    /// Panics if the parts contradict each other. For tests and the simulator.
    pub fn assert_invariants(&self) {
        self.sessions.values().for_each(Session::assert_invariants);
        assert_eq!(self.deadlines.len(), self.sessions.len());
        assert_eq!(self.subscriptions, self.sessions.values().map(|s| s.subscriptions().len()).sum::<usize>());
        for (client, session) in &self.sessions {
            assert_eq!(self.busy.has(*client, &session.share), session.has_work());
        }
        assert!(self.busy.keys().all(|client| self.sessions.contains_key(&client)));
        assert!(self.subscriptions > 0 || self.fanout.is_empty());
        let idle_at = |session: &Session| session.asks.as_ref().and_then(|asks| asks.idle_at);
        let idle = self.sessions.iter().filter_map(|(client, session)| Some((idle_at(session)?, *client)));
        assert!(idle.collect::<BTreeSet<_>>() == self.idle);
    }

    fn heard(&mut self, now: Now, client: u64) -> bool {
        let Some(session) = self.sessions.get_mut(&client) else { return false };
        session.last_heard = now.mono;
        session.pinged = None;
        true
    }

    /// Whether a client's address may publish one more event now.
    fn may_publish(&mut self, now: Now, client: u64) -> bool {
        let account = self.account_bound(client);
        account.is_none_or(|account| self.events.take(account, now.mono))
    }

    /// Whose rates a client uses up; `None` if it is free of them.
    fn account_bound(&self, client: u64) -> Option<Account> {
        let account = self.sessions.get(&client)?.account;
        (!account.is_exempt(self.loopback_exempt)).then_some(account)
    }

    fn on_req(&mut self, now: Now, client: u64, id: &str, filters: Vec<Filter>, store: &Store) -> Result<(), Refusal> {
        if id.is_empty() || id.chars().count() > SUBSCRIPTION_ID_CHARS_MAX {
            return Err(Refusal::SubscriptionId);
        }
        // NIP-01: a REQ with an id in use replaces that subscription, and if it is refused, CLOSED ends it.
        self.close_subscription(client, id);
        if self.account_bound(client).is_some_and(|account| !self.reqs.take(account, now.mono)) {
            return Err(Refusal::TooManyReqs);
        }
        check_filters(&filters)?;
        let filters: Vec<Filter> = filters.into_iter().filter(|filter| !filter.matches_nothing()).collect();
        let mut subscription = Subscription::new(id.to_owned(), filters, store.last_seq());
        let session = self.sessions.get_mut(&client).expect("the client was heard");
        if session.subscriptions().len() >= CLIENT_SUBSCRIPTIONS_MAX {
            return Err(Refusal::TooManySubscriptions);
        }
        if session.bytes() + subscription.bytes > CLIENT_BYTES_MAX {
            return Err(Refusal::TooManyBytes);
        }
        self.subscriptions_opened += 1;
        let number = self.subscriptions_opened;
        subscription.slot = Some(self.fanout.insert(SubscriptionKey { client, number }, &subscription.filters));
        self.subscriptions += 1;
        session.open(number, subscription, &mut self.out);
        Ok(())
    }

    fn on_close(&mut self, client: u64, id: &str) {
        self.close_subscription(client, id);
        // NIP-45 has no word of its own for it.
        let session = self.sessions.get_mut(&client).expect("the client was heard");
        session.asks.iter_mut().for_each(|asks| asks.counts.close(id));
    }

    fn close_subscription(&mut self, client: u64, id: &str) {
        let session = self.sessions.get_mut(&client).expect("the client was heard");
        if let Some(subscription) = session.close(id) {
            self.subscriptions -= 1;
            remove(&mut self.fanout, subscription);
        }
    }

    fn refuse(&mut self, client: u64, subscription: Option<&str>, refusal: Refusal, metrics: &mut Metrics) {
        metrics.messages_refused.add(refusal.name());
        let session = self.sessions.get_mut(&client).expect("the client was heard");
        let why = refusal.text();
        let reply = match subscription {
            Some(id) if refusal != Refusal::SubscriptionId => message::closed_message(id, &why),
            _ => message::notice_message(&why),
        };
        session.send(reply, &mut self.out);
    }

    /// Answers a message that is none in the words that the client waits for, if it can be told which: CLOSED for a REQ or a
    /// COUNT, NEG-ERR for a reconciliation, OK for an EVENT, NOTICE for anything else.
    fn on_bad_message(&mut self, client: u64, text: &str, error: MessageError, metrics: &mut Metrics) {
        if let Some(id) = message::refused_event_id(text) {
            metrics.messages_refused.add(Refusal::EventId.name());
            let session = self.sessions.get_mut(&client).expect("the client was heard");
            session.send(message::not_ok_message(&id, &Refusal::EventId.text()), &mut self.out);
            return;
        }
        let refusal = Refusal::Message(error);
        match message::refused_subscription(text) {
            Some(Refused::Req(id)) => {
                self.close_subscription(client, &id);
                self.refuse(client, Some(&id), refusal, metrics);
            }
            Some(Refused::Count(id)) => self.refuse(client, Some(&id), refusal, metrics),
            Some(Refused::Reconciliation(id)) => self.refuse_reconciliation(client, &id, refusal, metrics),
            None => self.refuse(client, None, refusal, metrics),
        }
    }

    fn note_work(&mut self, client: u64) {
        let Some(session) = self.sessions.get_mut(&client) else { return };
        let (has_work, hold) = (session.has_work(), session.take_hold());
        if has_work {
            self.busy.push(client, &mut session.share);
        } else {
            self.busy.remove(client, &session.share);
        }
        if let Some(bytes) = hold {
            self.out.push_back(ServeOutput::Hold { client, bytes });
        }
    }

    fn check_alive(&mut self, now: Now, metrics: &mut Metrics) {
        while let Some(&(at, client)) = self.deadlines.first()
            && at <= now.mono
        {
            self.deadlines.pop_first();
            self.alone(client, metrics, |serve, metrics| serve.check_alive_one(now, client, metrics));
        }
    }

    fn check_alive_one(&mut self, now: Now, client: u64, metrics: &mut Metrics) {
        let session = self.sessions.get_mut(&client).expect("clients with deadlines have sessions");
        let next = match session.pinged {
            Some(pinged) => pinged + self.pong_timeout,
            None => session.last_heard + self.ping,
        };
        if next > now.mono {
            self.deadlines.insert((next, client));
        } else if session.pinged.is_some() {
            metrics.clients_closed.add("silent");
            self.deadlines.insert((next, client));
            self.end(client, POLICY);
        } else {
            metrics.pings_sent.add(Side::Client);
            session.pinged = Some(now.mono);
            self.out.push_back(ServeOutput::Ping { client });
            self.deadlines.insert((now.mono + self.pong_timeout, client));
        }
    }

    /// Closes the link of a client and forgets it.
    fn end(&mut self, client: u64, code: u16) {
        self.forget(client);
        self.out.push_back(ServeOutput::Close { client, code });
    }

    /// Closes the link of a client that has left its session, and what is kept of it elsewhere, half changed.
    fn end_broken(&mut self, client: u64) {
        self.sessions.remove(&client);
        self.fanout.forget_client(client);
        self.busy.forget(client);
        self.deadlines.retain(|(_, c)| *c != client);
        self.idle.retain(|(_, c)| *c != client);
        self.ready.forget(client);
        self.subscriptions = self.sessions.values().map(|session| session.subscriptions().len()).sum();
        self.out.push_back(ServeOutput::Close { client, code: INTERNAL_ERROR });
    }

    fn forget(&mut self, client: u64) {
        let Some(session) = self.sessions.remove(&client) else { return };
        self.subscriptions -= session.subscriptions().len();
        self.busy.remove(client, &session.share);
        self.deadlines.retain(|(_, c)| *c != client);
        if session.asks.is_some() {
            self.idle.retain(|(_, c)| *c != client);
            self.ready.forget(client);
        }
        session.into_subscriptions().for_each(|subscription| remove(&mut self.fanout, subscription));
    }
}

/// Takes a subscription that was open out of the fan-out.
fn remove(fanout: &mut Fanout, subscription: Subscription) {
    let slot = subscription.slot.expect("what is open is entered");
    fanout.remove(slot, subscription.filters);
}

fn check_filters(filters: &[Filter]) -> Result<(), Refusal> {
    if filters.len() > CLIENT_FILTERS_MAX {
        return Err(Refusal::TooManyFilters);
    }
    for filter in filters {
        if filter.values() > CLIENT_FILTER_VALUES_MAX {
            return Err(Refusal::TooManyValues);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
