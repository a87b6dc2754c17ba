//! Questions to the request log over HTTP: the answers of `analytics`, and every way not to get one.

use super::*;
use crate::analytics::tests::database::{Database, Statements};

fn log() -> Database {
    let mut log = Statements::default();
    let now = jiff::Timestamp::now();
    log.request(1, 1, now, &[("consumer", "'acme'")]);
    log.request(1, 2, now, &[("path", "'=1'")]);
    Database::with(&log.0)
}

#[tokio::test]
async fn questions_are_answered_as_json_and_csv() {
    let api = Api::start().await;
    let log = log();
    *api.gateway.log_store.lock() = log.url();
    let usage = json_of(api.get("/admin/usage?last=1h&by=key,status").await, 200).await;
    assert_eq!((&usage["by"], &usage["totals"]["requests"]), (&json!(["key", "status"]), &json!(0)));
    assert_eq!(json_of(api.get("/admin/usage?summary").await, 200).await["summary"].as_array().unwrap().len(), 3);
    let page = json_of(api.get("/admin/requests?consumer=acme").await, 200).await;
    assert_eq!(page["requests"][0]["sequence"], 1);
    let id = page["requests"][0]["request_id"].as_str().unwrap().to_owned();
    assert_eq!(json_of(api.get(&format!("/admin/requests/{id}")).await, 200).await["requests"][0], page["requests"][0]);
    let first = json_of(api.get("/admin/requests?limit=1").await, 200).await;
    let next = format!("/admin/requests?limit=1&before={}", first["before"].as_str().unwrap());
    let last = json_of(api.get(&next).await, 200).await;
    assert_eq!((&last["requests"][0]["sequence"], last.get("before")), (&json!(1), None));
    let csv = api.get("/admin/requests?format=csv").await;
    assert_eq!(csv.headers()["content-type"], "text/csv; charset=utf-8; header=present");
    assert!(csv.text().await.unwrap().contains(",\"'=1\","));
}

#[tokio::test]
async fn what_can_not_be_asked_is_a_problem() {
    let api = Api::start().await;
    problem_of(api.get("/admin/usage").await, 404, "no_log").await;
    let log = log();
    *api.gateway.log_store.lock() = log.url();
    for query in ["colour=red", "by=colour", "last=1h&last=2h", "last=1h&from=2026-03-01", "format=table", "top=0"] {
        problem_of(api.get(&format!("/admin/usage?{query}")).await, 400, "bad_request").await;
    }
    let problem = problem_of(api.get("/admin/requests?min-ms=5").await, 400, "bad_request").await;
    assert!(problem["detail"].as_str().unwrap().contains("no parameter `min-ms`; there are before,"), "{problem}");
    problem_of(api.get("/admin/requests/1").await, 400, "bad_id").await;
    problem_of(api.get("/admin/requests/00000000-0000-0000-0000-000000000009").await, 404, "no_request").await;
    problem_of(api.get("/admin/requests/00000000-0000-0000-0000-000000000001?x=1").await, 400, "bad_request").await;
    problem_of(api.post("/admin/usage", "").await, 405, "method_not_allowed").await;
    *api.gateway.log_store.lock() = StoreUrl::Mysql("mysql://user:s3cret@127.0.0.1:1/tollgate".to_owned());
    let response = api.get("/admin/usage").await;
    assert_eq!(response.headers()["retry-after"], "1");
    let problem = problem_of(response, 503, "log_away").await;
    assert!(!problem.to_string().contains("s3cret"), "{problem}");
}

#[tokio::test]
async fn few_questions_are_answered_at_once() {
    let api = Api::start().await;
    // A server that takes the connection and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    *api.gateway.log_store.lock() = StoreUrl::Mysql(format!("mysql://user@127.0.0.1:{port}/tollgate"));
    let asking: Vec<_> = (0..2).map(|_| tokio::spawn(api.ask(Method::GET, "/admin/usage").send())).collect();
    let mut held = vec![silent.accept().await.unwrap(), silent.accept().await.unwrap()];
    let refused = api.get("/admin/usage").await;
    assert_eq!(refused.headers()["retry-after"], "1");
    problem_of(refused, 503, "busy").await;
    held.clear();
    for asked in asking {
        problem_of(asked.await.unwrap().unwrap(), 503, "log_away").await;
    }
    // The slots are free again: the question goes to the store.
    *api.gateway.log_store.lock() = StoreUrl::None;
    problem_of(api.get("/admin/usage").await, 404, "no_log").await;
}
