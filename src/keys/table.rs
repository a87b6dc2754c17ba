//! The table of keys: SHA-256 digest to key name and consumer. Immutable; a reload builds a new one.
//! A key is random and 256 bits long, so its digest needs no salt: there is nothing to guess it from.
//! Rows are found by the digest's first bytes, which tell nothing about a key, and compared whole in constant time.

use std::collections::BTreeMap;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use super::names::{NameId, name_id};
use crate::config::{Digest, Key};

/// Longer texts are no keys; they are refused before anything is hashed, so a long header costs nothing.
pub const KEY_BYTES_MAX: usize = 512;

/// A configured key.
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
}

/// The plan of a consumer.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanOfKey {
    /// Its name in `plans`.
    pub name: Arc<str>,
    /// The name as a number.
    pub id: NameId,
}

/// Every configured key by its digest.
#[derive(Debug)]
pub struct KeyTable {
    /// Open addressing: at most half of the rows are taken, so a search ends after one or two.
    rows: Box<[Option<Row>]>,
    count: usize,
}

#[derive(Debug)]
struct Row {
    digest: [u8; 32],
    entry: Arc<KeyEntry>,
}

impl KeyTable {
    /// Builds the table. Of two keys with one digest (a problem that `check` reports) the first by name counts.
    pub fn compile(keys: &BTreeMap<String, Key>) -> Self {
        let mut rows: Box<[Option<Row>]> = (0..(keys.len() * 2).next_power_of_two().max(2)).map(|_| None).collect();
        let mut count = 0;
        for (name, key) in keys {
            let digest = key.sha256.0;
            let free = probe(&digest, rows.len())
                .take_while(|at| rows[*at].as_ref().is_none_or(|row| row.digest != digest))
                .find(|at| rows[*at].is_none());
            if let Some(at) = free {
                rows[at] = Some(Row { digest, entry: Arc::new(KeyEntry::new(name, key)) });
                count += 1;
            }
        }
        Self { rows, count }
    }

    /// Whose key this is; none when it is not configured.
    pub fn find(&self, key: &[u8]) -> Option<&Arc<KeyEntry>> {
        if key.len() > KEY_BYTES_MAX {
            return None;
        }
        let digest = digest_of(key).0;
        for at in probe(&digest, self.rows.len()) {
            let row = self.rows[at].as_ref()?;
            if bool::from(row.digest.ct_eq(&digest)) {
                return Some(&row.entry);
            }
        }
        None
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
    fn new(name: &str, key: &Key) -> Self {
        let consumer = key.consumer.as_deref().unwrap_or(name);
        let plan = key.plan.as_deref().map(|plan| PlanOfKey { name: plan.into(), id: name_id(plan) });
        Self {
            name: name.into(),
            consumer: consumer.into(),
            name_id: name_id(name),
            consumer_id: name_id(consumer),
            plan,
        }
    }
}

/// The SHA-256 of a key.
pub fn digest_of(key: &[u8]) -> Digest {
    Digest(Sha256::digest(key).into())
}

/// The rows where a digest may stand, in the order of the search; `rows` is a power of two.
fn probe(digest: &[u8; 32], rows: usize) -> impl Iterator<Item = usize> + use<> {
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    let start = u64::from_le_bytes(first) as usize;
    (0..rows).map(move |step| start.wrapping_add(step) & (rows - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(keys: &[(&str, &str, Option<&str>)]) -> KeyTable {
        let key = |secret: &str, consumer: Option<&str>| Key {
            sha256: digest_of(secret.as_bytes()),
            consumer: consumer.map(str::to_owned),
            plan: None,
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
            Key { sha256: Digest(digest), consumer: None, plan: None }
        };
        let table = KeyTable::compile(&(0..50).map(|n| (n.to_string(), key(n))).collect());
        assert_eq!(table.len(), 50);
        assert!(table.find(b"anything").is_none());
    }

    #[test]
    fn ten_thousand_keys_are_all_found() {
        let secrets: Vec<String> = (0..10_000).map(|n| format!("secret-{n}")).collect();
        let keys = secrets.iter().map(|secret| {
            (secret.clone(), Key { sha256: digest_of(secret.as_bytes()), consumer: Some("many".into()), plan: None })
        });
        let table = KeyTable::compile(&keys.collect());
        assert!(secrets.iter().all(|secret| &*table.find(secret.as_bytes()).unwrap().name == secret.as_str()));
        assert!((0..10_000).all(|n| table.find(format!("other-{n}").as_bytes()).is_none()));
    }
}
