//! Identity: who is counted together, in 128 bits, so that tables hold no text and compare in one step.
//! 32 bits say what it is made of, 32 are the number of a key's or consumer's name, 64 an address (IPv4, or the /64 of an IPv6).
//! It can be unpacked again for the admin API. A request that lacks what is asked for is its address, marked as such: never unlimited,
//! and never counted together with `per ip`.

use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::Caller;
use crate::config::Per;
use crate::keys::{NameId, name_of};

/// What a limit is counted by; the rest of `per` adds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dimensions {
    /// The address.
    pub ip: bool,
    /// The key, or the consumer.
    pub name: Option<Named>,
}

/// A key belongs to one consumer, so by key and consumer is by key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Key,
    Consumer,
}

/// Who is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity {
    made_of: u32,
    name: u32,
    address: u64,
}

const IPV4: u32 = 1;
const IPV6: u32 = 2;
const KEY: u32 = 4;
const CONSUMER: u32 = 8;
const FALLBACK: u32 = 16;

impl Dimensions {
    /// Route, service and all are what a limit on a route counts anyway: with nothing else they are one identity.
    pub fn compile(per: &[Per]) -> Self {
        let name = if per.contains(&Per::Key) {
            Some(Named::Key)
        } else {
            per.contains(&Per::Consumer).then_some(Named::Consumer)
        };
        Self { ip: per.contains(&Per::Ip), name }
    }

    /// Who `caller` is to this limit.
    pub fn identify(self, caller: &Caller) -> Identity {
        let (tag, name) = match self.name {
            None => (0, None),
            Some(Named::Key) => (KEY, caller.key),
            Some(Named::Consumer) => (CONSUMER, caller.consumer),
        };
        match (name, tag) {
            (None, 0) if self.ip => Identity::of_address(0, caller.ip),
            (None, 0) => Identity { made_of: 0, name: 0, address: 0 },
            (None, _) => Identity::of_address(FALLBACK, caller.ip),
            (Some(name), _) if self.ip => Identity { name: name.number(), ..Identity::of_address(tag, caller.ip) },
            (Some(name), _) => Identity { made_of: tag, name: name.number(), address: 0 },
        }
    }

    /// Who an anonymous caller at `ip` is to this limit; none where addresses don't matter to it.
    pub fn of_address(self, ip: IpAddr) -> Option<Identity> {
        (self.ip || self.name.is_some()).then(|| self.identify(&Caller { ip, consumer: None, key: None }))
    }
}

impl Identity {
    fn of_address(tag: u32, ip: IpAddr) -> Self {
        let (kind, address) = match ip.to_canonical() {
            IpAddr::V4(ip) => (IPV4, u64::from(u32::from(ip))),
            IpAddr::V6(ip) => (IPV6, (u128::from(ip) >> 64) as u64),
        };
        Self { made_of: tag | kind, name: 0, address }
    }

    fn name(self, kind: u32) -> Option<Arc<str>> {
        (self.made_of & kind != 0).then(|| NameId::from_number(self.name).map(name_of)).flatten()
    }

    /// The key's name, where it is part of the identity.
    pub fn key(self) -> Option<Arc<str>> {
        self.name(KEY)
    }

    /// The consumer's name, where it is part of the identity.
    pub fn consumer(self) -> Option<Arc<str>> {
        self.name(CONSUMER)
    }

    /// The address, or the IPv6 network, where it is part of the identity.
    pub fn address(self) -> Option<String> {
        match self.made_of & (IPV4 | IPV6) {
            IPV4 => Some(Ipv4Addr::from(self.address as u32).to_string()),
            IPV6 => Some(format!("{}/64", Ipv6Addr::from(u128::from(self.address) << 64))),
            _ => None,
        }
    }
}

impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from(self.made_of) << 32 | u64::from(self.name));
        state.write_u64(self.address);
    }
}

/// Hashes identities: three multiplications with secrets of this table, several times faster than the standard hasher.
/// Nobody who doesn't know the secrets can choose addresses that meet in one place.
#[derive(Clone)]
pub(super) struct IdentityHashing {
    secrets: [u64; 3],
}

pub(super) struct IdentityHasher {
    secrets: [u64; 3],
    hash: u64,
}

impl Default for IdentityHashing {
    fn default() -> Self {
        let random = RandomState::new(); // seeded by the operating system
        Self { secrets: [random.hash_one(1), random.hash_one(2) | 1, random.hash_one(3) | 1] }
    }
}

impl BuildHasher for IdentityHashing {
    type Hasher = IdentityHasher;

    fn build_hasher(&self) -> IdentityHasher {
        IdentityHasher { secrets: self.secrets, hash: self.secrets[0] }
    }
}

impl Hasher for IdentityHasher {
    fn write_u64(&mut self, word: u64) {
        self.hash = folded(self.hash ^ word, self.secrets[1]);
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn finish(&self) -> u64 {
        folded(self.hash, self.secrets[2])
    }
}

/// Both halves of the product: each bit of it depends on bits above and below.
fn folded(word: u64, secret: u64) -> u64 {
    let product = u128::from(word) * u128::from(secret);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::name_id;

    fn caller(ip: &str, consumer: Option<&str>, key: Option<&str>) -> Caller {
        Caller { ip: ip.parse().unwrap(), consumer: consumer.map(name_id), key: key.map(name_id) }
    }

    fn together(per: &[Per], a: &Caller, b: &Caller) -> bool {
        let dimensions = Dimensions::compile(per);
        dimensions.identify(a) == dimensions.identify(b)
    }

    #[test]
    fn what_is_counted_together() {
        use Per::{All, Consumer, Ip, Key, Route, Service};
        let alice_1 = caller("192.0.2.1", Some("alice"), Some("alice-1"));
        let alice_2 = caller("192.0.2.2", Some("alice"), Some("alice-2"));
        let alice_1_elsewhere = caller("192.0.2.2", Some("alice"), Some("alice-1"));
        let bob = caller("192.0.2.1", Some("bob"), Some("bob-1"));
        let nobody = caller("192.0.2.1", None, None);
        let nobody_elsewhere = caller("192.0.2.2", None, None);
        for (per, a, b, expected) in [
            (&[Ip][..], &alice_1, &bob, true),
            (&[Ip], &alice_1, &nobody, true),
            (&[Ip], &alice_1, &alice_1_elsewhere, false),
            (&[Ip, Route], &alice_1, &bob, true),
            (&[Consumer], &alice_1, &alice_2, true),
            (&[Consumer], &alice_1, &bob, false),
            (&[Consumer], &alice_1, &nobody, false),
            (&[Consumer], &nobody, &nobody_elsewhere, false),
            (&[Key], &alice_1, &alice_2, false),
            (&[Key], &alice_1, &alice_1_elsewhere, true),
            (&[Key, Consumer], &alice_1, &alice_1_elsewhere, true),
            (&[Ip, Key], &alice_1, &alice_1_elsewhere, false),
            (&[Ip, Key], &alice_1, &bob, false),
            (&[Ip, Key], &alice_1, &nobody, false),
            (&[Ip, Consumer], &alice_2, &alice_1_elsewhere, true),
            (&[Route], &alice_1, &nobody_elsewhere, true),
            (&[Service], &alice_1, &bob, true),
            (&[All], &alice_1, &bob, true),
        ] {
            assert_eq!(together(per, a, b), expected, "{per:?} {a:?} {b:?}");
        }
    }

    #[test]
    fn addresses_are_networks() {
        for (a, b, expected) in [
            ("2001:db8::1", "2001:db8::2", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("0.0.0.1", "0:0:0:1::", false),
        ] {
            assert_eq!(together(&[Per::Ip], &caller(a, None, None), &caller(b, None, None)), expected, "{a} {b}");
            assert_eq!(together(&[Per::Key], &caller(a, None, None), &caller(b, None, None)), expected, "{a} {b}");
        }
    }

    #[test]
    fn hashes_of_neighbours_are_spread() {
        for bits in [0, 8, 24, 32] {
            let hashing = IdentityHashing::default();
            let hash = |n: u64| hashing.hash_one(Identity { made_of: IPV4, name: 0, address: n << bits });
            for shift in [0, 26, 48, 57] {
                let mut filled = [0_u32; 128];
                (0..12_800).for_each(|n| filled[(hash(n) >> shift) as usize % 128] += 1);
                assert!(filled.iter().all(|n| (40..200).contains(n)), "{bits} {shift} {filled:?}");
            }
        }
    }

    #[test]
    fn a_fallback_is_not_the_address_itself() {
        let nobody = caller("192.0.2.1", None, None);
        let by_ip = Dimensions::compile(&[Per::Ip]).identify(&nobody);
        assert_ne!(Dimensions::compile(&[Per::Key]).identify(&nobody), by_ip);
        assert_ne!(Dimensions::compile(&[Per::Ip, Per::Key]).identify(&nobody), by_ip);
    }

    #[test]
    fn an_identity_can_be_told() {
        let caller = caller("2001:db8:1:2:3::4", Some("alice"), Some("alice-1"));
        let told = |per: &[Per]| {
            let identity = Dimensions::compile(per).identify(&caller);
            (identity.address(), identity.consumer().map(|n| n.to_string()), identity.key().map(|n| n.to_string()))
        };
        let network = Some("2001:db8:1:2::/64".to_owned());
        assert_eq!(told(&[Per::Ip]), (network.clone(), None, None));
        assert_eq!(told(&[Per::Consumer]), (None, Some("alice".into()), None));
        assert_eq!(told(&[Per::Ip, Per::Key]), (network, None, Some("alice-1".into())));
        assert_eq!(told(&[Per::All]), (None, None, None));
    }
}
