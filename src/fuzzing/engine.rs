//! The engine in a world whose every choice is a byte: what links do, what relays and clients say, how time goes, when the
//! disk fails and when the process ends. Whatever is chosen, [`checks`] must hold, time must not stand still without work,
//! what was acknowledged must survive, and the same bytes must give the same outputs.

mod checks;
mod pool;
mod talk;

use std::ops::ControlFlow;

use nostr::event::EventId;

use self::checks::Checks;
use self::pool::{BEGIN, DOMAIN, Pool};
use crate::contract::{CloseReason, Input, LinkId, Output};
use crate::engine::Engine;
use crate::intake::Rules;
use crate::limits::Limits;
use crate::protocol::event_id;
use crate::protocol::filter::Filter;
use crate::protocol::relay_url::{RelayUrl, Service};
use crate::protocol::repo::RepoAddr;
use crate::settings::Settings;
use crate::store::testing::Disk;
use crate::store::{Query, Seq, Store};
use crate::time::{Duration, Instant, Now, UnixTime};

/// Choices of one run. Beyond: the rest of the bytes is ignored.
const STEPS_MAX: usize = 256;
/// Ends of a process that may be chosen in one run: they cost the most.
const ENDS_MAX: usize = 5;
/// Bytes of redb's cache: little, so that a new store costs little.
const CACHE_BYTES: usize = 256 << 10;
/// Index entries that wait in memory.
const MEMTABLE_MAX: usize = 50;
/// Ticks in a row that may find nothing to do while the engine wants another at once.
const SILENT_TICKS_MAX: usize = 3;
/// Deadlines in a row that may pass without anything coming of it, and the least time they must take together.
const IDLE_DEADLINES: usize = 32;
const IDLE_SECS_MIN: u64 = 1;

/// Lengths of time, in milliseconds.
const LENGTHS: [u64; 16] = [
    0,
    1,
    50,
    200,
    1_000,
    5_000,
    6_000,
    30_000,
    60_000,
    65_000,
    90_000,
    600_000,
    3_600_000,
    86_400_000,
    90_000_000,
    2_592_000_000,
];
/// Seconds by which the wall clock jumps.
const JUMPS: [i64; 8] = [-1, 1, -901, 1_000, -86_400, 86_400, -40_000_000, 40_000_000];

/// What is made once: the pool, and a new store and one that holds some repos, as their disks.
struct Prepared {
    pool: Pool,
    disks: [Vec<u8>; 2],
}

/// The engine driven by bytes as the world's choices.
pub fn engine(data: &[u8]) {
    thread_local!(static PREPARED: Prepared = Prepared::new());
    let [disk, limits, choices @ ..] = data else { return };
    PREPARED.with(|prepared| {
        let told = || World::new(prepared, *disk & 1, *limits).run(choices);
        let first = told();
        // Twice costs twice: few runs do.
        assert!(*disk < 0xf0 || first == told(), "the same choices, but other outputs");
    });
}

impl Prepared {
    fn new() -> Prepared {
        let pool = Pool::new();
        let disks = [0, pool.prepared].map(|count| {
            let disk = Disk::default();
            let store = Store::open(disk.clone(), CACHE_BYTES).expect("memory works");
            let mut engine = Engine::new(store, settings(0), now_at(0, 0)).expect("memory works");
            for held in &pool.events[..count] {
                engine.import(now_at(0, 0), &held.json, Rules::All).expect("memory works");
            }
            engine.commit(now_at(0, 0)).expect("memory works");
            drop(engine);
            disk.bytes()
        });
        Prepared { pool, disks }
    }
}

/// Settings with limits that bind early or late.
fn settings(choice: u8) -> Settings {
    let flag = |bit: u8| choice >> bit & 1 == 1;
    let author = pool::author(2);
    Settings {
        bootstrap: vec![RelayUrl::parse("wss://boot.example").expect("a relay URL")],
        deny_authors: if flag(5) { vec![author] } else { Vec::new() },
        archive: if flag(6) { vec![RepoAddr { author, identifier: "foreign".to_owned() }] } else { Vec::new() },
        limits: Limits {
            consolidate_above_filters: if flag(0) { 4 } else { 70 },
            filter_values_max: if flag(1) { 2 } else { 100 },
            relays_max: if flag(2) { 2 } else { 1_024 },
            event_bytes_max: if flag(3) { 4_000 } else { 196_608 },
            clients_max: if flag(4) { 1 } else { 512 },
            ..Limits::default()
        },
        ..Settings::of(Service::parse(DOMAIN).expect("a service"))
    }
}

fn now_at(micros: u64, ahead: i64) -> Now {
    let wall = (BEGIN + micros / 1_000_000).saturating_add_signed(ahead);
    Now { mono: Instant::from_micros(micros), wall: UnixTime::from_secs(wall) }
}

struct World<'a> {
    prepared: &'a Prepared,
    choices: std::slice::Iter<'a, u8>,
    disk: Disk,
    settings: Settings,
    /// `None` only between two processes.
    engine: Option<Engine>,
    micros: u64,
    /// By how much the wall clock has jumped.
    ahead: i64,
    next_client: u64,
    ends: usize,
    checks: Checks,
    told: Vec<Output>,
}

impl<'a> World<'a> {
    fn new(prepared: &'a Prepared, disk: u8, limits: u8) -> World<'a> {
        let mut world = World {
            prepared,
            choices: [].iter(),
            disk: Disk::holding(prepared.disks[usize::from(disk)].clone()),
            settings: settings(limits),
            engine: None,
            micros: 0,
            ahead: 0,
            next_client: 0,
            ends: 0,
            checks: Checks::default(),
            told: Vec::new(),
        };
        world.start();
        world
    }

    fn run(mut self, choices: &'a [u8]) -> Vec<Output> {
        self.choices = choices.iter();
        for _ in 0..STEPS_MAX {
            let Some(choice) = self.choices.next() else { break };
            self.step(*choice);
            if let Some(engine) = &self.engine {
                engine.assert_invariants();
                assert_eq!(engine.faults(), 0, "a panic was caught");
            }
        }
        self.end();
        self.told
    }

    fn step(&mut self, choice: u8) {
        match choice % 24 {
            0..=2 => self.pass_deadlines(),
            3 => self.pass(),
            4 => self.open_links(),
            5 => self.lose_link(),
            6 | 7 => self.deliver(),
            8 => self.end_stored(),
            9..=11 => self.answer_all(),
            12 => self.refuse_subscription(),
            13 => self.give_notice(),
            14 => self.say_something_odd(),
            15 => self.add_client(),
            16 => self.client_asks(),
            17 => self.client_publishes(),
            18 => self.client_moves(),
            19 => self.commit(),
            20 => self.ahead += JUMPS[usize::from(self.byte() & 7)],
            21 if self.may_end() => self.restart(),
            22 if self.may_end() => self.fail_disk(),
            _ => {
                let now = self.now();
                let engine = self.engine();
                let (metrics, status) = (engine.metrics_text(), engine.status_json(now));
                assert!(metrics.contains("grasp_sync_relays"));
                assert!(serde_json::from_str::<serde_json::Value>(&status).is_ok_and(|status| status.is_object()));
            }
        }
    }

    /// The next choice; all are 0 when there are no more.
    fn byte(&mut self) -> u8 {
        self.choices.next().copied().unwrap_or(0)
    }

    /// One of `count` things, which are some.
    fn pick(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count
    }

    fn now(&self) -> Now {
        now_at(self.micros, self.ahead)
    }

    fn engine(&mut self) -> &mut Engine {
        self.engine.as_mut().expect("a process is running")
    }

    // The process.

    fn start(&mut self) {
        let store = Store::open(self.disk.clone(), CACHE_BYTES).expect("what was committed can be opened");
        let store = store.with_memtable_max(MEMTABLE_MAX);
        for id in &self.checks.acknowledged {
            let known = store.known(&event_id(id).expect("an id")).expect("memory works");
            let lasts = self.prepared.pool.events.iter().any(|held| held.lasts && held.event.id.to_hex() == *id);
            assert!(!lasts || known.is_some(), "lost, though it was acknowledged: {id}");
        }
        let engine = Engine::new(store, self.settings.clone(), self.now()).expect("what was committed can be read");
        self.engine = Some(engine);
        self.checks = std::mem::take(&mut self.checks).restarted();
    }

    /// Drops the process, on a disk that takes nothing more: closing the store in good order would cost time for nothing.
    fn end(&mut self) {
        self.disk.fail_after(0, std::io::ErrorKind::StorageFull);
        self.engine = None;
    }

    /// The process is gone; so is what was not committed.
    fn die(&mut self) {
        let left = Disk::holding(self.disk.bytes());
        self.end();
        self.disk = left;
        self.start();
    }

    /// Whether the process may be ended once more.
    fn may_end(&mut self) -> bool {
        self.ends += 1;
        self.ends <= ENDS_MAX
    }

    /// A kill, or an orderly end.
    fn restart(&mut self) {
        let how = self.byte();
        if how & 1 == 0 {
            return self.die();
        }
        self.input(Input::Stop);
        self.commit();
        let Checks { relays, inquiries, clients, .. } = &self.checks;
        let none = relays.is_empty() && inquiries.is_empty() && clients.is_empty();
        assert!(none, "every link is closed at the end");
        if how & 2 != 0 {
            self.settings = settings(self.byte());
        }
        self.die();
    }

    /// The disk takes a few more writes and then no more: the first error ends the process.
    fn fail_disk(&mut self) {
        let writes = self.byte();
        self.disk.fail_after(writes.into(), std::io::ErrorKind::StorageFull);
        self.commit();
        self.die();
    }

    fn input(&mut self, input: Input<'_>) {
        let now = self.now();
        match self.engine().handle(now, input) {
            Ok(()) => self.carry_out(),
            Err(_) => self.die(),
        }
    }

    fn commit(&mut self) {
        let now = self.now();
        match self.engine().commit(now) {
            // It would go on, and wait for room. Here it is killed instead: what waits was not acknowledged.
            Ok(()) if self.engine().shortage().is_some() => self.die(),
            Ok(()) => {
                self.checks.uncommitted.clear();
                self.carry_out();
                let took = Duration::from_millis(u64::from(self.byte() & 31));
                self.input(Input::CommitTook(took));
            }
            Err(_) => self.die(),
        }
    }

    fn carry_out(&mut self) {
        let now = self.now();
        while let Some(output) = self.engine().poll_output() {
            self.checks.judge(&output, now, &self.settings);
            self.told.push(output);
        }
    }

    /// Notes that an event is handed in: if it is not committed, nobody may be told that it is. Only a query tells, for
    /// what the store knows of an id is ahead by what the batch deletes.
    fn hand_in(&mut self, id: EventId) {
        let mut query = Query::new(Filter::from(nostr::filter::Filter::new().id(id)), Seq::MAX, 1);
        let mut is_committed = false;
        let note = &mut |_, _: &str| {
            is_committed = true;
            ControlFlow::Continue(())
        };
        self.engine().store().query(&mut query, UnixTime::EPOCH, 1, note).expect("memory works");
        if !is_committed {
            self.checks.uncommitted.insert(id.to_hex());
        }
    }

    // Time.

    fn pass(&mut self) {
        self.micros += LENGTHS[usize::from(self.byte() & 15)] * 1_000;
        self.input(Input::Tick);
    }

    /// Turns of the loop, each at the engine's next deadline.
    fn pass_deadlines(&mut self) {
        let turns = 1 + (self.byte() & 63);
        let (mut silent, mut idle, mut idle_since) = (0, 0, self.micros);
        for _ in 0..turns {
            let Some(deadline) = self.engine().next_deadline() else { return };
            self.micros = self.micros.max(deadline.as_micros());
            let told = self.told.len();
            self.input(Input::Tick);
            let now = self.now();
            let must_commit = self.engine().commit_due(now, true);
            if must_commit {
                self.commit();
            }
            if must_commit || self.told.len() > told {
                (silent, idle, idle_since) = (0, 0, self.micros);
                continue;
            }
            idle += 1;
            let is_due = self.engine().next_deadline().is_some_and(|at| at.as_micros() <= self.micros);
            silent = if is_due { silent + 1 } else { 0 };
            assert!(silent <= SILENT_TICKS_MAX, "due at once, again and again, and nothing comes of it");
            let took = self.micros - idle_since;
            assert!(idle < IDLE_DEADLINES || took >= IDLE_SECS_MIN * 1_000_000, "{idle} deadlines within {took} µs");
        }
    }

    // Links.

    /// Relays answer what they are asked about themselves, each in its way, and what is being dialled opens; of both,
    /// those that are chosen.
    fn open_links(&mut self) {
        const DOCUMENTS: [Result<&str, CloseReason>; 6] = [
            Err(CloseReason::Handshake(404)),
            Ok(
                r#"{"limitation":{"max_subscriptions":1,"max_limit":10},"supported_nips":[1,77],"supported_grasps":["x"]}"#,
            ),
            Ok("no document"),
            Ok(r#"{"limitation":{"max_message_length":1000,"max_subid_length":3,"auth_required":true}}"#),
            Err(CloseReason::TooLarge),
            Err(CloseReason::Peer(1006)),
        ];
        let which = self.byte();
        let asked: Vec<u64> = self.checks.inquiries.keys().copied().collect();
        for (n, bit) in asked.into_iter().zip((0..8).cycle()) {
            if which >> bit & 1 == 0 && self.checks.inquiries.remove(&n).is_some() {
                let document = DOCUMENTS[n as usize % DOCUMENTS.len()];
                self.input(Input::Info { link: LinkId::Relay(n), document });
            }
        }
        let dialling: Vec<u64> = self.checks.relays.iter().filter(|(_, far)| !far.is_open).map(|(n, _)| *n).collect();
        for (n, bit) in dialling.into_iter().zip((0..8).cycle()) {
            if which >> bit & 1 == 0
                && let Some(far) = self.checks.relays.get_mut(&n)
            {
                far.is_open = true;
                self.input(Input::Opened { link: LinkId::Relay(n) });
            }
        }
    }

    fn lose_link(&mut self) {
        const REASONS: [CloseReason; 6] = [
            CloseReason::Connect,
            CloseReason::Peer(1006),
            CloseReason::Handshake(429),
            CloseReason::Protocol,
            CloseReason::NoRoute,
            CloseReason::Timeout,
        ];
        let reason = REASONS[self.pick(REASONS.len())];
        let Checks { relays, inquiries, .. } = &self.checks;
        let numbers: Vec<u64> = relays.keys().chain(inquiries.keys()).copied().collect();
        if !numbers.is_empty() {
            let n = numbers[self.pick(numbers.len())];
            let link = LinkId::Relay(n);
            self.checks.relays.remove(&n);
            let input = match self.checks.inquiries.remove(&n) {
                Some(_) => Input::Info { link, document: Err(reason) },
                None => Input::Closed { link, reason },
            };
            self.input(input);
        }
    }
}
