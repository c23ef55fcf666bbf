//! Many repositories at once, for the scale test and the benches.

use super::events::{Author, padding};
use nostr::event::Event;

/// How much of a world there is.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub repos: usize,
    pub roots_per_repo: usize,
    /// Comments in all, spread over the root events.
    pub comments: usize,
    /// Bytes of padding in the content of root events and comments.
    pub padding: usize,
    /// Relays that each announcement lists beside the service's own, taken in turn.
    pub relays_per_repo: usize,
}

impl Shape {
    /// The world that the design aims at: 76,000 events.
    pub const TARGET: Shape =
        Shape { repos: 1_000, roots_per_repo: 50, comments: 25_000, padding: 500, relays_per_repo: 2 };

    /// Events in all.
    pub fn events(&self) -> usize {
        self.repos + self.roots() + self.comments
    }

    /// Root events in all.
    pub fn roots(&self) -> usize {
        self.repos * self.roots_per_repo
    }

    /// Of so many relays, those that repo number `repo` lists.
    pub fn relays_of(&self, repo: usize, relays: usize) -> impl Iterator<Item = usize> + use<> {
        let first = repo * self.relays_per_repo;
        (first..first + self.relays_per_repo).map(move |n| n % relays)
    }

    /// The repo that event number `n` of the world belongs to.
    pub fn repo_of(&self, n: usize) -> usize {
        match n.checked_sub(self.repos + self.roots()) {
            Some(comment) => self.root_of(comment) % self.repos,
            None => n % self.repos,
        }
    }

    /// The root event, by its number among them, that a comment is about.
    fn root_of(&self, comment: usize) -> usize {
        (comment * 31) % self.roots()
    }
}

/// Repositories of a few owners with root events and comments by a few dozen people, dated evenly over the year before
/// the hour before `now`: none of it is so new that the overlap of a reconnect would fetch it again.
pub struct World {
    pub shape: Shape,
    pub addresses: Vec<String>,
    /// Announcements, then root events, then comments.
    pub events: Vec<Event>,
}

const YEAR_SECS: u64 = 365 * 86_400;
const HOUR_SECS: u64 = 3_600;
const OWNERS: usize = 50;
const PEOPLE: usize = 40;

/// Who owns repo number `repo`.
pub fn owner(repo: usize) -> Author {
    Author::from_seed(1_000 + (repo % OWNERS) as u64)
}

/// The name of repo number `repo`.
pub fn identifier(repo: usize) -> String {
    format!("repo-{repo}")
}

impl World {
    /// A world whose repos list `domain` as their service and, in turn, their share of `relays` beside it.
    pub fn new(shape: Shape, domain: &str, relays: &[&str], now: u64) -> World {
        let owners: Vec<Author> = (0..OWNERS).map(owner).collect();
        let people: Vec<Author> = (0..PEOPLE).map(|n| Author::from_seed(2_000 + n as u64)).collect();
        let own_relay = format!("wss://{domain}");

        let total = shape.events();
        let mut events: Vec<Event> = Vec::with_capacity(total);
        let mut addresses = Vec::with_capacity(shape.repos);
        // A stride coprime to the total mixes old and new over repos and kinds.
        let when = |n: usize| now - HOUR_SECS - YEAR_SECS + YEAR_SECS * ((n * 7_919) % total) as u64 / total as u64;

        for repo in 0..shape.repos {
            let owner = &owners[repo % OWNERS];
            let d = identifier(repo);
            let mut listed = vec![own_relay.as_str()];
            listed.extend(shape.relays_of(repo, relays.len()).map(|n| relays[n]));
            events.push(owner.announcement(&d, &[domain], &listed, when(events.len())));
            addresses.push(owner.repo(&d));
        }
        for root in 0..shape.roots() {
            let address = addresses[root % shape.repos].as_str();
            let kind = [1621, 1617, 1618, 1621][root % 4];
            let content = padding(root as u64, shape.padding);
            let event = people[root % PEOPLE].root(kind, &[address], "made", when(events.len()), &content);
            events.push(event);
        }
        for comment in 0..shape.comments {
            let root = events[shape.repos + shape.root_of(comment)].clone();
            let content = padding((1 << 40) + comment as u64, shape.padding);
            events.push(people[(comment * 7) % PEOPLE].comment(&root, when(events.len()), &content));
        }
        assert_eq!(events.len(), total);
        World { shape, addresses, events }
    }

    pub fn announcements(&self) -> &[Event] {
        &self.events[..self.shape.repos]
    }

    pub fn roots(&self) -> &[Event] {
        &self.events[self.shape.repos..][..self.shape.roots()]
    }

    pub fn comments(&self) -> &[Event] {
        &self.events[self.shape.repos + self.shape.roots()..]
    }

    /// `count` further events, issues and comments in turn, dated `created_at`: what is published while the test runs.
    pub fn published_later(&self, count: usize, created_at: u64) -> Vec<Event> {
        let person = Author::from_seed(3_000);
        let roots = self.roots();
        (0..count)
            .map(|n| {
                let text = padding((1 << 41) + n as u64, self.shape.padding);
                if n % 2 == 0 {
                    let address = self.addresses[(n * 13) % self.addresses.len()].as_str();
                    person.root(1621, &[address], &format!("later {n}"), created_at, &text)
                } else {
                    person.comment(&roots[(n * 17) % roots.len()], created_at, &text)
                }
            })
            .collect()
    }
}
