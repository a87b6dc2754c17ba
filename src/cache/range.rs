//! Ranges of bytes (RFC 9110 section 14): what a request asks for of an answer that is stored in parts, and which part an
//! instance sent. One range at a time; anything that can't be read is no range. Not here: how parts are kept (`parts.rs`).

use std::ops::Range;

use http::HeaderMap;
use http::header::{CONTENT_RANGE, RANGE};

/// The range that a request asks for, before it is known of how many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// From the first byte to the last one; to the end where there is none.
    From(usize, Option<usize>),
    /// So many bytes at the end.
    Last(usize),
}

impl Wanted {
    /// Of a request with one `Range` field of one range.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut fields = headers.get_all(RANGE).iter();
        let (field, None) = (fields.next()?.to_str().ok()?, fields.next()) else { return None };
        let (unit, range) = field.split_once('=')?;
        let (first, last) = range.trim().split_once('-')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        match (first, last) {
            ("", last) => Some(Self::Last(number(last)?)),
            (first, "") => Some(Self::From(number(first)?, None)),
            (first, last) => Some(Self::From(number(first)?, Some(number(last)?))),
        }
    }

    /// Which bytes that are of so many; none where there are none.
    pub fn of_length(self, length: usize) -> Option<Range<usize>> {
        let range = match self {
            Self::From(first, last) => first..last.map_or(length, |last| last.saturating_add(1).min(length)),
            Self::Last(count) => length.saturating_sub(count)..length,
        };
        (!range.is_empty()).then_some(range)
    }
}

/// `Content-Range` of a 206: which bytes, of how many in all (RFC 9110 section 14.4). None where that is not told, or twice.
pub fn content_range(headers: &HeaderMap) -> Option<(Range<usize>, usize)> {
    let mut fields = headers.get_all(CONTENT_RANGE).iter();
    let (field, None) = (fields.next()?, fields.next()) else { return None };
    let (unit, rest) = field.to_str().ok()?.split_once(' ')?;
    let (range, length) = rest.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (range, length) = (number(first)?..number(last)?.checked_add(1)?, number(length)?);
    let is_possible = !range.is_empty() && range.end <= length && isize::try_from(length).is_ok();
    (unit.eq_ignore_ascii_case("bytes") && is_possible).then_some((range, length))
}

/// Digits and nothing else.
fn number(text: &str) -> Option<usize> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(lines: &[&str]) -> Option<Wanted> {
        Wanted::of(&lines.iter().map(|line| (RANGE, line.parse().unwrap())).collect())
    }

    #[test]
    fn what_a_request_asks_for() {
        let of_ten = |line: &str| wanted(&[line]).and_then(|wanted| wanted.of_length(10));
        assert_eq!(of_ten("bytes=2-4"), Some(2..5));
        assert_eq!(of_ten("BYTES=2-"), Some(2..10));
        assert_eq!(of_ten("bytes=-3"), Some(7..10));
        assert_eq!(of_ten("bytes=-30"), Some(0..10));
        assert_eq!(of_ten("bytes=2-99999999999999"), Some(2..10));
        for nothing in
            ["bytes=10-", "bytes=4-2", "bytes=-0", "bytes=", "bytes=-", "bytes=+1-2", "items=1-2", "1-2", "bytes=1-2-3"]
        {
            assert_eq!(of_ten(nothing), None, "{nothing}");
        }
        assert_eq!(wanted(&["bytes=1-2", "bytes=1-2"]), None);
        assert_eq!(wanted(&["bytes=1-2,4-5"]), None);
        assert_eq!(wanted(&["bytes=99999999999999999999-"]), None);
    }

    #[test]
    fn which_part_came() {
        let read_all =
            |lines: &[&str]| content_range(&lines.iter().map(|line| (CONTENT_RANGE, line.parse().unwrap())).collect());
        let read = |text: &str| read_all(&[text]);
        assert_eq!(read("bytes 2-4/10"), Some((2..5, 10)));
        assert_eq!(read_all(&["bytes 2-4/10", "bytes 3-5/10"]), None);
        assert_eq!(read("bytes 18446744073709551610-18446744073709551613/18446744073709551615"), None);
        for nothing in ["bytes 2-4/*", "bytes */10", "bytes 4-2/10", "bytes 2-10/10", "bytes=2-4/10", "items 2-4/10"] {
            assert_eq!(read(nothing), None, "{nothing}");
        }
    }
}
