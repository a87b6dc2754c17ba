//! The table of keys: SHA-256 digest to key name and consumer. Immutable; a change of any key builds a new one.
//! A key is random and 256 bits long, so its digest needs no salt: there is nothing to guess it from.
//!
//! No time that a client can measure depends on the bytes of a secret. What is looked at is a function of the digest alone: the
//! text is hashed whole before anything else (only its length, which the client chose, decides before), the digest's first bytes
//! choose the row and are compared with its tag, and rows are compared whole, in constant time. Whoever could make digests agree in their first bytes with one in the
//! table would have to search for keys by SHA-256 of his own guesses, and would learn bytes of a digest, from which no key follows.

use std::sync::Arc;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use super::names::{NameId, name_id};
use crate::config::Digest;

/// Longer texts are no keys; they are refused before anything is hashed, so a long header costs nothing.
pub const KEY_BYTES_MAX: usize = 512;

/// A known key.
#[derive(Debug, PartialEq)]
pub struct KeyEntry {
    /// The key's name.
    pub name: Arc<str>,
    /// Whose it is.
    pub consumer: Arc<str>,
    /// The key's name as a number.
    pub name_id: NameId,
    /// The consumer as a number.
    pub consumer_id: NameId,
    /// The plan of its consumer.
    pub plan: Option<PlanOfKey>,
    /// The consumer's labels.
    pub labels: Arc<[NameId]>,
    /// From when on it is refused.
    pub expires: Option<Timestamp>,
}

/// What belongs to a consumer, whichever of its keys is used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConsumerFacts {
    /// The plan.
    pub plan: Option<PlanOfKey>,
    /// The labels.
    pub labels: Arc<[NameId]>,
}

/// The plan of a consumer.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanOfKey {
    /// Its name in `plans`.
    pub name: Arc<str>,
    /// The name as a number.
    pub id: NameId,
}

/// Every known key by its digest.
#[derive(Debug)]
pub struct KeyTable {
    /// A few bits of each digest, in the same places; [`FREE`] where there is none. So small that it stays in a cache that is near, however
    /// many keys there are: who asks with an unknown key waits for no memory, and who asks with a known one for its own row only.
    tags: Box<[u16]>,
    /// Open addressing: at most four rows of five are taken. No key has the digest of all zeros.
    digests: Box<[Row]>,
    /// In the same places.
    entries: Box<[Option<Arc<KeyEntry>>]>,
    count: usize,
}

/// A digest, two to a cache line: what a look-up costs is the memory that it has to wait for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(align(32))]
struct Row([u64; 4]);

/// The tag of a row that is not taken.
const FREE: u16 = 0;

impl KeyTable {
    /// The table of these keys. Of two with one digest the first counts.
    pub fn of(keys: impl ExactSizeIterator<Item = (Digest, KeyEntry)>) -> Self {
        let rows = (keys.len() * 5 / 4 + 1).next_power_of_two();
        let mut tags = vec![FREE; rows].into_boxed_slice();
        let mut digests = vec![Row::default(); rows].into_boxed_slice();
        let mut entries: Box<[Option<Arc<KeyEntry>>]> = (0..rows).map(|_| None).collect();
        let mut count = 0;
        for (digest, entry) in keys {
            let row = Row::of(&digest);
            let free =
                probe(row, rows).take_while(|at| tags[*at] == FREE || digests[*at] != row).find(|at| tags[*at] == FREE);
            if let Some(at) = free.filter(|_| row != Row::default()) {
                tags[at] = row.tag();
                digests[at] = row;
                entries[at] = Some(Arc::new(entry));
                count += 1;
            }
        }
        Self { tags, digests, entries, count }
    }

    /// Whose key this is; none when it is not known.
    pub fn find(&self, key: &[u8]) -> Option<&Arc<KeyEntry>> {
        if key.len() > KEY_BYTES_MAX {
            return None;
        }
        let wanted = Row::of(&digest_of(key));
        let tag = wanted.tag();
        let taken = probe(wanted, self.tags.len()).take_while(|at| self.tags[*at] != FREE);
        let mut alike = taken.filter(|at| self.tags[*at] == tag);
        let found = alike.find(|at| bool::from(self.digests[*at].0.ct_eq(&wanted.0)));
        found.and_then(|at| self.entries[at].as_ref())
    }

    /// Every key, in no order.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<KeyEntry>> {
        self.entries.iter().flatten()
    }

    /// The key of this name, searched for among all: for questions of operators.
    pub fn named(&self, name: &str) -> Option<&Arc<KeyEntry>> {
        self.entries().find(|entry| *entry.name == *name)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl KeyEntry {
    /// An entry under these names.
    pub fn new(name: &str, consumer: &str, facts: ConsumerFacts, expires: Option<Timestamp>) -> Self {
        let (name_id, consumer_id) = (name_id(name), name_id(consumer));
        let ConsumerFacts { plan, labels } = facts;
        Self { name: name.into(), consumer: consumer.into(), name_id, consumer_id, plan, labels, expires }
    }
}

impl ConsumerFacts {
    /// The facts by these names.
    pub fn of(plan: Option<&str>, labels: &[String]) -> Self {
        let plan = plan.map(|plan| PlanOfKey { name: plan.into(), id: name_id(plan) });
        let mut labels: Vec<NameId> = labels.iter().map(|label| name_id(label)).collect();
        labels.sort_unstable();
        Self { plan, labels: labels.into() }
    }
}

impl Row {
    fn of(digest: &Digest) -> Self {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(digest.0.chunks_exact(8)) {
            *word = bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        }
        Self(words)
    }

    /// Bits that do not choose the row; never [`FREE`].
    const fn tag(self) -> u16 {
        (self.0[1] as u16).saturating_add(1)
    }
}

/// The SHA-256 of a key.
pub fn digest_of(key: &[u8]) -> Digest {
    Digest(Sha256::digest(key).into())
}

/// The rows where a digest may stand, in the order of the search; `rows` is a power of two.
fn probe(row: Row, rows: usize) -> impl Iterator<Item = usize> + use<> {
    let start = row.0[0] as usize;
    (0..rows).map(move |step| start.wrapping_add(step) & (rows - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Key;

    fn configured(keys: &[(&str, &str, Option<&str>)]) -> KeyTable {
        let key = |secret: &str, consumer: Option<&str>| Key {
            consumer: consumer.map(str::to_owned),
            ..Key::new(digest_of(secret.as_bytes()))
        };
        KeyTable::compile(
            &keys.iter().map(|(name, secret, consumer)| ((*name).into(), key(secret, *consumer))).collect(),
        )
    }

    #[test]
    fn a_key_is_found_by_its_digest_only() {
        let table = configured(&[("a", "secret-a", None), ("b-2026", "secret-b", Some("b"))]);
        assert_eq!(table.len(), 2);
        assert_eq!(&*table.find(b"secret-a").unwrap().consumer, "a");
        let b = table.find(b"secret-b").unwrap();
        assert_eq!((&*b.name, &*b.consumer), ("b-2026", "b"));
        assert_eq!((b.name_id, b.consumer_id), (name_id("b-2026"), name_id("b")));
        for unknown in ["", "secret", "secret-A", "secret-a ", "a", "b-2026"] {
            assert!(table.find(unknown.as_bytes()).is_none(), "{unknown}");
        }
    }

    #[test]
    fn no_key_is_found_where_none_is_configured() {
        assert!(configured(&[]).is_empty());
        assert!(configured(&[]).find(b"anything").is_none());
    }

    #[test]
    fn a_long_text_is_no_key_even_when_configured() {
        let (longest, longer) = ("k".repeat(KEY_BYTES_MAX), "k".repeat(KEY_BYTES_MAX + 1));
        let table = configured(&[("longest", &longest, None), ("longer", &longer, None)]);
        assert!(table.find(longest.as_bytes()).is_some());
        assert!(table.find(longer.as_bytes()).is_none());
    }

    #[test]
    fn of_two_keys_with_one_digest_the_first_by_name_counts() {
        let table = configured(&[("b", "same", None), ("a", "same", None)]);
        assert_eq!((table.len(), &*table.find(b"same").unwrap().name), (1, "a"));
    }

    #[test]
    fn digests_with_equal_first_bytes_are_told_apart() {
        let key = |last: u8| {
            let mut digest = [7; 32];
            digest[31] = last;
            Key::new(Digest(digest))
        };
        let table = KeyTable::compile(&(0..50).map(|n| (n.to_string(), key(n))).collect());
        assert_eq!(table.len(), 50);
        assert!(table.find(b"anything").is_none());
    }

    #[test]
    fn ten_thousand_keys_are_all_found() {
        let secrets: Vec<String> = (0..10_000).map(|n| format!("secret-{n}")).collect();
        let keys = secrets.iter().map(|secret| {
            (secret.clone(), Key { consumer: Some("many".into()), ..Key::new(digest_of(secret.as_bytes())) })
        });
        let table = KeyTable::compile(&keys.collect());
        assert!(secrets.iter().all(|secret| &*table.find(secret.as_bytes()).unwrap().name == secret.as_str()));
        assert!((0..10_000).all(|n| table.find(format!("other-{n}").as_bytes()).is_none()));
    }

    #[test]
    fn a_digest_of_zeros_is_no_key() {
        let table = KeyTable::compile(&[("zeros".to_owned(), Key::new(Digest([0; 32])))].into());
        assert!(table.is_empty() && table.find(b"anything").is_none());
    }

    /// What a look-up reads depends on the digest alone, so a text that begins like a key, and one that does not, are looked up
    /// in the same time: the rows where they are looked for are as different.
    #[test]
    fn a_valid_prefix_leads_to_no_other_rows_than_any_text() {
        const ROWS: usize = 1 << 10;
        let key = super::super::NewKey::generate().unwrap().key;
        let right = probe(Row::of(&digest_of(key.as_bytes())), ROWS).next();
        let same_row = |text: String| probe(Row::of(&digest_of(text.as_bytes())), ROWS).next() == right;
        let prefixed = (0..20_000).filter(|n| same_row(format!("{}{n:06}", &key[..46]))).count();
        let random = (0..20_000).filter(|n| same_row(format!("{n:052}"))).count();
        // Both expect 20,000 / 1,024 = 19.5, so above 50 is less than one in a million.
        assert!(prefixed < 50 && random < 50, "{prefixed} {random}");
    }
}
