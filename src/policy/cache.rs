//! Cache: which requests of a route may be answered from the store, which answers go into it, and what the client is told.
//! The rules of storing and freshness are `cache::freshness`; here they meet Pingora's phases, in the order of a request:
//! `enable`, `key`, `hit`, `miss`, `keep_not_modified`, `decide`, `variance`, `status`, `result`.
//! As a CDN does, the store ignores a request's wish for fresher answers (`no-cache`, `max-age`, `only-if-cached`);
//! `no-store` is obeyed. Stale answers are never served: `should_serve_stale` has to be false.
//! Not here: the store, and the removal of hop-by-hop headers from what the client gets.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{
    AGE, CONNECTION, CONTENT_LENGTH, DATE, IF_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderName, HeaderValue, Method, StatusCode, Version};
use pingora_cache::key::HashBinary;
use pingora_cache::{CacheKey, CacheMeta, CachePhase, ForcedFreshness, HttpCache, NoCacheReason, RespCacheable};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use crate::cache::freshness::{self, Asked, Freshness, Rules, Times, Unstorable};
use crate::cache::key::KeyParts;
use crate::cache::{Ticket, store, vary};
use crate::config::CachePolicy;
use crate::record::CacheResult;

/// Header fields of one connection, which are never stored; those that `Connection` names come on top.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// What a 304 may not change in the stored answer (RFC 9111 section 3.2); `Vary` chose the variant and stays.
const KEPT_BY_304: [&str; 6] =
    ["content-length", "content-encoding", "content-type", "content-range", "vary", "set-cookie"];

/// The compiled cache policy of one route.
#[derive(Clone, Debug)]
pub struct CacheRule {
    rules: Rules,
    shared: bool,
    body_max: u64,
    endpoint: Arc<str>,
    fingerprint: u64,
}

/// What the cache did in one exchange so far; the exchange keeps it from phase to phase.
#[derive(Debug, Default)]
pub struct CacheTurn {
    consulted: Consulted,
    asked: Asked,
    asked_at: Option<SystemTime>,
    stamp: u64,
    /// The answer to the request as it is sent to an instance is one that can be stored whole.
    whole: bool,
    stale: bool,
    not_modified: Option<Box<ResponseHeader>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Consulted {
    #[default]
    NotYet,
    No(Bypass),
    Yes,
}

/// Why a request is not looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bypass {
    /// Neither GET nor HEAD.
    Method,
    /// The request has a body.
    Body,
    /// The connection may turn into something else.
    Upgrade,
    /// `If-Match`, `If-Unmodified-Since` and `If-Range` are for the instance to judge.
    Condition,
    /// Several ranges at once multiply the bytes of an answer.
    Ranges,
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
        }
    }
}

impl CacheRule {
    /// Compiles a route's policy. `fingerprint` is a hash of everything of route and service that may change an answer:
    /// what was stored under another one is never found.
    pub fn compile(policy: &CachePolicy, endpoint: Arc<str>, fingerprint: u64) -> Self {
        Self {
            rules: Rules { ttl: policy.ttl.0, max: policy.max.map(|max| max.0) },
            shared: policy.shared,
            body_max: policy.body_max.0,
            endpoint,
            fingerprint,
        }
    }

    /// In `request_cache_filter`: turns Pingora's cache phases on where the request may be answered from the store.
    pub fn enable(&self, turn: &mut CacheTurn, session: &mut Session, authorization_reaches_instance: bool) {
        let has_body = !session.is_body_empty();
        let request = session.req_header();
        turn.consulted = match bypass(request, has_body) {
            Some(reason) => Consulted::No(reason),
            None => {
                turn.asked = Asked::of(&request.headers, authorization_reaches_instance);
                turn.asked_at = Some(SystemTime::now());
                turn.stamp = store().stamp();
                turn.whole = request.method == Method::GET && !request.headers.contains_key(RANGE);
                session.cache.enable(store(), None, None, None, None);
                Consulted::Yes
            }
        };
    }

    /// In `cache_key_callback`. `host` is what [`crate::cache::Cache::invalidate`] is called with too: lower case, with the
    /// port where one was sent; `path` is the normalised one that the client asked for.
    pub fn key(&self, scheme: &str, host: &str, path: &str, query: Option<&str>, consumer: Option<&str>) -> CacheKey {
        let consumer = consumer.filter(|_| !self.shared);
        KeyParts { fingerprint: self.fingerprint, endpoint: &self.endpoint, scheme, host, path, query, consumer }.key()
    }

    /// In `response_cache_filter`: whether the answer is stored, also for the merged header of a revalidation.
    pub fn decide(&self, turn: &mut CacheTurn, answer: &ResponseHeader, now: SystemTime) -> RespCacheable {
        let mut head = answer.clone();
        if let Some(not_modified) = turn.not_modified.take() {
            refresh(&mut head, &not_modified);
        }
        match self.judge(turn, &head, now) {
            Ok(freshness) => RespCacheable::Cacheable(self.meta(turn, head, freshness, now)),
            Err(reason) => RespCacheable::Uncacheable(NoCacheReason::Custom(reason.as_str())),
        }
    }

    fn judge(&self, turn: &CacheTurn, head: &ResponseHeader, now: SystemTime) -> Result<Freshness, Unstorable> {
        if !turn.whole {
            return Err(Unstorable::NotWhole);
        }
        let times = Times { asked: turn.asked_at.unwrap_or(now), answered: now };
        let freshness = freshness::decide(head.status, &head.headers, turn.asked, self.rules, times)?;
        let length = head.headers.get(CONTENT_LENGTH);
        match length.map(|length| length.to_str().ok().and_then(|text| text.parse::<u64>().ok())) {
            Some(Some(length)) if length <= self.body_max.min(store().weight_max()) => Ok(freshness),
            Some(_) => Err(Unstorable::TooLarge),
            None if delimited(head) => Ok(freshness),
            None => Err(Unstorable::CloseDelimited),
        }
    }

    fn meta(&self, turn: &CacheTurn, mut head: ResponseHeader, freshness: Freshness, now: SystemTime) -> CacheMeta {
        remove_hop_by_hop(&mut head);
        // Pingora states the age of what it serves.
        head.remove_header(&AGE);
        let fresh_until = if freshness.remaining.is_zero() {
            now.checked_sub(Duration::from_secs(1))
        } else {
            now.checked_add(freshness.remaining)
        };
        let mut meta = CacheMeta::new(fresh_until.unwrap_or(now), now, 0, 0, head);
        meta.set_epoch_override(now.checked_sub(freshness.age).unwrap_or(SystemTime::UNIX_EPOCH));
        let ticket = Ticket { stamp: turn.stamp, body_max: self.body_max, endpoint: Arc::clone(&self.endpoint) };
        meta.extensions_mut().insert(ticket);
        meta
    }

    /// In `cache_vary_filter`: which variant of the stored answer the request asks for.
    pub fn variance(meta: &CacheMeta, request: &RequestHeader) -> Option<HashBinary> {
        vary::variance(meta.headers(), &request.headers)
    }
}

impl CacheTurn {
    /// In `cache_hit_filter`.
    pub fn hit(&mut self, is_fresh: bool) -> Option<ForcedFreshness> {
        self.stale = !is_fresh;
        // A stale answer is confirmed by a whole GET; HEAD and ranges go to the instance as they are.
        (self.stale && !self.whole).then_some(ForcedFreshness::ForceMiss)
    }

    /// In `cache_miss`: HEAD and ranges go to the instance as they are, or it would be asked for the whole answer.
    pub fn miss(&self, session: &mut Session) {
        if self.whole {
            session.cache.cache_miss();
        } else {
            session.cache.disable(NoCacheReason::Custom(Unstorable::NotWhole.as_str()));
        }
    }

    /// In `upstream_response_filter`: Pingora merges five headers of a 304 only, so `decide` merges the rest.
    pub fn keep_not_modified(&mut self, session: &Session, answer: &ResponseHeader) {
        if answer.status == StatusCode::NOT_MODIFIED && session.cache.maybe_cache_meta().is_some() {
            self.not_modified = Some(Box::new(answer.clone()));
        }
    }

    /// In `response_filter`: the value of `Cache-Status` (RFC 9211), to be appended to what the upstream's caches said.
    pub fn status(&self, cache: &HttpCache, now: SystemTime) -> HeaderValue {
        let text = match cache.phase() {
            CachePhase::Hit => {
                let fresh_until = cache.cache_meta().fresh_until();
                let ttl = fresh_until.duration_since(now).unwrap_or_default().as_secs();
                return HeaderValue::try_from(format!("tollgate; hit; ttl={ttl}")).unwrap_or(HIT);
            }
            CachePhase::Revalidated => "fwd=stale; fwd-status=304".to_owned(),
            CachePhase::RevalidatedNoCache(reason) => format!("fwd=stale; fwd-status=304; detail={}", reason.as_str()),
            CachePhase::Miss | CachePhase::Expired if cache.maybe_cache_meta().is_some() => {
                format!("fwd={}; stored", self.forwarded(cache))
            }
            CachePhase::Disabled(reason) if self.consulted == Consulted::Yes => {
                format!("fwd={}; detail={}", self.forwarded(cache), reason.as_str())
            }
            _ => match self.consulted {
                Consulted::No(Bypass::Method) => "fwd=method".to_owned(),
                Consulted::No(reason) => format!("fwd=bypass; detail={}", reason.as_str()),
                Consulted::NotYet => "fwd=bypass".to_owned(),
                Consulted::Yes => format!("fwd={}", self.forwarded(cache)),
            },
        };
        HeaderValue::try_from(format!("tollgate; {text}")).unwrap_or(FORWARDED)
    }

    fn forwarded(&self, cache: &HttpCache) -> &'static str {
        let has_variants = || cache.maybe_cache_key().is_some_and(|key| key.get_variance_key().is_some());
        if self.stale {
            "stale"
        } else if has_variants() {
            "vary-miss"
        } else {
            "uri-miss"
        }
    }

    /// For the record; `None` where the request never came as far as the cache.
    pub fn result(&self, phase: CachePhase) -> Option<CacheResult> {
        match (self.consulted, phase) {
            (Consulted::NotYet, _) => None,
            (Consulted::No(_), _) => Some(CacheResult::Bypass),
            (Consulted::Yes, CachePhase::Hit) => Some(CacheResult::Hit),
            (Consulted::Yes, CachePhase::Revalidated | CachePhase::RevalidatedNoCache(_)) => {
                Some(CacheResult::Revalidated)
            }
            (Consulted::Yes, _) if self.stale => Some(CacheResult::Stale),
            (Consulted::Yes, _) => Some(CacheResult::Miss),
        }
    }
}

const HIT: HeaderValue = HeaderValue::from_static("tollgate; hit");
const FORWARDED: HeaderValue = HeaderValue::from_static("tollgate; fwd=miss");

/// Whether an answer with this status to this method makes what is stored of the URL invalid (RFC 9111 section 4.4);
/// then [`crate::cache::Cache::invalidate`] is called, whichever route answered.
pub fn invalidates(method: &Method, status: StatusCode) -> bool {
    !method.is_safe() && (status.is_success() || status.is_redirection())
}

fn bypass(request: &RequestHeader, has_body: bool) -> Option<Bypass> {
    let headers = &request.headers;
    if !matches!(request.method, Method::GET | Method::HEAD) {
        Some(Bypass::Method)
    } else if has_body {
        Some(Bypass::Body)
    } else if headers.contains_key(UPGRADE) {
        Some(Bypass::Upgrade)
    } else if [IF_MATCH, IF_UNMODIFIED_SINCE, IF_RANGE].iter().any(|name| headers.contains_key(name)) {
        Some(Bypass::Condition)
    } else if headers.get_all(RANGE).iter().any(|range| range.as_bytes().contains(&b',')) {
        Some(Bypass::Ranges)
    } else {
        None
    }
}

/// Whether the end of an answer without Content-Length can be told from a cut connection.
fn delimited(head: &ResponseHeader) -> bool {
    head.version == Version::HTTP_2
        || head.status == StatusCode::NO_CONTENT
        || head.headers.contains_key(TRANSFER_ENCODING)
}

/// RFC 9111 section 3.2: what a 304 says replaces what is stored.
fn refresh(head: &mut ResponseHeader, not_modified: &ResponseHeader) {
    // Without a date of its own the confirmation was made now, not when the stored answer was.
    head.remove_header(&DATE);
    for name in not_modified.headers.keys() {
        if KEPT_BY_304.contains(&name.as_str()) || HOP_BY_HOP.contains(&name.as_str()) {
            continue;
        }
        head.remove_header(name);
        for value in not_modified.headers.get_all(name) {
            // Fails only beyond 32,768 headers, which Pingora does not read.
            let _ = head.append_header(name.clone(), value.clone());
        }
    }
}

fn remove_hop_by_hop(head: &mut ResponseHeader) {
    let connection = head.headers.get_all(CONNECTION).iter();
    let nominated: Vec<HeaderName> = connection
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    for name in nominated {
        head.remove_header(&name);
    }
    for name in HOP_BY_HOP {
        head.remove_header(name);
    }
}
