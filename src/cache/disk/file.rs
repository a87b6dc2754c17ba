//! One stored answer as a file: a fixed part, a head with all but the body, and the body.
//! Every byte is covered by a checksum (CRC-32) or has to be exactly so; whatever is not right is no answer.
//! Not here: where files are, and when they are written (`folder.rs`, `writer.rs`).

use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use pingora_cache::key::HashBinary;
use pingora_http::ResponseHeader;
use serde::{Deserialize, Serialize};

use super::super::entry::{Body, CHUNK_BYTES, Entry, Terms};
use super::super::tags::Tags;
use super::super::vary::Selected;

/// The last byte grows with the form of a file, and where a header's normal form for `Vary` changes.
const MAGIC: [u8; 8] = *b"tollgat\x01";

/// Magic, length of the head, its checksum, and the place for a soft purge.
const FIXED_BYTES: usize = 28;

/// Where a soft purge is noted: seconds since 1970, and their checksum.
pub(super) const STALE_AT: u64 = 16;

/// No head is as long: headers and tags are bounded where they come from.
const HEAD_BYTES_MAX: u64 = 4 << 20;

/// What file systems give out at once.
const BLOCK_BYTES: u64 = 4096;

/// Why a file is no answer.
#[derive(Debug)]
pub(super) enum Damage {
    /// It could not be read.
    Unread(io::Error),
    /// What is in it is not what was written.
    Wrong,
    /// It was written under a key of another version.
    OtherVersion,
}

impl From<io::Error> for Damage {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Wrong,
            _ => Self::Unread(error),
        }
    }
}

/// All but the body.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    key: Vec<u8>,
    version: u64,
    status: u16,
    /// Name, value, and whether it is to be kept from people's eyes.
    headers: Vec<(String, Vec<u8>, bool)>,
    /// Since 1970.
    fresh_until: Duration,
    epoch: Duration,
    stale_seconds: (u32, u32),
    variance: Option<HashBinary>,
    selected: Option<Vec<(String, Vec<u8>)>>,
    tags: Vec<String>,
    body_bytes: u64,
    /// Checksum of each piece of the body.
    pieces: Vec<u32>,
}

/// What a file says, without its body.
#[derive(Debug)]
pub(super) struct Kept {
    /// The frame of its key.
    pub(super) key: Box<[u8]>,
    /// Grows with each write.
    pub(super) version: u64,
    pub(super) terms: Terms,
    pub(super) tags: Tags,
    pub(super) body_bytes: u64,
    head: ResponseHeader,
    pieces: Vec<u32>,
}

/// Bytes on disk of a file of this length.
pub(super) fn room(length: u64) -> u64 {
    length.div_ceil(BLOCK_BYTES) * BLOCK_BYTES
}

/// The place of a soft purge.
pub(super) fn stale_slot(seconds: u64) -> [u8; 12] {
    let seconds = seconds.to_le_bytes();
    let mut slot = [0; 12];
    slot[..8].copy_from_slice(&seconds);
    slot[8..].copy_from_slice(&crc32fast::hash(&seconds).to_le_bytes());
    slot
}

/// All that stands before the body; none where it is longer than any is.
pub(super) fn before_body(key: &[u8], version: u64, entry: &Entry) -> Option<Vec<u8>> {
    let terms = entry.terms();
    let since = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let headers = entry.head.headers.iter();
    let head = Head {
        key: key.to_vec(),
        version,
        status: entry.head.status.as_u16(),
        headers: headers
            .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec(), value.is_sensitive()))
            .collect(),
        fresh_until: since(terms.fresh_until),
        epoch: since(terms.epoch),
        stale_seconds: terms.stale_seconds,
        variance: terms.variance,
        selected: terms
            .selected
            .map(|selected| selected.parts().map(|(name, value)| (name.to_owned(), value.to_vec())).collect()),
        tags: entry.tags.iter().map(str::to_owned).collect(),
        body_bytes: entry.body.length as u64,
        pieces: entry.body.chunks.iter().map(|chunk| crc32fast::hash(chunk)).collect(),
    };
    let head = postcard::to_stdvec(&head).ok()?;
    let length = u32::try_from(head.len()).ok().filter(|length| u64::from(*length) <= HEAD_BYTES_MAX)?;
    let mut bytes = Vec::with_capacity(FIXED_BYTES + head.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&checksum(length, &head).to_le_bytes());
    bytes.extend_from_slice(&stale_slot(terms.stale_since));
    bytes.extend_from_slice(&head);
    Some(bytes)
}

fn checksum(length: u32, head: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&length.to_le_bytes());
    sum.update(head);
    sum.finalize()
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Damage> {
    bytes.get(at..at + N).and_then(|part| part.try_into().ok()).ok_or(Damage::Wrong)
}

/// Reads all that stands before the body; `length` is that of the whole file, in bytes.
///
/// # Errors
/// It is not what was written.
pub(super) fn read_head(file: &mut impl Read, length: u64) -> Result<Kept, Damage> {
    let mut fixed = [0; FIXED_BYTES];
    file.read_exact(&mut fixed)?;
    let head_bytes = u32::from_le_bytes(number(&fixed, 8)?);
    let stale_since = u64::from_le_bytes(number(&fixed, STALE_AT as usize)?);
    let most = HEAD_BYTES_MAX.min(length.saturating_sub(FIXED_BYTES as u64));
    if fixed[..8] != MAGIC || fixed[STALE_AT as usize..] != stale_slot(stale_since) || u64::from(head_bytes) > most {
        return Err(Damage::Wrong);
    }
    let mut bytes = vec![0; head_bytes as usize];
    file.read_exact(&mut bytes)?;
    if checksum(head_bytes, &bytes) != u32::from_le_bytes(number(&fixed, 12)?) {
        return Err(Damage::Wrong);
    }
    let (head, rest): (Head, &[u8]) = postcard::take_from_bytes(&bytes).map_err(|_| Damage::Wrong)?;
    let whole = FIXED_BYTES as u64 + u64::from(head_bytes) + head.body_bytes;
    if !rest.is_empty() || whole != length || head.pieces.len() as u64 != head.body_bytes.div_ceil(CHUNK_BYTES as u64) {
        return Err(Damage::Wrong);
    }
    head.kept(stale_since).ok_or(Damage::Wrong)
}

impl Head {
    fn kept(self, stale_since: u64) -> Option<Kept> {
        // As what comes from an instance is kept: without the map of the names' spelling.
        let mut head = ResponseHeader::build_no_case(self.status, Some(self.headers.len())).ok()?;
        for (name, value, is_sensitive) in &self.headers {
            let mut value = HeaderValue::from_bytes(value).ok()?;
            value.set_sensitive(*is_sensitive);
            head.append_header(HeaderName::from_bytes(name.as_bytes()).ok()?, value).ok()?;
        }
        let selected = match self.selected {
            Some(parts) => Some(Selected::from_parts(parts)?),
            None => None,
        };
        let terms = Terms {
            fresh_until: SystemTime::UNIX_EPOCH.checked_add(self.fresh_until)?,
            stale_since,
            epoch: SystemTime::UNIX_EPOCH.checked_add(self.epoch)?,
            stale_seconds: self.stale_seconds,
            variance: self.variance,
            selected,
        };
        Some(Kept {
            key: self.key.into_boxed_slice(),
            version: self.version,
            terms,
            tags: Tags::of(self.tags.iter().map(String::as_str).collect()),
            body_bytes: self.body_bytes,
            head,
            pieces: self.pieces,
        })
    }
}

impl Kept {
    /// What is stored again, with the body that follows in its file.
    ///
    /// # Errors
    /// The body is not what was written.
    pub(super) fn with_body(self, file: &mut impl Read) -> Result<Entry, Damage> {
        let mut left = self.body_bytes;
        let mut chunks = Vec::with_capacity(self.pieces.len());
        for sum in &self.pieces {
            let mut chunk = vec![0; left.min(CHUNK_BYTES as u64) as usize];
            file.read_exact(&mut chunk)?;
            if crc32fast::hash(&chunk) != *sum {
                return Err(Damage::Wrong);
            }
            left -= chunk.len() as u64;
            chunks.push(Bytes::from(chunk.into_boxed_slice()));
        }
        Ok(Entry::restored(self.terms, self.head, Arc::new(Body::of(chunks)), self.tags))
    }

    /// What is known of it without its body.
    pub(super) fn without_body(self) -> Entry {
        Entry::restored(self.terms, self.head, Arc::default(), self.tags)
    }
}

/// Which fields tell the variants of a key apart, in a number; 0 where nothing does.
pub(super) fn fields_of(selected: Option<&Selected>) -> u32 {
    selected.map_or(0, |selected| {
        let mut sum = crc32fast::Hasher::new();
        for (name, _) in selected.parts() {
            sum.update(name.as_bytes());
            sum.update(b",");
        }
        sum.finalize().max(1)
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use pingora_cache::CacheMeta;
    use proptest::prelude::*;

    use super::super::super::entry::Chosen;
    use super::*;

    fn selected() -> Selected {
        let map = |name: &'static str, value: &str| {
            HeaderMap::from_iter([(HeaderName::from_static(name), value.parse().unwrap())])
        };
        Selected::of(&map("vary", "accept-language"), &[], &map("accept-language", "de")).unwrap()
    }

    fn entry(body: &[u8]) -> Entry {
        let mut head = ResponseHeader::build(203, None).unwrap();
        for (name, value) in [("x-one", "1"), ("x-one", "2"), ("vary", "accept-language"), ("x-raw", "\u{e4}")] {
            head.append_header(name, HeaderValue::from_bytes(value.as_bytes()).unwrap()).unwrap();
        }
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::new(seconds, 5);
        let mut meta = CacheMeta::new(at(2_000_000_000), at(7), 3, 4, head);
        meta.set_epoch_override(at(1_700_000_000));
        meta.set_variance(selected().variance().unwrap());
        meta.extensions_mut().insert(Chosen(Arc::new(selected())));
        let chunks = body.chunks(CHUNK_BYTES).map(Bytes::copy_from_slice).collect();
        Entry::new(&meta, Arc::new(Body::of(chunks)), Tags::of(vec!["b", "a"]))
    }

    fn bytes_of(entry: &Entry) -> Vec<u8> {
        let mut bytes = before_body(b"key", 9, entry).unwrap();
        entry.body.chunks.iter().for_each(|chunk| bytes.extend_from_slice(chunk));
        bytes
    }

    fn read(bytes: &[u8]) -> Result<(Box<[u8]>, u64, Entry), Damage> {
        let mut file = bytes;
        let kept = read_head(&mut file, bytes.len() as u64)?;
        let (key, version) = (kept.key.clone(), kept.version);
        Ok((key, version, kept.with_body(&mut file)?))
    }

    #[test]
    fn what_was_written_is_read_again() {
        for length in [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
            let body: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
            let before = entry(&body);
            let (key, version, after) = read(&bytes_of(&before)).unwrap();
            assert_eq!((&*key, version), (&b"key"[..], 9));
            assert_eq!(format!("{before:?}"), format!("{after:?}"));
        }
    }

    #[test]
    fn a_soft_purge_is_noted_in_its_place() {
        let mut bytes = bytes_of(&entry(b"body"));
        bytes[STALE_AT as usize..][..12].copy_from_slice(&stale_slot(77));
        let (_, _, entry) = read(&bytes).unwrap();
        assert_eq!(entry.stale_since(), 77);
    }

    #[test]
    fn files_take_whole_blocks() {
        assert_eq!([0, 1, 4096, 4097].map(room), [0, 4096, 4096, 8192]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2048))]
        #[test]
        fn damage_is_never_an_answer(at in any::<prop::sample::Index>(), flip in 1_u8.., cut in any::<prop::sample::Index>(), more in 0_usize..3, long in any::<bool>()) {
            let body = vec![7; if long { CHUNK_BYTES + 100 } else { 100 }];
            let bytes = bytes_of(&entry(&body));
            let mut flipped = bytes.clone();
            // Half of the time within what stands before the body.
            let span = if flip % 2 == 0 { bytes.len() } else { bytes.len() - body.len() };
            flipped[at.index(span)] ^= flip;
            prop_assert!(read(&flipped).is_err());
            prop_assert!(read(&bytes[..cut.index(bytes.len())]).is_err());
            let mut longer = bytes.clone();
            longer.extend(std::iter::repeat_n(0, more + 1));
            prop_assert!(read(&longer).is_err());
        }

        #[test]
        fn what_is_foreign_is_never_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(read(&bytes).is_err());
            let mut begun = MAGIC.to_vec();
            begun.extend(bytes);
            prop_assert!(read(&begun).is_err());
        }
    }
}
