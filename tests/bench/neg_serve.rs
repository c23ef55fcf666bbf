//! The own relay's side of reconciliations (NIP-77) and COUNT (NIP-45), driven as the loop drives it: what an answer costs,
//! what goes over the wire, and how long one turn of it keeps everybody else.

use super::common::{Bench, mib, note};
use super::engine::store_in;
use crate::support::process::{TempDir, cpu_time_of_thread, resident_bytes};
use grasp_sync::limits::{Limits, Timing};
use grasp_sync::metrics::Metrics;
use grasp_sync::serve::{Serve, ServeOutput};
use grasp_sync::shares::Account;
use grasp_sync::store::Store;
use grasp_sync::time::{Instant, Now, UnixTime};
use negentropy::{Id, Negentropy, NegentropyStorageVector};
use nostr::event::{Event, Kind, Signature, Tag, UnsignedEvent};
use nostr::key::PublicKey;
use nostr::types::Timestamp;
use std::collections::BTreeMap;
use std::time::Duration;

const SOME: usize = 100_000;
const MANY: usize = 1_000_000;
const CLIENTS: u64 = 50;
const COUNTING: u64 = 100;
/// Of so many events one is missing.
const MISSING_ONE_IN: usize = 100;
/// Events of one commit.
const BATCH: usize = 4_000;
/// What one turn of the loop may take.
const TURN: Duration = Duration::from_millis(50);
/// Fingerprints in the longest message that a client can send.
const FINGERPRINTS_MAX: u16 = 24_000;

pub fn run(bench: &mut Bench) {
    let mut longest = with_events(bench, SOME, true);
    longest = longest.max(with_events(bench, MANY, false));
    let row = format!("neg-serve: no turn takes longer than {:.1} ms (at most 50)", millis(longest));
    bench.check(longest <= TURN, &row);
}

/// All questions over a store of so many events. Returns the longest turn.
fn with_events(bench: &mut Bench, count: usize, is_claim: bool) -> Duration {
    let dir = TempDir::new("neg-serve");
    let (store, held) = fill(&dir, count);
    let before = resident_bytes("self");
    let mut world = World::new(store);
    note(&format!("{count} events:"));
    let some: Vec<(u64, [u8; 32])> =
        held.iter().enumerate().filter(|(n, _)| n % MISSING_ONE_IN != 0).map(|(_, item)| *item).collect();
    let mut newest = held.clone();
    newest.sort_unstable();
    newest.truncate(count - count / MISSING_ONE_IN);
    let mut clients = [held.clone(), some, Vec::new(), newest].map(|items| storage_of(&items));
    let cold = world.reconcile(&[(1, &clients[0])], "{}");
    cold.print("identical, the set is not ready");
    let identical = world.reconcile(&[(1, &clients[0])], "{}");
    identical.print("identical");
    let missing = world.reconcile(&[(1, &clients[3])], "{}");
    missing.print("the newest 1 % missing");
    world.reconcile(&[(1, &clients[1])], "{}").print("1 % missing here and there");
    world.reconcile(&[(1, &clients[2])], "{}").print("an empty client");
    world.reconcile(&[(1, &clients[1])], r#"{"since":1}"#).print("1 % missing, a part of the set");
    let mut author = PublicKey::from_byte_array([1; 32]).to_hex();
    author = format!(r#"{{"authors":["{author}"]}}"#);
    world.reconcile(&[(1, &clients[2])], &author).print("an empty client, one author of ten");
    let many: Vec<(u64, &NegentropyStorageVector)> =
        (1..=CLIENTS).map(|client| (client, &clients[client as usize % 3])).collect();
    world.reconcile(&many, "{}").print("50 clients at once");
    world.longest_message();
    world.count_by_many(count);
    let ready = world.serve.ready_bytes();
    clients = [(); 4].map(|()| storage_of(&[]));
    drop(clients);
    note(&format!(
        "the set takes {:.1} MiB, {:.1} bytes an event; resident {:.1} MiB more than before, with what clients have",
        mib(ready as u64),
        ready as f64 / count as f64,
        mib(resident_bytes("self").saturating_sub(before))
    ));
    if is_claim {
        let row = format!(
            "neg-serve: identical {count}: {} bytes on the wire, {:.3} ms (at most 1,000 and 10)",
            identical.bytes,
            millis(identical.wall)
        );
        bench.check(identical.bytes <= 1_000 && identical.wall <= Duration::from_millis(10), &row);
        let row = format!("neg-serve: the newest 1 % of {count} missing: {} bytes (at most 100,000)", missing.bytes);
        bench.check(missing.bytes <= 100_000, &row);
    }
    world.longest
}

/// Events without a signature to speak of, which the store does not ask for.
fn fill(dir: &TempDir, count: usize) -> (Store, Vec<(u64, [u8; 32])>) {
    let mut store = store_in(&dir.path().join("store.redb"));
    let mut held = Vec::with_capacity(count);
    for n in 0..count {
        let author = PublicKey::from_byte_array([(n % 10) as u8; 32]);
        let created_at = 1_600_000_000 + (n as u64 * 7_919) % 100_000_000;
        let tags = [Tag::parse(["t", if n % 1_000 == 0 { "rare" } else { "often" }]).expect("a tag")];
        let kind = Kind::from_u16(if n % 3 == 0 { 1_621 } else { 1_111 });
        let mut unsigned = UnsignedEvent::new(author, Timestamp::from_secs(created_at), kind, tags, n.to_string());
        let id = unsigned.id();
        let sig = Signature::from_byte_array([0; 64]);
        let UnsignedEvent { created_at: at, kind, tags, content, .. } = unsigned;
        store.stage(Event::new(id, author, at, kind, tags, content, sig)).expect("the store works");
        held.push((created_at, id.to_bytes()));
        if n % BATCH == BATCH - 1 {
            store.commit().expect("the store works");
        }
    }
    store.commit().expect("the store works");
    (store, held)
}

fn storage_of(items: &[(u64, [u8; 32])]) -> NegentropyStorageVector {
    let mut storage = NegentropyStorageVector::with_capacity(items.len());
    items.iter().for_each(|(at, id)| storage.insert(*at, Id::from_byte_array(*id)).expect("it is not sealed"));
    storage.seal().expect("it is not sealed");
    storage
}

/// What a question took here, clients left out.
struct Took {
    clients: u64,
    wall: Duration,
    cpu: Duration,
    bytes: usize,
    rounds: usize,
    found: usize,
    longest: Duration,
}

impl Took {
    fn print(&self, what: &str) {
        let Took { wall, cpu, bytes, rounds, found, longest, clients } = self;
        note(&format!(
            "  {what:<34} {:>8.1} ms, {:>8.2} of processor, {:>5} rounds, {:>10} bytes beside events, {:>8} differ{}; longest turn {:.2} ms",
            millis(*wall),
            millis(*cpu),
            rounds,
            bytes,
            found,
            if *clients > 1 { " in all" } else { "" },
            millis(*longest)
        ));
    }
}

/// The own relay, and its clients.
struct World {
    serve: Serve,
    store: Store,
    metrics: Metrics,
    now: Now,
    cpu: Duration,
    wall: Duration,
    longest: Duration,
    longest_now: Duration,
    sent: BTreeMap<u64, Vec<String>>,
}

impl World {
    fn new(store: Store) -> World {
        let (mut serve, mut metrics) = (Serve::new(&Limits::default(), &Timing::default()), Metrics::default());
        let now = Now { mono: Instant::ZERO, wall: UnixTime::from_secs(1_800_000_000) };
        for client in 1..=CLIENTS.max(COUNTING) {
            serve.on_accepted(now, client, Account::of([127, 0, 0, 1].into()), &mut metrics);
        }
        World {
            serve,
            store,
            metrics,
            now,
            cpu: Duration::ZERO,
            wall: Duration::ZERO,
            longest: Duration::ZERO,
            longest_now: Duration::ZERO,
            sent: BTreeMap::new(),
        }
    }

    fn timed(&mut self, act: impl FnOnce(&mut World)) {
        let (cpu, begun) = (cpu_time_of_thread("thread-self"), std::time::Instant::now());
        act(self);
        let took = begun.elapsed();
        self.wall += took;
        self.cpu += cpu_time_of_thread("thread-self") - cpu;
        self.longest_now = self.longest_now.max(took);
        self.longest = self.longest.max(took);
    }

    fn say(&mut self, client: u64, text: &str) {
        self.timed(|world| {
            world.serve.on_text(world.now, client, text, &world.store, &mut world.metrics);
        });
    }

    /// One turn of the loop. Whether there is more to do.
    fn turn(&mut self) -> bool {
        self.timed(|world| _ = world.serve.step(world.now, &world.store, &mut world.metrics).expect("the store works"));
        while let Some(output) = self.serve.poll_output() {
            if let ServeOutput::Send { client, text } = output {
                self.serve.on_drained(client);
                self.sent.entry(client).or_default().push(text);
            }
        }
        self.serve.has_work()
    }

    fn begin(&mut self) {
        (self.cpu, self.wall, self.longest_now) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    }

    fn reconcile(&mut self, clients: &[(u64, &NegentropyStorageVector)], filter: &str) -> Took {
        self.begin();
        let (mut bytes, mut rounds, mut found) = (0, 0, 0);
        let mut open = BTreeMap::new();
        for (client, storage) in clients {
            let mut theirs = Negentropy::borrowed(*storage, 60_000).expect("large enough a frame");
            let first = hex(&theirs.initiate().expect("the first time"));
            let text = format!(r#"["NEG-OPEN","n",{filter},"{first}"]"#);
            bytes += text.len();
            self.say(*client, &text);
            open.insert(*client, theirs);
        }
        while !open.is_empty() {
            self.turn();
            for (client, texts) in std::mem::take(&mut self.sent) {
                for text in texts {
                    bytes += text.len();
                    rounds += 1;
                    let payload = text.split('"').nth(5).filter(|_| text.starts_with(r#"["NEG-MSG""#));
                    let payload = bytes_of(payload.unwrap_or_else(|| panic!("{text}")));
                    let theirs = open.get_mut(&client).expect("it asks");
                    let (mut have, mut need) = (Vec::new(), Vec::new());
                    let next = theirs.reconcile_with_ids(&payload, &mut have, &mut need).expect("it understands us");
                    found += have.len() + need.len();
                    let text = match next {
                        Some(next) => format!(r#"["NEG-MSG","n","{}"]"#, hex(&next)),
                        None => {
                            open.remove(&client);
                            r#"["NEG-CLOSE","n"]"#.to_owned()
                        }
                    };
                    bytes += text.len();
                    self.say(client, &text);
                }
            }
        }
        let clients = clients.len() as u64;
        Took { clients, wall: self.wall, cpu: self.cpu, bytes, rounds, found, longest: self.longest_now }
    }

    /// As many fingerprints as a message has room for, all of them right, so that nothing is cut: of ranges within one
    /// second, most of them empty.
    fn longest_message(&mut self) {
        self.begin();
        let empty = ring::digest::digest(&ring::digest::SHA256, &[0; 33]);
        let empty = hex(&empty.as_ref()[..16]);
        let ranges = (0..FINGERPRINTS_MAX).map(|n| format!("0102{n:04x}01{empty}"));
        let message = format!("61{}0000{}", number(1_650_000_001), ranges.collect::<String>());
        self.say(1, &format!(r#"["NEG-OPEN","n",{{}},"{message}"]"#));
        while self.turn() {}
        let same: String = self.sent.remove(&1).unwrap_or_default().concat();
        note(&format!(
            "  {:<34} {:>8.1} ms, {:>8.2} of processor, answer of {} bytes; longest turn {:.2} ms",
            format!("{FINGERPRINTS_MAX} fingerprints in a message"),
            millis(self.wall),
            millis(self.cpu),
            same.len(),
            millis(self.longest_now)
        ));
        self.say(1, r#"["NEG-CLOSE","n"]"#);
    }

    fn count_by_many(&mut self, count: usize) {
        self.begin();
        for client in 1..=COUNTING {
            self.say(client, r#"["COUNT","c",{}]"#);
        }
        while self.turn() {}
        let answer = format!(r#"["COUNT","c",{{"count":{count}}}]"#);
        assert!(self.sent.values().all(|texts| *texts == [answer.clone()]) && self.sent.len() as u64 == COUNTING);
        self.sent.clear();
        note(&format!(
            "  {:<34} {:>8.1} ms, {:>8.2} of processor; longest turn {:.2} ms",
            format!("COUNT of everything by {COUNTING} clients"),
            millis(self.wall),
            millis(self.cpu),
            millis(self.longest_now)
        ));
    }
}

/// A number of the protocol, in hexadecimal.
fn number(number: u64) -> String {
    let digits = (u64::BITS - number.leading_zeros()).div_ceil(7).max(1);
    let byte = |nth: u32| (number >> (7 * nth)) as u8 & 0x7f | if nth > 0 { 0x80 } else { 0 };
    (0..digits).rev().map(|nth| format!("{:02x}", byte(nth))).collect()
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |digit: u8| char::from(DIGITS[usize::from(digit)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digit = |digit: u8| if digit <= b'9' { digit - b'0' } else { digit - b'a' + 10 };
    hex.as_bytes().chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn millis(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}
