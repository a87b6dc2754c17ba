//! Stale answers: when they are used, how they are marked, and that they are refreshed once, at nobody's cost.
//! Also dates: what a client is told about the age of what it gets.

use std::time::{Duration, Instant};

use crate::harness::{Answer, Backend, Config, Gateway, Reply, milliseconds, seconds};

fn cached(backend: &Backend, rest: &str) -> Config {
    Config::open(backend).route("/cached/*", &format!("to: service, keys: none, {rest}"))
}

fn status(answer: &Answer) -> String {
    answer.header("cache-status").unwrap_or_default().to_owned()
}

/// Waits until the backend was asked so often.
async fn asked(backend: &Backend, times: usize) {
    for _ in 0..100 {
        if backend.requests() >= times {
            break;
        }
        tokio::time::sleep(milliseconds(20)).await;
    }
    assert_eq!(backend.requests(), times);
}

#[tokio::test]
async fn with_a_dead_instance_stale_answers_are_served_for_their_time() {
    let backend = Backend::scripted(|_| Reply::ok("old").with("Cache-Control", "max-age=1")).await;
    let config = cached(&backend, "cache: {ttl: 0s, stale_if_error: 4s}").log("sqlite:log.db");
    let gateway = Gateway::start(&config).await;
    gateway.get("/cached/x").await;
    let stored = Instant::now();
    backend.stop();
    tokio::time::sleep(milliseconds(1_500)).await;
    let stale = gateway.get("/cached/x").await;
    assert_eq!((stale.status, stale.text().as_str()), (200, "old"));
    assert!(
        status(&stale).starts_with("tollgate; fwd=stale; ttl=-") && status(&stale).ends_with("detail=stale_if_error")
    );
    assert!(stale.header("age").is_some_and(|age| age != "0"), "{stale:?}");
    assert_eq!(gateway.ask(http::Method::HEAD, "/cached/x").await.status, 200);
    // Its time is over.
    tokio::time::sleep(seconds(6).saturating_sub(stored.elapsed())).await;
    assert_eq!(gateway.get("/cached/x").await.refused(), (502, "upstream_connect".into()));
    let metrics = gateway.log_written().await;
    let count = |result| metrics.sum("tollgate_cache_results_total", &[("route", "/cached/*"), ("result", result)]);
    assert_eq!((count("miss"), count("stale")), (2.0, 2.0));
    assert_eq!(
        gateway.sqlite_texts("SELECT cache || ' ' || decided_by FROM api_logs ORDER BY sequence"),
        ["miss upstream", "stale cache", "stale cache", "miss upstream_connect"]
    );
}

#[tokio::test]
async fn an_answer_of_500_is_replaced_by_a_stale_one_and_breakers_hear_of_it() {
    let backend = Backend::scripted(|_| Reply::ok("old").with("Cache-Control", "max-age=1")).await;
    let config = Config::new()
        .service_with("service", &[backend.address], "breaker: {failures: 2, recovery: 1min}")
        .route("/cached/*", "to: service, keys: none, cache: {ttl: 0s, stale_if_error: 1min}");
    let gateway = Gateway::start(&config).await;
    gateway.get("/cached/x").await;
    backend.plays(|_| Reply::status(500, "broken"));
    tokio::time::sleep(milliseconds(2_100)).await;
    for _ in 0..2 {
        let stale = gateway.get("/cached/x").await;
        assert_eq!((stale.status, stale.text().as_str()), (200, "old"));
        assert!(status(&stale).contains("fwd-status=500"), "{}", status(&stale));
    }
    let stale = gateway.get("/cached/x").await;
    assert_eq!((stale.text().as_str(), backend.requests()), ("old", 3), "the breaker is open: nobody is asked");
    assert_eq!(gateway.get("/cached/other").await.refusal(), "breaker_open");
}

#[tokio::test]
async fn what_must_be_confirmed_is_not_served_stale() {
    for forbids in ["must-revalidate", "proxy-revalidate", "s-maxage=1", "no-cache"] {
        let backend = Backend::scripted(move |_| {
            Reply::ok("old").with("ETag", "\"1\"").with("Cache-Control", &format!("max-age=1, {forbids}"))
        })
        .await;
        let route = "cache: {ttl: 0s, stale_if_error: 1min, stale_while_revalidate: 1min}";
        let gateway = Gateway::start(&cached(&backend, route)).await;
        gateway.get("/cached/x").await;
        backend.stop();
        tokio::time::sleep(milliseconds(2_100)).await;
        assert_eq!(gateway.get("/cached/x").await.status, 502, "{forbids}");
    }
}

#[tokio::test]
async fn a_stale_answer_is_served_at_once_and_refreshed_once_at_nobodys_cost() {
    let backend =
        Backend::scripted(|_| Reply::ok("old").with("ETag", "\"1\"").with("Cache-Control", "max-age=1")).await;
    let route = "limit: 12/min per ip, cache: {ttl: 0s, stale_while_revalidate: 1min}";
    let gateway = Gateway::start(&cached(&backend, route).log("sqlite:log.db")).await;
    gateway.get("/cached/x").await;
    backend.plays(|_| Reply::ok("new").with("Cache-Control", "max-age=60").after(milliseconds(700)));
    tokio::time::sleep(milliseconds(2_100)).await;
    let begin = Instant::now();
    for _ in 0..9 {
        let stale = gateway.get("/cached/x").await;
        assert_eq!(stale.text(), "old");
        assert!(status(&stale).starts_with("tollgate; hit; ttl=-"), "{}", status(&stale));
    }
    assert!(begin.elapsed() < milliseconds(650), "{:?}", begin.elapsed());
    asked(&backend, 2).await;
    assert_eq!(backend.last().header("if-none-match"), Some("\"1\""));
    tokio::time::sleep(milliseconds(900)).await;
    let fresh = gateway.get("/cached/x").await;
    assert_eq!((fresh.text().as_str(), status(&fresh).starts_with("tollgate; hit; ttl=5")), ("new", true));
    // Eleven of twelve: the refresh took nothing.
    assert_eq!(gateway.get("/cached/x").await.status, 200);
    assert_eq!(gateway.get("/cached/x").await.refused(), (429, "rate_limited".into()));
    gateway.log_written().await;
    assert_eq!(gateway.sqlite_number("SELECT count(*) FROM api_logs"), 13, "a refresh makes no record");
    assert_eq!(backend.requests(), 2);
}

#[tokio::test]
async fn a_refresh_is_of_the_consumer_whose_answer_it_is() {
    let backend = Backend::scripted(|seen| {
        let whose = seen.header("x-consumer").unwrap_or("nobody");
        Reply::ok(whose).with("Cache-Control", "max-age=1, stale-while-revalidate=60")
    })
    .await;
    let config = Config::new()
        .service("service", &[backend.address])
        .route("/*", "to: service, cache: 0s")
        .key("alice")
        .key("bob");
    let gateway = Gateway::start(&config).await;
    for round in 1..=3 {
        for key in ["alice", "bob"] {
            assert_eq!(gateway.get("/x").key(key).await.text(), key);
        }
        // A second round is stale, and refreshed in the background.
        asked(&backend, 2 * round).await;
        assert_eq!(backend.last().header("x-api-key"), None);
        tokio::time::sleep(milliseconds(2_100)).await;
    }
}

#[tokio::test]
async fn the_date_of_an_answer_is_that_of_its_making() {
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    let backend =
        Backend::scripted(move |_| Reply::ok("x").with("Date", date).with("Cache-Control", "max-age=2000000000")).await;
    let gateway = Gateway::start(&cached(&backend, "cache: 0s")).await;
    let mut wire = gateway.wire().await;
    for _ in 0..3 {
        let answer = wire.get("/cached/x", "").await;
        assert_eq!(answer.header("date"), Some(date));
        let plain = wire.get("/plain", "").await;
        assert_ne!(plain.header("date"), Some(date), "only what is cached keeps its date");
    }
    assert_eq!(backend.requests(), 4);
    let hit = wire.get("/cached/x", "").await;
    let age: u64 = hit.header("age").unwrap().parse().unwrap();
    assert!(Duration::from_secs(age) > Duration::from_secs(30 * 365 * 86_400), "{age}");
}
