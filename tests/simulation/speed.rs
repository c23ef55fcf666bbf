//! How fast simulated time passes. In the release profile, over a month:
//! `SIM_DAYS=30 cargo test --release --test simulation days_of_a_hundred_relays -- --nocapture`

use crate::clock::{DAY, HOUR, MINUTE};
use crate::events::{Author, EventRef};
use crate::model_relay::RelayConfig;
use crate::scenario;
use crate::setup::OLD;
use crate::world::{World, relay_url};

const RELAYS: usize = 100;
const REPOS: usize = 100;
const RELAYS_PER_REPO: usize = 5;
const ROOTS_PER_REPO: u64 = 10;
const COMMENTS_PER_ROOT: u64 = 2;

fn relays_of(repo: usize) -> impl Iterator<Item = usize> {
    (0..RELAYS_PER_REPO).map(move |n| (repo * 7 + n * 13) % RELAYS)
}

/// A hundred relays that hold a hundred repos, each on five of them; the authors.
fn hundred_relays(w: &mut World) -> Vec<Author> {
    (0..RELAYS).for_each(|n| _ = w.add_relay(&format!("r{n}"), RelayConfig::strfry()));
    w.bootstrap("r0");
    w.look_every = 4_096;
    let authors: Vec<Author> = (0..REPOS as u64).map(Author::new).collect();
    for (n, author) in authors.iter().enumerate() {
        let urls: Vec<String> = relays_of(n).map(|r| relay_url(&format!("r{r}"))).collect();
        let announcement = author.announcement("repo", &urls.iter().map(|u| &**u).collect::<Vec<_>>(), OLD);
        w.hold("r0", &announcement);
        let mut events: Vec<EventRef> = vec![announcement];
        for root in 0..ROOTS_PER_REPO {
            let issue = author.issue(&author.repo("repo"), OLD + 60 * root, &root.to_string());
            let at = OLD + 60 * root;
            events.extend((0..COMMENTS_PER_ROOT).map(|c| author.comment(&issue, at + c, &c.to_string())));
            events.push(issue);
        }
        relays_of(n).for_each(|r| w.hold_all(&format!("r{r}"), &events));
    }
    authors
}

// The harness looks at the real clock before and after.
#[allow(clippy::disallowed_methods)]
#[test]
fn days_of_a_hundred_relays() {
    let days = crate::number("SIM_DAYS", 1);
    scenario("days_of_a_hundred_relays", |w| {
        let authors = hundred_relays(w);
        let began = std::time::Instant::now();
        w.start();
        w.run_for(5 * MINUTE);
        let mut last = None;
        for hour in 0..24 * days {
            // Each hour five of the repos get an issue, on all their relays.
            for n in 0..5 {
                let n = (hour as usize * 5 + n) % REPOS;
                let issue = authors[n].issue(&authors[n].repo("repo"), w.clock.wall(), &hour.to_string());
                relays_of(n).for_each(|r| w.publish(&format!("r{r}"), &issue));
                last = Some(issue);
            }
            w.run_for(HOUR);
            w.forget_questions();
        }
        let took = began.elapsed();
        assert!(last.is_some_and(|issue| w.has(&issue)));
        let per_second = w.clock.now() as f64 / DAY as f64 / took.as_secs_f64();
        let events = w.durable().events.len();
        eprintln!(
            "{days} days of {RELAYS} relays, {events} events, {} turns in {:.1} s: {per_second:.2} simulated days a second",
            w.turns,
            took.as_secs_f64()
        );
    });
}
