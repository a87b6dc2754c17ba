//! Services: instances that can be connected to, and times that are more than nothing.
//! Not here: whether a name resolves, which is tried when the runtime is compiled.

use std::collections::HashSet;

use super::Check;
use crate::config::pattern::check_host;
use crate::config::{HealthCheck, Instance, Service};

impl Check<'_> {
    pub(super) fn services(&mut self) {
        for (name, service) in &self.draft.config.services {
            let path = format!("services.{name}");
            self.name(path.clone(), name);
            self.service(&path, service);
        }
    }

    fn service(&mut self, path: &str, service: &Service) {
        // The short form is the list itself.
        let list = match format!("{path}.instances") {
            list if self.places.has(&list) => list,
            _ => path.to_owned(),
        };
        if service.instances.is_empty() && !self.lost(&list) {
            self.problem(list.clone(), "a service needs at least one instance, such as 127.0.0.1:9101");
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
        }
        if let Some(health) = &service.health {
            self.health(&format!("{path}.health"), health);
        }
        if let Some(breaker) = &service.breaker {
            self.breaker(&format!("{path}.breaker"), breaker);
        }
        if let Some(Some(retry)) = &service.retry {
            self.retry(&format!("{path}.retry"), retry);
        }
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

    fn weight(&mut self, element: &str, instance: &Instance) {
        self.range(format!("{element}.weight"), usize::from(instance.weight), 1, 100);
    }

    fn health(&mut self, path: &str, health: &HealthCheck) {
        if !health.path.starts_with('/') || health.path.contains(char::is_whitespace) {
            self.problem(
                format!("{path}.path"),
                format!("`{}` is no path: it begins with `/` and has no spaces", health.path),
            );
        }
        self.not_zero(format!("{path}.every"), health.every);
        self.not_zero(format!("{path}.timeout"), health.timeout);
        self.range(format!("{path}.healthy_after"), usize::from(health.healthy_after), 1, 100);
        self.range(format!("{path}.unhealthy_after"), usize::from(health.unhealthy_after), 1, 100);
    }
}

/// Whether the address is `host:port`.
fn check_instance(address: &str) -> Result<(), String> {
    if address.contains("://") {
        return Err(format!("`{address}`: an instance is host:port without a scheme; TLS is the service's `tls`"));
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
