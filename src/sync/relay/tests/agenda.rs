//! Why a relay is asked something, and what comes next: told while it runs.

use super::*;
use crate::sync::agenda::Class;
use crate::sync::session::{Wait, WaitWhy};
use crate::time::Duration;

/// The names under which the REQs among some texts are asked.
fn letters(texts: &[String]) -> String {
    let name = |text: &&String| text.split('"').nth(3).and_then(|name| name.chars().next());
    reqs(texts).iter().filter_map(name).collect()
}

#[test]
fn names_begin_with_what_a_question_is_for() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    let catchup = letters(&rig.answer_all());
    assert!(catchup.starts_with('l'), "{catchup}");
    for letter in ['a', 'b'] {
        assert!(catchup.contains(letter), "{letter} in {catchup}");
    }
    assert_eq!(rig.state(), StateName::Live);
}

#[test]
fn what_comes_next_is_told_with_the_reason() {
    let mut rig = Rig::new(with_repo);
    rig.relay.budget_mut().learned.subscriptions = Some(2);
    rig.open();
    let session = rig.relay.session().unwrap();
    assert_eq!(session.wait().why, WaitWhy::Answers);
    let lines = session.explain();
    let backfill: Vec<_> = lines.iter().filter(|line| line.class == Class::Backfill).collect();
    assert!(backfill[0].about.ends_with(" of 1 repos"), "{backfill:?}");
    assert!(backfill.iter().all(|line| line.why == "full catch-up" && line.due.is_none()));
    rig.answer_all();
    let session = rig.relay.session().unwrap();
    let Wait { why, until } = session.wait();
    assert_eq!(why, WaitWhy::Due);
    let due: Vec<_> = session.explain().into_iter().filter_map(|line| line.due).collect();
    assert_eq!(due.iter().min().copied(), until, "the first that is due is waited for");
    rig.relay.on_notice("rate limited", &mut rig.bench.cx());
    let until = Some(rig.bench.now.mono + Duration::from_secs(65));
    assert_eq!(rig.relay.session().unwrap().wait(), Wait { why: WaitWhy::Cooldown, until });
}

#[test]
fn of_a_long_agenda_the_first_lines_are_told() {
    let mut rig = Rig::new(|bench| {
        for n in 0..3_000 {
            bench.state.set_announcement(&announcement(1, &format!("repo-{n}"), &["one"]), n + 1);
        }
        RelayProgress::default()
    });
    rig.open();
    assert_eq!(rig.relay.session().unwrap().explain().len(), crate::limits::EXPLAIN_LINES_MAX);
}
