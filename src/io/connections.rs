//! Every connection of the loop, with what the loop must know to come back to it: its deadline, and whether it has more
//! to read than its last turn allowed.

use std::collections::{BTreeMap, BTreeSet};

use mio::Token;
use mio::net::TcpStream;
use slab::Slab;

use crate::contract::LinkId;
use crate::io::crowd::Crowd;
use crate::io::dial::Dial;
use crate::io::inbound::Inbound;
use crate::io::link::Link;
use crate::limits::{LINK_AHEAD_TIME, LINK_CHEAP_MICROS};
use crate::shares::{Account, Share, Turns};
use crate::time::{Duration, Instant};

/// Tokens below this one are the loop's own: listeners, signals, the resolver.
pub const FIRST_TOKEN: usize = 1 << 16;

/// One connection.
#[derive(Debug)]
pub enum Connection {
    /// A relay on its way to a link, or being asked for its document.
    Dial(Box<Dial>),
    /// A client on its way to a link, or somebody who asks something over HTTP.
    Inbound(Inbound<TcpStream>),
    /// An open link.
    Open(Open),
    /// A link that the engine has forgotten, or has been told is gone.
    Closing(Box<Link<TcpStream>>),
}

/// An open link.
#[derive(Debug)]
pub struct Open {
    /// Its name.
    pub id: LinkId,
    /// The WebSocket.
    pub link: Box<Link<TcpStream>>,
    /// Who pays for it.
    pub account: Account,
    /// Whether the engine is owed [`crate::contract::Input::Drained`].
    pub sent: bool,
    /// What the links' memory was last told that it holds.
    pub held: usize,
    /// The message whose time to become whole runs.
    pub unfinished: Option<u64>,
}

impl Open {
    /// A link that has just opened.
    pub fn new(id: LinkId, link: Box<Link<TcpStream>>, account: Account) -> Open {
        Open { id, link, account, sent: false, held: 0, unfinished: None }
    }
}

#[derive(Debug)]
struct Slot {
    /// `None` only between [`Connections::take`] and [`Connections::put`].
    connection: Option<Connection>,
    deadline: Option<Instant>,
    share: Share,
}

/// The connections, each under a key that is also its token.
#[derive(Debug)]
pub struct Connections {
    slots: Slab<Slot>,
    keys: BTreeMap<LinkId, usize>,
    deadlines: BTreeSet<(Instant, usize)>,
    /// The ready list; what each takes is the microseconds of a processor that driving it takes.
    ready: Turns<usize>,
    crowd: Crowd,
}

impl Connections {
    /// None yet, of which those to relays are to be counted by this.
    pub fn new(crowd: Crowd) -> Connections {
        Connections {
            slots: Slab::new(),
            keys: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            ready: Turns::new(LINK_AHEAD_TIME.as_micros()),
            crowd,
        }
    }

    /// A relay that is being dialled, and where links lead.
    pub fn dial_mut(&mut self, key: usize) -> Option<(&mut Dial, &mut Crowd)> {
        match self.slots.get_mut(key)?.connection.as_mut()? {
            Connection::Dial(dial) => Some((dial, &mut self.crowd)),
            Connection::Inbound(_) | Connection::Open(_) | Connection::Closing(_) => None,
        }
    }

    /// The dial of our own whose handshake asks for this answer.
    pub fn dial_that_awaits(&self, accept: &str) -> Option<usize> {
        let awaits = |slot: &Slot| matches!(&slot.connection, Some(Connection::Dial(dial)) if dial.awaits(accept));
        self.slots.iter().find(|(_, slot)| awaits(slot)).map(|(key, _)| key)
    }

    /// The token of a key.
    pub fn token(key: usize) -> Token {
        Token(FIRST_TOKEN + key)
    }

    /// The key of a token, if it is one of a connection.
    pub fn key(token: Token) -> Option<usize> {
        token.0.checked_sub(FIRST_TOKEN)
    }

    /// The key that the next [`Connections::insert`] will take, so that a socket can be registered before.
    pub fn next_key(&self) -> usize {
        self.slots.vacant_key()
    }

    /// Takes a connection in.
    pub fn insert(&mut self, connection: Connection) -> usize {
        let id = link_of(&connection);
        let key = self.slots.insert(Slot { connection: Some(connection), deadline: None, share: Share::default() });
        if let Some(id) = id {
            let before = self.keys.insert(id, key);
            assert!(before.is_none(), "link numbers are never used twice");
        }
        key
    }

    /// Lets a connection go; dropping it closes its socket.
    pub fn remove(&mut self, key: usize) -> Option<Connection> {
        self.set_deadline(key, None);
        let connection = self.take(key);
        self.slots.try_remove(key)?;
        self.crowd.leave(Connections::token(key).0);
        connection
    }

    /// Takes a connection out to turn it into another one; [`Connections::put`] gives that back under the same key.
    pub fn take(&mut self, key: usize) -> Option<Connection> {
        let connection = self.slots.get_mut(key)?.connection.take()?;
        if let Some(id) = link_of(&connection) {
            self.keys.remove(&id);
        }
        Some(connection)
    }

    /// Puts a connection under the key from which one was taken: the same socket, further on its way.
    pub fn put(&mut self, key: usize, connection: Connection) {
        if let Some(id) = link_of(&connection) {
            self.keys.insert(id, key);
        }
        let before = self.slots[key].connection.replace(connection);
        assert!(before.is_none(), "a connection is put where one was taken");
    }

    /// A connection.
    pub fn get_mut(&mut self, key: usize) -> Option<&mut Connection> {
        self.slots.get_mut(key)?.connection.as_mut()
    }

    /// The key of a link, unless it is closing or gone.
    pub fn find(&self, id: LinkId) -> Option<usize> {
        self.keys.get(&id).copied()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Every key, for the end.
    pub fn all_keys(&self) -> Vec<usize> {
        self.slots.iter().map(|(key, _)| key).collect()
    }

    /// Sets, moves or lifts the moment at which [`Connections::poll_expired`] names this connection.
    pub fn set_deadline(&mut self, key: usize, deadline: Option<Instant>) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if slot.deadline == deadline {
            return;
        }
        if let Some(old) = slot.deadline {
            self.deadlines.remove(&(old, key));
        }
        if let Some(new) = deadline {
            self.deadlines.insert((new, key));
        }
        slot.deadline = deadline;
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// A connection whose deadline has come; its deadline is lifted.
    pub fn poll_expired(&mut self, now: Instant) -> Option<usize> {
        let (at, key) = *self.deadlines.first()?;
        if at > now {
            return None;
        }
        self.set_deadline(key, None);
        Some(key)
    }

    /// Driving a connection has taken so much time of a processor. The first of it counts for little: small questions go before
    /// large ones even if a hundred others together leave less for each than small ones take.
    pub fn note_used(&mut self, key: usize, took: Duration) {
        if let Some(slot) = self.slots.get_mut(key) {
            let beyond = took.as_micros().saturating_sub(LINK_CHEAP_MICROS);
            self.ready.note(key, &mut slot.share, beyond.max(took.as_micros() / 4));
        }
    }

    /// Puts a connection on the ready list, unless it is on it.
    pub fn make_ready(&mut self, key: usize) {
        if let Some(slot) = self.slots.get_mut(key) {
            self.ready.push(key, &mut slot.share);
        }
    }

    /// How many wait on the ready list.
    pub fn ready_len(&self) -> usize {
        self.ready.len()
    }

    /// The connection on the ready list whose turn it is.
    pub fn poll_ready(&mut self) -> Option<usize> {
        // A key outlives its connection on the list; the newcomer under it is then driven once for nothing, which any
        // connection must bear.
        self.ready.pop()
    }
}

fn link_of(connection: &Connection) -> Option<LinkId> {
    match connection {
        Connection::Dial(dial) => Some(dial.link()),
        Connection::Open(open) => Some(open.id),
        Connection::Inbound(_) | Connection::Closing(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::dial::DialPurpose;
    use crate::protocol::relay_url::RelayUrl;

    fn dial(n: u64) -> Connection {
        let url = RelayUrl::parse("ws://relay.example").unwrap();
        Connection::Dial(Box::new(Dial::new(LinkId::Relay(n), url, DialPurpose::Link, Instant::ZERO)))
    }

    #[test]
    fn deadlines_come_in_order_and_die_with_their_connection() {
        let mut connections = Connections::new(Crowd::default());
        let keys: Vec<_> = (0..3).map(|n| connections.insert(dial(n))).collect();
        connections.set_deadline(keys[0], Some(Instant::from_micros(30)));
        connections.set_deadline(keys[1], Some(Instant::from_micros(10)));
        connections.set_deadline(keys[2], Some(Instant::from_micros(20)));
        connections.set_deadline(keys[0], Some(Instant::from_micros(5)));
        connections.remove(keys[1]);
        assert_eq!(connections.next_deadline(), Some(Instant::from_micros(5)));
        assert_eq!(connections.poll_expired(Instant::from_micros(4)), None);
        assert_eq!(connections.poll_expired(Instant::from_micros(25)), Some(keys[0]));
        assert_eq!(connections.poll_expired(Instant::from_micros(25)), Some(keys[2]));
        assert_eq!(connections.poll_expired(Instant::from_micros(25)), None);
        assert_eq!(connections.next_deadline(), None);
    }

    #[test]
    fn a_connection_is_on_the_ready_list_once() {
        let mut connections = Connections::new(Crowd::default());
        let a = connections.insert(dial(1));
        let b = connections.insert(dial(2));
        connections.make_ready(a);
        connections.make_ready(b);
        connections.make_ready(a);
        assert_eq!(connections.ready_len(), 2);
        assert_eq!(connections.poll_ready(), Some(a));
        connections.make_ready(a);
        assert_eq!((connections.poll_ready(), connections.poll_ready()), (Some(b), Some(a)));
        assert_eq!(connections.poll_ready(), None);
    }

    #[test]
    fn a_link_is_found_until_it_closes() {
        let mut connections = Connections::new(Crowd::default());
        let key = connections.insert(dial(7));
        assert_eq!(connections.find(LinkId::Relay(7)), Some(key));
        connections.remove(key);
        assert_eq!(connections.find(LinkId::Relay(7)), None);
        assert!(connections.is_empty());
    }
}
