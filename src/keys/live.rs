//! The keys in force: those of the file, and those of the key store as they were read last, in one table that is swapped whole.
//! What the store held lives as long as the process, so neither a reload nor a store that is away takes keys out of force.
//! Not here: how the store is asked (`poll.rs`).

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;

use super::table::{KeyEntry, KeyTable};
use crate::config::{Config, Key, KeyStoreUrl};
use crate::store::keys::StoredKeys;

/// The keys of one runtime.
#[derive(Debug)]
pub struct LiveKeys {
    file: BTreeMap<String, Key>,
    plans: HashSet<String>,
    has_store: bool,
    stored: Arc<Stored>,
    table: ArcSwap<KeyTable>,
    /// Tables are made one after the other, so that none overwrites a later one.
    making: Mutex<()>,
}

/// What the key store held when it was read last; one for the process.
pub type Stored = ArcSwapOption<StoredKeys>;

impl LiveKeys {
    /// The keys of a configuration, with what is known of the store already.
    pub fn compile(config: &Config, stored: Arc<Stored>) -> Self {
        let has_store = config.key_store != KeyStoreUrl::None;
        let keys = Self {
            file: config.keys.clone(),
            plans: config.plans.keys().cloned().collect(),
            has_store,
            stored,
            table: ArcSwap::from_pointee(KeyTable::compile(&BTreeMap::new())),
            making: Mutex::new(()),
        };
        keys.renew();
        keys
    }

    /// These keys and no others.
    pub fn of_table(table: KeyTable) -> Self {
        Self {
            file: BTreeMap::new(),
            plans: HashSet::new(),
            has_store: false,
            stored: Arc::default(),
            table: ArcSwap::from_pointee(table),
            making: Mutex::new(()),
        }
    }

    /// Whose key this is; none when it is not known.
    pub fn find(&self, key: &[u8]) -> Option<Arc<KeyEntry>> {
        self.table.load().find(key).map(Arc::clone)
    }

    /// Whether every key is known that there is: not as long as the store was never read.
    pub fn are_complete(&self) -> bool {
        !self.has_store || self.stored.load().is_some()
    }

    /// The table in force.
    pub fn table(&self) -> Arc<KeyTable> {
        self.table.load_full()
    }

    /// What is known of the store.
    pub fn stored(&self) -> Arc<Stored> {
        Arc::clone(&self.stored)
    }

    /// Makes the table anew from the file's keys and what is known of the store now; what the file has overruled, a line each.
    pub fn renew(&self) -> Vec<String> {
        let _one_at_a_time = self.making.lock();
        let stored = self.stored.load_full().filter(|_| self.has_store);
        let (table, overruled) = {
            let stored = stored.as_ref().map_or(&[][..], |stored| &stored.keys);
            KeyTable::merged(&self.file, stored, |plan| self.plans.contains(plan))
        };
        self.table.store(Arc::new(table));
        overruled
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::{digest_of, name_id};
    use super::*;
    use crate::store::keys::StoredKey;

    fn stored(name: &str, secret: &str, labels: &[&str]) -> StoredKey {
        StoredKey {
            name: name.into(),
            consumer: "acme".into(),
            sha256: digest_of(secret.as_bytes()),
            plan: None,
            labels: labels.iter().map(|label| (*label).to_owned()).collect(),
            created: Timestamp::UNIX_EPOCH,
            expires: None,
            revoked: None,
            weak: false,
        }
    }

    fn keys(file: &[(&str, &str)]) -> LiveKeys {
        let file = file.iter().map(|(name, secret)| ((*name).to_owned(), Key::new(digest_of(secret.as_bytes()))));
        LiveKeys { file: file.collect(), has_store: true, ..LiveKeys::of_table(KeyTable::compile(&BTreeMap::new())) }
    }

    fn put(keys: &LiveKeys, stored: Vec<StoredKey>) -> Vec<String> {
        keys.stored.store(Some(Arc::new(StoredKeys { stamp: String::new(), keys: stored })));
        keys.renew()
    }

    fn names(keys: &LiveKeys, secrets: &[&str]) -> Vec<String> {
        let name = |secret: &&str| keys.find(secret.as_bytes()).map_or("-".to_owned(), |entry| entry.name.to_string());
        secrets.iter().map(name).collect()
    }

    #[test]
    fn keys_of_both_are_known_and_revoked_ones_are_not() {
        let keys = keys(&[("file", "a")]);
        assert!(!keys.are_complete());
        let revoked = StoredKey { revoked: Some(Timestamp::UNIX_EPOCH), ..stored("gone", "c", &[]) };
        assert!(put(&keys, vec![stored("store", "b", &["internal"]), revoked]).is_empty());
        assert!(keys.are_complete());
        assert_eq!(names(&keys, &["a", "b", "c"]), ["file", "store", "-"]);
        assert_eq!(*keys.find(b"b").unwrap().labels, [name_id("internal")]);
        assert!(put(&keys, vec![]).is_empty());
        assert_eq!(names(&keys, &["a", "b"]), ["file", "-"]);
    }

    #[test]
    fn the_file_wins_by_name_and_by_digest_and_it_is_said() {
        let keys = keys(&[("one", "a"), ("two", "b")]);
        let said = put(&keys, vec![stored("one", "c", &[]), stored("other", "b", &[])]);
        assert_eq!(names(&keys, &["a", "b", "c"]), ["one", "two", "-"]);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].contains("`one` is in the file and in the store"), "{said:?}");
    }

    #[test]
    fn what_the_file_says_of_a_consumer_holds_for_its_keys_in_the_store() {
        let mut keys = keys(&[("acme", "a")]);
        keys.file.values_mut().for_each(|key| key.labels = vec!["gold".into()]);
        let said = put(&keys, vec![stored("x", "b", &["silver"]), stored("y", "c", &["silver"])]);
        assert_eq!(*keys.find(b"b").unwrap().labels, [name_id("gold")]);
        assert_eq!(said.len(), 1, "{said:?}");
    }

    #[test]
    fn a_key_with_a_plan_that_is_not_there_is_none() {
        let mut keys = keys(&[]);
        keys.plans.insert("gold".into());
        let with = |plan: &str, secret: &str| StoredKey { plan: Some(plan.into()), ..stored(plan, secret, &[]) };
        let said = put(&keys, vec![with("gold", "a"), with("lost", "b")]);
        assert_eq!(names(&keys, &["a", "b"]), ["gold", "-"]);
        assert!(said[0].contains("`lost`, which the configuration has not"), "{said:?}");
        assert_eq!(&*keys.find(b"a").unwrap().plan.as_ref().unwrap().name, "gold");
    }
}
