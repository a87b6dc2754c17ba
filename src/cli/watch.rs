//! A table that is asked for again and again and drawn in the same place, until Ctrl-C; never higher than the terminal, so that
//! nothing scrolls away and the terminal is left as it was. Not here: what the table says.

use std::io::Write;
use std::time::Duration;

use jiff::Timestamp;

use super::questions::Failure;
use crate::analytics::Style;

/// Everything is erased once; then each line is drawn over the last, so that nothing flickers.
const ERASE: &str = "\u{1b}[2J";

/// Ends by Ctrl-C, when the first answer fails, or when there is nothing to draw on any more. A later failure is shown below the
/// last answer: a store may come back.
pub(super) fn draw(every: Duration, mut ask: impl FnMut() -> Result<String, Failure>) -> Failure {
    let (mut begin, mut last) = (ERASE, String::new());
    loop {
        let failed = match ask() {
            Ok(text) => {
                last = text;
                None
            }
            Err(Failure::Log(why)) if !last.is_empty() => Some(why),
            Err(failure) => return failure,
        };
        let now = Timestamp::now().strftime("%Y-%m-%d %H:%M:%S UTC");
        let note = match failed {
            None => format!("{now}, again every {} s; Ctrl-C ends", every.as_secs()),
            Some(why) => format!("{now}: {}; tried again every {} s", why.replace('\n', " "), every.as_secs()),
        };
        let note = Style::of_stdout().wrap(&note, 2);
        let rows = terminal_size::terminal_size().map(|(_, rows)| usize::from(rows.0));
        let drawn = format!("{begin}\u{1b}[H{}\u{1b}[J", frame(&last, &note, rows).replace('\n', "\u{1b}[K\n"));
        let mut out = std::io::stdout().lock();
        if let Err(error) = out.write_all(drawn.as_bytes()).and_then(|()| out.flush()) {
            return Failure::Log(format!("cannot write: {error}"));
        }
        drop(out);
        begin = "";
        std::thread::sleep(every);
    }
}

/// What fits, with a note below it, and a line for the cursor. Where the terminal has no size everything fits.
fn frame(text: &str, note: &str, rows: Option<usize>) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let below = note.lines().count() + 1;
    let room = rows.filter(|rows| *rows > 0).map_or(lines.len(), |rows| rows.saturating_sub(below));
    // The line that says so needs one, too.
    let shown = if lines.len() <= room { lines.len() } else { room.saturating_sub(1) };
    let mut frame: String = lines[..shown].iter().map(|line| format!("{line}\n")).collect();
    if shown < lines.len() {
        frame += &format!("{} more lines do not fit: --top has fewer\n", lines.len() - shown);
    }
    frame + note + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_leaves_the_last_line_to_the_cursor() {
        for (rows, expected) in [
            (None, "a\nb\nc\nnote\n"),
            (Some(0), "a\nb\nc\nnote\n"),
            (Some(5), "a\nb\nc\nnote\n"),
            (Some(4), "a\n2 more lines do not fit: --top has fewer\nnote\n"),
            (Some(1), "3 more lines do not fit: --top has fewer\nnote\n"),
        ] {
            assert_eq!(frame("a\nb\nc\n", "note", rows), expected, "{rows:?}");
        }
        assert_eq!(frame("a\nb\nc\n", "no\n  te", Some(5)), "a\n2 more lines do not fit: --top has fewer\nno\n  te\n");
    }
}
