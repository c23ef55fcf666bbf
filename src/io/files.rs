//! How many files may be open, sockets among them, and how many links fit into that (spec section 16, "Files").
//!
//! A process without a file left is deaf: nobody comes in at its doors, and the store cannot be read. So what may be open
//! at most is reckoned at the start, and what does not fit is not promised.

use crate::io::resolver::RESOLVER_TOKENS;
use crate::limits::{HTTP_PENDING_MAX, Limits, OWN_FILES_MAX};

/// Files that are no links': who comes in at the two doors, questions to name servers, the store and what the process
/// itself needs.
const RESERVE: u64 = (2 * HTTP_PENDING_MAX + RESOLVER_TOKENS + OWN_FILES_MAX) as u64;

/// Raises the soft limit of open files to the hard one. Returns what may be open now.
pub fn raise_limit() -> u64 {
    match rlimit::increase_nofile_limit(rlimit::INFINITY) {
        Ok(files) => files,
        Err(e) => {
            log::warn!("cannot raise the limit of open files: {e}");
            rlimit::getrlimit(rlimit::Resource::NOFILE).map_or(u64::MAX, |(soft, _)| soft)
        }
    }
}

/// Lowers `relays_max` and `clients_max` to what fits into so many files, each by the same part. Says whether it had to.
/// With few, half of them is the reserve.
pub fn fit(limits: &mut Limits, files: u64) -> bool {
    let room = files - RESERVE.min(files / 2);
    let (relays, clients) = (limits.relays_max as u64, limits.clients_max as u64);
    let wanted = relays + clients;
    if wanted <= room {
        return false;
    }
    let part = |of: u64| usize::try_from((of * room / wanted).max(1)).expect("less than before");
    (limits.relays_max, limits.clients_max) = (part(relays), part(clients));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitted(files: u64) -> (bool, usize, usize) {
        let mut limits = Limits::default();
        let lowered = fit(&mut limits, files);
        (lowered, limits.relays_max, limits.clients_max)
    }

    #[test]
    fn what_fits_stays_and_what_does_not_is_lowered_by_the_same_part() {
        assert_eq!(fitted(u64::MAX), (false, 1_024, 512));
        assert_eq!(fitted(1_536 + RESERVE), (false, 1_024, 512));
        assert_eq!(fitted(1_535 + RESERVE), (true, 1_023, 511));
        assert_eq!(fitted(1_024), (true, 341, 170));
        assert_eq!(fitted(0), (true, 1, 1));
    }

    #[test]
    fn the_limit_is_the_hard_one() {
        let files = raise_limit();
        let (soft, hard) = rlimit::getrlimit(rlimit::Resource::NOFILE).unwrap();
        assert_eq!((soft, files), (hard, hard));
    }
}
