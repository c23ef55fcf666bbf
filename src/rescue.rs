//! `verify` and `export --salvage`: what is damaged in a store, and what of it holds.

use std::fs::{File, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use grasp_sync::config::RawConfig;
use grasp_sync::store::{Findings, Pages, StoreError, check_pages, salvage as salvage_events};

use crate::exit::{Exit, Failure, Remedy};
use crate::{existing_store, open_store, print, start_log, transfer};

/// Looks at every page of the store, at every event and at every entry of its tables.
///
/// # Errors
///
/// If the store is in use or cannot be read, or something in it does not hold.
pub fn verify(raw: &RawConfig) -> Result<Exit, Failure> {
    start_log("warn");
    let (path, cache_bytes) = existing_store(raw)?;
    let file = Locked::open(&path)?;
    let pages =
        check_pages(&|at, out| file.file.read_exact_at(out, at), file.len).map_err(|error| file.failure(error))?;
    // redb takes the lock itself.
    drop(file);
    let tables = open_store(&path, cache_bytes)
        .and_then(|store| store.verify().map_err(|error| Failure::Store { path: path.clone(), error }));
    let tables = match tables {
        Ok(findings) => Some(findings),
        // The pages have told already.
        Err(Failure::Store { error: StoreError::Corrupt | StoreError::NotAStore, .. }) if !pages.is_sound() => None,
        Err(failure) => return Err(failure),
    };
    match judge(&pages, tables.as_ref()) {
        None => {
            let Findings { events, forgotten, .. } = tables.unwrap_or_default();
            let forgotten = if forgotten == 0 {
                String::new()
            } else {
                format!("; {forgotten} were damaged once and are forgotten")
            };
            print(&format!("{} pages and {events} events hold{forgotten}\n", pages.all))
        }
        Some((found, remedy)) => Err(Failure::Damaged { path, found, remedy }),
    }
}

/// What is damaged, in words, and what to do; `None` if everything holds.
fn judge(pages: &Pages, tables: Option<&Findings>) -> Option<(String, Remedy)> {
    let mut found = Vec::new();
    let mut note = |count: u64, what: &str| {
        if count > 0 {
            found.push(format!("{count} {what}"));
        }
    };
    note(pages.no_header.into(), "header damaged");
    note(pages.others, "pages damaged");
    note(pages.of_events, "pages of events damaged");
    if let Some(tables) = tables {
        note(tables.broken, "events damaged");
        note(tables.missing, "entries of events missing in the indexes");
        note(tables.dangling, "entries name what is not there");
        note(tables.ids, "ids differ between the tables");
    }
    if tables.is_none() {
        found.push("the tables could not be compared".into());
    }
    let only_events = tables.is_some_and(|tables| (Findings { broken: 0, ..*tables }).is_sound())
        && !pages.no_header
        && pages.others == 0;
    let remedy = if only_events { Remedy::Start } else { Remedy::Salvage };
    (!found.is_empty()).then(|| (found.join(", "), remedy))
}

/// Writes every event that holds, and says what was lost.
///
/// # Errors
///
/// If the store is in use or cannot be read, the file cannot be written, or something was lost.
pub fn salvage(raw: &RawConfig, out: Option<&Path>) -> Result<Exit, Failure> {
    start_log("warn");
    let (path, _) = existing_store(raw)?;
    let file = Locked::open(&path)?;
    let mut salvaged = None;
    transfer::export(out, |line| {
        let read_at = |at: u64, out: &mut [u8]| file.file.read_exact_at(out, at);
        salvaged = Some(salvage_events(&read_at, file.len, line).map_err(|error| file.failure(error))?);
        Ok(())
    })?;
    let salvaged = salvaged.unwrap_or_default();
    for id in &salvaged.lost {
        // With standard error closed, the exit status still tells.
        let _ = writeln!(std::io::stderr(), "lost {id}");
    }
    if salvaged.lost.is_empty() && !salvaged.may_be_more {
        return Ok(Exit::Ok);
    }
    let more = if salvaged.may_be_more { ", and others may be lost that are listed nowhere" } else { "" };
    let found = format!("{} events written, {} lost{more}", salvaged.written, salvaged.lost.len());
    Err(Failure::Damaged { path, found, remedy: Remedy::Import })
}

/// The store's file, while no process has it open.
struct Locked {
    path: PathBuf,
    file: File,
    len: u64,
}

impl Locked {
    fn open(path: &Path) -> Result<Locked, Failure> {
        let failure = |error| Failure::File { path: path.to_path_buf(), error };
        let file = File::open(path).map_err(failure)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::Store { path: path.to_path_buf(), error: StoreError::Locked });
            }
            Err(TryLockError::Error(error)) => return Err(failure(error)),
        }
        let len = file.metadata().map_err(failure)?.len();
        Ok(Locked { path: path.to_path_buf(), file, len })
    }

    fn failure(&self, error: std::io::Error) -> Failure {
        Failure::File { path: self.path.clone(), error }
    }
}
