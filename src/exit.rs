//! How the process ends: one status per kind of ending, one line on standard error for each failure.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use grasp_sync::config::ConfigError;
use grasp_sync::io::event_loop::BindError;
use grasp_sync::io::secret::KeyFileError;
use grasp_sync::io::tls::TlsError;
use grasp_sync::store::StoreError;

use crate::cli::UsageError;

/// Exit statuses. The README's table says the same for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or stopped by a signal.
    Ok = 0,
    /// An import that went to its end, but not every line could be taken.
    ImportIncomplete = 1,
    /// A mistake in the command line or the configuration; trying again changes nothing.
    Usage = 2,
    /// Another process has the store open.
    StoreLocked = 3,
    /// The store's file is damaged, is no store, or was written by a newer version.
    StoreUnusable = 4,
    /// An address to listen on is taken or not ours.
    CannotBind = 5,
    /// Reading or writing failed: disk full, permissions, a failing medium.
    Io = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Why a command failed.
#[derive(Debug)]
pub enum Failure {
    /// The command line.
    Usage(UsageError),
    /// The configuration.
    Config(ConfigError),
    /// The certificate authorities.
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: TlsError,
    },
    /// The secret key.
    AuthKeyFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: KeyFileError,
    },
    /// An address to listen on, or the event loop's means.
    Bind(BindError),
    /// Waiting for the sockets failed.
    Poll(io::ErrorKind),
    /// There is no store to read.
    NoStore {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The store.
    Store {
        /// Its file.
        path: PathBuf,
        /// What went wrong.
        error: StoreError,
    },
    /// Something in the store does not hold.
    Damaged {
        /// Its file.
        path: PathBuf,
        /// What was found, in words.
        found: String,
        /// What is to be done.
        remedy: Remedy,
    },
    /// A file named on the command line cannot be opened.
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file to export to is there already.
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Reading or writing a file or directory failed.
    File {
        /// The file, or a name for a standard stream.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// What to do about a damaged store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Only events are damaged: they are forgotten as they are met, and fetched again.
    Start,
    /// What holds is to be brought into a new store.
    Salvage,
    /// It has been salvaged already.
    Import,
}

impl Remedy {
    fn words(self) -> &'static str {
        match self {
            Remedy::Start => {
                "the next run forgets what it meets of this and fetches it again; \
                 or write what holds with `export --salvage FILE`, move this file away, and `import --no-policy FILE`"
            }
            Remedy::Salvage => {
                "write what holds with `export --salvage FILE`, move this file away, and `import --no-policy FILE`; \
                 without the import the next start fetches everything again"
            }
            Remedy::Import => "what holds was written: move this file away, and `import --no-policy` what was written",
        }
    }
}

impl Failure {
    /// The status to exit with.
    pub fn exit(&self) -> Exit {
        match self {
            Failure::Usage(_) | Failure::Config(_) | Failure::NoStore { .. } => Exit::Usage,
            Failure::Open { .. } | Failure::Exists { .. } => Exit::Usage,
            Failure::CaFile { .. } | Failure::AuthKeyFile { .. } => Exit::Usage,
            Failure::Bind(BindError::Listen(..) | BindError::AdminListen(..)) => Exit::CannotBind,
            Failure::Bind(BindError::System(_)) | Failure::Poll(_) => Exit::Io,
            Failure::Store { error, .. } => store_exit(*error),
            Failure::Damaged { .. } => Exit::StoreUnusable,
            Failure::File { .. } => Exit::Io,
        }
    }
}

fn store_exit(error: StoreError) -> Exit {
    match error {
        StoreError::Locked => Exit::StoreLocked,
        StoreError::NotAStore | StoreError::TooNew { .. } | StoreError::Corrupt => Exit::StoreUnusable,
        StoreError::Full | StoreError::Io { .. } | StoreError::Failed => Exit::Io,
    }
}

/// One line, with what to do about it where that is not plain.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(error) => error.fmt(f),
            Failure::Config(error) => error.fmt(f),
            Failure::CaFile { path, error } => write!(f, "{}: ca_file {error}", path.display()),
            Failure::AuthKeyFile { path, error } => write!(f, "{}: auth_key_file {error}", path.display()),
            Failure::Bind(error @ BindError::System(_)) => error.fmt(f),
            Failure::Bind(error) => write!(f, "{error}; stop what listens there, or choose another address"),
            Failure::Poll(error) => write!(f, "waiting for sockets failed: {error}"),
            Failure::NoStore { path } => write!(f, "{}: there is no store here; check data_dir", path.display()),
            Failure::Store { path, error } => {
                write!(f, "{}: {error}", path.display())?;
                if let StoreError::Corrupt = error {
                    return write!(f, "; {}", Remedy::Salvage.words());
                }
                f.write_str(match error {
                    StoreError::Locked => "; stop it first, or use another data_dir",
                    StoreError::NotAStore => "; check data_dir",
                    StoreError::TooNew { .. } => "; use that version",
                    StoreError::Full => "; make room and start again, nothing acknowledged is lost",
                    StoreError::Io { .. } | StoreError::Failed | StoreError::Corrupt => "",
                })
            }
            Failure::Damaged { path, found, remedy } => {
                write!(f, "{}: {found}; {}", path.display(), remedy.words())
            }
            Failure::Open { path, error } => write!(f, "{}: cannot open: {error}", path.display()),
            Failure::Exists { path } => {
                write!(f, "{}: exists already; move it away or give another name", path.display())
            }
            Failure::File { path, error } => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl From<UsageError> for Failure {
    fn from(error: UsageError) -> Self {
        Failure::Usage(error)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::Config(error)
    }
}
