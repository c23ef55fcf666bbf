//! The file of a store without redb: every page by the reference that names it, and the events in them. It changes
//! nothing, and needs nothing to hold.

use super::Seq;
use super::damage;
use super::pages::{self, HEADER_LEN, Header, Named, PAGE_LEN, Role};
use super::schema;
use crate::limits::SALVAGE_EVENT_BYTES_MAX;
use crate::protocol::message::RawEvent;
use nostr::event::EventId;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Error, ErrorKind};
use std::ops::ControlFlow;

/// Reads bytes at a place of the file.
pub type ReadAt<'a> = &'a dyn Fn(u64, &mut [u8]) -> Result<(), Error>;

/// What was found of a file's pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pages {
    /// Pages that were looked at.
    pub all: u64,
    /// Pages of events that do not hold, each with some events at most.
    pub of_events: u64,
    /// Other pages that do not hold. What only they name was not looked at.
    pub others: u64,
    /// Whether the header does not hold, so that no page could be found.
    pub no_header: bool,
}

impl Pages {
    /// Whether every page holds.
    pub fn is_sound(&self) -> bool {
        !self.no_header && self.of_events + self.others == 0
    }
}

/// What became of a salvage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// Events written.
    pub written: u64,
    /// Ids that were known as held, and whose events were not found.
    pub lost: BTreeSet<EventId>,
    /// Whether some ids that were held may not be known: the pages that list them do not hold.
    pub may_be_more: bool,
}

/// Looks at every page that the last commit names.
///
/// # Errors
///
/// If the file cannot be read.
pub fn check_pages(read_at: ReadAt<'_>, file_len: u64) -> Result<Pages, Error> {
    Ok(last_commit(read_at, file_len)?.pages)
}

/// Gives every event that holds, by its id and its author's signature, to `f`, until it breaks: those of the last commit,
/// and if some of its pages do not hold, what else is found anywhere in the file. That is what is known as held, or, where
/// that cannot be told, whatever is not known as deleted.
///
/// # Errors
///
/// If the file cannot be read.
pub fn salvage(
    read_at: ReadAt<'_>,
    file_len: u64,
    f: &mut dyn FnMut(Seq, &str) -> ControlFlow<()>,
) -> Result<Salvaged, Error> {
    let commit = last_commit(read_at, file_len)?;
    let may_be_more = commit.pages.others > 0 || commit.pages.no_header;
    let salvaged = Salvaged { may_be_more, ..Salvaged::default() };
    let mut salvage = Salvage { held: commit.held, f, salvaged, given: BTreeSet::new() };
    for leaf in commit.leaves {
        if salvage.give_leaf(read_at, leaf)?.is_break() {
            return Ok(salvage.salvaged);
        }
    }
    if !commit.pages.is_sound() {
        salvage.scan(read_at, file_len)?;
    }
    let Salvage { held, given, mut salvaged, .. } = salvage;
    let is_lost = |(id, seq): (EventId, Seq)| (seq != schema::DELETED && !given.contains(&id)).then_some(id);
    salvaged.lost = held.into_iter().filter_map(is_lost).collect();
    Ok(salvaged)
}

/// What the pages of one commit say.
#[derive(Default)]
struct Commit {
    pages: Pages,
    /// Of the events, in the order of their sequence numbers.
    leaves: Vec<Named>,
    /// The table of ids, as far as it holds.
    held: BTreeMap<EventId, Seq>,
}

/// The last commit; of a file that was not closed the one before, if only that holds.
fn last_commit(read_at: ReadAt<'_>, file_len: u64) -> Result<Commit, Error> {
    let no_header = || Commit { pages: Pages { no_header: true, ..Pages::default() }, ..Commit::default() };
    let mut bytes = [0; HEADER_LEN];
    if file_len < PAGE_LEN {
        return Ok(no_header());
    }
    read_at(0, &mut bytes)?;
    let Some(header) = Header::of(&bytes) else { return Ok(no_header()) };
    let mut commits = header.slots.iter().map(|roots| walk(read_at, file_len, &header, roots));
    let Some(last) = commits.next().transpose()? else { return Ok(no_header()) };
    if header.is_unclean
        && !last.pages.is_sound()
        && let Some(before) = commits.next().transpose()?
        && before.pages.is_sound()
    {
        return Ok(before);
    }
    Ok(last)
}

fn walk(read_at: ReadAt<'_>, file_len: u64, header: &Header, roots: &[Named]) -> Result<Commit, Error> {
    let mut commit = Commit::default();
    let mut page = Vec::new();
    // The last is the next, so that children are met in their order.
    let mut left: Vec<Named> = roots.iter().rev().copied().collect();
    let pages_max = file_len / PAGE_LEN;
    while let Some(named) = left.pop() {
        commit.pages.all += 1;
        let is_read = commit.pages.all <= pages_max && read_page(read_at, file_len, named, &mut page)?;
        let holds = is_read && pages::sum(&page, named.shape) == Some(named.sum);
        let is_leaf = is_read && pages::pairs(&page, named.shape).is_some();
        if named.shape.role == Role::Events && is_leaf {
            commit.leaves.push(named);
        }
        match (holds, named.shape.role) {
            (true, role) => {
                if role == Role::Ids && is_leaf {
                    commit.held.extend(ids(&page, named));
                }
                let first = left.len();
                pages::for_each_named(&page, named.shape, header.geometry, |child| left.push(child));
                left[first..].reverse();
            }
            (false, Role::Events) if is_leaf => commit.pages.of_events += 1,
            (false, _) => commit.pages.others += 1,
        }
    }
    Ok(commit)
}

/// Reads a page; says whether it is within the file.
fn read_page(read_at: ReadAt<'_>, file_len: u64, named: Named, page: &mut Vec<u8>) -> Result<bool, Error> {
    if named.at.saturating_add(named.len) > file_len {
        return Ok(false);
    }
    page.resize(named.len as usize, 0);
    read_at(named.at, page)?;
    Ok(true)
}

fn ids(page: &[u8], named: Named) -> Vec<(EventId, Seq)> {
    let pairs = pages::pairs(page, named.shape).unwrap_or_default();
    let entry = |(key, value): (std::ops::Range<usize>, std::ops::Range<usize>)| {
        let id: [u8; 32] = page[key].try_into().ok()?;
        let seq = page[value].first_chunk()?;
        Some((EventId::from_byte_array(id), Seq::from_le_bytes(*seq)))
    };
    pairs.into_iter().filter_map(entry).collect()
}

struct Salvage<'a> {
    held: BTreeMap<EventId, Seq>,
    f: &'a mut dyn FnMut(Seq, &str) -> ControlFlow<()>,
    salvaged: Salvaged,
    given: BTreeSet<EventId>,
}

impl Salvage<'_> {
    fn give_leaf(&mut self, read_at: ReadAt<'_>, leaf: Named) -> Result<ControlFlow<()>, Error> {
        let mut page = vec![0; leaf.len as usize];
        read_at(leaf.at, &mut page)?;
        for (key, value) in pages::pairs(&page, leaf.shape).unwrap_or_default() {
            let seq = page[key].first_chunk().map_or(0, |seq| Seq::from_le_bytes(*seq));
            if self.give(seq, &page[value]).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Gives an event that holds and was not given yet.
    fn give(&mut self, seq: Seq, record: &[u8]) -> ControlFlow<()> {
        let Some(json) = std::str::from_utf8(record).ok().filter(|_| damage::holds(record)) else {
            return ControlFlow::Continue(());
        };
        let Ok(raw) = RawEvent::from_json(json) else { return ControlFlow::Continue(()) };
        if self.held.get(&raw.id) == Some(&schema::DELETED) || !self.given.insert(raw.id) {
            return ControlFlow::Continue(());
        }
        self.salvaged.written += 1;
        (self.f)(seq, json)
    }

    /// Whether an event that is found apart from its place should be given.
    fn is_wanted(&self, json: &str) -> bool {
        let id = RawEvent::from_json(json).map(|raw| raw.id);
        id.is_ok_and(|id| (self.salvaged.may_be_more || self.held.contains_key(&id)) && !self.given.contains(&id))
    }

    /// Looks for what begins as a stored event does, wherever it stands: pages that were given up keep what they had.
    fn scan(&mut self, read_at: ReadAt<'_>, file_len: u64) -> Result<(), Error> {
        const STEP: u64 = 4 << 20;
        let mut bytes = Vec::new();
        let mut at = 0;
        while at < file_len {
            let len = (file_len - at).min(STEP + SALVAGE_EVENT_BYTES_MAX as u64);
            bytes.resize(usize::try_from(len).map_err(|_| ErrorKind::FileTooLarge)?, 0);
            read_at(at, &mut bytes)?;
            for begin in begins(&bytes).take_while(|begin| (*begin as u64) < STEP) {
                let mut values = serde_json::Deserializer::from_slice(&bytes[begin..]).into_iter::<&RawValue>();
                if let Some(Ok(json)) = values.next()
                    && self.is_wanted(json.get())
                    && self.give(0, json.get().as_bytes()).is_break()
                {
                    return Ok(());
                }
            }
            at += STEP;
        }
        Ok(())
    }
}

/// Where something begins as a stored event does.
fn begins(bytes: &[u8]) -> impl Iterator<Item = usize> {
    const BEGINNING: &[u8] = b"{\"id\":\"";
    let braces = bytes.iter().enumerate().filter(|(_, byte)| **byte == BEGINNING[0]).map(|(at, _)| at);
    braces.filter(|at| bytes[*at..].starts_with(BEGINNING))
}
