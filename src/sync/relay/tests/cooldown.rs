//! What follows when the relay says that we ask too fast.

use super::*;

#[test]
fn a_rate_limit_silences_us_for_65_seconds_on_the_same_link() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    let first = rig.bench.sent();
    let name = |n: usize| reqs(&first)[n].split('"').nth(3).expect("a name");
    rig.relay.on_subscription_closed(name(1), "rate-limited: slow down", &mut rig.bench.cx());
    rig.relay.on_eose(name(2), &mut rig.bench.cx());
    assert!(reqs(&rig.bench.sent()).is_empty(), "nothing is asked while it cools down");
    rig.bench.advance(64);
    rig.relay.on_alive(&mut rig.bench.cx());
    rig.tick();
    assert!(reqs(&rig.bench.sent()).is_empty());
    rig.bench.advance(1);
    rig.tick();
    let again = rig.bench.sent();
    let question = |text: &str| text.split_once(',').unwrap().1.split_once(',').unwrap().1.to_owned();
    let refused = question(reqs(&first)[1]);
    assert!(reqs(&again).iter().any(|text| question(text) == refused), "the refused page is asked again");
    assert_eq!(rig.relay.health().failures(), 0, "no failure");
}

#[test]
fn a_daily_turn_that_is_due_in_a_cooldown_waits_for_its_end() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    rig.answer_all();
    rig.bench.advance(86_390);
    rig.relay.on_notice("rate limited", &mut rig.bench.cx());
    rig.bench.advance(20);
    rig.tick();
    let deadline = rig.relay.next_deadline(&rig.bench.cx()).expect("a deadline");
    assert!(deadline > rig.bench.now.mono, "a deadline that brings nothing would come for ever");
    rig.bench.advance(45);
    rig.tick();
    assert_eq!(rig.state(), StateName::Catchup);
}

#[test]
fn what_a_long_rate_limit_missed_is_claimed_by_nothing() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    let live = "l0";
    rig.answer_all();
    let lost_at = rig.bench.now.wall;
    rig.relay.on_subscription_closed(live, "rate-limited: slow down", &mut rig.bench.cx());
    for _ in 0..40 {
        rig.bench.advance(60);
        rig.relay.on_notice("rate limited", &mut rig.bench.cx());
        rig.tick();
    }
    rig.bench.advance(20);
    rig.relay.on_alive(&mut rig.bench.cx());
    assert!(rig.bench.sent().is_empty());
    rig.bench.advance(45);
    rig.tick();
    let again = rig.bench.sent();
    let name = again[0].split('"').nth(3).unwrap().to_owned();
    assert!(again[0].contains(&format!("\"since\":{}", lost_at.minus_secs(900))), "{}", again[0]);
    rig.relay.on_alive(&mut rig.bench.cx());
    assert_eq!(rig.relay.progress().through(), lost_at, "it has not answered yet");
    rig.relay.on_subscription_closed(&name, "rate-limited: slow down", &mut rig.bench.cx());
    assert_eq!(rig.relay.session().unwrap().units().complete(), Some(lost_at));
    assert_eq!(rig.relay.progress().through(), lost_at);
}

#[test]
fn what_a_rate_limit_missed_is_swept_if_one_page_may_not_hold_it() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    rig.answer_all();
    rig.relay.on_subscription_closed("l0", "rate-limited: slow down", &mut rig.bench.cx());
    let lost_at = rig.bench.now.wall;
    rig.bench.advance(25);
    rig.relay.on_alive(&mut rig.bench.cx());
    rig.bench.advance(25);
    rig.relay.on_alive(&mut rig.bench.cx());
    rig.bench.advance(15);
    rig.tick();
    let again = rig.bench.sent();
    let name = again[0].split('"').nth(3).unwrap().to_owned();
    for n in 0..60 {
        let at = Some(rig.bench.now.wall);
        rig.relay.on_event(&name, &arrival(root_id(n), at, Fate::New), &mut rig.bench.cx());
    }
    rig.relay.on_eose(&name, &mut rig.bench.cx());
    assert_eq!(rig.relay.progress().through(), lost_at);
    let swept = rig.answer_all();
    let since = format!("\"since\":{}", lost_at.minus_secs(900));
    assert_eq!(reqs(&swept).iter().filter(|text| text.contains(&since)).count(), 4, "{swept:#?}");
    assert_eq!(rig.relay.progress().through(), rig.bench.now.wall);
}
