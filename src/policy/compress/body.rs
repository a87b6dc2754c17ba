//! The body of an answer that is compressed as it comes: each piece of it becomes a piece of the coding.
//! Invariant: the coding ends only where the body has ended as it was announced; one that is cut stays cut.

use std::io;

use bytes::Bytes;

use super::counts::{self, Place};
use super::encoder::Encoder;
use crate::config::Coding;

/// A body on its way.
#[derive(Debug)]
pub struct CompressedBody {
    coding: Coding,
    /// Bytes of the whole, where they are told.
    length: Option<u64>,
    /// Bytes that have come, and that were handed out.
    came: u64,
    coded: u64,
    /// From the first piece on: an answer to HEAD has none.
    encoder: Option<Encoder>,
    /// Until the end.
    place: Option<Place>,
    is_ended: bool,
}

impl CompressedBody {
    /// None where too many are compressed already.
    pub(super) fn begin(coding: Coding, length: Option<u64>) -> Option<Self> {
        let place = Some(Place::take()?);
        Some(Self { coding, length, came: 0, coded: 0, encoder: None, place, is_ended: false })
    }

    /// Replaces a piece, the last one at the `end`. Where nobody knows how long the body will be it may be one that is read
    /// while it is made, so whatever has come can be decoded at once; else nothing is gained by that, and it costs.
    ///
    /// # Errors
    /// Of the encoder, and where the end is not where it was told to be.
    pub fn replace(&mut self, piece: &mut Option<Bytes>, end: bool) -> io::Result<()> {
        let raw = piece.take().unwrap_or_default();
        self.came += raw.len() as u64;
        let is_whole = self.length.is_some_and(|length| self.came >= length);
        if self.length.is_some_and(|length| self.came > length || (end && self.came < length)) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the body is not as long as its header says"));
        }
        if self.is_ended {
            return Ok(());
        }
        let mut encoder = match self.encoder.take() {
            Some(encoder) => encoder,
            None => Encoder::begin(self.coding, self.length.or(end.then_some(self.came)))?,
        };
        let coded = if end || is_whole {
            encoder.finish(&raw)?
        } else {
            let coded = encoder.write(&raw, self.length.is_none() && !raw.is_empty())?;
            self.encoder = Some(encoder);
            coded
        };
        self.coded += coded.len() as u64;
        if self.encoder.is_none() {
            self.is_ended = true;
            self.place = None;
            counts::ended(self.came, self.coded);
        }
        *piece = Some(coded).filter(|coded| !coded.is_empty());
        Ok(())
    }

    /// Whether all of it was handed out.
    pub fn is_ended(&self) -> bool {
        self.is_ended
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::compress::encoder::tests::decode;

    /// What comes out for these pieces, the last of which ends the body.
    fn play(coding: Coding, length: Option<u64>, pieces: &[Vec<u8>]) -> io::Result<Vec<u8>> {
        let mut body = CompressedBody::begin(coding, length).unwrap();
        let mut coded = Vec::new();
        for (place, piece) in pieces.iter().enumerate() {
            let mut piece = Some(Bytes::copy_from_slice(piece));
            body.replace(&mut piece, place + 1 == pieces.len())?;
            coded.extend_from_slice(&piece.unwrap_or_default());
        }
        assert!(body.is_ended());
        Ok(coded)
    }

    fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let random = prop::collection::vec(any::<u8>(), 0..5_000);
        let text = prop::collection::vec(prop::sample::select(b"abc {}\":,0123".to_vec()), 0..5_000);
        let repeated = (any::<u8>(), 0_usize..200_000).prop_map(|(byte, count)| vec![byte; count]);
        prop::collection::vec(prop_oneof![random, text, repeated], 1..6)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        #[test]
        fn what_is_decoded_is_what_came(
            pieces in pieces(),
            told in any::<bool>(),
            coding in prop::sample::select(vec![Coding::Gzip, Coding::Br, Coding::Zstd]),
        ) {
            let whole = pieces.concat();
            let coded = play(coding, told.then_some(whole.len() as u64), &pieces).unwrap();
            prop_assert!(decode(coding, &coded).is_some_and(|decoded| decoded == whole));
        }
    }

    #[test]
    fn without_a_length_each_piece_can_be_decoded_at_once() {
        for coding in [Coding::Gzip, Coding::Br, Coding::Zstd] {
            let mut body = CompressedBody::begin(coding, None).unwrap();
            let (mut coded, mut came) = (Vec::new(), Vec::new());
            for line in ["{\"event\": 1}\n", "{\"event\": 2}\n", "{\"event\": 3}\n"] {
                let mut piece = Some(Bytes::from_static(line.as_bytes()));
                body.replace(&mut piece, false).unwrap();
                coded.extend_from_slice(&piece.unwrap());
                came.extend_from_slice(line.as_bytes());
                assert_eq!(crate::policy::compress::encoder::tests::decode_start(coding, &coded), came, "{coding}");
                assert_eq!(decode(coding, &coded), None, "{coding} has ended");
            }
        }
    }

    #[test]
    fn the_end_is_where_the_header_says() {
        let short = play(Coding::Gzip, Some(10), &[b"12345".to_vec(), b"6789".to_vec()]);
        let long = play(Coding::Gzip, Some(10), &[b"12345".to_vec(), b"678901".to_vec()]);
        assert!(short.is_err() && long.is_err());
        // The end may be told after the last byte.
        let told_later = play(Coding::Gzip, Some(4), &[b"1234".to_vec(), Vec::new()]).unwrap();
        assert_eq!(decode(Coding::Gzip, &told_later).unwrap(), b"1234");
    }

    #[test]
    fn a_body_of_nothing_is_coded_too() {
        for coding in [Coding::Gzip, Coding::Br, Coding::Zstd] {
            let coded = play(coding, None, &[Vec::new()]).unwrap();
            assert_eq!(decode(coding, &coded).unwrap(), b"", "{coding}");
        }
    }
}
