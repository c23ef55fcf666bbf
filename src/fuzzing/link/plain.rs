//! RFC 6455 in the plainest words, over all bytes at once; and bytes to read, from few choices.

use crate::contract::CloseReason;
use crate::limits::{MESSAGE_BYTES_MAX, RELAY_MESSAGE_BYTES_MAX};

/// What a frame says, once it is whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    Text(String),
    /// A ping, a pong or a binary message.
    Alive,
}

impl Heard {
    pub fn text(&self) -> Option<&str> {
        match self {
            Heard::Text(text) => Some(text),
            Heard::Alive => None,
        }
    }
}

/// Where an HTTP head ends: after its first empty line, empty lines before it aside.
pub fn head_end(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut has_begun) = (0, false);
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        at += line.len();
        let is_empty = matches!(line, b"\n" | b"\r\n");
        if is_empty && has_begun {
            return Some(at);
        }
        has_begun |= !is_empty;
    }
    None
}

/// Where the head of the final answer ends, behind interim ones.
pub fn answer_end(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let len = head_end(&bytes[at..])?;
        let head = bytes[at..at + len].trim_ascii_start();
        let status = head.get(9..12).unwrap_or_default();
        at += len;
        if !status.starts_with(b"1") || status == b"101" {
            return Some(at);
        }
    }
}

/// What the frames say, and how they end the link if they do.
pub fn decode(mut bytes: &[u8], from_client: bool) -> (Vec<Heard>, Option<CloseReason>) {
    let (mut heard, mut message) = (Vec::new(), None);
    loop {
        let next = Frame::first_of(bytes, from_client).and_then(|found| match found {
            Some((frame, len)) => frame.read(from_client, &mut message).map(|said| Some((said, len))),
            None => Ok(None),
        });
        match next {
            Ok(Some((said, len))) => {
                heard.extend(said);
                bytes = &bytes[len..];
            }
            Ok(None) => return (heard, None),
            Err(reason) => return (heard, Some(reason)),
        }
    }
}

struct Frame {
    first: u8,
    is_masked: bool,
    payload: Vec<u8>,
}

/// A message that is not whole yet: whether it is a text, and what there is of it.
type Begun = Option<(bool, Vec<u8>)>;

impl Frame {
    /// The first frame and its length, `None` if it is not whole.
    fn first_of(bytes: &[u8], from_client: bool) -> Result<Option<(Frame, usize)>, CloseReason> {
        let &[first, second, ..] = bytes else { return Ok(None) };
        let length_len = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let is_masked = second & 0x80 != 0;
        let head_len = 2 + length_len + if is_masked { 4 } else { 0 };
        let Some(head) = bytes.get(..head_len) else { return Ok(None) };
        let long = head[2..2 + length_len].iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
        let len = if length_len == 0 { u64::from(second & 0x7f) } else { long };
        if !matches!(first & 0x0f, 0..=2 | 8..=10) {
            return Err(CloseReason::Protocol);
        }
        if len > message_bytes_max(from_client) as u64 {
            return Err(CloseReason::TooLarge);
        }
        let end = head_len + len as usize;
        let Some(payload) = bytes.get(head_len..end) else { return Ok(None) };
        let mask = if is_masked { &head[head_len - 4..] } else { &[0; 4] };
        let mut payload = payload.to_vec();
        apply(mask, &mut payload);
        Ok(Some((Frame { first, is_masked, payload }, end)))
    }

    fn read(self, from_client: bool, message: &mut Begun) -> Result<Option<Heard>, CloseReason> {
        let is_final = self.first & 0x80 != 0;
        if self.is_masked != from_client || self.first & 0x70 != 0 {
            return Err(CloseReason::Protocol);
        }
        let (is_text, bytes) = match (self.first & 0x0f, message.take()) {
            (8..=10, _) if !is_final || self.payload.len() > 125 => return Err(CloseReason::Protocol),
            (8, _) => return Err(close_reason(&self.payload)),
            (9 | 10, begun) => {
                *message = begun;
                return Ok(Some(Heard::Alive));
            }
            (0, Some((is_text, mut bytes))) => {
                bytes.extend(self.payload);
                (is_text, bytes)
            }
            (opcode @ (1 | 2), None) => (opcode == 1, self.payload),
            _ => return Err(CloseReason::Protocol),
        };
        if bytes.len() > message_bytes_max(from_client) {
            return Err(CloseReason::TooLarge);
        }
        // A character may be cut by the end of a fragment, but not by that of the message.
        let is_broken = |error: &std::str::Utf8Error| is_final || error.error_len().is_some();
        if is_text && std::str::from_utf8(&bytes).err().as_ref().is_some_and(is_broken) {
            return Err(CloseReason::Protocol);
        }
        if !is_final {
            *message = Some((is_text, bytes));
            return Ok(None);
        }
        Ok(Some(if is_text { Heard::Text(String::from_utf8(bytes).expect("checked above")) } else { Heard::Alive }))
    }
}

/// Relays may say more in one message than clients.
fn message_bytes_max(from_client: bool) -> usize {
    if from_client { MESSAGE_BYTES_MAX } else { RELAY_MESSAGE_BYTES_MAX }
}

fn close_reason(payload: &[u8]) -> CloseReason {
    match payload {
        [] => CloseReason::Peer(1005),
        [_] => CloseReason::Protocol,
        [_, _, reason @ ..] if std::str::from_utf8(reason).is_err() => CloseReason::Protocol,
        [high, low, ..] => CloseReason::Peer(match u16::from_be_bytes([*high, *low]) {
            code @ (1000..=1003 | 1007..=1013 | 3000..=4999) => code,
            _ => 1002,
        }),
    }
}

/// Bytes of frames, by choices of three bytes: what begins the frame, how long it is, what fills it.
pub fn frames_of(choices: &[u8], masked: bool) -> Vec<u8> {
    let large = message_bytes_max(masked) as u64;
    let lengths: [u64; 16] = [0, 1, 2, 3, 4, 5, 20, 124, 125, 126, 127, 1_000, 65_535, 65_536, large / 2 + 1, large];
    // Enough for a message that grows too large in pieces.
    let mut room = large + 70_000;
    let mut bytes = Vec::new();
    for choice in choices.chunks_exact(3) {
        let &[first, shape, fill] = choice else { break };
        let chosen = lengths[usize::from(shape & 15)];
        let len = chosen.min(room);
        room -= len;
        // One header says more than there is, or than there may be.
        let said = if shape & 0x70 == 0x70 { large + u64::from(fill) } else { len };
        let is_masked = masked != (shape & 0xf0 == 0xe0);
        let mask_bit = if is_masked { 0x80 } else { 0 };
        bytes.push(first);
        if said > 65_535 || shape & 0x70 == 0x60 {
            bytes.push(mask_bit | 127);
            bytes.extend(said.to_be_bytes());
        } else if said > 125 || shape & 0x70 == 0x50 {
            bytes.push(mask_bit | 126);
            bytes.extend((said as u16).to_be_bytes());
        } else {
            bytes.push(mask_bit | said as u8);
        }
        // What is large is masked with nothing, for speed.
        let mask = if len < 4_096 { [fill, first, shape, 1] } else { [0; 4] };
        if is_masked {
            bytes.extend(mask);
        }
        let pattern = pattern(first, fill);
        let mut payload = pattern.repeat(len as usize / pattern.len() + 1);
        payload.truncate(len as usize);
        if is_masked {
            apply(&mask, &mut payload);
        }
        bytes.extend(payload);
    }
    bytes
}

/// Masks, or takes the mask off again (RFC 6455, section 5.3).
fn apply(mask: &[u8], payload: &mut [u8]) {
    if mask.iter().any(|key| *key != 0) {
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
    }
}

/// What fills a frame: close codes, letters of one to four bytes, anything.
fn pattern(first: u8, fill: u8) -> Vec<u8> {
    match (first & 15, fill >> 6) {
        (8, _) => [&(985 + u16::from(fill)).to_be_bytes()[..], b"bye"].concat(),
        (_, 0) => vec![b'a' + fill % 26],
        (_, 1) => "é".into(),
        (_, 2) => "𐌰€".into(),
        _ => vec![fill],
    }
}
