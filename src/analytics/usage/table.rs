//! The answer to a question about usage for people: a table with the totals below, a line of bars above, and changes with
//! arrows where two windows are compared. Not here: what the figures mean (`figures.rs`), and fitting a width (`sheet.rs`).

use std::ops::Range;

use super::figures::{COLUMNS, Column as FigureColumn, Figure, Figures};
use super::report::{Answer, Summary, Usage};
use crate::analytics::sheet::{Cell, Column, NEEDED, Sheet, Style, Tint};
use crate::analytics::text::{bytes, count, printable, sparkline};
use crate::analytics::window::Zone;
use crate::store::usage::Minute;

/// Bars of a line where there is no terminal.
const BARS: usize = 60;

/// Room for what stands before and after the bars.
const BESIDE_BARS: usize = 48;

/// What a comparison shows; both windows in full would be twice as wide as a terminal.
const COMPARED: [&str; 7] =
    ["requests", "errors", "error_rate_percent", "blocked", "average_ms", "p95_ms", "bytes_out"];

impl Answer {
    /// A table that fits the terminal.
    pub fn table(&self, style: Style) -> String {
        match self {
            Self::Usage(usage) => usage.table(style),
            Self::Summary(summary) => summary.table(style),
        }
    }
}

/// Which columns go first when there is no room; 0 stays.
fn rank(name: &str) -> u8 {
    if name == "error_rate_percent" {
        return NEEDED;
    }
    let order = ["bytes_in", "p50_ms", "blocked", "bytes_out", "p99_ms", "errors", "average_ms", "p95_ms"];
    order.iter().position(|other| *other == name).and_then(|place| u8::try_from(place + 1).ok()).unwrap_or_default()
}

fn shown(figure: Figure) -> String {
    match figure {
        Figure::Count(number) => count(number),
        Figure::Bytes(number) => bytes(number),
        Figure::Percent(number) => number.map_or_else(|| "-".to_owned(), |number| format!("{number:.2}%")),
        Figure::Milliseconds(number) => number.map_or_else(|| "-".to_owned(), |number| format!("{number:.2}")),
    }
}

/// A figure, and its change against another window.
fn compared(column: &FigureColumn, figures: &Figures, before: &Figures) -> Cell {
    let (now, then) = ((column.of)(figures), (column.of)(before));
    let (text, tint) = match (now.value(), then.value()) {
        (Some(now), Some(then)) if now == then => ("=".to_owned(), Tint::Plain),
        (Some(now), Some(then)) => {
            let is_up = now > then;
            let change = match column.name {
                // A share of a share would not be understood.
                "error_rate_percent" => format!("{:.2} points", (now - then).abs()),
                _ if then == 0.0 => "new".to_owned(),
                _ => percent(((now - then) / then * 100.0).abs()),
            };
            let tint = match (column.is_bad, is_up) {
                (false, _) => Tint::Plain,
                (true, true) => Tint::Bad,
                (true, false) => Tint::Good,
            };
            (format!("{} {change}", if is_up { '▲' } else { '▼' }), tint)
        }
        (Some(_), None) => ("▲ new".to_owned(), Tint::Plain),
        (None, _) => (String::new(), Tint::Plain),
    };
    Cell { text: format!("{} {text}", shown(now)).trim_end().to_owned(), tint }
}

/// Small changes with a decimal, so that one is never shown as none.
fn percent(change: f64) -> String {
    if change < 0.1 {
        "<0.1%".to_owned()
    } else if change < 9.95 {
        format!("{change:.1}%")
    } else {
        format!("{change:.0}%")
    }
}

fn cell(column: &FigureColumn, figures: &Figures) -> Cell {
    let figure = (column.of)(figures);
    let is_error = column.name.starts_with("error") && figure.value().is_some_and(|value| value > 0.0);
    Cell { text: shown(figure), tint: if is_error { Tint::Bad } else { Tint::Plain } }
}

fn window_of(window: &Range<Minute>, zone: &Zone) -> String {
    format!("{} to {} {}", zone.minute(window.start), zone.minute(window.end), zone.name())
}

fn notes_of(notes: &[String], style: Style) -> String {
    notes.iter().map(|note| style.wrap(&format!("  {note}\n"), 4)).collect()
}

impl Usage {
    fn table(&self, style: Style) -> String {
        let title = if self.groups.is_empty() { "No requests" } else { "Requests" };
        let mut text = style.wrap(&format!("{title}: {}\n", window_of(&self.window, &self.zone)), 2);
        if let Some((window, _)) = &self.previous {
            text += &style.wrap(&format!("compared with {}\n", window_of(window, &self.zone)), 2);
        }
        text += &notes_of(&self.notes, style);
        if self.groups.is_empty() {
            return text;
        }
        text += &self.bars(style);
        text += &self.sheet().render(style);
        if self.left_out > 0 {
            let left_out = count(self.left_out as u64);
            text += &style.wrap(&format!("{left_out} more are counted in the total; --top shows more\n"), 2);
        }
        text
    }

    fn bars(&self, style: Style) -> String {
        let width = style.width.map_or(BARS, |width| width.saturating_sub(BESIDE_BARS).clamp(8, 120));
        let line = |title: &str, numbers: &[u64], tint: Tint| {
            let (bars, each, highest) = sparkline(numbers, width);
            let step = self.timeline.step.word();
            let per = if each == 1 { format!("one {step}") } else { format!("{each} {step}s") };
            let most = format!("at most {} in {per}\n", count(highest));
            let is_wide = |room: usize| title.len().max(8) + 1 + bars.chars().count() + most.chars().count() + 1 > room;
            let between = if style.width.is_some_and(is_wide) { "\n         " } else { "  " };
            format!("{title:<8} {}{between}{most}", style.paint(&bars, tint))
        };
        let mut text = line("requests", &self.timeline.requests, Tint::Plain);
        if self.timeline.errors.iter().any(|errors| *errors > 0) {
            text += &line("errors", &self.timeline.errors, Tint::Bad);
        }
        text
    }

    fn sheet(&self) -> Sheet {
        let is_shown = |column: &&FigureColumn| self.previous.is_none() || COMPARED.contains(&column.name);
        let figures: Vec<&FigureColumn> = COLUMNS.iter().filter(is_shown).collect();
        let labels = self.by.iter().map(|by| Column { title: by.word(), is_text: true, rank: 0 });
        let numbers =
            figures.iter().map(|column| Column { title: column.title, is_text: false, rank: rank(column.name) });
        let before = |before: Option<&Figures>| before.cloned().unwrap_or_default();
        let row = |labels: Vec<String>, of: &Figures, then: Option<&Figures>| -> Vec<Cell> {
            let cells = figures.iter().map(|column| match self.previous {
                Some(_) => compared(column, of, &before(then)),
                None => cell(column, of),
            });
            labels.into_iter().map(Cell::from).chain(cells).collect()
        };
        let mut rows: Vec<Vec<Cell>> = Vec::new();
        for group in &self.groups {
            let labels = group.labels.iter().map(|label| printable(&label.shown(&self.zone))).collect();
            rows.push(row(labels, &group.figures, group.before.as_ref()));
        }
        let mut total = vec![String::new(); self.by.len()];
        if let Some(first) = total.first_mut() {
            "total".clone_into(first);
        }
        rows.push(row(total, &self.totals, self.previous.as_ref().map(|(_, totals)| totals)));
        Sheet { columns: labels.chain(numbers).collect(), rows }
    }
}

impl Summary {
    fn table(&self, style: Style) -> String {
        let title = Column { title: "", is_text: true, rank: 0 };
        let frames = self.frames.iter().map(|(title, ..)| Column { title, is_text: false, rank: 0 });
        let row = |column: &FigureColumn| {
            let cells = self.frames.iter().map(|(_, _, figures)| cell(column, figures));
            [Cell::from(column.title.to_owned())].into_iter().chain(cells).collect()
        };
        let sheet =
            Sheet { columns: [title].into_iter().chain(frames).collect(), rows: COLUMNS.iter().map(row).collect() };
        let mut text = String::new();
        for (title, window, _) in &self.frames {
            text += &style.wrap(&format!("{title}: {}\n", window_of(window, &self.zone)), 2);
        }
        text += &notes_of(&self.notes, style);
        if style.width.is_none_or(|width| sheet.width() <= width) {
            return text + &sheet.render(style);
        }
        // None of the three may be missing, so they stand below each other.
        for (place, column) in sheet.columns.iter().enumerate().skip(1) {
            let rows = sheet.rows.iter().map(|row| vec![row[0].clone(), row[place].clone()]).collect();
            text += &Sheet { columns: vec![title, *column], rows }.render(style);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(name: &str, now: u64, then: u64) -> (String, Tint) {
        let column = COLUMNS.iter().find(|column| column.name == name).unwrap();
        let figures = |requests| {
            let sum =
                crate::analytics::usage::gather::Sum { numbers: [100, requests, 0, 0, 0, 0, 0], ..Default::default() };
            Figures::of(&sum)
        };
        let cell = compared(column, &figures(now), &figures(then));
        (cell.text, cell.tint)
    }

    #[test]
    fn changes_have_arrows() {
        assert_eq!(compare("errors", 6, 4), ("6 ▲ 50%".to_owned(), Tint::Bad));
        assert_eq!(compare("errors", 2, 4), ("2 ▼ 50%".to_owned(), Tint::Good));
        assert_eq!(compare("errors", 4, 4), ("4 =".to_owned(), Tint::Plain));
        assert_eq!(compare("errors", 4, 0), ("4 ▲ new".to_owned(), Tint::Bad));
        assert_eq!(compare("error_rate_percent", 6, 4), ("6.00% ▲ 2.00 points".to_owned(), Tint::Bad));
        assert_eq!(compare("requests", 6, 4), ("100 =".to_owned(), Tint::Plain));
    }
}
