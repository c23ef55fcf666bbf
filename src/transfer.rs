//! `import` and `export`: events as JSON lines, one event a line, in and out of the store.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal, Read, Seek, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use grasp_sync::engine::ImportOutcome;
use grasp_sync::policy::Refusal;
use grasp_sync::store::{Seq, StoreError};

use crate::exit::Failure;

/// Times that one file is read. An event counts as belonging only once what it belongs to is there, and a file need
/// not be in that order: it is read again while that brings something new. Announcement, root event, comment and what
/// a comment alone refers to make four; the rest is room.
const PASSES_MAX: usize = 8;
/// What some writers begin a file of UTF-8 with; it is no part of the first line.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
/// Lines between two signs of life on a terminal.
const PROGRESS_LINES: u64 = 1_000;

/// What became of the lines of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Stored now.
    pub new: u64,
    /// Held already.
    pub known: u64,
    /// Superseded, deleted or expired: nothing is missing without them.
    pub outdated: u64,
    /// Not taken, by reason: how many, and the first one's number from 1.
    pub failed: BTreeMap<&'static str, (u64, u64)>,
}

impl Summary {
    fn fail(&mut self, reason: &'static str, line: u64) {
        self.failed.entry(reason).or_insert((0, line)).0 += 1;
    }

    /// Lines that were not taken.
    pub fn failed_total(&self) -> u64 {
        self.failed.values().map(|(count, _)| count).sum()
    }

    fn count(&mut self, outcome: ImportOutcome, line: u64) {
        match outcome {
            ImportOutcome::New => self.new += 1,
            ImportOutcome::Known => self.known += 1,
            ImportOutcome::Refused(Refusal::Superseded | Refusal::Deleted | Refusal::Expired) => self.outdated += 1,
            ImportOutcome::Refused(refusal) => self.fail(refusal.name(), line),
        }
    }

    /// What became of the lines of one file after it was read once more. What failed whatever is held stays as it was
    /// seen first: a forged copy of what the first reading brought is known to the second.
    fn after(mut self, again: Summary) -> Summary {
        let lines = self.lines();
        self.failed.retain(|reason, _| !is_open(reason));
        self.failed.extend(again.failed.into_iter().filter(|(reason, _)| is_open(reason)));
        self.new += again.new;
        self.outdated = lines - self.new - self.known - self.failed_total();
        self
    }

    fn lines(&self) -> u64 {
        self.new + self.known + self.outdated + self.failed_total()
    }

    /// Whether something failed that can be taken once more of the file is held.
    fn may_improve(&self) -> bool {
        self.failed.keys().any(|reason| is_open(reason))
    }
}

/// Whether what was refused for this reason can be taken once something else is held.
fn is_open(reason: &str) -> bool {
    const OPEN: [Refusal; 4] =
        [Refusal::ForeignAnnouncement, Refusal::NotAMaintainer, Refusal::DeletesNothing, Refusal::Unrelated];
    OPEN.iter().any(|refusal| refusal.name() == reason)
}

/// `12 new, 3 known, 0 outdated, 2 failed (1 forged, first in line 4; 1 not_utf8, first in line 9)`
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} new, {} known, {} outdated, {} failed",
            self.new,
            self.known,
            self.outdated,
            self.failed_total()
        )?;
        for (i, (reason, (count, first))) in self.failed.iter().enumerate() {
            write!(f, "{}{count} {reason}, first in line {first}", if i == 0 { " (" } else { "; " })?;
        }
        if !self.failed.is_empty() {
            f.write_str(")")?;
        }
        Ok(())
    }
}

/// One line of a file.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// In the buffer, without its end.
    Whole,
    /// Longer than allowed; read past.
    TooLong,
    /// There are no more.
    End,
}

/// Reads one line of at most `bytes_max` into `buffer`. What is longer is never held.
fn read_line(input: &mut impl BufRead, buffer: &mut Vec<u8>, bytes_max: usize) -> io::Result<Line> {
    buffer.clear();
    // One more for the line feed, and one for a carriage return.
    let limit = bytes_max as u64 + 2;
    if input.take(limit).read_until(b'\n', buffer)? == 0 {
        return Ok(Line::End);
    }
    let ended = buffer.last() == Some(&b'\n');
    while matches!(buffer.last(), Some(b'\n' | b'\r')) {
        buffer.pop();
    }
    if buffer.len() <= bytes_max && (ended || input.fill_buf()?.is_empty()) {
        return Ok(Line::Whole);
    }
    if !ended {
        input.skip_until(b'\n')?;
    }
    Ok(Line::TooLong)
}

/// One reading of the input from where it stands: gives each line to `take`, counts what became of it.
fn pass(
    input: &mut impl BufRead,
    bytes_max: usize,
    take: &mut impl FnMut(&str) -> Result<ImportOutcome, Failure>,
    progress: &mut impl FnMut(u64),
    path: &Path,
) -> Result<Summary, Failure> {
    let mut summary = Summary::default();
    let mut buffer = Vec::new();
    for number in 1.. {
        let read = read_line(input, &mut buffer, bytes_max);
        if number == 1 && buffer.starts_with(BYTE_ORDER_MARK) {
            buffer.drain(..BYTE_ORDER_MARK.len());
        }
        match read {
            Err(error) => return Err(file_failure(path, error)),
            Ok(Line::End) => break,
            Ok(Line::TooLong) => summary.fail(Refusal::TooLarge.name(), number),
            Ok(Line::Whole) if buffer.iter().all(u8::is_ascii_whitespace) => {}
            Ok(Line::Whole) => match std::str::from_utf8(&buffer) {
                Err(_) => summary.fail("not_utf8", number),
                Ok(line) => summary.count(take(line)?, number),
            },
        }
        if number % PROGRESS_LINES == 0 {
            progress(number);
        }
    }
    Ok(summary)
}

/// Where an import comes from.
#[derive(Debug)]
pub enum Input {
    /// Standard input, which is read once.
    Standard,
    /// A file, opened.
    File {
        /// Its path, for messages.
        path: PathBuf,
        /// The file.
        file: File,
        /// Its size, if it is one that can be read more than once.
        size: Option<u64>,
    },
}

impl Input {
    /// Opens `file`, or stands for standard input.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened for reading.
    pub fn open(file: Option<&Path>) -> Result<Input, Failure> {
        let Some(path) = file else { return Ok(Input::Standard) };
        let failure = |error| Failure::Open { path: path.to_path_buf(), error };
        let file = File::open(path).map_err(failure)?;
        let metadata = file.metadata().map_err(failure)?;
        if metadata.is_dir() {
            return Err(failure(io::ErrorKind::IsADirectory.into()));
        }
        Ok(Input::File { path: path.to_path_buf(), file, size: metadata.is_file().then_some(metadata.len()) })
    }
}

/// Gives every line of `input` to `take`, and counts what became of them.
///
/// # Errors
///
/// If the input cannot be read or the store fails. Lines that cannot be taken are no error: see the summary.
pub fn import(
    input: Input,
    bytes_max: usize,
    mut take: impl FnMut(&str) -> Result<ImportOutcome, StoreError>,
    failure: impl Fn(StoreError) -> Failure,
) -> Result<Summary, Failure> {
    let mut take = |line: &str| take(line).map_err(&failure);
    let result = match input {
        Input::Standard => {
            let mut input = io::stdin().lock();
            pass(&mut input, bytes_max, &mut take, &mut terminal_progress(None), Path::new("standard input"))
        }
        Input::File { path, mut file, size } => import_file(&path, &mut file, size, bytes_max, &mut take),
    };
    if io::stderr().is_terminal() {
        // Clears the line of progress; a terminal that cannot be written to is no reason to fail.
        let _ = write!(io::stderr(), "\r\x1b[K");
    }
    result
}

fn import_file(
    path: &Path,
    file: &mut File,
    size: Option<u64>,
    bytes_max: usize,
    take: &mut impl FnMut(&str) -> Result<ImportOutcome, Failure>,
) -> Result<Summary, Failure> {
    let mut total: Option<Summary> = None;
    for _ in 0..PASSES_MAX {
        let mut progress = terminal_progress(file.try_clone().ok().zip(size));
        let summary = pass(&mut BufReader::new(&*file), bytes_max, take, &mut progress, path)?;
        // A pipe cannot be read again, and without something new the answers would be the same.
        let again = size.is_some() && summary.new > 0 && summary.may_improve();
        total = Some(match total {
            None => summary,
            Some(so_far) => so_far.after(summary),
        });
        if !again {
            break;
        }
        file.rewind().map_err(|error| file_failure(path, error))?;
    }
    Ok(total.expect("there is at least one pass"))
}

/// Says on a terminal how far the import is: lines, and the part of the file where its size is known.
fn terminal_progress(file: Option<(File, u64)>) -> impl FnMut(u64) {
    let on_terminal = io::stderr().is_terminal();
    move |lines| {
        if !on_terminal {
            return;
        }
        let part = file.as_ref().and_then(|(file, size)| {
            let mut file: &File = file;
            file.stream_position().ok()?.checked_mul(100)?.checked_div(*size)
        });
        // A terminal that cannot be written to is no reason to fail.
        let _ = match part {
            Some(part) => write!(io::stderr(), "\r{lines} lines, {part} %"),
            None => write!(io::stderr(), "\r{lines} lines"),
        };
    }
}

/// What is done with each event of an export.
pub type OnEvent<'a> = &'a mut dyn FnMut(Seq, &str) -> ControlFlow<()>;

/// Writes every event that `events` goes through to `file`, or to standard output. The file must not exist; it appears
/// under its name only when it is whole and on the medium. A reader of standard output that has seen enough ends the
/// export without an error.
///
/// # Errors
///
/// If the file exists or cannot be written, or the store cannot be read.
pub fn export(file: Option<&Path>, events: impl FnOnce(OnEvent<'_>) -> Result<(), Failure>) -> Result<(), Failure> {
    let Some(path) = file else {
        let written = write_lines(&mut BufWriter::new(io::stdout().lock()), Path::new("standard output"), events);
        return match written {
            Err(Failure::File { error, .. }) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        };
    };
    if path.symlink_metadata().is_ok() {
        return Err(Failure::Exists { path: path.to_path_buf() });
    }
    // Beside the file, so that giving it its name is one step.
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let written =
        write_file(&part, events).and_then(|()| fs::rename(&part, path).map_err(|error| file_failure(path, error)));
    if written.is_err() {
        // What is left of a failed export is of no use; if it cannot be removed, the error already says why.
        let _ = fs::remove_file(&part);
    }
    written
}

fn write_file(path: &Path, events: impl FnOnce(OnEvent<'_>) -> Result<(), Failure>) -> Result<(), Failure> {
    let failure = |error| file_failure(path, error);
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path).map_err(failure)?;
    write_lines(&mut BufWriter::new(&file), path, events)?;
    file.sync_all().map_err(failure)
}

fn write_lines(
    out: &mut impl Write,
    path: &Path,
    events: impl FnOnce(OnEvent<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut written = Ok(());
    events(&mut |_, json| {
        written = out.write_all(json.as_bytes()).and_then(|()| out.write_all(b"\n"));
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    written.and_then(|()| out.flush()).map_err(|error| file_failure(path, error))
}

fn file_failure(path: &Path, error: io::Error) -> Failure {
    Failure::File { path: path.to_path_buf(), error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8], bytes_max: usize) -> Vec<(Line, Vec<u8>)> {
        // A small buffer, so that lines cross its end.
        let mut input = BufReader::with_capacity(3, text);
        let mut out = Vec::new();
        loop {
            let mut buffer = Vec::new();
            match read_line(&mut input, &mut buffer, bytes_max).unwrap() {
                Line::End => return out,
                line => out.push((line, buffer)),
            }
        }
    }

    #[test]
    fn lines_are_bounded_and_the_next_one_is_not_lost() {
        let whole = |text: &str| (Line::Whole, text.as_bytes().to_vec());
        assert_eq!(lines(b"ab\ncd\r\nef", 4), [whole("ab"), whole("cd"), whole("ef")]);
        assert_eq!(lines(b"abcd\nabcd\r\nabcd", 4), [whole("abcd"), whole("abcd"), whole("abcd")]);
        for long in ["abcde", "abcdef", "abcdefg", "abcdefghijkl"] {
            let text = format!("{long}\nok\n{long}");
            let kinds: Vec<_> = lines(text.as_bytes(), 4).into_iter().map(|(line, _)| line).collect();
            assert_eq!(kinds, [Line::TooLong, Line::Whole, Line::TooLong], "{long}");
        }
        assert_eq!(lines(b"\n\n", 4), [whole(""), whole("")]);
        assert_eq!(lines(b"", 4), []);
    }

    #[test]
    fn a_byte_order_mark_is_skipped_where_the_file_begins() {
        let taken = |text: &str| {
            let mut lines = Vec::new();
            let mut take = |line: &str| {
                lines.push(line.to_owned());
                Ok(ImportOutcome::New)
            };
            pass(&mut BufReader::with_capacity(2, text.as_bytes()), 9, &mut take, &mut |_| (), Path::new("x")).unwrap();
            lines
        };
        assert_eq!(taken("\u{feff}ab\n\u{feff}cd\n"), ["ab", "\u{feff}cd"]);
        assert_eq!(taken("\u{feff}\r\nab"), ["ab"], "an empty line is none");
        assert_eq!(taken("ab\u{feff}"), ["ab\u{feff}"]);
    }

    #[test]
    fn a_summary_names_each_reason_with_its_first_line() {
        let mut summary = Summary { new: 2, known: 1, ..Summary::default() };
        assert_eq!(summary.to_string(), "2 new, 1 known, 0 outdated, 0 failed");
        summary.fail("not_utf8", 7);
        summary.fail("malformed", 3);
        summary.fail("malformed", 9);
        assert_eq!(
            summary.to_string(),
            "2 new, 1 known, 0 outdated, 3 failed (2 malformed, first in line 3; 1 not_utf8, first in line 7)"
        );
    }

    #[test]
    fn every_line_is_counted_once_however_often_the_file_is_read() {
        let read = |outcomes: &[ImportOutcome]| {
            let mut summary = Summary::default();
            outcomes.iter().zip(1..).for_each(|(outcome, line)| summary.count(*outcome, line));
            summary
        };
        use ImportOutcome::{Known, New, Refused};
        let first =
            read(&[Refused(Refusal::Unrelated), New, Known, Refused(Refusal::Forged), Refused(Refusal::Unrelated)]);
        assert!(first.may_improve());
        let second = read(&[New, Known, Known, Known, Refused(Refusal::Superseded)]);
        assert!(!second.may_improve());
        assert_eq!(first.after(second).to_string(), "2 new, 1 known, 1 outdated, 1 failed (1 forged, first in line 4)");
    }
}
