//! Signals, and the order of the end: not ready, `drain_delay`, listeners close, requests in flight finish, at most `grace`.
//! Pingora would sleep the whole grace period; here the end comes as soon as nothing is in flight. A second signal ends at once.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;

use super::control::Wiring;
use super::listeners::Pingora;

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Nothing was in flight any more.
    Drained,
    /// The grace period was over with requests in flight.
    GraceOver,
    /// A second signal came.
    AtOnce,
    /// It never served.
    Failed,
}

impl Ended {
    /// How long the log may take to be written out.
    pub(super) const fn time_for_log(self) -> Duration {
        match self {
            Self::Drained | Self::GraceOver => Duration::from_secs(10),
            Self::AtOnce | Self::Failed => Duration::from_millis(500),
        }
    }

    pub(super) const fn exit_code(self) -> ExitCode {
        match self {
            Self::Drained | Self::GraceOver => ExitCode::SUCCESS,
            Self::AtOnce | Self::Failed => ExitCode::FAILURE,
        }
    }
}

/// Serves until a signal says stop, and then until nothing is in flight. SIGHUP reloads.
pub(super) async fn serve_until_told(
    wiring: &Arc<Wiring>,
    pingora: Pingora,
    drained: &mut UnboundedReceiver<()>,
) -> Ended {
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hang_up)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()))
    else {
        log::error!("signals can't be received");
        return Ended::Failed;
    };
    loop {
        tokio::select! {
            _ = hang_up.recv() => reload(wiring),
            name = told_to_stop(&mut terminate, &mut interrupt) => {
                log::info!("{name}: finishing what is in flight; a second signal ends at once");
                break;
            }
        }
    }
    tokio::select! {
        ended = drain(wiring, pingora, drained) => ended,
        name = told_to_stop(&mut terminate, &mut interrupt) => {
            log::warn!("{name} again: ending at once, {} requests in flight are cut", wiring.parts.exchanges());
            Ended::AtOnce
        }
    }
}

async fn told_to_stop(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

/// A reload resolves names and reads files, so it has a thread of its own.
fn reload(wiring: &Arc<Wiring>) {
    log::info!("SIGHUP: reloading");
    wiring.parts.log.reopen();
    let live = Arc::clone(&wiring.parts.live);
    tokio::task::spawn_blocking(move || {
        // What went wrong is said where it is found.
        let _ = live.reload();
    });
}

async fn drain(wiring: &Wiring, pingora: Pingora, drained: &mut UnboundedReceiver<()>) -> Ended {
    let shutdown = wiring.parts.live.load().config.shutdown.clone();
    wiring.ready.draining.store(true, Ordering::Release);
    wiring.parts.drain();
    tokio::time::sleep(shutdown.drain_delay.0).await;
    pingora.close_listeners();
    let all_drained = async {
        for _ in 0..pingora.listeners {
            drained.recv().await;
        }
    };
    if tokio::time::timeout(shutdown.grace.0, all_drained).await.is_ok() {
        return Ended::Drained;
    }
    log::warn!("{} requests were still in flight after {:?} and are cut", wiring.parts.exchanges(), shutdown.grace.0);
    // Pingora now drops what still runs; every dropped exchange leaves its record.
    let _ = tokio::task::spawn_blocking(move || pingora.join(Duration::from_secs(4))).await;
    Ended::GraceOver
}
