//! What hostile clients and broken instances tried, and what it got them.
//! Raw bytes again: each test is the shortest form of an attack that once worked, or nearly did.

use std::time::Instant;

use crate::harness::{Backend, Config, Gateway, Reply, milliseconds, seconds};

#[tokio::test]
async fn empty_lines_before_a_request_escape_neither_deadline_nor_bound() {
    let backend = Backend::start().await;
    let bounds = "connections: {header_timeout: 1s, header_max: 8kb}";
    let gateway = Gateway::start(&Config::open(&backend).section(bounds)).await;
    let mut silent = gateway.wire().await;
    silent.send("\r\n\r\n").await;
    let begin = Instant::now();
    assert_eq!(silent.answer().await.status, 408);
    assert!(begin.elapsed() < seconds(4), "{:?}", begin.elapsed());

    let mut large = gateway.wire().await;
    large.send("\n\n").await;
    tokio::time::sleep(milliseconds(100)).await;
    large.send(format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(16 << 10))).await;
    assert_eq!(large.answer().await.status, 431);

    let mut polite = gateway.wire().await;
    polite.send("\r\n").await;
    assert_eq!(polite.get("/", "").await.status, 200);
}

#[tokio::test]
async fn an_instance_cannot_open_a_tunnel_that_nobody_asked_for() {
    let tunnel =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\nforged";
    let backend = Backend::scripted(move |_| Reply::raw(tunnel)).await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    let mut wire = gateway.wire().await;
    assert_eq!(wire.get("/", "").await.refused(), (502, "upstream_invalid".into()));
}

#[tokio::test]
async fn interim_answers_without_end_end_with_the_routes_time() {
    let hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".to_vec();
    let backend = Backend::scripted(move |_| Reply::Pieces(vec![(milliseconds(100), hint.clone()); 100])).await;
    let config =
        Config::new().service("users", &[backend.address]).route("/*", "to: users, keys: none, timeout: 300ms");
    let gateway = Gateway::start(&config).await;
    let mut wire = gateway.wire().await;
    let begin = Instant::now();
    let mut answer = wire.get("/", "").await;
    while answer.status == 103 {
        answer = wire.answer().await;
    }
    assert_eq!(answer.refused(), (504, "upstream_timeout".into()));
    assert!(begin.elapsed() < seconds(5), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn cookies_in_several_lines_reach_the_instance_in_one() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    assert_eq!(gateway.wire().await.get("/", "Cookie: a=1\r\nCookie: b=2; c=3\r\n").await.status, 200);
    assert_eq!(backend.last().all("cookie"), ["a=1; b=2; c=3"]);
}

#[tokio::test]
async fn a_list_of_lengths_is_refused() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    let mut wire = gateway.wire().await;
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello").await;
    assert_eq!(wire.answer().await.refused(), (400, "bad_body".into()));
    assert_eq!(backend.requests(), 0);
}

#[tokio::test]
async fn a_client_that_stops_sending_is_to_blame_even_where_the_instance_has_less_patience() {
    let backend = Backend::start().await;
    let short = "timeouts: {response: 1s, between_bytes: 1s}";
    let config = Config::new().service_with("users", &[backend.address], short).route("/*", "to: users, keys: none");
    let gateway = Gateway::start(&config).await;
    let mut wire = gateway.wire().await;
    wire.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe").await;
    assert_eq!(wire.answer().await.refused(), (408, "client_timeout".into()));
}

#[tokio::test]
async fn a_field_hidden_from_the_instance_chooses_no_stored_variant() {
    let backend = Backend::scripted(|seen| {
        Reply::ok(seen.header("accept-language").unwrap_or("none")).with("Vary", "Accept-Language")
    })
    .await;
    let config = Config::new().service("users", &[backend.address]).route("/*", "to: users, keys: none, cache: 60s");
    let gateway = Gateway::start(&config).await;
    let mut wire = gateway.wire().await;
    let poisoned = wire.get("/", "Accept-Language: fr\r\nConnection: accept-language\r\n").await;
    assert_eq!(poisoned.text(), "none");
    assert_eq!(gateway.wire().await.get("/", "Accept-Language: fr\r\n").await.text(), "fr");
}

#[tokio::test]
async fn what_a_trusted_proxy_says_of_the_request_is_part_of_the_cache_key() {
    let backend = Backend::scripted(|seen| {
        Reply::ok(&format!("{:?} {:?}", seen.header("x-forwarded-proto"), seen.header("x-forwarded-host")))
    })
    .await;
    let config = Config::new()
        .service("users", &[backend.address])
        .route("/*", "to: users, keys: none, cache: 60s")
        .section("trusted_proxies: [127.0.0.0/8]");
    let gateway = Gateway::start(&config).await;
    let mut wire = gateway.wire().await;
    for said in ["", "X-Forwarded-Proto: https\r\n", "X-Forwarded-Host: evil.example\r\n"] {
        let fresh = wire.get("/", said).await;
        let again = wire.get("/", said).await;
        assert_eq!(fresh.text(), again.text());
        assert!(again.header("cache-status").is_some_and(|status| status.contains("hit")), "{said}");
    }
    assert_eq!(backend.requests(), 3);
}
