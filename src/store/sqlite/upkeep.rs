//! Upkeep of a SQLite file: retention in small steps, and the ledger's old rows merged into ranges.
//! What is removed and the record of it are one transaction, so no audit misses what retention has taken.

use std::sync::Arc;
use std::time::SystemTime;

use rusqlite::{Connection, Error, OptionalExtension, TransactionBehavior, params};

use super::super::upkeep::{
    BY_SIZE, LEDGER_PAGE, Range, STEP_ROWS, Task, Upkeep, ago, hours_before, ledger_before, merge_ranges,
    minutes_before, removed,
};
use super::super::usage::{Minute, SILENT_AFTER};
use super::super::{Kept, Moment};
use super::{Fault, Open, pack};
use crate::config::Retention;

/// Packed values are large.
const STEP_HOURS: usize = 100;

/// Outlines of such values that are removed at once.
const STEP_OUTLINES: usize = 1_000;

/// One step of what is due; true when there is more to do.
pub(super) fn step(open: &mut Open, upkeep: &mut Upkeep, keep: &Retention, now: SystemTime) -> Result<bool, Fault> {
    let Some(task) = upkeep.due() else { return Ok(false) };
    let result = match task {
        // A file has none.
        Task::Partitions => Ok(false),
        Task::Pack => pack::step(open, upkeep, now),
        Task::Retain => retain(open, keep, now),
        Task::Merge => merge(open, upkeep, now),
    };
    let has_more = result.inspect_err(|_| upkeep.failed(task))?;
    if task == Task::Retain && upkeep.is_to_look(has_more, now) {
        upkeep.kept = Some(Arc::new(kept(&open.connection, now)?));
    }
    if !has_more {
        upkeep.rest(task);
    }
    Ok(has_more || upkeep.due().is_some())
}

/// What the file keeps.
fn kept(connection: &Connection, now: SystemTime) -> Result<Kept, Error> {
    let oldest = connection.query_row("SELECT MIN(timestamp) FROM api_logs", [], |row| row.get(0))?;
    let mut statement =
        connection.prepare_cached("SELECT what, before, removed_at FROM log_retention ORDER BY what")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let removed = removed(rows.collect::<Result<Vec<_>, _>>()?);
    Ok(Kept { seen: now, bytes: bytes(connection)?, oldest, removed })
}

/// Bytes of the file that hold anything.
fn bytes(connection: &Connection) -> Result<u64, Error> {
    let sql = "SELECT (page_count - freelist_count) * page_size
               FROM pragma_page_count(), pragma_freelist_count(), pragma_page_size()";
    connection.query_row(sql, [], |row| row.get(0).map(i64::cast_unsigned))
}

fn retain(open: &mut Open, keep: &Retention, now: SystemTime) -> Result<bool, Error> {
    let transaction = open.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let packed = |column: &str| -> Result<Minute, Error> {
        let sql = format!("SELECT COALESCE(unixepoch(MIN({column})) / 60, 0) FROM log_runs");
        let minute: i64 = transaction.query_row(&sql, [], |row| row.get(0))?;
        Ok(Minute(u32::try_from(minute).unwrap_or_default()))
    };
    let requests = Moment::of(ago(now, keep.requests)).to_string();
    let minutes = minutes_before(now, keep, packed("hours_until")?);
    let hours = hours_before(now, keep, packed("days_until")?);
    let long = |minute: Minute| Moment::of(minute.time()).to_string();
    let mut removed = 0;
    for (what, table, key, before, recorded, rows) in [
        ("requests", "api_logs", "timestamp, run, sequence", requests.clone(), requests, STEP_ROWS),
        ("minutes", "api_usage_minute", "minute, run, series", minutes.text(), long(minutes), STEP_ROWS),
        ("hours", "api_usage_hour", "hour, run", hours.text(), long(hours), STEP_HOURS),
        ("hours", "api_usage_outline_hour", "hour, outline, run", hours.text(), long(hours), STEP_OUTLINES),
    ] {
        let column = key.split(',').next().unwrap_or_default();
        let sql = format!(
            "DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} WHERE {column} < ?1 ORDER BY {key} LIMIT {rows})"
        );
        removed = transaction.prepare_cached(&sql)?.execute([before])?;
        if removed > 0 {
            record(&transaction, what, &recorded, now)?;
            break;
        }
    }
    if removed == 0 && bytes(&transaction)? > keep.size.0 {
        removed = remove_oldest(&transaction, now)?;
    }
    transaction.commit()?;
    Ok(removed > 0)
}

/// Removes the oldest requests, whatever their age.
fn remove_oldest(connection: &Connection, now: SystemTime) -> Result<usize, Error> {
    let key = "timestamp, run, sequence";
    let sql =
        format!("DELETE FROM api_logs WHERE ({key}) IN (SELECT {key} FROM api_logs ORDER BY {key} LIMIT {STEP_ROWS})");
    let removed = connection.prepare_cached(&sql)?.execute([])?;
    if removed > 0 {
        let oldest: Option<String> =
            connection.query_row("SELECT MIN(timestamp) FROM api_logs", [], |row| row.get(0))?;
        let before = oldest.unwrap_or_else(|| Moment::of(now).to_string());
        for what in BY_SIZE {
            record(connection, what, &before, now)?;
        }
    }
    Ok(removed)
}

fn record(connection: &Connection, what: &str, before: &str, now: SystemTime) -> Result<(), Error> {
    connection
        .prepare_cached(
            "INSERT INTO log_retention (what, before, removed_at) VALUES (?1, ?2, ?3)
             ON CONFLICT (what) DO UPDATE SET before = MAX(before, excluded.before), removed_at = excluded.removed_at",
        )?
        .execute(params![what, before, Moment::of(now).to_string()])
        .map(drop)
}

fn merge(open: &mut Open, upkeep: &mut Upkeep, now: SystemTime) -> Result<bool, Error> {
    let (from_run, from) = upkeep.merging.take().unwrap_or_default();
    let Some((run, has_ended)) = next_run(open, from_run, now)? else { return Ok(false) };
    let from = if run == from_run { from } else { 0 };
    upkeep.merging = Some((run.saturating_add(1), 0));
    if upkeep.merged.contains(&run) {
        return Ok(true);
    }
    let before = ledger_before(now);
    let transaction = open.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let page = page(&transaction, run, from)?;
    let (ranges, next) = merge_ranges(&page, &before);
    for range in &ranges {
        replace(&transaction, run, range)?;
    }
    transaction.commit()?;
    upkeep.page_merged(run, next, has_ended, &page, &before);
    Ok(true)
}

/// The next run whose ledger this gateway merges: its own, and those that are closed or silent; whether it is closed.
fn next_run(open: &Open, from: u32, now: SystemTime) -> Result<Option<(u32, bool)>, Error> {
    let silent = now.checked_sub(SILENT_AFTER).unwrap_or(SystemTime::UNIX_EPOCH);
    open.connection
        .prepare_cached(
            "SELECT run, closed_at IS NOT NULL FROM log_runs
             WHERE run >= ?1 AND (run = ?2 OR closed_at IS NOT NULL OR beat_at < ?3) ORDER BY run LIMIT 1",
        )?
        .query_row(params![from, open.run, Moment::of(silent).to_string()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

fn page(connection: &Connection, run: u32, from: u64) -> Result<Vec<Range>, Error> {
    let sql = format!(
        "SELECT first, last, \"rows\", oldest, newest, written_at FROM log_batches WHERE run = ?1 AND first >= ?2
         ORDER BY first LIMIT {LEDGER_PAGE}"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map(params![run, from.cast_signed()], |row| {
        let number = |place| row.get(place).map(i64::cast_unsigned);
        Ok(Range {
            first: number(0)?,
            last: number(1)?,
            rows: number(2)?,
            oldest: row.get(3)?,
            newest: row.get(4)?,
            written_at: row.get(5)?,
        })
    })?;
    rows.collect()
}

/// Puts a range in the place of the rows that it was merged from.
fn replace(connection: &Connection, run: u32, range: &Range) -> Result<(), Error> {
    let Range { first, last, rows, oldest, newest, written_at } = range;
    let (first, last, rows) = (first.cast_signed(), last.cast_signed(), rows.cast_signed());
    connection
        .prepare_cached("DELETE FROM log_batches WHERE run = ?1 AND first > ?2 AND first <= ?3")?
        .execute(params![run, first, last])?;
    connection
        .prepare_cached(
            "UPDATE log_batches SET last = ?3, \"rows\" = ?4, oldest = ?5, newest = ?6, written_at = ?7
             WHERE run = ?1 AND first = ?2",
        )?
        .execute(params![run, first, last, rows, oldest, newest, written_at])
        .map(drop)
}
