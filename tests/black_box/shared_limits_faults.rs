//! What shared limits do while their Redis is paused, killed, empty or was never there: nobody waits longer than said,
//! at most twice the limit is admitted in one window, and it is used again when it is back, without a restart.

use std::time::{Duration, Instant};

use crate::harness::{Backend, Config, Gateway, Load, Redis, eventually, free_address, milliseconds, seconds};
use crate::shared_limits::{admitted, decided, shared, shared_at};

async fn up(gateway: &Gateway) -> bool {
    gateway.metrics().await.sum("tollgate_limit_store_up", &[]) == 1.0
}

async fn back(gateways: &[&Gateway]) {
    for gateway in gateways {
        eventually("the store is used again", seconds(10), || up(gateway)).await;
    }
}

/// Three gateways that have seen each other.
async fn three(config: &Config) -> [Gateway; 3] {
    let gateways = [Gateway::start(config).await, Gateway::start(config).await, Gateway::start(config).await];
    for gateway in &gateways {
        let three = || async { gateway.metrics().await.sum("tollgate_limit_store_gateways", &[]) == 3.0 };
        eventually("three gateways are seen", seconds(10), three).await;
    }
    gateways
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_store_costs_one_timeout_and_at_most_twice_the_limit() {
    let (redis, backend) = (Redis::start(), Backend::start().await);
    let config = shared(&redis, &backend, "100/h per route", "timeout: 100ms");
    let gateways = three(&config).await;
    let all = gateways.each_ref();
    let before = admitted(&all, 120).await;
    assert_eq!(before, 100);
    redis.pause();
    let begun = Instant::now();
    let mut slow = 0;
    let mut during = 0;
    while begun.elapsed() < seconds(5) {
        for gateway in all {
            let asked = Instant::now();
            during += usize::from(gateway.get("/").await.status == 200);
            slow += usize::from(asked.elapsed() > milliseconds(80));
            assert!(asked.elapsed() < seconds(1), "{:?}", asked.elapsed());
        }
    }
    // One time-out a gateway opens its breaker; some slack for a machine that is busy with other tests.
    assert!(slow <= 10, "{slow} requests waited");
    assert!(during <= 100, "{during} admitted while the store was paused: together no more than the limit");
    assert!(during >= 97, "{during} admitted while the store was paused: the shares add up to the limit");
    redis.resume();
    back(&all).await;
    assert_eq!(admitted(&all, 60).await, 0, "it knows what was used");
    for gateway in all {
        assert!(decided(gateway, "fallback_local").await > 0.0);
        let said = gateway.said();
        assert_eq!(said.matches("is away").count(), 1, "told once, not once a request: {said}");
        assert_eq!(said.matches("is back after").count(), 1, "{said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_store_that_comes_back_empty_admits_at_most_twice_the_limit() {
    let (mut redis, backend) = (Redis::start(), Backend::start().await);
    let config = shared(&redis, &backend, "30/h per route", "timeout: 100ms");
    let gateways = three(&config).await;
    let all = gateways.each_ref();
    let mut total = admitted(&all, 60).await;
    assert_eq!(total, 30);
    redis.kill();
    total += admitted(&all, 60).await;
    assert!((57..=60).contains(&total), "{total}");
    redis.revive();
    back(&all).await;
    for _ in 0..3 {
        total += admitted(&all, 60).await;
    }
    assert!(total <= 60, "{total} admitted in one window: before, during and after");
    redis.kill();
    total += admitted(&all, 60).await;
    redis.revive();
    back(&all).await;
    total += admitted(&all, 60).await;
    assert!(total <= 60, "{total} admitted in one window with a second outage");
    assert!(gateways[0].said().contains("has lost counts"), "{}", gateways[0].said());
}

#[tokio::test]
async fn a_store_that_kept_its_counts_goes_on_where_it_was() {
    let backend = Backend::start().await;
    let mut redis = Redis::start_with("redis-server", &["--appendonly", "yes", "--appendfsync", "always"]);
    let gateway = Gateway::start(&shared(&redis, &backend, "30/h per route", "timeout: 100ms")).await;
    assert_eq!(admitted(&[&gateway], 10).await, 10);
    redis.kill();
    assert_eq!(admitted(&[&gateway], 5).await, 5, "by the fallback");
    redis.revive();
    back(&[&gateway]).await;
    tokio::time::sleep(seconds(2)).await;
    assert_eq!(admitted(&[&gateway], 40).await, 20, "what Redis had counted, it still counts");
    assert!(!gateway.said().contains("has lost counts"), "{}", gateway.said());
}

#[tokio::test]
async fn a_flushed_store_admits_at_most_twice_the_limit() {
    let (redis, backend) = (Redis::start(), Backend::start().await);
    let gateways = three(&shared(&redis, &backend, "30/h per route", "timeout: 2s")).await;
    let all = gateways.each_ref();
    let mut total = admitted(&all, 60).await;
    redis.flush();
    total += admitted(&all, 60).await;
    assert!(total <= 60, "{total}");
    tokio::time::sleep(seconds(2)).await;
    redis.flush();
    total += admitted(&all, 60).await;
    // Noticed within a second of the first flush; from then on each gateway holds to its share.
    assert!(total <= 90, "{total}");
    assert!(gateways[0].said().contains("has lost counts"), "{}", gateways[0].said());
}

#[tokio::test]
async fn a_store_that_is_away_at_the_start_delays_nothing_and_is_found_later() {
    let backend = Backend::start().await;
    let mut redis = Redis::start();
    redis.kill();
    let begun = Instant::now();
    let gateway = Gateway::start(&shared(&redis, &backend, "5/h per route", "")).await;
    assert!(begun.elapsed() < seconds(10), "{:?}", begun.elapsed());
    assert!(gateway.said().contains("is away"), "{}", gateway.said());
    assert_eq!(admitted(&[&gateway], 10).await, 5, "by the fallback");
    redis.revive();
    back(&[&gateway]).await;
    assert_eq!(admitted(&[&gateway], 10).await, 5, "by the store");
}

#[tokio::test]
async fn refuse_is_503_and_allow_is_counted() {
    let backend = Backend::start().await;
    let nowhere = format!("redis://{}", free_address());
    let refusing = shared_at(&nowhere, &backend, "5/h per route", "on_error: refuse");
    let gateway = Gateway::start(&refusing).await;
    let answer = gateway.get("/").await;
    assert_eq!(answer.refused(), (503, "limit_store_unavailable".into()));
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(decided(&gateway, "fallback_refuse").await, 1.0);
    // What only observes is no reason to refuse, and what counts here does not need the store.
    for limit in ["{rate: 1/h, per: route, mode: observe}", "{rate: 9/h, per: route, store: local}"] {
        gateway.reload(&shared_at(&nowhere, &backend, limit, "on_error: refuse")).await;
        assert_eq!(gateway.get("/").await.status, 200, "{limit}");
    }
    gateway
        .reload(&shared_at(
            &nowhere,
            &backend,
            "[5/h per route, {rate: 2/h, per: ip, store: local}]",
            "on_error: allow",
        ))
        .await;
    assert_eq!(admitted(&[&gateway], 5).await, 2, "what counts here limits on");
    gateway.reload(&shared_at(&nowhere, &backend, "5/h per route", "on_error: allow")).await;
    let before = decided(&gateway, "fallback_allow").await;
    assert_eq!(admitted(&[&gateway], 20).await, 20);
    assert_eq!(decided(&gateway, "fallback_allow").await, before + 20.0);
}

#[tokio::test]
async fn a_written_number_of_gateways_divides_the_limit() {
    let backend = Backend::start().await;
    let nowhere = format!("redis://{}", free_address());
    for (limit, gateways, expected) in [("30/h per route", 3, 10), ("2/h per route", 3, 0), ("30/h per route", 1, 30)] {
        let config = shared_at(&nowhere, &backend, limit, &format!("gateways: {gateways}"));
        let gateway = Gateway::start(&config).await;
        assert_eq!(admitted(&[&gateway], 40).await, expected, "{limit} among {gateways}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_dies_under_load_fails_no_request() {
    let (mut redis, backend) = (Redis::start(), Backend::start().await);
    let gateway = Gateway::start(&shared(&redis, &backend, "10000000/h per route", "timeout: 50ms")).await;
    let load = Load::get(gateway.address, "/", "").start(16);
    let mut longest = Duration::ZERO;
    for _ in 0..2 {
        tokio::time::sleep(milliseconds(500)).await;
        redis.pause();
        let asked = Instant::now();
        assert_eq!(gateway.get("/").await.status, 200);
        longest = longest.max(asked.elapsed());
        tokio::time::sleep(milliseconds(500)).await;
        redis.resume();
        back(&[&gateway]).await;
        redis.kill();
        tokio::time::sleep(milliseconds(500)).await;
        redis.revive();
        back(&[&gateway]).await;
    }
    load.stop().await.all(200);
    assert!(longest < seconds(1), "{longest:?}");
    assert!(decided(&gateway, "store").await > 0.0 && decided(&gateway, "fallback_local").await > 0.0);
}
