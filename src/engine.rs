//! The engine: every decision of the program, as one value. [`Input`] in, [`Output`] out; see the crate's documentation
//! for the contract with its caller.
//!
//! It owns the store, the two maps, one machine per relay and the clients' sessions, and carries values between them:
//! an event from `intake` into the batch, a commit's changes into the window, a window's changes to the relays.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use log::{debug, warn};
use nostr::event::EventId;
use slab::Slab;

pub use crate::contract::{CloseReason, Input, LinkId, Output};
pub use crate::settings::Settings;

use crate::intake::{Desk, Intake, Outcome, Rules, StateChange, remove_from_state};
use crate::limits::{
    BATCH_AGE_MAX, BATCH_BYTES_MAX, BATCH_EVENTS_MAX, COMMIT_SHARE, EXPIRY_BATCH, EXPIRY_PERIOD, THROUGH_SAVE_AFTER,
};
use crate::metrics::{Metrics, Side, Source};
use crate::policy::Refusal;
use crate::protocol::message::{RawEvent, RelayMessage, parse_relay_message};
use crate::protocol::relay_url::RelayUrl;
use crate::protocol::repo::{ANNOUNCEMENT_KIND, ROOT_KINDS};
use crate::serve::{Serve, ServeOutput, info::relay_info};
use crate::store::{Progress, Seq, Store, StoreError};
use crate::sync::Cx;
use crate::sync::progress::RelayProgress;
use crate::sync::relay::{Fate, Relay, Why};
use crate::sync::session::Origin;
use crate::sync::state::{Changes, RootId, State};
use crate::sync::window::Window;
use crate::time::{Duration, Instant, Now};
use crate::timer_wheel::{TimerId, TimerWheel};

mod report;

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

/// The batch that waits for its commit: what is owed once it is durable.
#[derive(Default)]
struct Owed {
    opened_at: Option<Instant>,
    changes: Changes,
    /// Clients that wait for `OK true`.
    acknowledgements: Vec<(u64, EventId)>,
    sources: Vec<Source>,
}

/// The deterministic core. Owns the store, the sync state, the relays' machines and the clients' sessions.
pub struct Engine {
    store: Store,
    settings: Settings,
    state: State,
    intake: Intake,
    window: Window,
    relays: Slab<Entry>,
    keys: BTreeMap<RelayUrl, usize>,
    links: BTreeMap<LinkId, usize>,
    next_link: u64,
    wheel: TimerWheel<usize>,
    serve: Serve,
    owed: Owed,
    /// No eager commit before this: commits have had their share of recent time.
    commit_at: Instant,
    /// When moved `through`s are written at the latest.
    through_due: Option<Instant>,
    expiry_due: Option<Instant>,
    /// What relays had reached when the process began; taken out as they appear.
    restored: BTreeMap<RelayUrl, RelayProgress>,
    metrics: Metrics,
    out: VecDeque<Output>,
    started: Now,
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
        let restored = load_progress(&store, &state)?;
        let mut engine = Engine {
            window: Window::new(settings.timing.batch_window),
            serve: Serve::new(&settings.limits, &settings.timing),
            store,
            settings,
            state,
            intake: Intake::default(),
            relays: Slab::new(),
            keys: BTreeMap::new(),
            links: BTreeMap::new(),
            next_link: 0,
            wheel: TimerWheel::new(),
            owed: Owed::default(),
            commit_at: Instant::ZERO,
            through_due: None,
            expiry_due: None,
            restored,
            metrics: Metrics::default(),
            out: VecDeque::new(),
            started: now,
            stopping: false,
        };
        engine.add_missing_relays(now);
        engine.schedule_expiry(now)?;
        Ok(engine)
    }

    /// Takes one input. Outputs wait in [`Engine::poll_output`].
    ///
    /// # Errors
    ///
    /// If the store cannot be read. The engine must not be used afterwards.
    pub fn handle(&mut self, now: Now, input: Input<'_>) -> Result<(), StoreError> {
        match input {
            Input::Opened { link } => self.with_relay(now, link, |relay, cx| relay.on_opened(link, cx))?,
            Input::Accepted { link: LinkId::Client(client) } => {
                self.serve.on_accepted(now, client, &mut self.metrics);
            }
            Input::Text { link: LinkId::Client(client), text } => self.on_client_text(now, client, text)?,
            Input::Text { link: link @ LinkId::Relay(_), text } => self.on_relay_text(now, link, text)?,
            Input::Alive { link: LinkId::Client(client) } => self.serve.on_alive(now, client),
            Input::Alive { link } => self.with_relay(now, link, |relay, cx| relay.on_alive(cx))?,
            Input::Drained { link: LinkId::Client(client) } => self.serve.on_drained(client),
            Input::Closed { link: LinkId::Client(client), reason } => {
                self.metrics.client_links_closed.add(reason.name());
                self.serve.on_closed(client);
            }
            Input::Closed { link, reason } => {
                self.metrics.relay_links_closed.add(reason.name());
                self.with_relay(now, link, |relay, cx| relay.on_closed(reason, cx))?;
            }
            Input::CommitTook(took) => self.on_commit_took(now, took),
            Input::Tick => self.on_tick(now)?,
            Input::Stop => self.on_stop(now)?,
            Input::Accepted { link: LinkId::Relay(_) } | Input::Drained { link: LinkId::Relay(_) } => {}
        }
        self.note_batch(now);
        self.collect_served();
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
        let batch = self.owed.opened_at.map(|opened| self.commit_at.min(opened + BATCH_AGE_MAX));
        let queries = self.serve.has_work().then_some(Instant::ZERO);
        let due = [
            self.wheel.next_deadline(),
            self.window.closes_at(),
            self.serve.next_deadline(),
            self.through_due,
            self.expiry_due,
            batch,
            queries,
        ];
        due.into_iter().flatten().min()
    }

    /// Whether the batch should be committed now. `idle`: the caller has nothing more to read.
    pub fn commit_due(&self, now: Now, idle: bool) -> bool {
        let Some(opened_at) = self.owed.opened_at else { return false };
        self.store.batch_events() >= BATCH_EVENTS_MAX
            || self.store.batch_bytes() >= BATCH_BYTES_MAX
            || now.mono >= opened_at + BATCH_AGE_MAX
            || (idle && now.mono >= self.commit_at)
    }

    /// Makes the batch durable, then acknowledges and serves its events. The caller reports how long it took with
    /// [`Input::CommitTook`].
    ///
    /// # Errors
    ///
    /// If the store cannot write. Nothing of the batch was acknowledged; the process must end.
    pub fn commit(&mut self, now: Now) -> Result<(), StoreError> {
        self.stage_moved_throughs();
        let stored = self.store.commit()?;
        let owed = std::mem::take(&mut self.owed);
        self.metrics.on_batch(stored.len());
        for source in owed.sources {
            self.metrics.events_new.add(source);
        }
        for event in &stored {
            self.serve.on_stored(event, &mut self.metrics);
        }
        for (client, id) in owed.acknowledgements {
            self.serve.acknowledge(client, &id, true, "");
        }
        self.metrics.relays_refused.add_many("announcement", owed.changes.relays_refused as u64);
        self.window.add(now.mono, Changes { upto: self.store.last_seq(), ..owed.changes });
        self.schedule_expiry(now)?;
        self.collect_served();
        Ok(())
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
        let outcome = self.offer(now, &raw, Source::Import, rules, None)?;
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

    /// The NIP-11 document of the own relay.
    pub fn relay_info_json(&self) -> String {
        relay_info(&self.settings.service, !self.settings.archive.is_empty())
    }

    fn on_relay_text(&mut self, now: Now, link: LinkId, text: &str) -> Result<(), StoreError> {
        let Some(&key) = self.links.get(&link) else { return Ok(()) };
        self.metrics.messages_received.add(Side::Relay);
        self.metrics.bytes_received.add_many(Side::Relay, text.len() as u64);
        let message = match parse_relay_message(text) {
            Ok(message) => message,
            Err(error) => {
                self.metrics.messages_refused.add(error.name());
                return self.with_relay(now, link, |relay, cx| relay.on_alive(cx));
            }
        };
        match message {
            RelayMessage::Event { subscription, event } => self.on_relay_event(now, key, &subscription, &event),
            RelayMessage::Eose { subscription } => {
                self.with_relay(now, link, |relay, cx| relay.on_eose(&subscription, cx))
            }
            RelayMessage::Closed { subscription, reason } => {
                self.with_relay(now, link, |relay, cx| relay.on_subscription_closed(&subscription, &reason, cx))
            }
            RelayMessage::Notice(text) => self.with_relay(now, link, |relay, cx| relay.on_notice(&text, cx)),
            RelayMessage::Ok { .. } | RelayMessage::Auth { .. } => {
                self.with_relay(now, link, |relay, cx| relay.on_alive(cx))
            }
        }
    }

    fn on_relay_event(
        &mut self,
        now: Now,
        key: usize,
        subscription: &str,
        raw: &RawEvent<'_>,
    ) -> Result<(), StoreError> {
        let source = match self.relays[key].relay.origin(subscription) {
            Some(Origin::Live) => Source::Live,
            Some(Origin::Round | Origin::Rotation) => Source::Catchup,
            None => {
                self.metrics.messages_refused.add("no_subscription");
                return Ok(());
            }
        };
        self.metrics.events_received.add(source);
        let outcome = self.offer(now, raw, source, Rules::All, Some(key))?;
        let (fate, created_at) = match outcome {
            Outcome::Staged { created_at, .. } => (Fate::New, Some(created_at)),
            Outcome::Stored { created_at }
            | Outcome::Pending { created_at }
            | Outcome::RefusedBefore { created_at, .. } => (Fate::Known, Some(created_at)),
            Outcome::Refused { created_at, .. } => (Fate::Refused, created_at),
        };
        self.drive(now, key, |relay, cx| relay.on_event(subscription, raw.id, created_at, fate, cx))
    }

    fn on_client_text(&mut self, now: Now, client: u64, text: &str) -> Result<(), StoreError> {
        self.metrics.messages_received.add(Side::Client);
        self.metrics.bytes_received.add_many(Side::Client, text.len() as u64);
        let Some(raw) = self.serve.on_text(now, client, text, &self.store, &mut self.metrics) else { return Ok(()) };
        self.metrics.events_received.add(Source::Client);
        match self.offer(now, &raw, Source::Client, Rules::All, None)? {
            Outcome::Staged { .. } | Outcome::Pending { .. } => {
                self.owed.acknowledgements.push((client, raw.id));
            }
            Outcome::Stored { .. } => {
                self.serve.acknowledge(client, &raw.id, true, "duplicate: already have this event");
            }
            Outcome::Refused { refusal, .. } | Outcome::RefusedBefore { refusal, .. } => {
                self.serve.acknowledge(client, &raw.id, false, refusal.message());
            }
        }
        Ok(())
    }

    /// Puts one event through intake and counts what became of it. `relay`: where it came from, if a relay sent it.
    fn offer(
        &mut self,
        now: Now,
        raw: &RawEvent<'_>,
        source: Source,
        rules: Rules,
        relay: Option<usize>,
    ) -> Result<Outcome, StoreError> {
        let url = relay.map(|key| self.relays[key].relay.url());
        let asked = |event: &_, state: &State| url.is_none_or(|url| state.asks(url, event));
        let mut desk = Desk { now, store: &mut self.store, state: &mut self.state, settings: &self.settings };
        let mut outcome = self.intake.offer(raw, rules, asked, &mut desk)?;
        match &mut outcome {
            Outcome::Staged { changes, removed, .. } => {
                self.metrics.events_removed += *removed as u64;
                self.owed.changes.merge(std::mem::take(changes));
                self.owed.sources.push(source);
            }
            Outcome::Stored { .. } | Outcome::Pending { .. } => self.metrics.events_duplicate += 1,
            Outcome::RefusedBefore { refusal, .. } | Outcome::Refused { refusal, .. } => {
                self.metrics.events_refused.add(refusal.name());
                debug!("{source:?} event {} refused: {}", raw.id, refusal.name());
            }
        }
        Ok(outcome)
    }

    fn on_tick(&mut self, now: Now) -> Result<(), StoreError> {
        if self.stopping {
            return Ok(());
        }
        while let Some(key) = self.wheel.pop_expired(now.mono) {
            self.relays[key].timer = None;
            self.drive(now, key, |relay, cx| relay.on_time(cx))?;
        }
        if let Some(changes) = self.window.close_if_due(now.mono) {
            self.act_on_window(now, changes)?;
        }
        if self.through_due.is_some_and(|at| at <= now.mono) {
            self.stage_moved_throughs();
        }
        if self.expiry_due.is_some_and(|at| at <= now.mono) {
            self.expire(now)?;
        }
        self.serve.step(now, &self.store, &mut self.metrics)?;
        Ok(())
    }

    /// The window has closed: relays without repos are forgotten, followed ones are asked for what is new to them, and
    /// new ones are followed.
    fn act_on_window(&mut self, now: Now, changes: Changes) -> Result<(), StoreError> {
        self.metrics.windows += 1;
        let unneeded = self.keys.iter().filter(|(url, _)| !self.state.needs(url)).map(|(_, key)| *key);
        for key in unneeded.collect::<Vec<_>>() {
            self.forget_relay(now, key)?;
        }
        for url in &changes.lost {
            if let Some(&key) = self.keys.get(url) {
                self.drive(now, key, |relay, cx| relay.on_repos_lost(cx))?;
            }
        }
        for (key, roots) in self.news_by_relay(&changes) {
            let gained = changes.gained.get(self.relays[key].relay.url()).cloned().unwrap_or_default();
            self.drive(now, key, |relay, cx| relay.on_window(&gained, &roots, changes.upto, cx))?;
        }
        self.add_missing_relays(now);
        Ok(())
    }

    /// Which followed relays something is new to, and the new root events of each.
    fn news_by_relay(&self, changes: &Changes) -> BTreeMap<usize, BTreeSet<RootId>> {
        let mut news: BTreeMap<usize, BTreeSet<RootId>> = BTreeMap::new();
        for key in changes.gained.keys().filter_map(|url| self.keys.get(url)) {
            news.entry(*key).or_default();
        }
        for root in &changes.roots {
            for repo in self.state.repos_of_root(*root) {
                for key in self.state.relays_of(*repo).iter().filter_map(|url| self.keys.get(url)) {
                    news.entry(*key).or_default().insert(*root);
                }
            }
        }
        news
    }

    /// Follows the relays that the state names, bootstrap relays first, as far as `limits.relays_max` allows.
    fn add_missing_relays(&mut self, now: Now) {
        let missing: Vec<RelayUrl> = self.state.relays().filter(|url| !self.keys.contains_key(*url)).cloned().collect();
        for url in missing {
            if self.relays.len() >= self.settings.limits.relays_max {
                self.metrics.relays_refused.add("relays_max");
                warn!("{url}: not followed, limits.relays_max is reached");
                continue;
            }
            let progress = self.restored.remove(&url).unwrap_or_default();
            let mut cx = Cx {
                now,
                state: &self.state,
                settings: &self.settings,
                next_link: &mut self.next_link,
                out: &mut self.out,
                metrics: &mut self.metrics,
            };
            let relay = Relay::new(url.clone(), progress, &mut cx);
            let key = self.relays.insert(Entry { relay, timer: None });
            self.keys.insert(url, key);
            self.arm(key, Some(now.mono));
        }
    }

    fn forget_relay(&mut self, now: Now, key: usize) -> Result<(), StoreError> {
        self.drive(now, key, |relay, cx| relay.close(Why::Unneeded, cx))?;
        self.arm(key, None);
        let url = self.relays.remove(key).relay.url().clone();
        self.keys.remove(&url);
        self.store.stage_progress(Progress::ForgetRelay { relay: url });
        Ok(())
    }

    fn with_relay(
        &mut self,
        now: Now,
        link: LinkId,
        act: impl FnOnce(&mut Relay, &mut Cx<'_>),
    ) -> Result<(), StoreError> {
        match self.links.get(&link) {
            Some(&key) => self.drive(now, key, act),
            None => Ok(()),
        }
    }

    /// Lets a relay's machine act, then carries away what it wants written and watched.
    fn drive(&mut self, now: Now, key: usize, act: impl FnOnce(&mut Relay, &mut Cx<'_>)) -> Result<(), StoreError> {
        let mut cx = Cx {
            now,
            state: &self.state,
            settings: &self.settings,
            next_link: &mut self.next_link,
            out: &mut self.out,
            metrics: &mut self.metrics,
        };
        let relay = &mut self.relays[key].relay;
        let link_before = relay.link();
        act(relay, &mut cx);
        while relay.wants_authors() {
            let mut authors = BTreeSet::new();
            self.store.authors(&mut |author| {
                authors.insert(author);
            })?;
            relay.add_deletions(authors, &mut cx);
        }
        let deadline = relay.next_deadline(&cx);
        let link = relay.link();
        if link != link_before {
            link_before.map(|link| self.links.remove(&link));
            link.map(|link| self.links.insert(link, key));
        }
        for progress in relay.take_unsaved() {
            self.store.stage_progress(progress);
        }
        let save_by = relay.through_moved_at().map(|at| at + THROUGH_SAVE_AFTER);
        self.through_due = [self.through_due, save_by].into_iter().flatten().min();
        self.arm(key, deadline);
        Ok(())
    }

    /// Sets a relay's deadline in the wheel.
    fn arm(&mut self, key: usize, deadline: Option<Instant>) {
        let entry = &mut self.relays[key];
        if entry.timer.map(|(at, _)| at) == deadline {
            return;
        }
        if let Some((_, timer)) = entry.timer.take() {
            self.wheel.cancel(timer);
        }
        entry.timer = deadline.map(|at| (at, self.wheel.insert(at, key)));
    }

    fn stage_moved_throughs(&mut self) {
        self.through_due = None;
        for (_, entry) in &mut self.relays {
            if let Some(progress) = entry.relay.take_moved_through() {
                self.store.stage_progress(progress);
            }
        }
    }

    fn expire(&mut self, now: Now) -> Result<(), StoreError> {
        let removed = self.store.expire(now.wall, EXPIRY_BATCH)?;
        self.metrics.events_expired += removed.len() as u64;
        for removed in &removed {
            let changes = remove_from_state(removed, &mut self.state);
            self.owed.changes.merge(changes);
        }
        self.expiry_due = Some(now.mono + EXPIRY_PERIOD);
        Ok(())
    }

    /// Looks up when an event will next expire.
    fn schedule_expiry(&mut self, now: Now) -> Result<(), StoreError> {
        let next = self.store.next_expiration()?;
        self.expiry_due = next.map(|at| {
            let wait = Duration::from_secs(at.as_secs().saturating_sub(now.wall.as_secs()));
            now.mono + wait.max(EXPIRY_PERIOD)
        });
        Ok(())
    }

    fn note_batch(&mut self, now: Now) {
        if self.owed.opened_at.is_none() && !self.store.batch_is_empty() {
            self.owed.opened_at = Some(now.mono);
        }
    }

    fn on_commit_took(&mut self, now: Now, took: Duration) {
        self.metrics.on_commit(took);
        self.commit_at = now.mono + took.saturating_mul(COMMIT_SHARE - 1);
    }

    fn on_stop(&mut self, now: Now) -> Result<(), StoreError> {
        self.stopping = true;
        for key in self.keys.values().copied().collect::<Vec<_>>() {
            self.drive(now, key, |relay, cx| relay.close(Why::Stopping, cx))?;
        }
        self.stage_moved_throughs();
        let clients = self.serve.client_numbers().map(LinkId::Client);
        self.out.extend(clients.map(|link| Output::Close { link, code: GOING_AWAY }));
        Ok(())
    }

    fn collect_served(&mut self) {
        while let Some(output) = self.serve.poll_output() {
            self.out.push_back(match output {
                ServeOutput::Send { client, text } => Output::Send { link: LinkId::Client(client), text },
                ServeOutput::Ping { client } => Output::Ping { link: LinkId::Client(client) },
                ServeOutput::Close { client, code } => Output::Close { link: LinkId::Client(client), code },
            });
        }
    }
}

/// RFC 6455: the endpoint goes away.
const GOING_AWAY: u16 = 1001;

/// The two store queries of the start: root events, then announcements (spec section 3). They are applied together, in
/// the order in which they were stored: the state's sequence numbers only grow.
fn load_state(store: &Store, settings: &Settings) -> Result<State, StoreError> {
    let mut state = State::new(settings.clone());
    let mut found: Vec<(Seq, StateChange)> = Vec::new();
    for kinds in [&ROOT_KINDS[..], &[ANNOUNCEMENT_KIND]] {
        store.for_each_of_kinds(kinds, &mut |seq, event| found.push((seq, StateChange::of(&event))))?;
    }
    found.sort_unstable_by_key(|(seq, _)| *seq);
    for (seq, change) in found {
        let _ = change.apply(seq, &mut state);
    }
    Ok(state)
}

/// What each relay had reached. Records of relays and repos that are no longer shared are left aside.
fn load_progress(store: &Store, state: &State) -> Result<BTreeMap<RelayUrl, RelayProgress>, StoreError> {
    let mut restored: BTreeMap<RelayUrl, RelayProgress> = BTreeMap::new();
    for record in store.progress()? {
        match record {
            Progress::Relay { relay, through, full_catchup } => {
                restored.entry(relay).or_default().restore(through, full_catchup);
            }
            Progress::Confirmed { relay, repo, seq } => {
                if let Some(repo) = state.repo_id(&repo).filter(|repo| state.shares(&relay, *repo)) {
                    restored.entry(relay).or_default().confirm(repo, seq);
                }
            }
            Progress::ForgetRepo { .. } | Progress::ForgetRelay { .. } => {}
        }
    }
    Ok(restored)
}
