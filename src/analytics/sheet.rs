//! A sheet: columns and rows as a table for the terminal. It fits the width: long text is cut first, then the columns that
//! matter least are left out, and the last line says which. Without a terminal it is as wide as it needs to be, without colours.
//! The only file that knows comfy-table.

use comfy_table::{Cell as TableCell, CellAlignment, Color, ContentArrangement, Table, presets};

/// A text column is cut to this before others are left out.
const TEXT_WIDTH_MIN: usize = 16;

/// How a terminal wants it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Columns of the terminal; none where there is none.
    pub width: Option<usize>,
    /// Whether colours are shown.
    pub colours: bool,
}

impl Style {
    /// That of this program's output.
    pub fn of_stdout() -> Self {
        // None when it is no terminal.
        let width = Table::new().width().map(usize::from);
        let is_wanted = |name: &str, not: &str| std::env::var_os(name).is_none_or(|value| value == not);
        Self { width, colours: width.is_some() && is_wanted("NO_COLOR", "") && !is_wanted("TERM", "dumb") }
    }

    /// Text in a colour.
    pub(super) fn paint(self, text: &str, tint: Tint) -> String {
        let code = match tint {
            Tint::Plain => return text.to_owned(),
            Tint::Good => 32,
            Tint::Bad => 31,
        };
        if self.colours { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// What a text says of what it shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tint {
    #[default]
    Plain,
    Good,
    Bad,
}

/// What stands in one place.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) tint: Tint,
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self { text, tint: Tint::Plain }
    }
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) title: &'static str,
    /// Text can be cut and stands left; numbers can't and stand right.
    pub(super) is_text: bool,
    /// Those with the lowest are left out first; 0 is never left out.
    pub(super) rank: u8,
}

pub(super) const fn column(title: &'static str, is_text: bool, rank: u8) -> Column {
    Column { title, is_text, rank }
}

/// Columns and rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Sheet {
    pub(super) columns: Vec<Column>,
    pub(super) rows: Vec<Vec<Cell>>,
}

impl Sheet {
    /// The table, and a line for what did not fit.
    pub(super) fn render(&self, style: Style) -> String {
        let natural: Vec<usize> = (0..self.columns.len()).map(|place| self.width_of(place)).collect();
        let (shown, widths) = match style.width {
            Some(width) => self.fit(natural, width),
            None => ((0..self.columns.len()).collect(), natural),
        };
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
        if style.colours {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(shown.iter().map(|place| self.columns[*place].title));
        for row in &self.rows {
            let cell = |place: &usize| {
                row.get(*place).map_or_else(|| TableCell::new(""), |cell| shown_cell(cell, widths[*place]))
            };
            table.add_row(shown.iter().map(cell));
        }
        for (column, place) in table.column_iter_mut().zip(&shown) {
            if !self.columns[*place].is_text {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        // The style pads every line to the table's width; nobody needs blanks at the end of a line in a file.
        let mut text: String = table.lines().map(|line| line.trim_end().to_owned() + "\n").collect();
        let hidden = |(place, _): &(usize, &Column)| !shown.contains(place);
        let hidden: Vec<&str> =
            self.columns.iter().enumerate().filter(hidden).map(|(_, column)| column.title).collect();
        if !hidden.is_empty() {
            text += &listed("not shown for want of width:", &hidden, style.width);
        }
        text
    }

    fn width_of(&self, place: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(place)).map(|cell| cell.text.chars().count());
        cells.chain([self.columns[place].title.chars().count()]).max().unwrap_or_default()
    }

    /// Which columns are shown, and the width of each.
    fn fit(&self, mut widths: Vec<usize>, width: usize) -> (Vec<usize>, Vec<usize>) {
        let mut shown: Vec<usize> = (0..self.columns.len()).collect();
        loop {
            // Each column has a border and two blanks, and there is one more border.
            let needed = |widths: &[usize]| shown.iter().map(|place| widths[*place] + 3).sum::<usize>() + 1;
            let mut cut = widths.clone();
            while needed(&cut) > width {
                let can_be_cut = |place: &&usize| self.columns[**place].is_text && cut[**place] > TEXT_WIDTH_MIN;
                let Some(widest) = shown.iter().filter(can_be_cut).max_by_key(|place| cut[**place]).copied() else {
                    break;
                };
                cut[widest] -= 1;
            }
            if needed(&cut) <= width {
                return (shown, cut);
            }
            let least = shown.iter().filter(|place| self.columns[**place].rank > 0);
            let Some(least) = least.min_by_key(|place| self.columns[**place].rank).copied() else {
                widths = cut;
                return (shown, widths);
            };
            shown.retain(|place| *place != least);
        }
    }
}

/// Words behind each other; what does not fit goes on in the next line.
fn listed(title: &str, words: &[&str], width: Option<usize>) -> String {
    let (mut text, mut used) = (title.to_owned(), title.len());
    for (place, word) in words.iter().enumerate() {
        let word = format!(" {word}{}", if place + 1 < words.len() { "," } else { "" });
        if width.is_some_and(|width| used + word.len() > width) {
            text += "\n ";
            used = 1;
        }
        used += word.len();
        text += &word;
    }
    text + "\n"
}

fn shown_cell(cell: &Cell, width: usize) -> TableCell {
    let mut text = cell.text.clone();
    if text.chars().count() > width {
        text = text.chars().take(width.saturating_sub(1)).chain(['…']).collect();
    }
    let shown = TableCell::new(text);
    match cell.tint {
        Tint::Plain => shown,
        Tint::Good => shown.fg(Color::DarkGreen),
        Tint::Bad => shown.fg(Color::DarkRed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sheet() -> Sheet {
        Sheet {
            columns: vec![column("endpoint", true, 0), column("requests", false, 0), column("bytes", false, 1)],
            rows: vec![vec!["/a/very/long/path/that/goes/on".to_owned().into(), "1".to_owned().into()]],
        }
    }

    #[test]
    fn a_sheet_fits_the_width() {
        let wide = sheet().render(Style::default());
        assert!(wide.contains("/a/very/long/path/that/goes/on") && !wide.contains("want of width"), "{wide}");
        let cut = sheet().render(Style { width: Some(50), colours: false });
        assert!(cut.contains('…') && cut.contains("bytes"), "{cut}");
        let narrow = sheet().render(Style { width: Some(32), colours: false });
        assert!(narrow.contains("not shown for want of width:\n  bytes\n"), "{narrow}");
        for (text, width) in [(cut, 50), (narrow, 32)] {
            let table = text.lines().filter(|line| line.starts_with('|'));
            assert!(table.clone().count() > 2 && table.clone().all(|line| line.chars().count() <= width), "{text}");
        }
    }

    #[test]
    fn colours_are_only_where_they_are_wanted() {
        let mut sheet = sheet();
        sheet.rows[0][0].tint = Tint::Bad;
        assert!(!sheet.render(Style::default()).contains('\u{1b}'));
        assert!(sheet.render(Style { width: Some(80), colours: true }).contains('\u{1b}'));
        assert_eq!(Style::default().paint("x", Tint::Good), "x");
    }
}
