//! Where this design differs from the one it came from (spec section 14): each row as scenarios.
//!
//! | row | scenarios |
//! |---|---|
//! | live opens first, history by sweeps | `live_opens_first_and_history_comes_by_sweeps` |
//! | events are derived, not held once per relay | `an_event_is_held_once_and_asked_for_at_every_relay_of_its_repo` |
//! | the store reports what it accepted | `what_the_store_accepts_is_followed_whatever_its_source` |
//! | `through` − overlap, durable | `a_link_that_drops_in_the_middle_of_history_loses_nothing`, `a_link_that_drops_in_the_middle_of_a_window_loses_nothing`, `a_link_that_drops_in_the_middle_of_a_short_catch_up_loses_nothing`, `a_relay_that_was_away_is_read_from_where_it_was_complete`, `catchup::after_a_gap_only_what_was_published_meanwhile_is_read`, `catchup::a_kill_during_catch_up_loses_nothing_and_claims_nothing`, `catchup::a_restart_fetches_almost_nothing_again` |
//! | a state before its announcement is asked for again | `catchup::a_state_that_comes_before_its_announcement_is_asked_for_again`, `catchup::a_live_state_that_overtakes_its_announcement_is_asked_for_again` |
//! | success is a stable link | `success_is_a_stable_link_and_not_a_connected_one`, `health::a_relay_that_takes_connections_and_hangs_up_is_not_hammered` |
//! | consolidates above 70 and above twice the minimum | `a_large_minimum_is_not_consolidated_before_it_has_doubled`, `a_relay_too_large_for_it_never_consolidates`, `live::consolidation_above_so_many_filters_sweeps_before_it_reopens_the_minimal_set` |
//! | relays have limits | `within_the_strictest_limits_nothing_is_left_out`, `lessons::pages_are_counted_by_what_came_and_not_by_what_was_kept`, `lessons::a_crowded_second_is_split_where_it_can_be` |

use crate::clock::{HOUR, MILLI, MINUTE, Micros, SECOND};
use crate::events::{Author, EventRef};
use crate::link::Path;
use crate::model_relay::{Mode, Refusal, RelayConfig};
use crate::scenario;
use crate::setup::{OLD, Village, assert_at, quiet, settle, village};
use crate::world::World;

#[test]
fn live_opens_first_and_history_comes_by_sweeps() {
    scenario("live_opens_first_and_history_comes_by_sweeps", |w| {
        w.path = Path { latency: 400 * MILLI, jitter: 0 };
        let v = village(w, 60);
        let issues = v.issues(150, OLD + 60);
        w.hold_all("far", &issues);
        w.start();
        w.run_until("the first question", MINUTE, |w| !w.relay("far").reqs.is_empty());
        let live = v.owner.issue(&v.repo, w.clock.wall(), "during the catch-up");
        w.publish("far", &live);
        w.run_until("it is heard live", SECOND, |w| w.has(&live));
        assert_eq!(w.relay_status("far")["state"], "Catchup", "history is still being read");
        assert!(!w.has_all(&issues));
        quiet(w);
        assert!(w.has_all(&issues));
        // What stays open asks since a moment; every page of history was one filter, and was closed.
        let far = w.relay("far");
        assert_eq!(far.sessions().len(), 1);
        let open: Vec<_> = far.sessions().values().flat_map(|s| s.subscriptions.values().flatten()).collect();
        assert!(!open.is_empty() && open.iter().all(|f| f.since.is_some()), "{open:?}");
        let history: Vec<_> = far.reqs.iter().filter(|r| r.filters.iter().any(|f| f.since.is_none())).collect();
        assert!(history.iter().all(|r| r.filters.len() == 1), "a page asks one filter");
        assert_eq!(far.received_close.len(), history.len());
    });
}

#[test]
fn an_event_is_held_once_and_asked_for_at_every_relay_of_its_repo() {
    scenario("an_event_is_held_once_and_asked_for_at_every_relay_of_its_repo", |w| {
        let v = village(w, 60);
        for name in ["third", "fourth"] {
            w.add_relay(name, RelayConfig::strfry());
        }
        let three = ["wss://hub.example", "wss://far.example", "wss://third.example"];
        w.hold("hub", &v.owner.announcement("alpha", &three, OLD + 1));
        let issues = v.issues(5, OLD + 60);
        w.hold_all("far", &issues);
        settle(w);
        assert_eq!(w.status()["root_events"], 5);
        for relay in ["hub", "far", "third"] {
            assert_eq!(w.relay_status(relay)["root_events"], 5, "{relay}");
            assert!(issues.iter().all(|i| w.relay(relay).reqs.iter().any(|r| r.asks("e", &i.id))), "{relay}");
        }
        // The repo moves: nothing of it stays behind at a relay, all of it is asked for at the new one.
        let moved = ["wss://hub.example", "wss://fourth.example"];
        let moved = v.owner.announcement("alpha", &moved, w.clock.wall());
        w.publish("hub", &moved);
        w.run_until("the relays change", 10 * SECOND, |w| w.links_to("third") == 0 && w.links_to("fourth") == 1);
        quiet(w);
        assert_eq!(w.links_to("far"), 0);
        assert_eq!(w.relay_status("fourth")["root_events"], 5);
        assert!(issues.iter().all(|i| w.relay("fourth").reqs.iter().any(|r| r.asks("e", &i.id))));
    });
}

#[test]
fn what_the_store_accepts_is_followed_whatever_its_source() {
    scenario("what_the_store_accepts_is_followed_whatever_its_source", |w| {
        let v = village(w, 60);
        for name in ["by-client", "by-live", "by-sweep"] {
            w.add_relay(name, RelayConfig::strfry());
        }
        settle(w);
        // The own relay is not in the world: a socket to it would fail the scenario.
        let dialled = |w: &mut World, relay: &'static str, announced: Micros| {
            w.run_until("the relay is dialled", 10 * SECOND, |w| !w.relay(relay).dials.is_empty());
            // The link to the relay before may have been opened a second after that was asked what it is.
            assert_at(w.relay(relay).dials[0], announced + 5 * SECOND, 1_450 * MILLI, relay);
        };
        let client = w.connect_client();
        let by_client = v.owner.announcement("beta", &["wss://by-client.example"], w.clock.wall());
        let now = w.clock.now();
        w.client_publishes(client, &by_client);
        // Found when the new relay is swept.
        let by_sweep = Author::new(2).announcement("gamma", &["wss://by-sweep.example"], OLD);
        w.hold("by-client", &by_sweep);
        dialled(w, "by-client", now);
        let now = w.clock.now();
        dialled(w, "by-sweep", now);
        let by_live = Author::new(3).announcement("delta", &["wss://by-live.example"], w.clock.wall());
        let now = w.clock.now();
        w.publish("by-sweep", &by_live);
        dialled(w, "by-live", now);
    });
}

#[test]
fn a_link_that_drops_in_the_middle_of_history_loses_nothing() {
    for pages in [0, 1, 3, 6, 15, 22] {
        scenario("a_link_that_drops_in_the_middle_of_history_loses_nothing", |w| {
            let v = village(w, 60);
            let issues = v.issues(130, OLD + 60);
            let comments: Vec<EventRef> = issues.iter().map(|i| v.owner.comment(i, i.created_at + 5, "")).collect();
            w.hold_all("far", issues.iter().chain(&comments));
            w.start();
            w.run_until("so many questions", MINUTE, |w| w.relay("far").reqs.len() > pages);
            w.drop_links("far");
            let back = w.clock.now();
            w.run_until("everything", MINUTE, |w| w.has_all(issues.iter().chain(&comments)));
            quiet(w);
            // As long as nothing was confirmed, all of it is asked for from its beginning.
            let whole = w.relay("far").reqs_since(back).any(|r| r.filters.iter().any(|f| whole_repo(f, &v)));
            assert_eq!(whole, pages < 10, "whether the repo is read from its beginning");
            // And now it is confirmed, even for a process that has not seen it.
            w.kill();
            let back = w.clock.now();
            settle(w);
            let whole = w.relay("far").reqs_since(back).any(|r| r.filters.iter().any(|f| whole_repo(f, &v)));
            assert!(!whole, "what was finished is not read again");
        });
    }
}

#[test]
fn a_link_that_drops_in_the_middle_of_a_window_loses_nothing() {
    for pages in [0, 1, 3] {
        scenario("a_link_that_drops_in_the_middle_of_a_window_loses_nothing", |w| {
            let v = village(w, 60);
            settle(w);
            w.run_for(HOUR);
            let issue = v.owner.issue(&v.repo, w.clock.wall(), "new");
            let comments: Vec<EventRef> =
                (0..150).map(|n| v.owner.comment(&issue, OLD + n, "older than its root")).collect();
            w.hold_all("far", &comments);
            w.publish("far", &issue);
            let asked = w.relay("far").reqs.len();
            w.run_until("so many questions", MINUTE, |w| w.relay("far").reqs.len() > asked + pages);
            w.drop_links("far");
            w.run_until("all comments", MINUTE, |w| w.has_all(&comments));
        });
    }
}

#[test]
fn a_link_that_drops_in_the_middle_of_a_short_catch_up_loses_nothing() {
    scenario("a_link_that_drops_in_the_middle_of_a_short_catch_up_loses_nothing", |w| {
        let v = village(w, 60);
        settle(w);
        w.relay("far").mode = Mode::Refuses;
        w.drop_links("far");
        let gap = v.issues(180, w.clock.wall());
        w.hold_all("far", &gap);
        w.run_for(3 * HOUR);
        w.relay("far").mode = Mode::Up;
        for _ in 0..4 {
            let asked = w.relay("far").reqs.len();
            w.run_until("a question", 2 * HOUR, |w| w.relay("far").reqs.len() > asked);
            w.run_for(45 * MILLI);
            assert!(w.missing(&gap) > 60, "most of the gap is still to come");
            w.drop_links("far");
        }
        w.run_until("the whole gap", 2 * HOUR, |w| w.has_all(&gap));
    });
}

fn whole_repo(filter: &crate::events::DumbFilter, v: &Village) -> bool {
    filter.asks("a", &v.repo) && filter.since.is_none()
}

#[test]
fn success_is_a_stable_link_and_not_a_connected_one() {
    scenario("success_is_a_stable_link_and_not_a_connected_one", |w| {
        village(w, 60);
        w.relay("far").refusals.extend((0..1_000).map(|_| Some(Refusal::Nothing)));
        w.start();
        w.run_until("far is dialled", MINUTE, |w| w.links_to("far") == 1);
        let redialled_after = |w: &mut World, lives: Micros| {
            w.run_for(lives);
            w.drop_links("far");
            let (dropped, dials) = (w.clock.now(), w.relay("far").dials.len());
            w.run_until("it is dialled again", MINUTE, |w| w.relay("far").dials.len() > dials);
            w.clock.now() - dropped
        };
        // Connected, but it has neither answered nor lived for a minute: a failure each time.
        for wait in [5, 10, 20, 40] {
            let pause = redialled_after(w, 50 * SECOND);
            assert_at(pause, wait * SECOND, SECOND, "the pause after a link of 50 s");
        }
        assert_eq!(w.relay_status("far")["failures"], 4);
        let pause = redialled_after(w, 62 * SECOND);
        assert_at(pause, 0, SECOND, "the pause after a link of 62 s");
        assert_eq!(w.relay_status("far")["failures"], 0);
        // And one that has answered is one at once, but for the base delay since its dial.
        w.relay("far").refusals.clear();
        w.drop_links("far");
        w.run_for(6 * SECOND);
        let pause = redialled_after(w, 5 * SECOND);
        assert_at(pause, 0, SECOND, "the pause after an answer");
    });
}

/// Times that the live set of `relay` was opened: at first and at each consolidation.
fn live_sets(w: &mut World, relay: &str) -> usize {
    let live = |f: &crate::events::DumbFilter| f.is_layer_1() && f.since.is_some();
    w.relay(relay).reqs.iter().filter(|r| r.filters.iter().any(live)).count()
}

/// A relay with `old` roots, of five to a filter, and `windows` windows of one new root each; how often it consolidated.
fn consolidations(w: &mut World, old: u64, windows: u64) -> usize {
    w.settings.limits.consolidate_above_filters = 20;
    w.settings.limits.filter_values_max = 5;
    let v = village(w, 100);
    let old = v.issues(old, OLD + 60);
    w.hold_all("far", &old);
    w.start();
    w.run_until("the old roots", MINUTE, |w| w.has_all(&old));
    w.run_for(MINUTE);
    // A new process opens the minimal set from the start.
    w.kill();
    w.start();
    w.run_for(MINUTE);
    let before = live_sets(w, "far");
    let mut all: Vec<EventRef> = Vec::new();
    for n in 0..windows {
        let issue = v.owner.issue(&v.repo, w.clock.wall(), &format!("new {n}"));
        let comment = v.owner.comment(&issue, OLD + n, "older than its root");
        w.hold("far", &comment);
        w.publish("far", &issue);
        w.run_for(6 * SECOND);
        all.extend([issue, comment]);
    }
    w.run_until("all", MINUTE, |w| w.has_all(&all));
    live_sets(w, "far") - before
}

#[test]
fn a_large_minimum_is_not_consolidated_before_it_has_doubled() {
    // Layer 1, one chunk of repos, four of roots: 16 filters. Each window adds three. More than 20 are there at the
    // second window already, more than twice the minimum, which grows a little meanwhile, only at the seventh.
    scenario("a_large_minimum_is_not_consolidated_before_it_has_doubled", |w| {
        let times = consolidations(w, 20, 6);
        assert_eq!(times, 0, "consolidated though the minimum is nearly as large");
    });
    scenario("a_large_minimum_is_not_consolidated_before_it_has_doubled", |w| {
        let times = consolidations(w, 20, 8);
        assert_eq!(times, 1);
    });
}

#[test]
fn a_relay_too_large_for_it_never_consolidates() {
    // Twenty chunks of roots take seven of the eight live subscriptions: a new one would be full after a window or two.
    scenario("a_relay_too_large_for_it_never_consolidates", |w| {
        assert_eq!(consolidations(w, 100, 20), 0);
    });
}

#[test]
fn within_the_strictest_limits_nothing_is_left_out() {
    scenario("within_the_strictest_limits_nothing_is_left_out", |w| {
        let v = village(w, 60);
        let far = w.relay("far");
        far.config.flavour.subscriptions.max = 10;
        far.config.flavour.filters.max = 10;
        let people: Vec<Author> = (10..40).map(Author::new).collect();
        let repos: Vec<EventRef> =
            people.iter().map(|p| p.announcement(&"d".repeat(500), &["wss://far.example"], OLD)).collect();
        w.hold_all("hub", &repos);
        let mut issues: Vec<EventRef> = v.issues(2_600, OLD + 60);
        issues.extend(people.iter().map(|p| p.issue(&p.repo(&"d".repeat(500)), OLD + 70, "long name")));
        let comments: Vec<EventRef> =
            issues.iter().step_by(9).map(|i| v.owner.comment(i, i.created_at + 5, "")).collect();
        w.hold_all("far", issues.iter().chain(&comments));
        w.start();
        w.run_until("everything", 10 * MINUTE, |w| w.has_all(issues.iter().chain(&comments)));
        w.run_for(MINUTE);
        assert_eq!(w.relay("far").dials.len(), 1);
        assert!(w.relay("far").breaches.is_empty(), "{:?}", w.relay("far").breaches);
        assert_eq!(w.relay_status("far")["sweeps_failed"], false);
        // Live as far as the subscriptions go, the rest in turn: nothing is silently uncovered.
        let status = w.relay_status("far");
        let covered = |what: &str| {
            status["live"][what].as_u64().unwrap_or_default() + status["polled"][what].as_u64().unwrap_or_default()
        };
        assert_eq!((covered("repos"), covered("root_events")), (31, 2_630));
        assert!(status["polled"]["root_events"].as_u64() > Some(0), "more than fits live");
        let late: Vec<EventRef> =
            issues.iter().step_by(100).map(|i| v.owner.comment(i, w.clock.wall(), "late")).collect();
        late.iter().for_each(|e| w.publish("far", e));
        w.run_until("comments on every chunk", HOUR, |w| w.has_all(&late));
    });
}

#[test]
fn a_relay_that_was_away_is_read_from_where_it_was_complete() {
    // Days, and through a restart: the record is durable and says when, not how long.
    scenario("a_relay_that_was_away_is_read_from_where_it_was_complete", |w| {
        let v = village(w, 60);
        w.settings.timing.daily_catchup = grasp_sync::time::Duration::from_secs(30 * 86_400);
        let old = v.issues(100, OLD + 60);
        w.hold_all("far", &old);
        settle(w);
        w.run_for(10 * MINUTE);
        let complete = w.clock.wall();
        w.relay("far").mode = Mode::Refuses;
        w.drop_links("far");
        w.run_for(3 * HOUR);
        w.kill();
        let meanwhile = v.owner.issue(&v.repo, w.clock.wall(), "while both were away");
        w.hold("far", &meanwhile);
        w.run_for(24 * HOUR);
        w.relay("far").mode = Mode::Up;
        let (back, before) = (w.clock.now(), w.relay("far").events_sent());
        w.start();
        // Before an audit comes, which asks since the last one.
        w.run_until("live again", MINUTE, |w| w.relay_status("far")["state"] == "Live");
        assert!(w.has(&meanwhile));
        assert!(w.relay("far").events_sent() - before <= 4, "the old ones came again");
        let filters = w.relay("far").reqs_since(back).flat_map(|r| &r.filters);
        let asked: Vec<Option<u64>> = filters.filter(|f| f.asks("a", &v.repo)).map(|f| f.since).collect();
        let sweep = asked.iter().flatten().min().copied().expect("the repo is asked for");
        // `through` is written five minutes after it moved at the latest.
        assert!(asked.iter().all(Option::is_some), "{asked:?}");
        assert!((complete - 900 - 330..=complete - 900).contains(&sweep), "asked since {sweep}");
    });
}
