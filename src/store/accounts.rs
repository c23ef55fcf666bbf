//! What some events are charged to (spec section 16, "Writing"): how many events and bytes of them each account has, an
//! author's or a repo's. Each charge stands with the sequence number of its event and goes with it, however it goes; so
//! nothing is charged twice, and nothing stays charged that is not held.
//!
//! It knows no quotas and no policy: who is charged for what, and how much is too much, it is told.

use super::batch::Batch;
use super::schema::{self, AddressKey};
use super::snapshot::Snapshot;
use super::{Seq, Store, StoreError};
use crate::fault::shared;
use crate::protocol::repo::{ANNOUNCEMENT_KIND, RepoAddr};
use nostr::event::Event;
use nostr::key::PublicKey;
use redb::WriteTransaction;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Bytes of an account's name: so many of a key or a digest that nobody can make up another's.
pub(super) const ACCOUNT_LEN: usize = 16;
const BYTES_LEN: usize = size_of::<u32>();
const NUMBER_LEN: usize = size_of::<u64>();

/// To whom something is charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder([u8; ACCOUNT_LEN]);

impl Holder {
    /// An author.
    pub fn author(author: &PublicKey) -> Holder {
        Holder::of(b'p', author.as_bytes())
    }

    /// A repo.
    pub fn repo(repo: &RepoAddr) -> Holder {
        Holder::of(b'r', &schema::sha256(repo.to_string().as_bytes()))
    }

    /// By this the tables know it.
    pub(super) fn name(&self) -> &[u8; ACCOUNT_LEN] {
        &self.0
    }

    fn of(sort: u8, name: &[u8; 32]) -> Holder {
        let mut key = [sort; ACCOUNT_LEN];
        key[1..].copy_from_slice(&name[..ACCOUNT_LEN - 1]);
        Holder(key)
    }
}

/// What an account has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Events.
    pub events: u64,
    /// Bytes of their JSON.
    pub bytes: u64,
}

impl Usage {
    fn to_bytes(self) -> [u8; 2 * NUMBER_LEN] {
        (u128::from(self.events) << u64::BITS | u128::from(self.bytes)).to_be_bytes()
    }

    pub(super) fn of_bytes(bytes: &[u8]) -> Result<Usage, StoreError> {
        let (numbers, []) = bytes.as_chunks::<NUMBER_LEN>() else { return Err(StoreError::Corrupt) };
        let &[events, bytes] = numbers else { return Err(StoreError::Corrupt) };
        Ok(Usage { events: u64::from_be_bytes(events), bytes: u64::from_be_bytes(bytes) })
    }

    fn plus(self, bytes: u32) -> Usage {
        Usage { events: self.events + 1, bytes: self.bytes + u64::from(bytes) }
    }

    fn minus(self, bytes: u32) -> Usage {
        debug_assert!(self.events > 0 && self.bytes >= u64::from(bytes), "what was never charged is given back");
        Usage { events: self.events.saturating_sub(1), bytes: self.bytes.saturating_sub(bytes.into()) }
    }
}

/// What one event is charged with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    bytes: u32,
    holders: Vec<Holder>,
}

impl Charge {
    /// What an account has without it.
    pub fn taken_from(&self, holder: &Holder, usage: Usage) -> Usage {
        if self.holders.contains(holder) { usage.minus(self.bytes) } else { usage }
    }

    pub(super) fn holders(&self) -> &[Holder] {
        &self.holders
    }

    pub(super) fn add_to(&self, usage: &mut Usage) {
        *usage = usage.plus(self.bytes);
    }

    fn to_bytes(&self) -> Vec<u8> {
        let holders = self.holders.iter().flat_map(|holder| holder.0);
        self.bytes.to_le_bytes().into_iter().chain(holders).collect()
    }

    pub(super) fn of_bytes(bytes: &[u8]) -> Result<Charge, StoreError> {
        let (len, holders) = bytes.split_first_chunk::<BYTES_LEN>().ok_or(StoreError::Corrupt)?;
        let (holders, []) = holders.as_chunks::<ACCOUNT_LEN>() else { return Err(StoreError::Corrupt) };
        Ok(Charge { bytes: u32::from_le_bytes(*len), holders: holders.iter().copied().map(Holder).collect() })
    }
}

/// Charges that wait for a commit.
#[derive(Default)]
pub(super) struct Charges {
    /// Of new events.
    new: BTreeMap<Seq, Charge>,
    /// Of committed events that go.
    gone: Vec<Seq>,
    /// What the accounts that these concern will have.
    usages: BTreeMap<Holder, Usage>,
}

impl Charges {
    pub(super) fn len(&self) -> usize {
        self.new.len() + self.gone.len() + self.usages.len()
    }

    /// Writes them, each table in key order. Twice is as good as once.
    pub(super) fn write(&self, txn: &WriteTransaction) -> Result<(), StoreError> {
        if self.len() == 0 {
            return Ok(());
        }
        let mut charges = txn.open_table(schema::CHARGES)?;
        for seq in &self.gone {
            charges.remove(&schema::charge_key(*seq))?;
        }
        for (seq, charge) in &self.new {
            charges.insert(&schema::charge_key(*seq), &*charge.to_bytes())?;
        }
        let mut accounts = txn.open_table(schema::ACCOUNTS)?;
        for (holder, usage) in &self.usages {
            match usage.events {
                0 => accounts.remove(&holder.0)?,
                _ => accounts.insert(&holder.0, &usage.to_bytes()[..])?,
            };
        }
        Ok(())
    }
}

impl Batch {
    fn usage(&self, snapshot: &Snapshot, holder: &Holder) -> Result<Usage, StoreError> {
        match self.charges.usages.get(holder) {
            Some(usage) => Ok(*usage),
            None => snapshot.usage(holder),
        }
    }

    fn charge(&mut self, snapshot: &Snapshot, seq: Seq, charge: Charge) -> Result<(), StoreError> {
        for holder in &charge.holders {
            let usage = self.usage(snapshot, holder)?.plus(charge.bytes);
            self.charges.usages.insert(*holder, usage);
        }
        let before = self.charges.new.insert(seq, charge);
        assert!(before.is_none(), "an event is charged twice");
        Ok(())
    }

    /// An event goes that stands under `seq`, here or committed: so does what it is charged with.
    pub(super) fn uncharge(&mut self, snapshot: &Snapshot, seq: Seq) -> Result<(), StoreError> {
        let charge = match self.charges.new.remove(&seq) {
            Some(charge) => charge,
            None => {
                let Some(charge) = snapshot.charge(seq)? else { return Ok(()) };
                self.charges.gone.push(seq);
                charge
            }
        };
        for holder in &charge.holders {
            let usage = self.usage(snapshot, holder)?.minus(charge.bytes);
            self.charges.usages.insert(*holder, usage);
        }
        Ok(())
    }
}

impl Store {
    /// What an account has, the batch included.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn usage(&self, holder: &Holder) -> Result<Usage, StoreError> {
        shared(|| self.batch.usage(self.snapshot()?, holder))
    }

    /// What the version is charged with that an event would replace, if it belongs to a replaceable address and that has one.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn charge_replaced_by(&self, event: &Event) -> Result<Option<Charge>, StoreError> {
        let Some(address) = schema::event_address(event) else { return Ok(None) };
        let Some(version) = self.version(&address)? else { return Ok(None) };
        match self.batch.charges.new.get(&version.seq) {
            Some(charge) => Ok(Some(charge.clone())),
            None => self.snapshot()?.charge(version.seq),
        }
    }

    /// Charges the event that was [staged](Store::stage) under `seq` in this batch, with the bytes of its JSON, to some
    /// accounts, each named once. It must not be charged yet.
    ///
    /// # Errors
    ///
    /// If the store cannot be read, or has failed before. It takes no more writes then.
    pub fn charge(&mut self, seq: Seq, holders: &[Holder]) -> Result<(), StoreError> {
        if holders.is_empty() {
            return Ok(());
        }
        self.change(|store| {
            let bytes = store.batch.pending(seq).map_or(0, str::len);
            // No event is near 4 GiB.
            let charge = Charge { bytes: u32::try_from(bytes).unwrap_or(u32::MAX), holders: holders.to_vec() };
            let snapshot = store.snapshot.as_ref().ok_or(StoreError::Failed)?;
            store.batch.charge(snapshot, seq, charge)
        })
    }

    /// How many repos an author has announced, whoever brought them, the batch included; counts no further than `max`.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn repos_announced_by(&self, author: &PublicKey, max: usize) -> Result<usize, StoreError> {
        shared(|| {
            let (from, to) = addresses_of(ANNOUNCEMENT_KIND, author);
            let mut committed = 0;
            let range = (Bound::Included(&from), Bound::Included(&to));
            let (mut gone, mut new) = (0, 0);
            for (address, version) in self.batch.versions(&from, &to) {
                let is_committed = self.snapshot()?.replaceable.get(address)?.is_some();
                gone += usize::from(is_committed);
                new += usize::from(version.is_some());
            }
            for entry in self.snapshot()?.replaceable.range::<&AddressKey>(range)? {
                entry?;
                committed += 1;
                if committed + new >= max + gone {
                    break;
                }
            }
            Ok((committed + new).saturating_sub(gone).min(max))
        })
    }
}

/// The first and the last address of a kind that an author can have.
fn addresses_of(kind: u16, author: &PublicKey) -> (AddressKey, AddressKey) {
    let of = |rest: u8| {
        let mut key = [rest; 66];
        key[..2].copy_from_slice(&kind.to_be_bytes());
        key[2..34].copy_from_slice(author.as_bytes());
        key
    };
    (of(0), of(0xff))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Disk, Random, author, event};
    use super::*;
    use crate::time::UnixTime;
    use nostr::event::Event;

    const CACHE: usize = 1 << 20;

    fn usage(store: &Store, holder: Holder) -> (u64, u64) {
        let Usage { events, bytes } = store.usage(&holder).unwrap();
        (events, bytes)
    }

    fn charged(store: &mut Store, event: &Event, holders: &[Holder]) {
        let staged = store.stage(event.clone()).unwrap();
        store.charge(staged.seq, holders).unwrap();
    }

    fn repo(identifier: &str) -> Holder {
        Holder::repo(&RepoAddr { author: author(9), identifier: identifier.to_owned() })
    }

    #[test]
    fn a_charge_stands_from_the_batch_on_over_restarts_and_goes_with_its_event() {
        let disk = Disk::default();
        let mut store = Store::open(disk.clone(), CACHE).unwrap();
        let (a, r) = (Holder::author(&author(1)), repo("x"));
        let one = event(1, 1_621, 10, &[], "one");
        let two = event(1, 1_621, 11, &[&["expiration", "500"]], "two");
        charged(&mut store, &one, &[a, r]);
        let len = one.as_json().len() as u64;
        assert_eq!((usage(&store, a), usage(&store, r)), ((1, len), (1, len)), "the batch counts");
        charged(&mut store, &two, &[a]);
        store.stage(event(1, 1_621, 12, &[], "free")).unwrap();
        store.commit().unwrap();
        let both = (2, len + two.as_json().len() as u64);
        assert_eq!((usage(&store, a), usage(&store, r)), (both, (1, len)));
        drop(store);
        let mut store = Store::open(disk.clone(), CACHE).unwrap();
        assert_eq!((usage(&store, a), usage(&store, r)), (both, (1, len)), "they outlive the process");
        store.assert_invariants().unwrap();
        store.expire(UnixTime::from_secs(600), 10).unwrap();
        assert_eq!(usage(&store, a), (1, len), "two has expired");
        store.stage(event(1, 5, 20, &[&["e", &one.id.to_hex()]], "")).unwrap();
        store.commit().unwrap();
        assert_eq!((usage(&store, a), usage(&store, r)), ((0, 0), (0, 0)));
        store.assert_invariants().unwrap();
        assert_ne!(repo("x"), repo("y"));
    }

    #[test]
    fn repos_announced_are_counted_as_they_come_and_go() {
        let mut store = Store::in_memory();
        let announce = |n: u64, at| event(1, ANNOUNCEMENT_KIND, at, &[&["d", &n.to_string()]], "");
        let count = |store: &Store| store.repos_announced_by(&author(1), 100).unwrap();
        (0..5).for_each(|n| _ = store.stage(announce(n, 10)).unwrap());
        assert_eq!(count(&store), 5, "in the batch");
        store.commit().unwrap();
        (3..7).for_each(|n| _ = store.stage(announce(n, 20)).unwrap());
        store.stage(event(2, ANNOUNCEMENT_KIND, 10, &[&["d", "x"]], "")).unwrap();
        store.stage(event(1, 30_618, 10, &[&["d", "x"]], "")).unwrap();
        assert_eq!(count(&store), 7, "what is replaced counts once");
        let address = format!("{ANNOUNCEMENT_KIND}:{}:1", author(1).to_hex());
        store.stage(event(1, 5, 30, &[&["a", &address]], "")).unwrap();
        assert_eq!(count(&store), 6);
        store.commit().unwrap();
        assert_eq!(count(&store), 6);
        assert_eq!(store.repos_announced_by(&author(1), 3).unwrap(), 3, "no further than asked for");
    }

    /// Against a model that adds up what is held.
    #[test]
    fn nothing_is_charged_twice_or_left_charged() {
        for seed in 0..30 {
            let mut random = Random(seed);
            let disk = Disk::default();
            let mut store = Store::open(disk.clone(), CACHE).unwrap().with_memtable_max(30);
            let holders = [Holder::author(&author(1)), Holder::author(&author(2)), repo("a"), repo("b")];
            let mut made: Vec<(Event, Vec<Holder>)> = Vec::new();
            for n in 0..150 {
                let who = 1 + random.below(2) as u8;
                let made_event = match random.below(5) {
                    0 if !made.is_empty() => {
                        let of = &made[random.below(made.len() as u64) as usize].0;
                        event(of.pubkey.as_bytes()[0], 5, 100 + n, &[&["e", &of.id.to_hex()]], "")
                    }
                    1 => event(who, 10_002, 100 + n, &[], &"x".repeat(random.below(50) as usize)),
                    2 => event(who, 1, n, &[&["expiration", &(100 + random.below(100)).to_string()]], ""),
                    _ => event(who, 1_621, n, &[], &"y".repeat(random.below(50) as usize)),
                };
                if store.verdict(&made_event).unwrap() == super::super::Verdict::Fresh {
                    let of = holders.iter().copied().filter(|_| random.chance(2)).collect::<Vec<_>>();
                    charged(&mut store, &made_event, &of);
                    made.push((made_event, of));
                }
                match random.below(12) {
                    0 => _ = store.commit().unwrap(),
                    1 => _ = store.expire(UnixTime::from_secs(100 + n / 2), 5).unwrap(),
                    2 => {
                        store.commit().unwrap();
                        drop(store);
                        store = Store::open(disk.clone(), CACHE).unwrap().with_memtable_max(30);
                    }
                    _ => {}
                }
                for holder in &holders {
                    let held = |event: &Event| {
                        let known = store.known(&event.id).unwrap();
                        matches!(known, Some(super::super::Known::Stored { .. } | super::super::Known::Pending { .. }))
                    };
                    let of = made.iter().filter(|(event, of)| of.contains(holder) && held(event));
                    let expected = of.fold((0, 0), |sum, (event, _)| (sum.0 + 1, sum.1 + event.as_json().len() as u64));
                    assert_eq!(usage(&store, *holder), expected, "seed {seed}, step {n}");
                }
            }
            store.commit().unwrap();
            store.assert_invariants().unwrap();
        }
    }
}
