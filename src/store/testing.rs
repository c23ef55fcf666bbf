//! Events, a disk and random numbers for the store's tests and for fuzz targets.

use nostr::event::{Event, Kind, Signature, Tag, UnsignedEvent};
use nostr::key::PublicKey;
use nostr::types::Timestamp;
use std::io::{Error, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard};

/// The author number `n`.
pub(crate) fn author(n: u8) -> PublicKey {
    PublicKey::from_byte_array([n; 32])
}

/// An event with its true id and no signature to speak of: the store leaves those to the intake.
pub(crate) fn event(author: u8, kind: u16, created_at: u64, tags: &[&[&str]], content: &str) -> Event {
    event_by(PublicKey::from_byte_array([author; 32]), kind, created_at, tags, content)
}

/// The same of any author.
pub(crate) fn event_by(key: PublicKey, kind: u16, created_at: u64, tags: &[&[&str]], content: &str) -> Event {
    let tags = tags.iter().map(|tag| Tag::parse(tag.iter().copied()).expect("no tag of a test is empty"));
    let mut unsigned = UnsignedEvent::new(key, Timestamp::from_secs(created_at), Kind::from_u16(kind), tags, content);
    let id = unsigned.id();
    let sig = Signature::from_byte_array([0; 64]);
    Event::new(id, key, unsigned.created_at, unsigned.kind, unsigned.tags, unsigned.content, sig)
}

/// Numbers from a seed (SplitMix64).
pub(crate) struct Random(pub u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

/// A disk that outlives the stores on it, fails when told to, and may lose what was not synced.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    /// What a power cut leaves at least.
    synced: Vec<u8>,
    /// What was done to it since, in order.
    unsynced: Vec<Change>,
    /// Writes, length changes and syncs that still succeed; the others fail with the kind.
    failing: Option<(u64, ErrorKind)>,
    /// Nothing fits that would be written beyond so many bytes. A length alone takes no room.
    room: Option<usize>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Write(from, data) => bytes[*from..*from + data.len()].copy_from_slice(data),
            Change::Length(len) => bytes.resize(*len, 0),
        }
    }
}

impl Disk {
    pub(crate) fn holding(bytes: Vec<u8>) -> Disk {
        let state = State { synced: bytes.clone(), bytes, ..State::default() };
        Disk(Arc::new(Mutex::new(state)))
    }

    /// What a crash at this moment would leave, all writes kept.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    /// What a power cut at this moment may leave: of what was not synced the first `kept` changes, and half of the next.
    pub(crate) fn after_power_cut(&self, kept: usize) -> Disk {
        let state = self.state();
        let mut bytes = state.synced.clone();
        for change in state.unsynced.iter().take(kept) {
            change.apply(&mut bytes);
        }
        if let Some(Change::Write(from, data)) = state.unsynced.get(kept) {
            Change::Write(*from, data[..data.len() / 2].to_vec()).apply(&mut bytes);
        }
        Disk::holding(bytes)
    }

    /// Every change fails after `n` more.
    pub(crate) fn fail_after(&self, n: u64, kind: ErrorKind) {
        self.state().failing = Some((n, kind));
    }

    /// Every change succeeds again, and there is room for whatever comes.
    pub(crate) fn heal(&self) {
        let mut state = self.state();
        (state.failing, state.room) = (None, None);
    }

    /// From now on nothing fits beyond what was ever written.
    #[cfg(test)]
    pub(crate) fn fill(&self) {
        let mut state = self.state();
        state.room = Some(state.bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics with the lock")
    }

    /// The state, if the next change does not fail.
    fn changing(&self) -> Result<MutexGuard<'_, State>, Error> {
        let mut state = self.state();
        match &mut state.failing {
            Some((0, kind)) => return Err(Error::from(*kind)),
            Some((left, _)) => *left -= 1,
            None => {}
        }
        Ok(state)
    }

    fn change(&self, change: Change) -> Result<(), Error> {
        let mut state = self.changing()?;
        if let (Some(room), Change::Write(from, data)) = (state.room, &change)
            && from + data.len() > room
        {
            return Err(Error::from(ErrorKind::StorageFull));
        }
        change.apply(&mut state.bytes);
        state.unsynced.push(change);
        Ok(())
    }
}

impl redb::StorageBackend for Disk {
    fn len(&self) -> Result<u64, Error> {
        Ok(self.state().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let state = self.state();
        let from = offset as usize;
        let bytes = state.bytes.get(from..from + out.len()).ok_or(ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        self.change(Change::Length(len as usize))
    }

    fn sync_data(&self) -> Result<(), Error> {
        let mut state = self.changing()?;
        let State { synced, unsynced, .. } = &mut *state;
        unsynced.drain(..).for_each(|change| change.apply(synced));
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.change(Change::Write(offset as usize, data.to_vec()))
    }
}
