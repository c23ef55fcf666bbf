//! The built binary against relays that others wrote, and a stock client library against the own relay. Each runs as a
//! process of its own. Most need programs that are not ours, and run only if asked for:
//!
//! ```text
//! tests/peers/run
//! ```
//! installs them into `target/peers` and plays everything. What needs no other's program runs in any case. Between us and each relay stands a [`Tap`], which notes what
//! was really said.
#![allow(clippy::disallowed_methods, reason = "tests with real sockets live by the real clock")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the figures are what a person runs this for")]

mod foreign;
mod tap;

#[path = "../support/mod.rs"]
mod support;

use foreign::Foreign;
use nostr::event::{Event, EventId};
use serde_json::json;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};
use support::events::unix_now;
use support::process::{Process, Setup, free_port};
use support::wait::{wait_for, wait_until};
use support::world::{Shape, World};
use tap::{Heard, Tap};

const DOMAIN: &str = "grasp.test";
/// 10,000 events of about 800 bytes.
const SHAPE: Shape = Shape { repos: 200, roots_per_repo: 24, comments: 5_000, padding: 200, relays_per_repo: 1 };
/// 2,000 events, few enough of them roots to be followed live with the subscriptions that any relay allows.
const SMALL: Shape = Shape { repos: 50, roots_per_repo: 15, comments: 1_200, ..SHAPE };
const CATCH_UP: Duration = Duration::from_secs(180);
/// Events that come to a relay long after their date.
const LATE: usize = 400;
const LIVE: Duration = Duration::from_secs(10);
/// A turn of what does not fit live comes once a minute.
const TURN: Duration = Duration::from_secs(150);
const STOP: Duration = Duration::from_secs(10);

/// One relay, its events, and the tap in front of it.
struct Peer {
    name: &'static str,
    relay: Foreign,
    tap: Tap,
    world: World,
    expected: BTreeSet<EventId>,
}

/// What is true of one relay and not of another.
struct Expected {
    coverage: &'static str,
    /// It reconciles (NIP-77).
    reconciles: bool,
    /// Refusals that may be met while its limits are being learned.
    lessons: usize,
}

/// Whether the relay has still to show that it reconciles.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trial {
    Due,
    Passed,
}

impl Peer {
    fn new(name: &'static str, relay: Foreign, shape: Shape) -> Peer {
        let tap = Tap::open(relay.address());
        let world = World::new(shape, DOMAIN, &[&tap.url()], unix_now());
        let started = Instant::now();
        relay.publish(&world.events);
        println!("{name}: {} events published in {:.1} s", world.events.len(), started.elapsed().as_secs_f64());
        let expected = world.events.iter().map(|e| e.id).collect();
        Peer { name, relay, tap, world, expected }
    }

    fn setup(&self) -> Setup {
        Setup::new(DOMAIN).bootstrap(&self.tap.url()).log("info")
    }

    /// From nothing to everything, live, after a restart, in a second full catch-up, and after kill -9 in the middle.
    fn whole_life(&mut self, expected: &Expected) {
        let setup = self.setup();
        self.first_catch_up(&setup, expected);
        self.restart(&setup);
        let setup = setup.toml("[timing]\ndaily_catchup_secs = 1");
        self.full_catch_up_again(&setup, expected, Trial::Due);
        if expected.reconciles {
            self.full_catch_up_again(&setup, expected, Trial::Passed);
            self.late_events_are_reconciled(&setup);
        }
        self.killed_in_the_middle();
    }

    fn first_catch_up(&mut self, setup: &Setup, expected: &Expected) {
        let started = Instant::now();
        let process = setup.start();
        process.wait_stored(self.expected.len(), CATCH_UP);
        let complete = started.elapsed();
        process.wait_live(1, CATCH_UP);
        println!("{}: complete after {:.1} s", self.name, complete.as_secs_f64());
        self.report("first catch-up", &process);
        let heard = self.tap.heard();
        assert!(heard.refusals.len() <= expected.lessons, "{:#?}", heard.refusals);
        assert!(heard.events <= 2 * self.expected.len() as u64, "{} events for {}", heard.events, self.expected.len());
        let status = process.relays();
        assert_eq!(status[0].whole["coverage"], expected.coverage, "{}", status[0].whole);
        self.live_event(&process, expected);
        // What is stored is confirmed once all that asks about it has had its answer.
        wait_until("every sweep has ended", CATCH_UP, || process.relays()[0].whole["sweeps_left"] == 0);
        assert!(process.stop_within(STOP).success());
        self.assert_complete(setup);
    }

    /// An issue arrives live; a comment too, unless its root event takes turns with others.
    fn live_event(&mut self, process: &Process, expected: &Expected) {
        let later = self.world.published_later(2, unix_now());
        let published = Instant::now();
        self.relay.publish(&later);
        let mut client = process.client();
        let in_turn = if expected.coverage == "polled" { TURN } else { LIVE };
        for (event, deadline) in later.iter().zip([LIVE, in_turn]) {
            let held = || client.query_one(&json!({"ids": [event.id.to_hex()], "limit": 1}));
            wait_for("a new event arrives", deadline, held);
            let millis = published.elapsed().as_millis();
            println!("  a new event of kind {} is stored {millis} ms after it was sent", event.kind);
        }
        self.expected.extend(later.iter().map(|e| e.id));
    }

    /// What was fetched stays: little comes again, and nothing is refused.
    fn restart(&self, setup: &Setup) {
        self.tap.forget();
        let process = setup.start();
        process.wait_live(1, CATCH_UP);
        self.report("restart", &process);
        let heard = self.tap.heard();
        assert!(heard.events <= self.expected.len() as u64 / 100, "{} events again", heard.events);
        self.assert_no_refusal(&process);
        assert!(process.stop_within(STOP).success());
    }

    /// Everything once more, with limits known and every event held.
    fn full_catch_up_again(&self, setup: &Setup, expected: &Expected, trial: Trial) {
        self.tap.forget();
        let process = setup.start();
        wait_until("a further full catch-up is done", CATCH_UP, || process.log_has("full catch-up done"));
        let heard = self.tap.heard();
        self.report("a full catch-up again", &process);
        self.assert_no_refusal(&process);
        if expected.reconciles {
            let metrics = process.metrics();
            let ended = |label: &[&str]| metrics.sum("grasp_sync_reconciliations_total", label);
            assert!(heard.neg_opens > 0 && ended(&[]) > 0.0, "it was not used");
            assert_eq!(ended(&[r#"outcome="complete""#]), ended(&[]), "{}", metrics.text());
            let beyond_filters = (heard.neg_bytes - heard.neg_filter_bytes) / heard.neg_opens;
            println!("  {beyond_filters} bytes per filter reconciled, beyond the filter's own");
            assert!(beyond_filters < 2_000, "{beyond_filters} bytes per filter of an identical set");
            // While one question tries whether it works, the others go by pages.
            let bound = self.expected.len() as u64 / 50;
            assert!(trial == Trial::Due || heard.events <= bound, "{} events again", heard.events);
        }
        assert!(process.stop_within(STOP).success());
        self.assert_complete(setup);
    }

    /// What comes to the relay long after its date is found by reconciling, and hardly anything else is sent.
    fn late_events_are_reconciled(&mut self, setup: &Setup) {
        let late = self.world.published_later(LATE, unix_now() - 30 * 86_400);
        self.relay.publish(&late);
        self.expected.extend(late.iter().map(|e| e.id));
        self.tap.forget();
        let process = setup.start();
        wait_until("a further full catch-up is done", CATCH_UP, || process.log_has("full catch-up done"));
        self.report("a full catch-up after 400 late events", &process);
        self.assert_no_refusal(&process);
        let heard = self.tap.heard();
        assert!(heard.events <= 2 * LATE as u64 + self.expected.len() as u64 / 50, "{} events", heard.events);
        assert!(process.stop_within(STOP).success());
        self.assert_complete(setup);
    }

    fn killed_in_the_middle(&self) {
        let setup = self.setup();
        let process = setup.start();
        process.wait_stored(self.expected.len() / 3, CATCH_UP);
        process.kill();
        let process = setup.start();
        let last = self.expected.len() as f64;
        let held = || process.metrics().sum("grasp_sync_store_last_seq", &[]);
        wait_until("complete after kill -9", CATCH_UP, || held() >= last);
        process.wait_live(1, CATCH_UP);
        assert!(process.stop_within(STOP).success());
        self.assert_complete(&setup);
        println!("  complete after kill -9 in the middle");
    }

    fn assert_no_refusal(&self, process: &Process) {
        let heard = self.tap.heard();
        assert!(heard.refusals.is_empty(), "refused after learning: {:#?}", heard.refusals);
        assert_eq!(process.metrics().sum("grasp_sync_relay_refusals_total", &[]), 0.0);
    }

    fn assert_complete(&self, setup: &Setup) {
        let held = setup.exported_ids();
        let missing: Vec<&EventId> = self.expected.difference(&held).collect();
        assert!(missing.is_empty(), "{} of {} missing, {:?} first", missing.len(), self.expected.len(), missing[0]);
    }

    fn report(&self, phase: &str, process: &Process) {
        let heard = self.tap.heard();
        let Heard { connections, reqs, filters, open_peak, neg_opens, neg_msgs, neg_bytes, events, refusals, .. } =
            &heard;
        println!(
            "  {phase}: {connections} connections, {reqs} REQs, {filters} filters, at most {open_peak} open; \
             {neg_opens} NEG-OPENs, {neg_msgs} NEG-MSGs of {neg_bytes} bytes in all; {events} events; \
             longest message {} sent, {} received; {} bytes received; {} refusals",
            heard.sent_peak,
            heard.received_peak,
            heard.bytes_received,
            refusals.len(),
        );
        refusals.iter().take(5).for_each(|r| println!("    {r}"));
        for relay in process.relays() {
            println!("    {}", relay.whole);
        }
        if !heard.info.is_empty() {
            println!("    NIP-11: {}", heard.info.chars().take(600).collect::<String>());
        }
    }
}

fn lines(events: &[Event]) -> String {
    events.iter().map(|e| e.as_json() + "\n").collect()
}

/// Clients that reconcile with the own relay (NIP-77), in both directions.
mod reconciling_client {
    use super::*;
    use foreign::program;
    use std::process::Command;
    use support::events::parse;
    use support::process::TempDir;

    /// Events that the client alone has, the last ones, and that the relay alone has, the first ones.
    const SENT: usize = 300;
    const RECEIVED: usize = 250;

    /// Runs a client twice: the first time something differs, and the second time nothing.
    fn is_complete(name: &str, command: impl Fn() -> Command) {
        let world = World::new(SMALL, DOMAIN, &["ws://127.0.0.1:9"], unix_now());
        let all: BTreeSet<EventId> = world.events.iter().map(|e| e.id).collect();
        let setup = Setup::new(DOMAIN);
        setup.import_events(&world.events[..all.len() - SENT], &[]);
        let files = TempDir::new("reconciling-client");
        files.write("held", lines(&world.events[RECEIVED..]));
        let process = setup.start();
        for (sent, received) in [(SENT, RECEIVED), (0, 0)] {
            let output = command().arg(process.url()).arg(files.path()).output().expect("the client starts");
            let said = String::from_utf8_lossy(&output.stdout);
            print!("{said}");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(said.trim(), format!("{name}: {sent} sent, {received} received"));
            let complete = std::fs::read_to_string(files.path().join("complete")).expect("the client has written it");
            assert_eq!(complete.lines().map(|line| parse(line).id).collect::<BTreeSet<_>>(), all);
            files.write("held", complete);
        }
        let metrics = process.metrics();
        let ended = |how: &[&str]| metrics.sum("grasp_sync_client_reconciliations_ended_total", how);
        assert_eq!((ended(&[r#"how="failed""#]), ended(&[r#"how="idle""#])), (0.0, 0.0));
        assert!(process.stop_within(STOP).success());
        assert_eq!(setup.exported_ids(), all);
    }

    #[test]
    #[ignore = "needs a client made of nostr-sdk: tests/peers/run"]
    fn rust_nostr_is_complete() {
        is_complete("nostr-sdk", || Command::new(program("PEERS_RUST_NOSTR_SYNC")));
    }

    #[test]
    #[ignore = "needs nostr-sdk for Python: tests/peers/run"]
    fn nostr_sdk_for_python_is_complete() {
        is_complete("nostr-sdk for Python", || {
            let mut command = Command::new(program("PEERS_NOSTR_SDK_PYTHON"));
            command.arg("tests/peers/nostr_sdk.py");
            command
        });
    }

    #[test]
    #[ignore = "needs Node.js and nostr-tools: tests/peers/run"]
    fn nostr_tools_is_complete() {
        is_complete("nostr-tools", || {
            let mut command = Command::new("node");
            command.arg(program("PEERS_NOSTR_TOOLS").join("sync.mjs"));
            command
        });
    }
}

/// Two of us.
mod grasp_sync {
    use super::*;

    /// The second fetches everything from the first, and reconciles from then on: one round where nothing has changed.
    #[test]
    fn catches_up_from_another_by_reconciling() {
        // The first is of another service: it dials nobody for what it holds.
        let (first, port) = (Setup::new("other.test"), free_port());
        let first = first.listen_on(port);
        let tap = Tap::open(SocketAddr::from(([127, 0, 0, 1], port)));
        let world = World::new(SMALL, DOMAIN, &[&tap.url()], unix_now());
        first.import_events(&world.events, &["--no-policy"]);
        let relay = first.start();
        let second = Setup::new(DOMAIN).bootstrap(&tap.url());
        let process = second.start();
        process.wait_stored(world.events.len(), CATCH_UP);
        process.wait_live(1, CATCH_UP);
        wait_until("every sweep has ended", CATCH_UP, || process.relays()[0].whole["sweeps_left"] == 0);
        assert!(process.stop_within(STOP).success());

        let second = second.toml("[timing]\ndaily_catchup_secs = 1");
        let again = |what: &str| {
            tap.forget();
            let process = second.start();
            wait_until("a further full catch-up is done", CATCH_UP, || process.log_has("full catch-up done"));
            let outcomes = process.metrics();
            let ended = |label: &[&str]| outcomes.sum("grasp_sync_reconciliations_total", label);
            assert!(ended(&[]) > 0.0 && ended(&[r#"outcome="complete""#]) == ended(&[]), "{}", outcomes.text());
            assert!(process.stop_within(STOP).success());
            let heard = tap.heard();
            let of_payload = (heard.neg_bytes - heard.neg_filter_bytes) / heard.neg_opens;
            println!(
                "{what}: {} NEG-OPENs, {} NEG-MSGs, {of_payload} bytes each beyond the filter, {} events",
                heard.neg_opens, heard.neg_msgs, heard.events
            );
            assert!(heard.refusals.is_empty(), "{:#?}", heard.refusals);
            heard
        };
        again("the first time");
        let heard = again("nothing has changed");
        // The next catch-up has begun already, and its last question may have no answer yet.
        assert!(heard.neg_msgs > 0 && heard.neg_msgs <= heard.neg_opens, "one round each: {heard:?}");
        assert!(heard.events <= world.events.len() as u64 / 50, "{} events again", heard.events);

        let late = world.published_later(LATE, unix_now() - 30 * 86_400);
        assert!(relay.stop_within(STOP).success());
        first.import_events(&late, &["--no-policy"]);
        let relay = first.start();
        again("after 400 late events");
        let all: BTreeSet<EventId> = world.events.iter().chain(&late).map(|e| e.id).collect();
        assert_eq!(second.exported_ids(), all);
        assert!(relay.stop_within(STOP).success());
    }
}

/// rust-nostr's relay and its client library.
mod rust_nostr {
    use super::*;
    use foreign::program;
    use std::process::Command;
    use support::events::Author;
    use support::process::TempDir;

    const RECONCILES: Expected = Expected { coverage: "full", reconciles: true, lessons: 0 };

    #[test]
    #[ignore = "needs a relay made of nostr-sdk: tests/peers/run"]
    fn in_memory_is_complete() {
        let expected = Expected { coverage: "polled", ..RECONCILES };
        Peer::new("rust-nostr, in memory", Foreign::rust_nostr(&[]), SHAPE).whole_life(&expected);
    }

    #[test]
    #[ignore = "needs a relay made of nostr-sdk: tests/peers/run"]
    fn on_lmdb_is_complete() {
        Peer::new("rust-nostr, LMDB", Foreign::rust_nostr(&["--lmdb", "db"]), SMALL).whole_life(&RECONCILES);
    }

    #[test]
    #[ignore = "needs a relay made of nostr-sdk: tests/peers/run"]
    fn with_short_answers_is_complete() {
        let relay = Foreign::rust_nostr(&["--max-limit", "60", "--default-limit", "30"]);
        Peer::new("rust-nostr, at most 60 events in an answer", relay, SMALL).whole_life(&RECONCILES);
    }

    #[test]
    #[ignore = "needs a relay made of nostr-sdk: tests/peers/run"]
    fn with_few_subscriptions_is_complete() {
        let expected = Expected { coverage: "polled", lessons: 4, ..RECONCILES };
        let relay = Foreign::rust_nostr(&["--max-reqs", "4"]);
        Peer::new("rust-nostr, at most 4 subscriptions", relay, SMALL).whole_life(&expected);
    }

    #[test]
    #[ignore = "needs a relay made of nostr-sdk: tests/peers/run"]
    fn that_wants_to_know_us_is_complete_with_a_key_and_said_to_refuse_without() {
        let peer = Peer::new("rust-nostr, NIP-42", Foreign::rust_nostr(&["--auth", "read"]), SMALL);
        let process = peer.setup().start();
        wait_until("it is said to refuse", CATCH_UP, || process.relays()[0].whole["coverage"] == "refused");
        peer.report("without a key", &process);
        assert_eq!(process.events_stored(), 0);
        assert!(process.stop_within(STOP).success());

        let setup = peer.setup();
        let key = setup.dir().write("key", format!("{}\n", "5a".repeat(32)));
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("the file is ours");
        let setup = setup.toml(&format!("auth_key_file = {key:?}"));
        peer.tap.forget();
        let process = setup.start();
        process.wait_stored(peer.expected.len(), CATCH_UP);
        process.wait_live(1, CATCH_UP);
        peer.report("with a key", &process);
        assert_eq!(process.relays()[0].whole["coverage"], "full");
        assert!(process.stop_within(STOP).success());
        peer.assert_complete(&setup);
    }

    #[test]
    #[ignore = "needs a client made of nostr-sdk: tests/peers/run"]
    fn client_finds_publishes_and_is_refused() {
        let shape = Shape { repos: 50, roots_per_repo: 20, comments: 2_000, ..SHAPE };
        let world = World::new(shape, DOMAIN, &["ws://127.0.0.1:9"], unix_now());
        let setup = Setup::new(DOMAIN);
        setup.import_events(&world.events, &[]);
        let stranger = Author::from_seed(9_000);
        let refused = [
            stranger.sign(1, unix_now(), vec![], "no repo's business"),
            stranger.issue(&stranger.repo("unknown"), "of a repo that is not here", unix_now()),
            stranger.announcement("elsewhere", &["other.test"], &["wss://other.test"], unix_now()),
        ];
        let files = TempDir::new("nostr-sdk");
        files.write("held", lines(&world.events));
        files.write("accepted", lines(&world.published_later(6, unix_now())));
        files.write("refused", lines(&refused));

        let process = setup.start();
        let mut client = Command::new(program("PEERS_RUST_NOSTR_CLIENT"));
        let output = client.arg(process.url()).arg(files.path()).output().expect("the client starts");
        println!("{}", String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(process.stop_within(STOP).success());
    }
}

mod nostr_rs_relay {
    use super::*;

    #[test]
    #[ignore = "needs nostr-rs-relay: tests/peers/run"]
    fn is_complete() {
        let expected = Expected { coverage: "polled", reconciles: false, lessons: 0 };
        Peer::new("nostr-rs-relay", Foreign::nostr_rs_relay(""), SHAPE).whole_life(&expected);
    }

    /// It reads nothing further while it holds a REQ back, not even what answers a ping.
    #[test]
    #[ignore = "needs nostr-rs-relay: tests/peers/run"]
    fn that_holds_subscriptions_back_is_complete() {
        let relay = Foreign::nostr_rs_relay("subscriptions_per_min = 30");
        let mut peer = Peer::new("nostr-rs-relay, 30 subscriptions a minute", relay, SMALL);
        let expected = Expected { coverage: "full", reconciles: false, lessons: 0 };
        let setup = peer.setup();
        peer.first_catch_up(&setup, &expected);
        peer.restart(&setup);
    }
}

mod nostr_relay {
    use super::*;

    #[test]
    #[ignore = "needs nostr_relay, in Python: tests/peers/run"]
    fn is_complete() {
        let expected = Expected { coverage: "polled", reconciles: false, lessons: 0 };
        Peer::new("nostr_relay", Foreign::nostr_relay(), SHAPE).whole_life(&expected);
    }

    /// Each has every other event; every repo lists both.
    #[test]
    #[ignore = "needs nostr_relay, in Python, and a relay made of nostr-sdk: tests/peers/run"]
    fn and_rust_nostr_with_half_the_events_each_are_complete_together() {
        let relays = [Foreign::nostr_relay(), Foreign::rust_nostr(&[])];
        let taps = relays.each_ref().map(|relay| Tap::open(relay.address()));
        let shape = Shape { relays_per_repo: 2, ..SMALL };
        let world = World::new(shape, DOMAIN, &[&taps[0].url(), &taps[1].url()], unix_now());
        for (n, relay) in relays.iter().enumerate() {
            let half: Vec<Event> = world.events.iter().skip(n).step_by(2).cloned().collect();
            relay.publish(&half);
        }
        let setup = Setup::new(DOMAIN).bootstrap(&taps[0].url());
        let process = setup.start();
        process.wait_stored(world.events.len(), CATCH_UP);
        process.wait_live(2, CATCH_UP);
        for status in process.relays() {
            assert_eq!(status.whole["coverage"], "full", "{}", status.whole);
        }
        taps.iter().for_each(|tap| assert!(tap.heard().refusals.is_empty(), "{:#?}", tap.heard().refusals));
        assert!(process.stop_within(STOP).success());
        assert_eq!(setup.exported_ids(), world.events.iter().map(|e| e.id).collect());
    }
}
