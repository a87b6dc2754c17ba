//! Keys, limits, concurrency, CORS and the stores behind them in one gateway: what each does has to hold beside the others.

use crate::harness::{
    Answer, Backend, Config, Gateway, Mariadb, Redis, Reply, Signal, eventually, free_address, milliseconds, seconds,
};
use crate::key_store::{becomes, keys, new_key};

const APP: &str = "https://app.example";

/// Plans and a limit of the route, keys in the database of the log.
fn planned(backend: &Backend) -> Config {
    Config::new()
        .service("service", &[backend.address])
        .route("/*", "to: service, limit: [100/h per key, 50/day per consumer]")
        .section("plans: {gold: {limit: 10/h per consumer}}")
        .section("key_store: log")
        .section("node: fixed")
        .log("sqlite:log.db")
}

/// What a client has left of a limit, as the admin API tells it.
async fn left(gateway: &Gateway, client: &str, limit: &str) -> f64 {
    let answer = gateway.admin_get(&format!("/admin/clients/{client}")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let limits = answer.json()["limits"].as_array().unwrap().clone();
    let found = limits.iter().find(|one| one["limit"] == limit).unwrap_or_else(|| panic!("{limits:?}")).clone();
    found["tokens_remaining"].as_f64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_the_store_is_limited_by_its_plan_told_reset_and_remembered() {
    let backend = Backend::start().await;
    let config = planned(&backend);
    let mut gateway = Gateway::start(&config).await;
    let key = new_key(&gateway.folder, &["acme-1", "--consumer", "acme", "--plan", "gold"]);
    becomes(&gateway, &key, 200).await;
    let second = new_key(&gateway.folder, &["acme-2", "--consumer", "acme", "--plan", "gold"]);
    becomes(&gateway, &second, 200).await;
    for _ in 0..8 {
        assert_eq!(gateway.get("/").key(&key).await.status, 200);
    }
    assert_eq!(gateway.get("/").key(&second).await.refused(), (429, "rate_limited".into()), "a plan is its consumer's");
    assert_eq!(left(&gateway, "acme-1", "gold-consumer-3600s").await, 0.0);
    assert_eq!(
        (left(&gateway, "acme-1", "key-3600s").await, left(&gateway, "acme-2", "key-3600s").await),
        (91.0, 99.0)
    );

    // Another table of keys is not another count.
    let third = new_key(&gateway.folder, &["other"]);
    becomes(&gateway, &third, 200).await;
    assert_eq!(gateway.get("/").key(&key).await.status, 429);
    let totals = gateway.admin_get("/admin/rate-limits").await.json()["totals"].clone();
    let gold = totals.as_array().unwrap().iter().find(|one| one["plan"] == "gold").unwrap().clone();
    assert_eq!(gold["admitted"], 10, "{gold}");
    assert_eq!(gateway.admin_get("/admin/clients/nobody").await.status, 404);

    // Nor is another process, even after kill -9: what the last save knows of it is there.
    eventually("the counts are saved", seconds(15), async || {
        gateway.metrics().await.sum("tollgate_limit_counts_saved_total", &[]) >= 6.0
    })
    .await;
    gateway.signal(Signal::SIGKILL);
    gateway.wait_exit(seconds(5)).await;
    let gateway = gateway.again(&config).await;
    becomes(&gateway, &key, 429).await;
    assert_eq!(left(&gateway, "acme-2", "consumer-day").await, 40.0, "{}", gateway.said());
    assert!(gateway.admin_post("/admin/clients/acme-2/reset").await.json()["reset"].as_u64().unwrap() >= 2);
    assert_eq!(gateway.get("/").key(&second).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_the_store_are_limited_together_in_redis() {
    let (redis, backend) = (Redis::start(), Backend::start().await);
    let config = planned(&backend).section(&format!("limits: {{store: \"{}\", timeout: 2s}}", redis.url()));
    let one = Gateway::start(&config).await;
    let store = format!("key_store: \"sqlite:{}/log.db\"", one.folder.path().display());
    let other = Config::new()
        .service("service", &[backend.address])
        .route("/*", "to: service, limit: [100/h per key, 50/day per consumer]")
        .section("plans: {gold: {limit: 10/h per consumer}}")
        .section(&store)
        .section(&format!("limits: {{store: \"{}\", timeout: 2s}}", redis.url()));
    let two = Gateway::start(&other).await;
    let key = new_key(&one.folder, &["acme", "--plan", "gold"]);
    becomes(&one, &key, 200).await;
    becomes(&two, &key, 200).await;
    let mut admitted = 2;
    for number in 0..20 {
        let gateway = if number % 2 == 0 { &one } else { &two };
        admitted += usize::from(gateway.get("/").key(&key).await.status == 200);
    }
    assert_eq!(admitted, 10);
    for gateway in [&one, &two] {
        assert_eq!(left(gateway, "acme", "gold-consumer-3600s").await, 0.0);
        assert_eq!(left(gateway, "acme", "key-3600s").await, 90.0, "a refused request uses up no other limit");
    }
    let totals = async |gateway: &Gateway| {
        let totals = gateway.admin_get("/admin/rate-limits").await.json()["totals"].clone();
        let gold = totals.as_array().unwrap().iter().find(|one| one["plan"] == "gold").unwrap().clone();
        (gold["admitted"].as_u64().unwrap(), gold["refused"].as_u64().unwrap())
    };
    let (first, second) = (totals(&one).await, totals(&two).await);
    assert_eq!((first.0 + second.0, first.1 + second.1), (10, 12), "each says what it decided");
    assert!(two.admin_post("/admin/clients/acme/reset").await.json()["reset"].as_u64().unwrap() >= 3);
    assert_eq!(one.get("/").key(&key).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_of_a_route_can_be_read_by_the_page_that_asked() {
    let backend = Backend::scripted(|_| Reply::ok("late").after(milliseconds(700))).await;
    let cors = format!("cors: {{origins: '{APP}'}}");
    let config = |limits: &str| {
        Config::new()
            .service("service", &[backend.address])
            .route("/rate", &format!("to: service, {cors}, limit: 1/h per consumer"))
            .route("/once", &format!("to: service, {cors}, concurrency: 1 per key"))
            .route("/labelled", &format!("to: service, {cors}, keys: {{label: internal}}"))
            .route("/far", &format!("to: service, {cors}, clients: {{allow: 192.0.2.0/24}}"))
            .key("acme")
            .section("key_store: \"sqlite:keys.db\"")
            .section(limits)
    };
    let check = |answer: &Answer, expected: (u16, &str)| {
        assert_eq!(answer.refused(), (expected.0, expected.1.to_owned()));
        assert_eq!(answer.header("access-control-allow-origin"), Some(APP), "{expected:?}");
        let exposed = Some("RateLimit, RateLimit-Policy, Retry-After, X-Request-Id");
        assert_eq!(answer.header("access-control-expose-headers"), exposed, "{expected:?}");
    };
    let gateway = Gateway::start(&config("")).await;
    let get = |path: &str| gateway.get(path).header("origin", APP);
    check(&get("/rate").await, (401, "no_key"));
    check(&get("/rate").key("nobodys").await, (401, "unknown_key"));
    check(&get("/rate").key("acme").header("x-api-key", "b").await, (400, "ambiguous_key"));
    check(&get("/labelled").key("acme").await, (403, "not_allowed"));
    check(&get("/far").key("acme").await, (403, "client_not_allowed"));
    assert_eq!(get("/rate").key("acme").await.status, 200);
    check(&get("/rate").key("acme").await, (429, "rate_limited"));
    let (first, second) = tokio::join!(async { get("/once").key("acme").await }, async {
        tokio::time::sleep(milliseconds(200)).await;
        get("/once").key("acme").await
    });
    assert_eq!(first.status, 200);
    check(&second, (429, "concurrency_limited"));
    let refusing = format!("limits: {{store: \"redis://{}\", on_error: refuse}}", free_address());
    gateway.reload(&config(&refusing)).await;
    check(&gateway.get("/rate").header("origin", APP).key("acme").await, (503, "limit_store_unavailable"));
    assert_eq!(gateway.get("/once").key("acme").await.status, 200, "what counts nothing needs no store");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_can_read_that_the_keys_are_not_there() {
    let mut mariadb = Mariadb::start().await;
    let backend = Backend::start().await;
    let config = Config::new()
        .service("service", &[backend.address])
        .route("/*", &format!("to: service, cors: {{origins: '{APP}'}}, limit: 9/h per consumer"))
        .section(&format!("key_store: \"{}\"", mariadb.url()));
    mariadb.kill();
    let gateway = Gateway::start(&config).await;
    let refused = gateway.get("/").header("origin", APP).key("of-the-store").await;
    assert_eq!(refused.refused(), (503, "keys_unavailable".into()));
    assert_eq!(refused.header("access-control-allow-origin"), Some(APP));
    let exposed = Some("RateLimit, RateLimit-Policy, Retry-After, X-Request-Id");
    assert_eq!(refused.header("access-control-expose-headers"), exposed);
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(backend.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_store_becomes_the_database_of_the_log_and_keeps_its_keys() {
    let backend = Backend::start().await;
    let config = |log: &str, store: &str| {
        Config::new()
            .service("service", &[backend.address])
            .route("/*", "to: service, limit: 100/h per key")
            .log(log)
            .section(&format!("key_store: \"{store}\""))
    };
    let mut gateway = Gateway::start(&config("none", "sqlite:keys.db")).await;
    let key = new_key(&gateway.folder, &["acme"]);
    becomes(&gateway, &key, 200).await;
    let versions = |gateway: &Gateway| {
        let database = rusqlite::Connection::open(gateway.path("keys.db")).unwrap();
        let sql = "SELECT group_concat(version) FROM (SELECT version FROM log_migrations ORDER BY version)";
        database.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap()
    };
    assert_eq!(versions(&gateway), "5");
    gateway.signal(Signal::SIGTERM);
    gateway.wait_exit(seconds(15)).await;
    let gateway = gateway.again(&config("sqlite:keys.db", "log")).await;
    becomes(&gateway, &key, 200).await;
    assert_eq!(versions(&gateway), "1,2,3,4,5,6");
    gateway.log_written().await;
    let listed = keys(&gateway.folder, &["list"]);
    assert_eq!((&listed["keys"][0]["name"], listed["keys"][0]["last_used"].is_string()), (&"acme".into(), true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_may_not_use_a_route_takes_no_place_and_uses_up_no_limit() {
    let backend = Backend::start().await;
    let config = Config::new()
        .service("service", &[backend.address])
        .route("/*", "to: service, keys: {label: internal}, concurrency: 1 per route, limit: 3/h per route")
        .section("key_store: \"sqlite:keys.db\"");
    let gateway = Gateway::start(&config).await;
    let internal = new_key(&gateway.folder, &["inside", "--label", "internal"]);
    let other = new_key(&gateway.folder, &["outside"]);
    becomes(&gateway, &internal, 200).await;
    for _ in 0..5 {
        assert_eq!(gateway.get("/").key(&other).await.refused(), (403, "not_allowed".into()));
    }
    assert_eq!(gateway.get("/").key(&internal).await.status, 200);
    assert_eq!(gateway.get("/").key(&internal).await.status, 200);
    assert_eq!(gateway.get("/").key(&internal).await.refused(), (429, "rate_limited".into()));
}
