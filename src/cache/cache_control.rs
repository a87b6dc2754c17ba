//! `Cache-Control`, read once into plain facts: of an answer (RFC 9111 section 5.2.2), where `CDN-Cache-Control` stands before
//! it (`targeted.rs`), and of a request (section 5.2.1).
//! Not here: what the facts mean for storing and freshness (`freshness.rs`).
//! What cannot be read is read as the directive that forbids more: a broken number is `Invalid`, never absent,
//! and a quoted string that does not end counts as `no-store`.

use http::HeaderMap;
use http::header::{CACHE_CONTROL, PRAGMA};

use super::targeted::{self, Value};

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
    /// The same for shared caches.
    pub proxy_revalidate: bool,
    /// Stored only where the status code is understood; then `no_store` does not count.
    pub must_understand: bool,
    /// Does not change while it is fresh (RFC 8246).
    pub immutable: bool,
    /// Freshness for shared caches.
    pub s_maxage: Seconds,
    /// Freshness for all caches.
    pub max_age: Seconds,
    /// How long a stale answer may be used while another one is fetched (RFC 5861).
    pub stale_while_revalidate: Seconds,
    /// How long a stale answer may be used instead of an error (RFC 5861).
    pub stale_if_error: Seconds,
    /// From `CDN-Cache-Control`: `Expires` does not count either.
    pub targeted: bool,
}

/// What a request wishes of caches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Nothing of this is stored.
    pub no_store: bool,
    /// Confirmed by the upstream before it is used.
    pub no_cache: bool,
    /// What is not stored is not asked for.
    pub only_if_cached: bool,
    /// Not older than this, seconds.
    pub max_age: Option<u64>,
    /// Fresh for at least so long, seconds.
    pub min_fresh: Option<u64>,
    /// Stale for at most so long, seconds.
    pub max_stale: Option<u64>,
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
    /// Reads `CDN-Cache-Control`, or every `Cache-Control` line; without any, `Pragma: no-cache` counts as `no-cache`.
    pub fn of(headers: &HeaderMap) -> Self {
        if let Some(targeted) = targeted::members(headers).and_then(|members| Self::of_members(&members)) {
            return targeted;
        }
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
        let complete = each_member(line, |name, value| {
            let name = name.to_ascii_lowercase();
            if let Some(flag) = self.flag(&name) {
                *flag = true;
            } else if let Some(seconds) = self.seconds(&name) {
                *seconds = seconds.and(value);
            }
        });
        if !complete {
            // What follows the open quote may have been `no-store`.
            self.no_store = true;
        }
    }

    /// None where a number is something else: the field is ignored (RFC 9213 section 2.1).
    fn of_members(members: &[(String, Value)]) -> Option<Self> {
        let mut directives = Self { targeted: true, ..Self::default() };
        for (name, value) in members {
            if let Some(flag) = directives.flag(name.as_bytes()) {
                *flag = *value != Value::False;
            } else if let Some(seconds) = directives.seconds(name.as_bytes()) {
                let Value::Integer(number) = value else { return None };
                *seconds = Seconds::Said(u64::try_from(*number).ok()?.min(SECONDS_MAX));
            }
        }
        Some(directives)
    }

    fn flag(&mut self, name: &[u8]) -> Option<&mut bool> {
        Some(match name {
            b"no-store" => &mut self.no_store,
            b"private" => &mut self.private,
            b"no-cache" => &mut self.no_cache,
            b"public" => &mut self.public,
            b"must-revalidate" => &mut self.must_revalidate,
            b"proxy-revalidate" => &mut self.proxy_revalidate,
            b"must-understand" => &mut self.must_understand,
            b"immutable" => &mut self.immutable,
            _ => return None,
        })
    }

    fn seconds(&mut self, name: &[u8]) -> Option<&mut Seconds> {
        Some(match name {
            b"s-maxage" => &mut self.s_maxage,
            b"max-age" => &mut self.max_age,
            b"stale-while-revalidate" => &mut self.stale_while_revalidate,
            b"stale-if-error" => &mut self.stale_if_error,
            _ => return None,
        })
    }

    /// Whether a stale answer may never be used without asking, however long (RFC 9111 section 4.2.4).
    pub const fn forbids_stale(&self) -> bool {
        self.no_cache || self.must_revalidate || self.proxy_revalidate || !matches!(self.s_maxage, Seconds::Unsaid)
    }
}

impl Wishes {
    /// Reads every `Cache-Control` line of a request; without any, `Pragma: no-cache` counts as `no-cache`.
    /// A number that can't be read wishes nothing, but for `max-stale`, which may stand without one.
    pub fn of(request: &HeaderMap) -> Self {
        let mut wishes = Self::default();
        let mut lines = request.get_all(CACHE_CONTROL).iter().peekable();
        if lines.peek().is_none() {
            wishes.no_cache = request.get_all(PRAGMA).iter().any(|line| names(line.as_bytes(), b"no-cache"));
        }
        for line in lines {
            each_member(line.as_bytes(), |name, value| match name.to_ascii_lowercase().as_slice() {
                b"no-store" => wishes.no_store = true,
                b"no-cache" => wishes.no_cache = true,
                b"only-if-cached" => wishes.only_if_cached = true,
                b"max-age" => wishes.max_age = value.and_then(parse_seconds),
                b"min-fresh" => wishes.min_fresh = value.and_then(parse_seconds),
                b"max-stale" => wishes.max_stale = value.map_or(Some(SECONDS_MAX), parse_seconds),
                _ => {}
            });
        }
        wishes
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
    fn a_field_for_caches_like_this_stands_before_the_general_one() {
        let both = |targeted: &str| {
            let mut headers = HeaderMap::new();
            headers.append(CACHE_CONTROL, "no-store, max-age=1".parse().unwrap());
            headers.append("cdn-cache-control", targeted.parse().unwrap());
            Directives::of(&headers)
        };
        let targeted = both("max-age=60, stale-if-error=5");
        assert_eq!((targeted.max_age, targeted.stale_if_error), (Seconds::Said(60), Seconds::Said(5)));
        assert!(targeted.targeted && !targeted.no_store);
        assert!(both("private").private && !both("no-store=?0").no_store);
        for broken in ["max-age=\"60\"", "max-age=-1", "MAX-AGE=60", ""] {
            assert!(both(broken).no_store, "{broken}");
        }
    }

    #[test]
    fn wishes_of_a_request() {
        let wishes = |line: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, line.parse().unwrap());
            Wishes::of(&headers)
        };
        assert!(wishes("max-age=0, No-Store").no_store && wishes("no-cache").no_cache);
        assert!(wishes("only-if-cached").only_if_cached);
        assert_eq!((wishes("max-stale").max_stale, wishes("max-stale=5").max_stale), (Some(SECONDS_MAX), Some(5)));
        assert_eq!((wishes("min-fresh=x").min_fresh, wishes("max-age=3").max_age), (None, Some(3)));
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
