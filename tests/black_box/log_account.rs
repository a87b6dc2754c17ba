//! The account of the request log: what was answered is written, waits, or is lost and counted, whatever becomes of the store
//! and of the gateway; and the database alone proves it afterwards.

use crate::harness::{
    Backend, Config, Folder, Gateway, Load, Mariadb, Metrics, Relay, Signal, eventually, milliseconds, seconds,
};

/// Each number of the account, and what is missing in it.
pub fn account(metrics: &Metrics) -> [f64; 7] {
    let state = |state: &str| metrics.sum("tollgate_log_records_total", &[("state", state)]);
    [
        state("accepted"),
        state("recovered"),
        state("written"),
        metrics.sum("tollgate_log_queued_records", &[]),
        metrics.sum("tollgate_log_spooled_records", &[]),
        metrics.sum("tollgate_log_records_dropped_total", &[]),
        metrics.sum("tollgate_log_unaccounted_records", &[]),
    ]
}

pub fn balances(metrics: &Metrics) {
    let [accepted, recovered, written, queued, spooled, dropped, unaccounted] = account(metrics);
    assert_eq!(accepted + recovered, written + queued + spooled + dropped, "{:?}", account(metrics));
    assert_eq!(unaccounted, 0.0);
}

/// A log in a server, with further fields.
fn log_in(mariadb: &Mariadb, fields: &str) -> String {
    format!("{{store: \"{}\", {fields}}}", mariadb.url())
}

/// What the database says of itself: no finding.
pub fn audit_is_clean(folder: &Folder) {
    let audit = folder.tollgate(&["log", "audit", "-c", "tollgate.yaml"]);
    assert_eq!(audit.code, Some(0), "{}{}", audit.stdout, audit.stderr);
}

/// Stops a gateway in order; its folder is left.
async fn stop(mut gateway: Gateway) -> Folder {
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait_exit(seconds(15)).await.success(), "{}", gateway.said());
    std::mem::replace(&mut gateway.folder, Folder::new())
}

async fn kill(mut gateway: Gateway) -> Folder {
    gateway.signal(Signal::SIGKILL);
    gateway.wait_exit(seconds(5)).await;
    std::mem::replace(&mut gateway.folder, Folder::new())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_unaccounted_in_any_scrape_of_a_minute_under_load() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend).log("sqlite:log.db")).await;
    let load = Load::get(gateway.address, "/counted", "").start(16);
    for _ in 0..60 {
        tokio::time::sleep(seconds(1)).await;
        balances(&gateway.metrics().await);
    }
    let tally = load.stop().await;
    tally.all(200);
    let metrics = gateway.log_written().await;
    balances(&metrics);
    assert_eq!(account(&metrics)[2], tally.answered() as f64);
    let status = gateway.folder.tollgate(&["log", "status", "-c", "tollgate.yaml"]);
    assert_eq!(status.code, Some(0), "{}", status.stderr);
    assert!(status.stdout.contains("unaccounted             0"), "{}", status.stdout);
    let folder = stop(gateway).await;
    audit_is_clean(&folder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_costs_nothing_while_the_spool_has_room() {
    let (backend, mut mariadb) = (Backend::start().await, Mariadb::start().await);
    let config = Config::open(&backend).log(&log_in(&mariadb, "queue: 2000"));
    let gateway = Gateway::start(&config).await;
    gateway.log_open().await;
    let load = Load::get(gateway.address, "/counted", "").start(8);
    tokio::time::sleep(seconds(1)).await;
    mariadb.kill();
    for _ in 0..8 {
        tokio::time::sleep(milliseconds(500)).await;
        balances(&gateway.metrics().await);
    }
    assert!(account(&gateway.metrics().await)[4] > 100.0, "the spool holds nothing: {}", gateway.said());
    mariadb.revive().await;
    let back = std::time::Instant::now();
    let before = account(&gateway.metrics().await)[2];
    eventually("the spool is replayed", seconds(30), async || account(&gateway.metrics().await)[2] > before).await;
    assert!(back.elapsed() < seconds(6), "replay began only after {:?}", back.elapsed());
    let tally = load.stop().await;
    tally.all(200);
    let metrics = gateway.log_written().await;
    balances(&metrics);
    assert_eq!(account(&metrics)[5], 0.0, "nothing may be lost");
    assert_eq!(mariadb.number("SELECT COUNT(*) FROM api_logs").await, tally.answered() as i64);
    assert_eq!(mariadb.number("SELECT SUM(`count`) FROM api_usage_minute").await, tally.answered() as i64);
    let folder = stop(gateway).await;
    audit_is_clean(&folder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_queued_at_the_end_goes_to_the_spool_and_is_stored_by_the_next_start() {
    let (backend, mut mariadb) = (Backend::start().await, Mariadb::start().await);
    let config = Config::open(&backend).log(&log_in(&mariadb, "flush: {age: 60s}"));
    let gateway = Gateway::start(&config).await;
    gateway.get("/").await;
    gateway.log_open().await;
    mariadb.kill();
    for _ in 0..50 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    let folder = stop(gateway).await;
    mariadb.revive().await;
    let gateway = Gateway::start_in(folder, &config).await;
    eventually("everything is recovered", seconds(20), async || {
        let [_, recovered, written, ..] = account(&gateway.metrics().await);
        recovered >= 50.0 && written == recovered
    })
    .await;
    balances(&gateway.metrics().await);
    let folder = stop(gateway).await;
    assert_eq!(mariadb.number("SELECT COUNT(*) FROM api_logs").await, 51);
    assert_eq!(mariadb.number("SELECT COUNT(*) FROM log_runs WHERE closed_at IS NOT NULL").await, 2);
    assert_eq!(mariadb.number("SELECT COUNT(*) FROM log_drops").await, 0);
    audit_is_clean(&folder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_gateway_loses_at_most_what_was_in_memory_and_the_audit_says_so() {
    let (backend, mut mariadb) = (Backend::start().await, Mariadb::start().await);
    let config = Config::open(&backend).log(&log_in(&mariadb, "queue: 2000"));
    let gateway = Gateway::start(&config).await;
    gateway.log_open().await;
    let load = Load::get(gateway.address, "/counted", "").start(8);
    tokio::time::sleep(seconds(2)).await;
    mariadb.kill();
    tokio::time::sleep(seconds(3)).await;
    let before = account(&gateway.metrics().await);
    let folder = kill(gateway).await;
    let answered = load.stop().await.answered() as i64;
    mariadb.revive().await;
    // The database alone: a run that neither lives nor was closed, once its last beat is a minute old.
    mariadb.execute("UPDATE log_runs SET beat_at = beat_at - INTERVAL 2 MINUTE").await;
    let audit = folder.tollgate(&["log", "audit", "-c", "tollgate.yaml"]);
    assert!(audit.stdout.contains("killed after number"), "{}{}", audit.stdout, audit.stderr);
    assert_eq!(audit.code, Some(0), "a kill is told, and is no finding: {}", audit.stdout);
    let gateway = Gateway::start_in(folder, &config).await;
    eventually("the killed run is closed", seconds(20), async || {
        mariadb.number("SELECT COUNT(*) FROM log_runs WHERE closed_at IS NOT NULL").await == 1
    })
    .await;
    let rows = mariadb.number("SELECT COUNT(*) FROM api_logs").await;
    assert!(rows as f64 >= before[2] + before[4], "{rows} rows, of {before:?}");
    let lost = mariadb.number("SELECT COALESCE(SUM(`count`), 0) FROM log_drops WHERE reason = 'killed'").await;
    assert!(rows <= answered + 8 && rows + lost + 2_000 >= answered, "{rows} rows, {lost} lost, {answered} answered");
    let folder = stop(gateway).await;
    audit_is_clean(&folder);
    let audit = folder.tollgate(&["log", "audit", "-c", "tollgate.yaml"]);
    assert!(audit.stdout.contains("closed after number"), "{}", audit.stdout);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_killed_beside_a_healthy_store_is_never_told_as_one_that_ended_in_order() {
    let backend = Backend::start().await;
    let config = Config::open(&backend).log("sqlite:log.db");
    let mut gateway = Gateway::start(&config).await;
    let mut answered = 0;
    for _ in 0..3 {
        let load = Load::get(gateway.address, "/counted", "").start(4);
        tokio::time::sleep(seconds(1)).await;
        let folder = kill(gateway).await;
        answered += load.stop().await.answered();
        gateway = Gateway::start_in(folder, &config).await;
    }
    let folder = stop(gateway).await;
    let audit = folder.tollgate(&["log", "audit", "-c", "tollgate.yaml", "--format", "json"]);
    assert_eq!(audit.code, Some(0), "{}{}", audit.stdout, audit.stderr);
    let audit: serde_json::Value = serde_json::from_str(&audit.stdout).unwrap();
    let runs = audit["runs"].as_array().unwrap();
    let states: Vec<&str> = runs.iter().map(|run| run["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["killed_and_closed", "killed_and_closed", "killed_and_closed", "closed"], "{audit:#}");
    let stored: u64 = runs.iter().map(|run| run["rows"].as_u64().unwrap()).sum();
    assert!(stored > 0 && stored <= answered as u64 + 12, "{stored} rows, {answered} answers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_taken_out_of_the_database_is_a_finding() {
    let (backend, mut mariadb) = (Backend::start().await, Mariadb::start().await);
    let config = Config::open(&backend).log(&log_in(&mariadb, "queue: 100, spool: none, flush: {rows: 10}"));
    let gateway = Gateway::start(&config).await;
    Load::get(gateway.address, "/", "").run(4, 100).await.all(200);
    gateway.log_written().await;
    mariadb.kill();
    Load::get(gateway.address, "/", "").run(4, 200).await.all(200);
    mariadb.revive().await;
    gateway.log_written().await;
    let folder = stop(gateway).await;
    audit_is_clean(&folder);
    let middle = "SELECT first FROM (SELECT first FROM log_batches ORDER BY first LIMIT 1 OFFSET 2) AS third";
    for (damage, finding) in [
        ("DELETE FROM api_logs WHERE sequence = 7".to_owned(), "rows are missing"),
        ("DELETE FROM log_drops WHERE reason = 'queue_full'".to_owned(), "records were dropped, the checkpoints say"),
        (
            format!("UPDATE log_batches SET last = last - 1, `rows` = `rows` - 1 WHERE first = ({middle})"),
            "are in no batch",
        ),
        (format!("UPDATE log_batches SET last = last + 2 WHERE first = ({middle})"), "are in two batches"),
    ] {
        mariadb.execute(&damage).await;
        let audit = folder.tollgate(&["log", "audit", "-c", "tollgate.yaml"]);
        assert_eq!(audit.code, Some(1), "{}{}", audit.stdout, audit.stderr);
        assert!(audit.stdout.contains(finding), "{finding}: {}", audit.stdout);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut_in_the_middle_stores_nothing_twice() {
    let (backend, mariadb) = (Backend::start().await, Mariadb::start().await);
    let relay = Relay::to(mariadb.address()).await;
    let url = mariadb.url().replace(&mariadb.address().to_string(), &relay.address.to_string());
    let config = Config::open(&backend).log(&format!("{{store: \"{url}\", flush: {{rows: 200}}}}"));
    let gateway = Gateway::start(&config).await;
    let load = Load::get(gateway.address, "/counted", "").start(8);
    for bytes in [30_000, 77_777, 5_000, 150_000, 41_234, 99_999] {
        relay.cut_after(bytes);
        tokio::time::sleep(seconds(1)).await;
    }
    relay.cut_after(0);
    let tally = load.stop().await;
    tally.all(200);
    let metrics = gateway.log_written().await;
    balances(&metrics);
    assert!(relay.cuts() > 3, "only {} connections were cut", relay.cuts());
    assert_eq!(mariadb.number("SELECT COUNT(*) FROM api_logs").await, tally.answered() as i64);
    assert_eq!(mariadb.number("SELECT SUM(`count`) FROM api_usage_minute").await, tally.answered() as i64);
    assert_eq!(mariadb.number("SELECT COUNT(DISTINCT run, sequence) FROM api_logs").await, tally.answered() as i64);
    let folder = stop(gateway).await;
    audit_is_clean(&folder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_share_a_database_and_never_each_others_rows() {
    let (backend, mariadb) = (Backend::start().await, Mariadb::start().await);
    let config = Config::open(&backend).log(&log_in(&mariadb, "spool_max: 64mb"));
    // Both at once: only one of them may migrate.
    let (one, two) = tokio::join!(Gateway::start(&config), Gateway::start(&config));
    let loads = [&one, &two].map(|gateway| Load::get(gateway.address, "/counted", "").start(4));
    tokio::time::sleep(seconds(3)).await;
    let mut answered = 0;
    for load in loads {
        let tally = load.stop().await;
        tally.all(200);
        answered += tally.answered() as i64;
    }
    for gateway in [&one, &two] {
        balances(&gateway.log_written().await);
    }
    assert_eq!(mariadb.number("SELECT COUNT(*) FROM api_logs").await, answered);
    assert_eq!(mariadb.number("SELECT SUM(`count`) FROM api_usage_minute").await, answered);
    assert_eq!(mariadb.number("SELECT COUNT(*) FROM log_runs").await, 2);
    stop(one).await;
    let folder = stop(two).await;
    audit_is_clean(&folder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_attack_refusals_are_dropped_first_and_counted_all_the_same() {
    let (backend, mut mariadb) = (Backend::start().await, Mariadb::start().await);
    let config = Config::new()
        .service("service", &[backend.address])
        .route("/good", "to: service, keys: none")
        .log(&log_in(&mariadb, "queue: 1000, spool: none"));
    let gateway = Gateway::start(&config).await;
    gateway.get("/good").await;
    gateway.log_written().await;
    mariadb.kill();
    // Nobody's route: 404 each. They fill half of the queue, and no more.
    Load::get(gateway.address, "/attack", "").run(8, 3_000).await.all(404);
    Load::get(gateway.address, "/good", "").run(4, 300).await.all(200);
    let metrics = gateway.metrics().await;
    balances(&metrics);
    let dropped = |reason: &str| metrics.sum("tollgate_log_records_dropped_total", &[("reason", reason)]);
    assert!(dropped("refusal") > 2_000.0, "{:?}", account(&metrics));
    assert_eq!(dropped("queue_full"), 0.0);
    mariadb.revive().await;
    gateway.log_written().await;
    assert_eq!(mariadb.number("SELECT COUNT(*) FROM api_logs WHERE endpoint = '/good'").await, 301);
    assert_eq!(mariadb.number("SELECT SUM(`count`) FROM api_usage_minute WHERE status = 404").await, 3_000);
    assert_eq!(mariadb.number("SELECT SUM(`count`) FROM api_usage_minute").await, 3_301);
    let dropped = dropped("refusal") as i64;
    let folder = stop(gateway).await;
    assert_eq!(mariadb.number("SELECT SUM(`count`) FROM log_drops WHERE reason = 'refusal'").await, dropped);
    audit_is_clean(&folder);
}
