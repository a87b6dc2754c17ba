//! Listeners, admin, and what concerns the whole process: connections, threads, log.
//! The invariant: what is reachable beyond loopback asks for a credential.

use std::collections::HashMap;
use std::net::SocketAddr;

use super::Check;
use super::services::check_host_and_port;
use crate::config::{JsonLines, Span, StoreUrl};

impl Check<'_> {
    pub(super) fn listeners(&mut self) {
        let config = &self.draft.config;
        if config.listen.is_empty() && !self.lost("listen") {
            self.problem("listen", "at least one address to listen on is needed");
        }
        let mut seen: HashMap<SocketAddr, usize> = HashMap::new();
        for (index, listener) in config.listen.iter().enumerate() {
            let path = self.element("listen", index, config.listen.len());
            if let Some(first) = seen.insert(listener.address, index) {
                let message = format!("{} is already the address of listen[{first}]", listener.address);
                self.problem(format!("{path}.address"), message);
            }
            if self.lost(&format!("{path}.tls")) {
                continue;
            }
            if listener.http2 == Some(true) && listener.tls.is_empty() {
                self.problem(format!("{path}.http2"), "HTTP/2 is negotiated in TLS: it needs `tls`");
            }
            if listener.redirect.is_some() && !listener.tls.is_empty() {
                self.problem(
                    format!("{path}.redirect"),
                    "a listener with `tls` is https already: redirect from one without",
                );
            }
        }
    }

    pub(super) fn admin(&mut self) {
        let Some(admin) = &self.draft.config.admin else { return };
        let clash = self.draft.config.listen.iter().any(|listener| {
            listener.address == admin.address
                || (listener.address.port() == admin.address.port() && listener.address.ip().is_unspecified())
        });
        if clash {
            self.problem(
                "admin.address",
                format!("{} is an address of `listen` as well: admin needs its own port", admin.address),
            );
        }
        if !admin.address.ip().is_loopback() && admin.token_sha256.is_none() && !self.lost("admin.token_sha256") {
            self.problem(
                "admin.address",
                format!("{} is reachable by others: `token_sha256` is required beyond loopback (`printf %s TOKEN | sha256sum`)", admin.address.ip()),
            );
        }
        for (index, host) in admin.hosts.iter().enumerate() {
            if let Err(message) = check_host_and_port(host) {
                self.problem(self.element("admin.hosts", index, admin.hosts.len()), message);
            }
        }
    }

    pub(super) fn process(&mut self) {
        let config = &self.draft.config;
        if let Some(node) = &config.node {
            self.name("node".to_owned(), node);
        }
        let connections = &config.connections;
        self.range("connections.total_max", connections.total_max, 1, 10_000_000);
        self.range("connections.per_client_max", connections.per_client_max, 1, 10_000_000);
        let header_max = usize::try_from(connections.header_max.0).unwrap_or(usize::MAX);
        if !(1 << 10..=1 << 20).contains(&header_max) {
            self.problem("connections.header_max", format!("{} is not between 1kb and 1mb", connections.header_max));
        }
        self.not_zero("connections.header_timeout".to_owned(), connections.header_timeout);
        self.not_zero("connections.idle_timeout".to_owned(), connections.idle_timeout);
        self.not_zero("connections.body_timeout".to_owned(), connections.body_timeout);
        self.not_zero("defaults.timeout".to_owned(), config.defaults.timeout);
        for (index, place) in config.key_in.iter().enumerate() {
            if config.key_in[..index].contains(place) {
                let path = self.element("key_in", index, config.key_in.len());
                self.problem(path, format!("`{place}` is there twice"));
            }
        }
        if config.key_in.is_empty() && !self.lost("key_in") {
            self.problem("key_in", "no place for a key: leave `key_in` out, or name at least one");
        }
    }

    pub(super) fn log(&mut self) {
        /// Bytes below which a bound is a mistake.
        const SPOOL_MIN: u64 = 16 << 20;

        let log = &self.draft.config.log;
        self.range("log.queue", log.queue, 1, 4_194_304);
        self.range("log.flush.rows", log.flush.rows, 1, 10_000);
        if log.flush.age.0 > std::time::Duration::from_secs(60) {
            self.problem(
                "log.flush.age",
                format!("{} is longer than 1min: rows would be missing from every report", log.flush.age),
            );
        }
        if log.spool_max.0 < SPOOL_MIN {
            self.problem("log.spool_max", format!("{} is less than 16mb, too small for a burst", log.spool_max));
        }
        let kept = &log.retention;
        for (name, span, least) in [
            ("requests", kept.requests, Span::seconds(3_600)),
            ("minutes", kept.minutes, Span::seconds(2 * 86_400)),
            ("hours", kept.hours, Span::seconds(32 * 86_400)),
        ] {
            if span < least {
                self.problem(
                    format!("log.retention.{name}"),
                    format!("{span} is less than {least}, which reports need"),
                );
            }
        }
        if kept.size.0 < SPOOL_MIN {
            self.problem("log.retention.size", format!("{} is less than 16mb", kept.size));
        }
        if let (StoreUrl::Sqlite(store), JsonLines::File(json)) = (&log.store, &log.json)
            && store == json
        {
            self.problem("log.json", "this is the file of `log.store`");
        }
    }

    /// The path of an element; a list of one may be written without brackets.
    pub(super) fn element(&self, path: &str, index: usize, length: usize) -> String {
        let element = format!("{path}[{index}]");
        if length == 1 && !self.places.has(&element) { path.to_owned() } else { element }
    }
}
