//! Which relays are followed: `sync::places` says who has a place, and here each gets it or gives it back.

use std::collections::{BTreeMap, BTreeSet};

use log::warn;

use super::{Engine, Entry};
use crate::limits::PLACES_PERIOD;
use crate::protocol::relay_url::RelayUrl;
use crate::store::{Progress, StoreError};
use crate::sync::budget::Budget;
use crate::sync::places::{Candidate, LeftOut, Standing, assign};
use crate::sync::relay::{Relay, Why};
use crate::time::Now;

impl Engine {
    /// Follows the relays that the state names, as far as there are places. Those that are left out are counted and logged
    /// once for as long as they are named and not followed.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub(super) fn assign_places(&mut self, now: Now) -> Result<(), StoreError> {
        self.forget_records();
        let candidates = self.candidates(now);
        let limits = &self.settings.limits;
        let places = assign(candidates, now.wall, limits.relays_max, limits.private_relays_exempt);
        let given: BTreeSet<&RelayUrl> = places.given.iter().collect();
        let outranked = self.keys.iter().filter(|(url, _)| !given.contains(url)).map(|(_, key)| *key);
        for key in outranked.collect::<Vec<_>>() {
            self.take_place(now, key)?;
        }
        for url in places.given {
            if !self.keys.contains_key(&url) {
                self.give_place(now, url);
            }
        }
        self.note_left_out(now, places.left_out);
        Ok(())
    }

    /// Looks again who is to have a place, if somebody waits for one and it is time for that. While nobody is dialled,
    /// nobody loses his; while a window is open, its end decides.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub(super) fn assign_places_if_due(&mut self, now: Now) -> Result<(), StoreError> {
        if self.places_due.is_none_or(|due| due > now.mono) {
            return Ok(());
        }
        self.places_due = Some(now.mono + PLACES_PERIOD);
        let waits = self.network.rests() || self.window.closes_at().is_some() || self.untold.is_some();
        if waits { Ok(()) } else { self.assign_places(now) }
    }

    /// Forgets what is known of relays that are neither followed nor named any more.
    fn forget_records(&mut self) {
        let unneeded: Vec<RelayUrl> = self.restored.keys().filter(|url| !self.state.needs(url)).cloned().collect();
        for relay in unneeded {
            self.restored.remove(&relay);
            self.unsaved.push(Progress::ForgetRelay { relay });
        }
    }

    fn candidates(&mut self, now: Now) -> Vec<Candidate> {
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
        let candidate = |url: &RelayUrl| Candidate {
            url: url.clone(),
            is_bootstrap: state.is_bootstrap(url),
            authors: state.authors_of(url).collect(),
            standing: standing_of(url),
        };
        state.relays().map(candidate).collect()
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

    fn note_left_out(&mut self, now: Now, left_out: Vec<(RelayUrl, LeftOut)>) {
        let left_out: BTreeMap<RelayUrl, LeftOut> = left_out.into_iter().collect();
        for why in LeftOut::ALL {
            let is_new = |url: &&RelayUrl| !self.left_out.contains_key(*url);
            let new = left_out.iter().filter(|(_, of)| **of == why).map(|(url, _)| url).filter(is_new).count();
            if new > 0 {
                self.metrics.relays_refused.add_many(why.name(), new as u64);
                warn!("{new} more relays are not followed: {why}");
            }
        }
        let waits = left_out.values().any(|why| *why == LeftOut::RelaysMax);
        self.places_due = waits.then(|| now.mono + PLACES_PERIOD);
        self.left_out = left_out;
    }
}

/// What is to be written of a relay's budget, if it has changed.
fn unsaved_budget(url: &RelayUrl, budget: &mut Budget) -> Option<Progress> {
    budget.take_record().map(|record| Progress::Budget { relay: url.clone(), record })
}
