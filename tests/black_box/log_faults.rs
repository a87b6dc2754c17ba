//! Faults of the store, the spool and the clock, injected for real: no client sees any of them, and the account adds up to what the
//! client counted.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::harness::{
    Backend, Config, Folder, Gateway, Load, Mariadb, Relay, Signal, eventually, milliseconds, seconds,
};
use crate::log_account::{account, audit_is_clean};

/// Everything that a client counted is written or lost, and what is written is there.
async fn adds_up(gateway: &Gateway, mariadb: &Mariadb, answered: usize) {
    let metrics = gateway.log_written().await;
    let [accepted, recovered, written, queued, spooled, dropped, unaccounted] = account(&metrics);
    assert_eq!((accepted, unaccounted), (answered as f64, 0.0), "{:?}", account(&metrics));
    assert_eq!(accepted + recovered, written + queued + spooled + dropped);
    assert_eq!(mariadb.number("SELECT COUNT(*) FROM api_logs").await as f64, written);
    assert_eq!(mariadb.number("SELECT COUNT(DISTINCT run, sequence) FROM api_logs").await as f64, written);
}

async fn stop(mut gateway: Gateway) -> Folder {
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait_exit(seconds(15)).await.success(), "{}", gateway.said());
    std::mem::replace(&mut gateway.folder, Folder::new())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_unreachable_at_start_costs_no_client_anything() {
    let (backend, mut mariadb) = (Backend::start().await, Mariadb::start().await);
    mariadb.kill();
    let gateway = Gateway::start(&Config::open(&backend).log(&format!("\"{}\"", mariadb.url()))).await;
    let load = Load::get(gateway.address, "/counted", "").start(4);
    tokio::time::sleep(seconds(3)).await;
    assert!(gateway.said().contains("the store can't be used"), "{}", gateway.said());
    let [accepted, _, written, queued, spooled, dropped, unaccounted] = account(&gateway.metrics().await);
    assert_eq!((written, dropped, unaccounted), (0.0, 0.0, 0.0));
    assert_eq!(accepted, queued + spooled);
    mariadb.revive().await;
    let tally = load.stop().await;
    tally.all(200);
    adds_up(&gateway, &mariadb, tally.answered()).await;
    assert_eq!(account(&gateway.metrics().await)[5], 0.0);
    let folder = stop(gateway).await;
    audit_is_clean(&folder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_paused_for_10_seconds_costs_no_client_anything() {
    let (backend, mariadb) = (Backend::start().await, Mariadb::start().await);
    let config = Config::open(&backend).log(&format!("{{store: \"{}\", queue: 4000}}", mariadb.url()));
    let gateway = Gateway::start(&config).await;
    let load = Load::get(gateway.address, "/counted", "").start(8);
    tokio::time::sleep(seconds(1)).await;
    mariadb.pause();
    tokio::time::sleep(seconds(10)).await;
    mariadb.resume();
    tokio::time::sleep(seconds(1)).await;
    let tally = load.stop().await;
    tally.all(200);
    adds_up(&gateway, &mariadb, tally.answered()).await;
    assert_eq!(account(&gateway.metrics().await)[5], 0.0, "the spool had room: {}", gateway.said());
    let folder = stop(gateway).await;
    audit_is_clean(&folder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_restarts_under_load_costs_no_client_anything() {
    let (backend, mut mariadb) = (Backend::start().await, Mariadb::start().await);
    let config = Config::open(&backend).log(&format!("\"{}\"", mariadb.url()));
    let gateway = Gateway::start(&config).await;
    gateway.log_open().await;
    let load = Load::get(gateway.address, "/counted", "").start(8);
    for _ in 0..3 {
        tokio::time::sleep(milliseconds(700)).await;
        mariadb.kill();
        mariadb.revive().await;
    }
    let tally = load.stop().await;
    tally.all(200);
    adds_up(&gateway, &mariadb, tally.answered()).await;
    assert_eq!(account(&gateway.metrics().await)[5], 0.0);
    let folder = stop(gateway).await;
    audit_is_clean(&folder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_said_once_without_a_storm_and_without_the_password() {
    let (backend, mariadb) = (Backend::start().await, Mariadb::start().await);
    let url = mariadb.url().replace("the-password", "a-wrong-secret");
    let gateway = Gateway::start(&Config::open(&backend).log(&format!("\"{url}\""))).await;
    let load = Load::get(gateway.address, "/counted", "").start(4);
    tokio::time::sleep(seconds(4)).await;
    let tally = load.stop().await;
    tally.all(200);
    assert!(gateway.said().contains("1045"), "the server's error is not told: {}", gateway.said());
    assert!(!gateway.said().contains("a-wrong-secret"));
    let errors = gateway.metrics().await.sum("tollgate_log_store_errors_total", &[]);
    assert!((1.0..=3.0).contains(&errors), "{errors} tries in 4 s");
    let [.., queued, spooled, dropped, _] = account(&gateway.metrics().await);
    assert_eq!((queued + spooled, dropped), (tally.answered() as f64, 0.0));
    let status = gateway.folder.tollgate(&["log", "status", "-c", "tollgate.yaml"]);
    assert_eq!(status.code, Some(1), "{}", status.stdout);
    assert!(status.stdout.contains("AWAY") && !status.stdout.contains("a-wrong-secret"), "{}", status.stdout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_not_create_tables_is_told_what_is_missing_and_goes_on_when_it_is_there() {
    let (backend, mariadb) = (Backend::start().await, Mariadb::start().await);
    mariadb.execute("CREATE USER limited IDENTIFIED BY 'limited-secret'").await;
    mariadb.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON tollgate.* TO limited").await;
    let url = mariadb.url().replace("gateway:the-password", "limited:limited-secret");
    let gateway = Gateway::start(&Config::open(&backend).log(&format!("\"{url}\""))).await;
    let tally = Load::get(gateway.address, "/counted", "").run(4, 200).await;
    tally.all(200);
    eventually("what is missing is told", seconds(10), async || gateway.said().contains("tollgate log migrate")).await;
    assert!(!gateway.said().contains("limited-secret"));
    // Somebody who may.
    let folder = Folder::new();
    folder.file(
        "tollgate.yaml",
        &std::fs::read_to_string(gateway.path("tollgate.yaml")).unwrap().replace(&url, &mariadb.url()),
    );
    let migrated = folder.tollgate(&["log", "migrate", "-c", "tollgate.yaml"]);
    assert_eq!(migrated.code, Some(0), "{}{}", migrated.stdout, migrated.stderr);
    eventually("the log is written", seconds(70), async || account(&gateway.metrics().await)[2] == 200.0).await;
    adds_up(&gateway, &mariadb, tally.answered()).await;
}

#[tokio::test]
async fn a_spool_that_can_not_be_used_stops_the_start() {
    let backend = Backend::start().await;
    let folder = Folder::new();
    folder.file("occupied", "a file, not a folder");
    let config = Config::open(&backend).log("{store: \"sqlite:log.db\", spool: occupied/spool}");
    let mut gateway = Gateway::spawn(folder, &config);
    assert_eq!(gateway.wait_exit(seconds(10)).await.code(), Some(1));
    assert!(gateway.said().contains("log.spool") && gateway.said().contains("occupied"), "{}", gateway.said());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_on_one_spool_are_an_error_that_says_so() {
    let backend = Backend::start().await;
    let shared = Folder::new();
    let spool = shared.path().join("spool").display().to_string();
    let config = Config::open(&backend).log(&format!("{{store: \"sqlite:log.db\", spool: \"{spool}\"}}"));
    let _first = Gateway::start(&config).await;
    let mut second = Gateway::spawn(Folder::new(), &config);
    assert_eq!(second.wait_exit(seconds(10)).await.code(), Some(1));
    assert!(second.said().contains(&spool), "{}", second.said());
}

/// The segments of a spool.
fn segments(spool: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(spool).unwrap().map(|entry| entry.unwrap().path());
    let mut segments: Vec<_> = entries.filter(|path| path.extension().is_some_and(|name| name == "segment")).collect();
    segments.sort();
    segments
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_bytes_in_the_spool_cost_their_batch_and_are_told_and_counted() {
    let (backend, mut mariadb) = (Backend::start().await, Mariadb::start().await);
    let config =
        Config::open(&backend).log(&format!("{{store: \"{}\", flush: {{rows: 10}}, spool: spool}}", mariadb.url()));
    let gateway = Gateway::start(&config).await;
    gateway.get("/").await;
    gateway.log_written().await;
    mariadb.kill();
    for _ in 0..100 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    let folder = stop(gateway).await;
    let segment = segments(&folder.path().join("spool")).remove(0);
    let mut bytes = std::fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&segment, bytes).unwrap();
    mariadb.revive().await;
    let gateway = Gateway::start_in(folder, &config).await;
    eventually("the run before is closed", seconds(20), async || {
        mariadb.number("SELECT COUNT(*) FROM log_runs WHERE closed_at IS NOT NULL").await == 1
    })
    .await;
    let [_, recovered, written, _, spooled, dropped, unaccounted] = account(&gateway.log_written().await);
    assert!(gateway.said().contains("damaged"), "{}", gateway.said());
    assert!((1.0..=20.0).contains(&dropped), "{dropped} dropped");
    assert_eq!((recovered, spooled, unaccounted), (written + dropped, 0.0, 0.0));
    assert_eq!(recovered, 100.0, "each answer that the client counted was recovered, as a row or as a loss");
    assert_eq!(mariadb.number("SELECT COUNT(*) FROM api_logs").await as f64, written + 1.0);
    let lost = mariadb.number("SELECT SUM(`count`) FROM log_drops WHERE reason = 'spool_error'").await;
    assert_eq!(lost as f64, dropped);
    let folder = stop(gateway).await;
    audit_is_clean(&folder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_back_an_hour_loses_and_doubles_nothing() {
    let (backend, mariadb) = (Backend::start().await, Mariadb::start().await);
    let config = Config::open(&backend).log(&format!("\"{}\"", mariadb.url()));
    let gateway = Gateway::start_at(&config, "+0").await;
    let load = Load::get(gateway.address, "/counted", "").start(4);
    tokio::time::sleep(seconds(2)).await;
    gateway.set_clock("-3600");
    tokio::time::sleep(seconds(3)).await;
    let tally = load.stop().await;
    tally.all(200);
    adds_up(&gateway, &mariadb, tally.answered()).await;
    assert_eq!(account(&gateway.metrics().await)[5], 0.0);
    let back =
        mariadb.number("SELECT COUNT(*) FROM api_logs WHERE timestamp < UTC_TIMESTAMP() - INTERVAL 30 MINUTE").await;
    assert!(back > 0 && back < tally.answered() as i64, "the clock did not jump: {back} of {}", tally.answered());
    assert_eq!(mariadb.number("SELECT SUM(`count`) FROM api_usage_minute").await, tally.answered() as i64);
    let folder = stop(gateway).await;
    audit_is_clean(&folder);
}

#[tokio::test]
async fn a_path_of_8_kib_without_sense_and_an_emoji_agent_are_stored_cut_and_marked() {
    let (backend, mariadb) = (Backend::start().await, Mariadb::start().await);
    let config = Config::open(&backend).log(&format!("\"{}\"", mariadb.url()));
    let gateway = Gateway::start(&config).await;
    // Raw bytes that are no text, and the same in the only form in which a path may have them.
    for (path, expected) in [(&b"\xff\xfe\xf0\x9f".to_vec(), 400), (&b"%ff%fe%f0%9f".repeat(690), 200)] {
        let mut request = b"GET /".to_vec();
        request.extend(path);
        request.extend(b" HTTP/1.1\r\nHost: gateway.example\r\nUser-Agent: ");
        request.extend("\u{1f600}".repeat(100).into_bytes());
        request.extend(b"\r\n\r\n");
        let mut wire = gateway.wire().await;
        wire.send(&request).await;
        assert_eq!(wire.answer().await.status, expected);
    }
    assert_eq!(gateway.get("/after").await.status, 200);
    let metrics = gateway.log_written().await;
    assert_eq!(metrics.sum("tollgate_log_records_dropped_total", &[]), 0.0, "{}", gateway.said());
    // What breaks HTTP itself is no exchange, and counted apart.
    let rejected = metrics.sum("tollgate_rejected_total", &[]);
    assert_eq!(account(&metrics)[2] + rejected, 3.0, "as many as the client has answers");
    assert_eq!(mariadb.number("SELECT COUNT(*) FROM api_logs").await as f64, account(&metrics)[2]);
    let agents = mariadb.number("SELECT COUNT(*) FROM api_logs WHERE user_agent LIKE '\u{1f600}%\u{2026}'").await;
    assert_eq!(agents, 1);
    assert_eq!(mariadb.number("SELECT MAX(OCTET_LENGTH(path)) FROM api_logs").await, 2_048);
}

/// Medians of p50 and p99 in microseconds over requests one after the other on one connection.
async fn latency(gateway: &Gateway, requests: usize) -> (f64, f64) {
    let mut wire = gateway.wire().await;
    let mut times = Vec::with_capacity(requests);
    for _ in 0..requests {
        let began = Instant::now();
        assert_eq!(wire.get("/timed", "").await.status, 200);
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    (times[requests / 2], times[requests * 99 / 100])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_hangs_holds_no_request() {
    let (backend, mariadb) = (Backend::start().await, Mariadb::start().await);
    let gateway = Gateway::start(&Config::open(&backend).log(&format!("\"{}\"", mariadb.url()))).await;
    latency(&gateway, 500).await;
    mariadb.pause();
    // While the server is stopped no call to it returns within 10 s: one request that waited for it would show.
    let (median, slow) = latency(&gateway, 3_000).await;
    mariadb.resume();
    assert!(median < 20_000.0 && slow < 1_000_000.0, "median {median} us, 99% {slow} us");
    gateway.log_written().await;
}

/// Lets a store be away for longer than the longest pause between two tries takes to be reached, under load, and wants that the
/// spool is being replayed within 5 s of its return.
async fn comes_back<T>(gateway: &Gateway, away: Duration, come_back: impl Future<Output = T>) {
    let load = Load::get(gateway.address, "/counted", "").start(4);
    tokio::time::sleep(away).await;
    load.stop().await.all(200);
    let [_, _, written, _, spooled, dropped, _] = account(&gateway.metrics().await);
    assert!(spooled > 100.0 && dropped == 0.0, "{spooled} spooled, {dropped} dropped: {}", gateway.said());
    come_back.await;
    let back = Instant::now();
    eventually("the spool is replayed", seconds(10), async || account(&gateway.metrics().await)[2] > written).await;
    assert!(back.elapsed() <= seconds(5), "replay began only after {:?}: {}", back.elapsed(), gateway.said());
    gateway.log_written().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_begins_within_5_seconds_of_the_return_of_a_dead_store() {
    let (backend, mut mariadb) = (Backend::start().await, Mariadb::start().await);
    let log = format!("{{store: \"{}\", queue: 20000}}", mariadb.url());
    let gateway = Gateway::start(&Config::open(&backend).log(&log)).await;
    assert_eq!(gateway.get("/first").await.status, 200);
    gateway.log_written().await;
    mariadb.kill();
    comes_back(&gateway, seconds(16), mariadb.revive()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replay_begins_within_5_seconds_of_the_return_of_a_silent_store() {
    let (backend, mariadb) = (Backend::start().await, Mariadb::start().await);
    let relay = Relay::to(mariadb.address()).await;
    let url = mariadb.url().replace(&mariadb.address().to_string(), &relay.address.to_string());
    let log = format!("{{store: \"{url}\", queue: 20000}}");
    let gateway = Gateway::start(&Config::open(&backend).log(&log)).await;
    assert_eq!(gateway.get("/first").await.status, 200);
    gateway.log_written().await;
    relay.swallow(true);
    // The call that is under way is given up after 10 s; then a connection is tried, which nobody refuses.
    comes_back(&gateway, milliseconds(14_500), async { relay.swallow(false) }).await;
}
