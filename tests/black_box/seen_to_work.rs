//! What the gateway promises first of all, each line as its own stories: routing and keys, limits, cache, dead instances,
//! bad configurations. What is promised under load is in `under_load.rs` and `shutdown_and_reload.rs`.

use std::time::Instant;

use crate::harness::{
    Backend, Config, Folder, Gateway, Load, Mocks, Reply, burst, free_address, milliseconds, seconds,
};

fn demo(mocks: &Mocks) -> Config {
    Config::new()
        .service("user_service", &mocks.users)
        .route("GET,POST /api/user_service/*", "to: user_service, strip_prefix: /api/user_service")
        .key("demo")
}

// 1. Routing and keys.

#[tokio::test]
async fn users_are_answered_by_two_instances_alternately() {
    let mocks = Mocks::users();
    let gateway = Gateway::start(&demo(&mocks)).await;
    let mut instances = Vec::new();
    for _ in 0..6 {
        let answer = gateway.get("/api/user_service/users").key("demo").await;
        assert_eq!((answer.status, answer.json()["total"].as_u64()), (200, Some(24)));
        instances.push(answer.instance().to_owned());
    }
    assert_ne!(instances[0], instances[1]);
    for pair in instances.windows(3) {
        assert_eq!(pair[0], pair[2], "{instances:?}");
    }
}

#[tokio::test]
async fn a_request_without_key_is_401() {
    let mocks = Mocks::users();
    let gateway = Gateway::start(&demo(&mocks)).await;
    let answer = gateway.get("/api/user_service/users").await;
    assert_eq!(answer.refused(), (401, "no_key".into()));
    assert!(answer.header("www-authenticate").is_some_and(|challenge| challenge.contains("Bearer")), "{answer:?}");
}

#[tokio::test]
async fn an_unknown_key_is_401() {
    let mocks = Mocks::users();
    let gateway = Gateway::start(&demo(&mocks)).await;
    let answer = gateway.get("/api/user_service/users").key("stolen").await;
    assert_eq!(answer.refused(), (401, "unknown_key".into()));
    assert!(answer.header("www-authenticate").is_some());
}

#[tokio::test]
async fn an_unknown_path_is_404() {
    let mocks = Mocks::users();
    let gateway = Gateway::start(&demo(&mocks)).await;
    assert_eq!(gateway.get("/nowhere").key("demo").await.refused(), (404, "no_route".into()));
    // Only `/api/user_service/*`, not everything that begins like it.
    assert_eq!(gateway.get("/api/user_services").key("demo").await.status, 404);
}

#[tokio::test]
async fn a_wrong_method_is_405_and_says_what_is_allowed() {
    let mocks = Mocks::users();
    let gateway = Gateway::start(&demo(&mocks)).await;
    let answer = gateway.ask(reqwest::Method::DELETE, "/api/user_service/users").key("demo").await;
    assert_eq!(answer.refused(), (405, "method_not_allowed".into()));
    let mut allow: Vec<&str> = answer.header("allow").expect("Allow").split(", ").collect();
    allow.sort_unstable();
    assert_eq!(allow, ["GET", "HEAD", "POST"]);
}

#[tokio::test]
async fn an_instances_own_404_passes_untouched() {
    let mocks = Mocks::users();
    let gateway = Gateway::start(&demo(&mocks)).await;
    let answer = gateway.get("/api/user_service/users/999").key("demo").await;
    assert_eq!((answer.status, answer.json()["detail"].as_str()), (404, Some("no user with the id 999")));
}

// 2. A limit over a window.

#[tokio::test]
async fn the_eleventh_of_ten_waits_as_long_as_it_was_told() {
    let backend = Backend::start().await;
    let config = Config::open(&backend).route("/limited", "to: service, keys: none, limit: 10/10s per ip");
    let gateway = Gateway::start(&config).await;
    for left in (0..10).rev() {
        let answer = gateway.get("/limited").await;
        assert_eq!(answer.status, 200);
        assert!(answer.header("ratelimit-policy").is_some_and(|policy| policy.contains("q=10;w=10")), "{answer:?}");
        assert!(answer.header("ratelimit").is_some_and(|state| state.contains(&format!("r={left};"))), "{answer:?}");
    }
    let refused = gateway.get("/limited").await;
    let at = Instant::now();
    assert_eq!(refused.refused(), (429, "rate_limited".into()));
    assert!(refused.header("ratelimit").is_some_and(|state| state.contains("r=0;")), "{refused:?}");
    let wait: u64 = refused.header("retry-after").expect("Retry-After").parse().expect("seconds");
    // The window, and at most one sixteenth of it more.
    assert!((9..=11).contains(&wait), "Retry-After: {wait}");

    tokio::time::sleep_until((at + seconds(wait - 2)).into()).await;
    assert_eq!(gateway.get("/limited").await.status, 429, "it told us to wait longer than needed");
    tokio::time::sleep_until((at + seconds(wait)).into()).await;
    assert_eq!(gateway.get("/limited").await.status, 200, "it told us to come back now");
    assert_eq!(gateway.get("/free").await.status, 200);
}

// 3. Limits are exact under concurrency.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_2000_requests_at_once_exactly_100_are_admitted() {
    let backend = Backend::start().await;
    let config = Config::open(&backend).route("/limited", "to: service, keys: none, limit: 100/min per ip");
    let gateway = Gateway::start(&config).await;
    let tally = burst(gateway.address, 2_000, "GET /limited HTTP/1.1\r\nHost: gateway.example\r\n\r\n").await;
    assert_eq!(tally.failures, Vec::<String>::new());
    assert_eq!((tally.of(200), tally.of(429)), (100, 1_900));
    assert_eq!(backend.requests(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_100_passes_and_then_10_a_second() {
    let backend = Backend::start().await;
    let config = Config::open(&backend).route("/limited", "to: service, keys: none, limit: 10/s burst 100 per ip");
    let gateway = Gateway::start(&config).await;
    let begin = Instant::now();
    let tally = burst(gateway.address, 300, "GET /limited HTTP/1.1\r\nHost: gateway.example\r\n\r\n").await;
    let at_once = tally.of(200) as f64;
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    assert!(at_once >= 100.0 && at_once <= 101.0 + 10.0 * begin.elapsed().as_secs_f64(), "{at_once} at once");

    // Empty the bucket of what came back meanwhile, then count what three seconds bring.
    while gateway.get("/limited").await.status == 200 {}
    let (begin, mut admitted) = (Instant::now(), 0.0);
    while begin.elapsed() < seconds(3) {
        admitted += f64::from(u8::from(gateway.get("/limited").await.status == 200));
        tokio::time::sleep(milliseconds(10)).await;
    }
    let fair = 10.0 * begin.elapsed().as_secs_f64();
    assert!(admitted >= fair - 4.0 && admitted <= fair + 1.0, "{admitted} admitted, {fair:.1} expected");
}

// 4. The cache.

#[tokio::test]
async fn a_cached_answer_reaches_the_instance_once_in_its_ttl() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend).route("/cached", "to: service, keys: none, cache: 2s")).await;
    for _ in 0..5 {
        assert_eq!(gateway.get("/cached").await.status, 200);
    }
    assert_eq!(backend.requests(), 1);
    let hit = gateway.get("/cached").await;
    assert!(hit.header("cache-status").is_some_and(|status| status.contains("hit")), "{hit:?}");
    assert!(hit.header("age").is_some_and(|age| age.parse::<u64>().is_ok_and(|age| age <= 2)), "{hit:?}");

    tokio::time::sleep(milliseconds(3_100)).await;
    assert_eq!(gateway.get("/cached").await.status, 200);
    assert_eq!(backend.requests(), 2);
}

#[tokio::test]
async fn a_cleared_cache_makes_requests_reach_the_instance_again() {
    let backend = Backend::start().await;
    let gateway =
        Gateway::start(&Config::open(&backend).route("/cached", "to: service, keys: none, cache: 1min")).await;
    gateway.get("/cached").await;
    gateway.get("/cached").await;
    assert_eq!(backend.requests(), 1);
    let cleared = gateway.admin_post("/admin/cache/clear").body(r#"{"all": true}"#).await;
    assert_eq!((cleared.status, cleared.json()["cleared"].as_u64()), (200, Some(1)));
    gateway.get("/cached").await;
    assert_eq!(backend.requests(), 2);
}

#[tokio::test]
async fn two_consumers_never_share_an_answer_unless_the_route_says_so() {
    let backend = Backend::scripted(|seen| Reply::ok(seen.header("x-consumer").unwrap_or("nobody"))).await;
    let config = Config::new()
        .service("service", &[backend.address])
        .route("/own", "to: service, cache: 1min")
        .route("/shared", "to: service, cache: {ttl: 1min, shared: true}")
        .key("alice")
        .key("bob");
    let gateway = Gateway::start(&config).await;
    for consumer in ["alice", "bob", "alice", "bob"] {
        assert_eq!(gateway.get("/own").key(consumer).await.text(), consumer);
        // Who asks first is not told, as the answer is for everybody.
        assert_eq!(gateway.get("/shared").key(consumer).await.text(), "nobody");
    }
    assert_eq!(backend.requests(), 3);
}

#[tokio::test]
async fn two_languages_get_their_own_answers() {
    let backend = Backend::scripted(|seen| {
        Reply::ok(seen.header("accept-language").unwrap_or("none")).with("Vary", "Accept-Language")
    })
    .await;
    let gateway =
        Gateway::start(&Config::open(&backend).route("/cached", "to: service, keys: none, cache: 1min")).await;
    for language in ["de", "en", "de", "en"] {
        assert_eq!(gateway.get("/cached").header("accept-language", language).await.text(), language);
    }
    assert_eq!(backend.requests(), 2);
}

// 5. Dead instances.

fn pair(one: &Backend, two: &Backend) -> Config {
    Config::new().service("service", &[one.address, two.address]).route("/*", "to: service, keys: none")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_idempotent_request_fails_when_one_of_two_instances_dies() {
    let (one, two) = (Backend::named("one").await, Backend::named("two").await);
    let gateway = Gateway::start(&pair(&one, &two)).await;
    let load = Load::get(gateway.address, "/", "").start(8);
    tokio::time::sleep(milliseconds(700)).await;
    one.stop();
    tokio::time::sleep(milliseconds(1_500)).await;
    load.stop().await.all(200);
    assert!(one.requests() > 0 && two.requests() > one.requests());
}

/// Requests are in the instance's hands when it dies, also on connections that carried none before.
#[tokio::test]
async fn an_idempotent_request_in_the_hands_of_a_dying_instance_is_sent_to_the_other() {
    let (one, two) = (Backend::scripted(|_| Reply::Reset).await, Backend::start().await);
    let gateway = Gateway::start(&pair(&one, &two)).await;
    for _ in 0..6 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    assert!(one.requests() > 0 && two.requests() == 6);
}

#[tokio::test]
async fn a_request_that_may_have_been_sent_is_never_sent_again() {
    let (one, two) = (Backend::scripted(|_| Reply::Reset).await, Backend::scripted(|_| Reply::Reset).await);
    let gateway = Gateway::start(&pair(&one, &two)).await;
    assert_eq!(gateway.post("/orders").body("one").await.refused(), (502, "upstream_closed".into()));
    assert_eq!(one.requests() + two.requests(), 1);
}

#[tokio::test]
async fn a_post_on_a_pooled_connection_that_dies_is_not_sent_again() {
    let (one, two) = (Backend::start().await, Backend::start().await);
    let gateway = Gateway::start(&pair(&one, &two)).await;
    for _ in 0..4 {
        assert_eq!(gateway.post("/orders").body("first").await.status, 200);
    }
    one.plays(|_| Reply::Reset);
    two.plays(|_| Reply::Reset);
    let before = one.requests() + two.requests();
    assert_eq!(gateway.post("/orders").body("second").await.status, 502);
    assert_eq!(one.requests() + two.requests(), before + 1);
}

#[tokio::test]
async fn with_both_instances_dead_the_answer_is_a_problem_and_quick() {
    let (one, two) = (Backend::start().await, Backend::start().await);
    let gateway = Gateway::start(&pair(&one, &two)).await;
    one.stop();
    two.stop();
    let begin = Instant::now();
    for _ in 0..4 {
        let (status, reason) = gateway.get("/").await.refused();
        assert!(
            [(502, "upstream_connect"), (503, "no_instance")].contains(&(status, reason.as_str())),
            "{status} {reason}"
        );
    }
    assert!(begin.elapsed() < seconds(2), "{:?}", begin.elapsed());
}

// 8. Bad configurations. Every kind of mistake has a fixture elsewhere; here: they keep the program from starting.

#[tokio::test]
async fn a_configuration_with_one_bad_field_does_not_start_and_says_where() {
    let good = Config::new()
        .service("service", &["127.0.0.1:9101".parse().unwrap()])
        .route("/a/*", "to: service, keys: none, limit: 10/min")
        .key("alice")
        .section("shutdown: {grace: 30s}\nthreads: 1");
    let good = good.write("127.0.0.1:1".parse().unwrap(), free_address(), free_address());
    let folder = Folder::new();
    folder.file("tollgate.yaml", &good);
    assert_eq!(folder.tollgate(&["check", "-c", "tollgate.yaml"]).code, Some(0), "only the one field may be bad");
    for (field, bad, says) in [
        ("limit: 10/min", "limit: 10/minute5", "routes./a/*.limit"),
        ("limit: 10/min", "limits: 10/min", "did you mean"),
        ("to: service", "to: servise", "did you mean"),
        ("keys: none", "keys: off", "routes./a/*.keys"),
        ("grace: 30s", "grace: 30", "shutdown.grace"),
        ("threads: 1", "threads: 0", "threads"),
        ("127.0.0.1:9101", "127.0.0.1:99101", "services.service.instances"),
        ("sha256: ", "sha256: zz", "keys.alice.sha256"),
        ("log: none", "log: sqlte:x.db", "log"),
        ("listen: 127.0.0.1:1", "listen: 127.0.0.1", "listen"),
        ("log: none", "log: \"sqlite:${TOLLGATE_TEST_UNSET}\"", "TOLLGATE_TEST_UNSET"),
        ("/a/*\":", "/a/*/b\":", "routes./a/*/b"),
    ] {
        let text = good.replacen(field, bad, 1);
        assert_ne!(text, good, "{field} is not in the file");
        let line = 1 + text.lines().position(|line| line.contains(bad)).unwrap();
        let folder = Folder::new();
        folder.file("tollgate.yaml", &text);
        let finished = folder.tollgate(&["run", "-c", "tollgate.yaml"]);
        assert_eq!(finished.code, Some(1), "{bad}: {finished:?}");
        let place = format!("tollgate.yaml:{line}:");
        assert!(finished.stderr.contains(&place), "{bad}: no {place} in\n{}", finished.stderr);
        assert!(finished.stderr.contains(says), "{bad}: no `{says}` in\n{}", finished.stderr);
        assert_eq!(folder.names(), ["tollgate.yaml"], "{bad}: a start that fails leaves nothing behind");
    }
}
