//! Whether a secret that somebody brings can be a key. The digest of a key is kept without salt, which is safe because nobody
//! can try 2^128 keys, let alone 2^256; it is not safe for a word that stands in a list, or for twelve characters.
//! Entropy can't be measured on one text: this finds what is short, what repeats, and what people choose. Not here: `weak_ok`.

use super::new_key::looks_like_key;

/// Shorter secrets can be guessed from their digest.
const LENGTH_MIN: usize = 24;

/// Bits that the text has at least, by how often each character occurs in it; 32 random hex digits have about 115.
const BITS_MIN: f64 = 90.0;

/// A longer run of letters in one case is a word, rarely chance: one in 1,000 random keys of 32 hex digits has such a run.
const WORD_MAX: usize = 9;

/// Shorter runs are chance.
const WORD_MIN: usize = 5;

/// `abcd`, `4321`: a longer run up or down is no chance.
const RUN_MAX: usize = 4;

/// Why this secret is too weak for a key; none where nothing is found.
pub fn weakness(secret: &str) -> Option<String> {
    // Chance looks like words in 16 of 1,000; what has our form and checksum was made by chance.
    if looks_like_key(secret) {
        return None;
    }
    let bytes = secret.as_bytes();
    let found = if bytes.len() < LENGTH_MIN {
        format!("it has {} characters, and {LENGTH_MIN} are the least", bytes.len())
    } else if !bytes.iter().any(u8::is_ascii_digit) || !bytes.iter().any(u8::is_ascii_alphabetic) {
        "it has no digits, or no letters".to_owned()
    } else if has_words(bytes) {
        "there are words in it".to_owned()
    } else if longest(bytes, |one, next| one == next) > RUN_MAX
        || longest(bytes, |one, next| one.checked_add(1) == Some(next)) > RUN_MAX
        || longest(bytes, |one, next| next.checked_add(1) == Some(one)) > RUN_MAX
    {
        "it repeats or counts".to_owned()
    } else if bits(bytes) < BITS_MIN {
        format!("it has few different characters: about {:.0} bits, and {BITS_MIN} are the least", bits(bytes))
    } else {
        return None;
    };
    Some(found)
}

/// Why this text can't be sent as a key at all; none where it can.
pub fn unusable(secret: &str) -> Option<&'static str> {
    if secret.is_empty() {
        Some("there is no secret")
    } else if secret.len() > super::KEY_BYTES_MAX {
        Some("a key has at most 512 bytes")
    } else if !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
        Some("a key is of visible ASCII characters, without blanks")
    } else if secret.contains(',') {
        Some("a comma in a header separates two values, so no key has one")
    } else {
        None
    }
}

/// Whether there is one long word, or a third of the text is in runs that look like words.
fn has_words(bytes: &[u8]) -> bool {
    let case = |byte: &u8| (byte.is_ascii_lowercase(), byte.is_ascii_uppercase());
    let runs = bytes.chunk_by(|one, next| case(one) == case(next)).filter(|run| run[0].is_ascii_alphabetic());
    let words = runs.map(<[u8]>::len).filter(|length| *length >= WORD_MIN);
    let (longest, sum) = words.fold((0, 0), |(longest, sum), length| (longest.max(length), sum + length));
    longest > WORD_MAX || sum * 3 > bytes.len()
}

/// Characters of the longest run in which each goes with its next.
fn longest(bytes: &[u8], goes_with: impl Fn(u8, u8) -> bool) -> usize {
    let mut longest = 1;
    let mut run = 1;
    for pair in bytes.windows(2) {
        run = if goes_with(pair[0], pair[1]) { run + 1 } else { 1 };
        longest = longest.max(run);
    }
    longest
}

/// Shannon's entropy of the text's own characters.
fn bits(bytes: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    let length = bytes.len() as f64;
    counts.iter().filter(|count| **count > 0).map(|count| f64::from(*count) * (length / f64::from(*count)).log2()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_choose_is_weak() {
        for secret in [
            "",
            "hunter2",
            "correct-horse-battery-staple-9",
            "my-super-secret-api-key-2026",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa1",
            "abababababababababababababab1212",
            "0123456789abcdef0123456789abcdef",
            "11111111-2222-3333-4444-555555555555",
            "AcmeCorporationProductionKey2026",
        ] {
            assert!(weakness(secret).is_some(), "{secret}");
        }
    }

    #[test]
    fn what_machines_make_is_not() {
        for secret in [
            "tg_4fQ7sZkX1hV9mB3nC5pL8rT2wY6dG0jKaEuIoRxNqSvHJMx",
            "9f86d081884c7d659a2feaa0c55ad015",
            "550e8400-e29b-41d4-a716-446655440000",
            "c2VjcmV0LW5vdC1jaG9zZW4tMTIzNDU2Nzg5MA==",
            "sk_live_51HxXyZKqLmN8pRtVwJdBfGhA",
        ] {
            assert_eq!(weakness(secret), None, "{secret}");
        }
        for _ in 0..1_000 {
            let key = super::super::NewKey::generate().unwrap().key;
            assert_eq!(weakness(&key), None, "{key}");
        }
    }

    #[test]
    fn what_a_header_can_not_carry_is_no_key() {
        for secret in ["", "a b", "a,b", "ä", "a\n", &"k".repeat(513)] {
            assert!(unusable(secret).is_some(), "{secret}");
        }
        assert_eq!(unusable("tg_x.y-z=="), None);
    }
}
