//! The policy inside a real proxy, between a raw client and a raw upstream.
//! Each request has a connection of its own, so that nothing but the store is shared.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_cache::key::HashBinary;
use pingora_cache::{CacheKey, CacheMeta, ForcedFreshness, HitHandler, RespCacheable};
use pingora_core::apps::ServerApp;
use pingora_core::protocols::l4::stream::Stream;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{ProxyHttp, Session, http_proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::cache::store;
use crate::config::{CachePolicy, RequestDirectives, SetCookie, Size, Span};
use crate::record::CacheResult;

struct Gate {
    rule: CacheRule,
    upstream: SocketAddr,
    results: Arc<Mutex<Vec<Option<CacheResult>>>>,
}

impl Gate {
    fn key(&self, request: &RequestHeader) -> CacheKey {
        let consumer = request.headers.get("x-api-key").map(|key| key.to_str().unwrap());
        self.rule.key(request, "http", "gate", request.uri.path(), request.uri.query(), consumer)
    }
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
        let mut key = self.key(session.req_header());
        turn.enable(&self.rule, session, &mut key, true);
        Ok(())
    }

    fn cache_key_callback(&self, session: &Session, _: &mut CacheTurn) -> Result<CacheKey> {
        Ok(self.key(session.req_header()))
    }

    async fn cache_hit_filter(
        &self,
        session: &mut Session,
        meta: &CacheMeta,
        _: &mut HitHandler,
        is_fresh: bool,
        turn: &mut CacheTurn,
    ) -> Result<Option<ForcedFreshness>> {
        Ok(turn.hit(&self.rule, session, meta, is_fresh).0)
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
        let key = session.cache.maybe_cache_key();
        Ok(self.rule.decide(turn, key, session.req_header(), answer, SystemTime::now()))
    }

    fn cache_vary_filter(&self, meta: &CacheMeta, _: &mut CacheTurn, request: &RequestHeader) -> Option<HashBinary> {
        CacheRule::variance(meta, request)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        answer: &mut ResponseHeader,
        turn: &mut CacheTurn,
    ) -> Result<()> {
        turn.restore(session, answer);
        answer.append_header("cache-status", turn.status(&session.cache, SystemTime::now())).map(drop)
    }

    fn should_serve_stale(&self, _: &mut Session, turn: &mut CacheTurn, error: Option<&Error>) -> bool {
        let status = error.and_then(|error| match error.etype() {
            ErrorType::HTTPStatus(status) => http::StatusCode::from_u16(*status).ok(),
            _ => None,
        });
        error.is_some() && turn.serves_stale(status)
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
        assert_eq!(self.header("cache-status"), Some(format!("tollgate; {cache_status}").as_str()), "{}", self.head);
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
    CachePolicy { ttl: Span::seconds(ttl_seconds), ..CachePolicy::default() }
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
async fn what_forbids_to_be_served_stale_never_is() {
    let world = World::start(policy(0)).await;
    let stale = "Cache-Control: no-cache, stale-if-error=60\r\nETag: \"1\"\r\n";
    world.says(stale, "old");
    world.ask("GET /a", "").await;
    world.says_raw("HTTP/1.1 500 Broken\r\nContent-Length: 3\r\n\r\nbad");
    world.ask("GET /a", "").await.is("500", "bad", CacheResult::Miss, "fwd=stale; detail=no_freshness");
    world.says_raw("");
    assert!(world.ask("GET /a", "").await.head.starts_with("HTTP/1.1 502"));
    world.says(stale, "new");
    world.ask("GET /a", "").await.is("200", "new", CacheResult::Miss, "fwd=stale; stored");
    let head = world.ask("HEAD /a", "").await;
    head.is("200", "", CacheResult::Miss, "fwd=stale; detail=not_whole");
    assert!(world.upstream.requests.lock().last().unwrap().starts_with("HEAD"));
}

#[tokio::test]
async fn a_stale_answer_is_served_instead_of_an_error_for_its_time() {
    let policy = CachePolicy { stale_if_error: Span::seconds(60), ..policy(0) };
    let world = World::start(policy).await;
    world.says("Cache-Control: max-age=0\r\nETag: \"1\"\r\n", "old");
    world.ask("GET /a", "").await;
    world.says_raw("HTTP/1.1 503 Gone\r\nContent-Length: 3\r\n\r\nbad");
    let failed = world.ask("GET /a", "").await;
    let status = failed.header("cache-status").unwrap().to_owned();
    assert!(status.starts_with("tollgate; fwd=stale; fwd-status=503; ttl=-"), "{status}");
    failed.is("200", "old", CacheResult::Stale, status.strip_prefix("tollgate; ").unwrap());
    world.says_raw("");
    for request in ["GET /a", "HEAD /a"] {
        let dead = world.ask(request, "").await;
        assert_eq!((dead.result, dead.head.starts_with("HTTP/1.1 200")), (Some(CacheResult::Stale), true));
        assert!(dead.header("cache-status").unwrap().ends_with("detail=stale_if_error"), "{}", dead.head);
        assert!(dead.header("age").is_some(), "{}", dead.head);
    }
    let part = world.ask("GET /a", "Range: bytes=1-\r\n").await;
    assert_eq!((part.body.as_str(), part.result), ("ld", Some(CacheResult::Stale)));
    world.says("Cache-Control: max-age=60\r\n", "new");
    world.ask("GET /a", "").await.is("200", "new", CacheResult::Miss, "fwd=stale; stored");
}

#[tokio::test]
async fn a_stale_answer_is_served_while_another_one_is_fetched() {
    let world = World::start(policy(0)).await;
    world.says("Cache-Control: max-age=0, stale-while-revalidate=60\r\n", "old");
    world.ask("GET /a", "").await;
    let stale = world.ask("GET /a", "").await;
    assert_eq!((stale.body.as_str(), stale.result), ("old", Some(CacheResult::Stale)));
    assert!(stale.header("cache-status").unwrap().starts_with("tollgate; hit; ttl=-"), "{}", stale.head);
    assert_eq!(world.asked(), 1);
}

#[tokio::test]
async fn cookies_are_stored_as_the_route_says() {
    let cookie = "Set-Cookie: a=b\r\n";
    let strips = World::start(CachePolicy { set_cookie: SetCookie::Strip, ..policy(60) }).await;
    strips.says(cookie, "x");
    let first = strips.ask("GET /a", "").await;
    assert_eq!(first.header("set-cookie"), Some("a=b"));
    let hit = strips.ask("GET /a", "").await;
    assert_eq!((hit.result, hit.header("set-cookie")), (Some(CacheResult::Hit), None));
    let stores = World::start(CachePolicy { set_cookie: SetCookie::Store, ..policy(60) }).await;
    stores.says(cookie, "x");
    for result in [CacheResult::Miss, CacheResult::Hit] {
        let answer = stores.ask("GET /a", "").await;
        assert_eq!((answer.result, answer.header("set-cookie")), (Some(result), Some("a=b")));
    }
}

#[tokio::test]
async fn wishes_count_where_the_route_obeys_them() {
    let obeys = World::start(CachePolicy { request_directives: RequestDirectives::Obey, ..policy(60) }).await;
    let ignores = World::start(policy(60)).await;
    for world in [&obeys, &ignores] {
        world.says("ETag: \"1\"\r\n", "x");
        world.ask("GET /a", "").await;
        world.says_raw("HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n");
    }
    for wish in ["no-cache", "max-age=0", "min-fresh=100"] {
        let wish = format!("Cache-Control: {wish}\r\n");
        assert_eq!(obeys.ask("GET /a", &wish).await.result, Some(CacheResult::Revalidated), "{wish}");
        assert_eq!(ignores.ask("GET /a", &wish).await.result, Some(CacheResult::Hit), "{wish}");
    }
    for wish in ["max-age=100", "min-fresh=5", "max-stale", "only-if-cached"] {
        let wish = format!("Cache-Control: {wish}\r\n");
        assert_eq!(obeys.ask("GET /a", &wish).await.result, Some(CacheResult::Hit), "{wish}");
    }
    obeys.says("Cache-Control: max-age=1\r\n", "stale");
    obeys.ask("GET /b", "").await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let taken = obeys.ask("GET /b", "Cache-Control: max-stale=100\r\n").await;
    assert_eq!((taken.body.as_str(), taken.result), ("stale", Some(CacheResult::Stale)));
}

#[tokio::test]
async fn what_does_not_change_while_it_is_fresh_is_confirmed_only_for_who_insists() {
    let world = World::start(CachePolicy { request_directives: RequestDirectives::Obey, ..policy(60) }).await;
    world.says("Cache-Control: max-age=60, immutable\r\nETag: \"1\"\r\n", "x");
    world.ask("GET /a", "").await;
    assert_eq!(world.ask("GET /a", "Cache-Control: max-age=0\r\n").await.result, Some(CacheResult::Hit));
    let insists = world.ask("GET /a", "Cache-Control: no-cache\r\n").await;
    assert_eq!((insists.result, world.asked()), (Some(CacheResult::Miss), 2));
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
