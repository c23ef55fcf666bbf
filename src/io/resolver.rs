//! Names to addresses on the same poll, without blocking and without a thread: a stub resolver (RFC 1034 section 5.3.1).
//!
//! It asks the servers of resolv.conf for A and AAAA at once, each question over a socket of its own, and remembers what
//! they say for as long as they allow. A try that fails or is not answered in time goes to the next server, round and
//! round, `attempts` times. Names that have had addresses before are asked for first, and others that hang make room for
//! those that queue: a crowd of names that nobody answers for delays no relay. It leaves recursion, DNSSEC and EDNS to the
//! servers, and whether an address may be dialled to [`crate::protocol::address`].
//!
//! The caller owns the poll and the clock: it hands in ready tokens and `now`, and drains
//! [`poll_answer`](Resolver::poll_answer) after every other call. Names are absolute (see [`ResolverConfig`]).

mod cache;
mod config;
mod exchange;
mod known;
mod name;
mod packet;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::IpAddr;

use mio::{Registry, Token};
use slab::Slab;

use self::cache::Cache;
use self::exchange::{Exchange, Step, Task};
use self::known::Known;
use self::name::Host;
use self::packet::{Family, Reply};
use crate::limits::{
    DNS_ADDRESSES_MAX, DNS_CACHE_NAMES_MAX, DNS_LOOKUPS_MAX, DNS_NEGATIVE_TTL, DNS_OTHER_FAMILY_WAIT,
    DNS_STRANGER_TIME, DNS_STRANGERS_MAX, DNS_TTL_SECS_MAX, DNS_TTL_SECS_MIN, DNS_WAITING_MAX,
};
use crate::protocol::address;
use crate::time::{Duration, Instant, Now};

pub use self::config::ResolverConfig;
#[cfg(any(test, feature = "fuzzing"))]
pub use self::packet::fuzz_answer;

/// Tokens that a resolver may use, from its first on: one per question under way.
pub const RESOLVER_TOKENS: usize = 2 * DNS_LOOKUPS_MAX;

/// The addresses of a name, at least one and at most [`DNS_ADDRESSES_MAX`], in the order to dial them: IPv6 first, then
/// families in turn (RFC 8305).
pub type Answer = Result<Vec<IpAddr>, ResolveError>;

/// One wish to know a name's addresses. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LookupId(u64);

/// What [`Resolver::resolve`] can say at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// Known without asking: an address, the hosts file, the cache, or refused.
    Answered(Answer),
    /// The answer comes from [`Resolver::poll_answer`] under this id, unless cancelled.
    Pending(LookupId),
}

/// Why a name has no addresses for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolveError {
    /// The name does not exist.
    NoSuchName,
    /// The name exists, but has neither A nor AAAA records.
    NoAddress,
    /// Servers answered, but none gave a usable answer in any try.
    ServersFailed,
    /// No server answered in any try, or could be asked.
    ServersSilent,
    /// Not a host name (RFC 1035, RFC 1123).
    BadName,
    /// [`DNS_WAITING_MAX`] lookups wait already, or this one has taken [`DNS_STRANGER_TIME`] and others wait.
    Busy,
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ResolveError::NoSuchName => "no such name",
            ResolveError::NoAddress => "name without addresses",
            ResolveError::ServersFailed => "name servers failed",
            ResolveError::ServersSilent => "no name server answered",
            ResolveError::BadName => "not a host name",
            ResolveError::Busy => "too many lookups",
        })
    }
}

impl std::error::Error for ResolveError {}

/// The stub resolver. See the module.
#[derive(Debug)]
pub struct Resolver {
    config: ResolverConfig,
    first_token: usize,
    cache: Cache,
    /// Names being asked for or queued. All who wish the same name wait for the same questions.
    names: BTreeMap<String, Pending>,
    /// The queued ones of `names`, first come first: those that have had addresses before, and others.
    queue: VecDeque<String>,
    strangers: VecDeque<String>,
    known: Known,
    /// How many of `names` are being asked for.
    asking: usize,
    /// Of these, those that have never had addresses, by when that began.
    asking_strangers: BTreeSet<(Instant, String)>,
    /// Questions under way, by token less `first_token`.
    exchanges: Slab<Exchange>,
    waiting: BTreeMap<LookupId, String>,
    answers: VecDeque<(LookupId, Answer)>,
    last_id: u64,
}

#[derive(Debug)]
struct Pending {
    waiters: Vec<LookupId>,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    Queued,
    Asking { v4: Half, v6: Half, since: Instant },
}

/// What is known of one address family.
#[derive(Debug)]
enum Half {
    /// The key of the question under way.
    Asking(usize),
    /// The last word; never [`Reply::Truncated`].
    Done(Reply),
}

impl Resolver {
    /// A resolver without sockets yet. Tokens from `first_token` on, [`RESOLVER_TOKENS`] of them, must be its own.
    pub fn new(config: ResolverConfig, first_token: usize) -> Self {
        assert!(!config.servers.is_empty() && config.attempts > 0, "a resolver that asks nobody");
        Resolver {
            config,
            first_token,
            cache: Cache::new(DNS_CACHE_NAMES_MAX),
            names: BTreeMap::new(),
            queue: VecDeque::new(),
            strangers: VecDeque::new(),
            known: Known::default(),
            asking: 0,
            asking_strangers: BTreeSet::new(),
            exchanges: Slab::new(),
            waiting: BTreeMap::new(),
            answers: VecDeque::new(),
            last_id: 0,
        }
    }

    /// Takes another configuration and forgets what was remembered. Questions under way end as they began.
    pub fn reload(&mut self, config: ResolverConfig) {
        assert!(!config.servers.is_empty() && config.attempts > 0, "a resolver that asks nobody");
        self.config = config;
        self.cache.clear();
    }

    /// Begins to look up `name`: a host name or an address as in a URL, IPv6 without brackets.
    pub fn resolve(&mut self, now: Now, registry: &Registry, name: &str) -> Lookup {
        let name = match name::parse(name) {
            Host::Name(name) => name,
            Host::Address(ip) => return Lookup::Answered(Ok(vec![ip])),
            Host::Bad => return Lookup::Answered(Err(ResolveError::BadName)),
        };
        if let Some(answer) = self.known(now.mono, &name) {
            return Lookup::Answered(answer);
        }
        if self.waiting.len() + self.answers.len() >= DNS_WAITING_MAX {
            return Lookup::Answered(Err(ResolveError::Busy));
        }
        self.last_id += 1;
        let id = LookupId(self.last_id);
        self.waiting.insert(id, name.clone());
        match self.names.get_mut(&name) {
            Some(pending) => pending.waiters.push(id),
            None => {
                self.names.insert(name.clone(), Pending { waiters: vec![id], progress: Progress::Queued });
                match self.known.contains(&name) {
                    true => self.queue.push_back(name),
                    false => self.strangers.push_back(name),
                }
                self.start_queued(now, registry);
            }
        }
        Lookup::Pending(id)
    }

    /// Forgets a lookup: no answer comes for it any more. Questions that nobody else waits for end.
    pub fn cancel(&mut self, now: Now, registry: &Registry, id: LookupId) {
        self.answers.retain(|(answered, _)| *answered != id);
        let Some(name) = self.waiting.remove(&id) else { return };
        let pending = self.names.get_mut(&name).expect("who waits, waits for a pending name");
        pending.waiters.retain(|waiter| *waiter != id);
        if !pending.waiters.is_empty() {
            return;
        }
        self.stop(registry, &name);
        self.start_queued(now, registry);
    }

    /// Asks for a name no more. Returns who has waited for it.
    fn stop(&mut self, registry: &Registry, name: &str) -> Vec<LookupId> {
        let pending = self.names.remove(name).expect("only a pending name is stopped");
        match pending.progress {
            Progress::Queued => {
                self.queue.retain(|queued| queued != name);
                self.strangers.retain(|queued| queued != name);
            }
            Progress::Asking { v4, v6, since } => {
                self.note_asked(name, since);
                for half in [v4, v6] {
                    if let Half::Asking(key) = half {
                        self.close(registry, key);
                    }
                }
            }
        }
        pending.waiters
    }

    /// A name is asked for no more.
    fn note_asked(&mut self, name: &str, since: Instant) {
        self.asking -= 1;
        self.asking_strangers.remove(&(since, name.to_owned()));
    }

    fn answer(&mut self, waiters: Vec<LookupId>, answer: &Answer) {
        for id in waiters {
            self.waiting.remove(&id);
            self.answers.push_back((id, answer.clone()));
        }
    }

    /// Whether readiness of `token` is for [`on_ready`](Self::on_ready).
    pub fn owns(&self, token: Token) -> bool {
        (self.first_token..self.first_token + RESOLVER_TOKENS).contains(&token.0)
    }

    /// The socket of `token` is ready. A token of a socket that is gone does nothing.
    pub fn on_ready(&mut self, now: Now, registry: &Registry, token: Token) {
        let Some(key) = token.0.checked_sub(self.first_token) else { return };
        let Some(exchange) = self.exchanges.get_mut(key) else { return };
        let step = exchange.on_ready();
        if step == Step::Wait {
            return;
        }
        let (task, server) = self.close(registry, key);
        match step {
            Step::Wait => {}
            Step::Done(Reply::Truncated) => {
                let deadline = now.mono + self.config.timeout;
                let task = Task { answered: true, ..task };
                let (name, family) = (task.name.clone(), task.family);
                let retry = task.clone();
                match self.open(|token| Exchange::tcp(registry, token, task, server, deadline)) {
                    Some(key) => self.settle(now, &name, family, Half::Asking(key)),
                    None => self.retry(now, registry, retry),
                }
            }
            Step::Done(Reply::ServerFailed) => {
                log::debug!("resolver: {server} failed for {}", task.name);
                self.retry(now, registry, Task { answered: true, ..task });
            }
            Step::Failed => {
                log::debug!("resolver: {server} gave no answer for {}", task.name);
                self.retry(now, registry, task);
            }
            Step::Done(reply) => self.settle(now, &task.name, task.family, Half::Done(reply)),
        }
        self.start_queued(now, registry);
    }

    /// Ends the tries whose time is over.
    pub fn on_time(&mut self, now: Now, registry: &Registry) {
        let due: Vec<usize> =
            self.exchanges.iter().filter(|(_, e)| e.deadline() <= now.mono).map(|(key, _)| key).collect();
        for key in due {
            let (task, server) = self.close(registry, key);
            log::debug!("resolver: {server} did not answer for {}", task.name);
            self.retry(now, registry, task);
        }
        self.start_queued(now, registry);
    }

    /// When to call [`on_time`](Self::on_time); at once while answers wait to be polled, `None` while nothing is asked.
    pub fn next_deadline(&self) -> Option<Instant> {
        if !self.answers.is_empty() {
            return Some(Instant::ZERO);
        }
        let room = self.asking_strangers.first().map(|(since, _)| *since + DNS_STRANGER_TIME);
        let room = room.filter(|_| !self.queue.is_empty() || !self.strangers.is_empty());
        self.exchanges.iter().map(|(_, exchange)| exchange.deadline()).chain(room).min()
    }

    /// The next answer, in the order they were found.
    pub fn poll_answer(&mut self) -> Option<(LookupId, Answer)> {
        self.answers.pop_front()
    }

    /// Lookups without an answer yet, for status and metrics.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Names whose answer is remembered, for status and metrics.
    pub fn cached(&self) -> usize {
        self.cache.len()
    }

    fn known(&self, now: Instant, name: &str) -> Option<Answer> {
        let from_list = |ips: &[IpAddr]| {
            let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = ips.iter().partition(|ip| ip.is_ipv4());
            let ordered = address::interleave(&v6, &v4, DNS_ADDRESSES_MAX);
            if ordered.is_empty() { Err(ResolveError::NoSuchName) } else { Ok(ordered) }
        };
        if let Some(ips) = self.config.hosts.get(name) {
            return Some(from_list(ips));
        }
        if let Some(ips) = name::special(name) {
            return Some(from_list(&ips));
        }
        self.cache.find(now, name).cloned()
    }

    /// Asks for queued names while there is room.
    fn start_queued(&mut self, now: Now, registry: &Registry) {
        while let Some(name) = self.next_queued(now, registry) {
            self.asking += 1;
            if !self.known.contains(&name) {
                self.asking_strangers.insert((now.mono, name.clone()));
            }
            let task = |family| Task { name: name.clone(), family, tries: 0, answered: false, give_up: None };
            let v6 = self.ask(now, registry, task(Family::V6));
            let v4 = self.ask(now, registry, task(Family::V4));
            let pending = self.names.get_mut(&name).expect("what is queued is pending");
            pending.progress = Progress::Asking { v4, v6, since: now.mono };
            self.conclude(now, &name);
        }
    }

    /// The next queued name for which there is room. Those that have had addresses come first.
    fn next_queued(&mut self, now: Now, registry: &Registry) -> Option<String> {
        if !self.queue.is_empty() {
            let has_room = self.asking < DNS_LOOKUPS_MAX || self.make_room(now, registry);
            return if has_room { self.queue.pop_front() } else { None };
        }
        if self.strangers.is_empty() {
            return None;
        }
        let has_room = self.asking < DNS_LOOKUPS_MAX && self.asking_strangers.len() < DNS_STRANGERS_MAX;
        if has_room || self.make_room(now, registry) { self.strangers.pop_front() } else { None }
    }

    /// Gives up the stranger that has been asked for longest, if that is long enough. Says whether one was.
    fn make_room(&mut self, now: Now, registry: &Registry) -> bool {
        let Some((since, name)) = self.asking_strangers.first().cloned() else { return false };
        if since + DNS_STRANGER_TIME > now.mono {
            return false;
        }
        log::debug!("resolver: {name} gives way");
        let waiters = self.stop(registry, &name);
        self.answer(waiters, &Err(ResolveError::Busy));
        true
    }

    /// Sends the question of `task` to the server whose turn it is, passing over those that cannot even be sent to.
    fn ask(&mut self, now: Now, registry: &Registry, mut task: Task) -> Half {
        let tries_max = self.config.servers.len() * self.config.attempts;
        while task.tries < tries_max && task.give_up.is_none_or(|give_up| now.mono < give_up) {
            let server = self.config.servers[task.tries % self.config.servers.len()];
            let deadline = now.mono + self.config.timeout;
            let attempt = task.clone();
            match self.open(|token| Exchange::udp(registry, token, attempt, server, deadline)) {
                Some(key) => return Half::Asking(key),
                None => task.tries += 1,
            }
        }
        Half::Done(if task.answered { Reply::ServerFailed } else { Reply::ServerSilent })
    }

    fn retry(&mut self, now: Now, registry: &Registry, mut task: Task) {
        task.tries += 1;
        let (name, family) = (task.name.clone(), task.family);
        let half = self.ask(now, registry, task);
        self.settle(now, &name, family, half);
    }

    fn open(&mut self, open: impl FnOnce(Token) -> std::io::Result<Exchange>) -> Option<usize> {
        let slot = self.exchanges.vacant_entry();
        let key = slot.key();
        assert!(key < RESOLVER_TOKENS, "more questions than names allow");
        match open(Token(self.first_token + key)) {
            Ok(exchange) => {
                slot.insert(exchange);
                Some(key)
            }
            Err(e) => {
                log::debug!("resolver: {e}");
                None
            }
        }
    }

    fn close(&mut self, registry: &Registry, key: usize) -> (Task, std::net::SocketAddr) {
        self.exchanges.remove(key).close(registry)
    }

    fn settle(&mut self, now: Now, name: &str, family: Family, half: Half) {
        assert!(!matches!(half, Half::Done(Reply::Truncated)), "a cut answer is no last word");
        match self.names.get_mut(name).map(|pending| &mut pending.progress) {
            Some(Progress::Asking { v4, v6, .. }) => match family {
                Family::V4 => *v4 = half,
                Family::V6 => *v6 = half,
            },
            _ => unreachable!("a question without a name that asks it"),
        }
        self.conclude(now, name);
    }

    /// Answers all who wait for `name` once both families have their last word.
    ///
    /// When the first has brought addresses, the other gets [`DNS_OTHER_FAMILY_WAIT`] and no more: servers that drop AAAA
    /// questions are common, and a relay must not be out of reach because of one.
    fn conclude(&mut self, now: Now, name: &str) {
        let Some(Pending { progress: Progress::Asking { v4, v6, since }, .. }) = self.names.get(name) else {
            unreachable!("only a name being asked for concludes")
        };
        let since = *since;
        let (v4, v6) = match (v4, v6) {
            (Half::Done(v4), Half::Done(v6)) => (v4, v6),
            (Half::Asking(key), Half::Done(Reply::Addresses { .. }))
            | (Half::Done(Reply::Addresses { .. }), Half::Asking(key)) => {
                self.exchanges[*key].task.give_up.get_or_insert(now.mono + DNS_OTHER_FAMILY_WAIT);
                return;
            }
            _ => return,
        };
        let (answer, lasts) = combine(v4, v6);
        if let Some(lasts) = lasts {
            self.cache.insert(name, answer.clone(), now.mono + lasts);
        }
        self.note_asked(name, since);
        if answer.is_ok() {
            self.known.insert(name);
        }
        let pending = self.names.remove(name).expect("found above");
        self.answer(pending.waiters, &answer);
    }
}

/// One answer from the last words on both families, and how long to remember it: not at all if servers failed.
///
/// An answer with only one family's addresses because the other failed is short-lived, so that the other is asked again.
fn combine(v4: &Reply, v6: &Reply) -> (Answer, Option<Duration>) {
    let part = |reply: &Reply| match reply {
        Reply::Addresses { addresses, ttl_secs } => (addresses.clone(), *ttl_secs),
        _ => (Vec::new(), u32::MAX),
    };
    let ((v4_ips, v4_ttl), (v6_ips, v6_ttl)) = (part(v4), part(v6));
    let addresses = address::interleave(&v6_ips, &v4_ips, DNS_ADDRESSES_MAX);
    let has_failed = [v4, v6].iter().any(|reply| matches!(reply, Reply::ServerFailed | Reply::ServerSilent));
    if !addresses.is_empty() {
        let ttl = Duration::from_secs(v4_ttl.min(v6_ttl).clamp(DNS_TTL_SECS_MIN, DNS_TTL_SECS_MAX).into());
        return (Ok(addresses), Some(if has_failed { ttl.min(DNS_NEGATIVE_TTL) } else { ttl }));
    }
    if (v4, v6) == (&Reply::ServerSilent, &Reply::ServerSilent) {
        return (Err(ResolveError::ServersSilent), None);
    }
    if has_failed {
        return (Err(ResolveError::ServersFailed), None);
    }
    let error = match (v4, v6) {
        (Reply::NoSuchName, Reply::NoSuchName) => ResolveError::NoSuchName,
        _ => ResolveError::NoAddress,
    };
    (Err(error), Some(DNS_NEGATIVE_TTL))
}

#[cfg(test)]
mod tests;
