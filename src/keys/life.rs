//! The life of a key in the store: made or imported, rotated, ended by a date, revoked. Each step is checked against what the
//! store holds and what the file says, and done whole or not at all. The same for the command line and the admin API.
//! A name is used once, and a key is shown once: what is kept of it is the digest.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::new_key::NewKey;
use super::strength::{unusable, weakness};
use super::table::digest_of;
use crate::config::{Config, Digest, Expiry, Key, Span, is_name};
use crate::store::keys::{Change, ConsumerChange, KeyStore, StoredKey, Unchanged};

/// Where the secret of a new key comes from.
#[derive(Clone)]
pub enum Secret {
    /// It is made now.
    Made,
    /// Somebody brings it; whether it may be short or chosen.
    Brought(String, bool),
    /// Somebody brings its digest. Nothing can be said about the secret, so this is as weak as a chosen one.
    Digest(Digest),
}

/// A key that is to be added.
#[derive(Clone)]
pub struct Wanted {
    /// Its name; not taken in the store or in the file.
    pub name: String,
    /// Whose it is; its own name when left out.
    pub consumer: Option<String>,
    /// The consumer's plan; what the consumer has when left out.
    pub plan: Option<String>,
    /// The consumer's labels; what the consumer has when left out.
    pub labels: Option<Vec<String>>,
    /// From when on it is refused.
    pub expires: Option<Timestamp>,
    /// The secret.
    pub secret: Secret,
}

/// A key that was added. Has no `Debug`: the key must not reach a log by accident.
#[derive(Serialize)]
pub struct Added {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub consumer: String,
    /// What the client sends; only this once, and none where it was brought.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What is kept.
    pub sha256: String,
    /// From when on it is refused.
    pub expires: Option<Timestamp>,
    /// The key that it takes the place of, and from when on that is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaces: Option<Replaced>,
}

/// A key whose place another one takes.
#[derive(Serialize)]
pub struct Replaced {
    /// Its name.
    pub name: String,
    /// From when on it is refused.
    pub expires: Timestamp,
}

/// The steps, on one store.
pub struct Life<'a> {
    /// The store.
    pub store: &'a mut KeyStore,
    /// The keys of the file.
    pub file: &'a BTreeMap<String, Key>,
    /// The present.
    pub now: Timestamp,
}

impl<'a> Life<'a> {
    /// The steps on this store, beside the keys of this configuration.
    pub fn new(store: &'a mut KeyStore, config: &'a Config) -> Self {
        Self { store, file: &config.keys, now: Timestamp::now() }
    }

    /// Adds a key.
    ///
    /// # Errors
    /// Names that are none or taken, a secret that is known or too weak, a consumer that has another plan or other labels.
    pub fn add(&mut self, wanted: Wanted) -> Result<Added, Unchanged> {
        let (key, sha256, weak) = made(&wanted.secret).map_err(Unchanged::No)?;
        let (file, now) = (self.file, self.now);
        self.store.change(|stored| {
            let consumer = wanted.consumer.unwrap_or_else(|| wanted.name.clone());
            is_free(&wanted.name, stored, file)?;
            if !is_name(&consumer) {
                return Err(format!("`{consumer}` is no name of a consumer"));
            }
            if let Some(same) = stored.iter().find(|one| one.sha256 == sha256) {
                return Err(format!("this key is there already, as `{}`", same.name));
            }
            if let Some((name, _)) = file.iter().find(|(_, one)| one.sha256 == sha256) {
                return Err(format!("this key is in the file already, as `{name}`"));
            }
            let (plan, labels) = of_consumer(&consumer, wanted.plan, wanted.labels, stored)?;
            let name = wanted.name;
            let new = StoredKey {
                name,
                consumer,
                sha256,
                plan,
                labels,
                created: now,
                expires: wanted.expires,
                revoked: None,
                weak,
            };
            let added = Added::of(&new, key, None);
            Ok((vec![Change::Add(new)], added))
        })
    }

    /// Adds another key of the same consumer, and ends the old one after `overlap`: until then both are valid.
    ///
    /// # Errors
    /// There is no such key in the store, it is not valid any more, or the new name is taken.
    pub fn rotate(&mut self, old: &str, new: Option<String>, overlap: Span) -> Result<Added, Unchanged> {
        let (key, sha256, _) = made(&Secret::Made).map_err(Unchanged::No)?;
        let (file, now) = (self.file, self.now);
        self.store.change(|stored| {
            let before = one(old, stored, file)?;
            if before.revoked.is_some() || before.expires.is_some_and(|expires| expires <= now) {
                return Err(format!("`{old}` is not valid any more: make a new key with `keys new`"));
            }
            let name = new.unwrap_or_else(|| next_name(old, stored, file));
            is_free(&name, stored, file)?;
            let end = Expiry::after(overlap, now).0;
            let end = before.expires.map_or(end, |expires| expires.min(end));
            let new = StoredKey { name, sha256, created: now, expires: None, weak: false, ..before.clone() };
            let added = Added::of(&new, key, Some(Replaced { name: old.to_owned(), expires: end }));
            Ok((vec![Change::Add(new), Change::Expire(old.to_owned(), Some(end))], added))
        })
    }

    /// Sets from when on a key is refused; never with none.
    ///
    /// # Errors
    /// There is no such key in the store, or it was revoked.
    pub fn expire(&mut self, name: &str, expires: Option<Timestamp>) -> Result<(), Unchanged> {
        let file = self.file;
        self.store.change(|stored| {
            if one(name, stored, file)?.revoked.is_some() {
                return Err(format!("`{name}` was revoked, for ever: make a new key with `keys new`"));
            }
            Ok((vec![Change::Expire(name.to_owned(), expires)], ()))
        })
    }

    /// Refuses a key from now on, for ever. What is revoked already stays as it is.
    ///
    /// # Errors
    /// There is no such key in the store.
    pub fn revoke(&mut self, name: &str) -> Result<(), Unchanged> {
        let (file, now) = (self.file, self.now);
        self.store.change(|stored| {
            one(name, stored, file)?;
            Ok((vec![Change::Revoke(name.to_owned(), now)], ()))
        })
    }

    /// Changes what a consumer is.
    ///
    /// # Errors
    /// The store has no key of this consumer, or a name is none.
    pub fn consumer(&mut self, consumer: &str, change: ConsumerChange) -> Result<(), Unchanged> {
        self.store.change(|stored| {
            if !stored.iter().any(|key| key.consumer == consumer) {
                return Err(format!("the store has no key of the consumer `{consumer}`"));
            }
            let names = change.plan.iter().flatten().chain(change.labels.iter().flatten());
            if let Some(bad) = names.into_iter().find(|name| !is_name(name)) {
                return Err(format!("`{bad}` is no name"));
            }
            Ok((vec![Change::Consumer(consumer.to_owned(), change)], ()))
        })
    }
}

impl Added {
    fn of(new: &StoredKey, key: Option<String>, replaces: Option<Replaced>) -> Self {
        let (name, consumer) = (new.name.clone(), new.consumer.clone());
        Self { name, consumer, key, sha256: new.sha256.to_string(), expires: new.expires, replaces }
    }
}

/// The key where it is new, its digest, and whether it is weak.
fn made(secret: &Secret) -> Result<(Option<String>, Digest, bool), String> {
    match secret {
        Secret::Made => {
            let new =
                NewKey::generate().map_err(|error| format!("no random numbers from the operating system: {error}"))?;
            Ok((Some(new.key), new.digest, false))
        }
        Secret::Digest(digest) => Ok((None, *digest, true)),
        Secret::Brought(secret, weak_ok) => {
            let weak = may_be_key(secret, *weak_ok)?;
            Ok((None, digest_of(secret.as_bytes()), weak))
        }
    }
}

/// Whether a secret that somebody brings is weak.
///
/// # Errors
/// It can't be sent as a key, or it is weak and may not be.
pub fn may_be_key(secret: &str, weak_ok: bool) -> Result<bool, String> {
    if let Some(why) = unusable(secret) {
        return Err(format!("this can't be a key: {why}"));
    }
    match weakness(secret) {
        Some(why) if !weak_ok => Err(format!(
            "this secret is too weak for a key: {why}. Whoever has its digest could guess it: make a key with `keys new`, or say that it may be weak (--weak-ok, weak_ok)"
        )),
        weakness => Ok(weakness.is_some()),
    }
}

fn is_free(name: &str, stored: &[StoredKey], file: &BTreeMap<String, Key>) -> Result<(), String> {
    if !is_name(name) {
        return Err(format!("`{name}` is no name: 1 to 64 letters, digits, `.`, `_` and `-`"));
    }
    if file.contains_key(name) {
        return Err(format!("`{name}` is a key of the configuration file: choose another name"));
    }
    match stored.iter().find(|key| key.name == name) {
        Some(key) if key.revoked.is_some() => {
            Err(format!("`{name}` was a key that is revoked, and a name is used once: choose another"))
        }
        Some(_) => Err(format!("`{name}` is there already: choose another name, or rotate it")),
        None => Ok(()),
    }
}

fn one<'a>(name: &str, stored: &'a [StoredKey], file: &BTreeMap<String, Key>) -> Result<&'a StoredKey, String> {
    stored.iter().find(|key| key.name == name).ok_or_else(|| {
        if file.contains_key(name) {
            format!("`{name}` is a key of the configuration file: change it there, and reload")
        } else {
            format!("the store has no key named `{name}`")
        }
    })
}

/// What a consumer is, where the store knows it; otherwise what is asked for.
fn of_consumer(
    consumer: &str,
    plan: Option<String>,
    labels: Option<Vec<String>>,
    stored: &[StoredKey],
) -> Result<(Option<String>, Vec<String>), String> {
    let names = plan.iter().chain(labels.iter().flatten());
    if let Some(bad) = names.into_iter().find(|name| !is_name(name)) {
        return Err(format!("`{bad}` is no name"));
    }
    let Some(known) = stored.iter().find(|key| key.consumer == consumer) else {
        return Ok((plan, labels.unwrap_or_default()));
    };
    let sorted = |labels: &[String]| {
        let mut labels = labels.to_vec();
        labels.sort();
        labels
    };
    let other_plan = plan.is_some() && plan != known.plan;
    if other_plan || labels.is_some_and(|labels| sorted(&labels) != sorted(&known.labels)) {
        return Err(format!(
            "the consumer `{consumer}` has another plan or other labels: they belong to the consumer, and `keys consumer {consumer}` changes them for all its keys"
        ));
    }
    Ok((known.plan.clone(), known.labels.clone()))
}

/// `acme`, `acme.2`, `acme.3`: the first that is free.
fn next_name(old: &str, stored: &[StoredKey], file: &BTreeMap<String, Key>) -> String {
    let (base, number) = match old.rsplit_once('.') {
        Some((base, number)) if !base.is_empty() => match number.parse::<u32>() {
            Ok(number) => (base, number),
            Err(_) => (old, 1),
        },
        _ => (old, 1),
    };
    let names = (number.saturating_add(1)..).map(|number| format!("{base}.{number}"));
    let mut free = names.filter(|name| !file.contains_key(name) && !stored.iter().any(|key| key.name == *name));
    free.next().unwrap_or_else(|| base.to_owned())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::config::StoreUrl;

    struct Fixture {
        store: KeyStore,
        file: BTreeMap<String, Key>,
        _folder: TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let folder = TempDir::new().unwrap();
            let store = KeyStore::open(&StoreUrl::Sqlite(folder.path().join("keys.db"))).unwrap().unwrap();
            let file = [("file".to_owned(), Key::new(digest_of(b"of-the-file")))].into();
            Self { store, file, _folder: folder }
        }

        fn life(&mut self) -> Life<'_> {
            Life { store: &mut self.store, file: &self.file, now: "2026-06-01T00:00:00Z".parse().unwrap() }
        }

        fn key(&mut self, name: &str) -> StoredKey {
            self.store.read().unwrap().keys.into_iter().find(|key| key.name == name).unwrap()
        }
    }

    fn wanted(name: &str) -> Wanted {
        Wanted { name: name.into(), consumer: None, plan: None, labels: None, expires: None, secret: Secret::Made }
    }

    fn no<T>(outcome: Result<T, Unchanged>) -> String {
        match outcome {
            Err(Unchanged::No(why)) => why,
            Err(Unchanged::Failed(failure)) => panic!("{failure:?}"),
            Ok(_) => panic!("it was done"),
        }
    }

    #[test]
    fn a_new_key_is_kept_by_its_digest_only_and_changes_the_stamp() {
        let mut fixture = Fixture::new();
        let before = fixture.store.stamp().unwrap();
        let added =
            fixture.life().add(Wanted { labels: Some(vec!["internal".into()]), ..wanted("acme") }).ok().unwrap();
        let key = fixture.key("acme");
        assert_eq!(key.sha256, digest_of(added.key.unwrap().as_bytes()));
        assert_eq!((key.consumer.as_str(), &*key.labels, key.weak), ("acme", &["internal".to_owned()][..], false));
        assert_ne!(fixture.store.stamp().unwrap(), before);
    }

    #[test]
    fn a_name_is_used_once() {
        let mut fixture = Fixture::new();
        assert!(fixture.life().add(wanted("acme")).is_ok());
        assert!(no(fixture.life().add(wanted("acme"))).contains("there already"));
        assert!(no(fixture.life().add(wanted("file"))).contains("configuration file"));
        assert!(no(fixture.life().add(wanted("a b"))).contains("no name"));
        fixture.life().revoke("acme").unwrap();
        assert!(no(fixture.life().add(wanted("acme"))).contains("used once"));
        assert!(no(fixture.life().revoke("file")).contains("change it there"));
        assert!(no(fixture.life().revoke("nobody")).contains("no key named"));
    }

    #[test]
    fn a_rotation_leaves_two_keys_of_one_consumer_until_its_end() {
        let mut fixture = Fixture::new();
        assert!(fixture.life().add(Wanted { consumer: Some("acme".into()), ..wanted("acme-2026") }).is_ok());
        let added = fixture.life().rotate("acme-2026", None, Span::seconds(86_400)).ok().unwrap();
        assert_eq!((added.name.as_str(), added.consumer.as_str()), ("acme-2026.2", "acme"));
        assert_eq!(fixture.key("acme-2026").expires.unwrap().to_string(), "2026-06-02T00:00:00Z");
        assert_eq!(fixture.key("acme-2026.2").expires, None);
        let added = fixture.life().rotate("acme-2026.2", None, Span::seconds(0)).ok().unwrap();
        assert_eq!(added.name, "acme-2026.3");
        assert!(no(fixture.life().rotate("acme-2026.2", None, Span::seconds(0))).contains("not valid any more"));
    }

    #[test]
    fn a_rotation_makes_no_key_valid_for_longer() {
        let mut fixture = Fixture::new();
        let soon = "2026-06-01T01:00:00Z".parse().unwrap();
        assert!(fixture.life().add(Wanted { expires: Some(soon), ..wanted("acme") }).is_ok());
        assert!(fixture.life().rotate("acme", Some("other".into()), Span::seconds(86_400)).is_ok());
        assert_eq!(fixture.key("acme").expires, Some(soon));
    }

    #[test]
    fn plan_and_labels_belong_to_the_consumer() {
        let mut fixture = Fixture::new();
        let gold = |name: &str, plan: Option<&str>| Wanted {
            consumer: Some("acme".into()),
            plan: plan.map(str::to_owned),
            ..wanted(name)
        };
        assert!(fixture.life().add(gold("one", Some("gold"))).is_ok());
        assert!(no(fixture.life().add(gold("two", Some("free")))).contains("keys consumer acme"));
        assert!(fixture.life().add(gold("two", None)).is_ok());
        assert_eq!(fixture.key("two").plan.as_deref(), Some("gold"));
        let change = ConsumerChange { plan: Some(Some("free".into())), labels: Some(vec!["a".into(), "b".into()]) };
        fixture.life().consumer("acme", change).unwrap();
        for name in ["one", "two"] {
            assert_eq!((fixture.key(name).plan.as_deref(), fixture.key(name).labels.len()), (Some("free"), 2));
        }
        fixture.life().consumer("acme", ConsumerChange { plan: Some(None), labels: None }).unwrap();
        assert_eq!((fixture.key("one").plan, fixture.key("one").labels.len()), (None, 2));
        assert!(no(fixture.life().consumer("nobody", ConsumerChange::default())).contains("no key of the consumer"));
    }

    #[test]
    fn weak_secrets_are_refused_unless_they_may_be_weak() {
        let mut fixture = Fixture::new();
        let brought = |name: &str, secret: &str, weak_ok| Wanted {
            secret: Secret::Brought(secret.into(), weak_ok),
            ..wanted(name)
        };
        assert!(no(fixture.life().add(brought("a", "hunter2", false))).contains("--weak-ok"));
        assert!(no(fixture.life().add(brought("a", "has a blank", true))).contains("can't be a key"));
        assert!(fixture.life().add(brought("a", "hunter2", true)).ok().unwrap().key.is_none());
        assert!(fixture.key("a").weak);
        assert!(no(fixture.life().add(brought("b", "hunter2", true))).contains("as `a`"));
        assert!(no(fixture.life().add(brought("b", "of-the-file", true))).contains("as `file`"));
        assert!(fixture.life().add(brought("c", "9f86d081884c7d659a2feaa0c55ad015", false)).is_ok());
        assert!(!fixture.key("c").weak);
    }

    #[test]
    fn an_end_can_be_set_and_taken_back_until_the_key_is_revoked() {
        let mut fixture = Fixture::new();
        assert!(fixture.life().add(wanted("acme")).is_ok());
        fixture.life().expire("acme", Some("2027-01-01T00:00:00Z".parse().unwrap())).unwrap();
        assert_eq!(fixture.key("acme").expires.unwrap().to_string(), "2027-01-01T00:00:00Z");
        fixture.life().expire("acme", None).unwrap();
        assert_eq!(fixture.key("acme").expires, None);
        fixture.life().revoke("acme").unwrap();
        let revoked = fixture.key("acme").revoked;
        assert!(no(fixture.life().expire("acme", None)).contains("for ever"));
        fixture.life().now = "2028-01-01T00:00:00Z".parse().unwrap();
        fixture.life().revoke("acme").unwrap();
        assert_eq!(fixture.key("acme").revoked, revoked);
    }
}
