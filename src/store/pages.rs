//! The pages of a redb file, as far as checking them asks for: where a page is, what it names, and the checksum under
//! which another page names it. redb writes that checksum into every reference to a page and looks at it only when it
//! repairs a file, so `medium` looks at it whenever a page is read.
//!
//! This is the file format of redb's version 3. A file of another format is refused by redb, and a page that is not as
//! described here fails its checksum. So what this room does not know of redb can refuse a store; it cannot let a damaged
//! page pass.

use std::ops::Range;
use twox_hash::XxHash3_128;

/// Bytes of a page of order 0.
pub(super) const PAGE_LEN: u64 = 4_096;
/// Bytes of the header, at the beginning of the file.
pub(super) const HEADER_LEN: usize = 320;
/// How every redb file begins.
pub(super) const MAGIC: [u8; 9] = *b"redb\x1a\x0a\xa9\x0d\x0a";
/// A table of which a page may be damaged in part: every event proves itself.
const EVENTS: &[u8] = b"events";
const IDS: &[u8] = b"ids";

const LEAF: u8 = 1;
const BRANCH: u8 = 2;

const PRIMARY_IS_SECOND: u8 = 1;
const RECOVERY_REQUIRED: u8 = 2;
const TWO_PHASES: u8 = 4;
const FLAGS_AT: usize = MAGIC.len();
const REGION_HEADER_PAGES_AT: usize = 16;
const REGION_MAX_PAGES_AT: usize = 20;
const SLOTS_AT: [usize; 2] = [64, 192];
const SLOT_SUMMED_LEN: usize = 112;
const SLOT_ROOTS: [(usize, usize); 2] = [(1, 8), (2, 40)];

const SUM_LEN: usize = 16;
const NUMBER_LEN: usize = 8;

/// What the pages of one tree hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Tables by their names.
    Tables,
    /// The events.
    Events,
    /// The ids of events.
    Ids,
    /// Any other table.
    Other,
}

/// What has to be known of a tree to read its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub role: Role,
    key_len: Option<usize>,
    value_len: Option<usize>,
}

/// The tree of the tables themselves.
const TABLES: Shape = Shape { role: Role::Tables, key_len: None, value_len: None };

/// A page that is named: where it is, the low half of its checksum, and what it is part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub at: u64,
    pub len: u64,
    pub sum: u64,
    pub shape: Shape,
}

/// Where the pages lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Geometry {
    region_header_pages: u64,
    region_max_pages: u64,
}

impl Geometry {
    fn named(self, number: u64, sum: &[u8], shape: Shape) -> Option<Named> {
        let order = u32::try_from(number >> 59).ok()?;
        let index = number & (0xf_ffff >> order);
        let region = (number >> 20) & 0xf_ffff;
        let pages = 1 + region * (self.region_header_pages + self.region_max_pages) + self.region_header_pages;
        let len = PAGE_LEN << order;
        let at = pages.checked_mul(PAGE_LEN)?.checked_add(index * len)?;
        Some(Named { at, len, sum: low_half(sum)?, shape })
    }
}

/// The header of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub geometry: Geometry,
    /// Whether the file was not closed, or a repair of it did not come to its end: redb then looks at every checksum by
    /// itself, and takes the commit before the last if that was cut short. A file that is closed ends with a commit in two
    /// phases, which says where there is room.
    pub is_unclean: bool,
    /// The trees of the last commit and of the one before, as far as their slots hold; the last one first.
    pub slots: Vec<Vec<Named>>,
}

impl Header {
    /// Reads it; `None` if it is damaged. What redb judges by itself is left to it.
    pub(super) fn of(bytes: &[u8; HEADER_LEN]) -> Option<Header> {
        let geometry = Geometry {
            region_header_pages: u32_at(bytes, REGION_HEADER_PAGES_AT)?.into(),
            region_max_pages: u32_at(bytes, REGION_MAX_PAGES_AT)?.into(),
        };
        let is_unclean = bytes[FLAGS_AT] & (RECOVERY_REQUIRED | TWO_PHASES) != TWO_PHASES;
        let primary = usize::from(bytes[FLAGS_AT] & PRIMARY_IS_SECOND);
        let slot = |n: usize| slot(&bytes[SLOTS_AT[n]..][..SLOT_SUMMED_LEN + SUM_LEN], geometry);
        let (last, before) = (slot(primary), slot(primary ^ 1));
        let is_ours = bytes[..MAGIC.len()] == MAGIC;
        // A file that was closed ends with a commit that holds, and what has a commit that holds is a redb file.
        if (is_ours && !is_unclean && last.is_none()) || (!is_ours && (last.is_some() || before.is_some())) {
            return None;
        }
        let slots = [last, before].into_iter().flatten().collect();
        Some(Header { geometry, is_unclean, slots })
    }
}

/// The trees of a commit; `None` if the slot does not hold.
fn slot(bytes: &[u8], geometry: Geometry) -> Option<Vec<Named>> {
    let (summed, sum) = bytes.split_at(SLOT_SUMMED_LEN);
    if XxHash3_128::oneshot(summed).to_le_bytes() != sum {
        return None;
    }
    let roots = SLOT_ROOTS.iter().filter(|(is_there, _)| summed[*is_there] != 0);
    Some(roots.filter_map(|(_, at)| root(&summed[*at..], geometry, TABLES)).collect())
}

fn root(bytes: &[u8], geometry: Geometry, shape: Shape) -> Option<Named> {
    geometry.named(u64_at(bytes, 0)?, bytes.get(NUMBER_LEN..)?, shape)
}

/// The low half of the checksum that names a page; `None` if it is no page of this shape.
pub(super) fn sum(page: &[u8], shape: Shape) -> Option<u64> {
    let used = match *page.first()? {
        LEAF => Leaf::of(page, shape)?.end()?,
        BRANCH => branch_end(page, shape)?,
        _ => return None,
    };
    low_half(&XxHash3_128::oneshot(page.get(..used)?).to_le_bytes())
}

/// A sum of all bytes of a page.
pub(super) fn whole_sum(page: &[u8]) -> u64 {
    XxHash3_128::oneshot(page) as u64
}

/// Gives each page that a page names to `f`. What it names is as good as the page itself.
pub(super) fn for_each_named(page: &[u8], shape: Shape, geometry: Geometry, f: impl FnMut(Named)) {
    match page.first().copied() {
        Some(BRANCH) => {
            (0..children(page)).filter_map(|n| child(page, n, shape, geometry)).for_each(f);
        }
        Some(LEAF) if shape.role == Role::Tables => {
            let tables = Leaf::of(page, shape).into_iter().flat_map(|leaf| leaf.pairs());
            tables.filter_map(|(key, value)| table(&page[key], &page[value], geometry)).for_each(f);
        }
        _ => {}
    }
}

/// The entries of a leaf; `None` if it is none.
pub(super) fn pairs(page: &[u8], shape: Shape) -> Option<Vec<(Range<usize>, Range<usize>)>> {
    (page.first() == Some(&LEAF)).then(|| Leaf::of(page, shape))?.map(|leaf| leaf.pairs().collect())
}

/// How many entries a leaf says that it has.
pub(super) fn entries(page: &[u8]) -> usize {
    u16_at(page, 2).map_or(0, usize::from)
}

/// The root of the tree of the table that an entry in a leaf of the tables describes.
fn table(name: &[u8], definition: &[u8], geometry: Geometry) -> Option<Named> {
    const ROOT_AT: usize = 10;
    const ROOT_LEN: usize = NUMBER_LEN + SUM_LEN + 8;
    const KEY_LEN_AT: usize = ROOT_AT + ROOT_LEN;
    const VALUE_LEN_AT: usize = KEY_LEN_AT + 5;
    if *definition.get(ROOT_AT - 1)? == 0 {
        return None;
    }
    let fixed = |at: usize| -> Option<Option<usize>> {
        let len = u32_at(definition, at + 1)? as usize;
        Some((*definition.get(at)? != 0).then_some(len))
    };
    let (key_len, value_len) = (fixed(KEY_LEN_AT)?, fixed(VALUE_LEN_AT)?);
    let role = match (name, key_len, value_len) {
        (EVENTS, Some(8), None) => Role::Events,
        (IDS, Some(32), Some(16)) => Role::Ids,
        _ => Role::Other,
    };
    root(&definition[ROOT_AT..], geometry, Shape { role, key_len, value_len })
}

/// A leaf: `1 ‖ - ‖ entries (2) ‖ ends of keys (4 each) ‖ ends of values (4 each) ‖ keys ‖ values`. Ends of a fixed length
/// are left out.
struct Leaf<'a> {
    page: &'a [u8],
    entries: usize,
    shape: Shape,
}

impl<'a> Leaf<'a> {
    fn of(page: &'a [u8], shape: Shape) -> Option<Leaf<'a>> {
        let entries = usize::from(u16_at(page, 2)?);
        (entries > 0).then_some(Leaf { page, entries, shape })
    }

    fn ends_len(&self, fixed: Option<usize>) -> usize {
        if fixed.is_none() { 4 * self.entries } else { 0 }
    }

    fn key_end(&self, n: usize) -> Option<usize> {
        match self.shape.key_len {
            Some(len) => Some(4 + self.ends_len(self.shape.value_len) + len * (n + 1)),
            None => u32_at(self.page, 4 + 4 * n).map(|end| end as usize),
        }
    }

    fn value_end(&self, n: usize) -> Option<usize> {
        match self.shape.value_len {
            Some(len) => Some(self.key_end(self.entries - 1)? + len * (n + 1)),
            None => u32_at(self.page, 4 + self.ends_len(self.shape.key_len) + 4 * n).map(|end| end as usize),
        }
    }

    fn end(&self) -> Option<usize> {
        self.value_end(self.entries - 1)
    }

    fn pair(&self, n: usize) -> Option<(Range<usize>, Range<usize>)> {
        let keys = 4 + self.ends_len(self.shape.key_len) + self.ends_len(self.shape.value_len);
        let key = if n == 0 { keys } else { self.key_end(n - 1)? }..self.key_end(n)?;
        let value = if n == 0 { self.key_end(self.entries - 1)? } else { self.value_end(n - 1)? }..self.value_end(n)?;
        let is_within = |range: &Range<usize>| range.start <= range.end && range.end <= self.page.len();
        (is_within(&key) && is_within(&value)).then_some((key, value))
    }

    /// All that lie within the page.
    fn pairs(self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        (0..self.entries).filter_map(move |n| self.pair(n))
    }
}

/// A branch: `2 ‖ - ‖ keys (2) ‖ - (4) ‖ checksums of children (16 each) ‖ their numbers (8 each) ‖ ends of keys ‖ keys`.
fn children(page: &[u8]) -> usize {
    u16_at(page, 2).map_or(0, |keys| usize::from(keys) + 1)
}

fn child(page: &[u8], n: usize, shape: Shape, geometry: Geometry) -> Option<Named> {
    let number = u64_at(page, 8 + SUM_LEN * children(page) + NUMBER_LEN * n)?;
    geometry.named(number, page.get(8 + SUM_LEN * n..)?, shape)
}

fn branch_end(page: &[u8], shape: Shape) -> Option<usize> {
    let keys = children(page).checked_sub(2)? + 1;
    let after_children = 8 + (SUM_LEN + NUMBER_LEN) * (keys + 1);
    match shape.key_len {
        Some(len) => Some(after_children + len * keys),
        None => u32_at(page, after_children + 4 * (keys - 1)).map(|end| end as usize),
    }
}

fn low_half(sum: &[u8]) -> Option<u64> {
    u64_at(sum, 0)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
