//! The hot paths of the core, to be counted by `tests/bench/instructions/check`: `instructions new 300` takes in 300 new
//! events. Whatever the number, as much is prepared, so that the difference between two numbers is what one costs.
#![allow(clippy::disallowed_methods, reason = "a bench measures the real clock")]
#![allow(clippy::print_stdout, reason = "it says how it is used")]

#[path = "../support/mod.rs"]
mod support;

mod engine;

use engine::{DOMAIN, Driven, relay_urls, settings};
use grasp_sync::contract::{Input, LinkId};
use grasp_sync::shares::Account;
use grasp_sync::store::Store;
use grasp_sync::time::Duration;
use nostr::event::Event;
use serde_json::{Value, json};
use support::events::{Author, padding};
use support::world::{Shape, World};

/// What is there before anything is counted.
const SHAPE: Shape = Shape { repos: 20, roots_per_repo: 10, comments: 400, padding: 490, relays_per_repo: 1 };
/// Index entries that wait, so that some hundreds of events have theirs written.
const MEMTABLE_MAX: usize = 4_000;
/// Events in one commit.
const BATCH: usize = 100;
/// Of what can be counted, so much is prepared.
const PREPARED: usize = 1_000;
/// Clients that hear of each new event.
const CLIENTS: u64 = 20;
/// Any moment; the same in every run.
const NOW: u64 = 1_800_000_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let [path, count] = &*arguments else {
        println!("instructions: to be counted by tests/bench/instructions/check");
        return;
    };
    let count: usize = count.parse().expect("a number");
    assert!(count <= PREPARED, "at most {PREPARED}");
    let mut scene = Scene::new();
    match path.as_str() {
        "new" => scene.take_in(count),
        "known" => scene.hear_again(count),
        "fan-out" => scene.fan_out(count),
        "query" => scene.query(count),
        _ => panic!("no path {path}"),
    }
}

struct Scene {
    driven: Driven,
    world: World,
    link: LinkId,
    subscription: String,
}

impl Scene {
    fn new() -> Scene {
        let urls = relay_urls(1);
        let world = World::new(SHAPE, DOMAIN, &[&urls[0]], NOW);
        let mut driven = Driven::new(settings(), NOW, Store::in_memory().with_memtable_max(MEMTABLE_MAX));
        let lines: Vec<String> = world.events.iter().map(Event::as_json).collect();
        driven.import(lines.iter().map(String::as_str));
        driven.pass_secs(60);
        let (link, subscription) = driven.subscription_of(&urls[0]);
        let subscription = subscription.to_owned();
        Scene { driven, world, link, subscription }
    }

    fn message(&self, event: &Event) -> String {
        format!(r#"["EVENT","{}",{}]"#, self.subscription, event.as_json())
    }

    fn fresh(&self) -> Vec<(LinkId, String)> {
        let person = Author::from_seed(5_000);
        let roots = self.world.roots();
        let event = |n: usize| person.comment(&roots[(n * 17) % roots.len()], NOW, &padding((1 << 43) + n as u64, 490));
        (0..PREPARED).map(|n| (self.link, self.message(&event(n)))).collect()
    }

    /// New events from a relay, their commits among it.
    fn take_in(&mut self, count: usize) {
        let messages = self.fresh();
        self.driven.receive(&messages[..count], BATCH);
    }

    /// Events that are stored already, from a relay.
    fn hear_again(&mut self, count: usize) {
        let events = &self.world.events;
        let messages: Vec<String> = (0..PREPARED).map(|n| self.message(&events[n % events.len()])).collect();
        let stored = self.driven.last_seq();
        // Nothing of it is to be committed.
        messages[..count].iter().for_each(|text| self.driven.give(Input::Text { link: self.link, text }));
        assert_eq!(self.driven.last_seq(), stored);
    }

    /// New events that some clients wait for.
    fn fan_out(&mut self, count: usize) {
        for client in 0..CLIENTS {
            self.accept(client);
            self.ask(client, "live", &json!({"kinds": [1111], "limit": 0}));
        }
        self.take_in(count);
        let sent = count as u64 * CLIENTS;
        // What one turn does not get to, the next does.
        for _ in 0..count {
            if self.driven.events_to_clients == sent {
                break;
            }
            self.driven.pass(Duration::ZERO);
        }
        assert_eq!(self.driven.events_to_clients, sent);
    }

    /// Questions of a client for the comments on one root event.
    fn query(&mut self, count: usize) {
        self.accept(0);
        let ids: Vec<_> = (0..PREPARED).map(|n| self.world.roots()[n * 7 % self.world.roots().len()].id).collect();
        for id in &ids[..count] {
            self.ask(0, "q", &json!({"#E": [id], "limit": 20}));
        }
        assert!(self.driven.events_to_clients >= count as u64);
    }

    fn accept(&mut self, client: u64) {
        self.driven.give(Input::Accepted { link: LinkId::Client(client), account: Account::of([127, 0, 0, 1].into()) });
    }

    /// Asks and waits for the end of what is stored.
    fn ask(&mut self, client: u64, subscription: &str, filter: &Value) {
        let text = json!(["REQ", subscription, filter]).to_string();
        let answered = self.driven.answers_to_clients;
        self.driven.give(Input::Text { link: LinkId::Client(client), text: &text });
        while self.driven.answers_to_clients == answered {
            self.driven.pass(Duration::ZERO);
        }
    }
}
