//! Makes keys: `tg_`, 43 base62 characters (256 bits) from the operating system's random source, 6 of checksum.
//! The checksum lets scanners and people tell a key from a typo without asking anyone.
//! At admission it means nothing: there only the digest decides, so keys made elsewhere work too.

use std::io;

use super::table::digest_of;
use crate::config::Digest;

/// What every key that is made here begins with.
pub(super) const PREFIX: &str = "tg_";
const RANDOM_CHARACTERS: usize = 43; // 62^43 > 2^256
const CHECKSUM_CHARACTERS: usize = 6; // 62^6 > 2^32
/// Characters of a whole key.
pub(super) const KEY_LENGTH: usize = PREFIX.len() + RANDOM_CHARACTERS + CHECKSUM_CHARACTERS;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A key that was just made, the only time that it is known in full. Has no `Debug`: it must not reach a log by accident.
pub struct NewKey {
    /// What the client sends.
    pub key: String,
    /// What the gateway keeps.
    pub digest: Digest,
}

impl NewKey {
    /// Makes a key.
    ///
    /// # Errors
    /// The operating system has no random numbers to give.
    pub fn generate() -> io::Result<Self> {
        let mut key = String::with_capacity(KEY_LENGTH);
        key.push_str(PREFIX);
        let mut random = [0_u8; 64];
        while key.len() < PREFIX.len() + RANDOM_CHARACTERS {
            getrandom::fill(&mut random)?;
            // Bytes of 248 and more are drawn again: the remainder of all 256 would favour eight characters.
            let usable = random.iter().filter(|byte| **byte < 248);
            let missing = PREFIX.len() + RANDOM_CHARACTERS - key.len();
            key.extend(usable.take(missing).map(|byte| char::from(BASE62[usize::from(byte % 62)])));
        }
        let checksum = checksum(&key);
        key.push_str(&checksum);
        let digest = digest_of(key.as_bytes());
        Ok(Self { key, digest })
    }

    /// The digest as it is written in the configuration: 64 hex digits.
    pub fn sha256_hex(&self) -> String {
        self.digest.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Whether `text` has the form and the checksum of a key that `tollgate keys new` made.
pub fn looks_like_key(text: &str) -> bool {
    let length = KEY_LENGTH;
    if text.len() != length || !text.starts_with(PREFIX) {
        return false;
    }
    let is_base62 = text.bytes().skip(PREFIX.len()).all(|byte| byte.is_ascii_alphanumeric());
    is_base62 && text[length - CHECKSUM_CHARACTERS..] == checksum(&text[..length - CHECKSUM_CHARACTERS])
}

/// The CRC-32 of `text` in base62, most significant digit first.
fn checksum(text: &str) -> String {
    let mut rest = crc32(text.as_bytes()) as usize;
    let mut digits = [0_u8; CHECKSUM_CHARACTERS];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[rest % 62];
        rest /= 62;
    }
    digits.iter().copied().map(char::from).collect()
}

/// CRC-32 as in zip and PNG (reflected, polynomial 0xEDB88320).
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32_gives_the_check_value_of_its_definition() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn a_new_key_has_its_form_checksum_and_digest() {
        let new = NewKey::generate().unwrap();
        assert_eq!(new.key.len(), 52);
        assert!(looks_like_key(&new.key));
        assert_eq!(new.digest, digest_of(new.key.as_bytes()));
        assert_eq!(new.sha256_hex().len(), 64);
    }

    #[test]
    fn new_keys_differ() {
        assert_ne!(NewKey::generate().unwrap().key, NewKey::generate().unwrap().key);
    }

    #[test]
    fn every_character_is_equally_likely() {
        let mut counts = [0_u32; 128];
        for _ in 0..4_000 {
            let key = NewKey::generate().unwrap().key;
            key.bytes().skip(3).take(RANDOM_CHARACTERS).for_each(|byte| counts[usize::from(byte)] += 1);
        }
        let expected = f64::from(4_000 * RANDOM_CHARACTERS as u32) / 62.0;
        // Chi-squared with 61 degrees of freedom: above 130 once in 100 million runs; modulo bias would give thousands.
        let deviation: f64 =
            BASE62.iter().map(|c| (f64::from(counts[usize::from(*c)]) - expected).powi(2) / expected).sum();
        assert!(deviation < 130.0, "{deviation}");
    }

    #[test]
    fn typos_and_other_texts_do_not_look_like_keys() {
        let key = NewKey::generate().unwrap().key;
        for at in 3..key.len() {
            let mut typo = key.clone().into_bytes();
            typo[at] = if typo[at] == b'x' { b'y' } else { b'x' };
            assert!(!looks_like_key(std::str::from_utf8(&typo).unwrap()), "changed at {at}");
        }
        for text in ["", "tg_", &key[1..], &format!("{key}0"), &key.replace("tg_", "TG_"), &"ü".repeat(26), "tg_demo"]
        {
            assert!(!looks_like_key(text), "{text}");
        }
    }
}
