//! Instances that misbehave: what the client is told, how soon, and that it is never told half a story as a whole one.

use std::time::Instant;

use crate::harness::{Backend, Config, Gateway, Reply, eventually, free_address, milliseconds, seconds};

const TIMEOUTS: &str = "timeouts: {connect: 500ms, response: 1s, between_bytes: 1s}";

fn patient(backend: &Backend) -> Config {
    Config::new().service_with("service", &[backend.address], TIMEOUTS).route("/*", "to: service, keys: none")
}

async fn refused_with(reply: Reply, status: u16, reason: &str) {
    let backend = Backend::scripted(move |_| reply.clone()).await;
    let gateway = Gateway::start(&patient(&backend)).await;
    let mut wire = gateway.wire().await;
    let begin = Instant::now();
    let answer = wire.get("/", "").await;
    assert_eq!(answer.refused(), (status, reason.into()));
    assert!(begin.elapsed() < seconds(3), "{:?}", begin.elapsed());
    // A connection that ends is announced, so that the client loses no request on it.
    if answer.header("connection") == Some("close") {
        wire = gateway.wire().await;
    }
    backend.plays(|_| Reply::ok("better"));
    assert_eq!(wire.get("/", "").await.text(), "better");
}

#[tokio::test]
async fn an_instance_that_does_not_answer_is_504() {
    refused_with(Reply::Hang, 504, "upstream_timeout").await;
}

#[tokio::test]
async fn an_instance_that_resets_the_connection_is_502() {
    refused_with(Reply::Reset, 502, "upstream_closed").await;
}

#[tokio::test]
async fn an_instance_that_closes_without_an_answer_is_502() {
    refused_with(Reply::RawThenClose(Vec::new()), 502, "upstream_closed").await;
}

#[tokio::test]
async fn an_instance_that_closes_within_its_header_is_502() {
    refused_with(Reply::RawThenClose(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()), 502, "upstream_closed").await;
}

#[tokio::test]
async fn an_instance_that_does_not_speak_http_is_502() {
    refused_with(Reply::RawThenClose(b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec()), 502, "upstream_invalid").await;
}

#[tokio::test]
async fn a_routes_timeout_is_shorter_than_the_services() {
    let backend = Backend::scripted(|_| Reply::Hang).await;
    let gateway =
        Gateway::start(&Config::open(&backend).route("/short", "to: service, keys: none, timeout: 500ms")).await;
    let begin = Instant::now();
    assert_eq!(gateway.get("/short").await.refused(), (504, "upstream_timeout".into()));
    assert!(begin.elapsed() < seconds(2), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_route_timeout_ends_at_the_header_so_long_downloads_live() {
    let piece = |text: &str| (milliseconds(400), text.as_bytes().to_vec());
    let pieces = vec![piece("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), piece("abc"), piece("def"), piece("ghi")];
    let backend = Backend::scripted(move |_| Reply::Pieces(pieces.clone())).await;
    let gateway = Gateway::start(&patient(&backend).route("/stream", "to: service, keys: none, timeout: 700ms")).await;
    assert_eq!(gateway.get("/stream").await.text(), "abcdefghi");
}

#[tokio::test]
async fn nobody_listening_is_502_and_the_next_instance_is_tried_first() {
    let backend = Backend::start().await;
    let dead = free_address();
    let config = Config::new()
        .service("half", &[dead, backend.address])
        .service("dead", &[dead])
        .route("/half", "to: half, keys: none")
        .route("/dead", "to: dead, keys: none")
        .log("sqlite:log.db");
    let gateway = Gateway::start(&config).await;
    for _ in 0..6 {
        assert_eq!(gateway.get("/half").await.status, 200);
        assert_eq!(gateway.post("/half").body("once").await.status, 200);
    }
    assert_eq!(backend.requests(), 12);
    assert_eq!(gateway.get("/dead").await.refused(), (502, "upstream_connect".into()));
    gateway.log_written().await;
    let tries =
        gateway.sqlite_texts("SELECT DISTINCT CAST(attempts AS TEXT) FROM api_logs WHERE path = '/half' ORDER BY 1");
    assert_eq!(tries, ["1", "2"]);
}

#[tokio::test]
async fn a_cut_body_is_not_presented_as_complete() {
    for cut in [
        "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nonly this\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n99\r\nonly this",
    ] {
        let backend = Backend::scripted(move |_| Reply::RawThenClose(cut.into())).await;
        let gateway = Gateway::start(&patient(&backend).log("sqlite:log.db")).await;
        let mut wire = gateway.wire().await;
        wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let outcome = wire.try_answer("GET").await;
        assert!(outcome.is_err() || outcome.is_ok_and(|answer| answer.status == 502), "{cut}");
    }
}

#[tokio::test]
async fn what_is_cut_garbled_or_reset_is_a_502_or_broken_off_and_the_log_says_which() {
    let raw = |text: &str| text.as_bytes().to_vec();
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n";
    let part = || [raw(head), vec![b'x'; 100_000]].concat();
    let chunked = |rest: &str| [raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), raw(rest)].concat();
    for (reply, says) in [
        (Reply::Reset, "upstream_closed"),
        (Reply::RawThenClose(Vec::new()), "upstream_closed"),
        (Reply::RawThenClose(raw("HTTP/1.1 200 OK\r\nContent-Le")), "upstream_closed"),
        (Reply::RawThenReset(raw("HTTP/1.1 200 OK\r\nContent-Le")), "upstream_closed"),
        (Reply::RawThenClose(part()), "upstream_closed"),
        (Reply::RawThenReset(part()), "upstream_closed"),
        (Reply::RawThenClose(chunked("5\r\nhello\r\n")), "upstream_closed"),
        (Reply::RawThenReset(chunked("5\r\nhello\r\n")), "upstream_closed"),
        (Reply::RawThenClose(chunked("5\r\nhel")), "upstream_closed"),
        (Reply::RawThenClose(chunked("0\r\n")), "upstream_closed"),
        (Reply::RawThenClose(chunked("5\r\nhello\r\nno chunk\r\n")), "upstream_invalid"),
        (Reply::RawThenClose(chunked("ffffffffffffffffff\r\nhello")), "upstream_invalid"),
        (Reply::RawThenClose(raw("220 mail.example ESMTP\r\n\r\n")), "upstream_invalid"),
        (Reply::RawThenClose(raw("HTTP/1.1 abc OK\r\n\r\n")), "upstream_invalid"),
        (Reply::RawThenClose(raw("HTTP/1.1 200 OK\r\nno colon\r\n\r\n")), "upstream_invalid"),
        (Reply::RawThenClose(raw("HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nhello")), "upstream_invalid"),
        (
            Reply::RawThenClose(raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello")),
            "upstream_invalid",
        ),
    ] {
        let story = format!("{reply:?}").chars().take(120).collect::<String>();
        let backend = Backend::scripted(move |_| reply.clone()).await;
        let gateway = Gateway::start(&patient(&backend).log("sqlite:log.db")).await;
        let mut wire = gateway.wire().await;
        wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
        let outcome = wire.try_answer("POST").await;
        if let Ok(answer) = &outcome {
            assert_eq!(answer.refused(), (502, says.into()), "{story}");
        }
        gateway.log_written().await;
        let logged = gateway.sqlite_texts("SELECT decided_by || ' ' || status_code FROM api_logs");
        let status = if outcome.is_ok() { 502 } else { 200 };
        assert_eq!(logged, [format!("{says} {status}")], "{story}");
    }
}

#[tokio::test]
async fn a_body_that_stalls_is_cut_after_between_bytes() {
    let pieces = vec![
        (milliseconds(0), b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_vec()),
        (seconds(20), b"never.".to_vec()),
    ];
    let backend = Backend::scripted(move |_| Reply::Pieces(pieces.clone())).await;
    let gateway = Gateway::start(&patient(&backend)).await;
    let mut wire = gateway.wire().await;
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let begin = Instant::now();
    assert!(wire.try_answer("GET").await.is_err());
    assert!(begin.elapsed() < seconds(5), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn pooled_connections_that_an_instance_closes_cost_no_request() {
    let backend =
        Backend::scripted(|_| Reply::RawThenClose(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec())).await;
    let gateway = Gateway::start(&patient(&backend)).await;
    for _ in 0..50 {
        assert_eq!(gateway.get("/").await.text(), "ok");
    }
}

#[tokio::test]
async fn connections_to_an_instance_are_kept() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&patient(&backend)).await;
    for _ in 0..50 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    assert!(backend.connections() <= 2, "{} connections for 50 requests", backend.connections());
}

#[tokio::test]
async fn weights_share_out_the_requests() {
    let (one, two) = (Backend::named("one").await, Backend::named("two").await);
    let config = Config::new()
        .section(&format!(
            "services:\n  service: {{instances: [{{address: \"{}\", weight: 3}}, \"{}\"]}}",
            one.address, two.address
        ))
        .route("/*", "to: service, keys: none");
    let gateway = Gateway::start(&config).await;
    for _ in 0..40 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    assert_eq!((one.requests(), two.requests()), (30, 10));
}

#[tokio::test]
async fn an_instance_may_be_a_name() {
    let backend = Backend::start().await;
    let named = |host: &str| {
        Config::new()
            .section(&format!("services:\n  service: [\"{host}:{}\"]", backend.address.port()))
            .route("/*", "to: service, keys: none")
    };
    let gateway = Gateway::start(&named("localhost")).await;
    assert_eq!(gateway.get("/").await.status, 200);
    let refused = gateway.try_reload(&named("no-such-name.invalid")).await;
    assert_eq!(refused.status, 422);
    assert!(refused.json()["problems"].to_string().contains("no-such-name.invalid"), "{}", refused.text());
}

// Health checks.

fn checked(one: &Backend, two: &Backend) -> Config {
    let health = "health: {path: /health, every: 200ms, timeout: 200ms, healthy_after: 1, unhealthy_after: 2}";
    Config::new().service_with("service", &[one.address, two.address], health).route("/*", "to: service, keys: none")
}

#[tokio::test]
async fn an_unhealthy_instance_gets_no_requests_until_it_recovers() {
    let (one, two) = (Backend::named("one").await, Backend::named("two").await);
    let gateway = Gateway::start(&checked(&one, &two)).await;
    let sick = |seen: &crate::harness::Seen| match seen.target.as_str() {
        "/health" => Reply::status(500, ""),
        _ => Reply::ok("").with("X-Instance", "one"),
    };
    one.plays(sick);
    let up = async |expected: f64| {
        gateway.metrics().await.sum("tollgate_upstream_up", &[("service", "service")]) == expected
    };
    eventually("one is down", seconds(5), async || up(1.0).await).await;
    for _ in 0..10 {
        assert_eq!(gateway.get("/x").await.instance(), "two");
    }
    one.plays(|_| Reply::ok("").with("X-Instance", "one"));
    eventually("one is up again", seconds(5), async || up(2.0).await).await;
    eventually("one is asked again", seconds(2), async || gateway.get("/x").await.instance() == "one").await;
}

#[tokio::test]
async fn with_every_instance_unhealthy_the_answer_is_503_and_health_says_so() {
    let (one, two) =
        (Backend::scripted(|_| Reply::status(500, "")).await, Backend::scripted(|_| Reply::status(500, "")).await);
    let gateway = Gateway::start(&checked(&one, &two)).await;
    eventually("both are down", seconds(5), async || gateway.admin_get("/health/services").await.status == 503).await;
    let answer = gateway.get("/x").await;
    assert_eq!(answer.refused(), (503, "no_instance".into()));
    assert!(answer.header("retry-after").is_some());
    assert_eq!(gateway.admin_get("/health").await.json()["status"], "degraded");
    assert_eq!(gateway.admin_get("/ready").await.status, 200, "the gateway itself is ready");
}

#[tokio::test]
async fn health_survives_a_reload_that_does_not_change_the_service() {
    let (one, two) = (Backend::scripted(|_| Reply::status(500, "")).await, Backend::named("two").await);
    let gateway = Gateway::start(&checked(&one, &two)).await;
    let down = async || gateway.metrics().await.sum("tollgate_upstream_up", &[]) == 1.0;
    eventually("one is down", seconds(5), down).await;
    gateway.reload(&checked(&one, &two).key("alice")).await;
    assert!(down().await, "health begins anew after a reload");
}
