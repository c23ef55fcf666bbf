//! The filters we send (spec section 5): what they ask, how they are cut into chunks, and their exact bytes.
//!
//! A [`Unit`] is the smallest thing that is live or rotated as a whole: layer 1, or one chunk of layer 2 or 3 with its
//! three tag letters. A [`Subject`] is what one filter asks. Both name repos and root events by number and share their
//! lists, so that a subscription costs a few bytes however often it is asked; text is made when it is sent.

use std::fmt::Write;
use std::rc::Rc;

use nostr::key::PublicKey;

use crate::limits::{FILTER_BYTES_MAX, REQ_BYTES_MAX, REQ_FILTERS_MAX};
use crate::sync::state::{RepoId, RootId, State};
use crate::time::UnixTime;

/// What is live or rotated as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Layer 1: announcements and states.
    Announcements,
    /// A chunk of layer 2.
    Repos(Rc<[RepoId]>),
    /// A chunk of layer 3.
    Roots(Rc<[RootId]>),
}

/// What one filter asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// `{"kinds":[30617,30618]}`
    Announcements,
    /// The same for some identifiers: states that came before their announcement are asked for again.
    Identifiers(Rc<[RepoId]>),
    /// Events that tag some repos with `a`, `A` or `q`.
    RepoTag(char, Rc<[RepoId]>),
    /// Events that tag some root events with `e`, `E` or `q`.
    RootTag(char, Rc<[RootId]>),
    /// Deletions by some authors.
    Deletions(Rc<[PublicKey]>),
}

/// The part of a filter that pages and reconnects vary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Inclusive.
    pub since: Option<UnixTime>,
    /// Inclusive.
    pub until: Option<UnixTime>,
    /// Always sent: some relays answer oldest first without one.
    pub limit: usize,
}

impl Unit {
    /// The filters that cover it.
    pub fn subjects(&self) -> Vec<Subject> {
        match self {
            Unit::Announcements => vec![Subject::Announcements],
            Unit::Repos(repos) => ['a', 'A', 'q'].map(|letter| Subject::RepoTag(letter, repos.clone())).into(),
            Unit::Roots(roots) => ['e', 'E', 'q'].map(|letter| Subject::RootTag(letter, roots.clone())).into(),
        }
    }

    /// How many filters cover it.
    pub fn filter_count(&self) -> usize {
        match self {
            Unit::Announcements => 1,
            Unit::Repos(_) | Unit::Roots(_) => 3,
        }
    }
}

impl Subject {
    /// Both halves of its values, if it has more than one.
    pub fn halves(&self) -> Option<[Subject; 2]> {
        fn cut<T: Clone>(values: &Rc<[T]>) -> Option<[Rc<[T]>; 2]> {
            let (left, right) = values.split_at(values.len() / 2);
            (!left.is_empty()).then(|| [left.into(), right.into()])
        }
        match self {
            Subject::Announcements => None,
            Subject::Identifiers(repos) => cut(repos).map(|halves| halves.map(Subject::Identifiers)),
            Subject::RepoTag(letter, repos) => {
                cut(repos).map(|halves| halves.map(|half| Subject::RepoTag(*letter, half)))
            }
            Subject::RootTag(letter, roots) => {
                cut(roots).map(|halves| halves.map(|half| Subject::RootTag(*letter, half)))
            }
            Subject::Deletions(authors) => cut(authors).map(|halves| halves.map(Subject::Deletions)),
        }
    }

    /// Appends the filter's JSON.
    pub fn write(&self, bounds: Bounds, state: &State, out: &mut String) {
        out.push('{');
        match self {
            Subject::Announcements => out.push_str("\"kinds\":[30617,30618]"),
            Subject::Identifiers(repos) => {
                out.push_str("\"kinds\":[30617,30618],");
                write_list(out, "#d", repos.iter(), |out, repo| push_json(out, &state.addr(*repo).identifier));
            }
            Subject::RepoTag(letter, repos) => {
                let name = tag_name(*letter);
                write_list(out, &name, repos.iter(), |out, repo| push_json(out, &state.addr(*repo).to_string()));
            }
            Subject::RootTag(letter, roots) => {
                let name = tag_name(*letter);
                write_list(out, &name, roots.iter(), |out, root| push_quoted(out, state.root_event_id(*root)));
            }
            Subject::Deletions(authors) => {
                out.push_str("\"kinds\":[5],");
                write_list(out, "authors", authors.iter(), |out, author| push_quoted(out, &author.to_hex()));
            }
        }
        if let Some(since) = bounds.since {
            let _ = write!(out, ",\"since\":{since}");
        }
        if let Some(until) = bounds.until {
            let _ = write!(out, ",\"until\":{until}");
        }
        let _ = write!(out, ",\"limit\":{}}}", bounds.limit);
    }
}

/// The REQ for some filters. `subscription` needs no escaping: we make it.
pub fn req_message(subscription: &str, subjects: &[Subject], bounds: Bounds, state: &State) -> String {
    let mut text = format!("[\"REQ\",\"{subscription}\"");
    for subject in subjects {
        text.push(',');
        subject.write(bounds, state, &mut text);
    }
    text.push(']');
    debug_assert!(text.len() <= REQ_BYTES_MAX, "chunks are cut so that one REQ holds them");
    text
}

/// Cuts repos into chunks of at most `values_max` addresses, each of which stays within its share of a REQ's bytes.
pub fn chunk_repos(repos: impl IntoIterator<Item = RepoId>, values_max: usize, state: &State) -> Vec<Rc<[RepoId]>> {
    let mut chunks = Vec::new();
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    for repo in repos {
        let mut value = String::new();
        push_json(&mut value, &state.addr(repo).to_string());
        if chunk.len() == values_max || (bytes + value.len() + 1 > FILTER_BYTES_MAX && !chunk.is_empty()) {
            chunks.push(std::mem::take(&mut chunk).into());
            bytes = 0;
        }
        bytes += value.len() + 1;
        chunk.push(repo);
    }
    if !chunk.is_empty() {
        chunks.push(chunk.into());
    }
    chunks
}

/// Cuts root events or authors into chunks of at most `values_max`: their values are all of one length.
pub fn chunk<T>(values: impl IntoIterator<Item = T>, values_max: usize) -> Vec<Rc<[T]>> {
    let mut chunks: Vec<Vec<T>> = Vec::new();
    for value in values {
        match chunks.last_mut() {
            Some(last) if last.len() < values_max => last.push(value),
            _ => chunks.push(vec![value]),
        }
    }
    chunks.into_iter().map(Rc::from).collect()
}

/// Packs units into REQs, in order, each unit whole, by the number of filters and the bytes of a REQ.
pub fn pack(units: impl IntoIterator<Item = Unit>, state: &State) -> Vec<Vec<Unit>> {
    let mut reqs: Vec<Vec<Unit>> = Vec::new();
    let (mut filters, mut bytes) = (0, 0);
    for unit in units {
        let size = unit_bytes(&unit, state);
        let fits = filters + unit.filter_count() <= REQ_FILTERS_MAX && bytes + size <= REQ_BYTES_MAX;
        match reqs.last_mut() {
            Some(last) if fits => last.push(unit.clone()),
            _ => {
                reqs.push(vec![unit.clone()]);
                (filters, bytes) = (0, REQ_FRAME_BYTES);
            }
        }
        filters += unit.filter_count();
        bytes += size;
    }
    reqs
}

/// What a REQ needs beside its filters: type, subscription id, brackets.
const REQ_FRAME_BYTES: usize = 64;

/// What one filter needs beside its values: names, `since`, `until`, `limit`.
const FILTER_FRAME_BYTES: usize = 128;

fn unit_bytes(unit: &Unit, state: &State) -> usize {
    let values = match unit {
        Unit::Announcements => 0,
        Unit::Roots(roots) => roots.len() * (64 + 3),
        Unit::Repos(repos) => {
            let mut text = String::new();
            repos.iter().for_each(|repo| push_json(&mut text, &state.addr(*repo).to_string()));
            text.len() + repos.len()
        }
    };
    unit.filter_count() * (values + FILTER_FRAME_BYTES)
}

fn tag_name(letter: char) -> String {
    format!("#{letter}")
}

fn write_list<T>(
    out: &mut String,
    name: &str,
    values: impl Iterator<Item = T>,
    mut write_value: impl FnMut(&mut String, T),
) {
    let _ = write!(out, "\"{name}\":[");
    for (n, value) in values.enumerate() {
        if n > 0 {
            out.push(',');
        }
        write_value(out, value);
    }
    out.push(']');
}

/// A value that needs no escaping.
fn push_quoted(out: &mut String, value: &impl std::fmt::Display) {
    let _ = write!(out, "\"{value}\"");
}

fn push_json(out: &mut String, value: &str) {
    out.push_str(&serde_json::to_string(value).expect("a string is always JSON"));
}
