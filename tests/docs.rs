//! What the documents repeat from the code is the same as the code. After a change to keys, metrics or limits,
//! `UPDATE_DOCS=1 cargo test --test docs` writes it anew.
#![allow(clippy::disallowed_methods, reason = "one variable says whether to write")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use grasp_sync::config::keys;
use grasp_sync::io::counters;
use grasp_sync::metrics;

#[test]
fn the_sample_configuration_is_the_table_of_keys() {
    agree(&in_tree("contrib/grasp-sync.toml"), &keys::sample());
}

/// One test for all tables, so that writing them anew is not a race.
#[test]
fn the_readme_has_every_key_metric_and_limit() {
    let source = fs::read_to_string(in_tree("src/limits.rs")).expect("the source is there");
    agree_block("configuration", &keys::markdown_table());
    agree_block("metrics", &metrics_table());
    agree_block("limits", &limits_table(&source));
}

fn in_tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The README's text between `<!-- begin NAME -->` and `<!-- end NAME -->` is `expected`.
fn agree_block(name: &str, expected: &str) {
    let path = in_tree("README.md");
    let text = fs::read_to_string(&path).expect("the README is there");
    let (begin, end) = (format!("<!-- begin {name} -->\n"), format!("<!-- end {name} -->\n"));
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("README.md has no {begin}"));
    let (_, after) = rest.split_once(&end).unwrap_or_else(|| panic!("README.md has no {end}"));
    agree(&path, &format!("{before}{begin}\n{expected}\n{end}{after}"));
}

fn agree(path: &Path, expected: &str) {
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(path, expected).expect("the tree is writable");
        return;
    }
    let actual = fs::read_to_string(path).unwrap_or_default();
    let differs = actual.lines().zip(expected.lines()).find(|(actual, expected)| actual != expected);
    assert!(
        actual == expected,
        "{} is out of date; UPDATE_DOCS=1 cargo test --test docs writes it anew; first difference: {differs:?}",
        path.display()
    );
}

/// One row for each metric, of the engine and then of the shell.
fn metrics_table() -> String {
    let mut table = String::from("| metric | type | meaning |\n|---|---|---|\n");
    for (name, kind, help) in metrics::TABLE.iter().chain(counters::TABLE) {
        writeln!(table, "| `{name}` | {kind} | {help} |").expect("strings take it");
    }
    table
}

/// One row for each `pub const` of `src/limits.rs`: name, value, and its documentation.
fn limits_table(source: &str) -> String {
    let mut table = String::from("| limit | value | what it bounds, and what happens there |\n|---|---|---|\n");
    let mut documentation = String::new();
    for line in source.lines() {
        if let Some(text) = line.strip_prefix("///") {
            documentation.push_str(text);
            continue;
        }
        if let Some(constant) = line.strip_prefix("pub const ") {
            let (name, rest) = constant.split_once(": ").expect("a constant has a type");
            let (_, value) = rest.split_once(" = ").expect("a constant has a value");
            let value = value.strip_suffix(';').expect("a limit stands on one line");
            let meaning = documentation.trim().replace("[`", "`").replace("`]", "`").replace("crate::limits::", "");
            writeln!(table, "| `{name}` | {} | {meaning} |", readable(name, value)).expect("strings take it");
        }
        documentation.clear();
    }
    table
}

/// A value as a person writes it: `256 << 10` bytes is 256 KiB.
fn readable(name: &str, value: &str) -> String {
    let argument = |function: &str| value.strip_prefix(function)?.strip_suffix(')');
    if let Some(seconds) = argument("Duration::from_secs(") {
        return format!("{} s", number(seconds));
    }
    if let Some(millis) = argument("Duration::from_millis(") {
        return format!("{} ms", number(millis));
    }
    if let Some((rate, burst)) = argument("Rate::per_second(").and_then(|both| both.split_once(", ")) {
        return format!("{} a second, {} at once", number(rate), number(burst));
    }
    let n = number(value);
    match n {
        _ if !name.contains("BYTES") => n.to_string(),
        _ if n.is_multiple_of(1 << 20) => format!("{} MiB", n >> 20),
        _ if n.is_multiple_of(1 << 10) => format!("{} KiB", n >> 10),
        _ => format!("{n} bytes"),
    }
}

/// The value of the few forms in which limits are written: a number, `a << b`, `a * b / c`.
fn number(text: &str) -> u64 {
    let mut words = text.split(' ');
    let parse = |word: &str| -> u64 {
        word.replace('_', "").parse().unwrap_or_else(|_| panic!("{text}: only numbers with <<, * and / are read here"))
    };
    let mut value = parse(words.next().unwrap_or_default());
    while let Some(operator) = words.next() {
        let operand = parse(words.next().unwrap_or_default());
        value = match operator {
            "<<" => value << operand,
            "*" => value * operand,
            "/" => value / operand,
            _ => panic!("{text}: only numbers with <<, * and / are read here"),
        };
    }
    value
}
