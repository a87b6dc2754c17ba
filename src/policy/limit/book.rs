//! The book: every limit of a configuration, each once, by where it counts; and for each route the sets of limits that its requests pass,
//! one for requests without a plan and one for each plan. A limit is found again after a reload by its place and name.
//! Not here: how a set is decided (`mod.rs`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::config::{self, Config, LimitRule, Per};
use crate::keys::{NameId, name_id};

use super::rule::Limit;
use super::status::Place;
use super::table::ENTRIES_MAX;
use super::{Limits, Now};

/// Every limit of one configuration.
#[derive(Default)]
pub struct Book {
    /// By the limit's key.
    pub(super) limits: BTreeMap<Box<str>, Arc<Limit>>,
}

/// The limits of one route, for every plan.
#[derive(Default)]
pub struct RouteLimits {
    pub(super) own: Limits,
    by_plan: Box<[(NameId, Limits)]>,
}

/// A book while it is written.
struct Draft<'a> {
    config: &'a Config,
    previous: Option<&'a Book>,
    entries_max: usize,
    limits: BTreeMap<Box<str>, Arc<Limit>>,
}

/// A route, as far as limits care.
struct OfRoute<'a> {
    endpoint: &'a str,
    service: &'a str,
}

impl Book {
    /// Compiles every limit of a configuration, and what each route passes, by endpoint. Counts are kept where `previous` has a limit of the
    /// same name at the same place that counts the same people by the same algorithm; where its rate or burst changed, what was used stays used.
    pub fn compile(config: &Config, previous: Option<&Self>) -> (Self, HashMap<String, RouteLimits>) {
        Self::compile_with(config, previous, ENTRIES_MAX)
    }

    pub(super) fn compile_with(
        config: &Config,
        previous: Option<&Self>,
        entries_max: usize,
    ) -> (Self, HashMap<String, RouteLimits>) {
        let mut draft = Draft { config, previous, entries_max, limits: BTreeMap::new() };
        let routes = config.routes.iter().map(|(endpoint, route)| (endpoint.clone(), draft.route(endpoint, route)));
        let routes = routes.collect();
        (Self { limits: draft.limits }, routes)
    }

    /// From now on the numbers of this book hold in the tables that it shares with `before`. Until then those hold on, so that a configuration that
    /// is compiled, and then refused, changes nothing.
    pub fn take_effect(&self, before: &Self, now: Now) {
        for (key, limit) in &self.limits {
            if let Some(before) = before.limits.get(key) {
                limit.counting.take_effect(&before.counting, now);
            }
        }
    }
}

impl RouteLimits {
    /// What a request of this plan has to pass; `None` where the plan is not configured.
    pub fn of(&self, plan: Option<NameId>) -> Option<&Limits> {
        match plan {
            None => Some(&self.own),
            Some(plan) => self.by_plan.iter().find(|(id, _)| *id == plan).map(|(_, limits)| limits),
        }
    }
}

impl Draft<'_> {
    fn route(&mut self, endpoint: &str, route: &config::Route) -> RouteLimits {
        let config = self.config;
        let of = OfRoute { endpoint, service: &route.to };
        let own = self.list(route.limit.as_ref().unwrap_or(&config.defaults.limit), None, &of);
        let mut by_plan = Vec::with_capacity(config.plans.len());
        for (plan, rules) in &config.plans {
            let mut limits = own.clone();
            limits.extend(self.list(&rules.limit, Some(plan), &of));
            by_plan.push((name_id(plan), Limits::new(limits, config.limits.legacy_headers)));
        }
        RouteLimits { own: Limits::new(own, config.limits.legacy_headers), by_plan: by_plan.into() }
    }

    fn list(&mut self, rules: &[LimitRule], plan: Option<&str>, of: &OfRoute<'_>) -> Vec<Arc<Limit>> {
        let mut limits = Vec::with_capacity(rules.len());
        for rule in rules {
            match rule {
                LimitRule::Own(limit) => {
                    let place = match plan {
                        None => Place { route: Some(of.endpoint.into()), ..Place::default() },
                        Some(plan) => Place { plan: Some(plan.into()), ..narrowed(&limit.per, of) },
                    };
                    limits.push(self.limit(limit, &limit.policy_name(plan), place));
                }
                // A name that is not configured was reported when the file was read.
                LimitRule::Named(name) => limits.extend(
                    self.config.limits.named.get(name).map(|limit| self.limit(limit, name, narrowed(&limit.per, of))),
                ),
            }
        }
        limits
    }

    fn limit(&mut self, config: &config::Limit, name: &str, place: Place) -> Arc<Limit> {
        let key = place.key(name).into_boxed_str();
        let previous = self.previous.and_then(|book| book.limits.get(&key)).map(|limit| &**limit);
        let is_shared = self.config.limits.is_shared(config);
        let compile = || Arc::new(Limit::compile(config, is_shared, name, place, previous, self.entries_max));
        Arc::clone(self.limits.entry(key).or_insert_with(compile))
    }
}

/// Where a limit of many routes counts: everywhere together, unless it is per route or per service.
fn narrowed(per: &[Per], of: &OfRoute<'_>) -> Place {
    if per.contains(&Per::Route) {
        return Place { route: Some(of.endpoint.into()), ..Place::default() };
    }
    let service = per.contains(&Per::Service).then(|| of.service.into());
    Place { service, ..Place::default() }
}
