//! Compression and the cache: each coding is compressed once and stored for itself, found by who would choose it, and by
//! nobody else. Without a cache on the route: `compress.rs`.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::compress::{CODINGS, decoded, json, text_of};
use crate::harness::{Answer, Backend, Config, Gateway, Reply, milliseconds, seconds};

fn cached(backend: &Backend, cache: &str) -> Config {
    Config::open(backend)
        .route("/zip/*", &format!("to: service, keys: none, compress: [zstd, br, gzip], cache: {cache}"))
}

async fn with_json() -> Backend {
    Backend::scripted(|seen| {
        Reply::ok(&json(&seen.target)).with("Content-Type", "application/json").with("ETag", "\"v1\"")
    })
    .await
}

fn is_hit(answer: &Answer) -> bool {
    answer.header("cache-status").is_some_and(|status| status.starts_with("tollgate; hit"))
}

#[tokio::test]
async fn each_coding_is_compressed_once_and_stored_for_itself() {
    let backend = with_json().await;
    let gateway = Gateway::start(&cached(&backend, "1min")).await;
    for (asked, coding) in CODINGS.into_iter().map(Some).chain([None]).enumerate() {
        let accepted = coding.unwrap_or("identity");
        let first = gateway.get("/zip/a").header("accept-encoding", accepted).await;
        assert_eq!(text_of(&first), (coding, json("/zip/a")));
        assert!(!is_hit(&first));
        assert_eq!(backend.requests(), asked + 1);
        for again in
            [accepted.to_owned(), format!("{accepted};q=0.7, deflate"), format!("x, {}", accepted.to_uppercase())]
        {
            let second = gateway.get("/zip/a").header("accept-encoding", &again).await;
            assert!(is_hit(&second), "{again}: {second:?}");
            // The very bytes of the first time.
            assert!(second.body == first.body && second.header("content-encoding") == coding, "{again}");
            let length = first.body.len().to_string();
            assert_eq!(second.header("content-length"), Some(length.as_str()));
            assert_eq!(second.header("etag"), Some(if coding.is_some() { "W/\"v1\"" } else { "\"v1\"" }));
            assert_eq!(second.header("accept-ranges").is_some(), coding.is_none());
        }
    }
    assert_eq!(backend.requests(), 4);
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.sum("tollgate_compress_answers_total", &[]), 3.0);
    assert_eq!(metrics.sum("tollgate_compress_answers_now", &[]), 0.0);
    let bytes = |side| metrics.sum(&format!("tollgate_compress_bytes_{side}_total"), &[]);
    assert_eq!(bytes("in"), 3.0 * json("/zip/a").len() as f64);
    assert!((1.0..bytes("in") / 5.0).contains(&bytes("out")));
    let head = gateway.ask(http::Method::HEAD, "/zip/a").header("accept-encoding", "br").await;
    assert_eq!((head.header("content-encoding"), is_hit(&head)), (Some("br"), true));
    assert_eq!(backend.requests(), 4);
}

/// As the RFC says it, of what was written into the header.
fn refuses(members: &[(&str, u16)], coding: &str) -> bool {
    let named = |name| members.iter().filter(|(other, _)| *other == name).map(|(_, weight)| *weight).min();
    named(coding).or_else(|| named("*")).unwrap_or(0) == 0
}

#[tokio::test]
async fn a_thousand_random_clients_never_get_a_coding_that_they_refuse() {
    let backend = with_json().await;
    let gateway = Gateway::start(&cached(&backend, "1min")).await;
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    let mut compressed = 0;
    for _ in 0..1_000 {
        let mut members: Vec<(&str, u16)> = Vec::new();
        for _ in 0..random.random_range(0..5) {
            let name = *["gzip", "br", "zstd", "identity", "*", "deflate", "compress"].choose(&mut random).unwrap();
            members.push((name, *[0, 0, 1, 500, 999, 1_000].choose(&mut random).unwrap()));
        }
        let line: Vec<String> =
            members.iter().map(|(name, weight)| format!("{name};q={}.{:03}", weight / 1_000, weight % 1_000)).collect();
        let answer = gateway.get("/zip/a").header("accept-encoding", &line.join(", ")).await;
        let (coding, text) = text_of(&answer);
        assert_eq!(text, json("/zip/a"), "{line:?}");
        if let Some(coding) = coding {
            assert!(!refuses(&members, coding), "{coding} for {line:?}");
            compressed += 1;
        }
    }
    assert!((300..900).contains(&compressed), "{compressed}");
    // One for each coding and one for none: whatever clients write.
    assert_eq!(backend.requests(), 4);
}

#[tokio::test]
async fn a_304_of_the_instance_leaves_what_is_compressed_as_it_is() {
    let backend = Backend::scripted(|seen| match seen.header("if-none-match") {
        Some(tags) if tags.split(", ").any(|tag| tag == "\"v1\"") => {
            Reply::status(304, "").with("ETag", "\"v1\"").with("X-New", "1").with("Accept-Ranges", "bytes")
        }
        _ => Reply::ok(&json("")).with("Content-Type", "text/html").with("ETag", "\"v1\""),
    })
    .await;
    let gateway = Gateway::start(&cached(&backend, "1s")).await;
    let ask = async || gateway.get("/zip/a").header("accept-encoding", "br").await;
    let first = ask().await;
    tokio::time::sleep(milliseconds(2_100)).await;
    for _ in 0..2 {
        let confirmed = ask().await;
        assert_eq!(text_of(&confirmed), (Some("br"), json("")));
        assert_eq!((confirmed.header("etag"), confirmed.header("x-new")), (Some("W/\"v1\""), Some("1")));
        assert_eq!((confirmed.header("vary"), confirmed.header("accept-ranges")), (Some("Accept-Encoding"), None));
        assert!(confirmed.body == first.body);
    }
    assert_eq!((backend.requests(), backend.last().header("if-none-match")), (2, Some("W/\"v1\", \"v1\"")));
}

#[tokio::test]
async fn a_client_with_the_weak_tag_is_answered_304_from_the_cache() {
    let backend = with_json().await;
    let gateway = Gateway::start(&cached(&backend, "1min")).await;
    let ask =
        async |tag: &str| gateway.get("/zip/a").header("accept-encoding", "gzip").header("if-none-match", tag).await;
    // On the answer that is fetched for it, too.
    for _ in 0..2 {
        let answer = ask("W/\"v1\"").await;
        assert_eq!((answer.status, answer.header("etag"), answer.body.len()), (304, Some("W/\"v1\""), 0));
    }
    assert_eq!(ask("\"v1\"").await.status, 304);
    assert_eq!(text_of(&ask("\"v2\"").await), (Some("gzip"), json("/zip/a")));
    assert_eq!(backend.requests(), 1);
}

#[tokio::test]
async fn ranges_are_of_the_answer_itself_whatever_is_stored() {
    let backend = Backend::scripted(|seen| match seen.header("range") {
        Some("bytes=10-19") => Reply::status(206, &json("/zip/a")[10..20])
            .with("Content-Type", "application/json")
            .with("Content-Range", &format!("bytes 10-19/{}", json("/zip/a").len()))
            .with("ETag", "\"v1\""),
        _ => Reply::ok(&json("/zip/a")).with("Content-Type", "application/json").with("ETag", "\"v1\""),
    })
    .await;
    let gateway = Gateway::start(&cached(&backend, "1min")).await;
    let part = async || {
        let answer = gateway.get("/zip/a").header("accept-encoding", "gzip").header("range", "bytes=10-19").await;
        assert_eq!((answer.status, answer.header("content-encoding")), (206, None));
        assert_eq!((answer.text().as_str(), answer.header("etag")), (&json("/zip/a")[10..20], Some("\"v1\"")));
        is_hit(&answer)
    };
    assert!(!part().await);
    assert_eq!(text_of(&gateway.get("/zip/a").header("accept-encoding", "gzip").await).0, Some("gzip"));
    assert!(!part().await);
    assert_eq!(gateway.get("/zip/a").await.text(), json("/zip/a"));
    assert!(part().await);
    // The rest of what was compressed can't be asked for by its weak tag: the client gets the whole.
    let whole = gateway
        .get("/zip/a")
        .header("accept-encoding", "gzip")
        .header("range", "bytes=10-19")
        .header("if-range", "W/\"v1\"");
    assert_ne!(backend.last().header("if-range"), Some("W/\"v1\""));
    whole.await;
    assert_eq!(backend.last().header("if-range"), Some("W/\"v1\""));
}

#[tokio::test]
async fn stored_parts_and_compressed_answers_do_not_meet() {
    let backend = Backend::scripted(|seen| match seen.header("range") {
        Some(_) => Reply::status(206, &json("/zip/a")[10..20])
            .with("Content-Type", "application/json")
            .with("Content-Range", &format!("bytes 10-19/{}", json("/zip/a").len()))
            .with("ETag", "\"v1\""),
        None => Reply::ok(&json("/zip/a")).with("Content-Type", "application/json").with("ETag", "\"v1\""),
    })
    .await;
    let gateway = Gateway::start(&cached(&backend, "{ttl: 1min, partial: true}")).await;
    let part = async || {
        let answer = gateway.get("/zip/a").header("accept-encoding", "gzip").header("range", "bytes=10-19").await;
        assert_eq!((answer.status, answer.header("content-encoding")), (206, None));
        assert_eq!(answer.text(), json("/zip/a")[10..20]);
        is_hit(&answer)
    };
    assert_eq!((part().await, part().await), (false, true));
    for again in [false, true] {
        let whole = gateway.get("/zip/a").header("accept-encoding", "gzip").await;
        assert_eq!((text_of(&whole), is_hit(&whole)), ((Some("gzip"), json("/zip/a")), again));
    }
    assert!(part().await);
    assert_eq!(text_of(&gateway.get("/zip/a").await), (None, json("/zip/a")));
    assert!(part().await);
}

#[tokio::test]
async fn an_answer_that_is_cut_is_not_stored() {
    let backend = Backend::scripted(|_| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 90000\r\n\r\n";
        Reply::RawThenClose(format!("{head}{}", json("")).into())
    })
    .await;
    let gateway = Gateway::start(&cached(&backend, "1min")).await;
    let ask = || gateway.get("/zip/a").header("accept-encoding", "zstd");
    // Where nothing was sent yet when it broke off, the client is told.
    let cut = ask().attempt().await;
    assert!(cut.as_ref().map_or(true, |answer| answer.status == 502), "{cut:?}");
    backend.plays(|_| Reply::ok(&json("")).with("Content-Type", "text/html"));
    let answer = ask().await;
    assert_eq!((text_of(&answer), is_hit(&answer)), ((Some("zstd"), json("")), false));
    assert!(is_hit(&ask().await));
}

#[tokio::test]
async fn of_many_at_once_one_in_each_coding_asks_the_instance() {
    let backend = Backend::scripted(|_| {
        Reply::ok(&json("/zip/a")).with("Content-Type", "application/json").after(milliseconds(500))
    })
    .await;
    let gateway = Gateway::start(&cached(&backend, "1min")).await;
    let asks = (0..60).map(|number| {
        let coding = CODINGS[number % 3];
        let ask = gateway.get("/zip/a").header("accept-encoding", coding);
        async move { (coding, ask.await) }
    });
    for (coding, answer) in futures::future::join_all(asks).await {
        assert_eq!(text_of(&answer), (Some(coding), json("/zip/a")));
    }
    assert_eq!(backend.requests(), 3);
}

#[tokio::test]
async fn followers_get_the_compressed_bytes_as_they_come() {
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    let (first, second) = (json("1"), json("2"));
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";
    let pieces = vec![
        (milliseconds(0), format!("{head}{}", chunk(&first)).into_bytes()),
        (seconds(1), format!("{}0\r\n\r\n", chunk(&second)).into_bytes()),
    ];
    let backend = Backend::scripted(move |_| Reply::Pieces(pieces.clone())).await;
    let gateway = Gateway::start(&cached(&backend, "1min")).await;
    let ask = || gateway.get("/zip/a").header("accept-encoding", "br").into_future();
    let later = async {
        tokio::time::sleep(milliseconds(400)).await;
        ask().await
    };
    let (writer, follower) = futures::future::join(ask(), later).await;
    assert_eq!(text_of(&writer), (Some("br"), first + &second));
    assert!(follower.body == writer.body);
    assert!(follower.header("cache-status").unwrap().contains("collapsed"), "{follower:?}");
    assert_eq!(backend.requests(), 1);
}

#[tokio::test]
async fn an_instance_that_compresses_itself_keeps_its_coding() {
    let backend = Backend::scripted(|seen| {
        let reply = Reply::ok(&json("own")).with("Content-Type", "text/html");
        match seen.header("accept-encoding") {
            // As far as anybody but the client can tell.
            Some("gzip") => reply.with("Content-Encoding", "gzip").with("ETag", "\"own\""),
            _ => reply,
        }
    })
    .await;
    let gateway = Gateway::start(&cached(&backend, "1min")).await;
    for again in [false, true] {
        let own = gateway.get("/zip/a").header("accept-encoding", "gzip, br;q=0.5").await;
        assert_eq!((own.header("content-encoding"), own.text(), is_hit(&own)), (Some("gzip"), json("own"), again));
        assert_eq!((own.header("etag"), own.header("vary")), (Some("\"own\""), Some("Accept-Encoding")));
        let plain = gateway.get("/zip/a").await;
        assert_eq!((text_of(&plain), is_hit(&plain)), ((None, json("own")), again));
        let ours = gateway.get("/zip/a").header("accept-encoding", "br").await;
        assert_eq!((text_of(&ours), is_hit(&ours)), ((Some("br"), json("own")), again));
    }
}

#[tokio::test]
async fn what_is_refreshed_in_the_background_is_compressed_like_before() {
    let backend = Backend::scripted(|_| Reply::ok(&json("old")).with("Content-Type", "text/html")).await;
    let gateway = Gateway::start(&cached(&backend, "{ttl: 1s, stale_while_revalidate: 1min}")).await;
    let ask = async || gateway.get("/zip/a").header("accept-encoding", "zstd, gzip;q=0.5").await;
    assert_eq!(text_of(&ask().await), (Some("zstd"), json("old")));
    backend.plays(|_| Reply::ok(&json("new")).with("Content-Type", "text/html"));
    tokio::time::sleep(milliseconds(2_100)).await;
    assert_eq!(text_of(&ask().await), (Some("zstd"), json("old")));
    for _ in 0..100 {
        if backend.requests() == 2 {
            break;
        }
        tokio::time::sleep(milliseconds(20)).await;
    }
    tokio::time::sleep(milliseconds(200)).await;
    let fresh = ask().await;
    assert_eq!((text_of(&fresh), is_hit(&fresh)), ((Some("zstd"), json("new")), true));
    assert_eq!((backend.requests(), backend.last().header("accept-encoding")), (2, Some("zstd")));
    assert!(decoded(Some("zstd"), &fresh.body).is_some());
}
