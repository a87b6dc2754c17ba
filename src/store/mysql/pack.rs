//! Packing in MySQL and MariaDB: one step of hours and days, for this run and for those that do not do it
//! themselves. What is read is written only if nothing has changed since, and only by the first who does.

use std::time::SystemTime;

use super::super::upkeep::{LOOKS_MAX, STEP_ROWS, Upkeep};
use super::super::usage::{ENDED, Level, Minute, Packing, Progress, SILENT_AFTER};
use super::super::{Failure, Moment};
use super::link::{Link, date};
use super::usage;

/// One step for the gateway of a run; true when there is more to do.
pub(super) async fn step(link: &mut Link, own: u32, upkeep: &mut Upkeep, now: SystemTime) -> Result<bool, Failure> {
    if let Some(mut packing) = upkeep.packing.take() {
        read(link, &mut packing).await?;
        if packing.is_read() {
            finish(link, &packing).await?;
        } else {
            upkeep.packing = Some(packing);
        }
        return Ok(true);
    }
    let Some(progress) = next_run(link, own, now).await? else { return Ok(false) };
    let (level, until) = progress.next(now);
    let settled = level.settled(now);
    match first_part(link, level, until).await?.filter(|part| *part < settled) {
        Some(part) => {
            upkeep.packing = Some(Packing::new(progress.run, level, until, part.floor(level.minutes())));
        }
        None => {
            let has_more = !progress.has_ended(level) || has_parts(link, progress.run, level, settled).await?;
            advance(link, progress.run, level, until, if has_more { settled } else { ENDED }).await?;
        }
    }
    Ok(true)
}

/// The run that is furthest behind, of those that this gateway packs: its own, and those that are closed or silent.
async fn next_run(link: &mut Link, own: u32, now: SystemTime) -> Result<Option<Progress>, Failure> {
    let silent = now.checked_sub(SILENT_AFTER).unwrap_or(SystemTime::UNIX_EPOCH);
    let sql =
        "SELECT run, TIMESTAMPDIFF(MINUTE, '1970-01-01', hours_until), TIMESTAMPDIFF(MINUTE, '1970-01-01', days_until),
                 closed_at IS NOT NULL FROM log_runs
               WHERE (hours_until < ? OR days_until < ?) AND (run = ? OR closed_at IS NOT NULL OR beat_at < ?)
               ORDER BY hours_until, days_until LIMIT 1";
    let (hours, days) = (Level::Hours.settled(now).text(), Level::Days.settled(now).text());
    let values = vec![hours.into(), days.into(), own.into(), date(Moment::of(silent))];
    Ok(link.row(sql, values).await?.as_ref().and_then(usage::progress))
}

/// The first minute or hour of any run, from a time on.
async fn first_part(link: &mut Link, level: Level, from: Minute) -> Result<Option<Minute>, Failure> {
    let (table, column) = level.part_table();
    let sql = format!("SELECT TIMESTAMPDIFF(MINUTE, '1970-01-01', MIN({column})) FROM {table} WHERE {column} >= ?");
    Ok(link.first(&sql, vec![from.text().into()]).await?.map(Minute))
}

/// The parts of an hour or day, as SQL.
fn list(level: Level, start: Minute) -> String {
    level.parts(start).map(|part| format!("'{}'", part.text())).collect::<Vec<_>>().join(",")
}

/// Whether a run has anything from a time on, or too much of others' lies there to know.
async fn has_parts(link: &mut Link, run: u32, level: Level, from: Minute) -> Result<bool, Failure> {
    let (table, column) = level.part_table();
    let mut from = from;
    for _ in 0..LOOKS_MAX {
        let Some(part) = first_part(link, level, from).await? else { return Ok(false) };
        let start = part.floor(level.minutes());
        let parts = list(level, start);
        let sql = format!("SELECT 1 FROM {table} WHERE {column} IN ({parts}) AND run = {run} LIMIT 1");
        if !link.text_rows(&sql).await?.is_empty() {
            return Ok(true);
        }
        from = Minute(start.0.saturating_add(level.minutes()));
    }
    Ok(true)
}

/// Reads parts until they are many, or all.
async fn read(link: &mut Link, packing: &mut Packing) -> Result<(), Failure> {
    let mut rows = 0;
    while rows < STEP_ROWS
        && let Some(part) = packing.next_part()
    {
        match packing.level {
            Level::Hours => rows += usage::sum_minute(link, packing.run, part, &mut packing.sum).await?,
            Level::Days => {
                if let Some(packed) = usage::read_packed(link, packing.run, Level::Hours, part).await? {
                    packing.add_packed(part, &packed);
                }
                rows += STEP_ROWS / 8;
            }
        }
    }
    Ok(())
}

/// Writes what was read, if nothing has changed since.
async fn finish(link: &mut Link, packing: &Packing) -> Result<(), Failure> {
    link.text("START TRANSACTION").await?;
    // Locks the run's row; another gateway may have been faster.
    let is_first = advance(link, packing.run, packing.level, packing.until, packing.end()).await?;
    if !is_first || count(link, packing).await? != packing.sum.count {
        return link.text("ROLLBACK").await;
    }
    if packing.sum.count > 0 {
        usage::write_packed(link, packing.run, packing.level, packing.start, &packing.sum).await?;
    }
    link.text("COMMIT").await
}

/// The requests of all parts, as they are now.
async fn count(link: &mut Link, packing: &Packing) -> Result<u64, Failure> {
    let (table, column) = packing.level.part_table();
    let parts = list(packing.level, packing.start);
    let sql = format!(
        "SELECT CAST(COALESCE(SUM(`count`), 0) AS UNSIGNED) FROM {table} WHERE {column} IN ({parts}) AND run = {}",
        packing.run
    );
    let rows = link.text_rows(&sql).await?;
    Ok(rows.first().and_then(|row| super::link::value(row, 0)).unwrap_or_default())
}

/// Moves `hours_until` or `days_until` of a run, unless another gateway was faster.
async fn advance(link: &mut Link, run: u32, level: Level, from: Minute, to: Minute) -> Result<bool, Failure> {
    let column = level.until_column();
    let sql = format!("UPDATE log_runs SET {column} = ? WHERE run = ? AND {column} = ?");
    Ok(link.run(&sql, vec![to.text().into(), run.into(), from.text().into()]).await? > 0)
}
