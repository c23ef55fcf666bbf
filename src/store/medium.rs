//! What lies between redb and the medium, for one purpose. redb makes a new database in several steps and marks it as one
//! with the last; what is left if the process, the power or the room on the disk ends before that, redb refuses like any
//! foreign file. It never held anything, so it counts as empty here, and the next start makes the store anew.

use redb::{BackendError, StorageBackend};
use std::io::Error;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};

/// How every redb database begins.
const MAGIC: [u8; 9] = *b"redb\x1a\x0a\xa9\x0d\x0a";
/// What redb writes before it writes the magic number; the rest of a new database is still zero then.
const HEADER_LEN: usize = 320;
/// More than the length at which redb makes a new database.
const NEW_LEN_MAX: u64 = 1 << 20;

/// A backend on which a creation that was cut short is no more.
#[derive(Debug)]
pub(super) struct Medium<B> {
    backend: B,
    was_looked_at: AtomicBool,
}

impl<B: StorageBackend> Medium<B> {
    pub(super) fn new(backend: B) -> Medium<B> {
        Medium { backend, was_looked_at: AtomicBool::new(false) }
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

impl<B: StorageBackend> StorageBackend for Medium<B> {
    fn len(&self) -> Result<u64, Error> {
        // redb has locked the medium before it asks for the first time: nobody else is making a store of it.
        if !self.was_looked_at.swap(true, Ordering::Relaxed) && self.is_unfinished()? {
            self.backend.set_len(0)?;
        }
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.backend.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        self.backend.set_len(len)
    }

    fn sync_data(&self) -> Result<(), Error> {
        self.backend.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.backend.write(offset, data)
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
