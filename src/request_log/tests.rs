//! The request log over SQLite and lines, driven as the gateway drives it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::UNIX_EPOCH;

use rusqlite::Connection;

use super::*;
use crate::config::{Flush, JsonLines, Span, StoreUrl};
use crate::record::CacheResult;

/// A record with something in every field.
pub fn record() -> Record {
    Record {
        started: UNIX_EPOCH + Duration::new(1_772_366_400, 250_000),
        duration: Duration::from_micros(12_345),
        endpoint: "/api/user_service/*".into(),
        method: http::Method::GET,
        status: 200,
        request_id: Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0001),
        client_request_id: Some("from the client".into()),
        host: Some("api.example".into()),
        path: "/api/user_service/users".into(),
        protocol: "HTTP/1.1",
        consumer: Some("acme".into()),
        key: Some("acme-2026".into()),
        client_ip: [192, 0, 2, 77].into(),
        service: Some("user_service".into()),
        instance: Some("127.0.0.1:9101".into()),
        attempts: 1,
        retries: Default::default(),
        upstream_time: Some(Duration::from_micros(11_000)),
        timeout: None,
        cache: Some(CacheResult::Miss),
        decided_by: "upstream",
        blocked: false,
        limit_name: None,
        observed: None,
        bytes_in: 3,
        bytes_out: 512,
        user_agent: Some("test/1 \u{1f600}".into()),
        generation: 1,
    }
}

struct Fixture {
    folder: tempfile::TempDir,
    config: config::Log,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = StoreUrl::Sqlite(folder.path().join("data/log.db"));
        let flush = Flush { rows: 100, age: Span(Duration::from_millis(20)) };
        // The records here are old.
        let years = Span::seconds(9 * 365 * 86_400);
        let retention = config::Retention { requests: years, ..config::Retention::default() };
        Self { config: config::Log { store, flush, retention, ..config::Log::default() }, folder }
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("data/log.db")
    }

    fn lines(mut self) -> (Self, PathBuf) {
        let path = self.folder.path().join("requests.jsonl");
        self.config.json = JsonLines::File(path.clone());
        (self, path)
    }

    fn start(&self) -> (RequestLog, Writer) {
        RequestLog::start(&self.config, "node", "0.0.0").unwrap()
    }
}

fn number(path: &Path, sql: &str) -> i64 {
    Connection::open(path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}

fn log_many(log: &RequestLog, count: usize) {
    (0..count).for_each(|_| log.record(record()));
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn dropped(counts: &Counts, reason: &str) -> u64 {
    counts.dropped.iter().find(|(name, _)| *name == reason).unwrap().1
}

fn wait_for(log: &RequestLog, what: impl Fn(&Counts) -> bool) {
    let end = soon();
    while !what(&log.counts()) {
        assert!(Instant::now() < end, "{:?}", log.counts());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_row_holds_what_the_record_says() {
    let fixture = Fixture::new();
    let (log, writer) = fixture.start();
    log.record(record());
    let counts = writer.finish(soon());
    assert_eq!((counts.accepted, counts.written, counts.queued), (1, 1, 0));
    let connection = Connection::open(fixture.database()).unwrap();
    let (text, id, ip): (String, String, String) = connection
        .query_row(
            "SELECT timestamp || '|' || endpoint || '|' || http_method || '|' || status_code || '|' || response_time_ms
                 || '|' || is_error || '|' || run || '|' || sequence || '|' || consumer || '|' || \"key\" || '|' || cache
                 || '|' || user_agent, request_id, client_ip FROM api_logs_readable",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .unwrap();
    assert_eq!(
        text,
        "2026-03-01 12:00:00.000250|/api/user_service/*|GET|200|12.345|0|1|1|acme|acme-2026|miss|test/1 \u{1f600}"
    );
    assert_eq!((id.as_str(), ip.as_str()), ("01980000-0000-7000-8000-000000000001", "192.0.2.77"));
    let closed = "SELECT closed_at IS NOT NULL AND accepted = 1 AND written = 1 AND dropped = 0 FROM log_runs";
    assert_eq!(number(&fixture.database(), closed), 1);
}

#[test]
fn each_start_is_a_run_of_its_own() {
    let fixture = Fixture::new();
    for _ in 0..2 {
        let (log, writer) = fixture.start();
        log.record(record());
        writer.finish(soon());
    }
    assert_eq!(number(&fixture.database(), "SELECT COUNT(*) FROM api_logs"), 2);
    assert_eq!(number(&fixture.database(), "SELECT MAX(run) FROM log_runs"), 2);
}

#[test]
fn nothing_is_counted_when_the_log_is_off() {
    let (log, writer) = RequestLog::start(&config::Log::default(), "node", "0.0.0").unwrap();
    log.record(record());
    assert!(log.is_off());
    assert_eq!(log.counts(), writer.finish(soon()));
    assert_eq!(log.counts().accepted, 0);
}

#[test]
fn the_end_writes_what_is_queued_without_waiting_for_age() {
    let mut fixture = Fixture::new();
    fixture.config.flush.age = Span::seconds(3_600);
    let (log, writer) = fixture.start();
    log_many(&log, 250);
    let began = Instant::now();
    let counts = writer.finish(Instant::now() + Duration::from_secs(60));
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!((counts.written, counts.queued, counts.dropped_in_all()), (250, 0, 0));
    assert_eq!(number(&fixture.database(), "SELECT COUNT(*) = 250 AND MAX(sequence) = 250 FROM api_logs"), 1);
    log.record(record());
    assert_eq!(dropped(&log.counts(), "shutdown"), 1);
}

#[test]
fn a_full_queue_is_counted_exactly() {
    let mut fixture = Fixture::new();
    fixture.config.queue = 500;
    let (log, writer) = fixture.start();
    wait_for(&log, |counts| counts.store_up);
    let lock = fixture.locked();
    log_many(&log, 2_000);
    let counts = log.counts();
    assert_eq!((counts.queued, dropped(&counts, "queue_full")), (500, 1_500));
    lock.execute_batch("COMMIT").unwrap();
    let counts = writer.finish(soon());
    assert_eq!((counts.accepted, counts.written, counts.dropped_in_all()), (2_000, 500, 1_500));
    assert_eq!(number(&fixture.database(), "SELECT COUNT(*) FROM api_logs"), 500);
}

#[test]
fn what_can_not_be_stored_in_time_is_dropped_at_the_end() {
    let fixture = Fixture::new();
    let (log, writer) = fixture.start();
    wait_for(&log, |counts| counts.store_up);
    let _lock = fixture.locked();
    log_many(&log, 300);
    let began = Instant::now();
    let counts = writer.finish(Instant::now() + Duration::from_millis(500));
    assert!(began.elapsed() < Duration::from_secs(4));
    assert_eq!((counts.written, counts.queued, dropped(&counts, "shutdown")), (0, 0, 300));
    assert!(!counts.store_up && counts.store_errors > 0 && counts.last_error.is_some());
}

#[test]
fn a_poison_row_is_dropped_and_the_others_are_stored() {
    let fixture = Fixture::new();
    let (log, writer) = fixture.start();
    wait_for(&log, |counts| counts.store_up);
    let trigger = "CREATE TRIGGER poison BEFORE INSERT ON api_logs WHEN NEW.endpoint = 'poison'
                   BEGIN SELECT RAISE(ABORT, 'poison'); END";
    Connection::open(fixture.database()).unwrap().execute_batch(trigger).unwrap();
    for place in 0..250 {
        let endpoint = if place == 120 || place == 121 { "poison" } else { "fine" };
        log.record(Record { endpoint: endpoint.into(), ..record() });
    }
    let counts = writer.finish(soon());
    assert_eq!((counts.written, dropped(&counts, "rejected")), (248, 2));
    assert_eq!(number(&fixture.database(), "SELECT COUNT(*) FROM api_logs"), 248);
}

#[test]
fn a_removed_file_is_made_anew() {
    let fixture = Fixture::new();
    let (log, writer) = fixture.start();
    log.record(record());
    wait_for(&log, |counts| counts.written == 1);
    for end in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{end}", fixture.database().display()));
    }
    log.record(record());
    assert_eq!(writer.finish(soon()).written, 2);
    assert_eq!(number(&fixture.database(), "SELECT sequence FROM api_logs"), 2);
}

#[test]
fn every_snapshot_balances_under_load() {
    let (mut fixture, path) = Fixture::new().lines();
    fixture.config.queue = 2_000;
    let (log, writer) = fixture.start();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let hammer = scope.spawn(|| {
            let mut snapshots = 0;
            while !stop.load(Ordering::Relaxed) {
                let counts = log.counts();
                assert_eq!(counts.unaccounted(), 0, "{counts:?}");
                snapshots += 1;
            }
            snapshots
        });
        let load: Vec<_> = (0..3).map(|_| scope.spawn(|| log_many(&log, 20_000))).collect();
        load.into_iter().for_each(|thread| thread.join().unwrap());
        stop.store(true, Ordering::Relaxed);
        assert!(hammer.join().unwrap() > 100);
    });
    let counts = writer.finish(soon());
    assert_eq!((counts.accepted, counts.queued), (60_000, 0));
    assert_eq!(counts.written + dropped(&counts, "queue_full"), 60_000);
    assert_eq!(number(&fixture.database(), "SELECT COUNT(*) FROM api_logs").unsigned_abs(), counts.written);
    let max = number(&fixture.database(), "SELECT COALESCE(MAX(sequence), 0) FROM api_logs");
    assert_eq!(max.unsigned_abs(), counts.written);
    assert_eq!(std::fs::read_to_string(path).unwrap().lines().count() as u64, counts.lines_written);
}

#[test]
fn lines_alone_count_as_written() {
    let (mut fixture, path) = Fixture::new().lines();
    fixture.config.store = StoreUrl::None;
    let (log, writer) = fixture.start();
    log_many(&log, 10);
    let counts = writer.finish(soon());
    assert_eq!((counts.written, counts.lines_written, counts.store_up), (10, 10, true));
    assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 10);
}

#[test]
fn lines_alone_that_fail_are_dropped() {
    let mut fixture = Fixture::new();
    fixture.config.store = StoreUrl::None;
    fixture.config.json = JsonLines::File("/dev/full".into());
    let (log, writer) = fixture.start();
    log_many(&log, 10);
    let counts = writer.finish(soon());
    assert_eq!((counts.written, counts.lines_dropped, dropped(&counts, "lines")), (0, 10, 10));
}

#[test]
fn lines_go_on_while_the_store_is_away() {
    let (mut fixture, path) = Fixture::new().lines();
    // Nobody listens there.
    fixture.config.store = StoreUrl::Mysql("mysql://user:s3cret@127.0.0.1:1/tollgate".to_owned());
    fixture.config.queue = 200;
    let (log, writer) = fixture.start();
    for _ in 0..5 {
        log_many(&log, 100);
        std::thread::sleep(Duration::from_millis(60));
    }
    wait_for(&log, |counts| counts.lines_written == 500 && counts.last_error.is_some());
    let counts = writer.finish(Instant::now() + Duration::from_millis(200));
    assert_eq!((counts.accepted, counts.written, counts.queued), (500, 0, 0));
    assert_eq!((dropped(&counts, "queue_full"), dropped(&counts, "shutdown")), (300, 200));
    assert!(!counts.last_error.unwrap().contains("s3cret"));
    // Written once, however often the store is tried.
    assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 500);
}

#[test]
fn rotated_lines_go_to_the_new_file() {
    let (fixture, path) = Fixture::new().lines();
    let (log, writer) = fixture.start();
    log.record(record());
    wait_for(&log, |counts| counts.lines_written == 1);
    std::fs::rename(&path, path.with_extension("old")).unwrap();
    log.reopen();
    log.record(record());
    writer.finish(soon());
    assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 1);
}

#[test]
fn what_can_never_work_is_an_error_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let plain_file = folder.path().join("file");
    std::fs::write(&plain_file, "this is not a database, and it is longer than a header would be").unwrap();
    let start = |store, json| {
        RequestLog::start(&config::Log { store, json, ..config::Log::default() }, "node", "0.0.0").err().unwrap()
    };
    assert!(start(StoreUrl::Sqlite(plain_file.join("log.db")), JsonLines::None).contains("folder"));
    assert!(start(StoreUrl::Sqlite(plain_file.clone()), JsonLines::None).contains("not a database"));
    assert!(start(StoreUrl::None, JsonLines::File(plain_file.join("lines"))).contains("log.json"));
    assert!(start(StoreUrl::Mysql("mysql://".to_owned()), JsonLines::None).contains("log.store"));
}

impl Fixture {
    /// The database while somebody else writes to it, until `COMMIT`.
    fn locked(&self) -> Connection {
        let lock = Connection::open(self.database()).unwrap();
        lock.execute_batch("BEGIN IMMEDIATE").unwrap();
        lock
    }

    fn spooling(mut self) -> Self {
        self.config.spool = config::Spool::Folder(self.folder.path().join("spool"));
        self
    }
}

#[test]
fn what_can_not_be_stored_in_time_is_spooled_and_stored_by_the_next_start() {
    let fixture = Fixture::new().spooling();
    let (log, writer) = fixture.start();
    wait_for(&log, |counts| counts.store_up);
    let lock = fixture.locked();
    log_many(&log, 300);
    let counts = writer.finish(Instant::now() + Duration::from_millis(500));
    assert_eq!((counts.written, counts.spooled, counts.dropped_in_all(), counts.unaccounted()), (0, 300, 0, 0));
    lock.execute_batch("COMMIT").unwrap();
    let (log, writer) = fixture.start();
    log.record(record());
    wait_for(&log, |counts| counts.written == 301);
    // The run before is closed once nothing of it is left.
    let end = soon();
    while number(&fixture.database(), "SELECT COUNT(*) FROM log_runs WHERE closed_at IS NOT NULL") == 0 {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(20));
    }
    let counts = writer.finish(soon());
    assert_eq!((counts.recovered, counts.accepted, counts.written, counts.unaccounted()), (300, 1, 301, 0));
    assert_eq!(number(&fixture.database(), "SELECT COUNT(DISTINCT run || '/' || sequence) FROM api_logs"), 301);
    assert_eq!(number(&fixture.database(), "SELECT SUM(\"count\") FROM api_usage_minute"), 301);
    assert_eq!(number(&fixture.database(), "SELECT COUNT(*) FROM log_drops"), 0);
    assert_eq!(number(&fixture.database(), "SELECT COUNT(*) FROM log_runs WHERE closed_at IS NOT NULL"), 2);
}

#[test]
fn a_start_that_the_spool_refuses_leaves_no_run_behind() {
    let fixture = Fixture::new().spooling();
    let (_log, writer) = fixture.start();
    let refused = RequestLog::start(&fixture.config, "other", "0.0.0").err().unwrap();
    assert!(refused.contains("spool"), "{refused}");
    writer.finish(soon());
    assert_eq!(number(&fixture.database(), "SELECT COUNT(*) FROM log_runs WHERE node = 'other'"), 0);
}

#[test]
fn while_the_spool_can_not_be_written_the_end_waits_for_the_store() {
    let fixture = Fixture::new().spooling();
    let (log, writer) = fixture.start();
    wait_for(&log, |counts| counts.store_up);
    let spool = fixture.folder.path().join("spool");
    std::fs::rename(&spool, fixture.folder.path().join("moved")).unwrap();
    let lock = fixture.locked();
    log_many(&log, 300);
    wait_for(&log, |counts| counts.spool_error.is_some());
    let unlock = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(1));
        lock.execute_batch("COMMIT").unwrap();
    });
    let counts = writer.finish(Instant::now() + Duration::from_secs(20));
    unlock.join().unwrap();
    assert_eq!((counts.written, counts.dropped_in_all(), counts.unaccounted()), (300, 0, 0), "{counts:?}");
}

#[test]
fn a_store_that_is_locked_is_overtaken_by_the_spool() {
    let mut fixture = Fixture::new().spooling();
    fixture.config.queue = 1_000;
    let (log, writer) = fixture.start();
    wait_for(&log, |counts| counts.store_up);
    let lock = fixture.locked();
    for _ in 0..40 {
        log_many(&log, 100);
        std::thread::sleep(Duration::from_millis(100));
    }
    let counts = log.counts();
    assert!(counts.spooled > 1_000 && counts.dropped_in_all() == 0 && counts.unaccounted() == 0, "{counts:?}");
    lock.execute_batch("COMMIT").unwrap();
    wait_for(&log, |counts| counts.written == 4_000);
    let counts = writer.finish(soon());
    assert_eq!((counts.spooled, counts.spooled_bytes, counts.oldest_unwritten), (0, 0, None));
    assert_eq!(number(&fixture.database(), "SELECT COUNT(*) FROM api_logs"), 4_000);
}

#[test]
fn a_refused_row_is_kept_in_a_file() {
    let fixture = Fixture::new().spooling();
    let (log, writer) = fixture.start();
    wait_for(&log, |counts| counts.store_up);
    let trigger = "CREATE TRIGGER poison BEFORE INSERT ON api_logs WHEN NEW.endpoint = 'poison'
                   BEGIN SELECT RAISE(ABORT, 'poison'); END";
    Connection::open(fixture.database()).unwrap().execute_batch(trigger).unwrap();
    log.record(record());
    log.record(Record { endpoint: "poison".into(), ..record() });
    let counts = writer.finish(soon());
    assert_eq!((counts.written, dropped(&counts, "rejected"), counts.unaccounted()), (1, 1, 0));
    let kept = std::fs::read_to_string(fixture.folder.path().join("spool/rejected.jsonl")).unwrap();
    let kept: serde_json::Value = serde_json::from_str(kept.trim_end()).unwrap();
    assert_eq!((&kept["endpoint"], &kept["sequence"]), (&"poison".into(), &2.into()));
    assert_eq!(number(&fixture.database(), "SELECT \"count\" FROM log_drops WHERE reason = 'rejected'"), 1);
}

#[tokio::test]
async fn who_follows_sees_what_is_wanted_and_nothing_is_held_up() {
    let fixture = Fixture::new();
    let (log, writer) = fixture.start();
    let mut following = log.follow(Box::new(|row| row.status_code == 404)).unwrap();
    log.record(record());
    log.record(Record { status: 404, ..record() });
    let line = tokio::time::timeout(Duration::from_secs(5), following.next()).await.unwrap().unwrap();
    let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(line["status_code"], 404);
    let others: Vec<_> = (1..FOLLOWERS_MAX).map(|_| log.follow(Box::new(|_| true)).unwrap()).collect();
    assert!(log.follow(Box::new(|_| true)).is_none());
    drop(others);
    // More than waits for anybody.
    (0..3_000).for_each(|_| log.record(Record { status: 404, ..record() }));
    assert_eq!(writer.finish(soon()).written, 3_002);
    assert!(following.missed() > 0);
    let mut seen = 0;
    while following.next().await.is_some() {
        seen += 1;
    }
    assert!(seen > 0 && seen < 3_000, "{seen}");
}

#[test]
fn a_loss_of_an_earlier_run_is_told_beside_the_checkpoints_it_had_stored_itself() {
    let mut fixture = Fixture::new().spooling();
    (fixture.config.queue, fixture.config.flush.rows) = (200, 10);
    let (log, writer) = fixture.start();
    wait_for(&log, |counts| counts.store_up);
    let lock = fixture.locked();
    // More than the queue takes before anybody can look at it.
    log_many(&log, 5_000);
    assert!(dropped(&log.counts(), "queue_full") > 0);
    lock.execute_batch("COMMIT").unwrap();
    wait_for(&log, |counts| counts.queued == 0 && counts.spooled == 0);
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    log_many(&log, 100);
    assert_eq!(writer.finish(Instant::now() + Duration::from_millis(500)).spooled, 100);
    lock.execute_batch("COMMIT").unwrap();
    assert!(number(&fixture.database(), "SELECT COUNT(*) FROM log_drops") > 0, "nothing to collide with");

    let files = std::fs::read_dir(fixture.folder.path().join("spool")).unwrap().map(|file| file.unwrap().path());
    let segment = files.filter(|path| path.extension().is_some_and(|end| end == "segment")).max().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&segment, bytes).unwrap();
    let (log, writer) = fixture.start();
    let end = soon();
    while number(&fixture.database(), "SELECT COUNT(*) FROM log_runs WHERE closed_at IS NOT NULL") == 0 {
        assert!(Instant::now() < end, "{:?}", log.counts());
        std::thread::sleep(Duration::from_millis(20));
    }
    let counts = writer.finish(soon());
    let told =
        number(&fixture.database(), "SELECT SUM(\"count\") FROM log_drops WHERE reason = 'spool_error' AND run = 1");
    assert_eq!((dropped(&counts, "spool_error"), counts.unaccounted()), (told.unsigned_abs(), 0));
    assert!(told > 0);
}
