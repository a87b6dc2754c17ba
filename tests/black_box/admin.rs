//! The admin listener: what it tells an operator, and whom it does not listen to.

use std::process::{Command, Stdio};

use crate::harness::{Backend, Config, Gateway, Reply, Wire, digest, milliseconds};

#[tokio::test]
async fn a_running_gateway_is_healthy_and_ready() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    let health = gateway.admin_get("/health").await;
    assert_eq!((health.status, health.json()), (200, serde_json::json!({"status": "ok", "degraded": []})));
    assert_eq!(gateway.admin_get("/ready").await.json()["ready"], true);
}

#[tokio::test]
async fn services_are_listed_with_their_instances() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    let services = gateway.admin_get("/admin/services").await.json();
    assert_eq!(services["services"][0]["name"], "service");
    assert_eq!(services["services"][0]["instances"][0]["address"], backend.address.to_string());
    assert_eq!(gateway.admin_get("/health/services").await.status, 200);
}

#[tokio::test]
async fn promtool_finds_nothing_to_complain_about() {
    let backend = Backend::scripted(|seen| Reply::status(if seen.target == "/500" { 500 } else { 200 }, "")).await;
    let config = Config::open(&backend)
        .route("/closed", "to: service")
        .route("/cached", "to: service, keys: none, cache: 1min, limit: 2/min per ip")
        .log("sqlite:log.db");
    let gateway = Gateway::start(&config).await;
    for path in ["/", "/500", "/closed", "/cached", "/cached", "/cached"] {
        gateway.get(path).await;
    }
    assert_eq!(gateway.post("/").await.status, 200);
    let mut checking = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is missing: install the package prometheus");
    let metrics = gateway.admin_get("/metrics").await.body;
    std::io::Write::write_all(&mut checking.stdin.take().unwrap(), &metrics).unwrap();
    let output = checking.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[tokio::test]
async fn metrics_count_requests_by_route_method_and_code() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend).route("/closed", "to: service")).await;
    for _ in 0..3 {
        gateway.get("/a/b/c").await;
    }
    gateway.get("/closed").await;
    gateway.post("/a").await;
    let metrics = gateway.metrics().await;
    let count = |labels: &[(&str, &str)]| metrics.sum("tollgate_http_requests_total", labels);
    assert_eq!(count(&[("route", "/*"), ("method", "GET"), ("code", "200")]), 3.0);
    assert_eq!(count(&[("route", "/*"), ("method", "POST"), ("code", "200")]), 1.0);
    assert_eq!(count(&[("route", "/closed"), ("code", "401")]), 1.0);
    assert_eq!(metrics.sum("tollgate_refusals_total", &[("reason", "no_key")]), 1.0);
    assert_eq!(metrics.sum("tollgate_http_request_duration_seconds_count", &[("route", "/*")]), 4.0);
    assert_eq!(metrics.sum("tollgate_config_generation", &[]), 1.0);
    assert!(metrics.has("tollgate_build_info", &[]));
}

#[tokio::test]
async fn labels_never_come_from_clients() {
    let backend = Backend::start().await;
    let config = Config::new().service("service", &[backend.address]).route("/known", "to: service, keys: none");
    let gateway = Gateway::start(&config).await;
    for number in 0..20 {
        assert_eq!(gateway.get(&format!("/unknown-{number}")).await.status, 404);
        gateway.ask(reqwest::Method::from_bytes(format!("M{number}").as_bytes()).unwrap(), "/known").await;
    }
    let text = gateway.admin_get("/metrics").await.text();
    assert!(!text.contains("unknown-") && !text.contains("M17"), "{text}");
    assert!(text.contains("route=\"(none)\""));
}

#[tokio::test]
async fn the_summary_adds_up() {
    let backend = Backend::scripted(|seen| Reply::status(if seen.target == "/500" { 500 } else { 200 }, "")).await;
    let gateway = Gateway::start(&Config::open(&backend).route("/closed", "to: service")).await;
    for path in ["/", "/", "/closed", "/500"] {
        gateway.get(path).await;
    }
    let summary = gateway.summary().await;
    let expected =
        [("total", 4.0), ("successful", 2.0), ("blocked", 1.0), ("errors", 1.0), ("success_rate_percent", 50.0)];
    for (field, value) in expected {
        assert_eq!(summary[field].as_f64(), Some(value), "{field} in {summary}");
    }
    assert!(summary["average_response_time_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0 && seconds < 5.0));
    assert!(summary["since"].is_string());
}

#[tokio::test]
async fn who_is_near_a_limit_is_shown() {
    let backend = Backend::start().await;
    let config = Config::open(&backend).route("/limited", "to: service, keys: none, limit: 5/min per ip");
    let gateway = Gateway::start(&config).await;
    for _ in 0..6 {
        gateway.get("/limited").await;
    }
    let limits = gateway.admin_get("/admin/rate-limits").await.json();
    assert_eq!(limits["limits"][0]["who"], "127.0.0.1", "{limits}");
    assert_eq!(limits["limits"][0]["over"], true);
    let client = gateway.admin_get("/admin/clients/127.0.0.1").await.json();
    assert_eq!(client["ip"], "127.0.0.1");
    let limit = &client["limits"][0];
    assert_eq!((limit["capacity"].as_u64(), limit["tokens_remaining"].as_f64()), (Some(5), Some(0.0)), "{client}");
    assert!(limit.to_string().contains("refill"), "{client}");
    assert_eq!(gateway.admin_get("/admin/clients/nobody").await.status, 404);
}

#[tokio::test]
async fn an_unreadable_clear_request_clears_nothing_and_says_how() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    for body in ["", "{}", "{\"everything\": true}", "{\"route\": \"/nowhere\"}"] {
        let answer = gateway.admin_post("/admin/cache/clear").body(body).await;
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    }
}

#[tokio::test]
async fn other_hosts_and_origins_are_refused() {
    let backend = Backend::start().await;
    let config = Config::open(&backend).admin("{address: \"{admin}\", hosts: [ops.internal]}");
    let gateway = Gateway::start(&config).await;
    let host = async |host: &str| gateway.admin_get("/metrics").header("host", host).await.status;
    assert_eq!(host("evil.example").await / 100, 4);
    assert_eq!(host("ops.internal").await, 200);
    assert_eq!(host(&format!("localhost:{}", gateway.admin.port())).await, 200);
    let foreign = gateway.admin_post("/admin/reload").header("origin", "http://evil.example").await;
    assert_eq!(foreign.status, 403);
    let own = format!("http://{}", gateway.admin);
    assert_eq!(gateway.admin_post("/admin/reload").header("origin", &own).await.status, 200);
}

#[tokio::test]
async fn a_token_is_asked_for_where_one_is_configured() {
    let backend = Backend::start().await;
    let admin = format!("{{address: \"{{admin}}\", token_sha256: {}}}", digest("s3cret"));
    let gateway = Gateway::start(&Config::open(&backend).admin(&admin)).await;
    for path in ["/metrics", "/admin/summary", "/admin/services", "/admin/rate-limits"] {
        assert_eq!(gateway.admin_get(path).await.status, 401, "{path}");
        assert_eq!(gateway.admin_get(path).bearer("wrong").await.status, 401, "{path}");
        assert_eq!(gateway.admin_get(path).bearer("s3cret").await.status, 200, "{path}");
    }
    assert_eq!(gateway.admin_post("/admin/reload").await.status, 401);
    assert_eq!(gateway.admin_get("/health").await.status, 200);
    let reloaded = |token: &str| {
        gateway.folder.tollgate_with(&["reload", "-c", "tollgate.yaml"], &[("TOLLGATE_ADMIN_TOKEN", token)])
    };
    assert_eq!(reloaded("wrong").code, Some(1));
    let finished = reloaded("s3cret");
    assert_eq!(finished.code, Some(0), "{finished:?}");
}

#[tokio::test]
async fn silent_connections_do_not_keep_the_admin_listener_from_answering() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(Wire::open(gateway.admin).await);
    }
    tokio::time::sleep(milliseconds(100)).await;
    assert_eq!(gateway.admin_get("/health").await.status, 200);
}

#[tokio::test]
async fn a_gateway_without_admin_listener_serves() {
    let backend = Backend::start().await;
    let config = Config::open(&backend).admin("none");
    let gateway = Gateway::spawn(crate::harness::Folder::new(), &config);
    crate::harness::eventually("it serves", crate::harness::seconds(20), async || {
        gateway.get("/").attempt().await.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    assert!(Wire::try_open(gateway.admin).await.is_err());
}
