//! The simulated world: the real engine and the real store among model relays and clients, on a simulated clock and
//! disk, drawn from one seed. `SIM_SEED=n cargo test --test simulation NAME` plays a scenario with another seed.

// A failing scenario tells its story on standard error.
#![allow(clippy::print_stderr)]

mod audit;
mod authority;
mod catchup;
mod checks;
mod client;
mod clock;
mod crash;
mod crash_store;
mod design;
mod disk;
mod doors;
mod ear;
mod events;
mod evidence;
mod faults;
mod health;
mod lessons;
mod lifecycle;
mod link;
mod live;
mod model_relay;
mod month;
mod outage;
mod places;
mod polling;
mod reconcile;
#[path = "../../src/fuzzing/refusals.rs"]
mod refusals;
mod regressions;
mod rng;
mod room;
mod script;
mod setup;
mod shares;
mod speed;
mod swarm;
mod trace;
mod traps;
mod world;

use world::World;

/// The seed of a scenario that is not told another.
const SEED: u64 = 1;

/// Runs one scenario in a world of its own. `name` is the test's, so that the trace can say how to play it again.
fn scenario(name: &'static str, run: impl FnOnce(&mut World)) {
    let mut world = World::new(name, seed());
    eprintln!("{name}: SIM_SEED={}", world.seed);
    run(&mut world);
}

fn seed() -> u64 {
    number("SIM_SEED", SEED)
}

/// A number that the caller of the tests may set.
// The environment chooses the world before it begins; nothing inside reads it.
#[allow(clippy::disallowed_methods)]
fn number(variable: &str, default: u64) -> u64 {
    let given = std::env::var(variable).ok();
    given.map_or(default, |s| s.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}
