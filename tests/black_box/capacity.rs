//! What a service bears at once: places, the short queue for them, and what is said when there are none.

use std::time::Instant;

use futures_util::future::join_all;

use crate::harness::{Backend, Config, Gateway, Reply, eventually, milliseconds, seconds};

fn bounded(backends: &[&Backend], fields: &str) -> Config {
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    Config::new().service_with("service", &addresses, fields).route("/*", "to: service, keys: none")
}

async fn slow(pause: u64) -> Backend {
    Backend::scripted(move |_| Reply::ok("done").after(milliseconds(pause))).await
}

/// What `GET /admin/services` says of the service's places.
async fn capacity(gateway: &Gateway) -> serde_json::Value {
    gateway.admin_get("/admin/services").await.json()["services"][0]["capacity"].clone()
}

#[tokio::test]
async fn without_a_queue_what_is_too_much_is_refused_at_once_and_the_connection_lives() {
    let backend = Backend::scripted(|_| Reply::Hang).await;
    let gateway = Gateway::start(&bounded(&[&backend], "concurrent_max: 1")).await;
    let mut first = gateway.wire().await;
    first.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("it is in", seconds(5), async || backend.requests() == 1).await;
    let mut second = gateway.wire().await;
    for _ in 0..3 {
        let answer = second.get("/", "").await;
        assert_eq!(answer.refused(), (503, "overloaded".into()));
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    assert_eq!(backend.requests(), 1);
    // Whoever leaves gives its place back.
    drop(first);
    backend.plays(|_| Reply::ok("in"));
    eventually("there is a place again", seconds(5), async || gateway.get("/").await.status == 200).await;
    // An answer may reach its client a moment before its place is free.
    eventually("nobody is in", seconds(5), async || capacity(&gateway).await["in_flight"] == 0).await;
    let capacity = capacity(&gateway).await;
    assert_eq!(capacity["concurrent_max"], 1, "{capacity}");
    assert!(capacity["overloaded"].as_u64() >= Some(3), "{capacity}");
    let metrics = gateway.metrics().await;
    assert!(metrics.sum("tollgate_service_overloaded_total", &[("service", "service")]) >= 3.0);
}

#[tokio::test]
async fn a_queue_takes_a_burst_in_its_order_and_never_more_are_in() {
    let backend = slow(30).await;
    let fields = "concurrent_max: 2, queue: {length: 20, wait: 30s}";
    let gateway = Gateway::start(&bounded(&[&backend], fields)).await;
    let paths: Vec<String> = (0..12).map(|number| format!("/{number}")).collect();
    let asked = paths.iter().enumerate().map(|(number, path)| {
        let gateway = &gateway;
        async move {
            tokio::time::sleep(milliseconds(number as u64 * 5)).await;
            gateway.get(path).await.status
        }
    });
    assert_eq!(join_all(asked).await, [200; 12]);
    let seen = backend.seen();
    // Two at once, 30 ms each: the third is not there before one of the first two has been answered.
    for three in seen.windows(3) {
        assert!(three[2].at - three[0].at >= milliseconds(29), "{:?}", three[2].at - three[0].at);
    }
    let capacity = capacity(&gateway).await;
    assert_eq!((&capacity["queued"], &capacity["overloaded"]), (&0.into(), &0.into()), "{capacity}");
    assert!(capacity["waited"].as_u64() > Some(0) && capacity["wait_ms"].as_f64() > Some(0.0), "{capacity}");
}

#[tokio::test]
async fn the_queue_is_bounded_in_length_and_time() {
    let backend = Backend::scripted(|_| Reply::Hang).await;
    let fields = "concurrent_max: 1, queue: {length: 1, wait: 700ms}";
    let gateway = Gateway::start(&bounded(&[&backend], fields)).await;
    let mut inside = gateway.wire().await;
    inside.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("it is in", seconds(5), async || backend.requests() == 1).await;
    let begin = Instant::now();
    let mut waiting = gateway.wire().await;
    waiting.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("one waits", seconds(5), async || capacity(&gateway).await["queued"] == 1).await;
    assert_eq!(gateway.get("/").await.refused(), (503, "overloaded".into()));
    assert_eq!(waiting.answer().await.refused(), (503, "overloaded".into()));
    assert!(begin.elapsed() >= milliseconds(700) && begin.elapsed() < seconds(10), "{:?}", begin.elapsed());
    assert_eq!(backend.requests(), 1);
}

#[tokio::test]
async fn a_client_that_leaves_the_queue_frees_its_place_in_it() {
    let backend = Backend::scripted(|_| Reply::Hang).await;
    let fields = "concurrent_max: 1, queue: {length: 1, wait: 30s}";
    let gateway = Gateway::start(&bounded(&[&backend], fields).log("sqlite:log.db")).await;
    let mut inside = gateway.wire().await;
    inside.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("it is in", seconds(5), async || backend.requests() == 1).await;
    let mut waiting = gateway.wire().await;
    waiting.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("one waits", seconds(5), async || capacity(&gateway).await["queued"] == 1).await;
    drop(waiting);
    eventually("it has left", seconds(5), async || capacity(&gateway).await["queued"] == 0).await;
    eventually("it is logged", seconds(5), async || gateway.sqlite_number("SELECT COUNT(*) FROM api_logs") == 1).await;
    assert_eq!(gateway.sqlite_texts("SELECT decided_by || ' ' || attempts FROM api_logs"), ["client_closed 0"]);
}

#[tokio::test]
async fn a_full_instance_is_passed_by_and_counts_as_well() {
    let (stuck, free) = (Backend::scripted(|_| Reply::Hang).await, Backend::named("free").await);
    let gateway = Gateway::start(&bounded(&[&stuck, &free], "instance_concurrent_max: 1")).await;
    let mut inside = gateway.wire().await;
    while stuck.requests() == 0 {
        inside = gateway.wire().await;
        inside.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        tokio::time::sleep(milliseconds(50)).await;
    }
    for _ in 0..20 {
        assert_eq!(gateway.get("/").await.instance(), "free");
    }
    assert_eq!(stuck.requests(), 1);
    let services = gateway.admin_get("/admin/services").await.json()["services"][0].clone();
    assert_eq!(services["usable"], true, "{services}");
    drop(inside);
}

#[tokio::test]
async fn tunnels_and_downloads_hold_their_place_and_a_reload_forgets_none() {
    let handshake = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let backend = Backend::scripted(|seen| match seen.target.as_str() {
        "/tunnel" => Reply::Tunnel,
        "/long" => Reply::Pieces(vec![
            (milliseconds(0), b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha".to_vec()),
            (seconds(60), b"lf".to_vec()),
        ]),
        _ => Reply::ok("in"),
    })
    .await;
    let gateway = Gateway::start(&bounded(&[&backend], "concurrent_max: 2")).await;
    let mut tunnel = gateway.wire().await;
    assert_eq!(tunnel.get("/tunnel", handshake).await.status, 101);
    let mut long = gateway.wire().await;
    long.send("GET /long HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("both are in", seconds(5), async || capacity(&gateway).await["in_flight"] == 2).await;
    assert_eq!(gateway.get("/").await.refused(), (503, "overloaded".into()));
    gateway.reload(&bounded(&[&backend], "concurrent_max: 2, host: other.example")).await;
    assert_eq!(gateway.get("/").await.refused(), (503, "overloaded".into()));
    gateway.reload(&bounded(&[&backend], "concurrent_max: 3")).await;
    assert_eq!(gateway.get("/").await.status, 200);
    drop((tunnel, long));
    eventually("both are gone", seconds(5), async || capacity(&gateway).await["in_flight"] == 0).await;
}

#[tokio::test]
async fn a_hit_takes_no_place() {
    let backend = Backend::scripted(|seen| match seen.target.as_str() {
        "/cached" => Reply::ok("stored"),
        _ => Reply::Hang,
    })
    .await;
    let config = bounded(&[&backend], "concurrent_max: 1").route("/cached", "to: service, keys: none, cache: 1h");
    let gateway = Gateway::start(&config).await;
    assert_eq!(gateway.get("/cached").await.text(), "stored");
    let mut inside = gateway.wire().await;
    inside.send("GET /hangs HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("it is in", seconds(5), async || backend.requests() == 2).await;
    assert_eq!(gateway.get("/cached").await.text(), "stored");
    assert_eq!(gateway.get("/other").await.refused(), (503, "overloaded".into()));
}

#[tokio::test]
async fn a_retry_leaves_its_instance_and_keeps_its_place() {
    let (bad, good) = (Backend::scripted(|_| Reply::status(503, "")).await, Backend::start().await);
    let fields = "instance_concurrent_max: 1, concurrent_max: 1, queue: {length: 50, wait: 30s}, \
                  retry: {attempts: 3, base_delay: 1ms, budget: 1000%, budget_floor: 1000}";
    let gateway = Gateway::start(&bounded(&[&bad, &good], fields)).await;
    let answers = join_all((0..30).map(|_| async { gateway.get("/").await.status })).await;
    assert_eq!(answers, [200; 30]);
    // A place is free when its record is made, which is after the client has its answer.
    eventually("all places are free", seconds(5), async || capacity(&gateway).await["in_flight"] == 0).await;
}
