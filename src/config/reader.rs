//! The tree as a serde deserializer: scalars get the type that their field asks for.
//! Unquoted scalars follow the core schema of YAML 1.2; numbers in quotes are text, and `on` and `no` are words.
//! For an optional field, `none` means the same as leaving it out.

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::fault::{Fault, FaultKind, Step};
use super::tree::{Entry, Kind, Node, Scalar, Style};

const NOTHING: &str = "nothing is written here: give it a value, or leave it out";

/// The type of an unquoted scalar.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Core {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text,
}

impl Scalar {
    fn core(&self) -> Core {
        if self.style == Style::Plain { core(&self.text) } else { Core::Text }
    }

    /// Makes the fault of this very scalar readable: who switches off is told how that is done here, who switches on what is
    /// to be written instead; values of variables are not shown.
    fn explain(&self, fault: Fault, wants_bool: bool) -> Fault {
        let Fault { steps, kind: FaultKind::Wrong(mut message) } = fault else { return fault };
        let word = self.text.to_ascii_lowercase();
        let switch = matches!(word.as_str(), "on" | "off" | "yes" | "no" | "y" | "n" | "true" | "false");
        if steps.is_empty() && switch && self.style != Style::Quoted {
            if wants_bool {
                message = format!("`{}` is a word here: write `true` or `false`", self.text);
            } else if matches!(word.as_str(), "off" | "no" | "n" | "false") {
                message = format!("`{}` is not a value here: what is not wanted is left out, or is `none`", self.text);
            }
        }
        if let Some(written) = self.written.as_ref().filter(|_| !self.text.is_empty()) {
            message = message.replace(&format!("`{}`", self.text), &format!("`{written}`"));
            if self.text.len() > 5 {
                message = message.replace(&self.text, written);
            }
        }
        Fault { steps, kind: FaultKind::Wrong(message) }
    }
}

fn core(text: &str) -> Core {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Core::Null,
        "true" | "True" | "TRUE" => return Core::Bool(true),
        "false" | "False" | "FALSE" => return Core::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return match text.strip_prefix('+').unwrap_or(text).parse::<i128>() {
            Ok(number) if number < 0 => i64::try_from(number).map_or(Core::Float(f64::MIN), Core::Signed),
            Ok(number) => u64::try_from(number).map_or(Core::Float(f64::MAX), Core::Unsigned),
            Err(_) => Core::Float(f64::MAX),
        };
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(number) = text.strip_prefix(prefix).and_then(|digits| u64::from_str_radix(digits, radix).ok()) {
            return Core::Unsigned(number);
        }
    }
    let number_like =
        digits.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'))
            && digits.bytes().next().is_some_and(|byte| byte.is_ascii_digit() || byte == b'.');
    match text.parse::<f64>() {
        Ok(number) if number_like => Core::Float(number),
        _ => Core::Text,
    }
}

/// Reads a number between `low` and `high`.
fn number(scalar: &Scalar, low: i128, high: i128) -> Result<i128, Fault> {
    let range = || {
        if high >= i128::from(u32::MAX) {
            format!("a whole number from {low}")
        } else {
            format!("a number from {low} to {high}")
        }
    };
    let found = match (scalar.style, scalar.core()) {
        (Style::Plain, Core::Unsigned(value)) => i128::from(value),
        (Style::Plain, Core::Signed(value)) => i128::from(value),
        (Style::Variable, _) => {
            let value = scalar.text.trim().parse();
            value.map_err(|_| Fault::wrong(format!("expected {}, found `{}`", range(), scalar.text)))?
        }
        (Style::Quoted, _) if scalar.written.is_none() && scalar.text.parse::<i128>().is_ok() => {
            return Err(Fault::wrong(format!("a number in quotes is text: write {} without quotes", scalar.text)));
        }
        (Style::Plain, Core::Null) => {
            return Err(Fault::wrong(NOTHING));
        }
        _ => return Err(Fault::wrong(format!("expected {}, found `{}`", range(), scalar.text))),
    };
    if (low..=high).contains(&found) { Ok(found) } else { Err(Fault::wrong(format!("{found} is not {}", range()))) }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty),* $(,)?) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            let scalar = self.scalar(&visitor)?;
            let value = number(scalar, i128::from(<$type>::MIN), i128::from(<$type>::MAX)).map_err(|fault| scalar.explain(fault, false))?;
            let value = <$type>::try_from(value).map_err(|_| Fault::wrong("a number out of range"))?;
            visitor.$visit(value).map_err(|fault: Fault| scalar.explain(fault, false))
        }
    )* };
}

impl Node {
    fn scalar<'de, V: Visitor<'de>>(&self, visitor: &V) -> Result<&Scalar, Fault> {
        match &self.kind {
            Kind::Scalar(scalar) => Ok(scalar),
            Kind::List(_) => Err(serde::de::Error::invalid_type(serde::de::Unexpected::Seq, visitor)),
            Kind::Map(_) => Err(serde::de::Error::invalid_type(serde::de::Unexpected::Map, visitor)),
            Kind::Removed => Err(Fault::wrong("nothing is written here")),
        }
    }
}

impl Node {
    fn map<'de, V: Visitor<'de>>(&'de self, wanted: &str, visitor: V) -> Result<V::Value, Fault> {
        match &self.kind {
            Kind::Map(entries) => visitor.visit_map(Entries { entries, next: 0 }),
            Kind::Scalar(scalar) => {
                Err(scalar.explain(Fault::wrong(format!("expected {wanted}, found {}", found(self))), false))
            }
            _ => Err(Fault::wrong(format!("expected {wanted}, found {}", found(self)))),
        }
    }
}

fn found(node: &Node) -> String {
    match &node.kind {
        Kind::Scalar(_) if node.is_null() => "nothing".to_owned(),
        Kind::Scalar(scalar) => format!("`{}`", scalar.text),
        Kind::List(_) => "a list".to_owned(),
        Kind::Map(_) => "a map".to_owned(),
        Kind::Removed => "nothing".to_owned(),
    }
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.kind {
            Kind::Scalar(scalar) => match scalar.core() {
                Core::Null => Err(Fault::wrong(NOTHING)),
                Core::Bool(value) => visitor.visit_bool(value),
                Core::Unsigned(value) => visitor.visit_u64(value),
                Core::Signed(value) => visitor.visit_i64(value),
                Core::Float(value) => visitor.visit_f64(value),
                Core::Text => visitor.visit_str(&scalar.text),
            }
            .map_err(|fault: Fault| scalar.explain(fault, false)),
            Kind::List(list) => visitor.visit_seq(Elements { list, next: 0 }),
            Kind::Map(entries) => visitor.visit_map(Entries { entries, next: 0 }),
            Kind::Removed => visitor.visit_unit(),
        }
    }

    /// The raw text, whatever it looks like: for types that have a text form of their own.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let scalar = self.scalar(&visitor)?;
        if scalar.core() == Core::Null {
            return Err(Fault::wrong(NOTHING));
        }
        visitor.visit_str(&scalar.text).map_err(|fault: Fault| scalar.explain(fault, false))
    }

    /// Text that is nothing but text: numbers need quotes.
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let Kind::Scalar(scalar) = &self.kind else {
            return Err(Fault::wrong(format!("expected text, found {}", found(self))));
        };
        match scalar.core() {
            Core::Text => visitor.visit_str(&scalar.text).map_err(|fault: Fault| scalar.explain(fault, false)),
            Core::Null => Err(Fault::wrong(NOTHING)),
            Core::Bool(_) => {
                Err(scalar.explain(Fault::wrong(format!("expected text, found `{}`", scalar.text)), false))
            }
            _ => Err(Fault::wrong(format!(
                "{} is a number: as text it is written in quotes, \"{}\"",
                scalar.text, scalar.text
            ))),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let scalar = self.scalar(&visitor)?;
        match (scalar.core(), scalar.text.as_str()) {
            (Core::Bool(value), _) => visitor.visit_bool(value),
            (_, "true") if scalar.style == Style::Variable => visitor.visit_bool(true),
            (_, "false") if scalar.style == Style::Variable => visitor.visit_bool(false),
            (_, "true" | "false") => Err(Fault::wrong(format!("text in quotes: write {} without quotes", scalar.text))),
            _ => Err(scalar.explain(Fault::wrong(format!("expected `true` or `false`, found {}", found(self))), true)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.kind {
            Kind::Scalar(scalar) if scalar.core() == Core::Null => visitor.visit_none(),
            Kind::Scalar(scalar) if scalar.style != Style::Quoted && scalar.text == "none" => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let Kind::Scalar(scalar) = &self.kind else {
            return Err(Fault::wrong(format!("expected a word, found {}", found(self))));
        };
        visitor.visit_enum(Word(&scalar.text)).map_err(|fault| scalar.explain(fault, false))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let wanted = match fields {
            [] => "a map".to_owned(),
            [one] => format!("a map, `{{{one}: ...}}`"),
            [first, ..] => format!("a map such as `{{{first}: ...}}` (known: {})", fields.join(", ")),
        };
        self.map(&wanted, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.map("a map (`name: value`)", visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.kind {
            Kind::List(list) => visitor.visit_seq(Elements { list, next: 0 }),
            Kind::Scalar(scalar) => {
                Err(scalar.explain(Fault::wrong(format!("expected a list, `[a, b]`, found {}", found(self))), false))
            }
            _ => Err(Fault::wrong(format!("expected a list, `[a, b]`, found {}", found(self)))),
        }
    }

    numbers!(
        deserialize_u8 visit_u8 u8,
        deserialize_u16 visit_u16 u16,
        deserialize_u32 visit_u32 u32,
        deserialize_u64 visit_u64 u64,
        deserialize_i64 visit_i64 i64,
    );

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! { i8 i16 i32 i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier }
}

struct Elements<'de> {
    list: &'de [Node],
    next: usize,
}

impl<'de> SeqAccess<'de> for Elements<'de> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        while let Some(node) = self.list.get(self.next) {
            let index = self.next;
            self.next += 1;
            if !matches!(node.kind, Kind::Removed) {
                return seed.deserialize(node).map(Some).map_err(|fault| fault.below(Step::Index(index)));
            }
        }
        Ok(None)
    }
}

struct Entries<'de> {
    entries: &'de [Entry],
    next: usize,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some(entry) = self.entries.get(self.next) else { return Ok(None) };
        let name: StrDeserializer<'de, Fault> = entry.name.as_str().into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Fault> {
        let entry = &self.entries[self.next];
        self.next += 1;
        seed.deserialize(&entry.node).map_err(|fault| fault.below(Step::Name(entry.name.clone())))
    }
}

/// A word of an enum; variants have no values.
struct Word<'de>(&'de str);

impl<'de> EnumAccess<'de> for Word<'de> {
    type Error = Fault;
    type Variant = Self;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Self), Fault> {
        let word: StrDeserializer<'de, Fault> = self.0.into_deserializer();
        Ok((seed.deserialize(word)?, self))
    }
}

impl<'de> VariantAccess<'de> for Word<'de> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Fault> {
        Err(Fault::wrong(format!("`{}` is a word without a value", self.0)))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Fault> {
        Err(Fault::wrong(format!("`{}` is a word without a value", self.0)))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Fault> {
        Err(Fault::wrong(format!("`{}` is a word without a value", self.0)))
    }
}
