//! The cache's tier on disk: warm after a restart and after a kill, nothing damaged and nothing purged is ever served, and a
//! disk that fails costs hits, never an answer.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::harness::{
    Answer, Backend, Config, Disk, Folder, Gateway, Reply, Signal, eventually, milliseconds, seconds,
};

fn config(backend: &Backend) -> Config {
    sized(backend, "{memory: 16mb, disk: {path: data/cache, size: 64mb}}")
}

fn sized(backend: &Backend, cache: &str) -> Config {
    let route = "to: service, keys: none, cache: {ttl: 1h, stale_if_error: 1h}";
    Config::open(backend).route("/cached/*", route).section(&format!("cache: {cache}"))
}

async fn disk(gateway: &Gateway) -> Value {
    gateway.admin_get("/admin/cache").await.json()["disk"].clone()
}

/// Waits until the folder was looked at and nothing waits to be written.
async fn settled(gateway: &Gateway) {
    eventually("written", seconds(20), async || {
        let disk = disk(gateway).await;
        disk["state"] == "open" && disk["queued"] == 0
    })
    .await;
}

/// Ends in order and starts again.
async fn restarted(mut gateway: Gateway, config: &Config) -> Gateway {
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait_exit(seconds(20)).await.success(), "{}", gateway.said());
    let gateway = gateway.again(config).await;
    settled(&gateway).await;
    gateway
}

/// Is killed and starts again.
async fn killed(gateway: Gateway, config: &Config) -> Gateway {
    let gateway = gateway.again(config).await;
    settled(&gateway).await;
    gateway
}

fn is_hit(answer: &Answer) -> bool {
    answer.header("cache-status").is_some_and(|status| status.contains("; hit"))
}

async fn purge(gateway: &Gateway, what: Value) -> u64 {
    gateway.admin_post("/admin/cache/purge").body(what.to_string()).await.json()["purged"].as_u64().expect("a number")
}

fn files(gateway: &Gateway) -> Vec<PathBuf> {
    let parts =
        std::fs::read_dir(gateway.path("data/cache")).expect("the folder").map(|part| part.expect("a part").path());
    let files = parts.filter(|part| part.is_dir()).flat_map(|part| std::fs::read_dir(part).expect("a part"));
    files.map(|file| file.expect("a file").path()).collect()
}

#[tokio::test]
async fn answers_outlive_a_restart_in_order_and_a_kill() {
    let backend = Backend::scripted(|seen| {
        let reply = Reply::ok(&format!("{} {}", seen.target, seen.header("accept-language").unwrap_or("-")));
        reply.with("Vary", "Accept-Language").with("ETag", "\"1\"").with("X-Is", "kept")
    })
    .await;
    let config = config(&backend);
    let mut gateway = Gateway::start(&config).await;
    let ask = async |gateway: &Gateway, path: &str, language: &str| {
        let answer = gateway.get(path).header("accept-language", language).await;
        assert_eq!(answer.text(), format!("{path} {language}"));
        assert_eq!(answer.header("x-is"), Some("kept"));
        is_hit(&answer)
    };
    for language in ["de", "en"] {
        for number in 0..20 {
            assert!(!ask(&gateway, &format!("/cached/{number}?q"), language).await);
        }
    }
    settled(&gateway).await;
    for round in 0..2 {
        gateway = if round == 0 { restarted(gateway, &config).await } else { killed(gateway, &config).await };
        for language in ["de", "en"] {
            for number in 0..20 {
                assert!(ask(&gateway, &format!("/cached/{number}?q"), language).await, "round {round}");
            }
        }
        let state = disk(&gateway).await;
        assert_eq!(
            (&state["entries"], &state["corrupt"], &state["errors"]),
            (&json!(40), &json!(0), &json!(0)),
            "{state}"
        );
        assert!(state["hits"].as_u64() >= Some(20), "{state}");
    }
    assert_eq!(backend.requests(), 40);
    let metrics = gateway.metrics().await;
    assert_eq!(metrics.sum("tollgate_cache_disk_entries", &[]), 40.0);
    assert!(metrics.sum("tollgate_cache_disk_hits_total", &[]) >= 20.0);
    let stats = gateway.folder.tollgate(&["cache", "stats", "-c", "tollgate.yaml"]).stdout;
    assert!(stats.contains("on disk      40 answers") && stats.contains("(open)"), "{stats}");
}

#[tokio::test]
async fn it_is_told_where_an_answer_is() {
    let backend = Backend::start().await;
    let config = config(&backend);
    let gateway = Gateway::start(&config).await;
    let url = format!("http://{}/cached/x", gateway.address);
    let stored = async |gateway: &Gateway| {
        gateway.admin_get(&format!("/admin/cache/show?url={url}")).await.json()["entries"][0].clone()
    };
    gateway.get("/cached/x").await;
    settled(&gateway).await;
    assert_eq!(stored(&gateway).await["stored"], "memory and disk");
    let gateway = restarted(gateway, &config).await;
    let entry = stored(&gateway).await;
    assert_eq!((&entry["stored"], &entry["state"], &entry["status"]), (&json!("disk"), &json!("fresh"), &json!(200)));
    assert!(entry["body_bytes"].as_u64() > Some(0), "{entry}");
    let shown = gateway.folder.tollgate(&["cache", "show", &url, "-c", "tollgate.yaml"]).stdout;
    assert!(shown.contains("stored in  disk\n"), "{shown}");
    assert!(is_hit(&gateway.get("/cached/x").await));
    assert_eq!(stored(&gateway).await["stored"], "memory and disk");
    // Without a disk nothing is said about one.
    let plain = Gateway::start(&Config::open(&backend).route("/cached/*", "to: service, keys: none, cache: 1h")).await;
    assert_eq!(disk(&plain).await, Value::Null);
}

#[tokio::test]
async fn what_was_purged_or_changed_is_gone_after_a_kill() {
    let backend = Backend::scripted(|seen| Reply::ok("old").with("Cache-Tag", &seen.target.replace('/', "-"))).await;
    let config = config(&backend);
    let gateway = Gateway::start(&config).await;
    let paths = ["/cached/a/1", "/cached/a/2", "/cached/b", "/cached/c", "/cached/d", "/cached/soft", "/cached/kept"];
    for path in paths {
        gateway.get(path).await;
    }
    settled(&gateway).await;
    // Of some only the disk knows, of some memory as well.
    let gateway = killed(gateway, &config).await;
    for path in &paths[1..3] {
        assert!(is_hit(&gateway.get(path).await));
    }
    let url = |path: &str| format!("http://{}{path}", gateway.address);
    assert_eq!(purge(&gateway, json!({"prefix": url("/cached/a/")})).await, 2);
    assert_eq!(purge(&gateway, json!({"url": url("/cached/b")})).await, 1);
    assert_eq!(purge(&gateway, json!({"tag": "-cached-c"})).await, 1);
    gateway.post("/cached/d").await;
    assert_eq!(purge(&gateway, json!({"tag": "-cached-soft", "soft": true})).await, 1);
    let gateway = killed(gateway, &config).await;
    backend.plays(|_| Reply::ok("new"));
    for path in &paths[..5] {
        assert_eq!(gateway.get(path).await.text(), "new", "{path}");
    }
    backend.plays(|_| Reply::status(500, "broken"));
    let soft = gateway.get("/cached/soft").await;
    assert!(
        soft.text() == "old" && soft.header("cache-status").is_some_and(|status| status.contains("stale")),
        "{soft:?}"
    );
    assert_eq!(gateway.get("/cached/kept").await.text(), "old");
    assert_eq!(purge(&gateway, json!({"route": "/cached/*"})).await, 7);
    assert_eq!(purge(&gateway, json!({"all": true})).await, 0);
    assert_eq!(files(&gateway).len(), 0);
}

/// A body that tells its own checksum, of a length that its path tells.
fn sealed(path: &str, fetched: usize) -> String {
    let length = crc32fast::hash(path.as_bytes()) as usize % 200_000;
    let text = format!("{path} {fetched} ").repeat(length / 20 + 1);
    format!("{:08x}{text}", crc32fast::hash(text.as_bytes()))
}

/// Which fetch it came from; fails where it is not whole, or of another path.
fn opened(path: &str, body: &str) -> usize {
    let (sum, text) = body.split_at(8);
    assert_eq!(sum, format!("{:08x}", crc32fast::hash(text.as_bytes())), "a damaged answer of {path}");
    let mut words = text.split(' ');
    assert_eq!(words.next(), Some(path));
    words.next().expect("a number").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_during_fills_leaves_warm_answers_none_damaged_and_none_that_was_purged() {
    static FETCHED: AtomicUsize = AtomicUsize::new(0);
    let backend =
        Backend::scripted(|seen| Reply::ok(&sealed(&seen.target, FETCHED.fetch_add(1, Ordering::SeqCst)))).await;
    let config = config(&backend);
    let mut gateway = Gateway::start(&config).await;
    for round in 0..3 {
        // Fetches before a purge that is over are before this number.
        let purged: Mutex<Vec<(String, usize)>> = Mutex::default();
        let fills = futures::future::join_all((0..12).map(|task| {
            let (gateway, purged) = (&gateway, &purged);
            async move {
                for number in 0.. {
                    let path = format!("/cached/{round}/{task}/{}", number % 40);
                    let Ok(answer) = gateway.get(&path).attempt().await else { return };
                    opened(&path, &answer.text());
                    if number % 5 == 0 {
                        let before = FETCHED.load(Ordering::SeqCst);
                        let body = json!({"url": format!("http://{}{path}", gateway.address)}).to_string();
                        let asked = gateway.admin_post("/admin/cache/purge").body(body).attempt().await;
                        if asked.is_ok_and(|answer| answer.status == 200) {
                            purged.lock().expect("purged").push((path, before));
                        }
                    }
                }
            }
        }));
        let kill = async {
            // However slow the machine is.
            eventually("purges", seconds(20), async || purged.lock().expect("purged").len() > 30).await;
            tokio::time::sleep(milliseconds(200 + 100 * round)).await;
            gateway.signal(Signal::SIGKILL);
        };
        futures::future::join(fills, kill).await;
        gateway = killed(gateway, &config).await;
        let purged = purged.into_inner().expect("purged");
        let mut hits = HashSet::new();
        for path in (0..12).flat_map(|task| (0..40).map(move |number| format!("/cached/{round}/{task}/{number}"))) {
            let answer = gateway.get(&path).await;
            let fetched = opened(&path, &answer.text());
            if is_hit(&answer) {
                for (_, before) in purged.iter().filter(|(other, _)| *other == path) {
                    assert!(fetched >= *before, "{path} of fetch {fetched} came back, purged before {before}");
                }
                hits.insert(path);
            }
        }
        let state = disk(&gateway).await;
        assert!(hits.len() > 20, "{} hits, {} purged, {state}", hits.len(), purged.len());
        assert!(state["bytes"].as_u64() <= Some(64 << 20), "{state}");
    }
}

#[tokio::test]
async fn a_damaged_file_is_a_miss() {
    let backend = Backend::start().await;
    let config = config(&backend);
    let gateway = Gateway::start(&config).await;
    for number in 0..4 {
        gateway.get(&format!("/cached/{number}")).await;
    }
    settled(&gateway).await;
    let gateway = killed(gateway, &config).await;
    for (number, file) in files(&gateway).into_iter().enumerate() {
        let mut bytes = std::fs::read(&file).expect("a file");
        match number {
            0 => bytes.truncate(bytes.len() - 1),
            1 => *bytes.last_mut().expect("a byte") ^= 4,
            2 => bytes[40] ^= 4,
            _ => bytes = b"something else".to_vec(),
        }
        std::fs::write(file, bytes).expect("a file");
    }
    for number in 0..4 {
        let answer = gateway.get(&format!("/cached/{number}")).await;
        assert!(answer.status == 200 && !is_hit(&answer), "{answer:?}");
    }
    settled(&gateway).await;
    let state = disk(&gateway).await;
    assert_eq!((&state["corrupt"], &state["entries"]), (&json!(4), &json!(4)), "{state}");
    assert_eq!(gateway.metrics().await.sum("tollgate_cache_disk_corrupt_total", &[]), 4.0);
}

#[tokio::test]
async fn a_full_disk_is_counted_and_told_and_hurts_no_request() {
    let (backend, folder) = (Backend::scripted(|_| Reply::ok(&"x".repeat(100_000))).await, Folder::new());
    let small = Disk::at(&folder.path().join("data"), 4_096);
    let gateway = Gateway::start_on(&small, folder, &config(&backend)).await;
    small.leave(512);
    for number in 0..60 {
        let answer = gateway.get(&format!("/cached/{number}")).await;
        assert_eq!((answer.status, answer.body.len()), (200, 100_000));
    }
    settled(&gateway).await;
    let state = disk(&gateway).await;
    assert!(state["errors"].as_u64() > Some(0) && state["dropped_writes"].as_u64() > Some(0), "{state}");
    let said = gateway.said();
    assert_eq!(said.matches("No space left").count(), 1, "{said}");
    assert!(said.contains("cache.disk.path"), "{said}");
    small.empty();
    gateway.get("/cached/new").await;
    settled(&gateway).await;
    assert!(disk(&gateway).await["entries"].as_u64() > Some(0));
}

#[tokio::test]
async fn a_second_gateway_waits_for_the_folder() {
    let backend = Backend::start().await;
    let folder = Folder::new();
    let path = folder.path().join("cache");
    let config = sized(&backend, &format!("{{memory: 16mb, disk: {{path: '{}', size: 64mb}}}}", path.display()));
    let mut first = Gateway::start(&config).await;
    first.get("/cached/x").header("host", "shared.example").await;
    let second = Gateway::start(&config).await;
    second.says("that another one has the folder", |said| said.contains("another process has the folder")).await;
    assert_eq!(disk(&second).await["state"], "waiting");
    assert_eq!(second.get("/cached/y").await.status, 200);
    first.signal(Signal::SIGTERM);
    assert!(first.wait_exit(seconds(20)).await.success());
    settled(&second).await;
    assert!(is_hit(&second.get("/cached/x").header("host", "shared.example").await));
    assert_eq!(disk(&second).await["entries"], 2);
}

#[tokio::test]
async fn the_size_can_change_at_a_reload_and_the_folder_can_not() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend)).await;
    gateway.reload(&sized(&backend, "{memory: 32mb, disk: {path: data/cache, size: 32mb}}")).await;
    let state = disk(&gateway).await;
    assert_eq!((&state["bytes_max"], &state["index_bytes_max"]), (&json!(32 << 20), &json!(4 << 20)), "{state}");
    for other in ["{memory: 32mb}", "{memory: 32mb, disk: {path: data/other, size: 32mb}}"] {
        let refused = gateway.try_reload(&sized(&backend, other)).await.text();
        assert!(refused.contains("`cache.disk.path` can only change at start"), "{refused}");
    }
}

#[tokio::test]
async fn a_folder_that_can_not_be_used_is_found_by_check_and_by_start() {
    let backend = Backend::start().await;
    let folder = Folder::new();
    folder.file("other", "no folder");
    let config = sized(&backend, "{memory: 16mb, disk: {path: other/cache, size: 64mb}}");
    let mut gateway = Gateway::spawn(folder, &config);
    assert!(!gateway.wait_exit(seconds(20)).await.success());
    gateway.says("why", |said| said.contains("cache.disk.path: ") && said.contains("other is no folder")).await;
    let checked = gateway.folder.tollgate(&["check", "-c", "tollgate.yaml"]);
    let told = format!("{}{}", checked.stdout, checked.stderr);
    assert!(told.contains("cache.disk.path: ") && told.contains("other is no folder"), "{told}");
}
