//! Looking into the cache: what is counted, and what is told of stored answers, over the admin API, the metrics and the
//! command line.

use serde_json::Value;

use crate::harness::{Backend, Config, Gateway, Reply};

fn config(backend: &Backend) -> Config {
    Config::open(backend)
        .route("/cached/*", "to: service, keys: none, cache: 1min")
        .route("/mine/*", "to: service, cache: {ttl: 0s, override: 1h}")
        .route("/plain/*", "to: service, keys: none")
        .key_of("acme-key", "acme")
}

async fn show(gateway: &Gateway, path: &str) -> Value {
    gateway.admin_get(&format!("/admin/cache/show?url=http://{}{path}", gateway.address)).await.json()
}

#[tokio::test]
async fn a_stored_answer_is_shown_with_its_variants_and_why_it_is_fresh() {
    let backend = Backend::scripted(|seen| {
        let language = seen.header("accept-language").unwrap_or("none").to_owned();
        let reply = Reply::ok("12345").with("Vary", "Accept-Language").with("Cache-Tag", "b a").with("X-Is", &language);
        reply.with("Cache-Control", "s-maxage=600").with("Set-Cookie", "session=secret")
    })
    .await;
    let route = "to: service, keys: none, cache: {ttl: 0s, set_cookie: store}";
    let gateway = Gateway::start(&Config::open(&backend).route("/cached/*", route)).await;
    for language in ["de", "en", "en"] {
        gateway.get("/cached/x?y=1").header("accept-language", language).await;
    }
    let shown = show(&gateway, "/cached/x?y=1").await;
    let entries = shown["entries"].as_array().unwrap();
    assert_eq!((entries.len(), shown["route"].as_str()), (2, Some("/cached/*")));
    let english = &entries[0];
    assert_eq!(english["url"], format!("http://{}/cached/x?y=1", gateway.address));
    assert!(english["variant"][0].as_str().unwrap().starts_with("accept-language: en"), "{english}");
    assert_eq!(
        (english["state"].as_str(), english["why"].as_str()),
        (Some("fresh"), Some("Cache-Control: s-maxage=600"))
    );
    assert!((590..=600).contains(&english["ttl_seconds"].as_i64().unwrap()), "{english}");
    assert_eq!((english["hits"].as_u64(), english["body_bytes"].as_u64()), (Some(1), Some(5)));
    assert_eq!(english["tags"].as_array().unwrap(), &["a", "b"]);
    let text = shown.to_string();
    assert!(text.contains("x-is") && !text.contains("secret") && text.contains("(hidden)"), "{text}");
    gateway.admin_post("/admin/cache/purge").body(r#"{"tag": "a", "soft": true}"#.to_owned()).await;
    let shown = show(&gateway, "/cached/x?y=1").await;
    assert_eq!(
        (shown["entries"][0]["state"].as_str(), shown["entries"][0]["why"].as_str()),
        (Some("stale"), Some("a soft purge made it stale"))
    );
}

#[tokio::test]
async fn what_is_not_stored_is_explained() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend)).await;
    for (path, why) in [("/plain/x", "has no cache"), ("/cached/x", "Cache-Status")] {
        let shown = show(&gateway, path).await;
        assert!(shown["why"].as_str().unwrap().contains(why) && shown["entries"] == serde_json::json!([]), "{shown}");
    }
    for query in ["", "?url=/cached/x", "?url=http://a/%252f", "?uri=http://a/"] {
        assert_eq!(gateway.admin_get(&format!("/admin/cache/show{query}")).await.status, 400, "{query}");
    }
}

#[tokio::test]
async fn the_state_of_the_cache_adds_up() {
    let backend = Backend::scripted(|seen| match seen.target.as_str() {
        "/cached/private" => Reply::ok("12345").with("Cache-Control", "private"),
        target => Reply::ok(&target[target.len() - 1..].repeat(1_000 * target.len())),
    })
    .await;
    let gateway = Gateway::start(&config(&backend)).await;
    for path in ["/cached/a", "/cached/a", "/cached/a", "/cached/longer", "/cached/private"] {
        gateway.get(path).await;
    }
    gateway.get("/mine/x").key("acme-key").await;
    let status = gateway.admin_get("/admin/cache?top=2").await.json();
    assert_eq!((status["entries"].as_u64(), status["stored"].as_u64()), (Some(3), Some(3)));
    assert_eq!(
        (status["results"]["hit"]["requests"].as_u64(), status["results"]["miss"]["requests"].as_u64()),
        (Some(2), Some(4))
    );
    assert_eq!((status["saved_bytes"].as_u64(), status["hit_ratio"].as_f64()), (Some(18_000), Some(2.0 / 6.0)));
    assert_eq!(status["refused"], serde_json::json!({"private": 1}));
    let first = |list: &str| status[list][0]["url"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    assert_eq!(
        (first("largest"), first("hottest"), status["largest"].as_array().unwrap().len()),
        ("longer".into(), "a".into(), 2)
    );
    let mine = show(&gateway, "/mine/x").await;
    assert_eq!(
        (mine["entries"][0]["consumer"].as_str(), mine["entries"][0]["why"].as_str()),
        (Some("acme"), Some("the route: override"))
    );
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.sum("tollgate_cache_refused_total", &[("reason", "private")]), 1.0);
    assert_eq!(metrics.sum("tollgate_cache_response_body_bytes_total", &[("result", "hit")]), 18_000.0);
    assert_eq!(metrics.sum("tollgate_cache_age_seconds_count", &[]), 2.0);
    assert_eq!(metrics.sum("tollgate_cache_bytes", &[]), status["bytes"].as_f64().unwrap());
    assert_eq!(gateway.admin_get("/admin/cache?top=1001").await.status, 400);
}

#[tokio::test]
async fn the_command_line_looks_into_the_cache() {
    let backend = Backend::scripted(|_| Reply::ok("x").with("Cache-Tag", "t")).await;
    let gateway = Gateway::start(&config(&backend)).await;
    for _ in 0..2 {
        gateway.get("/cached/x").await;
    }
    let run = |what: &[&str]| gateway.folder.tollgate(&[&["cache"], what, &["-c", "tollgate.yaml"]].concat());
    let stats = run(&["stats"]);
    assert!(stats.code == Some(0) && stats.stdout.contains("hit ratio    50.0 %"), "{stats:?}");
    assert!(stats.stdout.contains("Served most often:") && stats.stdout.contains("/cached/x"), "{stats:?}");
    assert!(!stats.stdout.contains('\u{1b}'), "colours where nobody sees them: {stats:?}");
    let json: Value = serde_json::from_str(&run(&["stats", "--json"]).stdout).unwrap();
    assert_eq!(json["entries"], 1);
    let url = format!("http://{}/cached/x", gateway.address);
    let shown = run(&["show", &url]);
    assert!(shown.code == Some(0) && shown.stdout.contains("(the route: the answer says nothing)"), "{shown:?}");
    assert!(shown.stdout.contains("served     1 times") && shown.stdout.contains("tags       t"), "{shown:?}");
    let json: Value = serde_json::from_str(&run(&["show", &url, "--json"]).stdout).unwrap();
    assert_eq!(json["entries"][0]["hits"], 1);
    let none = run(&["show", &format!("http://{}/plain/x", gateway.address)]);
    assert_eq!((none.code, none.stdout.as_str()), (Some(1), ""));
    assert!(none.stderr.contains("the route /plain/* has no cache"), "{none:?}");
}
