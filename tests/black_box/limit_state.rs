//! What limits have counted over reloads, restarts, crashes and changes of the clock; plans and named limits over many routes.

use crate::harness::{Backend, Config, Folder, Gateway, Mariadb, Signal, eventually, milliseconds, seconds};

/// Two routes; alice has the plan gold, bob free.
fn planned(backend: &Backend, sections: &str, limit: &str) -> Config {
    let route = format!("to: service{}{limit}", if limit.is_empty() { "" } else { ", limit: " });
    Config::new()
        .service("service", &[backend.address])
        .route("/one", &route)
        .route("/two", &route)
        .key_with("alice-1", "consumer: alice, plan: gold")
        .key_with("alice-2", "consumer: alice, plan: gold")
        .key_with("bob", "plan: free")
        .section(sections)
}

/// How many of these requests are admitted.
async fn admitted(gateway: &Gateway, path: &str, key: &str, requests: usize) -> usize {
    let mut count = 0;
    for _ in 0..requests {
        match gateway.get(path).key(key).await.status {
            200 => count += 1,
            429 => {}
            other => panic!("{other}"),
        }
    }
    count
}

#[tokio::test]
async fn a_plan_counts_all_requests_of_its_consumers() {
    let backend = Backend::start().await;
    let plans = "plans: {gold: {limit: 5/min per consumer}, free: {limit: 2/min per consumer}}";
    let gateway = Gateway::start(&planned(&backend, plans, "")).await;
    assert_eq!(admitted(&gateway, "/one", "alice-1", 3).await, 3);
    assert_eq!(admitted(&gateway, "/two", "alice-2", 9).await, 2, "two keys and two routes are one count");
    assert_eq!(admitted(&gateway, "/two", "bob", 9).await, 2);
    let refused = gateway.get("/one").key("bob").await;
    assert_eq!(refused.header("ratelimit-policy"), Some("\"free-consumer-60s\";q=2;w=60"));
    assert_eq!(refused.json()["violated-policies"], serde_json::json!(["free-consumer-60s"]));
}

#[tokio::test]
async fn a_named_limit_is_one_count_and_a_reload_changes_its_numbers_but_not_what_was_used() {
    let backend = Backend::start().await;
    let plans = "plans: {gold: {}, free: {}}";
    let config = |api: &str| planned(&backend, &format!("{plans}\nlimits: {{named: {{api: {api}}}}}"), "api");
    let gateway = Gateway::start(&config("4/min per consumer")).await;
    assert_eq!(admitted(&gateway, "/one", "alice-1", 3).await, 3);
    assert_eq!(admitted(&gateway, "/two", "alice-1", 3).await, 1);
    gateway.reload(&config("6/min per consumer")).await;
    assert_eq!(admitted(&gateway, "/one", "alice-1", 9).await, 2, "two more, not six");
    gateway.reload(&config("7/h per consumer")).await;
    assert_eq!(admitted(&gateway, "/one", "alice-1", 9).await, 1, "another window: what was used stays used");
    let refused = gateway.try_reload(&config("900/h per consumers")).await;
    assert_eq!(refused.status, 422);
    assert_eq!(admitted(&gateway, "/one", "alice-1", 2).await, 0, "a reload that is refused changes nothing");
}

#[tokio::test]
async fn older_fields_are_said_where_they_are_asked_for_and_hits_are_stamped_fresh() {
    let backend = Backend::start().await;
    let config = Config::open(&backend)
        .route("/cached", "to: service, keys: none, cache: 1min, limit: [3/min per ip, 90/h per ip]")
        .section("limits: {legacy_headers: true}");
    let gateway = Gateway::start(&config).await;
    for left in ["2", "1", "0", "0"] {
        let answer = gateway.get("/cached").await;
        assert_eq!(answer.header("x-ratelimit-remaining"), Some(left), "{answer:?}");
        assert_eq!(answer.header("x-ratelimit-limit"), Some("3"));
        assert!(answer.header("x-ratelimit-reset").is_some());
        assert_eq!(answer.header("ratelimit-policy"), Some("\"ip-60s\";q=3;w=60, \"ip-3600s\";q=90;w=3600"));
    }
    assert_eq!(backend.requests(), 1);
    let config = Config::open(&backend).route("/plain", "to: service, keys: none, limit: 3/min per ip");
    gateway.reload(&config).await;
    assert_eq!(gateway.get("/plain").await.header("x-ratelimit-limit"), None);
}

/// Longer than a window of a minute, one by the calendar, and one that is not saved.
fn saved(backend: &Backend, log: &str) -> Config {
    Config::open(backend)
        .route("/hour", "to: service, keys: none, limit: 100/h per ip")
        .route("/burst", "to: service, keys: none, limit: 100/h burst 100 per ip")
        .route("/month", "to: service, keys: none, limit: {rate: 100/month, per: ip, zone: Asia/Tokyo}")
        .route("/minute", "to: service, keys: none, limit: 100/min per ip")
        .log(log)
        .section("node: fixed")
}

async fn left(gateway: &Gateway, path: &str) -> u64 {
    let state = gateway.get(path).await.header("ratelimit").unwrap().to_owned();
    state.split("r=").nth(1).unwrap().split(';').next().unwrap().parse().unwrap()
}

async fn survives_kill_9(log: &str, folder: Folder) {
    let backend = Backend::start().await;
    let config = saved(&backend, log);
    let mut gateway = Gateway::start_in(folder, &config).await;
    for path in ["/hour", "/burst", "/month", "/minute"] {
        for _ in 0..10 {
            assert_eq!(gateway.get(path).await.status, 200);
        }
    }
    eventually("the counts are saved", seconds(15), async || {
        gateway.metrics().await.sum("tollgate_limit_counts_saved_total", &[]) >= 3.0
    })
    .await;
    gateway.signal(Signal::SIGKILL);
    gateway.wait_exit(seconds(5)).await;
    let gateway = gateway.again(&config).await;
    assert_eq!((left(&gateway, "/hour").await, left(&gateway, "/month").await), (89, 89), "{}", gateway.said());
    assert!((89..=90).contains(&left(&gateway, "/burst").await), "a token comes back each 36 s");
    assert_eq!(left(&gateway, "/minute").await, 99, "shorter windows begin anew");
    // At exit everything is saved, also what was counted just now.
    let mut gateway = gateway;
    assert_eq!(left(&gateway, "/hour").await, 88);
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait_exit(seconds(15)).await.success());
    let gateway = gateway.again(&config).await;
    assert_eq!(left(&gateway, "/hour").await, 87);
    assert!(gateway.metrics().await.sum("tollgate_limit_save_failures_total", &[]) == 0.0);
}

#[tokio::test]
async fn counts_of_an_hour_and_longer_survive_kill_9_with_sqlite() {
    survives_kill_9("sqlite:log.db", Folder::new()).await;
}

#[tokio::test]
async fn counts_of_an_hour_and_longer_survive_kill_9_with_mariadb() {
    let mariadb = Mariadb::start().await;
    survives_kill_9(&format!("\"{}\"", mariadb.url()), Folder::new()).await;
    assert_eq!(mariadb.number("SELECT COUNT(*) FROM limit_counters WHERE gateway LIKE 'fixed 127.0.0.1:%'").await, 3);
}

#[tokio::test]
async fn a_store_that_is_away_at_start_is_said_and_what_it_holds_counts_when_it_is_back() {
    let (backend, mut mariadb) = (Backend::start().await, Mariadb::start().await);
    let config = saved(&backend, &format!("\"{}\"", mariadb.url()));
    let mut gateway = Gateway::start(&config).await;
    gateway.log_open().await;
    for _ in 0..10 {
        gateway.get("/hour").await;
    }
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait_exit(seconds(15)).await.success());
    mariadb.kill();
    let gateway = gateway.again(&config).await;
    assert!(gateway.said().contains("what limits have counted before can't be read"), "{}", gateway.said());
    assert_eq!(left(&gateway, "/hour").await, 99);
    mariadb.revive().await;
    eventually("what was counted before counts again", seconds(20), async || left(&gateway, "/hour").await <= 89).await;
}

#[tokio::test]
async fn without_a_store_it_is_said_that_counts_end_with_the_process() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&saved(&backend, "none")).await;
    eventually("it is said", seconds(5), async || gateway.said().contains("is not saved, and is forgotten")).await;
}

#[tokio::test]
async fn a_clock_that_jumps_an_hour_back_or_on_gives_no_fresh_allowance() {
    let backend = Backend::start().await;
    let config = Config::open(&backend)
        .route("/rolling", "to: service, keys: none, limit: 3/10min per ip")
        .route("/bucket", "to: service, keys: none, limit: 1/h burst 3 per ip")
        .route("/month", "to: service, keys: none, limit: 3/month per ip")
        .route("/fixed", "to: service, keys: none, limit: {rate: 3/h, per: ip, algorithm: fixed_window}");
    // In the middle of a month, a day and an hour.
    let gateway = Gateway::start_at(&config, "@2026-05-15 12:30:00").await;
    let paths = ["/rolling", "/bucket", "/month", "/fixed"];
    let statuses = async || {
        let mut found = Vec::new();
        for path in paths {
            found.push(gateway.get(path).await.status);
        }
        found
    };
    for _ in 0..3 {
        assert_eq!(statuses().await, [200; 4]);
    }
    assert_eq!(statuses().await, [429; 4]);
    for (clock, expected) in [
        ("@2026-05-15 11:30:00", [429, 429, 429, 429]), // back: an hour that has passed already
        ("@2026-05-15 12:30:00", [429, 429, 429, 429]), // and on again
        ("@2026-05-15 13:30:00", [429, 429, 429, 200]), // on: only the calendar's next hour is a new one
    ] {
        gateway.set_clock(clock);
        tokio::time::sleep(milliseconds(300)).await;
        assert_eq!(statuses().await, expected, "{clock}");
    }
}

/// 24 hours are no day of the calendar: what was used is free again 24 hours later, and at most one slot (1.5 h) after that.
#[tokio::test]
async fn a_rolling_day_is_any_24_hours() {
    let backend = Backend::start().await;
    let config = Config::open(&backend).route("/day", "to: service, keys: none, limit: 3/24h per ip");
    let gateway = Gateway::start_movable(&config).await;
    let at = async |clock: &str| {
        gateway.set_clock(clock);
        tokio::time::sleep(milliseconds(300)).await;
        // Connections of before are too old for any time-out.
        gateway.wire().await.get("/day", "").await
    };
    assert_eq!(at("+0").await.header("ratelimit-policy"), Some("\"ip-86400s\";q=3;w=86400"));
    assert_eq!(at("+10h").await.status, 200);
    assert_eq!(at("+20h").await.status, 200);
    for clock in ["+20h", "+23h", "+23.9h"] {
        let refused = at(clock).await;
        assert_eq!(refused.refused(), (429, "rate_limited".into()), "{clock}");
        let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!(wait <= 86_400 / 16 + 4 * 3_600, "{clock}: {wait}");
    }
    assert_eq!(at("+25.6h").await.status, 200, "the first is over");
    assert_eq!(at("+25.6h").await.status, 429, "the second is not: it was at +10h");
    assert_eq!(at("+35.6h").await.status, 200);
}

#[tokio::test]
async fn the_admin_api_tells_and_resets_what_a_key_has_used() {
    let backend = Backend::start().await;
    let plans = "plans: {gold: {limit: 5/min per consumer}, free: {limit: 2/min per consumer}}";
    let gateway = Gateway::start(&planned(&backend, plans, "3/min per key")).await;
    assert_eq!(admitted(&gateway, "/one", "alice-1", 9).await, 3);
    let client = gateway.admin_get("/admin/clients/alice-1").await.json();
    let limits = client["limits"].as_array().unwrap();
    let told: Vec<_> =
        limits.iter().map(|one| (one["limit"].as_str().unwrap(), one["tokens_remaining"].as_f64())).collect();
    assert!(told.contains(&("gold-consumer-60s", Some(2.0))) && told.contains(&("key-60s", Some(0.0))), "{client}");
    let limits = gateway.admin_get("/admin/rate-limits").await.json();
    let totals = limits["totals"].as_array().unwrap();
    let one = totals.iter().find(|one| one["route"] == "/one").unwrap();
    assert_eq!(
        (one["admitted"].as_u64(), one["refused"].as_u64(), one["clients"].as_u64()),
        (Some(3), Some(6), Some(1))
    );
    assert_eq!(gateway.admin_post("/admin/clients/alice-1/reset").await.json()["reset"], 2);
    assert_eq!(admitted(&gateway, "/one", "alice-1", 9).await, 3);
    assert_eq!(gateway.admin_post("/admin/clients/nobody/reset").await.status, 404);
}
