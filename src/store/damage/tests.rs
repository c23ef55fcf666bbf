//! One byte of a store's file is changed, wherever it is: nothing is served that was not stored, nothing is missing
//! unnoticed, and nothing panics.

use super::pages::{HEADER_LEN, Header};
use super::*;
use crate::protocol::relay_url::RelayUrl;
use crate::protocol::repo::RepoAddr;
use crate::store::testing::{Disk, Random};
use crate::store::{IdSearch, IdStep, Known, Pages, Progress, Query, QueryStep, Selection, Store, StoreError, Verdict};
use crate::store::{check_pages, salvage};
use crate::time::UnixTime;
use nostr::event::{Event, Kind, Signature, Tag, UnsignedEvent};
use nostr::filter::{Filter, SingleLetterTag};
use nostr::key::PublicKey;
use nostr::types::Timestamp;
use secp256k1::{Keypair, Message, Secp256k1};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};

const CACHE: usize = 1 << 20;
const KINDS: [u16; 8] = [0, 5, 1_111, 1_617, 1_621, 10_002, 30_617, 30_618];
/// Flips all over the file, and flips of bytes that are not zero, which most unused ones are.
const FLIPS: u64 = 300;
const FULL_CATCHUP: UnixTime = UnixTime::from_secs(900);

/// A signed event.
pub(in crate::store) fn signed(author: u8, kind: u16, created_at: u64, tags: &[[&str; 2]], content: &str) -> Event {
    let context = Secp256k1::new();
    let pair = Keypair::from_seckey_slice(&context, &[author; 32]).unwrap();
    let key = PublicKey::from_byte_array(pair.x_only_public_key().0.serialize());
    let tags = tags.iter().map(|tag| Tag::parse(*tag).unwrap());
    let mut unsigned = UnsignedEvent::new(key, Timestamp::from_secs(created_at), Kind::from_u16(kind), tags, content);
    let id = unsigned.id();
    let signature = context.sign_schnorr_with_aux_rand(Message::from_digest(id.to_bytes()).as_ref(), &pair, &[7; 32]);
    let sig = Signature::from_byte_array(signature.to_byte_array());
    Event::new(id, key, unsigned.created_at, unsigned.kind, unsigned.tags, unsigned.content, sig)
}

/// Events of all kinds: some expire, one is larger than a page, some are deleted before and after.
fn events() -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    for n in 0..240_u64 {
        let (author, number) = (1 + (n % 7) as u8, n.to_string());
        let kind = KINDS[(n % 8) as usize];
        let before = n.checked_sub(9).map_or_else(|| "a".repeat(64), |n| events[n as usize].id.to_hex());
        let mut tags = vec![["d", &*number], ["e", &*before], ["t", "x"]];
        if n % 11 == 0 {
            tags.push(["expiration", "5000"]);
        }
        let content = if n == 100 { "large ".repeat(4_000) } else { format!("content of event {n} ").repeat(12) };
        events.push(signed(author, kind, 1_000 + n, &tags, &content));
    }
    events
}

/// A store of them that was closed, and the events that it holds.
fn filled() -> (Vec<u8>, Vec<Event>) {
    let disk = Disk::default();
    let mut store = Store::open(disk.clone(), CACHE).unwrap();
    for (n, event) in events().into_iter().enumerate() {
        if store.verdict(&event) == Ok(Verdict::Fresh) {
            store.stage(event).unwrap();
        }
        if n % 60 == 0 {
            store.commit().unwrap();
        }
    }
    let relay = RelayUrl::parse("wss://relay.example").unwrap();
    let repo = RepoAddr::parse(&format!("30617:{}:repo", "ab".repeat(32))).unwrap();
    store.stage_progress(Progress::Relay {
        relay: relay.clone(),
        through: UnixTime::from_secs(950),
        full_catchup: FULL_CATCHUP,
    });
    store.stage_progress(Progress::Budget { relay: relay.clone(), record: "{}".into() });
    store.stage_progress(Progress::Confirmed { relay, repo, seq: 100 });
    store.commit().unwrap();
    let mut held = Vec::new();
    store
        .for_each(&mut |_, json| {
            held.push(crate::store::schema::parse(json).unwrap());
            ControlFlow::Continue(())
        })
        .unwrap();
    store.close().unwrap();
    (disk.bytes(), held)
}

/// What one flip has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Harmless,
    /// The store says that it is damaged.
    Refused,
    /// Some events were noticed, forgotten, and taken in again.
    Healed,
}

/// Asks for all events in every way.
fn served(store: &Store, held: &[Event]) -> Result<Vec<BTreeSet<EventId>>, StoreError> {
    let authors: BTreeSet<PublicKey> = held.iter().map(|event| event.pubkey).collect();
    let tag = SingleLetterTag::from_char('t').unwrap();
    let filters = [
        Filter::new(),
        Filter::new().ids(held.iter().map(|event| event.id)),
        Filter::new().kinds(KINDS.map(Kind::from_u16)),
        Filter::new().authors(authors),
        Filter::new().custom_tag(tag, "x"),
    ];
    filters.iter().map(|filter| answer(store, filter, held)).collect()
}

fn answer(store: &Store, filter: &Filter, held: &[Event]) -> Result<BTreeSet<EventId>, StoreError> {
    let mut query = Query::new(crate::protocol::filter::Filter::from(filter.clone()), store.last_seq(), usize::MAX);
    let mut ids = BTreeSet::new();
    let mut take = |_, json: &str| {
        let event: Event = crate::store::schema::parse(json).expect("what is served is an event");
        assert!(held.contains(&event), "what is served was stored");
        assert!(ids.insert(event.id), "and is served once");
        ControlFlow::Continue(())
    };
    let step = store.query(&mut query, UnixTime::EPOCH, usize::MAX, &mut take)?;
    assert_eq!(step, QueryStep::Done);
    Ok(ids)
}

/// Opens what a flip has left, reads it in every way, and puts it right where it can be.
fn examine(disk: &Disk, held: &[Event]) -> Result<End, StoreError> {
    let mut store = Store::open(disk.clone(), CACHE)?;
    let answers = served(&store, held)?;
    let progress = store.progress()?;
    store.next_expiration()?;
    let mut selected = BTreeSet::new();
    let mut search = IdSearch::new(Selection::all(), usize::MAX);
    let end = search.step(&store, UnixTime::EPOCH, usize::MAX, &mut |found| _ = selected.insert(found.id))?;
    assert_eq!(end, IdStep::Whole);
    let whole: BTreeSet<EventId> = held.iter().map(|event| event.id).collect();
    if answers.iter().all(|answer| *answer == whole) && !store.damage_found() {
        assert_eq!((selected, progress.len()), (whole, 3));
        store.close()?;
        return Ok(End::Harmless);
    }
    assert!(store.damage_found(), "nothing is missing unnoticed");
    store.forget_damaged()?;
    store.commit()?;
    let lost: Vec<&Event> = held.iter().filter(|event| store.known(&event.id) == Ok(None)).collect();
    let known: BTreeSet<EventId> =
        whole.iter().filter(|id| matches!(store.known(id), Ok(Some(Known::Stored { .. })))).copied().collect();
    assert_eq!(lost.len() + known.len(), held.len());
    for answer in served(&store, held)? {
        assert_eq!(answer, known, "what is known is served, in every way");
    }
    store.assert_invariants()?;
    let records: Vec<Progress> = store.progress()?;
    assert!(
        records.iter().any(|record| matches!(record, Progress::Relay { full_catchup: UnixTime::EPOCH, .. })),
        "everything is asked for again: {records:?}"
    );
    for event in lost {
        assert_eq!(store.verdict(event), Ok(Verdict::Fresh), "it may come again");
        store.stage(event.clone())?;
    }
    store.commit()?;
    store.assert_invariants()?;
    store.close()?;
    let store = Store::open(disk.clone(), CACHE)?;
    assert!(served(&store, held)?.iter().all(|answer| *answer == whole), "everything is there again");
    assert!(!store.damage_found());
    assert!(store.verify()?.is_sound());
    Ok(End::Healed)
}

fn reader(bytes: &[u8]) -> impl Fn(u64, &mut [u8]) -> Result<(), std::io::Error> {
    |at, out| {
        let from = at as usize;
        out.copy_from_slice(bytes.get(from..from + out.len()).ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

fn pages_of(bytes: &[u8]) -> Pages {
    check_pages(&reader(bytes), bytes.len() as u64).unwrap()
}

/// What a salvage gives: stored events only. How many are lost, and whether that can be told.
fn salvaged(bytes: &[u8], held: &[Event]) -> (BTreeSet<EventId>, usize, bool) {
    let mut ids = BTreeSet::new();
    let found = salvage(&reader(bytes), bytes.len() as u64, &mut |_, json| {
        let event: Event = crate::store::schema::parse(json).expect("an event");
        assert!(event.verify().is_ok());
        ids.insert(event.id);
        ControlFlow::Continue(())
    })
    .unwrap();
    if !found.may_be_more {
        assert!(ids.iter().all(|id| held.iter().any(|event| event.id == *id)), "nothing that was given up comes back");
    }
    (ids, found.lost.len(), found.may_be_more)
}

fn flip(bytes: &[u8], at: usize, random: &mut Random) -> Vec<u8> {
    let mut flipped = bytes.to_vec();
    flipped[at] ^= 1 + random.below(255) as u8;
    flipped
}

fn end_of(flipped: &[u8], at: usize, held: &[Event]) -> End {
    let disk = Disk::holding(flipped.to_vec());
    let end = catch_unwind(AssertUnwindSafe(|| examine(&disk, held)));
    match end.unwrap_or_else(|_| panic!("byte {at}")) {
        Ok(end) => end,
        Err(StoreError::Corrupt | StoreError::NotAStore) => End::Refused,
        Err(error) => panic!("byte {at}: {error}"),
    }
}

#[test]
fn no_byte_of_the_file_is_served_changed_or_leaves_a_hole() {
    let (bytes, held) = filled();
    assert!(pages_of(&bytes).is_sound());
    assert_eq!(salvaged(&bytes, &held), (held.iter().map(|event| event.id).collect(), 0, false));
    let mut random = Random(17);
    let part = bytes.len() as u64 / FLIPS;
    let mut places: Vec<usize> = (0..FLIPS).map(|n| (n * part + random.below(part)) as usize).collect();
    let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    places.extend((0..FLIPS).map(|_| used[random.below(used.len() as u64) as usize]));
    let mut ends = [0; 3];
    for at in places {
        let flipped = flip(&bytes, at, &mut random);
        let end = end_of(&flipped, at, &held);
        ends[end as usize] += 1;
        let pages = pages_of(&flipped);
        assert_eq!(end == End::Harmless, pages.is_sound(), "byte {at}: {end:?}, but {pages:?}");
        let (ids, lost, may_be_more) = salvaged(&flipped, &held);
        let missing = held.iter().filter(|event| !ids.contains(&event.id)).count();
        assert!(may_be_more || missing == lost, "byte {at}: {missing} missing, {lost} told");
        assert!(missing <= 2, "byte {at}: {missing} of what holds is not written");
        assert!(end != End::Healed || !may_be_more);
    }
    assert!(ends.iter().all(|count| *count >= 20), "harmless, refused, healed: {ends:?}");
}

#[test]
fn no_byte_of_the_header_leads_to_another_state() {
    let (bytes, held) = filled();
    let mut random = Random(4);
    for at in 0..HEADER_LEN {
        let flipped = flip(&bytes, at, &mut random);
        assert_ne!(end_of(&flipped, at, &held), End::Healed, "byte {at}");
    }
    // Which slot is the last, whether the file was closed, and how.
    for bit in 0..8 {
        let mut flipped = bytes.clone();
        flipped[pages::MAGIC.len()] ^= 1 << bit;
        assert_ne!(end_of(&flipped, pages::MAGIC.len(), &held), End::Healed, "bit {bit}");
    }
}

#[test]
fn any_bytes_are_looked_at_without_a_panic() {
    let mut random = Random(8);
    let (bytes, _) = filled();
    let header = Header::of(bytes[..HEADER_LEN].try_into().unwrap()).unwrap();
    let shape = header.slots[0][0].shape;
    for _ in 0..20_000 {
        let len = [0, 1, 4, 40, 600, 4_096][random.below(6) as usize];
        let mut page: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        let kind = 1 + random.below(2) as u8;
        page.first_mut().into_iter().for_each(|first| *first = kind);
        // Few entries, so that some of them lie within the page.
        page.get_mut(2..4).into_iter().for_each(|entries| entries.copy_from_slice(&[3 * kind, 0]));
        let _ = pages::sum(&page, shape);
        pages::for_each_named(&page, shape, header.geometry, |_| ());
        let _ = blank(&mut page, shape);
        let _ = salvaged(&page, &[]);
        let mut head = [0; HEADER_LEN];
        head.iter_mut().for_each(|byte| *byte = random.next() as u8);
        let _ = Header::of(&head);
    }
}

#[test]
fn an_event_that_was_changed_does_not_hold() {
    let event = signed(1, 1, 10, &[["e", "x"]], "content");
    let json = event.as_json();
    assert!(holds(json.as_bytes()));
    for at in 0..json.len() {
        let mut bytes = json.clone().into_bytes();
        bytes[at] ^= 1;
        assert!(!holds(&bytes), "{}", String::from_utf8_lossy(&bytes));
    }
    assert!(!holds(b"") && !holds(b"{}") && !holds(&[0xff]));
}
