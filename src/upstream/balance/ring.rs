//! Consistent hashing: instances have points on a ring (ketama), and a key belongs to the next point behind it.
//! A point depends on its instance's address and nothing else, so when an instance leaves only its own keys move, and every gateway with the
//! same instances chooses alike. SHA-256, because it is the same on every machine and in every version. Not here: where a request's key is.

use sha2::{Digest as _, Sha256};

use crate::upstream::Address;

/// Points for each unit of weight. The share of so many varies by 4.4% (1/√512), so 25% off is as good as never.
const POINTS_PER_WEIGHT: usize = 512;
/// Points of one ring, 8 bytes each, where the weights allow it.
const POINTS_MAX: usize = 1 << 21;

/// The points of all instances, in their order.
#[derive(Debug)]
pub(super) struct Ring {
    /// Where, and the place of whose.
    points: Box<[(u32, u32)]>,
}

impl Ring {
    pub fn new(instances: &[(Address, u16)]) -> Self {
        let weights: usize = instances.iter().map(|(_, weight)| usize::from(*weight)).sum();
        // A power of two less for large services, so that the number stays the same when one instance comes or goes, nearly always.
        let mut points_per_weight = POINTS_PER_WEIGHT;
        while points_per_weight > 8 && points_per_weight * weights > POINTS_MAX {
            points_per_weight /= 2;
        }
        let mut points = Vec::with_capacity(points_per_weight * weights);
        for (place, (address, weight)) in (0_u32..).zip(instances) {
            points.extend(hashes(address).take(points_per_weight * usize::from(*weight)).map(|hash| (hash, place)));
        }
        // Two on the same point: the address decides, whatever the order of the list is.
        points.sort_unstable_by(|a, b| (a.0, &instances[a.1 as usize].0).cmp(&(b.0, &instances[b.1 as usize].0)));
        Self { points: points.into() }
    }

    /// The places behind a key, all around the ring; the same place comes many times.
    pub fn walk(&self, key: u32) -> impl Iterator<Item = usize> {
        let begin = self.points.partition_point(|(hash, _)| *hash < key);
        self.points[begin..].iter().chain(&self.points[..begin]).map(|(_, place)| *place as usize)
    }
}

/// Where a key lies on every ring.
pub fn balance_key(key: &[u8]) -> u32 {
    let digest = Sha256::digest(key);
    u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
}

/// The points of an address, as many as are wanted: eight of each digest.
fn hashes(address: &Address) -> impl Iterator<Item = u32> + use<> {
    let name = address.to_string();
    (0_u32..).flat_map(move |number| {
        let digest = Sha256::new().chain_update(&name).chain_update(number.to_be_bytes()).finalize();
        let mut words = [0; 8];
        for (word, bytes) in words.iter_mut().zip(digest.chunks_exact(4)) {
            *word = bytes.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
        }
        words
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn address(number: usize) -> Address {
        Address::Inet(([10, 0, 0, 1], 1_000 + u16::try_from(number).unwrap()).into())
    }

    fn instances(weights: &[u16]) -> Vec<(Address, u16)> {
        weights.iter().enumerate().map(|(number, weight)| (address(number), *weight)).collect()
    }

    fn owner(ring: &Ring, instances: &[(Address, u16)], key: u32) -> Address {
        instances[ring.walk(key).next().unwrap()].0.clone()
    }

    #[test]
    fn points_are_the_same_in_every_version() {
        assert_eq!(hashes(&address(0)).take(9).collect::<Vec<_>>().len(), 9);
        assert_eq!(balance_key(b"alice"), 0x2bd8_06c9); // printf alice | sha256sum
        assert!(Ring::new(&[]).walk(1).next().is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn when_an_instance_leaves_only_its_own_keys_move(weights in prop::collection::vec(1_u16..=5, 2..12), gone in any::<prop::sample::Index>()) {
            let before = instances(&weights);
            let gone = gone.index(before.len());
            let mut after = before.clone();
            after.remove(gone);
            let (ring, rest) = (Ring::new(&before), Ring::new(&after));
            for key in (0..2_000_u32).map(|key| balance_key(&key.to_be_bytes())) {
                let (had, has) = (owner(&ring, &before, key), owner(&rest, &after, key));
                prop_assert!(had == has || had == address(gone));
            }
        }

        #[test]
        fn shares_are_within_a_quarter_of_their_weight(weights in prop::collection::vec(1_u16..=10, 1..12)) {
            let instances = instances(&weights);
            let ring = Ring::new(&instances);
            let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            let mut had = vec![0_f64; weights.len()];
            // The part of the ring before each point belongs to it.
            for (at, (hash, place)) in ring.points.iter().enumerate() {
                let before = at.checked_sub(1).map_or_else(|| ring.points.last().unwrap().0, |before| ring.points[before].0);
                had[*place as usize] += f64::from(hash.wrapping_sub(before)) / 2_f64.powi(32);
            }
            for (had, weight) in had.iter().zip(&weights) {
                let share = f64::from(*weight) / sum;
                prop_assert!(weights.len() == 1 || (had / share - 1.0).abs() < 0.25, "{} instead of {}", had, share);
            }
        }
    }
}
