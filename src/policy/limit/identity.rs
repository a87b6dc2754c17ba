//! Identity: who is counted together, in 96 bits, so that tables hold no text and compare in one step.
//! 7 bits say what it is made of and whether it is saved, 25 are the number of a key's or consumer's name, 64 an address (IPv4, or the /64 of an IPv6) or the digest of a
//! header's value. It has a text that means the same in every process. A request that lacks what is asked for is its address, marked as such:
//! never unlimited, and never counted together with `per ip`.

use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use http::HeaderName;
use sha2::{Digest as _, Sha256};

use super::{Caller, config};
use crate::config::Per;
use crate::keys::{NameId, name_id, name_of};

/// What a limit is counted by; the rest of `per` adds nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dimensions {
    /// The address.
    pub ip: bool,
    /// The key, or the consumer.
    pub name: Option<Named>,
    /// The value of this header.
    pub header: Option<HeaderName>,
}

/// A key belongs to one consumer, so by key and consumer is by key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    Key,
    Consumer,
}

/// Who is counted together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    made_of: u32,
    /// Not a `u64`: an entry of a table would grow by the padding.
    address: [u32; 2],
}

const IPV4: u32 = 1;
const IPV6: u32 = 2;
const KEY: u32 = 4;
const CONSUMER: u32 = 8;
const FALLBACK: u32 = 16;
const HEADER: u32 = 32;
/// Not part of who it is: what was counted since it was saved last.
const UNSAVED: u32 = 64;
const NAME_SHIFT: u32 = 7;
/// More names than fit would be counted together.
const NAME_MAX: u32 = u32::MAX >> NAME_SHIFT;

impl Dimensions {
    /// Route, service and all are where a limit counts: with nothing else everyone there is one identity.
    pub fn compile(limit: &config::Limit) -> Self {
        let name = if limit.per.contains(&Per::Key) {
            Some(Named::Key)
        } else {
            limit.per.contains(&Per::Consumer).then_some(Named::Consumer)
        };
        Self { ip: limit.per.contains(&Per::Ip), name, header: limit.header.clone() }
    }

    /// Who `caller` is to this limit.
    pub fn identify(&self, caller: &Caller<'_>) -> Identity {
        let (tag, name) = match self.name {
            None => (0, None),
            Some(Named::Key) => (KEY, caller.key),
            Some(Named::Consumer) => (CONSUMER, caller.consumer),
        };
        if tag != 0 && name.is_none() {
            return Identity::of_address(FALLBACK, caller.ip);
        }
        let tag = tag | name.map_or(0, |name| name.number().min(NAME_MAX) << NAME_SHIFT);
        match &self.header {
            Some(header) => match digest(header, caller, self.ip) {
                Some(digest) => Identity::new(tag | HEADER, digest),
                None => Identity::of_address(FALLBACK, caller.ip),
            },
            None if self.ip => Identity::of_address(tag, caller.ip),
            None => Identity::new(tag, 0),
        }
    }

    /// Who an anonymous caller at `ip` is to this limit; none where addresses don't matter to it.
    pub fn of_address(&self, ip: IpAddr) -> Option<Identity> {
        let caller = Caller { ip, consumer: None, key: None, headers: None };
        (self.ip || self.is_by_more()).then(|| self.identify(&caller))
    }

    /// Whether there are requests that lack what the limit counts by.
    pub const fn is_by_more(&self) -> bool {
        self.name.is_some() || self.header.is_some()
    }
}

/// Of all values of the header, and the address where it counts, too; none without the header. Values may be secrets and may be long, so only
/// a digest is kept; whoever finds two values with one digest shares a count with himself.
fn digest(header: &HeaderName, caller: &Caller<'_>, with_ip: bool) -> Option<u64> {
    let mut values = caller.headers?.get_all(header).iter().peekable();
    values.peek()?;
    let mut hash = Sha256::new();
    for value in values {
        hash.update((value.len() as u64).to_le_bytes());
        hash.update(value.as_bytes());
    }
    if with_ip {
        let (kind, address) = network(caller.ip);
        hash.update(kind.to_le_bytes());
        hash.update(address.to_le_bytes());
    }
    let digest: [u8; 32] = hash.finalize().into();
    digest.first_chunk().map(|first| u64::from_be_bytes(*first))
}

/// IPv4 or IPv6, and the address or its /64.
fn network(ip: IpAddr) -> (u32, u64) {
    match ip.to_canonical() {
        IpAddr::V4(ip) => (IPV4, u64::from(u32::from(ip))),
        IpAddr::V6(ip) => (IPV6, (u128::from(ip) >> 64) as u64),
    }
}

impl Identity {
    const fn new(made_of: u32, address: u64) -> Self {
        Self { made_of, address: [(address >> 32) as u32, address as u32] }
    }

    fn of_address(tag: u32, ip: IpAddr) -> Self {
        let (kind, address) = network(ip);
        Self::new(tag | kind, address)
    }

    /// Whether both are the same.
    pub const fn is(self, other: Self) -> bool {
        (self.made_of ^ other.made_of) & !UNSAVED == 0
            && self.address[0] == other.address[0]
            && self.address[1] == other.address[1]
    }

    /// Notes that what it has used changed.
    pub const fn mark_unsaved(&mut self) {
        self.made_of |= UNSAVED;
    }

    /// Whether what it has used changed since this was asked last.
    pub const fn take_unsaved(&mut self) -> bool {
        let was = self.made_of & UNSAVED != 0;
        self.made_of &= !UNSAVED;
        was
    }

    const fn address_bits(self) -> u64 {
        (self.address[0] as u64) << 32 | self.address[1] as u64
    }

    fn name(self, kind: u32) -> Option<Arc<str>> {
        (self.made_of & kind != 0).then(|| NameId::from_number(self.made_of >> NAME_SHIFT).map(name_of)).flatten()
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
            IPV4 => Some(Ipv4Addr::from(self.address[1]).to_string()),
            IPV6 => Some(format!("{}/64", Ipv6Addr::from(u128::from(self.address_bits()) << 64))),
            _ => None,
        }
    }

    /// The digest of the header's value, where it is part of the identity.
    pub fn header(self) -> Option<String> {
        (self.made_of & HEADER != 0).then(|| format!("{:016x}", self.address_bits()))
    }
}

/// `key:NAME`, `consumer:NAME`, `ip:ADDRESS`, `header:DIGEST`, with commas between, and `lacking` before an address that stands for what
/// a request lacks; `all` for everyone.
impl fmt::Display for Identity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        let mut part = |what: &str, value: Option<&str>| {
            let Some(value) = value else { return Ok(()) };
            write!(out, "{}{what}{value}", std::mem::replace(&mut comma, ","))
        };
        part("lacking", (self.made_of & FALLBACK != 0).then_some(""))?;
        part("key:", self.key().as_deref())?;
        part("consumer:", self.consumer().as_deref())?;
        part("ip:", self.address().as_deref())?;
        part("header:", self.header().as_deref())?;
        part("all", (self.made_of & (FALLBACK | KEY | CONSUMER | IPV4 | IPV6 | HEADER) == 0).then_some(""))
    }
}

impl FromStr for Identity {
    type Err = ();

    /// Reads what [`fmt::Display`] writes. Names in it become numbers: only for texts that this program wrote.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (mut made_of, mut address) = (0, 0);
        for part in text.split(',') {
            match part.split_once(':') {
                None if part == "all" && text == "all" => {}
                None if part == "lacking" => made_of |= FALLBACK,
                Some((kind @ ("key" | "consumer"), name)) if !name.is_empty() && made_of >> NAME_SHIFT == 0 => {
                    let tag = if kind == "key" { KEY } else { CONSUMER };
                    made_of |= tag | name_id(name).number().min(NAME_MAX) << NAME_SHIFT;
                }
                Some(("ip", ip)) => {
                    let ip = ip.strip_suffix("/64").unwrap_or(ip).parse().map_err(|_| ())?;
                    let (kind, bits) = network(ip);
                    (made_of, address) = (made_of | kind, bits);
                }
                Some(("header", digest)) => {
                    made_of |= HEADER;
                    address = u64::from_str_radix(digest, 16).map_err(|_| ())?;
                }
                _ => return Err(()),
            }
        }
        Ok(Self::new(made_of, address))
    }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.is(*other)
    }
}

impl Hash for Identity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from(self.made_of & !UNSAVED));
        state.write_u64(self.address_bits());
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

    fn caller(ip: &str, consumer: Option<&str>, key: Option<&str>) -> Caller<'static> {
        Caller { ip: ip.parse().unwrap(), consumer: consumer.map(name_id), key: key.map(name_id), headers: None }
    }

    fn compile(per: &[Per]) -> Dimensions {
        Dimensions::compile(&config::Limit { per: per.to_vec(), ..config::Limit::parse("1/s").unwrap() })
    }

    fn together(per: &[Per], a: &Caller<'_>, b: &Caller<'_>) -> bool {
        let dimensions = compile(per);
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
            let hash = |n: u64| hashing.hash_one(Identity::new(IPV4, n << bits));
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
        let by_ip = compile(&[Per::Ip]).identify(&nobody);
        assert_ne!(compile(&[Per::Key]).identify(&nobody), by_ip);
        assert_ne!(compile(&[Per::Ip, Per::Key]).identify(&nobody), by_ip);
    }

    #[test]
    fn an_identity_can_be_told() {
        let caller = caller("2001:db8:1:2:3::4", Some("alice"), Some("alice-1"));
        let told = |per: &[Per]| {
            let identity = compile(per).identify(&caller);
            (identity.address(), identity.consumer().map(|n| n.to_string()), identity.key().map(|n| n.to_string()))
        };
        let network = Some("2001:db8:1:2::/64".to_owned());
        assert_eq!(told(&[Per::Ip]), (network.clone(), None, None));
        assert_eq!(told(&[Per::Consumer]), (None, Some("alice".into()), None));
        assert_eq!(told(&[Per::Ip, Per::Key]), (network, None, Some("alice-1".into())));
        assert_eq!(told(&[Per::All]), (None, None, None));
    }

    #[test]
    fn values_of_a_header_count_by_themselves_and_without_it_the_address_counts() {
        let limit = |per: &[Per]| {
            let header = Some(HeaderName::from_static("x-tenant"));
            Dimensions::compile(&config::Limit { header, per: per.to_vec(), ..config::Limit::parse("1/s").unwrap() })
        };
        let headers = |values: &[&'static str]| {
            let values = values.iter().map(|value| http::HeaderValue::from_static(value));
            values.map(|value| (HeaderName::from_static("x-tenant"), value)).collect::<http::HeaderMap>()
        };
        let (a, b, both, none) = (headers(&["a"]), headers(&["b"]), headers(&["a", "b"]), headers(&[]));
        let who = |per: &[Per], headers, ip| {
            limit(per).identify(&Caller { headers: Some(headers), ..caller(ip, None, None) })
        };
        let (one, other) = ("192.0.2.1", "192.0.2.2");
        assert_eq!(who(&[], &a, one), who(&[], &a, other));
        assert_ne!(who(&[], &a, one), who(&[], &b, one));
        assert_ne!(who(&[], &a, one), who(&[], &both, one));
        assert_ne!(who(&[], &none, one), who(&[], &none, other), "never unlimited");
        assert_ne!(who(&[Per::Ip], &a, one), who(&[Per::Ip], &a, other));
        assert_eq!(who(&[], &none, one), compile(&[Per::Key]).identify(&caller(one, None, None)), "the fallback");
        assert_eq!(who(&[], &a, one).header().unwrap().len(), 16);
    }

    #[test]
    fn the_text_of_an_identity_is_read_again() {
        let tenant: http::HeaderMap =
            [(HeaderName::from_static("x-tenant"), http::HeaderValue::from_static("a"))].into_iter().collect();
        let header = Some(HeaderName::from_static("x-tenant"));
        for ip in ["192.0.2.1", "2001:db8:1:2:3::4", "::1", "0.0.0.0"] {
            for named in [None, Some("identity-text")] {
                for per in [&[Per::Ip][..], &[Per::Key], &[Per::Consumer], &[Per::Ip, Per::Key], &[Per::All]] {
                    for header in [None, header.clone()] {
                        let caller = Caller { headers: Some(&tenant), ..caller(ip, named, named) };
                        let identity = Dimensions { header, ..compile(per) }.identify(&caller);
                        assert_eq!(identity.to_string().parse(), Ok(identity), "{identity}");
                    }
                }
            }
        }
        let text = compile(&[Per::Ip, Per::Key]).identify(&caller("192.0.2.1", None, Some("acme"))).to_string();
        assert_eq!(text, "key:acme,ip:192.0.2.1");
        for wrong in ["", "ip", "ip:x", "key:", "key:a,consumer:b", "header:xyz", "all,all", "nothing:1"] {
            assert!(wrong.parse::<Identity>().is_err(), "{wrong}");
        }
    }
}
