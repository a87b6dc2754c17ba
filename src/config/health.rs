//! `services.NAME.health` and `services.NAME.eject`: how it is found out which instances can be used.
//! Not here: the checks themselves (`upstream/probe.rs`), and what follows from them (`upstream/condition.rs`).

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use http::StatusCode;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::short_forms::{self, OneOrMany};
use super::units::{Percent, Span};

/// `services.NAME.health`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HealthCheck {
    /// Asked for with GET; one of `path` and `tcp` is required.
    pub path: Option<String>,
    /// Whether a connection is enough.
    pub tcp: bool,
    /// Statuses of a healthy instance: `200`, or `200-299`.
    #[serde(deserialize_with = "short_forms::one_or_many")]
    #[schemars(with = "OneOrMany<StatusRange>")]
    pub statuses: Vec<StatusRange>,
    /// A text that the first 64 kb of the answer's body have to hold; any body when left out.
    pub body: Option<String>,
    /// The `Host` of the check; the service's when left out.
    pub host: Option<String>,
    /// The port that is checked; the instance's own when left out.
    pub port: Option<u16>,
    /// Time between two checks of an instance, a tenth more or less.
    pub every: Span,
    /// How long one check may take, connecting included.
    pub timeout: Span,
    /// Successes in a row that make an instance healthy.
    pub healthy_after: u16,
    /// Failures in a row that make an instance unhealthy.
    pub unhealthy_after: u16,
    /// Whether an instance that a reload or discovery adds waits for its first success, or is trusted.
    pub start: HealthStart,
    /// With every instance unhealthy: whether all are used, or requests are refused.
    pub when_all_down: WhenAllDown,
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self {
            path: None,
            tcp: false,
            statuses: vec![StatusRange { first: 200, last: 200 }],
            body: None,
            host: None,
            port: None,
            every: Span::seconds(5),
            timeout: Span::seconds(1),
            healthy_after: 2,
            unhealthy_after: 3,
            start: HealthStart::Checked,
            when_all_down: WhenAllDown::Refuse,
        }
    }
}

/// `services.NAME.health.start`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthStart {
    /// It gets requests after its first success.
    #[default]
    Checked,
    /// It gets requests at once.
    Trusted,
}

/// `services.NAME.eject`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Eject {
    /// Requests in a row that have to fail: no connection, no answer in time, a broken one, or one of `statuses`.
    pub errors: u32,
    /// How long the first ejection is; each further one is twice as long.
    #[serde(rename = "for")]
    pub time: Span,
    /// No ejection is longer.
    #[serde(rename = "for_max")]
    pub time_max: Span,
    /// No more of the instances are ejected at once, rounded down.
    pub ejected_max: Percent,
    /// Statuses that count as failures: `503`, or `500-599`.
    #[serde(deserialize_with = "short_forms::one_or_many")]
    #[schemars(with = "OneOrMany<StatusRange>")]
    pub statuses: Vec<StatusRange>,
    /// With no instance left, whether those that are ejected are used all the same.
    pub when_all_down: WhenAllDown,
}

impl Default for Eject {
    fn default() -> Self {
        Self {
            errors: 5,
            time: Span::seconds(30),
            time_max: Span(Duration::from_secs(300)),
            ejected_max: Percent(50),
            statuses: Vec::new(),
            when_all_down: WhenAllDown::All,
        }
    }
}

/// `services.NAME.eject.when_all_down`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WhenAllDown {
    /// All that are ejected are used; those whose health checks fail are not.
    #[default]
    All,
    /// Requests are refused with 503 `no_instance`.
    Refuse,
}

/// A status, or all from one to another: `200`, `200-299`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusRange {
    first: u16,
    last: u16,
}

impl StatusRange {
    /// Reads `200` or `200-299`.
    ///
    /// # Errors
    /// What is wrong with the text, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first @ 200..=599), Ok(last @ 200..=599)) if first <= last => Ok(Self { first, last }),
            _ => Err(format!("`{text}`: write a status from 200 to 599, such as 503, or several, such as 500-599")),
        }
    }

    /// Whether the status is one of them.
    pub fn contains(self, status: StatusCode) -> bool {
        (self.first..=self.last).contains(&status.as_u16())
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}", self.first, self.last)
    }
}

impl Serialize for StatusRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.first == self.last { serializer.serialize_u16(self.first) } else { serializer.collect_str(self) }
    }
}

impl<'de> Deserialize<'de> for StatusRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl de::Visitor<'_> for Either {
            type Value = StatusRange;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a status such as 503, or several such as 500-599")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<StatusRange, E> {
                StatusRange::parse(text).map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<StatusRange, E> {
                self.visit_str(&number.to_string())
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for StatusRange {
    fn schema_name() -> Cow<'static, str> {
        "StatusRange".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [
            {"type": "integer", "minimum": 200, "maximum": 599},
            {"type": "string", "pattern": r"^([2-5][0-9]{2}(-[2-5][0-9]{2})?|.*\$\{.+\}.*)$"},
        ]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_one_status_or_several() {
        let range = StatusRange::parse("500-599").unwrap();
        assert!(range.contains(StatusCode::BAD_GATEWAY) && !range.contains(StatusCode::NOT_FOUND));
        assert!(StatusRange::parse("503").unwrap().contains(StatusCode::SERVICE_UNAVAILABLE));
        for wrong in ["5xx", "", "100", "600", "599-500", "200-"] {
            assert!(StatusRange::parse(wrong).is_err(), "{wrong}");
        }
    }
}
