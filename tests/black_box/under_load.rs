//! Accounts that must add up under load: every request that was answered is a row, or is counted as dropped.

use crate::harness::{Backend, Config, Gateway, Load, Mariadb, milliseconds, seconds};

const REQUESTS: usize = 50_000;
const CONNECTIONS: usize = 64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_holds_exactly_the_50000_requests_that_were_answered() {
    let backend = Backend::start().await;
    let mut gateway = Gateway::start(&Config::open(&backend).log("sqlite:log.db")).await;
    let tally = Load::get(gateway.address, "/counted", "").run(CONNECTIONS, REQUESTS).await;
    tally.all(200);
    assert_eq!(tally.answered(), REQUESTS);
    let metrics = gateway.log_written().await;
    assert_eq!(metrics.sum("tollgate_log_records_total", &[("state", "written")]), REQUESTS as f64);
    assert_eq!(metrics.sum("tollgate_http_requests_total", &[("code", "200")]), REQUESTS as f64);
    assert_eq!(gateway.sqlite_number("SELECT COUNT(*) FROM api_logs"), REQUESTS as i64);
    assert_eq!(gateway.sqlite_number("SELECT COUNT(DISTINCT request_id) FROM api_logs"), REQUESTS as i64);
    assert_eq!(gateway.sqlite_number("SELECT MAX(sequence) - MIN(sequence) + 1 FROM api_logs"), REQUESTS as i64);
    gateway.signal(crate::harness::Signal::SIGTERM);
    assert!(gateway.wait_exit(seconds(5)).await.success());
    assert_eq!(gateway.sqlite_number("SELECT written FROM log_runs WHERE closed_at IS NOT NULL"), REQUESTS as i64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mariadb_holds_exactly_the_50000_requests_that_were_answered() {
    let (backend, mariadb) = (Backend::start().await, Mariadb::start().await);
    let log = format!("\"{}\"", mariadb.url());
    let gateway = Gateway::start(&Config::open(&backend).log(&log)).await;
    let tally = Load::get(gateway.address, "/counted", "").run(CONNECTIONS, REQUESTS).await;
    tally.all(200);
    gateway.log_written().await;
    assert_eq!(mariadb.number("SELECT COUNT(*) FROM api_logs").await, REQUESTS as i64);
    assert_eq!(mariadb.number("SELECT COUNT(DISTINCT request_id) FROM api_logs").await, REQUESTS as i64);
    assert_eq!(mariadb.number("SELECT COUNT(DISTINCT `run`, `sequence`) FROM api_logs").await, REQUESTS as i64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_gone_for_10_seconds_costs_no_client_an_error_and_every_loss_is_counted() {
    let (backend, mut mariadb) = (Backend::start().await, Mariadb::start().await);
    // A queue that 10 s of load fill several times over, so that something must be dropped.
    let log = format!("{{store: \"{}\", queue: 1000, spool: none}}", mariadb.url());
    let gateway = Gateway::start(&Config::open(&backend).log(&log)).await;
    gateway.log_open().await;
    let load = Load::get(gateway.address, "/counted", "").start(8);
    tokio::time::sleep(seconds(2)).await;
    mariadb.kill();
    tokio::time::sleep(seconds(10)).await;
    let health = gateway.admin_get("/health").await;
    assert_eq!((health.status, health.json()["status"].as_str()), (200, Some("degraded")), "{}", health.text());
    mariadb.revive().await;
    tokio::time::sleep(seconds(1)).await;
    let tally = load.stop().await;
    tally.all(200);

    let metrics = gateway.log_written().await;
    let accepted = metrics.sum("tollgate_log_records_total", &[("state", "accepted")]);
    let written = metrics.sum("tollgate_log_records_total", &[("state", "written")]);
    let dropped = metrics.sum("tollgate_log_records_dropped_total", &[]);
    let rows = mariadb.number("SELECT COUNT(*) FROM api_logs").await;
    assert_eq!(accepted, tally.answered() as f64);
    assert_eq!(written, rows as f64, "accepted {accepted}, dropped {dropped}");
    assert_eq!(written + dropped, accepted);
    assert!(dropped > 0.0, "the queue of 1000 held everything: {accepted} accepted");
    assert_eq!(mariadb.number("SELECT COUNT(DISTINCT `run`, `sequence`) FROM api_logs").await, rows);
    crate::harness::eventually("the gateway is healthy again", seconds(10), async || {
        gateway.admin_get("/health").await.json()["status"] == "ok"
    })
    .await;
}

#[tokio::test]
async fn a_store_that_is_unreachable_at_start_is_no_reason_not_to_serve() {
    let (backend, mut mariadb) = (Backend::start().await, Mariadb::start().await);
    mariadb.kill();
    let log = format!("\"{}\"", mariadb.url());
    let gateway = Gateway::start(&Config::open(&backend).log(&log)).await;
    for _ in 0..20 {
        assert_eq!(gateway.get("/").await.status, 200);
    }
    tokio::time::sleep(milliseconds(1_500)).await;
    assert_eq!(gateway.admin_get("/health").await.json()["status"], "degraded");
    assert!(gateway.said().to_lowercase().contains("log"), "it has to complain aloud");
    assert!(!gateway.said().contains("the-password"), "no password in messages");
    mariadb.revive().await;
    gateway.log_written().await;
    assert_eq!(mariadb.number("SELECT COUNT(*) FROM api_logs").await, 20);
}
