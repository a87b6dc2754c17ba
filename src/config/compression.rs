//! `routes.NAME.compress`: the codings in which a route's answers may be sent (RFC 9110 section 8.4.1).
//! Not here: which answers are compressed, and for whom (`policy/compress`).

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::short_forms::OneOrMany;

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Coding {
    /// RFC 8878
    Zstd,
    /// Brotli, RFC 7932
    Br,
    /// RFC 1952
    Gzip,
}

impl Coding {
    /// The token in `Accept-Encoding` and `Content-Encoding`.
    pub const fn token(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Br => "br",
            Self::Gzip => "gzip",
        }
    }
}

impl fmt::Display for Coding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.token())
    }
}

/// `routes.X.compress`: each once, the first is preferred where a client likes several equally.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Codings(pub Vec<Coding>);

impl<'de> Deserialize<'de> for Codings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let codings = OneOrMany::<Coding>::deserialize(deserializer)?.0;
        let twice = codings.iter().enumerate().find(|(place, coding)| codings[..*place].contains(coding));
        match twice {
            Some((_, coding)) => Err(D::Error::custom(format!("`{coding}` is written twice"))),
            None => Ok(Self(codings)),
        }
    }
}

impl JsonSchema for Codings {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Codings".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        OneOrMany::<Coding>::json_schema(generator)
    }
}
