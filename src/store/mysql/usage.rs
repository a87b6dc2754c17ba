//! The roll-ups in MySQL and MariaDB: what a batch adds to the minutes, and to hours and days that are packed already.
//! Rows are read, merged and written: a histogram can't be added up in SQL. The caller holds the lock of the run.

use mysql_async::{Row, Value};

use super::super::Failure;
use super::super::usage::{
    Change, Id, Known, Level, Minute, Progress, SERIES_MAX, Series, Sum, Tally, Unknown, late, tally,
};
use super::link::{Link, value};

/// The columns of a tally in `api_usage_minute`, behind `series`.
const TALLY: &str = "series, `count`, errors, blocked, bytes_in, bytes_out, duration_us, upstream_us, histogram";

/// Rows of one statement: powers of two up to this, so that a connection prepares few statements.
const STATEMENT_ROWS_MAX: usize = 64;

/// Series that are asked for in one statement.
const STATEMENT_SERIES_MAX: usize = 500;

/// Run, hours_until, days_until, whether it is closed.
pub(super) fn progress(row: &Row) -> Option<Progress> {
    let minute = |place| value(row, place).map(Minute);
    let is_closed = value::<i64>(row, 3)? != 0;
    Some(Progress { run: value(row, 0)?, hours_until: minute(1)?, days_until: minute(2)?, is_closed })
}

/// Adds changes to the rows of a run; they say afterwards what the rows hold.
pub(super) async fn add(
    link: &mut Link,
    known: &mut Known,
    progress: &Progress,
    is_own: bool,
    changes: &mut [Change<'_>],
) -> Result<(), Failure> {
    for (level, until) in [(Level::Hours, progress.hours_until), (Level::Days, progress.days_until)] {
        for (start, changes) in late(changes, until, level.minutes()) {
            add_late(link, progress.run, level, start, &changes).await?;
        }
    }
    for Unknown { minute, ids, is_large } in known.unknown(changes) {
        let mut all = is_own && !is_large;
        let mut rows = if all { read_minute(link, progress.run, minute).await? } else { Vec::new() };
        if !all || rows.len() > SERIES_MAX {
            all = false;
            rows = read_series(link, progress.run, minute, &ids).await?;
        }
        known.read(minute, rows, all);
    }
    known.merge(changes);
    let mut changes = &*changes;
    while !changes.is_empty() {
        let (now, later) = changes.split_at(1 << changes.len().min(STATEMENT_ROWS_MAX).ilog2());
        let values = now.iter().flat_map(|change| values(change, progress.run)).collect();
        link.run(&write_sql(now.len()), values).await?;
        changes = later;
    }
    Ok(())
}

fn write_sql(rows: usize) -> String {
    let row = format!("({})", ["?"; 19].join(","));
    let sums = ["`count`", "errors", "blocked", "bytes_in", "bytes_out", "duration_us", "upstream_us", "histogram"];
    format!(
        "INSERT INTO api_usage_minute (minute, run, series, endpoint, method, status, decided_by, consumer, `key`, service,
           instance, {}) VALUES {} ON DUPLICATE KEY UPDATE {}",
        sums.join(", "),
        vec![row; rows].join(","),
        sums.map(|sum| format!("{sum} = VALUES({sum})")).join(", ")
    )
}

fn values(change: &Change<'_>, run: u32) -> [Value; 19] {
    let Change { minute, id, series, tally } = change;
    let mut histogram = Vec::new();
    tally.histogram.encode(&mut histogram);
    [
        minute.text().into(),
        run.into(),
        id.as_slice().into(),
        series.endpoint.into(),
        series.method.into(),
        series.status.into(),
        series.decided_by.into(),
        series.consumer.into(),
        series.key.into(),
        series.service.into(),
        series.instance.into(),
        tally.count.into(),
        tally.errors.into(),
        tally.blocked.into(),
        tally.bytes_in.into(),
        tally.bytes_out.into(),
        tally.duration.into(),
        tally.upstream.into(),
        histogram.into(),
    ]
}

async fn read_minute(link: &mut Link, run: u32, minute: Minute) -> Result<Vec<(Id, Tally)>, Failure> {
    let sql = format!("SELECT {TALLY} FROM api_usage_minute WHERE minute = ? AND run = ? LIMIT {}", SERIES_MAX + 1);
    let rows = link.rows(&sql, vec![minute.text().into(), run.into()]).await?;
    Ok(rows.iter().filter_map(read_tally).collect())
}

async fn read_series(link: &mut Link, run: u32, minute: Minute, ids: &[Id]) -> Result<Vec<(Id, Tally)>, Failure> {
    let mut found = Vec::new();
    for ids in ids.chunks(STATEMENT_SERIES_MAX) {
        let ids: Vec<_> = ids.iter().map(|id| format!("X'{:032x}'", u128::from_be_bytes(*id))).collect();
        let sql = format!(
            "SELECT {TALLY} FROM api_usage_minute WHERE minute = '{}' AND run = {run} AND series IN ({})",
            minute.text(),
            ids.join(",")
        );
        found.extend(link.text_rows(&sql).await?.iter().filter_map(read_tally));
    }
    Ok(found)
}

fn read_tally(row: &Row) -> Option<(Id, Tally)> {
    let mut numbers = [0; 7];
    for (place, number) in (1..).zip(&mut numbers) {
        *number = value(row, place).unwrap_or_default();
    }
    let id = value::<Vec<u8>>(row, 0)?.try_into().ok()?;
    Some((id, tally(numbers, &value::<Vec<u8>>(row, 8).unwrap_or_default())))
}

/// Adds the rows of one minute to a sum; how many there are.
pub(super) async fn sum_minute(link: &mut Link, run: u32, minute: Minute, sum: &mut Sum) -> Result<usize, Failure> {
    let sql = format!(
        "SELECT {TALLY}, endpoint, method, status, decided_by, consumer, `key`, service, instance
         FROM api_usage_minute WHERE minute = ? AND run = ?"
    );
    let rows = link.rows(&sql, vec![minute.text().into(), run.into()]).await?;
    for row in &rows {
        let Some((id, tally)) = read_tally(row) else { continue };
        let series = || Series {
            endpoint: value(row, 9).unwrap_or_default(),
            method: value(row, 10).unwrap_or_default(),
            status: value(row, 11).unwrap_or_default(),
            decided_by: value(row, 12).unwrap_or_default(),
            consumer: value(row, 13),
            key: value(row, 14),
            service: value(row, 15),
            instance: value(row, 16),
        };
        sum.add(id, series, &tally);
    }
    Ok(rows.len())
}

/// The packed value of an hour or day.
pub(super) async fn read_packed(
    link: &mut Link,
    run: u32,
    level: Level,
    start: Minute,
) -> Result<Option<Vec<u8>>, Failure> {
    let (table, column) = level.table();
    let sql = format!("SELECT packed FROM {table} WHERE {column} = ? AND run = ?");
    link.first(&sql, vec![start.text().into(), run.into()]).await
}

/// Writes the packed value of an hour or day, and its outlines.
pub(super) async fn write_packed(
    link: &mut Link,
    run: u32,
    level: Level,
    start: Minute,
    sum: &Sum,
) -> Result<(), Failure> {
    let (table, column) = level.table();
    let sql = format!(
        "INSERT INTO {table} ({column}, run, `count`, packed) VALUES (?, ?, ?, ?)
         ON DUPLICATE KEY UPDATE `count` = VALUES(`count`), packed = VALUES(packed)"
    );
    let values = vec![start.text().into(), run.into(), sum.count.into(), sum.pack().into()];
    link.run(&sql, values).await?;
    let sql = format!(
        "INSERT INTO {} (outline, {column}, run, packed) VALUES (?, ?, ?, ?)
         ON DUPLICATE KEY UPDATE packed = VALUES(packed)",
        level.outline_table()
    );
    for (outline, packed) in sum.pack_outlines() {
        link.run(&sql, vec![outline.into(), start.text().into(), run.into(), packed.into()]).await?;
    }
    Ok(())
}

async fn add_late(
    link: &mut Link,
    run: u32,
    level: Level,
    start: Minute,
    changes: &[&Change<'_>],
) -> Result<(), Failure> {
    let mut sum = Sum::default();
    if let Some(packed) = read_packed(link, run, level, start).await?
        && sum.add_packed(&packed).is_err()
    {
        // Somebody else has written there. It is left as it is; to refuse the batch would block the log.
        log::error!("request log: a value in {} can't be read: run {run}, {}", level.table().0, start.text());
        return Ok(());
    }
    changes.iter().for_each(|change| sum.add_change(change));
    write_packed(link, run, level, start, &sum).await
}
