//! CORS, as browsers see it (a real one), and on the wire.

use reqwest::Method;
use serde_json::json;

use crate::harness::{Answer, Backend, Config, Gateway, Page, Reply};

const APP: &str = "https://app.example";

fn vary(answer: &Answer) -> Vec<String> {
    answer.headers.get_all("vary").iter().map(|value| value.to_str().unwrap().to_owned()).collect()
}

fn one_route(backend: &Backend, fields: &str) -> Config {
    let cors = format!("{{origins: ['{APP}', 'https://*.sub.example']}}");
    Config::new()
        .service("service", &[backend.address])
        .route("GET,PUT /api/*", &format!("to: service, cors: {cors}{fields}"))
        .route("/plain", "to: service, keys: none")
        .key("acme")
        .log("sqlite:log.db")
}

#[tokio::test]
async fn a_preflight_is_answered_before_keys_and_limits_and_logged() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&one_route(&backend, ", limit: 1/h")).await;
    let preflight = |path: &'static str, origin: &'static str, method: &'static str| {
        gateway.ask(Method::OPTIONS, path).header("origin", origin).header("access-control-request-method", method)
    };
    for _ in 0..3 {
        let answer = preflight("/api/x", APP, "PUT").header("access-control-request-headers", "x-api-key").await;
        assert_eq!((answer.status, answer.body.len()), (204, 0));
        assert_eq!(answer.header("access-control-allow-origin"), Some(APP));
        assert_eq!(answer.header("access-control-allow-methods"), Some("PUT"));
        assert_eq!(answer.header("access-control-allow-headers"), Some("content-type, x-api-key, authorization"));
        assert_eq!(answer.header("access-control-max-age"), Some("600"));
        assert_eq!((answer.header("content-length"), answer.header("content-type")), (None, None));
        assert!(answer.header("x-request-id").is_some());
        assert_eq!(vary(&answer), ["Origin, Access-Control-Request-Method, Access-Control-Request-Headers"]);
    }
    let foreign = preflight("/api/x", "https://evil.example", "PUT").await;
    assert_eq!((foreign.status, foreign.header("access-control-allow-origin")), (204, None));
    // A method that the route does not admit, and a route without a policy, are as they always were.
    assert_eq!(preflight("/api/x", APP, "DELETE").await.refused(), (405, "method_not_allowed".into()));
    assert_eq!(preflight("/plain", APP, "GET").await.status, 200);
    assert_eq!(backend.requests(), 1);
    // Nor did a preflight use up the limit.
    assert_eq!(gateway.get("/api/x").header("origin", APP).key("acme").await.status, 200);
    gateway.log_written().await;
    assert_eq!(
        gateway.sqlite_number("SELECT count(*) FROM api_logs WHERE decided_by = 'cors' AND status_code = 204"),
        4
    );
    assert_eq!(
        gateway.sqlite_texts("SELECT DISTINCT endpoint FROM api_logs WHERE decided_by = 'cors'"),
        ["GET,PUT /api/*"]
    );
}

#[tokio::test]
async fn every_answer_of_the_route_carries_the_fields_refusals_included() {
    let backend =
        Backend::scripted(|_| Reply::ok("x").with("access-control-allow-origin", "*").with("vary", "Accept")).await;
    let config = one_route(&backend, ", limit: 1/h, body_max: 10b, keys: required").route(
        "/closed",
        &format!(
            "to: service, keys: none, clients: {{deny: 127.0.0.1}}, cors: {{origins: '{APP}', credentials: true}}"
        ),
    );
    let gateway = Gateway::start(&config).await;
    let check = |answer: &Answer, status: u16| {
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(APP), "{status}");
        let exposed = Some("RateLimit, RateLimit-Policy, Retry-After, X-Request-Id");
        assert_eq!(answer.header("access-control-expose-headers"), exposed, "{status}");
        assert!(vary(answer).contains(&"Origin".to_owned()), "{status}");
    };
    let get = |path: &str| gateway.get(path).header("origin", APP);
    check(&get("/api/x").await, 401);
    check(&get("/api/x").key("acme").await, 200);
    check(&get("/api/x").key("acme").await, 429);
    let closed = get("/closed").await;
    check(&closed, 403);
    assert_eq!(closed.header("access-control-allow-credentials"), Some("true"));
    backend.stop();
    let gateway = Gateway::start(&one_route(&backend, ", keys: none")).await;
    check(&gateway.get("/api/x").header("origin", APP).await, 502);
    let below = gateway.get("/api/x").header("origin", "https://a.sub.example").await;
    assert_eq!(below.header("access-control-allow-origin"), Some("https://a.sub.example"));
    for foreign in [Some("https://evil.example"), None] {
        let ask = gateway.get("/api/x");
        let answer = match foreign {
            Some(origin) => ask.header("origin", origin).await,
            None => ask.await,
        };
        assert_eq!((answer.header("access-control-allow-origin"), vary(&answer)), (None, vec!["Origin".into()]));
    }
}

#[tokio::test]
async fn a_stored_answer_never_carries_another_origins_fields() {
    let backend = Backend::scripted(|seen| {
        let origin = seen.header("origin").unwrap_or("none").to_owned();
        Reply::ok("stored")
            .with("access-control-allow-origin", &origin)
            .with("access-control-expose-headers", "X-Secret")
    })
    .await;
    let gateway = Gateway::start(&one_route(&backend, ", keys: none, cache: 1h")).await;
    let ask = async |origin: Option<&str>| {
        let ask = gateway.get("/api/x");
        let answer = if let Some(origin) = origin { ask.header("origin", origin).await } else { ask.await };
        assert_eq!((answer.status, answer.text().as_str()), (200, "stored"));
        assert_eq!(vary(&answer), ["Origin"]);
        (
            answer.header("access-control-allow-origin").map(str::to_owned),
            answer.header("access-control-expose-headers").is_some(),
        )
    };
    assert_eq!(ask(Some("https://evil.example")).await, (None, false));
    assert_eq!(ask(Some(APP)).await, (Some(APP.into()), true));
    assert_eq!(ask(None).await, (None, false));
    assert_eq!(ask(Some("https://a.sub.example")).await, (Some("https://a.sub.example".into()), true));
    assert_eq!(backend.requests(), 1, "one stored answer for all origins");
    let fresh = gateway.get("/api/x").header("origin", APP).header("if-none-match", "\"no\"").await;
    assert_eq!(fresh.header("access-control-allow-origin"), Some(APP));
}

/// What a page may do is decided by a browser, not by us.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_a_real_browser_reads_what_it_may_and_nothing_else() {
    let page = Page::new().await;
    let backend = Backend::scripted(|seen| Reply::ok(&seen.method)).await;
    let here = format!("cors: {{origins: ['{}']}}", page.origin);
    let config = Config::new()
        .service("service", &[backend.address])
        .route("/api/*", &format!("to: service, {here}, limit: 3/h"))
        .route("/cached", &format!("to: service, keys: none, cache: 1h, {here}"))
        .route("/foreign", "to: service, keys: none, cors: {origins: ['https://elsewhere.example']}")
        .route("/without", "to: service, keys: none")
        .route("/some", &format!("to: service, keys: none, cors: {{origins: ['{}'], methods: [GET]}}", page.origin))
        .route(
            "/cookies",
            &format!("to: service, keys: none, cors: {{origins: ['{}'], credentials: true}}", page.origin),
        )
        .route("/any", "to: service, keys: none, cors: {origins: '*'}")
        .key("acme");
    let gateway = Gateway::start(&config).await;
    // Somebody from elsewhere has filled the cache.
    assert_eq!(gateway.get("/cached").header("origin", "https://elsewhere.example").await.status, 200);
    let script = r#"
        const api = 'http://GATEWAY';
        const ask = async (path, options) => {
            try {
                const answer = await fetch(api + path, options);
                const names = ['x-request-id', 'ratelimit', 'ratelimit-policy', 'retry-after'];
                const read = names.filter((name) => answer.headers.get(name) !== null);
                const text = await answer.text();
                return [answer.status, answer.ok ? text : JSON.parse(text).reason, read.join(' ')];
            } catch (error) {
                return [error.name];
            }
        };
        const key = {'X-API-Key': 'acme'};
        await report({
            get: await ask('/api/x', {headers: key}),
            put: await ask('/api/x', {method: 'PUT', headers: {...key, 'Content-Type': 'application/json'}, body: '{}'}),
            bearer: await ask('/api/x', {headers: {'Authorization': 'Bearer acme'}}),
            limited: await ask('/api/x', {headers: key}),
            nobody: await ask('/api/x'),
            header: await ask('/api/x', {headers: {...key, 'X-Other': '1'}}),
            cached: await ask('/cached'),
            foreign: await ask('/foreign'),
            without: await ask('/without'),
            some: await ask('/some'),
            notsome: await ask('/some', {method: 'DELETE'}),
            cookies: await ask('/cookies', {credentials: 'include'}),
            any: await ask('/any'),
            anycookies: await ask('/any', {credentials: 'include'}),
        });
    "#;
    let found = page.run(&script.replace("GATEWAY", &gateway.address.to_string())).await;
    let limits = "x-request-id ratelimit ratelimit-policy";
    let expected = json!({
        "get": [200, "GET", limits],
        "put": [200, "PUT", limits],
        "bearer": [200, "GET", limits],
        "limited": [429, "rate_limited", format!("{limits} retry-after")],
        "nobody": [401, "no_key", "x-request-id"],
        "header": ["TypeError"],
        "cached": [200, "GET", "x-request-id"],
        "foreign": ["TypeError"],
        "without": ["TypeError"],
        "some": [200, "GET", "x-request-id"],
        "notsome": ["TypeError"],
        "cookies": [200, "GET", "x-request-id"],
        "any": [200, "GET", "x-request-id"],
        "anycookies": ["TypeError"],
    });
    assert_eq!(found, expected);
}
