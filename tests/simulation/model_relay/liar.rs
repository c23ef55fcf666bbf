//! Relays that do not mean well, or are broken beyond any implementation's quirks: what they do to answers.

use super::ModelRelay;
use super::talk::{Act, Reply, Wire, closed, notice};
use crate::clock::{Micros, SECOND};
use crate::events::{Author, DumbFilter, EventRef};
use crate::refusals::{REFUSALS, refusal};
use crate::rng::Rng;
use grasp_sync::limits::RELAY_MESSAGE_BYTES_MAX;
use serde_json::json;

/// One way to misbehave, on top of any flavour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liar {
    /// Adds signed events that nobody asked for to each answer.
    Strangers,
    /// Sends everything first with a false signature.
    Forger,
    /// Sends everything first under its right id, but with other content.
    Alterer,
    /// Ignores `until`, so that every page is the same.
    Endless,
    /// Repeats its answer for as long as anyone listens: a page of ten thousand events.
    Flooder,
    /// Adds frames of nearly the size that is allowed, and now and then one that is larger.
    Giant,
    /// Sends its messages one by one, twenty seconds apart.
    Trickler,
    /// Sends a hundred challenges with each answer.
    Challenger,
    /// Sends a hundred NOTICEs with each answer, of which none means anything.
    Nagger,
    /// Speaks of subscriptions that do not exist, and of those that do as another type.
    Confused,
    /// Closes every subscription after its EOSE.
    Closer,
    /// Sends what is no message at all.
    Babbler,
    /// Its clock is three hours slow: it refuses what is published now.
    SlowClock,
    /// Its events bear times hours ahead.
    Prophet,
    /// Now and then refuses what is open, what was, or what never was, in any words and with any number.
    Refuser,
    /// Its reconciliations list ids of events that it does not have.
    NegGhosts,
    /// Its reconciliations lose events: the same ones each time. REQ gives them.
    NegLoses,
    /// Never answers NEG-OPEN.
    NegSilent,
    /// Its reconciliations are answered by what is no frame.
    NegGarbage,
    /// Each frame is answered by another, for ever.
    NegEndless,
}

impl Liar {
    /// What they do to answers.
    pub const OF_ANSWERS: [Liar; 14] = [
        Liar::Strangers,
        Liar::Forger,
        Liar::Alterer,
        Liar::Endless,
        Liar::Flooder,
        Liar::Giant,
        Liar::Trickler,
        Liar::Challenger,
        Liar::Nagger,
        Liar::Confused,
        Liar::Closer,
        Liar::Babbler,
        Liar::SlowClock,
        Liar::Prophet,
    ];

    /// What they do to reconciliations.
    pub const OF_RECONCILIATIONS: [Liar; 5] =
        [Liar::NegGhosts, Liar::NegLoses, Liar::NegSilent, Liar::NegGarbage, Liar::NegEndless];

    /// Whether what such a relay alone holds can be had from it in the end.
    pub fn gives_all(self) -> bool {
        !matches!(self, Liar::Flooder | Liar::Giant | Liar::Refuser)
    }

    /// Whether that takes days at most: what a reconciliation loses is found by a slow sweep.
    pub fn gives_soon(self) -> bool {
        self.gives_all() && !matches!(self, Liar::Trickler | Liar::NegLoses)
    }
}

/// Seconds that a slow clock is behind.
pub const CLOCK_SLOW_SECS: u64 = 3 * 3_600;

/// Events with which a relay repeats itself.
const FLOOD_EVENTS: usize = 10_000;
/// Messages of a storm.
const STORM: u64 = 100;
/// Time between two messages of a trickle.
const TRICKLE: Micros = 20 * SECOND;
/// Answers of a giant of which one is too large.
const GIANT_EVERY: u64 = 5;
/// Times at which a refuser might refuse something of which it does.
const REFUSES_EVERY: u64 = 6;

impl ModelRelay {
    /// What goes out, as a liar would have it.
    pub(super) fn lie(&mut self, at: Micros, wire: Wire) -> Wire {
        let Some(liar) = self.config.liar else { return wire };
        let session = wire.session();
        let replies = wire.into_replies();
        let answered = replies.iter().find_map(|r| subscription_of(r, "[\"EOSE\"")).is_some();
        let mut out = Wire::new(session);
        let before_each = |n: usize, out: &mut Wire| match liar {
            Liar::Forger => replies[n].altered("\"sig\":\"", "\"sig\":\"00").into_iter().for_each(|t| out.say(t)),
            Liar::Alterer => {
                replies[n].altered("\"content\":\"", "\"content\":\"not ").into_iter().for_each(|t| out.say(t))
            }
            _ => {}
        };
        for (n, reply) in replies.iter().enumerate() {
            if let Some(subscription) = subscription_of(reply, "[\"EOSE\"") {
                self.before_eose(liar, at, &subscription, &replies, &mut out);
            }
            before_each(n, &mut out);
            out.later(reply.after, reply.act.clone());
            if let (Liar::Closer, Some(subscription)) = (liar, subscription_of(reply, "[\"EOSE\"")) {
                out.say(closed(&subscription, "error: shutting down"));
                self.end_subscription(at, session, &subscription);
            }
        }
        match liar {
            Liar::Trickler if answered => self.trickle(at, out),
            Liar::Refuser => self.refuse_anything(at, out),
            _ => out,
        }
    }

    /// What a liar puts in before it says that this was all.
    fn before_eose(&mut self, liar: Liar, at: Micros, subscription: &str, replies: &[Reply], out: &mut Wire) {
        match liar {
            Liar::Strangers => (0..20).for_each(|n| out.event(subscription, &stranger(self.wall(at) - n))),
            Liar::Prophet => out.event(subscription, &prophecy(self.wall(at) + 3 * 3_600 + self.answers % 60)),
            Liar::Challenger => (0..STORM).for_each(|_| out.challenge()),
            Liar::Nagger => (0..STORM).for_each(|n| out.say(notice(&format!("{n}: have you seen our terms?")))),
            Liar::Babbler => BABBLE.iter().for_each(|text| out.say((*text).to_owned())),
            Liar::Confused => {
                let events = replies.iter().filter_map(|r| r.altered(&format!("\"{subscription}\""), "\"nobody\""));
                events.for_each(|text| out.say(text));
                out.eose("nobody");
                out.say(closed("nobody", "error: unknown"));
                out.say(format!("[\"OK\",\"{}\",true,\"\"]", "0".repeat(64)));
                out.say(format!("[\"COUNT\",\"{subscription}\",{{\"count\":1000000}}]"));
            }
            Liar::Giant => {
                let room = if self.answers.is_multiple_of(GIANT_EVERY) {
                    RELAY_MESSAGE_BYTES_MAX + 1
                } else {
                    RELAY_MESSAGE_BYTES_MAX - 100
                };
                out.say(format!("[\"NOTICE\",\"{}\"]", "x".repeat(room)));
            }
            Liar::Flooder => {
                let events: Vec<&Reply> =
                    replies.iter().filter(|r| subscription_of(r, "[\"EVENT\"").is_some()).collect();
                let asks_for_kinds = self.reqs.last().is_some_and(|r| r.filters.iter().any(DumbFilter::is_layer_1));
                if asks_for_kinds {
                    events.iter().cycle().take(FLOOD_EVENTS).for_each(|r| out.later(0, r.act.clone()));
                }
            }
            _ => {}
        }
    }

    /// Refuses something, whatever it is.
    fn refuse_anything(&mut self, at: Micros, mut wire: Wire) -> Wire {
        self.lies += 1;
        let mut rng = Rng::new(at ^ self.lies << 32);
        let Some(s) = self.sessions.get_mut(&wire.session()).filter(|_| rng.below(REFUSES_EVERY) == 0) else {
            return wire;
        };
        let open: Vec<String> = s.subscriptions.keys().chain(s.reconciliations.keys()).cloned().collect();
        let n = rng.below(open.len() as u64 + 1) as usize;
        let any = ["l", "n", "b", "nobody's "][rng.below(4) as usize].to_owned() + &rng.below(40).to_string();
        let name = open.get(n).unwrap_or(&any);
        let why = refusal(rng.below(REFUSALS as u64) as usize);
        let max = rng.next_u64();
        match rng.below(8) {
            0 => wire.say(notice(&why)),
            1 => wire.say(json!(["OK", "0".repeat(64), false, why]).to_string()),
            2 | 3 => {
                s.reconciliations.remove(name);
                let with_max = json!(["NEG-ERR", name, why, max]).to_string();
                wire.say(if max.is_multiple_of(2) { with_max } else { json!(["NEG-ERR", name, why]).to_string() });
            }
            _ => {
                s.reconciliations.remove(name);
                wire.say(closed(name, &why));
                self.end_subscription(at, wire.session(), name);
            }
        }
        wire
    }

    /// One message after the other, each after a pause.
    fn trickle(&mut self, at: Micros, wire: Wire) -> Wire {
        let mut out = Wire::new(wire.session());
        let Some(s) = self.sessions.get_mut(&wire.session()) else { return out };
        for reply in wire.into_replies() {
            s.trickles_until = s.trickles_until.max(at) + TRICKLE;
            out.later(s.trickles_until - at, reply.act);
        }
        out
    }
}

impl Reply {
    /// An event of an answer with something in it replaced.
    fn altered(&self, from: &str, to: &str) -> Option<String> {
        match &self.act {
            Act::Say(text) if text.starts_with("[\"EVENT\"") && text.contains(from) => Some(text.replacen(from, to, 1)),
            _ => None,
        }
    }
}

/// The subscription of a message of this type.
fn subscription_of(reply: &Reply, begins: &str) -> Option<String> {
    let Act::Say(text) = &reply.act else { return None };
    let rest = text.strip_prefix(begins)?.strip_prefix(",\"")?;
    rest.split('"').next().map(str::to_owned)
}

/// A note by someone whom nobody asked for.
fn stranger(at: u64) -> EventRef {
    Author::new(901).sign(1, at, &[&["t", "news"]], "a note")
}

/// An announcement that layer 1 asks for, from hours ahead.
fn prophecy(at: u64) -> EventRef {
    Author::new(902).announcement("tomorrow", &[], at)
}

/// What no relay says.
const BABBLE: [&str; 12] = [
    "",
    "hello",
    "[",
    "[]",
    "null",
    "{}",
    "[\"EVENT\"]",
    "[\"EVENT\",\"l0\"]",
    "[\"EVENT\",\"l0\",{}]",
    "[\"EOSE\"]",
    "[\"CLOSED\",7]",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
];
