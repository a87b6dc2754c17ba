//! The templates of `loadtest/peers/`: text with places like `@LISTEN@`, each filled exactly as told.
//! No conditions and no loops: what differs between setups is a part of its own, chosen in the contender's file.

use std::io;

/// `template` with every `@NAME@` replaced. A place that has no value, and a value that has no place, is an error.
/// A place alone on its line takes several lines, each indented like the place, so that parts can be nested in YAML;
/// with an empty value the line is gone.
pub fn fill(template: &str, values: &[(&str, &str)]) -> io::Result<String> {
    let mut used = vec![false; values.len()];
    let mut value = |name: &str| {
        let at = values.iter().position(|(known, _)| *known == name);
        let at = at.ok_or_else(|| io::Error::other(format!("the place @{name}@ of a template has no value")))?;
        used[at] = true;
        Ok::<&str, io::Error>(values[at].1)
    };
    let mut text = String::with_capacity(template.len());
    for line in template.lines() {
        let indent = &line[..line.len() - line.trim_start().len()];
        if let Some((before, name, "")) = next_place(line.trim())
            && before.is_empty()
        {
            for part in value(name)?.lines() {
                let indent = if part.is_empty() { "" } else { indent };
                text.extend([indent, part, "\n"]);
            }
            continue;
        }
        let mut rest = line;
        while let Some((before, name, after)) = next_place(rest) {
            text.extend([before, value(name)?]);
            rest = after;
        }
        text.extend([rest, "\n"]);
    }
    match used.iter().position(|used| !used) {
        Some(at) => Err(io::Error::other(format!("no template has the place @{}@", values[at].0))),
        None => Ok(text),
    }
}

/// The text before the first place, its name, and the text after it.
pub fn next_place(text: &str) -> Option<(&str, &str, &str)> {
    for (at, _) in text.match_indices('@') {
        let behind = &text[at + 1..];
        let length = behind.find(|c: char| !c.is_ascii_uppercase() && c != '_').unwrap_or(behind.len());
        if length > 0 && behind[length..].starts_with('@') {
            return Some((&text[..at], &behind[..length], &behind[length + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(template: &str, values: &[(&str, &str)], expected: &str) {
        assert_eq!(fill(template, values).unwrap(), expected);
    }

    #[test]
    fn places_within_a_line_are_filled() {
        check("a @B@@C@ d\n", &[("B", "1"), ("C", "2")], "a 12 d\n");
    }

    #[test]
    fn a_place_on_its_own_line_takes_lines_indented_like_it() {
        check("a:\n  @B@\nc\n", &[("B", "x:\n  y\n\nz\n")], "a:\n  x:\n    y\n\n  z\nc\n");
    }

    #[test]
    fn an_empty_value_takes_its_line_with_it() {
        check("a\n  @B@\nc\n", &[("B", "")], "a\nc\n");
    }

    #[test]
    fn what_is_no_place_stays() {
        check("me@here @ @a@ fd@3 @@\n", &[], "me@here @ @a@ fd@3 @@\n");
    }

    #[test]
    fn a_place_without_a_value_is_an_error() {
        assert!(fill("@A@", &[]).unwrap_err().to_string().contains("@A@"));
    }

    #[test]
    fn a_value_without_a_place_is_an_error() {
        assert!(fill("a", &[("A", "1")]).unwrap_err().to_string().contains("@A@"));
    }
}
