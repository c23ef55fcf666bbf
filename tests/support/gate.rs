//! A door in front of a relay, as a proxy is: it answers as it is told, or lets through.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What the door does with a request.
pub enum Answer {
    /// Answers it with these bytes, and hangs up.
    Whole(String),
    /// Says this, and lets the relay answer.
    Through(String),
}

/// A request that came to the door.
#[derive(Clone, Debug)]
pub struct Request {
    pub at: Instant,
    pub head: String,
}

impl Request {
    pub fn is_upgrade(&self) -> bool {
        self.head.to_ascii_lowercase().contains("\r\nupgrade: websocket")
    }
}

/// What the door decides, by the requests so far, the new one last.
type Decide = dyn Fn(&[Request]) -> Answer + Send + Sync;

pub struct Gate {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    target: SocketAddr,
    decide: Box<Decide>,
    requests: Mutex<Vec<Request>>,
    stopped: AtomicBool,
}

impl Gate {
    /// Listens in front of `target`. One thread per connection and direction.
    pub fn start(target: SocketAddr, decide: impl Fn(&[Request]) -> Answer + Send + Sync + 'static) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (requests, stopped) = (Mutex::default(), AtomicBool::new(false));
        let shared = Arc::new(Shared { target, decide: Box::new(decide), requests, stopped });
        let of_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                if of_thread.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(socket), shared) = (socket, Arc::clone(&of_thread)) else { continue };
                std::thread::spawn(move || serve(socket, &shared));
            }
        });
        Gate { address, shared }
    }

    /// Its `ws://` URL.
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// What came so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().expect("no holder panics").clone()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(mut socket: TcpStream, shared: &Shared) {
    let _ = socket.set_read_timeout(Some(Duration::from_secs(10)));
    let _ = socket.set_nodelay(true);
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match socket.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let request = Request { at: Instant::now(), head: String::from_utf8_lossy(&head).into_owned() };
    let answer = {
        let mut requests = shared.requests.lock().expect("no holder panics");
        requests.push(request);
        (shared.decide)(&requests)
    };
    match answer {
        Answer::Whole(answer) => {
            let _ = socket.write_all(answer.as_bytes());
        }
        Answer::Through(before) => {
            let Ok(mut relay) = TcpStream::connect(shared.target) else { return };
            let _ = relay.set_nodelay(true);
            let _ = socket.set_read_timeout(None);
            if socket.write_all(before.as_bytes()).is_err() || relay.write_all(&head).is_err() {
                return;
            }
            let (Ok(from_client), Ok(to_relay)) = (socket.try_clone(), relay.try_clone()) else { return };
            let back = std::thread::spawn(move || pass(from_client, to_relay));
            pass(relay, socket);
            let _ = back.join();
        }
    }
}

/// Passes bytes on until either side is done; then both are.
fn pass(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
