//! The ledger in MySQL and MariaDB: a batch with everything that belongs to it in one transaction, which locks the row of the
//! run first. Only then it is looked up what is there: an earlier try, whose end nobody heard of, holds that lock until it has
//! ended. Beats, checkpoints, and the end of runs.

use std::time::SystemTime;

use mysql_async::{Row, Value};

use super::super::ledger::{Bounds, Killed, rejected_drops};
use super::super::usage::{Increments, Known, Minute, Progress, changes as changes_of};
use super::super::{Batch, Beat, Drops, Failure, Moment, Rejected, Run, Stored, Totals};
use super::link::{Link, date, value};
use super::{Open, rows, usage};

/// The row of a run in `log_runs`, made where there is none.
pub(super) async fn run_row(link: &mut Link, run: &Run) -> Result<Progress, Failure> {
    // Asked first, because an INSERT that meets a duplicate would use up a number.
    if let Some(progress) = progress(link, run).await? {
        return Ok(progress);
    }
    let started = date(Moment::of(run.started));
    let minute = Minute::of(run.started);
    let values = vec![
        id(run),
        run.node.as_str().into(),
        run.version.as_str().into(),
        started.clone(),
        started,
        minute.floor(Minute::HOUR).text().into(),
        minute.floor(Minute::DAY).text().into(),
    ];
    let sql = "INSERT INTO log_runs (run_id, node, version, started_at, beat_at, hours_until, days_until)
               VALUES (?, ?, ?, ?, ?, ?, ?) ON DUPLICATE KEY UPDATE run = run";
    link.run(sql, values).await?;
    progress(link, run).await?.ok_or_else(|| row_is_gone(link))
}

fn id(run: &Run) -> Value {
    Value::Bytes(run.id.as_bytes().to_vec())
}

/// The row of a run, which is locked until the transaction ends.
async fn progress(link: &mut Link, run: &Run) -> Result<Option<Progress>, Failure> {
    let sql =
        "SELECT run, TIMESTAMPDIFF(MINUTE, '1970-01-01', hours_until), TIMESTAMPDIFF(MINUTE, '1970-01-01', days_until),
                 closed_at IS NOT NULL FROM log_runs WHERE run_id = ? FOR UPDATE";
    Ok(link.row(sql, vec![id(run)]).await?.as_ref().and_then(usage::progress))
}

fn row_is_gone(link: &Link) -> Failure {
    Failure::Away(format!("{}: the row of this run in log_runs is gone; it is made anew", link.server))
}

/// Stores a batch; see [`super::super::Store::insert`].
pub(super) async fn insert(open: &mut Open, own: &Run, batch: &Batch<'_>, beat: &Beat) -> Result<Stored, Failure> {
    let Open { link, run, ways, known } = open;
    link.text("START TRANSACTION").await?;
    let is_own = batch.run.id == own.id;
    let progress = if is_own {
        progress(link, own).await?.ok_or_else(|| row_is_gone(link))?
    } else {
        run_row(link, batch.run).await?
    };
    let bounds = Bounds::of(batch);
    let mut stored = Stored { was_there: is_there(link, progress.run, &bounds).await?, ..Stored::default() };
    let mut changes = Vec::new();
    if stored.was_there {
        stored.rejected = rejected_before(link, progress.run, &bounds).await?;
    } else {
        insert_range(link, progress.run, &bounds).await?;
        stored.rejected = rows::insert(link, ways, progress.run, batch).await?;
        if let Some(drops) = rejected_drops(batch, &stored.rejected) {
            insert_drops(link, progress.run, &drops).await?;
            let sql = "UPDATE log_batches SET `rows` = `rows` - ? WHERE run = ? AND first = ?";
            link.run(sql, vec![drops.count.into(), progress.run.into(), batch.first.into()]).await?;
        }
        changes = changes_of(batch.rows, batch.unrecorded);
        let mut other = Known::default();
        let known = if is_own { &mut *known } else { &mut other };
        usage::add(link, known, &progress, is_own, &mut changes).await?;
    }
    save(link, *run, &beat.totals.without(stored.rejected.len()), &beat.drops).await?;
    link.text("COMMIT").await?;
    if is_own {
        known.committed(changes);
    }
    Ok(stored)
}

/// Whether the ledger has the range of a batch.
async fn is_there(link: &mut Link, run: u32, bounds: &Bounds) -> Result<bool, Failure> {
    let sql = "SELECT last FROM log_batches WHERE run = ? AND first <= ? ORDER BY first DESC LIMIT 1";
    let last = link.first(sql, vec![run.into(), bounds.first.into()]).await?;
    bounds.is_there(last)
}

/// The rows of a batch that were refused when it was stored, and nobody heard of it.
async fn rejected_before(link: &mut Link, run: u32, bounds: &Bounds) -> Result<Vec<Rejected>, Failure> {
    let sql = "SELECT 1 FROM log_drops WHERE run = ? AND id = ?";
    if link.first::<i64>(sql, vec![run.into(), bounds.rejected_id().into()]).await?.is_none() {
        return Ok(Vec::new());
    }
    let sql =
        "SELECT sequence FROM api_logs WHERE `timestamp` BETWEEN ? AND ? AND run = ? AND sequence BETWEEN ? AND ?";
    let Bounds { oldest, newest, first, last, .. } = *bounds;
    let rows = link.rows(sql, vec![date(oldest), date(newest), run.into(), first.into(), last.into()]).await?;
    Ok(bounds.rejected_before(&rows.iter().filter_map(|row| value(row, 0)).collect()))
}

async fn insert_range(link: &mut Link, run: u32, bounds: &Bounds) -> Result<(), Failure> {
    let sql =
        "INSERT INTO log_batches (run, first, last, `rows`, oldest, newest, written_at) VALUES (?, ?, ?, ?, ?, ?, ?)";
    let values = vec![
        run.into(),
        bounds.first.into(),
        bounds.last.into(),
        bounds.rows.into(),
        date(bounds.oldest),
        date(bounds.newest),
        date(Moment::of(SystemTime::now())),
    ];
    link.run(sql, values).await.map(drop)
}

/// The totals of this run, and its checkpoints.
async fn save(link: &mut Link, run: u32, totals: &Totals, drops: &[Drops]) -> Result<(), Failure> {
    let sql =
        "UPDATE log_runs SET beat_at = ?, accepted = ?, recovered = ?, written = ?, spooled = ?, dropped = ?, last = ?
               WHERE run = ?";
    let mut values = vec![date(Moment::of(SystemTime::now()))];
    values.extend(numbers(totals));
    values.push(run.into());
    if link.run(sql, values).await? == 0 {
        return Err(row_is_gone(link));
    }
    for drops in drops {
        insert_drops(link, run, drops).await?;
    }
    Ok(())
}

fn numbers(totals: &Totals) -> [Value; 6] {
    let Totals { accepted, recovered, written, spooled, dropped, last } = *totals;
    [accepted, recovered, written, spooled, dropped, last].map(Value::from)
}

async fn insert_drops(link: &mut Link, run: u32, drops: &Drops) -> Result<(), Failure> {
    let sql = "INSERT INTO log_drops (run, id, `after`, `count`, reason, numbered, since, until)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON DUPLICATE KEY UPDATE id = id";
    let values = vec![
        run.into(),
        drops.id.into(),
        drops.after.into(),
        drops.count.into(),
        drops.reason.as_str().into(),
        drops.numbered.into(),
        date(Moment::of(drops.since)),
        date(Moment::of(drops.until)),
    ];
    link.run(sql, values).await.map(drop)
}

/// See [`super::super::Store::beat`].
pub(super) async fn beat(open: &mut Open, beat: &Beat) -> Result<(), Failure> {
    let Open { link, run, .. } = open;
    link.text("START TRANSACTION").await?;
    save(link, *run, &beat.totals, &beat.drops).await?;
    link.text("COMMIT").await
}

/// See [`super::super::Store::close`].
pub(super) async fn close(
    open: &mut Open,
    own: &Run,
    beat: &Beat,
    unrecorded: &Increments<String>,
) -> Result<(), Failure> {
    let Open { link, run, known, .. } = open;
    link.text("START TRANSACTION").await?;
    if !unrecorded.tallies.is_empty() {
        let progress = progress(link, own).await?.ok_or_else(|| row_is_gone(link))?;
        let mut changes = changes_of(&[], unrecorded);
        usage::add(link, known, &progress, true, &mut changes).await?;
    }
    save(link, *run, &beat.totals, &beat.drops).await?;
    link.run("UPDATE log_runs SET closed_at = beat_at WHERE run = ?", vec![(*run).into()]).await?;
    link.text("COMMIT").await
}

/// See [`super::super::Store::close_killed`].
pub(super) async fn close_killed(open: &mut Open, run: &Run, last_known: &Beat) -> Result<(), Failure> {
    let link = &mut open.link;
    link.text("START TRANSACTION").await?;
    let progress = run_row(link, run).await?;
    for drops in &last_known.drops {
        insert_drops(link, progress.run, drops).await?;
    }
    let killed = killed(link, progress.run).await?;
    let (totals, drops) = killed.end(last_known.totals, progress.is_closed || last_known.has_ended, SystemTime::now());
    if let Some(drops) = drops {
        insert_drops(link, progress.run, &drops).await?;
    }
    let sql = "UPDATE log_runs SET closed_at = COALESCE(closed_at, ?), accepted = ?, recovered = ?, written = ?, spooled = ?, dropped = ?, last = ?
               WHERE run = ?";
    let mut values = vec![date(Moment::of(SystemTime::now()))];
    values.extend(numbers(&totals));
    values.push(progress.run.into());
    link.run(sql, values).await?;
    link.text("COMMIT").await
}

async fn killed(link: &mut Link, run: u32) -> Result<Killed, Failure> {
    // Rows that were rejected lie within the ranges of the ledger.
    let sql = "SELECT accepted, recovered, written, spooled, dropped, last, TIMESTAMPDIFF(SECOND, '1970-01-01', beat_at),
                 (SELECT CAST(COALESCE(SUM(last - first + 1), 0) AS UNSIGNED) FROM log_batches WHERE run = ?),
                 (SELECT CAST(COALESCE(SUM(`count`), 0) AS UNSIGNED) FROM log_drops WHERE run = ?),
                 (SELECT CAST(COALESCE(SUM(`count`), 0) AS UNSIGNED) FROM log_drops WHERE run = ? AND reason = 'rejected'),
                 (SELECT COALESCE(MAX(last), 0) FROM log_batches WHERE run = ?)
               FROM log_runs WHERE run = ?";
    let row = link.row(sql, vec![run.into(); 5]).await?.ok_or_else(|| row_is_gone(link))?;
    let number = |place| number(&row, place);
    let totals = Totals {
        accepted: number(0),
        recovered: number(1),
        written: number(2),
        spooled: number(3),
        dropped: number(4),
        last: number(5),
    };
    Ok(Killed {
        totals,
        beat_at: number(6),
        stored: number(7),
        dropped: number(8),
        rejected: number(9),
        last: number(10),
    })
}

fn number(row: &Row, place: usize) -> u64 {
    value(row, place).unwrap_or_default()
}
