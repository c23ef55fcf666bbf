//! Which live subscriptions a stored event may concern, without asking each of them.
//!
//! Every filter is entered under the values of *one* of its fields, the most selective one it has: ids, then the shortest
//! tag list, then authors, then kinds; a filter with none of these is entered under "any". An event that matches the filter
//! has one of those values, so looking up the event's own values finds a superset of the subscriptions that match, and only
//! those are compared in full. Values are kept as 32 bits of theirs, for clients choose how many there are: two with the
//! same bits cost a comparison, never an answer. What a subscription then does with the event is the session's business.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use slab::Slab;

use crate::limits::FANOUT_LEAVING_STEP;
use crate::protocol::filter::{Bytes32, EventTags, Filter, Narrowest, TagValue};

/// One subscription: its client's number and its own, which is never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SubscriptionKey {
    /// The client's number.
    pub client: u64,
    /// The subscription's number.
    pub number: u64,
}

/// Where the index has a subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(u32);

/// The index. Bounded by what the sessions hold ([`crate::limits::CLIENT_BYTES_MAX`]).
///
/// What is taken out is found no more at once, but its values go in steps: a client that is closed may have entered 100,000.
#[derive(Debug, Default)]
pub struct Fanout {
    /// Values as the anchors below have them, each with the slot of a subscription.
    entries: BTreeSet<(u32, Slot)>,
    /// `None`: it was taken out, and some of its values are still entered.
    keys: Slab<Option<SubscriptionKey>>,
    /// Those of `keys` that are not.
    open: usize,
    leaving: Vec<Leaving>,
    /// Values entered since any were last taken out for that.
    entered: usize,
}

/// A subscription that was taken out, and the filters whose values are still entered.
#[derive(Debug)]
struct Leaving {
    slot: Slot,
    filters: Vec<Rc<Filter>>,
}

/// Bytes of memory of one entry, about: nodes of the set are full by two thirds.
const ENTRY_BYTES: usize = 20;

impl Fanout {
    /// Enters a subscription, once.
    pub fn insert(&mut self, key: SubscriptionKey, filters: &[Rc<Filter>]) -> Slot {
        let slot =
            u32::try_from(self.keys.insert(Some(key))).expect("the memory of all clients has no room for so many");
        let slot = Slot(slot);
        self.open += 1;
        let mut values = 0;
        for filter in filters {
            for_each_anchor(filter, |anchor| {
                self.entries.insert((anchor, slot));
                values += 1;
            });
        }
        // So what is left of others never grows. Not for each few, which are not to pay for a whole filter.
        self.entered += values;
        if self.entered >= FANOUT_LEAVING_STEP {
            let entered = std::mem::take(&mut self.entered);
            self.let_go(entered + entered / 2);
        }
        slot
    }

    /// Takes a subscription out again; `filters` as they were entered.
    pub fn remove(&mut self, slot: Slot, filters: Box<[Rc<Filter>]>) {
        self.keys[slot.0 as usize] = None;
        self.open -= 1;
        self.leaving.push(Leaving { slot, filters: filters.into_vec() });
    }

    /// Whether values are entered of subscriptions that were taken out.
    pub fn is_letting_go(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Goes on with taking such values out, until there were so many, or a filter's more.
    pub fn let_go(&mut self, mut values: usize) {
        while values > 0
            && let Some(leaving) = self.leaving.last_mut()
        {
            let slot = leaving.slot;
            match leaving.filters.pop() {
                Some(filter) => for_each_anchor(&filter, |anchor| {
                    self.entries.remove(&(anchor, slot));
                    values = values.saturating_sub(1);
                }),
                None => {
                    self.leaving.pop();
                    self.keys.remove(slot.0 as usize);
                }
            }
        }
    }

    /// Takes out whatever is entered for a client, by looking at everything.
    pub fn forget_client(&mut self, client: u64) {
        self.keys.retain(|_, key| key.is_none_or(|key| key.client != client));
        self.open = self.keys.iter().filter(|(_, key)| key.is_some()).count();
        self.entries.retain(|(_, slot)| self.keys.contains(slot.0 as usize));
    }

    /// Whether no subscription is entered.
    pub fn is_empty(&self) -> bool {
        self.open == 0
    }

    /// Bytes of memory that a filter takes here, about.
    pub fn bytes_of(filter: &Filter) -> usize {
        ENTRY_BYTES * filter.narrowest().values()
    }

    /// The subscriptions with a filter that may match, in the order of their keys.
    pub fn candidates(&self, tags: &EventTags<'_>) -> Vec<SubscriptionKey> {
        let (event, mut found): (_, Vec<Slot>) = (tags.event(), Vec::new());
        let Some((last, _)) = self.entries.last() else { return Vec::new() };
        let mut look_up = |anchor: u32| {
            let entries = self.entries.range((anchor, Slot(0))..=(anchor, Slot(u32::MAX)));
            found.extend(entries.map(|(_, slot)| *slot));
        };
        look_up(ANY);
        look_up(anchor_of_bytes(ID, event.id.as_bytes()));
        look_up(anchor_of_bytes(AUTHOR, event.pubkey.as_bytes()));
        look_up(anchor_of_kind(event.kind.as_u16()));
        if *last >= TAG {
            tags.in_order().iter().for_each(|(letter, value)| look_up(anchor_of_tag(*letter, value)));
        }
        found.sort_unstable();
        found.dedup();
        let mut keys: Vec<_> = found.into_iter().filter_map(|slot| self.keys[slot.0 as usize]).collect();
        keys.sort_unstable();
        keys
    }
}

/// What a filter without a list is entered under.
const ANY: u32 = 0;
/// Tags stand last, so that one look tells whether any are asked for.
const TAG: u32 = 1 << 31;
const ID: u32 = 0x1234_5678;
const AUTHOR: u32 = 0x2345_6789;
const KIND: u32 = 0x3456_789a;

/// The end, for some make an effort that their ids and keys begin alike.
fn anchor_of_bytes(field: u32, bytes: &Bytes32) -> u32 {
    let [.., a, b, c, d] = *bytes;
    (u32::from_le_bytes([a, b, c, d]) ^ field) & !TAG
}

fn anchor_of_kind(kind: u16) -> u32 {
    KIND ^ u32::from(kind)
}

fn anchor_of_tag(letter: u8, value: &TagValue<'_>) -> u32 {
    let letter = u32::from(letter).wrapping_mul(0x9e37_79b1);
    let value = match value {
        TagValue::Bytes(bytes) => anchor_of_bytes(letter, bytes),
        TagValue::Text(text) => {
            // `new` has fixed keys, so equal runs stay equal.
            let mut hasher = DefaultHasher::new();
            text.hash(&mut hasher);
            hasher.finish() as u32 ^ letter
        }
    };
    value | TAG
}

/// Calls `f` with each value of the filter's most selective field. Filters with an empty list do not come here: they match
/// nothing ([`Filter::matches_nothing`]).
fn for_each_anchor(filter: &Filter, mut f: impl FnMut(u32)) {
    match filter.narrowest() {
        Narrowest::Ids(ids) => ids.iter().for_each(|id| f(anchor_of_bytes(ID, id))),
        Narrowest::Tag(tag) => tag.iter().for_each(|value| f(anchor_of_tag(tag.letter(), &value))),
        Narrowest::Authors(authors) => authors.iter().for_each(|author| f(anchor_of_bytes(AUTHOR, author))),
        Narrowest::Kinds(kinds) => kinds.iter().for_each(|kind| f(anchor_of_kind(*kind))),
        Narrowest::Any => f(ANY),
    }
}

#[cfg(test)]
mod tests {
    use nostr::event::{Event, Kind, Signature, Tag, UnsignedEvent};
    use nostr::filter::{Filter as Asked, MatchEventOptions, SingleLetterTag};
    use nostr::key::PublicKey;
    use nostr::types::Timestamp;

    use std::rc::Rc;

    use super::*;

    fn event(n: u8) -> Event {
        let tags = [vec!["e".to_owned(), format!("{}", n % 5)], vec!["A".to_owned(), format!("{}", n % 3)]];
        let tags = tags.into_iter().take(usize::from(n % 3)).map(|tag| Tag::parse(tag).unwrap());
        let author = PublicKey::from_byte_array([n % 4; 32]);
        let mut unsigned =
            UnsignedEvent::new(author, Timestamp::from_secs(n.into()), Kind::from_u16((n % 6).into()), tags, "");
        let id = unsigned.id();
        let sig = Signature::from_byte_array([0; 64]);
        Event::new(id, author, unsigned.created_at, unsigned.kind, unsigned.tags, unsigned.content, sig)
    }

    /// A filter for each choice of fields that `bits` makes.
    fn filter(bits: u8, n: u8) -> Asked {
        let mut filter = Asked::new();
        if bits & 1 != 0 {
            filter = filter.ids([event(n).id, event(n.wrapping_add(1)).id]);
        }
        if bits & 2 != 0 {
            filter = filter.author(PublicKey::from_byte_array([n % 4; 32]));
        }
        if bits & 4 != 0 {
            filter = filter.kinds([Kind::from_u16((n % 6).into()), Kind::from_u16(3)]);
        }
        if bits & 8 != 0 {
            filter = filter.custom_tags(SingleLetterTag::from_char('e').unwrap(), [(n % 5).to_string(), "4".into()]);
        }
        if bits & 16 != 0 {
            filter = filter.custom_tag(SingleLetterTag::from_char('A').unwrap(), (n % 3).to_string());
        }
        if bits & 32 != 0 {
            filter = filter.since(Timestamp::from_secs(n.into()));
        }
        filter
    }

    #[test]
    fn no_subscription_that_matches_is_passed_over() {
        let mut fanout = Fanout::default();
        let mut entered = Vec::new();
        for bits in 0..64_u8 {
            for n in [3, 10, 29] {
                let key = SubscriptionKey { client: (bits % 7).into(), number: entered.len() as u64 };
                let filters = vec![filter(bits, n), filter(bits.reverse_bits() >> 2, n + 1)];
                let entered_as: Vec<Rc<Filter>> = filters.iter().cloned().map(|f| Rc::new(f.into())).collect();
                assert!(!entered_as.iter().any(|filter| filter.matches_nothing()));
                let slot = fanout.insert(key, &entered_as);
                entered.push((key, filters, slot, entered_as));
            }
        }
        let mut found = 0;
        for n in 0..60 {
            let event = event(n);
            let candidates = fanout.candidates(&EventTags::of(&event));
            assert!(candidates.is_sorted_by(|a, b| a < b), "each once, in order");
            for (key, filters, ..) in &entered {
                if filters.iter().any(|filter| filter.match_event(&event, MatchEventOptions::new())) {
                    assert!(candidates.contains(key), "{filters:?} {event:?}");
                    found += 1;
                }
            }
        }
        assert!(found > 1_000, "the filters are worth a test: {found}");
        let last = entered.len() - 1;
        for (n, (.., slot, filters)) in entered.into_iter().enumerate() {
            assert!(!fanout.is_empty(), "{n} of {last}");
            fanout.remove(slot, filters.into());
        }
        assert!(fanout.is_empty() && fanout.is_letting_go());
        (0..50).for_each(|n| assert!(fanout.candidates(&EventTags::of(&event(n))).is_empty()));
        fanout.let_go(usize::MAX);
        assert!(fanout.entries.is_empty() && fanout.keys.is_empty() && !fanout.is_letting_go());
    }

    #[test]
    fn what_was_taken_out_goes_in_steps_and_faster_than_others_come() {
        let mut fanout = Fanout::default();
        let filter = |n: u16| Rc::new(Asked::new().kinds((0..1_000).map(|m| Kind::from_u16(n * 1_000 + m))).into());
        let enter = |fanout: &mut Fanout, n: u16| {
            let filters = [filter(n)];
            (fanout.insert(SubscriptionKey { client: 1, number: n.into() }, &filters), filters)
        };
        let entered: Vec<_> = (0..20).map(|n| enter(&mut fanout, n)).collect();
        entered.into_iter().for_each(|(slot, filters)| fanout.remove(slot, filters.into()));
        assert_eq!(fanout.entries.len(), 20_000);
        fanout.let_go(1);
        assert_eq!(fanout.entries.len(), 19_000, "a filter at least");
        (20..30).for_each(|n| _ = enter(&mut fanout, n));
        assert!(fanout.entries.len() < 19_000);
        (0..10).for_each(|_| fanout.let_go(1_000));
        assert_eq!((fanout.keys.len(), fanout.is_letting_go()), (10, false));
    }

    #[test]
    fn subscriptions_for_other_values_are_not_looked_at() {
        let mut fanout = Fanout::default();
        let tag = SingleLetterTag::from_char('e').unwrap();
        for number in 0..1_000 {
            let filter = Asked::new().kind(Kind::from_u16(1)).custom_tag(tag, format!("other {number}"));
            fanout.insert(SubscriptionKey { client: 1, number }, &[Rc::new(filter.into())]);
        }
        assert!(fanout.candidates(&EventTags::of(&event(1))).is_empty());
    }
}
