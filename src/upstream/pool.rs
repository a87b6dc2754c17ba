//! A service at run time: its instances, and which of them is next.
//! How one is chosen among those that are ready is in `balance`; here is who is ready, and that backups come last.
//! Health checks are `pingora-load-balancing`'s. Selection is our own: the crate's allocates and hashes for every request.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use futures_util::FutureExt;
use http::HeaderValue;
use pingora_core::protocols::l4::socket;
use pingora_load_balancing::{Backend, Backends, Extensions, discovery};

use super::balance::{Group, Member, Wish};
use super::health::{Probe, check_until_dropped};
use super::instance::{Instance, InstanceState, Try};
use super::peer::{authorities, peer};
use super::resolve::resolve;
use crate::config::{self, Balance, HashBy};

/// Addresses with their weight, and whether they are backups; in order.
type Addresses = BTreeSet<(SocketAddr, u16, bool)>;

/// The compiled form of one service.
pub struct Pool {
    /// The service's name.
    pub name: Arc<str>,
    /// The `Host` sent to instances, where it is not the client's.
    pub host: Option<HeaderValue>,
    config: config::Service,
    addresses: Addresses,
    /// The instances for all requests, and those for when none of these is ready.
    groups: [Group; 2],
    /// Tries at all instances that have not ended, where the choice depends on them.
    in_flight: Arc<AtomicUsize>,
    /// What is checked; the outcome is in the instances.
    checked: Backends,
    checks_started: AtomicBool,
}

impl Pool {
    /// Resolves and compiles `service`. The same pool as `previous` where nothing about it changed, addresses included.
    ///
    /// # Errors
    /// What is wrong, with the part of the service it is about.
    pub fn compile(
        name: &str,
        service: &config::Service,
        previous: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, Vec<(String, String)>> {
        let addresses = resolve_all(service)?;
        if let Some(pool) = previous
            && pool.config == *service
            && pool.addresses == addresses
        {
            return Ok(Arc::clone(pool));
        }
        Self::build(name.into(), service.clone(), addresses).map(Arc::new).map_err(|problem| vec![problem])
    }

    fn build(name: Arc<str>, config: config::Service, addresses: Addresses) -> Result<Self, (String, String)> {
        let authorities = match config.tls.as_ref().and_then(|tls| tls.ca.as_ref()) {
            Some(path) => Some(authorities(path).map_err(|problem| ("tls.ca".to_owned(), problem))?),
            None => None,
        };
        let members = |backup| {
            let members = addresses.iter().filter(move |(_, _, is_backup)| *is_backup == backup);
            members.map(|&(address, weight, _)| {
                let instance = Arc::new(Instance::new(address, peer(&config, address, authorities.as_ref())));
                Member { instance, weight }
            })
        };
        let in_flight = Arc::default();
        let groups = [false, true].map(|backup| Group::new(&config.balance, members(backup).collect(), &in_flight));
        let members = || groups.iter().flat_map(Group::members);
        let backends = members().map(backend).collect();
        let mut checked = Backends::new(discovery::Static::new(backends));
        // A static list is there at once, so this never waits.
        checked.update(|_| ()).now_or_never();
        if let Some(health) = &config.health {
            let instances = members().map(|member| Arc::clone(&member.instance)).collect();
            let mut probe = Probe::new(&name, &config, health, instances)
                .map_err(|error| ("health.path".to_owned(), error.to_string()))?;
            if let Some(authorities) = &authorities {
                probe.trust(authorities);
            }
            checked.set_health_check(Box::new(probe));
        }
        let host = match &config.host {
            Some(host) => Some(HeaderValue::from_str(host).map_err(|error| ("host".to_owned(), error.to_string()))?),
            None => None,
        };
        Ok(Self { name, host, config, addresses, groups, in_flight, checked, checks_started: AtomicBool::new(false) })
    }

    /// Begins the health checks on `runtime`; they end with the pool. Once is enough.
    pub fn start_checks(self: &Arc<Self>, runtime: &tokio::runtime::Handle) {
        if let Some(health) = &self.config.health
            && !self.checks_started.swap(true, Ordering::AcqRel)
        {
            runtime.spawn(check_until_dropped(Arc::downgrade(self), health.every.0));
        }
    }

    pub(super) async fn check_once(&self) {
        self.checked.run_health_check(true).await;
    }

    /// The next instance, among those that are ready and not in `tried`; `key` is where the request lies on the ring, if there is one.
    pub fn select(&self, tried: &[Try], key: Option<u32>) -> Option<&Arc<Instance>> {
        let wish = Wish { key: key.unwrap_or_default(), is_again: !tried.is_empty() };
        self.groups.iter().find_map(|group| group.select(wish, |instance| is_ready(instance, tried)))
    }

    /// A try at one of the instances begins.
    pub fn begin(&self, instance: &Arc<Instance>, now: Instant) -> Try {
        let counts = matches!(&self.config.balance, Balance::ConsistentHash(hash) if hash.load_max.is_some());
        Try::begin(instance, counts.then_some(&self.in_flight), now)
    }

    /// Where the key of a request is, if the choice depends on it.
    pub fn hash_by(&self) -> Option<&HashBy> {
        match &self.config.balance {
            Balance::ConsistentHash(hash) => Some(&hash.by),
            Balance::RoundRobin | Balance::LeastRequests | Balance::PeakEwma | Balance::Random => None,
        }
    }

    /// Whether an instance is left that is healthy and not in `tried`.
    pub fn has_other(&self, tried: &[Try]) -> bool {
        self.members().any(|member| is_ready(&member.instance, tried))
    }

    /// Every instance with what is known about it, backups last, otherwise in the order of addresses.
    pub fn instances(&self) -> impl Iterator<Item = InstanceStatus> {
        let state = |instance: &Instance| match (&self.config.health, instance.is_healthy()) {
            (None, _) => InstanceState::Unchecked,
            (Some(_), true) => InstanceState::Up,
            (Some(_), false) => InstanceState::Down,
        };
        self.groups.iter().zip([false, true]).flat_map(move |(group, is_backup)| {
            group.members().iter().map(move |member| InstanceStatus {
                instance: Arc::clone(&member.instance),
                state: state(&member.instance),
                weight: member.weight,
                is_backup,
            })
        })
    }

    fn members(&self) -> impl Iterator<Item = &Member> {
        self.groups.iter().flat_map(Group::members)
    }

    /// The service as it is configured.
    pub fn config(&self) -> &config::Service {
        &self.config
    }

    /// The addresses its instances resolved to.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.addresses.iter().map(|(address, ..)| *address)
    }
}

/// What is known about an instance of a pool.
pub struct InstanceStatus {
    /// The instance.
    pub instance: Arc<Instance>,
    /// Whether it gets requests, and why not.
    pub state: InstanceState,
    /// Its share of the requests.
    pub weight: u16,
    /// Whether it gets requests only while no other can.
    pub is_backup: bool,
}

fn is_ready(instance: &Instance, tried: &[Try]) -> bool {
    instance.is_healthy() && tried.iter().all(|tried| tried.address != instance.address)
}

fn backend(member: &Member) -> Backend {
    let addr = socket::SocketAddr::Inet(member.instance.address);
    Backend { addr, weight: usize::from(member.weight), ext: Extensions::new() }
}

fn resolve_all(service: &config::Service) -> Result<Addresses, Vec<(String, String)>> {
    let mut addresses = HashMap::new();
    let mut problems = Vec::new();
    for (index, instance) in service.instances.iter().enumerate() {
        match resolve(&instance.address) {
            Ok(found) => {
                for address in found {
                    if addresses.insert(address, (instance.weight, instance.backup)).is_some() {
                        problems.push((
                            format!("instances[{index}]"),
                            format!("`{}` is {address}, which this service already has", instance.address),
                        ));
                    }
                }
            }
            Err(problem) => problems.push((format!("instances[{index}]"), problem)),
        }
    }
    if problems.is_empty() {
        Ok(addresses.into_iter().map(|(address, (weight, backup))| (address, weight, backup)).collect())
    } else {
        Err(problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(addresses: &[&str]) -> config::Service {
        let instances = addresses.iter().map(|address| config::Instance::at(address)).collect();
        config::Service { instances, ..config::Service::default() }
    }

    fn compile(service: &config::Service) -> Arc<Pool> {
        Pool::compile("users", service, None).unwrap()
    }

    fn pool(addresses: &[&str]) -> Arc<Pool> {
        compile(&service(addresses))
    }

    fn balanced(balance: &str, addresses: &[&str]) -> Arc<Pool> {
        compile(&config::Service { balance: serde_yaml::from_str(balance).unwrap(), ..service(addresses) })
    }

    fn port(pool: &Pool, tried: &[Try], key: Option<u32>) -> u16 {
        pool.select(tried, key).unwrap().address.port()
    }

    fn begin(pool: &Pool, port: u16) -> Try {
        let member = pool.members().find(|member| member.instance.address.port() == port).unwrap();
        pool.begin(&member.instance, Instant::now())
    }

    fn set_healthy(pool: &Pool, port: u16, healthy: bool) {
        begin(pool, port).set_healthy(healthy);
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
            first.address.port()
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
        let first = tries.iter().filter(|one| one.address.port() == 1).count();
        assert!((78..=82).contains(&first), "{first} of 100");
    }

    #[test]
    fn with_peak_ewma_the_slower_one_is_avoided() {
        let pool = balanced("peak_ewma", &["127.0.0.1:1", "127.0.0.1:2"]);
        begin(&pool, 2).answered(http::StatusCode::OK);
        begin(&pool, 1).failed();
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
            let had = tries.iter().filter(|one| one.address.port() == number).count();
            assert!(had <= 38, "{had} of 90 are at {number}");
        }
        drop(tries);
        let owner = port(&pool, &[], Some(7));
        assert!((0..10).all(|_| port(&pool, &[], Some(7)) == owner));
    }

    #[test]
    fn an_unchanged_service_keeps_its_pool() {
        let first = pool(&["127.0.0.1:1"]);
        let same = Pool::compile("users", &service(&["127.0.0.1:1"]), Some(&first)).unwrap();
        let other = Pool::compile("users", &service(&["127.0.0.1:2"]), Some(&first)).unwrap();
        assert!(Arc::ptr_eq(&first, &same));
        assert!(!Arc::ptr_eq(&first, &other));
    }

    #[test]
    fn an_address_twice_is_a_problem() {
        let problems = Pool::compile("users", &service(&["127.0.0.1:1", "127.0.0.1:1"]), None).err().unwrap();
        assert_eq!(problems[0].0, "instances[1]");
    }
}
