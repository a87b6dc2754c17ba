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
    pub(super) of: fn(&Figures) -> Figure,
}

/// All of them, in the order in which they are shown.
pub(super) const COLUMNS: [Column; 10] = [
    Column { name: "requests", title: "requests", is_bad: false, of: |of| Figure::Count(of.requests) },
    Column { name: "errors", title: "errors", is_bad: true, of: |of| Figure::Count(of.errors) },
    Column { name: "error_rate_percent", title: "error rate", is_bad: true, of: |of| Figure::Percent(of.error_rate()) },
    Column { name: "blocked", title: "blocked", is_bad: true, of: |of| Figure::Count(of.blocked) },
    Column { name: "average_ms", title: "average ms", is_bad: true, of: |of| Figure::Milliseconds(of.average_ms) },
    Column { name: "p50_ms", title: "p50 ms", is_bad: true, of: |of| Figure::Milliseconds(of.percentiles[0]) },
    Column { name: "p95_ms", title: "p95 ms", is_bad: true, of: |of| Figure::Milliseconds(of.percentiles[1]) },
    Column { name: "p99_ms", title: "p99 ms", is_bad: true, of: |of| Figure::Milliseconds(of.percentiles[2]) },
    Column { name: "bytes_in", title: "bytes in", is_bad: false, of: |of| Figure::Bytes(of.bytes_in) },
    Column { name: "bytes_out", title: "bytes out", is_bad: false, of: |of| Figure::Bytes(of.bytes_out) },
];

impl Figures {
    pub(super) fn of(sum: &Sum) -> Self {
        let [requests, errors, blocked, bytes_in, bytes_out, duration, _] = sum.numbers;
        Self {
            requests,
            errors,
            blocked,
            average_ms: (requests > 0).then(|| duration as f64 / requests as f64 / 1_000.0),
            percentiles: [0.5, 0.95, 0.99].map(|share| sum.histogram.percentile(share)),
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
