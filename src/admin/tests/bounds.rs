//! What a slow, silent or numerous client of the admin listener can hold, and how the listener starts and stops.

use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

const IMPATIENT: Bounds = Bounds {
    connections_max: 2,
    header_timeout: Duration::from_millis(300),
    body_timeout: Duration::from_millis(300),
    age_max: Duration::from_millis(1_500),
    close_timeout: Duration::from_millis(300),
};

async fn raw(api: &Api, sent: &str) -> (String, Duration) {
    let started = Instant::now();
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    stream.write_all(sent.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    closed.expect("the connection is held for ever").unwrap();
    (String::from_utf8(answer).unwrap(), started.elapsed())
}

#[tokio::test]
async fn silent_and_slow_clients_are_disconnected() {
    let api = Api::with(None, IMPATIENT).await;
    let host = api.address;
    let (silent, _) = raw(&api, "").await;
    assert_eq!(silent, "");
    let (in_header, _) = raw(&api, "GET /health HTTP/1.1\r\nHo").await;
    assert!(!in_header.contains("200 OK"), "{in_header}");
    let (idle, _) = raw(&api, &format!("GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
    assert!(idle.starts_with("HTTP/1.1 200 OK"), "{idle}");
    let unfinished = format!("POST /admin/cache/clear HTTP/1.1\r\nHost: {host}\r\nContent-Length: 10\r\n\r\n{{");
    let (in_body, _) = raw(&api, &unfinished).await;
    assert!(in_body.starts_with("HTTP/1.1 408") && in_body.contains("client_timeout"), "{in_body}");
}

#[tokio::test]
async fn connections_over_the_bound_wait_for_others_to_end() {
    let api = Api::with(None, IMPATIENT).await;
    let _held = (TcpStream::connect(api.address).await.unwrap(), TcpStream::connect(api.address).await.unwrap());
    tokio::time::sleep(Duration::from_millis(50)).await;
    let started = Instant::now();
    assert_eq!(api.get("/health").await.status(), 200);
    assert!(started.elapsed() > Duration::from_millis(100), "both slots were held");
}

#[tokio::test]
async fn a_busy_connection_is_closed_when_it_is_old() {
    let api = Api::with(None, IMPATIENT).await;
    let mut stream = TcpStream::connect(api.address).await.unwrap();
    let request = format!("GET /health HTTP/1.1\r\nHost: {}\r\n\r\n", api.address);
    let started = Instant::now();
    let mut buffer = [0; 4_096];
    loop {
        let written = stream.write_all(request.as_bytes()).await;
        if written.is_err() || stream.read(&mut buffer).await.unwrap_or(0) == 0 {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(8), "the connection is held for ever");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(started.elapsed() > Duration::from_secs(1));
}

#[tokio::test]
async fn a_stop_lets_answers_in_hand_finish_and_waits_for_nobody_else() {
    let api = Api::start().await;
    let _idle = TcpStream::connect(api.address).await.unwrap();
    assert_eq!(api.get("/health").await.status(), 200);
    api.gateway.reload_slowly.store(true, Ordering::SeqCst);
    let request = api.ask(Method::POST, "/admin/reload");
    let answer = tokio::spawn(async move { request.send().await.unwrap().status() });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let stopping = Instant::now();
    api.stop.notify_one();
    api.serving.await.unwrap();
    assert!(stopping.elapsed() < Duration::from_secs(2), "{:?}", stopping.elapsed());
    assert_eq!(answer.await.unwrap(), 200);
    assert!(TcpStream::connect(api.address).await.is_err());
}

#[tokio::test]
async fn a_taken_address_is_an_error_that_names_it() {
    let api = Api::start().await;
    let error = bind(api.address).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    assert!(error.to_string().starts_with(&format!("admin: can't listen on {}: ", api.address)), "{error}");
}
