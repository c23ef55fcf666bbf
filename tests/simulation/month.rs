//! The world that the design aims at, over days: 1,000 repos with 76,000 events on 20 relays, most of which reconcile.
//! Prints a line for each day. The normal run takes 20 repos and a day; the whole is
//! `SIM_REPOS=1000 SIM_DAYS=30 cargo test --release --test simulation days_of_the_target -- --nocapture`

use crate::clock::{HOUR, MINUTE};
use crate::events::{Author, EventRef};
use crate::model_relay::RelayConfig;
use crate::scenario;
use crate::setup::OLD;
use crate::world::{World, relay_url};
use std::collections::BTreeMap;

const RELAYS: usize = 20;
const RELAYS_PER_REPO: usize = 2;
const ROOTS_PER_REPO: u64 = 50;
const COMMENTS_PER_REPO: u64 = 25;
/// So that an event has about as many bytes as those of the benches.
const PADDING: usize = 400;
/// What is published in an hour beside one state, in turn root events and comments.
const PER_HOUR: u64 = 10;
/// Bytes of the store for each event, its indexes among them; an event itself has 0.9 kB.
const STORE_BYTES_PER_EVENT_MAX: u64 = 2_048;

/// The repos, and what is to be held of them.
struct Target {
    owners: Vec<Author>,
    /// The root events, by repo.
    roots: Vec<Vec<EventRef>>,
    /// What was published and is to be held, but for states.
    published: Vec<EventRef>,
    /// The state that holds, by repo.
    states: BTreeMap<usize, EventRef>,
}

fn relays_of(repo: usize) -> impl Iterator<Item = String> {
    (0..RELAYS_PER_REPO).map(move |n| format!("r{}", (repo * RELAYS_PER_REPO + n) % RELAYS))
}

fn text(n: u64) -> String {
    format!("{n} {}", "soft words ".repeat(PADDING / 11))
}

impl Target {
    /// So many repos on all their relays, of which nothing is known yet.
    fn new(w: &mut World, repos: usize) -> Target {
        for n in 0..RELAYS {
            // Two say nothing of themselves: they are read by pages, and most root events there take turns.
            let config = if n % 10 == 0 { RelayConfig::strfry() } else { RelayConfig::reconciling() };
            w.add_relay(&format!("r{n}"), config);
        }
        w.bootstrap("r0");
        // The disk itself is read in the end.
        w.look_every = u64::MAX;
        let mut target =
            Target { owners: Vec::new(), roots: Vec::new(), published: Vec::new(), states: BTreeMap::new() };
        for repo in 0..repos {
            // Never so much in one second that a relay would hide some of it.
            let at = OLD + 61 * repo as u64;
            let announcement = target.add_repo(at);
            w.hold("r0", &announcement);
            let address = target.owners[repo].repo("repo");
            let issue = |n| target.owners[repo].issue(&address, at + 60 * n, &text(n));
            let roots: Vec<EventRef> = (0..ROOTS_PER_REPO).map(issue).collect();
            let comment = |n: u64| target.owners[repo].comment(&roots[n as usize], at + 60 * n + 30, &text(n));
            let comments: Vec<EventRef> = (0..COMMENTS_PER_REPO).map(comment).collect();
            let events = || std::iter::once(&announcement).chain(&roots).chain(&comments);
            relays_of(repo).for_each(|relay| w.hold_all(&relay, events()));
            target.published.extend(events().cloned());
            target.roots[repo] = roots;
        }
        target
    }

    /// Announces one more repo.
    fn add_repo(&mut self, at: u64) -> EventRef {
        let owner = Author::new(self.owners.len() as u64);
        let urls: Vec<String> = relays_of(self.owners.len()).map(|relay| relay_url(&relay)).collect();
        let announcement = owner.announcement("repo", &urls.iter().map(String::as_str).collect::<Vec<_>>(), at);
        self.owners.push(owner);
        self.roots.push(Vec::new());
        announcement
    }

    /// What happens in the hour number `hour`, before it passes.
    fn publish(&mut self, w: &mut World, hour: u64) {
        let at = w.clock.wall();
        for n in hour * PER_HOUR..(hour + 1) * PER_HOUR {
            let repo = n as usize * 7 % self.owners.len();
            let (owner, roots) = (&self.owners[repo], &mut self.roots[repo]);
            let event = match roots.get(n as usize % roots.len().max(1)) {
                Some(root) if n % 2 == 1 => owner.comment(root, at, &text(n)),
                _ => {
                    let root = owner.issue(&owner.repo("repo"), at, &text(n));
                    roots.push(root.clone());
                    root
                }
            };
            // On one of its relays or on both.
            relays_of(repo).skip(n as usize % 3 % 2).take(1 + n as usize % 2).for_each(|r| w.publish(&r, &event));
            self.published.push(event);
        }
        let repo = hour as usize * 11 % self.owners.len();
        let state = self.owners[repo].state("repo", at);
        relays_of(repo).for_each(|relay| w.publish(&relay, &state));
        self.states.insert(repo, state);
        if hour.is_multiple_of(24) {
            w.drop_links(&format!("r{}", hour / 24 % RELAYS as u64));
            let repo = self.owners.len();
            let announcement = self.add_repo(at);
            relays_of(repo).for_each(|relay| w.publish(&relay, &announcement));
            self.published.push(announcement);
        }
    }

    /// Whether the disk holds what it is to hold, and how much that is.
    fn held(&self, w: &mut World) -> (bool, usize) {
        let complete = w.has_all(self.published.iter().chain(self.states.values()));
        (complete, w.durable().events.len())
    }
}

// The harness looks at the real clock before and after.
#[allow(clippy::disallowed_methods)]
#[test]
fn days_of_the_target() {
    let (days, repos) = (crate::number("SIM_DAYS", 1), crate::number("SIM_REPOS", 20) as usize);
    scenario("days_of_the_target", |w| {
        let began = std::time::Instant::now();
        let mut target = Target::new(w, repos);
        let before = target.published.len();
        w.start();
        w.run_for(10 * MINUTE);
        assert_eq!(target.held(w), (true, before), "the catch-up is complete");
        eprintln!("day,events,store_bytes,bytes_per_event,relays,repos,root_events,turns,commits,real_secs");
        report(w, 0, began);
        for day in 0..days {
            for hour in 0..24 {
                target.publish(w, day * 24 + hour);
                w.run_for(HOUR);
                w.forget_questions();
            }
            report(w, day + 1, began);
        }
        // Now from the disk itself.
        w.kill();
        let expected = target.published.len() + target.states.len();
        assert_eq!(target.held(w), (true, expected), "all that was published, and nothing that was replaced");
        let each = w.disk_used() / expected as u64;
        assert!(each <= STORE_BYTES_PER_EVENT_MAX, "the store takes {each} bytes for each event");
    });
}

/// What the process says of itself and its disk.
fn report(w: &mut World, day: u64, began: std::time::Instant) {
    let (events, bytes) = (w.durable().events.len() as u64, w.disk_used());
    let relays = w.status()["relays"].as_array().map_or(0, Vec::len);
    let (repos, roots) = (w.metric("grasp_sync_repos"), w.metric("grasp_sync_root_events"));
    eprintln!(
        "{day},{events},{bytes},{},{relays},{repos},{roots},{},{},{:.1}",
        bytes / events,
        w.turns,
        w.commits,
        began.elapsed().as_secs_f64()
    );
}
