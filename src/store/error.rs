//! The closed list of ways in which the store can fail, and how redb's errors map onto it.

use super::damage::DamagedPage;
use std::fmt;
use std::io::{self, ErrorKind};

/// Why the store could not be opened, read or written. `Display` gives one line for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// Another process has the store open.
    Locked,
    /// The medium holds something, but no store of ours: another format, or another program's database.
    NotAStore,
    /// The store was written by a newer version of this program; nothing was changed.
    TooNew {
        /// The schema that the store was written with.
        version: u64,
    },
    /// The store is damaged: a checksum, a length or an entry is not what was written.
    Corrupt,
    /// The medium is full, or a quota on it is reached.
    Full,
    /// Reading or writing the medium failed.
    Io {
        /// What sort of failure, as far as the standard library has a word for it.
        kind: ErrorKind,
        /// The system's own number, which says more: a broken disk (EIO) has no word.
        os_code: Option<i32>,
    },
    /// An earlier operation failed, so the store takes no more; reopening it gives the last committed state.
    Failed,
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Locked => f.write_str("the store is in use by another process"),
            StoreError::NotAStore => f.write_str("the file is not a grasp-sync store"),
            StoreError::TooNew { version } => write!(
                f,
                "the store has schema {version}, written by a newer grasp-sync; this one knows up to {}",
                super::schema::VERSION
            ),
            StoreError::Corrupt => f.write_str("the store is damaged"),
            StoreError::Full => f.write_str("no space left for the store"),
            StoreError::Io { os_code: Some(code), .. } => {
                write!(f, "reading or writing the store failed: {}", io::Error::from_raw_os_error(*code))
            }
            StoreError::Io { kind, os_code: None } => write!(f, "reading or writing the store failed: {kind}"),
            StoreError::Failed => f.write_str("the store failed earlier and must be reopened"),
        }
    }
}

impl std::error::Error for StoreError {}

impl From<redb::StorageError> for StoreError {
    fn from(error: redb::StorageError) -> Self {
        match error {
            redb::StorageError::Corrupted(_) => StoreError::Corrupt,
            redb::StorageError::Io(error) => from_io(&error),
            redb::StorageError::Backend(_) => StoreError::Io { kind: ErrorKind::Other, os_code: None },
            redb::StorageError::Unsupported => StoreError::Io { kind: ErrorKind::Unsupported, os_code: None },
            // What is left: an earlier failure (`PreviousIo`, a poisoned lock), a closed database, or a value over
            // redb's 3 GiB, which no event reaches. redb may add more; none of them leaves a store to rely on.
            _ => StoreError::Failed,
        }
    }
}

fn from_io(error: &io::Error) -> StoreError {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => StoreError::Full,
        ErrorKind::UnexpectedEof | ErrorKind::InvalidData => StoreError::Corrupt,
        kind => StoreError::Io { kind, os_code: error.raw_os_error() },
    }
}

fn is_damage(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|error| error.is::<DamagedPage>())
}

impl From<redb::DatabaseError> for StoreError {
    fn from(error: redb::DatabaseError) -> Self {
        match error {
            redb::DatabaseError::DatabaseAlreadyOpen | redb::DatabaseError::LockProtocolMismatch => StoreError::Locked,
            redb::DatabaseError::UpgradeRequired(_) => StoreError::NotAStore,
            redb::DatabaseError::RepairAborted => StoreError::Corrupt,
            // redb's word for "no magic number at the start of the file".
            redb::DatabaseError::Storage(redb::StorageError::Io(error))
                if error.kind() == ErrorKind::InvalidData && !is_damage(&error) =>
            {
                StoreError::NotAStore
            }
            redb::DatabaseError::Storage(error) => error.into(),
            _ => StoreError::Failed,
        }
    }
}

impl From<redb::TableError> for StoreError {
    fn from(error: redb::TableError) -> Self {
        match error {
            redb::TableError::Storage(error) => error.into(),
            // A table that is missing or of another type is not what this schema wrote.
            _ => StoreError::Corrupt,
        }
    }
}

impl From<redb::TransactionError> for StoreError {
    fn from(error: redb::TransactionError) -> Self {
        match error {
            redb::TransactionError::Storage(error) => error.into(),
            _ => StoreError::Failed,
        }
    }
}

impl From<redb::CursorError> for StoreError {
    fn from(error: redb::CursorError) -> Self {
        match error {
            redb::CursorError::Storage(error) => error.into(),
            // What is new does not come last: the store holds a number that it never gave.
            _ => StoreError::Corrupt,
        }
    }
}

impl From<redb::CommitError> for StoreError {
    fn from(error: redb::CommitError) -> Self {
        match error {
            redb::CommitError::Storage(error) => error.into(),
            _ => StoreError::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_errors_keep_what_the_operator_needs() {
        let of = |kind: ErrorKind| StoreError::from(redb::StorageError::Io(kind.into()));
        assert_eq!(of(ErrorKind::StorageFull), StoreError::Full);
        assert_eq!(of(ErrorKind::QuotaExceeded), StoreError::Full);
        assert_eq!(of(ErrorKind::UnexpectedEof), StoreError::Corrupt);
        let denied = StoreError::Io { kind: ErrorKind::PermissionDenied, os_code: None };
        assert_eq!(of(ErrorKind::PermissionDenied), denied);
        let broken = StoreError::from(redb::StorageError::Io(io::Error::from_raw_os_error(5)));
        assert!(broken.to_string().contains("os error 5"), "{broken}");
        let opened = redb::DatabaseError::Storage(redb::StorageError::Io(ErrorKind::InvalidData.into()));
        assert_eq!(StoreError::from(opened), StoreError::NotAStore);
        assert_eq!(StoreError::from(redb::DatabaseError::DatabaseAlreadyOpen), StoreError::Locked);
    }

    #[test]
    fn each_error_is_one_line() {
        let all = [
            StoreError::Locked,
            StoreError::NotAStore,
            StoreError::TooNew { version: 9 },
            StoreError::Corrupt,
            StoreError::Full,
            StoreError::Io { kind: ErrorKind::PermissionDenied, os_code: Some(13) },
            StoreError::Failed,
        ];
        for error in all {
            let line = error.to_string();
            assert!(!line.is_empty() && !line.contains('\n'), "{line}");
        }
    }
}
