//! Tables, keys and the schema's version: what the bytes of the store mean.
//!
//! An event is held once, as its JSON, under its sequence number. Each index entry is `prefix ‖ place`, where a place is
//! `!created_at ‖ start of the id ‖ seq`, all big-endian, so that walking an index forward meets the newest event first
//! and, within a second, the lowest id first (NIP-01). The value is the event's kind: a filter that names kinds passes
//! over the rest without fetching them. The tables of the indexes hold blocks of such entries (`blocks`).
//!
//! Keys are as short as their purpose allows, for a batch changes almost every page of an index that is spread over
//! time, and the bytes of these pages are what a commit costs. So tag values are cut to a digest, and a match is always
//! checked again on the event itself; and a place has 5 + 6 + 5 bytes, enough for dates up to the year 36812 (later ones
//! are in no order among themselves) and 10^12 events.

use super::accounts::ACCOUNT_LEN;
use super::blocks::{self, Entry};
use super::{Seq, StoreError};
use crate::protocol::filter::TagValue;
use crate::protocol::message::RawEvent;
use crate::protocol::reference::Address;
use crate::protocol::repo;
use crate::time::UnixTime;
use nostr::event::{Event, EventId, Tags};
use nostr::key::PublicKey;
use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableHandle, WriteTransaction,
};

/// The schema that this program writes, and the newest that it reads. Version 1 lacks the table of what relays allow, in
/// version 2 the indexes lack nothing, up to version 3 each of their entries is one of the table's, and up to version 4
/// nothing is charged to anybody.
pub(super) const VERSION: u64 = 5;
/// The first whose indexes are in blocks.
const VERSION_OF_BLOCKS: u64 = 4;

/// `!created_at ‖ id[..6] ‖ seq`.
pub(super) type Place = [u8; PLACE_LEN];
/// `kind ‖ author ‖ SHA-256 of the identifier`: what a replaceable or addressable event replaces (NIP-01).
pub(super) type AddressKey = [u8; 66];
/// `id ‖ author`.
pub(super) type IdAuthorKey = [u8; 64];
/// `digest of the value ‖ letter`: a comment names one event with `e` and `E` (NIP-22) and changes one page for both.
pub(super) type TagPrefix = [u8; TAG_PREFIX_LEN];
/// What of a tag's value is in a key.
pub(super) type TagDigest = [u8; TAG_DIGEST_LEN];

/// Bytes of a number in a place, the low ones.
const NUMBER_LEN: usize = 5;
const NUMBER_MAX: u64 = (1 << (8 * NUMBER_LEN)) - 1;
const PLACE_ID_LEN: usize = 6;
pub(super) const PLACE_LEN: usize = NUMBER_LEN + PLACE_ID_LEN + NUMBER_LEN;
const _: () = assert!(PLACE_LEN == size_of::<u128>());
pub(super) const TAG_DIGEST_LEN: usize = 8;
const SHA256_LEN: usize = 32;
/// Entries of an index that an upgrade takes up at once.
const UPGRADE_ENTRIES: usize = 10_000;
pub(super) const TAG_PREFIX_LEN: usize = TAG_DIGEST_LEN + 1;
pub(super) const BY_TIME_LEN: usize = PLACE_LEN;
pub(super) const BY_KIND_LEN: usize = 2 + PLACE_LEN;
pub(super) const BY_AUTHOR_LEN: usize = 32 + PLACE_LEN;
pub(super) const BY_TAG_LEN: usize = TAG_PREFIX_LEN + PLACE_LEN;

/// An index whose keys are `N` bytes, in blocks by their fences.
pub(super) type IndexTable<const N: usize> = TableDefinition<'static, &'static [u8; N], &'static [u8]>;
/// An index as it was until version 3: the kind by key.
type FlatTable<const N: usize> = TableDefinition<'static, &'static [u8; N], u16>;

/// Schema version and next sequence number, by name. Its own name marks the database as ours.
pub(super) const META: TableDefinition<'static, &str, u64> = TableDefinition::new("grasp_sync");
/// Event JSON by sequence number.
pub(super) const EVENTS: TableDefinition<'static, u64, &str> = TableDefinition::new("events");
/// `(seq, created_at)` by id; a seq of [`DELETED`] says that the event was held or verified, and is deleted.
pub(super) const IDS: TableDefinition<'static, &[u8; 32], (u64, u64)> = TableDefinition::new("ids");
/// Every event.
pub(super) const BY_TIME: IndexTable<BY_TIME_LEN> = TableDefinition::new("time_blocks");
/// Events by kind.
pub(super) const BY_KIND: IndexTable<BY_KIND_LEN> = TableDefinition::new("kind_blocks");
/// Events by author.
pub(super) const BY_AUTHOR: IndexTable<BY_AUTHOR_LEN> = TableDefinition::new("author_blocks");
/// Events by single-letter tag and its first value.
pub(super) const BY_TAG: IndexTable<BY_TAG_LEN> = TableDefinition::new("tag_blocks");
/// `(created_at, id, seq)` of the version held, by address.
pub(super) const REPLACEABLE: TableDefinition<'static, &[u8; 66], (u64, &[u8; 32], u64)> =
    TableDefinition::new("replaceable");
/// Ids that their author has deleted before we held them.
pub(super) const DELETED_IDS: TableDefinition<'static, &[u8; 64], ()> = TableDefinition::new("deleted_ids");
/// `created_at` of the latest deletion, by address: versions up to it are deleted.
pub(super) const DELETED_ADDRESSES: TableDefinition<'static, &[u8; 66], u64> =
    TableDefinition::new("deleted_addresses");
/// `(expiration, seq)` of the events that expire (NIP-40).
pub(super) const EXPIRATIONS: TableDefinition<'static, (u64, u64), ()> = TableDefinition::new("expirations");
/// The sequence number up to which a (relay, repo) is confirmed.
pub(super) const CONFIRMED: TableDefinition<'static, (&str, &str), u64> = TableDefinition::new("confirmed");
/// `(through, full catch-up)` by relay.
pub(super) const RELAYS: TableDefinition<'static, &str, (u64, u64)> = TableDefinition::new("relays");
/// What is known of what a relay allows, by relay: a record of `sync`'s.
pub(super) const BUDGETS: TableDefinition<'static, &str, &str> = TableDefinition::new("relay_budgets");

/// A table of `accounts`. Its types are those of [`BY_TIME`], so that redb's code for them, which is large, is in the binary
/// once.
pub(super) type AccountTable = TableDefinition<'static, &'static [u8; ACCOUNT_LEN], &'static [u8]>;
const _: () = assert!(ACCOUNT_LEN == BY_TIME_LEN);
/// What an event is charged with, by its sequence number ([`charge_key`]).
pub(super) const CHARGES: AccountTable = TableDefinition::new("charges");
/// What is charged, by account.
pub(super) const ACCOUNTS: AccountTable = TableDefinition::new("accounts");

/// In place of a sequence number in [`IDS`]: the event is deleted. Sequence numbers begin at 1.
pub(super) const DELETED: Seq = 0;

const META_SCHEMA: &str = "schema";
const META_NEXT_SEQ: &str = "next_seq";

/// What is written for many commits at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The table of ids.
    Ids,
    ByTime,
    ByKind,
    ByAuthor,
    ByTag,
}

impl Part {
    pub(super) const ALL: [Part; 5] = [Part::Ids, Part::ByTime, Part::ByKind, Part::ByAuthor, Part::ByTag];

    /// Under which name [`META`] has the first sequence number that this part knows nothing of. Until version 3 that of
    /// the ids spoke for all.
    fn unindexed_name(self) -> &'static str {
        match self {
            Part::Ids => "unindexed",
            Part::ByTime => "unindexed_time",
            Part::ByKind => "unindexed_kind",
            Part::ByAuthor => "unindexed_author",
            Part::ByTag => "unindexed_tag",
        }
    }
}

/// Makes the tables in a new database, or checks that the database is ours. Changes nothing that is not empty.
pub(super) fn prepare(db: &Database) -> Result<(), StoreError> {
    let txn = db.begin_read()?;
    if txn.list_tables()?.next().is_none() && txn.list_multimap_tables()?.next().is_none() {
        drop(txn);
        return create(db);
    }
    if !txn.list_tables()?.any(|table| table.name() == META.name()) {
        return Err(StoreError::NotAStore);
    }
    let meta = txn.open_table(META)?;
    match meta.get(META_SCHEMA)?.map(|version| version.value()) {
        Some(VERSION) => Ok(()),
        Some(version @ 1..VERSION) => {
            drop((meta, txn));
            upgrade(db, version)
        }
        Some(version) if version > VERSION => Err(StoreError::TooNew { version }),
        _ => Err(StoreError::Corrupt),
    }
}

/// From an earlier version, in one transaction.
fn upgrade(db: &Database, version: u64) -> Result<(), StoreError> {
    let txn = db.begin_write()?;
    txn.open_table(BUDGETS)?;
    txn.open_table(CHARGES)?;
    txn.open_table(ACCOUNTS)?;
    if version < VERSION_OF_BLOCKS {
        upgrade_indexes(&txn)?;
    }
    txn.open_table(META)?.insert(META_SCHEMA, VERSION)?;
    txn.commit()?;
    Ok(())
}

fn upgrade_indexes(txn: &WriteTransaction) -> Result<(), StoreError> {
    let unindexed = {
        let meta = txn.open_table(META)?;
        let next_seq = meta.get(META_NEXT_SEQ)?.ok_or(StoreError::Corrupt)?.value();
        meta.get(Part::Ids.unindexed_name())?.map_or(next_seq, |first| first.value())
    };
    for part in Part::ALL {
        write_unindexed(txn, part, unindexed)?;
    }
    pack(txn, FlatTable::new("by_time"), BY_TIME)?;
    pack(txn, FlatTable::new("by_kind"), BY_KIND)?;
    pack(txn, FlatTable::new("by_author"), BY_AUTHOR)?;
    pack(txn, FlatTable::new("by_tag"), BY_TAG)
}

/// Puts an index of before version 4 into blocks.
fn pack<const N: usize>(txn: &WriteTransaction, flat: FlatTable<N>, index: IndexTable<N>) -> Result<(), StoreError> {
    let mut table = txn.open_table(index)?;
    let entries = txn.open_table(flat)?;
    let mut some: Vec<Entry<N>> = Vec::with_capacity(UPGRADE_ENTRIES);
    for entry in entries.iter()? {
        let (key, kind) = entry?;
        some.push((*key.value(), kind.value()));
        if some.len() == UPGRADE_ENTRIES {
            blocks::write(&mut table, &mut some.drain(..), &[])?;
        }
    }
    blocks::write(&mut table, &mut some.drain(..), &[])?;
    drop(entries);
    txn.delete_table(flat)?;
    Ok(())
}

/// One transaction, so that a crash leaves either no table or all of them.
fn create(db: &Database) -> Result<(), StoreError> {
    let txn = db.begin_write()?;
    txn.open_table(META)?.insert(META_SCHEMA, VERSION)?;
    write_next_seq(&txn, 1)?;
    for part in Part::ALL {
        write_unindexed(&txn, part, 1)?;
    }
    txn.open_table(EVENTS)?;
    txn.open_table(IDS)?;
    txn.open_table(BY_TIME)?;
    txn.open_table(BY_KIND)?;
    txn.open_table(BY_AUTHOR)?;
    txn.open_table(BY_TAG)?;
    txn.open_table(REPLACEABLE)?;
    txn.open_table(DELETED_IDS)?;
    txn.open_table(DELETED_ADDRESSES)?;
    txn.open_table(EXPIRATIONS)?;
    txn.open_table(CONFIRMED)?;
    txn.open_table(RELAYS)?;
    txn.open_table(BUDGETS)?;
    txn.open_table(CHARGES)?;
    txn.open_table(ACCOUNTS)?;
    txn.commit()?;
    Ok(())
}

/// The next sequence number.
pub(super) fn next_seq(txn: &ReadTransaction) -> Result<Seq, StoreError> {
    match txn.open_table(META)?.get(META_NEXT_SEQ)?.map(|seq| seq.value()) {
        Some(DELETED) | None => Err(StoreError::Corrupt),
        Some(seq) => Ok(seq),
    }
}

/// Remembers the next sequence number, so that none is used twice even if its event is gone.
pub(super) fn write_next_seq(txn: &WriteTransaction, next: Seq) -> Result<(), StoreError> {
    txn.open_table(META)?.insert(META_NEXT_SEQ, next)?;
    Ok(())
}

/// The first sequence number that a part knows nothing of.
pub(super) fn unindexed(txn: &ReadTransaction, part: Part) -> Result<Seq, StoreError> {
    txn.open_table(META)?.get(part.unindexed_name())?.map(|seq| seq.value()).ok_or(StoreError::Corrupt)
}

/// Remembers that a part knows all events before `first`, and none after.
pub(super) fn write_unindexed(txn: &WriteTransaction, part: Part, first: Seq) -> Result<(), StoreError> {
    txn.open_table(META)?.insert(part.unindexed_name(), first)?;
    Ok(())
}

/// An event as the store wrote it; anything else is damage.
pub(super) fn parse(json: &str) -> Result<Event, StoreError> {
    RawEvent::from_json(json).and_then(|raw| raw.parse()).map_err(|_| StoreError::Corrupt)
}

/// The key of what an event is charged with.
pub(super) fn charge_key(seq: Seq) -> [u8; ACCOUNT_LEN] {
    u128::from(seq).to_be_bytes()
}

/// The sequence number of the event that is charged under a key. Nothing stands under a number that is none.
pub(super) fn charge_seq(key: &[u8; ACCOUNT_LEN]) -> Seq {
    Seq::try_from(u128::from_be_bytes(*key)).unwrap_or(Seq::MAX)
}

/// Where an event stands in every index.
pub(super) fn place(created_at: u64, id: &EventId, seq: Seq) -> Place {
    assert!(seq <= NUMBER_MAX, "more events than a place can number");
    let mut place = [0; PLACE_LEN];
    place[..NUMBER_LEN].copy_from_slice(&number(NUMBER_MAX - created_at.min(NUMBER_MAX)));
    place[NUMBER_LEN..NUMBER_LEN + PLACE_ID_LEN].copy_from_slice(&id.as_bytes()[..PLACE_ID_LEN]);
    place[NUMBER_LEN + PLACE_ID_LEN..].copy_from_slice(&number(seq));
    place
}

/// Before every other place.
pub(super) const FIRST_PLACE: Place = [0; PLACE_LEN];
/// After every other place.
pub(super) const LAST_PLACE: Place = [0xff; PLACE_LEN];

/// The first place that an event of `until` or older can have.
pub(super) fn place_not_after(until: u64) -> Place {
    let mut place = FIRST_PLACE;
    place[..NUMBER_LEN].copy_from_slice(&number(NUMBER_MAX - until.min(NUMBER_MAX)));
    place
}

/// The last place that an event of `since` or newer can have.
pub(super) fn place_not_before(since: u64) -> Place {
    let mut place = LAST_PLACE;
    place[..NUMBER_LEN].copy_from_slice(&number(NUMBER_MAX - since.min(NUMBER_MAX)));
    place
}

/// The first place that can come after another.
pub(super) fn place_after(place: &Place) -> Place {
    u128::from_be_bytes(*place).saturating_add(1).to_be_bytes()
}

/// Every id that can stand at a place begins with these bytes.
pub(super) fn place_id_prefix(place: &Place) -> &[u8] {
    &place[NUMBER_LEN..NUMBER_LEN + PLACE_ID_LEN]
}

/// The sequence number in a place.
pub(super) fn place_seq(place: &Place) -> Seq {
    let mut seq = [0; 8];
    seq[8 - NUMBER_LEN..].copy_from_slice(&place[NUMBER_LEN + PLACE_ID_LEN..]);
    Seq::from_be_bytes(seq)
}

/// The `created_at` in a place.
pub(super) fn place_created_at(place: &Place) -> u64 {
    let mut inverted = [0; 8];
    inverted[8 - NUMBER_LEN..].copy_from_slice(&place[..NUMBER_LEN]);
    NUMBER_MAX - u64::from_be_bytes(inverted)
}

/// A number of at most [`NUMBER_MAX`], big-endian.
fn number(n: u64) -> [u8; NUMBER_LEN] {
    let mut bytes = [0; NUMBER_LEN];
    bytes.copy_from_slice(&n.to_be_bytes()[8 - NUMBER_LEN..]);
    bytes
}

/// `prefix ‖ place`; `N` must be the sum of their lengths.
pub(super) fn index_key<const N: usize>(prefix: &[u8], place: &Place) -> [u8; N] {
    let mut key = [0; N];
    key[..N - PLACE_LEN].copy_from_slice(prefix);
    key[N - PLACE_LEN..].copy_from_slice(place);
    key
}

/// The place at the end of an index key.
pub(super) fn key_place(key: &[u8]) -> Place {
    let mut place = [0; PLACE_LEN];
    place.copy_from_slice(&key[key.len() - PLACE_LEN..]);
    place
}

/// `id ‖ author`.
pub(super) fn id_author_key(id: &EventId, author: &PublicKey) -> IdAuthorKey {
    let mut key = [0; 64];
    key[..32].copy_from_slice(id.as_bytes());
    key[32..].copy_from_slice(author.as_bytes());
    key
}

/// `digest ‖ letter` of a value.
pub(super) fn tag_prefix(letter: u8, value: &TagValue<'_>) -> TagPrefix {
    digest_prefix(letter, &tag_digest(value))
}

/// `digest ‖ letter`.
pub(super) fn digest_prefix(letter: u8, digest: &TagDigest) -> TagPrefix {
    let mut prefix = [letter; TAG_PREFIX_LEN];
    prefix[..TAG_DIGEST_LEN].copy_from_slice(digest);
    prefix
}

/// What stands for a tag's value. Ids and keys, most of all values, are their own digest; values that share one only cost
/// a look at the event.
pub(super) fn tag_digest(value: &TagValue<'_>) -> TagDigest {
    let bytes = match value {
        TagValue::Bytes(bytes) => *bytes,
        TagValue::Text(text) => sha256(text.as_bytes()),
    };
    *bytes.first_chunk().expect("a digest is shorter")
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; SHA256_LEN] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let mut out = [0; SHA256_LEN];
    out.copy_from_slice(digest.as_ref());
    out
}

/// The single-letter tags of an event with their first values (NIP-01), as prefixes in key order, each once.
pub(super) fn tag_prefixes(tags: &Tags) -> Vec<TagPrefix> {
    let mut prefixes: Vec<TagPrefix> = Vec::with_capacity(tags.len());
    prefixes.extend(tags.iter().filter_map(|tag| match (tag.kind().as_bytes(), tag.content()) {
        ([letter], Some(value)) if letter.is_ascii_alphabetic() => Some(tag_prefix(*letter, &TagValue::of(value))),
        _ => None,
    }));
    prefixes.sort_unstable();
    prefixes.dedup();
    prefixes
}

/// The address of an event that replaces or is replaced; `None` for all others.
pub(super) fn event_address(event: &Event) -> Option<AddressKey> {
    Address::of(event).as_ref().map(address_key)
}

/// The address that an `a` tag of `author` names. `None` if it is none, or another author's.
pub(super) fn own_address(value: &str, author: &PublicKey) -> Option<AddressKey> {
    Address::parse(value).filter(|address| address.author == *author).as_ref().map(address_key)
}

pub(super) fn address_key(address: &Address<'_>) -> AddressKey {
    let mut key = [0; 66];
    key[..2].copy_from_slice(&address.kind.to_be_bytes());
    key[2..34].copy_from_slice(address.author.as_bytes());
    key[34..].copy_from_slice(&sha256(address.identifier.as_bytes()));
    key
}

/// When an event expires: the first `expiration` tag, in seconds since 1970 (NIP-40). A malformed one counts as none.
pub(super) fn expiration(event: &Event) -> Option<u64> {
    repo::expiration(event).map(UnixTime::as_secs)
}
