//! Which instances get requests: health checks of every kind, instances that come and go, ejection by failing requests, slow start.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Backend, Config, Gateway, Reply, eventually, free_address, milliseconds, seconds};

const FAST: &str = "every: 200ms, timeout: 200ms, healthy_after: 1, unhealthy_after: 2";

fn service(backends: &[&Backend], fields: &str) -> Config {
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    Config::new().service_with("service", &addresses, fields).route("/*", "to: service, keys: none")
}

async fn status(gateway: &Gateway, backend: &Backend) -> Value {
    let services = gateway.admin_get("/admin/services").await.json();
    let address = backend.address.to_string();
    let instances = services["services"][0]["instances"].as_array().expect("instances").clone();
    instances.into_iter().find(|instance| instance["address"] == address.as_str()).expect("the instance")
}

async fn becomes(gateway: &Gateway, backend: &Backend, state: &str) {
    let what = format!("{} is {state}", backend.address);
    eventually(&what, seconds(10), async || status(gateway, backend).await["state"] == state).await;
}

fn named(name: &'static str, health: Reply) -> impl Fn(&crate::harness::Seen) -> Reply + Send + Sync {
    move |seen| match seen.target.as_str() {
        "/health" => health.clone(),
        _ => Reply::ok("").with("X-Instance", name),
    }
}

// Health checks.

#[tokio::test]
async fn a_check_asks_for_statuses_a_body_and_its_own_host() {
    let (one, two) = (Backend::start().await, Backend::start().await);
    one.plays(named("one", Reply::status(207, "database: ok")));
    two.plays(named("two", Reply::status(207, "database: away")));
    let health = format!(
        "health: {{path: /health, statuses: [200-299], body: \"database: ok\", host: health.internal, {FAST}}}"
    );
    let gateway = Gateway::start(&service(&[&one, &two], &health)).await;
    becomes(&gateway, &two, "down").await;
    let seen = status(&gateway, &two).await;
    assert!(seen["why"].as_str().is_some_and(|why| why.contains("does not hold the text")), "{seen}");
    assert!(seen["last_check"]["problem"].is_string() && seen["since"].is_string(), "{seen}");
    let seen = status(&gateway, &one).await;
    assert_eq!((seen["state"].as_str(), &seen["last_check"]["problem"]), (Some("up"), &Value::Null));
    assert!(seen["last_check"]["took_ms"].as_f64().is_some_and(|took| took > 0.0), "{seen}");
    assert_eq!(one.last().header("host"), Some("health.internal"));
    for _ in 0..10 {
        assert_eq!(gateway.get("/x").await.instance(), "one");
    }
    assert!(gateway.said().contains("is unhealthy and gets no requests"), "{}", gateway.said());
}

#[tokio::test]
async fn a_check_may_be_a_connection_to_a_port_of_its_own() {
    let (one, two, side) = (Backend::start().await, Backend::start().await, Backend::start().await);
    let port = side.address.port();
    let gateway = Gateway::start(&service(&[&one], &format!("health: {{tcp: true, port: {port}, {FAST}}}"))).await;
    eventually("the port is checked", seconds(5), async || side.connections() > 1).await;
    side.stop();
    becomes(&gateway, &one, "down").await;
    assert_eq!(gateway.get("/").await.refused(), (503, "no_instance".into()));
    side.listen();
    becomes(&gateway, &one, "up").await;
    assert_eq!((one.connections(), gateway.get("/").await.status), (0, 200));
    drop(two);
}

#[tokio::test]
async fn an_instance_that_a_reload_adds_waits_for_its_first_check() {
    let (one, two) = (Backend::named("one").await, Backend::start().await);
    two.plays(named("two", Reply::ok("").after(milliseconds(900))));
    let health = |start: &str| format!("health: {{path: /health, every: 30s, timeout: 2s, start: {start}}}");
    let gateway = Gateway::start(&service(&[&one], &health("checked"))).await;
    gateway.reload(&service(&[&one, &two], &health("checked"))).await;
    assert_eq!(status(&gateway, &two).await["state"], "unproven");
    for _ in 0..10 {
        assert_eq!(gateway.get("/x").await.instance(), "one");
    }
    becomes(&gateway, &two, "up").await;
    let asked = async || gateway.get("/x").await.instance() == "two";
    eventually("the new one is asked", seconds(2), asked).await;

    let three = Backend::start().await;
    three.plays(named("three", Reply::Hang));
    gateway.reload(&service(&[&one, &three], &health("trusted"))).await;
    let asked = async || gateway.get("/x").await.instance() == "three";
    eventually("a trusted one is asked at once", milliseconds(500), asked).await;
}

#[tokio::test]
async fn a_new_instance_is_used_where_there_is_no_other() {
    let (one, two) = (Backend::start().await, Backend::start().await);
    two.plays(named("two", Reply::Hang));
    let health = "health: {path: /health, every: 30s, timeout: 2s}";
    let gateway = Gateway::start(&service(&[&one], health)).await;
    gateway.reload(&service(&[&two], health)).await;
    assert_eq!(status(&gateway, &two).await["state"], "unproven");
    assert_eq!(gateway.get("/x").await.instance(), "two");
    becomes(&gateway, &two, "down").await;
    assert_eq!(gateway.get("/x").await.refused(), (503, "no_instance".into()));
}

#[tokio::test]
async fn what_comes_and_goes_resets_nothing_of_the_others() {
    let (one, two, three) = (Backend::start().await, Backend::named("two").await, Backend::named("three").await);
    one.plays(named("one", Reply::status(500, "")));
    // So long between checks that after the reload nothing can be found out anew.
    let health = "health: {path: /health, every: 1s, timeout: 500ms, unhealthy_after: 1}, balance: least_requests";
    let gateway = Gateway::start(&service(&[&one, &two], health)).await;
    becomes(&gateway, &one, "down").await;
    for _ in 0..5 {
        assert_eq!(gateway.get("/x").await.instance(), "two");
    }
    let before = (status(&gateway, &one).await, status(&gateway, &two).await);
    gateway.reload(&service(&[&one, &two, &three], health)).await;
    let after = (status(&gateway, &one).await, status(&gateway, &two).await);
    for (before, after) in [(&before.0, &after.0), (&before.1, &after.1)] {
        for field in ["state", "since", "requests", "success_rate", "latency_ms"] {
            assert_eq!(before[field], after[field], "{field}");
        }
    }
    // Its checks went on, once each: one that was removed is not asked any more.
    gateway.reload(&service(&[&one, &three], health)).await;
    let (asked, others) = (two.requests(), one.requests());
    tokio::time::sleep(seconds(3)).await;
    assert_eq!(two.requests(), asked);
    let checks = one.requests() - others;
    assert!((2..=4).contains(&checks), "{checks} checks of the other in 3 s");
}

#[tokio::test]
async fn checks_do_not_come_in_bursts() {
    const INSTANCES: usize = 30;
    let arrivals = Arc::new(Mutex::new(Vec::new()));
    let mut backends = Vec::new();
    for _ in 0..INSTANCES {
        let arrivals = Arc::clone(&arrivals);
        backends.push(
            Backend::scripted(move |_| {
                arrivals.lock().unwrap().push(Instant::now());
                Reply::ok("")
            })
            .await,
        );
    }
    let all: Vec<&Backend> = backends.iter().collect();
    let _gateway = Gateway::start(&service(&all, "health: {path: /health, every: 1s}")).await;
    tokio::time::sleep(seconds(4)).await;
    let arrivals = arrivals.lock().unwrap().clone();
    let most = arrivals
        .iter()
        .map(|at| {
            arrivals
                .iter()
                .filter(|other| other.checked_duration_since(*at).is_some_and(|later| later < milliseconds(100)))
                .count()
        })
        .max()
        .unwrap_or_default();
    assert!((2 * INSTANCES..=5 * INSTANCES).contains(&arrivals.len()), "{} checks in 4 s", arrivals.len());
    assert!(most <= INSTANCES / 2, "{most} checks of {INSTANCES} instances within a tenth of the interval");
}

// Ejection.

#[tokio::test]
async fn an_instance_whose_requests_fail_is_ejected_and_comes_back() {
    let (one, two) = (Backend::start().await, Backend::named("two").await);
    one.plays(|_| Reply::status(503, "").with("X-Instance", "one"));
    let gateway = Gateway::start(&service(&[&one, &two], "eject: {errors: 3, for: 1s, statuses: [500-599]}")).await;
    let mut failed = 0;
    for _ in 0..20 {
        failed += usize::from(gateway.get("/x").await.status == 503);
    }
    assert_eq!(failed, 3, "after three in a row no more");
    let seen = status(&gateway, &one).await;
    assert_eq!(seen["state"], "ejected");
    assert!(seen["why"].as_str().is_some_and(|why| why.contains("503")), "{seen}");
    let up = async || gateway.metrics().await.sum("tollgate_upstream_up", &[("service", "service")]);
    assert_eq!(up().await, 1.0);
    one.plays(|_| Reply::ok("").with("X-Instance", "one"));
    becomes(&gateway, &one, "unchecked").await;
    let asked = async || gateway.get("/x").await.instance() == "one";
    eventually("it is asked again", seconds(2), asked).await;
    let metrics = gateway.metrics().await;
    for (state, times) in [("ejected", 1.0), ("up", 1.0)] {
        assert_eq!(metrics.sum("tollgate_upstream_state_changes_total", &[("state", state)]), times);
    }
    for line in ["is ejected for 1s: 503", "is back after its ejection"] {
        assert!(gateway.said().contains(line), "{line} is not in {}", gateway.said());
    }
}

#[tokio::test]
async fn one_that_fails_again_is_ejected_for_longer() {
    let (one, two) = (Backend::start().await, Backend::named("two").await);
    one.plays(|_| Reply::Reset);
    let gateway = Gateway::start(&service(&[&one, &two], "eject: {errors: 2, for: 500ms, for_max: 1min}")).await;
    let mut lengths: Vec<Duration> = Vec::new();
    while lengths.len() < 3 {
        while status(&gateway, &one).await["state"] != "ejected" {
            gateway.get("/x").await;
        }
        let begun = Instant::now();
        becomes(&gateway, &one, "unchecked").await;
        lengths.push(begun.elapsed());
    }
    let expected = [500, 1_000, 2_000].map(milliseconds);
    for (length, expected) in lengths.iter().zip(expected) {
        assert!(*length > expected / 2 && *length < expected + milliseconds(900), "{lengths:?}");
    }
}

#[tokio::test]
async fn never_more_than_the_bound_are_ejected() {
    let dead = || Backend::scripted(|_| Reply::status(500, ""));
    let backends = [dead().await, dead().await, dead().await];
    let all: Vec<&Backend> = backends.iter().collect();
    let gateway =
        Gateway::start(&service(&all, "eject: {errors: 1, for: 1min, statuses: 500, ejected_max: 50%}")).await;
    for _ in 0..20 {
        assert_eq!(gateway.get("/x").await.status, 500);
    }
    assert_eq!(gateway.metrics().await.sum("tollgate_upstream_up", &[]), 2.0);
}

#[tokio::test]
async fn with_all_ejected_they_are_used_or_requests_are_refused_as_is_written() {
    let one = Backend::scripted(|_| Reply::status(500, "")).await;
    let eject = |word: &str| {
        format!("eject: {{errors: 1, for: 1min, statuses: 500, ejected_max: 100%, when_all_down: {word}}}")
    };
    let gateway = Gateway::start(&service(&[&one], &eject("all"))).await;
    assert_eq!(gateway.get("/x").await.status, 500);
    assert_eq!(status(&gateway, &one).await["state"], "ejected");
    one.plays(|_| Reply::ok(""));
    assert_eq!(gateway.get("/x").await.status, 200);
    // The ejection lives on over the reload.
    gateway.reload(&service(&[&one], &eject("refuse"))).await;
    assert_eq!(gateway.get("/x").await.refused(), (503, "no_instance".into()));
    assert_eq!(gateway.admin_get("/health/services").await.status, 503);
}

#[tokio::test]
async fn connections_that_fail_count_and_idle_ones_that_were_closed_do_not() {
    let one =
        Backend::scripted(|_| Reply::RawThenClose(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec())).await;
    let eject = "eject: {errors: 1, for: 1min, ejected_max: 100%}";
    let gateway = Gateway::start(&service(&[&one], eject)).await;
    for _ in 0..30 {
        assert_eq!(gateway.get("/").await.text(), "ok");
    }
    assert_eq!(status(&gateway, &one).await["state"], "unchecked");
    let dead = free_address();
    let config = Config::new().service_with("service", &[dead, one.address], &eject.replace("100%", "50%"));
    gateway.reload(&config.route("/*", "to: service, keys: none")).await;
    for _ in 0..4 {
        assert_eq!(gateway.get("/").await.text(), "ok");
    }
    let services = gateway.admin_get("/admin/services").await.text();
    assert_eq!(services.matches("ejected").count(), 2, "state and reason in {services}");
}

// Slow start.

#[tokio::test]
async fn an_instance_that_is_back_gets_its_share_little_by_little() {
    let (one, two) = (Backend::start().await, Backend::named("two").await);
    one.plays(named("one", Reply::status(500, "")));
    let config = service(&[&one, &two], &format!("health: {{path: /health, {FAST}}}, slow_start: 6s"));
    let gateway = Gateway::start(&config).await;
    assert_eq!(status(&gateway, &one).await["share"], 1.0, "not at the start of the process");
    becomes(&gateway, &one, "down").await;
    one.plays(named("one", Reply::ok("")));
    becomes(&gateway, &one, "up").await;
    let of_100 = async || {
        let mut from_one = 0;
        for _ in 0..100 {
            from_one += usize::from(gateway.get("/x").await.instance() == "one");
        }
        from_one
    };
    let first = of_100().await;
    assert!(first < 30, "{first} of 100 at the beginning");
    let whole = async || status(&gateway, &one).await["share"] == 1.0;
    eventually("it has its whole share", seconds(10), whole).await;
    assert_eq!(of_100().await, 50);
}
