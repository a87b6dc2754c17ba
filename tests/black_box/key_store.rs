//! Keys in a store: made and revoked while gateways run, with the store away, beside keys of the file, over the admin API.

use std::time::Instant;

use serde_json::Value;

use crate::harness::{Backend, Config, Folder, Gateway, Mariadb, Reply, Wire, digest, eventually, seconds};

fn config(backend: &Backend, key_store: &str) -> Config {
    Config::new()
        .service("service", &[backend.address])
        .route("/*", "to: service")
        .route("/internal", "to: service, keys: {label: internal}")
        .log("sqlite:log.db")
        .section(&format!("key_store: \"{key_store}\""))
}

/// What a command says as JSON; it has to succeed.
pub fn keys(folder: &Folder, arguments: &[&str]) -> Value {
    let line: Vec<&str> =
        ["keys"].iter().chain(arguments).chain(&["-c", "tollgate.yaml", "--format", "json"]).copied().collect();
    let done = folder.tollgate(&line);
    assert_eq!(done.code, Some(0), "{arguments:?}: {}{}", done.stdout, done.stderr);
    serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {}", done.stdout))
}

pub fn new_key(folder: &Folder, arguments: &[&str]) -> String {
    keys(folder, &[&["new"], arguments].concat())["key"].as_str().expect("a key").to_owned()
}

/// Waits until a key is answered so; the promise is five seconds.
pub async fn becomes(gateway: &Gateway, key: &str, status: u16) {
    let begin = Instant::now();
    eventually(&format!("{status} for the key"), seconds(5), async || gateway.get("/").key(key).await.status == status)
        .await;
    assert!(begin.elapsed() < seconds(5), "{:?}", begin.elapsed());
}

async fn a_life(key_store: &str) {
    let backend = Backend::start().await;
    let config = config(&backend, key_store);
    let one = Gateway::start(&config).await;
    // The second one shares the store of the first.
    let shared = key_store.replace("sqlite:", &format!("sqlite:{}/", one.folder.path().display()));
    let shared = if shared == "log" { format!("sqlite:{}/log.db", one.folder.path().display()) } else { shared };
    let two = Gateway::start(&super::key_store::config(&backend, &shared).log("sqlite:other.db")).await;

    let key = new_key(&one.folder, &["acme-2026", "--consumer", "acme", "--label", "internal"]);
    for gateway in [&one, &two] {
        becomes(gateway, &key, 200).await;
        assert_eq!(gateway.get("/internal").key(&key).await.status, 200);
    }
    assert_eq!(backend.last().header("x-consumer"), Some("acme"));
    let other = new_key(&one.folder, &["other"]);
    becomes(&one, &other, 200).await;
    assert_eq!(one.get("/internal").key(&other).await.refused(), (403, "not_allowed".into()));

    let rotated = keys(&one.folder, &["rotate", "acme-2026", "--for", "30d"]);
    assert_eq!((&rotated["name"], &rotated["consumer"]), (&"acme-2026.2".into(), &"acme".into()));
    let second = rotated["key"].as_str().unwrap();
    becomes(&two, second, 200).await;
    assert_eq!(two.get("/internal").key(&key).await.status, 200, "both are valid");

    keys(&one.folder, &["revoke", "acme-2026"]);
    for gateway in [&one, &two] {
        becomes(gateway, &key, 401).await;
        assert_eq!(gateway.get("/").key(&key).await.refused(), (401, "unknown_key".into()));
        assert_eq!(gateway.get("/").key(second).await.status, 200);
    }
    keys(&one.folder, &["expire", "other", "--in", "0s"]);
    becomes(&two, &other, 401).await;
    assert_eq!(two.get("/").key(&other).await.refused(), (401, "expired_key".into()));
    keys(&one.folder, &["expire", "other", "--never"]);
    becomes(&two, &other, 200).await;
    keys(&one.folder, &["consumer", "other", "--label", "internal"]);
    eventually("the label", seconds(5), async || two.get("/internal").key(&other).await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_live_in_the_database_of_the_log() {
    a_life("log").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_live_in_a_file_of_their_own() {
    a_life("sqlite:keys.db").await;
    let backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend, "sqlite:keys.db")).await;
    let database = rusqlite::Connection::open(gateway.path("keys.db")).unwrap();
    let tables = "SELECT group_concat(name) FROM (SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name)";
    let tables: String = database.query_row(tables, [], |row| row.get(0)).unwrap();
    assert_eq!(tables, "api_consumers,api_keys,key_changes,log_migrations");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_live_in_mariadb_and_stay_in_force_while_it_is_away() {
    let mut mariadb = Mariadb::start().await;
    a_life(&mariadb.url()).await;
    let backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend, &mariadb.url())).await;
    let (key, gone) = (new_key(&gateway.folder, &["stays"]), new_key(&gateway.folder, &["goes"]));
    becomes(&gateway, &key, 200).await;
    becomes(&gateway, &gone, 200).await;
    mariadb.kill();
    eventually("the store is away", seconds(10), async || {
        gateway.metrics().await.sum("tollgate_key_store_up", &[]) == 0.0
    })
    .await;
    assert_eq!(gateway.get("/").key(&key).await.status, 200);
    assert_eq!(gateway.get("/").key("never-seen").await.refused(), (401, "unknown_key".into()));
    tokio::time::sleep(seconds(2)).await;
    assert!(gateway.metrics().await.sum("tollgate_key_store_age_seconds", &[]) > 1.5);
    let health = gateway.admin_get("/health").await.json();
    assert!(health["degraded"].to_string().contains("key store: away, the keys of"), "{health}");
    assert_eq!(gateway.said().matches("the keys that were read last stay in force").count(), 1, "{}", gateway.said());
    let refused = gateway.admin_post("/admin/keys/goes/revoke").await;
    assert_eq!((refused.status, &refused.json()["reason"]), (503, &"key_store_away".into()));

    // A reload while the store is away takes no key out of force.
    gateway.reload(&config(&backend, &mariadb.url()).route("/more", "to: service")).await;
    assert_eq!(gateway.get("/more").key(&key).await.status, 200);

    mariadb.revive().await;
    mariadb.execute("UPDATE api_keys SET revoked_at = 1 WHERE name = 'goes'").await;
    mariadb.execute("UPDATE key_changes SET stamp = 'by hand' WHERE id = 1").await;
    eventually("it is back", seconds(15), async || gateway.get("/").key(&gone).await.status == 401).await;
    assert_eq!(gateway.get("/").key(&key).await.status, 200);
    assert!(gateway.said().contains("key store: it answers again"));
    let health = gateway.admin_get("/health").await.json();
    assert!(!health["degraded"].to_string().contains("key store"), "{health}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_starts_without_its_store_says_that_it_can_not_tell() {
    let mut mariadb = Mariadb::start().await;
    let backend = Backend::start().await;
    let with_file = |config: Config| config.key_of("of-the-file", "file");
    let first = Gateway::start(&with_file(config(&backend, &mariadb.url()))).await;
    let key = new_key(&first.folder, &["of-the-store"]);
    becomes(&first, &key, 200).await;
    drop(first);
    mariadb.kill();
    let gateway = Gateway::start(&with_file(config(&backend, &mariadb.url()))).await;
    assert_eq!(gateway.get("/").key("of-the-file").await.status, 200);
    let refused = gateway.get("/").key(&key).await;
    assert_eq!(refused.refused(), (503, "keys_unavailable".into()));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(gateway.get("/").key("nobodys").await.refused(), (503, "keys_unavailable".into()));
    assert_eq!(gateway.get("/").await.refused(), (401, "no_key".into()));
    assert!(gateway.said().contains("only keys of the file are known"), "{}", gateway.said());
    assert!(gateway.admin_get("/health").await.text().contains("never read"));
    mariadb.revive().await;
    eventually("the key is known", seconds(15), async || gateway.get("/").key(&key).await.status == 200).await;
    assert_eq!(gateway.get("/").key("nobodys").await.refused(), (401, "unknown_key".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_name_in_both_the_files_key_holds_and_it_is_said() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend, "sqlite:keys.db")).await;
    let of_store = new_key(&gateway.folder, &["twice"]);
    becomes(&gateway, &of_store, 200).await;
    gateway.reload(&config(&backend, "sqlite:keys.db").key("twice")).await;
    assert_eq!(gateway.get("/").key(&of_store).await.refused(), (401, "unknown_key".into()));
    assert_eq!(gateway.get("/").key("twice").await.status, 200);
    assert!(
        gateway.said().contains("the key `twice` is in the file and in the store: the file's holds"),
        "{}",
        gateway.said()
    );
    let listed = keys(&gateway.folder, &["list"]);
    let states: Vec<String> = listed["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| format!("{} {}", key["place"].as_str().unwrap(), key["state"].as_str().unwrap()))
        .collect();
    assert_eq!(states, ["file active", "store overruled"]);
    gateway.reload(&config(&backend, "sqlite:keys.db")).await;
    assert_eq!(gateway.get("/").key(&of_store).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_revoked_in_flight_finishes_its_request_and_no_other() {
    let backend = Backend::scripted(|seen| match seen.target.as_str() {
        "/late" => Reply::ok("late").after(seconds(6)),
        _ => Reply::ok(""),
    })
    .await;
    let gateway = Gateway::start(&config(&backend, "sqlite:keys.db")).await;
    let key = new_key(&gateway.folder, &["acme"]);
    eventually("the key is known", seconds(5), async || gateway.metrics().await.sum("tollgate_keys", &[]) == 1.0).await;
    let (address, sent) = (gateway.address, key.clone());
    let flight =
        tokio::spawn(async move { Wire::open(address).await.get("/late", &format!("X-API-Key: {sent}\r\n")).await });
    eventually("the request is in flight", seconds(5), async || backend.requests() == 1).await;
    keys(&gateway.folder, &["revoke", "acme"]);
    becomes(&gateway, &key, 401).await;
    assert!(!flight.is_finished(), "it was revoked in flight");
    let answer = flight.await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "late"));
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_a_key_leaves_counts_of_limits_and_other_keys_alone() {
    let backend = Backend::start().await;
    let config = Config::new()
        .service("service", &[backend.address])
        .route("/*", "to: service, limit: 3/h per key")
        .log("sqlite:log.db")
        .section("key_store: log");
    let gateway = Gateway::start(&config).await;
    let (one, two) = (new_key(&gateway.folder, &["one"]), new_key(&gateway.folder, &["two"]));
    becomes(&gateway, &two, 200).await;
    assert_eq!(gateway.get("/").key(&two).await.status, 200);
    let generation = gateway.metrics().await.sum("tollgate_config_generation", &[]);
    keys(&gateway.folder, &["revoke", "one"]);
    becomes(&gateway, &one, 401).await;
    assert_eq!(gateway.metrics().await.sum("tollgate_config_generation", &[]), generation);
    assert_eq!(gateway.get("/").key(&two).await.status, 200);
    assert_eq!(gateway.get("/").key(&two).await.status, 429);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_api_does_what_the_commands_do_and_shows_a_key_once() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend, "log")).await;
    let post = |path: String, body: &str| gateway.admin_post(&path).body(body.to_owned());
    let made = post("/admin/keys".into(), r#"{"name": "acme", "labels": ["internal"], "expires": "2099-01-01"}"#).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let key = made.json()["key"].as_str().unwrap().to_owned();
    becomes(&gateway, &key, 200).await;
    let again = post("/admin/keys".into(), r#"{"name": "acme"}"#).await;
    assert_eq!((again.status, &again.json()["reason"]), (409, &"not_done".into()));
    let weak = post("/admin/keys".into(), r#"{"name": "weak", "secret": "hunter2"}"#).await;
    assert_eq!(weak.status, 409);
    assert!(weak.text().contains("too weak") && !weak.text().contains("hunter2"), "{}", weak.text());
    let weak = post("/admin/keys".into(), r#"{"name": "weak", "secret": "hunter2", "weak_ok": true}"#).await;
    assert_eq!((weak.status, weak.json().get("key")), (201, None));
    becomes(&gateway, "hunter2", 200).await;

    let rotated = post("/admin/keys/acme/rotate".into(), r#"{"for": "1d", "name": "acme-2"}"#).await;
    assert_eq!((rotated.status, &rotated.json()["replaces"]["name"]), (201, &"acme".into()));
    let second = rotated.json()["key"].as_str().unwrap().to_owned();
    let checked = post("/admin/keys/check".into(), &format!("{{\"text\": \"leaked: {second}\"}}")).await;
    assert_eq!((&checked.json()["found"][0]["name"], checked.text().contains(&second)), (&"acme-2".into(), false));
    assert_eq!(post("/admin/keys/acme/expire".into(), r#"{"at": null}"#).await.status, 200);
    assert_eq!(post("/admin/consumers/acme".into(), r#"{"labels": []}"#).await.status, 200);
    eventually("the label is gone", seconds(5), async || gateway.get("/internal").key(&key).await.status == 403).await;
    assert_eq!(post("/admin/keys/acme/revoke".into(), "").await.status, 200);
    becomes(&gateway, &key, 401).await;
    assert_eq!(post("/admin/keys/nobody/revoke".into(), "").await.status, 409);
    assert_eq!(post("/admin/keys".into(), r#"{"nam": "x"}"#).await.status, 400);

    gateway.log_written().await;
    let listed = gateway.admin_get("/admin/keys?all=true").await;
    let shown = gateway.admin_get("/admin/keys/acme").await.json();
    assert_eq!((&shown["keys"][0]["state"], listed.json()["keys"].as_array().unwrap().len()), (&"revoked".into(), 3));
    assert!(shown["keys"][0]["requests"].as_u64().unwrap() > 0, "{shown}");
    assert_eq!(gateway.admin_get("/admin/keys/nobody").await.status, 404);
    for secret in [&key, &second, "hunter2"] {
        assert!(!listed.text().contains(secret) && !gateway.said().contains(secret));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inventory_shows_use_and_who_was_never_seen() {
    let backend = Backend::start().await;
    let config = config(&backend, "sqlite:keys.db").key("file-used").key("file-unused");
    let gateway = Gateway::start(&config).await;
    let key = new_key(&gateway.folder, &["store-used"]);
    new_key(&gateway.folder, &["store-new"]);
    becomes(&gateway, &key, 200).await;
    assert_eq!(gateway.get("/").key("file-used").await.status, 200);
    gateway.log_written().await;
    let listed = keys(&gateway.folder, &["list"]);
    let used: Vec<(String, bool, bool)> = listed["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| {
            let name = key["name"].as_str().unwrap().to_owned();
            (name, key["requests"].as_u64().unwrap() > 0, key["last_used"].is_string())
        })
        .collect();
    let expected = [("file-unused", false), ("file-used", true), ("store-new", false), ("store-used", true)];
    assert_eq!(used, expected.map(|(name, is_used)| (name.to_owned(), is_used, is_used)));
    // A key that was made today had no 90 days to be used; of one in the file nobody knows.
    let unused = keys(&gateway.folder, &["unused", "--for", "90d"]);
    let names: Vec<&str> = unused["keys"].as_array().unwrap().iter().map(|key| key["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["file-unused"]);
    let table = gateway.folder.tollgate(&["keys", "list", "-c", "tollgate.yaml"]);
    assert!(table.stdout.contains("store-used") && !table.stdout.contains('\u{1b}'), "{}", table.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_about_one_key_is_shown_but_the_key() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend, "sqlite:keys.db").key("in-file")).await;
    let made = ["acme-1", "--consumer", "acme", "--label", "internal", "--expires", "2099-01-01"];
    let key = new_key(&gateway.folder, &made);
    becomes(&gateway, &key, 200).await;
    keys(&gateway.folder, &["rotate", "acme-1", "--for", "30d", "--name", "acme-2"]);
    gateway.log_written().await;
    let shown = keys(&gateway.folder, &["show", "acme-1"]);
    let one = &shown["keys"][0];
    assert_eq!((&one["name"], &one["consumer"], &one["place"]), (&"acme-1".into(), &"acme".into(), &"store".into()));
    assert_eq!((&one["state"], &one["labels"]), (&"active".into(), &serde_json::json!(["internal"])), "{one}");
    assert!(one["requests"].as_u64().unwrap() > 0 && one["last_used"].is_string(), "{one}");
    assert!(!one["expires"].to_string().contains("2099"), "the rotation ends it sooner: {one}");
    assert_eq!(keys(&gateway.folder, &["show", "in-file"])["keys"][0]["place"], "file");
    let text = gateway.folder.tollgate(&["keys", "show", "acme-1", "-c", "tollgate.yaml"]);
    assert!(text.stdout.contains("acme-1") && text.stdout.contains("internal"), "{}", text.stdout);
    for said in [&shown.to_string(), &text.stdout] {
        assert!(!said.contains(&key) && !said.contains(&key[3..]), "{said}");
    }
    let nobody = gateway.folder.tollgate(&["keys", "show", "nobody", "-c", "tollgate.yaml"]);
    assert_eq!(nobody.code, Some(1), "{}", nobody.stderr);
    assert!(nobody.stderr.contains("nobody"), "{}", nobody.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_imported_and_checked_from_files_and_weak_ones_refused() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&config(&backend, "log")).await;
    let folder = &gateway.folder;
    folder.file("good.txt", "9f86d081884c7d659a2feaa0c55ad015\n");
    folder.file("bad.txt", "hunter2");
    let run = |arguments: &[&str]| folder.tollgate(arguments);
    let good = run(&["keys", "import", "legacy", "--secret-from", "good.txt", "-c", "tollgate.yaml"]);
    assert_eq!(good.code, Some(0), "{}", good.stderr);
    becomes(&gateway, "9f86d081884c7d659a2feaa0c55ad015", 200).await;
    let bad = run(&["keys", "import", "weak", "--secret-from", "bad.txt", "-c", "tollgate.yaml"]);
    assert_eq!(bad.code, Some(1));
    assert!(bad.stderr.contains("--weak-ok") && !bad.stderr.contains("hunter2"), "{}", bad.stderr);
    let digest = digest("whatever");
    assert_eq!(run(&["keys", "import", "digest", "--sha256", &digest, "-c", "tollgate.yaml"]).code, Some(0));
    becomes(&gateway, "whatever", 200).await;

    let key = new_key(folder, &["acme"]);
    folder.file("leak.log", &format!("line one\ncurl -H 'X-API-Key: {key}' https://api.example\n"));
    folder.file("clean.log", "nothing here\n");
    let found = run(&["keys", "check", "leak.log"]);
    assert_eq!((found.code, found.stdout.contains("leak.log:2:21: tg_")), (Some(0), true), "{}", found.stdout);
    assert!(!found.stdout.contains(&key));
    assert_eq!(run(&["keys", "check", "--leaks", "leak.log"]).code, Some(1));
    assert_eq!(run(&["keys", "check", "--leaks", "clean.log"]).code, Some(0));
    let known = run(&["keys", "check", "--known", "-c", "tollgate.yaml", "leak.log"]);
    assert!(known.stdout.contains("a key: `acme`"), "{}", known.stdout);
    folder.file("typo.txt", &key.replace(&key[20..21], if &key[20..21] == "x" { "y" } else { "x" }));
    assert_eq!(run(&["keys", "check", "typo.txt"]).code, Some(1));
}

#[tokio::test]
async fn a_command_without_a_store_says_what_to_do() {
    let backend = Backend::start().await;
    let config = Config::new().service("service", &[backend.address]).route("/*", "to: service").key("file");
    let gateway = Gateway::start(&config).await;
    for arguments in
        [&["keys", "revoke", "file", "-c", "tollgate.yaml"][..], &["keys", "rotate", "file", "-c", "tollgate.yaml"]]
    {
        let done = gateway.folder.tollgate(arguments);
        assert_eq!((done.code, done.stderr.contains("no `key_store`")), (Some(1), true), "{}", done.stderr);
    }
    let listed = keys(&gateway.folder, &["list"]);
    assert_eq!((&listed["keys"][0]["name"], &listed["keys"][0]["requests"]), (&"file".into(), &Value::Null));
    let made = gateway.folder.tollgate(&["keys", "new", "acme", "-c", "tollgate.yaml"]);
    assert!(made.stdout.contains("acme: {sha256: "), "{}", made.stdout);
    let answer = gateway.admin_post("/admin/keys").body(r#"{"name": "x"}"#).await;
    assert_eq!((answer.status, &answer.json()["reason"]), (409, &"no_key_store".into()));
}
