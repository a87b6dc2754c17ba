//! Instances that come and go without a change of the configuration: by DNS, in a file, and because they say so themselves.

use std::net::SocketAddr;
use std::time::Instant;

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{
    Answer, Backend, Config, Dns, Folder, Gateway, Load, Mood, Reply, eventually, free_address, milliseconds, seconds,
};

const NAME: &str = "users.internal";

/// Instances at one port of 127.0.0.1, 127.0.0.2 and so on, each with its name.
async fn neighbours<const COUNT: usize>() -> [Backend; COUNT] {
    let port = free_address().port();
    let mut backends = Vec::new();
    for number in 1..=COUNT as u8 {
        let address = SocketAddr::from(([127, 0, 0, number], port));
        let name = format!("{number}");
        backends.push(Backend::at(address, move |_| Reply::ok("").with("X-Instance", &name)).await);
    }
    backends.try_into().unwrap_or_else(|_| panic!("so many"))
}

/// A service whose instances are found like this.
fn finds(discover: &str) -> Config {
    Config::new()
        .section(&format!("services:\n  service: {{discover: {{{discover}}}}}"))
        .route("/*", "to: service, keys: none")
}

fn by_name(dns: &Dns, port: u16) -> Config {
    finds(&format!("dns: \"{NAME}:{port}\"")).section(&dns.section())
}

/// The service as the admin API shows it.
async fn service(gateway: &Gateway) -> Value {
    gateway.admin_get("/admin/services").await.json()["services"][0].clone()
}

/// Addresses of its instances, with their state.
async fn instances(gateway: &Gateway) -> Vec<(String, String)> {
    let service = service(gateway).await;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let of = |instance: &Value| (text(&instance["address"]), text(&instance["state"]));
    service["instances"].as_array().expect("instances").iter().map(of).collect()
}

async fn has(gateway: &Gateway, addresses: &[SocketAddr]) -> bool {
    let wanted: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    instances(gateway).await.into_iter().map(|(address, _)| address).eq(wanted)
}

async fn register(gateway: &Gateway, address: SocketAddr, body: &str) -> Answer {
    change(gateway, Method::PUT, address, "", body).await
}

async fn change(gateway: &Gateway, method: Method, address: SocketAddr, step: &str, body: &str) -> Answer {
    let path = format!("/admin/services/service/instances/{address}{step}");
    gateway.admin_ask(method, &path).body(body.to_owned()).await
}

// Seen to work, 5.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_changes_its_addresses_moves_traffic_within_its_ttl_without_an_error() {
    const TTL: u32 = 2;
    let [one, two, three] = neighbours().await;
    let dns = Dns::start(TTL).await;
    dns.says(NAME, &["127.0.0.1"]);
    let gateway = Gateway::start(&by_name(&dns, one.address.port())).await;
    let load = Load::get(gateway.address, "/", "").start(8);
    eventually("the first one answers", seconds(10), async || one.requests() > 100).await;

    for (addresses, joined, left) in [
        (vec!["127.0.0.2", "127.0.0.3"], vec![&two, &three], vec![&one]),
        (vec!["127.0.0.1"], vec![&one], vec![&two, &three]),
    ] {
        let before: Vec<usize> = joined.iter().map(|backend| backend.requests()).collect();
        let changed = Instant::now();
        dns.says(NAME, &addresses);
        let moved = async || joined.iter().zip(&before).all(|(backend, before)| backend.requests() > *before);
        eventually("traffic is there", seconds(u64::from(TTL) + 1), moved).await;
        tokio::time::sleep(milliseconds(300)).await; // requests that were under way
        let rest: Vec<usize> = left.iter().map(|backend| backend.requests()).collect();
        tokio::time::sleep(milliseconds(500)).await;
        assert_eq!(
            rest,
            left.iter().map(|backend| backend.requests()).collect::<Vec<_>>(),
            "after {:?}",
            changed.elapsed()
        );
    }
    load.stop().await.all(200);
    assert!(gateway.said().contains("2 instances now; new: 127.0.0.2"), "{}", gateway.said());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dns_server_that_is_dead_or_forgetful_changes_nothing() {
    let [one] = neighbours().await;
    let dns = Dns::start(1).await;
    dns.says(NAME, &["127.0.0.1"]);
    let gateway = Gateway::start(&by_name(&dns, one.address.port())).await;
    let load = Load::get(gateway.address, "/", "").start(4);
    for (mood, says) in [
        (Mood::Silent, "does not resolve"),
        (Mood::Fails, "does not resolve"),
        (Mood::KnowsNothing, "there is no such name"),
    ] {
        dns.is(mood);
        let problem = async || service(&gateway).await["sources"][0]["problem"].to_string();
        eventually("it is shown", seconds(10), async || problem().await.contains(says)).await;
        assert!(has(&gateway, &[one.address]).await);
        let degraded = gateway.admin_get("/health").await.json()["degraded"][0].to_string();
        assert!(degraded.contains(NAME) && degraded.contains("its last list stays, 1 instance"), "{degraded}");
        let before = gateway.said().matches("its last list stays").count();
        tokio::time::sleep(seconds(3)).await;
        assert_eq!(gateway.said().matches("its last list stays").count(), before, "said once");
        dns.is(Mood::Answers);
        eventually("all is well again", seconds(40), async || problem().await == "null").await;
    }
    load.stop().await.all(200);
    assert_eq!(gateway.admin_get("/health").await.json()["status"], "ok");
}

#[tokio::test]
async fn a_start_goes_on_without_dns_and_finds_its_instances_later() {
    let [one] = neighbours().await;
    let dns = Dns::start(1).await;
    dns.is(Mood::Fails);
    let config = by_name(&dns, one.address.port());
    let gateway = Gateway::start(&config).await;
    assert_eq!(gateway.get("/").await.refused(), (503, "no_instance".into()));
    assert_eq!(gateway.admin_get("/health").await.json()["status"], "degraded");
    dns.says(NAME, &["127.0.0.1"]);
    dns.is(Mood::Answers);
    eventually("it is found", seconds(10), async || gateway.get("/").await.status == 200).await;

    // A name among `instances` is a different matter, and so is a check with --connect.
    dns.is(Mood::KnowsNothing);
    let named = Config::new()
        .section(&format!("{}\nservices:\n  service: [\"{NAME}:80\"]", dns.section()))
        .route("/*", "to: service, keys: none");
    let refused = gateway.try_reload(&named).await;
    assert_eq!(refused.status, 422);
    assert!(
        refused.text().contains("services.service") && refused.text().contains("there is no such name"),
        "{}",
        refused.text()
    );
    gateway.write(&config);
    let checked = gateway.folder.tollgate(&["check", "-c", "tollgate.yaml"]);
    assert!(
        checked.code == Some(0) && checked.stdout.contains("does not resolve"),
        "{}{}",
        checked.stdout,
        checked.stderr
    );
    let checked = gateway.folder.tollgate(&["check", "-c", "tollgate.yaml", "--connect"]);
    let said = checked.stdout.clone() + &checked.stderr;
    assert_eq!((checked.code, said.matches("does not resolve").count()), (Some(1), 1), "{said}");
    let line = said.lines().find(|line| line.contains("does not resolve")).unwrap();
    assert!(line.starts_with("tollgate.yaml:") && line.contains(" services.service.discover.dns: "), "{line}");
}

#[tokio::test]
async fn names_among_instances_follow_dns_as_well_and_keep_their_weight() {
    let [one, two] = neighbours().await;
    let dns = Dns::start(1).await;
    dns.says(NAME, &["127.0.0.1"]);
    let port = one.address.port();
    let config = Config::new()
        .section(&format!(
            "{}\nservices:\n  service: {{instances: [{{address: \"{NAME}:{port}\", weight: 7}}]}}",
            dns.section()
        ))
        .route("/*", "to: service, keys: none");
    let gateway = Gateway::start(&config).await;
    assert_eq!(gateway.get("/").await.instance(), "1");
    dns.says(NAME, &["127.0.0.2"]);
    eventually("it moved", seconds(3), async || gateway.get("/").await.instance() == "2").await;
    let service = service(&gateway).await;
    assert_eq!(
        (&service["instances"][0]["address"], &service["instances"][0]["weight"]),
        (&json!(two.address), &json!(7))
    );
    // A reload loses nothing, and asks nobody it knows.
    dns.is(Mood::KnowsNothing);
    gateway.reload(&config.route("/other", "to: service, keys: none")).await;
    assert_eq!(gateway.get("/").await.instance(), "2");
}

#[tokio::test]
async fn the_ttl_is_respected() {
    let [one] = neighbours().await;
    let dns = Dns::start(600).await;
    dns.says(NAME, &["127.0.0.1"]);
    let gateway = Gateway::start(&by_name(&dns, one.address.port())).await;
    let asked = dns.questions();
    assert!(asked >= 1);
    tokio::time::sleep(seconds(4)).await;
    assert_eq!(dns.questions(), asked);
    assert_eq!(gateway.get("/").await.status, 200);
    // A reload asks at once.
    gateway.admin_post("/admin/reload").await;
    eventually("it asks", seconds(5), async || dns.questions() > asked).await;
}

#[tokio::test]
async fn a_ttl_of_nothing_does_not_flood_the_server() {
    let [one] = neighbours().await;
    let dns = Dns::start(0).await;
    dns.says(NAME, &["127.0.0.1"]);
    let _gateway = Gateway::start(&by_name(&dns, one.address.port())).await;
    let (before, begun) = (dns.questions(), Instant::now());
    tokio::time::sleep(seconds(4)).await;
    let asked = dns.questions() - before;
    let seconds = begun.elapsed().as_secs() as usize;
    assert!((2..=2 * (seconds + 1)).contains(&asked), "{asked} questions in {seconds} s, an A and an AAAA each");
}

#[tokio::test]
async fn srv_records_have_ports_weights_and_priorities() {
    let backends = [Backend::named("heavy").await, Backend::named("light").await, Backend::named("backup").await];
    let [heavy, light, backup] = backends;
    let port = |backend: &Backend| backend.address.port();
    let dns = Dns::start(1).await;
    dns.says("a.internal", &["127.0.0.1"]);
    let srv = "_http._tcp.users.internal";
    let of_both = [
        (10, 3, port(&heavy), "a.internal"),
        (10, 1, port(&light), "a.internal"),
        (20, 5, port(&backup), "a.internal"),
    ];
    dns.says_targets(srv, &of_both);
    let gateway = Gateway::start(&finds(&format!("srv: {srv}")).section(&dns.section())).await;
    for _ in 0..40 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    assert_eq!((heavy.requests(), light.requests(), backup.requests()), (30, 10, 0));
    dns.says_targets(srv, &of_both[2..]);
    eventually("the backup is all there is", seconds(3), async || gateway.get("/").await.instance() == "backup").await;
    assert!(has(&gateway, &[backup.address]).await);
    dns.says_targets(srv, &[]);
    eventually("an empty answer is a problem", seconds(5), async || {
        service(&gateway).await["sources"][0]["problem"].is_string()
    })
    .await;
    assert_eq!(gateway.get("/").await.instance(), "backup");
}

// Files.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_changes_moves_traffic_and_a_bad_one_changes_nothing() {
    let (one, two) = (Backend::named("one").await, Backend::named("two").await);
    let folder = Folder::new();
    let replace = |folder: &Folder, text: &str| {
        let next = folder.file("next.yaml", text);
        std::fs::rename(next, folder.path().join("users.yaml")).expect("the file");
    };
    replace(&folder, &format!("- {}\n", one.address));
    let gateway = Gateway::start_in(folder, &finds("file: users.yaml")).await;
    let load = Load::get(gateway.address, "/", "").start(4);
    assert_eq!(gateway.get("/").await.instance(), "one");
    replace(&gateway.folder, &json!([{"address": two.address, "weight": 3}]).to_string());
    eventually("it moved", seconds(3), async || gateway.get("/").await.instance() == "two").await;
    assert_eq!(service(&gateway).await["instances"][0]["weight"], 3);
    for bad in ["- 127.0.0.1\n", "[users.internal:80]", "", "{"] {
        replace(&gateway.folder, bad);
        let problem = async || service(&gateway).await["sources"][0]["problem"].to_string();
        eventually("it is shown", seconds(4), async || problem().await.contains("users.yaml")).await;
        assert_eq!(gateway.get("/").await.instance(), "two");
        replace(&gateway.folder, &json!([{"address": two.address, "weight": 3}]).to_string());
        eventually("all is well again", seconds(4), async || problem().await == "null").await;
    }
    std::fs::remove_file(gateway.path("users.yaml")).expect("removed");
    gateway.says("that it is gone", |said| said.contains("users.yaml: can't be read")).await;
    assert_eq!(gateway.get("/").await.instance(), "two");
    load.stop().await.all(200);

    let (gone, mut again) = (Folder::new(), gateway);
    let checked =
        gone.file("tollgate.yaml", &finds("file: users.yaml").write(again.address, again.second, again.admin));
    let checked = gone.tollgate(&["check", "-c", &checked.display().to_string()]);
    assert!(
        checked.code == Some(1) && checked.stderr.contains("discover.file"),
        "a start needs it: {}",
        checked.stderr
    );
    again.signal(crate::harness::Signal::SIGTERM);
    again.wait_exit(seconds(5)).await;
}

// Registration.

#[tokio::test]
async fn an_instance_registers_renews_and_leaves_when_it_is_silent() {
    let (one, two) = (Backend::named("one").await, Backend::named("two").await);
    let gateway = Gateway::start(&finds("registration: true")).await;
    assert_eq!(gateway.get("/").await.refused(), (503, "no_instance".into()));
    let answer = register(&gateway, one.address, r#"{"weight": 2, "ttl": "2s"}"#).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(
        answer.json(),
        json!({"service": "service", "address": one.address, "weight": 2, "backup": false, "ttl": "2s"})
    );
    assert_eq!(register(&gateway, two.address, "").await.status, 201);
    assert_eq!(gateway.get("/").await.status, 200);
    let begun = Instant::now();
    while begun.elapsed() < seconds(4) {
        assert_eq!(register(&gateway, one.address, r#"{"weight": 2, "ttl": "2s"}"#).await.status, 200);
        assert_eq!(gateway.get("/").await.status, 200);
        tokio::time::sleep(milliseconds(300)).await;
    }
    let silent = Instant::now();
    eventually("it leaves", seconds(4), async || has(&gateway, &[two.address]).await).await;
    assert!(silent.elapsed() > seconds(1), "{:?}", silent.elapsed());
    assert!(gateway.said().contains("did not renew its registration within 2s"));
    assert_eq!(change(&gateway, Method::DELETE, two.address, "", "").await.status, 200);
    assert_eq!(gateway.get("/").await.refused(), (503, "no_instance".into()));
}

#[tokio::test]
async fn what_is_wrong_with_a_registration_is_said() {
    let one = Backend::start().await;
    let config = Config::open(&one);
    let gateway = Gateway::start(&config).await;
    let refused = async |method: Method, path: &str, body: &str| {
        let answer = gateway.admin_ask(method, &format!("/admin/services/{path}")).body(body.to_owned()).await;
        (answer.status, answer.json()["reason"].as_str().unwrap_or_default().to_owned())
    };
    let one = one.address;
    for (method, path, body, status, reason) in [
        (Method::PUT, format!("service/instances/{one}"), "", 409, "no_registration"),
        (Method::PUT, format!("nobody/instances/{one}"), "", 404, "no_service"),
        (Method::PUT, "service/instances/localhost:80".into(), "", 400, "bad_request"),
        (Method::PUT, "service/instances/127.0.0.1:0".into(), "", 400, "bad_request"),
        (Method::PUT, format!("service/instances/{one}"), r#"{"weight": 0}"#, 400, "bad_request"),
        (Method::PUT, format!("service/instances/{one}"), r#"{"ttl": "0s"}"#, 400, "bad_request"),
        (Method::PUT, format!("service/instances/{one}"), r#"{"tll": "5s"}"#, 400, "bad_request"),
        (Method::DELETE, format!("service/instances/{one}"), "", 409, "not_registered"),
        (Method::DELETE, "service/instances/127.0.0.1:9".into(), "", 404, "no_instance"),
        (Method::POST, "service/instances/127.0.0.1:9/drain".into(), "", 404, "no_instance"),
    ] {
        let (found, why) = refused(method.clone(), &path, body).await;
        assert_eq!((found, why.as_str()), (status, reason), "{method} {path} {body}");
    }
}

#[tokio::test]
async fn registrations_and_drains_outlive_a_restart_and_a_reload() {
    let (one, two) = (Backend::named("one").await, Backend::named("two").await);
    let config = finds("registration: true").log("sqlite:log.db");
    let mut gateway = Gateway::start(&config).await;
    register(&gateway, one.address, r#"{"ttl": "3s"}"#).await;
    register(&gateway, two.address, r#"{"ttl": "1h"}"#).await;
    assert_eq!(change(&gateway, Method::POST, two.address, "/drain", "").await.status, 200);
    gateway.reload(&config.clone().route("/more", "to: service, keys: none")).await;
    let state = async |gateway: &Gateway, backend: &Backend| {
        let all = instances(gateway).await;
        all.into_iter().find(|(address, _)| *address == backend.address.to_string()).map(|(_, state)| state)
    };
    assert_eq!(state(&gateway, &two).await.as_deref(), Some("draining"));
    gateway.signal(crate::harness::Signal::SIGKILL);
    gateway.wait_exit(seconds(5)).await;
    tokio::time::sleep(seconds(3)).await;
    let gateway = gateway.again(&config).await;
    // Its time was over while nobody could be told: it has the whole of it once more.
    assert_eq!(gateway.get("/").await.instance(), "one");
    assert_eq!(state(&gateway, &two).await.as_deref(), Some("draining"));
    eventually("it leaves", seconds(5), async || state(&gateway, &one).await.is_none()).await;
    assert_eq!(change(&gateway, Method::POST, two.address, "/undrain", "").await.json()["state"], "unchecked");
    assert_eq!(gateway.get("/").await.instance(), "two");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_hundred_registrations_under_load_forget_nothing_of_the_others() {
    let one = Backend::named("one").await;
    let gateway = Gateway::start(&finds("registration: true").log("sqlite:log.db")).await;
    assert_eq!(register(&gateway, one.address, r#"{"ttl": "1h"}"#).await.status, 201);
    let load = Load::get(gateway.address, "/", "").start(2);
    eventually("it has a history", seconds(10), async || one.requests() > 50).await;
    let since = service(&gateway).await["instances"][0]["since"].clone();
    // Backups: nobody is there, so nobody may be asked.
    for number in 0..300_u16 {
        let address = SocketAddr::from(([127, 1, (number >> 8) as u8, number as u8], 9));
        assert_eq!(register(&gateway, address, r#"{"ttl": "1h", "backup": true}"#).await.status, 201);
    }
    let service = service(&gateway).await;
    assert_eq!(service["instances"].as_array().map(Vec::len), Some(301));
    let first = &service["instances"][0];
    assert_eq!((&first["address"], &first["since"]), (&json!(one.address), &since));
    assert!(first["requests"].as_u64() > Some(50), "{first}");
    load.stop().await.all(200);
}
