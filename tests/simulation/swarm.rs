//! Worlds drawn from a seed: what there is, what happens, and which kinds of trouble there are at all. Safety is checked
//! at every step; then the faults end, days pass, and everything that belongs must be there.
//!
//! Which seeds are played:
//! - nothing set: the fixed seeds from 1 on, so that a plain `cargo test` is the same each time;
//! - `SIM_SEED=n`: half of the fixed seeds, and as many from `n` on. CI sets it from the commit, so that each tries others;
//! - `SIM_SEED=n SIM_SEEDS=k`: `k` seeds from `n` on and no others; this is how a failure is replayed, with `k` 1;
//! - `SIM_MINUTES=m`: seeds from `n` on until so many minutes of real time are over, for nights.

mod actions;
mod expect;
mod options;
mod pen;

use crate::clock::{HOUR, Micros, SECOND};
use crate::disk::DiskFaults;
use crate::events::EventRef;
use crate::model_relay::{Liar, Mode, ModelRelay, Oddities};
use crate::rng::Rng;
use crate::world::World;
use actions::Action;
use options::Options;
use pen::Pen;
use std::cmp::Reverse;

/// Seeds of a run that is told nothing.
const SEEDS: u64 = 32;
/// Seeds of worlds with outages.
const OUTAGE_SEEDS: u64 = 6;

pub struct Swarm {
    pen: Pen,
    relays: usize,
    weights: Vec<(Action, u64)>,
    /// Events on their way to relays: when, where.
    delayed: Vec<(Micros, String, EventRef)>,
    clients: Vec<usize>,
}

impl Swarm {
    fn new(w: &mut World, options: &Options) -> Swarm {
        for (n, relay) in options.relays.iter().enumerate() {
            w.add_relay(&format!("r{n}"), relay.config.clone());
            w.paths.insert(n, relay.path);
        }
        w.add_unreachable();
        w.bootstrap("r0");
        w.commit_took = options.commit_took;
        let pen = Pen::new(options.authors, options.repos, &mut w.rng);
        let (relays, weights) = (options.relays.len(), options.weights.clone());
        let mut swarm = Swarm { pen, relays, weights, delayed: Vec::new(), clients: Vec::new() };
        for n in 0..options.history {
            let wall = w.clock.wall();
            let at = wall - w.rng.below(30 * 86_400);
            if n % 16 == 0 {
                swarm.announce(w);
            }
            let event = if n % 3 == 0 { swarm.pen.root(&mut w.rng, at) } else { swarm.pen.comment(&mut w.rng, at) };
            swarm.spread(w, &event);
        }
        swarm
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

    /// Lets time pass, in which late events reach their relays.
    fn pass(&mut self, w: &mut World, time: Micros) {
        let end = w.clock.now() + time;
        self.delayed.sort_by_key(|(at, ..)| Reverse(*at));
        while let Some((at, relay, event)) = self.delayed.pop_if(|(at, ..)| *at <= end) {
            w.run_for(at.saturating_sub(w.clock.now()));
            w.publish(&relay, &event);
        }
        w.run_for(end.saturating_sub(w.clock.now()));
        w.forget_questions();
    }

    /// Everything works again from now on.
    fn heal(&mut self, w: &mut World) {
        w.say("--- the faults end");
        w.disk_faults(DiskFaults::default());
        if !w.is_running() {
            w.start();
        }
        let error = w.clock.wall_error();
        if error != 0 {
            w.set_wall(-error);
        }
        for n in 0..self.relays {
            let relay = w.relay(&format!("r{n}"));
            relay.mode = Mode::Up;
            relay.refusals.clear();
        }
        for (_, relay, event) in std::mem::take(&mut self.delayed) {
            w.publish(&relay, &event);
        }
    }
}

/// How often each relay's limits have been passed that can be known.
fn breaches(w: &World) -> Vec<(String, String)> {
    let of = |r: &ModelRelay| (r.url.clone(), format!("{:?}", r.known_breaches()));
    w.relays().iter().filter(|r| !r.known_breaches().is_empty()).map(of).collect()
}

/// What one world came to.
pub struct Played {
    /// Of all that the process put out.
    pub hash: u64,
    pub simulated: Micros,
}

/// Plays one world to its end.
pub fn swarm(name: &'static str, seed: u64) -> Played {
    played(name, seed, &[])
}

/// The same, in which this happens, too.
fn played(name: &'static str, seed: u64, also: &[(Action, u64)]) -> Played {
    let mut world = World::new(name, seed);
    let w = &mut world;
    let mut options = Options::draw(&mut w.rng);
    options.weights.extend(also);
    w.about = options.to_string();
    if seed.is_multiple_of(2) {
        // A full disk is met by a write, not foreseen.
        w.settings.limits.disk_free_bytes_min = 0;
    }
    let mut swarm = Swarm::new(w, &options);
    w.start();
    for _ in 0..options.steps {
        let action = swarm.draw(w);
        w.say(&format!("--- {action:?}"));
        swarm.act(w, action);
        let pause = if w.rng.below(4) == 0 { 0 } else { w.rng.below(options.pause_max) };
        swarm.pass(w, pause);
    }
    swarm.heal(w);
    (0..options.calm / HOUR / 2).for_each(|_| swarm.pass(w, HOUR));
    let passed = breaches(w);
    (0..options.calm / HOUR / 2).for_each(|_| swarm.pass(w, HOUR));
    // By now each limit was told, or learned from a refusal.
    if passed != breaches(w) {
        w.fail(&format!("known limits are passed again and again: {passed:?}, and a day later {:?}", breaches(w)));
    }
    swarm.relays_are_explained(w);
    let missing = expect::missing(w);
    if !missing.is_empty() {
        w.fail(&format!("missing {} events long after the faults ended: {missing:#?}", missing.len()));
    }
    swarm.everything_is_served(w);
    swarm.live_events_arrive(w);
    swarm.failed_sweeps_claim_nothing(w);
    w.look_at_bounds();
    assert!(w.checks.machine.changes > 0, "no change of state was heard");
    Played { hash: w.outputs_hash(), simulated: w.clock.now() }
}

/// The seeds of this run.
fn seeds() -> Vec<u64> {
    let from = crate::number("SIM_SEED", 0);
    match (from, crate::number("SIM_SEEDS", 0)) {
        (0, 0) => (1..=SEEDS).collect(),
        (from, 0) => (1..=SEEDS / 2).chain(from..from + SEEDS / 2).collect(),
        (from, n) => (from.max(1)..from.max(1) + n).collect(),
    }
}

/// Plays every other seed, so that two of these use two processors.
// The harness looks at the real clock between worlds only, to know when a night is over.
#[allow(clippy::disallowed_methods)]
fn play(name: &'static str, part: u64) {
    let minutes = crate::number("SIM_MINUTES", 0);
    let began = std::time::Instant::now();
    let mut played = (0, 0);
    let mut one = |seed| {
        eprintln!("{name}: SIM_SEED={seed}");
        played = (played.0 + 1, played.1 + swarm(name, seed).simulated);
    };
    if minutes > 0 {
        let on = |_: &u64| began.elapsed().as_secs() < 60 * minutes;
        (crate::seed()..).filter(|seed| seed % 2 == part).take_while(on).for_each(&mut one);
    } else {
        seeds().into_iter().filter(|seed| seed % 2 == part).for_each(&mut one);
    }
    let hours = played.1 / SECOND / 3_600;
    eprintln!("{name}: {} worlds, {hours} simulated hours in {} s", played.0, began.elapsed().as_secs());
}

#[test]
fn drawn_worlds_are_safe_and_converge_even_seeds() {
    play("drawn_worlds_are_safe_and_converge", 0);
}

#[test]
fn drawn_worlds_are_safe_and_converge_odd_seeds() {
    play("drawn_worlds_are_safe_and_converge", 1);
}

/// Outages came to these worlds later than the other troubles: were they drawn with them, every seed would mean another
/// world than it did.
#[test]
fn drawn_worlds_with_outages_of_our_own_are_safe_and_converge() {
    let name = "drawn_worlds_with_outages_of_our_own_are_safe_and_converge";
    let seed = crate::seed();
    for seed in seed..seed + OUTAGE_SEEDS {
        eprintln!("{name}: SIM_SEED={seed}");
        played(name, seed, &[(Action::Outage, 6)]);
    }
}

#[test]
fn a_drawn_world_is_the_same_each_time() {
    let large = (1..).find(|seed| Options::draw(&mut Rng::new(*seed)).relays.len() >= 40).expect("one in sixteen");
    for seed in [crate::seed(), large] {
        let run = || swarm("a_drawn_world_is_the_same_each_time", seed).hash;
        assert_eq!(run(), run());
    }
}

/// Draws worlds without playing them: sizes and troubles are as varied as they should be.
#[test]
fn draws_are_varied() {
    let drawn: Vec<Options> = (0..1_000).map(|seed| Options::draw(&mut Rng::new(seed))).collect();
    let share = |what: &dyn Fn(&Options) -> bool| drawn.iter().filter(|o| what(o)).count();
    let troubles = |o: &Options| o.weights.iter().filter(|(a, _)| Action::TROUBLES.contains(a)).count();
    assert!(share(&|o| o.relays.len() >= 40) > 20);
    assert!(share(&|o| troubles(o) == 0) > 100, "no trouble at all");
    assert!(share(&|o| troubles(o) == 1) > 100, "one kind only");
    assert!(share(&|o| troubles(o) > 5) > 100, "many kinds");
    assert!(share(&|o| o.relays.iter().any(|r| r.config.liar.is_some())) > 200);
    assert!(share(&|o| o.relays.iter().any(|r| r.config.liar == Some(Liar::Refuser))) > 100);
    assert!(share(&|o| o.relays.iter().all(|r| r.config.flavour.name == "strfry")) > 200);
    assert!(share(&|o| o.relays.iter().any(|r| r.config.odd != Oddities::default())) > 50);
    for action in Action::EVENTS.iter().chain(&Action::TROUBLES) {
        assert!(share(&|o| o.weights.iter().any(|(a, _)| a == action)) > 50, "{action:?}");
    }
}
