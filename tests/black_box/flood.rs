//! The flood guard: first of all checks, by address, before a key is even looked at.

use crate::harness::{Authority, Backend, Config, Gateway, Load, Wire, seconds};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_floods_is_refused_before_anything_else() {
    let backend = Backend::start().await;
    let config = Config::new()
        .service("service", &[backend.address])
        .route("/*", "to: service")
        .section("flood_guard: 50/s per ip");
    let gateway = Gateway::start(&config).await;
    let tally = Load::get(gateway.address, "/", "").run(4, 400).await;
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    assert!(tally.of(429) > 100, "{:?}", tally.statuses);
    let answer = gateway.get("/").await;
    if answer.status == 429 {
        assert_eq!(answer.refusal(), "flood_guard");
        assert!(answer.header("retry-after").is_some());
    }
    let metrics = gateway.metrics().await;
    assert!(metrics.sum("tollgate_refusals_total", &[("reason", "flood_guard")]) > 100.0);
    assert_eq!(gateway.admin_get("/health").await.status, 200, "the admin listener is not guarded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_below_the_rate_is_left_alone() {
    let backend = Backend::start().await;
    let config = Config::open(&backend).section("flood_guard: 50/s per ip\ntrusted_proxies: [127.0.0.1/32]");
    let gateway = Gateway::start(&config).await;
    let flood = Load::get(gateway.address, "/", "X-Forwarded-For: 198.51.100.1\r\n").start(2);
    for _ in 0..30 {
        assert_eq!(gateway.get("/").header("x-forwarded-for", "198.51.100.2").await.status, 200);
        tokio::time::sleep(crate::harness::milliseconds(50)).await;
    }
    assert!(flood.stop().await.of(429) > 0);
}

#[tokio::test]
async fn there_is_no_guard_where_none_is_written() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    Load::get(gateway.address, "/", "").run(4, 2_000).await.all(200);
}

/// Asks until the guard refuses; the refusal.
async fn until_refused(wire: &mut Wire, path: &str) -> crate::harness::Answer {
    for _ in 0..100 {
        let answer = wire.get(path, "User-Agent: flooder\r\nX-Request-Id: abc\r\n").await;
        if answer.status == 429 {
            return answer;
        }
    }
    panic!("100 requests in a second were admitted");
}

#[tokio::test]
async fn a_refused_connection_goes_on_and_is_answered_when_the_window_ends() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend).section("flood_guard: 5/s per ip")).await;
    let mut wire = gateway.wire().await;
    let refused = until_refused(&mut wire, "/").await;
    assert_eq!(refused.refusal(), "flood_guard");
    assert_eq!(refused.header("connection"), Some("keep-alive"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.header("content-type"), Some("application/problem+json"));
    assert!(refused.header("date").is_some_and(httpdate_like), "{refused:?}");
    assert!(refused.header("x-request-id").is_some());
    tokio::time::sleep(seconds(1)).await;
    assert_eq!(wire.get("/", "").await.status, 200);
}

/// `Sat, 21 Nov 2026 05:41:48 GMT`
fn httpdate_like(date: &str) -> bool {
    date.len() == 29 && date.ends_with(" GMT")
}

#[tokio::test]
async fn every_refused_request_has_its_record() {
    let backend = Backend::start().await;
    let config = Config::open(&backend).section("flood_guard: 5/h per ip").log("sqlite:log.db");
    let gateway = Gateway::start(&config).await;
    let mut wire = gateway.wire().await;
    let id = until_refused(&mut wire, "/some/path?secret=1").await.header("x-request-id").unwrap().to_owned();
    let asked = backend.requests();
    gateway.log_written().await;
    assert_eq!(gateway.sqlite_number("select count(*) from api_logs where status_code = 200"), asked as i64);
    let row = "select path || ' ' || http_method || ' ' || decided_by || ' ' || user_agent || ' ' || client_request_id || ' ' || \
               (bytes_out > 100) || ' ' || lower(hex(request_id)) from api_logs where status_code = 429";
    let hex = id.replace('-', "");
    let rows = gateway.sqlite_texts(row);
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert!(rows[0].starts_with("/some/path GET flood_guard flooder abc "), "{rows:?}");
    assert!(rows[0].ends_with(&format!(" 1 {hex}")), "{rows:?}");
}

#[tokio::test]
async fn a_refused_request_that_is_not_over_with_its_header_ends_the_connection() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend).section("flood_guard: 5/h per ip")).await;
    until_refused(&mut gateway.wire().await, "/").await;
    for request in [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
    ] {
        let mut wire = gateway.wire().await;
        wire.send(request).await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.header("connection")), (429, Some("close")), "{request:?}");
        assert!(wire.closes_within(seconds(2)).await, "{request:?}");
    }
    // HEAD has the same header and no body; what follows on the connection is its own answer.
    let mut wire = gateway.wire().await;
    wire.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(wire.answer_to_head().await.status, 429);
    assert_eq!(wire.get("/", "").await.refusal(), "flood_guard");
}

#[tokio::test]
async fn a_header_with_many_fields_is_no_way_around_the_guard() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend).section("flood_guard: 5/h per ip")).await;
    let mut wire = gateway.wire().await;
    until_refused(&mut wire, "/").await;
    assert_eq!(wire.get("/", &"X-Filler: 1\r\n".repeat(100)).await.refusal(), "flood_guard");
}

#[tokio::test]
async fn what_is_no_request_is_not_taken_for_a_flood() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend).section("flood_guard: 5/h per ip")).await;
    until_refused(&mut gateway.wire().await, "/").await;
    let mut wire = gateway.wire().await;
    wire.send("GET / HTTP/1.1 and more\r\n\r\n").await;
    assert_eq!(wire.answer().await.status, 400);
    assert!(gateway.metrics().await.sum("tollgate_rejected_total", &[("reason", "malformed")]) >= 1.0);
}

#[tokio::test]
async fn floods_over_http2_and_http1_count_together() {
    let backend = Backend::start().await;
    let authority = Authority::of("a.example");
    let folder = crate::harness::Folder::new();
    authority.write(&folder);
    let listen = format!("[{{address: \"{{main}}\", tls: [{}]}}, {{address: \"{{second}}\"}}]", authority.entry());
    let config = Config::open(&backend).listen(&listen).section("flood_guard: 5/h per ip");
    let gateway = Gateway::start_in(folder, &config).await;
    let client = authority.client(gateway.address);
    let url = format!("https://a.example:{}/", gateway.address.port());
    let mut statuses = Vec::new();
    for _ in 0..8 {
        statuses.push(client.get(&url).send().await.expect("an answer").status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429, 429]);
    let mut plain = Wire::open(gateway.second).await;
    assert_eq!(plain.get("/", "").await.refusal(), "flood_guard");
}
