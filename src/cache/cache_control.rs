//! `Cache-Control` of an answer, read once into plain facts (RFC 9111 section 5.2.2).
//! Not here: what the facts mean for storing and freshness (`freshness.rs`).
//! What cannot be read is read as the directive that forbids more: a broken number is `Invalid`, never absent,
//! and a quoted string that does not end counts as `no-store`.

use http::HeaderMap;
use http::header::{CACHE_CONTROL, PRAGMA};

/// Numbers of seconds above this mean "forever" (RFC 9111 section 1.2.2).
const SECONDS_MAX: u64 = 1 << 31;

/// The directives that a shared cache obeys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// Not stored at all.
    pub no_store: bool,
    /// Not stored by a shared cache; the qualified form counts as the plain one.
    pub private: bool,
    /// Confirmed by the upstream before every use; the qualified form counts as the plain one.
    pub no_cache: bool,
    /// May be stored although the request carried `Authorization`.
    pub public: bool,
    /// Never used when stale; also allows storing although the request carried `Authorization`.
    pub must_revalidate: bool,
    /// Stored only where the status code is understood.
    pub must_understand: bool,
    /// Freshness for shared caches.
    pub s_maxage: Seconds,
    /// Freshness for all caches.
    pub max_age: Seconds,
}

/// The value of a directive that counts seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Seconds {
    /// The directive is not there.
    #[default]
    Unsaid,
    /// So many seconds.
    Said(u64),
    /// There, but not a number, or there twice with different numbers.
    Invalid,
}

impl Directives {
    /// Reads every `Cache-Control` line; without any, `Pragma: no-cache` counts as `no-cache`.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut directives = Self::default();
        let mut lines = headers.get_all(CACHE_CONTROL).iter().peekable();
        if lines.peek().is_none() {
            directives.no_cache = headers.get_all(PRAGMA).iter().any(|line| names(line.as_bytes(), b"no-cache"));
        }
        for line in lines {
            directives.read(line.as_bytes());
        }
        directives
    }

    fn read(&mut self, line: &[u8]) {
        let complete = each_member(line, |name, value| match name.to_ascii_lowercase().as_slice() {
            b"no-store" => self.no_store = true,
            b"private" => self.private = true,
            b"no-cache" => self.no_cache = true,
            b"public" => self.public = true,
            b"must-revalidate" => self.must_revalidate = true,
            b"must-understand" => self.must_understand = true,
            b"s-maxage" => self.s_maxage = self.s_maxage.and(value),
            b"max-age" => self.max_age = self.max_age.and(value),
            _ => {}
        });
        if !complete {
            // What follows the open quote may have been `no-store`.
            self.no_store = true;
        }
    }
}

impl Seconds {
    fn and(self, value: Option<&[u8]>) -> Self {
        let said = value.and_then(parse_seconds);
        match (self, said) {
            (Self::Unsaid, Some(seconds)) => Self::Said(seconds),
            (Self::Said(before), Some(seconds)) if before == seconds => self,
            _ => Self::Invalid,
        }
    }
}

/// Whether a line of a list field (`Cache-Control`, `Pragma`) has this member, in lower case.
pub fn names(line: &[u8], wanted: &[u8]) -> bool {
    let mut found = false;
    each_member(line, |name, _| found |= name.eq_ignore_ascii_case(wanted));
    found
}

/// Digits only: `delta-seconds` of RFC 9111 section 1.2.2, also as a quoted string.
pub fn parse_seconds(value: &[u8]) -> Option<u64> {
    let value = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value);
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = value.iter().fold(0_u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0')));
    Some(seconds.min(SECONDS_MAX))
}

/// Calls back with name and value of each member; false where a quoted string does not end.
/// White space around `=` is kept in the value, so that it is an invalid number.
fn each_member<'a>(line: &'a [u8], mut member: impl FnMut(&'a [u8], Option<&'a [u8]>)) -> bool {
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (at, byte) in line.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => {
                split_member(&line[start..at], &mut member);
                start = at + 1;
            }
            _ => {}
        }
    }
    split_member(&line[start..], &mut member);
    !quoted
}

fn split_member<'a>(text: &'a [u8], member: &mut impl FnMut(&'a [u8], Option<&'a [u8]>)) {
    let text = text.trim_ascii();
    if text.is_empty() {
        return;
    }
    match text.iter().position(|byte| *byte == b'=') {
        None => member(text, None),
        Some(at) if text[..at].ends_with(b" ") || text[..at].ends_with(b"\t") => {
            member(text[..at].trim_ascii(), Some(b"white space before ="));
        }
        Some(at) => member(&text[..at], Some(&text[at + 1..])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Directives {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CACHE_CONTROL, line.parse().unwrap());
        }
        Directives::of(&headers)
    }

    #[test]
    fn names_are_read_in_any_case_and_over_several_lines() {
        let directives = read(&["Max-Age=10, PUBLIC", "s-maxage=20"]);
        assert_eq!((directives.max_age, directives.s_maxage), (Seconds::Said(10), Seconds::Said(20)));
        assert!(directives.public);
    }

    #[test]
    fn numbers() {
        let cases = [
            ("max-age=0", Seconds::Said(0)),
            ("max-age=\"7\"", Seconds::Said(7)),
            ("max-age=99999999999999999999999", Seconds::Said(SECONDS_MAX)),
            ("max-age=-1", Seconds::Invalid),
            ("max-age=1.5", Seconds::Invalid),
            ("max-age='7'", Seconds::Invalid),
            ("max-age =7", Seconds::Invalid),
            ("max-age= 7", Seconds::Invalid),
            ("max-age", Seconds::Invalid),
            ("max-age=7, max-age=7", Seconds::Said(7)),
            ("max-age=7, max-age=8", Seconds::Invalid),
            ("x-max-age=7", Seconds::Unsaid),
            ("extension=\"max-age=7\"", Seconds::Unsaid),
        ];
        for (line, seconds) in cases {
            assert_eq!(read(&[line]).max_age, seconds, "{line}");
        }
    }

    #[test]
    fn qualified_forms_count_as_plain_ones() {
        assert!(read(&["private=\"set-cookie, x\", max-age=1"]).private);
        assert!(read(&["no-cache=\"set-cookie\""]).no_cache);
    }

    #[test]
    fn an_open_quote_hides_nothing() {
        assert!(read(&["extension=\"x, no-store"]).no_store);
        assert!(!read(&["extension=\"x\\\", no-store\""]).no_store);
    }

    #[test]
    fn pragma_counts_only_without_cache_control() {
        let mut headers = HeaderMap::new();
        headers.insert(PRAGMA, "no-cache".parse().unwrap());
        assert!(Directives::of(&headers).no_cache);
        headers.insert(CACHE_CONTROL, "max-age=1".parse().unwrap());
        assert!(!Directives::of(&headers).no_cache);
    }
}
