//! Quantities as people write them: `30s`, `10mb`.
//! A number without a unit is refused, and so is a unit that can be read in two ways.

use std::fmt;
use std::time::Duration;

use super::text::text_form;

/// A length of time: `250ms`, `30s`, `5min`, `12h`, `30d`, `0s`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A number of bytes: `512b`, `64kb`, `10mb`, `2gb` (powers of 1024).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// A part of a whole: `50%`, `125%`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(pub u32);

text_form!(Percent, "a part in percent such as `50%`", r"^([0-9]+%|.*\$\{.+\}.*)$");
text_form!(
    Span,
    "a length of time such as `250ms`, `30s`, `5min`, `12h` or `30d`",
    r"^([0-9]+(ms|s|min|h|d|y)|.*\$\{.+\}.*)$"
);
text_form!(
    Size,
    "a number of bytes such as `512b`, `64kb`, `10mb` or `2gb` (powers of 1024)",
    r"^([0-9]+(b|kb|mb|gb|tb)|.*\$\{.+\}.*)$"
);

/// No span is longer, so that adding one to a point in time cannot overflow.
const SPAN_MAX: Duration = Duration::from_secs(10 * 366 * 86_400);

const SPANS: &[(&str, u64)] =
    &[("y", 365 * 86_400_000), ("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];
const SIZES: &[(&str, u64)] = &[("tb", 1 << 40), ("gb", 1 << 30), ("mb", 1 << 20), ("kb", 1 << 10), ("b", 1)];

impl Span {
    /// So many seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Whether it is no time at all.
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }

    /// Reads `30s`.
    ///
    /// # Errors
    /// What is wrong with the text, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text);
        let wrong = |hint: &str| Err(format!("`{text}` is no length of time: {hint}"));
        if number.is_empty() {
            return wrong("write a number and a unit, such as 250ms, 30s, 5min, 12h or 30d");
        }
        let Some((_, milliseconds)) = SPANS.iter().find(|(name, _)| *name == unit) else {
            return match unit {
                "" => wrong(&format!("the unit is missing; seconds are written {number}s")),
                "m" | "M" => wrong(&format!("`m` may be minutes or months; minutes are written {number}min")),
                "sec" | "secs" | "second" | "seconds" | "S" => wrong(&format!("write {number}s")),
                "minute" | "minutes" | "mins" => wrong(&format!("write {number}min")),
                "hour" | "hours" | "hr" | "H" => wrong(&format!("write {number}h")),
                "day" | "days" | "D" => wrong(&format!("write {number}d")),
                "year" | "years" | "Y" => wrong(&format!("write {number}y")),
                _ if unit.starts_with(['.', ',']) => wrong("whole numbers only; half a second is 500ms"),
                _ => wrong("the units are ms, s, min, h, d and y"),
            };
        };
        match number.parse::<u64>().ok().and_then(|number| number.checked_mul(*milliseconds)).map(Duration::from_millis)
        {
            Some(span) if span <= SPAN_MAX => Ok(Self(span)),
            _ => wrong("longer than ten years"),
        }
    }
}

impl Size {
    /// Reads `10mb`.
    ///
    /// # Errors
    /// What is wrong with the text, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text);
        let wrong = |hint: &str| Err(format!("`{text}` is no number of bytes: {hint}"));
        if number.is_empty() {
            return wrong("write a number and a unit, such as 512b, 64kb, 10mb or 2gb (powers of 1024)");
        }
        let Some((_, bytes)) = SIZES.iter().find(|(name, _)| *name == unit) else {
            let lower = unit.to_ascii_lowercase().replace('i', "");
            return match lower.as_str() {
                "" => wrong(&format!("the unit is missing; bytes are written {number}b")),
                "b" => wrong(&format!("write {number}b")),
                "kb" | "mb" | "gb" | "tb" => wrong(&format!("write {number}{lower} (a power of 1024)")),
                "k" | "m" | "g" | "t" => wrong(&format!("write {number}{lower}b (a power of 1024)")),
                _ if unit.starts_with(['.', ',']) => wrong("whole numbers only; half a megabyte is 512kb"),
                _ => wrong("the units are b, kb, mb, gb and tb (powers of 1024)"),
            };
        };
        match number.parse::<u64>().ok().and_then(|number| number.checked_mul(*bytes)) {
            Some(size) => Ok(Self(size)),
            None => wrong("too large"),
        }
    }
}

impl Percent {
    /// No part is larger.
    const MAX: u32 = 10_000;

    /// Reads `50%`.
    ///
    /// # Errors
    /// What is wrong with the text, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text);
        match (number.parse(), unit) {
            (Ok(percent), "%") if percent <= Self::MAX => Ok(Self(percent)),
            (Ok(_), "%") => Err(format!("`{text}` is more than {}%", Self::MAX)),
            (Ok(_), "") => Err(format!("`{text}`: the unit is missing: percent are written {number}%")),
            _ => Err(format!("`{text}` is no part in percent: write a whole number and %, such as 50%")),
        }
    }

    /// This part of `whole`, rounded down.
    pub const fn of(self, whole: usize) -> usize {
        whole * self.0 as usize / 100
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}%", self.0)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        write_exact(out, milliseconds, SPANS, "0s")
    }
}

impl fmt::Display for Size {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_exact(out, self.0, SIZES, "0b")
    }
}

/// The largest unit that divides the number.
fn write_exact(out: &mut fmt::Formatter<'_>, number: u64, units: &[(&str, u64)], zero: &str) -> fmt::Result {
    match units.iter().find(|(_, size)| number != 0 && number.is_multiple_of(*size)) {
        Some((unit, size)) => write!(out, "{}{unit}", number / size),
        None => out.write_str(zero),
    }
}

/// The digits at the beginning, and the rest.
pub fn split(text: &str) -> (&str, &str) {
    let end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(text: &str) -> String {
        Span::parse(text).map_or_else(|error| error, |span| span.to_string())
    }
    fn size(text: &str) -> String {
        Size::parse(text).map_or_else(|error| error, |size| size.to_string())
    }

    #[test]
    fn spans_are_read_and_written_with_their_units() {
        for text in ["250ms", "30s", "5min", "12h", "30d", "0s", "1500ms"] {
            assert_eq!(span(text), text);
        }
        assert_eq!(span("90s"), "90s");
        assert_eq!(span("120s"), "2min");
        assert!(span("5m").contains("write 5min") || span("5m").contains("written 5min"));
        assert!(span("30").contains("30s"));
        assert!(span("1.5s").contains("whole numbers"));
        assert!(span("99999999999999999999s").contains("ten years"));
        assert!(span("-1s").contains("write a number"));
    }

    #[test]
    fn sizes_are_powers_of_1024_in_lower_case() {
        assert_eq!(Size::parse("64kb"), Ok(Size(65_536)));
        assert_eq!(size("1024kb"), "1mb");
        assert!(size("10MB").contains("write 10mb"));
        assert!(size("10MiB").contains("write 10mb"));
        assert!(size("10").contains("10b"));
        assert!(size("10m").contains("write 10mb"));
    }

    #[test]
    fn parts_are_whole_percent() {
        assert_eq!(Percent::parse("125%"), Ok(Percent(125)));
        assert_eq!((Percent(50).of(3), Percent(100).of(3)), (1, 3));
        for (wrong, hint) in [("50", "50%"), ("0.5", "50%"), ("1.25", "50%"), ("10001%", "10000%"), ("", "50%")] {
            assert!(Percent::parse(wrong).unwrap_err().contains(hint), "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read_again(number in 0u64..u64::MAX / 2, milliseconds in 0u64..300_000_000_000) {
            proptest::prop_assert_eq!(Size::parse(&Size(number).to_string()), Ok(Size(number)));
            let span = Span(Duration::from_millis(milliseconds));
            proptest::prop_assert_eq!(Span::parse(&span.to_string()), Ok(span));
        }
    }
}
