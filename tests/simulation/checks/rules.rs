//! What belongs here (spec section 8), judged the slow and obvious way from what is durable. Where a batch may have held
//! for a moment what it then dropped again, the judgement is milder: everything that was ever signed counts as held.

use super::Verdict;
use super::durable::Durable;
use crate::events::{DOMAIN, EventRef, OWN_RELAY, SimEvent};
use grasp_sync::engine::Settings;
use nostr::key::PublicKey;
use nostr::nips::nip19::ToBech32;
use std::collections::{BTreeMap, BTreeSet};

pub const ROOT_KINDS: [u16; 4] = [1617, 1618, 1619, 1621];
/// Seconds by which an event may lie ahead of the wall clock.
const FUTURE_SECS: u64 = 900;

/// What the operator has set, as the checks read it.
#[derive(Clone, Debug)]
pub struct Rules {
    pub deny_authors: BTreeSet<String>,
    pub deny_repos: BTreeSet<String>,
    pub archive: BTreeSet<String>,
    pub bootstrap: BTreeSet<String>,
    pub relays_per_repo_max: usize,
    pub event_bytes_max: usize,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            deny_authors: BTreeSet::new(),
            deny_repos: BTreeSet::new(),
            archive: BTreeSet::new(),
            bootstrap: BTreeSet::new(),
            relays_per_repo_max: 16,
            event_bytes_max: 196_608,
        }
    }
}

/// What an event is judged by.
pub struct Bench<'a> {
    pub rules: &'a Rules,
    pub durable: &'a Durable,
    /// Everything that was ever signed, if what is durable may not tell all that was held for a moment.
    pub signed: Option<&'a BTreeMap<String, EventRef>>,
    /// Whether an announcement may take the place of one that was held and has gone.
    pub replaces: bool,
    /// The least and the greatest that the wall clock showed while the batch gathered.
    pub wall: (u64, u64),
}

impl Rules {
    pub fn of(settings: &Settings) -> Rules {
        Rules {
            deny_authors: settings.deny_authors.iter().map(PublicKey::to_hex).collect(),
            deny_repos: settings.deny_repos.iter().map(ToString::to_string).collect(),
            archive: settings.archive.iter().map(ToString::to_string).collect(),
            bootstrap: settings.bootstrap.iter().map(|b| b.as_str().to_owned()).filter(|b| !is_own(b)).collect(),
            relays_per_repo_max: settings.limits.relays_per_repo_max,
            event_bytes_max: settings.limits.event_bytes_max,
        }
    }

    /// Whether an announcement puts its repo on our service, or the operator archives it.
    pub fn is_ours(&self, announcement: &SimEvent) -> bool {
        let address = announcement.address();
        if self.deny_authors.contains(&announcement.author) || self.deny_repos.contains(&address) {
            return false;
        }
        self.archive.contains(&address) || (lists_own_relay(announcement) && lists_own_clone(announcement))
    }

    /// The relays that an announcement of ours is synced with, in the form that dials use.
    pub fn relays(&self, announcement: &SimEvent) -> Vec<String> {
        let listed = relays(announcement).into_iter().filter(|r| !is_own(r) || self.bootstrap.contains(r));
        listed.take(self.relays_per_repo_max).collect()
    }

    /// Who may speak for a repo called `identifier`, by these announcements.
    fn authority<'a>(&self, identifier: &str, announcements: impl Iterator<Item = &'a EventRef>) -> Authority<'a> {
        let of_name: Vec<&EventRef> = announcements.filter(|a| a.identifier() == identifier).collect();
        let present: Vec<&&EventRef> = of_name.iter().filter(|a| !has_left(a)).collect();
        let mut confirmed: BTreeSet<&str> =
            present.iter().filter(|a| self.is_ours(a)).map(|a| a.author.as_str()).collect();
        loop {
            let speaks = |a: &&&EventRef| confirmed.contains(a.author.as_str());
            let invited: BTreeSet<&str> = of_name.iter().filter(speaks).flat_map(|a| maintainers(a)).collect();
            let accepts = |a: &&&&EventRef| {
                invited.contains(a.author.as_str()) && maintainers(a).iter().any(|other| confirmed.contains(other))
            };
            let mut all = confirmed.clone();
            all.extend(present.iter().filter(accepts).map(|a| a.author.as_str()));
            if all == confirmed {
                return Authority { confirmed, invited };
            }
            confirmed = all;
        }
    }

    /// Who is confirmed as a maintainer of what, by these announcements: author and identifier.
    pub fn named<'a>(&self, announcements: impl Iterator<Item = &'a EventRef> + Clone) -> BTreeSet<(String, String)> {
        let identifiers: BTreeSet<&str> = announcements.clone().map(|a| a.identifier()).collect();
        let of_name = |d: &&'a str| {
            let d = *d;
            let confirmed = self.authority(d, announcements.clone()).confirmed;
            confirmed.into_iter().map(move |a| (a.to_owned(), d.to_owned()))
        };
        identifiers.iter().flat_map(of_name).collect()
    }
}

/// Who may speak, and who is asked to.
struct Authority<'a> {
    confirmed: BTreeSet<&'a str>,
    invited: BTreeSet<&'a str>,
}

impl Bench<'_> {
    /// Judges an event that has become durable.
    pub fn judge(&self, event: &EventRef) -> Verdict {
        let refuse = |why: &str| Err(format!("stored {} (kind {}): {why}", event.id, event.kind));
        if event.json.len() > self.rules.event_bytes_max {
            return refuse("it is too large");
        }
        if event.created_at > self.wall.1 + FUTURE_SECS {
            return refuse("it lies too far ahead");
        }
        if event.expires_at().is_some_and(|at| at <= self.wall.0) {
            return refuse("it has expired");
        }
        if event.tags.iter().any(|t| t.first().is_some_and(|n| n == "-")) {
            return refuse("it is protected");
        }
        if self.rules.deny_authors.contains(&event.author) {
            return refuse("its author is denied");
        }
        let repos = own_address(event).into_iter().chain(repo_references(event).map(str::to_owned));
        let repos: Vec<String> = repos.collect();
        if !repos.is_empty() && repos.iter().all(|r| self.rules.deny_repos.contains(r)) {
            return refuse("its repos are denied");
        }
        if self.belongs(event) { Ok(()) } else { refuse("it does not belong here") }
    }

    pub fn belongs(&self, event: &EventRef) -> bool {
        match event.kind {
            30617 => {
                self.rules.is_ours(event)
                    || self.announcements().any(|a| a.address() == event.address() && a.id != event.id)
                    || (self.replaces && self.durable.superseding(event))
                    || self.is_invited(&event.author, event.identifier())
            }
            30618 => self.authority(event.identifier()).confirmed.contains(&*event.author),
            5 => self.names_something(event),
            20_000..=29_999 => false,
            _ => {
                self.is_related(event)
                    || self.hangs_on_related(event)
                    || (event.kind == 10_317 && self.held().any(|e| e.author == event.author && e.id != event.id))
            }
        }
    }

    /// Whether an event is tied to a repo or a root event by itself.
    fn is_related(&self, event: &SimEvent) -> bool {
        repo_references(event).any(|address| self.is_followed(address))
            || event_references(event).any(|id| self.is_root(id))
            || self.is_tagged(event)
    }

    /// Whether it refers to something held that is, however many others it refers to.
    fn hangs_on_related(&self, event: &SimEvent) -> bool {
        let values = |names: [&'static str; 3]| names.into_iter().flat_map(|name| event.values(name));
        let refers = |parent: &EventRef| {
            let address = parent.replace_key().map(|(kind, author, d)| format!("{kind}:{author}:{d}"));
            parent.id != event.id
                && (values(["e", "E", "q"]).any(|id| id == parent.id)
                    || values(["a", "A", "q"]).any(|a| Some(a) == address.as_deref()))
        };
        self.held().filter(|e| refers(e)).any(|parent| match parent.kind {
            30617 => self.is_followed(&parent.address()),
            30618 => self.authority(parent.identifier()).confirmed.contains(&*parent.author),
            5 => false,
            _ => self.is_related(parent),
        })
    }

    /// All that is held, or may have been for a moment.
    fn held(&self) -> impl Iterator<Item = &EventRef> {
        self.durable.events.values().chain(self.signed.into_iter().flat_map(BTreeMap::values))
    }

    fn announcements(&self) -> impl Iterator<Item = &EventRef> {
        let signed = self.signed.into_iter().flat_map(BTreeMap::values).filter(|e| e.kind == 30617);
        self.durable.announcements.values().chain(signed)
    }

    fn authority(&self, identifier: &str) -> Authority<'_> {
        self.rules.authority(identifier, self.announcements())
    }

    fn is_invited(&self, author: &str, identifier: &str) -> bool {
        let Authority { confirmed, invited } = self.authority(identifier);
        confirmed.contains(author) || invited.contains(author)
    }

    /// Whether events that tag this repo belong here.
    pub fn is_followed(&self, address: &str) -> bool {
        let mut held = self.announcements().filter(|a| a.address() == address).peekable();
        let Some(first) = held.peek() else { return false };
        let (author, identifier) = (first.author.clone(), first.identifier().to_owned());
        held.any(|a| self.rules.is_ours(a)) || self.is_invited(&author, &identifier)
    }

    fn is_root(&self, id: &str) -> bool {
        let event = self.durable.events.get(id).or_else(|| self.signed?.get(id));
        event.is_some_and(|e| ROOT_KINDS.contains(&e.kind))
    }

    /// Whether an announcement or root event that is held tags this event.
    fn is_tagged(&self, event: &SimEvent) -> bool {
        let tags = |e: &&EventRef| {
            (e.kind == 30617 || ROOT_KINDS.contains(&e.kind))
                && ["e", "E", "q"].iter().any(|name| e.values(name).any(|id| id == event.id))
        };
        self.held().any(|e| tags(&e))
    }

    /// Whether a deletion names something of its author's.
    fn names_something(&self, deletion: &SimEvent) -> bool {
        let mut own = self.held().filter(|e| e.author == deletion.author);
        own.any(|e| {
            deletion.values("e").any(|id| id == e.id)
                || (e.replace_key().is_some()
                    && e.created_at <= deletion.created_at
                    && deletion.values("a").any(|a| a == e.address()))
        })
    }
}

fn own_address(event: &SimEvent) -> Option<String> {
    matches!(event.kind, 30617 | 30618).then(|| format!("30617:{}:{}", event.author, event.identifier()))
}

pub fn repo_references(event: &SimEvent) -> impl Iterator<Item = &str> {
    ["a", "A", "q"].into_iter().flat_map(|name| event.values(name)).filter(|v| v.starts_with("30617:"))
}

pub fn event_references(event: &SimEvent) -> impl Iterator<Item = &str> {
    ["e", "E", "q"].into_iter().flat_map(|name| event.values(name)).filter(|v| v.len() == 64)
}

/// All values of the tags of this name.
fn listed<'a>(event: &'a SimEvent, name: &'a str) -> impl Iterator<Item = &'a str> {
    let tags = event.tags.iter().filter(move |t| t.first().is_some_and(|n| n == name));
    tags.flat_map(|t| t[1..].iter().map(|v| &**v))
}

/// Maintainers that count of one announcement.
const MAINTAINERS_MAX: usize = 64;

/// The role tags of an announcement: letter, key, boundaries.
fn roles(announcement: &SimEvent) -> impl Iterator<Item = (&str, &str, &[String])> {
    let tags = announcement.tags.iter().filter(|t| t.first().is_some_and(|n| ["M", "m", "o"].contains(&&**n)));
    tags.map(|t| (t[0].as_str(), t.get(1).map_or("", String::as_str), t.get(2..).unwrap_or(&[])))
}

/// Whether these boundaries end with a start, if they are all times.
fn is_open(boundaries: &[String]) -> Option<bool> {
    let time = |b: &String| !b.starts_with('+') && b.parse::<u64>().is_ok();
    boundaries.iter().all(time).then_some(boundaries.is_empty() || boundaries.len() % 2 == 1)
}

/// Whom an announcement lists as maintainers.
fn maintainers(announcement: &SimEvent) -> Vec<&str> {
    let by_role = || roles(announcement).filter(|(role, _, b)| *role != "o" && is_open(b) == Some(true));
    let listed: Vec<&str> = match roles(announcement).next() {
        Some(_) => by_role().map(|(_, key, _)| key).collect(),
        None => listed(announcement, "maintainers").collect(),
    };
    let mut seen = BTreeSet::from([announcement.author.as_str()]);
    let is_key = |k: &&str| k.len() == 64 && k.bytes().all(|b| b"0123456789abcdef".contains(&b));
    listed.into_iter().filter(|k| is_key(k) && seen.insert(k)).take(MAINTAINERS_MAX).collect()
}

/// Whether its author says that he maintains it no more.
fn has_left(announcement: &SimEvent) -> bool {
    let own = || roles(announcement).filter(|(role, key, _)| *role != "o" && *key == announcement.author);
    own().any(|(.., b)| is_open(b) == Some(false)) && !own().any(|(.., b)| is_open(b) == Some(true))
}

/// Whether a relay URL leads to the host of our service, at whatever port and path.
fn is_own(url: &str) -> bool {
    let host = url.split_once("://").and_then(|(_, rest)| rest.split([':', '/', '?']).next());
    host == Some(DOMAIN)
}

fn lists_own_relay(announcement: &SimEvent) -> bool {
    relays(announcement).iter().any(|r| r == OWN_RELAY)
}

fn lists_own_clone(announcement: &SimEvent) -> bool {
    let author = PublicKey::from_hex(&announcement.author).expect("an author");
    let path = format!("://{DOMAIN}/{}/{}.git", author.to_bech32().expect("infallible"), announcement.identifier());
    listed(announcement, "clone").any(|url| url == format!("https{path}") || url == format!("http{path}"))
}

/// The relays of an announcement in the form that dials use, each once, in order.
pub fn relays(announcement: &SimEvent) -> Vec<String> {
    let mut seen = BTreeSet::new();
    listed(announcement, "relays").filter_map(plain).filter(|r| seen.insert(r.clone())).collect()
}

/// The one form of a relay URL, for the forms that the world draws.
fn plain(url: &str) -> Option<String> {
    let lower = url.trim_end_matches('/').to_ascii_lowercase();
    let (scheme, host) = lower.split_once("://")?;
    let port = match scheme {
        "wss" => ":443",
        "ws" => ":80",
        _ => return None,
    };
    let odd = host.is_empty() || host.contains(['@', '#', ' ', '%']);
    (!odd).then(|| format!("{scheme}://{}", host.strip_suffix(port).unwrap_or(host)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Author;

    fn bench<'a>(rules: &'a Rules, durable: &'a Durable) -> Bench<'a> {
        Bench { rules, durable, signed: None, replaces: false, wall: (1_000, 1_000) }
    }

    #[test]
    fn forms_of_a_url_are_one() {
        for form in ["wss://R.example", "wss://r.example:443/", "WSS://r.example//"] {
            assert_eq!(plain(form).as_deref(), Some("wss://r.example"), "{form}");
        }
        for none in ["https://r.example", "r.example", "wss://a@r.example", "wss://r.example/#x", "wss://"] {
            assert_eq!(plain(none), None, "{none}");
        }
    }

    #[test]
    fn what_does_not_belong_is_found() {
        let (owner, other) = (Author::new(1), Author::new(2));
        let rules = Rules::default();
        let mut durable = Durable::default();
        let ours = owner.announcement("x", &["wss://r.example"], 10);
        durable.add(1, ours.clone(), "");
        let judge = |event: &EventRef| bench(&rules, &durable).judge(event);
        judge(&ours).expect("lists us");
        judge(&owner.issue(&owner.repo("x"), 10, "")).expect("tags a repo of ours");
        judge(&owner.state("x", 10)).expect("the owner's");
        judge(&owner.foreign_announcement("x", 20)).expect("replaces what we hold");
        assert!(judge(&other.state("x", 10)).is_err());
        assert!(judge(&other.foreign_announcement("x", 10)).is_err());
        assert!(judge(&other.issue(&other.repo("x"), 10, "")).is_err());
        assert!(judge(&owner.issue(&owner.repo("x"), 2_000, "")).is_err(), "the future");
        assert!(judge(&other.deletion(&[&ours], &[], 10)).is_err(), "not its own");
        judge(&owner.deletion(&[&ours], &[], 10)).expect("its own");
        let lists = ["relays", OWN_RELAY];
        let wrong_clone = other.announcement_on("x", &owner.clone_url("x"), &lists, &[], 10);
        assert!(judge(&wrong_clone).is_err(), "somebody else's clone URL");
        let expired = owner.sign(1621, 10, &[&["a", &owner.repo("x")], &["expiration", "900"]], "");
        assert!(judge(&expired).is_err());
        let protected = owner.sign(1621, 10, &[&["a", &owner.repo("x")], &["-"]], "");
        assert!(judge(&protected).is_err());
    }

    #[test]
    fn one_generation_further_belongs_and_no_more() {
        let (owner, other) = (Author::new(1), Author::new(2));
        let rules = Rules::default();
        let mut durable = Durable::default();
        durable.add(1, owner.announcement("x", &["wss://r.example"], 10), "");
        let issue = owner.issue(&owner.repo("x"), 10, "");
        let comment = other.comment(&issue, 11, "");
        let reaction = other.sign(7, 12, &[&["e", &comment.id]], "+");
        let to_reaction = other.sign(7, 13, &[&["e", &reaction.id]], "+");
        let article = owner.sign(30_023, 14, &[&["d", "y"], &["a", &owner.repo("x")]], "");
        let about_it = other.sign(1_111, 15, &[&["A", &article.address()]], "");
        let list = other.sign(10_317, 16, &[], "");
        assert!(bench(&rules, &durable).judge(&reaction).is_err(), "the comment is not held");
        assert!(bench(&rules, &durable).judge(&list).is_err(), "nothing of its author's is held");
        for (n, event) in [&issue, &comment, &reaction, &article].into_iter().enumerate() {
            durable.add(2 + n as u64, event.clone(), "");
        }
        let judge = |event: &EventRef| bench(&rules, &durable).judge(event);
        [&comment, &reaction, &article, &about_it, &list].into_iter().for_each(|e| judge(e).expect("belongs"));
        assert!(judge(&to_reaction).is_err(), "two generations further");
        // Of an announcement that unlisted us nothing hangs.
        durable.add(9, owner.foreign_announcement("x", 20), "");
        let late = other.issue(&owner.repo("x"), 21, "");
        assert!(bench(&rules, &durable).judge(&late).is_err());
    }

    #[test]
    fn who_is_listed_may_announce_and_speaks_once_he_lists_back() {
        let (a, b, c) = (Author::new(1), Author::new(2), Author::new(3));
        let rules = Rules::default();
        let mut durable = Durable::default();
        let lists = ["relays", OWN_RELAY];
        let judge = |durable: &Durable, event: &EventRef| bench(&rules, durable).judge(event);
        durable.add(1, a.announcement_on("x", &a.clone_url("x"), &lists, &[&b.hex], 10), "");
        assert!(judge(&durable, &b.state("x", 10)).is_err(), "he has not accepted");
        judge(&durable, &b.foreign_announcement("x", 10)).expect("he is invited");
        durable.add(2, b.acceptance("x", &[&c], 10), "");
        assert!(judge(&durable, &b.state("x", 10)).is_err(), "he lists others");
        assert!(judge(&durable, &c.foreign_announcement("x", 10)).is_err(), "whom he cannot invite");
        durable.add(3, b.acceptance("x", &[&c, &a], 11), "");
        judge(&durable, &b.state("x", 10)).expect("he lists one back");
        assert!(judge(&durable, &c.state("x", 10)).is_err());
        durable.add(4, c.acceptance("x", &[&b], 10), "");
        judge(&durable, &c.state("x", 10)).expect("along the chain");
        assert!(judge(&durable, &c.state("y", 10)).is_err());
    }

    #[test]
    fn roles_are_read_by_their_boundaries() {
        let (a, b, c) = (Author::new(1), Author::new(2), Author::new(3));
        let lists = |tags: &[&[&str]]| {
            maintainers(&a.announcement_with("x", "", &["relays"], tags, 10)).iter().map(|k| (*k).to_owned()).collect()
        };
        let (b, c): (&str, &str) = (&b.hex, &c.hex);
        let lists: &dyn Fn(&[&[&str]]) -> Vec<String> = &lists;
        assert_eq!(lists(&[&["maintainers", b, "x", b, c]]), [b, c]);
        assert_eq!(lists(&[&["maintainers", b], &["o", c]]), [""; 0]);
        assert_eq!(lists(&[&["M", b], &["m", c, "1", "2", "3"]]), [b, c]);
        for inactive in [&["1", "2"][..], &["1", "defer"], &["x"], &["1", "defer", "3"]] {
            assert_eq!(lists(&[&[&["m", b], inactive].concat()]), [""; 0], "{inactive:?}");
        }
        let left = |tags: &[&[&str]]| has_left(&a.announcement_with("x", "", &["relays"], tags, 10));
        assert!(left(&[&["m", &a.hex, "1", "2"]]));
        assert!(!left(&[&["m", &a.hex, "1", "2"], &["M", &a.hex]]) && !left(&[&["o", &a.hex, "1", "2"]]));
    }

    #[test]
    fn the_operators_lists_count() {
        let owner = Author::new(1);
        let ours = owner.announcement("x", &["wss://r.example"], 10);
        let denied = Rules { deny_repos: [owner.repo("x")].into(), ..Rules::default() };
        let durable = Durable::default();
        assert!(bench(&denied, &durable).judge(&ours).is_err());
        let denied = Rules { deny_authors: [owner.hex.clone()].into(), ..Rules::default() };
        assert!(bench(&denied, &durable).judge(&ours).is_err());
        let foreign = owner.foreign_announcement("y", 10);
        let archiving = Rules { archive: [owner.repo("y")].into(), ..Rules::default() };
        bench(&archiving, &durable).judge(&foreign).expect("archived");
    }
}
