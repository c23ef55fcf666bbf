//! Accounts, the pool of memory, places, rates and the crowd against models that know nothing but what was said: nothing is
//! ever charged twice or never released.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::io::crowd::Crowd;
use crate::io::http::Door;
use crate::io::places::Places;
use crate::limits::{
    ADDRESS_LINKS_MAX, ADMIN_DOCUMENTS_MAX, HTTP_PENDING_MAX, HTTP_PENDING_PER_ACCOUNT, LINK_OWN_BYTES, Rate,
};
use crate::protocol::address::is_public;
use crate::shares::pool::Holder;
use crate::shares::{Account, Buckets, Pool};
use crate::time::{Duration, Instant};

/// Steps of one run. Beyond: the rest of the bytes is ignored.
const STEPS_MAX: usize = 4_096;
/// Some are one account's, some are exempt.
const ADDRESSES: [&str; 8] = [
    "192.0.2.1",
    "::ffff:192.0.2.1",
    "203.0.113.9",
    "9.9.9.9",
    "2606:4700:1:2::1",
    "2606:4700:1:2:ffff::",
    "2606:4700:1:3::1",
    "127.0.0.1",
];
const POOL_BYTES: usize = 1 << 20;
const CLIENTS_MAX: usize = 12;
const CLIENTS_PER_ACCOUNT: usize = 4;
const RATE: Rate = Rate::per_second(2, 5);

/// What strangers do to all of them, four bytes a step: what, who, and how much.
pub fn shares(data: &[u8]) {
    let [how, data @ ..] = data else { return };
    let mut run = Run::new(how & 1 == 0);
    for step in data.chunks_exact(4).take(STEPS_MAX) {
        run.step(step[0], step[1], u16::from_le_bytes([step[2], step[3]]));
        run.check();
    }
    run.release_all();
}

fn address(n: u8) -> IpAddr {
    ADDRESSES[usize::from(n) % ADDRESSES.len()].parse().expect("an address")
}

/// One in sixteen is a proxy.
fn account(n: u8) -> Account {
    if n >> 4 == 0xf { Account::of_proxy(address(n)) } else { Account::of(address(n)) }
}

struct Run {
    loopback_exempt: bool,
    now: Instant,
    pool: Pool<u8>,
    /// What each link was last said to hold, shell and engine.
    held: BTreeMap<u8, [usize; 2]>,
    places: Places,
    came: usize,
    /// In the order in which they came.
    pending: Vec<(usize, Door, Account)>,
    documents: Vec<usize>,
    clients: Vec<Account>,
    buckets: Buckets<Account>,
    /// Of each account the microseconds that it has saved, and when that was counted.
    saved: BTreeMap<Account, (u64, Instant)>,
    crowd: Crowd,
    dialled: BTreeMap<usize, Account>,
}

impl Run {
    fn new(loopback_exempt: bool) -> Run {
        Run {
            loopback_exempt,
            now: Instant::ZERO,
            pool: Pool::new(POOL_BYTES),
            held: BTreeMap::new(),
            places: Places::new(CLIENTS_MAX, CLIENTS_PER_ACCOUNT, loopback_exempt),
            came: 0,
            pending: Vec::new(),
            documents: Vec::new(),
            clients: Vec::new(),
            buckets: Buckets::new(RATE),
            saved: BTreeMap::new(),
            crowd: Crowd::new(Vec::new(), loopback_exempt),
            dialled: BTreeMap::new(),
        }
    }

    fn step(&mut self, what: u8, who: u8, much: u16) {
        match what % 12 {
            0 | 1 => self.hold(who, usize::from(what >> 4 & 1), usize::from(much) << (what >> 5)),
            2 => {
                self.held.remove(&(who % 32));
                self.pool.remove(who % 32);
            }
            3 => self.now = self.now + Duration::from_millis(much.into()),
            4 => self.come(if what & 16 == 0 { Door::Public } else { Door::Admin }, account(who)),
            5 => self.leave(much),
            6 => self.reassign(much, account(who)),
            7 => self.become_client(much),
            8 => self.end_client(much),
            9 => self.take(account(who)),
            10 => self.dial(usize::from(much % 64), address(who)),
            _ if what & 16 == 0 => self.hang_up(usize::from(much % 64)),
            _ => self.ask_for_document(much),
        }
    }

    fn hold(&mut self, link: u8, at: usize, bytes: usize) {
        let (link, holder) = (link % 32, [Holder::Shell, Holder::Engine][at]);
        self.held.entry(link).or_default()[at] = bytes;
        self.pool.set(link, account(link), holder, bytes);
        while let Some(gone) = self.pool.excess() {
            let of = |wanted: Account| -> usize {
                self.held.iter().filter(|(link, _)| account(**link) == wanted).map(|(_, held)| pooled(held)).sum()
            };
            let most = self.held.keys().map(|link| of(account(*link))).max();
            assert_eq!(Some(of(account(gone))), most, "who holds most loses");
            self.held.remove(&gone);
            self.pool.remove(gone);
        }
    }

    fn is_exempt(&self, account: Account) -> bool {
        account.is_exempt(self.loopback_exempt)
    }

    fn pending_of(&self, door: Door, account: Account) -> impl Iterator<Item = usize> {
        let of_account = move |other: &&(usize, Door, Account)| (other.1, other.2) == (door, account);
        self.pending.iter().filter(of_account).map(|(key, ..)| *key)
    }

    fn come(&mut self, door: Door, account: Account) {
        let at_door: Vec<_> = self.pending.iter().filter(|(_, other, _)| *other == door).collect();
        let in_the_way = self.places.in_the_way(door, account);
        if !self.is_exempt(account) && self.pending_of(door, account).count() >= HTTP_PENDING_PER_ACCOUNT {
            assert_eq!(in_the_way, self.pending_of(door, account).next(), "its own oldest");
        } else if at_door.len() < HTTP_PENDING_MAX {
            assert_eq!(in_the_way, None, "there is room");
        } else {
            let (_, _, whose) = at_door.iter().find(|(key, ..)| Some(*key) == in_the_way).expect("one at this door");
            let most = at_door.iter().map(|(_, _, other)| self.pending_of(door, *other).count()).max();
            assert_eq!(Some(self.pending_of(door, *whose).count()), most, "who holds most makes room");
        }
        in_the_way.into_iter().for_each(|key| self.forget_pending(key));
        self.places.add_pending(self.came, door, account);
        self.pending.push((self.came, door, account));
        self.came += 1;
    }

    fn forget_pending(&mut self, key: usize) {
        self.pending.retain(|(other, ..)| *other != key);
        self.documents.retain(|other| *other != key);
        self.places.remove_pending(key);
    }

    fn pick(&self, nth: u16) -> Option<(usize, Door, Account)> {
        self.pending.get(usize::from(nth) % self.pending.len().max(1)).copied()
    }

    fn leave(&mut self, nth: u16) {
        let Some((key, ..)) = self.pick(nth) else { return };
        self.forget_pending(key);
        self.places.remove_pending(key);
    }

    fn reassign(&mut self, nth: u16, account: Account) {
        let Some((key, door, before)) = self.pick(nth).filter(|(.., before)| *before != account) else { return };
        let too_many = self.pending_of(door, account).count() >= HTTP_PENDING_PER_ACCOUNT && !self.is_exempt(account);
        let oldest = self.pending_of(door, account).next().filter(|_| too_many);
        assert_eq!(self.places.reassign(key, account), oldest, "from {before:?}");
        let reassigned = self.pending.iter_mut().find(|(other, ..)| *other == key).expect("it was picked");
        reassigned.2 = account;
        oldest.into_iter().for_each(|key| self.forget_pending(key));
    }

    fn ask_for_document(&mut self, nth: u16) {
        let Some((key, ..)) = self.pick(nth).filter(|(key, ..)| !self.documents.contains(key)) else { return };
        self.documents.push(key);
        let oldest = self.documents.first().copied().filter(|_| self.documents.len() > ADMIN_DOCUMENTS_MAX);
        assert_eq!(self.places.add_document(key), oldest);
        oldest.into_iter().for_each(|key| self.forget_pending(key));
    }

    fn clients_of(&self, account: Account) -> usize {
        self.clients.iter().filter(|other| **other == account).count()
    }

    fn has_room(&self, account: Account) -> bool {
        let has_share = self.is_exempt(account) || self.clients_of(account) < CLIENTS_PER_ACCOUNT;
        self.clients.len() < CLIENTS_MAX && has_share
    }

    fn become_client(&mut self, nth: u16) {
        let Some((key, _, account)) = self.pick(nth) else { return };
        assert_eq!(self.places.pending(key), Some(account));
        assert_eq!(self.places.has_room(account), self.has_room(account), "{account:?}");
        let has_room = self.has_room(account);
        self.forget_pending(key);
        if has_room {
            self.places.add_client(account);
            self.clients.push(account);
        }
    }

    fn end_client(&mut self, nth: u16) {
        if !self.clients.is_empty() {
            let account = self.clients.swap_remove(usize::from(nth) % self.clients.len());
            self.places.remove_client(account);
        }
    }

    /// Tokens as they are explained: some are saved each moment, no more than a bucket holds, and each act costs one.
    fn take(&mut self, account: Account) {
        let (token, now) = (RATE.interval.as_micros(), self.now);
        let full = token * RATE.burst;
        let (saved, at) = self.saved.get(&account).copied().unwrap_or((full, now));
        let saved = full.min(saved + now.since(at).as_micros());
        let may = saved >= token;
        assert_eq!(self.buckets.has(&account, now), may);
        assert_eq!(self.buckets.take(account, now), may);
        self.saved.insert(account, (if may { saved - token } else { saved }, now));
    }

    fn dial(&mut self, key: usize, address: IpAddr) {
        self.dialled.remove(&key);
        let account = Account::of(address);
        let is_exempt = self.loopback_exempt && !is_public(address);
        let has_room = self.dialled.values().filter(|other| **other == account).count() < ADDRESS_LINKS_MAX;
        assert_eq!(self.crowd.enter(key, address), is_exempt || has_room);
        if has_room && !is_exempt {
            self.dialled.insert(key, account);
        }
    }

    fn hang_up(&mut self, key: usize) {
        self.dialled.remove(&key);
        self.crowd.leave(key);
    }

    fn check(&self) {
        self.pool.assert_invariants();
        self.places.assert_invariants();
        assert_eq!(self.pool.used(), self.held.values().map(pooled).sum::<usize>());
        assert!(self.pool.used() <= POOL_BYTES);
        let whose = self.clients.iter().chain(self.pending.iter().map(|(.., account)| account));
        whose.for_each(|account| assert_eq!(self.places.has_room(*account), self.has_room(*account)));
        assert!(self.pending.iter().all(|(key, _, account)| self.places.pending(*key) == Some(*account)));
    }

    /// When all have gone, everything is as if nobody had come.
    fn release_all(mut self) {
        (0..32).for_each(|link| self.pool.remove(link));
        assert_eq!((self.pool.used(), self.pool.excess()), (0, None));
        (0..self.came).for_each(|key| self.places.remove_pending(key));
        self.clients.drain(..).for_each(|account| self.places.remove_client(account));
        self.places.assert_invariants();
        for n in 0..=u8::MAX {
            assert!(self.places.has_room(account(n)));
            assert_eq!(self.places.in_the_way(Door::Public, account(n)), None);
        }
        (0..64).for_each(|key| self.crowd.leave(key));
        for n in 0..ADDRESSES.len() as u8 {
            assert!((0..ADDRESS_LINKS_MAX).all(|key| self.crowd.enter(key, address(n))));
            (0..ADDRESS_LINKS_MAX).for_each(|key| self.crowd.leave(key));
        }
        self.now = self.now + RATE.interval.saturating_mul(RATE.burst);
        for account in self.saved.keys() {
            assert!((0..RATE.burst).all(|_| self.buckets.take(*account, self.now)));
        }
    }
}

/// What of it a link does not have as its own.
fn pooled(held: &[usize; 2]) -> usize {
    (held[0] + held[1]).saturating_sub(LINK_OWN_BYTES)
}
