//! Counts that several gateways share, in Redis or Valkey: one atomic script decides all limits of a request, by the server's clock.
//! A request waits at most `limits.timeout`. The first failure opens a breaker, so a dead server costs one time-out, not one a
//! request; the link is made again in the background. What a limit does without an answer is decided by the policy, not here.
//! Invariants: a question is never queued without a bound; every key expires; no message holds a password.

mod fault;
mod figures;
mod gateways;
mod keeper;
mod link;
mod rule;
mod settings;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};

pub use fault::{FaultKind, Unavailable};
pub use figures::{Fallback, LatencyState, StoreState};
pub use gateways::Share;
pub use rule::{Answer, Ask, Kind, Rule, Verdict};
pub use settings::Settings;

use fault::Fault;
use figures::Figures;
use gateways::Census;
use link::{Beat, Link};

/// Requests of one gateway that may wait for an answer at once; the next one is decided without the store.
const WAITING_MAX: usize = 16_384;

/// The shared counts of one deployment, as one gateway sees them.
pub struct LimitStore {
    settings: Settings,
    /// This process among the gateways.
    id: String,
    /// None while the breaker is open.
    link: ArcSwapOption<Link>,
    /// Woken when the breaker opens.
    tripped: Notify,
    contact: watch::Sender<Contact>,
    waiting: Semaphore,
    /// The latest time of the server that was told, in microseconds; 0 before the first.
    seen: AtomicU64,
    /// When counts were last lost, by the server's clock; 0: never.
    lost: AtomicU64,
    clock: Mutex<Option<(u64, Instant)>>,
    census: Mutex<Census>,
    outage: Mutex<Outage>,
    figures: Arc<Figures>,
    started: AtomicBool,
}

/// Whether the server was ever tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Contact {
    NotYet,
    Tried,
}

/// What is known of the present outage.
struct Outage {
    since: Option<Instant>,
    told: Option<FaultKind>,
    why: String,
}

impl LimitStore {
    /// A store that is not connected yet; until it is, every question is [`Unavailable`]. Goes on with the figures of `previous`.
    pub fn new(settings: Settings, previous: Option<&Self>) -> Self {
        Self {
            settings,
            id: uuid::Uuid::now_v7().to_string(),
            link: ArcSwapOption::empty(),
            tripped: Notify::new(),
            contact: watch::channel(Contact::NotYet).0,
            waiting: Semaphore::new(WAITING_MAX),
            seen: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            clock: Mutex::new(None),
            census: Mutex::new(Census::default()),
            outage: Mutex::new(Outage { since: Some(Instant::now()), told: None, why: "not connected yet".to_owned() }),
            figures: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.figures)),
            started: AtomicBool::new(false),
        }
    }

    /// What it was made of.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Connects in the background, and stays connected until the last reference is gone. Once; later calls do nothing.
    pub fn start(self: &Arc<Self>, background: &tokio::runtime::Handle) {
        if !self.started.swap(true, Ordering::Relaxed) {
            background.spawn(keeper::keep(Arc::downgrade(self)));
        }
    }

    /// Waits until the server was tried once, at most for `longest`; so that a start does not begin with the fallback for want of a moment.
    pub async fn tried(&self, longest: Duration) {
        let mut contact = self.contact.subscribe();
        let tried = contact.wait_for(|contact| *contact == Contact::Tried);
        // Neither a time-out nor an end is a fault here: whoever goes on has the fallback.
        let _ = tokio::time::timeout(longest, tried).await;
    }

    /// Decides all limits of one request at once; waits at most `limits.timeout`.
    ///
    /// # Errors
    /// There is no answer. It may have been counted nevertheless.
    pub async fn decide(&self, asks: &[Ask]) -> Result<Answer, Unavailable> {
        let begun = Instant::now();
        let answer = self.ask(asks, link::Purpose::Decide).await?;
        self.figures.decided(begun.elapsed());
        Ok(answer)
    }

    /// Where an identity stands; counts nothing.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn look(&self, asks: &[Ask]) -> Result<Answer, Unavailable> {
        self.ask(asks, link::Purpose::Look).await
    }

    /// Forgets what is counted under these keys; says how many there were.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn forget(&self, keys: &[String]) -> Result<u64, Unavailable> {
        let link = self.link.load_full().ok_or(Unavailable)?;
        self.bounded(&link, link.forget(keys)).await
    }

    /// Whether questions are asked now.
    pub fn is_up(&self) -> bool {
        self.link.load().is_some()
    }

    /// Why not.
    pub fn why_down(&self) -> Option<String> {
        if self.is_up() { None } else { Some(self.outage.lock().why.clone()) }
    }

    /// The server's clock in microseconds since 1970, without asking; none before the first contact.
    pub fn clock(&self) -> Option<u64> {
        let clock = self.clock.lock();
        clock.map(|(server, read)| server + read.elapsed().as_micros() as u64)
    }

    /// When counts were last lost, by the server's clock in microseconds.
    pub fn lost(&self) -> Option<u64> {
        match self.lost.load(Ordering::Relaxed) {
            0 => None,
            lost => Some(lost),
        }
    }

    /// This gateway's part of a limit while the store is away.
    pub fn share(&self) -> Share {
        self.census.lock().share(self.settings.gateways)
    }

    /// Counts a request that was decided without the store.
    pub fn fell_back(&self, to: Fallback) {
        self.figures.fell_back(to);
    }

    /// The beginning of every key: the deployment's prefix with its hash tag.
    pub fn prefix(&self) -> &str {
        self.settings.prefix()
    }

    /// For metrics.
    pub fn state(&self) -> StoreState {
        self.figures.state(self.is_up(), self.census.lock().gateways())
    }

    async fn ask(&self, asks: &[Ask], purpose: link::Purpose) -> Result<Answer, Unavailable> {
        let Some(link) = self.link.load_full() else { return Err(Unavailable) };
        let Ok(_place) = self.waiting.try_acquire() else {
            self.figures.failed(FaultKind::Busy);
            return Err(Unavailable);
        };
        let answer = self.bounded(&link, link.ask(asks, purpose)).await?;
        self.seen.fetch_max(answer.now, Ordering::Relaxed);
        Ok(answer)
    }

    /// Waits for an answer, at most as long as a request may. A failure opens the breaker.
    async fn bounded<T>(
        &self,
        link: &Arc<Link>,
        answer: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Unavailable> {
        let fault = match tokio::time::timeout(self.settings.timeout, answer).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(fault)) => fault,
            Err(_) => Fault::timeout(self.settings.timeout),
        };
        self.figures.failed(fault.kind);
        self.open(link, &fault);
        Err(Unavailable)
    }

    /// Opens the breaker, unless another link is in place already: the fault is of this one.
    fn open(&self, link: &Arc<Link>, fault: &Fault) {
        let mut outage = self.outage.lock();
        let current = self.link.load();
        if !current.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            return;
        }
        self.link.store(None);
        self.figures.opened();
        outage.since = Some(Instant::now());
        outage.tell(&self.settings, fault);
        drop(outage);
        self.tripped.notify_one();
    }

    /// A try to connect has failed.
    fn not_connected(&self, fault: &Fault) {
        self.figures.failed(fault.kind);
        self.outage.lock().tell(&self.settings, fault);
        self.contact.send_replace(Contact::Tried);
    }

    /// Closes the breaker.
    fn close(&self, link: Arc<Link>) {
        let mut outage = self.outage.lock();
        let (name, gateways) = (self.settings.name(), self.census.lock().gateways());
        match (outage.told.take(), outage.since.take()) {
            (Some(_), Some(since)) => {
                log::info!(
                    "limits.store: {name} is back after {:.1} s, {gateways} gateways seen",
                    since.elapsed().as_secs_f64()
                );
            }
            _ => log::info!("limits.store: {name} is connected, {gateways} gateways seen"),
        }
        self.link.store(Some(link));
        drop(outage);
        self.contact.send_replace(Contact::Tried);
    }

    /// Remembers what the server said about the deployment.
    fn learn(&self, beat: &Beat) {
        self.seen.fetch_max(beat.now, Ordering::Relaxed);
        *self.clock.lock() = Some((beat.now, Instant::now()));
        self.census.lock().learn(beat.gateways, beat.rank, Instant::now());
        if self.lost.swap(beat.lost, Ordering::Relaxed) < beat.lost {
            let name = self.settings.name();
            log::warn!(
                "limits.store: {name} has lost counts; for one window of each limit a gateway admits no more than its share of it"
            );
        }
    }
}

impl Outage {
    /// Says why the store is away, once for each kind of reason.
    fn tell(&mut self, settings: &Settings, fault: &Fault) {
        let name = settings.name();
        if self.told != Some(fault.kind) {
            log::warn!("limits.store: {name} is away: {}; until it is back, limits.on_error decides", fault.text);
        }
        self.told = Some(fault.kind);
        self.why.clone_from(&fault.text);
    }
}
