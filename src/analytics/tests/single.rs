//! Single requests, and the audit of a database as a whole.

use jiff::Timestamp;
use serde_json::Value;

use super::database::{Database, Statements};
use crate::analytics::requests::{Question, Requests};
use crate::analytics::{Audit, Format, Parameters, Style, question};

const NOW: &str = "2026-03-01T12:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn at(seconds_ago: i64) -> Timestamp {
    Timestamp::from_second(now().as_second() - seconds_ago).unwrap()
}

fn ask(database: &Database, pairs: &[(&str, &str)]) -> Requests {
    let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let (question, _) = question(Parameters::new(pairs), &Format::ALL, Question::take, now()).unwrap();
    question.answer(&mut database.reader()).unwrap()
}

#[track_caller]
fn check(database: &Database, pairs: &[(&str, &str)], sequences: &[u64]) {
    let found: Vec<u64> = ask(database, pairs).requests.iter().map(|request| request.sequence).collect();
    assert_eq!(found, sequences, "{pairs:?}");
}

fn some() -> Database {
    let mut log = Statements::default();
    log.request(1, 1, at(100), &[("consumer", "'acme'"), ("key", "'k1'")]);
    log.request(1, 2, at(90), &[("status_code", "503"), ("is_error", "1"), ("endpoint", "'/b'")]);
    log.request(2, 1, at(90), &[("status_code", "404"), ("response_time_ms", "250.25"), ("http_method", "'POST'")]);
    log.request(1, 3, at(50), &[("service", "'users'"), ("instance", "'127.0.0.1:1'"), ("path", "'=\u{1b}[2J'")]);
    log.request(1, 4, at(3 * 86_400), &[]);
    Database::with(&log.0)
}

#[test]
fn requests_are_listed_newest_first_and_filtered() {
    let database = some();
    check(&database, &[], &[3, 1, 2, 1]);
    check(&database, &[("last", "all")], &[3, 1, 2, 1, 4]);
    check(&database, &[("status", "5xx")], &[2]);
    check(&database, &[("status", "404"), ("status", "500-503")], &[1, 2]);
    check(&database, &[("endpoint", "/b")], &[2]);
    check(&database, &[("consumer", "acme"), ("key", "k1")], &[1]);
    check(&database, &[("consumer", "(none)")], &[3, 1, 2]);
    check(&database, &[("method", "POST")], &[1]);
    check(&database, &[("service", "users"), ("instance", "127.0.0.1:1")], &[3]);
    check(&database, &[("min_ms", "250.25")], &[1]);
    check(&database, &[("decided_by", "cache")], &[]);
    // Half-open, to the microsecond.
    check(&database, &[("from", "2026-03-01T11:58:20Z"), ("to", "2026-03-01T11:58:30Z")], &[1]);
    check(&database, &[("from", "2026-03-01T11:58:20.000001Z"), ("to", "2026-03-01T11:58:30.000001Z")], &[1, 2]);
}

#[test]
fn pages_follow_each_other() {
    let database = some();
    let mut sequences = Vec::new();
    let mut before: Option<String> = None;
    for _ in 0..5 {
        let mut pairs = vec![("limit", "1"), ("last", "all")];
        pairs.extend(before.as_deref().map(|before| ("before", before)));
        let page = ask(&database, &pairs);
        sequences.extend(page.requests.iter().map(|request| (request.run, request.sequence)));
        before.clone_from(&page.before);
    }
    assert_eq!(sequences, [(1, 3), (2, 1), (1, 2), (1, 1), (1, 4)]);
    assert_eq!(before, None);
}

#[test]
fn one_request_is_shown_with_all_its_facts() {
    let mut log = Statements::default();
    let id = uuid::Uuid::from_u128(7);
    log.request(1, 7, at(10), &[("client_ip", "X'7F000001'"), ("upstream_ms", "0.75"), ("cache", "'miss'")]);
    log.request(2, 8, at(5), &[("request_id", "X'00000000000000000000000000000007'")]);
    let database = Database::with(&log.0);
    let found = Requests::with_id(&mut database.reader(), id).unwrap();
    let text = found.facts();
    for line in
        ["client_ip         127.0.0.1", "upstream_ms       0.75", "cache             miss", "host              -"]
    {
        assert!(text.contains(line), "{text}");
    }
    let json: Value = serde_json::from_str(&found.json()).unwrap();
    assert_eq!(json["requests"].as_array().unwrap().len(), 2);
    assert_eq!(json["requests"][0]["timestamp"], "2026-03-01T11:59:50.000000Z");
    assert_eq!(json["requests"][0]["request_id"], id.to_string());
    // The members are the columns.
    let mut names: Vec<_> = json["requests"][0].as_object().unwrap().keys().map(String::as_str).collect();
    let mut columns = crate::store::read::Logged::NAMES.to_vec();
    names.sort_unstable();
    columns.sort_unstable();
    assert_eq!(names, columns);
}

#[test]
fn what_clients_made_steers_neither_terminal_nor_spreadsheet() {
    let page = ask(&some(), &[("limit", "1")]);
    let table = page.table(Style::default());
    assert!(table.contains("=\\u{1b}[2J") && !table.contains('\u{1b}'), "{table}");
    assert!(table.ends_with(&format!("--before {}\n", page.before.clone().unwrap())), "{table}");
    let csv = page.csv(false);
    assert!(csv.starts_with("timestamp,endpoint,") && csv.contains(",\"'=\u{1b}[2J\","), "{csv}");
}

#[test]
fn a_database_is_audited_as_a_whole() {
    let mut log = Statements::default();
    let minute = |text: &str| crate::store::usage::Minute::of(text.parse::<Timestamp>().unwrap().into());
    log.run(1, minute(NOW), minute(NOW), minute(NOW));
    log.0 += "UPDATE log_runs SET closed_at = beat_at, accepted = 4, written = 4, last = 4;
              INSERT INTO log_batches VALUES (1, 1, 4, 4, '2026-03-01 11:00:00.000000', '2026-03-01 11:00:09.000000', '2026-03-01 11:01:00.000000');";
    for sequence in 1..=4 {
        log.request(1, sequence, at(10), &[]);
    }
    let clean = Database::with(&log.0);
    let audit = Audit::of(&mut clean.reader(), now()).unwrap();
    assert!(audit.is_clean(), "{}", audit.json());
    assert!(audit.table(Style::default()).contains("no findings"));
    let lacking = Database::with(&(log.0 + "DELETE FROM api_logs WHERE sequence = 2;"));
    let audit = Audit::of(&mut lacking.reader(), now()).unwrap();
    let json: Value = serde_json::from_str(&audit.json()).unwrap();
    assert_eq!(json["findings"][0]["kind"], "missing_rows");
    assert_eq!(json["runs"][0]["state"], "closed");
    assert!(audit.table(Style::default()).contains("run 1: numbers 1 to 4: 1 of 4 rows are missing"));
}

#[test]
fn reading_creates_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log.db");
    let open = |path: &std::path::Path| {
        let url = crate::config::StoreUrl::Sqlite(path.to_owned());
        crate::store::read::Reader::open(&url, std::time::Duration::from_secs(5)).err().unwrap().to_string()
    };
    assert!(open(&path).contains("tollgate run"));
    assert!(!path.exists());
    std::fs::write(&path, "").unwrap();
    assert!(open(&path).contains("holds no request log"));
    rusqlite::Connection::open(&path).unwrap().execute_batch(super::database::SQLITE[0]).unwrap();
    assert!(open(&path).contains("tollgate log migrate"));
}

#[test]
fn the_table_fits_every_terminal() {
    let mut log = Statements::default();
    let (method, path) = (format!("'{}'", "M".repeat(32)), format!("'/{}'", "p".repeat(300)));
    let odd = [("http_method", &*method), ("path", &*path), ("response_time_ms", "30000.25"), ("consumer", "'acme'")];
    log.request(1, 1, at(10), &odd);
    log.request(1, 2, at(20), &[]);
    let database = Database::with(&log.0);
    let page = ask(&database, &[("limit", "1"), ("zone", "Europe/Berlin")]);
    assert!(page.before.is_some());
    for width in [20, 32, 40, 60, 70, 80, 100, 200] {
        let table = page.table(Style { width: Some(width), colours: false });
        assert!(table.lines().all(|line| line.chars().count() <= width), "{width}:\n{table}");
        assert!(table.contains("| path") && table.contains("| /p"), "{width}:\n{table}");
        let titles = table.lines().next().unwrap();
        let has_all = ["time", "method", "status", " ms"].iter().all(|title| titles.contains(title));
        assert!(width < 80 || has_all, "{width}:\n{table}");
    }
}

#[test]
fn what_is_written_can_not_steer_a_terminal() {
    let mut log = Statements::default();
    let agent = "x\u{9b}31m\u{202e}\u{7f}\u{e0100}ä😀";
    log.request(1, 1, at(10), &[("user_agent", &format!("'{agent}'"))]);
    let page = ask(&Database::with(&log.0), &[]);
    let json = page.json();
    assert!(json.contains(r"x\u009b31m\u202e\u007f\udb40\udd00ä😀"), "{json}");
    let read: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(read["requests"][0]["user_agent"], agent);
    assert!(page.csv(false).contains(agent), "{}", page.csv(false));
    let seen = page.csv(true);
    assert!(seen.contains(r"x\u{9b}31m\u{202e}\u{7f}\u{e0100}ä😀"), "{seen}");
    assert!(!seen.chars().any(|letter| letter.is_control() && letter != '\n'), "{seen}");
}
