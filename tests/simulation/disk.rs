//! A disk that keeps what was synced and may keep, lose or tear the rest. redb works on one image; what it has not yet
//! synced is also kept as a list, so that a power cut can leave any part of it. Faults are arranged, and what they leave
//! is drawn from a seed. A disk that lies about a sync is out of scope: nothing could be acknowledged on it.

use crate::rng::Rng;
use grasp_sync::shares::room::Space;
use redb::StorageBackend;
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};

/// What a disk writes as one: a cut may leave some sectors of a write and not others.
const SECTOR: usize = 512;
/// What room is counted in. A length alone takes none, as in a file with holes.
const BLOCK: u64 = 4096;
/// Linux's numbers, so that the store sees the very errors that it would there.
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What changes a disk.
#[derive(Clone, Debug)]
pub enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
    Sync,
}

/// What becomes of writes that were never synced.
#[derive(Clone, Copy, Debug)]
pub enum Lost {
    /// Nothing is lost: the process died, the machine did not. They are still not synced.
    Nothing,
    /// All are lost.
    All,
    /// Each is lost or kept; drawn from the seed.
    Some(u64),
    /// As `Some`, and a write may be kept in part: up to any byte, or any of its sectors.
    Torn(u64),
}

/// When operations of one sort fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fails {
    #[default]
    Never,
    /// One fails, after so many that work.
    Once(u64),
    /// All fail, after so many that work.
    From(u64),
}

impl Fails {
    /// Whether the next operation fails.
    fn next(&mut self) -> bool {
        match self {
            Fails::Never => false,
            Fails::Once(0) => {
                *self = Fails::Never;
                true
            }
            Fails::From(0) => true,
            Fails::Once(left) | Fails::From(left) => {
                *left -= 1;
                false
            }
        }
    }
}

/// What is wrong with a disk. The default is a sound one.
#[derive(Clone, Debug, Default)]
pub struct DiskFaults {
    pub read: Fails,
    /// Writes, changes of length and syncs, counted together.
    pub change: Fails,
    pub sync: Fails,
    /// Bytes that fit, in blocks; the write that needs one more finds no space.
    pub room: Option<u64>,
    /// What failing operations leave behind is drawn from it.
    pub seed: u64,
}

#[derive(Debug)]
struct Image {
    /// What reads see.
    current: Vec<u8>,
    /// What a power cut leaves at least.
    durable: Vec<u8>,
    /// What leads from `durable` to `current`.
    unsynced: Vec<Change>,
    /// Blocks that were ever written.
    blocks: BTreeSet<u64>,
    syncs: u64,
    faults: DiskFaults,
    rng: Rng,
    failed: u64,
    /// All changes, if they are recorded.
    record: Option<Vec<Change>>,
}

/// A handle to one disk; clones are handles to the same one.
#[derive(Clone)]
pub struct Disk(Arc<Mutex<Image>>);

impl Default for Disk {
    fn default() -> Disk {
        Disk::holding(Vec::new())
    }
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("len", &self.image().current.len()).finish()
    }
}

impl Disk {
    /// A sound disk with these bytes on it, all durable.
    pub fn holding(bytes: Vec<u8>) -> Disk {
        Disk::with(bytes.clone(), bytes, Vec::new(), DiskFaults::default())
    }

    fn with(current: Vec<u8>, durable: Vec<u8>, unsynced: Vec<Change>, faults: DiskFaults) -> Disk {
        let blocks = (0..(current.len() as u64).div_ceil(BLOCK)).filter(|b| {
            let from = (b * BLOCK) as usize;
            current[from..current.len().min(from + BLOCK as usize)].iter().any(|byte| *byte != 0)
        });
        let blocks = blocks.collect();
        let rng = Rng::new(faults.seed);
        let image = Image { current, durable, unsynced, blocks, syncs: 0, faults, rng, failed: 0, record: None };
        Disk(Arc::new(Mutex::new(image)))
    }

    fn image(&self) -> std::sync::MutexGuard<'_, Image> {
        self.0.lock().expect("the simulation has one thread and does not survive a panic")
    }

    /// How often the disk was synced: changes whenever the durable bytes may have.
    pub fn syncs(&self) -> u64 {
        self.image().syncs
    }

    /// Whether nothing was ever written.
    pub fn is_blank(&self) -> bool {
        self.image().current.is_empty()
    }

    /// What reads see.
    pub fn bytes(&self) -> Vec<u8> {
        self.image().current.clone()
    }

    /// Bytes in the blocks that were ever written.
    pub fn used(&self) -> u64 {
        self.image().blocks.len() as u64 * BLOCK
    }

    /// What there is to be had, and what is taken.
    pub fn space(&self) -> Space {
        let store = self.used();
        let disk_free = self.image().faults.room.map_or(u64::MAX, |room| room.saturating_sub(store));
        Space { disk_free, store }
    }

    /// From now on this is wrong with the disk, and nothing else.
    pub fn set_faults(&self, faults: DiskFaults) {
        let mut image = self.image();
        image.rng = Rng::new(faults.seed);
        image.faults = faults;
    }

    /// Operations that have failed.
    pub fn failed(&self) -> u64 {
        self.image().failed
    }

    /// From now on every change is recorded.
    pub fn record(&self) {
        self.image().record = Some(Vec::new());
    }

    /// What was recorded, in order.
    pub fn recorded(&self) -> Vec<Change> {
        self.image().record.clone().unwrap_or_default()
    }

    /// Makes recorded changes.
    pub fn play(&self, changes: &[Change]) {
        for change in changes {
            let done = match change {
                Change::Write(offset, data) => self.write(*offset, data),
                Change::Length(len) => self.set_len(*len),
                Change::Sync => self.sync_data(),
            };
            done.expect("the disk has no faults");
        }
    }

    /// Another disk that holds what this one would hold after an end of the process or of power, with the same faults.
    /// The old handle goes on as a ghost: whatever a dying process still writes to it is lost.
    pub fn after(&self, lost: Lost) -> Disk {
        let image = self.image();
        let (mut current, faults) = (image.durable.clone(), image.faults.clone());
        match lost {
            Lost::Nothing => {
                return Disk::with(image.current.clone(), current, image.unsynced.clone(), faults);
            }
            Lost::All => {}
            Lost::Some(seed) | Lost::Torn(seed) => {
                let mut rng = Rng::new(seed);
                let tears = matches!(lost, Lost::Torn(_));
                // Sometimes nearly all is kept, sometimes nearly nothing.
                let kept_of_8 = [1, 4, 7][rng.below(3) as usize];
                for change in &image.unsynced {
                    match change {
                        Change::Write(offset, data) if tears && rng.below(2) == 0 => {
                            tear(&mut current, *offset, data, &mut rng);
                        }
                        change if rng.below(8) < kept_of_8 => apply(&mut current, change),
                        _ => {}
                    }
                }
            }
        }
        Disk::with(current.clone(), current, Vec::new(), faults)
    }
}

/// What of the change fits the image: its growth may have been lost.
fn apply(image: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(offset, data) => {
            let from = (*offset as usize).min(image.len());
            let to = (*offset as usize + data.len()).min(image.len());
            image[from..to].copy_from_slice(&data[..to - from]);
        }
        Change::Length(len) => image.resize(*len as usize, 0),
        Change::Sync => {}
    }
}

/// Applies a part of a write: all up to some byte, or some of its sectors.
fn tear(image: &mut Vec<u8>, offset: u64, data: &[u8], rng: &mut Rng) {
    if rng.below(2) == 0 {
        let cut = rng.below(data.len() as u64 + 1) as usize;
        apply(image, &Change::Write(offset, data[..cut].to_vec()));
        return;
    }
    let mut at = 0;
    while at < data.len() {
        let sector_ends = SECTOR - (offset as usize + at) % SECTOR;
        let end = data.len().min(at + sector_ends);
        if rng.below(2) == 0 {
            apply(image, &Change::Write(offset + at as u64, data[at..end].to_vec()));
        }
        at = end;
    }
}

fn out_of_range() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "outside the disk")
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.image().current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut image = self.image();
        if image.faults.read.next() {
            return Err(image.fail(EIO));
        }
        let offset = offset as usize;
        out.copy_from_slice(image.current.get(offset..offset + out.len()).ok_or_else(out_of_range)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut image = self.image();
        if image.faults.change.next() {
            return Err(image.fail(EIO));
        }
        image.blocks.retain(|b| b * BLOCK < len);
        image.change(Change::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut image = self.image();
        // Both are counted.
        let fails = [image.faults.change.next(), image.faults.sync.next()];
        if fails.contains(&true) {
            return Err(image.fail(EIO));
        }
        image.sync();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut image = self.image();
        if offset as usize + data.len() > image.current.len() {
            return Err(out_of_range());
        }
        if image.faults.change.next() {
            let part = image.rng.below(data.len() as u64 + 1) as usize;
            image.change(Change::Write(offset, data[..part].to_vec()));
            return Err(image.fail(EIO));
        }
        let blocks = offset / BLOCK..(offset + data.len() as u64).div_ceil(BLOCK);
        let room = image.faults.room.map_or(u64::MAX, |bytes| bytes / BLOCK);
        for block in blocks {
            if image.blocks.len() as u64 >= room && !image.blocks.contains(&block) {
                // What fitted before it was written.
                let part = (block * BLOCK).saturating_sub(offset) as usize;
                image.change(Change::Write(offset, data[..part].to_vec()));
                return Err(image.fail(ENOSPC));
            }
            image.blocks.insert(block);
        }
        image.change(Change::Write(offset, data.to_vec()));
        Ok(())
    }
}

impl Image {
    fn change(&mut self, change: Change) {
        apply(&mut self.current, &change);
        if let Some(record) = &mut self.record {
            record.push(change.clone());
        }
        self.unsynced.push(change);
    }

    fn sync(&mut self) {
        self.syncs += 1;
        for change in std::mem::take(&mut self.unsynced) {
            apply(&mut self.durable, &change);
        }
        if let Some(record) = &mut self.record {
            record.push(Change::Sync);
        }
    }

    fn fail(&mut self, errno: i32) -> io::Error {
        self.failed += 1;
        io::Error::from_raw_os_error(errno)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::ErrorKind;

    fn with_old_and_new(blocks: usize) -> Disk {
        let disk = Disk::holding(vec![b'o'; blocks * BLOCK as usize]);
        for block in 0..blocks as u64 {
            disk.write(block * BLOCK, &[b'n'; BLOCK as usize]).expect("fits");
        }
        disk
    }

    #[test]
    fn a_power_cut_keeps_what_was_synced_and_nothing_else() {
        let disk = Disk::default();
        disk.set_len(4).expect("fits");
        disk.write(0, b"kept").expect("fits");
        disk.sync_data().expect("works");
        disk.write(0, b"lost").expect("fits");
        disk.set_len(8).expect("fits");
        assert_eq!(disk.after(Lost::All).bytes(), b"kept");
        assert_eq!(disk.after(Lost::Nothing).bytes(), b"lost\0\0\0\0");
        assert!(disk.read(5, &mut [0; 4]).is_err());
        // A process that ends by itself makes nothing durable.
        assert_eq!(disk.after(Lost::Nothing).after(Lost::All).bytes(), b"kept");
        let next = disk.after(Lost::Nothing);
        next.sync_data().expect("works");
        assert_eq!(next.after(Lost::All).bytes(), b"lost\0\0\0\0");
    }

    #[test]
    fn a_power_cut_may_leave_any_of_the_unsynced_writes_whole() {
        let disk = with_old_and_new(3);
        let seen: BTreeSet<Vec<u8>> = (0..400)
            .map(|seed| {
                let after = disk.after(Lost::Some(seed)).bytes();
                let blocks = after.chunks(BLOCK as usize);
                blocks.map(|block| if block.iter().all(|b| *b == block[0]) { block[0] } else { b'?' }).collect()
            })
            .collect();
        assert_eq!(seen.len(), 8, "each subset of three: {seen:?}");
        assert!(seen.iter().all(|s| !s.contains(&b'?')));
    }

    #[test]
    fn a_power_cut_may_tear_a_write_at_a_byte_or_at_sectors() {
        let disk = with_old_and_new(1);
        let (mut at_byte, mut at_sectors) = (0, 0);
        for seed in 0..200 {
            let after = disk.after(Lost::Torn(seed)).bytes();
            let edges: Vec<usize> = (1..after.len()).filter(|i| after[*i] != after[i - 1]).collect();
            at_byte += usize::from(edges.len() == 1 && !edges[0].is_multiple_of(SECTOR));
            at_sectors += usize::from(edges.len() > 1);
            assert!(edges.len() <= 1 || edges.iter().all(|e| e.is_multiple_of(SECTOR)), "{edges:?}");
        }
        assert!(at_byte > 20 && at_sectors > 20, "{at_byte} {at_sectors}");
    }

    #[test]
    fn growth_that_was_lost_takes_what_was_written_there_with_it() {
        let disk = Disk::holding(b"old".to_vec());
        disk.set_len(6).expect("fits");
        disk.write(0, b"newnew").expect("fits");
        let seen: BTreeSet<Vec<u8>> = (0..100).map(|seed| disk.after(Lost::Some(seed)).bytes()).collect();
        let expected: [&[u8]; 4] = [b"new", b"newnew", b"old", b"old\0\0\0"];
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn the_nth_operation_fails_once_or_from_then_on() {
        let disk = Disk::holding(vec![0; 8]);
        disk.set_faults(DiskFaults { read: Fails::Once(1), change: Fails::From(2), ..DiskFaults::default() });
        let mut out = [0; 8];
        let reads: Vec<bool> = (0..4).map(|_| disk.read(0, &mut out).is_ok()).collect();
        assert_eq!(reads, [true, false, true, true]);
        let changes = [disk.set_len(8), disk.sync_data(), disk.write(0, b"x"), disk.sync_data(), disk.set_len(1)];
        assert_eq!(changes.map(|c| c.is_ok()), [true, true, false, false, false]);
        assert_eq!(disk.failed(), 4);
        assert_eq!(disk.len().expect("works"), 8);
        disk.set_faults(DiskFaults { sync: Fails::Once(0), ..DiskFaults::default() });
        disk.write(0, b"y").expect("the writes work");
        assert!(disk.sync_data().is_err());
        assert_eq!(disk.after(Lost::All).bytes()[0], 0, "a sync that failed has made nothing durable");
        disk.sync_data().expect("works again");
        assert_eq!(disk.after(Lost::All).bytes()[0], b'y');
    }

    #[test]
    fn a_full_disk_takes_what_is_written_over_and_nothing_new() {
        let disk = Disk::holding(vec![1; BLOCK as usize]);
        disk.set_len(4 * BLOCK).expect("a hole takes no room");
        assert_eq!(disk.used(), BLOCK);
        disk.set_faults(DiskFaults { room: Some(2 * BLOCK), ..DiskFaults::default() });
        disk.write(0, b"over").expect("its block is there");
        let error = disk.write(BLOCK, &vec![2; 2 * BLOCK as usize]).expect_err("only half of it fits");
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        assert_eq!(disk.bytes()[2 * BLOCK as usize - 1..][..2], [2, 0], "and half of it is there");
        disk.set_len(BLOCK).expect("shrinks");
        assert_eq!(disk.used(), BLOCK);
        // Still full for the next process.
        let next = disk.after(Lost::Nothing);
        next.set_len(4 * BLOCK).expect("a hole takes no room");
        assert!(next.write(BLOCK, &vec![2; 2 * BLOCK as usize]).is_err());
        next.set_faults(DiskFaults::default());
        next.write(BLOCK, &vec![2; 2 * BLOCK as usize]).expect("there is room again");
    }

    #[test]
    fn what_was_recorded_can_be_played_again() {
        let disk = Disk::holding(b"base".to_vec());
        disk.record();
        disk.set_len(6).expect("fits");
        disk.write(2, b"new").expect("fits");
        disk.sync_data().expect("works");
        disk.write(0, b"x").expect("fits");
        let again = Disk::holding(b"base".to_vec());
        again.play(&disk.recorded());
        assert_eq!(again.bytes(), disk.bytes());
        assert_eq!(again.after(Lost::All).bytes(), b"banew\0");
    }
}
