//! The first thing that stops a value from being read, with the way to it; `entries.rs` makes a problem of it.
//! Its texts are for people: what was expected, what was found, what to write instead.

use std::fmt;

use serde::de::{self, Expected, Unexpected};

use super::problems::did_you_mean;

/// One step from a value to a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The value of a name.
    Name(String),
    /// An element of a list.
    Index(usize),
}

/// Why a value could not be read.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The way to it, innermost step first.
    pub steps: Vec<Step>,
    /// What is wrong there.
    pub kind: FaultKind,
}

/// What is wrong.
#[derive(Clone, Debug)]
pub enum FaultKind {
    /// A name that no field has.
    Unknown(String, &'static [&'static str]),
    /// A required field is not there.
    Missing(&'static str),
    /// Anything else, in words.
    Wrong(String),
}

impl Fault {
    /// A fault of the value itself.
    pub fn wrong(message: impl Into<String>) -> Self {
        Self { steps: Vec::new(), kind: FaultKind::Wrong(message.into()) }
    }

    /// The same fault, seen from one level higher.
    pub fn below(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// The path of the fault, where `base` is the path of the value that was read.
    pub fn path(&self, base: &str) -> String {
        let mut path = base.to_owned();
        for step in self.steps.iter().rev() {
            match step {
                Step::Name(name) => path = super::tree::join(&path, name),
                Step::Index(index) => path.push_str(&format!("[{index}]")),
            }
        }
        path
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            FaultKind::Unknown(name, known) => {
                let hint = did_you_mean(name, known.iter().copied());
                write!(out, "unknown field `{name}`{hint}")?;
                if hint.is_empty() {
                    write!(out, "; known here: {}", known.join(", "))?;
                }
                Ok(())
            }
            FaultKind::Missing(name) => write!(out, "`{name}` is missing"),
            FaultKind::Wrong(message) => out.write_str(message),
        }
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::wrong(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::wrong(format!("expected {expected}, found {}", words(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(found: &str, known: &'static [&'static str]) -> Self {
        let hint = did_you_mean(found, known.iter().copied());
        let known: Vec<String> = known.iter().map(|word| format!("`{word}`")).collect();
        Self::wrong(format!("`{found}` is not {}{hint}", known.join(" or ")))
    }

    fn unknown_field(found: &str, known: &'static [&'static str]) -> Self {
        Self { steps: Vec::new(), kind: FaultKind::Unknown(found.to_owned(), known) }
    }

    fn missing_field(name: &'static str) -> Self {
        Self { steps: Vec::new(), kind: FaultKind::Missing(name) }
    }
}

fn words(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => format!("`{value}`"),
        Unexpected::Unsigned(value) => format!("the number {value}"),
        Unexpected::Signed(value) => format!("the number {value}"),
        Unexpected::Float(value) => format!("the number {value}"),
        Unexpected::Str(text) => format!("`{text}`"),
        Unexpected::Unit => "nothing".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a map".to_owned(),
        other => other.to_string(),
    }
}
