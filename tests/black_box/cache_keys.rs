//! Whose answer it is: two consumers, languages, codings and cookies never share one that is not the same for both,
//! and nothing that a client sends and that is not part of the key changes what others get.

use crate::harness::{Backend, Config, Gateway, Reply};

fn cached(backend: &Backend, cache: &str) -> Config {
    Config::open(backend).route("/cached/*", &format!("to: service, keys: none, cache: {cache}"))
}

#[tokio::test]
async fn no_combination_of_consumer_language_coding_and_cookie_gets_anothers_answer() {
    // The answer says what it was made for; cookies make it private.
    let backend = Backend::scripted(|seen| {
        let of = |name| seen.header(name).unwrap_or("-").to_owned();
        let language = of("accept-language").split(',').next().unwrap_or("-").to_owned();
        let coding = if of("accept-encoding").contains("gzip") { "gzip" } else { "plain" };
        let answer = Reply::ok(&format!("{} {language} {coding} {}", of("x-consumer"), of("cookie")))
            .with("X-Coding", coding)
            .with("Vary", "Accept-Language, Accept-Encoding");
        if seen.header("cookie").is_some() { answer.with("Cache-Control", "private") } else { answer }
    })
    .await;
    let config = Config::new()
        .service("service", &[backend.address])
        .route("/*", "to: service, cache: 1min")
        .key("alice")
        .key("bob");
    let gateway = Gateway::start(&config).await;
    let mut asked = 0;
    for round in 0..3 {
        for key in ["alice", "bob"] {
            for language in ["de", "en"] {
                for coding in ["gzip", "identity"] {
                    for cookie in [None, Some("session=1"), Some("session=2")] {
                        let mut wire = gateway.wire().await;
                        let cookie_line = cookie.map_or(String::new(), |cookie| format!("Cookie: {cookie}\r\n"));
                        let answer = wire
                            .get(
                                "/x",
                                &format!(
                                    "X-API-Key: {key}\r\nAccept-Language: {language}\r\nAccept-Encoding: {coding}\r\n{cookie_line}"
                                ),
                            )
                            .await;
                        let coding = if coding == "gzip" { "gzip" } else { "plain" };
                        let own = format!("{key} {language} {coding} {}", cookie.unwrap_or("-"));
                        let plain = format!("{key} {language} {coding} -");
                        // What was stored for requests without a cookie does not vary by it, and may be had with one.
                        assert!([own, plain].contains(&answer.text()), "{} in round {round}", answer.text());
                        asked += 1;
                    }
                }
            }
        }
    }
    assert!(backend.requests() < asked / 2, "{} of {asked} reached the instance", backend.requests());
}

#[tokio::test]
async fn what_is_forwarded_without_being_keyed_changes_nothing_for_others() {
    let poison = [
        "X-Forwarded-Host: evil.example",
        "X-Forwarded-Proto: gopher",
        "X-Forwarded-Prefix: /evil",
        "X-HTTP-Method-Override: DELETE",
        "X-HTTP-Method: DELETE",
        "X-Method-Override: DELETE",
        "X-Original-URL: /evil",
        "X-Rewrite-URL: /evil",
        "X-Original-Host: evil.example",
        "Forwarded: host=evil.example",
        "X-Consumer: evil",
        "Connection: close, Accept-Language",
    ];
    let backend = Backend::scripted(|seen| {
        let named: Vec<String> =
            seen.headers.iter().map(|(name, value)| format!("{name}={value}").to_lowercase()).collect();
        let evil = named.iter().any(|field| ["evil", "gopher", "delete"].iter().any(|word| field.contains(word)));
        let language = seen.header("accept-language").unwrap_or("none");
        Reply::ok(&format!("{} {language}", if evil { "evil" } else { "good" })).with("Vary", "Accept-Language")
    })
    .await;
    let gateway = Gateway::start(&cached(&backend, "1min")).await;
    for (number, line) in poison.iter().enumerate() {
        let path = format!("/cached/{number}");
        let language = "Accept-Language: de\r\n";
        gateway.wire().await.get(&path, &format!("{line}\r\n{language}")).await;
        let clean = gateway.wire().await.get(&path, language).await;
        assert_eq!(clean.text(), "good de", "{line}");
        // And who sends it is not given what others got, where it may be asked for something else.
        let again = gateway.wire().await.get(&path, &format!("{line}\r\n{language}")).await;
        let says = again.header("cache-status").unwrap_or_default();
        assert!(again.text().starts_with("good") || says.contains("bypass"), "{line}: {again:?}");
    }
}

#[tokio::test]
async fn the_route_says_what_of_query_headers_and_cookies_counts() {
    let backend = Backend::scripted(|seen| {
        Reply::ok(&format!("{} {}", seen.target, seen.header("x-tenant").unwrap_or("-")))
            .with("Cache-Control", "max-age=60")
    })
    .await;
    let cache = "{query: {ignore: [utm_*, fbclid], sort: true}, key: [header X-Tenant, cookie lang], vary: X-Device}";
    let gateway = Gateway::start(&cached(&backend, cache)).await;
    let ask = async |target: &str, lines: &str| {
        let before = backend.requests();
        let answer = gateway.wire().await.get(target, lines).await;
        (answer.text(), backend.requests() > before)
    };
    assert_eq!(ask("/cached/x?b=1&a=2&utm_source=y", "").await, ("/cached/x?a=2&b=1 -".into(), true));
    assert_eq!(ask("/cached/x?a=2&fbclid=z&b=1", "").await, ("/cached/x?a=2&b=1 -".into(), false));
    assert_eq!(ask("/cached/x?utm_source=y", "").await, ("/cached/x -".into(), true));
    assert!(!ask("/cached/x", "").await.1);
    assert_eq!(ask("/cached/x", "X-Tenant: a\r\n").await, ("/cached/x a".into(), true));
    assert!(ask("/cached/x", "X-Tenant: a\r\nCookie: lang=de\r\n").await.1);
    assert!(!ask("/cached/x", "X-Tenant: a\r\nCookie: other=1; lang=de\r\n").await.1);
    assert!(ask("/cached/x", "X-Device: phone\r\n").await.1);
    assert!(!ask("/cached/x", "X-Device: phone\r\n").await.1);
    // A change is of the URL, however its query is spelled.
    let mut wire = gateway.wire().await;
    let target = "/cached/x?b=1&utm_medium=z&a=2";
    wire.send(format!("POST {target} HTTP/1.1\r\nHost: gateway.example\r\nContent-Length: 0\r\n\r\n")).await;
    assert_eq!(wire.answer().await.status, 200);
    assert!(ask("/cached/x?a=2&b=1", "").await.1);
}

#[tokio::test]
async fn a_change_forgets_what_the_answer_names_of_the_same_origin() {
    let backend = Backend::scripted(|seen| match seen.method.as_str() {
        "GET" => Reply::ok("x").with("Cache-Control", "max-age=60"),
        _ => Reply::status(201, "made")
            .with("Location", "/cached/made?x=1")
            .with("Content-Location", "http://elsewhere.example/cached/other"),
    })
    .await;
    let gateway = Gateway::start(&cached(&backend, "0s")).await;
    let paths = ["/cached/made?x=1", "/cached/made", "/cached/other", "/cached/target"];
    for path in paths {
        gateway.get(path).await;
    }
    gateway.post("/cached/target").await;
    let before = backend.requests();
    let mut forgotten = Vec::new();
    for path in paths {
        let asked = backend.requests();
        gateway.get(path).await;
        forgotten.push(backend.requests() > asked);
    }
    assert_eq!((forgotten, backend.requests() - before), (vec![true, false, false, true], 2));
}

#[tokio::test]
async fn on_a_shared_route_no_consumer_reaches_the_instance() {
    let backend = Backend::scripted(|seen| {
        let told: Vec<&str> =
            ["x-consumer", "x-api-key", "authorization"].into_iter().filter_map(|name| seen.header(name)).collect();
        Reply::ok(&format!("{told:?}"))
    })
    .await;
    let config = Config::new()
        .service("service", &[backend.address])
        .route("/*", "to: service, cache: {ttl: 1min, shared: true}")
        .key("alice")
        .key("bob");
    let gateway = Gateway::start(&config).await;
    assert_eq!(gateway.get("/x").key("alice").await.text(), "[]");
    assert_eq!(gateway.get("/x").bearer("bob").await.text(), "[]");
    assert_eq!(backend.requests(), 1);
}
