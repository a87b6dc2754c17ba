//! The runtime that is in force, and how the next one takes its place.
//! All or nothing: the next runtime is complete before anyone can see it; with any problem the current one keeps serving.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::Runtime;
use crate::config::{self, Config, Listener, Problems};

/// The runtime that is in force.
pub struct Live {
    current: ArcSwap<Runtime>,
    path: PathBuf,
    /// Health checks run here.
    background: tokio::runtime::Handle,
    /// Reloads come one after the other.
    reloads: Mutex<()>,
    failed: AtomicU64,
    succeeded: AtomicU64,
    in_force_since: Mutex<SystemTime>,
}

/// How reloads went since the process began.
#[derive(Clone, Copy, Debug)]
pub struct Reloads {
    /// Reloads that took effect.
    pub succeeded: u64,
    /// Reloads that were refused.
    pub failed: u64,
    /// When the configuration in force took effect.
    pub in_force_since: SystemTime,
}

impl Live {
    /// Puts the first runtime in force.
    pub fn start(path: &Path, first: Runtime, background: tokio::runtime::Handle) -> Self {
        first.start(None, &background);
        Self {
            current: ArcSwap::from_pointee(first),
            path: path.to_owned(),
            background,
            reloads: Mutex::new(()),
            failed: AtomicU64::new(0),
            succeeded: AtomicU64::new(0),
            in_force_since: Mutex::new(SystemTime::now()),
        }
    }

    /// The runtime in force; whoever has it keeps it to the end of the exchange.
    pub fn load(&self) -> Arc<Runtime> {
        self.current.load_full()
    }

    /// Looks at the runtime in force for a moment, which is cheaper than keeping it.
    pub fn with<T>(&self, look: impl FnOnce(&Runtime) -> T) -> T {
        look(&self.current.load())
    }

    /// Reads the file again and puts it in force. Resolves names, so it may take seconds: not for the data path.
    ///
    /// # Errors
    /// Every problem; the current runtime keeps serving.
    pub fn reload(&self) -> Result<u32, Problems> {
        let _one_at_a_time = self.reloads.lock();
        match self.next() {
            Ok(next) => {
                let generation = next.generation;
                next.start(Some(&self.load()), &self.background);
                let keys = Arc::clone(&next.keys);
                self.current.store(Arc::new(next));
                // What the key store said meanwhile went to the runtime before.
                self.current.load().catch_up();
                for overruled in keys.renew() {
                    log::warn!("keys: {overruled}");
                }
                self.succeeded.fetch_add(1, Ordering::Relaxed);
                *self.in_force_since.lock() = SystemTime::now();
                log::info!("configuration {} is in force, generation {generation}", self.path.display());
                Ok(generation)
            }
            Err(problems) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                log::error!("the configuration was not reloaded, the one before serves on:\n{problems}");
                Err(problems)
            }
        }
    }

    fn next(&self) -> Result<Runtime, Problems> {
        let current = self.load();
        let config = config::load(&self.path)?;
        changes_at_start_only(&current.config, &config)?;
        Runtime::compile(config, Some(&current))
    }

    /// How reloads went.
    pub fn reloads(&self) -> Reloads {
        Reloads {
            succeeded: self.succeeded.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            in_force_since: *self.in_force_since.lock(),
        }
    }
}

/// What can only change when the process starts is refused by name.
fn changes_at_start_only(current: &Config, next: &Config) -> Result<(), Problems> {
    let mut problems = Problems::new(next.places.named.clone());
    let fixed = [
        ("listen", listeners(current) == listeners(next)),
        ("admin", current.admin == next.admin),
        ("node", current.node == next.node),
        ("threads", current.threads == next.threads),
        ("key_store", current.key_store == next.key_store),
        ("log", current.log == next.log),
        ("cache.disk.path", disk(current) == disk(next)),
        ("discovery.state", current.discovery.state == next.discovery.state),
    ];
    for (name, same) in fixed {
        if !same {
            problems.add(&next.places, name, format!("`{name}` can only change at start: restart to change it"));
        }
    }
    problems.or(())
}

/// The folder of stored answers.
fn disk(config: &Config) -> Option<&Path> {
    config.cache.disk.as_ref().map(|disk| disk.path.as_path())
}

/// The listeners without their certificates, which may change.
fn listeners(config: &Config) -> Vec<Listener> {
    let without_files = |listener: &Listener| {
        let mut listener = listener.clone();
        listener.tls.truncate(1);
        for certificate in &mut listener.tls {
            certificate.cert.clear();
            certificate.key.clear();
        }
        listener
    };
    config.listen.iter().map(without_files).collect()
}
