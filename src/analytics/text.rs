//! Text for people and spreadsheets: numbers with units, bars, and what clients made, so that it can steer neither a terminal
//! nor a spreadsheet. Not here: which columns there are.

use crate::words::plural;

/// The bars of a sparkline; the first is nothing.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Marks that turn the direction of writing, or that nobody sees: they make one text look like another. What Unicode 17 lists as
/// `Default_Ignorable_Code_Point` and `Bidi_Control`, the ends of lines and paragraphs, and the marks of formats that are drawn
/// as nothing (`Cf`).
fn is_hidden(letter: char) -> bool {
    matches!(
        letter,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Text from the log, with everything a terminal acts on, or hides, written as its code.
pub fn printable(text: &str) -> String {
    let mut printable = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() || is_hidden(letter) {
            printable.extend(letter.escape_unicode());
        } else {
            printable.push(letter);
        }
    }
    printable
}

/// The same JSON, which a terminal can show: what JSON need not escape, but a terminal acts on or hides, is escaped
/// (RFC 8259 section 7). Outside of strings JSON has none of it.
pub fn printable_json(json: &str) -> String {
    let mut printable = String::with_capacity(json.len());
    for letter in json.chars() {
        // The controls below are escaped already, or stand between values.
        if matches!(letter, '\u{7f}'..='\u{9f}') || is_hidden(letter) {
            let mut units = [0; 2];
            printable.extend(letter.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            printable.push(letter);
        }
    }
    printable
}

/// A cell of a CSV file (RFC 4180). What a spreadsheet would take for a formula is marked as text.
pub(super) fn csv(text: &str) -> String {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']);
    if !is_formula && !text.contains([',', '"', '\n', '\r']) {
        return text.to_owned();
    }
    format!("\"{}{}\"", if is_formula { "'" } else { "" }, text.replace('"', "\"\""))
}

/// `1,234,567`
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 answer`, `1,234 answers`
pub(super) fn counted(number: u64, thing: &str) -> String {
    format!("{} {}", count(number), plural(number, thing))
}

/// `1.2 MiB`: powers of 1024, as in the configuration.
pub(super) fn bytes(number: u64) -> String {
    let mut rest = number as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    for larger in units {
        // 1023.96 would be written as 1024.0.
        if rest < 1_023.95 {
            break;
        }
        rest /= 1_024.0;
        unit = larger;
    }
    if unit == "B" { format!("{number} B") } else { format!("{rest:.1} {unit}") }
}

/// At most `width` bars for some numbers, and how many numbers each bar is the sum of.
pub(super) fn sparkline(numbers: &[u64], width: usize) -> (String, usize, u64) {
    let each = numbers.len().div_ceil(width.max(1)).max(1);
    let sums: Vec<u64> =
        numbers.chunks(each).map(|part| part.iter().fold(0_u64, |sum, more| sum.saturating_add(*more))).collect();
    let highest = sums.iter().copied().max().unwrap_or_default();
    let bar = |sum: &u64| {
        let height = (u128::from(*sum) * (BARS.len() as u128 - 1)).div_ceil(u128::from(highest.max(1)));
        BARS[usize::try_from(height).unwrap_or_default().min(BARS.len() - 1)]
    };
    (sums.iter().map(bar).collect(), each, highest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_can_not_steer_the_terminal() {
        assert_eq!(printable("/ä\u{1b}[2J\n"), "/ä\\u{1b}[2J\\u{a}");
        for letter in [
            '\u{ad}',
            '\u{34f}',
            '\u{115f}',
            '\u{17b4}',
            '\u{180e}',
            '\u{2066}',
            '\u{3164}',
            '\u{fe0f}',
            '\u{ffa0}',
            '\u{fff9}',
            '\u{1bca0}',
            '\u{1d173}',
            '\u{e0001}',
            '\u{e0100}',
            '\u{e01ef}',
        ] {
            assert_eq!(printable(&letter.to_string()), letter.escape_unicode().to_string());
        }
        assert_eq!(printable("ä😀한字 "), "ä😀한字 ");
        assert_eq!(printable("a\u{202e}b\u{200b}\u{9b}\u{7f}"), "a\\u{202e}b\\u{200b}\\u{9b}\\u{7f}");
    }

    #[test]
    fn a_spreadsheet_takes_text_for_text() {
        for (text, cell) in [
            ("/a", "/a"),
            ("a,b", "\"a,b\""),
            ("a\"b", "\"a\"\"b\""),
            ("=1+1", "\"'=1+1\""),
            ("+1", "\"'+1\""),
            ("-1", "\"'-1\""),
            ("@x", "\"'@x\""),
            ("\t=1", "\"'\t=1\""),
            ("\r\n", "\"'\r\n\""),
            ("", ""),
        ] {
            assert_eq!(csv(text), cell, "{text:?}");
        }
    }

    #[test]
    fn numbers_have_separators_and_units() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        let written = ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "1.5 MiB", "256.0 MiB"];
        assert_eq!([0, 1_023, 1_024, (1 << 20) - 10, 3 << 19, 256 << 20].map(bytes), written);
    }

    #[test]
    fn bars_fit_the_width() {
        assert_eq!(sparkline(&[0, 1, 50, 100], 10), ("▁▂▅█".to_owned(), 1, 100));
        assert_eq!(sparkline(&[1, 1, 2, 2, 9], 3), ("▃▅█".to_owned(), 2, 9));
        assert_eq!(sparkline(&[0, 0], 3).0, "▁▁");
        assert_eq!(sparkline(&[], 3).0, "");
        assert_eq!(sparkline(&[u64::MAX, u64::MAX], 1).2, u64::MAX);
    }
}
