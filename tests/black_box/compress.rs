//! Answers are compressed on their way: in the coding that the client likes best, only where that may be, and whole or not at all.
//! With a cache on the route: `compress_cache.rs`.

use std::io::Read;

use crate::harness::{
    Answer, Authority, Backend, Config, Folder, Gateway, Http2Backend, Http2Reply, Reply, Wire, seconds,
};

pub const CODINGS: [&str; 3] = ["zstd", "br", "gzip"];

/// 30 kB of JSON that tells paths apart.
pub fn json(path: &str) -> String {
    let rows: Vec<String> =
        (0..600).map(|row| format!("{{\"path\": \"{path}\", \"row\": {row}, \"even\": {}}}", row % 2 == 0)).collect();
    format!("[{}]", rows.join(",\n"))
}

/// A body in this coding as it was before; none where it is not whole.
pub fn decoded(coding: Option<&str>, body: &[u8]) -> Option<String> {
    let mut text = String::new();
    let read = match coding {
        None => return String::from_utf8(body.to_vec()).ok(),
        Some("gzip") => flate2::read::GzDecoder::new(body).read_to_string(&mut text),
        Some("br") => brotli::Decompressor::new(body, 4_096).read_to_string(&mut text),
        Some("zstd") => zstd::Decoder::new(body).ok()?.read_to_string(&mut text),
        Some(other) => panic!("an answer in {other}"),
    };
    read.is_ok().then_some(text)
}

/// The coding of an answer, whose body is decoded on the way.
pub fn text_of(answer: &Answer) -> (Option<&str>, String) {
    let coding = answer.header("content-encoding");
    (coding, decoded(coding, &answer.body).unwrap_or_else(|| panic!("no whole {coding:?}: {answer:?}")))
}

fn compressed(backend: &Backend) -> Config {
    Config::open(backend).route("/zip/*", "to: service, keys: none, compress: [zstd, br, gzip]")
}

async fn with_json() -> Backend {
    Backend::scripted(|seen| {
        Reply::ok(&json(&seen.target))
            .with("Content-Type", "application/json")
            .with("ETag", "\"v1\"")
            .with("Accept-Ranges", "bytes")
            .with("Content-MD5", "x")
            .with("Vary", "Cookie")
    })
    .await
}

#[tokio::test]
async fn each_coding_decodes_to_what_the_instance_sent() {
    let backend = with_json().await;
    let gateway = Gateway::start(&compressed(&backend)).await;
    for coding in CODINGS {
        let answer = gateway.get("/zip/a").header("accept-encoding", coding).await;
        assert_eq!(text_of(&answer), (Some(coding), json("/zip/a")));
        assert!(answer.body.len() < 6_000, "{coding}: {} bytes", answer.body.len());
        assert_eq!((answer.header("etag"), answer.header("vary")), (Some("W/\"v1\""), Some("Cookie, Accept-Encoding")));
        for name in ["content-length", "accept-ranges", "content-md5"] {
            assert_eq!(answer.header(name), None, "{coding}");
        }
        assert_eq!(backend.last().header("accept-encoding"), Some(coding));
    }
    let plain = gateway.get("/zip/a").await;
    assert_eq!(text_of(&plain), (None, json("/zip/a")));
    assert_eq!((plain.header("etag"), plain.header("vary")), (Some("\"v1\""), Some("Cookie, Accept-Encoding")));
    assert!(plain.header("content-length").is_some() && plain.header("content-md5").is_some());
    assert_eq!(backend.last().header("accept-encoding"), Some("identity"));
    // A route that says nothing passes everything on as it came.
    let untouched = gateway.get("/b").header("accept-encoding", "gzip, br;q=0.5").await;
    assert_eq!((text_of(&untouched), untouched.header("vary")), ((None, json("/b")), Some("Cookie")));
    assert_eq!(backend.last().header("accept-encoding"), Some("gzip, br;q=0.5"));
}

#[tokio::test]
async fn the_clients_weights_decide_and_then_the_routes_order() {
    let backend = with_json().await;
    let gateway = Gateway::start(&compressed(&backend)).await;
    for (accepted, coding) in [
        ("gzip, deflate, br, zstd", Some("zstd")),
        ("gzip, br", Some("br")),
        ("gzip, br;q=0.5", Some("gzip")),
        ("*", Some("zstd")),
        ("gzip;q=0, *;q=0.1", Some("zstd")),
        ("gzip;q=0", None),
        ("identity, gzip;q=0.9", None),
        ("*;q=0", None),
        ("deflate", None),
        ("gzip;q=much", None),
    ] {
        let answer = gateway.get("/zip/a").header("accept-encoding", accepted).await;
        assert_eq!(text_of(&answer), (coding, json("/zip/a")), "{accepted}");
    }
    assert_eq!(gateway.said().matches("ccept-").count(), 0, "{}", gateway.said());
}

#[tokio::test]
async fn what_must_not_be_changed_or_does_not_get_smaller_is_left_alone() {
    let backend = Backend::scripted(|seen| {
        let reply = |kind: &str| Reply::ok(&json("")).with("Content-Type", kind);
        match seen.target.as_str() {
            "/zip/no-transform" => reply("text/html").with("Cache-Control", "max-age=60, no-transform"),
            "/zip/small" => Reply::ok("{\"a\": 1}").with("Content-Type", "application/json"),
            "/zip/picture" => reply("image/png"),
            "/zip/events" => reply("text/event-stream"),
            "/zip/encoded" => reply("text/html").with("Content-Encoding", "deflate").with("ETag", "\"v1\""),
            "/zip/part" => {
                Reply::status(206, &json("")).with("Content-Type", "text/html").with("Content-Range", "bytes 0-9/99")
            }
            _ => Reply::status(204, "").with("Content-Type", "text/html"),
        }
    })
    .await;
    let gateway = Gateway::start(&compressed(&backend)).await;
    let ask = async |path: &str| gateway.get(path).header("accept-encoding", "gzip").await;
    for (path, vary) in [
        ("/zip/no-transform", None),
        ("/zip/small", None),
        ("/zip/picture", None),
        ("/zip/events", None),
        ("/zip/part", Some("Accept-Encoding")),
        ("/zip/nothing", None),
    ] {
        let answer = ask(path).await;
        assert_eq!((answer.header("content-encoding"), answer.header("vary")), (None, vary), "{path}");
        assert!([json("").as_str(), "{\"a\": 1}", ""].contains(&answer.text().as_str()), "{path}");
    }
    let encoded = ask("/zip/encoded").await;
    assert_eq!((encoded.header("content-encoding"), encoded.header("etag")), (Some("deflate"), Some("\"v1\"")));
    assert_eq!(encoded.text(), json(""));
    let asked = gateway.get("/zip/x").header("accept-encoding", "gzip").header("cache-control", "no-transform").await;
    assert_eq!((asked.status, backend.last().header("accept-encoding")), (204, Some("identity")));
}

#[tokio::test]
async fn errors_of_the_instance_are_compressed_too() {
    let backend =
        Backend::scripted(|_| Reply::status(404, &json("none")).with("Content-Type", "application/problem+json")).await;
    let gateway = Gateway::start(&compressed(&backend)).await;
    let answer = gateway.get("/zip/a").header("accept-encoding", "br").await;
    assert_eq!((answer.status, text_of(&answer)), (404, (Some("br"), json("none"))));
}

#[tokio::test]
async fn head_tells_what_get_would_and_the_connection_goes_on() {
    let backend = with_json().await;
    let gateway = Gateway::start(&compressed(&backend)).await;
    let mut wire = gateway.wire().await;
    wire.send("HEAD /zip/a HTTP/1.1\r\nHost: gateway.example\r\nAccept-Encoding: gzip\r\n\r\n").await;
    let head = wire.answer_to_head().await;
    assert_eq!((head.header("content-encoding"), head.header("content-length")), (Some("gzip"), None));
    assert_eq!((head.header("etag"), head.header("vary")), (Some("W/\"v1\""), Some("Cookie, Accept-Encoding")));
    let get = wire.get("/zip/a", "Accept-Encoding: gzip\r\n").await;
    assert_eq!(text_of(&get), (Some("gzip"), json("/zip/a")));
}

#[tokio::test]
async fn a_condition_comes_back_as_the_instance_said_it_and_its_304_as_the_client_knows_it() {
    let backend = Backend::scripted(|seen| match seen.header("if-none-match") {
        Some(tags) if tags.split(", ").any(|tag| tag == "\"v1\"") => Reply::status(304, "").with("ETag", "\"v1\""),
        _ => Reply::ok(&json("")).with("Content-Type", "text/html").with("ETag", "\"v1\""),
    })
    .await;
    let gateway = Gateway::start(&compressed(&backend)).await;
    let ask = async |tag: &str| {
        let answer = gateway.get("/zip/a").header("accept-encoding", "gzip").header("if-none-match", tag).await;
        (answer.status, answer.header("etag").unwrap().to_owned())
    };
    assert_eq!(ask("W/\"v1\"").await, (304, "W/\"v1\"".into()));
    assert_eq!(backend.last().header("if-none-match"), Some("W/\"v1\", \"v1\""));
    assert_eq!(ask("\"v1\"").await, (304, "\"v1\"".into()));
    assert_eq!(ask("W/\"v0\"").await, (200, "W/\"v1\"".into()));
}

#[tokio::test]
async fn clients_of_other_protocols_get_whole_answers() {
    let backend = with_json().await;
    let (folder, authority) = (Folder::new(), Authority::of("gateway.test"));
    authority.write(&folder);
    let listen = format!("[\"{{main}}\", {{address: \"{{second}}\", tls: [{}]}}]", authority.entry());
    let gateway = Gateway::start_in(folder, &compressed(&backend).listen(&listen)).await;
    let client = authority.client(gateway.second);
    let url = format!("https://gateway.test:{}/zip/a", gateway.second.port());
    for coding in CODINGS {
        let response = client.get(&url).header("accept-encoding", coding).send().await.unwrap();
        assert_eq!(response.version(), http::Version::HTTP_2);
        assert_eq!(response.headers()["content-encoding"], coding);
        assert_eq!(decoded(Some(coding), &response.bytes().await.unwrap()).unwrap(), json("/zip/a"));
    }
    let mut old = gateway.wire().await;
    old.send("GET /zip/a HTTP/1.0\r\nHost: gateway.example\r\nAccept-Encoding: gzip\r\n\r\n").await;
    let answer = old.answer().await;
    assert_eq!((answer.header("transfer-encoding"), text_of(&answer)), (None, (Some("gzip"), json("/zip/a"))));
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";

#[tokio::test]
async fn an_answer_that_is_cut_is_cut_for_the_client() {
    let backend = Backend::scripted(|seen| match seen.target.as_str() {
        "/zip/length" => Reply::RawThenClose(
            format!("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 90000\r\n\r\n{}", json("")).into(),
        ),
        _ => Reply::RawThenClose(format!("{CHUNKED}{}", chunk(&json(""))).into()),
    })
    .await;
    let gateway = Gateway::start(&compressed(&backend).log("sqlite:log.db")).await;
    for path in ["/zip/length", "/zip/chunks"] {
        for coding in CODINGS {
            let answer = gateway.get(path).header("accept-encoding", coding).attempt().await;
            assert!(answer.is_err(), "{path}: {answer:?}");
            // Who knows only the end of the connection finds no end in the coding either.
            let mut old = gateway.wire().await;
            old.send(format!("GET {path} HTTP/1.0\r\nHost: gateway.example\r\nAccept-Encoding: {coding}\r\n\r\n"))
                .await;
            let answer = old.answer().await;
            assert_eq!(decoded(answer.header("content-encoding"), &answer.body), None, "{path} {coding}");
        }
    }
    gateway.log_written().await;
    assert_eq!(gateway.sqlite_number("SELECT count(*) FROM api_logs WHERE decided_by = 'upstream'"), 0);
}

/// What can be decoded of the next chunk, after those before.
async fn next_chunk(wire: &mut Wire, coded: &mut Vec<u8>) -> String {
    let mut size = Vec::new();
    while !size.ends_with(b"\r\n") {
        size.extend(wire.bytes(1).await);
    }
    let size = usize::from_str_radix(String::from_utf8(size).unwrap().trim(), 16).unwrap();
    coded.extend(wire.bytes(size).await);
    wire.bytes(2).await;
    let (mut text, mut buffer) = (Vec::new(), [0; 64]);
    let mut reader = flate2::read::GzDecoder::new(&coded[..]);
    while let Ok(count @ 1..) = reader.read(&mut buffer) {
        text.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn what_an_instance_sends_piece_by_piece_is_not_held_back() {
    let backend = Backend::scripted(|_| {
        let piece = |pause, text: String| (seconds(pause), text.into_bytes());
        Reply::Pieces(vec![
            piece(0, format!("{CHUNKED}{}", chunk("{\"one\": 1}\n"))),
            piece(2, chunk("{\"two\": 2}\n")),
            piece(2, "0\r\n\r\n".into()),
        ])
    })
    .await;
    let gateway = Gateway::start(&compressed(&backend)).await;
    let mut wire = gateway.wire().await;
    wire.send("GET /zip/a HTTP/1.1\r\nHost: gateway.example\r\nAccept-Encoding: gzip\r\n\r\n").await;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(wire.bytes(1).await);
    }
    let (began, mut coded) = (std::time::Instant::now(), Vec::new());
    assert_eq!(next_chunk(&mut wire, &mut coded).await, "{\"one\": 1}\n");
    assert!(began.elapsed() < seconds(1));
    assert_eq!(next_chunk(&mut wire, &mut coded).await, "{\"one\": 1}\n{\"two\": 2}\n");
    assert!(began.elapsed() < seconds(3));
    next_chunk(&mut wire, &mut coded).await;
    assert_eq!(decoded(Some("gzip"), &coded).unwrap(), "{\"one\": 1}\n{\"two\": 2}\n");
}

#[tokio::test]
async fn the_log_counts_what_the_client_got() {
    let backend = with_json().await;
    let gateway = Gateway::start(&compressed(&backend).log("sqlite:log.db")).await;
    let answer = gateway.get("/zip/a").header("accept-encoding", "br").await;
    gateway.log_written().await;
    let bytes = usize::try_from(gateway.sqlite_number("SELECT bytes_out FROM api_logs")).unwrap();
    assert!((answer.body.len()..answer.body.len() + 200).contains(&bytes), "{bytes} for {}", answer.body.len());
}

#[tokio::test]
async fn a_try_that_is_thrown_away_leaves_nothing_in_the_answer() {
    let broken = Backend::scripted(|_| Reply::status(503, &json("broken")).with("Content-Type", "text/html")).await;
    let sound = with_json().await;
    let config = Config::new()
        .service_with(
            "service",
            &[broken.address, sound.address],
            "retry: {attempts: 2, base_delay: 1ms, statuses: [503]}",
        )
        .route("/zip/*", "to: service, keys: none, compress: br");
    let gateway = Gateway::start(&config).await;
    for _ in 0..4 {
        let answer = gateway.get("/zip/a").header("accept-encoding", "br").await;
        assert_eq!((answer.status, text_of(&answer)), (200, (Some("br"), json("/zip/a"))));
    }
    assert!(broken.requests() > 0);
}

#[tokio::test]
async fn an_http2_instance_is_compressed_up_to_its_end_or_not_at_all() {
    let backend = Http2Backend::scripted(None, |_, path| Http2Reply::Text { trailer: path == "/trailer" }).await;
    let config = Config::new()
        .service_with("service", &[backend.address], "http2: true")
        .route("/*", "to: service, keys: none, compress: [zstd, br, gzip]");
    let gateway = Gateway::start(&config).await;
    for coding in CODINGS {
        let answer = gateway.get("/text").header("accept-encoding", coding).await;
        assert_eq!(text_of(&answer), (Some(coding), "/text".repeat(500)));
    }
    // What the encoder holds can't be sent after trailers: the client is told that the answer is not whole.
    assert!(gateway.get("/trailer").header("accept-encoding", "gzip").attempt().await.is_err());
    assert_eq!(gateway.get("/trailer").await.text(), "/trailer".repeat(500));
}

#[tokio::test]
async fn a_large_body_goes_through_in_pieces() {
    let whole = json("/large").repeat(400);
    let body = whole.clone();
    let backend = Backend::scripted(move |_| Reply::ok(&body).with("Content-Type", "text/plain")).await;
    let gateway = Gateway::start(&compressed(&backend)).await;
    for coding in CODINGS {
        let answer = gateway.get("/zip/a").header("accept-encoding", coding).await;
        assert!(text_of(&answer) == (Some(coding), whole.clone()), "{coding}");
    }
}
