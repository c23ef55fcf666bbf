//! The release binary on the target world under live load for long: new events all the time and in bursts, new repos,
//! replaced announcements and states, relays that drop their links or go away for a while, daily turns.
//!
//! `BENCH_SOAK_SECS` is how long, 120 by default, 3600 for the claim. What was seen is left beside the other files of the
//! benches as `soak.csv` and `soak.svg`.

mod load;
mod plot;
mod samples;

use super::common::{Bench, DOMAIN, LONG, mean, mib, note, number, quarter, settle};
use crate::support::certs::{Authority, Validity};
use crate::support::events::unix_now;
use crate::support::mock_relay::{MockRelay, RelayData, RelayLimits};
use crate::support::process::{Process, Setup, resident_bytes};
use crate::support::wait::{measure_over, wait_looking_every};
use crate::support::world::World;
use load::{Load, SHAPE};
use samples::{Sample, Samples};
use serde_json::json;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const RELAYS: usize = 20;
/// Of them, behind TLS.
const TLS_RELAYS: usize = 2;
const CLIENTS: u64 = 5;
/// New events a minute, beside bursts.
const PER_MINUTE: f64 = 900.0;
/// Events that are published at once.
const BURST: u64 = 900;
const BURST_EVERY: Duration = Duration::from_secs(60);
const SAMPLE_EVERY: Duration = Duration::from_secs(10);
/// A relay drops all its links.
const CUT_EVERY: Duration = Duration::from_secs(20);
/// A relay goes away for a while.
const OUTAGE_EVERY: Duration = Duration::from_secs(90);
const OUTAGE: Duration = Duration::from_secs(20);
/// Time after the load for what is still on the way: a relay that was away is dialled again after 35 s at the latest.
const REST: Duration = Duration::from_secs(180);
/// What a root event takes of the daemon's state, as `cargo bench -- growth` tells.
const STATE_BYTES_PER_ROOT: f64 = 60.0;

pub fn run(bench: &mut Bench) {
    let length = Duration::from_secs(number("BENCH_SOAK_SECS", 120).max(60));
    let mut scene = Scene::new(length);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut samples = Samples::to(&directory.join("soak.csv"));
    let already = scene.process.events_stored();
    let clients = Clients::start(&scene.process);
    scene.play(length, &mut samples);
    std::fs::write(directory.join("soak.svg"), plot::svg(&samples.all)).expect("the target directory is writable");
    note(&format!("what was seen is in soak.csv and soak.svg in {}", directory.display()));
    scene.report_load(&samples);

    let published = scene.load.published;
    let new = || scene.process.events_stored() - already;
    let rested = Instant::now();
    wait_looking_every(Duration::from_secs(1), REST, || (new() >= published).then_some(()));
    note(&format!("the last of it was stored {:.1} s after the load ended", rested.elapsed().as_secs_f64()));
    let (stored, heard) = (new(), clients.stop(published));
    let row = format!("each of {CLIENTS} clients heard of every new event: {heard:?} of {published}, {stored} stored");
    bench.check(stored == published && heard.iter().all(|count| *count == published), &row);
    check_memory(bench, &samples);
    check_store(bench, &samples);
    check_turns(bench, &samples);
    scene.end(bench);
}

/// The daemon and everything around it.
struct Scene {
    relays: Vec<MockRelay>,
    setup: Setup,
    process: Process,
    load: Load,
    trouble: Trouble,
    breaches: u64,
}

/// What has gone wrong with the relays so far.
#[derive(Default)]
struct Trouble {
    cuts: u32,
    outages: u32,
    /// The relay that is away, and when it comes back.
    away: Option<(usize, Duration)>,
}

impl Scene {
    fn new(length: Duration) -> Scene {
        let authority = Authority::new();
        let relays: Vec<MockRelay> = (0..RELAYS)
            .map(|n| {
                let tls = (n < TLS_RELAYS).then(|| authority.server_config("127.0.0.1", Validity::Valid));
                MockRelay::with(RelayData::default(), RelayLimits::default(), tls)
            })
            .collect();
        let scheme = |n| if n < TLS_RELAYS { "wss" } else { "ws" };
        let urls: Vec<String> =
            relays.iter().enumerate().map(|(n, relay)| format!("{}://{}", scheme(n), relay.address())).collect();
        let texts: Vec<&str> = urls.iter().map(String::as_str).collect();
        let world = World::new(SHAPE, DOMAIN, &texts, unix_now());
        let setup = Setup::new(DOMAIN).bootstrap(&urls[0]).log("warn,grasp_sync=info");
        let ca_file = setup.dir().write("ca.pem", authority.pem());
        // Each relay has its daily turn a few times while we look.
        let setup = setup
            .toml(&format!("ca_file = {:?}", ca_file.to_str().expect("a readable path")))
            .toml(&format!("[timing]\ndaily_catchup_secs = {}", length.as_secs() / 4));
        setup.import_events(&world.events, &[]);
        let load = Load::new(&world, DOMAIN, urls, &relays);
        drop(world);
        let process = setup.start();
        process.wait_live(RELAYS, LONG);
        settle(&process);
        Scene { relays, setup, process, load, trouble: Trouble::default(), breaches: 0 }
    }

    /// Publishes, troubles and looks for so long.
    fn play(&mut self, length: Duration, samples: &mut Samples) {
        let begun = Instant::now();
        let mut bursts = 0;
        while begun.elapsed() < length {
            let at = begun.elapsed();
            bursts += u32::from(at >= BURST_EVERY * bursts + BURST_EVERY / 2);
            let due = (at.as_secs_f64() * PER_MINUTE / 60.0) as u64 + u64::from(bursts) * BURST;
            while self.load.published < due {
                self.load.publish(&self.relays);
            }
            self.trouble(at);
            if at >= SAMPLE_EVERY * samples.all.len() as u32 {
                samples.push(self.look(at));
                self.count_breaches();
            }
            measure_over(Duration::from_millis(50));
        }
        self.come_back();
    }

    fn trouble(&mut self, at: Duration) {
        if at >= CUT_EVERY * (self.trouble.cuts + 1) {
            self.relays[self.trouble.cuts as usize * 7 % RELAYS].cut();
            self.trouble.cuts += 1;
        }
        if self.trouble.away.is_some_and(|(_, until)| at >= until) {
            self.come_back();
        }
        if at >= OUTAGE_EVERY * self.trouble.outages + OUTAGE {
            let relay = self.trouble.outages as usize * 3 % RELAYS;
            self.relays[relay].stop();
            self.trouble.away = Some((relay, at + OUTAGE));
            self.trouble.outages += 1;
        }
    }

    fn come_back(&mut self) {
        if let Some((relay, _)) = self.trouble.away.take() {
            self.relays[relay].resume();
        }
    }

    fn look(&self, at: Duration) -> Sample {
        let metrics = self.process.metrics();
        let count = |name: &str| metrics.sum(name, &[]) as u64;
        let store = std::fs::metadata(self.setup.store_file()).expect("the daemon has a store");
        let gone = count("grasp_sync_events_removed_total") + count("grasp_sync_events_expired_total");
        Sample {
            at: at.as_secs_f64(),
            resident_bytes: self.process.resident_bytes(),
            store_length: store.len(),
            // POSIX counts in 512 bytes, whatever the blocks of the disk are.
            store_bytes: store.blocks() * 512,
            events: count("grasp_sync_store_last_seq") - gone,
            received: count("grasp_sync_events_received_total"),
            published: self.load.published,
            cpu_micros: self.process.cpu_time().as_micros() as u64,
            switches: self.process.voluntary_switches(),
            turns: count("grasp_sync_loop_turns_total"),
            slow_turns: count("grasp_sync_loop_slow_turns_total"),
            commits: count("grasp_sync_commit_seconds_count"),
        }
    }

    /// What relays remember of each event sent would fill this process.
    fn count_breaches(&mut self) {
        for relay in &self.relays {
            self.breaches += relay.with_seen(|seen| seen.breaches.total());
            relay.forget_seen();
        }
    }

    fn report_load(&self, samples: &Samples) {
        let Load { published, roots, new_repos, replaced, .. } = &self.load;
        note(&format!(
            "published {published} events, {roots} of them root events, {new_repos} new repos, {replaced} that replaced another; links were cut {} times, a relay was away {} times; this process, all relays in it, has {:.0} MiB",
            self.trouble.cuts,
            self.trouble.outages,
            mib(resident_bytes("self"))
        ));
        let (first, last) = (samples.all[0], samples.all[samples.all.len() - 1]);
        let secs = last.at - first.at;
        note(&format!(
            "relays sent {} events, daily turns included; {:.1} % of a core, {:.0} sleeps a second, {} commits; the store grew by {:.0} bytes for each event more",
            last.received - first.received,
            (last.cpu_micros - first.cpu_micros) as f64 / secs / 1e4,
            (last.switches - first.switches) as f64 / secs,
            last.commits - first.commits,
            (last.store_bytes - first.store_bytes) as f64 / (last.events - first.events) as f64
        ));
    }

    /// Everything published is to be there, and nothing else.
    fn end(mut self, bench: &mut Bench) {
        self.count_breaches();
        assert!(self.process.is_running(), "it has ended:\n{}", self.process.log_text());
        assert!(self.process.stop_within(Duration::from_secs(10)).success(), "it ends cleanly");
        let held = self.setup.exported_ids();
        let missing: Vec<_> = self.load.expected.difference(&held).collect();
        for id in missing.iter().take(10) {
            let holds = |n: &usize| self.relays[*n].data().contains(id);
            let on: Vec<usize> = (0..RELAYS).filter(holds).collect();
            note(&format!("missing: {id}, {:?}, on relays {on:?}", self.load.sorts.get(id)));
        }
        let row = format!(
            "the store holds every event of {} in the end, {} missing; it holds {}; {} limits of relays broken",
            self.load.expected.len(),
            missing.len(),
            held.len(),
            self.breaches
        );
        bench.check(held == self.load.expected && self.breaches == 0, &row);
    }
}

/// Clients of the own relay that count what they hear.
struct Clients {
    done: Arc<AtomicBool>,
    threads: Vec<(Arc<AtomicU64>, JoinHandle<()>)>,
}

impl Clients {
    fn start(process: &Process) -> Clients {
        let done = Arc::new(AtomicBool::new(false));
        let one = |_| {
            let mut client = process.client();
            let subscription = client.subscribe(&[json!({"limit": 0})]);
            client.stored(&subscription);
            let (heard, done) = (Arc::new(AtomicU64::new(0)), Arc::clone(&done));
            let count = Arc::clone(&heard);
            let thread = std::thread::spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    let asked = Instant::now();
                    if client.next_event(&subscription, PATIENCE).is_some() {
                        count.fetch_add(1, Ordering::SeqCst);
                    } else if asked.elapsed() < PATIENCE {
                        // The link has ended.
                        return;
                    }
                }
            });
            (heard, thread)
        };
        let threads = (0..CLIENTS).map(one).collect();
        Clients { done, threads }
    }

    /// What each has heard, as soon as it is so many each, or a while has passed.
    fn stop(self, expected: u64) -> Vec<u64> {
        let heard = || self.threads.iter().map(|(heard, _)| heard.load(Ordering::SeqCst)).collect::<Vec<_>>();
        wait_looking_every(Duration::from_millis(200), Duration::from_secs(10), || {
            heard().iter().all(|count| *count >= expected).then_some(())
        });
        self.done.store(true, Ordering::SeqCst);
        let heard = heard();
        for (_, thread) in self.threads {
            thread.join().expect("a client does not panic");
        }
        heard
    }
}

/// How long a client waits before it looks whether it is to go on.
const PATIENCE: Duration = Duration::from_secs(1);

fn check_memory(bench: &mut Bench, samples: &Samples) {
    let of_quarter = |n| mean(quarter(&samples.all, n), |s| s.resident_bytes as f64);
    let (second, last) = (of_quarter(1), of_quarter(3));
    let published = |n| mean(quarter(&samples.all, n), |s| s.published as f64);
    // One event in four is a root event.
    let state = (published(3) - published(1)) / 4.0 * STATE_BYTES_PER_ROOT;
    // What is followed grows with it, at the slope that `cargo bench -- growth` holds to: that is no leak.
    let grown = last - state - second;
    let row = format!(
        "resident memory {:.1} MiB in the second quarter, {:.1} MiB in the last; without {:.1} for new root events {:+.1} % (at most 5)",
        mib(second as u64),
        mib(last as u64),
        mib(state as u64),
        100.0 * grown / second
    );
    bench.check(grown <= second * 0.05, &row);
}

fn check_store(bench: &mut Bench, samples: &Samples) {
    let (whole, last) =
        (mean(&samples.all, Sample::bytes_per_event), mean(quarter(&samples.all, 3), Sample::bytes_per_event));
    let end = samples.all[samples.all.len() - 1];
    let row = format!(
        "the store takes {last:.0} bytes per event in the last quarter, {whole:.0} over the whole run (at most 10 % more); {:.1} MiB on disk in a file of {:.1} in the end",
        mib(end.store_bytes),
        mib(end.store_length)
    );
    // Less is well: an import leaves room in the file, which is used up first.
    bench.check(last <= whole * 1.1, &row);
}

fn check_turns(bench: &mut Bench, samples: &Samples) {
    let (first, last) = (samples.all[0], samples.all[samples.all.len() - 1]);
    let (turns, slow) = (last.turns - first.turns, last.slow_turns - first.slow_turns);
    assert!(turns > 0, "the metrics count turns");
    let row = format!("{slow} of {turns} turns of the loop took more than 50 ms, commits left out (at most 1 %)");
    bench.check(slow as f64 <= turns as f64 / 100.0, &row);
}
