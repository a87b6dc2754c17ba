//! Single requests: those a filter admits, newest first, a page at a time; and all facts of one.
//! Read from `api_logs`, so only as far back as retention keeps it, and exact to the microsecond.

use jiff::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::filter::{Filter, Part};
use super::parameters::Parameters;
use super::sheet::{Cell, NEEDED, Sheet, Style, Tint, column};
use super::text::{csv, printable, printable_json};
use super::window::{Window, Zone};
use crate::store::read::{self, Logged, Position, Reader, Unreadable};

const LIMIT: u32 = 50;
const LIMIT_MAX: u32 = 10_000;

/// Which requests are asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    zone: Zone,
    question: read::Question,
}

/// Takes `min_ms`.
pub(super) fn min_ms(parameters: &mut Parameters) -> Result<Option<f64>, String> {
    parameters.parsed("min_ms", |text| {
        let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
        number.ok_or_else(|| format!("`{text}` is no number of milliseconds"))
    })
}

impl Question {
    /// Takes all parameters of a question about single requests.
    ///
    /// # Errors
    /// What can't be understood.
    pub fn take(parameters: &mut Parameters, now: Timestamp) -> Result<Self, String> {
        let min_ms = min_ms(parameters)?;
        let limit = parameters.number("limit", LIMIT_MAX)?.unwrap_or(LIMIT);
        let before = parameters.parsed("before", position)?;
        let (window, zone) = Window::take(parameters, now)?;
        let filter = Filter::take(parameters)?;
        let texts = filter.parts().map(|part: Part| (part.column(), filter.texts[part as usize].clone())).collect();
        let question = read::Question {
            from: window.from.unwrap_or(Timestamp::UNIX_EPOCH),
            to: window.to.unwrap_or(Timestamp::MAX),
            before,
            texts,
            statuses: filter.statuses,
            min_ms,
            limit,
        };
        Ok(Self { zone, question })
    }

    /// Reads a page.
    ///
    /// # Errors
    /// The store can't be read, or not in time.
    pub fn answer(&self, reader: &mut Reader) -> Result<Requests, Unreadable> {
        // One more than is shown says whether there is another page.
        let question = read::Question { limit: self.question.limit.saturating_add(1), ..self.question.clone() };
        let mut requests = reader.requests(&question)?;
        let has_more = requests.len() > self.question.limit as usize;
        requests.truncate(self.question.limit as usize);
        let before = requests.last().filter(|_| has_more).map(|last| cursor(last.position()));
        Ok(Requests { requests, before, zone: self.zone.clone() })
    }
}

/// A page of requests, or all with one id.
#[derive(Debug, Serialize)]
pub struct Requests {
    /// The newest first; those with one id, the oldest first.
    pub requests: Vec<Logged>,
    /// The parameter `before` of the next page; none on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    #[serde(skip)]
    zone: Zone,
}

impl Requests {
    /// All requests with an id.
    ///
    /// # Errors
    /// The store can't be read, or not in time.
    pub fn with_id(reader: &mut Reader, id: Uuid) -> Result<Self, Unreadable> {
        Ok(Self { requests: reader.requests_with(id)?, before: None, zone: Zone::default() })
    }

    /// One JSON object.
    pub fn json(&self) -> String {
        printable_json(&serde_json::to_string(self).unwrap_or_default())
    }

    /// A header with the names of all columns, and a line for each request. On a terminal text is escaped as in tables.
    pub fn csv(&self, is_on_terminal: bool) -> String {
        let cell = |value: String| if is_on_terminal { csv(&printable(&value)) } else { csv(&value) };
        let mut text = Logged::NAMES.join(",") + "\n";
        for request in &self.requests {
            text += &(facts(request).map(cell).join(",") + "\n");
        }
        text
    }

    /// A line for each request, as a table that fits the terminal.
    pub fn table(&self, style: Style) -> String {
        if self.requests.is_empty() {
            return "No requests\n".to_owned();
        }
        let time = if self.zone.is_utc() { "time, UTC" } else { "time" };
        let columns = vec![
            column(time, false, NEEDED),
            column("method", true, NEEDED + 3),
            column("path", true, 0),
            column("status", false, NEEDED + 2),
            column("ms", false, NEEDED + 1),
            column("decided by", true, 3),
            column("endpoint", true, 2),
            column("consumer", true, 5),
            column("key", true, 4),
            column("instance", true, 1),
            column("request id", false, 6),
        ];
        let row = |request: &Logged| -> Vec<Cell> {
            let or_none = |text: &Option<String>| printable(text.as_deref().unwrap_or("-"));
            let tint = if request.is_error { Tint::Bad } else { Tint::Plain };
            vec![
                Cell::from(self.zone.millisecond(request.timestamp)),
                Cell::from(printable(&request.http_method)),
                Cell::from(printable(&request.path)),
                Cell { text: request.status_code.to_string(), tint },
                Cell::from(format!("{:.2}", request.response_time_ms)),
                Cell::from(printable(&request.decided_by)),
                Cell::from(printable(&request.endpoint)),
                Cell::from(or_none(&request.consumer)),
                Cell::from(or_none(&request.key)),
                Cell::from(or_none(&request.instance)),
                Cell::from(request.request_id.to_string()),
            ]
        };
        let mut text = Sheet { columns, rows: self.requests.iter().map(row).collect() }.render(style);
        if !self.zone.is_utc() {
            text += &style.wrap(&format!("times of {}\n", self.zone.name()), 2);
        }
        if let Some(before) = &self.before {
            text += &style.wrap(&format!("older ones: the same with --before {before}\n"), 2);
        }
        text
    }

    /// Every fact on a line of its own, one request after the other.
    pub fn facts(&self) -> String {
        let mut text = String::new();
        for request in &self.requests {
            if !text.is_empty() {
                text.push('\n');
            }
            for (name, value) in Logged::NAMES.into_iter().zip(facts(request)) {
                let value = if value.is_empty() { "-".to_owned() } else { printable(&value) };
                text += &format!("{name:<17} {value}\n");
            }
        }
        text
    }
}

/// The values of all columns as text, in the order of [`Logged::NAMES`]; what is missing is empty.
fn facts(request: &Logged) -> [String; Logged::NAMES.len()] {
    let optional = |text: &Option<String>| text.clone().unwrap_or_default();
    [
        format!("{:.6}", request.timestamp),
        request.endpoint.clone(),
        request.http_method.clone(),
        request.status_code.to_string(),
        request.response_time_ms.to_string(),
        request.is_error.to_string(),
        request.run.to_string(),
        request.sequence.to_string(),
        request.request_id.to_string(),
        optional(&request.client_request_id),
        optional(&request.host),
        request.path.clone(),
        request.protocol.clone(),
        optional(&request.consumer),
        optional(&request.key),
        request.client_ip.map(|address| address.to_string()).unwrap_or_default(),
        optional(&request.service),
        optional(&request.instance),
        request.attempts.to_string(),
        request.upstream_ms.map(|time| time.to_string()).unwrap_or_default(),
        optional(&request.cache),
        request.decided_by.clone(),
        optional(&request.limit_name),
        optional(&request.observed),
        request.bytes_in.to_string(),
        request.bytes_out.to_string(),
        optional(&request.user_agent),
        request.generation.to_string(),
    ]
}

/// A position as people pass it on: opaque, so that what it is made of may change.
fn cursor(position: Position) -> String {
    let time = u64::try_from(position.timestamp.as_microsecond()).unwrap_or_default();
    format!("{time:016x}{:08x}{:x}", position.run, position.sequence)
}

fn position(text: &str) -> Result<Position, String> {
    let read = || {
        let (time, rest) = text.split_at_checked(16)?;
        let (run, sequence) = rest.split_at_checked(8)?;
        let hex =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u64::from_str_radix(text, 16).ok());
        let time = i64::try_from(hex(time)??).ok()?;
        Some(Position {
            timestamp: Timestamp::from_microsecond(time).ok()?,
            run: u32::try_from(hex(run)??).ok()?,
            sequence: hex(sequence)??,
        })
    };
    read().ok_or_else(|| format!("`{text}` is no cursor: take it from the end of the page before"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_a_position() {
        for position_of in
            [(0, 0, 0), (1_772_366_400_123_456, 7, 1 << 40), (253_000_000_000_000_000, u32::MAX, u64::MAX)]
        {
            let (time, run, sequence) = position_of;
            let timestamp = Timestamp::from_microsecond(time).unwrap();
            let expected = Position { timestamp, run, sequence };
            assert_eq!(position(&cursor(expected)), Ok(expected));
        }
        for text in ["", "0", "zz", "0000000000000000000000", "+000000000000000000000001", "ääääääääääää"] {
            assert!(position(text).is_err(), "{text}");
        }
    }
}
