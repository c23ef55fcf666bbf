//! A disk that keeps only what was synced. redb works on one image; what it has not yet synced is also kept as a list,
//! so that a kill, in the strictest mode, leaves exactly the bytes of the last sync.

use redb::StorageBackend;
use std::io;
use std::sync::{Arc, Mutex};

#[derive(Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

impl Change {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Change::Write(offset, data) => {
                let offset = *offset as usize;
                image[offset..offset + data.len()].copy_from_slice(data);
            }
            Change::Length(len) => image.resize(*len as usize, 0),
        }
    }
}

#[derive(Debug, Default)]
struct Image {
    /// What reads see.
    current: Vec<u8>,
    /// What a power cut leaves.
    durable: Vec<u8>,
    /// What leads from `durable` to `current`.
    unsynced: Vec<Change>,
    syncs: u64,
}

/// A handle to one disk; clones are handles to the same one.
#[derive(Clone, Default)]
pub struct Disk(Arc<Mutex<Image>>);

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("len", &self.image().current.len()).finish()
    }
}

impl Disk {
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

    /// Another disk that holds what this one would hold after a power cut. The old handle goes on as a ghost: whatever
    /// a dying process still writes to it is lost.
    pub fn after_power_cut(&self) -> Disk {
        Disk::with(self.image().durable.clone())
    }

    /// Another disk that holds what this one's processes have written, synced or not.
    pub fn after_clean_exit(&self) -> Disk {
        Disk::with(self.image().current.clone())
    }

    fn with(bytes: Vec<u8>) -> Disk {
        Disk(Arc::new(Mutex::new(Image { current: bytes.clone(), durable: bytes, unsynced: Vec::new(), syncs: 0 })))
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
        let image = self.image();
        let offset = offset as usize;
        out.copy_from_slice(image.current.get(offset..offset + out.len()).ok_or_else(out_of_range)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.image().change(Change::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut image = self.image();
        image.syncs += 1;
        for change in std::mem::take(&mut image.unsynced) {
            change.apply(&mut image.durable);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut image = self.image();
        if offset as usize + data.len() > image.current.len() {
            return Err(out_of_range());
        }
        image.change(Change::Write(offset, data.to_vec()));
        Ok(())
    }
}

impl Image {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.current);
        self.unsynced.push(change);
    }
}

#[test]
fn a_power_cut_keeps_what_was_synced_and_nothing_else() {
    let disk = Disk::default();
    disk.set_len(4).expect("fits");
    disk.write(0, b"kept").expect("fits");
    disk.sync_data().expect("works");
    disk.write(0, b"lost").expect("fits");
    disk.set_len(8).expect("fits");
    let mut out = [0; 4];
    let cut = disk.after_power_cut();
    assert_eq!(cut.len().expect("works"), 4);
    cut.read(0, &mut out).expect("fits");
    assert_eq!(&out, b"kept");
    let clean = disk.after_clean_exit();
    assert_eq!(clean.len().expect("works"), 8);
    clean.read(0, &mut out).expect("fits");
    assert_eq!(&out, b"lost");
    assert!(disk.read(5, &mut out).is_err());
}
