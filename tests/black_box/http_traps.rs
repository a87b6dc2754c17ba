//! Corners of HTTP in which gateways have been caught: framing, half requests, refusals on kept connections,
//! interim answers, upgrades. Raw bytes, because a client library would not send them.

use std::time::Instant;

use crate::harness::{Authority, Backend, Config, Folder, Gateway, Reply, eventually, milliseconds, seconds};

fn impatient(backend: &Backend) -> Config {
    Config::open(backend)
        .section("connections: {header_timeout: 1s, idle_timeout: 2s, header_max: 8kb, body_timeout: 1s}")
}

#[tokio::test]
async fn http11_without_host_is_400() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    let mut wire = gateway.wire().await;
    wire.send("GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(wire.answer().await.status, 400);
    assert_eq!(backend.requests(), 0);
}

#[tokio::test]
async fn two_hosts_are_400() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    for head in ["GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"] {
        let mut wire = gateway.wire().await;
        wire.send(head).await;
        assert_eq!(wire.answer().await.status, 400, "{head}");
    }
    assert_eq!(backend.requests(), 0);
}

#[tokio::test]
async fn a_header_that_drips_is_cut_at_its_deadline() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&impatient(&backend)).await;
    let mut wire = gateway.wire().await;
    let begin = Instant::now();
    let mut cut = false;
    // One byte every 100 ms never trips a time-out that is counted from byte to byte.
    for byte in "GET / HTTP/1.1\r\nHost: gateway.example\r\nX: ".bytes().chain([b'x'; 100]) {
        if wire.try_send([byte]).await.is_err() || wire.closes_within(milliseconds(100)).await {
            cut = true;
            break;
        }
    }
    assert!(cut && begin.elapsed() < seconds(4), "{:?}", begin.elapsed());
    assert!(gateway.metrics().await.sum("tollgate_rejected_total", &[]) >= 1.0);
}

#[tokio::test]
async fn the_deadline_holds_for_later_requests_of_a_connection_too() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&impatient(&backend)).await;
    let mut wire = gateway.wire().await;
    assert_eq!(wire.get("/", "").await.status, 200);
    let begin = Instant::now();
    wire.send("GET / HTTP/1.1\r\nHo").await;
    assert!(wire.closes_within(seconds(4)).await);
    assert!(begin.elapsed() >= milliseconds(900), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_time() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&impatient(&backend)).await;
    let mut wire = gateway.wire().await;
    assert_eq!(wire.get("/", "").await.status, 200);
    assert!(!wire.closes_within(milliseconds(1_400)).await, "closed too early");
    assert!(wire.closes_within(seconds(3)).await, "still open");
}

#[tokio::test]
async fn a_large_header_is_431() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&impatient(&backend)).await;
    let mut wire = gateway.wire().await;
    let answer = wire.get("/", &format!("X-Large: {}\r\n", "x".repeat(9_000))).await;
    assert_eq!(answer.status, 431);
    assert_eq!(backend.requests(), 0);
    assert_eq!(gateway.wire().await.get("/", &format!("X-Large: {}\r\n", "x".repeat(7_000))).await.status, 200);
}

#[tokio::test]
async fn garbage_is_refused_and_counted() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&impatient(&backend)).await;
    for garbage in
        ["\x16\x03\x01\x02\x00\x01\r\n\r\n", "hello\r\n\r\n", "GET\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    {
        let mut wire = gateway.wire().await;
        wire.send(garbage).await;
        let rest = wire.rest(seconds(3)).await;
        assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 4"), "{garbage:?}: {rest}");
    }
    assert!(gateway.metrics().await.sum("tollgate_rejected_total", &[]) >= 3.0);
    assert_eq!(backend.requests(), 0);
    assert_eq!(gateway.get("/").await.status, 200);
}

#[tokio::test]
async fn ambiguous_framing_is_not_passed_on() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&impatient(&backend)).await;
    for lines in [
        "Content-Length: 4\r\nContent-Length: 5\r\n",
        "Content-Length: +4\r\n",
        "Content-Length: 4, 5\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
    ] {
        let mut wire = gateway.wire().await;
        wire.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\nbody!")).await;
        let rest = wire.rest(seconds(5)).await;
        assert!(rest.starts_with("HTTP/1.1 400"), "{lines}: {rest}");
    }
    assert_eq!(backend.requests(), 0);
}

#[tokio::test]
async fn a_request_cannot_be_smuggled_behind_two_framings() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&impatient(&backend)).await;
    let mut wire = gateway.wire().await;
    wire.send("POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n").await;
    wire.rest(seconds(5)).await;
    let targets: Vec<String> = backend.seen().into_iter().map(|seen| seen.target).collect();
    assert!(!targets.contains(&"/smuggled".into()), "{targets:?}");
}

// Refusals and the client's connection.

fn closed(backend: &Backend) -> Config {
    Config::open(backend).route("/closed", "to: service").route("/small", "to: service, keys: none, body_max: 1kb")
}

#[tokio::test]
async fn a_refusal_leaves_the_connection_open() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&closed(&backend)).await;
    let mut wire = gateway.wire().await;
    for _ in 0..3 {
        assert_eq!(wire.get("/closed", "").await.refused(), (401, "no_key".into()));
    }
    assert_eq!(wire.get("/", "").await.status, 200);
}

#[tokio::test]
async fn a_refused_post_with_a_small_unread_body_leaves_the_connection_open() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&closed(&backend)).await;
    let mut wire = gateway.wire().await;
    let body = "x".repeat(2_000);
    for _ in 0..2 {
        wire.send(format!("POST /closed HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n{body}")).await;
        assert_eq!(wire.answer().await.status, 401);
    }
    assert_eq!(wire.get("/after", "").await.text(), "/after");
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_by_its_length() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&closed(&backend)).await;
    let answer = gateway.post("/small").body("x".repeat(1_025)).await;
    assert_eq!(answer.refused(), (413, "body_too_large".into()));
    assert_eq!(backend.requests(), 0);
    assert_eq!(gateway.post("/small").body("x".repeat(1_024)).await.status, 200);
}

#[tokio::test]
async fn a_chunked_body_over_the_limit_is_413_while_it_streams() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&closed(&backend)).await;
    let mut wire = gateway.wire().await;
    wire.send("POST /small HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for _ in 0..3 {
        // The gateway may refuse before all of it was sent.
        let _ = wire.try_send(format!("200\r\n{}\r\n", "x".repeat(512))).await;
    }
    let answer = wire.answer().await;
    assert_eq!(answer.refused(), (413, "body_too_large".into()));
    assert_eq!(backend.seen().len(), 0, "no instance got a whole request");
}

#[tokio::test]
async fn a_body_that_stops_coming_is_cut() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&impatient(&backend)).await;
    let mut wire = gateway.wire().await;
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf").await;
    let begin = Instant::now();
    let rest = wire.rest(seconds(6)).await;
    assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 408"), "{rest}");
    assert!(begin.elapsed() < seconds(5));
    assert_eq!(backend.seen().len(), 0);
}

// Bodies and answers without the usual shape.

#[tokio::test]
async fn head_is_answered_without_a_body_and_with_its_length() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend).route("GET /get", "to: service, keys: none")).await;
    let mut wire = gateway.wire().await;
    wire.send("HEAD /get HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let answer = wire.answer_to_head().await;
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("4")));
    assert_eq!(backend.last().method, "HEAD");
    assert_eq!(wire.get("/after", "").await.text(), "/after");
}

#[tokio::test]
async fn a_refused_head_has_no_body() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&closed(&backend)).await;
    let mut wire = gateway.wire().await;
    wire.send("HEAD /closed HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(wire.answer_to_head().await.status, 401);
    assert_eq!(wire.get("/after", "").await.text(), "/after");
}

#[tokio::test]
async fn a_client_that_expects_100_is_told_to_continue() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    let mut wire = gateway.wire().await;
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n").await;
    assert_eq!(wire.answer().await.status, 100);
    wire.send("body").await;
    assert_eq!(wire.answer().await.status, 200);
    assert_eq!(backend.last().body, b"body");
}

#[tokio::test]
async fn a_refused_client_is_not_told_to_continue() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&closed(&backend)).await;
    let mut wire = gateway.wire().await;
    for (path, length, status) in [("/closed", 4, 401), ("/small", 2_000, 413)] {
        wire.send(format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
        ))
        .await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, status);
        // The body may come or not, so nothing after this answer could be told apart from it.
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(wire.closes_within(seconds(3)).await);
        wire = gateway.wire().await;
    }
}

#[tokio::test]
async fn interim_answers_reach_the_client_before_the_final_one() {
    let backend = Backend::scripted(|_| {
        Reply::raw("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    })
    .await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    let mut wire = gateway.wire().await;
    let first = wire.get("/", "").await;
    let last = if first.status == 103 { wire.answer().await } else { first };
    assert_eq!((last.status, last.text().as_str()), (200, "ok"));
    assert_eq!(wire.get("/", "").await.status / 100 * 100 % 200, 100);
}

#[tokio::test]
async fn http10_gets_an_answer_and_the_end_of_the_connection() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    let mut wire = gateway.wire().await;
    wire.send("GET /old HTTP/1.0\r\nHost: a\r\n\r\n").await;
    assert!(wire.rest(seconds(3)).await.ends_with("/old"));
}

// Upgrades.

const HANDSHAKE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[tokio::test]
async fn a_websocket_works_through_the_gateway() {
    let backend = Backend::scripted(|_| Reply::Tunnel).await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    let mut wire = gateway.wire().await;
    let answer = wire.get("/socket", HANDSHAKE).await;
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")));
    assert_eq!(answer.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    for message in ["\x01hello", "\x02again"] {
        wire.send(message).await;
        assert_eq!(wire.bytes(message.len()).await, message.as_bytes());
    }
}

#[tokio::test]
async fn an_upgrade_passes_every_policy() {
    let backend = Backend::scripted(|_| Reply::Tunnel).await;
    let config = Config::open(&backend)
        .route("/closed", "to: service")
        .route("/limited", "to: service, keys: none, limit: 1/min per ip");
    let gateway = Gateway::start(&config).await;
    assert_eq!(gateway.wire().await.get("/closed", HANDSHAKE).await.refused(), (401, "no_key".into()));
    assert_eq!(gateway.wire().await.get("/limited", HANDSHAKE).await.status, 101);
    assert_eq!(gateway.wire().await.get("/limited", HANDSHAKE).await.refused(), (429, "rate_limited".into()));
    assert_eq!(backend.requests(), 1);
}

// Bounds on connections.

#[tokio::test]
async fn connections_of_one_client_are_bounded() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend).section("connections: {per_client_max: 3}")).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut wire = gateway.wire().await;
        assert_eq!(wire.get("/", "").await.status, 200);
        held.push(wire);
    }
    let mut fourth = gateway.wire().await;
    assert!(fourth.closes_within(seconds(2)).await);
    drop(held.pop());
    eventually("a place is free again", seconds(3), async || {
        let mut wire = gateway.wire().await;
        wire.try_send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.is_ok()
            && wire.try_answer("GET").await.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    assert!(gateway.metrics().await.sum("tollgate_rejected_total", &[]) >= 1.0);
}

#[tokio::test]
async fn connections_are_bounded_in_total() {
    let backend = Backend::start().await;
    let config = Config::open(&backend).section("connections: {total_max: 2}\ntrusted_proxies: [127.0.0.1/32]");
    let gateway = Gateway::start(&config).await;
    let (mut one, mut two) = (gateway.wire().await, gateway.wire().await);
    assert_eq!((one.get("/", "").await.status, two.get("/", "").await.status), (200, 200));
    assert!(gateway.wire().await.closes_within(seconds(2)).await);
    assert_eq!(one.get("/", "").await.status, 200);
}

// HTTP/2 in front of HTTP/1.1.

#[tokio::test]
async fn an_empty_last_frame_does_not_desync_the_instances_connection() {
    let backend = Backend::start().await;
    let (folder, authority) = (Folder::new(), Authority::of("gateway.test"));
    authority.write(&folder);
    let listen = format!("[{{address: \"{{main}}\", tls: [{}]}}]", authority.entry());
    let gateway = Gateway::start_in(folder, &Config::open(&backend).listen(&listen)).await;
    let stream = authority.connect(gateway.address, &["h2"]).await.expect("TLS");
    let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let mut client = client.ready().await.expect("ready");
    for _ in 0..5 {
        let request = http::Request::post("https://gateway.test/upload").body(()).expect("a request");
        let (answer, mut body) = client.send_request(request, false).expect("sent");
        body.send_data("part".into(), false).expect("data");
        tokio::time::sleep(milliseconds(20)).await;
        body.send_data(bytes::Bytes::new(), true).expect("an empty frame");
        assert_eq!(answer.await.expect("an answer").status(), 200);
    }
    assert_eq!(backend.unreadable(), Vec::<String>::new());
    let bodies: Vec<Vec<u8>> = backend.seen().into_iter().map(|seen| seen.body).collect();
    assert_eq!(bodies, vec![b"part".to_vec(); 5]);
}
