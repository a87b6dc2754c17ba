//! The flood guard: first of all checks, by address, before a key is even looked at.

use crate::harness::{Backend, Config, Gateway, Load};

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
