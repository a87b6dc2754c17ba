//! A service: the pool that is in force, and how another one takes its place when instances come and go.
//! The data path takes the pool of the moment for each try. What an instance knows goes on for as long as it is listed, and the requests of one that
//! has left finish. Not here: where lists come from (`discovery`), and who is chosen (`pool.rs`).

mod found;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::address::Address;
use super::discovery::{
    Addresses, Answers, Discovery, Found, News, Refused, Registration, Source, SourceStatus, Watched, what_holds,
    written,
};
use super::instance::Instance;
use super::pool::{Before, Pool};
use super::trust::Trust;
use crate::config::{self, Balance, HashBy};
use crate::words::counted;

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
    /// Changes of the pool come one after the other. True: another service has its place, and nothing changes any more.
    changing: Mutex<bool>,
    /// Instances that are not listed any more, as long as they have requests.
    leaving: Mutex<Vec<Arc<Instance>>>,
    /// Where the sources are watched; none before it serves.
    background: OnceLock<Handle>,
    tasks: Mutex<Vec<AbortHandle>>,
    /// Names are to be asked for now.
    ask_now: Arc<Notify>,
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
        let found = found::first(&config, &sources, answers, &written, before.service())?;
        let name: Arc<str> = before.service().map_or_else(|| name.into(), |before| Arc::clone(&before.name));
        let registered = discovery.registry.registered(&name);
        let pool = before.service().map(|before| before.pool.load_full());
        let leaving = before.service().map(|before| before.leaving.lock().clone()).unwrap_or_default();
        let addresses = found::union(&written, &sources, &found, &registered);
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
            changing: Mutex::new(false),
            leaving: Mutex::new(leaving),
            background: OnceLock::new(),
            tasks: Mutex::new(Vec::new()),
            ask_now: Arc::default(),
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
            previous.end();
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
                    background.spawn(watch::ask_again_and_again(service, index, query.clone()))
                }
                Source::File(path) => background.spawn(watch::look_again_and_again(service, index, Watched::new(path))),
                Source::Registration => background.spawn(watch::expire_again_and_again(service)),
            };
            watch.abort_handle()
        });
        *self.tasks.lock() = watches.collect();
    }

    /// Ends all that, because the service is gone.
    pub fn stop(&self) {
        self.end();
        self.pool.load().stop();
    }

    /// From now on nobody comes or goes here.
    fn end(&self) {
        self.tasks.lock().drain(..).for_each(|task| task.abort());
        *self.changing.lock() = true;
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
        let is_over = self.changing.lock();
        let Some(background) = self.background.get().filter(|_| !*is_over) else { return };
        let registered = self.discovery.registry.registered(&self.name);
        let addresses = found::union(&self.written, &self.sources, &self.found.lock(), &registered);
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
        let count = counted(now.len() as u64, "instance");
        log::info!("service {}: {count} now{}{}", self.name, said("new", &come), said("leaving", &gone));
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

    /// An instance registers, or says that it is still there.
    ///
    /// # Errors
    /// Why it may not.
    pub fn register(&self, address: &Address, registration: Registration) -> Result<News, Unchanged> {
        if !self.sources.contains(&Source::Registration) {
            return Err(Unchanged::NoRegistration);
        }
        let news = self.discovery.registry.register(&self.name, address, registration, Instant::now())?;
        if news != News::Renewed {
            self.catch_up();
        }
        Ok(news)
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

    /// Whoever did not renew its registration in time leaves.
    fn expire(&self) {
        let ended = self.discovery.registry.expire(&self.name, Instant::now());
        for (address, ttl) in &ended {
            log::warn!("service {}: instance {address} did not renew its registration within {ttl:?}", self.name);
        }
        if !ended.is_empty() {
            self.catch_up();
        }
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
                // At a start the first failure is found before there is anyone to tell.
                if found.problem.is_none() || found.has_only_failed_once() {
                    let holds = what_holds(found.at.is_some(), found.listed.len());
                    log::warn!("service {}: {source}: {problem}; {holds}", self.name);
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
