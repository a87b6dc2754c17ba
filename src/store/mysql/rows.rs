//! The rows of a batch in `api_logs`: loaded (`load.rs`), or, where that is not possible, by multi-row INSERTs of prepared
//! statements.
//! A statement with a row that the server refuses undoes itself only; its rows are halved until the row is found. Never
//! INSERT IGNORE, which would also store what does not fit, cut or changed.

use mysql_async::Value;

use super::super::row::{Row, address_bytes};
use super::super::{Batch, COLUMNS, Failure, Rejected};
use super::link::{Link, date};
use super::load::{Loaded, load};

/// Rows of one INSERT: powers of two up to this, so that a connection prepares few statements. A statement takes at
/// most 65,535 values.
const STATEMENT_ROWS_MAX: usize = 1_024;

/// Fewer rows than this are inserted: a load begins with one question more.
const LOADED_ROWS_MIN: usize = 8;

/// How a connection may send rows.
pub(super) struct Ways {
    /// The server has not refused a load.
    pub(super) may_load: bool,
    /// Bytes of one INSERT, well below the server's `max_allowed_packet`.
    pub(super) statement_bytes_max: usize,
}

/// Stores the rows of a batch; those that the server will never take.
pub(super) async fn insert(
    link: &mut Link,
    ways: &mut Ways,
    run: u32,
    batch: &Batch<'_>,
) -> Result<Vec<Rejected>, Failure> {
    if ways.may_load && batch.rows.len() >= LOADED_ROWS_MIN {
        match load(link, run, batch, ways.statement_bytes_max).await? {
            Loaded::All => return Ok(Vec::new()),
            Loaded::Nothing => {}
            Loaded::NotAllowed => {
                log::info!(
                    "request log: {} allows no LOAD DATA LOCAL; rows are inserted, which costs more",
                    link.server
                );
                ways.may_load = false;
            }
        }
    }
    insert_all(link, ways.statement_bytes_max, run, batch).await
}

async fn insert_all(link: &mut Link, bytes_max: usize, run: u32, batch: &Batch<'_>) -> Result<Vec<Rejected>, Failure> {
    let mut rejected = Vec::new();
    // Parts yet to be sent, the next one last.
    let mut parts: Vec<(u64, &[Row<'_>])> = vec![(batch.first, batch.rows)];
    while let Some((first, rows)) = parts.pop() {
        if rows.is_empty() {
            continue;
        }
        let count = statement_rows(rows, bytes_max);
        let (now, later) = rows.split_at(count);
        parts.push((first.saturating_add(count as u64), later));
        let values = now.iter().zip(first..).flat_map(|(row, sequence)| values(row, run, sequence)).collect();
        let Some(code) = link.attempt(&insert_sql(count), values).await? else { continue };
        if now.len() == 1 {
            rejected.push(Rejected { sequence: first, code: format!("MySQL error {code}") });
        } else {
            let (left, right) = now.split_at(now.len() / 2);
            parts.push((first.saturating_add(left.len() as u64), right));
            parts.push((first, left));
        }
    }
    Ok(rejected)
}

/// How many of these rows, at least one, go into one statement: a power of two within the bounds.
fn statement_rows(rows: &[Row<'_>], bytes_max: usize) -> usize {
    let mut bytes = 0_usize;
    let fitting = rows
        .iter()
        .take(STATEMENT_ROWS_MAX)
        .take_while(|row| {
            bytes = bytes.saturating_add(row.bytes_max());
            bytes <= bytes_max
        })
        .count();
    1 << fitting.max(1).ilog2()
}

fn insert_sql(rows: usize) -> String {
    let row = format!("({})", vec!["?"; COLUMNS.len()].join(","));
    // A row whose batch is not in the ledger can be there only where the ledger was lost.
    format!(
        "INSERT INTO api_logs (`{}`) VALUES {} ON DUPLICATE KEY UPDATE `run` = `run`",
        COLUMNS.join("`,`"),
        vec![row; rows].join(",")
    )
}

fn values(row: &Row<'_>, run: u32, sequence: u64) -> [Value; COLUMNS.len()] {
    let mut room = [0; 16];
    let client_ip = row.client_ip.map(|address| address_bytes(address, &mut room));
    [
        date(row.timestamp),
        row.endpoint.into(),
        row.http_method.into(),
        row.status_code.into(),
        row.response_time_ms().into(),
        row.is_error.into(),
        run.into(),
        sequence.into(),
        row.request_id.as_slice().into(),
        row.client_request_id.into(),
        row.host.into(),
        row.path.into(),
        row.protocol.into(),
        row.consumer.into(),
        row.key.into(),
        client_ip.into(),
        row.service.into(),
        row.instance.into(),
        row.attempts.into(),
        row.upstream_ms().into(),
        row.cache.into(),
        row.decided_by.into(),
        row.limit_name.into(),
        row.observed.into(),
        row.bytes_in.into(),
        row.bytes_out.into(),
        row.user_agent.into(),
        row.generation.into(),
    ]
}
