//! How an instance is chosen among those that are ready: turns, draws, or a ring.
//! A choice allocates nothing. Not here: what makes an instance ready, and in which order groups of instances are asked; both are the pool's.

mod draws;
mod ring;
mod turns;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

pub use ring::balance_key;

use self::draws::{Draws, Random};
use self::ring::Ring;
use self::turns::Turns;
use super::instance::Instance;
use crate::config::Balance;

/// Draws that may meet an instance that is not ready, before all are looked at.
const DRAWS_MAX: usize = 4;
/// Points of the ring that are looked at for an instance that is not too loaded.
const BOUNDED_WALK_MAX: usize = 64;

/// An instance and its share.
#[derive(Debug)]
pub(super) struct Member {
    pub instance: Arc<Instance>,
    pub weight: u16,
}

impl Member {
    /// Its weight, less while its share grows.
    fn share(&self) -> f32 {
        f32::from(self.weight) * self.instance.share()
    }
}

/// Instances among which the choice is.
#[derive(Debug)]
pub(super) struct Group {
    members: Box<[Member]>,
    chooser: Chooser,
}

#[derive(Debug)]
enum Chooser {
    Turns(Turns, Random),
    Random(Draws),
    LeastRequests(Draws),
    PeakEwma(Draws),
    Ring(Ring, Option<LoadMax>),
}

/// Bounded loads (Mirrokni, Thorup, Zadimoghaddam 2016).
#[derive(Debug)]
struct LoadMax {
    percent: u64,
    weights: u64,
    /// Requests of the whole service in flight.
    in_flight: Arc<AtomicUsize>,
}

/// What a choice is made for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    /// Where the request lies on the ring, if there is one.
    pub key: u32,
    /// Whether it has had its turn and only needs another instance.
    pub is_again: bool,
}

impl Group {
    pub fn new(balance: &Balance, members: Vec<Member>, in_flight: &Arc<AtomicUsize>) -> Self {
        let weights: Vec<u16> = members.iter().map(|member| member.weight).collect();
        // Gateways that started together should not draw alike.
        let seed = getrandom::u64().unwrap_or_default();
        let draws = || Draws::new(&weights, seed);
        let chooser = match balance {
            Balance::RoundRobin => Chooser::Turns(Turns::new(&weights), Random::new(seed)),
            Balance::LeastRequests => Chooser::LeastRequests(draws()),
            Balance::PeakEwma => Chooser::PeakEwma(draws()),
            Balance::Random => Chooser::Random(draws()),
            Balance::ConsistentHash(hash) => {
                let instances: Vec<_> =
                    members.iter().map(|member| (member.instance.address.clone(), member.weight)).collect();
                let load_max = hash.load_max.map(|load_max| LoadMax {
                    percent: load_max.0.into(),
                    weights: weights.iter().map(|weight| u64::from(*weight)).sum(),
                    in_flight: Arc::clone(in_flight),
                });
                Chooser::Ring(Ring::new(&instances), load_max)
            }
        };
        Self { members: members.into(), chooser }
    }

    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// One of those that are ready.
    pub fn select(&self, wish: Wish, ready: impl Fn(&Instance) -> bool) -> Option<&Arc<Instance>> {
        let is_ready = |place: usize| Some(&self.members[place]).filter(|member| ready(&member.instance));
        let has_its_turn =
            |random: &Random, place| is_ready(place).filter(|member| random.grants(member.instance.share()));
        let chosen = match &self.chooser {
            Chooser::Turns(turns, _) if wish.is_again => turns.look().find_map(is_ready),
            // Turns are shared with every other request, so a walk may meet the same instance again and again.
            Chooser::Turns(turns, random) => {
                let taken = turns.take().find_map(|place| has_its_turn(random, place));
                taken.or_else(|| turns.look().find_map(is_ready))
            }
            Chooser::Random(draws) => self.draw(draws, &ready),
            Chooser::LeastRequests(draws) => {
                self.better_of_two(draws, &ready, |member| member.instance.in_flight() as f32)
            }
            Chooser::PeakEwma(draws) => {
                let now = Instant::now();
                self.better_of_two(draws, &ready, |member| member.instance.cost(now))
            }
            Chooser::Ring(ring, None) => self.on_ring(ring, wish.key, &ready),
            Chooser::Ring(ring, Some(load_max)) => self.on_bounded_ring(ring, load_max, wish.key, &ready),
        };
        chosen.map(|member| &member.instance)
    }

    /// One that is ready, by weight.
    fn draw(&self, draws: &Draws, ready: &impl Fn(&Instance) -> bool) -> Option<&Member> {
        let drawn = (0..DRAWS_MAX).filter_map(|_| draws.draw()).map(|place| &self.members[place]);
        drawn
            .into_iter()
            .find(|member| ready(&member.instance) && draws.random.grants(member.instance.share()))
            .or_else(|| {
                let all = self.members.iter().filter(|member| ready(&member.instance));
                draws.draw_of(all.map(|member| (member, (member.share() * 100.0).ceil() as u32)))
            })
    }

    /// Two that are ready, by weight, and of them the one with less load for its weight; with the same load the one drawn first, so that an
    /// idle service keeps to the weights.
    fn better_of_two(
        &self,
        draws: &Draws,
        ready: &impl Fn(&Instance) -> bool,
        load: impl Fn(&Member) -> f32,
    ) -> Option<&Member> {
        let first = self.draw(draws, ready)?;
        let other = |instance: &Instance| instance.address != first.instance.address && ready(instance);
        let Some(second) = self.draw(draws, &other) else { return Some(first) };
        let by_weight = |member: &Member| load(member) / member.share();
        Some(if by_weight(second) < by_weight(first) { second } else { first })
    }

    fn on_ring(&self, ring: &Ring, key: u32, ready: &impl Fn(&Instance) -> bool) -> Option<&Member> {
        // With few that are ready most points belong to others; then all instances are looked at, which are fewer than points.
        let near = ring.walk(key).take(4 * self.members.len()).map(|place| &self.members[place]);
        near.into_iter().find(|member| ready(&member.instance)).or_else(|| {
            let begin = key as usize % self.members.len().max(1);
            let all = self.members[begin..].iter().chain(&self.members[..begin]);
            all.into_iter().find(|member| ready(&member.instance))
        })
    }

    /// The first behind the key that has less than its bound; with all of them too loaded, the least loaded near the key.
    fn on_bounded_ring(
        &self,
        ring: &Ring,
        load_max: &LoadMax,
        key: u32,
        ready: &impl Fn(&Instance) -> bool,
    ) -> Option<&Member> {
        let total = load_max.in_flight.load(Ordering::Relaxed) as u64 + 1;
        let mut least: Option<(f32, &Member)> = None;
        for place in ring.walk(key).take(BOUNDED_WALK_MAX) {
            let member = &self.members[place];
            if !ready(&member.instance) {
                continue;
            }
            let (load, weight) = (u64::from(member.instance.in_flight()), u64::from(member.weight));
            if load < (load_max.percent * total * weight).div_ceil(100 * load_max.weights) {
                return Some(member);
            }
            let load = load as f32 / weight as f32;
            if least.is_none_or(|(other, _)| load < other) {
                least = Some((load, member));
            }
        }
        least.map(|(_, member)| member).or_else(|| self.on_ring(ring, key, ready))
    }
}
