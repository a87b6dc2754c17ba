//! Many callers, many at once: crowds of addresses, values of headers, and requests in flight.

use std::fmt::Write as _;

use crate::harness::{Backend, Config, Gateway, Reply, eventually, milliseconds, seconds};

/// Sends requests from many addresses through a proxy; how many were admitted.
async fn crowd(gateway: &Gateway, addresses: u32) -> usize {
    let mut wires = Vec::new();
    for _ in 0..4 {
        wires.push(gateway.wire().await);
    }
    let mut admitted = 0;
    for begin in (0..addresses).step_by(wires.len()) {
        for (at, wire) in (begin..).zip(&mut wires) {
            let mut lines = String::new();
            let [a, b, c] = [at >> 16 & 255, at >> 8 & 255, at & 255];
            let _ = write!(lines, "X-Forwarded-For: 11.{a}.{b}.{c}\r\n");
            admitted += usize::from(wire.get("/limited", &lines).await.status == 200);
        }
    }
    admitted
}

fn limited(backend: &Backend, sections: &str) -> Config {
    Config::open(backend).route("/limited", "to: service, keys: none, limit: 5/min per ip").section(sections)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_that_an_untrusted_peer_makes_up_are_one_client() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&limited(&backend, "")).await;
    assert_eq!(crowd(&gateway, 2_000).await, 5);
    assert_eq!(gateway.metrics().await.sum("tollgate_limit_entries", &[]), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_behind_a_trusted_proxy_are_clients_of_their_own() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&limited(&backend, "trusted_proxies: [127.0.0.0/8]")).await;
    assert_eq!(crowd(&gateway, 2_000).await, 2_000);
    let metrics = gateway.metrics().await;
    // That the table is bounded, and what happens when it is full, is proved beside it with a million and more.
    assert_eq!(metrics.sum("tollgate_limit_entries", &[]), 2_000.0);
    assert_eq!(metrics.sum("tollgate_limit_overflow_total", &[]), 0.0);
}

#[tokio::test]
async fn each_value_of_a_header_counts_by_itself_and_without_it_the_address() {
    let backend = Backend::start().await;
    let config =
        Config::open(&backend).route("/tenants", "to: service, keys: none, limit: {rate: 2/min, header: X-Tenant}");
    let gateway = Gateway::start(&config).await;
    for (tenant, statuses) in [("a", [200, 200, 429]), ("b", [200, 200, 429]), ("", [200, 200, 429])] {
        for status in statuses {
            let ask = gateway.get("/tenants");
            let ask = if tenant.is_empty() { ask } else { ask.header("X-Tenant", tenant) };
            assert_eq!(ask.await.status, status, "{tenant}");
        }
    }
    let long = gateway.get("/tenants").header("X-Tenant", &"x".repeat(8_000)).await;
    assert_eq!(long.header("ratelimit-policy"), Some("\"x-tenant-60s\";q=2;w=60"));
}

fn at_once(backend: &Backend) -> Config {
    Config::open(backend).route("/slow", "to: service, keys: none, concurrency: 2 per ip, limit: 100/min per ip")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_than_so_many_are_served_at_once_and_places_come_back() {
    let backend = Backend::scripted(|_| Reply::ok("late").after(milliseconds(800))).await;
    let gateway = Gateway::start(&at_once(&backend).log("sqlite:log.db")).await;
    let asks = futures::future::join_all((0..6).map(|_| async { gateway.get("/slow").await })).await;
    assert_eq!(asks.iter().filter(|answer| answer.status == 200).count(), 2);
    let refused = asks.iter().find(|answer| answer.status != 200).unwrap();
    assert_eq!(refused.refused(), (429, "concurrency_limited".into()));
    assert_eq!(refused.header("retry-after"), Some("1"));
    let answer = gateway.get("/slow").await;
    assert_eq!(answer.status, 200);
    assert!(answer.header("ratelimit").unwrap().contains("r=97;"), "who is turned away uses up no limit: {answer:?}");
    let metrics = gateway.log_written().await;
    assert_eq!(metrics.sum("tollgate_limit_results_total", &[("limit", "concurrency"), ("result", "refused")]), 4.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_and_a_tunnel_that_ends_give_their_places_back() {
    let backend = Backend::scripted(|seen| match seen.header("upgrade") {
        Some(_) => {
            // A 101 that comes before Pingora has handed on the end of the request ends the tunnel: see "Traps of Pingora".
            std::thread::sleep(milliseconds(100));
            Reply::Tunnel
        }
        None => Reply::ok("late").after(seconds(2)),
    })
    .await;
    let gateway = Gateway::start(&at_once(&backend)).await;
    const HANDSHAKE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let (mut one, mut other) = (gateway.wire().await, gateway.wire().await);
    assert_eq!(one.get("/slow", HANDSHAKE).await.status, 101);
    other.send("GET /slow HTTP/1.1\r\nHost: h\r\n\r\n").await;
    eventually("both are in flight", seconds(5), async || backend.requests() == 2).await;
    assert_eq!(gateway.get("/slow").await.refused(), (429, "concurrency_limited".into()));
    drop(other); // the client leaves while its answer is awaited
    eventually("its place is free", seconds(5), async || gateway.get("/slow").await.status == 200).await;
    drop(one); // the tunnel ends
    eventually("both places are free", seconds(8), async || {
        let asks = futures::future::join_all((0..2).map(|_| async { gateway.get("/slow").await.status })).await;
        asks == [200, 200]
    })
    .await;
}
