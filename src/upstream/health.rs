//! Active health checks: each instance is checked again and again, by a task of its own that lives as long as its settings.
//! Checks don't come in bursts: each begins at a moment of its own and is a tenth early or late, and so many run at once at most.
//! Not here: a single check (`probe.rs`), what follows from it (`condition.rs`), and ejection by requests that fail (`pool.rs`).

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pingora_load_balancing::health_check::HealthCheck as _;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::condition::Change;
use super::instance::Instance;
use super::probe::{Probe, problem};
use crate::config;

/// Health checks of the whole process that run at once.
static AT_ONCE: Semaphore = Semaphore::const_new(256);

/// What all checks of a service depend on; while it is equal, they go on.
#[derive(Debug, PartialEq)]
pub(super) struct Settings {
    service: Arc<str>,
    health: config::HealthCheck,
    host: Option<String>,
    tls: Option<config::ServiceTls>,
    slow_start: Option<Duration>,
}

/// The checks of one instance, if there are any; they end with it.
#[derive(Debug, Default)]
pub(super) struct Checks(Mutex<Option<Running>>);

#[derive(Debug)]
struct Running {
    settings: Arc<Settings>,
    task: AbortHandle,
}

impl Settings {
    /// None where the service has no health checks.
    pub fn of(name: &Arc<str>, service: &config::Service) -> Option<Arc<Self>> {
        let health = service.health.clone()?;
        Some(Arc::new(Self {
            service: Arc::clone(name),
            health,
            host: service.host.clone(),
            tls: service.tls.clone(),
            slow_start: service.slow_start.map(|span| span.0),
        }))
    }

    /// Draws conclusions from a check, and tells people where they change something.
    fn conclude(&self, instance: &Instance, problem: Option<String>, took: Duration, threshold: usize) {
        match instance.checked(problem, took, threshold) {
            Some(Change::Up) => {
                instance.begin_slow_start(self.slow_start);
                log::info!("service {}: instance {} is healthy", self.service, instance.label);
            }
            Some(Change::Down) => {
                let why = instance.condition().why;
                log::warn!(
                    "service {}: instance {} is unhealthy and gets no requests: {why}",
                    self.service,
                    instance.label
                );
            }
            None => {}
        }
    }
}

impl Checks {
    /// Checks `instance` from now on by `settings`; nothing changes where it is done so already.
    /// `new` instances wait for their first check: one alone is checked at once, a thousand over a second.
    pub fn run(&self, instance: &Arc<Instance>, settings: &Arc<Settings>, probe: &Arc<Probe>, new: usize, on: &Handle) {
        let mut running = self.0.lock();
        if running.as_ref().is_some_and(|running| running.settings == *settings) {
            return;
        }
        let soon = Duration::from_millis(new.saturating_sub(1) as u64).min(settings.health.every.0);
        let first = part(if instance.is_unproven() { soon } else { settings.health.every.0 }, 0, 100);
        let checking = check_until_dropped(Arc::downgrade(instance), Arc::clone(settings), Arc::clone(probe), first);
        *running = Some(Running { settings: Arc::clone(settings), task: on.spawn(checking).abort_handle() });
    }

    /// Ends the checks.
    pub fn stop(&self) {
        *self.0.lock() = None;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn check_until_dropped(instance: Weak<Instance>, settings: Arc<Settings>, probe: Arc<Probe>, first: Duration) {
    tokio::time::sleep(first).await;
    while let Some(instance) = instance.upgrade() {
        let Ok(permit) = AT_ONCE.acquire().await else { return };
        let begun = Instant::now();
        let problem = probe.check(&probe.target(&instance)).await.err().map(|error| problem(&error));
        drop(permit);
        let threshold = probe.health_threshold(problem.is_none());
        settings.conclude(&instance, problem, begun.elapsed(), threshold);
        drop(instance);
        tokio::time::sleep(part(settings.health.every.0, 90, 110)).await;
    }
}

/// A random part of `whole`, between two percentages.
fn part(whole: Duration, from: u32, to: u32) -> Duration {
    let random = getrandom::u32().unwrap_or_default() % (to - from + 1);
    whole * (from + random) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_a_tenth_early_or_late() {
        let second = Duration::from_secs(1);
        let parts: Vec<Duration> = (0..200).map(|_| part(second, 90, 110)).collect();
        assert!(parts.iter().all(|part| (900..=1100).contains(&part.as_millis())));
        assert!(parts.iter().any(|part| *part < second) && parts.iter().any(|part| *part > second));
    }
}
