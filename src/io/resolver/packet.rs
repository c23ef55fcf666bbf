//! The question as bytes, and bytes as the answer to that question or as nothing of ours.
//!
//! Only the header, the question and the answer section are read: what else a server adds decides nothing here, so it
//! gets no chance to confuse the codec. No EDNS is sent; an answer over 512 bytes comes truncated and is fetched over TCP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, ResourceRecord, TYPE};

use crate::limits::{DNS_ADDRESSES_MAX, DNS_ALIASES_MAX, DNS_MESSAGE_BYTES_MAX};

/// Bytes of the header (RFC 1035 section 4.1.1).
const HEADER_BYTES: usize = 12;
/// Fewest bytes of one record: root name, type, class, TTL, length (RFC 1035 section 4.1.3).
const RECORD_BYTES_MIN: usize = 11;

/// Which addresses a question asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// A records.
    V4,
    /// AAAA records (RFC 3596).
    V6,
}

impl Family {
    fn record_type(self) -> TYPE {
        match self {
            Family::V4 => TYPE::A,
            Family::V6 => TYPE::AAAA,
        }
    }
}

/// What a server says to our question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// At least one address, in the server's order; `ttl_secs` is the least of all records that led there.
    Addresses { addresses: Vec<IpAddr>, ttl_secs: u32 },
    /// The name does not exist (NXDOMAIN).
    NoSuchName,
    /// The name exists and has no such address (NODATA, RFC 2308 section 2.2).
    NoAddress,
    /// There is more than fits a datagram: ask over TCP.
    Truncated,
    /// The server cannot or will not say; another may.
    ServerFailed,
    /// No server has said anything. Never read from bytes.
    ServerSilent,
}

/// Why bytes are not the answer to our question. The wait goes on: they may not even come from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stray {
    /// Not a DNS message.
    Malformed,
    /// Another id, another question, or no response at all.
    NotOurs,
}

/// The bytes that ask for the addresses of `name`, which must be in [`super::name`]'s one form.
pub(super) fn question(id: u16, name: &str, family: Family) -> Vec<u8> {
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let qname = Name::new(name).expect("a checked host name has valid labels and length");
    packet.questions.push(Question::new(qname, family.record_type().into(), CLASS::IN.into(), false));
    packet.build_bytes_vec().expect("writing to memory does not fail")
}

/// Reads `bytes` as the answer to the question `id`, `name`, `family`.
///
/// Fails with [`Stray`] if id, response flag, opcode, question name (without regard to case, RFC 4343), type or class
/// differ, or if the answers cannot be read.
pub(super) fn check(bytes: &[u8], id: u16, name: &str, family: Family) -> Result<Reply, Stray> {
    if bytes.len() < HEADER_BYTES || bytes.len() > DNS_MESSAGE_BYTES_MAX {
        return Err(Stray::Malformed);
    }
    if u16::from_be_bytes([bytes[0], bytes[1]]) != id {
        return Err(Stray::NotOurs);
    }
    let mut message = bytes.to_vec();
    // The reserved bit means nothing to us, but the codec refuses it.
    message[3] &= !0x40;
    // Neither authority nor additional section.
    message[8..HEADER_BYTES].fill(0);
    let truncated = message[2] & 0x02 != 0;
    if truncated {
        // The cut may run through a record.
        message[6..8].fill(0);
    }
    let questions = usize::from(u16::from_be_bytes([message[4], message[5]]));
    let answers = usize::from(u16::from_be_bytes([message[6], message[7]]));
    // The codec reserves memory by these counts, so they must be possible.
    if questions > 1 || answers * RECORD_BYTES_MIN > message.len() {
        return Err(Stray::Malformed);
    }
    let packet = Packet::parse(&message).map_err(|_| Stray::Malformed)?;
    if !packet.has_flags(PacketFlag::RESPONSE) || packet.opcode() != OPCODE::StandardQuery {
        return Err(Stray::NotOurs);
    }
    let Some(question) = packet.questions.first() else {
        // A server that did not understand the question need not repeat it.
        let is_failure = !matches!(packet.rcode(), RCODE::NoError | RCODE::NameError);
        return if is_failure { Ok(Reply::ServerFailed) } else { Err(Stray::NotOurs) };
    };
    let qname = Name::new(name).map_err(|_| Stray::NotOurs)?;
    let is_ours = question.qname == qname
        && question.qtype == QTYPE::TYPE(family.record_type())
        && question.qclass == QCLASS::CLASS(CLASS::IN)
        && !question.unicast_response;
    if !is_ours {
        return Err(Stray::NotOurs);
    }
    Ok(match packet.rcode() {
        RCODE::NoError | RCODE::NameError if truncated => Reply::Truncated,
        RCODE::NoError => addresses(&packet, qname, family),
        RCODE::NameError => Reply::NoSuchName,
        _ => Reply::ServerFailed,
    })
}

/// Follows aliases from `qname` through the answer section to addresses.
fn addresses<'a>(packet: &'a Packet<'a>, qname: Name<'a>, family: Family) -> Reply {
    let speaks = [PacketFlag::RECURSION_AVAILABLE, PacketFlag::AUTHORITATIVE_ANSWER];
    if packet.answers.is_empty() && !speaks.into_iter().any(|flag| packet.has_flags(flag)) {
        // A mere referral: this server does not resolve for us, so its silence about addresses says nothing.
        return Reply::ServerFailed;
    }
    let records = || packet.answers.iter().filter(|record| record.class == CLASS::IN);
    let mut current = &qname;
    let mut ttl_secs = u32::MAX;
    for _ in 0..=DNS_ALIASES_MAX {
        let found = || records().filter(|r| r.name == *current).filter_map(|r| Some((address(r, family)?, ttl(r))));
        let addresses: Vec<IpAddr> = found().map(|(ip, _)| ip).take(DNS_ADDRESSES_MAX).collect();
        if !addresses.is_empty() {
            let ttl_secs = found().fold(ttl_secs, |least, (_, ttl)| least.min(ttl));
            return Reply::Addresses { addresses, ttl_secs };
        }
        let alias = records().filter(|r| r.name == *current).find_map(|r| match &r.rdata {
            RData::CNAME(target) => Some((&target.0, ttl(r))),
            _ => None,
        });
        let Some((target, alias_ttl)) = alias else { return Reply::NoAddress };
        current = target;
        ttl_secs = ttl_secs.min(alias_ttl);
    }
    Reply::ServerFailed
}

fn address(record: &ResourceRecord<'_>, family: Family) -> Option<IpAddr> {
    match (&record.rdata, family) {
        (RData::A(a), Family::V4) => Some(Ipv4Addr::from(a.address).into()),
        (RData::AAAA(aaaa), Family::V6) => Some(Ipv6Addr::from(aaaa.address).into()),
        _ => None,
    }
}

/// Seconds; a TTL with its top bit set means zero (RFC 2181 section 8).
fn ttl(record: &ResourceRecord<'_>) -> u32 {
    i32::try_from(record.ttl).map_or(0, i32::unsigned_abs)
}

/// Body of the fuzz target for answers: the first two bytes are the id expected, the next the family, the rest a message.
/// Must not panic, must keep the bound on addresses.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_answer(bytes: &[u8]) {
    let [a, b, family, message @ ..] = bytes else { return };
    let family = if family & 1 == 0 { Family::V4 } else { Family::V6 };
    if let Ok(Reply::Addresses { addresses, .. }) = check(message, u16::from_be_bytes([*a, *b]), "a.example", family) {
        assert!((1..=DNS_ADDRESSES_MAX).contains(&addresses.len()));
    }
}
