//! The breakers of one service: of the whole, and of each instance, as far as they are wanted.
//! A service without any pays one look at an empty table.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxBuildHasher;

use super::Breaker;
use crate::config::{self, BreakerPer};
use crate::upstream::Address;

/// The breakers of one service.
#[derive(Debug, Default)]
pub struct Breakers {
    /// Of the service as a whole.
    pub service: Option<Arc<Breaker>>,
    /// Addresses are the configuration's and the resolver's, so a hash without secrets will do.
    instances: HashMap<Address, Arc<Breaker>, FxBuildHasher>,
}

impl Breakers {
    /// What `config` wants of them; those of before go on, where their settings and addresses are the same.
    pub(in crate::upstream) fn compile(
        config: Option<&config::Breaker>,
        service: &str,
        addresses: impl Iterator<Item = Address>,
        previous: Option<&Self>,
    ) -> Self {
        let wanted = |per| config.filter(|config| config.per.contains(&per));
        let of_service = wanted(BreakerPer::Service);
        let of_instance = wanted(BreakerPer::Instance);
        let instance = |address: Address| {
            let before = previous.and_then(|previous| previous.of(&address));
            let breaker = Breaker::compile(of_instance?, service, Some(&address.to_string()), before);
            Some((address, breaker))
        };
        Self {
            service: of_service.map(|config| {
                Breaker::compile(config, service, None, previous.and_then(|previous| previous.service.as_ref()))
            }),
            instances: addresses.filter_map(instance).collect(),
        }
    }

    /// Whether there is none at all.
    pub fn is_empty(&self) -> bool {
        self.service.is_none() && self.instances.is_empty()
    }

    /// That of an instance.
    pub fn of(&self, address: &Address) -> Option<&Arc<Breaker>> {
        if self.instances.is_empty() { None } else { self.instances.get(address) }
    }

    /// Whether the instance's lets a request pass.
    pub(in crate::upstream) fn let_through(&self, address: &Address) -> bool {
        self.of(address).is_none_or(|breaker| breaker.is_ready(Instant::now()))
    }

    /// Until one of these instances' lets the next request pass; none where none of them is in the way.
    pub(in crate::upstream) fn left<'a>(
        &self,
        instances: impl Iterator<Item = &'a Address>,
        now: Instant,
    ) -> Option<Duration> {
        instances.filter_map(|address| self.of(address)?.left(now)).min()
    }
}
