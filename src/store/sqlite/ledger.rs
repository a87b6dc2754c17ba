//! The ledger in SQLite: a batch with everything that belongs to it in one immediate transaction, which is the lock of all
//! runs at once. Beats, checkpoints, and the end of runs.

use std::time::SystemTime;

use rusqlite::{Connection, Error, OptionalExtension, TransactionBehavior, params};

use super::super::ledger::{Bounds, Killed, rejected_drops};
use super::super::usage::{Increments, Known, Minute, Progress, changes as changes_of};
use super::super::{Batch, Beat, Drops, Failure, Moment, Rejected, Run, Stored, Totals};
use super::{Fault, Open, rows, usage};

/// The row of a run in `log_runs`, made where there is none.
pub(super) fn run_row(connection: &Connection, run: &Run) -> Result<Progress, Error> {
    if let Some(progress) = progress(connection, run)? {
        return Ok(progress);
    }
    let started = Moment::of(run.started).to_string();
    let minute = Minute::of(run.started);
    connection
        .prepare_cached(
            "INSERT INTO log_runs (run_id, node, version, started_at, beat_at, hours_until, days_until)
             VALUES (?1, ?2, ?3, ?4, ?4, ?5, ?6)",
        )?
        .execute(params![
            run.id.as_bytes(),
            run.node,
            run.version,
            started,
            minute.floor(Minute::HOUR).text(),
            minute.floor(Minute::DAY).text()
        ])?;
    progress(connection, run)?.ok_or(Error::QueryReturnedNoRows)
}

fn progress(connection: &Connection, run: &Run) -> Result<Option<Progress>, Error> {
    connection
        .prepare_cached(
            "SELECT run, unixepoch(hours_until) / 60, unixepoch(days_until) / 60, closed_at IS NOT NULL
             FROM log_runs WHERE run_id = ?1",
        )?
        .query_row([run.id.as_bytes()], usage::progress)
        .optional()
}

/// Stores a batch; see [`super::super::Store::insert`].
pub(super) fn insert(open: &mut Open, own: &Run, batch: &Batch<'_>, beat: &Beat) -> Result<Stored, Fault> {
    let transaction = open.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let is_own = batch.run.id == own.id;
    let progress =
        if is_own { progress(&transaction, own)?.ok_or_else(row_is_gone)? } else { run_row(&transaction, batch.run)? };
    let bounds = Bounds::of(batch);
    let mut stored = Stored { was_there: is_there(&transaction, progress.run, &bounds)?, ..Stored::default() };
    let mut changes = Vec::new();
    if stored.was_there {
        stored.rejected = rejected_before(&transaction, progress.run, &bounds)?;
    } else {
        insert_range(&transaction, progress.run, &bounds)?;
        stored.rejected = rows::insert(&transaction, progress.run, batch.first, batch.rows)?;
        if let Some(drops) = rejected_drops(batch, &stored.rejected) {
            insert_drops(&transaction, progress.run, &drops)?;
            transaction
                .prepare_cached("UPDATE log_batches SET \"rows\" = \"rows\" - ?3 WHERE run = ?1 AND first = ?2")?
                .execute(params![progress.run, batch.first.cast_signed(), drops.count.cast_signed()])?;
        }
        changes = changes_of(batch.rows, batch.unrecorded);
        let mut other = Known::default();
        let known = if is_own { &mut open.known } else { &mut other };
        usage::add(&transaction, known, &progress, is_own, &mut changes)?;
    }
    save(&transaction, open.run, &beat.totals.without(stored.rejected.len()), &beat.drops)?;
    transaction.commit()?;
    if is_own {
        open.known.committed(changes);
    }
    Ok(stored)
}

fn row_is_gone() -> Fault {
    Fault::Said(Failure::Away("the row of this run in log_runs is gone; it is made anew".to_owned()))
}

/// Whether the ledger has the range of a batch.
fn is_there(connection: &Connection, run: u32, bounds: &Bounds) -> Result<bool, Fault> {
    let last: Option<i64> = connection
        .prepare_cached("SELECT last FROM log_batches WHERE run = ?1 AND first <= ?2 ORDER BY first DESC LIMIT 1")?
        .query_row(params![run, bounds.first.cast_signed()], |row| row.get(0))
        .optional()?;
    bounds.is_there(last.map(i64::cast_unsigned)).map_err(Fault::Said)
}

/// The rows of a batch that were refused when it was stored, and nobody heard of it.
fn rejected_before(connection: &Connection, run: u32, bounds: &Bounds) -> Result<Vec<Rejected>, Error> {
    let checkpoint = connection
        .prepare_cached("SELECT 1 FROM log_drops WHERE run = ?1 AND id = ?2")?
        .query_row(params![run, bounds.rejected_id().cast_signed()], |_| Ok(()))
        .optional()?;
    if checkpoint.is_none() {
        return Ok(Vec::new());
    }
    let mut statement = connection.prepare_cached(
        "SELECT sequence FROM api_logs WHERE timestamp BETWEEN ?2 AND ?3 AND run = ?1 AND sequence BETWEEN ?4 AND ?5",
    )?;
    let Bounds { oldest, newest, first, last, .. } = *bounds;
    let values = params![run, oldest.to_string(), newest.to_string(), first.cast_signed(), last.cast_signed()];
    let stored = statement.query_map(values, |row| row.get(0).map(i64::cast_unsigned))?.collect::<Result<_, _>>()?;
    Ok(bounds.rejected_before(&stored))
}

fn insert_range(connection: &Connection, run: u32, bounds: &Bounds) -> Result<(), Error> {
    connection
        .prepare_cached(
            "INSERT INTO log_batches (run, first, last, \"rows\", oldest, newest, written_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            run,
            bounds.first.cast_signed(),
            bounds.last.cast_signed(),
            bounds.rows.cast_signed(),
            bounds.oldest.to_string(),
            bounds.newest.to_string(),
            Moment::of(SystemTime::now()).to_string()
        ])
        .map(drop)
}

/// The totals of this run, and its checkpoints.
fn save(connection: &Connection, run: u32, totals: &Totals, drops: &[Drops]) -> Result<(), Fault> {
    let Totals { accepted, recovered, written, spooled, dropped, last } = *totals;
    let saved = connection
        .prepare_cached(
            "UPDATE log_runs SET beat_at = ?2, accepted = ?3, recovered = ?4, written = ?5, spooled = ?6, dropped = ?7,
               last = ?8 WHERE run = ?1",
        )?
        .execute(params![
            run,
            Moment::of(SystemTime::now()).to_string(),
            accepted.cast_signed(),
            recovered.cast_signed(),
            written.cast_signed(),
            spooled.cast_signed(),
            dropped.cast_signed(),
            last.cast_signed()
        ])?;
    if saved == 0 {
        return Err(row_is_gone());
    }
    for drops in drops {
        insert_drops(connection, run, drops)?;
    }
    Ok(())
}

fn insert_drops(connection: &Connection, run: u32, drops: &Drops) -> Result<(), Error> {
    connection
        .prepare_cached(
            "INSERT INTO log_drops (run, id, \"after\", \"count\", reason, numbered, since, until)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (run, id) DO NOTHING",
        )?
        .execute(params![
            run,
            drops.id.cast_signed(),
            drops.after.cast_signed(),
            drops.count.cast_signed(),
            drops.reason,
            drops.numbered,
            Moment::of(drops.since).to_string(),
            Moment::of(drops.until).to_string()
        ])
        .map(drop)
}

/// See [`super::super::Store::beat`].
pub(super) fn beat(open: &mut Open, beat: &Beat) -> Result<(), Fault> {
    let transaction = open.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    save(&transaction, open.run, &beat.totals, &beat.drops)?;
    Ok(transaction.commit()?)
}

/// See [`super::super::Store::close`].
pub(super) fn close(open: &mut Open, own: &Run, beat: &Beat, unrecorded: &Increments<String>) -> Result<(), Fault> {
    let transaction = open.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if !unrecorded.tallies.is_empty() {
        let progress = progress(&transaction, own)?.ok_or_else(row_is_gone)?;
        let mut changes = changes_of(&[], unrecorded);
        usage::add(&transaction, &mut open.known, &progress, true, &mut changes)?;
    }
    save(&transaction, open.run, &beat.totals, &beat.drops)?;
    transaction.execute("UPDATE log_runs SET closed_at = beat_at WHERE run = ?1", [open.run])?;
    Ok(transaction.commit()?)
}

/// See [`super::super::Store::close_killed`].
pub(super) fn close_killed(open: &mut Open, run: &Run, last_known: &Beat) -> Result<(), Fault> {
    let transaction = open.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let progress = run_row(&transaction, run)?;
    for drops in &last_known.drops {
        insert_drops(&transaction, progress.run, drops)?;
    }
    let (totals, drops) = killed(&transaction, progress.run)?.end(
        last_known.totals,
        progress.is_closed || last_known.has_ended,
        SystemTime::now(),
    );
    if let Some(drops) = drops {
        insert_drops(&transaction, progress.run, &drops)?;
    }
    transaction.execute(
        "UPDATE log_runs SET closed_at = COALESCE(closed_at, ?2), accepted = ?3, recovered = ?4, written = ?5, spooled = ?6, dropped = ?7,
           last = ?8 WHERE run = ?1",
        params![
            progress.run,
            Moment::of(SystemTime::now()).to_string(),
            totals.accepted.cast_signed(),
            totals.recovered.cast_signed(),
            totals.written.cast_signed(),
            totals.spooled.cast_signed(),
            totals.dropped.cast_signed(),
            totals.last.cast_signed()
        ],
    )?;
    Ok(transaction.commit()?)
}

fn killed(connection: &Connection, run: u32) -> Result<Killed, Error> {
    // Rows that were rejected lie within the ranges of the ledger.
    let sql = "SELECT accepted, recovered, written, spooled, dropped, last, unixepoch(beat_at),
                 (SELECT COALESCE(SUM(last - first + 1), 0) FROM log_batches WHERE run = ?1),
                 (SELECT COALESCE(SUM(\"count\"), 0) FROM log_drops WHERE run = ?1),
                 (SELECT COALESCE(SUM(\"count\"), 0) FROM log_drops WHERE run = ?1 AND reason = 'rejected'),
                 (SELECT COALESCE(MAX(last), 0) FROM log_batches WHERE run = ?1)
               FROM log_runs WHERE run = ?1";
    connection.query_row(sql, [run], |row| {
        let number = |place| row.get(place).map(i64::cast_unsigned);
        let totals = Totals {
            accepted: number(0)?,
            recovered: number(1)?,
            written: number(2)?,
            spooled: number(3)?,
            dropped: number(4)?,
            last: number(5)?,
        };
        Ok(Killed {
            totals,
            beat_at: number(6)?,
            stored: number(7)?,
            dropped: number(8)?,
            rejected: number(9)?,
            last: number(10)?,
        })
    })
}
