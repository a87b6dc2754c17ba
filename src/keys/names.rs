//! Names as small numbers: every key and consumer that was ever configured has one for the life of the process.
//! It stays the same over reloads, so what was counted under a name is found again, and the name can be told from its number.
//! Only names from the configuration may be interned: what clients send would grow this without bound.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use parking_lot::RwLock;

/// The number of an interned name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameId(u32);

#[derive(Default)]
struct Names {
    ids: HashMap<Arc<str>, NameId>,
    names: Vec<Arc<str>>,
}

static NAMES: LazyLock<RwLock<Names>> = LazyLock::new(RwLock::default);

impl NameId {
    /// The number, for packing into wider identities.
    pub const fn number(self) -> u32 {
        self.0
    }

    /// The name that has this number, if there is one.
    pub fn from_number(number: u32) -> Option<Self> {
        NAMES.read().names.get(number as usize).map(|_| Self(number))
    }
}

/// The number of a name from the configuration; the same name always has the same.
pub fn name_id(name: &str) -> NameId {
    if let Some(id) = NAMES.read().ids.get(name) {
        return *id;
    }
    let mut names = NAMES.write();
    if let Some(id) = names.ids.get(name) {
        return *id; // somebody was faster
    }
    // 2^32 names would need hundreds of gigabytes of configuration: the cast can't wrap.
    let id = NameId(names.names.len() as u32);
    let name: Arc<str> = Arc::from(name);
    names.names.push(Arc::clone(&name));
    names.ids.insert(name, id);
    id
}

/// The name behind a number.
pub fn name_of(id: NameId) -> Arc<str> {
    // Only `name_id` makes numbers and nothing is ever removed, so the name is there.
    NAMES.read().names.get(id.0 as usize).map_or_else(|| Arc::from(""), Arc::clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_number_and_a_number_its_name() {
        let (a, b) = (name_id("names-test-a"), name_id("names-test-b"));
        assert_ne!(a, b);
        assert_eq!(name_id("names-test-a"), a);
        assert_eq!((&*name_of(a), &*name_of(b)), ("names-test-a", "names-test-b"));
        assert_eq!(NameId::from_number(b.number()), Some(b));
        assert_eq!(NameId::from_number(u32::MAX), None);
    }

    #[test]
    fn threads_agree_on_numbers() {
        let threads: Vec<_> = (0..8)
            .map(|_| std::thread::spawn(|| (0..200).map(|n| name_id(&format!("names-race-{n}"))).collect::<Vec<_>>()))
            .collect();
        let ids: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(ids.windows(2).all(|pair| pair[0] == pair[1]));
    }
}
