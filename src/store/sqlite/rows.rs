//! The rows of a batch in `api_logs`: several to a statement, because a statement costs as much as a row.
//! A statement with a row that SQLite refuses undoes itself only; its rows are then tried one by one.

use rusqlite::{Connection, Error, ErrorCode, Statement};

use super::super::row::{Row, address_bytes};
use super::super::{COLUMNS, Rejected};

/// Rows of one statement.
const STATEMENT_ROWS: usize = 16;

/// Stores the rows of a run; those that SQLite will never take.
pub(super) fn insert(connection: &Connection, run: u32, first: u64, rows: &[Row<'_>]) -> Result<Vec<Rejected>, Error> {
    let mut rejected = Vec::new();
    let whole = rows.len() - rows.len() % STATEMENT_ROWS;
    let (pieces, rest) = rows.split_at(whole);
    let mut first = first;
    if !pieces.is_empty() {
        let mut statement = connection.prepare_cached(&insert_sql(STATEMENT_ROWS))?;
        for piece in pieces.chunks(STATEMENT_ROWS) {
            match execute(&mut statement, run, first, piece) {
                Err(error) if is_about_the_row(&error) => one_by_one(connection, run, first, piece, &mut rejected)?,
                result => result?,
            }
            first = first.saturating_add(piece.len() as u64);
        }
    }
    one_by_one(connection, run, first, rest, &mut rejected)?;
    Ok(rejected)
}

fn one_by_one(
    connection: &Connection,
    run: u32,
    first: u64,
    rows: &[Row<'_>],
    rejected: &mut Vec<Rejected>,
) -> Result<(), Error> {
    let mut statement = connection.prepare_cached(&insert_sql(1))?;
    for (sequence, row) in (first..).zip(rows) {
        match execute(&mut statement, run, sequence, std::slice::from_ref(row)) {
            Err(error) if is_about_the_row(&error) => {
                let code = error.sqlite_error().map_or(0, |error| error.extended_code);
                rejected.push(Rejected { sequence, code: format!("SQLite error {code}") });
            }
            result => result?,
        }
    }
    Ok(())
}

fn insert_sql(rows: usize) -> String {
    let row = format!("({})", vec!["?"; COLUMNS.len()].join(","));
    // A row whose batch is not in the ledger can be there only where the ledger was lost.
    format!(
        "INSERT INTO api_logs (\"{}\") VALUES {} ON CONFLICT (timestamp, run, sequence) DO NOTHING",
        COLUMNS.join("\",\""),
        vec![row; rows].join(",")
    )
}

fn execute(statement: &mut Statement<'_>, run: u32, first: u64, rows: &[Row<'_>]) -> Result<(), Error> {
    let mut place = 0;
    for (sequence, row) in (first..).zip(rows) {
        bind(statement, &mut place, run, sequence, row)?;
    }
    statement.raw_execute().map(drop)
}

fn bind(statement: &mut Statement<'_>, place: &mut usize, run: u32, sequence: u64, row: &Row<'_>) -> Result<(), Error> {
    let mut room = [0; 16];
    let client_ip = row.client_ip.map(|address| address_bytes(address, &mut room));
    let timestamp = row.timestamp.text();
    // In the order of COLUMNS.
    macro_rules! bind {
        ($($value:expr),* $(,)?) => {
            $(
                *place += 1;
                statement.raw_bind_parameter(*place, $value)?;
            )*
        };
    }
    bind!(
        std::str::from_utf8(&timestamp).unwrap_or_default(),
        row.endpoint,
        row.http_method,
        row.status_code,
        row.response_time_ms(),
        row.is_error,
        run,
        sequence.cast_signed(),
        row.request_id.as_slice(),
        row.client_request_id,
        row.host,
        row.path,
        row.protocol,
        row.consumer,
        row.key,
        client_ip,
        row.service,
        row.instance,
        row.attempts,
        row.upstream_ms(),
        row.cache,
        row.decided_by,
        row.limit_name,
        row.observed,
        row.bytes_in,
        row.bytes_out,
        row.user_agent,
        row.generation,
    );
    Ok(())
}

/// Whether the row itself is at fault, so that trying it again can't help.
fn is_about_the_row(error: &Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::ConstraintViolation
                | ErrorCode::TooBig
                | ErrorCode::TypeMismatch
                | ErrorCode::ParameterOutOfRange
        )
    )
}
