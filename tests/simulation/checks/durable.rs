//! What a power cut would leave, event by event, and what that means: which versions hold, what is deleted, which relays
//! are needed. Kept up by the world with each commit; indexes of its own, so that no check has to read all of it.

use super::rules::Rules;
use crate::events::{EventRef, SimEvent};
use std::collections::{BTreeMap, BTreeSet};

type ReplaceKey = (u16, String, String);

#[derive(Default)]
pub struct Durable {
    pub events: BTreeMap<String, EventRef>,
    /// The stored text of each, by sequence number.
    by_seq: BTreeMap<u64, (EventRef, Box<str>)>,
    seqs: BTreeMap<String, u64>,
    /// The newest version that was ever durable of whatever can be replaced.
    versions: BTreeMap<ReplaceKey, EventRef>,
    /// Of these, the ones of which more than one version was durable.
    replaced: BTreeSet<ReplaceKey>,
    /// Announcements that are held, by address.
    pub announcements: BTreeMap<String, EventRef>,
    /// Deletions by author.
    deletions: BTreeMap<String, Vec<EventRef>>,
    /// When events expire.
    expiring: BTreeSet<(u64, u64)>,
    needed: BTreeSet<String>,
    last_seq: u64,
}

impl Durable {
    pub fn has(&self, event: &EventRef) -> bool {
        self.events.contains_key(&event.id)
    }

    /// The last sequence number taken in.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    pub fn seq_of(&self, id: &str) -> Option<u64> {
        self.seqs.get(id).copied()
    }

    pub fn text(&self, seq: u64) -> Option<&str> {
        self.by_seq.get(&seq).map(|(_, text)| &**text)
    }

    pub fn stored(&self) -> impl Iterator<Item = (u64, &EventRef)> {
        self.by_seq.iter().map(|(seq, (event, _))| (*seq, event))
    }

    /// An event has become durable.
    pub fn add(&mut self, seq: u64, event: EventRef, text: &str) {
        self.last_seq = self.last_seq.max(seq);
        if let Some(key) = event.replace_key() {
            if self.versions.contains_key(&key) {
                self.replaced.insert(key.clone());
            }
            let newest = self.versions.entry(key).or_insert_with(|| event.clone());
            if event.supersedes(newest) {
                *newest = event.clone();
            }
        }
        match event.kind {
            30617 => _ = self.announcements.insert(event.address(), event.clone()),
            5 => self.deletions.entry(event.author.clone()).or_default().push(event.clone()),
            _ => {}
        }
        if let Some(at) = event.expires_at() {
            self.expiring.insert((at, seq));
        }
        self.seqs.insert(event.id.clone(), seq);
        self.events.insert(event.id.clone(), event.clone());
        self.by_seq.insert(seq, (event, text.into()));
    }

    /// An event is durable no more.
    pub fn remove(&mut self, seq: u64) -> Option<EventRef> {
        let (event, _) = self.by_seq.remove(&seq)?;
        self.events.remove(&event.id);
        self.seqs.remove(&event.id);
        let address = event.address();
        if event.kind == 30617 && self.announcements.get(&address).is_some_and(|held| held.id == event.id) {
            self.announcements.remove(&address);
        }
        if let Some(at) = event.expires_at() {
            self.expiring.remove(&(at, seq));
        }
        if event.kind == 5 {
            self.deletions.entry(event.author.clone()).or_default().retain(|d| d.id != event.id);
        }
        Some(event)
    }

    /// Sequence numbers of what may have gone now that `new` is durable: older versions, what is named by a deletion, and
    /// what has expired by `wall`.
    pub fn may_have_gone(&self, new: &[EventRef], wall: u64) -> Vec<u64> {
        let mut seqs: Vec<u64> = self.expiring.range(..=(wall, u64::MAX)).map(|(_, seq)| *seq).collect();
        for event in new {
            if let Some(key) = event.replace_key() {
                seqs.extend(self.versions.get(&key).and_then(|old| self.seq_of(&old.id)));
            }
            if event.kind == 5 {
                seqs.extend(event.values("e").filter_map(|id| self.seq_of(id)));
                let addresses: Vec<&str> = event.values("a").collect();
                let by_address = self.versions.values().filter(|held| addresses.contains(&&*held.address()));
                seqs.extend(by_address.filter_map(|held| self.seq_of(&held.id)));
            }
        }
        seqs
    }

    /// The announcements may have changed, or what they mean.
    pub fn refresh_needed(&mut self, rules: &Rules) {
        self.needed = self.announcements.values().filter(|a| rules.is_ours(a)).flat_map(|a| rules.relays(a)).collect();
    }

    /// The relays that a followed repo needs: those that a current announcement on our service lists.
    pub fn needed_relays(&self) -> &BTreeSet<String> {
        &self.needed
    }

    /// The repos that each relay shares with us.
    pub fn shared(&self, rules: &Rules) -> BTreeMap<String, Vec<String>> {
        let mut shared: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for announcement in self.announcements.values().filter(|a| rules.is_ours(a)) {
            for relay in rules.relays(announcement) {
                shared.entry(relay).or_default().push(announcement.address());
            }
        }
        shared
    }

    /// Whether a newer version of this event is held, or was.
    pub fn superseded(&self, event: &SimEvent) -> bool {
        event.replace_key().and_then(|key| self.versions.get(&key)).is_some_and(|newest| newest.supersedes(event))
    }

    /// Whether this event takes the place of one that was held.
    pub fn superseding(&self, event: &SimEvent) -> bool {
        event.replace_key().is_some_and(|key| self.replaced.contains(&key))
    }

    /// Whether some stored deletion names this one.
    pub fn deleted(&self, event: &SimEvent) -> bool {
        let address = event.address();
        self.deletions.get(&event.author).into_iter().flatten().any(|d| {
            d.values("e").any(|id| id == event.id)
                || (event.replace_key().is_some()
                    && d.created_at >= event.created_at
                    && d.values("a").any(|a| a == address))
        })
    }

    /// Whether there is a reason for an event not to be held though it once was.
    pub fn excuses(&self, event: &SimEvent, wall: u64) -> bool {
        self.superseded(event) || self.deleted(event) || event.expires_at().is_some_and(|at| at <= wall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Author;

    #[test]
    fn needed_relays_come_from_current_announcements_on_our_service() {
        let author = Author::new(1);
        let mut durable = Durable::default();
        let old = author.announcement("x", &["wss://old.example"], 1);
        let new = author.announcement("x", &["wss://R.example:443/"], 2);
        durable.add(1, old.clone(), "");
        assert_eq!(durable.may_have_gone(std::slice::from_ref(&new), 0), [1]);
        durable.remove(1);
        durable.add(2, new, "");
        durable.add(3, author.foreign_announcement("y", 1), "");
        durable.refresh_needed(&Rules::default());
        assert_eq!(durable.needed_relays().iter().collect::<Vec<_>>(), ["wss://r.example"]);
        assert!(durable.superseded(&old) && durable.excuses(&old, 0));
    }

    #[test]
    fn a_deletion_excuses_what_it_names_by_its_author_alone() {
        let (author, other) = (Author::new(1), Author::new(2));
        let issue = author.issue(&author.repo("x"), 5, "");
        let mut durable = Durable::default();
        durable.add(1, issue.clone(), "");
        durable.add(2, other.deletion(&[&issue], &[], 9), "");
        assert!(!durable.deleted(&issue));
        let deletion = author.deletion(&[&issue], &[], 9);
        assert_eq!(durable.may_have_gone(std::slice::from_ref(&deletion), 0), [1]);
        durable.add(3, deletion, "");
        assert!(durable.deleted(&issue));
    }
}
