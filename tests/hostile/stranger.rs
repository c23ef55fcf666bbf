//! A client that is up to something, and an innocent one beside it.

use crate::support::client::Client;
use crate::support::events::{Author, unix_now};
use crate::support::process::{Process, Setup};
use serde_json::json;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// The service of these tests.
pub const DOMAIN: &str = "grasp.test";

/// A client's socket, written to byte by byte.
pub struct Stranger(TcpStream);

impl Stranger {
    /// A WebSocket client.
    pub fn connect(address: SocketAddr) -> io::Result<Stranger> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        socket.set_write_timeout(Some(Duration::from_secs(20)))?;
        socket.write_all(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )?;
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            socket.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        if head.starts_with(b"HTTP/1.1 101 ") {
            Ok(Stranger(socket))
        } else {
            Err(io::ErrorKind::ConnectionRefused.into())
        }
    }

    /// A connection that says something over HTTP and takes no answer.
    pub fn ask(address: SocketAddr, request: &str) -> io::Result<Stranger> {
        let mut socket = TcpStream::connect(address)?;
        socket.write_all(request.as_bytes())?;
        Ok(Stranger(socket))
    }

    /// Begins a text message of `bytes` and sends all of it but its last byte.
    pub fn begin_message(&mut self, bytes: usize) -> io::Result<()> {
        let frame = [head(bytes), vec![b'x'; bytes - 1]].concat();
        self.0.write_all(&frame)
    }

    /// Sends a text message.
    pub fn send(&mut self, text: &str) -> io::Result<()> {
        self.0.write_all(&[&head(text.len())[..], text.as_bytes()].concat())
    }

    /// Reads whatever comes, until the link ends.
    pub fn drain(mut self) {
        let mut chunk = [0; 16 << 10];
        while self.0.read(&mut chunk).is_ok_and(|n| n > 0) {}
    }

    /// Reads until the text comes.
    pub fn wait_for(&mut self, text: &str) -> io::Result<()> {
        let (mut seen, mut chunk): (Vec<u8>, _) = (Vec::new(), [0; 4096]);
        while !seen.windows(text.len()).any(|window| window == text.as_bytes()) {
            let n = self.0.read(&mut chunk)?;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            seen.extend(&chunk[..n]);
        }
        Ok(())
    }
}

/// The head of a text frame that is masked with nothing.
fn head(bytes: usize) -> Vec<u8> {
    let mut head = vec![0x81];
    match bytes {
        0..126 => head.push(0x80 | bytes as u8),
        126..65_536 => {
            head.push(0x80 | 126);
            head.extend((bytes as u16).to_be_bytes());
        }
        _ => {
            head.push(0x80 | 127);
            head.extend((bytes as u64).to_be_bytes());
        }
    }
    head.extend([0; 4]);
    head
}

/// A service with one repo, and somebody who uses it.
pub struct Scene {
    pub process: Process,
    owner: Author,
    innocent: Client,
    published: u64,
}

impl Scene {
    pub fn new(setup: &Setup) -> Scene {
        let process = setup.start();
        let owner = Author::from_seed(1);
        let mut innocent = process.client();
        innocent.publish_ok(&owner.announcement("tree", &[DOMAIN], &[&format!("wss://{DOMAIN}")], unix_now() - 1_000));
        Scene { process, owner, innocent, published: 0 }
    }

    /// A root event of the repo, padded.
    pub fn issue(&mut self, bytes: usize) {
        self.published += 1;
        let title = format!("{:05}{}", self.published, "x".repeat(bytes));
        self.innocent.publish_ok(&self.owner.issue(&self.owner.repo("tree"), &title, unix_now()));
    }

    /// The innocent client publishes, queries, and is answered; the longest that one of the two took.
    pub fn innocent(&mut self) -> Duration {
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            let began = Instant::now();
            self.issue(0);
            longest = longest.max(began.elapsed());
            let began = Instant::now();
            assert_eq!(self.innocent.query(&json!({"kinds": [30617]})).len(), 1);
            longest = longest.max(began.elapsed());
        }
        longest
    }

    /// So many clients, each of which has done something; they stay connected.
    pub fn strangers(&self, count: u64, act: impl Fn(u64, &mut Stranger)) -> Vec<Stranger> {
        let one = |n| {
            let mut stranger = Stranger::connect(self.process.relay()).expect("a place");
            act(n, &mut stranger);
            stranger
        };
        (0..count).map(one).collect()
    }

    /// Whether somebody new is served.
    pub fn newcomer(&self) -> usize {
        self.process.client().query(&json!({"kinds": [30617]})).len()
    }

    /// Prints what an attack cost, and fails if it is more than `mib_max` of memory.
    pub fn judge(&mut self, attack: &str, mib_max: u64) {
        let longest = self.innocent();
        assert_eq!(self.newcomer(), 1, "{attack}: a newcomer is served");
        let (now, peak) = (self.process.resident_bytes() >> 20, self.process.resident_bytes_peak() >> 20);
        println!(
            "{attack}: {peak} MiB at most, {now} MiB now, the innocent client waited {} ms at most",
            longest.as_millis()
        );
        assert!(peak <= mib_max, "{attack}: {peak} MiB");
        assert!(self.process.is_running());
        assert!(longest < Duration::from_secs(5), "{attack}: the innocent client waited {longest:?}");
    }
}
