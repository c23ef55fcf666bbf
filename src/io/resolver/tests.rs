//! The resolver against a name server of the test's own, over real sockets on loopback, all on one poll. Time is
//! scripted: only sockets are waited for.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration as StdDuration;

use mio::net::{TcpListener, TcpStream, UdpSocket};
use mio::{Events, Interest, Poll};
use simple_dns::rdata::{A, AAAA, CNAME, RData, TXT};
use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, RCODE, ResourceRecord, TYPE};

use super::packet::Stray;
use super::*;
use crate::limits::DNS_STRAYS_MAX;
use crate::time::UnixTime;

const FIRST_TOKEN: usize = 1_000;
const TTL: u32 = 300;

/// What the server does with a question.
type Script = fn(&Asked) -> Vec<Said>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    id: u16,
    name: String,
    is_v6: bool,
    is_tcp: bool,
}

/// What the server sends back.
enum Said {
    Bytes(Vec<u8>),
    /// From a socket that is not the one asked.
    FromElsewhere(Vec<u8>),
    HangUp,
}

struct Server {
    udp: UdpSocket,
    tcp: TcpListener,
    streams: Vec<TcpStream>,
    addr: SocketAddr,
    script: Script,
    asked: Vec<Asked>,
}

impl Server {
    fn start(poll: &Poll, first_token: usize, script: Script) -> Self {
        // TCP and UDP need the same port; another program may hold one of them.
        let (mut udp, mut tcp) = (0..100)
            .find_map(|_| {
                let udp = UdpSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
                let tcp = TcpListener::bind(udp.local_addr().unwrap()).ok()?;
                Some((udp, tcp))
            })
            .unwrap();
        poll.registry().register(&mut udp, Token(first_token), Interest::READABLE).unwrap();
        poll.registry().register(&mut tcp, Token(first_token + 1), Interest::READABLE).unwrap();
        let addr = udp.local_addr().unwrap();
        Server { udp, tcp, streams: Vec::new(), addr, script, asked: Vec::new() }
    }

    fn serve(&mut self, poll: &Poll) {
        let mut buffer = [0; 2048];
        while let Ok((n, from)) = self.udp.recv_from(&mut buffer) {
            let asked = parse_question(&buffer[..n], false);
            for said in (self.script)(&asked) {
                match said {
                    Said::Bytes(bytes) => {
                        let _ = self.udp.send_to(&bytes, from);
                    }
                    Said::FromElsewhere(bytes) => {
                        let elsewhere = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
                        elsewhere.send_to(&bytes, from).unwrap();
                    }
                    Said::HangUp => {}
                }
            }
            self.asked.push(asked);
        }
        while let Ok((mut stream, _)) = self.tcp.accept() {
            poll.registry().register(&mut stream, Token(999), Interest::READABLE).unwrap();
            self.streams.push(stream);
        }
        let mut streams = std::mem::take(&mut self.streams);
        streams.retain_mut(|stream| self.serve_stream(stream));
        self.streams.extend(streams);
    }

    /// Whether to keep the stream. A question is so short that it comes in one piece.
    fn serve_stream(&mut self, stream: &mut TcpStream) -> bool {
        let mut buffer = [0; 2048];
        let n = match stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(n) => n,
            Err(_) => return true,
        };
        let asked = parse_question(&buffer[2..n], true);
        for said in (self.script)(&asked) {
            match said {
                Said::Bytes(bytes) => {
                    let length = (bytes.len() as u16).to_be_bytes();
                    // In pieces, so that the reader has to put them together.
                    for piece in [&length[..1], &length[1..], &bytes[..5], &bytes[5..]] {
                        stream.write_all(piece).unwrap();
                    }
                }
                Said::FromElsewhere(_) => {}
                Said::HangUp => {
                    self.asked.push(asked);
                    return false;
                }
            }
        }
        self.asked.push(asked);
        true
    }
}

fn parse_question(bytes: &[u8], is_tcp: bool) -> Asked {
    let packet = Packet::parse(bytes).unwrap();
    assert!(packet.has_flags(PacketFlag::RECURSION_DESIRED) && !packet.has_flags(PacketFlag::RESPONSE));
    let [question] = &packet.questions[..] else { panic!("one question at a time") };
    let is_v6 = question.qtype == TYPE::AAAA.into();
    Asked { id: packet.id(), name: question.qname.to_string(), is_v6, is_tcp }
}

/// A reply to `asked`, with the records of `records`.
fn reply(asked: &Asked, records: Vec<ResourceRecord<'_>>) -> Packet<'static> {
    let mut packet = Packet::new_reply(asked.id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED | PacketFlag::RECURSION_AVAILABLE);
    let record_type = if asked.is_v6 { TYPE::AAAA } else { TYPE::A };
    let question = Question::new(Name::new(&asked.name).unwrap(), record_type.into(), CLASS::IN.into(), false);
    packet.questions.push(question.into_owned());
    packet.answers = records.into_iter().map(ResourceRecord::into_owned).collect();
    packet
}

fn bytes(packet: Packet<'_>) -> Vec<Said> {
    vec![Said::Bytes(packet.build_bytes_vec_compressed().unwrap())]
}

fn record<'a>(name: &'a str, ttl: u32, rdata: RData<'a>) -> ResourceRecord<'a> {
    ResourceRecord::new(Name::new(name).unwrap(), CLASS::IN, ttl, rdata)
}

fn a(name: &str, last: u8) -> ResourceRecord<'_> {
    record(name, TTL, RData::A(A { address: Ipv4Addr::new(1, 1, 1, last).into() }))
}

fn aaaa(name: &str, last: u16) -> ResourceRecord<'_> {
    record(name, TTL, RData::AAAA(AAAA { address: Ipv6Addr::new(0x2606, 0, 0, 0, 0, 0, 0, last).into() }))
}

fn cname<'a>(name: &'a str, target: &'a str, ttl: u32) -> ResourceRecord<'a> {
    record(name, ttl, RData::CNAME(CNAME(Name::new(target).unwrap())))
}

fn rcode(asked: &Asked, rcode: RCODE) -> Vec<Said> {
    let mut packet = reply(asked, vec![]);
    *packet.rcode_mut() = rcode;
    bytes(packet)
}

fn ips(list: &[&str]) -> Answer {
    Ok(list.iter().map(|ip| ip.parse().unwrap()).collect())
}

/// One address of each family for every name.
fn both(asked: &Asked) -> Vec<Said> {
    let record = if asked.is_v6 { aaaa(&asked.name, 1) } else { a(&asked.name, 1) };
    bytes(reply(asked, vec![record]))
}

fn silent(_: &Asked) -> Vec<Said> {
    Vec::new()
}

struct World {
    poll: Poll,
    servers: Vec<Server>,
    resolver: Resolver,
    now: Now,
}

impl World {
    fn new(scripts: &[Script]) -> Self {
        World::with(scripts, |_| {})
    }

    fn with(scripts: &[Script], change: impl FnOnce(&mut ResolverConfig)) -> Self {
        let poll = Poll::new().unwrap();
        let servers: Vec<Server> =
            scripts.iter().enumerate().map(|(i, &script)| Server::start(&poll, 2 * i, script)).collect();
        let mut config = ResolverConfig {
            servers: servers.iter().map(|server| server.addr).collect(),
            hosts: BTreeMap::new(),
            timeout: Duration::from_secs(5),
            attempts: 2,
        };
        change(&mut config);
        let now = Now { mono: Instant::from_micros(1), wall: UnixTime::from_secs(1_700_000_000) };
        World { poll, servers, resolver: Resolver::new(config, FIRST_TOKEN), now }
    }

    fn resolve(&mut self, name: &str) -> Lookup {
        self.resolver.resolve(self.now, self.poll.registry(), name)
    }

    fn pending(&mut self, name: &str) -> LookupId {
        match self.resolve(name) {
            Lookup::Pending(id) => id,
            Lookup::Answered(answer) => panic!("{name} was answered at once: {answer:?}"),
        }
    }

    /// Turns the poll until `done` says so.
    fn turn_until(&mut self, what: &str, mut done: impl FnMut(&mut World) -> bool) {
        let mut events = Events::with_capacity(64);
        #[allow(clippy::disallowed_methods)]
        let deadline = std::time::Instant::now() + StdDuration::from_secs(10);
        while !done(self) {
            #[allow(clippy::disallowed_methods)]
            let in_time = std::time::Instant::now() < deadline;
            assert!(in_time, "timed out: {what}");
            self.poll.poll(&mut events, Some(StdDuration::from_millis(100))).unwrap();
            for event in &events {
                if self.resolver.owns(event.token()) {
                    self.resolver.on_ready(self.now, self.poll.registry(), event.token());
                }
            }
            for server in &mut self.servers {
                server.serve(&self.poll);
            }
        }
    }

    fn answer(&mut self) -> (LookupId, Answer) {
        let mut found = None;
        self.turn_until("an answer", |world| {
            found = found.take().or_else(|| world.resolver.poll_answer());
            found.is_some()
        });
        found.unwrap()
    }

    /// The answer to one lookup, whatever comes before it.
    fn answers_until(&mut self, id: LookupId) -> Answer {
        loop {
            let (answered, answer) = self.answer();
            if answered == id {
                return answer;
            }
        }
    }

    /// The answer for `name`, at once or not.
    fn answer_of(&mut self, name: &str) -> Answer {
        match self.resolve(name) {
            Lookup::Answered(answer) => answer,
            Lookup::Pending(id) => {
                let (answered, answer) = self.answer();
                assert_eq!(answered, id);
                answer
            }
        }
    }

    fn until_asked(&mut self, server: usize, questions: usize) {
        self.turn_until("a question", |world| world.servers[server].asked.len() >= questions);
    }

    fn pass(&mut self, time: Duration) {
        self.now.mono = self.now.mono + time;
        self.resolver.on_time(self.now, self.poll.registry());
    }

    fn assert_idle(&self) {
        let resolver = &self.resolver;
        assert!(resolver.exchanges.is_empty() && resolver.names.is_empty() && resolver.queue.is_empty());
        assert!(resolver.strangers.is_empty() && resolver.asking_strangers.is_empty());
        assert_eq!((self.resolver.asking, self.resolver.waiting.len()), (0, 0));
        assert_eq!(self.resolver.next_deadline(), None);
    }
}

#[test]
fn asks_for_both_families_at_once_and_orders_them() {
    let mut world = World::new(&[|asked| {
        let name = &asked.name;
        let records = if asked.is_v6 { vec![aaaa(name, 1)] } else { vec![a(name, 1), a(name, 2)] };
        bytes(reply(asked, records))
    }]);
    assert_eq!(world.answer_of("Relay.Example."), ips(&["2606::1", "1.1.1.1", "1.1.1.2"]));
    let asked = &world.servers[0].asked;
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|asked| asked.name == "relay.example" && !asked.is_tcp));
    assert_ne!(asked[0].is_v6, asked[1].is_v6);
    world.assert_idle();
}

#[test]
fn one_family_is_enough() {
    let mut world = World::new(&[|asked| match asked.is_v6 {
        true => bytes(reply(asked, vec![])),
        false => both(asked),
    }]);
    assert_eq!(world.answer_of("relay.example"), ips(&["1.1.1.1"]));
}

#[test]
fn a_server_that_drops_one_family_costs_a_second() {
    let mut world = World::new(&[|asked| if asked.is_v6 { vec![] } else { both(asked) }]);
    world.pending("relay.example");
    world.turn_until("the first family", |world| {
        world.resolver.next_deadline() == Some(world.now.mono + DNS_OTHER_FAMILY_WAIT)
    });
    world.pass(DNS_OTHER_FAMILY_WAIT);
    assert_eq!(world.answer().1, ips(&["1.1.1.1"]));
    world.assert_idle();
    // The missing half is asked for again before long.
    assert_eq!(world.answer_of("relay.example"), ips(&["1.1.1.1"]));
    world.pass(DNS_NEGATIVE_TTL);
    world.pending("relay.example");
}

#[test]
fn follows_aliases_in_any_order_but_not_in_circles() {
    let mut world = World::new(&[|asked| {
        if asked.name == "circle.example" {
            return bytes(reply(
                asked,
                vec![cname("circle.example", "b.example", 60), cname("b.example", "circle.example", 60)],
            ));
        }
        let end = if asked.is_v6 { aaaa("C.example", 1) } else { a("C.example", 1) };
        let (one, two) = (cname("A.example", "b.example", 60), cname("b.example", "c.example", 30));
        bytes(reply(asked, vec![end, two, one, a("other.example", 9), aaaa("other.example", 9)]))
    }]);
    assert_eq!(world.answer_of("a.example"), ips(&["2606::1", "1.1.1.1"]));
    assert_eq!(world.answer_of("circle.example"), Err(ResolveError::ServersFailed));
    // The least TTL of the chain counts.
    world.pass(Duration::from_secs(29));
    assert!(matches!(world.resolve("a.example"), Lookup::Answered(Ok(_))));
    world.pass(Duration::from_secs(1));
    world.pending("a.example");
}

#[test]
fn fetches_a_cut_answer_over_tcp() {
    let mut world = World::new(&[|asked| {
        if !asked.is_tcp && !asked.is_v6 {
            let mut packet = reply(asked, vec![a(&asked.name, 99)]);
            packet.set_flags(PacketFlag::TRUNCATION);
            let mut cut = packet.build_bytes_vec().unwrap();
            cut.truncate(cut.len() - 2);
            return vec![Said::Bytes(cut)];
        }
        let records = if asked.is_v6 { vec![] } else { (0..100).map(|n| a(&asked.name, n)).collect() };
        bytes(reply(asked, records))
    }]);
    let addresses = world.answer_of("relay.example").unwrap();
    assert_eq!(addresses.len(), DNS_ADDRESSES_MAX);
    assert_eq!(world.servers[0].asked.iter().filter(|asked| asked.is_tcp).count(), 1);
    world.assert_idle();
}

#[test]
fn a_stream_that_breaks_goes_to_the_next_server() {
    let cut: Script = |asked| {
        if asked.is_tcp {
            return vec![Said::HangUp];
        }
        let mut packet = reply(asked, vec![]);
        packet.set_flags(PacketFlag::TRUNCATION);
        bytes(packet)
    };
    let mut world = World::new(&[cut, both]);
    assert_eq!(world.answer_of("relay.example"), ips(&["2606::1", "1.1.1.1"]));
    assert_eq!(world.servers[0].asked.len(), 4);
    assert_eq!(world.servers[1].asked.len(), 2);
}

#[test]
fn a_silent_stream_has_a_deadline() {
    let mut world = World::new(&[|asked| {
        if asked.is_tcp {
            return vec![];
        }
        let mut packet = reply(asked, vec![]);
        packet.set_flags(PacketFlag::TRUNCATION);
        bytes(packet)
    }]);
    world.pending("relay.example");
    world.until_asked(0, 4);
    world.pass(Duration::from_secs(5));
    world.until_asked(0, 8);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.answer().1, Err(ResolveError::ServersFailed));
    world.assert_idle();
}

#[test]
fn a_silent_server_gives_way_to_the_next() {
    let mut world = World::new(&[silent, both]);
    let id = world.pending("relay.example");
    world.until_asked(0, 2);
    assert_eq!(world.resolver.next_deadline(), Some(world.now.mono + Duration::from_secs(5)));
    world.pass(Duration::from_millis(4_999));
    assert_eq!(world.servers[1].asked.len(), 0);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.answer(), (id, ips(&["2606::1", "1.1.1.1"])));
}

#[test]
fn every_server_is_asked_in_each_round_then_it_ends() {
    let mut world = World::new(&[silent, silent]);
    world.pending("relay.example");
    for round in 1..=2 {
        for server in 0..2 {
            world.until_asked(server, 2 * round);
            world.pass(Duration::from_secs(5));
        }
    }
    assert_eq!(world.answer().1, Err(ResolveError::ServersSilent));
    world.assert_idle();
    // A failure is not remembered.
    world.pending("relay.example");
}

#[test]
fn a_server_that_says_it_failed_gives_way_at_once() {
    for code in [RCODE::ServerFailure, RCODE::Refused, RCODE::FormatError, RCODE::NotImplemented] {
        let failing: Script = match code {
            RCODE::ServerFailure => |asked| rcode(asked, RCODE::ServerFailure),
            RCODE::Refused => |asked| rcode(asked, RCODE::Refused),
            RCODE::NotImplemented => |asked| rcode(asked, RCODE::NotImplemented),
            _ => |asked| {
                let mut packet = Packet::new_reply(asked.id);
                *packet.rcode_mut() = RCODE::FormatError;
                bytes(packet)
            },
        };
        let mut world = World::new(&[failing, both]);
        assert_eq!(world.answer_of("relay.example"), ips(&["2606::1", "1.1.1.1"]), "{code:?}");
        let mut world = World::new(&[failing]);
        assert_eq!(world.answer_of("relay.example"), Err(ResolveError::ServersFailed), "{code:?}: it is there");
    }
}

#[test]
fn a_server_that_is_not_there_gives_way_at_once() {
    let gone = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut world = World::with(&[both], |config| config.servers.insert(0, gone));
    assert_eq!(world.answer_of("relay.example"), ips(&["2606::1", "1.1.1.1"]));
}

#[test]
fn ignores_what_does_not_answer_the_question() {
    let mut world = World::new(&[|asked| {
        let forged = || if asked.is_v6 { aaaa(&asked.name, 66) } else { a(&asked.name, 66) };
        let wire = |packet: Packet<'_>| packet.build_bytes_vec().unwrap();
        let mut said = Vec::new();
        let mut wrong_id = reply(asked, vec![forged()]);
        wrong_id.set_id(asked.id.wrapping_add(1));
        said.push(Said::Bytes(wire(wrong_id)));
        let other = Asked { name: "other.example".into(), ..asked.clone() };
        said.push(Said::Bytes(wire(reply(&other, vec![forged()]))));
        let other = Asked { is_v6: !asked.is_v6, ..asked.clone() };
        said.push(Said::Bytes(wire(reply(&other, vec![forged()]))));
        let mut other_class = reply(asked, vec![forged()]);
        other_class.questions[0].qclass = CLASS::CH.into();
        said.push(Said::Bytes(wire(other_class)));
        let mut no_reply = reply(asked, vec![forged()]);
        no_reply.remove_flags(PacketFlag::RESPONSE);
        said.push(Said::Bytes(wire(no_reply)));
        let mut no_question = reply(asked, vec![forged()]);
        no_question.questions.clear();
        said.push(Said::Bytes(wire(no_question)));
        said.push(Said::Bytes(vec![]));
        said.push(Said::Bytes(vec![0xff; 600]));
        said.push(Said::FromElsewhere(wire(reply(asked, vec![forged()]))));
        // The right one, in another case.
        let shouted = Asked { name: asked.name.to_uppercase(), ..asked.clone() };
        let record = if asked.is_v6 { aaaa(&shouted.name, 1) } else { a(&shouted.name, 1) };
        said.push(Said::Bytes(wire(reply(&shouted, vec![record]))));
        said
    }]);
    assert_eq!(world.answer_of("relay.example"), ips(&["2606::1", "1.1.1.1"]));
    assert_eq!(world.servers[0].asked.len(), 2);
}

#[test]
fn guesses_cost_a_new_port_and_end() {
    let mut world =
        World::new(&[|asked| (0..2 * DNS_STRAYS_MAX).map(|_| Said::Bytes(vec![asked.is_v6.into()])).collect()]);
    assert_eq!(world.answer_of("relay.example"), Err(ResolveError::ServersSilent));
    assert_eq!(world.servers[0].asked.len(), 4);
    world.assert_idle();
}

#[test]
fn ids_are_not_predictable() {
    let mut world = World::new(&[both]);
    for n in 0..16 {
        world.answer_of(&format!("n{n}.example")).unwrap();
    }
    let mut ids: Vec<u16> = world.servers[0].asked.iter().map(|asked| asked.id).collect();
    ids.sort_unstable();
    ids.dedup();
    // Of 32 random ids, more than 4 doubles will not be seen in the life of this test.
    assert!(ids.len() > 28, "{ids:?}");
}

#[test]
fn what_does_not_exist_is_remembered_shortly() {
    let mut world = World::new(&[|asked| match asked.name.as_str() {
        "gone.example" => rcode(asked, RCODE::NameError),
        _ => bytes(reply(asked, vec![])),
    }]);
    assert_eq!(world.answer_of("gone.example"), Err(ResolveError::NoSuchName));
    assert_eq!(world.answer_of("empty.example"), Err(ResolveError::NoAddress));
    assert_eq!(world.resolve("gone.example"), Lookup::Answered(Err(ResolveError::NoSuchName)));
    assert_eq!(world.resolve("empty.example"), Lookup::Answered(Err(ResolveError::NoAddress)));
    world.pass(DNS_NEGATIVE_TTL);
    world.pending("gone.example");
}

#[test]
fn a_referral_says_nothing() {
    let lame: Script = |asked| {
        let mut packet = reply(asked, vec![]);
        packet.remove_flags(PacketFlag::RECURSION_AVAILABLE);
        bytes(packet)
    };
    let mut world = World::new(&[lame, both]);
    assert_eq!(world.answer_of("relay.example"), ips(&["2606::1", "1.1.1.1"]));
}

#[test]
fn answers_last_as_long_as_their_ttl_within_bounds() {
    let mut world = World::new(&[|asked| {
        let ttl = match asked.name.as_str() {
            "zero.example" => 0,
            "negative.example" => u32::MAX,
            "long.example" => i32::MAX as u32,
            _ => TTL,
        };
        let mut record = if asked.is_v6 { aaaa(&asked.name, 1) } else { a(&asked.name, 1) };
        record.ttl = ttl;
        bytes(reply(asked, vec![record]))
    }]);
    let lifetimes =
        [("zero.example", 5), ("negative.example", 5), ("usual.example", u64::from(TTL)), ("long.example", 86_400)];
    for (name, secs) in lifetimes {
        world.answer_of(name).unwrap();
        world.pass(Duration::from_micros(secs * 1_000_000 - 1));
        assert!(matches!(world.resolve(name), Lookup::Answered(Ok(_))), "{name} lasts");
        world.pass(Duration::from_micros(1));
        let asked = world.servers[0].asked.len();
        world.answer_of(name).unwrap();
        assert_eq!(world.servers[0].asked.len(), asked + 2, "{name} ends");
    }
}

#[test]
fn lookups_of_one_name_share_the_questions() {
    let mut world = World::new(&[both]);
    let ids = [world.pending("relay.example"), world.pending("RELAY.example."), world.pending("relay.example")];
    world.resolver.cancel(world.now, world.poll.registry(), ids[1]);
    let answers = [world.answer(), world.answer()];
    assert_eq!(answers.each_ref().map(|(id, _)| *id), [ids[0], ids[2]]);
    assert_eq!(answers[0].1, answers[1].1);
    assert_eq!(world.servers[0].asked.len(), 2);
    world.assert_idle();
}

#[test]
fn a_cancelled_lookup_is_never_answered() {
    let mut world = World::new(&[both]);
    let asked = world.pending("a.example");
    world.resolver.cancel(world.now, world.poll.registry(), asked);
    world.assert_idle();
    let answered = world.pending("b.example");
    world.turn_until("the answer", |world| !world.resolver.answers.is_empty());
    assert_eq!(world.resolver.next_deadline(), Some(Instant::ZERO));
    world.resolver.cancel(world.now, world.poll.registry(), answered);
    world.resolver.cancel(world.now, world.poll.registry(), answered);
    assert_eq!(world.resolver.poll_answer(), None);
    world.assert_idle();
}

#[test]
fn lookups_beyond_the_bounds_queue_and_are_refused() {
    let mut world = World::new(&[silent]);
    let ids: Vec<LookupId> = (0..DNS_WAITING_MAX).map(|n| world.pending(&format!("n{n}.example"))).collect();
    assert_eq!(world.resolver.exchanges.len(), 2 * DNS_STRANGERS_MAX);
    assert_eq!(world.resolver.strangers.len(), DNS_WAITING_MAX - DNS_STRANGERS_MAX);
    assert_eq!(world.resolve("more.example"), Lookup::Answered(Err(ResolveError::Busy)));
    // A queued and an asked one go; room is used at once.
    for id in [ids[DNS_WAITING_MAX - 1], ids[0]] {
        world.resolver.cancel(world.now, world.poll.registry(), id);
    }
    assert_eq!(world.resolver.exchanges.len(), 2 * DNS_STRANGERS_MAX);
    assert_eq!(world.resolver.strangers.len(), DNS_WAITING_MAX - DNS_STRANGERS_MAX - 2);
    for id in ids {
        world.resolver.cancel(world.now, world.poll.registry(), id);
    }
    world.assert_idle();
}

/// Nobody answers for names that begin with `hang`.
fn hangs(asked: &Asked) -> Vec<Said> {
    if asked.name.starts_with("hang") { Vec::new() } else { both(asked) }
}

#[test]
fn names_that_hang_keep_no_name_waiting_that_was_known() {
    let mut world = World::new(&[hangs]);
    world.answer_of("relay.example").unwrap();
    (0..960).for_each(|n| _ = world.pending(&format!("hang{n}.example")));
    world.now.mono = world.now.mono + Duration::from_secs(u64::from(TTL));
    let asked = world.servers[0].asked.len();
    let id = world.pending("relay.example");
    assert!(world.resolver.waiting() > 900);
    world.turn_until("a question", |world| world.servers[0].asked[asked..].iter().any(|a| a.name.starts_with("relay")));
    let found = world.answers_until(id);
    assert!(found.is_ok());
}

#[test]
fn names_that_hang_make_room_for_those_that_queue_and_for_nobody_else() {
    let mut world = World::new(&[hangs]);
    let hanging: Vec<LookupId> = (0..DNS_STRANGERS_MAX).map(|n| world.pending(&format!("hang{n}.example"))).collect();
    world.pass(Duration::from_secs(3));
    assert_eq!(world.resolver.answers.len(), 0, "nobody else waits");
    let id = world.pending("new.example");
    assert_eq!(world.resolver.poll_answer(), Some((hanging[0], Err(ResolveError::Busy))));
    assert!(world.answers_until(id).is_ok());
    // Each has its time, even where all queue.
    let young: Vec<LookupId> =
        (0..=DNS_STRANGERS_MAX).map(|n| world.pending(&format!("hang-again{n}.example"))).collect();
    let last = world.pending("newer.example");
    assert_eq!(world.resolver.asking_strangers.len(), DNS_STRANGERS_MAX);
    assert_eq!(world.resolver.next_deadline(), Some(Instant::ZERO), "those that gave way are answered");
    while world.resolver.poll_answer().is_some() {}
    assert_eq!(world.resolver.next_deadline(), Some(world.now.mono + DNS_STRANGER_TIME));
    world.pass(DNS_STRANGER_TIME);
    assert!(world.answers_until(last).is_ok());
    for id in hanging.into_iter().chain(young) {
        world.resolver.cancel(world.now, world.poll.registry(), id);
    }
    world.assert_idle();
}

#[test]
fn queued_lookups_are_answered_in_their_turn() {
    let mut world = World::new(&[both]);
    let names = 3 * DNS_LOOKUPS_MAX;
    for n in 0..names {
        world.pending(&format!("n{n}.example"));
    }
    for _ in 0..names {
        assert_eq!(world.answer().1, ips(&["2606::1", "1.1.1.1"]));
    }
    world.assert_idle();
    assert_eq!(world.resolver.cached(), names);
}

#[test]
fn the_hosts_file_goes_before_all() {
    let mut world = World::with(&[both], |config| {
        let addresses = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        config.hosts.insert("relay.example".into(), addresses);
        config.hosts.insert("a.onion".into(), vec!["10.0.0.3".parse().unwrap()]);
    });
    assert_eq!(world.resolve("Relay.Example"), Lookup::Answered(ips(&["fd00::1", "10.0.0.1", "10.0.0.2"])));
    assert_eq!(world.resolve("a.onion"), Lookup::Answered(ips(&["10.0.0.3"])));
    assert!(world.servers[0].asked.is_empty());
}

#[test]
fn some_names_need_no_server() {
    let mut world = World::new(&[both]);
    assert_eq!(world.resolve("192.0.2.1"), Lookup::Answered(ips(&["192.0.2.1"])));
    assert_eq!(world.resolve("2001:db8::1"), Lookup::Answered(ips(&["2001:db8::1"])));
    assert_eq!(world.resolve("localhost"), Lookup::Answered(ips(&["::1", "127.0.0.1"])));
    assert_eq!(world.resolve("x.onion"), Lookup::Answered(Err(ResolveError::NoSuchName)));
    assert_eq!(world.resolve("bad..name"), Lookup::Answered(Err(ResolveError::BadName)));
    assert_eq!(world.resolve("127.1"), Lookup::Answered(Err(ResolveError::BadName)));
    world.assert_idle();
}

#[test]
fn a_reload_forgets_and_asks_the_new_servers() {
    let mut world = World::new(&[both, both]);
    world.answer_of("relay.example").unwrap();
    let config = ResolverConfig { servers: vec![world.servers[1].addr], ..world.resolver.config.clone() };
    world.resolver.reload(config);
    world.answer_of("relay.example").unwrap();
    assert_eq!(world.servers.iter().map(|server| server.asked.len()).collect::<Vec<_>>(), [2, 2]);
}

#[test]
fn tokens_of_others_and_of_sockets_gone_do_nothing() {
    let mut world = World::new(&[both]);
    assert!(!world.resolver.owns(Token(FIRST_TOKEN - 1)));
    assert!(world.resolver.owns(Token(FIRST_TOKEN)));
    assert!(!world.resolver.owns(Token(FIRST_TOKEN + RESOLVER_TOKENS)));
    for token in [0, FIRST_TOKEN, FIRST_TOKEN + 5, usize::MAX] {
        world.resolver.on_ready(world.now, world.poll.registry(), Token(token));
    }
    world.assert_idle();
}

/// SplitMix64: enough to change bytes at random from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

#[test]
fn damaged_messages_never_panic() {
    let asked = Asked { id: 7, name: "a.example".into(), is_v6: false, is_tcp: false };
    let records = vec![
        cname("a.example", "b.example", 60),
        a("b.example", 1),
        aaaa("b.example", 2),
        record("b.example", 60, RData::TXT(TXT::new().with_string("some text").unwrap())),
    ];
    let sound = reply(&asked, records).build_bytes_vec_compressed().unwrap();
    assert!(matches!(packet::check(&sound, 7, "a.example", Family::V4), Ok(Reply::Addresses { ttl_secs: 60, .. })));
    let mut random = Random(42);
    let mut sound_still = 0;
    for _ in 0..200_000 {
        let mut bytes = sound.clone();
        for _ in 0..1 + random.below(4) {
            match random.below(4) {
                // Low values reach other record types, lengths and counts more often than any byte does.
                0 => {
                    let at = 2 + random.below(bytes.len() - 2);
                    bytes[at] = random.below(70) as u8;
                }
                1 => {
                    let at = 2 + random.below(bytes.len() - 2);
                    bytes[at] = random.next() as u8;
                }
                2 => bytes.truncate(20 + random.below(bytes.len().max(21) - 20)),
                _ => {
                    let at = random.below(bytes.len() - 1);
                    bytes[at] = 0xc0;
                    bytes[at + 1] = random.next() as u8;
                }
            }
        }
        sound_still += usize::from(packet::check(&bytes, 7, "a.example", Family::V4).is_ok());
    }
    assert!(sound_still > 1_000, "the damage was too great to reach the answers: {sound_still}");
}

#[test]
fn random_records_never_panic() {
    let asked = Asked { id: 7, name: "a.example".into(), is_v6: true, is_tcp: false };
    let head = reply(&asked, vec![]).build_bytes_vec().unwrap();
    let mut random = Random(43);
    for _ in 0..200_000 {
        let mut bytes = head.clone();
        let records = random.below(3);
        bytes[7] = records as u8;
        for _ in 0..records {
            let length = random.below(40);
            bytes.extend([0xc0, 12, random.below(2) as u8, random.below(70) as u8, 0, 1, 0, 0, 0, 60, 0, length as u8]);
            bytes.extend(
                (0..length).map(|_| if random.below(2) == 0 { random.below(8) } else { random.below(256) } as u8),
            );
        }
        let _ = packet::check(&bytes, 7, "a.example", Family::V6);
    }
}

#[test]
fn impossible_counts_are_refused_before_memory_is_taken() {
    let asked = Asked { id: 7, name: "a.example".into(), is_v6: false, is_tcp: false };
    let sound = reply(&asked, vec![a("a.example", 1)]).build_bytes_vec().unwrap();
    for at in [4, 6] {
        let mut bytes = sound.clone();
        bytes[at] = 0xff;
        assert_eq!(packet::check(&bytes, 7, "a.example", Family::V4), Err(Stray::Malformed));
    }
    // What is not read may claim what it likes.
    let mut bytes = sound;
    bytes[8..12].fill(0xff);
    bytes[3] |= 0x40;
    assert!(packet::check(&bytes, 7, "a.example", Family::V4).is_ok());
}
