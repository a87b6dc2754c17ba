//! The one form of a path: decided once, then routed, cached, logged and forwarded in the same form.
//! What two servers could read differently is refused: encoded slashes, backslashes, control characters, steps above the root.
//! Not here: patterns (`config/pattern.rs`) and the query string, which is forwarded as it came.

use std::borrow::Cow;
use std::fmt::Write;

/// The normal form of `path` (RFC 3986 section 6.2.2): unreserved characters decoded, hex digits in upper case,
/// dot segments resolved, slashes merged, bytes outside ASCII encoded.
///
/// # Errors
/// Why the path has no safe form, as a phrase.
pub fn normalise(path: &[u8]) -> Result<Cow<'_, str>, &'static str> {
    if path.first() != Some(&b'/') {
        return Err("it does not begin with a slash");
    }
    if is_normal(path)
        && let Ok(path) = std::str::from_utf8(path)
    {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode(path)?;
    resolve(&decoded).map(Cow::Owned)
}

/// Whether nothing has to be done: no escapes, no empty or dot segment, only plain characters.
fn is_normal(path: &[u8]) -> bool {
    let mut before = 0;
    for &byte in path {
        let plain = byte.is_ascii_graphic() && !matches!(byte, b'%' | b'\\');
        if !plain || (before == b'/' && matches!(byte, b'/' | b'.')) {
            return false;
        }
        before = byte;
    }
    true
}

/// Decodes what is unreserved, encodes what is not ASCII, refuses what is ambiguous.
fn decode(path: &[u8]) -> Result<String, &'static str> {
    let mut decoded = String::with_capacity(path.len());
    let mut bytes = path.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let digits = (bytes.next().and_then(hex_digit), bytes.next().and_then(hex_digit));
                let (Some(high), Some(low)) = digits else {
                    return Err("a percent sign is not followed by two hex digits");
                };
                push_escaped(&mut decoded, high << 4 | low)?;
            }
            b'\\' => return Err("it has a backslash"),
            byte if byte.is_ascii_control() || byte == b' ' => return Err("it has a space or a control character"),
            byte if byte.is_ascii() => decoded.push(char::from(byte)),
            byte => push_hex(&mut decoded, byte),
        }
    }
    Ok(decoded)
}

fn push_escaped(decoded: &mut String, byte: u8) -> Result<(), &'static str> {
    match byte {
        b'/' => return Err("it has an encoded slash"),
        b'\\' => return Err("it has an encoded backslash"),
        byte if byte.is_ascii_control() => return Err("it has an encoded control character"),
        b'-' | b'.' | b'_' | b'~' => decoded.push(char::from(byte)),
        byte if byte.is_ascii_alphanumeric() => decoded.push(char::from(byte)),
        byte => push_hex(decoded, byte),
    }
    Ok(())
}

fn push_hex(decoded: &mut String, byte: u8) {
    // Writing to a String can't fail.
    let _ = write!(decoded, "%{byte:02X}");
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Resolves dot segments (RFC 3986 section 5.2.4) and drops empty ones; a slash at the end stays.
fn resolve(path: &str) -> Result<String, &'static str> {
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_with_slash = false;
    for segment in path.split('/').skip(1) {
        ends_with_slash = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop().ok_or("it goes above the root")?;
            }
            // Some servers drop what follows a semicolon, and would then see a step upwards.
            _ if ["..;", ".;", "..%3B", ".%3B"].iter().any(|begin| segment.starts_with(begin)) => {
                return Err("it has a dot segment with a parameter");
            }
            _ => kept.push(segment),
        }
    }
    let slash = if ends_with_slash && !kept.is_empty() { "/" } else { "" };
    Ok(format!("/{}{slash}", kept.join("/")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(path: &str, expected: &str) {
        assert_eq!(normalise(path.as_bytes()).as_deref(), Ok(expected), "{path}");
    }

    #[test]
    fn plain_paths_stay_as_they_are() {
        for path in ["/", "/a", "/a/", "/a/b.c/d~e", "/a/..b", "/a;x=1/b", "/a+b", "/@x:y"] {
            check(path, path);
        }
    }

    #[test]
    fn there_is_one_form() {
        check("/%61", "/a");
        check("/a%2db", "/a-b");
        check("/a%c3%a9", "/a%C3%A9");
        check("/aé", "/a%C3%A9");
        check("/a%25b", "/a%25b");
        check("/a%252e", "/a%252e");
        check("//a///b", "/a/b");
        check("/a//", "/a/");
        check("/./a/./", "/a/");
        check("/a/../b", "/b");
        check("/a/b/..", "/a/");
        check("/a/%2e%2e/b", "/b");
        check("/a/..", "/");
        check("//", "/");
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for path in [
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/a\\b",
            "/a%00",
            "/a%0a",
            "/a%7f",
            "/..",
            "/a/../../b",
            "/a/..;/b",
            "/a/..%3b/b",
            "/a/%2e%3B/b",
            "/a%",
            "/a%2",
            "/a%zz",
            "a",
            "",
            "*",
            "/a b",
            "/a\u{1}",
        ] {
            assert!(normalise(path.as_bytes()).is_err(), "{path}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_encoded() {
        assert_eq!(normalise(b"/a\xff").as_deref(), Ok("/a%FF"));
    }

    proptest! {
        #[test]
        fn the_normal_form_is_its_own_normal_form(path in "/[a-c./%2efEF;~-]{0,24}") {
            if let Ok(once) = normalise(path.as_bytes()) {
                let twice = normalise(once.as_bytes());
                prop_assert_eq!(twice.as_deref(), Ok(once.as_ref()));
                prop_assert!(!once.contains("//"));
                prop_assert!(!once.split('/').any(|segment| segment == "." || segment == ".."));
            }
        }
    }
}
