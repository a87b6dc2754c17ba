//! What a configuration compiles to: immutable, complete, swapped whole on reload.
//! What is unchanged is carried over from the runtime before: pools with their health, limits with their counts, the flood guard's.
//! Not here: how the file is read (`config`), and what happens to a request (`gateway`).

mod certificates;
mod live;
mod route;
mod routes;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use certificates::Certificates;
pub use live::{Live, Reloads};
pub use route::Route;
pub use routes::{Found, Routes};

use crate::config::{self, Config, Problems};
use crate::keys::LiveKeys;
use crate::policy::auth::Auth;
use crate::policy::cache::CacheRule;
use crate::policy::client_address::TrustedProxies;
use crate::policy::clients::Clients;
use crate::policy::compress::Compress;
use crate::policy::concurrency::Concurrency;
use crate::policy::cors::Cors;
use crate::policy::flood_guard::FloodGuard;
use crate::policy::headers::Changes;
use crate::policy::limit::{Book, Now, RouteLimits, Sharing};
use crate::policy::retry::Retry;
use crate::policy::rewrite::Rewrite;
use crate::upstream::{Discovery, Predecessor, Service, SourceStatus};

/// A start or a reload waits so long for the store of shared limits; without it they begin with the fallback.
const STORE_TRIED_WITHIN: Duration = Duration::from_secs(2);

/// A configuration, ready to serve.
pub struct Runtime {
    /// Counts the configurations since the process began, from 1.
    pub generation: u32,
    /// What it was compiled from.
    pub config: Arc<Config>,
    /// Which route a request belongs to.
    pub routes: Routes,
    /// Services by name.
    pub services: HashMap<Arc<str>, Arc<Service>>,
    /// How instances are found.
    pub discovery: Arc<Discovery>,
    /// Every limit, by where it counts.
    pub limits: Book,
    /// Where limits are decided that several gateways share.
    pub sharing: Option<Sharing>,
    /// Whether any route has a cache.
    pub has_caches: bool,
    /// Routes by endpoint, in the order of the file.
    pub endpoints: Vec<Arc<Route>>,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: TrustedProxies,
    /// The first of all checks.
    pub flood_guard: Option<FloodGuard>,
    /// The keys of the file and of the key store.
    pub keys: Arc<LiveKeys>,
    /// Certificates by listener.
    pub certificates: HashMap<SocketAddr, Certificates>,
}

impl Runtime {
    /// Compiles everything, and keeps from `previous` what did not change. Changes nothing outside of itself.
    ///
    /// # Errors
    /// Every problem that only compiling finds: names that don't resolve, certificates that can't be used.
    pub fn compile(config: Config, previous: Option<&Self>) -> Result<Self, Problems> {
        let mut problems = Problems::new(config.places.named.clone());
        let certificates = certificates(&config, &mut problems);
        let discovery = Discovery::compile(&config.discovery, previous.map(|runtime| &runtime.discovery));
        let discovery = match discovery {
            Ok(discovery) => discovery,
            Err(problem) => {
                problems.add(&config.places, "discovery.state", problem);
                return Err(problems);
            }
        };
        if let Some(disk) = &config.cache.disk
            && let Err(problem) = crate::cache::disk::usable(&disk.path)
        {
            problems.add(&config.places, "cache.disk.path", problem);
        }
        let services = services(&config, &discovery, previous, &mut problems);
        let sharing = Sharing::compile(&config.limits, previous.and_then(|runtime| runtime.sharing.as_ref()));
        let sharing = sharing.unwrap_or_else(|problem| {
            problems.add(&config.places, "limits.ca", problem);
            None
        });
        let stored = previous.map_or_else(Arc::default, |runtime| runtime.keys.stored());
        let keys = Arc::new(LiveKeys::compile(&config, stored));
        let (limits, mut limits_of) = Book::compile(&config, previous.map(|runtime| &runtime.limits));
        let mut endpoints = Vec::with_capacity(config.routes.len());
        for (endpoint, route) in &config.routes {
            // A service with a problem is not there; that problem is reported already.
            let Some(service) = services.get(route.to.as_str()) else { continue };
            let before = previous.and_then(|runtime| runtime.route(endpoint));
            let Some(limits) = limits_of.remove(endpoint) else { continue };
            match compile_route(&config, endpoint, route, service, &keys, limits, before) {
                Ok(route) => endpoints.push(Arc::new(route)),
                Err(problem) => problems.add(&config.places, format!("routes.{endpoint}.headers"), problem),
            }
        }
        let flood_guard = config
            .flood_guard
            .map(|guard| FloodGuard::compile(guard, previous.and_then(|runtime| runtime.flood_guard.as_ref())));
        let patterns =
            endpoints.iter().map(|route| (Arc::clone(route), config.routes[&*route.endpoint].patterns.clone()));
        let runtime = Self {
            generation: previous.map_or(1, |runtime| runtime.generation + 1),
            routes: Routes::compile(patterns),
            services,
            discovery,
            limits,
            sharing,
            has_caches: endpoints.iter().any(|route| route.cache.is_some()),
            endpoints,
            trusted_proxies: TrustedProxies::compile(&config.trusted_proxies),
            flood_guard,
            keys,
            certificates,
            config: Arc::new(config),
        };
        problems.or(runtime)
    }

    /// Begins what runs beside the data path (health checks, the link to the store of shared limits, the bound of the cache), and lets new numbers
    /// hold for the counts that are kept of `previous`. Waits until that store was tried, at most 2 s: not for a thread of `background`.
    pub fn start(&self, previous: Option<&Self>, background: &tokio::runtime::Handle) {
        if let Some(previous) = previous {
            self.limits.take_effect(&previous.limits, Now::read());
        }
        self.discovery.registry.retain(|name| {
            let discover = self.services.get(name).map(|service| service.config().discover.as_ref());
            discover.map(|discover| discover.is_some_and(|discover| discover.registration))
        });
        for (name, service) in &self.services {
            service.start(previous.and_then(|runtime| runtime.services.get(name)), background);
        }
        let before = previous.into_iter().flat_map(|runtime| &runtime.services);
        before.filter(|(name, _)| !self.services.contains_key(*name)).for_each(|(_, service)| service.stop());
        if let Some(sharing) = &self.sharing {
            sharing.store.start(background);
            background.block_on(sharing.store.tried(STORE_TRIED_WITHIN));
        }
        let config::CacheStore { memory, disk } = &self.config.cache;
        crate::cache::store().bound(memory.0, disk.as_ref().map(|disk| disk.size.0));
    }

    /// Services have whom they are to have now. What was said meanwhile went to the runtime before.
    pub fn catch_up(&self) {
        self.services.values().for_each(|service| service.catch_up());
    }

    /// The route with this endpoint.
    pub fn route(&self, endpoint: &str) -> Option<&Arc<Route>> {
        self.endpoints.iter().find(|route| *route.endpoint == *endpoint)
    }
}

/// Reads, resolves and compiles everything that start does, and changes nothing; a summary, a line each, and what is missing
/// that the start goes on without.
///
/// # Errors
/// Every problem.
pub fn check(config: &Config) -> Result<(Vec<String>, Problems), Problems> {
    let runtime = Runtime::compile(config.clone(), None)?;
    let mut lines: Vec<String> =
        config.listen.iter().map(|listener| format!("listens on {}", listener.address)).collect();
    lines.extend(config.admin.iter().map(|admin| format!("admin on {}", admin.address)));
    let mut missing = Problems::new(config.places.named.clone());
    for (name, service) in config.services.keys().filter_map(|name| runtime.services.get_key_value(name.as_str())) {
        let addresses: Vec<String> = service.pool().addresses().map(|address| address.to_string()).collect();
        let addresses = if addresses.is_empty() { "no instance yet".to_owned() } else { addresses.join(", ") };
        lines.push(format!("service {name}: {addresses}"));
        for SourceStatus { source, problem, .. } in service.sources() {
            // `dns NAME`, `srv NAME`: the word is the field.
            let field = source.split(' ').next().unwrap_or_default();
            if let Some(problem) = problem {
                missing.add(&config.places, format!("services.{name}.discover.{field}"), problem);
            }
        }
    }
    lines.extend(runtime.endpoints.iter().map(|route| format!("route {} to {}", route.endpoint, route.service.name)));
    lines.push(format!("keys: {}", config.keys.len()));
    if runtime.sharing.is_some() {
        lines.push(format!("limits are shared through {:?}", config.limits.store));
    }
    if let Some(disk) = &config.cache.disk {
        lines.push(format!("cache on disk: {}, at most {}", disk.path.display(), disk.size));
    }
    lines.push(format!("log: {:?}", config.log.store));
    Ok((lines, missing))
}

fn certificates(config: &Config, problems: &mut Problems) -> HashMap<SocketAddr, Certificates> {
    let mut found = HashMap::new();
    for (index, listener) in config.listen.iter().enumerate() {
        match Certificates::load(&listener.tls) {
            Ok(certificates) => found.extend(certificates.map(|it| (listener.address, it))),
            Err(list) => {
                for (place, problem) in list {
                    problems.add(&config.places, format!("listen[{index}].tls{place}"), problem);
                }
            }
        }
    }
    found
}

fn services(
    config: &Config,
    discovery: &Arc<Discovery>,
    previous: Option<&Runtime>,
    problems: &mut Problems,
) -> HashMap<Arc<str>, Arc<Service>> {
    let before = |name: &str| match previous {
        Some(runtime) => Predecessor::Reload(runtime.services.get(name)),
        None => Predecessor::None,
    };
    let answers = Service::ask_first(discovery, config.services.iter().map(|(name, service)| (service, before(name))));
    let mut services = HashMap::with_capacity(config.services.len());
    for (name, service) in &config.services {
        match Service::compile(name, service, discovery, &answers, before(name)) {
            Ok(service) => {
                services.insert(Arc::clone(&service.name), service);
            }
            Err(list) => {
                for (place, problem) in list {
                    problems.add(&config.places, format!("services.{name}.{place}"), problem);
                }
            }
        }
    }
    services
}

fn compile_route(
    config: &Config,
    endpoint: &str,
    route: &config::Route,
    service: &Arc<Service>,
    keys: &Arc<LiveKeys>,
    limits: RouteLimits,
    before: Option<&Arc<Route>>,
) -> Result<Route, String> {
    let defaults = &config.defaults;
    let cache = route.cache.as_ref();
    let label: Arc<str> = before.map_or_else(|| endpoint.into(), |before| Arc::clone(&before.endpoint));
    Ok(Route {
        endpoint: Arc::clone(&label),
        service: Arc::clone(service),
        auth: Auth::compile(route.keys.as_ref().unwrap_or(&defaults.keys), &config.key_in, Arc::clone(keys)),
        clients: route.clients.as_ref().map(Clients::compile),
        cors: route.cors.as_ref().map(|cors| Cors::compile(cors, &config.key_in)),
        limits,
        concurrency: route
            .concurrency
            .as_ref()
            .map(|config| Concurrency::compile(config, before.and_then(|before| before.concurrency.as_ref()))),
        body_bytes_max: route.body_max.unwrap_or(defaults.body_max).0,
        cache: cache.map(|policy| CacheRule::compile(policy, label, fingerprint(route, service))),
        compress: route.compress.as_ref().and_then(Compress::compile),
        timeout: route.timeout.unwrap_or(defaults.timeout).0,
        retry: retry(config, route, service).map(Retry::compile),
        rewrite: Rewrite::compile(route.strip_prefix.as_deref(), route.rewrite.as_deref()),
        request_headers: Changes::compile(&route.headers.request)?,
        response_headers: Changes::compile(&route.headers.response)?,
        names_consumer: !cache.is_some_and(|policy| policy.shared),
    })
}

/// The nearest one that is written: the route's, the service's, that of `defaults`. `none` is written, too.
fn retry<'a>(config: &'a Config, route: &'a config::Route, service: &'a Service) -> Option<&'a config::Retry> {
    match route.retry.as_ref().or(service.config().retry.as_ref()) {
        Some(nearest) => nearest.as_ref(),
        None => config.defaults.retry.as_ref(),
    }
}

/// Of everything that an answer can depend on: where it differs, stored answers are not found any more.
fn fingerprint(route: &config::Route, service: &Service) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{route:?} {:?}", service.config()).hash(&mut hasher);
    hasher.finish()
}
