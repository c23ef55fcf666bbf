//! How often the process dials, and whom (spec section 16): fifty times a second in all, and a host and port once. What a
//! relay says of itself is asked by such a dial.

use super::Verdict;
use crate::clock::{MILLI, Micros, SECOND};
use std::collections::{BTreeMap, VecDeque};

const DIALS_PER_SECOND: usize = 50;

#[derive(Default)]
pub struct Rates {
    dials: VecDeque<Micros>,
    hosts: BTreeMap<String, Micros>,
}

impl Rates {
    /// Judges a dial, or a question what the relay says of itself, at a URL.
    pub fn on_dial(&mut self, at: Micros, url: &str) -> Verdict {
        while self.dials.front().is_some_and(|before| before + SECOND <= at) {
            self.dials.pop_front();
        }
        self.dials.push_back(at);
        if self.dials.len() > DIALS_PER_SECOND {
            return Err(format!("{} dials in a second", self.dials.len()));
        }
        let host = host_of(url);
        if let Some(before) = self.hosts.insert(host.clone(), at)
            && at < before + SECOND
        {
            return Err(format!("{host} dialled again after {} ms", (at - before) / MILLI));
        }
        Ok(())
    }
}

/// Host and port of a URL.
fn host_of(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let host = rest.split('/').next().unwrap_or_default();
    let port = if scheme == "ws" { ":80" } else { ":443" };
    if host.contains(':') { host.to_owned() } else { format!("{host}{port}") }
}

#[test]
fn too_many_dials_and_a_host_too_often_are_found() {
    let mut rates = Rates::default();
    let url = |n: u64| format!("wss://r{n}.example");
    (0..50).for_each(|n| rates.on_dial(n, &url(n)).expect("fifty"));
    assert!(rates.on_dial(SECOND - 1, &url(50)).is_err());
    rates.on_dial(2 * SECOND, "wss://victim.example/a").expect("a while later");
    assert!(rates.on_dial(3 * SECOND - 1, "wss://victim.example:443/b").is_err());
    rates.on_dial(4 * SECOND, "ws://victim.example").expect("another port");
}
