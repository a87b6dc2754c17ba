//! Fresh hits are answered before Pingora is entered. Whoever is answered that way and whoever is not must not be able to tell:
//! the same requests are asked both ways, and answers and records compared.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use crate::harness::{Answer, Backend, Config, Gateway, Reply, Seen, Wire, eventually, seconds};

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
    ("/old/*", "to: service, keys: none, cache: {ttl: 1min, surrogate_control: true, partial: true, set_cookie: strip}"),
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

const PATHS: [&str; 12] =
    ["a", "a?x=1&utm_a=b", "a?utm_c=d&x=1", "b?b=2&a=1", "b?a=1&b=2", "./a", "%61", "c", "d", "e?", "f", "g"];

/// What an instance answers depends on the path, and on what `Vary` says it does.
fn script(seen: &Seen) -> Reply {
    let of = |name: &str| seen.all(name).join(",");
    let body = format!("{} {} {}", seen.target, of("accept-language"), of("x-tenant")).repeat(40);
    let reply = Reply::ok(&body).with("Content-Type", "text/plain").with("Vary", "Accept-Language");
    let name = seen.target.split(['?']).next().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    match name {
        "a" => reply.with("ETag", "\"1\"").with("Cache-Tag", "t1, t2").with("Age", "5").with("Cache-Control", "max-age=90"),
        "b" => reply.with("Date", "Sun, 06 Nov 1994 08:49:37 GMT").with("X-Twice", "1").with("X-Twice", "2"),
        "c" => reply.with("Set-Cookie", "a=1").with("Cache-Control", "public, s-maxage=60"),
        "d" => reply.with("Surrogate-Control", "max-age=60").with("Cache-Control", "private"),
        "e" => Reply::status(404, "not here").with("Cache-Status", "origin; hit"),
        "f" => Reply::ok(&"x".repeat(200_000)).with("Content-Type", "text/html; charset=utf-8"),
        _ => Reply::status(301, "").with("Location", "/elsewhere").with("Access-Control-Allow-Origin", "*"),
    }
}

fn any_request(random: &mut StdRng) -> String {
    let (route, _) = ROUTES.choose(random).expect("routes");
    let path = PATHS.choose(random).expect("paths");
    let host = ["gateway.example", "Gateway.example:80", "other.example"].choose(random).expect("hosts");
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
        // What it finds is what this stored, where it is stored at all.
        ask(&mut wire, &format!("{request}{OTHER_WAY}")).await;
        let ways = [request.clone(), format!("{request}{OTHER_WAY}")];
        let mut answers = Vec::new();
        for way in &ways {
            answers.push(ask(&mut wire, way).await);
        }
        assert_eq!(compared(&answers[0]), compared(&answers[1]), "case {case}: {request}");
        let told = answers[0].headers.get_all("cache-status").iter();
        hits += u32::from(told.into_iter().any(|status| status.as_bytes().starts_with(b"tollgate; hit")));
    }
    let at_hand = gateway.metrics().await.sum("tollgate_cache_at_hand_total", &[]);
    // All hits but those of routes that obey wishes, for requests that have some.
    assert!(hits > CASES as u32 / 3 && at_hand >= f64::from(hits) * 0.95, "{at_hand} of {hits}");
    assert!(at_hand <= f64::from(hits), "{at_hand} of {hits}: the other way was not the other way");
    let lines = || std::fs::read_to_string(gateway.path("lines.json")).unwrap_or_default();
    eventually("all lines are written", seconds(10), async || lines().lines().count() == CASES * 3).await;
    let records: Vec<Value> = lines().lines().map(record).collect();
    for (case, records) in records.chunks(3).enumerate() {
        assert_eq!(records[1], records[2], "case {case}");
    }
}
