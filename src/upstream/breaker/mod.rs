//! Circuit breaker: whether an instance, or a whole service, is asked at all. Closed; open, after failures; half open, when a few may try again.
//! A `Permit` is a request that was let through: it says how that went, or gives its place back when it is dropped, so that no state is without
//! a way out. Not here: the decisions (`state.rs`), and what counts as a failure (`gateway/attempt.rs`).

mod set;
mod state;
#[cfg(test)]
mod tests;
mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub use self::set::Breakers;
use self::state::{Change, Machine, Phase, Ticket};
use crate::config;

/// The breaker of one instance, or of a service as a whole.
#[derive(Debug)]
pub struct Breaker {
    /// As messages name it.
    name: String,
    config: config::Breaker,
    machine: Mutex<Machine>,
    transitions: Arc<Transitions>,
}

/// How often it came into each state; goes on when a reload changes the settings.
#[derive(Debug, Default)]
struct Transitions {
    opened: AtomicU64,
    half_opened: AtomicU64,
    closed: AtomicU64,
}

/// The states of a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Everything passes, and is counted.
    Closed,
    /// A few requests try whether it is better.
    HalfOpen,
    /// Nothing passes.
    Open,
}

/// What a breaker shows of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerView {
    /// Where it is.
    pub state: BreakerState,
    /// For how long it has been there.
    pub lasts: Duration,
    /// Why it opened; none while it is closed.
    pub why: Option<String>,
    /// Until it lets requests try again; nothing where it does already.
    pub left: Duration,
    /// Failures since the last success, while it is closed.
    pub failures_in_a_row: u32,
    /// How often it came into each state.
    pub transitions: [(BreakerState, u64); 3],
}

/// A request that was let through.
#[derive(Debug)]
pub struct Permit {
    breaker: Arc<Breaker>,
    /// None when the outcome was told.
    ticket: Option<Ticket>,
}

impl Breaker {
    /// The breaker of `instance`, or of the whole `service`. The one of before, where its settings are the same.
    pub(super) fn compile(
        config: &config::Breaker,
        service: &str,
        instance: Option<&str>,
        previous: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        if let Some(same) = previous.filter(|previous| previous.config == *config) {
            return Arc::clone(same);
        }
        let name =
            instance.map_or(format!("service {service}"), |label| format!("service {service}: instance {label}"));
        Arc::new(Self {
            name,
            machine: Mutex::new(Machine::new(config, Instant::now())),
            config: config.clone(),
            transitions: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.transitions)),
        })
    }

    /// Whether [`Self::enter`] would let a request through now.
    pub fn is_ready(&self, now: Instant) -> bool {
        self.change(|machine| machine.is_ready(now))
    }

    /// Lets a request through.
    ///
    /// # Errors
    /// How long it is until the next one may try.
    pub fn enter(self: &Arc<Self>, now: Instant) -> Result<Permit, Duration> {
        let ticket = self.change(|machine| machine.admit(now))?;
        Ok(Permit { breaker: Arc::clone(self), ticket: Some(ticket) })
    }

    /// Until it lets requests try again; none where it does already.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        self.change(|machine| if machine.is_ready(now) { None } else { Some(machine.left(now)) })
    }

    /// Where it is now.
    pub fn view(&self, now: Instant) -> BreakerView {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = &self.transitions;
        self.change(|machine| {
            machine.is_ready(now); // what is open for long enough is half open
            BreakerView {
                state: machine.phase().into(),
                lasts: now.saturating_duration_since(machine.since()),
                why: machine.why().map(|why| why.to_string()),
                left: machine.left(now),
                failures_in_a_row: machine.failures_in_a_row(),
                transitions: [(BreakerState::Open, 0), (BreakerState::HalfOpen, 0), (BreakerState::Closed, 0)],
            }
        })
        .with_counts([count(&counts.opened), count(&counts.half_opened), count(&counts.closed)])
    }

    /// Asks the machine, and says what changed by that.
    fn change<T>(&self, ask: impl FnOnce(&mut Machine) -> T) -> T {
        let mut machine = self.machine.lock();
        let answer = ask(&mut machine);
        let change = machine.take_change();
        drop(machine);
        if let Some(change) = change {
            self.say(&change);
        }
        answer
    }

    fn say(&self, change: &Change) {
        let (name, counts) = (&self.name, &self.transitions);
        let count = match change {
            Change::Opened { why, wait } => {
                log::warn!("{name}: breaker open for {} ms: {why}", wait.as_millis());
                &counts.opened
            }
            Change::HalfOpened => {
                log::info!("{name}: breaker half open: the next request tries whether it is better");
                &counts.half_opened
            }
            Change::Closed => {
                log::info!("{name}: breaker closed");
                &counts.closed
            }
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl BreakerView {
    fn with_counts(mut self, counts: [u64; 3]) -> Self {
        for (transition, count) in self.transitions.iter_mut().zip(counts) {
            transition.1 = count;
        }
        self
    }
}

impl BreakerState {
    /// The word in admin API and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

impl From<Phase> for BreakerState {
    fn from(phase: Phase) -> Self {
        match phase {
            Phase::Closed => Self::Closed,
            Phase::Open { .. } => Self::Open,
            Phase::HalfOpen { .. } => Self::HalfOpen,
        }
    }
}

impl Permit {
    /// Whether others wait for what becomes of it.
    pub fn is_trial(&self) -> bool {
        self.ticket.as_ref().is_some_and(|ticket| ticket.is_trial)
    }

    /// Says how the request went, and how long its answer took.
    pub fn report(mut self, failed: bool, took: Duration, now: Instant) {
        if let Some(ticket) = self.ticket.take() {
            self.breaker.change(|machine| machine.report(ticket, failed, took, now));
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.breaker.change(|machine| machine.release(ticket));
        }
    }
}
