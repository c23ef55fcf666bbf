//! A set of a reconciliation (NIP-77) in memory: sorted, with the sums that fingerprints are made of, and as it was when
//! it was asked for.
//!
//! Items stand in blocks that no one changes. A set that is brought up to date is a new one which shares every block that
//! is as it was; so whoever still holds the old one holds little beside. Sums are kept from the beginning to each block:
//! the sum of any range is the difference of two, and costs the same however long the range is.

use std::rc::Rc;

use crate::protocol::filter::Bytes32;
use crate::store::{Change, SET_BLOCK_ITEMS, SetItem};

/// A sum of ids as little-endian numbers, modulo 2^256.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum([u64; 4]);

impl Sum {
    /// With one id more.
    #[inline]
    fn with(mut self, id: &Bytes32) -> Sum {
        let (lanes, _) = id.as_chunks::<8>();
        let mut carry = false;
        for (lane, bytes) in self.0.iter_mut().zip(lanes) {
            (*lane, carry) = carrying_add(*lane, u64::from_le_bytes(*bytes), carry);
        }
        self
    }

    fn of(items: &[SetItem]) -> Sum {
        items.iter().fold(Sum::default(), |sum, item| sum.with(&item.id))
    }

    fn plus(mut self, other: Sum) -> Sum {
        let mut carry = false;
        for (lane, of_other) in self.0.iter_mut().zip(other.0) {
            (*lane, carry) = carrying_add(*lane, of_other, carry);
        }
        self
    }

    /// The rest if this is the beginning.
    pub fn rest_of(self, whole: Sum) -> Sum {
        // Two's complement.
        whole.plus(Sum(self.0.map(|lane| !lane))).plus(Sum([1, 0, 0, 0]))
    }

    /// The number's bytes, lowest first.
    pub fn to_bytes(self) -> Bytes32 {
        let mut bytes = [0; 32];
        for (chunk, lane) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&lane.to_le_bytes());
        }
        bytes
    }
}

#[inline]
fn carrying_add(a: u64, b: u64, carry: bool) -> (u64, bool) {
    let (sum, first) = a.overflowing_add(b);
    let (sum, second) = sum.overflowing_add(u64::from(carry));
    (sum, first || second)
}

/// A sorted set that does not change.
#[derive(Debug)]
pub struct Table {
    blocks: Vec<Rc<[SetItem]>>,
    /// How many items stand before each block, and in all.
    starts: Vec<usize>,
    /// The sum of what stands before each block, and of all.
    sums: Vec<Sum>,
}

impl Table {
    /// The set of these blocks, which are in order and not empty.
    pub fn new(blocks: impl IntoIterator<Item = Rc<[SetItem]>>) -> Table {
        let mut table = Table::with_capacity(0);
        blocks.into_iter().for_each(|block| table.push(block, None));
        table
    }

    fn with_capacity(blocks: usize) -> Table {
        let (mut starts, mut sums) = (Vec::with_capacity(blocks + 1), Vec::with_capacity(blocks + 1));
        starts.push(0);
        sums.push(Sum::default());
        Table { blocks: Vec::with_capacity(blocks), starts, sums }
    }

    fn push(&mut self, block: Rc<[SetItem]>, sum: Option<Sum>) {
        self.starts.push(self.size() + block.len());
        self.sums.push(self.sums[self.blocks.len()].plus(sum.unwrap_or_else(|| Sum::of(&block))));
        self.blocks.push(block);
    }

    /// How many items there are.
    pub fn size(&self) -> usize {
        self.starts[self.blocks.len()]
    }

    /// Bytes of memory that it takes, shared blocks included.
    pub fn bytes(&self) -> usize {
        self.size() * size_of::<SetItem>() + self.own_bytes()
    }

    /// Bytes of memory that it takes beside its items.
    pub fn own_bytes(&self) -> usize {
        let per_block = size_of::<Rc<[SetItem]>>() + size_of::<usize>() + size_of::<Sum>();
        size_of::<Table>() + self.blocks.capacity() * per_block + self.blocks.len() * 2 * size_of::<usize>()
    }

    /// The item at a place, which must be within the set.
    pub fn item(&self, at: usize) -> &SetItem {
        let block = self.block_of(at);
        &self.blocks[block][at - self.starts[block]]
    }

    /// The items of a range.
    pub fn items(&self, begin: usize, end: usize) -> impl Iterator<Item = &SetItem> {
        let first = self.block_of(begin);
        let blocks = self.blocks[first..].iter().flat_map(|block| block.iter());
        blocks.skip(begin - self.starts[first]).take(end - begin)
    }

    /// The sum of the items before a place.
    pub fn sum_before(&self, at: usize) -> Sum {
        let block = self.block_of(at);
        let Some(items) = self.blocks.get(block) else { return self.sums[block] };
        let within = at - self.starts[block];
        // From whichever end is nearer.
        if within <= items.len() / 2 {
            self.sums[block].plus(Sum::of(&items[..within]))
        } else {
            Sum::of(&items[within..]).rest_of(self.sums[block + 1])
        }
    }

    /// The place of the first item that is not before this one.
    pub fn lower_bound(&self, item: &SetItem) -> usize {
        let block = self.blocks.partition_point(|block| block.last().is_some_and(|last| last < item));
        let within = self.blocks.get(block).map_or(0, |items| items.partition_point(|other| other < item));
        self.starts[block] + within
    }

    /// The block of a place; one more than there are for the end.
    fn block_of(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at) - 1
    }

    /// The set with changes applied in their order, and how many bytes of blocks of this one it does not have. What is there
    /// already is not added again, and what is not there not removed.
    pub fn changed<'a>(&self, changes: impl IntoIterator<Item = &'a Change>) -> (Table, usize) {
        let mut changes: Vec<&Change> = changes.into_iter().collect();
        // The last word on an item counts.
        changes.sort_by_key(|change| change.item);
        let mut last_words: Vec<&Change> = Vec::with_capacity(changes.len());
        for change in changes {
            match last_words.last_mut().filter(|before| before.item == change.item) {
                Some(before) => *before = change,
                None => last_words.push(change),
            }
        }
        let mut left = last_words.into_iter().peekable();
        let mut table = Table::with_capacity(self.blocks.len() + 1);
        let mut replaced = 0;
        let mut here: Vec<&Change> = Vec::new();
        for (nth, block) in self.blocks.iter().enumerate() {
            // What comes behind the last block goes into it.
            let is_last = nth + 1 == self.blocks.len();
            here.extend(std::iter::from_fn(|| left.next_if(|change| is_last || Some(&change.item) <= block.last())));
            if here.is_empty() {
                let sum = self.sums[nth].rest_of(self.sums[nth + 1]);
                table.push(Rc::clone(block), Some(sum));
                continue;
            }
            replaced += size_of_val(&**block);
            push_parts(&mut table, merged(block, &here));
            here.clear();
        }
        here.extend(left);
        push_parts(&mut table, merged(&[], &here));
        (table, replaced)
    }

    /// Panics if the parts contradict each other.
    pub fn assert_invariants(&self) {
        assert!(self.blocks.iter().all(|block| !block.is_empty() && block.len() <= SET_BLOCK_ITEMS));
        assert!(self.blocks.iter().flat_map(|block| block.iter()).is_sorted_by(|a, b| a < b));
        assert_eq!(self.blocks.iter().map(|block| block.len()).sum::<usize>(), self.size());
        let sum = self.blocks.iter().fold(Sum::default(), |sum, block| sum.plus(Sum::of(block)));
        assert_eq!(sum, self.sums[self.blocks.len()]);
    }
}

/// A block with changes to it, all of other items.
fn merged(block: &[SetItem], changes: &[&Change]) -> Vec<SetItem> {
    let mut items = Vec::with_capacity(block.len() + changes.len());
    let mut old = block.iter().peekable();
    for change in changes {
        items.extend(std::iter::from_fn(|| old.next_if(|item| **item < change.item)));
        old.next_if(|item| **item == change.item);
        if change.is_added {
            items.push(change.item);
        }
    }
    items.extend(old);
    items
}

/// Puts items in as few blocks as they need.
fn push_parts(table: &mut Table, items: Vec<SetItem>) {
    let parts = items.len().div_ceil(SET_BLOCK_ITEMS);
    if parts > 0 {
        // Of one size, so that none of them is full again at once.
        items.chunks(items.len().div_ceil(parts)).for_each(|part| table.push(part.into(), None));
    }
}

/// A range of a set.
#[derive(Clone, Debug)]
pub struct View {
    table: Rc<Table>,
    begin: usize,
    end: usize,
}

impl View {
    /// What was created within some times, both included.
    pub fn within(table: Rc<Table>, since: u64, until: u64) -> View {
        let begin = table.lower_bound(&SetItem { created_at: since, id: [0; 32] });
        let end = match until.checked_add(1) {
            Some(after) => table.lower_bound(&SetItem { created_at: after, id: [0; 32] }),
            None => table.size(),
        };
        View { table, begin, end: end.max(begin) }
    }

    /// Whose range it is.
    pub fn table(&self) -> &Rc<Table> {
        &self.table
    }

    /// How many items there are.
    pub fn size(&self) -> usize {
        self.end - self.begin
    }

    /// The item at a place, which must be within the range.
    pub fn item(&self, at: usize) -> &SetItem {
        self.table.item(self.begin + at)
    }

    /// The items of a part.
    pub fn items(&self, begin: usize, end: usize) -> impl Iterator<Item = &SetItem> {
        self.table.items(self.begin + begin, self.begin + end)
    }

    /// The sum of all items of the table before a place: the difference of two is the sum of what is between.
    pub fn sum_before(&self, at: usize) -> Sum {
        self.table.sum_before(self.begin + at)
    }

    /// The place of the first item that is not before this one.
    pub fn lower_bound(&self, item: &SetItem) -> usize {
        self.table.lower_bound(item).clamp(self.begin, self.end) - self.begin
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::store::testing::Random;

    /// An item of some time whose id is another for each number.
    pub fn item(random: &mut Random, seconds: u64) -> SetItem {
        let mut id = [0; 32];
        id.chunks_exact_mut(8).for_each(|lane| lane.copy_from_slice(&random.next().to_le_bytes()));
        // Some ids begin alike.
        if random.chance(3) {
            id[..3].fill(7);
        }
        SetItem { created_at: random.below(seconds), id }
    }

    /// A table of a model.
    pub fn table_of(items: &BTreeSet<SetItem>) -> Table {
        let items: Vec<SetItem> = items.iter().copied().collect();
        Table::new(items.chunks(SET_BLOCK_ITEMS).map(Rc::from))
    }

    fn sum_of<'a>(items: impl Iterator<Item = &'a SetItem>) -> Sum {
        items.fold(Sum::default(), |sum, item| sum.with(&item.id))
    }

    fn check(table: &Table, model: &BTreeSet<SetItem>, random: &mut Random) {
        table.assert_invariants();
        let all: Vec<SetItem> = model.iter().copied().collect();
        assert_eq!(table.items(0, table.size()).copied().collect::<Vec<_>>(), all);
        for _ in 0..30 {
            let at = random.below(all.len() as u64 + 1) as usize;
            assert_eq!(table.sum_before(at), sum_of(all[..at].iter()));
            let begin = random.below(at as u64 + 1) as usize;
            assert_eq!(table.sum_before(begin).rest_of(table.sum_before(at)), sum_of(all[begin..at].iter()));
            assert_eq!(table.items(begin, at).copied().collect::<Vec<_>>(), all[begin..at]);
            if at < all.len() {
                assert_eq!((table.lower_bound(&all[at]), *table.item(at)), (at, all[at]));
            }
            let other = item(random, 25);
            assert_eq!(table.lower_bound(&other), all.partition_point(|item| *item < other));
        }
    }

    #[test]
    fn a_table_is_a_sorted_set_whatever_changes() {
        let mut random = Random(11);
        for size in [0, 1, 500, 5_000] {
            let mut model: BTreeSet<SetItem> = (0..size).map(|_| item(&mut random, 20)).collect();
            let mut table = table_of(&model);
            for _ in 0..20 {
                let mut changes = Vec::new();
                for _ in 0..random.below(60) {
                    let is_added = random.chance(2);
                    let nth = random.below(model.len().max(1) as u64) as usize;
                    let held = model.iter().nth(nth).filter(|_| random.chance(2)).copied();
                    let item = held.unwrap_or_else(|| item(&mut random, 22));
                    if is_added {
                        model.insert(item)
                    } else {
                        model.remove(&item)
                    };
                    changes.push(Change { item, kind: 1, is_added });
                }
                let (changed, replaced) = table.changed(&changes);
                check(&changed, &model, &mut random);
                assert!(replaced <= table.bytes() && (replaced > 0 || changes.is_empty() || table.size() == 0));
                table = changed;
            }
        }
    }

    #[test]
    fn a_view_has_what_is_within_its_times() {
        let mut random = Random(12);
        let model: BTreeSet<SetItem> = (0..2_000).map(|_| item(&mut random, 20)).collect();
        let table = Rc::new(table_of(&model));
        for (since, until) in [(0, u64::MAX), (3, 7), (7, 7), (8, 3), (19, u64::MAX), (20, 30), (0, 0)] {
            let view = View::within(Rc::clone(&table), since, until);
            let within: Vec<SetItem> =
                model.iter().filter(|item| (since..=until).contains(&item.created_at)).copied().collect();
            assert_eq!(view.items(0, view.size()).copied().collect::<Vec<_>>(), within, "{since} {until}");
            assert_eq!(view.lower_bound(&SetItem { created_at: 0, id: [0; 32] }), 0);
            assert_eq!(view.lower_bound(&SetItem { created_at: u64::MAX, id: [255; 32] }), view.size());
            let sum = view.sum_before(0).rest_of(view.sum_before(view.size()));
            assert_eq!(sum, sum_of(within.iter()));
        }
    }
}
