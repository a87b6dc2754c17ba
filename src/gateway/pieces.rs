//! The pieces of an answer, header first, as one buffer that is written with as few calls as the socket takes, and without a copy.
//! Not here: what is in it (`hit.rs`).

use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;

/// A header, and the pieces of a body behind it.
pub(super) struct Pieces {
    head: BytesMut,
    body: SmallVec<[Bytes; 1]>,
    /// The first piece of the body that is not written whole.
    next: usize,
    left: usize,
}

impl Pieces {
    pub(super) fn new(head: BytesMut, body: &[Bytes]) -> Self {
        let left = head.len() + body.iter().map(Bytes::len).sum::<usize>();
        Self { head, body: body.into(), next: 0, left }
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        if self.head.is_empty() { self.body.get(self.next).map_or(&[], |piece| piece) } else { &self.head }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let head = Some(&*self.head).filter(|head| !head.is_empty());
        let body = self.body[self.next..].iter().map(|piece| &**piece);
        let pieces = slices.iter_mut().zip(head.into_iter().chain(body));
        pieces.map(|(slice, piece)| *slice = IoSlice::new(piece)).count()
    }

    fn advance(&mut self, mut count: usize) {
        self.left -= count;
        let of_head = count.min(self.head.len());
        self.head.advance(of_head);
        count -= of_head;
        while let Some(piece) = self.body.get_mut(self.next).filter(|_| self.head.is_empty()) {
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
            let mut pieces = Pieces::new(BytesMut::from("012"), &body);
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
