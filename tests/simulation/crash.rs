//! What a failing disk does to the process, and what is there when it is sound again.

use crate::clock::{MINUTE, SECOND};
use crate::disk::{DiskFaults, Fails, Lost};
use crate::scenario;
use crate::setup::{OLD, quiet, village};
use grasp_sync::store::StoreError;

#[test]
fn a_read_error_ends_the_process_and_loses_nothing() {
    scenario("a_read_error_ends_the_process_and_loses_nothing", |w| {
        let v = village(w, 60);
        let issues = v.issues(300, OLD + 60);
        w.hold_all("far", &issues);
        w.start();
        quiet(w);
        w.stop();
        let at = w.clock.wall();
        let more: Vec<_> = (0..300).map(|n| v.owner.issue(&v.repo, at - n, &format!("more {n}"))).collect();
        w.hold_all("far", &more);
        let mut ended = 0;
        // The first reads are those of the start, the later those of a sync that goes on.
        for good in (0..20).chain((20..200).step_by(20)) {
            w.disk_faults(DiskFaults { read: Fails::Once(good), ..DiskFaults::default() });
            w.start();
            w.run_for(20 * SECOND);
            ended += usize::from(!w.is_running());
            w.disk_faults(DiskFaults::default());
            w.kill_with(Lost::Torn(good));
            assert_eq!(w.missing(&issues), 0);
        }
        assert!(ended > 10, "{ended}");
        assert!(w.endings.iter().all(|(_, error)| matches!(error, StoreError::Io { .. })), "{:?}", w.endings);
        w.start();
        quiet(w);
        assert_eq!(w.missing(&issues) + w.missing(&more), 0);
    });
}

#[test]
fn a_disk_whose_changes_fail_at_any_time_keeps_what_it_acknowledged() {
    scenario("a_disk_whose_changes_fail_at_any_time_keeps_what_it_acknowledged", |w| {
        let v = village(w, 20);
        let mut issues = Vec::new();
        for life in 0..40 {
            let change = Fails::From(w.rng.below(60));
            let seed = w.rng.next_u64();
            w.disk_faults(DiskFaults { change, seed, ..DiskFaults::default() });
            w.start();
            let issue = v.owner.issue(&v.repo, w.clock.wall(), &life.to_string());
            w.hold("far", &issue);
            issues.push(issue);
            w.run_until("the process ends", 30 * MINUTE, |w| !w.is_running());
            // With the sync that failed the machine may also have forgotten what it was to write.
            let seed = w.rng.next_u64();
            w.kill_with([Lost::Nothing, Lost::All, Lost::Some(seed), Lost::Torn(seed)][life as usize % 4]);
            w.disk_faults(DiskFaults::default());
        }
        w.start();
        quiet(w);
        assert_eq!(w.missing(&issues), 0);
    });
}
