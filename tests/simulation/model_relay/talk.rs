//! What a relay does on its links, message by message.

use super::Mode;
use super::flavour::Rate;
use crate::clock::Micros;
use crate::events::EventRef;
use grasp_sync::contract::{CloseReason, RetryAfter};
use serde_json::{Value, json};

/// What a relay does on one link, at once or after a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub session: u64,
    pub after: Micros,
    pub act: Act,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    Say(String),
    /// The same, if this subscription is still open by then.
    SayIfOpen(String, String),
    Ping,
    /// The link ends with this close code.
    Close(u16),
    /// What is sent next ends the link: the reader cannot go on.
    Break(CloseReason),
    /// The relay looks whether something is due.
    Look,
}

/// What someone who dials finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    Mode(Mode),
    /// Another HTTP status than 101, and perhaps when to come back.
    Status(u16, Option<RetryAfter>),
}

/// What goes out on one link, in order.
pub struct Wire {
    session: u64,
    replies: Vec<Reply>,
}

impl Wire {
    pub fn new(session: u64) -> Wire {
        Wire { session, replies: Vec::new() }
    }

    pub fn session(&self) -> u64 {
        self.session
    }

    pub fn into_replies(self) -> Vec<Reply> {
        self.replies
    }

    pub fn later(&mut self, after: Micros, act: Act) {
        self.replies.push(Reply { session: self.session, after, act });
    }

    pub fn say(&mut self, text: String) {
        self.later(0, Act::Say(text));
    }

    pub fn event(&mut self, subscription: &str, event: &EventRef) {
        self.say(event_text(subscription, event));
    }

    pub fn eose(&mut self, subscription: &str) {
        self.say(json!(["EOSE", subscription]).to_string());
    }

    /// Says of each answer that it was all.
    pub fn hint(&mut self) {
        for reply in &mut self.replies {
            if let Act::Say(text) = &mut reply.act
                && text.starts_with("[\"EOSE\"")
            {
                *text = text.replace(']', ",\"finish\"]");
            }
        }
    }

    pub fn challenge(&mut self) {
        self.say(json!(["AUTH", challenge_of(self.session)]).to_string());
    }

    pub fn hang_up(&mut self, code: u16) {
        self.later(0, Act::Close(code));
    }

    /// Bytes of text in it.
    pub fn bytes(&self) -> u64 {
        let texts = self.replies.iter().filter_map(|r| match &r.act {
            Act::Say(text) | Act::SayIfOpen(_, text) => Some(text.len()),
            _ => None,
        });
        texts.sum::<usize>() as u64
    }
}

/// Tokens that come back with time.
pub struct Bucket {
    /// Tokens, each worth the microseconds of the rate's period.
    level: u64,
    filled_at: Micros,
}

impl Bucket {
    pub fn full(rate: &Rate) -> Bucket {
        Bucket { level: rate.burst * rate.every, filled_at: 0 }
    }

    pub fn take(&mut self, rate: &Rate, at: Micros, n: u64) -> bool {
        let back = (at - self.filled_at).saturating_mul(rate.refill);
        self.level = self.level.saturating_add(back).min(rate.burst * rate.every);
        self.filled_at = at;
        self.take_unfilled(rate, n)
    }

    pub fn take_unfilled(&mut self, rate: &Rate, n: u64) -> bool {
        let rest = self.level.checked_sub(n.saturating_mul(rate.every));
        self.level = rest.unwrap_or(self.level);
        rest.is_some()
    }
}

/// What a link is challenged with, always the same.
pub fn challenge_of(session: u64) -> String {
    format!("challenge {session}")
}

pub fn event_text(subscription: &str, event: &EventRef) -> String {
    format!("[\"EVENT\",{},{}]", Value::from(subscription), event.json)
}

pub fn notice(text: &str) -> String {
    json!(["NOTICE", text]).to_string()
}

pub fn closed(subscription: &str, reason: &str) -> String {
    json!(["CLOSED", subscription, reason]).to_string()
}
