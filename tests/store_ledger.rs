//! The ledger, the roll-ups and the upkeep of both stores, driven as the writer drives them: each story is told to a SQLite file
//! and to a real MariaDB that the test starts itself. What is stored is read with plain SQL.

// Helpers of tests may panic, too.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/mariadb.rs"]
mod mariadb;
#[path = "support/stores.rs"]
mod stores;

use std::time::{Duration, SystemTime};

use mariadb::MariaDb;
use stores::{DAY, HOUR, Place, ago, clock, record, run_of};
use tollgate::config::{ClientIp, Retention, Size, Span, StoreUrl};
use tollgate::record::Record;
use tollgate::store::usage::{Detail, Family, Increments, Reading};
use tollgate::store::{self, Beat, Drops, Failure, Row, Totals};

/// Tells a story to both stores.
macro_rules! both {
    ($($(#[$about:meta])* $story:ident)*) => {
        mod sqlite { $(#[test] fn $story() { super::$story(&super::Place::sqlite()); })* }
        mod mariadb_ { $(#[test] fn $story() { super::$story(&super::Place::mariadb()); })* }
    };
}

both! {
    a_batch_that_is_tried_again_is_stored_once
    rows_hold_what_records_say
    rejected_rows_are_dropped_once_and_the_others_stored
    a_batch_of_an_earlier_run_is_stored_as_its_own
    increments_are_what_a_naive_count_finds
    a_minute_with_very_many_series_is_counted_right
    requests_without_a_record_are_counted_all_the_same
    hours_and_days_are_packed_from_minutes
    outlines_count_the_same_and_where_there_is_none_everything_is_read
    what_comes_late_reaches_what_is_packed
    silent_and_closed_runs_are_packed_by_others
    retention_removes_what_is_old_and_packed
    a_task_of_upkeep_that_fails_keeps_no_other_from_its_turn
    a_log_that_is_too_large_loses_its_oldest_requests
    a_merged_ledger_still_knows_its_batches
    beats_and_the_end_are_written_down
    the_end_of_a_run_counts_what_was_dropped_at_last
    a_killed_run_is_closed_once
    tables_from_before_are_migrated
    tables_that_were_dropped_are_made_anew
    gateways_that_start_at_once_do_not_collide
    what_is_kept_is_told
}

fn records(count: usize, started: SystemTime) -> Vec<Record> {
    (0..count).map(|_| record("/a/*", started)).collect()
}

fn a_batch_that_is_tried_again_is_stored_once(place: &Place) {
    let run = run_of("one", SystemTime::now());
    let records = records(100, SystemTime::now());
    let mut store = place.open(&run);
    assert!(!store.insert(&run, 1, &records).was_there);
    assert!(store.insert(&run, 1, &records).was_there);
    // The answer was lost with the connection.
    let mut store = place.open(&run);
    assert!(store.insert(&run, 1, &records).was_there);
    assert!(!store.insert(&run, 101, &records[..7]).was_there);
    assert!(place.open(&run).insert(&run, 101, &records[..7]).was_there);
    assert_eq!(place.number("SELECT COUNT(*) FROM api_logs"), 107);
    assert_eq!(place.number("SELECT SUM(`count`) FROM api_usage_minute"), 107);
    assert_eq!(
        place.sql("SELECT run, first, last, `rows` FROM log_batches ORDER BY first"),
        "1\t1\t100\t100\n1\t101\t107\t7"
    );
    // A batch keeps its bounds; anything else is a fault that no retry mends.
    assert!(matches!(place.open(&run).try_insert(&run, 50, &records), Err(Failure::Denied(_))));
    assert_eq!(place.number("SELECT COUNT(*) FROM log_runs"), 1);
}

fn rows_hold_what_records_say(place: &Place) {
    let run = run_of("one", SystemTime::now());
    let odd = "tab\t line\n back\\ quote' \"\" \\N nul\0 \u{1f600} \r ä";
    let mut records = records(20, SystemTime::now());
    records[0] = Record {
        user_agent: Some(odd.into()),
        host: Some("\\N".into()),
        consumer: Some("".into()),
        key: None,
        path: "/ä".repeat(2_000).as_str().into(),
        client_ip: "2001:db8::7".parse().unwrap(),
        request_id: uuid::Uuid::from_bytes([0, 9, 10, 92, 0x40, 39, 0x80, 34, 0, 255, 0, 13, 10, 9, 92, 78]),
        upstream_time: None,
        status: 503,
        bytes_out: u64::MAX,
        ..record("/a/*", std::time::UNIX_EPOCH + Duration::new(1_709_210_096, 7_891))
    };
    place.open(&run).insert(&run, 1, &records);
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02X}")).collect::<String>();
    let found = place.sql(
        "SELECT `timestamp`, HEX(user_agent), HEX(host), HEX(consumer), `key`, LENGTH(HEX(path)), HEX(client_ip), HEX(request_id),
           upstream_ms, is_error, bytes_out, response_time_ms FROM api_logs WHERE sequence = 1",
    );
    let expected = [
        "2024-02-29 12:34:56.000007",
        &hex(odd),
        &hex("\\N"),
        "",
        "NULL",
        // 2,048 bytes would end within a character.
        "4094",
        "20010DB8000000000000000000000007",
        "00090A5C4027802200FF000D0A095C4E",
        "NULL",
        "1",
        &i64::MAX.to_string(),
        "12.345",
    ];
    assert_eq!(found.split('\t').collect::<Vec<_>>(), expected);
    let readable = place.sql("SELECT request_id, client_ip FROM api_logs_readable WHERE sequence = 1");
    assert!(readable.starts_with("00090a5c-4027-8022-00ff-000d0a095c4e\t2001:"), "{readable}");
}

fn rejected_rows_are_dropped_once_and_the_others_stored(place: &Place) {
    let run = run_of("one", SystemTime::now());
    let mut store = place.open(&run);
    place.poison();
    let mut records = records(200, SystemTime::now());
    for bad in [0, 99, 100, 199] {
        records[bad].endpoint = "poison".into();
    }
    for _ in 0..2 {
        // An answer that was lost is given again.
        let stored = store.insert(&run, 1_001, &records);
        let sequences: Vec<_> = stored.rejected.iter().map(|rejected| rejected.sequence).collect();
        assert_eq!(sequences, [1_001, 1_100, 1_101, 1_200]);
        store = place.open(&run);
    }
    assert_eq!(place.number("SELECT COUNT(*) FROM api_logs"), 196);
    assert_eq!(place.sql("SELECT first, last, `rows` FROM log_batches"), "1001\t1200\t196");
    let drops = place.sql("SELECT id, `after`, `count`, reason, numbered FROM log_drops");
    assert_eq!(drops, format!("{}\t1200\t4\trejected\t0", (1_u64 << 62) | 1_001));
    // They were requests; and the totals say what became of them.
    assert_eq!(place.number("SELECT SUM(`count`) FROM api_usage_minute"), 200);
    assert_eq!(place.sql("SELECT accepted, written, dropped, last FROM log_runs"), "1200\t196\t4\t1200");
}

fn a_batch_of_an_earlier_run_is_stored_as_its_own(place: &Place) {
    let (old, new) = (run_of("old", ago(2 * HOUR)), run_of("new", SystemTime::now()));
    place.open(&old).insert(&old, 1, &records(10, ago(HOUR)));
    let unknown = run_of("unknown", ago(DAY));
    let mut store = place.open(&new);
    for _ in 0..2 {
        store.insert(&old, 11, &records(5, ago(HOUR)));
        store.insert(&unknown, 1, &records(3, ago(DAY)));
        store = place.open(&new);
    }
    let batches =
        "SELECT node, first, log_batches.last, `rows` FROM log_batches JOIN log_runs ON log_runs.run = log_batches.run
                   ORDER BY node, first";
    assert_eq!(place.sql(batches), "old\t1\t10\t10\nold\t11\t15\t5\nunknown\t1\t3\t3");
    let usage = "SELECT node, SUM(`count`) FROM api_usage_minute JOIN log_runs ON log_runs.run = api_usage_minute.run
                 GROUP BY node ORDER BY node";
    assert_eq!(place.sql(usage), "old\t15\nunknown\t3");
    assert_eq!(place.number("SELECT COUNT(*) FROM api_logs"), 18);
}

fn increments_are_what_a_naive_count_finds(place: &Place) {
    let run = run_of("one", ago(2 * HOUR));
    let mut store = place.open(&run);
    let mut first = 1;
    for batch in 0..30_u64 {
        let records: Vec<Record> = (0..40 + batch).map(|place| stores::varied(batch * 31 + place, ago(HOUR))).collect();
        store.insert(&run, first, &records);
        if batch % 7 == 0 {
            store = place.open(&run);
            store.insert(&run, first, &records);
        }
        first += records.len() as u64;
    }
    let by = "endpoint, status, decided_by, consumer, `key`, service, instance";
    let counted = place.sql(&format!(
        "SELECT {by}, SUM(`count`), SUM(errors), SUM(bytes_in), SUM(bytes_out), SUM(duration_us), SUM(upstream_us)
         FROM api_usage_minute GROUP BY {by} ORDER BY {by}"
    ));
    let by_row = by.replace("status", "status_code");
    let naive = place.sql(&format!(
        "SELECT {by_row}, COUNT(*), SUM(is_error), SUM(bytes_in), SUM(bytes_out),
           {}, {} FROM api_logs GROUP BY {by_row} ORDER BY {by_row}",
        place.whole("SUM(ROUND(response_time_ms * 1000))"),
        place.whole("SUM(ROUND(COALESCE(upstream_ms, 0) * 1000))")
    ));
    assert_eq!(counted, naive);
    let rows = place.number("SELECT COUNT(*) FROM api_usage_minute");
    assert!((10..first).contains(&rows), "{rows}");
    // Histograms hold every request.
    let histograms: u64 = stores::minutes(place, "1 = 1").values().map(stores::histogram_count).sum();
    assert_eq!(histograms, first - 1);
}

fn a_minute_with_very_many_series_is_counted_right(place: &Place) {
    let run = run_of("one", ago(HOUR));
    let started = ago(60);
    let all: Vec<Record> = (0..6_000).map(|place| record(&format!("/{}", place % 5_000), started)).collect();
    let mut store = place.open(&run);
    for (first, records) in (1..).step_by(1_000).zip(all.chunks(1_000)) {
        store.insert(&run, first, records);
    }
    assert_eq!(place.sql("SELECT COUNT(*), SUM(`count`), MAX(`count`) FROM api_usage_minute"), "5000\t6000\t2");
}

fn requests_without_a_record_are_counted_all_the_same(place: &Place) {
    let run = run_of("one", SystemTime::now());
    let (kept, dropped) = (records(3, SystemTime::now()), records(9, SystemTime::now()));
    let mut store = place.open(&run);
    store.insert_with(&run, 1, &kept, &dropped);
    store.insert_with(&run, 1, &kept, &dropped);
    assert_eq!(place.number("SELECT SUM(`count`) FROM api_usage_minute"), 12);
    assert_eq!(place.number("SELECT COUNT(*) FROM api_logs"), 3);
}

/// Requests of three days, several an hour, some hours without any.
fn three_days(place: &Place, run: &store::Run) -> u64 {
    let mut store = place.open(run);
    let mut first = 1;
    for hour in (1..72).filter(|hour| hour % 5 != 0) {
        let records: Vec<Record> =
            (0..6).map(|place| stores::varied(hour * 7 + place, ago(hour * HOUR + place * 300))).collect();
        store.insert(run, first, &records);
        first += 6;
    }
    first
}

fn hours_and_days_are_packed_from_minutes(place: &Place) {
    let run = run_of("one", ago(4 * DAY));
    three_days(place, &run);
    let mut store = place.open(&run);
    store.keep_up(&Retention::default());
    let (hours_until, days_until) = place.packed_until("one");
    let settled = clock(SystemTime::now() - Duration::from_secs(300));
    assert_eq!(hours_until, format!("{}:00:00", &settled[..13]));
    assert_eq!(days_until, format!("{} 00:00:00", &settled[..10]));
    for (level, until) in [("hour", hours_until), ("day", days_until)] {
        let packed = stores::packed(place, level);
        assert_eq!(packed, stores::minutes(place, &format!("minute < '{until}'")), "{level}");
        assert!(!packed.is_empty());
    }
    let counts = place.sql("SELECT SUM(`count`) FROM api_usage_hour WHERE hour < (SELECT days_until FROM log_runs)");
    assert_eq!(counts, place.sql("SELECT SUM(`count`) FROM api_usage_day"));
}

fn outlines_count_the_same_and_where_there_is_none_everything_is_read(place: &Place) {
    let run = run_of("one", ago(4 * DAY));
    let first = three_days(place, &run);
    place.open(&run).keep_up(&Retention::default());
    let late: Vec<Record> = (0..40).map(|place| stores::varied(place * 13, ago(place * HOUR + 70 * 60))).collect();
    place.open(&run).insert(&run, first, &late);
    let whole = stores::packed_by_time(place, &Reading::Whole);
    assert!(whole.iter().all(|level| level.len() >= 2), "{whole:?}");
    let of_the_first_day = "= (SELECT MIN(day) FROM api_usage_day)";
    for (hours, days) in [
        ("hour < '1970-01-01'".to_owned(), "day < '1970-01-01'".to_owned()),
        (format!("hour > {}", of_the_first_day.trim_start_matches("= ")), format!("day {of_the_first_day}")),
        ("run > 0".to_owned(), "run > 0".to_owned()),
    ] {
        place.sql(&format!("DELETE FROM api_usage_outline_hour WHERE {hours}"));
        place.sql(&format!("DELETE FROM api_usage_outline_day WHERE {days}"));
        for reading in Detail::OUTLINES.map(Reading::outline).into_iter().chain(Family::ALL.map(Reading::portions)) {
            assert_eq!(stores::packed_by_time(place, &reading), whole, "{reading:?} without {hours}");
        }
    }
    assert_eq!(place.number("SELECT COUNT(*) FROM api_usage_outline_hour"), 0);
}

fn what_comes_late_reaches_what_is_packed(place: &Place) {
    let run = run_of("one", ago(4 * DAY));
    let first = three_days(place, &run);
    place.open(&run).keep_up(&Retention::default());
    let late: Vec<Record> = (0..60).map(|place| stores::varied(place * 13, ago(place * HOUR + HOUR / 2))).collect();
    let mut store = place.open(&run);
    store.insert(&run, first, &late);
    store.insert(&run, first, &late);
    // Long before the run began: a clock that was wrong.
    store.insert(&run, first + 60, &records(5, ago(30 * DAY)));
    let (hours_until, days_until) = place.packed_until("one");
    for (level, until) in [("hour", hours_until), ("day", days_until)] {
        assert_eq!(stores::packed(place, level), stores::minutes(place, &format!("minute < '{until}'")), "{level}");
    }
}

fn silent_and_closed_runs_are_packed_by_others(place: &Place) {
    let (closed, silent, living) =
        (run_of("closed", ago(2 * DAY)), run_of("silent", ago(2 * DAY)), run_of("living", ago(2 * DAY)));
    place.open(&closed).insert(&closed, 1, &records(5, ago(30 * HOUR)));
    place.open(&closed).close(&Beat::default());
    for run in [&silent, &living] {
        place.open(run).insert(run, 1, &records(5, ago(30 * HOUR)));
    }
    let beat = clock(ago(600));
    place.sql(&format!("UPDATE log_runs SET beat_at = '{beat}' WHERE node = 'silent'"));
    let own = run_of("own", SystemTime::now());
    place.open(&own).keep_up(&Retention::default());
    let far = "9999-01-01 00:00:00";
    // Days follow when the next day has settled.
    assert_eq!(place.packed_until("closed").0, far);
    let begun = format!("{}:00:00", &clock(ago(2 * DAY))[..13]);
    assert_eq!(place.packed_until("living").0, begun);
    assert!(place.packed_until("silent").0 > begun && place.packed_until("silent").0 != far);
    assert_eq!(place.number("SELECT SUM(`count`) FROM api_usage_hour"), 10);
    // What a closed run has left behind is merged into what is packed.
    place.open(&own).insert(&closed, 6, &records(4, ago(30 * HOUR)));
    assert_eq!(place.number("SELECT SUM(`count`) FROM api_usage_hour"), 14);
    assert_eq!(place.number("SELECT SUM(`count`) FROM api_usage_day"), 14);
}

fn retention_removes_what_is_old_and_packed(place: &Place) {
    let run = run_of("one", ago(4 * DAY));
    let all = three_days(place, &run) - 1;
    let blocked = run_of("living", ago(60 * HOUR));
    place.open(&blocked).beat(&Beat::default());
    let span = |hours: u64| Span::seconds(hours * 3_600);
    let keep = Retention { requests: span(24), minutes: span(48), hours: span(60), ..Retention::default() };
    place.open(&run).keep_up(&keep);
    let (requests, before) = (clock(ago(DAY)), format!("{}:00:00", &clock(ago(60 * HOUR))[..13]));
    assert_eq!(place.number(&format!("SELECT COUNT(*) FROM api_logs WHERE `timestamp` < '{requests}'")), 0);
    let left = place.number("SELECT COUNT(*) FROM api_logs");
    assert!(left > 80 && left < all / 2, "{left} of {all}");
    // A run that lives has not packed its hours yet: no minute after that is removed.
    assert!(*place.sql("SELECT MIN(minute) FROM api_usage_minute") >= *before);
    let minutes = "SELECT `before` FROM log_retention WHERE what = 'minutes'";
    assert_eq!(&place.sql(minutes)[..19], before);

    place.open(&blocked).keep_up(&keep);
    let mut store = place.open(&run);
    store.keep_up(&keep);
    let before = format!("{}:00:00", &clock(ago(48 * HOUR))[..13]);
    assert_eq!(&place.sql(minutes)[..19], before);
    assert_eq!(place.number(&format!("SELECT COUNT(*) FROM api_usage_minute WHERE minute < '{before}'")), 0);
    let hours = format!("{} 00:00:00", &clock(ago(60 * HOUR))[..10]);
    assert_eq!(place.number(&format!("SELECT COUNT(*) FROM api_usage_hour WHERE hour < '{hours}'")), 0);
    assert!(place.number("SELECT COUNT(*) FROM api_usage_hour") > 40);
    // Days are kept for ever.
    let days = place.number("SELECT SUM(`count`) FROM api_usage_day");
    let today = format!("{} 00:00:00", &clock(ago(300))[..10]);
    let counted = format!("SELECT COALESCE(SUM(`count`), 0) FROM api_usage_minute WHERE minute >= '{today}'");
    assert!(days + place.number(&counted) == all || days < all);
}

fn a_task_of_upkeep_that_fails_keeps_no_other_from_its_turn(place: &Place) {
    let run = run_of("one", ago(4 * DAY));
    let mut store = place.open(&run);
    store.insert(&run, 1, &records(5, ago(3 * DAY)));
    // A table that somebody has changed: nothing can be packed.
    place.sql("ALTER TABLE api_usage_outline_hour RENAME COLUMN packed TO others");
    let keep = Retention { requests: Span::seconds(HOUR), ..Retention::default() };
    let steps: Vec<Result<bool, Failure>> = (0..200).map(|_| store.try_step(&keep)).collect();
    let failures = steps.iter().filter(|step| step.is_err()).count();
    assert!(failures <= 3, "{steps:?}");
    assert!(steps.iter().rev().take(20).all(Result::is_ok), "{steps:?}");
    assert_eq!(place.number("SELECT COUNT(*) FROM api_usage_hour"), 0);
    assert_eq!(place.number("SELECT COUNT(*) FROM api_logs"), 0);
}

fn a_log_that_is_too_large_loses_its_oldest_requests(place: &Place) {
    let run = run_of("one", ago(4 * DAY));
    let mut store = place.open(&run);
    let long = "/x".repeat(900);
    for (batch, days) in [(0, 3), (1, 2), (2, 1), (3, 0)] {
        let started = ago(days * DAY);
        let records: Vec<Record> =
            (0..1_500).map(|_| Record { path: long.as_str().into(), ..record("/a/*", started) }).collect();
        store.insert(&run, 1 + batch * 1_500, &records);
    }
    place.settle();
    let mut store = place.open(&run);
    store.keep_up(&Retention::default());
    let bytes = store.kept().bytes;
    let mut store = place.open(&run);
    store.keep_up(&Retention { size: Size(bytes / 2), ..Retention::default() });
    let removed = &store.kept().removed;
    assert!(removed.iter().any(|removed| (&*removed.what, &*removed.limit) == ("requests", "size")), "{removed:?}");
    let left = place.number("SELECT COUNT(*) FROM api_logs");
    assert!((1_000..4_500).contains(&left), "{left}");
    assert!(place.number(&format!("SELECT COUNT(*) FROM api_logs WHERE `timestamp` >= '{}'", clock(ago(HOUR)))) > 0);
    let before = place.sql("SELECT `before` FROM log_retention WHERE what = 'requests'");
    assert_eq!(place.number(&format!("SELECT COUNT(*) FROM api_logs WHERE `timestamp` < '{before}'")), 0);
    assert_eq!(place.number("SELECT SUM(`count`) FROM api_usage_minute"), 6_000);
}

fn a_merged_ledger_still_knows_its_batches(place: &Place) {
    let run = run_of("one", ago(4 * DAY));
    let batch = records(4, ago(30 * HOUR));
    let mut store = place.open(&run);
    // Two gaps; more than one page.
    let firsts: Vec<u64> = (0..700)
        .map(|batch| 1 + batch * 4 + if batch >= 300 { 10 } else { 0 } + if batch >= 600 { 10 } else { 0 })
        .collect();
    for first in &firsts {
        store.insert(&run, *first, &batch);
    }
    place.sql(&format!("UPDATE log_batches SET written_at = '{}' WHERE first < 2600", clock(ago(25 * HOUR))));
    place.open(&run).keep_up(&Retention::default());
    let ranges = place.sql("SELECT first, last, `rows` FROM log_batches ORDER BY first LIMIT 3");
    assert_eq!(ranges, "1\t1200\t1200\n1211\t2410\t1200\n2421\t2600\t180");
    assert_eq!(place.number("SELECT SUM(`rows`) FROM log_batches"), 2_800);
    let mut store = place.open(&run);
    for first in &firsts {
        assert!(store.insert(&run, *first, &batch).was_there, "{first}");
    }
    assert!(!store.insert(&run, 1_201, &batch).was_there);
    assert_eq!(place.number("SELECT COUNT(*) FROM api_logs"), 2_804);
    assert_eq!(place.number("SELECT SUM(`count`) FROM api_usage_minute"), 2_804);
}

fn drops(id: u64, count: u64) -> Drops {
    let (since, until) = (ago(60), SystemTime::now());
    Drops { id, after: 7, count, reason: "queue_full".to_owned(), numbered: false, since, until }
}

fn beats_and_the_end_are_written_down(place: &Place) {
    let run = run_of("one", SystemTime::now());
    let totals = Totals { accepted: 10, recovered: 1, written: 2, spooled: 3, dropped: 6, last: 4 };
    let mut store = place.open(&run);
    for _ in 0..2 {
        store.beat(&Beat { totals, drops: vec![drops(1, 4), drops(2, 2)], has_ended: false });
    }
    let row = "SELECT accepted, recovered, written, spooled, dropped, last, closed_at IS NULL FROM log_runs";
    assert_eq!(place.sql(row), "10\t1\t2\t3\t6\t4\t1");
    assert_eq!(
        place.sql("SELECT id, `after`, `count`, reason FROM log_drops"),
        "1\t7\t4\tqueue_full\n2\t7\t2\tqueue_full"
    );
    store.close(&Beat { totals, drops: vec![drops(2, 2)], has_ended: false });
    assert_eq!(place.sql("SELECT closed_at = beat_at FROM log_runs"), "1");
    assert_eq!(place.number("SELECT COUNT(*) FROM log_drops"), 2);
}

fn the_end_of_a_run_counts_what_was_dropped_at_last(place: &Place) {
    let run = run_of("one", SystemTime::now());
    let mut store = place.open(&run);
    store.insert(&run, 1, &records(5, ago(60)));
    let mut unrecorded = Increments::default();
    records(7, ago(50)).iter().for_each(|record| unrecorded.add_owned(&Row::of(record, ClientIp::None)));
    store.close_with(&Beat::default(), &unrecorded);
    assert_eq!(place.number("SELECT COUNT(*) FROM api_logs"), 5);
    assert_eq!(place.number("SELECT SUM(`count`) FROM api_usage_minute"), 12);
}

fn a_killed_run_is_closed_once(place: &Place) {
    let (killed, next) = (run_of("killed", ago(HOUR)), run_of("next", SystemTime::now()));
    let mut store = place.open(&killed);
    place.poison();
    let mut records = records(50, ago(HOUR / 2));
    records[7].endpoint = "poison".into();
    store.insert(&killed, 1, &records);
    store.beat(&Beat {
        totals: Totals { accepted: 100, written: 50, ..Totals::default() },
        drops: vec![drops(1, 20)],
        has_ended: false,
    });
    let mut store = place.open(&next);
    store.insert(&killed, 51, &records[20..30]);
    for _ in 0..2 {
        // A checkpoint that only the spool's folder knows.
        store.close_killed(
            &killed,
            &Beat { totals: Totals::default(), drops: vec![drops(1, 20), drops(2, 5)], has_ended: false },
        );
    }
    // Accepted 100; 60 in the ledger, of which one was rejected; 25 dropped.
    let found = place.sql("SELECT id, `after`, `count` FROM log_drops WHERE reason = 'killed'");
    assert_eq!(found, format!("{}\t60\t15", 1_u64 << 61));
    assert_eq!(
        place.sql("SELECT closed_at IS NOT NULL, accepted, last FROM log_runs WHERE node = 'killed'"),
        "1\t100\t60"
    );
    let complete = run_of("complete", ago(HOUR));
    store.insert(&complete, 1, &records[10..20]);
    store.close_killed(
        &complete,
        &Beat { totals: Totals { accepted: 10, ..Totals::default() }, drops: vec![], has_ended: false },
    );
    // Nothing is known to be lost; that there was a kill is there all the same.
    assert_eq!(place.sql("SELECT run, `count` FROM log_drops WHERE reason = 'killed' ORDER BY run"), "1\t15\n3\t0");
    let sums = "SELECT COUNT(*) FROM log_runs WHERE closed_at IS NOT NULL AND accepted + recovered <> written + spooled + dropped";
    assert_eq!(place.number(sums), 0);
}

fn tables_from_before_are_migrated(place: &Place) {
    place.make_old_tables();
    let found = store::probe(&place.url()).unwrap();
    assert!(found[1].contains("migration 0002_ledger_and_usage"), "{found:?}");
    let done = store::migrate(&place.url()).unwrap();
    assert!(done.iter().any(|line| line.contains("0002_ledger_and_usage applied")), "{done:?}");
    assert!(store::migrate(&place.url()).unwrap()[0].contains("nothing to do"));
    assert_eq!(store::probe(&place.url()).unwrap().len(), 1);
    assert_eq!(
        place.sql("SELECT version, name FROM log_migrations"),
        "1\t0001_request_log\n2\t0002_ledger_and_usage\n3\t0003_usage_outlines\n4\t0004_limit_counters\n5\t0005_keys\n6\t0006_usage_by_outline"
    );
    assert_eq!(place.sql("SELECT first, last, `rows` FROM log_batches"), "3\t5\t3");
    assert_eq!(place.sql("SELECT last FROM log_runs"), "5");
    let run = run_of("new", SystemTime::now());
    place.open(&run).insert(&run, 1, &records(3, SystemTime::now()));
    assert_eq!(place.number("SELECT COUNT(*) FROM api_logs_readable"), 6);
}

fn tables_that_were_dropped_are_made_anew(place: &Place) {
    let run = run_of("one", SystemTime::now());
    let records = records(3, SystemTime::now());
    let mut store = place.open(&run);
    store.insert(&run, 1, &records);
    for table in ["log_runs", "api_logs"] {
        place.sql(&format!("DROP TABLE {table}"));
    }
    let mut first = 4;
    while store.try_insert(&run, first, &records).is_err() {
        assert!(first == 4);
        first = 4;
    }
    assert_eq!(place.sql("SELECT MIN(sequence), MAX(sequence) FROM api_logs"), "4\t6");
    assert_eq!(place.number("SELECT last FROM log_runs"), 6);
}

fn gateways_that_start_at_once_do_not_collide(place: &Place) {
    std::thread::scope(|scope| {
        for name in ["a", "b", "c", "d"] {
            scope.spawn(move || {
                let run = run_of(name, ago(2 * DAY));
                let mut store = place.open(&run);
                for batch in 0..10 {
                    store.insert_until_stored(&run, 1 + batch * 20, &records(20, ago(batch * 5 * HOUR)));
                    store.keep_up(&Retention::default());
                }
            });
        }
    });
    assert_eq!(place.sql("SELECT COUNT(*), COUNT(DISTINCT run), MAX(sequence) FROM api_logs"), "800\t4\t200");
    assert_eq!(place.number("SELECT SUM(`count`) FROM api_usage_minute"), 800);
    assert_eq!(place.number("SELECT COUNT(*) FROM log_migrations"), 6);
    assert_eq!(place.number("SELECT COUNT(*) FROM log_batches"), 40);
}

fn what_is_kept_is_told(place: &Place) {
    let run = run_of("one", ago(4 * DAY));
    let mut store = place.open(&run);
    store.insert(&run, 1, &records(3, ago(DAY)));
    store.keep_up(&Retention::default());
    let kept = store.kept();
    let oldest = kept.oldest.as_ref().unwrap();
    assert!(kept.bytes > 10_000 && oldest.starts_with(&clock(ago(DAY))[..10]) && kept.removed.is_empty());
    let mut store = place.open(&run);
    store.keep_up(&Retention { requests: Span::seconds(HOUR), ..Retention::default() });
    let kept = store.kept();
    let [removed] = &kept.removed[..] else { panic!("{kept:?}") };
    assert_eq!((&kept.oldest, &*removed.what, &*removed.limit), (&None, "requests", "requests"));
}

#[test]
fn who_may_not_make_tables_is_told_what_is_missing() {
    let database = MariaDb::start();
    database.sql("CREATE USER poor@'%' IDENTIFIED BY 'pw'; GRANT SELECT, INSERT, UPDATE ON tollgate.* TO poor@'%'");
    let place = Place::Mariadb(database);
    let Place::Mariadb(database) = &place else { panic!() };
    let poor = StoreUrl::Mysql(database.url_as("poor", "pw"));
    let run = run_of("poor", SystemTime::now());
    let denied = || match stores::try_open(&poor, &run) {
        Err(Failure::Denied(message)) => message,
        other => panic!("{:?}", other.err()),
    };
    let message = denied();
    for part in [
        "0001_request_log",
        "0002_ledger_and_usage",
        "api_usage_minute",
        "run `tollgate log migrate -c ...` as a user who may",
    ] {
        assert!(message.contains(part), "{message}");
    }
    assert!(store::migrate(&poor).unwrap_err().contains("0002_ledger_and_usage"));
    assert!(store::probe(&poor).unwrap_err().contains("no right to CREATE"));
    place.make_old_tables();
    assert!(!denied().contains("0001"), "{}", denied());

    let done = store::migrate(&place.url()).unwrap();
    assert!(done.iter().any(|line| line.ends_with("api_logs is partitioned by day")), "{done:?}");
    let mut store = stores::try_open(&poor, &run).unwrap();
    store.insert(&run, 1, &records(3, ago(10 * DAY)));
    // What it may not remove stays, and the log goes on.
    store.keep_up(&Retention { requests: Span::seconds(3 * DAY), ..Retention::default() });
    store.insert(&run, 4, &records(3, SystemTime::now()));
    assert_eq!(place.number("SELECT COUNT(*) FROM api_logs"), 9);
    let found = store::probe(&poor).unwrap();
    assert!(found.iter().any(|line| line.contains("the right DELETE on api_logs is missing")), "{found:?}");
    database.sql("GRANT DELETE ON tollgate.* TO poor@'%'");
    stores::try_open(&poor, &run)
        .unwrap()
        .keep_up(&Retention { requests: Span::seconds(3 * DAY), ..Retention::default() });
    assert_eq!(place.number("SELECT COUNT(*) FROM api_logs WHERE `timestamp` > NOW() - INTERVAL 1 DAY"), 3);
}

#[test]
fn a_server_that_allows_no_load_is_sent_inserts() {
    let place = Place::mariadb();
    place.sql("SET GLOBAL local_infile = 0");
    rows_hold_what_records_say(&place);
    let run = run_of("two", SystemTime::now());
    place.open(&run).insert(&run, 1, &records(1_500, SystemTime::now()));
    assert_eq!(place.number("SELECT COUNT(*) FROM api_logs"), 1_520);
}

#[test]
fn days_have_their_partitions() {
    let place = Place::mariadb();
    let run = run_of("one", ago(40 * DAY));
    let mut store = place.open(&run);
    let partitions = "SELECT COUNT(*) FROM information_schema.partitions WHERE table_name = 'api_logs'";
    assert_eq!(place.number(partitions), 9);
    store.insert(&run, 1, &records(10, ago(35 * DAY)));
    store.insert(&run, 11, &records(10, SystemTime::now()));
    assert_eq!(place.number("SELECT COUNT(*) FROM api_logs PARTITION (later)"), 0);
    // Days go by.
    let day = |days: u64| clock(ago(days * DAY))[..10].to_owned();
    let name = |days: u64| format!("p{}", day(days).replace('-', ""));
    place.sql(&format!(
        "ALTER TABLE api_logs PARTITION BY RANGE COLUMNS(`timestamp`) (PARTITION {} VALUES LESS THAN ('{}'),
         PARTITION {} VALUES LESS THAN ('{}'), PARTITION later VALUES LESS THAN (MAXVALUE))",
        name(34),
        day(33),
        name(20),
        day(19)
    ));
    let mut store = place.open(&run);
    store.keep_up(&Retention::default());
    assert_eq!(place.number("SELECT COUNT(*) FROM api_logs"), 10);
    let first = "SELECT MIN(partition_name) FROM information_schema.partitions WHERE table_name = 'api_logs'";
    // `later` sorts before every `p`.
    assert_eq!(
        place.sql(
            &first
                .replace("MIN(partition_name)", "partition_name")
                .replace(" WHERE", " WHERE partition_ordinal_position = 1 AND")
        ),
        name(20)
    );
    assert_eq!(place.number(partitions), 1 + 8 + 1);
    assert_eq!(place.number(&format!("SELECT COUNT(*) FROM api_logs PARTITION ({})", name(0))), 10);
    let before = place.sql("SELECT `before` FROM log_retention WHERE what = 'requests'");
    assert_eq!(before, format!("{} 00:00:00.000000", day(30)));
}

#[test]
fn a_batch_whose_connection_is_cut_is_stored_once() {
    let place = Place::mariadb();
    let Place::Mariadb(database) = &place else { panic!() };
    let run = run_of("one", SystemTime::now());
    let mut store = place.open(&run);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let ids = database.sql("SELECT id FROM information_schema.processlist WHERE user = 'gate'");
                for id in ids.lines() {
                    let _ =
                        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| database.sql(&format!("KILL {id}"))));
                }
                std::thread::sleep(Duration::from_millis(30));
            }
        });
        for batch in 0..100 {
            store.insert_until_stored(&run, 1 + batch * 50, &records(50, SystemTime::now()));
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(place.number("SELECT COUNT(*) FROM api_logs"), 5_000);
    assert_eq!(place.number("SELECT SUM(`count`) FROM api_usage_minute"), 5_000);
    assert_eq!(place.sql("SELECT COUNT(*), SUM(`rows`) FROM log_batches"), "100\t5000");
}
