//! The roll-ups in SQLite: what a batch adds to the minutes, and to hours and days that are packed already.
//! Rows are read, merged and written: a histogram can't be added up in SQL. The caller holds the lock of the run.

use rusqlite::{Connection, Error, OptionalExtension, Row, params};

use super::super::usage::{
    Change, Id, Known, Level, Minute, Progress, SERIES_MAX, Series, Sum, Tally, Unknown, late, tally,
};

/// The columns of a tally in `api_usage_minute`, behind `series`.
const TALLY: &str = "series, \"count\", errors, blocked, bytes_in, bytes_out, duration_us, upstream_us, histogram";

/// Run, hours_until, days_until, whether it is closed.
pub(super) fn progress(row: &Row<'_>) -> Result<Progress, Error> {
    let minute = |place| row.get::<_, i64>(place).map(|minute| Minute(u32::try_from(minute).unwrap_or_default()));
    Ok(Progress { run: row.get(0)?, hours_until: minute(1)?, days_until: minute(2)?, is_closed: row.get(3)? })
}

/// Adds changes to the rows of a run; they say afterwards what the rows hold.
pub(super) fn add(
    connection: &Connection,
    known: &mut Known,
    progress: &Progress,
    is_own: bool,
    changes: &mut [Change<'_>],
) -> Result<(), Error> {
    for (level, until) in [(Level::Hours, progress.hours_until), (Level::Days, progress.days_until)] {
        for (start, changes) in late(changes, until, level.minutes()) {
            add_late(connection, progress.run, level, start, &changes)?;
        }
    }
    for Unknown { minute, ids, is_large } in known.unknown(changes) {
        let mut all = is_own && !is_large;
        let mut rows = if all { read_minute(connection, progress.run, minute)? } else { Vec::new() };
        if !all || rows.len() > SERIES_MAX {
            all = false;
            rows = read_series(connection, progress.run, minute, &ids)?;
        }
        known.read(minute, rows, all);
    }
    known.merge(changes);
    let mut statement = connection.prepare_cached(
        "INSERT OR REPLACE INTO api_usage_minute (minute, run, series, endpoint, method, status, decided_by, consumer,
           \"key\", service, instance, \"count\", errors, blocked, bytes_in, bytes_out, duration_us, upstream_us, histogram)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)",
    )?;
    let mut histogram = Vec::new();
    for Change { minute, id, series, tally } in changes {
        histogram.clear();
        tally.histogram.encode(&mut histogram);
        statement.execute(params![
            minute.text(),
            progress.run,
            id.as_slice(),
            series.endpoint,
            series.method,
            series.status,
            series.decided_by,
            series.consumer,
            series.key,
            series.service,
            series.instance,
            signed(tally.count),
            signed(tally.errors),
            signed(tally.blocked),
            signed(tally.bytes_in),
            signed(tally.bytes_out),
            signed(tally.duration),
            signed(tally.upstream),
            histogram
        ])?;
    }
    Ok(())
}

/// A sum that SQLite has no number for stays at the largest it has.
fn signed(sum: u64) -> i64 {
    i64::try_from(sum).unwrap_or(i64::MAX)
}

fn read_minute(connection: &Connection, run: u32, minute: Minute) -> Result<Vec<(Id, Tally)>, Error> {
    let sql = format!("SELECT {TALLY} FROM api_usage_minute WHERE minute = ?1 AND run = ?2 LIMIT {}", SERIES_MAX + 1);
    let mut statement = connection.prepare_cached(&sql)?;
    statement.query_map(params![minute.text(), run], read_tally)?.collect()
}

fn read_series(connection: &Connection, run: u32, minute: Minute, ids: &[Id]) -> Result<Vec<(Id, Tally)>, Error> {
    let sql = format!("SELECT {TALLY} FROM api_usage_minute WHERE minute = ?1 AND run = ?2 AND series = ?3");
    let mut statement = connection.prepare_cached(&sql)?;
    let minute = minute.text();
    let mut rows = Vec::new();
    for id in ids {
        rows.extend(statement.query_row(params![minute, run, id.as_slice()], read_tally).optional()?);
    }
    Ok(rows)
}

fn read_tally(row: &Row<'_>) -> Result<(Id, Tally), Error> {
    let mut numbers = [0; 7];
    for (place, number) in (1..).zip(&mut numbers) {
        *number = row.get::<_, i64>(place)?.cast_unsigned();
    }
    Ok((row.get(0)?, tally(numbers, row.get_ref(8)?.as_blob().unwrap_or_default())))
}

/// Adds the rows of one minute to a sum; how many there are.
pub(super) fn sum_minute(connection: &Connection, run: u32, minute: Minute, sum: &mut Sum) -> Result<usize, Error> {
    let sql = format!(
        "SELECT {TALLY}, endpoint, method, status, decided_by, consumer, \"key\", service, instance
         FROM api_usage_minute WHERE minute = ?1 AND run = ?2"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params![minute.text(), run])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        let (id, tally) = read_tally(row)?;
        let series = if sum.knows(&id) {
            Series::default()
        } else {
            Series {
                endpoint: row.get(9)?,
                method: row.get(10)?,
                status: row.get(11)?,
                decided_by: row.get(12)?,
                consumer: row.get(13)?,
                key: row.get(14)?,
                service: row.get(15)?,
                instance: row.get(16)?,
            }
        };
        sum.add(id, || series, &tally);
        count += 1;
    }
    Ok(count)
}

/// The packed value of an hour or day.
pub(super) fn read_packed(
    connection: &Connection,
    run: u32,
    level: Level,
    start: Minute,
) -> Result<Option<Vec<u8>>, Error> {
    let (table, column) = level.table();
    connection
        .prepare_cached(&format!("SELECT packed FROM {table} WHERE {column} = ?1 AND run = ?2"))?
        .query_row(params![start.text(), run], |row| row.get(0))
        .optional()
}

/// Writes the packed value of an hour or day, and its outlines.
pub(super) fn write_packed(
    connection: &Connection,
    run: u32,
    level: Level,
    start: Minute,
    sum: &Sum,
) -> Result<(), Error> {
    let (table, column) = level.table();
    let sql = format!("INSERT OR REPLACE INTO {table} ({column}, run, \"count\", packed) VALUES (?1, ?2, ?3, ?4)");
    let values = params![start.text(), run, signed(sum.count), sum.pack()];
    connection.prepare_cached(&sql)?.execute(values)?;
    let table = level.outline_table();
    let sql = format!("INSERT OR REPLACE INTO {table} (outline, {column}, run, packed) VALUES (?1, ?2, ?3, ?4)");
    let mut insert = connection.prepare_cached(&sql)?;
    for (outline, packed) in sum.pack_outlines() {
        insert.execute(params![outline, start.text(), run, packed])?;
    }
    Ok(())
}

fn add_late(
    connection: &Connection,
    run: u32,
    level: Level,
    start: Minute,
    changes: &[&Change<'_>],
) -> Result<(), Error> {
    let mut sum = Sum::default();
    if let Some(packed) = read_packed(connection, run, level, start)?
        && sum.add_packed(&packed).is_err()
    {
        // Somebody else has written there. It is left as it is; to refuse the batch would block the log.
        log::error!("request log: a value in {} can't be read: run {run}, {}", level.table().0, start.text());
        return Ok(());
    }
    changes.iter().for_each(|change| sum.add_change(change));
    write_packed(connection, run, level, start, &sum)
}
