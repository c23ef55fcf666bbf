//! What must hold between the tables at every moment, for tests and simulations to assert.

use super::accounts::{ACCOUNT_LEN, Charge, Usage};
use super::blocks;
use super::damage;
use super::index::Index;
use super::schema::{self, Place};
use super::snapshot::Snapshot;
use super::{Seq, StoreError};
use redb::{ReadableTable, ReadableTableMetadata};
use std::collections::{BTreeMap, BTreeSet};

/// Reads everything and panics where two tables disagree.
pub(super) fn assert_consistent(snapshot: &Snapshot) -> Result<(), StoreError> {
    let mut ids = 0;
    let mut times = BTreeSet::new();
    let mut kinds = BTreeSet::new();
    let mut authors = BTreeSet::new();
    let mut tags = BTreeSet::new();
    let mut versions: u64 = 0;
    let mut expirations: u64 = 0;
    let mut forgotten: BTreeSet<Seq> = BTreeSet::new();
    for text in snapshot.texts()? {
        let (seq, json) = text?;
        if !damage::is_record(json.value()) {
            forgotten.insert(seq);
            continue;
        }
        assert!((1..snapshot.next_seq).contains(&seq), "seq {seq} was never given");
        let event = schema::parse(json.value())?;
        let created_at = event.created_at.as_secs();
        let place: Place = schema::place(created_at, &event.id, seq);
        let kind = event.kind.as_u16();
        ids += 1;
        let known = snapshot.id(&event.id)?;
        assert_eq!(known, Some((seq, created_at)), "the id of seq {seq}");
        assert!(times.insert((place.to_vec(), kind)));
        kinds.insert((schema::index_key::<{ schema::BY_KIND_LEN }>(&kind.to_be_bytes(), &place).to_vec(), kind));
        authors
            .insert((schema::index_key::<{ schema::BY_AUTHOR_LEN }>(event.pubkey.as_bytes(), &place).to_vec(), kind));
        for prefix in schema::tag_prefixes(&event.tags) {
            tags.insert((schema::index_key::<{ schema::BY_TAG_LEN }>(&prefix, &place).to_vec(), kind));
        }
        if let Some(address) = schema::event_address(&event) {
            let version = snapshot.replaceable.get(&address)?.map(|entry| entry.value().2);
            assert_eq!(version, Some(seq), "one version of each address is held");
            versions += 1;
        }
        if let Some(at) = schema::expiration(&event) {
            assert!(snapshot.expirations.get((at, seq))?.is_some(), "the expiration of seq {seq}");
            expirations += 1;
        }
    }
    let mut held: u64 = 0;
    for entry in snapshot.ids()? {
        let (_, seq, _) = entry?;
        assert!(!forgotten.contains(&seq), "what is forgotten is not known");
        held += u64::from(seq != schema::DELETED);
    }
    for entry in snapshot.replaceable.iter()? {
        versions += u64::from(forgotten.contains(&entry?.1.value().2));
    }
    for entry in snapshot.expirations.iter()? {
        expirations += u64::from(forgotten.contains(&entry?.0.value().1));
    }
    assert_eq!(held, ids, "each id speaks for an event");
    assert_eq!(snapshot.replaceable.len()?, versions, "each version is an event");
    assert_eq!(snapshot.expirations.len()?, expirations, "each expiration is an event's");
    assert_charged(snapshot)?;
    let memtable = &snapshot.memtable;
    assert_eq!(entries(&snapshot.by_time(), memtable.by_time.first, &forgotten)?, times);
    assert_eq!(entries(&snapshot.by_kind(), memtable.by_kind.first, &forgotten)?, kinds);
    assert_eq!(entries(&snapshot.by_author(), memtable.by_author.first, &forgotten)?, authors);
    assert_eq!(entries(&snapshot.by_tag(), memtable.by_tag.first, &forgotten)?, tags);
    Ok(())
}

/// Each account has what its events are charged with, and none is charged that is not there.
fn assert_charged(snapshot: &Snapshot) -> Result<(), StoreError> {
    let mut usages: BTreeMap<[u8; ACCOUNT_LEN], Usage> = BTreeMap::new();
    for entry in snapshot.charges.iter()? {
        let (key, charge) = entry?;
        assert!(snapshot.record_if_any(schema::charge_seq(key.value()))?.is_some(), "what is charged is held");
        let charge = Charge::of_bytes(charge.value())?;
        charge.holders().iter().for_each(|holder| charge.add_to(usages.entry(*holder.name()).or_default()));
    }
    for entry in snapshot.accounts.iter()? {
        let (holder, usage) = entry?;
        assert_eq!(usages.remove(holder.value()), Some(Usage::of_bytes(usage.value())?), "an account adds up");
    }
    assert!(usages.is_empty(), "every charge is in its accounts");
    Ok(())
}

/// All of an index but what names a record that was `forgotten`. What is in its table is older than `first`, and the rest
/// is not.
fn entries<const N: usize>(
    index: &Index<'_, N>,
    first: Seq,
    forgotten: &BTreeSet<Seq>,
) -> Result<BTreeSet<(Vec<u8>, u16)>, StoreError> {
    let mut entries = BTreeSet::new();
    for (key, kind) in blocks::checked(index.table)? {
        assert!(schema::place_seq(&schema::key_place(&key)) < first, "an entry is written before its time");
        entries.insert((key.to_vec(), kind));
    }
    for (key, kind) in index.memtable {
        assert!(schema::place_seq(&schema::key_place(&key.0)) >= first, "an entry is held back for too long");
        entries.insert((key.0.to_vec(), *kind));
    }
    entries.retain(|(key, _)| !forgotten.contains(&schema::place_seq(&schema::key_place(key))));
    Ok(entries)
}
