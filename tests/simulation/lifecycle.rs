//! Repos that come, change and go, and the relays that come and go with them.

use crate::client::req;
use crate::clock::{HOUR, MINUTE, SECOND};
use crate::events::{Author, EventRef};
use crate::model_relay::{Mode, RelayConfig, event_text};
use crate::scenario;
use crate::setup::{OLD, quiet, settle, village};
use crate::world::World;
use grasp_sync::protocol::repo::RepoAddr;
use nostr::key::PublicKey;
use serde_json::json;

#[test]
fn unlisting_the_last_repo_closes_a_relay_but_never_the_bootstrap() {
    scenario("unlisting_the_last_repo_closes_a_relay_but_never_the_bootstrap", |w| {
        let v = village(w, 60);
        settle(w);
        assert_eq!((w.links_to("hub"), w.links_to("far")), (1, 1));
        let moved = v.owner.announcement("alpha", &["wss://hub.example"], w.clock.wall());
        w.publish("hub", &moved);
        w.run_until("far is closed", 10 * SECOND, |w| w.links_to("far") == 0);
        let gone = v.owner.foreign_announcement("alpha", w.clock.wall() + 1);
        w.publish("hub", &gone);
        w.run_until("the last word", 2 * SECOND, |w| w.has(&gone));
        // What replaces an announcement that is held is kept, whether or not that one still lists us.
        let gone = v.owner.foreign_announcement("alpha", w.clock.wall() + 2);
        w.publish("hub", &gone);
        w.run_until("the very last word", 2 * SECOND, |w| w.has(&gone));
        w.run_for(MINUTE);
        assert_eq!((w.links_to("hub"), w.links_to("far")), (1, 0));
        let client = w.connect_client();
        let late = v.owner.issue(&v.repo, w.clock.wall(), "too late");
        w.forbid(&late, "its repo is no longer followed");
        w.client_publishes(client, &late);
        w.run_until("the answer", SECOND, |w| w.client(client).ok(&late).is_some());
        // And back again, from the bootstrap relay that was never left.
        let back = v.owner.announcement("alpha", &["wss://far.example"], w.clock.wall());
        w.publish("hub", &back);
        w.run_until("far is dialled again", 10 * SECOND, |w| w.links_to("far") == 1);
        w.kill();
        settle(w);
        assert_eq!((w.links_to("hub"), w.links_to("far")), (1, 1));
    });
}

#[test]
fn a_relay_two_repos_share_stays_until_both_have_left() {
    scenario("a_relay_two_repos_share_stays_until_both_have_left", |w| {
        let v = village(w, 60);
        w.hold("hub", &v.owner.announcement("beta", &["wss://far.example"], OLD));
        settle(w);
        w.publish("hub", &v.owner.announcement("alpha", &[], w.clock.wall()));
        w.run_for(20 * SECOND);
        assert_eq!(w.links_to("far"), 1);
        w.publish("hub", &v.owner.announcement("beta", &[], w.clock.wall()));
        w.run_until("far is closed", 10 * SECOND, |w| w.links_to("far") == 0);
    });
}

#[test]
fn deleting_an_announcement_unfollows_its_repo() {
    scenario("deleting_an_announcement_unfollows_its_repo", |w| {
        let v = village(w, 60);
        settle(w);
        let by_stranger = Author::new(9).deletion(&[&v.announcement], &[&v.repo], w.clock.wall());
        w.publish("hub", &by_stranger);
        w.run_for(10 * SECOND);
        assert!(w.has(&v.announcement), "only its author may delete it");
        let deletion = v.owner.deletion(&[&v.announcement], &[&v.repo], w.clock.wall());
        w.publish("hub", &deletion);
        w.run_until("the deletion", 2 * SECOND, |w| w.has(&deletion) && !w.has(&v.announcement));
        w.forbid(&v.announcement, "it was deleted");
        w.run_until("far is closed", 10 * SECOND, |w| w.links_to("far") == 0);
        assert_eq!(w.links_to("hub"), 1);
        // The relay that deleted it forgets, and a copy comes along.
        w.relay("hub").config.keeps_everything = true;
        w.publish("hub", &v.announcement);
        w.kill();
        settle(w);
        w.run_for(MINUTE);
        assert_eq!((w.links_to("hub"), w.links_to("far")), (1, 0));
    });
}

#[test]
fn a_deleted_root_is_removed_and_kept_out() {
    scenario("a_deleted_root_is_removed_and_kept_out", |w| {
        let v = village(w, 60);
        let issues = v.issues(3, OLD + 60);
        w.hold_all("far", &issues);
        w.hold_all("hub", &issues);
        settle(w);
        let deletion = v.owner.deletion(&[&issues[1]], &[], w.clock.wall());
        w.publish("far", &deletion);
        w.run_until("the deletion", 2 * SECOND, |w| w.has(&deletion) && !w.has(&issues[1]));
        w.forbid(&issues[1], "it was deleted");
        w.kill();
        let restarted = w.clock.now();
        settle(w);
        assert!(w.has(&issues[0]) && w.has(&issues[2]));
        let asked = |w: &mut World, e: &EventRef| w.relay("far").reqs_since(restarted).any(|r| r.asks("e", &e.id));
        assert!(asked(w, &issues[0]) && !asked(w, &issues[1]));
        // Whoever still has a copy brings it in vain.
        let client = w.connect_client();
        w.client_publishes(client, &issues[1]);
        w.relay("far").config.keeps_everything = true;
        w.publish("far", &issues[1]);
        w.run_until("an answer", SECOND, |w| w.client(client).ok(&issues[1]).is_some_and(|ok| !ok.0));
        w.run_for(MINUTE);
    });
}

#[test]
fn an_announcement_that_was_replaced_while_we_were_away_is_the_one_that_counts() {
    scenario("an_announcement_that_was_replaced_while_we_were_away_is_the_one_that_counts", |w| {
        let v = village(w, 60);
        w.add_relay("third", RelayConfig::strfry());
        settle(w);
        w.kill();
        let moved = v.owner.announcement("alpha", &["wss://third.example"], w.clock.wall());
        w.publish("hub", &moved);
        w.run_for(MINUTE);
        settle(w);
        assert_eq!((w.links_to("far"), w.links_to("third")), (0, 1));
        // The old version, from a relay that never heard of the new one, changes nothing.
        let client = w.connect_client();
        w.client_publishes(client, &v.announcement);
        w.run_for(20 * SECOND);
        assert_eq!((w.links_to("far"), w.links_to("third")), (0, 1));
    });
}

#[test]
fn a_refused_event_is_accepted_once_its_repo_is_followed() {
    scenario("a_refused_event_is_accepted_once_its_repo_is_followed", |w| {
        let v = village(w, 60);
        settle(w);
        let client = w.connect_client();
        let issue = v.owner.issue(&v.owner.repo("later"), w.clock.wall(), "too early");
        w.client_publishes(client, &issue);
        w.run_until("refused", SECOND, |w| w.client(client).ok(&issue).is_some_and(|o| !o.0));
        let again = v.owner.issue(&v.owner.repo("later"), w.clock.wall(), "also on a relay");
        w.hold("far", &again);
        let announcement = v.owner.announcement("later", &["wss://far.example"], w.clock.wall());
        w.client_publishes(client, &announcement);
        w.run_until("followed", SECOND, |w| w.client(client).ok(&announcement).is_some_and(|o| o.0));
        let other = w.connect_client();
        w.client_publishes(other, &issue);
        w.run_until("accepted", SECOND, |w| w.client(other).ok(&issue).is_some_and(|o| o.0));
        w.run_until("and found", 30 * SECOND, |w| w.has(&again));
        quiet(w);
    });
}

#[test]
fn a_repo_that_comes_back_to_a_relay_is_read_anew() {
    scenario("a_repo_that_comes_back_to_a_relay_is_read_anew", |w| {
        let v = village(w, 60);
        w.hold("hub", &v.owner.announcement("beta", &["wss://far.example"], OLD));
        settle(w);
        let hub_alone = v.owner.announcement("alpha", &["wss://hub.example"], w.clock.wall());
        w.publish("hub", &hub_alone);
        w.run_for(MINUTE);
        let issue = v.owner.issue(&v.repo, w.clock.wall(), "while off");
        w.hold("far", &issue);
        w.run_for(HOUR);
        // It comes back while there is no link, so that a catch-up brings it and not a window.
        w.relay("far").mode = Mode::Refuses;
        w.drop_links("far");
        let back = v.owner.announcement("alpha", &["wss://hub.example", "wss://far.example"], w.clock.wall());
        w.publish("hub", &back);
        w.run_for(MINUTE);
        w.relay("far").mode = Mode::Up;
        w.run_until("the issue", HOUR, |w| w.has(&issue));
    });
}

#[test]
fn a_deleted_root_is_asked_about_no_more() {
    scenario("a_deleted_root_is_asked_about_no_more", |w| {
        let v = village(w, 60);
        let issues = v.issues(3, OLD + 60);
        w.hold_all("far", &issues);
        settle(w);
        let deletion = v.owner.deletion(&[&issues[1]], &[], w.clock.wall());
        w.publish("far", &deletion);
        w.run_until("the deletion", 2 * SECOND, |w| !w.has(&issues[1]));
        w.run_for(MINUTE);
        let back = w.clock.now();
        w.drop_links("far");
        quiet(w);
        let asked = |w: &mut World, e: &EventRef| w.relay("far").reqs_since(back).any(|r| r.asks("e", &e.id));
        assert!(asked(w, &issues[0]) && !asked(w, &issues[1]) && asked(w, &issues[2]));
        assert_eq!(w.status()["root_events"], 2);
    });
}

#[test]
fn a_deletion_that_comes_first_keeps_out_what_follows() {
    scenario("a_deletion_that_comes_first_keeps_out_what_follows", |w| {
        let v = village(w, 60);
        let (held, unseen) = (v.owner.issue(&v.repo, OLD + 60, "held"), v.owner.issue(&v.repo, OLD + 61, "unseen"));
        w.hold("far", &held);
        settle(w);
        let at = w.clock.wall();
        let address = v.owner.repo("beta");
        // A deletion is taken if it names something that is held, and then holds for all that it names.
        let deletion = v.owner.deletion(&[&held, &unseen], &[&address], at);
        let old = v.owner.announcement("beta", &["wss://far.example"], at);
        let new = v.owner.announcement("beta", &["wss://far.example"], at + 1);
        let client = w.connect_client();
        w.client_publishes(client, &deletion);
        w.run_until("the deletion", SECOND, |w| w.has(&deletion) && !w.has(&held));
        w.forbid(&unseen, "it was deleted before it came");
        w.forbid(&old, "its address was deleted before it came");
        for late in [false, true] {
            for event in [&unseen, &old] {
                let client = w.connect_client();
                w.client_publishes(client, event);
                w.run_until("an answer", SECOND, |w| w.client(client).ok(event).is_some());
                assert_eq!(w.client(client).ok(event).map(|ok| ok.0), Some(false), "after a restart: {late}");
            }
            w.kill();
            settle(w);
        }
        let client = w.connect_client();
        w.client_publishes(client, &new);
        w.run_until("a newer version", SECOND, |w| w.has(&new));
    });
}

#[test]
fn of_two_versions_of_one_second_the_lowest_id_holds_in_either_order() {
    scenario("of_two_versions_of_one_second_the_lowest_id_holds_in_either_order", |w| {
        let v = village(w, 60);
        settle(w);
        let at = w.clock.wall();
        for (d, lowest_first) in [("one", true), ("two", false)] {
            let mut two = [v.owner.announcement(d, &["wss://far.example"], at), v.owner.announcement(d, &[], at)];
            two.sort_by(|a, b| a.id.cmp(&b.id));
            let [low, high] = two;
            let order = if lowest_first { [&low, &high] } else { [&high, &low] };
            for event in order {
                let client = w.connect_client();
                w.client_publishes(client, event);
                w.run_until("an answer", SECOND, |w| w.client(client).ok(event).is_some());
            }
            assert!(w.has(&low) && !w.has(&high), "{d}");
        }
    });
}

#[test]
fn what_a_relay_was_not_asked_for_is_refused() {
    scenario("what_a_relay_was_not_asked_for_is_refused", |w| {
        let v = village(w, 60);
        w.hold("hub", &v.owner.announcement("beta", &["wss://hub.example"], OLD));
        settle(w);
        // It belongs here, but far does not share its repo.
        let issue = v.owner.issue(&v.owner.repo("beta"), w.clock.wall(), "pushed");
        let subscriptions: Vec<String> =
            w.relay("far").sessions().values().flat_map(|s| s.subscriptions.keys().cloned()).collect();
        for subscription in subscriptions.iter().map(|s| &**s).chain(["b0", "b999", "nobody's"]) {
            w.relay_says("far", &event_text(subscription, &issue));
        }
        w.run_for(2 * SECOND);
        assert!(!w.has(&issue));
        w.publish("hub", &issue);
        w.run_until("the issue from where it was asked", SECOND, |w| w.has(&issue));
    });
}

#[test]
fn times_and_tags_that_forbid_an_event_are_obeyed() {
    scenario("times_and_tags_that_forbid_an_event_are_obeyed", |w| {
        let v = village(w, 60);
        settle(w);
        let now = w.clock.wall();
        let [past, future] = [now - 10, now + 3_600].map(|t| t.to_string());
        let a = ["a", &v.repo];
        let bad = [
            v.owner.issue(&v.repo, now + 1_000, "from the future"),
            v.owner.sign(1621, now, &[&a, &["expiration", &past]], "expired"),
            v.owner.sign(1621, now, &[&a, &["-"]], "protected"),
            v.owner.sign(20_001, now, &[&a], "ephemeral"),
            v.owner.sign(29_999, now, &[&a], "ephemeral too"),
        ];
        let good = [
            v.owner.issue(&v.repo, now + 890, "a little ahead"),
            v.owner.sign(1621, now, &[&a, &["expiration", &future]], "expires in an hour"),
            v.owner.sign(19_999, now, &[&a], "not ephemeral yet"),
            v.owner.sign(30_000, now, &[&a, &["d", "x"]], "no longer ephemeral"),
        ];
        let client = w.connect_client();
        for event in bad.iter().chain(&good) {
            w.client_publishes(client, event);
            w.publish("far", event);
        }
        bad.iter().for_each(|e| w.forbid(e, "time or tag"));
        w.run_until("all answers", SECOND, |w| bad.iter().chain(&good).all(|e| w.client(client).ok(e).is_some()));
        assert!(bad.iter().all(|e| w.client(client).ok(e).is_some_and(|ok| !ok.0)));
        assert!(w.client(client).ok(&bad[2]).is_some_and(|ok| ok.1.starts_with("blocked: ")), "there is no NIP-42");
        assert!(good.iter().all(|e| w.client(client).ok(e).is_some_and(|ok| ok.0)));
        w.run_for(30 * SECOND);
        assert!(w.has_all(&good));
        // The future comes.
        w.run_for(5 * MINUTE);
        w.checks.forbidden.remove(&bad[0].id);
        let client = w.connect_client();
        w.client_publishes(client, &bad[0]);
        w.run_until("what was the future", SECOND, |w| w.has(&bad[0]));
    });
}

#[test]
fn the_operators_lists_are_obeyed() {
    scenario("the_operators_lists_are_obeyed", |w| {
        let v = village(w, 60);
        let (denied, archived) = (Author::new(5), Author::new(6));
        let address = |repo: &str| RepoAddr::parse(repo).expect("an address");
        w.settings.deny_authors.push(PublicKey::from_hex(&denied.hex).expect("a key"));
        w.settings.deny_repos.push(address(&v.owner.repo("beta")));
        w.settings.archive.push(address(&archived.repo("kept")));
        let beta = v.owner.repo("beta");
        let both = v.owner.root(1621, &[&v.repo, &beta], OLD + 60, "of both");
        let bad = [
            denied.issue(&v.repo, OLD + 60, "by someone unwelcome"),
            v.owner.announcement("beta", &["wss://far.example"], OLD),
            v.owner.issue(&beta, OLD + 60, "of the denied repo"),
            v.owner.sign(1111, OLD + 70, &[&["E", &both.id], &["A", &beta]], "says that it is of the denied repo"),
        ];
        // Neither its clone nor its relays are ours.
        let elsewhere = ["relays", "wss://hub.example"];
        let kept = archived.announcement_on("kept", "https://other.example/kept.git", &elsewhere, &[], OLD);
        let good = [both, kept];
        for relay in ["hub", "far"] {
            w.hold_all(relay, bad.iter().chain(&good));
        }
        bad.iter().for_each(|e| w.forbid(e, "it is on a list"));
        settle(w);
        assert!(w.has_all(&good));
        let client = w.connect_client();
        bad.iter().for_each(|e| w.client_publishes(client, e));
        w.run_until("all answers", SECOND, |w| bad.iter().all(|e| w.client(client).ok(e).is_some_and(|ok| !ok.0)));
    });
}

#[test]
fn what_a_root_event_tags_belongs() {
    scenario("what_a_root_event_tags_belongs", |w| {
        let v = village(w, 60);
        settle(w);
        let now = w.clock.wall();
        let stranger = Author::new(9);
        let [note, other] = ["quoted", "not quoted"].map(|text| stranger.sign(1, now, &[], text));
        w.forbid(&other, "nothing here is about it");
        let issue = v.owner.sign(1621, now, &[&["a", &v.repo], &["q", &note.id]], "about that note");
        let offer = |w: &mut World, event: &EventRef| {
            let client = w.connect_client();
            w.client_publishes(client, event);
            w.run_until("an answer", SECOND, |w| w.client(client).ok(event).is_some());
            w.client(client).ok(event).is_some_and(|ok| ok.0)
        };
        assert!(!offer(w, &note), "nothing is about it yet");
        assert!(offer(w, &issue) && offer(w, &note) && !offer(w, &other));
    });
}

#[test]
fn a_relay_beyond_the_most_allowed_is_counted_and_logged_once() {
    scenario("a_relay_beyond_the_most_allowed_is_counted_and_logged_once", |w| {
        w.logged = Some(Vec::new());
        let v = village(w, 60);
        w.add_relay("third", RelayConfig::strfry());
        w.settings.limits.relays_max = 2;
        settle(w);
        let refused = |w: &World| w.metric("grasp_sync_relays_refused_total{reason=\"relays_max\"}");
        let announce = |w: &mut World, relays: &[&str]| {
            let announcement = v.owner.announcement("alpha", relays, w.clock.wall());
            w.publish("hub", &announcement);
            w.run_for(MINUTE);
        };
        let [hub, far, third, fourth] = ["hub", "far", "third", "fourth"].map(|name| format!("wss://{name}.example"));
        for _ in 0..3 {
            announce(w, &[&hub, &far, &third]);
            w.publish("hub", &v.owner.issue(&v.repo, w.clock.wall(), "another window"));
            w.run_for(MINUTE);
            assert_eq!(refused(w), 1);
        }
        announce(w, &[&hub, &far, &third, &fourth]);
        assert_eq!(refused(w), 2);
        let warnings = w.logged.take().unwrap_or_default().iter().filter(|l| l.contains("relays_max")).count();
        assert_eq!(warnings, 2);
        // As soon as there is a place it is followed.
        announce(w, &[&hub, &third]);
        assert_eq!((refused(w), w.relay_status("far")["url"].is_null()), (2, true));
        assert!(!w.relay_status("third")["url"].is_null());
    });
}

#[test]
fn what_hangs_on_a_comment_belongs_and_what_hangs_on_that_does_not() {
    scenario("what_hangs_on_a_comment_belongs_and_what_hangs_on_that_does_not", |w| {
        let v = village(w, 60);
        settle(w);
        let now = w.clock.wall();
        let (guest, reader, stranger) = (Author::new(7), Author::new(8), Author::new(9));
        let react = |to: &EventRef, text: &str| reader.sign(7, now, &[&["e", &to.id], &["p", &to.author]], text);
        let issue = v.owner.issue(&v.repo, now, "an issue");
        let comment = guest.comment(&issue, now, "a comment");
        let article = v.owner.sign(30_023, now, &[&["d", "news"], &["a", &v.repo]], "an article");
        let below = guest.sign(1_111, now, &[&["A", &article.address()], &["a", &article.address()]], "below it");
        let reaction = react(&comment, "+");
        let offer = |w: &mut World, event: &EventRef| {
            let client = w.connect_client();
            w.client_publishes(client, event);
            w.run_until("an answer", SECOND, |w| w.client(client).ok(event).is_some());
            w.client(client).ok(event).is_some_and(|ok| ok.0)
        };
        let grasp_list = |of: &Author| of.sign(10_317, now, &[&["g", "wss://grasp.example"]], "");
        assert!(!offer(w, &reaction) && !offer(w, &below), "nothing of it is held");
        assert!(!offer(w, &grasp_list(&guest)), "nothing of the guest's is held");
        assert!([&issue, &comment, &article].iter().all(|e| offer(w, e)));
        assert!([&reaction, &below, &grasp_list(&guest)].iter().all(|e| offer(w, e)));
        assert!(!offer(w, &grasp_list(&stranger)));
        let further = [react(&reaction, "+"), react(&below, "+"), react(&grasp_list(&guest), "+")];
        for event in &further {
            w.forbid(event, "two generations further");
            assert!(!offer(w, event));
        }
        let with_root = reader.sign(7, now, &[&["e", &reaction.id], &["E", &issue.id]], "+");
        assert!(offer(w, &with_root), "whatever it hangs on, it tags a root event");
        w.kill();
        settle(w);
        assert!(offer(w, &react(&comment, "-")) && further.iter().all(|e| !offer(w, e)), "after a restart the same");
        let client = w.connect_client();
        w.client_sends(client, &req("all", &json!({ "kinds": [7, 1111, 10_317] })));
        w.run_until("all of it", SECOND, |w| w.client(client).eose("all"));
        for event in [&reaction, &below, &with_root, &grasp_list(&guest)] {
            assert!(w.client(client).got(event).is_some(), "served");
        }
        // Who is followed no more is tagged in vain, though the announcement is held.
        assert!(offer(w, &v.owner.foreign_announcement("alpha", w.clock.wall())));
        let late = guest.issue(&v.repo, w.clock.wall(), "too late");
        w.forbid(&late, "its repo is no longer followed");
        assert!(!offer(w, &late));
    });
}

#[test]
fn a_stop_says_goodbye_on_every_link() {
    scenario("a_stop_says_goodbye_on_every_link", |w| {
        let v = village(w, 60);
        settle(w);
        let clients = [w.connect_client(), w.connect_client()];
        let issue = v.owner.issue(&v.repo, w.clock.wall(), "the last");
        w.run_for(SECOND);
        w.client_publishes(clients[0], &issue);
        w.run_until("it is taken in", SECOND, |w| w.client(clients[0]).ok(&issue).is_some());
        w.stop();
        w.run_for(SECOND);
        assert!(clients.iter().all(|c| w.client(*c).closed == Some(1001)));
        assert!(w.relay("hub").sessions().is_empty() && w.relay("far").sessions().is_empty());
        w.run_for(MINUTE);
        settle(w);
        assert!(w.has(&issue));
    });
}
