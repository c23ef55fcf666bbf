//! What waits for one commit: new events, removals, deletions and progress. Lookups see it on top of what is committed;
//! queries do not. It decides nothing: the store applies the rules, the batch remembers and writes their outcome.

use super::accounts::Charges;
use super::damage::FORGOTTEN;
use super::memtable::{Key, Keys};
use super::schema::{self, AddressKey, IdAuthorKey};
use super::{Progress, Seq, StoreError};
use crate::protocol::relay_url::RelayUrl;
use crate::protocol::repo::RepoAddr;
use crate::time::UnixTime;
use nostr::event::{Event, EventId};
use nostr::key::PublicKey;
use redb::{ReadableTable, Table, WriteTransaction};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

/// What one entry that is no event counts for in [`Batch::bytes`]: its keys and its node.
const ENTRY_BYTES: usize = 128;

/// An event that waits: the JSON that will be stored, and what the indexes will say of it. The event itself has many
/// parts, each with memory of its own; few ask for it.
struct Pending {
    json: Box<str>,
    keys: Keys,
}

/// What the batch makes of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdChange {
    /// It waits to be stored.
    Pending { seq: Seq, created_at: u64 },
    /// It was held and is deleted.
    Deleted { created_at: u64 },
    /// It was held and is superseded or expired.
    Gone,
}

/// The version held of a replaceable or addressable event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub created_at: u64,
    pub id: EventId,
    pub seq: Seq,
}

impl Version {
    /// Whether this version wins over another of the same address: newer, or as old with the lower id (NIP-01).
    pub(super) fn wins_over(&self, created_at: u64, id: &EventId) -> bool {
        self.created_at > created_at || (self.created_at == created_at && self.id < *id)
    }
}

#[derive(Default)]
pub(super) struct Batch {
    /// New events by sequence number.
    events: BTreeMap<Seq, Pending>,
    /// Sum of the lengths of their JSON.
    json_bytes: usize,
    /// When the new events that expire do so.
    expirations: BTreeSet<(u64, Seq)>,
    /// Committed events to be removed.
    removed: BTreeSet<Seq>,
    /// Committed records that do not hold, with their ids if those are known.
    forgotten: BTreeMap<Seq, Option<Key<32>>>,
    /// When such records were to expire, by their numbers.
    lapsed: BTreeMap<Seq, u64>,
    /// Only ever asked by id, or sorted first: its order is another in each process.
    ids: HashMap<Key<32>, IdChange>,
    versions: BTreeMap<AddressKey, Option<Version>>,
    deleted_ids: BTreeSet<IdAuthorKey>,
    deleted_addresses: BTreeMap<AddressKey, u64>,
    /// Relays of which everything is forgotten before the changes below apply.
    forgotten_relays: BTreeSet<RelayUrl>,
    confirmed: BTreeMap<(RelayUrl, RepoAddr), Option<Seq>>,
    relays: BTreeMap<RelayUrl, (UnixTime, UnixTime)>,
    budgets: BTreeMap<RelayUrl, String>,
    pub(super) charges: Charges,
}

impl Batch {
    pub(super) fn events(&self) -> usize {
        self.events.len()
    }

    pub(super) fn bytes(&self) -> usize {
        let entries = self.removed.len()
            + self.forgotten.len()
            + self.lapsed.len()
            + self.ids.len()
            + self.versions.len()
            + self.deleted_ids.len()
            + self.deleted_addresses.len()
            + self.forgotten_relays.len()
            + self.confirmed.len()
            + self.relays.len()
            + self.budgets.len()
            + self.charges.len();
        self.json_bytes + entries * ENTRY_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.removed.is_empty()
            && self.forgotten.is_empty()
            && self.lapsed.is_empty()
            && self.ids.is_empty()
            && self.deleted_ids.is_empty()
            && self.deleted_addresses.is_empty()
            && self.forgotten_relays.is_empty()
            && self.confirmed.is_empty()
            && self.relays.is_empty()
            && self.budgets.is_empty()
    }

    // What lookups see.

    pub(super) fn id(&self, id: &EventId) -> Option<IdChange> {
        self.ids.get(&Key(id.to_bytes())).copied()
    }

    /// The JSON of a new event.
    pub(super) fn pending(&self, seq: Seq) -> Option<&str> {
        self.events.get(&seq).map(|pending| &*pending.json)
    }

    /// `Some(None)`: there was a version, and it is gone.
    pub(super) fn version(&self, address: &AddressKey) -> Option<Option<Version>> {
        self.versions.get(address).copied()
    }

    /// What the batch makes of addresses in a range, in order.
    pub(super) fn versions(
        &self,
        from: &AddressKey,
        to: &AddressKey,
    ) -> impl Iterator<Item = (&AddressKey, Option<Version>)> {
        self.versions.range(*from..=*to).map(|(address, version)| (address, *version))
    }

    pub(super) fn is_id_deleted(&self, key: &IdAuthorKey) -> bool {
        self.deleted_ids.contains(key)
    }

    pub(super) fn address_deleted(&self, address: &AddressKey) -> Option<u64> {
        self.deleted_addresses.get(address).copied()
    }

    pub(super) fn is_removed(&self, seq: Seq) -> bool {
        self.removed.contains(&seq) || self.lapsed.contains_key(&seq)
    }

    /// Whether nothing of a committed record will be left.
    pub(super) fn is_gone(&self, seq: Seq) -> bool {
        self.removed.contains(&seq) || self.forgotten.contains_key(&seq)
    }

    /// Whether records that do not hold are forgotten.
    pub(super) fn forgets(&self) -> bool {
        !self.forgotten.is_empty()
    }

    /// The ids that are not known any more because their records do not hold.
    pub(super) fn forgotten_ids(&self) -> impl Iterator<Item = Key<32>> {
        self.forgotten.values().flatten().copied()
    }

    /// The first sequence number of a new event.
    pub(super) fn first_new(&self) -> Option<Seq> {
        self.events.first_key_value().map(|(seq, _)| *seq)
    }

    /// The first committed event to be removed.
    pub(super) fn first_removed(&self) -> Option<Seq> {
        self.removed.first().copied()
    }

    /// Whether a new event is of this author.
    pub(super) fn has_any_of(&self, author: &PublicKey) -> bool {
        self.new_keys().any(|keys| keys.is_of(author))
    }

    /// The expirations of new events, soonest first.
    pub(super) fn expirations(&self) -> impl Iterator<Item = (u64, Seq)> {
        self.expirations.iter().copied()
    }

    // What the store's rules change.

    /// Takes in an event that is new under `seq`, with its JSON.
    pub(super) fn add(&mut self, seq: Seq, event: &Event, json: Box<str>) {
        let created_at = event.created_at.as_secs();
        if let Some(address) = schema::event_address(event) {
            self.versions.insert(address, Some(Version { created_at, id: event.id, seq }));
        }
        if let Some(at) = schema::expiration(event) {
            self.expirations.insert((at, seq));
        }
        self.ids.insert(Key(event.id.to_bytes()), IdChange::Pending { seq, created_at });
        self.json_bytes += json.len();
        let before = self.events.insert(seq, Pending { json, keys: Keys::of(seq, event) });
        assert!(before.is_none(), "a sequence number was given twice");
    }

    /// Takes `event`, which stands under `seq` here or in the store, out of both.
    pub(super) fn remove(&mut self, seq: Seq, event: &Event, change: IdChange) {
        debug_assert!(!matches!(change, IdChange::Pending { .. }));
        if let Some(address) = schema::event_address(event) {
            self.versions.insert(address, None);
        }
        self.ids.insert(Key(event.id.to_bytes()), change);
        match self.events.remove(&seq) {
            Some(pending) => {
                self.json_bytes -= pending.json.len();
                if let Some(at) = schema::expiration(event) {
                    self.expirations.remove(&(at, seq));
                }
            }
            None => {
                let is_new = self.removed.insert(seq);
                assert!(is_new, "an event was removed twice");
            }
        }
    }

    /// Forgets a committed record that does not hold, and with it what every relay has been asked for in full.
    pub(super) fn forget(&mut self, seq: Seq, id: Option<EventId>) {
        let id = id.map(|id| Key(id.to_bytes()));
        if let Some(id) = id {
            self.ids.entry(id).or_insert(IdChange::Gone);
        }
        self.forgotten.insert(seq, id);
        self.relays.values_mut().for_each(|(_, full_catchup)| *full_catchup = UnixTime::EPOCH);
    }

    /// A record that does not hold was to expire.
    pub(super) fn lapse(&mut self, at: u64, seq: Seq) {
        self.lapsed.insert(seq, at);
    }

    pub(super) fn delete_id(&mut self, key: IdAuthorKey) {
        self.deleted_ids.insert(key);
    }

    pub(super) fn delete_address(&mut self, address: AddressKey, up_to: u64) {
        let latest = self.deleted_addresses.entry(address).or_insert(up_to);
        *latest = up_to.max(*latest);
    }

    pub(super) fn progress(&mut self, progress: Progress) {
        match progress {
            Progress::Confirmed { relay, repo, seq } => {
                self.confirmed.insert((relay, repo), Some(seq));
            }
            Progress::Relay { relay, through, full_catchup } => {
                self.relays.insert(relay, (through, full_catchup));
            }
            Progress::Budget { relay, record } => {
                self.budgets.insert(relay, record);
            }
            Progress::ForgetRepo { relay, repo } => {
                self.confirmed.insert((relay, repo), None);
            }
            Progress::ForgetRelay { relay } => {
                self.confirmed.retain(|(of, _), _| *of != relay);
                self.relays.remove(&relay);
                self.budgets.remove(&relay);
                self.forgotten_relays.insert(relay);
            }
        }
    }

    // The commit.

    /// Writes the events into `txn`, each table in key order, and returns what the indexes say of those that leave it.
    pub(super) fn write_events(&self, txn: &WriteTransaction) -> Result<Vec<Keys>, StoreError> {
        let mut events = txn.open_table(schema::EVENTS)?;
        let mut expirations = txn.open_table(schema::EXPIRATIONS)?;
        let mut removed = Vec::with_capacity(self.removed.len());
        for seq in &self.removed {
            let json = events.remove(*seq)?.ok_or(StoreError::Corrupt)?;
            let event = schema::parse(json.value())?;
            if let Some(at) = schema::expiration(&event) {
                expirations.remove((at, *seq))?;
            }
            removed.push(Keys::of(*seq, &event));
        }
        for (seq, at) in &self.lapsed {
            expirations.remove((*at, *seq))?;
        }
        for seq in self.forgotten.keys().filter(|seq| !self.removed.contains(seq)) {
            events.insert(*seq, FORGOTTEN)?;
        }
        // Each is newer than all that are there; one by one they would make every page of the table's end anew.
        let mut end = events.upper_bound_mut(Bound::<u64>::Unbounded)?;
        for (seq, pending) in &self.events {
            end.insert_before(*seq, &*pending.json)?;
        }
        end.close()?;
        for expiration in &self.expirations {
            expirations.insert(*expiration, ())?;
        }
        Ok(removed)
    }

    /// Writes what is neither an event nor found by the indexes, each table in key order.
    pub(super) fn write_rest(&self, txn: &WriteTransaction) -> Result<(), StoreError> {
        self.write_versions(txn)?;
        self.write_deletions(txn)?;
        self.charges.write(txn)?;
        self.write_progress(txn)
    }

    fn write_versions(&self, txn: &WriteTransaction) -> Result<(), StoreError> {
        let mut versions = txn.open_table(schema::REPLACEABLE)?;
        for (address, version) in &self.versions {
            match version {
                Some(version) => versions.insert(address, (version.created_at, version.id.as_bytes(), version.seq))?,
                None => versions.remove(address)?,
            };
        }
        Ok(())
    }

    fn write_deletions(&self, txn: &WriteTransaction) -> Result<(), StoreError> {
        let mut known = txn.open_table(schema::IDS)?;
        for id in self.forgotten_ids() {
            known.remove(&id.0)?;
        }
        let mut deleted: Vec<(Key<32>, u64)> = self.marked_ids().collect();
        deleted.sort_unstable();
        for (id, created_at) in &deleted {
            known.insert(&id.0, (schema::DELETED, *created_at))?;
        }
        let mut ids = txn.open_table(schema::DELETED_IDS)?;
        for key in &self.deleted_ids {
            ids.insert(key, ())?;
        }
        let mut addresses = txn.open_table(schema::DELETED_ADDRESSES)?;
        for (address, up_to) in &self.deleted_addresses {
            addresses.insert(address, up_to)?;
        }
        Ok(())
    }

    fn write_progress(&self, txn: &WriteTransaction) -> Result<(), StoreError> {
        let mut confirmed = txn.open_table(schema::CONFIRMED)?;
        let mut relays = txn.open_table(schema::RELAYS)?;
        let mut budgets = txn.open_table(schema::BUDGETS)?;
        if !self.forgotten.is_empty() {
            ask_for_everything(&mut relays)?;
        }
        for relay in &self.forgotten_relays {
            relays.remove(relay.as_str())?;
            budgets.remove(relay.as_str())?;
            forget_relay(&mut confirmed, relay.as_str())?;
        }
        for ((relay, repo), seq) in &self.confirmed {
            let repo = repo.to_string();
            match seq {
                Some(seq) => confirmed.insert((relay.as_str(), repo.as_str()), seq)?,
                None => confirmed.remove((relay.as_str(), repo.as_str()))?,
            };
        }
        for (relay, (through, full_catchup)) in &self.relays {
            relays.insert(relay.as_str(), (through.as_secs(), full_catchup.as_secs()))?;
        }
        for (relay, record) in &self.budgets {
            budgets.insert(relay.as_str(), record.as_str())?;
        }
        Ok(())
    }

    /// What the table of ids is to have as deleted: id and `created_at`, in no particular order.
    pub(super) fn marked_ids(&self) -> impl Iterator<Item = (Key<32>, u64)> {
        self.ids.iter().filter_map(|(id, change)| match *change {
            IdChange::Deleted { created_at } => Some((*id, created_at)),
            IdChange::Pending { .. } | IdChange::Gone => None,
        })
    }

    /// What the indexes will say of the new events, in sequence order.
    pub(super) fn new_keys(&self) -> impl Iterator<Item = &Keys> + Clone {
        self.events.values().map(|pending| &pending.keys)
    }

    /// Entries that the new events make in the indexes.
    pub(super) fn index_entries(&self) -> usize {
        self.new_keys().map(Keys::len).sum()
    }

    /// The JSON of the new events, in sequence order.
    pub(super) fn into_events(self) -> impl Iterator<Item = (Seq, Box<str>)> {
        self.events.into_iter().map(|(seq, pending)| (seq, pending.json))
    }
}

/// No relay has been caught up with in full.
fn ask_for_everything(relays: &mut Table<&'static str, (u64, u64)>) -> Result<(), StoreError> {
    let mut all = Vec::new();
    for entry in relays.iter()? {
        let (relay, times) = entry?;
        all.push((relay.value().to_owned(), times.value().0));
    }
    for (relay, through) in &all {
        relays.insert(relay.as_str(), (*through, UnixTime::EPOCH.as_secs()))?;
    }
    Ok(())
}

fn forget_relay(confirmed: &mut Table<(&'static str, &'static str), u64>, relay: &str) -> Result<(), StoreError> {
    let from = Bound::Included((relay, ""));
    let mut repos = Vec::new();
    for entry in confirmed.range::<(&str, &str)>((from, Bound::Unbounded))? {
        let (key, _) = entry?;
        let (of, repo) = key.value();
        if of != relay {
            break;
        }
        repos.push(repo.to_owned());
    }
    for repo in &repos {
        confirmed.remove((relay, repo.as_str()))?;
    }
    Ok(())
}
