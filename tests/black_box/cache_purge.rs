//! Purges: each kind finds what it names and nothing else, at once, with the number of what it purged; and an answer that
//! was on its way is not stored after it.

use crate::harness::{Backend, Config, Gateway, Reply, milliseconds};

fn config(backend: &Backend) -> Config {
    Config::open(backend)
        .route("/cached/*", "to: service, keys: none, cache: 1min")
        .route("/mine/*", "to: service, cache: 1min")
        .key_of("acme-key", "acme")
        .key_of("other-key", "other")
}

async fn purge(gateway: &Gateway, body: &str) -> u64 {
    let answer = gateway.admin_post("/admin/cache/purge").body(body.to_owned()).await;
    assert_eq!(answer.status, 200, "{body}: {}", answer.text());
    answer.json()["purged"].as_u64().unwrap()
}

#[tokio::test]
async fn tags_purge_what_carries_them_and_clients_never_see_them() {
    let backend = Backend::scripted(|seen| {
        let number = seen.target.chars().last().unwrap_or('-');
        Reply::ok("x").with("Surrogate-Key", &format!("all page-{number}")).with("Cache-Tag", "from-cms,all")
    })
    .await;
    let gateway = Gateway::start(&config(&backend)).await;
    let visit = async || {
        let before = backend.requests();
        for path in ["/cached/1", "/cached/2", "/cached/3"] {
            let answer = gateway.get(path).await;
            assert_eq!(answer.status, 200);
            assert!(answer.header("surrogate-key").is_none() && answer.header("cache-tag").is_none(), "{answer:?}");
        }
        backend.requests() - before
    };
    assert_eq!((visit().await, visit().await), (3, 0));
    assert_eq!(purge(&gateway, r#"{"tag": "page-2"}"#).await, 1);
    assert_eq!(purge(&gateway, r#"{"tag": "page-2"}"#).await, 0);
    assert_eq!(visit().await, 1);
    assert_eq!(purge(&gateway, r#"{"tag": "from-cms"}"#).await, 3);
    assert_eq!(visit().await, 3);
    assert_eq!(gateway.metrics().await.sum("tollgate_cache_purged_total", &[]), 4.0);
}

#[tokio::test]
async fn a_cache_in_front_gets_the_tags_where_the_route_says_so() {
    let backend = Backend::scripted(|_| Reply::ok("x").with("Edge-Cache-Tag", "a b").with("Cache-Tag", "c")).await;
    let route = "to: service, keys: none, cache: {ttl: 1min, tags_header: Edge-Cache-Tag, tags_to_clients: true}";
    let gateway = Gateway::start(&Config::open(&backend).route("/cached/*", route)).await;
    for _ in 0..2 {
        let answer = gateway.get("/cached/x").await;
        assert_eq!((answer.header("edge-cache-tag"), answer.header("cache-tag")), (Some("a b"), Some("c")));
    }
    assert_eq!(purge(&gateway, r#"{"tag": "c"}"#).await, 0);
    assert_eq!(purge(&gateway, r#"{"tag": "b"}"#).await, 1);
}

#[tokio::test]
async fn a_consumer_a_prefix_a_route_and_a_url_are_purged_for_themselves() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend)).await;
    let visit = async || {
        let before = backend.requests();
        for key in ["acme-key", "other-key"] {
            assert_eq!(gateway.get("/mine/a").key(key).await.status, 200);
        }
        for path in ["/cached/img/a", "/cached/img/b?x=1", "/cached/image", "/cached/z"] {
            assert_eq!(gateway.get(path).await.status, 200);
        }
        backend.requests() - before
    };
    assert_eq!((visit().await, visit().await), (6, 0));
    assert_eq!(purge(&gateway, r#"{"consumer": "acme"}"#).await, 1);
    assert_eq!(visit().await, 1);
    let host = gateway.address;
    assert_eq!(purge(&gateway, &format!(r#"{{"prefix": "http://{host}/cached/img/"}}"#)).await, 2);
    assert_eq!(visit().await, 2);
    assert_eq!(purge(&gateway, r#"{"route": "/mine/*"}"#).await, 2);
    assert_eq!(visit().await, 2);
    assert_eq!(purge(&gateway, &format!(r#"{{"url": "http://{host}/mine/../mine/a"}}"#)).await, 2);
    assert_eq!(purge(&gateway, &format!(r#"{{"url": "http://{host}/cached/img/b"}}"#)).await, 0);
    assert_eq!(visit().await, 2);
    assert_eq!(purge(&gateway, r#"{"all": true}"#).await, 6);
    assert_eq!(visit().await, 6);
}

#[tokio::test]
async fn a_url_is_purged_by_the_query_that_counts() {
    let backend = Backend::start().await;
    let route = "to: service, keys: none, cache: {ttl: 1min, query: {ignore: utm_*, sort: true}}";
    let gateway = Gateway::start(&Config::open(&backend).route("/cached/*", route)).await;
    gateway.get("/cached/x?b=2&a=1").await;
    let url = format!(r#"{{"url": "http://{}/cached/x?utm_id=7&b=2&a=1"}}"#, gateway.address);
    assert_eq!(purge(&gateway, &url).await, 1);
}

#[tokio::test]
async fn after_a_soft_purge_the_stale_answer_is_served_while_another_one_is_fetched() {
    let backend = Backend::scripted(|_| Reply::ok("old")).await;
    let route = "to: service, keys: none, cache: {ttl: 1h, stale_while_revalidate: 1min}";
    let gateway = Gateway::start(&Config::open(&backend).route("/cached/*", route)).await;
    gateway.get("/cached/x").await;
    backend.plays(|_| Reply::ok("new"));
    assert_eq!(gateway.get("/cached/x").await.text(), "old");
    assert_eq!(purge(&gateway, r#"{"route": "/cached/*", "soft": true}"#).await, 1);
    let stale = gateway.get("/cached/x").await;
    assert_eq!(stale.text(), "old");
    assert!(stale.header("cache-status").unwrap().starts_with("tollgate; hit; ttl=-"), "{stale:?}");
    for _ in 0..100 {
        if gateway.get("/cached/x").await.text() == "new" {
            return assert_eq!(backend.requests(), 2);
        }
        tokio::time::sleep(milliseconds(20)).await;
    }
    panic!("the stale answer is never replaced");
}

#[tokio::test]
async fn a_purge_wins_over_answers_that_are_on_their_way() {
    let backend = Backend::scripted(|_| Reply::ok("old").with("Cache-Tag", "t").after(milliseconds(600))).await;
    let gateway = Gateway::start(&config(&backend)).await;
    let host = gateway.address;
    let prefix = format!(r#"{{"prefix": "http://{host}/cached/"}}"#);
    let purges = [r#"{"tag": "t"}"#, &prefix, r#"{"route": "/cached/*", "soft": true}"#];
    for (number, body) in purges.into_iter().enumerate() {
        let path = format!("/cached/{number}");
        let (asked, purged) = tokio::join!(gateway.get(&path), async {
            tokio::time::sleep(milliseconds(200)).await;
            purge(&gateway, body).await
        });
        assert_eq!((asked.text().as_str(), purged), ("old", 0));
        let before = backend.requests();
        gateway.get(&path).await;
        assert_eq!(backend.requests() - before, 1, "{body}: what was asked for before is served after it");
        purge(&gateway, r#"{"all": true}"#).await;
    }
}

#[tokio::test]
async fn what_is_no_purge_purges_nothing_and_says_how() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend)).await;
    gateway.get("/cached/x").await;
    for body in [
        "{}",
        r#"{"soft": true}"#,
        r#"{"tag": ""}"#,
        r#"{"tag": "a", "route": "/cached/*"}"#,
        r#"{"prefix": "/cached/"}"#,
        r#"{"prefix": "http://a/b?c"}"#,
        r#"{"everything": true}"#,
    ] {
        let answer = gateway.admin_post("/admin/cache/purge").body(body.to_owned()).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
    }
    assert_eq!(gateway.metrics().await.sum("tollgate_cache_entries", &[]), 1.0);
}

#[tokio::test]
async fn the_command_line_purges() {
    let backend = Backend::scripted(|_| Reply::ok("x").with("Cache-Tag", "t")).await;
    let gateway = Gateway::start(&config(&backend)).await;
    gateway.get("/cached/x").await;
    let run = |what: &[&str]| {
        let line = [&["cache", "purge", "-c", "tollgate.yaml"], what].concat();
        gateway.folder.tollgate(&line)
    };
    let soft = run(&["--tag", "t", "--soft"]);
    assert_eq!((soft.code, soft.stdout.as_str()), (Some(0), "1 answer made stale\n"), "{soft:?}");
    let hard = run(&["--tag", "t"]);
    assert_eq!((hard.code, hard.stdout.as_str()), (Some(0), "1 answer removed\n"), "{hard:?}");
    let json = run(&["--all", "--json"]);
    assert_eq!(json.stdout, "{\n  \"purged\": 0,\n  \"soft\": false\n}\n");
    let unknown = run(&["--route", "/nowhere"]);
    assert_eq!((unknown.code, unknown.stdout.as_str()), (Some(1), ""));
    assert!(
        unknown.stderr.contains("there is no route `/nowhere`; routes with a cache: /cached/*"),
        "{}",
        unknown.stderr
    );
    let near = run(&["--route", "/cache/*"]);
    assert!(near.stderr.contains("there is no route `/cache/*` (did you mean `/cached/*`?)"), "{}", near.stderr);
    assert_eq!(run(&[]).code, Some(2));
}
