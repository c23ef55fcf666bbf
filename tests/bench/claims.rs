//! What grasp-sync claims about speed and memory, measured on this machine: `cargo bench` for the quick rows, or
//! `cargo bench -- NAME…` for some of them, the long ones included. Ends with 1 if a claim does not hold, with 2 if there
//! is no row of that name.
//!
//! Every speed is a ratio to the machine's own limit, taken in the same run: parsing and verifying an event (BIP-340) on
//! one core with the crate that the daemon uses. On a machine that does other things meanwhile, processor time and ratios
//! still mean something; what passed on the clock means less.
#![allow(clippy::disallowed_methods, reason = "a bench measures the real clock")]
#![allow(clippy::print_stdout, reason = "the figures are the purpose")]

#[path = "../support/mod.rs"]
mod support;

mod common;
mod engine;
mod growth;
mod identical;
mod known;
mod live;
mod memory;
mod neg_serve;
mod negentropy;
mod own_relay;
mod pages;
mod scale_large;
mod size;
mod soak;
mod start;
mod target;
mod turn;

use common::{Bench, verify_alone};
use std::process::ExitCode;

/// A row of the table, or several that one run gives.
struct Row {
    name: &'static str,
    /// Whether it is left out unless it is named.
    is_long: bool,
    what: &'static str,
    run: fn(&mut Bench),
}

const fn quick(name: &'static str, what: &'static str, run: fn(&mut Bench)) -> Row {
    Row { name, is_long: false, what, run }
}

const ROWS: &[Row] = &[
    quick("verify", "the machine's limit: parse and verify", |_| _ = verify_alone()),
    quick("negentropy", "100,000 new events by negentropy, from two relays", negentropy::run),
    quick("pages", "the same by pages", pages::run),
    quick("target", "the world of the design, by pages and by negentropy, from two relays", target::run),
    quick("identical", "daily catch-ups with a relay that has what we have", identical::run),
    quick("known", "known events received again", known::run),
    quick("live", "a live event from relay to subscriber, idle machine", live::latency),
    quick("sustained", "many live events a second: BENCH_SUSTAINED_SECS=600 for the claim", live::sustained),
    quick("start", "start with 100,000 events stored", start::run),
    quick("own-relay", "filters of every shape over 100,000 events", own_relay::run),
    quick("neg-serve", "reconciliations and counts of clients, over 100,000 and 1,000,000 events", neg_serve::run),
    quick("turn", "what everybody waits for while much is received", turn::run),
    quick("growth", "ten times the events, repos, relays, root events", growth::run),
    Row {
        name: "scale-large",
        is_long: true,
        what: "10,000 repos, 5,000,000 root events, 500 relays: BENCH_SCALE=1 for the claim",
        run: scale_large::run,
    },
    Row {
        name: "soak",
        is_long: true,
        what: "live load on the target world for BENCH_SOAK_SECS: 3600 for the claim",
        run: soak::run,
    },
    quick("size", "the release binary", size::run),
    quick("memory", "resident memory at the design target", memory::run),
    quick("idle", "wake-ups while nothing happens", memory::idle),
];

fn main() -> ExitCode {
    // Cargo adds flags of its own, such as `--bench`.
    let names: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    // A row may want a process that has nothing else in its memory.
    let alone = match &*names {
        [what, repos, roots] if what == memory::STATE_ALONE => {
            let number = |text: &String| text.parse().expect("a number");
            Some(memory::state_alone(number(repos), number(roots)).to_string())
        }
        [what, share, file] if what == scale_large::FILL => Some(scale_large::fill(share, file)),
        [what, share, file] if what == scale_large::ALONE => Some(scale_large::alone(share, file)),
        _ => None,
    };
    if let Some(measured) = alone {
        println!("{measured}");
        return ExitCode::SUCCESS;
    }
    if let Some(stranger) = names.iter().find(|name| ROWS.iter().all(|row| row.name != **name)) {
        println!("no row `{stranger}`; there are:");
        ROWS.iter()
            .for_each(|row| println!("  {:<12} {}{}", row.name, row.what, if row.is_long { " (long)" } else { "" }));
        return ExitCode::from(2);
    }
    let mut bench = Bench::default();
    for row in ROWS {
        if if names.is_empty() { !row.is_long } else { names.iter().any(|name| name == row.name) } {
            println!("\n{}: {}", row.name, row.what);
            (row.run)(&mut bench);
        }
    }
    bench.finish()
}
