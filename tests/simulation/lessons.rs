//! What went wrong in other systems, each as a scenario that must not repeat it here.
//!
//! Stops or never starts:
//!
//! | failure | scenarios |
//! |---|---|
//! | a clean-up dropped relays that had nothing confirmed | `a_relay_with_nothing_confirmed_yet_is_not_dropped` |
//! | waiting for EOSE held what EOSE needed | `an_eose_that_never_comes_stalls_nothing_else`, `health::an_eose_that_never_comes_is_given_up_and_asked_again` |
//! | a burst overflowed and passed for a disconnect | `a_burst_is_no_disconnect` |
//! | down at first, or dropped before anything was confirmed: never tried again | `a_relay_that_drops_before_anything_is_confirmed_is_tried_again`, `health::a_relay_that_is_down_from_the_start_is_tried_again_until_it_is_up`, `health::a_bootstrap_relay_that_is_down_from_the_start_is_tried_again` |
//! | a lost connection went unnoticed | `health::a_silently_dead_link_is_found_within_a_minute` |
//! | the state at start was read through a cap, or since now | `the_state_at_start_is_not_read_through_a_cap_nor_since_now` |
//!
//! Silently incomplete:
//!
//! | failure | scenarios |
//! |---|---|
//! | after an outage only `limit:0` came back, with an elapsed time for a date | `catchup::after_a_gap_only_what_was_published_meanwhile_is_read`, `design::a_relay_that_was_away_is_read_from_where_it_was_complete` |
//! | pages were counted by what was kept | `pages_are_counted_by_what_came_and_not_by_what_was_kept`, `more_events_in_one_second_than_a_page_do_not_loop` |
//! | a timeout counted as success | `a_timeout_is_no_success` |
//! | each restart fetched everything again | `catchup::a_restart_fetches_almost_nothing_again` |
//! | layer 3 never fired, or with ids of announcements; discovery ended after one hop | `layer_3_asks_for_roots_and_never_for_announcements`, `catchup::a_chain_of_relays_is_followed_to_its_end` |
//! | only the first `a` tag, no 1619, `d` cut at `:` | `every_a_tag_counts_and_so_does_every_root_kind_and_colon` |
//! | what was refused too early stayed refused | `catchup::a_state_that_comes_before_its_announcement_is_asked_for_again`, `lifecycle::a_refused_event_is_accepted_once_its_repo_is_followed` |
//!
//! Too much:
//!
//! | failure | scenarios |
//! |---|---|
//! | each window sent the whole index again | `many_windows_cost_neither_copies_nor_subscriptions`, `live::each_window_asks_only_for_what_is_new` |
//! | one filter to a REQ | `live_filters_are_packed_into_few_reqs` |
//! | "too many REQs" in a CLOSED was ignored | `health::too_many_reqs_in_a_closed_is_read` |
//! | hosts of clone URLs were dialled; forms of one URL were different relays | `only_relays_are_dialled_and_the_own_one_is_known_by_its_parts`, `urls_that_differ_in_form_are_one_relay` |
//! | what was refused for good was judged every day | `intake::tests::what_was_refused_for_good_costs_one_lookup_ever_after` |
//! | logs printed lists of ids | `logs_at_information_level_print_no_ids` |
//!
//! Wrong:
//!
//! | failure | scenarios |
//! |---|---|
//! | the own relay was known by a substring | `only_relays_are_dialled_and_the_own_one_is_known_by_its_parts` |
//! | anyone could publish a repository's state | `a_repository_state_is_taken_from_maintainers_alone` |
//! | words in error texts decided that a relay is broken | `words_in_free_text_do_not_make_a_relay_broken` |
//! | a blip after good minutes re-read everything or nothing | `a_blip_after_a_long_good_time_re_reads_the_overlap_and_no_more` |
//! | success counted at connect | `health::a_relay_that_takes_connections_and_hangs_up_is_not_hammered`, `design::success_is_a_stable_link_and_not_a_connected_one` |
//! | removed repos and relays stayed in the index | `lifecycle::unlisting_the_last_repo_closes_a_relay_but_never_the_bootstrap`, `lifecycle::a_deleted_root_is_removed_and_kept_out` |

use crate::clock::{HOUR, MILLI, MINUTE, SECOND};
use crate::events::{Author, DumbFilter, EventRef};
use crate::model_relay::{Refusal, RelayConfig, closed, event_text, notice};
use crate::scenario;
use crate::setup::{OLD, quiet, settle, village};
use std::collections::BTreeSet;
use std::rc::Rc;

#[test]
fn pages_are_counted_by_what_came_and_not_by_what_was_kept() {
    scenario("pages_are_counted_by_what_came_and_not_by_what_was_kept", |w| {
        let v = village(w, 60);
        w.relay("hub").config = RelayConfig::capped(60);
        // A thousand announcements of other services lie before the one that is ours.
        for n in 0..1_000 {
            let event = Author::new(100 + n % 7).foreign_announcement(&format!("foreign-{n}"), OLD + 100 + n);
            w.forbid(&event, "another service's");
            w.hold("hub", &event);
        }
        w.start();
        w.run_until("our announcement", 5 * MINUTE, |w| w.has(&v.announcement));
    });
}

#[test]
fn more_events_in_one_second_than_a_page_do_not_loop() {
    scenario("more_events_in_one_second_than_a_page_do_not_loop", |w| {
        let v = village(w, 60);
        let crowd: Vec<EventRef> = (0..75).map(|n| v.owner.issue(&v.repo, OLD + 500, &n.to_string())).collect();
        let before = v.issues(5, OLD + 60);
        let after: Vec<EventRef> = v.issues(5, OLD + 900);
        w.hold_all("far", crowd.iter().chain(&before).chain(&after));
        settle(w);
        assert!(w.has_all(before.iter().chain(&after)), "what lies behind the crowded second");
        assert!(w.missing(&crowd) <= 15, "all of the crowd that the relay would show");
        w.run_for(HOUR);
    });
}

#[test]
fn a_crowded_second_is_split_where_it_can_be() {
    scenario("a_crowded_second_is_split_where_it_can_be", |w| {
        let v = village(w, 60);
        let issues = v.issues(8, OLD + 60);
        let crowd: Vec<EventRef> =
            (0..240).map(|n| v.owner.comment(&issues[n % 8], OLD + 5_000, &n.to_string())).collect();
        w.hold_all("far", issues.iter().chain(&crowd));
        w.start();
        w.run_until("the whole crowd", 5 * MINUTE, |w| w.has_all(&crowd));
        quiet(w);
    });
}

#[test]
fn the_state_at_start_is_not_read_through_a_cap_nor_since_now() {
    scenario("the_state_at_start_is_not_read_through_a_cap_nor_since_now", |w| {
        let owner = Author::new(1);
        w.add_relay("hub", RelayConfig::strfry());
        w.bootstrap("hub");
        let repos: Vec<String> = (0..1_200).map(|n| format!("repo-{n}")).collect();
        let announce = |(n, d): (usize, &String)| owner.announcement(d, &["wss://hub.example"], OLD + n as u64 / 9);
        let mut all: Vec<EventRef> = repos.iter().enumerate().map(announce).collect();
        let roots: Vec<EventRef> =
            repos[..600].iter().map(|d| owner.issue(&owner.repo(d), OLD + 3_600, "an issue")).collect();
        all.extend(roots.iter().cloned());
        w.hold_all("hub", &all);
        w.start();
        w.run_until("everything", 10 * MINUTE, |w| w.has_all(&all));
        w.run_for(MINUTE);
        w.kill();
        let restarted = w.clock.now();
        w.start();
        w.run_for(5 * MINUTE);
        let mut asked: BTreeSet<String> = BTreeSet::new();
        for filter in w.relay("hub").reqs_since(restarted).flat_map(|r| &r.filters) {
            asked.extend(filter.tags.iter().filter(|(name, _)| *name == "a" || *name == "e").flat_map(|t| t.1.clone()));
        }
        assert_eq!(repos.iter().filter(|d| !asked.contains(&owner.repo(d))).count(), 0, "repos not asked for");
        assert_eq!(roots.iter().filter(|e| !asked.contains(&e.id)).count(), 0, "root events not asked for");
    });
}

#[test]
fn every_a_tag_counts_and_so_does_every_root_kind_and_colon() {
    scenario("every_a_tag_counts_and_so_does_every_root_kind_and_colon", |w| {
        let v = village(w, 60);
        let odd = v.owner.announcement("a:b:c", &["wss://far.example"], OLD);
        w.hold("hub", &odd);
        let repos = [Author::new(50).repo("unknown"), v.owner.repo("a:b:c"), v.repo.clone()];
        let tags: Vec<&str> = repos.iter().map(|r| &**r).collect();
        let roots: Vec<EventRef> =
            [1617, 1618, 1619, 1621].iter().map(|k| v.owner.root(*k, &tags, OLD + 60, "root")).collect();
        let comments: Vec<EventRef> = roots.iter().map(|r| v.owner.comment(r, OLD + 70, "on it")).collect();
        let colons_alone = v.owner.issue(&v.owner.repo("a:b:c"), OLD + 80, "of no other repo");
        w.hold_all("far", roots.iter().chain(&comments).chain([&colons_alone]));
        w.start();
        w.run_until("all", MINUTE, |w| w.has_all(roots.iter().chain(&comments).chain([&colons_alone])));
    });
}

#[test]
fn urls_that_differ_in_form_are_one_relay() {
    scenario("urls_that_differ_in_form_are_one_relay", |w| {
        let v = village(w, 60);
        for (n, form) in ["wss://far.example/", "wss://FAR.example:443", "WSS://far.example"].iter().enumerate() {
            w.hold("hub", &v.owner.announcement(&format!("form-{n}"), &[form], OLD + 1));
        }
        settle(w);
        assert_eq!(w.relay("far").dials.len(), 1);
    });
}

#[test]
fn only_relays_are_dialled_and_the_own_one_is_known_by_its_parts() {
    scenario("only_relays_are_dialled_and_the_own_one_is_known_by_its_parts", |w| {
        let v = village(w, 60);
        w.add_relay("evil-grasp", RelayConfig::strfry());
        // The clone URL's host and the own relay are not in the world: dialling them would fail the scenario.
        let forms = ["wss://grasp.example/", "wss://GRASP.example:443", "wss://evil-grasp.example"];
        w.hold("hub", &v.owner.announcement("beta", &forms, OLD));
        settle(w);
        assert_eq!(w.links_to("evil-grasp"), 1, "its name merely ends like ours");
    });
}

#[test]
fn a_relay_with_nothing_confirmed_yet_is_not_dropped() {
    scenario("a_relay_with_nothing_confirmed_yet_is_not_dropped", |w| {
        let v = village(w, 60);
        let slow = v.issues(40, OLD + 60);
        w.hold_all("far", &slow);
        // The live subscription and a few sweeps are let through; the rest gets no answer for a long time.
        w.relay("far").refusals.extend((0..60).map(|n| (n > 0).then_some(crate::model_relay::Refusal::Nothing)));
        w.start();
        // Windows come and go meanwhile: each is an occasion to look who is needed.
        for n in 0..10 {
            w.run_for(MINUTE);
            let issue = v.owner.issue(&v.repo, w.clock.wall(), &format!("on the hub {n}"));
            w.publish("hub", &issue);
            w.run_for(10 * SECOND);
            assert_eq!((w.links_to("far"), w.relay("far").dials.len()), (1, 1), "after {n} windows");
        }
        w.relay("far").refusals.clear();
        w.run_until("all", 3 * HOUR, |w| w.has_all(&slow));
    });
}

#[test]
fn a_forged_event_is_refused_and_does_not_shut_out_the_true_one() {
    scenario("a_forged_event_is_refused_and_does_not_shut_out_the_true_one", |w| {
        let v = village(w, 60);
        settle(w);
        let issue = v.owner.issue(&v.repo, w.clock.wall(), "true");
        let forged = issue.json.replace("\"true\"", "\"forged\"");
        // Still a signature to look at, but not of this event.
        let other = v.owner.issue(&v.repo, w.clock.wall(), "other");
        let signature = |json: &str| serde_json::from_str::<serde_json::Value>(json).expect("JSON")["sig"].to_string();
        let bad_signature = issue.json.replace(&signature(&issue.json), &signature(&other.json));
        let subscriptions: Vec<String> =
            w.relay("far").sessions().values().flat_map(|s| s.subscriptions.keys().cloned()).collect();
        for json in [forged, bad_signature] {
            for subscription in &subscriptions {
                let copy = crate::events::SimEvent {
                    id: issue.id.clone(),
                    author: issue.author.clone(),
                    created_at: issue.created_at,
                    kind: issue.kind,
                    tags: issue.tags.clone(),
                    json: json.clone(),
                };
                w.relay_says("far", &event_text(subscription, &Rc::new(copy)));
            }
        }
        w.run_for(2 * SECOND);
        assert!(!w.has(&issue));
        w.publish("far", &issue);
        w.run_until("the true one", SECOND, |w| w.has(&issue));
        let text = issue.json.clone();
        assert!(w.durable().events[&issue.id].json.contains("true"), "{text}");
    });
}

#[test]
fn a_burst_is_no_disconnect() {
    scenario("a_burst_is_no_disconnect", |w| {
        let v = village(w, 500);
        settle(w);
        let burst: Vec<EventRef> =
            (0..2_000).map(|n| v.owner.issue(&v.repo, w.clock.wall() - n % 60, &n.to_string())).collect();
        burst.iter().for_each(|e| w.publish("far", e));
        w.run_until("the burst", 10 * SECOND, |w| w.has_all(&burst));
        assert_eq!(w.relay("far").dials.len(), 1);
    });
}

#[test]
fn a_jump_of_the_wall_clock_moves_no_cursor_past_what_was_read() {
    scenario("a_jump_of_the_wall_clock_moves_no_cursor_past_what_was_read", |w| {
        let v = village(w, 60);
        settle(w);
        // An hour ahead while the relay says nothing, then the link drops, and the clock is set right again.
        w.clock.jump_wall(3_600);
        w.run_for(10 * SECOND);
        w.drop_links("far");
        w.run_for(10 * MINUTE);
        w.clock.jump_wall(-3_600);
        let issue = v.owner.issue(&v.repo, w.clock.wall(), "in the right time");
        w.publish("far", &issue);
        w.run_for(MINUTE);
        w.drop_links("far");
        let next = v.owner.issue(&v.repo, w.clock.wall() + 1, "while away");
        w.publish("far", &next);
        w.run_until("both", 30 * MINUTE, |w| w.has(&issue) && w.has(&next));
    });
}

#[test]
fn an_eose_that_never_comes_stalls_nothing_else() {
    scenario("an_eose_that_never_comes_stalls_nothing_else", |w| {
        let v = village(w, 60);
        let issues = v.issues(100, OLD + 60);
        w.hold_all("far", &issues);
        w.add_relay("mute", RelayConfig::strfry());
        w.relay("mute").refusals.extend((0..1_000).map(|_| Some(Refusal::NoEose)));
        w.hold("hub", &v.owner.announcement("beta", &["wss://mute.example"], OLD));
        let on_mute = v.owner.issue(&v.owner.repo("beta"), OLD + 60, "without an EOSE");
        w.hold("mute", &on_mute);
        w.start();
        w.run_until("the mute one is asked", MINUTE, |w| !w.relay("mute").reqs.is_empty());
        w.run_until("the rest meanwhile", 5 * SECOND, |w| w.has_all(&issues));
        for n in 0..30 {
            let live = v.owner.issue(&v.repo, w.clock.wall(), &format!("live {n}"));
            w.publish("far", &live);
            w.run_until("a live event meanwhile", SECOND, |w| w.has(&live));
            let client = w.connect_client();
            let published = v.owner.issue(&v.repo, w.clock.wall(), &format!("client {n}"));
            w.client_publishes(client, &published);
            w.run_until("a client's event meanwhile", SECOND, |w| w.client(client).ok(&published).is_some_and(|o| o.0));
            w.run_for(5 * SECOND);
        }
        assert!(w.has(&on_mute), "what it did send counts");
    });
}

#[test]
fn a_relay_that_drops_before_anything_is_confirmed_is_tried_again() {
    for bootstrap in [true, false] {
        scenario("a_relay_that_drops_before_anything_is_confirmed_is_tried_again", |w| {
            let v = village(w, 60);
            let issues = v.issues(100, OLD + 60);
            let relay = if bootstrap { "hub" } else { "far" };
            w.hold_all(relay, &issues);
            w.start();
            for _ in 0..8 {
                w.run_until("a link", 2 * HOUR, |w| w.relay(relay).sessions().len() == 1);
                let some = w.rng.below(15 * MILLI);
                w.run_for(some);
                // What is asked takes 20 ms to get there, and its answer as long.
                assert!(!w.has(&issues[0]) && (!bootstrap || !w.has(&v.announcement)));
                w.drop_links(relay);
                w.run_for(SECOND);
            }
            w.run_until("everything", 2 * HOUR, |w| w.has_all(&issues));
        });
    }
}

#[test]
fn a_timeout_is_no_success() {
    scenario("a_timeout_is_no_success", |w| {
        let v = village(w, 60);
        let issues = v.issues(30, OLD + 60);
        w.hold_all("far", &issues);
        // What is live is answered, what asks for history never is.
        w.relay("far").ignores_history = true;
        w.start();
        w.run_for(20 * MINUTE);
        let status = w.relay_status("far");
        assert_eq!(status["sweeps_failed"], true);
        assert!(status["last_full_catchup"].is_null() && status["through"].is_null(), "{status:#}");
        w.relay("far").ignores_history = false;
        w.kill();
        settle(w);
        assert!(w.has_all(&issues), "a restart believes nothing that the timeout left");
        assert!(!w.relay_status("far")["through"].is_null());
    });
}

#[test]
fn layer_3_asks_for_roots_and_never_for_announcements() {
    scenario("layer_3_asks_for_roots_and_never_for_announcements", |w| {
        let v = village(w, 60);
        let old = v.owner.issue(&v.repo, OLD + 60, "brought by a sweep");
        w.hold("far", &old);
        settle(w);
        let live = v.owner.issue(&v.repo, w.clock.wall(), "brought live");
        w.publish("far", &live);
        let client = w.connect_client();
        let published = v.owner.issue(&v.repo, w.clock.wall(), "brought by a client");
        w.client_publishes(client, &published);
        quiet(w);
        let roots = BTreeSet::from([&old, &live, &published].map(|e| e.id.clone()));
        for relay in ["hub", "far"] {
            for (name, ids) in [("e", true), ("E", true), ("q", false)] {
                let asked = w.relay(relay).reqs.iter().flat_map(|r| &r.filters).filter_map(|f| f.tags.get(name));
                let asked: BTreeSet<String> = asked.flatten().filter(|v| ids || !v.contains(':')).cloned().collect();
                assert_eq!(asked, roots, "#{name} at {relay}");
            }
        }
    });
}

#[test]
fn many_windows_cost_neither_copies_nor_subscriptions() {
    scenario("many_windows_cost_neither_copies_nor_subscriptions", |w| {
        let v = village(w, 60);
        let old = v.issues(50, OLD + 60);
        w.hold_all("far", &old);
        settle(w);
        let mut issues: Vec<EventRef> = Vec::new();
        let mut open = 0;
        for n in 0..60 {
            let issue = v.owner.issue(&v.repo, w.clock.wall(), &format!("{n}"));
            w.publish("far", &issue);
            issues.push(issue);
            w.run_for(6 * SECOND);
            open = open.max(w.relay("far").sessions().values().map(|s| s.subscriptions.len()).sum());
        }
        quiet(w);
        let copies = |w: &mut crate::world::World, e: &EventRef| w.relay("far").sent.get(&e.id).copied().unwrap_or(0);
        // A last page is asked for twice, as only that shows that it was the last.
        assert!(old.iter().all(|e| copies(w, e) <= 3), "old events come with the catch-up alone");
        // Live, and once more with each consolidation within the overlap.
        let most = issues.iter().map(|e| copies(w, e)).max();
        assert!(most <= Some(10), "an event came {most:?} times");
        assert!(open <= 10, "{open} subscriptions");
    });
}

#[test]
fn live_filters_are_packed_into_few_reqs() {
    scenario("live_filters_are_packed_into_few_reqs", |w| {
        let v = village(w, 500);
        let issues = v.issues(2_000, OLD + 60);
        w.hold_all("far", &issues);
        w.start();
        w.run_until("all issues", 5 * MINUTE, |w| w.has_all(&issues));
        w.kill();
        let restarted = w.clock.now();
        settle(w);
        // Layer 1, a chunk of repos, twenty of root events: 64 filters.
        let live = |f: &&DumbFilter| f.limit == Some(499);
        let reqs: Vec<usize> = w
            .relay("far")
            .reqs_since(restarted)
            .map(|r| r.filters.iter().filter(live).count())
            .filter(|n| *n > 0)
            .collect();
        assert_eq!(reqs, [10, 9, 9, 9, 9, 9, 9]);
    });
}

#[test]
fn a_repository_state_is_taken_from_maintainers_alone() {
    scenario("a_repository_state_is_taken_from_maintainers_alone", |w| {
        let v = village(w, 60);
        let helper = Author::new(7);
        let listed = ["relays", "wss://grasp.example", "wss://far.example"];
        w.hold("hub", &v.owner.announcement_on("beta", &v.owner.clone_url("beta"), &listed, &[&helper.hex], OLD));
        w.hold("far", &helper.acceptance("beta", &[&v.owner], OLD + 1));
        settle(w);
        let client = w.connect_client();
        let at = w.clock.wall();
        let strangers = [
            (Author::new(8).state("beta", at), "by nobody"),
            (helper.state("alpha", at), "of a repo that he does not maintain"),
            (v.owner.state("gamma", at), "of a repo that nobody announced"),
        ];
        for (state, why) in &strangers {
            w.forbid(state, why);
            w.client_publishes(client, state);
            w.publish("far", state);
        }
        let good = [v.owner.state("beta", at), helper.state("beta", at), v.owner.state("alpha", at)];
        good.iter().for_each(|state| w.client_publishes(client, state));
        w.run_until("all answers", SECOND, |w| {
            strangers.iter().map(|s| &s.0).chain(&good).all(|s| w.client(client).ok(s).is_some())
        });
        assert!(strangers.iter().all(|(s, _)| w.client(client).ok(s).is_some_and(|ok| !ok.0)));
        assert!(good.iter().all(|s| w.client(client).ok(s).is_some_and(|ok| ok.0)));
        quiet(w);
        assert!(w.has_all(&good));
    });
}

#[test]
fn words_in_free_text_do_not_make_a_relay_broken() {
    scenario("words_in_free_text_do_not_make_a_relay_broken", |w| {
        let v = village(w, 60);
        settle(w);
        for text in [
            "ssl certificate of npub1sslerror0certificate0invalid will be renewed",
            "error: tls handshake failed upstream",
            "dns resolution refused, timeout, banned, closed",
            "auth-required: blocked: restricted: error:",
        ] {
            w.relay_says("far", &notice(text));
            w.relay_says("far", &closed("nobody's", text));
            w.run_for(SECOND);
            let status = w.relay_status("far");
            assert_eq!((&status["state"], &status["health"]), (&"Live".into(), &"healthy".into()), "after {text:?}");
            assert!(status["cooldown_secs"].is_null(), "after {text:?}");
            let issue = v.owner.issue(&v.repo, w.clock.wall(), text);
            w.publish("far", &issue);
            w.run_until("a live event", SECOND, |w| w.has(&issue));
        }
        assert_eq!(w.relay("far").dials.len(), 1);
    });
}

#[test]
fn a_blip_after_a_long_good_time_re_reads_the_overlap_and_no_more() {
    for good in [2 * MINUTE, 14 * MINUTE, 16 * MINUTE, 3 * HOUR, 20 * HOUR] {
        scenario("a_blip_after_a_long_good_time_re_reads_the_overlap_and_no_more", |w| {
            let v = village(w, 60);
            let old = v.issues(100, OLD + 60);
            w.hold_all("far", &old);
            settle(w);
            w.run_for(good);
            let (wall, before) = (w.clock.wall(), w.relay("far").events_sent());
            w.drop_links("far");
            let back = w.clock.now();
            let meanwhile = v.owner.issue(&v.repo, wall, "in the blip");
            // Its time lies within the overlap, and it turns up only now.
            let late = v.owner.issue(&v.repo, wall - 840, "late by fourteen minutes");
            w.hold_all("far", [&meanwhile, &late]);
            w.run_until("both", MINUTE, |w| w.has(&meanwhile) && w.has(&late));
            quiet(w);
            let filters = w.relay("far").reqs_since(back).flat_map(|r| &r.filters).filter(|f| f.asks("a", &v.repo));
            let since: Vec<Option<u64>> = filters.map(|f| f.since).collect();
            // Live and swept; a relay is pinged every 30 s, so what is complete lies no further back than that.
            let expected = wall - 931..=wall - 898;
            assert!(since.iter().all(|s| s.is_some_and(|s| expected.contains(&s))), "{since:?} at {wall}");
            assert!(w.relay("far").events_sent() - before <= 12, "only the two, a few times");
        });
    }
}

#[test]
fn logs_at_information_level_print_no_ids() {
    scenario("logs_at_information_level_print_no_ids", |w| {
        w.logged = Some(Vec::new());
        let v = village(w, 60);
        let issues = v.issues(200, OLD + 60);
        w.hold_all("far", &issues);
        let strange = v.owner.issue(&v.owner.repo("unknown"), w.clock.wall(), "refused");
        settle(w);
        w.publish("far", &strange);
        w.relay_says("far", &notice(&issues[0].id));
        w.run_for(MINUTE);
        w.drop_links("far");
        w.run_for(MINUTE);
        let lines = w.logged.take().unwrap_or_default();
        assert!(lines.iter().any(|l| l.contains("full catch-up done")), "the log was heard: {lines:#?}");
        let ids = lines.iter().filter(|l| issues.iter().any(|i| l.contains(&i.id[..16])));
        assert_eq!(ids.count(), 0, "{lines:#?}");
        assert!(lines.iter().all(|l| l.len() <= 200) && lines.len() <= 60, "{} lines: {lines:#?}", lines.len());
    });
}
