//! The usage of one run in an hour or a day as one value, because a report over months has to read it whole: a dictionary of
//! texts, then one entry a series. All numbers are LEB128. Rows would be ten times as large, and as slow.
//!
//! ```text
//! version (1) | texts, each: length, bytes | entries, each: endpoint, method, status, decided_by, consumer, key, service,
//! instance (places in the dictionary; optional ones + 1, 0 is none), count, errors, blocked, bytes_in, bytes_out, duration,
//! upstream, length of the histogram, histogram
//! ```

use rustc_hash::FxHashMap;

use super::{Series, Tally};

const VERSION: u64 = 1;

/// Writes a number: 7 bits a byte, the highest bit says that more follow.
pub(super) fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads a number; none where the bytes end before, or it has more than 64 bits.
#[inline]
pub(super) fn take(bytes: &mut &[u8]) -> Option<u64> {
    let (byte, rest) = bytes.split_first()?;
    *bytes = rest;
    if *byte < 0x80 { Some(u64::from(*byte)) } else { take_rest(bytes, *byte) }
}

/// The numbers that have more than one byte, of which the first is taken.
#[inline]
fn take_rest(bytes: &mut &[u8], first: u8) -> Option<u64> {
    let mut number = u64::from(first & 0x7f);
    let mut shift = 7;
    loop {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        // The tenth byte has room for one bit.
        if shift == 63 && *byte > 1 {
            return None;
        }
        number |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return Some(number);
        }
        shift += 7;
    }
}

/// Packs the tallies of some series.
pub fn pack<'a, T: AsRef<str> + 'a>(entries: impl IntoIterator<Item = (&'a Series<T>, &'a Tally)>) -> Vec<u8> {
    let mut places: FxHashMap<String, u64> = FxHashMap::default();
    let mut texts: Vec<String> = Vec::new();
    let (mut body, mut count) = (Vec::new(), 0);
    let mut histogram = Vec::new();
    for (series, tally) in entries {
        let mut place = |text: &str| {
            *places.entry(text.to_owned()).or_insert_with(|| {
                texts.push(text.to_owned());
                texts.len() as u64 - 1
            })
        };
        count += 1;
        for number in [
            place(series.endpoint.as_ref()),
            place(series.method.as_ref()),
            series.status.into(),
            place(series.decided_by.as_ref()),
        ] {
            put(&mut body, number);
        }
        for text in [&series.consumer, &series.key, &series.service, &series.instance] {
            put(&mut body, text.as_ref().map_or(0, |text| place(text.as_ref()) + 1));
        }
        let Tally { count, errors, blocked, bytes_in, bytes_out, duration, upstream, .. } = tally;
        for number in [count, errors, blocked, bytes_in, bytes_out, duration, upstream] {
            put(&mut body, *number);
        }
        histogram.clear();
        tally.histogram.encode(&mut histogram);
        put(&mut body, histogram.len() as u64);
        body.extend_from_slice(&histogram);
    }
    let mut out = Vec::with_capacity(body.len() + 64);
    put(&mut out, VERSION);
    put(&mut out, texts.len() as u64);
    for text in &texts {
        put(&mut out, text.len() as u64);
        out.extend_from_slice(text.as_bytes());
    }
    put(&mut out, count);
    out.extend_from_slice(&body);
    out
}

/// Bytes that are no packed value, or no histogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

/// A packed value that is being read.
#[derive(Debug)]
pub struct Packed<'a> {
    /// The dictionary.
    pub texts: Vec<&'a str>,
    entries: u64,
    body: &'a [u8],
}

/// One series of a packed value; texts are places in [`Packed::texts`].
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// See [`Series`].
    pub endpoint: usize,
    /// See [`Series`].
    pub method: usize,
    /// See [`Series`].
    pub status: u16,
    /// See [`Series`].
    pub decided_by: usize,
    /// Consumer, key, service, instance.
    pub optional: [Option<usize>; 4],
    /// Count, errors, blocked, bytes in and out, duration and upstream in microseconds.
    pub numbers: [u64; 7],
    /// For [`super::Histogram::merge_encoded`].
    pub histogram: &'a [u8],
}

impl<'a> Packed<'a> {
    /// Reads the dictionary; the entries follow by iteration.
    ///
    /// # Errors
    /// The bytes are no packed value.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Damaged> {
        Self::dictionary(bytes).ok_or(Damaged)
    }

    fn dictionary(mut bytes: &'a [u8]) -> Option<Self> {
        if take(&mut bytes)? != VERSION {
            return None;
        }
        let count = take(&mut bytes)?;
        let mut texts = Vec::new();
        for _ in 0..count {
            let length = usize::try_from(take(&mut bytes)?).ok()?;
            let (text, rest) = bytes.split_at_checked(length)?;
            texts.push(std::str::from_utf8(text).ok()?);
            bytes = rest;
        }
        Some(Self { texts, entries: take(&mut bytes)?, body: bytes })
    }

    fn entry(&mut self) -> Option<Entry<'a>> {
        let texts = self.texts.len();
        let bytes = &mut self.body;
        let text = |number: u64| usize::try_from(number).ok().filter(|place| *place < texts);
        let (endpoint, method) = (text(take(bytes)?)?, text(take(bytes)?)?);
        let status = u16::try_from(take(bytes)?).ok()?;
        let decided_by = text(take(bytes)?)?;
        let mut optional = [None; 4];
        for place in &mut optional {
            *place = match take(bytes)? {
                0 => None,
                number => Some(text(number - 1)?),
            };
        }
        let mut numbers = [0; 7];
        for number in &mut numbers {
            *number = take(bytes)?;
        }
        let length = usize::try_from(take(bytes)?).ok()?;
        let (histogram, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        Some(Entry { endpoint, method, status, decided_by, optional, numbers, histogram })
    }
}

/// One series after the other; ends after the first that is damaged.
impl<'a> Iterator for Packed<'a> {
    type Item = Result<Entry<'a>, Damaged>;

    fn next(&mut self) -> Option<Self::Item> {
        self.entries = self.entries.checked_sub(1)?;
        let entry = self.entry().ok_or(Damaged);
        if entry.is_err() {
            self.entries = 0;
        }
        Some(entry)
    }
}

impl Entry<'_> {
    /// The series, with the texts of its packed value.
    pub fn series<'t>(&self, texts: &[&'t str]) -> Series<&'t str> {
        let [consumer, key, service, instance] = self.optional.map(|place| place.map(|place| texts[place]));
        Series {
            endpoint: texts[self.endpoint],
            method: texts[self.method],
            status: self.status,
            decided_by: texts[self.decided_by],
            consumer,
            key,
            service,
            instance,
        }
    }

    /// What is counted.
    ///
    /// # Errors
    /// The histogram is damaged.
    pub fn tally(&self) -> Result<Tally, Damaged> {
        let [count, errors, blocked, bytes_in, bytes_out, duration, upstream] = self.numbers;
        let mut tally = Tally { count, errors, blocked, bytes_in, bytes_out, duration, upstream, ..Tally::default() };
        tally.histogram.merge_encoded(self.histogram)?;
        Ok(tally)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tally(times: &[u64]) -> Tally {
        let mut tally = Tally { count: times.len() as u64, bytes_out: 1 << 63, ..Tally::default() };
        times.iter().for_each(|time| tally.histogram.add(*time));
        tally
    }

    fn read(bytes: &[u8]) -> Result<Vec<(Series<String>, Tally)>, Damaged> {
        let packed = Packed::read(bytes)?;
        let texts = packed.texts.clone();
        let entry = |entry: Result<Entry<'_>, Damaged>| {
            let entry = entry?;
            Ok((entry.series(&texts).map(str::to_owned), entry.tally()?))
        };
        packed.map(entry).collect()
    }

    proptest! {
        #[test]
        fn what_was_packed_is_read_again(
            parts in prop::collection::vec((".{0,8}", any::<u16>(), prop::option::of("[a-c]"), prop::collection::vec(any::<u64>(), 0..20)), 0..20),
        ) {
            let entries: Vec<_> = parts
                .iter()
                .map(|(endpoint, status, key, times)| {
                    let series = Series { endpoint: endpoint.clone(), status: *status, key: key.clone(), ..Series::default() };
                    (series, tally(times))
                })
                .collect();
            let packed = pack(entries.iter().map(|(series, tally)| (series, tally)));
            prop_assert_eq!(read(&packed), Ok(entries));
            // Damage is found, or is a value; it never ends the process.
            for place in 0..packed.len() {
                let mut damaged = packed.clone();
                damaged[place] ^= 0x55;
                let _ = read(&damaged);
                let _ = read(&packed[..place]);
            }
        }

        #[test]
        fn numbers_keep_their_value(number: u64) {
            let mut bytes = Vec::new();
            put(&mut bytes, number);
            let mut rest = &*bytes;
            prop_assert_eq!((take(&mut rest), rest.len()), (Some(number), 0));
        }
    }
}
