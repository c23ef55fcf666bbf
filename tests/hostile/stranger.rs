//! A client that is up to something, and an innocent one beside it.

use crate::support::client::Client;
use crate::support::events::{Author, unix_now};
use crate::support::process::{Process, Setup};
use serde_json::json;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// How long one turn of the service's loop may work.
    pub turn_max: Duration,
}

impl Scene {
    pub fn new(setup: &Setup) -> Scene {
        Scene::of(setup.start())
    }

    /// The same with a service that runs already.
    pub fn of(process: Process) -> Scene {
        let owner = Author::from_seed(1);
        let mut innocent = process.client();
        innocent.publish_ok(&owner.announcement("tree", &[DOMAIN], &[&format!("wss://{DOMAIN}")], unix_now()));
        Scene { process, owner, innocent, published: unix_now(), turn_max: WORK_MAX }
    }

    /// A root event of the repo, padded.
    pub fn issue(&mut self, bytes: usize) {
        self.published += 1;
        let title = format!("{:05}{}", self.published, "x".repeat(bytes));
        self.innocent.publish_ok(&self.owner.issue(&self.owner.repo("tree"), &title, unix_now()));
    }

    /// The innocent client publishes, queries, and is answered, so many times each: how long each of the two took, and how long
    /// the service worked meanwhile, at whatever.
    fn innocent(&mut self, rounds: usize) -> (Waits, Waits) {
        let (mut waits, mut works) = (Vec::new(), Vec::new());
        for n in 0..2 * rounds {
            let (began, worked) = (Instant::now(), self.process.cpu_time());
            match n % 2 {
                0 => self.issue(0),
                _ => assert_eq!(self.innocent.query(&json!({"kinds": [30617]})).len(), 1),
            }
            waits.push(began.elapsed());
            works.push(self.process.cpu_time() - worked);
        }
        (Waits::of(waits), Waits::of(works))
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

    /// Prints what an attack has cost that is over or goes on by itself, and fails if that is too much.
    pub fn judge(&mut self, attack: &str, mib_max: u64) {
        self.judge_beside(attack, mib_max, || std::thread::park_timeout(Duration::from_millis(50)));
    }

    /// The same of an attack of which `again` is one more piece, again and again for as long as the innocent client is there.
    ///
    /// What is judged is the longest turn of the service's loop, in time of a processor, which no other process makes longer.
    /// How long the innocent client waited, and the service worked meanwhile, is printed.
    pub fn judge_beside(&mut self, attack: &str, mib_max: u64, mut again: impl FnMut() + Send) {
        let over = AtomicBool::new(false);
        let ((waits, works), pieces) = std::thread::scope(|scope| {
            let attacker = scope.spawn(|| {
                let mut pieces = 0;
                while !over.load(Ordering::SeqCst) {
                    again();
                    pieces += 1;
                }
                pieces
            });
            let measured = self.innocent(ROUNDS);
            over.store(true, Ordering::SeqCst);
            (measured, attacker.join().expect("an attacker does not panic"))
        });
        assert_eq!(self.newcomer(), 1, "{attack}: a newcomer is served");
        let (now, peak) = (self.process.resident_bytes() >> 20, self.process.resident_bytes_peak() >> 20);
        let metrics = self.process.metrics();
        let longest = metrics.sum("grasp_sync_loop_longest_turn_seconds", &[]) * 1e3;
        println!(
            "{attack}: {peak} MiB at most, {now} MiB now; {pieces} pieces beside; the innocent client waited {waits}, \
             and the service worked meanwhile {works}, in its longest turn {longest:.1} ms"
        );
        if let Some(bytes) = self.process.group_bytes_peak() {
            println!("    {} MiB at most with sockets and cached files, where that is bounded", bytes >> 20);
        }
        assert!(peak <= mib_max, "{attack}: {peak} MiB");
        assert!(self.process.is_running());
        // In it is what else was done while the disk had its pause between two commits, so it depends on the disk.
        assert!(
            works.p99 <= WORK_MAX * 10,
            "{attack}: the service worked {works} before it answered the innocent client"
        );
        assert!(longest <= self.turn_max.as_secs_f64() * 1e3, "{attack}: one turn took {longest} ms");
    }
}

/// Publishes, and queries, of the innocent client beside an attack.
const ROUNDS: usize = 250;

/// How long the service may work in one turn; longer where it is not built to be fast.
const WORK_MAX: Duration = Duration::from_millis(if cfg!(debug_assertions) { 250 } else { 50 });

/// How long somebody waited.
pub struct Waits {
    half: Duration,
    p99: Duration,
    most: Duration,
}

impl Waits {
    fn of(mut waits: Vec<Duration>) -> Waits {
        waits.sort_unstable();
        let at = |percent: usize| waits[(waits.len() * percent / 100).min(waits.len() - 1)];
        Waits { half: at(50), p99: at(99), most: at(100) }
    }
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [half, p99, most] = [self.half, self.p99, self.most].map(|wait| wait.as_secs_f64() * 1e3);
        write!(f, "{half:.1} / {p99:.1} / {most:.1} ms (half, 99 %, most)")
    }
}
