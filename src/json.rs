//! JSON as the data path writes it: members of one object, one after the other, into memory.
//! For what is written once a request (log lines, problem bodies), where a general serializer costs more than the request's own policies.
//! Not here: anything that reads JSON, or that nests.

/// Digits that a decimal `u64` has at most.
const DIGITS_MAX: usize = 20;

/// A member's name as it is written, quotes and colon included: put together when this is compiled.
macro_rules! name {
    ($name:literal) => {
        concat!("\"", $name, "\":")
    };
}
pub(crate) use name;

/// An object that is being written. Names come from [`name!`]; values may be anything.
pub struct Object<'a> {
    out: &'a mut Vec<u8>,
    separator: u8,
}

impl<'a> Object<'a> {
    /// Opens an object.
    pub fn open(out: &'a mut Vec<u8>) -> Self {
        Self { out, separator: b'{' }
    }

    /// Closes it.
    pub fn close(self) {
        if self.separator == b'{' {
            self.out.push(b'{');
        }
        self.out.push(b'}');
    }

    /// A name with what must stand in front; the value follows.
    pub fn name(&mut self, name: &'static str) -> &mut Vec<u8> {
        self.out.push(self.separator);
        self.separator = b',';
        self.out.extend_from_slice(name.as_bytes());
        self.out
    }

    /// A text.
    pub fn text(&mut self, name: &'static str, value: &str) {
        push_text(self.name(name), value);
    }

    /// A text, or null.
    pub fn text_or_null(&mut self, name: &'static str, value: Option<&str>) {
        match value {
            Some(value) => self.text(name, value),
            None => self.null(name),
        }
    }

    /// A text that is known to need no escapes, such as an address or an id.
    pub fn plain(&mut self, name: &'static str, value: &[u8]) {
        let out = self.name(name);
        out.push(b'"');
        out.extend_from_slice(value);
        out.push(b'"');
    }

    /// A whole number.
    pub fn number(&mut self, name: &'static str, value: u64) {
        push_decimal(self.name(name), value, 1);
    }

    /// A whole number, or null.
    pub fn number_or_null(&mut self, name: &'static str, value: Option<u64>) {
        match value {
            Some(value) => self.number(name, value),
            None => self.null(name),
        }
    }

    /// Thousandths as a number with three places: 1,250 is `1.250`.
    pub fn thousandths(&mut self, name: &'static str, value: u64) {
        let out = self.name(name);
        push_decimal(out, value / 1_000, 1);
        out.push(b'.');
        push_decimal(out, value % 1_000, 3);
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, name: &'static str, value: bool) {
        self.name(name).extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// `null`.
    pub fn null(&mut self, name: &'static str) {
        self.name(name).extend_from_slice(b"null");
    }
}

/// A string of JSON (RFC 8259 section 7), quotes included.
pub fn push_text(out: &mut Vec<u8>, text: &str) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let is_special = |byte: u8| (byte < b' ') | (byte == b'"') | (byte == b'\\');
    // Without a branch a byte, because nearly all texts need no escape.
    if !text.bytes().fold(false, |special, byte| special | is_special(byte)) {
        out.extend_from_slice(text.as_bytes());
    } else {
        for byte in text.bytes() {
            match byte {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                b'\t' => out.extend_from_slice(b"\\t"),
                0..b' ' => {
                    let hex = |digit: u8| char::from_digit(u32::from(digit), 16).map_or(b'0', |digit| digit as u8);
                    out.extend_from_slice(b"\\u00");
                    out.extend_from_slice(&[hex(byte >> 4), hex(byte & 15)]);
                }
                _ => out.push(byte),
            }
        }
    }
    out.push(b'"');
}

/// A decimal number with at least `width` digits, zeros in front.
pub fn push_decimal(out: &mut Vec<u8>, mut number: u64, width: usize) {
    let mut digits = [b'0'; DIGITS_MAX];
    let mut begin = DIGITS_MAX;
    while number > 0 {
        begin -= 1;
        digits[begin] += (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&digits[begin.min(DIGITS_MAX - width.min(DIGITS_MAX))..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(fill: impl FnOnce(&mut Object<'_>)) -> String {
        let mut out = Vec::new();
        let mut object = Object::open(&mut out);
        fill(&mut object);
        object.close();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn members_are_separated() {
        assert_eq!(written(|_| {}), "{}");
        let text = written(|object| {
            object.number(name!("a"), 0);
            object.text_or_null(name!("b"), None);
            object.boolean(name!("c"), true);
            object.thousandths(name!("d"), 1_005);
            object.plain(name!("e"), b"192.0.2.1");
        });
        assert_eq!(text, r#"{"a":0,"b":null,"c":true,"d":1.005,"e":"192.0.2.1"}"#);
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_a_parser_reads(text in any::<String>(), control in "[\\x00-\\x1f\"\\\\]*", number: u64) {
            let line = written(|object| {
                object.text(name!("text"), &text);
                object.text(name!("control"), &control);
                object.number(name!("number"), number);
            });
            let read: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(read, serde_json::json!({ "text": text, "control": control, "number": number }));
        }

        #[test]
        fn decimals_are_those_of_the_standard_library(number: u64, width in 1_usize..12) {
            let mut out = Vec::new();
            push_decimal(&mut out, number, width);
            prop_assert_eq!(String::from_utf8(out).unwrap(), format!("{number:0width$}"));
        }
    }
}
