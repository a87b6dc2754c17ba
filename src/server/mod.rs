//! Wires everything together: what starts in which order, and what stops in which order. The only module that sees all others.
//! Start: configuration, log, admin, listeners; ready when every listener accepts.
//! Stop: not ready, listeners close, requests in flight finish, the log is written out, admin ends last.

mod breakers;
mod capacity;
mod control;
mod counters;
mod instances;
mod listeners;
mod shutdown;
mod stored;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::oneshot;

use self::control::Wiring;
use self::counters::{Saved, Saver};
use crate::cache;
use crate::config::{self, Config};
use crate::gateway::Parts;
use crate::keys::KeyPoll;
use crate::metrics::{BuildFacts, Metrics};
use crate::request_log::{RequestLog, Writer};
use crate::runtime::{Live, Runtime};
use crate::words::counted;
use crate::{admin, build_facts as build};

/// How long answers of the admin API may take when everything else has ended.
const ADMIN_ENDS_WITHIN: Duration = Duration::from_secs(1);

/// How long answers that wait to be written to disk may take, at least: they are in memory, so it is a matter of the disk.
const DISK_ENDS_WITHIN: Duration = Duration::from_secs(1);

/// Whether requests should be sent here.
#[derive(Debug, Default)]
struct Ready {
    accepting: AtomicBool,
    draining: AtomicBool,
}

/// A gateway that serves, and what has to be stopped.
struct Running {
    background: tokio::runtime::Runtime,
    wiring: Arc<Wiring>,
    writer: Writer,
    saver: Option<Saver>,
    pingora: listeners::Pingora,
    drained: UnboundedReceiver<()>,
    stop_admin: oneshot::Sender<()>,
    admin_stopped: Option<tokio::task::JoinHandle<()>>,
}

/// Serves the configuration in `path` until it is told to stop. 0 after a clean stop, 1 when it could not start.
pub fn run(path: &Path) -> ExitCode {
    match start(path) {
        Ok(running) => running.serve(),
        Err(problem) => {
            log::error!("tollgate can't start:\n{problem}");
            ExitCode::FAILURE
        }
    }
}

fn start(path: &Path) -> Result<Running, String> {
    let config = config::load(path).map_err(|problems| problems.to_string())?;
    let first = Runtime::compile(config.clone(), None).map_err(|problems| problems.to_string())?;
    raise_open_files();
    listeners::can_bind(&config)?;
    let admin = config.admin.clone().map(|admin| Ok::<_, String>((bind_admin(&admin)?, admin))).transpose()?;
    let background = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("background")
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime for background work: {error}"))?;
    let node = node(&config);
    let (log, writer) = RequestLog::start(&config.log, &node, build::VERSION)?;
    let metrics =
        Arc::new(Metrics::new(BuildFacts { version: build::VERSION, revision: build::REVISION, rust: build::RUST })?);
    if let Some(disk) = &config.cache.disk {
        cache::store().open_disk(&disk.path, config.cache.memory.0, disk.size.0)?;
    }
    let live = Arc::new(Live::start(path, first, background.handle().clone()));
    let saved = Arc::new(Saved::default());
    let saver = Saver::start(&config, &node, &live, &saved)?;
    let key_poll = poll_keys(&config, &live).map_err(|error| format!("no thread for the key store: {error}"))?;
    let parts = Arc::new(Parts::new(live, metrics, log));
    let ready = Arc::new(Ready::default());
    let wiring = Arc::new(Wiring { parts: Arc::clone(&parts), ready: Arc::clone(&ready), saved, key_poll });
    let (stop_admin, admin_stop) = oneshot::channel();
    let admin_stopped =
        admin.map(|(listener, admin)| background.spawn(serve_admin(listener, admin, Arc::clone(&wiring), admin_stop)));
    let (pingora, drained) = listeners::start(&config, &parts)?;
    announce(&config, &node);
    Ok(Running { background, wiring, writer, saver, pingora, drained, stop_admin, admin_stopped })
}

impl Running {
    fn serve(self) -> ExitCode {
        let Self { background, wiring, writer, saver, pingora, mut drained, stop_admin, admin_stopped } = self;
        let listeners = wiring.parts.live.load().config.listen.clone();
        let (ended, told) = background.block_on(async {
            if let Err(problem) = listeners::accepting(&listeners, &pingora).await {
                log::error!("tollgate can't start: {problem}");
                return (shutdown::Ended::Failed, Instant::now());
            }
            wiring.ready.accepting.store(true, Ordering::Release);
            log::info!("ready");
            shutdown::serve_until_told(&wiring, pingora, &mut drained).await
        });
        let shutdown = wiring.parts.live.load().config.shutdown.clone();
        if let Some(saver) = &saver {
            saver.stop();
        }
        let deadline = ended.log_deadline(told, &shutdown);
        let counts = writer.finish(deadline);
        let dropped: u64 = counts.dropped.iter().map(|(_, count)| count).sum();
        log::info!("request log: {} accepted, {} written, {dropped} dropped", counts.accepted, counts.written);
        for (reason, count) in counts.dropped.iter().filter(|(_, count)| *count > 0) {
            log::warn!("request log: {} dropped ({reason})", counted(*count, "record"));
        }
        if let Some(saver) = saver {
            saver.finish(deadline);
        }
        cache::store().close_disk(deadline.max(Instant::now() + DISK_ENDS_WITHIN));
        // The admin API answers until the very end; nobody may be left to be told.
        let _ = stop_admin.send(());
        if let Some(stopped) = admin_stopped {
            let _ = background.block_on(async { tokio::time::timeout(ADMIN_ENDS_WITHIN, stopped).await });
        }
        background.shutdown_background();
        log::info!("stopped");
        ended.exit_code()
    }
}

/// Keeps the keys of the store in force, whatever runtime is; none where there is no store.
fn poll_keys(config: &Config, live: &Arc<Live>) -> std::io::Result<Option<KeyPoll>> {
    let url = config.key_store.database(&config.log.store);
    if url == config::StoreUrl::None {
        return Ok(None);
    }
    let stored = live.load().keys.stored();
    let live = Arc::clone(live);
    KeyPoll::start(url, stored, move || live.load().keys.renew()).map(Some)
}

fn bind_admin(admin: &config::Admin) -> Result<std::net::TcpListener, String> {
    admin::bind(admin.address).map_err(|error| format!("admin: can't listen on {}: {error}", admin.address))
}

async fn serve_admin(
    listener: std::net::TcpListener,
    admin: config::Admin,
    wiring: Arc<Wiring>,
    stop: oneshot::Receiver<()>,
) {
    match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => {
            admin::serve(listener, admin, wiring, async {
                // A sender that is gone means the same as one that sent.
                let _ = stop.await;
            })
            .await;
        }
        Err(error) => log::error!("the admin API does not serve: {error}"),
    }
}

/// The soft limit of open files becomes the hard one: every connection is a file.
fn raise_open_files() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(files) => log::info!("open files: at most {files}"),
        Err(error) => log::warn!("the limit of open files could not be raised: {error}"),
    }
}

/// The label of this process: the configured one, or the host's name.
fn node(config: &Config) -> String {
    let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").map(|name| name.trim().to_owned());
    config.node.clone().unwrap_or_else(|| host().unwrap_or_else(|_| "tollgate".to_owned()))
}

fn announce(config: &Config, node: &str) {
    log::info!("tollgate {} on {node}, configuration {}", build::VERSION, config.places.file.display());
    for listener in &config.listen {
        let scheme = if listener.tls.is_empty() { "http" } else { "https" };
        log::info!("listening on {scheme}://{}", listener.address);
    }
    match &config.admin {
        Some(admin) => log::info!("admin on http://{}", admin.address),
        None => log::warn!("admin: none; there is no /health, no /metrics and no reload but by signal"),
    }
    let counts = [(config.routes.len(), "route"), (config.services.len(), "service"), (config.keys.len(), "key")];
    log::info!("{}", counts.map(|(number, thing)| counted(number as u64, thing)).join(", "));
    if matches!(config.log.store, config::StoreUrl::None) && config.log.json == config::JsonLines::None {
        log::warn!("log: none; requests are not accounted for");
    } else {
        log::info!("request log: {:?}", config.log.store);
    }
}
