//! Bodies in both directions: large, chunked, endless, abandoned. What arrives is what was sent, byte by byte.

use crate::harness::{Authority, Backend, Config, Folder, Gateway, Reply, Signal, eventually, milliseconds, seconds};

fn noise(length: usize) -> Vec<u8> {
    let mut state = 7_u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(length)
    .collect()
}

fn echo(seen: &crate::harness::Seen) -> Reply {
    Reply::Answer { status: 200, headers: Vec::new(), body: seen.body.clone() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_arrive_whole_in_both_directions() {
    let backend = Backend::scripted(echo).await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    for length in [1, 65_535, 65_536, 5_000_000] {
        let body = noise(length);
        assert!(gateway.post("/").body(body.clone()).await.body == body, "{length} bytes");
    }
}

#[tokio::test]
async fn chunked_bodies_arrive_whole_and_their_trailers_do_no_harm() {
    let backend = Backend::scripted(echo).await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    let mut wire = gateway.wire().await;
    for _ in 0..3 {
        wire.send(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4;ext=1\r\ndefg\r\n0\r\n",
        )
        .await;
        wire.send("X-Trailer: 1\r\n\r\n").await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "abcdefg"));
        if answer.header("connection") == Some("close") {
            wire = gateway.wire().await;
        }
    }
    assert_eq!(backend.unreadable(), Vec::<String>::new());
}

#[tokio::test]
async fn an_answer_without_length_is_passed_on_to_its_end() {
    let body = String::from_utf8(noise(100_000).into_iter().map(|byte| b'a' + byte % 26).collect()).unwrap();
    let reply = format!("HTTP/1.1 200 OK\r\n\r\n{body}");
    let backend = Backend::scripted(move |_| Reply::RawThenClose(reply.clone().into_bytes())).await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    assert!(gateway.get("/").await.text() == body);
}

#[tokio::test]
async fn an_answer_with_two_framings_is_not_passed_on_with_both() {
    let backend = Backend::scripted(|_| {
        Reply::RawThenClose(
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
                .to_vec(),
        )
    })
    .await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    let mut wire = gateway.wire().await;
    let answer = wire.get("/", "").await;
    if answer.status == 200 {
        let framings = [answer.header("content-length"), answer.header("transfer-encoding")];
        assert_eq!(framings.iter().flatten().count(), 1, "{answer:?}");
        assert_eq!(answer.text(), "hello");
    } else {
        assert_eq!(answer.status, 502);
    }
}

#[tokio::test]
async fn answers_without_body_leave_the_connections_in_step() {
    let backend = Backend::scripted(|seen| match seen.target.as_str() {
        "/204" => Reply::raw("HTTP/1.1 204 No Content\r\n\r\n"),
        "/304" => Reply::raw("HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\nETag: \"a\"\r\n\r\n"),
        other => Reply::ok(other),
    })
    .await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    let mut wire = gateway.wire().await;
    for _ in 0..3 {
        assert_eq!(wire.get("/204", "").await.status, 204);
        assert_eq!(wire.get("/304", "").await.status, 304);
        assert_eq!(wire.get("/then", "").await.text(), "/then");
    }
}

#[tokio::test]
async fn events_reach_the_client_one_by_one() {
    let event = |number: u32| (milliseconds(300), format!("b\r\ndata: e{number}\n\n\n\r\n").into_bytes());
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut pieces = vec![(milliseconds(0), head.as_bytes().to_vec())];
    pieces.extend((1..=4).map(event));
    pieces.push((milliseconds(0), b"0\r\n\r\n".to_vec()));
    let backend = Backend::scripted(move |_| Reply::Pieces(pieces.clone())).await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    let mut wire = gateway.wire().await;
    let begin = std::time::Instant::now();
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let mut so_far = String::new();
    while !so_far.contains("e1") {
        so_far.push(char::from(wire.bytes(1).await[0]));
    }
    assert!(begin.elapsed() < milliseconds(900), "the first event took {:?}", begin.elapsed());
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_request_at_the_instance() {
    let endless: Vec<_> = (0..1_000).map(|_| (milliseconds(5), vec![b'x'; 10_000])).collect();
    let backend = Backend::scripted(move |_| {
        let mut pieces = vec![(milliseconds(0), b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n".to_vec())];
        pieces.extend(endless.iter().cloned());
        Reply::Pieces(pieces)
    })
    .await;
    let gateway = Gateway::start(&Config::open(&backend).log("sqlite:log.db")).await;
    let mut wire = gateway.wire().await;
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    wire.bytes(50_000).await;
    drop(wire);
    eventually("it is logged", seconds(5), async || gateway.sqlite_number("SELECT COUNT(*) FROM api_logs") == 1).await;
    assert_eq!(gateway.sqlite_texts("SELECT decided_by FROM api_logs"), ["client_closed"]);
    assert!(gateway.sqlite_number("SELECT bytes_out FROM api_logs") < 5_000_000);
}

#[tokio::test]
async fn a_slow_reader_is_cut_and_does_not_hold_the_instance() {
    let backend =
        Backend::scripted(|_| Reply::Answer { status: 200, headers: Vec::new(), body: vec![b'x'; 30 << 20] }).await;
    let config = Config::open(&backend).section("connections: {body_timeout: 1s}").log("sqlite:log.db");
    let gateway = Gateway::start(&config).await;
    let mut wire = gateway.wire().await;
    wire.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("it is cut", seconds(10), async || gateway.sqlite_number("SELECT COUNT(*) FROM api_logs") == 1).await;
}

#[tokio::test]
async fn a_websocket_may_be_silent_longer_than_an_answer() {
    let backend = Backend::scripted(|_| Reply::Tunnel).await;
    let config = Config::new()
        .service_with("service", &[backend.address], "timeouts: {response: 1s, between_bytes: 1s}")
        .route("/*", "to: service, keys: none, timeout: 1s");
    let gateway = Gateway::start(&config).await;
    let mut wire = gateway.wire().await;
    let handshake = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    assert_eq!(wire.get("/", handshake).await.status, 101);
    tokio::time::sleep(seconds(3)).await;
    wire.send("still here").await;
    assert_eq!(wire.bytes(10).await, b"still here");
}

#[tokio::test]
async fn http2_streams_are_independent_and_a_cancelled_one_is_logged() {
    let backend = Backend::scripted(|seen| match seen.target.as_str() {
        "/hangs" => Reply::Hang,
        other => Reply::ok(other),
    })
    .await;
    let (folder, authority) = (Folder::new(), Authority::of("gateway.test"));
    authority.write(&folder);
    let listen = format!("[{{address: \"{{main}}\", tls: [{}]}}]", authority.entry());
    let config = Config::open(&backend).listen(&listen).log("sqlite:log.db");
    let mut gateway = Gateway::start_in(folder, &config).await;
    let stream = authority.connect(gateway.address, &["h2"]).await.expect("TLS");
    let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let mut client = client.ready().await.expect("ready");
    let get = |path: &str| http::Request::get(format!("https://gateway.test{path}")).body(()).expect("a request");
    let (hangs, mut hanging) = client.send_request(get("/hangs"), true).expect("sent");
    eventually("one stream hangs", seconds(5), async || backend.requests() == 1).await;
    for number in 0..5 {
        let (answer, _) = client.send_request(get(&format!("/{number}")), true).expect("sent");
        assert_eq!(answer.await.expect("an answer").status(), 200);
    }
    hanging.send_reset(h2::Reason::CANCEL);
    drop((hangs, hanging));
    eventually("six rows", seconds(10), async || gateway.sqlite_number("SELECT COUNT(*) FROM api_logs") == 6).await;
    let cancelled = gateway.sqlite_texts("SELECT decided_by FROM api_logs WHERE path = '/hangs'");
    assert_eq!(cancelled, ["client_closed"]);

    // An idle HTTP/2 connection is told to go, and does not hold up the end.
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait_exit(seconds(4)).await.success());
    let _ = connection.await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_on_http2_too() {
    let backend = Backend::start().await;
    let (folder, authority) = (Folder::new(), Authority::of("gateway.test"));
    authority.write(&folder);
    let listen = format!("[{{address: \"{{main}}\", tls: [{}]}}]", authority.entry());
    let config = Config::open(&backend).listen(&listen).section("defaults: {body_max: 1kb}");
    let gateway = Gateway::start_in(folder, &config).await;
    let client = authority.client(gateway.address);
    let url = format!("https://gateway.test:{}/", gateway.address.port());
    let answer = client.post(&url).body(vec![b'x'; 2_000]).send().await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 413);
    assert_eq!(client.post(&url).body(vec![b'x'; 1_024]).send().await.expect("an answer").status().as_u16(), 200);
}
