//! Where limits stand in the file beside routes: `limits` (what holds for all, and named ones) and `plans`.
//! Also what a route's list of limits is made of: a limit of its own, or the name of one in `limits.named`.
//! Not here: the grammar of a rate (`rate.rs`), and how limits count (`policy/limit`).

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use indexmap::IndexMap;
use jiff::tz::TimeZone;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::is_name;
use super::rate::{Limit, Mode, Per};
use super::shared_store::{Gateways, OnStoreError, SharedStore};
use super::short_forms::{self, Limits, OneOrMany, or_text};
use super::text::{short_form, text_form};
use super::units::Span;

/// `limits`: what holds for all limits, and those that several routes share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitSettings {
    /// Where limits are counted that do not say `store: local`: `redis://...`, or `local`.
    pub store: SharedStore,
    /// How long a request waits for that store.
    pub timeout: Span,
    /// What a shared limit does while the store is away.
    pub on_error: OnStoreError,
    /// Among how many gateways a limit is divided while the store is away.
    pub gateways: Gateways,
    /// What all keys in the store begin with; each deployment has its own.
    pub prefix: String,
    /// PEM file of the authorities that are believed with `rediss://`; the system's when left out.
    pub ca: Option<PathBuf>,
    /// Limits by name; all routes and plans that say `limit: NAME` count together.
    pub named: IndexMap<String, Limit>,
    /// Whether answers also carry `X-RateLimit-Limit`, `-Remaining` and `-Reset`.
    pub legacy_headers: bool,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            store: SharedStore::default(),
            timeout: Span(Duration::from_millis(50)),
            on_error: OnStoreError::default(),
            gateways: Gateways::default(),
            prefix: "tollgate".to_owned(),
            ca: None,
            named: IndexMap::new(),
            legacy_headers: false,
        }
    }
}

impl LimitSettings {
    /// Whether this limit counts in the store that gateways share.
    pub fn is_shared(&self, limit: &Limit) -> bool {
        self.store != SharedStore::Local && limit.store.is_none()
    }
}

/// `plans.NAME`: what the consumers of a plan get, over all their requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Plan {
    /// Counted over all routes, beside the limits of each.
    #[serde(deserialize_with = "short_forms::limits")]
    #[schemars(with = "Limits")]
    pub limit: Vec<LimitRule>,
}

/// `routes.X.concurrency`; the short form is `COUNT [per WHAT [and WHAT]]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schemars(transform = short_form_of_concurrency)]
pub struct Concurrency {
    /// Requests that are served at once, at least 1.
    pub max: u32,
    /// What is counted together.
    #[serde(default = "Per::defaults", deserialize_with = "short_forms::one_or_many")]
    #[schemars(with = "OneOrMany<Per>")]
    pub per: Vec<Per>,
    /// Whether it refuses, or only counts and logs.
    #[serde(default)]
    pub mode: Mode,
}

/// An element of `limit`.
#[derive(Clone, Debug, PartialEq)]
pub enum LimitRule {
    /// A limit that counts here.
    Own(Limit),
    /// One of `limits.named`.
    Named(String),
}

/// `zone`: a time zone by its name in the tz database, such as `Europe/Berlin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(String);

/// `store` of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LimitStore {
    /// Counted in this process alone.
    Local,
}

short_form!(Concurrency, "`10 per key`, or a map with `max`", |text| {
    let mut words = text.split_whitespace();
    let max = words.next().unwrap_or_default().parse().ok().filter(|max| *max > 0);
    let max = max.ok_or_else(|| format!("`{text}`: write COUNT [per WHAT [and WHAT]], such as 10 per key"))?;
    let per = match words.next() {
        None => Per::defaults(),
        Some("per") => Per::parse_list(&mut words)?,
        Some(word) => return Err(format!("`{text}`: `{word}` is not understood: write COUNT per WHAT")),
    };
    Ok(Concurrency { max, per, mode: Mode::default() })
});
text_form!(Zone, "a time zone such as `Europe/Berlin` or `UTC`", "");

impl Zone {
    /// Reads the name of a zone that exists.
    ///
    /// # Errors
    /// What is wrong with the name.
    pub fn parse(text: &str) -> Result<Self, String> {
        match TimeZone::get(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(format!("`{text}` is no time zone: write a name such as Europe/Berlin or UTC")),
        }
    }

    /// The zone's rules. UTC should they be gone since the file was read.
    pub fn rules(&self) -> TimeZone {
        TimeZone::get(&self.0).unwrap_or(TimeZone::UTC)
    }

    /// Whether it is UTC by its name.
    pub fn is_utc(&self) -> bool {
        self.0 == "UTC"
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl LimitRule {
    /// Reads the short form: a rate with what it counts by, or a name.
    ///
    /// # Errors
    /// What is wrong with the text, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let is_reference = is_name(text) && text.starts_with(|first: char| first.is_ascii_alphabetic());
        if is_reference { Ok(Self::Named(text.to_owned())) } else { Limit::parse(text).map(Self::Own) }
    }

    /// The limit, where it is one of its own.
    pub fn own(&self) -> Option<&Limit> {
        match self {
            Self::Own(limit) => Some(limit),
            Self::Named(_) => None,
        }
    }
}

impl Serialize for LimitRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Own(limit) => limit.serialize(serializer),
            Self::Named(name) => serializer.serialize_str(name),
        }
    }
}

impl<'de> Deserialize<'de> for LimitRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> de::Visitor<'de> for Either {
            type Value = LimitRule;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(
                    "a limit such as `100/min per key`, the name of one in `limits.named`, or a map with `rate`",
                )
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<LimitRule, E> {
                LimitRule::parse(text).map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<LimitRule, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<LimitRule, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<LimitRule, A::Error> {
                Limit::deserialize(MapAccessDeserializer::new(map)).map(LimitRule::Own)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for LimitRule {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "LimitRule".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = json_schema!({"anyOf": [generator.subschema_for::<Limit>()]});
        or_text(&mut schema, "A limit, or the name of one in `limits.named`.");
        schema
    }
}

fn short_form_of_concurrency(schema: &mut Schema) {
    or_text(schema, "COUNT [per WHAT [and WHAT]], e.g. `10 per key`");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_a_name_and_a_rate_is_a_limit() {
        assert_eq!(LimitRule::parse("api"), Ok(LimitRule::Named("api".into())));
        assert!(matches!(LimitRule::parse("10/s per ip"), Ok(LimitRule::Own(_))));
        for wrong in ["10", "a b", "none", "1x"] {
            assert!(LimitRule::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn concurrency_has_a_short_form() {
        let read = |text: &str| serde_yaml::from_str::<Concurrency>(text).map_err(|error| error.to_string());
        assert_eq!(read("10 per key").unwrap(), Concurrency { max: 10, per: vec![Per::Key], mode: Mode::Enforce });
        assert_eq!(read("{max: 2, mode: observe}").unwrap().per, [Per::Consumer]);
        for (wrong, part) in
            [("0 per key", "such as 10"), ("'5 for key'", "not understood"), ("'5 per kye'", "did you mean")]
        {
            assert!(read(wrong).unwrap_err().contains(part), "{wrong}");
        }
    }

    #[test]
    fn zones_have_to_exist() {
        assert!(Zone::parse("Europe/Berlin").is_ok() && Zone::parse("UTC").is_ok_and(|zone| zone.is_utc()));
        assert!(Zone::parse("Europe/Nowhere").unwrap_err().contains("no time zone"));
    }
}
