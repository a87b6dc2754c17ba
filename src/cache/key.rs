//! The key of a stored answer: everything that may change the answer, framed so that no two different requests share one.
//! Every part carries its length, and an absent part differs from an empty one, so a frame can be read back;
//! what can be read back is unambiguous. Not here: header fields, which are a matter of `Vary` (`vary.rs`).

use pingora_cache::CacheKey;
use pingora_cache::key::HashBinary;
use sha2::{Digest, Sha256};

/// Grows with the frame, so that a changed frame never meets an old one.
const VERSION: u8 = 3;

/// What a frame is found by, in memory and on disk: the first half of its SHA-256. Processors have instructions for that; Pingora's own hash costs
/// as much as the rest of the key.
pub fn hash(frame: &[u8]) -> HashBinary {
    let digest = Sha256::digest(frame);
    std::array::from_fn(|index| digest[index])
}

/// What an answer depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyParts<'a> {
    /// A hash of everything in the configuration that may change the answer.
    pub fingerprint: u64,
    /// The route's pattern or name.
    pub endpoint: &'a str,
    /// `http` or `https`, as the client asked.
    pub scheme: &'a str,
    /// The host asked for, lower case, with the port where one was sent.
    pub host: &'a str,
    /// The normalised path.
    pub path: &'a str,
    /// The query without `?`; `None` differs from empty.
    pub query: Option<&'a str>,
    /// Whose answer it is; none where all callers share it.
    pub consumer: Option<&'a str>,
    /// What the route adds of headers and cookies; none where it adds nothing.
    pub additions: Option<&'a str>,
}

impl<'a> KeyParts<'a> {
    /// The key under which Pingora looks the answer up.
    pub fn key(&self) -> CacheKey {
        let frame = self.frame();
        let hash = hash(&frame);
        let mut key = CacheKey::new(frame, String::new());
        // Pingora would hash the frame again at each use.
        key.set_primary_bin_override(hash);
        key
    }

    fn frame(&self) -> Vec<u8> {
        let fixed = [self.endpoint, self.scheme, self.host, self.path].map(Some);
        let texts = fixed.into_iter().chain([self.query, self.consumer, self.additions]);
        let length: usize = texts.clone().map(|text| 6 + text.map_or(0, str::len)).sum();
        let mut frame = Vec::with_capacity(9 + length);
        frame.push(VERSION);
        frame.extend_from_slice(&self.fingerprint.to_be_bytes());
        for text in texts {
            frame.push(u8::from(text.is_some()));
            let text = text.unwrap_or_default();
            frame.extend_from_slice(&(text.len() as u64).to_be_bytes()[3..]);
            frame.extend_from_slice(text.as_bytes());
        }
        frame
    }

    /// Reads a frame back; `None` for anything that is not one.
    pub fn of(key: &'a CacheKey) -> Option<Self> {
        Self::read(key.primary_key())
    }

    /// Reads the bytes of a frame back.
    pub fn read(frame: &'a [u8]) -> Option<Self> {
        let mut rest = frame;
        let (version, tail) = rest.split_first()?;
        let (fingerprint, tail) = tail.split_first_chunk::<8>()?;
        rest = tail;
        let mut text = || -> Option<Option<&'a str>> {
            let (present, tail) = rest.split_first()?;
            let (length, tail) = tail.split_first_chunk::<5>()?;
            let [a, b, c, d, e] = *length;
            let length = usize::try_from(u64::from_be_bytes([0, 0, 0, a, b, c, d, e])).ok()?;
            let (text, tail) = tail.split_at_checked(length)?;
            rest = tail;
            Some((*present == 1).then_some(std::str::from_utf8(text).ok()?))
        };
        let parts = Self {
            fingerprint: u64::from_be_bytes(*fingerprint),
            endpoint: text()??,
            scheme: text()??,
            host: text()??,
            path: text()??,
            query: text()?,
            consumer: text()?,
            additions: text()?,
        };
        (*version == VERSION && rest.is_empty()).then_some(parts)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Owned = (u64, String, String, String, String, Option<String>, Option<String>, Option<String>);

    fn parts(owned: &Owned) -> KeyParts<'_> {
        let (fingerprint, endpoint, scheme, host, path, query, consumer, additions) = owned;
        KeyParts {
            fingerprint: *fingerprint,
            endpoint,
            scheme,
            host,
            path,
            query: query.as_deref(),
            consumer: consumer.as_deref(),
            additions: additions.as_deref(),
        }
    }

    // A small alphabet, so that parts that run into each other are common.
    fn any_parts() -> impl Strategy<Value = Owned> {
        let text = "[a/?\u{0}\u{1}]{0,3}";
        let optional = || proptest::option::of(text);
        (0_u64..3, text, text, text, text, optional(), optional(), optional())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn no_two_different_requests_share_a_key(one in any_parts(), other in any_parts()) {
            let (key, other_key) = (parts(&one).key(), parts(&other).key());
            prop_assert_eq!(one == other, key.primary_key() == other_key.primary_key());
            prop_assert_eq!(KeyParts::of(&key), Some(parts(&one)));
        }
    }

    #[test]
    fn a_moved_boundary_is_another_key() {
        let base = KeyParts {
            fingerprint: 1,
            endpoint: "e",
            scheme: "http",
            host: "a",
            path: "/b",
            query: None,
            consumer: None,
            additions: None,
        };
        let others = [
            KeyParts { host: "a/", path: "b", ..base },
            KeyParts { query: Some(""), ..base },
            KeyParts { consumer: Some(""), ..base },
            KeyParts { additions: Some(""), ..base },
            KeyParts { path: "/b?", ..base },
            KeyParts { fingerprint: 2, ..base },
            KeyParts { scheme: "https", ..base },
        ];
        for other in others {
            assert_ne!(base.frame(), other.frame(), "{other:?}");
        }
    }

    #[test]
    fn what_is_not_a_frame_is_not_read() {
        assert_eq!(KeyParts::of(&CacheKey::new("short", "")), None);
    }
}
