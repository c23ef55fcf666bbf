//! Whom an announcement lists, and as what (NIP-34 as deployed): its role tags, or its `maintainers` tags if it has none.
//!
//! A role tag is `[letter, key, boundaries…]`. `M` (lead) and `m` (co-maintainer) give the same authority over the
//! repository's state, `o` (moderator) gives none. Boundaries are unix seconds in decimal digits, a start, an end, a start,
//! and so on. Only their number says whether the entry is active: all who read the announcement must come to the same
//! result, whenever they read it, so neither the clock nor their order counts. An entry that starts in the future is active.

use std::collections::BTreeSet;

use nostr::event::{Event, Tag};
use nostr::key::PublicKey;

use super::public_key;
use super::repo::values;
use crate::limits::MAINTAINERS_LISTED_MAX;

/// Whom one announcement lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Roles {
    /// Maintainers, each once, in the order given, without the author: the first [`MAINTAINERS_LISTED_MAX`].
    pub maintainers: Vec<PublicKey>,
    /// Maintainers beyond those.
    pub refused: usize,
    /// The author's own entry as a maintainer has ended, and no other of his is active.
    pub author_left: bool,
}

/// What one role tag says of its key now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    Active,
    Ended,
    /// Deferred (the author only retells it), or malformed: it says nothing.
    Silent,
}

impl Roles {
    /// Reads an announcement.
    pub fn of(event: &Event) -> Roles {
        let has_roles = event.tags.iter().any(|tag| matches!(tag.kind(), "M" | "m" | "o"));
        let entries: Vec<(PublicKey, Activity)> = match has_roles {
            true => event.tags.iter().filter(|tag| matches!(tag.kind(), "M" | "m")).filter_map(entry).collect(),
            false => values(event, "maintainers").filter_map(public_key).map(|key| (key, Activity::Active)).collect(),
        };
        let is_own = |activity| entries.contains(&(event.pubkey, activity));
        let mut roles = Roles { author_left: is_own(Activity::Ended) && !is_own(Activity::Active), ..Roles::default() };
        let mut seen = BTreeSet::from([event.pubkey]);
        for (key, activity) in entries {
            if activity != Activity::Active || !seen.insert(key) {
                continue;
            }
            match roles.maintainers.len() < MAINTAINERS_LISTED_MAX {
                true => roles.maintainers.push(key),
                false => roles.refused += 1,
            }
        }
        roles
    }
}

/// The key of a role tag and what the tag says of it; `None` without a key.
fn entry(tag: &Tag) -> Option<(PublicKey, Activity)> {
    let key = public_key(tag.content()?)?;
    Some((key, activity(&tag.as_slice()[2..])))
}

fn activity(boundaries: &[String]) -> Activity {
    let ends = !boundaries.is_empty() && boundaries.len().is_multiple_of(2);
    match (boundaries.iter().all(|boundary| is_time(boundary)), ends) {
        (false, _) => Activity::Silent,
        (true, true) => Activity::Ended,
        (true, false) => Activity::Active,
    }
}

/// Whether a boundary is a time. `defer` is none: it stands for an end that the author leaves open.
fn is_time(boundary: &str) -> bool {
    boundary.bytes().all(|byte| byte.is_ascii_digit()) && boundary.parse::<u64>().is_ok()
}

#[cfg(test)]
mod tests {
    use nostr::event::{EventId, Signature};
    use nostr::types::Timestamp;

    use super::*;
    use crate::protocol::repo::ANNOUNCEMENT_KIND;

    fn key(n: usize) -> PublicKey {
        let mut bytes = [0x22; PublicKey::LEN];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        PublicKey::from_byte_array(bytes)
    }

    /// What an announcement of key 0 says with these tags, in which `=n` stands for key n.
    fn roles(tags: &[&[&str]]) -> Roles {
        let field = |field: &&str| match field.strip_prefix('=') {
            Some(n) => key(n.parse().unwrap()).to_hex(),
            None => (*field).to_owned(),
        };
        let tags = tags.iter().map(|tag| Tag::parse(tag.iter().map(field)).unwrap());
        let (id, signature) = (EventId::from_byte_array([1; 32]), Signature::from_byte_array([0; 64]));
        Roles::of(&Event::new(id, key(0), Timestamp::from_secs(1), ANNOUNCEMENT_KIND.into(), tags, "", signature))
    }

    fn listed(tags: &[&[&str]]) -> Vec<usize> {
        let number = |key: &PublicKey| usize::from_be_bytes(*key.as_bytes().first_chunk().unwrap());
        roles(tags).maintainers.iter().map(number).collect()
    }

    #[test]
    fn role_tags_take_the_place_of_maintainers() {
        let old: &[&str] = &["maintainers", "=1", "=0", "npub1", "=2", "=1"];
        assert_eq!(listed(&[old]), [1, 2]);
        assert_eq!(listed(&[old, &["m", "=3"], &["M", "=4", "", "relay"]]), [3], "a malformed one lists nobody");
        assert_eq!(listed(&[&["M", "=4"], old, &["m", "=3"], &["m", "=4"]]), [4, 3], "each once");
        for present in [["o", "=5"], ["m", "nonsense"], ["M", "=0"]] {
            assert_eq!(listed(&[old, &present]), [0; 0], "{present:?}");
        }
    }

    #[test]
    fn an_entry_is_active_while_its_last_boundary_is_a_start() {
        let ahead = &u64::MAX.to_string();
        for active in [&[][..], &["100"], &["100", "200", "300"], &[ahead], &["300", "200", "100"]] {
            assert_eq!(listed(&[&[&["m", "=1"], active].concat()]), [1], "{active:?}");
        }
        let ended: [&[&str]; 2] = [&["100", "200"], &["100", ahead]];
        let silent: [&[&str]; 9] = [
            &["100", "defer"],
            &["defer"],
            &["100", "defer", "300"],
            &["100", "x", "300"],
            &["x"],
            &[""],
            &["+100"],
            &["1.5"],
            &["18446744073709551616"],
        ];
        for inactive in ended.into_iter().chain(silent) {
            assert_eq!(listed(&[&[&["m", "=1"], inactive].concat()]), [0; 0], "{inactive:?}");
        }
        assert_eq!(listed(&[&["m", "=1", "100", "200"], &["M", "=1", "200"]]), [1], "while any of them is");
    }

    #[test]
    fn the_author_has_left_when_his_own_entry_has_ended() {
        let left = |tags: &[&[&str]]| roles(tags).author_left;
        assert!(left(&[&["m", "=0", "100", "200"]]) && left(&[&["m", "=1"], &["M", "=0", "100", "200"]]));
        assert!(!left(&[&["M", "=0", "100", "200"], &["m", "=0", "200"]]), "he has another");
        assert!(!left(&[]) && !left(&[&["m", "=1", "100", "200"]]) && !left(&[&["maintainers", "=1"]]));
        assert!(!left(&[&["m", "=0", "100", "defer"]]) && !left(&[&["m", "=0", "x"]]), "these say nothing");
        assert!(!left(&[&["o", "=0", "100", "200"]]), "he never spoke for it as that");
    }

    #[test]
    fn maintainers_beyond_the_allowed_number_are_counted() {
        let keys: Vec<String> = (1..=MAINTAINERS_LISTED_MAX + 3).map(|n| format!("={n}")).collect();
        let mut tag = vec!["maintainers"];
        tag.extend(keys.iter().map(String::as_str).chain(["=1", "=65", "=0", "nonsense"]));
        let roles = roles(&[&tag]);
        assert_eq!((roles.maintainers.len(), roles.refused), (MAINTAINERS_LISTED_MAX, 3));
        assert_eq!(roles.maintainers.last(), Some(&key(MAINTAINERS_LISTED_MAX)), "the first ones");
    }
}
