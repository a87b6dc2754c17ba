//! Admission: everything a request must pass before it may touch the cache or an instance, in one order, on one screen.
//! Not here: the policies themselves (`policy`), and writing what they refuse (`answer`).
//! Only this makes an `Admitted`, so no later phase can serve a request that skipped a check.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use http::header::{CONTENT_LENGTH, HOST, HeaderValue, USER_AGENT};
use http::{HeaderMap, Version};
use pingora_http::RequestHeader;
use uuid::Uuid;

use super::exchange::{Admitted, Exchange, Facts};
use super::query::{raw_query, redact};
use crate::config::{Config, QueryLog};
use crate::policy::concurrency::{self, Concurrency, Place};
use crate::policy::headers::{X_FORWARDED_FOR, X_REQUEST_ID};
use crate::policy::limit::{Caller, Now};
use crate::policy::{cors, path};
use crate::refusal::Refusal;
use crate::runtime::{Route, Runtime};

/// Bytes of the client's own texts that are kept for the log.
pub(super) const CLIENT_REQUEST_ID_BYTES_MAX: usize = 128;
pub(super) const USER_AGENT_BYTES_MAX: usize = 256;
pub(super) const PATH_BYTES_MAX: usize = 2048;

/// Ends a text of which something was left out.
const CUT: &str = "\u{2026}";

/// Everything a request must pass before it may touch the cache or an instance.
/// The order is policy: the flood guard comes before any work, identity before limits, so that limits count consumers, not addresses.
///
/// # Errors
/// The refusal that the client is sent.
pub(super) async fn admit(request: &RequestHeader, exchange: &mut Exchange) -> Result<(), Refusal> {
    let runtime = Arc::clone(&exchange.runtime);
    if let Some(guard) = &runtime.flood_guard
        && !exchange.is_counted
    {
        guard.admit(exchange.facts.client_ip)?; // 429
    }
    let (host, path) = target(request)?; // 400
    let kept: Arc<str> = Arc::from(&*path);
    let facts = &mut exchange.facts;
    facts.path = logged_path(request, &kept, &runtime.config);
    facts.host = Box::from(&*host);
    if exchange.connection.as_ref().is_some_and(|connection| connection.redirects_to_https) {
        return Err(to_https(request, &host)); // 308
    }
    if let Some(route) = preflighted(request, &runtime, &host, &path) {
        exchange.route = Some(route);
        return Err(Refusal::Preflight); // 204: it can't carry a key
    }
    let found = runtime.routes.find(&host, &path, &request.method)?; // 404, 405
    let route = exchange.route.insert(Arc::clone(found.route));
    let client = route.clients.as_ref().map_or(Ok(None), |clients| clients.admit(exchange.facts.client_ip))?; // 403
    let query = raw_query(request);
    let key = route.auth.identify(&request.headers, query)?; // 400, 401, 503
    exchange.key = key.as_ref().map(|key| Arc::clone(&key.entry));
    let access = key.as_ref().map_or(Ok(None), |key| route.auth.permit(&key.entry, exchange.started_at))?; // 401, 403
    exchange.observed = client.or(access).map(Arc::from);
    let caller = Caller {
        ip: exchange.facts.client_ip,
        consumer: key.as_ref().map(|key| key.entry.consumer_id),
        key: key.as_ref().map(|key| key.entry.name_id),
        headers: Some(&request.headers),
    };
    if let Some(concurrency) = &route.concurrency {
        exchange.place = Some(place(concurrency, &caller, &mut exchange.limit_name, &mut exchange.observed)?); // 429
    }
    let plan = key.as_ref().and_then(|key| key.entry.plan.as_ref()).map(|plan| plan.id);
    let limits = route.limits.of(plan).ok_or(Refusal::Internal("the plan of the key is not configured"))?;
    let now = Now::at(exchange.started, exchange.started_at);
    let decision = match &runtime.sharing {
        // In a box: only a request whose limits are shared pays for what asking takes.
        Some(sharing) if limits.is_shared() => Box::pin(sharing.decide(limits, caller, now)).await,
        _ => limits.admit(&caller, now),
    };
    exchange.limit_name = decision.limit_name;
    exchange.observed = exchange.observed.take().or(decision.observed);
    if let Some(refusal) = decision.refused {
        return Err(refusal); // 429
    }
    body_fits(&request.headers, route.body_bytes_max)?; // 413
    exchange.admitted = Some(Admitted {
        route: Arc::clone(route),
        pattern: Arc::clone(found.pattern),
        path: kept,
        key_header: key.and_then(|key| key.header),
        query: query_that_counts(request, route, query),
        limit_fields: decision.fields,
    });
    Ok(())
}

/// The query without what may hold a key, and in the form by which the route's cache tells answers apart; none where that is
/// how it came.
fn query_that_counts(request: &RequestHeader, route: &Route, query: Option<&[u8]>) -> Option<Vec<u8>> {
    let forwarded = route.auth.forwarded_query(query);
    let counts = route.cache.as_ref().zip(forwarded.as_deref().or(query));
    counts.and_then(|(rule, query)| rule.query_that_counts(&request.method, query)).or(forwarded)
}

/// The route that a preflight asks about, where it has a policy for that: found by the method that is going to be used.
fn preflighted(request: &RequestHeader, runtime: &Runtime, host: &str, path: &str) -> Option<Arc<Route>> {
    let method = cors::preflight(request)?;
    let found = runtime.routes.find(host, path, &method).ok()?;
    found.route.cors.is_some().then(|| Arc::clone(found.route))
}

/// A place among those that the route serves at once, before limits are asked: whom it turns away uses up none of them.
fn place(
    concurrency: &Concurrency,
    caller: &Caller<'_>,
    refused: &mut Option<Arc<str>>,
    observed: &mut Option<Arc<str>>,
) -> Result<Place, Refusal> {
    static NAME: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(concurrency::NAME));
    let place = concurrency.enter(caller.ip, caller.key, caller.consumer);
    match &place {
        Ok(place) if place.is_over => *observed = Some(Arc::clone(&NAME)),
        Ok(_) => {}
        Err(_) => *refused = Some(Arc::clone(&NAME)),
    }
    place
}

/// What the request says of itself, before anything is decided.
pub(super) fn facts(request: &RequestHeader, exchange: &Exchange) -> Facts {
    let peer = exchange.connection.as_ref().map_or(IpAddr::from([0, 0, 0, 0]), |connection| connection.peer.ip());
    let trusted = &exchange.runtime.trusted_proxies;
    let from_trusted_proxy = trusted.contains(peer);
    let (request_id, client_request_id) = request_id(&request.headers, from_trusted_proxy);
    let client_ip =
        if from_trusted_proxy { trusted.client(peer, request.headers.get_all(X_FORWARDED_FOR).iter()) } else { peer };
    Facts {
        method: request.method.clone(),
        protocol: protocol(request.version),
        client_ip,
        from_trusted_proxy,
        request_id,
        client_request_id,
        host: Box::default(),
        path: Arc::default(),
        user_agent: request.headers.get(USER_AGENT).map(|value| text(value, USER_AGENT_BYTES_MAX)),
    }
}

/// Ours (UUIDv7), unless a trusted proxy sent one; and what the client sent, where it was replaced.
fn request_id(headers: &HeaderMap, from_trusted_proxy: bool) -> (Uuid, Option<Box<str>>) {
    let Some(sent) = headers.get(X_REQUEST_ID) else { return (Uuid::now_v7(), None) };
    let known = sent.to_str().ok().filter(|_| from_trusted_proxy).and_then(|sent| Uuid::try_parse(sent).ok());
    match known {
        Some(id) => (id, None),
        None => (Uuid::now_v7(), Some(text(sent, CLIENT_REQUEST_ID_BYTES_MAX))),
    }
}

/// Host (lower case, no port) and path (normal form). HTTP/1.1 needs a host (RFC 9112 section 3.2); HTTP/1.0 may have none.
fn target(request: &RequestHeader) -> Result<(Cow<'_, str>, Cow<'_, str>), Refusal> {
    let authority = authority(request);
    let host = match authority {
        Some(authority) => host_of(authority).ok_or(Refusal::BadHost)?,
        None if request.version == Version::HTTP_10 || request.version == Version::HTTP_09 => Cow::Borrowed(""),
        None => return Err(Refusal::BadHost),
    };
    let raw = request.raw_path();
    let raw_path = if raw.first() == Some(&b'/') {
        raw.split(|byte| *byte == b'?').next().unwrap_or_default()
    } else if raw.starts_with(b"*") {
        raw
    } else {
        request.uri.path().as_bytes() // absolute-form
    };
    let path = path::normalise(raw_path).map_err(Refusal::BadPath)?;
    Ok((host, path))
}

/// The authority of the request: of its target, or of `Host`. Pingora has refused requests in which they differ.
pub(super) fn authority(request: &RequestHeader) -> Option<&str> {
    let authority = match request.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => request.headers.get(HOST)?.to_str().ok(),
    };
    authority.filter(|authority| !authority.is_empty())
}

/// The host of `host:port`, in lower case, without the dot at the end of a full name.
pub(super) fn host_of(authority: &str) -> Option<Cow<'_, str>> {
    if let Some(host) = plain_host(authority) {
        return Some(Cow::Borrowed(host));
    }
    let authority: http::uri::Authority = authority.parse().ok()?;
    let host = authority.host().trim_end_matches('.');
    (!host.is_empty() && host.len() <= 255 && !authority.as_str().contains('@'))
        .then(|| Cow::Owned(host.to_ascii_lowercase()))
}

/// The host of an authority that has nothing to parse: lower case letters, digits, dots and dashes, perhaps a port.
fn plain_host(authority: &str) -> Option<&str> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-');
    let (host, port) = authority.split_once(':').unwrap_or((authority, "0"));
    let is_port = matches!(port.len(), 1..=5) && port.bytes().all(|byte| byte.is_ascii_digit());
    let host = host.strip_suffix('.').unwrap_or(host);
    let is_whole = matches!(host.len(), 1..=255) && !host.ends_with('.');
    (is_port && is_whole && host.bytes().all(is_plain)).then_some(host)
}

fn to_https(request: &RequestHeader, host: &str) -> Refusal {
    let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
    HeaderValue::try_from(format!("https://{host}{target}"))
        .map_or(Refusal::BadHost, |location| Refusal::RedirectHttps { location })
}

/// Whether the announced length is within the bound. A body without one is counted as it comes.
/// A list of lengths is refused even where all are the same: not every instance reads one as Pingora does.
fn body_fits(headers: &HeaderMap, bytes_max: u64) -> Result<(), Refusal> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(()) };
    let text = length.to_str().ok().map(str::trim).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    match text.and_then(|text| text.parse::<u64>().ok()) {
        Some(bytes) if lengths.next().is_none() && bytes <= bytes_max => Ok(()),
        Some(bytes) if bytes > bytes_max => Err(Refusal::BodyTooLarge { bytes_max }),
        _ => Err(Refusal::BadBody),
    }
}

const fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 | Version::HTTP_09 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

/// A header's value as text of at most `bytes_max` bytes; bytes that are no text are marked.
fn text(value: &HeaderValue, bytes_max: usize) -> Box<str> {
    text_of(value.as_bytes(), bytes_max)
}

/// Bytes as text of at most `bytes_max` bytes; those that are no text are marked.
pub(super) fn text_of(bytes: &[u8], bytes_max: usize) -> Box<str> {
    let is_longer = bytes.len() > bytes_max;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(bytes_max)]);
    if is_longer || text.len() > bytes_max { cut(&text, bytes_max).into() } else { text.into() }
}

/// The path as the log keeps it: with the query where the configuration asks for it, secrets replaced.
fn logged_path(request: &RequestHeader, path: &Arc<str>, config: &Config) -> Arc<str> {
    match (config.log.query, request.uri.query()) {
        (QueryLog::Redacted, Some(query)) => {
            let whole = format!("{path}?{}", redact(query, &config.key_in));
            if whole.len() <= PATH_BYTES_MAX { whole.into() } else { cut(&whole, PATH_BYTES_MAX).into() }
        }
        (QueryLog::None, _) | (_, None) if path.len() <= PATH_BYTES_MAX => Arc::clone(path),
        (QueryLog::None, _) | (_, None) => cut(path, PATH_BYTES_MAX).into(),
    }
}

/// For the log of a request that was refused before its path had a normal form: the path as it came.
pub(super) fn name_path(request: &RequestHeader, exchange: &mut Exchange) {
    if exchange.facts.path.is_empty() {
        let raw = request.raw_path().split(|byte| *byte == b'?').next().unwrap_or_default();
        exchange.facts.path = text_of(raw, PATH_BYTES_MAX).into();
    }
}

/// The beginning of a text that is too long, and a mark: at most `bytes_max` bytes together, cut between characters.
fn cut(text: &str, bytes_max: usize) -> String {
    format!("{}{CUT}", &text[..text.floor_char_boundary(bytes_max - CUT.len())])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &[u8], host: Option<&str>) -> RequestHeader {
        let mut request = RequestHeader::build("GET", target, None).unwrap();
        request.set_version(Version::HTTP_11);
        if let Some(host) = host {
            request.insert_header("Host", host).unwrap();
        }
        request
    }

    fn check(sent: &str, host: Option<&str>, expected: Result<(&str, &str), &str>) {
        let request = request(sent.as_bytes(), host);
        let found = target(&request).map_err(|refusal| refusal.reason());
        assert_eq!(found, expected.map(|(host, path)| (host.into(), path.into())), "{sent} {host:?}");
    }

    #[test]
    fn the_target_has_one_form() {
        check("/a?b", Some("Example.COM:80"), Ok(("example.com", "/a")));
        check("/a", Some("example.com."), Ok(("example.com", "/a")));
        check("/a", Some("[::1]:80"), Ok(("[::1]", "/a")));
        check("/a/../b?c=/../", Some("h"), Ok(("h", "/b")));
        check("http://other.example/a?b", Some("other.example"), Ok(("other.example", "/a")));
    }

    #[test]
    fn what_has_no_host_or_no_path_is_refused() {
        check("/a", None, Err("bad_host"));
        check("/a", Some(""), Err("bad_host"));
        check("/a", Some("a b"), Err("bad_host"));
        check("/a", Some("user@host"), Err("bad_host"));
        check("/a%2fb", Some("h"), Err("bad_path"));
        check("*", Some("h"), Err("bad_path"));
    }

    #[test]
    fn a_body_has_one_length() {
        let fits = |lengths: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for length in lengths {
                headers.append(CONTENT_LENGTH, HeaderValue::from_static(length));
            }
            body_fits(&headers, 10).map_err(|refusal| refusal.reason())
        };
        assert_eq!(fits(&[]), Ok(()));
        assert_eq!(fits(&["10"]), Ok(()));
        assert_eq!(fits(&["11"]), Err("body_too_large"));
        for lengths in [&["5, 5"][..], &["5", "5"], &["+5"], &[""]] {
            assert_eq!(fits(lengths), Err("bad_body"), "{lengths:?}");
        }
    }

    #[test]
    fn http_1_0_may_have_no_host() {
        let mut old = request(b"/a", None);
        old.set_version(Version::HTTP_10);
        assert_eq!(target(&old), Ok(("".into(), "/a".into())));
    }

    #[test]
    fn only_a_trusted_proxy_names_the_request() {
        let mut headers = HeaderMap::new();
        let id = "0190163d-8694-739b-aea5-966c26f8ad91";
        headers.insert(X_REQUEST_ID, HeaderValue::from_static(id));
        assert_eq!(request_id(&headers, true), (id.parse().unwrap(), None));
        let (ours, sent) = request_id(&headers, false);
        assert_eq!((ours.get_version_num(), sent.as_deref()), (7, Some(id)));
        headers.insert(X_REQUEST_ID, HeaderValue::from_static("0190163d8694739baea5966c26f8ad91"));
        assert_eq!(request_id(&headers, true).0, id.parse::<Uuid>().unwrap());
        headers.insert(X_REQUEST_ID, HeaderValue::from_static("abc"));
        assert_eq!(request_id(&headers, true).1.as_deref(), Some("abc"));
    }

    #[test]
    fn texts_are_cut_between_characters_with_a_mark() {
        assert_eq!(cut("aéé", 5), "a\u{2026}");
        assert_eq!(cut("aéé", 6), "aé\u{2026}");
        assert_eq!(&*text_of(b"abcdef", 6), "abcdef");
        assert_eq!(&*text_of(b"abcdefg", 6), "abc\u{2026}");
        // What is no text becomes longer than it was.
        assert_eq!(&*text_of(b"ab\xff\xff\xff\xff", 6), "ab\u{2026}");
    }
}
