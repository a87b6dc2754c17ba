//! What is written about a request, to SQL and as JSON lines, and what must never be written anywhere.

use serde_json::Value;

use crate::harness::{Backend, Config, Gateway, Reply, Signal, eventually, seconds};

const SECRETS: [&str; 4] = ["top-secret-key", "query-secret", "bearer-secret", "cookie-secret"];

/// A gateway that was sent secrets in every place a client has.
async fn told_secrets(log: &str) -> (Gateway, Backend) {
    let backend = Backend::start().await;
    let config = Config::new()
        .service("service", &[backend.address])
        .route("/*", "to: service")
        .route("/dead", "to: dead")
        .service("dead", &[crate::harness::free_address()])
        .key_named("acme-2026", "top-secret-key", "acme")
        .log(log);
    let gateway = Gateway::start(&config).await;
    for path in ["/?token=query-secret", "/dead?token=query-secret", "/../x?token=query-secret"] {
        let lines = "X-API-Key: top-secret-key\r\nAuthorization: Bearer bearer-secret\r\nCookie: a=cookie-secret\r\n";
        gateway.wire().await.get(path, lines).await;
    }
    gateway.get("/?api_key=query-secret").key("bearer-secret").await;
    gateway
        .wire()
        .await
        .get("/?token=query-secret", &format!("Cookie: cookie-secret\r\nX: {}\r\n", "y".repeat(70_000)))
        .await;
    let mut half = gateway.wire().await;
    half.send("GET /?token=query-secret HTTP/1.1\r\nX-API-Key: top-secret-key\r\nbroken\r\n\r\n").await;
    half.rest(seconds(5)).await;
    (gateway, backend)
}

fn no_secret_in(what: &str, text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{secret} in {what}:\n{text}");
    }
}

#[tokio::test]
async fn no_query_and_no_key_reaches_any_output() {
    let (mut gateway, _backend) = told_secrets("{store: \"sqlite:log.db\", json: log.jsonl}").await;
    gateway.log_written().await;
    gateway.signal(Signal::SIGTERM);
    gateway.wait_exit(seconds(5)).await;
    no_secret_in("stderr", &gateway.said());
    no_secret_in("stdout", &gateway.printed());
    no_secret_in("the JSON lines", &std::fs::read_to_string(gateway.path("log.jsonl")).unwrap());
    let database = std::fs::read(gateway.path("log.db")).unwrap();
    no_secret_in("the database", &String::from_utf8_lossy(&database));
}

#[tokio::test]
async fn a_query_is_kept_redacted_where_it_is_asked_for() {
    let (gateway, _backend) = told_secrets("{store: \"sqlite:log.db\", query: redacted}").await;
    gateway.get("/?page=2&token=query-secret").key("top-secret-key").await;
    gateway.log_written().await;
    let paths = gateway.sqlite_texts("SELECT path FROM api_logs").join("\n");
    assert!(paths.contains("page=2"), "{paths}");
    no_secret_in("the log", &paths);
}

#[tokio::test]
async fn a_row_tells_the_whole_story() {
    let backend = Backend::start().await;
    let config = Config::new()
        .service("service", &[backend.address])
        .route("/orders/*", "to: service, limit: 2/min")
        .key_of("acme-2026", "acme")
        .log("sqlite:log.db");
    let gateway = Gateway::start(&config).await;
    let ask =
        async || gateway.post("/orders/7?x=1").key("acme-2026").header("user-agent", "story/1").body("12345").await;
    assert_eq!((ask().await.status, ask().await.status, ask().await.status), (200, 200, 429));
    assert_eq!(gateway.get("/nowhere").await.status, 404);
    gateway.log_written().await;
    let row = |columns: &str, number: u32| {
        gateway
            .sqlite_texts(&format!("SELECT {columns} FROM api_logs ORDER BY sequence LIMIT 1 OFFSET {number}"))
            .remove(0)
    };
    let story = "endpoint || '|' || http_method || '|' || status_code || '|' || path || '|' || protocol || '|' || consumer \
                 || '|' || \"key\" || '|' || service || '|' || instance || '|' || attempts || '|' || decided_by || '|' || bytes_in \
                 || '|' || bytes_out || '|' || user_agent || '|' || generation || '|' || is_error";
    let first = format!(
        "/orders/*|POST|200|/orders/7|HTTP/1.1|acme|acme-2026|service|{}|1|upstream|5|13|story/1|1|0",
        backend.address
    );
    assert_eq!(row(story, 0), first);
    assert_eq!(row("status_code || decided_by || attempts || (limit_name IS NOT NULL)", 2), "429rate_limited01");
    assert_eq!(row("endpoint || status_code || decided_by || is_error", 3), "(none)404no_route0");
    assert_eq!(
        gateway.sqlite_number("SELECT COUNT(*) FROM api_logs WHERE response_time_ms > 0 AND response_time_ms < 5000"),
        4
    );
    assert_eq!(
        gateway.sqlite_number("SELECT COUNT(*) FROM api_logs WHERE timestamp > datetime('now', '-5 minutes')"),
        4
    );
}

#[tokio::test]
async fn retention_is_visible_in_the_status() {
    let backend = Backend::start().await;
    let log = "{store: \"sqlite:log.db\", retention: {requests: 1h, size: 1gb}}";
    // What the run before has logged becomes three hours old.
    let mut first = Gateway::start(&Config::open(&backend).log(log)).await;
    first.get("/").await;
    first.log_written().await;
    first.signal(Signal::SIGTERM);
    first.wait_exit(seconds(5)).await;
    let log_of_old = rusqlite::Connection::open(first.path("log.db")).unwrap();
    log_of_old
        .execute("UPDATE api_logs SET timestamp = strftime('%Y-%m-%d %H:%M:%f000', 'now', '-3 hours')", [])
        .unwrap();
    drop(log_of_old);
    let folder = std::mem::replace(&mut first.folder, crate::harness::Folder::new());
    let gateway = Gateway::start_in(folder, &Config::open(&backend).log(log)).await;
    let retention = async || gateway.admin_get("/admin/log").await.json()["retention"].clone();
    eventually("something is removed", seconds(20), async || retention().await["removed"][0].is_object()).await;
    let retention = retention().await;
    assert_eq!(retention["limits"]["requests"], "1h");
    assert_eq!((&retention["limits"]["size"], &retention["limits"]["hours"]), (&"1gb".into(), &"2y".into()));
    assert_eq!(
        (&retention["removed"][0]["what"], &retention["removed"][0]["limit"]),
        (&"requests".into(), &"requests".into())
    );
    assert!(retention["bytes"].as_u64().is_some() && retention["seen"].is_string(), "{retention}");
    let status = gateway.folder.tollgate(&["log", "status", "-c", "tollgate.yaml"]).stdout;
    assert!(
        status.contains("retention    requests 1h, ") && status.contains("by log.retention.requests at 20"),
        "{status}"
    );
}

#[tokio::test]
async fn a_client_that_leaves_is_logged_as_such() {
    let backend = Backend::scripted(|_| Reply::Hang).await;
    let gateway = Gateway::start(&Config::open(&backend).log("sqlite:log.db")).await;
    let mut wire = gateway.wire().await;
    wire.send("GET /left HTTP/1.1\r\nHost: a\r\n\r\n").await;
    eventually("the request hangs", seconds(5), async || backend.requests() == 1).await;
    drop(wire);
    eventually("it is logged", seconds(5), async || gateway.sqlite_number("SELECT COUNT(*) FROM api_logs") == 1).await;
    assert_eq!(gateway.sqlite_texts("SELECT status_code || decided_by FROM api_logs"), ["499client_closed"]);
}

#[tokio::test]
async fn json_lines_hold_the_same_record() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend).log("{store: none, json: log.jsonl}")).await;
    let answer = gateway.get("/things").await;
    gateway.log_written().await;
    let text = std::fs::read_to_string(gateway.path("log.jsonl")).unwrap();
    let line: Value = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
    assert_eq!((line["endpoint"].as_str(), line["status_code"].as_u64()), (Some("/*"), Some(200)), "{line}");
    assert_eq!((line["path"].as_str(), line["http_method"].as_str()), (Some("/things"), Some("GET")), "{line}");
    assert_eq!(line["request_id"].as_str(), answer.header("x-request-id"));
    assert_eq!(line["client_ip"], "127.0.0.1");
}

#[tokio::test]
async fn json_lines_can_go_to_stdout_beside_a_store() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend).log("{store: \"sqlite:log.db\", json: stdout}")).await;
    for _ in 0..3 {
        gateway.get("/").await;
    }
    gateway.log_written().await;
    eventually("three lines", seconds(5), async || {
        gateway
            .printed()
            .lines()
            .filter(|line| serde_json::from_str::<Value>(line).is_ok_and(|line| line.is_object()))
            .count()
            == 3
    })
    .await;
    assert_eq!(gateway.sqlite_number("SELECT COUNT(*) FROM api_logs"), 3);
}

#[tokio::test]
async fn a_moved_file_is_opened_again_on_sighup() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend).log("{store: none, json: log.jsonl}")).await;
    gateway.get("/before").await;
    gateway.log_written().await;
    std::fs::rename(gateway.path("log.jsonl"), gateway.path("log.jsonl.1")).unwrap();
    gateway.signal(Signal::SIGHUP);
    eventually("the file is there again", seconds(5), async || gateway.path("log.jsonl").exists()).await;
    gateway.get("/after").await;
    gateway.log_written().await;
    let (old, new) =
        ["log.jsonl.1", "log.jsonl"].map(|name| std::fs::read_to_string(gateway.path(name)).unwrap()).into();
    assert!(old.contains("/before") && !old.contains("/after"), "{old}");
    assert!(new.contains("/after") && !new.contains("/before"), "{new}");
}

#[tokio::test]
async fn addresses_are_kept_as_the_configuration_says() {
    for (kept, hex) in [("full", "7F000001"), ("masked", "7F000000"), ("none", "")] {
        let backend = Backend::start().await;
        let log = format!("{{store: \"sqlite:log.db\", client_ip: {kept}}}");
        let gateway = Gateway::start(&Config::open(&backend).log(&log)).await;
        gateway.get("/").await;
        gateway.log_written().await;
        assert_eq!(gateway.sqlite_texts("SELECT hex(client_ip) FROM api_logs"), [hex], "{kept}");
    }
}

#[tokio::test]
async fn a_gateway_that_was_killed_numbers_its_next_run_and_keeps_the_rows() {
    let backend = Backend::start().await;
    let folder = crate::harness::Folder::new();
    let database = folder.path().join("shared.db");
    let config = Config::open(&backend).log(&format!("\"sqlite:{}\"", database.display()));
    let first = Gateway::start(&config).await;
    first.get("/").await;
    first.log_written().await;
    drop(first);
    let second = Gateway::start(&config).await;
    second.get("/").await;
    second.log_written().await;
    let log = rusqlite::Connection::open(&database).unwrap();
    let count = |sql: &str| -> i64 { log.query_row(sql, [], |row| row.get(0)).unwrap() };
    assert_eq!(count("SELECT COUNT(*) FROM api_logs"), 2);
    assert_eq!(count("SELECT COUNT(DISTINCT run) FROM api_logs"), 2);
    assert_eq!(count("SELECT COUNT(*) FROM log_runs"), 2);
}

#[tokio::test]
async fn the_start_says_how_many_files_may_be_open() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    assert!(gateway.said().contains("open files"), "the limit of open files is printed:\n{}", gateway.said());
}
