//! The short forms of the grammar, each read by a visitor written by hand into the types of `schema.rs`:
//! an untagged enum would answer a typo with "data did not match any variant".
//! Also the words `none` and `auto`, and the schema of every form.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::caching::CachePolicy;
use super::limits::LimitRule;
use super::scalar_forms::{Network, listen_address};
use super::schema::*;
use super::store_url::StoreUrl;
use super::text::short_form;
use super::units::Span;

short_form!(Listener, "an address such as 127.0.0.1:8080, or a map with `address`", |text| {
    Ok(Listener { address: listen_address(text)?, tls: Vec::new(), http2: None, redirect: None })
});
short_form!(Admin, "an address such as 127.0.0.1:8081, a map with `address`, or `none`", |text| {
    Ok(Admin { address: listen_address(text)?, token_sha256: None, hosts: Vec::new() })
});
short_form!(Instance, "`host:port`, or a map with `address`", |text| { Ok(Instance::at(text)) });
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

/// The answer to a key in plain text.
pub const PLAINTEXT: &str = "expected {sha256: DIGEST}; a key itself never stands in this file: `printf %s KEY | sha256sum` makes its digest, `tollgate keys new NAME` a new key";

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
            fn visit_bool<E: de::Error>(self, value: bool) -> Result<OneOrMany<T>, E> {
                // Whatever is a list here, an element of it says best what it looks like.
                self.visit_str(&value.to_string())?;
                Err(E::custom(format!("expected text or a list, `[a, b]`, found `{value}`")))
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
pub struct Limits(pub Vec<LimitRule>);

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
                LimitRule::parse(text).map(|limit| Limits(vec![limit])).map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Limits, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Limits, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Limits, A::Error> {
                LimitRule::deserialize(MapAccessDeserializer::new(map)).map(|limit| Limits(vec![limit]))
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
        let one = generator.subschema_for::<LimitRule>();
        json_schema!({"anyOf": [{"const": "none", "description": "No limit."}, one, {"type": "array", "items": one}]})
    }
}

/// `deserialize_with` of `defaults.limit`.
pub fn limits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<LimitRule>, D::Error> {
    Limits::deserialize(deserializer).map(|limits| limits.0)
}

/// `deserialize_with` of what a route takes from `defaults`: leaving it out is not the same as `none`.
pub fn some<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// `deserialize_with` of a route's limit, where `none` is not the same as nothing.
pub fn some_limits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<LimitRule>>, D::Error> {
    limits(deserializer).map(Some)
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
                out.write_str("a list of instances, `[127.0.0.1:9101]`, or a map with `instances` or `discover`")
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
