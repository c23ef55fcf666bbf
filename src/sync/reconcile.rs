//! One reconciliation with a relay (NIP-77): which ids it has that we lack, fetched by id until nothing is needed.
//!
//! A **pass** is one exchange over our current set. What it finds is classified by the caller, who knows what is held or was
//! refused, and the rest is fetched in batches while the exchange goes on. A pass that found much is cut short, so that
//! what waits is bounded; the next one begins with what has come meanwhile. A pass that ran to its end and brought
//! nothing new ends the reconciliation: some peers lose items where they cut an answer to a frame's length, and a second
//! look finds those. There is nothing to look for where the one list of ids that we sent was answered with one that was too
//! short to be cut.
//!
//! Nothing that failed is taken for complete: what the relay lists and does not serve, a peer that breaks the protocol,
//! an exchange without end all end in a [`Verdict::Failed`], and the question is then asked by pages.
//!
//! This module knows ids. It does not know links, subscriptions, or the store.

use std::collections::BTreeSet;

use faster_hex::{hex_decode, hex_string};
use negentropy::{Id, Negentropy as Exchange, NegentropyStorageVector};
use nostr::event::EventId;

use crate::limits::{
    ELSEWHERE_FIRST_LOOK, ELSEWHERE_WAIT_MAX, FETCH_IDS_MAX, FETCH_IDS_MIN, RECONCILE_FRAME_BYTES,
    RECONCILE_MESSAGES_MAX, RECONCILE_NEEDED_MAX, RECONCILE_PASSES_MAX, RECONCILE_UNCUT_BYTES, RECONCILE_USELESS_MAX,
};
use crate::time::{Duration, Instant, UnixTime};

pub mod record;
pub mod refusal;

pub use record::{Manner, Negentropy, Record, Unserved};
pub use refusal::NegRefusal;

/// A reconciliation and how far it has come.
#[derive(Debug)]
pub struct Reconciliation {
    exchange: Option<Exchange<'static, NegentropyStorageVector>>,
    /// Ids in the exchange's set.
    held: usize,
    /// Silent since then, while there is an exchange.
    heard_at: Instant,
    /// The relay has answered once.
    answered: bool,
    /// Messages of this pass.
    messages: usize,
    passes: usize,
    /// This pass ended before it had seen everything.
    cut: bool,
    /// Something may have been lost in this pass, for all that the exchange tells.
    doubtful: bool,
    /// What this pass fetched that was not known before.
    new: usize,
    /// Found and not yet looked up by the caller.
    unclassified: Vec<EventId>,
    /// Found, and being fetched from another relay.
    elsewhere: Vec<EventId>,
    /// They are looked up again then, if nothing else is left to do.
    look_at: Instant,
    /// The wait before the look after that.
    look_after: Duration,
    /// To be fetched.
    needed: BTreeSet<EventId>,
    /// To be fetched when the others have been: a REQ for them brought others only.
    late: BTreeSet<EventId>,
    /// To be fetched again: a REQ for them brought nothing, or was not answered.
    again: Vec<Batch>,
    /// Batches that are asked for now.
    in_flight: usize,
    /// Had, and not taken in: not needed again.
    useless: BTreeSet<EventId>,
    /// Listed, and not served even when asked twice.
    unserved: Vec<EventId>,
}

/// Ids that are asked for by one REQ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Those that have not come yet.
    pub left: BTreeSet<EventId>,
    /// How many it began with.
    pub asked: usize,
    /// REQs for these ids that brought none of them.
    pub unproductive: u8,
}

/// Where a reconciliation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Something is under way, or waits to be asked for.
    Busy,
    /// Another pass is needed: [`Reconciliation::open`].
    Again,
    /// The relay has nothing more that we could need.
    Complete,
    /// It cannot be told whether that is everything.
    Failed(Failure),
}

/// Why a reconciliation cannot say that it is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// What the relay sent is not the protocol.
    Broken,
    /// More messages, passes or useless events than any honest set needs.
    Endless,
    /// It lists what it does not serve.
    Unserved,
}

/// How a step begins that is a list of all ids in its set: the protocol's version, a bound without end, the mode.
const ONE_LIST: [u8; 4] = [0x61, 0, 0, 2];

/// REQs that may bring nothing of a batch before its ids count as not served.
const UNPRODUCTIVE_MAX: u8 = 2;

impl Reconciliation {
    /// One that has yet to be opened.
    pub fn new(now: Instant) -> Reconciliation {
        Reconciliation {
            exchange: None,
            held: 0,
            heard_at: now,
            answered: false,
            messages: 0,
            passes: 0,
            cut: false,
            doubtful: false,
            new: 0,
            unclassified: Vec::new(),
            elsewhere: Vec::new(),
            look_at: now,
            look_after: ELSEWHERE_FIRST_LOOK,
            needed: BTreeSet::new(),
            late: BTreeSet::new(),
            again: Vec::new(),
            in_flight: 0,
            useless: BTreeSet::new(),
            unserved: Vec::new(),
        }
    }

    /// Begins a pass over what we hold; some of it may be given twice. Returns the payload of NEG-OPEN.
    pub fn open(&mut self, held: &[(UnixTime, EventId)], now: Instant) -> String {
        let mut set = NegentropyStorageVector::with_capacity(held.len());
        for (created_at, id) in held {
            set.insert(created_at.as_secs(), Id::from_byte_array(id.to_bytes())).expect("it is not sealed yet");
        }
        set.seal().expect("it is not sealed yet");
        let mut exchange = Exchange::owned(set, RECONCILE_FRAME_BYTES).expect("the frame is large enough");
        let payload = exchange.initiate().expect("a sealed set can be initiated once");
        self.exchange = Some(exchange);
        self.held = held.len();
        self.heard_at = now;
        self.messages = 0;
        self.passes += 1;
        self.cut = false;
        self.doubtful = !payload.starts_with(&ONE_LIST);
        self.new = 0;
        self.look_after = ELSEWHERE_FIRST_LOOK;
        hex_string(&payload)
    }

    /// The relay sent a step of the exchange. Returns the payload of the next one; `None` if the exchange has ended.
    ///
    /// # Errors
    ///
    /// If it is not the protocol, or there is no end to it.
    pub fn on_message(&mut self, payload: &str, now: Instant) -> Result<Option<String>, Failure> {
        let Some(exchange) = &mut self.exchange else { return Ok(None) };
        self.heard_at = now;
        self.answered = true;
        self.messages += 1;
        if self.messages > RECONCILE_MESSAGES_MAX {
            return Err(Failure::Endless);
        }
        let payload = from_hex(payload).ok_or(Failure::Broken)?;
        self.doubtful |= payload.len() > RECONCILE_UNCUT_BYTES;
        let (mut have, mut need) = (Vec::new(), Vec::new());
        let answer = exchange.reconcile_with_ids(&payload, &mut have, &mut need).map_err(|_| Failure::Broken)?;
        // They come in no order that could be repeated.
        need.sort_unstable();
        self.unclassified.extend(need.into_iter().map(|id| EventId::from_byte_array(id.to_bytes())));
        if answer.is_none() {
            self.end_exchange();
        }
        Ok(answer.map(|payload| hex_string(&payload)))
    }

    /// What was found, for the caller to look up.
    pub fn take_unclassified(&mut self, now: Instant) -> Vec<EventId> {
        if self.next_look().is_some_and(|at| at <= now) {
            self.unclassified = std::mem::take(&mut self.elsewhere);
            self.look_after = self.look_after.saturating_mul(2);
            // What has come from there is new all the same.
            self.new += self.unclassified.len();
        }
        std::mem::take(&mut self.unclassified)
    }

    /// Whether what another relay is being asked for may be left to that one for a while.
    pub fn has_patience(&self) -> bool {
        self.look_after <= ELSEWHERE_WAIT_MAX
    }

    /// Of what was found, these are being fetched from another relay.
    pub fn add_claimed(&mut self, ids: Vec<EventId>, now: Instant) {
        if self.elsewhere.is_empty() && !ids.is_empty() {
            self.look_at = now + self.look_after;
        }
        self.elsewhere.extend(ids);
    }

    /// When what is fetched from elsewhere should be looked up again, if nothing else is left to do.
    pub fn next_look(&self) -> Option<Instant> {
        (!self.elsewhere.is_empty() && !self.is_occupied()).then_some(self.look_at)
    }

    /// Whether something is under way, or to be asked for.
    fn is_occupied(&self) -> bool {
        let waits = !self.again.is_empty() || !self.needed.is_empty() || !self.late.is_empty();
        self.exchange.is_some() || !self.unclassified.is_empty() || waits || self.in_flight > 0
    }

    /// Of what was found, these are neither held nor known to be of no use.
    pub fn add_needed(&mut self, ids: Vec<EventId>) {
        self.needed.extend(ids.into_iter().filter(|id| !self.useless.contains(id)));
    }

    /// Whether so much is needed that it should be fetched before more is looked for.
    pub fn is_full(&self) -> bool {
        self.exchange.is_some() && self.needed.len() + self.elsewhere.len() > RECONCILE_NEEDED_MAX
    }

    /// Ends the exchange before its end; another pass will follow.
    pub fn cut(&mut self) {
        self.cut |= self.exchange.is_some();
        self.end_exchange();
    }

    fn end_exchange(&mut self) {
        self.exchange = None;
        self.held = 0;
    }

    /// The next ids to ask for, at most `max`, none of which is `asked` for already.
    pub fn next_batch(&mut self, max: usize, asked: &BTreeSet<EventId>) -> Option<Batch> {
        let free = |batch: &Batch| batch.left.is_disjoint(asked);
        let batch = match self.again.iter().position(free) {
            Some(n) => self.cut_batch(n, max),
            None => {
                if self.needed.is_empty() {
                    self.needed = std::mem::take(&mut self.late);
                }
                let left: BTreeSet<EventId> = self.needed.difference(asked).take(max).copied().collect();
                left.iter().for_each(|id| _ = self.needed.remove(id));
                Batch { asked: left.len(), left, unproductive: 0 }
            }
        };
        (!batch.left.is_empty()).then(|| {
            self.in_flight += 1;
            batch
        })
    }

    /// Takes one of the batches that wait to be asked for again; what is beyond `max` goes on waiting.
    fn cut_batch(&mut self, n: usize, max: usize) -> Batch {
        let Batch { left: mut rest, unproductive, .. } = self.again.swap_remove(n);
        let left: BTreeSet<EventId> = std::iter::from_fn(|| rest.pop_first()).take(max).collect();
        if !rest.is_empty() {
            self.again.push(Batch { asked: rest.len(), left: rest, unproductive });
        }
        Batch { asked: left.len(), left, unproductive }
    }

    /// An event came that another reconciliation had asked for: it need not be fetched twice. Says whether it was needed.
    pub fn on_came_by_other(&mut self, id: &EventId) -> bool {
        let waited = self.needed.remove(id) || self.late.remove(id);
        self.new += usize::from(waited);
        waited
    }

    /// Whether a batch waits to be asked for again that holds this: it waits no longer once nobody else asks for it.
    pub fn waits_with(&self, id: &EventId) -> bool {
        self.again.iter().any(|batch| batch.left.contains(id))
    }

    /// An event of a batch has come. `is_new`: it was not known before.
    pub fn on_event(&mut self, id: EventId, is_new: bool) {
        match is_new {
            true => self.new += 1,
            false => _ = self.useless.insert(id),
        }
    }

    /// The relay has given what it has of a batch. Says whether it gave so little that fewer should be asked for at once.
    pub fn on_batch_end(&mut self, mut batch: Batch) -> bool {
        self.in_flight -= 1;
        let came = batch.asked - batch.left.len();
        let short = came <= batch.asked / 2 && batch.asked > FETCH_IDS_MIN;
        batch.unproductive = if came > 0 { 0 } else { batch.unproductive + 1 };
        if batch.unproductive >= UNPRODUCTIVE_MAX {
            self.unserved.extend(batch.left);
        } else if batch.unproductive > 0 {
            self.again.push(batch);
        } else {
            // What is not served is asked for with few ids that are.
            self.late.extend(batch.left);
        }
        short
    }

    /// A batch was not answered to its end, for a reason that says nothing about it: what has not come is asked for again.
    pub fn return_batch(&mut self, batch: Batch) {
        self.in_flight -= 1;
        if !batch.left.is_empty() {
            self.again.push(batch);
        }
    }

    /// Where it stands.
    pub fn verdict(&self) -> Verdict {
        let busy = self.is_occupied() || !self.elsewhere.is_empty();
        if self.useless.len() > RECONCILE_USELESS_MAX {
            Verdict::Failed(Failure::Endless)
        } else if self.unserved.len() >= FETCH_IDS_MAX {
            Verdict::Failed(Failure::Unserved)
        } else if busy {
            Verdict::Busy
        } else if !self.unserved.is_empty() {
            Verdict::Failed(Failure::Unserved)
        } else if self.passes > 0 && !self.cut && (self.new == 0 || !self.doubtful) {
            Verdict::Complete
        } else if self.passes >= RECONCILE_PASSES_MAX {
            Verdict::Failed(Failure::Endless)
        } else {
            Verdict::Again
        }
    }

    /// REQs for ids that are open.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Ids that were listed and not served.
    pub fn unserved(&self) -> &[EventId] {
        &self.unserved
    }

    /// Whether there has been a pass.
    pub fn was_opened(&self) -> bool {
        self.passes > 0
    }

    /// Whether the relay has answered once.
    pub fn has_answered(&self) -> bool {
        self.answered
    }

    /// Since when an answer to the exchange has been awaited.
    pub fn waiting_since(&self) -> Option<Instant> {
        self.exchange.as_ref().map(|_| self.heard_at)
    }

    /// Ids that it holds in memory, or may come to hold by fetching.
    pub fn ids_held(&self) -> usize {
        self.held + RECONCILE_NEEDED_MAX
    }
}

fn from_hex(hex: &str) -> Option<Vec<u8>> {
    let mut bytes = vec![0; hex.len() / 2];
    hex_decode(hex.as_bytes(), &mut bytes).ok().map(|()| bytes)
}

#[cfg(test)]
mod tests;
