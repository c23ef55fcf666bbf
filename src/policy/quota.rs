//! What strangers may store (spec section 16, "Writing"): who pays for an event that a client publishes, and how much each
//! may have.
//!
//! An author pays for what he writes, and so does each repo that it belongs to and whose maintainer he is not. What
//! confirmed maintainers write in their own repos is nobody's to pay for, nor are deletions: they make room. Keys and repos
//! are free, so quotas hold back whoever does not know better, or does not try; what holds in any case is the rate of an
//! address and the room on the disk (`shares::room`).
//!
//! What relays bring is never refused for this. It would be a hole in a repo of ours that every relay offers to fill, each
//! time anew.

use std::borrow::Cow;
use std::collections::BTreeSet;

use nostr::event::Event;

use super::{Refusal, own_repo};
use crate::limits::{Limits, ROOT_REPOS_MAX, THREAD_PARENTS_MAX};
use crate::protocol::reference::references;
use crate::protocol::repo::{ANNOUNCEMENT_KIND, DELETION_KIND, RepoAddr, event_references, repo_references};
use crate::state::State;
use crate::store::{Holder, Store, StoreError};

/// Which quota is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quota {
    /// Events of an author.
    AuthorEvents,
    /// Bytes of an author.
    AuthorBytes,
    /// Repos that an author has announced.
    AuthorRepos,
    /// Events in a repo by others than its maintainers.
    RepoEvents,
    /// Bytes in a repo by others than its maintainers.
    RepoBytes,
}

impl Quota {
    /// All of them.
    pub const ALL: [Quota; 5] =
        [Quota::AuthorEvents, Quota::AuthorBytes, Quota::AuthorRepos, Quota::RepoEvents, Quota::RepoBytes];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Quota::AuthorEvents => "quota_author_events",
            Quota::AuthorBytes => "quota_author_bytes",
            Quota::AuthorRepos => "quota_author_repos",
            Quota::RepoEvents => "quota_repo_events",
            Quota::RepoBytes => "quota_repo_bytes",
        }
    }

    /// What a client is told, with the prefix of NIP-01: what of whom, and how much.
    pub fn message(self, limits: &Limits) -> Cow<'static, str> {
        let mib = |bytes: u64| bytes >> 20;
        match self {
            Quota::AuthorEvents => format!("blocked: quota of {} events of this author", limits.author_events_max),
            Quota::AuthorBytes => format!("blocked: quota of {} MiB of this author", mib(limits.author_bytes_max)),
            Quota::AuthorRepos => {
                format!("blocked: quota of {} repositories announced by this author", limits.author_repos_max)
            }
            Quota::RepoEvents => {
                format!("blocked: quota of {} events in this repository by others", limits.repo_events_max)
            }
            Quota::RepoBytes => {
                format!("blocked: quota of {} MiB in this repository by others", mib(limits.repo_bytes_max))
            }
        }
        .into()
    }
}

/// Who pays for an event that belongs here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payer {
    /// Nobody: a maintainer has written it in his own repo, or it deletes.
    Nobody,
    /// These, each once: its author first.
    Holders(Vec<Holder>),
}

/// Finds who pays for an event.
///
/// # Errors
///
/// If the store cannot be read.
pub fn payer(event: &Event, state: &State, store: &Store) -> Result<Payer, StoreError> {
    if event.kind.as_u16() == DELETION_KIND {
        return Ok(Payer::Nobody);
    }
    let mut repos = repos_of(event, state);
    if repos.is_empty() {
        repos = repos_of_parents(event, state, store)?;
    }
    let is_own = |repo: &RepoAddr| state.is_confirmed(&event.pubkey, &repo.identifier);
    let others: Vec<&RepoAddr> = repos.iter().filter(|repo| !is_own(repo)).take(ROOT_REPOS_MAX).collect();
    if others.is_empty() && !repos.is_empty() {
        return Ok(Payer::Nobody);
    }
    let of_repos = others.into_iter().map(Holder::repo);
    Ok(Payer::Holders(std::iter::once(Holder::author(&event.pubkey)).chain(of_repos).collect()))
}

/// Whether some accounts, an author's first, may have one more event of so many bytes. What it replaces goes first, so an
/// event that adds nothing is never too much.
///
/// # Errors
///
/// If the store cannot be read.
pub fn check(
    event: &Event,
    bytes: usize,
    holders: &[Holder],
    limits: &Limits,
    state: &State,
    store: &Store,
) -> Result<Result<(), Refusal>, StoreError> {
    let of_author = (limits.author_events_max, limits.author_bytes_max);
    let of_repo = (limits.repo_events_max, limits.repo_bytes_max);
    let replaced = store.charge_replaced_by(event)?;
    for (n, holder) in holders.iter().enumerate() {
        let ((events_max, bytes_max), events, of_bytes) = match n {
            0 => (of_author, Quota::AuthorEvents, Quota::AuthorBytes),
            _ => (of_repo, Quota::RepoEvents, Quota::RepoBytes),
        };
        let before = store.usage(holder)?;
        let left = replaced.as_ref().map_or(before, |charge| charge.taken_from(holder, before));
        if is_over(left.events + 1, before.events, events_max) {
            return Ok(Err(Refusal::Quota(events)));
        }
        if is_over(left.bytes + bytes as u64, before.bytes, bytes_max) {
            return Ok(Err(Refusal::Quota(of_bytes)));
        }
    }
    let max = limits.author_repos_max;
    let is_new =
        event.kind.as_u16() == ANNOUNCEMENT_KIND && own_repo(event).is_some_and(|repo| !state.is_announced(&repo));
    if max > 0 && is_new && store.repos_announced_by(&event.pubkey, max)? >= max {
        return Ok(Err(Refusal::Quota(Quota::AuthorRepos)));
    }
    Ok(Ok(()))
}

/// Whether something grows beyond its bound. 0: there is none.
fn is_over(after: u64, before: u64, max: u64) -> bool {
    max > 0 && after > max && after > before
}

/// The followed repos that an event belongs to by its own tags: those it names, and those of root events that it names.
fn repos_of(event: &Event, state: &State) -> BTreeSet<RepoAddr> {
    let named = own_repo(event).into_iter().chain(repo_references(event));
    let roots = event_references(event).filter_map(|id| state.root_id(&id));
    let of_roots = roots.flat_map(|root| state.repos_of_root(root)).map(|repo| state.addr(*repo).clone());
    named.chain(of_roots).filter(|repo| state.is_followed(repo)).collect()
}

/// Those that it belongs to by what it refers to, one generation further (spec section 8).
fn repos_of_parents(event: &Event, state: &State, store: &Store) -> Result<BTreeSet<RepoAddr>, StoreError> {
    let mut repos = BTreeSet::new();
    for reference in references(event, THREAD_PARENTS_MAX) {
        if let Some(parent) = store.referred(&reference)? {
            repos.extend(repos_of(&parent, state));
        }
    }
    Ok(repos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::repo::Announcement;
    use crate::store::testing::event_by;
    use crate::sync::testing::{addr, announcement, author, settings};

    fn event(n: u8, kind: u16, at: u64, tags: &[&[&str]], content: &str) -> Event {
        event_by(author(n), kind, at, tags, content)
    }

    /// The repo `x` of author 1, whose maintainer 2 has accepted, with an issue and a comment on it.
    fn scene() -> (State, Store, Event, Event) {
        let mut state = State::new(settings());
        let mut owner = announcement(1, "x", &["one"]);
        owner.maintainers = vec![author(2)];
        state.set_announcement(&owner, 1);
        let accepted = Announcement { maintainers: vec![author(1)], ..announcement(2, "x", &["one"]) };
        state.set_announcement(&accepted, 2);
        let mut store = Store::in_memory();
        let issue = event(5, 1_621, 10, &[&["a", &addr(1, "x").to_string()]], "");
        let staged = store.stage(issue.clone()).unwrap();
        state.add_root(issue.id, staged.seq + 10, &[addr(1, "x")]);
        let comment = event(5, 1_111, 11, &[&["E", &issue.id.to_hex()]], "");
        store.stage(comment.clone()).unwrap();
        (state, store, issue, comment)
    }

    fn pays(event: &Event, state: &State, store: &Store) -> Vec<Holder> {
        match payer(event, state, store).unwrap() {
            Payer::Nobody => Vec::new(),
            Payer::Holders(holders) => holders,
        }
    }

    #[test]
    fn an_author_and_the_repos_of_others_pay_however_the_event_belongs() {
        let (state, store, issue, comment) = scene();
        let repo = addr(1, "x").to_string();
        let (a, r) = (Holder::author(&author(7)), Holder::repo(&addr(1, "x")));
        for tag in [["a", &repo], ["q", &repo], ["E", &issue.id.to_hex()], ["e", &comment.id.to_hex()]] {
            assert_eq!(pays(&event(7, 1_111, 20, &[&tag], ""), &state, &store), [a, r], "{tag:?}");
            for maintainer in [1, 2] {
                assert_eq!(pays(&event(maintainer, 1_111, 20, &[&tag], ""), &state, &store), [], "{tag:?}");
            }
        }
        let list = event(7, 10_317, 20, &[], "");
        assert_eq!(pays(&list, &state, &store), [a]);
        let deletion = event(7, 5, 20, &[&["a", &repo]], "");
        assert_eq!(pays(&deletion, &state, &store), []);
        let first = event(7, 30_617, 20, &[&["d", "new"]], "");
        assert_eq!(pays(&first, &state, &store), [a], "he is no maintainer before it is here");
        assert_eq!(pays(&event(1, 30_617, 20, &[&["d", "x"]], ""), &state, &store), []);
    }

    #[test]
    fn a_maintainer_pays_for_what_he_writes_in_repos_of_others_too() {
        let (mut state, store, ..) = scene();
        state.set_announcement(&announcement(3, "y", &["one"]), 30);
        let both = event(1, 1_621, 20, &[&["a", &addr(1, "x").to_string()], &["a", &addr(3, "y").to_string()]], "");
        let expected = [Holder::author(&author(1)), Holder::repo(&addr(3, "y"))];
        assert_eq!(pays(&both, &state, &store), expected);
    }

    fn refused(limits: &Limits, charged: u64, state: &State, store: &mut Store) -> Option<Quota> {
        let repo = addr(1, "x").to_string();
        for n in 0..charged {
            let issue = event(7, 1_621, 50 + n, &[&["a", &repo]], "");
            let holders = pays(&issue, state, store);
            let staged = store.stage(issue).unwrap();
            store.charge(staged.seq, &holders).unwrap();
        }
        let next = event(7, 1_621, 49, &[&["a", &repo]], "");
        let bytes = next.as_json().len();
        match check(&next, bytes, &pays(&next, state, store), limits, state, store).unwrap() {
            Ok(()) => None,
            Err(Refusal::Quota(quota)) => {
                let message = quota.message(limits);
                assert!(message.starts_with("blocked: quota of ") && message.contains(" of ") && message.len() < 80);
                Some(quota)
            }
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_used_up_is_said() {
        let none = Limits {
            author_events_max: 0,
            author_bytes_max: 0,
            author_repos_max: 0,
            repo_events_max: 0,
            repo_bytes_max: 0,
            ..Limits::default()
        };
        let size = event(7, 1_621, 50, &[&["a", &addr(1, "x").to_string()]], "").as_json().len() as u64;
        for (limits, quota) in [
            (Limits { author_events_max: 5, ..none.clone() }, Quota::AuthorEvents),
            (Limits { author_bytes_max: 5 * size, ..none.clone() }, Quota::AuthorBytes),
            (Limits { repo_events_max: 5, ..none.clone() }, Quota::RepoEvents),
            (Limits { repo_bytes_max: 5 * size, ..none.clone() }, Quota::RepoBytes),
        ] {
            let (state, mut store, ..) = scene();
            assert_eq!(refused(&limits, 4, &state, &mut store), None, "{quota:?}: the fifth fits");
            let (state, mut store, ..) = scene();
            assert_eq!(refused(&limits, 5, &state, &mut store), Some(quota));
            assert_eq!(refused(&none, 0, &state, &mut store), None);
        }
    }

    #[test]
    fn whoever_has_used_up_his_quota_may_replace_what_is_his_by_no_more() {
        let list = |at: u64, content: &str| event(7, 10_317, at, &[], content);
        let (state, mut store, ..) = scene();
        let old = list(10, "twelve bytes");
        let bytes = |event: &Event| event.as_json().len();
        let full = Limits { author_events_max: 1, author_bytes_max: bytes(&old) as u64, ..Limits::default() };
        let lowered = Limits { author_events_max: 1, author_bytes_max: 1, ..Limits::default() };
        let seq = store.stage(old.clone()).unwrap().seq;
        store.charge(seq, &pays(&old, &state, &store)).unwrap();
        for committed in [false, true] {
            if committed {
                store.commit().unwrap();
            }
            let verdict = |event: &Event, limits: &Limits| {
                check(event, bytes(event), &pays(event, &state, &store), limits, &state, &store).unwrap()
            };
            for limits in [&full, &lowered] {
                assert_eq!(verdict(&list(20, "twelve again"), limits), Ok(()));
                assert_eq!(verdict(&list(20, "more than those"), limits), Err(Refusal::Quota(Quota::AuthorBytes)));
            }
            let another = event(7, 10_318, 20, &[], "");
            assert_eq!(verdict(&another, &full), Err(Refusal::Quota(Quota::AuthorEvents)));
        }
    }

    #[test]
    fn so_many_repos_are_announced_and_each_as_often_as_wanted() {
        let mut state = State::new(settings());
        let mut store = Store::in_memory();
        let limits = Limits { author_repos_max: 3, ..Limits::default() };
        let announce = |n: u64, at| event(4, 30_617, at, &[&["d", &n.to_string()]], "");
        for n in 0..3 {
            store.stage(announce(n, 10)).unwrap();
            state.set_announcement(&announcement(4, &n.to_string(), &["one"]), n + 1);
        }
        let verdict = |event: &Event| check(event, 1, &pays(event, &state, &store), &limits, &state, &store).unwrap();
        assert_eq!(verdict(&announce(3, 20)), Err(Refusal::Quota(Quota::AuthorRepos)));
        assert_eq!(verdict(&announce(2, 20)), Ok(()));
        let other = event(5, 30_617, 20, &[&["d", "3"]], "");
        assert_eq!(verdict(&other), Ok(()));
    }
}
