//! The world around one process: model relays, clients, links, a disk and a clock, moved on by one queue of happenings
//! in order of time and then of origin. No thread, socket or real clock; the same seed gives the same outputs.

mod life;
mod look;
mod trouble;
mod wires;

use crate::checks::Checks;
use crate::client::ModelClient;
use crate::clock::{Clock, MILLI, Micros, SECOND};
use crate::disk::Disk;
use crate::events::{DOMAIN, EventRef};
use crate::link::{Far, Link, LinkState, Path};
use crate::model_relay::{Act, ModelRelay, RelayConfig};
use crate::rng::Rng;
use crate::trace::Trace;
use grasp_sync::engine::{CloseReason, Engine, Input, LinkId, Output, Settings};
use grasp_sync::protocol::relay_url::{RelayUrl, Service};
use grasp_sync::store::{Store, StoreError};
use grasp_sync::time::{Duration, Instant, Now};
use std::collections::BTreeMap;
use std::rc::Rc;

/// What the world drives: the engine, or a script in the world's own tests. An error ends the process.
pub trait Process {
    fn handle(&mut self, now: Now, input: Input<'_>) -> Result<(), StoreError>;
    fn poll_output(&mut self) -> Option<Output>;
    fn next_deadline(&self) -> Option<Instant>;
    fn commit_due(&self, now: Now, idle: bool) -> bool;
    fn commit(&mut self, now: Now) -> Result<(), StoreError>;
    fn space_due(&self, _: Now) -> bool {
        false
    }
    /// The end after the last commit, if nothing kills it before.
    fn close(self: Box<Self>) -> Result<(), StoreError> {
        Ok(())
    }
    fn status_json(&self, now: Now) -> String;
    fn metrics_text(&self) -> String {
        String::new()
    }
    /// When the batching window closes, if one is open.
    fn window_closes_at(&self) -> Option<Instant> {
        None
    }
    /// The machine at the other end of a link panics when it has acted so many times more.
    fn inject_fault(&self, _: LinkId, _: u32) {}
    /// What it has committed can be read here; what it has not cannot.
    fn store(&self) -> Option<&Store> {
        None
    }
}

impl Process for Engine {
    fn handle(&mut self, now: Now, input: Input<'_>) -> Result<(), StoreError> {
        Engine::handle(self, now, input)
    }
    fn poll_output(&mut self) -> Option<Output> {
        Engine::poll_output(self)
    }
    fn next_deadline(&self) -> Option<Instant> {
        Engine::next_deadline(self)
    }
    fn commit_due(&self, now: Now, idle: bool) -> bool {
        Engine::commit_due(self, now, idle)
    }
    fn commit(&mut self, now: Now) -> Result<(), StoreError> {
        Engine::commit(self, now)
    }
    fn space_due(&self, now: Now) -> bool {
        Engine::space_due(self, now)
    }
    fn close(self: Box<Self>) -> Result<(), StoreError> {
        Engine::close(*self)
    }
    fn status_json(&self, now: Now) -> String {
        Engine::status_json(self, now)
    }
    fn metrics_text(&self) -> String {
        Engine::metrics_text(self)
    }
    fn window_closes_at(&self) -> Option<Instant> {
        Engine::window_closes_at(self)
    }
    fn inject_fault(&self, link: LinkId, times: u32) {
        Engine::inject_fault(self, link, times);
    }
    fn store(&self) -> Option<&Store> {
        Some(Engine::store(self))
    }
}

/// Starts a process on a disk.
pub type Boot = Box<dyn Fn(Disk, Settings, Now) -> Result<Box<dyn Process>, StoreError>>;

#[derive(Clone, Debug)]
enum Frame {
    Text(Rc<str>),
    /// A ping out, a pong in.
    Beat,
    Opened,
    /// The question what the relay says of itself, at a path.
    Inquiry(Rc<str>),
    /// The answer to it.
    Info(Result<Rc<str>, CloseReason>),
    /// The end of the link: a close code out, a reason in.
    Closed(CloseReason),
    Drained,
}

enum Happening {
    /// Reaches the far end.
    Out(u64, Frame),
    /// Reaches the process.
    In(u64, Frame),
    /// A relay does something on its end of a link.
    Far(u64, Act),
    /// A proxy on the way looks whether anything has passed.
    Proxy(u64),
}

/// Bytes of redb's cache: small, so that pages are really evicted and read again.
const CACHE_BYTES: usize = 1 << 20;
/// Index entries that wait in memory: those of some twenty events.
const MEMTABLE_MAX: usize = 200;
/// Happenings given to the process in one turn.
const HAPPENINGS_PER_TURN: usize = 64;
/// Turns at one and the same moment that neither end in an output nor in a commit.
const IDLE_TURNS_MAX: u32 = 1_000;
/// Turns between two looks at what the process says of its bounds.
const BOUNDS_EVERY: u64 = 4_096;
/// Shortest simulated time between two looks at a condition.
const LOOK_EVERY: Micros = 10 * MILLI;

pub struct World {
    pub seed: u64,
    pub name: &'static str,
    /// What was drawn, for the trace.
    pub about: String,
    pub rng: Rng,
    pub clock: Clock,
    pub settings: Settings,
    pub checks: Checks,
    pub path: Path,
    /// Paths that differ from it, by relay.
    pub paths: BTreeMap<usize, Path>,
    /// Relays behind a proxy that cuts a link on which nothing has passed for so long, in either direction.
    pub proxies: BTreeMap<usize, Micros>,
    /// Relays that nobody can reach, and what who dials them learns.
    pub unreachable: BTreeMap<usize, CloseReason>,
    /// How every dial ends while the process's own network is down.
    cut: Option<CloseReason>,
    /// How long each commit takes.
    pub commit_took: Micros,
    /// The disk itself is read after each so many commits, to see that the store says of it what is so.
    pub look_every: u64,
    /// Turns so far: one for each time that the process woke.
    pub turns: u64,
    pub commits: u64,
    /// What the process has logged since a scenario asked for it.
    pub logged: Option<Vec<String>>,
    /// Faults that a scenario has injected and that have not come yet. Any other ends the scenario.
    pub faults_to_come: usize,
    /// Errors that ended the process, with their time.
    pub endings: Vec<(Micros, StoreError)>,
    boot: Boot,
    disk: Disk,
    /// Whether the disk was ever anything but sound.
    disk_fails: bool,
    process: Option<Box<dyn Process>>,
    started: Micros,
    /// Time for which the machine was suspended since, so that its monotonic clock stood still.
    asleep: Micros,
    queue: BTreeMap<(Micros, u64), Happening>,
    happenings: u64,
    links: BTreeMap<u64, Link>,
    ids: BTreeMap<u64, LinkId>,
    serials: BTreeMap<LinkId, u64>,
    relays: Vec<ModelRelay>,
    clients: Vec<(u64, ModelClient)>,
    trace: Trace,
    /// How often the disk had been synced when it was last looked at.
    seen_syncs: u64,
    idle_turns: u32,
    outputs: u64,
}

impl World {
    /// A world of no relays around the real engine.
    pub fn new(name: &'static str, seed: u64) -> World {
        World::around(name, seed, Box::new(boot_engine))
    }

    /// A world around any process.
    pub fn around(name: &'static str, seed: u64, boot: Boot) -> World {
        crate::ear::listen();
        World {
            seed,
            name,
            about: String::new(),
            rng: Rng::new(seed),
            clock: Clock::new(),
            settings: settings(),
            checks: Checks::default(),
            path: Path::default(),
            paths: BTreeMap::new(),
            proxies: BTreeMap::new(),
            unreachable: BTreeMap::new(),
            cut: None,
            commit_took: 2 * MILLI,
            look_every: 16,
            turns: 0,
            commits: 0,
            logged: None,
            faults_to_come: 0,
            endings: Vec::new(),
            boot,
            disk: Disk::default(),
            disk_fails: false,
            process: None,
            started: 0,
            asleep: 0,
            queue: BTreeMap::new(),
            happenings: 0,
            links: BTreeMap::new(),
            ids: BTreeMap::new(),
            serials: BTreeMap::new(),
            relays: Vec::new(),
            clients: Vec::new(),
            trace: Trace::new(),
            seen_syncs: 0,
            idle_turns: 0,
            outputs: 0,
        }
    }

    // What a scenario arranges.

    /// Adds the relay `wss://<name>.example`.
    pub fn add_relay(&mut self, name: &str, config: RelayConfig) -> &mut ModelRelay {
        self.relays.push(ModelRelay::new(&relay_url(name), config));
        self.relays.last_mut().expect("just pushed")
    }

    /// Adds the relay `wss://<name>.example<path>`, which is found at that path alone.
    pub fn add_relay_at(&mut self, name: &str, path: &'static str, config: RelayConfig) -> &mut ModelRelay {
        let relay = self.add_relay(name, config);
        relay.url.push_str(path.trim_end_matches('/'));
        relay.path = Some(path);
        relay
    }

    /// Makes `name` a bootstrap relay from the next start on.
    pub fn bootstrap(&mut self, name: &str) {
        self.settings.bootstrap.push(RelayUrl::parse(&relay_url(name)).expect("a relay URL"));
    }

    pub fn relays(&self) -> &[ModelRelay] {
        &self.relays
    }

    /// Relays remember everything that was asked of them; a long world has no use for it.
    pub fn forget_questions(&mut self) {
        for relay in &mut self.relays {
            relay.reqs.clear();
            // Those that are open are still counted.
            if relay.reconciling() == 0 {
                relay.negs.clear();
            }
            relay.received_close.clear();
        }
    }

    /// Adds relays that people list and nobody can reach.
    pub fn add_unreachable(&mut self) {
        let reasons = [
            ("wss://nowhere.example", CloseReason::Resolve),
            ("ws://127.0.0.1:7334", CloseReason::PrivateAddress),
            ("wss://grasp.example.evil.example", CloseReason::Tls),
        ];
        for (url, reason) in reasons {
            self.unreachable.insert(self.relays.len(), reason);
            self.relays.push(ModelRelay::new(url, RelayConfig::strfry()));
        }
    }

    /// Adds a relay at this URL.
    pub fn add_relay_by_url(&mut self, url: &str, config: RelayConfig) {
        self.relays.push(ModelRelay::new(url, config));
    }

    /// Adds one that nobody can reach.
    pub fn add_unreachable_at(&mut self, url: &str, reason: CloseReason) {
        self.unreachable.insert(self.relays.len(), reason);
        self.add_relay_by_url(url, RelayConfig::strfry());
    }

    pub fn relay(&mut self, name: &str) -> &mut ModelRelay {
        let n = self.relay_number(name);
        &mut self.relays[n]
    }

    fn relay_number(&self, name: &str) -> usize {
        let url = relay_url(name);
        let is_called =
            |r: &ModelRelay| r.url.strip_prefix(&url).is_some_and(|path| path.is_empty() || path.starts_with('/'));
        self.relays.iter().position(is_called).unwrap_or_else(|| panic!("no relay {name}"))
    }

    /// An event turns up in a relay's store; its subscribers hear nothing.
    pub fn hold(&mut self, relay: &str, event: &EventRef) {
        self.sign(event);
        self.note_arrival(relay, event, false);
        self.relay(relay).hold(event);
    }

    /// Notes when a relay gets what it does not hold, or holds no more: it may have deleted it.
    fn note_arrival(&mut self, relay: &str, event: &EventRef, told: bool) {
        let n = self.relay_number(relay);
        if !self.relays[n].holds(event) {
            self.checks.claims.on_held(n, event, self.clock.wall(), told);
        }
    }

    /// Somebody has really signed this.
    pub fn sign(&mut self, event: &EventRef) {
        if !self.checks.genuine.contains_key(&event.id) {
            self.checks.genuine.insert(event.id.clone(), event.clone());
        }
    }

    pub fn hold_all<'a>(&mut self, relay: &str, events: impl IntoIterator<Item = &'a EventRef>) {
        events.into_iter().for_each(|e| self.hold(relay, e));
    }

    /// An event is published to a relay, which tells its subscribers.
    pub fn publish(&mut self, relay: &str, event: &EventRef) {
        self.sign(event);
        self.say(&format!("{relay} takes {} ({})", short(&event.id), event.kind));
        let at = self.clock.now();
        self.note_arrival(relay, event, true);
        let replies = self.relay(relay).publish(at, event);
        self.carry_out(replies);
    }

    /// A relay says something on all its links.
    pub fn relay_says(&mut self, relay: &str, text: &str) {
        let sessions: Vec<u64> = self.relay(relay).sessions().keys().copied().collect();
        for session in sessions {
            self.send_in(session, Frame::Text(text.into()));
        }
    }

    /// The event must never be stored.
    pub fn forbid(&mut self, event: &EventRef, why: &'static str) {
        self.checks.forbidden.insert(event.id.clone(), why);
    }

    /// Every link to the relay breaks; both ends learn of it.
    pub fn drop_links(&mut self, relay: &str) {
        self.say(&format!("links to {relay} break"));
        let sessions: Vec<u64> = self.relay(relay).sessions().keys().copied().collect();
        for session in sessions {
            self.relay(relay).close(session);
            self.send_in(session, Frame::Closed(CloseReason::Peer(1006)));
        }
    }

    /// Every link to the relay goes silent; neither end learns of it.
    pub fn silence_links(&mut self, relay: &str) {
        self.say(&format!("links to {relay} go silent"));
        let n = self.relay_number(relay);
        self.links.values_mut().filter(|l| l.far == Far::Relay(n)).for_each(|l| l.silent = true);
    }

    /// Links that the process now has to the relay.
    pub fn links_to(&self, relay: &str) -> usize {
        let n = self.relay_number(relay);
        let links = self.links.iter().filter(|(serial, l)| l.far == Far::Relay(n) && self.ids.contains_key(serial));
        links.filter(|(_, l)| !matches!(l.state, LinkState::Inquiring { .. })).count()
    }

    /// A client connects to the own relay.
    pub fn connect_client(&mut self) -> usize {
        let client = self.clients.len();
        let serial = self.add_link(Far::Client(client));
        self.clients.push((serial, ModelClient::default()));
        let id = LinkId::Client(serial);
        self.name_link(serial, id);
        self.send_in(serial, Frame::Opened);
        client
    }

    pub fn client(&self, client: usize) -> &ModelClient {
        &self.clients[client].1
    }

    pub fn client_sends(&mut self, client: usize, text: &str) {
        self.send_in(self.clients[client].0, Frame::Text(text.into()));
    }

    /// A client publishes an event.
    pub fn client_publishes(&mut self, client: usize, event: &EventRef) {
        self.sign(event);
        self.client_sends(client, &crate::client::publish(event));
    }

    // The passing of time.

    /// Runs until `cond` holds, at most for `max`.
    pub fn run_until(&mut self, what: &str, max: Micros, mut cond: impl FnMut(&mut World) -> bool) {
        let end = self.clock.now() + max;
        let mut look_at = 0;
        loop {
            // Looked at whenever a pause begins, and now and then where none does.
            if self.next_at().is_none_or(|t| t >= look_at) {
                if cond(self) {
                    return;
                }
                look_at = self.clock.now() + LOOK_EVERY;
            }
            if !self.step(end) {
                if cond(self) {
                    return;
                }
                self.fail(&format!("not within {} s: {what}", max / SECOND));
            }
        }
    }

    /// Runs for exactly `time`.
    pub fn run_for(&mut self, time: Micros) {
        let end = self.clock.now() + time;
        while self.step(end) {}
    }

    /// Goes on to whatever is next, if it is not after `end`; else to `end`.
    fn step(&mut self, end: Micros) -> bool {
        let Some(next) = self.next_at().filter(|t| *t <= end) else {
            self.clock.advance_to(end.max(self.clock.now()));
            return false;
        };
        let happens = self.happens_at().is_some_and(|t| t <= next);
        let mut woken = self.due_at().is_some_and(|t| t <= next);
        self.clock.advance_to(next);
        let outputs = self.outputs;
        for _ in 0..HAPPENINGS_PER_TURN {
            match self.queue.first_entry() {
                Some(first) if first.key().0 <= next => {
                    let happening = first.remove();
                    woken |= matches!(happening, Happening::In(..));
                    self.happen(happening);
                }
                _ => break,
            }
        }
        if !woken {
            return true;
        }
        self.count_turn();
        self.feed(Input::Tick);
        let progressed = self.finish_turn();
        let progress = progressed || self.outputs != outputs || happens;
        self.idle_turns = if progress { 0 } else { self.idle_turns + 1 };
        if self.idle_turns > IDLE_TURNS_MAX {
            self.fail("a busy loop: the deadline is due again and again, but nothing comes of it");
        }
        true
    }

    fn happens_at(&self) -> Option<Micros> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    fn due_at(&self) -> Option<Micros> {
        self.process.as_ref()?.next_deadline().map(|t| t.as_micros() + self.started + self.asleep)
    }

    /// When something is next to be done, not before now.
    fn next_at(&self) -> Option<Micros> {
        self.happens_at().into_iter().chain(self.due_at()).min().map(|t| t.max(self.clock.now()))
    }

    fn count_turn(&mut self) {
        self.turns += 1;
        let verdict = self.checks.pace.on_wake(self.clock.now(), self.relays.len());
        self.demand(verdict);
        if self.turns.is_multiple_of(BOUNDS_EVERY) {
            self.look_at_bounds();
        }
    }

    /// What follows the inputs of a turn: the commit if it is due, or a look at the disk. Whether anything did.
    fn finish_turn(&mut self) -> bool {
        let now = self.now();
        let idle = self.queue.first_key_value().is_none_or(|((at, _), _)| *at > self.clock.now());
        let Some(process) = self.process.as_mut() else { return false };
        if !process.commit_due(now, idle) {
            let due = process.space_due(now);
            if due {
                self.feed(Input::Space(self.disk.space()));
            }
            return due;
        }
        let done = process.commit(now);
        self.listen();
        if let Err(error) = done {
            self.process_ends(error);
            return true;
        }
        self.commits += 1;
        self.say("commit");
        self.look_at_window();
        let verdict = self.refresh_durable();
        self.demand(verdict);
        self.drain();
        self.clock.advance_to(self.clock.now() + self.commit_took);
        self.feed(Input::CommitTook(Duration::from_micros(self.commit_took)));
        self.feed(Input::Space(self.disk.space()));
        true
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.trace.print(self.name, self.seed, &self.about);
        }
    }
}

fn boot_engine(disk: Disk, settings: Settings, now: Now) -> Result<Box<dyn Process>, StoreError> {
    let store = Store::open(disk, CACHE_BYTES)?.with_memtable_max(MEMTABLE_MAX);
    Ok(Box::new(Engine::new(store, settings, now)?))
}

fn settings() -> Settings {
    Settings::of(Service::parse(DOMAIN).expect("a service"))
}

pub fn relay_url(name: &str) -> String {
    format!("wss://{name}.example")
}

fn short(id: &str) -> &str {
    &id[..id.len().min(8)]
}
