//! Audits (spec sections 5, 6 and 8): what neither a live subscription nor a poll asks for is here within four hours,
//! within one where the relay reconciles, and that costs little.

use crate::client;
use crate::clock::{HOUR, MINUTE, Micros, SECOND};
use crate::events::{EventRef, SimEvent};
use crate::model_relay::RelayConfig;
use crate::scenario;
use crate::setup::{OLD, Village, quiet, settle, village};
use crate::world::World;
use serde_json::json;

/// A village whose relay `far` holds some issues with a comment each, half of them older than a month.
struct Talk {
    village: Village,
    issues: Vec<EventRef>,
    comments: Vec<EventRef>,
    /// By when a relay like `far` has been audited.
    within: Micros,
}

const ISSUES: u64 = 20;
const DAY_SECS: u64 = 86_400;

/// Plays a scenario with `far` as relays are that do not reconcile, and as those that do.
fn with_both(name: &'static str, run: impl Fn(&mut World, Talk)) {
    for (config, within) in [(RelayConfig::strfry(), 4 * HOUR), (RelayConfig::reconciling(), HOUR)] {
        scenario(name, |w| {
            let talk = Talk::begin(w, config, within);
            run(w, talk);
        });
    }
}

impl Talk {
    fn begin(w: &mut World, config: RelayConfig, within: Micros) -> Talk {
        let v = village(w, 500);
        w.relay("far").config = config;
        let issues = v.issues(ISSUES, OLD + 60);
        let comment = |n: usize, at: u64| v.owner.comment(&issues[n], at, &format!("comment {n}"));
        let recent = |n: usize| comment(n, OLD + 20 * DAY_SECS + n as u64);
        let old = |n: usize| comment(n, OLD - DAY_SECS + n as u64);
        let half = issues.len() / 2;
        let comments: Vec<EventRef> = (0..half).map(recent).chain((half..issues.len()).map(old)).collect();
        w.hold_all("far", &issues);
        w.hold_all("far", &comments);
        settle(w);
        w.run_until("the first full catch-up", HOUR, |w| w.relay_status("far")["last_full_catchup"].is_u64());
        quiet(w);
        assert!(w.has_all(issues.iter().chain(&comments)));
        Talk { village: v, issues, comments, within }
    }

    fn recent(&self) -> &EventRef {
        &self.comments[0]
    }

    fn old(&self) -> &EventRef {
        &self.comments[self.comments.len() - 1]
    }

    /// A reaction (NIP-25) that tags a comment and nothing else.
    fn reaction(&self, w: &World, comment: &SimEvent) -> EventRef {
        let tags: [&[&str]; 3] = [&["e", &comment.id], &["p", &comment.author], &["k", "1111"]];
        self.village.owner.sign(7, w.clock.wall(), &tags, "+")
    }
}

/// Nothing that is open asks for an event that has just been published.
fn comes_not_live(w: &mut World, event: &EventRef) {
    w.run_for(MINUTE);
    assert!(!w.has(event), "it comes live");
}

/// Whether the own relay serves an event.
fn is_served(w: &mut World, event: &EventRef) -> bool {
    let client = w.connect_client();
    w.run_for(SECOND);
    w.client_sends(client, &client::req("s", &json!({ "ids": [event.id] })));
    w.run_until("an answer", 10 * SECOND, |w| w.client(client).eose("s"));
    w.client(client).got(event).is_some()
}

/// Whether `far` was asked what tags an event, since then.
fn asked_about(w: &mut World, event: &EventRef, since: Micros) -> bool {
    let far = w.relay("far");
    let by_pages = far.reqs_since(since).any(|req| req.asks("e", &event.id));
    by_pages || far.negs.iter().any(|neg| neg.at >= since && neg.filter.asks("e", &event.id))
}

#[test]
fn an_event_dated_back_is_here_within_hours() {
    with_both("an_event_dated_back_is_here_within_hours", |w, talk| {
        // A link that was lost is live for what is dated a quarter of an hour back.
        for (ago, pause) in [(20 * 60, 10 * MINUTE), (3 * 3_600, 50 * MINUTE), (20 * 60, 3 * HOUR)] {
            w.drop_links("far");
            w.run_for(2 * MINUTE);
            let n = pause as usize % talk.issues.len();
            let issue = talk.village.owner.issue(&talk.village.repo, w.clock.wall() - ago, &format!("{ago} {pause}"));
            let comment = talk.village.owner.comment(&talk.issues[n], w.clock.wall() - ago, &format!("{ago} {pause}"));
            w.publish("far", &issue);
            w.publish("far", &comment);
            comes_not_live(w, &issue);
            w.run_until("what is dated back", talk.within - MINUTE, |w| w.has_all([&issue, &comment]));
            w.run_for(pause);
        }
    });
}

#[test]
fn an_event_dated_back_about_what_is_polled_is_here_within_four_hours() {
    scenario("an_event_dated_back_about_what_is_polled_is_here_within_four_hours", |w| {
        let v = village(w, 500);
        let far = w.relay("far");
        far.config.flavour.subscriptions.max = 10;
        far.config.flavour.filters.max = 10;
        let issues = v.issues(2_600, OLD + 60);
        w.hold_all("far", &issues);
        settle(w);
        assert_eq!(w.relay_status("far")["coverage"], "polled");
        w.run_for(HOUR);
        let late: Vec<EventRef> =
            [0, 2_500].map(|n| v.owner.comment(&issues[n], w.clock.wall() - 3 * 3_600, "dated back")).into();
        late.iter().for_each(|event| w.publish("far", event));
        w.run_until("what is dated back", 4 * HOUR, |w| w.has_all(&late));
    });
}

#[test]
fn a_deleted_comment_is_gone_within_hours_and_stays_away() {
    with_both("a_deleted_comment_is_gone_within_hours_and_stays_away", |w, talk| {
        for comment in [talk.recent().clone(), talk.old().clone()] {
            let deletion = talk.village.owner.deletion(&[&comment], &[], w.clock.wall());
            w.publish("far", &deletion);
            comes_not_live(w, &deletion);
            assert!(is_served(w, &comment), "nobody has told us yet");
            w.run_until("the deletion", talk.within - 2 * MINUTE, |w| w.has(&deletion) && !w.has(&comment));
            w.forbid(&comment, "it was deleted");
            assert!(!is_served(w, &comment));
        }
        w.kill();
        settle(w);
        for comment in [talk.recent().clone(), talk.old().clone()] {
            assert!(!is_served(w, &comment), "after a restart");
            w.publish("hub", &comment);
        }
        w.run_for(5 * HOUR);
    });
}

#[test]
fn what_tags_a_comment_is_asked_for_within_hours_and_of_an_old_one_daily() {
    with_both("what_tags_a_comment_is_asked_for_within_hours_and_of_an_old_one_daily", |w, talk| {
        let from = w.clock.now();
        w.run_until("an audit of threads", talk.within, |w| asked_about(w, talk.recent(), from));
        w.run_for(HOUR);
        assert!(!asked_about(w, talk.old(), from), "it is a month old");
        w.run_until("a daily one", 25 * HOUR, |w| asked_about(w, talk.old(), from));
    });
}

#[test]
fn a_reaction_to_a_comment_is_here_within_hours_and_to_an_old_one_within_a_day() {
    with_both("a_reaction_to_a_comment_is_here_within_hours_and_to_an_old_one_within_a_day", |w, talk| {
        let (recent, old) = (talk.reaction(w, talk.recent()), talk.reaction(w, talk.old()));
        w.publish("far", &recent);
        w.publish("far", &old);
        comes_not_live(w, &recent);
        w.run_until("the reaction", talk.within - MINUTE, |w| w.has(&recent));
        w.run_until("that to the old comment", 25 * HOUR, |w| w.has(&old));
    });
}

#[test]
fn a_reaction_that_was_there_before_us_comes_with_the_first_catch_up() {
    scenario("a_reaction_that_was_there_before_us_comes_with_the_first_catch_up", |w| {
        let v = village(w, 500);
        let issue = v.owner.issue(&v.repo, OLD + 60, "an issue");
        let comment = v.owner.comment(&issue, OLD + 70, "a comment");
        let reaction = v.owner.sign(7, OLD + 80, &[&["e", &comment.id]], "+");
        w.hold_all("far", [&issue, &comment, &reaction]);
        settle(w);
        assert!(w.has_all([&issue, &comment, &reaction]));
    });
}

#[test]
fn restarts_and_lost_links_put_no_audit_off() {
    with_both("restarts_and_lost_links_put_no_audit_off", |w, talk| {
        for (n, restarts) in [true, false].into_iter().enumerate() {
            let interrupt = |w: &mut World| match restarts {
                true => {
                    w.kill();
                    w.start();
                }
                false => w.drop_links("far"),
            };
            interrupt(w);
            w.run_for(2 * MINUTE);
            let issue = talk.village.owner.issue(&talk.village.repo, w.clock.wall() - 1_200, &format!("back {n}"));
            w.publish("far", &issue);
            let until = w.clock.now() + talk.within;
            while !w.has(&issue) {
                w.run_for(20 * MINUTE);
                assert!(w.clock.now() <= until, "not within {} min", talk.within / MINUTE);
                interrupt(w);
            }
        }
    });
}

/// What a relay was asked in a time, and what it sent.
#[derive(Debug)]
struct Cost {
    reqs: usize,
    negs: usize,
    events: u64,
    sent: u64,
}

/// A day without anything new on a relay with 2,000 issues and as many comments, of which half are of the last month.
fn quiet_day(name: &'static str, config: RelayConfig, max: &Cost) {
    scenario(name, |w| {
        let v = village(w, 500);
        w.relay("far").config = config.clone();
        let issues = v.issues(2_000, OLD + 60);
        w.hold_all("far", &issues);
        for (n, issue) in issues.iter().enumerate() {
            let at = if n % 2 == 0 { OLD + 5 * DAY_SECS } else { OLD - DAY_SECS };
            let comment = v.owner.comment(issue, at + 7 * n as u64, "a comment");
            w.hold("far", &comment);
        }
        settle(w);
        w.run_until("the first full catch-up", HOUR, |w| w.relay_status("far")["last_full_catchup"].is_u64());
        w.run_for(49 * HOUR);
        let bytes_sent = |w: &World| w.metric("grasp_sync_bytes_sent_total{side=\"relay\"}");
        let (from, events, sent) = (w.clock.now(), w.relay("far").events_sent(), bytes_sent(w));
        w.run_for(24 * HOUR);
        let sent = bytes_sent(w) - sent;
        let far = w.relay("far");
        let reqs = far.reqs_since(from).count();
        let negs = far.negs.iter().filter(|neg| neg.at >= from).count();
        let cost = Cost { reqs, negs, events: far.events_sent() - events, sent };
        eprintln!("a quiet day: {cost:?}");
        assert!(cost.reqs <= max.reqs && cost.negs <= max.negs, "{cost:?}");
        assert!(cost.events <= max.events && cost.sent <= max.sent, "{cost:?}");
    });
}

#[test]
fn a_quiet_day_by_pages_costs_little() {
    let max = Cost { reqs: 800, negs: 0, events: 7_000, sent: 11_000_000 };
    quiet_day("a_quiet_day_by_pages_costs_little", RelayConfig::strfry(), &max);
}

#[test]
fn a_quiet_day_where_the_relay_reconciles_costs_little() {
    let max = Cost { reqs: 50, negs: 3_000, events: 100, sent: 25_000_000 };
    quiet_day("a_quiet_day_where_the_relay_reconciles_costs_little", RelayConfig::reconciling(), &max);
}
