//! Limits: how often a caller may use a route. Exact within this process: never more is admitted than a limit allows.
//! All limits of a request (of its route, of its consumer's plan, and named ones) are decided together, under their locks: a request that
//! one refuses uses up none of the others. Which limits there are, and where each counts, is in `book.rs`; one of them is `rule.rs`.
//! What each algorithm admits is in its own file; who is counted together is in `identity.rs`, where the counts are kept in `table.rs`.
//! What a store that several gateways share has to be asked, and what it answers, is in `shared.rs`. Not here: the flood guard, which estimates.

mod algorithm;
mod book;
mod counting;
mod fields;
mod fixed_window;
mod identity;
mod near;
mod rule;
mod saved;
mod shared;
mod sharing;
mod sliding_window;
mod status;
mod table;
mod token_bucket;

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue};
use smallvec::SmallVec;

use crate::config;
use crate::keys::NameId;
use crate::limit_store::Share;
use crate::refusal::{RateLimitFields, Refusal};

use algorithm::{Standing, seconds_up};
use rule::{Limit, Pending};
use table::nanoseconds;

pub use book::{Book, RouteLimits};
pub use saved::SavedCount;
pub use shared::{Answer, Ask, Begun, Rule};
pub use sharing::Sharing;
pub use status::{Client, ClientStatus, LimitStatus, LimitTotals, Place, STATUS_MAX, TableStatus};
pub use table::overflowed_since_start;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The client's address, after trusted proxies.
    pub ip: IpAddr,
    /// Whose key it is; none for anonymous requests.
    pub consumer: Option<NameId>,
    /// The key's name; none for anonymous requests.
    pub key: Option<NameId>,
    /// The request's headers, for limits that count by one; none where no request is at hand.
    pub headers: Option<&'a HeaderMap>,
}

/// The present, by both clocks; read once a request, so that all its limits see the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Now {
    /// Since long before this process began; never goes back.
    pub monotonic: Duration,
    /// Since 1970 (UTC); somebody may set it.
    pub wall: Duration,
}

/// Twice the longest window: what an earlier process has counted lies in the past of this one's clock, too.
const BEFORE_START: Duration = Duration::from_secs(62 * 86_400);

/// The limits that one request has to pass: those of its route and of its consumer's plan.
#[derive(Clone, Default)]
pub struct Limits {
    /// In the order of locking; those that count in a shared store come last.
    limits: Box<[Arc<Limit>]>,
    /// How many of them count in this process.
    local: usize,
    /// Where in `limits` those of the configuration are, in its order.
    order: Box<[usize]>,
    policy: Option<HeaderValue>,
    /// Whether the older fields are wanted.
    legacy: bool,
}

/// What the limits of a request say to it.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// For every answer of the route, refusals included; none when nothing is enforced.
    pub fields: Option<RateLimitFields>,
    /// `RateLimited`, with the time until no limit would refuse.
    pub refused: Option<Refusal>,
    /// The first limit that refused.
    pub limit_name: Option<Arc<str>>,
    /// The first limit in `mode: observe` that would have refused.
    pub observed: Option<Arc<str>>,
}

/// The wait and the standing of each limit, in the order of locking.
type Verdicts = SmallVec<[(u64, Standing); 4]>;

impl Now {
    /// Reads both clocks.
    pub fn read() -> Self {
        Self::at(Instant::now(), SystemTime::now())
    }

    /// From clocks that were read already: reading them is a good part of what a limit costs.
    pub fn at(monotonic: Instant, wall: SystemTime) -> Self {
        static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
        // Before 1970 it is 1970: windows by the calendar stand still, and refuse.
        let wall = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { monotonic: BEFORE_START + monotonic.saturating_duration_since(*ORIGIN), wall }
    }

    fn monotonic_ns(self) -> u64 {
        nanoseconds(self.monotonic)
    }

    fn wall_ns(self) -> u64 {
        nanoseconds(self.wall)
    }
}

impl Limits {
    /// The set of these limits, in the order of the configuration; one that is there twice counts once.
    fn new(written: Vec<Arc<Limit>>, legacy: bool) -> Self {
        let mut limits: Vec<Arc<Limit>> = Vec::with_capacity(written.len());
        for limit in written {
            // Each table once: two limits with one table would wait for each other.
            if limits.iter().all(|known| known.counting.table_id() != limit.counting.table_id()) {
                limits.push(limit);
            }
        }
        let members: Vec<&str> =
            limits.iter().filter(|limit| limit.enforced).map(|limit| &*limit.policy_member).collect();
        let policy = if members.is_empty() { None } else { HeaderValue::from_str(&members.join(", ")).ok() };
        let mut places: Vec<usize> = (0..limits.len()).collect();
        places.sort_by_key(|place| (limits[*place].is_shared, limits[*place].counting.table_id()));
        let mut order = vec![0; limits.len()];
        for (at, place) in places.iter().enumerate() {
            order[*place] = at;
        }
        let local = limits.iter().filter(|limit| !limit.is_shared).count();
        let limits = places.into_iter().map(|place| Arc::clone(&limits[place])).collect();
        Self { limits, local, order: order.into(), policy, legacy }
    }

    /// Whether there are no limits.
    pub fn is_empty(&self) -> bool {
        self.limits.is_empty()
    }

    /// Whether one of them counts in a shared store, so that it has to be asked: see [`Self::begin`].
    pub fn is_shared(&self) -> bool {
        self.local < self.limits.len()
    }

    /// Decides all limits of one request at once, all by the counts of this process, and counts it when none refuses.
    pub fn admit(&self, caller: &Caller<'_>, now: Now) -> Decision {
        match &*self.limits {
            [] => Decision::default(),
            [limit] => {
                // The usual case, without the lists; the lock ends with the statement.
                let (refused, verdict) = limit.hold(caller, now, None).decide_alone();
                self.decision(refused, &[verdict])
            }
            limits => {
                let (refused, verdicts) = decide(limits, caller, now);
                self.decision(refused, &verdicts)
            }
        }
    }

    /// Tells a decision from the wait and standing of each limit, which are in the order of locking. There may be none of the last ones:
    /// those of a store that was not asked, and then are not shown.
    fn decision(&self, refused: bool, verdicts: &[(u64, Standing)]) -> Decision {
        let known = self.order.iter().filter(|at| **at < verdicts.len());
        let written = || known.clone().map(|at| (&*self.limits[*at], verdicts[*at].0, verdicts[*at].1));
        let over = |enforced: bool| written().filter(move |(limit, wait, _)| limit.enforced == enforced && *wait > 0);
        let first = |enforced: bool| over(enforced).next().map(|(limit, ..)| Arc::clone(&limit.name));
        let shown =
            written().filter(|(limit, ..)| limit.enforced).map(|(limit, _, standing)| (&*limit.state_begins, standing));
        let fields = self.policy.as_ref().zip(fields::state(shown));
        let legacy = || {
            let enforced = written().filter(|(limit, ..)| limit.enforced);
            let standings = enforced.map(|(limit, _, standing)| (limit.counting.capacity(), standing));
            self.legacy.then(|| fields::legacy(standings)).flatten()
        };
        let fields = fields.map(|(policy, state)| RateLimitFields { policy: policy.clone(), state, legacy: legacy() });
        let refusal =
            || {
                let wait = over(true).map(|(_, wait, _)| wait).max().unwrap_or(0);
                let violated = over(true).map(|(limit, ..)| Arc::clone(&limit.name)).collect();
                fields.clone().map_or(Refusal::Internal("a limit refused without fields"), |fields| {
                    Refusal::RateLimited { retry_after_seconds: seconds_up(wait), fields, violated }
                })
            };
        let refusal = refused.then(refusal);
        Decision { fields, refused: refusal, limit_name: first(true), observed: first(false) }
    }
}

/// Decides several limits under all of their locks.
fn decide(limits: &[Arc<Limit>], caller: &Caller<'_>, now: Now) -> (bool, Verdicts) {
    // In the order of their tables' ids, whoever has them, so that no two requests wait for each other.
    let mut pending: SmallVec<[Pending<'_>; 2]> = limits.iter().map(|limit| limit.hold(caller, now, None)).collect();
    let refused = pending.iter().any(Pending::refuses);
    let verdicts = pending.iter_mut().map(|pending| pending.decide(refused)).collect();
    (refused, verdicts) // the locks end here: what follows writes text
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use proptest::prelude::*;

    use super::*;
    use crate::config::{Algorithm, Mode, Per, Rate, Span, Window};
    use crate::keys::name_id;

    fn limit(count: u32, seconds: u64, per: Per) -> config::Limit {
        let rate = Rate { count, window: Window::Rolling(Span::seconds(seconds)), burst: None };
        config::Limit::of(rate, vec![per])
    }

    fn bucket(count: u32, seconds: u64, burst: u32, per: Per) -> config::Limit {
        let mut limit = limit(count, seconds, per);
        limit.rate.burst = Some(burst);
        limit
    }

    fn named(name: &str, limit: config::Limit) -> config::Limit {
        config::Limit { name: Some(name.into()), ..limit }
    }

    fn rule(config: &config::Limit, previous: Option<&Limits>, now: Now, max: usize) -> Arc<Limit> {
        let name = config.policy_name(None);
        let place = Place { route: Some("/test".into()), ..Place::default() };
        let previous = previous.and_then(|set| set.limits.iter().find(|limit| *limit.name == name));
        let limit = Limit::compile(config, false, &name, place, previous.map(|limit| &**limit), max);
        if let Some(previous) = previous {
            limit.counting.take_effect(&previous.counting, now);
        }
        Arc::new(limit)
    }

    /// The limits of the route /a with these fields; those that are named count in a shared store.
    pub(super) fn set(fields: &str, shared: &[&str]) -> Limits {
        let (book, mut routes) = book_of(&format!("routes: {{/a: {{to: a, {fields}}}}}"), None);
        drop(book); // so that the set has its limits to itself
        let mut limits = routes.remove("/a").unwrap().own.limits.into_vec();
        for limit in limits.iter_mut().filter_map(Arc::get_mut) {
            limit.is_shared = shared.contains(&&*limit.name);
        }
        Limits::new(limits, false)
    }

    fn compile_with(config: &[config::Limit], previous: Option<&Limits>, now: Now, max: usize) -> Limits {
        let mut limits: Vec<Arc<Limit>> = Vec::new();
        for config in config {
            let limit = rule(config, previous, now, max);
            if limits.iter().all(|known| known.key != limit.key) {
                limits.push(limit);
            }
        }
        Limits::new(limits, false)
    }

    fn compile(config: &[config::Limit], previous: Option<&Limits>, now: Now) -> Limits {
        compile_with(config, previous, now, 1_000)
    }

    fn book(limits: &Limits) -> Book {
        Book { limits: limits.limits.iter().map(|limit| (limit.key.clone(), Arc::clone(limit))).collect() }
    }

    pub(super) fn at(seconds: f64) -> Now {
        let monotonic = Duration::from_secs_f64(1_000.0 + seconds);
        Now { monotonic, wall: monotonic + Duration::from_secs(1_800_000_000 - 1_000) }
    }

    pub(super) fn from(ip: &str) -> Caller<'static> {
        Caller { ip: ip.parse().unwrap(), consumer: None, key: None, headers: None }
    }

    pub(super) fn with_key(consumer: &str, key: &str) -> Caller<'static> {
        Caller { consumer: Some(name_id(consumer)), key: Some(name_id(key)), ..from("192.0.2.1") }
    }

    fn admits(limits: &Limits, caller: &Caller<'_>, now: Now) -> bool {
        limits.admit(caller, now).refused.is_none()
    }

    pub(super) fn admitted(limits: &Limits, caller: &Caller<'_>, now: Now, tries: usize) -> usize {
        (0..tries).filter(|_| admits(limits, caller, now)).count()
    }

    fn retry_after(decision: &Decision) -> u64 {
        match &decision.refused {
            Some(Refusal::RateLimited { retry_after_seconds, .. }) => *retry_after_seconds,
            other => panic!("{other:?}"),
        }
    }

    fn shown(decision: &Decision) -> (&str, &str) {
        let fields = decision.fields.as_ref().unwrap();
        (fields.policy.to_str().unwrap(), fields.state.to_str().unwrap())
    }

    #[test]
    fn without_limits_everything_is_admitted_and_nothing_shown() {
        let limits = compile(&[], None, at(0.0));
        let decision = limits.admit(&from("192.0.2.1"), at(0.0));
        assert!(limits.is_empty() && decision.refused.is_none() && decision.fields.is_none());
    }

    #[test]
    fn the_eleventh_of_ten_waits_and_then_passes() {
        let limits = compile(&[limit(10, 10, Per::Ip)], None, at(0.0));
        let caller = from("192.0.2.1");
        let first = limits.admit(&caller, at(0.0));
        assert_eq!(shown(&first), ("\"ip-10s\";q=10;w=10", "\"ip-10s\";r=9;t=11"));
        assert_eq!(admitted(&limits, &caller, at(0.0), 9), 9);
        let refused = limits.admit(&caller, at(0.0));
        assert_eq!(refused.limit_name.as_deref(), Some("ip-10s"));
        assert_eq!(shown(&refused), ("\"ip-10s\";q=10;w=10", "\"ip-10s\";r=0;t=11"));
        let wait = retry_after(&refused);
        assert_eq!(wait, 11, "10 s and what is left of a slot of 0.625 s, in whole seconds");
        assert!(!admits(&limits, &caller, at(9.999)));
        assert!(admits(&limits, &caller, at(wait as f64)));
        assert!(admits(&limits, &from("192.0.2.2"), at(0.0)), "another address");
    }

    #[test]
    fn a_request_that_one_limit_refuses_uses_up_no_other() {
        let limits = compile(&[limit(2, 10, Per::Ip), bucket(100, 60, 100, Per::Route)], None, at(0.0));
        assert_eq!(admitted(&limits, &from("192.0.2.1"), at(0.0), 500), 2);
        let decision = limits.admit(&from("192.0.2.2"), at(0.0));
        assert_eq!(shown(&decision).1, "\"ip-10s\";r=1;t=11, \"route-60s\";r=97;t=1");
        let decision = limits.admit(&from("192.0.2.1"), at(0.0));
        assert_eq!(shown(&decision).1, "\"ip-10s\";r=0;t=11, \"route-60s\";r=97;t=1");
    }

    #[test]
    fn every_violated_limit_is_named_and_the_longest_wait_told() {
        let limits = compile(&[limit(1, 10, Per::Ip), limit(1, 3_600, Per::Key)], None, at(0.0));
        assert!(admits(&limits, &from("192.0.2.1"), at(0.0)));
        let refused = limits.admit(&from("192.0.2.1"), at(0.0));
        let Some(Refusal::RateLimited { violated, retry_after_seconds, .. }) = refused.refused else { panic!() };
        assert_eq!(violated.iter().map(|name| &**name).collect::<Vec<_>>(), ["ip-10s", "key-3600s"]);
        assert!((3_600..=3_600 + 225).contains(&retry_after_seconds), "{retry_after_seconds}");
    }

    #[test]
    fn what_has_no_key_is_limited_under_its_address() {
        let limits = compile(&[limit(1, 10, Per::Consumer)], None, at(0.0));
        assert!(admits(&limits, &from("192.0.2.1"), at(0.0)) && !admits(&limits, &from("192.0.2.1"), at(0.0)));
        assert!(admits(&limits, &from("192.0.2.2"), at(0.0)));
        assert!(admits(&limits, &with_key("alice", "alice-1"), at(0.0)));
        assert!(!admits(&limits, &with_key("alice", "alice-2"), at(0.0)), "two keys of one consumer");
        assert!(admits(&limits, &with_key("bob", "bob-1"), at(0.0)));
    }

    #[test]
    fn observed_limits_refuse_nothing_and_show_nothing() {
        let observed = config::Limit { mode: Mode::Observe, ..limit(1, 10, Per::Ip) };
        let limits = compile(std::slice::from_ref(&observed), None, at(0.0));
        let caller = from("192.0.2.1");
        assert!(limits.admit(&caller, at(0.0)).observed.is_none());
        let decision = limits.admit(&caller, at(0.0));
        assert_eq!(decision.observed.as_deref(), Some("ip-10s"));
        assert!(decision.refused.is_none() && decision.fields.is_none() && decision.limit_name.is_none());
        let limits = compile(&[observed, limit(5, 60, Per::Ip)], None, at(0.0));
        assert_eq!(
            admitted(&limits, &caller, at(0.0), 10),
            5,
            "what the observed one would refuse still counts for the other"
        );
        let decision = limits.admit(&caller, at(0.0));
        assert_eq!(shown(&decision).0, "\"ip-60s\";q=5;w=60");
        assert_eq!((decision.limit_name.as_deref(), decision.observed.as_deref()), (Some("ip-60s"), Some("ip-10s")));
    }

    #[test]
    fn a_cost_takes_more_than_one() {
        let limits = compile(&[config::Limit { cost: 5, ..limit(12, 10, Per::Ip) }], None, at(0.0));
        assert_eq!(admitted(&limits, &from("192.0.2.1"), at(0.0), 10), 2);
        assert_eq!(shown(&limits.admit(&from("192.0.2.1"), at(0.0))).1, "\"ip-10s\";r=2;t=11");
        let limits = compile(&[config::Limit { cost: 50, ..limit(12, 10, Per::Ip) }], None, at(0.0));
        assert_eq!(admitted(&limits, &from("192.0.2.1"), at(0.0), 10), 1, "more than there is takes all");
    }

    #[test]
    fn days_are_those_of_the_calendar() {
        let mut day = limit(3, 1, Per::Consumer);
        day.rate.window = Window::Day;
        let limits = compile(&[day], None, at(0.0));
        assert_eq!(admitted(&limits, &from("192.0.2.1"), at(0.0), 10), 3);
        let refused = limits.admit(&from("192.0.2.1"), at(0.0));
        assert_eq!(shown(&refused).0, "\"consumer-day\";q=3;w=86400");
        assert_eq!(retry_after(&refused), 86_400 - 1_800_000_000 % 86_400);
        assert!(!admits(&limits, &from("192.0.2.1"), at(retry_after(&refused) as f64 - 0.001)));
        assert!(admits(&limits, &from("192.0.2.1"), at(retry_after(&refused) as f64)));
    }

    #[test]
    fn counts_of_unchanged_limits_are_kept() {
        let caller = from("192.0.2.1");
        let base = [limit(5, 10, Per::Ip), named("b", bucket(1, 60, 5, Per::Ip))];
        let use_up = || {
            let limits = compile(&base, None, at(0.0));
            assert_eq!(admitted(&limits, &caller, at(0.0), 9), 5);
            limits
        };
        let fresh =
            |config: &[config::Limit]| admitted(&compile(config, Some(&use_up()), at(0.0)), &caller, at(0.0), 50);
        assert_eq!(fresh(&base), 0, "unchanged");
        assert_eq!(fresh(&[base[1].clone(), base[0].clone()]), 0, "in another order");
        assert_eq!(fresh(&[limit(7, 10, Per::Ip)]), 2, "a larger count");
        assert_eq!(fresh(&[limit(3, 10, Per::Ip)]), 0, "a smaller count");
        assert_eq!(fresh(&[named("b", bucket(1, 60, 9, Per::Ip))]), 4, "a larger burst");
        assert_eq!(fresh(&[named("b", bucket(60, 60, 5, Per::Ip))]), 0, "a faster rate");
        assert_eq!(fresh(&[config::Limit { cost: 2, ..base[0].clone() }]), 0, "another cost");
        assert_eq!(fresh(&[limit(5, 20, Per::Ip)]), 5, "another window has another name");
        assert_eq!(
            fresh(&[config::Limit { name: Some("ip-10s".into()), ..limit(7, 20, Per::Ip) }]),
            2,
            "another window of the same name"
        );
        assert_eq!(fresh(&[named("b", bucket(1, 3_600, 6, Per::Ip))]), 1, "another window and burst");
        assert_eq!(fresh(&[named("c", base[0].clone())]), 5, "another name counts anew");
        assert_eq!(
            fresh(&[config::Limit { algorithm: Some(Algorithm::FixedWindow), ..base[0].clone() }]),
            5,
            "another algorithm counts anew"
        );
        assert_eq!(
            fresh(&[base[0].clone(), base[0].clone()]),
            0,
            "a limit written twice takes one table, and no request waits for itself"
        );
    }

    #[test]
    fn a_faster_rate_gives_nothing_back_for_the_time_before() {
        let caller = from("192.0.2.1");
        let slow = compile(&[bucket(1, 3_600, 5, Per::Ip)], None, at(0.0));
        assert_eq!(admitted(&slow, &caller, at(0.0), 9), 5);
        let fast = compile(&[bucket(3_600, 3_600, 5, Per::Ip)], Some(&slow), at(1_000.0));
        assert_eq!(admitted(&fast, &caller, at(1_000.0), 9), 0);
        assert_eq!(admitted(&fast, &caller, at(1_001.0), 9), 1);
    }

    #[test]
    fn the_old_and_the_new_limits_count_together() {
        let caller = from("192.0.2.1");
        let old = compile(&[limit(10, 60, Per::Ip)], None, at(0.0));
        let new = compile(&[limit(10, 60, Per::Ip)], Some(&old), at(0.0));
        assert_eq!(
            admitted(&old, &caller, at(0.0), 4)
                + admitted(&new, &caller, at(0.0), 20)
                + admitted(&old, &caller, at(0.0), 4),
            10
        );
    }

    #[test]
    fn who_is_near_or_over_is_told() {
        let limits = compile(&[limit(5, 10, Per::Ip), limit(100, 60, Per::Key)], None, at(0.0));
        assert_eq!(admitted(&limits, &from("192.0.2.1"), at(0.0), 3), 3);
        assert_eq!(admitted(&limits, &from("192.0.2.2"), at(0.0), 4), 4);
        assert_eq!(admitted(&limits, &from("2001:db8::1"), at(0.0), 9), 5);
        let status = book(&limits).status(at(0.0));
        let told: Vec<_> =
            status.iter().map(|s| (s.address.as_deref().unwrap(), s.used, s.remaining, s.over)).collect();
        assert_eq!(told, [("2001:db8::/64", 5, 0, true), ("192.0.2.2", 4, 1, false)]);
        assert_eq!(
            (&*status[0].limit, status[0].place.route.as_deref(), status[0].capacity),
            ("ip-10s", Some("/test"), 5)
        );
        assert!(book(&limits).status(at(100.0)).is_empty());
        let mut limits = compile(&[limit(1, 10, Per::Ip)], None, at(0.0));
        (0..300_u32).for_each(|n| assert!(admits(&limits, &from(&std::net::Ipv4Addr::from(n).to_string()), at(0.0))));
        assert_eq!(book(&limits).status(at(0.0)).len(), STATUS_MAX);
        limits = compile(&[limit(1, 10, Per::Consumer)], None, at(0.0));
        assert!(admits(&limits, &with_key("alice", "alice-1"), at(0.0)));
        assert_eq!(book(&limits).status(at(0.0))[0].consumer.as_deref(), Some("alice"));
    }

    #[test]
    fn where_an_address_stands_is_told() {
        let config = [limit(5, 10, Per::Ip), bucket(2, 1, 20, Per::Key), limit(9, 60, Per::Route)];
        let limits = compile(&config, None, at(0.0));
        assert_eq!(admitted(&limits, &from("192.0.2.1"), at(0.0), 2), 2);
        let status = book(&limits).status_of(&Client::Ip("192.0.2.1".parse().unwrap()), at(0.0));
        let told: Vec<_> = status
            .iter()
            .map(|s| (&*s.limit, s.capacity, s.tokens_remaining, s.refill_per_second, s.anonymous_only))
            .collect();
        assert_eq!(told, [("ip-10s", 5, 3, 0.5, false), ("key-1s", 20, 18, 2.0, true)]);
        let other = book(&limits).status_of(&Client::Ip("192.0.2.9".parse().unwrap()), at(0.0));
        assert_eq!((other[0].tokens_remaining, other[0].more_in_seconds), (5, 0));
        assert_eq!(book(&limits).tables().iter().map(|table| table.entries).collect::<Vec<_>>(), [1, 1, 1]);
    }

    #[test]
    fn a_client_can_be_looked_at_and_reset() {
        let config = [limit(5, 10, Per::Ip), limit(5, 60, Per::Consumer), limit(9, 3_600, Per::Key)];
        let limits = compile(&config, None, at(0.0));
        let alice = with_key("alice", "alice-1");
        assert_eq!(admitted(&limits, &alice, at(0.0), 9), 5);
        let book = book(&limits);
        let key = Client::Key { key: name_id("alice-1"), consumer: name_id("alice") };
        let told: Vec<_> =
            book.status_of(&key, at(0.0)).iter().map(|s| (s.limit.to_string(), s.tokens_remaining)).collect();
        assert_eq!(told, [("consumer-60s".to_owned(), 0), ("key-3600s".to_owned(), 4)]);
        assert_eq!((book.reset(&key), book.reset(&Client::Ip(alice.ip))), (2, 1));
        assert_eq!(admitted(&limits, &alice, at(0.0), 9), 5);
        let totals: Vec<_> = book.totals().iter().map(|t| (t.admitted, t.refused, t.entries)).collect();
        assert_eq!(totals, [(10, 8, 1), (10, 8, 1), (10, 0, 1)]);
    }

    #[test]
    fn a_full_table_is_counted_and_limits_on() {
        let limits = compile_with(&[limit(2, 10, Per::Ip)], None, at(0.0), 5);
        let admitted =
            (0..100_u32).filter(|n| admits(&limits, &from(&std::net::Ipv4Addr::from(*n).to_string()), at(0.0))).count();
        assert_eq!((admitted, book(&limits).tables()[0].overflowed), (5 + 2, 95));
        assert!(book(&limits).status(at(0.0)).iter().any(|status| status.overflow && status.over));
    }

    /// 2,000 requests at once, each on its own thread.
    fn admitted_at_once(limits: &Limits) -> usize {
        const REQUESTS: usize = 2_000;
        let barrier = Barrier::new(REQUESTS);
        std::thread::scope(|scope| {
            let request = || {
                barrier.wait();
                limits.admit(&from("192.0.2.1"), Now::read()).refused.is_none()
            };
            let spawn = |_| std::thread::Builder::new().stack_size(128 << 10).spawn_scoped(scope, request).unwrap();
            let threads: Vec<_> = (0..REQUESTS).map(spawn).collect();
            threads.into_iter().map(|thread| usize::from(thread.join().unwrap())).sum()
        })
    }

    #[test]
    fn two_thousand_at_once_are_admitted_exactly_100_times() {
        assert_eq!(admitted_at_once(&compile_with(&[limit(100, 60, Per::Consumer)], None, Now::read(), 1_000)), 100);
        let several = [limit(100, 60, Per::Consumer), bucket(1, 3_600, 150, Per::Ip), limit(200, 3_600, Per::Route)];
        assert_eq!(admitted_at_once(&compile_with(&several, None, Now::read(), 1_000)), 100);
    }

    #[test]
    fn requests_with_their_limits_in_different_orders_do_not_wait_for_each_other() {
        let config = [limit(u32::MAX, 60, Per::Route), named("b", limit(u32::MAX, 60, Per::Route))];
        let one = compile_with(&config, None, Now::read(), 1_000);
        let other = compile_with(&[config[1].clone(), config[0].clone()], Some(&one), Now::read(), 1_000);
        std::thread::scope(|scope| {
            for limits in [&one, &other, &one, &other] {
                scope.spawn(move || (0..20_000).for_each(|_| assert!(admits(limits, &from("192.0.2.1"), Now::read()))));
            }
        });
        let left: u64 = book(&other).status_of(&Client::Ip("192.0.2.1".parse().unwrap()), Now::read()).len() as u64;
        assert_eq!(left, 0, "limits of a route are nobody's own");
    }

    pub(super) fn book_of(
        yaml: &str,
        previous: Option<&Book>,
    ) -> (Book, std::collections::HashMap<String, RouteLimits>) {
        const HEAD: &str = "listen: 127.0.0.1:1\nadmin: none\nlog: none\nservices: {a: ['127.0.0.1:9'], b: ['127.0.0.1:9']}\ndefaults: {keys: none}\n";
        let text = format!("{HEAD}{yaml}");
        let config = config::read(&text, std::path::Path::new("/t.yaml"), &|_| None);
        let config = config.unwrap_or_else(|problems| panic!("{problems}"));
        let compiled = Book::compile_with(&config, previous, 1_000);
        if let Some(previous) = previous {
            compiled.0.take_effect(previous, at(0.0));
        }
        compiled
    }

    #[test]
    fn a_plan_counts_over_all_routes_beside_their_own_limits() {
        let yaml = "plans: {gold: {limit: 5/min per consumer}, free: {limit: 2/min per consumer}, open: {}}\nroutes: {/a: {to: a, limit: 3/min per ip}, /b: {to: b}}";
        let (book, routes) = book_of(yaml, None);
        let (a, b) = (&routes["/a"], &routes["/b"]);
        let (gold, free) = (Some(name_id("gold")), Some(name_id("free")));
        let alice = with_key("alice", "alice-1");
        assert_eq!(admitted(a.of(gold).unwrap(), &alice, at(0.0), 9), 3, "the route's own limit");
        assert_eq!(admitted(b.of(gold).unwrap(), &alice, at(0.0), 9), 2, "what is left of the plan");
        let refused = b.of(gold).unwrap().admit(&alice, at(0.0));
        assert_eq!(refused.limit_name.as_deref(), Some("gold-consumer-60s"));
        assert_eq!(
            shown(&a.of(gold).unwrap().admit(&alice, at(0.0))).0,
            "\"ip-60s\";q=3;w=60, \"gold-consumer-60s\";q=5;w=60"
        );
        assert_eq!(admitted(b.of(free).unwrap(), &with_key("bob", "bob-1"), at(0.0), 9), 2);
        assert!(b.of(None).unwrap().is_empty() && b.of(Some(name_id("open"))).unwrap().is_empty());
        assert!(b.of(Some(name_id("unheard-of"))).is_none());
        let keys: Vec<&str> = book.limits.keys().map(|key| &**key).collect();
        assert_eq!(keys, ["plan free free-consumer-60s", "plan gold gold-consumer-60s", "route /a ip-60s"]);
        // A reload in which the route's limit goes and the plan's grows: what was used stays used.
        let (_, routes) = book_of(&yaml.replace("5/min", "7/min").replace(", limit: 3/min per ip", ""), Some(&book));
        assert_eq!(admitted(routes["/a"].of(gold).unwrap(), &alice, at(0.0), 9), 2);
    }

    #[test]
    fn the_older_fields_tell_of_the_limit_of_which_least_is_left() {
        let yaml = "limits: {legacy_headers: true}\nroutes: {/a: {to: a, limit: [9/min per ip, 5/h per ip, {rate: 1/h per all, mode: observe}]}}";
        let (_, routes) = book_of(yaml, None);
        let legacy = |decision: Decision| {
            let legacy = decision.fields.unwrap().legacy.unwrap().into_headers();
            legacy.map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).join(" ")
        };
        let limits = routes["/a"].of(None).unwrap();
        let first = legacy(limits.admit(&from("192.0.2.1"), at(0.0)));
        assert!(first.starts_with("x-ratelimit-limit=5 x-ratelimit-remaining=4 x-ratelimit-reset=3"), "{first}");
        assert_eq!(admitted(limits, &from("192.0.2.1"), at(0.0), 9), 4);
        let refused = limits.admit(&from("192.0.2.1"), at(0.0)).refused.unwrap().headers();
        assert!(refused.iter().any(|(name, value)| name == "x-ratelimit-remaining" && value == "0"), "{refused:?}");
    }

    #[test]
    fn a_named_limit_is_one_count_for_all_that_say_it() {
        let yaml = "limits: {named: {api: 4/min per ip, each: 2/min per ip and route}}\nplans: {gold: {limit: api}}\nroutes: {/a: {to: a, limit: [api, each]}, /b: {to: b, limit: [api, each]}}";
        let (_, routes) = book_of(yaml, None);
        let (a, b) = (&routes["/a"], &routes["/b"]);
        let caller = from("192.0.2.1");
        assert_eq!(admitted(a.of(None).unwrap(), &caller, at(0.0), 9), 2, "two on each route");
        assert_eq!(
            admitted(b.of(Some(name_id("gold"))).unwrap(), &caller, at(0.0), 9),
            2,
            "counted once, though the plan says it, too"
        );
        let refused = a.of(None).unwrap().admit(&caller, at(0.0)).refused;
        let Some(Refusal::RateLimited { violated, .. }) = refused else { panic!() };
        assert_eq!(violated.iter().map(|name| &**name).collect::<Vec<_>>(), ["api", "each"]);
    }

    proptest! {
        /// What `Retry-After` promises holds, in whole seconds, whatever the limits.
        #[test]
        fn after_the_time_told_the_request_is_admitted(
            rates in prop::collection::vec((1_u32..6, 1_u64..90, prop::option::of(1_u32..8), 0_usize..3), 1..4),
            steps in prop::collection::vec(0.0_f64..20.0, 1..60),
        ) {
            let config: Vec<_> = rates.iter().enumerate().map(|(n, (count, seconds, burst, algorithm))| {
                let mut limit = named(&n.to_string(), limit(*count, *seconds, Per::Ip));
                limit.rate.burst = *burst;
                limit.algorithm = [None, Some(Algorithm::FixedWindow), None][*algorithm];
                limit
            }).collect();
            let limits = compile(&config, None, at(0.0));
            let caller = from("192.0.2.1");
            let mut now = 0.0;
            for step in steps {
                now += step / 4.0;
                let decision = limits.admit(&caller, at(now));
                if decision.refused.is_some() {
                    let wait = retry_after(&decision) as f64;
                    prop_assert!(wait >= 1.0);
                    // `now` is a float: a nanosecond may be lost in its last digit.
                    let next = limits.admit(&caller, Now { monotonic: at(now).monotonic + Duration::from_secs_f64(wait), wall: at(now).wall + Duration::from_secs_f64(wait) });
                    prop_assert!(next.refused.is_none(), "refused after {wait} s: {:?}", next.refused);
                    now += wait;
                }
            }
        }
    }
}
