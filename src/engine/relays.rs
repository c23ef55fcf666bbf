//! The engine's relays: which exist, and how their machines are driven.

use std::collections::BTreeSet;

use slab::Slab;

use super::supply::{Hints, supply};
use super::{Engine, Entry};
use crate::contract::{LinkId, Output};
use crate::intake::Intake;
use crate::limits::{FORGOTTEN_RELAYS_MAX, LOOKUP_PAUSE, THROUGH_SAVE_AFTER};
use crate::protocol::relay_url::RelayUrl;
use crate::state::{Changes, RepoId};
use crate::store::{Progress, Store, StoreError};
use crate::sync::Cx;
use crate::sync::health::Rest;
use crate::sync::relay::{Before, Relay, Why};
use crate::time::{Instant, Now};

impl Engine {
    /// What came of some repos was refused until now, or will be from here on. So nothing is complete of them any longer, by
    /// the batch that changes it: until a window has had them asked for anew, however soon that comes and whatever comes
    /// between.
    pub(super) fn unconfirm(&mut self, changes: &Changes) {
        for (url, repos) in &changes.lost {
            self.unconfirm_with(url, repos, Relay::on_repos_lost);
        }
        for (url, repos) in &changes.maintainers_changed {
            self.unconfirm_with(url, repos, Relay::on_maintainers_changed);
        }
    }

    fn unconfirm_with(
        &mut self,
        url: &RelayUrl,
        repos: &BTreeSet<RepoId>,
        tell: fn(&mut Relay, &BTreeSet<RepoId>) -> Vec<RepoId>,
    ) {
        let confirmed = match (self.keys.get(url), self.restored.get_mut(url)) {
            (Some(&key), _) => tell(&mut self.relays[key].relay, repos),
            (None, Some((progress, _))) => progress.forget(repos),
            (None, None) => Vec::new(),
        };
        for repo in confirmed {
            let repo = self.state.addr(repo).clone();
            self.store.stage_progress(Progress::ForgetRepo { relay: url.clone(), repo });
        }
    }

    /// No repo needs this relay any more: nothing is known of it from here on, but that it was failing.
    pub(super) fn forget_relay(&mut self, now: Now, key: usize) -> Result<(), StoreError> {
        let relay = self.let_go(now, key, Why::Unneeded)?;
        self.store.stage_progress(Progress::ForgetRelay { relay: relay.url().clone() });
        Ok(())
    }

    /// A relay is followed no more: its links are closed.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub(super) fn let_go(&mut self, now: Now, key: usize, why: Why) -> Result<Relay, StoreError> {
        let rest = self.alone(now, key, |relays, _, _, _, cx| relays[key].relay.rest(now.mono, &cx.settings.timing));
        self.drive(now, key, |relay, cx| relay.close(why, cx))?;
        self.arm(key, None);
        self.hints.forget(key);
        if let Some(untold) = &mut self.untold {
            untold.forget(key);
        }
        let relay = self.relays.remove(key).relay;
        self.keys.remove(relay.url());
        if let Some(rest) = rest.flatten() {
            self.remember(relay.url().clone(), rest);
        }
        Ok(relay)
    }

    /// Remembers that a relay that is not needed now has failed, so that listing it again is no way to have it dialled.
    fn remember(&mut self, url: RelayUrl, rest: Rest) {
        if self.forgotten.len() >= FORGOTTEN_RELAYS_MAX {
            let soonest = self.forgotten.iter().min_by_key(|(_, rest)| rest.until).map(|(url, _)| url.clone());
            soonest.map(|url| self.forgotten.remove(&url));
        }
        self.forgotten.insert(url, rest);
    }

    pub(super) fn with_relay(
        &mut self,
        now: Now,
        link: LinkId,
        act: impl FnOnce(&mut Relay, &mut Cx<'_>),
    ) -> Result<(), StoreError> {
        match self.links.get(&link) {
            Some(&key) => self.drive(now, key, act),
            None => Ok(()),
        }
    }

    /// The relays, the store and intake beside what a machine sees while it acts.
    pub(super) fn split(&mut self, now: Now) -> (&mut Slab<Entry>, &mut Store, &Intake, &mut Hints, Cx<'_>) {
        let Engine { relays, store, intake, hints, state, settings, .. } = self;
        let Engine { network, dials, next_link, out, metrics, .. } = self;
        (relays, store, intake, hints, Cx { now, state, settings, network, dials, next_link, out, metrics })
    }

    /// Lets a relay's machine act, then carries away what it wants written and watched.
    #[inline]
    pub(super) fn drive(
        &mut self,
        now: Now,
        key: usize,
        act: impl FnOnce(&mut Relay, &mut Cx<'_>),
    ) -> Result<(), StoreError> {
        let mut act = Some(act);
        self.drive_by(now, key, &mut |relay, cx| act.take().expect("a machine acts once")(relay, cx))
    }

    /// Apart from what each caller wants, for it is large.
    #[inline(never)]
    fn drive_by(
        &mut self,
        now: Now,
        key: usize,
        act: &mut dyn FnMut(&mut Relay, &mut Cx<'_>),
    ) -> Result<(), StoreError> {
        let before = self.relays[key].relay.before();
        let said_before = self.out.len();
        let acted: Option<Result<_, StoreError>> =
            self.alone_since(now, key, &before, |relays, store, intake, hints, cx| {
                act(&mut relays[key].relay, cx);
                let mut later = false;
                while supply(relays, key, store, intake, hints, &mut later, cx)? {}
                let relay = &mut relays[key].relay;
                let mut said = cx.out.range(said_before..);
                if said.any(|output| matches!(output, Output::Send { .. } | Output::Ping { .. })) {
                    relay.on_sent(now.mono);
                }
                let deadline = relay.next_deadline(cx);
                if !later {
                    return Ok(deadline);
                }
                let again = now.mono + LOOKUP_PAUSE;
                Ok(Some(deadline.map_or(again, |deadline| deadline.min(again))))
            });
        if let Some(deadline) = acted {
            self.carry_away(key, &before, deadline?);
        }
        self.follow_network(now, key);
        Ok(())
    }

    /// Writes down what a relay's machine wants written, and watches what it wants watched.
    pub(super) fn carry_away(&mut self, key: usize, before: &Before, deadline: Option<Instant>) {
        let relay = &mut self.relays[key].relay;
        let links = relay.links();
        for progress in relay.take_unsaved() {
            self.store.stage_progress(progress);
        }
        if let Some(moved_at) = relay.through_moved_at() {
            let save_by = moved_at + THROUGH_SAVE_AFTER;
            self.through_due = Some(self.through_due.map_or(save_by, |due| due.min(save_by)));
        }
        if links != before.links {
            before.links.iter().flatten().for_each(|link| _ = self.links.remove(link));
            links.iter().flatten().for_each(|link| _ = self.links.insert(*link, key));
        }
        self.arm(key, deadline);
    }

    /// Stages every `through` that has moved.
    pub(super) fn stage_moved_throughs(&mut self) {
        self.through_due = None;
        for (_, entry) in &mut self.relays {
            if let Some(progress) = entry.relay.take_moved_through() {
                self.store.stage_progress(progress);
            }
        }
    }

    /// Dials those whose turn has come.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub(super) fn dial_next(&mut self, now: Now) -> Result<(), StoreError> {
        while let Some(url) = self.dials.next(now.mono) {
            let key = *self.keys.get(&url).expect("only relays that are followed wait");
            self.drive(now, key, |relay, cx| relay.on_turn(cx))?;
        }
        Ok(())
    }

    /// Sets a relay's deadline in the wheel.
    pub(super) fn arm(&mut self, key: usize, deadline: Option<Instant>) {
        let entry = &mut self.relays[key];
        if entry.timer.map(|(at, _)| at) == deadline {
            return;
        }
        if let Some((_, timer)) = entry.timer.take() {
            self.wheel.cancel(timer);
        }
        entry.timer = deadline.map(|at| (at, self.wheel.insert(at, key)));
    }
}
