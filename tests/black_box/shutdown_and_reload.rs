//! The end of the process and the change of its configuration, both while requests are under way.

use std::time::Instant;

use crate::harness::{Backend, Config, Gateway, Load, Reply, Signal, Wire, eventually, milliseconds, seconds};

const LOOK: &str = "GET /slow HTTP/1.1\r\nHost: gateway.example\r\n\r\n";

// 7. SIGTERM under load.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_lets_requests_in_flight_finish_and_loses_no_row() {
    let backend = Backend::scripted(|_| Reply::ok("late").after(milliseconds(400))).await;
    let mut gateway = Gateway::start(&Config::open(&backend).log("sqlite:log.db")).await;
    let load = Load::get(gateway.address, "/slow", "").start(32);
    eventually("load runs", seconds(10), async || load.answered() > 64).await;
    let mut last = gateway.wire().await;
    last.send(LOOK).await;
    let before = backend.requests();
    eventually("one more request is in flight", seconds(5), async || backend.requests() > before).await;

    let asked = Instant::now();
    gateway.signal(Signal::SIGTERM);
    assert_eq!(last.answer().await.text(), "late");
    assert!(gateway.wait_exit(seconds(5)).await.success());
    assert!(asked.elapsed() < seconds(3), "{:?} for requests of 0.4 s", asked.elapsed());
    let tally = load.stop().await;
    tally.only_closed();
    assert_eq!(tally.of(200), tally.answered());
    assert_eq!(gateway.sqlite_number("SELECT COUNT(*) FROM api_logs"), tally.answered() as i64 + 1);
    assert_eq!(gateway.sqlite_number("SELECT COUNT(*) FROM log_runs WHERE closed_at IS NOT NULL"), 1);
    let said = gateway.said();
    assert!(said.contains("written") && said.contains("dropped"), "it says what it wrote and dropped");
}

#[tokio::test]
async fn an_idle_gateway_ends_at_once_even_with_open_connections() {
    let backend = Backend::start().await;
    let mut gateway = Gateway::start(&Config::open(&backend).log("sqlite:log.db")).await;
    let (mut idle, mut untouched) = (gateway.wire().await, gateway.wire().await);
    assert_eq!(idle.get("/", "").await.status, 200);
    let asked = Instant::now();
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait_exit(seconds(3)).await.success());
    assert!(asked.elapsed() < milliseconds(1_500), "{:?}", asked.elapsed());
    assert!(idle.closes_within(seconds(1)).await && untouched.closes_within(seconds(1)).await);
    assert_eq!(gateway.sqlite_number("SELECT COUNT(*) FROM api_logs"), 1);
}

#[tokio::test]
async fn a_second_signal_ends_at_once_and_what_it_cuts_is_logged() {
    let backend = Backend::scripted(|_| Reply::Hang).await;
    let mut gateway = Gateway::start(&Config::open(&backend).log("sqlite:log.db")).await;
    let mut stuck = gateway.wire().await;
    stuck.send(LOOK).await;
    eventually("a request hangs", seconds(5), async || backend.requests() == 1).await;
    gateway.signal(Signal::SIGTERM);
    tokio::time::sleep(milliseconds(500)).await;
    gateway.signal(Signal::SIGTERM);
    gateway.wait_exit(seconds(2)).await;
    assert_eq!(gateway.sqlite_texts("SELECT decided_by FROM api_logs"), ["aborted"]);
}

#[tokio::test]
async fn the_grace_period_is_the_longest_wait_and_what_it_cuts_is_logged() {
    let backend = Backend::scripted(|_| Reply::Hang).await;
    let config = Config::open(&backend).section("shutdown: {grace: 1s}").log("sqlite:log.db");
    let mut gateway = Gateway::start(&config).await;
    let mut stuck = gateway.wire().await;
    stuck.send(LOOK).await;
    eventually("a request hangs", seconds(5), async || backend.requests() == 1).await;
    gateway.signal(Signal::SIGTERM);
    gateway.wait_exit(seconds(5)).await;
    assert_eq!(gateway.sqlite_texts("SELECT decided_by FROM api_logs"), ["aborted"]);
}

#[tokio::test]
async fn readiness_fails_first_and_the_listener_stays_open_for_the_drain_delay() {
    let backend = Backend::start().await;
    let config = Config::open(&backend).section("shutdown: {drain_delay: 2s}");
    let mut gateway = Gateway::start(&config).await;
    gateway.signal(Signal::SIGTERM);
    eventually("readiness is false", seconds(1), async || !gateway.is_ready().await).await;
    assert_eq!(gateway.admin_get("/ready").await.status, 503);
    assert_eq!(gateway.wire().await.get("/", "Connection: close\r\n").await.status, 200);
    assert!(gateway.wait_exit(seconds(5)).await.success());
    assert!(Wire::try_open(gateway.address).await.is_err());
}

#[tokio::test]
async fn sigint_is_as_good_as_sigterm() {
    let backend = Backend::start().await;
    let mut gateway = Gateway::start(&Config::open(&backend)).await;
    gateway.signal(Signal::SIGINT);
    assert!(gateway.wait_exit(seconds(3)).await.success());
}

// 7. Reload under load.

/// The same gateway in its `round`th edition: other timeouts and instances, another limit, another key.
fn edition(round: usize, one: &Backend, two: &Backend) -> Config {
    let instances = if round.is_multiple_of(2) { vec![one.address] } else { vec![one.address, two.address] };
    Config::new()
        .service("steady", &[one.address])
        .service_with("changing", &instances, &format!("timeouts: {{response: {}s}}", 5 + round % 7))
        .route("/counted", "to: steady, keys: none, limit: 5/h per ip")
        .route("/load", "to: changing")
        .route("/changing", &format!("to: changing, limit: {}/min", 10 + round))
        .key("always")
        .key(&format!("round-{round}"))
        .log("sqlite:log.db")
}

fn spoiled(round: usize, good: Config) -> Config {
    match round % 4 {
        0 => good.route("/bad", "to: nowhere"),
        1 => good.route("/bad", "to: steady, limit: many"),
        2 => good.section("no_such_section: 1"),
        _ => good.section("shutdown: {grace: [}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_reloads_under_load_fail_no_request_and_forget_no_count() {
    let (one, two) = (Backend::named("one").await, Backend::named("two").await);
    let gateway = Gateway::start(&edition(0, &one, &two)).await;
    for _ in 0..3 {
        assert_eq!(gateway.get("/counted").await.status, 200);
    }
    let keep_alive = Load::get(gateway.address, "/load", "X-API-Key: always\r\n").start(6);
    let fresh = Load::get(gateway.address, "/load", "X-API-Key: always\r\n").fresh().start(2);
    for round in 1..=100 {
        let next = edition(round, &one, &two);
        let refused = gateway.try_reload(&spoiled(round, next.clone())).await;
        assert_eq!(refused.status, 422, "{}", refused.text());
        assert!(refused.json()["problems"].as_array().is_some_and(|problems| !problems.is_empty()));
        let answer = gateway.try_reload(&next).await;
        assert_eq!(
            (answer.status, answer.json()["generation"].as_u64()),
            (200, Some(round as u64 + 1)),
            "{}",
            answer.text()
        );
    }
    keep_alive.stop().await.all(200);
    fresh.stop().await.all(200);

    assert_eq!(gateway.get("/load").key("round-100").await.status, 200);
    assert_eq!(gateway.get("/load").key("round-99").await.refused(), (401, "unknown_key".into()));
    assert_eq!(gateway.get("/counted").await.status, 200);
    assert_eq!(gateway.get("/counted").await.status, 200);
    assert_eq!(gateway.get("/counted").await.refused(), (429, "rate_limited".into()));
    let metrics = gateway.log_written().await;
    assert_eq!(metrics.sum("tollgate_config_generation", &[]), 101.0);
    assert!(gateway.sqlite_number("SELECT COUNT(DISTINCT generation) FROM api_logs") > 50);
}

#[tokio::test]
async fn a_removed_key_is_refused_after_reload() {
    let backend = Backend::start().await;
    let keyed = || Config::new().service("service", &[backend.address]).route("/*", "to: service");
    let gateway = Gateway::start(&keyed().key("alice").key("bob")).await;
    assert_eq!(gateway.get("/").key("alice").await.status, 200);
    gateway.reload(&keyed().key("bob")).await;
    assert_eq!(gateway.get("/").key("alice").await.status, 401);
    assert_eq!(backend.requests(), 1);
}

#[tokio::test]
async fn a_changed_limit_holds_at_once_and_an_unchanged_one_counts_on() {
    let backend = Backend::start().await;
    let edition = |changed: &str| {
        Config::open(&backend)
            .route("/same", "to: service, keys: none, limit: 3/min per ip")
            .route("/changed", &format!("to: service, keys: none, limit: {changed} per ip"))
    };
    let gateway = Gateway::start(&edition("3/min")).await;
    for path in ["/same", "/same", "/changed", "/changed"] {
        assert_eq!(gateway.get(path).await.status, 200);
    }
    gateway.reload(&edition("1/min")).await;
    assert_eq!(gateway.get("/same").await.status, 200);
    assert_eq!(gateway.get("/same").await.status, 429);
    assert_eq!(gateway.get("/changed").await.status, 429, "two were used, and only one is allowed now");
    gateway.reload(&edition("4/min")).await;
    assert_eq!((gateway.get("/changed").await.status, gateway.get("/changed").await.status), (200, 200));
    assert_eq!(gateway.get("/changed").await.status, 429, "what was used stays used");
    assert_eq!(gateway.get("/same").await.status, 429);
}

#[tokio::test]
async fn the_cache_survives_a_reload() {
    let backend = Backend::start().await;
    let cached = || Config::open(&backend).route("/cached", "to: service, keys: none, cache: 1min");
    let gateway = Gateway::start(&cached()).await;
    gateway.get("/cached").await;
    gateway.reload(&cached().route("/more", "to: service")).await;
    gateway.get("/cached").await;
    assert_eq!(backend.requests(), 1);
}

#[tokio::test]
async fn sighup_reloads() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    gateway.write(&Config::open(&backend).route("/closed", "to: service"));
    gateway.signal(Signal::SIGHUP);
    eventually("the new route holds", seconds(5), async || gateway.get("/closed").await.status == 401).await;
}

#[tokio::test]
async fn what_only_a_start_can_change_is_refused_by_name() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend).log("sqlite:log.db")).await;
    for (config, name) in [
        (Config::open(&backend).log("sqlite:log.db").listen("[\"{main}\", \"{second}\"]"), "listen"),
        (Config::open(&backend).log("sqlite:log.db").section("threads: 3"), "threads"),
        (Config::open(&backend).log("sqlite:other.db"), "log"),
    ] {
        let answer = gateway.try_reload(&config).await;
        assert_eq!(answer.status, 422, "{name}: {}", answer.text());
        let problems = answer.json()["problems"].to_string();
        assert!(problems.contains(name), "no `{name}` in {problems}");
    }
    assert_eq!(gateway.get("/").await.status, 200);
    assert_eq!(gateway.metrics().await.sum("tollgate_config_generation", &[]), 1.0);
}
