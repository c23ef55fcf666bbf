//! An index as it is kept: blocks of entries that are neighbours, each about as large as a page of redb's.
//!
//! One entry in a table costs redb thousands of instructions, for it looks for its place from the root on each time. What
//! is written together changes each block once, however many entries go into it, and a block that is found is walked
//! without redb.
//!
//! A block stands under its **fence**: every key in it is at most that, and beyond the fence before. So the block in which
//! a key is, or would be, is the first from that key on, and what a block gains or loses changes no fence. Beyond all
//! fences a block begins whose fence is the highest of all keys. A block that grows too large leaves its upper part under
//! its fence, and the rest gets fences of its own.
//!
//! In a block stands once what all its keys begin with, then each key's rest with its value:
//! `length of the prefix (1) ‖ prefix ‖ (rest of the key ‖ kind (2, big-endian)) …`.

use super::StoreError;
use redb::{ReadableTable, Table};
use std::ops::Bound;

/// The key of an event in an index of keys of `N` bytes, and the event's kind.
pub(super) type Entry<const N: usize> = ([u8; N], u16);
/// A table of blocks, in a transaction that writes.
pub(super) type BlockTable<'txn, const N: usize> = Table<'txn, &'static [u8; N], &'static [u8]>;

/// Bytes of a block at most: with its fence and redb's own, one page of 4 KiB.
pub(super) const BLOCK_BYTES_MAX: usize = 4_000;
/// A block that loses entries and is smaller than this goes into the next one.
const BLOCK_BYTES_MIN: usize = BLOCK_BYTES_MAX / 4;
/// Bytes of an entry's value.
const KIND_LEN: usize = 2;

/// The fence of the last block.
pub(super) const fn last_fence<const N: usize>() -> [u8; N] {
    [0xff; N]
}

/// A block that is read.
#[derive(Clone, Copy)]
pub(super) struct Block<'a, const N: usize> {
    prefix: &'a [u8],
    rest: &'a [u8],
}

impl<'a, const N: usize> Block<'a, N> {
    /// The block in some bytes; anything else is damage.
    pub(super) fn of(bytes: &'a [u8]) -> Result<Block<'a, N>, StoreError> {
        let (&len, bytes) = bytes.split_first().ok_or(StoreError::Corrupt)?;
        let (prefix, rest) = bytes.split_at_checked(len.into()).ok_or(StoreError::Corrupt)?;
        if prefix.len() > N || rest.is_empty() || !rest.len().is_multiple_of(entry_len::<N>(prefix.len())) {
            return Err(StoreError::Corrupt);
        }
        Ok(Block { prefix, rest })
    }

    /// A block that was looked at before, with what [`Block::prefix_len`] said then.
    pub(super) fn resumed(bytes: &'a [u8], prefix_len: usize) -> Block<'a, N> {
        let (prefix, rest) = bytes[1..].split_at(prefix_len);
        Block { prefix, rest }
    }

    /// With how many bytes all its keys begin alike.
    pub(super) fn prefix_len(&self) -> usize {
        self.prefix.len()
    }

    pub(super) fn len(&self) -> usize {
        self.rest.len() / entry_len::<N>(self.prefix.len())
    }

    /// The entry at a position below [`Block::len`].
    pub(super) fn entry(&self, position: usize) -> Entry<N> {
        let (rest, kind) = self.packed(position).split_at(N - self.prefix.len());
        let mut key = [0; N];
        key[..self.prefix.len()].copy_from_slice(self.prefix);
        key[self.prefix.len()..].copy_from_slice(rest);
        (key, u16::from_be_bytes([kind[0], kind[1]]))
    }

    /// How many entries are before `key`.
    pub(super) fn before(&self, key: &[u8; N]) -> usize {
        self.partition(|prefix, rest| (prefix, rest) < key.split_at(self.prefix.len()))
    }

    /// How many entries are up to `key`.
    pub(super) fn up_to(&self, key: &[u8; N]) -> usize {
        self.partition(|prefix, rest| (prefix, rest) <= key.split_at(self.prefix.len()))
    }

    /// How many entries there are until one of which `is_left` is not true: it is for all before and for none after.
    fn partition(&self, is_left: impl Fn(&[u8], &[u8]) -> bool) -> usize {
        let rest_len = N - self.prefix.len();
        let (mut from, mut to) = (0, self.len());
        while from < to {
            let middle = from.midpoint(to);
            match is_left(self.prefix, &self.packed(middle)[..rest_len]) {
                true => from = middle + 1,
                false => to = middle,
            }
        }
        from
    }

    fn packed(&self, position: usize) -> &'a [u8] {
        let len = entry_len::<N>(self.prefix.len());
        &self.rest[position * len..][..len]
    }

    fn entries(&self) -> impl Iterator<Item = Entry<N>> {
        (0..self.len()).map(|position| self.entry(position))
    }
}

/// Puts entries into an index and takes others out, both in the order of their keys. What is in neither is no matter.
#[inline(never)]
pub(super) fn write<const N: usize>(
    table: &mut BlockTable<'_, N>,
    new: &mut dyn Iterator<Item = Entry<N>>,
    mut gone: &[[u8; N]],
) -> Result<(), StoreError> {
    let mut new = new.peekable();
    let (mut entries, mut new_here) = (Vec::new(), Vec::new());
    let mut packed = Vec::with_capacity(BLOCK_BYTES_MAX);
    loop {
        let first = [new.peek().map(|(key, _)| *key), gone.first().copied()].into_iter().flatten().min();
        let Some(first) = first else { return Ok(()) };
        entries.clear();
        new_here.clear();
        let fence = read(table, Bound::Included(&first), &mut entries)?;
        new_here.extend(std::iter::from_fn(|| new.next_if(|(key, _)| *key <= fence)));
        let (gone_here, gone_later) = gone.split_at(gone.partition_point(|key| *key <= fence));
        merge(&mut entries, &new_here);
        if gone_here.is_empty() {
            replace(table, &fence, &entries, &mut packed)?;
        } else {
            entries.retain(|(key, _)| gone_here.binary_search(key).is_err());
            shrink(table, &fence, &mut entries, &mut packed)?;
        }
        gone = gone_later;
    }
}

/// Puts new entries among others, both in the order of their keys; from the end on, so that each moves once.
fn merge<const N: usize>(entries: &mut Vec<Entry<N>>, new: &[Entry<N>]) {
    let (mut old_left, mut new_left) = (entries.len(), new.len());
    entries.extend_from_slice(new);
    while new_left > 0 {
        let place = old_left + new_left - 1;
        if old_left > 0 && entries[old_left - 1].0 > new[new_left - 1].0 {
            old_left -= 1;
            entries[place] = entries[old_left];
        } else {
            new_left -= 1;
            entries[place] = new[new_left];
        }
    }
}

/// Adds the entries of the first block from a key on; gives its fence, which is the last one if there is no block.
fn read<const N: usize>(
    table: &BlockTable<'_, N>,
    from: Bound<&[u8; N]>,
    entries: &mut Vec<Entry<N>>,
) -> Result<[u8; N], StoreError> {
    match table.range::<&[u8; N]>((from, Bound::Unbounded))?.next() {
        Some(found) => {
            let (fence, block) = found?;
            entries.extend(Block::of(block.value())?.entries());
            Ok(*fence.value())
        }
        None => Ok(last_fence()),
    }
}

/// Writes what is left of a block that lost entries; if it is little, with those of the next block.
fn shrink<const N: usize>(
    table: &mut BlockTable<'_, N>,
    fence: &[u8; N],
    entries: &mut Vec<Entry<N>>,
    packed: &mut Vec<u8>,
) -> Result<(), StoreError> {
    if *fence == last_fence() || packed_len(entries) >= BLOCK_BYTES_MIN {
        return replace(table, fence, entries, packed);
    }
    table.remove(fence)?;
    if entries.is_empty() {
        return Ok(());
    }
    let fence = read(table, Bound::Excluded(fence), entries)?;
    replace(table, &fence, entries, packed)
}

/// Writes the entries up to a fence in place of the block that is there.
fn replace<const N: usize>(
    table: &mut BlockTable<'_, N>,
    fence: &[u8; N],
    entries: &[Entry<N>],
    packed: &mut Vec<u8>,
) -> Result<(), StoreError> {
    if entries.is_empty() {
        table.remove(fence)?;
        return Ok(());
    }
    let mut left = entries;
    let mut blocks = blocks_needed(entries);
    while !left.is_empty() {
        let (block, rest) = left.split_at(block_of(left, blocks));
        let fence = match (rest.is_empty(), block.last()) {
            (false, Some((last, _))) => last,
            _ => fence,
        };
        pack(block, packed);
        table.insert(fence, packed.as_slice())?;
        left = rest;
        blocks = blocks.saturating_sub(1).max(1);
    }
    Ok(())
}

/// How many of the entries the first of so many blocks takes: its share, or what fits. Where what keys have in common
/// changes, less fits than was counted with.
fn block_of<const N: usize>(entries: &[Entry<N>], blocks: usize) -> usize {
    let share = entries.len().div_ceil(blocks);
    if packed_len(&entries[..share]) <= BLOCK_BYTES_MAX {
        return share;
    }
    // The more entries, the less in common: a number that is too large stays so.
    let (mut fits, mut too_many) = (1, share);
    while too_many - fits > 1 {
        let middle = fits.midpoint(too_many);
        match packed_len(&entries[..middle]) <= BLOCK_BYTES_MAX {
            true => fits = middle,
            false => too_many = middle,
        }
    }
    fits
}

/// All entries of an index, in order. Panics where its blocks are not what they should be.
pub(super) fn checked<const N: usize>(
    table: &impl ReadableTable<&'static [u8; N], &'static [u8]>,
) -> Result<Vec<Entry<N>>, StoreError> {
    let mut all = Vec::new();
    let mut fence = [0; N];
    for found in table.iter()? {
        let (next_fence, bytes) = found?;
        assert!(bytes.value().len() <= BLOCK_BYTES_MAX, "a block is larger than a page");
        let entries: Vec<Entry<N>> = Block::of(bytes.value())?.entries().collect();
        assert!(entries.is_sorted_by(|(a, _), (b, _)| a < b), "a block is in order");
        let keys = entries.first().zip(entries.last()).expect("no block is empty");
        let (first, last) = (keys.0.0, keys.1.0);
        assert!(all.is_empty() || first > fence, "a block begins beyond the fence before");
        assert!(last <= *next_fence.value(), "a block ends at its fence");
        assert_eq!(usize::from(bytes.value()[0]), common_len(&first, &last), "what keys have in common stands once");
        fence = *next_fence.value();
        all.extend(entries);
    }
    Ok(all)
}

/// Blocks into which entries go if each is filled.
fn blocks_needed<const N: usize>(entries: &[Entry<N>]) -> usize {
    let mut blocks = 0;
    let mut first = 0;
    let mut common = 0;
    for (position, (key, _)) in entries.iter().enumerate() {
        let with = common_len(&entries[first].0, key).min(common);
        let fits = block_len::<N>(with, position + 1 - first) <= BLOCK_BYTES_MAX;
        if blocks == 0 || !fits {
            blocks += 1;
            first = position;
            common = N;
        } else {
            common = with;
        }
    }
    blocks
}

/// Writes a block's bytes. There is at least one entry.
fn pack<const N: usize>(entries: &[Entry<N>], packed: &mut Vec<u8>) {
    packed.clear();
    let common = common_of(entries);
    packed.push(common as u8);
    packed.extend_from_slice(&entries[0].0[..common]);
    for (key, kind) in entries {
        packed.extend_from_slice(&key[common..]);
        packed.extend_from_slice(&kind.to_be_bytes());
    }
}

/// Bytes of these entries in one block.
fn packed_len<const N: usize>(entries: &[Entry<N>]) -> usize {
    block_len::<N>(common_of(entries), entries.len())
}

/// With how many bytes all keys begin alike: they are in order, so the first and the last tell.
fn common_of<const N: usize>(entries: &[Entry<N>]) -> usize {
    match (entries.first(), entries.last()) {
        (Some((first, _)), Some((last, _))) => common_len(first, last),
        _ => 0,
    }
}

fn common_len<const N: usize>(a: &[u8; N], b: &[u8; N]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn block_len<const N: usize>(common: usize, entries: usize) -> usize {
    1 + common + entries * entry_len::<N>(common)
}

/// Bytes of one entry in a block whose keys begin alike with so many.
fn entry_len<const N: usize>(common: usize) -> usize {
    N - common + KIND_LEN
}

#[cfg(test)]
mod tests {
    use super::super::index::Index;
    use super::super::memtable::{IndexEntries, Key};
    use super::super::schema::IndexTable;
    use super::super::testing::Random;
    use super::*;
    use redb::backends::InMemoryBackend;
    use redb::{Database, ReadableDatabase, ReadableTableMetadata, TableDefinition};
    use std::collections::BTreeMap;

    const N: usize = 24;
    const TABLE: IndexTable<N> = TableDefinition::new("blocks");
    type Model = BTreeMap<[u8; N], u16>;

    fn database() -> Database {
        let db = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let txn = db.begin_write().unwrap();
        txn.open_table(TABLE).unwrap();
        txn.commit().unwrap();
        db
    }

    fn change(db: &Database, model: &mut Model, new: &Model, gone: &[[u8; N]]) {
        let mut entries = new.iter().map(|(key, kind)| (*key, *kind));
        let txn = db.begin_write().unwrap();
        write(&mut txn.open_table(TABLE).unwrap(), &mut entries, gone).unwrap();
        txn.commit().unwrap();
        model.extend(new);
        model.retain(|key, _| gone.binary_search(key).is_err());
    }

    fn blocks(db: &Database) -> u64 {
        db.begin_read().unwrap().open_table(TABLE).unwrap().len().unwrap()
    }

    /// Keys of some few beginnings, as authors and tags are, or of none.
    fn key(random: &mut Random) -> [u8; N] {
        let mut key = [0; N];
        let prefix = random.below(4) as u8;
        key[..12].fill(prefix);
        match prefix {
            0 => key.iter_mut().for_each(|byte| *byte = random.next() as u8),
            _ => key[12..20].copy_from_slice(&random.next().to_le_bytes()),
        }
        if random.chance(200) { [0xff; N] } else { key }
    }

    #[test]
    fn an_index_agrees_with_a_naive_model() {
        for seed in 0..6 {
            let mut random = Random(seed);
            let (db, mut model) = (database(), Model::new());
            for _ in 0..60 {
                // In turn it grows and shrinks, down to nothing.
                let (grows, shrinks) = [(3_000, 200), (0, 2_500), (40, 40), (1, 6_000)][random.below(4) as usize];
                let mut new: Model =
                    (0..random.below(grows + 1)).map(|_| (key(&mut random), random.next() as u16)).collect();
                new.retain(|key, _| !model.contains_key(key));
                let mut gone: Vec<[u8; N]> = (0..random.below(shrinks + 1)).map(|_| key(&mut random)).collect();
                gone.extend(model.keys().chain(new.keys()).filter(|_| random.below(8_000) < shrinks).copied());
                gone.sort_unstable();
                gone.dedup();
                change(&db, &mut model, &new, &gone);

                let table = db.begin_read().unwrap().open_table(TABLE).unwrap();
                assert!(checked(&table).unwrap().iter().copied().eq(model.clone()), "seed {seed}");
                // Some of it waits.
                let mut memtable: IndexEntries<N> = (0..30).map(|n| (Key(key(&mut random)), n)).collect();
                memtable.retain(|key, _| !model.contains_key(&key.0));
                let index = Index { table: &table, memtable: &memtable };
                let mut all = model.clone();
                all.extend(memtable.iter().map(|(key, kind)| (key.0, *kind)));
                for _ in 0..20 {
                    let (a, b) = (key(&mut random), key(&mut random));
                    let held = *all.keys().nth(random.below(all.len() as u64) as usize).unwrap();
                    let from = [Bound::Included(a.min(b)), Bound::Excluded(a.min(b)), Bound::Unbounded];
                    let mut bounds: Vec<_> = from.into_iter().map(|from| (from, a.max(b))).collect();
                    bounds.extend([(Bound::Included(held), held), (Bound::Excluded(held), [0xff; N])]);
                    for (from, to) in bounds {
                        let mut entries = index.range(from.as_ref(), &to).unwrap();
                        for expected in all.range((from, Bound::Included(to))) {
                            let entry = entries.next().unwrap();
                            assert_eq!(entry.as_ref().map(|(key, kind)| (key, kind)), Some(expected), "seed {seed}");
                        }
                        assert_eq!(entries.next().unwrap(), None);
                        assert_eq!(entries.next().unwrap(), None, "an end is an end");
                    }
                }
            }
        }
    }

    #[test]
    fn blocks_are_filled_and_what_keys_have_in_common_stands_once() {
        let (db, mut model) = (database(), Model::new());
        let number = |n: u32, author: u8| {
            let mut key = [author; N];
            key[N - 4..].copy_from_slice(&n.to_be_bytes());
            key
        };
        let new: Model = (0..20_000).map(|n| (number(n / 20, (n % 20) as u8), 1)).collect();
        change(&db, &mut model, &new, &[]);
        // Of an author's keys no more than the last four bytes differ.
        let least = (20_000 * (2 + KIND_LEN) / BLOCK_BYTES_MAX) as u64;
        assert!((least..=2 * least).contains(&blocks(&db)), "{} blocks", blocks(&db));
        let gone: Vec<[u8; N]> =
            model.keys().copied().enumerate().filter(|(n, _)| n % 100 != 0).map(|(_, k)| k).collect();
        change(&db, &mut model, &Model::new(), &gone);
        assert_eq!(model.len(), 200);
        assert!(blocks(&db) <= 8, "what is left of many blocks comes together: {}", blocks(&db));
        let gone: Vec<[u8; N]> = model.keys().copied().collect();
        change(&db, &mut model, &Model::new(), &gone);
        assert_eq!(blocks(&db), 0);
    }

    #[test]
    fn other_bytes_are_no_block() {
        let mut packed = Vec::new();
        pack(&[([1; N], 7), ([2; N], 8)], &mut packed);
        assert_eq!(Block::<N>::of(&packed).unwrap().entries().collect::<Vec<_>>(), [([1; N], 7), ([2; N], 8)]);
        assert!(Block::<N>::of(&packed[..packed.len() - 1]).is_err());
        for bytes in [&[][..], &[0], &[N as u8], &[5, 1, 2], &[N as u8 + 1; 2 * N], &packed[..1]] {
            assert!(Block::<N>::of(bytes).is_err(), "{bytes:?}");
        }
    }
}
