//! A world drawn from the seed: what happens, how often, and which kinds of trouble there are at all. Safety is checked
//! at every step; then the faults end, two days pass, and everything that belongs must be there.

use crate::clock::{HOUR, MINUTE, SECOND};
use crate::events::{Author, EventRef};
use crate::model_relay::{Mode, Refusal, RelayConfig, notice};
use crate::world::{World, relay_url};
use std::collections::{BTreeMap, BTreeSet};

const RELAYS: [&str; 4] = ["hub", "a", "b", "c"];
const REPOS: u64 = 6;
const AUTHORS: u64 = 4;
const STEPS: u64 = 250;

#[derive(Clone, Copy, Debug)]
enum Action {
    Announce,
    Issue,
    Comment,
    Late,
    State,
    Delete,
    Burst,
    Client,
    Drop,
    Silence,
    Mode,
    Kill,
    Stop,
    Refuse,
    Limit,
    WallJump,
}

use Action::*;

/// What always happens in some measure, and what a seed may leave out altogether.
const ALWAYS: [Action; 3] = [Announce, Issue, Comment];
const SOMETIMES: [Action; 13] =
    [Late, State, Delete, Burst, Client, Drop, Silence, Mode, Kill, Stop, Refuse, Limit, WallJump];

struct Swarm {
    authors: Vec<Author>,
    /// The newest announcement of each repo.
    announced: BTreeMap<u64, EventRef>,
    roots: Vec<EventRef>,
    comments: Vec<EventRef>,
    /// What a deletion was published for.
    deleted: BTreeSet<String>,
    weights: Vec<(Action, u64)>,
    /// Times that the next announcement of a repo must come after.
    ended: BTreeMap<u64, u64>,
    made: u64,
}

impl Swarm {
    fn new(w: &mut World) -> Swarm {
        let mut weights: Vec<(Action, u64)> = ALWAYS.iter().map(|a| (*a, 4 + w.rng.below(8))).collect();
        // Half the seeds know a given trouble, from hardly ever to all the time.
        weights.extend(SOMETIMES.iter().map(|a| (*a, if w.rng.below(2) == 0 { 0 } else { 1 + w.rng.below(6) })));
        for name in RELAYS {
            let cap = [100, 250, 500][w.rng.below(3) as usize];
            w.add_relay(name, RelayConfig::capped(cap));
        }
        w.bootstrap("hub");
        Swarm {
            authors: (0..AUTHORS).map(Author::new).collect(),
            announced: BTreeMap::new(),
            roots: Vec::new(),
            comments: Vec::new(),
            deleted: BTreeSet::new(),
            weights,
            ended: BTreeMap::new(),
            made: 0,
        }
    }

    fn draw(&self, w: &mut World) -> Action {
        let mut n = w.rng.below(self.weights.iter().map(|(_, weight)| weight).sum());
        for (action, weight) in &self.weights {
            if n < *weight {
                return *action;
            }
            n -= weight;
        }
        unreachable!("the draw is below the sum")
    }

    fn owner(&self, repo: u64) -> &Author {
        &self.authors[(repo % AUTHORS) as usize]
    }

    fn address(&self, repo: u64) -> String {
        self.owner(repo).repo(&name(repo))
    }

    fn author_of(&self, event: &EventRef) -> &Author {
        self.authors.iter().find(|a| a.hex == event.author).expect("signed by one of them")
    }

    /// A time that an event may bear: mostly now, sometimes long ago or a little ahead.
    fn when(&self, w: &mut World) -> u64 {
        let wall = w.clock.wall();
        match w.rng.below(8) {
            0 => wall - w.rng.below(40 * 86_400),
            1 => wall - w.rng.below(3_600),
            2 => wall + w.rng.below(1_800),
            _ => wall,
        }
    }

    /// Publishes to some relays, or lets the event turn up there without a word.
    fn spread(&mut self, w: &mut World, event: &EventRef, quietly: bool) {
        let always = w.rng.below(4) as usize;
        for (n, relay) in RELAYS.iter().enumerate() {
            if n == always || w.rng.below(3) == 0 {
                if quietly { w.hold(relay, event) } else { w.publish(relay, event) }
            }
        }
    }

    fn text(&mut self) -> String {
        self.made += 1;
        format!("text {}", self.made)
    }

    fn issue(&mut self, w: &mut World) -> EventRef {
        let mut repos: Vec<String> = (0..1 + w.rng.below(2)).map(|_| self.address(w.rng.below(REPOS))).collect();
        repos.dedup();
        let tags: Vec<&str> = repos.iter().map(|r| &**r).collect();
        let (kind, at, text) = ([1617, 1618, 1619, 1621][w.rng.below(4) as usize], self.when(w), self.text());
        let author = w.rng.below(AUTHORS) as usize;
        let event = self.authors[author].root(kind, &tags, at, &text);
        self.roots.push(event.clone());
        event
    }

    fn comment(&mut self, w: &mut World, at: u64) -> Option<EventRef> {
        let root = pick(w, &self.roots)?;
        let (text, author) = (self.text(), w.rng.below(AUTHORS) as usize);
        let event = self.authors[author].comment(&root, at, &text);
        self.comments.push(event.clone());
        Some(event)
    }

    fn announce(&mut self, w: &mut World) {
        let repo = w.rng.below(REPOS);
        let newer = self.announced.get(&repo).map_or(0, |e| e.created_at + 1);
        let newer = newer.max(self.ended.get(&repo).map_or(0, |t| t + 1));
        let at = (w.clock.wall() - 600).max(newer);
        let listed: Vec<&str> = RELAYS.into_iter().filter(|_| w.rng.below(2) == 0).collect();
        let urls: Vec<String> = listed.iter().map(|r| relay_url(r)).collect();
        let urls: Vec<&str> = urls.iter().map(|u| &**u).collect();
        let event = match w.rng.below(6) {
            0 => self.owner(repo).foreign_announcement(&name(repo), at),
            _ => self.owner(repo).announcement(&name(repo), &urls, at),
        };
        w.publish("hub", &event);
        listed.iter().filter(|r| **r != "hub").for_each(|r| w.publish(r, &event));
        self.announced.insert(repo, event);
    }

    fn delete(&mut self, w: &mut World) {
        let at = w.clock.wall();
        let what = w.rng.below(5);
        let deletion = if what == 0 {
            let repo = w.rng.below(REPOS);
            let Some(event) = self.announced.get(&repo).cloned().filter(|e| e.created_at <= at) else { return };
            self.deleted.insert(event.id.clone());
            self.ended.insert(repo, at);
            let deletion = self.owner(repo).deletion(&[&event], &[&self.address(repo)], at);
            // Everyone who heard of the announcement hears of its end.
            RELAYS.iter().for_each(|r| w.publish(r, &deletion));
            return;
        } else {
            let Some(event) = (if what < 3 { pick(w, &self.roots) } else { pick(w, &self.comments) }) else { return };
            self.deleted.insert(event.id.clone());
            self.author_of(&event).deletion(&[&event], &[], at)
        };
        self.spread(w, &deletion, false);
    }

    fn act(&mut self, w: &mut World, action: Action) {
        let relay = RELAYS[w.rng.below(4) as usize];
        match action {
            Announce => self.announce(w),
            Issue => {
                let event = self.issue(w);
                self.spread(w, &event, false);
            }
            Comment => {
                let at = self.when(w);
                if let Some(event) = self.comment(w, at) {
                    self.spread(w, &event, false);
                }
            }
            Late => {
                let at = self.when(w);
                let event = if w.rng.below(2) == 0 { Some(self.issue(w)) } else { self.comment(w, at) };
                if let Some(event) = event {
                    self.spread(w, &event, true);
                }
            }
            State => {
                let repo = w.rng.below(REPOS);
                let event = self.owner(repo).state(&name(repo), w.clock.wall());
                self.spread(w, &event, false);
            }
            Delete => self.delete(w),
            Burst => {
                let at = self.when(w);
                for _ in 0..10 + w.rng.below(30) {
                    if let Some(event) = self.comment(w, at) {
                        self.spread(w, &event, false);
                    }
                }
            }
            Client => {
                let client = w.connect_client();
                let event = self.issue(w);
                w.client_publishes(client, &event);
            }
            Drop => w.drop_links(relay),
            Silence => w.silence_links(relay),
            Mode => {
                let modes = [Mode::Up, Mode::Up, Mode::Refuses, Mode::HangsUp, Mode::BlackHole];
                w.relay(relay).mode = modes[w.rng.below(5) as usize];
                if w.rng.below(2) == 0 {
                    w.drop_links(relay);
                }
            }
            Kill => {
                w.kill();
                let down = w.rng.below(10 * MINUTE);
                w.run_for(down);
                w.start();
            }
            Stop => {
                w.stop();
                let down = w.rng.below(10 * MINUTE);
                w.run_for(down);
                w.start();
            }
            Refuse => {
                let refusals = [
                    Refusal::Closed("error: could not connect to the database"),
                    Refusal::Closed("rate-limited: slow down there chief"),
                    Refusal::Notice("ERROR: too many concurrent REQs"),
                    Refusal::NoEose,
                    Refusal::Nothing,
                ];
                let refusal = refusals[w.rng.below(5) as usize].clone();
                let pass = w.rng.below(5);
                w.relay(relay).refusals.extend((0..pass).map(|_| None).chain([Some(refusal)]));
            }
            Limit => w.relay_says(relay, &notice("rate limited")),
            WallJump => {
                let jump = w.rng.below(1_200) as i64 - 600;
                w.clock.jump_wall(jump);
            }
        }
    }

    /// The repos that must be followed in the end, and the relays that each must be complete with.
    fn followed(&self) -> BTreeMap<String, BTreeSet<&'static str>> {
        let current = self.announced.iter().filter(|(_, e)| !self.deleted.contains(&e.id));
        let ours = current.filter(|(_, e)| e.values("clone").any(|c| c.contains(crate::events::DOMAIN)));
        ours.map(|(repo, e)| {
            let listed = crate::checks::rules::relays(e);
            (self.address(*repo), RELAYS.into_iter().filter(|r| listed.contains(&relay_url(r))).collect())
        })
        .collect()
    }

    /// What must be there in the end and is not.
    fn missing(&self, w: &mut World) -> Vec<String> {
        let followed = self.followed();
        let holders = |w: &mut World, e: &EventRef| -> BTreeSet<&'static str> {
            RELAYS.into_iter().filter(|r| w.relay(r).holds(e)).collect()
        };
        let mut wanted: Vec<EventRef> = Vec::new();
        wanted.extend(
            self.announced
                .values()
                .filter(|e| followed.contains_key(&format!("30617:{}:{}", e.author, e.identifier())))
                .cloned(),
        );
        // Relays that a stored root is asked for at.
        let mut asked_at: BTreeMap<String, BTreeSet<&'static str>> = BTreeMap::new();
        for root in &self.roots {
            let at: BTreeSet<&'static str> =
                root.values("a").filter_map(|a| followed.get(a)).flatten().copied().collect();
            let reachable = holders(w, root).intersection(&at).next().is_some();
            if reachable || w.has(root) {
                asked_at.insert(root.id.clone(), at);
            }
            if reachable {
                wanted.push(root.clone());
            }
        }
        for comment in &self.comments {
            let root = comment.values("E").next().expect("a comment has a root");
            let root_deleted = self.deleted.contains(root);
            let at = asked_at.get(root).cloned().unwrap_or_default();
            if !root_deleted && holders(w, comment).intersection(&at).next().is_some() {
                wanted.push(comment.clone());
            }
        }
        wanted.retain(|e| !self.deleted.contains(&e.id));
        w.say(&format!(
            "{} of {} events are wanted",
            wanted.len(),
            self.roots.len() + self.comments.len() + self.announced.len()
        ));
        wanted.retain(|e| !w.has(e));
        wanted.iter().map(|e| format!("{} kind {} of {} at {:?}", e.id, e.kind, e.created_at, holders(w, e))).collect()
    }
}

fn name(repo: u64) -> String {
    format!("repo:{repo}")
}

fn pick(w: &mut World, from: &[EventRef]) -> Option<EventRef> {
    if from.is_empty() {
        return None;
    }
    Some(from[w.rng.below(from.len() as u64) as usize].clone())
}

/// Plays one world to its end; the hash of all that the process said.
pub fn swarm(name: &'static str, seed: u64) -> u64 {
    let mut world = World::new(name, seed);
    let w = &mut world;
    let mut swarm = Swarm::new(w);
    w.start();
    for _ in 0..STEPS {
        let action = swarm.draw(w);
        w.say(&format!("--- {action:?}"));
        swarm.act(w, action);
        let pause = match w.rng.below(6) {
            0 => 0,
            1 => w.rng.below(20 * MINUTE),
            2 => w.rng.below(2 * MINUTE),
            _ => w.rng.below(8 * SECOND),
        };
        w.run_for(pause);
    }
    w.say("--- the faults end");
    for name in RELAYS {
        w.relay(name).mode = Mode::Up;
        w.relay(name).refusals.clear();
    }
    w.run_for(50 * HOUR);
    let status = w.status();
    for relay in status["relays"].as_array().expect("a list") {
        assert_eq!(relay["state"], "Live", "two days after the faults ended: {relay:#}");
    }
    let missing = swarm.missing(w);
    assert!(missing.is_empty(), "missing two days after the faults ended: {missing:#?}");
    for deleted in &swarm.deleted {
        let durable = w.durable();
        let known = durable.events.values().any(|d| d.kind == 5 && d.values("e").any(|id| id == deleted));
        assert!(!(known && durable.events.contains_key(deleted)), "{deleted} was deleted and is still there");
    }
    w.outputs_hash()
}

#[test]
fn a_drawn_world_is_safe_and_converges() {
    let first = crate::seed();
    let seeds = crate::number("SIM_SEEDS", 4);
    for seed in first..first + seeds {
        eprintln!("a_drawn_world_is_safe_and_converges: SIM_SEED={seed}");
        swarm("a_drawn_world_is_safe_and_converges", seed);
    }
}

#[test]
fn a_drawn_world_is_the_same_each_time() {
    let seed = crate::seed();
    let run = || swarm("a_drawn_world_is_the_same_each_time", seed);
    assert_eq!(run(), run());
}
