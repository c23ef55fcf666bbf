//! Who may speak for the repos of one identifier (spec section 15), kept so that to ask costs a lookup and not a walk.
//!
//! The author of a followed announcement is **confirmed**, unless it says that he has left. Whoever a confirmed key lists
//! is **invited**, and confirmed once his own announcement of that identifier lists back a confirmed key. A state bears no
//! address but its author's and its identifier, so all repos of one identifier have one set.
//!
//! Owners may be many, for anybody may announce an identifier here: what they cost is kept with each of them. Candidates,
//! who are invited and have announced it elsewhere, are at most [`CONFIRMED_MAX`] for each identifier, and only over them
//! is anything ever walked. Who finds no place waits for one.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use nostr::key::PublicKey;

use super::RepoId;
use crate::limits::CONFIRMED_MAX;
use crate::protocol::repo::RepoAddr;

/// An identifier's number in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct IdentifierId(u32);

/// What the author of a held announcement is by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its repo is followed: he is confirmed.
    Owner,
    /// It is elsewhere: he is confirmed if it answers an invitation.
    Elsewhere,
    /// It says that he is no maintainer any more.
    Left,
}

/// What a held announcement says of who may speak.
#[derive(Debug)]
pub(super) struct Listing {
    /// The repo that it announces.
    pub repo: RepoId,
    /// What its author is by it.
    pub standing: Standing,
    /// Whom it lists.
    pub maintainers: Box<[PublicKey]>,
}

/// What one announcement has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shift {
    /// Somebody became invited or confirmed.
    pub became: bool,
    /// Candidates that found no place.
    pub refused: usize,
}

/// The held announcements, as far as they say who may speak.
#[derive(Debug, Default)]
struct Listings {
    by_author: BTreeMap<(IdentifierId, PublicKey), Listing>,
    /// Lookups so far.
    #[cfg(test)]
    looked_up: std::cell::Cell<u64>,
}

impl Listings {
    fn get(&self, identifier: IdentifierId, author: &PublicKey) -> Option<&Listing> {
        #[cfg(test)]
        self.looked_up.set(self.looked_up.get() + 1);
        self.by_author.get(&(identifier, *author))
    }

    fn has(&self, identifier: IdentifierId, author: &PublicKey, standing: Standing) -> bool {
        self.get(identifier, author).is_some_and(|listing| listing.standing == standing)
    }
}

/// Who may speak, for every identifier.
#[derive(Debug, Default)]
pub(super) struct Authority {
    numbers: BTreeMap<String, IdentifierId>,
    listings: Listings,
    /// Of identifiers for which an owner lists somebody.
    circles: BTreeMap<IdentifierId, Circle>,
    /// Times that anybody became or ceased to be something.
    version: u64,
}

impl Authority {
    /// The announcement of a repo is held from now on, in the place of any earlier one; `None`: it no longer is.
    pub fn set(&mut self, addr: &RepoAddr, listing: Option<Listing>) -> Shift {
        let (identifier, author) = (self.intern(&addr.identifier), addr.author);
        let before = self.listings.by_author.remove(&(identifier, author));
        let (invited_before, was_owner) = invitations(before.as_ref());
        let (invited, is_owner) = invitations(listing.as_ref());
        let came_or_went = was_owner != is_owner;
        if let Some(listing) = listing {
            self.listings.by_author.insert((identifier, author), listing);
        }
        if invited.is_empty() && !self.circles.contains_key(&identifier) {
            self.version += u64::from(came_or_went);
            return Shift { became: is_owner && !was_owner, refused: 0 };
        }
        let circle = self.circles.entry(identifier).or_default();
        let was_candidate = circle.retire(&author, before.as_ref().map_or(&[], |before| &before.maintainers));
        circle.waiting.remove(&author);
        let is_answered = circle.listed_by.contains_key(&author);
        let mut round = Round { circle, listings: &self.listings, identifier, refused: 0 };
        let mut step = round.renew_invitations(&invited_before, &invited);
        step.concerns_candidates |= round.admit(&author) || was_candidate || (came_or_went && is_answered);
        if step.concerns_candidates {
            let settled = round.settle();
            step.became |= settled.became;
            step.changed |= settled.changed;
        }
        let refused = round.refused;
        if round.circle.invited.is_empty() {
            self.circles.remove(&identifier);
        }
        self.version += u64::from(step.changed || came_or_went);
        Shift { became: step.became || (is_owner && !was_owner), refused }
    }

    /// Whether a key is confirmed for an identifier.
    pub fn is_confirmed(&self, author: &PublicKey, identifier: &str) -> bool {
        let Some(identifier) = self.number(identifier) else { return false };
        self.circles.get(&identifier).is_some_and(|circle| circle.accepted.contains(author))
            || self.listings.has(identifier, author, Standing::Owner)
    }

    /// Whether a key is invited for an identifier, or confirmed.
    pub fn is_invited(&self, author: &PublicKey, identifier: &str) -> bool {
        let Some(identifier) = self.number(identifier) else { return false };
        self.circles.get(&identifier).is_some_and(|circle| circle.is_invited(author))
            || self.listings.has(identifier, author, Standing::Owner)
    }

    /// A number that grows when somebody becomes invited or confirmed, or ceases to be.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The number of an identifier that some announcement has named.
    pub fn number(&self, identifier: &str) -> Option<IdentifierId> {
        self.numbers.get(identifier).copied()
    }

    /// The repos of an identifier whose announcements are held, with their authors: those after one, or all.
    pub fn repos_after(
        &self,
        identifier: IdentifierId,
        after: Option<PublicKey>,
    ) -> impl Iterator<Item = (PublicKey, RepoId)> {
        let (first, last) = ([0; PublicKey::LEN], [u8::MAX; PublicKey::LEN]);
        let from = match after {
            Some(after) => Bound::Excluded((identifier, after)),
            None => Bound::Included((identifier, PublicKey::from_byte_array(first))),
        };
        let to = Bound::Included((identifier, PublicKey::from_byte_array(last)));
        self.listings.by_author.range((from, to)).map(|((_, author), listing)| (*author, listing.repo))
    }

    fn intern(&mut self, identifier: &str) -> IdentifierId {
        if let Some(number) = self.number(identifier) {
            return number;
        }
        let number = IdentifierId(u32::try_from(self.numbers.len()).expect("the store names fewer than 2^32 repos"));
        self.numbers.insert(identifier.to_owned(), number);
        number
    }
}

/// Whom an announcement invites with nobody else's consent, and whether its author is an owner.
fn invitations(listing: Option<&Listing>) -> (Vec<PublicKey>, bool) {
    match listing {
        Some(Listing { standing: Standing::Owner, maintainers, .. }) => (maintainers.to_vec(), true),
        _ => (Vec::new(), false),
    }
}

/// Who is invited and who has accepted, for one identifier.
#[derive(Debug, Default)]
struct Circle {
    /// Whom owners list, and how many of them do.
    invited: BTreeMap<PublicKey, u32>,
    /// Whom those list who have accepted.
    invited_by_accepted: BTreeSet<PublicKey>,
    /// Invited keys that have announced it elsewhere, at most [`CONFIRMED_MAX`].
    candidates: BTreeSet<PublicKey>,
    /// Of whom candidates list: the candidates that do.
    listed_by: BTreeMap<PublicKey, BTreeSet<PublicKey>>,
    /// Candidates that are confirmed.
    accepted: BTreeSet<PublicKey>,
    /// Those that found no place. They may have ceased to be candidates since.
    waiting: BTreeSet<PublicKey>,
}

impl Circle {
    /// Whether an owner or one who has accepted lists a key.
    fn is_invited(&self, key: &PublicKey) -> bool {
        self.invited.contains_key(key) || self.invited_by_accepted.contains(key)
    }

    /// Takes a candidate out, who lists these. Says whether it was one.
    fn retire(&mut self, key: &PublicKey, listed: &[PublicKey]) -> bool {
        if !self.candidates.remove(key) {
            return false;
        }
        for other in listed {
            if let Some(candidates) = self.listed_by.get_mut(other) {
                candidates.remove(key);
                if candidates.is_empty() {
                    self.listed_by.remove(other);
                }
            }
        }
        true
    }
}

/// One circle while it changes.
struct Round<'a> {
    circle: &'a mut Circle,
    listings: &'a Listings,
    identifier: IdentifierId,
    refused: usize,
}

/// What a step of a round has changed.
#[derive(Default)]
struct Step {
    /// Somebody became something.
    became: bool,
    /// Somebody became something, or ceased to be it.
    changed: bool,
    /// It concerns candidates: who of them has accepted is to be found anew.
    concerns_candidates: bool,
}

impl Round<'_> {
    /// An owner lists others than before.
    fn renew_invitations(&mut self, before: &[PublicKey], now: &[PublicKey]) -> Step {
        let mut step = Step::default();
        for key in now {
            let known = self.circle.is_invited(key) || self.listings.has(self.identifier, key, Standing::Owner);
            let count = self.circle.invited.entry(*key).or_default();
            *count += 1;
            if *count == 1 {
                step.became |= !known;
                step.changed = true;
                step.concerns_candidates |= self.admit(key);
            }
        }
        for key in before {
            // Counted when its announcement was taken in, so it is there and not 0.
            let Some(count) = self.circle.invited.get_mut(key) else { continue };
            *count -= 1;
            if *count == 0 {
                self.circle.invited.remove(key);
                step.changed = true;
                step.concerns_candidates |= self.circle.candidates.contains(key);
            }
        }
        step
    }

    /// Gives a key that is invited and has announced elsewhere a place among the candidates. Says whether it has one.
    fn admit(&mut self, key: &PublicKey) -> bool {
        let Some(listing) = self.listings.get(self.identifier, key) else { return false };
        if listing.standing != Standing::Elsewhere || !self.circle.is_invited(key) {
            return false;
        }
        let circle = &mut *self.circle;
        if circle.candidates.contains(key) {
            return true;
        }
        if circle.candidates.len() >= CONFIRMED_MAX {
            self.refused += usize::from(circle.waiting.insert(*key));
            return false;
        }
        circle.waiting.remove(key);
        circle.candidates.insert(*key);
        for other in &listing.maintainers {
            circle.listed_by.entry(*other).or_default().insert(*key);
        }
        true
    }

    /// Finds anew who has accepted.
    fn settle(&mut self) -> Step {
        let accepted = std::mem::take(&mut self.circle.accepted);
        let invited = std::mem::take(&mut self.circle.invited_by_accepted);
        // A second time if places became free: then all whom the first has found are found again, so none does anew.
        loop {
            self.grow();
            self.retire_uninvited();
            if !self.fill_places() {
                break;
            }
            self.circle.accepted.clear();
            self.circle.invited_by_accepted.clear();
        }
        let circle = &*self.circle;
        let known = |key: &PublicKey| {
            invited.contains(key)
                || circle.invited.contains_key(key)
                || self.listings.has(self.identifier, key, Standing::Owner)
        };
        Step {
            became: !circle.accepted.is_subset(&accepted) || !circle.invited_by_accepted.iter().all(known),
            changed: circle.accepted != accepted || circle.invited_by_accepted != invited,
            concerns_candidates: false,
        }
    }

    /// From the owners on: whoever is invited and lists back one that is confirmed has accepted, and invites in turn.
    fn grow(&mut self) {
        let mut queue: Vec<PublicKey> = self.circle.candidates.iter().copied().collect();
        let mut answering: BTreeSet<PublicKey> = queue.iter().copied().filter(|key| self.answers(key)).collect();
        while let Some(key) = queue.pop() {
            let circle = &mut *self.circle;
            if !answering.contains(&key) || !circle.is_invited(&key) || !circle.accepted.insert(key) {
                continue;
            }
            let lists_it = circle.listed_by.get(&key).into_iter().flatten();
            queue.extend(lists_it.filter(|other| answering.insert(**other)));
            let listings = self.listings;
            let listed = listings.get(self.identifier, &key).map_or(&[][..], |listing| &listing.maintainers);
            for other in listed {
                if self.circle.invited_by_accepted.insert(*other) && self.admit(other) {
                    if self.answers(other) {
                        answering.insert(*other);
                    }
                    queue.push(*other);
                }
            }
        }
    }

    /// Whether a candidate lists back somebody who is confirmed.
    fn answers(&self, key: &PublicKey) -> bool {
        let Some(listing) = self.listings.get(self.identifier, key) else { return false };
        let confirmed = |other: &PublicKey| {
            self.circle.accepted.contains(other) || self.listings.has(self.identifier, other, Standing::Owner)
        };
        listing.maintainers.iter().any(confirmed)
    }

    /// Candidates whom nobody lists any longer give their places back.
    fn retire_uninvited(&mut self) {
        let is_uninvited = |key: &&PublicKey| !self.circle.is_invited(key);
        let uninvited: Vec<PublicKey> = self.circle.candidates.iter().filter(is_uninvited).copied().collect();
        for key in uninvited {
            let listed = self.listings.get(self.identifier, &key).map_or(&[][..], |listing| &listing.maintainers);
            self.circle.retire(&key, listed);
        }
    }

    /// Gives free places to those who wait. Says whether anybody got one.
    fn fill_places(&mut self) -> bool {
        let mut filled = false;
        while self.circle.candidates.len() < CONFIRMED_MAX
            && let Some(key) = self.circle.waiting.pop_first()
        {
            filled |= self.admit(&key);
        }
        filled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> PublicKey {
        let mut bytes = [0x33; PublicKey::LEN];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        PublicKey::from_byte_array(bytes)
    }

    fn set(authority: &mut Authority, author: usize, listing: Option<(Standing, &[usize])>) -> Shift {
        let listing = listing.map(|(standing, listed)| Listing {
            repo: RepoId(author as u32),
            standing,
            maintainers: listed.iter().map(|n| key(*n)).collect(),
        });
        authority.set(&RepoAddr { author: key(author), identifier: "d".to_owned() }, listing)
    }

    fn owner(authority: &mut Authority, author: usize, listed: &[usize]) -> Shift {
        set(authority, author, Some((Standing::Owner, listed)))
    }

    fn elsewhere(authority: &mut Authority, author: usize, listed: &[usize]) -> Shift {
        set(authority, author, Some((Standing::Elsewhere, listed)))
    }

    fn confirmed(authority: &Authority, keys: impl Iterator<Item = usize>) -> Vec<usize> {
        keys.filter(|n| authority.is_confirmed(&key(*n), "d")).collect()
    }

    /// Lookups that an action takes.
    fn work(authority: &mut Authority, act: impl FnOnce(&mut Authority)) -> u64 {
        let before = authority.listings.looked_up.get();
        act(authority);
        authority.listings.looked_up.get() - before
    }

    #[test]
    fn who_is_listed_is_invited_and_confirmed_once_he_lists_back() {
        let mut authority = Authority::default();
        assert!(owner(&mut authority, 0, &[1]).became);
        assert!(authority.is_invited(&key(1), "d") && !authority.is_invited(&key(1), "e"));
        assert_eq!(confirmed(&authority, 0..4), [0]);
        assert!(!elsewhere(&mut authority, 1, &[2]).became, "he does not answer");
        assert!(!authority.is_invited(&key(2), "d"), "he invites nobody before he is confirmed");
        assert!(elsewhere(&mut authority, 1, &[2, 0]).became);
        assert_eq!(confirmed(&authority, 0..4), [0, 1]);
        assert!(authority.is_invited(&key(2), "d"));
        elsewhere(&mut authority, 2, &[1, 3]);
        assert_eq!(confirmed(&authority, 0..4), [0, 1, 2], "he answers one who is confirmed");
        assert!(!elsewhere(&mut authority, 2, &[1, 3]).became, "nobody new");
        assert!(!owner(&mut authority, 0, &[]).became);
        assert_eq!(confirmed(&authority, 0..4), [0], "with him goes whom he brought");
        assert!(!authority.is_invited(&key(1), "d"));
        assert!(authority.circles.is_empty());
        assert!(owner(&mut authority, 0, &[1]).became);
        assert_eq!(confirmed(&authority, 0..4), [0, 1, 2], "their answers still stand");
        set(&mut authority, 0, None);
        assert_eq!(confirmed(&authority, 0..4), [0; 0]);
    }

    #[test]
    fn an_answer_may_come_before_what_it_answers() {
        let mut authority = Authority::default();
        elsewhere(&mut authority, 1, &[2]);
        elsewhere(&mut authority, 2, &[0]);
        owner(&mut authority, 0, &[1]);
        assert_eq!(confirmed(&authority, 0..3), [0], "2 is not invited, so nobody confirmed is listed by 1");
        assert!(owner(&mut authority, 0, &[1, 2]).became);
        assert_eq!(confirmed(&authority, 0..3), [0, 1, 2]);
    }

    #[test]
    fn who_has_left_is_not_confirmed_whoever_lists_him() {
        let mut authority = Authority::default();
        owner(&mut authority, 0, &[1]);
        elsewhere(&mut authority, 1, &[0]);
        set(&mut authority, 1, Some((Standing::Left, &[0])));
        assert_eq!(confirmed(&authority, 0..2), [0]);
        assert!(authority.is_invited(&key(1), "d"), "what he announces next may be that he is back");
        set(&mut authority, 0, Some((Standing::Left, &[1])));
        elsewhere(&mut authority, 1, &[0]);
        assert_eq!(confirmed(&authority, 0..2), [0; 0], "who has left invites nobody");
    }

    /// The definition, word by word: who is confirmed and who is invited.
    fn naive(held: &BTreeMap<usize, (Standing, Vec<usize>)>) -> (BTreeSet<usize>, BTreeSet<usize>) {
        let of = |standing| held.iter().filter(move |(_, held)| held.0 == standing);
        let mut confirmed: BTreeSet<usize> = of(Standing::Owner).map(|(n, _)| *n).collect();
        loop {
            let listed: BTreeSet<usize> = confirmed.iter().flat_map(|n| held[n].1.clone()).collect();
            let accepts = |(n, held): &(&usize, &(Standing, Vec<usize>))| {
                listed.contains(n) && !confirmed.contains(n) && held.1.iter().any(|other| confirmed.contains(other))
            };
            let new: Vec<usize> = of(Standing::Elsewhere).filter(accepts).map(|(n, _)| *n).collect();
            if new.is_empty() {
                let invited = listed.union(&confirmed).copied().collect();
                return (confirmed, invited);
            }
            confirmed.extend(new);
        }
    }

    #[test]
    fn every_change_leads_to_what_the_definition_says() {
        const KEYS: usize = 9;
        let mut random = 7_u64;
        let mut draw = |below: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % below
        };
        let mut authority = Authority::default();
        let mut held = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for _ in 0..20_000 {
            let author = draw(KEYS);
            let (before, version) = (naive(&held), authority.version());
            let standing = [Standing::Owner, Standing::Elsewhere, Standing::Elsewhere, Standing::Left][draw(4)];
            let mut listed: Vec<usize> = (0..draw(4)).map(|_| draw(KEYS)).filter(|other| *other != author).collect();
            listed.sort_unstable();
            listed.dedup();
            let shift = match draw(5) {
                0 => {
                    held.remove(&author);
                    set(&mut authority, author, None)
                }
                _ => {
                    held.insert(author, (standing, listed.clone()));
                    set(&mut authority, author, Some((standing, &listed)))
                }
            };
            let after = naive(&held);
            for n in 0..KEYS {
                let is = (authority.is_confirmed(&key(n), "d"), authority.is_invited(&key(n), "d"));
                assert_eq!(is, (after.0.contains(&n), after.1.contains(&n)), "{n} of {held:?}");
            }
            assert_eq!(
                authority.circles.is_empty(),
                after.0 == after.1 && after.0.iter().all(|n| held[n].1.is_empty())
            );
            assert!(shift.became || (after.0.is_subset(&before.0) && after.1.is_subset(&before.1)), "{held:?}");
            assert!(authority.version() > version || after == before, "{held:?}");
            seen.insert((after.0.len(), after.1.len()));
        }
        assert!(seen.len() > 30, "{seen:?}");
    }

    /// Keys of owners begin at 10,000, those of whom they list at 20,000.
    fn owners_with_candidates(authority: &mut Authority, n: usize) -> usize {
        (0..n)
            .map(|n| {
                owner(authority, 10_000 + n, &[20_000 + n]);
                elsewhere(authority, 20_000 + n, &[10_000 + n]).refused
            })
            .sum()
    }

    #[test]
    fn candidates_beyond_the_allowed_number_wait_for_a_place_and_owners_need_none() {
        let mut authority = Authority::default();
        assert_eq!(owners_with_candidates(&mut authority, CONFIRMED_MAX + 3), 3);
        assert_eq!(confirmed(&authority, 20_000..30_000).len(), CONFIRMED_MAX);
        assert_eq!(confirmed(&authority, 10_000..20_000).len(), CONFIRMED_MAX + 3);
        let waiting = 20_000 + CONFIRMED_MAX;
        assert!(!authority.is_confirmed(&key(waiting), "d") && authority.is_invited(&key(waiting), "d"));
        elsewhere(&mut authority, 20_000, &[10_000]);
        assert!(authority.is_confirmed(&key(20_000), "d"), "who has a place keeps it");
        set(&mut authority, waiting, None);
        assert!(owner(&mut authority, 10_000, &[]).became, "the next has his place");
        assert!(!authority.is_confirmed(&key(20_000), "d") && authority.is_confirmed(&key(waiting + 1), "d"));
        assert_eq!(confirmed(&authority, 20_000..30_000).len(), CONFIRMED_MAX);
    }

    #[test]
    fn what_one_announcement_costs_does_not_grow_with_those_that_share_its_identifier() {
        let mut authority = Authority::default();
        let announce = |authority: &mut Authority, n: usize| {
            work(authority, |authority| _ = owner(authority, 30_000 + n, &[40_000 + n]))
        };
        let costs: Vec<u64> = (0..2_000).map(|n| announce(&mut authority, n)).collect();
        assert_eq!(costs.iter().max(), costs.iter().min(), "each with a new maintainer");
        owners_with_candidates(&mut authority, 2 * CONFIRMED_MAX);
        assert_eq!(announce(&mut authority, 3_000), costs[0], "nor with candidates that it does not concern");
        let most = work(&mut authority, |authority| _ = elsewhere(authority, 20_000, &[10_000, 10_001]));
        assert!(most <= 20 * CONFIRMED_MAX as u64, "{most}");
        let asked = work(&mut authority, |authority| {
            assert!(authority.is_confirmed(&key(20_000), "d") && !authority.is_invited(&key(7), "d"));
        });
        assert!(asked <= 2, "to ask is a lookup: {asked}");
    }
}
