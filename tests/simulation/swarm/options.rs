//! What one world is like: drawn from its seed before anything happens, and printed when it fails.

use super::actions::Action;
use crate::clock::{HOUR, MILLI, MINUTE, Micros, SECOND};
use crate::link::Path;
use crate::model_relay::{Breaks, Flavour, Late, Liar, MaxLimit, Oddities, OnClose, Prompt, RelayConfig, Spoiling};
use crate::rng::Rng;
use std::fmt;

/// One relay of a world.
#[derive(Clone)]
pub struct RelayOptions {
    pub config: RelayConfig,
    pub path: Path,
}

/// How a world is drawn.
#[derive(Clone)]
pub struct Options {
    pub relays: Vec<RelayOptions>,
    pub repos: usize,
    pub authors: u64,
    /// Events that relays hold before the process begins.
    pub history: u64,
    pub steps: u64,
    /// Longest pause between two steps, drawn for each anew.
    pub pause_max: Micros,
    /// What happens, and how often.
    pub weights: Vec<(Action, u64)>,
    pub commit_took: Micros,
    /// One relay in this many is not strfry; none if 0.
    pub odd_relays: u64,
    /// One relay in this many lies; none if 0.
    pub liars: u64,
    /// One relay in this many has pages that prove nothing; none if 0.
    pub oddities: u64,
    /// Time of calm before everything must be there.
    pub calm: Micros,
}

impl Options {
    pub fn draw(rng: &mut Rng) -> Options {
        let size = rng.below(16);
        let relays = match size {
            0 => 40 + rng.below(61),
            1..=3 => 10 + rng.below(20),
            _ => 2 + rng.below(7),
        };
        let (odd_relays, liars) = (one_of(rng, &[0, 0, 1, 2, 4]), one_of(rng, &[0, 0, 0, 3, 6]));
        let mut apart = apart(rng, ODDITIES);
        let oddities = if apart.below(WORLDS_PER_ODD_ONE) == 0 { 3 } else { 0 };
        let weights = weights(rng);
        let mut options = Options {
            relays: Vec::new(),
            repos: 1 + rng.below(if size < 4 { 40 } else { 10 }) as usize,
            authors: 2 + rng.below(6),
            history: one_of(rng, &[0, 20, 100, 400]),
            steps: 20 + rng.below(if size == 0 { 40 } else { 150 }),
            pause_max: one_of(rng, &[20 * SECOND, 5 * MINUTE, HOUR]),
            weights,
            commit_took: one_of(rng, &[0, MILLI, 5 * MILLI, 60 * MILLI]),
            odd_relays,
            liars,
            oddities,
            calm: 52 * HOUR,
        };
        options.relays = (0..relays).map(|n| options.draw_relay(rng, n)).collect();
        options
    }

    fn draw_relay(&self, rng: &mut Rng, n: u64) -> RelayOptions {
        let odd = self.odd_relays > 0 && rng.below(self.odd_relays) == 0;
        let mut config = match odd && n > 0 {
            true => Flavour::ALL[rng.below(FLAVOURS) as usize].clone().config(),
            false => RelayConfig::capped(one_of(rng, &[60, 100, 250, 500, 500, 500])),
        };
        config.keeps_everything = rng.below(8) == 0;
        if self.liars > 0 && n > 0 && rng.below(self.liars) == 0 {
            config.liar = Some(one_of(rng, &Liar::OF_ANSWERS));
        }
        self.draw_aside(&rng.clone(), n, &mut config);
        let mut apart = apart(rng, ODDITIES);
        if self.oddities > 0 && n > 0 && config.liar.is_none() && apart.below(self.oddities) == 0 {
            config.odd = oddities(&mut apart);
        }
        let latency = one_of(rng, &[MILLI, 20 * MILLI, 80 * MILLI, 600 * MILLI]);
        RelayOptions { config, path: Path { latency, jitter: rng.below(latency + 1) } }
    }

    /// What relays learned to do after seeds had found bugs: drawn from a stream of its own, so that such a seed goes on
    /// meaning the same world.
    fn draw_aside(&self, rng: &Rng, n: u64, config: &mut RelayConfig) {
        let mut aside = aside(rng);
        if config.flavour.name == "khatru-badger" && aside.below(2) == 0 {
            config.flavour = Flavour::named("khatru-negentropy");
        }
        if self.liars > 0 && config.liar.is_none() && aside.below(self.liars) == 0 {
            config.liar = Some(one_of(&mut aside, &Liar::OF_RECONCILIATIONS));
        }
        if self.liars > 0 && n > 0 && config.liar.is_none() && aside.below(2 * self.liars) == 0 {
            config.liar = Some(Liar::Refuser);
        }
    }
}

/// Flavours that are drawn; those behind them in the list came later and are drawn aside.
const FLAVOURS: u64 = 20;
/// Makes a stream another.
const ASIDE: u64 = 0x6e69_7037_3720_2020;
/// The same, for oddities.
const ODDITIES: u64 = 0x6f64_6469_7469_6573;
/// One world in so many knows oddities.
const WORLDS_PER_ODD_ONE: u64 = 8;

/// Another stream of the same seed, which takes nothing from this one.
pub fn aside(rng: &Rng) -> Rng {
    apart(rng, ASIDE)
}

fn apart(rng: &Rng, stream: u64) -> Rng {
    Rng::new(rng.clone().next_u64() ^ stream)
}

/// One to three oddities together. Spoiled events are few beside the others, so that no page is without any of these.
fn oddities(rng: &mut Rng) -> Oddities {
    let mut odd = Oddities::default();
    for _ in 0..1 + rng.below(3) {
        match rng.below(7) {
            0 => odd.spoils = Some((one_of(rng, &Spoiling::ALL), 1)),
            1 => {
                let max = one_of(rng, &[15, 40, 100]);
                odd.max_limit = Some(one_of(rng, &[MaxLimit::Advertised(max), MaxLimit::Silent(max)]));
            }
            2 => odd.until_exclusive = true,
            3 => odd.since_exclusive = true,
            4 => odd.oldest_first = true,
            5 => {
                let on_close = one_of(rng, &[OnClose::Sends, OnClose::Drops]);
                odd.late = Some(Late {
                    by: 300 * MILLI,
                    prompt: one_of(rng, &[Prompt::First(0), Prompt::First(20), Prompt::OneOf(3)]),
                    on_close,
                });
            }
            _ => odd.poison = Some(one_of(rng, &Breaks::ALL)),
        }
    }
    odd
}

/// What happens in every world, and what troubles this one knows: none, one kind only, or some.
fn weights(rng: &mut Rng) -> Vec<(Action, u64)> {
    let mut weights: Vec<(Action, u64)> = Action::ALWAYS.iter().map(|a| (*a, 4 + rng.below(8))).collect();
    let mut maybe = |rng: &mut Rng, actions: &[Action], one_in: u64| {
        for action in actions {
            if rng.below(one_in) == 0 {
                weights.push((*action, 1 + rng.below(6)));
            }
        }
    };
    maybe(rng, &Action::EVENTS, 2);
    match rng.below(5) {
        0 => {}
        1 => {
            let only = Action::TROUBLES[rng.below(Action::TROUBLES.len() as u64) as usize];
            maybe(rng, &[only], 1);
        }
        n => maybe(rng, &Action::TROUBLES, n),
    }
    weights
}

pub fn one_of<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.below(from.len() as u64) as usize]
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} relays, {} repos, {} authors, {} events before, {} steps, pauses up to {} s, commits of {} ms",
            self.relays.len(),
            self.repos,
            self.authors,
            self.history,
            self.steps,
            self.pause_max / SECOND,
            self.commit_took / MILLI
        )?;
        for (n, relay) in self.relays.iter().enumerate().take(12) {
            let config = &relay.config;
            let liar = config.liar.map_or(String::new(), |l| format!(", {l:?}"));
            let keeps = if config.keeps_everything { ", keeps everything" } else { "" };
            let odd = if config.odd == Oddities::default() { String::new() } else { format!(", {:?}", config.odd) };
            let (latency, cap) = (relay.path.latency / MILLI, config.flavour.cap.max);
            writeln!(f, "  r{n}: {} cap {cap} {latency} ms{liar}{keeps}{odd}", config.flavour.name)?;
        }
        write!(f, "  weights:")?;
        self.weights.iter().try_for_each(|(action, weight)| write!(f, " {action:?} {weight}"))
    }
}
