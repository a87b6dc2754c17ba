//! `CDN-Cache-Control` (RFC 9213): what the upstream tells caches like this one alone, a dictionary of structured fields
//! (RFC 9651 section 4.2.2). Where it is there and can be read it stands for `Cache-Control` and `Expires`.
//! A field that breaks its grammar anywhere, or says seconds with something else than a number, is ignored as a whole.

use http::HeaderMap;

const CDN_CACHE_CONTROL: &str = "cdn-cache-control";

/// A member of the dictionary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// A whole number.
    Integer(i64),
    /// `?0`
    False,
    /// `?1`, or only its name.
    True,
    /// Anything else.
    Other,
}

/// The members in their order, of which the last of a name counts; none where there is no such field, it is empty, or it
/// can't be read.
pub fn members(headers: &HeaderMap) -> Option<Vec<(String, Value)>> {
    let mut lines = headers.get_all(CDN_CACHE_CONTROL).iter();
    let mut text = lines.next()?.as_bytes().to_vec();
    for line in lines {
        text.push(b',');
        text.extend_from_slice(line.as_bytes());
    }
    let members = Reader { rest: text.trim_ascii() }.dictionary()?;
    (!members.is_empty()).then_some(members)
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn dictionary(mut self) -> Option<Vec<(String, Value)>> {
        let mut members: Vec<(String, Value)> = Vec::new();
        while !self.rest.is_empty() {
            let name = self.key()?;
            let value = if self.eat(b'=') { self.item_or_list()? } else { Value::True };
            self.parameters()?;
            members.retain(|(other, _)| *other != name);
            members.push((name, value));
            self.skip(b" \t");
            if self.rest.is_empty() {
                return Some(members);
            }
            if !self.eat(b',') {
                return None;
            }
            self.skip(b" \t");
            if self.rest.is_empty() {
                return None; // a comma at the end
            }
        }
        Some(members)
    }

    fn eat(&mut self, byte: u8) -> bool {
        match self.rest.split_first() {
            Some((first, rest)) if *first == byte => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn skip(&mut self, bytes: &[u8]) {
        self.take(|byte| bytes.contains(&byte));
    }

    fn take(&mut self, wanted: impl Fn(u8) -> bool) -> &[u8] {
        let end = self.rest.iter().position(|byte| !wanted(*byte)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    fn key(&mut self) -> Option<String> {
        if !self.rest.first().is_some_and(|byte| byte.is_ascii_lowercase() || *byte == b'*') {
            return None;
        }
        let name = self.take(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte));
        String::from_utf8(name.to_vec()).ok()
    }

    fn parameters(&mut self) -> Option<()> {
        while self.eat(b';') {
            self.skip(b" ");
            self.key()?;
            if self.eat(b'=') {
                self.item()?;
            }
        }
        Some(())
    }

    fn item_or_list(&mut self) -> Option<Value> {
        if !self.eat(b'(') {
            return self.item();
        }
        loop {
            self.skip(b" ");
            if self.eat(b')') {
                return Some(Value::Other);
            }
            self.item()?;
            self.parameters()?;
            if !matches!(self.rest.first(), Some(b' ' | b')')) {
                return None;
            }
        }
    }

    fn item(&mut self) -> Option<Value> {
        match *self.rest.first()? {
            b'-' | b'0'..=b'9' => self.number(),
            b'"' => self.string(),
            b'?' => {
                self.eat(b'?');
                if self.eat(b'1') { Some(Value::True) } else { self.eat(b'0').then_some(Value::False) }
            }
            b':' => {
                self.eat(b':');
                self.take(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte));
                self.eat(b':').then_some(Value::Other)
            }
            b'@' => {
                self.eat(b'@');
                matches!(self.number()?, Value::Integer(_)).then_some(Value::Other)
            }
            first if first.is_ascii_alphabetic() || first == b'*' => {
                self.take(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte));
                Some(Value::Other)
            }
            _ => None,
        }
    }

    fn number(&mut self) -> Option<Value> {
        let negative = self.eat(b'-');
        let digits = self.take(|byte| byte.is_ascii_digit());
        let number: i64 =
            (1..=15).contains(&digits.len()).then(|| std::str::from_utf8(digits).ok()?.parse().ok())??;
        let whole_digits = digits.len();
        if self.eat(b'.') {
            let fraction = self.take(|byte| byte.is_ascii_digit()).len();
            return ((1..=3).contains(&fraction) && whole_digits <= 12).then_some(Value::Other);
        }
        Some(Value::Integer(if negative { -number } else { number }))
    }

    fn string(&mut self) -> Option<Value> {
        self.eat(b'"');
        loop {
            let (first, rest) = self.rest.split_first()?;
            self.rest = rest;
            match first {
                b'"' => return Some(Value::Other),
                b'\\' if !self.eat(b'"') && !self.eat(b'\\') => return None,
                b'\\' | b' '..=b'~' => {}
                _ => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(lines: &[&str]) -> Option<Vec<(String, Value)>> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CDN_CACHE_CONTROL, line.parse().unwrap());
        }
        members(&headers)
    }

    #[test]
    fn members_and_their_values() {
        let has = |lines: &[&str], name: &str, value| {
            assert_eq!(read(lines).unwrap().into_iter().find(|(other, _)| other == name), Some((name.into(), value)));
        };
        has(&["max-age=60"], "max-age", Value::Integer(60));
        has(&["foobar, max-age=60"], "foobar", Value::True);
        has(&["max-age=60;x=1;y, private"], "private", Value::True);
        has(&["no-store=?0"], "no-store", Value::False);
        has(&["max-age=1", "max-age=2"], "max-age", Value::Integer(2));
        has(&["a=(1 \"b\";c) , d=tok/en, e=:aGk=:, f=1.5, g=\"a\\\"b, no-store\""], "g", Value::Other);
    }

    #[test]
    fn what_breaks_the_grammar_is_ignored_as_a_whole() {
        for line in [
            "",
            "max-age=60,",
            "max-age =60",
            "max-age= 60",
            "MaX-aGe=60",
            "max-age=60, &&&",
            "max-age=60 no-store",
            "max-age=\"60",
            "a=1.2345",
            "a=1234567890123456",
            "a=(1",
            "=1",
            "a=?2",
            "max-age='60'",
        ] {
            assert_eq!(read(&[line]), None, "{line}");
        }
        assert_eq!(read(&[]), None);
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(text in "[a-z*=;,()\"\\\\?:@.0-9 -]{0,30}") {
            let _ = read(&[&text]);
        }
    }
}
