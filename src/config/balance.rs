//! `services.NAME.balance`: how an instance is chosen, as a word, as `consistent_hash by header X-Tenant`, or as a map.
//! Not here: the choosing itself (`upstream/balance`), and where the key of a request is found (`gateway/balance_key.rs`).

use std::borrow::Cow;
use std::fmt;

use http::HeaderName;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::text::text_form;
use super::units::Percent;

/// `services.NAME.balance`
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Balance {
    /// One after the other, by weight.
    #[default]
    RoundRobin,
    /// Of two drawn by weight, the one with fewer requests in flight.
    LeastRequests,
    /// Of two drawn by weight, the one that is expected to answer sooner.
    PeakEwma,
    /// Drawn by weight.
    Random,
    /// Requests with the same key go to the same instance.
    ConsistentHash(ConsistentHash),
}

/// `services.NAME.balance.consistent_hash`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConsistentHash {
    /// What requests of one instance have in common: `ip`, `key`, `path`, `header NAME` or `cookie NAME`.
    pub by: HashBy,
    /// An instance gets no more than this part of its share of the requests in flight; the others go on around the ring.
    pub load_max: Option<Percent>,
}

/// `by`: where the key of a request is. A request without it is balanced by its address.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum HashBy {
    /// The client's address.
    #[default]
    Ip,
    /// The name of its key.
    Key,
    /// The path, without query.
    Path,
    /// The value of a header.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(String),
}

text_form!(HashBy, "`ip`, `key`, `path`, `header NAME` or `cookie NAME`", "");

const CONSISTENT_HASH: &str = "consistent_hash";
const WORDS: [&str; 5] = ["round_robin", "least_requests", "peak_ewma", "random", CONSISTENT_HASH];

/// What others call it, and what it is called here.
const ELSEWHERE: [(&str, &str); 13] = [
    ("least_request", "least_requests"),
    ("least_connections", "least_requests"),
    ("least_conn", "least_requests"),
    ("leastconn", "least_requests"),
    ("two_random", "least_requests"),
    ("p2c", "least_requests"),
    ("ewma", "peak_ewma"),
    ("hash", "consistent_hash by ip"),
    ("ip_hash", "consistent_hash by ip"),
    ("source", "consistent_hash by ip"),
    ("ring_hash", "consistent_hash by ip"),
    ("maglev", "consistent_hash by ip"),
    ("weighted", "round_robin"),
];

impl Balance {
    fn parse(text: &str) -> Result<Self, Option<String>> {
        match text {
            "round_robin" => return Ok(Self::RoundRobin),
            "least_requests" => return Ok(Self::LeastRequests),
            "peak_ewma" => return Ok(Self::PeakEwma),
            "random" => return Ok(Self::Random),
            CONSISTENT_HASH => return Ok(Self::ConsistentHash(ConsistentHash::default())),
            _ => {}
        }
        if let Some((_, ours)) = ELSEWHERE.iter().find(|(theirs, _)| *theirs == text) {
            return Err(Some(format!("`{text}` is written `{ours}` here")));
        }
        match text.strip_prefix(CONSISTENT_HASH).map(|rest| rest.trim_start().strip_prefix("by ")) {
            Some(Some(by)) => {
                let by = HashBy::parse(by).map_err(Some)?;
                Ok(Self::ConsistentHash(ConsistentHash { by, load_max: None }))
            }
            Some(None) => {
                Err(Some(format!("`{text}`: write `consistent_hash by ip`, or a map with `consistent_hash`")))
            }
            None => Err(None),
        }
    }
}

impl HashBy {
    /// Reads `header X-Tenant`.
    ///
    /// # Errors
    /// What is wrong with the text, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("ip"), None, None) => Ok(Self::Ip),
            (Some("key"), None, None) => Ok(Self::Key),
            (Some("path"), None, None) => Ok(Self::Path),
            (Some("header"), Some(name), None) => HeaderName::from_bytes(name.as_bytes())
                .map(Self::Header)
                .map_err(|_| format!("`{name}` is no name of a header")),
            // A cookie's name is a token, as a header's is (RFC 6265 section 4.1.1).
            (Some("cookie"), Some(name), None) if HeaderName::from_bytes(name.as_bytes()).is_ok() => {
                Ok(Self::Cookie(name.to_owned()))
            }
            (Some("cookie"), Some(name), None) => Err(format!("`{name}` is no name of a cookie")),
            (Some("header" | "cookie"), None, None) => Err(format!("`{text}`: the name is missing: {text} NAME")),
            _ => Err(format!("`{text}`: write `ip`, `key`, `path`, `header NAME` or `cookie NAME`")),
        }
    }
}

impl fmt::Display for HashBy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip => out.write_str("ip"),
            Self::Key => out.write_str("key"),
            Self::Path => out.write_str("path"),
            Self::Header(name) => write!(out, "header {name}"),
            Self::Cookie(name) => write!(out, "cookie {name}"),
        }
    }
}

impl<'de> Deserialize<'de> for Balance {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Balance;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a way to balance such as `round_robin`, or a map with `consistent_hash`")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Balance, E> {
                Balance::parse(text)
                    .map_err(|problem| problem.map_or_else(|| E::unknown_variant(text, &WORDS), E::custom))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Balance, A::Error> {
                let mut balance = None;
                while let Some(name) = map.next_key::<String>()? {
                    if name != CONSISTENT_HASH {
                        return Err(de::Error::unknown_field(&name, &[CONSISTENT_HASH]));
                    }
                    balance = Some(Balance::ConsistentHash(map.next_value()?));
                }
                balance.ok_or_else(|| de::Error::missing_field(CONSISTENT_HASH))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl Serialize for Balance {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::RoundRobin => serializer.serialize_str("round_robin"),
            Self::LeastRequests => serializer.serialize_str("least_requests"),
            Self::PeakEwma => serializer.serialize_str("peak_ewma"),
            Self::Random => serializer.serialize_str("random"),
            Self::ConsistentHash(hash) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry(CONSISTENT_HASH, hash)?;
                map.end()
            }
        }
    }
}

impl JsonSchema for Balance {
    fn schema_name() -> Cow<'static, str> {
        "Balance".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let hash = generator.subschema_for::<ConsistentHash>();
        json_schema!({"anyOf": [
            {"enum": WORDS},
            {"type": "string", "pattern": "^consistent_hash by .+$", "description": "Short for a map with `by`."},
            {"type": "object", "properties": {CONSISTENT_HASH: hash}, "required": [CONSISTENT_HASH], "additionalProperties": false},
        ]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["ip", "key", "path", "header x-tenant", "cookie Session"] {
            assert_eq!(HashBy::parse(text).unwrap().to_string(), text);
        }
        for wrong in ["", "ip key", "header", "header X Y", "header a:b", "cookie a=b", "query"] {
            assert!(HashBy::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn words_of_others_are_answered_with_ours() {
        for (theirs, ours) in ELSEWHERE {
            assert!(Balance::parse(theirs).unwrap_err().unwrap().contains(ours));
            assert!(Balance::parse(ours).is_ok(), "{ours}");
        }
    }
}
