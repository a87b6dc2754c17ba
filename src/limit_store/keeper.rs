//! Keeps the store connected, in the background: connects, says every second that this gateway is there, and connects again
//! after a failure. The breaker closes when the server has answered as fast as a request needs it to.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};

use super::fault::Fault;
use super::gateways::KNOWN_FOR;
use super::link::{Link, Presence};
use super::{LimitStore, Settings};

/// Between two signs of life.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// For name, TCP, TLS, password and scripts together.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// Between tries to connect; doubles up to the second.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// A link that lived so long was a good one: after it, trying begins anew.
const LIVED: Duration = Duration::from_secs(5);

/// Runs until nobody has the store any more.
pub(super) async fn keep(store: Weak<LimitStore>) {
    let mut pause = RETRY_FIRST;
    let mut node = None;
    loop {
        let Some(held) = store.upgrade() else { return };
        match connect(&held, node.as_deref()).await {
            Ok(link) => {
                let connected = Instant::now();
                held.close(Arc::clone(&link));
                drop(held);
                beat_on(&store, &link).await;
                if connected.elapsed() >= LIVED {
                    pause = RETRY_FIRST;
                }
                // A node that failed may no longer be the one: the configured server knows.
                node = None;
            }
            Err(fault) => {
                node.clone_from(&fault.moved_to);
                held.not_connected(&fault);
                drop(held);
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// A link over which the server has answered in time.
async fn connect(store: &LimitStore, node: Option<&str>) -> Result<Arc<Link>, Fault> {
    let settings = &store.settings;
    let link = timeout(CONNECT_MAX, Link::connect(settings, node))
        .await
        .unwrap_or_else(|_| Err(Fault::timeout(CONNECT_MAX)))?;
    beat(store, &link, settings.timeout).await?;
    Ok(Arc::new(link))
}

/// Says every second that this gateway is there, until the link is no longer in use.
async fn beat_on(store: &Weak<LimitStore>, link: &Arc<Link>) {
    loop {
        let Some(held) = store.upgrade() else { return };
        // Whichever comes first; what woke is found out below.
        let _ = timeout(BEAT_EVERY, held.tripped.notified()).await;
        if !held.link.load().as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            return;
        }
        if let Err(fault) = beat(&held, link, held.settings.timeout.max(RETRY_MAX)).await {
            held.figures.failed(fault.kind);
            held.open(link, &fault);
            return;
        }
    }
}

async fn beat(store: &LimitStore, link: &Link, longest: Duration) -> Result<(), Fault> {
    let seen = store.seen.load(std::sync::atomic::Ordering::Relaxed);
    let presence = Presence { id: &store.id, seen, known_for_us: KNOWN_FOR.as_micros() as u64 };
    let settings: &Settings = &store.settings;
    let beat =
        timeout(longest, link.beat(settings, &presence)).await.unwrap_or_else(|_| Err(Fault::timeout(longest)))?;
    store.learn(&beat);
    Ok(())
}
