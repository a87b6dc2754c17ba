//! Counting: the algorithm of one limit with its table, whichever of the three it is.
//! One `match` a verb instead of a trait object: an entry has the size that its algorithm needs, and the path of a request holds no pointer chase.

use std::sync::Arc;

use super::algorithm::{Algorithm, Standing, Use};
use super::fixed_window::{DAY, FixedWindow, Period, rules};
use super::identity::Identity;
use super::sliding_window::SlidingWindow;
use super::table::{Hold, Snapshot, Table, Tally, nanoseconds};
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
    table: Arc<Table<A>>,
}

/// What one identity has used of one limit, locked.
pub(super) enum Held<'a> {
    SlidingWindow(HeldBy<'a, SlidingWindow>),
    TokenBucket(HeldBy<'a, TokenBucket>),
    FixedWindow(HeldBy<'a, FixedWindow>),
}

pub(super) struct HeldBy<'a, A: Algorithm> {
    now: u64,
    hold: Hold<'a, A>,
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
                let zone = limit.zone.as_ref().and_then(rules);
                Self::FixedWindow(Counter::new(FixedWindow::new(count, period, zone), label, entries_max))
            }
        }
    }

    /// Goes on with the table of `previous`, where it counts by the same algorithm; its numbers hold on until [`Self::take_effect`].
    pub fn take_over(&mut self, previous: &Self) {
        match (self, previous) {
            (Self::SlidingWindow(counter), Self::SlidingWindow(previous)) => {
                counter.table = Arc::clone(&previous.table)
            }
            (Self::TokenBucket(counter), Self::TokenBucket(previous)) => counter.table = Arc::clone(&previous.table),
            (Self::FixedWindow(counter), Self::FixedWindow(previous)) => counter.table = Arc::clone(&previous.table),
            (Self::SlidingWindow(_) | Self::TokenBucket(_) | Self::FixedWindow(_), _) => {}
        }
    }

    /// From now on the numbers of this limit hold in its table; what was used stays used.
    pub fn take_effect(&self, before: &Self, now: Now) {
        match (self, before) {
            (Self::SlidingWindow(counter), Self::SlidingWindow(before)) => counter.take_effect(before, now),
            (Self::TokenBucket(counter), Self::TokenBucket(before)) => counter.take_effect(before, now),
            (Self::FixedWindow(counter), Self::FixedWindow(before)) => counter.take_effect(before, now),
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

    /// Where `identity` stands, and whether `cost` would be refused.
    pub fn look(&self, identity: Identity, now: Now, cost: u64) -> (Standing, bool) {
        each!(self, counter => counter.table.look(identity, counter.algorithm.time(now), cost))
    }

    /// Visits everyone who has an entry.
    pub fn visit(&self, now: Now, cost: u64, mut visit: impl FnMut(Seen)) {
        each!(self, counter => {
            let time = counter.algorithm.time(now);
            counter.table.visit(time, |identity, algorithm, used| {
                let over = algorithm.wait(used, time, cost) > 0;
                visit(Seen { identity, standing: algorithm.standing(used, time), over });
            });
        });
    }

    /// See [`Table::give_back`].
    pub fn give_back(&self, identity: Option<Identity>, at: Now, now: Now, cost: u64) {
        each!(self, counter => {
            let (at, now) = (counter.algorithm.time(at), counter.algorithm.time(now));
            counter.table.give_back(identity, at, now, cost);
        });
    }

    /// See [`Table::reset`].
    pub fn reset(&self, identity: Identity) -> bool {
        each!(self, counter => counter.table.reset(identity))
    }

    /// See [`Table::add`].
    pub fn add(&self, identity: Identity, uses: &[Use], now: Now) {
        each!(self, counter => counter.table.add(identity, uses, counter.algorithm.time(now)));
    }

    /// See [`Table::unsaved`].
    pub fn unsaved(&self, now: Now, everything: bool, found: impl FnMut(Snapshot)) {
        each!(self, counter => counter.table.unsaved(counter.algorithm.time(now), everything, found));
    }

    /// Decisions since the table was made.
    pub fn tally(&self) -> Tally {
        each!(self, counter => counter.table.tally())
    }

    /// Entries, and requests that were counted in the overflow entry.
    pub fn sizes(&self) -> (usize, u64) {
        each!(self, counter => (counter.table.entries(), counter.table.overflowed()))
    }
}

impl<A: Algorithm> Counter<A> {
    fn new(algorithm: A, label: String, entries_max: usize) -> Self {
        Self { algorithm, table: Arc::new(Table::new(algorithm, label, entries_max)) }
    }

    fn take_effect(&self, before: &Self, now: Now) {
        if Arc::ptr_eq(&self.table, &before.table) && self.algorithm != before.algorithm {
            self.table.change(self.algorithm, self.algorithm.time(now));
        }
    }

    fn hold(&self, identity: Identity, now: Now) -> HeldBy<'_, A> {
        let now = self.algorithm.time(now);
        HeldBy { now, hold: self.table.hold(identity, now) }
    }
}

impl Held<'_> {
    /// Nanoseconds until `cost` would be admitted; 0 when it is now.
    pub fn wait(&self, cost: u64) -> u64 {
        each!(self, held => held.hold.wait(held.now, cost))
    }

    /// Counts `cost`, which was admitted; gives what is left after that.
    pub fn count(&mut self, cost: u64) -> Standing {
        each!(self, held => held.hold.count(held.now, cost))
    }

    /// What is left.
    pub fn standing(&self) -> Standing {
        each!(self, held => held.hold.standing(held.now))
    }

    /// Notes that this limit refused.
    pub fn refuse(&mut self) {
        each!(self, held => held.hold.refuse());
    }

    /// Whether it is the overflow entry.
    pub fn is_overflow(&self) -> bool {
        each!(self, held => held.hold.is_overflow())
    }
}
