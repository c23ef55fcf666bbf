//! Full catch-ups by reconciliation, against the server's side of the protocol and against every kind of refusal.

use std::collections::{BTreeMap, VecDeque};

use negentropy::{Id, Negentropy, NegentropyStorageVector};
use serde_json::Value;

use super::*;
use crate::limits::FETCH_IDS_MAX;
use crate::sync::agenda::pass::ThreadPart;
use crate::sync::filters::Subject;
use crate::sync::session::{Classified, Found, WantedSet};
use crate::time::Duration;

const DAY: u64 = 86_400;

/// What a relay does with NEG-OPEN.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Manners {
    Reconciles,
    Errs(&'static str),
    ErrsWithMax(&'static str, u64),
    Notices(&'static str),
    Closes(&'static str),
    Nothing,
    Nonsense,
}

/// A relay that holds events of layer 1 and no others, and what we hold of them.
struct Peer {
    manners: Manners,
    theirs: BTreeSet<u32>,
    /// These tag our repo, with every letter.
    tagging: std::ops::Range<u32>,
    ours: BTreeSet<EventId>,
    /// It lists these and does not serve them.
    ghosts: BTreeSet<u32>,
    /// It ends REQs for ids with CLOSED and this.
    closes_ids: Option<&'static str>,
    at_once: usize,
    open: BTreeMap<String, Negentropy<'static, NegentropyStorageVector>>,
    log: Vec<String>,
}

const LAYER_1: &str = r#"{"kinds":[30617,30618]}"#;

fn time_of(id: &EventId) -> UnixTime {
    let n = u32::from_be_bytes(id.as_bytes()[..4].try_into().unwrap());
    UnixTime::from_secs(1_600_000_000 + u64::from(n) / 2)
}

impl Peer {
    fn of(theirs: std::ops::Range<u32>, ours: std::ops::Range<u32>) -> Peer {
        Peer {
            manners: Manners::Reconciles,
            theirs: theirs.collect(),
            tagging: 0..0,
            ours: ours.map(root_id).collect(),
            ghosts: BTreeSet::new(),
            closes_ids: None,
            at_once: 100,
            open: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    fn asked(&self, what: &str) -> usize {
        self.log.iter().filter(|text| text.starts_with(&format!("[\"{what}\""))).count()
    }

    /// Pages of the whole of layer 1.
    fn pages(&self) -> usize {
        let is_page =
            |text: &&String| text.starts_with("[\"REQ\"") && text.contains("{\"kinds\":[30617,30618],\"limit\":");
        self.log.iter().filter(is_page).count()
    }
}

/// A machine that knows nothing of its relay.
fn rig() -> Rig {
    let mut rig = Rig::new(with_repo);
    rig.list_nips(None);
    rig
}

impl Rig {
    fn tell(&mut self, act: impl FnOnce(&mut Relay, &mut Cx<'_>)) {
        act(&mut self.relay, &mut self.bench.cx());
    }

    /// Tells the machine what it wants to know.
    fn supply(&mut self, peer: &Peer) -> bool {
        if self.relay.wanted_thread(&self.bench.cx()).is_some() {
            self.tell(|relay, cx| relay.add_thread(ThreadPart::Last(Vec::new()), cx));
        } else if self.relay.wants_authors() {
            self.tell(|relay, cx| relay.add_authors(&[], cx));
        } else if let Some(Found { of, mut ids, .. }) = self.relay.take_found(self.bench.now.mono) {
            ids.retain(|id| !peer.ours.contains(id));
            self.tell(|relay, cx| relay.add_needed(of, Classified { needed: ids, elsewhere: Vec::new() }, cx));
        } else if let Some(WantedSet { subject, .. }) = self.relay.wanted_set() {
            let layer_1 = *subject == Subject::Announcements;
            let held = if layer_1 { peer.ours.iter().map(|id| (time_of(id), *id)).collect() } else { vec![] };
            self.tell(|relay, cx| relay.add_set(Some(held), cx));
        } else {
            return false;
        }
        true
    }

    /// Lets both talk until neither has anything to say.
    fn talk(&mut self, peer: &mut Peer) {
        let mut waiting = VecDeque::new();
        loop {
            while self.supply(peer) {}
            waiting.extend(self.bench.sent());
            let Some(text) = waiting.pop_front() else { return };
            let message: Value = serde_json::from_str(&text).unwrap();
            peer.log.push(text);
            assert!(peer.log.len() < 10_000, "must end");
            self.answer(peer, &message);
        }
    }

    fn answer(&mut self, peer: &mut Peer, message: &Value) {
        let name = message[1].as_str().unwrap_or_default();
        match message[0].as_str().unwrap() {
            "REQ" => self.answer_req(peer, name, &message[2]),
            "NEG-OPEN" => {
                if peer.open.len() >= peer.at_once {
                    return self.tell(|relay, cx| relay.on_notice("ERROR: too many concurrent NEG requests", cx));
                }
                match peer.manners {
                    Manners::Reconciles => {
                        let mut set = NegentropyStorageVector::new();
                        let filter = message[2].to_string();
                        let listed: Vec<u32> = match &filter {
                            filter if filter == LAYER_1 => peer.theirs.iter().copied().collect(),
                            filter if filter.starts_with("{\"#") && !filter.contains("#d") => {
                                peer.tagging.clone().collect()
                            }
                            _ => Vec::new(),
                        };
                        for id in listed.into_iter().map(root_id) {
                            set.insert(time_of(&id).as_secs(), Id::from_byte_array(id.to_bytes())).unwrap();
                        }
                        set.seal().unwrap();
                        peer.open.insert(name.to_owned(), Negentropy::owned(set, 4_096).unwrap());
                        self.answer_step(peer, name, message[3].as_str().unwrap());
                    }
                    Manners::Errs(why) => self.tell(|relay, cx| relay.on_neg_err(name, why, None, cx)),
                    Manners::ErrsWithMax(why, max) => self.tell(|relay, cx| relay.on_neg_err(name, why, Some(max), cx)),
                    Manners::Notices(why) => self.tell(|relay, cx| relay.on_notice(why, cx)),
                    Manners::Closes(why) => self.tell(|relay, cx| relay.on_subscription_closed(name, why, cx)),
                    Manners::Nonsense => self.tell(|relay, cx| relay.on_neg_msg(name, "nonsense", cx)),
                    Manners::Nothing => {}
                }
            }
            "NEG-MSG" => self.answer_step(peer, name, message[2].as_str().unwrap()),
            "NEG-CLOSE" => _ = peer.open.remove(name),
            _ => {}
        }
    }

    fn answer_step(&mut self, peer: &mut Peer, name: &str, payload: &str) {
        let bytes: Vec<u8> =
            (0..payload.len()).step_by(2).map(|n| u8::from_str_radix(&payload[n..n + 2], 16).unwrap()).collect();
        let answer = peer.open.get_mut(name).expect("it is open").reconcile(&bytes).unwrap();
        let hex: String = answer.iter().map(|byte| format!("{byte:02x}")).collect();
        self.tell(|relay, cx| relay.on_neg_msg(name, &hex, cx));
    }

    fn answer_req(&mut self, peer: &mut Peer, name: &str, filter: &Value) {
        let Some(ids) = filter["ids"].as_array() else {
            return self.tell(|relay, cx| relay.on_eose(name, cx));
        };
        assert!(ids.len() <= FETCH_IDS_MAX && filter["limit"].as_u64() == Some(ids.len() as u64));
        for id in ids {
            let id = EventId::from_hex(id.as_str().unwrap()).unwrap();
            if peer.ghosts.iter().any(|n| root_id(*n) == id) {
                continue;
            }
            let fate = if peer.ours.insert(id) { Fate::New } else { Fate::Known };
            self.tell(|relay, cx| relay.on_event(name, &arrival(id, Some(time_of(&id)), fate), cx));
        }
        match peer.closes_ids {
            Some(why) => self.tell(|relay, cx| relay.on_subscription_closed(name, why, cx)),
            None => self.tell(|relay, cx| relay.on_eose(name, cx)),
        }
    }

    /// The next full catch-up, to its end.
    fn next_full(&mut self, peer: &mut Peer) {
        let before = self.relay.progress().full_catchup();
        self.bench.advance(DAY);
        self.relay.on_alive(&mut self.bench.cx());
        self.tick();
        self.talk(peer);
        assert_eq!(self.state(), StateName::Live);
        assert!(self.relay.progress().full_catchup() > before, "it has ended well");
    }
}

fn all_of(range: std::ops::Range<u32>) -> BTreeSet<EventId> {
    range.map(root_id).collect()
}

#[test]
fn what_is_missing_is_fetched_by_id_and_the_catch_up_is_complete() {
    let (mut rig, mut peer) = (rig(), Peer::of(0..1_000, 0..300));
    rig.open();
    assert_eq!(rig.relay.budget().manner().by, "pages");
    rig.talk(&mut peer);
    assert_eq!((rig.state(), &peer.ours), (StateName::Live, &all_of(0..1_000)));
    assert_eq!(peer.pages(), 0, "{:#?}", peer.log);
    assert!(peer.open.is_empty(), "every exchange was closed");
    assert_eq!(rig.relay.budget().manner().by, "negentropy");
    assert_ne!(rig.relay.progress().full_catchup(), UnixTime::EPOCH);
    assert_eq!(rig.bench.metrics.reconcile_needed, 700);
    // Now that it is known to work, everything is reconciled; and nothing is fetched again.
    peer.log.clear();
    rig.next_full(&mut peer);
    assert_eq!((peer.asked("NEG-OPEN"), peer.pages()), (5, 0), "layer 1, identifiers, three letters: {:#?}", peer.log);
    assert!(!peer.log.iter().any(|text| text.contains("\"ids\"")));
}

#[test]
fn what_several_questions_find_is_fetched_for_one_and_ends_them_all() {
    let (mut rig, mut peer) = (rig(), Peer::of(0..10, 0..5));
    rig.open();
    rig.talk(&mut peer);
    peer.log.clear();
    peer.tagging = 100..150;
    rig.next_full(&mut peer);
    assert_eq!(peer.ours, all_of(0..10).union(&all_of(100..150)).copied().collect());
    let fetches = peer.log.iter().filter(|text| text.contains("\"ids\"")).count();
    assert_eq!((peer.asked("NEG-OPEN"), fetches), (5, 1), "what was fetched is looked for once: {:#?}", peer.log);
}

#[test]
fn a_relay_that_is_not_known_to_reconcile_is_tried_only_with_what_we_hold_something_of() {
    let (mut rig, mut peer) = (rig(), Peer::of(0..10, 0..0));
    rig.open();
    rig.talk(&mut peer);
    assert_eq!((rig.state(), peer.asked("NEG-OPEN"), peer.pages()), (StateName::Live, 0, 1));
}

#[test]
fn every_refusal_goes_on_by_pages_at_once_and_what_it_says_of_the_relay_is_remembered() {
    use Manners::*;
    for (manners, outcome, tried_again) in [
        (Errs("blocked: Negentropy sync is disabled"), "unsupported", false),
        (Notices("failed to parse envelope: unknown envelope label"), "unsupported", false),
        (Notices("could not parse command"), "unsupported", false),
        (Notices("Unsupported message"), "unsupported", false),
        (Notices("ERROR: bad msg: negentropy disabled"), "unsupported", false),
        (Notices("ERROR: negentropy error: bad frame"), "broken", false),
        (Notices("ERROR: too many concurrent NEG requests"), "too_many_at_once", true),
        (ErrsWithMax("blocked: too many query results", 1_000_000), "too_many_records", true),
        (Errs("blocked: too many results"), "too_many_records", true),
        (Errs("closed: unknown subscription handle"), "ended", false),
        (Errs("closed: you took too long to respond"), "ended", false),
        (Errs("PROTOCOL-ERROR"), "broken", false),
        (Errs("blocked: no"), "refused", false),
        (Errs(""), "refused", false),
        (Closes("error: no such thing"), "refused", false),
        (Nonsense, "broken", true),
    ] {
        let (mut rig, mut peer) = (rig(), Peer { manners, ..Peer::of(0..10, 0..5) });
        rig.open();
        rig.talk(&mut peer);
        assert_eq!((rig.state(), peer.pages()), (StateName::Live, 1), "{manners:?}: {:#?}", peer.log);
        let outcomes: Vec<_> = rig.bench.metrics.reconciliations.iter().collect();
        assert!(outcomes.contains(&(outcome, 1)), "{manners:?}: {outcomes:?}");
        peer.log.clear();
        rig.next_full(&mut peer);
        assert_eq!(peer.asked("NEG-OPEN") > 0, tried_again, "{manners:?}: {:#?}", peer.log);
        assert!(peer.pages() == 1);
    }
}

#[test]
fn a_relay_that_says_nothing_is_given_up_after_the_time_of_a_sweep() {
    let (mut rig, mut peer) = (rig(), Peer { manners: Manners::Nothing, ..Peer::of(0..10, 0..5) });
    rig.open();
    rig.talk(&mut peer);
    assert_eq!((rig.state(), peer.pages()), (StateName::Catchup, 0));
    rig.bench.advance(59);
    rig.relay.on_alive(&mut rig.bench.cx());
    rig.tick();
    rig.talk(&mut peer);
    assert_eq!(rig.state(), StateName::Catchup);
    assert!(rig.relay.next_deadline(&rig.bench.cx()).unwrap() <= rig.bench.now.mono + Duration::from_secs(1));
    rig.bench.advance(1);
    rig.tick();
    rig.talk(&mut peer);
    assert_eq!((rig.state(), peer.pages(), peer.asked("NEG-CLOSE")), (StateName::Live, 1, 1));
    assert_eq!(rig.relay.budget().manner().why, "silent");
}

#[test]
fn a_relay_that_hangs_up_on_the_question_is_not_asked_again() {
    let (mut rig, mut peer) = (rig(), Peer { manners: Manners::Nothing, ..Peer::of(0..10, 0..5) });
    rig.open();
    rig.talk(&mut peer);
    assert_eq!(peer.asked("NEG-OPEN"), 1);
    rig.drop_link();
    rig.bench.advance(5);
    rig.open();
    rig.talk(&mut peer);
    assert_eq!((rig.state(), peer.asked("NEG-OPEN"), peer.pages()), (StateName::Live, 1, 1));
    assert_eq!(rig.relay.budget().manner().why, "link_lost");
}

#[test]
fn what_was_found_outlives_the_process() {
    let (mut rig, mut peer) = (rig(), Peer { manners: Manners::Nothing, ..Peer::of(0..10, 0..5) });
    rig.open();
    rig.talk(&mut peer);
    rig.relay.take_unsaved();
    rig.drop_link();
    let unsaved = rig.relay.take_unsaved();
    let kept = unsaved.iter().find_map(|progress| match progress {
        Progress::Budget { record, .. } => Some(Budget::from_record(record)),
        _ => None,
    });
    let budget = kept.expect("it is written");
    let again = Relay::new(relay("one"), RelayProgress::default(), budget, &mut rig.bench.cx());
    assert_eq!(again.budget().manner().why, "link_lost");
}

#[test]
fn a_list_of_nips_without_77_is_not_tried() {
    let (mut rig, mut peer) = (rig(), Peer::of(0..10, 0..5));
    rig.list_nips(Some(vec![1, 11, 42]));
    rig.open();
    rig.talk(&mut peer);
    assert_eq!((rig.state(), peer.asked("NEG-OPEN")), (StateName::Live, 0));
    rig.list_nips(Some(vec![1, 77]));
    rig.next_full(&mut peer);
    assert!(peer.asked("NEG-OPEN") > 0);
}

#[test]
fn a_relay_that_lists_77_is_asked_so_from_the_start_and_paged_only_when_it_refuses() {
    let (mut rig, mut peer) = (rig_listing_77(), Peer::of(0..300, 0..0));
    rig.open();
    rig.talk(&mut peer);
    assert_eq!((rig.state(), &peer.ours), (StateName::Live, &all_of(0..300)));
    assert_eq!(peer.pages(), 0, "{:#?}", peer.log);

    let (mut rig, mut peer) =
        (rig_listing_77(), Peer { manners: Manners::Errs("blocked: no"), ..Peer::of(0..300, 0..0) });
    rig.open();
    rig.talk(&mut peer);
    assert_eq!((rig.state(), peer.asked("NEG-OPEN")), (StateName::Live, 1));
    assert!(peer.pages() > 0);
}

fn rig_listing_77() -> Rig {
    let mut rig = rig();
    rig.list_nips(Some(vec![1, 77]));
    rig
}

#[test]
fn one_at_a_time_if_the_relay_wants_it_so() {
    let (mut rig, mut peer) = (rig(), Peer { at_once: 1, ..Peer::of(0..100, 0..50) });
    rig.open();
    rig.talk(&mut peer);
    peer.log.clear();
    rig.next_full(&mut peer);
    assert!(rig.bench.metrics.reconciliations.iter().any(|outcome| outcome.0 == "too_many_at_once"));
    assert_eq!(peer.pages(), 0, "{:#?}", peer.log);
    let refused = rig.bench.metrics.notices;
    rig.next_full(&mut peer);
    assert_eq!(rig.bench.metrics.notices, refused, "no more than one was open");
}

#[test]
fn once_a_week_it_is_pages_all_the_same() {
    let (mut rig, mut peer) = (rig(), Peer::of(0..100, 0..50));
    rig.open();
    rig.talk(&mut peer);
    let pages: Vec<usize> = (1..=15)
        .map(|_| {
            peer.log.clear();
            rig.next_full(&mut peer);
            peer.pages()
        })
        .collect();
    assert_eq!(pages, [0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0]);
}

#[test]
fn what_is_listed_and_not_served_is_looked_for_by_pages_once() {
    let (mut rig, mut peer) = (rig(), Peer { ghosts: (7..9).collect(), ..Peer::of(0..100, 20..50) });
    rig.open();
    rig.talk(&mut peer);
    assert_eq!((rig.state(), peer.pages()), (StateName::Live, 1));
    assert_eq!((peer.ours.len(), rig.bench.metrics.reconcile_unserved), (98, 2));
    peer.log.clear();
    rig.next_full(&mut peer);
    assert_eq!((peer.pages(), peer.asked("NEG-OPEN")), (0, 5));
    assert!(!peer.log.iter().any(|text| text.contains("\"ids\"")), "they are not asked for again");
    // A new root event: what we ask for has changed.
    rig.window_with_root();
    rig.talk(&mut peer);
    peer.log.clear();
    rig.next_full(&mut peer);
    assert_eq!(peer.pages(), 1);
}

#[test]
fn relays_that_close_what_asks_for_ids_alone_serve_it_all_the_same() {
    let (mut rig, mut peer) = (rig(), Peer { closes_ids: Some(""), ..Peer::of(0..1_000, 0..5) });
    rig.open();
    rig.talk(&mut peer);
    assert_eq!((rig.state(), peer.pages(), peer.ours.len()), (StateName::Live, 0, 1_000));
}

#[test]
fn a_rate_limit_in_the_middle_puts_off_what_has_not_come() {
    let (mut rig, mut peer) = (rig(), Peer::of(0..1_000, 0..5));
    peer.closes_ids = Some("rate-limited: slow down there chief");
    peer.ghosts = (5..1_000).collect();
    rig.open();
    rig.talk(&mut peer);
    assert_eq!(rig.state(), StateName::Catchup);
    (peer.closes_ids, peer.ghosts) = (None, BTreeSet::new());
    let asked = peer.log.len();
    rig.bench.advance(30);
    rig.relay.on_alive(&mut rig.bench.cx());
    rig.tick();
    rig.talk(&mut peer);
    assert!(!peer.log[asked..].iter().any(|text| text.contains("REQ") || text.contains("NEG-OPEN")), "it rests");
    rig.bench.advance(35);
    rig.tick();
    rig.talk(&mut peer);
    assert_eq!((rig.state(), peer.pages(), peer.ours.len()), (StateName::Live, 0, 1_000));
}

/// Nothing is left to ask for again, and nothing else would come that ends the reconciliation.
#[test]
fn a_rate_limit_after_all_that_was_asked_for_has_come_ends_the_reconciliation() {
    let (mut rig, mut peer) = (rig(), Peer::of(0..50, 0..5));
    peer.closes_ids = Some("rate-limited: slow down there chief");
    rig.open();
    rig.talk(&mut peer);
    peer.closes_ids = None;
    for _ in 0..3 {
        rig.bench.advance(30);
        rig.relay.on_alive(&mut rig.bench.cx());
        rig.tick();
        rig.talk(&mut peer);
    }
    assert_eq!((rig.state(), peer.pages(), peer.ours.len()), (StateName::Live, 0, 50));
}

#[test]
fn a_fetch_that_is_not_answered_is_no_success() {
    let (mut rig, mut peer) = (rig(), Peer::of(0..100, 0..5));
    rig.open();
    // Everything but the REQs for ids is answered.
    let mut silent = VecDeque::new();
    for _ in 0..20 {
        while rig.supply(&peer) {}
        for text in rig.bench.sent() {
            let message: Value = serde_json::from_str(&text).unwrap();
            match message[2]["ids"].is_array() {
                true => silent.push_back(text),
                false => rig.answer(&mut peer, &message),
            }
        }
    }
    assert_eq!((silent.len(), rig.state()), (1, StateName::Catchup));
    rig.bench.advance(60);
    rig.relay.on_alive(&mut rig.bench.cx());
    rig.tick();
    rig.talk(&mut peer);
    assert_eq!((rig.state(), peer.pages()), (StateName::Live, 1));
    assert!(rig.bench.metrics.reconciliations.iter().any(|outcome| outcome == ("fetch_silent", 1)));
}

#[test]
fn no_room_for_more_ids_means_pages() {
    let mut rig = rig();
    rig.open();
    let wanted = WantedSet { subject: &Subject::Announcements, names_kinds: false, since: None, again: false };
    assert_eq!(rig.relay.wanted_set(), Some(wanted));
    rig.tell(|relay, cx| relay.add_set(None, cx));
    let mut peer = Peer::of(0..10, 0..5);
    rig.talk(&mut peer);
    assert_eq!((rig.state(), peer.pages()), (StateName::Live, 1));
    assert!(rig.bench.metrics.reconciliations.iter().any(|outcome| outcome == ("no_room", 1)));
}

#[test]
fn what_nobody_asked_for_is_ignored() {
    let (mut rig, mut peer) = (rig(), Peer::of(0..100, 0..100));
    rig.open();
    rig.talk(&mut peer);
    for name in ["n0", "n1", "b1", "n01", "n", ""] {
        rig.tell(|relay, cx| relay.on_neg_msg(name, "6100", cx));
        rig.tell(|relay, cx| relay.on_neg_err(name, "blocked: no", None, cx));
    }
    rig.tell(|relay, cx| relay.on_notice("could not parse command", cx));
    assert_eq!(rig.relay.budget().manner().by, "negentropy");
    assert_eq!(rig.state(), StateName::Live);
}
