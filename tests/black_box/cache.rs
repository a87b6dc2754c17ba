//! What may be stored, for whom, and for how long: the rules that keep a cache from telling one client
//! what belongs to another, or telling anyone what is no longer true.

use crate::harness::{Answer, Backend, Config, Gateway, Reply, milliseconds, seconds};

fn cached(backend: &Backend, cache: &str) -> Config {
    Config::open(backend).route("/cached/*", &format!("to: service, keys: none, cache: {cache}"))
}

/// How often two equal requests reach an instance that answers with these headers.
async fn reached(cache: &str, headers: &'static [(&'static str, &'static str)]) -> usize {
    let backend =
        Backend::scripted(|_| headers.iter().fold(Reply::ok("x"), |reply, (name, value)| reply.with(name, value)))
            .await;
    let gateway = Gateway::start(&cached(&backend, cache)).await;
    for _ in 0..2 {
        assert_eq!(gateway.get("/cached/x").await.status, 200);
    }
    backend.requests()
}

#[tokio::test]
async fn no_store_is_not_stored() {
    assert_eq!(reached("1min", &[("Cache-Control", "no-store")]).await, 2);
}

#[tokio::test]
async fn private_is_not_stored() {
    assert_eq!(reached("1min", &[("Cache-Control", "private")]).await, 2);
}

#[tokio::test]
async fn a_cookie_for_one_client_is_not_stored() {
    assert_eq!(reached("1min", &[("Set-Cookie", "session=1")]).await, 2);
}

#[tokio::test]
async fn vary_on_everything_is_not_stored() {
    assert_eq!(reached("1min", &[("Vary", "*")]).await, 2);
}

#[tokio::test]
async fn what_the_instance_allows_is_not_exceeded() {
    assert_eq!(reached("1min", &[("Cache-Control", "max-age=0")]).await, 2);
    assert_eq!(reached("1min", &[("Cache-Control", "max-age=60"), ("Age", "60")]).await, 2);
    assert_eq!(reached("1min", &[("Expires", "0")]).await, 2);
}

#[tokio::test]
async fn ttl_zero_stores_only_what_the_instance_allows() {
    assert_eq!(reached("0s", &[]).await, 2);
    assert_eq!(reached("0s", &[("Cache-Control", "max-age=60")]).await, 1);
}

#[tokio::test]
async fn s_maxage_is_meant_for_a_gateway() {
    assert_eq!(reached("0s", &[("Cache-Control", "max-age=0, s-maxage=60")]).await, 1);
}

#[tokio::test]
async fn surrogate_control_counts_where_the_route_says_so() {
    const HEADERS: &[(&str, &str)] = &[("Cache-Control", "no-store"), ("Surrogate-Control", "max-age=60;tollgate")];
    const COUNTS: &str = "{ttl: 0s, surrogate_control: true}";
    assert_eq!(reached("0s", HEADERS).await, 2);
    assert_eq!(reached(COUNTS, HEADERS).await, 1);
    assert_eq!(reached(COUNTS, &[("Surrogate-Control", "private, max-age=60")]).await, 2);
    assert_eq!(
        reached(
            COUNTS,
            &[("CDN-Cache-Control", "!!"), ("Surrogate-Control", "no-store"), ("Cache-Control", "max-age=60")]
        )
        .await,
        2
    );
    assert_eq!(reached(COUNTS, &[("CDN-Cache-Control", "max-age=60"), ("Surrogate-Control", "no-store")]).await, 1);
    let backend = Backend::scripted(|_| Reply::ok("x").with("Surrogate-Control", "no-store")).await;
    let gateway = Gateway::start(&cached(&backend, "{ttl: 1min, surrogate_control: true}")).await;
    for count in 1..3 {
        let answer = gateway.get("/cached/x").header("surrogate-capability", "evil=\"Surrogate/1.0\"").await;
        assert_eq!((answer.header("surrogate-control"), backend.requests()), (None, count));
        assert_eq!(backend.last().header("surrogate-capability"), Some("tollgate=\"Surrogate/1.0\""));
    }
    // A cache in front must not keep what was said to this one, and what its clients say tells nothing apart.
    backend.plays(|_| Reply::ok("x").with("Surrogate-Control", "max-age=60").with("Vary", "Surrogate-Capability"));
    for client in ["a", "b", "c"] {
        let answer = gateway.get("/cached/y").header("surrogate-capability", client).await;
        assert_eq!((answer.header("surrogate-control"), answer.header("cdn-cache-control")), (None, None));
    }
    assert_eq!(backend.requests(), 3);
}

#[tokio::test]
async fn max_shortens_what_the_instance_allows() {
    let backend = Backend::scripted(|_| Reply::ok("x").with("Cache-Control", "max-age=60")).await;
    let gateway = Gateway::start(&cached(&backend, "{ttl: 0s, max: 1s}")).await;
    gateway.get("/cached/x").await;
    gateway.get("/cached/x").await;
    assert_eq!(backend.requests(), 1);
    tokio::time::sleep(milliseconds(2_100)).await;
    gateway.get("/cached/x").await;
    assert_eq!(backend.requests(), 2);
}

#[tokio::test]
async fn an_answer_to_authorization_that_reached_the_instance_is_not_stored() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&cached(&backend, "1min")).await;
    gateway.get("/cached/x").bearer("alice").await;
    gateway.get("/cached/x").bearer("bob").await;
    gateway.get("/cached/x").await;
    assert_eq!(backend.requests(), 3);
}

#[tokio::test]
async fn an_error_is_not_kept_for_the_routes_ttl() {
    let backend = Backend::scripted(|_| Reply::status(500, "broken")).await;
    let gateway = Gateway::start(&cached(&backend, "1min")).await;
    assert_eq!(gateway.get("/cached/x").await.status, 500);
    backend.plays(|_| Reply::ok("mended"));
    assert_eq!(gateway.get("/cached/x").await.text(), "mended");
}

#[tokio::test]
async fn only_get_and_head_are_answered_from_the_cache() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&cached(&backend, "1min")).await;
    gateway.get("/cached/x").await;
    assert_eq!(gateway.ask(reqwest::Method::HEAD, "/cached/x").await.status, 200);
    assert_eq!(backend.requests(), 1);
    gateway.post("/cached/x").await;
    gateway.post("/cached/x").await;
    assert_eq!(backend.requests(), 3);
}

#[tokio::test]
async fn query_and_host_are_part_of_what_is_cached() {
    let backend =
        Backend::scripted(|seen| Reply::ok(&format!("{} {}", seen.header("host").unwrap(), seen.target))).await;
    let gateway = Gateway::start(&cached(&backend, "1min")).await;
    for (host, path) in
        [("a", "/cached/x"), ("a", "/cached/x?"), ("a", "/cached/x?q=1"), ("b", "/cached/x"), ("a", "/cached/y")]
    {
        for _ in 0..2 {
            assert_eq!(gateway.get(path).header("host", host).await.text().split(' ').next(), Some(host));
        }
    }
    // `x` and `x?` are two targets, or one: never a wrong answer.
    assert!((4..=5).contains(&backend.requests()), "{}", backend.requests());
}

#[tokio::test]
async fn a_stale_answer_is_confirmed_instead_of_fetched() {
    let backend = Backend::scripted(|seen| match seen.header("if-none-match") {
        Some("\"v1\"") => Reply::status(304, "").with("ETag", "\"v1\""),
        _ => Reply::ok("body").with("ETag", "\"v1\""),
    })
    .await;
    let gateway = Gateway::start(&cached(&backend, "1s")).await;
    assert_eq!(gateway.get("/cached/x").await.text(), "body");
    tokio::time::sleep(milliseconds(2_100)).await;
    let confirmed = gateway.get("/cached/x").await;
    assert_eq!((confirmed.status, confirmed.text().as_str()), (200, "body"));
    assert_eq!(backend.last().header("if-none-match"), Some("\"v1\""));
    gateway.get("/cached/x").await;
    assert_eq!(backend.requests(), 2);
}

#[tokio::test]
async fn a_client_with_the_current_etag_is_answered_304_from_the_cache() {
    let backend = Backend::scripted(|_| Reply::ok("body").with("ETag", "\"v1\"")).await;
    let gateway = Gateway::start(&cached(&backend, "1min")).await;
    gateway.get("/cached/x").await;
    assert_eq!(gateway.get("/cached/x").header("if-none-match", "\"v1\"").await.status, 304);
    assert_eq!(backend.requests(), 1);
}

fn says(answer: &Answer, word: &str) {
    assert!(answer.header("cache-status").is_some_and(|status| status.contains(word)), "no {word} in {answer:?}");
}

#[tokio::test]
async fn cache_status_tells_misses_from_hits_and_counts_them() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&cached(&backend, "1min").log("sqlite:log.db")).await;
    says(&gateway.get("/cached/x").await, "fwd");
    says(&gateway.get("/cached/x").await, "hit");
    assert_eq!(gateway.get("/plain").await.header("cache-status"), None);
    let metrics = gateway.log_written().await;
    let count = |result| metrics.sum("tollgate_cache_results_total", &[("route", "/cached/*"), ("result", result)]);
    assert_eq!((count("miss"), count("hit")), (1.0, 1.0));
    assert_eq!(gateway.sqlite_texts("SELECT cache FROM api_logs ORDER BY sequence"), ["miss", "hit", ""]);
}

#[tokio::test]
async fn the_cache_is_cleared_by_route_and_by_url() {
    let backend = Backend::start().await;
    let config = cached(&backend, "1min").route("/other/*", "to: service, keys: none, cache: 1min");
    let gateway = Gateway::start(&config).await;
    let all = async || {
        let before = backend.requests();
        for path in ["/cached/a", "/cached/b", "/other/a"] {
            gateway.get(path).await;
        }
        backend.requests() - before
    };
    assert_eq!((all().await, all().await), (3, 0));
    let clear = async |what: &str| {
        gateway.admin_post("/admin/cache/clear").body(what.to_owned()).await.json()["cleared"].as_u64()
    };
    assert_eq!(clear(r#"{"route": "/cached/*"}"#).await, Some(2));
    assert_eq!(all().await, 2);
    let url = format!(r#"{{"url": "http://{}/cached/b"}}"#, gateway.address);
    assert_eq!(clear(&url).await, Some(1));
    assert_eq!(all().await, 1);
}

#[tokio::test]
async fn the_cache_stays_within_its_memory() {
    let backend = Backend::scripted(|_| Reply::ok(&"x".repeat(20_000))).await;
    let gateway = Gateway::start(&cached(&backend, "1min").section("cache: {memory: 1mb}")).await;
    for number in 0..200 {
        assert_eq!(gateway.get(&format!("/cached/{number}")).await.status, 200);
    }
    let metrics = gateway.metrics().await;
    let bytes = metrics.sum("tollgate_cache_bytes", &[]);
    assert!(bytes > 100_000.0 && bytes <= 1_048_576.0, "{bytes} bytes");
    assert!(metrics.sum("tollgate_cache_evictions_total", &[]) > 0.0);
}

#[tokio::test]
async fn a_cut_answer_is_never_served_from_the_cache() {
    let backend = Backend::scripted(|_| {
        Reply::RawThenClose(b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 100\r\n\r\nhalf".to_vec())
    })
    .await;
    let gateway = Gateway::start(&cached(&backend, "1min")).await;
    // Where it broke off before anything was sent, the client is told.
    let cut = gateway.get("/cached/x").attempt().await;
    assert!(cut.is_err() || cut.is_ok_and(|answer| answer.status == 502));
    backend.plays(|_| Reply::ok("whole"));
    assert_eq!(gateway.get("/cached/x").await.text(), "whole");
}

#[tokio::test]
async fn an_answer_larger_than_the_routes_limit_passes_whole_and_is_not_stored() {
    let backend = Backend::scripted(|_| Reply::ok(&"x".repeat(100_000))).await;
    let gateway = Gateway::start(&cached(&backend, "{ttl: 1min, body_max: 50kb}")).await;
    for _ in 0..2 {
        assert_eq!(gateway.get("/cached/x").await.body.len(), 100_000);
    }
    assert_eq!(backend.requests(), 2);
}

#[tokio::test]
async fn many_requests_at_once_for_a_cold_answer_are_all_answered() {
    let backend = Backend::scripted(|_| Reply::ok("slow").after(milliseconds(300))).await;
    let gateway = Gateway::start(&cached(&backend, "1min")).await;
    let asks = (0..20).map(|_| async { gateway.get("/cached/x").await.text() });
    let begin = std::time::Instant::now();
    assert!(futures::future::join_all(asks).await.iter().all(|text| text == "slow"));
    assert!(begin.elapsed() < seconds(5));
    gateway.get("/cached/x").await;
    assert!(backend.requests() <= 20);
}

#[tokio::test]
async fn two_users_behind_one_key_do_not_share_an_answer() {
    let backend = Backend::scripted(|seen| Reply::ok(seen.header("authorization").unwrap_or("nobody"))).await;
    let config =
        Config::new().service("service", &[backend.address]).route("/*", "to: service, cache: 1min").key("app");
    let gateway = Gateway::start(&config).await;
    for user in ["Bearer alice", "Bearer bob"] {
        assert_eq!(gateway.get("/me").key("app").header("authorization", user).await.text(), user);
    }
    assert_eq!(gateway.get("/me").key("app").await.text(), "nobody");
}

#[tokio::test]
async fn a_conditional_request_does_not_store_its_304_for_others() {
    let backend = Backend::scripted(|seen| match seen.header("if-none-match") {
        Some("\"v1\"") => Reply::status(304, "").with("ETag", "\"v1\""),
        _ => Reply::ok("body").with("ETag", "\"v1\""),
    })
    .await;
    let gateway = Gateway::start(&cached(&backend, "1min")).await;
    let first = gateway.get("/cached/x").header("if-none-match", "\"v1\"").await;
    assert!([200, 304].contains(&first.status));
    let second = gateway.get("/cached/x").await;
    assert_eq!((second.status, second.text().as_str()), (200, "body"));
}

#[tokio::test]
async fn a_range_gets_its_part_and_others_the_whole() {
    let backend = Backend::scripted(|seen| match seen.header("range") {
        Some(_) => Reply::status(206, "01").with("Content-Range", "bytes 0-1/10"),
        None => Reply::ok("0123456789").with("ETag", "\"v1\""),
    })
    .await;
    let gateway = Gateway::start(&cached(&backend, "1min")).await;
    for _ in 0..2 {
        let part = gateway.get("/cached/x").header("range", "bytes=0-1").await;
        assert!((part.status, part.text().as_str()) == (206, "01") || part.status == 200, "{part:?}");
        let whole = gateway.get("/cached/x").await;
        assert_eq!((whole.status, whole.text().as_str()), (200, "0123456789"));
    }
}

#[tokio::test]
async fn every_client_gets_a_request_id_of_its_own_from_the_cache() {
    let backend = Backend::scripted(|_| Reply::ok("x").with("X-Request-Id", "the-instances-own")).await;
    let gateway = Gateway::start(&cached(&backend, "1min")).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(gateway.get("/cached/x").await.header("x-request-id").expect("an id").to_owned());
    }
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && !ids.contains(&"the-instances-own".to_owned()), "{ids:?}");
    assert_eq!(backend.requests(), 1);
}

#[tokio::test]
async fn a_client_that_wants_no_stored_answer_gets_a_new_one() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&cached(&backend, "1min")).await;
    gateway.get("/cached/x").await;
    gateway.get("/cached/x").header("cache-control", "no-cache").await;
    gateway.get("/cached/x").header("cache-control", "no-store").await;
    assert!(backend.requests() <= 3);
    gateway.get("/cached/x").await;
    assert!(backend.requests() <= 3, "what a client says about itself does not empty the cache");
}
