//! The table of the keys in the file and in the key store. Of two keys with one name or one digest the file's holds, and so does
//! what the file says of a consumer; whatever of the store is overruled is said aloud.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::names::{NameId, name_id};
use super::table::{KeyEntry, KeyTable};
use crate::config::{Digest, Key};
use crate::store::keys::StoredKey;

impl KeyTable {
    /// The table of the keys in a file. Of two with one digest (a problem that `check` reports) the first by name counts.
    pub fn compile(file: &BTreeMap<String, Key>) -> Self {
        Self::merged(file, &[]).0
    }

    /// The table of both, and what of the store's is not in force, a line each.
    pub fn merged(file: &BTreeMap<String, Key>, stored: &[StoredKey]) -> (Self, Vec<String>) {
        let digests: HashSet<Digest> = file.values().map(|key| key.sha256).collect();
        let mut overruled = Vec::new();
        let mut in_force: Vec<&StoredKey> = Vec::with_capacity(stored.len());
        for key in stored.iter().filter(|key| key.revoked.is_none()) {
            if file.contains_key(&key.name) {
                overruled.push(format!("the key `{}` is in the file and in the store: the file's holds", key.name));
            } else if digests.contains(&key.sha256) {
                overruled.push(format!(
                    "the key `{}` of the store is in the file under another name: the file's holds",
                    key.name
                ));
            } else {
                in_force.push(key);
            }
        }
        let consumers = consumers(file, &in_force, &mut overruled);
        let none: Arc<[NameId]> = Arc::default();
        let labels = |consumer: &str| Arc::clone(consumers.get(consumer).unwrap_or(&none));
        let of_file = file.iter().map(|(name, key)| {
            let consumer = key.consumer.as_deref().unwrap_or(name);
            (key.sha256, KeyEntry::new(name, consumer, labels(consumer), key.expires.map(|expires| expires.0)))
        });
        let of_store = in_force
            .iter()
            .map(|key| (key.sha256, KeyEntry::new(&key.name, &key.consumer, labels(&key.consumer), key.expires)));
        let all: Vec<_> = of_file.chain(of_store).collect();
        (Self::of(all.into_iter()), overruled)
    }
}

/// The labels of every consumer that has some. What the file says of one holds for its keys in the store, too.
fn consumers<'a>(
    file: &'a BTreeMap<String, Key>,
    stored: &[&'a StoredKey],
    overruled: &mut Vec<String>,
) -> HashMap<&'a str, Arc<[NameId]>> {
    let ids = |labels: &[String]| labels.iter().map(|label| name_id(label)).collect::<Arc<[NameId]>>();
    let mut consumers = HashMap::new();
    for (name, key) in file {
        if let Some(labels) = &key.labels {
            consumers.insert(key.consumer.as_deref().unwrap_or(name), ids(labels));
        }
    }
    let said_by_file: HashSet<&str> = consumers.keys().copied().collect();
    let mut told = HashSet::new();
    for key in stored {
        let labels = ids(&key.labels);
        if !said_by_file.contains(key.consumer.as_str()) {
            consumers.entry(&key.consumer).or_insert(labels);
        } else if consumers[key.consumer.as_str()] != labels && told.insert(&key.consumer) {
            overruled.push(format!(
                "the consumer `{}` has other labels in the file than in the store: the file's hold",
                key.consumer
            ));
        }
    }
    consumers
}
