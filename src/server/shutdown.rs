//! Signals, and the order of the end: not ready, `drain_delay`, listeners close, requests in flight finish, at most `grace`.
//! Pingora would sleep the whole grace period; here the end comes as soon as nothing is in flight. A second signal ends at once.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;

use super::control::Wiring;
use super::listeners::Pingora;
use crate::config::Shutdown;
use crate::words::counted;

/// What is kept of the grace period for the log.
const FOR_THE_LOG: Duration = Duration::from_secs(2);

/// What the log has even when the grace period is over.
const LOG_AT_LEAST: Duration = Duration::from_secs(1);

/// How long the exchanges of cut connections may take to end.
const CUT_WITHIN: Duration = Duration::from_millis(300);

/// What the log has when the process is told to end at once.
const LOG_AT_ONCE: Duration = Duration::from_millis(500);

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
    pub(super) const fn exit_code(self) -> ExitCode {
        match self {
            Self::Drained | Self::GraceOver => ExitCode::SUCCESS,
            Self::AtOnce | Self::Failed => ExitCode::FAILURE,
        }
    }

    /// Until when the log may be written out: what is left of `grace`, but a moment in any case.
    pub(super) fn log_deadline(self, told: Instant, shutdown: &Shutdown) -> Instant {
        match self {
            Self::Drained | Self::GraceOver => {
                (told + shutdown.drain_delay.0 + shutdown.grace.0).max(Instant::now() + LOG_AT_LEAST)
            }
            Self::AtOnce | Self::Failed => Instant::now() + LOG_AT_ONCE,
        }
    }
}

/// How long requests in flight may take of the grace period; the rest is for the log to be written out.
fn time_for_requests(grace: Duration) -> Duration {
    if grace >= 2 * FOR_THE_LOG { grace - FOR_THE_LOG } else { grace }
}

/// Serves until a signal says stop, and then until nothing is in flight. SIGHUP reloads.
pub(super) async fn serve_until_told(
    wiring: &Arc<Wiring>,
    pingora: Pingora,
    drained: &mut UnboundedReceiver<()>,
) -> (Ended, Instant) {
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hang_up)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()))
    else {
        log::error!("signals can't be received");
        return (Ended::Failed, Instant::now());
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
    let told = Instant::now();
    let ended = tokio::select! {
        ended = drain(wiring, pingora, drained) => ended,
        name = told_to_stop(&mut terminate, &mut interrupt) => {
            let cut_off = counted(wiring.parts.exchanges() as u64, "request");
            log::warn!("{name} again: ending at once; cut in flight: {cut_off}");
            cut(wiring).await;
            Ended::AtOnce
        }
    };
    (ended, told)
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
    let time = time_for_requests(shutdown.grace.0);
    if tokio::time::timeout(time, all_drained).await.is_ok() {
        return Ended::Drained;
    }
    log::warn!("still in flight after {time:?}, and cut: {}", counted(wiring.parts.exchanges() as u64, "request"));
    cut(wiring).await;
    Ended::GraceOver
}

/// Ends every connection; each exchange that is cut leaves its record before the log is closed.
async fn cut(wiring: &Wiring) {
    wiring.parts.census.cut();
    let deadline = Instant::now() + CUT_WITHIN;
    while wiring.parts.exchanges() > 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
