//! A sheet: columns and rows as a table for the terminal. It fits the width, whatever that is: long text is cut first, then the
//! columns that matter least are left out, and the last line says which. Without a terminal it is as wide as it needs to be,
//! without colours. Lines beside tables are wrapped. The only file that knows comfy-table.

use comfy_table::{Cell as TableCell, CellAlignment, Color, ContentArrangement, Table, presets};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// What is done for want of width, one after the other: text is cut to so many letters, then columns with a rank below this
/// are left out.
const STEPS: [(usize, u8); 2] = [(TEXT_WIDTH_MIN, NEEDED), (TEXT_WIDTH_LEAST, u8::MAX)];

/// A text column is cut to this before others are left out.
const TEXT_WIDTH_MIN: usize = 16;

/// It is cut to this before needed ones are left out.
const TEXT_WIDTH_LEAST: usize = 8;

/// The lowest rank of columns that are left out only when text is cut to the least that can be read.
pub(super) const NEEDED: u8 = 100;

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
        // None when it is no terminal; 0 when it does not know its size.
        let width = Table::new().width().map(usize::from).filter(|width| *width > 0);
        let is_wanted = |name: &str, not: &str| std::env::var_os(name).is_none_or(|value| value == not);
        Self { width, colours: width.is_some() && is_wanted("NO_COLOR", "") && !is_wanted("TERM", "dumb") }
    }

    /// Lines no longer than the terminal is wide: what does not fit goes on in the next line, behind `indent` blanks. Broken at
    /// blanks; a word that is longer than a line is broken anywhere. Without a terminal as they are.
    pub fn wrap(self, text: &str, indent: usize) -> String {
        let Some(width) = self.width else { return text.to_owned() };
        // On a terminal of a few columns nothing is left for words behind blanks.
        let indent = if indent * 2 > width { 0 } else { indent };
        let mut wrapped = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            let mut rest: Vec<char> = line.chars().collect();
            let mut begin = 0;
            while rest.iter().filter(|letter| **letter != '\n').count() > width {
                let blank = (begin + 1..=width).rev().find(|place| rest[*place] == ' ');
                let at = blank.filter(|at| rest[begin..*at].iter().any(|letter| *letter != ' ')).unwrap_or(width);
                let end: String = rest[..at].iter().collect();
                wrapped += end.trim_end();
                wrapped.push('\n');
                let left = rest[at..].iter().skip_while(|letter| **letter == ' ');
                rest = std::iter::repeat_n(&' ', indent).chain(left).copied().collect();
                begin = indent;
            }
            wrapped.extend(rest);
        }
        wrapped
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
    /// Those with the lowest are left out first; 0 stays as long as anything fits.
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
            Some(width) => self.fit(&natural, width),
            None => ((0..self.columns.len()).collect(), natural),
        };
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN).set_content_arrangement(ContentArrangement::Disabled);
        if style.colours {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(shown.iter().map(|place| cut_text(self.columns[*place].title, widths[*place])));
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
            text += &style.wrap(&format!("not shown for want of width: {}\n", hidden.join(", ")), 2);
        }
        text
    }

    fn width_of(&self, place: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(place)).map(|cell| cell.text.width());
        cells.chain([self.columns[place].title.width()]).max().unwrap_or_default()
    }

    /// Columns that an untouched table is wide.
    pub(super) fn width(&self) -> usize {
        framed((0..self.columns.len()).map(|place| self.width_of(place)))
    }

    /// Which columns are shown, and the width of each.
    fn fit(&self, natural: &[usize], width: usize) -> (Vec<usize>, Vec<usize>) {
        let mut shown: Vec<usize> = (0..self.columns.len()).collect();
        let mut widths = natural.to_vec();
        for (text_min, rank_max) in STEPS {
            while !self.cut(&mut widths, natural, &shown, text_min, width) {
                let ranked = shown.iter().filter(|place| (1..rank_max).contains(&self.columns[**place].rank));
                let Some(least) = ranked.min_by_key(|place| self.columns[**place].rank).copied() else { break };
                shown.retain(|place| *place != least);
            }
        }
        // Nothing else is left: one column after the other from the end, text before numbers, as long as there is another.
        while !self.cut(&mut widths, natural, &shown, TEXT_WIDTH_LEAST, width) {
            let last = |is_text: bool| shown.iter().skip(1).rfind(|place| self.columns[**place].is_text == is_text);
            let Some(last) = last(true).or_else(|| last(false)).copied() else {
                self.cut(&mut widths, natural, &shown, 1, width);
                break;
            };
            shown.retain(|place| *place != last);
        }
        (shown, widths)
    }

    /// Cuts the widest text again and again, to `text_min` at least; whether the shown columns fit then.
    fn cut(&self, widths: &mut [usize], natural: &[usize], shown: &[usize], text_min: usize, width: usize) -> bool {
        widths.copy_from_slice(natural);
        while framed(shown.iter().map(|place| widths[*place])) > width {
            let can_be_cut = |place: &&usize| self.columns[**place].is_text && widths[**place] > text_min;
            let Some(widest) = shown.iter().filter(can_be_cut).max_by_key(|place| widths[**place]).copied() else {
                return false;
            };
            widths[widest] -= 1;
        }
        true
    }
}

/// A table with columns of these widths: each has a border and two blanks, and there is one more border.
fn framed(widths: impl Iterator<Item = usize>) -> usize {
    widths.map(|width| width + 3).sum::<usize>() + 1
}

/// Text that is longer is cut, which is seen. Columns of the terminal are counted: some letters take two.
fn cut_text(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut used = 1;
    let fits = |letter: &char| {
        used += letter.width().unwrap_or_default();
        used <= width
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

fn shown_cell(cell: &Cell, width: usize) -> TableCell {
    let shown = TableCell::new(cut_text(&cell.text, width));
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
    fn a_sheet_fits_any_width() {
        let long = || Cell::from("x".repeat(50));
        let titles = ["a", "b", "number", "d", "e"];
        let columns = titles.into_iter().map(|title| column(title, title != "number", 0)).collect();
        let sheet = Sheet { columns, rows: vec![vec![long(), long(), "1,234,567".to_owned().into(), long(), long()]] };
        for (width, left) in [(57, 5), (56, 4), (46, 4), (45, 3), (34, 2), (23, 1), (5, 1)] {
            let text = sheet.render(Style { width: Some(width), colours: false });
            let table: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
            assert!(table.iter().all(|line| line.chars().count() <= width), "{width}:\n{text}");
            assert_eq!(table[0].matches('|').count() - 1, left, "{width}:\n{text}");
        }
    }

    #[test]
    fn letters_that_take_two_columns_are_counted_so() {
        let wide = "漢".repeat(30);
        let columns = vec![column("path", true, 0), column("requests", false, 0)];
        let sheet = Sheet { columns, rows: vec![vec![wide.clone().into(), "1".to_owned().into()]] };
        for (width, is_cut) in [(40, true), (74, true), (75, false)] {
            let text = sheet.render(Style { width: Some(width), colours: false });
            assert!(text.lines().all(|line| line.width() <= width), "{width}:\n{text}");
            assert_eq!(text.contains('…'), is_cut, "{width}:\n{text}");
            assert!(text.contains("requests") && !text.contains("want of width"), "{width}:\n{text}");
        }
        assert!(sheet.render(Style::default()).contains(&wide));
    }

    #[test]
    fn lines_are_wrapped_at_blanks() {
        let style = |width| Style { width: Some(width), colours: false };
        assert_eq!(style(20).wrap("  a note that is long\nshort\n", 4), "  a note that is\n    long\nshort\n");
        assert_eq!(style(10).wrap("name   12  some words", 2), "name   12\n  some\n  words");
        assert_eq!(style(10).wrap("0123456789abcdefghijklm n\n", 2), "0123456789\n  abcdefgh\n  ijklm n\n");
        assert_eq!(style(10).wrap("0123456789\n\n", 2), "0123456789\n\n");
        assert_eq!(style(3).wrap("ab cd\n", 2), "ab\ncd\n");
        assert_eq!(Style::default().wrap("  a note that is long\n", 4), "  a note that is long\n");
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
