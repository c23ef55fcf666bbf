//! What belongs here (spec section 8): a closed list of reasons to refuse, and the functions that find them. Nothing is
//! changed, and nothing is remembered but how far a long search has come ([`Tagged`]); `intake` asks in the right order.

use nostr::event::Event;

use crate::limits::{FUTURE_SECS_MAX, THREAD_PARENTS_MAX};
use crate::protocol::reference::references;
use crate::protocol::repo::{
    ANNOUNCEMENT_KIND, Announcement, DELETION_KIND, GRASP_LIST_KIND, RepoAddr, STATE_KIND, event_references,
    expiration, identifier, is_protected, repo_references,
};
use crate::settings::Settings;
use crate::state::State;
use crate::store::{Store, StoreError, Verdict};
use crate::time::UnixTime;

pub mod quota;
mod tagged;

pub use quota::Quota;
pub use tagged::Tagged;

/// Why an event is not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// Its canonical JSON is larger than `limits.event_bytes_max`.
    TooLarge,
    /// It is not an event in the sense of NIP-01.
    Malformed,
    /// It matches no filter that we asked of that link.
    NotAsked,
    /// Its id is not its hash, or its signature is not its author's.
    Forged,
    /// It was created too far ahead of now.
    Future,
    /// It has expired (NIP-40).
    Expired,
    /// Only its author may publish it to us (NIP-70).
    Protected,
    /// Its author deleted it (NIP-09).
    Deleted,
    /// A newer version is held.
    Superseded,
    /// Its author is on the operator's deny list.
    DeniedAuthor,
    /// Every repo it refers to is on the operator's deny list.
    DeniedRepo,
    /// Its kind is never stored (NIP-01, 20000–29999).
    Ephemeral,
    /// An announcement that neither lists our service nor concerns a repo we follow.
    ForeignAnnouncement,
    /// A repository state whose author is no confirmed maintainer of such a repo of ours.
    NotAMaintainer,
    /// A deletion of nothing that we hold of its author's.
    DeletesNothing,
    /// It refers to nothing that we follow, nor to what belongs to that.
    Unrelated,
    /// Its author has published too much of late ([`crate::limits::AUTHOR_RATE`]).
    AuthorRate,
    /// A quota is used up.
    Quota(Quota),
}

impl Refusal {
    /// All of them.
    pub const ALL: [Refusal; 22] = [
        Refusal::TooLarge,
        Refusal::Malformed,
        Refusal::NotAsked,
        Refusal::Forged,
        Refusal::Future,
        Refusal::Expired,
        Refusal::Protected,
        Refusal::Deleted,
        Refusal::Superseded,
        Refusal::DeniedAuthor,
        Refusal::DeniedRepo,
        Refusal::Ephemeral,
        Refusal::ForeignAnnouncement,
        Refusal::NotAMaintainer,
        Refusal::DeletesNothing,
        Refusal::Unrelated,
        Refusal::AuthorRate,
        Refusal::Quota(Quota::AuthorEvents),
        Refusal::Quota(Quota::AuthorBytes),
        Refusal::Quota(Quota::AuthorRepos),
        Refusal::Quota(Quota::RepoEvents),
        Refusal::Quota(Quota::RepoBytes),
    ];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::TooLarge => "event_too_large",
            Refusal::Malformed => "malformed",
            Refusal::NotAsked => "not_asked",
            Refusal::Forged => "forged",
            Refusal::Future => "future",
            Refusal::Expired => "expired",
            Refusal::Protected => "protected",
            Refusal::Deleted => "deleted",
            Refusal::Superseded => "superseded",
            Refusal::DeniedAuthor => "denied_author",
            Refusal::DeniedRepo => "denied_repo",
            Refusal::Ephemeral => "ephemeral",
            Refusal::ForeignAnnouncement => "foreign_announcement",
            Refusal::NotAMaintainer => "not_a_maintainer",
            Refusal::DeletesNothing => "deletes_nothing",
            Refusal::Unrelated => "unrelated",
            Refusal::AuthorRate => "author_rate",
            Refusal::Quota(quota) => quota.name(),
        }
    }

    /// What a client is told, with the prefix of NIP-01.
    pub fn message(self) -> &'static str {
        match self {
            Refusal::TooLarge => "invalid: the event is too large",
            Refusal::Malformed => "invalid: not an event",
            Refusal::NotAsked => "blocked: not asked for",
            Refusal::Forged => "invalid: the id or the signature is wrong",
            Refusal::Future => "invalid: created_at is too far in the future",
            Refusal::Expired => "invalid: the event has expired",
            // Not `auth-required:`, which has clients wait for a challenge (NIP-42) that never comes.
            Refusal::Protected => "blocked: protected events are not taken here, for their author cannot authenticate",
            Refusal::Deleted => "blocked: the event was deleted by its author",
            Refusal::Superseded => "duplicate: a newer version is held",
            Refusal::DeniedAuthor => "blocked: this author is not accepted here",
            Refusal::DeniedRepo => "blocked: this repository is not accepted here",
            Refusal::Ephemeral => "blocked: ephemeral events are not kept here",
            Refusal::ForeignAnnouncement => {
                "blocked: the announcement must list this service in its clone and relays tags"
            }
            Refusal::NotAMaintainer => "blocked: only maintainers of a repository held here may publish its state",
            Refusal::DeletesNothing => "blocked: there is nothing of this author's here to delete",
            Refusal::Unrelated => "blocked: the event belongs to no repository held here",
            Refusal::AuthorRate => "rate-limited: too many events of this author, slow down",
            // Who knows the bound says more: `Quota::message`.
            Refusal::Quota(_) => "blocked: quota used up",
        }
    }

    /// Whether the verdict stands whatever else may be taken in later, so that the id can be remembered as refused.
    pub fn is_final(self) -> bool {
        matches!(self, Refusal::Expired | Refusal::Deleted | Refusal::DeniedAuthor | Refusal::DeniedRepo)
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.message())
    }
}

/// Kinds that are never stored (NIP-01).
const EPHEMERAL_KINDS: std::ops::Range<u16> = 20_000..30_000;

/// Step 4, as far as the clock decides: the future, NIP-40 and NIP-70. Nobody can prove to be the author of a protected
/// event here (there is no NIP-42), so none is taken.
pub fn check_time(event: &Event, now: UnixTime) -> Result<(), Refusal> {
    if UnixTime::from(event.created_at) > now.plus_secs(FUTURE_SECS_MAX) {
        return Err(Refusal::Future);
    }
    if expiration(event).is_some_and(|at| at <= now) {
        return Err(Refusal::Expired);
    }
    if is_protected(event) {
        return Err(Refusal::Protected);
    }
    Ok(())
}

/// Step 4, as far as the store decides.
///
/// # Errors
///
/// If the store cannot be read.
pub fn check_history(event: &Event, store: &Store) -> Result<Result<(), Refusal>, StoreError> {
    Ok(match store.verdict(event)? {
        Verdict::Fresh | Verdict::Duplicate => Ok(()),
        Verdict::Deleted => Err(Refusal::Deleted),
        Verdict::Superseded => Err(Refusal::Superseded),
    })
}

/// Step 5: the operator's lists. A repo on the list is never followed, so an event that also refers to another one is
/// judged by that.
pub fn check_lists(event: &Event, settings: &Settings) -> Result<(), Refusal> {
    if settings.deny_authors.contains(&event.pubkey) {
        return Err(Refusal::DeniedAuthor);
    }
    if settings.deny_repos.is_empty() {
        return Ok(());
    }
    let mut repos = own_repo(event).into_iter().chain(repo_references(event)).peekable();
    let denied = repos.peek().is_some() && repos.all(|repo| settings.deny_repos.contains(&repo));
    if denied { Err(Refusal::DeniedRepo) } else { Ok(()) }
}

/// Step 6: whether the event belongs to what we follow.
///
/// # Errors
///
/// If the store cannot be read.
pub fn check_belongs(
    event: &Event,
    state: &State,
    store: &Store,
    tagged: &mut Tagged,
) -> Result<Result<(), Refusal>, StoreError> {
    tagged.begin();
    let kind = event.kind.as_u16();
    let verdict = |ok: bool, refusal| if ok { Ok(()) } else { Err(refusal) };
    Ok(match kind {
        ANNOUNCEMENT_KIND => verdict(announcement_belongs(event, state), Refusal::ForeignAnnouncement),
        STATE_KIND => {
            let confirmed = identifier(event).is_some_and(|d| state.is_confirmed(&event.pubkey, d));
            verdict(confirmed, Refusal::NotAMaintainer)
        }
        DELETION_KIND => verdict(store.deletion_targets(event)?, Refusal::DeletesNothing),
        kind if EPHEMERAL_KINDS.contains(&kind) => Err(Refusal::Ephemeral),
        _ => {
            let belongs = is_related(event, state, store, tagged)?
                || hangs_on_related(event, state, store, tagged)?
                || (kind == GRASP_LIST_KIND && store.has_any_of(&event.pubkey)?);
            verdict(belongs, Refusal::Unrelated)
        }
    })
}

/// Whether an event is tied to what we follow by its own tags, or by those of an announcement or a root event.
fn is_related(event: &Event, state: &State, store: &Store, tagged: &mut Tagged) -> Result<bool, StoreError> {
    let tags = repo_references(event).any(|repo| state.is_followed(&repo))
        || event_references(event).any(|id| state.root_id(&id).is_some());
    Ok(tags || tagged.has(&event.id, store)?)
}

/// Whether an event refers to one that belongs by itself: one generation further, and no more. What is held is judged
/// anew instead of noted when it comes: no note can outlive the repo that it was true by, or get lost.
fn hangs_on_related(event: &Event, state: &State, store: &Store, tagged: &mut Tagged) -> Result<bool, StoreError> {
    for reference in references(event, THREAD_PARENTS_MAX) {
        if let Some(parent) = store.referred(&reference)?
            && may_be_hung_on(&parent, state, store, tagged)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn may_be_hung_on(held: &Event, state: &State, store: &Store, tagged: &mut Tagged) -> Result<bool, StoreError> {
    Ok(match held.kind.as_u16() {
        // One that unlisted us is held, too, and its repo is not followed.
        ANNOUNCEMENT_KIND => own_repo(held).is_some_and(|repo| state.is_followed(&repo)),
        STATE_KIND => identifier(held).is_some_and(|d| state.is_confirmed(&held.pubkey, d)),
        // What it belonged by has gone with it.
        DELETION_KIND => false,
        _ => is_related(held, state, store, tagged)?,
    })
}

/// The address of the repo that an announcement or a state is about.
fn own_repo(event: &Event) -> Option<RepoAddr> {
    if !matches!(event.kind.as_u16(), ANNOUNCEMENT_KIND | STATE_KIND) {
        return None;
    }
    identifier(event).map(|d| RepoAddr { author: event.pubkey, identifier: d.to_owned() })
}

fn announcement_belongs(event: &Event, state: &State) -> bool {
    let Some(announcement) = Announcement::from_event(event, usize::MAX) else { return false };
    state.is_ours(&announcement)
        || state.is_announced(&announcement.addr)
        || state.is_invited(&announcement.addr.author, &announcement.addr.identifier)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::event;
    use crate::sync::testing::{addr, announcement, settings};

    #[test]
    fn nobody_is_told_to_authenticate_while_nobody_can() {
        for refusal in Refusal::ALL {
            let (prefix, rest) = refusal.message().split_once(": ").unwrap();
            assert!(
                ["invalid", "blocked", "duplicate", "rate-limited"].contains(&prefix) && !rest.is_empty(),
                "{refusal}"
            );
        }
    }

    #[test]
    fn of_what_an_event_may_hang_on_the_first_few_are_looked_at_and_each_once() {
        let mut state = State::new(settings());
        state.set_announcement(&announcement(1, "x", &["one"]), 1);
        let mut store = Store::in_memory();
        let comment = event(2, 1_111, 10, &[&["a", &addr(1, "x").to_string()]], "");
        store.stage(comment.clone()).unwrap();
        let belongs = |ids: &mut dyn Iterator<Item = String>, store: &Store| {
            let tags: Vec<[String; 2]> = ids.map(|id| ["e".to_owned(), id]).collect();
            let tags: Vec<Vec<&str>> = tags.iter().map(|tag| tag.iter().map(String::as_str).collect()).collect();
            let tags: Vec<&[&str]> = tags.iter().map(Vec::as_slice).collect();
            check_belongs(&event(3, 7, 20, &tags, "+"), &state, store, &mut Tagged::default()).unwrap()
        };
        let unknown = |n: usize| format!("{n:064x}");
        let after = |n: usize| (0..n).map(unknown).chain([comment.id.to_hex()]);
        for _ in 0..2 {
            assert_eq!(belongs(&mut after(THREAD_PARENTS_MAX - 1), &store), Ok(()));
            assert_eq!(belongs(&mut after(THREAD_PARENTS_MAX), &store), Err(Refusal::Unrelated));
            let repeated = std::iter::repeat_n(unknown(1), 1_000).chain(after(2));
            assert_eq!(belongs(&mut { repeated }, &store), Ok(()));
            // In the batch, then committed.
            store.commit().unwrap();
        }
    }
}
