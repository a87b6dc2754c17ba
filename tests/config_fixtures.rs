//! Fixtures of configurations, good and bad: the first lines of a bad one say what is wrong with it, exactly.
//! `BLESS=1 cargo test --test config_fixtures` writes those lines anew; read the difference before it is committed.
//! Also here: what documentation and schema say about the grammar, and that no input makes the reader panic.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test that cannot go on fails

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::Value;
use tollgate::config::{self, Config, Problems};

const EXPECT: &str = "# expect: ";

/// The environment of all fixtures.
fn environment(name: &str) -> Option<String> {
    let value = match name {
        "PASSWORD" => "p@ss:/w#rd",
        "SECRET" => "hunter2hunter2",
        "HOST" => "10.1.2.3",
        "PORT" => "8080",
        "THREADS" => "4",
        "WORD" => "word",
        _ => return None,
    };
    Some(value.to_owned())
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config").join(name)
}

/// Path and text of each fixture.
fn fixtures(name: &str) -> Vec<(PathBuf, String)> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

fn read(path: &Path, text: &str) -> Result<Config, Problems> {
    config::read(text, path, &environment)
}

/// The problems as a fixture writes them: `LINE:COLUMN path: message`.
fn problems(path: &Path, text: &str) -> Vec<String> {
    let Err(problems) = read(path, text) else { return Vec::new() };
    // An expectation must be the same on every machine.
    let here = folder("bad").display().to_string();
    let prefix = format!("{}:", path.display());
    problems.lines().iter().map(|line| line.strip_prefix(&prefix).unwrap_or(line).replace(&here, "FOLDER")).collect()
}

fn expected(text: &str) -> Vec<&str> {
    text.lines().map_while(|line| line.strip_prefix(EXPECT)).collect()
}

#[test]
fn bad_configurations_are_refused_with_the_expected_problems() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut report = String::new();
    for (path, text) in fixtures("bad") {
        if bless {
            let text = blessed(&path, &text);
            std::fs::write(&path, text).unwrap();
            continue;
        }
        let (expected, found) = (expected(&text), problems(&path, &text));
        if expected == found && !found.is_empty() {
            continue;
        }
        let _ = writeln!(report, "\n{}", path.file_name().unwrap().display());
        expected.iter().filter(|line| !found.iter().any(|other| other == *line)).for_each(|line| {
            let _ = writeln!(report, "  - {line}");
        });
        found.iter().filter(|line| !expected.contains(&line.as_str())).for_each(|line| {
            let _ = writeln!(report, "  + {line}");
        });
        if found.is_empty() {
            let _ = writeln!(report, "  + no problem at all");
        }
    }
    assert!(report.is_empty(), "expected (-) and found (+):\n{report}");
}

/// The fixture with its problems as its first lines; they move the rest down, so it is read again with as many lines.
fn blessed(path: &Path, text: &str) -> String {
    let body: String =
        text.lines().skip_while(|line| line.starts_with(EXPECT)).map(|line| format!("{line}\n")).collect();
    let count = problems(path, &body).len();
    let moved = format!("{}{body}", "#\n".repeat(count));
    let lines: String = problems(path, &moved).iter().map(|line| format!("{EXPECT}{line}\n")).collect();
    format!("{lines}{body}")
}

#[test]
fn every_problem_has_a_place_and_no_fixture_shows_a_secret() {
    for (path, text) in fixtures("bad") {
        let problems = read(&path, &text).err().unwrap_or_default();
        for problem in problems.iter() {
            assert!(problem.place.is_some(), "{}: {problem:?}", path.display());
            for secret in ["hunter2", "tg_te0IY", "p@ss"] {
                assert!(!problems.to_string().contains(secret), "{}: {secret} is shown", path.display());
            }
        }
    }
}

#[test]
fn there_are_enough_kinds_of_mistake() {
    let bad = fixtures("bad");
    let several = bad.iter().filter(|(_, text)| expected(text).len() > 1).count();
    assert!(bad.len() >= 70, "{} bad fixtures", bad.len());
    assert!(several >= 12, "{several} with several problems");
    assert!(fixtures("good").len() >= 20);
}

#[test]
fn good_configurations_are_read_and_dumps_read_as_themselves() {
    for (path, text) in fixtures("good") {
        let config = read(&path, &text).unwrap_or_else(|problems| panic!("{problems}"));
        let dump = config::dump(&config).unwrap();
        let again = read(&path, &dump).unwrap_or_else(|problems| panic!("{}:\n{problems}\n{dump}", path.display()));
        assert_eq!(config::dump(&again).unwrap(), dump, "{}", path.display());
        assert_same(&path, &config, &again);
        for secret in ["hunter2", "p@ss", "10.1.2.3"] {
            assert!(!dump.contains(secret), "{}: {secret} is shown", path.display());
        }
    }
}

/// Compares what a configuration means; a dump writes down what routes take from `defaults`.
fn assert_same(path: &Path, one: &Config, other: &Config) {
    let filled = |config: &Config| {
        let mut config = config.clone();
        for route in config.routes.values_mut() {
            route.keys.get_or_insert_with(|| config.defaults.keys.clone());
            route.limit.get_or_insert_with(|| config.defaults.limit.clone());
            route.body_max.get_or_insert(config.defaults.body_max);
            route.timeout.get_or_insert(config.defaults.timeout);
        }
        for (name, key) in &mut config.keys {
            key.consumer.get_or_insert_with(|| name.clone());
        }
        for listener in &mut config.listen {
            listener.http2.get_or_insert(!listener.tls.is_empty());
        }
        config.places = Default::default();
        format!("{config:#?}")
    };
    assert_eq!(filled(one), filled(other), "{}", path.display());
}

#[test]
fn the_demo_is_a_good_configuration() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/tollgate.yaml");
    let config = config::load(&path).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(config.is_loopback_only());
    assert_eq!(config.keys["demo"].sha256, config::DEMO_KEY_SHA256);
    // The key itself stands in a comment, so that people can try it.
    let text = std::fs::read_to_string(&path).unwrap();
    let start = text.find("tg_").expect("the demo key in a comment");
    let key: String = text[start..].chars().take_while(|character| !character.is_whitespace()).collect();
    assert!(tollgate::keys::looks_like_key(&key), "{key}");
    assert_eq!(tollgate::keys::digest_of(key.as_bytes()), config::DEMO_KEY_SHA256);
}

#[test]
fn the_schema_file_is_the_schema_of_the_types() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/tollgate.schema.json");
    let schema = config::json_schema();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &schema).unwrap();
    }
    let file = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        file == schema,
        "conf/tollgate.schema.json is old: write it with `tollgate config schema > conf/tollgate.schema.json`"
    );
}

#[test]
fn the_documentation_has_every_field_with_its_default_and_no_other() {
    let schema: Value = serde_json::from_str(&config::json_schema()).unwrap();
    let mut found = BTreeMap::new();
    collect(&schema, &schema, "", &mut found);
    // A list that may be written as one element is documented as the list, a service as the map.
    let mut fields: BTreeMap<String, (String, Option<String>)> = BTreeMap::new();
    for (path, default) in found {
        let kept = fields.entry(path.replace("[]", "")).or_insert_with(|| (path.clone(), default.clone()));
        if path.len() > kept.0.len() {
            *kept = (path, default);
        }
    }
    fields.retain(|_, (path, _)| !path.starts_with("services.NAME[]"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let documented: BTreeMap<&str, &str> = rows.collect();
    let fields: BTreeMap<&str, &Option<String>> =
        fields.values().map(|(path, default)| (path.as_str(), default)).collect();
    let missing: Vec<_> = fields.keys().filter(|field| !documented.contains_key(*field)).collect();
    let unknown: Vec<_> = documented.keys().filter(|field| !fields.contains_key(*field)).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "not documented: {missing:#?}\nnot in the schema: {unknown:#?}");
    for (field, default) in fields {
        if let Some(default) = default {
            let row = documented[field];
            assert!(
                row.starts_with(&format!("`{default}` |")),
                "{field}: the default is `{default}`, the row says {row}"
            );
        }
    }
}

/// The paths of all fields below a schema, such as `services.NAME.instances[].address`, with defaults that are scalars.
fn collect(root: &Value, schema: &Value, path: &str, fields: &mut BTreeMap<String, Option<String>>) {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
        let target = name.strip_prefix('#').and_then(|pointer| root.pointer(pointer)).unwrap();
        collect(root, target, path, fields);
    }
    for word in ["anyOf", "oneOf", "allOf"] {
        for part in schema.get(word).and_then(Value::as_array).into_iter().flatten() {
            collect(root, part, path, fields);
        }
    }
    for (name, child) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let child_path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let default = match child.get("default") {
            Some(Value::String(text)) => Some(text.clone()),
            Some(other @ (Value::Number(_) | Value::Bool(_))) => Some(other.to_string()),
            _ => None,
        };
        fields.insert(child_path.clone(), default);
        collect(root, child, &child_path, fields);
    }
    if let Some(items) = schema.get("items") {
        collect(root, items, &format!("{path}[]"), fields);
    }
    if let Some(entries) = schema.get("additionalProperties").filter(|entries| entries.is_object()) {
        collect(root, entries, &format!("{path}.NAME"), fields);
    }
}

#[test]
fn ten_thousand_routes_are_read_in_time() {
    let mut text = "listen: 127.0.0.1:8080\nadmin: none\nlog: none\nservices: {a: [127.0.0.1:1]}\nroutes:\n".to_owned();
    for number in 0..10_000 {
        let _ = writeln!(text, "  GET /api/v{}/s{number}/{{id}}: {{to: a, limit: 10/min, cache: 5s}}", number % 7);
    }
    let start = std::time::Instant::now();
    let config = read(Path::new("/x/many.yaml"), &text).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.routes.len(), 10_000);
    assert!(start.elapsed() < std::time::Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn nesting_and_aliases_are_bounded() {
    let deep = format!("listen: {}1{}\n", "[".repeat(100), "]".repeat(100));
    assert!(problems(Path::new("/x/deep.yaml"), &deep)[0].contains("nested deeper"));
    let bomb = "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n";
    assert!(problems(Path::new("/x/bomb.yaml"), bomb).iter().any(|line| line.contains("aliases are not read")));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn no_change_of_a_good_file_makes_the_reader_panic(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(WORDS), any::<bool>()), 1..6),
    ) {
        let files = fixtures("good");
        let (path, text) = &files[which.index(files.len())];
        let mut characters: Vec<char> = text.chars().collect();
        for (at, word, replace) in &changes {
            let at = at.index(characters.len() + 1);
            let end = if *replace { (at + word.chars().count() + 1).min(characters.len()) } else { at };
            characters.splice(at..end, word.chars());
        }
        let text: String = characters.into_iter().collect();
        if let Err(problems) = read(path, &text) {
            prop_assert!(!problems.lines().is_empty());
            prop_assert!(problems.iter().all(|problem| problem.place.is_some()), "{problems}");
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "(listen|admin|log|routes|services|[a-z:/*{}\\[\\]\"'&!|>#%@`$\\- \n\t,?]){0,40}") {
        let _ = read(Path::new("/x/any.yaml"), &text);
    }
}

/// What is inserted into good files: everything that means something to YAML or to the grammar.
const WORDS: &[&str] = &[
    "",
    " ",
    "\n",
    "\t",
    ":",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "#",
    "&a ",
    "*a",
    "!",
    "|",
    ">",
    "'",
    "\"",
    "%",
    "@",
    "`",
    "?",
    "---\n",
    "...\n",
    "${",
    "}",
    "$",
    "${X}",
    "${WORD}",
    "none",
    "null",
    "no",
    "~",
    "0",
    "-1",
    "99999999999999999999",
    "1e9",
    ".5",
    "0x1F",
    "é",
    "\u{0}",
    "\u{feff}",
    "\u{2028}",
    "😀",
    "/",
    "/*",
    "//",
    "%2F",
    "per",
    " and ",
    "burst 0",
    "10/min",
    "<<: ",
    "\\",
    "\r",
    "routes:\n",
];
