//! The architecture is a test: which module may import which, how long functions and files may be, what every file says.
//! Reads the sources as text, so a rule is broken the moment it is written, not when somebody looks.
//! A rule that is in the way is a question about the design; the tables below are its answer so far.

#[path = "tidy/imports.rs"]
mod imports;
#[path = "tidy/source.rs"]
mod source;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use imports::Import;
use source::Source;

/// From top to bottom. A module imports from the rows below its own, never from its own row or above.
const ROWS: &[&[&str]] = &[
    &["server"],
    &["admin", "gateway"],
    &["runtime", "analytics"],
    &["policy"],
    &["upstream", "cache", "keys", "limit_store", "request_log"],
    &["store"],
    &["config", "refusal", "record", "build_facts"],
    &["json", "pem", "words"],
];

/// Within a row, by name: a refusal borrows the word by which records call a client that left.
const WITHIN_A_ROW: &[(&str, &[&str])] = &[("refusal", &["record"])];

/// Outside the rows. `metrics` counts records and knows nothing else; the parts do not know that they are measured.
const BESIDE: &[(&str, &[&str])] = &[("metrics", &["record"])];

/// Who may import a module that is outside the rows.
const MAY_IMPORT_METRICS: &[&str] = &["server", "admin", "gateway"];

/// A policy uses its own part and no other; limits count the consumers that keys name.
const PARTS_OF_POLICIES: &[(&str, &[&str])] = &[
    ("auth", &["keys"]),
    ("limit", &["keys", "limit_store"]),
    ("concurrency", &["keys"]),
    ("cache", &["cache"]),
    ("retry", &["upstream"]),
];

/// The parts that only their own policy may use.
const PARTS: &[&str] = &["upstream", "cache", "keys", "limit_store", "request_log", "store"];

/// The command line sees everything but the data path, which only a server runs.
const CLI_MAY_NOT: &[&str] = &["gateway"];

const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 400;
const DOC_LINES_MIN: usize = 2;
const NO_MODULE_NAMES: &[&str] = &["manager", "helper", "util", "common", "context"];
const NO_PLACES: &[&str] = &["/work/", "/home/", "/root/", "/Users/"];
const NO_MARKS: &[&str] = &["TODO", "FIXME", "XXX"];

#[test]
fn the_sources_keep_the_rules() {
    let sources = read(Path::new(env!("CARGO_MANIFEST_DIR")), "src");
    assert!(sources.len() > 20, "only {} files found under src", sources.len());
    let problems = problems(&sources);
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

#[test]
fn what_is_committed_names_no_place_on_a_machine() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["benches", "mock_backends", "loadtest", "tests", "scripts", "conf", "deploy", "docs"];
    let mut problems = Vec::new();
    for source in folders.iter().flat_map(|folder| read(package, folder)) {
        // This file has to write the words down.
        if source.path != "tests/tidy.rs" {
            problems.extend(machine_places(&source));
            problems.extend(marks(&source));
        }
    }
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

/// All text files below a folder of the package, in a fixed order.
fn read(package: &Path, folder: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut folders = vec![package.join(folder)];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if let (Ok(text), Ok(relative)) = (fs::read_to_string(&path), path.strip_prefix(package)) {
                sources.push(Source::new(&relative.to_string_lossy(), &text));
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

/// Everything that is wrong, as `file:line: what`.
fn problems(sources: &[Source]) -> Vec<String> {
    let imports: Vec<Import> = sources.iter().filter(|source| !source.is_test()).flat_map(imports::imports).collect();
    let mut problems = Vec::new();
    for source in sources {
        problems.extend(documentation(source));
        problems.extend(names(source));
        problems.extend(unsafe_code(source));
        problems.extend(machine_places(source));
        problems.extend(marks(source));
        problems.extend(lengths(source));
    }
    problems.extend(imports.iter().filter_map(import));
    problems.extend(between_policies(sources, &imports));
    problems.extend(
        imports::cycles(sources, &imports).into_iter().map(|cycle| format!("src: modules import each other: {cycle}")),
    );
    // `use a::{self, B}` breaks a rule once, not twice.
    let mut told = BTreeSet::new();
    problems.retain(|problem| told.insert(problem.clone()));
    problems
}

fn documentation(source: &Source) -> Option<String> {
    let lines = source.text.lines().take_while(|line| line.starts_with("//!")).count();
    let path = &source.path;
    let lines_min = if source.is_test() { 1 } else { DOC_LINES_MIN };
    (lines < lines_min).then(|| {
        format!("{path}:1: begins with {lines} lines of `//!`, at least {lines_min} say what it is and what it is not")
    })
}

fn names(source: &Source) -> Vec<String> {
    let is_bad = |name: &str| {
        name.split('_')
            .any(|part| NO_MODULE_NAMES.iter().any(|bad| part == *bad || part.strip_suffix('s') == Some(bad)))
    };
    let mut problems = Vec::new();
    if source.module().iter().any(|name| is_bad(name)) {
        problems.push(format!("{}:1: the module's name says nothing: {}", source.path, source.module().join("::")));
    }
    for (at, token) in source.tokens.iter().enumerate() {
        if let (Some("mod"), Some(name)) = (source.word(at), source.word(at + 1))
            && is_bad(name)
        {
            problems.push(format!("{}:{}: the module's name says nothing: {name}", source.path, token.line));
        }
    }
    problems
}

fn unsafe_code(source: &Source) -> Vec<String> {
    let places = source.tokens.iter().enumerate().filter(|(at, _)| source.word(*at) == Some("unsafe"));
    places.map(|(_, token)| format!("{}:{}: unsafe code", source.path, token.line)).collect()
}

fn machine_places(source: &Source) -> Vec<String> {
    let stands_alone = |line: &str, place: &str| {
        line.match_indices(place)
            .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-/*}".contains(c)))
    };
    lines_with(source, "names a place on somebody's machine", |line| {
        NO_PLACES.iter().any(|place| stands_alone(line, place))
    })
}

fn marks(source: &Source) -> Vec<String> {
    let is_word = |word: &str| NO_MARKS.contains(&word);
    lines_with(source, "unfinished work belongs into an issue", |line| {
        line.split(|c: char| !c.is_alphanumeric()).any(is_word)
    })
}

fn lines_with(source: &Source, what: &str, is_bad: impl Fn(&str) -> bool) -> Vec<String> {
    let lines = source.text.lines().enumerate().filter(|(_, line)| is_bad(line));
    lines.map(|(at, line)| format!("{}:{}: {what}: {}", source.path, at + 1, line.trim())).collect()
}

fn lengths(source: &Source) -> Vec<String> {
    let path = &source.path;
    let mut problems = Vec::new();
    let lines = source.lines_of_code();
    if lines > FILE_LINES_MAX && !source.is_test() {
        problems.push(format!("{path}:1: {lines} lines of code, at most {FILE_LINES_MAX}"));
    }
    for function in source.functions() {
        if function.lines > FUNCTION_LINES_MAX {
            let (line, name, lines) = (function.line, &function.name, function.lines);
            problems.push(format!("{path}:{line}: fn {name} has {lines} lines, at most {FUNCTION_LINES_MAX}"));
        }
    }
    problems
}

/// Whether one import goes down.
fn import(import: &Import) -> Option<String> {
    let to = import.to.first()?;
    let is_own = import.from.first() == Some(to);
    // A name at the root that is no module: a macro, or a type that lib.rs re-exports.
    let is_module = row(to).is_some() || to == "cli" || BESIDE.iter().any(|(module, _)| module == to);
    if is_own || !is_module {
        return None;
    }
    let place = format!("{}:{}", import.path, import.line);
    let Some(from) = import.from.first() else {
        let is_entry = import.path == "src/main.rs" && to != "cli";
        return is_entry
            .then(|| format!("{place}: the program hands its arguments to cli, and imports nothing else: {to}"));
    };
    let part = import.from.get(1).map_or("", String::as_str);
    if from == "policy" && PARTS.contains(&to.as_str()) && !is_listed(PARTS_OF_POLICIES, part, to) {
        return Some(format!("{place}: a policy uses its own part only: {from}::{part} imports {to}"));
    }
    (!may_import(from, to)).then(|| format!("{place}: imports go down only: {from} imports {to}"))
}

fn may_import(from: &str, to: &str) -> bool {
    if from == "cli" {
        return !CLI_MAY_NOT.contains(&to);
    }
    if to == "metrics" {
        return MAY_IMPORT_METRICS.contains(&from);
    }
    if BESIDE.iter().any(|(module, _)| *module == from) {
        return is_listed(BESIDE, from, to);
    }
    is_listed(WITHIN_A_ROW, from, to) || matches!((row(from), row(to)), (Some(from), Some(to)) if from < to)
}

fn row(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

fn is_listed(table: &[(&str, &[&str])], key: &str, value: &str) -> bool {
    table.iter().any(|(name, values)| *name == key && values.contains(&value))
}

/// Policies that import each other, directly or through what `policy/mod.rs` re-exports; and modules that have no row.
fn between_policies(sources: &[Source], imports: &[Import]) -> Vec<String> {
    let modules: Vec<Vec<String>> = sources.iter().map(Source::module).collect();
    let policies: BTreeSet<String> = modules
        .iter()
        .filter(|module| module.len() >= 2 && module[0] == "policy")
        .map(|module| module[1].clone())
        .collect();
    let root = sources.iter().find(|source| source.module() == ["policy"]);
    let reexports = root.map(|root| imports::reexports(root, &policies)).unwrap_or_default();
    let mut problems = Vec::new();
    for import in imports {
        if let ([layer, policy, ..], [to_layer, name, ..]) = (&import.from[..], &import.to[..])
            && layer == "policy"
            && to_layer == "policy"
        {
            let other = if policies.contains(name) { name } else { reexports.get(name).unwrap_or(policy) };
            if other != policy {
                problems.push(format!(
                    "{}:{}: no policy imports another: {policy} imports {other}",
                    import.path, import.line
                ));
            }
        }
    }
    let has_place =
        |name: &str| row(name).is_some() || name == "cli" || BESIDE.iter().any(|(module, _)| *module == name);
    for source in sources {
        if let Some(name) = source.module().first().filter(|name| !has_place(name)) {
            problems
                .push(format!("{}:1: the module {name} has no row: what it may import is not decided", source.path));
        }
    }
    problems
}

/// The checker itself: each rule finds the code that breaks it, and leaves alone what looks alike.
mod checker {
    use super::*;

    const DOC: &str = "//! What it is.\n//! What it is not.\n";

    #[track_caller]
    fn check(files: &[(&str, &str)], expected: &[&str]) {
        let sources: Vec<Source> =
            files.iter().map(|(path, text)| Source::new(path, &format!("{DOC}{text}"))).collect();
        let problems = problems(&sources);
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
        for (problem, expected) in problems.iter().zip(expected) {
            assert!(problem.starts_with(expected), "{problem}\ndoes not begin with\n{expected}");
        }
    }

    #[test]
    fn an_import_upwards_is_found() {
        check(
            &[("src/store/mysql.rs", "use crate::runtime::Runtime;")],
            &["src/store/mysql.rs:3: imports go down only: store imports runtime"],
        );
    }

    #[test]
    fn an_import_downwards_is_fine() {
        check(&[("src/gateway/mod.rs", "use crate::{config::Config, policy::limit, record::{Record, Tally}};")], &[]);
    }

    #[test]
    fn each_path_of_a_group_counts() {
        let file = ("src/cache/mod.rs", "use crate::{\n    config::Size, keys::Keys,\n    runtime::{self, Runtime}};");
        check(
            &[file],
            &[
                "src/cache/mod.rs:3: imports go down only: cache imports keys",
                "src/cache/mod.rs:3: imports go down only: cache imports runtime",
            ],
        );
    }

    #[test]
    fn a_path_in_code_counts() {
        check(
            &[("src/config/mod.rs", "fn f() {\n    crate::server::run();\n}")],
            &["src/config/mod.rs:4: imports go down only: config imports server"],
        );
    }

    #[test]
    fn a_path_through_super_counts() {
        check(
            &[("src/keys/table.rs", "use super::super::admin::Api;")],
            &["src/keys/table.rs:3: imports go down only: keys imports admin"],
        );
    }

    #[test]
    fn super_in_an_inline_module_is_the_file() {
        check(
            &[("src/keys.rs", "mod table {\n    use super::Digest;\n    use super::super::server::run;\n}")],
            &["src/keys.rs:5: imports go down only: keys imports server"],
        );
    }

    #[test]
    fn a_policy_may_not_import_another() {
        let files = [
            ("src/policy/auth.rs", ""),
            ("src/policy/limit.rs", "use super::auth::Auth;"),
            ("src/policy/mod.rs", "pub mod auth; pub mod limit;"),
        ];
        check(&files, &["src/policy/limit.rs:3: no policy imports another: limit imports auth"]);
    }

    #[test]
    fn a_policy_may_not_import_another_through_a_reexport() {
        let files = [
            ("src/policy/auth.rs", ""),
            ("src/policy/limit.rs", "use crate::policy::Auth;"),
            ("src/policy/mod.rs", "mod auth; mod limit; pub use auth::{Auth, Scheme};"),
        ];
        check(&files, &["src/policy/limit.rs:3: no policy imports another: limit imports auth"]);
    }

    #[test]
    fn a_policy_uses_its_own_part_only() {
        let files = [
            ("src/policy/auth.rs", "use crate::keys::Table;"),
            ("src/policy/limit.rs", "use crate::keys::Table; use crate::cache::Store;"),
        ];
        check(&files, &["src/policy/limit.rs:3: a policy uses its own part only: policy::limit imports cache"]);
    }

    #[test]
    fn metrics_know_records_only() {
        check(
            &[("src/metrics.rs", "use crate::record::Record; use crate::config::Config;")],
            &["src/metrics.rs:3: imports go down only: metrics imports config"],
        );
    }

    #[test]
    fn no_part_knows_that_it_is_measured() {
        check(
            &[("src/cache/mod.rs", "use crate::metrics::Metrics;")],
            &["src/cache/mod.rs:3: imports go down only: cache imports metrics"],
        );
    }

    #[test]
    fn the_command_line_does_not_see_the_data_path() {
        let file = ("src/cli.rs", "use crate::server::run; use crate::analytics::usage; use crate::gateway::Gateway;");
        check(&[file], &["src/cli.rs:3: imports go down only: cli imports gateway"]);
    }

    #[test]
    fn the_program_hands_over_to_the_command_line() {
        check(&[("src/main.rs", "fn main() { tollgate::cli::main(); }")], &[]);
        check(
            &[("src/main.rs", "fn main() { tollgate::server::run(); }")],
            &["src/main.rs:3: the program hands its arguments to cli"],
        );
    }

    #[test]
    fn a_cycle_between_modules_is_found() {
        let files = [
            ("cache", "use crate::keys::Keys;"),
            ("keys", "use crate::upstream::Pool;"),
            ("upstream", "use crate::cache::Store;"),
        ];
        let sources: Vec<Source> =
            files.iter().map(|(name, text)| Source::new(&format!("src/{name}.rs"), text)).collect();
        let imports: Vec<Import> = sources.iter().flat_map(imports::imports).collect();
        assert_eq!(imports::cycles(&sources, &imports), ["cache > keys > upstream > cache"]);
    }

    #[test]
    fn a_module_and_its_children_are_no_cycle() {
        check(&[("src/config/mod.rs", "mod a; pub use self::a::A;"), ("src/config/a.rs", "use super::Config;")], &[]);
    }

    #[test]
    fn a_module_without_a_row_is_found() {
        check(&[("src/plugins.rs", "")], &["src/plugins.rs:1: the module plugins has no row"]);
    }

    #[test]
    fn tests_import_what_they_like() {
        check(
            &[(
                "src/record.rs",
                "#[cfg(test)]\nmod tests {\n    use crate::server::run;\n}\n#[cfg(test)]\nuse crate::admin::Api;",
            )],
            &[],
        );
    }

    #[test]
    fn comments_and_strings_are_no_code() {
        let text = "// crate::server\n/* unsafe /* nested */ crate::admin::x */\nconst A: &str = \"crate::server::run unsafe \\\" {\";\nconst B: &str = r#\"unsafe \" {\"#;\nconst C: char = '{';\nfn f<'a>(x: &'a str) -> char { '\\'' }";
        check(&[("src/record.rs", text)], &[]);
    }

    #[test]
    fn a_file_says_what_it_is() {
        let problems = problems(&[Source::new("src/record.rs", "//! A record.\n\nstruct Record;\n")]);
        assert_eq!(
            problems,
            ["src/record.rs:1: begins with 1 lines of `//!`, at least 2 say what it is and what it is not"]
        );
    }

    #[test]
    fn a_long_function_is_found() {
        let body = |lines: usize| {
            format!("fn short() {{}}\nfn long(a: [u8; 2])\n{{\n{}\n    // said\n}}\n", "    work();\n\n".repeat(lines))
        };
        check(&[("src/record.rs", &body(70))], &[]);
        check(&[("src/record.rs", &body(71))], &["src/record.rs:4: fn long has 71 lines, at most 70"]);
    }

    #[test]
    fn a_long_file_is_found() {
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "const T: u8 = 1;\n".repeat(500));
        let text = |lines: usize| format!("{}\n/* said */\n// said\n{tests}", "const A: u8 = 1;\n".repeat(lines));
        check(&[("src/record.rs", &text(400))], &[]);
        check(&[("src/record.rs", &text(401))], &["src/record.rs:1: 401 lines of code, at most 400"]);
    }

    #[test]
    fn unsafe_code_is_found() {
        check(&[("src/record.rs", "fn f() {\n    unsafe { g() }\n}")], &["src/record.rs:4: unsafe code"]);
    }

    #[test]
    fn unfinished_work_is_found() {
        check(&[("src/record.rs", "// TODO: later\n// TODOS")], &["src/record.rs:3: unfinished work"]);
    }

    #[test]
    fn a_name_that_says_nothing_is_found() {
        check(&[("src/cache/util.rs", "")], &["src/cache/util.rs:1: the module's name says nothing"]);
        check(
            &[("src/cache/mod.rs", "mod key_helpers;\nmod commonly;")],
            &["src/cache/mod.rs:3: the module's name says nothing: key_helpers"],
        );
    }

    #[test]
    fn a_place_on_a_machine_is_found() {
        let text = "// see /home/me/notes\nconst A: &str = \"api/home/x\";\nconst B: &str = \"/homework\";";
        check(&[("src/record.rs", text)], &["src/record.rs:3: names a place on somebody's machine"]);
    }
}
