//! A configuration file in the making. Addresses are the gateway's: it fills them in when it writes the file,
//! so that a changed configuration can be reloaded into the same gateway.

use std::fmt::Write as _;
use std::net::SocketAddr;

use sha2::{Digest as _, Sha256};

use super::Backend;

/// The parts of a configuration file, in the order they were added.
#[derive(Clone, Debug)]
pub struct Config {
    listen: String,
    admin: String,
    services: String,
    routes: String,
    keys: String,
    log: String,
    sections: String,
}

impl Config {
    /// A gateway without routes and without a log.
    pub fn new() -> Self {
        Self {
            listen: "{main}".into(),
            admin: "{admin}".into(),
            services: String::new(),
            routes: String::new(),
            keys: String::new(),
            log: "none".into(),
            sections: String::new(),
        }
    }

    /// Everything to one backend, without keys.
    pub fn open(backend: &Backend) -> Self {
        Self::new().service("service", &[backend.address]).route("/*", "to: service, keys: none")
    }

    /// A service with these instances.
    pub fn service(self, name: &str, instances: &[SocketAddr]) -> Self {
        self.service_with(name, instances, "")
    }

    /// A service with these instances and further fields: `health: {path: /health}`.
    pub fn service_with(self, name: &str, instances: &[SocketAddr], fields: &str) -> Self {
        let instances: Vec<String> = instances.iter().map(SocketAddr::to_string).collect();
        self.service_at(name, &instances, fields)
    }

    /// A service with instances that are written like this, and further fields.
    pub fn service_at(mut self, name: &str, instances: &[impl std::fmt::Display], fields: &str) -> Self {
        let instances: Vec<String> = instances.iter().map(|address| format!("\"{address}\"")).collect();
        let comma = if fields.is_empty() { "" } else { ", " };
        let _ = writeln!(self.services, "  {name}: {{instances: [{}]{comma}{fields}}}", instances.join(", "));
        self
    }

    /// A route: its pattern or name, and its fields as in `to: service, limit: 10/min`.
    pub fn route(mut self, pattern: &str, fields: &str) -> Self {
        let _ = writeln!(self.routes, "  \"{pattern}\": {{{fields}}}");
        self
    }

    /// A key that is its own name.
    pub fn key(self, key: &str) -> Self {
        self.key_of(key, key)
    }

    /// A key that is its own name, of this consumer.
    pub fn key_of(self, key: &str, consumer: &str) -> Self {
        self.key_named(key, key, consumer)
    }

    /// A key under a name of its own, of this consumer.
    pub fn key_named(mut self, name: &str, key: &str, consumer: &str) -> Self {
        let _ = writeln!(self.keys, "  {name}: {{sha256: {}, consumer: {consumer}}}", digest(key));
        self
    }

    /// A key that is its own name, with further fields: `plan: gold`.
    pub fn key_with(mut self, key: &str, fields: &str) -> Self {
        let _ = writeln!(self.keys, "  {key}: {{sha256: {}, {fields}}}", digest(key));
        self
    }

    /// The value of `log`: `sqlite:log.db`, or `{store: ..., json: ...}`.
    pub fn log(mut self, value: &str) -> Self {
        self.log = value.into();
        self
    }

    /// The value of `listen`; `{main}` and `{second}` are the gateway's addresses.
    pub fn listen(mut self, value: &str) -> Self {
        self.listen = value.into();
        self
    }

    /// The value of `admin`; `{admin}` is its address.
    pub fn admin(mut self, value: &str) -> Self {
        self.admin = value.into();
        self
    }

    /// Further top-level lines: `trusted_proxies: [127.0.0.1/32]`.
    pub fn section(mut self, lines: &str) -> Self {
        self.sections.push_str(lines.trim_end());
        self.sections.push('\n');
        self
    }

    /// The file.
    pub fn write(&self, main: SocketAddr, second: SocketAddr, admin: SocketAddr) -> String {
        let mut file = format!("listen: {}\nadmin: {}\nlog: {}\n{}", self.listen, self.admin, self.log, self.sections);
        for (name, entries) in [("services", &self.services), ("routes", &self.routes), ("keys", &self.keys)] {
            if !entries.is_empty() {
                let _ = write!(file, "{name}:\n{entries}");
            }
        }
        for (word, address) in [("{main}", main), ("{second}", second), ("{admin}", admin)] {
            file = file.replace(word, &address.to_string());
        }
        file
    }
}

/// The SHA-256 of a key as the configuration wants it.
pub fn digest(key: &str) -> String {
    Sha256::digest(key).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
