//! The ids of a selection, looked for a step at a time: there may be as many as there are events, and between two steps
//! others have their turn, commits among them. What came or went meanwhile may be given or not.

use super::ids::{By, Selected, Selection, Tags, author_of, id_of};
use super::index::Index;
use super::schema::{self, Place};
use super::snapshot::Snapshot;
use super::{Seq, Store, StoreError};
use crate::limits::EXPIRED_LEFT_OUT_MAX;
use crate::time::UnixTime;
use nostr::event::EventId;
use std::collections::BTreeSet;
use std::ops::Bound;

/// How far a search has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdStep {
    /// There is more: ask again.
    More,
    /// Every id was given.
    Whole,
    /// There are more than the caller allowed; what was given is a part of no use.
    TooLarge,
}

/// Of so many events one is wanted, at least, for a walk over all ids to be cheaper than looking up each.
const SCAN_WORTH: u64 = 8;
/// Entries that looking at one event costs as much as.
const LOOK_COST: usize = 4;

/// One look for ids: every committed, unexpired event of a selection, under each letter by which it is found and some of
/// them twice, in no particular order.
#[derive(Debug)]
pub struct IdSearch {
    selection: Selection,
    /// Entries that may still be looked at.
    left: usize,
    stage: Stage,
    /// Each step gives what it has noted.
    gives_as_it_goes: bool,
    /// Where what is wanted stands, and by which letter it was found.
    noted: Vec<(Place, Option<char>)>,
}

#[derive(Debug)]
enum Stage {
    /// What the indexes have of it is noted: walk number `walk`, after this key.
    Noting { walk: usize, after: Option<Box<[u8]>> },
    /// A place has but the beginning of an id. Each event that was noted is looked at, from this one on.
    Looking { next: usize },
    /// All ids are gone through, after this one, for what is wanted, in the order of numbers; `None`: each is.
    Scanning { wanted: Option<Vec<(Seq, Option<char>)>>, after: Option<EventId> },
    /// There is no more.
    Over(IdStep),
}

/// One step of it.
struct Step<'a> {
    snapshot: &'a Snapshot,
    expired: BTreeSet<Seq>,
    /// Entries that the step may still look at.
    left: usize,
    f: &'a mut dyn FnMut(Selected),
}

impl IdSearch {
    /// One that gives at most `max` ids, and looks at no more entries to find them.
    pub fn new(selection: Selection, max: usize) -> IdSearch {
        let stage = match selection.by {
            // The table of ids has all that is needed.
            By::Nothing if selection.since == UnixTime::EPOCH => Stage::Scanning { wanted: None, after: None },
            _ => Stage::Noting { walk: 0, after: None },
        };
        IdSearch { selection, left: max, stage, gives_as_it_goes: false, noted: Vec::new() }
    }

    /// The same, but each step gives what it has found and keeps nothing: it takes longer and no memory.
    #[must_use]
    pub fn as_it_goes(self) -> IdSearch {
        IdSearch { gives_as_it_goes: true, ..self }
    }

    /// Looks at so many more entries, and gives what it finds to `f`.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn step(
        &mut self,
        store: &Store,
        now: UnixTime,
        entries: usize,
        f: &mut dyn FnMut(Selected),
    ) -> Result<IdStep, StoreError> {
        let snapshot = store.snapshot()?;
        // Some of the step is for looking at what it has noted.
        let entries = if self.gives_as_it_goes { entries / (1 + LOOK_COST) } else { entries };
        let mut step = Step { snapshot, expired: expired(snapshot, now)?, left: entries.max(1), f };
        loop {
            if let Stage::Over(end) = self.stage {
                return Ok(end);
            }
            if step.left == 0 {
                return Ok(IdStep::More);
            }
            self.stage = match std::mem::replace(&mut self.stage, Stage::Over(IdStep::TooLarge)) {
                Stage::Noting { walk, after } => self.note(walk, after, &mut step)?,
                Stage::Looking { next } => self.look(next, &mut step)?,
                Stage::Scanning { wanted, after } => self.scan(wanted, after, &mut step)?,
                over @ Stage::Over(_) => over,
            };
        }
    }

    /// Goes on with one walk over an index.
    fn note(&mut self, walk: usize, after: Option<Box<[u8]>>, step: &mut Step<'_>) -> Result<Stage, StoreError> {
        let IdSearch { selection, left, noted, .. } = self;
        let mut walker = Walker { since: selection.since, left, noted, step: &mut *step };
        let snapshot = walker.step.snapshot;
        let walked = match &selection.by {
            By::Nothing if walk == 0 => walker.walk(snapshot.by_time(), [&[], &[]], after, |_, _| Some(None))?,
            By::Nothing => Walked::All,
            By::Kinds(kinds) => match kinds.get(walk) {
                Some(kind) => {
                    let prefix = kind.to_be_bytes();
                    walker.walk(snapshot.by_kind(), [&prefix, &prefix], after, |_, _| Some(None))?
                }
                None => Walked::All,
            },
            By::Tags(tags) => walker.tags(tags, walk, after)?,
        };
        Ok(match walked {
            Walked::One => Stage::Noting { walk: walk + 1, after: None },
            Walked::Part(last) => {
                if self.gives_as_it_goes {
                    let left = self.noted.len();
                    self.look(0, &mut Step { left, expired: BTreeSet::new(), snapshot, f: &mut *step.f })?;
                    self.noted.clear();
                }
                Stage::Noting { walk, after: Some(last) }
            }
            Walked::TooMany => Stage::Over(IdStep::TooLarge),
            Walked::All if self.is_worth_a_scan(step)? => {
                let numbers = self.noted.iter().map(|(place, letter)| (schema::place_seq(place), *letter));
                let mut wanted: Vec<_> = numbers.collect();
                wanted.sort_unstable();
                wanted.dedup();
                self.noted = Vec::new();
                Stage::Scanning { wanted: Some(wanted), after: None }
            }
            Walked::All => Stage::Looking { next: 0 },
        })
    }

    fn is_worth_a_scan(&self, step: &Step<'_>) -> Result<bool, StoreError> {
        let many = self.noted.len() as u64 * SCAN_WORTH >= step.snapshot.ids_len()?;
        Ok(many && self.selection.authors.is_none() && !self.gives_as_it_goes)
    }

    /// Looks at the next of the events that were noted, and gives those that are by whom they should be.
    fn look(&mut self, next: usize, step: &mut Step<'_>) -> Result<Stage, StoreError> {
        // What is given as it goes has been counted by the size of the step.
        let cost = if self.gives_as_it_goes { 1 } else { LOOK_COST };
        let end = self.noted.len().min(next + step.left.div_ceil(cost));
        let these = &mut self.noted[next..end];
        // Neighbours in the table of events are read together.
        these.sort_unstable_by_key(|(place, _)| schema::place_seq(place));
        for same in these.chunk_by(|(a, _), (b, _)| schema::place_seq(a) == schema::place_seq(b)) {
            let place = &same[0].0;
            let seq = schema::place_seq(place);
            // It may have been removed since it was noted.
            let Some(json) = step.snapshot.record_if_any(seq)? else { continue };
            let is_by = match &self.selection.authors {
                Some(authors) => author_of(json.value()).map(|author| authors.contains(&author)),
                None => Ok(true),
            };
            let (Ok(is_by), Ok(id)) = (is_by, id_of(json.value())) else {
                step.snapshot.note_damaged(seq);
                continue;
            };
            if !is_by {
                continue;
            }
            let created_at = UnixTime::from_secs(schema::place_created_at(place));
            same.iter().for_each(|(_, letter)| (step.f)(Selected { created_at, id, letter: *letter }));
        }
        step.left = step.left.saturating_sub(cost * (end - next));
        Ok(if end == self.noted.len() { Stage::Over(IdStep::Whole) } else { Stage::Looking { next: end } })
    }

    /// Goes on through all ids.
    fn scan(
        &mut self,
        wanted: Option<Vec<(Seq, Option<char>)>>,
        after: Option<EventId>,
        step: &mut Step<'_>,
    ) -> Result<Stage, StoreError> {
        if wanted.is_none() && after.is_none() && step.snapshot.ids_len()? > self.left as u64 {
            return Ok(Stage::Over(IdStep::TooLarge));
        }
        let mut last = after;
        for entry in step.snapshot.written_ids(after.as_ref())? {
            let (id, seq, created_at) = entry?;
            if step.left == 0 {
                return Ok(Stage::Scanning { wanted, after: last });
            }
            step.left -= 1;
            last = Some(id);
            step.give(wanted.as_deref(), id, seq, created_at);
        }
        // Few enough to be gone through at once.
        for (id, seq, created_at) in step.snapshot.waiting_ids() {
            step.give(wanted.as_deref(), id, seq, created_at);
        }
        Ok(Stage::Over(IdStep::Whole))
    }
}

impl Step<'_> {
    /// Gives an id if it is wanted.
    fn give(&mut self, wanted: Option<&[(Seq, Option<char>)]>, id: EventId, seq: Seq, created_at: u64) {
        let created_at = UnixTime::from_secs(created_at);
        if seq == schema::DELETED {
            return;
        }
        match wanted {
            None if self.expired.contains(&seq) => {}
            None => (self.f)(Selected { created_at, id, letter: None }),
            Some(wanted) => {
                let first = wanted.partition_point(|(of, _)| *of < seq);
                let these = wanted[first..].iter().take_while(|(of, _)| *of == seq);
                these.for_each(|(_, letter)| (self.f)(Selected { created_at, id, letter: *letter }));
            }
        }
    }
}

/// What came of a walk.
enum Walked {
    /// It has come to its end.
    One,
    /// This was the last key that the step could look at.
    Part(Box<[u8]>),
    /// There is more than the search may look at.
    TooMany,
    /// There is no further walk.
    All,
}

/// Notes what a walk finds.
struct Walker<'a, 'b> {
    /// Nothing older is wanted.
    since: UnixTime,
    left: &'a mut usize,
    noted: &'a mut Vec<(Place, Option<char>)>,
    step: &'a mut Step<'b>,
}

impl Walker<'_, '_> {
    /// All letters of a value are one walk, unless most of what that meets is too old.
    fn tags(&mut self, tags: &Tags, walk: usize, after: Option<Box<[u8]>>) -> Result<Walked, StoreError> {
        let per_walk = if self.since == UnixTime::EPOCH { tags.letters.len().max(1) } else { 1 };
        let walks = tags.letters.len().div_ceil(per_walk);
        let Some(value) = walk.checked_div(walks).and_then(|nth| tags.values.get(nth)) else { return Ok(Walked::All) };
        let letters = &tags.letters[walk % walks * per_walk..][..per_walk];
        let (first, last) = (letters[0], letters[per_walk - 1]);
        let (first, last) = (schema::digest_prefix(first, value), schema::digest_prefix(last, value));
        let wanted = |key: &[u8], kind: u16| {
            let letter = key[schema::TAG_DIGEST_LEN];
            let is_wanted = letters.contains(&letter) && (tags.kinds.is_empty() || tags.kinds.contains(&kind));
            is_wanted.then_some(Some(char::from(letter)))
        };
        let snapshot = self.step.snapshot;
        self.walk(snapshot.by_tag(), [&first, &last], after, wanted)
    }

    /// Notes of the entries from one prefix to another those that are `wanted`, which is asked for the letter by key and
    /// kind. The walk ends where the entries of the last prefix are too old; before that they must be of one prefix, or of
    /// any time.
    fn walk<const N: usize>(
        &mut self,
        index: Index<'_, N>,
        [first, last]: [&[u8]; 2],
        after: Option<Box<[u8]>>,
        wanted: impl Fn(&[u8], u16) -> Option<Option<char>>,
    ) -> Result<Walked, StoreError> {
        let first: [u8; N] = schema::index_key(first, &schema::FIRST_PLACE);
        let to = schema::index_key(last, &schema::place_not_before(self.since.as_secs()));
        let after: Option<[u8; N]> = after.and_then(|key| (*key).try_into().ok());
        let from = after.as_ref().map_or(Bound::Included(&first), Bound::Excluded);
        let mut entries = index.range(from, &to)?;
        let mut seen = after;
        while let Some((key, kind)) = entries.next()? {
            if *self.left == 0 {
                return Ok(Walked::TooMany);
            }
            if self.step.left == 0 {
                return Ok(Walked::Part(Box::from(&seen.unwrap_or(first)[..])));
            }
            *self.left -= 1;
            self.step.left -= 1;
            seen = Some(key);
            let place = schema::key_place(&key);
            let is_expired = |_: &_| self.step.expired.contains(&schema::place_seq(&place));
            if let Some(letter) = wanted(&key, kind).filter(|letter| !is_expired(letter)) {
                self.noted.push((place, letter));
            }
        }
        Ok(Walked::One)
    }
}

/// The sequence numbers of events that have expired and wait to be removed, those that wait longest. What is given too much
/// costs a few bytes on the wire.
pub(super) fn expired(snapshot: &Snapshot, now: UnixTime) -> Result<BTreeSet<Seq>, StoreError> {
    let mut expired = BTreeSet::new();
    let waiting = snapshot.expirations.range::<(u64, u64)>(..=(now.as_secs(), u64::MAX))?;
    for entry in waiting.take(EXPIRED_LEFT_OUT_MAX) {
        expired.insert(entry?.0.value().1);
    }
    Ok(expired)
}
