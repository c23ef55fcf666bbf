//! Places among the relays that are followed (spec section 16): what strangers list costs neither their victims nor
//! those who come after them.

use crate::clock::{DAY, HOUR, MINUTE, Micros, SECOND};
use crate::events::{Author, EventRef};
use crate::model_relay::RelayConfig;
use crate::scenario;
use crate::setup::{OLD, Village, settle, village};
use crate::world::World;
use grasp_sync::engine::CloseReason;

/// Within this an honest newcomer is followed, whatever strangers do.
const NEWCOMER: Micros = MINUTE;

/// Keys `from`, `from + 1`, … announce repos that list these URLs, so many each, sixteen a repo.
fn announce(w: &mut World, from: u64, each: usize, urls: &[String]) {
    for (n, some) in urls.chunks(each).enumerate() {
        let key = Author::new(from + n as u64);
        for (repo, listed) in some.chunks(16).enumerate() {
            let listed: Vec<&str> = listed.iter().map(String::as_str).collect();
            w.publish("hub", &key.announcement(&format!("flood{repo}"), &listed, w.clock.wall()));
        }
    }
}

/// Relays that nobody can reach, and their URLs.
fn add_unreachable(w: &mut World, urls: impl Iterator<Item = String>, reason: CloseReason) -> Vec<String> {
    urls.inspect(|url| w.add_unreachable_at(url, reason)).collect()
}

/// Somebody announces a repo on a relay of its own, and what is there is here in time.
fn newcomer_is_followed(w: &mut World, key: u64, name: &str) -> EventRef {
    let owner = Author::new(key);
    w.add_relay(name, RelayConfig::strfry());
    let url = format!("wss://{name}.example");
    let announcement = owner.announcement("honest", &["wss://hub.example", &url], w.clock.wall());
    let issue = owner.issue(&owner.repo("honest"), w.clock.wall(), "an honest issue");
    w.hold(name, &issue);
    w.publish("hub", &announcement);
    w.run_until("an honest newcomer is followed", NEWCOMER, |w| w.has(&issue));
    issue
}

/// Dials of whoever has this in its URL since then.
fn dials(w: &World, part: &str, since: Micros) -> usize {
    w.relays().iter().filter(|r| r.url.contains(part)).flat_map(|r| &r.dials).filter(|t| **t >= since).count()
}

#[test]
fn a_thousand_urls_of_one_host_are_four_relays_and_a_dial_a_second() {
    scenario("a_thousand_urls_of_one_host_are_four_relays_and_a_dial_a_second", |w| {
        village(w, 60);
        settle(w);
        let urls: Vec<String> = (0..1_000).map(|n| format!("wss://victim.example/{n}")).collect();
        urls.iter().for_each(|url| w.add_relay_by_url(url, RelayConfig::strfry()));
        let began = w.clock.now();
        announce(w, 100, 32, &urls);
        newcomer_is_followed(w, 7, "newcomer");
        w.run_for(2 * MINUTE - (w.clock.now() - began));
        assert!(dials(w, "victim", began) <= 8, "{} dials", dials(w, "victim", began));
        let followed = w.relays().iter().filter(|r| r.url.contains("victim") && !r.dials.is_empty()).count();
        assert_eq!(followed, 4);
        assert_eq!(w.metric("grasp_sync_relays_waiting{reason=\"host\"}"), 996);
        let waiting = &w.status()["relays_waiting"];
        assert_eq!(waiting["count"], 996);
        assert_eq!(waiting["first"][0]["why"], "their host and port has as many URLs as are followed");
    });
}

#[test]
fn lists_that_alternate_dial_a_host_once_a_second() {
    scenario("lists_that_alternate_dial_a_host_once_a_second", |w| {
        village(w, 60);
        settle(w);
        let lists: Vec<Vec<String>> =
            (0..2).map(|list| (0..16).map(|n| format!("wss://victim.example/{list}/{n}")).collect()).collect();
        lists.iter().flatten().for_each(|url| w.add_relay_by_url(url, RelayConfig::strfry()));
        let (key, began) = (Author::new(100), w.clock.now());
        for n in 0..60 {
            let listed: Vec<&str> = lists[n % 2].iter().map(String::as_str).collect();
            w.publish("hub", &key.announcement("flood", &listed, w.clock.wall()));
            w.run_for(SECOND);
        }
        let times = dials(w, "victim", began);
        assert!((4..=60).contains(&times), "{times} dials in a minute");
        newcomer_is_followed(w, 7, "newcomer");
    });
}

#[test]
fn ports_that_hang_keep_no_newcomer_waiting() {
    scenario("ports_that_hang_keep_no_newcomer_waiting", |w| {
        village(w, 60);
        w.settings.limits.relays_max = 64;
        settle(w);
        let urls = (0..960).map(|n| format!("wss://victim.example:{}", 11_000 + n));
        let urls = add_unreachable(w, urls, CloseReason::Timeout);
        // Keys enough to fill every place many times over.
        announce(w, 100, 32, &urls);
        w.run_for(3 * SECOND);
        newcomer_is_followed(w, 7, "first");
        w.run_for(HOUR);
        newcomer_is_followed(w, 8, "second");
        assert_eq!(w.metric("grasp_sync_relays_waiting{reason=\"relays_max\"}"), 960 + 2 + 2 - 64);
    });
}

#[test]
fn whoever_was_reached_keeps_its_place_beside_a_flood_and_after_a_restart() {
    scenario("whoever_was_reached_keeps_its_place_beside_a_flood_and_after_a_restart", |w| {
        let v = village(w, 60);
        w.add_relay("zeta", RelayConfig::strfry());
        w.settings.limits.relays_max = 16;
        settle(w);
        let listed = ["wss://hub.example", "wss://zeta.example"];
        w.publish("hub", &v.owner.announcement("alpha", &listed, w.clock.wall()));
        w.run_until("zeta is live", MINUTE, |w| w.relay_status("zeta")["state"] == "Live");
        let urls = add_unreachable(w, (0..100).map(|n| format!("wss://aa{n}.example")), CloseReason::Connect);
        announce(w, 100, 1, &urls);
        w.run_for(5 * MINUTE);
        assert_eq!(w.relay_status("zeta")["state"], "Live");
        // Nothing of the state before: the order is in the store.
        w.stop();
        let restarted = w.clock.now();
        w.start();
        let issue = v.owner.issue(&v.repo, w.clock.wall(), "after the restart");
        w.hold("zeta", &issue);
        w.run_until("what zeta has", 20 * SECOND, |w| w.has(&issue));
        assert!(dials(w, "zeta", restarted) > 0);
        newcomer_is_followed(w, 7, "newcomer");
    });
}

#[test]
fn of_dead_relays_each_has_its_day_and_one_that_comes_to_life_stays() {
    scenario("of_dead_relays_each_has_its_day_and_one_that_comes_to_life_stays", |w| {
        Village::alone(w, RelayConfig::strfry());
        w.settings.limits.relays_max = 3;
        settle(w);
        let urls = add_unreachable(w, (0..6).map(|n| format!("wss://dead{n}.example")), CloseReason::Connect);
        announce(w, 100, 1, &urls);
        let owner = Author::new(7);
        w.add_relay("late", RelayConfig::strfry()).mode = crate::model_relay::Mode::Refuses;
        w.publish("hub", &owner.announcement("late", &["wss://hub.example", "wss://late.example"], OLD));
        w.run_for(DAY);
        w.relay("late").mode = crate::model_relay::Mode::Up;
        let issue = owner.issue(&owner.repo("late"), w.clock.wall(), "it lives");
        w.hold("late", &issue);
        w.run_until("its turn comes", 5 * DAY, |w| w.has(&issue));
        w.run_for(3 * DAY);
        // It may be in its daily catch-up just now.
        w.run_until("it is still followed", MINUTE, |w| w.relay_status("late")["state"] == "Live");
        let tried = w.relays().iter().filter(|r| r.url.contains("dead") && !r.dials.is_empty()).count();
        assert_eq!(tried, 6, "each had its turn");
    });
}

#[test]
fn our_own_address_is_never_dialled() {
    scenario("our_own_address_is_never_dialled", |w| {
        village(w, 60);
        settle(w);
        // The world ends at a dial of what it does not know.
        let urls: Vec<String> = (0..64)
            .flat_map(|n| [format!("ws://grasp.example/x{n}"), format!("wss://grasp.example:{}/", 11_000 + n)])
            .collect();
        announce(w, 100, 16, &urls);
        newcomer_is_followed(w, 7, "newcomer");
        assert_eq!(w.status()["relays"].as_array().map(Vec::len), Some(3));
    });
}
