//! One limit: its numbers, whom it counts together, and its table. It may be part of many requests' sets, and is shared by them.
//! Not here: how several are decided at once (`mod.rs`), and which there are (`book.rs`).

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::algorithm::Standing;
use super::counting::{Counting, Held};
use super::identity::{Dimensions, Identity};
use super::near::Near;
use super::status::Place;
use super::table::label;
use super::{Caller, Now, Rule, Share, config, fields};

/// A compiled limit.
pub(super) struct Limit {
    pub name: Arc<str>,
    pub place: Place,
    /// Name and place as one text: the same in every process that has the same limit.
    pub key: Box<str>,
    /// The limit's member in `RateLimit-Policy`.
    pub policy_member: String,
    /// `"name";r=`, the constant beginning of the limit's member in `RateLimit`.
    pub state_begins: String,
    pub dimensions: Dimensions,
    pub cost: u64,
    pub enforced: bool,
    /// Whether it counts in a store that several gateways share. The table is the share of this process, then.
    pub is_shared: bool,
    /// Whether that store remembers every request by itself.
    pub is_log: bool,
    /// Whether its counts are saved, to outlive the process.
    pub is_saved: bool,
    pub counting: Counting,
    /// What the shared store decided; the table only knows what this process did.
    pub by_store: Arc<ByStore>,
}

/// Decisions of the shared store, as this process had them.
#[derive(Debug, Default)]
pub(super) struct ByStore {
    pub admitted: AtomicU64,
    pub refused: AtomicU64,
    /// Who was near to it or over it lately.
    pub near: Near,
}

/// One limit while its request is decided.
pub(super) struct Pending<'a> {
    limit: &'a Limit,
    held: Held<'a>,
    cost: u64,
    /// Nanoseconds until this limit would admit; 0 when it does.
    wait: u64,
}

impl Place {
    /// What the key of a limit of this name is here. Names hold no blanks.
    pub fn key(&self, name: &str) -> String {
        let mut key = String::new();
        for (what, part) in [("plan", &self.plan), ("service", &self.service), ("route", &self.route)] {
            if let Some(part) = part {
                key.push_str(&format!("{what} {part} "));
            }
        }
        key + name
    }

    /// The place in words.
    fn words(&self) -> String {
        let place = self.key("");
        if place.is_empty() { "limits.named".to_owned() } else { place.trim_end().to_owned() }
    }
}

impl Limit {
    /// Compiles a limit of this name at this place; goes on with the counts of `previous`, the limit with the same key before a reload,
    /// where these mean the same: what was used stays used.
    pub fn compile(
        config: &config::Limit,
        is_shared: bool,
        name: &str,
        place: Place,
        previous: Option<&Self>,
        entries_max: usize,
    ) -> Self {
        let dimensions = Dimensions::compile(config);
        let mut counting = Counting::compile(config, label(name, &place.words()), entries_max);
        if let Some(previous) = previous.filter(|previous| previous.dimensions == dimensions) {
            counting.take_over(&previous.counting);
        }
        Self {
            key: place.key(name).into(),
            place,
            policy_member: fields::policy_member(name, config),
            state_begins: fields::state_begins(name),
            dimensions,
            // A request that costs more than all there is takes all there is: it waits for a full quota, not for ever.
            cost: u64::from(config.cost).clamp(1, counting.capacity().max(1)),
            enforced: config.mode == config::Mode::Enforce,
            is_shared,
            is_log: config.algorithm() == config::Algorithm::SlidingLog,
            // What a shared store counts, it keeps.
            is_saved: Self::outlives(config) && !is_shared,
            name: name.into(),
            counting,
            by_store: previous.map_or_else(Arc::default, |previous| Arc::clone(&previous.by_store)),
        }
    }

    /// Whether what it counts is to outlive the process: windows of an hour and longer, and those of the calendar.
    pub const fn outlives(config: &config::Limit) -> bool {
        match config.rate.window {
            config::Window::Rolling(span) => span.0.as_secs() >= 3_600,
            config::Window::Day | config::Window::Month => true,
        }
    }

    /// How a shared store counts it.
    pub fn rule(&self, now: Now) -> Rule {
        match self.counting.rule(now) {
            Rule::SlidingWindow { count, window } if self.is_log => Rule::SlidingLog { count, window },
            rule => rule,
        }
    }

    /// Locks what the caller has used. With a share the request counts so often that all gateways together admit no more than the limit.
    pub fn hold(&self, caller: &Caller<'_>, now: Now, share: Option<Share>) -> Pending<'_> {
        let capacity = self.counting.capacity();
        let times = share.map_or(Some(1), |share| share.times(capacity / self.cost));
        // One more than there is is never admitted.
        let cost = times.map_or(capacity + 1, |times| self.cost * times);
        let held = self.counting.hold(self.dimensions.identify(caller), now);
        let wait = held.wait(cost);
        Pending { limit: self, held, cost, wait }
    }
}

impl Pending<'_> {
    /// Whether this limit admits the request.
    pub const fn admits(&self) -> bool {
        self.wait == 0
    }

    /// What the request takes here.
    pub const fn cost(&self) -> u64 {
        self.cost
    }

    /// Who is counted; none in the overflow entry.
    pub fn identity(&self, caller: &Caller<'_>) -> Option<Identity> {
        (!self.held.is_overflow()).then(|| self.limit.dimensions.identify(caller))
    }

    pub fn refuses(&self) -> bool {
        self.limit.enforced && self.wait > 0
    }

    /// Counts the request unless one of its limits has refused; gives the wait and the standing after that. After a refusal `t`
    /// is the time until the request would be admitted, which is what its sender wants to know.
    pub fn decide(&mut self, refused: bool) -> (u64, Standing) {
        if self.wait > 0 {
            self.held.refuse();
        }
        let counts = self.wait == 0 && !refused;
        let mut standing = if counts { self.held.count(self.cost) } else { self.held.standing() };
        if self.cost != self.limit.cost {
            // In requests of this gateway, as each counts for several.
            standing.remaining /= (self.cost / self.limit.cost).max(1);
        }
        if self.wait > 0 {
            standing.more_in = self.wait;
        }
        (self.wait, standing)
    }

    pub fn decide_alone(mut self) -> (bool, (u64, Standing)) {
        let refused = self.refuses();
        (refused, self.decide(refused))
    }
}
