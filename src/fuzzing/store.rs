//! The store on a disk that fails and loses power, beside the rules over plain lists.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::sync::LazyLock;

use nostr::event::{Event, EventId};
use nostr::filter::{Filter, SingleLetterTag};
use nostr::types::Timestamp;

use crate::protocol::relay_url::RelayUrl;
use crate::protocol::repo::RepoAddr;
use crate::store::model::{Model, is_expired};
use crate::store::testing::{Disk, author, event};
use crate::store::{Holder, Known, Progress, Query, QueryStep, Store, StoreError, Usage, Verdict};
use crate::time::UnixTime;

/// Steps of one run. Beyond: the rest of the bytes is ignored.
const STEPS_MAX: usize = 256;
/// Small, so that pages go to the disk before their commit as well.
const CACHE_BYTES: usize = 64 << 10;
/// Index entries that wait in memory.
const MEMTABLE_MAX: usize = 50;
/// Every time in a run is below.
const SECONDS: u8 = 24;
const KINDS: [u16; 6] = [0, 1, 1621, 10_002, 30_617, 30_618];
const IDENTIFIERS: [&str; 3] = ["", "a", "b:c"];

/// The bytes of an empty store: making one takes longer than most runs.
static EMPTY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let disk = Disk::default();
    drop(open(&disk));
    disk.bytes()
});

/// What a store is to hold.
#[derive(Clone, Default)]
struct Expected {
    rules: Model,
    /// Relays' records, with what is confirmed for the one repo.
    progress: BTreeMap<u8, (Option<u64>, Option<u64>)>,
}

impl Expected {
    fn progress(&self) -> Vec<Progress> {
        let relays = self.progress.iter().filter_map(|(n, (through, _))| through.map(|t| relay_record(*n, t)));
        let confirmed = self.progress.iter().filter_map(|(n, (_, seq))| seq.map(|seq| confirmed_record(*n, seq)));
        relays.chain(confirmed).collect()
    }
}

struct Run<'a> {
    data: &'a [u8],
    disk: Disk,
    store: Store,
    committed: Expected,
    /// With the batch.
    staged: Expected,
    /// All events made so far, for what refers to them.
    made: Vec<Event>,
    /// Whether the disk fails after a number of changes.
    is_failing: bool,
}

/// Operations on the store, failures of its disk, and what it then holds, beside a naive model.
pub fn store(data: &[u8]) {
    let disk = Disk::holding(EMPTY.clone());
    let store = open(&disk);
    let (committed, staged) = (Expected::default(), Expected::default());
    let mut run = Run { data, disk, store, committed, staged, made: Vec::new(), is_failing: false };
    for _ in 0..STEPS_MAX {
        if run.data.is_empty() {
            break;
        }
        run.step();
    }
    // What is there in the end, and after the process has gone.
    run.commit();
    run.reopen(run.disk.clone());
}

impl Run<'_> {
    /// The next byte, below `n`; 0 once there are none.
    fn below(&mut self, n: u8) -> u8 {
        let Some((first, rest)) = self.data.split_first() else { return 0 };
        self.data = rest;
        first % n
    }

    fn step(&mut self) {
        match self.below(16) {
            0..=4 => {
                let event = self.any_event();
                self.stage(event);
            }
            5 => {
                let event = self.any_deletion();
                self.stage(event);
            }
            6 => {
                if let Some(event) = self.any_made() {
                    self.stage(event);
                }
            }
            7 => self.progress(),
            8 => self.expire(),
            9 => self.query(),
            10 | 11 => self.commit(),
            12 => {
                self.commit();
                self.close();
                self.reopen(self.disk.clone());
            }
            // A kill: what was written is there, the batch is not.
            13 => {
                self.staged = self.committed.clone();
                self.reopen(Disk::holding(self.disk.bytes()));
            }
            14 => {
                self.staged = self.committed.clone();
                let kept = usize::from(self.below(64));
                self.reopen(self.disk.after_power_cut(kept));
            }
            _ => {
                let kinds = [ErrorKind::StorageFull, ErrorKind::PermissionDenied, ErrorKind::UnexpectedEof];
                let kind = kinds[usize::from(self.below(3))];
                let changes = u64::from(self.below(64));
                self.disk.fail_after(changes, kind);
                self.is_failing = true;
            }
        }
    }

    fn any_event(&mut self) -> Event {
        let (who, at) = (self.below(3), self.below(SECONDS));
        let kind = KINDS[usize::from(self.below(6))];
        let identifier = IDENTIFIERS[usize::from(self.below(3))];
        let expiration = self.below(4 * SECONDS);
        let (content, expires) = (self.below(3).to_string(), expiration.to_string());
        let mut tags = vec![["d", identifier]];
        if expiration < SECONDS {
            tags.push(["expiration", &expires]);
        }
        event(who, kind, at.into(), &tags.iter().map(|tag| &tag[..]).collect::<Vec<_>>(), &content)
    }

    fn any_deletion(&mut self) -> Event {
        let (who, at) = (self.below(3), self.below(SECONDS));
        let mut tags: Vec<[String; 2]> = Vec::new();
        for _ in 0..self.below(4) {
            tags.push(match self.any_made() {
                Some(event) if self.below(3) > 0 => ["e".to_owned(), event.id.to_hex()],
                _ => {
                    let kind = [0, 10_002, 30_617, 30_618][usize::from(self.below(4))];
                    let identifier = if kind < 30_000 { "" } else { IDENTIFIERS[usize::from(self.below(3))] };
                    ["a".to_owned(), format!("{kind}:{}:{identifier}", author(self.below(3)))]
                }
            });
        }
        let tags: Vec<[&str; 2]> = tags.iter().map(|[name, value]| [name.as_str(), value.as_str()]).collect();
        event(who, 5, at.into(), &tags.iter().map(|tag| &tag[..]).collect::<Vec<_>>(), "")
    }

    fn any_made(&mut self) -> Option<Event> {
        let pick = usize::from(self.below(u8::MAX));
        self.made.get(pick % self.made.len().max(1)).cloned()
    }

    fn stage(&mut self, event: Event) {
        let rules = &mut self.staged.rules;
        let verdict = rules.verdict(&event);
        assert_eq!(self.store.verdict(&event), Ok(verdict), "{event:?}");
        let targets = event.kind.as_u16() == 5 && rules.held.iter().any(|held| Model::is_target(&event, held));
        assert_eq!(self.store.deletion_targets(&event), Ok(targets));
        if verdict == Verdict::Fresh {
            // Staging reads only, so it does not fail.
            let staged = self.store.stage(event.clone()).expect("reading works");
            let removed: BTreeSet<_> = staged.removed.iter().map(|r| (r.id, r.superseded)).collect();
            assert_eq!(removed.len(), staged.removed.len(), "each removal is reported once");
            assert_eq!(removed, rules.stage(&event));
            if is_charged(&event) {
                self.store.charge(staged.seq, &holders(&event)).expect("reading works");
            }
            self.assert_adds_up();
        }
        self.made.push(event);
    }

    fn progress(&mut self) {
        let n = self.below(3);
        let entry = self.staged.progress.entry(n).or_default();
        let (what, number) = (self.data.first().map_or(0, |b| b % 4), self.data.get(1).map_or(0, |b| u64::from(*b)));
        self.data = self.data.get(2..).unwrap_or_default();
        self.store.stage_progress(match what {
            0 => {
                entry.0 = Some(number);
                relay_record(n, number)
            }
            1 => {
                entry.1 = Some(number);
                confirmed_record(n, number)
            }
            2 => {
                entry.1 = None;
                Progress::ForgetRepo { relay: relay(n), repo: repo() }
            }
            _ => {
                *entry = (None, None);
                Progress::ForgetRelay { relay: relay(n) }
            }
        });
    }

    fn expire(&mut self) {
        let now = u64::from(self.below(SECONDS));
        let removed = self.store.expire(UnixTime::from_secs(now), usize::MAX).expect("reading works");
        let removed: BTreeSet<EventId> = removed.iter().map(|removed| removed.id).collect();
        assert_eq!(removed, self.staged.rules.expire(now));
        self.assert_adds_up();
    }

    /// Asks for what is committed, a few events at a step.
    fn query(&mut self) {
        let (mut filter, mut wanted) = (Filter::new(), self.committed.rules.held.clone());
        let which = self.below(64);
        let now = u64::from(self.below(SECONDS));
        wanted.retain(|event| !is_expired(event, now));
        if which & 1 != 0 {
            let kinds = [KINDS[usize::from(self.below(6))], KINDS[usize::from(self.below(6))]];
            filter = filter.kinds(kinds.map(Into::into));
            wanted.retain(|event| kinds.contains(&event.kind.as_u16()));
        }
        if which & 2 != 0 {
            let who = author(self.below(3));
            filter = filter.author(who);
            wanted.retain(|event| event.pubkey == who);
        }
        if which & 4 != 0 {
            let since = u64::from(self.below(SECONDS));
            filter = filter.since(Timestamp::from_secs(since));
            wanted.retain(|event| event.created_at.as_secs() >= since);
        }
        if which & 8 != 0 {
            let until = u64::from(self.below(SECONDS));
            filter = filter.until(Timestamp::from_secs(until));
            wanted.retain(|event| event.created_at.as_secs() <= until);
        }
        if which & 16 != 0 {
            let identifier = IDENTIFIERS[usize::from(self.below(3))];
            filter = filter.custom_tag(SingleLetterTag::from_char('d').expect("a letter"), identifier);
            wanted.retain(|event| event.tags.iter().any(|tag| tag.kind() == "d" && tag.content() == Some(identifier)));
        }
        let limit = if which & 32 == 0 { usize::MAX } else { usize::from(self.below(8)) };
        wanted.sort_by_key(|event| (u64::MAX - event.created_at.as_secs(), event.id));
        wanted.truncate(limit);
        let mut query = Query::new(crate::protocol::filter::Filter::from(filter), self.store.last_seq(), limit);
        let per_step = usize::from(self.below(16)) + 1;
        let mut found = Vec::new();
        loop {
            let step = self.store.query(&mut query, UnixTime::from_secs(now), per_step, &mut |_, json| {
                found.push(Event::from_json(json).expect("a stored event"));
                ControlFlow::Continue(())
            });
            if step.expect("reading works") == QueryStep::Done {
                break;
            }
        }
        assert_eq!(found, wanted);
    }

    fn commit(&mut self) {
        match self.store.commit() {
            Ok(stored) => {
                let before: BTreeSet<EventId> = self.committed.rules.held.iter().map(|event| event.id).collect();
                let held = self.staged.rules.held.iter();
                let new: Vec<EventId> = held.map(|event| event.id).filter(|id| !before.contains(id)).collect();
                let stored: Vec<EventId> = stored.iter().map(|stored| stored.event().id).collect();
                // One that expired or was deleted and came again within a batch is new as well.
                assert!(new.iter().all(|id| stored.contains(id)), "{new:?} {stored:?}");
                self.committed = self.staged.clone();
                self.assert_holds(&self.committed);
            }
            Err(StoreError::Full) => {
                assert!(self.is_failing);
                self.disk.heal();
                self.is_failing = false;
                if self.store.reopen().expect("the disk works").is_some() {
                    self.committed = self.staged.clone();
                }
                self.assert_holds(&self.committed);
                self.assert_adds_up();
            }
            Err(error) => {
                assert!(self.is_failing, "{error:?}");
                let again = event(9, 1, 1, &[], "after a failure");
                assert!(self.store.stage(again).is_err(), "a store that has failed takes no more");
                self.reopen(self.disk.clone());
            }
        }
    }

    /// The process ends as it should, if the disk lets it.
    fn close(&mut self) {
        let store = std::mem::replace(&mut self.store, Store::in_memory());
        match store.close() {
            Ok(()) => {}
            Err(error) => assert!(self.is_failing, "{error:?}"),
        }
    }

    /// Another process opens the store on `disk`. Of a commit that failed it finds all or nothing.
    fn reopen(&mut self, disk: Disk) {
        // First dropped: what redb does then still reaches its disk, or does not.
        self.store = open(&Disk::holding(EMPTY.clone()));
        self.disk = Disk::holding(disk.bytes());
        self.is_failing = false;
        self.store = open(&self.disk);
        if !self.holds(&self.committed) {
            self.committed = self.staged.clone();
        }
        self.staged = self.committed.clone();
        self.assert_holds(&self.committed);
        self.assert_adds_up();
    }

    /// Each account has what the events that it pays for make, in the batch or committed.
    fn assert_adds_up(&self) {
        for who in 0..3 {
            let of = |event: &&Event| event.pubkey == author(who) && is_charged(event);
            let held = self.staged.rules.held.iter().filter(of);
            let expected = held.fold(Usage::default(), |sum, event| Usage {
                events: sum.events + 1,
                bytes: sum.bytes + event.as_json().len() as u64,
            });
            assert_eq!(self.store.usage(&Holder::author(&author(who))), Ok(expected));
        }
    }

    /// Whether the store holds just these events and this progress.
    fn holds(&self, expected: &Expected) -> bool {
        let mut held: BTreeSet<EventId> = BTreeSet::new();
        let read = self.store.for_each(&mut |_, json| {
            held.insert(Event::from_json(json).expect("a stored event").id);
            ControlFlow::Continue(())
        });
        read.expect("reading works");
        let wanted: BTreeSet<EventId> = expected.rules.held.iter().map(|event| event.id).collect();
        held == wanted && self.store.progress() == Ok(expected.progress())
    }

    fn assert_holds(&self, expected: &Expected) {
        assert!(self.holds(expected), "it holds something else");
        for (id, created_at) in &expected.rules.deleted {
            let held = expected.rules.held.iter().any(|event| event.id == *id);
            let created_at = UnixTime::from_secs(*created_at);
            assert!(!held && self.store.known(id) == Ok(Some(Known::Deleted { created_at })), "{id} is deleted");
        }
        self.store.assert_invariants().expect("reading works");
    }
}

/// Some events are paid for, the others not.
fn is_charged(event: &Event) -> bool {
    event.id.as_bytes()[0].is_multiple_of(2)
}

fn holders(event: &Event) -> [Holder; 2] {
    [Holder::author(&event.pubkey), Holder::repo(&repo())]
}

fn open(disk: &Disk) -> Store {
    let store = Store::open(disk.clone(), CACHE_BYTES).expect("the disk works and holds a store");
    store.with_memtable_max(MEMTABLE_MAX)
}

fn relay(n: u8) -> RelayUrl {
    RelayUrl::parse(&format!("wss://relay{n}.example")).expect("a relay URL")
}

fn repo() -> RepoAddr {
    RepoAddr::parse(&format!("30617:{}:repo", author(1))).expect("an address")
}

fn relay_record(n: u8, through: u64) -> Progress {
    let through = UnixTime::from_secs(through);
    Progress::Relay { relay: relay(n), through, full_catchup: through }
}

fn confirmed_record(n: u8, seq: u64) -> Progress {
    Progress::Confirmed { relay: relay(n), repo: repo(), seq }
}
