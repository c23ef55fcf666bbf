//! The file with our secret key. It is used only if nobody else can read it: a key that others may have seen is no
//! longer ours alone, and its owner should know.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::limits::AUTH_KEY_FILE_BYTES_MAX;
use crate::protocol::auth::AuthKey;

/// Why an `auth_key_file` cannot be used. Nothing of what it holds is ever repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFileError {
    /// The file cannot be read.
    Unreadable(io::ErrorKind),
    /// Others than its owner may read or change it: the lowest nine bits of its mode.
    Open(u32),
    /// It does not hold one secret key and nothing else.
    NotAKey,
}

impl fmt::Display for KeyFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyFileError::Unreadable(kind) => write!(f, "cannot be read: {kind}"),
            KeyFileError::Open(mode) => {
                write!(f, "is open to others than its owner (mode {mode:03o}); chmod 600, or use another key")
            }
            KeyFileError::NotAKey => f.write_str("does not hold one secret key, nsec1… or 64 hex digits"),
        }
    }
}

impl std::error::Error for KeyFileError {}

/// The mode's bits for group and others.
const OTHERS: u32 = 0o077;

/// Reads the key. White space around it is no part of it.
///
/// # Errors
///
/// If the file cannot be read, is open to others, or holds anything else than one key.
pub fn read_key(path: &Path) -> Result<AuthKey, KeyFileError> {
    let unreadable = |error: io::Error| KeyFileError::Unreadable(error.kind());
    let file = File::open(path).map_err(unreadable)?;
    // Of the file that was opened: another may have taken its name since.
    let mode = file.metadata().map_err(unreadable)?.mode() & 0o777;
    if mode & OTHERS != 0 {
        return Err(KeyFileError::Open(mode));
    }
    let mut bytes = Vec::new();
    file.take(AUTH_KEY_FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    let text = std::str::from_utf8(&bytes).ok().filter(|text| text.len() <= AUTH_KEY_FILE_BYTES_MAX);
    text.and_then(|text| AuthKey::parse(text.trim())).ok_or(KeyFileError::NotAKey)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    const HEX: &str = "67dea2ed018072d675f5415ecfaed7d2597555e202d85b3d65ea4e58d2d92ffa";

    fn read(name: &str, text: &str, mode: u32) -> Result<AuthKey, KeyFileError> {
        let path = std::env::temp_dir().join(format!("grasp-sync-{}-{name}", std::process::id()));
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let read = read_key(&path);
        fs::remove_file(&path).unwrap();
        read
    }

    #[test]
    fn a_key_of_ones_own_is_read() {
        for (n, text) in [HEX.to_owned(), format!("  {HEX}\n"), format!("{HEX}\r\n\n")].into_iter().enumerate() {
            for mode in [0o600, 0o400, 0o700] {
                assert!(read(&format!("own-{n}"), &text, mode).is_ok(), "{text:?} {mode:o}");
            }
        }
    }

    #[test]
    fn a_file_that_others_can_read_or_change_is_refused_whatever_it_holds() {
        for mode in [0o640, 0o604, 0o644, 0o620, 0o602, 0o601, 0o666] {
            assert_eq!(read("open", HEX, mode).unwrap_err(), KeyFileError::Open(mode));
            assert_eq!(read("open", "", mode).unwrap_err(), KeyFileError::Open(mode));
        }
    }

    #[test]
    fn anything_but_one_key_is_refused_and_not_repeated() {
        let two = format!("{HEX}\n{HEX}\n");
        let long = format!("{HEX}{}", " ".repeat(AUTH_KEY_FILE_BYTES_MAX));
        for text in ["", "hunter2", &two, &long, &HEX[1..]] {
            let error = read("bad", text, 0o600).unwrap_err();
            assert_eq!(error, KeyFileError::NotAKey);
            assert!(text.is_empty() || !error.to_string().contains(text));
        }
        let error = read_key(Path::new("/nowhere/at/all")).unwrap_err();
        assert_eq!(error, KeyFileError::Unreadable(io::ErrorKind::NotFound));
    }
}
