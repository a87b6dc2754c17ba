//! Many requests at once for one thing: one asks the instance, and the others get what comes as it comes.
//! Nobody waits for an answer that will not be shared, nobody takes half an answer for whole.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Authority, Backend, Config, Folder, Gateway, Reply, Wire, milliseconds, seconds};

const CLIENTS: usize = 1_000;

async fn gateway(backend: &Backend, cache: &str) -> Gateway {
    let config = Config::open(backend)
        .route("/cached/*", &format!("to: service, keys: none, cache: {cache}"))
        .section("connections: {per_client_max: 4000}");
    Gateway::start(&config).await
}

/// So many clients ask at once; each with the time of its first byte, of its last, and how its answer ended.
async fn crowd(gateway: &Gateway, clients: usize) -> Vec<(Duration, Duration, std::io::Result<String>)> {
    let mut wires = Vec::new();
    for _ in 0..clients {
        wires.push(gateway.wire().await);
    }
    let begin = Instant::now();
    let asks = wires.into_iter().map(|mut wire| async move {
        wire.send("GET /cached/x HTTP/1.1\r\nHost: gateway.example\r\n\r\n").await;
        wire.bytes(1).await;
        let first = begin.elapsed();
        let answer = rest_of_answer(&mut wire).await;
        (first, begin.elapsed(), answer)
    });
    futures::future::join_all(asks).await
}

/// What follows the first byte of a status line, as one text of the body.
async fn rest_of_answer(wire: &mut Wire) -> std::io::Result<String> {
    wire.give_back(b"H");
    let answer = wire.try_answer("GET").await?;
    // Where nothing was sent yet when it broke off, the client is told.
    if answer.status == 200 { Ok(answer.text()) } else { Err(std::io::Error::other(answer.refusal())) }
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nTransfer-Encoding: chunked\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_thousand_requests_for_a_cold_answer_one_reaches_the_instance() {
    let backend = Backend::scripted(|_| Reply::ok("slow").after(seconds(1))).await;
    let gateway = gateway(&backend, "1min").await;
    let answers = crowd(&gateway, CLIENTS).await;
    assert!(answers.iter().all(|(_, _, answer)| answer.as_deref().is_ok_and(|text| text == "slow")));
    assert_eq!(backend.requests(), 1);
    let metrics = gateway.metrics().await;
    let count = |result| metrics.sum("tollgate_cache_results_total", &[("route", "/cached/*"), ("result", result)]);
    assert_eq!((count("miss"), count("miss") + count("collapsed") + count("hit")), (1.0, CLIENTS as f64));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wait_get_the_answer_as_it_comes() {
    let first = format!("{CHUNKED}5\r\nfirst\r\n");
    let last = b"6\r\nsecond\r\n0\r\n\r\n".to_vec();
    let backend = Backend::scripted(move |_| {
        Reply::Pieces(vec![(milliseconds(1_000), first.clone().into_bytes()), (milliseconds(2_000), last.clone())])
    })
    .await;
    let gateway = gateway(&backend, "1min").await;
    let answers = crowd(&gateway, 300).await;
    assert_eq!(backend.requests(), 1);
    for (first, last, answer) in answers {
        assert_eq!(answer.unwrap(), "firstsecond");
        assert!(first >= milliseconds(900) && first < milliseconds(2_500), "first byte after {first:?}");
        assert!(last >= milliseconds(2_900), "whole after {last:?}");
    }
    let hit = gateway.wire().await.get("/cached/x", "").await;
    assert_eq!((hit.text().as_str(), hit.header("content-length"), backend.requests()), ("firstsecond", Some("11"), 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_an_answer_is_never_taken_for_whole() {
    for head in [CHUNKED, "HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 100\r\n\r\n"] {
        let half = format!("{head}5\r\nfirst\r\n");
        let backend = Backend::scripted(move |_| {
            let head = Reply::RawThenClose(half.clone().into_bytes());
            head.after(milliseconds(500))
        })
        .await;
        let gateway = gateway(&backend, "1min").await;
        let answers = crowd(&gateway, 200).await;
        assert!(answers.iter().all(|(_, _, answer)| answer.is_err()), "half an answer was taken for whole");
        backend.plays(|_| Reply::ok("whole"));
        assert_eq!(gateway.get("/cached/x").await.text(), "whole");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_not_stored_keeps_nobody_waiting() {
    let backend =
        Backend::scripted(|_| Reply::ok("own").with("Cache-Control", "private").after(milliseconds(500))).await;
    let gateway = gateway(&backend, "1min").await;
    let begin = Instant::now();
    let answers = crowd(&gateway, 50).await;
    assert!(answers.iter().all(|(_, _, answer)| answer.as_deref().is_ok_and(|text| text == "own")));
    // The first one's half second, and everyone else's at the same time; one after the other it would be 25 s.
    assert!(begin.elapsed() < seconds(5), "{:?}", begin.elapsed());
    assert_eq!(backend.requests(), 50);
    // Now it is known: nobody waits for anybody.
    let answers = crowd(&gateway, 50).await;
    assert!(
        answers.iter().all(|(first, ..)| *first < milliseconds(950)),
        "{:?}",
        answers.iter().map(|answer| answer.0).max()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_fails_or_is_slow_releases_the_others() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let backend = Backend::scripted(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::RawThenClose(Vec::new()).after(milliseconds(300)),
        _ => Reply::ok("second"),
    })
    .await;
    let failing = gateway(&backend, "1min").await;
    let answers = crowd(&failing, 50).await;
    let whole = answers.iter().filter(|(_, _, answer)| answer.as_deref().is_ok_and(|text| text == "second")).count();
    assert!(whole >= 49, "{whole} of 50");
    assert!(backend.requests() < 10, "{}", backend.requests());

    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let backend = Backend::scripted(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::ok("late").after(seconds(12)),
        _ => Reply::ok("second"),
    })
    .await;
    let slow = gateway(&backend, "1min").await;
    let answers = crowd(&slow, 20).await;
    let waited = answers.iter().filter(|(first, _, answer)| answer.is_ok() && *first < seconds(11)).count();
    assert_eq!(waited, 19, "all but the slow one's own client are answered before it");
}

#[tokio::test]
async fn a_client_that_leaves_takes_the_answer_from_nobody() {
    let backend = Backend::scripted(|_| {
        let head = format!("{CHUNKED}5\r\nfirst\r\n").into_bytes();
        Reply::Pieces(vec![
            (milliseconds(0), head),
            (milliseconds(800), b"6\r\nsecond\r\n".to_vec()),
            (milliseconds(800), b"0\r\n\r\n".to_vec()),
        ])
    })
    .await;
    let gateway = gateway(&backend, "1min").await;
    let mut writer = gateway.wire().await;
    writer.send("GET /cached/x HTTP/1.1\r\nHost: gateway.example\r\n\r\n").await;
    writer.bytes(20).await;
    let mut follower = gateway.wire().await;
    follower.send("GET /cached/x HTTP/1.1\r\nHost: gateway.example\r\n\r\n").await;
    follower.bytes(1).await;
    drop(writer);
    assert_eq!(rest_of_answer(&mut follower).await.unwrap(), "firstsecond");
    assert_eq!(backend.requests(), 1);
}

#[tokio::test]
async fn an_answer_without_length_that_grows_too_large_arrives_whole() {
    let mut body = CHUNKED.as_bytes().to_vec();
    for _ in 0..64 {
        body.extend_from_slice(b"10000\r\n");
        body.extend_from_slice(&[b'x'; 0x10000]);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"0\r\n\r\n");
    let backend = Backend::scripted(move |_| Reply::Raw(body.clone())).await;
    let gateway = gateway(&backend, "{ttl: 1min, body_max: 100kb}").await;
    for _ in 0..2 {
        assert_eq!(gateway.get("/cached/x").await.body.len(), 64 << 16);
    }
    let says = gateway.get("/cached/x").await;
    assert!(says.header("cache-status").is_some_and(|status| status.ends_with("detail=too_large")), "{says:?}");
    assert_eq!(backend.requests(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_http2_share_an_answer_as_connections_do() {
    let backend = Backend::scripted(|_| {
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n".to_vec();
        let half = vec![b'x'; 100_000];
        Reply::Pieces(vec![(milliseconds(300), head), (milliseconds(0), half.clone()), (milliseconds(500), half)])
    })
    .await;
    let (folder, authority) = (Folder::new(), Authority::of("gateway.test"));
    authority.write(&folder);
    let listen = format!("[{{address: \"{{main}}\", tls: [{}]}}]", authority.entry());
    let config = Config::open(&backend).listen(&listen).route("/cached/*", "to: service, keys: none, cache: 1min");
    let gateway = Gateway::start_in(folder, &config).await;
    let client = authority.client(gateway.address);
    let url = format!("https://gateway.test:{}/cached/x", gateway.address.port());
    for expected in [1, 1] {
        let asks = (0..50).map(|_| async {
            let answer = client.get(&url).send().await.expect("an answer");
            assert_eq!((answer.status().as_u16(), answer.version()), (200, http::Version::HTTP_2));
            answer.bytes().await.expect("a body").len()
        });
        assert!(futures::future::join_all(asks).await.iter().all(|length| *length == 200_000));
        assert_eq!(backend.requests(), expected);
    }
}

#[tokio::test]
async fn a_slow_client_keeps_no_others_waiting() {
    let backend = Backend::scripted(|_| Reply::ok(&"x".repeat(900_000))).await;
    let gateway = gateway(&backend, "1min").await;
    // It asks first, and reads nothing.
    let mut slow = gateway.wire().await;
    slow.send("GET /cached/x HTTP/1.1\r\nHost: gateway.example\r\n\r\n").await;
    tokio::time::sleep(milliseconds(300)).await;
    let begin = Instant::now();
    for _ in 0..5 {
        let answer = gateway.wire().await.get("/cached/x", "").await;
        assert_eq!(answer.body.len(), 900_000);
    }
    assert!(begin.elapsed() < seconds(3), "{:?}", begin.elapsed());
    assert_eq!(backend.requests(), 1);
    assert_eq!(slow.answer().await.body.len(), 900_000);
}

#[tokio::test]
async fn an_answer_that_breaks_off_before_anything_is_sent_is_asked_for_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let backend = Backend::scripted(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        1 => Reply::RawThenClose(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf".to_vec()),
        _ => Reply::ok("whole"),
    })
    .await;
    let gateway = gateway(&backend, "1min").await;
    // On a connection that was used before a try is repeated.
    assert_eq!(gateway.get("/cached/first").await.text(), "whole");
    let again = gateway.get("/cached/x").attempt().await;
    assert!(again.is_err() || again.is_ok_and(|answer| answer.status == 502 || answer.text() == "whole"));
    assert_eq!(gateway.get("/cached/x").await.text(), "whole");
    assert!(!gateway.said().contains("panicked"));
}
