//! One path, one meaning: a path is brought into its normal form once, and routed and forwarded in that form,
//! or refused. Nobody reaches a closed route by spelling it differently.

use crate::harness::{Backend, Config, Gateway};

fn config(backend: &Backend) -> Config {
    Config::open(backend).route("/private/*", "to: service").route("/public/{name}", "to: service, keys: none")
}

async fn forwarded(spelling: &str, form: &str) {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend)).await;
    let answer = gateway.wire().await.get(spelling, "").await;
    assert_eq!((answer.status, backend.last().target.as_str()), (200, form), "{spelling}");
}

async fn answered(spellings: &[&str], status: u16, reason: &str) {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend)).await;
    for spelling in spellings {
        let answer = gateway.wire().await.get(spelling, "").await;
        assert_eq!(answer.status, status, "{spelling}: {}", answer.text());
        assert_eq!(answer.refusal(), reason, "{spelling}");
    }
    assert_eq!(backend.requests(), 0);
}

#[tokio::test]
async fn dot_segments_are_resolved_before_they_are_forwarded() {
    forwarded("/public/../open/./x", "/open/x").await;
}

#[tokio::test]
async fn encoded_dots_are_dots() {
    forwarded("/public/%2e%2E/open", "/open").await;
}

#[tokio::test]
async fn slashes_are_merged() {
    forwarded("//open///x", "/open/x").await;
}

#[tokio::test]
async fn needless_escapes_are_decoded_and_others_kept() {
    forwarded("/open/%7Euser/a%20b%3f", "/open/~user/a%20b%3F").await;
}

#[tokio::test]
async fn the_query_is_forwarded_as_it_came() {
    forwarded("/open/../x?a=../b//%2F%00", "/x?a=../b//%2F%00").await;
}

#[tokio::test]
async fn a_closed_route_is_closed_in_every_spelling() {
    let spellings = [
        "/private",
        "/private/",
        "/private/x",
        "/x/../private/x",
        "//private/x",
        "/%70rivate/x",
        "/./private",
        "/%2e/private/x",
    ];
    answered(&spellings, 401, "no_key").await;
}

#[tokio::test]
async fn an_encoded_slash_is_refused() {
    answered(&["/public/a%2fb", "/public%2F..%2fprivate"], 400, "bad_path").await;
}

#[tokio::test]
async fn backslashes_nul_and_control_characters_are_refused() {
    answered(&["/public/a%5cb", "/public/a\\b", "/open/%00", "/open/a%0d%0ab"], 400, "bad_path").await;
}

#[tokio::test]
async fn nothing_leads_above_the_root() {
    answered(&["/../etc/passwd", "/open/../../etc", "/%2e%2e/x"], 400, "bad_path").await;
}

#[tokio::test]
async fn an_escape_that_is_none_is_refused() {
    answered(&["/open/%zz", "/open/%2"], 400, "bad_path").await;
}

#[tokio::test]
async fn a_host_in_the_request_line_is_the_host() {
    let backend = Backend::start().await;
    let config = Config::open(&backend).route("shop.example/cart/*", "to: service, keys: none, strip_prefix: /cart");
    let gateway = Gateway::start(&config).await;
    let mut wire = gateway.wire().await;
    wire.send("GET http://shop.example/cart/x HTTP/1.1\r\nHost: shop.example\r\n\r\n").await;
    assert_eq!(wire.answer().await.text(), "/x");
    assert_eq!(wire.get("/cart/x", "").await.text(), "/cart/x");
}

// Which pattern wins.

#[tokio::test]
async fn the_most_specific_pattern_wins() {
    let backend = Backend::start().await;
    let named = |name: &str| format!("to: service, keys: none, headers: {{response: {{set: {{X-Route: {name}}}}}}}");
    let config = Config::new()
        .service("service", &[backend.address])
        .route("/*", &named("all"))
        .route("/a/*", &named("below-a"))
        .route("/a/{x}", &named("one"))
        .route("/a/b", &named("literal"))
        .route("POST /a/post", &named("post"))
        .route("*.example.com/a/b", &named("suffix"))
        .route("www.example.com/a/b", &named("host"));
    let gateway = Gateway::start(&config).await;
    for (host, path, route) in [
        ("other", "/", "all"),
        ("other", "/a", "below-a"),
        ("other", "/a/", "below-a"),
        ("other", "/a/x", "one"),
        ("other", "/a/x/y", "below-a"),
        ("other", "/a/b", "literal"),
        ("api.example.com", "/a/b", "suffix"),
        ("www.example.com", "/a/b", "host"),
        ("WWW.Example.COM:8080", "/a/b", "host"),
    ] {
        let answer = gateway.get(path).header("host", host).await;
        assert_eq!(answer.header("x-route"), Some(route), "{host}{path}");
    }
}

#[tokio::test]
async fn the_path_decides_before_the_method() {
    let backend = Backend::start().await;
    let config = Config::open(&backend).route("POST /orders", "to: service, keys: none");
    let gateway = Gateway::start(&config).await;
    let answer = gateway.get("/orders").await;
    assert_eq!((answer.status, answer.header("allow")), (405, Some("POST")));
}
