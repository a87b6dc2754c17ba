//! What docs/ says of the admin API: every path of the router is there, every member of the log's state, and the bounds of the
//! tail.

use super::*;
use crate::admin::tail::LASTS;
use crate::request_log::FOLLOWERS_MAX;

const OPERATIONS: &str = include_str!("../../../docs/operations.md");
const ANALYTICS: &str = include_str!("../../../docs/analytics.md");

/// Method and path of every route of the router.
fn routes() -> Vec<String> {
    let mut routes = Vec::new();
    for line in include_str!("../api.rs").lines() {
        let route = line.trim().strip_prefix(".route(\"").and_then(|line| line.split_once("\", "));
        let Some((path, handlers)) = route else { continue };
        for (handler, method) in [("get(", "GET"), ("post(", "POST"), ("put(", "PUT"), ("delete(", "DELETE")] {
            if handlers.contains(handler) {
                routes.push(format!("{method} {path}"));
            }
        }
    }
    routes
}

/// What is between this heading of docs/analytics.md and the next one.
fn section(heading: &str) -> &'static str {
    let (_, section) = ANALYTICS.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    section.split_once("\n## ").map_or(section, |(section, _)| section)
}

#[test]
fn every_path_is_in_the_docs() {
    let routes = routes();
    assert!(routes.len() >= 25, "{routes:?}");
    // What a client is called is said in words.
    let in_words = |route: &String| route.replace("{client}", "{ip or key name}");
    for route in routes.iter().map(in_words) {
        assert!(OPERATIONS.contains(&format!("\n| `{route}` | ")), "docs/operations.md has no row for {route}");
    }
    let rows = OPERATIONS.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let is_method = |row: &str| ["GET ", "POST ", "PUT ", "DELETE "].iter().any(|method| row.starts_with(method));
    for (row, _) in rows.filter(|(row, _)| is_method(row)) {
        assert!(routes.iter().map(in_words).any(|route| route == row), "docs/operations.md has a row for {row}");
    }
}

/// The members of an object and of those within: `a.b` for one in another. Those of `dropped` and `limits` are told elsewhere.
fn members(within: &str, value: &Value, names: &mut Vec<String>) {
    for (name, value) in value.as_object().into_iter().flatten() {
        let name = format!("{within}{name}");
        if !matches!(&*name, "dropped" | "retention.limits") {
            members(&format!("{name}."), value.get(0).unwrap_or(value), names);
        }
        names.push(name);
    }
}

#[test]
fn every_member_of_the_account_is_in_the_docs() {
    let status = serde_json::to_value(Gateway::default().log()).unwrap();
    let mut written = Vec::new();
    members("", &status, &mut written);
    let cells = section("The account").lines().filter_map(|line| line.strip_prefix("| ")?.split_once(" | "));
    let names = cells.filter(|(cell, _)| cell.starts_with('`')).flat_map(|(cell, _)| cell.split(", "));
    let mut documented: Vec<&str> = names.map(|name| name.trim_matches('`')).collect();
    written.sort_unstable();
    documented.sort_unstable();
    assert_eq!(written, documented);
    for limit in status["retention"]["limits"].as_object().unwrap().keys() {
        assert!(section("The account").contains(&format!("`{limit}`")), "{limit}");
    }
}

#[test]
fn the_bounds_of_the_tail_are_in_the_docs() {
    for part in [format!("At most {FOLLOWERS_MAX} followers"), format!("ends after {} s", LASTS.as_secs())] {
        assert!(section("The tail").contains(&part), "{part}");
    }
}
