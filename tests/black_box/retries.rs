//! Retries: what is tried again, when, where and how often; and what never is.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::harness::{Backend, Config, Gateway, Reply, Seen, free_address, milliseconds, seconds};

/// Quick, and with a budget that is not in the way.
const PLENTY: &str = "base_delay: 5ms, budget: 1000%, budget_floor: 1000";

fn retrying(backend: &Backend, retry: &str) -> Config {
    let fields = format!("retry: {{{retry}}}, timeouts: {{connect: 500ms, response: 2s, between_bytes: 2s}}");
    Config::new().service_with("service", &[backend.address], &fields).route("/*", "to: service, keys: none")
}

/// A backend that plays these replies in turn, the last one for ever.
async fn plays(replies: Vec<Reply>) -> Backend {
    let next = AtomicUsize::new(0);
    Backend::scripted(move |_| replies[next.fetch_add(1, Ordering::SeqCst).min(replies.len() - 1)].clone()).await
}

/// How often each target was asked for, and when.
fn arrivals(backend: &Backend) -> HashMap<String, Vec<Instant>> {
    let mut arrivals: HashMap<String, Vec<Instant>> = HashMap::new();
    for Seen { target, at, .. } in backend.seen() {
        arrivals.entry(target).or_default().push(at);
    }
    arrivals
}

/// When this machine stood still for a moment, so that what was measured then says nothing about the gateway.
struct Stalls(Arc<Mutex<Vec<(Instant, Instant)>>>);

impl Stalls {
    fn watch() -> Self {
        let stalls: Arc<Mutex<Vec<(Instant, Instant)>>> = Arc::default();
        let seen = Arc::downgrade(&stalls);
        std::thread::spawn(move || {
            let mut before = Instant::now();
            while let Some(seen) = seen.upgrade() {
                std::thread::sleep(milliseconds(2));
                let now = Instant::now();
                if now - before > milliseconds(12) {
                    seen.lock().unwrap().push((before, now));
                }
                before = now;
            }
        });
        Self(stalls)
    }

    fn were_within(&self, from: Instant, to: Instant) -> bool {
        self.0.lock().unwrap().iter().any(|(begin, end)| *begin < to && *end > from)
    }
}

/// The waits before each second, third and fourth try, in seconds, as far as the machine did not stand still.
async fn waits(stalls: &Stalls) -> [Vec<f64>; 3] {
    let backend = Backend::scripted(|_| Reply::status(503, "")).await;
    let retry = "attempts: 4, base_delay: 200ms, budget: 1000%, budget_floor: 1000";
    let gateway = Gateway::start(&retrying(&backend, retry)).await;
    for round in 0..25 {
        let paths: Vec<String> = (0..32).map(|count| format!("/{}", round * 32 + count)).collect();
        let answers = join_all(paths.iter().map(|path| async { gateway.get(path).await.status })).await;
        assert!(answers.iter().all(|status| *status == 503), "{answers:?}");
    }
    let arrivals = arrivals(&backend);
    assert_eq!(arrivals.len(), 800);
    let mut waits = [const { Vec::new() }; 3];
    for tries in arrivals.values() {
        assert_eq!(tries.len(), 4);
        for (place, pair) in tries.windows(2).enumerate() {
            if !stalls.were_within(pair[0], pair[1]) {
                waits[place].push((pair[1] - pair[0]).as_secs_f64());
            }
        }
    }
    let metrics = gateway.metrics().await;
    let retried = metrics.sum("tollgate_upstream_retries_total", &[("service", "service"), ("reason", "status")]);
    assert_eq!((retried, metrics.sum("tollgate_upstream_attempts_total", &[])), (2_400.0, 3_200.0));
    waits
}

/// What is wrong with waits that are to be by chance below a ceiling.
fn problem(waits: &[f64], ceiling: f64) -> Option<String> {
    if waits.len() < 300 {
        return Some(format!("only {} waits were measured in quiet", waits.len()));
    }
    // Beside the wait there is the way to the backend and back, through programs without optimisation.
    let longest = waits.iter().copied().fold(0.0, f64::max);
    let mean = waits.iter().sum::<f64>() / waits.len() as f64;
    (longest > ceiling + 0.03 || (mean - ceiling / 2.0).abs() > ceiling / 2.0 * 0.1)
        .then(|| format!("for {ceiling}: {longest} at most, {mean} in the mean of {}", waits.len()))
}

#[tokio::test]
async fn each_wait_is_by_chance_below_a_ceiling_that_doubles() {
    let stalls = Stalls::watch();
    let mut problems = Vec::new();
    // Noise may spoil a measurement; a wrong wait spoils each of them.
    for _ in 0..4 {
        let waits = waits(&stalls).await;
        let found = waits.iter().zip([0.2, 0.4, 0.8]).filter_map(|(waits, ceiling)| problem(waits, ceiling));
        let found: Vec<String> = found.collect();
        if found.is_empty() {
            return;
        }
        problems.push(found);
    }
    panic!("{problems:#?}");
}

#[tokio::test]
async fn all_tries_together_take_no_longer_than_the_route_allows() {
    let backend = Backend::scripted(|_| Reply::status(503, "mine")).await;
    let retry = "attempts: 10, base_delay: 300ms, budget: 1000%, budget_floor: 1000";
    let config = retrying(&backend, retry).route("/short", "to: service, keys: none, timeout: 700ms");
    let gateway = Gateway::start(&config).await;
    for _ in 0..10 {
        let begin = Instant::now();
        // The instance's own answer, or the end of the time in the middle of a try.
        let answer = gateway.get("/short").await;
        assert!(answer.text() == "mine" || answer.refused() == (504, "upstream_timeout".into()), "{answer:?}");
        assert!(begin.elapsed() < milliseconds(1_200), "{:?}", begin.elapsed());
    }
    backend.plays(|_| Reply::Hang);
    let begin = Instant::now();
    assert_eq!(gateway.get("/short").await.refused(), (504, "upstream_timeout".into()));
    assert!(begin.elapsed() < milliseconds(1_500), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_failed_try_is_followed_by_one_at_another_instance() {
    for (reply, reason) in [
        (Reply::status(503, ""), "status"),
        (Reply::Reset, "closed"),
        (Reply::RawThenClose(b"220 mail.example ESMTP\r\n\r\n".to_vec()), "invalid"),
        (Reply::Hang, "timeout"),
    ] {
        let story = format!("{reply:?}");
        let bad = Backend::scripted(move |_| reply.clone()).await;
        let good = Backend::start().await;
        let config = Config::new()
            .service("service", &[bad.address, good.address])
            .route("/*", &format!("to: service, keys: none, retry: {{try_timeout: 300ms, {PLENTY}}}"))
            .log("sqlite:log.db");
        let gateway = Gateway::start(&config).await;
        for _ in 0..6 {
            assert_eq!(gateway.get("/").await.status, 200, "{story}");
        }
        assert_eq!((bad.requests(), good.requests()), (3, 6), "{story}");
        let metrics = gateway.log_written().await;
        assert_eq!(metrics.sum("tollgate_upstream_retries_total", &[("reason", reason)]), 3.0, "{story}");
        let attempts = gateway.sqlite_texts("SELECT CAST(attempts AS TEXT) FROM api_logs ORDER BY attempts");
        assert_eq!(attempts, ["1", "1", "1", "2", "2", "2"], "{story}");
    }
}

#[tokio::test]
async fn what_is_not_idempotent_is_never_sent_twice() {
    for reply in [
        Reply::status(503, ""),
        Reply::Reset,
        Reply::Hang,
        Reply::RawThenClose(Vec::new()),
        Reply::RawThenClose(b"220 mail.example ESMTP\r\n\r\n".to_vec()),
        Reply::RawThenClose(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf".to_vec()),
    ] {
        let story = format!("{reply:?}");
        let (one, two) = (Backend::start().await, Backend::start().await);
        for backend in [&one, &two] {
            let reply = reply.clone();
            backend.plays(move |_| reply.clone());
        }
        let config = Config::new()
            .service("service", &[one.address, two.address])
            .route("/*", &format!("to: service, keys: none, retry: {{attempts: 4, try_timeout: 200ms, {PLENTY}}}"));
        let gateway = Gateway::start(&config).await;
        for count in 0..4 {
            let _ = gateway.post(&format!("/order-{count}")).body("once").attempt().await;
        }
        for (order, times) in arrivals(&one).into_iter().chain(arrivals(&two)) {
            assert_eq!(times.len(), 1, "{order} after {story}");
        }
        assert_eq!(one.requests() + two.requests(), 4, "{story}");
    }
}

#[tokio::test]
async fn an_idempotency_key_lets_a_post_be_sent_again() {
    let backend = plays(vec![Reply::status(503, ""), Reply::Reset, Reply::ok("done")]).await;
    let gateway = Gateway::start(&retrying(&backend, PLENTY)).await;
    let answer = gateway.post("/pay").header("Idempotency-Key", "a1").body("amount").await;
    assert_eq!((answer.status, answer.text()), (200, "done".into()));
    assert!(backend.seen().iter().all(|seen| seen.body == b"amount" && seen.header("idempotency-key") == Some("a1")));
    assert_eq!(backend.requests(), 3);
}

#[tokio::test]
async fn a_failed_connect_is_tried_elsewhere_by_any_method() {
    let good = Backend::start().await;
    let config = Config::new()
        .service("service", &[free_address(), free_address(), good.address])
        .route("/*", &format!("to: service, keys: none, retry: {{attempts: 3, {PLENTY}}}"));
    let gateway = Gateway::start(&config).await;
    for count in 0..9 {
        assert_eq!(gateway.post(&format!("/{count}")).body("once").await.status, 200);
    }
    assert_eq!(good.requests(), 9);
    assert!(gateway.metrics().await.sum("tollgate_upstream_retries_total", &[("reason", "connect")]) >= 6.0);
}

#[tokio::test]
async fn a_body_is_sent_again_whole_or_not_at_all() {
    let backend = plays(vec![Reply::status(503, ""), Reply::ok("")]).await;
    let gateway = Gateway::start(&retrying(&backend, PLENTY)).await;
    let small = "x".repeat(20_000);
    let put = |body: String| gateway.ask(reqwest::Method::PUT, "/file").body(body);
    assert_eq!(put(small.clone()).await.status, 200);
    assert_eq!(backend.requests(), 2);
    assert!(backend.seen().iter().all(|seen| seen.body == small.as_bytes()));

    let backend = plays(vec![Reply::status(503, "too large to keep"), Reply::ok("")]).await;
    let gateway = Gateway::start(&retrying(&backend, PLENTY)).await;
    let large = gateway.ask(reqwest::Method::PUT, "/file").body("x".repeat(200_000)).await;
    assert_eq!((large.status, large.text(), backend.requests()), (503, "too large to keep".into(), 1));
}

#[tokio::test]
async fn an_instance_that_says_when_to_come_again_is_heard() {
    let busy = || Reply::status(503, "busy").with("Retry-After", "1");
    let backend = plays(vec![busy(), Reply::ok("done")]).await;
    let gateway = Gateway::start(&retrying(&backend, PLENTY)).await;
    let begin = Instant::now();
    assert_eq!(gateway.get("/").await.text(), "done");
    assert!((seconds(1)..seconds(3)).contains(&begin.elapsed()), "{:?}", begin.elapsed());

    let later = Reply::status(503, "busy").with("Retry-After", "60");
    let backend = plays(vec![later, Reply::ok("done")]).await;
    let gateway = Gateway::start(&retrying(&backend, PLENTY)).await;
    let answer = gateway.get("/").await;
    assert_eq!((answer.text(), answer.header("retry-after")), ("busy".into(), Some("60")), "passed on, not waited for");
}

#[tokio::test]
async fn once_the_client_has_seen_a_byte_nothing_is_tried_again_and_nothing_half_looks_whole() {
    for (cut, said) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n", "upstream_closed"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n30000\r\n", "upstream_closed"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nno chunk\r\n", "upstream_invalid"),
    ] {
        let bytes = [cut.as_bytes(), &b"x".repeat(100_000)].concat();
        let backend = Backend::scripted(move |_| Reply::RawThenClose(bytes.clone())).await;
        let gateway = Gateway::start(&retrying(&backend, PLENTY).log("sqlite:log.db")).await;
        let mut wire = gateway.wire().await;
        wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(wire.try_answer("GET").await.is_err(), "{cut}");
        gateway.log_written().await;
        let logged = gateway.sqlite_texts("SELECT decided_by || ' ' || attempts FROM api_logs");
        assert_eq!((backend.requests(), logged), (1, vec![format!("{said} 1")]), "{cut}");
    }
}

#[tokio::test]
async fn a_brown_out_is_not_multiplied() {
    let backend = Backend::scripted(|_| Reply::status(503, "")).await;
    let gateway = Gateway::start(&retrying(&backend, "attempts: 4, base_delay: 1ms, budget_floor: 5")).await;
    let begin = Instant::now();
    for _ in 0..20 {
        let answers = join_all((0..20).map(|_| async { gateway.get("/").await.status })).await;
        assert!(answers.iter().all(|status| *status == 503));
    }
    // A fifth more, and five in each ten seconds.
    let floors = 5 * (begin.elapsed().as_secs() / 10 + 1) as usize;
    let tries = backend.requests();
    assert!((400 + 60..=400 + 80 + floors).contains(&tries), "{tries} tries for 400 requests");
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.sum("tollgate_upstream_retries_total", &[]), (tries - 400) as f64);
    let refused = metrics.sum("tollgate_upstream_retries_over_budget_total", &[("service", "service")]);
    assert!((300.0..=400.0).contains(&refused), "{refused}");
}

#[tokio::test]
async fn the_nearest_policy_holds_and_none_is_one() {
    let backend = Backend::scripted(|_| Reply::status(503, "")).await;
    let policy = |attempts: u16| format!("retry: {{attempts: {attempts}, {PLENTY}}}");
    let config = Config::new()
        .section(&format!("defaults: {{{}}}", policy(2)))
        .service("plain", &[backend.address])
        .service_with("service", &[backend.address], &policy(3))
        .route("/default", "to: plain, keys: none")
        .route("/service", "to: service, keys: none")
        .route("/route", &format!("to: service, keys: none, {}", policy(4)))
        .route("/none", "to: service, keys: none, retry: none");
    let gateway = Gateway::start(&config).await;
    for (path, tries) in [("/default", 2), ("/service", 3), ("/route", 4), ("/none", 1)] {
        assert_eq!(gateway.get(path).await.status, 503);
        assert_eq!(arrivals(&backend)[path].len(), tries, "{path}");
    }
}

#[tokio::test]
async fn a_retry_finds_no_open_breaker() {
    let backend = Backend::scripted(|_| Reply::status(503, "mine")).await;
    let fields = format!("retry: {{attempts: 5, {PLENTY}}}, breaker: {{failures: 3, recovery: 1min}}");
    let config =
        Config::new().service_with("service", &[backend.address], &fields).route("/*", "to: service, keys: none");
    let gateway = Gateway::start(&config).await;
    // The third failure opens it: the client gets the instance's own answer, not one about breakers.
    assert_eq!(gateway.get("/").await.text(), "mine");
    assert_eq!(backend.requests(), 3);
    let begin = Instant::now();
    assert_eq!(gateway.get("/").await.refused(), (503, "breaker_open".into()));
    assert!(begin.elapsed() < Duration::from_secs(1));
    assert_eq!(backend.requests(), 3);
}
