//! A service at run time: its instances, which of them is next, and which are given up for a while because requests fail there.
//! How one is chosen among those that are ready is in `balance`, how health is found out in `health`; here is who is ready, that backups come
//! last, and when an instance is ejected. An instance lives on through reloads that leave its address and the way to connect to it alone.
//! A pool never changes whom it has: `service.rs` puts another one in its place.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::{HeaderValue, StatusCode};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::address::Address;
use super::balance::{Group, Member, Wish};
use super::breaker::Breakers;
use super::capacity::{Bounds, Capacity, CapacityView, Entered, Place};
use super::condition::{Check, DOWN, DRAINED, EJECTED, UNPROVEN};
use super::discovery::{Addresses, written};
use super::health::Settings;
use super::instance::{Instance, Try};
use super::peer::peer;
use super::probe::Probe;
use super::retry_budget::RetryBudget;
use super::trust::Trust;
use crate::config::{self, Balance, HealthStart, WhenAllDown};

/// The compiled form of one service.
pub struct Pool {
    /// The service's name.
    pub name: Arc<str>,
    /// The `Host` sent to instances, where it is not the client's.
    pub host: Option<HeaderValue>,
    /// Who is not asked for a while.
    pub breakers: Breakers,
    /// How many retries the service bears.
    pub retries: Arc<RetryBudget>,
    /// Who is inside, and who waits.
    capacity: Arc<Capacity>,
    bounds: Option<Bounds>,
    /// What keeps requests from an instance, from all to little: the next one holds where nobody is left by the one before.
    shunned: [u8; 4],
    config: Arc<config::Service>,
    pub(super) addresses: Addresses,
    /// What its TLS rests on, as the files were read.
    pub(super) trust: Trust,
    /// The instances for all requests, and those for when none of these is ready.
    groups: [Group; 2],
    /// Tries at all instances that have not ended, where the choice depends on them.
    in_flight: Arc<AtomicUsize>,
    /// How and with what health is checked; none where it is not.
    checks: Option<(Arc<Settings>, Arc<Probe>)>,
    /// One after the other, so that there are never too many.
    ejecting: Mutex<()>,
    /// Where ejections end; none before the pool serves.
    background: OnceLock<Handle>,
}

/// What is known about an instance of a pool.
pub struct InstanceStatus {
    /// The instance.
    pub instance: Arc<Instance>,
    /// Its share of the requests.
    pub weight: u16,
    /// Whether it gets requests only while no other can.
    pub is_backup: bool,
}

/// What was there before, for a pool that is compiled.
#[derive(Clone, Copy)]
pub enum Before<'a> {
    /// The process starts: all instances are used until health checks say otherwise.
    Start,
    /// A reload, and the pool of the same name if there is one.
    Reload(Option<&'a Arc<Pool>>),
    /// Instances come and go; the configuration is the same.
    Change(&'a Arc<Pool>),
}

impl<'a> Before<'a> {
    /// The pool of before.
    const fn pool(self) -> Option<&'a Arc<Pool>> {
        match self {
            Self::Start => None,
            Self::Reload(pool) => pool,
            Self::Change(pool) => Some(pool),
        }
    }
}

impl Pool {
    /// Compiles a service of which every instance is an address in the configuration.
    ///
    /// # Errors
    /// What is wrong, with the part of the service it is about.
    pub fn compile(
        name: &str,
        service: &config::Service,
        before: Before<'_>,
    ) -> Result<Arc<Self>, Vec<(String, String)>> {
        let addresses = written(service)?;
        let trust = Trust::load(service.tls.as_ref()).map_err(|problem| vec![problem])?;
        let compiled = Self::with(name.into(), Arc::new(service.clone()), addresses, trust, before, &[]);
        compiled.map(Arc::new).map_err(|problem| vec![problem])
    }

    /// Compiles a service with these instances; those of before that are still there know what they knew, and so do those of `leaving` that are
    /// there again.
    pub(super) fn with(
        name: Arc<str>,
        config: Arc<config::Service>,
        addresses: Addresses,
        trust: Trust,
        before: Before<'_>,
        leaving: &[Arc<Instance>],
    ) -> Result<Self, (String, String)> {
        let previous = before.pool();
        let host = match &config.host {
            Some(host) => Some(HeaderValue::from_str(host).map_err(|error| ("host".to_owned(), error.to_string()))?),
            None => None,
        };
        let checks = match (&config.health, Settings::of(&name, &config)) {
            (Some(health), Some(settings)) => {
                let probe =
                    Probe::new(&name, &config, health).map_err(|problem| ("health.path".to_owned(), problem))?;
                Some((settings, Arc::new(probe)))
            }
            _ => None,
        };
        let in_flight = previous.map_or_else(Arc::default, |pool| Arc::clone(&pool.in_flight));
        let groups = groups(&config, &addresses, &trust, before, leaving, &in_flight)?;
        let all = addresses.iter().map(|listed| listed.address.clone());
        let breakers = Breakers::compile(config.breaker.as_ref(), &name, all, previous.map(|pool| &pool.breakers));
        let retries = previous.map_or_else(Arc::default, |pool| Arc::clone(&pool.retries));
        let capacity = previous.map_or_else(Arc::default, |pool| Arc::clone(&pool.capacity));
        let (bounds, shunned) = (Bounds::of(&config), shunned(&config));
        Ok(Self {
            name,
            host,
            breakers,
            retries,
            capacity,
            bounds,
            shunned,
            config,
            addresses,
            trust,
            groups,
            in_flight,
            checks,
            ejecting: Mutex::new(()),
            background: OnceLock::new(),
        })
    }

    /// Begins what runs beside the data path on `background`, in place of what ran for `previous`: health checks, and ends of ejections.
    pub fn start(&self, previous: Option<&Self>, background: &Handle) {
        self.background.get_or_init(|| background.clone());
        let new = self.members().filter(|member| member.instance.is_unproven()).count();
        for member in self.members() {
            member.instance.expect_checks(self.checks.is_some());
            match &self.checks {
                Some((settings, probe)) => {
                    member.instance.checks.run(&member.instance, settings, probe, new, background);
                }
                None => member.instance.checks.stop(),
            }
        }
        previous.into_iter().flat_map(|previous| self.others_of(previous)).for_each(|other| other.checks.stop());
    }

    /// Instances of another pool that this one does not have.
    pub(super) fn others_of<'a>(&self, other: &'a Self) -> impl Iterator<Item = &'a Arc<Instance>> + use<'a> {
        let mine: HashSet<*const Instance> = self.members().map(|member| Arc::as_ptr(&member.instance)).collect();
        other.members().map(|member| &member.instance).filter(move |instance| !mine.contains(&Arc::as_ptr(instance)))
    }

    /// Ends the health checks, because the service is gone.
    pub fn stop(&self) {
        self.members().for_each(|member| member.instance.checks.stop());
    }

    /// The next instance, among those that may be used and are not in `tried`; `key` is where the request lies on the ring, if there is one.
    pub fn select(&self, tried: &[Try], key: Option<u32>) -> Option<&Arc<Instance>> {
        let wish = Wish { key: key.unwrap_or_default(), is_again: !tried.is_empty() };
        let choose = |shunned| {
            let may = |instance: &Instance| self.has_room(instance) && self.is_ready(instance, tried, shunned);
            self.groups.iter().find_map(|group| group.select(wish, may))
        };
        choose(SHUNNED).or_else(|| match self.shunned() {
            SHUNNED => None,
            fewer => choose(fewer),
        })
    }

    /// What keeps requests from an instance now. Who is held back by a breaker is nobody who is left: breakers are never passed by.
    fn shunned(&self) -> u8 {
        let [.., least] = self.shunned;
        self.shunned
            .into_iter()
            .find(|shunned| self.members().any(|member| self.may_be_used(&member.instance, *shunned)))
            .unwrap_or(least)
    }

    fn may_be_used(&self, instance: &Instance, shunned: u8) -> bool {
        instance.is_none_of(shunned) && self.breakers.let_through(&instance.address)
    }

    fn has_room(&self, instance: &Instance) -> bool {
        self.config.instance_concurrent_max.is_none_or(|max| instance.in_flight() < max)
    }

    /// Whether somebody could be asked, but for what they do already.
    pub fn is_full(&self) -> bool {
        let shunned = self.shunned();
        self.bounds.is_some()
            && self
                .members()
                .any(|member| self.may_be_used(&member.instance, shunned) && !self.has_room(&member.instance))
    }

    /// Whether it bears only so many requests at once.
    pub fn is_bounded(&self) -> bool {
        self.bounds.is_some()
    }

    /// Begins with a place in the service, which is kept in `place`; waits for one in line where there is none, or `begin` finds no instance with room.
    pub async fn enter<T>(
        &self,
        place: &mut Option<Place>,
        mut begin: impl FnMut() -> Option<T>,
        gone: impl Future<Output = ()>,
    ) -> Entered<T> {
        match self.bounds {
            Some(bounds) => self.capacity.enter(bounds, place, begin, gone).await,
            None => begin().map_or(Entered::Full, Entered::In),
        }
    }

    /// Where its places stand; none where it bears any number.
    pub fn capacity(&self) -> Option<CapacityView> {
        self.bounds.map(|_| self.capacity.view())
    }

    /// A try at one of the instances begins.
    pub fn begin(&self, instance: &Arc<Instance>, now: Instant) -> Try {
        let counts = matches!(&self.config.balance, Balance::ConsistentHash(hash) if hash.load_max.is_some());
        Try::begin(instance, counts.then_some(&self.in_flight), now)
    }

    /// The header of a try's final answer came.
    pub fn answered(&self, tried: &mut Try, status: StatusCode) {
        let failures = self.config.eject.as_ref().map(|eject| &eject.statuses);
        let is_failure = failures.is_some_and(|ranges| ranges.iter().any(|range| range.contains(status)));
        tried.answered(status, is_failure);
        if is_failure {
            self.strike(tried.instance(), status.as_str());
        }
    }

    /// A try got no answer, or half of one; `why` where the instance is to blame.
    pub fn failed(&self, tried: &mut Try, why: Option<&str>) {
        tried.failed();
        if let Some(why) = why {
            self.strike(tried.instance(), why);
        }
    }

    /// Ejects the instance when that was one failure too many in a row, and not too many are ejected.
    fn strike(&self, instance: &Arc<Instance>, why: &str) {
        let (Some(eject), Some(background)) = (&self.config.eject, self.background.get()) else { return };
        if instance.strike() < eject.errors {
            return;
        }
        let _one_at_a_time = self.ejecting.lock();
        let ejected = self.members().filter(|member| !member.instance.is_none_of(EJECTED)).count();
        if !instance.is_none_of(EJECTED) || ejected >= eject.ejected_max.of(self.addresses.len()) {
            return;
        }
        let length = instance.eject(eject, why, Instant::now());
        log::warn!("service {}: instance {} is ejected for {length:?}: {why}", self.name, instance.label);
        let slow_start = self.config.slow_start.map(|span| span.0);
        background.spawn(readmit_after(Arc::clone(instance), length, Arc::clone(&self.name), slow_start));
    }

    /// Whether an instance is left that may be used and is not in `tried`.
    pub fn has_other(&self, tried: &[Try]) -> bool {
        let has_other = |shunned| self.members().any(|member| self.is_ready(&member.instance, tried, shunned));
        has_other(SHUNNED) || has_other(self.shunned())
    }

    fn is_ready(&self, instance: &Instance, tried: &[Try], shunned: u8) -> bool {
        tried.iter().all(|tried| tried.address != instance.address) && self.may_be_used(instance, shunned)
    }

    /// Until a breaker lets the next request pass, where breakers alone are in the way.
    pub fn breakers_left(&self, now: Instant) -> Option<Duration> {
        let shunned = self.shunned();
        let ready = self.members().filter(|member| member.instance.is_none_of(shunned));
        self.breakers.left(ready.map(|member| &member.instance.address), now)
    }

    /// Every instance, backups last, otherwise in the order of addresses.
    pub fn instances(&self) -> impl Iterator<Item = InstanceStatus> {
        self.groups.iter().zip([false, true]).flat_map(|(group, is_backup)| {
            group.members().iter().map(move |member| InstanceStatus {
                instance: Arc::clone(&member.instance),
                weight: member.weight,
                is_backup,
            })
        })
    }

    /// Whether an instance can be used: breakers count, requests in flight don't.
    pub fn is_usable(&self) -> bool {
        let shunned = self.shunned();
        self.breakers.service.as_ref().is_none_or(|breaker| breaker.is_ready(Instant::now()))
            && self.members().any(|member| self.may_be_used(&member.instance, shunned))
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        self.groups.iter().flat_map(Group::members)
    }

    /// The service as it is configured.
    pub fn config(&self) -> &config::Service {
        &self.config
    }

    /// The addresses of its instances.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.addresses.iter().map(|listed| &listed.address)
    }
}

/// What keeps requests from an instance while there are others.
const SHUNNED: u8 = DOWN | UNPROVEN | EJECTED | DRAINED;

/// From everything to what `when_all_down` leaves: who is new may be used where nobody else is left, then who is ejected, then who is unhealthy;
/// who is drained never.
fn shunned(service: &config::Service) -> [u8; 4] {
    let uses = |when_all_down: Option<WhenAllDown>| when_all_down == Some(WhenAllDown::All);
    let ejected = if uses(service.eject.as_ref().map(|eject| eject.when_all_down)) { 0 } else { EJECTED };
    let down = if uses(service.health.as_ref().map(|health| health.when_all_down)) { 0 } else { DOWN };
    [SHUNNED, DOWN | EJECTED, DOWN | ejected, down | ejected].map(|flags| flags | DRAINED)
}

/// The way out of an ejection.
async fn readmit_after(instance: Arc<Instance>, length: Duration, service: Arc<str>, slow_start: Option<Duration>) {
    tokio::time::sleep(length).await;
    instance.readmit();
    instance.begin_slow_start(slow_start);
    log::info!("service {service}: instance {} is back after its ejection", instance.label);
}

/// The instances for all requests, and those for when none of these is ready.
fn groups(
    config: &config::Service,
    addresses: &Addresses,
    trust: &Trust,
    before: Before<'_>,
    leaving: &[Arc<Instance>],
    in_flight: &Arc<AtomicUsize>,
) -> Result<[Group; 2], (String, String)> {
    let same_way = |pool: &&Arc<Pool>| {
        let before = &*pool.config;
        pool.trust.mark == trust.mark
            && (&before.tls, &before.timeouts, before.http2) == (&config.tls, &config.timeouts, config.http2)
    };
    let known = before.pool().filter(same_way);
    let members = known.into_iter().flat_map(|pool| pool.members()).map(|member| &member.instance);
    let leaving = leaving.iter().filter(|_| known.is_some());
    let known: HashMap<&Address, &Arc<Instance>> =
        leaving.chain(members).map(|instance| (&instance.address, instance)).collect();
    let is_start = matches!(before, Before::Start);
    let check = match &config.health {
        None => Check::None,
        Some(health) if health.start == HealthStart::Checked && !is_start => Check::Unproven,
        Some(_) => Check::Up,
    };
    let instance = |address: &Address| -> Result<Arc<Instance>, (String, String)> {
        if let Some(instance) = known.get(address) {
            return Ok(Arc::clone(instance));
        }
        let peer = peer(config, address, trust).map_err(|problem| ("instances".to_owned(), problem))?;
        let instance = Instance::new(address.clone(), peer, check);
        if !is_start && check != Check::Unproven {
            instance.begin_slow_start(config.slow_start.map(|span| span.0));
        }
        Ok(Arc::new(instance))
    };
    let [first, backups] = [false, true].map(|backup| {
        let members = addresses.iter().filter(|listed| listed.is_backup == backup);
        let members = members.map(|listed| Ok(Member { instance: instance(&listed.address)?, weight: listed.weight }));
        let members = members.collect::<Result<_, (String, String)>>()?;
        Ok::<_, (String, String)>(Group::new(&config.balance, members, in_flight))
    });
    Ok([first?, backups?])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn service(addresses: &[&str]) -> config::Service {
        let instances = addresses.iter().map(|address| config::Instance::at(address)).collect();
        config::Service { instances, ..config::Service::default() }
    }

    fn compile(service: &config::Service) -> Arc<Pool> {
        Pool::compile("users", service, Before::Start).unwrap()
    }

    fn pool(addresses: &[&str]) -> Arc<Pool> {
        compile(&service(addresses))
    }

    fn balanced(balance: &str, addresses: &[&str]) -> Arc<Pool> {
        compile(&config::Service { balance: serde_yaml::from_str(balance).unwrap(), ..service(addresses) })
    }

    fn port_of(address: &Address) -> u16 {
        match address {
            Address::Inet(address) => address.port(),
            Address::Unix(_) => 0,
        }
    }

    fn port(pool: &Pool, tried: &[Try], key: Option<u32>) -> u16 {
        port_of(&pool.select(tried, key).unwrap().address)
    }

    fn begin(pool: &Pool, port: u16) -> Try {
        let member = pool.members().find(|member| port_of(&member.instance.address) == port).unwrap();
        pool.begin(&member.instance, Instant::now())
    }

    fn set_healthy(pool: &Pool, port: u16, healthy: bool) {
        let instance = begin(pool, port);
        instance.expect_checks(true);
        instance.checked((!healthy).then(|| "500".to_owned()), Duration::ZERO, 1);
    }

    #[test]
    fn instances_take_turns() {
        let pool = pool(&["127.0.0.1:1", "127.0.0.1:2"]);
        let ports: Vec<u16> = (0..6).map(|_| port(&pool, &[], None)).collect();
        assert!(ports.windows(2).all(|pair| pair[0] != pair[1]), "{ports:?}");
    }

    #[test]
    fn the_turns_of_an_unhealthy_instance_are_shared_by_all_others() {
        let pool = pool(&["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
        set_healthy(&pool, 2, false);
        let first = (0..300).filter(|_| port(&pool, &[], None) == 1).count();
        assert!((149..=151).contains(&first), "{first} of 300");
    }

    #[test]
    fn another_try_takes_no_turn() {
        let pool = pool(&["127.0.0.1:1", "127.0.0.1:2"]);
        let first_tries = (0..10).map(|_| {
            let first = begin(&pool, port(&pool, &[], None));
            pool.select(std::slice::from_ref(&first), None).unwrap();
            port_of(&first.address)
        });
        assert_eq!(first_tries.collect::<Vec<_>>(), [1, 2, 1, 2, 1, 2, 1, 2, 1, 2]);
    }

    #[test]
    fn a_tried_instance_is_not_chosen_again() {
        for balance in ["round_robin", "random", "least_requests", "peak_ewma", "consistent_hash"] {
            let pool = balanced(balance, &["127.0.0.1:1", "127.0.0.1:2"]);
            for key in 0..10 {
                let first = begin(&pool, port(&pool, &[], Some(key)));
                let second = begin(&pool, port(&pool, std::slice::from_ref(&first), Some(key)));
                assert_ne!(first.address, second.address);
                assert!(pool.has_other(std::slice::from_ref(&first)));
                assert!(pool.select(&[first, second], Some(key)).is_none());
            }
        }
    }

    #[test]
    fn backups_are_asked_only_while_no_other_instance_is_ready() {
        for balance in [Balance::RoundRobin, Balance::LeastRequests] {
            let mut service = config::Service { balance, ..service(&["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]) };
            service.instances[0].backup = true;
            let pool = compile(&service);
            assert!((0..20).all(|_| port(&pool, &[], None) != 1));
            let tried = [begin(&pool, 2), begin(&pool, 3)];
            assert_eq!(port(&pool, &tried, None), 1, "for another try, too");
            set_healthy(&pool, 2, false);
            set_healthy(&pool, 3, false);
            assert!((0..20).all(|_| port(&pool, &[], None) == 1));
            set_healthy(&pool, 3, true);
            assert!((0..20).all(|_| port(&pool, &[], None) == 3));
        }
    }

    #[test]
    fn with_least_requests_the_one_with_fewer_in_flight_is_chosen_and_weights_count() {
        let pool = balanced("least_requests", &["127.0.0.1:1", "127.0.0.1:2"]);
        let _busy = begin(&pool, 1);
        assert!((0..50).all(|_| port(&pool, &[], None) == 2));
        let mut service =
            config::Service { balance: Balance::LeastRequests, ..service(&["127.0.0.1:1", "127.0.0.1:2"]) };
        service.instances[0].weight = 4;
        let pool = compile(&service);
        // Idle, it keeps to the weights.
        let first = (0..1_000).filter(|_| port(&pool, &[], None) == 1).count();
        assert!((720..880).contains(&first), "{first} of 1000");
        // Under load, the shares in flight do.
        let tries: Vec<Try> = (0..100).map(|_| begin(&pool, port(&pool, &[], None))).collect();
        let first = tries.iter().filter(|one| port_of(&one.address) == 1).count();
        assert!((78..=82).contains(&first), "{first} of 100");
    }

    #[test]
    fn with_peak_ewma_the_slower_one_is_avoided() {
        let pool = balanced("peak_ewma", &["127.0.0.1:1", "127.0.0.1:2"]);
        pool.answered(&mut begin(&pool, 2), StatusCode::OK);
        pool.failed(&mut begin(&pool, 1), None);
        assert!((0..50).all(|_| port(&pool, &[], None) == 2));
    }

    #[test]
    fn a_key_stays_with_its_instance_until_that_is_not_ready() {
        let pool = balanced("consistent_hash", &["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
        let keys: Vec<u32> = (0..300_u32).map(|key| super::super::balance_key(&key.to_be_bytes())).collect();
        let owners = || keys.iter().map(|key| port(&pool, &[], Some(*key))).collect::<Vec<_>>();
        let before = owners();
        assert_eq!(before, owners());
        set_healthy(&pool, 2, false);
        for (before, after) in before.iter().zip(owners()) {
            assert!(*before == 2 || *before == after);
            assert_ne!(after, 2);
        }
        set_healthy(&pool, 2, true);
        assert_eq!(before, owners());
    }

    #[test]
    fn with_load_max_one_hot_key_spreads() {
        let three = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"];
        let pool = balanced("consistent_hash: {by: path, load_max: 125%}", &three);
        let tries: Vec<Try> = (0..90).map(|_| begin(&pool, port(&pool, &[], Some(7)))).collect();
        for number in 1..=3 {
            let had = tries.iter().filter(|one| port_of(&one.address) == number).count();
            assert!(had <= 38, "{had} of 90 are at {number}");
        }
        drop(tries);
        let owner = port(&pool, &[], Some(7));
        assert!((0..10).all(|_| port(&pool, &[], Some(7)) == owner));
    }

    #[test]
    fn an_open_breaker_takes_its_instance_out_of_turn_and_outlives_a_reload() {
        let breaker = config::Breaker { failures: Some(1), ..config::Breaker::default() };
        let mut service = config::Service { breaker: Some(breaker), ..service(&["127.0.0.1:1", "127.0.0.1:2"]) };
        let pool = compile(&service);
        let now = Instant::now();
        let fail = |pool: &Pool, port: u16| {
            let breaker = pool.breakers.of(&begin(pool, port).address).unwrap();
            breaker.enter(now).unwrap().report(true, Duration::ZERO, now);
        };
        fail(&pool, 1);
        assert!((0..10).all(|_| port(&pool, &[], None) == 2));
        service.host = Some("example.com".to_owned());
        let reloaded = Pool::compile("users", &service, Before::Reload(Some(&pool))).unwrap();
        assert!(!Arc::ptr_eq(&pool, &reloaded));
        assert!((0..10).all(|_| port(&reloaded, &[], None) == 2));
        fail(&reloaded, 2);
        assert!(reloaded.select(&[], None).is_none());
        assert!(reloaded.breakers_left(now).is_some_and(|left| left <= Duration::from_secs(30)));
    }

    /// `E`jected, `D`own, breaker `O`pen or nothing (`.`), one letter an instance; which of them may be asked, by `when_all_down` of `eject` and `health`.
    fn asked(states: &str, ejected: WhenAllDown, down: WhenAllDown) -> Vec<u16> {
        let addresses: Vec<String> = (1..=states.len()).map(|port| format!("127.0.0.1:{port}")).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let eject = config::Eject {
            errors: 1,
            ejected_max: config::Percent(100),
            when_all_down: ejected,
            ..config::Eject::default()
        };
        let health = config::HealthCheck { when_all_down: down, ..config::HealthCheck::default() };
        let breaker = config::Breaker { failures: Some(1), ..config::Breaker::default() };
        let (eject, health, breaker) = (Some(eject), Some(health), Some(breaker));
        let pool = compile(&config::Service { eject, health, breaker, ..service(&addresses) });
        for (port, state) in (1..).zip(states.chars()) {
            let tried = begin(&pool, port);
            let now = Instant::now();
            match state {
                'E' => drop(tried.instance().eject(pool.config.eject.as_ref().unwrap(), "500", now)),
                'D' => set_healthy(&pool, port, false),
                'O' => pool.breakers.of(&tried.address).unwrap().enter(now).unwrap().report(true, Duration::ZERO, now),
                _ => {}
            }
        }
        let asked: BTreeSet<u16> = (0..50).filter_map(|_| Some(port_of(&pool.select(&[], None)?.address))).collect();
        assert_eq!(pool.is_usable(), !asked.is_empty(), "{states}");
        assert_eq!(pool.has_other(&[]), !asked.is_empty(), "{states}");
        asked.into_iter().collect()
    }

    #[test]
    fn who_is_asked_when_few_are_left() {
        use WhenAllDown::{All, Refuse};
        for (states, ejected, down, expected) in [
            (".ED", All, All, &[1][..]),
            // Who is ejected is asked where breakers hold back the rest, and never who has an open breaker.
            ("EO", All, Refuse, &[1]),
            ("EO", Refuse, Refuse, &[]),
            ("EE", All, Refuse, &[1, 2]),
            ("EE", Refuse, Refuse, &[]),
            ("OO", All, All, &[]),
            // Who fails its health checks is asked last.
            ("ED", All, All, &[1]),
            ("ED", Refuse, All, &[2]),
            ("OD", All, All, &[2]),
            ("DD", All, All, &[1, 2]),
            ("DD", All, Refuse, &[]),
            ("EOD", All, Refuse, &[1]),
        ] {
            assert_eq!(asked(states, ejected, down), expected, "{states} {ejected:?} {down:?}");
        }
    }

    #[test]
    fn a_full_instance_is_passed_by_in_every_balance_and_is_usable_all_the_same() {
        for balance in ["round_robin", "random", "least_requests", "peak_ewma", "consistent_hash"] {
            let balance = serde_yaml::from_str(balance).unwrap();
            let three = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"];
            let pool = compile(&config::Service { balance, instance_concurrent_max: Some(2), ..service(&three) });
            let mut tries: Vec<Try> = (0..6).map(|key| begin(&pool, port(&pool, &[], Some(key)))).collect();
            assert!(pool.instances().all(|status| status.instance.in_flight() == 2));
            assert!(pool.select(&[], Some(1)).is_none() && pool.is_full() && pool.is_usable());
            tries.pop();
            assert!(pool.select(&[], Some(1)).is_some() && pool.has_other(&[]));
        }
    }

    #[test]
    fn an_address_twice_is_a_problem() {
        let problems = Pool::compile("users", &service(&["127.0.0.1:1", "127.0.0.1:1"]), Before::Start).err().unwrap();
        assert_eq!(problems[0].0, "instances[1]");
    }

    #[test]
    fn an_instance_lives_on_while_its_address_and_the_way_to_it_are_the_same() {
        let first = pool(&["127.0.0.1:1", "127.0.0.1:2"]);
        let reload = |service: &config::Service| Pool::compile("users", service, Before::Reload(Some(&first))).unwrap();
        let kept = |pool: &Pool, port| {
            let same = |other: &&Member| Arc::ptr_eq(&other.instance, begin(pool, port).instance());
            first.members().any(|member| same(&member))
        };
        let mut changed = service(&["127.0.0.1:3", "127.0.0.1:2"]);
        changed.instances[1].weight = 5;
        changed.balance = Balance::Random;
        let next = reload(&changed);
        assert!(kept(&next, 2) && !kept(&next, 3));
        changed.timeouts.response = config::Span::seconds(1);
        assert!(!kept(&reload(&changed), 2));
    }

    #[test]
    fn never_more_are_ejected_than_may_be_and_all_come_back() {
        use rand::Rng as _;
        let background = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let addresses: Vec<String> = (1..=9).map(|port| format!("127.0.0.1:{port}")).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let millis = |millis| config::Span(Duration::from_millis(millis));
        let eject = config::Eject {
            errors: 2,
            time: millis(5),
            time_max: millis(20),
            ejected_max: config::Percent(40),
            ..config::Eject::default()
        };
        let pool = compile(&config::Service { eject: Some(eject), ..service(&addresses) });
        pool.failed(&mut begin(&pool, 1), Some("before it serves"));
        pool.start(None, background.handle());
        let ejected = || pool.members().filter(|member| !member.instance.is_none_of(EJECTED)).count();
        let most = std::thread::scope(|scope| {
            let fail = || {
                let mut random = rand::rng();
                let mut most = 0;
                for _ in 0..5_000 {
                    let mut one = begin(&pool, random.random_range(1..=9));
                    match random.random_range(0..4) {
                        0 => pool.answered(&mut one, StatusCode::OK),
                        _ => pool.failed(&mut one, Some("upstream_connect")),
                    }
                    most = most.max(ejected());
                }
                most
            };
            let threads = [scope.spawn(fail), scope.spawn(fail)];
            threads.map(|thread| thread.join().unwrap()).into_iter().max().unwrap()
        });
        assert_eq!(most, 3, "of 9, 40% rounded down");
        let begun = Instant::now();
        while ejected() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(10), "{} stay ejected", ejected());
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(pool.members().all(|member| member.instance.is_ready()));
    }
}
