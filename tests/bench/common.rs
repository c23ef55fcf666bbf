//! What the rows share: the world of 100,000 events, the machine's limit, and how a claim is printed.

use crate::support::events::unix_now;
use crate::support::mock_relay::{MockRelay, RelayData, RelayLimits, Seen};
use crate::support::process::{Process, Setup, cpu_time_of_thread};
use crate::support::wait::{measure_over, wait_until};
use crate::support::world::{Shape, World};
use nostr::event::Event;
use std::process::{Command, ExitCode, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

pub use super::engine::DOMAIN;

/// The deadline of what takes as long as it takes.
pub const LONG: Duration = Duration::from_secs(600);

/// 100,000 events of about 1.1 kB.
pub const SHAPE: Shape = Shape { repos: 1_000, roots_per_repo: 50, comments: 49_000, padding: 490, relays_per_repo: 2 };

/// The claims checked so far.
#[derive(Default)]
pub struct Bench {
    claims: usize,
    failed: usize,
}

impl Bench {
    /// Prints a claim and whether it holds.
    pub fn check(&mut self, holds: bool, row: &str) {
        println!("{}  {row}", if holds { "pass" } else { "FAIL" });
        self.claims += 1;
        self.failed += usize::from(!holds);
    }

    pub fn finish(self) -> ExitCode {
        println!("\n{} claims, {} failed", self.claims, self.failed);
        ExitCode::from(u8::from(self.failed > 0))
    }
}

/// What this program prints when it is started once more with these arguments: a process that has nothing else in its
/// memory. Its errors go where ours do.
pub fn run_alone(arguments: &[&str]) -> String {
    let program = std::env::current_exe().expect("this process has a file");
    let output = Command::new(program).args(arguments).stderr(Stdio::inherit()).output();
    String::from_utf8(output.expect("it can be started once more").stdout).expect("it prints text")
}

/// Prints what belongs to a row and is no claim.
pub fn note(text: &str) {
    println!("      {text}");
}

/// The machine's limit: processor time to parse and verify one event of the world, on one core, now.
pub fn verify_alone() -> Duration {
    const EVENTS: usize = 20_000;
    static LINES: OnceLock<Vec<String>> = OnceLock::new();
    let lines = LINES.get_or_init(|| {
        let shape = Shape { repos: 200, roots_per_repo: 50, comments: EVENTS - 10_200, relays_per_repo: 2, ..SHAPE };
        let world = World::new(shape, DOMAIN, &["wss://a.test", "wss://b.test"], unix_now());
        world.events.iter().map(Event::as_json).collect()
    });
    let bytes: usize = lines.iter().map(String::len).sum();
    let best = (0..3).map(|_| verify_all(lines)).min().expect("three runs");
    let each = best / EVENTS as u32;
    note(&format!(
        "limit: {:.1} µs to parse and verify an event of {} bytes: {:.0} a second on one core",
        micros(each),
        bytes / EVENTS,
        1.0 / each.as_secs_f64()
    ));
    each
}

fn verify_all(lines: &[String]) -> Duration {
    let start = cpu_time_of_thread("thread-self");
    for line in lines {
        let event = Event::from_json(line).expect("an event");
        event.verify().expect("a signed event");
    }
    cpu_time_of_thread("thread-self") - start
}

/// Two relays with the same data and the limits of strfry, which reconcile if `document` says so.
pub fn two_relays(limits: RelayLimits, document: Option<&str>) -> [MockRelay; 2] {
    let data = RelayData::default();
    [(); 2].map(|()| {
        let relay = MockRelay::with(data.clone(), limits, None);
        document.into_iter().for_each(|document| relay.set_info(document));
        relay
    })
}

/// What a relay that reconciles says of itself.
pub const NIP_77: &str = r#"{"name":"bench","supported_nips":[1,2,9,11,40,77]}"#;

/// A world of `shape` whose repos list `relays`, which hold its events from now on.
pub fn world_on(relays: &[MockRelay], shape: Shape) -> World {
    let urls: Vec<String> = relays.iter().map(MockRelay::url).collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let world = World::new(shape, DOMAIN, &urls, unix_now());
    relays[0].data().add(&world.events);
    world
}

/// An instance that follows the first of `relays` from its configuration on.
pub fn setup_with(relays: &[MockRelay]) -> Setup {
    Setup::new(DOMAIN).bootstrap(&relays[0].url()).log("warn,grasp_sync=info")
}

/// One number of all relays.
pub fn sum_seen(relays: &[MockRelay], of: impl Fn(&Seen) -> u64) -> u64 {
    relays.iter().map(|relay| relay.with_seen(&of)).sum()
}

/// Waits until nothing has woken the process for two seconds, or the first pings have gone out.
pub fn settle(process: &Process) {
    wait_until("it goes to sleep", Duration::from_secs(60), || {
        let before = process.voluntary_switches();
        measure_over(Duration::from_secs(2));
        process.voluntary_switches() == before
    });
}

/// A number that the caller may set.
pub fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable}: {text}")))
}

pub fn micros(d: Duration) -> f64 {
    d.as_secs_f64() * 1e6
}

pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The value below which so many of a thousand are. Sorts.
pub fn quantile(values: &mut [Duration], per_mille: usize) -> Duration {
    values.sort_unstable();
    values[(values.len() * per_mille / 1_000).min(values.len() - 1)]
}

/// One quarter of the looks at a run, from 0 to 3.
pub fn quarter<T>(looks: &[T], n: usize) -> &[T] {
    &looks[looks.len() * n / 4..looks.len() * (n + 1) / 4]
}

/// The mean of something over some looks.
pub fn mean<T>(looks: &[T], of: impl Fn(&T) -> f64) -> f64 {
    looks.iter().map(of).sum::<f64>() / looks.len() as f64
}
