//! Kinds of counters: by name, by label, and histograms.

use std::collections::BTreeMap;

/// Counts by the name of a reason, state or outcome: a constant from a closed list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    /// One more of `name`.
    pub fn add(&mut self, name: &'static str) {
        self.add_many(name, 1);
    }

    /// `n` more of `name`.
    pub fn add_many(&mut self, name: &'static str, n: u64) {
        *self.0.entry(name).or_default() += n;
    }

    /// How many of `name`.
    pub fn count(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// How many of all names.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// All names that have been counted, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(name, count)| (*name, *count))
    }
}

/// A label with a fixed set of values, each with its counter.
pub trait Label: Copy + 'static {
    /// All values.
    const ALL: &'static [Self];
    /// The value as the metrics name it.
    fn name(self) -> &'static str;
    /// Its place in [`Label::ALL`].
    fn index(self) -> usize;
}

/// Which end of the program a link belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Links that we dialled.
    Relay,
    /// Links of clients of the own relay.
    Client,
}

impl Label for Side {
    const ALL: &'static [Self] = &[Side::Relay, Side::Client];

    fn name(self) -> &'static str {
        match self {
            Side::Relay => "relay",
            Side::Client => "client",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// How an event came to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// On a live subscription.
    Live,
    /// In a sweep.
    Catchup,
    /// Published by a client.
    Client,
    /// From a file.
    Import,
}

impl Label for Source {
    const ALL: &'static [Self] = &[Source::Live, Source::Catchup, Source::Client, Source::Import];

    fn name(self) -> &'static str {
        match self {
            Source::Live => "live",
            Source::Catchup => "catchup",
            Source::Client => "client",
            Source::Import => "import",
        }
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// One counter for each value of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct By<L, const N: usize> {
    counts: [u64; N],
    label: std::marker::PhantomData<L>,
}

impl<L, const N: usize> Default for By<L, N> {
    fn default() -> Self {
        By { counts: [0; N], label: std::marker::PhantomData }
    }
}

impl<L: Label, const N: usize> By<L, N> {
    /// One more.
    pub fn add(&mut self, label: L) {
        self.add_many(label, 1);
    }

    /// `n` more.
    pub fn add_many(&mut self, label: L, n: u64) {
        self.counts[label.index()] += n;
    }

    /// How many.
    pub fn count(&self, label: L) -> u64 {
        self.counts[label.index()]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        L::ALL.iter().map(|label| (label.name(), self.count(*label)))
    }
}

/// Counters by [`Side`].
pub type BySide = By<Side, 2>;
/// Counters by [`Source`].
pub type BySource = By<Source, 4>;

/// A distribution over fixed buckets.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    /// Upper bounds, rising; what is above the last falls into one more bucket.
    bounds: &'static [f64],
    counts: Vec<u64>,
    pub(super) sum: f64,
}

impl Histogram {
    pub(super) fn new(bounds: &'static [f64]) -> Histogram {
        Histogram { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    /// One value more.
    pub fn observe(&mut self, value: f64) {
        let bucket = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        self.counts[bucket] += 1;
        self.sum += value;
    }

    /// How many values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(super) fn buckets(&self) -> Vec<(f64, u64)> {
        self.bounds.iter().copied().chain([f64::INFINITY]).zip(self.counts.iter().copied()).collect()
    }
}
