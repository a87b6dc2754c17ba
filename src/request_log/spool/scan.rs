//! Reading a segment's file: the frame at a place, and the next head behind damage. Decides nothing; what is lost, and what
//! to say, is for the survey at start (`survey.rs`) and for the replay (`segment.rs`).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use memchr::memmem;

use super::frame::{HEAD_BYTES, Head, Kind, MARKER};

/// Bytes that are read at once where heads are looked for.
const CHUNK: usize = 64 * 1024;

/// What is at a place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// The end.
    End,
    /// A frame; its payload was read.
    Whole(Head),
    /// A head whose payload has another checksum.
    Damaged(Head),
    /// The beginning of a frame; its head, if there is enough of it.
    Torn(Option<Head>),
    /// No head.
    Unreadable,
}

/// Reads the frame at a place of a file that ends at `end`.
pub(super) fn frame_at(file: &File, at: u64, end: u64, payload: &mut Vec<u8>) -> io::Result<Found> {
    let left = end.saturating_sub(at);
    if left == 0 {
        return Ok(Found::End);
    }
    if left < HEAD_BYTES as u64 {
        return Ok(Found::Torn(None));
    }
    let mut head = [0; HEAD_BYTES];
    file.read_exact_at(&mut head, at)?;
    let Some(head) = Head::read(&head) else { return Ok(Found::Unreadable) };
    if left < head.frame_bytes() {
        return Ok(Found::Torn(Some(head)));
    }
    payload.resize(head.payload_bytes(), 0);
    file.read_exact_at(payload, at + HEAD_BYTES as u64)?;
    Ok(if head.fits(payload) { Found::Whole(head) } else { Found::Damaged(head) })
}

/// The first head between two places.
pub(super) fn next_head(file: &File, from: u64, end: u64) -> io::Result<Option<(u64, Head)>> {
    let mut chunk = vec![0; CHUNK];
    let mut at = from;
    while end.saturating_sub(at) >= HEAD_BYTES as u64 {
        let length = usize::try_from(end - at).map_or(CHUNK, |left| left.min(CHUNK));
        let bytes = &mut chunk[..length];
        file.read_exact_at(bytes, at)?;
        for place in memmem::find_iter(bytes, &MARKER) {
            if let Some(head) = Head::read(&bytes[place..]) {
                return Ok(Some((at + place as u64, head)));
            }
        }
        // A head may begin in the last bytes of a chunk and end in the next.
        at += (length - (HEAD_BYTES - 1)) as u64;
    }
    Ok(None)
}

/// Gives the bytes of all whole batches between two places, each in two parts.
pub(super) fn each_whole(
    from: &File,
    (begin, end): (u64, u64),
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let (mut at, mut payload) = (begin, Vec::new());
    let mut head_bytes = [0; HEAD_BYTES];
    while at < end {
        at = match frame_at(from, at, end, &mut payload)? {
            Found::Whole(head) => {
                if head.kind == Kind::Batch {
                    from.read_exact_at(&mut head_bytes, at)?;
                    each(&head_bytes)?;
                    each(&payload)?;
                }
                at + head.frame_bytes()
            }
            _ => next_head(from, at + 1, end)?.map_or(end, |(next, _)| next),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::frame::encode_run;
    use super::super::tests::run;
    use super::*;

    #[test]
    fn a_head_is_found_wherever_it_is() {
        let frame = encode_run(&run(1)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let around = CHUNK - HEAD_BYTES - 3;
        for before in [0, 1, 2, around, around + 20, CHUNK - 1, CHUNK, 2 * CHUNK + 5] {
            let mut bytes = vec![0xff; before];
            bytes.extend_from_slice(&frame);
            let path = folder.path().join("file");
            std::fs::write(&path, &bytes).unwrap();
            let (file, end) = (File::open(&path).unwrap(), bytes.len() as u64);
            let found = next_head(&file, 0, end).unwrap().map(|(at, _)| at);
            assert_eq!(found, Some(before as u64));
            assert_eq!(next_head(&file, before as u64 + 1, end).unwrap(), None);
            assert_eq!(next_head(&file, 0, before as u64 + HEAD_BYTES as u64 - 1).unwrap(), None);
        }
    }
}
