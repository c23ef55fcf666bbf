//! One HTTP request over a plain socket.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What came back.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// The head without its status line, as sent.
    pub head: String,
    pub body: String,
}

/// `GET path` with further header lines, each without its line end. Panics if nothing comes back within ten seconds.
pub fn get(address: SocketAddr, path: &str, headers: &[&str]) -> Response {
    let mut lines = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for header in headers {
        lines.push_str(header);
        lines.push_str("\r\n");
    }
    lines.push_str("\r\n");
    let answer = exchange(address, lines.as_bytes());
    parse(&answer).unwrap_or_else(|| panic!("not an HTTP response to GET {path}: {answer:?}"))
}

/// Sends bytes and reads until the other side closes.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect_timeout(&address, Duration::from_secs(10)).expect("the port listens");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout above zero");
    socket.write_all(bytes).expect("the request is taken");
    let mut answer = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(&buffer[..n]),
            Err(_) if complete(&answer) => break,
            Err(e) => panic!("no whole response: {e}; so far {:?}", String::from_utf8_lossy(&answer)),
        }
        if complete(&answer) {
            break;
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn complete(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, n)| n.trim().parse().ok())
        .is_some_and(|n: usize| body.len() >= n)
}

fn parse(answer: &str) -> Option<Response> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let (status_line, head) = head.split_once("\r\n").unwrap_or((head, ""));
    let status = status_line.split(' ').nth(1)?.parse().ok()?;
    Some(Response { status, head: head.to_owned(), body: body.to_owned() })
}
