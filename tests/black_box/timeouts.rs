//! How long an instance may take with each part of its answer, and which time-out the log then names.

use std::time::{Duration, Instant};

use crate::harness::{Authority, Backend, Config, Folder, Gateway, Relay, Reply, milliseconds, seconds};

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n";

fn timed(backend: &Backend, service: &str, route: &str) -> Config {
    Config::new()
        .service_with("service", &[backend.address], service)
        .route("/*", &format!("to: service, keys: none{route}"))
        .log("sqlite:log.db")
}

/// Each after so many milliseconds.
fn pieces(pieces: &[(u64, &str)]) -> Reply {
    Reply::Pieces(pieces.iter().map(|(pause, bytes)| (milliseconds(*pause), bytes.as_bytes().to_vec())).collect())
}

/// A header that is never complete, a byte every 50 ms.
fn dripping_header() -> Reply {
    let drops = (0..2_000).map(|_| (milliseconds(50), b"a".to_vec()));
    Reply::Pieces(std::iter::once((Duration::ZERO, b"HTTP/1.1 200 OK\r\nX-Drip: ".to_vec())).chain(drops).collect())
}

/// A GET is answered 504 no sooner than `least`, and long before a time-out that begins anew with each byte would end it.
async fn is_late(reply: Reply, service: &str, route: &str, least: Duration, named: &str) {
    let backend = Backend::scripted(move |_| reply.clone()).await;
    let gateway = Gateway::start(&timed(&backend, service, route)).await;
    let begin = Instant::now();
    assert_eq!(gateway.get("/").await.refused(), (504, "upstream_timeout".into()));
    assert!(begin.elapsed() >= least && begin.elapsed() < seconds(10), "{:?}", begin.elapsed());
    logged(&gateway, "upstream_timeout", named).await;
}

/// A GET over a plain connection, and what comes of the answer.
async fn raw(gateway: &Gateway, lines: &str) -> (std::io::Result<String>, Duration) {
    let mut wire = gateway.wire().await;
    let begin = Instant::now();
    wire.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).await;
    let answer = wire.try_answer("GET").await.map(|answer| answer.text());
    (answer, begin.elapsed())
}

async fn logged(gateway: &Gateway, decided_by: &str, timeout: &str) {
    gateway.log_written().await;
    let rows = gateway.sqlite_texts("SELECT decided_by || ' ' || COALESCE(limit_name, '-') FROM api_logs");
    assert_eq!(rows, [format!("{decided_by} {timeout}")]);
}

#[tokio::test]
async fn a_header_that_drips_is_late_after_response() {
    is_late(dripping_header(), "timeouts: {response: 700ms}", "", milliseconds(700), "response").await;
}

#[tokio::test]
async fn interim_answers_do_not_restart_the_wait() {
    for interim in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"] {
        let again: Vec<_> = (0..2_000).map(|_| (milliseconds(100), interim.as_bytes().to_vec())).collect();
        let silent = vec![(milliseconds(100), interim.as_bytes().to_vec()), (seconds(60), Vec::new())];
        for reply in [again, silent] {
            let backend = Backend::scripted(move |_| Reply::Pieces(reply.clone())).await;
            let gateway = Gateway::start(&timed(&backend, "timeouts: {response: 700ms}", "")).await;
            let mut wire = gateway.wire().await;
            let begin = Instant::now();
            wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let all = wire.rest(seconds(10)).await;
            assert!(all.contains("HTTP/1.1 504") && all.contains("upstream_timeout"), "{all}");
            assert!(begin.elapsed() >= milliseconds(700) && begin.elapsed() < seconds(10), "{:?}", begin.elapsed());
            logged(&gateway, "upstream_timeout", "response").await;
        }
    }
}

#[tokio::test]
async fn a_late_header_on_a_pooled_connection_is_late_too() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&timed(&backend, "timeouts: {response: 700ms}", "")).await;
    let mut wire = gateway.wire().await;
    for _ in 0..3 {
        assert_eq!(wire.get("/", "").await.status, 200);
    }
    backend.plays(|_| dripping_header());
    assert_eq!(wire.get("/", "").await.refused(), (504, "upstream_timeout".into()));
    backend.plays(|_| Reply::ok("better"));
    assert_eq!(gateway.get("/").await.text(), "better");
}

#[tokio::test]
async fn the_time_of_an_answer_begins_with_the_end_of_the_request() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&timed(&backend, "timeouts: {response: 600ms}", ", timeout: 700ms")).await;
    let mut wire = gateway.wire().await;
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n").await;
    for _ in 0..10 {
        wire.send("xx").await;
        tokio::time::sleep(milliseconds(150)).await;
    }
    assert_eq!(wire.answer().await.status, 200);
    backend.plays(|_| dripping_header());
    let begin = Instant::now();
    assert_eq!(gateway.post("/").body("x").await.refused(), (504, "upstream_timeout".into()));
    assert!(begin.elapsed() >= milliseconds(600));
}

#[tokio::test]
async fn a_gap_between_bytes_is_bounded_where_an_answer_may_take_longer_and_where_less() {
    // A silence without an end is noticed after the longer of both at the latest, a gap when the next piece comes.
    for (service, gap, is_cut, named) in [
        ("timeouts: {response: 20s, between_bytes: 500ms}", 1_500, true, "upstream_timeout between_bytes"),
        ("timeouts: {response: 500ms, between_bytes: 500ms}", 60_000, true, "upstream_timeout between_bytes"),
        ("timeouts: {response: 500ms, between_bytes: 20s}", 1_500, false, "upstream -"),
    ] {
        let body = pieces(&[(0, HEAD), (0, "\r\nabc"), (gap, "def"), (10, "ghi")]);
        let backend = Backend::scripted(move |_| body.clone()).await;
        let gateway = Gateway::start(&timed(&backend, service, "")).await;
        let (answer, took) = raw(&gateway, "").await;
        assert_eq!(answer.is_err(), is_cut, "{service}: {answer:?}");
        assert!(took < seconds(10), "{took:?}");
        let (decided_by, timeout) = named.split_once(' ').expect("two words");
        logged(&gateway, decided_by, timeout).await;
    }
}

#[tokio::test]
async fn a_header_may_take_longer_than_a_gap_and_a_body_longer_than_a_header() {
    let late = pieces(&[(1_000, HEAD), (0, "\r\nabc"), (100, "def"), (100, "ghi")]);
    let backend = Backend::scripted(move |_| late.clone()).await;
    let gateway = Gateway::start(&timed(&backend, "timeouts: {response: 20s, between_bytes: 500ms}", "")).await;
    assert_eq!(raw(&gateway, "").await.0.unwrap(), "abcdefghi");
    let long = pieces(&[(0, HEAD), (0, "\r\nabc"), (700, "def"), (700, "ghi")]);
    backend.plays(move |_| long.clone());
    gateway.reload(&timed(&backend, "timeouts: {response: 500ms, between_bytes: 20s}", ", timeout: 600ms")).await;
    assert_eq!(raw(&gateway, "").await.0.unwrap(), "abcdefghi");
}

#[tokio::test]
async fn a_body_below_the_least_rate_is_cut_and_streams_are_not() {
    let drip = |kind: &str| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: 60\r\n\r\n");
        let drops = (0..60).map(|_| (milliseconds(50), b"x".to_vec()));
        Reply::Pieces(std::iter::once((Duration::ZERO, head.into_bytes())).chain(drops).collect())
    };
    let backend = Backend::scripted(move |seen| drip(seen.header("x-kind").expect("a kind"))).await;
    let slow = |rate: &str| format!("timeouts: {{between_bytes: 1s, rate_min: {rate}}}");
    let gateway = Gateway::start(&timed(&backend, &slow("1kb"), "")).await;
    let (answer, took) = raw(&gateway, "X-Kind: text/plain\r\n").await;
    assert!(answer.is_err() && took >= seconds(1), "{answer:?} after {took:?}");
    logged(&gateway, "upstream_timeout", "rate_min").await;
    for kind in ["text/event-stream", "application/grpc+proto"] {
        assert_eq!(raw(&gateway, &format!("X-Kind: {kind}\r\n")).await.0.unwrap().len(), 60);
    }
    gateway.reload(&timed(&backend, &slow("0b"), "")).await;
    assert_eq!(raw(&gateway, "X-Kind: text/plain\r\n").await.0.unwrap().len(), 60);
}

#[tokio::test]
async fn a_client_that_reads_slowly_is_not_held_against_the_instance() {
    let body = || Reply::Answer { status: 200, headers: Vec::new(), body: vec![b'x'; 40 << 20] };
    let backend = Backend::scripted(move |_| body()).await;
    let service = "timeouts: {between_bytes: 300ms, response: 20s, rate_min: 1mb}, breaker: {failures: 1}";
    let gateway = Gateway::start(&timed(&backend, service, "")).await;
    let mut wire = gateway.wire().await;
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    for _ in 0..3 {
        wire.bytes(1 << 20).await;
        tokio::time::sleep(milliseconds(700)).await;
    }
    wire.bytes(37 << 20).await;
    assert_eq!(gateway.get("/").await.status, 200);
}

#[tokio::test]
async fn an_event_stream_may_be_silent_for_as_long_as_a_connection_may_be_idle() {
    let events = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 6\r\n\r\none";
    let stream = pieces(&[(0, events), (1_500, "two")]);
    let backend = Backend::scripted(move |_| stream.clone()).await;
    let config = timed(&backend, "timeouts: {response: 500ms, between_bytes: 500ms}", ", timeout: 500ms");
    let gateway = Gateway::start(&config).await;
    assert_eq!(raw(&gateway, "Accept: text/event-stream\r\n").await.0.unwrap(), "onetwo");
    gateway.reload(&config.section("connections: {idle_timeout: 700ms}")).await;
    let (answer, _) = raw(&gateway, "Accept: text/event-stream\r\n").await;
    assert!(answer.is_err(), "{answer:?}");
}

#[tokio::test]
async fn an_idle_tunnel_ends_and_one_with_bytes_lives() {
    let backend = Backend::scripted(|_| Reply::Tunnel).await;
    let config = timed(&backend, "timeouts: {response: 500ms, between_bytes: 500ms}", ", timeout: 500ms")
        .section("connections: {idle_timeout: 1500ms}");
    let gateway = Gateway::start(&config).await;
    let handshake = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let mut wire = gateway.wire().await;
    assert_eq!(wire.get("/", handshake).await.status, 101);
    for _ in 0..4 {
        tokio::time::sleep(milliseconds(700)).await;
        wire.send("ping").await;
        assert_eq!(wire.bytes(4).await, b"ping");
    }
    let begin = Instant::now();
    assert!(wire.closes_within(seconds(10)).await);
    assert!(begin.elapsed() >= milliseconds(1_400), "{:?}", begin.elapsed());
    logged(&gateway, "upstream_timeout", "idle").await;
}

#[tokio::test]
async fn the_handshake_of_a_tunnel_is_no_tunnel() {
    let handshake = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let backend = Backend::scripted(|_| Reply::Hang).await;
    let gateway = Gateway::start(&timed(&backend, "timeouts: {response: 500ms}", "")).await;
    let begin = Instant::now();
    let answer = gateway.wire().await.get("/", handshake).await;
    assert_eq!(answer.refused(), (504, "upstream_timeout".into()));
    assert!(begin.elapsed() < seconds(10), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn the_routes_time_is_over_all_tries_however_they_drip() {
    let retry = "retry: {attempts: 10, try_timeout: 300ms, base_delay: 1ms, budget: 1000%, budget_floor: 1000}";
    is_late(dripping_header(), retry, ", timeout: 800ms", milliseconds(800), "route_timeout").await;
}

#[tokio::test]
async fn each_try_has_its_own_time_however_it_drips() {
    let retry = "retry: {attempts: 3, try_timeout: 300ms, base_delay: 1ms, budget: 1000%, budget_floor: 1000}";
    let backend = Backend::scripted(move |_| dripping_header()).await;
    let gateway = Gateway::start(&timed(&backend, retry, "")).await;
    let begin = Instant::now();
    assert_eq!(gateway.get("/").await.refused(), (504, "upstream_timeout".into()));
    assert!(begin.elapsed() >= milliseconds(900) && begin.elapsed() < seconds(10), "{:?}", begin.elapsed());
    assert_eq!(backend.requests(), 3);
    logged(&gateway, "upstream_timeout", "try_timeout").await;
    // A gap in a body is none of its business.
    let slow = pieces(&[(0, HEAD), (0, "\r\nabc"), (700, "def"), (700, "ghi")]);
    backend.plays(move |_| slow.clone());
    assert_eq!(raw(&gateway, "").await.0.unwrap(), "abcdefghi");
}

#[tokio::test]
async fn connecting_has_a_time_of_its_own() {
    // A listener whose queue is full takes no more connections, and says nothing.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    shorten_queue(&listener);
    let mut full = Vec::new();
    for _ in 0..8 {
        full.push(tokio::spawn(tokio::net::TcpStream::connect(address)));
    }
    tokio::time::sleep(milliseconds(200)).await;
    let config = Config::new()
        .service_with("service", &[address], "timeouts: {connect: 400ms}")
        .route("/*", "to: service, keys: none")
        .log("sqlite:log.db");
    let gateway = Gateway::start(&config).await;
    assert_eq!(gateway.get("/").await.refused(), (504, "upstream_timeout".into()));
    logged(&gateway, "upstream_timeout", "connect").await;
}

/// A queue of one.
fn shorten_queue(listener: &std::net::TcpListener) {
    use nix::sys::socket::{Backlog, listen};
    listen(listener, Backlog::new(1).expect("a short queue")).expect("it listens anew");
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_tls() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = silent.local_addr().expect("its address");
    let config = Config::new()
        .service_with("service", &[address], "tls: {sni: a.example}, timeouts: {connect: 200ms, tls: 300ms}")
        .route("/*", "to: service, keys: none")
        .log("sqlite:log.db");
    let gateway = Gateway::start(&config).await;
    assert_eq!(gateway.get("/").await.refused(), (504, "upstream_timeout".into()));
    logged(&gateway, "upstream_timeout", "tls").await;
}

#[tokio::test]
async fn a_handshake_may_take_longer_than_connecting() {
    let backend = Backend::start().await;
    let a = Authority::of("a.test");
    let folder = Folder::new();
    a.write(&folder);
    let listen = format!("[{{address: \"{{main}}\", tls: [{}]}}]", a.entry());
    let inner = Gateway::start_in(folder, &Config::open(&backend).listen(&listen)).await;
    // All that passes is late: the handshake takes two ways there and back.
    let relay = Relay::to(inner.address).await;
    relay.delay(300);
    let folder = Folder::new();
    a.write(&folder);
    let fields = "tls: {sni: a.test, ca: a.test.pem}, timeouts: {connect: 200ms, tls: 5s}";
    let config = Config::new().service_with("inner", &[relay.address], fields).route("/*", "to: inner, keys: none");
    let gateway = Gateway::start_in(folder, &config).await;
    assert_eq!(gateway.get("/slowly").await.text(), "/slowly");
}

#[tokio::test]
async fn a_request_that_is_not_taken_is_late_after_write() {
    // Its connections stand in the kernel's queue: what fits into the buffers is taken, the rest waits.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = silent.local_addr().expect("its address");
    let config = Config::new()
        .service_with("service", &[address], "timeouts: {write: 500ms, response: 30s, between_bytes: 30s}")
        .route("/*", "to: service, keys: none, body_max: 100mb")
        .log("sqlite:log.db");
    let gateway = Gateway::start(&config).await;
    let answer = gateway.post("/").body(vec![b'x'; 64 << 20]).attempt().await;
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status == 504));
    logged(&gateway, "upstream_timeout", "write").await;
}
