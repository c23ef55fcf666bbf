//! Where relays' links lead: not to ourselves, and not too many to one address (spec section 16, "Places").
//!
//! URLs are cheap and names are cheap, but an address is somebody's. So whatever the names say, it is the address about to
//! be dialled that is judged, like by the guard against private ones.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::limits::ADDRESS_LINKS_MAX;
use crate::protocol::address::is_public;
use crate::shares::Account;

/// The links to relays, by the account of their address, dialled and closing ones included; and our own doors.
#[derive(Debug, Default)]
pub struct Crowd {
    doors: Vec<SocketAddr>,
    /// Whether private addresses take as many links as there are.
    private_exempt: bool,
    accounts: BTreeMap<usize, Account>,
    links: BTreeMap<Account, usize>,
}

impl Crowd {
    /// Nobody yet. `doors`: where we listen.
    pub fn new(doors: Vec<SocketAddr>, private_exempt: bool) -> Crowd {
        Crowd { doors, private_exempt, ..Crowd::default() }
    }

    /// Whether `address` is one on which we listen ourselves.
    pub fn is_own(&self, address: SocketAddr) -> bool {
        let (ip, port) = (address.ip(), address.port());
        self.doors
            .iter()
            .filter(|door| door.port() == port)
            .any(|door| door.ip() == ip || ip.is_unspecified() || door.ip().is_unspecified() && is_of_this_machine(ip))
    }

    /// The connection `key` is about to lead to `address`, and to none where it led before. False if too many do.
    pub fn enter(&mut self, key: usize, address: IpAddr) -> bool {
        self.leave(key);
        if self.private_exempt && !is_public(address) {
            return true;
        }
        let account = Account::of(address);
        let links = self.links.entry(account).or_default();
        let has_room = *links < ADDRESS_LINKS_MAX;
        if has_room {
            *links += 1;
            self.accounts.insert(key, account);
        }
        has_room
    }

    /// The connection `key` leads nowhere any more.
    pub fn leave(&mut self, key: usize) {
        let Some(account) = self.accounts.remove(&key) else { return };
        let links = self.links.get_mut(&account).expect("who leaves has entered");
        *links -= 1;
        if *links == 0 {
            self.links.remove(&account);
        }
    }
}

/// Whether the kernel lets a socket of ours have this address. It asks nobody and sends nothing.
fn is_of_this_machine(ip: IpAddr) -> bool {
    UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_takes_sixteen_links_and_each_that_goes_makes_room() {
        let mut crowd = Crowd::new(Vec::new(), true);
        for key in 0..ADDRESS_LINKS_MAX {
            assert!(crowd.enter(key, ip("9.9.9.9")));
        }
        assert!(!crowd.enter(99, ip("9.9.9.9")) && crowd.enter(99, ip("9.9.9.8")));
        crowd.leave(3);
        assert!(crowd.enter(100, ip("9.9.9.9")));
        assert!(crowd.enter(5, ip("9.9.9.7")), "one that goes elsewhere");
        assert!(crowd.enter(101, ip("9.9.9.9")) && !crowd.enter(102, ip("9.9.9.9")));
        (0..200).for_each(|key| crowd.leave(key));
        assert!(crowd.accounts.is_empty() && crowd.links.is_empty());
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let mut crowd = Crowd::new(Vec::new(), true);
        for key in 0..ADDRESS_LINKS_MAX {
            assert!(crowd.enter(key, ip(&format!("2606:4700::{key:x}"))));
        }
        assert!(!crowd.enter(99, ip("2606:4700::ffff:1")) && crowd.enter(99, ip("2606:4700:0:1::1")));
    }

    #[test]
    fn private_addresses_are_exempt_if_the_operator_wants_it() {
        for (exempt, takes_more) in [(true, true), (false, false)] {
            let mut crowd = Crowd::new(Vec::new(), exempt);
            (0..ADDRESS_LINKS_MAX).for_each(|key| assert!(crowd.enter(key, ip("127.0.0.1"))));
            assert_eq!(crowd.enter(99, ip("127.0.0.1")), takes_more);
        }
    }

    #[test]
    fn our_own_doors_are_known_whatever_leads_there() {
        let door = |text: &str| text.parse::<SocketAddr>().unwrap();
        let crowd = Crowd::new(vec![door("127.0.0.1:7334"), door("0.0.0.0:7335")], true);
        for own in ["127.0.0.1:7334", "0.0.0.0:7334", "127.0.0.1:7335", "127.8.8.8:7335"] {
            assert!(crowd.is_own(door(own)), "{own}");
        }
        for other in ["127.0.0.2:7334", "127.0.0.1:7336", "9.9.9.9:7335", "9.9.9.9:7334"] {
            assert!(!crowd.is_own(door(other)), "{other}");
        }
    }
}
