//! Active health checks: the probe of `pingora-load-balancing`, with one time-out over the whole check.
//! Which instances get requests is the pool's; this only finds out and says so.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::{Error, ErrorType, Result};
use pingora_load_balancing::Backend;
use pingora_load_balancing::health_check::{HealthCheck, HttpHealthCheck};

use super::instance::Instance;
use super::pool::Pool;
use crate::config;

/// A GET that has to be answered with 200 in time.
pub(super) struct Probe {
    service: Arc<str>,
    /// Told what is found out.
    instances: Arc<[Arc<Instance>]>,
    check: HttpHealthCheck,
    timeout: Duration,
}

impl Probe {
    /// A probe of the instances of `service`.
    pub(super) fn new(
        name: &Arc<str>,
        service: &config::Service,
        health: &config::HealthCheck,
        instances: Arc<[Arc<Instance>]>,
    ) -> Result<Self> {
        let host = service.host.as_deref().or(service.tls.as_ref().map(|tls| tls.sni.as_str())).unwrap_or(name);
        let mut check = HttpHealthCheck::new(host, service.tls.is_some());
        check.req.set_uri(health.path.parse().map_err(|error| {
            Error::because(ErrorType::InternalError, "the path of a health check is no path", error)
        })?);
        check.consecutive_success = usize::from(health.healthy_after);
        check.consecutive_failure = usize::from(health.unhealthy_after);
        check.peer_template.options.connection_timeout = Some(health.timeout.0);
        check.peer_template.options.read_timeout = Some(health.timeout.0);
        check.peer_template.options.write_timeout = Some(health.timeout.0);
        if let Some(tls) = &service.tls {
            check.peer_template.sni.clone_from(&tls.sni);
        }
        Ok(Self { service: Arc::clone(name), instances, check, timeout: health.timeout.0 })
    }

    /// Believes these authorities instead of the system's.
    pub(super) fn trust(&mut self, authorities: &super::peer::Authorities) {
        self.check.peer_template.options.ca = Some(Arc::clone(authorities));
    }
}

#[async_trait]
impl HealthCheck for Probe {
    async fn check(&self, target: &Backend) -> Result<()> {
        // Pingora's own time-outs are per read; an instance that drips would never fail.
        tokio::time::timeout(self.timeout, self.check.check(target))
            .await
            .unwrap_or_else(|_| Error::e_explain(ErrorType::ReadTimedout, "the whole health check"))
    }

    async fn health_status_change(&self, target: &Backend, healthy: bool) {
        let address = target.addr.as_inet();
        if let Some(instance) = self.instances.iter().find(|instance| Some(&instance.address) == address) {
            instance.set_healthy(healthy);
        }
        if healthy {
            log::info!("service {}: instance {} is healthy", self.service, target.addr);
        } else {
            log::warn!("service {}: instance {} is unhealthy and gets no requests", self.service, target.addr);
        }
    }

    fn health_threshold(&self, success: bool) -> usize {
        self.check.health_threshold(success)
    }
}

/// Checks all instances of a pool again and again, until the pool is gone.
pub(super) async fn check_until_dropped(pool: Weak<Pool>, every: Duration) {
    loop {
        match pool.upgrade() {
            Some(pool) => pool.check_once().await,
            None => return,
        }
        tokio::time::sleep(every).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::config::Span;

    #[tokio::test]
    async fn an_instance_that_drips_fails_its_check_in_time() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nX: ").await.unwrap();
            // Each byte comes within Pingora's time-out for one read.
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let service = config::Service {
            instances: vec![config::Instance { address: address.to_string(), weight: 1 }],
            ..config::Service::default()
        };
        let health = config::HealthCheck {
            path: "/health".into(),
            every: Span::seconds(1),
            timeout: Span(Duration::from_millis(300)),
            healthy_after: 1,
            unhealthy_after: 1,
        };
        let probe = Probe::new(&"users".into(), &service, &health, Arc::new([])).unwrap();
        let begin = Instant::now();
        assert!(probe.check(&Backend::new(&address.to_string()).unwrap()).await.is_err());
        let took = begin.elapsed();
        assert!(took >= Duration::from_millis(250) && took < Duration::from_secs(3), "{took:?}");
    }
}
