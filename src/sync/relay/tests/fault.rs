//! What a machine knows and claims after it has failed.

use super::*;

/// The machine fails while it does this. Returns the repos that are confirmed no more.
fn fail(rig: &mut Rig, act: impl FnOnce(&mut Rig)) -> Vec<RepoId> {
    let before = rig.relay.before();
    act(rig);
    rig.bench.out.clear();
    rig.relay.recover(&before, &mut rig.bench.cx())
}

/// From Backoff to an open link, of a relay whose pages prove what they say even if that was forgotten.
fn reopen(rig: &mut Rig) {
    rig.relay.budget_mut().paging = Paging::proven();
    let until = rig.relay.next_deadline(&rig.bench.cx()).expect("a dial to come");
    rig.bench.advance(until.since(rig.bench.now.mono).as_secs());
    rig.open();
}

#[test]
fn a_machine_that_fails_waits_and_comes_complete_later() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    fail(&mut rig, |_| {});
    assert_eq!((rig.state(), rig.relay.links()), (StateName::Backoff, [None, None]));
    assert_eq!((rig.relay.entered().1, rig.relay.health().failures()), (Why::Fault, 1));
    assert_eq!(rig.bench.metrics.relay_links_closed.count("fault"), 1);
    reopen(&mut rig);
    let texts = rig.answer_all();
    assert!(reqs(&texts)[1..].iter().all(|text| !text.contains("since")), "nothing was confirmed: {texts:#?}");
    assert_eq!(rig.state(), StateName::Live);
}

#[test]
fn a_machine_that_fails_whenever_it_is_live_is_given_less_and_less() {
    let mut rig = Rig::new(with_repo);
    let mut waits = Vec::new();
    for _ in 0..5 {
        reopen(&mut rig);
        rig.answer_all();
        assert_eq!(rig.state(), StateName::Live);
        fail(&mut rig, |_| {});
        let until = rig.relay.next_deadline(&rig.bench.cx()).expect("a dial to come");
        waits.push(until.since(rig.bench.now.mono).as_secs());
    }
    assert_eq!(waits, [5, 10, 20, 40, 80]);
}

#[test]
fn what_a_machine_claims_while_it_fails_counts_for_nothing() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    let through = rig.relay.progress().through();
    let unconfirmed = fail(&mut rig, |rig| _ = rig.answer_all());
    let repo = rig.bench.state.repo_id(&addr(1, "a")).unwrap();
    assert_eq!((unconfirmed, rig.relay.progress().covers_repo(repo)), (vec![repo], false));
    assert_eq!((rig.relay.progress().through(), rig.relay.progress().full_catchup()), (through, UnixTime::EPOCH));
    let written = rig.relay.take_unsaved();
    assert!(written.iter().all(|progress| !matches!(progress, Progress::Confirmed { .. })), "{written:?}");
    assert_eq!(written.last(), Some(&rig.relay.progress_record()));

    reopen(&mut rig);
    rig.answer_all();
    rig.relay.take_unsaved();
    let progress = rig.relay.progress().clone();
    assert!(fail(&mut rig, |rig| rig.relay.on_alive(&mut rig.bench.cx())).is_empty());
    assert_eq!(rig.relay.progress(), &progress, "what it claimed before stays");
    assert_eq!(rig.relay.take_unsaved().last(), Some(&rig.relay.progress_record()), "and is written if it was not");
}

#[test]
fn what_a_machine_withdraws_while_it_fails_stays_withdrawn() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    rig.answer_all();
    rig.relay.take_unsaved();
    let repo = rig.bench.state.repo_id(&addr(1, "a")).unwrap();
    let forgotten = Progress::ForgetRepo { relay: relay("one"), repo: addr(1, "a") };
    fail(&mut rig, |rig| {
        assert_eq!(rig.relay.progress.forget_everything(), [repo]);
        rig.relay.unsaved.push(forgotten.clone());
    });
    assert_eq!(
        (rig.relay.progress().through(), rig.relay.progress().full_catchup()),
        (UnixTime::EPOCH, UnixTime::EPOCH)
    );
    assert_eq!(rig.relay.take_unsaved(), [forgotten, rig.relay.progress_record()]);
    reopen(&mut rig);
    let texts = rig.answer_all();
    assert!(reqs(&texts)[1..].iter().all(|text| !text.contains("since")), "everything is asked for anew: {texts:#?}");
}

#[test]
fn what_a_window_will_ask_for_is_not_confirmed_before_whatever_fails() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    rig.answer_all();
    let repo = rig.bench.state.repo_id(&addr(1, "a")).unwrap();
    assert_eq!(rig.relay.on_maintainers_changed(&[repo].into()), [repo]);
    fail(&mut rig, |_| {});
    reopen(&mut rig);
    rig.answer_all();
    assert!(!rig.relay.progress().covers_repo(repo), "the window has not closed yet");
    rig.relay.on_window(&News { maintainers_changed: [repo].into(), ..News::default() }, &mut rig.bench.cx());
    rig.answer_all();
    assert!(rig.relay.progress().covers_repo(repo));
}

#[test]
fn a_machine_that_fails_twice_in_a_row_forgets_what_the_relay_allows() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    rig.relay.budget_mut().learned.filters = Some(3);
    fail(&mut rig, |_| {});
    assert_eq!(rig.relay.budget().learned.filters, Some(3));
    reopen(&mut rig);
    fail(&mut rig, |_| {});
    assert_eq!(rig.relay.budget(), &Budget::default());
    reopen(&mut rig);
    rig.answer_all();
    assert_eq!(rig.state(), StateName::Live);
}

#[test]
fn a_machine_may_fail_in_any_state() {
    for steps in 0..4 {
        let mut rig = Rig::new(with_repo);
        let acts: [fn(&mut Rig); 3] = [Rig::tick, Rig::open, |rig| _ = rig.answer_all()];
        acts[..steps].iter().for_each(|act| act(&mut rig));
        fail(&mut rig, |_| {});
        fail(&mut rig, |_| {});
        assert_eq!(rig.state(), StateName::Backoff);
        reopen(&mut rig);
        rig.answer_all();
        assert_eq!(rig.state(), StateName::Live, "after {steps} steps");
    }
    let mut rig = Rig::new(with_repo);
    rig.open();
    // As a panic leaves it between two states.
    fail(&mut rig, |rig| rig.relay.state = State::Closing);
    assert_eq!(rig.state(), StateName::Backoff);
}
