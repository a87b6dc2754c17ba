//! Health checks, ejection, breakers and retries at once: which of them has the say, and that there is a way through as long as there may be one.

use serde_json::Value;

use crate::harness::{Backend, Config, Gateway, Reply, Seen, eventually, seconds};

/// Answers its health checks and everything else with these statuses.
fn answers(name: &'static str, health: u16, others: u16) -> impl Fn(&Seen) -> Reply {
    move |seen| {
        let status = if seen.target == "/health" { health } else { others };
        Reply::status(status, name).with("X-Instance", name)
    }
}

/// Requests that were no health checks.
fn asked(backend: &Backend) -> usize {
    backend.seen().iter().filter(|seen| seen.target != "/health").count()
}

async fn service(gateway: &Gateway) -> Value {
    gateway.admin_get("/admin/services").await.json()["services"][0].clone()
}

/// State and breaker of the instance.
async fn state(gateway: &Gateway, backend: &Backend) -> String {
    let service = service(gateway).await;
    let all = service["instances"].as_array().expect("instances").clone();
    let found = all.iter().find(|one| one["address"] == backend.address.to_string()).expect("the instance");
    format!("{} {}", found["state"].as_str().expect("a state"), found["breaker"]["state"].as_str().expect("a breaker"))
}

#[tokio::test]
async fn everything_at_once_has_a_way_through() {
    let one = Backend::scripted(answers("one", 200, 200)).await;
    let two = Backend::scripted(answers("two", 200, 200)).await;
    let three = Backend::scripted(answers("three", 200, 200)).await;
    // Times are so long or so short that a machine that stands still for a while changes nothing.
    let fields = "health: {path: /health, every: 100ms, timeout: 30s, healthy_after: 1, unhealthy_after: 1}, \
                  eject: {errors: 2, for: 1h, for_max: 1h, ejected_max: 50%, statuses: [503]}, \
                  breaker: {failures: 3, recovery: 1h, recovery_max: 1h}, \
                  retry: {attempts: 3, base_delay: 1ms, budget: 1000%, budget_floor: 1000}";
    let config = Config::new()
        .service_with("service", &[one.address, two.address, three.address], fields)
        .route("/*", "to: service, keys: none");
    let gateway = Gateway::start(&config).await;
    for _ in 0..9 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    assert_eq!([asked(&one), asked(&two), asked(&three)], [3; 3]);

    // Failing requests are tried elsewhere, and eject their instance although its health checks succeed.
    two.plays(answers("two", 200, 503));
    for _ in 0..12 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    assert_eq!((asked(&two), state(&gateway, &two).await), (5, "ejected closed".into()));

    // Failing health checks take their instance out although its requests succeed.
    three.plays(answers("three", 500, 200));
    eventually("three is down", seconds(20), async || state(&gateway, &three).await == "down closed").await;
    let before = asked(&three);
    for _ in 0..6 {
        assert_eq!(gateway.get("/").await.instance(), "one");
    }
    assert_eq!(asked(&three), before);

    // The breaker of the last one opens: now the ejected one is asked, and not a refusal is made.
    one.plays(answers("one", 200, 500));
    two.plays(answers("two", 200, 200));
    for _ in 0..3 {
        assert_eq!(gateway.get("/").await.status, 500);
    }
    for _ in 0..6 {
        assert_eq!(gateway.get("/").await.instance(), "two");
    }
    assert_eq!(state(&gateway, &one).await, "up open");
    assert_eq!(service(&gateway).await["usable"], true);

    // Its breaker opens as well, and nobody is left: breakers are never passed by, nor are health checks.
    two.plays(answers("two", 200, 500));
    for _ in 0..3 {
        assert_eq!(gateway.get("/").await.status, 500);
    }
    let counts = [asked(&one), asked(&two), asked(&three)];
    for _ in 0..6 {
        assert_eq!(gateway.get("/").await.refused(), (503, "breaker_open".into()));
    }
    assert_eq!([asked(&one), asked(&two), asked(&three)], counts);
    assert_eq!(state(&gateway, &two).await, "ejected open");
    assert_eq!(service(&gateway).await["usable"], false);
    assert_eq!(gateway.admin_get("/health/services").await.status, 503);

    // The way out: the unhealthy one recovers.
    three.plays(answers("three", 200, 200));
    eventually("three is up", seconds(20), async || state(&gateway, &three).await == "up closed").await;
    for _ in 0..6 {
        assert_eq!(gateway.get("/").await.instance(), "three");
    }
    assert_eq!(service(&gateway).await["usable"], true);
}

#[tokio::test]
async fn unhealthy_instances_are_asked_where_that_is_wanted() {
    let one = Backend::scripted(answers("one", 500, 200)).await;
    let health = "health: {path: /health, every: 100ms, unhealthy_after: 1, when_all_down: all}";
    let config = Config::new().service_with("service", &[one.address], health).route("/*", "to: service, keys: none");
    let gateway = Gateway::start(&config).await;
    let is_down = async || service(&gateway).await["instances"][0]["state"] == "down";
    eventually("it is down", seconds(20), is_down).await;
    assert_eq!(gateway.get("/").await.instance(), "one");
    assert_eq!(service(&gateway).await["usable"], true);
}
