//! The second pass: each top-level section, and each entry of services, routes and keys, is read on its own.
//! After a fault the offending part is taken out and reading goes on, so that one run reports as much as possible.
//! What could not be read is remembered by its path, so that the rules across fields do not complain about its absence.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use indexmap::IndexMap;
use serde::Deserialize;

use super::access::KeyStoreUrl;
use super::fault::{FaultKind, Step};
use super::limits::Plan;
use super::pattern::Pattern;
use super::places::Places;
use super::problems::{Problem, Problems, did_you_mean, nearest};
use super::scalar_forms::Network;
use super::schema::*;
use super::short_forms::{OneOrMany, PLAINTEXT};
use super::tree::{Kind, Node, join};
use super::{not_built, short_forms};

/// Faults that are reported for one entry; a broken file need not be listed to its end.
const FAULTS_MAX: usize = 50;

const SECTIONS: [&str; 19] = [
    "listen",
    "admin",
    "node",
    "threads",
    "shutdown",
    "connections",
    "trusted_proxies",
    "flood_guard",
    "limits",
    "key_in",
    "key_store",
    "defaults",
    "discovery",
    "services",
    "routes",
    "plans",
    "keys",
    "cache",
    "log",
];

/// Names under which people write a key itself.
const PLAINTEXT_NAMES: [&str; 8] = ["key", "plaintext", "secret", "token", "value", "api_key", "apikey", "password"];

/// A configuration as far as it could be read.
pub struct Draft {
    /// What could be read, defaults for the rest.
    pub config: Config,
    /// The paths of what could not.
    pub lost: HashSet<String>,
    /// Names of services in the file, those included that could not be read.
    pub services: HashSet<String>,
    /// Plans in the file, those included that could not be read.
    pub plans: HashSet<String>,
    /// Limits of `limits.named` in the file, those included that could not be read.
    pub named_limits: HashSet<String>,
    /// Consumers in the file, those included whose key could not be read.
    pub consumers: HashSet<String>,
}

impl Draft {
    /// Whether `path`, a part of it or what it is a part of could not be read.
    pub fn is_lost(&self, path: &str) -> bool {
        self.lost.iter().any(|lost| is_part(lost, path) || is_part(path, lost))
    }
}

fn is_part(part: &str, whole: &str) -> bool {
    part.strip_prefix(whole).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Reads the tree, adding every problem to `problems`.
pub fn read(mut root: Node, places: Places, problems: &mut Problems) -> Draft {
    let lost = problems.iter().map(|problem| problem.path.clone()).filter(|path| !path.is_empty()).collect();
    let mut reading = Reading { places: &places, problems, lost };
    for path in not_built::take_out(&mut root, reading.problems) {
        reading.lost.insert(path);
    }
    reading.unknown_sections(&root);
    let services = root.get("services").map(names).unwrap_or_default();
    let plans = root.get("plans").map(names).unwrap_or_default();
    let named_limits = root.get("limits").and_then(|limits| limits.get("named")).map(names).unwrap_or_default();
    let consumers = root.get("keys").map(consumers).unwrap_or_default();
    let config = Config {
        listen: reading
            .section::<OneOrMany<Listener>>(&mut root, "listen", true)
            .map(|list| list.0)
            .unwrap_or_default(),
        admin: reading.section::<Option<Admin>>(&mut root, "admin", true).flatten(),
        node: reading.section::<Option<String>>(&mut root, "node", false).flatten(),
        threads: reading.section(&mut root, "threads", false).unwrap_or_default(),
        shutdown: reading.section(&mut root, "shutdown", false).unwrap_or_default(),
        connections: reading.section(&mut root, "connections", false).unwrap_or_default(),
        trusted_proxies: reading
            .section::<OneOrMany<Network>>(&mut root, "trusted_proxies", false)
            .map(short_forms::into_networks)
            .unwrap_or_default(),
        flood_guard: reading.section::<Option<FloodGuard>>(&mut root, "flood_guard", false).flatten(),
        limits: reading.section(&mut root, "limits", false).unwrap_or_default(),
        key_in: reading
            .section::<OneOrMany<KeyPlace>>(&mut root, "key_in", false)
            .map_or_else(KeyPlace::defaults, |list| list.0),
        key_store: reading.section::<KeyStoreUrl>(&mut root, "key_store", false).unwrap_or_default(),
        defaults: reading.section(&mut root, "defaults", false).unwrap_or_default(),
        discovery: reading.section(&mut root, "discovery", false).unwrap_or_default(),
        services: reading.entries::<Service>(&mut root, "services"),
        routes: reading.routes(&mut root),
        plans: reading.entries::<Plan>(&mut root, "plans"),
        keys: reading.entries::<Key>(&mut root, "keys").into_iter().collect::<BTreeMap<_, _>>(),
        cache: reading.section(&mut root, "cache", false).unwrap_or_default(),
        log: reading.section(&mut root, "log", true).unwrap_or_default(),
        places: Arc::default(),
    };
    let lost = reading.lost;
    Draft { config: Config { places: Arc::new(places), ..config }, lost, services, plans, named_limits, consumers }
}

/// Reads `admin` alone.
pub fn read_admin(root: &mut Node, places: &Places, problems: &mut Problems) -> Option<Admin> {
    let lost = problems.iter().map(|problem| problem.path.clone()).collect();
    Reading { places, problems, lost }.section::<Option<Admin>>(root, "admin", true).flatten()
}

fn names(node: &Node) -> HashSet<String> {
    node.entries().iter().map(|entry| entry.name.clone()).collect()
}

fn consumers(keys: &Node) -> HashSet<String> {
    let consumer =
        |entry: &super::tree::Entry| entry.node.get("consumer").and_then(Node::text).unwrap_or(&entry.name).to_owned();
    keys.entries().iter().map(consumer).collect()
}

struct Reading<'a> {
    places: &'a Places,
    problems: &'a mut Problems,
    lost: HashSet<String>,
}

impl Reading<'_> {
    fn unknown_sections(&mut self, root: &Node) {
        for entry in root.entries() {
            if !SECTIONS.contains(&entry.name.as_str()) {
                let hint = did_you_mean(&entry.name, SECTIONS);
                let known =
                    if hint.is_empty() { format!("; known here: {}", SECTIONS.join(", ")) } else { String::new() };
                self.report(Some(entry.at), entry.name.clone(), format!("unknown field `{}`{hint}{known}", entry.name));
                self.lost.insert(entry.name.clone());
            }
        }
    }

    /// Reads one top-level section; None when it is not there or could not be read.
    fn section<T: for<'de> Deserialize<'de>>(
        &mut self,
        root: &mut Node,
        name: &'static str,
        required: bool,
    ) -> Option<T> {
        let Some(node) = child_mut(root, name) else {
            if required && !self.lost.contains(name) {
                let near =
                    root.entries().iter().find(|entry| nearest(&entry.name, [name]).is_some() && entry.name != name);
                if near.is_none() {
                    self.report(Some((1, 1)), String::new(), missing(name));
                }
                self.lost.insert(name.to_owned());
            }
            return None;
        };
        if node.is_null() && !required {
            return None;
        }
        self.value(node, name)
    }

    fn entries<T: for<'de> Deserialize<'de>>(&mut self, root: &mut Node, name: &'static str) -> IndexMap<String, T> {
        let Some(section) = child_mut(root, name).filter(|node| !node.is_null()) else { return IndexMap::new() };
        let at = section.at;
        let Kind::Map(entries) = &mut section.kind else {
            self.report(Some(at), name.to_owned(), format!("expected a map, each entry a name of {}", one_of(name)));
            self.lost.insert(name.to_owned());
            return IndexMap::new();
        };
        let mut read = IndexMap::with_capacity(entries.len());
        for entry in entries {
            let path = join(name, &entry.name);
            if let Some(value) = self.value(&mut entry.node, &path) {
                read.insert(entry.name.clone(), value);
            }
        }
        read
    }

    /// Routes, whose key is a pattern when there is a `/` in it.
    fn routes(&mut self, root: &mut Node) -> IndexMap<String, Route> {
        let mut routes = self.entries::<Route>(root, "routes");
        for (name, route) in &mut routes {
            let path = join("routes", name);
            let match_path = join(&path, "match");
            if name.contains('/') {
                if !route.patterns.is_empty() || self.places.has(&match_path) {
                    self.problem(&match_path, "a route whose key is a pattern has no `match`; a route with `match` has a name without `/` as its key");
                }
                match Pattern::parse(name) {
                    Ok(pattern) => route.patterns = vec![pattern],
                    Err(message) => {
                        route.patterns.clear();
                        self.problem(&path, &message);
                        self.lost.insert(path);
                    }
                }
            } else if route.patterns.is_empty() && !self.lost.iter().any(|lost| lost.starts_with(&match_path)) {
                let message = "a key without `/` is a name: it needs `match` with a pattern; a pattern has a path, such as /api/*";
                self.problem(&path, message);
                self.lost.insert(match_path);
            }
        }
        routes
    }

    /// Reads one value, taking out what cannot be read until the rest can.
    fn value<T: for<'de> Deserialize<'de>>(&mut self, node: &mut Node, base: &str) -> Option<T> {
        for _ in 0..FAULTS_MAX {
            let fault = match T::deserialize(&*node) {
                Ok(value) => return Some(value),
                Err(fault) => fault,
            };
            let path = fault.path(base);
            match &fault.kind {
                FaultKind::Unknown(name, known) => {
                    let unknown = join(&path, name);
                    if let Some(meant) = nearest(name, known.iter().copied()) {
                        // It is there, only misspelt: no second complaint that it is missing.
                        self.lost.insert(join(&path, meant));
                    }
                    let at = fault.steps.iter().rev().try_fold(&*node, step).and_then(|node| mark_of(node, name));
                    let is_key = base.starts_with("keys.") && PLAINTEXT_NAMES.contains(&name.as_str());
                    self.report(at, unknown.clone(), if is_key { PLAINTEXT.to_owned() } else { fault.to_string() });
                    if is_key {
                        self.lost.insert(join(&path, "sha256"));
                    }
                    let mut steps = fault.steps.clone();
                    steps.insert(0, Step::Name(name.clone()));
                    take_out(node, &steps);
                    continue;
                }
                FaultKind::Missing(name) => {
                    if self.lost.insert(join(&path, name)) {
                        self.problem(&path, &fault.to_string());
                    }
                }
                // What is wrong inside of it has been said.
                FaultKind::Wrong(_) if self.lost.iter().any(|lost| *lost != path && is_part(lost, &path)) => {}
                FaultKind::Wrong(message) => self.problem(&path, message),
            }
            self.lost.insert(path);
            if fault.steps.is_empty() {
                return None;
            }
            take_out(node, &fault.steps);
        }
        self.lost.insert(base.to_owned());
        None
    }

    fn problem(&mut self, path: &str, message: &str) {
        self.problems.add(self.places, path, message);
    }

    fn report(&mut self, place: Option<(u32, u32)>, path: String, message: String) {
        self.problems.push(Problem { place, path, message });
    }
}

fn missing(name: &str) -> String {
    match name {
        "listen" => "`listen` is missing: where clients connect, e.g. `listen: 127.0.0.1:8080`".to_owned(),
        "admin" => "`admin` is missing: health, metrics and admin API, e.g. `admin: 127.0.0.1:8081`, or `admin: none`"
            .to_owned(),
        _ => "`log` is missing: where requests are logged, e.g. `log: sqlite:data/tollgate.db`, or `log: none`"
            .to_owned(),
    }
}

fn one_of(section: &str) -> &'static str {
    match section {
        "services" => "a service",
        "routes" => "a route, or a pattern",
        "plans" => "a plan",
        _ => "a key",
    }
}

fn child_mut<'a>(node: &'a mut Node, name: &str) -> Option<&'a mut Node> {
    match &mut node.kind {
        Kind::Map(entries) => entries.iter_mut().find(|entry| entry.name == name).map(|entry| &mut entry.node),
        _ => None,
    }
}

fn step<'a>(node: &'a Node, step: &Step) -> Option<&'a Node> {
    match (step, &node.kind) {
        (Step::Name(name), _) => node.get(name),
        (Step::Index(index), Kind::List(list)) => list.get(*index),
        _ => None,
    }
}

fn mark_of(node: &Node, name: &str) -> Option<(u32, u32)> {
    node.entries().iter().find(|entry| entry.name == name).map(|entry| entry.at)
}

/// Removes what `steps` (innermost first) lead to; list elements leave a gap, so that the others keep their index.
fn take_out(node: &mut Node, steps: &[Step]) {
    let Some((last, way)) = steps.split_first() else { return };
    let mut node = node;
    for step in way.iter().rev() {
        let next = match (step, &mut node.kind) {
            (Step::Name(name), Kind::Map(entries)) => {
                entries.iter_mut().find(|entry| entry.name == *name).map(|entry| &mut entry.node)
            }
            (Step::Index(index), Kind::List(list)) => list.get_mut(*index),
            _ => None,
        };
        let Some(next) = next else { return };
        node = next;
    }
    match (last, &mut node.kind) {
        (Step::Name(name), Kind::Map(entries)) => entries.retain(|entry| entry.name != *name),
        (Step::Index(index), Kind::List(list)) => {
            if let Some(element) = list.get_mut(*index) {
                element.kind = Kind::Removed;
            }
        }
        _ => {}
    }
}
