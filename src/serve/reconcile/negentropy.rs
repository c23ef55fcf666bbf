//! The answering side of negentropy, protocol version 1, as NIP-77 carries it: one message in, one out, nothing kept
//! between them but the set.
//!
//! The crate `negentropy`, which `sync` asks relays with, answers as well, but has no way to be given sums that were added up
//! before: each of its answers would go through all of a set several times. This one is as strict as a peer's bytes
//! deserve, and what an answer costs is bounded by the message: a lookup for each range.

use std::fmt;

use ring::digest::{SHA256, digest};

use super::table::{Sum, View};
use crate::limits::CLIENT_RANGES_MAX;
use crate::protocol::filter::Bytes32;
use crate::store::SetItem;

/// The version that is spoken here.
const VERSION: u8 = 0x61;
/// First bytes that name a version.
const VERSIONS: std::ops::RangeInclusive<u8> = 0x60..=0x6f;
const ID_LEN: usize = 32;
const FINGERPRINT_LEN: usize = 16;
/// Parts into which a range is split whose fingerprints differ.
const BUCKETS: usize = 16;
/// A range of fewer items is listed instead.
const LISTED_BELOW: usize = 2 * BUCKETS;
/// What is kept of a frame for the fingerprint of what does not fit: its bound, mode and bytes, with room to spare.
const FRAME_RESERVE: usize = 200;
/// The time of a bound that is behind everything.
const INFINITY: u64 = u64::MAX;
/// Bytes of a number: 64 bits by seven each.
const NUMBER_BYTES_MAX: usize = 10;

const MODE_SKIP: u64 = 0;
const MODE_FINGERPRINT: u64 = 1;
const MODE_ID_LIST: u64 = 2;

/// Why a client's bytes are no message of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// There are none.
    Empty,
    /// The first byte names no version.
    Version,
    /// They end too early.
    Short,
    /// A number has more than 64 bits.
    Number,
    /// A bound's id is longer than an id.
    Bound,
    /// A bound is before the one before it.
    Order,
    /// There is no such mode.
    Mode,
    /// More than [`CLIENT_RANGES_MAX`] ranges.
    Ranges,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Malformed::Empty => "empty",
            Malformed::Version => "no protocol version",
            Malformed::Short => "ends too early",
            Malformed::Number => "a number is too large",
            Malformed::Bound => "a bound is too long",
            Malformed::Order => "bounds are out of order",
            Malformed::Mode => "unknown mode",
            Malformed::Ranges => "too many ranges",
        })
    }
}

/// What is left of a message.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (bytes, rest) = self.0.split_at_checked(len).ok_or(Malformed::Short)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        let mut number: u64 = 0;
        for nth in 0..=NUMBER_BYTES_MAX {
            let byte = self.bytes(1)?[0];
            if nth == NUMBER_BYTES_MAX || number.leading_zeros() < 7 {
                return Err(Malformed::Number);
            }
            number = number << 7 | u64::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                break;
            }
        }
        Ok(number)
    }
}

fn push_number(bytes: &mut Vec<u8>, number: u64) {
    let digits = (u64::BITS - number.leading_zeros()).div_ceil(7).max(1);
    for nth in (0..digits).rev() {
        let more = if nth > 0 { 0x80 } else { 0 };
        bytes.push((number >> (7 * nth)) as u8 & 0x7f | more);
    }
}

/// The end of a range: an item, of which no more than the first bytes of the id are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bound {
    item: SetItem,
    id_len: usize,
}

impl Bound {
    fn at(created_at: u64) -> Bound {
        Bound { item: SetItem { created_at, id: [0; 32] }, id_len: 0 }
    }

    /// The shortest that is behind one item and not behind the next.
    fn between(before: &SetItem, after: &SetItem) -> Bound {
        if before.created_at != after.created_at {
            return Bound::at(after.created_at);
        }
        let shared = before.id.iter().zip(&after.id).take_while(|(a, b)| a == b).count();
        Bound::of(after, (shared + 1).min(ID_LEN))
    }

    fn of(item: &SetItem, id_len: usize) -> Bound {
        let mut id = [0; 32];
        id[..id_len].copy_from_slice(&item.id[..id_len]);
        Bound { item: SetItem { created_at: item.created_at, id }, id_len }
    }
}

/// The answer as far as it has come.
struct Writer<'a> {
    view: &'a View,
    bytes: Vec<u8>,
    frame_max: usize,
    last_time: u64,
    /// The end of ranges that need no answer and have yet to be said to be skipped.
    skipped_to: Option<Bound>,
    /// Items up to here are within the ranges that were written.
    told: usize,
}

impl Writer<'_> {
    fn bound(&mut self, bound: &Bound) {
        if bound.item.created_at == INFINITY {
            push_number(&mut self.bytes, 0);
        } else {
            push_number(&mut self.bytes, (bound.item.created_at - self.last_time).saturating_add(1));
        }
        self.last_time = bound.item.created_at;
        push_number(&mut self.bytes, bound.id_len as u64);
        self.bytes.extend_from_slice(&bound.item.id[..bound.id_len]);
    }

    fn range(&mut self, bound: &Bound, mode: u64) {
        if let Some(skipped_to) = self.skipped_to.take() {
            self.bound(&skipped_to);
            push_number(&mut self.bytes, MODE_SKIP);
        }
        self.bound(bound);
        push_number(&mut self.bytes, mode);
    }

    /// Whether nothing more fits but the fingerprint of the rest.
    fn is_full(&self) -> bool {
        self.bytes.len() > self.frame_max - FRAME_RESERVE
    }

    /// Writes the ids of a range, as many as fit. Returns the place behind the last.
    fn list(&mut self, begin: usize, end: usize, bound: &Bound) -> usize {
        let room = (self.frame_max - FRAME_RESERVE).saturating_sub(self.bytes.len()) / ID_LEN + 1;
        let cut = begin + room;
        let (end, bound) = if cut < end { (cut, Bound::of(self.view.item(cut), ID_LEN)) } else { (end, *bound) };
        self.range(&bound, MODE_ID_LIST);
        push_number(&mut self.bytes, (end - begin) as u64);
        self.view.items(begin, end).for_each(|item| self.bytes.extend_from_slice(&item.id));
        end
    }

    /// Writes the fingerprints of the parts of a range, or its ids if they are few.
    fn split(&mut self, begin: usize, end: usize, sum: Sum, bound: &Bound) -> usize {
        let items = end - begin;
        if items < LISTED_BELOW {
            return self.list(begin, end, bound);
        }
        let (mut at, mut before) = (begin, sum);
        for bucket in 0..BUCKETS {
            let to = at + items / BUCKETS + usize::from(bucket < items % BUCKETS);
            let sum = self.view.sum_before(to);
            let bound = if to == end { *bound } else { Bound::between(self.view.item(to - 1), self.view.item(to)) };
            self.range(&bound, MODE_FINGERPRINT);
            self.bytes.extend_from_slice(&fingerprint(before.rest_of(sum), to - at));
            (at, before) = (to, sum);
        }
        end
    }

    /// Leaves everything that was not told to the next message.
    fn cut(&mut self) {
        let rest = self.view.sum_before(self.told).rest_of(self.view.sum_before(self.view.size()));
        self.skipped_to = None;
        self.range(&Bound::at(INFINITY), MODE_FINGERPRINT);
        self.bytes.extend_from_slice(&fingerprint(rest, self.view.size() - self.told));
    }
}

fn fingerprint(sum: Sum, items: usize) -> [u8; FINGERPRINT_LEN] {
    let mut bytes = Vec::with_capacity(ID_LEN + NUMBER_BYTES_MAX);
    bytes.extend_from_slice(&sum.to_bytes());
    push_number(&mut bytes, items as u64);
    let mut fingerprint = [0; FINGERPRINT_LEN];
    fingerprint.copy_from_slice(&digest(&SHA256, &bytes).as_ref()[..FINGERPRINT_LEN]);
    fingerprint
}

/// Answers a message about a set in at most `frame_max` bytes, which must be 4,096 at least. A message of another version of
/// the protocol is answered with ours alone.
///
/// # Errors
///
/// If it is no message of the protocol.
pub fn answer(view: &View, message: &[u8], frame_max: usize) -> Result<Vec<u8>, Malformed> {
    let (&version, rest) = message.split_first().ok_or(Malformed::Empty)?;
    if !VERSIONS.contains(&version) {
        return Err(Malformed::Version);
    }
    let bytes = vec![VERSION];
    if version != VERSION {
        return Ok(bytes);
    }
    let mut writer = Writer { view, bytes, frame_max, last_time: 0, skipped_to: None, told: 0 };
    let mut reader = Reader(rest);
    let mut bound_before = Bound::at(0);
    let (mut begin, mut before) = (0, view.sum_before(0));
    let mut ranges = 0;
    while !reader.0.is_empty() {
        ranges += 1;
        if ranges > CLIENT_RANGES_MAX {
            return Err(Malformed::Ranges);
        }
        let bound = read_bound(&mut reader, &bound_before)?;
        let end = view.lower_bound(&bound.item).max(begin);
        let (mut sum, mut is_cut) = (None, false);
        match reader.number()? {
            MODE_SKIP => writer.skipped_to = Some(bound),
            MODE_FINGERPRINT => {
                let theirs = reader.bytes(FINGERPRINT_LEN)?;
                let to_end = *sum.insert(view.sum_before(end));
                if *theirs == fingerprint(before.rest_of(to_end), end - begin) {
                    writer.skipped_to = Some(bound);
                } else {
                    let written = writer.bytes.len();
                    let told = writer.split(begin, end, before, &bound);
                    // All parts of a range or none.
                    match writer.is_full() {
                        true => writer.bytes.truncate(written),
                        false => writer.told = told,
                    }
                    is_cut |= writer.bytes.len() == written;
                }
            }
            MODE_ID_LIST => {
                let ids = usize::try_from(reader.number()?).map_err(|_| Malformed::Short)?;
                reader.bytes(ids.checked_mul(ID_LEN).ok_or(Malformed::Short)?)?;
                writer.told = writer.list(begin, end, &bound);
            }
            _ => return Err(Malformed::Mode),
        }
        if is_cut || writer.is_full() {
            writer.cut();
            break;
        }
        before = sum.unwrap_or_else(|| view.sum_before(end));
        (begin, bound_before) = (end, bound);
    }
    Ok(writer.bytes)
}

fn read_bound(reader: &mut Reader<'_>, before: &Bound) -> Result<Bound, Malformed> {
    // Nothing is behind the end.
    if before.item.created_at == INFINITY {
        return Err(Malformed::Order);
    }
    let created_at = match reader.number()? {
        0 => INFINITY,
        later => before.item.created_at.checked_add(later - 1).ok_or(Malformed::Number)?,
    };
    let id_len = usize::try_from(reader.number()?).ok().filter(|len| *len <= ID_LEN).ok_or(Malformed::Bound)?;
    let mut id: Bytes32 = [0; ID_LEN];
    id[..id_len].copy_from_slice(reader.bytes(id_len)?);
    let bound = Bound { item: SetItem { created_at, id }, id_len };
    if bound.item < before.item { Err(Malformed::Order) } else { Ok(bound) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::rc::Rc;

    use ::negentropy::{Id, Negentropy, NegentropyStorageVector};

    use super::super::table::tests::{item, table_of};
    use super::*;
    use crate::store::testing::Random;

    fn view_of(items: &BTreeSet<SetItem>) -> View {
        View::within(Rc::new(table_of(items)), 0, u64::MAX)
    }

    fn storage_of(items: &BTreeSet<SetItem>) -> NegentropyStorageVector {
        let mut storage = NegentropyStorageVector::new();
        items.iter().for_each(|item| storage.insert(item.created_at, Id::from_byte_array(item.id)).unwrap());
        storage.seal().unwrap();
        storage
    }

    /// What the crate's client finds that it has more and less, and the bytes both ways.
    fn reconcile(
        theirs: &BTreeSet<SetItem>,
        ours: &BTreeSet<SetItem>,
        frames: [usize; 2],
    ) -> (BTreeSet<Bytes32>, BTreeSet<Bytes32>, usize) {
        let (storage, view) = (storage_of(theirs), view_of(ours));
        let mut client = Negentropy::borrowed(&storage, frames[0] as u64).unwrap();
        let (mut have, mut need) = (Vec::new(), Vec::new());
        let mut message = client.initiate().unwrap();
        let mut bytes = message.len();
        for _ in 0..1_000 {
            let answer = answer(&view, &message, frames[1]).unwrap();
            assert!(answer.len() <= frames[1]);
            bytes += answer.len();
            match client.reconcile_with_ids(&answer, &mut have, &mut need).unwrap() {
                Some(next) => message = next,
                None => {
                    let set = |ids: Vec<Id>| ids.into_iter().map(|id| id.to_bytes()).collect();
                    return (set(have), set(need), bytes);
                }
            }
            bytes += message.len();
        }
        panic!("it never ends");
    }

    fn ids<'a>(items: impl Iterator<Item = &'a SetItem>) -> BTreeSet<Bytes32> {
        items.map(|item| item.id).collect()
    }

    #[test]
    fn the_crate_s_client_finds_every_difference() {
        for (seed, shared, only) in [(1, 0, 10), (2, 100, 0), (3, 5_000, 50), (4, 3_000, 3_000), (5, 40, 5_000)] {
            for frames in [[0, 60_000], [4_096, 4_096], [4_096, 5_000], [60_000, 4_096]] {
                let mut random = Random(seed);
                let both: Vec<SetItem> = (0..shared).map(|_| item(&mut random, 40)).collect();
                let mut theirs: BTreeSet<SetItem> = (0..only).map(|_| item(&mut random, 50)).collect();
                let mut ours: BTreeSet<SetItem> = (0..only / 2).map(|_| item(&mut random, 50)).collect();
                theirs.extend(&both);
                ours.extend(&both);
                let (have, need, _) = reconcile(&theirs, &ours, frames);
                assert_eq!(have, ids(theirs.difference(&ours)), "seed {seed}");
                assert_eq!(need, ids(ours.difference(&theirs)), "seed {seed}");
                let (have, need, _) = reconcile(&ours, &theirs, frames);
                assert_eq!((have.len(), need.len()), (ours.len() - both.len(), theirs.len() - both.len()));
            }
        }
    }

    #[test]
    fn what_is_the_same_costs_little_and_one_in_a_hundred_not_much() {
        let mut random = Random(9);
        let all: BTreeSet<SetItem> = (0..100_000).map(|_| item(&mut random, 100_000_000)).collect();
        let (have, need, bytes) = reconcile(&all, &all, [60_000, 60_000]);
        assert!(have.is_empty() && need.is_empty() && 2 * bytes < 1_000, "{bytes}");
        let some: BTreeSet<SetItem> = all.iter().filter(|_| !random.chance(100)).copied().collect();
        let (have, need, bytes) = reconcile(&some, &all, [60_000, 60_000]);
        assert_eq!((have.len(), need.len()), (0, all.len() - some.len()));
        assert!(bytes < 40 * 32 * need.len(), "{} missing: {bytes} bytes", need.len());
    }

    /// The crate's own server answers the same, byte for byte, as long as nothing is cut.
    #[test]
    fn answers_are_those_of_the_crate() {
        let mut random = Random(10);
        for n in [0_u64, 1, 31, 32, 33, 700] {
            let ours: BTreeSet<SetItem> = (0..n).map(|_| item(&mut random, 9)).collect();
            let mut theirs = ours.clone();
            theirs.extend((0..n / 3).map(|_| item(&mut random, 9)));
            let (storage, view) = (storage_of(&theirs), view_of(&ours));
            let server_storage = storage_of(&ours);
            let mut client = Negentropy::borrowed(&storage, 0).unwrap();
            let mut message = client.initiate().unwrap();
            loop {
                let expected = Negentropy::borrowed(&server_storage, 0).unwrap().reconcile(&message).unwrap();
                assert_eq!(answer(&view, &message, 1 << 20).unwrap(), expected, "{n}");
                let (mut have, mut need) = (Vec::new(), Vec::new());
                match client.reconcile_with_ids(&expected, &mut have, &mut need).unwrap() {
                    Some(next) => message = next,
                    None => break,
                }
            }
        }
    }

    #[test]
    fn bad_bytes_are_named() {
        let mut random = Random(3);
        let view = view_of(&(0..100).map(|_| item(&mut random, 20)).collect());
        let of = |message: &[u8]| answer(&view, message, 60_000);
        for version in [0x60, 0x62, 0x6f] {
            assert_eq!(of(&[version, 1, 2, 3]), Ok(vec![0x61]));
        }
        let two = |first: &[u8], second: &[u8]| [&[0x61], first, &[0], second, &[0]].concat();
        for (message, why) in [
            (vec![], Malformed::Empty),
            (vec![0], Malformed::Version),
            (vec![2, 0, 0, 0], Malformed::Version),
            (b"a\x80".to_vec(), Malformed::Short),
            ([&[0x61][..], &[0xff; 20]].concat(), Malformed::Number),
            (vec![0x61, 0, 33], Malformed::Bound),
            (vec![0x61, 0, 0, 3], Malformed::Mode),
            (vec![0x61, 0, 0, 1, 0], Malformed::Short),
            (vec![0x61, 0, 0, 2, 1, 0], Malformed::Short),
            ([&[0x61, 0, 0, 2][..], &[0xff; 8], &[0x7f]].concat(), Malformed::Short),
            (two(&[5, 1, 9], &[1, 1, 8]), Malformed::Order),
            (two(&[0, 0], &[0, 0]), Malformed::Order),
            (two(&[5, 0], &[0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0]), Malformed::Number),
            ([&[0x61][..], &[1, 0, 0].repeat(50_000)].concat(), Malformed::Ranges),
        ] {
            assert_eq!(of(&message), Err(why), "{:?}", &message[..message.len().min(12)]);
        }
        assert_eq!(of(&two(&[5, 1, 8], &[1, 1, 9])).unwrap(), [0x61], "in order, and nothing to say");
    }

    #[test]
    fn noise_is_answered_within_the_frame_or_refused() {
        let mut random = Random(4);
        let view = view_of(&(0..3_000).map(|_| item(&mut random, 20)).collect());
        let mut answered = 0;
        for _ in 0..20_000 {
            let mut message = vec![0x61];
            for _ in 0..random.below(6) {
                message.push(random.below(6) as u8);
                let id_len = random.below(3);
                message.push(id_len as u8);
                message.extend((0..id_len).map(|_| random.next() as u8));
                let mode = random.below(4) as u8;
                message.push(mode);
                match mode {
                    1 => message.extend([random.next() as u8; FINGERPRINT_LEN]),
                    2 => message.extend([&[1][..], &[random.next() as u8; ID_LEN]].concat()),
                    _ => {}
                }
            }
            if random.chance(3) {
                message.truncate(random.below(message.len() as u64 + 1) as usize);
            }
            if let Ok(answer) = answer(&view, &message, 4_096) {
                assert!(answer.len() <= 4_096 && answer[0] == VERSION);
                answered += 1;
            }
        }
        assert!(answered > 5_000, "{answered}");
    }
}
