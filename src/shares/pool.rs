//! The memory that all links share: messages that are not whole, replies that are not read, filters of subscriptions.
//!
//! Each link may hold [`LINK_OWN_BYTES`] of its own. What it holds beyond comes out of the pool. When the pool is used up,
//! the account that holds most of it loses its largest link; so a newcomer is never the one who pays for the others.

use std::collections::BTreeMap;

use crate::limits::LINK_OWN_BYTES;
use crate::shares::Account;

/// Which part of the program holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// The shell: what was read and is no whole message yet, and what waits to be written.
    Shell,
    /// The engine: subscriptions, and what waits for them.
    Engine,
}

/// Memory shared by all links, which are known by some name.
#[derive(Debug)]
pub struct Pool<L> {
    bytes: usize,
    used: usize,
    links: BTreeMap<L, Share>,
}

/// What one link holds.
#[derive(Clone, Copy, Debug)]
struct Share {
    account: Account,
    shell: usize,
    engine: usize,
}

impl Share {
    fn held(&self) -> usize {
        self.shell + self.engine
    }

    fn pooled(&self) -> usize {
        self.held().saturating_sub(LINK_OWN_BYTES)
    }
}

impl<L: Ord + Copy> Pool<L> {
    /// A pool of so many bytes, of which nothing is used.
    pub fn new(bytes: usize) -> Pool<L> {
        Pool { bytes, used: 0, links: BTreeMap::new() }
    }

    /// A link holds so much now, in place of what the same holder said before.
    pub fn set(&mut self, link: L, account: Account, holder: Holder, bytes: usize) {
        let share = self.links.entry(link).or_insert(Share { account, shell: 0, engine: 0 });
        self.used -= share.pooled();
        match holder {
            Holder::Shell => share.shell = bytes,
            Holder::Engine => share.engine = bytes,
        }
        self.used += share.pooled();
        if share.held() == 0 {
            self.links.remove(&link);
        }
    }

    /// A link is gone, with all that it held.
    pub fn remove(&mut self, link: L) {
        self.used -= self.links.remove(&link).map_or(0, |share| share.pooled());
    }

    /// Bytes of the pool in use.
    pub fn used(&self) -> usize {
        self.used
    }

    /// The link that has to go because the pool is used up; to be asked again once it is [removed](Pool::remove). `None`
    /// when there is room.
    pub fn excess(&self) -> Option<L> {
        if self.used <= self.bytes {
            return None;
        }
        let mut accounts: BTreeMap<Account, usize> = BTreeMap::new();
        for share in self.links.values() {
            *accounts.entry(share.account).or_default() += share.pooled();
        }
        // Of two that hold the same, the later in order: any choice would do, but equal runs must choose alike.
        let (account, _) = accounts.into_iter().max_by_key(|(_, pooled)| *pooled)?;
        let its_own = self.links.iter().filter(|(_, share)| share.account == account);
        its_own.max_by_key(|(_, share)| share.pooled()).map(|(link, _)| *link)
    }

    /// Panics if the sums contradict the parts. For tests and fuzz targets.
    pub fn assert_invariants(&self) {
        assert_eq!(self.used, self.links.values().map(Share::pooled).sum::<usize>());
        assert!(self.links.values().all(|share| share.held() > 0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(n: u8) -> Account {
        Account::of([192, 0, 2, n].into())
    }

    #[test]
    fn a_link_has_its_own_bytes_before_it_uses_the_pool() {
        let mut pool = Pool::new(1_000);
        pool.set(1, account(1), Holder::Shell, LINK_OWN_BYTES);
        assert_eq!((pool.used(), pool.excess()), (0, None));
        pool.set(1, account(1), Holder::Engine, 1_000);
        assert_eq!((pool.used(), pool.excess()), (1_000, None));
        pool.set(1, account(1), Holder::Engine, 1_001);
        assert_eq!(pool.excess(), Some(1));
        pool.remove(1);
        pool.assert_invariants();
        assert_eq!((pool.used(), pool.excess()), (0, None));
    }

    #[test]
    fn the_account_that_holds_most_loses_its_largest_link_and_a_larger_newcomer_none() {
        let mut pool = Pool::new(10_100);
        for n in 0..8_u64 {
            pool.set(n, account(1), Holder::Shell, LINK_OWN_BYTES + 1_000 + n as usize);
        }
        pool.set(8, account(2), Holder::Shell, LINK_OWN_BYTES + 5_000);
        assert_eq!(pool.excess(), Some(7));
        pool.remove(7);
        assert_eq!(pool.excess(), Some(6));
        pool.remove(6);
        assert_eq!(pool.excess(), Some(5));
        pool.remove(5);
        assert_eq!(pool.excess(), None);
        pool.assert_invariants();
    }

    /// Against a model that keeps nothing but what was said last.
    #[test]
    fn nothing_is_charged_twice_or_never_released() {
        let mut state = 1_u64;
        let mut draw = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        let mut pool = Pool::new(500_000);
        let mut said: BTreeMap<u64, [usize; 2]> = BTreeMap::new();
        for _ in 0..20_000 {
            let n = draw(32);
            match draw(8) {
                0 => {
                    said.remove(&n);
                    pool.remove(n);
                }
                holder => {
                    let bytes = if draw(4) == 0 { 0 } else { draw(200_000) as usize };
                    let (at, holder) = if holder < 4 { (0, Holder::Shell) } else { (1, Holder::Engine) };
                    said.entry(n).or_default()[at] = bytes;
                    pool.set(n, account((n % 5) as u8), holder, bytes);
                }
            }
            let over = |held: &[usize; 2]| (held[0] + held[1]).saturating_sub(LINK_OWN_BYTES);
            assert_eq!(pool.used(), said.values().map(over).sum::<usize>());
            pool.assert_invariants();
            while let Some(gone) = pool.excess() {
                let sum = |account: u64| said.iter().filter(|(n, _)| *n % 5 == account).map(|(_, h)| over(h)).sum();
                let sums: Vec<usize> = (0..5).map(sum).collect();
                assert_eq!(sums[(gone % 5) as usize], *sums.iter().max().unwrap());
                said.remove(&gone);
                pool.remove(gone);
            }
            assert!(pool.used() <= 500_000);
        }
    }
}
