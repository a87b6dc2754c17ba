//! Listeners with certificates: by name, read again at every reload, HTTP/2 where the client offers it.

use reqwest::Version;

use crate::harness::tls::{connect, shown};
use crate::harness::{Authority, Backend, Config, Folder, Gateway, Wire, seconds};

fn listen(authorities: &[&Authority]) -> String {
    let entries: Vec<String> = authorities.iter().map(|authority| authority.entry()).collect();
    format!("[{{address: \"{{main}}\", tls: [{}]}}, {{address: \"{{second}}\", redirect: https}}]", entries.join(", "))
}

fn folder(authorities: &[&Authority]) -> Folder {
    let folder = Folder::new();
    authorities.iter().for_each(|authority| authority.write(&folder));
    folder
}

#[tokio::test]
async fn the_name_the_client_asks_for_decides_the_certificate() {
    let backend = Backend::start().await;
    let (a, b) = (Authority::of("a.test"), Authority::of("b.test"));
    let gateway = Gateway::start_in(folder(&[&a, &b]), &Config::open(&backend).listen(&listen(&[&a, &b]))).await;
    for authority in [&a, &b] {
        let stream = authority.connect(gateway.address, &["http/1.1"]).await.expect("TLS");
        assert_eq!(&shown(&stream), authority.der());
        assert_eq!(Wire::over(stream).get("/", "").await.status, 200);
    }
    assert_eq!(backend.last().header("x-forwarded-proto"), Some("https"));
}

#[tokio::test]
async fn the_first_certificate_is_shown_to_those_who_ask_for_an_unknown_name() {
    let backend = Backend::start().await;
    let (a, b) = (Authority::of("a.test"), Authority::of("b.test"));
    let gateway = Gateway::start_in(folder(&[&a, &b]), &Config::open(&backend).listen(&listen(&[&a, &b]))).await;
    // The client refuses it, because the name is wrong: it is the right certificate only for a.test.
    let error = connect(gateway.address, "c.test", &[&a, &b], &[]).await.expect_err("a wrong name");
    assert!(error.to_string().contains("name"), "{error}");
    assert!(connect(gateway.address, "a.test", &[&a], &[]).await.is_ok());
}

#[tokio::test]
async fn http2_is_spoken_where_the_client_offers_it() {
    let backend = Backend::start().await;
    let a = Authority::of("a.test");
    let gateway =
        Gateway::start_in(folder(&[&a]), &Config::open(&backend).listen(&listen(&[&a])).log("sqlite:log.db")).await;
    let url = format!("https://a.test:{}/things?x=1", gateway.address.port());
    let client = a.client(gateway.address);
    let answers = (0..20).map(|_| client.get(&url).send());
    for answer in futures::future::join_all(answers).await {
        let answer = answer.expect("an answer");
        assert_eq!((answer.status().as_u16(), answer.version()), (200, Version::HTTP_2));
    }
    assert_eq!(backend.last().target, "/things?x=1");
    assert_eq!(backend.last().header("host"), Some(format!("a.test:{}", gateway.address.port()).as_str()));
    let body = client.post(&url).body("upload").send().await.expect("an answer");
    assert_eq!((body.status().as_u16(), backend.last().body.as_slice()), (200, b"upload".as_slice()));
    gateway.log_written().await;
    assert_eq!(gateway.sqlite_texts("SELECT DISTINCT protocol FROM api_logs"), ["HTTP/2"]);
}

#[tokio::test]
async fn http2_refusals_are_problems_too() {
    let backend = Backend::start().await;
    let a = Authority::of("a.test");
    let config = Config::open(&backend).listen(&listen(&[&a])).route("/closed", "to: service");
    let gateway = Gateway::start_in(folder(&[&a]), &config).await;
    let url = format!("https://a.test:{}/closed", gateway.address.port());
    let client = a.client(gateway.address);
    for _ in 0..3 {
        let answer = client.post(&url).body("unread").send().await.expect("an answer");
        assert_eq!((answer.status().as_u16(), answer.version()), (401, Version::HTTP_2));
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
    }
}

#[tokio::test]
async fn http2_can_be_switched_off() {
    let backend = Backend::start().await;
    let a = Authority::of("a.test");
    let listen = format!("[{{address: \"{{main}}\", http2: false, tls: [{}]}}]", a.entry());
    let gateway = Gateway::start_in(folder(&[&a]), &Config::open(&backend).listen(&listen)).await;
    let stream = a.connect(gateway.address, &["h2", "http/1.1"]).await.expect("TLS");
    assert_ne!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
}

#[tokio::test]
async fn a_plain_listener_can_send_everyone_to_https() {
    let backend = Backend::start().await;
    let a = Authority::of("a.test");
    let gateway = Gateway::start_in(folder(&[&a]), &Config::open(&backend).listen(&listen(&[&a]))).await;
    let mut wire = Wire::open(gateway.second).await;
    wire.send("POST /shop/cart?x=1 HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n").await;
    let answer = wire.answer().await;
    assert_eq!(answer.status, 308);
    let location = answer.header("location").expect("a location");
    assert!(location.starts_with("https://a.test") && location.ends_with("/shop/cart?x=1"), "{location}");
    assert_eq!(backend.requests(), 0);
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_after_a_reload_and_a_broken_one_is_not() {
    let backend = Backend::start().await;
    let old = Authority::of("a.test");
    let config = Config::open(&backend).listen(&listen(&[&old]));
    let gateway = Gateway::start_in(folder(&[&old]), &config).await;
    let kept = old.connect(gateway.address, &["http/1.1"]).await.expect("TLS");

    let new = Authority::of("a.test");
    new.write(&gateway.folder);
    gateway.reload(&config).await;
    assert_eq!(&shown(&new.connect(gateway.address, &[]).await.expect("TLS")), new.der());
    assert!(old.connect(gateway.address, &[]).await.is_err());
    assert_eq!(Wire::over(kept).get("/", "").await.status, 200, "open connections stay");

    gateway.folder.file("a.test.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let refused = gateway.try_reload(&config).await;
    assert_eq!(refused.status, 422, "{}", refused.text());
    assert!(refused.json()["problems"].to_string().contains("a.test.pem"), "{}", refused.text());
    assert_eq!(&shown(&new.connect(gateway.address, &[]).await.expect("TLS")), new.der());
}

#[tokio::test]
async fn a_certificate_without_its_key_does_not_start() {
    let (a, b) = (Authority::of("a.test"), Authority::of("b.test"));
    let folder = folder(&[&a, &b]);
    let listen = "[{address: \"{main}\", tls: [{cert: a.test.pem, key: b.test.key}]}]";
    let address = crate::harness::free_address();
    folder.file("tollgate.yaml", &Config::new().listen(listen).write(address, address, crate::harness::free_address()));
    let finished = folder.tollgate(&["check", "-c", "tollgate.yaml"]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    let finished = folder.tollgate(&["run", "-c", "tollgate.yaml"]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("b.test.key") || finished.stderr.contains("a.test.pem"), "{}", finished.stderr);
}

#[tokio::test]
async fn an_instance_can_be_asked_over_tls_and_its_certificate_is_checked() {
    // The gateway is the only TLS server here: one gateway is the instance of another.
    let backend = Backend::start().await;
    let (a, other) = (Authority::of("a.test"), Authority::of("other.test"));
    let inner = Gateway::start_in(folder(&[&a]), &Config::open(&backend).listen(&listen(&[&a]))).await;
    let outer = |ca: &str| {
        Config::new()
            .service_with("inner", &[inner.address], &format!("tls: {{sni: a.test, ca: {ca}}}"))
            .route("/*", "to: inner, keys: none")
    };
    let outside = folder(&[&a, &other]);
    let gateway = Gateway::start_in(outside, &outer("a.test.pem")).await;
    assert_eq!(gateway.get("/through").await.text(), "/through");
    gateway.reload(&outer("other.test.pem")).await;
    assert_eq!(gateway.get("/through").await.refused(), (502, "upstream_connect".into()));
}

#[tokio::test]
async fn a_client_that_never_says_hello_is_cut_and_counted() {
    let backend = Backend::start().await;
    let a = Authority::of("a.test");
    let gateway = Gateway::start_in(folder(&[&a]), &Config::open(&backend).listen(&listen(&[&a]))).await;
    let mut silent = gateway.wire().await;
    let mut plain = gateway.wire().await;
    plain.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
    assert!(plain.closes_within(seconds(3)).await, "plain HTTP on a TLS listener");
    assert!(silent.closes_within(seconds(20)).await, "no handshake");
    assert!(gateway.metrics().await.sum("tollgate_rejected_total", &[]) >= 2.0);
}

#[tokio::test]
async fn an_idle_http2_connection_is_closed_after_its_time() {
    let backend = Backend::start().await;
    let a = Authority::of("a.test");
    let config = Config::open(&backend).listen(&listen(&[&a])).section("connections: {idle_timeout: 1s}");
    let gateway = Gateway::start_in(folder(&[&a]), &config).await;
    let stream = a.connect(gateway.address, &["h2"]).await.expect("TLS");
    let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let mut client = client.ready().await.expect("ready");
    let request = http::Request::get("https://a.test/").body(()).expect("a request");
    let (answer, _) = client.send_request(request, true).expect("sent");
    assert_eq!(answer.await.expect("an answer").status(), 200);
    let ended = tokio::time::timeout(seconds(8), connection).await;
    assert!(ended.is_ok(), "still open");
}
