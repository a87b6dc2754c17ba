//! Breaking, slowing down and mending an instance while it runs.
//! These requests work however broken the instance is, as long as it can be connected to, and are not counted as hits.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{StatusCode, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::failure::{Failures, Wanted};
use crate::instance::Instance;
use crate::options::Latency;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LatencyWanted {
    latency: String,
}

/// The requests that steer an instance.
pub fn router(instance: &Arc<Instance>) -> Router {
    Router::new()
        .route("/simulate-failure", post(simulate_failure))
        .route("/simulate-recovery", post(simulate_recovery))
        .route("/simulate-latency", post(simulate_latency))
        .route("/hits", get(hits))
        .route("/arrivals", get(arrivals))
        .with_state(Arc::clone(instance))
}

/// An error answer as problem details (RFC 9457).
pub fn problem(status: StatusCode, detail: &str) -> Response {
    let body = json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": detail,
    });
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

async fn simulate_failure(State(instance): State<Arc<Instance>>, body: Bytes) -> Response {
    let wanted: Wanted = match read(&body) {
        Ok(wanted) => wanted.unwrap_or_default(),
        Err(refused) => return instance.signed(*refused),
    };
    match instance.fails(wanted) {
        Ok(()) => state(&instance),
        Err(why) => instance.signed(problem(StatusCode::BAD_REQUEST, &why)),
    }
}

async fn simulate_recovery(State(instance): State<Arc<Instance>>) -> Response {
    instance.failures.send_modify(Failures::mend);
    if let Ok(mut latency) = instance.latency.lock() {
        *latency = Latency::default();
    }
    state(&instance)
}

async fn simulate_latency(State(instance): State<Arc<Instance>>, body: Bytes) -> Response {
    let wanted = match read::<LatencyWanted>(&body) {
        Ok(Some(wanted)) => wanted,
        Ok(None) => {
            return instance.signed(problem(StatusCode::BAD_REQUEST, r#"send {"latency": "50ms..200ms"}"#));
        }
        Err(refused) => return instance.signed(*refused),
    };
    match wanted.latency.parse() {
        Ok(range) => {
            if let Ok(mut latency) = instance.latency.lock() {
                *latency = range;
            }
            state(&instance)
        }
        Err(why) => instance.signed(problem(StatusCode::BAD_REQUEST, &why)),
    }
}

async fn hits(State(instance): State<Arc<Instance>>) -> Response {
    let paths: BTreeMap<String, u64> = instance.hits();
    let total: u64 = paths.values().sum();
    instance.signed(Json(json!({ "instance": instance.name, "total": total, "paths": paths })).into_response())
}

async fn arrivals(State(instance): State<Arc<Instance>>) -> Response {
    instance.signed(Json(json!({ "instance": instance.name, "arrivals": instance.arrivals.all() })).into_response())
}

fn state(instance: &Instance) -> Response {
    let (mode, failures) = instance.failures.borrow().shown();
    let Latency { from, to } = instance.latency.lock().map(|latency| *latency).unwrap_or_default();
    let latency = json!({ "from_ms": from.as_millis() as u64, "to_ms": to.as_millis() as u64 });
    let state = json!({ "instance": instance.name, "mode": mode, "failures": failures, "latency": latency });
    instance.signed(Json(state).into_response())
}

/// The JSON body, whatever its Content-Type says (so that `curl -d` works); none when there is no body.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<Option<T>, Box<Response>> {
    if body.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(body).map(Some).map_err(|error| {
        Box::new(problem(StatusCode::BAD_REQUEST, &format!("the body is not what this takes: {error}")))
    })
}
