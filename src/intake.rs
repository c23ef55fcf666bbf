//! The one way in for an event (spec section 8): known? asked for? valid? wanted? then into the batch. The order makes
//! the common case, a copy of what is held, cost one lookup: no parse of the rest, no signature.

use nostr::event::{Event, EventId};
use nostr::key::PublicKey;

use crate::fault::{Fault, Party, isolate};
use crate::limits::{AUTHOR_RATE, REFUSED_IDS_MAX};
use crate::policy::quota::{self, Payer};
use crate::policy::{self, Refusal, Tagged};
use crate::protocol::message::RawEvent;
use crate::protocol::repo::{ANNOUNCEMENT_KIND, Announcement, RepoAddr, expiration, is_root_kind, root_repos};
use crate::protocol::root::root_from_json;
use crate::settings::Settings;
use crate::shares::Buckets;
use crate::state::{Changes, State};
use crate::store::{Holder, Known, Removed, Seq, Store, StoreError};
use crate::time::{Now, UnixTime};

mod adoption;
pub(crate) mod recent;
mod unwanted;
mod verifier;

use adoption::Adoptions;
use recent::Recent;
use unwanted::Unwanted;
use verifier::Verifier;

/// What the operator or the protocol lets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// The whole policy.
    All,
    /// The same for a client: with what its author and the repos may have.
    Client,
    /// Valid events that were not deleted or superseded (`import --no-policy`).
    ValidOnly,
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the batch, and will be visible once that is durable.
    Staged {
        /// When it was created, vouched for by its signature.
        created_at: UnixTime,
        /// What it changes in what we follow.
        changes: Changes,
        /// Events it replaced or deleted.
        removed: usize,
    },
    /// It is stored.
    Stored {
        /// As the store knows it.
        created_at: UnixTime,
    },
    /// It is in the batch already.
    Pending {
        /// As the batch knows it.
        created_at: UnixTime,
    },
    /// It was refused for good earlier.
    RefusedBefore {
        /// Why.
        refusal: Refusal,
        /// As it was when it was judged.
        created_at: UnixTime,
    },
    /// It is refused.
    Refused {
        /// Why.
        refusal: Refusal,
        /// When it was created, if a valid signature vouches for that.
        created_at: Option<UnixTime>,
    },
}

/// What intake needs to see and change.
#[derive(Debug)]
pub struct IntakeContext<'a> {
    /// Both clocks.
    pub now: Now,
    /// What is kept.
    pub store: &'a mut Store,
    /// What is followed.
    pub state: &'a mut State,
    /// Bounds and lists.
    pub settings: &'a Settings,
}

/// The ids that were refused for good lately, and what verification remembers.
#[derive(Debug)]
pub struct Intake {
    refused: Recent<EventId, RefusedEvent>,
    unwanted: Unwanted,
    verifier: Verifier,
    adoptions: Adoptions,
    tagged: Tagged,
    /// What each author may have published of late.
    authors: Buckets<PublicKey>,
}

impl Default for Intake {
    fn default() -> Self {
        let (unwanted, verifier, adoptions, tagged) = Default::default();
        let (refused, authors) = (Recent::new(REFUSED_IDS_MAX), Buckets::new(AUTHOR_RATE));
        Intake { refused, unwanted, verifier, adoptions, tagged, authors }
    }
}

/// What is to become of an event.
enum Judged {
    /// Nothing more.
    Over(Outcome),
    /// It is taken in.
    Wanted {
        event: Event,
        change: StateChange,
        /// Who pays for it.
        holders: Vec<Holder>,
    },
}

/// What is remembered of an event that was refused for good.
#[derive(Clone, Copy, Debug)]
struct RefusedEvent {
    refusal: Refusal,
    created_at: UnixTime,
    /// The verdict holds from this moment on: a clock that was ahead for a while must not outlaw what has yet to expire.
    from: UnixTime,
}

impl Intake {
    /// Judges an event and, if it is wanted, puts it into the batch. `asked` says whether it matches a filter that we
    /// asked of the link it came on. `from`: whose machine is at that link's end, if there is one. A panic while the event is
    /// judged is that party's, and nothing has come of the event then.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn offer(
        &mut self,
        raw: &RawEvent<'_>,
        rules: Rules,
        from: Option<Party>,
        asked: impl FnOnce(&Event, &State) -> bool,
        context: &mut IntakeContext<'_>,
    ) -> Result<Result<Outcome, Fault>, StoreError> {
        let is_larger = raw.is_plainly_larger_than(context.settings.limits.event_bytes_max);
        // One lookup, which is the store's: what is known already comes most often.
        if !is_larger && let Some(outcome) = self.known(&raw.id, context)? {
            return Ok(Ok(outcome));
        }
        let judged = match from {
            None => self.judge(raw, rules, asked, context),
            Some(party) => match isolate(party, || self.judge(raw, rules, asked, context)) {
                Ok(judged) => judged,
                Err(fault) => {
                    self.forget_hints();
                    return Ok(Err(fault));
                }
            },
        };
        match judged? {
            Judged::Over(outcome) => Ok(Ok(outcome)),
            Judged::Wanted { event, change, holders } => self.take(&event, &change, &holders, context).map(Ok),
        }
    }

    /// What a panic has left half done spares work, and nothing depends on it.
    fn forget_hints(&mut self) {
        let Intake { adoptions, .. } = std::mem::take(self);
        self.adoptions = adoptions;
    }

    fn take(
        &mut self,
        event: &Event,
        change: &StateChange,
        holders: &[Holder],
        context: &mut IntakeContext<'_>,
    ) -> Result<Outcome, StoreError> {
        let unheard_of = change.announced().filter(|addr| context.state.repo_id(addr).is_none());
        let (changes, removed) = take_in(event, self.verifier.json(), change, holders, context)?;
        if let Some(addr) = unheard_of {
            self.adoptions.begin(addr, context)?;
        }
        self.unwanted.on_taken_in(event, removed.iter().any(|removed| !removed.superseded));
        Ok(Outcome::Staged { created_at: UnixTime::from(event.created_at), changes, removed: removed.len() })
    }

    /// Judges an event that is not known. Changes nothing but what spares work.
    fn judge(
        &mut self,
        raw: &RawEvent<'_>,
        rules: Rules,
        asked: impl FnOnce(&Event, &State) -> bool,
        context: &IntakeContext<'_>,
    ) -> Result<Judged, StoreError> {
        let over = |refusal, created_at| Ok(Judged::Over(Outcome::Refused { refusal, created_at }));
        let refuse = |refusal| over(refusal, None);
        let bytes_max = context.settings.limits.event_bytes_max;
        if raw.is_plainly_larger_than(bytes_max) {
            return refuse(Refusal::TooLarge);
        }
        let Ok(event) = raw.parse() else { return refuse(Refusal::Malformed) };
        if !asked(&event, context.state) {
            return refuse(Refusal::NotAsked);
        }
        if rules != Rules::ValidOnly
            && let Some((refusal, created_at)) = self.unwanted.verdict(&event.id, context.state)
        {
            return over(refusal, Some(created_at));
        }
        let bytes = match self.verifier.verify(&event, raw, bytes_max) {
            Ok(json) => json.len(),
            Err(refusal) => return refuse(refusal),
        };
        let created_at = UnixTime::from(event.created_at);
        if let Err(refusal) = by_policy(&event, rules, context, &mut self.tagged)? {
            if refusal.is_final() {
                let from = expiration(&event).filter(|_| refusal == Refusal::Expired).unwrap_or(UnixTime::EPOCH);
                self.refused.insert(event.id, RefusedEvent { refusal, created_at, from });
            } else if !self.tagged.was_cut_short() {
                // What the batch may yet bring to light is the store's to say.
                let settled = context.state.last_seq() <= context.store.last_seq();
                self.unwanted.remember(&event, refusal, settled, context.state);
            }
            return over(refusal, Some(created_at));
        }
        let holders = match rules {
            Rules::Client => match admit(&mut self.authors, &event, bytes, context)? {
                Ok(holders) => holders,
                // Not remembered: what a relay brings is not refused for it.
                Err(refusal) => return over(refusal, Some(created_at)),
            },
            Rules::All | Rules::ValidOnly => Vec::new(),
        };
        let change = StateChange::of(&event);
        Ok(Judged::Wanted { event, change, holders })
    }

    /// Whether an event that a relay has need not be fetched: it is held, waits in the batch, was deleted, or would be
    /// refused as it was before.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn has_no_use_for(&self, id: &EventId, now: Now, store: &Store, state: &State) -> Result<bool, StoreError> {
        let refused = self.refused.get(id).is_some_and(|before| before.from <= now.wall);
        Ok(refused || self.unwanted.contains(id, state) || store.known(id)?.is_some())
    }

    /// Whether root events are still being looked for that a repo announced lately has.
    pub fn is_adopting(&self) -> bool {
        self.adoptions.are_pending()
    }

    /// Goes on looking for them. Returns what relays are to be asked anew.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn adopt(&mut self, context: &mut IntakeContext<'_>) -> Result<Changes, StoreError> {
        self.adoptions.step(context)
    }

    /// Events have expired: what they superseded may be taken in again.
    pub fn on_expired(&mut self) {
        self.unwanted.on_expired();
    }

    /// Ids remembered as refused.
    pub fn refused_ids(&self) -> usize {
        self.refused.len()
    }

    fn known(&self, id: &EventId, context: &IntakeContext<'_>) -> Result<Option<Outcome>, StoreError> {
        Ok(match context.store.known(id)? {
            Some(Known::Stored { created_at, .. }) => Some(Outcome::Stored { created_at }),
            Some(Known::Pending { created_at }) => Some(Outcome::Pending { created_at }),
            Some(Known::Deleted { created_at }) => {
                Some(Outcome::RefusedBefore { refusal: Refusal::Deleted, created_at })
            }
            None => {
                let before = self.refused.get(id).filter(|before| before.from <= context.now.wall);
                before.map(|before| Outcome::RefusedBefore { refusal: before.refusal, created_at: before.created_at })
            }
        })
    }
}

/// Where an event stands on a page of a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At a time that a valid signature or the store vouches for.
    At(UnixTime),
    /// At a time that it claims: it is forged, or no event to us, though the relay serves and may sort it as one.
    Claimed(UnixTime),
    /// It claims no time.
    Nowhere,
}

impl Place {
    /// Of a refused event.
    pub fn of_refused(raw: &RawEvent<'_>) -> Place {
        let signed_at = raw.parse().ok().filter(|event| event.verify().is_ok()).map(|event| event.created_at);
        match (signed_at, raw.claimed_created_at()) {
            (Some(at), _) => Place::At(at.into()),
            (None, Some(at)) => Place::Claimed(at),
            (None, None) => Place::Nowhere,
        }
    }

    /// The time, if something vouches for it.
    pub fn vouched(self) -> Option<UnixTime> {
        match self {
            Place::At(at) => Some(at),
            Place::Claimed(_) | Place::Nowhere => None,
        }
    }
}

fn by_policy(
    event: &Event,
    rules: Rules,
    context: &IntakeContext<'_>,
    tagged: &mut Tagged,
) -> Result<Result<(), Refusal>, StoreError> {
    let by_clock = match rules {
        Rules::All | Rules::Client => policy::check_time(event, context.now.wall),
        Rules::ValidOnly => Ok(()),
    };
    if by_clock.is_err() {
        return Ok(by_clock);
    }
    let by_store = policy::check_history(event, context.store)?;
    if by_store.is_err() || rules == Rules::ValidOnly {
        return Ok(by_store);
    }
    let by_list = policy::check_lists(event, context.settings);
    if by_list.is_err() {
        return Ok(by_list);
    }
    policy::check_belongs(event, context.state, context.store, tagged)
}

/// Whether a client may publish an event that belongs here, as far as its author and the repos go, and who pays for it. Only
/// an event that is new and its author's own counts, so that nobody uses up what is another's.
fn admit(
    authors: &mut Buckets<PublicKey>,
    event: &Event,
    bytes: usize,
    context: &IntakeContext<'_>,
) -> Result<Result<Vec<Holder>, Refusal>, StoreError> {
    let holders = match quota::payer(event, context.state, context.store)? {
        Payer::Nobody => Vec::new(),
        Payer::Holders(_) if !authors.has(&event.pubkey, context.now.mono) => return Ok(Err(Refusal::AuthorRate)),
        Payer::Holders(holders) => holders,
    };
    let by_quota = quota::check(event, bytes, &holders, &context.settings.limits, context.state, context.store)?;
    if by_quota.is_ok() && !holders.is_empty() {
        authors.take(event.pubkey, context.now.mono);
    }
    Ok(by_quota.map(|()| holders))
}

/// Puts an event into the batch and applies it to what we follow. The state runs ahead of the disk by at most one batch,
/// so that an issue may follow its announcement at once; nothing is served or acknowledged before the commit.
fn take_in(
    event: &Event,
    json: &str,
    change: &StateChange,
    holders: &[Holder],
    context: &mut IntakeContext<'_>,
) -> Result<(Changes, Vec<Removed>), StoreError> {
    let staged = context.store.stage_written(event, json)?;
    context.store.charge(staged.seq, holders)?;
    let mut changes = Changes::default();
    for removed in &staged.removed {
        changes.merge(remove_from_state(removed, context.state));
    }
    changes.merge(change.apply(staged.seq, context.state));
    Ok((changes, staged.removed))
}

/// Takes an event out of the state that the store no longer holds.
pub fn remove_from_state(removed: &Removed, state: &mut State) -> Changes {
    match removed.kind {
        kind if is_root_kind(kind) => {
            state.remove_root(&removed.id);
            Changes::default()
        }
        ANNOUNCEMENT_KIND if !removed.superseded => {
            let identifier = removed.identifier.clone().unwrap_or_default();
            state.remove_announcement(&RepoAddr { author: removed.author, identifier })
        }
        _ => Changes::default(),
    }
}

/// What an event means to the two maps.
#[derive(Debug)]
pub enum StateChange {
    /// Nothing.
    None,
    /// The current announcement of a repo.
    Announcement(Box<Announcement>),
    /// A root event and its repos.
    Root(EventId, Vec<RepoAddr>),
}

impl StateChange {
    /// Reads an event.
    pub fn of(event: &Event) -> StateChange {
        match event.kind.as_u16() {
            ANNOUNCEMENT_KIND => Announcement::from_event(event, usize::MAX)
                .map_or(StateChange::None, |announcement| StateChange::Announcement(Box::new(announcement))),
            kind if is_root_kind(kind) => StateChange::Root(event.id, root_repos(event)),
            _ => StateChange::None,
        }
    }

    /// Reads the JSON of a stored event of some kind; `None` if it is none.
    pub fn of_stored(kind: u16, json: &str) -> Option<StateChange> {
        match is_root_kind(kind) {
            true => root_from_json(json).map(|(id, repos)| StateChange::Root(id, repos)),
            false => Event::from_json(json).ok().map(|event| StateChange::of(&event)),
        }
    }

    /// The repo that it announces.
    pub fn announced(&self) -> Option<&RepoAddr> {
        match self {
            StateChange::Announcement(announcement) => Some(&announcement.addr),
            StateChange::None | StateChange::Root(..) => None,
        }
    }

    /// Applies it, as store sequence number `seq`.
    pub fn apply(&self, seq: Seq, state: &mut State) -> Changes {
        match self {
            StateChange::None => Changes::default(),
            StateChange::Announcement(announcement) => state.set_announcement(announcement, seq),
            StateChange::Root(id, repos) => state.add_root(*id, seq, repos),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::verifier::tests::event;
    use super::*;
    use crate::sync::testing::settings;
    use crate::time::Instant;

    fn offer(intake: &mut Intake, json: &str, rules: Rules, store: &mut Store) -> Outcome {
        let settings = settings();
        let mut state = State::new(settings.clone());
        let now = Now { mono: Instant::ZERO, wall: UnixTime::from_secs(1_000) };
        let raw = RawEvent::from_json(json).unwrap();
        let mut context = IntakeContext { now, store, state: &mut state, settings: &settings };
        intake.offer(&raw, rules, None, |_, _| true, &mut context).unwrap().unwrap()
    }

    #[test]
    fn a_known_id_is_answered_before_anything_else_of_the_event_is_looked_at() {
        let (mut intake, mut store) = (Intake::default(), Store::in_memory());
        let genuine = event(7, "genuine");
        let json = genuine.as_json();
        let altered = json.replace("genuine", "altered");
        let nonsense = format!(r#"{{"id":"{}","kind":"none"}}"#, genuine.id.to_hex());
        let created_at = UnixTime::from_secs(7);

        let forged = Outcome::Refused { refusal: Refusal::Forged, created_at: None };
        assert_eq!(offer(&mut intake, &altered, Rules::ValidOnly, &mut store), forged);
        let outcome = offer(&mut intake, &nonsense, Rules::ValidOnly, &mut store);
        assert!(matches!(outcome, Outcome::Refused { refusal: Refusal::Malformed, .. }), "{outcome:?}");
        let staged = offer(&mut intake, &json, Rules::ValidOnly, &mut store);
        assert!(matches!(staged, Outcome::Staged { .. }), "a forged copy has not marked its id: {staged:?}");

        let older = json.replace("\"created_at\":7,", "\"created_at\":6,");
        assert_ne!(older, json);
        for copy in [&json, &altered, &nonsense, &older] {
            assert_eq!(offer(&mut intake, copy, Rules::All, &mut store), Outcome::Pending { created_at });
        }
        store.commit().unwrap();
        for copy in [&json, &altered, &nonsense, &older] {
            assert_eq!(offer(&mut intake, copy, Rules::All, &mut store), Outcome::Stored { created_at });
        }
    }

    /// The same event with the first characters of its content escaped.
    fn escaped(json: &str, content: &str, characters: usize) -> String {
        let mut written = String::new();
        for (n, character) in content.chars().enumerate() {
            match n < characters {
                true => written.push_str(&format!("\\u{:04x}", u32::from(character))),
                false => written.push(character),
            }
        }
        json.replace(content, &written)
    }

    #[test]
    fn an_event_is_measured_in_its_canonical_form() {
        let (mut intake, mut store) = (Intake::default(), Store::in_memory());
        let bytes_max = settings().limits.event_bytes_max;
        let frame = event(1, "").as_json().len();
        let mut n = 0;
        let mut outcome = |content: String, escapes: usize| {
            n += 1;
            let json = event(n, &content).as_json();
            offer(&mut intake, &escaped(&json, &content, escapes), Rules::ValidOnly, &mut store)
        };
        let taken = |outcome: Outcome| matches!(outcome, Outcome::Staged { .. });
        let too_large = Outcome::Refused { refusal: Refusal::TooLarge, created_at: None };
        let cyrillic = |bytes: usize| "\u{44f}".repeat(bytes / 2);
        assert!(3 * 68_000 > bytes_max, "more than allowed on the wire");
        assert!(taken(outcome(cyrillic(68_000), 34_000)));
        let ascii = |bytes: usize| "x".repeat(bytes);
        // Plain, escaped a little, and escaped throughout.
        for escapes in [0, 1, usize::MAX] {
            assert!(taken(outcome(ascii(bytes_max - frame), escapes)), "{escapes}");
            assert_eq!(outcome(ascii(bytes_max - frame + 1), escapes), too_large, "{escapes}");
        }
        // White space is no reason to read more than any event needs.
        let padded = |spaces: usize| event(9, "x").as_json().replacen('{', &format!("{{{}", " ".repeat(spaces)), 1);
        assert_eq!(offer(&mut intake, &padded(6 * bytes_max), Rules::ValidOnly, &mut store), too_large);
        assert!(taken(offer(&mut intake, &padded(bytes_max), Rules::ValidOnly, &mut store)));
    }

    #[test]
    fn only_a_final_verdict_on_a_valid_event_is_remembered() {
        let (mut intake, mut store) = (Intake::default(), Store::in_memory());
        let json = event(9, "belongs nowhere").as_json();
        for _ in 0..2 {
            let outcome = offer(&mut intake, &json, Rules::All, &mut store);
            let created_at = Some(UnixTime::from_secs(9));
            assert_eq!(outcome, Outcome::Refused { refusal: Refusal::Unrelated, created_at });
        }
        assert_eq!(intake.refused_ids(), 0, "what is unrelated today may belong tomorrow");
    }

    #[test]
    fn what_was_refused_of_late_is_not_verified_again_until_what_that_hinges_on_has_changed() {
        let (mut intake, mut store) = (Intake::default(), Store::in_memory());
        let settings = settings();
        let mut state = State::new(settings.clone());
        let now = Now { mono: Instant::ZERO, wall: UnixTime::from_secs(1_000) };
        let json = event(9, "belongs nowhere").as_json();
        // Whoever looks at its signature says so.
        let altered = json.replace("nowhere", "somewhere");
        let mut offer = |json: &str, rules: Rules, state: &mut State| {
            let raw = RawEvent::from_json(json).unwrap();
            let mut context = IntakeContext { now, store: &mut store, state, settings: &settings };
            intake.offer(&raw, rules, None, |_, _| true, &mut context).unwrap().unwrap()
        };
        let unrelated = Outcome::Refused { refusal: Refusal::Unrelated, created_at: Some(UnixTime::from_secs(9)) };
        let forged = Outcome::Refused { refusal: Refusal::Forged, created_at: None };
        assert_eq!(offer(&json, Rules::All, &mut state), unrelated);
        assert_eq!(offer(&altered, Rules::All, &mut state), unrelated);
        assert_eq!(offer(&altered, Rules::ValidOnly, &mut state), forged, "an import asks for no policy");
        let _ = state.set_announcement(&crate::sync::testing::announcement(1, "a", &[]), 5);
        assert_eq!(offer(&altered, Rules::All, &mut state), forged);
        assert_eq!(offer(&json, Rules::All, &mut state), unrelated);
        assert_eq!(offer(&altered, Rules::All, &mut state), forged, "the batch may have something that tags it");
    }

    #[test]
    fn a_forged_copy_keeps_nothing_from_being_fetched() {
        let (mut intake, mut store) = (Intake::default(), Store::in_memory());
        let state = State::new(settings());
        let now = Now { mono: Instant::ZERO, wall: UnixTime::from_secs(1_000) };
        let genuine = event(9, "belongs nowhere");
        let json = genuine.as_json();
        let large = json.replace("nowhere", &"x".repeat(settings().limits.event_bytes_max));
        let older = json.replace("\"created_at\":9,", "\"created_at\":8,");
        let expired = json.replace("\"tags\":[]", "\"tags\":[[\"expiration\",\"10\"]]");
        for copy in [&json.replace("nowhere", "here"), &large, &older, &expired] {
            assert_ne!(copy, &json);
            let outcome = offer(&mut intake, copy, Rules::All, &mut store);
            assert!(matches!(outcome, Outcome::Refused { created_at: None, .. }), "{outcome:?}");
            assert!(!intake.has_no_use_for(&genuine.id, now, &store, &state).unwrap());
            assert_eq!(intake.refused_ids(), 0);
        }
        offer(&mut intake, &json, Rules::All, &mut store);
        assert!(intake.has_no_use_for(&genuine.id, now, &store, &state).unwrap(), "nothing follows its author");
    }

    #[test]
    fn what_was_refused_for_good_costs_one_lookup_ever_after() {
        let (mut intake, mut store) = (Intake::default(), Store::in_memory());
        let mut settings = settings();
        let genuine = event(9, "by someone unwelcome");
        settings.deny_authors = vec![genuine.pubkey];
        let mut state = State::new(settings.clone());
        let now = Now { mono: Instant::ZERO, wall: UnixTime::from_secs(1_000) };
        let refusal = Refusal::DeniedAuthor;
        let created_at = UnixTime::from_secs(9);
        // Altered copies come first: they must not mark the id, and afterwards nothing of them is looked at.
        let json = genuine.as_json();
        let altered = json.replace("unwelcome", "else");
        let mut offer = |json: &str| {
            let raw = RawEvent::from_json(json).unwrap();
            let mut context = IntakeContext { now, store: &mut store, state: &mut state, settings: &settings };
            intake.offer(&raw, Rules::All, None, |_, _| true, &mut context).unwrap().unwrap()
        };
        assert_eq!(offer(&altered), Outcome::Refused { refusal: Refusal::Forged, created_at: None });
        assert_eq!(offer(&json), Outcome::Refused { refusal, created_at: Some(created_at) });
        for copy in [&json, &altered] {
            assert_eq!(offer(copy), Outcome::RefusedBefore { refusal, created_at });
        }
    }

    #[test]
    fn a_panic_while_an_event_is_judged_leaves_nothing_of_it() {
        let settings = settings();
        let (mut intake, mut store, mut state) = (Intake::default(), Store::in_memory(), State::new(settings.clone()));
        let now = Now { mono: Instant::ZERO, wall: UnixTime::from_secs(1_000) };
        let json = event(1, "").as_json();
        let raw = RawEvent::from_json(&json).unwrap();
        let mut context = IntakeContext { now, store: &mut store, state: &mut state, settings: &settings };
        let bug = |_: &Event, _: &State| panic!("a bug");
        let fault = intake.offer(&raw, Rules::ValidOnly, Some(Party::Client(1)), bug, &mut context).unwrap();
        assert!(fault.unwrap_err().to_string().contains("a bug"));
        assert!(context.store.batch_is_empty());
        let again = intake.offer(&raw, Rules::ValidOnly, Some(Party::Client(1)), |_, _| true, &mut context).unwrap();
        assert!(matches!(again, Ok(Outcome::Staged { .. })));
    }
}
