//! The tables: one for each row of the report, with columns that fit the kind of load. For terminals and as Markdown.
//! What could not be measured stands in its place, with the reason.

use comfy_table::presets::{ASCII_MARKDOWN, NOTHING};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};

use crate::contenders::TOLLGATE;
use crate::job::Kind;
use crate::report::{Entry, Figures, Outcome, Report, RowReport};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Style {
    Text,
    Markdown,
}

/// A heading, and what stands below it.
type Column = (&'static str, fn(&Figures) -> Option<String>);

const CPU: [Column; 2] = [
    ("CPU us", |figures| fixed(figures.cpu_us, 2)),
    ("min to max", |figures| Some(format!("{:.1} to {:.1}", figures.cpu_us_min?, figures.cpu_us_max?))),
];
const CLOSED: [Column; 6] = [
    ("requests/s", |figures| figures.per_second.map(thousands)),
    ("p50 ms", |figures| fixed(figures.p50_us.map(|us| us / 1e3), 2)),
    ("p99 ms", |figures| fixed(figures.p99_us.map(|us| us / 1e3), 2)),
    ("p99.9 ms", |figures| fixed(figures.p999_us.map(|us| us / 1e3), 2)),
    ("RSS MiB", |figures| mebibytes(figures.memory_bytes)),
    ("x tollgate", |figures| fixed(figures.of_tollgate, 2)),
];
const OF_FIRST: Column = ("x own base", |figures| fixed(figures.of_first, 2));
const OPEN: [Column; 7] = [
    ("p50 us", |figures| fixed(figures.p50_us, 0)),
    ("p99 us", |figures| fixed(figures.p99_us, 0)),
    ("p99.9 us", |figures| fixed(figures.p999_us, 0)),
    ("added p50", |figures| signed(figures.added_p50_us)),
    ("added p99", |figures| signed(figures.added_p99_us)),
    ("added p99.9", |figures| signed(figures.added_p999_us)),
    ("CPU us", |figures| fixed(figures.cpu_us, 2)),
];
const IDLE: [Column; 4] = [
    ("bytes per connection", |figures| figures.bytes_per_connection.map(thousands)),
    ("RSS MiB before", |figures| mebibytes(figures.idle_before_bytes)),
    ("RSS MiB after", |figures| mebibytes(figures.memory_bytes)),
    ("x tollgate", |figures| fixed(figures.of_tollgate, 2)),
];

/// All rows, each with its heading.
pub fn tables(report: &Report, style: Style) -> String {
    report.rows.iter().map(|row| section(row, style)).collect::<Vec<_>>().join("\n")
}

fn section(row: &RowReport, style: Style) -> String {
    let heading = format!("{}: {}", row.id, row.title);
    let latencies = if row.kind == Kind::Closed { " Latencies are those of a closed loop." } else { "" };
    let mut text = match style {
        Style::Text => format!("{heading}\n{}{latencies}\n\n{}\n", row.what, table(row, style)),
        Style::Markdown => format!("### {heading}\n\n{}{latencies}\n\n{}\n", row.what, table(row, style)),
    };
    let notes = notes(row);
    if !notes.is_empty() {
        text += &format!("\n{}\n", notes.join(if style == Style::Text { "\n" } else { "\\\n" }));
    }
    text
}

fn table(row: &RowReport, style: Style) -> String {
    let mut columns: Vec<Column> = match row.kind {
        Kind::Closed => CPU.into_iter().chain(CLOSED).collect(),
        Kind::Open => OPEN.to_vec(),
        Kind::Idle => IDLE.to_vec(),
    };
    if row.is_beside_first {
        columns.push(OF_FIRST);
    }
    let mut table = Table::new();
    table.load_style(if style == Style::Text { NOTHING } else { ASCII_MARKDOWN });
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(std::iter::once("").chain(columns.iter().map(|(heading, _)| *heading)));
    for entry in row.entries.iter().filter(|entry| entry.figures.is_some()) {
        let figures = entry.figures.clone().unwrap_or_default();
        let cells = columns.iter().map(|(_, cell)| Cell::new(cell(&figures).unwrap_or_default()));
        let name = Cell::new(&entry.name).set_alignment(CellAlignment::Left);
        table.add_row(std::iter::once(name).chain(cells));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Below the table: tollgate beside bare Pingora, what the references did, and who has no figures.
fn notes(row: &RowReport) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(Figures { of_bare, over_bare_us, of_bare_dressed, over_bare_dressed_us, .. }) =
        row.entry(TOLLGATE).and_then(|entry| entry.figures.as_ref())
    {
        let beside = |name: &str, ratio: &Option<f64>, over: &Option<f64>| {
            let over = over.map(|over| format!(" ({over:+.1} us)")).unwrap_or_default();
            ratio.map(|ratio| format!("{ratio:.2} x {name}{over}"))
        };
        let parts: Vec<String> =
            [beside("bare", of_bare, over_bare_us), beside("bare dressed", of_bare_dressed, over_bare_dressed_us)]
                .into_iter()
                .flatten()
                .collect();
        if !parts.is_empty() {
            notes.push(format!("tollgate is {}.", parts.join(", ")));
        }
    }
    for entry in &row.entries {
        if let (Some(does), Some(_)) = (&entry.does, &entry.figures) {
            notes.push(format!("{}: {does}.", entry.name));
        }
    }
    for entry in row.entries.iter().filter(|entry| !entry.repeated.is_empty()) {
        let (name, count) = (&entry.name, entry.repeated.len());
        notes.push(format!(
            "{name}: {count} measurements did not count and were made again: {}.",
            entry.repeated.join("; ")
        ));
    }
    notes.extend(row.entries.iter().filter_map(without_figures));
    notes
}

fn without_figures(entry: &Entry) -> Option<String> {
    let name = &entry.name;
    match &entry.outcome {
        Outcome::Measured { .. } => None,
        Outcome::CanNot { why } => Some(format!("{name}: cannot do this: {why}.")),
        Outcome::Missing { .. } => Some(format!("{name}: not installed: make bench-peers.")),
        Outcome::Failed { why } => {
            Some(format!("{name}: FAILED, no figures: {}", why.lines().next().unwrap_or_default()))
        }
    }
}

fn fixed(value: Option<f64>, digits: usize) -> Option<String> {
    value.map(|value| format!("{value:.digits$}"))
}

fn signed(value: Option<f64>) -> Option<String> {
    value.map(|value| format!("{value:+.0}"))
}

fn mebibytes(bytes: Option<f64>) -> Option<String> {
    fixed(bytes.map(|bytes| bytes / f64::from(1 << 20)), 1)
}

/// `12,345`
pub fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value <= -0.5 { format!("-{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contenders::BARE;
    use crate::report::figures::{figures, tests::entry, tests::row};

    fn sample_row() -> RowReport {
        let mut missing = entry("envoy", &[]);
        missing.outcome = Outcome::Missing { why: "no such file".into() };
        let mut cannot = entry("varnish", &[]);
        cannot.outcome = Outcome::CanNot { why: "no TLS".into() };
        let mut row = row("J1", vec![entry(BARE, &[20.0]), entry(TOLLGATE, &[22.0]), cannot, missing]);
        for at in 0..row.entries.len() {
            row.entries[at].figures = figures(&row, None, at);
        }
        row
    }

    #[test]
    fn nobody_is_left_out() {
        let text = section(&sample_row(), Style::Text);
        for part in [
            "22.00",
            "tollgate is 1.10 x bare (+2.0 us).",
            "varnish: cannot do this: no TLS.",
            "envoy: not installed: make bench-peers.",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn markdown_has_a_row_for_each_with_figures() {
        let text = section(&sample_row(), Style::Markdown);
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(rows.len(), 4, "{text}");
        assert!(rows[1].chars().all(|c| "|-: ".contains(c)), "{}", rows[1]);
        assert!(rows[3].contains("tollgate") && rows[3].contains("22.00"), "{}", rows[3]);
    }

    #[test]
    fn thousands_are_set_apart() {
        for (value, text) in [(0.4, "0"), (999.0, "999"), (1_000.0, "1,000"), (-1_234_567.0, "-1,234,567")] {
            assert_eq!(thousands(value), text);
        }
    }
}
