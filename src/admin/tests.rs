//! The admin API as its clients see it: a real listener, a real HTTP client, and a gateway that is made up.
//! Who may ask is tested in `guard.rs`; here only that the guard stands before every path.

mod bounds;
mod documented;
mod instances;
mod questions;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use parking_lot::Mutex;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use sha2::Digest as _;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::api::{BODY_BYTES_MAX, router};
use super::listener::{Bounds, serve_within};
use super::*;
use crate::config::{Admin, Config, Digest, Retention, StoreUrl};
use crate::request_log::{Counts, Following, Wanted};
use crate::store::{Kept, Removed};
use crate::upstream::Address;

/// A gateway that says what it is told to.
#[derive(Default)]
struct Gateway {
    draining: AtomicBool,
    broken: AtomicBool,
    exchanges: AtomicBool,
    reload_problems: Mutex<Vec<String>>,
    reload_slowly: AtomicBool,
    generation: AtomicU32,
    cleared: Mutex<Vec<CacheScope>>,
    crowd: AtomicU32,
    log_store: Mutex<StoreUrl>,
    changed: Mutex<Vec<(String, Address, InstanceChange)>>,
    change: Mutex<Change>,
}

struct Change(Result<InstanceChanged, NotChanged>);

impl Default for Change {
    fn default() -> Self {
        Self(Err(NotChanged::NoInstance))
    }
}

impl Control for Gateway {
    fn log(&self) -> LogStatus {
        let counts = Counts { accepted: 3, written: 2, queued: 1, store_up: true, ..Counts::default() };
        let removed = Removed {
            what: "requests".into(),
            before: "2026-03-01 00:00:00.000000".into(),
            limit: "size".into(),
            at: "2026-03-31 00:00:00.000000".into(),
        };
        let kept = Kept { seen: UNIX_EPOCH, bytes: 4_096, oldest: None, removed: vec![removed] };
        let retention = RetentionStatus::of(Retention::default(), Some(&kept));
        LogStatus { store: "sqlite:log.db".into(), unaccounted: counts.unaccounted(), counts, retention }
    }

    fn config(&self) -> Arc<Config> {
        let folder = std::env::temp_dir().join("tollgate.yaml");
        let text = "listen: 127.0.0.1:1\nadmin: none\nlog: none\n";
        Arc::new(crate::config::read(text, &folder, &|_| None).unwrap())
    }

    fn keys_changed(&self) {}

    fn follow(&self, _: Wanted) -> Option<Following> {
        None
    }

    fn readiness(&self) -> Readiness {
        let ready = !self.draining.load(Ordering::SeqCst);
        Readiness { ready, why: if ready { "every listener accepts" } else { "draining" }.into() }
    }

    fn degraded(&self) -> Vec<String> {
        if self.broken.load(Ordering::SeqCst) { vec!["the log store is away".into()] } else { Vec::new() }
    }

    fn services(&self) -> Vec<ServiceStatus> {
        let state = if self.broken.load(Ordering::SeqCst) { InstanceState::Down } else { InstanceState::Up };
        let instance = |address: &str, state, in_flight| InstanceStatus {
            address: address.into(),
            state,
            why: "its health checks succeed".into(),
            since: "2026-01-01T00:00:00Z".into(),
            share: 1.0,
            weight: 1,
            backup: false,
            in_flight,
            requests: 5,
            failures: 2,
            success_rate: Some(0.6),
            latency_ms: None,
            last_check: None,
            breaker: None,
        };
        let users = vec![instance("127.0.0.1:9101", state, 3)];
        let orders = vec![instance("orders.internal:80", InstanceState::Unchecked, 0)];
        vec![
            ServiceStatus {
                name: "users".into(),
                usable: state == InstanceState::Up,
                breaker: None,
                capacity: None,
                sources: Vec::new(),
                instances: users,
            },
            ServiceStatus {
                name: "orders".into(),
                usable: true,
                breaker: None,
                capacity: None,
                sources: Vec::new(),
                instances: orders,
            },
        ]
    }

    async fn change_instance(
        &self,
        service: &str,
        address: &Address,
        change: InstanceChange,
    ) -> Result<InstanceChanged, NotChanged> {
        self.changed.lock().push((service.to_owned(), address.clone(), change));
        if service == "users" { self.change.lock().0.clone() } else { Err(NotChanged::NoService) }
    }

    fn summary(&self) -> Summary {
        let since = UNIX_EPOCH + Duration::from_millis(1_700_000_000_250);
        let (successful, blocked, errors) = if self.exchanges.load(Ordering::SeqCst) { (6, 3, 1) } else { (0, 0, 0) };
        Summary {
            successful,
            blocked,
            errors,
            response_time: Duration::from_millis(5 * (successful + blocked + errors)),
            since,
        }
    }

    async fn reload(&self) -> Result<u32, Vec<String>> {
        if self.reload_slowly.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let problems = self.reload_problems.lock().clone();
        if problems.is_empty() { Ok(self.generation.fetch_add(1, Ordering::SeqCst) + 1) } else { Err(problems) }
    }

    fn cache(&self, top: usize) -> CacheStatus {
        CacheStatus { entries: top as u64, ..CacheStatus::default() }
    }

    fn cached(&self, url: &str) -> Result<CachedUrl, String> {
        if !url.starts_with("http") {
            return Err(format!("`{url}` names no host"));
        }
        Ok(CachedUrl { url: url.to_owned(), route: None, why: "no route matches".into(), entries: Vec::new() })
    }

    fn purge_cache(&self, scope: &CacheScope, _soft: bool) -> Result<u64, String> {
        if *scope == CacheScope::Route("nowhere".into()) {
            return Err("There is no route named `nowhere`.".into());
        }
        self.cleared.lock().push(scope.clone());
        Ok(3)
    }

    async fn rate_limits(&self) -> Vec<LimitEntry> {
        let entry = |number: u32| LimitEntry {
            limit: "api".into(),
            route: None,
            who: format!("10.0.0.{number}"),
            tokens_remaining: f64::from(number),
            capacity: 100,
            over: number == 0,
            retry_after_seconds: u64::from(number == 0),
        };
        (0..self.crowd.load(Ordering::SeqCst)).rev().map(entry).collect()
    }

    fn limit_totals(&self) -> Vec<LimitTotals> {
        Vec::new()
    }

    async fn client(&self, client: &ClientName) -> Option<Vec<ClientLimit>> {
        let limit = ClientLimit {
            limit: "ip-10s".into(),
            route: Some("/api/*".into()),
            plan: None,
            tokens_remaining: 4.5,
            capacity: 10,
            refill_rate: 1.0,
            over: false,
            resets_in: 3,
        };
        match client {
            ClientName::Ip(ip) if *ip == IpAddr::from([192, 0, 2, 7]) => Some(vec![limit]),
            ClientName::Ip(_) => Some(Vec::new()),
            ClientName::Key(key) => (key == "acme").then(|| vec![limit]),
        }
    }

    async fn reset_client(&self, client: &ClientName) -> Result<Option<usize>, String> {
        Ok(self.client(client).await.map(|limits| limits.len()))
    }

    fn log_store(&self) -> StoreUrl {
        self.log_store.lock().clone()
    }

    fn metrics(&self) -> String {
        "# HELP up Whether it is.\n# TYPE up gauge\nup 1\n".into()
    }
}

struct Api {
    address: SocketAddr,
    gateway: Arc<Gateway>,
    stop: Arc<Notify>,
    serving: JoinHandle<()>,
    client: reqwest::Client,
}

impl Api {
    async fn start() -> Self {
        Self::with(None, Bounds::default()).await
    }

    async fn with(token: Option<&str>, bounds: Bounds) -> Self {
        let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let token_sha256 = token.map(|token| Digest(sha2::Sha256::digest(token).into()));
        let gateway = Arc::new(Gateway::default());
        let stop = Arc::new(Notify::new());
        let stopped = Arc::clone(&stop);
        let admin = Admin { address, token_sha256, hosts: vec![] };
        let router = router(&admin, Arc::clone(&gateway), bounds.body_timeout);
        let serving = tokio::spawn(serve_within(bounds, listener, router, async move { stopped.notified().await }));
        Self { address, gateway, stop, serving, client: reqwest::Client::new() }
    }

    fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.address))
    }

    async fn get(&self, path: &str) -> Response {
        self.ask(Method::GET, path).send().await.unwrap()
    }

    async fn post(&self, path: &str, body: &'static str) -> Response {
        self.ask(Method::POST, path).body(body).send().await.unwrap()
    }
}

async fn json_of(response: Response, status: u16) -> Value {
    assert_eq!(response.status(), status);
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_safe(&response);
    response.json().await.unwrap()
}

async fn problem_of(response: Response, status: u16, reason: &str) -> Value {
    assert_eq!(response.status(), status);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    assert_safe(&response);
    let body: Value = response.json().await.unwrap();
    assert_eq!((&body["status"], &body["reason"]), (&json!(status), &json!(reason)), "{body}");
    assert_eq!(body["type"], format!("urn:tollgate:admin:{reason}"));
    assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
    body
}

fn assert_safe(response: &Response) {
    assert_eq!(response.headers()["cache-control"], "no-store");
    assert_eq!(response.headers()["x-content-type-options"], "nosniff");
    assert!(!response.headers().keys().any(|name| name.as_str().starts_with("access-control-")));
}

#[tokio::test]
async fn health_says_what_is_degraded_and_stays_200() {
    let api = Api::start().await;
    assert_eq!(json_of(api.get("/health").await, 200).await, json!({"status": "ok", "degraded": []}));
    api.gateway.broken.store(true, Ordering::SeqCst);
    let degraded = json!({"status": "degraded", "degraded": ["the log store is away"]});
    assert_eq!(json_of(api.get("/health").await, 200).await, degraded);
}

#[tokio::test]
async fn ready_is_503_while_draining() {
    let api = Api::start().await;
    let ready = json!({"ready": true, "why": "every listener accepts"});
    assert_eq!(json_of(api.get("/ready").await, 200).await, ready);
    api.gateway.draining.store(true, Ordering::SeqCst);
    let response = api.get("/ready").await;
    assert_eq!(response.headers()["retry-after"], "1");
    let problem = problem_of(response, 503, "not_ready").await;
    assert_eq!((&problem["ready"], &problem["why"]), (&json!(false), &json!("draining")));
}

#[tokio::test]
async fn a_service_without_a_usable_instance_is_503() {
    let api = Api::start().await;
    let body = json_of(api.get("/health/services").await, 200).await;
    assert_eq!(body["status"], "ok");
    assert_eq!(body["services"][1]["instances"][0]["state"], "unchecked");
    api.gateway.broken.store(true, Ordering::SeqCst);
    let problem = problem_of(api.get("/health/services").await, 503, "no_instance").await;
    assert_eq!(problem["detail"], "No instance can be used: users.");
    assert_eq!(problem["services"][0]["instances"][0]["state"], "down");
}

#[tokio::test]
async fn services_have_their_instances() {
    let body = json_of(Api::start().await.get("/admin/services").await, 200).await;
    let instance = json!({
        "address": "127.0.0.1:9101", "state": "up", "weight": 1, "backup": false, "in_flight": 3, "requests": 5, "failures": 2,
        "success_rate": 0.6, "latency_ms": null,
        "why": "its health checks succeed", "since": "2026-01-01T00:00:00Z", "share": 1.0, "last_check": null,
    });
    assert_eq!(body["services"][0], json!({"name": "users", "usable": true, "instances": [instance]}));
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let response = Api::start().await.get("/metrics").await;
    assert_eq!(response.status(), 200);
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    assert_safe(&response);
    assert!(response.text().await.unwrap().ends_with("up 1\n"));
}

#[tokio::test]
async fn the_summary_has_averages_once_there_are_requests() {
    let api = Api::start().await;
    let empty = json_of(api.get("/admin/summary").await, 200).await;
    assert_eq!((&empty["total"], &empty["average_response_time_seconds"]), (&json!(0), &Value::Null));
    api.gateway.exchanges.store(true, Ordering::SeqCst);
    let expected = json!({
        "total": 10, "successful": 6, "blocked": 3, "errors": 1,
        "average_response_time_seconds": 0.005, "success_rate_percent": 60.0, "since": "2023-11-14T22:13:20.25Z",
    });
    assert_eq!(json_of(api.get("/admin/summary").await, 200).await, expected);
}

#[tokio::test]
async fn the_cache_is_cleared_by_what_is_named() {
    let api = Api::start().await;
    for (query, body, expected) in [
        ("", r#"{"all": true}"#, CacheScope::All),
        ("", r#"{"route": "/api/*"}"#, CacheScope::Route("/api/*".into())),
        ("", r#"{"url": "/api/users?page=2"}"#, CacheScope::Url("/api/users?page=2".into())),
        ("?all=true", "", CacheScope::All),
        ("?route=/api/*", "", CacheScope::Route("/api/*".into())),
        ("?route=GET%20/api/*", "", CacheScope::Route("GET /api/*".into())),
        ("?url=http%3A%2F%2Fa.example%2Fx%3Fy%3D1", "", CacheScope::Url("http://a.example/x?y=1".into())),
        ("?", r#"{"all": true}"#, CacheScope::All),
    ] {
        let response = api.post(&format!("/admin/cache/clear{query}"), body).await;
        assert_eq!(json_of(response, 200).await, json!({"cleared": 3}), "{query} {body}");
        assert_eq!(api.gateway.cleared.lock().pop(), Some(expected));
    }
}

#[tokio::test]
async fn a_cache_clear_that_names_nothing_clears_nothing() {
    let api = Api::start().await;
    for (query, body) in [
        ("", ""),
        ("", "{}"),
        ("", "null"),
        ("", "all"),
        ("", r#"{"all": false}"#),
        ("", r#"{"all": "yes"}"#),
        ("", r#"{"all": true, "route": "/api/*"}"#),
        ("", r#"{"route": "/api/*", "url": "/x"}"#),
        ("", r#"{"routes": "/api/*"}"#),
        ("", r#"{"route": "nowhere"}"#),
        ("?all", ""),
        ("?all=1", ""),
        ("?rout=x", ""),
        ("?all=true&route=x", ""),
        ("?all=true", r#"{"all": true}"#),
    ] {
        let response = api.post(&format!("/admin/cache/clear{query}"), body).await;
        problem_of(response, 400, "bad_request").await;
    }
    assert!(api.gateway.cleared.lock().is_empty());
}

#[tokio::test]
async fn what_is_wrong_with_a_query_is_said_of_its_parameter() {
    let api = Api::start().await;
    for (path, expected) in [
        ("/admin/cache?top=abc", "top: `abc` is no number from 0 to 1000"),
        ("/admin/cache?top=1001", "top: `1001` is no number from 0 to 1000"),
        ("/admin/cache?limit=5", "there is no parameter `limit`; there are top"),
        ("/admin/cache/show", "url: missing: ?url=http://HOST/PATH"),
        ("/admin/cache/show?url=http://a/&url=http://b/", "url: given more than once"),
        ("/admin/requests?limit=abc", "limit: `abc` is no number from 1 to"),
    ] {
        let problem = problem_of(api.get(path).await, 400, "bad_request").await;
        assert!(problem["detail"].as_str().unwrap().contains(expected), "{path}: {problem}");
    }
    let problem = problem_of(api.post("/admin/cache/purge?all=1", "").await, 400, "bad_request").await;
    assert!(problem["detail"].as_str().unwrap().starts_with("all: `1` is neither true nor false. "), "{problem}");
}

#[tokio::test]
async fn the_nearest_to_their_limit_come_first_and_the_list_is_bounded() {
    let api = Api::start().await;
    assert_eq!(
        json_of(api.get("/admin/rate-limits").await, 200).await,
        json!({"limits": [], "truncated": false, "totals": []})
    );
    api.gateway.crowd.store(1_500, Ordering::SeqCst);
    let body = json_of(api.get("/admin/rate-limits").await, 200).await;
    assert_eq!((body["limits"].as_array().unwrap().len(), &body["truncated"]), (1_000, &json!(true)));
    let first = json!({
        "limit": "api", "route": null, "who": "10.0.0.0", "tokens_remaining": 0.0, "capacity": 100,
        "over": true, "retry_after_seconds": 1,
    });
    assert_eq!(body["limits"][0], first);
}

#[tokio::test]
async fn a_client_is_asked_for_by_its_address_or_the_name_of_its_key() {
    let api = Api::start().await;
    let limits = json!([{
        "limit": "ip-10s", "route": "/api/*", "plan": null, "tokens_remaining": 4.5, "capacity": 10, "refill_rate": 1.0,
        "over": false, "resets_in": 3,
    }]);
    let expected = json!({"ip": "192.0.2.7", "limits": limits});
    assert_eq!(json_of(api.get("/admin/clients/192.0.2.7").await, 200).await, expected);
    assert_eq!(json_of(api.get("/admin/clients/::ffff:192.0.2.7").await, 200).await, expected);
    assert_eq!(json_of(api.get("/admin/clients/acme").await, 200).await, json!({"key": "acme", "limits": limits}));
    let other = json!({"ip": "2001:db8::1", "limits": []});
    assert_eq!(json_of(api.get("/admin/clients/2001:DB8::1").await, 200).await, other);
    for unknown in ["alice", "192.0.2", "192.0.2.7:80", "192.0.2.0%2F24"] {
        problem_of(api.get(&format!("/admin/clients/{unknown}")).await, 404, "no_client").await;
        problem_of(api.post(&format!("/admin/clients/{unknown}/reset"), "").await, 404, "no_client").await;
    }
    problem_of(api.get("/admin/clients/%FF").await, 400, "bad_client").await;
    assert_eq!(json_of(api.post("/admin/clients/192.0.2.7/reset", "").await, 200).await, json!({"reset": 1}));
}

#[tokio::test]
async fn a_reload_answers_the_generation_or_the_problems() {
    let api = Api::start().await;
    assert_eq!(json_of(api.post("/admin/reload", "").await, 200).await, json!({"generation": 1}));
    let problems = vec!["tollgate.yaml:3:5 routes./a.to: no service named `user`".to_owned()];
    *api.gateway.reload_problems.lock() = problems.clone();
    let problem = problem_of(api.post("/admin/reload", "").await, 422, "reload_refused").await;
    assert_eq!(problem["problems"], json!(problems));
}

#[tokio::test]
async fn a_reload_goes_on_when_its_client_leaves() {
    let api = Api::start().await;
    api.gateway.reload_slowly.store(true, Ordering::SeqCst);
    let impatient = api.ask(Method::POST, "/admin/reload").timeout(Duration::from_millis(50)).send().await;
    assert!(impatient.unwrap_err().is_timeout());
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(api.gateway.generation.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn wrong_paths_and_methods_are_problems() {
    let api = Api::start().await;
    for path in ["/", "/nowhere", "/health/", "/admin", "/admin/clients", "/admin/clients/"] {
        problem_of(api.get(path).await, 404, "no_route").await;
    }
    for (method, path, allow) in [
        (Method::POST, "/health", "GET,HEAD"),
        (Method::DELETE, "/metrics", "GET,HEAD"),
        (Method::OPTIONS, "/admin/summary", "GET,HEAD"),
        (Method::GET, "/admin/reload", "POST"),
        (Method::PUT, "/admin/cache/clear", "POST"),
    ] {
        let response = api.ask(method, path).send().await.unwrap();
        assert_eq!(response.headers()["allow"], allow, "{path}");
        problem_of(response, 405, "method_not_allowed").await;
    }
    assert_eq!(api.gateway.generation.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let api = Api::start().await;
    for path in ["/health", "/ready", "/metrics", "/admin/summary", "/nowhere"] {
        let get = api.get(path).await;
        let head = api.ask(Method::HEAD, path).send().await.unwrap();
        assert_eq!(head.status(), get.status(), "{path}");
        assert_eq!(head.headers()["content-type"], get.headers()["content-type"], "{path}");
        assert_eq!(head.headers()["content-length"], get.headers()["content-length"], "{path}");
        assert!(head.bytes().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn bodies_are_bounded_on_every_path() {
    let api = Api::start().await;
    for path in ["/admin/cache/clear", "/admin/reload", "/nowhere"] {
        let response = api.ask(Method::POST, path).body(vec![b' '; BODY_BYTES_MAX + 1]).send().await.unwrap();
        problem_of(response, 413, "body_too_large").await;
    }
    let mut body = r#"{"all": true}"#.to_owned();
    body.push_str(&" ".repeat(BODY_BYTES_MAX - body.len()));
    assert_eq!(api.ask(Method::POST, "/admin/cache/clear").body(body).send().await.unwrap().status(), 200);
    assert_eq!(api.gateway.generation.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn the_guard_stands_before_every_path() {
    let api = Api::with(Some("s3cret"), Bounds::default()).await;
    let get = |path: &str| api.ask(Method::GET, path);
    for path in ["/metrics", "/health/services", "/admin/summary", "/nowhere"] {
        let response = get(path).send().await.unwrap();
        assert_eq!(response.headers()["www-authenticate"], "Bearer realm=\"tollgate admin\"");
        problem_of(response, 401, "no_token").await;
        let foreign = get(path).bearer_auth("s3cret").header("host", "evil.example").send().await.unwrap();
        problem_of(foreign, 421, "foreign_host").await;
    }
    for path in ["/health", "/ready"] {
        assert_eq!(get(path).send().await.unwrap().status(), 200);
        problem_of(get(path).header("host", "evil.example").send().await.unwrap(), 421, "foreign_host").await;
    }
    assert_eq!(get("/metrics").bearer_auth("s3cret").send().await.unwrap().status(), 200);
    let reload = || api.ask(Method::POST, "/admin/reload").bearer_auth("s3cret");
    let foreign = reload().header("origin", "https://evil.example").send().await.unwrap();
    problem_of(foreign, 403, "foreign_origin").await;
    let tricked = reload().header("sec-fetch-site", "cross-site").send().await.unwrap();
    problem_of(tricked, 403, "foreign_origin").await;
    assert_eq!(api.gateway.generation.load(Ordering::SeqCst), 0);
    assert_eq!(reload().send().await.unwrap().status(), 200);
}
