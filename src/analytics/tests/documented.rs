//! What docs/ says of answers: every column, figure and member of theirs is in its table there, and nothing else.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::database::{Database, MYSQL, SQLITE, Statements};
use crate::analytics::{Format, Inventory, Parameters, question, requests, usage};
use crate::store::read::Logged;

const OPERATIONS: &str = include_str!("../../../docs/operations.md");
const ANALYTICS: &str = include_str!("../../../docs/analytics.md");
const REQUEST_LOG: &str = include_str!("../../../docs/request-log.md");

/// The rows of the table that begins with this line.
fn table(text: &'static str, header: &str) -> Vec<Vec<&'static str>> {
    let lines = text.lines().skip_while(|line| *line != header).skip(2).take_while(|line| line.starts_with('|'));
    let rows: Vec<_> = lines.map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect()).collect();
    assert!(!rows.is_empty(), "there is no table {header}");
    rows
}

/// The names in the first cells.
fn names(rows: &[Vec<&'static str>]) -> Vec<&'static str> {
    rows.iter().flat_map(|row| row[0].split(", ")).map(|name| name.trim_matches('`')).collect()
}

fn members(object: &Value) -> Vec<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

fn sorted(mut names: Vec<&str>) -> Vec<&str> {
    names.sort_unstable();
    names
}

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn log() -> Database {
    let mut log = Statements::default();
    log.request(1, 1, now() - SignedDuration::from_secs(60), &[]);
    Database::with(&log.0)
}

/// Name, type and whether it must be there, of each column of `api_logs`.
fn columns(schema: &'static str) -> Vec<(&'static str, &'static str, bool)> {
    let (_, table) = schema.split_once("CREATE TABLE IF NOT EXISTS api_logs (").unwrap();
    let lines = table.lines().skip(1).take_while(|line| !line.trim_start().starts_with("PRIMARY KEY"));
    let column = |line: &'static str| {
        let (name, rest) = line.trim().split_once(' ').unwrap();
        let end = [" NOT NULL", " NULL", ","].into_iter().find_map(|end| rest.find(end)).unwrap();
        (name.trim_matches(['`', '"']), rest[..end].trim(), rest[end..].starts_with(" NOT NULL"))
    };
    lines.map(column).collect()
}

#[test]
fn every_column_of_a_request_is_in_the_docs() {
    let rows = table(REQUEST_LOG, "| column | MySQL, MariaDB | SQLite | meaning |");
    assert_eq!(names(&rows), Logged::NAMES);
    let (mysql, sqlite) = (columns(MYSQL[0]), columns(SQLITE[0]));
    assert_eq!((mysql.len(), sqlite.len()), (rows.len(), rows.len()));
    for (row, (in_mysql, in_sqlite)) in rows.iter().zip(mysql.iter().zip(&sqlite)) {
        let missing = if in_mysql.2 { "" } else { ", may be missing" };
        assert_eq!(row[1], format!("{}{missing}", in_mysql.1), "{}", row[0]);
        assert_eq!((row[0].trim_matches('`'), in_sqlite.0, row[2]), (in_mysql.0, in_mysql.0, in_sqlite.1));
        assert!(row.len() == 4 && !row[3].is_empty(), "{row:?}");
    }
    let given = Parameters::new(vec![("last".to_owned(), "1h".to_owned())]);
    let (question, _) = question(given, &Format::ALL, requests::Question::take, now()).unwrap();
    let page = question.answer(&mut log().reader()).unwrap();
    let json: Value = serde_json::from_str(&page.json()).unwrap();
    assert_eq!(sorted(members(&json["requests"][0])), sorted(names(&rows)));
    assert_eq!(page.csv(false).lines().next(), Some(&*names(&rows).join(",")));
}

#[test]
fn every_column_of_usage_is_in_the_docs() {
    let figures = names(&table(ANALYTICS, "| figure | unit | meaning |"));
    let labels = names(&table(ANALYTICS, "| told apart by | in JSON | meaning |"));
    let asked = |by: &str| {
        let given = Parameters::new(vec![("by".to_owned(), by.to_owned())]);
        question(given, &Format::ALL, usage::Question::take, now()).map(|(question, _)| question)
    };
    let answer = asked(&labels.join(",")).unwrap().answer(&mut log().reader(), now()).unwrap();
    let columns: Vec<&str> = labels.iter().chain(&figures).copied().collect();
    assert_eq!(answer.csv(false), columns.join(",") + "\n");
    let json: Value = serde_json::from_str(&answer.json()).unwrap();
    assert_eq!(sorted(members(&json["totals"])), sorted(figures));
    // What there is to tell apart by, as the program says itself.
    let why = asked("nothing").unwrap_err();
    let (_, words) = why.split_once("none of ").unwrap();
    assert_eq!(words.split(", ").collect::<Vec<_>>(), labels);
}

#[test]
fn every_member_of_a_key_is_in_the_docs() {
    let digest = "0123456789abcdef".repeat(4);
    let text = format!("listen: 127.0.0.1:1\nadmin: none\nlog: none\nkeys:\n  acme: {{sha256: \"{digest}\"}}\n");
    let config = crate::config::read(&text, Path::new("/x/tollgate.yaml"), &|_| None).unwrap();
    let json: Value = serde_json::from_str(&Inventory::of(&config.keys, &[], 30, now()).json()).unwrap();
    let (_, section) = OPERATIONS.split_once("### Keys over the admin API").unwrap();
    assert_eq!(sorted(members(&json["keys"][0])), sorted(names(&table(section, "| member | meaning |"))));
}
