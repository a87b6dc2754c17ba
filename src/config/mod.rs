//! The configuration: one YAML file, read in two passes, strict.
//! The first pass (`tree.rs`, `variables.rs`) knows positions, duplicates and variables;
//! the second (`entries.rs`) reads each entry into the types of `schema.rs`; then come the rules across fields (`check/`).
//! Not here: what a configuration compiles to (`runtime`).

mod access;
mod balance;
mod caching;
mod check;
mod compression;
mod defaults;
mod discovery;
mod dump;
mod entries;
mod fault;
mod health;
mod json_schema;
mod limits;
mod logging;
mod not_built;
mod pattern;
mod places;
mod problems;
mod rate;
mod reader;
mod resilience;
mod scalar_forms;
mod schema;
mod shared_store;
mod short_forms;
mod store_url;
mod syntax;
mod text;
mod tree;
mod units;
mod variables;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

pub use access::{Clients, Cors, Expiry, KeyAccess, KeyRule, KeyStoreUrl};
pub use balance::{Balance, ConsistentHash, HashBy};
pub use caching::{CachePolicy, CachedMethod, CachedQuery, KeyPart, RequestDirectives, SetCookie};
pub use check::{CACHE_MEMORY_MIN, DEMO_KEY_SHA256};
pub use compression::{Coding, Codings};
pub use discovery::{Discover, Discovery, DnsServer};
pub use dump::dump;
pub use health::{Eject, HealthCheck, HealthStart, StatusRange, WhenAllDown};
pub use json_schema::json_schema;
pub use limits::{Concurrency, LimitRule, LimitSettings, LimitStore, Plan, Zone};
pub use pattern::{HostPattern, Pattern, Segment};
pub use places::Places;
pub use problems::{Problem, Problems, did_you_mean};
pub use rate::{Algorithm, Limit, Mode, Per, Rate, Window};
pub use resilience::{Breaker, BreakerPer, Retry};
pub use schema::*;
pub use shared_store::{Gateways, OnStoreError, SharedStore};
pub use store_url::StoreUrl;
pub use units::{Percent, Size, Span};

/// Reads and checks a configuration file; paths in it become absolute.
/// Variables come from the process environment, then from `.env` beside the file.
///
/// # Errors
/// Every problem that was found.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let text = read_text(path)?;
    let beside = env_beside(path)?;
    read(&text, path, &|name| std::env::var(name).ok().or_else(|| beside.get(name).cloned()))
}

/// Reads `admin` alone, whatever the rest of the file is like: where to ask a running gateway. None when it is `none`.
///
/// # Errors
/// The file cannot be read, is no YAML, or has no good `admin`.
pub fn load_admin(path: &Path) -> Result<Option<Admin>, Problems> {
    let text = read_text(path)?;
    let beside = env_beside(path)?;
    let environment = |name: &str| std::env::var(name).ok().or_else(|| beside.get(name).cloned());
    let mut problems = Problems::new(path.display().to_string());
    let Some(root) = tree::parse(&text, &mut problems) else { return Err(problems) };
    let mut problems = Problems::new(path.display().to_string());
    let mut places = Places::new(path);
    let folder = places.folder();
    let mut alone = root.only("admin");
    variables::replace(&mut alone, &folder, &environment, &mut places, &mut problems);
    let admin = entries::read_admin(&mut alone, &places, &mut problems);
    problems.or(admin)
}

/// Whether `name` can be the name of a service, route, key or consumer: 1 to 64 letters, digits, `.`, `_` and `-`.
pub fn is_name(name: &str) -> bool {
    name != "none"
        && (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

fn read_text(path: &Path) -> Result<String, Problems> {
    read_file(path, tree::FILE_MAX).map_err(|reason| Problems::of(path.display().to_string(), reason))
}

/// The variables of `.env` beside the file; none when there is no such file.
fn env_beside(path: &Path) -> Result<HashMap<String, String>, Problems> {
    let path = path.parent().unwrap_or(Path::new("")).join(".env");
    if !path.exists() {
        return Ok(HashMap::new());
    }
    variables::read_env(&read_text(&path)?).map_err(|line| {
        let message = "expected NAME=value, NAME=\"value\" or a comment with `#`";
        Problems::of(format!("{}:{line}", path.display()), message)
    })
}

/// Reads and checks the text of a configuration that stands at `path`, with variables from `environment`.
///
/// # Errors
/// Every problem that was found.
pub fn read(text: &str, path: &Path, environment: &variables::Environment<'_>) -> Result<Config, Problems> {
    let mut problems = Problems::new(path.display().to_string());
    let Some(mut root) = tree::parse(text, &mut problems) else { return Err(problems) };
    if !matches!(root.kind, tree::Kind::Map(_)) {
        problems.push(tree::problem(
            root.at,
            "",
            "a configuration is a map: lines of `name: value`, such as `listen: 127.0.0.1:8080`",
        ));
        return Err(problems);
    }
    let mut places = Places::new(path);
    let folder = places.folder();
    variables::replace(&mut root, &folder, environment, &mut places, &mut problems);
    let mut draft = entries::read(root, places, &mut problems);
    check::check(&draft, &mut problems);
    make_absolute(&mut draft.config, &folder);
    problems.or(draft.config)
}

fn read_file(path: &Path, size_max: u64) -> Result<String, String> {
    use std::io::Read;
    let file = std::fs::File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    let mut bytes = Vec::new();
    file.take(size_max + 1).read_to_end(&mut bytes).map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > size_max {
        return Err(format!("larger than {} bytes: this is no configuration", size_max));
    }
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("line {line} is not UTF-8: save the file as UTF-8")
    })
}

/// Paths are relative to the folder of the file.
fn make_absolute(config: &mut Config, folder: &Path) {
    let absolute = |path: &mut std::path::PathBuf| *path = folder.join(&*path);
    for certificate in config.listen.iter_mut().flat_map(|listener| &mut listener.tls) {
        absolute(&mut certificate.cert);
        absolute(&mut certificate.key);
    }
    for service in config.services.values_mut() {
        let tls = service.tls.iter_mut().flat_map(|tls| [&mut tls.ca, &mut tls.cert, &mut tls.key]);
        tls.flatten().for_each(absolute);
        for instance in &mut service.instances {
            if let Some(socket) = instance.address.strip_prefix(schema::UNIX) {
                instance.address = format!("{}{}", schema::UNIX, folder.join(socket).display());
            }
        }
    }
    if let StoreUrl::Sqlite(path) = &mut config.log.store {
        absolute(path);
    }
    if let KeyStoreUrl::Own(StoreUrl::Sqlite(path)) = &mut config.key_store {
        absolute(path);
    }
    if let JsonLines::File(path) = &mut config.log.json {
        absolute(path);
    }
    if let Spool::Folder(path) = &mut config.log.spool {
        absolute(path);
    }
    usual_spool(&mut config.log, folder);
    if let Some(disk) = &mut config.cache.disk {
        absolute(&mut disk.path);
    }
    config.services.values_mut().filter_map(|service| service.discover.as_mut()?.file.as_mut()).for_each(absolute);
    let state = config.discovery.state.take().unwrap_or_else(|| usual_state(&config.log.store));
    config.discovery.state = Some(folder.join(state));
}

/// Without a word about it the state of discovery is where this process keeps what is its own: beside the SQLite file, or in `data`.
fn usual_state(store: &StoreUrl) -> PathBuf {
    match store {
        StoreUrl::Sqlite(path) => {
            let mut state = path.clone().into_os_string();
            state.push(".instances");
            state.into()
        }
        StoreUrl::Mysql(_) | StoreUrl::None => "data/instances.json".into(),
    }
}

/// Without a word about it the spool is beside the SQLite file; with a server it is `data/spool`. Without a store there is
/// nothing to wait for.
fn usual_spool(log: &mut Log, folder: &Path) {
    if log.spool != Spool::Usual {
        return;
    }
    log.spool = match &log.store {
        StoreUrl::Sqlite(path) => {
            let mut spool = path.clone().into_os_string();
            spool.push(".spool");
            Spool::Folder(spool.into())
        }
        StoreUrl::Mysql(_) => Spool::Folder(folder.join("data/spool")),
        StoreUrl::None => Spool::None,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_here(text: &str) -> Result<Config, Problems> {
        read(text, Path::new("/etc/tollgate/tollgate.yaml"), &|name| {
            (name == "DB_PASSWORD").then(|| "p@ss:/word".to_owned())
        })
    }

    #[test]
    fn the_short_configuration_of_the_design_is_read() {
        let text = "listen: 127.0.0.1:8080\nadmin: 127.0.0.1:8081\nservices:\n  user_service: [127.0.0.1:9101, 127.0.0.1:9102]\nroutes:\n  /api/user_service/*:\n    to: user_service\n    strip_prefix: /api/user_service\n    limit: 100/min per key\n    cache: 30s\nkeys:\n  demo: {sha256: 4f0e8e0a1c2b3d4e5f60718293a4b5c6d7e8f9010203040506070809aabbccdd}\nlog: mysql://user:${DB_PASSWORD}@host/tollgate\n";
        let config = read_here(text).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(config.listen[0].address.port(), 8080);
        assert_eq!(config.services["user_service"].instances[1].address, "127.0.0.1:9102");
        let route = &config.routes["/api/user_service/*"];
        assert_eq!(route.limit.as_ref().map(Vec::len), Some(1));
        assert_eq!(route.cache.as_ref().map(|cache| cache.ttl), Some(Span::seconds(30)));
        assert!(route.patterns[0].subtree);
        assert_eq!(config.log.store, StoreUrl::Mysql("mysql://user:p%40ss%3A%2Fword@host/tollgate".to_owned()));
    }

    #[test]
    fn the_long_form_is_read() {
        let text = r#"
listen:
  - address: 0.0.0.0:8443
    tls: [{cert: tls/a.pem, key: tls/a.key}]
    http2: true
  - {address: 0.0.0.0:80, redirect: https}
admin: {address: 127.0.0.1:8081, token_sha256: null, hosts: []}
node: edge-1
threads: auto
shutdown: {drain_delay: 0s, grace: 30s}
trusted_proxies: [10.0.0.0/8]
flood_guard: 500/s per ip
key_in: [X-API-Key, bearer]
defaults: {keys: required, timeout: 30s, body_max: 10mb}
services:
  user_service:
    instances: [{address: 127.0.0.1:9102, weight: 2}, "users.internal:80"]
    balance: round_robin
    host: users.example.com
    tls: {sni: users.example.com, ca: tls/ca.pem}
    health: {path: /health, every: 5s, timeout: 1s, healthy_after: 2, unhealthy_after: 3}
    timeouts: {connect: 1s, tls: 5s, response: 15s, between_bytes: 15s, write: 15s, idle: 60s}
routes:
  GET /api/user_service/*:
    to: user_service
    strip_prefix: /api/user_service
    keys: none
    limit: {rate: 100/min, per: [consumer], name: users, cost: 1, mode: enforce}
    cache: {ttl: 0s, max: null, shared: false}
    headers: {request: {set: {X-Env: prod}, remove: [Cookie]}, response: {remove: [Server]}}
    timeout: 20s
  orders:
    match: [/api/order_service/*, "*.orders.example.com/*"]
    to: user_service
    limit: none
keys:
  acme-2026: {sha256: "4f0e8e0a1c2b3d4e5f60718293a4b5c6d7e8f9010203040506070809aabbccdd", consumer: acme}
cache: {memory: 256mb, disk: {path: data/cache, size: 10gb}}
log:
  store: sqlite:data/tollgate.db
  json: none
  queue: 65536
  flush: {rows: 1000, age: 200ms}
  client_ip: full
  query: none
"#;
        let config = read_here(text).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(config.listen[0].tls[0].cert, Path::new("/etc/tollgate/tls/a.pem"));
        assert_eq!(config.routes["orders"].patterns.len(), 2);
        assert_eq!(config.routes["orders"].limit, Some(Vec::new()));
        assert_eq!(config.routes["GET /api/user_service/*"].keys, Some(KeyRule::None));
        assert_eq!(config.log.store, StoreUrl::Sqlite("/etc/tollgate/data/tollgate.db".into()));
    }

    #[test]
    fn many_problems_are_found_at_once() {
        let text = "listen: 8080\nadmin: none\nlog: none\nlistn: x\nservices:\n  a:\n    instances: [{address: 127.0.0.1:1, wieght: 2}]\n    queue: {length: 1}\n  b: {instances: [127.0.0.1:1], timeouts: {connect: 1, tls: no}}\nroutes:\n  /x: {too: a}\n  /y: {to: a, limit: 10, limit: 5/s}\nkeys:\n  k: {key: tg_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}\n";
        let problems = read_here(text).err().map(|problems| problems.to_string()).unwrap_or_default();
        assert_eq!(problems.lines().count(), 10, "{problems}");
        assert!(!problems.contains("tg_a") && !problems.contains("` is missing"), "{problems}");
    }
}
