//! Where a key is looked for, what happens to it, and who may use a route with it.

use crate::harness::{Backend, Config, Gateway, Reply, digest, eventually, milliseconds, seconds};

fn keyed(backend: &Backend) -> Config {
    Config::new()
        .service("service", &[backend.address])
        .route("/*", "to: service")
        .key_of("first", "alice")
        .key("second")
}

#[tokio::test]
async fn two_keys_in_one_place_are_400_whatever_they_are() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&keyed(&backend).log("sqlite:log.db")).await;
    for lines in [
        "X-API-Key: first\r\nX-API-Key: first\r\n",
        "X-API-Key: first\r\nx-api-key: second\r\n",
        "X-API-Key: first, second\r\n",
        "Authorization: Bearer first\r\nAuthorization: Bearer second\r\n",
        "Authorization: Bearer first, Bearer second\r\n",
        "X-API-Key: a,b\r\nAuthorization: Bearer first\r\n",
    ] {
        let answer = gateway.wire().await.get("/", lines).await;
        assert_eq!(answer.refused(), (400, "ambiguous_key".into()), "{lines}");
    }
    assert_eq!(backend.requests(), 0);
    let metrics = gateway.log_written().await;
    assert_eq!(metrics.sum("tollgate_auth_results_total", &[("result", "ambiguous_key")]), 6.0);
    assert_eq!(gateway.sqlite_number("SELECT count(*) FROM api_logs WHERE decided_by = 'ambiguous_key'"), 6);
    // Two places are no ambiguity: the first decides.
    assert_eq!(gateway.get("/").key("first").bearer("second").await.status, 200);
}

#[tokio::test]
async fn a_name_with_underscores_is_neither_read_nor_forwarded() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&keyed(&backend).route("/open/*", "to: service, keys: none")).await;
    for name in ["X_API_Key", "X-API_Key", "x_api-key"] {
        let answer = gateway.wire().await.get("/", &format!("{name}: first\r\n")).await;
        assert_eq!(answer.refused(), (401, "no_key".into()), "{name}");
        let lines = format!("X-API-Key: first\r\n{name}: second\r\n");
        assert_eq!(gateway.wire().await.get("/", &lines).await.status, 200);
        assert_eq!(backend.last().all(&name.to_ascii_lowercase()), Vec::<&str>::new(), "{name}");
        assert_eq!(gateway.wire().await.get("/open/", &lines).await.status, 200);
        let seen = backend.last();
        assert_eq!((seen.header("x-api-key"), seen.all(name)), (Some("first"), vec![]), "{name}");
    }
}

#[tokio::test]
async fn an_open_route_looks_at_no_credential_and_removes_none() {
    let backend = Backend::start().await;
    let config =
        keyed(&backend).route("/open", "to: service, keys: none").section("key_in: [X-API-Key, 'query:api_key']");
    let gateway = Gateway::start(&config).await;
    let lines = "X-API-Key: a\r\nX-API-Key: b\r\nAuthorization: Bearer x\r\nX-Consumer: admin\r\n";
    assert_eq!(gateway.wire().await.get("/open?api_key=first&a=1", lines).await.status, 200);
    let seen = backend.last();
    assert_eq!((seen.target.as_str(), seen.all("x-api-key")), ("/open?api_key=first&a=1", vec!["a", "b"]));
    assert_eq!((seen.header("authorization"), seen.header("x-consumer")), (Some("Bearer x"), None));
}

#[tokio::test]
async fn a_key_in_the_query_works_where_it_is_switched_on_and_reaches_nobody() {
    let backend = Backend::scripted(|_| Reply::ok("answer").with("cache-control", "max-age=60")).await;
    let config = keyed(&backend)
        .route("/cached", "to: service, cache: {ttl: 1h, shared: true}")
        .log("{store: sqlite:log.db, query: redacted, json: lines.json}");
    let gateway = Gateway::start(&config).await;
    assert_eq!(gateway.get("/a?token_of=first&x=1").await.refused(), (401, "no_key".into()));
    gateway.reload(&config.section("key_in: ['query:token_of', X-API-Key]")).await;
    assert_eq!(gateway.get("/a?token_of=first&x=1").await.status, 200);
    let seen = backend.last();
    assert_eq!((seen.target.as_str(), seen.header("x-consumer")), ("/a?x=1", Some("alice")));
    assert_eq!(gateway.get("/a?x=%31&token%5Fof=second").await.status, 200);
    assert_eq!(backend.last().target, "/a?x=%31");
    assert_eq!(gateway.get("/a?token_of=first&token_of=first").await.refused(), (400, "ambiguous_key".into()));
    // The parameter goes even where another place held the key.
    assert_eq!(gateway.get("/a?token_of=").key("first").await.status, 200);
    assert_eq!(backend.last().target, "/a");
    // Nor does it tell stored answers apart.
    let before = backend.requests();
    for key in ["first", "second"] {
        assert_eq!(gateway.get(&format!("/cached?token_of={key}&page=1")).await.status, 200);
    }
    assert_eq!(backend.requests(), before + 1);
    gateway.log_written().await;
    let lines = std::fs::read_to_string(gateway.path("lines.json")).unwrap();
    let paths = gateway.sqlite_texts("SELECT path FROM api_logs").join("\n");
    for (place, text) in [("rows", &paths), ("lines", &lines)] {
        // Those before the reload knew nothing of a key in this parameter, but its name looks like one.
        assert!(!text.contains("=first") && !text.contains("=second"), "{place}: {text}");
        assert!(text.contains("token_of=***"), "{place}: {text}");
    }
}

#[tokio::test]
async fn a_key_that_expires_is_refused_from_its_second_on_without_a_reload() {
    let backend = Backend::start().await;
    let end = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second() + 4).unwrap();
    let line = format!("keys:\n  old: {{sha256: {}, consumer: acme, expires: \"{end}\"}}\n", digest("old"));
    let config = Config::new().service("service", &[backend.address]).route("/*", "to: service");
    let gateway = Gateway::start(&config.section(&line).log("sqlite:log.db")).await;
    assert_eq!(gateway.get("/").key("old").await.status, 200);
    let mut refused = gateway.get("/").key("old").await;
    while refused.status == 200 {
        assert!(jiff::Timestamp::now() < end + seconds(1), "still accepted a second after its end");
        tokio::time::sleep(milliseconds(20)).await;
        refused = gateway.get("/").key("old").await;
    }
    assert!(jiff::Timestamp::now() >= end, "refused before its end");
    assert_eq!(refused.refused(), (401, "expired_key".into()));
    let challenge = "Bearer realm=\"tollgate\", error=\"invalid_token\", error_description=\"The key has expired\"";
    assert_eq!(refused.header("www-authenticate"), Some(challenge));
    gateway.log_written().await;
    assert_eq!(
        gateway.sqlite_texts("SELECT consumer FROM api_logs WHERE decided_by = 'expired_key' LIMIT 1"),
        ["acme"]
    );
}

#[tokio::test]
async fn a_route_for_a_label_admits_its_consumers_and_observing_only_says_who_would_be_refused() {
    let backend = Backend::start().await;
    let keys = format!(
        "keys:\n  one: {{sha256: {}, consumer: acme, labels: [internal]}}\n  two: {{sha256: {}, consumer: acme, labels: internal}}\n  other: {{sha256: {}}}\n",
        digest("one"),
        digest("two"),
        digest("other")
    );
    let config = Config::new()
        .service("service", &[backend.address])
        .route("/enforced", "to: service, keys: {label: internal}")
        .route("/observed", "to: service, keys: {label: internal, mode: observe}")
        .section(&keys)
        .log("sqlite:log.db");
    let gateway = Gateway::start(&config).await;
    assert_eq!(gateway.get("/enforced").key("one").await.status, 200);
    assert_eq!(gateway.get("/enforced").key("two").await.status, 200);
    assert_eq!(gateway.get("/enforced").key("other").await.refused(), (403, "not_allowed".into()));
    assert_eq!(gateway.get("/observed").key("other").await.status, 200);
    assert_eq!(gateway.get("/observed").await.refused(), (401, "no_key".into()));
    gateway.log_written().await;
    assert_eq!(gateway.sqlite_texts("SELECT key FROM api_logs WHERE observed = 'not_allowed'"), ["other"]);
    assert_eq!(gateway.sqlite_texts("SELECT key FROM api_logs WHERE decided_by = 'not_allowed'"), ["other"]);
}

#[tokio::test]
async fn the_consumer_is_the_keys_whoever_the_client_says_it_is() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&keyed(&backend)).await;
    let claims = "X-Consumer: admin\r\nx-consumer: root\r\nX_Consumer: admin\r\nX-API-Key: first\r\n";
    assert_eq!(gateway.wire().await.get("/", claims).await.status, 200);
    let seen = backend.last();
    assert_eq!((seen.all("x-consumer"), seen.all("x_consumer")), (vec!["alice"], vec![]));
}

#[tokio::test]
async fn a_route_for_a_plan_admits_its_consumers_with_any_of_their_keys_and_no_others() {
    let backend = Backend::start().await;
    let config = Config::new()
        .service("service", &[backend.address])
        .route("/golden", "to: service, keys: {plan: gold}")
        .route("/named", "to: service, keys: [acme]")
        .section("plans: {gold: {}, free: {}}")
        .key_with("one", "consumer: acme, plan: gold")
        .key_with("two", "consumer: acme, plan: gold")
        .key_with("free", "plan: free")
        .key("plain")
        .log("sqlite:log.db");
    let gateway = Gateway::start(&config).await;
    for key in ["one", "two"] {
        assert_eq!(gateway.get("/golden").key(key).await.status, 200, "{key}");
        assert_eq!(gateway.get("/named").key(key).await.status, 200, "{key}");
    }
    for key in ["free", "plain"] {
        let refused = gateway.get("/golden").key(key).await;
        assert_eq!(refused.refused(), (403, "not_allowed".into()), "{key}");
        assert_eq!(
            refused.header("www-authenticate"),
            None,
            "a known key: another one of the same kind would not help"
        );
        assert_eq!(gateway.get("/named").key(key).await.refused(), (403, "not_allowed".into()), "{key}");
    }
    assert_eq!(gateway.get("/golden").await.refused(), (401, "no_key".into()));
    assert_eq!(gateway.get("/golden").key("nobodys").await.refused(), (401, "unknown_key".into()));
    gateway.log_written().await;
    let sql = "SELECT DISTINCT consumer FROM api_logs WHERE decided_by = 'not_allowed' ORDER BY 1";
    assert_eq!(gateway.sqlite_texts(sql), ["free", "plain"]);
}

#[tokio::test]
async fn a_route_can_be_for_some_addresses_only() {
    let backend = Backend::start().await;
    let config = Config::new()
        .service("service", &[backend.address])
        .route("/inside", "to: service, keys: none, clients: {allow: [10.0.0.0/8, 127.0.0.1], deny: [10.9.0.0/16]}")
        .route("/observed", "to: service, keys: none, clients: {allow: 10.0.0.0/8, mode: observe}")
        .route("/keyed", "to: service, clients: {deny: 127.0.0.0/8}")
        .section("trusted_proxies: [127.0.0.1]")
        .log("sqlite:log.db");
    let gateway = Gateway::start(&config).await;
    let from = |path: &'static str, client: &'static str| gateway.get(path).header("x-forwarded-for", client);
    assert_eq!(gateway.get("/inside").await.status, 200);
    assert_eq!(from("/inside", "10.1.2.3").await.status, 200);
    assert_eq!(from("/inside", "10.9.2.3").await.refused(), (403, "client_not_allowed".into()));
    assert_eq!(from("/inside", "192.0.2.1").await.refused(), (403, "client_not_allowed".into()));
    assert_eq!(from("/observed", "192.0.2.1").await.status, 200);
    // Addresses come before keys: who may not ask learns nothing about keys.
    assert_eq!(gateway.get("/keyed").await.refused(), (403, "client_not_allowed".into()));
    assert_eq!(from("/keyed", "192.0.2.1").await.refused(), (401, "no_key".into()));
    gateway.log_written().await;
    assert_eq!(gateway.sqlite_number("SELECT count(*) FROM api_logs WHERE observed = 'client_not_allowed'"), 1);
}

#[tokio::test]
async fn a_header_of_8_kib_and_bytes_that_are_no_text_are_unknown_keys_and_cost_no_hash() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&keyed(&backend)).await;
    let long = "k".repeat(8 << 10);
    for lines in [
        format!("X-API-Key: {long}\r\n").into_bytes(),
        format!("Authorization: Bearer {long}\r\n").into_bytes(),
        b"X-API-Key: first\xff\r\n".to_vec(),
        "X-API-Key: f\u{ef}rst\r\n".into(),
    ] {
        let mut wire = gateway.wire().await;
        wire.send([b"GET / HTTP/1.1\r\nHost: a\r\n".as_slice(), &lines, b"\r\n"].concat()).await;
        assert_eq!(wire.answer().await.refused(), (401, "unknown_key".into()));
    }
    assert_eq!(gateway.get("/").key("first").await.status, 200);
}

/// 20,000 here: a table that kept something of each would show it.
#[tokio::test(flavor = "multi_thread")]
async fn many_different_wrong_keys_leave_nothing_behind() {
    const ROUND: usize = 10_000;
    let backend = Backend::start().await;
    let gateway = Gateway::start(&keyed(&backend)).await;
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap()
    };
    let round = async |number: usize| {
        let tasks: Vec<_> = (0..4)
            .map(|part| {
                let address = gateway.address;
                tokio::spawn(async move {
                    let mut wire = crate::harness::Wire::open(address).await;
                    for n in 0..ROUND / 4 {
                        let answer = wire.get("/", &format!("X-API-Key: tg_{number}{part}{n:047}\r\n")).await;
                        assert_eq!(answer.status, 401);
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    };
    round(1).await;
    let warm = memory();
    round(2).await;
    let kilobytes = memory().saturating_sub(warm);
    assert!(kilobytes < 4_096, "{kilobytes} kB more after {ROUND} wrong keys");
    assert_eq!(backend.requests(), 0);
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.sum("tollgate_auth_results_total", &[("result", "unknown_key")]), 2.0 * ROUND as f64);
    eventually("the gateway answers", seconds(5), async || gateway.get("/").key("first").await.status == 200).await;
}
