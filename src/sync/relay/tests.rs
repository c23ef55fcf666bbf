//! The machine, driven by hand through each of its states.

use super::*;
use crate::contract::LinkId;
use crate::intake::Place;
use crate::limits::THREAD_LOOKUPS_AT_ONCE;
use crate::protocol::relay_info::RelayInfo;
use crate::sync::agenda::pass::ThreadPart;
use crate::sync::budget::Budget;
use crate::sync::paging::Paging;
use crate::sync::testing::{Bench, addr, announcement, relay, root_id};

mod agenda;
mod cooldown;
mod evidence;
mod fault;
mod flood;
mod inquiry;
mod random;
mod reconciling;
mod shrinking;

/// A machine with its world, driven by hand.
struct Rig {
    bench: Bench,
    relay: Relay,
    seq: u64,
}

/// An event of a hundred bytes.
fn arrival(id: EventId, created_at: Option<UnixTime>, fate: Fate) -> Arrival {
    Arrival { id, place: created_at.map_or(Place::Nowhere, Place::At), bytes: 100, fate }
}

impl Rig {
    fn new(progress: impl FnOnce(&mut Bench) -> RelayProgress) -> Rig {
        let mut bench = Bench::new();
        let progress = progress(&mut bench);
        let mut budget = Budget::default();
        budget.paging = Paging::proven();
        let relay = Relay::new(relay("one"), progress, budget, &mut bench.cx());
        let mut rig = Rig { bench, relay, seq: 100 };
        // It says that it does not reconcile; `reconciling` has those that do.
        rig.list_nips(Some(vec![1]));
        rig
    }

    /// The relay's NIP-11 document lists these.
    fn list_nips(&mut self, supported_nips: Option<Vec<u16>>) {
        self.relay.budget_mut().info = Some(RelayInfo { supported_nips, ..RelayInfo::default() });
    }

    fn state(&self) -> StateName {
        self.relay.state_name()
    }

    fn tick(&mut self) {
        self.relay.on_time(&mut self.bench.cx());
    }

    fn open(&mut self) {
        self.tick();
        self.answer_inquiry(Err(CloseReason::Handshake(404)));
        let link = self.relay.link().expect("dialled");
        self.relay.on_opened(link, &mut self.bench.cx());
    }

    /// Answers the question what the relay says of itself, if it is being asked.
    fn answer_inquiry(&mut self, document: Result<&str, CloseReason>) {
        if let Some(link) = self.relay.inquiry() {
            self.relay.on_answer(link, document, &mut self.bench.cx());
        }
    }

    fn drop_link(&mut self) {
        self.lose_link(CloseReason::Peer(1006));
    }

    fn lose_link(&mut self, reason: CloseReason) {
        let link = self.relay.link().expect("dialled or open");
        self.relay.on_closed(link, reason, &mut self.bench.cx());
    }

    /// Answers every page with nothing until no page is asked any more; the texts that went out meanwhile.
    fn answer_all(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            // Nothing is held that could be reconciled: it is paged.
            while self.relay.wanted_set().is_some() {
                self.relay.add_set(None, &mut self.bench.cx());
            }
            self.tell_of_the_store();
            let texts = self.bench.sent();
            if texts.is_empty() {
                return all;
            }
            for text in &texts {
                let message: serde_json::Value = serde_json::from_str(text).unwrap();
                if message[0] == "REQ" {
                    self.relay.on_eose(message[1].as_str().unwrap(), &mut self.bench.cx());
                }
            }
            all.extend(texts);
        }
    }

    /// Of what the machine wants to know of the store, nothing is held.
    fn tell_of_the_store(&mut self) {
        while self.relay.wanted_thread(&self.bench.cx()).is_some() {
            self.relay.add_thread(ThreadPart::Last(Vec::new()), &mut self.bench.cx());
        }
        if self.relay.wants_authors() {
            self.relay.add_authors(&[], &mut self.bench.cx());
        }
    }

    /// The announcement of repo `a` is deleted. Returns the repos that were confirmed.
    fn lose_repo(&mut self) -> Vec<RepoId> {
        let changes = self.bench.state.remove_announcement(&addr(1, "a"));
        self.relay.on_repos_lost(&changes.lost[&relay("one")])
    }

    /// It is announced again, as number `seq`; what the next window says of it.
    fn get_repo_back(&mut self, seq: Seq) -> News {
        let changes = self.bench.state.set_announcement(&announcement(1, "a", &["one"]), seq);
        News { gained: changes.gained[&relay("one")].clone(), upto: seq, ..News::default() }
    }

    /// A window that brings one root event to repo `a`.
    fn window_with_root(&mut self) {
        self.seq += 1;
        let changes = self.bench.state.add_root(root_id(self.seq as u32), self.seq, &[addr(1, "a")]);
        self.relay.on_window(&roots_upto(changes.roots, self.seq), &mut self.bench.cx());
    }
}

fn roots_upto(roots: BTreeSet<RootId>, upto: Seq) -> News {
    News { roots, upto, ..News::default() }
}

fn with_repo(bench: &mut Bench) -> RelayProgress {
    bench.state.set_announcement(&announcement(1, "a", &["one"]), 1);
    RelayProgress::default()
}

fn reqs(texts: &[String]) -> Vec<&String> {
    texts.iter().filter(|text| text.starts_with("[\"REQ\"")).collect()
}

#[test]
fn live_opens_first_then_history_is_swept_then_it_is_live() {
    let mut rig = Rig::new(with_repo);
    assert_eq!(rig.state(), StateName::Idle);
    rig.open();
    assert_eq!(rig.state(), StateName::Catchup);
    let texts = rig.answer_all();
    let since = rig.bench.now.wall.as_secs() - 900;
    assert!(texts[0].contains(&format!("\"since\":{since}")), "live, from before now: {}", texts[0]);
    assert!(reqs(&texts)[1..].iter().all(|text| !text.contains("since")), "a first catch-up asks for everything");
    assert!(reqs(&texts).iter().all(|text| text.contains("\"limit\":")));
    assert_eq!(rig.state(), StateName::Live);
    assert_eq!(rig.relay.progress().through(), rig.bench.now.wall);
    assert_eq!(rig.relay.progress().full_catchup(), rig.bench.now.wall);
    let mut unsaved = rig.relay.take_unsaved();
    unsaved.retain(|progress| !matches!(progress, Progress::Budget { .. }));
    assert!(matches!(&unsaved[0], Progress::Confirmed { seq: 1, .. }), "{unsaved:?}");
    assert!(matches!(&unsaved[1], Progress::Relay { .. }));
}

#[test]
fn a_reconnect_asks_since_through_less_the_overlap() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    rig.answer_all();
    let through = rig.relay.progress().through().as_secs();
    rig.bench.advance(7_200);
    rig.drop_link();
    assert_eq!(rig.state(), StateName::Connecting, "a healthy relay is dialled at once");
    rig.open();
    let texts = rig.answer_all();
    let swept = format!("\"since\":{}", through - 900);
    assert!(reqs(&texts)[1..].iter().all(|text| text.contains(&swept)), "{texts:#?}");
    assert_eq!(rig.state(), StateName::Live);
}

#[test]
fn through_follows_the_last_frame_not_the_clock() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    rig.answer_all();
    let heard = rig.bench.now.wall;
    rig.bench.advance(25);
    rig.tick();
    assert_eq!(rig.relay.progress().through(), heard);
    rig.relay.on_alive(&mut rig.bench.cx());
    assert_eq!(rig.relay.progress().through(), rig.bench.now.wall);
}

#[test]
fn a_link_that_drops_before_it_is_stable_is_a_failure() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    rig.drop_link();
    assert_eq!(rig.state(), StateName::Backoff);
    rig.bench.advance(4);
    rig.tick();
    assert_eq!(rig.state(), StateName::Backoff);
    rig.bench.advance(1);
    rig.open();
    rig.bench.advance(60);
    rig.relay.on_alive(&mut rig.bench.cx());
    rig.drop_link();
    assert_eq!(rig.state(), StateName::Connecting, "sixty seconds of life are a success, EOSE or not");
}

#[test]
fn connecting_has_a_deadline() {
    let mut rig = Rig::new(with_repo);
    rig.tick();
    assert_eq!(rig.state(), StateName::Connecting);
    rig.bench.advance(30);
    rig.tick();
    assert_eq!(rig.state(), StateName::Backoff);
    assert_eq!(rig.relay.entered().1, Why::LinkClosed(CloseReason::Timeout));
}

#[test]
fn a_failed_sweep_leaves_its_repos_unconfirmed_and_through_where_it_was() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    for _ in 0..SWEEP_TRIES {
        for text in rig.bench.sent() {
            let message: serde_json::Value = serde_json::from_str(&text).unwrap();
            if message[0] == "REQ" {
                let name = message[1].as_str().unwrap();
                // Layer 2 by `q` is refused whenever it is swept; everything else is answered.
                match message[2].get("#q").is_some() && message.as_array().unwrap().len() == 3 {
                    true => rig.relay.on_subscription_closed(name, "error: no", &mut rig.bench.cx()),
                    false => rig.relay.on_eose(name, &mut rig.bench.cx()),
                }
            }
        }
        rig.tell_of_the_store();
        rig.bench.advance(20);
        rig.relay.on_alive(&mut rig.bench.cx());
        rig.tick();
    }
    assert_eq!(rig.state(), StateName::Live);
    assert!(rig.relay.is_incomplete());
    assert_eq!(rig.relay.progress().through(), UnixTime::EPOCH);
    assert_eq!(rig.relay.progress().confirmed_repos().count(), 0);
    assert_eq!(rig.relay.progress().full_catchup(), UnixTime::EPOCH);
}

/// Rounds of the test above: three tries with a minute between them, at twenty seconds a round, and some to spare.
const SWEEP_TRIES: usize = 12;

#[test]
fn windows_consolidate_in_two_phases_when_their_filters_become_too_many() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    rig.answer_all();
    let mut consolidated = 0;
    for _ in 0..30 {
        rig.bench.advance(5);
        rig.window_with_root();
        if rig.state() == StateName::Consolidating {
            let texts = rig.answer_all();
            let reqs = reqs(&texts);
            let since = format!("\"since\":{}", rig.bench.now.wall.as_secs() - 900);
            let reopened = reqs.iter().position(|text| text.contains(&since)).expect("phase two reopens");
            assert_eq!(reopened, 3, "phase one sweeps the new root event by its three letters: {reqs:#?}");
            assert!(reqs[..reopened].iter().all(|text| !text.contains("since")));
            assert_eq!(reqs.len(), reopened + 1, "the minimal set fits into one REQ");
            consolidated += 1;
        }
        rig.answer_all();
        assert_eq!(rig.state(), StateName::Live);
        let session = rig.relay.session().unwrap();
        assert!(session.open_subscriptions() <= crate::limits::RELAY_SUBSCRIPTIONS_UNTOLD);
        assert_eq!(session.units().polled().count(), 0, "a small relay is all live");
    }
    assert!((2..10).contains(&consolidated), "{consolidated} consolidations in 30 windows");
}

#[test]
fn what_was_staged_when_a_window_closed_is_asked_about_by_the_next() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    rig.answer_all();
    let committed = rig.bench.state.add_root(root_id(1), 101, &[addr(1, "a")]);
    // The state learns of an event when it is staged, the window only when it is committed.
    let staged = rig.bench.state.add_root(root_id(2), 102, &[addr(1, "a")]);
    for (changes, upto, id) in [(committed, 101, root_id(1)), (staged, 102, root_id(2))] {
        rig.relay.on_window(&roots_upto(changes.roots, upto), &mut rig.bench.cx());
        let texts = rig.answer_all();
        assert!(reqs(&texts).iter().any(|text| text.contains(&id.to_hex())), "{id} is never asked about");
    }
}

#[test]
fn a_large_window_in_a_catch_up_takes_its_live_slots_from_pages() {
    let mut rig = Rig::new(|bench| {
        bench.state.set_announcement(&announcement(1, "a", &["one"]), 1);
        for n in 0..2_000 {
            bench.state.add_root(root_id(n), u64::from(n) + 2, &[addr(1, "a")]);
        }
        RelayProgress::default()
    });
    rig.open();
    assert_eq!(rig.state(), StateName::Catchup);
    let mut changes = crate::state::Changes::default();
    for n in 2_000..12_000 {
        changes.merge(rig.bench.state.add_root(root_id(n), u64::from(n) + 2, &[addr(1, "a")]));
    }
    rig.relay.on_window(&roots_upto(changes.roots, 12_001), &mut rig.bench.cx());
    let session = rig.relay.session().expect("a link");
    assert!(session.open_subscriptions() <= crate::limits::RELAY_SUBSCRIPTIONS_UNTOLD);
    // Every page that was taken back is asked again: each root event is asked about in all three ways.
    let texts = rig.answer_all();
    for n in [0, 1_999, 2_000, 11_999] {
        let id = root_id(n).to_hex();
        let pages = texts.iter().filter(|text| text.contains(&id) && !text.contains("since")).count();
        assert!(pages >= 3, "{n}: {pages} pages");
    }
    assert_eq!(rig.state(), StateName::Catchup, "threads are looked up a few chunks at a time");
    for _ in 0..12_001 / 100 / THREAD_LOOKUPS_AT_ONCE + 1 {
        rig.bench.advance(1);
        rig.tick();
        rig.answer_all();
    }
    assert_eq!(rig.state(), StateName::Live);
}

#[test]
fn the_daily_turn_asks_for_everything_again() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    rig.answer_all();
    for _ in 0..86_400 / 20 {
        rig.bench.advance(20);
        rig.relay.on_alive(&mut rig.bench.cx());
    }
    assert_eq!(rig.state(), StateName::Catchup);
    assert_eq!(rig.relay.entered().1, Why::DailyTurn);
    let texts = rig.answer_all();
    let pages = reqs(&texts);
    assert!(pages[1..].iter().all(|text| !text.contains("since")), "{pages:#?}");
    assert_eq!(rig.state(), StateName::Live);
    assert_eq!(rig.relay.progress().full_catchup(), rig.bench.now.wall);
}

#[test]
fn what_a_relay_taught_is_forgotten_after_a_week_on_one_link() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    let link = rig.relay.link();
    rig.relay.budget_mut().name_everything(rig.bench.now.wall);
    rig.answer_all();
    for day in 1..=8 {
        rig.bench.advance(86_400);
        rig.relay.on_alive(&mut rig.bench.cx());
        rig.tick();
        let texts = rig.answer_all();
        let names_kinds = texts.iter().any(|text| text.contains("{\"kinds\":[6,"));
        assert_eq!(names_kinds, day < 7, "day {day}: {texts:#?}");
    }
    assert_eq!((rig.relay.link(), rig.state()), (link, StateName::Live));
}

#[test]
fn a_lost_repo_is_no_longer_asked_about_and_its_progress_is_forgotten() {
    let mut rig = Rig::new(with_repo);
    rig.bench.state.set_announcement(&announcement(1, "b", &["one"]), 2);
    rig.open();
    rig.answer_all();
    rig.relay.take_unsaved();
    assert_eq!(rig.relay.progress().confirmed_repos().count(), 2);
    assert_eq!(rig.lose_repo(), [rig.bench.state.repo_id(&addr(1, "a")).unwrap()]);
    assert_eq!(rig.relay.progress().confirmed_repos().count(), 1, "at once");
    assert!(rig.answer_all().is_empty(), "it may be back before the window closes");
    rig.relay.on_window(&News::default(), &mut rig.bench.cx());
    let texts = rig.answer_all();
    let live = reqs(&texts).last().copied().unwrap();
    assert!(live.contains(":b\"") && !live.contains(":a\""), "{live}");
    assert_eq!(rig.relay.entered().1, Why::Consolidated);
    rig.relay.on_window(&News::default(), &mut rig.bench.cx());
    assert!(rig.answer_all().is_empty(), "once");
}

#[test]
fn a_repo_that_came_back_within_a_window_is_asked_for_as_if_it_were_new() {
    let mut rig = Rig::new(with_repo);
    let old = rig.bench.state.add_root(root_id(1), 2, &[addr(1, "a")]);
    assert_eq!(old.roots.len(), 1);
    rig.open();
    rig.answer_all();
    rig.lose_repo();
    let news = rig.get_repo_back(3);
    rig.relay.on_window(&news, &mut rig.bench.cx());
    assert_eq!(rig.relay.progress().confirmed_repos().count(), 0, "not before it has been asked for");
    let texts = rig.answer_all();
    let sweeps: Vec<_> = reqs(&texts).into_iter().filter(|text| !text.contains("\"since\"")).collect();
    for wanted in ["\"#d\":[\"a\"]", ":a\"]", &root_id(1).to_hex()] {
        assert!(sweeps.iter().any(|text| text.contains(wanted)), "{wanted}: {texts:#?}");
    }
    assert_eq!(rig.state(), StateName::Live);
    assert_eq!(rig.relay.progress().confirmed_repos().count(), 1);
}

#[test]
fn a_repo_that_came_back_while_the_link_was_down_is_asked_for_as_if_it_were_new() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    rig.answer_all();
    rig.bench.advance(60);
    rig.drop_link();
    rig.lose_repo();
    rig.get_repo_back(3);
    rig.open();
    let texts = rig.answer_all();
    let of_repo: Vec<_> = reqs(&texts).into_iter().filter(|text| text.contains("\"#a\"")).collect();
    assert!(of_repo.iter().any(|text| !text.contains("\"since\"")), "{of_repo:#?}");
}

#[test]
fn a_repo_with_new_maintainers_is_confirmed_when_a_window_has_asked_for_what_they_published() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    let confirmed = |rig: &Rig| rig.relay.progress().confirmed_repos().count();
    let repos: BTreeSet<RepoId> = rig.bench.state.repo_id(&addr(1, "a")).into_iter().collect();
    rig.relay.on_maintainers_changed(&repos);
    rig.answer_all();
    assert_eq!((rig.state(), confirmed(&rig)), (StateName::Live, 0), "the catch-up may have asked before");
    let news = News { maintainers_changed: repos.clone(), ..News::default() };
    rig.relay.on_window(&news, &mut rig.bench.cx());
    assert_eq!(confirmed(&rig), 0);
    let texts = rig.answer_all();
    assert!(reqs(&texts).iter().all(|text| text.contains("\"#d\":[\"a\"]")), "{texts:#?}");
    assert_eq!(confirmed(&rig), 1);
    // On a new link it is asked for as a whole, and for what changed meanwhile by the window.
    rig.relay.on_maintainers_changed(&repos);
    rig.bench.advance(60);
    rig.drop_link();
    rig.open();
    let texts = rig.answer_all();
    assert!(reqs(&texts).iter().any(|text| text.contains("\"#d\":[\"a\"]")), "{texts:#?}");
    assert_eq!(confirmed(&rig), 0);
    rig.relay.on_window(&news, &mut rig.bench.cx());
    rig.answer_all();
    assert_eq!(confirmed(&rig), 1);
}

#[test]
fn a_silent_link_is_pinged_and_then_given_up() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    rig.answer_all();
    rig.bench.out.clear();
    rig.bench.advance(30);
    rig.tick();
    assert!(rig.bench.out.iter().any(|output| matches!(output, Output::Ping { .. })));
    rig.bench.advance(30);
    rig.tick();
    assert!(rig.bench.out.iter().any(|output| matches!(output, Output::Close { .. })));
    assert_eq!(rig.relay.entered().1, Why::Silent);
}

#[test]
fn a_root_event_of_a_repo_that_is_leaving_is_asked_about_once_it_is_back() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    rig.answer_all();
    let changes = rig.bench.state.add_root(root_id(1), 101, &[addr(1, "a")]);
    // The batch that is not committed yet takes the repo from the relay; before the next window it is back.
    rig.lose_repo();
    rig.relay.on_window(&roots_upto(changes.roots, 101), &mut rig.bench.cx());
    let asked = |texts: &[String]| reqs(texts).iter().any(|text| text.contains(&root_id(1).to_hex()));
    assert!(!asked(&rig.answer_all()));
    let news = rig.get_repo_back(102);
    rig.relay.on_window(&news, &mut rig.bench.cx());
    assert!(asked(&rig.answer_all()));
}

#[test]
fn a_repo_that_was_lost_in_a_round_is_not_confirmed_by_it() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    rig.lose_repo();
    let missed = rig.bench.state.add_root(root_id(1), 101, &[addr(1, "a")]);
    rig.relay.on_window(&roots_upto(missed.roots, 101), &mut rig.bench.cx());
    // Back in the state, but not in a window yet.
    rig.get_repo_back(102);
    rig.answer_all();
    assert_eq!(rig.state(), StateName::Live);
    assert_eq!(rig.relay.progress().confirmed_repos().count(), 0);
}

#[test]
fn a_question_is_not_asked_again_while_it_is_open() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    let question = |text: &str| text.splitn(3, ',').nth(2).unwrap().to_owned();
    let sent = rig.bench.sent();
    let open = reqs(&sent).into_iter().find(|text| text.contains("\"#d\"")).expect("identifiers").clone();
    let mut unanswered: Vec<String> = sent.iter().filter(|text| **text != open).cloned().collect();
    rig.lose_repo();
    let news = rig.get_repo_back(2);
    rig.relay.on_window(&news, &mut rig.bench.cx());
    while let Some(text) = unanswered.pop() {
        assert!(text.starts_with("[\"CLOSE\"") || question(&text) != question(&open), "asked again: {text}");
        if text.starts_with("[\"REQ\"") {
            rig.relay.on_eose(text.split('"').nth(3).unwrap(), &mut rig.bench.cx());
        }
        unanswered.extend(rig.bench.sent());
    }
    rig.relay.on_eose(open.split('"').nth(3).unwrap(), &mut rig.bench.cx());
    let texts = rig.answer_all();
    assert!(reqs(&texts).iter().any(|text| question(text) == question(&open)), "its turn comes");
    assert_eq!(rig.state(), StateName::Live);
}

#[test]
fn a_notice_makes_an_empty_page_doubtful_and_no_other() {
    for events in [0, 1] {
        let mut rig = Rig::new(with_repo);
        rig.open();
        let sent = rig.bench.sent();
        let page = reqs(&sent).into_iter().find(|text| text.contains("\"#d\"")).expect("identifiers").clone();
        let name = page.split('"').nth(3).unwrap();
        rig.relay.on_notice("could not reach the database", &mut rig.bench.cx());
        for n in 0..events {
            rig.relay.on_event(
                name,
                &arrival(root_id(n), Some(UnixTime::from_secs(9)), Fate::New),
                &mut rig.bench.cx(),
            );
        }
        rig.relay.on_eose(name, &mut rig.bench.cx());
        let sent = rig.bench.sent();
        let next = reqs(&sent).into_iter().any(|text| text.contains("\"#d\"") && text.contains("\"until\":9"));
        assert_eq!(next, events > 0, "the next page is asked for at once");
    }
}

#[test]
fn links_that_an_idle_proxy_drops_are_dialled_again_at_once() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    for n in 0..8 {
        rig.answer_all();
        assert_eq!(rig.state(), StateName::Live, "link {n}");
        rig.bench.advance(25);
        rig.drop_link();
        assert_eq!(rig.state(), StateName::Connecting, "link {n}");
        assert_eq!(rig.relay.health().name(), "healthy");
        let link = rig.relay.link().expect("dialled");
        rig.relay.on_opened(link, &mut rig.bench.cx());
    }
    let ping = rig.relay.next_deadline(&rig.bench.cx()).expect("a link is open");
    assert_eq!(ping.since(rig.bench.now.mono).as_secs(), 15);
}
