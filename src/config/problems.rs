//! What is wrong with a configuration: all of it at once, each with its place and the fix.
//! Whatever is reported, no key is ever part of it.

use std::fmt;

use super::places::Places;

/// One thing that has to be mended before the configuration can be used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Line and column in the file, from 1, where known.
    pub place: Option<(u32, u32)>,
    /// The path in the file, e.g. `services.users.instances[0]`; empty for the file as a whole.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Every problem that was found, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Problems {
    /// The file they are in, as it was named.
    pub file: String,
    list: Vec<Problem>,
}

impl Problems {
    /// None so far.
    pub fn new(file: impl Into<String>) -> Self {
        Self { file: file.into(), list: Vec::new() }
    }

    /// One problem with the file as a whole.
    pub fn of(file: impl Into<String>, message: impl Into<String>) -> Self {
        let mut problems = Self::new(file);
        problems.list.push(Problem { place: None, path: String::new(), message: message.into() });
        problems
    }

    /// Adds a problem at `path`, whose line is looked up in `places`.
    pub fn add(&mut self, places: &Places, path: impl Into<String>, message: impl Into<String>) {
        let path = path.into();
        self.push(Problem { place: places.find(&path), path, message: message.into() });
    }

    /// Adds a problem whose place is known.
    pub fn push(&mut self, problem: Problem) {
        // Whoever writes a key into the file must not find it in a terminal or a log as well.
        self.list.push(Problem { path: without_keys(problem.path), message: without_keys(problem.message), ..problem });
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// In the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    /// One line each: `file:line:column path: message`.
    pub fn lines(&self) -> Vec<String> {
        let mut sorted: Vec<&Problem> = self.list.iter().collect();
        sorted.sort();
        sorted.dedup();
        sorted.into_iter().map(|problem| self.line(problem)).collect()
    }

    /// Nothing wrong: `value`; otherwise the problems.
    pub fn or<T>(self, value: T) -> Result<T, Self> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }

    fn line(&self, problem: &Problem) -> String {
        let place = problem.place.map_or(String::new(), |(line, column)| format!(":{line}:{column}"));
        let path = if problem.path.is_empty() { String::new() } else { format!(" {}:", problem.path) };
        let colon = if path.is_empty() { ":" } else { "" };
        format!("{}{place}{colon}{path} {}", self.file, problem.message)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.lines().join("\n"))
    }
}

impl std::error::Error for Problems {}

/// The one of `known` that `word` was probably meant to be.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    known
        .into_iter()
        // Far apart in length is far apart; this spares most comparisons in a file with many names.
        .filter(|candidate| candidate.len().abs_diff(word.len()) <= 1 + candidate.len().min(word.len()) / 4)
        .map(|candidate| (strsim::damerau_levenshtein(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len().min(word.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// ` (did you mean `x`?)` when one of `known` is near, otherwise nothing.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map_or(String::new(), |candidate| format!(" (did you mean `{candidate}`?)"))
}

/// Replaces everything that looks like a key.
fn without_keys(text: String) -> String {
    const KEY_MIN: usize = 20;
    let Some(start) = text.find("tg_") else { return text };
    let (before, key) = text.split_at(start + 3);
    let end = key.find(|character: char| !character.is_ascii_alphanumeric()).unwrap_or(key.len());
    let rest = without_keys(key[end..].to_owned());
    if end < KEY_MIN { format!("{before}{}{rest}", &key[..end]) } else { format!("{before}...{rest}") }
}
