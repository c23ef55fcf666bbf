//! What stored progress claims (spec section 6), held against what relays had. After a crash the process would ask a
//! relay only for what was created since `through` minus the overlap, and only where a repo is confirmed; so whatever lies
//! before that, belongs to a confirmed repo and was there to be had must be stored.
//!
//! What reaches a relay later than the overlap allows is exempt until the next full catch-up.

use super::Verdict;
use super::durable::Durable;
use super::rules::{Bench, ROOT_KINDS, event_references, repo_references};
use crate::events::EventRef;
use crate::model_relay::ModelRelay;
use grasp_sync::store::Progress;
use std::collections::{BTreeMap, BTreeSet};

/// Seconds by which every `since` looks back.
const OVERLAP: u64 = 900;
/// Seconds that frames may have been under way when a link was lost.
const UNDER_WAY: u64 = 120;

/// When an event came to a relay, by the wall clock.
#[derive(Clone)]
struct Arrival {
    event: EventRef,
    at: u64,
    /// Whether subscribers were told.
    told: bool,
}

/// From when to when each repo was shared, in order.
type Shared = BTreeMap<String, Vec<(u64, u64)>>;

/// Of what has not ended.
const OPEN: u64 = u64::MAX;

#[derive(Default)]
pub struct Claims {
    /// By relay and id. What is durable, or excused, is taken out when it is looked at: that it stays so is judged elsewhere.
    arrivals: BTreeMap<usize, BTreeMap<String, Arrival>>,
    /// From when to when each relay shared a repo with us, by what was durable: relay, repo, times in order.
    shared: BTreeMap<String, Shared>,
    /// When root events became durable.
    roots: BTreeMap<String, u64>,
    /// Since when whom has been named a maintainer of what: author and identifier.
    named: BTreeMap<(String, String), u64>,
    /// The latest time on the clock at which the process heard anything of each relay, by its URL.
    heard: BTreeMap<String, u64>,
    /// What was judged last.
    judged: Vec<Progress>,
    /// The clock was set or the operator changed his lists: times and refusals no longer tell what should be held.
    pub void: bool,
}

/// One relay's stored progress.
#[derive(Default)]
struct Claim<'a> {
    through: u64,
    full_catchup: u64,
    /// Confirmed repos, and up to which number.
    confirmed: BTreeMap<String, u64>,
    shared: Option<&'a Shared>,
}

impl Claims {
    pub fn on_held(&mut self, relay: usize, event: &EventRef, at: u64, told: bool) {
        self.arrivals.entry(relay).or_default().insert(event.id.clone(), Arrival { event: event.clone(), at, told });
    }

    /// A frame of a relay reaches the process.
    pub fn on_heard(&mut self, relay: &str, at: u64) {
        match self.heard.get_mut(relay) {
            Some(heard) => *heard = at.max(*heard),
            None => _ = self.heard.insert(relay.to_owned(), at),
        }
    }

    /// Whether this is what was judged last; from now on it is.
    pub fn is_news(&mut self, progress: &[Progress]) -> bool {
        let news = self.judged != progress;
        if news {
            self.judged = progress.to_vec();
        }
        news
    }

    pub fn on_root(&mut self, id: &str, at: u64) {
        self.roots.insert(id.to_owned(), at);
    }

    /// Who is named a maintainer of what now.
    pub fn on_named(&mut self, at: u64, now: BTreeSet<(String, String)>) {
        self.named.retain(|named, _| now.contains(named));
        for named in now {
            self.named.entry(named).or_insert(at);
        }
    }

    /// Which relays share which repos now.
    pub fn on_shared(&mut self, at: u64, now: BTreeMap<String, Vec<String>>) {
        for (relay, repos) in &mut self.shared {
            for (repo, times) in repos {
                let still = now.get(relay).is_some_and(|repos| repos.contains(repo));
                if let Some((_, until)) = times.last_mut().filter(|(_, until)| *until == OPEN && !still) {
                    *until = at;
                }
            }
        }
        for (relay, repos) in now {
            let shared = self.shared.entry(relay).or_default();
            for repo in repos {
                let times = shared.entry(repo).or_default();
                if times.last().is_none_or(|(_, until)| *until != OPEN) {
                    times.push((at, OPEN));
                }
            }
        }
    }

    /// Judges what the disk claims. `trusted` says whose holdings can be had by asking.
    pub fn judge(
        &mut self,
        progress: &[Progress],
        relays: &[ModelRelay],
        trusted: &dyn Fn(&ModelRelay) -> bool,
        bench: &Bench<'_>,
    ) -> Verdict {
        let claims = read(&self.shared, progress);
        // Nobody can know that a relay is complete up to a moment after its last word.
        for (url, claim) in &claims {
            let heard = self.heard.get(url).copied().unwrap_or(0);
            if claim.through > heard {
                return Err(format!(
                    "{url} is claimed complete through {}, but was last heard at {heard}",
                    claim.through
                ));
            }
        }
        if self.void {
            return Ok(());
        }
        for (n, relay) in relays.iter().enumerate().filter(|(_, r)| trusted(r)) {
            let (Some(claim), Some(arrivals)) = (claims.get(relay.url.as_str()), self.arrivals.get_mut(&n)) else {
                continue;
            };
            arrivals.retain(|_, Arrival { event, .. }| {
                let excused = bench.durable.has(event) || bench.durable.excuses(event, bench.wall.1);
                // A tag without a name is no tag: such an event is unreadable.
                !excused && !event.tags.iter().any(Vec::is_empty)
            });
            for arrival in arrivals.values().filter(|arrival| relay.holds(&arrival.event)) {
                let event = &arrival.event;
                let claimed = claim.covers(arrival, &self.roots, &self.named, bench.durable);
                if claimed && bench.judge(event).is_ok() && !relay.hides(event) {
                    return Err(format!(
                        "{} is claimed complete through {} (full catch-up of {}), but {} (kind {}) of {}, there since {}, \
                         is not stored: {:?}; shared since {:?}; confirmed {:?}",
                        relay.url,
                        claim.through,
                        claim.full_catchup,
                        event.id,
                        event.kind,
                        event.created_at,
                        arrival.at,
                        event.tags,
                        claim.shared,
                        claim.confirmed
                    ));
                }
            }
        }
        Ok(())
    }
}

/// What the records claim, by relay.
fn read<'a>(shared: &'a BTreeMap<String, Shared>, progress: &[Progress]) -> BTreeMap<String, Claim<'a>> {
    let mut claims: BTreeMap<String, Claim<'a>> = BTreeMap::new();
    for record in progress {
        match record {
            Progress::Relay { relay, through, full_catchup } => {
                let claim = claims.entry(relay.as_str().to_owned()).or_default();
                (claim.through, claim.full_catchup) = (through.as_secs(), full_catchup.as_secs());
            }
            Progress::Confirmed { relay, repo, seq } => {
                let claim = claims.entry(relay.as_str().to_owned()).or_default();
                claim.confirmed.insert(repo.to_string(), *seq);
            }
            Progress::Budget { .. } | Progress::ForgetRepo { .. } | Progress::ForgetRelay { .. } => {}
        }
    }
    for (url, claim) in &mut claims {
        claim.shared = shared.get(url);
    }
    claims
}

impl Claim<'_> {
    /// Since when any of some repos has been shared without a pause.
    fn since<'r>(&self, repos: impl Iterator<Item = &'r str>) -> Option<u64> {
        let shared = self.shared?;
        let mut times: Vec<(u64, u64)> = repos.filter_map(|repo| shared.get(repo)).flatten().copied().collect();
        times.sort_unstable();
        let mut whole: Option<(u64, u64)> = None;
        for (since, until) in times {
            whole = match whole {
                Some((first, last)) if since < last => Some((first, last.max(until))),
                _ => Some((since, until)),
            };
        }
        whole.filter(|(_, until)| *until == OPEN).map(|(since, _)| since)
    }

    /// Whether a repo is confirmed up to `seq`.
    fn confirms(&self, repo: &str, seq: u64) -> bool {
        self.confirmed.get(repo).is_some_and(|upto| *upto >= seq)
    }

    /// Since when a maintainer's state has been asked for: he is named, and a repo of that name is shared.
    fn state_since(&self, event: &EventRef, named: &BTreeMap<(String, String), u64>) -> Option<u64> {
        let since_named = named.get(&(event.author.clone(), event.identifier().to_owned()))?;
        let of_name = |repo: &&str| repo.splitn(3, ':').nth(2) == Some(event.identifier());
        let repos = self.confirmed.keys().map(String::as_str).filter(of_name);
        let since = repos.filter_map(|repo| self.since(std::iter::once(repo))).min()?;
        Some(since.max(*since_named))
    }

    /// Whether the claim says of an event that it is stored.
    fn covers(
        &self,
        arrival: &Arrival,
        roots: &BTreeMap<String, u64>,
        named: &BTreeMap<(String, String), u64>,
        durable: &Durable,
    ) -> bool {
        let event = &arrival.event;
        let by_name = (event.kind == 30618).then(|| self.state_since(event, named)).flatten();
        let by_repo = repo_references(event).filter(|repo| self.confirms(repo, 0));
        let by_repo = by_repo.filter_map(|repo| self.since(std::iter::once(repo)));
        let by_root = event_references(event).filter_map(|id| {
            let root = durable.events.get(id).filter(|e| ROOT_KINDS.contains(&e.kind))?;
            let (seq, stored) = (durable.seq_of(id)?, roots.get(id)?);
            let confirmed = |repo: &str| self.confirms(repo, seq) && self.since(std::iter::once(repo)).is_some();
            // The root is asked for as long as any of its repos is shared.
            root.values("a").any(confirmed).then(|| self.since(root.values("a")))?.map(|since| since.max(*stored))
        });
        by_repo.chain(by_root).chain(by_name).any(|asked_since| {
            let swept = if asked_since <= self.full_catchup { self.full_catchup } else { asked_since };
            let was_there = arrival.at < swept && event.created_at <= arrival.at;
            let came_in_time = event.created_at <= arrival.at && arrival.at + UNDER_WAY <= event.created_at + OVERLAP;
            was_there || (arrival.told && came_in_time && event.created_at + OVERLAP < self.through)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::rules::Rules;
    use crate::events::Author;
    use crate::model_relay::RelayConfig;
    use grasp_sync::protocol::relay_url::RelayUrl;
    use grasp_sync::protocol::repo::RepoAddr;
    use grasp_sync::time::UnixTime;

    /// Judges an issue of 5,000 that a relay has had since `arrived`, if it claims these.
    fn judged(arrived: u64, told: bool, through: u64, full_catchup: u64) -> Verdict {
        judged_of(&[(2_000, true)], arrived, told, through, full_catchup)
    }

    /// `sharing`: when the repo was shared from or no more.
    fn judged_of(sharing: &[(u64, bool)], arrived: u64, told: bool, through: u64, full_catchup: u64) -> Verdict {
        let author = Author::new(1);
        let announcement = author.announcement("x", &["wss://r.example"], 1);
        let issue = author.issue(&author.repo("x"), 5_000, "");
        judged_as(&issue, &[announcement], 2_000, sharing, (arrived, told), (through, full_catchup))
    }

    /// Judges an event of the repo that the first of these announces; its maintainers are named since `named`.
    fn judged_as(
        event: &EventRef,
        announcements: &[EventRef],
        named: u64,
        sharing: &[(u64, bool)],
        (arrived, told): (u64, bool),
        (through, full_catchup): (u64, u64),
    ) -> Verdict {
        let author = Author::new(1);
        let mut durable = Durable::default();
        announcements.iter().zip(1..).for_each(|(announcement, seq)| durable.add(seq, announcement.clone(), ""));
        let mut relay = ModelRelay::new("wss://r.example", RelayConfig::strfry());
        relay.hold(event);
        let mut claims = Claims::default();
        claims.on_held(0, event, arrived, told);
        claims.on_named(named, Rules::default().named(announcements.iter()));
        claims.on_heard("wss://r.example", 8_000);
        let shared: BTreeMap<_, _> = [("wss://r.example".to_owned(), vec![author.repo("x")])].into();
        for (at, now) in sharing {
            claims.on_shared(*at, if *now { shared.clone() } else { BTreeMap::new() });
        }
        let (relay_url, repo) = (RelayUrl::parse("wss://r.example"), RepoAddr::parse(&author.repo("x")));
        let (url, repo) = (relay_url.expect("a URL"), repo.expect("an address"));
        let record = Progress::Relay {
            relay: url.clone(),
            through: UnixTime::from_secs(through),
            full_catchup: UnixTime::from_secs(full_catchup),
        };
        let progress = [record, Progress::Confirmed { relay: url, repo, seq: 1 }];
        let bench =
            Bench { rules: &Rules::default(), durable: &durable, signed: None, replaces: false, wall: (9_000, 9_000) };
        claims.judge(&progress, &[relay], &|_| true, &bench)
    }

    #[test]
    fn a_claim_beyond_the_last_word_is_found() {
        judged(7_999, true, 8_000, 3_000).expect("the last frame came then");
        assert!(judged(7_999, true, 8_001, 3_000).is_err(), "nobody said anything since");
    }

    #[test]
    fn what_was_judged_is_no_news() {
        let (relay, at) = (RelayUrl::parse("wss://r.example").expect("a URL"), UnixTime::from_secs(1));
        let progress = [Progress::Relay { relay, through: at, full_catchup: at }];
        let mut claims = Claims::default();
        assert!(claims.is_news(&progress) && !claims.is_news(&progress) && claims.is_news(&[]));
    }

    #[test]
    fn a_claim_beyond_what_is_held_is_found() {
        assert!(judged(5_000, true, 6_000, 3_000).is_err(), "it came in time and lies before through");
        assert!(judged(5_700, true, 6_000, 3_000).is_err(), "later, but within the overlap");
        judged(5_000, true, 5_800, 3_000).expect("it would be asked for again");
        judged(5_900, true, 7_000, 3_000).expect("it came too late");
        judged(5_000, false, 6_000, 3_000).expect("nobody was told");
        assert!(judged(5_900, false, 7_000, 6_500).is_err(), "a full catch-up came after it");
    }

    #[test]
    fn a_state_is_claimed_since_its_author_is_named() {
        let (author, helper) = (Author::new(1), Author::new(2));
        let listed = ["relays", "wss://grasp.example", "wss://r.example"];
        let announcement = author.announcement_on("x", &author.clone_url("x"), &listed, &[&helper.hex], 1);
        let announcements = [announcement, helper.acceptance("x", &[&author], 1)];
        let judged = |by: &Author, d: &str, named, arrived, told| {
            let state = by.state(d, 5_000);
            judged_as(&state, &announcements, named, &[(2_000, true)], (arrived, told), (7_999, 3_000))
        };
        assert!(judged(&helper, "x", 2_000, 5_000, true).is_err(), "it came live, in time");
        judged(&helper, "x", 2_000, 5_900, false).expect("nobody was told");
        assert!(judged(&helper, "x", 6_000, 5_900, false).is_err(), "it was there when he was named");
        judged(&Author::new(3), "x", 6_000, 5_000, true).expect("a stranger's");
        judged(&helper, "y", 6_000, 5_000, true).expect("of another repo");
    }

    #[test]
    fn a_repo_that_came_back_is_asked_for_anew_however_soon() {
        let lost_for = |secs: u64, arrived: u64| {
            judged_of(&[(2_000, true), (6_000, false), (6_000 + secs, true)], arrived, false, 7_999, 3_000)
        };
        for secs in [0, 4, 1_500] {
            assert!(lost_for(secs, 5_900).is_err(), "the issue was there when it was asked for anew");
            lost_for(secs, 6_000 + secs).expect("it came afterwards, and nobody was told");
        }
    }
}
