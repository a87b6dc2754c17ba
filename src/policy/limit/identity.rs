//! Identity: who is counted together, packed into 128 bits, so that tables hold no text and compare in one step.
//! 32 bits say what it is made of, 32 are the number of a key's or consumer's name, 64 an address (IPv4, or the /64 of an IPv6).
//! It can be unpacked again for the admin API. A request that lacks what is asked for is its address, marked as such: never unlimited,
//! and never counted together with `per ip`.

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Identity(u128);

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
            (None, 0) => Identity(0),
            (None, _) => Identity::of_address(FALLBACK, caller.ip),
            (Some(name), _) if self.ip => Identity::of_address(tag, caller.ip).named(name),
            (Some(name), _) => Identity(u128::from(tag) << 96).named(name),
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
        Self(u128::from(tag | kind) << 96 | u128::from(address))
    }

    fn named(self, name: NameId) -> Self {
        Self(self.0 | u128::from(name.number()) << 64)
    }

    fn tag(self) -> u32 {
        (self.0 >> 96) as u32
    }

    fn name(self, kind: u32) -> Option<Arc<str>> {
        let number = (self.0 >> 64) as u32;
        (self.tag() & kind != 0).then(|| NameId::from_number(number).map(name_of)).flatten()
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
        let address = self.0 as u64;
        match self.tag() & (IPV4 | IPV6) {
            IPV4 => Some(Ipv4Addr::from(address as u32).to_string()),
            IPV6 => Some(format!("{}/64", Ipv6Addr::from(u128::from(address) << 64))),
            _ => None,
        }
    }
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
