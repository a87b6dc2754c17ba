//! Rows of both stores in one form: a cell is looked at where it lies, and read as what its column holds.
//! A cell that holds anything else is an error that names its place and never its contents.

use jiff::Timestamp;
use uuid::Uuid;

use super::{Logged, MinuteRow, StoredBatch, StoredDrops, StoredRun, Unreadable, logged};
use crate::store::Totals;
use crate::store::usage::{Minute, Series};

/// What a store found in one place of a row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cell<'a> {
    Null,
    Number(u64),
    Real(f64),
    /// Text as well: what it is, the column says.
    Bytes(&'a [u8]),
    Time(Timestamp),
    /// Anything that neither store writes.
    Odd,
}

/// A row of a store.
pub(super) trait Cells {
    fn cell(&self, place: usize) -> Cell<'_>;
}

/// A row that is read.
#[derive(Clone, Copy)]
pub(super) struct Row<'r>(pub(super) &'r dyn Cells);

impl<'r> Row<'r> {
    fn wrong(self, place: usize) -> Unreadable {
        let kind = match self.0.cell(place) {
            Cell::Null => "nothing",
            Cell::Number(_) => "a number",
            Cell::Real(_) => "a fraction",
            Cell::Bytes(_) => "bytes",
            Cell::Time(_) => "a time",
            Cell::Odd => "something else",
        };
        Unreadable::Failed(format!("the request log holds what nobody writes: {kind} in column {}", place + 1))
    }

    pub(super) fn number<T: TryFrom<u64>>(self, place: usize) -> Result<T, Unreadable> {
        let number = match self.0.cell(place) {
            Cell::Number(number) => Some(number),
            // Plain statements of MySQL give text.
            Cell::Bytes(text) => std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()),
            _ => None,
        };
        number.and_then(|number| T::try_from(number).ok()).ok_or_else(|| self.wrong(place))
    }

    fn real_or_none(self, place: usize) -> Result<Option<f64>, Unreadable> {
        match self.0.cell(place) {
            Cell::Null => Ok(None),
            Cell::Real(number) => Ok(Some(number)),
            Cell::Number(number) => Ok(Some(number as f64)),
            _ => Err(self.wrong(place)),
        }
    }

    fn bytes_or_none(self, place: usize) -> Result<Option<&'r [u8]>, Unreadable> {
        match self.0.cell(place) {
            Cell::Null => Ok(None),
            Cell::Bytes(bytes) => Ok(Some(bytes)),
            _ => Err(self.wrong(place)),
        }
    }

    pub(super) fn bytes(self, place: usize) -> Result<&'r [u8], Unreadable> {
        self.bytes_or_none(place)?.ok_or_else(|| self.wrong(place))
    }

    fn text_or_none(self, place: usize) -> Result<Option<&'r str>, Unreadable> {
        let text = self.bytes_or_none(place)?.map(std::str::from_utf8);
        text.transpose().map_err(|_| self.wrong(place))
    }

    pub(super) fn text(self, place: usize) -> Result<&'r str, Unreadable> {
        self.text_or_none(place)?.ok_or_else(|| self.wrong(place))
    }

    pub(super) fn time_or_none(self, place: usize) -> Result<Option<Timestamp>, Unreadable> {
        match self.0.cell(place) {
            Cell::Null => Ok(None),
            Cell::Time(time) => Ok(Some(time)),
            Cell::Bytes(text) => time_of(text).map(Some).ok_or_else(|| self.wrong(place)),
            _ => Err(self.wrong(place)),
        }
    }

    pub(super) fn time(self, place: usize) -> Result<Timestamp, Unreadable> {
        self.time_or_none(place)?.ok_or_else(|| self.wrong(place))
    }

    pub(super) fn minute(self, place: usize) -> Result<Minute, Unreadable> {
        self.time(place).map(minute_of)
    }

    pub(super) fn run(self) -> Result<StoredRun, Unreadable> {
        Ok(StoredRun {
            run: self.number(0)?,
            node: self.text(1)?.to_owned(),
            version: self.text(2)?.to_owned(),
            started: self.time(3)?,
            beat: self.time(4)?,
            closed: self.time_or_none(5)?,
            totals: Totals {
                accepted: self.number(6)?,
                recovered: self.number(7)?,
                written: self.number(8)?,
                spooled: self.number(9)?,
                dropped: self.number(10)?,
                last: self.number(11)?,
            },
            hours_until: self.minute(12)?,
            days_until: self.minute(13)?,
        })
    }

    pub(super) fn batch(self) -> Result<StoredBatch, Unreadable> {
        Ok(StoredBatch {
            run: self.number(0)?,
            first: self.number(1)?,
            last: self.number(2)?,
            rows: self.number(3)?,
            oldest: self.time(4)?,
            newest: self.time(5)?,
            written: self.time(6)?,
        })
    }

    pub(super) fn drops(self) -> Result<StoredDrops, Unreadable> {
        Ok(StoredDrops {
            run: self.number(0)?,
            after: self.number(1)?,
            count: self.number(2)?,
            reason: self.text(3)?.to_owned(),
            numbered: self.number::<u8>(4)? != 0,
        })
    }

    pub(super) fn usage(self) -> Result<MinuteRow<'r>, Unreadable> {
        let mut numbers = [0; 7];
        for (place, number) in (10..).zip(&mut numbers) {
            *number = self.number(place)?;
        }
        Ok(MinuteRow {
            minute: self.minute(0)?,
            run: self.number(1)?,
            series: Series {
                endpoint: self.text(2)?,
                method: self.text(3)?,
                status: self.number(4)?,
                decided_by: self.text(5)?,
                consumer: self.text_or_none(6)?,
                key: self.text_or_none(7)?,
                service: self.text_or_none(8)?,
                instance: self.text_or_none(9)?,
            },
            numbers,
            histogram: self.bytes(17)?,
        })
    }

    pub(super) fn request(self) -> Result<Logged, Unreadable> {
        let owned = |place: usize| self.text(place).map(str::to_owned);
        let optional = |place: usize| self.text_or_none(place).map(|text| text.map(str::to_owned));
        Ok(Logged {
            timestamp: self.time(0)?,
            endpoint: owned(1)?,
            http_method: owned(2)?,
            status_code: self.number(3)?,
            response_time_ms: self.real_or_none(4)?.unwrap_or_default(),
            is_error: self.number::<u8>(5)? != 0,
            run: self.number(6)?,
            sequence: self.number(7)?,
            request_id: Uuid::from_slice(self.bytes(8)?).map_err(|_| self.wrong(8))?,
            client_request_id: optional(9)?,
            host: optional(10)?,
            path: owned(11)?,
            protocol: owned(12)?,
            consumer: optional(13)?,
            key: optional(14)?,
            client_ip: self.bytes_or_none(15)?.and_then(logged::address),
            service: optional(16)?,
            instance: optional(17)?,
            attempts: self.number(18)?,
            upstream_ms: self.real_or_none(19)?,
            cache: optional(20)?,
            decided_by: owned(21)?,
            limit_name: optional(22)?,
            observed: optional(23)?,
            bytes_in: self.number(24)?,
            bytes_out: self.number(25)?,
            user_agent: optional(26)?,
            generation: self.number(27)?,
        })
    }
}

/// A time of a database, in UTC.
pub(super) fn timestamp(date: [i16; 6], microsecond: u32) -> Option<Timestamp> {
    let [year, month, day, hour, minute, second] = date;
    let small = |number: i16| i8::try_from(number).ok();
    let nanosecond = i32::try_from(microsecond).ok()?.checked_mul(1_000)?;
    let (month, day) = (small(month)?, small(day)?);
    let civil = jiff::civil::DateTime::new(year, month, day, small(hour)?, small(minute)?, small(second)?, nanosecond);
    jiff::tz::Offset::UTC.to_timestamp(civil.ok()?).ok()
}

/// `YYYY-MM-DD HH:MM:SS`, with or without microseconds.
fn time_of(text: &[u8]) -> Option<Timestamp> {
    let part = |from: usize, to: usize| {
        text.get(from..to)?
            .iter()
            .try_fold(0_i16, |number, digit| digit.is_ascii_digit().then(|| number * 10 + i16::from(digit - b'0')))
    };
    let date = [part(0, 4)?, part(5, 7)?, part(8, 10)?, part(11, 13)?, part(14, 16)?, part(17, 19)?];
    let microsecond = match text.get(19..)? {
        [] => 0,
        [b'.', digits @ ..] if digits.len() == 6 => std::str::from_utf8(digits).ok()?.parse().ok()?,
        _ => return None,
    };
    timestamp(date, microsecond)
}

/// The minute a time lies in.
fn minute_of(time: Timestamp) -> Minute {
    Minute(u32::try_from(time.as_second().div_euclid(60)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::row::Moment;

    #[test]
    fn times_are_read_as_they_are_written() {
        for text in ["2026-03-01 12:30:05.000123", "1970-01-01 00:00:00.000000", "9999-12-30 21:59:59.999999"] {
            let time = time_of(text.as_bytes()).unwrap();
            assert_eq!(Moment::of(time.into()).to_string(), text);
            assert_eq!(minute_of(time), Minute::of(time.into()));
        }
        for text in ["", "2026-03-01", "2026-03-01 12:30", "2026-13-01 12:30:05", "2026-03-01 12:30:05.1", "äää"] {
            assert_eq!(time_of(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn what_nobody_writes_is_an_error_without_its_contents() {
        struct Odd;
        impl Cells for Odd {
            fn cell(&self, _: usize) -> Cell<'_> {
                Cell::Bytes(b"s3cret")
            }
        }
        let Err(error) = Row(&Odd).number::<u64>(2) else { panic!() };
        assert_eq!(error.to_string(), "the request log holds what nobody writes: bytes in column 3");
    }
}
