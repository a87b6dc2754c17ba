//! Who may use a route: by key, by address, from which pages. And until when a key is valid, and where keys are stored.
//! The types with their text forms; rules across fields are in `check/`, what they do in `policy/`.

use std::borrow::Cow;
use std::fmt;

use ipnet::IpNet;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::rate::Mode;
use super::scalar_forms::Network;
use super::short_forms::{self, OneOrMany};
use super::store_url::StoreUrl;
use super::text::text_form;
use super::units::Span;

/// `routes.X.keys`, `defaults.keys`
#[derive(Clone, Debug, Default, PartialEq)]
pub enum KeyRule {
    /// Any known key.
    #[default]
    Required,
    /// Anyone, without a key.
    None,
    /// A known key, of some consumers only.
    Only(KeyAccess),
}

/// The long form of `routes.X.keys`: a key is always required; what is written here all has to hold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KeyAccess {
    /// Only these consumers.
    #[serde(deserialize_with = "short_forms::one_or_many")]
    #[schemars(with = "OneOrMany<String>")]
    pub consumers: Vec<String>,
    /// Only consumers with one of these plans.
    #[serde(deserialize_with = "short_forms::one_or_many")]
    #[schemars(with = "OneOrMany<String>")]
    pub plan: Vec<String>,
    /// Only consumers with one of these labels.
    #[serde(deserialize_with = "short_forms::one_or_many")]
    #[schemars(with = "OneOrMany<String>")]
    pub label: Vec<String>,
    /// `observe` lets everybody with a key through, and logs who would have been refused.
    pub mode: Mode,
}

/// `routes.X.clients`: addresses, after trusted proxies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Clients {
    /// Only these networks; everyone when left out.
    #[serde(deserialize_with = "short_forms::networks")]
    #[schemars(with = "OneOrMany<Network>")]
    pub allow: Vec<IpNet>,
    /// Not these, whatever `allow` says.
    #[serde(deserialize_with = "short_forms::networks")]
    #[schemars(with = "OneOrMany<Network>")]
    pub deny: Vec<IpNet>,
    /// `observe` lets everybody through, and logs who would have been refused.
    pub mode: Mode,
}

/// `routes.X.cors`: pages of other origins that may call (Fetch standard, "CORS protocol").
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// `https://app.example`, `https://*.app.example` (any name below), or `*`.
    #[serde(deserialize_with = "short_forms::one_or_many")]
    #[schemars(with = "OneOrMany<String>")]
    pub origins: Vec<String>,
    /// What pages may ask with; whatever the route admits when left out.
    #[serde(default, deserialize_with = "short_forms::one_or_many")]
    #[schemars(with = "OneOrMany<String>")]
    pub methods: Vec<String>,
    /// Request headers that pages may set, or `*`; `Content-Type` and the places of keys when left out.
    #[serde(default, deserialize_with = "short_forms::one_or_many")]
    #[schemars(with = "OneOrMany<String>")]
    pub headers: Vec<String>,
    /// Whether pages may send cookies and the like.
    #[serde(default)]
    pub credentials: bool,
    /// How long a browser may keep the answer to a preflight.
    #[serde(default = "Cors::default_max_age")]
    pub max_age: Span,
}

impl Cors {
    const fn default_max_age() -> Span {
        Span::seconds(600)
    }
}

/// `key_store`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KeyStoreUrl {
    /// Keys are in this file only.
    #[default]
    None,
    /// The database of `log.store`.
    Log,
    /// A database of its own.
    Own(StoreUrl),
}

text_form!(KeyStoreUrl, "`log`, `sqlite:PATH`, `mysql://user:password@host/database`, or `none`", "");

impl KeyStoreUrl {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "log" => Ok(Self::Log),
            "none" => Ok(Self::None),
            text => match StoreUrl::parse(text) {
                Ok(url) => Ok(Self::Own(url)),
                Err(why) => Err(format!("{why}; `log` is the database of the request log")),
            },
        }
    }

    /// The database itself; none where keys are in the file only.
    pub fn database(&self, log: &StoreUrl) -> StoreUrl {
        match self {
            Self::None => StoreUrl::None,
            Self::Log => log.clone(),
            Self::Own(url) => url.clone(),
        }
    }
}

impl fmt::Display for KeyStoreUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => out.write_str("none"),
            Self::Log => out.write_str("log"),
            Self::Own(url) => url.fmt(out),
        }
    }
}

/// The moment from which on a key is refused, in whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expiry(pub Timestamp);

text_form!(
    Expiry,
    "a date such as 2027-01-01 (its first moment, UTC), or a time such as 2027-01-01T12:00:00+01:00",
    ""
);

impl Expiry {
    /// Reads a date, or a date and a time with or without an offset.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let utc = |time: DateTime| TimeZone::UTC.to_timestamp(time).ok();
        let time = match text.len() {
            10 => text.parse::<Date>().ok().and_then(|date| utc(date.to_datetime(jiff::civil::Time::midnight()))),
            _ => text.parse::<Timestamp>().ok().or_else(|| text.parse::<DateTime>().ok().and_then(utc)),
        };
        let time = time.and_then(|time| Timestamp::from_second(time.as_second()).ok());
        time.map(Self).ok_or_else(|| {
            format!("`{text}` is no time: write 2027-01-01 (its first moment, UTC) or 2027-01-01T12:00:00+01:00")
        })
    }

    /// So long from now on.
    pub fn after(span: Span, now: Timestamp) -> Self {
        let later = SignedDuration::try_from(span.0).ok().and_then(|span| now.checked_add(span).ok());
        Self(Timestamp::from_second(later.unwrap_or(Timestamp::MAX).as_second()).unwrap_or(Timestamp::MAX))
    }
}

impl fmt::Display for Expiry {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl<'de> Deserialize<'de> for KeyRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = KeyRule;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("`required`, `none`, a list of consumers, or a map such as {plan: gold}")
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
                let consumers = Vec::deserialize(SeqAccessDeserializer::new(seq))?;
                Ok(KeyRule::Only(KeyAccess { consumers, ..KeyAccess::default() }))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<KeyRule, A::Error> {
                KeyAccess::deserialize(MapAccessDeserializer::new(map)).map(KeyRule::Only)
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
            Self::Only(access) => access.serialize(serializer),
        }
    }
}

impl JsonSchema for KeyRule {
    fn schema_name() -> Cow<'static, str> {
        "KeyRule".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let long = generator.subschema_for::<KeyAccess>();
        json_schema!({"anyOf": [
            {"const": "required", "description": "Any known key."},
            {"const": "none", "description": "Anyone, without a key."},
            {"type": "array", "items": {"type": "string"}, "description": "Only these consumers."},
            long
        ]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_its_first_moment() {
        let at = |text: &str| Expiry::parse(text).map(|time| time.to_string());
        assert_eq!(at("2027-01-01").unwrap(), "2027-01-01T00:00:00Z");
        assert_eq!(at("2027-01-01T12:30:00+01:00").unwrap(), "2027-01-01T11:30:00Z");
        assert_eq!(at("2027-01-01T12:30:00").unwrap(), "2027-01-01T12:30:00Z");
        assert_eq!(at("2027-01-01T12:30:00.9Z").unwrap(), "2027-01-01T12:30:00Z");
        for wrong in ["", "2027", "tomorrow", "2027-13-01", "30d", "01.01.2027"] {
            assert!(at(wrong).unwrap_err().contains("write 2027-01-01"), "{wrong}");
        }
    }

    #[test]
    fn a_key_store_is_the_log_or_a_url() {
        let shown = |text: &str| KeyStoreUrl::parse(text).map(|url| url.to_string());
        assert_eq!(shown("log").as_deref(), Ok("log"));
        assert_eq!(shown("sqlite:keys.db").as_deref(), Ok("sqlite:keys.db"));
        assert_eq!(shown("mysql://u:hunter2@h/d").as_deref(), Ok("mysql://u:redacted@h/d"));
        assert!(shown("keys.db").unwrap_err().contains("`log`"));
    }
}
