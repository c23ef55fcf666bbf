//! Whether the tables agree: what each of them should say of the events that are held, and what they say. `check` asserts
//! the same for tests; here it is counted, for a store that may be damaged.

use super::accounts::{ACCOUNT_LEN, Charge, Usage};
use super::damage;
use super::index::Index;
use super::memtable::{Key, Keys};
use super::schema::{self, Part};
use super::snapshot::Snapshot;
use super::{Seq, Store, StoreError, blocks};
use nostr::event::Event;
use redb::ReadableTable;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// What was found in the tables of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Events whose id and signature hold.
    pub events: u64,
    /// Records that did not hold and were forgotten, in this run or an earlier one. They are no damage any more.
    pub forgotten: u64,
    /// Records that are no event with its own id and signature.
    pub broken: u64,
    /// Entries that an index or another table lacks: an event is there, and is not found by them.
    pub missing: u64,
    /// Entries that name what is not there.
    pub dangling: u64,
    /// Ids of which the table of ids and the events say different things.
    pub ids: u64,
}

impl Findings {
    /// Whether everything holds.
    pub fn is_sound(&self) -> bool {
        Findings { events: 0, forgotten: 0, ..*self } == Findings::default()
    }
}

impl Store {
    /// Looks at every event, by its id and signature, and at every entry of every table. It takes as long as the store is
    /// large.
    ///
    /// # Errors
    ///
    /// If the store cannot be read to its end.
    pub fn verify(&self) -> Result<Findings, StoreError> {
        Verification {
            snapshot: self.snapshot()?,
            held: BTreeSet::new(),
            gone: BTreeSet::new(),
            findings: Findings::default(),
        }
        .run()
    }
}

struct Verification<'a> {
    snapshot: &'a Snapshot,
    held: BTreeSet<Seq>,
    /// Those of records that were forgotten or are broken: what else names them is no damage of its own.
    gone: BTreeSet<Seq>,
    findings: Findings,
}

/// Entries of a table that some events ought to have.
#[derive(Default)]
struct Expected {
    entries: u64,
    versions: u64,
    expirations: u64,
    by_tag: u64,
}

impl Verification<'_> {
    fn run(mut self) -> Result<Findings, StoreError> {
        let mut expected = Expected::default();
        for text in self.snapshot.texts()? {
            let (seq, json) = text?;
            let event = damage::holds(json.value().as_bytes()).then(|| schema::parse(json.value()));
            let Some(event) = event.transpose()? else {
                self.gone.insert(seq);
                let count = match json.value() == damage::FORGOTTEN {
                    true => &mut self.findings.forgotten,
                    false => &mut self.findings.broken,
                };
                *count += 1;
                continue;
            };
            self.held.insert(seq);
            self.findings.events += 1;
            self.look_up(seq, &event, &mut expected)?;
        }
        self.walk_ids()?;
        let (all, snapshot) = (expected.entries, self.snapshot);
        self.walk(&snapshot.by_time(), all)?;
        self.walk(&snapshot.by_kind(), all)?;
        self.walk(&snapshot.by_author(), all)?;
        self.walk(&snapshot.by_tag(), expected.by_tag)?;
        let versions = snapshot.replaceable.iter()?.map(|entry| Ok(entry?.1.value().2));
        self.count(versions, expected.versions)?;
        let expirations = snapshot.expirations.iter()?.map(|entry| Ok(entry?.0.value().1));
        self.count(expirations, expected.expirations)?;
        self.add_up_charges()?;
        Ok(self.findings)
    }

    /// Whether each account has what its events are charged with, and each charge is one of an event that is there.
    fn add_up_charges(&mut self) -> Result<(), StoreError> {
        let mut usages: BTreeMap<[u8; ACCOUNT_LEN], Usage> = BTreeMap::new();
        for entry in self.snapshot.charges.iter()? {
            let (key, charge) = entry?;
            let seq = schema::charge_seq(key.value());
            let is_there = self.held.contains(&seq) || self.gone.contains(&seq);
            self.findings.dangling += u64::from(!is_there);
            let charge = Charge::of_bytes(charge.value())?;
            charge.holders().iter().for_each(|holder| charge.add_to(usages.entry(*holder.name()).or_default()));
        }
        for entry in self.snapshot.accounts.iter()? {
            let (holder, usage) = entry?;
            let adds_up = usages.remove(holder.value()) == Some(Usage::of_bytes(usage.value())?);
            self.findings.dangling += u64::from(!adds_up);
        }
        self.findings.missing += usages.len() as u64;
        Ok(())
    }

    /// Looks up what the tables say of one event, and counts what they should.
    fn look_up(&mut self, seq: Seq, event: &Event, expected: &mut Expected) -> Result<(), StoreError> {
        let (snapshot, keys) = (self.snapshot, Keys::of(seq, event));
        self.findings.ids += u64::from(snapshot.id(&event.id)? != Some((seq, keys.created_at)));
        let mut missing = 0;
        missing += u64::from(!has(&snapshot.by_time(), &keys.by_time())?);
        missing += u64::from(!has(&snapshot.by_kind(), &keys.by_kind())?);
        missing += u64::from(!has(&snapshot.by_author(), &keys.by_author())?);
        for key in keys.by_tag() {
            missing += u64::from(!has(&snapshot.by_tag(), &key)?);
        }
        expected.entries += 1;
        expected.by_tag += (keys.len() - (Part::ALL.len() - 1)) as u64;
        if let Some(address) = schema::event_address(event) {
            let version = snapshot.replaceable.get(&address)?.map(|entry| entry.value().2);
            missing += u64::from(version != Some(seq));
            expected.versions += 1;
        }
        if let Some(at) = schema::expiration(event) {
            missing += u64::from(snapshot.expirations.get((at, seq))?.is_none());
            expected.expirations += 1;
        }
        self.findings.missing += missing;
        Ok(())
    }

    fn walk_ids(&mut self) -> Result<(), StoreError> {
        for entry in self.snapshot.ids()? {
            let (_, seq, _) = entry?;
            // What is broken is still known, until it is forgotten.
            let is_known = seq == schema::DELETED || self.held.contains(&seq) || self.gone.contains(&seq);
            self.findings.ids += u64::from(!is_known);
        }
        Ok(())
    }

    fn walk<const N: usize>(&mut self, index: &Index<'_, N>, expected: u64) -> Result<(), StoreError> {
        let mut entries = index.range(Bound::Unbounded, &blocks::last_fence())?;
        let seqs = std::iter::from_fn(|| {
            let entry = entries.next().transpose()?;
            Some(entry.map(|(key, _)| schema::place_seq(&schema::key_place(&key))))
        });
        self.count(seqs, expected)
    }

    /// Counts which of a table's entries name nothing, and those that are too many of what is there.
    fn count(&mut self, seqs: impl Iterator<Item = Result<Seq, StoreError>>, expected: u64) -> Result<(), StoreError> {
        let mut of_held: u64 = 0;
        for seq in seqs {
            let seq = seq?;
            if self.held.contains(&seq) {
                of_held += 1;
            } else if !self.gone.contains(&seq) {
                self.findings.dangling += 1;
            }
        }
        self.findings.dangling += of_held.saturating_sub(expected);
        Ok(())
    }
}

fn has<const N: usize>(index: &Index<'_, N>, key: &Key<N>) -> Result<bool, StoreError> {
    Ok(index.range(Bound::Included(&key.0), &key.0)?.next()?.is_some())
}

#[cfg(test)]
mod tests {
    use super::super::damage::tests::signed;
    use super::super::testing::Disk;
    use super::*;
    use redb::WriteTransaction;

    const CACHE: usize = 1 << 20;

    /// What is found after a change behind the store's back, which redb gives checksums of its own.
    fn found(change: impl FnOnce(&WriteTransaction, &[Event])) -> Findings {
        let disk = Disk::default();
        let mut store = Store::open(disk.clone(), CACHE).unwrap();
        let events: Vec<Event> = (1..=20)
            .map(|n| signed(n, 30_617, 100, &[["d", "x"], ["t", "y"], ["expiration", "5000"]], "content"))
            .collect();
        events.iter().for_each(|event| _ = store.stage(event.clone()).unwrap());
        store.commit().unwrap();
        store.close().unwrap();
        let store = Store::open(disk, CACHE).unwrap();
        let sound = Findings { events: 20, ..Findings::default() };
        assert_eq!(store.verify(), Ok(sound));
        assert!(sound.is_sound());
        let txn = store.db().unwrap().begin_write().unwrap();
        change(&txn, &events);
        txn.commit().unwrap();
        let Store { snapshot, db: Some(db), watch, .. } = &store else { panic!("it is open") };
        let memtable = super::super::Memtable::nothing(&redb::ReadableDatabase::begin_read(db).unwrap()).unwrap();
        assert!(snapshot.is_some());
        let snapshot = Snapshot::take(db, watch, memtable).unwrap();
        let findings = Store { snapshot: Some(snapshot), ..store }.verify().unwrap();
        assert!(!findings.is_sound(), "{findings:?}");
        findings
    }

    #[test]
    fn an_event_that_is_gone_is_named_by_all_that_named_it() {
        let findings = found(|txn, _| _ = txn.open_table(schema::EVENTS).unwrap().remove(7).unwrap());
        // By time, kind and author; by two tags; its address, and when it expires.
        assert_eq!(findings, Findings { events: 19, dangling: 3 + 2 + 2, ids: 1, ..Findings::default() });
    }

    #[test]
    fn an_event_that_nothing_names_is_missing_everywhere() {
        let findings = found(|txn, events| {
            let keys = Keys::of(7, &events[6]);
            blocks::write(&mut txn.open_table(schema::BY_TIME).unwrap(), &mut std::iter::empty(), &[keys.by_time().0])
                .unwrap();
            blocks::write(&mut txn.open_table(schema::BY_KIND).unwrap(), &mut std::iter::empty(), &[keys.by_kind().0])
                .unwrap();
            let mut of_author = txn.open_table(schema::BY_AUTHOR).unwrap();
            blocks::write(&mut of_author, &mut std::iter::empty(), &[keys.by_author().0]).unwrap();
            let tags: Vec<_> = keys.by_tag().map(|key| key.0).collect();
            blocks::write(&mut txn.open_table(schema::BY_TAG).unwrap(), &mut std::iter::empty(), &tags).unwrap();
            txn.open_table(schema::EXPIRATIONS).unwrap().remove((5_000, 7)).unwrap();
            let address = schema::event_address(&events[6]).unwrap();
            txn.open_table(schema::REPLACEABLE).unwrap().remove(&address).unwrap();
        });
        assert_eq!(findings, Findings { events: 20, missing: 3 + 2 + 2, ..Findings::default() });
    }

    #[test]
    fn ids_that_lead_elsewhere_are_counted() {
        let findings = found(|txn, events| {
            let mut ids = txn.open_table(schema::IDS).unwrap();
            ids.remove(events[3].id.as_bytes()).unwrap();
            ids.insert(events[4].id.as_bytes(), (9, 100)).unwrap();
            ids.insert(&[7; 32], (4_000, 100)).unwrap();
        });
        assert_eq!(findings, Findings { events: 20, ids: 3, ..Findings::default() });
    }

    #[test]
    fn a_record_that_is_no_event_is_broken() {
        let findings = found(|txn, events| {
            let mut table = txn.open_table(schema::EVENTS).unwrap();
            let other = signed(3, 1, 100, &[], "other");
            let forged =
                Event::new(other.id, other.pubkey, other.created_at, other.kind, other.tags, "changed", other.sig);
            let mut canonical = crate::protocol::canonical::Canonical::default();
            canonical.write(&forged);
            table.insert(5, canonical.json()).unwrap();
            table.insert(6, "no event").unwrap();
            assert_eq!(events.len(), 20);
        });
        assert_eq!(findings, Findings { events: 18, broken: 2, ..Findings::default() });
    }
}
