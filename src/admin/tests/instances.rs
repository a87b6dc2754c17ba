//! What the admin API makes of changes to instances, and of what became of them.

use super::*;
use crate::config::Span;

const ONE: &str = "/admin/services/users/instances/10.0.0.1:80";

fn done(is_new: bool, is_service_usable: bool) -> Change {
    Change(Ok(InstanceChanged { is_new, state: InstanceState::Draining, in_flight: 3, is_service_usable }))
}

async fn ask(api: &Api, method: Method, path: &str, body: &str) -> Response {
    api.ask(method, path).body(body.to_owned()).send().await.unwrap()
}

#[tokio::test]
async fn a_registration_has_defaults_and_is_201_only_when_it_is_new() {
    let api = Api::start().await;
    *api.gateway.change.lock() = done(true, true);
    let answer = json_of(ask(&api, Method::PUT, ONE, "").await, 201).await;
    let expected = json!({"service": "users", "address": "10.0.0.1:80", "weight": 1, "backup": false, "ttl": "30s"});
    assert_eq!(answer, expected);
    *api.gateway.change.lock() = done(false, true);
    json_of(ask(&api, Method::PUT, ONE, r#"{"weight": 7, "backup": true, "ttl": "5min"}"#).await, 200).await;
    let asked = api.gateway.changed.lock().clone();
    let register = |weight, backup, ttl| InstanceChange::Register { weight, backup, ttl: Span::seconds(ttl) };
    let address = Address::parse("10.0.0.1:80").unwrap();
    let expected =
        [register(1, false, 30), register(7, true, 300)].map(|change| ("users".to_owned(), address.clone(), change));
    assert_eq!(asked, expected);
}

#[tokio::test]
async fn an_address_of_ipv6_may_be_written_either_way() {
    let api = Api::start().await;
    *api.gateway.change.lock() = done(true, true);
    for written in ["[2001:db8::1]:80", "%5B2001:db8::1%5D:80"] {
        let path = format!("/admin/services/users/instances/{written}");
        assert_eq!(json_of(ask(&api, Method::PUT, &path, "").await, 201).await["address"], "[2001:db8::1]:80");
    }
    let path = "/admin/services/users/instances/unix:%2Frun%2Fusers.sock";
    assert_eq!(json_of(ask(&api, Method::PUT, path, "").await, 201).await["address"], "unix:/run/users.sock");
}

#[tokio::test]
async fn what_can_not_be_understood_changes_nothing() {
    let api = Api::start().await;
    for (path, body) in [
        ("/admin/services/users/instances/nowhere", ""),
        ("/admin/services/users/instances/0.0.0.0:80", ""),
        (ONE, "{"),
        (ONE, r#"{"weight": 101}"#),
        (ONE, r#"{"ttl": "999ms"}"#),
        (ONE, r#"{"ttl": "2d"}"#),
        (ONE, r#"{"ttl": 30}"#),
        (ONE, r#"{"address": "10.0.0.2:80"}"#),
    ] {
        problem_of(ask(&api, Method::PUT, path, body).await, 400, "bad_request").await;
    }
    assert!(api.gateway.changed.lock().is_empty());
}

#[tokio::test]
async fn a_drain_says_what_is_left_and_a_refusal_why() {
    let api = Api::start().await;
    *api.gateway.change.lock() = done(false, false);
    for (method, path, change) in [
        (Method::POST, format!("{ONE}/drain"), InstanceChange::Drain),
        (Method::POST, format!("{ONE}/undrain"), InstanceChange::Undrain),
        (Method::DELETE, ONE.to_owned(), InstanceChange::Remove),
    ] {
        let answer = json_of(ask(&api, method, &path, "").await, 200).await;
        assert_eq!((&answer["state"], &answer["in_flight"]), (&json!("draining"), &json!(3)));
        assert!(answer["service_usable"] == json!(false) && answer["warning"].is_string(), "{answer}");
        assert_eq!(api.gateway.changed.lock().pop().unwrap().2, change);
    }
    for (why, status, reason) in [
        (NotChanged::NoService, 404, "no_service"),
        (NotChanged::NoInstance, 404, "no_instance"),
        (NotChanged::NotRegistered, 409, "not_registered"),
        (NotChanged::NoRegistration, 409, "no_registration"),
        (NotChanged::Full(4_096), 409, "too_many_instances"),
        (NotChanged::Unkept("no space".into()), 500, "state_unwritable"),
    ] {
        *api.gateway.change.lock() = Change(Err(why));
        problem_of(ask(&api, Method::DELETE, ONE, "").await, status, reason).await;
    }
}
