//! Who has a place at the own relay (spec section 16): connections that are not yet a link or answered, and clients, both
//! by their accounts. Where places run out, those who hold most of them make room, the oldest first.

use std::collections::{BTreeMap, VecDeque};

use crate::io::http::Door;
use crate::limits::{ADMIN_DOCUMENTS_MAX, CONNECTION_RATE, HTTP_PENDING_MAX, HTTP_PENDING_PER_ACCOUNT};
use crate::shares::{Account, Buckets};
use crate::time::Instant;

/// Places taken.
#[derive(Debug)]
pub struct Places {
    clients_max: usize,
    clients_per_account: usize,
    /// Whether this machine itself is free of what goes by account: a proxy may stand there for everybody.
    loopback_exempt: bool,
    clients: BTreeMap<Account, usize>,
    connections: Buckets<Account>,
    /// By the key of the connection and in the order in which they came.
    pending: BTreeMap<u64, Pending>,
    orders: BTreeMap<usize, u64>,
    came: u64,
    /// Connections with a document that was not taken, the oldest first.
    documents: VecDeque<usize>,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    key: usize,
    door: Door,
    account: Account,
}

impl Places {
    /// None is taken.
    pub fn new(clients_max: usize, clients_per_account: usize, loopback_exempt: bool) -> Places {
        Places {
            clients_max,
            clients_per_account,
            loopback_exempt,
            clients: BTreeMap::new(),
            connections: Buckets::new(CONNECTION_RATE),
            pending: BTreeMap::new(),
            orders: BTreeMap::new(),
            came: 0,
            documents: VecDeque::new(),
        }
    }

    /// Whether an account may connect once more now.
    pub fn may_connect(&mut self, now: Instant, account: Account) -> bool {
        self.is_exempt(account) || self.connections.take(account, now)
    }

    /// The connection that must go for another one to come in at this door.
    pub fn in_the_way(&self, door: Door, account: Account) -> Option<usize> {
        let at_door = || self.pending.values().filter(|pending| pending.door == door);
        let of = |account| at_door().filter(move |pending| pending.account == account);
        if !self.is_exempt(account) && of(account).count() >= HTTP_PENDING_PER_ACCOUNT {
            return of(account).next().map(|pending| pending.key);
        }
        if at_door().count() < HTTP_PENDING_MAX {
            return None;
        }
        let mut held: BTreeMap<Account, usize> = BTreeMap::new();
        at_door().for_each(|pending| *held.entry(pending.account).or_default() += 1);
        let (most, _) = held.into_iter().max_by_key(|(_, count)| *count)?;
        of(most).next().map(|pending| pending.key)
    }

    /// A connection has come in.
    pub fn add_pending(&mut self, key: usize, door: Door, account: Account) {
        self.came += 1;
        self.pending.insert(self.came, Pending { key, door, account });
        let before = self.orders.insert(key, self.came);
        assert!(before.is_none(), "a connection comes in once");
    }

    /// Whose a connection is that has come in.
    pub fn pending(&self, key: usize) -> Option<Account> {
        self.pending.get(self.orders.get(&key)?).map(|pending| pending.account)
    }

    /// A connection that came in is another's than it seemed. The connection of that one which must go for it.
    pub fn reassign(&mut self, key: usize, account: Account) -> Option<usize> {
        let door = self.pending.get(self.orders.get(&key)?)?.door;
        let of_account = || self.pending.values().filter(|other| other.door == door && other.account == account);
        let too_many = !self.is_exempt(account) && of_account().count() >= HTTP_PENDING_PER_ACCOUNT;
        let in_the_way = of_account().next().filter(|_| too_many).map(|other| other.key);
        if let Some(pending) = self.orders.get(&key).and_then(|order| self.pending.get_mut(order)) {
            pending.account = account;
        }
        in_the_way
    }

    /// A connection has become a link, or is gone.
    pub fn remove_pending(&mut self, key: usize) {
        if let Some(order) = self.orders.remove(&key) {
            self.pending.remove(&order);
            self.documents.retain(|holder| *holder != key);
        }
    }

    /// A connection that came in gets a document. The one that must go for it.
    pub fn add_document(&mut self, key: usize) -> Option<usize> {
        self.documents.push_back(key);
        if self.documents.len() > ADMIN_DOCUMENTS_MAX { self.documents.front().copied() } else { None }
    }

    /// Whether a client of this account finds a place.
    pub fn has_room(&self, account: Account) -> bool {
        self.clients.values().sum::<usize>() < self.clients_max
            && (self.is_exempt(account) || self.clients_of(account) < self.clients_per_account)
    }

    /// A client has come.
    pub fn add_client(&mut self, account: Account) {
        *self.clients.entry(account).or_default() += 1;
    }

    /// A client is gone.
    pub fn remove_client(&mut self, account: Account) {
        let left = self.clients_of(account).checked_sub(1).expect("a client that goes has come");
        if left == 0 {
            self.clients.remove(&account);
        } else {
            self.clients.insert(account, left);
        }
    }

    /// Panics if the parts contradict each other. For tests and fuzz targets.
    pub fn assert_invariants(&self) {
        assert_eq!(self.orders.len(), self.pending.len());
        assert!(self.orders.iter().all(|(key, order)| self.pending[order].key == *key));
        assert!(self.documents.iter().all(|key| self.orders.contains_key(key)));
        assert!(self.clients.values().all(|count| *count > 0));
    }

    fn clients_of(&self, account: Account) -> usize {
        self.clients.get(&account).copied().unwrap_or(0)
    }

    fn is_exempt(&self, account: Account) -> bool {
        account.is_exempt(self.loopback_exempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(n: u8) -> Account {
        Account::of([192, 0, 2, n].into())
    }

    fn loopback() -> Account {
        Account::of([127, 0, 0, 1].into())
    }

    #[test]
    fn an_account_may_connect_so_often_and_this_machine_as_it_likes() {
        let mut places = Places::new(5, 2, true);
        let many = CONNECTION_RATE.burst + 10;
        let connected = |places: &mut Places, account| {
            (0..many).filter(|_| places.may_connect(Instant::ZERO, account)).count() as u64
        };
        assert_eq!(connected(&mut places, account(1)), CONNECTION_RATE.burst);
        assert_eq!(connected(&mut places, account(2)), CONNECTION_RATE.burst);
        assert_eq!(connected(&mut places, loopback()), many);
    }

    #[test]
    fn an_account_has_a_share_of_the_clients_and_this_machine_all() {
        let mut places = Places::new(5, 2, true);
        for _ in 0..2 {
            assert!(places.has_room(account(1)));
            places.add_client(account(1));
        }
        assert!(!places.has_room(account(1)) && places.has_room(account(2)));
        for _ in 0..3 {
            assert!(places.has_room(loopback()));
            places.add_client(loopback());
        }
        assert!(!places.has_room(account(2)) && !places.has_room(loopback()));
        places.remove_client(account(1));
        assert!(places.has_room(account(1)) && places.has_room(account(2)));
        let mut places = Places::new(5, 2, false);
        places.add_client(loopback());
        places.add_client(loopback());
        assert!(!places.has_room(loopback()));
    }

    #[test]
    fn whoever_comes_once_too_often_loses_the_oldest_of_its_own() {
        let mut places = Places::new(5, 2, true);
        for key in 0..HTTP_PENDING_PER_ACCOUNT {
            assert_eq!(places.in_the_way(Door::Public, account(1)), None);
            places.add_pending(key, Door::Public, account(1));
        }
        assert_eq!(places.in_the_way(Door::Public, account(1)), Some(0));
        assert_eq!(places.in_the_way(Door::Public, account(2)), None);
        assert_eq!(places.in_the_way(Door::Admin, account(1)), None);
        assert_eq!(places.pending(0), Some(account(1)));
        places.remove_pending(0);
        places.remove_pending(0);
        assert_eq!(places.pending(0), None);
        assert_eq!(places.in_the_way(Door::Public, account(1)), None);
    }

    #[test]
    fn what_a_proxy_passes_on_counts_for_whom_it_is() {
        let mut places = Places::new(5, 2, true);
        let proxy = Account::of_proxy([192, 0, 2, 9].into());
        for key in 0..=HTTP_PENDING_PER_ACCOUNT {
            assert_eq!(places.in_the_way(Door::Public, proxy), None);
            places.add_pending(key, Door::Public, proxy);
            let in_the_way = (key == HTTP_PENDING_PER_ACCOUNT).then_some(0);
            assert_eq!(places.reassign(key, account(1)), in_the_way);
            assert_eq!(places.pending(key), Some(account(1)));
        }
        assert_eq!(places.reassign(99, account(1)), None, "it is gone");
    }

    #[test]
    fn a_document_too_many_drops_the_oldest() {
        let mut places = Places::new(5, 2, true);
        for key in 0..ADMIN_DOCUMENTS_MAX {
            places.add_pending(key, Door::Admin, loopback());
            assert_eq!(places.add_document(key), None);
        }
        places.remove_pending(0);
        assert_eq!(places.add_document(10), None);
        assert_eq!(places.add_document(11), Some(1));
    }

    #[test]
    fn a_full_door_lets_go_of_who_holds_most_of_it() {
        let mut places = Places::new(5, 2, true);
        places.add_pending(0, Door::Public, account(1));
        for key in 1..HTTP_PENDING_MAX {
            places.add_pending(key, Door::Public, loopback());
        }
        assert_eq!(places.in_the_way(Door::Public, account(2)), Some(1));
        assert_eq!(places.in_the_way(Door::Admin, account(2)), None);
    }
}
