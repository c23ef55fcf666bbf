//! The reconciliations that a client has begun (NIP-77): each compares his set with ours, which is as it was when he asked.
//!
//! A set of everything, or of some kinds, is one of those kept [`ready`] for all clients; any other is searched for, a step
//! at a time, and is the client's own. Messages are answered one at a time when the client's turn comes.

pub mod negentropy;
pub mod ready;
pub mod table;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::rc::Rc;

use self::negentropy::Malformed;
use self::ready::{Found, Lease, Ready, Slot};
use self::table::{Table, View};
use crate::fault::shared;
use crate::limits::{
    CLIENT_ENTRIES_MAX, CLIENT_FRAME_BYTES, CLIENT_FRAME_BYTES_MAX, CLIENT_RECONCILIATION_IDLE,
    CLIENT_RECONCILIATIONS_MAX, CLIENT_SETS_BYTES_MAX, ENTRIES_PER_CANDIDATE,
};
use crate::protocol::filter::Filter;
use crate::store::{IdStep, SET_BLOCK_ITEMS, SetItem, SetSearch, Store, StoreError};
use crate::time::{Instant, Now};

/// Bytes of a message for which answering it costs about as much as looking at a candidate of a query.
const MESSAGE_BYTES_PER_CANDIDATE: usize = 512;
/// Bytes of memory that a reconciliation takes beside its set and its filter, about.
const RECONCILIATION_BYTES: usize = 512;

/// Why a reconciliation is not begun, or has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// There are [`CLIENT_RECONCILIATIONS_MAX`] already.
    TooMany,
    /// The set has more events than this.
    TooLarge(u64),
    /// There is none of this name.
    Unknown,
    /// The payload is not hexadecimal.
    NotHex,
    /// The payload is no message of the protocol.
    Malformed(Malformed),
    /// A message came before the last was answered.
    Impatient,
    /// The client has said nothing for [`CLIENT_RECONCILIATION_IDLE`].
    Idle,
    /// So much has changed since that the old set would take too much memory.
    Outdated,
}

/// Something to tell the client about one of his reconciliations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// The next message of the protocol.
    Message(Vec<u8>),
    /// It has ended.
    Failed(Failure),
}

/// What a client opens a reconciliation with.
#[derive(Debug)]
pub struct Opening<'a> {
    /// The name that he gives it.
    pub name: &'a str,
    /// Of what.
    pub filter: Filter,
    /// The first message of the protocol.
    pub message: Vec<u8>,
}

/// One client's reconciliations.
#[derive(Debug, Default)]
pub struct Reconciliations {
    open: BTreeMap<String, Reconciliation>,
    /// The one that had its turn last.
    last: String,
    /// For tests: bytes of all sets, in place of the limit.
    #[cfg(test)]
    room: Option<usize>,
}

#[derive(Debug)]
struct Reconciliation {
    filter: Rc<Filter>,
    set: Set,
    /// What has yet to be answered.
    message: Option<Vec<u8>>,
    /// The longest message yet: he takes as much as he gives.
    longest: usize,
    heard_at: Instant,
}

#[derive(Debug)]
enum Set {
    /// It will be one of those that are kept ready.
    Waiting(Slot),
    Searching(Box<SetSearch>),
    Own(View),
    /// One of those that are kept ready, and what bytes of it are kept for this client alone.
    Leased(Slot, Lease, usize),
}

impl Reconciliation {
    fn has_work(&self) -> bool {
        match self.set {
            Set::Waiting(_) => false,
            Set::Searching(_) => true,
            Set::Own(_) | Set::Leased(..) => self.message.is_some(),
        }
    }

    fn set_bytes(&self) -> usize {
        match &self.set {
            Set::Waiting(_) => 0,
            Set::Searching(search) => search.bytes(),
            Set::Own(view) => view.table().bytes(),
            Set::Leased(.., own) => *own,
        }
    }

    /// What of the client's room for sets it takes: places are noted beside, for a moment.
    fn room_taken(&self) -> usize {
        if let Set::Searching(search) = &self.set { search.set_bytes() } else { self.set_bytes() }
    }

    /// When it ends if nothing is heard; never while we are the ones to speak.
    fn ends_at(&self) -> Option<Instant> {
        let waits_for_client = matches!(self.set, Set::Own(_) | Set::Leased(..)) && self.message.is_none();
        waits_for_client.then(|| self.heard_at + CLIENT_RECONCILIATION_IDLE)
    }

    fn frame_max(&self) -> usize {
        self.longest.clamp(CLIENT_FRAME_BYTES, CLIENT_FRAME_BYTES_MAX)
    }
}

impl Reconciliations {
    /// Begins one, in place of that of the same name.
    ///
    /// # Errors
    ///
    /// If there are too many.
    pub fn open(
        &mut self,
        now: Now,
        client: u64,
        opening: Opening<'_>,
        store: &Store,
        ready: &mut Ready,
    ) -> Result<(), Failure> {
        let Opening { name, filter, message } = opening;
        if self.open.len() >= CLIENT_RECONCILIATIONS_MAX {
            return Err(Failure::TooMany);
        }
        let slot = Slot::of(&filter).filter(|slot| filter.is_of_any_time() || ready.has(*slot, &filter));
        let slot = slot.filter(|slot| shared(|| ready.wait(*slot, &filter, client, store, now)));
        let filter = Rc::new(filter);
        let set = slot.map_or_else(|| self.search(&filter, store), Set::Waiting);
        let longest = message.len();
        let new = Reconciliation { filter, set, message: Some(message), longest, heard_at: now.mono };
        self.open.insert(name.to_owned(), new);
        Ok(())
    }

    fn search(&self, filter: &Rc<Filter>, store: &Store) -> Set {
        let ids_max = self.ids_max().min(CLIENT_ENTRIES_MAX);
        Set::Searching(Box::new(SetSearch::new(Rc::clone(filter), store.last_seq(), CLIENT_ENTRIES_MAX, ids_max)))
    }

    /// Events for which there is room.
    fn ids_max(&self) -> usize {
        let taken: usize = self.open.values().map(Reconciliation::room_taken).sum();
        self.room().saturating_sub(taken) / size_of::<SetItem>()
    }

    /// Bytes that all sets may take.
    fn room(&self) -> usize {
        #[cfg(test)]
        if let Some(room) = self.room {
            return room;
        }
        CLIENT_SETS_BYTES_MAX
    }

    #[cfg(test)]
    pub(super) fn set_room(&mut self, bytes: usize) {
        self.room = Some(bytes);
    }

    /// The client's next message.
    ///
    /// # Errors
    ///
    /// If there is no such reconciliation, or it has a message already.
    pub fn on_message(&mut self, now: Instant, name: &str, message: Vec<u8>) -> Result<(), Failure> {
        let reconciliation = self.open.get_mut(name).ok_or(Failure::Unknown)?;
        if reconciliation.message.is_some() {
            return Err(Failure::Impatient);
        }
        reconciliation.longest = reconciliation.longest.max(message.len());
        reconciliation.message = Some(message);
        reconciliation.heard_at = now;
        Ok(())
    }

    /// Ends one; whether there was one.
    pub fn close(&mut self, name: &str) -> bool {
        self.open.remove(name).is_some()
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// Whether there is anything to do at once.
    pub fn has_work(&self) -> bool {
        self.open.values().any(Reconciliation::has_work)
    }

    /// Bytes of memory that the filters take.
    pub fn filter_bytes(&self) -> usize {
        self.open.values().map(|one| RECONCILIATION_BYTES + one.filter.bytes()).sum()
    }

    /// Bytes of memory that all of it takes, about; sets that are shared with others are not his.
    pub fn bytes(&self) -> usize {
        let of = |one: &Reconciliation| one.set_bytes() + one.message.as_ref().map_or(0, Vec::len);
        self.filter_bytes() + self.open.values().map(of).sum::<usize>()
    }

    /// When [`Reconciliations::end_idle`] has something to end.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.open.values().filter_map(Reconciliation::ends_at).min()
    }

    /// Ends what the client has forgotten, and names it.
    pub fn end_idle(&mut self, now: Instant) -> Vec<String> {
        let is_over = |one: &Reconciliation| one.ends_at().is_some_and(|at| at <= now);
        let over = self.open.iter().filter(|(_, one)| is_over(one)).map(|(name, _)| name.clone());
        let over: Vec<String> = over.collect();
        over.iter().for_each(|name| _ = self.open.remove(name));
        over
    }

    /// A set that is kept ready is there, or cannot be. Returns what has failed.
    pub fn on_ready(&mut self, slot: Slot, found: Found, ready: &Ready) -> Vec<(String, Failure)> {
        let mut failed = Vec::new();
        for (name, one) in &mut self.open {
            if !matches!(one.set, Set::Waiting(of) if of == slot) {
                continue;
            }
            match ready.lease(slot, &one.filter).filter(|_| found == Found::There) {
                Some(lease) => one.set = Set::Leased(slot, lease, 0),
                None => failed.push((name.clone(), Failure::TooLarge(CLIENT_ENTRIES_MAX as u64))),
            }
        }
        failed.iter().for_each(|(name, _)| _ = self.open.remove(name));
        failed
    }

    /// Goes one step on with the next one that has something to do: `candidates` is what that should cost at most. Returns what
    /// to tell the client, and what it has cost.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn step(
        &mut self,
        now: Now,
        client: u64,
        candidates: usize,
        store: &Store,
        ready: &mut Ready,
    ) -> Result<(Option<(String, Word)>, usize), StoreError> {
        let behind = self.open.range::<str, _>((Bound::Excluded(&*self.last), Bound::Unbounded));
        let next = behind.chain(&self.open).find(|(_, one)| one.has_work()).map(|(name, _)| name.clone());
        let Some(name) = next else { return Ok((None, 0)) };
        self.last.clone_from(&name);
        let others: usize = self.open.iter().filter(|(of, _)| **of != name).map(|(_, one)| one.room_taken()).sum();
        let room = self.room().saturating_sub(others);
        let one = self.open.get_mut(&name).expect("what has work is open");
        let (word, cost) = match &mut one.set {
            Set::Searching(search) => {
                let entries = candidates * ENTRIES_PER_CANDIDATE;
                let step = shared(|| search.step(store, now.wall, entries))?;
                // Others may have found more since it began.
                let is_over = search.set_bytes() > room + SET_BLOCK_ITEMS * size_of::<SetItem>();
                let word = match step {
                    _ if is_over => one.wait_or_fail(room, client, store, ready, now),
                    IdStep::More => None,
                    IdStep::Whole => {
                        one.set = Set::Own(own_view(&mut one.set));
                        None
                    }
                    IdStep::TooLarge => one.wait_or_fail(room, client, store, ready, now),
                };
                (word, candidates)
            }
            Set::Own(_) | Set::Leased(..) => {
                let message = one.message.take().unwrap_or_default();
                one.heard_at = now.mono;
                (Some(one.answer(&message, room, ready)), 1 + message.len() / MESSAGE_BYTES_PER_CANDIDATE)
            }
            Set::Waiting(_) => (None, 0),
        };
        if let Some(Word::Failed(_)) = word {
            self.open.remove(&name);
        }
        Ok((word.map(|word| (name, word)), cost))
    }

    /// Panics if there is more than allowed.
    pub fn assert_invariants(&self) {
        assert!(self.open.len() <= CLIENT_RECONCILIATIONS_MAX);
    }
}

impl Reconciliation {
    /// The client's own set would be too large. It may be a part of one that is kept for all.
    fn wait_or_fail(&mut self, room: usize, client: u64, store: &Store, ready: &mut Ready, now: Now) -> Option<Word> {
        let slot = Slot::of(&self.filter);
        match slot.filter(|slot| shared(|| ready.wait(*slot, &self.filter, client, store, now))) {
            Some(slot) => {
                self.set = Set::Waiting(slot);
                None
            }
            None => {
                let events = (room / size_of::<SetItem>()).min(CLIENT_ENTRIES_MAX);
                Some(Word::Failed(Failure::TooLarge(events as u64)))
            }
        }
    }

    /// `room`: bytes that its set may take.
    fn answer(&mut self, message: &[u8], room: usize, ready: &Ready) -> Word {
        let frame_max = self.frame_max();
        let view = match &mut self.set {
            Set::Own(view) => view,
            Set::Leased(slot, lease, own) => {
                *own = ready.own_bytes(*slot, lease);
                if *own > room {
                    return Word::Failed(Failure::Outdated);
                }
                &mut lease.view
            }
            Set::Waiting(_) | Set::Searching(_) => unreachable!("its set is there"),
        };
        match negentropy::answer(view, message, frame_max) {
            Ok(answer) => Word::Message(answer),
            Err(malformed) => Word::Failed(Failure::Malformed(malformed)),
        }
    }
}

/// The set that a search has found.
fn own_view(set: &mut Set) -> View {
    let nothing = Set::Own(View::within(Rc::new(Table::new([])), 0, u64::MAX));
    match std::mem::replace(set, nothing) {
        Set::Searching(search) => View::within(Rc::new(Table::new(search.into_blocks())), 0, u64::MAX),
        _ => unreachable!("it was searched for"),
    }
}
