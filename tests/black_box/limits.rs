//! What a limit counts, whom, and what it says: beyond the plain window and bucket of `seen_to_work.rs`.

use crate::harness::{Backend, Config, Gateway};

fn keyed(backend: &Backend, limit: &str) -> Config {
    Config::new()
        .service("service", &[backend.address])
        .route("/one/*", &format!("to: service, limit: {limit}"))
        .route("/two/*", &format!("to: service, limit: {limit}"))
        .key_of("alice-1", "alice")
        .key_of("alice-2", "alice")
        .key("bob")
}

/// The statuses of these requests, one after the other.
async fn statuses(limit: &str, requests: &[(&str, &str)]) -> Vec<u16> {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&keyed(&backend, limit)).await;
    let mut statuses = Vec::new();
    for (path, key) in requests {
        statuses.push(gateway.get(path).key(key).await.status);
    }
    statuses
}

#[tokio::test]
async fn by_default_a_limit_counts_the_consumer_whatever_key_is_used() {
    let asked = [("/one/a", "alice-1"), ("/one/b", "alice-2"), ("/one/c", "alice-1"), ("/one/a", "bob")];
    assert_eq!(statuses("2/min", &asked).await, [200, 200, 429, 200]);
}

#[tokio::test]
async fn per_key_each_key_has_its_own_count() {
    let asked = [("/one/a", "alice-1"), ("/one/a", "alice-1"), ("/one/a", "alice-2")];
    assert_eq!(statuses("1/min per key", &asked).await, [200, 429, 200]);
}

#[tokio::test]
async fn per_route_everybody_shares_one_count() {
    let asked = [("/one/a", "alice-1"), ("/one/a", "bob"), ("/two/a", "bob")];
    assert_eq!(statuses("1/min per route", &asked).await, [200, 429, 200]);
}

#[tokio::test]
async fn a_limit_written_on_two_routes_counts_twice() {
    let asked = [("/one/a", "bob"), ("/two/a", "bob"), ("/one/a", "bob"), ("/two/a", "bob")];
    assert_eq!(statuses("1/min", &asked).await, [200, 200, 429, 429]);
}

#[tokio::test]
async fn several_limits_hold_together_and_a_refused_request_counts_in_none() {
    let asked = [("/one/a", "alice-1"); 4];
    assert_eq!(statuses("[2/min, 3/h]", &asked).await, [200, 200, 429, 429]);
    let backend = Backend::start().await;
    let gateway = Gateway::start(&keyed(&backend, "[2/min, 3/h]")).await;
    for _ in 0..6 {
        gateway.get("/one/a").key("bob").await;
    }
    let state = gateway.get("/one/a").key("bob").await;
    assert!(
        state.header("ratelimit").is_some_and(|state| state.contains("r=1;")),
        "the wider limit keeps one: {state:?}"
    );
}

#[tokio::test]
async fn a_request_may_cost_more_than_one() {
    let asked = [("/one/a", "bob"), ("/one/a", "bob"), ("/one/a", "bob")];
    assert_eq!(statuses("{rate: 10/min, cost: 4}", &asked).await, [200, 200, 429]);
}

#[tokio::test]
async fn an_observed_limit_only_says_what_it_would_have_done() {
    let backend = Backend::start().await;
    let config = keyed(&backend, "{rate: 1/min, mode: observe, name: trial}").log("sqlite:log.db");
    let gateway = Gateway::start(&config).await;
    for _ in 0..3 {
        assert_eq!(gateway.get("/one/a").key("bob").await.status, 200);
    }
    let metrics = gateway.log_written().await;
    assert_eq!(metrics.sum("tollgate_limit_results_total", &[("limit", "trial"), ("result", "observed")]), 2.0);
    assert_eq!(gateway.sqlite_texts("SELECT observed FROM api_logs ORDER BY sequence"), ["", "trial", "trial"]);
}

#[tokio::test]
async fn refused_requests_are_not_counted_against_the_caller() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&keyed(&backend, "2/min")).await;
    for _ in 0..5 {
        assert_eq!(gateway.get("/one/a").key("nobody").await.status, 401);
    }
    assert_eq!(gateway.get("/one/a").key("bob").await.status, 200);
    assert_eq!(gateway.get("/one/a").key("bob").await.status, 200);
    assert_eq!(gateway.get("/one/a").key("bob").await.status, 429);
}

#[tokio::test]
async fn answers_from_the_cache_count_too_and_show_their_own_state() {
    let backend = Backend::start().await;
    let config = Config::open(&backend).route("/cached", "to: service, keys: none, cache: 1min, limit: 3/min per ip");
    let gateway = Gateway::start(&config).await;
    for left in ["r=2;", "r=1;", "r=0;"] {
        let answer = gateway.get("/cached").await;
        assert!(answer.header("ratelimit").is_some_and(|state| state.contains(left)), "no {left} in {answer:?}");
    }
    assert_eq!(gateway.get("/cached").await.status, 429);
    assert_eq!(backend.requests(), 1);
}

#[tokio::test]
async fn defaults_are_a_template_for_each_route() {
    let backend = Backend::start().await;
    let config = Config::open(&backend)
        .route("/a", "to: service, keys: none")
        .route("/b", "to: service, keys: none")
        .route("/free", "to: service, keys: none, limit: none")
        .section("defaults: {limit: 1/min per ip}");
    let gateway = Gateway::start(&config).await;
    for (path, status) in [("/a", 200), ("/b", 200), ("/a", 429), ("/b", 429), ("/free", 200), ("/free", 200)] {
        assert_eq!(gateway.get(path).await.status, status, "{path}");
    }
}
