//! A service at run time: its instances, whose turn it is, and which of them are healthy.
//! Selection and health are `pingora-load-balancing`'s; the instance table beside it holds what we count.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;
use http::HeaderValue;
use pingora_core::protocols::l4::socket;
use pingora_load_balancing::selection::RoundRobin;
use pingora_load_balancing::{Backend, Backends, Extensions, LoadBalancer, discovery};

use super::health::{Probe, check_until_dropped};
use super::instance::{Instance, InstanceState};
use super::peer::{authorities, peer};
use super::resolve::resolve;
use crate::config;

/// Addresses and weights, in order.
type Addresses = BTreeSet<(SocketAddr, u16)>;

/// The compiled form of one service.
pub struct Pool {
    /// The service's name.
    pub name: Arc<str>,
    /// The `Host` sent to instances, where it is not the client's.
    pub host: Option<HeaderValue>,
    config: config::Service,
    addresses: Addresses,
    instances: HashMap<SocketAddr, Arc<Instance>>,
    balancer: LoadBalancer<RoundRobin>,
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
        let instances = addresses
            .iter()
            .map(|&(address, weight)| {
                (address, Arc::new(Instance::new(address, weight, peer(&config, address, authorities.as_ref()))))
            })
            .collect();
        let backends = addresses.iter().map(|&(address, weight)| backend(address, weight)).collect();
        let mut balancer = LoadBalancer::from_backends(Backends::new(discovery::Static::new(backends)));
        // A static list is there at once, so this never waits.
        balancer.update().now_or_never();
        if let Some(health) = &config.health {
            let mut probe =
                Probe::new(&name, &config, health).map_err(|error| ("health.path".to_owned(), error.to_string()))?;
            if let Some(authorities) = &authorities {
                probe.trust(authorities);
            }
            balancer.set_health_check(Box::new(probe));
        }
        let host = match &config.host {
            Some(host) => Some(HeaderValue::from_str(host).map_err(|error| ("host".to_owned(), error.to_string()))?),
            None => None,
        };
        Ok(Self { name, host, config, addresses, instances, balancer, checks_started: AtomicBool::new(false) })
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
        self.balancer.backends().run_health_check(true).await;
    }

    /// The instance whose turn it is, among the healthy ones that are not in `tried`.
    pub fn select(&self, tried: &[Arc<Instance>]) -> Option<Arc<Instance>> {
        let untried = |address: SocketAddr| tried.iter().all(|instance| instance.address != address);
        self.balancer
            .select_with(b"", self.turns(), |backend, healthy| {
                healthy && backend.addr.as_inet().is_some_and(|address| untried(*address))
            })
            .and_then(|backend| self.instances.get(backend.addr.as_inet()?))
            .map(Arc::clone)
            // Turns are shared with every other request: a walk may meet the same instance again and again.
            .or_else(|| self.ready().find(|instance| untried(instance.address)).map(Arc::clone))
    }

    /// Whether an instance is left that is healthy and not in `tried`.
    pub fn has_other(&self, tried: &[Arc<Instance>]) -> bool {
        self.ready().any(|instance| tried.iter().all(|other| other.address != instance.address))
    }

    fn ready(&self) -> impl Iterator<Item = &Arc<Instance>> {
        self.addresses
            .iter()
            .filter(|&&(address, weight)| self.balancer.backends().ready(&backend(address, weight)))
            .filter_map(|(address, _)| self.instances.get(address))
    }

    /// Every instance with its state, in the order of addresses.
    pub fn instances(&self) -> Vec<(Arc<Instance>, InstanceState)> {
        self.addresses
            .iter()
            .filter_map(|&(address, weight)| {
                let instance = self.instances.get(&address)?;
                let state = match (&self.config.health, self.balancer.backends().ready(&backend(address, weight))) {
                    (None, _) => InstanceState::Unchecked,
                    (Some(_), true) => InstanceState::Up,
                    (Some(_), false) => InstanceState::Down,
                };
                Some((Arc::clone(instance), state))
            })
            .collect()
    }

    /// The service as it is configured.
    pub fn config(&self) -> &config::Service {
        &self.config
    }

    /// The addresses its instances resolved to.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.addresses.iter().map(|(address, _)| *address)
    }

    /// Steps after which the balancer has offered every instance at least once: it walks through turns, and
    /// an instance has as many turns as its weight.
    fn turns(&self) -> usize {
        self.addresses.iter().map(|(_, weight)| usize::from(*weight)).sum::<usize>() + self.addresses.len()
    }
}

fn backend(address: SocketAddr, weight: u16) -> Backend {
    Backend { addr: socket::SocketAddr::Inet(address), weight: usize::from(weight), ext: Extensions::new() }
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
        config::Service {
            instances: addresses
                .iter()
                .map(|address| config::Instance { address: (*address).to_owned(), weight: 1 })
                .collect(),
            balance: config::Balance::RoundRobin,
            host: None,
            tls: None,
            health: None,
            timeouts: config::Timeouts::default(),
        }
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
    fn a_tried_instance_is_not_chosen_again() {
        let pool = pool(&["127.0.0.1:1", "127.0.0.1:2"]);
        for _ in 0..10 {
            let first = pool.select(&[]).unwrap();
            let second = pool.select(std::slice::from_ref(&first)).unwrap();
            assert_ne!(first.address, second.address);
            assert!(pool.select(&[first, second]).is_none());
        }
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
