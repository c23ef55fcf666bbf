//! The filters we send (spec section 5): what they ask, how they are cut into chunks, and their exact bytes.
//!
//! A [`Unit`] is the smallest thing that is live or polled as a whole: layer 1, or one chunk of layer 2 or 3 with its
//! three tag letters. A [`Subject`] is what one filter asks. Both name repos and root events by number and share their
//! lists, so that a subscription costs a few bytes however often it is asked; text is made when it is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::rc::Rc;

use nostr::event::EventId;
use nostr::key::PublicKey;

use crate::protocol::canonical::{push_hex, push_string};
use crate::protocol::repo::{ROOT_KINDS, TAGGING_KINDS};
use crate::state::{RepoId, RootId, State};
use crate::sync::budget::Shape;
use crate::time::UnixTime;

/// The repos of one identifier, at least one: forks share it, and are asked for together.
pub type Forks = Rc<[RepoId]>;

/// What is live or polled as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Layer 1: announcements and states.
    Announcements,
    /// The same for a chunk of identifiers, on relays that want more than kinds.
    Identifiers(Rc<[Forks]>),
    /// Everything a relay has, in place of all layers.
    Everything,
    /// A chunk of layer 2.
    Repos(Rc<[RepoId]>),
    /// A chunk of layer 3.
    Roots(Rc<[RootId]>),
}

/// The tags by which events name a repo.
pub const REPO_TAG_LETTERS: [char; 3] = ['a', 'A', 'q'];

/// The tags by which events name a root event (NIP-10, NIP-22, NIP-18).
pub const ROOT_TAG_LETTERS: [char; 3] = ['e', 'E', 'q'];

/// The tags by which events name another one of a thread. Not `E`: it names the thread's root (NIP-22), which is asked for
/// as such.
pub const THREAD_TAG_LETTERS: [char; 2] = ['e', 'q'];

/// What one filter asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// `{"kinds":[30617,30618]}`
    Announcements,
    /// Every root event that the relay has, of whatever repo.
    RootKinds,
    /// Everything that the relay has: bounded by time alone, judged here.
    Everything,
    /// The same for some identifiers: states that came before their announcement are asked for again.
    Identifiers(Rc<[Forks]>),
    /// Events that tag some repos with `a`, `A` or `q`.
    RepoTag(char, Rc<[RepoId]>),
    /// Events that tag some root events with one of [`ROOT_TAG_LETTERS`].
    RootTag(char, Rc<[RootId]>),
    /// Events that tag some other events that we hold with one of [`THREAD_TAG_LETTERS`], deletions among them.
    ThreadTag(char, Rc<[EventId]>),
    /// Deletions by some authors.
    Deletions(Rc<[PublicKey]>),
    /// Deletions that say that they are of events of some kinds (NIP-09). Few do.
    DeletionsOf(Rc<[u16]>),
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
            Unit::Identifiers(names) => vec![Subject::Identifiers(names.clone())],
            Unit::Everything => vec![Subject::Everything],
            Unit::Repos(repos) => REPO_TAG_LETTERS.map(|letter| Subject::RepoTag(letter, repos.clone())).into(),
            Unit::Roots(roots) => ROOT_TAG_LETTERS.map(|letter| Subject::RootTag(letter, roots.clone())).into(),
        }
    }

    /// How many filters cover it.
    pub fn filter_count(&self) -> usize {
        match self {
            Unit::Announcements | Unit::Identifiers(_) | Unit::Everything => 1,
            Unit::Repos(_) | Unit::Roots(_) => 3,
        }
    }

    /// Values of each of its filters.
    pub fn values(&self) -> usize {
        match self {
            Unit::Announcements | Unit::Everything => 0,
            Unit::Identifiers(names) => names.len(),
            Unit::Repos(repos) => repos.len(),
            Unit::Roots(roots) => roots.len(),
        }
    }

    /// The root events that it names.
    pub fn roots(&self) -> &[RootId] {
        match self {
            Unit::Roots(roots) => roots,
            Unit::Announcements | Unit::Identifiers(_) | Unit::Everything | Unit::Repos(_) => &[],
        }
    }

    /// Whether it is layer 1.
    pub fn is_layer_1(&self) -> bool {
        matches!(self, Unit::Announcements | Unit::Identifiers(_) | Unit::Everything)
    }

    /// The same in chunks of another form.
    pub fn reshape(self, shape: Shape, state: &State) -> Vec<Unit> {
        match self {
            Unit::Announcements | Unit::Everything => vec![self],
            Unit::Identifiers(names) => {
                let chunks = chunk_identifiers(names.iter().flat_map(|forks| forks.iter().copied()), shape, state);
                chunks.into_iter().map(Unit::Identifiers).collect()
            }
            Unit::Repos(repos) => {
                let chunks = chunk_repos(repos.iter().copied(), shape, state);
                chunks.into_iter().map(Unit::Repos).collect()
            }
            Unit::Roots(roots) => {
                let chunks = chunk(roots.iter().copied(), shape.values);
                chunks.into_iter().map(Unit::Roots).collect()
            }
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
            Subject::Announcements | Subject::RootKinds | Subject::Everything => None,
            Subject::Identifiers(names) => cut(names).map(|halves| halves.map(Subject::Identifiers)),
            Subject::RepoTag(letter, repos) => {
                cut(repos).map(|halves| halves.map(|half| Subject::RepoTag(*letter, half)))
            }
            Subject::RootTag(letter, roots) => {
                cut(roots).map(|halves| halves.map(|half| Subject::RootTag(*letter, half)))
            }
            Subject::ThreadTag(letter, ids) => {
                cut(ids).map(|halves| halves.map(|half| Subject::ThreadTag(*letter, half)))
            }
            Subject::Deletions(authors) => cut(authors).map(|halves| halves.map(Subject::Deletions)),
            Subject::DeletionsOf(kinds) => cut(kinds).map(|halves| halves.map(Subject::DeletionsOf)),
        }
    }

    /// The same for each of its values alone; itself, if it lists at most one.
    pub fn singles(&self) -> Vec<Subject> {
        match self.halves() {
            Some(halves) => halves.iter().flat_map(Subject::singles).collect(),
            None => vec![self.clone()],
        }
    }

    /// How many values its filter lists.
    pub fn values(&self) -> usize {
        match self {
            Subject::Announcements | Subject::RootKinds | Subject::Everything => 0,
            Subject::Identifiers(names) => names.len(),
            Subject::RepoTag(_, repos) => repos.len(),
            Subject::RootTag(_, roots) => roots.len(),
            Subject::ThreadTag(_, ids) => ids.len(),
            Subject::Deletions(authors) => authors.len(),
            Subject::DeletionsOf(kinds) => kinds.len(),
        }
    }

    /// Whether it asks for what tags events of which the maps know nothing, so that only the policy can tell whether an
    /// answer belongs here.
    pub fn is_of_thread(&self) -> bool {
        matches!(self, Subject::ThreadTag(..))
    }

    /// Whether its filter asks for a tag of an upper-case letter.
    pub fn is_upper_case(&self) -> bool {
        matches!(self, Subject::RepoTag(letter, _) | Subject::RootTag(letter, _) if letter.is_ascii_uppercase())
    }

    /// Whether its filter names no kinds unless it has to.
    pub fn is_kindless(&self) -> bool {
        self.may_name_kinds() || *self == Subject::Everything
    }

    /// Whether its filter names kinds where it has to.
    fn may_name_kinds(&self) -> bool {
        matches!(self, Subject::RepoTag(..) | Subject::RootTag(..) | Subject::ThreadTag(..))
    }

    /// Whether both ask the same in the relay's eyes: repos of different owners may share an identifier.
    pub fn asks_same(&self, other: &Subject, state: &State) -> bool {
        match (self, other) {
            (Subject::Identifiers(these), Subject::Identifiers(those)) => {
                identifiers(these, state) == identifiers(those, state)
            }
            _ => self == other,
        }
    }

    /// Appends the filter's JSON. `named_kinds`: whether a kindless filter names the kinds that are known to tag.
    pub fn write(&self, bounds: Bounds, named_kinds: bool, state: &State, out: &mut String) {
        out.push('{');
        self.write_conditions(named_kinds, state, out);
        if *self != Subject::Everything {
            out.push(',');
        }
        if let Some(since) = bounds.since {
            let _ = write!(out, "\"since\":{since},");
        }
        if let Some(until) = bounds.until {
            let _ = write!(out, "\"until\":{until},");
        }
        let _ = write!(out, "\"limit\":{}}}", bounds.limit);
    }

    /// The filter without `until` and `limit`, in the bytes in which it is asked with them.
    pub fn whole(&self, since: Option<UnixTime>, named_kinds: bool, state: &State) -> String {
        let mut text = String::from("{");
        self.write_conditions(named_kinds, state, &mut text);
        if let Some(since) = since {
            let comma = if *self == Subject::Everything { "" } else { "," };
            let _ = write!(text, "{comma}\"since\":{since}");
        }
        text.push('}');
        text
    }

    fn write_conditions(&self, named_kinds: bool, state: &State, out: &mut String) {
        let write_kinds = |kinds: &[u16], out: &mut String| {
            write_list(out, "kinds", kinds.iter(), |out, kind| _ = write!(out, "{kind}"))
        };
        if named_kinds && self.may_name_kinds() {
            write_kinds(&TAGGING_KINDS, out);
            out.push(',');
        }
        match self {
            Subject::Announcements => out.push_str("\"kinds\":[30617,30618]"),
            Subject::RootKinds => write_kinds(&ROOT_KINDS, out),
            Subject::Everything => {}
            Subject::Identifiers(names) => {
                out.push_str("\"kinds\":[30617,30618],");
                write_list(out, "#d", identifiers(names, state).into_iter(), push_string);
            }
            Subject::RepoTag(letter, repos) => {
                let name = tag_name(*letter);
                write_list(out, &name, repos.iter(), |out, repo| push_string(out, &state.addr(*repo).to_string()));
            }
            Subject::RootTag(letter, roots) => {
                let name = tag_name(*letter);
                out.reserve(roots.len() * ID_BYTES + FILTER_FRAME_BYTES);
                write_list(out, &name, roots.iter(), |out, root| push_hex(out, state.root_event_id(*root).as_bytes()));
            }
            Subject::ThreadTag(letter, ids) => {
                out.reserve(ids.len() * ID_BYTES + FILTER_FRAME_BYTES);
                write_list(out, &tag_name(*letter), ids.iter(), |out, id| push_hex(out, id.as_bytes()));
            }
            Subject::Deletions(authors) => {
                out.push_str("\"kinds\":[5],");
                write_list(out, "authors", authors.iter(), |out, author| push_hex(out, author.as_bytes()));
            }
            Subject::DeletionsOf(kinds) => {
                out.push_str("\"kinds\":[5],");
                write_list(out, "#k", kinds.iter(), |out, kind| push_string(out, &kind.to_string()));
            }
        }
    }
}

/// The REQ for some events by their ids. `subscription` needs no escaping: we make it.
pub fn ids_req(subscription: &str, ids: &BTreeSet<EventId>) -> String {
    let mut text = String::with_capacity(ids.len() * ID_BYTES + REQ_FRAME_BYTES);
    let _ = write!(text, "[\"REQ\",\"{subscription}\",{{");
    write_list(&mut text, "ids", ids.iter(), |out, id| push_hex(out, id.as_bytes()));
    let _ = write!(text, ",\"limit\":{}}}]", ids.len());
    text
}

/// The REQ for some filters. `subscription` needs no escaping: we make it.
pub fn req_message(
    subscription: &str,
    subjects: &[Subject],
    bounds: Bounds,
    named_kinds: bool,
    state: &State,
) -> String {
    let mut text = format!("[\"REQ\",\"{subscription}\"");
    for subject in subjects {
        text.push(',');
        subject.write(bounds, named_kinds, state, &mut text);
    }
    text.push(']');
    text
}

/// Cuts repos into chunks of at most as many addresses as the shape allows, each of which stays within its share of a
/// REQ's bytes.
pub fn chunk_repos(repos: impl IntoIterator<Item = RepoId>, shape: Shape, state: &State) -> Vec<Rc<[RepoId]>> {
    let bytes_max = (shape.bytes - REQ_FRAME_BYTES) / UNIT_FILTERS - FILTER_FRAME_BYTES;
    let bytes_of = |repo: &RepoId| value_bytes(&state.addr(*repo).to_string());
    chunk_within(repos, shape.values, bytes_max, bytes_of)
}

/// Cuts repos into chunks of at most as many identifiers as the shape allows, within a REQ's bytes. Those of one
/// identifier stay together, so that no two chunks ask the same.
pub fn chunk_identifiers(repos: impl IntoIterator<Item = RepoId>, shape: Shape, state: &State) -> Vec<Rc<[Forks]>> {
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    let mut names: Vec<Vec<RepoId>> = Vec::new();
    for repo in repos {
        let place = *places.entry(&state.addr(repo).identifier).or_insert(names.len());
        match names.get_mut(place) {
            Some(forks) => forks.push(repo),
            None => names.push(vec![repo]),
        }
    }
    let bytes_max = shape.bytes - REQ_FRAME_BYTES - FILTER_FRAME_BYTES;
    let bytes_of = |forks: &Forks| value_bytes(identifier(forks, state));
    chunk_within(names.into_iter().map(Forks::from), shape.values, bytes_max, bytes_of)
}

fn chunk_within<T>(
    values: impl IntoIterator<Item = T>,
    values_max: usize,
    bytes_max: usize,
    bytes_of: impl Fn(&T) -> usize,
) -> Vec<Rc<[T]>> {
    let mut chunks = Vec::new();
    let (mut chunk, mut bytes) = (Vec::new(), 0);
    for value in values {
        let size = bytes_of(&value);
        if chunk.len() == values_max || (bytes + size > bytes_max && !chunk.is_empty()) {
            chunks.push(std::mem::take(&mut chunk).into());
            bytes = 0;
        }
        bytes += size;
        chunk.push(value);
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

/// Packs units into REQs, in order, each unit whole, by the number of filters and the bytes of a REQ. A unit that alone
/// is too much for one is a REQ all the same: see [`fits_a_req`].
pub fn pack(units: impl IntoIterator<Item = Unit>, shape: Shape, state: &State) -> Vec<Vec<Unit>> {
    let mut reqs: Vec<Vec<Unit>> = Vec::new();
    let (mut filters, mut bytes) = (0, 0);
    for unit in units {
        let size = unit_bytes(&unit, state);
        let fits = filters + unit.filter_count() <= shape.filters && bytes + size <= shape.bytes;
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

/// Whether a unit fits into one REQ of this shape, so that it can be live: some relays take fewer filters in a REQ than
/// the letters of a tag.
pub fn fits_a_req(unit: &Unit, shape: Shape) -> bool {
    unit.filter_count() <= shape.filters
}

/// Bytes of an id in the list of a filter, with quotes and comma.
pub const ID_BYTES: usize = 2 * EventId::LEN + 3;

/// What a REQ needs beside its filters: type, subscription id, brackets.
const REQ_FRAME_BYTES: usize = 64;

/// What one filter needs beside its values: names, `since`, `until`, `limit`, the kinds if it names them.
const FILTER_FRAME_BYTES: usize = 256;

/// Filters of a chunk of layer 2 or 3: one for each letter of the tag.
const UNIT_FILTERS: usize = 3;

fn unit_bytes(unit: &Unit, state: &State) -> usize {
    let values = match unit {
        Unit::Announcements | Unit::Everything => 0,
        Unit::Roots(roots) => roots.len() * ID_BYTES,
        Unit::Identifiers(names) => names.iter().map(|forks| value_bytes(identifier(forks, state))).sum(),
        Unit::Repos(repos) => repos.iter().map(|repo| value_bytes(&state.addr(*repo).to_string())).sum(),
    };
    unit.filter_count() * (values + FILTER_FRAME_BYTES)
}

/// Bytes of a value in a list, with quotes and comma.
fn value_bytes(value: &str) -> usize {
    let mut text = String::new();
    push_string(&mut text, value);
    text.len() + 1
}

fn identifiers<'a>(names: &[Forks], state: &'a State) -> BTreeSet<&'a str> {
    names.iter().map(|forks| identifier(forks, state)).collect()
}

/// What some forks share.
pub fn identifier<'a>(forks: &Forks, state: &'a State) -> &'a str {
    &state.addr(*forks.first().expect("there is at least one")).identifier
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::budget::Budget;
    use crate::sync::paging::Paging;
    use crate::sync::plan::{Filtering, Reach, catchup_sweeps, chunked_units};
    use crate::sync::progress::RelayProgress;
    use crate::sync::testing::{addr, announcement, relay, root_id, settings};

    fn world(repos: u32, roots: u32) -> State {
        let mut state = State::new(settings());
        let mut seq = 0;
        for n in 0..repos {
            seq += 1;
            state.set_announcement(&announcement(1, &format!("repo-{n}"), &["one"]), seq);
        }
        for n in 0..roots {
            seq += 1;
            state.add_root(root_id(n), seq, &[addr(1, &format!("repo-{}", n % repos))]);
        }
        state
    }

    fn shape(values: usize) -> Shape {
        Budget::default().shape(values)
    }

    fn json(subject: &Subject, state: &State) -> serde_json::Value {
        let mut text = String::new();
        let bounds = Bounds { since: Some(UnixTime::from_secs(7)), until: None, limit: 500 };
        subject.write(bounds, false, state, &mut text);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn the_three_layers_in_the_words_of_nip_01() {
        let state = world(1, 1);
        let key = addr(1, "").author.to_hex();
        let subjects: Vec<Subject> =
            chunked_units(&relay("one"), shape(100), &state).iter().flat_map(Unit::subjects).collect();
        let filters: Vec<_> = subjects.iter().map(|subject| json(subject, &state)).collect();
        let address = format!("30617:{key}:repo-0");
        let id = root_id(0).to_hex();
        let tag = |name: &str, value: &str| serde_json::json!({ name: [value], "since": 7, "limit": 500 });
        assert_eq!(filters[0], serde_json::json!({ "kinds": [30617, 30618], "since": 7, "limit": 500 }));
        assert_eq!(filters[1..4], [tag("#a", &address), tag("#A", &address), tag("#q", &address)]);
        assert_eq!(filters[4..7], [tag("#e", &id), tag("#E", &id), tag("#q", &id)]);
    }

    #[test]
    fn threads_and_deletions_in_the_words_of_nip_01() {
        let state = world(1, 1);
        let id = root_id(7).to_hex();
        let since = Some(UnixTime::from_secs(7));
        let whole = |subject: Subject, named_kinds| -> serde_json::Value {
            serde_json::from_str(&subject.whole(since, named_kinds, &state)).unwrap()
        };
        let thread = |letter| Subject::ThreadTag(letter, [root_id(7)].into());
        assert_eq!(whole(thread('e'), false), serde_json::json!({ "#e": [id], "since": 7 }));
        assert_eq!(whole(thread('q'), true), serde_json::json!({ "kinds": TAGGING_KINDS, "#q": [id], "since": 7 }));
        let deletions = Subject::DeletionsOf([1_111, 1_621].into());
        assert_eq!(whole(deletions, true), serde_json::json!({ "kinds": [5], "#k": ["1111", "1621"], "since": 7 }));
        assert_eq!(whole(Subject::Everything, false), serde_json::json!({ "since": 7 }));
        assert_eq!(Subject::Everything.whole(None, false, &state), "{}");
    }

    #[test]
    fn no_filter_has_more_than_the_allowed_values_and_none_is_lost() {
        let state = world(250, 1_234);
        let units = chunked_units(&relay("one"), shape(100), &state);
        let (mut repos, mut roots) = (Vec::<RepoId>::new(), Vec::<RootId>::new());
        for unit in &units {
            match unit {
                Unit::Announcements | Unit::Identifiers(_) | Unit::Everything => {}
                Unit::Repos(chunk) => {
                    assert!(chunk.len() <= 100);
                    repos.extend(chunk.iter());
                }
                Unit::Roots(chunk) => {
                    assert!(chunk.len() <= 100);
                    roots.extend(chunk.iter());
                }
            }
        }
        repos.sort_unstable();
        roots.sort_unstable();
        assert_eq!(repos, state.repos_of(&relay("one")).collect::<Vec<_>>());
        assert_eq!(roots, state.roots_of(&relay("one")));
        assert_eq!(units.len(), 1 + 3 + 13);
    }

    #[test]
    fn no_two_chunks_ask_for_the_same_identifier_however_many_forks_share_it() {
        let mut state = State::new(settings());
        let mut seq = 0;
        // 150 owners of `x`, and between them 150 repos of other names.
        for n in 0..150 {
            for (owner, name) in [(n, "x".to_owned()), (0, format!("repo-{n}"))] {
                seq += 1;
                state.set_announcement(&announcement(owner + 1, &name, &["one"]), seq);
            }
        }
        let repos: BTreeSet<RepoId> = state.repos_of(&relay("one")).collect();
        assert_eq!(repos.len(), 300);
        let chunks = chunk_identifiers(repos.iter().copied(), shape(100), &state);
        assert_eq!(chunks.iter().map(|chunk| chunk.len()).collect::<Vec<_>>(), [100, 51]);
        let forks = chunks.iter().flat_map(|chunk| chunk.iter()).flat_map(|forks| forks.iter().copied());
        assert_eq!(forks.collect::<BTreeSet<_>>(), repos, "each is there");
        // However they are cut, and cut again.
        let units = chunks.into_iter().flat_map(|names| Unit::Identifiers(names).reshape(shape(30), &state));
        let subjects: Vec<Subject> = units.flat_map(|unit| unit.subjects()).collect();
        let halves: Vec<Subject> = subjects.iter().filter_map(Subject::halves).flatten().collect();
        for subjects in [subjects, halves] {
            let lists: Vec<serde_json::Value> =
                subjects.iter().map(|subject| json(subject, &state)["#d"].take()).collect();
            let asked: Vec<&str> =
                lists.iter().flat_map(|list| list.as_array().unwrap()).filter_map(|d| d.as_str()).collect();
            assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), asked.len(), "{asked:?}");
        }
    }

    #[test]
    fn a_req_stays_within_its_bytes_and_its_filters_whatever_the_identifiers_are() {
        let mut state = State::new(settings());
        for n in 0..300u64 {
            let identifier = format!("{}{n}", "\\\"é".repeat(if n % 3 == 0 { 120 } else { 2 }));
            state.set_announcement(&announcement(1, &identifier, &["one"]), n + 1);
        }
        (0..500).for_each(|n| drop(state.add_root(root_id(n), 301 + u64::from(n), &[addr(1, "x")])));
        let units = chunked_units(&relay("one"), shape(100), &state);
        for req in pack(units, shape(100), &state) {
            let subjects: Vec<Subject> = req.iter().flat_map(Unit::subjects).collect();
            let bounds =
                Bounds { since: Some(UnixTime::from_secs(u64::MAX)), until: Some(UnixTime::EPOCH), limit: 500 };
            let text = req_message("g18446744073709551615", &subjects, bounds, false, &state);
            assert!(text.len() <= shape(100).bytes && subjects.len() <= shape(100).filters);
            assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
        }
    }

    #[test]
    fn a_req_for_ids_names_its_limit() {
        let text = ids_req("g7", &BTreeSet::from([root_id(0), root_id(1)]));
        let message: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(message[0], "REQ");
        assert_eq!(message[1], "g7");
        assert_eq!(message[2]["ids"].as_array().unwrap().len(), 2);
        assert_eq!(message[2]["limit"], 2);
    }

    #[test]
    fn the_same_state_gives_the_same_bytes() {
        let text = |state: &State| {
            let chunks = Filtering::ByTag(shape(100));
            let sweeps = catchup_sweeps(&relay("one"), Reach::Full, &RelayProgress::default(), chunks, state).concat();
            let mut out = String::new();
            sweeps
                .iter()
                .for_each(|sweep| sweep.subject().write(sweep.asked(&Paging::proven(), 500), false, state, &mut out));
            out
        };
        assert_eq!(text(&world(30, 300)), text(&world(30, 300)));
    }

    #[test]
    fn what_is_confirmed_is_asked_since_and_what_is_not_from_the_beginning() {
        let state = world(2, 4);
        let repo = state.repo_id(&addr(1, "repo-0")).unwrap();
        let mut progress = RelayProgress::default();
        progress.confirm(repo, 3);
        let since = UnixTime::from_secs(5);
        let chunks = Filtering::ByTag(shape(100));
        let sweeps = catchup_sweeps(&relay("one"), Reach::Since(since), &progress, chunks, &state).concat();
        let of = |wanted: fn(&Subject) -> bool| -> Vec<Option<UnixTime>> {
            sweeps.iter().filter(|sweep| wanted(sweep.subject())).map(|sweep| sweep.since()).collect()
        };
        assert_eq!(of(|subject| *subject == Subject::Announcements), [Some(since)]);
        assert_eq!(of(|subject| matches!(subject, Subject::Identifiers(_))), [None]);
        assert_eq!(of(|subject| matches!(subject, Subject::RepoTag('a', _))), [None, Some(since)]);
        // Root events 0 and 2 belong to repo-0 with numbers 3 and 5: only the first is confirmed.
        let roots: Vec<(usize, Option<UnixTime>)> = sweeps
            .iter()
            .filter_map(|sweep| match sweep.subject() {
                Subject::RootTag('e', roots) => Some((roots.len(), sweep.since())),
                _ => None,
            })
            .collect();
        assert_eq!(roots, [(3, None), (1, Some(since))]);
    }
}
