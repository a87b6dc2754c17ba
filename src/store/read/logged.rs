//! Single requests: what is asked of `api_logs`, as SQL that both stores understand, and the rows as plain data.
//! The members of [`Logged`] are the columns, and their names are the names in JSON and CSV.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::Value;
use crate::store::COLUMNS;

/// One request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Logged {
    /// When it was read, RFC 3339 in UTC.
    #[serde(serialize_with = "rfc3339")]
    pub timestamp: Timestamp,
    /// The pattern or name of the route, or `(none)`.
    pub endpoint: String,
    /// As the client sent it.
    pub http_method: String,
    /// The status the client was sent.
    pub status_code: u16,
    /// To the last byte of the answer.
    pub response_time_ms: f64,
    /// Status 500 and above.
    pub is_error: bool,
    /// Which run of which gateway; with `sequence` the identity of the request.
    pub run: u32,
    /// From 1 in each run.
    pub sequence: u64,
    /// The id of the request.
    pub request_id: Uuid,
    /// What the client sent as `X-Request-Id`, where it was replaced.
    pub client_request_id: Option<String>,
    /// The host asked for.
    pub host: Option<String>,
    /// The path asked for.
    pub path: String,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    pub protocol: String,
    /// Who called.
    pub consumer: Option<String>,
    /// The name of the key.
    pub key: Option<String>,
    /// The client, as far as `log.client_ip` keeps it.
    pub client_ip: Option<IpAddr>,
    /// The route's service.
    pub service: Option<String>,
    /// The last instance that was tried.
    pub instance: Option<String>,
    /// Tries at instances.
    pub attempts: u16,
    /// To the header of the instance's answer.
    pub upstream_ms: Option<f64>,
    /// What the cache did.
    pub cache: Option<String>,
    /// `upstream`, `cache`, or the reason of a refusal.
    pub decided_by: String,
    /// The limit that refused.
    pub limit_name: Option<String>,
    /// The policy that only observed, and would have refused.
    pub observed: Option<String>,
    /// Bytes of the request body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// The client's `User-Agent`.
    pub user_agent: Option<String>,
    /// The configuration that answered.
    pub generation: u32,
}

impl Logged {
    /// The names of the columns, in the order of the members.
    pub const NAMES: [&str; COLUMNS.len()] = COLUMNS;

    /// Where it stands among all requests.
    pub fn position(&self) -> Position {
        Position { timestamp: self.timestamp, run: self.run, sequence: self.sequence }
    }
}

fn rfc3339<S: serde::Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{time:.6}"))
}

/// The primary key of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// When it was read.
    pub timestamp: Timestamp,
    /// Which run.
    pub run: u32,
    /// Its number in the run.
    pub sequence: u64,
}

/// Which requests are asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// Not before.
    pub from: Timestamp,
    /// Before.
    pub to: Timestamp,
    /// Only those before this one.
    pub before: Option<Position>,
    /// Columns that must have one of some values; none is NULL.
    pub texts: Vec<(&'static str, Vec<Option<String>>)>,
    /// Statuses, first to last each; empty for all.
    pub statuses: Vec<(u16, u16)>,
    /// Not faster than this.
    pub min_ms: Option<f64>,
    /// How many.
    pub limit: u32,
}

impl Question {
    /// What stands behind WHERE, and its values.
    pub(super) fn condition(&self) -> (String, Vec<Value>) {
        let mut conditions = vec!["`timestamp` >= ? AND `timestamp` < ?".to_owned()];
        let mut values = vec![Value::Time(self.from), Value::Time(self.to)];
        if let Some(before) = self.before {
            // The first half alone is a range of the primary key; comparing all three at once is none to MySQL.
            conditions.push("`timestamp` <= ?".to_owned());
            conditions.push("(`timestamp` < ? OR `run` < ? OR (`run` = ? AND `sequence` < ?))".to_owned());
            let run = Value::Number(before.run.into());
            values.extend([Value::Time(before.timestamp), Value::Time(before.timestamp), run.clone(), run]);
            values.push(Value::Number(before.sequence.cast_signed()));
        }
        for (column, wanted) in &self.texts {
            let any: Vec<String> = wanted
                .iter()
                .map(|text| format!("`{column}` {}", if text.is_some() { "= ?" } else { "IS NULL" }))
                .collect();
            conditions.push(format!("({})", any.join(" OR ")));
            values.extend(wanted.iter().flatten().map(|text| Value::Text(text.clone())));
        }
        if !self.statuses.is_empty() {
            conditions.push(format!("({})", vec!["`status_code` BETWEEN ? AND ?"; self.statuses.len()].join(" OR ")));
            let ends = self.statuses.iter().flat_map(|(first, last)| [*first, *last]);
            values.extend(ends.map(|status| Value::Number(status.into())));
        }
        if let Some(min_ms) = self.min_ms {
            conditions.push("`response_time_ms` >= ?".to_owned());
            values.push(Value::Real(min_ms));
        }
        (conditions.join(" AND "), values)
    }
}

/// All columns of some requests. Both stores take backquotes.
pub(super) fn select(rest: &str) -> String {
    format!("SELECT `{}` FROM api_logs {rest}", COLUMNS.join("`, `"))
}

/// An address of 4 or 16 bytes.
pub(super) fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(four.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_never_part_of_the_sql() {
        let question = Question {
            from: Timestamp::UNIX_EPOCH,
            to: Timestamp::UNIX_EPOCH,
            before: Some(Position { timestamp: Timestamp::UNIX_EPOCH, run: 1, sequence: 2 }),
            texts: vec![("consumer", vec![Some("' OR 1".to_owned()), None])],
            statuses: vec![(500, 599), (404, 404)],
            min_ms: Some(1.5),
            limit: 1,
        };
        let (sql, values) = question.condition();
        assert!(sql.contains("(`consumer` = ? OR `consumer` IS NULL)") && !sql.contains("OR 1"), "{sql}");
        assert_eq!(sql.matches('?').count(), values.len());
    }

    #[test]
    fn addresses_have_4_or_16_bytes() {
        assert_eq!(address(&[127, 0, 0, 1]), Some("127.0.0.1".parse().unwrap()));
        assert_eq!(address(&[0; 16]), Some("::".parse().unwrap()));
        assert_eq!(address(&[0; 5]), None);
    }
}
