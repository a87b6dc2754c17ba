//! Which instance a request goes to, seen from outside: by turns, by load, by latency, by a key; and that backups wait.

use crate::harness::{Answer, Backend, Config, Gateway, Reply, eventually, milliseconds, seconds};

async fn three() -> [Backend; 3] {
    [Backend::named("one").await, Backend::named("two").await, Backend::named("three").await]
}

fn balanced(backends: &[Backend], balance: &str) -> Config {
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    let fields = format!("balance: {balance}");
    Config::new().service_with("service", &addresses, &fields).route("/*", "to: service, keys: none")
}

fn requests(backends: &[Backend]) -> Vec<usize> {
    backends.iter().map(Backend::requests).collect()
}

async fn instance(gateway: &Gateway, backend: &Backend) -> serde_json::Value {
    let services = gateway.admin_get("/admin/services").await.json();
    let address = backend.address.to_string();
    let instances = services["services"][0]["instances"].as_array().expect("instances").clone();
    instances.into_iter().find(|instance| instance["address"] == address.as_str()).expect("the instance")
}

#[tokio::test]
async fn what_is_in_flight_is_counted_until_it_ends_however_it_does() {
    let backends = [Backend::scripted(|seen| match seen.target.as_str() {
        "/hang" => Reply::Hang,
        "/reset" => Reply::Reset,
        "/500" => Reply::status(500, ""),
        _ => Reply::ok("").after(milliseconds(20)),
    })
    .await];
    let config = balanced(&backends, "round_robin");
    let gateway = Gateway::start(&config).await;
    let in_flight = async |expected: u64| instance(&gateway, &backends[0]).await["in_flight"] == expected;
    let mut client = gateway.wire().await;
    client.send("GET /hang HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("the request is in flight", seconds(5), async || in_flight(1).await).await;
    let metric = [("service", "service")];
    assert_eq!(gateway.metrics().await.sum("tollgate_upstream_requests_in_flight", &metric), 1.0);
    drop(client);
    eventually("the client has left", seconds(5), async || in_flight(0).await).await;
    for (path, status) in [("/x", 200), ("/reset", 502), ("/500", 500), ("/x", 200)] {
        assert_eq!(gateway.get(path).await.status, status);
    }
    eventually("all have ended", seconds(5), async || in_flight(0).await).await;
    let seen = instance(&gateway, &backends[0]).await;
    // The reset came on a pooled connection, so it was tried again.
    assert_eq!((seen["requests"].as_u64(), seen["failures"].as_u64()), (Some(6), Some(2)));
    // The one whose client left says nothing about the instance.
    assert_eq!(seen["success_rate"].as_f64(), Some(0.5));
    assert!(seen["latency_ms"].as_f64().is_some_and(|latency| latency > 0.5 && latency < 5_000.0), "{seen}");
}

#[tokio::test]
async fn the_least_loaded_instance_is_asked() {
    let backends = three().await;
    backends[0].plays(|_| Reply::Hang);
    let gateway = Gateway::start(&balanced(&backends, "least_requests")).await;
    // Every request to the first one stays there, so it gets no more than a few of them.
    let mut open = Vec::new();
    for _ in 0..60 {
        let mut wire = gateway.wire().await;
        wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        open.push(wire);
        let arrived = async || requests(&backends).iter().sum::<usize>() == open.len();
        eventually("the request arrives", seconds(5), arrived).await;
    }
    let had = requests(&backends);
    assert!(had[0] <= 6, "{had:?}: the busy one is avoided");
    assert!(had[1] > 15 && had[2] > 15, "{had:?}");
}

#[tokio::test]
async fn the_slow_instance_is_avoided_with_peak_ewma_and_tried_again_when_it_recovers() {
    let backends = three().await;
    backends[0].plays(|_| Reply::ok("").after(milliseconds(300)));
    let gateway = Gateway::start(&balanced(&backends, "peak_ewma")).await;
    for _ in 0..100 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    let had = requests(&backends);
    assert!(had[0] <= 5, "{had:?}: the slow one is asked rarely");
    backends[0].plays(|_| Reply::ok("recovered"));
    let recovered = async || gateway.get("/").await.text() == "recovered";
    eventually("the slow one is asked again", seconds(60), recovered).await;
}

#[tokio::test]
async fn random_reaches_everyone() {
    let backends = three().await;
    let gateway = Gateway::start(&balanced(&backends, "random")).await;
    for _ in 0..90 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    let had = requests(&backends);
    assert!(had.iter().all(|had| (10..=55).contains(had)), "{had:?}");
}

#[tokio::test]
async fn a_key_stays_with_its_instance_over_reloads_and_moves_when_that_is_gone() {
    let backends = three().await;
    let by_header = "consistent_hash by header X-Tenant";
    let gateway = Gateway::start(&balanced(&backends, by_header)).await;
    let of = async |tenant: usize| -> Answer { gateway.get("/").header("X-Tenant", &format!("tenant-{tenant}")).await };
    let mut owners = Vec::new();
    for tenant in 0..40 {
        owners.push(of(tenant).await.instance().to_owned());
    }
    assert!(["one", "two", "three"].iter().all(|name| owners.iter().any(|owner| owner == name)), "{owners:?}");
    gateway.reload(&balanced(&backends[..2], by_header)).await;
    for (tenant, owner) in owners.iter().enumerate() {
        let answer = of(tenant).await;
        let now = answer.instance();
        assert!(now == owner || owner == "three", "tenant {tenant} was with {owner} and is with {now}");
        assert_ne!(now, "three");
    }
    gateway.reload(&balanced(&backends, by_header)).await;
    for (tenant, owner) in owners.iter().enumerate() {
        assert_eq!(of(tenant).await.instance(), *owner);
    }
}

#[tokio::test]
async fn a_key_may_be_the_address_the_path_a_cookie_or_the_key_of_the_caller() {
    let backends = three().await;
    let owners = async |by: &str, ask: &dyn Fn(usize) -> (String, Option<(&'static str, String)>)| {
        let config = balanced(&backends, &format!("consistent_hash by {by}")).route("/keyed", "to: service");
        let gateway =
            Gateway::start(&(0..30).fold(config, |config, number| config.key(&format!("key-{number}")))).await;
        let mut owners = Vec::new();
        for number in 0..30 {
            let (path, header) = ask(number);
            let twice = async || match &header {
                Some((name, value)) => gateway.get(&path).header(name, value).await.instance().to_owned(),
                None => gateway.get(&path).await.instance().to_owned(),
            };
            let owner = twice().await;
            assert_eq!(owner, twice().await, "{by} {path}");
            owners.push(owner);
        }
        owners.sort();
        owners.dedup();
        owners.len()
    };
    assert_eq!(owners("ip", &|number| (format!("/{number}"), None)).await, 1);
    assert_eq!(owners("path", &|number| (format!("/{number}?x"), None)).await, 3);
    assert_eq!(owners("cookie id", &|number| ("/".into(), Some(("Cookie", format!("a=b; id={number}"))))).await, 3);
    assert_eq!(owners("key", &|number| ("/keyed".into(), Some(("X-API-Key", format!("key-{number}"))))).await, 3);
    assert_eq!(
        owners("header X-None", &|number| (format!("/{number}"), None)).await,
        1,
        "without it the address counts"
    );
}

#[tokio::test]
async fn a_backup_waits_until_no_other_instance_answers() {
    let backends = three().await;
    let services = format!(
        "services:\n  service: [\"{}\", \"{}\", {{address: \"{}\", backup: true}}]",
        backends[0].address, backends[1].address, backends[2].address
    );
    let gateway = Gateway::start(&Config::new().section(&services).route("/*", "to: service, keys: none")).await;
    for _ in 0..20 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    assert_eq!(requests(&backends), [10, 10, 0]);
    assert!(instance(&gateway, &backends[2]).await["backup"].as_bool().is_some_and(|backup| backup));
    backends[0].stop();
    backends[1].stop();
    let mut from_backup = false;
    for _ in 0..5 {
        from_backup |= gateway.get("/").await.instance() == "three";
    }
    assert!(from_backup, "with the others gone the backup answers");
}
