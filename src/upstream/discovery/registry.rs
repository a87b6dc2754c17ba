//! Who has registered, and who is drained: of all services, in the order of addresses, kept in a file over a restart.
//! A change is in the file before it is in force; a heartbeat changes nothing there, so after a start every registration has its whole TTL once more.
//! Changes wait for a disk: not for a thread that others wait for. Not here: what a change means for a service (`upstream/service.rs`), and who may ask for it (`admin`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{Address, Addresses, INSTANCES_MAX, Listed};
use crate::config;

/// Bytes of the file: more than 100,000 registrations.
const BYTES_MAX: u64 = 16 << 20;

/// An instance that registered itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// Its share of the requests, 1 to 100.
    pub weight: u16,
    /// Whether it gets requests only while no other can.
    pub backup: bool,
    /// So long it stays without another word of it.
    pub ttl: config::Span,
}

/// Registrations and drains of the whole process.
#[derive(Debug)]
pub struct Registry {
    /// None where nothing is kept, as in tests.
    path: Option<PathBuf>,
    /// Held for moments only: who looks does not wait for a disk.
    kept: Mutex<BTreeMap<String, Kept>>,
    /// Changes come one after the other.
    writing: Mutex<()>,
}

/// Of one service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Kept {
    registered: BTreeMap<Address, Registered>,
    drained: BTreeSet<Address>,
}

/// A registration, and when it ends unless it is renewed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct Registered {
    registration: Registration,
    #[serde(skip)]
    ends: Option<Instant>,
}

/// What a registration was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The instance was not there before.
    New,
    /// It was, with another weight, TTL or rank.
    Changed,
    /// It said the same as before.
    Renewed,
}

/// Why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// So many there are already.
    Full,
    /// The file can't be written; why.
    Unwritten(String),
}

impl Registry {
    /// What the file at `path` keeps; nothing where there is none yet. Changes nothing.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn open(path: Option<&Path>, now: Instant) -> Result<Self, String> {
        let mut kept = path.map_or(Ok(BTreeMap::new()), read)?;
        let registered = kept.values_mut().flat_map(|kept| kept.registered.values_mut());
        registered.for_each(|registered| registered.renew(now));
        Ok(Self { path: path.map(Path::to_owned), kept: Mutex::new(kept), writing: Mutex::new(()) })
    }

    /// Those of a service.
    pub(in crate::upstream) fn registered(&self, service: &str) -> Addresses {
        let kept = self.kept.lock();
        let registered = kept.get(service).into_iter().flat_map(|kept| &kept.registered);
        registered
            .map(|(address, Registered { registration, .. })| Listed {
                address: address.clone(),
                weight: registration.weight,
                is_backup: registration.backup,
            })
            .collect()
    }

    /// Whom nobody asks, of a service.
    pub(in crate::upstream) fn drained(&self, service: &str) -> BTreeSet<Address> {
        self.kept.lock().get(service).map(|kept| kept.drained.clone()).unwrap_or_default()
    }

    /// Registers an instance, or renews what it said.
    ///
    /// # Errors
    /// Why it is not registered; what it said before holds.
    pub(in crate::upstream) fn register(
        &self,
        service: &str,
        address: &Address,
        registration: Registration,
        now: Instant,
    ) -> Result<News, Refused> {
        let mut registered = Registered { registration, ends: None };
        registered.renew(now);
        let news = match self.kept.lock().get_mut(service).and_then(|kept| kept.registered.get_mut(address)) {
            None => News::New,
            Some(known) if known.registration != registration => News::Changed,
            Some(known) => {
                *known = registered;
                return Ok(News::Renewed);
            }
        };
        self.change(service, |kept| {
            kept.registered.insert(address.clone(), registered.clone());
            if kept.registered.len() > INSTANCES_MAX { Err(Refused::Full) } else { Ok(()) }
        })?;
        Ok(news)
    }

    /// Forgets a registration; whether there was one.
    ///
    /// # Errors
    /// Why it stays.
    pub(in crate::upstream) fn remove(&self, service: &str, address: &Address) -> Result<bool, Refused> {
        if !self.kept.lock().get(service).is_some_and(|kept| kept.registered.contains_key(address)) {
            return Ok(false);
        }
        self.change(service, |kept| {
            kept.registered.remove(address);
            Ok(())
        })?;
        Ok(true)
    }

    /// Forgets those that were not renewed in time, and says them with their TTL. Out of the file they are with the next change at the latest.
    pub(in crate::upstream) fn expire(&self, service: &str, now: Instant) -> Vec<(Address, Duration)> {
        let mut ended = Vec::new();
        if let Some(kept) = self.kept.lock().get_mut(service) {
            kept.registered.retain(|address, registered| {
                let is_over = registered.ends.is_some_and(|ends| ends <= now);
                if is_over {
                    ended.push((address.clone(), registered.registration.ttl.0));
                }
                !is_over
            });
        }
        if !ended.is_empty() {
            self.write_as_it_is();
        }
        ended
    }

    /// Keeps in mind whether an instance is drained.
    ///
    /// # Errors
    /// Why that does not change.
    pub(in crate::upstream) fn drain(&self, service: &str, address: &Address, is_drained: bool) -> Result<(), Refused> {
        if self.kept.lock().get(service).is_some_and(|kept| kept.drained.contains(address)) == is_drained {
            return Ok(());
        }
        self.change(service, |kept| {
            match is_drained {
                true => kept.drained.insert(address.clone()),
                false => kept.drained.remove(address),
            };
            if kept.drained.len() > 2 * INSTANCES_MAX { Err(Refused::Full) } else { Ok(()) }
        })
    }

    /// Those who have left are not drained when they come again.
    pub(in crate::upstream) fn forget_drains<'a>(&self, service: &str, left: impl Iterator<Item = &'a Address>) {
        for address in left {
            if let Err(Refused::Unwritten(why)) = self.drain(service, address, false) {
                log::warn!("{why}");
            }
        }
    }

    /// Forgets services that are not there any more, and registrations of those that have none.
    pub fn retain(&self, keeps: impl Fn(&str) -> Option<bool>) {
        let before = self.kept.lock().clone();
        self.kept.lock().retain(|service, kept| match keeps(service) {
            None => false,
            Some(registers) => {
                if !registers {
                    kept.registered.clear();
                }
                true
            }
        });
        if *self.kept.lock() != before {
            self.write_as_it_is();
        }
    }

    /// Changes what is kept of a service: in the file, and then here.
    fn change(&self, service: &str, change: impl Fn(&mut Kept) -> Result<(), Refused>) -> Result<(), Refused> {
        let _one_at_a_time = self.writing.lock();
        let mut next = self.kept.lock().clone();
        change(next.entry(service.to_owned()).or_default())?;
        self.write(&next).map_err(Refused::Unwritten)?;
        // Not `next` itself: registrations were renewed meanwhile.
        change(self.kept.lock().entry(service.to_owned()).or_default())
    }

    /// For what is in force whether it can be written or not.
    fn write_as_it_is(&self) {
        let _one_at_a_time = self.writing.lock();
        let now = self.kept.lock().clone();
        if let Err(why) = self.write(&now) {
            log::warn!("{why}");
        }
    }

    fn write(&self, all: &BTreeMap<String, Kept>) -> Result<(), String> {
        let Some(path) = &self.path else { return Ok(()) };
        let text = serde_json::to_string_pretty(all).map_err(|error| error.to_string())?;
        replace(path, text.as_bytes())
            .map_err(|error| format!("discovery.state: {} can't be written: {error}", path.display()))
    }
}

impl Registered {
    fn renew(&mut self, now: Instant) {
        self.ends = now.checked_add(self.registration.ttl.0);
    }
}

fn read(path: &Path) -> Result<BTreeMap<String, Kept>, String> {
    let file = path.display();
    let text = match File::open(path) {
        Ok(opened) => {
            let mut text = String::new();
            io::Read::read_to_string(&mut io::Read::take(opened, BYTES_MAX), &mut text)
                .map_err(|error| format!("{file} can't be read: {error}"))?;
            text
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(format!("{file} can't be read: {error}")),
    };
    serde_json::from_str(&text).map_err(|error| {
        format!("{file} is not what this program has written ({error}); without it, all instances register anew")
    })
}

/// The whole file or the one before, whatever happens meanwhile.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let mut file = File::create(&name)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&name, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> Address {
        Address::Inet(([127, 0, 0, 1], port).into())
    }

    fn port_of(address: &Address) -> u16 {
        address.to_string().rsplit_once(':').unwrap().1.parse().unwrap()
    }

    fn of_seconds(ttl: u64) -> Registration {
        Registration { weight: 2, backup: false, ttl: config::Span::seconds(ttl) }
    }

    fn ports(registry: &Registry) -> Vec<u16> {
        registry.registered("users").iter().map(|listed| port_of(&listed.address)).collect()
    }

    #[test]
    fn a_registration_that_is_not_renewed_ends() {
        let now = Instant::now();
        let registry = Registry::open(None, now).unwrap();
        let at = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(registry.register("users", &address(1), of_seconds(10), now), Ok(News::New));
        assert_eq!(registry.register("users", &address(2), of_seconds(10), now), Ok(News::New));
        assert_eq!(registry.register("users", &address(1), of_seconds(10), at(8)), Ok(News::Renewed));
        assert_eq!(registry.expire("users", at(9)), []);
        assert_eq!(registry.expire("users", at(10)), [(address(2), Duration::from_secs(10))]);
        assert_eq!(ports(&registry), [1]);
        assert_eq!(registry.expire("users", at(18)).len(), 1);
        assert_eq!((registry.remove("users", &address(1)), ports(&registry).len()), (Ok(false), 0));
    }

    #[test]
    fn a_restart_keeps_all_and_gives_each_its_whole_ttl() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data/instances.json");
        let now = Instant::now();
        let open = |now| Registry::open(Some(&path), now).unwrap();
        assert!(!path.exists());
        let first = open(now);
        assert!(!folder.path().join("data").exists(), "to read creates nothing");
        first.register("users", &address(1), of_seconds(10), now).unwrap();
        first.register("users", &address(2), of_seconds(10), now).unwrap();
        first.remove("users", &address(2)).unwrap();
        first.drain("users", &address(1), true).unwrap();
        let later = now + Duration::from_secs(60);
        let second = open(later);
        assert_eq!((ports(&second), second.drained("users").len()), (vec![1], 1));
        assert_eq!(second.expire("users", later + Duration::from_secs(9)), []);
        assert_eq!(second.expire("users", later + Duration::from_secs(10)).len(), 1);
        assert_eq!(ports(&open(later)).len(), 0, "its end is in the file, too");
        fs::write(&path, "{").unwrap();
        assert!(Registry::open(Some(&path), now).unwrap_err().contains("register anew"));
    }

    #[test]
    fn what_can_not_be_written_is_not_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("instances.json");
        let now = Instant::now();
        let registry = Registry::open(Some(&path), now).unwrap();
        registry.register("users", &address(1), of_seconds(10), now).unwrap();
        fs::create_dir(folder.path().join("instances.json.new")).unwrap();
        let refused = registry.register("users", &address(2), of_seconds(10), now);
        assert!(matches!(refused, Err(Refused::Unwritten(why)) if why.contains("discovery.state")));
        assert!(registry.remove("users", &address(1)).is_err());
        assert_eq!(ports(&registry), [1]);
        assert_eq!(
            registry.register("users", &address(1), of_seconds(10), now),
            Ok(News::Renewed),
            "a heartbeat needs no file"
        );
    }

    #[test]
    fn registrations_are_bounded() {
        let now = Instant::now();
        let registry = Registry::open(None, now).unwrap();
        for port in 1..=INSTANCES_MAX as u16 {
            registry.register("users", &address(port), of_seconds(10), now).unwrap();
        }
        assert_eq!(registry.register("users", &address(60_000), of_seconds(10), now), Err(Refused::Full));
        assert_eq!(registry.register("users", &address(1), of_seconds(10), now), Ok(News::Renewed));
        assert_eq!(ports(&registry).len(), INSTANCES_MAX);
    }

    #[test]
    fn a_service_that_is_gone_is_forgotten() {
        let now = Instant::now();
        let registry = Registry::open(None, now).unwrap();
        for service in ["users", "orders", "gone"] {
            registry.register(service, &address(1), of_seconds(10), now).unwrap();
            registry.drain(service, &address(1), true).unwrap();
        }
        registry.retain(|service| (service != "gone").then_some(service == "users"));
        let of = |service| (registry.registered(service).len(), registry.drained(service).len());
        assert_eq!([of("users"), of("orders"), of("gone")], [(1, 1), (0, 1), (0, 0)]);
    }
}
