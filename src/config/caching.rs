//! `routes.NAME.cache`: which answers of a route are stored, what they are found by, and how long they are used.
//! Not here: what the fields do (`policy/cache`, `cache/freshness.rs`), and rules across them (`check/caching.rs`).

use std::fmt;

use http::HeaderName;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

use super::short_forms::{self, OneOrMany, or_text};
use super::text::text_form;
use super::units::{Percent, Size, Span};

/// `routes.X.cache`; the short form `30s` is `{ttl: 30s}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default, remote = "Self")]
#[schemars(transform = with_short_form)]
pub struct CachePolicy {
    /// Freshness where the upstream says nothing about it; `0s`: only what the upstream allows.
    pub ttl: Span,
    /// Never fresher than this, whatever the upstream says.
    pub max: Option<Span>,
    /// Fresh for so long, whatever the upstream says about freshness; what it forbids to store is not stored all the same.
    #[serde(rename = "override")]
    pub always: Option<Span>,
    /// Where the upstream says nothing about freshness, but when the answer was last modified: this part of the time since then.
    pub heuristic: Percent,
    /// Statuses that `ttl` and `heuristic` are for; 200, 203, 204, 300, 301, 308, 404, 405, 410, 414 and 501 when left out.
    #[serde(deserialize_with = "short_forms::one_or_many")]
    #[schemars(with = "OneOrMany<u16>")]
    pub statuses: Vec<u16>,
    /// How long a stale answer may be used while another one is fetched, where the upstream does not say.
    pub stale_while_revalidate: Span,
    /// How long a stale answer may be used instead of an error, where the upstream does not say.
    pub stale_if_error: Span,
    /// What becomes of an answer that sets a cookie.
    pub set_cookie: SetCookie,
    /// One stored answer for all consumers, instead of one for each.
    pub shared: bool,
    /// Methods whose requests are answered from the cache: `GET`, `HEAD`, or both.
    #[serde(deserialize_with = "short_forms::one_or_many")]
    #[schemars(with = "OneOrMany<CachedMethod>")]
    pub methods: Vec<CachedMethod>,
    /// Headers and cookies that belong to the key, each as `header NAME` or `cookie NAME`.
    #[serde(deserialize_with = "short_forms::one_or_many")]
    #[schemars(with = "OneOrMany<KeyPart>")]
    pub key: Vec<KeyPart>,
    /// Headers that tell answers apart as if every answer named them in `Vary`.
    #[serde(deserialize_with = "short_forms::one_or_many")]
    #[schemars(with = "OneOrMany<String>")]
    pub vary: Vec<String>,
    /// What of the query tells answers apart, and reaches instances.
    pub query: CachedQuery,
    /// What becomes of wishes such as `Cache-Control: no-cache` in requests.
    pub request_directives: RequestDirectives,
    /// Whether `Surrogate-Control` of the instance counts, as `CDN-Cache-Control` does.
    pub surrogate_control: bool,
    /// Whether parts of answers are stored, and put together.
    pub partial: bool,
    /// Larger answers are not stored; with `partial` it is larger parts.
    pub body_max: Size,
    /// Headers of the instance's answer that hold its tags, by which it can be purged.
    #[serde(deserialize_with = "short_forms::one_or_many")]
    #[schemars(with = "OneOrMany<String>")]
    pub tags_header: Vec<String>,
    /// Whether clients get these headers, too: a cache in front may want them.
    pub tags_to_clients: bool,
}

/// `routes.X.cache.set_cookie`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SetCookie {
    /// It is not stored.
    #[default]
    Skip,
    /// It is stored without the cookie, which only the client gets whose request fetched it.
    Strip,
    /// It is stored with the cookie: every client gets the same.
    Store,
}

/// `routes.X.cache.request_directives`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RequestDirectives {
    /// Only `no-store` counts: no client can make instances work by asking for what is stored already.
    #[default]
    Ignore,
    /// `no-cache`, `max-age`, `min-fresh`, `max-stale` and `only-if-cached` count as well (RFC 9111 section 5.2.1).
    Obey,
}

/// `routes.X.cache.methods`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CachedMethod {
    /// `GET`
    #[serde(rename = "GET")]
    Get,
    /// `HEAD`
    #[serde(rename = "HEAD")]
    Head,
}

/// `routes.X.cache.query`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CachedQuery {
    /// Parameters that no answer depends on, each a name, or the beginning of names and `*`; instances don't get them.
    #[serde(deserialize_with = "short_forms::one_or_many")]
    #[schemars(with = "OneOrMany<String>")]
    pub ignore: Vec<String>,
    /// Whether parameters are sorted by name, so that their order tells nothing apart.
    pub sort: bool,
}

/// What belongs to the key of a stored answer.
#[derive(Clone, Debug, PartialEq)]
pub enum KeyPart {
    /// The values of a header.
    Header(HeaderName),
    /// The values of a cookie.
    Cookie(String),
}

text_form!(KeyPart, "`header NAME` or `cookie NAME`", "");

impl KeyPart {
    /// Reads `header X-Tenant`.
    ///
    /// # Errors
    /// What is wrong with the text, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("header"), Some(name), None) => HeaderName::from_bytes(name.as_bytes())
                .map(Self::Header)
                .map_err(|_| format!("`{name}` is no name of a header")),
            // A cookie's name is a token, as a header's is (RFC 6265 section 4.1.1).
            (Some("cookie"), Some(name), None) if HeaderName::from_bytes(name.as_bytes()).is_ok() => {
                Ok(Self::Cookie(name.to_owned()))
            }
            (Some("cookie"), Some(name), None) => Err(format!("`{name}` is no name of a cookie")),
            (Some("header" | "cookie"), None, None) => Err(format!("`{text}`: the name is missing: {text} NAME")),
            _ => Err(format!("`{text}`: write `header NAME` or `cookie NAME`")),
        }
    }
}

impl fmt::Display for KeyPart {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(out, "header {name}"),
            Self::Cookie(name) => write!(out, "cookie {name}"),
        }
    }
}

impl Default for CachePolicy {
    fn default() -> Self {
        Self {
            ttl: Span::default(),
            max: None,
            always: None,
            heuristic: Percent(0),
            statuses: Vec::new(),
            stale_while_revalidate: Span::default(),
            stale_if_error: Span::default(),
            set_cookie: SetCookie::Skip,
            shared: false,
            methods: vec![CachedMethod::Get, CachedMethod::Head],
            key: Vec::new(),
            vary: Vec::new(),
            query: CachedQuery::default(),
            request_directives: RequestDirectives::Ignore,
            body_max: Size(1 << 20),
            tags_header: vec!["Surrogate-Key".to_owned(), "Cache-Tag".to_owned()],
            tags_to_clients: false,
            surrogate_control: false,
            partial: false,
        }
    }
}

fn with_short_form(schema: &mut Schema) {
    or_text(schema, "`30s` is {ttl: 30s}; `none` is no cache");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for text in ["header x-tenant", "cookie lang"] {
            assert_eq!(KeyPart::parse(text).unwrap().to_string(), text);
        }
        for wrong in ["", "header", "header a b", "header a:b", "cookie a=b", "ip"] {
            assert!(KeyPart::parse(wrong).is_err(), "{wrong}");
        }
    }
}
