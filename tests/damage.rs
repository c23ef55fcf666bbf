//! A disk that lies, and the built binary: bytes of its store's file are changed between two runs. What is served is what
//! was stored; what does not hold is forgotten and fetched again, or the process ends with status 4 and says what to do.
//! In process, and for many more bytes, `store::damage` looks at the same.
#![allow(clippy::disallowed_methods, reason = "tests with real sockets live by the real clock")]
#![allow(clippy::print_stderr, reason = "what became of the flips is part of the result")]

#[path = "simulation/rng.rs"]
mod rng;
mod support;

use nostr::event::{Event, EventId};
use rng::Rng;
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;
use support::events::unix_now;
use support::mock_relay::MockRelay;
use support::process::{Process, Setup};
use support::wait::wait_until;
use support::world::{Shape, World};

const DOMAIN: &str = "grasp.test";
const SHAPE: Shape = Shape { repos: 10, roots_per_repo: 4, comments: 150, padding: 490, relays_per_repo: 1 };
/// Bytes changed, one a run.
const FLIPS: usize = 24;
const SOON: Duration = Duration::from_secs(60);
const DAMAGED: i32 = 4;

/// A daemon that has fetched all of a relay's events and was stopped.
struct Scene {
    relay: MockRelay,
    setup: Setup,
    world: World,
}

impl Scene {
    fn new() -> Scene {
        let relay = MockRelay::start();
        let world = World::new(SHAPE, DOMAIN, &[&relay.url()], unix_now());
        relay.data().add(&world.events);
        let setup = Setup::new(DOMAIN).bootstrap(&relay.url());
        let process = setup.start();
        process.wait_stored(world.events.len(), SOON);
        process.wait_live(1, SOON);
        assert!(process.stop_within(SOON).success());
        Scene { relay, setup, world }
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.setup.store_file()).expect("the store is there")
    }

    fn write(&self, bytes: &[u8]) {
        fs::write(self.setup.store_file(), bytes).expect("the store is writable");
    }

    fn ids(&self) -> BTreeSet<EventId> {
        self.world.events.iter().map(|event| event.id).collect()
    }

    /// The file with one event's text changed, wherever it stands.
    fn without(&self, event: &Event) -> Vec<u8> {
        let mut bytes = self.bytes();
        let text = event.content.as_bytes();
        let places: Vec<usize> = (0..bytes.len() - text.len()).filter(|at| bytes[*at..].starts_with(text)).collect();
        assert!(!places.is_empty(), "it is in the file");
        places.iter().for_each(|at| bytes[at + 5] ^= 0x11);
        bytes
    }

    /// What a client is served of everything; each event must be one that was stored.
    fn served(&self, process: &Process) -> BTreeSet<EventId> {
        let events = process.client().query(&json!({ "kinds": [1111, 1617, 1618, 1621, 30617] }));
        assert!(events.iter().all(|event| self.world.events.contains(event)), "what is served was stored");
        events.iter().map(|event| event.id).collect()
    }
}

fn damaged(process: &Process) -> f64 {
    process.metrics().sum("grasp_sync_store_damaged_total", &[])
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn what_is_damaged_is_forgotten_and_fetched_again() {
    let scene = Scene::new();
    let comment = &scene.world.comments()[70];
    scene.write(&scene.without(comment));
    let ended = scene.setup.run(&["verify"]);
    assert_eq!(ended.status.code(), Some(DAMAGED));
    assert!(text(&ended.stderr).contains("1 events damaged; the next run forgets"), "{}", text(&ended.stderr));
    let ended = scene.setup.run(&["export"]);
    assert_eq!(ended.status.code(), Some(DAMAGED), "an export is whole or none");

    let process = scene.setup.start();
    scene.served(&process);
    wait_until("it is noticed", SOON, || damaged(&process) >= 1.0);
    wait_until("it is there again", SOON, || scene.served(&process) == scene.ids());
    assert_eq!(damaged(&process), 1.0);
    assert!(process.stop_within(SOON).success());
    let ended = scene.setup.run(&["verify"]);
    assert_eq!(ended.status.code(), Some(0), "{}", text(&ended.stderr));
    assert!(text(&ended.stdout).contains("200 events hold; 1 were damaged once"), "{}", text(&ended.stdout));
    assert_eq!(scene.setup.exported_ids(), scene.ids());
}

#[test]
fn any_byte_that_is_changed_is_healed_or_refused() {
    let mut scene = Scene::new();
    let bytes = scene.bytes();
    scene.relay.stop();
    let mut rng = Rng::new(17);
    let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    let (mut whole, mut healing, mut refused) = (0, 0, 0);
    for _ in 0..FLIPS {
        let at = used[rng.below(used.len() as u64) as usize];
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 + rng.below(255) as u8;
        scene.write(&flipped);
        let mut process = scene.setup.spawn();
        let served = match process.listens() {
            Ok(()) => catch_unwind(AssertUnwindSafe(|| scene.served(&process))).ok(),
            Err(status) => {
                assert_eq!(status.code(), Some(DAMAGED), "byte {at}: {}", process.log_text());
                None
            }
        };
        match served {
            Some(served) if served == scene.ids() => whole += 1,
            Some(_) => {
                wait_until("it is noticed", SOON, || damaged(&process) >= 1.0);
                healing += 1;
            }
            None => {
                assert_eq!(process.exit_within(SOON).code(), Some(DAMAGED), "byte {at}: {}", process.log_text());
                wait_until("it says what to do", SOON, || process.log_has("export --salvage"));
                refused += 1;
                continue;
            }
        }
        assert!(process.stop_within(SOON).success(), "byte {at}");
    }
    eprintln!("{whole} whole, {healing} noticed and forgotten, {refused} refused");
    assert!(healing > 0);
}

#[test]
fn what_holds_is_salvaged_and_imported_into_a_new_store() {
    let scene = Scene::new();
    let lost = &scene.world.comments()[70];
    let mut bytes = scene.without(lost);
    // Most of the redb's own pages are gone with it, the header first.
    bytes[..320].fill(0x5a);
    scene.write(&bytes);
    let ended = scene.setup.run(&["verify"]);
    assert_eq!(ended.status.code(), Some(DAMAGED));
    assert!(text(&ended.stderr).contains("header damaged"), "{}", text(&ended.stderr));
    let file = scene.setup.dir().path().join("salvaged.jsonl");
    let ended = scene.setup.run(&["export", "--salvage", file.to_str().expect("a readable path")]);
    assert_eq!(ended.status.code(), Some(DAMAGED));
    assert!(text(&ended.stderr).contains("199 events written"), "{}", text(&ended.stderr));
    fs::remove_file(scene.setup.store_file()).expect("it is there");
    let ended = scene.setup.import(&file, &["--no-policy"]);
    assert!(ended.status.success(), "{}{}", text(&ended.stdout), text(&ended.stderr));
    let mut expected = scene.ids();
    expected.remove(&lost.id);
    assert_eq!(scene.setup.exported_ids(), expected);
}

#[test]
fn a_salvage_names_what_was_lost() {
    let scene = Scene::new();
    let lost = &scene.world.comments()[9];
    scene.write(&scene.without(lost));
    let file = scene.setup.dir().path().join("salvaged.jsonl");
    let ended = scene.setup.run(&["export", "--salvage", file.to_str().expect("a readable path")]);
    let said = text(&ended.stderr);
    assert_eq!(ended.status.code(), Some(DAMAGED));
    assert!(said.contains(&format!("lost {}", lost.id)) && said.contains("199 events written, 1 lost;"), "{said}");
    assert_eq!(fs::read_to_string(&file).expect("it is written").lines().count(), 199);
    let ended = scene.setup.run(&["verify"]);
    assert!(text(&ended.stderr).contains("pages of events damaged"), "a salvage changes nothing");
}
