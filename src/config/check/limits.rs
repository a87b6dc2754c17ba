//! Limits: numbers that can admit, names that exist and differ, zones and algorithms that fit the window.
//! A route's limits, those of a plan and those of `limits.named` meet in one request, so their names have to differ.

use std::collections::HashMap;
use std::time::Duration;

use super::Check;
use crate::config::{Algorithm, Concurrency, Limit, LimitRule, Per, Window, did_you_mean, is_name};

/// 100 years in nanoseconds: the moment when a bucket is full again has to be one that a clock shows.
const REFILL_MAX: u128 = 100 * 366 * 86_400 * 1_000_000_000;

/// The longest that a request may wait for a store.
const TIMEOUT_MAX: Duration = Duration::from_secs(10);

/// Entries of one sorted set.
const LOG_MAX: u32 = 10_000;

impl Check<'_> {
    pub(super) fn all_limits(&mut self) {
        self.shared_store();
        let config = &self.draft.config;
        for (name, limit) in &config.limits.named {
            let path = format!("limits.named.{name}");
            self.name(path.clone(), name);
            if limit.name.is_some() {
                self.problem(format!("{path}.name"), "a named limit's name is the one it stands under");
            }
            self.limit(&path, limit);
        }
        let mut of_plans = HashMap::new();
        for (name, plan) in &config.plans {
            let path = format!("plans.{name}");
            self.name(path.clone(), name);
            let names = self.limits(&format!("{path}.limit"), &plan.limit, Some(name));
            of_plans.extend(names.into_iter().map(|(limit, at)| (limit, (name.as_str(), at))));
        }
        let template = self.limits("defaults.limit", &config.defaults.limit, None);
        for (name, route) in &config.routes {
            let path = format!("routes.{name}.limit");
            let names = match &route.limit {
                Some(limits) => self.limits(&path, limits, None),
                None => template.clone(),
            };
            if let Some(concurrency) = &route.concurrency {
                self.concurrency(&format!("routes.{name}.concurrency"), concurrency);
            }
            for (limit, at) in names {
                let Some((plan, _)) = of_plans.get(&limit).filter(|_| !config.limits.named.contains_key(&limit)) else {
                    continue;
                };
                self.problem(
                    at,
                    format!("`{limit}` is also the name of a limit of the plan `{plan}`, and both count the same requests: give one a `name`"),
                );
            }
        }
    }

    /// Checks one list of limits; gives the name of each with its place.
    fn limits(&mut self, path: &str, limits: &[LimitRule], plan: Option<&str>) -> Vec<(String, String)> {
        let mut names: Vec<(String, String)> = Vec::new();
        for (index, rule) in limits.iter().enumerate() {
            let element = self.element(path, index, limits.len());
            let name = match rule {
                LimitRule::Named(name) => {
                    self.reference(&element, name);
                    name.clone()
                }
                LimitRule::Own(limit) => {
                    if let Some(name) = &limit.name {
                        self.name(format!("{element}.name"), name);
                        if self.draft.named_limits.contains(name) {
                            self.problem(format!("{element}.name"), format!("`{name}` is a limit of `limits.named`"));
                        }
                    }
                    self.limit(&element, limit);
                    limit.policy_name(plan)
                }
            };
            let at = self.written(&element, "name");
            if names.iter().any(|(known, _)| *known == name) {
                self.problem(at.clone(), format!("a second limit named `{name}` here: give each a `name` of its own"));
            }
            names.push((name, at));
        }
        names
    }

    fn concurrency(&mut self, path: &str, concurrency: &Concurrency) {
        if concurrency.max == 0 {
            self.problem(format!("{path}.max"), "0 at once admits nobody: write a number from 1");
        }
        if let Err(message) = check_per(&concurrency.per, false) {
            self.problem(self.written(path, "per"), message);
        }
    }

    fn reference(&mut self, path: &str, name: &str) {
        if !self.draft.named_limits.contains(name) && !self.lost("limits.named") {
            let hint = did_you_mean(name, self.draft.named_limits.iter().map(String::as_str));
            self.problem(path, format!("`limits.named` has no limit `{name}`{hint}; a rate is written 100/min"));
        }
    }

    fn limit(&mut self, path: &str, limit: &Limit) {
        let most = limit.rate.burst.unwrap_or(limit.rate.count);
        if limit.cost == 0 || limit.cost > most {
            let message = format!("{} is not a number from 1 to {most}, which is all the limit has", limit.cost);
            self.problem(format!("{path}.cost"), message);
        }
        if let (Some(burst), Window::Rolling(span)) = (limit.rate.burst, limit.rate.window)
            && u128::from(burst) * span.0.as_nanos() / u128::from(limit.rate.count.max(1)) > REFILL_MAX
        {
            self.problem(
                self.written(path, "rate"),
                format!("a burst of {burst} is not full again within 100 years: write fewer"),
            );
        }
        if let Err(message) = check_per(&limit.per, limit.header.is_some()) {
            self.problem(self.written(path, "per"), message);
        }
        if let Some(message) = limit.algorithm.and_then(|algorithm| misfit(limit, algorithm)) {
            self.problem(format!("{path}.algorithm"), message);
        }
        if limit.algorithm == Some(Algorithm::SlidingLog) && !self.draft.config.limits.is_shared(limit) {
            let message = "`sliding_log` counts in `limits.store` only: set that, or leave `algorithm` out";
            self.problem(format!("{path}.algorithm"), message);
        }
        if limit.zone.is_some() && limit.algorithm() != Algorithm::FixedWindow {
            let message = "a zone goes with windows of the calendar: day, month, or `algorithm: fixed_window`";
            self.problem(format!("{path}.zone"), message);
        }
    }

    /// `element.field` where the file writes it, otherwise the element.
    pub(super) fn written(&self, element: &str, field: &str) -> String {
        let path = format!("{element}.{field}");
        if self.places.has(&path) { path } else { element.to_owned() }
    }
}

impl Check<'_> {
    fn shared_store(&mut self) {
        let limits = &self.draft.config.limits;
        let (timeout, is_tls) = (limits.timeout, limits.store.is_tls());
        self.not_zero("limits.timeout".to_owned(), timeout);
        if timeout.0 > TIMEOUT_MAX {
            self.problem("limits.timeout", "a request may wait at most 10s for its limits");
        }
        if !is_name(&limits.prefix) {
            self.problem("limits.prefix", "a prefix is 1 to 64 letters, digits, `.`, `_` and `-`");
        }
        if limits.ca.is_some() && !is_tls {
            self.problem("limits.ca", "authorities are for a store with TLS: write rediss://host:port");
        }
    }
}

fn check_per(per: &[Per], has_header: bool) -> Result<(), String> {
    if per.is_empty() && !has_header {
        return Err("nothing to count by: ip, key, consumer, route, service or all".to_owned());
    }
    for (index, what) in per.iter().enumerate() {
        if per[..index].contains(what) {
            return Err(format!("`{}` is there twice", what.word()));
        }
    }
    if per.contains(&Per::All) && (per.len() > 1 || has_header) {
        return Err("`all` counts every request together: nothing goes with it".to_owned());
    }
    Ok(())
}

fn misfit(limit: &Limit, algorithm: Algorithm) -> Option<&'static str> {
    let calendar = !matches!(limit.rate.window, Window::Rolling(_));
    match (algorithm, limit.rate.burst) {
        (Algorithm::TokenBucket, None) => Some("a token bucket needs a burst: write the rate as 10/s burst 100"),
        (Algorithm::SlidingWindow | Algorithm::FixedWindow | Algorithm::SlidingLog, Some(_)) => {
            Some("a burst makes a token bucket: leave `algorithm` or the burst out")
        }
        (Algorithm::SlidingWindow | Algorithm::SlidingLog, None) if calendar => {
            Some("day and month are windows of the calendar: write 24h for any 24 hours")
        }
        (Algorithm::SlidingLog, None) if limit.rate.count > LOG_MAX => {
            Some("a log holds every request: at most 10000, or leave `algorithm` out")
        }
        _ => None,
    }
}
