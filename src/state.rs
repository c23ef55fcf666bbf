//! The two maps that say what we follow (spec section 3): repo → its root events, and relay → the repos it shares with
//! us. They are built from the store at start and changed only by what the store takes in; everything a relay is asked
//! is derived from them.
//!
//! Repos and root events are interned: an address or an id is held once and named by a small number elsewhere. Numbers
//! follow the order of arrival, so later root events have larger ones. A repo has a number once it has been announced, for
//! anybody may make up as many addresses as fit into an event; root events that came before are found when it is.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use nostr::event::{Event, EventId};
use nostr::key::PublicKey;

use crate::protocol::relay_url::RelayUrl;
use crate::protocol::repo::{
    ANNOUNCEMENT_KIND, Announcement, DELETION_KIND, RepoAddr, STATE_KIND, event_references, repo_references,
};
use crate::settings::Settings;
use crate::store::Seq;

mod authority;
mod early;
mod requery;
mod roots;

use authority::{Authority, IdentifierId, Listing, Standing};
use early::Early;
use requery::Requeries;
use roots::{Roots, push};

/// A repo's number in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoId(u32);

/// A root event's number in this process; grows with the store sequence number, but for those whose first repo was announced
/// after they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootId(u32);

/// An author's number in this process: of somebody who has announced a repo, or whose repo something has named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AuthorId(u32);

#[cfg(test)]
mod numbered {
    use super::{AuthorId, RepoId, RootId};

    impl AuthorId {
        pub(crate) fn of_number(n: u32) -> AuthorId {
            AuthorId(n)
        }
    }

    impl RepoId {
        pub(crate) fn of_number(n: u32) -> RepoId {
            RepoId(n)
        }
    }

    impl RootId {
        pub(crate) fn of_number(n: u32) -> RootId {
            RootId(n)
        }
    }
}

/// What the store took in, as far as the maps care.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Repos that a relay newly shares with us.
    pub gained: BTreeMap<RelayUrl, BTreeSet<RepoId>>,
    /// Repos that a relay shares and for which somebody became invited or confirmed: what he published before was
    /// refused.
    pub maintainers_changed: BTreeMap<RelayUrl, BTreeSet<RepoId>>,
    /// Repos that a relay shared with us until then. They may be back: what came of them meanwhile was refused.
    pub lost: BTreeMap<RelayUrl, BTreeSet<RepoId>>,
    /// New root events.
    pub roots: BTreeSet<RootId>,
    /// Everything up to this store sequence number has been brought, with what came before.
    pub upto: Seq,
    /// Relays that an announcement listed beyond the allowed number, or that are not valid URLs, as far as no earlier
    /// version of it had as many.
    pub relays_refused: usize,
    /// Maintainers that an announcement listed beyond the allowed number.
    pub maintainers_refused: usize,
    /// Maintainers that found no place among those of their identifier.
    pub candidates_refused: usize,
}

impl Changes {
    /// Whether nothing changed that a window would have to act on.
    pub fn is_empty(&self) -> bool {
        self.gained.is_empty() && self.maintainers_changed.is_empty() && self.lost.is_empty() && self.roots.is_empty()
    }

    /// Adds what changed afterwards.
    pub fn merge(&mut self, later: Changes) {
        for (relay, repos) in later.gained {
            self.gained.entry(relay).or_default().extend(repos);
        }
        for (relay, repos) in later.maintainers_changed {
            self.maintainers_changed.entry(relay).or_default().extend(repos);
        }
        for (relay, repos) in later.lost {
            self.lost.entry(relay).or_default().extend(repos);
        }
        self.roots.extend(later.roots);
        self.upto = self.upto.max(later.upto);
        self.relays_refused += later.relays_refused;
        self.maintainers_refused += later.maintainers_refused;
        self.candidates_refused += later.candidates_refused;
    }
}

/// One repo that has been announced.
#[derive(Debug)]
struct Repo {
    addr: RepoAddr,
    author: AuthorId,
    /// In ascending order.
    roots: Vec<RootId>,
    announcement: Option<Held>,
}

/// What matters of a stored announcement.
#[derive(Debug)]
struct Held {
    /// Relays it shares with us: empty unless it lists our service.
    relays: Vec<RelayUrl>,
    /// The most that were refused of one version: so many have been counted.
    relays_refused: usize,
    /// It lists our service, or the operator archives it.
    ours: bool,
}

/// What a relay shares with us.
#[derive(Debug, Default)]
struct Shared {
    repos: BTreeSet<RepoId>,
    /// Whose repos these are, and how many of each.
    authors: BTreeMap<AuthorId, u32>,
    /// Root events of all of them, kept because there are millions; one counts with each of its repos.
    roots: usize,
}

impl Shared {
    fn add(&mut self, repo: RepoId, author: AuthorId) {
        if self.repos.insert(repo) {
            *self.authors.entry(author).or_default() += 1;
        }
    }

    fn remove(&mut self, repo: RepoId, author: AuthorId) {
        if !self.repos.remove(&repo) {
            return;
        }
        let count = self.authors.get_mut(&author).expect("each repo is one of its author's");
        *count -= 1;
        if *count == 0 {
            self.authors.remove(&author);
        }
    }
}

/// Both maps and their indexes.
#[derive(Debug)]
pub struct State {
    settings: Settings,
    repos: Vec<Repo>,
    repo_ids: BTreeMap<RepoAddr, RepoId>,
    author_ids: BTreeMap<PublicKey, AuthorId>,
    roots: Roots,
    early: Early,
    authority: Authority,
    /// Identifiers of which all repos have been handed out as [`Changes::maintainers_changed`] since a window closed.
    asked_anew: BTreeSet<IdentifierId>,
    requeries: Requeries,
    sync_relays: BTreeMap<RelayUrl, Shared>,
    /// Repos whose announcement lists us, or that are archived.
    followed: usize,
    last_seq: Seq,
    last_announcement_seq: Seq,
}

impl State {
    /// Empty maps, but for the bootstrap relays, which are always present.
    pub fn new(settings: Settings) -> State {
        let sync_relays = settings
            .bootstrap
            .iter()
            .filter(|relay| !settings.service.is_at(relay))
            .map(|relay| (relay.clone(), Shared::default()))
            .collect();
        State {
            settings,
            repos: Vec::new(),
            repo_ids: BTreeMap::new(),
            author_ids: BTreeMap::new(),
            roots: Roots::default(),
            early: Early::default(),
            authority: Authority::default(),
            asked_anew: BTreeSet::new(),
            requeries: Requeries::default(),
            sync_relays,
            followed: 0,
            last_seq: 0,
            last_announcement_seq: 0,
        }
    }

    /// A root event was taken in as number `seq`: it belongs to every repo it tags that has been announced. `seq` grows from
    /// call to call.
    pub fn add_root(&mut self, id: EventId, seq: Seq, repos: &[RepoAddr]) -> Changes {
        self.advance(seq);
        let mut changes = Changes::default();
        let mut announced: Vec<RepoId> = Vec::with_capacity(repos.len());
        for addr in repos {
            match self.repo_id(addr) {
                Some(repo) => announced.push(repo),
                None => self.early.note(addr, id, seq),
            }
        }
        let mut repos = announced;
        repos.sort_unstable();
        repos.dedup();
        if !repos.is_empty()
            && let Some(root) = self.roots.add(id, seq, &repos)
        {
            for repo in &repos {
                push(&mut self.repo_mut(*repo).roots, root);
                self.count_roots(*repo, 0, 1);
            }
            changes.roots.insert(root);
        }
        changes
    }

    /// A root event was deleted or has expired.
    pub fn remove_root(&mut self, id: &EventId) {
        self.early.forget(id);
        let Some((root, repos)) = self.roots.remove(id) else { return };
        for repo in repos {
            let roots = &mut self.repo_mut(repo).roots;
            // In the order of their numbers, in which they came.
            if let Ok(at) = roots.binary_search(&root) {
                roots.remove(at);
                self.count_roots(repo, 1, 0);
            }
        }
    }

    /// The current announcement of a repo was taken in as number `seq`; it replaces any earlier one.
    pub fn set_announcement(&mut self, announcement: &Announcement, seq: Seq) -> Changes {
        self.advance(seq);
        self.last_announcement_seq = seq;
        let ours = self.is_ours(announcement);
        let of_others = |relay: &&RelayUrl| !self.settings.service.may_be(relay) || self.is_bootstrap(relay);
        let listed = announcement.relays.iter().filter(of_others).count();
        let max = self.settings.limits.relays_per_repo_max;
        let relays: Vec<RelayUrl> = match ours {
            true => announcement.relays.iter().filter(of_others).take(max).cloned().collect(),
            false => Vec::new(),
        };
        let repo = self.intern(&announcement.addr);
        self.adopt_early(repo);
        let mut changes = self.share(repo, &relays);
        // Each version of an announcement lists the same ones again.
        let counted = self.held(repo).map_or(0, |held| held.relays_refused);
        let refused = if ours { announcement.relays_refused + listed.saturating_sub(max) } else { 0 };
        changes.relays_refused = refused.saturating_sub(counted);
        let relays_refused = refused.max(counted);
        changes.maintainers_refused = announcement.maintainers_refused;
        self.hold(repo, Some(Held { relays, relays_refused, ours }));
        let standing = match (announcement.author_left, ours) {
            (true, _) => Standing::Left,
            (false, true) => Standing::Owner,
            (false, false) => Standing::Elsewhere,
        };
        let maintainers = announcement.maintainers.as_slice().into();
        self.set_listing(repo, Some(Listing { repo, standing, maintainers }), &mut changes);
        changes
    }

    /// The announcement of a repo was deleted or has expired: it is no longer followed. Its events stay.
    pub fn remove_announcement(&mut self, addr: &RepoAddr) -> Changes {
        let Some(&repo) = self.repo_ids.get(addr) else { return Changes::default() };
        let mut changes = self.share(repo, &[]);
        self.hold(repo, None);
        self.set_listing(repo, None, &mut changes);
        changes
    }

    /// Says who may speak by a repo's announcement. Until a window has closed, the repos of one identifier are handed out
    /// once, no more than [`Requeries`] allows, and after that only those that a relay has gained since: whoever changes who may speak, again and again, pays
    /// for one announcement each time, not for all that share its identifier.
    fn set_listing(&mut self, repo: RepoId, listing: Option<Listing>, changes: &mut Changes) {
        let addr = &self.repos[repo.0 as usize].addr;
        let shift = self.authority.set(addr, listing);
        changes.candidates_refused = shift.refused;
        let identifier = self.authority.number(&addr.identifier).expect("it was set a moment ago");
        if shift.became && self.asked_anew.insert(identifier) {
            let (authority, relays_of) = (&self.authority, relays_in(&self.repos));
            changes.maintainers_changed =
                self.requeries.begin(identifier, changes.gained.clone(), authority, relays_of);
        } else if self.asked_anew.contains(&identifier) {
            changes.maintainers_changed = changes.gained.clone();
        }
    }

    /// A window has closed: what was handed out has been asked for, or will be by the next.
    pub fn on_window_closed(&mut self) {
        self.asked_anew.clear();
    }

    /// What of that is left, for there was too much of it for one window.
    pub fn requery_more(&mut self) -> Changes {
        let maintainers_changed = self.requeries.go_on(&self.authority, relays_in(&self.repos));
        Changes { maintainers_changed, upto: self.last_seq, ..Changes::default() }
    }

    /// The store has been read: relays are asked for everything anyway.
    pub fn on_loaded(&mut self) {
        self.asked_anew.clear();
        self.requeries = Requeries::default();
    }

    /// The largest sequence number that the maps have taken in.
    pub fn last_seq(&self) -> Seq {
        self.last_seq
    }

    /// The same of announcements alone.
    pub fn last_announcement_seq(&self) -> Seq {
        self.last_announcement_seq
    }

    /// A number that grows when somebody becomes invited or confirmed, or ceases to be.
    pub fn authority_version(&self) -> u64 {
        self.authority.version()
    }

    /// Relays that share at least one repo with us, and the bootstrap relays; the latter first.
    pub fn relays(&self) -> impl Iterator<Item = &RelayUrl> {
        let bootstrap = self.settings.bootstrap.iter().filter(|relay| self.sync_relays.contains_key(*relay));
        let others = self.sync_relays.keys().filter(|relay| !self.settings.bootstrap.contains(relay));
        bootstrap.chain(others)
    }

    /// The relays that come after this one in the order of their URLs, or all.
    pub fn relays_after(&self, after: Option<&RelayUrl>) -> impl Iterator<Item = &RelayUrl> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.sync_relays.range::<RelayUrl, _>((from, Bound::Unbounded)).map(|(url, _)| url)
    }

    /// Whether a relay is followed: some repo needs it, or it is a bootstrap relay.
    pub fn needs(&self, relay: &RelayUrl) -> bool {
        self.sync_relays.contains_key(relay)
    }

    /// The repos that `relay` shares with us.
    pub fn repos_of(&self, relay: &RelayUrl) -> impl Iterator<Item = RepoId> {
        self.sync_relays.get(relay).into_iter().flat_map(|shared| &shared.repos).copied()
    }

    /// The authors whose announcements make a relay share a repo with us, each once.
    pub fn authors_of(&self, relay: &RelayUrl) -> impl Iterator<Item = AuthorId> {
        self.sync_relays.get(relay).into_iter().flat_map(|shared| shared.authors.keys()).copied()
    }

    /// Whether the operator lists a relay.
    pub fn is_bootstrap(&self, relay: &RelayUrl) -> bool {
        self.settings.bootstrap.contains(relay)
    }

    /// The relays that share a repo with us.
    pub fn relays_of(&self, repo: RepoId) -> &[RelayUrl] {
        self.held(repo).map_or(&[], |held| &held.relays)
    }

    /// Whether a filter that we ask of `relay` matches an event: layer 1, a repo or a root event that it shares with us,
    /// or a deletion, which is asked for by author.
    pub fn asks(&self, relay: &RelayUrl, event: &Event) -> bool {
        if matches!(event.kind.as_u16(), ANNOUNCEMENT_KIND | STATE_KIND | DELETION_KIND) {
            return true;
        }
        let Some(Shared { repos: shared, .. }) = self.sync_relays.get(relay) else { return false };
        let shares = |addr: RepoAddr| self.repo_id(&addr).is_some_and(|repo| shared.contains(&repo));
        let shares_root = |id: EventId| {
            self.root_id(&id).is_some_and(|root| self.repos_of_root(root).iter().any(|repo| shared.contains(repo)))
        };
        repo_references(event).any(shares) || event_references(event).any(shares_root)
    }

    /// Whether `relay` shares `repo` with us.
    pub fn shares(&self, relay: &RelayUrl, repo: RepoId) -> bool {
        self.sync_relays.get(relay).is_some_and(|shared| shared.repos.contains(&repo))
    }

    /// The root events of `relay`'s repos, each once, oldest first.
    pub fn roots_of(&self, relay: &RelayUrl) -> Vec<RootId> {
        let mut roots: Vec<RootId> = self.repos_of(relay).flat_map(|repo| self.roots_of_repo(repo)).collect();
        // Each repo's are in order: merging them is what the stable sort does.
        roots.sort();
        roots.dedup();
        roots
    }

    /// How many repos `relay` shares with us.
    pub fn repo_count_of(&self, relay: &RelayUrl) -> usize {
        self.sync_relays.get(relay).map_or(0, |shared| shared.repos.len())
    }

    /// How many root events `relay`'s repos have: each counts with each of them.
    pub fn root_count_of(&self, relay: &RelayUrl) -> usize {
        self.sync_relays.get(relay).map_or(0, |shared| shared.roots)
    }

    /// The root events of one repo.
    pub fn roots_of_repo(&self, repo: RepoId) -> impl Iterator<Item = RootId> {
        self.repos[repo.0 as usize].roots.iter().copied()
    }

    /// The repos of one root event.
    pub fn repos_of_root(&self, root: RootId) -> &[RepoId] {
        self.roots.repos(root)
    }

    /// The id of one root event.
    pub fn root_event_id(&self, root: RootId) -> &EventId {
        self.roots.id(root)
    }

    /// The store sequence number of one root event.
    pub fn root_seq(&self, root: RootId) -> Seq {
        self.roots.seq(root)
    }

    /// The number of a root event that is held.
    pub fn root_id(&self, id: &EventId) -> Option<RootId> {
        self.roots.number(id)
    }

    /// The address of one repo.
    pub fn addr(&self, repo: RepoId) -> &RepoAddr {
        &self.repos[repo.0 as usize].addr
    }

    /// The number of a repo that has been announced.
    pub fn repo_id(&self, addr: &RepoAddr) -> Option<RepoId> {
        self.repo_ids.get(addr).copied()
    }

    /// Repos whose announcement lists us, or that are archived.
    pub fn repos_followed(&self) -> usize {
        self.followed
    }

    /// Root events held.
    pub fn roots_held(&self) -> usize {
        self.roots.len()
    }

    /// Whether events that tag this repo belong here: its announcement is held and lists us, is archived, or is that of
    /// somebody who is invited to maintain such a repo.
    pub fn is_followed(&self, addr: &RepoAddr) -> bool {
        let Some(repo) = self.repo_id(addr) else { return false };
        match &self.repos[repo.0 as usize].announcement {
            None => false,
            Some(held) => held.ours || self.is_invited(&addr.author, &addr.identifier),
        }
    }

    /// Whether an announcement of this repo is held, listing us or not.
    pub fn is_announced(&self, addr: &RepoAddr) -> bool {
        self.repo_id(addr).is_some_and(|repo| self.repos[repo.0 as usize].announcement.is_some())
    }

    /// Whether an announcement lists our service in its `clone` and its `relays`, or the operator archives its repo.
    pub fn is_ours(&self, announcement: &Announcement) -> bool {
        let Settings { service, archive, deny_repos, deny_authors, .. } = &self.settings;
        let addr = &announcement.addr;
        if deny_repos.contains(addr) || deny_authors.contains(&addr.author) {
            return false;
        }
        let cloned =
            || announcement.clone_urls.iter().any(|url| service.has_clone_url(url, &addr.author, &addr.identifier));
        let related = || announcement.relays.iter().any(|relay| service.is_relay(relay));
        archive.contains(addr) || (related() && cloned())
    }

    /// Whether `author` may speak for the repos of ours named `identifier`: is the author of one, or is listed by one who
    /// may and has announced it himself, listing back one who may.
    pub fn is_confirmed(&self, author: &PublicKey, identifier: &str) -> bool {
        self.authority.is_confirmed(author, identifier)
    }

    /// Whether `author` may speak for them or is listed by one who may.
    pub fn is_invited(&self, author: &PublicKey, identifier: &str) -> bool {
        self.authority.is_invited(author, identifier)
    }

    fn hold(&mut self, repo: RepoId, announcement: Option<Held>) {
        let is_ours = |held: &Option<Held>| usize::from(held.as_ref().is_some_and(|held| held.ours));
        self.followed += is_ours(&announcement);
        let before = std::mem::replace(&mut self.repo_mut(repo).announcement, announcement);
        self.followed -= is_ours(&before);
    }

    /// A repo has lost so many root events and gained so many.
    fn count_roots(&mut self, repo: RepoId, lost: usize, gained: usize) {
        let held = self.repos[repo.0 as usize].announcement.as_ref();
        for relay in held.into_iter().flat_map(|held| &held.relays) {
            let shared = self.sync_relays.get_mut(relay).expect("a shared relay is in the map");
            shared.roots = shared.roots + gained - lost;
        }
    }

    fn held(&self, repo: RepoId) -> Option<&Held> {
        self.repos[repo.0 as usize].announcement.as_ref()
    }

    fn repo_mut(&mut self, repo: RepoId) -> &mut Repo {
        &mut self.repos[repo.0 as usize]
    }

    fn intern(&mut self, addr: &RepoAddr) -> RepoId {
        if let Some(repo) = self.repo_id(addr) {
            return repo;
        }
        let repo = RepoId(u32::try_from(self.repos.len()).expect("the store names fewer than 2^32 repos"));
        let next = AuthorId(u32::try_from(self.author_ids.len()).expect("no more authors than repos"));
        let author = *self.author_ids.entry(addr.author).or_insert(next);
        self.repos.push(Repo { addr: addr.clone(), author, roots: Vec::new(), announcement: None });
        self.repo_ids.insert(addr.clone(), repo);
        repo
    }

    fn advance(&mut self, seq: Seq) {
        assert!(seq >= self.last_seq, "sequence numbers grow");
        self.last_seq = seq;
    }

    /// Makes `relays` the relays that share `repo` with us.
    fn share(&mut self, repo: RepoId, relays: &[RelayUrl]) -> Changes {
        let mut changes = Changes::default();
        let before = self.held(repo).map(|held| held.relays.clone()).unwrap_or_default();
        let author = self.repos[repo.0 as usize].author;
        let roots = self.repos[repo.0 as usize].roots.len();
        for relay in before.iter().filter(|relay| !relays.contains(relay)) {
            let shared = self.sync_relays.get_mut(relay).expect("a shared relay is in the map");
            shared.remove(repo, author);
            shared.roots -= roots;
            if shared.repos.is_empty() && !self.settings.bootstrap.contains(relay) {
                self.sync_relays.remove(relay);
            }
            changes.lost.entry(relay.clone()).or_default().insert(repo);
        }
        for relay in relays.iter().filter(|relay| !before.contains(relay)) {
            let shared = self.sync_relays.entry(relay.clone()).or_default();
            shared.add(repo, author);
            shared.roots += roots;
            changes.gained.entry(relay.clone()).or_default().insert(repo);
        }
        changes
    }
}

/// The relays that share each of these repos.
fn relays_in<'a>(repos: &'a [Repo]) -> impl Fn(RepoId) -> &'a [RelayUrl] {
    |repo| repos[repo.0 as usize].announcement.as_ref().map_or(&[], |held| &held.relays)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::REQUERIED_REPOS_MAX;
    use crate::sync::testing::{addr, announcement, author, relay, root_id, settings};

    fn gained(changes: &Changes) -> Vec<String> {
        changes.gained.keys().map(RelayUrl::to_string).collect()
    }

    fn lost(changes: &Changes) -> Vec<String> {
        changes.lost.keys().map(RelayUrl::to_string).collect()
    }

    #[test]
    fn only_announcements_that_list_us_in_clone_and_relays_share_their_relays() {
        let mut state = State::new(settings());
        let both = announcement(1, "a", &["one", "two"]);
        assert_eq!(gained(&state.set_announcement(&both, 1)), ["wss://one.example", "wss://two.example"]);
        let mut no_clone = announcement(2, "b", &["three"]);
        no_clone.clone_urls.clear();
        assert!(state.set_announcement(&no_clone, 2).is_empty());
        let mut no_relay = announcement(3, "c", &["three"]);
        no_relay.relays.retain(|relay| relay.host() != "git.example");
        assert!(state.set_announcement(&no_relay, 3).is_empty());
        assert!(!state.needs(&relay("three")));
        assert!(state.is_followed(&addr(1, "a")));
        assert!(!state.is_followed(&addr(2, "b")) && !state.is_followed(&addr(3, "c")));
    }

    #[test]
    fn the_own_relay_is_never_followed_and_a_lookalike_is() {
        let mut state = State::new(settings());
        let mut listed = announcement(1, "a", &[]);
        listed.relays.push(RelayUrl::parse("wss://evil-git.example").unwrap());
        listed.relays.push(RelayUrl::parse("ws://GIT.example:80/").unwrap());
        for own in ["ws://git.example/x1", "wss://git.example:7334", "wss://git.example./x2/?y"] {
            listed.relays.push(RelayUrl::parse(own).unwrap());
        }
        assert_eq!(gained(&state.set_announcement(&listed, 1)), ["wss://evil-git.example"]);
    }

    #[test]
    fn the_authors_that_list_a_relay_are_counted_once_each() {
        let mut state = State::new(settings());
        for (seq, (owner, name)) in [(1, "a"), (1, "b"), (2, "a")].into_iter().enumerate() {
            state.set_announcement(&announcement(owner, name, &["one"]), seq as Seq + 1);
        }
        assert_eq!(state.authors_of(&relay("one")).count(), 2);
        state.remove_announcement(&addr(1, "a"));
        assert_eq!(state.authors_of(&relay("one")).count(), 2);
        state.set_announcement(&announcement(1, "b", &["two"]), 9);
        assert_eq!((state.authors_of(&relay("one")).count(), state.authors_of(&relay("two")).count()), (1, 1));
    }

    #[test]
    fn bootstrap_is_always_present_and_never_removed() {
        let mut state = State::new(settings());
        assert_eq!(state.relays().collect::<Vec<_>>(), [&relay("boot")]);
        state.set_announcement(&announcement(1, "a", &["boot", "one"]), 1);
        let changes = state.remove_announcement(&addr(1, "a"));
        assert_eq!(lost(&changes), ["wss://boot.example", "wss://one.example"]);
        assert!(state.needs(&relay("boot")) && !state.needs(&relay("one")));
    }

    #[test]
    fn a_replacement_that_drops_a_relay_takes_the_repo_from_it_and_one_that_unlists_us_unfollows() {
        let mut state = State::new(settings());
        state.set_announcement(&announcement(1, "a", &["one", "two"]), 1);
        let changes = state.set_announcement(&announcement(1, "a", &["two", "three"]), 2);
        assert_eq!(
            (&*gained(&changes), &*lost(&changes)),
            (&["wss://three.example".into()][..], &["wss://one.example".into()][..])
        );
        let mut unlisting = announcement(1, "a", &["two"]);
        unlisting.clone_urls.clear();
        let changes = state.set_announcement(&unlisting, 3);
        assert_eq!(lost(&changes), ["wss://three.example", "wss://two.example"]);
        assert!(!state.is_followed(&addr(1, "a")));
        assert!(state.is_announced(&addr(1, "a")), "a later version may come back");
    }

    #[test]
    fn a_repo_that_comes_back_is_both_lost_and_gained_and_one_that_is_replaced_is_neither() {
        let mut state = State::new(settings());
        state.set_announcement(&announcement(1, "a", &["one"]), 1);
        assert!(state.set_announcement(&announcement(1, "a", &["one"]), 2).is_empty());
        let mut changes = state.remove_announcement(&addr(1, "a"));
        changes.merge(state.set_announcement(&announcement(1, "a", &["one"]), 3));
        let repo = state.repo_id(&addr(1, "a")).unwrap();
        assert_eq!(changes.lost, [(relay("one"), [repo].into())].into());
        assert_eq!(changes.gained, changes.lost);
    }

    #[test]
    fn a_root_event_belongs_to_every_repo_it_tags_also_when_they_are_announced_later() {
        let mut state = State::new(settings());
        state.add_root(root_id(1), 1, &[addr(1, "a"), addr(2, "b:with:colons")]);
        state.set_announcement(&announcement(1, "a", &["one"]), 2);
        state.set_announcement(&announcement(2, "b:with:colons", &["two"]), 3);
        for name in ["one", "two"] {
            let roots = state.roots_of(&relay(name));
            assert_eq!(roots.len(), 1);
            assert_eq!(state.root_event_id(*roots.first().unwrap()), &root_id(1));
        }
        state.remove_root(&root_id(1));
        assert!(state.roots_of(&relay("one")).is_empty());
        assert_eq!(state.roots_held(), 0);
    }

    #[test]
    fn counts_are_kept_as_a_walk_would_find_them() {
        let mut state = State::new(settings());
        let mut draw = 1_u32;
        let mut below = |n: u32| {
            draw = draw.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (draw >> 8) % n
        };
        let names = ["one", "two", "three", "boot"];
        for seq in 1..3_000_u64 {
            let (owner, name) = (1 + below(2) as u8, ["a", "b", "c"][below(3) as usize]);
            match below(8) {
                0 => _ = state.remove_announcement(&addr(owner, name)),
                1 => {
                    let listed: Vec<&str> = names.into_iter().filter(|_| below(2) == 0).collect();
                    let mut announced = announcement(owner, name, &listed);
                    if below(4) == 0 {
                        announced.clone_urls.clear();
                    }
                    state.set_announcement(&announced, seq);
                }
                2 => state.remove_root(&root_id(below(seq as u32))),
                _ => _ = state.add_root(root_id(seq as u32), seq, &[addr(owner, name), addr(2, "c")]),
            }
            for name in names {
                let relay = relay(name);
                let roots = state.repos_of(&relay).map(|repo| state.roots_of_repo(repo).count());
                let (repos, roots) = roots.fold((0, 0), |(repos, all), roots| (repos + 1, all + roots));
                assert_eq!((state.repo_count_of(&relay), state.root_count_of(&relay)), (repos, roots));
            }
            let ours = |repo: &&Repo| repo.announcement.as_ref().is_some_and(|held| held.ours);
            assert_eq!(state.repos_followed(), state.repos.iter().filter(ours).count());
        }
    }

    #[test]
    fn relays_beyond_the_allowed_number_are_counted_not_followed() {
        let names: Vec<String> = (0..20).map(|n| format!("r{n:02}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut state = State::new(settings());
        let changes = state.set_announcement(&announcement(1, "a", &names), 1);
        assert_eq!((changes.gained.len(), changes.relays_refused), (16, 4));
        assert_eq!(state.set_announcement(&announcement(1, "a", &names), 2).relays_refused, 0, "they are counted");
        assert_eq!(state.set_announcement(&announcement(1, "a", &names[..17]), 3).relays_refused, 0);
        let more = announcement(1, "a", &[&names[..], &["more"]].concat());
        assert_eq!(state.set_announcement(&more, 4).relays_refused, 1, "one more than ever");
        let invalid = Announcement { relays_refused: 7, ..announcement(2, "b", &[]) };
        assert_eq!(state.set_announcement(&invalid, 5).relays_refused, 7, "another's");
        assert!(state.needs(&relay("r15")) && !state.needs(&relay("r16")), "the first ones");
    }

    /// An announcement that does not list us.
    fn elsewhere(owner: u8, maintainers: &[u8]) -> Announcement {
        let mut elsewhere = announcement(owner, "a", &["elsewhere"]);
        elsewhere.clone_urls.clear();
        elsewhere.maintainers = maintainers.iter().map(|n| author(*n)).collect();
        elsewhere
    }

    #[test]
    fn who_is_listed_is_followed_and_speaks_once_he_has_accepted() {
        let mut state = State::new(settings());
        let mut owner = announcement(1, "a", &[]);
        owner.maintainers = vec![author(2)];
        state.set_announcement(&owner, 1);
        assert!(state.is_confirmed(&author(1), "a") && !state.is_confirmed(&author(2), "a"));
        assert!(state.is_invited(&author(2), "a") && !state.is_invited(&author(2), "b"));
        assert!(!state.is_followed(&addr(2, "a")), "he has not announced it");
        assert!(state.set_announcement(&elsewhere(2, &[3]), 2).gained.is_empty(), "its relays are not ours");
        assert!(state.is_followed(&addr(2, "a")) && !state.is_confirmed(&author(2), "a"));
        state.set_announcement(&elsewhere(2, &[3, 1]), 3);
        assert!(state.is_confirmed(&author(2), "a") && state.is_invited(&author(3), "a"));
        owner.author_left = true;
        state.set_announcement(&owner, 4);
        assert!(!state.is_confirmed(&author(1), "a") && !state.is_confirmed(&author(2), "a"));
        assert!(state.is_followed(&addr(1, "a")), "it lists us all the same");
        owner.author_left = false;
        state.set_announcement(&owner, 5);
        assert!(state.is_confirmed(&author(2), "a"));
        state.remove_announcement(&addr(1, "a"));
        assert!(!state.is_invited(&author(2), "a"), "nobody maintains what nobody lists");
    }

    #[test]
    fn new_maintainers_concern_every_repo_of_ours_with_that_identifier() {
        let mut state = State::new(settings());
        let mut set = |announcement: &Announcement, seq| {
            state.on_window_closed();
            let changes = state.set_announcement(announcement, seq);
            changes.maintainers_changed.keys().map(RelayUrl::to_string).collect::<Vec<_>>()
        };
        let mut owner = announcement(1, "a", &["one", "two"]);
        assert_eq!(set(&owner, 1), ["wss://one.example", "wss://two.example"], "he is confirmed himself");
        set(&announcement(3, "b", &["three"]), 2);
        owner.maintainers = vec![author(2)];
        assert_eq!(set(&owner, 3), ["wss://one.example", "wss://two.example"]);
        assert_eq!(set(&owner, 4), [""; 0], "nobody new");
        assert_eq!(set(&elsewhere(4, &[5]), 5), [""; 0], "a stranger");
        let ours = ["wss://four.example", "wss://one.example", "wss://two.example"];
        assert_eq!(set(&announcement(4, "a", &["four"]), 6), ours, "he lists us now");
        assert_eq!(set(&elsewhere(2, &[6]), 7), [""; 0], "he does not accept");
        assert_eq!(set(&elsewhere(2, &[1, 6]), 8), ours, "he does, and invites one more");
        owner.maintainers.clear();
        assert_eq!(set(&owner, 9), [""; 0], "what he published was not refused until now");
        owner.maintainers = vec![author(2)];
        assert_eq!(set(&owner, 10), ours, "they are back");
    }

    #[test]
    fn until_a_window_closes_the_repos_of_an_identifier_are_handed_out_once() {
        let mut state = State::new(settings());
        let repos = |changes: Changes| changes.maintainers_changed.values().map(BTreeSet::len).sum::<usize>();
        for n in 1..=100 {
            let mut fork = announcement(n, "a", &["one", "two"]);
            fork.maintainers = vec![author(n + 100)];
            assert_eq!(repos(state.set_announcement(&fork, u64::from(n))), 2, "what is new of it");
        }
        let again = |n: u8| elsewhere(n + 100, &[n]);
        assert_eq!(repos(state.set_announcement(&again(1), 101)), 0, "all were handed out");
        state.on_window_closed();
        assert_eq!(repos(state.set_announcement(&again(2), 102)), 200);
        assert_eq!(repos(state.set_announcement(&again(3), 103)), 0);
    }

    #[test]
    fn repos_beyond_the_allowed_number_are_handed_out_by_the_windows_after() {
        let mut state = State::new(settings());
        let key = |n: usize| {
            let mut bytes = [9; PublicKey::LEN];
            bytes[..8].copy_from_slice(&n.to_be_bytes());
            PublicKey::from_byte_array(bytes)
        };
        let count = 2 * REQUERIED_REPOS_MAX + 10;
        for n in 0..count {
            let mut fork = announcement(1, "a", &["one", "two"]);
            fork.addr.author = key(n);
            fork.clone_urls.clear();
            state.settings.archive.push(fork.addr.clone());
            state.set_announcement(&fork, n as u64 + 1);
        }
        state.on_loaded();
        let repos = |changes: Changes| changes.maintainers_changed.values().next().map_or(0, BTreeSet::len);
        let mut inviting = announcement(1, "a", &["one"]);
        let mut invite = |state: &mut State, n: u8| {
            inviting.maintainers.push(author(n));
            repos(state.set_announcement(&inviting, 1_000_000 + u64::from(n)))
        };
        let window = |state: &mut State| {
            state.on_window_closed();
            repos(state.requery_more())
        };
        assert!((REQUERIED_REPOS_MAX..=REQUERIED_REPOS_MAX + 1).contains(&invite(&mut state, 100)));
        assert_eq!(window(&mut state), REQUERIED_REPOS_MAX);
        assert_eq!(invite(&mut state, 101), 0, "the rest comes first");
        assert_eq!(window(&mut state), 11, "and with it that of the first");
        let again = [window(&mut state), window(&mut state), window(&mut state), window(&mut state)];
        assert_eq!(again, [REQUERIED_REPOS_MAX, REQUERIED_REPOS_MAX, 11, 0]);
    }

    #[test]
    fn denied_repos_are_not_followed_and_archived_ones_are() {
        let mut settings = settings();
        settings.deny_repos = vec![addr(1, "a")];
        settings.archive = vec![addr(2, "b")];
        let mut state = State::new(settings);
        assert!(state.set_announcement(&announcement(1, "a", &["one"]), 1).is_empty());
        let mut archived = announcement(2, "b", &["two"]);
        archived.clone_urls.clear();
        assert_eq!(gained(&state.set_announcement(&archived, 2)), ["wss://two.example"]);
        assert!(state.is_followed(&addr(2, "b")) && !state.is_followed(&addr(1, "a")));
    }
}
