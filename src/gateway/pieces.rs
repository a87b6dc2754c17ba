//! The pieces of an answer, header first, as one buffer that is written with as few calls as the socket takes, and without a copy.

use std::io::IoSlice;

use bytes::{Buf, Bytes};
use smallvec::SmallVec;

/// Pieces that are written one after the other.
pub(super) struct Pieces {
    pieces: SmallVec<[Bytes; 2]>,
    /// The first that is not written whole.
    next: usize,
    left: usize,
}

impl Pieces {
    pub(super) fn new(head: Bytes, body: &[Bytes]) -> Self {
        let pieces: SmallVec<[Bytes; 2]> = std::iter::once(head).chain(body.iter().cloned()).collect();
        Self { next: 0, left: pieces.iter().map(Bytes::len).sum(), pieces }
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.get(self.next).map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let pieces = slices.iter_mut().zip(&self.pieces[self.next..]);
        pieces.map(|(slice, piece)| *slice = IoSlice::new(piece)).count()
    }

    fn advance(&mut self, mut count: usize) {
        self.left -= count;
        while let Some(piece) = self.pieces.get_mut(self.next) {
            if count < piece.len() {
                return piece.advance(count);
            }
            count -= piece.len();
            self.next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_it_is_cut_all_of_it_is_written_in_order() {
        let body = [Bytes::from_static(b"345"), Bytes::new(), Bytes::from_static(b"6789")];
        for step in 1..=10 {
            let mut pieces = Pieces::new(Bytes::from_static(b"012"), &body);
            let mut written = Vec::new();
            while pieces.has_remaining() {
                let mut slices = [IoSlice::new(&[]); 2];
                let count = pieces.chunks_vectored(&mut slices);
                let there: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
                assert!(there.starts_with(pieces.chunk()));
                let part = step.min(there.len());
                assert!(part > 0 || pieces.chunk().is_empty());
                written.extend_from_slice(&there[..part]);
                pieces.advance(part);
            }
            assert_eq!(written, b"0123456789", "{step} at a time");
        }
    }
}
