//! Fresh hits are answered before Pingora is entered. Whoever is answered that way and whoever is not must not be able to tell:
//! the same requests are asked both ways, and answers and records compared.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use crate::harness::{
    Answer, Backend, Config, Gateway, Redis, Reply, Seen, Signal, Wire, eventually, milliseconds, seconds,
};

/// Requests that are asked both ways.
const CASES: usize = 600;

/// With it a request says that its body is empty, which is what it says without: only Pingora's phases answer it.
const OTHER_WAY: &str = "Content-Length: 0\r\n";

const ROUTES: [(&str, &str); 11] = [
    ("/plain/*", "to: service, keys: none, cache: 1min, limit: 1000000/min per ip"),
    ("/keyed/*", "to: service, cache: 1min, limit: [1000000/min, 1000000/h per route]"),
    ("/shared/*", "to: service, cache: {ttl: 1min, shared: true}, concurrency: 100"),
    ("/vary/*", "to: service, keys: none, cache: {ttl: 1min, vary: [X-Tenant]}"),
    ("/key/*", "to: service, keys: none, cache: {ttl: 1min, key: [header X-Tenant, cookie lang]}"),
    ("/query/*", "to: service, keys: none, cache: {ttl: 1min, query: {ignore: [utm_*], sort: true}}"),
    ("/obeys/*", "to: service, keys: none, cache: {ttl: 1min, request_directives: obey, stale_if_error: 1min}"),
    ("/tags/*", "to: service, keys: none, cache: {ttl: 1min, tags_to_clients: true, set_cookie: store}"),
    ("/zip/*", "to: service, keys: none, compress: [gzip, br], cache: 1min"),
    (
        "/old/*",
        "to: service, keys: none, cache: {ttl: 1min, surrogate_control: true, partial: true, set_cookie: strip}",
    ),
    (
        "/pages/*",
        "to: service, keys: none, cache: 1min, cors: {origins: [\"https://a.example\"], credentials: true}, \
         headers: {response: {set: {X-Set: \"1\", Content-Type: text/css}, remove: [ETag]}}",
    ),
];

/// Fields of a request, of which some are taken.
const FIELDS: [&str; 24] = [
    "X-API-Key: alice",
    "X-API-Key: bob",
    "X-API-Key: wrong",
    "Accept-Language: de",
    "Accept-Language: en;q=0.5, de",
    "Accept-Encoding: gzip",
    "Accept-Encoding: br;q=0.1, identity",
    "X-Tenant: a",
    "X-Tenant: b",
    "Cookie: lang=de; session=1",
    "Cookie: lang=en",
    "Origin: https://a.example",
    "Origin: https://b.example",
    "Cache-Control: no-cache",
    "Cache-Control: max-stale=60, min-fresh=1",
    "Cache-Control: only-if-cached",
    "Pragma: no-cache",
    "Authorization: Basic YTpi",
    "X-Original-URL: /other",
    "X-Forwarded-Host: other.example",
    "Surrogate-Capability: a=\"Surrogate/1.0\"",
    "Connection: keep-alive",
    "User-Agent: some \"agent\"",
    "X-Request-Id: of-the-client",
];

const PATHS: [&str; 15] = [
    "a",
    "a?x=1&utm_a=b",
    "a?utm_c=d&x=1",
    "b?b=2&a=1",
    "b?a=1&b=2",
    "./a",
    "%61",
    "c",
    "d",
    "e?",
    "f",
    "g",
    "h",
    "i",
    "j",
];

/// What an instance answers depends on the path, and on what `Vary` says it does.
fn script(seen: &Seen) -> Reply {
    let of = |name: &str| seen.all(name).join(",");
    let body = format!("{} {} {}", seen.target, of("accept-language"), of("x-tenant")).repeat(40);
    let reply = Reply::ok(&body).with("Content-Type", "text/plain").with("Vary", "Accept-Language");
    let name = seen.target.split(['?']).next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    match name {
        "a" => {
            reply.with("ETag", "\"1\"").with("Cache-Tag", "t1, t2").with("Age", "5").with("Cache-Control", "max-age=90")
        }
        "b" => reply.with("Date", "Sun, 06 Nov 1994 08:49:37 GMT").with("X-Twice", "1").with("X-Twice", "2"),
        "c" => reply.with("Set-Cookie", "a=1").with("Cache-Control", "public, s-maxage=60"),
        "d" => reply.with("Surrogate-Control", "max-age=60").with("Cache-Control", "private"),
        "e" => Reply::status(404, "not here").with("Cache-Status", "origin; hit"),
        "f" => Reply::ok(&"x".repeat(200_000)).with("Content-Type", "text/html; charset=utf-8"),
        "h" => reply.with("Date", "Sun Nov  6 08:49:37 1994").with("Connection", "X-Hop").with("X-Hop", "1"),
        "i" => reply
            .with("Date", "yesterday")
            .with("RateLimit", "none")
            .with("X-Request-Id", "mine")
            .with("Accept-Ranges", "none"),
        "j" => Reply::status(299, "odd").with("Date", "").with("Cache-Control", "max-age=60").with("Cache-Tag", "t"),
        _ => Reply::status(301, "").with("Location", "/elsewhere").with("Access-Control-Allow-Origin", "*"),
    }
}

fn any_request(random: &mut StdRng) -> String {
    let (route, _) = ROUTES.choose(random).expect("routes");
    let path = PATHS.choose(random).expect("paths");
    let hosts = ["gateway.example", "Gateway.example:80", "other.example", "gateway.example.", "[::1]:80", "a@b", ""];
    let host = if random.random_bool(0.9) { &hosts[0] } else { hosts.choose(random).expect("hosts") };
    let mut lines = format!("GET {}{path} HTTP/1.1\r\nHost: {host}\r\n", route.trim_end_matches('*'));
    for _ in 0..random.random_range(0..4) {
        lines.push_str(FIELDS.choose(random).expect("fields"));
        lines.push_str("\r\n");
    }
    lines
}

async fn ask(wire: &mut Wire, lines: &str) -> Answer {
    wire.send(format!("{lines}\r\n")).await;
    wire.answer().await
}

/// Status, header lines and body, without what differs between two requests: ids, and numbers that go on by one.
fn compared(answer: &Answer) -> (u16, Vec<String>, Vec<u8>) {
    let mut lines: Vec<String> = answer
        .headers
        .iter()
        .filter(|(name, _)| *name != "x-request-id")
        .map(|(name, value)| {
            let value = value.to_str().expect("visible characters").to_owned();
            // What counts seconds or requests; a date that an instance gave stays.
            let counts = ["age", "ratelimit", "cache-status"].contains(&name.as_str())
                || (name == "date" && !value.contains("1994"));
            let value = if counts { value.replace(|one: char| one.is_ascii_digit(), "") } else { value };
            format!("{name}: {value}")
        })
        .collect();
    lines.sort();
    let ids = answer.headers.get_all("x-request-id").iter().count();
    lines.push(format!("{ids} ids"));
    // A refusal names its request.
    let body = if answer.status >= 400 && answer.body.starts_with(b"{") { Vec::new() } else { answer.body.clone() };
    (answer.status, lines, body)
}

/// A line of the log, without what differs between two requests.
fn record(line: &str) -> Value {
    let mut record: Value = serde_json::from_str(line).expect("a JSON line");
    let members = record.as_object_mut().expect("an object");
    for name in ["timestamp", "sequence", "request_id", "response_time_ms", "upstream_ms"] {
        assert!(members.remove(name).is_some(), "no {name} in {line}");
    }
    record
}

#[tokio::test]
async fn both_ways_give_the_same_answer_and_the_same_record() {
    let backend = Backend::scripted(script).await;
    let mut config = Config::new().service("service", &[backend.address]).key("alice").key("bob");
    for (pattern, fields) in ROUTES {
        config = config.route(pattern, fields);
    }
    let gateway = Gateway::start(&config.log("{store: none, json: lines.json}")).await;
    let mut random = StdRng::seed_from_u64(9_111);
    let mut wire = gateway.wire().await;
    let mut hits = 0_u32;
    for case in 0..CASES {
        let request = any_request(&mut random);
        let other_way = format!("{request}{OTHER_WAY}");
        let mut answers = Vec::new();
        // What the last two find is what the first one stored, where it is stored at all.
        for way in [&other_way, &request, &other_way] {
            let answer = ask(&mut wire, way).await;
            if answer.header("connection") == Some("close") {
                wire = gateway.wire().await;
            }
            answers.push(answer);
        }
        assert_eq!(compared(&answers[1]), compared(&answers[2]), "case {case}: {request}");
        let told = answers[1].headers.get_all("cache-status").iter();
        hits += u32::from(told.into_iter().any(|status| status.as_bytes().starts_with(b"tollgate; hit")));
    }
    let at_hand = gateway.metrics().await.sum("tollgate_cache_at_hand_total", &[]);
    // All hits but those of routes that obey wishes, for requests that have some.
    assert!(hits > CASES as u32 / 3 && at_hand >= f64::from(hits) * 0.95, "{at_hand} of {hits}");
    assert!(at_hand <= f64::from(hits), "{at_hand} of {hits}: the other way was not the other way");
    let lines = || std::fs::read_to_string(gateway.path("lines.json")).unwrap_or_default();
    // What Pingora refuses for its form makes no record, whichever way it was going to go.
    let malformed = gateway.metrics().await.sum("tollgate_rejected_total", &[("reason", "malformed")]) as usize;
    assert!(malformed > 0 && malformed.is_multiple_of(3), "{malformed}");
    eventually("all lines are written", seconds(10), async || lines().lines().count() >= CASES * 3 - malformed).await;
    let records: Vec<Value> = lines().lines().map(record).collect();
    for (case, records) in records.chunks(3).enumerate() {
        assert_eq!(records[1], records[2], "case {case}");
    }
}

#[tokio::test]
async fn an_answer_that_becomes_stale_while_admission_waits_is_not_served() {
    let (redis, backend) = (Redis::start(), Backend::start().await);
    backend.plays(|_| Reply::ok("x").with("Cache-Control", "max-age=1"));
    let limits = format!("limits: {{store: \"{}\", timeout: 3s}}", redis.url());
    let config = Config::open(&backend).section(&limits);
    let config = config.route("/cached/*", "to: service, keys: none, cache: 0s, limit: 1000/min per ip");
    let gateway = Gateway::start(&config).await;
    let mut wire = gateway.wire().await;
    assert_eq!(wire.get("/cached/a", "").await.status, 200);
    redis.pause();
    let answer = wire.get("/cached/a", "").await;
    assert_eq!((answer.status, backend.requests()), (200, 2), "{answer:?}");
}

/// Hits that went the short way.
async fn at_hand(gateway: &Gateway) -> f64 {
    gateway.metrics().await.sum("tollgate_cache_at_hand_total", &[])
}

#[tokio::test]
async fn a_miss_is_admitted_once() {
    let backend = Backend::start().await;
    let guard = "flood_guard: 1000/s\ntrusted_proxies: [127.0.0.1/32]";
    let config = Config::open(&backend).section(guard);
    let config =
        config.route("/few/*", "to: service, keys: none, cache: 1min, limit: 3/h per ip, concurrency: 1 per ip");
    let gateway = Gateway::start(&config).await;
    let mut wire = gateway.wire().await;
    // Two misses and a hit.
    for path in ["/few/a", "/few/b", "/few/a"] {
        assert_eq!(wire.get(path, "X-Forwarded-For: 192.0.2.1\r\n").await.status, 200);
    }
    let refused = wire.get("/few/a", "X-Forwarded-For: 192.0.2.1\r\n").await;
    assert_eq!(refused.refused(), (429, "rate_limited".to_owned()));
    assert_eq!(wire.get("/few/a", "X-Forwarded-For: 192.0.2.2\r\n").await.status, 200, "counted for the client");
    assert_eq!((backend.requests(), at_hand(&gateway).await), (2, 2.0));
}

#[tokio::test]
async fn what_the_flood_guard_refuses_is_not_answered_from_memory() {
    let backend = Backend::start().await;
    let config = Config::open(&backend).section("flood_guard: 20/s\ntrusted_proxies: [127.0.0.1/32]");
    let gateway = Gateway::start(&config.route("/cached/*", "to: service, keys: none, cache: 1min")).await;
    let mut wire = gateway.wire().await;
    let mut statuses = Vec::new();
    for _ in 0..200 {
        statuses.push(wire.get("/cached/a", "X-Forwarded-For: 192.0.2.1\r\n").await.status);
    }
    let refused = statuses.iter().filter(|status| **status == 429).count();
    assert!(refused > 50 && statuses[1] == 200, "{statuses:?}");
    assert_eq!(at_hand(&gateway).await as usize, 199 - refused);
}

#[tokio::test]
async fn a_large_answer_comes_as_fast_as_its_client_takes_it() {
    let body: String = (0..1 << 20).map(|index| char::from(b'a' + (index % 23) as u8)).collect();
    let large = body.clone();
    let backend = Backend::scripted(move |_| Reply::ok(&large)).await;
    let config = Config::open(&backend).section("cache: {memory: 256mb}").log("{store: none, json: lines.json}");
    let config = config.route("/cached/*", "to: service, keys: none, cache: {ttl: 1min, body_max: 8mb}");
    let gateway = Gateway::start(&config).await;
    let mut wire = gateway.wire().await;
    assert_eq!(wire.get("/cached/a", "").await.text(), body);
    for _ in 0..3 {
        // Sent, and read only when the socket is full of it.
        wire.send("GET /cached/a HTTP/1.1\r\nHost: gateway.example\r\n\r\n").await;
        tokio::time::sleep(milliseconds(200)).await;
        assert_eq!(wire.answer().await.text(), body);
    }
    assert_eq!((backend.requests(), at_hand(&gateway).await), (1, 3.0));
    // One that reads nothing, and leaves.
    let mut gone = gateway.wire().await;
    for _ in 0..20 {
        gone.send("GET /cached/a HTTP/1.1\r\nHost: gateway.example\r\n\r\n").await;
        tokio::time::sleep(milliseconds(20)).await;
    }
    drop(gone);
    let lines = || std::fs::read_to_string(gateway.path("lines.json")).unwrap_or_default();
    eventually("it is told", seconds(10), async || lines().contains("client_closed")).await;
    let told: Vec<Value> = lines().lines().map(|line| serde_json::from_str(line).expect("a line")).collect();
    let gone = told.iter().find(|line| line["decided_by"] == "client_closed").expect("a line");
    assert_eq!((&gone["cache"], &gone["status_code"]), (&Value::from("hit"), &Value::from(200)));
    assert!(gone["bytes_out"].as_u64().expect("bytes") < body.len() as u64, "{gone}");
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_given_up() {
    let backend = Backend::scripted(|_| Reply::ok(&"x".repeat(8 << 20))).await;
    let config = Config::open(&backend).section("cache: {memory: 256mb}\nconnections: {body_timeout: 1s}");
    let config = config.route("/cached/*", "to: service, keys: none, cache: {ttl: 1min, body_max: 16mb}");
    let gateway = Gateway::start(&config).await;
    let mut wire = gateway.wire().await;
    assert_eq!(wire.get("/cached/a", "").await.body.len(), 8 << 20);
    let given_up =
        async || gateway.metrics().await.sum("tollgate_refusals_total", &[("reason", "client_closed")]) == 1.0;
    // Some fit into what the kernel keeps for the client.
    for _ in 0..4 {
        let sent = wire.try_send("GET /cached/a HTTP/1.1\r\nHost: gateway.example\r\n\r\n").await;
        assert!(sent.is_ok() || at_hand(&gateway).await >= 1.0, "{sent:?}");
        tokio::time::sleep(milliseconds(200)).await;
    }
    eventually("it is given up", seconds(20), given_up).await;
    assert!(at_hand(&gateway).await >= 1.0);
    let mut whole = 0;
    while wire.try_answer("GET").await.is_ok() {
        whole += 1;
    }
    assert!(whole < 4, "half an answer is none");
}

#[tokio::test]
async fn a_draining_gateway_says_so_on_hits_too() {
    let backend = Backend::start().await;
    let slow = Backend::scripted(|_| Reply::ok("slow").after(seconds(2))).await;
    let config =
        Config::open(&backend).service("slow", &[slow.address]).section("shutdown: {drain_delay: 0s, grace: 10s}");
    let config =
        config.route("/slow", "to: slow, keys: none").route("/cached/*", "to: service, keys: none, cache: 1min");
    let mut gateway = Gateway::start(&config).await;
    let (mut busy, mut wire) = (gateway.wire().await, gateway.wire().await);
    wire.get("/cached/a", "").await;
    assert_eq!(wire.get("/cached/a", "").await.header("connection"), Some("keep-alive"));
    assert_eq!(at_hand(&gateway).await, 1.0);
    busy.send("GET /slow HTTP/1.1\r\nHost: gateway.example\r\n\r\n").await;
    // A header that has begun is still answered.
    wire.send("GET /cached/a HTTP/1.1\r\nHost: gateway.example\r\n").await;
    tokio::time::sleep(milliseconds(200)).await;
    gateway.signal(Signal::SIGTERM);
    eventually("it drains", seconds(10), async || !gateway.is_ready().await).await;
    tokio::time::sleep(milliseconds(500)).await;
    wire.send("\r\n").await;
    let last = wire.answer().await;
    assert_eq!((last.status, last.header("connection")), (200, Some("close")));
    assert_eq!(busy.answer().await.text(), "slow");
    assert!(gateway.wait_exit(seconds(15)).await.success());
}
