//! The request log over a real MariaDB that each test starts itself: faults of the server, and what the counters and
//! the table say afterwards. The log is driven as the gateway drives it; no client is involved.

// Helpers of tests may panic, too.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/mariadb.rs"]
mod mariadb;
#[path = "support/stores.rs"]
mod stores;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use mariadb::MariaDb;
use tollgate::config::{self, Flush, Span, StoreUrl};
use tollgate::record::Record;
use tollgate::request_log::{Counts, RequestLog, Writer};
use tollgate::store;

fn record(endpoint: &str) -> Record {
    stores::record(endpoint, SystemTime::now())
}

fn start(url: &str) -> (RequestLog, Writer) {
    start_with(url, 65_536, 200)
}

fn start_with(url: &str, queue: usize, rows: usize) -> (RequestLog, Writer) {
    let config = config::Log {
        store: StoreUrl::Mysql(url.to_owned()),
        queue,
        flush: Flush { rows, age: Span(Duration::from_millis(50)) },
        ..config::Log::default()
    };
    RequestLog::start(&config, "node", "0.0.0").unwrap()
}

fn within(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

fn wait_for(log: &RequestLog, what: impl Fn(&Counts) -> bool) -> Counts {
    let end = within(40);
    loop {
        let counts = log.counts();
        assert_eq!(counts.unaccounted(), 0, "{counts:?}");
        if what(&counts) {
            return counts;
        }
        assert!(Instant::now() < end, "{counts:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What the table says must be what the counters say.
fn agrees(database: &MariaDb, counts: &Counts) {
    assert_eq!(counts.queued, 0, "{counts:?}");
    assert_eq!(counts.accepted, counts.written + counts.dropped_in_all(), "{counts:?}");
    assert_eq!(database.number("SELECT COUNT(*) FROM api_logs"), counts.written, "{counts:?}");
    let run = database.sql("SELECT accepted, written, dropped FROM log_runs WHERE closed_at IS NOT NULL");
    assert_eq!(run, format!("{}\t{}\t{}", counts.accepted, counts.written, counts.dropped_in_all()));
}

/// Records at a steady pace until the story is over.
fn under_load<T>(log: &RequestLog, story: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                (0..20).for_each(|_| log.record(record("/load/*")));
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let told = story();
        stop.store(true, Ordering::Relaxed);
        told
    })
}

#[test]
fn rows_hold_what_records_say() {
    let database = MariaDb::start();
    let (log, writer) = start(&database.url());
    let long = "ä".repeat(4_000);
    log.record(Record { path: long.as_str().into(), client_ip: "2001:db8::7".parse().unwrap(), ..record("/a/*") });
    // More than one statement, and not a power of two.
    (0..2_999).for_each(|_| log.record(record("/a/*")));
    agrees(&database, &writer.finish(within(10)));
    let first = database.sql(
        "SELECT endpoint, response_time_ms, is_error, `key`, client_ip, upstream_ms, user_agent, CHAR_LENGTH(path),
           LENGTH(request_id) FROM api_logs_readable WHERE sequence = 1",
    );
    assert_eq!(first, "/a/*\t12.345\t0\tacme-2026\t2001:db8::7\t11\ttest/1 \u{1f600}\t1024\t36");
    let recent =
        "SELECT COUNT(*) FROM api_logs WHERE timestamp > UTC_TIMESTAMP() - INTERVAL 1 MINUTE AND sequence <= 3000";
    assert_eq!(database.number(recent), 3_000);
    let usage = "SELECT endpoint, SUM(`count`), SUM(duration_us) FROM api_usage_minute GROUP BY endpoint";
    assert_eq!(database.sql(usage), "/a/*\t3000\t37035000");
}

#[test]
fn a_server_that_comes_later_gets_everything() {
    let mut database = MariaDb::start();
    database.kill();
    let (log, writer) = start(&database.url());
    (0..1_000).for_each(|_| log.record(record("/a/*")));
    let counts = wait_for(&log, |counts| counts.store_errors > 1);
    assert_eq!((counts.queued, counts.store_up), (1_000, false));
    database.run();
    wait_for(&log, |counts| counts.written == 1_000 && counts.store_up);
    agrees(&database, &writer.finish(within(10)));
}

#[test]
fn a_server_killed_under_load_loses_nothing_and_doubles_nothing() {
    let mut database = MariaDb::start();
    let (log, writer) = start(&database.url());
    under_load(&log, || {
        for round in 1..=3 {
            wait_for(&log, |counts| counts.written > round * 500);
            database.kill();
            std::thread::sleep(Duration::from_millis(500));
            database.run();
        }
        wait_for(&log, |counts| counts.store_up);
    });
    let counts = writer.finish(within(20));
    assert_eq!(counts.dropped_in_all(), 0);
    assert!(counts.store_errors > 0);
    agrees(&database, &counts);
    assert_eq!(database.number("SELECT COUNT(*) FROM log_runs"), 1);
    assert_eq!(database.number("SELECT MAX(sequence) FROM api_logs"), counts.accepted);
}

#[test]
fn a_queue_that_overflows_while_the_server_is_away_is_counted_exactly() {
    let mut database = MariaDb::start();
    let (log, writer) = start_with(&database.url(), 1_000, 100);
    wait_for(&log, |counts| counts.store_up);
    database.kill();
    (0..5_000).for_each(|_| log.record(record("/a/*")));
    assert_eq!(log.counts().dropped[0], ("queue_full", 4_000));
    database.run();
    let counts = writer.finish(within(20));
    assert_eq!((counts.accepted, counts.written), (5_000, 1_000));
    agrees(&database, &counts);
}

#[test]
fn a_paused_server_is_waited_for() {
    let database = MariaDb::start();
    let (log, writer) = start(&database.url());
    under_load(&log, || {
        wait_for(&log, |counts| counts.written > 500);
        database.pause();
        std::thread::sleep(Duration::from_secs(3));
        assert!(log.counts().queued > 1_000);
        database.resume();
        wait_for(&log, |counts| counts.queued < 500);
    });
    let counts = writer.finish(within(20));
    assert_eq!((counts.dropped_in_all(), counts.store_errors), (0, 0));
    agrees(&database, &counts);
}

#[test]
fn a_paused_server_does_not_hold_up_the_end() {
    let database = MariaDb::start();
    let (log, writer) = start(&database.url());
    wait_for(&log, |counts| counts.store_up);
    database.pause();
    (0..100).for_each(|_| log.record(record("/a/*")));
    let began = Instant::now();
    let counts = writer.finish(within(1));
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_eq!((counts.written, counts.queued, counts.dropped_in_all()), (0, 0, 100));
    database.resume();
}

#[test]
fn a_wrong_password_is_said_clearly_and_tried_seldom() {
    let database = MariaDb::start();
    let url = database.url_as("gate", "wr0ng");
    let (log, writer) = start(&url);
    log.record(record("/a/*"));
    wait_for(&log, |counts| counts.store_errors > 0);
    std::thread::sleep(Duration::from_secs(2));
    let counts = log.counts();
    assert_eq!((counts.store_errors, counts.queued), (1, 1));
    let message = counts.last_error.unwrap();
    assert!(message.contains("Access denied for user 'gate'") && !message.contains("wr0ng"), "{message}");
    let began = Instant::now();
    assert_eq!(writer.finish(within(20)).dropped_in_all(), 1);
    assert!(began.elapsed() < Duration::from_secs(5), "nothing to wait for");
    assert!(store::probe(&StoreUrl::Mysql(url)).unwrap_err().contains("Access denied"));
}

#[test]
fn missing_rights_are_named_and_waited_for() {
    let database = MariaDb::start();
    database.sql("CREATE USER poor@'%' IDENTIFIED BY 'pw'; GRANT SELECT ON tollgate.* TO poor@'%'");
    let poor = StoreUrl::Mysql(database.url_as("poor", "pw"));
    assert!(store::probe(&poor).unwrap_err().contains("no right to CREATE"));
    let rich = StoreUrl::Mysql(database.url());
    assert!(store::probe(&rich).unwrap()[1].contains("start creates them"));
    assert_eq!(database.number("SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'tollgate'"), 0);

    // Another gateway, or an operator, creates the tables.
    start(&database.url()).1.finish(within(10));
    let lacking = store::probe(&poor).unwrap_err();
    assert!(lacking.contains("INSERT on api_logs") && lacking.contains("UPDATE on log_runs"), "{lacking}");

    let (log, writer) = start(&database.url_as("poor", "pw"));
    log.record(record("/a/*"));
    let counts = wait_for(&log, |counts| counts.store_errors > 0);
    assert!(counts.last_error.unwrap().contains("command denied"));
    database.sql("GRANT INSERT, UPDATE ON tollgate.* TO poor@'%'");
    wait_for(&log, |counts| counts.written == 1);
    writer.finish(within(10));
    assert_eq!(database.number("SELECT COUNT(*) FROM api_logs"), 1);
    assert!(store::probe(&poor).is_ok());
}

#[test]
fn a_missing_database_is_named() {
    let database = MariaDb::start();
    database.sql("DROP DATABASE tollgate");
    let message = store::probe(&StoreUrl::Mysql(database.url())).unwrap_err();
    assert!(message.contains("Unknown database 'tollgate'"), "{message}");
}

#[test]
fn tables_that_are_dropped_are_made_anew() {
    let database = MariaDb::start();
    let (log, writer) = start(&database.url());
    log.record(record("/a/*"));
    wait_for(&log, |counts| counts.written == 1);
    database.sql("DROP TABLE api_logs, api_usage_minute, api_usage_hour, api_usage_day, log_batches, log_drops, log_retention, log_runs, log_migrations");
    log.record(record("/a/*"));
    wait_for(&log, |counts| counts.written == 2);
    writer.finish(within(10));
    assert_eq!(database.number("SELECT sequence FROM api_logs"), 2);
}

#[test]
fn poison_rows_are_found_and_the_others_are_stored() {
    let database = MariaDb::start();
    let (log, writer) = start(&database.url());
    wait_for(&log, |counts| counts.store_up);
    database.sql("ALTER TABLE api_logs ADD CONSTRAINT poison CHECK (endpoint <> 'poison')");
    for place in 0..1_000 {
        log.record(record(if [0, 499, 500, 999].contains(&place) { "poison" } else { "/a/*" }));
    }
    let counts = writer.finish(within(20));
    assert_eq!((counts.written, counts.dropped[2]), (996, ("rejected", 4)));
    agrees(&database, &counts);
}

#[test]
fn statements_stay_below_what_the_server_takes() {
    let database = MariaDb::start();
    database.sql("SET GLOBAL max_allowed_packet = 65536");
    let (log, writer) = start_with(&database.url(), 65_536, 1_000);
    let path = "/x".repeat(1_024);
    (0..1_000).for_each(|_| log.record(Record { path: path.as_str().into(), ..record("/a/*") }));
    let counts = writer.finish(within(20));
    assert_eq!((counts.written, counts.store_errors), (1_000, 0), "{counts:?}");
}

#[test]
fn two_gateways_write_to_one_database() {
    let database = MariaDb::start();
    let (one, two) = (start(&database.url()), start(&database.url()));
    for (log, _) in [&one, &two] {
        (0..500).for_each(|_| log.record(record("/a/*")));
    }
    assert_eq!((one.1.finish(within(10)).written, two.1.finish(within(10)).written), (500, 500));
    assert_eq!(database.sql("SELECT COUNT(*), COUNT(DISTINCT run), MAX(sequence) FROM api_logs"), "1000\t2\t500");
}

/// Not a test of speed, a measurement: `cargo test --release --test store_mariadb -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement, for an idle machine and a release build"]
fn rows_per_second() {
    let database = MariaDb::start();
    let folder = tempfile::tempdir().unwrap();
    let sqlite = StoreUrl::Sqlite(folder.path().join("log.db"));
    for (name, store) in [("SQLite", sqlite), ("MariaDB", StoreUrl::Mysql(database.url()))] {
        for rows in [200, 1_000, 4_000] {
            let count: u32 = 200_000;
            let flush = Flush { rows, ..Flush::default() };
            let config = config::Log { store: store.clone(), queue: 200_000, flush, ..config::Log::default() };
            let (log, writer) = RequestLog::start(&config, "node", "0.0.0").unwrap();
            wait_for(&log, |counts| counts.store_up);
            let (began, cpu) = (Instant::now(), cpu_microseconds());
            (0..count).for_each(|_| log.record(record("/api/user_service/*")));
            let recorded = began.elapsed();
            let counts = writer.finish(within(120));
            let took = began.elapsed();
            assert_eq!(counts.written, u64::from(count));
            if name == "MariaDB" {
                database.sql("TRUNCATE api_logs");
            }
            println!(
                "{name}, batches of {rows}: {:.0} rows/s, {:.2} CPU microseconds a row in this process; record() {} ns",
                f64::from(count) / took.as_secs_f64(),
                f64::from(cpu_microseconds() - cpu) / f64::from(count),
                recorded.as_nanos() / u128::from(count)
            );
        }
    }
}

/// CPU time of this process, all its threads, in steps of 10 ms.
fn cpu_microseconds() -> u32 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u32 = fields[11].parse::<u32>().unwrap() + fields[12].parse::<u32>().unwrap();
    ticks * 10_000
}

#[test]
fn a_store_that_is_never_idle_is_kept_up() {
    let database = MariaDb::start();
    let config = config::Log {
        store: StoreUrl::Mysql(database.url()),
        flush: Flush { rows: 20, age: Span(Duration::from_millis(50)) },
        retention: config::Retention { requests: Span::seconds(3_600), ..config::Retention::default() },
        ..config::Log::default()
    };
    let (log, writer) = RequestLog::start(&config, "node", "0.0.0").unwrap();
    let old = SystemTime::now() - Duration::from_secs(2 * 3_600);
    // Before the store is open: no step of its life finds nothing to store.
    (0..2_000).for_each(|_| log.record(stores::record("/never/idle", old)));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if log.counts().queued < 2_000 {
                    (0..2_000).for_each(|_| log.record(stores::record("/never/idle", old)));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let counts = wait_for(&log, |counts| counts.queued > 1_000);
        let (end, mut busy) = (within(40), counts.queued);
        let is_removed = || log.kept().is_some_and(|kept| !kept.removed.is_empty());
        while !is_removed() {
            busy = busy.min(log.counts().queued);
            assert!(Instant::now() < end, "nothing was removed in 40 s");
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, Ordering::Relaxed);
        assert!(busy > 0, "the store was idle");
    });
    let counts = writer.finish(within(30));
    assert_eq!((counts.dropped_in_all(), counts.unaccounted()), (0, 0), "{counts:?}");
    assert!(database.number("SELECT COUNT(*) FROM api_logs") < counts.written);
}
