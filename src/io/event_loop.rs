//! The mio poll loop: turns what happens on sockets into [`Input`], carries [`Output`] out.
//!
//! One turn: poll; feed each ready connection's bytes, bounded per link and in all; tick; commit if the batch is due;
//! carry out what the engine wants; flush every link that was touched, once; sleep until the nearest deadline. Nothing
//! wakes the process without a deadline or a socket.
//!
//! Sockets are registered once, edge-triggered, for both directions. A connection that stops before its socket has no
//! more to give is on the ready list, and while that list is not empty the loop does not sleep.

mod clients;
mod links;
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "peers are threads")]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use mio::{Events, Poll, Token};
use rustls::ClientConfig;

use self::clients::Document;
use crate::contract::{CloseReason, Input, LinkId, Output};
use crate::engine::Engine;
use crate::io::clock::Clock;

use crate::io::connections::{Connections, FIRST_TOKEN};
use crate::io::counters::Counters;
use crate::io::crowd::Crowd;
use crate::io::disk::Disk;
use crate::io::http::Door;
use crate::io::listeners::Listener;
use crate::io::places::Places;
use crate::io::proxies::Proxies;
use crate::io::resolver::{Answer, LookupId, RESOLVER_TOKENS, Resolver, ResolverConfig};
use crate::io::signals::Signals;
use crate::limits::{LINK_CLOSE_TIMEOUT, LINK_READ_TIME_PER_TURN, READ_TIME_PER_TURN, READS_PER_TURN, TURN_SLOW};
use crate::protocol::network::Network;
use crate::protocol::relay_url::Service;
use crate::shares::Pool;
use crate::shares::room::Shortage;
use crate::store::StoreError;
use crate::time::{Duration, Instant, Now};

const PUBLIC_TOKEN: Token = Token(0);
const ADMIN_TOKEN: Token = Token(1);
const SIGNALS_TOKEN: Token = Token(2);
const RESOLVER_FIRST_TOKEN: usize = 16;
const _: () = assert!(RESOLVER_FIRST_TOKEN + RESOLVER_TOKENS <= FIRST_TOKEN);

/// Events taken from one poll; the rest comes with the next.
const EVENTS_PER_POLL: usize = 256;

/// What the loop asks of the engine it drives; the methods are [`Engine`]'s, by the same names.
#[expect(missing_docs, reason = "each is documented where it is implemented")]
#[expect(clippy::missing_errors_doc, reason = "each is documented where it is implemented")]
pub trait Core {
    fn handle(&mut self, now: Now, input: Input<'_>) -> Result<(), StoreError>;
    fn poll_output(&mut self) -> Option<Output>;
    fn next_deadline(&self) -> Option<Instant>;
    fn commit_due(&self, now: Now, idle: bool) -> bool;
    fn commit(&mut self, now: Now) -> Result<(), StoreError>;
    fn metrics_text(&self) -> String;
    fn status_json(&self, now: Now) -> String;
    fn relay_info_json(&self) -> String;
    fn names_json(&self, name: Option<&str>) -> Option<String>;
    fn page_html(&self, now: Now) -> String;
    fn space_due(&self, now: Now) -> bool;
    fn shortage(&self) -> Option<Shortage>;
}

impl Core for Engine {
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

    fn metrics_text(&self) -> String {
        Engine::metrics_text(self)
    }

    fn status_json(&self, now: Now) -> String {
        Engine::status_json(self, now)
    }

    fn relay_info_json(&self) -> String {
        Engine::relay_info_json(self)
    }

    fn names_json(&self, name: Option<&str>) -> Option<String> {
        Engine::names_json(self, name)
    }

    fn page_html(&self, now: Now) -> String {
        Engine::page_html(self, now)
    }

    fn space_due(&self, now: Now) -> bool {
        Engine::space_due(self, now)
    }

    fn shortage(&self) -> Option<Shortage> {
        Engine::shortage(self)
    }
}

/// What the loop is told.
#[derive(Clone, Debug)]
pub struct LoopOptions {
    /// Where the own relay listens.
    pub listen: SocketAddr,
    /// Where metrics, health and status are served.
    pub admin_listen: SocketAddr,
    /// Whether relays at private addresses may be dialled.
    pub allow_private: bool,
    /// Ourselves: no relay may send us there.
    pub service: Service,
    /// Roots and protocol versions for `wss`; see [`crate::io::tls::client_config`].
    pub tls: Arc<ClientConfig>,
    /// Deadline for resolving, TCP, TLS and WebSocket together (`timing.connect_timeout`).
    pub connect_timeout: Duration,
    /// Client links at once (`limits.clients_max`).
    pub clients_max: usize,
    /// Of one account (`limits.clients_per_address`).
    pub clients_per_address: usize,
    /// Whether clients of this machine and relays at private addresses are free of what goes by address
    /// (`limits.loopback_exempt`).
    pub loopback_exempt: bool,
    /// Whose word it is that counts for whom they speak (`limits.trusted_proxies`).
    pub trusted_proxies: Vec<Network>,
    /// Memory that all links share (`limits.buffers_mib`).
    pub buffers_bytes: usize,
    /// Who knows the addresses of names.
    pub names: NameSource,
}

/// Who knows the addresses of names.
#[derive(Clone, Debug)]
pub enum NameSource {
    /// Whom the system asks: `/etc/hosts` and `/etc/resolv.conf`, read again when no server answers, at most once every
    /// [`crate::limits::RESOLVER_RELOAD_MIN`]: a machine may start before its network does, or move to another.
    System,
    /// These and no others.
    Fixed(ResolverConfig),
}

impl NameSource {
    fn read(&self) -> ResolverConfig {
        match self {
            NameSource::System => {
                ResolverConfig::from_system_files(Path::new("/etc/hosts"), Path::new("/etc/resolv.conf"))
            }
            NameSource::Fixed(config) => config.clone(),
        }
    }
}

/// Why the loop could not be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindError {
    /// `listen` cannot be listened on.
    Listen(SocketAddr, io::ErrorKind),
    /// `admin_listen` cannot be listened on.
    AdminListen(SocketAddr, io::ErrorKind),
    /// The system gave no poll, or would not have signals caught.
    System(io::ErrorKind),
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindError::Listen(address, kind) => write!(f, "cannot listen on {address} (`listen`): {kind}"),
            BindError::AdminListen(address, kind) => {
                write!(f, "cannot listen on {address} (`admin_listen`): {kind}")
            }
            BindError::System(kind) => write!(f, "cannot set up the event loop: {kind}"),
        }
    }
}

impl std::error::Error for BindError {}

/// Why the loop ended other than by a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunError {
    /// Polling failed.
    Poll(io::ErrorKind),
    /// The store failed; nothing of the last batch was acknowledged.
    Store(StoreError),
}

impl From<StoreError> for RunError {
    fn from(e: StoreError) -> Self {
        RunError::Store(e)
    }
}

/// Whether a turn is to be followed by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// Yes.
    On,
    /// No: a signal asked to stop.
    Stop,
}

/// The loop, bound to its addresses.
pub struct EventLoop {
    options: LoopOptions,
    clock: Clock,
    poll: Poll,
    events: Events,
    signals: Option<Signals>,
    /// Public, then admin.
    listeners: Vec<Listener>,
    resolver: Resolver,
    resolver_read: Instant,
    /// Who waits for which answer of the resolver.
    lookups: BTreeMap<LookupId, LinkId>,
    /// Answers that the resolver had at once; dialled in the next turn, as the others are.
    known_names: Vec<(LinkId, Answer)>,
    connections: Connections,
    proxies: Proxies,
    places: Places,
    pool: Pool<LinkId>,
    next_client: u64,
    /// Documents that were asked for, of which each turn answers one; those of [`Places::add_document`].
    documents: VecDeque<Document>,
    /// Links to be flushed at the end of the turn.
    touched: BTreeSet<usize>,
    /// Links that ended, of which the engine learns in the next turn: so it cannot make the loop go round within one.
    ended: Vec<(LinkId, CloseReason)>,
    /// What came of inquiries, likewise.
    inquired: Vec<(LinkId, Result<String, CloseReason>)>,
    /// Links whose queue has become empty, likewise.
    drained: Vec<LinkId>,
    last_commit_took: Duration,
    /// Processor time when the last turn ended; `None` before the first.
    spent: Option<Instant>,
    /// The disk that the store is on; `None` if it is on none.
    disk: Option<Disk>,
    /// One link's share of this turn.
    read_time: Duration,
    counters: Counters,
}

impl EventLoop {
    /// Listens on both addresses. Nobody is answered before the first turn.
    ///
    /// # Errors
    ///
    /// If an address cannot be had.
    pub fn bind(options: LoopOptions) -> Result<EventLoop, BindError> {
        let system = |e: io::Error| BindError::System(e.kind());
        let poll = Poll::new().map_err(system)?;
        let registry = poll.registry();
        let public = Listener::bind(registry, PUBLIC_TOKEN, Door::Public, options.listen)
            .map_err(|e| BindError::Listen(options.listen, e.kind()))?;
        let admin = Listener::bind(registry, ADMIN_TOKEN, Door::Admin, options.admin_listen)
            .map_err(|e| BindError::AdminListen(options.admin_listen, e.kind()))?;
        let doors =
            [&public, &admin].into_iter().map(Listener::local_addr).collect::<io::Result<_>>().map_err(system)?;
        let crowd = Crowd::new(doors, options.loopback_exempt);
        let resolver = Resolver::new(options.names.read(), RESOLVER_FIRST_TOKEN);
        Ok(EventLoop {
            clock: Clock::start(),
            poll,
            events: Events::with_capacity(EVENTS_PER_POLL),
            signals: None,
            listeners: vec![public, admin],
            resolver,
            resolver_read: Instant::ZERO,
            lookups: BTreeMap::new(),
            known_names: Vec::new(),
            proxies: Proxies::new(options.trusted_proxies.clone(), options.loopback_exempt),
            places: Places::new(options.clients_max, options.clients_per_address, options.loopback_exempt),
            pool: Pool::new(options.buffers_bytes),
            connections: Connections::new(crowd),
            next_client: 0,
            documents: VecDeque::new(),
            touched: BTreeSet::new(),
            ended: Vec::new(),
            inquired: Vec::new(),
            drained: Vec::new(),
            last_commit_took: Duration::ZERO,
            spent: None,
            disk: None,
            read_time: LINK_READ_TIME_PER_TURN,
            counters: Counters::default(),
            options,
        })
    }

    /// Catches SIGTERM and SIGINT, for the whole process: the first ends [`EventLoop::run`], a second the process. SIGHUP
    /// is ignored.
    ///
    /// # Errors
    ///
    /// If the system refuses.
    pub fn catch_signals(&mut self) -> Result<(), BindError> {
        let signals = Signals::catch(self.poll.registry(), SIGNALS_TOKEN).map_err(|e| BindError::System(e.kind()))?;
        self.signals = Some(signals);
        Ok(())
    }

    /// From now on the engine is told how much room there is for the store's file and on its disk.
    pub fn watch_disk(&mut self, disk: Disk) {
        self.disk = Some(disk);
    }

    /// Where the own relay listens, with the port that the system chose if it was asked to.
    pub fn local_addr(&self) -> SocketAddr {
        self.listeners[0].local_addr().unwrap_or(self.options.listen)
    }

    /// Where metrics, health and status are served, likewise.
    pub fn admin_addr(&self) -> SocketAddr {
        self.listeners[1].local_addr().unwrap_or(self.options.admin_listen)
    }

    /// This moment on the loop's clocks; the engine must be made with it.
    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// Turns until a signal asks to stop, then commits and takes leave of every link, within
    /// [`crate::limits::STOP_TIMEOUT`] unless the store is slow.
    ///
    /// # Errors
    ///
    /// If polling or the store fails.
    pub fn run(mut self, core: &mut impl Core) -> Result<(), RunError> {
        log::info!("own relay on ws://{}", self.local_addr());
        log::info!("metrics, health and status on http://{}", self.admin_addr());
        self.tell_space(core)?;
        while self.turn(core, None)? == Turned::On {}
        log::info!("stopping");
        self.stop(core)
    }

    /// One turn. Sleeps until something is due, at most for `wait_max` if that is given.
    ///
    /// # Errors
    ///
    /// As [`EventLoop::run`].
    pub fn turn(&mut self, core: &mut impl Core, wait_max: Option<Duration>) -> Result<Turned, RunError> {
        self.wait(core.next_deadline(), wait_max)?;
        let now = self.clock.now();
        if self.sort_events(now) {
            return Ok(Turned::Stop);
        }
        self.accept(now);
        self.resolve_on(now);
        self.take_addresses(now, core)?;
        while let Some(key) = self.connections.poll_expired(now.mono) {
            self.on_time(now, key, core)?;
        }
        self.drive_ready(now, core)?;
        self.answer_document(now, core)?;
        self.tell(core)?;
        core.handle(self.clock.now(), Input::Tick)?;
        let idle = self.connections.ready_len() == 0;
        let mut committing = Duration::ZERO;
        if core.commit_due(self.clock.now(), idle) {
            self.commit(core)?;
            committing = self.last_commit_took;
        } else if core.space_due(now) {
            self.tell_space(core)?;
        }
        self.carry_out(core);
        self.flush_touched();
        let took = self.clock.now().mono.since(now.mono + committing);
        self.counters.slow_turns += u64::from(took > TURN_SLOW);
        self.note_processor_time();
        Ok(Turned::On)
    }

    /// A turn has ended.
    fn note_processor_time(&mut self) {
        let spent = self.clock.processor_time();
        if let Some(before) = self.spent.replace(spent) {
            self.counters.longest_turn = self.counters.longest_turn.max(spent.since(before));
        }
    }

    /// Polls until an event, the nearest deadline, or at once if something is left to do.
    fn wait(&mut self, core_deadline: Option<Instant>, wait_max: Option<Duration>) -> Result<(), RunError> {
        let now = self.clock.now().mono;
        let is_busy = self.connections.ready_len() > 0
            || !self.ended.is_empty()
            || !self.inquired.is_empty()
            || !self.drained.is_empty()
            || !self.known_names.is_empty()
            || !self.documents.is_empty()
            || self.listeners.iter().any(|l| l.may_accept(now));
        let timeout = if is_busy {
            Some(Duration::ZERO)
        } else {
            let listeners = self.listeners.iter().filter_map(Listener::next_deadline);
            let own = [core_deadline, self.connections.next_deadline(), self.resolver.next_deadline()];
            let deadlines = own.into_iter().flatten().chain(listeners);
            let until = deadlines.min().map(|at| at.since(now));
            until.into_iter().chain(wait_max).min()
        };
        let timeout = timeout.map(|d| std::time::Duration::from_micros(d.as_micros()));
        self.counters.turns += 1;
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => Ok(()),
            // The signal that interrupted it, if it is one of ours, is found in its pipe by the next poll.
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                self.events.clear();
                Ok(())
            }
            Err(e) => Err(RunError::Poll(e.kind())),
        }
    }

    /// Puts every event where it will be looked at. True if a signal asks to stop.
    fn sort_events(&mut self, now: Now) -> bool {
        let mut stop = false;
        for event in &self.events {
            match event.token() {
                PUBLIC_TOKEN => self.listeners[0].on_ready(),
                ADMIN_TOKEN => self.listeners[1].on_ready(),
                SIGNALS_TOKEN => stop = self.signals.as_mut().is_some_and(Signals::ask_to_stop),
                token if self.resolver.owns(token) => self.resolver.on_ready(now, self.poll.registry(), token),
                token => {
                    if let Some(key) = Connections::key(token) {
                        self.connections.make_ready(key);
                    }
                }
            }
        }
        stop
    }

    /// Drives as many as were ready when the turn began, until the turn's share of messages and time is used up. What each
    /// wants done is done before the next, so that a hundred relays that open at once do not fill memory with their REQs.
    fn drive_ready(&mut self, now: Now, core: &mut impl Core) -> Result<(), RunError> {
        let ready = self.connections.ready_len();
        let until = self.clock.now().mono + READ_TIME_PER_TURN;
        self.read_time =
            LINK_READ_TIME_PER_TURN.min(Duration::from_micros(READ_TIME_PER_TURN.as_micros() / ready.max(1) as u64));
        let (mut reads, mut spent) = (0, self.clock.processor_time());
        for _ in 0..ready {
            if reads >= READS_PER_TURN || self.clock.now().mono >= until {
                break;
            }
            let Some(key) = self.connections.poll_ready() else { break };
            reads += self.drive(now, key, core)?;
            self.carry_out(core);
            let before = std::mem::replace(&mut spent, self.clock.processor_time());
            self.connections.note_used(key, spent.since(before));
        }
        Ok(())
    }

    /// Tells the engine what happened to links since it was last told.
    fn tell(&mut self, core: &mut impl Core) -> Result<(), RunError> {
        let now = self.clock.now();
        for link in std::mem::take(&mut self.drained) {
            if self.connections.find(link).is_some() {
                core.handle(now, Input::Drained { link })?;
            }
        }
        for (link, document) in std::mem::take(&mut self.inquired) {
            let document = document.as_deref().map_err(|reason| *reason);
            core.handle(now, Input::Info { link, document })?;
        }
        for (link, reason) in std::mem::take(&mut self.ended) {
            core.handle(now, Input::Closed { link, reason })?;
        }
        Ok(())
    }

    fn commit(&mut self, core: &mut impl Core) -> Result<(), RunError> {
        let before = self.clock.now();
        core.commit(before)?;
        let after = self.clock.now();
        self.last_commit_took = after.mono.since(before.mono);
        core.handle(after, Input::CommitTook(self.last_commit_took))?;
        self.tell_space(core)
    }

    fn tell_space(&mut self, core: &mut impl Core) -> Result<(), RunError> {
        if let Some(space) = self.disk.as_mut().and_then(Disk::space) {
            core.handle(self.clock.now(), Input::Space(space))?;
        }
        Ok(())
    }

    /// Stops reading, commits, closes every link with 1001 and waits a little for the peers to agree.
    fn stop(mut self, core: &mut impl Core) -> Result<(), RunError> {
        self.listeners.clear();
        // Whoever published what this commit holds is told so before the links are closed.
        self.commit(core)?;
        self.carry_out(core);
        core.handle(self.clock.now(), Input::Stop)?;
        self.commit(core)?;
        self.carry_out(core);
        self.flush_touched();
        self.drop_all_but_closing();
        // The engine is not told any more, so nobody would clear these, and the loop would not sleep.
        self.ended.clear();
        self.inquired.clear();
        self.drained.clear();
        self.known_names.clear();
        self.documents.clear();
        for lookup in std::mem::take(&mut self.lookups).into_keys() {
            self.resolver.cancel(self.clock.now(), self.poll.registry(), lookup);
        }
        let deadline = self.clock.now().mono + LINK_CLOSE_TIMEOUT;
        while !self.connections.is_empty() && self.clock.now().mono < deadline {
            self.wait(Some(deadline), None)?;
            // A second signal does not come this far: its handler has ended the process.
            self.sort_events(self.clock.now());
            for _ in 0..self.connections.ready_len() {
                if let Some(key) = self.connections.poll_ready() {
                    self.advance_close(key);
                }
            }
        }
        Ok(())
    }
}
