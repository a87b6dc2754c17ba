//! The same questions to a MariaDB server of their own: the statements, and the rows as that store gives them.

#[path = "../../../tests/support/mariadb.rs"]
mod server;

use std::time::Duration;

use super::database::{MYSQL, Statements, reader};
use crate::analytics::requests::{Question, Requests};
use crate::analytics::usage::tests::same_answers;
use crate::analytics::{Audit, Format, Parameters, question};
use crate::config::StoreUrl;
use crate::store::read::{Reader, Unreadable};

#[test]
fn mariadb_gives_the_same_answers() {
    let server = server::MariaDb::start();
    let url = StoreUrl::Mysql(server.url());
    let open = || Reader::open(&url, Duration::from_secs(30));
    assert!(open().err().unwrap().to_string().contains("tollgate run"));
    server.sql(MYSQL[0]);
    assert!(open().err().unwrap().to_string().contains("tollgate log migrate"));
    server.sql(MYSQL[1]);
    assert!(open().err().unwrap().to_string().contains("tollgate log migrate"));
    server.sql(MYSQL[2]);
    assert!(open().err().unwrap().to_string().contains("tollgate log migrate"));
    server.sql(MYSQL[3]);
    // As many statements at once as an argument of a command may hold.
    let fill = |statements: &str| {
        let mut part = String::new();
        for statement in statements.split_inclusive(";\n") {
            if part.len() + statement.len() > 100_000 {
                server.sql(&std::mem::take(&mut part));
            }
            part += statement;
        }
        server.sql(&part);
    };
    same_answers(fill, || reader(&url));

    let mut log = Statements::default();
    let now: jiff::Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
    for sequence in 1..=3 {
        log.request(1, sequence, now, &[("client_ip", "X'7F000001'"), ("consumer", "'acme'"), ("upstream_ms", "0.5")]);
    }
    server.sql(&log.0);
    let page = |before: Option<String>| {
        let mut pairs = vec![("limit".to_owned(), "2".to_owned()), ("consumer".to_owned(), "acme".to_owned())];
        pairs.push(("last".to_owned(), "all".to_owned()));
        pairs.extend(before.map(|before| ("before".to_owned(), before)));
        let (question, _) = question(Parameters::new(pairs), &Format::ALL, Question::take, now).unwrap();
        question.answer(&mut reader(&url)).unwrap()
    };
    let first = page(None);
    let second = page(first.before.clone());
    let sequences = |page: &Requests| page.requests.iter().map(|request| request.sequence).collect::<Vec<_>>();
    assert_eq!((sequences(&first), sequences(&second)), (vec![3, 2], vec![1]));
    let one = Requests::with_id(&mut reader(&url), uuid::Uuid::from_u128(2)).unwrap();
    assert_eq!(one.requests[0].timestamp, now);
    assert_eq!((one.requests[0].client_ip, one.requests[0].upstream_ms), (Some([127, 0, 0, 1].into()), Some(0.5)));

    let audit = Audit::of(&mut reader(&url), now).unwrap();
    assert!(audit.json().contains("3 rows of api_logs are in no batch"), "{}", audit.json());
    let mut hurried = Reader::open(&url, Duration::from_millis(1)).unwrap_or_else(|_| reader(&url));
    std::thread::sleep(Duration::from_millis(5));
    assert!(matches!(hurried.runs(), Err(Unreadable::TooLong(_)) | Ok(_)));
}
