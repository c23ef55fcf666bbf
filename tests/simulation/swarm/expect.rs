//! What must be so when the faults are over: everything that belongs and that some honest relay holds is stored and
//! served, what is published now arrives within seconds, and every relay is live or it is plain why not.

use super::Swarm;
use crate::checks::rules::{Bench, Rules, event_references, repo_references};
use crate::client::req;
use crate::clock::{DAY, HOUR, MINUTE, SECOND};
use crate::events::{Author, EventRef};
use crate::model_relay::{Liar, Mode, ModelRelay, Refusal};
use crate::world::{World, relay_url};
use serde_json::json;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// Relays of which everything that they hold can be had, and within days.
fn honest(w: &World) -> impl Iterator<Item = &ModelRelay> {
    let reachable = w.relays().iter().enumerate().filter(|(n, _)| !w.unreachable.contains_key(n)).map(|(_, r)| r);
    reachable.filter(|relay| {
        let config = &relay.config;
        relay.mode == Mode::Up && config.flavour.complete && config.liar.is_none_or(Liar::gives_soon)
    })
}

/// What honest relays that are followed hold, that belongs here, and that is not stored.
pub fn missing(w: &mut World) -> Vec<String> {
    let wall = w.clock.wall();
    let rules = Rules::of(&w.settings);
    w.durable();
    let durable = &w.checks.durable;
    let bench = Bench { rules: &rules, durable, signed: None, replaces: false, wall: (wall, wall) };
    // The roots of each relay's repos.
    let mut repos_of: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let listed: Vec<(String, Vec<String>)> =
        durable.announcements.values().filter(|a| rules.is_ours(a)).map(|a| (a.address(), rules.relays(a))).collect();
    for (address, relays) in &listed {
        relays.iter().for_each(|r| _ = repos_of.entry(r).or_default().insert(address.clone()));
    }
    let mut missing = Vec::new();
    for relay in honest(w) {
        let url = relay.url.as_str();
        if !rules.bootstrap.contains(url) && !repos_of.contains_key(url) {
            continue;
        }
        let none = BTreeSet::new();
        let shared = repos_of.get(url).unwrap_or(&none);
        let asked = |event: &EventRef| match event.kind {
            30617 | 30618 => true,
            5 => durable.events.values().any(|e| e.author == event.author),
            _ => {
                repo_references(event).any(|r| shared.contains(r))
                    || event_references(event).any(|id| {
                        let root =
                            durable.events.get(id).filter(|e| crate::checks::rules::ROOT_KINDS.contains(&e.kind));
                        root.is_some_and(|e| e.values("a").any(|r| shared.contains(r)))
                    })
            }
        };
        for event in relay.held() {
            let hidden = relay.hides(event) || relay.is_poisoned(event);
            // Made while the clock was ahead, and too far in the future at the last daily turn: the next brings it.
            let early = event.created_at + (DAY + HOUR) / SECOND > wall;
            let excused = hidden || early || durable.has(event) || durable.excuses(event, wall);
            if !excused && asked(event) && bench.judge(event).is_ok() {
                missing.push(format!("{} kind {} of {} at {url}", event.id, event.kind, event.created_at));
            }
        }
    }
    missing
}

impl Swarm {
    /// Every relay is live, or turns daily, or there is a reason that the operator can read.
    pub fn relays_are_explained(&self, w: &mut World) {
        let wall = w.clock.wall();
        let status = w.status();
        for told in status["relays"].as_array().into_iter().flatten() {
            let (url, state) = (told["url"].as_str().unwrap_or(""), told["state"].as_str().unwrap_or(""));
            let honest = honest(w).any(|r| r.url == url && is_plain(r));
            let since = told["since"].as_u64().unwrap_or(0);
            let turning = matches!(state, "Catchup" | "Consolidating") && wall - since < HOUR / SECOND;
            let explained = !honest && told["why"].as_str().is_some_and(|why| !why.is_empty());
            if state != "Live" && !turning && !explained {
                w.fail(&format!("long after the faults ended: {told:#}"));
            }
        }
    }

    /// What is published to a live relay now is stored within seconds, and those who subscribed hear of it.
    /// A relay refuses every sweep of a repo that is new to it: until they have succeeded, the repo is not claimed.
    pub fn failed_sweeps_claim_nothing(&mut self, w: &mut World) {
        let names: Vec<String> = honest(w)
            .filter(|r| is_plain(r) && is_strfry(r))
            .map(|r| r.url.trim_start_matches("wss://").trim_end_matches(".example").to_owned())
            .collect();
        // The first relay is where the announcement comes from.
        let live = |name: &String| name != "r0" && w.relay_status(name)["state"] == "Live";
        let Some(name) = names.into_iter().find(live) else { return };
        let author = Author::new(7_000);
        let issue = author.issue(&author.repo("new"), w.clock.wall() - 10 * 86_400, "there before");
        w.hold(&name, &issue);
        w.run_for(2 * SECOND);
        let refusal = Refusal::Closed("error: could not connect to the database");
        w.relay(&name).refusals = std::iter::repeat_n(Some(refusal), 10_000).collect();
        let announcement = author.announcement("new", &[&relay_url(&name)], w.clock.wall());
        w.publish("r0", &announcement);
        w.run_for(8 * MINUTE);
        if w.is_confirmed(&name, &author.repo("new")) {
            w.fail(&format!("a repo is confirmed on {name}, where no sweep of it has succeeded"));
        }
        w.relay(&name).refusals.clear();
        w.drop_links(&name);
        w.run_until("what was there before, once sweeps succeed", 2 * HOUR, |w| w.has(&issue));
    }

    pub fn live_events_arrive(&mut self, w: &mut World) {
        let client = w.connect_client();
        w.client_sends(client, &req("live", &json!({ "kinds": [1621], "since": w.clock.wall() - 5 })));
        w.run_for(SECOND);
        let rules = Rules::of(&w.settings);
        let ours: Vec<(EventRef, Vec<String>)> = w
            .checks
            .durable
            .announcements
            .values()
            .filter(|a| rules.is_ours(a))
            .map(|a| (a.clone(), rules.relays(a)))
            .collect();
        for (announcement, relays) in ours.into_iter().take(5) {
            for url in relays.into_iter().take(2) {
                let Some(relay) = honest(w).find(|r| r.url == url) else { continue };
                if !is_plain(relay) || !relay.config.flavour.quirks.is_empty() && !is_strfry(relay) {
                    continue;
                }
                let name = url.trim_start_matches("wss://").trim_end_matches(".example").to_owned();
                let status = w.relay_status(&name);
                let settled = status["state"] == "Live" && status["polled"]["filters"] == 0;
                if !settled || status["cooldown_secs"].is_number() {
                    continue;
                }
                let author = self.pen.authors.iter().find(|a| !rules.deny_authors.contains(&a.hex));
                let Some(author) = author else { continue };
                let event = author.issue(&announcement.address(), w.clock.wall(), &format!("live {url}"));
                w.publish(&name, &event);
                w.run_until("what was published on a live relay", 10 * SECOND, |w| {
                    w.has(&event) && w.client(client).got(&event).is_some()
                });
            }
        }
    }

    /// A client gets what is stored, kind by kind, newest first and the lowest id first within a second.
    pub fn everything_is_served(&self, w: &mut World) {
        let wall = w.clock.wall();
        let client = w.connect_client();
        let kinds: BTreeSet<u16> = w.durable().events.values().map(|e| e.kind).collect();
        for kind in kinds {
            let subscription = format!("kind {kind}");
            w.client_sends(client, &req(&subscription, &json!({ "kinds": [kind], "limit": 500 })));
            w.run_until("EOSE", MINUTE, |w| w.client(client).eose(&subscription));
            let mut stored: Vec<EventRef> = w.durable().events.values().cloned().collect();
            stored.retain(|e| e.kind == kind && e.expires_at().is_none_or(|at| at > wall));
            stored.sort_by_key(|e| (Reverse(e.created_at), e.id.clone()));
            let expected: Vec<&str> = stored.iter().take(500).map(|e| &*e.id).collect();
            let mut got = w.client(client).ids(&subscription);
            // What expires at this very moment may be in it or not.
            got.retain(|id| {
                expected.contains(&&**id) || w.checks.durable.events.get(id).is_none_or(|e| e.expires_at().is_none())
            });
            if got != expected {
                w.fail(&format!("kind {kind}: served {} events, stored {}", got.len(), expected.len()));
            }
        }
    }
}

/// Whether nothing that a relay holds ends its links, and nothing that it says is a lie.
fn is_plain(relay: &ModelRelay) -> bool {
    relay.config.liar.is_none() && relay.config.odd.poison.is_none()
}

fn is_strfry(relay: &ModelRelay) -> bool {
    relay.config.flavour.name == "strfry"
}
