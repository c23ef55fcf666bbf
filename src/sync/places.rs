//! Who gets a place among the relays that are followed (spec section 16, "Places").
//!
//! Like seats in a full train: whom the operator has invited sits, then whoever has been of use within the last day; a
//! newcomer gets a seat to show what he can do; who has shown nothing keeps his only while nobody else stands. Whoever
//! brings a crowd does not seat it before others have sat down: of those that one author lists, the first few come before
//! all further ones.
//!
//! Some never sit, however empty the train: more than a few URLs of one host and port, and more than a few relays that one
//! author alone lists.
//!
//! The order depends on what the store keeps and on nothing else, so a restart changes nothing. A day without a success is
//! counted back from the last success of anybody: while nothing could be reached, or the process did not run, nobody has
//! failed.
//!
//! This module knows who lists whom, and times. It dials nobody.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::{AUTHOR_RELAYS_MAX, AUTHOR_SHARE_STEP, HOST_URLS_MAX, PLACE_KEPT_FOR};
use crate::protocol::relay_url::{HostAndPort, RelayUrl};
use crate::state::AuthorId;
use crate::time::UnixTime;

/// What decides about a relay's place; `EPOCH` for never. Kept in the store with what the relay allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Standing {
    /// When it was first listed.
    first_seen: UnixTime,
    /// When it was last reached.
    reached: UnixTime,
    /// Its first failure since.
    failing: UnixTime,
    /// When it was last given a place.
    placed: UnixTime,
    /// Whether it has it still.
    holds: bool,
}

impl Standing {
    /// Some announcement lists it. Says whether that is news.
    pub fn on_listed(&mut self, now: UnixTime) -> bool {
        let is_new = self.first_seen == UnixTime::EPOCH;
        if is_new {
            self.first_seen = now;
        }
        is_new
    }

    /// It has a place now, or none. Says whether that is news.
    pub fn on_place(&mut self, holds: bool, now: UnixTime) -> bool {
        let is_new = self.holds != holds;
        self.holds = holds;
        if is_new && holds {
            self.placed = now;
        }
        is_new
    }

    /// A link to it has proved stable, or one that had has ended. Says whether that is worth writing down.
    pub fn on_reached(&mut self, now: UnixTime) -> bool {
        let is_new = self.failing != UnixTime::EPOCH || now >= self.reached.plus_secs(REACHED_SAVE_AFTER);
        self.failing = UnixTime::EPOCH;
        self.reached = now;
        is_new
    }

    /// A try has failed, or a link was lost before it was stable. Says whether that is news.
    pub fn on_failure(&mut self, now: UnixTime) -> bool {
        let is_new = self.failing == UnixTime::EPOCH;
        if is_new {
            self.failing = now;
        }
        is_new
    }

    /// What has failed was our own network. Says whether that is news.
    pub fn excuse(&mut self) -> bool {
        std::mem::replace(&mut self.failing, UnixTime::EPOCH) != UnixTime::EPOCH
    }

    /// The same with a later success, of which something else has told.
    pub fn reached_by(self, at: UnixTime) -> Standing {
        Standing { reached: self.reached.max(at), ..self }
    }

    /// Whether it was ever reached.
    pub fn was_reached(&self) -> bool {
        self.reached != UnixTime::EPOCH
    }

    /// `latest`: when anybody was last reached.
    fn class(&self, is_bootstrap: bool, latest: UnixTime, now: UnixTime) -> Class {
        let kept_for = PLACE_KEPT_FOR.as_secs();
        if is_bootstrap {
            return Class::Bootstrap;
        }
        if self.was_reached() && self.reached.plus_secs(kept_for) > latest.min(now) {
            return Class::Reached;
        }
        if self.failing == UnixTime::EPOCH {
            return Class::OnTrial;
        }
        match self.failing.max(self.placed).plus_secs(kept_for) > now {
            true => Class::Failing,
            false => Class::Dead,
        }
    }
}

/// Seconds after which a later success is worth writing down: far less than a place is kept for.
const REACHED_SAVE_AFTER: u64 = 3_600;

/// The first thing that decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// The operator lists it.
    Bootstrap,
    /// It was reached within a day of the last success of anybody.
    Reached,
    /// Nothing has come of it yet, or it has not been tried.
    OnTrial,
    /// It fails, for less than a day, or has had its place for less than that.
    Failing,
    /// For longer. Among these a place goes round.
    Dead,
}

/// A relay that the state names.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Its URL.
    pub url: RelayUrl,
    /// Whether the operator lists it.
    pub is_bootstrap: bool,
    /// Who lists it.
    pub authors: Vec<AuthorId>,
    /// What is known of it.
    pub standing: Standing,
}

/// Why a relay is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeftOut {
    /// There are `limits.relays_max` that come before it.
    RelaysMax,
    /// There are [`HOST_URLS_MAX`] of its host and port that do.
    Host,
    /// One author alone lists it, and [`AUTHOR_RELAYS_MAX`] others that do.
    Author,
}

impl LeftOut {
    /// All of them.
    pub const ALL: [LeftOut; 3] = [LeftOut::RelaysMax, LeftOut::Host, LeftOut::Author];

    /// The name in metrics and status.
    pub const fn name(self) -> &'static str {
        match self {
            LeftOut::RelaysMax => "relays_max",
            LeftOut::Host => "host",
            LeftOut::Author => "author",
        }
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LeftOut::RelaysMax => "limits.relays_max is reached",
            LeftOut::Host => "their host and port has as many URLs as are followed",
            LeftOut::Author => "their only author lists as many as are followed",
        })
    }
}

/// Who is followed, best first, and who is not.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// At most as many as there are places.
    pub given: Vec<RelayUrl>,
    /// The others, best first.
    pub left_out: Vec<(RelayUrl, LeftOut)>,
}

/// Places being given, in steps: strangers choose how many relays are named.
#[derive(Debug, Default)]
pub struct Assignment {
    /// The oldest first.
    by_age: BTreeMap<(UnixTime, RelayUrl), Applicant>,
    /// When anybody was last reached.
    latest: UnixTime,
    /// How many relays of an author have been ranked.
    listed: BTreeMap<AuthorId, usize>,
    /// For each host and port, how many URLs with a path may still be followed: one without is most likely where the relay
    /// is, and always has a place among the host's.
    hosts: BTreeMap<HostAndPort, usize>,
    /// The best first; of two the older.
    ranked: BTreeMap<(Rank, usize), (RelayUrl, Applicant)>,
    /// Relays followed that an author alone lists.
    alone: BTreeMap<AuthorId, usize>,
    /// What has been decided.
    pub places: Places,
}

/// A candidate, but for its URL.
#[derive(Debug)]
struct Applicant {
    is_bootstrap: bool,
    authors: Vec<AuthorId>,
    standing: Standing,
}

impl Assignment {
    /// One more that wants a place. All come before the first [`Assignment::step`].
    pub fn add(&mut self, Candidate { url, is_bootstrap, authors, standing }: Candidate) {
        self.latest = self.latest.max(standing.reached);
        self.by_age.insert((standing.first_seen, url), Applicant { is_bootstrap, authors, standing });
    }

    /// Goes on with so many candidates at most: each is ranked, and then has a place or none. Gives `max` places.
    /// `private_exempt`: [`crate::limits::Limits::private_relays_exempt`]. True when all is decided.
    pub fn step(&mut self, now: UnixTime, max: usize, private_exempt: bool, candidates: usize) -> bool {
        for _ in 0..candidates {
            if let Some(((_, url), applicant)) = self.by_age.pop_first() {
                self.rank(url, applicant, now);
            } else if let Some((_, (url, applicant))) = self.ranked.pop_first() {
                self.place(url, &applicant, max, private_exempt);
            } else {
                return true;
            }
        }
        self.by_age.is_empty() && self.ranked.is_empty()
    }

    /// Forgets so much of what it was decided by. True when nothing is left of it.
    pub fn forget(&mut self, count: usize) -> bool {
        for _ in 0..count {
            let _ = (self.hosts.pop_first(), self.listed.pop_first(), self.alone.pop_first());
        }
        self.hosts.is_empty() && self.listed.is_empty() && self.alone.is_empty()
    }

    fn rank(&mut self, url: RelayUrl, applicant: Applicant, now: UnixTime) {
        let mut share = usize::MAX;
        for author in &applicant.authors {
            let before = self.listed.entry(*author).or_default();
            share = share.min(*before / AUTHOR_SHARE_STEP);
            *before += 1;
        }
        let free = self.hosts.entry(url.host_and_port()).or_insert(HOST_URLS_MAX);
        *free -= usize::from(is_root(&url));
        let rank = rank(&applicant, share, self.latest, now);
        self.ranked.insert((rank, self.ranked.len()), (url, applicant));
    }

    fn place(&mut self, url: RelayUrl, applicant: &Applicant, max: usize, private_exempt: bool) {
        let Applicant { is_bootstrap, authors, .. } = applicant;
        let host = self.hosts.get_mut(&url.host_and_port()).expect("each was counted");
        let is_free = is_root(&url) || private_exempt && url.is_at_private_address();
        let author = if let [author] = authors[..] { self.alone.entry(author).or_default() } else { &mut 0 };
        let why = match is_bootstrap {
            _ if self.places.given.len() >= max => Some(LeftOut::RelaysMax),
            true => None,
            false if !is_free && *host == 0 => Some(LeftOut::Host),
            false if *author >= AUTHOR_RELAYS_MAX => Some(LeftOut::Author),
            false => None,
        };
        if let Some(why) = why {
            self.places.left_out.push((url, why));
            return;
        }
        if !is_bootstrap {
            *author += 1;
        }
        if !is_free {
            *host = host.saturating_sub(1);
        }
        self.places.given.push(url);
    }
}

/// What decides, the first thing first; age comes last.
type Rank = (Class, (bool, UnixTime), usize, Reverse<usize>);

/// `share`: how many steps into the share of an author it lies, of that author for whom it lies least deep.
fn rank(applicant: &Applicant, share: usize, latest: UnixTime, now: UnixTime) -> Rank {
    let Applicant { is_bootstrap, authors, standing } = applicant;
    let class = standing.class(*is_bootstrap, latest, now);
    // Of those that have failed for long, whoever has a place gives it to one that waits, the longest without one first.
    let turn = match class {
        Class::Dead => (standing.holds, standing.failing.max(standing.placed)),
        _ => (false, UnixTime::EPOCH),
    };
    (class, turn, share, Reverse(authors.len()))
}

fn is_root(url: &RelayUrl) -> bool {
    url.path() == "/"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::testing::relay;

    fn assign(candidates: Vec<Candidate>, now: UnixTime, max: usize, private_exempt: bool) -> Places {
        let (mut at_once, mut in_steps) = (Assignment::default(), Assignment::default());
        candidates.iter().cloned().for_each(|candidate| at_once.add(candidate));
        assert!(at_once.step(now, max, private_exempt, usize::MAX));
        candidates.into_iter().rev().for_each(|candidate| in_steps.add(candidate));
        while !in_steps.step(now, max, private_exempt, 3) {}
        assert_eq!(in_steps.places, at_once.places);
        at_once.places
    }

    const NOW: UnixTime = UnixTime::from_secs(10_000_000);
    const DAY: u64 = 86_400;

    fn author(n: u32) -> AuthorId {
        AuthorId::of_number(n)
    }

    /// Listed first so many seconds ago.
    fn candidate(name: &str, authors: &[u32], age: u64) -> Candidate {
        let standing = Standing { first_seen: NOW.minus_secs(age), ..Standing::default() };
        let authors = authors.iter().map(|n| author(*n)).collect();
        Candidate { url: relay(name), is_bootstrap: false, authors, standing }
    }

    fn reached(mut of: Candidate, ago: u64) -> Candidate {
        of.standing.on_reached(NOW.minus_secs(ago));
        of
    }

    fn failing(mut of: Candidate, ago: u64) -> Candidate {
        of.standing.on_place(true, NOW.minus_secs(ago));
        of.standing.on_failure(NOW.minus_secs(ago));
        of
    }

    fn given(candidates: Vec<Candidate>, max: usize) -> Vec<String> {
        let places = assign(candidates, NOW, max, false);
        places.given.iter().map(|url| url.host().trim_end_matches(".example").to_owned()).collect()
    }

    #[test]
    fn places_go_by_bootstrap_success_trial_authors_and_age() {
        let boot = Candidate { is_bootstrap: true, ..failing(candidate("boot", &[], 1), 3 * DAY) };
        let all = vec![
            failing(candidate("dead", &[7], 9 * DAY), 2 * DAY),
            failing(candidate("failing", &[6], 9 * DAY), 100),
            candidate("young", &[1], 5),
            candidate("older", &[2], 10),
            candidate("many", &[3, 4, 5], 1),
            reached(candidate("reached", &[8], 1), DAY - 1),
            reached(candidate("just-reached", &[9], 0), 0),
            boot,
        ];
        let order = ["boot", "reached", "just-reached", "many", "older", "young", "failing", "dead"];
        assert_eq!(given(all.clone(), 8), order);
        assert_eq!(given(all.clone(), 3), order[..3]);
        let places = assign(all, NOW, 6, false);
        assert_eq!(places.left_out, [(relay("failing"), LeftOut::RelaysMax), (relay("dead"), LeftOut::RelaysMax)]);
    }

    #[test]
    fn whoever_was_reached_once_and_is_not_any_more_gives_way() {
        let once = |ago| failing(reached(candidate("once", &[1], 9 * DAY), ago), ago - 1);
        let now_and_then = || reached(candidate("live", &[2], 1), 0);
        assert_eq!(given(vec![once(DAY + 1), candidate("new", &[3], 1), now_and_then()], 2), ["live", "new"]);
        assert_eq!(given(vec![once(DAY - 1), candidate("new", &[3], 1), now_and_then()], 2), ["once", "live"]);
        assert_eq!(given(vec![once(9 * DAY), candidate("new", &[3], 1)], 1), ["once"], "nobody was reached since");
    }

    #[test]
    fn of_those_that_are_dead_each_has_its_day() {
        let dead = |n| failing(candidate(&format!("r{n}"), &[n], 9 * DAY), 2 * DAY + u64::from(n));
        let mut relays: Vec<Candidate> = (0..6).map(dead).collect();
        relays.iter_mut().for_each(|of| _ = of.standing.on_place(false, NOW));
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for day in 0..12 {
            let now = NOW.plus_secs(day * (DAY + 1));
            let mut places = assign(relays.clone(), now, 2, false);
            for of in &mut relays {
                of.standing.on_place(places.given.contains(&of.url), now);
                of.standing.on_failure(now);
            }
            places.given.iter().for_each(|url| *seen.entry(url.to_string()).or_default() += 1);
            let mut later = assign(relays.clone(), now.plus_secs(DAY - 1), 2, false);
            [&mut places, &mut later].into_iter().for_each(|places| places.given.sort());
            assert_eq!(later.given, places.given, "for a day");
        }
        assert_eq!((seen.len(), seen.values().all(|times| *times == 4)), (6, true), "{seen:?}");
    }

    #[test]
    fn whoever_brings_a_crowd_does_not_seat_it_before_others() {
        // Two keys that list the same, so that none is listed by one alone.
        let mut all: Vec<Candidate> = (0..500).map(|n| candidate(&format!("crowd{n}"), &[1, 2], 1_000)).collect();
        all.push(candidate("newcomer", &[3], 1));
        let seated = given(all, 100);
        assert_eq!(seated.iter().position(|name| name == "newcomer"), Some(AUTHOR_SHARE_STEP));
    }

    #[test]
    fn one_author_alone_has_few() {
        let mut all: Vec<Candidate> = (0..100).map(|n| candidate(&format!("alone{n}"), &[1], 1_000)).collect();
        all.push(candidate("together", &[1, 2], 1));
        let places = assign(all, NOW, 1_024, false);
        assert_eq!((places.given.len(), places.left_out.len()), (AUTHOR_RELAYS_MAX + 1, 100 - AUTHOR_RELAYS_MAX));
        assert!(places.given.contains(&relay("together")));
        assert!(places.left_out.iter().all(|(_, why)| *why == LeftOut::Author));
    }

    #[test]
    fn a_host_has_four_urls_and_the_one_without_a_path_is_among_them() {
        let at = |path: &str, age| {
            let url = RelayUrl::parse(&format!("wss://victim.example{path}")).unwrap();
            Candidate { url, ..candidate("x", &[age], u64::from(age)) }
        };
        let mut all: Vec<Candidate> = (0..10).map(|n| at(&format!("/{n}"), 100 + n)).collect();
        assert_eq!(assign(all.clone(), NOW, 1_024, false).given.len(), HOST_URLS_MAX);
        all.push(at("", 1));
        all.push(at(":444/a", 1));
        let places = assign(all, NOW, 1_024, false);
        let given: Vec<&str> = places.given.iter().map(RelayUrl::as_str).collect();
        let older = ["wss://victim.example/9", "wss://victim.example/8", "wss://victim.example/7"];
        assert_eq!(given[..3], older);
        assert!(given[3..].contains(&"wss://victim.example") && given[3..].contains(&"wss://victim.example:444/a"));
        assert_eq!((given.len(), places.left_out[0].1), (5, LeftOut::Host));
    }

    #[test]
    fn private_addresses_have_as_many_urls_as_are_listed_if_the_operator_wants_it() {
        let url = |n| RelayUrl::parse(&format!("ws://10.0.0.1:7777/{n}")).unwrap();
        let all: Vec<Candidate> = (0..10).map(|n| Candidate { url: url(n), ..candidate("x", &[n], 1) }).collect();
        assert_eq!(assign(all.clone(), NOW, 1_024, false).given.len(), HOST_URLS_MAX);
        assert_eq!(assign(all, NOW, 1_024, true).given.len(), 10);
    }

    #[test]
    fn what_is_worth_writing_down_is_news() {
        let mut standing = Standing::default();
        assert!(standing.on_listed(NOW) && !standing.on_listed(NOW.plus_secs(1)));
        assert!(standing.on_place(true, NOW) && !standing.on_place(true, NOW.plus_secs(1)));
        assert!(standing.on_failure(NOW) && !standing.on_failure(NOW.plus_secs(1)));
        assert!(standing.on_reached(NOW.plus_secs(2)) && !standing.on_reached(NOW.plus_secs(3)));
        assert!(standing.on_reached(NOW.plus_secs(3 + REACHED_SAVE_AFTER)));
        assert!(!standing.excuse());
        let record = serde_json::to_string(&standing).unwrap();
        assert_eq!(serde_json::from_str::<Standing>(&record).unwrap(), standing);
        assert_eq!(serde_json::from_str::<Standing>("{}").unwrap(), Standing::default());
    }
}
