//! The program as its users meet it: started on free ports, asked over HTTP, broken, mended and stopped.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};

struct Mocks {
    child: Child,
    places: Vec<String>,
    client: Client,
}

impl Mocks {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mock_backends"))
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("mock_backends starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let places = line.trim().strip_prefix("mock_backends ready: ").expect("the ready line");
        let places = places.split(", ").map(|place| place.split_once(' ').unwrap().1.to_owned()).collect();
        Self { child, places, client: Client::builder().timeout(Duration::from_secs(10)).build().unwrap() }
    }

    fn user() -> Self {
        Self::start(&["--instance", "user=127.0.0.1:0"])
    }

    async fn get(&self, path: &str) -> Response {
        self.try_get(path).await.expect("an answer")
    }

    async fn try_get(&self, path: &str) -> reqwest::Result<Response> {
        self.client.get(format!("http://{}{path}", self.places[0])).send().await
    }

    async fn post(&self, path: &str, body: &str) -> Response {
        self.client.post(format!("http://{}{path}", self.places[0])).body(body.to_owned()).send().await.unwrap()
    }
}

impl Drop for Mocks {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn json(response: Response) -> Value {
    response.json().await.expect("JSON")
}

#[tokio::test]
async fn lists_and_single_items() {
    let mocks = Mocks::user();
    let list = json(mocks.get("/users").await).await;
    assert_eq!(list["users"].as_array().unwrap().len(), 24);
    assert_eq!(json(mocks.get("/users/3").await).await, list["users"][2]);
}

#[tokio::test]
async fn one_range_of_an_answer_is_served() {
    let mocks = Mocks::user();
    let whole = mocks.get("/users/3?etag=a").await.bytes().await.unwrap();
    let length = whole.len();
    let ask = async |name: &str, headers: &[(&str, &str)]| {
        let url = format!("http://{}/users/{name}", mocks.places[0]);
        let request =
            headers.iter().fold(mocks.client.get(url), |request, (name, value)| request.header(*name, *value));
        let answer = request.send().await.unwrap();
        let said = answer.headers().get("content-range").map(|said| said.to_str().unwrap().to_owned());
        (answer.status().as_u16(), said.unwrap_or_default(), answer.bytes().await.unwrap())
    };
    for (range, start, end) in [("bytes=2-5", 2, 6), ("bytes=7-", 7, length), ("bytes=-4", length - 4, length)] {
        let said = format!("bytes {start}-{}/{length}", end - 1);
        assert_eq!(ask("3", &[("range", range)]).await, (206, said, whole.slice(start..end)), "{range}");
    }
    assert_eq!(ask("3", &[("range", "bytes=9999-")]).await.0, 416);
    assert_eq!(ask("3", &[("range", "bytes=9999-")]).await.1, format!("bytes */{length}"));
    for headers in [
        &[("range", "bytes=5-2")][..],
        &[("range", "bytes=0-1,3-4")],
        &[("range", "lines=1-2")],
        &[("range", "bytes=0-1"), ("if-range", "\"b\"")],
    ] {
        assert_eq!(ask("3?etag=a", headers).await, (200, String::new(), whole.clone()), "{headers:?}");
    }
    assert_eq!(ask("3?etag=a", &[("range", "bytes=0-1"), ("if-range", "\"a\"")]).await.0, 206);
    assert_eq!(ask("999", &[("range", "bytes=0-1")]).await.0, 404);
}

#[tokio::test]
async fn an_unknown_item_is_a_problem() {
    let answer = Mocks::user().get("/users/999").await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
}

#[tokio::test]
async fn creation_echoes_with_an_id() {
    let mocks = Mocks::user();
    let answer = mocks.post("/users", r#"{"name": "Mia"}"#).await;
    assert_eq!(answer.status(), StatusCode::CREATED);
    assert_eq!(answer.headers()["location"], "/users/25");
    assert_eq!(json(answer).await, json!({ "id": 25, "name": "Mia" }));
}

#[tokio::test]
async fn each_instance_names_itself() {
    let mocks = Mocks::start(&["--instance", "order=127.0.0.1:0", "--instance", "order=127.0.0.1:0"]);
    for (place, name) in mocks.places.iter().zip(["order-1", "order-2"]) {
        let answer = mocks.client.get(format!("http://{place}/orders")).send().await.unwrap();
        assert_eq!(answer.headers()["x-instance"], name);
    }
}

#[tokio::test]
async fn echo_shows_what_arrived() {
    let mocks = Mocks::user();
    let echo = json(mocks.post("/echo/deep?a=1", "text").await).await;
    assert_eq!(echo["method"], "POST");
    assert_eq!(echo["path"], "/echo/deep");
    assert_eq!(echo["query"], "a=1");
    assert_eq!(echo["body"], "text");
    assert_eq!(echo["headers"]["host"], json!([mocks.places[0]]));
}

#[tokio::test]
async fn a_query_shapes_the_answer() {
    let mocks = Mocks::user();
    let answer = mocks.get("/hello?cache_control=max-age=5&vary=Accept-Language&etag=v1&set_cookie=a=b&age=3&expires=0&status=203&bytes=1000").await;
    assert_eq!(answer.status(), 203);
    for (name, value) in [
        ("cache-control", "max-age=5"),
        ("vary", "Accept-Language"),
        ("etag", "\"v1\""),
        ("set-cookie", "a=b"),
        ("age", "3"),
        ("expires", "0"),
        ("content-length", "1000"),
        ("x-instance", "user-1"),
    ] {
        assert_eq!(answer.headers()[name], value, "{name}");
    }
}

#[tokio::test]
async fn a_known_etag_is_not_modified() {
    let mocks = Mocks::user();
    let url = format!("http://{}/hello?etag=v1", mocks.places[0]);
    let answer = mocks.client.get(&url).header("if-none-match", "\"v1\"").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(answer.headers()["etag"], "\"v1\"");
    assert_eq!(answer.bytes().await.unwrap().len(), 0);
}

#[tokio::test]
async fn hits_are_counted_by_path() {
    let mocks = Mocks::user();
    mocks.get("/hello").await;
    mocks.get("/hello?bytes=1").await;
    mocks.get("/nowhere").await;
    let hits = json(mocks.get("/hits").await).await;
    assert_eq!(hits["paths"], json!({ "/hello": 2, "/nowhere": 1 }));
    assert_eq!(hits["total"], 3);
}

#[tokio::test]
async fn a_broken_instance_fails_its_health_and_can_be_mended() {
    let mocks = Mocks::user();
    mocks.post("/simulate-failure", "").await;
    assert_eq!(mocks.get("/users").await.status(), 500);
    assert_eq!(mocks.get("/health").await.status(), 500);
    mocks.post("/simulate-failure", r#"{"mode": "errors", "status": 503}"#).await;
    assert_eq!(mocks.get("/users").await.status(), 503);
    mocks.post("/simulate-recovery", "").await;
    assert_eq!(mocks.get("/health").await.status(), 200);
}

#[tokio::test]
async fn a_reset_instance_answers_nothing() {
    let mocks = Mocks::user();
    mocks.post("/simulate-failure", r#"{"mode": "reset"}"#).await;
    assert!(mocks.try_get("/users").await.is_err());
    mocks.post("/simulate-recovery", "").await;
    assert_eq!(mocks.get("/users").await.status(), 200);
}

#[tokio::test]
async fn a_truncated_answer_breaks_in_its_body() {
    let mocks = Mocks::user();
    mocks.post("/simulate-failure", r#"{"mode": "truncate"}"#).await;
    let answer = mocks.get("/users").await;
    assert_eq!(answer.headers()["content-length"], "65536");
    assert!(answer.bytes().await.is_err());
}

#[tokio::test]
async fn a_hanging_instance_is_released_by_recovery() {
    let mocks = Mocks::user();
    mocks.post("/simulate-failure", r#"{"mode": "hang"}"#).await;
    let waits = tokio::time::timeout(Duration::from_millis(300), mocks.get("/users"));
    assert!(waits.await.is_err());
    mocks.post("/simulate-recovery", "").await;
    assert_eq!(mocks.get("/users").await.status(), 200);
}

#[tokio::test]
async fn latency_can_be_changed() {
    let mocks = Mocks::user();
    mocks.post("/simulate-latency", r#"{"latency": "200ms..250ms"}"#).await;
    let begin = Instant::now();
    mocks.get("/hello").await;
    assert!(begin.elapsed() >= Duration::from_millis(200));
    assert_eq!(mocks.post("/simulate-latency", r#"{"latency": "soon"}"#).await.status(), 400);
}

#[tokio::test]
async fn some_requests_stumble() {
    let mocks = Mocks::start(&["--instance", "user=127.0.0.1:0", "--error-rate", "0.5"]);
    let mut errors = 0;
    for _ in 0..100 {
        errors += usize::from(mocks.get("/hello").await.status() == 500);
    }
    assert!((20..=80).contains(&errors), "{errors}");
}

#[test]
fn sigterm_ends_it_cleanly() {
    let mut mocks = Mocks::user();
    Command::new("kill").arg(mocks.child.id().to_string()).status().unwrap();
    assert!(mocks.child.wait().unwrap().success());
}

#[test]
fn a_taken_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let place = format!("user={}", taken.local_addr().unwrap());
    let output = Command::new(env!("CARGO_BIN_EXE_mock_backends")).args(["--instance", &place]).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains(&taken.local_addr().unwrap().to_string()));
}

#[tokio::test]
async fn failures_hold_for_a_path_and_at_a_rate() {
    let mocks = Mocks::user();
    mocks.post("/simulate-failure", r#"{"status": 503, "path": "/users", "retry_after": 7}"#).await;
    let failed = mocks.get("/users/1").await;
    assert_eq!((failed.status().as_u16(), failed.headers()["retry-after"].to_str().unwrap()), (503, "7"));
    assert_eq!(mocks.get("/hello").await.status(), 200);
    let state = json(mocks.post("/simulate-failure", r#"{"rate": 0.5}"#).await).await;
    assert_eq!(state["mode"], "errors");
    let mut errors = 0;
    for _ in 0..100 {
        errors += usize::from(mocks.get("/hello").await.status() == 500);
    }
    assert!((20..=80).contains(&errors), "{errors}");
    let state = json(mocks.post("/simulate-recovery", "").await).await;
    assert_eq!((&state["mode"], &state["failures"]), (&json!("healthy"), &json!([])));
    assert_eq!(mocks.get("/users/1").await.status(), 200);
}

#[tokio::test]
async fn some_answers_are_slow() {
    let mocks = Mocks::user();
    mocks.post("/simulate-failure", r#"{"mode": "slow", "latency": "300ms", "path": "/hello"}"#).await;
    let begin = Instant::now();
    assert_eq!(mocks.get("/hello").await.status(), 200);
    assert!(begin.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn an_answer_may_drip_and_is_complete_in_the_end() {
    let mocks = Mocks::user();
    mocks.post("/simulate-failure", r#"{"mode": "drip", "pause": "2ms", "path": "/health"}"#).await;
    let begin = Instant::now();
    let answer = mocks.get("/health").await;
    assert_eq!(json(answer).await["status"], "ok");
    assert!(begin.elapsed() >= Duration::from_millis(200), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn a_body_may_end_in_a_reset() {
    let mocks = Mocks::user();
    mocks.post("/simulate-failure", r#"{"mode": "reset_body"}"#).await;
    let answer = mocks.get("/users").await;
    assert_eq!(answer.headers()["content-length"], "65536");
    assert!(answer.bytes().await.is_err());
}

#[tokio::test]
async fn garbage_is_no_http() {
    let mocks = Mocks::user();
    mocks.post("/simulate-failure", r#"{"mode": "garbage"}"#).await;
    assert!(mocks.try_get("/users").await.is_err());
    let mut stream = std::net::TcpStream::connect(&mocks.places[0]).unwrap();
    std::io::Write::write_all(&mut stream, b"GET /users HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut stream, &mut said).unwrap();
    assert_eq!(said, "220 mail.example ESMTP\r\n\r\n");
}

#[test]
fn a_stale_connection_is_closed_when_it_is_used_again() {
    let mocks = Mocks::user();
    let ask = |stream: &mut std::net::TcpStream, request: &str| {
        std::io::Write::write_all(stream, request.as_bytes()).unwrap();
        let mut bytes = [0; 4096];
        let count = std::io::Read::read(stream, &mut bytes).unwrap_or_default();
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    let mut stream = std::net::TcpStream::connect(&mocks.places[0]).unwrap();
    let body = r#"{"mode": "stale"}"#;
    let switch = format!("POST /simulate-failure HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert!(ask(&mut stream, &switch).starts_with("HTTP/1.1 200"));
    let get = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
    let first = ask(&mut stream, get);
    assert!(first.starts_with("HTTP/1.1 200") && !first.contains("connection: close"), "{first}");
    assert_eq!(ask(&mut stream, get), "");
}

#[tokio::test]
async fn connections_are_closed_or_refused_for_a_while() {
    for mode in ["close", "refuse"] {
        let mocks = Mocks::user();
        assert_eq!(mocks.post("/simulate-failure", &format!(r#"{{"mode": "{mode}"}}"#)).await.status(), 400);
        mocks.post("/simulate-failure", &format!(r#"{{"mode": "{mode}", "for": "500ms"}}"#)).await;
        let fresh = || std::net::TcpStream::connect(&mocks.places[0]);
        let begin = Instant::now();
        match mode {
            "refuse" => {
                while fresh().is_ok() {
                    assert!(begin.elapsed() < Duration::from_millis(400), "never refused");
                }
            }
            _ => assert_eq!(std::io::Read::read(&mut fresh().unwrap(), &mut [0; 9]).unwrap(), 0),
        }
        assert!(mocks.try_get("/users").await.is_err());
        tokio::time::sleep(Duration::from_millis(900)).await;
        assert_eq!(mocks.get("/users").await.status(), 200, "{mode}");
    }
}

#[tokio::test]
async fn what_arrived_is_remembered_even_without_an_answer() {
    let mocks = Mocks::user();
    mocks.post("/simulate-failure", r#"{"mode": "reset"}"#).await;
    let url = format!("http://{}/users", mocks.places[0]);
    assert!(mocks.client.post(&url).header("x-id", "order-7").body("{}").send().await.is_err());
    mocks.post("/simulate-recovery", "").await;
    mocks.client.get(&url).header("x-request-id", "one").send().await.unwrap();
    let all = json(mocks.get("/arrivals").await).await;
    let all = all["arrivals"].as_array().unwrap();
    let told: Vec<_> = all.iter().map(|one| (one["method"].as_str().unwrap(), one["id"].as_str().unwrap())).collect();
    assert_eq!(told, [("POST", "order-7"), ("GET", "one")]);
    assert!(all[1]["at_ms"].as_f64() >= all[0]["at_ms"].as_f64());
}
