//! The commands: what they print, what they leave behind, and their exit codes.

use std::net::TcpListener;
use std::time::Instant;

use crate::harness::{Backend, Config, Folder, Gateway, Mariadb, digest, free_address, seconds};

fn file(folder: &Folder, config: &Config) {
    folder.file("tollgate.yaml", &config.write(free_address(), free_address(), free_address()));
}

fn some() -> Config {
    Config::new()
        .service("service", &["127.0.0.1:9101".parse().unwrap()])
        .route("/a/*", "to: service, limit: 100/min, cache: 30s")
        .key("alice")
        .log("sqlite:data/log.db")
}

#[test]
fn check_reads_everything_and_changes_nothing() {
    let folder = Folder::new();
    file(&folder, &some());
    let finished = folder.tollgate(&["check", "-c", "tollgate.yaml"]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(finished.stdout.contains(&folder.path().join("data/log.db").display().to_string()), "{}", finished.stdout);
    assert_eq!(folder.names(), ["tollgate.yaml"]);
}

#[test]
fn check_lists_every_problem_at_once() {
    let folder = Folder::new();
    file(&folder, &some().route("/b", "to: servise").route("/c", "to: service, limit: lots").section("nonsense: 1"));
    let finished = folder.tollgate(&["check", "-c", "tollgate.yaml"]);
    assert_eq!(finished.code, Some(1));
    let said = finished.stdout + &finished.stderr;
    for place in ["routes./b.to", "routes./c.limit", "nonsense"] {
        assert!(said.contains(place), "no {place} in\n{said}");
    }
}

#[test]
fn check_with_connect_tries_the_store_and_creates_none() {
    let folder = Folder::new();
    file(&folder, &some());
    let finished = folder.tollgate(&["check", "--connect", "-c", "tollgate.yaml"]);
    assert_eq!(folder.names(), ["tollgate.yaml"]);
    assert!((finished.stdout + &finished.stderr).contains("log.db"));
}

#[tokio::test]
async fn check_with_connect_says_what_a_database_lacks() {
    let mut mariadb = Mariadb::start().await;
    let folder = Folder::new();
    file(&folder, &some().log(&format!("\"{}\"", mariadb.url())));
    let finished = folder.tollgate(&["check", "--connect", "-c", "tollgate.yaml"]);
    assert!((finished.stdout.clone() + &finished.stderr).contains("api_logs"), "{finished:?}");
    let tables = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = 'tollgate'";
    assert_eq!(mariadb.number(tables).await, 0);
    mariadb.kill();
    let finished = folder.tollgate(&["check", "--connect", "-c", "tollgate.yaml"]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert_eq!(folder.tollgate(&["check", "-c", "tollgate.yaml"]).code, Some(0), "without --connect nobody is asked");
}

#[test]
fn the_dump_is_the_long_form_without_secrets_and_reads_back() {
    let folder = Folder::new();
    file(&folder, &some().log("\"mysql://tollgate:${DB_PASSWORD}@127.0.0.1/tollgate\"").section("node: \"${NODE}\""));
    let variables = [("DB_PASSWORD", "hunter2"), ("NODE", "edge-from-environment")];
    let finished = folder.tollgate_with(&["config", "dump", "-c", "tollgate.yaml"], &variables);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let dump = &finished.stdout;
    assert!(dump.contains("drain_delay") && dump.contains("grace: 30s"), "defaults are filled in:\n{dump}");
    for secret in ["hunter2", "edge-from-environment"] {
        assert!(!dump.contains(secret), "{secret} in\n{dump}");
    }
}

#[test]
fn a_dump_without_secrets_is_a_configuration_again() {
    let folder = Folder::new();
    file(&folder, &some().listen("127.0.0.1:8080"));
    let once = folder.tollgate(&["config", "dump", "-c", "tollgate.yaml"]);
    assert_eq!(once.code, Some(0), "{once:?}");
    if once.stdout.contains("redacted") {
        // Digests of keys are no secrets, but a careful dump may still leave them out; then it can't be read again.
        return;
    }
    folder.file("again.yaml", &once.stdout);
    let again = folder.tollgate(&["config", "dump", "-c", "again.yaml"]);
    assert_eq!(again.stdout, once.stdout, "{again:?}");
}

#[test]
fn the_schema_is_json_schema() {
    let finished = Folder::new().tollgate(&["config", "schema"]);
    assert_eq!(finished.code, Some(0));
    let schema: serde_json::Value = serde_json::from_str(&finished.stdout).expect("JSON");
    assert!(schema["$schema"].is_string() && schema["properties"]["routes"].is_object());
}

#[tokio::test]
async fn a_new_key_opens_the_gate() {
    let folder = Folder::new();
    let finished = folder.tollgate(&["keys", "new", "acme"]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    let key = finished.stdout.split_whitespace().find(|word| word.starts_with("tg_")).expect("a key").to_owned();
    assert_eq!(key.len(), 3 + 43 + 6, "{key}");
    assert!(key[3..].bytes().all(|byte| byte.is_ascii_alphanumeric()), "{key}");
    let entry = finished.stdout.lines().find(|line| line.contains("sha256")).expect("a line for the configuration");
    assert!(entry.contains("acme") && entry.contains(&digest(&key)), "{entry}");
    assert_eq!(finished.stdout.matches(&key).count(), 1, "a key is printed once");
    assert_eq!(folder.names(), Vec::<String>::new());

    let backend = Backend::start().await;
    let config = Config::new().service("service", &[backend.address]).route("/*", "to: service");
    let gateway = Gateway::start(&config.section(&format!("keys:\n  {}", entry.trim()))).await;
    assert_eq!(gateway.get("/").key(&key).await.status, 200);
    assert_eq!(backend.last().header("x-consumer"), Some("acme"));
}

#[tokio::test]
async fn reload_asks_the_running_gateway() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    gateway.write(&Config::open(&backend).route("/closed", "to: service"));
    let finished = gateway.folder.tollgate(&["reload", "-c", "tollgate.yaml"]);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert_eq!(gateway.get("/closed").await.status, 401);

    gateway.write(&Config::open(&backend).route("/bad", "to: nowhere"));
    let finished = gateway.folder.tollgate(&["reload", "-c", "tollgate.yaml"]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!((finished.stdout + &finished.stderr).contains("routes./bad.to"));
}

#[test]
fn reload_without_a_running_gateway_says_so() {
    let folder = Folder::new();
    file(&folder, &some());
    let finished = folder.tollgate(&["reload", "-c", "tollgate.yaml"]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(!finished.stderr.is_empty());
}

#[tokio::test]
async fn usage_is_a_table_of_what_was_logged() {
    let backend = Backend::start().await;
    let config = Config::open(&backend).route("/orders/*", "to: service, keys: none").log("sqlite:log.db");
    let gateway = Gateway::start(&config).await;
    for _ in 0..7 {
        gateway.get("/orders/1").await;
    }
    backend.plays(|_| crate::harness::Reply::status(500, ""));
    gateway.get("/orders/1").await;
    gateway.log_written().await;
    for last in ["1h", "24h", "all"] {
        let finished = gateway.folder.tollgate(&["usage", "-c", "tollgate.yaml", "--last", last]);
        assert_eq!(finished.code, Some(0), "{finished:?}");
        let row = finished.stdout.lines().find(|line| line.contains("/orders/*")).expect("a row").to_owned();
        assert!(row.contains('8') && row.contains("12.5"), "{row}");
    }
}

#[test]
fn usage_without_a_log_creates_none() {
    let folder = Folder::new();
    file(&folder, &some());
    let finished = folder.tollgate(&["usage", "-c", "tollgate.yaml"]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert_eq!(folder.names(), ["tollgate.yaml"]);
}

#[test]
fn an_audit_that_can_not_be_made_is_no_finding() {
    let folder = Folder::new();
    file(&folder, &some());
    for arguments in [["-c", "tollgate.yaml"], ["-c", "absent.yaml"]] {
        let audit = folder.tollgate(&[&["log", "audit"][..], &arguments[..]].concat());
        assert_eq!((audit.code, audit.stdout.as_str()), (Some(2), ""), "{audit:?}");
        assert!(!audit.stderr.is_empty());
    }
}

#[test]
fn the_version_names_the_build() {
    let finished = Folder::new().tollgate(&["--version"]);
    assert_eq!(finished.code, Some(0));
    assert!(finished.stdout.contains(env!("CARGO_PKG_VERSION")), "{}", finished.stdout);
}

#[test]
fn help_has_examples() {
    for command in
        [&["--help"][..], &["run", "--help"], &["check", "--help"], &["keys", "new", "--help"], &["usage", "--help"]]
    {
        let finished = Folder::new().tollgate(command);
        assert_eq!(finished.code, Some(0), "{command:?}");
        assert!(finished.stdout.contains("tollgate"), "{command:?}: {}", finished.stdout);
    }
}

#[test]
fn a_missing_file_is_named() {
    let finished = Folder::new().tollgate(&["run", "-c", "nowhere.yaml"]);
    assert_eq!(finished.code, Some(1));
    assert!(finished.stderr.contains("nowhere.yaml"), "{}", finished.stderr);
}

#[test]
fn an_unknown_command_is_a_usage_error() {
    assert_eq!(Folder::new().tollgate(&["serve"]).code, Some(2));
}

#[test]
fn a_taken_address_ends_the_start_and_is_named() {
    for taken_is_admin in [false, true] {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let (taken, free) = (taken.local_addr().map(|address| (taken, address)).unwrap(), free_address());
        let (main, admin) = if taken_is_admin { (free, taken.1) } else { (taken.1, free) };
        let folder = Folder::new();
        folder.file("tollgate.yaml", &some().write(main, free_address(), admin));
        let begin = Instant::now();
        let finished = folder.tollgate(&["run", "-c", "tollgate.yaml"]);
        assert_eq!(finished.code, Some(1), "{finished:?}");
        assert!(finished.stderr.contains(&taken.1.to_string()), "{}", finished.stderr);
        assert!(begin.elapsed() < seconds(10), "{:?}", begin.elapsed());
    }
}

#[tokio::test]
async fn nothing_is_left_in_the_shared_temporary_folder() {
    let backend = Backend::start().await;
    let before = || {
        ["/tmp/pingora.pid", "/tmp/pingora_upgrade.sock"]
            .map(|path| std::fs::metadata(path).and_then(|it| it.modified()).ok())
    };
    let was = before();
    let _gateway = Gateway::start(&Config::open(&backend)).await;
    assert_eq!(before(), was);
}

#[test]
fn the_demo_key_is_refused_beyond_loopback() {
    let demo = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/conf/tollgate.yaml")).expect("the demo");
    let folder = Folder::new();
    folder.file("tollgate.yaml", &demo);
    assert_eq!(folder.tollgate(&["check", "-c", "tollgate.yaml"]).code, Some(0));
    folder.file("tollgate.yaml", &demo.replace("listen: 127.0.0.1:8080", "listen: 0.0.0.0:8080"));
    let finished = folder.tollgate(&["check", "-c", "tollgate.yaml"]);
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!((finished.stdout + &finished.stderr).contains("demo"));
}

/// What `run` says where its listener's address is taken, so that it ends by itself.
fn said_at_a_failed_start(options: &[&str]) -> Vec<String> {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = Folder::new();
    let config = some().log("none");
    folder.file("tollgate.yaml", &config.write(taken.local_addr().unwrap(), free_address(), free_address()));
    let finished = folder.tollgate(&[&["run", "-c", "tollgate.yaml"], options].concat());
    assert_eq!(finished.code, Some(1), "{finished:?}");
    finished.stderr.lines().map(str::to_owned).collect()
}

#[test]
fn messages_are_json_lines_where_a_collector_reads_them() {
    let lines = said_at_a_failed_start(&["--log-format", "json"]);
    assert!(lines.len() > 1, "{lines:?}");
    for line in &lines {
        let message: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(message["level"].is_string() && message["message"].is_string(), "{line}");
    }
    assert!(lines.last().unwrap().contains("can't listen on"), "{lines:?}");
}

#[test]
fn the_level_of_messages_is_asked_for() {
    let lines = said_at_a_failed_start(&["--log-level", "error"]);
    assert!(!lines.is_empty() && lines.iter().all(|line| !line.contains("INFO")), "{lines:?}");
    assert!(said_at_a_failed_start(&[]).iter().any(|line| line.contains("INFO")));
}
