//! Requests that are allowed, or nearly so, and that few clients send: pipelined, in absolute form, with methods and
//! bytes nobody expects. Whatever they are, the answer is right or a refusal, and the log takes them.

use crate::harness::{Backend, Config, Gateway, Mariadb, eventually, milliseconds, seconds};

#[tokio::test]
async fn pipelined_requests_never_get_each_others_answers() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    let mut wire = gateway.wire().await;
    let requests: String = (1..=3).map(|number| format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    wire.send(requests).await;
    assert_eq!(wire.answer().await.text(), "/1");
    // Further ones are answered in their order, or the connection ends: then a client sends them again.
    for number in 2..=3 {
        match wire.try_answer("GET").await {
            Ok(answer) => assert_eq!(answer.text(), format!("/{number}")),
            Err(_) => break,
        }
    }
}

#[tokio::test]
async fn a_request_pipelined_behind_a_body_is_not_lost_in_it() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    let mut wire = gateway.wire().await;
    wire.send("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbodyGET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let first = wire.answer().await;
    assert_eq!((first.status, first.text().as_str()), (200, "/1"));
    assert_eq!(backend.seen()[0].body, b"body");
    if let Ok(second) = wire.try_answer("GET").await {
        assert_eq!(second.text(), "/2");
    }
}

#[tokio::test]
async fn a_host_that_contradicts_the_request_line_is_refused() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    let mut wire = gateway.wire().await;
    wire.send("GET http://one.example/ HTTP/1.1\r\nHost: two.example\r\n\r\n").await;
    assert_eq!(wire.answer().await.status, 400);
    assert_eq!(backend.requests(), 0);
}

#[tokio::test]
async fn options_of_the_server_and_connect_are_not_forwarded() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    for (head, status) in [("OPTIONS * HTTP/1.1", 400), ("CONNECT a.example:443 HTTP/1.1", 405)] {
        let mut wire = gateway.wire().await;
        wire.send(format!("{head}\r\nHost: a.example:443\r\n\r\n")).await;
        assert_eq!(wire.answer().await.status, status, "{head}");
    }
    assert_eq!(backend.requests(), 0);
}

#[tokio::test]
async fn any_method_is_forwarded_where_the_route_admits_all() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    for method in ["OPTIONS", "TRACE", "PROPFIND", "M-SEARCH", "purge"] {
        let mut wire = gateway.wire().await;
        wire.send(format!("{method} /x HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert_eq!(wire.answer().await.status, 200, "{method}");
        assert_eq!(backend.last().method, method);
    }
}

#[tokio::test]
async fn two_keys_in_one_request_are_not_a_lottery() {
    let backend = Backend::start().await;
    let config = Config::new().service("service", &[backend.address]).route("/*", "to: service").key("alice");
    let gateway = Gateway::start(&config).await;
    for lines in ["X-API-Key: wrong\r\nX-API-Key: alice\r\n", "X-API-Key: alice\r\nX-API-Key: wrong\r\n"] {
        let answer = gateway.wire().await.get("/", lines).await;
        assert_eq!(answer.refused(), (400, "ambiguous_key".into()), "{lines}");
    }
    assert_eq!(backend.requests(), 0);
}

#[tokio::test]
async fn keys_of_any_shape_are_only_unknown() {
    let backend = Backend::start().await;
    let config = Config::new().service("service", &[backend.address]).route("/*", "to: service").key("alice");
    let gateway = Gateway::start(&config).await;
    let long = "k".repeat(8_000);
    for (lines, reason) in [
        ("X-API-Key: \r\n", "no_key"),
        ("X-API-Key: alice \u{e9}\r\n", "unknown_key"),
        ("Authorization: Basic YWxpY2U=\r\n", "no_key"),
        ("Authorization: Bearer\r\n", "no_key"),
        (&format!("X-API-Key: {long}\r\n"), "unknown_key"),
    ] {
        let answer = gateway.wire().await.get("/", lines).await;
        assert_eq!(answer.refused(), (401, reason.into()), "{}", &lines[..30.min(lines.len() - 2)]);
    }
    assert_eq!(gateway.wire().await.get("/", "Authorization: bearer alice\r\n").await.status, 200);
}

#[tokio::test]
async fn rows_of_odd_requests_are_taken_by_mariadb() {
    let (backend, mariadb) = (Backend::start().await, Mariadb::start().await);
    let gateway = Gateway::start(&Config::open(&backend).log(&format!("\"{}\"", mariadb.url()))).await;
    let long = "x".repeat(5_000);
    let method = "M".repeat(60);
    let requests: [Vec<u8>; 8] = [
        b"GET /plain HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        b"GET /agent HTTP/1.1\r\nHost: a\r\nUser-Agent: \xff\xfe\xf0\x9f\x98\x80 caf\xc3\xa9\r\n\r\n".into(),
        format!("GET /long-agent HTTP/1.1\r\nHost: a\r\nUser-Agent: {}\r\n\r\n", "\u{e9}".repeat(255)).into(),
        format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n").into(),
        format!("{method} /method HTTP/1.1\r\nHost: a\r\n\r\n").into(),
        b"GET /\xf0\x9f\x98\x80/\xff HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        format!("GET /host HTTP/1.1\r\nHost: {}.example\r\n\r\n", "h".repeat(60)).into(),
        format!("GET /id HTTP/1.1\r\nHost: a\r\nX-Request-Id: {}\r\n\r\n", "\u{1f600}".repeat(100)).into(),
    ];
    for request in &requests {
        let mut wire = gateway.wire().await;
        wire.send(request).await;
        let answer = wire.answer().await;
        assert!(answer.status == 200 || answer.status == 400, "{}: {answer:?}", String::from_utf8_lossy(request));
    }
    let metrics = gateway.log_written().await;
    assert_eq!(metrics.sum("tollgate_log_records_dropped_total", &[]), 0.0);
    let accepted = metrics.sum("tollgate_log_records_total", &[("state", "accepted")]) as i64;
    assert!(accepted >= 7, "{accepted}");
    assert_eq!(mariadb.number("SELECT COUNT(*) FROM api_logs").await, accepted);
    assert_eq!(mariadb.number("SELECT COUNT(*) FROM api_logs WHERE path = '/plain'").await, 1);
}

#[tokio::test]
async fn a_locked_sqlite_file_delays_rows_but_no_request() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend).log("sqlite:log.db")).await;
    gateway.get("/").await;
    gateway.log_written().await;
    let other = rusqlite::Connection::open(gateway.path("log.db")).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    for _ in 0..50 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    tokio::time::sleep(seconds(7)).await;
    assert_eq!(gateway.get("/").await.status, 200);
    other.execute_batch("COMMIT").unwrap();
    let metrics = gateway.log_written().await;
    assert_eq!(metrics.sum("tollgate_log_records_total", &[("state", "written")]), 52.0);
    assert_eq!(gateway.sqlite_number("SELECT COUNT(*) FROM api_logs"), 52);
}

#[tokio::test]
async fn a_bad_reload_by_signal_is_said_and_changes_nothing() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    gateway.write(&Config::open(&backend).route("/bad", "to: nowhere"));
    gateway.signal(crate::harness::Signal::SIGHUP);
    eventually("the problem is said", seconds(5), async || gateway.said().contains("routes./bad.to")).await;
    assert_eq!(gateway.get("/").await.status, 200);
    assert_eq!(gateway.metrics().await.sum("tollgate_config_reloads_total", &[("result", "failure")]), 1.0);
    tokio::time::sleep(milliseconds(100)).await;
    assert_eq!(gateway.metrics().await.sum("tollgate_config_generation", &[]), 1.0);
}
