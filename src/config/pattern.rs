//! Route patterns: `[METHOD[,METHOD] ][host]/path`, as in Go's `ServeMux`.
//! Only the grammar; which pattern wins is decided in `runtime/routes.rs`, which patterns cannot stand together in `overlap.rs`.
//! Literals are in the form that request paths are brought into before routing, so that comparing bytes is enough.

use std::fmt;

use super::problems::did_you_mean;
use super::text::text_form;

/// Bytes of a pattern: it is a label in metrics and log.
pub const PATTERN_MAX: usize = 200;

const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];

/// One pattern of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// As it is written, at most 200 bytes: the endpoint label of a route without a name.
    pub text: String,
    /// The methods it admits; every method when empty. GET admits HEAD.
    pub methods: Vec<http::Method>,
    /// The hosts it is for.
    pub host: HostPattern,
    /// The path's segments, e.g. `/a/{x}/c`; `/a/` ends with an empty literal.
    pub segments: Vec<Segment>,
    /// Whether it ends with `/*`: the path itself and everything below.
    pub subtree: bool,
}

/// The host part of a pattern, in lower case, without a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// One host.
    Exact(String),
    /// `*.example.com`: every host below, kept as `.example.com`.
    Suffix(String),
    /// No host in the pattern.
    Any,
}

/// One segment of a pattern's path.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Segment {
    /// Exactly this text.
    Literal(String),
    /// `{name}`: one segment that is not empty.
    Name(String),
}

text_form!(Pattern, "[METHOD[,METHOD] ][host]/path, e.g. `GET /users/{id}`, `/api/*` or `*.example.com/*`", "");

impl Pattern {
    /// Reads `GET,POST api.example.com/users/{id}/*`.
    ///
    /// # Errors
    /// What is wrong with the text, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > PATTERN_MAX {
            return Err(format!(
                "a pattern of {} bytes: it is a label in metrics and log, at most {PATTERN_MAX} bytes",
                text.len()
            ));
        }
        let (methods, rest) = match text.split_once(' ') {
            Some((methods, rest)) => (parse_methods(methods)?, rest),
            None => (Vec::new(), text),
        };
        if rest.contains(char::is_whitespace) {
            return Err(
                "a pattern has one space at most, after the methods: `GET,POST /path`; in a path a space is %20"
                    .to_owned(),
            );
        }
        if rest.contains("://") {
            return Err("a pattern has no scheme: write host/path".to_owned());
        }
        let Some(slash) = rest.find('/') else {
            return Err(format!("`{rest}` has no path: a pattern is [METHOD ][host]/path, e.g. `{rest}/*`"));
        };
        let host = parse_host(&rest[..slash])?;
        let (segments, subtree) = parse_path(&rest[slash..])?;
        Ok(Self { text: text.to_owned(), methods, host, segments, subtree })
    }

    /// The names in braces, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Name(name) => Some(name.as_str()),
            Segment::Literal(_) => None,
        })
    }

    /// Whether both admit a method; GET admits HEAD.
    pub fn shares_method(&self, other: &Self) -> bool {
        let admits = |pattern: &Self, method: &http::Method| {
            pattern.methods.is_empty()
                || pattern.methods.contains(method)
                || (method == http::Method::HEAD && pattern.methods.contains(&http::Method::GET))
        };
        self.methods.is_empty()
            || other.methods.is_empty()
            || self.methods.iter().any(|method| admits(other, method))
            || other.methods.iter().any(|method| admits(self, method))
    }
}

fn parse_methods(text: &str) -> Result<Vec<http::Method>, String> {
    let mut methods: Vec<http::Method> = Vec::new();
    for word in text.split(',') {
        if word.is_empty() {
            return Err("methods are written with a comma and no space between them, as in `GET,POST /path`".to_owned());
        }
        if word.contains('/') {
            return Err(
                "a pattern has no space in its path: write %20; methods come first, e.g. `GET /path`".to_owned()
            );
        }
        if !METHODS.contains(&word) {
            let upper = word.to_ascii_uppercase();
            let hint = did_you_mean(&upper, METHODS);
            if upper == "CONNECT" {
                return Err("CONNECT is never routed".to_owned());
            }
            if !hint.is_empty() || word != upper || !word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-')
            {
                let hint = if hint.is_empty() { "; methods are in upper case".to_owned() } else { hint };
                return Err(format!("`{word}` is no method{hint}"));
            }
        }
        let method = http::Method::from_bytes(word.as_bytes()).map_err(|_| format!("`{word}` is no method"))?;
        if methods.contains(&method) {
            return Err(format!("the method {word} is there twice"));
        }
        methods.push(method);
    }
    Ok(methods)
}

fn parse_host(text: &str) -> Result<HostPattern, String> {
    if text.is_empty() {
        return Ok(HostPattern::Any);
    }
    if text.contains(':') && !text.starts_with('[') {
        return Err(format!("`{text}`: the host of a pattern has no port"));
    }
    let (suffix, name) = match text.strip_prefix("*.") {
        Some(name) => (true, name),
        None => (false, text),
    };
    if name.contains('*') {
        return Err(format!("`{text}`: in a host `*` is only the first label, as in *.example.com"));
    }
    check_host(name)?;
    Ok(if suffix { HostPattern::Suffix(format!(".{name}")) } else { HostPattern::Exact(name.to_owned()) })
}

/// Whether `name` is a host name or an address, in lower case, without a port.
///
/// # Errors
/// What is wrong with it.
pub fn check_host(name: &str) -> Result<(), String> {
    if let Some(address) = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().map(|_| ()).map_err(|_| format!("`{name}` is no IPv6 address"));
    }
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(format!("`{name}`: hosts are written in lower case, `{}`", name.to_ascii_lowercase()));
    }
    let label_is_good = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.is_empty() || name.len() > 253 || !name.split('.').all(label_is_good) {
        return Err(format!("`{name}` is no host name"));
    }
    Ok(())
}

fn parse_path(path: &str) -> Result<(Vec<Segment>, bool), String> {
    if let Some(character) = path.chars().find(|character| matches!(character, '?' | '#')) {
        return Err(format!("a pattern has no `{character}`: routes are chosen by host, path and method only"));
    }
    let (path, subtree) = match path.strip_suffix("/*") {
        Some(path) => (path, true),
        None => (path, false),
    };
    let mut segments: Vec<Segment> = Vec::new();
    // A path begins with `/`, so what comes before the first is nothing; `/*` alone has no segments.
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    for (index, part) in parts.iter().enumerate() {
        let last = index + 1 == parts.len();
        if part.is_empty() && (!last || subtree) {
            return Err("`//` never reaches a route: request paths are brought to one slash".to_owned());
        }
        let segment = parse_segment(part)?;
        if let Segment::Name(name) = &segment
            && segments.contains(&segment)
        {
            return Err(format!("the name {{{name}}} is there twice"));
        }
        segments.push(segment);
    }
    Ok((segments, subtree))
}

fn parse_segment(part: &str) -> Result<Segment, String> {
    if let Some(name) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
        let good = !name.is_empty()
            && !name.starts_with(|first: char| first.is_ascii_digit())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        return if good {
            Ok(Segment::Name(name.to_owned()))
        } else {
            Err(format!("`{part}`: a name in braces is letters, digits and `_`"))
        };
    }
    if part.contains(['{', '}']) {
        return Err(format!("`{part}`: `{{name}}` stands for a whole segment, between two slashes"));
    }
    if part.contains('*') {
        return Err(format!("`{part}`: `*` is only the last segment, as in /a/*; for one segment write {{name}}"));
    }
    if part.starts_with(':') {
        return Err(format!("`{part}`: a name is written {{{}}}", part.trim_start_matches(':')));
    }
    literal(part).map(Segment::Literal)
}

/// Checks that a segment is in the form in which request paths are compared.
///
/// # Errors
/// What is wrong with it.
pub fn literal(part: &str) -> Result<String, String> {
    if part == "." || part == ".." {
        return Err(format!("`{part}` never reaches a route: request paths are resolved first"));
    }
    let bytes = part.as_bytes();
    let mut normal = String::with_capacity(part.len());
    let mut index = 0;
    while index < bytes.len() {
        let byte = bytes[index];
        if byte == b'%' {
            let code = part.get(index + 1..index + 3).and_then(|digits| u8::from_str_radix(digits, 16).ok());
            match code {
                None => return Err(format!("`{part}`: after % come two hex digits; a percent sign is %25")),
                Some(b'/' | b'\\' | 0) => {
                    return Err(format!("`{part}`: an encoded slash, backslash or zero never reaches a route"));
                }
                Some(code) if is_unreserved(code) => normal.push(char::from(code)),
                Some(code) => normal.push_str(&format!("%{code:02X}")),
            }
            index += 3;
            continue;
        }
        if !is_unreserved(byte) && !b"!$&'()*+,;=:@".contains(&byte) {
            let shown = part[index..].chars().next().unwrap_or_default();
            let encoded: String = shown.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
            return Err(format!("`{part}`: in a path `{shown}` is written {encoded}"));
        }
        normal.push(char::from(byte));
        index += 1;
    }
    if normal == part {
        Ok(normal)
    } else {
        Err(format!("`{part}`: request paths are compared in normal form, which is `{normal}`"))
    }
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

impl fmt::Display for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, HostPattern, String, bool) {
        let pattern = Pattern::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        let methods: Vec<&str> = pattern.methods.iter().map(http::Method::as_str).collect();
        let path: Vec<String> = pattern
            .segments
            .iter()
            .map(|segment| match segment {
                Segment::Literal(text) => format!("/{text}"),
                Segment::Name(name) => format!("/<{name}>"),
            })
            .collect();
        (methods.join(","), pattern.host, path.concat(), pattern.subtree)
    }

    #[test]
    fn patterns_are_taken_apart() {
        let any = HostPattern::Any;
        assert_eq!(parts("/"), (String::new(), any.clone(), "/".into(), false));
        assert_eq!(parts("/*"), (String::new(), any.clone(), String::new(), true));
        assert_eq!(parts("/a/"), (String::new(), any.clone(), "/a/".into(), false));
        assert_eq!(parts("/a/*"), (String::new(), any.clone(), "/a".into(), true));
        assert_eq!(parts("GET,POST /a/{x}/c"), ("GET,POST".into(), any, "/a/<x>/c".into(), false));
        assert_eq!(parts("a.example/x").1, HostPattern::Exact("a.example".into()));
        assert_eq!(parts("PURGE *.a.example/*").1, HostPattern::Suffix(".a.example".into()));
    }

    #[test]
    fn mistakes_are_answered_with_the_right_form() {
        for (text, part) in [
            ("get /a", "did you mean `GET`"),
            ("GTE /a", "did you mean `GET`"),
            ("GET, POST /a", "no space between"),
            ("GET,GET /a", "twice"),
            ("/a b", "%20"),
            ("GET  /a", "one space"),
            ("GET /a b", "one space"),
            ("https://a.example/x", "no scheme"),
            ("GET a.example", "has no path"),
            ("a.example:8080/x", "no port"),
            ("A.example/x", "lower case"),
            ("a.*.example/x", "first label"),
            ("-a.example/x", "no host name"),
            ("/a//b", "one slash"),
            ("/a//*", "one slash"),
            ("/a/../b", "resolved first"),
            ("/a/{x}/{x}", "twice"),
            ("/a/{x}.json", "whole segment"),
            ("/a/{}", "letters"),
            ("/a/*/b", "last segment"),
            ("/a*", "last segment"),
            ("/a/**", "last segment"),
            ("/a/:id", "{id}"),
            ("/a?b=c", "no `?`"),
            ("/a%2fb", "encoded slash"),
            ("/%61", "`a`"),
            ("/%c3%a4", "%C3%A4"),
            ("/ä", "%C3%A4"),
            ("/a%zz", "two hex digits"),
            ("CONNECT /a", "never routed"),
        ] {
            let error = Pattern::parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
        assert!(Pattern::parse(&format!("/{}", "a".repeat(200))).is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text in ".{0,60}") {
            let _ = Pattern::parse(&text);
        }
    }
}
