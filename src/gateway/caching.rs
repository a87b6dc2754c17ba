//! The cache in the exchange: what Pingora's cache phases ask the route's rule, with the facts of this request.
//! Which answers may be stored, and for whom, is decided in `policy/cache`; the refresh in the background is `refreshing.rs`.

use std::borrow::Cow;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LOCATION, HeaderName, LOCATION};
use http::{Method, StatusCode};
use pingora_cache::{CacheKey, CacheMeta, ForcedFreshness, NoCacheReason, RespCacheable};
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::admit::authority;
use super::dated::Dated;
use super::exchange::{Admitted, Exchange};
use crate::cache;
use crate::cache::Part;
use crate::cache::crowd::Refresh;
use crate::policy::cache::{CacheRule, invalidates};
use crate::policy::headers::X_FORWARDED_FOR;
use crate::policy::path;
use crate::record::CacheResult;
use crate::refusal::Refusal;
use crate::runtime::Runtime;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

impl Admitted {
    /// The query as an instance sees it: a key that was in it must neither tell answers apart nor be kept with them.
    fn asked_query<'a>(&'a self, request: &'a RequestHeader) -> Option<Cow<'a, str>> {
        let Some(query) = &self.query else { return request.uri.query().map(Cow::Borrowed) };
        (!query.is_empty()).then(|| text(query))
    }
}

fn lower_case(host: &str) -> Cow<'_, str> {
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

/// Bytes that are no text, told apart all the same.
fn text(query: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(query) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(query.escape_ascii().to_string()),
    }
}

impl Exchange {
    /// The rule of an admitted request, where its route has one.
    fn cache_rule(&self) -> Option<&CacheRule> {
        self.admitted.as_ref()?.route.cache.as_ref()
    }

    /// Looks for a stored answer, where the route has a cache.
    pub(super) fn look_in_cache(&mut self, session: &mut Session) {
        if let Some(rule) = self.cache_rule() {
            rule.forget_capability(session.req_header_mut());
        }
        let Some(mut key) = self.make_cache_key(session.req_header()) else { return };
        let Some(admitted) = &self.admitted else { return };
        let Some(rule) = &admitted.route.cache else { return };
        let authorization_reaches_instance =
            session.req_header().headers.contains_key(AUTHORIZATION) && admitted.key_header != Some(AUTHORIZATION);
        self.cache_turn.enable(rule, session, &mut key, authorization_reaches_instance);
        self.cache_key = Some(key);
    }

    /// The key of this request's answer; none without a rule.
    pub(super) fn cache_key(&mut self) -> Option<CacheKey> {
        self.cache_key.take()
    }

    pub(super) fn make_cache_key(&self, request: &RequestHeader) -> Option<CacheKey> {
        let admitted = self.admitted.as_ref()?;
        let rule = admitted.route.cache.as_ref()?;
        let scheme = self.asked_scheme(request)?;
        let host = lower_case(authority(request).unwrap_or_default());
        let consumer = self.key.as_ref().map(|key| &*key.consumer);
        Some(rule.key(request, &scheme, &host, &admitted.path, admitted.asked_query(request).as_deref(), consumer))
    }

    /// The scheme as the instance is told it, with all else that a trusted proxy says of the client's request: an answer
    /// may depend on it, so it is part of the key.
    fn asked_scheme(&self, request: &RequestHeader) -> Option<Cow<'static, str>> {
        let mut scheme = Cow::Borrowed(self.connection.as_ref()?.scheme);
        if self.facts.from_trusted_proxy {
            let said = |name: &HeaderName| name.as_str().starts_with("x-forwarded-") && *name != X_FORWARDED_FOR;
            for (name, value) in request.headers.iter().filter(|(name, _)| said(name)) {
                let value = value.as_bytes().escape_ascii();
                scheme.to_mut().push_str(&format!("\n{name}: {value}"));
            }
        }
        Some(scheme)
    }

    /// What was found: used or not, and whether another one is fetched in the background.
    pub(super) fn cache_hit(
        &mut self,
        session: &mut Session,
        meta: &CacheMeta,
        is_fresh: bool,
    ) -> (Option<ForcedFreshness>, Option<Refresh>) {
        let Some(rule) = self.admitted.as_ref().and_then(|admitted| admitted.route.cache.as_ref()) else {
            return (None, None);
        };
        self.cache_turn.hit(rule, session, meta, is_fresh)
    }

    pub(super) fn cache_miss(&mut self, session: &mut Session) {
        self.cache_turn.miss(session);
    }

    /// What is refused because the client only wants what is stored.
    pub(super) fn only_if_cached(&self) -> Option<Refusal> {
        self.cache_rule().is_some_and(|rule| self.cache_turn.may_not_ask(rule)).then_some(Refusal::NotCached)
    }

    /// Whether the answer is stored.
    pub(super) fn decide_storing(&mut self, session: &Session, response: &ResponseHeader) -> RespCacheable {
        let Some(rule) = self.admitted.as_ref().and_then(|admitted| admitted.route.cache.as_ref()) else {
            return RespCacheable::Uncacheable(NoCacheReason::NeverEnabled);
        };
        let key = session.cache.maybe_cache_key();
        rule.decide(&mut self.cache_turn, key, session.req_header(), response, SystemTime::now())
    }

    /// Whether what is stale may be served instead of an error; Pingora has looked whether its time is over.
    pub(super) fn serves_stale(&mut self, session: &mut Session, error: &Error) -> bool {
        let status = match error.etype() {
            ErrorType::HTTPStatus(status) if self.refusal.is_none() => StatusCode::from_u16(*status).ok(),
            _ => None,
        };
        // What the gateway itself gave up for want of an instance is no fault of the client either.
        let is_of_upstream = *error.esource() == ErrorSource::Upstream
            || matches!(
                self.refusal,
                Some(Refusal::NoInstance | Refusal::BreakerOpen { .. } | Refusal::UpstreamTimeout)
            );
        if !is_of_upstream || !self.cache_turn.serves_stale(status) {
            return false;
        }
        if let (Some(status), None) = (status, self.upstream_time) {
            // Breakers and ejection hear of it here: the phase that tells them does not come.
            self.upstream_answered(status);
        }
        if status.is_none() {
            // Pingora ends the client's connection after a failed try. The client is told, or its next request would be lost.
            session.set_keepalive(None);
        }
        self.refusal = None;
        true
    }

    /// What an instance's answer means for what is stored: a 304 refreshes it, a change makes it invalid.
    pub(super) fn cache_sees_answer(&mut self, session: &Session, response: &mut ResponseHeader) {
        if let Some(rule) = self.cache_rule() {
            rule.read_surrogate_control(response);
        }
        self.cache_turn.keep_not_modified(session, response);
        self.part = self.begin_part(session, response);
        let request = session.req_header();
        if !invalidates(&request.method, response.status) {
            return;
        }
        let Some(admitted) = &self.admitted else { return };
        let host = authority(request).unwrap_or_default().to_ascii_lowercase();
        let url = Url { runtime: &self.runtime, host_name: &self.facts.host, host: &host };
        url.forget(&admitted.path, admitted.asked_query(request).as_deref());
        // What it says it changed elsewhere, where that is of the same origin (RFC 9111 section 4.4).
        for name in [LOCATION, CONTENT_LOCATION] {
            let Some(said) = response.headers.get(name).and_then(|value| value.to_str().ok()) else { continue };
            let scheme = self.connection.as_ref().map_or("http", |connection| connection.scheme);
            if let Some((path, query)) = of_same_origin(said, scheme, &host, &admitted.path) {
                url.forget(&path, query.as_deref());
            }
        }
    }

    /// A part that is stored, where the answer is one.
    fn begin_part(&mut self, session: &Session, response: &ResponseHeader) -> Option<Box<Part>> {
        let rule = self.admitted.as_ref()?.route.cache.as_ref()?;
        let part = rule.part(&mut self.cache_turn, session.req_header(), response, SystemTime::now())?;
        Some(Box::new(part))
    }

    /// What came of the body, which may be of a part that is stored.
    pub(super) fn keep_part(&mut self, body: Option<&Bytes>, is_end: bool) {
        let Some(part) = &mut self.part else { return };
        if !body.is_none_or(|body| part.add(body)) {
            self.part = None;
        } else if is_end && let Some(part) = self.part.take() {
            part.store();
        }
    }

    /// Tells the client what the cache did, on every answer of a route that has one.
    ///
    /// # Errors
    /// Pingora's, when the header can't be set.
    pub(super) fn say_cache_status(&mut self, session: &Session, response: &mut ResponseHeader) -> Result<()> {
        if let Some(rule) = self.cache_rule() {
            rule.hide_tags(response);
            rule.hide_surrogate_control(response);
            self.cache_turn.restore(session, response);
            Dated::keep(session, response);
            response.append_header(CACHE_STATUS, self.cache_turn.status(&session.cache, SystemTime::now()))?;
        }
        Ok(())
    }

    /// Keeps for the record what the cache did.
    pub(super) fn note_cache_result(&mut self, session: &Session) {
        if self.cache_rule().is_some() {
            self.cache = self.cache_turn.result(session.cache.phase());
            if matches!(self.cache, Some(CacheResult::Hit | CacheResult::Stale))
                && let Some(meta) = session.cache.maybe_cache_meta()
            {
                cache::store().serves(meta.age());
            }
        }
    }

    /// Whether the client got something that was fetched for another request.
    pub(super) fn is_cache_hit(&self) -> bool {
        matches!(self.cache, Some(CacheResult::Hit | CacheResult::Stale | CacheResult::Collapsed))
    }
}

/// Sends an interim answer (RFC 9110 section 15.2) where the final one is going to be stored: with it at hand Pingora serves
/// from the store, and would drop what came before it. What Pingora sends later of the interim answer is ignored.
///
/// # Errors
/// Pingora's, when the client can't be written to.
pub(super) async fn pass_at_once(session: &mut Session, response: &ResponseHeader) -> Result<()> {
    if session.cache.enabled() {
        session.as_downstream_mut().set_ignore_info_resp(false);
        session.as_downstream_mut().write_response_header_ref(response).await?;
        session.as_downstream_mut().set_ignore_info_resp(true);
    }
    Ok(())
}

/// The origin of what is forgotten.
struct Url<'a> {
    runtime: &'a Runtime,
    /// As routes know it.
    host_name: &'a str,
    /// As keys know it: with the port where one was sent.
    host: &'a str,
}

impl Url<'_> {
    /// Forgets what is stored of a path, by the query that counts on the route that would answer it.
    fn forget(&self, path: &str, query: Option<&str>) {
        let found = self.runtime.routes.find(self.host_name, path, &Method::GET).ok();
        let rule = found.and_then(|found| found.route.cache.as_ref());
        let counts = rule.zip(query).and_then(|(rule, query)| rule.query_that_counts(&Method::GET, query.as_bytes()));
        let query = match &counts {
            Some(counts) if counts.is_empty() => String::new(),
            Some(counts) => format!("?{}", text(counts)),
            None => query.map_or(String::new(), |query| format!("?{query}")),
        };
        cache::store().invalidate(self.host, &format!("{path}{query}"));
    }
}

/// Path and query of a reference (RFC 3986 section 4), where it is of this origin: the path in its normal form.
fn of_same_origin(said: &str, scheme: &str, host: &str, base: &str) -> Option<(String, Option<String>)> {
    let said = said.split('#').next()?;
    let rest = if let Some((of, rest)) = said.split_once("://") {
        if !of.eq_ignore_ascii_case(scheme) {
            return None;
        }
        Some(rest)
    } else {
        said.strip_prefix("//")
    };
    let (path, query) = match rest {
        Some(rest) => {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            if !rest[..end].eq_ignore_ascii_case(host) {
                return None;
            }
            let (path, query) = split_query(&rest[end..]);
            (if path.is_empty() { "/".to_owned() } else { path.to_owned() }, query)
        }
        None => match split_query(said) {
            ("", query) => (base.to_owned(), query),
            (path, query) if path.starts_with('/') => (path.to_owned(), query),
            (path, query) => (format!("{}/{path}", base.rsplit_once('/').map_or("", |(folder, _)| folder)), query),
        },
    };
    Some((path::normalise(path.as_bytes()).ok()?.into_owned(), query.map(str::to_owned)))
}

fn split_query(text: &str) -> (&str, Option<&str>) {
    text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_of_the_same_origin() {
        let find = |said| of_same_origin(said, "http", "a.example:8080", "/b/c");
        let is = |said, path: &str, query: Option<&str>| {
            assert_eq!(find(said), Some((path.to_owned(), query.map(str::to_owned))), "{said}");
        };
        is("/x?y=1#z", "/x", Some("y=1"));
        is("", "/b/c", None);
        is("?q", "/b/c", Some("q"));
        is("d", "/b/d", None);
        is("../d/./e", "/d/e", None);
        is("http://A.example:8080/x", "/x", None);
        is("HTTP://a.example:8080?q", "/", Some("q"));
        is("//a.example:8080/x", "/x", None);
        for other in
            ["https://a.example:8080/x", "http://a.example/x", "http://b.example:8080/x", "//b/x", "mailto://x"]
        {
            assert_eq!(find(other), None, "{other}");
        }
    }
}
