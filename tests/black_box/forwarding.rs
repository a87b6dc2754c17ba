//! What an instance is told about the client and the request, and what neither side learns of the other's connection.

use crate::harness::{Backend, Config, Gateway, Reply};

const LOOPBACK_IS_TRUSTED: &str = "trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]";
const A_UUID: &str = "0195c9a1-7f3b-7c54-9a2e-3f5d1c2b4a69";

fn is_uuid_v7(text: &str) -> bool {
    uuid::Uuid::parse_str(text).is_ok_and(|id| id.get_version_num() == 7)
}

#[tokio::test]
async fn an_instance_is_told_who_asked_for_what() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    let answer = gateway.wire().await.get("/things?a=1&b=%2F", "").await;
    let seen = backend.last();
    assert_eq!(seen.target, "/things?a=1&b=%2F");
    assert_eq!(seen.all("host"), ["gateway.example"]);
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-forwarded-host"), Some("gateway.example"));
    let id = seen.header("x-request-id").expect("an id");
    assert!(is_uuid_v7(id), "{id}");
    assert_eq!(answer.header("x-request-id"), Some(id));
}

#[tokio::test]
async fn an_untrusted_client_can_claim_nothing() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    let claims = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.example\r\n\
                  X-Forwarded-Port: 1\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Consumer: admin\r\n\
                  X_Forwarded_For: 6.6.6.6\r\nX_Consumer: admin\r\nX-Forwarded_Proto: https\r\nX_Real_IP: 6.6.6.6\r\n\
                  X-Mine: kept\r\n";
    assert_eq!(gateway.wire().await.get("/", claims).await.status, 200);
    let seen = backend.last();
    assert_eq!(seen.all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(seen.all("x-forwarded-proto"), ["http"]);
    assert_eq!(seen.all("x-forwarded-host"), ["gateway.example"]);
    for gone in [
        "x-forwarded-port",
        "forwarded",
        "x-real-ip",
        "x-consumer",
        "x_forwarded_for",
        "x_consumer",
        "x-forwarded_proto",
        "x_real_ip",
    ] {
        assert_eq!(seen.all(gone), Vec::<&str>::new(), "{gone}");
    }
    assert_eq!(seen.header("x-mine"), Some("kept"));
}

#[tokio::test]
async fn a_trusted_proxy_is_believed_and_appended_to() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend).section(LOOPBACK_IS_TRUSTED).log("sqlite:log.db")).await;
    let lines = "X-Forwarded-For: 198.51.100.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\n\
                 X-Consumer: admin\r\n";
    assert_eq!(gateway.wire().await.get("/", lines).await.status, 200);
    let seen = backend.last();
    let chain = seen.all("x-forwarded-for").join(", ");
    assert_eq!(chain, "198.51.100.7, 127.0.0.1");
    assert_eq!(seen.all("x-forwarded-proto"), ["https"]);
    assert_eq!(seen.all("x-forwarded-host"), ["shop.example"]);
    assert_eq!(seen.all("x-consumer"), Vec::<&str>::new());
}

/// Whom the gateway takes for the client: the one whose second request in a minute is refused.
async fn client_is(forwarded_for: &[&str], client: &str) {
    let backend = Backend::start().await;
    let config = Config::open(&backend).section(LOOPBACK_IS_TRUSTED).log("sqlite:log.db");
    let gateway = Gateway::start(&config).await;
    let lines: String = forwarded_for.iter().map(|value| format!("X-Forwarded-For: {value}\r\n")).collect();
    assert_eq!(gateway.wire().await.get("/", &lines).await.status, 200);
    gateway.log_written().await;
    let octets = gateway.sqlite_texts("SELECT hex(client_ip) FROM api_logs");
    let expected: std::net::IpAddr = client.parse().unwrap();
    let expected: String = match expected {
        std::net::IpAddr::V4(address) => address.octets().iter().map(|octet| format!("{octet:02X}")).collect(),
        std::net::IpAddr::V6(address) => address.octets().iter().map(|octet| format!("{octet:02X}")).collect(),
    };
    assert_eq!(octets, [expected], "{forwarded_for:?} is {client}");
}

#[tokio::test]
async fn the_client_is_the_last_address_that_is_not_trusted() {
    client_is(&["6.6.6.6, 198.51.100.7, 10.1.2.3"], "198.51.100.7").await;
}

#[tokio::test]
async fn several_header_lines_are_one_list() {
    client_is(&["6.6.6.6", "198.51.100.7", "10.1.2.3"], "198.51.100.7").await;
}

#[tokio::test]
async fn a_malformed_entry_ends_the_walk() {
    client_is(&["198.51.100.7, not-an-address, 10.1.2.3"], "10.1.2.3").await;
}

#[tokio::test]
async fn an_ipv6_client_is_understood() {
    client_is(&["2001:db8::7"], "2001:db8::7").await;
}

#[tokio::test]
async fn limits_count_the_client_behind_a_trusted_proxy() {
    let backend = Backend::start().await;
    let config = Config::open(&backend)
        .section(LOOPBACK_IS_TRUSTED)
        .route("/limited", "to: service, keys: none, limit: 1/min per ip");
    let gateway = Gateway::start(&config).await;
    let from = async |address: &str| gateway.get("/limited").header("x-forwarded-for", address).await.status;
    assert_eq!(from("198.51.100.7").await, 200);
    assert_eq!(from("198.51.100.7").await, 429);
    assert_eq!(from("6.6.6.6, 198.51.100.7").await, 429);
    assert_eq!(from("198.51.100.8").await, 200);
}

#[tokio::test]
async fn a_request_id_of_a_client_is_replaced_and_kept_in_the_log() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend).log("sqlite:log.db")).await;
    let answer = gateway.get("/").header("x-request-id", A_UUID).await;
    let id = answer.header("x-request-id").expect("an id").to_owned();
    assert!(is_uuid_v7(&id) && id != A_UUID, "{id}");
    assert_eq!(backend.last().all("x-request-id"), [id.as_str()]);
    gateway.log_written().await;
    assert_eq!(gateway.sqlite_texts("SELECT client_request_id FROM api_logs"), [A_UUID]);
    let hex = id.replace('-', "").to_uppercase();
    assert_eq!(gateway.sqlite_texts("SELECT hex(request_id) FROM api_logs"), [hex]);
}

#[tokio::test]
async fn a_trusted_proxys_request_id_is_taken_over_when_it_is_a_uuid() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend).section(LOOPBACK_IS_TRUSTED)).await;
    for (sent, taken) in [(A_UUID, true), (&A_UUID.replace('-', ""), true), ("order-17", false), ("", false)] {
        let answer = gateway.get("/").header("x-request-id", sent).await;
        let id = answer.header("x-request-id").expect("an id");
        assert_eq!(id.replace('-', "") == A_UUID.replace('-', ""), taken, "{sent}: {id}");
        assert_eq!(backend.last().all("x-request-id"), [id]);
    }
}

#[tokio::test]
async fn strip_prefix_leaves_a_path() {
    let backend = Backend::start().await;
    let config = Config::open(&backend).route("/api/users/*", "to: service, keys: none, strip_prefix: /api/users");
    let gateway = Gateway::start(&config).await;
    for (asked, forwarded) in [
        ("/api/users/7?x=1", "/7?x=1"),
        ("/api/users/", "/"),
        ("/api/users", "/"),
        ("/api/users?x=1", "/?x=1"),
        ("/api/usersandmore", "/api/usersandmore"),
    ] {
        assert_eq!(gateway.get(asked).await.text(), forwarded, "{asked}");
    }
}

#[tokio::test]
async fn rewrite_puts_names_of_the_pattern_into_a_new_path() {
    let backend = Backend::start().await;
    let config = Config::open(&backend)
        .route("/users/{id}/orders/{order}", "to: service, keys: none, rewrite: \"/v2/{order}/of/{id}\"");
    let gateway = Gateway::start(&config).await;
    assert_eq!(gateway.get("/users/7/orders/a%20b?x=1").await.text(), "/v2/a%20b/of/7?x=1");
}

#[tokio::test]
async fn header_rules_work_both_ways() {
    let backend = Backend::scripted(|_| Reply::ok("").with("Server", "Secret/1.0").with("X-Debug", "1")).await;
    let rules = "headers: {request: {set: {X-Env: prod, User-Agent: gateway}, remove: [Cookie]}, \
                 response: {set: {X-Frame-Options: DENY}, remove: [Server, X-Debug]}}";
    let config = Config::open(&backend).route("/ruled", &format!("to: service, keys: none, {rules}"));
    let gateway = Gateway::start(&config).await;
    let answer =
        gateway.get("/ruled").header("cookie", "a=b").header("user-agent", "client").header("x-env", "mine").await;
    assert_eq!(answer.header("x-frame-options"), Some("DENY"));
    assert_eq!((answer.header("server"), answer.header("x-debug")), (None, None));
    let seen = backend.last();
    assert_eq!(seen.all("x-env"), ["prod"]);
    assert_eq!(seen.all("user-agent"), ["gateway"]);
    assert_eq!(seen.all("cookie"), Vec::<&str>::new());
}

#[tokio::test]
async fn headers_of_one_hop_are_not_passed_on_to_the_instance() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    let hop = "Connection: keep-alive, X-Private\r\nX-Private: 1\r\nKeep-Alive: timeout=9\r\nTE: trailers\r\n\
               Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\nUpgrade: h2c\r\nX-Kept: 1\r\n";
    assert_eq!(gateway.wire().await.get("/", hop).await.status, 200);
    let seen = backend.last();
    for gone in ["x-private", "keep-alive", "te", "proxy-connection", "proxy-authorization", "upgrade"] {
        assert_eq!(seen.all(gone), Vec::<&str>::new(), "{gone}");
    }
    assert_eq!(seen.header("x-kept"), Some("1"));
}

#[tokio::test]
async fn headers_of_one_hop_are_not_passed_on_to_the_client() {
    let backend = Backend::scripted(|_| {
        Reply::ok("")
            .with("Connection", "keep-alive, X-Private")
            .with("X-Private", "1")
            .with("Keep-Alive", "timeout=9")
            .with("Proxy-Authenticate", "Basic")
            .with("Upgrade", "h2c")
            .with("X-Kept", "1")
    })
    .await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    let answer = gateway.get("/").await;
    for gone in ["x-private", "keep-alive", "proxy-authenticate", "upgrade"] {
        assert_eq!(answer.header(gone), None, "{gone}");
    }
    assert!(!answer.header("connection").is_some_and(|connection| connection.contains("X-Private")));
    assert_eq!(answer.header("x-kept"), Some("1"));
}

#[tokio::test]
async fn a_services_host_replaces_the_clients() {
    let backend = Backend::start().await;
    let config = Config::new()
        .service_with("named", &[backend.address], "host: users.example.com")
        .route("/*", "to: named, keys: none");
    let gateway = Gateway::start(&config).await;
    assert_eq!(gateway.wire().await.get("/", "").await.status, 200);
    assert_eq!(backend.last().all("host"), ["users.example.com"]);
    assert_eq!(backend.last().all("x-forwarded-host"), ["gateway.example"]);
}

// Keys on their way.

fn keyed(backend: &Backend) -> Config {
    Config::new()
        .service("service", &[backend.address])
        .route("/*", "to: service")
        .key_of("first", "alice")
        .key("second")
}

#[tokio::test]
async fn what_was_used_as_the_key_is_removed_and_the_consumer_is_told() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&keyed(&backend)).await;
    assert_eq!(gateway.get("/").key("first").await.status, 200);
    let seen = backend.last();
    assert_eq!((seen.header("x-api-key"), seen.header("authorization")), (None, None));
    assert_eq!(seen.header("x-consumer"), Some("alice"));

    assert_eq!(gateway.get("/").bearer("second").await.status, 200);
    let seen = backend.last();
    assert_eq!((seen.header("authorization"), seen.header("x-consumer")), (None, Some("second")));
}

#[tokio::test]
async fn authorization_belongs_to_the_instance_when_the_key_came_in_its_own_header() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&keyed(&backend)).await;
    assert_eq!(gateway.get("/").key("first").bearer("the-users-own-token").await.status, 200);
    assert_eq!(backend.last().header("authorization"), Some("Bearer the-users-own-token"));
    // The first place that holds something decides: a good key in the second does not mend a bad one.
    assert_eq!(gateway.get("/").key("wrong").bearer("first").await.refused(), (401, "unknown_key".into()));
}

#[tokio::test]
async fn a_route_without_keys_leaves_authorization_alone() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&Config::open(&backend)).await;
    assert_eq!(gateway.get("/").bearer("the-users-own-token").await.status, 200);
    assert_eq!(backend.last().header("authorization"), Some("Bearer the-users-own-token"));
}

#[tokio::test]
async fn a_key_may_be_bound_to_routes_of_its_consumer() {
    let backend = Backend::start().await;
    let config = keyed(&backend).route("/only", "to: service, keys: [alice]");
    let gateway = Gateway::start(&config).await;
    assert_eq!(gateway.get("/only").key("first").await.status, 200);
    assert_eq!(gateway.get("/only").key("second").await.refused(), (403, "not_allowed".into()));
}

#[tokio::test]
async fn keys_are_looked_for_where_the_configuration_says() {
    let backend = Backend::start().await;
    let gateway = Gateway::start(&keyed(&backend).section("key_in: [X-Token]")).await;
    assert_eq!(gateway.get("/").header("x-token", "first").await.status, 200);
    assert_eq!(backend.last().header("x-token"), None);
    assert_eq!(gateway.get("/").key("first").await.refused(), (401, "no_key".into()));
}
