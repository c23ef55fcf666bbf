//! What follows when a relay says that it takes fewer subscriptions than are open.

use super::*;
use crate::limits::RELAY_SUBSCRIPTIONS_UNTOLD;

/// A machine in its first catch-up, with one live subscription and four pages open.
fn busy() -> Rig {
    let mut rig = Rig::new(|bench| {
        for n in 0..6 {
            bench.state.set_announcement(&announcement(1, &format!("repo-{n}"), &["one"]), n + 1);
        }
        for n in 0..60 {
            bench.state.add_root(root_id(n), u64::from(n) + 10, &[addr(1, "repo-0")]);
        }
        RelayProgress::default()
    });
    rig.open();
    rig
}

fn open(rig: &Rig) -> usize {
    rig.relay.session().map_or(0, Session::open_subscriptions)
}

#[test]
fn any_number_that_a_relay_names_closes_what_is_open_beyond_it() {
    assert_eq!(open(&busy()), 5);
    let sent = busy().bench.sent();
    for said in ["0", "1", "2", "3", "5", "100", "18446744073709551616", "99999999999999999999999", ""] {
        for nth in [0, 1, 4, 9] {
            let mut rig = busy();
            let name = reqs(&sent).get(nth).map_or("b99", |text| text.split('"').nth(3).expect("a name"));
            let why = format!("error: too many subscriptions, at most {said} at once");
            rig.relay.on_subscription_closed(name, &why, &mut rig.bench.cx());
            let allowed = rig.relay.budget().subscriptions();
            assert!(open(&rig) <= allowed, "{name}, {said}: {} of {allowed}", open(&rig));
            assert!(name == "b99" || allowed < RELAY_SUBSCRIPTIONS_UNTOLD, "{name}, {said}: nothing is learned");
            rig.answer_all();
            assert_eq!(rig.state(), StateName::Live, "{name}, {said}");
            assert_eq!(rig.relay.progress().confirmed_repos().count(), 6, "{name}, {said}: every page is asked again");
        }
    }
}

#[test]
fn a_document_that_allows_less_closes_what_is_open_beyond_it() {
    for said in [0, 1, 2, 3] {
        let mut rig = busy();
        rig.relay.budget_mut().info = Some(RelayInfo { max_subscriptions: Some(said), ..RelayInfo::default() });
        let mut cx = rig.bench.cx();
        rig.relay.tell(&mut cx, |session, cx| session.pump(cx));
        assert!(open(&rig) <= rig.relay.budget().subscriptions(), "{said}: {}", open(&rig));
        rig.answer_all();
        assert_eq!(rig.state(), StateName::Live, "{said}");
    }
}
