//! Upkeep of a MySQL or MariaDB database: partitions, retention, and the ledger's old rows merged into ranges.
//! What this user may not do is said once and left alone: it must not stop the log.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::super::migrations::{APPLIED, MYSQL, tables};
use super::super::upkeep::{
    BY_SIZE, LEDGER_PAGE, Range, STEP_ROWS, Task, Upkeep, ago, hours_before, ledger_before, merge_ranges,
    minutes_before, removed,
};
use super::super::usage::{Minute, SILENT_AFTER};
use super::super::{Failure, Kept, Moment};
use super::link::{Link, date, value};
use super::{Open, pack, partitions};
use crate::config::Retention;

/// The pause after something was refused.
const REFUSED_PAUSE: Duration = Duration::from_secs(600);

/// How long the server's figures of its tables take to follow a removal.
const SIZE_PAUSE: Duration = Duration::from_secs(600);

/// Packed values are large.
const STEP_HOURS: usize = 100;

/// Outlines of such values that are removed at once.
const STEP_OUTLINES: usize = 1_000;

/// Requests that are kept for less are removed to the second; for more, by whole days where there are partitions.
const BY_DAYS: Duration = Duration::from_secs(2 * 24 * 3_600);

const OLDEST: &str = "SELECT CAST(MIN(`timestamp`) AS CHAR) FROM api_logs";

/// One step of what is due; true when there is more to do.
pub(super) async fn step(
    open: &mut Open,
    upkeep: &mut Upkeep,
    keep: &Retention,
    now: SystemTime,
) -> Result<bool, Failure> {
    let Some(task) = upkeep.due() else { return Ok(false) };
    let (link, run) = (&mut open.link, open.run);
    let result = match task {
        Task::Partitions => partitions::ahead(link, now).await.map(|()| false),
        Task::Pack => pack::step(link, run, upkeep, now).await,
        Task::Retain => retain(link, upkeep, keep, now).await,
        Task::Merge => merge(link, run, upkeep, now).await,
    };
    let has_more = match result {
        Ok(has_more) => has_more,
        Err(Failure::Denied(message)) => {
            upkeep.say(&message);
            upkeep.packing = None;
            upkeep.rest_for(task, REFUSED_PAUSE);
            link.text("ROLLBACK").await?;
            return Ok(upkeep.due().is_some());
        }
        Err(failure) => {
            upkeep.failed(task);
            return Err(failure);
        }
    };
    if task == Task::Retain && upkeep.is_to_look(has_more, now) {
        upkeep.kept = Some(Arc::new(kept(link, now).await?));
    }
    if !has_more {
        upkeep.rest(task);
    }
    Ok(has_more || upkeep.due().is_some())
}

/// What the database keeps.
async fn kept(link: &mut Link, now: SystemTime) -> Result<Kept, Failure> {
    let bytes = bytes(link).await?;
    let oldest = link.first(OLDEST, vec![]).await?;
    let sql = "SELECT what, CAST(`before` AS CHAR), CAST(removed_at AS CHAR) FROM log_retention ORDER BY what";
    let rows = link.rows(sql, vec![]).await?;
    let rows = rows.iter().filter_map(|row| Some((value(row, 0)?, value(row, 1)?, value(row, 2)?)));
    Ok(Kept { seen: now, bytes, oldest, removed: removed(rows) })
}

/// Bytes of all tables of the log, as the server says.
async fn bytes(link: &mut Link) -> Result<u64, Failure> {
    // MySQL gives figures of yesterday unless it is told not to; MariaDB does not know the variable.
    let _ = link.change("SET SESSION information_schema_stats_expiry = 0").await?;
    let names: Vec<_> = tables(MYSQL).chain([APPLIED]).map(|name| format!("'{name}'")).collect();
    let sql = format!(
        "SELECT CAST(COALESCE(SUM(data_length + index_length), 0) AS UNSIGNED) FROM information_schema.tables
         WHERE table_schema = DATABASE() AND table_name IN ({})",
        names.join(",")
    );
    Ok(link.text_rows(&sql).await?.first().and_then(|row| value(row, 0)).unwrap_or_default())
}

async fn retain(link: &mut Link, upkeep: &mut Upkeep, keep: &Retention, now: SystemTime) -> Result<bool, Failure> {
    let requests = Minute::of(ago(now, keep.requests));
    let oldest = partitions::oldest_before(link, requests).await?;
    if let Some(has_more) = drop_day(link, upkeep, oldest, &["requests"], now).await? {
        return Ok(has_more);
    }
    let packed = "SELECT COALESCE(TIMESTAMPDIFF(MINUTE, '1970-01-01', MIN(hours_until)), 0),
                    COALESCE(TIMESTAMPDIFF(MINUTE, '1970-01-01', MIN(days_until)), 0) FROM log_runs";
    let packed = link.row(packed, vec![]).await?;
    let packed = |place| packed.as_ref().and_then(|row| value(row, place)).map_or(Minute(0), Minute);
    let minutes = minutes_before(now, keep, packed(0));
    let hours = hours_before(now, keep, packed(1));
    let by_days = keep.requests.0 >= BY_DAYS && !upkeep.is_drop_refused && partitions::are_there(link).await?;
    let requests = Moment::of(if by_days { SystemTime::UNIX_EPOCH } else { ago(now, keep.requests) });
    for (what, table, key, before, rows) in [
        ("requests", "api_logs", "`timestamp`, run, sequence", requests, STEP_ROWS),
        ("minutes", "api_usage_minute", "minute, run, series", Moment::of(minutes.time()), STEP_ROWS),
        ("hours", "api_usage_hour", "hour, run", Moment::of(hours.time()), STEP_HOURS),
        ("hours", "api_usage_outline_hour", "hour, outline, run", Moment::of(hours.time()), STEP_OUTLINES),
    ] {
        if remove(link, table, key, before, rows, what, now).await? > 0 {
            return Ok(true);
        }
    }
    shrink(link, upkeep, keep, now).await
}

/// Drops a partition, and records before which time nothing is left; none where there is nothing to drop, or this user may not.
async fn drop_day(
    link: &mut Link,
    upkeep: &mut Upkeep,
    oldest: Option<(String, Minute)>,
    recorded: &[&str],
    now: SystemTime,
) -> Result<Option<bool>, Failure> {
    let Some((name, before)) = oldest.filter(|_| !upkeep.is_drop_refused) else { return Ok(None) };
    // First, so that no audit ever misses rows that retention has removed.
    for what in recorded {
        record(link, what, date(Moment::of(before.time())), now).await?;
    }
    match partitions::drop(link, &name).await {
        Ok(dropped) => Ok(Some(dropped)),
        Err(Failure::Denied(message)) => {
            upkeep.say(&message);
            upkeep.is_drop_refused = true;
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

/// Removes some of the oldest rows before a time, and records it.
async fn remove(
    link: &mut Link,
    table: &str,
    key: &str,
    before: Moment,
    rows: usize,
    what: &str,
    now: SystemTime,
) -> Result<u64, Failure> {
    let column = key.split(',').next().unwrap_or_default();
    // Asked first: a DELETE would lock what it looks at, and needs a right.
    let is_any = format!("SELECT 1 FROM {table} WHERE {column} < ? LIMIT 1");
    if link.first::<i64>(&is_any, vec![date(before)]).await?.is_none() {
        return Ok(0);
    }
    link.text("START TRANSACTION").await?;
    record(link, what, date(before), now).await?;
    let sql = format!("DELETE FROM {table} WHERE {column} < ? ORDER BY {key} LIMIT {rows}");
    let removed = link.run(&sql, vec![date(before)]).await?;
    link.text("COMMIT").await?;
    Ok(removed)
}

async fn record(link: &mut Link, what: &str, before: mysql_async::Value, now: SystemTime) -> Result<(), Failure> {
    let sql = "INSERT INTO log_retention (what, `before`, removed_at) VALUES (?, ?, ?)
               ON DUPLICATE KEY UPDATE `before` = GREATEST(`before`, VALUES(`before`)), removed_at = VALUES(removed_at)";
    link.run(sql, vec![what.into(), before, date(Moment::of(now))]).await.map(drop)
}

/// Removes the oldest day of requests when the log is too large; of the last day, the oldest rows.
async fn shrink(link: &mut Link, upkeep: &mut Upkeep, keep: &Retention, now: SystemTime) -> Result<bool, Failure> {
    if upkeep.excess_rows == 0 {
        let bytes = bytes(link).await?;
        if bytes <= keep.size.0 {
            return Ok(false);
        }
        let oldest = partitions::oldest(link, now).await?;
        if let Some(has_more) = drop_day(link, upkeep, oldest, &BY_SIZE, now).await? {
            return Ok(has_more);
        }
        let sql = "SELECT table_rows, data_length + index_length FROM information_schema.tables
                   WHERE table_schema = DATABASE() AND table_name = 'api_logs'";
        let Some(row) = link.row(sql, vec![]).await? else { return Ok(false) };
        let number = |place| value::<u64>(&row, place).unwrap_or_default();
        let (rows, size) = (number(0), number(1).max(1));
        let share = u128::from(rows) * u128::from((bytes - keep.size.0).min(size)) / u128::from(size);
        upkeep.excess_rows = u64::try_from(share).unwrap_or(rows);
    }
    let rows = upkeep.excess_rows.min(STEP_ROWS as u64);
    let removed = if rows == 0 { 0 } else { remove_oldest(link, rows, now).await? };
    upkeep.excess_rows = if removed < rows { 0 } else { upkeep.excess_rows - removed };
    if upkeep.excess_rows == 0 {
        upkeep.rest_for(Task::Retain, SIZE_PAUSE);
    }
    Ok(true)
}

async fn remove_oldest(link: &mut Link, rows: u64, now: SystemTime) -> Result<u64, Failure> {
    link.text("START TRANSACTION").await?;
    let sql = format!("DELETE FROM api_logs ORDER BY `timestamp`, run, sequence LIMIT {rows}");
    let removed = link.run(&sql, vec![]).await?;
    let oldest: Option<String> = link.first(OLDEST, vec![]).await?;
    let before: mysql_async::Value = oldest.map_or_else(|| date(Moment::of(now)), Into::into);
    for what in BY_SIZE {
        record(link, what, before.clone(), now).await?;
    }
    link.text("COMMIT").await?;
    Ok(removed)
}

async fn merge(link: &mut Link, own: u32, upkeep: &mut Upkeep, now: SystemTime) -> Result<bool, Failure> {
    let (from_run, from) = upkeep.merging.take().unwrap_or_default();
    let Some((run, has_ended)) = next_run(link, own, from_run, now).await? else { return Ok(false) };
    let from = if run == from_run { from } else { 0 };
    upkeep.merging = Some((run.saturating_add(1), 0));
    if upkeep.merged.contains(&run) {
        return Ok(true);
    }
    let before = ledger_before(now);
    link.text("START TRANSACTION").await?;
    // The row of the run is its lock.
    link.first::<u32>("SELECT run FROM log_runs WHERE run = ? FOR UPDATE", vec![run.into()]).await?;
    let page = page(link, run, from).await?;
    let (ranges, next) = merge_ranges(&page, &before);
    for range in &ranges {
        replace(link, run, range).await?;
    }
    link.text("COMMIT").await?;
    upkeep.page_merged(run, next, has_ended, &page, &before);
    Ok(true)
}

/// The next run whose ledger this gateway merges: its own, and those that are closed or silent; whether it is closed.
async fn next_run(link: &mut Link, own: u32, from: u32, now: SystemTime) -> Result<Option<(u32, bool)>, Failure> {
    let silent = now.checked_sub(SILENT_AFTER).unwrap_or(SystemTime::UNIX_EPOCH);
    let sql = "SELECT run, closed_at IS NOT NULL FROM log_runs
               WHERE run >= ? AND (run = ? OR closed_at IS NOT NULL OR beat_at < ?) ORDER BY run LIMIT 1";
    let row = link.row(sql, vec![from.into(), own.into(), date(Moment::of(silent))]).await?;
    Ok(row.and_then(|row| Some((value(&row, 0)?, value::<i64>(&row, 1)? != 0))))
}

async fn page(link: &mut Link, run: u32, from: u64) -> Result<Vec<Range>, Failure> {
    let sql = format!(
        "SELECT first, last, `rows`, CAST(oldest AS CHAR), CAST(newest AS CHAR), CAST(written_at AS CHAR) FROM log_batches
         WHERE run = ? AND first >= ? ORDER BY first LIMIT {LEDGER_PAGE}"
    );
    let rows = link.rows(&sql, vec![run.into(), from.into()]).await?;
    let range = |row: &mysql_async::Row| {
        Some(Range {
            first: value(row, 0)?,
            last: value(row, 1)?,
            rows: value(row, 2)?,
            oldest: value(row, 3)?,
            newest: value(row, 4)?,
            written_at: value(row, 5)?,
        })
    };
    Ok(rows.iter().filter_map(range).collect())
}

/// Puts a range in the place of the rows that it was merged from.
async fn replace(link: &mut Link, run: u32, range: &Range) -> Result<(), Failure> {
    let Range { first, last, rows, oldest, newest, written_at } = range;
    let sql = "DELETE FROM log_batches WHERE run = ? AND first > ? AND first <= ?";
    link.run(sql, vec![run.into(), (*first).into(), (*last).into()]).await?;
    let sql = "UPDATE log_batches SET last = ?, `rows` = ?, oldest = ?, newest = ?, written_at = ? WHERE run = ? AND first = ?";
    let values = vec![
        (*last).into(),
        (*rows).into(),
        oldest.as_str().into(),
        newest.as_str().into(),
        written_at.as_str().into(),
        run.into(),
        (*first).into(),
    ];
    link.run(sql, values).await.map(drop)
}
