//! The longest that one event, REQ, commit or page keeps the loop, whatever strangers have put into the store (spec section
//! 16, "Time"): `cargo bench --bench shares` for all rows, or some by name. Ends with 1 if one takes longer than the bound.
#![allow(clippy::disallowed_methods, reason = "a bench measures the real clock")]
#![allow(clippy::print_stdout, reason = "the figures are the purpose")]

#[path = "../support/mod.rs"]
mod support;

mod strangers;

use std::process::ExitCode;

/// What nothing may take longer than, in milliseconds.
const STEP_MS_MAX: f64 = 50.0;

type Row = (&'static str, fn() -> Vec<strangers::Figure>);

const ROWS: [Row; 9] = [
    ("references", strangers::references),
    ("fan-out", strangers::fan_out),
    ("states", strangers::states),
    ("announcements", strangers::announcements),
    ("tagged", strangers::tagged),
    ("catch-up", strangers::catch_up),
    ("status", strangers::status),
    ("scan", strangers::scan),
    ("places", strangers::places),
];

fn main() -> ExitCode {
    let names: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let mut failed = false;
    for (name, run) in ROWS {
        if !names.is_empty() && !names.iter().any(|wanted| wanted == name) {
            continue;
        }
        for strangers::Figure { what, longest } in run() {
            let ms = longest.as_secs_f64() * 1e3;
            let holds = ms <= STEP_MS_MAX;
            failed |= !holds;
            println!("{}  {name}: {what}: {ms:.2} ms at the longest", if holds { "pass" } else { "FAIL" });
        }
    }
    ExitCode::from(u8::from(failed))
}
