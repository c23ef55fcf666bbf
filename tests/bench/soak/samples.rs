//! What is looked at during a soak, as a table and by quarters.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;

/// One look at the daemon. Counters are since its start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Seconds since the load began.
    pub at: f64,
    pub resident_bytes: u64,
    /// Length of the store's file, which doubles whenever it is full.
    pub store_length: u64,
    /// What of it was ever written to, and takes space on the disk.
    pub store_bytes: u64,
    /// Events that the store holds.
    pub events: u64,
    /// Events that relays have sent, known ones too.
    pub received: u64,
    pub published: u64,
    pub cpu_micros: u64,
    pub switches: u64,
    pub turns: u64,
    pub slow_turns: u64,
    pub commits: u64,
}

impl Sample {
    pub fn bytes_per_event(&self) -> f64 {
        self.store_bytes as f64 / self.events as f64
    }
}

/// All looks so far; each is written down at once, so that a run that fails leaves its table.
pub struct Samples {
    pub all: Vec<Sample>,
    table: File,
}

impl Samples {
    /// Writes to a new table at `path`, as comma-separated values.
    pub fn to(path: &Path) -> Samples {
        let mut table = File::create(path).expect("the target directory is writable");
        let head = "secs,resident_bytes,store_length,store_bytes,events,received,published,cpu_micros,switches,turns,slow_turns,commits\n";
        table.write_all(head.as_bytes()).expect("there is space on the disk");
        Samples { all: Vec::new(), table }
    }

    pub fn push(&mut self, sample: Sample) {
        let s = &sample;
        let mut line = format!("{:.1}", s.at);
        let numbers =
            [s.resident_bytes, s.store_length, s.store_bytes, s.events, s.received, s.published, s.cpu_micros];
        for number in numbers.into_iter().chain([s.switches, s.turns, s.slow_turns, s.commits]) {
            _ = write!(line, ",{number}");
        }
        line.push('\n');
        self.table.write_all(line.as_bytes()).expect("there is space on the disk");
        self.all.push(sample);
    }
}
