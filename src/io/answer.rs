//! The head of an answer to what we ask over HTTP (RFC 9112): gathered as it comes, with the interim answers before it
//! read over, and what a refusal says beside its status.
//!
//! An interim answer (1xx) only says that the real one is under way (RFC 9110, section 15.2); proxies send 100 and 103
//! of their own accord. 101 is no interim answer to us: it is the one that was asked for, or a mistake.

use httparse::{Header, Response, Status};

use crate::contract::{CloseReason, RetryAfter};
use crate::limits::{ANSWER_HEAD_BYTES_MAX, ANSWER_HEADERS_MAX};
use crate::time::{Duration, UnixTime};

/// Why an answer is not the one that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is a redirect; the caller knows whether it may be followed.
    Moved(Moved),
    /// It is the end.
    Ended(CloseReason),
}

impl From<CloseReason> for Refused {
    fn from(reason: CloseReason) -> Self {
        Refused::Ended(reason)
    }
}

/// A redirect: 301, 302, 307 or 308 (RFC 9110, section 15.4). 303 leads to something else than what was asked for, and 300
/// leaves the choice to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The HTTP status.
    pub status: u16,
    /// Its `Location` as sent; `None` if there is none, or one that is not UTF-8.
    pub location: Option<String>,
}

/// The head of an answer under way.
#[derive(Debug, Default)]
pub struct AnswerHead {
    /// What has come since the last interim answer.
    bytes: Vec<u8>,
    /// Bytes of interim answers, and of blank lines before an answer.
    read_over: usize,
}

impl AnswerHead {
    /// Bytes that may still come before the head is too large.
    pub fn room(&self) -> usize {
        ANSWER_HEAD_BYTES_MAX.saturating_sub(self.read_over + self.bytes.len())
    }

    /// Takes what was read. Once the head of the final answer is whole, what `judge` makes of it and of the bytes behind
    /// it; `None` if more of it is to come.
    ///
    /// # Errors
    ///
    /// [`CloseReason::HeadTooLarge`]; [`CloseReason::Handshake`] with its status if it is no HTTP, 0 if it never was; what
    /// `judge` says.
    pub fn push<T>(
        &mut self,
        bytes: &[u8],
        judge: impl FnOnce(&Response<'_, '_>, &[u8]) -> Result<T, Refused>,
    ) -> Result<Option<T>, Refused> {
        self.bytes.extend_from_slice(bytes);
        // Only a line's end can make the head whole: a peer that trickles does not have it parsed every byte.
        while bytes.contains(&b'\n') {
            self.skip_blank_lines();
            let mut headers = [httparse::EMPTY_HEADER; ANSWER_HEADERS_MAX];
            let mut response = Response::new(&mut headers);
            let head_len = match response.parse(&self.bytes) {
                Ok(Status::Complete(head_len)) => head_len,
                Ok(Status::Partial) => break,
                Err(httparse::Error::TooManyHeaders) => return Err(CloseReason::HeadTooLarge.into()),
                Err(_) => return Err(CloseReason::Handshake(response.code.unwrap_or(0)).into()),
            };
            if self.read_over + head_len > ANSWER_HEAD_BYTES_MAX {
                return Err(CloseReason::HeadTooLarge.into());
            }
            if !is_interim(response.code) {
                return judge(&response, &self.bytes[head_len..]).map(Some);
            }
            self.bytes.drain(..head_len);
            self.read_over += head_len;
        }
        match self.room() {
            0 => Err(CloseReason::HeadTooLarge.into()),
            _ => Ok(None),
        }
    }

    /// Blank lines before an answer mean nothing. They are dropped before the parser skips them, which it would do anew
    /// for every line of a peer that sends nothing else.
    fn skip_blank_lines(&mut self) {
        let blank = self.bytes.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        self.bytes.drain(..blank);
        self.read_over += blank;
    }
}

fn is_interim(status: Option<u16>) -> bool {
    status.is_some_and(|status| (100..200).contains(&status) && status != 101)
}

/// The value of the first header line of this name, as it was sent.
pub fn header<'a>(headers: &[Header<'a>], name: &str) -> Option<&'a [u8]> {
    headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// What an answer with another status than the wanted one means.
pub fn refusal(response: &Response<'_, '_>) -> Refused {
    let status = response.code.unwrap_or(0);
    let text = |name: &str| header(response.headers, name).and_then(|value| std::str::from_utf8(value).ok());
    match status {
        301 | 302 | 307 | 308 => Refused::Moved(Moved { status, location: text("Location").map(str::to_owned) }),
        429 | 503 => match text("Retry-After").and_then(retry_after) {
            Some(retry) => CloseReason::RetryAfter { status, retry }.into(),
            None => CloseReason::Handshake(status).into(),
        },
        _ => CloseReason::Handshake(status).into(),
    }
}

/// The value of `Retry-After`: seconds, or a date (RFC 9110, section 10.2.3).
fn retry_after(text: &str) -> Option<RetryAfter> {
    let text = text.trim_ascii();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More than a number can hold is longer than anybody waits.
        return Some(RetryAfter::Wait(Duration::from_secs(text.parse().unwrap_or(u64::MAX))));
    }
    http_date(text).map(RetryAfter::At)
}

/// A date in any of the three forms of RFC 9110, section 5.6.7. The name of the day is not compared with the date.
fn http_date(text: &str) -> Option<UnixTime> {
    let words: Vec<&str> = text.split([' ', ',', '-']).filter(|word| !word.is_empty()).collect();
    let (day, month, year, time) = match *words {
        [_, day, month, year, time, "GMT"] => (day, month, year, time),
        [_, month, day, time, year] => (day, month, year, time),
        _ => return None,
    };
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = MONTHS.iter().position(|name| *name == month)?;
    let number = |text: &str, digits_max: usize, max: u64| {
        let digits = (1..=digits_max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u64>().ok()).flatten().filter(|number| *number <= max)
    };
    let year = match (year.len(), number(year, 4, 9_999)?) {
        // Two digits mean a year near ours.
        (2, year) if year < 70 => 2_000 + year,
        (2, year) => 1_900 + year,
        (4, year) if year >= 1970 => year,
        _ => return None,
    };
    let [hour, minute, second] = time.split(':').collect::<Vec<_>>()[..] else { return None };
    // A leap second is the next minute's first.
    let secs = number(hour, 2, 23)? * 3_600 + number(minute, 2, 59)? * 60 + number(second, 2, 60)?;
    const DAYS: [u64; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let in_month = DAYS[month] + u64::from(month == 1 && is_leap);
    let day = number(day, 2, in_month).filter(|day| *day >= 1)?;
    // Leap days of the years before this one, less those before 1970.
    let before = year - 1;
    let leap_days = before / 4 - before / 100 + before / 400 - 477;
    let this_year = DAYS[..month].iter().sum::<u64>() + u64::from(month > 1 && is_leap) + day - 1;
    Some(UnixTime::from_secs(((year - 1970) * 365 + leap_days + this_year) * 86_400 + secs))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives an answer to a head in pieces of `step` bytes; the status and what lies behind it.
    fn read(answer: &[u8], step: usize) -> Result<Option<(u16, Vec<u8>)>, Refused> {
        let mut head = AnswerHead::default();
        let mut pieces = answer.chunks(step);
        while let Some(piece) = pieces.next() {
            if let Some((status, tail)) = head.push(piece, |response, tail| Ok((response.code, tail.to_vec())))? {
                let tail = [tail, pieces.flatten().copied().collect()].concat();
                return Ok(Some((status.unwrap(), tail)));
            }
        }
        Ok(None)
    }

    /// The same, which must not depend on the pieces.
    fn read_in_pieces(answer: &[u8]) -> Result<Option<(u16, Vec<u8>)>, Refused> {
        let whole = read(answer, usize::MAX);
        for step in [1, 2, 3, 7, 1_024] {
            assert_eq!(read(answer, step), whole, "in pieces of {step}");
        }
        whole
    }

    #[test]
    fn interim_answers_are_read_over() {
        let switching = "HTTP/1.1 101 Switching Protocols\r\nA: b\r\n\r\nbehind";
        for before in [
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n\r\nHTTP/1.1 199 Wait\r\n\r\nHTTP/1.1 102 Processing\n\n",
            &"HTTP/1.1 100 Continue\r\n\r\n".repeat(200),
        ] {
            let answer = format!("{before}{switching}");
            assert_eq!(read_in_pieces(answer.as_bytes()), Ok(Some((101, b"behind".to_vec()))), "{before}");
        }
        assert_eq!(read_in_pieces(b"HTTP/1.1 100 Continue\r\n\r\n"), Ok(None), "it is not the answer");
    }

    #[test]
    fn heads_of_64_kib_and_256_lines_are_read_and_larger_ones_named() {
        let large = Err(Refused::Ended(CloseReason::HeadTooLarge));
        let of_lines = |n: usize| format!("HTTP/1.1 101 Yes\r\n{}\r\n", "a: b\r\n".repeat(n));
        assert_eq!(read_in_pieces(of_lines(ANSWER_HEADERS_MAX).as_bytes()), Ok(Some((101, Vec::new()))));
        assert_eq!(read_in_pieces(of_lines(ANSWER_HEADERS_MAX + 1).as_bytes()), large);
        let of_bytes = |n: usize| {
            let around = "HTTP/1.1 101 Yes\r\na: \r\n\r\n".len();
            format!("HTTP/1.1 101 Yes\r\na: {}\r\n\r\n", "x".repeat(n - around))
        };
        assert_eq!(read_in_pieces(of_bytes(ANSWER_HEAD_BYTES_MAX).as_bytes()), Ok(Some((101, Vec::new()))));
        assert_eq!(read_in_pieces(of_bytes(ANSWER_HEAD_BYTES_MAX + 1).as_bytes()), large);
        // Interim answers and blank lines count.
        let interim = "HTTP/1.1 100 Continue\r\n\r\n";
        let fits = format!("{interim}\n{}", of_bytes(ANSWER_HEAD_BYTES_MAX - interim.len() - 1));
        assert_eq!(read_in_pieces(fits.as_bytes()), Ok(Some((101, Vec::new()))));
        assert_eq!(read_in_pieces(format!("\n{fits}").as_bytes()), large);
        assert_eq!(read_in_pieces(interim.repeat(ANSWER_HEAD_BYTES_MAX / interim.len() + 1).as_bytes()), large);
        assert_eq!(read_in_pieces(&vec![b'\n'; ANSWER_HEAD_BYTES_MAX]), large);
        assert_eq!(read_in_pieces(&vec![b'x'; ANSWER_HEAD_BYTES_MAX]), large);
    }

    #[test]
    fn what_is_no_answer_is_named_by_its_status() {
        let ended = |answer: &str| read_in_pieces(answer.as_bytes()).unwrap_err();
        assert_eq!(ended("220 mail.example ESMTP\r\n"), Refused::Ended(CloseReason::Handshake(0)));
        assert_eq!(ended("HTTP/1.1 200 OK\r\na b: c\r\n"), Refused::Ended(CloseReason::Handshake(200)));
    }

    fn refusal_of(head: &str) -> Refused {
        let head = format!("HTTP/1.1 {head}\r\n\r\n");
        let refused = AnswerHead::default().push(head.as_bytes(), |response, _| Err::<(), _>(refusal(response)));
        refused.unwrap_err()
    }

    #[test]
    fn a_redirect_says_where_to() {
        let moved =
            |status, location: Option<&str>| Refused::Moved(Moved { status, location: location.map(str::to_owned) });
        for status in [301, 302, 307, 308] {
            assert_eq!(refusal_of(&format!("{status} X\r\nlocation: /there")), moved(status, Some("/there")));
            assert_eq!(refusal_of(&format!("{status} X")), moved(status, None));
            assert_eq!(refusal_of(&format!("{status} X\r\nLocation: caf\u{e9}")), moved(status, Some("caf\u{e9}")));
        }
        for status in [300, 303, 304, 404] {
            let refused = refusal_of(&format!("{status} X\r\nLocation: /there"));
            assert_eq!(refused, Refused::Ended(CloseReason::Handshake(status)));
        }
    }

    #[test]
    fn a_busy_relay_says_when_to_come_back() {
        let secs = |n| RetryAfter::Wait(Duration::from_secs(n));
        let at = |n| RetryAfter::At(UnixTime::from_secs(n));
        for (text, retry) in [
            ("120", secs(120)),
            (" 0 ", secs(0)),
            ("99999999999999999999999", RetryAfter::Wait(Duration::from_secs(u64::MAX))),
            ("Sun, 06 Nov 1994 08:49:37 GMT", at(784_111_777)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", at(784_111_777)),
            ("Sun Nov  6 08:49:37 1994", at(784_111_777)),
            ("Thu, 29 Feb 2024 23:59:60 GMT", at(1_709_251_200)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", at(0)),
            ("Tue, 01 Mar 2100 00:00:00 GMT", at(4_107_542_400)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", at(253_402_300_799)),
        ] {
            for status in [429, 503] {
                let refused = refusal_of(&format!("{status} Busy\r\nRetry-After: {text}"));
                assert_eq!(refused, Refused::Ended(CloseReason::RetryAfter { status, retry }), "{text}");
            }
            let refused = refusal_of(&format!("404 No\r\nRetry-After: {text}"));
            assert_eq!(refused, Refused::Ended(CloseReason::Handshake(404)), "only of a relay that is busy");
        }
        for text in [
            "",
            "soon",
            "-1",
            "1.5",
            "Sun, 31 Feb 2024 08:49:37 GMT",
            "Wed, 29 Feb 2023 08:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 06 Nov 1969 08:49:37 GMT",
            "Sun, 06 Nov 99999 08:49:37 GMT",
        ] {
            let refused = refusal_of(&format!("429 Busy\r\nRetry-After: {text}"));
            assert_eq!(refused, Refused::Ended(CloseReason::Handshake(429)), "{text}");
        }
    }
}
