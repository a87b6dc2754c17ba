//! Circuit breakers: failures open them, nobody is asked while they are open, trials close them, and the whole story can be read.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Backend, Config, Gateway, Reply, eventually, free_address, milliseconds, seconds};

const BREAKER: &str =
    "breaker: {failures: 5, recovery: 2s, recovery_max: 4s}, timeouts: {connect: 500ms, response: 1s}";

fn guarded(backend: &Backend, fields: &str) -> Config {
    Config::new().service_with("service", &[backend.address], fields).route("/*", "to: service, keys: none")
}

async fn service(gateway: &Gateway) -> Value {
    gateway.admin_get("/admin/services").await.json()["services"][0].clone()
}

async fn breaker(gateway: &Gateway) -> Value {
    service(gateway).await["instances"][0]["breaker"].clone()
}

async fn transitions(gateway: &Gateway) -> [f64; 3] {
    let metrics = gateway.metrics().await;
    ["open", "half_open", "closed"]
        .map(|to| metrics.sum("tollgate_breaker_transitions_total", &[("service", "service"), ("to", to)]))
}

async fn state(gateway: &Gateway) -> f64 {
    gateway.metrics().await.sum("tollgate_breaker_state", &[("service", "service")])
}

#[tokio::test]
async fn five_failures_open_it_and_a_success_after_its_time_closes_it() {
    let backend = Backend::scripted(|_| Reply::status(500, "broken")).await;
    let gateway = Gateway::start(&guarded(&backend, BREAKER)).await;
    assert_eq!(breaker(&gateway).await["state"], "closed");
    for count in 1..=5 {
        assert_eq!((gateway.get("/").await.status, state(&gateway).await), (500, if count < 5 { 0.0 } else { 2.0 }));
    }
    let opened = Instant::now();
    let shown = breaker(&gateway).await;
    assert_eq!((&shown["state"], &shown["why"]), (&"open".into(), &"5 requests in a row failed".into()), "{shown}");
    assert!(shown["retry_in_seconds"].as_u64().is_some_and(|left| (1..=2).contains(&left)), "{shown}");

    // While it is open nobody is asked, and the answer is there at once.
    let mut took = Vec::new();
    while opened.elapsed() < milliseconds(1_500) && took.len() < 200 {
        let begin = Instant::now();
        let answer = gateway.get("/").await;
        took.push(begin.elapsed());
        assert_eq!(answer.refused(), (503, "breaker_open".into()));
        assert!(matches!(answer.header("retry-after"), Some("1" | "2")), "{answer:?}");
        assert_ne!(answer.header("connection"), Some("close"), "a refusal is no fault of the client's connection");
    }
    // In a debug build, with all other tests at work: of many short whiles one is quiet, and the machine's noise makes nothing faster.
    let median = |part: &[Duration]| {
        let mut part = part.to_vec();
        part.sort();
        part[part.len() / 2]
    };
    let quietest = took.chunks_exact(took.len().min(10)).map(median).min().expect("answers");
    assert!(quietest < milliseconds(2), "{quietest:?} of {} answers", took.len());
    assert_eq!(backend.requests(), 5);

    // One trial; it fails, and the wait is longer.
    tokio::time::sleep((opened + milliseconds(2_100)).saturating_duration_since(Instant::now())).await;
    assert_eq!((breaker(&gateway).await["state"].clone(), state(&gateway).await), ("half_open".into(), 1.0));
    assert_eq!(gateway.get("/").await.status, 500);
    let reopened = Instant::now();
    assert_eq!(gateway.get("/").await.refused(), (503, "breaker_open".into()));
    assert_eq!(breaker(&gateway).await["why"], "a trial failed");
    assert_eq!((backend.requests(), transitions(&gateway).await), (6, [2.0, 1.0, 0.0]));

    // The next trial succeeds, and closes it.
    backend.plays(|_| Reply::ok("better"));
    tokio::time::sleep((reopened + milliseconds(3_500)).saturating_duration_since(Instant::now())).await;
    assert_eq!(gateway.get("/").await.refused(), (503, "breaker_open".into()), "the second wait is 4 s");
    tokio::time::sleep((reopened + milliseconds(4_100)).saturating_duration_since(Instant::now())).await;
    for _ in 0..3 {
        assert_eq!(gateway.get("/").await.text(), "better");
    }
    let shown = breaker(&gateway).await;
    assert_eq!((&shown["state"], &shown["why"]), (&"closed".into(), &Value::Null), "{shown}");
    assert_eq!((state(&gateway).await, transitions(&gateway).await), (0.0, [2.0, 2.0, 1.0]));
    for says in ["breaker open for 2000 ms: 5 requests in a row failed", "breaker half open", "breaker closed"] {
        assert!(gateway.said().contains(says), "{says}");
    }
}

#[tokio::test]
async fn while_one_is_open_the_other_instances_are_asked() {
    let (bad, good) = (Backend::scripted(|_| Reply::status(503, "")).await, Backend::start().await);
    let fields = "breaker: {failures: 3, recovery: 1min}";
    let config = Config::new()
        .service_with("service", &[bad.address, good.address], fields)
        .route("/*", "to: service, keys: none");
    let gateway = Gateway::start(&config).await;
    let mut statuses = Vec::new();
    for _ in 0..40 {
        statuses.push(gateway.get("/").await.status);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 503).count(), 3, "{statuses:?}");
    assert_eq!((bad.requests(), good.requests()), (3, 37));
    // A reload keeps what it knows.
    gateway.reload(&config.key("alice")).await;
    for _ in 0..10 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    assert_eq!(bad.requests(), 3);
}

#[tokio::test]
async fn every_kind_of_failure_opens_it() {
    let cut = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this".to_vec();
    for reply in [
        Reply::Reset,
        Reply::Hang,
        Reply::RawThenClose(b"220 mail.example ESMTP\r\n\r\n".to_vec()),
        Reply::RawThenClose(cut),
    ] {
        let story = format!("{reply:?}");
        let backend = Backend::scripted(move |_| reply.clone()).await;
        let fields = "breaker: {failures: 2, recovery: 1min}, timeouts: {response: 300ms, between_bytes: 300ms}";
        let gateway = Gateway::start(&guarded(&backend, fields)).await;
        for _ in 0..2 {
            // POST: whatever comes back is never asked for again.
            let _ = gateway.post("/").attempt().await;
        }
        eventually(&format!("open after {story}"), seconds(3), async || state(&gateway).await == 2.0).await;
        assert_eq!(gateway.post("/").await.refused(), (503, "breaker_open".into()), "{story}");
        assert_eq!(backend.requests(), 2, "{story}");
    }
    let gateway = Gateway::start(
        &Config::new()
            .service_with("service", &[free_address()], "breaker: {failures: 2, recovery: 1min}")
            .route("/*", "to: service, keys: none"),
    )
    .await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(gateway.get("/").await.refused().1);
    }
    assert_eq!(statuses, ["upstream_connect", "upstream_connect", "breaker_open"]);
}

#[tokio::test]
async fn a_trial_whose_client_leaves_gives_its_place_back() {
    let backend = Backend::scripted(|_| Reply::status(500, "")).await;
    let fields = "breaker: {failures: 1, recovery: 500ms}, timeouts: {response: 20s, between_bytes: 20s}";
    let gateway = Gateway::start(&guarded(&backend, fields)).await;
    assert_eq!(gateway.get("/").await.status, 500);
    backend.plays(|_| Reply::Hang);
    tokio::time::sleep(milliseconds(600)).await;
    let mut wire = gateway.wire().await;
    wire.send("GET /trial HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("the trial arrives", seconds(5), async || backend.requests() == 2).await;
    assert_eq!(gateway.get("/").await.refused(), (503, "breaker_open".into()), "one trial at a time");
    drop(wire);
    backend.plays(|_| Reply::ok("better"));
    eventually("another may try", seconds(5), async || gateway.get("/").await.status == 200).await;
    assert_eq!(breaker(&gateway).await["state"], "closed");
}

#[tokio::test]
async fn a_service_may_have_one_breaker_for_all_and_open_for_ratios() {
    let slow = Backend::scripted(|seen| match seen.target.as_str() {
        "/slow" => Reply::ok("").after(milliseconds(150)),
        _ => Reply::ok(""),
    })
    .await;
    let breaker =
        "breaker: {failures: none, slow_ratio: 50%, slow_after: 100ms, requests_min: 10, recovery: 1min, per: service}";
    let gateway = Gateway::start(&guarded(&slow, breaker)).await;
    for count in 0..10 {
        assert_eq!(gateway.get(if count % 2 == 0 { "/" } else { "/slow" }).await.status, 200, "{count}");
    }
    eventually("open", seconds(3), async || state(&gateway).await == 2.0).await;
    assert_eq!(gateway.get("/").await.refused(), (503, "breaker_open".into()));
    let service = service(&gateway).await;
    assert_eq!(service["breaker"]["why"], "5 of 10 requests were slow within 10 s", "{service}");
    assert!(service["instances"][0].get("breaker").is_none());
    assert!(gateway.metrics().await.has("tollgate_breaker_state", &[("service", "service"), ("instance", "(all)")]));
}
