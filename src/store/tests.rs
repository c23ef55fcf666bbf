//! The store's rules one by one, its life on a disk, and a differential test against a naive model.

use super::model::Model;
use super::testing::{Disk, Random, author, event};
use super::*;
use crate::limits::QUERY_CANDIDATE_BYTES;
use nostr::filter::Filter;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::ops::ControlFlow;

const CACHE: usize = 1 << 20;

fn open(disk: &Disk) -> Store {
    Store::open(disk.clone(), CACHE).expect("the disk holds a store")
}

fn stage(store: &mut Store, event: &Event) -> Staged {
    assert_eq!(store.verdict(event), Ok(Verdict::Fresh));
    store.stage(event.clone()).expect("the disk works")
}

fn commit(store: &mut Store) -> Vec<EventId> {
    store.commit().expect("the disk works").iter().map(|stored| stored.event().id).collect()
}

/// Everything that can be read of a store, in words.
fn content(store: &Store) -> String {
    let mut lines = format!("last_seq {}\n", store.last_seq());
    store
        .for_each(&mut |seq, json| {
            lines += &format!("{seq} {json}\n");
            ControlFlow::Continue(())
        })
        .expect("the disk works");
    lines += &format!("{:?}\n{:?}\n", store.progress(), store.next_expiration());
    store.authors_after(None, usize::MAX, &mut |author| lines += &format!("{author}\n")).expect("the disk works");
    lines
}

fn all(store: &Store, filter: Filter) -> Vec<EventId> {
    let mut query = Query::new(crate::protocol::filter::Filter::from(filter), store.last_seq(), usize::MAX);
    let mut ids = Vec::new();
    let step = store.query(&mut query, UnixTime::EPOCH, usize::MAX, &mut |_, json| {
        ids.push(schema::parse(json).expect("stored JSON is an event").id);
        ControlFlow::Continue(())
    });
    assert_eq!(step, Ok(QueryStep::Done));
    ids
}

fn deleted(created_at: u64) -> Result<Option<Known>, StoreError> {
    Ok(Some(Known::Deleted { created_at: UnixTime::from_secs(created_at) }))
}

/// Two events of one address and second, the winner (lowest id) first.
fn tie(kind: u16, tags: &[&[&str]]) -> (Event, Event) {
    let (a, b) = (event(1, kind, 50, tags, "a"), event(1, kind, 50, tags, "b"));
    if a.id < b.id { (a, b) } else { (b, a) }
}

#[test]
fn an_event_is_pending_then_stored() {
    let mut store = Store::in_memory();
    let note = event(1, 1, 10, &[], "hello");
    assert_eq!(store.known(&note.id), Ok(None));
    assert!(store.batch_is_empty());
    assert_eq!(stage(&mut store, &note), Staged { seq: 1, removed: vec![] });

    let created_at = UnixTime::from_secs(10);
    assert_eq!(store.known(&note.id), Ok(Some(Known::Pending { created_at })));
    assert_eq!(store.verdict(&note), Ok(Verdict::Duplicate));
    assert_eq!((store.batch_events(), store.batch_is_empty()), (1, false));
    assert!(store.batch_bytes() >= note.as_json().len());
    assert_eq!(store.last_seq(), 0);
    assert_eq!(store.event_json(1), Ok(None));
    assert_eq!(all(&store, Filter::new()), []);

    let stored = store.commit().unwrap();
    assert_eq!(stored.len(), 1);
    assert_eq!((stored[0].seq, stored[0].event()), (1, note.clone()));
    assert_eq!(&*stored[0].json, note.as_json());
    assert_eq!(store.known(&note.id), Ok(Some(Known::Stored { seq: 1, created_at })));
    assert_eq!(store.event_json(1), Ok(Some(note.as_json())));
    assert_eq!(all(&store, Filter::new()), [note.id]);
    assert_eq!((store.last_seq(), store.batch_events(), store.batch_bytes()), (1, 0, 0));
    assert_eq!(store.commit(), Ok(vec![]));
}

#[test]
fn events_come_back_in_sequence_order() {
    let mut store = Store::in_memory();
    let notes: Vec<Event> = [30, 10, 20].iter().map(|at| event(1, 1, *at, &[], "")).collect();
    for note in &notes {
        stage(&mut store, note);
    }
    let stored = store.commit().unwrap();
    assert_eq!(stored.iter().map(|stored| stored.seq).collect::<Vec<_>>(), [1, 2, 3]);
    let mut seen = Vec::new();
    let all = store.for_each(&mut |seq, json| {
        seen.push((seq, json.to_owned()));
        if seq == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(all, Ok(()));
    assert_eq!(seen, [(1, notes[0].as_json()), (2, notes[1].as_json())]);
}

#[test]
fn a_newer_version_replaces_an_older_one() {
    for (kind, tags) in [(0, None), (3, None), (10_002, None), (30_617, Some("repo:a"))] {
        for across_commits in [false, true] {
            let mut store = Store::in_memory();
            let tags: Vec<&[&str]> = tags.iter().map(|_| &["d", "repo:a"][..]).collect();
            let old = event(1, kind, 10, &tags, "");
            let new = event(1, kind, 11, &tags, "");
            stage(&mut store, &old);
            if across_commits {
                assert_eq!(commit(&mut store), [old.id]);
            }
            let identifier = (kind == 30_617).then(|| "repo:a".to_owned());
            let removed = Removed { id: old.id, kind, author: author(1), identifier, superseded: true };
            assert_eq!(stage(&mut store, &new), Staged { seq: 2, removed: vec![removed] });
            assert_eq!(store.known(&old.id), Ok(None));
            assert_eq!(store.verdict(&old), Ok(Verdict::Superseded));
            assert_eq!(commit(&mut store), [new.id]);
            assert_eq!(store.known(&old.id), Ok(None));
            assert_eq!(store.verdict(&old), Ok(Verdict::Superseded));
            assert_eq!(all(&store, Filter::new()), [new.id]);
            assert_eq!(store.event_json(1), Ok(None));
        }
    }
}

#[test]
fn of_two_versions_of_one_second_the_lowest_id_wins() {
    for across_commits in [false, true] {
        let (winner, loser) = tie(30_618, &[&["d", "x"]]);
        let mut store = Store::in_memory();
        stage(&mut store, &loser);
        if across_commits {
            commit(&mut store);
        }
        assert_eq!(stage(&mut store, &winner).removed[0].id, loser.id);
        assert_eq!(store.verdict(&loser), Ok(Verdict::Superseded));
        assert_eq!(commit(&mut store), [winner.id]);
        assert_eq!(store.verdict(&loser), Ok(Verdict::Superseded));
    }
}

#[test]
fn addresses_differ_by_kind_author_and_identifier() {
    let mut store = Store::in_memory();
    let apart = [
        event(1, 30_617, 10, &[&["d", "a"]], ""),
        event(2, 30_617, 11, &[&["d", "a"]], ""),
        event(1, 30_618, 12, &[&["d", "a"]], ""),
        event(1, 30_617, 13, &[&["d", "b"]], ""),
        event(1, 30_617, 14, &[], ""),
        event(1, 10_617, 15, &[&["d", "a"]], ""),
        event(1, 1617, 16, &[&["d", "a"]], ""),
        event(1, 1617, 17, &[&["d", "a"]], ""),
    ];
    for event in &apart {
        assert_eq!(stage(&mut store, event).removed, []);
    }
    // No `d` tag is the empty identifier; a replaceable event's `d` tag says nothing.
    assert_eq!(stage(&mut store, &event(1, 30_617, 20, &[&["d", ""]], "")).removed[0].id, apart[4].id);
    assert_eq!(stage(&mut store, &event(1, 10_617, 20, &[&["d", "b"]], "")).removed[0].id, apart[5].id);
    assert_eq!(commit(&mut store).len(), apart.len());
}

#[test]
fn a_deletion_removes_by_id_and_keeps_removed() {
    for across_commits in [false, true] {
        let mut store = Store::in_memory();
        let issue = event(1, 1621, 10, &[&["a", "30617:x:y"]], "");
        let other = event(2, 1621, 11, &[], "");
        stage(&mut store, &issue);
        stage(&mut store, &other);
        if across_commits {
            commit(&mut store);
        }
        let deletion = event(1, 5, 12, &[&["e", &issue.id.to_hex()], &["e", &other.id.to_hex()]], "");
        assert_eq!(store.deletion_targets(&deletion), Ok(true));
        let removed = Removed { id: issue.id, kind: 1621, author: author(1), identifier: None, superseded: false };
        assert_eq!(stage(&mut store, &deletion).removed, [removed]);
        assert_eq!(store.known(&issue.id), deleted(10));
        assert_eq!(store.verdict(&issue), Ok(Verdict::Deleted));
        assert_eq!(store.deletion_targets(&deletion), Ok(false));
        commit(&mut store);
        assert_eq!(store.known(&issue.id), deleted(10));
        assert_eq!(store.verdict(&issue), Ok(Verdict::Deleted));
        assert_eq!(all(&store, Filter::new()), [deletion.id, other.id]);
        assert_eq!(all(&store, Filter::new().id(issue.id)), []);
        assert_eq!(all(&store, Filter::new().kind(1621.into())), [other.id]);
    }
}

#[test]
fn a_deletion_refuses_what_comes_after_it() {
    let late = event(1, 1621, 10, &[], "late");
    let anchor = event(1, 1621, 9, &[], "anchor");
    let deletion = event(1, 5, 12, &[&["e", &late.id.to_hex()], &["e", &anchor.id.to_hex()]], "");
    for across_commits in [false, true] {
        let mut store = Store::in_memory();
        stage(&mut store, &anchor);
        stage(&mut store, &deletion);
        if across_commits {
            commit(&mut store);
        }
        // The id was only named, so nothing is known of it until its event has been verified.
        assert_eq!(store.known(&late.id), Ok(None));
        assert_eq!(store.verdict(&late), Ok(Verdict::Deleted));
    }
}

#[test]
fn nobody_deletes_what_is_not_theirs() {
    let theirs = event(2, 1621, 10, &[], "");
    let repo = event(2, 30_617, 10, &[&["d", "r"]], "");
    let address = format!("30617:{}:r", author(2));
    let deletion = event(1, 5, 12, &[&["e", &theirs.id.to_hex()], &["a", &address]], "");
    for before in [false, true] {
        let mut store = Store::in_memory();
        if before {
            stage(&mut store, &deletion);
        }
        stage(&mut store, &theirs);
        stage(&mut store, &repo);
        if !before {
            assert_eq!(store.deletion_targets(&deletion), Ok(false));
            assert_eq!(stage(&mut store, &deletion).removed, []);
        }
        assert_eq!(commit(&mut store).len(), 3);
    }
}

#[test]
fn a_deletion_is_not_deleted() {
    let mut store = Store::in_memory();
    let first = event(1, 5, 10, &[], "");
    let late = event(1, 5, 11, &[], "");
    stage(&mut store, &first);
    let second = event(1, 5, 12, &[&["e", &first.id.to_hex()], &["e", &late.id.to_hex()]], "");
    assert_eq!(store.deletion_targets(&second), Ok(false));
    assert_eq!(stage(&mut store, &second).removed, []);
    assert_eq!(store.verdict(&late), Ok(Verdict::Fresh));
    stage(&mut store, &late);
    assert_eq!(commit(&mut store), [first.id, second.id, late.id]);
}

#[test]
fn an_address_is_deleted_up_to_the_deletion() {
    for across_commits in [false, true] {
        let mut store = Store::in_memory();
        let version = |at| event(1, 30_617, at, &[&["d", "a:b"]], "");
        let deletion = event(1, 5, 20, &[&["a", &format!("30617:{}:a:b", author(1))]], "");
        stage(&mut store, &version(20));
        if across_commits {
            commit(&mut store);
        }
        assert_eq!(store.deletion_targets(&deletion), Ok(true));
        let removed = stage(&mut store, &deletion).removed;
        assert_eq!((removed.len(), removed[0].identifier.as_deref()), (1, Some("a:b")));
        assert!(!removed[0].superseded);
        if across_commits {
            commit(&mut store);
        }
        assert_eq!(store.known(&version(20).id), deleted(20));
        assert_eq!(store.verdict(&version(19)), Ok(Verdict::Deleted));
        assert_eq!(store.verdict(&version(20)), Ok(Verdict::Deleted));
        // An older deletion that comes later takes nothing back.
        stage(&mut store, &event(1, 5, 15, &[&["a", &format!("30617:{}:a:b", author(1))]], ""));
        assert_eq!(store.verdict(&version(18)), Ok(Verdict::Deleted));
        stage(&mut store, &version(21));
        assert_eq!(store.deletion_targets(&deletion), Ok(false));
        commit(&mut store);
        assert_eq!(store.verdict(&version(20)), Ok(Verdict::Deleted));
        assert_eq!(all(&store, Filter::new().kind(30_617.into())), [version(21).id]);
    }
}

#[test]
fn an_address_deletion_spares_newer_versions_and_malformed_addresses() {
    let mut store = Store::in_memory();
    let repo = event(1, 30_617, 30, &[&["d", "r"]], "");
    let profile = event(1, 0, 10, &[], "");
    let note = event(1, 1, 10, &[&["d", "r"]], "");
    for event in [&repo, &profile, &note] {
        stage(&mut store, event);
    }
    let me = author(1);
    let named = [
        format!("30617:{me}:r"),
        format!("1:{me}:r"),
        format!("0:{me}:r"),
        format!("0:{me}"),
        format!("x:{me}:r"),
        "30617".to_owned(),
        String::new(),
    ];
    let tags: Vec<Vec<&str>> = named.iter().map(|address| vec!["a", address.as_str()]).collect();
    let tags: Vec<&[&str]> = tags.iter().map(Vec::as_slice).collect();
    let deletion = event(1, 5, 20, &tags, "");
    assert_eq!(store.deletion_targets(&deletion), Ok(false));
    assert_eq!(stage(&mut store, &deletion).removed, []);
    let profile_deletion = event(1, 5, 21, &[&["a", &format!("0:{me}:")], &["a"], &["e"], &["e", "short"]], "");
    assert_eq!(store.deletion_targets(&profile_deletion), Ok(true));
    assert_eq!(stage(&mut store, &profile_deletion).removed[0].id, profile.id);
}

#[test]
fn an_older_version_may_come_back_once_the_newer_is_deleted_by_id() {
    let mut store = Store::in_memory();
    let old = event(1, 30_617, 10, &[&["d", "r"]], "");
    let new = event(1, 30_617, 11, &[&["d", "r"]], "");
    stage(&mut store, &old);
    commit(&mut store);
    stage(&mut store, &new);
    stage(&mut store, &event(1, 5, 12, &[&["e", &new.id.to_hex()]], ""));
    assert_eq!(stage(&mut store, &old).removed, []);
    commit(&mut store);
    assert_eq!(all(&store, Filter::new().kind(30_617.into())), [old.id]);
    assert_eq!(store.known(&old.id), Ok(Some(Known::Stored { seq: 4, created_at: UnixTime::from_secs(10) })));
}

#[test]
fn what_is_superseded_or_deleted_in_its_own_batch_is_not_stored() {
    let disk = Disk::default();
    let mut store = open(&disk);
    let old = event(1, 0, 10, &[], "");
    let new = event(1, 0, 11, &[], "");
    let note = event(1, 1, 11, &[&["t", "x"]], "");
    let deletion = event(1, 5, 12, &[&["e", &note.id.to_hex()]], "");
    for event in [&old, &note, &new, &deletion] {
        stage(&mut store, event);
    }
    assert_eq!(store.batch_events(), 2);
    assert_eq!(store.commit().unwrap().iter().map(|stored| stored.seq).collect::<Vec<_>>(), [3, 4]);
    assert_eq!(all(&store, Filter::new()), [deletion.id, new.id]);
    assert_eq!(store.known(&note.id), deleted(11));
}

#[test]
fn a_sequence_number_is_never_used_twice() {
    let disk = Disk::default();
    let mut store = open(&disk);
    let note = event(1, 1, 11, &[], "");
    stage(&mut store, &note);
    stage(&mut store, &event(1, 5, 12, &[&["e", &note.id.to_hex()]], ""));
    stage(&mut store, &event(1, 0, 10, &[], ""));
    commit(&mut store);
    // The last one in goes.
    stage(&mut store, &event(1, 5, 13, &[&["a", &format!("0:{}:", author(1))]], ""));
    commit(&mut store);
    drop(store);
    let mut store = open(&disk);
    assert_eq!(store.last_seq(), 4);
    assert_eq!(stage(&mut store, &event(1, 1, 14, &[], "")).seq, 5);
}

#[test]
fn events_expire() {
    let mut store = Store::in_memory();
    assert_eq!(store.next_expiration(), Ok(None));
    let at = |at: &str, content| event(1, 30_000, 10, &[&["d", content], &["expiration", at]], content);
    let stored = [at("100", "a"), at("101", "b"), at("200", "c")];
    for event in &stored {
        stage(&mut store, event);
    }
    stage(&mut store, &at("soon", "malformed"));
    commit(&mut store);
    let pending = at("99", "d");
    stage(&mut store, &pending);
    let secs = |at| Ok(Some(UnixTime::from_secs(at)));
    assert_eq!(store.next_expiration(), secs(99));
    assert_eq!(store.expire(UnixTime::from_secs(98), 10), Ok(vec![]));

    let ids = |removed: Result<Vec<Removed>, StoreError>| -> Vec<EventId> {
        removed.unwrap().iter().map(|removed| removed.id).collect()
    };
    assert_eq!(ids(store.expire(UnixTime::from_secs(150), 2)), [pending.id, stored[0].id]);
    assert_eq!(store.next_expiration(), secs(101));
    assert_eq!(store.known(&stored[0].id), Ok(None));
    assert_eq!(ids(store.expire(UnixTime::from_secs(150), 2)), [stored[1].id]);
    assert_eq!(store.next_expiration(), secs(200));
    assert_eq!(commit(&mut store), []);
    assert_eq!(store.next_expiration(), secs(200));
    assert_eq!(all(&store, Filter::new()).len(), 2);

    let mut query = Query::new(crate::protocol::filter::Filter::default(), store.last_seq(), 10);
    let mut given = 0;
    let mut count = |_: Seq, _: &str| {
        given += 1;
        ControlFlow::Continue(())
    };
    assert_eq!(store.query(&mut query, UnixTime::from_secs(200), 10, &mut count), Ok(QueryStep::Done));
    assert_eq!(given, 1, "what has expired is not shown even before it is removed");
}

#[test]
fn an_expired_event_may_be_stored_again_by_the_rules_of_the_store() {
    let mut store = Store::in_memory();
    let note = event(1, 1, 10, &[&["expiration", "20"]], "");
    stage(&mut store, &note);
    commit(&mut store);
    store.expire(UnixTime::from_secs(20), 1).unwrap();
    stage(&mut store, &note);
    assert_eq!(commit(&mut store), [note.id]);
    assert_eq!(all(&store, Filter::new()), [note.id]);
    assert_eq!(store.event_json(1), Ok(None));
}

#[test]
fn progress_is_durable_with_its_events() {
    let disk = Disk::default();
    let mut store = open(&disk);
    let relay = |host: &str| RelayUrl::parse(&format!("wss://{host}.example")).unwrap();
    let repo = |d: &str| RepoAddr { author: author(1), identifier: d.to_owned() };
    let confirmed = |host, d, seq| Progress::Confirmed { relay: relay(host), repo: repo(d), seq };
    let record = |host, through, full| Progress::Relay {
        relay: relay(host),
        through: UnixTime::from_secs(through),
        full_catchup: UnixTime::from_secs(full),
    };
    for progress in [
        confirmed("b", "x:y", 1),
        confirmed("a", "x", 1),
        confirmed("a", "y", 1),
        confirmed("ab", "x", 1),
        record("a", 10, 0),
        record("b", 11, 5),
        confirmed("a", "x", 2),
    ] {
        store.stage_progress(progress);
    }
    assert!(!store.batch_is_empty() && store.batch_bytes() > 0);
    assert_eq!(store.progress(), Ok(vec![]));
    commit(&mut store);
    drop(store);

    let mut store = open(&disk);
    let before = [record("a", 10, 0), record("b", 11, 5)];
    assert_eq!(store.progress().unwrap()[..2], before);
    let repos = [confirmed("a", "x", 2), confirmed("a", "y", 1), confirmed("ab", "x", 1), confirmed("b", "x:y", 1)];
    assert_eq!(store.progress().unwrap()[2..], repos);

    store.stage_progress(Progress::ForgetRepo { relay: relay("b"), repo: repo("x:y") });
    store.stage_progress(confirmed("a", "z", 7));
    store.stage_progress(Progress::ForgetRelay { relay: relay("a") });
    store.stage_progress(confirmed("a", "y", 9));
    commit(&mut store);
    assert_eq!(store.progress(), Ok(vec![record("b", 11, 5), confirmed("a", "y", 9), confirmed("ab", "x", 1)]));
}

#[test]
fn kinds_and_authors_are_walked_whole() {
    let mut store = Store::in_memory();
    let roots: Vec<Event> =
        (0..20).map(|n| event(n % 3, 1617 + u16::from(n % 2), 100 - u64::from(n), &[], "")).collect();
    for root in &roots {
        stage(&mut store, root);
    }
    stage(&mut store, &event(0xff, 1, 1, &[], ""));
    commit(&mut store);
    let mut seen = Vec::new();
    let walk = store.for_each_of_kinds(&[1618, 1617, 9], &mut |seq, kind, json| {
        seen.push((seq, kind, Event::from_json(json).unwrap().id));
        true
    });
    assert_eq!(walk, Ok(()));
    let expected = roots.iter().enumerate().map(|(n, root)| (n as u64 + 1, root.kind.as_u16(), root.id));
    assert_eq!(seen, expected.collect::<Vec<_>>());
    let mut authors = Vec::new();
    store.authors_after(None, usize::MAX, &mut |author| authors.push(author)).unwrap();
    assert_eq!(authors, [author(0), author(1), author(2), author(0xff)]);
}

#[test]
fn a_reopened_store_is_the_same() {
    let disk = Disk::default();
    let mut store = open(&disk);
    stage(&mut store, &event(1, 1, 10, &[&["expiration", "77"]], "a"));
    stage(&mut store, &event(2, 30_617, 10, &[&["d", "x"]], "b"));
    commit(&mut store);
    let committed = content(&store);
    stage(&mut store, &event(3, 1, 11, &[], "never committed"));
    // As after kill -9: what was written is there, and nobody said goodbye.
    let crashed = Disk::holding(disk.bytes());
    drop(store);
    assert_eq!(content(&open(&disk)), committed);
    assert_eq!(content(&open(&crashed)), committed);
}

#[test]
fn a_failed_commit_acknowledges_nothing_and_ends_writing() {
    for n in 0.. {
        let disk = Disk::default();
        let mut store = open(&disk);
        let first = event(1, 30_617, 10, &[&["d", "x"]], "");
        stage(&mut store, &first);
        commit(&mut store);
        let committed = content(&store);
        stage(&mut store, &event(1, 30_617, 11, &[&["d", "x"]], ""));
        store.stage_progress(Progress::Confirmed {
            relay: RelayUrl::parse("wss://a.example").unwrap(),
            repo: RepoAddr { author: author(1), identifier: "x".to_owned() },
            seq: 2,
        });
        disk.fail_after(n, ErrorKind::StorageFull);
        let Err(error) = store.commit() else {
            assert!(n > 3, "a commit writes more than {n} times");
            return;
        };
        assert_eq!(error, StoreError::Full, "failure {n}");
        assert_eq!(store.commit(), Err(StoreError::Full));
        assert_eq!(store.stage(event(1, 1, 12, &[], "")), Err(StoreError::Full));
        assert_eq!(store.expire(UnixTime::from_secs(0), 1), Err(StoreError::Full));
        let left = Disk::holding(disk.bytes());
        drop(store);
        let after = content(&open(&left));
        // The commit may have reached the disk although its success could not be told; half of it may not.
        if after != committed {
            assert!(after.starts_with("last_seq 2\n2 ") && after.contains("Confirmed"), "failure {n}: {after}");
        }
    }
}

#[test]
fn what_the_indexes_lack_is_found_again_and_written_in_the_end() {
    let disk = Disk::default();
    let kinds = |store: &Store| all(store, Filter::new().kind(1.into()));
    // The first event that each part lacks: ids, times, kinds, authors, tags.
    let firsts = |store: &Store| {
        let memtable = &store.snapshot.as_ref().unwrap().memtable;
        let Memtable { ids, by_time, by_kind, by_author, by_tag, .. } = memtable;
        [ids.first, by_time.first, by_kind.first, by_author.first, by_tag.first]
    };
    let events: Vec<Event> = (0..10).map(|n| event(1, 1, 100 - n, &[&["t", "x"], &["p", "y"]], "")).collect();
    let ids = |range: std::ops::Range<usize>| events[range].iter().map(|e| e.id).collect::<Vec<_>>();
    // Room for 6 entries each of three of them.
    let mut store = open(&disk).with_memtable_max(24);
    for event in &events[..3] {
        stage(&mut store, event);
        commit(&mut store);
    }
    assert_eq!((kinds(&store), firsts(&store)), (ids(0..3), [1; 5]));
    drop(store);
    let mut store = open(&disk).with_memtable_max(24);
    assert_eq!((kinds(&store), firsts(&store)), (ids(0..3), [1; 5]), "a crash has lost nothing");
    stage(&mut store, &events[3]);
    commit(&mut store);
    assert_eq!((kinds(&store), firsts(&store)), (ids(0..4), [1, 1, 1, 1, 4]), "what most waits for is written");
    stage(&mut store, &events[4]);
    commit(&mut store);
    assert_eq!((kinds(&store), firsts(&store)), (ids(0..5), [5, 1, 1, 1, 4]), "the others wait on");
    drop(store);
    let mut store = open(&disk).with_memtable_max(24);
    assert_eq!((kinds(&store), firsts(&store)), (ids(0..5), [5, 1, 1, 1, 4]), "each lacks its own after a crash");
    store.assert_invariants().unwrap();
    events[5..].iter().for_each(|event| _ = stage(&mut store, event));
    commit(&mut store);
    assert_eq!((kinds(&store), firsts(&store)), (ids(0..10), [6; 5]), "a large commit finds nothing waiting");
    store.close().unwrap();
    let store = open(&disk);
    assert_eq!(firsts(&store), [11; 5], "a closed store lacks nothing");
    assert_eq!(kinds(&store), ids(0..10));
    store.assert_invariants().unwrap();
}

#[test]
fn an_id_that_was_looked_for_in_vain_is_found_once_it_is_there() {
    let stored = event(1, 1, 10, &[], "stored");
    let deleted_at_once = event(1, 1, 11, &[], "deleted before its commit");
    let deletion = event(1, 5, 12, &[&["e", &deleted_at_once.id.to_hex()]], "");
    // Room for what the first commit leaves, or none: its ids are written by the second.
    for room in [1_000, 0] {
        let mut store = Store::in_memory().with_memtable_max(room);
        for event in [&stored, &deleted_at_once] {
            assert_eq!((store.known(&event.id), store.known(&event.id)), (Ok(None), Ok(None)));
        }
        for event in [&stored, &deleted_at_once, &deletion] {
            stage(&mut store, event);
        }
        commit(&mut store);
        let created_at = UnixTime::from_secs(10);
        let known = Ok(Some(Known::Stored { seq: 1, created_at }));
        assert_eq!((store.known(&stored.id), store.known(&deleted_at_once.id)), (known, deleted(11)), "{room}");
        stage(&mut store, &event(1, 1, 13, &[], "one more commit"));
        commit(&mut store);
        assert_eq!((store.known(&stored.id), store.known(&deleted_at_once.id)), (known, deleted(11)), "{room}");
    }
}

#[test]
fn other_files_are_refused_and_left_alone() {
    let garbage = Disk::holding(vec![b'x'; 10_000]);
    assert_eq!(Store::open(garbage.clone(), CACHE).unwrap_err(), StoreError::NotAStore);
    assert_eq!(garbage.bytes(), vec![b'x'; 10_000]);
    let text = Disk::holding(b"hello\n".to_vec());
    assert_eq!(Store::open(text.clone(), CACHE).unwrap_err(), StoreError::NotAStore);
    assert_eq!(text.bytes(), b"hello\n");
    // All that a creation leaves before its end, and one byte that it does not.
    let mut strange = vec![0; 100_000];
    strange[50_000] = b'x';
    let strange = Disk::holding(strange);
    assert_eq!(Store::open(strange.clone(), CACHE).unwrap_err(), StoreError::NotAStore);
    assert_eq!(strange.bytes()[50_000], b'x');
    drop(open(&Disk::holding(vec![0; 100_000])));

    let foreign = Disk::default();
    let db = Database::builder().create_with_backend(foreign.clone()).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(schema::EVENTS).unwrap();
    txn.commit().unwrap();
    drop(db);
    assert_eq!(Store::open(foreign.clone(), CACHE).unwrap_err(), StoreError::NotAStore);
}

#[test]
fn a_newer_schema_is_refused() {
    let disk = Disk::default();
    drop(open(&disk));
    let db = Database::builder().create_with_backend(disk.clone()).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(schema::META).unwrap().insert("schema", schema::VERSION + 1).unwrap();
    txn.commit().unwrap();
    drop(db);
    assert_eq!(Store::open(disk, CACHE).unwrap_err(), StoreError::TooNew { version: schema::VERSION + 1 });
}

#[test]
fn a_store_of_the_first_schema_is_brought_up_to_date_with_all_it_holds() {
    let disk = Disk::default();
    let mut store = open(&disk);
    let event = event(1, 1, 7, &[], "kept");
    stage(&mut store, &event);
    commit(&mut store);
    store.close().unwrap();
    let db = Database::builder().create_with_backend(disk.clone()).unwrap();
    let txn = db.begin_write().unwrap();
    txn.delete_table(schema::BUDGETS).unwrap();
    for part in ["", "_time", "_kind", "_author", "_tag"] {
        txn.open_table(schema::META).unwrap().remove(&*format!("unindexed{part}")).unwrap().unwrap();
    }
    flatten(&txn, "by_time", schema::BY_TIME);
    flatten(&txn, "by_kind", schema::BY_KIND);
    flatten(&txn, "by_author", schema::BY_AUTHOR);
    flatten(&txn, "by_tag", schema::BY_TAG);
    txn.open_table(schema::META).unwrap().insert("schema", 1).unwrap();
    txn.commit().unwrap();
    drop(db);
    let mut store = open(&disk);
    store.assert_invariants().unwrap();
    assert!(matches!(store.known(&event.id).unwrap(), Some(Known::Stored { .. })));
    let record = Progress::Budget { relay: RelayUrl::parse("wss://a.example").unwrap(), record: "{}".to_owned() };
    store.stage_progress(record.clone());
    commit(&mut store);
    drop(store);
    assert_eq!(open(&disk).progress().unwrap(), [record]);
}

#[test]
fn of_a_store_in_which_nothing_was_charged_what_comes_later_is() {
    let disk = Disk::default();
    let mut store = open(&disk);
    let (old, new) = (event(1, 1, 7, &[], "old"), event(1, 1, 8, &[], "new"));
    stage(&mut store, &old);
    commit(&mut store);
    store.close().unwrap();
    let db = Database::builder().create_with_backend(disk.clone()).unwrap();
    let txn = db.begin_write().unwrap();
    txn.delete_table(schema::CHARGES).unwrap();
    txn.delete_table(schema::ACCOUNTS).unwrap();
    txn.open_table(schema::META).unwrap().insert("schema", 4).unwrap();
    txn.commit().unwrap();
    drop(db);
    let mut store = open(&disk);
    let holder = Holder::author(&author(1));
    assert_eq!(store.usage(&holder).unwrap().events, 0);
    let staged = store.stage(new).unwrap();
    store.charge(staged.seq, &[holder]).unwrap();
    commit(&mut store);
    stage(&mut store, &event(1, 5, 9, &[&["e", &old.id.to_hex()]], ""));
    commit(&mut store);
    assert_eq!(store.usage(&holder).unwrap().events, 1, "what was free gives nothing back");
    store.assert_invariants().unwrap();
}

#[test]
fn indexes_of_single_entries_are_brought_into_blocks() {
    let disk = Disk::default();
    let mut store = open(&disk);
    for n in 0..500 {
        stage(&mut store, &event(n as u8, 1, n, &[&["t", "x"], &["p", &n.to_string()]], ""));
    }
    commit(&mut store);
    store.close().unwrap();
    // As version 3 has it, where 20 events were left out of the indexes.
    let mut store = open(&disk);
    for n in 500..520 {
        stage(&mut store, &event(n as u8, 1, n, &[&["t", "x"]], ""));
    }
    commit(&mut store);
    drop(store);
    let db = Database::builder().create_with_backend(disk.clone()).unwrap();
    let txn = db.begin_write().unwrap();
    flatten(&txn, "by_time", schema::BY_TIME);
    flatten(&txn, "by_kind", schema::BY_KIND);
    flatten(&txn, "by_author", schema::BY_AUTHOR);
    flatten(&txn, "by_tag", schema::BY_TAG);
    let mut meta = txn.open_table(schema::META).unwrap();
    for part in ["time", "kind", "author", "tag"] {
        assert_eq!(meta.remove(&*format!("unindexed_{part}")).unwrap().unwrap().value(), 501);
    }
    meta.insert("schema", 3).unwrap();
    drop(meta);
    txn.commit().unwrap();
    drop(db);
    let store = open(&disk);
    store.assert_invariants().unwrap();
    assert_eq!(all(&store, Filter::new().hashtag("x")).len(), 520);
    assert_eq!(store.snapshot.as_ref().unwrap().memtable.by_tag.entries.len(), 20);
}

fn flatten<const N: usize>(txn: &redb::WriteTransaction, name: &str, index: schema::IndexTable<N>) {
    let flat: redb::TableDefinition<'_, &[u8; N], u16> = redb::TableDefinition::new(name);
    let mut flat = txn.open_table(flat).unwrap();
    for (key, kind) in blocks::checked(&txn.open_table(index).unwrap()).unwrap() {
        flat.insert(&key, kind).unwrap();
    }
    txn.delete_table(index).unwrap();
}

#[test]
fn a_truncated_store_is_refused() {
    let disk = Disk::default();
    let mut store = open(&disk);
    for n in 0..2_000 {
        stage(&mut store, &event(1, 1, n, &[], "some content"));
    }
    commit(&mut store);
    drop(store);
    let mut bytes = disk.bytes();
    bytes.truncate(bytes.len() / 2);
    assert_eq!(Store::open(Disk::holding(bytes), CACHE).unwrap_err(), StoreError::Corrupt);
}

#[test]
fn two_stores_cannot_share_a_file() {
    let path = std::env::temp_dir().join(format!("grasp-sync-store-{}", std::process::id()));
    let file = || {
        let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        redb::backends::FileBackend::new(file).unwrap()
    };
    let store = Store::open(file(), CACHE).unwrap();
    assert_eq!(Store::open(file(), CACHE).unwrap_err(), StoreError::Locked);
    drop(store);
    drop(Store::open(file(), CACHE).unwrap());
    std::fs::remove_file(&path).unwrap();
}

fn random_event(random: &mut Random, seen: &[Event]) -> Event {
    let who = random.below(3) as u8;
    let at = random.below(20);
    let d = ["", "a", "b:c"][random.below(3) as usize];
    let content = random.below(3).to_string();
    if random.chance(4) {
        let mut tags: Vec<[String; 2]> = Vec::new();
        for _ in 0..random.below(4) {
            tags.push(if random.chance(3) || seen.is_empty() {
                let kind = [0, 30_617, 30_618][random.below(3) as usize];
                let d = if kind == 0 { "" } else { d };
                ["a".to_owned(), format!("{kind}:{}:{d}", author(random.below(3) as u8))]
            } else {
                ["e".to_owned(), seen[random.below(seen.len() as u64) as usize].id.to_hex()]
            });
        }
        let tags: Vec<[&str; 2]> = tags.iter().map(|[name, value]| [name.as_str(), value.as_str()]).collect();
        let tags: Vec<&[&str]> = tags.iter().map(|tag| &tag[..]).collect();
        return event(who, 5, at, &tags, &content);
    }
    let kind = [0, 1, 1621, 30_617, 30_618][random.below(5) as usize];
    event(who, kind, at, &[&["d", d]], &content)
}

#[test]
fn the_rules_agree_with_a_naive_model() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let disk = Disk::default();
        // Entries of no event, of some, of more than there are.
        let memtable_max = [0, 100, 10_000][seed as usize % 3];
        let mut store = open(&disk).with_memtable_max(memtable_max);
        let mut model = Model::default();
        let mut seen: Vec<Event> = Vec::new();
        for _ in 0..300 {
            // Again something that was made before, or something that a deletion may already have named.
            let event = if !seen.is_empty() && random.chance(3) {
                seen[random.below(seen.len() as u64) as usize].clone()
            } else {
                random_event(&mut random, &seen)
            };
            seen.push(event.clone());
            let verdict = model.verdict(&event);
            assert_eq!(store.verdict(&event), Ok(verdict), "seed {seed}: {event:?}");
            let targets = event.kind.as_u16() == 5 && model.held.iter().any(|held| Model::is_target(&event, held));
            assert_eq!(store.deletion_targets(&event), Ok(targets), "seed {seed}");
            if verdict == Verdict::Fresh {
                let removed: Vec<_> =
                    store.stage(event.clone()).unwrap().removed.iter().map(|r| (r.id, r.superseded)).collect();
                let expected = model.stage(&event);
                assert_eq!(removed.len(), expected.len(), "seed {seed}: each removal is reported once");
                assert_eq!(removed.into_iter().collect::<BTreeSet<_>>(), expected, "seed {seed}");
            }
            if random.chance(10) {
                commit(&mut store);
                let mut held: Vec<Event> = model.held.clone();
                held.sort();
                let held: Vec<EventId> = held.iter().map(|event| event.id).collect();
                assert_eq!(all(&store, Filter::new()), held, "seed {seed}");
                for (id, created_at) in &model.deleted {
                    assert_eq!(store.known(id), deleted(*created_at), "seed {seed}");
                }
                store.assert_invariants().unwrap();
            }
            if random.chance(60) {
                commit(&mut store);
                match random.chance(2) {
                    true => drop(store),
                    false => store.close().unwrap(),
                }
                store = open(&disk).with_memtable_max(memtable_max);
                store.assert_invariants().unwrap();
            }
        }
    }
}

#[test]
fn a_step_looks_at_fewer_events_if_they_are_large() {
    let mut store = Store::in_memory();
    for n in 0..50 {
        let content = "x".repeat(if n < 25 { 10 * QUERY_CANDIDATE_BYTES } else { 0 });
        store.stage(event(1, 1, n, &[&["t", "y"]], &content)).unwrap();
    }
    store.commit().unwrap();
    let mut looked_at = Vec::new();
    let filter = Filter::new().author(author(1)).kind(nostr::event::Kind::from_u16(1));
    let mut query = Query::new(crate::protocol::filter::Filter::from(filter), store.last_seq(), 1_000);
    loop {
        let mut given = 0;
        let mut take = |_, _: &str| {
            given += 1;
            ControlFlow::Continue(())
        };
        let step = store.query(&mut query, UnixTime::EPOCH, 30, &mut take).unwrap();
        looked_at.push(given);
        if step == QueryStep::Done {
            break;
        }
    }
    assert_eq!(looked_at[0], 26, "the last of them is large");
    assert!(looked_at[1..].iter().all(|given| *given <= 3), "{looked_at:?}");
    assert_eq!(looked_at.iter().sum::<usize>(), 50);
}
