//! Variables in scalars: `${NAME}`, `${NAME:-default}`, `${file:PATH}`, `$$` for a dollar.
//! Replaced after parsing, so a value can never change the structure, and never in names.
//! A scalar that is one variable is typed by its field. In a URL's user and password the value is percent-encoded.

use std::collections::HashMap;
use std::path::Path;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::places::Places;
use super::problems::Problems;
use super::tree::{Kind, Node, Scalar, Style, join, problem};

/// The value of an environment variable.
pub type Environment<'a> = dyn Fn(&str) -> Option<String> + 'a;

const FILE_MAX: u64 = 1 << 20;

/// What RFC 3986 allows unencoded in user and password, apart from the sub-delimiters.
const USERINFO: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Replaces the variables of all scalars below `root`, and remembers where there were any.
pub fn replace(
    root: &mut Node,
    folder: &Path,
    environment: &Environment<'_>,
    places: &mut Places,
    problems: &mut Problems,
) {
    let mut walk = Walk { folder, environment, places, problems };
    walk.node(root, "");
}

/// Reads a `.env` file: `NAME=value`, `export NAME="value"`, `#` comments.
///
/// # Errors
/// The number of the first line that is none of these.
pub fn read_env(text: &str) -> Result<HashMap<String, String>, usize> {
    let mut values = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=').ok_or(number + 1)?;
        let (name, value) = (name.trim(), value.trim());
        if !is_name(name) {
            return Err(number + 1);
        }
        let value = ['"', '\'']
            .into_iter()
            .find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote))
            .unwrap_or_else(|| value.split(" #").next().unwrap_or(value).trim_end());
        values.insert(name.to_owned(), value.to_owned());
    }
    Ok(values)
}

struct Walk<'a> {
    folder: &'a Path,
    environment: &'a Environment<'a>,
    places: &'a mut Places,
    problems: &'a mut Problems,
}

impl Walk<'_> {
    fn node(&mut self, node: &mut Node, path: &str) {
        let at = node.at;
        self.places.mark(path.to_owned(), at.0, at.1);
        match &mut node.kind {
            Kind::Removed => {}
            Kind::Scalar(scalar) => {
                if !scalar.text.contains('$') {
                    return;
                }
                match self.scalar(scalar) {
                    Ok(()) if scalar.written.is_some() => {
                        self.places.mark_variable(path.to_owned(), scalar.written.clone().unwrap_or_default());
                    }
                    Ok(()) => {}
                    Err(message) => {
                        self.problems.push(problem(at, path, message));
                        node.kind = Kind::Removed;
                    }
                }
            }
            Kind::List(list) => {
                for (index, child) in list.iter_mut().enumerate() {
                    self.node(child, &format!("{path}[{index}]"));
                }
            }
            Kind::Map(entries) => {
                for entry in entries.iter_mut() {
                    self.node(&mut entry.node, &join(path, &entry.name));
                }
                // What could not be replaced has been reported; nobody needs to trip over it again.
                entries.retain(|entry| !matches!(entry.node.kind, Kind::Removed));
            }
        }
    }

    fn scalar(&self, scalar: &mut Scalar) -> Result<(), String> {
        let written = std::mem::take(&mut scalar.text);
        let pieces = split(&written)?;
        let variables = pieces.iter().filter(|piece| matches!(piece, Piece::Variable(_))).count();
        let mut before = String::new();
        for (index, piece) in pieces.iter().enumerate() {
            match piece {
                Piece::Text(text) => {
                    scalar.text.push_str(text);
                    before.push_str(text);
                }
                Piece::Variable(variable) => {
                    let value = self.value(variable)?;
                    if in_userinfo(&before, &pieces[index + 1..]) {
                        scalar.text.extend(utf8_percent_encode(&value, USERINFO));
                    } else {
                        scalar.text.push_str(&value);
                    }
                    before.push('x');
                }
            }
        }
        if variables > 0 {
            scalar.style = match (pieces.len(), scalar.style) {
                (1, Style::Plain) => Style::Variable,
                _ => Style::Quoted,
            };
            scalar.written = Some(written);
        }
        Ok(())
    }

    fn value(&self, variable: &str) -> Result<String, String> {
        if let Some(path) = variable.strip_prefix("file:") {
            return self.file(path);
        }
        let (name, default) = match variable.split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (variable, None),
        };
        if !is_name(name) {
            return Err(format!(
                "`${{{variable}}}` is no variable: write ${{NAME}}, ${{NAME:-default}} or ${{file:PATH}}"
            ));
        }
        match ((self.environment)(name), default) {
            (Some(value), None) => Ok(value),
            (Some(value), Some(_)) if !value.is_empty() => Ok(value),
            (_, Some(default)) => Ok(default.to_owned()),
            (None, None) => Err(format!(
                "the variable `{name}` is not set: set it in the environment or in .env beside this file, or write ${{{name}:-default}}"
            )),
        }
    }

    fn file(&self, path: &str) -> Result<String, String> {
        use std::io::Read;
        let path = self.folder.join(path);
        let fail = |reason: String| format!("cannot read {}: {reason}", path.display());
        let file = std::fs::File::open(&path).map_err(|error| fail(error.to_string()))?;
        let mut text = String::new();
        file.take(FILE_MAX + 1).read_to_string(&mut text).map_err(|error| fail(error.to_string()))?;
        if text.len() as u64 > FILE_MAX {
            return Err(fail(format!("larger than {FILE_MAX} bytes")));
        }
        let end = text.trim_end_matches(['\r', '\n']).len();
        text.truncate(end);
        Ok(text)
    }
}

#[derive(Debug, PartialEq)]
enum Piece {
    Text(String),
    Variable(String),
}

/// Splits a scalar at its variables.
fn split(written: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = written;
    while let Some(dollar) = rest.find('$') {
        text.push_str(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            text.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let end = after.find('}').ok_or("a `${` that is not closed with `}`")?;
            if !text.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut text)));
            }
            pieces.push(Piece::Variable(after[..end].to_owned()));
            rest = &after[end + 1..];
        } else {
            return Err("a single `$`: a variable is written ${NAME}, a dollar $$".to_owned());
        }
    }
    text.push_str(rest);
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

/// Whether what comes next stands between a URL's `://` and its `@`.
fn in_userinfo(before: &str, after: &[Piece]) -> bool {
    let Some(scheme) = before.find("://") else { return false };
    if before[scheme + 3..].contains(['/', '@']) {
        return false;
    }
    after
        .iter()
        .find_map(|piece| match piece {
            Piece::Text(text) => text.find(['/', '@']).map(|index| text.as_bytes()[index] == b'@'),
            Piece::Variable(_) => None,
        })
        .unwrap_or(false)
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.chars().all(|character| character.is_ascii_alphanumeric() || character == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_split_at_their_variables() {
        let variable = |name: &str| Piece::Variable(name.to_owned());
        let text = |text: &str| Piece::Text(text.to_owned());
        assert_eq!(split("a${B}c$$d"), Ok(vec![text("a"), variable("B"), text("c$d")]));
        assert_eq!(split("${A}${B:-x}"), Ok(vec![variable("A"), variable("B:-x")]));
        assert!(split("$HOME").is_err());
        assert!(split("${A").is_err());
    }

    #[test]
    fn only_user_and_password_are_encoded() {
        let host = [Piece::Text("@host/x".to_owned())];
        assert!(in_userinfo("mysql://user:", &host));
        assert!(in_userinfo("mysql://", &host));
        assert!(!in_userinfo("mysql://user:x@", &[Piece::Text("/db".to_owned())]));
        assert!(!in_userinfo("mysql://host/", &host));
        assert!(!in_userinfo("user:", &host));
    }

    #[test]
    fn env_files_are_read_as_shells_do() {
        let values = read_env("# comment\n\nA=1\nexport B=\"two words\"\nC='x # y'\nD=z # comment\nE=\n");
        let values = values.unwrap_or_else(|line| panic!("line {line}"));
        let of = |name: &str| values[name].as_str();
        assert_eq!((of("A"), of("B"), of("C"), of("D"), of("E")), ("1", "two words", "x # y", "z", ""));
        assert_eq!(read_env("A=1\nB"), Err(2));
        assert_eq!(read_env("1A=1"), Err(1));
    }
}
