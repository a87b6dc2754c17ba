//! A service: the pool that is in force, and how another one takes its place when instances come and go.
//! The data path takes the pool of the moment for each try. What an instance knows goes on for as long as it is listed, and the requests of one that
//! has left finish. Not here: where lists come from (`discovery`), and who is chosen (`pool.rs`).

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::address::Address;
use super::discovery::{
    Addresses, Answers, Discovery, FILE_EVERY, Found, Listed, Query, Refused, Registration, Source, SourceStatus,
    Watched, twice, written,
};
use super::instance::Instance;
use super::pool::{Before, Pool};
use super::trust::Trust;
use crate::config::{self, Balance, HashBy};

/// How often it is looked for registrations that have ended.
const EXPIRY_EVERY: Duration = Duration::from_millis(250);

/// Names that are asked for at the same time are spread over this.
const SPREAD: Duration = Duration::from_millis(200);

/// Why an instance is drained.
const BY_THE_OPERATOR: &str = "it was drained through the admin API";
const NOT_LISTED: &str = "it is not listed any more";

/// A service, for as long as its configuration is the same.
pub struct Service {
    /// Its name.
    pub name: Arc<str>,
    config: Arc<config::Service>,
    discovery: Arc<Discovery>,
    /// Instances that are addresses in the configuration.
    written: Addresses,
    sources: Vec<Source>,
    /// What each source says.
    found: Mutex<Vec<Found>>,
    pool: ArcSwap<Pool>,
    /// Changes of the pool come one after the other.
    changing: Mutex<()>,
    /// Instances that are not listed any more, as long as they have requests.
    leaving: Mutex<Vec<Arc<Instance>>>,
    /// Where the sources are watched; none before it serves.
    background: OnceLock<Handle>,
    tasks: Mutex<Vec<AbortHandle>>,
    /// Names are to be asked for now.
    ask_now: Notify,
}

/// Why instances did not change as somebody wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unchanged {
    /// It has no such instance.
    NoInstance,
    /// That instance did not register.
    NotRegistered,
    /// Its instances don't register.
    NoRegistration,
    /// There are so many already.
    Full,
    /// The change can't be kept; why.
    Unkept(String),
}

impl From<Refused> for Unchanged {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Full => Self::Full,
            Refused::Unwritten(why) => Self::Unkept(why),
        }
    }
}

/// What was there before a service is compiled.
#[derive(Clone, Copy)]
pub enum Predecessor<'a> {
    /// The process starts.
    None,
    /// A reload, and the service of the same name if there is one.
    Reload(Option<&'a Arc<Service>>),
}

impl<'a> Predecessor<'a> {
    /// The service of before.
    pub const fn service(self) -> Option<&'a Arc<Service>> {
        match self {
            Self::None => None,
            Self::Reload(service) => service,
        }
    }
}

impl Service {
    /// Whether a compiled service is as good as a new one.
    fn is_same(&self, config: &config::Service, discovery: &Arc<Discovery>, trust: &Trust) -> bool {
        *self.config == *config && Arc::ptr_eq(&self.discovery, discovery) && self.pool.load().trust.mark == trust.mark
    }

    /// Asks for all names of these services that were not asked for before, at once, as [`Self::compile`] needs them. Not for the data path.
    pub fn ask_first<'a>(
        discovery: &Discovery,
        services: impl Iterator<Item = (&'a config::Service, Predecessor<'a>)>,
    ) -> Answers {
        let new = services.flat_map(|(config, before)| {
            let before = before.service();
            let is_new = move |source: &Source| before.is_none_or(|before| !before.sources.contains(source));
            Source::of(config).into_iter().filter(is_new).filter_map(|source| source.query().cloned())
        });
        discovery.ask_all(new)
    }

    /// Compiles a service. The same one as before where nothing about it changed; otherwise the instances that are still there know what they knew,
    /// and sources that are still there have what they had. `answers` are those of [`Self::ask_first`].
    ///
    /// # Errors
    /// What is wrong, with the part of the service it is about.
    pub fn compile(
        name: &str,
        config: &config::Service,
        discovery: &Arc<Discovery>,
        answers: &Answers,
        before: Predecessor<'_>,
    ) -> Result<Arc<Self>, Vec<(String, String)>> {
        let trust = Trust::load(config.tls.as_ref()).map_err(|problem| vec![problem])?;
        if let Some(before) = before.service().filter(|before| before.is_same(config, discovery, &trust)) {
            return Ok(Arc::clone(before));
        }
        let (config, sources, written) = (Arc::new(config.clone()), Source::of(config), written(config)?);
        let found = first_found(&config, &sources, answers, &written, before.service())?;
        let name: Arc<str> = before.service().map_or_else(|| name.into(), |before| Arc::clone(&before.name));
        let registered = discovery.registry.registered(&name);
        let pool = before.service().map(|before| before.pool.load_full());
        let leaving = before.service().map(|before| before.leaving.lock().clone()).unwrap_or_default();
        let addresses = union(&written, &sources, &found, &registered);
        let before = match before {
            Predecessor::None => Before::Start,
            Predecessor::Reload(_) => Before::Reload(pool.as_ref()),
        };
        let pool = Pool::with(Arc::clone(&name), Arc::clone(&config), addresses, trust, before, &leaving);
        let pool = pool.map_err(|problem| vec![problem])?;
        Ok(Arc::new(Self {
            name,
            config,
            discovery: Arc::clone(discovery),
            written,
            sources,
            found: Mutex::new(found),
            pool: ArcSwap::from_pointee(pool),
            changing: Mutex::new(()),
            leaving: Mutex::new(leaving),
            background: OnceLock::new(),
            tasks: Mutex::new(Vec::new()),
            ask_now: Notify::new(),
        }))
    }

    /// The pool in force, for a moment.
    pub fn pool(&self) -> Guard<Arc<Pool>> {
        self.pool.load()
    }

    /// The service as it is configured.
    pub fn config(&self) -> &config::Service {
        &self.config
    }

    /// Where the key of a request is, if the choice depends on it.
    pub fn hash_by(&self) -> Option<&HashBy> {
        match &self.config.balance {
            Balance::ConsistentHash(hash) => Some(&hash.by),
            Balance::RoundRobin | Balance::LeastRequests | Balance::PeakEwma | Balance::Random => None,
        }
    }

    /// Begins what runs beside the data path on `background`, in place of what ran for `previous`: health checks, and the watch over sources.
    pub fn start(self: &Arc<Self>, previous: Option<&Arc<Self>>, background: &Handle) {
        if let Some(previous) = previous
            && Arc::ptr_eq(self, previous)
        {
            self.ask_now.notify_waiters();
            return;
        }
        self.background.get_or_init(|| background.clone());
        let before = previous.map(|previous| {
            previous.tasks.lock().drain(..).for_each(|task| task.abort());
            self.inherit(previous);
            previous.pool.load_full()
        });
        let pool = self.pool.load_full();
        self.mark_drained(&pool);
        pool.start(before.as_deref(), background);
        if let Some(before) = before {
            self.let_go(&before, &pool);
        }
        self.catch_up();
        let watches = self.sources.iter().enumerate().map(|(index, source)| {
            let service = Arc::downgrade(self);
            let watch = match source {
                Source::Named { query, .. } | Source::Dns(query) | Source::Srv(query) => {
                    background.spawn(ask_again_and_again(service, index, query.clone()))
                }
                Source::File(path) => background.spawn(look_again_and_again(service, index, Watched::new(path))),
                Source::Registration => background.spawn(expire_again_and_again(service)),
            };
            watch.abort_handle()
        });
        *self.tasks.lock() = watches.collect();
    }

    /// Ends all that, because the service is gone.
    pub fn stop(&self) {
        self.tasks.lock().drain(..).for_each(|task| task.abort());
        self.pool.load().stop();
    }

    /// Takes over what a source has said since this was compiled.
    fn inherit(&self, previous: &Self) {
        let theirs = previous.found.lock().clone();
        let mut mine = self.found.lock();
        for (source, found) in previous.sources.iter().zip(theirs) {
            if let Some(index) = self.sources.iter().position(|mine| mine == source) {
                mine[index] = found;
            }
        }
    }

    /// Puts a pool in force that has whom the sources name now, where the one in force does not.
    pub fn catch_up(&self) {
        let _one_at_a_time = self.changing.lock();
        let Some(background) = self.background.get() else { return };
        let registered = self.discovery.registry.registered(&self.name);
        let addresses = union(&self.written, &self.sources, &self.found.lock(), &registered);
        let before = self.pool.load_full();
        if addresses == before.addresses {
            self.mark_drained(&before);
            return;
        }
        self.say_who_comes_and_goes(&before.addresses, &addresses);
        let leaving = self.leaving();
        let (name, config) = (Arc::clone(&self.name), Arc::clone(&self.config));
        match Pool::with(name, config, addresses, before.trust.clone(), Before::Change(&before), &leaving) {
            Ok(pool) => {
                let pool = Arc::new(pool);
                self.mark_drained(&pool);
                pool.start(Some(&before), background);
                self.pool.store(Arc::clone(&pool));
                self.let_go(&before, &pool);
            }
            // The same configuration compiled before.
            Err((place, problem)) => log::error!("service {}: {place}: {problem}", self.name),
        }
    }

    fn say_who_comes_and_goes(&self, before: &Addresses, now: &Addresses) {
        fn of(list: &Addresses) -> HashSet<&Address> {
            list.iter().map(|listed| &listed.address).collect()
        }
        let (before, now) = (of(before), of(now));
        let some = |more: &HashSet<&Address>, than: &HashSet<&Address>| {
            let mut others: Vec<String> = more.difference(than).map(ToString::to_string).collect();
            others.sort_unstable();
            let rest = others.len().saturating_sub(5);
            others.truncate(5);
            others.join(", ") + &if rest > 0 { format!(" and {rest} more") } else { String::new() }
        };
        let (come, gone) = (some(&now, &before), some(&before, &now));
        let said = |what: &str, whom: &str| if whom.is_empty() { String::new() } else { format!("; {what}: {whom}") };
        let count = now.len();
        log::info!("service {}: {count} instances now{}{}", self.name, said("new", &come), said("leaving", &gone));
    }

    /// Instances are drained, or not any more, as the registry has it.
    fn mark_drained(&self, pool: &Pool) {
        let drained = self.discovery.registry.drained(&self.name);
        for member in pool.members() {
            let instance = &member.instance;
            match (drained.contains(&instance.address), instance.is_drained()) {
                (true, false) => {
                    instance.drain(BY_THE_OPERATOR, self.config.timeouts.drain.0);
                    log::info!("service {}: instance {} is drained", self.name, instance.label);
                }
                (false, true) => {
                    instance.undrain();
                    log::info!("service {}: instance {} is not drained any more", self.name, instance.label);
                }
                (true, true) | (false, false) => {}
            }
        }
    }

    /// Whoever is not listed any more finishes what it has.
    fn let_go(&self, before: &Pool, now: &Pool) {
        let listed: HashSet<&Address> = now.addresses().collect();
        let gone: Vec<_> = now.others_of(before).filter(|instance| !listed.contains(&instance.address)).collect();
        gone.iter().for_each(|instance| instance.drain(NOT_LISTED, self.config.timeouts.drain.0));
        self.discovery.registry.forget_drains(&self.name, gone.iter().map(|instance| &instance.address));
        let mut leaving = self.leaving.lock();
        leaving.extend(gone.into_iter().map(Arc::clone));
        leaving.retain(|instance| instance.in_flight() > 0 && !listed.contains(&instance.address));
    }

    /// Instances that are not listed any more and still have requests.
    pub fn leaving(&self) -> Vec<Arc<Instance>> {
        let mut leaving = self.leaving.lock();
        leaving.retain(|instance| instance.in_flight() > 0);
        leaving.clone()
    }

    /// Where instances are found beside the configuration, and how that goes.
    pub fn sources(&self) -> Vec<SourceStatus> {
        let registered = || self.discovery.registry.registered(&self.name).len();
        let found = self.found.lock();
        let status = |(source, found): (&Source, &Found)| SourceStatus {
            source: source.to_string(),
            instances: if *source == Source::Registration { registered() } else { found.listed.len() },
            at: found.at,
            problem: found.problem.clone(),
        };
        self.sources.iter().zip(found.iter()).map(status).collect()
    }

    /// An instance registers, or says that it is still there; whether it is new.
    ///
    /// # Errors
    /// Why it may not.
    pub fn register(&self, address: &Address, registration: Registration) -> Result<bool, Unchanged> {
        if !self.sources.contains(&Source::Registration) {
            return Err(Unchanged::NoRegistration);
        }
        let is_new = self.discovery.registry.register(&self.name, address, registration, Instant::now())?;
        self.catch_up();
        Ok(is_new)
    }

    /// A registered instance leaves, and finishes what it has.
    ///
    /// # Errors
    /// Why it stays.
    pub fn remove(&self, address: &Address) -> Result<(), Unchanged> {
        if !self.discovery.registry.remove(&self.name, address)? {
            return Err(if self.instance(address).is_some() {
                Unchanged::NotRegistered
            } else {
                Unchanged::NoInstance
            });
        }
        self.catch_up();
        Ok(())
    }

    /// Drains an instance, or uses it again.
    ///
    /// # Errors
    /// Why nothing changed.
    pub fn drain(&self, address: &Address, is_drained: bool) -> Result<(), Unchanged> {
        self.instance(address).ok_or(Unchanged::NoInstance)?;
        self.discovery.registry.drain(&self.name, address, is_drained)?;
        self.catch_up();
        Ok(())
    }

    /// The instance at this address.
    pub fn instance(&self, address: &Address) -> Option<Arc<Instance>> {
        let pool = self.pool.load();
        pool.members().find(|member| member.instance.address == *address).map(|member| Arc::clone(&member.instance))
    }

    /// What a source said now: a list that holds for a while, or why there is none.
    fn hear(&self, index: usize, said: Result<(Addresses, Duration), String>) {
        let mut all = self.found.lock();
        let (found, source) = (&mut all[index], &self.sources[index]);
        let differs = match said {
            Ok((listed, lasts)) => {
                if found.problem.take().is_some() {
                    log::info!("service {}: {source} gives its instances again", self.name);
                }
                found.is_now(listed, lasts)
            }
            Err(problem) => {
                if found.problem.is_none() {
                    let count = found.listed.len();
                    log::warn!("service {}: {source}: {problem}; its last list stays, {count} instances", self.name);
                }
                found.failed(problem);
                false
            }
        };
        drop(all);
        if differs {
            self.catch_up();
        }
    }

    fn before_of(&self, index: usize) -> Found {
        self.found.lock()[index].clone()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.tasks.get_mut().drain(..).for_each(|task| task.abort());
    }
}

/// What each source says at first.
fn first_found(
    config: &config::Service,
    sources: &[Source],
    answers: &Answers,
    written: &Addresses,
    before: Option<&Arc<Service>>,
) -> Result<Vec<Found>, Vec<(String, String)>> {
    let mut problems = Vec::new();
    let mut seen: HashSet<Address> = written.iter().map(|listed| listed.address.clone()).collect();
    let mut first = |source: &Source| {
        let known = before.and_then(|before| Some((before, before.sources.iter().position(|one| one == source)?)));
        if let Some((before, index)) = known {
            return before.before_of(index);
        }
        let mut found = Found::nothing_yet();
        let said = match source {
            Source::Registration => return found,
            Source::File(path) => Watched::new(path).first().map(|listed| (listed, Duration::ZERO)),
            _ => source
                .query()
                .map_or_else(|| Err(String::new()), |query| answers.of(query))
                .map(|answer| (source.listed(&answer, &Addresses::new()), answer.ttl)),
        };
        match (source, said) {
            (_, Ok((listed, lasts))) => _ = found.is_now(listed, lasts),
            (Source::Named { index, .. }, Err(problem)) => problems.push((format!("instances[{index}]"), problem)),
            (Source::File(_), Err(problem)) => problems.push(("discover.file".to_owned(), problem)),
            (_, Err(problem)) => found.failed(problem),
        }
        if let Source::Named { index, .. } = source {
            let text = &config.instances[*index].address;
            let again = found.listed.iter().find(|listed| !seen.insert(listed.address.clone()));
            problems.extend(again.map(|listed| (format!("instances[{index}]"), twice(text, &listed.address))));
        }
        found
    };
    let found = sources.iter().map(&mut first).collect();
    if problems.is_empty() { Ok(found) } else { Err(problems) }
}

/// All instances; where two sources name the same address, what the first one says of it holds.
fn union(written: &Addresses, sources: &[Source], found: &[Found], registered: &Addresses) -> Addresses {
    let mut all: BTreeMap<&Address, &Listed> = written.iter().map(|listed| (&listed.address, listed)).collect();
    let registers = sources.contains(&Source::Registration);
    let registered = registered.iter().filter(|_| registers);
    for listed in found.iter().flat_map(|found| &found.listed).chain(registered) {
        all.entry(&listed.address).or_insert(listed);
    }
    all.into_values().cloned().collect()
}

async fn ask_again_and_again(service: Weak<Service>, index: usize, query: Query) {
    loop {
        let Some(strong) = service.upgrade() else { return };
        let again = strong.before_of(index).again;
        let asked_to = {
            let service = Arc::clone(&strong);
            async move { service.ask_now.notified().await }
        };
        drop(strong);
        tokio::select! {
            () = tokio::time::sleep_until(again.into()) => {}
            () = asked_to => {}
        }
        let Some(strong) = service.upgrade() else { return };
        let discovery = Arc::clone(&strong.discovery);
        drop(strong);
        let answer = discovery.ask(&query).await;
        let Some(service) = service.upgrade() else { return };
        let said = answer.map(|answer| {
            let listed = service.sources[index].listed(&answer, &service.before_of(index).listed);
            let spread = SPREAD * (getrandom::u32().unwrap_or_default() % 100) / 100;
            (listed, answer.ttl.max(discovery.ttl_min()) + spread)
        });
        service.hear(index, said);
    }
}

async fn look_again_and_again(service: Weak<Service>, index: usize, mut watched: Watched) {
    loop {
        // Reading a file may wait for a disk.
        let looked = tokio::task::spawn_blocking(move || {
            let said = watched.look();
            (watched, said)
        });
        let Ok((back, said)) = looked.await else { return };
        watched = back;
        let Some(service) = service.upgrade() else { return };
        if let Some(said) = said {
            service.hear(index, said.map(|listed| (listed, FILE_EVERY)));
        }
        drop(service);
        tokio::time::sleep(FILE_EVERY).await;
    }
}

async fn expire_again_and_again(service: Weak<Service>) {
    while let Some(strong) = service.upgrade() {
        let ended = strong.discovery.registry.expire(&strong.name, Instant::now());
        for (address, ttl) in &ended {
            log::warn!("service {}: instance {address} did not renew its registration within {ttl:?}", strong.name);
        }
        if !ended.is_empty() {
            strong.catch_up();
        }
        drop(strong);
        tokio::time::sleep(EXPIRY_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use http::StatusCode;
    use tokio::runtime::Runtime;

    use super::super::Try;
    use super::*;

    fn background() -> Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    fn discovery() -> Arc<Discovery> {
        Discovery::compile(&config::Discovery::default(), None).unwrap()
    }

    fn of(text: &str) -> config::Service {
        serde_yaml::from_str(text).unwrap()
    }

    fn compile(text: &str, discovery: &Arc<Discovery>, before: Predecessor<'_>) -> Arc<Service> {
        Service::compile("users", &of(text), discovery, &Answers::default(), before).unwrap()
    }

    fn serving(text: &str, discovery: &Arc<Discovery>, background: &Runtime) -> Arc<Service> {
        let service = compile(text, discovery, Predecessor::None);
        service.start(None, background.handle());
        service
    }

    fn reload(text: &str, service: &Arc<Service>, background: &Runtime) -> Arc<Service> {
        let next = compile(text, &service.discovery, Predecessor::Reload(Some(service)));
        next.start(Some(service), background.handle());
        next
    }

    fn address(port: u16) -> Address {
        Address::Inet(([127, 0, 0, 1], port).into())
    }

    fn registration(weight: u16) -> Registration {
        Registration { weight, backup: false, ttl: config::Span::seconds(3_600) }
    }

    fn register(service: &Service, ports: impl IntoIterator<Item = u16>) {
        for port in ports {
            service.register(&address(port), registration(1)).unwrap();
        }
    }

    fn port_of(address: &Address) -> u16 {
        address.to_string().rsplit_once(':').unwrap().1.parse().unwrap()
    }

    fn ports(service: &Service) -> Vec<u16> {
        service.pool().addresses().map(port_of).collect()
    }

    fn begin(service: &Service, port: u16) -> Try {
        service.pool().begin(&service.instance(&address(port)).unwrap(), Instant::now())
    }

    fn chosen(service: &Service) -> Option<u16> {
        service.pool().select(&[], None).map(|instance| port_of(&instance.address))
    }

    const REGISTERS: &str = "{instances: [127.0.0.1:1], discover: {registration: true}}";

    #[test]
    fn who_comes_and_goes_changes_nothing_for_the_others() {
        let background = background();
        let service = serving(REGISTERS, &discovery(), &background);
        service.pool().answered(&mut begin(&service, 1), StatusCode::OK);
        let first = service.instance(&address(1)).unwrap();
        assert_eq!(service.register(&address(2), registration(1)), Ok(true));
        assert_eq!(service.register(&address(2), registration(5)), Ok(false));
        assert_eq!(ports(&service), [1, 2]);
        assert!(service.pool().instances().any(|status| status.weight == 5));
        service.remove(&address(2)).unwrap();
        assert_eq!(ports(&service), [1]);
        assert!(Arc::ptr_eq(&first, &service.instance(&address(1)).unwrap()));
        assert_eq!(first.counts(), (1, 0));
        assert_eq!(service.remove(&address(1)), Err(Unchanged::NotRegistered));
        assert_eq!(service.remove(&address(2)), Err(Unchanged::NoInstance));
    }

    #[test]
    fn a_list_that_is_the_same_keeps_the_pool() {
        let background = background();
        let service = serving(REGISTERS, &discovery(), &background);
        register(&service, [2]);
        let pool = Arc::clone(&service.pool());
        register(&service, [2]);
        service.catch_up();
        assert!(Arc::ptr_eq(&pool, &service.pool()));
    }

    #[test]
    fn who_leaves_finishes_and_who_comes_back_meanwhile_is_the_same() {
        let background = background();
        let service = serving(REGISTERS, &discovery(), &background);
        register(&service, [2]);
        let (mut busy, instance) = (begin(&service, 2), service.instance(&address(2)).unwrap());
        service.remove(&address(2)).unwrap();
        assert!(instance.is_drained());
        assert_eq!(service.leaving().len(), 1);
        register(&service, [2]);
        assert!(Arc::ptr_eq(&instance, &service.instance(&address(2)).unwrap()) && !instance.is_drained());
        assert!(service.leaving.lock().is_empty());
        service.remove(&address(2)).unwrap();
        busy.end();
        assert!(service.leaving().is_empty());
    }

    #[test]
    fn what_is_drained_is_never_chosen_not_even_as_the_last_one() {
        let background = background();
        let eject =
            "{instances: [127.0.0.1:1, 127.0.0.1:2], eject: {errors: 1, ejected_max: 100%, when_all_down: all}}";
        let service = serving(eject, &discovery(), &background);
        service.drain(&address(1), true).unwrap();
        assert!((0..20).all(|_| chosen(&service) == Some(2)));
        service.pool().failed(&mut begin(&service, 2), Some("upstream_connect"));
        assert_eq!(chosen(&service), Some(2), "ejected, but all that is left");
        service.drain(&address(2), true).unwrap();
        assert_eq!((chosen(&service), service.pool().is_usable()), (None, false));
        assert!(!service.pool().has_other(&[]));
        service.drain(&address(1), false).unwrap();
        assert_eq!(chosen(&service), Some(1));
        assert_eq!(service.drain(&address(9), true), Err(Unchanged::NoInstance));
    }

    #[test]
    fn a_drain_outlives_reloads_and_ends_when_the_instance_leaves() {
        let background = background();
        let service = serving(REGISTERS, &discovery(), &background);
        register(&service, [2]);
        service.drain(&address(2), true).unwrap();
        // Another way to the instance makes another one of it.
        let next = "{instances: [127.0.0.1:1], discover: {registration: true}, timeouts: {response: 1s}}";
        let next = reload(next, &service, &background);
        let instance = next.instance(&address(2)).unwrap();
        assert!(instance.is_drained() && !Arc::ptr_eq(&instance, &service.instance(&address(2)).unwrap()));
        next.remove(&address(2)).unwrap();
        register(&next, [2]);
        assert!(!next.instance(&address(2)).unwrap().is_drained());
    }

    #[test]
    fn a_reload_keeps_what_was_found_and_what_comes_meanwhile() {
        let background = background();
        let service = serving(REGISTERS, &discovery(), &background);
        register(&service, [2]);
        assert!(Arc::ptr_eq(&service, &reload(REGISTERS, &service, &background)), "nothing changed");
        let changed = "{instances: [127.0.0.1:3], discover: {registration: true}}";
        let next = compile(changed, &service.discovery, Predecessor::Reload(Some(&service)));
        register(&service, [4]);
        assert_eq!(ports(&next), [2, 3]);
        next.start(Some(&service), background.handle());
        assert_eq!(ports(&next), [2, 3, 4]);
        register(&service, [5]);
        next.catch_up();
        assert_eq!(ports(&next), [2, 3, 4, 5]);
        let without = reload("{instances: [127.0.0.1:3]}", &next, &background);
        assert_eq!(ports(&without), [3]);
        assert_eq!(without.register(&address(6), registration(1)), Err(Unchanged::NoRegistration));
    }

    #[test]
    fn the_first_source_decides_where_two_name_the_same_address() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users.json");
        fs::write(&path, r#"[{"address": "127.0.0.1:1", "weight": 9}, {"address": "127.0.0.1:2", "weight": 9}]"#)
            .unwrap();
        let text = format!("{{instances: [127.0.0.1:1], discover: {{registration: true, file: {}}}}}", path.display());
        let background = background();
        let service = serving(&text, &discovery(), &background);
        register(&service, [2, 3]);
        let weights: Vec<_> = service.pool().instances().map(|status| status.weight).collect();
        assert_eq!(weights, [1, 9, 1]);
        let sources = service.sources();
        assert_eq!((sources[0].instances, &*sources[1].source, sources[1].instances), (2, "registration", 2));
        fs::write(&path, "no list").unwrap();
        let failed = Service::compile("other", &of(&text), &service.discovery, &Answers::default(), Predecessor::None);
        assert_eq!(failed.err().unwrap()[0].0, "discover.file");
    }

    #[test]
    fn a_service_that_finds_nobody_has_an_empty_pool() {
        let background = background();
        let service = serving("{discover: {dns: users.internal:80}}", &discovery(), &background);
        assert_eq!((chosen(&service), service.pool().is_usable()), (None, false));
        assert!(service.sources()[0].problem.is_some());
    }

    #[test]
    fn a_name_among_instances_has_to_have_an_answer() {
        let of_name = of("[users.internal:80]");
        let failed = Service::compile("users", &of_name, &discovery(), &Answers::default(), Predecessor::None);
        assert_eq!(failed.err().unwrap()[0].0, "instances[0]");
        let failed = Service::compile(
            "users",
            &of("[127.0.0.1:1, 127.0.0.1:1]"),
            &discovery(),
            &Answers::default(),
            Predecessor::None,
        );
        assert_eq!(failed.err().unwrap()[0].0, "instances[1]");
    }

    #[test]
    fn one_of_a_thousand_comes_and_goes_in_no_time() {
        let background = background();
        for balance in ["round_robin", "least_requests"] {
            let text = format!("{{balance: {balance}, discover: {{registration: true}}, eject: {{}}, breaker: {{}}}}");
            let service = serving(&text, &discovery(), &background);
            let registry = &service.discovery.registry;
            for port in 1..=1_000 {
                registry.register("users", &address(port), registration(1), Instant::now()).unwrap();
            }
            service.catch_up();
            let begun = Instant::now();
            register(&service, [1_001]);
            assert_eq!(ports(&service).len(), 1_001);
            assert!(begun.elapsed() < Duration::from_secs(1), "{balance}: {:?}", begun.elapsed());
        }
    }
}
