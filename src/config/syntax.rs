//! What people get wrong in YAML itself, said in words that help: tabs, aliases from unquoted `*`, braces in flow lists.
//! The parser's own words are kept only where nothing better is known.

use super::problems::Problem;
use super::tree::{Mark, problem};

const TABS_SHOWN_MAX: usize = 20;

/// A problem for each line that is indented with a tab.
pub fn tabs(text: &str) -> Vec<Problem> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let indent = &line[..line.len() - line.trim_start_matches([' ', '\t']).len()];
        let rest = &line[indent.len()..];
        if let (Some(column), false) = (indent.find('\t'), rest.is_empty() || rest.starts_with('#')) {
            found.push(problem(place(number, column), "", "a tab: YAML is indented with spaces only"));
        }
        if found.len() == TABS_SHOWN_MAX {
            break;
        }
    }
    found
}

/// `*` without quotes is an alias.
pub fn alias(text: &str, at: Mark) -> Problem {
    let word = word_at(text, at);
    if word.contains(['.', '/']) {
        problem(at, "", format!("YAML reads `*` as an alias: write the pattern in quotes, \"{word}\""))
    } else {
        problem(
            at,
            "",
            format!("`{word}`: aliases are not read; write the value here, in quotes if it begins with `*`"),
        )
    }
}

/// `{` inside `[ ]` or `{ }` begins a map.
pub fn flow(text: &str, at: Mark) -> Problem {
    let word = flow_word(text, at);
    problem(at, "", format!("YAML reads `{{` here as the beginning of a map: write the value in quotes{word}"))
}

/// The parser's error at `at` in our words; `last` is where the last good value began.
pub fn explain(text: &str, last: Mark, at: Mark, info: &str) -> Problem {
    let line = line_of(text, at);
    if info.contains("unknown anchor") {
        return alias(text, at);
    }
    if info.contains("flow") && ["${", "/{"].iter().any(|brace| line.contains(brace)) {
        return flow(text, at);
    }
    if info.contains("simple key") {
        return no_value(text, last, at);
    }
    let message = if info.contains("flow sequence") {
        "a list that begins with `[` is not closed with `]`, or a `,` is missing".to_owned()
    } else if info.contains("flow mapping") {
        "a map that begins with `{` is not closed with `}`, or a `,` is missing".to_owned()
    } else if info.contains("mapping values are not allowed") {
        "a `:` that YAML cannot place: is this line indented like its neighbours? A value that holds `: ` is written in quotes".to_owned()
    } else if info.contains("quoted scalar") && info.contains("end of stream") {
        "a quote that is never closed".to_owned()
    } else if info.contains("trailing content") {
        "text after a closing quote: put the whole value in quotes".to_owned()
    } else if info.contains("did not find expected") {
        "this line is not indented like its neighbours".to_owned()
    } else if let Some(character) = info.strip_prefix("unexpected character: `") {
        let character = character.trim_end_matches('\'');
        format!("a value cannot begin with `{character}`: write it in quotes")
    } else {
        format!("this is no YAML: {info}")
    };
    problem(at, "", message)
}

/// A line without `: `; the parser notices only lines later, so it is looked for after the last good value.
fn no_value(text: &str, last: Mark, at: Mark) -> Problem {
    let first = text.lines().enumerate().skip(last.0 as usize).find(|(_, line)| {
        let line = line.trim_start();
        !line.is_empty() && !line.starts_with('#')
    });
    let Some((number, line)) = first else {
        return problem(at, "", "a `name: value` is expected here");
    };
    let start = line.trim_start();
    let at = place(number, line.len() - start.len());
    match start.as_bytes() {
        [b'*', ..] => alias(text, at),
        [b'-', next, ..] if !next.is_ascii_whitespace() => {
            problem(at, "", "a list element is written with a space after `-`")
        }
        _ => problem(at, "", "a `name: value` is expected here, with a space after the colon"),
    }
}

fn line_of(text: &str, at: Mark) -> &str {
    text.lines().nth(at.0 as usize - 1).unwrap_or_default()
}

/// The word that begins at `at`, without a closing colon.
fn word_at(text: &str, at: Mark) -> String {
    let line = line_of(text, at);
    let rest: String = line.chars().skip(at.1 as usize - 1).collect();
    let end = rest.find([' ', ',', ']', '}']).unwrap_or(rest.len());
    rest[..end].trim_end_matches(':').to_owned()
}

/// `, e.g. "/a/{x}"`: the word around a brace, when it can be told.
fn flow_word(text: &str, at: Mark) -> String {
    let line = line_of(text, at);
    let Some(brace) = ["${", "/{"].iter().filter_map(|brace| line.find(brace)).min() else { return String::new() };
    let start = line[..brace].rfind([' ', '[', ',']).map_or(0, |index| index + 1);
    let rest = &line[start..];
    let end = rest.find([' ', ',', ']']).unwrap_or(rest.len());
    let word = rest[..end].trim_start_matches('{');
    let closing = word.matches('{').count();
    let mut shown = String::new();
    let mut closed = 0;
    for character in word.chars() {
        if character == '}' {
            closed += 1;
            if closed > closing {
                break;
            }
        }
        shown.push(character);
    }
    format!(", \"{}\"", shown.trim_end_matches(':'))
}

fn place(line_index: usize, column_index: usize) -> Mark {
    (u32::try_from(line_index + 1).unwrap_or(u32::MAX), u32::try_from(column_index + 1).unwrap_or(u32::MAX))
}
