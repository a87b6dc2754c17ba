//! How instances are spoken to besides plain HTTP/1.1: HTTP/2 with and without TLS, with a certificate of the gateway's own,
//! through a Unix socket; and how many connections that takes.

use std::sync::Arc;

use bytes::Bytes;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::harness::{
    Authority, Backend, Config, Folder, Gateway, Http2Backend, Http2Reply, burst, eventually, seconds,
};

fn h2c(backend: &Http2Backend) -> Config {
    Config::new()
        .service_with("service", &[backend.address], "http2: true, timeouts: {response: 1s, between_bytes: 1s}")
        .route("/*", "to: service, keys: none")
}

/// A server of this name that speaks these protocols, and wants a certificate of `clients` where there is one.
fn acceptor(authority: &Authority, protocols: &[&str], clients: Option<&Authority>) -> TlsAcceptor {
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        Some(believed) => {
            let mut roots = RootCertStore::empty();
            roots.add(believed.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(vec![authority.der().clone()], authority.key_der()).unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test]
async fn an_instance_is_spoken_to_in_http2_without_tls() {
    let backend = Http2Backend::start(None).await;
    let gateway = Gateway::start(&h2c(&backend).log("sqlite:log.db")).await;
    assert_eq!(gateway.get("/one?two").header("X-One", "1").await.text(), "/one");
    assert_eq!(gateway.post("/post").body("sent").await.text(), "/post");
    let seen = backend.seen();
    assert_eq!(seen[0].uri.path_and_query().unwrap(), "/one?two");
    assert_eq!(seen[0].uri.authority().unwrap().as_str(), gateway.address.to_string());
    assert_eq!((&seen[0].headers["x-one"], seen[0].headers.contains_key("host")), (&"1".parse().unwrap(), false));
    assert_eq!((seen[1].method.as_str(), &seen[1].body[..]), ("POST", &b"sent"[..]));
    let tally = burst(gateway.address, 50, "GET /many HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(tally.of(200), 50);
    // Two threads may each have begun one at the same time, again and again; but never one a request.
    assert!(backend.connections() <= 20, "{} connections", backend.connections());
    let metrics = gateway.metrics().await;
    let count = |how| metrics.sum("tollgate_upstream_connections_total", &[("connection", how)]);
    assert_eq!((count("new") + count("reused"), count("new")), (52.0, backend.connections() as f64));
}

#[tokio::test]
async fn trailers_of_an_http2_instance_reach_an_http2_client() {
    let backend = Http2Backend::start(None).await;
    let a = Authority::of("a.test");
    let folder = Folder::new();
    a.write(&folder);
    let listen = format!("[{{address: \"{{main}}\", tls: [{}]}}]", a.entry());
    let gateway = Gateway::start_in(folder, &h2c(&backend).listen(&listen)).await;
    let stream = a.connect(gateway.address, &["h2"]).await.expect("TLS");
    let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    tokio::spawn(connection);
    let mut client = client.ready().await.expect("ready");
    let request = http::Request::post("https://a.test/pkg.Service/Method").header("te", "trailers");
    let request = request.header("content-type", "application/grpc").body(()).expect("a request");
    let (answer, mut body) = client.send_request(request, false).expect("sent");
    body.send_data(Bytes::from_static(b"\0\0\0\0\0"), true).expect("sent");
    let mut answer = answer.await.expect("an answer").into_body();
    while let Some(piece) = answer.data().await {
        piece.expect("a piece");
    }
    let trailers = answer.trailers().await.expect("trailers").expect("trailers");
    assert_eq!(trailers["grpc-status"], "0");
    assert_eq!(backend.seen()[0].headers["te"], "trailers");
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_whatever_its_method() {
    let backend = Http2Backend::scripted(None, |number, _| match number {
        1 => Http2Reply::Refuse,
        _ => Http2Reply::Answer,
    })
    .await;
    let gateway = Gateway::start(&h2c(&backend)).await;
    assert_eq!(gateway.post("/once").body("sent").await.text(), "/once");
    assert_eq!(backend.seen().len(), 2);
}

#[tokio::test]
async fn an_http2_stream_that_breaks_or_hangs_is_told_as_such() {
    let backend = Http2Backend::scripted(None, |_, path| match path {
        "/break" => Http2Reply::Break,
        "/hang" => Http2Reply::Hang,
        _ => Http2Reply::Answer,
    })
    .await;
    let gateway = Gateway::start(&h2c(&backend).log("sqlite:log.db")).await;
    assert_eq!(gateway.get("/hang").await.refused(), (504, "upstream_timeout".into()));
    let mut wire = gateway.wire().await;
    wire.send("GET /break HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(wire.try_answer("GET").await.is_err(), "half an answer is not presented as a whole one");
    assert_eq!(gateway.get("/fine").await.status, 200);
    gateway.log_written().await;
    let reasons = gateway.sqlite_texts("SELECT decided_by FROM api_logs ORDER BY path");
    assert_eq!(reasons, ["upstream_closed", "upstream", "upstream_timeout"]);
}

#[tokio::test]
async fn over_tls_the_instance_chooses_between_http2_and_http1() {
    let a = Authority::of("a.test");
    let (modern, old) = (Http2Backend::start(Some(acceptor(&a, &["h2"], None))).await, Backend::start().await);
    let folder = Folder::new();
    a.write(&folder);
    // An instance that speaks HTTP/1.1 only: another gateway without HTTP/2.
    let listen = format!("[{{address: \"{{main}}\", tls: [{}], http2: false}}]", a.entry());
    let inner = Gateway::start_in(folder, &Config::open(&old).listen(&listen)).await;
    let tls = "http2: true, tls: {sni: a.test, ca: a.test.pem}";
    let config = Config::new()
        .service_with("modern", &[modern.address], tls)
        .service_with("old", &[inner.address], tls)
        .route("/modern", "to: modern, keys: none")
        .route("/old", "to: old, keys: none");
    let folder = Folder::new();
    a.write(&folder);
    let gateway = Gateway::start_in(folder, &config).await;
    assert_eq!(gateway.get("/modern").await.text(), "/modern");
    assert_eq!(modern.seen()[0].uri.scheme_str(), Some("https"));
    for _ in 0..3 {
        assert_eq!(gateway.get("/old").await.text(), "/old");
    }
}

#[tokio::test]
async fn an_upgrade_goes_to_an_http2_service_in_http1() {
    let backend = Backend::scripted(|_| crate::harness::Reply::Tunnel).await;
    let config =
        Config::new().service_with("service", &[backend.address], "http2: true").route("/*", "to: service, keys: none");
    let gateway = Gateway::start(&config).await;
    let mut wire = gateway.wire().await;
    wire.send(
        "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    .await;
    assert_eq!(wire.answer().await.status, 101);
}

#[tokio::test]
async fn an_instance_that_asks_who_connects_is_shown_the_certificate_that_is_in_force() {
    let (server, client, stranger) = (Authority::of("a.test"), Authority::of("me.test"), Authority::of("other.test"));
    let backend = Http2Backend::start(Some(acceptor(&server, &["h2"], Some(&client)))).await;
    let folder = Folder::new();
    for authority in [&server, &client, &stranger] {
        authority.write(&folder);
    }
    let config = |own: &str| {
        Config::new()
            .service_with(
                "service",
                &[backend.address],
                &format!("http2: true, tls: {{sni: a.test, ca: a.test.pem{own}}}"),
            )
            .route("/*", "to: service, keys: none")
    };
    let with = |name: &str| config(&format!(", cert: {name}.pem, key: {name}.key"));
    let gateway = Gateway::start_in(folder, &with("me.test")).await;
    assert_eq!(gateway.get("/mine").await.text(), "/mine");
    for (config, what) in [(config(""), "none"), (with("other.test"), "a stranger's")] {
        gateway.reload(&config).await;
        assert_eq!(gateway.get("/mine").await.status, 502, "{what}");
    }
    // The same path, another file: read again at every reload.
    for (pem, key) in [("me.test.pem", "other.test.pem"), ("me.test.key", "other.test.key")] {
        std::fs::copy(gateway.path(pem), gateway.path(key)).unwrap();
    }
    gateway.reload(&with("other.test")).await;
    assert_eq!(gateway.get("/mine").await.text(), "/mine");
    // One that does not belong to its key changes nothing.
    std::fs::copy(gateway.path("a.test.key"), gateway.path("other.test.key")).unwrap();
    let refused = gateway.try_reload(&with("other.test")).await;
    assert_eq!(refused.status, 422, "{}", refused.text());
    assert!(refused.text().contains("services.service.tls.key"), "{}", refused.text());
    assert_eq!(gateway.get("/mine").await.text(), "/mine");
}

#[tokio::test]
async fn an_instance_is_reached_through_a_unix_socket() {
    let folder = Folder::new();
    let backend = Backend::start().await;
    let socket = folder.path().join("users.sock");
    let relay = backend.through_unix(&socket);
    let config = Config::new()
        .service_at("service", &["unix:users.sock"], "health: {path: /health, every: 100ms}")
        .route("/*", "to: service, keys: none")
        .log("sqlite:log.db");
    let gateway = Gateway::start_in(folder, &config).await;
    assert_eq!(gateway.get("/through").await.text(), "/through");
    let label = format!("unix:{}", socket.display());
    eventually("checked", seconds(5), async || {
        let services = gateway.admin_get("/admin/services").await.json();
        let instance = &services["services"][0]["instances"][0];
        instance["address"] == label && instance["last_check"]["problem"].is_null() && instance["state"] == "up"
    })
    .await;
    gateway.log_written().await;
    assert_eq!(gateway.sqlite_texts("SELECT DISTINCT instance FROM api_logs"), [label]);
    relay.abort();
    std::fs::remove_file(&socket).unwrap();
    eventually("down", seconds(5), async || gateway.get("/through").await.status >= 502).await;
}

#[tokio::test]
async fn an_http2_instance_is_checked_in_http2() {
    let backend = Http2Backend::start(None).await;
    let config = Config::new()
        .service_with("service", &[backend.address], "http2: true, health: {path: /health, every: 100ms, host: h.test}")
        .route("/*", "to: service, keys: none");
    let gateway = Gateway::start(&config).await;
    eventually("checked", seconds(5), async || backend.seen().len() > 3).await;
    let seen = backend.seen();
    assert_eq!((seen[0].uri.path(), seen[0].uri.authority().unwrap().as_str()), ("/health", "h.test"));
    let services = gateway.admin_get("/admin/services").await.json();
    assert_eq!(services["services"][0]["instances"][0]["state"], "up", "{services}");
}
