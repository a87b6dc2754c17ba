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
    authorization_reaches_instance: bool,
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
    pub fn compile(policy: &CachePolicy, endpoint: impl Into<Arc<str>>, fingerprint: u64) -> Self {
        Self {
            rules: Rules { ttl: policy.ttl.0, max: policy.max.map(|max| max.0) },
            shared: policy.shared,
            body_max: policy.body_max.0,
            endpoint: endpoint.into(),
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
                turn.authorization_reaches_instance = authorization_reaches_instance;
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
    /// `request` is the client's.
    pub fn decide(
        &self,
        turn: &mut CacheTurn,
        request: &RequestHeader,
        answer: &ResponseHeader,
        now: SystemTime,
    ) -> RespCacheable {
        let mut head = answer.clone();
        if let Some(not_modified) = turn.not_modified.take() {
            refresh(&mut head, &not_modified);
        }
        let asked = Asked::of(&request.headers, turn.authorization_reaches_instance);
        match self.judge(turn, asked, &head, now) {
            Ok(freshness) => RespCacheable::Cacheable(self.meta(turn, head, freshness, now)),
            Err(reason) => RespCacheable::Uncacheable(NoCacheReason::Custom(reason.as_str())),
        }
    }

    fn judge(
        &self,
        turn: &CacheTurn,
        asked: Asked,
        head: &ResponseHeader,
        now: SystemTime,
    ) -> Result<Freshness, Unstorable> {
        if !turn.whole {
            return Err(Unstorable::NotWhole);
        }
        let times = Times { asked: turn.asked_at.unwrap_or(now), answered: now };
        let freshness = freshness::decide(head.status, &head.headers, asked, self.rules, times)?;
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

#[cfg(test)]
mod tests {
    //! The policy inside a real proxy, between a raw client and a raw upstream.

    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    use async_trait::async_trait;
    use parking_lot::Mutex;
    use pingora_cache::HitHandler;
    use pingora_core::apps::ServerApp;
    use pingora_core::protocols::l4::stream::Stream;
    use pingora_core::upstreams::peer::HttpPeer;
    use pingora_core::{Error, Result};
    use pingora_proxy::{ProxyHttp, http_proxy};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::config::{Size, Span};

    struct Gate {
        rule: CacheRule,
        upstream: SocketAddr,
        results: Arc<Mutex<Vec<Option<CacheResult>>>>,
    }

    #[async_trait]
    impl ProxyHttp for Gate {
        type CTX = CacheTurn;

        fn new_ctx(&self) -> CacheTurn {
            CacheTurn::default()
        }

        async fn upstream_peer(&self, _: &mut Session, _: &mut CacheTurn) -> Result<Box<HttpPeer>> {
            Ok(Box::new(HttpPeer::new(self.upstream, false, String::new())))
        }

        fn request_cache_filter(&self, session: &mut Session, turn: &mut CacheTurn) -> Result<()> {
            self.rule.enable(turn, session, true);
            Ok(())
        }

        fn cache_key_callback(&self, session: &Session, _: &mut CacheTurn) -> Result<CacheKey> {
            let request = session.req_header();
            let consumer = request.headers.get("x-api-key").map(|key| key.to_str().unwrap());
            Ok(self.rule.key("http", "gate", request.uri.path(), request.uri.query(), consumer))
        }

        async fn cache_hit_filter(
            &self,
            _: &mut Session,
            _: &CacheMeta,
            _: &mut HitHandler,
            is_fresh: bool,
            turn: &mut CacheTurn,
        ) -> Result<Option<ForcedFreshness>> {
            Ok(turn.hit(is_fresh))
        }

        fn cache_miss(&self, session: &mut Session, turn: &mut CacheTurn) {
            turn.miss(session);
        }

        async fn upstream_response_filter(
            &self,
            session: &mut Session,
            answer: &mut ResponseHeader,
            turn: &mut CacheTurn,
        ) -> Result<()> {
            turn.keep_not_modified(session, answer);
            if invalidates(&session.req_header().method, answer.status) {
                store().invalidate("gate", session.req_header().uri.path());
            }
            Ok(())
        }

        fn response_cache_filter(
            &self,
            session: &Session,
            answer: &ResponseHeader,
            turn: &mut CacheTurn,
        ) -> Result<RespCacheable> {
            Ok(self.rule.decide(turn, session.req_header(), answer, SystemTime::now()))
        }

        fn cache_vary_filter(
            &self,
            meta: &CacheMeta,
            _: &mut CacheTurn,
            request: &RequestHeader,
        ) -> Option<HashBinary> {
            CacheRule::variance(meta, request)
        }

        async fn response_filter(
            &self,
            session: &mut Session,
            answer: &mut ResponseHeader,
            turn: &mut CacheTurn,
        ) -> Result<()> {
            answer.append_header("cache-status", turn.status(&session.cache, SystemTime::now())).map(drop)
        }

        fn should_serve_stale(&self, _: &mut Session, _: &mut CacheTurn, _: Option<&Error>) -> bool {
            false
        }

        async fn logging(&self, session: &mut Session, _: Option<&Error>, turn: &mut CacheTurn) {
            self.results.lock().push(turn.result(session.cache.phase()));
        }
    }

    /// An upstream that answers what it is told, one request a connection.
    struct Upstream {
        answer: Mutex<String>,
        requests: Mutex<Vec<String>>,
    }

    struct World {
        upstream: Arc<Upstream>,
        gate: SocketAddr,
        results: Arc<Mutex<Vec<Option<CacheResult>>>>,
        answered: AtomicUsize,
    }

    async fn read_head(stream: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    async fn serve_upstream(listener: TcpListener, upstream: Arc<Upstream>) {
        while let Ok((mut stream, _)) = listener.accept().await {
            let upstream = Arc::clone(&upstream);
            tokio::spawn(async move {
                let head = read_head(&mut stream).await;
                upstream.requests.lock().push(head);
                let answer = upstream.answer.lock().clone();
                stream.write_all(answer.as_bytes()).await.unwrap();
            });
        }
    }

    impl World {
        async fn start(policy: CachePolicy) -> Self {
            static FINGERPRINTS: AtomicU64 = AtomicU64::new(0);
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let upstream = Arc::new(Upstream { answer: Mutex::default(), requests: Mutex::default() });
            tokio::spawn(serve_upstream(listener, Arc::clone(&upstream)));
            let fingerprint = FINGERPRINTS.fetch_add(1, Ordering::Relaxed);
            let rule = CacheRule::compile(&policy, "/*", fingerprint);
            let results = Arc::default();
            let gate = Gate { rule, upstream: address, results: Arc::clone(&results) };
            let proxy = Arc::new(http_proxy(&Arc::default(), gate));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let gate = listener.local_addr().unwrap();
            tokio::spawn(async move {
                let (_stop, watch) = tokio::sync::watch::channel(false);
                while let Ok((stream, _)) = listener.accept().await {
                    let (proxy, watch) = (Arc::clone(&proxy), watch.clone());
                    tokio::spawn(async move { proxy.process_new(Box::new(Stream::from(stream)), &watch).await });
                }
            });
            Self { upstream, gate, results, answered: AtomicUsize::new(0) }
        }

        fn says(&self, headers: &str, body: &str) {
            let length = body.len();
            self.says_raw(&format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{headers}\r\n{body}"));
        }

        fn says_raw(&self, answer: &str) {
            *self.upstream.answer.lock() = answer.to_owned();
        }

        async fn ask(&self, request: &str, headers: &str) -> Answer {
            let mut stream = TcpStream::connect(self.gate).await.unwrap();
            let request = format!("{request} HTTP/1.1\r\nHost: gate\r\nConnection: close\r\n{headers}\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
            // The result is written after the answer.
            let answered = self.answered.fetch_add(1, Ordering::Relaxed);
            while self.results.lock().len() <= answered {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Answer { head: head.to_owned(), body: body.to_owned(), result: self.results.lock()[answered] }
        }

        fn asked(&self) -> usize {
            self.upstream.requests.lock().len()
        }
    }

    struct Answer {
        head: String,
        body: String,
        result: Option<CacheResult>,
    }

    impl Answer {
        fn header(&self, name: &str) -> Option<&str> {
            let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        }

        #[track_caller]
        fn is(&self, status: &str, body: &str, result: CacheResult, cache_status: &str) {
            assert!(self.head.starts_with(&format!("HTTP/1.1 {status} ")), "{}", self.head);
            assert_eq!(self.body, body, "{}", self.head);
            assert_eq!(self.result, Some(result), "{}", self.head);
            assert_eq!(
                self.header("cache-status"),
                Some(format!("tollgate; {cache_status}").as_str()),
                "{}",
                self.head
            );
        }

        /// A hit with at most so many seconds left; a busy machine may take a few of them.
        #[track_caller]
        fn is_hit(&self, status: &str, body: &str, ttl_max: u64) {
            let left = self.header("cache-status").and_then(|value| value.strip_prefix("tollgate; hit; ttl="));
            let left: u64 = left.unwrap_or_else(|| panic!("no hit: {}", self.head)).parse().unwrap();
            assert!(left <= ttl_max && left + 20 > ttl_max, "{}", self.head);
            self.is(status, body, CacheResult::Hit, &format!("hit; ttl={left}"));
        }

        /// `Age`, which a busy machine may make a few seconds larger.
        #[track_caller]
        fn is_aged(&self, age_min: u64) {
            let age: u64 = self.header("age").unwrap_or("none").parse().unwrap();
            assert!((age_min..age_min + 20).contains(&age), "{}", self.head);
        }
    }

    fn policy(ttl_seconds: u64) -> CachePolicy {
        CachePolicy { ttl: Span::seconds(ttl_seconds), max: None, shared: false, body_max: Size(1 << 20) }
    }

    #[tokio::test]
    async fn an_answer_is_asked_for_once_and_says_its_age() {
        let world = World::start(policy(0)).await;
        world.says("Cache-Control: max-age=60\r\nAge: 10\r\nKeep-Alive: timeout=5\r\n", "hello");
        world.ask("GET /a", "").await.is("200", "hello", CacheResult::Miss, "fwd=uri-miss; stored");
        let hit = world.ask("GET /a", "").await;
        hit.is_hit("200", "hello", 49);
        hit.is_aged(10);
        assert_eq!(hit.header("keep-alive"), None);
        let head = world.ask("HEAD /a", "").await;
        head.is_hit("200", "", 49);
        assert_eq!(head.header("content-length"), Some("5"));
        world.ask("GET /a?", "").await.is("200", "hello", CacheResult::Miss, "fwd=uri-miss; stored");
        assert_eq!(world.asked(), 2);
    }

    #[tokio::test]
    async fn a_chunked_answer_is_stored_and_a_close_delimited_one_is_not() {
        let world = World::start(policy(60)).await;
        world.says_raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
        assert!(world.ask("GET /a", "").await.body.contains("hello"));
        let hit = world.ask("GET /a", "").await;
        hit.is_hit("200", "hello", 59);
        assert_eq!((hit.header("content-length"), hit.header("transfer-encoding")), (Some("5"), None));
        world.says_raw("HTTP/1.1 200 OK\r\n\r\nhel");
        for _ in 0..2 {
            let answer = world.ask("GET /b", "").await;
            assert_eq!(answer.header("cache-status"), Some("tollgate; fwd=uri-miss; detail=close_delimited"));
        }
        assert_eq!(world.asked(), 3);
    }

    #[tokio::test]
    async fn a_cut_answer_is_not_stored() {
        let world = World::start(policy(60)).await;
        world.says_raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
        world.ask("GET /a", "").await;
        world.says_raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
        world.ask("GET /b", "").await;
        world.says("", "whole");
        for path in ["/a", "/b"] {
            world.ask(&format!("GET {path}"), "").await.is("200", "whole", CacheResult::Miss, "fwd=uri-miss; stored");
        }
    }

    #[tokio::test]
    async fn consumers_share_only_where_the_route_says_so() {
        let world = World::start(policy(60)).await;
        world.says("", "for acme");
        world.ask("GET /a", "X-Api-Key: acme\r\n").await;
        world.says("", "for other");
        let other = world.ask("GET /a", "X-Api-Key: other\r\n").await;
        other.is("200", "for other", CacheResult::Miss, "fwd=uri-miss; stored");
        let again = world.ask("GET /a", "X-Api-Key: acme\r\n").await;
        again.is_hit("200", "for acme", 59);
        let shared = World::start(CachePolicy { shared: true, ..policy(60) }).await;
        shared.says("", "for all");
        shared.ask("GET /a", "X-Api-Key: acme\r\n").await;
        assert_eq!(shared.ask("GET /a", "X-Api-Key: other\r\n").await.result, Some(CacheResult::Hit));
    }

    #[tokio::test]
    async fn each_language_gets_its_own_answer() {
        let world = World::start(policy(60)).await;
        for language in ["de", "en"] {
            world.says("Vary: Accept-Language\r\n", language);
            world.ask("GET /a", &format!("Accept-Language: {language}\r\n")).await;
        }
        for language in ["de", "en"] {
            let hit = world.ask("GET /a", &format!("Accept-Language: {language}\r\n")).await;
            hit.is_hit("200", language, 59);
        }
        let other = world.ask("GET /a", "Accept-Language: fr\r\n").await;
        other.is("200", "en", CacheResult::Miss, "fwd=vary-miss; stored");
        assert_eq!(world.asked(), 3);
    }

    #[tokio::test]
    async fn a_304_refreshes_what_is_stored() {
        let world = World::start(policy(0)).await;
        world.says("Cache-Control: no-cache\r\nETag: \"1\"\r\nX-Old: yes\r\n", "body");
        world.ask("GET /a", "").await.is("200", "body", CacheResult::Miss, "fwd=uri-miss; stored");
        world.says_raw(
            "HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\nCache-Control: max-age=60\r\nAge: 5\r\nX-Old: no\r\n\r\n",
        );
        let confirmed = world.ask("GET /a", "").await;
        confirmed.is("200", "body", CacheResult::Revalidated, "fwd=stale; fwd-status=304");
        assert!(world.upstream.requests.lock()[1].to_lowercase().contains("if-none-match: \"1\""));
        let hit = world.ask("GET /a", "").await;
        hit.is_hit("200", "body", 54);
        hit.is_aged(5);
        assert_eq!(hit.header("x-old"), Some("no"));
        let unchanged = world.ask("GET /a", "If-None-Match: \"1\"\r\n").await;
        unchanged.is_hit("304", "", 54);
        assert_eq!(world.asked(), 2);
    }

    #[tokio::test]
    async fn what_is_stale_is_never_served_without_asking() {
        let world = World::start(policy(0)).await;
        let stale = "Cache-Control: no-cache, stale-if-error=60\r\nETag: \"1\"\r\n";
        world.says(stale, "old");
        world.ask("GET /a", "").await;
        world.says_raw("HTTP/1.1 500 Broken\r\nContent-Length: 3\r\n\r\nbad");
        world.ask("GET /a", "").await.is("500", "bad", CacheResult::Stale, "fwd=stale; detail=no_freshness");
        world.says_raw("");
        assert!(world.ask("GET /a", "").await.head.starts_with("HTTP/1.1 502"));
        world.says(stale, "new");
        world.ask("GET /a", "").await.is("200", "new", CacheResult::Stale, "fwd=stale; stored");
        let head = world.ask("HEAD /a", "").await;
        head.is("200", "", CacheResult::Stale, "fwd=stale; detail=not_whole");
        assert!(world.upstream.requests.lock().last().unwrap().starts_with("HEAD"));
    }

    #[tokio::test]
    async fn ranges_are_served_from_whole_answers_and_do_not_fill() {
        let world = World::start(policy(60)).await;
        world.says_raw("HTTP/1.1 206 Partial Content\r\nContent-Length: 2\r\nContent-Range: bytes 1-2/5\r\n\r\nel");
        let range = "Range: bytes=1-2\r\n";
        world.ask("GET /a", range).await.is("206", "el", CacheResult::Miss, "fwd=uri-miss; detail=not_whole");
        assert!(world.upstream.requests.lock()[0].to_lowercase().contains("range: bytes=1-2"));
        world.says("", "hello");
        world.ask("GET /a", "").await.is("200", "hello", CacheResult::Miss, "fwd=uri-miss; stored");
        let hit = world.ask("GET /a", range).await;
        hit.is_hit("206", "el", 59);
        assert_eq!(hit.header("content-range"), Some("bytes 1-2/5"));
        let several = world.ask("GET /a", "Range: bytes=0-1,3-4\r\n").await;
        several.is("200", "hello", CacheResult::Bypass, "fwd=bypass; detail=ranges");
    }

    #[tokio::test]
    async fn a_write_makes_what_is_stored_of_its_url_invalid() {
        let world = World::start(policy(60)).await;
        world.says("", "one");
        world.ask("GET /written", "X-Api-Key: acme\r\n").await;
        let write = world.ask("POST /written", "Content-Length: 0\r\nX-Api-Key: other\r\n").await;
        write.is("200", "one", CacheResult::Bypass, "fwd=method");
        let after = world.ask("GET /written", "X-Api-Key: acme\r\n").await;
        after.is("200", "one", CacheResult::Miss, "fwd=uri-miss; stored");
    }

    #[tokio::test]
    async fn what_may_not_be_stored_says_why() {
        let world = World::start(policy(60)).await;
        for (request, answer, why) in [
            ("", "Set-Cookie: a=b\r\n", "set_cookie"),
            ("", "Cache-Control: private\r\n", "private"),
            ("", "Vary: *\r\n", "vary"),
            ("Authorization: Basic x\r\n", "", "authorization"),
            ("Cache-Control: no-store\r\n", "", "request_no_store"),
            ("Cookie: a=b\r\n", "", "cookie"),
            ("X-HTTP-Method-Override: DELETE\r\n", "", "request_unkeyed_header"),
        ] {
            world.says(answer, "x");
            let answer = world.ask("GET /a", request).await;
            answer.is("200", "x", CacheResult::Miss, &format!("fwd=uri-miss; detail={why}"));
        }
        let small = World::start(CachePolicy { body_max: Size(3), ..policy(60) }).await;
        small.says("", "four");
        small.ask("GET /a", "").await.is("200", "four", CacheResult::Miss, "fwd=uri-miss; detail=too_large");
        small.says_raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n0\r\n\r\n");
        for _ in 0..2 {
            let grown = small.ask("GET /b", "").await;
            assert!(grown.body.contains("four") && grown.result == Some(CacheResult::Miss), "{}", grown.head);
        }
    }

    #[test]
    fn which_requests_are_not_looked_up() {
        let ask = |method: &str, header: Option<(&'static str, &str)>, has_body| {
            let mut request = RequestHeader::build(method, b"/", None).unwrap();
            if let Some((name, value)) = header {
                request.insert_header(name, value).unwrap();
            }
            bypass(&request, has_body)
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
    }

    #[test]
    fn which_answers_invalidate() {
        let check = |method, status| invalidates(&method, StatusCode::from_u16(status).unwrap());
        assert!(check(Method::POST, 200) && check(Method::DELETE, 204) && check(Method::PUT, 303));
        assert!(check(Method::from_bytes(b"M-SEARCH").unwrap(), 200));
        assert!(!check(Method::POST, 404) && !check(Method::POST, 500));
        assert!(!check(Method::GET, 200) && !check(Method::OPTIONS, 200));
    }
}
