//! Rules across fields: names that must exist, addresses that must differ, values that only make sense together.
//! Everything is reported at once. What could not be read (`Draft::is_lost`) is no reason to complain about its absence.
//! Not here: whether files exist and names resolve; that is compiled in `runtime`.

mod access;
mod caching;
mod keys;
mod limits;
mod listeners;
mod overlap;
mod resilience;
mod routes;
mod services;

pub use caching::CACHE_MEMORY_MIN;
pub use keys::DEMO_KEY_SHA256;

use super::entries::Draft;
use super::is_name;
use super::places::Places;
use super::problems::Problems;
use super::units::Span;

/// Adds a problem for each rule that is broken.
pub fn check(draft: &Draft, problems: &mut Problems) {
    let mut check = Check { draft, places: &draft.config.places, problems };
    check.listeners();
    check.admin();
    check.process();
    check.log();
    check.cache_store();
    check.discovery();
    check.services();
    check.routes();
    check.all_limits();
    check.keys();
}

struct Check<'a> {
    draft: &'a Draft,
    places: &'a Places,
    problems: &'a mut Problems,
}

impl Check<'_> {
    fn problem(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.problems.add(self.places, path, message);
    }

    fn lost(&self, path: &str) -> bool {
        self.draft.is_lost(path)
    }

    /// Reports a length of time that must not be zero.
    fn not_zero(&mut self, path: String, span: Span) {
        if span.is_zero() {
            self.problem(path, "0s is no time at all: write how long it may take");
        }
    }

    /// Names of services, routes, keys and consumers are labels in metrics and log.
    fn name(&mut self, path: String, name: &str) {
        if !is_name(name) {
            self.problem(
                path,
                format!("`{name}` is no name: 1 to 64 letters, digits, `.`, `_` and `-`, and not `none`"),
            );
        }
    }

    /// Reports a number outside of its bounds.
    fn range(&mut self, path: impl Into<String>, number: usize, low: usize, high: usize) {
        if !(low..=high).contains(&number) {
            self.problem(path, format!("{number} is not a number from {low} to {high}"));
        }
    }
}
