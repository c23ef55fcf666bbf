//! What is published during a soak, on which relays, and what the store is to hold of it in the end.

use super::RELAYS;
use crate::support::events::{Author, padding, unix_now};
use crate::support::mock_relay::MockRelay;
use crate::support::world::{Shape, World, identifier, owner};
use nostr::event::{Event, EventId};
use std::collections::{BTreeSet, HashMap, VecDeque};

/// The world that is there before: 76,000 events.
pub const SHAPE: Shape = Shape::TARGET;
/// Root events that may get a comment, old and new ones each; what is made must not fill this process.
const ROOTS_KEPT: usize = 2_000;
/// Published events that the relays keep.
const FRESH_KEPT: usize = 50_000;

/// What is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    NewRepo,
    /// A repo is announced anew.
    Announcement,
    /// The state of a repo, which replaces the one before.
    State,
    Root,
    Status,
    Comment,
}

impl Sort {
    /// Of 300 events in a row one announces a new repo, 4 an old one, 20 are states, 75 root events, the rest talk.
    fn of(number: u64) -> Sort {
        match number {
            n if n.is_multiple_of(300) => Sort::NewRepo,
            n if n % 75 == 2 => Sort::Announcement,
            n if n % 15 == 1 => Sort::State,
            n if n % 4 == 3 => Sort::Root,
            n if n % 30 == 4 => Sort::Status,
            _ => Sort::Comment,
        }
    }
}

/// Publishes one event after the other.
pub struct Load {
    domain: &'static str,
    urls: Vec<String>,
    /// Ids that the store is to hold in the end.
    pub expected: BTreeSet<EventId>,
    /// What was published, and for which repo.
    pub sorts: HashMap<EventId, (Sort, usize)>,
    /// The version of an announcement or state that holds, by kind and repo.
    current: HashMap<(u16, usize), EventId>,
    repos: usize,
    old_roots: Vec<(Event, usize)>,
    new_roots: VecDeque<(Event, usize)>,
    fresh: VecDeque<(EventId, usize)>,
    people: Vec<Author>,
    /// Events published so far.
    pub published: u64,
    /// Root events among them.
    pub roots: u64,
    /// New repos among them.
    pub new_repos: u64,
    /// Events among them that replaced another.
    pub replaced: u64,
}

impl Load {
    /// Gives `relays`, at `urls`, the events of the repos that list them; nothing is published yet.
    pub fn new(world: &World, domain: &'static str, urls: Vec<String>, relays: &[MockRelay]) -> Load {
        for (n, relay) in relays.iter().enumerate() {
            let listed = |repo: usize| world.shape.relays_of(repo, RELAYS).any(|other| other == n);
            let events = world.events.iter().enumerate();
            relay.data().add(events.filter(|(n, _)| listed(world.shape.repo_of(*n))).map(|(_, event)| event));
        }
        let roots = world.roots().iter().enumerate().step_by(world.roots().len() / ROOTS_KEPT);
        Load {
            domain,
            urls,
            expected: world.events.iter().map(|event| event.id).collect(),
            sorts: HashMap::new(),
            current: world.announcements().iter().enumerate().map(|(repo, event)| ((30617, repo), event.id)).collect(),
            repos: world.shape.repos,
            old_roots: roots.map(|(n, root)| (root.clone(), n % world.shape.repos)).collect(),
            new_roots: VecDeque::new(),
            fresh: VecDeque::new(),
            people: (0..40).map(|n| Author::from_seed(7_000 + n)).collect(),
            published: 0,
            roots: 0,
            new_repos: 0,
            replaced: 0,
        }
    }

    /// Publishes one more event, on one of the relays of its repo or on both.
    pub fn publish(&mut self, relays: &[MockRelay]) {
        let (sort, n) = (Sort::of(self.published), self.published as usize);
        let (event, repo) = self.make(sort, n);
        let homes: Vec<usize> = SHAPE.relays_of(repo, RELAYS).collect();
        match n / 7 % 3 {
            2 => homes.iter().for_each(|home| relays[*home].data().add([&event])),
            which => relays[homes[which]].data().add([&event]),
        }
        self.published += 1;
        self.note(sort, event, repo);
        self.forget_old(relays);
    }

    fn make(&self, sort: Sort, n: usize) -> (Event, usize) {
        let (now, person) = (unix_now(), &self.people[n % self.people.len()]);
        let text = padding((1 << 45) + n as u64, SHAPE.padding);
        let repo = match sort {
            Sort::NewRepo => self.repos,
            // One after the other: what is replaced has been stored and heard of long before.
            Sort::State => n / 15 % SHAPE.repos,
            Sort::Announcement => n / 75 % SHAPE.repos,
            _ => n * 13 % self.repos,
        };
        let address = owner(repo).repo(&identifier(repo));
        let (root, of_root) = self.some_root(n);
        match sort {
            Sort::NewRepo | Sort::Announcement => {
                let own = format!("wss://{}", self.domain);
                let mut listed = vec![own.as_str()];
                listed.extend(SHAPE.relays_of(repo, RELAYS).map(|home| self.urls[home].as_str()));
                (owner(repo).announcement(&identifier(repo), &[self.domain], &listed, now), repo)
            }
            Sort::State => (owner(repo).state(&identifier(repo), &format!("{n:040x}"), now), repo),
            Sort::Root => (person.root(1621, &[&address], "soaked", now, &text), repo),
            Sort::Status => {
                let address = owner(of_root).repo(&identifier(of_root));
                (owner(of_root).status(1632, root, &address, now), of_root)
            }
            Sort::Comment => (person.comment(root, now, &text), of_root),
        }
    }

    /// An old root event or one that was published lately, in turn.
    fn some_root(&self, n: usize) -> (&Event, usize) {
        let (root, repo) = match self.new_roots.len() {
            0 => &self.old_roots[n * 7 % self.old_roots.len()],
            _ if n.is_multiple_of(2) => &self.old_roots[n * 7 % self.old_roots.len()],
            lately => &self.new_roots[n * 7 % lately],
        };
        (root, *repo)
    }

    fn note(&mut self, sort: Sort, event: Event, repo: usize) {
        self.expected.insert(event.id);
        self.sorts.insert(event.id, (sort, repo));
        match sort {
            Sort::NewRepo | Sort::Announcement | Sort::State => {
                if let Some(old) = self.current.insert((event.kind.as_u16(), repo), event.id) {
                    self.expected.remove(&old);
                    self.replaced += 1;
                }
                if sort == Sort::NewRepo {
                    self.repos += 1;
                    self.new_repos += 1;
                }
            }
            Sort::Root => {
                self.roots += 1;
                self.new_roots.push_back((event, repo));
                if self.new_roots.len() > ROOTS_KEPT {
                    self.new_roots.pop_front();
                }
            }
            Sort::Status | Sort::Comment => self.fresh.push_back((event.id, repo)),
        }
    }

    /// Takes out of the relays what was said long ago, so that days of it do not fill this process.
    fn forget_old(&mut self, relays: &[MockRelay]) {
        while self.fresh.len() > FRESH_KEPT {
            let (id, repo) = self.fresh.pop_front().expect("it is not empty");
            SHAPE.relays_of(repo, RELAYS).for_each(|home| relays[home].data().remove(&id));
        }
    }
}
