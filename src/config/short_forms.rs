//! The short forms of the grammar, each read by a visitor written by hand into the types of `schema.rs`:
//! an untagged enum would answer a typo with "data did not match any variant".
//! Also the words `none` and `auto`, and the schema of every form.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::rate::{Limit, Window, parse as parse_rate};
use super::schema::*;
use super::text::{short_form, text_form};
use super::units::{Span, split};
use super::{Per, StoreUrl};

short_form!(Listener, "an address such as 127.0.0.1:8080, or a map with `address`", |text| {
    Ok(Listener { address: listen_address(text)?, tls: Vec::new(), http2: None, redirect: None })
});
short_form!(Admin, "an address such as 127.0.0.1:8081, a map with `address`, or `none`", |text| {
    Ok(Admin { address: listen_address(text)?, token_sha256: None, hosts: Vec::new() })
});
short_form!(Instance, "`host:port`, or a map with `address`", |text| {
    Ok(Instance { address: text.to_owned(), weight: Instance::default_weight() })
});
short_form!(CachePolicy, "a length of time such as `30s`, a map, or `none`", |text| {
    Ok(CachePolicy { ttl: Span::parse(text)?, ..CachePolicy::default() })
});
short_form!(Log, "`sqlite:PATH`, `mysql://user:password@host/database`, `none`, or a map with `store`", |text| {
    Ok(Log { store: StoreUrl::parse(text)?, ..Log::default() })
});
short_form!(Key, "a map, `{sha256: ...}`", |text| {
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("a digest is written {sha256: ...}".to_owned());
    }
    Err(PLAINTEXT.to_owned())
});

text_form!(FloodGuard, "requests of one address in a window, such as `500/s per ip`", "");
text_form!(KeyPlace, "the name of a request header, or `bearer`", "");
text_form!(JsonLines, "`none`, `stdout`, or a path", "");
text_form!(Digest, "a SHA-256 digest, 64 hex digits", r"^([0-9a-fA-F]{64}|.*\$\{.+\}.*)$");

/// The answer to a key in plain text.
pub const PLAINTEXT: &str = "expected {sha256: DIGEST}; a key itself never stands in this file: `printf %s KEY | sha256sum` makes its digest, `tollgate keys new NAME` a new key";

/// Reads an address to listen on.
///
/// # Errors
/// What is wrong with the text, and what would be right.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return if address.port() == 0 { Err(format!("`{text}`: a port is 1 to 65535")) } else { Ok(address) };
    }
    if text.parse::<u64>().is_ok() {
        return Err(format!("`{text}` is only a port: write 127.0.0.1:{text}, or 0.0.0.0:{text} for all networks"));
    }
    if text.contains("://") {
        return Err(format!("`{text}`: an address has no scheme: write IP:PORT, such as 127.0.0.1:8080"));
    }
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Err(format!("`{text}` has no port: write IP:PORT, such as 127.0.0.1:8080 or [::1]:8080"));
    }
    match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_err() => Err(match (host.is_empty(), port.parse::<i64>()) {
            (_, Ok(_)) => format!("`{text}`: a port is 1 to 65535"),
            _ => format!("`{text}` is no address: write IP:PORT, such as 127.0.0.1:8080 or [::1]:8080"),
        }),
        Some(("", port)) => {
            Err(format!("`{text}` has no address: write 127.0.0.1:{port}, or 0.0.0.0:{port} for all networks"))
        }
        Some(("*", port)) => Err(format!("`{text}`: all networks are written 0.0.0.0:{port} or [::]:{port}")),
        Some(("localhost", port)) => Err(format!("`{text}`: an IP address is needed here: write 127.0.0.1:{port}")),
        _ => Err(format!("`{text}` is no address: write IP:PORT, such as 127.0.0.1:8080 or [::1]:8080")),
    }
}

/// `deserialize_with` of an address in the long form.
pub fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    struct Address;
    impl Visitor<'_> for Address {
        type Value = SocketAddr;
        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("an address such as 127.0.0.1:8080")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<SocketAddr, E> {
            listen_address(text).map_err(E::custom)
        }
    }
    deserializer.deserialize_str(Address)
}

/// A network, or a single address.
pub fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<ipnet::IpNet>, D::Error> {
    OneOrMany::deserialize(deserializer).map(into_networks)
}

/// The networks themselves.
pub fn into_networks(list: OneOrMany<Network>) -> Vec<ipnet::IpNet> {
    list.0.into_iter().map(|network| network.0).collect()
}

/// One of `trusted_proxies`.
pub struct Network(ipnet::IpNet);
text_form!(Network, "a network such as 10.0.0.0/8, or an address", "");

impl Network {
    fn parse(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<std::net::IpAddr>() {
            return Ok(Self(address.into()));
        }
        let network: ipnet::IpNet = text
            .parse()
            .map_err(|_| format!("`{text}` is no network: write 10.0.0.0/8, fd00::/8 or a single address"))?;
        if network.trunc() != network {
            return Err(format!("`{text}` has bits behind its mask: write {}", network.trunc()));
        }
        Ok(Self(network))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// A list, or one element without brackets.
pub struct OneOrMany<T>(pub Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = OneOrMany<T>;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("one or a list")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMany<T>, E> {
                T::deserialize(text.into_deserializer()).map(|one| OneOrMany(vec![one]))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<OneOrMany<T>, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<OneOrMany<T>, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<OneOrMany<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|one| OneOrMany(vec![one]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<OneOrMany<T>, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(OneOrMany)
            }
        }
        deserializer.deserialize_any(Either(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMany_{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({"anyOf": [one, {"type": "array", "items": one}]})
    }
}

/// `deserialize_with` of a list that may be written as one element.
pub fn one_or_many<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    OneOrMany::deserialize(deserializer).map(|list| list.0)
}

/// The limits of a route: one, a list, or `none`.
pub struct Limits(pub Vec<Limit>);

impl<'de> Deserialize<'de> for Limits {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Limits;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a limit such as `100/min per key`, a list of limits, or `none`")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Limits, E> {
                if text == "none" {
                    return Ok(Limits(Vec::new()));
                }
                Limit::parse(text).map(|limit| Limits(vec![limit])).map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Limits, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Limits, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Limits, A::Error> {
                Limit::deserialize(MapAccessDeserializer::new(map)).map(|limit| Limits(vec![limit]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Limits, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(Limits)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for Limits {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Limits".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<Limit>();
        json_schema!({"anyOf": [{"const": "none", "description": "No limit."}, one, {"type": "array", "items": one}]})
    }
}

/// `deserialize_with` of `defaults.limit`.
pub fn limits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Limit>, D::Error> {
    Limits::deserialize(deserializer).map(|limits| limits.0)
}

/// `deserialize_with` of a route's limit, where `none` is not the same as nothing.
pub fn some_limits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Limit>>, D::Error> {
    limits(deserializer).map(Some)
}

/// `deserialize_with` of a route's keys, where `none` is not the same as nothing.
pub fn some_key_rule<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<KeyRule>, D::Error> {
    KeyRule::deserialize(deserializer).map(Some)
}

/// Adds the short form to the schema of a long one.
pub fn or_text(schema: &mut Schema, description: &str) {
    let long = std::mem::take(schema);
    let whole = long.get("description").cloned();
    *schema = json_schema!({"anyOf": [{"type": "string", "description": description}, long]});
    if let Some(whole) = whole {
        schema.insert("description".to_owned(), whole);
    }
}

impl<'de> Deserialize<'de> for Service {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Service;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a list of instances, `[127.0.0.1:9101]`, or a map with `instances`")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Service, A::Error> {
                Service::deserialize(MapAccessDeserializer::new(map))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Service, A::Error> {
                Ok(Service { instances: Vec::deserialize(SeqAccessDeserializer::new(seq))?, ..Service::default() })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl Serialize for Service {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Threads {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Threads;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("`auto` or a number from 1 to 1024")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Threads, E> {
                match text {
                    "auto" => Ok(Threads::Auto),
                    _ => match text.parse() {
                        Ok(count) => self.visit_u64(count),
                        Err(_) => Err(E::custom(format!("`{text}` is neither `auto` nor a number from 1 to 1024"))),
                    },
                }
            }
            fn visit_u64<E: de::Error>(self, count: u64) -> Result<Threads, E> {
                match u16::try_from(count) {
                    Ok(count @ 1..=1024) => Ok(Threads::Count(count)),
                    _ => Err(E::custom(format!("{count} is not a number from 1 to 1024"))),
                }
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl Serialize for Threads {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Count(count) => serializer.serialize_u16(*count),
        }
    }
}

impl JsonSchema for Threads {
    fn schema_name() -> Cow<'static, str> {
        "Threads".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": 1024}]})
    }
}

impl<'de> Deserialize<'de> for KeyRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = KeyRule;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("`required`, `none`, or a list of consumers")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<KeyRule, E> {
                match text {
                    "required" => Ok(KeyRule::Required),
                    "none" => Ok(KeyRule::None),
                    _ => Err(E::custom(format!(
                        "`{text}` is neither `required` nor `none`; one consumer is written [{text}]"
                    ))),
                }
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<KeyRule, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(KeyRule::Consumers)
            }
            fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<KeyRule, A::Error> {
                Err(de::Error::custom("keys by `plan`, `label` or `mode`: not built yet"))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl Serialize for KeyRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Required => serializer.serialize_str("required"),
            Self::None => serializer.serialize_str("none"),
            Self::Consumers(list) => list.serialize(serializer),
        }
    }
}

impl JsonSchema for KeyRule {
    fn schema_name() -> Cow<'static, str> {
        "KeyRule".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [
            {"const": "required", "description": "Any configured key."},
            {"const": "none", "description": "Anyone, without a key."},
            {"type": "array", "items": {"type": "string"}, "description": "Only these consumers."}
        ]})
    }
}

impl FloodGuard {
    /// Reads `500/s per ip`.
    ///
    /// # Errors
    /// What is wrong with the text, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let window =
            text.split_whitespace().next().and_then(|rate| rate.split_once('/')).map_or("", |(_, window)| window);
        if split(window).1 == "ms" {
            return Err(format!("`{text}`: the window is at least 1s, because the estimate cannot work with less"));
        }
        let (rate, per) = parse_rate(text)?;
        if rate.burst.is_some() {
            return Err(format!("`{text}`: a flood guard has no burst"));
        }
        if per.is_some_and(|per| per != [Per::Ip]) {
            return Err(format!("`{text}`: a flood guard counts per ip only"));
        }
        match rate.window {
            Window::Rolling(window) => Ok(Self { requests: rate.count, window }),
            Window::Day | Window::Month => Err(format!("`{text}`: a flood guard's window is in s, min or h")),
        }
    }
}

impl fmt::Display for FloodGuard {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{} per ip", self.requests, Window::Rolling(self.window))
    }
}

impl KeyPlace {
    /// Reads `X-API-Key` or `bearer`.
    ///
    /// # Errors
    /// What is wrong with the text, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("bearer") {
            return Ok(Self::Bearer);
        }
        if text.eq_ignore_ascii_case("authorization") {
            return Err("a key in `Authorization: Bearer` is written `bearer`".to_owned());
        }
        let name = http::HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("`{text}` is no header name"))?;
        match name.as_str() {
            "host" | "cookie" | "content-length" | "connection" | "transfer-encoding" => {
                Err(format!("no key can be in `{text}`"))
            }
            _ => Ok(Self::Header(name)),
        }
    }
}

impl fmt::Display for KeyPlace {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => out.write_str(name.as_str()),
            Self::Bearer => out.write_str("bearer"),
        }
    }
}

impl JsonLines {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "stdout" => Ok(Self::Stdout),
            "" => Err("expected `none`, `stdout` or a path".to_owned()),
            "stderr" => Err("stderr is for the program's own messages: write `stdout` or a path".to_owned()),
            "true" | "false" | "on" | "off" | "yes" | "no" => {
                Err(format!("`{text}` is not `none`, `stdout` or a path"))
            }
            path => Ok(Self::File(PathBuf::from(path))),
        }
    }
}

impl fmt::Display for JsonLines {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => out.write_str("none"),
            Self::Stdout => out.write_str("stdout"),
            Self::File(path) => path.display().fmt(out),
        }
    }
}

impl Digest {
    /// Reads 64 hex digits.
    ///
    /// # Errors
    /// What would be right; the text is not repeated, it may be a key.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("tg_") {
            return Err("this is a key, not its digest: `printf %s KEY | sha256sum` makes the digest; a key itself never stands in this file".to_owned());
        }
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let found = text.chars().count();
            return Err(format!(
                "expected a SHA-256 digest, 64 hex digits, found {found} characters; `printf %s KEY | sha256sum` makes one"
            ));
        }
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16)
                .map_err(|_| "expected hex digits".to_owned())?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0[..4] {
            write!(out, "{byte:02x}")?;
        }
        out.write_str("...")
    }
}
