//! A service at run time: its instances, whose turn it is, and which of them are healthy.
//! Health checks are `pingora-load-balancing`'s. Selection is our own table: the crate's allocates and hashes for every request,
//! and lets heavy instances have their turns in a row.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use http::HeaderValue;
use pingora_core::protocols::l4::socket;
use pingora_load_balancing::{Backend, Backends, Extensions, discovery};

use super::breaker::Breakers;
use super::health::{Probe, check_until_dropped};
use super::instance::{Instance, InstanceState};
use super::peer::{authorities, peer};
use super::resolve::resolve;
use super::retry_budget::RetryBudget;
use super::turns::Turns;
use crate::config;

/// Addresses and weights, in order.
type Addresses = BTreeSet<(SocketAddr, u16)>;

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
    config: config::Service,
    addresses: Addresses,
    /// In the order of addresses.
    instances: Box<[Arc<Instance>]>,
    turns: Turns,
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
        Self::build(name.into(), service.clone(), addresses, previous).map(Arc::new).map_err(|problem| vec![problem])
    }

    fn build(
        name: Arc<str>,
        config: config::Service,
        addresses: Addresses,
        previous: Option<&Arc<Self>>,
    ) -> Result<Self, (String, String)> {
        let authorities = match config.tls.as_ref().and_then(|tls| tls.ca.as_ref()) {
            Some(path) => Some(authorities(path).map_err(|problem| ("tls.ca".to_owned(), problem))?),
            None => None,
        };
        let instances: Box<[Arc<Instance>]> = addresses
            .iter()
            .map(|&(address, weight)| {
                Arc::new(Instance::new(address, weight, peer(&config, address, authorities.as_ref())))
            })
            .collect();
        let weights: Vec<u16> = instances.iter().map(|instance| instance.weight).collect();
        let backends = instances.iter().map(|instance| backend(instance)).collect();
        let mut checked = Backends::new(discovery::Static::new(backends));
        // A static list is there at once, so this never waits.
        checked.update(|_| ()).now_or_never();
        if let Some(health) = &config.health {
            let mut probe = Probe::new(&name, &config, health, Arc::from(&*instances))
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
        let turns = Turns::new(&weights);
        let previous_breakers = previous.map(|previous| &previous.breakers);
        let all = addresses.iter().map(|(address, _)| *address);
        let breakers = Breakers::compile(config.breaker.as_ref(), &name, all, previous_breakers);
        let checks_started = AtomicBool::new(false);
        let retries = previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.retries));
        Ok(Self { name, host, breakers, retries, config, addresses, instances, turns, checked, checks_started })
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

    /// The instance whose turn it is, among the healthy ones that are not in `tried`.
    pub fn select(&self, tried: &[Arc<Instance>]) -> Option<&Arc<Instance>> {
        let ready = |place: usize| Some(&self.instances[place]).filter(|instance| self.is_ready(instance, tried));
        if !tried.is_empty() {
            return self.turns.look().find_map(ready);
        }
        // Turns are shared with every other request, so a walk may meet the same instance again and again.
        self.turns.take().find_map(ready).or_else(|| self.turns.look().find_map(ready))
    }

    /// Whether an instance is left that is healthy and not in `tried`.
    pub fn has_other(&self, tried: &[Arc<Instance>]) -> bool {
        self.instances.iter().any(|instance| self.is_ready(instance, tried))
    }

    fn is_ready(&self, instance: &Instance, tried: &[Arc<Instance>]) -> bool {
        instance.is_healthy()
            && tried.iter().all(|tried| tried.address != instance.address)
            && self.breakers.let_through(instance.address)
    }

    /// Until a breaker lets the next request pass, where breakers alone are in the way.
    pub fn breakers_left(&self, now: Instant) -> Option<Duration> {
        let healthy = self.instances.iter().filter(|instance| instance.is_healthy());
        self.breakers.left(healthy.map(|instance| instance.address), now)
    }

    /// Every instance with its state, in the order of addresses.
    pub fn instances(&self) -> Vec<(Arc<Instance>, InstanceState)> {
        let state = |instance: &Instance| match (&self.config.health, instance.is_healthy()) {
            (None, _) => InstanceState::Unchecked,
            (Some(_), true) => InstanceState::Up,
            (Some(_), false) => InstanceState::Down,
        };
        self.instances.iter().map(|instance| (Arc::clone(instance), state(instance))).collect()
    }

    /// The service as it is configured.
    pub fn config(&self) -> &config::Service {
        &self.config
    }

    /// The addresses its instances resolved to.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.addresses.iter().map(|(address, _)| *address)
    }
}

fn backend(instance: &Instance) -> Backend {
    let addr = socket::SocketAddr::Inet(instance.address);
    Backend { addr, weight: usize::from(instance.weight), ext: Extensions::new() }
}

fn resolve_all(service: &config::Service) -> Result<Addresses, Vec<(String, String)>> {
    let mut addresses: HashMap<SocketAddr, u16> = HashMap::new();
    let mut problems = Vec::new();
    for (index, instance) in service.instances.iter().enumerate() {
        match resolve(&instance.address) {
            Ok(found) => {
                for address in found {
                    if addresses.insert(address, instance.weight).is_some() {
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
    if problems.is_empty() { Ok(addresses.into_iter().collect()) } else { Err(problems) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(addresses: &[&str]) -> config::Service {
        let instance = |address: &&str| config::Instance { address: (*address).to_owned(), weight: 1 };
        config::Service { instances: addresses.iter().map(instance).collect(), ..config::Service::default() }
    }

    fn pool(addresses: &[&str]) -> Arc<Pool> {
        Pool::compile("users", &service(addresses), None).unwrap()
    }

    #[test]
    fn instances_take_turns() {
        let pool = pool(&["127.0.0.1:1", "127.0.0.1:2"]);
        let ports: Vec<u16> = (0..6).map(|_| pool.select(&[]).unwrap().address.port()).collect();
        assert!(ports.windows(2).all(|pair| pair[0] != pair[1]), "{ports:?}");
    }

    #[test]
    fn the_turns_of_an_unhealthy_instance_are_shared_by_all_others() {
        let pool = pool(&["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
        pool.instances[1].set_healthy(false);
        let first = (0..300).filter(|_| pool.select(&[]).unwrap().address.port() == 1).count();
        assert!((149..=151).contains(&first), "{first} of 300");
    }

    #[test]
    fn another_try_takes_no_turn() {
        let pool = pool(&["127.0.0.1:1", "127.0.0.1:2"]);
        let first_tries = (0..10).map(|_| {
            let first = pool.select(&[]).unwrap();
            pool.select(std::slice::from_ref(first)).unwrap();
            first.address.port()
        });
        assert_eq!(first_tries.collect::<Vec<_>>(), [1, 2, 1, 2, 1, 2, 1, 2, 1, 2]);
    }

    #[test]
    fn a_tried_instance_is_not_chosen_again() {
        let pool = pool(&["127.0.0.1:1", "127.0.0.1:2"]);
        for _ in 0..10 {
            let first = pool.select(&[]).unwrap();
            let second = pool.select(std::slice::from_ref(first)).unwrap();
            assert_ne!(first.address, second.address);
            assert!(pool.select(&[Arc::clone(first), Arc::clone(second)]).is_none());
        }
    }

    #[test]
    fn an_open_breaker_takes_its_instance_out_of_turn_and_outlives_a_reload() {
        let breaker = config::Breaker { failures: Some(1), ..config::Breaker::default() };
        let mut service = config::Service { breaker: Some(breaker), ..service(&["127.0.0.1:1", "127.0.0.1:2"]) };
        let pool = Pool::compile("users", &service, None).unwrap();
        let now = Instant::now();
        let fail = |pool: &Pool, place: usize| {
            let breaker = pool.breakers.of(pool.instances[place].address).unwrap();
            breaker.enter(now).unwrap().report(true, Duration::ZERO, now);
        };
        fail(&pool, 0);
        assert!((0..10).all(|_| pool.select(&[]).unwrap().address.port() == 2));
        service.host = Some("example.com".to_owned());
        let reloaded = Pool::compile("users", &service, Some(&pool)).unwrap();
        assert!(!Arc::ptr_eq(&pool, &reloaded));
        assert!((0..10).all(|_| reloaded.select(&[]).unwrap().address.port() == 2));
        fail(&reloaded, 1);
        assert!(reloaded.select(&[]).is_none());
        assert!(reloaded.breakers_left(now).is_some_and(|left| left <= Duration::from_secs(30)));
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
