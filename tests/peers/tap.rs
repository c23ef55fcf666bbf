//! A listener between us and a relay that somebody else wrote: passes every byte on unchanged and notes what was said.

use serde_json::Value;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What went through since the tap was opened or last asked to forget.
#[derive(Clone, Debug, Default)]
pub struct Heard {
    pub connections: u64,
    pub reqs: u64,
    pub filters: u64,
    /// Subscriptions open on one connection, at most.
    pub open_peak: usize,
    pub neg_opens: u64,
    /// Bytes of the filters of all NEG-OPENs.
    pub neg_filter_bytes: u64,
    /// NEG-MSGs, and bytes of all messages that begin with `NEG-`, both ways.
    pub neg_msgs: u64,
    pub neg_bytes: u64,
    pub events: u64,
    pub eoses: u64,
    /// Bytes of the longest message, ours and theirs.
    pub sent_peak: usize,
    pub received_peak: usize,
    pub bytes_received: u64,
    /// Every NOTICE and NEG-ERR, and every CLOSED that gives a reason, as it came.
    pub refusals: Vec<String>,
    /// What was answered to what is no WebSocket: the relay's word on itself.
    pub info: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Us,
    Relay,
}

pub struct Tap {
    address: SocketAddr,
    heard: Arc<Mutex<Heard>>,
}

impl Tap {
    /// Listens in front of `relay`, until the test ends.
    pub fn open(relay: SocketAddr) -> Tap {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let address = listener.local_addr().expect("it is bound");
        let heard = Arc::new(Mutex::new(Heard::default()));
        let of_thread = Arc::clone(&heard);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // Our side sees a relay that is not there as a link that ends.
                let Ok(relay) = TcpStream::connect(relay) else { continue };
                of_thread.lock().expect("no panic").connections += 1;
                let open = Arc::new(Mutex::new(Vec::new()));
                for (from, to, side) in [(&client, &relay, Side::Us), (&relay, &client, Side::Relay)] {
                    let (from, to) = (from.try_clone().expect("a socket"), to.try_clone().expect("a socket"));
                    let ear = Ear::new(side, Arc::clone(&of_thread), Arc::clone(&open));
                    std::thread::spawn(move || pass(from, to, ear));
                }
            }
        });
        Tap { address, heard }
    }

    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    pub fn heard(&self) -> Heard {
        self.heard.lock().expect("no panic").clone()
    }

    pub fn forget(&self) {
        *self.heard.lock().expect("no panic") = Heard::default();
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut ear: Ear) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        ear.hear(&buffer[..n]);
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// Reads one direction of one connection.
struct Ear {
    side: Side,
    heard: Arc<Mutex<Heard>>,
    /// Subscriptions open on this connection.
    open: Arc<Mutex<Vec<String>>>,
    buffer: Vec<u8>,
    /// Once the head has been read: whether frames follow it.
    framed: Option<bool>,
    /// The message whose last frame is still to come.
    message: Vec<u8>,
}

impl Ear {
    fn new(side: Side, heard: Arc<Mutex<Heard>>, open: Arc<Mutex<Vec<String>>>) -> Ear {
        Ear { side, heard, open, buffer: Vec::new(), framed: None, message: Vec::new() }
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        if self.framed.is_none() {
            let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") else { return };
            let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
            self.framed = Some(String::from_utf8_lossy(&head).to_ascii_lowercase().contains("upgrade: websocket"));
        }
        if self.framed == Some(false) {
            let body = std::mem::take(&mut self.buffer);
            self.heard.lock().expect("no panic").info.push_str(&String::from_utf8_lossy(&body));
            return;
        }
        while let Some(frame) = next_frame(&mut self.buffer) {
            // Control frames come between those of a message.
            if frame.opcode < 8 {
                self.message.extend(frame.payload);
                if frame.last {
                    let message = std::mem::take(&mut self.message);
                    self.note(&String::from_utf8_lossy(&message));
                }
            }
        }
    }

    fn note(&self, text: &str) {
        let mut heard = self.heard.lock().expect("no panic");
        let mut open = self.open.lock().expect("no panic");
        let heard = &mut *heard;
        let peak = if self.side == Side::Us { &mut heard.sent_peak } else { &mut heard.received_peak };
        *peak = text.len().max(*peak);
        if self.side == Side::Relay {
            heard.bytes_received += text.len() as u64;
        }
        // Most of what passes: not parsed, so that the tap is no brake.
        if text.starts_with(r#"["EVENT""#) {
            heard.events += 1;
            return;
        }
        let message: Value = serde_json::from_str(text).unwrap_or_default();
        let id = message[1].as_str().unwrap_or_default().to_owned();
        match message[0].as_str().unwrap_or_default() {
            "REQ" => {
                heard.reqs += 1;
                heard.filters += message.as_array().map_or(0, |m| m.len() as u64 - 2);
                open.retain(|held| *held != id);
                open.push(id);
                heard.open_peak = heard.open_peak.max(open.len());
            }
            "CLOSE" => open.retain(|held| *held != id),
            "EOSE" => heard.eoses += 1,
            "CLOSED" => {
                open.retain(|held| *held != id);
                if message[2] != "" {
                    heard.refusals.push(text.to_owned());
                }
            }
            "NOTICE" => heard.refusals.push(text.to_owned()),
            label if label.starts_with("NEG-") => {
                heard.neg_bytes += text.len() as u64;
                match label {
                    "NEG-OPEN" => {
                        heard.neg_opens += 1;
                        heard.neg_filter_bytes += message[2].to_string().len() as u64;
                    }
                    "NEG-MSG" => heard.neg_msgs += 1,
                    "NEG-ERR" => heard.refusals.push(text.to_owned()),
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

struct Frame {
    last: bool,
    opcode: u8,
    payload: Vec<u8>,
}

/// Takes the next whole frame (RFC 6455, section 5.2) off the front, if there is one.
fn next_frame(buffer: &mut Vec<u8>) -> Option<Frame> {
    let (&first, &second) = (buffer.first()?, buffer.get(1)?);
    let extra = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    let len = match extra {
        0 => usize::from(second & 0x7f),
        _ => buffer.get(2..2 + extra)?.iter().fold(0, |n, &byte| n << 8 | usize::from(byte)),
    };
    let mask_at = 2 + extra;
    let masked = second & 0x80 != 0;
    let from = mask_at + if masked { 4 } else { 0 };
    let mut payload = buffer.get(from..from + len)?.to_vec();
    if masked {
        let mask = [0, 1, 2, 3].map(|n| buffer[mask_at + n]);
        payload.iter_mut().zip(mask.into_iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    }
    buffer.drain(..from + len);
    Some(Frame { last: first & 0x80 != 0, opcode: first & 0x0f, payload })
}
