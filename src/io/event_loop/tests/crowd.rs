//! Where links lead: not to ourselves, and not too many to one address.

use super::*;
use crate::limits::ADDRESS_LINKS_MAX;

fn dial(world: &mut World, link: u64, url: &str) {
    let url = RelayUrl::parse(url).unwrap();
    world.core.outputs.push_back(Output::Dial { link: LinkId::Relay(link), url });
}

#[test]
fn our_own_doors_are_never_dialled_whatever_the_path() {
    let mut world = World::new();
    let (public, admin) = (world.event_loop.local_addr().port(), world.event_loop.admin_addr().port());
    for (link, url) in [format!("ws://127.0.0.1:{public}/x1"), format!("ws://127.0.0.1:{admin}")].iter().enumerate() {
        let link = link as u64;
        dial(&mut world, link, url);
        world.until(|t| *t == Told::Closed(LinkId::Relay(link), CloseReason::OwnAddress));
    }
    let url = RelayUrl::parse(&format!("ws://0.0.0.0:{public}")).unwrap();
    world.core.outputs.push_back(Output::Inquire { link: LinkId::Relay(9), url });
    world.until(|t| *t == Told::Info(LinkId::Relay(9), Err(CloseReason::OwnAddress)));
    assert!(!world.core.told.iter().any(|t| matches!(t, Told::Accepted(_))));
}

#[test]
fn an_address_is_dialled_by_sixteen_links_at_once_whatever_their_ports() {
    let victims: Vec<TcpListener> = (0..2).map(|_| TcpListener::bind(ANY_PORT).unwrap()).collect();
    let url = |n: usize| format!("ws://127.0.0.1:{}/{n}", victims[n % 2].local_addr().unwrap().port());
    let mut world = World::with(|o| o.loopback_exempt = false);
    (0..ADDRESS_LINKS_MAX).for_each(|n| dial(&mut world, n as u64, &url(n)));
    dial(&mut world, 98, &url(0));
    let full = |link| Told::Closed(LinkId::Relay(link), CloseReason::AddressFull);
    world.until(|t| *t == full(98));
    assert_eq!(world.core.told, [full(98)], "the others still wait for an answer");
    world.core.outputs.push_back(Output::Close { link: LinkId::Relay(3), code: 1000 });
    dial(&mut world, 99, &url(0));
    dial(&mut world, 100, &url(1));
    world.until(|t| *t == full(100));
    assert_eq!(world.core.told, [full(98), full(100)], "one place was free");
}
