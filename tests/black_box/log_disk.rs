//! A disk that is full under the spool, and under store and spool alike: no client sees it, what is lost is counted and told, and
//! the log goes on when there is room again. The disks are real ones, too small.

use crate::harness::{
    Backend, Config, Disk, Folder, Gateway, Load, Mariadb, Signal, eventually, milliseconds, seconds,
};
use crate::log_account::{account, audit_is_clean, balances};

async fn lost(gateway: &Gateway) -> f64 {
    gateway.metrics().await.sum("tollgate_log_records_dropped_total", &[("reason", "spool_error")])
}

/// Stops a gateway in order; its folder is left, and what it said.
async fn stop(mut gateway: Gateway) -> (Folder, String) {
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait_exit(seconds(15)).await.success(), "{}", gateway.said());
    (std::mem::replace(&mut gateway.folder, Folder::new()), gateway.said())
}

/// Whether a line says that the disk of this folder is full.
fn tells(said: &str, folder: &str) -> bool {
    said.lines().any(|line| line.contains("ERROR") && line.contains(folder) && line.contains("No space left"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_under_the_spool_is_counted_and_told_and_the_gateway_serves_on() {
    let (backend, mut mariadb, folder) = (Backend::start().await, Mariadb::start().await, Folder::new());
    let spool = folder.path().join("spool");
    let disk = Disk::at(&spool, 2_048);
    let log = format!("{{store: \"{}\", spool: spool, queue: 1000, flush: {{rows: 50}}}}", mariadb.url());
    let gateway = Gateway::start_on(&disk, folder, &Config::open(&backend).log(&log)).await;
    gateway.log_open().await;
    disk.leave(128);
    let load = Load::get(gateway.address, "/counted", "").start(8);
    tokio::time::sleep(seconds(1)).await;
    mariadb.kill();
    eventually("records are lost", seconds(30), async || lost(&gateway).await > 100.0).await;
    for _ in 0..5 {
        tokio::time::sleep(milliseconds(200)).await;
        balances(&gateway.metrics().await);
    }
    let place = spool.display().to_string();
    gateway.says("that the disk under the spool is full", |said| tells(said, &place)).await;
    let health = gateway.admin_get("/health").await.text();
    assert!(health.contains("degraded") && health.contains("No space left"), "{health}");
    let status = gateway.folder.tollgate(&["log", "status", "-c", "tollgate.yaml"]).stdout;
    assert!(status.contains("No space left") && status.contains("spool_error"), "{status}");
    // Room comes back before the store does.
    let spooled = account(&gateway.metrics().await)[4];
    disk.empty();
    eventually("the spool takes more", seconds(10), async || account(&gateway.metrics().await)[4] > spooled).await;
    gateway.says("that the spool works again", |said| said.contains("works again")).await;
    mariadb.revive().await;
    let tally = load.stop().await;
    tally.all(200);
    let metrics = gateway.log_written().await;
    balances(&metrics);
    let [accepted, _, written, _, _, dropped, _] = account(&metrics);
    let answered = tally.answered() as i64;
    assert_eq!((accepted as i64, (written + dropped) as i64), (answered, answered));
    assert_eq!(mariadb.number("SELECT COUNT(*) FROM api_logs").await, written as i64);
    let (folder, _) = stop(gateway).await;
    assert_eq!(mariadb.number("SELECT SUM(`count`) FROM log_drops").await, dropped as i64);
    assert_eq!(mariadb.number("SELECT SUM(`count`) FROM api_usage_minute").await, answered, "the usage has all");
    audit_is_clean(&folder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_ends_and_starts_on_a_full_disk_and_says_so() {
    let (backend, mut mariadb, folder) = (Backend::start().await, Mariadb::start().await, Folder::new());
    let disk = Disk::at(&folder.path().join("spool"), 1_024);
    let log = format!("{{store: \"{}\", spool: spool, flush: {{rows: 10}}}}", mariadb.url());
    let config = Config::open(&backend).section("shutdown: {grace: 5s}").log(&log);
    let gateway = Gateway::start_on(&disk, folder, &config).await;
    gateway.log_open().await;
    mariadb.kill();
    Load::get(gateway.address, "/spooled", "").run(4, 200).await.all(200);
    eventually("the spool has them", seconds(15), async || account(&gateway.metrics().await)[4] == 200.0).await;
    disk.leave(0);
    Load::get(gateway.address, "/lost", "").run(4, 300).await.all(200);
    // The end has no other place for them than this disk: some may fit into the last page.
    let (folder, said) = stop(gateway).await;
    assert!(tells(&said, "spool"), "{said}");
    // While the store is away nothing leaves the spool, so no room comes back before it is looked for.
    let gateway = Gateway::start_on(&disk, folder, &config).await;
    gateway.says("that the disk is full", |said| tells(said, "spool")).await;
    eventually("its health tells it", seconds(5), async || {
        gateway.admin_get("/health").await.text().contains("No space left")
    })
    .await;
    Load::get(gateway.address, "/served", "").run(4, 100).await.all(200);
    mariadb.revive().await;
    eventually("the run before is closed", seconds(20), async || {
        mariadb.number("SELECT COUNT(*) FROM log_runs WHERE closed_at IS NOT NULL").await == 1
    })
    .await;
    balances(&gateway.log_written().await);
    disk.empty();
    eventually("the spool is used again", seconds(10), async || {
        !gateway.admin_get("/health").await.text().contains("No space left")
    })
    .await;
    let (folder, _) = stop(gateway).await;
    let rows = async |path: &str| mariadb.number(&format!("SELECT COUNT(*) FROM api_logs WHERE path = '{path}'")).await;
    assert_eq!((rows("/spooled").await, rows("/served").await), (200, 100));
    let lost = mariadb.number("SELECT COALESCE(SUM(`count`), 0) FROM log_drops").await;
    assert_eq!(rows("/lost").await + lost, 300, "what is lost is in checkpoints");
    assert!(lost > 0);
    audit_is_clean(&folder);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn store_and_spool_on_one_full_disk_cost_no_client_anything_in_life_and_at_start() {
    let (backend, folder) = (Backend::start().await, Folder::new());
    let disk = Disk::at(&folder.path().join("data"), 16_384);
    let config = Config::open(&backend).log("{store: \"sqlite:data/log.db\", queue: 1000, flush: {rows: 50}}");
    let gateway = Gateway::start_on(&disk, folder, &config).await;
    gateway.get("/").await;
    gateway.log_written().await;
    disk.leave(0);
    let load = Load::get(gateway.address, "/counted", "").start(8);
    eventually("records are lost", seconds(30), async || lost(&gateway).await > 100.0).await;
    balances(&gateway.metrics().await);
    gateway.says("that the disk is full", |said| tells(said, "log.db.spool")).await;
    let fast = load.stop().await;
    fast.all(200);
    // Slowly from here on: at full speed the room that comes back may be gone again before anybody sees that the log went on.
    let load = Load::get(gateway.address, "/counted", "").fresh().start(2);
    let before = account(&gateway.metrics().await)[2];
    disk.empty();
    eventually("the log goes on", seconds(20), async || account(&gateway.metrics().await)[2] > before + 100.0).await;
    let slow = load.stop().await;
    slow.all(200);
    let metrics = gateway.log_written().await;
    balances(&metrics);
    assert_eq!(account(&metrics)[0] as usize, fast.answered() + slow.answered() + 1);
    disk.leave(0);
    let (folder, _) = stop(gateway).await;
    let gateway = Gateway::start_on(&disk, folder, &config).await;
    Load::get(gateway.address, "/served", "").run(4, 100).await.all(200);
    disk.empty();
    let metrics = gateway.log_written().await;
    balances(&metrics);
    assert_eq!((account(&metrics)[0], account(&metrics)[5]), (100.0, 0.0), "{}", gateway.said());
    let (folder, _) = stop(gateway).await;
    let audit = disk.tollgate(folder.path()).args(["log", "audit", "-c", "tollgate.yaml"]).output().expect("an audit");
    assert!(audit.status.success(), "{}", String::from_utf8_lossy(&audit.stdout));
}
