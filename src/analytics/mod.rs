//! Questions to the request log, and their answers as tables, JSON and CSV: usage, single requests, and the audit.
//! The same questions from the command line and the admin API, as names and values; docs/analytics.md describes both.
//! Reads only: no question creates a database, a table or a row. The SQL behind it is in `store`.
//! Not here: live figures of a running gateway (`metrics`, `admin`).

mod audit;
mod filter;
mod parameters;
pub mod requests;
mod sheet;
mod tail;
mod text;
pub mod usage;
mod window;

#[cfg(test)]
pub(crate) mod tests;

use jiff::Timestamp;

pub use audit::Audit;
pub use parameters::Parameters;
pub use sheet::Style;
pub use tail::wanted;
pub use text::printable;

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
