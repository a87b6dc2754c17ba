//! Questions to the request log, and their answers as tables, JSON and CSV: usage, single requests, and the audit.
//! The same questions from the command line and the admin API, as names and values; docs/analytics.md describes both.
//! Reads only: no question creates a database, a table or a row. The SQL behind it is in `store`.
//! What a running gateway tells of its cache gets its tables here, too (`stored`). Not here: live figures (`metrics`, `admin`).

mod audit;
mod filter;
mod inventory;
mod parameters;
pub mod requests;
mod sheet;
mod stored;
mod tail;
mod text;
pub mod usage;
mod window;

#[cfg(test)]
pub(crate) mod tests;

use jiff::Timestamp;

use crate::config::Span;

pub use audit::Audit;
pub use inventory::Inventory;
pub use parameters::Parameters;
pub use sheet::Style;
pub use stored::{stored_facts, stored_summary, stored_table};
pub use tail::wanted;
pub use text::{printable, printable_json};

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Table,
    /// One JSON object.
    Json,
    /// RFC 4180, with a header.
    Csv,
}

impl Format {
    /// All of them, by name.
    pub const ALL: [(&'static str, Self); 3] = [("table", Self::Table), ("json", Self::Json), ("csv", Self::Csv)];
    /// Those for programs.
    pub const FOR_PROGRAMS: [(&'static str, Self); 2] = [("json", Self::Json), ("csv", Self::Csv)];

    /// Takes `format`; the first of `formats` unless it is given.
    ///
    /// # Errors
    /// It is none of them.
    pub fn take(parameters: &mut Parameters, formats: &[(&'static str, Self)]) -> Result<Self, String> {
        let format = parameters.parsed("format", |text| parameters::word(text, formats))?;
        Ok(format.or_else(|| formats.first().map(|(_, format)| *format)).unwrap_or(Self::Table))
    }
}

/// Takes a parameter that is there or not.
///
/// # Errors
/// It has a value that is neither true nor false.
pub fn flag(parameters: &mut Parameters, name: &'static str) -> Result<bool, String> {
    parameters.flag(name)
}

/// Takes a length of time in whole days, such as `90d`; `usual` unless it is given.
///
/// # Errors
/// It is none, or less than a day.
pub fn days(parameters: &mut Parameters, name: &'static str, usual: u32) -> Result<u32, String> {
    let days = parameters.parsed(name, |text| Ok(Span::parse(text)?.0.as_secs() / 86_400))?;
    match days.map(u32::try_from) {
        None => Ok(usual),
        Some(Ok(days)) if days > 0 => Ok(days),
        Some(_) => Err(format!("{name}: use is counted by days: write 1d at least")),
    }
}

/// A question with nothing left over, and how its answer is written.
///
/// # Errors
/// A parameter that nobody takes, or a value that can't be understood.
pub fn question<Q>(
    mut parameters: Parameters,
    formats: &[(&'static str, Format)],
    take: impl FnOnce(&mut Parameters, Timestamp) -> Result<Q, String>,
    now: Timestamp,
) -> Result<(Q, Format), String> {
    let question = take(&mut parameters, now)?;
    let format = Format::take(&mut parameters, formats)?;
    parameters.finish()?;
    Ok((question, format))
}
