//! The body of an HTTP answer (RFC 9112, section 6), in whatever form a server chose to send it, up to a bound.

use crate::contract::CloseReason;
use crate::io::http::has_token;
use crate::limits::{HTTP_CHUNK_LINE_BYTES_MAX, INFO_BYTES_MAX};

/// A body under way.
#[derive(Debug)]
pub struct Body {
    framing: Framing,
    bytes: Vec<u8>,
    /// Of the answer, for errors.
    status: u16,
}

/// What says where a body ends.
#[derive(Debug)]
enum Framing {
    /// So many bytes are still to come.
    Length(usize),
    Chunks(Chunk),
    /// The end of the connection.
    End,
}

/// What of a chunk comes next.
#[derive(Debug)]
enum Chunk {
    /// The line with its size, of which this has come.
    Line(Vec<u8>),
    /// So many bytes of it, and the line's end behind them.
    Data(usize),
    LineEnd,
}

impl Body {
    /// The body that the head of an answer announces.
    ///
    /// # Errors
    ///
    /// [`CloseReason::TooLarge`] if it announces more than [`INFO_BYTES_MAX`]; [`CloseReason::Handshake`] if nobody could
    /// tell where it ends.
    pub fn of(response: &httparse::Response<'_, '_>) -> Result<Body, CloseReason> {
        let status = response.code.unwrap_or(0);
        let header = |name: &str| {
            let found = response.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name));
            found.map(|h| h.value)
        };
        let framing = if header("Transfer-Encoding").is_some() {
            match has_token(response.headers, "Transfer-Encoding", "chunked") {
                true => Framing::Chunks(Chunk::Line(Vec::new())),
                false => return Err(CloseReason::Handshake(status)),
            }
        } else if let Some(length) = header("Content-Length") {
            let length = std::str::from_utf8(length).ok().and_then(|text| text.trim().parse::<usize>().ok());
            match length.ok_or(CloseReason::Handshake(status))? {
                length if length > INFO_BYTES_MAX => return Err(CloseReason::TooLarge),
                length => Framing::Length(length),
            }
        } else {
            Framing::End
        };
        Ok(Body { framing, bytes: Vec::new(), status })
    }

    /// Whether it has come to its end.
    pub fn is_whole(&self) -> bool {
        matches!(self.framing, Framing::Length(0))
    }

    /// More bytes came; those behind its end are ignored.
    ///
    /// # Errors
    ///
    /// As [`Body::of`].
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), CloseReason> {
        while !bytes.is_empty() && !self.is_whole() {
            bytes = self.take(bytes)?;
        }
        Ok(())
    }

    /// Takes what belongs together of some bytes; the rest of them.
    fn take<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], CloseReason> {
        let (data, rest) = match &mut self.framing {
            Framing::End => (bytes, &[][..]),
            Framing::Length(left) => {
                let (data, rest) = bytes.split_at(bytes.len().min(*left));
                *left -= data.len();
                (data, rest)
            }
            Framing::Chunks(Chunk::Line(line)) => {
                let (byte, rest) = bytes.split_at(1);
                line.extend_from_slice(byte);
                if byte == b"\n" {
                    let size = chunk_size(line).ok_or(CloseReason::Handshake(self.status))?;
                    // Trailers may follow the last chunk; nobody waits for them.
                    self.framing = if size == 0 { Framing::Length(0) } else { Framing::Chunks(Chunk::Data(size)) };
                } else if line.len() >= HTTP_CHUNK_LINE_BYTES_MAX {
                    return Err(CloseReason::Handshake(self.status));
                }
                return Ok(rest);
            }
            Framing::Chunks(Chunk::Data(left)) => {
                let (data, rest) = bytes.split_at(bytes.len().min(*left));
                *left -= data.len();
                if *left == 0 {
                    self.framing = Framing::Chunks(Chunk::LineEnd);
                }
                (data, rest)
            }
            Framing::Chunks(Chunk::LineEnd) => {
                let (byte, rest) = bytes.split_at(1);
                match byte {
                    b"\n" => self.framing = Framing::Chunks(Chunk::Line(Vec::new())),
                    b"\r" => {}
                    _ => return Err(CloseReason::Handshake(self.status)),
                }
                return Ok(rest);
            }
        };
        if self.bytes.len() + data.len() > INFO_BYTES_MAX {
            return Err(CloseReason::TooLarge);
        }
        self.bytes.extend_from_slice(data);
        Ok(rest)
    }

    /// The text, when it is whole or `ended`: the peer has hung up.
    ///
    /// # Errors
    ///
    /// [`CloseReason::Handshake`] if something is missing or it is not UTF-8.
    pub fn into_text(self, ended: bool) -> Result<String, CloseReason> {
        let refused = CloseReason::Handshake(self.status);
        match self.is_whole() || (ended && matches!(self.framing, Framing::End)) {
            true => String::from_utf8(self.bytes).map_err(|_| refused),
            false => Err(refused),
        }
    }
}

/// The size in the line that begins a chunk; what may follow it, after `;`, means nothing to us.
fn chunk_size(line: &[u8]) -> Option<usize> {
    let digits = line.split(|byte| matches!(byte, b';' | b'\r' | b'\n')).next()?.trim_ascii();
    let are_hex = !digits.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).ok().filter(|_| are_hex)?;
    // What does not fit is as good as any size over the bound.
    Some(usize::from_str_radix(text, 16).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a body after a head with these lines, in pieces of `piece` bytes.
    fn read(lines: &str, bytes: &[u8], piece: usize, ended: bool) -> Result<String, CloseReason> {
        let head = format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
        let mut headers = [httparse::EMPTY_HEADER; 8];
        let mut response = httparse::Response::new(&mut headers);
        assert!(response.parse(head.as_bytes()).unwrap().is_complete());
        let mut body = Body::of(&response)?;
        bytes.chunks(piece).try_for_each(|piece| body.push(piece))?;
        body.into_text(ended)
    }

    const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";
    const REFUSED: CloseReason = CloseReason::Handshake(200);

    #[test]
    fn a_body_ends_where_its_head_or_its_chunks_or_the_connection_say() {
        for piece in [1, 2, 3, 7, 1_000] {
            assert_eq!(read("Content-Length: 5\r\n", b"hello, and more", piece, false), Ok("hello".into()));
            assert_eq!(read("Content-Length: 0\r\n", b"", piece, false), Ok(String::new()));
            assert_eq!(read("", "hellö".as_bytes(), piece, true), Ok("hellö".into()));
            let chunks = b"3\r\nhel\r\n0002;name=value\r\nlo\r\n0\r\nTrailer: x\r\n\r\n";
            assert_eq!(read(CHUNKED, chunks, piece, false), Ok("hello".into()));
            assert_eq!(read(CHUNKED, b"5\nhello\n0\n\n", piece, false), Ok("hello".into()));
        }
    }

    #[test]
    fn what_ends_too_early_is_no_text() {
        for (lines, bytes) in
            [("Content-Length: 6\r\n", &b"hello"[..]), (CHUNKED, b"5\r\nhello\r\n"), (CHUNKED, b"5\r\nhe")]
        {
            assert_eq!(read(lines, bytes, 1, true), Err(REFUSED));
        }
        assert_eq!(read("", b"hello", 1, false), Err(REFUSED), "nobody has hung up");
        assert_eq!(read("Content-Length: 2\r\n", &[0xc3, 0x28], 1, true), Err(REFUSED), "not UTF-8");
    }

    #[test]
    fn what_breaks_the_rules_is_refused() {
        for lines in ["Content-Length: -1\r\n", "Content-Length: many\r\n", "Transfer-Encoding: gzip\r\n"] {
            assert_eq!(read(lines, b"", 1, true), Err(REFUSED), "{lines}");
        }
        for chunks in ["\r\n", "x\r\n", "-1\r\n", "2\r\nabc\r\n", "+2\r\nab\r\n"] {
            assert_eq!(read(CHUNKED, chunks.as_bytes(), 1, true), Err(REFUSED), "{chunks:?}");
        }
        let line = "0".repeat(HTTP_CHUNK_LINE_BYTES_MAX);
        assert_eq!(read(CHUNKED, line.as_bytes(), 1, false), Err(REFUSED));
    }

    #[test]
    fn nothing_grows_beyond_the_bound() {
        let just = "x".repeat(INFO_BYTES_MAX);
        let over = "x".repeat(INFO_BYTES_MAX + 1);
        let length = |text: &str| format!("Content-Length: {}\r\n", text.len());
        let chunks = |text: &str| [b"1\r\nx\r\n".repeat(text.len()), b"0\r\n\r\n".to_vec()].concat();
        assert_eq!(read(&length(&just), just.as_bytes(), 4_096, false).as_deref(), Ok(&*just));
        assert_eq!(read(&length(&over), b"", 1, false), Err(CloseReason::TooLarge), "before anything is read");
        assert_eq!(read("", just.as_bytes(), 4_096, true).as_deref(), Ok(&*just));
        assert_eq!(read("", over.as_bytes(), 4_096, true), Err(CloseReason::TooLarge));
        assert_eq!(read(CHUNKED, &chunks(&just), 4_096, false).as_deref(), Ok(&*just));
        assert_eq!(read(CHUNKED, &chunks(&over), 4_096, false), Err(CloseReason::TooLarge));
        let huge = format!("{}\r\n{over}", "f".repeat(40));
        assert_eq!(read(CHUNKED, huge.as_bytes(), 4_096, false), Err(CloseReason::TooLarge));
    }
}
