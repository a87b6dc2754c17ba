//! Usage: what the roll-ups count. A series is everything that can be asked for, a [`Tally`] what is counted of it.
//! `api_usage_minute` has a row for each minute, run and series; hours and days are one packed value a run (`packed.rs`).
//! Plain data and arithmetic: no SQL, no clock.

mod changes;
mod detail;
mod histogram;
mod increments;
mod outlines;
mod packed;
mod packing;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub(super) use changes::{Change, Id, Known, SERIES_MAX, Unknown, changes, late, tally};
pub use detail::{Detail, Dimension};
pub use histogram::Histogram;
pub use increments::Increments;
pub use outlines::{Family, Reading, outlines};
pub use packed::{Damaged, Entry, Packed, pack};
pub(super) use packing::{ENDED, Level, Packing, Progress, SILENT_AFTER, Sum};

/// A minute, counted from 1970 in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Minute(pub u32);

impl Minute {
    /// Minutes of an hour, and of a day.
    pub const HOUR: u32 = 60;
    /// See [`Self::HOUR`].
    pub const DAY: u32 = 24 * 60;

    /// The minute a time lies in; before 1970 is 1970.
    pub fn of(time: std::time::SystemTime) -> Self {
        let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
        Self(u32::try_from(since / 60).unwrap_or(u32::MAX))
    }

    /// When it begins.
    pub fn time(self) -> std::time::SystemTime {
        std::time::UNIX_EPOCH + std::time::Duration::from_secs(u64::from(self.0) * 60)
    }

    /// As the stores have it, e.g. `2026-03-01 12:30:00`.
    pub fn text(self) -> String {
        let mut text = super::row::Moment::of(self.time()).to_string();
        text.truncate("2026-03-01 12:30:00".len());
        text
    }

    /// The beginning of its hour ([`Self::HOUR`]) or day ([`Self::DAY`]).
    pub fn floor(self, minutes: u32) -> Self {
        Self(self.0 - self.0 % minutes)
    }

    /// The same, rounded up.
    pub fn ceil(self, minutes: u32) -> Self {
        Self(self.0.div_ceil(minutes).saturating_mul(minutes))
    }
}

/// What requests are told apart by.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Series<T> {
    /// The route's pattern or name, or `(none)`.
    pub endpoint: T,
    /// A method of HTTP's registry, or `OTHER`.
    pub method: T,
    /// The status the client was sent.
    pub status: u16,
    /// `upstream`, `cache`, or the reason of a refusal.
    pub decided_by: T,
    /// None for anonymous requests.
    pub consumer: Option<T>,
    /// The key's name.
    pub key: Option<T>,
    /// The route's service.
    pub service: Option<T>,
    /// The last instance that was tried.
    pub instance: Option<T>,
}

impl<T: AsRef<str>> Series<T> {
    /// Identifies the series within a minute and run: 16 bytes of a SHA-256 over all its parts. The texts together would
    /// be too long for a primary key of MySQL.
    pub fn id(&self) -> [u8; 16] {
        let mut digest = Sha256::new();
        digest.update(self.status.to_be_bytes());
        let mut part = |text: Option<&str>| {
            // A length before each text, so that no two series run into the same bytes; none is no text.
            digest
                .update(text.map_or(u32::MAX, |text| u32::try_from(text.len()).unwrap_or(u32::MAX - 1)).to_be_bytes());
            digest.update(text.unwrap_or_default());
        };
        for text in [&self.endpoint, &self.method, &self.decided_by] {
            part(Some(text.as_ref()));
        }
        for text in [&self.consumer, &self.key, &self.service, &self.instance] {
            part(text.as_ref().map(AsRef::as_ref));
        }
        let mut id = [0; 16];
        id.copy_from_slice(&digest.finalize()[..16]);
        id
    }

    /// The same series with borrowed texts.
    pub fn borrowed(&self) -> Series<&str> {
        Series {
            endpoint: self.endpoint.as_ref(),
            method: self.method.as_ref(),
            status: self.status,
            decided_by: self.decided_by.as_ref(),
            consumer: self.consumer.as_ref().map(AsRef::as_ref),
            key: self.key.as_ref().map(AsRef::as_ref),
            service: self.service.as_ref().map(AsRef::as_ref),
            instance: self.instance.as_ref().map(AsRef::as_ref),
        }
    }

    /// The same series with other texts.
    pub fn map<U>(&self, text: impl Fn(&str) -> U) -> Series<U> {
        let optional = |part: &Option<T>| part.as_ref().map(|part| text(part.as_ref()));
        Series {
            endpoint: text(self.endpoint.as_ref()),
            method: text(self.method.as_ref()),
            status: self.status,
            decided_by: text(self.decided_by.as_ref()),
            consumer: optional(&self.consumer),
            key: optional(&self.key),
            service: optional(&self.service),
            instance: optional(&self.instance),
        }
    }
}

/// What is counted of the requests of a series. Times in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Requests.
    pub count: u64,
    /// Status 500 and above.
    pub errors: u64,
    /// Refused by flood guard, auth, access, limit or body size.
    pub blocked: u64,
    /// Bytes of request bodies.
    pub bytes_in: u64,
    /// Bytes of the answers' bodies.
    pub bytes_out: u64,
    /// The sum of all response times.
    pub duration: u64,
    /// The sum of all times to the header of an instance's answer.
    pub upstream: u64,
    /// The response times.
    pub histogram: Histogram,
}

impl Tally {
    /// Adds what another has counted. Sums that leave 64 bits stay at their end.
    pub fn merge(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.count, other.count),
            (&mut self.errors, other.errors),
            (&mut self.blocked, other.blocked),
            (&mut self.bytes_in, other.bytes_in),
            (&mut self.bytes_out, other.bytes_out),
            (&mut self.duration, other.duration),
            (&mut self.upstream, other.upstream),
        ] {
            *sum = sum.saturating_add(more);
        }
        self.histogram.merge(&other.histogram);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_that_differ_have_different_ids() {
        let series = Series { endpoint: "/a", method: "GET", status: 200, decided_by: "upstream", ..Series::default() };
        let others = [
            Series { endpoint: "/aG", method: "ET", ..series.clone() },
            Series { consumer: Some(""), ..series.clone() },
            Series { key: Some("a"), ..series.clone() },
            Series { consumer: Some("a"), ..series.clone() },
            Series { status: 201, ..series.clone() },
        ];
        let mut ids: Vec<_> = others.iter().chain([&series]).map(Series::id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 6);
        assert_eq!(series.map(str::to_owned).id(), series.id());
    }

    #[test]
    fn minutes_are_rounded_to_hours_and_days() {
        let minute = Minute(Minute::DAY * 3 + 61);
        assert_eq!((minute.floor(60), minute.ceil(60)), (Minute(4_380), Minute(4_440)));
        assert_eq!((minute.floor(Minute::DAY), minute.ceil(Minute::DAY)), (Minute(4_320), Minute(5_760)));
        assert_eq!(Minute::of(minute.time()), minute);
    }
}
