//! Services: instances that can be connected to, and times that are more than nothing.
//! Not here: whether a name resolves, which is tried when the runtime is compiled.

use std::collections::HashSet;

use super::Check;
use crate::config::pattern::check_host;
use crate::config::schema::UNIX;
use crate::config::{Balance, Discover, Eject, HealthCheck, Instance, Service, Span};

impl Check<'_> {
    pub(super) fn services(&mut self) {
        for (name, service) in &self.draft.config.services {
            let path = format!("services.{name}");
            self.name(path.clone(), name);
            self.service(&path, service);
        }
    }

    fn service(&mut self, path: &str, service: &Service) {
        self.instances(path, service);
        if let Some(host) = &service.host
            && let Err(message) = check_host_and_port(host)
        {
            self.problem(format!("{path}.host"), message);
        }
        if let Some(tls) = &service.tls {
            let checked = if tls.sni.is_empty() {
                Err("the name in the instances' certificate is missing".to_owned())
            } else {
                check_host(&tls.sni)
            };
            if let Err(message) = checked {
                self.problem(format!("{path}.tls.sni"), message);
            }
            for (one, other, missing) in [(&tls.cert, &tls.key, "key"), (&tls.key, &tls.cert, "cert")] {
                if one.is_some() && other.is_none() && !self.lost(&format!("{path}.tls.{missing}")) {
                    let message = "a certificate is shown with its private key: `cert` and `key` are written together";
                    self.problem(format!("{path}.tls.{missing}"), message);
                }
            }
        }
        if let Some(health) = &service.health {
            self.health(&format!("{path}.health"), health, &service.instances);
        }
        self.choice(path, service);
        if let Some(breaker) = &service.breaker {
            self.breaker(&format!("{path}.breaker"), breaker);
        }
        if let Some(Some(retry)) = &service.retry {
            self.retry(&format!("{path}.retry"), retry);
        }
        self.capacity(path, service);
        let times = &service.timeouts;
        for (name, span) in [
            ("connect", times.connect),
            ("tls", times.tls),
            ("response", times.response),
            ("between_bytes", times.between_bytes),
            ("write", times.write),
        ] {
            self.not_zero(format!("{path}.timeouts.{name}"), span);
        }
    }

    fn instances(&mut self, path: &str, service: &Service) {
        // The short form is the list itself.
        let list = match format!("{path}.instances") {
            list if self.places.has(&list) => list,
            _ => path.to_owned(),
        };
        let discovers = service.discover.is_some() || self.lost(&format!("{path}.discover"));
        if service.instances.is_empty() && !discovers && !self.lost(&list) {
            let message =
                "a service needs at least one instance, such as 127.0.0.1:9101, or `discover`, which finds them";
            self.problem(list.clone(), message);
        }
        if let Some(discover) = &service.discover {
            self.discover(&format!("{path}.discover"), discover);
        }
        let all_backups = service.instances.iter().all(|instance| instance.backup);
        if !service.instances.is_empty() && !discovers && all_backups {
            self.problem(list.clone(), "every instance is a backup: at least one is there for all requests");
        }
        let mut seen = HashSet::new();
        for (index, instance) in service.instances.iter().enumerate() {
            let element = format!("{list}[{index}]");
            if let Err(message) = check_instance(&instance.address) {
                self.problem(element.clone(), message);
            }
            if !seen.insert(&instance.address) {
                self.problem(
                    element.clone(),
                    format!("`{}` is there twice; a larger share is written `weight`", instance.address),
                );
            }
            self.weight(&element, instance);
        }
    }

    fn discover(&mut self, path: &str, discover: &Discover) {
        if discover.is_empty() && !self.lost(path) {
            self.problem(path.to_owned(), "it says nowhere: name `dns`, `srv`, `file` or `registration: true`");
        }
        if let Some(name) = &discover.dns {
            let checked = match name.parse::<std::net::SocketAddr>() {
                Ok(_) => Err(format!("`{name}` is an address, no name: write it under `instances`")),
                Err(_) => check_instance(name),
            };
            if let Err(message) = checked {
                self.problem(format!("{path}.dns"), message);
            }
        }
        if let Some(name) = &discover.srv
            && let Err(message) = check_srv(name)
        {
            self.problem(format!("{path}.srv"), message);
        }
        if discover.registration && self.draft.config.admin.is_none() && !self.lost("admin") {
            self.problem(format!("{path}.registration"), "instances register at `admin`, which is none");
        }
    }

    pub(super) fn discovery(&mut self) {
        let ttl_min = self.draft.config.discovery.ttl_min;
        if ttl_min < Span::seconds(1) {
            self.problem("discovery.ttl_min", format!("{ttl_min} is less than 1s: the DNS server would be flooded"));
        }
    }

    /// What decides which instance a request goes to.
    fn choice(&mut self, path: &str, service: &Service) {
        if let Balance::ConsistentHash(hash) = &service.balance
            && hash.load_max.is_some_and(|load_max| load_max.0 <= 100)
        {
            self.problem(
                format!("{path}.balance.consistent_hash.load_max"),
                "an instance needs more than 100% of its share, such as 125%",
            );
        }
        if let Some(eject) = &service.eject {
            self.eject(&format!("{path}.eject"), eject);
        }
        if let Some(slow_start) = service.slow_start {
            self.not_zero(format!("{path}.slow_start"), slow_start);
            if matches!(service.balance, Balance::ConsistentHash(_)) {
                self.problem(
                    format!("{path}.slow_start"),
                    "with `consistent_hash` an instance has its keys or not: its share can't grow",
                );
            }
        }
    }

    fn weight(&mut self, element: &str, instance: &Instance) {
        self.range(format!("{element}.weight"), usize::from(instance.weight), 1, 100);
    }

    fn health(&mut self, path: &str, health: &HealthCheck, instances: &[Instance]) {
        match &health.path {
            Some(_) if health.tcp => {
                self.problem(
                    format!("{path}.tcp"),
                    "`path` and `tcp` exclude each other: a path is asked for over HTTP",
                );
            }
            None if !health.tcp && !self.lost(&format!("{path}.path")) => {
                self.problem(path.to_owned(), "`path` is missing; where a connection is enough, write `tcp: true`");
            }
            Some(file) if !file.starts_with('/') || file.contains(char::is_whitespace) => {
                let message = format!("`{file}` is no path: it begins with `/` and has no spaces");
                self.problem(format!("{path}.path"), message);
            }
            _ => {}
        }
        if health.tcp && (health.body.is_some() || health.host.is_some()) {
            self.problem(
                format!("{path}.tcp"),
                "a connection has neither `body` nor `host`: they are for checks with `path`",
            );
        }
        if health.statuses.is_empty() && !self.lost(&format!("{path}.statuses")) {
            self.problem(format!("{path}.statuses"), "without a status no instance is ever healthy");
        }
        if let Some(host) = &health.host
            && let Err(message) = check_host_and_port(host)
        {
            self.problem(format!("{path}.host"), message);
        }
        if health.port == Some(0) {
            self.problem(format!("{path}.port"), "a port is 1 to 65535");
        }
        if health.port.is_some() && instances.iter().any(|instance| instance.address.starts_with(UNIX)) {
            self.problem(format!("{path}.port"), "an instance at a Unix socket has no other port");
        }
        self.not_zero(format!("{path}.every"), health.every);
        self.not_zero(format!("{path}.timeout"), health.timeout);
        self.range(format!("{path}.healthy_after"), usize::from(health.healthy_after), 1, 100);
        self.range(format!("{path}.unhealthy_after"), usize::from(health.unhealthy_after), 1, 100);
    }

    fn eject(&mut self, path: &str, eject: &Eject) {
        self.range(format!("{path}.errors"), eject.errors as usize, 1, 10_000);
        self.not_zero(format!("{path}.for"), eject.time);
        if eject.time_max < eject.time {
            self.problem(format!("{path}.for_max"), format!("it is less than `for`, which is {}", eject.time));
        }
        if !(1..=100).contains(&eject.ejected_max.0) {
            self.problem(format!("{path}.ejected_max"), format!("{} is not from 1% to 100%", eject.ejected_max));
        }
    }
}

impl Instance {
    /// The rules for a single instance, wherever it comes from.
    ///
    /// # Errors
    /// The first one that is broken.
    pub fn check(&self) -> Result<(), String> {
        check_instance(&self.address)?;
        match self.weight {
            1..=100 => Ok(()),
            weight => Err(format!("`{}`: the weight {weight} is not a number from 1 to 100", self.address)),
        }
    }
}

/// Whether the address is `host:port`, or a Unix socket.
fn check_instance(address: &str) -> Result<(), String> {
    if address.contains("://") {
        return Err(format!("`{address}`: an instance is host:port without a scheme; TLS is the service's `tls`"));
    }
    if let Some(path) = address.strip_prefix(UNIX) {
        return if path.is_empty() {
            Err(format!("`{address}` names no socket: {UNIX}/run/users.sock"))
        } else {
            Ok(())
        };
    }
    if let Ok(socket) = address.parse::<std::net::SocketAddr>() {
        return match (socket.port(), socket.ip().is_unspecified()) {
            (0, _) => Err(format!("`{address}`: a port is 1 to 65535")),
            (_, true) => Err(format!("`{address}`: {} is no address to connect to", socket.ip())),
            _ => Ok(()),
        };
    }
    let Some((host, port)) = address.rsplit_once(':') else {
        return Err(format!("`{address}` has no port: write host:port, such as {address}:8080"));
    };
    if port.contains('/') {
        return Err(format!("`{address}`: an instance has no path: a prefix is added with the route's `rewrite`"));
    }
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err(format!("`{address}`: a port is 1 to 65535"));
    }
    if host.contains(':') {
        return Err(format!("`{address}`: an IPv6 address is written in brackets, [::1]:8080"));
    }
    check_address_like(host)?;
    check_host(host)
}

/// Whether it is a name of SRV records: `_service._protocol.name`.
fn check_srv(name: &str) -> Result<(), String> {
    let wrong = || Err(format!("`{name}` is no name of SRV records, such as _http._tcp.users.internal"));
    let mut labels = name.splitn(3, '.');
    let is_marked = |label: Option<&str>| {
        let letters = label.and_then(|label| label.strip_prefix('_')).unwrap_or_default();
        !letters.is_empty() && letters.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if !is_marked(labels.next()) || !is_marked(labels.next()) {
        return wrong();
    }
    labels.next().map_or_else(wrong, check_host)
}

/// What is all digits and dots was meant to be an address.
fn check_address_like(host: &str) -> Result<(), String> {
    let numeric = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if numeric && host.parse::<std::net::Ipv4Addr>().is_err() {
        Err(format!("`{host}` is no IPv4 address"))
    } else {
        Ok(())
    }
}

/// A host name or address, with or without a port.
pub(super) fn check_host_and_port(host: &str) -> Result<(), String> {
    match host.rsplit_once(':') {
        Some((name, port)) if !host.ends_with(']') => {
            check_host(name)?;
            if port.parse::<u16>().is_ok_and(|port| port > 0) {
                Ok(())
            } else {
                Err(format!("`{host}`: a port is 1 to 65535"))
            }
        }
        _ => check_host(host),
    }
}
