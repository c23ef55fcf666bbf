//! The own relay's side of reconciliations (NIP-77): the crate's client with a model of both sets, through text messages and
//! against the protocol alone, and noise.

use std::collections::BTreeSet;
use std::rc::Rc;

use nostr::event::{Event, EventId};

use ::negentropy::{Id, Negentropy, NegentropyStorageVector};

use crate::limits::{CLIENT_FRAME_BYTES, Limits, Timing};
use crate::metrics::{Metrics, Side};
use crate::protocol::hex_bytes;
use crate::protocol::message::{RelayMessage, neg_msg_message, neg_open_message, parse_relay_message};
use crate::serve::reconcile::negentropy::answer;
use crate::serve::reconcile::table::{Table, View};
use crate::serve::{Serve, ServeOutput};
use crate::shares::Account;
use crate::store::testing::{Random, event};
use crate::store::{Change, SET_BLOCK_ITEMS, SetItem, Store};
use crate::time::{Instant, Now, UnixTime};

/// Events of a model through text messages: there are no more bytes in a message of the fuzzer's.
const EVENTS_MAX: usize = 512;
/// Items of a model against the protocol alone.
const ITEMS_MAX: u64 = 1 << 12;
/// Messages of one reconciliation: so many ranges cannot be told apart one by one.
const ROUNDS_MAX: usize = 4_096;
const CLIENT: u64 = 1;

/// The first byte says what: noise for the protocol, noise for a client's session, sets in text, or sets alone.
pub fn neg_server(data: &[u8]) {
    let [how, data @ ..] = data else { return };
    match how % 4 {
        0 => noise(data),
        1 => session_noise(data),
        2 => by_text(data),
        _ => by_protocol(data),
    }
}

/// Whatever comes is answered within the frame, or refused.
fn noise(data: &[u8]) {
    let [seed, data @ ..] = data else { return };
    let mut random = Random(u64::from(*seed));
    let view = view_of(&items(&mut random, 40 * u64::from(*seed), 9));
    let message = [&[0x61], data].concat();
    for message in [&message, data] {
        if let Ok(answer) = answer(&view, message, 4_096) {
            assert!(!answer.is_empty() && answer.len() <= 4_096);
        }
    }
}

/// Lines of a client, among events and time: each that names a reconciliation has an answer or an end.
fn session_noise(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut world = World::new(&[]);
    for (n, line) in text.lines().take(64).enumerate() {
        if line.is_empty() {
            let stored = event(1, 1, n as u64, &[], line);
            world.store.stage(stored).expect("memory works");
            let stored = world.store.commit().expect("memory works");
            world.serve.on_committed(stored, &world.store, &mut world.metrics).expect("memory works");
            world.now.mono = world.now.mono + crate::time::Duration::from_secs(7);
        }
        world.say(line);
    }
    world.serve.on_closed(CLIENT);
    assert_eq!((world.serve.reconciliations(), world.metrics.faults.count(Side::Client)), (0, 0));
}

/// Two bytes an event: its second, and who has it.
fn by_text(data: &[u8]) {
    let [kinds, data @ ..] = data else { return };
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for (n, bytes) in data.chunks_exact(2).take(EVENTS_MAX).enumerate() {
        let event =
            event(bytes[1] >> 4, 1 + u16::from(bytes[1] >> 2 & 1), u64::from(bytes[0] & 31), &[], &n.to_string());
        if bytes[1] & 3 != 1 {
            theirs.push(event.clone());
        }
        if bytes[1] & 3 != 2 {
            ours.push(event);
        }
    }
    let filters = ["{}", r#"{"kinds":[1,2]}"#, r#"{"since":0}"#, r#"{"kinds":[1,2],"since":0,"until":99}"#];
    let mut world = World::new(&ours);
    // The second time the set is there already.
    for _ in 0..2 {
        let (have, need) = world.reconcile(filters[usize::from(*kinds) % filters.len()], &theirs);
        assert_eq!(have, ids(&theirs).difference(&ids(&ours)).copied().collect());
        assert_eq!(need, ids(&ours).difference(&ids(&theirs)).copied().collect());
    }
    world.serve.assert_invariants();
}

/// Sets from a seed, of sizes and in frames as the bytes say; ours comes about by changes to another.
fn by_protocol(data: &[u8]) {
    let [seed, both, only, seconds, frames, ..] = *data else { return };
    let mut random = Random(u64::from(seed));
    let seconds = 1 + u64::from(seconds);
    let shared = items(&mut random, (u64::from(both) * u64::from(both)) % ITEMS_MAX, seconds);
    let mut theirs = items(&mut random, 8 * u64::from(only >> 4), seconds);
    let only_ours = items(&mut random, 8 * u64::from(only & 15), seconds);
    theirs.extend(&shared);
    let change = |item: &SetItem, is_added| Change { item: *item, kind: 1, is_added };
    let changes = only_ours.iter().map(|item| change(item, true)).collect::<Vec<_>>();
    let gone = items(&mut random, 9, seconds);
    let mut ours = table_of(&shared.union(&gone).copied().collect()).changed(&changes).0;
    ours = ours.changed(&gone.iter().map(|item| change(item, false)).collect::<Vec<_>>()).0;
    ours.assert_invariants();
    let view = View::within(Rc::new(ours), 0, u64::MAX);
    let frame = |n: u8| [4_096, 4_500, 10_000, CLIENT_FRAME_BYTES][usize::from(n & 3)];
    let storage = storage_of(theirs.iter().map(|item| (item.created_at, item.id)));
    let mut client = Negentropy::borrowed(&storage, frame(frames) as u64).expect("large enough a frame");
    let (mut have, mut need) = (Vec::new(), Vec::new());
    let mut message = client.initiate().expect("the first time");
    for _ in 0..ROUNDS_MAX {
        let answer = answer(&view, &message, frame(frames >> 2)).expect("the crate's client is understood");
        assert!(answer.len() <= frame(frames >> 2));
        match client.reconcile_with_ids(&answer, &mut have, &mut need).expect("it understands us") {
            Some(next) => message = next,
            None => {
                let set = |ids: Vec<Id>| ids.iter().map(|id| id.to_bytes()).collect::<BTreeSet<_>>();
                let of = |items: &BTreeSet<SetItem>| items.iter().map(|item| item.id).collect::<BTreeSet<_>>();
                theirs.retain(|item| !shared.contains(item));
                assert_eq!((set(have), set(need)), (of(&theirs), of(&only_ours)));
                return;
            }
        }
    }
    panic!("it never ends");
}

fn items(random: &mut Random, n: u64, seconds: u64) -> BTreeSet<SetItem> {
    let mut item = || {
        let mut id = [0; 32];
        id.chunks_exact_mut(8).for_each(|lane| lane.copy_from_slice(&random.next().to_le_bytes()));
        SetItem { created_at: random.below(seconds), id }
    };
    (0..n).map(|_| item()).collect()
}

fn table_of(items: &BTreeSet<SetItem>) -> Table {
    let items: Vec<SetItem> = items.iter().copied().collect();
    Table::new(items.chunks(SET_BLOCK_ITEMS).map(Rc::from))
}

fn view_of(items: &BTreeSet<SetItem>) -> View {
    View::within(Rc::new(table_of(items)), 0, u64::MAX)
}

fn storage_of(items: impl Iterator<Item = (u64, [u8; 32])>) -> NegentropyStorageVector {
    let mut storage = NegentropyStorageVector::new();
    items.for_each(|(at, id)| storage.insert(at, Id::from_byte_array(id)).expect("it is not sealed"));
    storage.seal().expect("it is not sealed");
    storage
}

fn ids(events: &[Event]) -> BTreeSet<EventId> {
    events.iter().map(|event| event.id).collect()
}

struct World {
    serve: Serve,
    store: Store,
    metrics: Metrics,
    now: Now,
}

impl World {
    fn new(events: &[Event]) -> World {
        let mut store = Store::in_memory();
        events.iter().for_each(|event| drop(store.stage(event.clone()).expect("memory works")));
        store.commit().expect("memory works");
        let (mut serve, mut metrics) = (Serve::new(&Limits::default(), &Timing::default()), Metrics::default());
        let now = Now { mono: Instant::ZERO, wall: UnixTime::from_secs(1_000_000) };
        serve.on_accepted(now, CLIENT, Account::of([192, 0, 2, 1].into()), &mut metrics);
        World { serve, store, metrics, now }
    }

    /// Says something, and hears everything there is to be heard.
    fn say(&mut self, text: &str) -> Vec<String> {
        self.serve.on_text(self.now, CLIENT, text, &self.store, &mut self.metrics);
        let mut heard = Vec::new();
        loop {
            let more = self.serve.step(self.now, &self.store, &mut self.metrics).expect("memory works");
            while let Some(output) = self.serve.poll_output() {
                if let ServeOutput::Send { text, .. } = output {
                    heard.push(text);
                }
            }
            self.serve.on_drained(CLIENT);
            if !more && !self.serve.has_work() {
                return heard;
            }
        }
    }

    fn reconcile(&mut self, filter: &str, theirs: &[Event]) -> (BTreeSet<EventId>, BTreeSet<EventId>) {
        let storage = storage_of(theirs.iter().map(|event| (event.created_at.as_secs(), event.id.to_bytes())));
        let mut client = Negentropy::borrowed(&storage, 0).expect("any frame");
        let (mut have, mut need) = (Vec::new(), Vec::new());
        let first = client.initiate().expect("the first time");
        let mut text = neg_open_message("n", filter, &faster_hex::hex_string(&first));
        for _ in 0..ROUNDS_MAX {
            let heard = self.say(&text);
            let Ok(RelayMessage::NegMsg { payload, .. }) = parse_relay_message(&heard[0]) else { panic!("{heard:?}") };
            let answer = hex_bytes(&payload).expect("hexadecimal");
            match client.reconcile_with_ids(&answer, &mut have, &mut need).expect("it understands us") {
                Some(next) => text = neg_msg_message("n", &faster_hex::hex_string(&next)),
                None => {
                    let set = |ids: Vec<Id>| ids.iter().map(|id| EventId::from_byte_array(id.to_bytes())).collect();
                    return (set(have), set(need));
                }
            }
        }
        panic!("it never ends");
    }
}
