//! What a relay says of itself is asked first, seldom, and at no other cost.

use super::*;
use crate::contract::RetryAfter;
use crate::limits::RETRY_AFTER_MAX;
use crate::time::Duration;

const DOCUMENT: &str = r#"{"limitation":{"max_subscriptions":20}}"#;

/// What was put out since the last look: `?` for an inquiry, `>` for a dial, `x` for a link that is closed.
fn steps(rig: &mut Rig) -> String {
    let outputs = std::mem::take(&mut rig.bench.out);
    outputs
        .into_iter()
        .filter_map(|output| match output {
            Output::Inquire { .. } => Some('?'),
            Output::Dial { .. } => Some('>'),
            Output::Close { .. } => Some('x'),
            Output::Send { .. } | Output::Ping { .. } | Output::Hold { .. } => None,
        })
        .collect()
}

#[test]
fn a_relay_is_asked_what_it_is_before_it_is_dialled() {
    let mut rig = Rig::new(with_repo);
    rig.tick();
    assert_eq!((rig.state(), &*steps(&mut rig)), (StateName::Connecting, "?"));
    rig.answer_inquiry(Ok(DOCUMENT));
    assert_eq!((rig.state(), &*steps(&mut rig)), (StateName::Connecting, ">"));
    assert_eq!(rig.relay.budget().subscriptions(), 20);
    assert_eq!(rig.relay.budget().asked_at, rig.bench.now.wall);
    rig.open();
    assert_eq!(rig.state(), StateName::Catchup);
    assert_eq!(rig.bench.metrics.relay_info.count("read"), 1);
}

#[test]
fn a_relay_that_says_nothing_readable_is_dialled_all_the_same() {
    let silent = [CloseReason::Handshake(404), CloseReason::TooLarge, CloseReason::Io, CloseReason::Peer(1006)];
    for document in silent.into_iter().map(Err).chain([Ok("[]"), Ok("<html>")]) {
        let mut rig = Rig::new(with_repo);
        rig.relay.budget_mut().info = None;
        rig.tick();
        rig.answer_inquiry(document);
        assert_eq!((rig.state(), &*steps(&mut rig)), (StateName::Connecting, "?>"), "{document:?}");
        assert!(rig.relay.budget().info.is_none());
        let result = document.map_or_else(CloseReason::name, |_| "not_json");
        assert_eq!(rig.bench.metrics.relay_info.count(result), 1, "{document:?}");
    }
}

#[test]
fn an_inquiry_that_reaches_nobody_is_the_failed_dial() {
    for reason in [
        CloseReason::Resolve,
        CloseReason::PrivateAddress,
        CloseReason::Connect,
        CloseReason::Tls,
        CloseReason::Timeout,
    ] {
        let mut rig = Rig::new(with_repo);
        rig.tick();
        rig.answer_inquiry(Err(reason));
        assert_eq!((rig.state(), &*steps(&mut rig)), (StateName::Backoff, "?"), "{reason:?}");
        assert_eq!((rig.relay.health().failures(), rig.relay.totals().dials_failed), (1, 1));
        assert_eq!(rig.relay.entered().1, Why::LinkClosed(reason));
        assert_eq!(rig.bench.metrics.relay_links_closed.count(reason.name()), 1);
        rig.bench.advance(5);
        rig.tick();
        // Whoever can be reached after all has something to say; whoever lets us wait has had his turn.
        let again = if reason == CloseReason::Timeout { ">" } else { "?" };
        assert_eq!(steps(&mut rig), again, "{reason:?}");
    }
}

#[test]
fn an_inquiry_and_the_dial_behind_it_have_one_deadline() {
    let mut rig = Rig::new(with_repo);
    rig.tick();
    rig.bench.advance(20);
    rig.answer_inquiry(Err(CloseReason::Handshake(0)));
    assert_eq!(steps(&mut rig), "?>");
    rig.bench.advance(9);
    rig.tick();
    assert_eq!(rig.state(), StateName::Connecting);
    rig.bench.advance(1);
    rig.tick();
    assert_eq!((rig.state(), &*steps(&mut rig)), (StateName::Backoff, "x"));

    let mut rig = Rig::new(with_repo);
    rig.tick();
    rig.bench.advance(30);
    rig.tick();
    assert_eq!((rig.state(), &*steps(&mut rig)), (StateName::Backoff, "?x"));
    assert_eq!(rig.bench.metrics.relay_info.count("timeout"), 1);
    assert_eq!(rig.relay.links(), [None, None]);
}

#[test]
fn nobody_is_asked_twice_in_a_day() {
    for document in [Ok(DOCUMENT), Err(CloseReason::Handshake(404))] {
        let mut rig = Rig::new(with_repo);
        rig.tick();
        rig.answer_inquiry(document);
        for _ in 0..3 {
            rig.open();
            rig.answer_all();
            rig.bench.advance(3 * 3_600);
            rig.drop_link();
        }
        assert_eq!(steps(&mut rig), ">", "what came before was looked at with the texts");
        assert_eq!(rig.bench.metrics.relay_info.total(), 1);
    }
}

/// Says that it is busy for so many seconds.
fn busy(secs: u64) -> CloseReason {
    CloseReason::RetryAfter { status: 503, retry: RetryAfter::Wait(Duration::from_secs(secs)) }
}

#[test]
fn a_relay_that_says_it_is_busy_is_not_dialled_before_it_says() {
    let mut rig = Rig::new(with_repo);
    rig.tick();
    rig.answer_inquiry(Err(busy(100)));
    assert_eq!((rig.state(), &*steps(&mut rig)), (StateName::Backoff, "?"));
    assert_eq!(rig.relay.next_deadline(&rig.bench.cx()), Some(rig.bench.now.mono + Duration::from_secs(100)));
    rig.bench.advance(100);
    rig.tick();
    assert_eq!(steps(&mut rig), "?", "it may have more to say now");
    rig.answer_inquiry(Ok(DOCUMENT));
    rig.lose_link(busy(7_200));
    assert_eq!(rig.relay.next_deadline(&rig.bench.cx()), Some(rig.bench.now.mono + RETRY_AFTER_MAX));
}

#[test]
fn a_relay_that_says_so_beside_an_open_link_is_not_dialled_again_before() {
    let mut rig = at_daily_turn();
    rig.answer_inquiry(Err(busy(100)));
    rig.answer_all();
    let now = rig.bench.now.mono;
    let rest = rig.relay.rest(now, &rig.bench.settings.timing).expect("it is to wait if it is forgotten");
    assert_eq!(rest.until, now + Duration::from_secs(100));
    rig.bench.advance(60);
    rig.relay.on_alive(&mut rig.bench.cx());
    rig.drop_link();
    assert_eq!(rig.state(), StateName::Backoff, "however well it stands");
    assert_eq!(rig.relay.next_deadline(&rig.bench.cx()), Some(now + Duration::from_secs(100)));
    rig.bench.advance(40);
    rig.tick();
    assert_eq!(rig.state(), StateName::Connecting);
    assert_eq!(rig.relay.health().failures(), 0);
}

/// Live, and then its daily turn.
fn at_daily_turn() -> Rig {
    let mut rig = Rig::new(with_repo);
    rig.tick();
    rig.answer_inquiry(Ok(DOCUMENT));
    rig.open();
    rig.answer_all();
    steps(&mut rig);
    rig.bench.advance(86_400);
    rig.relay.on_alive(&mut rig.bench.cx());
    assert_eq!((rig.state(), rig.relay.entered().1), (StateName::Catchup, Why::DailyTurn));
    rig
}

#[test]
fn the_daily_turn_asks_again_beside_the_open_link() {
    let mut rig = at_daily_turn();
    let [link, inquiry] = rig.relay.links();
    assert!(link.is_some() && inquiry.is_some() && link != inquiry);
    rig.answer_inquiry(Ok(r#"{"limitation":{"max_subscriptions":7}}"#));
    assert_eq!(rig.relay.links(), [link, None]);
    assert_eq!(rig.relay.budget().subscriptions(), 7);
    assert_eq!(rig.relay.session().unwrap().budget().subscriptions(), 7);
    assert!(!steps(&mut rig).contains('x'));

    // What cannot be had leaves what was said before, and the link.
    let mut rig = at_daily_turn();
    rig.answer_inquiry(Err(CloseReason::Connect));
    assert_eq!(rig.relay.budget().subscriptions(), 20);
    assert_eq!((rig.state(), rig.relay.health().failures()), (StateName::Catchup, 0));
}

#[test]
fn a_relay_that_allows_fewer_than_are_open_has_the_newest_polled() {
    let mut rig = Rig::new(with_repo);
    rig.bench.settings.limits.filter_values_max = 1;
    for n in 0..40 {
        rig.seq += 1;
        rig.bench.state.add_root(root_id(n), rig.seq, &[addr(1, "a")]);
    }
    rig.open();
    let live = |rig: &Rig| rig.relay.session().unwrap().live_subscriptions();
    let polled = |rig: &Rig| rig.relay.session().unwrap().units().polled().count();
    assert_eq!(live(&rig), 8);
    let before = polled(&rig);
    rig.relay.on_notice("ERROR: too many concurrent REQs", &mut rig.bench.cx());
    rig.relay.on_notice("Subscription rejected: Too many subscriptions: at most 4", &mut rig.bench.cx());
    rig.relay.on_alive(&mut rig.bench.cx());
    assert!(live(&rig) <= 7, "{}", live(&rig));
    assert!(rig.relay.session().unwrap().open_subscriptions() <= 9);
    assert!(polled(&rig) > before);
}

#[test]
fn an_inquiry_beside_the_link_has_a_deadline_and_ends_with_the_link() {
    let mut rig = at_daily_turn();
    assert_eq!(steps(&mut rig), "?");
    rig.bench.advance(30);
    let deadline = rig.relay.next_deadline(&rig.bench.cx());
    assert!(deadline.is_some_and(|at| at <= rig.bench.now.mono));
    rig.tick();
    assert_eq!((rig.relay.inquiry(), &*steps(&mut rig)), (None, "x"));
    assert_eq!(rig.bench.metrics.relay_info.count("timeout"), 1);

    let mut rig = at_daily_turn();
    steps(&mut rig);
    rig.drop_link();
    assert_eq!((rig.state(), &*steps(&mut rig)), (StateName::Connecting, "x>"), "and is not asked anew");

    let mut rig = at_daily_turn();
    steps(&mut rig);
    rig.relay.close(Why::Unneeded, &mut rig.bench.cx());
    assert_eq!((rig.relay.links(), &*steps(&mut rig)), ([None, None], "xx"));
}

#[test]
fn a_late_or_foreign_answer_means_nothing() {
    let mut rig = Rig::new(with_repo);
    rig.tick();
    let link = rig.relay.inquiry().unwrap();
    rig.relay.on_answer(LinkId::Relay(99), Ok(DOCUMENT), &mut rig.bench.cx());
    assert_eq!(rig.relay.inquiry(), Some(link));
    rig.relay.on_opened(link, &mut rig.bench.cx());
    rig.relay.on_closed(link, CloseReason::Connect, &mut rig.bench.cx());
    assert_eq!(rig.state(), StateName::Connecting, "an inquiry is answered in no other way");
    rig.answer_inquiry(Ok(DOCUMENT));
    rig.relay.on_answer(link, Err(CloseReason::Connect), &mut rig.bench.cx());
    assert_eq!(rig.state(), StateName::Connecting);
    rig.open();
    assert_eq!(rig.state(), StateName::Catchup);
}

#[test]
fn what_a_relay_allows_is_known_whatever_becomes_of_its_link() {
    let mut rig = Rig::new(with_repo);
    let info = rig.relay.budget().info.clone().expect("it has said something");
    rig.open();
    assert_eq!(rig.relay.budget().info.as_ref(), Some(&info));
    rig.bench.advance(60);
    rig.relay.on_alive(&mut rig.bench.cx());
    rig.drop_link();
    assert_eq!((rig.state(), rig.relay.budget().info.as_ref()), (StateName::Connecting, Some(&info)));
    rig.open();
    rig.relay.close(Why::Unneeded, &mut rig.bench.cx());
    assert_eq!((rig.state(), rig.relay.budget().info.as_ref()), (StateName::Closing, Some(&info)));
}
