//! Our own network goes down and comes back: that is no fault of the relays.

use crate::clock::{DAY, HOUR, MILLI, MINUTE, Micros, SECOND};
use crate::events::{Author, EventRef};
use crate::model_relay::{Mode, RelayConfig};
use crate::scenario;
use crate::setup::{OLD, quiet, settle, village};
use crate::world::{World, relay_url};
use grasp_sync::engine::CloseReason;

/// Ways in which a network is down.
const CUTS: [CloseReason; 3] = [CloseReason::NoRoute, CloseReason::NoNameServer, CloseReason::Timeout];

/// A repo that many relays share.
struct Town {
    owner: Author,
    repo: String,
    relays: Vec<String>,
}

/// So many relays, the first of which is a bootstrap relay, and one repo for each sixteen of them.
fn town(w: &mut World, n: usize) -> Town {
    let owner = Author::new(1);
    let relays: Vec<String> = (0..n).map(|n| format!("r{n}")).collect();
    relays.iter().for_each(|name| _ = w.add_relay(name, RelayConfig::strfry()));
    w.bootstrap("r0");
    for (n, some) in relays.chunks(16).enumerate() {
        let urls: Vec<String> = some.iter().map(|name| relay_url(name)).collect();
        let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
        // No author lists more alone than are followed of one.
        w.hold("r0", &Author::new(1 + n as u64).announcement(&format!("repo{n}"), &urls, OLD));
    }
    Town { repo: owner.repo("repo0"), owner, relays }
}

impl Town {
    /// Somebody publishes an issue to each of the first sixteen relays; none gets that of another.
    fn publish(&self, w: &mut World) -> Vec<EventRef> {
        let mut one = |name: &String| {
            let issue = self.owner.issue(&self.repo, w.clock.wall(), &format!("{name} at {}", w.clock.now()));
            w.publish(name, &issue);
            issue
        };
        self.relays.iter().take(16).map(&mut one).collect()
    }

    fn are(&self, w: &World, state: &str) -> bool {
        self.relays.iter().all(|name| w.relay_status(name)["state"] == state)
    }

    fn assert_healthy(&self, w: &World) {
        for name in &self.relays {
            let status = w.relay_status(name);
            assert_eq!((&status["health"], &status["failures"]), (&"healthy".into(), &0.into()), "{status}");
        }
        assert_eq!(w.metric("ngit_sync_relays_dead_total"), 0);
    }
}

/// Starts the process and runs until nothing is asked any more.
fn begin(w: &mut World) {
    w.start();
    quiet(w);
}

/// Dials since then, over all relays.
fn dials_since(w: &World, at: Micros) -> usize {
    w.relays().iter().flat_map(|r| &r.dials).filter(|t| **t >= at).count()
}

fn network(w: &World) -> String {
    w.status()["network"]["state"].as_str().unwrap_or_default().to_owned()
}

/// Probes in an outage of that length: at five seconds doubling to a minute, and one more for each eight.
fn probes_max(time: Micros) -> usize {
    5 + (time / MINUTE) as usize * 9 / 8
}

/// The network, down for `time`, comes back: everything is dialled within a minute and the pace, arrives, and nobody is to
/// blame.
fn comes_back(w: &mut World, town: &Town, cut_at: Micros, issues: &[EventRef]) {
    let down = w.clock.now() - cut_at;
    assert_eq!(network(w), "offline");
    assert_eq!(w.metric("grasp_sync_offline"), 1);
    assert_eq!(w.metric("ngit_sync_relays_dead_total"), 0);
    // Before it is known, each link is redialled once, and a dial that failed may be tried again.
    let dials = dials_since(w, cut_at);
    let most = 3 * town.relays.len() + probes_max(down);
    assert!(dials <= most, "{dials} dials in an outage of {} s, at most {most}", down / SECOND);
    w.restore_network();
    let back = w.clock.now();
    let pace = town.relays.len() as u64 * SECOND / 50;
    w.run_until("everybody is dialled", 61 * SECOND + pace, |w| {
        w.relays().iter().all(|r| r.dials.last().is_some_and(|t| *t >= back))
    });
    w.run_until("everybody is live", MINUTE, |w| town.are(w, "Live"));
    w.run_until("what was published meanwhile", MINUTE, |w| w.has_all(issues));
    assert_eq!(network(w), "online");
    assert_eq!(w.metric("grasp_sync_offline"), 0);
    town.assert_healthy(w);
}

/// An outage of links that are open.
fn outage(name: &'static str, time: Micros, cut: CloseReason, breaks: bool) {
    scenario(name, |w| {
        let town = town(w, 6);
        begin(w);
        let lived = w.rng.below(3 * MINUTE);
        w.run_for(lived);
        w.logged = Some(Vec::new());
        let cut_at = w.clock.now();
        w.cut_network(cut, breaks);
        w.run_for(time / 2);
        let issues = town.publish(w);
        w.run_for(time - time / 2);
        comes_back(w, &town, cut_at, &issues);
        let lines = w.logged.take().unwrap_or_default();
        let said = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
        assert_eq!((said("offline: none of"), said("online again after")), (1, 1), "once each");
        let live = town.publish(w);
        w.run_until("live events", 5 * SECOND, |w| w.has_all(&live));
    });
}

#[test]
fn an_outage_of_ours_is_not_charged_to_the_relays() {
    for cut in CUTS {
        for breaks in [false, true] {
            outage("an_outage_of_ours_is_not_charged_to_the_relays", 10 * MINUTE, cut, breaks);
        }
    }
}

#[test]
fn an_outage_of_ours_kills_nobody_however_long() {
    for cut in CUTS {
        for breaks in [false, true] {
            outage("an_outage_of_ours_kills_nobody_however_long", 30 * HOUR, cut, breaks);
        }
    }
}

#[test]
fn a_process_that_begins_offline_waits_for_the_network() {
    for cut in CUTS {
        for time in [10 * MINUTE, 30 * HOUR] {
            scenario("a_process_that_begins_offline_waits_for_the_network", |w| {
                let town = town(w, 6);
                begin(w);
                w.stop();
                w.cut_network(cut, true);
                let cut_at = w.clock.now();
                w.start();
                w.run_for(time);
                let issues = town.publish(w);
                comes_back(w, &town, cut_at, &issues);
            });
        }
    }
}

#[test]
fn one_relay_alone_without_a_route_is_an_outage_and_without_an_answer_is_not() {
    scenario("one_relay_alone_without_a_route_is_an_outage_and_without_an_answer_is_not", |w| {
        let town = town(w, 1);
        begin(w);
        let cut_at = w.clock.now();
        w.cut_network(CloseReason::NoRoute, true);
        w.run_for(30 * HOUR);
        comes_back(w, &town, cut_at, &[]);
        w.cut_network(CloseReason::Timeout, true);
        w.run_for(2 * HOUR);
        assert_eq!(network(w), "online");
        assert_eq!(w.relay_status("r0")["health"], "hourly");
    });
}

#[test]
fn two_relays_that_do_not_answer_are_to_blame_themselves() {
    scenario("two_relays_that_do_not_answer_are_to_blame_themselves", |w| {
        village(w, 60);
        settle(w);
        for name in ["hub", "far"] {
            w.silence_links(name);
            w.relay(name).mode = Mode::BlackHole;
        }
        w.run_for(2 * DAY);
        assert_eq!(network(w), "online");
        assert_eq!(w.metric("ngit_sync_relays_dead_total"), 2);
    });
}

#[test]
fn while_anybody_is_heard_the_others_are_to_blame() {
    scenario("while_anybody_is_heard_the_others_are_to_blame", |w| {
        let town = town(w, 6);
        begin(w);
        for name in &town.relays[1..] {
            w.silence_links(name);
            w.relay(name).mode = Mode::BlackHole;
        }
        w.run_for(2 * DAY);
        assert_eq!((network(w), w.metric("grasp_sync_offline_probes_total")), ("online".to_owned(), 0));
        assert_eq!(w.metric("ngit_sync_relays_dead_total"), 5);
    });
}

#[test]
fn a_refused_port_is_a_sign_of_life() {
    scenario("a_refused_port_is_a_sign_of_life", |w| {
        let town = town(w, 6);
        begin(w);
        let cut_at = w.clock.now();
        w.cut_network(CloseReason::Timeout, false);
        w.run_for(30 * HOUR);
        town.relays.iter().for_each(|name| w.relay(name).mode = Mode::Refuses);
        w.restore_network();
        w.run_until("the network is known to be back", 61 * SECOND, |w| network(w) == "online");
        // As soon as it is, the first is dialled.
        let back = w.clock.now() - 20 * MILLI;
        w.run_for(2 * SECOND);
        assert!(dials_since(w, back) >= 5, "the others are tried as well");
        w.run_for(HOUR);
        for name in &town.relays {
            let (status, dials) = (w.relay_status(name), w.relay(name).dials.iter().filter(|t| **t >= back).count());
            assert_eq!(status["health"], "backoff", "a failure of its own: {status}");
            assert!((9..=10).contains(&dials), "{dials} dials");
        }
        assert!(w.clock.now() - cut_at > DAY);
        town.relays.iter().for_each(|name| w.relay(name).mode = Mode::Up);
        w.run_until("everybody is live", HOUR + MINUTE, |w| town.are(w, "Live"));
    });
}

#[test]
fn who_was_dead_before_an_outage_is_visited_hourly_at_most_for_it() {
    scenario("who_was_dead_before_an_outage_is_visited_hourly_at_most_for_it", |w| {
        let town = town(w, 6);
        w.relay("r5").mode = Mode::BlackHole;
        w.start();
        w.run_for(3 * DAY);
        assert_eq!(w.relay_status("r5")["health"], "dead");
        let from = w.clock.now();
        for _ in 0..20 {
            w.cut_network(CloseReason::NoRoute, true);
            w.run_for(3 * MINUTE);
            assert_eq!(network(w), "offline");
            w.restore_network();
            w.run_for(2 * MINUTE);
            assert_eq!(network(w), "online");
        }
        let dials = w.relay("r5").dials.iter().filter(|t| **t >= from).count();
        assert!(dials <= 3, "{dials} dials of a dead relay in 100 minutes");
        town.relays[..5].iter().for_each(|name| assert_eq!(w.relay_status(name)["health"], "healthy", "{name}"));
    });
}

#[test]
fn relays_that_stood_well_and_are_gone_do_not_keep_us_from_the_others() {
    scenario("relays_that_stood_well_and_are_gone_do_not_keep_us_from_the_others", |w| {
        let town = town(w, 6);
        for name in &town.relays[1..] {
            w.relay(name).mode = Mode::BlackHole;
        }
        w.start();
        w.run_for(2 * DAY);
        w.relay("r0").mode = Mode::BlackHole;
        w.silence_links("r0");
        w.run_until("an outage, as far as can be told", 2 * DAY, |w| network(w) == "offline");
        w.run_for(HOUR);
        w.relay("r3").mode = Mode::Up;
        w.run_until("the one that is back", HOUR, |w| w.relay_status("r3")["state"] == "Live");
        assert_eq!(network(w), "online");
    });
}

#[test]
fn everybody_is_dialled_at_a_pace_when_the_network_is_back() {
    scenario("everybody_is_dialled_at_a_pace_when_the_network_is_back", |w| {
        let town = town(w, 160);
        begin(w);
        w.run_until("everybody is live", MINUTE, |w| town.are(w, "Live"));
        let cut_at = w.clock.now();
        w.cut_network(CloseReason::NoRoute, false);
        w.run_for(10 * MINUTE);
        let back = w.clock.now();
        comes_back(w, &town, cut_at, &[]);
        let mut dials: Vec<Micros> = w.relays().iter().flat_map(|r| &r.dials).copied().filter(|t| *t >= back).collect();
        dials.sort_unstable();
        assert_eq!(dials.len(), 160, "one each");
        let most = dials.iter().map(|t| dials.iter().filter(|u| (*t..*t + SECOND).contains(u)).count()).max();
        assert!(most <= Some(50), "{most:?} dials in a second");
    });
}

#[test]
fn a_machine_that_wakes_before_its_network_does_is_no_worse_off() {
    for stands_still in [false, true] {
        scenario("a_machine_that_wakes_before_its_network_does_is_no_worse_off", |w| {
            let town = town(w, 6);
            begin(w);
            // One is failing when the machine falls asleep.
            w.relay("r5").mode = Mode::Refuses;
            w.drop_links("r5");
            w.run_for(10 * MINUTE);
            assert_eq!(w.relay_status("r5")["health"], "backoff");
            w.cut_network(CloseReason::NoRoute, false);
            w.relay("r5").mode = Mode::Up;
            w.suspend(30 * HOUR, stands_still);
            w.run_for(2 * MINUTE);
            assert_eq!(network(w), "offline");
            w.restore_network();
            let issues = town.publish(w);
            w.run_until("everybody is live", 3 * MINUTE, |w| {
                town.relays[..5].iter().all(|name| w.relay_status(name)["state"] == "Live")
            });
            w.run_until("the one that was failing", HOUR, |w| town.are(w, "Live"));
            w.run_until("everything", MINUTE, |w| w.has_all(&issues));
            town.assert_healthy(w);
        });
    }
}

#[test]
fn what_windows_bring_during_an_outage_is_dialled_when_it_ends() {
    scenario("what_windows_bring_during_an_outage_is_dialled_when_it_ends", |w| {
        let town = town(w, 6);
        w.add_relay("new", RelayConfig::strfry());
        begin(w);
        let cut_at = w.clock.now();
        w.cut_network(CloseReason::NoRoute, true);
        w.run_until("it is known", MINUTE, |w| network(w) == "offline");
        let client = w.connect_client();
        let urls = ["wss://r0.example", "wss://new.example"];
        w.client_publishes(client, &town.owner.announcement("fresh", &urls, w.clock.wall()));
        w.run_for(10 * MINUTE);
        assert_eq!(w.relay_status("new")["state"], "Backoff");
        assert!(w.relay("new").dials.len() <= 2, "probes alone");
        let town = Town { relays: [&town.relays[..], &["new".to_owned()]].concat(), ..town };
        comes_back(w, &town, cut_at, &[]);
        quiet(w);
    });
}
