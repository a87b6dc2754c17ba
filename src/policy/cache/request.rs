//! What a request asks of the cache: whether it is looked up at all, and how fresh an answer it wishes for.
//! Not here: what is stored of the answer (`rule.rs`).

use http::Method;
use http::header::{COOKIE, IF_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE, UPGRADE};
use pingora_http::RequestHeader;

use crate::cache::freshness;
use crate::config::KeyPart;

/// Why a request is not looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bypass {
    /// Not one of the route's methods.
    Method,
    /// The request has a body.
    Body,
    /// The connection may turn into something else.
    Upgrade,
    /// `If-Match`, `If-Unmodified-Since` and `If-Range` are for the instance to judge.
    Condition,
    /// Several ranges at once multiply the bytes of an answer.
    Ranges,
    /// A header that may change the answer, and is not part of the key.
    Unkeyed,
}

impl Bypass {
    /// The word in `Cache-Status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Body => "body",
            Self::Upgrade => "upgrade",
            Self::Condition => "condition",
            Self::Ranges => "ranges",
            Self::Unkeyed => "unkeyed_header",
        }
    }
}

/// Why this request is not looked up; `methods` are the route's.
pub(super) fn bypass(request: &RequestHeader, has_body: bool, methods: &[Method]) -> Option<Bypass> {
    let headers = &request.headers;
    if !methods.contains(&request.method) {
        Some(Bypass::Method)
    } else if has_body {
        Some(Bypass::Body)
    } else if headers.contains_key(UPGRADE) {
        Some(Bypass::Upgrade)
    } else if [IF_MATCH, IF_UNMODIFIED_SINCE, IF_RANGE].iter().any(|name| headers.contains_key(name)) {
        Some(Bypass::Condition)
    } else if headers.get_all(RANGE).iter().any(|range| range.as_bytes().contains(&b',')) {
        Some(Bypass::Ranges)
    } else if freshness::is_unkeyed(headers) {
        Some(Bypass::Unkeyed)
    } else {
        None
    }
}

/// Whether a request for an answer, and nothing but that, is looked up: without a body, a range, a condition or an upgrade.
pub(super) fn is_looked_up(request: &RequestHeader, methods: &[Method]) -> bool {
    methods.contains(&request.method) && !freshness::is_unkeyed(&request.headers)
}

/// What a request has of the parts that the route adds to the key, framed so that no two requests share a text; none where
/// the route adds nothing.
pub(super) fn additions(parts: &[KeyPart], request: &RequestHeader) -> Option<String> {
    if parts.is_empty() {
        return None;
    }
    let mut text = String::new();
    for part in parts {
        let values: Vec<&[u8]> = match part {
            KeyPart::Header(name) => request.headers.get_all(name).iter().map(|value| value.as_bytes()).collect(),
            KeyPart::Cookie(name) => cookies(request, name),
        };
        text.push_str(&format!("{}:", values.len()));
        for value in values {
            // Bytes that are no text are escaped, and so is what escapes them.
            let value = value.escape_ascii().to_string();
            text.push_str(&format!("{}:{value}", value.len()));
        }
    }
    Some(text)
}

/// All values of a cookie (RFC 6265 section 4.2.1).
fn cookies<'a>(request: &'a RequestHeader, name: &str) -> Vec<&'a [u8]> {
    let lines = request.headers.get_all(COOKIE).into_iter();
    let pairs = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    pairs.filter_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(method: &str, headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build(method, b"/", None).unwrap();
        for (name, value) in headers {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    #[test]
    fn which_requests_are_not_looked_up() {
        let ask = |method: &str, header: Option<(&'static str, &str)>, has_body| {
            bypass(&request(method, header.as_slice()), has_body, &[Method::GET, Method::HEAD])
        };
        assert_eq!(ask("GET", None, false), None);
        assert_eq!(ask("HEAD", Some(("range", "bytes=0-1")), false), None);
        assert_eq!(ask("GET", Some(("if-none-match", "\"1\"")), false), None);
        assert_eq!(ask("POST", None, false), Some(Bypass::Method));
        assert_eq!(ask("GET", None, true), Some(Bypass::Body));
        assert_eq!(ask("GET", Some(("upgrade", "websocket")), false), Some(Bypass::Upgrade));
        assert_eq!(ask("GET", Some(("if-match", "\"1\"")), false), Some(Bypass::Condition));
        assert_eq!(ask("GET", Some(("if-range", "\"1\"")), false), Some(Bypass::Condition));
        assert_eq!(ask("GET", Some(("range", "bytes=0-1,2-3")), false), Some(Bypass::Ranges));
        for name in ["x-http-method-override", "x-original-url", "x-rewrite-url", "x-original-host"] {
            assert_eq!(ask("GET", Some((name, "x")), false), Some(Bypass::Unkeyed));
        }
        assert_eq!(bypass(&request("HEAD", &[]), false, &[Method::GET]), Some(Bypass::Method));
    }

    type Headers = Vec<(&'static str, String)>;

    fn any_headers() -> impl Strategy<Value = Headers> {
        let tenant = "[a1:;=]{0,3}".prop_map(|value| ("x-tenant", value));
        let cookie = "(lang|lan|g)=[a1:]{0,2}".prop_map(|pair| ("cookie", pair));
        let other = "[a]{0,1}".prop_map(|value| ("x-other", value));
        proptest::collection::vec(prop_oneof![tenant, cookie, other], 0..4)
    }

    fn named(headers: &Headers) -> (Vec<&str>, Vec<&str>) {
        let tenants = headers.iter().filter(|(name, _)| *name == "x-tenant").map(|(_, value)| value.as_str());
        let cookies = headers.iter().filter(|(name, _)| *name == "cookie");
        (tenants.collect(), cookies.filter_map(|(_, value)| value.strip_prefix("lang=")).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn additions_are_equal_exactly_where_what_is_named_is(one in any_headers(), other in any_headers()) {
            let parts = [KeyPart::parse("header X-Tenant").unwrap(), KeyPart::parse("cookie lang").unwrap()];
            let text = |headers: &Headers| {
                let lines: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
                additions(&parts, &request("GET", &lines))
            };
            prop_assert_eq!(text(&one) == text(&other), named(&one) == named(&other), "{:?} {:?}", text(&one), text(&other));
        }
    }
}
