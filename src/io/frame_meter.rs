//! What a WebSocket holds of what was read, told by the heads of the frames (RFC 6455, section 5.2).
//!
//! tungstenite reads ahead, and keeps the memory of its largest frame for as long as the link lives. So from a large frame
//! on, nothing is read past the end of a frame: once the message is taken, that memory holds nothing, and can be given
//! back.

use crate::limits::LINK_LARGE_FRAME_BYTES;

/// Bytes of the longest head: two, eight of length, four of mask.
const HEAD_BYTES_MAX: usize = 14;
/// In the first byte: the frame is the last of its message.
const FINAL: u8 = 0x80;
/// In the first byte: a control frame, which may stand between those of a message.
const CONTROL: u8 = 0x08;
/// In the second byte: the payload is masked.
const MASKED: u8 = 0x80;

/// Follows the frames that are read.
#[derive(Debug)]
pub struct FrameMeter {
    at: At,
    /// Bytes of the largest part of one frame that was in memory at once.
    largest: usize,
    /// Bytes of the frames of a message that is not whole.
    collected: usize,
    is_within_message: bool,
    /// Messages that are whole.
    messages: u64,
}

#[derive(Clone, Copy, Debug)]
enum At {
    Head { bytes: [u8; HEAD_BYTES_MAX], len: usize },
    Payload(Frame),
}

impl At {
    const BEGIN: At = At::Head { bytes: [0; HEAD_BYTES_MAX], len: 0 };
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    is_final: bool,
    is_control: bool,
    bytes: u64,
    arrived: u64,
}

impl FrameMeter {
    /// `tail` was read before the link was one.
    pub fn new(tail: &[u8]) -> FrameMeter {
        let mut meter = FrameMeter { at: At::BEGIN, largest: 0, collected: 0, is_within_message: false, messages: 0 };
        meter.on_read(tail);
        // Whole frames among it may have been read past their ends.
        meter.largest = 0;
        meter
    }

    /// How many bytes may be read at once.
    pub fn allowed(&self) -> usize {
        let is_large = |bytes: u64| bytes >= LINK_LARGE_FRAME_BYTES as u64;
        match &self.at {
            At::Payload(frame) if is_large(frame.bytes) || is_large(self.largest as u64) => {
                usize::try_from(frame.bytes - frame.arrived).unwrap_or(usize::MAX)
            }
            At::Head { bytes, len } if is_large(self.largest as u64) => head_bytes(&bytes[..*len]) - len,
            _ => usize::MAX,
        }
    }

    /// These bytes were read. What is no frame is the WebSocket's to refuse; any length is borne.
    pub fn on_read(&mut self, mut read: &[u8]) {
        while !read.is_empty() {
            match &mut self.at {
                At::Head { bytes, len } => {
                    bytes[*len] = read[0];
                    *len += 1;
                    read = &read[1..];
                    if let Some(frame) = frame_of(&bytes[..*len]) {
                        self.at = At::Payload(frame);
                    }
                }
                At::Payload(frame) => {
                    let left = usize::try_from(frame.bytes - frame.arrived).unwrap_or(usize::MAX);
                    let passed = left.min(read.len());
                    read = &read[passed..];
                    frame.arrived += passed as u64;
                }
            }
            self.end_frame();
        }
    }

    fn end_frame(&mut self) {
        let At::Payload(frame) = self.at else { return };
        self.largest = self.largest.max(usize::try_from(frame.arrived).unwrap_or(usize::MAX));
        if frame.arrived < frame.bytes {
            return;
        }
        self.at = At::BEGIN;
        if !frame.is_control {
            self.is_within_message = !frame.is_final;
            self.messages += u64::from(frame.is_final);
            let bytes = usize::try_from(frame.bytes).unwrap_or(usize::MAX);
            self.collected = if frame.is_final { 0 } else { self.collected.saturating_add(bytes) };
        }
    }

    /// Bytes in memory of what was read.
    pub fn held(&self) -> usize {
        self.largest.saturating_add(self.collected)
    }

    /// Whether a frame or a message has begun that is not whole.
    pub fn is_within_message(&self) -> bool {
        self.is_within_message || !matches!(self.at, At::Head { len: 0, .. })
    }

    /// The number of the message that has begun and is not whole.
    pub fn unfinished(&self) -> Option<u64> {
        self.is_within_message().then_some(self.messages)
    }

    /// To be asked when a message was taken: whether the memory of a large frame can be given back. Not said twice of the
    /// same.
    pub fn take_spare(&mut self) -> bool {
        let is_spare = self.largest >= LINK_LARGE_FRAME_BYTES && !self.is_within_message();
        if is_spare {
            self.largest = 0;
        }
        is_spare
    }
}

/// Bytes of a head, as far as can be told from its beginning: at least two.
fn head_bytes(head: &[u8]) -> usize {
    let Some(second) = head.get(1) else { return 2 };
    let mask = if second & MASKED != 0 { 4 } else { 0 };
    let length = match second & !MASKED {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    2 + length + mask
}

/// The frame that begins with this, if it is a whole head.
fn frame_of(head: &[u8]) -> Option<Frame> {
    if head.len() < 2 || head.len() < head_bytes(head) {
        return None;
    }
    let bytes = match head[1] & !MASKED {
        126 => u64::from(u16::from_be_bytes(head[2..4].try_into().ok()?)),
        127 => u64::from_be_bytes(head[2..10].try_into().ok()?),
        short => u64::from(short),
    };
    Some(Frame { is_final: head[0] & FINAL != 0, is_control: head[0] & CONTROL != 0, bytes, arrived: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text, continued and final, and a ping.
    const WHOLE: u8 = 0x81;
    const BEGIN: u8 = 0x01;
    const END: u8 = 0x80;
    const PING: u8 = 0x89;

    fn frame(first: u8, payload: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { MASKED } else { 0 };
        let mut bytes = vec![first];
        match payload {
            0..126 => bytes.push(mask | payload as u8),
            126..65_536 => {
                bytes.push(mask | 126);
                bytes.extend((payload as u16).to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend((payload as u64).to_be_bytes());
            }
        }
        bytes.extend(&[7; 4][..if masked { 4 } else { 0 }]);
        bytes.extend(std::iter::repeat_n(WHOLE, payload));
        bytes
    }

    /// Reads `bytes` in pieces of at most `piece`; the places at which memory can be given back, if it is asked about
    /// wherever a message ends.
    fn spare_at(bytes: &[u8], piece: usize) -> Vec<usize> {
        let mut meter = FrameMeter::new(&[]);
        let (mut at, mut spare) = (0, Vec::new());
        while at < bytes.len() {
            let len = piece.min(meter.allowed()).min(bytes.len() - at);
            assert!(len > 0);
            meter.on_read(&bytes[at..at + len]);
            at += len;
            if !meter.is_within_message() && meter.take_spare() {
                spare.push(at);
            }
        }
        spare
    }

    #[test]
    fn a_large_frame_is_read_to_its_end_and_no_further() {
        for masked in [false, true] {
            let small = frame(WHOLE, 100, masked);
            let large = frame(WHOLE, 70_000, masked);
            let least = frame(WHOLE, LINK_LARGE_FRAME_BYTES, masked);
            let bytes = [&small[..], &large, &small, &frame(WHOLE, 0, masked), &least].concat();
            let first = small.len() + large.len();
            for piece in [1, 7, 1_000, 8_192] {
                assert_eq!(spare_at(&bytes, piece), [first, bytes.len()], "{piece}");
            }
        }
    }

    #[test]
    fn a_message_in_fragments_gives_back_the_memory_of_its_largest_when_it_is_whole() {
        let begin = frame(BEGIN, 50_000, true);
        let ping = frame(PING, 4, true);
        let end = frame(END, 10, true);
        let next = frame(WHOLE, 10, true);
        let whole = begin.len() + ping.len() + end.len();
        let bytes = [begin, ping, end, next].concat();
        for piece in [1, 7, 8_192] {
            assert_eq!(spare_at(&bytes, piece), [whole], "{piece}");
        }
    }

    #[test]
    fn what_is_held_is_what_has_arrived() {
        let mut meter = FrameMeter::new(&[]);
        let begin = frame(BEGIN, 50_000, false);
        meter.on_read(&begin[..20_004]);
        assert_eq!((meter.held(), meter.is_within_message()), (20_000, true));
        meter.on_read(&begin[20_004..]);
        assert_eq!((meter.held(), meter.is_within_message()), (100_000, true));
        meter.on_read(&frame(END, 0, false));
        assert_eq!((meter.held(), meter.is_within_message()), (50_000, false));
        assert!(meter.take_spare());
        assert_eq!((meter.held(), meter.take_spare()), (0, false));
    }

    #[test]
    fn small_frames_are_read_as_they_come() {
        let bytes = frame(WHOLE, 100, true).repeat(50);
        assert_eq!(spare_at(&bytes, 8_192), [0; 0]);
        let mut meter = FrameMeter::new(&bytes);
        assert_eq!((meter.allowed(), meter.is_within_message()), (usize::MAX, false));
        meter.on_read(&bytes[..1]);
        assert_eq!(meter.unfinished(), Some(50));
        meter.on_read(&bytes[1..]);
        assert_eq!(meter.unfinished(), None);
        // A ping among its fragments makes no other message of it.
        for part in [frame(BEGIN, 1, true), frame(PING, 1, true)] {
            meter.on_read(&part);
            assert_eq!(meter.unfinished(), Some(100));
        }
    }

    #[test]
    fn any_length_is_borne() {
        let mut meter = FrameMeter::new(&[]);
        meter.on_read(&[0xff; 1 << 10]);
        assert!(meter.allowed() > 1 << 32);
    }
}
