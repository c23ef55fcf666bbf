//! Walks over an index: its blocks in the database, and what waits to be written there.

use super::StoreError;
use super::blocks::{Block, Entry};
use super::memtable::{IndexEntries, Key};
use redb::{AccessGuard, Range, ReadOnlyTable};
use std::collections::btree_map;
use std::ops::Bound;

/// An index as it was committed: its table of blocks, and what that lacks. No key is in both.
pub(super) struct Index<'a, const N: usize> {
    pub table: &'a ReadOnlyTable<&'static [u8; N], &'static [u8]>,
    pub memtable: &'a IndexEntries<N>,
}

impl<'a, const N: usize> Index<'a, N> {
    /// The entries from a bound up to a key, in the order of their keys.
    pub(super) fn range(&self, from: Bound<&[u8; N]>, to: &[u8; N]) -> Result<Entries<'a, N>, StoreError> {
        let mut written = Written::range(self.table, from, to)?;
        let mut memtable = self.memtable.range((from.map(|key| Key(*key)), Bound::Included(Key(*to))));
        let heads = (written.next()?, memtable.next());
        Ok(Entries { written, memtable, heads })
    }
}

/// A walk over an index.
pub(super) struct Entries<'a, const N: usize> {
    written: Written<N>,
    memtable: btree_map::Range<'a, Key<N>, u16>,
    /// The next of each.
    heads: (Option<Entry<N>>, Option<(&'a Key<N>, &'a u16)>),
}

impl<const N: usize> Entries<'_, N> {
    /// The next entry.
    pub(super) fn next(&mut self) -> Result<Option<Entry<N>>, StoreError> {
        let is_written = match self.heads {
            (Some((written, _)), Some((memtable, _))) => written < memtable.0,
            (written, _) => written.is_some(),
        };
        if is_written {
            let next = self.written.next()?;
            return Ok(std::mem::replace(&mut self.heads.0, next));
        }
        let next = std::mem::replace(&mut self.heads.1, self.memtable.next());
        Ok(next.map(|(key, kind)| (key.0, *kind)))
    }
}

/// A walk over the blocks of an index.
struct Written<const N: usize> {
    blocks: Range<'static, &'static [u8; N], &'static [u8]>,
    here: Option<Here<N>>,
    /// Where the walk ends.
    to: [u8; N],
    /// No block after this one is within bounds.
    is_last: bool,
}

/// Where a walk is in a block.
struct Here<const N: usize> {
    block: AccessGuard<'static, &'static [u8]>,
    prefix_len: usize,
    next: usize,
    end: usize,
}

impl<const N: usize> Written<N> {
    fn range(
        table: &ReadOnlyTable<&'static [u8; N], &'static [u8]>,
        from: Bound<&[u8; N]>,
        to: &[u8; N],
    ) -> Result<Written<N>, StoreError> {
        let blocks = table.range::<&[u8; N]>((from, Bound::Unbounded))?;
        let mut written = Written { blocks, here: None, to: *to, is_last: false };
        written.enter_block(from)?;
        Ok(written)
    }

    fn next(&mut self) -> Result<Option<Entry<N>>, StoreError> {
        loop {
            let Some(here) = &mut self.here else { return Ok(None) };
            if here.next < here.end {
                let entry = Block::resumed(here.block.value(), here.prefix_len).entry(here.next);
                here.next += 1;
                return Ok(Some(entry));
            }
            match self.is_last {
                true => self.here = None,
                false => self.enter_block(Bound::Unbounded)?,
            }
        }
    }

    /// Goes on with the next block, where what it has begins at a bound.
    fn enter_block(&mut self, from: Bound<&[u8; N]>) -> Result<(), StoreError> {
        let Some(found) = self.blocks.next() else {
            self.here = None;
            return Ok(());
        };
        let (fence, bytes) = found?;
        let block = Block::<N>::of(bytes.value())?;
        let next = match from {
            Bound::Included(key) => block.before(key),
            Bound::Excluded(key) => block.up_to(key),
            Bound::Unbounded => 0,
        };
        self.is_last = *fence.value() >= self.to;
        let end = if self.is_last { block.up_to(&self.to) } else { block.len() };
        let prefix_len = block.prefix_len();
        self.here = Some(Here { block: bytes, prefix_len, next, end });
        Ok(())
    }
}
