//! Which relays are followed: `sync::places` says who has a place, and here each gets it or gives it back.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use log::warn;

use super::{Engine, Entry};
use crate::limits::{PLACES_PART, PLACES_PERIOD, PLACES_STEP};
use crate::protocol::relay_url::RelayUrl;
use crate::store::{Progress, StoreError};
use crate::sync::budget::Budget;
use crate::sync::places::{Assignment, Candidate, LeftOut, Standing};
use crate::sync::relay::{Relay, Why};
use crate::time::Now;

/// Looking who is to have a place: under way for as many turns of the loop as it takes.
#[derive(Debug, Default)]
pub(super) struct Assigning {
    stage: Stage,
    assignment: Assignment,
    left_out: BTreeMap<RelayUrl, LeftOut>,
    /// How many of those were not left out before, for each reason.
    new: BTreeMap<LeftOut, usize>,
    /// It has to be looked once more: something has changed since.
    again: bool,
}

/// How far that has got, and after which relay it goes on.
#[derive(Debug)]
enum Stage {
    /// Records are forgotten of relays that are neither followed nor named any more.
    Records(Option<RelayUrl>),
    /// The relays that the state names are gathered.
    Candidates(Option<RelayUrl>),
    /// They are given places.
    Places,
    /// That is done, and what it was found by is forgotten.
    Done,
}

impl Default for Stage {
    fn default() -> Stage {
        Stage::Records(None)
    }
}

impl Assigning {
    /// Forgets so much of what is of no more use. True when nothing is left of it.
    fn forget(&mut self, count: usize) -> bool {
        for _ in 0..count {
            let _ = self.left_out.pop_first();
        }
        self.assignment.forget(count) && self.left_out.is_empty()
    }
}

impl Engine {
    /// Follows the relays that the state names, as far as there are places. Those that are left out are counted and logged
    /// once for as long as they are named and not followed. If there are many, it goes on with the next ticks.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub(super) fn assign_places(&mut self, now: Now) -> Result<(), StoreError> {
        match &mut self.assigning {
            Some(assigning) => {
                assigning.again = true;
                Ok(())
            }
            None => {
                self.assigning = Some(Box::default());
                self.assign_on(now)
            }
        }
    }

    /// Goes on with that.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub(super) fn assign_on(&mut self, now: Now) -> Result<(), StoreError> {
        let mut left = PLACES_STEP;
        while left > 0
            && let Some(mut assigning) = self.assigning.take()
        {
            let (next, did) = match std::mem::take(&mut assigning.stage) {
                Stage::Records(after) => self.forget_records(after),
                Stage::Candidates(after) => self.gather_candidates(now, after, &mut assigning.assignment),
                Stage::Places => {
                    let did = left;
                    match self.place_candidates(now, &mut assigning, did) {
                        true => {
                            self.settle_places(now, &mut assigning)?;
                            (Stage::Done, did)
                        }
                        false => (Stage::Places, did),
                    }
                }
                Stage::Done if assigning.forget(left) => {
                    return if assigning.again { self.assign_places(now) } else { Ok(()) };
                }
                Stage::Done => (Stage::Done, left),
            };
            assigning.stage = next;
            self.assigning = Some(assigning);
            left = left.saturating_sub(did.max(1));
        }
        Ok(())
    }

    /// Looks again who is to have a place, if somebody waits for one and it is time for that. While nobody is dialled,
    /// nobody loses his; while a window is open, its end decides.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub(super) fn assign_places_if_due(&mut self, now: Now) -> Result<(), StoreError> {
        if self.assigning.is_some() {
            return self.assign_on(now);
        }
        if self.places_due.is_none_or(|due| due > now.mono) {
            return Ok(());
        }
        self.places_due = Some(now.mono + PLACES_PERIOD);
        let waits = self.network.rests() || self.window.closes_at().is_some() || self.untold.is_some();
        if waits { Ok(()) } else { self.assign_places(now) }
    }

    /// Forgets what is known of relays that are neither followed nor named any more, of some of them. What comes next, and how
    /// many were looked at.
    fn forget_records(&mut self, after: Option<RelayUrl>) -> (Stage, usize) {
        let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let looked_at: Vec<(RelayUrl, bool)> = self
            .restored
            .range::<RelayUrl, _>((from, Bound::Unbounded))
            .take(PLACES_PART)
            .map(|(url, _)| (url.clone(), self.state.needs(url)))
            .collect();
        let did = looked_at.len();
        let last = looked_at.last().filter(|_| did == PLACES_PART).map(|(url, _)| url.clone());
        for (relay, _) in looked_at.into_iter().filter(|(_, is_needed)| !is_needed) {
            self.restored.remove(&relay);
            self.unsaved.push(Progress::ForgetRelay { relay });
        }
        (last.map_or(Stage::Candidates(None), |last| Stage::Records(Some(last))), did)
    }

    /// Gathers some of the relays that the state names, likewise.
    fn gather_candidates(&mut self, now: Now, after: Option<RelayUrl>, assignment: &mut Assignment) -> (Stage, usize) {
        let Engine { state, relays, keys, restored, unsaved, .. } = self;
        let mut standing_of = |url: &RelayUrl| -> Standing {
            if let Some(key) = keys.get(url) {
                return relays[*key].relay.standing(now.wall);
            }
            let (progress, budget) = restored.entry(url.clone()).or_default();
            budget.note_standing(|standing| standing.on_listed(now.wall));
            unsaved.extend(unsaved_budget(url, budget));
            budget.standing.reached_by(progress.through().max(progress.full_catchup()))
        };
        let (mut did, mut last) = (0, None);
        for url in state.relays_after(after.as_ref()).take(PLACES_PART) {
            assignment.add(Candidate {
                url: url.clone(),
                is_bootstrap: state.is_bootstrap(url),
                authors: state.authors_of(url).collect(),
                standing: standing_of(url),
            });
            did += 1;
            last = Some(url);
        }
        let last = last.filter(|_| did == PLACES_PART).cloned();
        (last.map_or(Stage::Places, |last| Stage::Candidates(Some(last))), did)
    }

    /// Decides about some of them. True when all is decided.
    fn place_candidates(&mut self, now: Now, assigning: &mut Assigning, candidates: usize) -> bool {
        let Assigning { assignment, left_out, new, .. } = assigning;
        let limits = &self.settings.limits;
        let is_over = assignment.step(now.wall, limits.relays_max, limits.private_relays_exempt, candidates);
        for (url, why) in assignment.places.left_out.drain(..) {
            if !self.left_out.contains_key(&url) {
                *new.entry(why).or_default() += 1;
            }
            left_out.insert(url, why);
        }
        is_over
    }

    /// Gives and takes places as was decided. What has not been named any more since then gets none.
    fn settle_places(&mut self, now: Now, assigning: &mut Assigning) -> Result<(), StoreError> {
        let Assigning { assignment, left_out, new, .. } = assigning;
        let given: BTreeSet<&RelayUrl> = assignment.places.given.iter().collect();
        let outranked = self.keys.iter().filter(|(url, _)| !given.contains(url)).map(|(_, key)| *key);
        for key in outranked.collect::<Vec<_>>() {
            self.take_place(now, key)?;
        }
        for url in assignment.places.given.drain(..) {
            if !self.keys.contains_key(&url) && self.state.needs(&url) {
                self.give_place(now, url);
            }
        }
        for (why, new) in std::mem::take(new) {
            self.metrics.relays_refused.add_many(why.name(), new as u64);
            warn!("{new} more relays are not followed: {why}");
        }
        let waits = left_out.values().any(|why| *why == LeftOut::RelaysMax);
        self.places_due = waits.then(|| now.mono + PLACES_PERIOD);
        std::mem::swap(&mut self.left_out, left_out);
        Ok(())
    }

    fn give_place(&mut self, now: Now, url: RelayUrl) {
        let (progress, mut budget) = self.restored.remove(&url).unwrap_or_default();
        budget.note_standing(|standing| standing.on_place(true, now.wall));
        self.unsaved.extend(unsaved_budget(&url, &mut budget));
        let forgotten = self.forgotten.remove(&url);
        let (.., mut cx) = self.split(now);
        let mut relay = Relay::new(url.clone(), progress, budget, &mut cx);
        if let Some(rest) = forgotten {
            relay.resume(rest, &mut cx);
        }
        let key = self.relays.insert(Entry { relay, timer: None });
        self.keys.insert(url, key);
        self.arm(key, Some(now.mono));
    }

    /// Others come before this relay: it is let go of, and what is complete with it is kept.
    fn take_place(&mut self, now: Now, key: usize) -> Result<(), StoreError> {
        let mut relay = self.let_go(now, key, Why::Outranked)?;
        self.unsaved.extend(relay.take_moved_through());
        let (url, progress, mut budget) = relay.into_known();
        budget.note_standing(|standing| standing.on_place(false, now.wall));
        self.unsaved.extend(unsaved_budget(&url, &mut budget));
        self.restored.insert(url, (progress, budget));
        Ok(())
    }
}

/// What is to be written of a relay's budget, if it has changed.
fn unsaved_budget(url: &RelayUrl, budget: &mut Budget) -> Option<Progress> {
    budget.take_record().map(|record| Progress::Budget { relay: url.clone(), record })
}
