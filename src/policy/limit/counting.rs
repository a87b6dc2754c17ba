//! Counting: the algorithm of one limit with its table, whichever of the three it is.
//! One `match` a verb instead of a trait object: an entry has the size that its algorithm needs, and the path of a request holds no pointer chase.

use std::sync::Arc;

use super::algorithm::{Algorithm, Standing};
use super::fixed_window::{DAY, FixedWindow, Period};
use super::identity::Identity;
use super::sliding_window::SlidingWindow;
use super::table::{Hold, Table, nanoseconds};
use super::token_bucket::TokenBucket;
use super::{Now, Rule, config};

/// How one limit counts.
pub(super) enum Counting {
    SlidingWindow(Counter<SlidingWindow>),
    TokenBucket(Counter<TokenBucket>),
    FixedWindow(Counter<FixedWindow>),
}

/// An algorithm, and what everyone has used.
pub(super) struct Counter<A: Algorithm> {
    algorithm: A,
    table: Arc<Table<A::Used>>,
}

/// What one identity has used of one limit, locked.
pub(super) enum Held<'a> {
    SlidingWindow(HeldBy<'a, SlidingWindow>),
    TokenBucket(HeldBy<'a, TokenBucket>),
    FixedWindow(HeldBy<'a, FixedWindow>),
}

pub(super) struct HeldBy<'a, A: Algorithm> {
    algorithm: &'a A,
    now: u64,
    hold: Hold<'a, A::Used>,
}

/// What somebody has used, for the admin API.
pub(super) struct Seen {
    /// None: the overflow entry.
    pub identity: Option<Identity>,
    pub standing: Standing,
    /// Whether a request would be refused.
    pub over: bool,
}

/// The same expression for each algorithm; `Self` names the enum.
macro_rules! each {
    ($value:expr, $of:ident => $do:expr) => {
        match $value {
            Self::SlidingWindow($of) => $do,
            Self::TokenBucket($of) => $do,
            Self::FixedWindow($of) => $do,
        }
    };
}

impl Counting {
    /// Compiles what a limit counts by, with an empty table of at most `entries_max`.
    pub fn compile(limit: &config::Limit, label: String, entries_max: usize) -> Self {
        let config::Rate { count, window, burst } = limit.rate;
        let length = match window {
            config::Window::Rolling(span) => nanoseconds(span.0),
            config::Window::Day => DAY,
            config::Window::Month => 30 * DAY, // only a window by the calendar has the month's own length
        };
        let period = if window == config::Window::Month { Period::Month } else { Period::Length(length) };
        match limit.algorithm() {
            // A log is the store's; its share of this process needs no more than slots.
            config::Algorithm::SlidingWindow | config::Algorithm::SlidingLog => {
                Self::SlidingWindow(Counter::new(SlidingWindow::new(count, length), label, entries_max))
            }
            config::Algorithm::TokenBucket => {
                let bucket = TokenBucket::new(count, length, burst.unwrap_or(count));
                Self::TokenBucket(Counter::new(bucket, label, entries_max))
            }
            config::Algorithm::FixedWindow => {
                Self::FixedWindow(Counter::new(FixedWindow::new(count, period), label, entries_max))
            }
        }
    }

    /// Goes on with the table of `previous`, which counts the same windows by the same algorithm; what was used stays used.
    /// Nothing happens where the algorithms or windows differ.
    pub fn take_over(&mut self, previous: &Self, now: Now) {
        match (self, previous) {
            (Self::SlidingWindow(counter), Self::SlidingWindow(previous)) => counter.take_over(previous, now),
            (Self::TokenBucket(counter), Self::TokenBucket(previous)) => counter.take_over(previous, now),
            (Self::FixedWindow(counter), Self::FixedWindow(previous)) => counter.take_over(previous, now),
            (Self::SlidingWindow(_) | Self::TokenBucket(_) | Self::FixedWindow(_), _) => {}
        }
    }

    /// How a shared store counts it.
    pub fn rule(&self, now: Now) -> Rule {
        each!(self, counter => counter.algorithm.rule(counter.algorithm.time(now)))
    }

    /// Locks what `identity` has used.
    pub fn hold(&self, identity: Identity, now: Now) -> Held<'_> {
        match self {
            Self::SlidingWindow(counter) => Held::SlidingWindow(counter.hold(identity, now)),
            Self::TokenBucket(counter) => Held::TokenBucket(counter.hold(identity, now)),
            Self::FixedWindow(counter) => Held::FixedWindow(counter.hold(identity, now)),
        }
    }

    /// Which table this counts in; also the order of locking.
    pub fn table_id(&self) -> u64 {
        each!(self, counter => counter.table.id)
    }

    pub fn capacity(&self) -> u64 {
        each!(self, counter => counter.algorithm.capacity())
    }

    pub fn refill_per_second(&self, now: Now) -> f64 {
        each!(self, counter => counter.algorithm.refill_per_second(counter.algorithm.time(now)))
    }

    /// Where `identity` stands.
    pub fn look(&self, identity: Identity, now: Now) -> Standing {
        each!(self, counter => {
            let time = counter.algorithm.time(now);
            counter.algorithm.standing(&counter.table.look(&counter.algorithm, identity, time), time)
        })
    }

    /// Visits everyone who has an entry.
    pub fn visit(&self, now: Now, cost: u64, mut visit: impl FnMut(Seen)) {
        each!(self, counter => {
            let (algorithm, time) = (&counter.algorithm, counter.algorithm.time(now));
            counter.table.visit(algorithm, time, |identity, used| {
                let over = algorithm.wait(used, time, cost) > 0;
                visit(Seen { identity, standing: algorithm.standing(used, time), over });
            });
        });
    }

    /// Entries, and requests that were counted in the overflow entry.
    pub fn sizes(&self) -> (usize, u64) {
        each!(self, counter => (counter.table.entries(), counter.table.overflowed()))
    }
}

impl<A: Algorithm> Counter<A> {
    fn new(algorithm: A, label: String, entries_max: usize) -> Self {
        Self { algorithm, table: Arc::new(Table::new(label, entries_max)) }
    }

    fn take_over(&mut self, previous: &Self, now: Now) {
        if !self.algorithm.counts_like(&previous.algorithm) {
            return;
        }
        previous.table.settle(&previous.algorithm, &self.algorithm, self.algorithm.time(now));
        self.table = Arc::clone(&previous.table);
    }

    fn hold(&self, identity: Identity, now: Now) -> HeldBy<'_, A> {
        let now = self.algorithm.time(now);
        HeldBy { algorithm: &self.algorithm, now, hold: self.table.hold(&self.algorithm, identity, now) }
    }
}

impl Held<'_> {
    /// Nanoseconds until `cost` would be admitted; 0 when it is now.
    pub fn wait(&self, cost: u64) -> u64 {
        each!(self, held => held.hold.wait(held.algorithm, held.now, cost))
    }

    /// Counts `cost`, which was admitted; gives what is left after that.
    pub fn count(&mut self, cost: u64) -> Standing {
        each!(self, held => held.hold.count(held.algorithm, held.now, cost))
    }

    /// Takes back `cost`, which was counted at `counted`.
    pub fn give_back(&mut self, counted: Now, cost: u64) {
        each!(self, held => {
            let counted = held.algorithm.time(counted);
            held.hold.give_back(held.algorithm, counted, held.now, cost);
        });
    }

    /// What is left.
    pub fn standing(&self) -> Standing {
        each!(self, held => held.hold.standing(held.algorithm, held.now))
    }
}
