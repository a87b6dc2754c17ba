//! Packing in SQLite: one step of hours and days, for this run and for those that do not do it
//! themselves. What is read is written only if nothing has changed since, and only by the first who does.

use std::time::SystemTime;

use rusqlite::{Connection, Error, OptionalExtension, TransactionBehavior, params};

use super::super::Moment;
use super::super::upkeep::{LOOKS_MAX, STEP_ROWS, Upkeep};
use super::super::usage::{ENDED, Level, Minute, Packing, Progress, SILENT_AFTER};
use super::{Open, usage};

/// One step; true when there is more to do.
pub(super) fn step(open: &mut Open, upkeep: &mut Upkeep, now: SystemTime) -> Result<bool, Error> {
    if let Some(mut packing) = upkeep.packing.take() {
        read(&open.connection, &mut packing)?;
        if packing.is_read() {
            finish(open, &packing)?;
        } else {
            upkeep.packing = Some(packing);
        }
        return Ok(true);
    }
    let Some(progress) = next_run(open, now)? else { return Ok(false) };
    let (level, until) = progress.next(now);
    let settled = level.settled(now);
    match first_part(&open.connection, level, until)?.filter(|part| *part < settled) {
        Some(part) => {
            upkeep.packing = Some(Packing::new(progress.run, level, until, part.floor(level.minutes())));
        }
        None => {
            let has_more = !progress.has_ended(level) || has_parts(&open.connection, progress.run, level, settled)?;
            advance(&open.connection, progress.run, level, until, if has_more { settled } else { ENDED })?;
        }
    }
    Ok(true)
}

/// The run that is furthest behind, of those that this gateway packs: its own, and those that are closed or silent.
fn next_run(open: &Open, now: SystemTime) -> Result<Option<Progress>, Error> {
    let silent = now.checked_sub(SILENT_AFTER).unwrap_or(SystemTime::UNIX_EPOCH);
    open.connection
        .prepare_cached(
            "SELECT run, unixepoch(hours_until) / 60, unixepoch(days_until) / 60, closed_at IS NOT NULL FROM log_runs
             WHERE (hours_until < ?1 OR days_until < ?2) AND (run = ?3 OR closed_at IS NOT NULL OR beat_at < ?4)
             ORDER BY hours_until, days_until LIMIT 1",
        )?
        .query_row(
            params![
                Level::Hours.settled(now).text(),
                Level::Days.settled(now).text(),
                open.run,
                Moment::of(silent).to_string()
            ],
            usage::progress,
        )
        .optional()
}

/// The first minute or hour of any run, from a time on.
fn first_part(connection: &Connection, level: Level, from: Minute) -> Result<Option<Minute>, Error> {
    let (table, column) = level.part_table();
    let sql = format!("SELECT unixepoch(MIN({column})) / 60 FROM {table} WHERE {column} >= ?1");
    let minute: Option<i64> = connection.prepare_cached(&sql)?.query_row([from.text()], |row| row.get(0))?;
    Ok(minute.and_then(|minute| u32::try_from(minute).ok()).map(Minute))
}

/// Whether a run has anything from a time on, or too much of others' lies there to know.
fn has_parts(connection: &Connection, run: u32, level: Level, from: Minute) -> Result<bool, Error> {
    let (table, column) = level.part_table();
    let sql = format!("SELECT 1 FROM {table} WHERE {column} = ?1 AND run = ?2 LIMIT 1");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut from = from;
    for _ in 0..LOOKS_MAX {
        let Some(part) = first_part(connection, level, from)? else { return Ok(false) };
        let start = part.floor(level.minutes());
        for part in level.parts(start) {
            if statement.exists(params![part.text(), run])? {
                return Ok(true);
            }
        }
        from = Minute(start.0.saturating_add(level.minutes()));
    }
    Ok(true)
}

/// Reads parts until they are many, or all.
fn read(connection: &Connection, packing: &mut Packing) -> Result<(), Error> {
    let mut rows = 0;
    while rows < STEP_ROWS
        && let Some(part) = packing.next_part()
    {
        match packing.level {
            Level::Hours => rows += usage::sum_minute(connection, packing.run, part, &mut packing.sum)?,
            Level::Days => {
                if let Some(packed) = usage::read_packed(connection, packing.run, Level::Hours, part)? {
                    packing.add_packed(part, &packed);
                }
                rows += STEP_ROWS / 8;
            }
        }
    }
    Ok(())
}

/// Writes what was read, if nothing has changed since.
fn finish(open: &mut Open, packing: &Packing) -> Result<(), Error> {
    let transaction = open.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if count(&transaction, packing)? == packing.sum.count
        && advance(&transaction, packing.run, packing.level, packing.until, packing.end())?
        && packing.sum.count > 0
    {
        usage::write_packed(&transaction, packing.run, packing.level, packing.start, &packing.sum)?;
    }
    transaction.commit()
}

/// The requests of all parts, as they are now.
fn count(connection: &Connection, packing: &Packing) -> Result<u64, Error> {
    let (table, column) = packing.level.part_table();
    let sql = format!("SELECT COALESCE(SUM(\"count\"), 0) FROM {table} WHERE {column} = ?1 AND run = ?2");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut count = 0_u64;
    for part in packing.level.parts(packing.start) {
        let part: i64 = statement.query_row(params![part.text(), packing.run], |row| row.get(0))?;
        count = count.saturating_add(part.cast_unsigned());
    }
    Ok(count)
}

/// Moves `hours_until` or `days_until` of a run, unless another gateway was faster.
fn advance(connection: &Connection, run: u32, level: Level, from: Minute, to: Minute) -> Result<bool, Error> {
    let column = level.until_column();
    let sql = format!("UPDATE log_runs SET {column} = ?3 WHERE run = ?1 AND {column} = ?2");
    let moved = connection.prepare_cached(&sql)?.execute(params![run, from.text(), to.text()])?;
    Ok(moved > 0)
}
