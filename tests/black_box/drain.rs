//! Instances that get no new requests while those under way finish; and the end of the process under answers that take long.

use std::time::Instant;

use reqwest::Method;
use serde_json::Value;

use crate::harness::{
    Answer, Authority, Backend, Config, Folder, Gateway, Load, Reply, Signal, Wire, eventually, milliseconds, seconds,
};

const HANDSHAKE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// An answer of so many pieces of 1 kB, one each 100 ms.
fn download(pieces: usize) -> Reply {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", pieces * 1_000);
    let body = (0..pieces).map(|_| (milliseconds(100), vec![b'x'; 1_000]));
    Reply::Pieces([(milliseconds(0), head.into_bytes())].into_iter().chain(body).collect())
}

/// Downloads, tunnels and quick answers, by path.
async fn backend(name: &'static str) -> Backend {
    Backend::scripted(move |seen| match seen.target.as_str() {
        "/download" => download(20),
        "/tunnel" => Reply::Tunnel,
        _ => Reply::ok("").with("X-Instance", name),
    })
    .await
}

fn two(one: &Backend, two: &Backend, fields: &str) -> Config {
    Config::new().service_with("service", &[one.address, two.address], fields).route("/*", "to: service, keys: none")
}

async fn drain(gateway: &Gateway, backend: &Backend, step: &str) -> Answer {
    let path = format!("/admin/services/service/instances/{}/{step}", backend.address);
    gateway.admin_ask(Method::POST, &path).await
}

async fn instance(gateway: &Gateway, backend: &Backend) -> Value {
    let services = gateway.admin_get("/admin/services").await.json();
    let all = services["services"][0]["instances"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|one| one["address"] == backend.address.to_string()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_instance_finishes_what_it_has_and_gets_nothing_new() {
    let (one, other) = (backend("one").await, backend("two").await);
    let gateway = Gateway::start(&two(&one, &other, "").log("sqlite:log.db")).await;
    let mut wires = [gateway.wire().await, gateway.wire().await];
    for wire in &mut wires {
        wire.send("GET /download HTTP/1.1\r\nHost: a\r\n\r\n").await;
    }
    eventually("both download", seconds(5), async || one.requests() == 1 && other.requests() == 1).await;
    let answer = drain(&gateway, &one, "drain").await.json();
    assert_eq!((&answer["state"], answer["in_flight"].as_u64()), (&Value::from("draining"), Some(1)), "{answer}");
    assert_eq!((&answer["service_usable"], &answer["warning"]), (&Value::from(true), &Value::Null));
    let load = Load::get(gateway.address, "/", "").run(4, 200).await;
    load.all(200);
    assert_eq!(one.requests(), 1);
    let seen = instance(&gateway, &one).await;
    assert_eq!((&seen["state"], &seen["in_flight"]), (&Value::from("draining"), &Value::from(1)), "{seen}");
    assert!(seen["why"].to_string().contains("admin API"));
    for wire in &mut wires {
        assert_eq!(wire.answer().await.body.len(), 20_000);
    }
    let metrics = gateway.metrics().await;
    let label = one.address.to_string();
    let of = |name: &str, more: &[(&str, &str)]| metrics.sum(name, &[&[("instance", label.as_str())], more].concat());
    assert_eq!(of("tollgate_upstream_up", &[]), 0.0);
    assert_eq!(of("tollgate_upstream_state_changes_total", &[("state", "draining")]), 1.0);

    // A reload does not forget it, one that changes the way to the instance included.
    gateway.reload(&two(&one, &other, "timeouts: {response: 3s}").log("sqlite:log.db")).await;
    Load::get(gateway.address, "/", "").run(2, 50).await.all(200);
    assert_eq!((one.requests(), &instance(&gateway, &one).await["state"]), (1, &Value::from("draining")));
    assert_eq!(drain(&gateway, &one, "undrain").await.json()["state"], "unchecked");
    Load::get(gateway.address, "/", "").run(2, 50).await.all(200);
    assert!(one.requests() > 20);
}

#[tokio::test]
async fn the_last_instance_may_be_drained_and_that_is_said() {
    let one = backend("one").await;
    let gateway = Gateway::start(&Config::open(&one)).await;
    let answer = drain(&gateway, &one, "drain").await.json();
    assert_eq!(answer["service_usable"], false);
    assert!(answer["warning"].to_string().contains("no_instance"), "{answer}");
    assert_eq!(gateway.get("/").await.refused(), (503, "no_instance".into()));
    assert_eq!(gateway.admin_get("/health/services").await.status, 503);
    assert_eq!(drain(&gateway, &one, "undrain").await.json()["service_usable"], true);
    assert_eq!(gateway.get("/").await.status, 200);
}

#[tokio::test]
async fn a_tunnel_at_a_drained_instance_has_a_deadline() {
    let one = backend("one").await;
    let config = Config::new()
        .service_with("service", &[one.address], "timeouts: {drain: 2s}")
        .route("/*", "to: service, keys: none")
        .log("sqlite:log.db");
    let gateway = Gateway::start(&config).await;
    let mut wire = gateway.wire().await;
    assert_eq!(wire.get("/tunnel", HANDSHAKE).await.status, 101);
    drain(&gateway, &one, "drain").await;
    tokio::time::sleep(milliseconds(500)).await;
    // Who changes his mind in time ends nothing.
    drain(&gateway, &one, "undrain").await;
    tokio::time::sleep(seconds(3)).await;
    wire.send("still here").await;
    assert_eq!(wire.bytes(10).await, b"still here");
    let begun = Instant::now();
    drain(&gateway, &one, "drain").await;
    tokio::time::sleep(seconds(1)).await;
    wire.send("and here").await;
    assert_eq!(wire.bytes(8).await, b"and here");
    assert!(wire.closes_within(seconds(4)).await);
    assert!(begun.elapsed() >= seconds(2), "{:?}", begun.elapsed());
    eventually("it is logged", seconds(5), async || gateway.sqlite_number("SELECT COUNT(*) FROM api_logs") == 1).await;
    assert_eq!(gateway.sqlite_texts("SELECT decided_by FROM api_logs"), ["aborted"]);
}

#[tokio::test]
async fn an_instance_that_leaves_is_shown_until_its_last_request_ends() {
    let one = backend("one").await;
    let config = Config::new()
        .section("services:\n  service: {discover: {registration: true}}")
        .route("/*", "to: service, keys: none");
    let gateway = Gateway::start(&config).await;
    let path = format!("/admin/services/service/instances/{}", one.address);
    assert_eq!(gateway.admin_ask(Method::PUT, &path).await.status, 201);
    let mut wire = gateway.wire().await;
    wire.send("GET /download HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("it downloads", seconds(5), async || one.requests() == 1).await;
    let answer = gateway.admin_ask(Method::DELETE, &path).await.json();
    assert_eq!((&answer["state"], &answer["in_flight"]), (&Value::from("draining"), &Value::from(1)), "{answer}");
    assert_eq!(instance(&gateway, &one).await["state"], "draining");
    assert_eq!(gateway.get("/").await.refused(), (503, "no_instance".into()));
    assert_eq!(wire.answer().await.body.len(), 20_000);
    eventually("it is gone", seconds(3), async || instance(&gateway, &one).await.is_null()).await;
}

// The end of the process.

#[tokio::test]
async fn sigterm_lets_a_long_download_finish() {
    let one = backend("one").await;
    let mut gateway = Gateway::start(&Config::open(&one).log("sqlite:log.db")).await;
    let mut wire = gateway.wire().await;
    wire.send("GET /download HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("it downloads", seconds(5), async || one.requests() == 1).await;
    gateway.signal(Signal::SIGTERM);
    assert_eq!(wire.answer().await.body.len(), 20_000);
    assert!(gateway.wait_exit(seconds(3)).await.success());
    assert_eq!(gateway.sqlite_texts("SELECT decided_by FROM api_logs"), ["upstream"]);
}

#[tokio::test]
async fn sigterm_cuts_a_tunnel_when_the_grace_period_is_over() {
    let one = backend("one").await;
    let config = Config::open(&one).section("shutdown: {grace: 2s}").log("sqlite:log.db");
    let mut gateway = Gateway::start(&config).await;
    let mut wire = gateway.wire().await;
    assert_eq!(wire.get("/tunnel", HANDSHAKE).await.status, 101);
    let begun = Instant::now();
    gateway.signal(Signal::SIGTERM);
    tokio::time::sleep(seconds(1)).await;
    wire.send("still here").await;
    assert_eq!(wire.bytes(10).await, b"still here");
    assert!(wire.closes_within(seconds(3)).await);
    gateway.wait_exit(seconds(5)).await;
    assert!(begun.elapsed() >= milliseconds(1_900), "{:?}", begun.elapsed());
    assert_eq!(gateway.sqlite_number("SELECT COUNT(*) FROM api_logs"), 1);
}

#[tokio::test]
async fn sigterm_lets_http2_streams_finish_and_takes_no_more() {
    let one = backend("one").await;
    let (folder, authority) = (Folder::new(), Authority::of("gateway.test"));
    authority.write(&folder);
    let listen = format!("[{{address: \"{{main}}\", tls: [{}]}}]", authority.entry());
    let config = Config::open(&one).listen(&listen).log("sqlite:log.db");
    let mut gateway = Gateway::start_in(folder, &config).await;
    let stream = authority.connect(gateway.address, &["h2"]).await.expect("TLS");
    let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let mut client = client.ready().await.expect("ready");
    let get = |path: &str| http::Request::get(format!("https://gateway.test{path}")).body(()).expect("a request");
    let streams: Vec<_> = (0..3).map(|_| client.send_request(get("/download"), true).expect("sent").0).collect();
    eventually("they download", seconds(5), async || one.requests() == 3).await;
    gateway.signal(Signal::SIGTERM);
    for stream in streams {
        let mut body = stream.await.expect("an answer").into_body();
        let mut bytes = 0;
        while let Some(data) = body.data().await {
            let data = data.expect("the whole of it");
            bytes += data.len();
            body.flow_control().release_capacity(data.len()).expect("room");
        }
        assert_eq!(bytes, 20_000);
    }
    assert!(gateway.wait_exit(seconds(4)).await.success());
    assert!(Wire::try_open(gateway.address).await.is_err());
    let _ = connection.await;
    assert_eq!(gateway.sqlite_texts("SELECT DISTINCT decided_by FROM api_logs"), ["upstream"]);
    assert_eq!(gateway.sqlite_number("SELECT COUNT(*) FROM api_logs"), 3);
}
