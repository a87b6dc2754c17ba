//! What an instance is told, and what of its answer the client is told: headers and path, both ways.
//! Not here: whether a request is forwarded at all (`admit`), and to whom (`upstream`).

use http::header::{COOKIE, HOST, HeaderValue, ORIGIN};
use pingora_core::{OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use smallvec::SmallVec;
use uuid::Uuid;

use super::admit::authority;
use super::connection::Connection;
use super::exchange::{Admitted, Exchange};
use super::query::raw_query;
use crate::policy::headers::{X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, remove_claims, written};

/// Names and values that tell about limits.
pub(super) type LimitFields = SmallVec<[(&'static str, HeaderValue); 2]>;

/// Makes the client's request the one that is forwarded.
///
/// # Errors
/// Pingora's, when a path or header can't be set.
pub(super) fn prepare_request(request: &mut RequestHeader, exchange: &Exchange, admitted: &Admitted) -> Result<()> {
    let route = &admitted.route;
    set_target(request, admitted)?;
    if let Some(used) = &admitted.key_header {
        request.remove_header(used);
    }
    join_cookies(request)?;
    let host = authority_value(request);
    remove_claims(request, exchange.facts.from_trusted_proxy, &exchange.runtime.config.key_in);
    set_forwarded(request, exchange, host.as_ref())?;
    let pool = route.service.pool();
    match (&pool.host, host) {
        (Some(host), _) => request.insert_header(HOST, host)?,
        // HTTP/2 and absolute targets name the host outside of the header.
        (None, Some(host)) if request.uri.authority().is_some() && !request.headers.contains_key(HOST) => {
            request.insert_header(HOST, host)?;
        }
        (None, _) => {}
    }
    if route.names_consumer
        && let Some(key) = &exchange.key
    {
        request.insert_header(written::X_CONSUMER, &*key.consumer)?;
    }
    if let Some(cache) = &route.cache {
        cache.declare(request)?;
    }
    let mut id = Uuid::encode_buffer();
    request.insert_header(written::X_REQUEST_ID, &*exchange.facts.request_id.hyphenated().encode_lower(&mut id))?;
    if let Some(compress) = &route.compress {
        compress.prepare_request(request)?;
    }
    route.request_headers.apply_to_request(request)
}

/// The path in the form that was routed, rewritten where the route says so; the query as it came, but for keys.
fn set_target(request: &mut RequestHeader, admitted: &Admitted) -> Result<()> {
    let path = admitted.route.rewrite.apply(&admitted.path, &admitted.pattern);
    let raw = request.raw_path();
    let query = raw_query(request);
    let bytes = path.len() + query.map_or(0, |query| query.len() + 1);
    if admitted.query.is_none() && raw.len() == bytes && raw.starts_with(path.as_bytes()) {
        return Ok(());
    }
    let mut target = path.as_bytes().to_vec();
    if let Some(query) =
        admitted.query.as_deref().filter(|query| !query.is_empty()).or(query.filter(|_| admitted.query.is_none()))
    {
        target.push(b'?');
        target.extend_from_slice(query);
    }
    // Bytes outside of ASCII in a query are kept as they came.
    request.set_raw_path(&target).or_err(pingora_core::ErrorType::InvalidHTTPHeader, "the rewritten path")
}

/// HTTP/2 clients send a line a cookie; HTTP/1.1 knows one line only, and many servers read the first (RFC 9113 section 8.2.3).
fn join_cookies(request: &mut RequestHeader) -> Result<()> {
    let mut lines = request.headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (lines.next(), lines.next()) else { return Ok(()) };
    let mut joined = first.as_bytes().to_vec();
    for line in std::iter::once(second).chain(lines) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(line.as_bytes());
    }
    request.insert_header(COOKIE, joined)
}

/// `X-Forwarded-For` grows by the peer; scheme and host are ours unless a trusted proxy said them.
fn set_forwarded(request: &mut RequestHeader, exchange: &Exchange, host: Option<&HeaderValue>) -> Result<()> {
    let Some(connection) = &exchange.connection else { return Ok(()) };
    // Of others nothing is left to ask for.
    let said = |name| exchange.facts.from_trusted_proxy && request.headers.contains_key(name);
    let (has_proto, has_host) = (said(X_FORWARDED_PROTO), said(X_FORWARDED_HOST));
    match said(X_FORWARDED_FOR).then(|| chain(request, connection)) {
        Some(chain) => request.insert_header(written::X_FORWARDED_FOR, chain)?,
        None => request.insert_header(written::X_FORWARDED_FOR, connection.peer_address.clone())?,
    }
    if !has_proto {
        request.insert_header(written::X_FORWARDED_PROTO, HeaderValue::from_static(connection.scheme))?;
    }
    if let Some(host) = host
        && !has_host
    {
        request.insert_header(written::X_FORWARDED_HOST, host.clone())?;
    }
    Ok(())
}

/// The host the client asked for, as it wrote it.
fn authority_value(request: &RequestHeader) -> Option<HeaderValue> {
    match request.uri.authority() {
        None => request.headers.get(HOST).filter(|host| !host.is_empty()).cloned(),
        Some(_) => HeaderValue::from_str(authority(request)?).ok(),
    }
}

/// What a trusted proxy says in `X-Forwarded-For`, and the peer.
fn chain(request: &RequestHeader, connection: &Connection) -> String {
    let mut chain = String::new();
    for value in request.headers.get_all(X_FORWARDED_FOR) {
        if let Ok(value) = value.to_str() {
            chain.push_str(value);
            chain.push_str(", ");
        }
    }
    chain + &connection.peer.ip().to_string()
}

/// What the client is told about its limits: once, so it is taken instead of copied.
pub(super) fn limit_fields(exchange: &mut Exchange) -> LimitFields {
    let Some(fields) = exchange.admitted.as_mut().and_then(|admitted| admitted.limit_fields.take()) else {
        return LimitFields::new();
    };
    let fields_now = [(written::RATELIMIT_POLICY, fields.policy), (written::RATELIMIT, fields.state)];
    fields_now.into_iter().chain(fields.legacy.into_iter().flat_map(|legacy| legacy.into_headers())).collect()
}

/// Makes an answer, of an instance or from the cache, the one this client is sent.
///
/// # Errors
/// Pingora's, when a header can't be set.
pub(super) fn prepare_response(
    request: &RequestHeader,
    response: &mut ResponseHeader,
    exchange: &mut Exchange,
) -> Result<()> {
    let mut id = Uuid::encode_buffer();
    let id = exchange.facts.request_id.hyphenated().encode_lower(&mut id);
    response.insert_header(written::X_REQUEST_ID, &*id)?;
    for (name, value) in limit_fields(exchange) {
        response.insert_header(name, value)?;
    }
    let Some(admitted) = &exchange.admitted else { return Ok(()) };
    if let Some(compress) = &admitted.route.compress {
        compress.prepare_response(response);
    }
    admitted.route.response_headers.apply_to_response(response)?;
    // At last: whatever else is on the answer, the page that asked may see it.
    match &admitted.route.cors {
        Some(cors) => cors.apply(request.headers.get(ORIGIN), response),
        None => Ok(()),
    }
}
