//! The cache in the exchange: what Pingora's cache phases ask the route's rule, with the facts of this request.
//! Which answers may be stored, and for whom, is decided in `policy/cache.rs`.

use std::borrow::Cow;
use std::time::SystemTime;

use http::header::{AUTHORIZATION, HeaderName};
use pingora_cache::{CacheKey, ForcedFreshness, NoCacheReason, RespCacheable};
use pingora_core::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::admit::authority;
use super::exchange::{Admitted, Exchange};
use crate::cache;
use crate::policy::cache::{CacheRule, invalidates};
use crate::policy::headers::X_FORWARDED_FOR;
use crate::record::CacheResult;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

impl Admitted {
    /// The query as an instance sees it: a key that was in it must neither tell answers apart nor be kept with them.
    fn asked_query<'a>(&'a self, request: &'a RequestHeader) -> Option<Cow<'a, str>> {
        let Some(query) = &self.query else { return request.uri.query().map(Cow::Borrowed) };
        let text = || match std::str::from_utf8(query) {
            Ok(text) => Cow::Borrowed(text),
            Err(_) => Cow::Owned(query.escape_ascii().to_string()),
        };
        (!query.is_empty()).then(text)
    }
}

impl Exchange {
    /// The rule of an admitted request, where its route has one.
    fn cache_rule(&self) -> Option<&CacheRule> {
        self.admitted.as_ref()?.route.cache.as_ref()
    }

    /// Looks for a stored answer, where the route has a cache.
    pub(super) fn look_in_cache(&mut self, session: &mut Session) {
        let Some(admitted) = &self.admitted else { return };
        let Some(rule) = &admitted.route.cache else { return };
        let authorization_reaches_instance =
            session.req_header().headers.contains_key(AUTHORIZATION) && admitted.key_header != Some(AUTHORIZATION);
        rule.enable(&mut self.cache_turn, session, authorization_reaches_instance);
    }

    /// The key of this request's answer; none without a rule.
    pub(super) fn cache_key(&self, session: &Session) -> Option<CacheKey> {
        let admitted = self.admitted.as_ref()?;
        let rule = admitted.route.cache.as_ref()?;
        let request = session.req_header();
        let scheme = self.asked_scheme(request)?;
        let host = authority(request).unwrap_or_default().to_ascii_lowercase();
        let consumer = self.key.as_ref().map(|key| &*key.consumer);
        Some(rule.key(&scheme, &host, &admitted.path, admitted.asked_query(request).as_deref(), consumer))
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

    pub(super) fn cache_hit(&mut self, is_fresh: bool) -> Option<ForcedFreshness> {
        self.cache_turn.hit(is_fresh)
    }

    pub(super) fn cache_miss(&self, session: &mut Session) {
        self.cache_turn.miss(session);
    }

    /// Whether the answer is stored.
    pub(super) fn decide_storing(&mut self, request: &RequestHeader, response: &ResponseHeader) -> RespCacheable {
        let Some(rule) = self.admitted.as_ref().and_then(|admitted| admitted.route.cache.as_ref()) else {
            return RespCacheable::Uncacheable(NoCacheReason::NeverEnabled);
        };
        rule.decide(&mut self.cache_turn, request, response, SystemTime::now())
    }

    /// What an instance's answer means for what is stored: a 304 refreshes it, a change makes it invalid.
    pub(super) fn cache_sees_answer(&mut self, session: &Session, response: &ResponseHeader) {
        self.cache_turn.keep_not_modified(session, response);
        let request = session.req_header();
        if invalidates(&request.method, response.status)
            && let Some(admitted) = &self.admitted
        {
            let host = authority(request).unwrap_or_default().to_ascii_lowercase();
            let query = admitted.asked_query(request).map_or(String::new(), |query| format!("?{query}"));
            cache::store().invalidate(&host, &format!("{}{query}", admitted.path));
        }
    }

    /// Tells the client what the cache did, on every answer of a route that has one.
    ///
    /// # Errors
    /// Pingora's, when the header can't be set.
    pub(super) fn say_cache_status(&self, session: &Session, response: &mut ResponseHeader) -> Result<()> {
        if self.cache_rule().is_some() {
            response.append_header(CACHE_STATUS, self.cache_turn.status(&session.cache, SystemTime::now()))?;
        }
        Ok(())
    }

    /// Keeps for the record what the cache did.
    pub(super) fn note_cache_result(&mut self, session: &Session) {
        if self.cache_rule().is_some() {
            self.cache = self.cache_turn.result(session.cache.phase());
        }
    }

    pub(super) fn is_cache_hit(&self) -> bool {
        self.cache == Some(CacheResult::Hit)
    }
}
