//! The table of the keys in the file and in the key store. Of two keys with one name or one digest the file's holds, and so does
//! what the file says of a consumer; whatever of the store is not in force is said aloud.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::table::{ConsumerFacts, KeyEntry, KeyTable};
use crate::config::{Digest, Key};
use crate::store::keys::StoredKey;

impl KeyTable {
    /// The table of the keys in a file. Of two with one digest (a problem that `check` reports) the first by name counts.
    pub fn compile(file: &BTreeMap<String, Key>) -> Self {
        Self::merged(file, &[], |_| true).0
    }

    /// The table of both, and what of the store is not in force, a line each. A key with a plan that is not there would
    /// be without limits, so it is none.
    pub fn merged(
        file: &BTreeMap<String, Key>,
        stored: &[StoredKey],
        is_plan: impl Fn(&str) -> bool,
    ) -> (Self, Vec<String>) {
        let digests: HashSet<Digest> = file.values().map(|key| key.sha256).collect();
        let of_file: HashMap<&str, &Key> =
            file.iter().map(|(name, key)| (key.consumer.as_deref().unwrap_or(name), key)).collect();
        let mut overruled = Vec::new();
        let mut told = HashSet::new();
        let mut entries: Vec<(Digest, KeyEntry)> = Vec::with_capacity(file.len() + stored.len());
        for (name, key) in file {
            let consumer = key.consumer.as_deref().unwrap_or(name);
            let facts = ConsumerFacts::of(key.plan.as_deref(), &key.labels);
            entries.push((key.sha256, KeyEntry::new(name, consumer, facts, key.expires.map(|expires| expires.0))));
        }
        for key in stored.iter().filter(|key| key.revoked.is_none()) {
            if file.contains_key(&key.name) {
                overruled.push(format!("the key `{}` is in the file and in the store: the file's holds", key.name));
                continue;
            }
            if digests.contains(&key.sha256) {
                let name = &key.name;
                overruled
                    .push(format!("the key `{name}` of the store is in the file under another name: the file's holds"));
                continue;
            }
            let mut facts = ConsumerFacts::of(key.plan.as_deref(), &key.labels);
            if let Some(said) = of_file.get(key.consumer.as_str()) {
                let said = ConsumerFacts::of(said.plan.as_deref(), &said.labels);
                if said != facts && told.insert(&key.consumer) {
                    let consumer = &key.consumer;
                    overruled.push(format!(
                        "the consumer `{consumer}` has another plan or other labels in the file than in the store: the file's hold"
                    ));
                }
                facts = said;
            }
            match facts.plan.as_ref().filter(|plan| !is_plan(&plan.name)) {
                Some(plan) => overruled.push(format!(
                    "the key `{}` of the store has the plan `{}`, which the configuration has not: it is refused",
                    key.name, plan.name
                )),
                None => entries.push((key.sha256, KeyEntry::new(&key.name, &key.consumer, facts, key.expires))),
            }
        }
        (Self::of(entries.into_iter()), overruled)
    }
}
