use super::*;

const NOW: Instant = Instant::ZERO;

fn id(n: u64) -> EventId {
    // Spread, as hashes are, and different in their first bytes.
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    bytes[8..16].copy_from_slice(&n.to_be_bytes());
    EventId::from_byte_array(bytes)
}

fn item(n: u64) -> (UnixTime, EventId) {
    (UnixTime::from_secs(1_000_000 + n / 3), id(n))
}

/// A relay that holds some events: the server's side of the exchange, and answers to REQs for ids.
struct Peer {
    set: BTreeSet<u64>,
    frame: u64,
    /// Ids it gives at most for one REQ.
    cap: usize,
    /// It lists these and does not serve them.
    ghosts: BTreeSet<EventId>,
    /// Leaves every so many ids out of what it lists, in passes before this one.
    loses: Option<(u64, usize)>,
    exchange: Option<Exchange<'static, NegentropyStorageVector>>,
    bytes: usize,
    opened: usize,
}

impl Peer {
    fn of(set: impl IntoIterator<Item = u64>) -> Peer {
        Peer {
            set: set.into_iter().collect(),
            frame: 0,
            cap: usize::MAX,
            ghosts: BTreeSet::new(),
            loses: None,
            exchange: None,
            bytes: 0,
            opened: 0,
        }
    }

    fn open(&mut self, payload: &str) -> String {
        self.opened += 1;
        let mut set = NegentropyStorageVector::new();
        for n in &self.set {
            if self.loses.is_some_and(|(every, passes)| self.opened <= passes && n % every == 0) {
                continue;
            }
            let (at, id) = item(*n);
            set.insert(at.as_secs(), Id::from_byte_array(id.to_bytes())).unwrap();
        }
        set.seal().unwrap();
        self.exchange = Some(Exchange::owned(set, self.frame).unwrap());
        self.answer(payload)
    }

    fn answer(&mut self, payload: &str) -> String {
        let answer = hex_string(&self.exchange.as_mut().unwrap().reconcile(&from_hex(payload).unwrap()).unwrap());
        self.bytes += payload.len() + answer.len();
        answer
    }

    fn serve(&self, batch: &Batch) -> Vec<EventId> {
        batch.left.iter().filter(|id| !self.ghosts.contains(*id)).take(self.cap).copied().collect()
    }
}

/// What came of a reconciliation.
struct Done {
    ours: BTreeSet<EventId>,
    verdict: Verdict,
    reqs: usize,
    run: Reconciliation,
}

/// Reconciles to the end. `refused`: ids that are of no use to us, and that the caller does not remember.
fn reconcile(ours: impl IntoIterator<Item = u64>, peer: &mut Peer, refused: &BTreeSet<EventId>) -> Done {
    let mut held: BTreeSet<(UnixTime, EventId)> = ours.into_iter().map(item).collect();
    let place = |id: &EventId| item(u64::from_be_bytes(id.as_bytes()[8..16].try_into().unwrap()));
    let mut run = Reconciliation::new(NOW);
    let (mut reqs, mut size, mut most_needed) = (0, FETCH_IDS_MAX, 0);
    loop {
        let verdict = run.verdict();
        if !matches!(verdict, Verdict::Busy | Verdict::Again) {
            assert!(most_needed <= RECONCILE_NEEDED_MAX + 40_000, "{most_needed}");
            return Done { ours: held.into_iter().map(|(_, id)| id).collect(), verdict, reqs, run };
        }
        let set: Vec<_> = held.iter().copied().collect();
        let mut answer = (verdict == Verdict::Again).then(|| peer.open(&run.open(&set, NOW)));
        while let Some(payload) = answer.take() {
            let next = run.on_message(&payload, NOW).expect("an honest peer");
            let found = run.take_unclassified(NOW);
            run.add_needed(found.into_iter().filter(|id| !held.contains(&place(id))).collect());
            most_needed = most_needed.max(run.needed.len());
            if run.is_full() {
                run.cut();
            } else {
                answer = next.map(|payload| peer.answer(&payload));
            }
        }
        while let Some(mut batch) = run.next_batch(size, &BTreeSet::new()) {
            reqs += 1;
            assert!(reqs < 100_000, "must end");
            for id in peer.serve(&batch) {
                batch.left.remove(&id);
                let is_new = !refused.contains(&id) && held.insert(place(&id));
                run.on_event(id, is_new);
            }
            let asked = batch.asked;
            if run.on_batch_end(batch) {
                size = (asked / 2).max(FETCH_IDS_MIN);
            }
            if matches!(run.verdict(), Verdict::Failed(_)) {
                break;
            }
        }
    }
}

fn ids(range: impl IntoIterator<Item = u64>) -> BTreeSet<EventId> {
    range.into_iter().map(id).collect()
}

#[test]
fn identical_sets_cost_one_exchange() {
    let mut peer = Peer::of(0..100_000);
    let done = reconcile(0..100_000, &mut peer, &BTreeSet::new());
    assert_eq!((done.verdict, done.reqs, peer.opened), (Verdict::Complete, 0, 1));
    assert!(peer.bytes < 2_000, "{} bytes", peer.bytes);
}

#[test]
fn what_we_lack_is_fetched_and_what_they_lack_is_left_alone() {
    for (ours, theirs) in [
        (0..0, 0..0),
        (0..0, 0..1),
        (0..1, 0..0),
        (0..10, 5..20),
        (0..4_000, 3_990..9_000),
        (0..50_000, 0..50_003),
        (500..500, 0..5_000),
    ] {
        for frame in [0, 4_096, 60_000] {
            let mut peer = Peer { frame, ..Peer::of(theirs.clone()) };
            let done = reconcile(ours.clone(), &mut peer, &BTreeSet::new());
            assert_eq!(done.verdict, Verdict::Complete);
            assert_eq!(done.ours, ids(ours.clone().chain(theirs.clone())), "{ours:?} {theirs:?} {frame}");
        }
    }
}

#[test]
fn a_large_difference_is_fetched_in_rounds() {
    let mut peer = Peer { frame: 500_000, ..Peer::of(0..60_000) };
    let done = reconcile(0..0, &mut peer, &BTreeSet::new());
    assert_eq!((done.verdict, done.ours.len()), (Verdict::Complete, 60_000));
    assert!(done.run.passes > 2, "{} passes", done.run.passes);
    assert!(done.reqs <= 60_000 / FETCH_IDS_MAX + 2 * done.run.passes, "{} REQs", done.reqs);
}

#[test]
fn a_cap_on_ids_is_met_by_asking_again_and_for_fewer() {
    for cap in [1, 30, 100, 200] {
        let mut peer = Peer { cap, ..Peer::of(0..3_000) };
        let done = reconcile(0..10, &mut peer, &BTreeSet::new());
        assert_eq!((done.verdict, done.ours.len()), (Verdict::Complete, 3_000), "cap {cap}");
        assert!(done.reqs <= 3_000 / cap + 30, "cap {cap}: {} REQs", done.reqs);
    }
}

#[test]
fn items_that_an_exchange_loses_are_found_by_the_next() {
    let mut peer = Peer { loses: Some((7, 2)), ..Peer::of(0..1_000) };
    let done = reconcile(0..100, &mut peer, &BTreeSet::new());
    assert_eq!(done.verdict, Verdict::Complete);
    assert!(done.ours.len() < 1_000, "what is lost in a pass that finds nothing else is the pages' to find");
    let mut peer = Peer { loses: Some((7, 1)), ..Peer::of(0..1_000) };
    let done = reconcile(0..100, &mut peer, &BTreeSet::new());
    assert_eq!((done.verdict, done.ours.len()), (Verdict::Complete, 1_000));
}

#[test]
fn an_answer_that_cannot_have_been_cut_is_not_asked_for_twice() {
    let list_max = (RECONCILE_UNCUT_BYTES / 32) as u64;
    for (ours, theirs, passes) in [
        (0..0, 0..list_max - 1, 1),
        (0..0, 0..list_max + 1, 2),
        (0..31, 0..100, 1),
        (0..40, 0..100, 2),
        (0..40, 0..40, 1),
    ] {
        let mut peer = Peer { frame: 4_096, ..Peer::of(theirs.clone()) };
        let done = reconcile(ours.clone(), &mut peer, &BTreeSet::new());
        assert_eq!((done.verdict, done.ours), (Verdict::Complete, ids(theirs.clone())));
        assert_eq!(done.run.passes, passes, "{ours:?} {theirs:?}");
    }
}

#[test]
fn what_is_listed_and_not_served_is_no_silent_success() {
    let mut peer = Peer { ghosts: ids(100..103), ..Peer::of(0..1_000) };
    let done = reconcile(0..50, &mut peer, &BTreeSet::new());
    assert_eq!(done.verdict, Verdict::Failed(Failure::Unserved));
    assert_eq!(done.run.unserved().iter().copied().collect::<BTreeSet<_>>(), ids(100..103));
    assert_eq!(done.ours.len(), 997, "the rest is here");
    let mut peer = Peer { cap: 0, ..Peer::of(0..1_000) };
    let done = reconcile(0..50, &mut peer, &BTreeSet::new());
    assert_eq!(done.verdict, Verdict::Failed(Failure::Unserved));
    assert!(done.reqs < 20, "{} REQs", done.reqs);
}

#[test]
fn what_is_refused_is_not_needed_again_in_the_next_pass() {
    let refused = ids(0..40_000);
    let mut peer = Peer { frame: 60_000, ..Peer::of(0..40_010) };
    let done = reconcile(0..0, &mut peer, &refused);
    assert_eq!((done.verdict, done.ours), (Verdict::Complete, ids(40_000..40_010)));
    assert!(done.reqs <= 40_010 / FETCH_IDS_MAX + 2 * done.run.passes, "each was fetched once: {} REQs", done.reqs);
}

#[test]
fn refused_events_without_end_are_given_up() {
    let refused = ids(0..RECONCILE_USELESS_MAX as u64 + 1_000);
    let mut peer = Peer { frame: 500_000, ..Peer::of(0..RECONCILE_USELESS_MAX as u64 + 1_000) };
    assert_eq!(reconcile(0..0, &mut peer, &refused).verdict, Verdict::Failed(Failure::Endless));
}

#[test]
fn frames_stay_within_what_relays_take() {
    let mut run = Reconciliation::new(NOW);
    let set: Vec<_> = (0..30_000).map(|n| item(2 * n)).collect();
    let mut peer = Peer { frame: 500_000, ..Peer::of((0..30_000).map(|n| 2 * n + 1)) };
    let mut answer = Some(peer.open(&run.open(&set, NOW)));
    let mut most = 0;
    while let Some(payload) = answer {
        answer = run.on_message(&payload, NOW).unwrap().map(|payload| {
            most = most.max(payload.len());
            peer.answer(&payload)
        });
    }
    assert!(most <= 2 * RECONCILE_FRAME_BYTES as usize && most > RECONCILE_FRAME_BYTES as usize, "{most}");
    assert_eq!(run.unclassified.len(), 30_000);
}

#[test]
fn what_is_not_the_protocol_is_said_to_be_broken() {
    for payload in ["", "6", "zz", "61zz", "é1", "60", "62", "ff00", "6100000201", "610002ffffffffffffffff7f"] {
        let mut run = Reconciliation::new(NOW);
        run.open(&[item(1), item(2)], NOW);
        assert_eq!(run.on_message(payload, NOW), Err(Failure::Broken), "{payload:?}");
    }
    // Whatever a peer makes up, it neither panics nor goes on for ever.
    let mut seed = 1u64;
    for _ in 0..2_000 {
        let mut run = Reconciliation::new(NOW);
        run.open(&(0..100).map(item).collect::<Vec<_>>(), NOW);
        let mut bytes = vec![0x61];
        for _ in 0..seed % 60 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bytes.push((seed >> 56) as u8 & if seed & 1 == 0 { 3 } else { 255 });
        }
        seed = seed.wrapping_add(1).wrapping_mul(6_364_136_223_846_793_005);
        let _ = run.on_message(&hex_string(&bytes), NOW);
    }
}

#[test]
fn an_exchange_without_end_is_given_up() {
    let mut run = Reconciliation::new(NOW);
    run.open(&(0..100).map(item).collect::<Vec<_>>(), NOW);
    // One range with a fingerprint that never agrees.
    let never = format!("61000001{}", "00".repeat(16));
    for _ in 0..RECONCILE_MESSAGES_MAX {
        assert!(run.on_message(&never, NOW).unwrap().is_some());
    }
    assert_eq!(run.on_message(&never, NOW), Err(Failure::Endless));
}

#[test]
fn a_batch_that_was_put_off_is_asked_for_again() {
    let mut run = Reconciliation::new(NOW);
    run.open(&[], NOW);
    run.cut();
    run.add_needed((0..10).map(id).collect());
    let none = BTreeSet::new();
    let batch = run.next_batch(4, &none).unwrap();
    assert_eq!(run.verdict(), Verdict::Busy);
    run.return_batch(batch.clone());
    assert_eq!(run.next_batch(4, &none), Some(batch));
    assert_eq!(run.next_batch(100, &none).unwrap().left.len(), 6);
    assert_eq!(run.next_batch(100, &none), None);
}

#[test]
fn nothing_is_asked_for_twice_at_once() {
    let mut run = Reconciliation::new(NOW);
    run.open(&[], NOW);
    run.cut();
    run.add_needed((0..10).map(id).collect());
    assert_eq!(run.next_batch(100, &ids(0..10)), None);
    let batch = run.next_batch(100, &ids(0..7)).unwrap();
    assert_eq!(batch.left, ids(7..10));
    run.return_batch(batch);
    (0..7).for_each(|n| assert!(run.on_came_by_other(&id(n))));
    assert_eq!(run.next_batch(100, &ids(7..8)), None);
    assert_eq!(run.next_batch(100, &BTreeSet::new()).unwrap().left, ids(7..10));
}

#[test]
fn what_is_fetched_elsewhere_is_waited_for_and_in_the_end_fetched_all_the_same() {
    let mut peer = Peer::of(0..10);
    let mut run = Reconciliation::new(NOW);
    let answer = peer.open(&run.open(&[], NOW));
    assert_eq!(run.on_message(&answer, NOW), Ok(None));
    let found = run.take_unclassified(NOW);
    assert_eq!(found.len(), 10);
    run.add_claimed(found, NOW);
    assert_eq!((run.verdict(), run.next_batch(100, &BTreeSet::new())), (Verdict::Busy, None));
    let (mut now, mut looks) = (NOW, 0);
    while run.has_patience() {
        let at = run.next_look().expect("it is waited for");
        assert!(at > now && run.take_unclassified(now).is_empty(), "not before its time");
        (now, looks) = (at, looks + 1);
        let mut found = run.take_unclassified(now);
        assert_eq!(run.next_look(), None);
        // One has come by now.
        found.pop();
        assert_eq!(found.len(), 10 - looks);
        match run.has_patience() {
            true => run.add_claimed(found, now),
            false => run.add_needed(found),
        }
    }
    assert!(now.since(NOW) <= ELSEWHERE_WAIT_MAX.saturating_mul(2));
    let batch = run.next_batch(100, &BTreeSet::new()).expect("patience is at its end");
    assert_eq!(batch.asked, 10 - looks);
    assert!(!run.on_batch_end(Batch { left: BTreeSet::new(), ..batch }));
    assert_eq!(run.verdict(), Verdict::Complete, "what is elsewhere was looked up, and the list was short");
}

#[test]
fn what_came_from_elsewhere_is_news_too() {
    let mut peer = Peer::of(0..1_000);
    let mut run = Reconciliation::new(NOW);
    let answer = peer.open(&run.open(&[], NOW));
    assert_eq!(run.on_message(&answer, NOW), Ok(None));
    let found = run.take_unclassified(NOW);
    run.add_claimed(found, NOW);
    let at = run.next_look().expect("it is waited for");
    assert_eq!(run.take_unclassified(at).len(), 1_000);
    assert_eq!(run.verdict(), Verdict::Again);
}
