//! A store of shared limits that answers, but not with a decision: a cluster that sends requests elsewhere, a replica, a server that is loading,
//! or nonsense. None of it admits anything: it is a failure of the store, with its fallback and breaker, and it ends without a restart.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Backend, Gateway, Redis, eventually, free_address, milliseconds, seconds};
use crate::shared_limits::{admitted, decided, shared, shared_at};

/// A server that knows scripts and says that it is there, and answers every decision with the same words.
async fn answers(decision: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("redis://{}", listener.local_addr().expect("its address"));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(serve(client, decision));
        }
    });
    url
}

async fn serve(mut client: TcpStream, decision: &'static str) {
    let (from, mut to) = client.split();
    let mut from = BufReader::new(from);
    while let Some(words) = command(&mut from).await {
        let is_beat = words.iter().any(|word| word.ends_with("gateways"));
        let micros = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros();
        let answer = match &*words[0].to_ascii_uppercase() {
            "SCRIPT" => format!("$40\r\n{:040x}\r\n", words[2].len()),
            "EVALSHA" | "EVAL" if is_beat => format!("*4\r\n:{micros}\r\n:1\r\n:0\r\n:0\r\n"),
            "EVALSHA" | "EVAL" => decision.to_owned(),
            _ => "+OK\r\n".to_owned(),
        };
        if to.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The next command: `*COUNT`, and each word as `$LENGTH` and its bytes.
async fn command(from: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Vec<String>> {
    let mut words = Vec::new();
    for _ in 0..number(from).await? {
        let mut word = vec![0; number(from).await? + 2];
        from.read_exact(&mut word).await.ok()?;
        word.truncate(word.len() - 2);
        words.push(String::from_utf8_lossy(&word).into_owned());
    }
    Some(words)
}

async fn number(from: &mut (impl AsyncBufReadExt + Unpin)) -> Option<usize> {
    let mut line = String::new();
    from.read_line(&mut line).await.ok()?;
    line.get(1..)?.trim().parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_no_decision_admits_nothing_and_is_a_failure_of_the_store() {
    let backend = Backend::start().await;
    for (answer, told) in [
        ("-LOADING Redis is loading the dataset in memory\r\n", "loading"),
        ("-READONLY You can't write against a read only replica.\r\n", "read only"),
        ("-MOVED 7365 127.0.0.1:9\r\n", "127.0.0.1:9"),
        ("-ASK 7365 127.0.0.1:9\r\n", "127.0.0.1:9"),
        ("-TRYAGAIN Multiple keys request during rehashing of slot\r\n", "rehashing"),
        ("-CLUSTERDOWN The cluster is down\r\n", "cluster is down"),
        ("-MASTERDOWN Link with MASTER is down\r\n", "MASTER is down"),
        ("-BUSY Redis is busy running a script.\r\n", "busy"),
        ("-OOM command not allowed when used memory > 'maxmemory'.\r\n", "out of memory"),
        ("-MISCONF Redis is configured to save RDB snapshots\r\n", "MISCONF"),
        ("-ERR unknown command 'EVALSHA'\r\n", "unknown command"),
        ("+OK\r\n", ""),
        ("$-1\r\n", ""),
        ("*-1\r\n", ""),
        ("*0\r\n", "makes no sense"),
        ("*1\r\n:1\r\n", "makes no sense"),
        ("*4\r\n:1\r\n:0\r\n:-1\r\n:0\r\n", "makes no sense"),
        ("*7\r\n:1\r\n:0\r\n:9\r\n:0\r\n:0\r\n:9\r\n:0\r\n", "makes no sense"),
        ("this is no RESP\r\n", ""),
    ] {
        let url = answers(answer).await;
        let local = Gateway::start(&shared_at(&url, &backend, "3/h per route", "timeout: 2s")).await;
        assert_eq!(admitted(&[&local], 12).await, 3, "by the fallback: {answer}");
        assert_eq!(decided(&local, "store").await, 0.0, "{answer}");
        assert_eq!(decided(&local, "fallback_local").await, 12.0, "{answer}");
        let metrics = local.metrics().await;
        assert!(metrics.sum("tollgate_limit_store_breaker_opened_total", &[]) >= 1.0, "{answer}");
        assert!(metrics.sum("tollgate_limit_store_errors_total", &[]) >= 1.0, "{answer}");
        local.says(answer, |said| said.contains("is away") && said.contains(told)).await;
        let refusing =
            Gateway::start(&shared_at(&url, &backend, "3/h per route", "timeout: 2s, on_error: refuse")).await;
        for _ in 0..3 {
            let refused = refusing.get("/").await;
            assert_eq!(refused.refused(), (503, "limit_store_unavailable".into()), "{answer}");
        }
    }
}

/// A node of a cluster, which serves no slot yet.
fn node() -> Redis {
    let bus = free_address().port().to_string();
    Redis::start_with("redis-server", &["--cluster-enabled", "yes", "--cluster-port", &bus])
}

async fn up(gateway: &Gateway, is_up: f64) {
    eventually("the store is as it should be", seconds(15), async || {
        gateway.metrics().await.sum("tollgate_limit_store_up", &[]) == is_up
    })
    .await;
}

#[tokio::test]
async fn a_cluster_that_is_down_is_away_and_found_when_it_serves_the_slot() {
    let (redis, backend) = (node(), Backend::start().await);
    let gateway = Gateway::start(&shared(&redis, &backend, "5/h per route", "timeout: 2s")).await;
    assert_eq!(admitted(&[&gateway], 10).await, 5, "by the fallback");
    gateway.says("the cluster is down", |said| said.to_ascii_uppercase().contains("CLUSTER")).await;
    redis.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    up(&gateway, 1.0).await;
    assert_eq!(admitted(&[&gateway], 10).await, 5, "by the store");
    assert_eq!(decided(&gateway, "store").await, 10.0);
    redis.ask::<()>(&["CLUSTER", "DELSLOTSRANGE", "0", "16383"]);
    assert_eq!(admitted(&[&gateway], 10).await, 0, "its share is used, and nobody is admitted for want of an answer");
    up(&gateway, 0.0).await;
}

#[tokio::test]
async fn keys_are_followed_to_the_node_of_the_cluster_that_has_them() {
    let (one, two, backend) = (node(), node(), Backend::start().await);
    two.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    meet(&one, &two).await;
    // Asked is the node that has nothing: it answers MOVED.
    let gateway = Gateway::start(&shared(&one, &backend, "6/h per route", "timeout: 2s")).await;
    up(&gateway, 1.0).await;
    assert_eq!(admitted(&[&gateway], 4).await, 4);
    assert_eq!(decided(&gateway, "store").await, 4.0);
    assert!(two.ask::<Vec<String>>(&["KEYS", "*"]).len() >= 3);
    let before = decided(&gateway, "fallback_local").await;
    reshard(&two, &one).await;
    // The first request after it meets MOVED on the link, and opens the breaker.
    let mut total = 4 + admitted(&[&gateway], 10).await;
    assert!(decided(&gateway, "fallback_local").await > before, "{}", gateway.said());
    up(&gateway, 1.0).await;
    total += admitted(&[&gateway], 20).await;
    assert!((6..=12).contains(&total), "{total}: at most twice the limit");
    assert_eq!(admitted(&[&gateway], 10).await, 0);
    let standing = gateway.admin_get("/admin/rate-limits").await.json();
    assert_eq!(standing["limits"][0]["tokens_remaining"], 0.0, "by the store, with its counts: {standing}");
}

#[tokio::test]
async fn a_server_that_becomes_a_replica_counts_nothing_and_admits_nothing() {
    let (primary, redis, backend) = (Redis::start(), Redis::start(), Backend::start().await);
    let config =
        |on_error: &str| shared(&redis, &backend, "4/h per route", &format!("timeout: 2s, on_error: {on_error}"));
    let (local, refusing) = (Gateway::start(&config("local")).await, Gateway::start(&config("refuse")).await);
    assert_eq!(admitted(&[&local], 2).await, 2);
    let port = primary.address().port().to_string();
    redis.ask::<()>(&["REPLICAOF", "127.0.0.1", &port]);
    assert_eq!(refusing.get("/").await.refused(), (503, "limit_store_unavailable".into()));
    assert!(admitted(&[&local], 10).await <= 4, "its share");
    local.says("it is a replica", |said| said.contains("READONLY") || said.contains("read only")).await;
    redis.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
    up(&local, 1.0).await;
    assert!(admitted(&[&local], 10).await <= 4);
}

/// Makes two nodes one cluster, and waits until both know who has which slot.
async fn meet(one: &Redis, two: &Redis) {
    let (port, bus) = (two.address().port().to_string(), two.ask::<Vec<String>>(&["CONFIG", "GET", "cluster-port"]));
    one.ask::<()>(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus[1]]);
    eventually("the nodes know each other", seconds(20), async || {
        [one, two].iter().all(|node| node.ask::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok"))
    })
    .await;
}

/// Moves the slot of the limits, and what is in it, from one node to another, as `redis-cli --cluster reshard` does.
async fn reshard(from: &Redis, to: &Redis) {
    let id = |node: &Redis| node.ask::<String>(&["CLUSTER", "MYID"]);
    let (from_id, to_id) = (id(from), id(to));
    let slot = from.ask::<i64>(&["CLUSTER", "KEYSLOT", "tollgate:{limits}:"]).to_string();
    to.ask::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
    from.ask::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
    let (port, keys) =
        (to.address().port().to_string(), from.ask::<Vec<String>>(&["CLUSTER", "GETKEYSINSLOT", &slot, "100"]));
    let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "KEYS"];
    migrate.extend(keys.iter().map(String::as_str));
    from.ask::<()>(&migrate);
    for node in [to, from] {
        node.ask::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]);
    }
    tokio::time::sleep(milliseconds(100)).await;
}
