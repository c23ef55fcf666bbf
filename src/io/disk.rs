//! How much room there is for the store's file, and on the disk that it is on.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use log::warn;

use crate::shares::room::Space;

/// Bytes in which the system counts what a file takes of the disk (`st_blocks`).
const BLOCK_BYTES: u64 = 512;

/// The disk of one file, which exists.
#[derive(Debug)]
pub struct Disk {
    file: PathBuf,
    /// A failure to look has been logged.
    has_failed: bool,
}

impl Disk {
    /// Of the file at this path.
    pub fn of(file: &Path) -> Disk {
        Disk { file: file.to_path_buf(), has_failed: false }
    }

    /// What there is; `None` if the system does not say. Free is what this user may use of it; quotas are not looked at.
    pub fn space(&mut self) -> Option<Space> {
        let space = rustix::fs::statvfs(&self.file).map_err(std::io::Error::from).and_then(|disk| {
            let store = fs::metadata(&self.file)?.blocks().saturating_mul(BLOCK_BYTES);
            Ok(Space { disk_free: disk.f_bavail.saturating_mul(disk.f_frsize), store })
        });
        match space {
            Ok(space) => Some(space),
            Err(error) => {
                if !std::mem::replace(&mut self.has_failed, true) {
                    warn!("{}: cannot tell how much room there is: {error}", self.file.display());
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_takes_what_was_written_of_it_and_one_that_is_not_there_is_not_known() {
        let dir = std::env::temp_dir().join(format!("grasp-sync-disk-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("file");
        let mut disk = Disk::of(&path);
        assert_eq!(disk.space(), None);
        fs::write(&path, vec![1; 1 << 20]).unwrap();
        let space = disk.space().unwrap();
        assert!(space.disk_free > 0);
        fs::File::options().write(true).open(&path).unwrap().set_len(1 << 30).unwrap();
        let longer = disk.space().unwrap();
        assert!(longer.store >= 1 << 20 && longer.store < 1 << 29, "{longer:?}: its length alone takes nothing");
        fs::remove_dir_all(&dir).unwrap();
    }
}
