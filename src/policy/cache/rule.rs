//! What a route says about its cache, compiled: the key of a request, and whether an answer is stored.
//! Not here: what happens in which phase of an exchange (`turn.rs`).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{AGE, CONTENT_LENGTH, DATE, HeaderName, SET_COOKIE};
use http::{Method, StatusCode};
use pingora_cache::key::HashBinary;
use pingora_cache::{CacheKey, CacheMeta, NoCacheReason, RespCacheable};
use pingora_http::{RequestHeader, ResponseHeader};

use super::answer::{delimited, refresh, remove_hop_by_hop};
use super::query::QueryRule;
use super::request::additions;
use super::turn::CacheTurn;
use crate::cache::entry::{Choice, Chosen};
use crate::cache::freshness::{self, Asked, Freshness, Rules, Times, Unstorable};
use crate::cache::key::KeyParts;
use crate::cache::tags::Tags;
use crate::cache::vary::Selected;
use crate::cache::{Reservation, Ticket, store};
use crate::config::{CachePolicy, CachedMethod, KeyPart, RequestDirectives, SetCookie};

/// The compiled cache policy of one route.
#[derive(Clone, Debug)]
pub struct CacheRule {
    pub(super) methods: Vec<Method>,
    pub(super) obeys_wishes: bool,
    pub(super) partial: bool,
    pub(super) surrogate_control: bool,
    rules: Rules,
    pub(super) set_cookie: SetCookie,
    shared: bool,
    key: Vec<KeyPart>,
    vary: Vec<HeaderName>,
    query: QueryRule,
    tags: Vec<HeaderName>,
    tags_to_clients: bool,
    body_max: u64,
    endpoint: Arc<str>,
    fingerprint: u64,
}

impl CacheRule {
    /// Compiles a route's policy. `fingerprint` is a hash of everything of route and service that may change an answer:
    /// what was stored under another one is never found.
    pub fn compile(policy: &CachePolicy, endpoint: impl Into<Arc<str>>, fingerprint: u64) -> Self {
        let methods = policy.methods.iter().map(|method| match method {
            CachedMethod::Get => Method::GET,
            CachedMethod::Head => Method::HEAD,
        });
        let rules = Rules {
            ttl: policy.ttl.0,
            max: policy.max.map(|max| max.0),
            always: policy.always.map(|always| always.0),
            heuristic_percent: policy.heuristic.0,
            statuses: policy.statuses.iter().filter_map(|status| StatusCode::from_u16(*status).ok()).collect(),
            set_cookie: policy.set_cookie != SetCookie::Skip,
            stale_while_revalidate: policy.stale_while_revalidate.0,
            stale_if_error: policy.stale_if_error.0,
        };
        Self {
            methods: methods.collect(),
            obeys_wishes: policy.request_directives == RequestDirectives::Obey,
            partial: policy.partial,
            surrogate_control: policy.surrogate_control,
            rules,
            set_cookie: policy.set_cookie,
            shared: policy.shared,
            key: policy.key.clone(),
            vary: policy.vary.iter().filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()).collect(),
            query: QueryRule::compile(&policy.query),
            tags: policy.tags_header.iter().filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()).collect(),
            tags_to_clients: policy.tags_to_clients,
            body_max: policy.body_max.0,
            endpoint: endpoint.into(),
            fingerprint,
        }
    }

    /// The query that counts of a request with this method, and that its instance gets; none where that is the one that
    /// came. Requests that are never looked up keep theirs.
    pub fn query_that_counts(&self, method: &Method, query: &[u8]) -> Option<Vec<u8>> {
        if self.methods.contains(method) { self.query.apply(query) } else { None }
    }

    /// The key of a request. `host` is what [`crate::cache::Cache::invalidate`] is called with too: lower case, with the
    /// port where one was sent; `path` is the normalised one that the client asked for.
    pub fn key(
        &self,
        request: &RequestHeader,
        scheme: &str,
        host: &str,
        path: &str,
        query: Option<&str>,
        consumer: Option<&str>,
    ) -> CacheKey {
        let additions = additions(&self.key, request);
        KeyParts {
            fingerprint: self.fingerprint,
            endpoint: &self.endpoint,
            scheme,
            host,
            path,
            query,
            consumer: consumer.filter(|_| !self.shared),
            additions: additions.as_deref(),
        }
        .key()
    }

    /// In `response_cache_filter`: whether the answer is stored, also for the merged header of a revalidation.
    /// `request` is the client's.
    pub fn decide(
        &self,
        turn: &mut CacheTurn,
        key: Option<&CacheKey>,
        request: &RequestHeader,
        answer: &ResponseHeader,
        now: SystemTime,
    ) -> RespCacheable {
        let mut head = answer.clone();
        let not_modified = turn.not_modified.take();
        if let Some(not_modified) = &not_modified {
            refresh(&mut head, not_modified, self.set_cookie == SetCookie::Store);
        }
        let asked = Asked::of(&request.headers, turn.wishes.no_store, turn.authorization_reaches_instance);
        let judged = match turn.whole {
            true => self.judge(turn, key, asked, &head, not_modified.is_some(), now),
            false => Err(Unstorable::NotWhole),
        };
        self.remember(key, judged.as_ref().err().copied());
        match judged {
            Ok((freshness, reservation, tags)) => {
                self.hide_tags(&mut head);
                turn.upstream_age = head.headers.contains_key(AGE);
                turn.fills = not_modified.is_none();
                if self.set_cookie != SetCookie::Store {
                    let setting = not_modified.as_deref().unwrap_or(&head);
                    turn.cookies = setting.headers.get_all(SET_COOKIE).iter().cloned().collect();
                    head.remove_header(&SET_COOKIE);
                }
                RespCacheable::Cacheable(self.meta(turn, request, head, freshness, (reservation, tags), now))
            }
            Err(reason) => {
                store().refuses(reason);
                RespCacheable::Uncacheable(NoCacheReason::Custom(reason.as_str()))
            }
        }
    }

    /// Whether later requests for the same wait for one of them, and for how much of an answer.
    fn remember(&self, key: Option<&CacheKey>, refused: Option<Unstorable>) {
        let Some(key) = key else { return };
        match refused {
            None => store().uncollapsible.forget(key),
            Some(reason) if reason.is_of_this_request() => {}
            Some(_) => store().uncollapsible.remember(key),
        }
    }

    /// Whether an answer of which `Content-Length` bytes come may be stored: its freshness, room for it, and its tags.
    pub(super) fn judge(
        &self,
        turn: &CacheTurn,
        key: Option<&CacheKey>,
        asked: Asked,
        head: &ResponseHeader,
        confirms: bool,
        now: SystemTime,
    ) -> Result<(Freshness, Reservation, Option<Tags>), Unstorable> {
        let times = Times { asked: turn.asked_at.unwrap_or(now), answered: now };
        let freshness = freshness::decide(head.status, &head.headers, asked, &self.rules, times)?;
        let length = head.headers.get(CONTENT_LENGTH);
        let bytes = match length.map(|length| length.to_str().ok().and_then(|text| text.parse::<u64>().ok())) {
            Some(Some(length)) if length <= self.body_max.min(store().body_bytes_max()) => length,
            Some(_) => return Err(Unstorable::TooLarge),
            // The last one grew too large.
            None if key.is_some_and(|key| store().oversized.knows(key)) => return Err(Unstorable::TooLarge),
            None if delimited(head) || confirms => 0,
            None => return Err(Unstorable::CloseDelimited),
        };
        let reservation = Reservation::of(store(), if confirms { 0 } else { bytes });
        let tags = Tags::read(&head.headers, &self.tags).map_err(|_| Unstorable::Tags)?;
        Ok((freshness, reservation.ok_or(Unstorable::NoRoom)?, tags))
    }

    pub(super) fn meta(
        &self,
        turn: &CacheTurn,
        request: &RequestHeader,
        mut head: ResponseHeader,
        freshness: Freshness,
        (reservation, tags): (Reservation, Option<Tags>),
        now: SystemTime,
    ) -> CacheMeta {
        remove_hop_by_hop(&mut head);
        // Pingora states the age of what it serves.
        head.remove_header(&AGE);
        date(&mut head, now);
        let windows = [freshness.stale_while_revalidate, freshness.stale_if_error];
        let [revalidating, on_error] = windows.map(|window| u32::try_from(window.as_secs()).unwrap_or(u32::MAX));
        let fresh_until = if !freshness.remaining.is_zero() {
            now.checked_add(freshness.remaining).unwrap_or(now)
        } else if windows.iter().all(Duration::is_zero) {
            ALWAYS_CONFIRMED
        } else {
            now.checked_sub(Duration::from_secs(1)).unwrap_or(now)
        };
        let selected = Selected::of(&head.headers, &self.vary, &request.headers);
        let mut meta = CacheMeta::new(fresh_until, now, revalidating, on_error, head);
        meta.set_epoch_override(now.checked_sub(freshness.age).unwrap_or(SystemTime::UNIX_EPOCH));
        let extensions = meta.extensions_mut();
        extensions.insert(Ticket {
            stamp: turn.stamp,
            body_max: self.body_max,
            endpoint: Arc::clone(&self.endpoint),
            tags,
            reservation: Arc::new(reservation),
        });
        if let Some(selected) = selected {
            extensions.insert(Chosen(Arc::new(selected)));
        }
        meta
    }

    /// Takes the instance's tags out of what a client gets, unless the route passes them on.
    pub fn hide_tags(&self, head: &mut ResponseHeader) {
        if !self.tags_to_clients {
            for name in &self.tags {
                head.remove_header(name);
            }
        }
    }

    /// Whether [`Self::hide_tags`] takes this field out.
    pub(super) fn hides_tag(&self, name: &HeaderName) -> bool {
        !self.tags_to_clients && self.tags.contains(name)
    }

    /// Whether what instances say about freshness does not count.
    pub fn overrides(&self) -> bool {
        self.rules.always.is_some()
    }

    /// In `cache_vary_filter`: which variant of the stored answer the request asks for, and by which one a new one is known.
    pub fn variance(meta: &CacheMeta, request: &RequestHeader) -> Option<HashBinary> {
        let Chosen(selected) = meta.extensions().get::<Chosen>()?;
        match meta.extensions().get::<Choice>() {
            Some(Choice(family)) => family.variance_asked(selected, &request.headers),
            None => selected.asked(&request.headers, std::iter::once((&**selected, meta.headers()))),
        }
    }
}

/// Never fresh: every use is confirmed by the instance.
pub(super) const ALWAYS_CONFIRMED: SystemTime = SystemTime::UNIX_EPOCH;

/// When it was made, in the one form of today; when it came, where its maker has no clock, or does not say it so that it can be read
/// (RFC 9110 sections 5.6.7 and 6.6.1).
fn date(head: &mut ResponseHeader, now: SystemTime) {
    let said = head.headers.get(DATE).and_then(|said| said.to_str().ok());
    let at = said.and_then(|said| httpdate::parse_http_date(said).ok()).unwrap_or(now);
    let date = httpdate::fmt_http_date(at);
    if said != Some(date.as_str()) || head.headers.get_all(DATE).iter().nth(1).is_some() {
        // A date is a header value always.
        let _ = head.insert_header(DATE, date);
    }
}
