//! The store on a disk whose power fails at every boundary of what it writes, and on one whose operations fail one by
//! one. After each the store must open, hold all that was acknowledged, and hold of the rest all of a commit or nothing.

use crate::disk::{Change, Disk, DiskFaults, Fails, Lost};
use crate::events::{Author, EventRef};
use grasp_sync::protocol::message::RawEvent;
use grasp_sync::protocol::relay_url::RelayUrl;
use grasp_sync::protocol::repo::RepoAddr;
use grasp_sync::store::{Progress, Store, StoreError, Verdict};
use grasp_sync::time::UnixTime;
use std::fmt::Arguments;
use std::ops::ControlFlow;

/// Small, so that pages are written before their commit as well.
const CACHE_BYTES: usize = 64 << 10;
/// Index entries that wait in memory: of some commits, so that others write them.
const MEMTABLE_MAX: usize = 40;

/// Everything that can be read of a store.
fn content(store: &Store) -> String {
    store.assert_invariants().expect("the disk works");
    let mut lines = format!("last_seq {}\n", store.last_seq());
    let read = store.for_each(&mut |seq, json| {
        lines += &format!("{seq} {json}\n");
        ControlFlow::Continue(())
    });
    read.expect("the disk works");
    lines + &format!("{:?}\n", store.progress().expect("the disk works"))
}

fn open(disk: &Disk) -> Result<Store, StoreError> {
    Ok(Store::open(disk.clone(), CACHE_BYTES)?.with_memtable_max(MEMTABLE_MAX))
}

/// What one commit of a story makes durable.
#[derive(Clone, Default)]
struct Chapter {
    events: Vec<EventRef>,
    expire_at: u64,
    progress: Vec<Progress>,
    /// The store is closed and opened again afterwards.
    reopens: bool,
}

impl Chapter {
    fn of(events: Vec<EventRef>) -> Chapter {
        Chapter { events, ..Chapter::default() }
    }

    fn play(&self, store: &mut Store) -> Result<(), StoreError> {
        for event in &self.events {
            let event = RawEvent::from_json(&event.json).expect("an event").parse().expect("an event");
            if store.verdict(&event)? == Verdict::Fresh {
                store.stage(event)?;
            }
        }
        store.expire(UnixTime::from_secs(self.expire_at), usize::MAX)?;
        self.progress.iter().for_each(|p| store.stage_progress(p.clone()));
        store.commit().map(|_| ())
    }
}

/// Opens the store, plays the chapters, and tells `acknowledged` after each moment at which something is.
fn tell(chapters: &[Chapter], disk: &Disk, acknowledged: &mut dyn FnMut(&Store)) -> Result<(), StoreError> {
    let mut store = open(disk)?;
    acknowledged(&store);
    for chapter in chapters {
        chapter.play(&mut store)?;
        acknowledged(&store);
        if chapter.reopens {
            store.close()?;
            store = open(disk)?;
        }
    }
    Ok(())
}

/// A store, what is made of it, and what it then holds.
struct Story {
    name: &'static str,
    base: Vec<u8>,
    chapters: Vec<Chapter>,
    changes: Vec<Change>,
    /// Changes up to each acknowledgement, and what was acknowledged.
    states: Vec<(usize, String)>,
}

impl Story {
    fn new(name: &'static str, before: &[Chapter], chapters: Vec<Chapter>) -> Story {
        let disk = Disk::default();
        if !before.is_empty() {
            tell(before, &disk, &mut |_| {}).expect("the disk works");
        }
        let base = disk.bytes();
        let disk = Disk::holding(base.clone());
        disk.record();
        let mut states = Vec::new();
        let told = tell(&chapters, &disk, &mut |store| states.push((disk.recorded().len(), content(store))));
        told.expect("the disk works");
        let changes = disk.recorded();
        eprintln!("{name}: {} changes, {} states, {} bytes", changes.len(), states.len(), base.len());
        Story { name, base, chapters, changes, states }
    }

    /// Demands that the store opens on what is left of `disk`, and holds what was acknowledged up to `states[at_least]`,
    /// or one commit more. If parts are left of its writes, it can also be written, and keeps that.
    fn assert_sound(&self, disk: &Disk, lost: Lost, at_least: usize, what: Arguments<'_>) {
        let fail = |why: &str| panic!("{}, {what}, lost {lost:?}: {why}", self.name);
        let disk = disk.after(lost);
        let mut store = match open(&disk) {
            Ok(store) => store,
            Err(error) => fail(&format!("the store does not open: {error:?}")),
        };
        let held = content(&store);
        let allowed = &self.states[at_least..self.states.len().min(at_least + 2)];
        if allowed.iter().all(|(_, state)| *state != held) {
            fail(&format!("neither what was acknowledged nor one commit more:\n{held}"));
        }
        if let Lost::Torn(_) = lost {
            let note = Author::new(99).sign(1, 1, &[], "the first after the crash");
            Chapter::of(vec![note]).play(&mut store).expect("the disk works");
            let written = content(&store);
            drop(store);
            let again = open(&disk.after(Lost::All)).expect("it was opened before");
            assert_eq!(content(&again), written, "{}, {what}, lost {lost:?}", self.name);
        }
    }

    /// How many states were acknowledged before the change number `n`. The first is there from the beginning, unless
    /// there was no store.
    fn acknowledged(&self, n: usize) -> usize {
        self.states.iter().filter(|(changes, _)| *changes <= n).count().saturating_sub(1)
    }

    fn cut_at_every_change(&self) {
        for n in 0..=self.changes.len() {
            let disk = Disk::holding(self.base.clone());
            disk.play(&self.changes[..n]);
            let at_least = self.acknowledged(n);
            let seed = n as u64;
            for lost in [Lost::Nothing, Lost::All, Lost::Some(seed), Lost::Torn(seed)] {
                self.assert_sound(&disk, lost, at_least, format_args!("cut after {n} changes"));
            }
            // And in the middle of the next one, with all before it kept.
            if let Some(Change::Write(offset, data)) = self.changes.get(n) {
                for part in [1, data.len() / 2] {
                    let disk = disk.after(Lost::Nothing);
                    disk.play(&[Change::Write(*offset, data[..part].to_vec())]);
                    let what = format_args!("cut after {n} changes and {part} bytes");
                    self.assert_sound(&disk, Lost::Nothing, at_least, what);
                }
            }
        }
    }

    /// A second cut, while the store recovers from the first.
    fn cut_recovery_at_every_change(&self) {
        for n in (0..=self.changes.len()).step_by(11) {
            let disk = Disk::holding(self.base.clone());
            disk.play(&self.changes[..n]);
            let base = disk.after(Lost::Torn(n as u64)).bytes();
            let disk = Disk::holding(base.clone());
            disk.record();
            drop(open(&disk));
            let recovery = disk.recorded();
            for m in 0..recovery.len() {
                let disk = Disk::holding(base.clone());
                disk.play(&recovery[..m]);
                for lost in [Lost::Nothing, Lost::Torn(m as u64)] {
                    let what = format_args!("cut after {n} changes and {m} of the recovery");
                    self.assert_sound(&disk, lost, self.acknowledged(n), what);
                }
            }
        }
    }

    /// Plays the story on a disk with `faults`; false if none of them came to pass.
    fn fail(&self, faults: DiskFaults) -> bool {
        let disk = Disk::holding(self.base.clone());
        disk.set_faults(faults.clone());
        let mut acknowledged = 0;
        let told = tell(&self.chapters, &disk, &mut |_| acknowledged += 1);
        let failed = disk.failed() > 0;
        disk.set_faults(DiskFaults::default());
        if told.is_ok() {
            assert_eq!(acknowledged, self.states.len(), "{}, {faults:?}", self.name);
        }
        let at_least = usize::max(acknowledged, 1) - 1;
        for lost in [Lost::Nothing, Lost::Torn(faults.seed)] {
            self.assert_sound(&disk, lost, at_least, format_args!("{faults:?}, then {told:?}"));
        }
        failed
    }

    fn fail_at_every_operation(&self) {
        for n in 0.. {
            let change = [Fails::Once(n), Fails::From(n)];
            let mut faults = change.map(|change| DiskFaults { change, seed: n, ..DiskFaults::default() }).to_vec();
            faults.push(DiskFaults { read: Fails::Once(n), seed: n, ..DiskFaults::default() });
            if !faults.into_iter().map(|faults| self.fail(faults)).fold(false, |any, failed| any | failed) {
                break;
            }
        }
    }
}

fn issues(n: u64, from: u64) -> Vec<EventRef> {
    let author = Author::new(1);
    (0..n).map(|i| author.issue(&author.repo("alpha"), from + i, &format!("issue {i}"))).collect()
}

fn confirmed(seq: u64) -> Vec<Progress> {
    let relay = RelayUrl::parse("wss://far.example").expect("a relay URL");
    let repo = RepoAddr::parse(&Author::new(1).repo("alpha")).expect("an address");
    let through = UnixTime::from_secs(seq);
    vec![
        Progress::Confirmed { relay: relay.clone(), repo, seq },
        Progress::Relay { relay, through, full_catchup: through },
    ]
}

fn creation() -> Story {
    Story::new("creation", &[], vec![Chapter::of(issues(3, 100))])
}

fn commits() -> Story {
    let before = Chapter { progress: confirmed(1), ..Chapter::of(issues(60, 100)) };
    let commits = [(20, 1_000), (1, 2_000), (30, 3_000)];
    let commits = commits.map(|(n, from)| Chapter { progress: confirmed(from), ..Chapter::of(issues(n, from)) });
    Story::new("commits", &[before], commits.to_vec())
}

/// Doubles the file, then closes it, which cuts off what is free.
fn growth() -> Story {
    let before = Chapter::of(issues(20, 100));
    let chapter = Chapter { reopens: true, ..Chapter::of(issues(300, 1_000)) };
    Story::new("growth", &[before], vec![chapter, Chapter::of(issues(3, 5_000))])
}

/// Replacements, deletions, expirations, forgotten progress.
fn removals() -> Story {
    let author = Author::new(1);
    let held = issues(40, 100);
    let mut first = Chapter { progress: confirmed(7), ..Chapter::of(held.clone()) };
    first.events.extend((0..10).map(|n| author.announcement(&format!("repo{n}"), &[], 100)));
    first.events.extend((0..10).map(|n| {
        let expiration = (500 + n).to_string();
        author.sign(1621, 200 + n, &[&["a", &author.repo("alpha")], &["expiration", &expiration]], "expires")
    }));
    let mut second = Chapter { expire_at: 505, ..Chapter::default() };
    second.events.extend((0..10).map(|n| author.announcement(&format!("repo{n}"), &[], 101)));
    let targets: Vec<_> = held[..20].iter().map(|e| &**e).collect();
    second.events.push(author.deletion(&targets, &[&author.repo("repo3")], 300));
    let relay = RelayUrl::parse("wss://far.example").expect("a relay URL");
    second.progress = vec![Progress::ForgetRelay { relay }];
    let third = Chapter { expire_at: 600, progress: confirmed(9), ..Chapter::default() };
    Story::new("removals", &[first], vec![second, third])
}

#[test]
fn power_fails_at_every_change_of_a_creation() {
    let story = creation();
    story.cut_at_every_change();
    story.cut_recovery_at_every_change();
}

#[test]
fn power_fails_at_every_change_of_commits() {
    let story = commits();
    story.cut_at_every_change();
    story.cut_recovery_at_every_change();
}

#[test]
fn power_fails_at_every_change_while_the_file_grows_and_shrinks() {
    let story = growth();
    assert!(story.changes.iter().any(|c| matches!(c, Change::Length(len) if *len > story.base.len() as u64)));
    story.cut_at_every_change();
}

#[test]
fn power_fails_at_every_change_of_removals() {
    removals().cut_at_every_change();
}

#[test]
fn every_operation_fails_once_and_for_good() {
    for story in [creation(), commits(), removals()] {
        story.fail_at_every_operation();
    }
}
