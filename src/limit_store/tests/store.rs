//! The store and a real server: what a request waits, what opens the breaker, and what closes it again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::server::Redis;
use crate::config::{Gateways, SharedStore};
use crate::limit_store::{Ask, Kind, LimitStore, Rule, Settings, Unavailable};

const TIMEOUT: Duration = Duration::from_millis(200);

fn settings(url: &str) -> Settings {
    let store = SharedStore::parse(url).unwrap();
    Settings::compile(&store, TIMEOUT, Gateways::Auto, "test", None).unwrap().unwrap()
}

async fn started(url: &str) -> Arc<LimitStore> {
    let store = Arc::new(LimitStore::new(settings(url), None));
    store.start(&tokio::runtime::Handle::current());
    store.tried(Duration::from_secs(5)).await;
    store
}

async fn until(what: &str, is: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

const RULE: Rule = Rule { kind: Kind::SlidingLog { window: 3_600_000_000 }, enforced: true, cost: 1, count: 3 };

fn key(store: &LimitStore, name: &str) -> String {
    format!("{}{name}", store.prefix())
}

async fn admits(store: &LimitStore) -> Result<bool, Unavailable> {
    let ask = Ask { key: key(store, "one"), rule: RULE, periods: [0; 4] };
    store.decide(&[ask]).await.map(|answer| answer.verdicts[0].wait == 0)
}

#[tokio::test]
async fn a_dead_server_costs_one_timeout_and_is_used_again_when_it_is_back() {
    let mut redis = Redis::start();
    let store = started(&redis.url()).await;
    assert_eq!(admits(&store).await, Ok(true));
    redis.pause();
    let begun = Instant::now();
    assert_eq!(admits(&store).await, Err(Unavailable));
    let first = begun.elapsed();
    assert!(first >= TIMEOUT && first < 2 * TIMEOUT, "{first:?}");
    let begun = Instant::now();
    for _ in 0..1_000 {
        assert_eq!(admits(&store).await, Err(Unavailable));
    }
    assert!(begun.elapsed() < TIMEOUT, "{:?}", begun.elapsed());
    redis.resume();
    until("back after a pause", || store.is_up()).await;
    // What timed out was counted when the server went on: never too many, at most one too few.
    assert_eq!(admits(&store).await, Ok(true));
    redis.kill();
    until("away", || !store.is_up()).await;
    assert!(store.why_down().is_some());
    redis.revive();
    until("back after a crash", || store.is_up()).await;
    assert_eq!(admits(&store).await, Ok(true));
    let state = store.state();
    assert_eq!((state.up, state.opened >= 2, state.gateways), (true, true, 1));
}

#[tokio::test]
async fn counts_that_are_lost_are_noticed() {
    let redis = Redis::start();
    let store = started(&redis.url()).await;
    assert_eq!((admits(&store).await, store.lost()), (Ok(true), None));
    redis.flush();
    until("the loss", || store.lost().is_some()).await;
    let age = store.clock().unwrap() - store.lost().unwrap();
    assert!(age < 5_000_000, "{age}");
}

#[tokio::test]
async fn a_pause_loses_nothing() {
    let redis = Redis::start();
    let store = started(&redis.url()).await;
    assert_eq!(admits(&store).await, Ok(true));
    redis.pause();
    until("away", || !store.is_up()).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    redis.resume();
    until("back", || store.is_up()).await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(store.lost(), None);
}

#[tokio::test]
async fn a_script_that_the_server_forgot_is_sent_again() {
    let redis = Redis::start();
    let store = started(&redis.url()).await;
    redis.ask::<()>(&["SCRIPT", "FLUSH"]);
    assert_eq!(admits(&store).await, Ok(true));
    assert_eq!(admits(&store).await, Ok(true));
    assert_eq!(store.state().opened, 0);
}

#[tokio::test]
async fn a_wrong_password_is_told_and_not_shown() {
    let redis = Redis::with_password("s3cret-of-the-server");
    let wrong = redis.url().replace("redis://", "redis://:hunter2@");
    let store = started(&wrong).await;
    let why = store.why_down().unwrap();
    assert!(why.contains("password") && !why.contains("hunter2"), "{why}");
    assert!(!format!("{:?}", store.settings()).contains("hunter2"));
    let store = started(&redis.url()).await;
    assert!(store.why_down().unwrap().contains("password"), "{:?}", store.why_down());
    let right = redis.url().replace("redis://", "redis://:s3cret-of-the-server@");
    assert!(started(&right).await.is_up());
}

#[tokio::test]
async fn gateways_see_each_other_and_keys_can_be_forgotten() {
    let redis = Redis::start();
    let stores = [started(&redis.url()).await, started(&redis.url()).await, started(&redis.url()).await];
    until("three", || stores.iter().all(|store| store.state().gateways == 3)).await;
    let shares: u64 = stores.iter().filter_map(|store| store.share().times(2)).map(|times| 2 / times).sum();
    assert_eq!(shares, 2);
    for store in &stores {
        assert_eq!(admits(store).await, Ok(true));
    }
    assert_eq!(admits(&stores[0]).await, Ok(false));
    assert_eq!(stores[1].forget(&[key(&stores[1], "one"), key(&stores[1], "other")]).await, Ok(1));
    assert_eq!(admits(&stores[2]).await, Ok(true));
    let keys: Vec<String> = redis.ask(&["KEYS", "*"]);
    for key in keys {
        assert!(key.starts_with("test:{limits}:"), "{key}");
        assert!(redis.ask::<i64>(&["PTTL", &key]) > 0, "{key} lives for ever");
    }
}

#[tokio::test]
async fn a_store_that_was_never_there_is_a_fallback_and_no_wait() {
    let store = Arc::new(LimitStore::new(settings("redis://127.0.0.1:1"), None));
    assert_eq!(admits(&store).await, Err(Unavailable));
    store.start(&tokio::runtime::Handle::current());
    let begun = Instant::now();
    store.tried(Duration::from_secs(5)).await;
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!((admits(&store).await, store.share().gateways), (Err(Unavailable), 1));
}
