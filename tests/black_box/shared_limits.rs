//! Limits that several gateways share in a real Redis: exact together, by the server's clock, and none the wiser about passwords.

use std::path::Path;

use crate::harness::{Backend, Config, Folder, Gateway, Load, Redis, burst, eventually, seconds, servers};

/// One open route with this limit, counted in this Redis.
pub fn shared(redis: &Redis, backend: &Backend, limit: &str, settings: &str) -> Config {
    shared_at(&redis.url(), backend, limit, settings)
}

/// The same, with the URL of the store written out.
pub fn shared_at(url: &str, backend: &Backend, limit: &str, settings: &str) -> Config {
    Config::new()
        .service("service", &[backend.address])
        .route("/*", &format!("to: service, keys: none, limit: {limit}"))
        .section(&format!("limits: {{store: \"{url}\", {settings}}}"))
        .section("connections: {per_client_max: 20000, total_max: 20000}")
}

/// How many of these requests, one after the other and round about, are admitted.
pub async fn admitted(gateways: &[&Gateway], requests: usize) -> usize {
    let mut admitted = 0;
    for number in 0..requests {
        match gateways[number % gateways.len()].get("/").await.status {
            200 => admitted += 1,
            429 => {}
            other => panic!("{other}"),
        }
    }
    admitted
}

/// What decided so far, by the metric's label.
pub async fn decided(gateway: &Gateway, by: &str) -> f64 {
    gateway.metrics().await.sum("tollgate_limit_store_decisions_total", &[("by", by)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_gateways_admit_together_exactly_what_the_limit_says() {
    const REQUEST: &str = "GET / HTTP/1.1\r\nHost: gateway.example\r\n\r\n";
    for program in servers() {
        let (redis, backend) = (Redis::start_with(program, &[]), Backend::start().await);
        let config = shared(&redis, &backend, "1000/h per route", "timeout: 2s");
        let gateways = [Gateway::start(&config).await, Gateway::start(&config).await, Gateway::start(&config).await];
        let [one, two, three] = gateways.each_ref().map(|gateway| gateway.address);
        let (one, two, three) =
            tokio::join!(burst(one, 3_334, REQUEST), burst(two, 3_333, REQUEST), burst(three, 3_333, REQUEST));
        let tallies = [one, two, three];
        for tally in &tallies {
            assert!(tally.failures.is_empty(), "{program}: {:?}", tally.failures[0]);
            assert_eq!(tally.of(200) + tally.of(429), tally.answered(), "{:?}", tally.statuses);
        }
        assert_eq!(tallies.iter().map(|tally| tally.answered()).sum::<usize>(), 10_000);
        assert_eq!(tallies.iter().map(|tally| tally.of(200)).sum::<usize>(), 1_000, "{program}");
        for gateway in &gateways {
            assert_eq!(decided(gateway, "fallback_local").await, 0.0, "{program}: the store was not asked");
        }
    }
}

#[tokio::test]
async fn every_algorithm_counts_for_all_gateways() {
    let (redis, backend) = (Redis::start(), Backend::start().await);
    for limit in [
        "{rate: 7/h, per: route}",
        "{rate: 7/h, per: route, algorithm: sliding_log}",
        "{rate: 1/h burst 7, per: route}",
        "{rate: 7/h, per: route, algorithm: fixed_window}",
        "{rate: 7/month, per: route}",
        "{rate: 7/day, per: route, zone: Pacific/Auckland}",
        "{rate: 21/h, per: route, cost: 3}",
    ] {
        redis.flush();
        let config = shared(&redis, &backend, limit, "timeout: 2s");
        let (one, two) = (Gateway::start(&config).await, Gateway::start(&config).await);
        assert_eq!(admitted(&[&one, &two], 20).await, 7, "{limit}");
        let refused = two.get("/").await;
        assert_eq!(refused.refused(), (429, "rate_limited".into()), "{limit}");
        assert!(refused.header("ratelimit").unwrap().contains("r=0;t="), "{limit}: {refused:?}");
        let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=31 * 86_400).contains(&wait), "{limit}: {wait}");
    }
}

#[tokio::test]
async fn several_limits_are_decided_at_once_or_not_at_all() {
    let (redis, backend) = (Redis::start(), Backend::start().await);
    let limits = "[{rate: 3/h, per: ip}, {rate: 100/h, per: route, name: wide}, {rate: 1/h, per: route, mode: observe, name: trial}, \
                  {rate: 50/h, per: route, store: local, name: here}]";
    let config = shared(&redis, &backend, limits, "timeout: 2s");
    let (one, two) = (Gateway::start(&config).await, Gateway::start(&config).await);
    assert_eq!(admitted(&[&one, &two], 10).await, 3);
    // What was refused used up nothing: neither of the wide limit, nor of the one that this gateway counts for itself.
    let state = one.get("/").await.header("ratelimit").unwrap().to_owned();
    assert!(state.contains("\"wide\";r=97;"), "{state}");
    assert!(state.contains("\"here\";r=48;"), "{state}");
    assert!(!state.contains("trial"), "{state}");
    let metrics = one.metrics().await;
    assert!(metrics.has("tollgate_limit_store_up", &[]), "the store is in the metrics");
}

#[tokio::test]
async fn a_gateway_whose_clock_is_wrong_counts_like_the_others() {
    let (redis, backend) = (Redis::start(), Backend::start().await);
    let library = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"]
        .map(|place| format!("{place}/faketime/libfaketimeMT.so.1"));
    let library = library.iter().find(|path| Path::new(path).exists()).expect("libfaketime: `make test` installs it");
    for limit in ["7/h per route", "7/day per route", "7/month per route", "1/h burst 7 per route"] {
        redis.flush();
        let config = shared(&redis, &backend, limit, "timeout: 2s");
        let right = Gateway::start(&config).await;
        for skew in ["+40d", "-3h"] {
            let variables =
                [("LD_PRELOAD", library.as_str()), ("FAKETIME", skew), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
            let wrong = Gateway::spawn_with(Folder::new(), &config, &variables).wait_until_ready().await;
            redis.ask::<()>(&[
                "EVAL",
                "for _, key in ipairs(redis.call('KEYS', '* route *')) do redis.call('DEL', key) end",
                "0",
            ]);
            assert_eq!(admitted(&[&wrong, &right], 20).await, 7, "{limit} {skew}");
            assert_eq!(decided(&wrong, "fallback_local").await, 0.0, "{limit} {skew}");
        }
    }
}

#[tokio::test]
async fn what_was_used_outlives_the_gateways() {
    let (redis, backend) = (Redis::start(), Backend::start().await);
    let config = shared(&redis, &backend, "[4/h per route, 100/month per route]", "timeout: 2s");
    let gateway = Gateway::start(&config).await;
    assert_eq!(admitted(&[&gateway], 4).await, 4);
    drop(gateway); // killed
    let gateway = Gateway::start(&config).await;
    assert_eq!(admitted(&[&gateway], 4).await, 0);
    // A reload that only changes the count keeps what was used.
    gateway.reload(&shared(&redis, &backend, "[6/h per route, 100/month per route]", "timeout: 2s")).await;
    assert_eq!(admitted(&[&gateway], 4).await, 2);
}

#[tokio::test]
async fn a_password_is_used_and_never_shown() {
    let (redis, backend) = (Redis::with_password("s3cret:/@?"), Backend::start().await);
    redis.ask::<()>(&[
        "ACL",
        "SETUSER",
        "gate",
        "on",
        ">pass-of-gate",
        "~tollgate:*",
        "+@read",
        "+@write",
        "+@scripting",
        "+@connection",
        "+time",
    ]);
    let url = |user: &str| redis.url().replace("redis://", &format!("redis://{user}@"));
    let encoded = "s3cret%3A%2F%40%3F";
    for user in [format!(":{encoded}"), "gate:pass-of-gate".to_owned()] {
        let gateway = Gateway::start(&shared_at(&url(&user), &backend, "2/h per route", "timeout: 2s")).await;
        assert_eq!(decided(&gateway, "store").await, 0.0);
        gateway.get("/").await;
        assert_eq!(decided(&gateway, "store").await, 1.0, "{}", gateway.said());
        for secret in ["s3cret", "pass-of-gate"] {
            assert!(!gateway.said().contains(secret), "{}", gateway.said());
        }
    }
    for (user, word) in [(":hunter2", "password"), ("nobody:hunter2", "password"), ("", "password")] {
        let url = if user.is_empty() { redis.url() } else { url(user) };
        let gateway = Gateway::start(&shared_at(&url, &backend, "2/h per route", "")).await;
        assert_eq!(admitted(&[&gateway], 4).await, 2, "the fallback limits");
        gateway.says("the store is away", |said| said.contains("is away")).await;
        let said = gateway.said();
        assert!(said.contains("limits.store") && said.contains(word) && !said.contains("hunter2"), "{said}");
    }
}

#[tokio::test]
async fn a_store_is_asked_over_tls_and_its_certificate_is_checked() {
    let backend = Backend::start().await;
    let (folder, authority) = (Folder::new(), crate::harness::Authority::of("localhost"));
    authority.write(&folder);
    crate::harness::Authority::of("other.example").write(&folder);
    let file = |name: &str| folder.path().join(name).display().to_string();
    let address = crate::harness::free_address();
    let redis = Redis::start_with(
        "redis-server",
        &[
            "--tls-port",
            &address.port().to_string(),
            "--tls-cert-file",
            &file("localhost.pem"),
            "--tls-key-file",
            &file("localhost.key"),
            "--tls-auth-clients",
            "no",
        ],
    );
    let url = format!("rediss://localhost:{}", address.port());
    let config = |ca: &str| shared_at(&url, &backend, "2/h per route", &format!("timeout: 2s, ca: \"{}\"", file(ca)));
    let gateway = Gateway::start(&config("localhost.pem")).await;
    assert_eq!(admitted(&[&gateway], 4).await, 2);
    assert_eq!(decided(&gateway, "store").await, 4.0, "{}", gateway.said());
    assert!(redis.ask::<Vec<String>>(&["KEYS", "*"]).len() > 1);
    let gateway = Gateway::start(&config("other.example.pem")).await;
    assert_eq!(admitted(&[&gateway], 4).await, 2, "by the fallback");
    assert_eq!(decided(&gateway, "store").await, 0.0);
    gateway.says("the certificate is not believed", |said| said.to_lowercase().contains("certificate")).await;
}

#[tokio::test]
async fn scripts_that_are_forgotten_under_load_cost_nothing() {
    let (redis, backend) = (Redis::start(), Backend::start().await);
    let gateway = Gateway::start(&shared(&redis, &backend, "1000000/h per route", "timeout: 2s")).await;
    let load = Load::get(gateway.address, "/", "").start(8);
    for _ in 0..10 {
        redis.ask::<()>(&["SCRIPT", "FLUSH"]);
        tokio::time::sleep(crate::harness::milliseconds(50)).await;
    }
    load.stop().await.all(200);
    assert_eq!(decided(&gateway, "fallback_local").await, 0.0);
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.sum("tollgate_limit_store_breaker_opened_total", &[]), 0.0);
}

#[tokio::test]
async fn keys_have_the_deployments_prefix_and_one_hash_tag_and_expire() {
    let (redis, backend) = (Redis::start(), Backend::start().await);
    let limits = "[{rate: 9/h, per: ip}, {rate: 9/h, per: route, algorithm: sliding_log, name: log}, {rate: 9/month, per: route}]";
    let config = shared(&redis, &backend, limits, "timeout: 2s, prefix: edge");
    let gateway = Gateway::start(&config).await;
    assert_eq!(admitted(&[&gateway], 3).await, 3);
    let keys: Vec<String> = redis.ask(&["KEYS", "*"]);
    assert_eq!(keys.len(), 5, "three counts, the gateways, and the deployment's state: {keys:?}");
    for key in keys {
        assert!(key.starts_with("edge:{limits}:"), "{key}");
        assert!(redis.ask::<i64>(&["PTTL", &key]) > 0, "{key} lives for ever");
    }
    let seen = || async { gateway.metrics().await.sum("tollgate_limit_store_gateways", &[]) == 1.0 };
    eventually("the gateway sees itself", seconds(5), seen).await;
}

/// Who is near to a limit, as the admin API tells it: `(who, left, whether over)`.
async fn near(gateway: &Gateway, limit: &str) -> Vec<(String, f64, bool)> {
    let answer = gateway.admin_get("/admin/rate-limits").await.json();
    let entries = answer["limits"].as_array().unwrap().iter().filter(|entry| entry["limit"] == limit);
    let told = |entry: &serde_json::Value| {
        let (who, left) = (entry["who"].as_str().unwrap().to_owned(), entry["tokens_remaining"].as_f64().unwrap());
        (who, left, entry["over"].as_bool().unwrap())
    };
    entries.map(told).collect()
}

#[tokio::test]
async fn who_is_near_to_a_shared_limit_is_listed_with_what_all_gateways_counted() {
    let (mut redis, backend) = (Redis::start(), Backend::start().await);
    let config = shared(&redis, &backend, "10/h per ip", "timeout: 2s").section("trusted_proxies: [127.0.0.1]");
    let (one, two) = (Gateway::start(&config).await, Gateway::start(&config).await);
    let ask = async |gateway: &Gateway, client: u32, requests: usize| {
        for _ in 0..requests {
            let address = std::net::Ipv4Addr::from(0xc000_0200 + client).to_string();
            let status = gateway.get("/").header("x-forwarded-for", &address).await.status;
            assert!(status == 200 || status == 429, "{status}");
        }
    };
    ask(&one, 1, 7).await; // 70 %
    ask(&one, 2, 8).await; // near
    ask(&one, 3, 12).await; // over
    ask(&two, 4, 9).await; // near, and never seen by the first
    let entry =
        |client: u32, left: f64, over: bool| (std::net::Ipv4Addr::from(0xc000_0200 + client).to_string(), left, over);
    assert_eq!(near(&one, "ip-3600s").await, [entry(3, 0.0, true), entry(2, 2.0, false)]);
    assert_eq!(near(&two, "ip-3600s").await, [entry(4, 1.0, false)]);
    // What the other gateway counts of the same client is in the figure.
    ask(&two, 2, 2).await;
    assert_eq!(near(&one, "ip-3600s").await[1], entry(2, 0.0, true));
    // Reset elsewhere: no longer near.
    assert_eq!(two.admin_post("/admin/clients/192.0.2.3/reset").await.json()["reset"], 1);
    assert_eq!(near(&one, "ip-3600s").await, [entry(2, 0.0, true)]);
    // However many come near: the last hundred.
    for client in 10..130 {
        ask(&one, client, 8).await;
    }
    let listed = near(&one, "ip-3600s").await;
    assert_eq!((listed.len(), listed.iter().all(|one| one.1 == 2.0)), (100, true), "{listed:?}");
    // A store that is away: the share of this gateway holds, and is what is told.
    redis.kill();
    ask(&one, 200, 20).await;
    let listed = near(&one, "ip-3600s").await;
    assert_eq!(listed.iter().map(|one| (&*one.0, one.2)).collect::<Vec<_>>(), [("192.0.2.200", true)]);
}

#[tokio::test]
async fn the_admin_api_tells_and_resets_what_all_gateways_counted() {
    let (mut redis, backend) = (Redis::start(), Backend::start().await);
    let limits = "[{rate: 5/h, per: ip}, {rate: 100/month, per: ip}, {rate: 9/h, per: ip, store: local, name: here}]";
    let config = shared(&redis, &backend, limits, "timeout: 2s");
    let (one, two) = (Gateway::start(&config).await, Gateway::start(&config).await);
    assert_eq!(admitted(&[&one, &two], 5).await, 5);
    let remaining = |answer: &crate::harness::Answer, name: &str| {
        let limits = answer.json()["limits"].as_array().unwrap().clone();
        let found = limits.iter().find(|limit| limit["limit"] == name).unwrap_or_else(|| panic!("{limits:?}")).clone();
        found["tokens_remaining"].as_f64().unwrap()
    };
    for gateway in [&one, &two] {
        let client = gateway.admin_get("/admin/clients/127.0.0.1").await;
        assert_eq!((remaining(&client, "ip-3600s"), remaining(&client, "ip-month")), (0.0, 95.0), "{}", client.text());
    }
    let totals = one.admin_get("/admin/rate-limits").await.json()["totals"].clone();
    let hour = totals.as_array().unwrap().iter().find(|limit| limit["limit"] == "ip-3600s").unwrap().clone();
    assert_eq!(hour["admitted"], 3, "by this gateway: {hour}");
    let reset = two.admin_post("/admin/clients/127.0.0.1/reset").await;
    assert_eq!(reset.json()["reset"], 3, "two in the store, one here: {}", reset.text());
    assert_eq!(admitted(&[&one, &two], 8).await, 5);
    redis.kill();
    eventually("the store is away", seconds(5), || async {
        two.metrics().await.sum("tollgate_limit_store_up", &[]) == 0.0
    })
    .await;
    let reset = two.admin_post("/admin/clients/127.0.0.1/reset").await;
    assert_eq!((reset.status, &reset.json()["reason"]), (503, &"limit_store_unavailable".into()), "{}", reset.text());
}
