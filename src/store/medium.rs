//! What lies between redb and the medium, for two purposes.
//!
//! Every page that is read is compared with the checksum under which it is named (`pages`, `ledger`): redb itself does so
//! only when it repairs a file. So redb never works on a page that the medium has changed: it gets an error instead, or,
//! of a page of events, what of it holds (`damage`).
//!
//! And redb makes a new database in several steps and marks it as one with the last; what is left if the process, the
//! power or the room on the disk ends before that, redb refuses like any foreign file. It never held anything, so it
//! counts as empty here, and the next start makes the store anew.

use super::damage::{self, Damage, DamagedPage};
use super::ledger::{Checked, Ledger};
use super::pages::{HEADER_LEN, Header, MAGIC, Role};
use redb::{BackendError, StorageBackend};
use std::io::{Error, ErrorKind};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

/// More than the length at which redb makes a new database.
const NEW_LEN_MAX: u64 = 1 << 20;

/// What the store sees of its medium while redb has it.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pub damage: Damage,
    /// redb looks at all checksums by itself while it opens a file that was not closed: what a crash has torn is no
    /// damage, and it takes the commit before.
    is_repairing: AtomicBool,
    is_open: AtomicBool,
    ledger: Mutex<Ledger>,
}

impl Watch {
    /// redb has opened the file.
    pub(super) fn on_opened(&self) {
        self.is_open.store(true, Ordering::Relaxed);
        self.is_repairing.store(false, Ordering::Relaxed);
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("nobody panics with the lock")
    }

    fn on_header(&self, bytes: &[u8; HEADER_LEN], file_len: u64) -> Result<(), Error> {
        let header = Header::of(bytes).ok_or_else(damaged)?;
        let is_opening = !self.is_open.load(Ordering::Relaxed);
        self.is_repairing.store(header.is_unclean && is_opening, Ordering::Relaxed);
        let mut ledger = self.ledger();
        (ledger.geometry, ledger.file_len) = (header.geometry, file_len);
        // The last commit has the last word.
        header.slots.into_iter().rev().flatten().for_each(|root| ledger.learn(root));
        Ok(())
    }

    fn on_page(&self, at: u64, page: &mut [u8]) -> Result<(), Error> {
        let shape = match self.ledger().check(at, page) {
            Checked::Holds => return Ok(()),
            _ if self.is_repairing.load(Ordering::Relaxed) => return Ok(()),
            Checked::Damaged(shape) => shape,
            Checked::Unnamed => None,
        };
        let shape = shape.filter(|shape| shape.role == Role::Events).ok_or_else(damaged)?;
        let blanked = damage::blank(page, shape).ok_or_else(damaged)?;
        blanked.into_iter().for_each(|(seq, id)| self.damage.note(seq, id));
        Ok(())
    }
}

#[cold]
fn damaged() -> Error {
    Error::new(ErrorKind::InvalidData, DamagedPage)
}

/// A backend of which nothing damaged is read, and on which a creation that was cut short is no more. The backend outlives
/// it: a store that finds no room is opened on it anew.
#[derive(Debug)]
pub(super) struct Medium {
    backend: Arc<dyn StorageBackend>,
    was_looked_at: AtomicBool,
    watch: Arc<Watch>,
}

impl Medium {
    pub(super) fn new(backend: Arc<dyn StorageBackend>, watch: Arc<Watch>) -> Medium {
        Medium { backend, was_looked_at: AtomicBool::new(false), watch }
    }

    /// Whether this is what redb leaves of a creation before it ends. Some of the magic number may be there.
    fn is_unfinished(&self) -> Result<bool, Error> {
        let len = self.backend.len()?;
        if len < HEADER_LEN as u64 || len > NEW_LEN_MAX {
            return Ok(false);
        }
        let mut magic = [0; MAGIC.len()];
        self.backend.read(0, &mut magic)?;
        let written = magic.iter().zip(MAGIC).take_while(|(byte, expected)| *byte == expected).count();
        if written == MAGIC.len() || magic[written..].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        let mut rest = vec![0; len as usize - HEADER_LEN];
        self.backend.read(HEADER_LEN as u64, &mut rest)?;
        Ok(rest.iter().all(|byte| *byte == 0))
    }
}

impl StorageBackend for Medium {
    fn len(&self) -> Result<u64, Error> {
        // redb has locked the medium before it asks for the first time: nobody else is making a store of it.
        if !self.was_looked_at.swap(true, Ordering::Relaxed) && self.is_unfinished()? {
            self.backend.set_len(0)?;
        }
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.backend.read(offset, out)?;
        match (offset, out.first_chunk()) {
            (0, Some(header)) => self.watch.on_header(header, self.backend.len()?),
            // Only whether it is a redb file at all.
            (0, None) => Ok(()),
            _ => self.watch.on_page(offset, out),
        }
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        self.backend.set_len(len)?;
        self.watch.ledger().file_len = len;
        Ok(())
    }

    fn sync_data(&self) -> Result<(), Error> {
        self.backend.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.backend.write(offset, data)?;
        if offset > 0 {
            self.watch.ledger().wrote(offset, data);
        }
        Ok(())
    }

    fn close(&self) -> Result<(), Error> {
        self.backend.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.backend.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.backend.query_lock_range(start, end)
    }
}
