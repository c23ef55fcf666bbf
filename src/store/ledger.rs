//! Under which checksum each page of the file is known: from the page that names it, or from what was written there since
//! the process began. Eight bytes for each page up to the last one that was named: a five-hundredth of the file.

use super::pages::{self, Geometry, Named, PAGE_LEN, Shape};

/// What is known of the page at each multiple of [`PAGE_LEN`]: 0 for nothing, else [`IS_KNOWN`], where it is from, the
/// number of its shape, and the low bits of a sum.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub geometry: Geometry,
    /// Bytes of the file: beyond them no page is.
    pub file_len: u64,
    entries: Vec<u64>,
    shapes: Vec<Shape>,
}

const IS_KNOWN: u64 = 1 << 63;
/// The sum is that of all bytes, as they were written; otherwise that of a reference.
const IS_WRITTEN: u64 = 1 << 62;
const SHAPE_AT: u32 = 56;
const SHAPE_MASK: u64 = 0x3f;
const SUM_MASK: u64 = (1 << SHAPE_AT) - 1;

/// What became of a look at a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checked {
    Holds,
    /// It is not what was named or written; its shape, if a reference told it.
    Damaged(Option<Shape>),
    /// No page that was read names it.
    Unnamed,
}

impl Ledger {
    /// Takes in a reference. What was written by this process needs none.
    pub(super) fn learn(&mut self, named: Named) {
        if !named.at.is_multiple_of(PAGE_LEN) || named.at.saturating_add(named.len) > self.file_len {
            return;
        }
        let Some(shape) = self.shape_number(named.shape) else { return };
        let entry = self.entry(named.at);
        if *entry & IS_WRITTEN == 0 {
            *entry = IS_KNOWN | shape << SHAPE_AT | named.sum & SUM_MASK;
        }
    }

    /// Takes in what was written.
    pub(super) fn wrote(&mut self, at: u64, page: &[u8]) {
        *self.entry(at) = IS_KNOWN | IS_WRITTEN | pages::whole_sum(page) & SUM_MASK;
    }

    /// Compares what was read with what is known, and takes in what a page that holds names.
    pub(super) fn check(&mut self, at: u64, page: &[u8]) -> Checked {
        let entry = usize::try_from(at / PAGE_LEN).ok().and_then(|index| self.entries.get(index)).copied().unwrap_or(0);
        if entry & IS_KNOWN == 0 {
            return Checked::Unnamed;
        }
        if entry & IS_WRITTEN != 0 {
            let holds = pages::whole_sum(page) & SUM_MASK == entry & SUM_MASK;
            return if holds { Checked::Holds } else { Checked::Damaged(None) };
        }
        let shape = self.shapes[(entry >> SHAPE_AT & SHAPE_MASK) as usize];
        if pages::sum(page, shape).is_none_or(|sum| sum & SUM_MASK != entry & SUM_MASK) {
            return Checked::Damaged(Some(shape));
        }
        pages::for_each_named(page, shape, self.geometry, |named| self.learn(named));
        Checked::Holds
    }

    fn entry(&mut self, at: u64) -> &mut u64 {
        let index = (at / PAGE_LEN) as usize;
        if index >= self.entries.len() {
            self.entries.resize(index + 1, 0);
        }
        &mut self.entries[index]
    }

    /// The number of a shape; `None` beyond the few that there are.
    fn shape_number(&mut self, shape: Shape) -> Option<u64> {
        let number = self.shapes.iter().position(|known| *known == shape).unwrap_or_else(|| {
            self.shapes.push(shape);
            self.shapes.len() - 1
        });
        u64::try_from(number).ok().filter(|number| *number <= SHAPE_MASK)
    }
}
