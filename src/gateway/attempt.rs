//! One try at an instance: which one, what breakers let it do, and what they are told of how it went.
//! A failure is an instance that can't be reached, does not answer in time, breaks off, answers with something that is not HTTP, or with a
//! status of 500 and above. A try that is given up for another reason (the client left) says nothing, and its place is free again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::Guard;
use http::StatusCode;
use pingora_proxy::Session;
use smallvec::SmallVec;

use super::balance_key::balance_key_of;
use super::exchange::Exchange;
use crate::refusal::Refusal;
use crate::upstream::{Entered, Permit, Pool, Service, Try};

/// More often than there are instances none is chosen twice because others took its last place.
const CHOICES_MAX: usize = 8;

/// The try that is under way.
#[derive(Debug, Default)]
pub(super) struct Attempt {
    /// Of the service's breaker and the instance's, until they are told.
    permits: SmallVec<[Permit; 2]>,
    begun: Option<Instant>,
    /// How long the header of the final answer took.
    answered_after: Option<Duration>,
}

impl Attempt {
    /// Begins the next try: at another instance than before, where there is one; `key` is where the request lies on the ring, if there is one.
    ///
    /// # Errors
    /// `Overloaded` where an instance only has no room, `BreakerOpen` where breakers alone are in the way, `NoInstance` where there is none.
    pub(super) fn begin(pool: &Pool, tried: &[Try], key: Option<u32>, now: Instant) -> Result<(Try, Self), Refusal> {
        let mut permits = SmallVec::new();
        if let Some(breaker) = &pool.breakers.service {
            permits.push(breaker.enter(now).map_err(open_for)?);
        }
        for _ in 0..CHOICES_MAX {
            // With every other instance tried, any but the last is as good as that.
            let last = tried.last().map(std::slice::from_ref).unwrap_or_default();
            let chosen = [tried, last, &[]].into_iter().find_map(|without| pool.select(without, key));
            let Some(instance) = chosen else {
                if pool.is_full() {
                    return Err(Refusal::Overloaded);
                }
                return Err(pool.breakers_left(now).map_or(Refusal::NoInstance, open_for));
            };
            // Another request may have taken the place of a trial meanwhile.
            let entered = pool.breakers.of(&instance.address).map(|breaker| breaker.enter(now)).transpose();
            if let Ok(permit) = entered {
                permits.extend(permit);
                let begun = (!permits.is_empty()).then_some(now);
                return Ok((pool.begin(instance, now), Self { permits, begun, answered_after: None }));
            }
        }
        Err(open_for(Duration::ZERO))
    }

    /// The header of the final answer came. A bad status is a failure at once. What is good may still break off, so it is told at the end;
    /// but others wait for a trial, and the answer may be long.
    pub(super) fn answered(&mut self, status: StatusCode) {
        let Some(begun) = self.begun else { return };
        self.answered_after = Some(begun.elapsed());
        if status.is_server_error() {
            self.tell(true);
        } else if self.permits.iter().any(Permit::is_trial) {
            self.tell(false);
        }
    }

    /// The instance failed.
    pub(super) fn failed(&mut self) {
        self.tell(true);
    }

    /// The exchange is over, and nothing went wrong.
    pub(super) fn ended(&mut self) {
        if self.answered_after.is_some() {
            self.tell(false);
        }
    }

    fn tell(&mut self, failed: bool) {
        let Some(begun) = self.begun else { return };
        let now = Instant::now();
        let took = self.answered_after.unwrap_or_else(|| now.saturating_duration_since(begun));
        for permit in self.permits.drain(..) {
            permit.report(failed, took, now);
        }
    }
}

impl Exchange {
    /// Begins the next try, in the place that the exchange has in its service; waits for one where the service bears only so many.
    ///
    /// # Errors
    /// What is said instead of an answer.
    pub(super) async fn begin_try(&mut self, session: &mut Session) -> Result<(Try, Attempt), Refusal> {
        let key = balance_key_of(self, &session.req_header().headers);
        let route = &self.admitted()?.route;
        let pool = route.service.pool();
        if !pool.is_bounded() {
            return begin_now(&route.service, &self.tried, key);
        }
        let (route, pool) = (Arc::clone(route), Guard::into_inner(pool));
        let begin = || match begin_now(&route.service, &self.tried, key) {
            Err(Refusal::Overloaded) => None,
            other => Some(other),
        };
        match pool.enter(&mut self.seat, begin, client_leaves(session)).await {
            Entered::In(begun) => begun,
            Entered::Full => Err(Refusal::Overloaded),
            Entered::Gone => Err(Refusal::ClientClosed),
        }
    }
}

/// With the pool of the moment; and with the next one where that has taken its place meanwhile, because then nobody may be left in the first.
fn begin_now(service: &Service, tried: &[Try], key: Option<u32>) -> Result<(Try, Attempt), Refusal> {
    loop {
        let pool = service.pool();
        let begun = Attempt::begin(&pool, tried, key, Instant::now());
        if begun.is_ok() || Arc::ptr_eq(&pool, &service.pool()) {
            return begun;
        }
    }
}

/// Ends when the client does; never, where it still has to send its body.
async fn client_leaves(session: &mut Session) {
    if session.is_body_done() {
        // What it sends now belongs to no request: an error, as while an instance is asked.
        let _ = session.as_downstream_mut().read_body_or_idle(true).await;
    } else {
        std::future::pending().await
    }
}

/// Why nobody would be asked now, where breakers alone are in the way.
pub(super) fn breakers_refuse(pool: &Pool) -> Option<Refusal> {
    if pool.breakers.is_empty() {
        return None;
    }
    let now = Instant::now();
    let of_service = pool.breakers.service.as_ref().and_then(|breaker| breaker.left(now));
    let left = of_service.or_else(|| if pool.has_other(&[]) { None } else { pool.breakers_left(now) });
    left.map(open_for)
}

fn open_for(left: Duration) -> Refusal {
    // A second that has begun counts: who comes at the time that was named is not refused again.
    let retry_after_seconds = left.as_millis().div_ceil(1_000).try_into().unwrap_or(u64::MAX).max(1);
    Refusal::BreakerOpen { retry_after_seconds }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, BreakerPer};
    use crate::upstream::Before;

    fn service(per: Vec<BreakerPer>) -> config::Service {
        let breaker = config::Breaker { failures: Some(2), per, ..config::Breaker::default() };
        let instances = ["127.0.0.1:1", "127.0.0.1:2"].map(config::Instance::at).to_vec();
        config::Service { instances, breaker: Some(breaker), ..config::Service::default() }
    }

    fn pool(per: Vec<BreakerPer>) -> Arc<Pool> {
        Pool::compile("users", &service(per), Before::Start).unwrap()
    }

    fn begin(pool: &Pool) -> Result<(Try, Attempt), Refusal> {
        Attempt::begin(pool, &[], None, Instant::now())
    }

    #[test]
    fn with_all_breakers_open_nobody_is_asked() {
        let pool = pool(vec![BreakerPer::Instance]);
        for _ in 0..4 {
            begin(&pool).unwrap().1.failed();
        }
        assert_eq!(begin(&pool).unwrap_err(), Refusal::BreakerOpen { retry_after_seconds: 30 });
    }

    #[test]
    fn a_key_goes_elsewhere_while_the_breaker_of_its_instance_is_open() {
        let balance = serde_yaml::from_str("consistent_hash").unwrap();
        let pool =
            Pool::compile("users", &config::Service { balance, ..service(vec![BreakerPer::Instance]) }, Before::Start);
        let pool = pool.unwrap();
        let begin = || Attempt::begin(&pool, &[], Some(7), Instant::now()).unwrap();
        let owner = begin().0.address.clone();
        for _ in 0..2 {
            let (tried, mut attempt) = begin();
            assert_eq!(tried.address, owner);
            attempt.failed();
        }
        assert_ne!(begin().0.address, owner);
        assert!(pool.instances().all(|status| status.instance.in_flight() == 0));
    }

    #[test]
    fn the_breaker_of_the_service_counts_all_instances() {
        let pool = pool(vec![BreakerPer::Service]);
        begin(&pool).unwrap().1.answered(StatusCode::OK);
        for _ in 0..2 {
            begin(&pool).unwrap().1.answered(StatusCode::INTERNAL_SERVER_ERROR);
        }
        assert!(matches!(begin(&pool), Err(Refusal::BreakerOpen { .. })));
    }

    #[test]
    fn an_answer_that_breaks_off_is_a_failure_and_one_without_an_end_is_nothing() {
        let pool = pool(vec![BreakerPer::Service]);
        for outcome in ["breaks off", "is dropped", "breaks off"] {
            let mut attempt = begin(&pool).unwrap().1;
            attempt.answered(StatusCode::OK);
            if outcome == "breaks off" {
                attempt.failed();
            }
        }
        assert!(begin(&pool).is_err());
    }
}
