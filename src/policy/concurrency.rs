//! Concurrency: how many requests of one caller a route serves at once.
//! Counted by `pingora_limits`' `Inflight`, in 256 KB a route however many callers there are: an estimate that may count too much, never too little. With
//! 1,000 exchanges of different callers in flight on one route, one is counted too many for about 1 caller in 6,000 ((1,000 / 8,192)^4).
//! Whatever ends an exchange gives its place back: the guard lies in the exchange. Not here: rates (`limit`), and what a service bears.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use pingora_limits::inflight::{Guard, Inflight};

use crate::config::{self, Mode, Per};
use crate::keys::NameId;
use crate::refusal::Refusal;

/// The name in log and metrics.
pub const NAME: &str = "concurrency";

/// The concurrency limit of one route.
pub struct Concurrency {
    requests: u32,
    enforced: bool,
    by_ip: bool,
    by_key: bool,
    by_consumer: bool,
    in_flight: Arc<Inflight>,
}

/// A place among those that are served at once; dropping it gives it back.
#[derive(Debug)]
pub struct Place {
    _guard: Guard,
    /// Whether the limit only observes, and would have refused.
    pub is_over: bool,
}

impl Concurrency {
    /// Compiles the limit of a route; goes on counting what is in flight since `previous`, where it counts the same callers together.
    pub fn compile(config: &config::Concurrency, previous: Option<&Self>) -> Self {
        let by = |per: Per| config.per.contains(&per);
        let (by_ip, by_key, by_consumer) = (by(Per::Ip), by(Per::Key), by(Per::Consumer));
        let same = previous.filter(|it| (it.by_ip, it.by_key, it.by_consumer) == (by_ip, by_key, by_consumer));
        let in_flight = same.map_or_else(|| Arc::new(Inflight::new()), |same| Arc::clone(&same.in_flight));
        Self { requests: config.max, enforced: config.mode == Mode::Enforce, by_ip, by_key, by_consumer, in_flight }
    }

    /// Takes a place for the caller. What has no key is counted under its address.
    ///
    /// # Errors
    /// `ConcurrencyLimited`, when the caller has as many in flight as it may.
    pub fn enter(&self, ip: IpAddr, key: Option<NameId>, consumer: Option<NameId>) -> Result<Place, Refusal> {
        let name = if self.by_key { key } else { consumer.filter(|_| self.by_consumer) };
        let lacks = (self.by_key || self.by_consumer) && name.is_none();
        let address = (self.by_ip || lacks).then(|| network(ip));
        // What `incr` returns may be too small: of two that count at once, each may be the first in a row of the estimator. Read when
        // everything is counted, no row is smaller than what is in flight: the last of those at once to be counted sees all others.
        let (guard, _) = self.in_flight.incr((name, lacks, address), 1);
        fence(Ordering::SeqCst);
        let is_over = guard.get() > self.requests as isize;
        if is_over && self.enforced {
            return Err(Refusal::ConcurrencyLimited { requests_max: self.requests }); // the guard goes, and with it the place
        }
        Ok(Place { _guard: guard, is_over })
    }
}

impl fmt::Debug for Concurrency {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} at once", self.requests)
    }
}

/// The address, or the /64 of an IPv6.
fn network(ip: IpAddr) -> u128 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip) | u128::from(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::name_id;

    fn limit(max: u32, per: Per, mode: Mode) -> Concurrency {
        Concurrency::compile(&config::Concurrency { max, per: vec![per], mode }, None)
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn a_place_is_free_again_when_it_is_given_back() {
        let limit = limit(2, Per::Ip, Mode::Enforce);
        let first = limit.enter(ip(1), None, None).unwrap();
        let _second = limit.enter(ip(1), None, None).unwrap();
        for _ in 0..9 {
            let refusal = limit.enter(ip(1), None, None).unwrap_err();
            assert_eq!((refusal.status().as_u16(), refusal.reason()), (429, "concurrency_limited"));
        }
        assert!(limit.enter(ip(2), None, None).is_ok(), "another address");
        drop(first);
        assert!(limit.enter(ip(1), None, None).is_ok());
    }

    #[test]
    fn without_a_key_the_address_counts() {
        let limit = limit(1, Per::Key, Mode::Enforce);
        let (key, consumer) = (Some(name_id("alice-1")), Some(name_id("alice")));
        let _alice = limit.enter(ip(1), key, consumer).unwrap();
        assert!(limit.enter(ip(2), key, consumer).is_err());
        let _nobody = limit.enter(ip(1), None, None).unwrap();
        assert!(limit.enter(ip(1), None, None).is_err() && limit.enter(ip(2), None, None).is_ok());
    }

    #[test]
    fn observed_it_refuses_nothing_and_a_reload_forgets_nothing() {
        let observed = limit(1, Per::Ip, Mode::Observe);
        let first = observed.enter(ip(1), None, None).unwrap();
        let second = observed.enter(ip(1), None, None).unwrap();
        assert_eq!((first.is_over, second.is_over), (false, true));
        let config = config::Concurrency { max: 2, per: vec![Per::Ip], mode: Mode::Enforce };
        let reloaded = Concurrency::compile(&config, Some(&observed));
        assert!(reloaded.enter(ip(1), None, None).is_err());
        drop(first);
        assert!(reloaded.enter(ip(1), None, None).is_ok());
    }

    #[test]
    fn threads_at_once_never_have_more_places_than_there_are() {
        use std::sync::atomic::AtomicUsize;
        let limit = limit(3, Per::Ip, Mode::Enforce);
        let (inside, most, entered) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        let Ok(_place) = limit.enter(ip(1), None, None) else { continue };
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        entered.fetch_add(1, Ordering::SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= 3 && entered.load(Ordering::SeqCst) > 0);
    }

    #[test]
    fn a_thousand_others_hardly_ever_count_as_one_too_many() {
        let limit = limit(1, Per::Ip, Mode::Enforce);
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        let places: Vec<_> = (0..1_000).filter_map(|n| limit.enter(address(n), None, None).ok()).collect();
        assert!(places.len() >= 990, "{}", places.len());
        drop(places);
        assert_eq!((0..9).filter(|n| limit.enter(address(*n), None, None).is_ok()).count(), 9, "all are given back");
    }
}
