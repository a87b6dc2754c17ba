//! Where instances come from that do not stand in the configuration as addresses: names, SRV records, files, and instances that say so themselves.
//! Each source gives a list; the last good one holds until there is a better one. Nothing of it is on the data path.
//! Not here: what a change of the list means for requests (`upstream/service.rs`).

mod dns;
mod file;
mod registry;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

pub use self::registry::{News, Registration, Registry};

pub(super) use self::dns::{Answer, Query};
pub(super) use self::file::{EVERY as FILE_EVERY, Watched};
pub(super) use self::registry::Refused;

use self::dns::Resolver;
use super::address::Address;
use crate::config;
use crate::words::counted;

/// Instances that one source may name: as many addresses as the largest answer of DNS holds.
pub const INSTANCES_MAX: usize = 4_096;

/// After a failure a source is asked again within this at the latest.
const AGAIN_MAX: Duration = Duration::from_secs(30);

/// An instance as a source names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Listed {
    /// Where it is.
    pub address: Address,
    /// Its share of the requests, 1 to 100.
    pub weight: u16,
    /// Whether it gets requests only while no other can.
    pub is_backup: bool,
}

/// A list of instances, in the order of addresses.
pub(super) type Addresses = BTreeSet<Listed>;

/// Where a service finds instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A name of `instances`, by its place in the list.
    Named { index: usize, query: Query, weight: u16, is_backup: bool },
    /// `discover.dns`
    Dns(Query),
    /// `discover.srv`
    Srv(Query),
    /// `discover.file`
    File(PathBuf),
    /// `discover.registration`
    Registration,
}

/// What is known from a source.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// The last good list.
    pub listed: Addresses,
    /// When that was got; none before the first time.
    pub at: Option<SystemTime>,
    /// Why it was not got since; none where all is well.
    pub problem: Option<String>,
    /// Failures since.
    failures: u32,
    /// When the source is asked next.
    pub again: Instant,
}

/// A source as people see it.
#[derive(Clone, Debug)]
pub struct SourceStatus {
    /// Which one, such as `dns users.internal:8080`.
    pub source: String,
    /// Instances of its last good list.
    pub instances: usize,
    /// When that was got; none before the first time.
    pub at: Option<SystemTime>,
    /// Why it was not got since.
    pub problem: Option<String>,
}

/// What all services share to find instances: who answers for names, and who has registered.
pub struct Discovery {
    config: config::Discovery,
    resolver: Resolver,
    /// Instances that registered, and who is drained.
    pub registry: Arc<Registry>,
}

impl Discovery {
    /// The same one as before where nothing changed; otherwise with its registry. The first one reads the registry's file, and changes nothing.
    ///
    /// # Errors
    /// What is wrong with that file.
    pub fn compile(config: &config::Discovery, previous: Option<&Arc<Self>>) -> Result<Arc<Self>, String> {
        if let Some(previous) = previous.filter(|previous| previous.config == *config) {
            return Ok(Arc::clone(previous));
        }
        let registry = match previous {
            Some(previous) => Arc::clone(&previous.registry),
            None => Arc::new(Registry::open(config.state.as_deref(), Instant::now())?),
        };
        Ok(Arc::new(Self { config: config.clone(), resolver: Resolver::new(&config.resolver), registry }))
    }

    /// Asks for each of these, all at once, for as long as a start may wait.
    pub(super) fn ask_all(&self, queries: impl Iterator<Item = Query>) -> Answers {
        Answers(self.resolver.ask_all(queries))
    }

    pub(super) async fn ask(&self, query: &Query) -> Result<Answer, String> {
        self.resolver.ask(query).await
    }

    pub(super) fn ttl_min(&self) -> Duration {
        self.config.ttl_min.0
    }
}

/// Names that a start or a reload has asked for.
#[derive(Default)]
pub struct Answers(HashMap<Query, Result<Answer, String>>);

impl Answers {
    pub(super) fn of(&self, query: &Query) -> Result<Answer, String> {
        self.0.get(query).cloned().unwrap_or_else(|| Err(format!("{query} was not asked for")))
    }
}

impl Source {
    /// Those of a service, in the order in which they win where two name the same address.
    pub fn of(service: &config::Service) -> Vec<Self> {
        let named =
            service.instances.iter().enumerate().filter(|(_, instance)| !Address::is_written_in(&instance.address));
        let mut sources: Vec<Self> = named
            .map(|(index, instance)| Self::Named {
                index,
                query: Query::of_name(&instance.address),
                weight: instance.weight,
                is_backup: instance.backup,
            })
            .collect();
        if let Some(discover) = &service.discover {
            sources.extend(discover.dns.as_ref().map(|name| Self::Dns(Query::of_name(name))));
            sources.extend(discover.srv.as_ref().map(|name| Self::Srv(Query::of_srv(name))));
            sources.extend(discover.file.clone().map(Self::File));
            sources.extend(discover.registration.then_some(Self::Registration));
        }
        sources
    }

    /// What is asked of DNS, where it is.
    pub fn query(&self) -> Option<&Query> {
        match self {
            Self::Named { query, .. } | Self::Dns(query) | Self::Srv(query) => Some(query),
            Self::File(_) | Self::Registration => None,
        }
    }

    /// What an answer of DNS says here. What it leaves open stays as it was.
    pub fn listed(&self, answer: &Answer, before: &Addresses) -> Addresses {
        let mut listed = answer.listed(before);
        if let Self::Named { weight, is_backup, .. } = *self {
            listed = listed.into_iter().map(|listed| Listed { weight, is_backup, ..listed }).collect();
        }
        listed
    }
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named { query, .. } | Self::Dns(query) => write!(out, "dns {query}"),
            Self::Srv(query) => write!(out, "srv {query}"),
            Self::File(path) => write!(out, "file {}", path.display()),
            Self::Registration => out.write_str("registration"),
        }
    }
}

impl Found {
    /// Nothing, and a reason to ask at once.
    pub fn nothing_yet() -> Self {
        Self { listed: Addresses::new(), at: None, problem: None, failures: 0, again: Instant::now() }
    }

    /// A good list, which holds for `lasts`; whether it differs.
    pub fn is_now(&mut self, listed: Addresses, lasts: Duration) -> bool {
        (self.at, self.failures, self.again) = (Some(SystemTime::now()), 0, Instant::now() + lasts);
        let differs = self.listed != listed;
        self.listed = listed;
        differs
    }

    /// Whether it was asked once, in vain.
    pub fn has_only_failed_once(&self) -> bool {
        self.at.is_none() && self.failures == 1
    }

    /// No list: the last one holds. Asked again soon, then less and less often.
    pub fn failed(&mut self, problem: String) {
        self.failures = self.failures.saturating_add(1);
        self.again = Instant::now() + Duration::from_secs(1 << self.failures.min(6) >> 1).min(AGAIN_MAX);
        self.problem = Some(problem);
    }
}

/// What holds of a source that gives no list now, but may have given one before.
pub fn what_holds(gave_one: bool, instances: usize) -> String {
    if gave_one {
        format!("its last list stays, {}", counted(instances as u64, "instance"))
    } else {
        "it gave no list yet, and has no instances".to_owned()
    }
}

/// The addresses that stand in the configuration.
///
/// # Errors
/// One that is there twice, with its place in the service.
pub(super) fn written(service: &config::Service) -> Result<Addresses, Vec<(String, String)>> {
    let mut addresses = HashMap::new();
    let mut problems = Vec::new();
    for (index, instance) in service.instances.iter().enumerate() {
        let place = format!("instances[{index}]");
        if !Address::is_written_in(&instance.address) {
            continue;
        }
        match Address::parse(&instance.address) {
            Ok(address) => {
                let listed = Listed { address, weight: instance.weight, is_backup: instance.backup };
                if let Some(twin) = addresses.insert(listed.address.clone(), listed) {
                    problems.push((place, twice(&instance.address, &twin.address)));
                }
            }
            Err(problem) => problems.push((place, problem)),
        }
    }
    if problems.is_empty() { Ok(addresses.into_values().collect()) } else { Err(problems) }
}

/// What is said of an address that two entries of `instances` have.
pub(super) fn twice(written: &str, address: &Address) -> String {
    format!("`{written}` is {address}, which this service already has")
}
