//! What the start needs of a stored root event, read without building the event: there are many.

use std::borrow::Cow;
use std::fmt;

use nostr::event::EventId;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};

use super::event_id;
use super::repo::{RepoAddr, first_repos};

/// The id of a root event and its repos, as `root_repos` finds them in the event. `None` if it is no event's JSON.
pub fn root_from_json(json: &str) -> Option<(EventId, Vec<RepoAddr>)> {
    #[derive(Deserialize)]
    struct Fields<'a> {
        #[serde(borrow)]
        id: Cow<'a, str>,
        #[serde(borrow)]
        tags: Vec<Named<'a>>,
    }

    let fields: Fields<'_> = serde_json::from_str(json).ok()?;
    let named = fields.tags.iter().filter_map(|tag| tag.0.as_deref());
    Some((event_id(&fields.id)?, first_repos(named)))
}

/// The first value of an `a` tag; `None` for any other.
struct Named<'a>(Option<Cow<'a, str>>);

#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Named<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(TagVisitor)
    }
}

struct TagVisitor;

impl<'de> Visitor<'de> for TagVisitor {
    type Value = Named<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a tag")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut tag: A) -> Result<Named<'de>, A::Error> {
        let name: Option<Text<'de>> = tag.next_element()?;
        let value = match name.is_some_and(|name| name.0 == "a") {
            true => tag.next_element::<Text<'de>>()?.map(|value| value.0),
            false => None,
        };
        while tag.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Named(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::repo::root_repos;
    use crate::store::testing::{author, event};

    #[test]
    fn a_stored_root_event_is_read_as_the_event_is() {
        let address = |n: u8, name: &str| format!("30617:{}:{name}", author(n));
        let (one, two, odd) = (address(1, "one"), address(2, "t:w o"), address(3, "q\"uo\\te é"));
        let tags: [&[&[&str]]; 6] = [
            &[],
            &[&["a", &one]],
            &[&["a"], &["a", &two, "wss://hint.example"], &["A", &one], &["a", &one, "", "x"], &["a", &two]],
            &[&["p", "a"], &["", "a"], &["a", "30618:x:y"], &["a", "é\n\u{1}"]],
            &[&["\u{61}", &odd], &["ab", &one]],
            &[&["e", "\\"], &["subject", "a title with \"quotes\""], &["a", &odd]],
        ];
        for tags in tags {
            let event = event(1, 1621, 10, tags, "content with \"tags\":[[\"a\",\"x\"]] in it");
            let read = root_from_json(&event.as_json());
            assert_eq!(read, Some((event.id, root_repos(&event))), "{tags:?}");
        }
        assert_eq!(root_from_json("{\"id\":\"ab\",\"tags\":[]}"), None);
        assert_eq!(root_from_json("[]"), None);
    }
}
