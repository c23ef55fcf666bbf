//! The engine: every decision of the program, as one value. [`Input`] in, [`Output`] out; see the crate's documentation
//! for the contract with its caller.
//!
//! It owns the store, the two maps, one machine per relay and the clients' sessions, and carries values between them:
//! an event from `intake` into the batch, a commit's changes into the window, a window's changes to the relays.

use std::collections::{BTreeMap, VecDeque};

use log::debug;
use nostr::event::EventId;
use slab::Slab;

pub use crate::contract::{CloseReason, Input, LinkId, Output};
pub use crate::settings::Settings;

use crate::fault::Party;
use crate::intake::{Intake, IntakeContext, Outcome, Place, Rules};
use crate::limits::{
    AWAITED_COMMIT_SHARE, BATCH_AGE_MAX, BATCH_BYTES_MAX, BATCH_EVENTS_MAX, COMMIT_SHARE, RECORDS_PER_BATCH,
    RELAYS_PER_TICK,
};
use crate::metrics::{Metrics, Side, Source};
use crate::policy::Refusal;
use crate::protocol::message::{RawEvent, RelayMessage, unreadable_event_subscription};
use crate::protocol::relay_url::RelayUrl;
use crate::serve::{Serve, info::relay_info};
use crate::shares::Room;
use crate::state::{Changes, State};
use crate::store::{Progress, Store, StoreError, StoredEvent};
use crate::sync::dials::Dials;
use crate::sync::health::Rest;
use crate::sync::network::Network;
use crate::sync::places::LeftOut;
use crate::sync::relay::{Relay, Why};
use crate::sync::session::{Arrival, Fate, Origin};
use crate::sync::window::Window;
use crate::time::{Duration, Instant, Now};
use crate::timer_wheel::{TimerId, TimerWheel};

mod authors;
mod clients;
mod damage;
mod expiry;
mod isolation;
mod network;
mod news;
mod page;
mod places;
mod relays;
mod report;
mod room;
mod sets;
mod start;
mod supply;
mod threads;

use isolation::AskedFor;
use start::{Restored, load_progress, load_state};
use supply::Hints;

/// What became of one line of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImportOutcome {
    /// It is in the batch.
    New,
    /// It is stored, or in the batch, already.
    Known,
    /// It was refused.
    Refused(Refusal),
}

/// A relay and its place in the timer wheel.
struct Entry {
    relay: Relay,
    timer: Option<(Instant, TimerId)>,
}

/// Who has brought an event.
#[derive(Clone, Copy, Debug)]
enum Publisher {
    /// A relay.
    Relay {
        key: usize,
        source: Source,
        /// Only the policy can tell whether it was asked for.
        leaves_to_policy: bool,
    },
    /// A client.
    Client(u64),
    /// The operator, by these rules.
    Import(Rules),
}

/// The batch that waits for its commit: what is to be done once it is durable.
#[derive(Default)]
struct PendingCommit {
    opened_at: Option<Instant>,
    changes: Changes,
    /// Clients that wait for `OK true`.
    acknowledgements: Vec<(u64, EventId)>,
    /// Of each event, with its bytes.
    sources: Vec<(Source, usize)>,
}

/// The deterministic core. Owns the store, the sync state, the relays' machines and the clients' sessions.
pub struct Engine {
    store: Store,
    settings: Settings,
    state: State,
    intake: Intake,
    hints: Hints,
    window: Window,
    /// While relays are told of a window that has closed.
    untold: Option<news::Untold>,
    relays: Slab<Entry>,
    keys: BTreeMap<RelayUrl, usize>,
    /// Relays that the state names and that are not followed, and why: no more than it names.
    left_out: BTreeMap<RelayUrl, LeftOut>,
    /// While it is looked who is to have a place.
    assigning: Option<Box<places::Assigning>>,
    /// When it is looked again who is to have a place, while somebody waits for one.
    places_due: Option<Instant>,
    /// Of every link of a relay, inquiries included.
    links: BTreeMap<LinkId, usize>,
    next_link: u64,
    network: Network,
    room: Room,
    dials: Dials,
    wheel: TimerWheel<usize>,
    serve: Serve,
    pending_commit: PendingCommit,
    /// No eager commit before this: commits have had their share of recent time.
    commit_at: Instant,
    /// The same of one that a client waits for.
    awaited_commit_at: Instant,
    /// When moved `through`s are written at the latest.
    through_due: Option<Instant>,
    expiry_due: Option<Instant>,
    /// What is known of relays that are not followed: no more than the state names, once a window has closed.
    restored: Restored,
    /// Records of relays that are not followed, to be written or forgotten with the next tick: an import, which has none,
    /// touches no relay's.
    unsaved: Vec<Progress>,
    /// How many of them the batch has.
    saved: usize,
    /// Relays that were failing when they were forgotten; bounded by `FORGOTTEN_RELAYS_MAX`.
    forgotten: BTreeMap<RelayUrl, Rest>,
    metrics: Metrics,
    out: VecDeque<Output>,
    started: Now,
    /// When catch-ups under way are next reported.
    progress_due: Instant,
    stopping: bool,
}

impl Engine {
    /// Builds the state from the store (spec section 3). Nothing is dialled before the first [`Input::Tick`].
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn new(store: Store, settings: Settings, now: Now) -> Result<Engine, StoreError> {
        let state = load_state(&store, &settings)?;
        let (restored, unsaved) = load_progress(&store, &state)?;
        let mut engine = Engine {
            window: Window::new(settings.timing.batch_window),
            serve: Serve::new(&settings.limits, &settings.timing),
            dials: Dials::new(settings.limits.private_relays_exempt),
            room: Room::new(&settings.limits),
            store,
            settings,
            state,
            intake: Intake::default(),
            hints: Hints::default(),
            untold: None,
            relays: Slab::new(),
            keys: BTreeMap::new(),
            left_out: BTreeMap::new(),
            assigning: None,
            places_due: None,
            links: BTreeMap::new(),
            next_link: 0,
            network: Network::new(now),
            wheel: TimerWheel::new(),
            pending_commit: PendingCommit::default(),
            commit_at: Instant::ZERO,
            awaited_commit_at: Instant::ZERO,
            through_due: None,
            expiry_due: None,
            restored,
            unsaved,
            saved: 0,
            forgotten: BTreeMap::new(),
            metrics: Metrics::default(),
            out: VecDeque::new(),
            started: now,
            progress_due: now.mono,
            stopping: false,
        };
        engine.assign_places(now)?;
        while engine.assigning.is_some() {
            engine.assign_on(now)?;
        }
        engine.schedule_expiry(now)?;
        Ok(engine)
    }

    /// Takes one input. Outputs wait in [`Engine::poll_output`].
    ///
    /// # Errors
    ///
    /// If the store cannot be read. The engine must not be used afterwards.
    pub fn handle(&mut self, now: Now, input: Input<'_>) -> Result<(), StoreError> {
        // Before anything else: what woke up late must not go on with a relay that nobody needs any more.
        if !self.stopping
            && self.untold.is_none()
            && let Some(changes) = self.window.close_if_due(now.mono)
        {
            self.act_on_window(now, changes)?;
        }
        match input {
            Input::Opened { link } => self.with_relay(now, link, |relay, cx| relay.on_opened(link, cx))?,
            Input::Accepted { link: LinkId::Client(client), account } => {
                self.with_client(client, |serve, _, metrics| serve.on_accepted(now, client, account, metrics));
            }
            Input::Text { link: LinkId::Client(client), text } => self.on_client_text(now, client, text)?,
            Input::Text { link: link @ LinkId::Relay(_), text } => self.on_relay_text(now, link, text)?,
            Input::Alive { link: LinkId::Client(client) } => {
                self.with_client(client, |serve, _, _| serve.on_alive(now, client));
            }
            Input::Alive { link } => self.with_relay(now, link, |relay, cx| relay.on_alive(cx))?,
            Input::Drained { link: LinkId::Client(client) } => {
                self.with_client(client, |serve, _, _| serve.on_drained(client));
            }
            Input::Info { link, document } => {
                self.with_relay(now, link, |relay, cx| relay.on_answer(link, document, cx))?;
            }
            Input::Closed { link: LinkId::Client(client), reason } => {
                self.metrics.client_links_closed.add(reason.name());
                self.with_client(client, |serve, _, _| serve.on_closed(client));
            }
            Input::Closed { link, reason } => {
                self.metrics.relay_links_closed.add(reason.name());
                self.with_relay(now, link, |relay, cx| relay.on_closed(link, reason, cx))?;
            }
            Input::CommitTook(took) => self.on_commit_took(now, took),
            Input::Space(space) if !self.stopping => self.on_space(now, space)?,
            Input::Tick => self.on_tick(now)?,
            Input::Stop => self.on_stop(now)?,
            Input::Space(_) | Input::Accepted { link: LinkId::Relay(_), .. } => {}
            Input::Drained { link: LinkId::Relay(_) } => {}
        }
        if self.store.damage_found() && !self.stopping {
            self.forget_damaged(now)?;
        }
        self.note_batch(now);
        self.collect_served();
        // To a link that has ended, as we were about to hear, there is nothing more to say.
        if let Input::Closed { link, .. } | Input::Info { link, .. } = input {
            self.out.retain(|output| output.link() != link);
        }
        Ok(())
    }

    /// The next thing to do, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.out.pop_front()?;
        if let Output::Send { link, text } = &output {
            let side = if matches!(link, LinkId::Relay(_)) { Side::Relay } else { Side::Client };
            self.metrics.messages_sent.add(side);
            self.metrics.bytes_sent.add_many(side, text.len() as u64);
        }
        Some(output)
    }

    /// When [`Input::Tick`] is next needed even if nothing happens. A time not after `now` means: at once.
    pub fn next_deadline(&self) -> Option<Instant> {
        let opened_at = self.pending_commit.opened_at.filter(|_| self.room.is_there());
        let eager_at = if self.is_awaited() { self.awaited_commit_at } else { self.commit_at };
        let batch = opened_at.map(|opened| eager_at.min(opened + BATCH_AGE_MAX));
        let queries = (self.serve.has_work() || self.intake.is_adopting()).then_some(Instant::ZERO);
        let due = [
            self.wheel.next_deadline(),
            if self.untold.is_some() { Some(Instant::ZERO) } else { self.window.closes_at() },
            self.serve.next_deadline(),
            self.through_due,
            self.expiry_due.filter(|_| self.room.is_there()),
            self.room.look_at(),
            self.network.probe_at(),
            self.dials.next_deadline(),
            if self.assigning.is_some() { Some(Instant::ZERO) } else { self.places_due },
            self.may_save().then_some(Instant::ZERO),
            batch,
            queries,
        ];
        due.into_iter().flatten().min()
    }

    /// Whether the batch should be committed now. `idle`: the caller has nothing more to read.
    pub fn commit_due(&self, now: Now, idle: bool) -> bool {
        let Some(opened_at) = self.pending_commit.opened_at.filter(|_| self.room.is_there()) else { return false };
        self.store.batch_events() >= BATCH_EVENTS_MAX
            || self.store.batch_bytes() >= BATCH_BYTES_MAX
            || now.mono >= opened_at + BATCH_AGE_MAX
            || (idle && now.mono >= self.commit_at)
            || (self.is_awaited() && now.mono >= self.awaited_commit_at)
    }

    /// Whether a client waits for the batch. However many others keep us busy, it is not to wait for them, too.
    fn is_awaited(&self) -> bool {
        !self.pending_commit.acknowledgements.is_empty()
    }

    /// Makes the batch durable, then acknowledges and serves its events. The caller reports how long it took with
    /// [`Input::CommitTook`]. Without room for it ([`Engine::shortage`], before or after) the batch waits.
    ///
    /// # Errors
    ///
    /// If the store cannot write. Nothing of the batch was acknowledged; the process must end.
    pub fn commit(&mut self, now: Now) -> Result<(), StoreError> {
        if !self.room.is_there() {
            return Ok(());
        }
        match self.commit_or_fail(now) {
            Ok(()) => {
                self.room.on_written();
                Ok(())
            }
            Err(StoreError::Full) => self.on_commit_without_room(now),
            Err(error) => Err(error),
        }
    }

    /// The same for whoever does not wait for room, as an import.
    ///
    /// # Errors
    ///
    /// If the store cannot write, for want of room as well.
    pub fn commit_or_fail(&mut self, now: Now) -> Result<(), StoreError> {
        self.stage_moved_throughs();
        let stored = self.store.commit()?;
        self.on_stored(now, stored)
    }

    /// The batch is durable.
    fn on_stored(&mut self, now: Now, stored: Vec<StoredEvent>) -> Result<(), StoreError> {
        self.state.on_committed();
        self.saved = 0;
        let pending = std::mem::take(&mut self.pending_commit);
        self.metrics.on_batch(stored.len());
        for (source, bytes) in pending.sources {
            self.metrics.events_new.add(source);
            self.metrics.event_bytes_new.add_many(source, bytes as u64);
        }
        self.serve.on_committed(stored, &self.store, &mut self.metrics)?;
        for (client, id) in pending.acknowledgements {
            self.acknowledge(client, &id, true, "");
        }
        self.metrics.relays_refused.add_many("announcement", pending.changes.relays_refused as u64);
        self.metrics.maintainers_refused.add_many("announcement", pending.changes.maintainers_refused as u64);
        self.metrics.maintainers_refused.add_many("identifier", pending.changes.candidates_refused as u64);
        self.window.add(now.mono, Changes { upto: self.store.last_seq(), ..pending.changes });
        self.schedule_expiry(now)?;
        self.collect_served();
        Ok(())
    }

    /// Closes the store after the last commit, so that the next start has nothing to make good.
    ///
    /// # Errors
    ///
    /// If the store cannot write for another reason than want of room. What was acknowledged is safe all the same.
    pub fn close(self) -> Result<(), StoreError> {
        if !self.room.is_there() {
            return Ok(());
        }
        match self.store.close() {
            Err(StoreError::Full) => Ok(()),
            closed => closed,
        }
    }

    /// Judges one line of an import and puts it into the batch. The caller commits as for any other input.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn import(&mut self, now: Now, line: &str, rules: Rules) -> Result<ImportOutcome, StoreError> {
        self.metrics.events_received.add(Source::Import);
        let Ok(raw) = RawEvent::from_json(line) else {
            self.metrics.events_refused.add(Refusal::Malformed.name());
            return Ok(ImportOutcome::Refused(Refusal::Malformed));
        };
        let outcome = self.offer(now, &raw, Publisher::Import(rules))?.expect("a panic is not caught");
        if self.store.damage_found() {
            self.forget_damaged(now)?;
        }
        self.note_batch(now);
        Ok(match outcome {
            Outcome::Staged { .. } => ImportOutcome::New,
            Outcome::Stored { .. } | Outcome::Pending { .. } => ImportOutcome::Known,
            Outcome::Refused { refusal, .. } | Outcome::RefusedBefore { refusal, .. } => {
                ImportOutcome::Refused(refusal)
            }
        })
    }

    /// The store, for exports and tests.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Panics if the parts contradict each other. For tests and fuzz targets.
    pub fn assert_invariants(&self) {
        self.serve.assert_invariants();
        self.wheel.assert_invariants();
        self.dials.assert_invariants();
        assert_eq!(self.keys.len(), self.relays.len(), "every relay has one key");
        for (link, key) in &self.links {
            assert!(self.relays[*key].relay.links().contains(&Some(*link)), "a link is its relay's own");
        }
        self.relays.iter().for_each(|(_, entry)| entry.relay.assert_invariants(&self.state));
        let held: usize = self.relays.iter().map(|(_, entry)| entry.relay.links().iter().flatten().count()).sum();
        assert_eq!(held, self.links.len(), "every link of a relay is known");
    }

    /// The NIP-11 document of the own relay.
    pub fn relay_info_json(&self) -> String {
        relay_info(&self.settings)
    }

    fn on_relay_text(&mut self, now: Now, link: LinkId, text: &str) -> Result<(), StoreError> {
        let Some(&key) = self.links.get(&link) else { return Ok(()) };
        self.metrics.messages_received.add(Side::Relay);
        self.metrics.bytes_received.add_many(Side::Relay, text.len() as u64);
        let Some((message, asked)) = self.read(now, key, text) else { return Ok(()) };
        let message = match message {
            Ok(message) => message,
            Err(error) => {
                self.metrics.messages_refused.add(error.name());
                return self.with_relay(now, link, |relay, cx| {
                    relay.on_unreadable(unreadable_event_subscription(text).as_deref(), cx);
                });
            }
        };
        match message {
            RelayMessage::Event { subscription, event } => self.on_relay_event(now, key, &subscription, asked, &event),
            RelayMessage::Eose { subscription } => {
                self.with_relay(now, link, |relay, cx| relay.on_eose(&subscription, cx))
            }
            RelayMessage::Closed { subscription, reason } => {
                self.with_relay(now, link, |relay, cx| relay.on_subscription_closed(&subscription, &reason, cx))
            }
            RelayMessage::Notice(text) => self.with_relay(now, link, |relay, cx| relay.on_notice(&text, cx)),
            RelayMessage::Ok { id, accepted, .. } => {
                self.with_relay(now, link, |relay, cx| relay.on_ok(id, accepted, cx))
            }
            RelayMessage::Auth { challenge } => {
                self.metrics.auth_challenges += 1;
                self.with_relay(now, link, |relay, cx| relay.on_challenge(&challenge, cx))
            }
            RelayMessage::NegMsg { subscription, payload } => {
                self.with_relay(now, link, |relay, cx| relay.on_neg_msg(&subscription, &payload, cx))
            }
            RelayMessage::NegErr { subscription, reason, max_records } => {
                self.with_relay(now, link, |relay, cx| relay.on_neg_err(&subscription, &reason, max_records, cx))
            }
        }
    }

    fn on_relay_event(
        &mut self,
        now: Now,
        key: usize,
        subscription: &str,
        asked: AskedFor,
        raw: &RawEvent<'_>,
    ) -> Result<(), StoreError> {
        let (source, leaves_to_policy) = match asked {
            AskedFor::Open { origin: Origin::Live, leaves_to_policy } => (Source::Live, leaves_to_policy),
            AskedFor::Open { origin: Origin::Round | Origin::Poll | Origin::Audit, leaves_to_policy } => {
                (Source::Catchup, leaves_to_policy)
            }
            AskedFor::JustClosed | AskedFor::Nothing => {
                self.metrics.messages_refused.add("no_subscription");
                let created_at = match asked {
                    AskedFor::JustClosed => raw.claimed_created_at(),
                    _ => None,
                };
                return self.drive(now, key, |relay, cx| relay.on_stray(created_at, cx));
            }
        };
        self.metrics.events_received.add(source);
        let publisher = Publisher::Relay { key, source, leaves_to_policy };
        let Some(outcome) = self.offer(now, raw, publisher)? else { return Ok(()) };
        let (fate, place) = match outcome {
            Outcome::Staged { created_at, .. } => (Fate::New, Place::At(created_at)),
            Outcome::Stored { created_at }
            | Outcome::Pending { created_at }
            | Outcome::RefusedBefore { created_at, .. } => (Fate::Known, Place::At(created_at)),
            Outcome::Refused { refusal, created_at } => {
                let fate = match refusal {
                    Refusal::NotAsked => Fate::Unasked,
                    Refusal::Forged => Fate::Forged,
                    _ => Fate::Refused,
                };
                let place = match created_at {
                    Some(at) => Place::At(at),
                    // On a page it counts all the same: a sweep must see what lies behind it.
                    None if source == Source::Catchup && refusal != Refusal::Forged => Place::of_refused(raw),
                    None => raw.claimed_created_at().map_or(Place::Nowhere, Place::Claimed),
                };
                (fate, place)
            }
        };
        let arrival = Arrival { id: raw.id, place, bytes: raw.json.len(), fate };
        self.drive(now, key, |relay, cx| relay.on_event(subscription, &arrival, cx))
    }

    /// Puts one event through intake and counts what became of it. `None` if judging it has panicked: the link is closed on
    /// which it came.
    fn offer(&mut self, now: Now, raw: &RawEvent<'_>, publisher: Publisher) -> Result<Option<Outcome>, StoreError> {
        let (source, rules, party, asked_of) = match publisher {
            Publisher::Relay { key, source, leaves_to_policy } => {
                (source, Rules::All, Some(Party::Relay(key)), (!leaves_to_policy).then_some(key))
            }
            Publisher::Client(client) => (Source::Client, Rules::Client, Some(Party::Client(client)), None),
            Publisher::Import(rules) => (Source::Import, rules, None, None),
        };
        let url = asked_of.map(|key| self.relays[key].relay.url());
        let asked = |event: &_, state: &State| url.is_none_or(|url| state.asks(url, event));
        let mut context =
            IntakeContext { now, store: &mut self.store, state: &mut self.state, settings: &self.settings };
        let mut outcome = match self.intake.offer(raw, rules, party, asked, &mut context)? {
            Ok(outcome) => outcome,
            Err(fault) => {
                self.on_publisher_fault(now, publisher, &fault);
                return Ok(None);
            }
        };
        match &mut outcome {
            Outcome::Staged { changes, removed, .. } => {
                self.metrics.events_removed += *removed as u64;
                let changes = std::mem::take(changes);
                self.unconfirm(&changes);
                self.pending_commit.changes.merge(changes);
                self.pending_commit.sources.push((source, raw.json.len()));
            }
            Outcome::Stored { .. } | Outcome::Pending { .. } => self.metrics.events_duplicate += 1,
            Outcome::RefusedBefore { refusal, .. } | Outcome::Refused { refusal, .. } => {
                self.metrics.events_refused.add(refusal.name());
                debug!("{source:?} event {} refused: {}", raw.id, refusal.name());
            }
        }
        Ok(Some(outcome))
    }

    fn on_tick(&mut self, now: Now) -> Result<(), StoreError> {
        if self.stopping {
            return Ok(());
        }
        self.tell_on(now)?;
        self.assign_places_if_due(now)?;
        let saved = RECORDS_PER_BATCH.saturating_sub(self.saved).min(self.unsaved.len());
        self.saved += saved;
        for progress in self.unsaved.drain(..saved) {
            self.store.stage_progress(progress);
        }
        // Taken out together: a deadline that is due again at once waits for the next tick. So do those beyond the bound,
        // which is at once, with a look at the sockets between.
        let due: Vec<usize> = std::iter::from_fn(|| self.wheel.pop_expired(now.mono)).take(RELAYS_PER_TICK).collect();
        for key in due {
            self.relays[key].timer = None;
            self.drive(now, key, |relay, cx| relay.on_time(cx))?;
        }
        self.dial_next(now)?;
        self.probe_if_due(now)?;
        if self.through_due.is_some_and(|at| at <= now.mono) {
            self.stage_moved_throughs();
        }
        if self.expiry_due.is_some_and(|at| at <= now.mono) && self.room.is_there() {
            self.expire(now)?;
        }
        if self.intake.is_adopting() {
            self.adopt(now)?;
        }
        self.serve.step(now, &self.store, &mut self.metrics)?;
        self.report_progress(now);
        Ok(())
    }

    /// Goes on looking for root events that came before the announcement of their repo.
    fn adopt(&mut self, now: Now) -> Result<(), StoreError> {
        let mut context =
            IntakeContext { now, store: &mut self.store, state: &mut self.state, settings: &self.settings };
        let changes = self.intake.adopt(&mut context)?;
        if !changes.is_empty() {
            self.unconfirm(&changes);
            self.window.add(now.mono, Changes { upto: self.store.last_seq(), ..changes });
        }
        Ok(())
    }

    /// Whether records of relays that are not followed wait, and the batch has room for some.
    fn may_save(&self) -> bool {
        !self.unsaved.is_empty() && self.saved < RECORDS_PER_BATCH && !self.stopping
    }

    fn note_batch(&mut self, now: Now) {
        if self.pending_commit.opened_at.is_none() && !self.store.batch_is_empty() {
            self.pending_commit.opened_at = Some(now.mono);
        }
    }

    fn on_commit_took(&mut self, now: Now, took: Duration) {
        self.metrics.on_commit(took);
        self.commit_at = now.mono + took.saturating_mul(COMMIT_SHARE - 1);
        self.awaited_commit_at = now.mono + took.saturating_mul(AWAITED_COMMIT_SHARE - 1);
    }

    fn on_stop(&mut self, now: Now) -> Result<(), StoreError> {
        self.stopping = true;
        for key in self.keys.values().copied().collect::<Vec<_>>() {
            self.drive(now, key, |relay, cx| relay.close(Why::Stopping, cx))?;
        }
        self.stage_moved_throughs();
        // Forgotten at once, as every link that is closed: the commit that follows has nothing more to say to them.
        for client in self.serve.client_numbers().collect::<Vec<_>>() {
            let closed = self.with_client(client, |serve, _, _| serve.on_closed(client));
            if closed.is_some() {
                self.out.push_back(Output::Close { link: LinkId::Client(client), code: GOING_AWAY });
            }
        }
        Ok(())
    }
}

/// RFC 6455: the endpoint goes away.
const GOING_AWAY: u16 = 1001;
