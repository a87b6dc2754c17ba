//! Answers in parts (`partial: true`): parts that came are put together and answer what they hold, and nothing else does.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::harness::{Answer, Backend, Config, Gateway, Reply, Seen, milliseconds};

const LENGTH: usize = 1000;

/// A part whose last byte never comes.
const CUT: &str =
    "HTTP/1.1 206 x\r\nContent-Length: 5\r\nContent-Range: bytes 5-9/10\r\nCache-Control: max-age=60\r\n\r\n0123";

fn body() -> Vec<u8> {
    (0..LENGTH).map(|at| b'a' + (at * 7 % 26) as u8).collect()
}

fn text(start: usize, end: usize) -> String {
    String::from_utf8(body()[start..end].to_vec()).unwrap()
}

/// First and last byte of what `bytes=...` asks of the body.
fn range(asked: &str) -> (usize, usize) {
    let (first, last) = asked.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    match (first, last) {
        ("", last) => (LENGTH - last.parse::<usize>().unwrap(), LENGTH - 1),
        (first, "") => (first.parse().unwrap(), LENGTH - 1),
        (first, last) => (first.parse().unwrap(), last.parse().unwrap()),
    }
}

/// An instance that serves ranges of one answer.
fn serve(seen: &Seen, tag: &str) -> Reply {
    let reply = match seen.header("range") {
        Some(asked) => {
            let (first, last) = range(asked);
            Reply::status(206, &text(first, last + 1)).with("Content-Range", &format!("bytes {first}-{last}/{LENGTH}"))
        }
        None => Reply::ok(&text(0, LENGTH)),
    };
    reply.with("ETag", tag).with("Cache-Control", "max-age=60").with("Surrogate-Key", "video")
}

async fn gateway(backend: &Backend) -> Gateway {
    let route = "to: service, keys: none, cache: {ttl: 0s, partial: true}";
    Gateway::start(&Config::open(backend).route("/cached/*", route)).await
}

async fn part(gateway: &Gateway, asked: &str) -> Answer {
    let answer = gateway.get("/cached/x").header("range", asked).await;
    let (first, last) = range(asked);
    assert_eq!(answer.status, 206, "{asked}: {answer:?}");
    assert_eq!(answer.header("content-range"), Some(&*format!("bytes {first}-{last}/{LENGTH}")), "{asked}");
    assert_eq!(answer.text(), text(first, last + 1), "{asked}");
    answer
}

#[tokio::test]
async fn parts_are_put_together_and_answer_what_they_hold() {
    let backend = Backend::scripted(|seen| serve(seen, "\"v1\"")).await;
    let gateway = gateway(&backend).await;
    let first = part(&gateway, "bytes=100-199").await;
    assert_eq!(first.header("cache-status"), Some("tollgate; fwd=uri-miss; stored"));
    let again = part(&gateway, "bytes=120-150").await;
    assert!(again.header("cache-status").unwrap().starts_with("tollgate; hit"), "{again:?}");
    assert_eq!(backend.requests(), 1);
    part(&gateway, "bytes=200-299").await;
    assert_eq!(backend.requests(), 2);
    part(&gateway, "bytes=150-250").await;
    part(&gateway, "bytes=100-299").await;
    assert_eq!(backend.requests(), 2, "two parts answer what spans both");
    part(&gateway, "bytes=299-300").await;
    assert_eq!(backend.last().header("range"), Some("bytes=299-300"));
    assert_eq!(gateway.get("/cached/x").await.text(), text(0, LENGTH));
    assert_eq!(backend.requests(), 4, "a part is not the whole");
    part(&gateway, "bytes=-1").await;
    assert_eq!(backend.requests(), 4);
}

#[tokio::test]
async fn the_client_is_told_that_parts_are_stored_which_do_not_do() {
    let backend = Backend::scripted(|seen| match seen.target.as_str() {
        "/cached/short" => serve(seen, "\"v1\"").with("CDN-Cache-Control", "max-age=1"),
        _ => serve(seen, "\"v1\"").with("Vary", "X-Kind"),
    });
    let backend = backend.await;
    let gateway = gateway(&backend).await;
    let status = async |path: &str, kind: &str, asked: Option<&str>| {
        let request = gateway.get(path).header("x-kind", kind);
        let answer = match asked {
            Some(asked) => request.header("range", asked).await,
            None => request.await,
        };
        answer.header("cache-status").unwrap().to_owned()
    };
    let path = "/cached/x";
    assert_eq!(status(path, "a", Some("bytes=0-9")).await, "tollgate; fwd=uri-miss; stored");
    assert_eq!(status(path, "a", Some("bytes=5-19")).await, "tollgate; fwd=partial; stored");
    assert_eq!(status(path, "b", Some("bytes=0-9")).await, "tollgate; fwd=vary-miss; stored");
    // Of two variants the one that the request asks for counts.
    assert_eq!(status(path, "a", Some("bytes=40-49")).await, "tollgate; fwd=partial; stored");
    assert_eq!(status(path, "b", None).await, "tollgate; fwd=partial; stored");
    assert!(status(path, "b", Some("bytes=40-49")).await.starts_with("tollgate; hit"));
    let path = "/cached/short";
    assert_eq!(status(path, "a", Some("bytes=0-9")).await, "tollgate; fwd=uri-miss; stored");
    tokio::time::sleep(milliseconds(2_100)).await;
    assert_eq!(status(path, "a", Some("bytes=0-9")).await, "tollgate; fwd=stale; stored");
}

#[tokio::test]
async fn parts_that_are_all_there_are_the_whole() {
    let backend = Backend::scripted(|seen| serve(seen, "\"v1\"")).await;
    let gateway = gateway(&backend).await;
    for asked in ["bytes=500-", "bytes=0-250", "bytes=200-700"] {
        part(&gateway, asked).await;
    }
    let whole = gateway.get("/cached/x").await;
    assert_eq!((whole.status, whole.text()), (200, text(0, LENGTH)));
    assert_eq!((whole.header("content-length"), whole.header("content-range")), (Some("1000"), None));
    assert_eq!(backend.requests(), 3);
    let purged = gateway.admin_post("/admin/cache/purge").body(r#"{"tag": "video"}"#.to_owned()).await;
    assert_eq!(purged.json()["purged"], 1);
    part(&gateway, "bytes=0-1").await;
    assert_eq!(backend.requests(), 4);
}

#[tokio::test]
async fn parts_of_different_answers_never_mix() {
    let backend = Backend::scripted(|seen| serve(seen, "\"v1\"")).await;
    let gateway = gateway(&backend).await;
    part(&gateway, "bytes=0-499").await;
    backend.plays(|seen| serve(seen, "\"v2\""));
    part(&gateway, "bytes=500-999").await;
    part(&gateway, "bytes=0-499").await;
    assert_eq!(backend.requests(), 3, "the first half of the older answer is gone");
    // A weak tag says nothing about bytes (RFC 9110 section 13.1.5).
    for target in ["/cached/weak", "/cached/none"] {
        backend.plays(move |seen| if target == "/cached/weak" { serve(seen, "W/\"v1\"") } else { serve(seen, "") });
        let before = backend.requests();
        for asked in ["bytes=0-499", "bytes=500-999", "bytes=500-999", "bytes=0-999"] {
            assert_eq!(gateway.get(target).header("range", asked).await.status, 206);
        }
        assert_eq!(backend.requests() - before, 3, "{target}: only the last part is there");
    }
}

#[tokio::test]
async fn what_contradicts_itself_breaks_off_or_may_not_be_stored_is_not_stored() {
    let backend = Backend::scripted(|seen| serve(seen, "\"v1\"")).await;
    let gateway = gateway(&backend).await;
    let replies: [fn() -> Reply; 8] = [
        || {
            Reply::status(206, "0")
                .with("Content-Range", "bytes 5-5/10")
                .with("Content-Range", "bytes 6-6/10")
                .with("Cache-Control", "max-age=60")
        },
        || {
            let huge = "bytes 18446744073709551610-18446744073709551610/18446744073709551615";
            Reply::status(206, "0").with("Content-Range", huge).with("Cache-Control", "max-age=60")
        },
        || Reply::status(206, "01234").with("Content-Range", "bytes 4-9/10").with("Cache-Control", "max-age=60"),
        || Reply::status(206, "01234").with("Content-Range", "bytes 5-9/*").with("Cache-Control", "max-age=60"),
        || Reply::status(206, "01234").with("Cache-Control", "max-age=60"),
        || Reply::status(206, "01234").with("Content-Range", "bytes 5-9/10").with("Cache-Control", "no-store"),
        || {
            Reply::status(206, "01234")
                .with("Content-Range", "bytes 5-9/10")
                .with("Set-Cookie", "a=b")
                .with("Cache-Control", "max-age=60")
        },
        || Reply::RawThenClose(CUT.into()),
    ];
    assert_eq!(gateway.get("/cached/x").header("range", "bytes=0-9").await.status, 206);
    for (number, reply) in replies.into_iter().enumerate() {
        backend.plays(move |_| reply());
        let before = backend.requests();
        for _ in 0..2 {
            let _ = gateway.get(&format!("/cached/{number}")).header("range", "bytes=-5").attempt().await;
        }
        assert_eq!(backend.requests() - before, 2, "{number}");
    }
}

#[tokio::test]
async fn a_purge_finds_bytes_by_the_tag_that_came_with_them() {
    let backend = Backend::scripted(|seen| serve(seen, "\"v1\"")).await;
    let gateway = gateway(&backend).await;
    part(&gateway, "bytes=0-49").await;
    let untagged =
        || Reply::status(206, &text(50, 60)).with("Content-Range", "bytes 50-59/1000").with("ETag", "\"v1\"");
    backend.plays(move |_| untagged().with("Cache-Control", "max-age=60"));
    part(&gateway, "bytes=50-59").await;
    part(&gateway, "bytes=0-59").await;
    assert_eq!(backend.requests(), 2);
    let purged = gateway.admin_post("/admin/cache/purge").body(r#"{"tag": "video"}"#.to_owned()).await;
    assert_eq!(purged.json()["purged"], 1);
    backend.plays(|seen| serve(seen, "\"v1\""));
    part(&gateway, "bytes=0-9").await;
    assert_eq!(backend.requests(), 3);
}

#[tokio::test]
async fn a_part_replaces_a_whole_that_is_stale_but_none_that_is_fresh() {
    let backend = Backend::scripted(|_| Reply::ok(&text(0, LENGTH)).with("Cache-Control", "max-age=1")).await;
    let gateway = gateway(&backend).await;
    gateway.get("/cached/x").await;
    tokio::time::sleep(milliseconds(2_100)).await;
    backend.plays(|seen| serve(seen, "W/\"v1\""));
    part(&gateway, "bytes=0-9").await;
    part(&gateway, "bytes=0-9").await;
    assert_eq!(backend.requests(), 2);
    // Asked for before the whole, and slower.
    backend.plays(|seen| serve(seen, "\"old\"").after(milliseconds(700)));
    let (late, ()) = tokio::join!(gateway.get("/cached/y").header("range", "bytes=0-9").attempt(), async {
        tokio::time::sleep(milliseconds(200)).await;
        backend.plays(|_| Reply::ok("newer").with("ETag", "\"new\"").with("Cache-Control", "max-age=60"));
        assert_eq!(gateway.get("/cached/y").await.text(), "newer");
    });
    assert_eq!(late.unwrap().text(), text(0, 10));
    assert_eq!(gateway.get("/cached/y").await.text(), "newer");
    assert_eq!(backend.requests(), 4);
}

#[tokio::test]
async fn without_partial_no_part_is_stored() {
    let backend = Backend::scripted(|seen| serve(seen, "\"v1\"")).await;
    let route = "to: service, keys: none, cache: 1min";
    let gateway = Gateway::start(&Config::open(&backend).route("/cached/*", route)).await;
    for count in 1..3 {
        let answer = part(&gateway, "bytes=0-9").await;
        assert_eq!(answer.header("cache-status"), Some("tollgate; fwd=uri-miss; detail=not_whole"));
        assert_eq!(backend.requests(), count);
    }
}

#[tokio::test]
async fn random_ranges_are_answered_with_their_bytes() {
    let backend = Backend::scripted(|seen| serve(seen, "\"v1\"")).await;
    let gateway = gateway(&backend).await;
    let mut random = StdRng::seed_from_u64(7);
    for _ in 0..300 {
        let first = random.random_range(0..LENGTH);
        let last = random.random_range(first..LENGTH.min(first + 200));
        let asked = match random.random_range(0..8) {
            0 => format!("bytes=-{}", LENGTH - first.max(LENGTH - 50)),
            _ => format!("bytes={first}-{last}"),
        };
        part(&gateway, &asked).await;
    }
    assert!(backend.requests() < 100, "{}", backend.requests());
    assert_eq!(gateway.get("/cached/x").await.text(), text(0, LENGTH));
}
