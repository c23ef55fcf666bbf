//! The sets that many clients ask for, kept ready for all of them: that of every event, and that of some kinds.
//!
//! A set is searched for once, however many wait for it, and brought up to date with what commits have changed since. Whoever
//! reconciles keeps the one that he was given, which shares with the newest all that has not changed. It goes when nobody
//! has asked for it for a while.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::table::{Table, View};
use crate::limits::{CHANGES_APPLIED_AT, CLIENT_ENTRIES_MAX, READY_SET_KEPT_FOR, READY_SETS_MAX};
use crate::protocol::filter::{Filter, Narrowest};
use crate::store::{ChangeMark, IdStep, SetSearch, Store, StoreError};
use crate::time::{Instant, Now};

/// Which of the sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// Every event.
    All,
    /// Events of some kinds: those that were asked for last while nobody used another.
    Kinds,
}

/// What a client holds of a set.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The set as it was.
    pub view: View,
    /// What had been replaced by then.
    replaced: u64,
    /// Held for as long as it is used.
    _used: Rc<()>,
}

/// The sets.
#[derive(Debug, Default)]
pub struct Ready {
    slots: [Option<Kept>; READY_SETS_MAX],
}

#[derive(Debug)]
struct Kept {
    kinds: Option<Box<[u16]>>,
    state: State,
    /// Clients that wait until it is there.
    waiting: BTreeSet<u64>,
    asked_at: Instant,
    /// Everything up to here is in it, or will be.
    mark: ChangeMark,
    /// Bytes of blocks that were replaced since it was made.
    replaced: u64,
    used: Rc<()>,
}

#[derive(Debug)]
enum State {
    Searching(Box<SetSearch>),
    There(Rc<Table>),
}

/// What came of waiting for a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It is there.
    There,
    /// There are too many events.
    TooLarge,
}

impl Slot {
    /// The slot whose set has all that a filter selects, if there is one.
    pub fn of(filter: &Filter) -> Option<Slot> {
        match (filter.narrowest(), filter.limit()) {
            (Narrowest::Any, None) => Some(Slot::All),
            (Narrowest::Kinds(_), None) => Some(Slot::Kinds),
            _ => None,
        }
    }
}

impl Ready {
    /// Lets a client wait for the set of a filter of this slot. `false`: others use the slot for another set.
    pub fn wait(&mut self, slot: Slot, filter: &Filter, client: u64, store: &Store, now: Now) -> bool {
        let entry = &mut self.slots[slot as usize];
        if let Some(kept) = entry.as_ref().filter(|kept| kept.kinds.as_deref() != filter.kinds()) {
            if Rc::strong_count(&kept.used) > 1 || !kept.waiting.is_empty() {
                return false;
            }
            *entry = None;
        }
        let kept = entry.get_or_insert_with(|| Kept::search(filter.kinds(), store, now.mono));
        kept.asked_at = now.mono;
        kept.waiting.insert(client);
        true
    }

    /// Whether the set of a filter of this slot is there already.
    pub fn has(&self, slot: Slot, filter: &Filter) -> bool {
        let is_it = |kept: &Kept| matches!(kept.state, State::There(_)) && kept.kinds.as_deref() == filter.kinds();
        self.slots[slot as usize].as_ref().is_some_and(is_it)
    }

    /// A client waits no more.
    pub fn forget(&mut self, client: u64) {
        self.slots.iter_mut().flatten().for_each(|kept| _ = kept.waiting.remove(&client));
    }

    /// Whether a set is there, or being searched for, that somebody waits for.
    pub fn has_work(&self) -> bool {
        self.slots.iter().flatten().any(|kept| !kept.waiting.is_empty())
    }

    /// Goes on by about so many index entries, and says what those may have who waited.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn step(
        &mut self,
        entries: usize,
        store: &Store,
        now: Now,
    ) -> Result<Option<(Slot, Found, BTreeSet<u64>)>, StoreError> {
        for (slot, entry) in [Slot::All, Slot::Kinds].into_iter().zip(&mut self.slots) {
            let Some(kept) = entry.as_mut().filter(|kept| !kept.waiting.is_empty()) else { continue };
            let found = match &mut kept.state {
                State::There(_) => kept.bring_up_to_date(store),
                State::Searching(search) => match search.step(store, now.wall, entries)? {
                    IdStep::More => None,
                    IdStep::TooLarge => Some(Found::TooLarge),
                    IdStep::Whole => {
                        kept.there();
                        kept.bring_up_to_date(store)
                    }
                },
            };
            let Some(found) = found else { return Ok(None) };
            let waiting = std::mem::take(&mut kept.waiting);
            if found == Found::TooLarge {
                *entry = None;
            }
            self.watch(store);
            return Ok(Some((slot, found, waiting)));
        }
        Ok(None)
    }

    /// A commit has changed something: sets are brought up to date before that is forgotten.
    pub fn on_committed(&mut self, store: &Store) {
        for kept in self.slots.iter_mut().flatten() {
            let changes = store.changes_since(kept.mark).map(|changes| changes.len());
            if matches!(kept.state, State::There(_)) && changes.is_none_or(|changes| changes >= CHANGES_APPLIED_AT) {
                kept.bring_up_to_date(store);
            }
        }
    }

    /// The part of a set that a filter selects, if it is there.
    pub fn lease(&self, slot: Slot, filter: &Filter) -> Option<Lease> {
        let kept = self.slots[slot as usize].as_ref().filter(|kept| kept.kinds.as_deref() == filter.kinds())?;
        let State::There(table) = &kept.state else { return None };
        let view = View::within(Rc::clone(table), filter.since().as_secs(), filter.until().as_secs());
        Some(Lease { view, replaced: kept.replaced, _used: Rc::clone(&kept.used) })
    }

    /// Bytes of memory that a client holds for himself alone, about: what of his set the newest does not have.
    pub fn own_bytes(&self, slot: Slot, lease: &Lease) -> usize {
        match &self.slots[slot as usize] {
            Some(kept) if Rc::ptr_eq(&kept.used, &lease._used) => {
                let replaced = usize::try_from(kept.replaced - lease.replaced).unwrap_or(usize::MAX);
                let own = if replaced == 0 { 0 } else { lease.view.table().own_bytes() };
                own + replaced.min(lease.view.table().bytes())
            }
            _ => lease.view.table().bytes(),
        }
    }

    /// Bytes of memory that the sets take.
    pub fn bytes(&self) -> usize {
        let of = |kept: &Kept| match &kept.state {
            State::Searching(search) => search.bytes(),
            State::There(table) => table.bytes(),
        };
        self.slots.iter().flatten().map(of).sum()
    }

    /// When a set that nobody has asked for goes.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.slots.iter().flatten().filter(|kept| kept.waiting.is_empty()).map(Kept::goes_at).min()
    }

    /// Lets go of sets that nobody has asked for, nor uses.
    pub fn on_time(&mut self, store: &Store, now: Instant) {
        for entry in &mut self.slots {
            let is_over = |kept: &&mut Kept| kept.waiting.is_empty() && kept.goes_at() <= now;
            let Some(kept) = entry.as_mut().filter(is_over) else { continue };
            if Rc::strong_count(&kept.used) > 1 {
                kept.asked_at = now;
            } else {
                *entry = None;
            }
        }
        self.watch(store);
    }

    fn watch(&self, store: &Store) {
        store.watch_changes(self.slots.iter().any(Option::is_some));
    }
}

impl Kept {
    fn search(kinds: Option<&[u16]>, store: &Store, now: Instant) -> Kept {
        // First of all, so that nothing which comes or goes while it is searched for is missed.
        store.watch_changes(true);
        Kept {
            kinds: kinds.map(Box::from),
            state: State::Searching(Box::new(search(kinds, store))),
            waiting: BTreeSet::new(),
            asked_at: now,
            mark: store.change_mark(),
            replaced: 0,
            used: Rc::default(),
        }
    }

    fn there(&mut self) {
        let nothing = State::There(Rc::new(Table::new([])));
        self.state = match std::mem::replace(&mut self.state, nothing) {
            State::Searching(search) => State::There(Rc::new(Table::new(search.into_blocks()))),
            there @ State::There(_) => there,
        };
    }

    /// Applies what has changed since the set was made. `None`: that is not known any more, and it is searched for anew.
    fn bring_up_to_date(&mut self, store: &Store) -> Option<Found> {
        let State::There(table) = &self.state else { return None };
        let Some(changes) = store.changes_since(self.mark) else {
            let (waiting, asked_at) = (std::mem::take(&mut self.waiting), self.asked_at);
            *self = Kept { waiting, asked_at, ..Kept::search(self.kinds.take().as_deref(), store, asked_at) };
            return None;
        };
        self.mark = store.change_mark();
        let kinds = self.kinds.as_deref();
        let mut changes = changes.filter(|change| kinds.is_none_or(|kinds| kinds.contains(&change.kind))).peekable();
        if changes.peek().is_some() {
            let (changed, replaced) = table.changed(changes);
            self.replaced += replaced as u64;
            self.state = State::There(Rc::new(changed));
        }
        let State::There(table) = &self.state else { return None };
        Some(if table.size() > CLIENT_ENTRIES_MAX { Found::TooLarge } else { Found::There })
    }

    fn goes_at(&self) -> Instant {
        self.asked_at + READY_SET_KEPT_FOR
    }
}

fn search(kinds: Option<&[u16]>, store: &Store) -> SetSearch {
    let filter = kinds.map_or_else(Filter::default, |kinds| Filter::of_kinds(kinds.iter().copied()));
    SetSearch::new(Rc::new(filter), store.last_seq(), CLIENT_ENTRIES_MAX, CLIENT_ENTRIES_MAX)
}
