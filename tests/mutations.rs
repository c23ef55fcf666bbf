//! The list of `tests/mutations/run` does not rot: every text that it would break still stands in its file exactly once,
//! and every test that should notice still exists.

use std::fs;
use std::path::{Path, PathBuf};

fn in_tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The text of every Rust file below a directory.
fn sources(dir: &Path) -> String {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(dir).expect("a directory of the tree").map(|entry| entry.expect("readable").path()).collect();
    entries.sort();
    let mut all = String::new();
    for path in entries {
        if path.is_dir() {
            all.push_str(&sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push_str(&read(path));
        }
    }
    all
}

#[test]
fn every_mutation_finds_its_text_and_its_tests() {
    let list: toml::Table = read(in_tree("tests/mutations/list.toml")).parse().expect("TOML");
    let mutations = list["mutation"].as_array().expect("a list of mutations");
    let tests = [("lib", sources(&in_tree("src"))), ("simulation", sources(&in_tree("tests/simulation")))];
    let mut wrong = Vec::new();
    for mutation in mutations {
        let text = |key: &str| mutation[key].as_str().unwrap_or_else(|| panic!("{key} is a text in {mutation}"));
        let found = read(in_tree(text("file"))).matches(text("before")).count();
        if found != 1 {
            wrong.push(format!("{}: {} has its text {found} times", text("name"), text("file")));
        }
        if text("before") == text("after") {
            wrong.push(format!("{}: changes nothing", text("name")));
        }
        let named = mutation["caught_by"].as_array().expect("a list of tests");
        assert!(!named.is_empty(), "{} names no test", text("name"));
        for test in named.iter().filter_map(|test| test.as_str()) {
            let function = format!("fn {}()", test.rsplit("::").next().unwrap_or_default());
            let suite = tests.iter().find(|(suite, _)| test.starts_with(&format!("{suite} ")));
            if !suite.is_some_and(|(_, text)| text.contains(&function)) {
                wrong.push(format!("{}: there is no test {test}", text("name")));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(mutations.len() >= 100, "{} mutations: some were lost", mutations.len());
}
