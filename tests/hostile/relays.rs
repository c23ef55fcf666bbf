//! Hostile and broken peers over real sockets: each costs its own link at most, within a stated time and memory, and is
//! named in metrics and `/status.json`.
//!
//! | what a relay does | what it costs | shown here by, or elsewhere |
//! |---|---|---|
//! | a frame that announces a gigabyte | the link, before any of it is read | `huge frame` |
//! | a message over the limit, in fragments | the link, at the limit | `huge message` |
//! | fragments of nothing, without end | the link, after 4 MiB | `endless fragments`; `io::link`, with pings between |
//! | one byte at a time | nothing, or the deadline of connecting | `trickle`; `io::handshake`, `io::fetch`, `io::link` |
//! | pings, challenges or nonsense without end | the link, after 50,000 in a minute | `endless pings`, `AUTH storm` |
//! | compressed frames that were not negotiated | the link | `compressed` |
//! | masked frames, invalid UTF-8, unknown opcodes | the link | `masked`; `io::link`, `loopback` |
//! | a redirect, another status, another protocol | the dial | `redirect`, `no HTTP`; `io::event_loop` |
//! | an answer to the upgrade without end | the dial | `endless head` |
//! | an answer to the question what it is without end | 64 KiB, and nothing else | `endless document`; `io::fetch` |
//! | a TLS handshake that stalls, or is none | the dial | `TLS stall`, `no TLS` |
//! | a certificate for another host, by an unknown authority, expired | the dial | `tls` |
//! | a name with private addresses | the dial, before any packet | `io::event_loop`, `io::dial` |
//! | a name with too many addresses, or others when asked again | those beyond 8; what is dialled was checked | `io::dial` |
//! | names that the resolver is lied to about | the lookup | `io::resolver` |
//! | events that nothing was asked for | the link, where they are most of what comes | `sync::relay` |
use crate::support::events::{Author, unix_now};
use crate::support::mock_relay::MockRelay;
use crate::support::process::{Process, Setup};
use crate::support::wait::wait_until;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// Far more than any of these takes, on a machine that is busy with other tests.
const SOON: Duration = Duration::from_secs(60);
/// Memory that all of them together may cost: a message of a mebibyte each, and what TLS and sockets hold.
const MEMORY_MAX: u64 = 48 << 20;

/// What a peer does with whoever connects. Ends when the other side does.
pub type Script = fn(TcpStream) -> std::io::Result<()>;

struct Hostile {
    name: &'static str,
    scheme: &'static str,
    script: Script,
    /// What the status says of the link that was lost; empty if none is.
    lost: &'static str,
    /// Its name in the metrics.
    reason: &'static str,
}

const HOSTILE: [Hostile; 14] = [
    Hostile { name: "huge frame", scheme: "ws", script: huge_frame, lost: "message too large", reason: "too_large" },
    Hostile {
        name: "huge message",
        scheme: "ws",
        script: huge_message,
        lost: "message too large",
        reason: "too_large",
    },
    Hostile {
        name: "endless fragments",
        scheme: "ws",
        script: |socket| endless(socket, &[0x01, 0], &[0x00, 0].repeat(4_096)),
        lost: "message too large",
        reason: "too_large",
    },
    Hostile { name: "trickle", scheme: "ws", script: trickle, lost: "took too long", reason: "timeout" },
    Hostile {
        name: "endless pings",
        scheme: "ws",
        script: |socket| endless(socket, b"", &[0x89, 0].repeat(4_096)),
        lost: "bring nothing",
        reason: "flood",
    },
    Hostile {
        name: "AUTH storm",
        scheme: "ws",
        script: |socket| endless(socket, b"", &text_frame(r#"["AUTH","a challenge"]"#).repeat(512)),
        lost: "bring nothing",
        reason: "flood",
    },
    Hostile {
        name: "compressed",
        scheme: "ws",
        script: |socket| endless(socket, &[0xc1, 3, 0x4b, 0x04, 0x00], b""),
        lost: "protocol broken",
        reason: "protocol",
    },
    Hostile {
        name: "masked",
        scheme: "ws",
        script: |socket| endless(socket, &[0x81, 0x81, 0, 0, 0, 0, b'a'], b""),
        lost: "protocol broken",
        reason: "protocol",
    },
    Hostile {
        name: "redirect",
        scheme: "ws",
        script: |socket| {
            answer(socket, b"HTTP/1.1 301 Moved\r\nLocation: ws://127.0.0.1/\r\nContent-Length: 0\r\n\r\n")
        },
        lost: "redirected to ws",
        reason: "redirect",
    },
    Hostile {
        name: "no HTTP",
        scheme: "ws",
        script: |socket| answer(socket, b"SSH-2.0-OpenSSH_9.9\r\n"),
        lost: "no http answer",
        reason: "handshake",
    },
    Hostile {
        name: "endless head",
        scheme: "ws",
        script: endless_head,
        lost: "head of the answer",
        reason: "head_too_large",
    },
    Hostile { name: "endless document", scheme: "ws", script: endless_document, lost: "", reason: "too_large" },
    Hostile { name: "TLS stall", scheme: "wss", script: silent, lost: "took too long", reason: "timeout" },
    Hostile {
        name: "no TLS",
        scheme: "wss",
        script: |socket| answer(socket, b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        lost: "tls failed",
        reason: "tls",
    },
];

/// Listens for good, each connection in a thread of its own; the process's end takes them along.
pub fn listen(script: Script) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("a bound socket has an address").port();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            // Whatever goes wrong is the other side hanging up, which is what it is to do.
            std::thread::spawn(move || script(socket));
        }
    });
    port
}

fn read_head(socket: &mut TcpStream) -> std::io::Result<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Says that there is no document to whoever asks for one; upgrades whoever wants that.
fn upgrade(socket: &mut TcpStream) -> std::io::Result<bool> {
    let head = read_head(socket)?;
    let Some(key) = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")) else {
        socket.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
        return Ok(false);
    };
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    socket.write_all(answer.as_bytes())?;
    Ok(true)
}

/// Keeps reading what comes, so that nobody waits for us, until the other side is gone.
fn silent(mut socket: TcpStream) -> std::io::Result<()> {
    let mut scratch = [0; 4_096];
    while socket.read(&mut scratch)? > 0 {}
    Ok(())
}

/// Upgrades, says `first`, and then `again` without end.
pub fn endless(mut socket: TcpStream, first: &[u8], again: &[u8]) -> std::io::Result<()> {
    if !upgrade(&mut socket)? {
        return Ok(());
    }
    let reader = socket.try_clone()?;
    std::thread::spawn(move || silent(reader));
    socket.write_all(first)?;
    while !again.is_empty() {
        socket.write_all(again)?;
    }
    silent(socket)
}

fn text_frame(text: &str) -> Vec<u8> {
    assert!(text.len() < 126, "a short text");
    [&[0x81, text.len() as u8], text.as_bytes()].concat()
}

fn huge_frame(socket: TcpStream) -> std::io::Result<()> {
    endless(socket, &[0x81, 127, 0, 0, 0, 0, 0x40, 0, 0, 0], &[b'x'; 4_096])
}

fn huge_message(socket: TcpStream) -> std::io::Result<()> {
    let fragment = |opcode: u8| [&[opcode, 126, 0x80, 0][..], &[b'x'; 0x8000]].concat();
    endless(socket, &fragment(0x01), &fragment(0x00))
}

/// Says nothing of what it is; then lets the upgrade wait, byte for byte.
fn trickle(mut socket: TcpStream) -> std::io::Result<()> {
    let head = read_head(&mut socket)?;
    if !head.contains("Sec-WebSocket-Key") {
        return socket.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    }
    for byte in b"HTTP/1.1 101 Yes\r\nX: ".iter().chain(std::iter::repeat(&b'x')) {
        socket.write_all(&[*byte])?;
        std::thread::park_timeout(Duration::from_millis(20));
    }
    Ok(())
}

fn answer(mut socket: TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    socket.write_all(bytes)?;
    silent(socket)
}

fn endless_head(mut socket: TcpStream) -> std::io::Result<()> {
    socket.write_all(b"HTTP/1.1 101 Yes\r\n")?;
    loop {
        socket.write_all(&[b'x'; 4_096])?;
    }
}

/// Never stops saying what it is; otherwise quiet.
fn endless_document(mut socket: TcpStream) -> std::io::Result<()> {
    let head = read_head(&mut socket)?;
    if head.contains("Sec-WebSocket-Key") {
        return socket.write_all(b"HTTP/1.1 503 Later\r\n\r\n");
    }
    socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
    loop {
        socket.write_all(&[b'{'; 4_096])?;
    }
}

/// What the status says of the last link to each relay, by URL.
fn lost(process: &Process) -> BTreeMap<String, String> {
    let of = |relay: &serde_json::Value| relay["last_lost"]["why"].as_str().unwrap_or("").to_owned();
    process.relays().iter().map(|relay| (relay.url.clone(), of(&relay.whole))).collect()
}

#[test]
fn each_hostile_peer_costs_its_own_link_and_has_a_name() {
    let good = MockRelay::start();
    let owner = Author::from_seed(1);
    let url = good.url();
    good.data().add([&owner.announcement("tree", &["grasp.test"], &["wss://grasp.test", &url], unix_now() - 1_000)]);
    let quiet = Setup::new("grasp.test").bootstrap(&url).toml("[timing]\nconnect_timeout_secs = 3\n").start();
    quiet.wait_live(1, SOON);
    let memory = quiet.resident_bytes_peak();
    drop(quiet);

    let mut setup = Setup::new("grasp.test").bootstrap(&url).toml("[timing]\nconnect_timeout_secs = 3\n");
    let peers: Vec<(String, &Hostile)> =
        HOSTILE.iter().map(|h| (format!("{}://127.0.0.1:{}", h.scheme, listen(h.script)), h)).collect();
    for (url, _) in &peers {
        setup = setup.bootstrap(url);
    }
    let mut process = setup.start();
    for (url, hostile) in &peers {
        wait_until(hostile.name, SOON, || lost(&process)[url].contains(hostile.lost));
    }
    let metrics = process.metrics();
    for Hostile { name, reason, lost, .. } in &HOSTILE {
        let label = format!("reason=\"{reason}\"");
        let counted = match lost.is_empty() {
            true => metrics.sum("grasp_sync_relay_info_total", &["result=\"too_large\""]),
            false => metrics.sum("grasp_sync_links_closed_total", &["side=\"relay\"", &label]),
        };
        assert!(counted >= 1.0, "{name}: {reason} is not counted");
    }

    // The others go on as if nothing were.
    let issue = Author::from_seed(2).issue(&owner.repo("tree"), "in the midst of it", unix_now());
    good.data().add([&issue]);
    let mut client = process.client();
    wait_until("a live event", SOON, || client.query(&serde_json::json!({"ids": [issue.id.to_hex()]})).len() == 1);
    assert_eq!(good.seen().connections, 2, "one for each process");
    let grown = process.resident_bytes_peak().saturating_sub(memory);
    assert!(grown <= MEMORY_MAX, "{grown} bytes for hostile peers");
    assert!(process.is_running());
}
