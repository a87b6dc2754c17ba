//! Figures: what an answer says of some requests, and the one list of them that JSON, CSV, tables and sorting share.
//! Times in milliseconds; percentiles by nearest rank, at most 1/32 off (see [`crate::store::usage::Histogram`]).

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::gather::Sum;

/// A figure; none where there are no requests to have it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Figure {
    Count(u64),
    Bytes(u64),
    Percent(Option<f64>),
    Milliseconds(Option<f64>),
}

impl Figure {
    pub(super) fn value(self) -> Option<f64> {
        match self {
            Self::Count(number) | Self::Bytes(number) => Some(number as f64),
            Self::Percent(number) | Self::Milliseconds(number) => number,
        }
    }
}

impl Serialize for Figure {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(number) | Self::Bytes(number) => serializer.serialize_u64(*number),
            Self::Percent(number) | Self::Milliseconds(number) => number.map(rounded).serialize(serializer),
        }
    }
}

/// To a thousandth: what comes after is noise.
pub(super) fn rounded(number: f64) -> f64 {
    (number * 1_000.0).round() / 1_000.0
}

/// What is said of some requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Figures {
    pub(super) requests: u64,
    errors: u64,
    blocked: u64,
    average_ms: Option<f64>,
    percentiles: [Option<f64>; 3],
    bytes_in: u64,
    bytes_out: u64,
}

/// One of the figures.
#[derive(Debug)]
pub(super) struct Column {
    /// In JSON and CSV, and to sort by.
    pub(super) name: &'static str,
    /// In tables.
    pub(super) title: &'static str,
    /// Whether a higher figure is a worse one.
    pub(super) is_bad: bool,
    /// Whether it takes a histogram to know.
    pub(super) is_percentile: bool,
    pub(super) of: fn(&Figures) -> Figure,
}

/// All of them, in the order in which they are shown.
pub(super) const COLUMNS: [Column; 10] = [
    column("requests", "requests", false, |of| Figure::Count(of.requests)),
    column("errors", "errors", true, |of| Figure::Count(of.errors)),
    column("error_rate_percent", "error rate", true, |of| Figure::Percent(of.error_rate())),
    column("blocked", "blocked", true, |of| Figure::Count(of.blocked)),
    column("average_ms", "average ms", true, |of| Figure::Milliseconds(of.average_ms)),
    percentile("p50_ms", "p50 ms", |of| Figure::Milliseconds(of.percentiles[0])),
    percentile("p95_ms", "p95 ms", |of| Figure::Milliseconds(of.percentiles[1])),
    percentile("p99_ms", "p99 ms", |of| Figure::Milliseconds(of.percentiles[2])),
    column("bytes_in", "bytes in", false, |of| Figure::Bytes(of.bytes_in)),
    column("bytes_out", "bytes out", false, |of| Figure::Bytes(of.bytes_out)),
];

const fn column(name: &'static str, title: &'static str, is_bad: bool, of: fn(&Figures) -> Figure) -> Column {
    Column { name, title, is_bad, is_percentile: false, of }
}

const fn percentile(name: &'static str, title: &'static str, of: fn(&Figures) -> Figure) -> Column {
    Column { name, title, is_bad: true, is_percentile: true, of }
}

impl Figures {
    pub(super) fn of(sum: &Sum) -> Self {
        let percentiles = [0.5, 0.95, 0.99].map(|share| sum.histogram.percentile(share));
        Self { percentiles, ..Self::without_percentiles(sum) }
    }

    pub(super) fn without_percentiles(sum: &Sum) -> Self {
        let [requests, errors, blocked, bytes_in, bytes_out, duration, _] = sum.numbers;
        Self {
            requests,
            errors,
            blocked,
            average_ms: (requests > 0).then(|| duration as f64 / requests as f64 / 1_000.0),
            percentiles: [None; 3],
            bytes_in,
            bytes_out,
        }
    }

    fn error_rate(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.errors as f64 * 100.0 / self.requests as f64)
    }

    /// Writes the figures as members of an object.
    pub(super) fn members<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        COLUMNS.iter().try_for_each(|column| map.serialize_entry(column.name, &(column.of)(self)))
    }
}

impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.members(&mut map)?;
        map.end()
    }
}
