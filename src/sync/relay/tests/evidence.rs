//! What a relay's pages show, and what follows from it.

use super::*;
use crate::limits::{LATE_PROBE, LATE_PROBE_EVENTS};
use crate::sync::gap::{Gap, GapReason, Span};
use crate::sync::paging::Punctuality;

/// The name of the page among some texts that asks what tags repos with `a`.
fn page_of_repos(texts: &[String]) -> Option<String> {
    let is_it = |text: &&String| text.starts_with("[\"REQ\"") && text.contains("{\"#a\"");
    // The first one is live.
    let page = texts.iter().filter(is_it).find(|text| !text.contains("\"l0\""))?;
    Some(page.split('"').nth(3)?.to_owned())
}

impl Rig {
    /// So many events of one second come for a page.
    fn fill(&mut self, page: &str, events: u32) {
        for n in 0..events {
            let event = arrival(root_id(n), Some(UnixTime::from_secs(9)), Fate::Known);
            self.relay.on_event(page, &event, &mut self.bench.cx());
        }
    }

    fn on_eose(&mut self, page: &str) {
        self.relay.on_eose(page, &mut self.bench.cx());
    }

    fn confirmed(&self) -> usize {
        self.relay.progress().confirmed_repos().count()
    }
}

#[test]
fn a_page_is_held_open_after_its_eose_until_one_has_shown_that_the_relay_is_punctual() {
    let mut rig = Rig::new(with_repo);
    rig.relay.budget_mut().paging = Paging::default();
    rig.open();
    let page = page_of_repos(&rig.bench.sent()).unwrap();
    let closes = |rig: &mut Rig, page: &str| rig.bench.sent().contains(&format!("[\"CLOSE\",\"{page}\"]"));
    rig.fill(&page, 1);
    rig.on_eose(&page);
    assert!(!closes(&mut rig, &page), "more may come");
    rig.bench.advance(LATE_PROBE.as_secs());
    rig.tick();
    let texts = rig.bench.sent();
    assert!(texts.contains(&format!("[\"CLOSE\",\"{page}\"]")), "{texts:#?}");
    let punctuality = |rig: &Rig| rig.relay.budget().paging.punctuality();
    assert_eq!(punctuality(&rig), Punctuality::Unknown, "of one event nothing may be missing");
    let page = page_of_repos(&texts).expect("the page that follows");
    rig.fill(&page, LATE_PROBE_EVENTS as u32);
    rig.on_eose(&page);
    assert!(!closes(&mut rig, &page), "more may come");
    rig.bench.advance(LATE_PROBE.as_secs());
    rig.tick();
    assert_eq!(punctuality(&rig), Punctuality::Punctual);
    let page = page_of_repos(&rig.bench.sent()).expect("the page that follows");
    rig.fill(&page, LATE_PROBE_EVENTS as u32 + 1);
    rig.on_eose(&page);
    assert!(closes(&mut rig, &page), "from now on EOSE is believed");
}

#[test]
fn what_comes_after_close_refutes_what_was_confirmed() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    let page = page_of_repos(&rig.answer_all()).unwrap();
    assert!(rig.relay.has_just_closed(&page));
    assert_eq!((rig.state(), rig.confirmed()), (StateName::Live, 1));
    rig.relay.take_unsaved();
    let now = rig.bench.now.wall;
    rig.relay.on_stray(Some(now), &mut rig.bench.cx());
    assert_eq!(rig.state(), StateName::Live, "news may cross with CLOSE");
    rig.relay.on_stray(Some(UnixTime::from_secs(9)), &mut rig.bench.cx());
    assert_eq!((rig.relay.last_lost(), rig.confirmed()), (Some((Why::Relearned, now)), 0));
    let unsaved = rig.relay.take_unsaved();
    assert!(unsaved.iter().any(|progress| matches!(progress, Progress::ForgetRepo { .. })), "{unsaved:?}");
    assert_eq!(rig.relay.progress().full_catchup(), UnixTime::EPOCH, "everything is asked for again");
}

#[test]
fn a_repo_of_which_something_cannot_be_had_is_not_confirmed() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    for _ in 0..2 {
        let texts = rig.bench.sent();
        rig.fill(&page_of_repos(&texts).expect("the page, and the same second once more"), 60);
        reqs(&texts).iter().for_each(|text| rig.on_eose(text.split('"').nth(3).unwrap()));
    }
    rig.answer_all();
    assert_eq!((rig.state(), rig.confirmed()), (StateName::Live, 0));
    assert_eq!(rig.relay.budget().gaps.iter().count(), 1);
}

#[test]
fn an_event_that_cannot_be_read_takes_its_place_on_a_page() {
    let mut rig = Rig::new(with_repo);
    rig.open();
    let page = page_of_repos(&rig.bench.sent()).unwrap();
    (0..60).for_each(|_| rig.relay.on_unreadable(Some(&page), &mut rig.bench.cx()));
    rig.on_eose(&page);
    assert!(page_of_repos(&rig.bench.sent()).is_some(), "what they hide is asked for");
}

/// A set that is compared would list what ends the link, to be fetched by its id.
#[test]
fn a_relay_with_a_place_that_ends_links_is_paged() {
    for known in [false, true] {
        let mut rig = Rig::new(with_repo);
        rig.list_nips(Some(vec![1, 77]));
        if known {
            let span = Span::of_second(UnixTime::from_secs(9));
            let (what, found_at) = (r#"{"kinds":[5]}"#.to_owned(), rig.bench.now.wall);
            rig.relay.budget_mut().gaps.add(Gap { span, what, reason: GapReason::TooLarge, found_at });
        }
        rig.open();
        assert_eq!(rig.relay.wanted_set().is_none(), known);
    }
}
