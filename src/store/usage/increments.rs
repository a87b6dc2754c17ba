//! The increments of a batch: what its rows add to the roll-ups, by minute and series.
//! They are added to what is stored with `changes`.

use std::hash::Hash;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::{Minute, Series, Tally};
use crate::store::row::Row;

/// What some requests add to the roll-ups.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Increments<T: Hash + Eq> {
    /// By minute and series.
    pub tallies: FxHashMap<(Minute, Series<T>), Tally>,
}

impl<'a> Increments<&'a str> {
    /// Counts one row.
    pub fn add(&mut self, row: &Row<'a>) {
        self.count(series(row), row);
    }
}

impl Increments<String> {
    /// Counts one row that does not live as long.
    pub fn add_owned(&mut self, row: &Row<'_>) {
        self.count(series(row).map(str::to_owned), row);
    }
}

fn series<'a>(row: &Row<'a>) -> Series<&'a str> {
    Series {
        endpoint: row.endpoint,
        method: row.method_label,
        status: row.status_code,
        decided_by: row.decided_by,
        consumer: row.consumer,
        key: row.key,
        service: row.service,
        instance: row.instance,
    }
}

impl<T: Hash + Eq> Increments<T> {
    fn count(&mut self, series: Series<T>, row: &Row<'_>) {
        let tally = self.tallies.entry((row.minute, series)).or_default();
        tally.count += 1;
        tally.errors += u64::from(row.is_error);
        tally.blocked += u64::from(row.is_blocked);
        tally.bytes_in = tally.bytes_in.saturating_add(row.bytes_in.unsigned_abs());
        tally.bytes_out = tally.bytes_out.saturating_add(row.bytes_out.unsigned_abs());
        tally.duration = tally.duration.saturating_add(row.response_time);
        tally.upstream = tally.upstream.saturating_add(row.upstream_time.unwrap_or_default());
        tally.histogram.add(row.response_time);
    }
}

impl<T: Hash + Eq + Clone> Increments<T> {
    /// Adds what others have counted.
    pub fn merge(&mut self, other: &Self) {
        for (place, tally) in &other.tallies {
            self.tallies.entry(place.clone()).or_default().merge(tally);
        }
    }
}
