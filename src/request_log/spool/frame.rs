//! A frame: one batch as it lies in a segment, or the run whose segment it is. The head and the payload have a checksum
//! each, so damage to a payload leaves known which records are lost. What lies around it is the segment's (`segment.rs`).
//!
//! ```text
//! head, 36 bytes, numbers in little endian:
//!   marker ff 54 fe | kind (1) | bytes of the payload (4) | first (8) | records (4) | written, in microseconds since 1970 (8)
//!   | CRC-32 of the payload (4) | CRC-32 of the head (4)
//! payload of a run:    the run
//! payload of a batch:  [(minute, packed increments)], [row]
//! ```
//!
//! Payloads are postcard, which has no names and no versions: a change to [`Row`], [`Run`] or the packed increments takes
//! new kinds. The marker is no UTF-8, so no text that a client made can be taken for a head.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::store::usage::{Increments, Minute, Packed, pack};
use crate::store::{Row, Run};

/// What every head begins with.
pub(super) const MARKER: [u8; 3] = [0xff, b'T', 0xfe];

/// Bytes of a head.
pub(super) const HEAD_BYTES: usize = 36;

/// What a payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Run = 1,
    Batch = 2,
}

/// What is known of a frame without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    /// Bytes of the payload.
    length: u32,
    /// The number of the first record, at least 1; 0 for a run.
    pub(super) first: u64,
    /// Records; 0 for a run, at least 1 for a batch.
    pub(super) count: u32,
    /// Microseconds since 1970.
    pub(super) written: u64,
    sum: u32,
}

impl Head {
    /// The head of a payload.
    ///
    /// # Errors
    /// More than 4 GiB, or more records.
    fn of(kind: Kind, first: u64, count: usize, written: SystemTime, payload: &[u8]) -> io::Result<Self> {
        let number = |number: usize| u32::try_from(number).map_err(io::Error::other);
        let since = written.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        Ok(Self {
            kind,
            length: number(payload.len())?,
            first,
            count: number(count)?,
            written: u64::try_from(since).unwrap_or(u64::MAX),
            sum: crc32fast::hash(payload),
        })
    }

    fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[..3].copy_from_slice(&MARKER);
        head[3] = self.kind as u8;
        head[4..8].copy_from_slice(&self.length.to_le_bytes());
        head[8..16].copy_from_slice(&self.first.to_le_bytes());
        head[16..20].copy_from_slice(&self.count.to_le_bytes());
        head[20..28].copy_from_slice(&self.written.to_le_bytes());
        head[28..32].copy_from_slice(&self.sum.to_le_bytes());
        let sum = crc32fast::hash(&head[..32]);
        head[32..].copy_from_slice(&sum.to_le_bytes());
        head
    }

    /// Reads a head; none where the bytes are no head, or one of a kind that this program doesn't know.
    pub(super) fn read(head: &[u8]) -> Option<Self> {
        let (said, sum) = head.get(..HEAD_BYTES)?.split_last_chunk::<4>()?;
        let mut rest = said.strip_prefix(&MARKER)?;
        if u32::from_le_bytes(*sum) != crc32fast::hash(said) {
            return None;
        }
        let kind = match u8::from_le_bytes(take(&mut rest)?) {
            1 => Kind::Run,
            2 => Kind::Batch,
            _ => return None,
        };
        let head = Self {
            kind,
            length: u32::from_le_bytes(take(&mut rest)?),
            first: u64::from_le_bytes(take(&mut rest)?),
            count: u32::from_le_bytes(take(&mut rest)?),
            written: u64::from_le_bytes(take(&mut rest)?),
            sum: u32::from_le_bytes(take(&mut rest)?),
        };
        let has_numbers = head.count > 0 && head.first > 0 && head.first.checked_add(head.count.into()).is_some();
        (kind == Kind::Run || has_numbers).then_some(head)
    }

    /// Whether a payload is the one this head was made for.
    pub(super) fn fits(&self, payload: &[u8]) -> bool {
        payload.len() == self.payload_bytes() && crc32fast::hash(payload) == self.sum
    }

    pub(super) fn payload_bytes(&self) -> usize {
        self.length as usize
    }

    /// Bytes of head and payload.
    pub(super) fn frame_bytes(&self) -> u64 {
        HEAD_BYTES as u64 + u64::from(self.length)
    }

    /// The number of the last record.
    pub(super) fn last(&self) -> u64 {
        (self.first + u64::from(self.count)).saturating_sub(1)
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

/// The frame of a run.
///
/// # Errors
/// A start before 1970.
pub(super) fn encode_run(run: &Run) -> io::Result<Vec<u8>> {
    let mut frame = postcard::to_extend(run, vec![0; HEAD_BYTES]).map_err(io::Error::other)?;
    let head = Head::of(Kind::Run, 0, 0, run.started, &frame[HEAD_BYTES..])?;
    frame[..HEAD_BYTES].copy_from_slice(&head.encode());
    Ok(frame)
}

/// Reads the payload of a run's frame.
pub(super) fn decode_run(payload: &[u8]) -> Option<Run> {
    postcard::from_bytes(payload).ok()
}

/// Puts the frame of a batch into `out`, in place of what was there.
///
/// # Errors
/// A frame of 4 GiB or more.
pub(super) fn encode_batch(
    out: &mut Vec<u8>,
    first: u64,
    rows: &[Row<'_>],
    unrecorded: &Increments<String>,
    written: SystemTime,
) -> io::Result<Head> {
    let mut frame = std::mem::take(out);
    frame.clear();
    frame.resize(HEAD_BYTES, 0);
    let mut minutes: BTreeMap<Minute, Vec<_>> = BTreeMap::new();
    for ((minute, series), tally) in &unrecorded.tallies {
        minutes.entry(*minute).or_default().push((series, tally));
    }
    let packed: Vec<(Minute, Vec<u8>)> = minutes.into_iter().map(|(minute, entries)| (minute, pack(entries))).collect();
    frame = postcard::to_extend(&packed, frame).map_err(io::Error::other)?;
    frame = postcard::to_extend(rows, frame).map_err(io::Error::other)?;
    let head = Head::of(Kind::Batch, first, rows.len(), written, &frame[HEAD_BYTES..])?;
    frame[..HEAD_BYTES].copy_from_slice(&head.encode());
    *out = frame;
    Ok(head)
}

/// A batch from the spool.
#[derive(Clone, Debug)]
pub struct Frame {
    run: Arc<Run>,
    head: Head,
    payload: Vec<u8>,
}

/// The increments of one minute.
type PackedMinute<'a> = (Minute, &'a [u8]);

/// A payload with the right checksum that is no batch all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undecodable;

impl fmt::Display for Undecodable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a batch that this version of the program can't read")
    }
}

impl Frame {
    pub(super) fn new(run: Arc<Run>, head: Head, payload: Vec<u8>) -> Self {
        Self { run, head, payload }
    }

    /// Whose records these are.
    pub fn run(&self) -> &Arc<Run> {
        &self.run
    }

    /// The number of the first record.
    pub fn first(&self) -> u64 {
        self.head.first
    }

    /// The number of the last record.
    pub fn last(&self) -> u64 {
        self.head.last()
    }

    /// Bytes it takes in its segment.
    pub(super) fn bytes(&self) -> u64 {
        self.head.frame_bytes()
    }

    /// How many records; at least 1.
    pub fn records(&self) -> u64 {
        self.head.count.into()
    }

    /// The rows, as they were given to the spool.
    ///
    /// # Errors
    /// Never for a frame that [`super::Spool::oldest`] gave, which has tried it.
    pub fn rows(&self) -> Result<Vec<Row<'_>>, Undecodable> {
        let (_, rest) = self.packed()?;
        let rows: Vec<Row<'_>> = postcard::from_bytes(rest).map_err(|_| Undecodable)?;
        if rows.len() as u64 == self.records() { Ok(rows) } else { Err(Undecodable) }
    }

    /// The increments beside the rows, as they were given to the spool.
    ///
    /// # Errors
    /// See [`Self::rows`].
    pub fn unrecorded(&self) -> Result<Increments<String>, Undecodable> {
        let mut increments = Increments::default();
        for (minute, bytes) in self.packed()?.0 {
            let packed = Packed::read(bytes).map_err(|_| Undecodable)?;
            let texts = packed.texts.clone();
            for entry in packed {
                let entry = entry.map_err(|_| Undecodable)?;
                let tally = entry.tally().map_err(|_| Undecodable)?;
                increments.tallies.insert((minute, entry.series(&texts).map(str::to_owned)), tally);
            }
        }
        Ok(increments)
    }

    fn packed(&self) -> Result<(Vec<PackedMinute<'_>>, &[u8]), Undecodable> {
        postcard::take_from_bytes(&self.payload).map_err(|_| Undecodable)
    }
}

/// The time of a head.
pub(super) fn moment(microseconds: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_micros(microseconds)).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{Sample, increments, run, sample};
    use super::*;

    fn frame(first: u64, rows: &[Row<'_>], unrecorded: &Increments<String>) -> Frame {
        let mut bytes = vec![1; 7];
        let head = encode_batch(&mut bytes, first, rows, unrecorded, moment(5)).unwrap();
        assert_eq!(Head::read(&bytes), Some(head));
        assert!(head.fits(&bytes[HEAD_BYTES..]));
        Frame::new(Arc::new(run(1)), head, bytes.split_off(HEAD_BYTES))
    }

    proptest! {
        #[test]
        fn any_rows_are_read_as_they_were_written(
            samples in prop::collection::vec(sample(), 1..8),
            unrecorded in increments(),
            first in 1_u64..u64::MAX - 8,
        ) {
            let rows: Vec<_> = samples.iter().map(Sample::row).collect();
            let frame = frame(first, &rows, &unrecorded);
            prop_assert_eq!((frame.first(), frame.records(), frame.head.written), (first, rows.len() as u64, 5));
            prop_assert_eq!(frame.rows().unwrap(), rows);
            prop_assert_eq!(frame.unrecorded().unwrap(), unrecorded);
        }

        #[test]
        fn no_payload_can_do_harm(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let head = Head::of(Kind::Batch, 1, 1, moment(0), &payload).unwrap();
            let frame = Frame::new(Arc::new(run(1)), head, payload);
            let _ = (frame.rows(), frame.unrecorded());
        }
    }

    #[test]
    fn no_text_holds_a_marker() {
        // Neither byte is in any UTF-8.
        assert!(MARKER[0] == 0xff && MARKER[2] >= 0xf8);
    }

    #[test]
    fn a_flipped_bit_of_a_head_is_found() {
        let head = Head::of(Kind::Batch, 7, 3, moment(1), b"payload").unwrap();
        let bytes = head.encode();
        assert_eq!(Head::read(&bytes), Some(head));
        for bit in 0..HEAD_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Head::read(&flipped), None, "bit {bit}");
        }
    }

    #[test]
    fn numbers_that_leave_64_bits_are_no_head() {
        for (first, count, is_head) in [(u64::MAX - 1, 1, true), (u64::MAX, 1, false), (1, 0, false), (0, 1, false)] {
            let head = Head::of(Kind::Batch, first, count, moment(0), b"").unwrap();
            assert_eq!(Head::read(&head.encode()).is_some(), is_head, "{first} {count}");
        }
    }

    #[test]
    fn a_run_is_read_as_it_was_written() {
        let frame = encode_run(&run(3)).unwrap();
        let head = Head::read(&frame).unwrap();
        assert_eq!((head.kind, head.frame_bytes()), (Kind::Run, frame.len() as u64));
        assert_eq!(decode_run(&frame[HEAD_BYTES..]), Some(run(3)));
    }
}
