//! CORS: which pages of other origins may call a route, and read its answers (Fetch standard, section 3.2 "CORS protocol").
//! It protects nobody from anyone but browsers' visitors: it decides what browsers let pages see, never whether a request is served.
//! A route with this policy owns the fields of the protocol: what an instance says of them is removed, before the cache stores it.

use http::Method;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY,
};
use pingora_http::{RequestHeader, ResponseHeader};
use smallvec::SmallVec;

use crate::config::{self, KeyPlace};

/// What pages may read beyond the fields that every page may.
const EXPOSED: HeaderValue = HeaderValue::from_static("RateLimit, RateLimit-Policy, Retry-After, X-Request-Id");

/// On an answer that depends on who asks.
const VARY_ORIGIN: HeaderValue = HeaderValue::from_static("Origin");

/// A preflight also depends on what is going to be asked.
const VARY_PREFLIGHT: HeaderValue =
    HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers");

const TRUE: HeaderValue = HeaderValue::from_static("true");
const ANY: HeaderValue = HeaderValue::from_static("*");

/// The fields that answer one request.
pub type Fields = SmallVec<[(HeaderName, HeaderValue); 6]>;

/// The CORS policy of one route.
#[derive(Clone, Debug)]
pub struct Cors {
    origins: Origins,
    /// Joined; none: what was asked for, which the route admits.
    methods: Option<(Box<[Method]>, HeaderValue)>,
    /// Joined; none: what was asked for.
    headers: Option<HeaderValue>,
    credentials: bool,
    max_age: HeaderValue,
}

#[derive(Clone, Debug)]
enum Origins {
    Any,
    Some(Box<[Origin]>),
}

#[derive(Clone, Debug)]
enum Origin {
    Exact(Box<[u8]>),
    /// `https://` and `.app.example`, of `https://*.app.example`.
    Below(Box<[u8]>, Box<[u8]>),
}

/// The method that a preflight asks for; none where the request is none.
pub fn preflight(request: &RequestHeader) -> Option<Method> {
    if request.method != Method::OPTIONS || !request.headers.contains_key(ORIGIN) {
        return None;
    }
    Method::from_bytes(request.headers.get(ACCESS_CONTROL_REQUEST_METHOD)?.as_bytes()).ok()
}

impl Cors {
    /// Compiles `routes.X.cors`; without `headers` pages may send what keys are looked for in.
    pub fn compile(cors: &config::Cors, key_in: &[KeyPlace]) -> Self {
        let joined = |names: &[String]| HeaderValue::from_str(&names.join(", ")).ok();
        let usual = || {
            let places = key_in.iter().filter_map(|place| match place {
                KeyPlace::Header(name) => Some(name.to_string()),
                KeyPlace::Bearer => Some("authorization".to_owned()),
                KeyPlace::Query(_) => None,
            });
            joined(&std::iter::once("content-type".to_owned()).chain(places).collect::<Vec<_>>())
        };
        let headers = match &*cors.headers {
            [] => usual(),
            list if list.iter().any(|name| name == "*") => None,
            list => joined(list),
        };
        let methods: Box<[Method]> =
            cors.methods.iter().filter_map(|method| Method::from_bytes(method.as_bytes()).ok()).collect();
        Self {
            origins: Origins::compile(&cors.origins),
            methods: joined(&cors.methods).filter(|_| !methods.is_empty()).map(|joined| (methods, joined)),
            headers,
            credentials: cors.credentials,
            max_age: HeaderValue::from(cors.max_age.0.as_secs()),
        }
    }

    /// What answers a preflight for this method. A page that may not call gets no permission, which is all that stops it.
    pub fn answer_preflight(&self, request: &HeaderMap, method: &Method) -> Fields {
        let mut fields = Fields::new();
        fields.push((VARY, VARY_PREFLIGHT));
        let Some(allowed) = self.allowed(request.get(ORIGIN)) else { return fields };
        let methods = match &self.methods {
            None => HeaderValue::from_str(method.as_str()).ok(),
            Some((methods, joined)) => methods.contains(method).then(|| joined.clone()),
        };
        let Some(methods) = methods else { return fields };
        fields.push((ACCESS_CONTROL_ALLOW_ORIGIN, allowed));
        fields.push((ACCESS_CONTROL_ALLOW_METHODS, methods));
        if let Some(headers) = self.headers.as_ref().or_else(|| request.get(ACCESS_CONTROL_REQUEST_HEADERS)) {
            fields.push((ACCESS_CONTROL_ALLOW_HEADERS, headers.clone()));
        }
        if self.credentials {
            fields.push((ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE));
        }
        fields.push((ACCESS_CONTROL_MAX_AGE, self.max_age.clone()));
        fields
    }

    /// What every other answer of the route carries, refusals and stored answers included.
    pub fn fields(&self, origin: Option<&HeaderValue>) -> Fields {
        let mut fields = Fields::new();
        if !matches!(self.origins, Origins::Any) {
            fields.push((VARY, VARY_ORIGIN));
        }
        let Some(allowed) = self.allowed(origin) else { return fields };
        fields.push((ACCESS_CONTROL_ALLOW_ORIGIN, allowed));
        fields.push((ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED));
        if self.credentials {
            fields.push((ACCESS_CONTROL_ALLOW_CREDENTIALS, TRUE));
        }
        fields
    }

    /// Puts these fields on an answer of an instance or of the cache.
    ///
    /// # Errors
    /// Pingora's, when a field can't be set.
    pub fn apply(&self, origin: Option<&HeaderValue>, answer: &mut ResponseHeader) -> pingora_core::Result<()> {
        for (name, value) in self.fields(origin) {
            if name != VARY {
                answer.insert_header(name, value)?;
            } else if !varies_by_origin(&answer.headers) {
                answer.append_header(name, value)?;
            }
        }
        Ok(())
    }

    /// `Access-Control-Allow-Origin` for this origin; none where it may not call. Never `*` with credentials: `check` has refused that.
    fn allowed(&self, origin: Option<&HeaderValue>) -> Option<HeaderValue> {
        let Origins::Some(origins) = &self.origins else { return Some(ANY) };
        let origin = origin?;
        origins.iter().any(|one| one.is(origin.as_bytes())).then(|| origin.clone())
    }
}

/// Removes what an instance says: it does not know which origins the gateway admits.
pub fn remove_claims(answer: &mut ResponseHeader) {
    let of_protocol = |name: &&HeaderName| name.as_str().starts_with("access-control-");
    let claims: SmallVec<[HeaderName; 4]> = answer.headers.keys().filter(of_protocol).cloned().collect();
    for name in &claims {
        answer.remove_header(name);
    }
}

fn varies_by_origin(headers: &HeaderMap) -> bool {
    let names = headers.get_all(VARY).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    names.map(<[u8]>::trim_ascii).any(|name| name == b"*" || name.eq_ignore_ascii_case(b"origin"))
}

impl Origins {
    fn compile(origins: &[String]) -> Self {
        if origins.iter().any(|origin| origin == "*") {
            return Self::Any;
        }
        let origin = |origin: &String| match origin.split_once("://*.") {
            None => Origin::Exact(origin.as_bytes().into()),
            Some((scheme, rest)) => {
                Origin::Below(format!("{scheme}://").into_bytes().into(), format!(".{rest}").into_bytes().into())
            }
        };
        Self::Some(origins.iter().map(origin).collect())
    }
}

impl Origin {
    fn is(&self, origin: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => origin == &**exact,
            Self::Below(scheme, suffix) => {
                let name = origin.strip_prefix(&**scheme).and_then(|rest| rest.strip_suffix(&**suffix));
                let is_name =
                    |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
                name.is_some_and(|name| !name.is_empty() && name.iter().all(is_name))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Span;

    const APP: &str = "https://app.example";

    fn cors(origins: &[&str]) -> config::Cors {
        let origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
        config::Cors { origins, max_age: Span::seconds(600), ..config::Cors::default() }
    }

    fn places() -> [KeyPlace; 2] {
        [KeyPlace::Header(HeaderName::from_static("x-api-key")), KeyPlace::Bearer]
    }

    fn shown(fields: Fields) -> String {
        let line = |(name, value): &(HeaderName, HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
        fields.iter().map(line).collect::<Vec<_>>().join("\n").replace("access-control-", "")
    }

    fn answered(config: &config::Cors, origin: &'static str) -> String {
        shown(Cors::compile(config, &places()).fields(Some(&HeaderValue::from_static(origin))))
    }

    fn preflighted(config: &config::Cors, origin: &'static str, method: &str) -> String {
        let mut request = HeaderMap::new();
        request.insert(ORIGIN, HeaderValue::from_static(origin));
        request.insert(ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_static("x-anything"));
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        shown(Cors::compile(config, &places()).answer_preflight(&request, &method))
    }

    #[test]
    fn an_origin_that_is_named_may_read_the_answer() {
        let exposed = "expose-headers: RateLimit, RateLimit-Policy, Retry-After, X-Request-Id";
        assert_eq!(answered(&cors(&[APP]), APP), format!("vary: Origin\nallow-origin: {APP}\n{exposed}"));
        assert_eq!(answered(&cors(&[APP]), "https://evil.example"), "vary: Origin");
        assert_eq!(answered(&cors(&["*"]), "https://evil.example"), format!("allow-origin: *\n{exposed}"));
        let with = config::Cors { credentials: true, ..cors(&[APP]) };
        assert!(answered(&with, APP).ends_with("allow-credentials: true"));
        assert_eq!(answered(&with, "https://evil.example"), "vary: Origin");
    }

    #[test]
    fn origins_that_look_alike_are_others() {
        for other in [
            "http://app.example",
            "https://app.example:8443",
            "https://app.example.evil.example",
            "https://evilapp.example",
            "https://APP.example",
            "null",
        ] {
            assert_eq!(answered(&cors(&[APP]), other), "vary: Origin", "{other}");
        }
    }

    #[test]
    fn a_star_stands_for_names_below() {
        let below = cors(&["https://*.app.example"]);
        for origin in ["https://a.app.example", "https://a.b.app.example"] {
            assert!(answered(&below, origin).contains(&format!("allow-origin: {origin}")), "{origin}");
        }
        for other in
            ["https://app.example", "https://.app.example.evil", "http://a.app.example", "https://x/.app.example"]
        {
            assert_eq!(answered(&below, other), "vary: Origin", "{other}");
        }
    }

    #[test]
    fn a_preflight_says_what_may_be_asked() {
        let vary = "vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers";
        assert_eq!(
            preflighted(&cors(&[APP]), APP, "PUT"),
            format!(
                "{vary}\nallow-origin: {APP}\nallow-methods: PUT\nallow-headers: content-type, x-api-key, authorization\nmax-age: 600"
            )
        );
        assert_eq!(preflighted(&cors(&[APP]), "https://evil.example", "PUT"), vary);
        let some =
            config::Cors { methods: vec!["GET".into(), "POST".into()], headers: vec!["*".into()], ..cors(&[APP]) };
        assert_eq!(preflighted(&some, APP, "DELETE"), vary);
        let text = preflighted(&some, APP, "POST");
        assert!(text.contains("allow-methods: GET, POST\nallow-headers: x-anything"), "{text}");
    }

    #[test]
    fn only_options_with_an_origin_and_a_method_is_a_preflight() {
        let asked = |method: &str, fields: &[(&'static str, &'static str)]| {
            let mut request = RequestHeader::build(method, b"/", None).unwrap();
            for (name, value) in fields {
                request.insert_header(*name, *value).unwrap();
            }
            preflight(&request)
        };
        let (origin, method) = (("origin", APP), ("access-control-request-method", "PUT"));
        assert_eq!(asked("OPTIONS", &[origin, method]), Some(Method::PUT));
        assert_eq!(asked("GET", &[origin, method]), None);
        assert_eq!(asked("OPTIONS", &[method]), None);
        assert_eq!(asked("OPTIONS", &[origin]), None);
    }

    #[test]
    fn an_instances_own_words_are_removed_and_its_vary_is_kept() {
        let mut answer = ResponseHeader::build(200, None).unwrap();
        answer.insert_header("access-control-allow-origin", "*").unwrap();
        answer.insert_header("vary", "Accept-Encoding").unwrap();
        remove_claims(&mut answer);
        assert!(!answer.headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN));
        let policy = Cors::compile(&cors(&[APP]), &places());
        policy.apply(None, &mut answer).unwrap();
        policy.apply(None, &mut answer).unwrap();
        let vary: Vec<_> = answer.headers.get_all(VARY).iter().collect();
        assert_eq!(vary, ["Accept-Encoding", "Origin"]);
    }
}
