//! The rows of a batch in `api_logs` by LOAD DATA LOCAL INFILE: of all ways the one that costs both sides least.
//! LOCAL turns errors into warnings and leaves out what does not fit, so a load counts only when every row was stored without
//! a warning; anything else is undone, and the rows take the way of `rows.rs`, as they do where the server allows no load.
//! The server is sent what it asks for and never a file: the handler knows these bytes only.

use bytes::Bytes;
use futures_util::stream;

use super::super::row::{Row, address_bytes};
use super::super::{Batch, COLUMNS, Failure};
use super::link::Link;
use crate::json::push_decimal;

/// What became of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loaded {
    /// Every row is stored.
    All,
    /// No row is: something does not fit.
    Nothing,
    /// No row is: the server allows no load.
    NotAllowed,
}

/// The server, or this user, may not load: `mysqld_error.h`.
const NOT_ALLOWED: [u16; 3] = [1148, 3948, 4166];

/// Bytes that are sent in one packet, at most; fewer where the server takes less.
const PIECE_BYTES_MAX: usize = 256 << 10;

/// Stores all rows of a batch, or none; no packet is larger than `packet_bytes_max`.
pub(super) async fn load(
    link: &mut Link,
    run: u32,
    batch: &Batch<'_>,
    packet_bytes_max: usize,
) -> Result<Loaded, Failure> {
    let mut lines = Vec::with_capacity(batch.rows.len() * 320);
    for (sequence, row) in (batch.first..).zip(batch.rows) {
        push_row(&mut lines, run, sequence, row);
    }
    link.text("SAVEPOINT before_load").await?;
    let mut lines = Bytes::from(lines);
    let piece_bytes = packet_bytes_max.min(PIECE_BYTES_MAX);
    let pieces = std::iter::from_fn(move || {
        let piece = lines.split_to(piece_bytes.min(lines.len()));
        (!piece.is_empty()).then_some(Ok(piece))
    });
    link.connection.set_infile_handler(async move {
        let pieces: mysql_async::InfileData = Box::pin(stream::iter(pieces));
        Ok(pieces)
    });
    // Bytes are taken as they are: text is UTF-8, as the columns are, and ids and addresses are no text.
    let sql = format!(
        "LOAD DATA LOCAL INFILE 'rows' INTO TABLE api_logs CHARACTER SET binary
         FIELDS TERMINATED BY '\\t' ESCAPED BY '\\\\' LINES TERMINATED BY '\\n' (`{}`)",
        COLUMNS.join("`,`")
    );
    let error = link.attempt_text(&sql).await?;
    let is_whole = link.connection.affected_rows() == batch.rows.len() as u64 && link.connection.get_warnings() == 0;
    match error {
        None if is_whole => return Ok(Loaded::All),
        Some(code) if NOT_ALLOWED.contains(&code) => return Ok(Loaded::NotAllowed),
        _ => {}
    }
    link.text("ROLLBACK TO SAVEPOINT before_load").await?;
    Ok(Loaded::Nothing)
}

/// One line, its fields in the order of COLUMNS.
fn push_row(out: &mut Vec<u8>, run: u32, sequence: u64, row: &Row<'_>) {
    let mut room = [0; 16];
    let client_ip = row.client_ip.map(|address| address_bytes(address, &mut room));
    let mut fields = Fields { out };
    fields.plain(&row.timestamp.text());
    fields.text(Some(row.endpoint));
    fields.text(Some(row.http_method));
    fields.number(row.status_code.into());
    fields.thousandths(Some(row.response_time));
    fields.number(row.is_error.into());
    fields.number(run.into());
    fields.number(sequence);
    fields.bytes(Some(&row.request_id));
    fields.text(row.client_request_id);
    fields.text(row.host);
    fields.text(Some(row.path));
    fields.text(Some(row.protocol));
    fields.text(row.consumer);
    fields.text(row.key);
    fields.bytes(client_ip);
    fields.text(row.service);
    fields.text(row.instance);
    fields.number(row.attempts.into());
    fields.thousandths(row.upstream_time);
    fields.text(row.cache);
    fields.text(Some(row.decided_by));
    fields.text(row.limit_name);
    fields.text(row.observed);
    fields.number(row.bytes_in.unsigned_abs());
    fields.number(row.bytes_out.unsigned_abs());
    fields.text(row.user_agent);
    fields.number(row.generation.into());
    fields.end();
}

/// The fields of a line; each is followed by a tab, the last by the line's end.
struct Fields<'a> {
    out: &'a mut Vec<u8>,
}

impl Fields<'_> {
    fn plain(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
        self.out.push(b'\t');
    }

    fn number(&mut self, number: u64) {
        push_decimal(self.out, number, 1);
        self.out.push(b'\t');
    }

    fn thousandths(&mut self, number: Option<u64>) {
        let Some(number) = number else { return self.bytes(None) };
        push_decimal(self.out, number / 1_000, 1);
        self.out.push(b'.');
        push_decimal(self.out, number % 1_000, 3);
        self.out.push(b'\t');
    }

    fn text(&mut self, text: Option<&str>) {
        self.bytes(text.map(str::as_bytes));
    }

    fn bytes(&mut self, bytes: Option<&[u8]>) {
        let Some(bytes) = bytes else { return self.plain(b"\\N") };
        let is_special = |byte: u8| (byte == 0) | (byte == b'\t') | (byte == b'\n') | (byte == b'\\');
        // Without a branch a byte, because nearly all texts need no escape.
        if !bytes.iter().fold(false, |special, byte| special | is_special(*byte)) {
            return self.plain(bytes);
        }
        for byte in bytes {
            match byte {
                0 => self.out.extend_from_slice(b"\\0"),
                byte if is_special(*byte) => self.out.extend_from_slice(&[b'\\', *byte]),
                byte => self.out.push(*byte),
            }
        }
        self.out.push(b'\t');
    }

    fn end(self) {
        self.out.pop();
        self.out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_separates_fields_is_escaped_within_them() {
        let mut out = Vec::new();
        let mut fields = Fields { out: &mut out };
        fields.text(Some("a\tb\nc\\N"));
        fields.text(None);
        fields.text(Some(""));
        fields.bytes(Some(&[0, 255]));
        fields.thousandths(Some(12_005));
        fields.thousandths(None);
        fields.number(0);
        fields.end();
        assert_eq!(out, b"a\\\tb\\\nc\\\\N\t\\N\t\t\\0\xff\t12.005\t\\N\t0\n");
    }
}
