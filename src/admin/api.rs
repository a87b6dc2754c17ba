//! The admin API: which paths there are, what they answer, and the one passage that every request goes through.
//! Every answer is JSON (or the metrics' text) that nobody may store; every error is problem+json.
//! A changing request that was admitted runs to its end, even when the client leaves.

use std::cmp::Ordering;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{DefaultBodyLimit, Extension, FromRequest, Path, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use http::{Method, StatusCode, Uri};
use serde_json::{Value, json};

use super::control::{ClientName, Control, LimitEntry, LogStatus, ServiceStatus};
use super::guard::Guard;
use super::problem::Problem;
use super::{cache, instances, keys, questions, tail};
use crate::config::Admin;

/// Bytes of a request body.
pub(super) const BODY_BYTES_MAX: usize = 64 << 10;

/// Entries of `/admin/rate-limits`: the answer stays readable however many clients there are.
const LIMIT_ENTRIES_MAX: usize = 1_000;

/// The address a connection came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Local(pub SocketAddr);

pub(super) type Answer = Result<Json<Value>, Problem>;

/// What every request has to pass.
struct Passage {
    guard: Guard,
    body_timeout: Duration,
}

/// Every path of the admin listener, behind the guard and the bounds on bodies.
pub(super) fn router<C: Control>(admin: &Admin, control: Arc<C>, body_timeout: Duration) -> Router {
    let passage = Arc::new(Passage { guard: Guard::new(admin), body_timeout });
    Router::new()
        .route("/health", get(health::<C>))
        .route("/ready", get(ready::<C>))
        .route("/health/services", get(health_of_services::<C>))
        .route("/metrics", get(metrics::<C>))
        .route("/admin/summary", get(summary::<C>))
        .route("/admin/services", get(services::<C>))
        .route("/admin/services/{service}/instances/{address}", put(instances::register::<C>))
        .route("/admin/services/{service}/instances/{address}", delete(instances::remove::<C>))
        .route("/admin/services/{service}/instances/{address}/drain", post(instances::drain::<C>))
        .route("/admin/services/{service}/instances/{address}/undrain", post(instances::undrain::<C>))
        .route("/admin/cache", get(cache::status::<C>))
        .route("/admin/cache/show", get(cache::show::<C>))
        .route("/admin/cache/clear", post(cache::clear::<C>))
        .route("/admin/cache/purge", post(cache::purge::<C>))
        .route("/admin/rate-limits", get(rate_limits::<C>))
        .route("/admin/clients/{client}", get(client::<C>))
        .route("/admin/clients/{client}/reset", post(reset_client::<C>))
        .route("/admin/log", get(log::<C>))
        .route("/admin/tail", get(tail::tail::<C>))
        .route("/admin/reload", post(reload::<C>))
        .route("/admin/usage", get(questions::usage::<C>))
        .route("/admin/requests", get(questions::requests::<C>))
        .route("/admin/requests/{id}", get(questions::request::<C>))
        .route("/admin/keys", get(keys::list::<C>).post(keys::add::<C>))
        .route("/admin/keys/unused", get(keys::unused::<C>))
        .route("/admin/keys/check", post(keys::check::<C>))
        .route("/admin/keys/{name}", get(keys::show::<C>))
        .route("/admin/keys/{name}/rotate", post(keys::rotate::<C>))
        .route("/admin/keys/{name}/expire", post(keys::expire::<C>))
        .route("/admin/keys/{name}/revoke", post(keys::revoke::<C>))
        .route("/admin/consumers/{name}", post(keys::consumer::<C>))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(Extension(questions::Readers::default()))
        .layer(from_fn_with_state(passage, pass))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(control)
}

/// What every request goes through, on the way in and on the way out.
async fn pass(
    State(passage): State<Arc<Passage>>,
    Extension(Local(local)): Extension<Local>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = match admit(&passage, local, request).await {
        Ok(request) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Reads the body, so that its bounds hold for every path, those that need none included.
async fn admit(passage: &Passage, local: SocketAddr, request: Request) -> Result<Request, Problem> {
    let (parts, body) = request.into_parts();
    passage.guard.admit(&parts, local)?;
    let reading = Bytes::from_request(Request::from_parts(parts.clone(), body), &());
    match tokio::time::timeout(passage.body_timeout, reading).await {
        Ok(Ok(bytes)) => Ok(Request::from_parts(parts, Body::from(bytes))),
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            let detail = format!("The request body may have at most {BODY_BYTES_MAX} bytes.");
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail))
        }
        Ok(Err(_)) => {
            Err(Problem::bad_request("bad_body", "The request body ended early or breaks the rules of HTTP."))
        }
        Err(_) => {
            let detail = format!("The request body did not arrive within {:?}.", passage.body_timeout);
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "client_timeout", detail))
        }
    }
}

/// axum adds `Allow` on the way out.
async fn unknown_method(method: Method) -> Problem {
    let detail = format!("This path does not admit {method}. The header Allow names what it admits.");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

async fn unknown_path(uri: Uri) -> Problem {
    let detail = format!(
        "There is no {} here. See /health, /ready, /health/services, /metrics, /admin/services, /admin/summary and /admin/cache; docs/operations.md has all.",
        uri.path()
    );
    Problem::new(StatusCode::NOT_FOUND, "no_route", detail)
}

async fn health<C: Control>(State(control): State<Arc<C>>) -> Json<Value> {
    let degraded = control.degraded();
    let status = if degraded.is_empty() { "ok" } else { "degraded" };
    Json(json!({"status": status, "degraded": degraded}))
}

async fn ready<C: Control>(State(control): State<Arc<C>>) -> Answer {
    let readiness = control.readiness();
    if readiness.ready {
        return Ok(Json(json!({"ready": true, "why": readiness.why})));
    }
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", readiness.why.clone());
    Err(problem.with("ready", json!(false)).with("why", json!(readiness.why)))
}

async fn health_of_services<C: Control>(State(control): State<Arc<C>>) -> Answer {
    let services = control.services();
    let unusable = |service: &&ServiceStatus| !service.usable;
    let names: Vec<&str> = services.iter().filter(unusable).map(|service| service.name.as_str()).collect();
    if names.is_empty() {
        return Ok(Json(json!({"status": "ok", "services": services})));
    }
    let detail = format!("No instance can be used: {}.", names.join(", "));
    // `status` is the number in a problem (RFC 9457), so it has no word here.
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no_instance", detail).with("services", json!(services)))
}

async fn metrics<C: Control>(State(control): State<Arc<C>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"))], control.metrics())
}

async fn summary<C: Control>(State(control): State<Arc<C>>) -> Answer {
    let summary = control.summary();
    let total = summary.successful + summary.blocked + summary.errors;
    // Before the first request there is no average and no rate.
    let of_total = |value: f64| (total > 0).then(|| value / total as f64);
    let since = jiff::Timestamp::try_from(summary.since).unwrap_or_default();
    Ok(Json(json!({
        "total": total,
        "successful": summary.successful,
        "blocked": summary.blocked,
        "errors": summary.errors,
        "average_response_time_seconds": of_total(summary.response_time.as_secs_f64()),
        "success_rate_percent": of_total(summary.successful as f64 * 100.0),
        "since": since.to_string(),
    })))
}

async fn services<C: Control>(State(control): State<Arc<C>>) -> Json<Value> {
    Json(json!({"services": control.services()}))
}

async fn rate_limits<C: Control>(State(control): State<Arc<C>>) -> Json<Value> {
    let mut entries = control.rate_limits().await;
    // The nearest to their limit first, so that a cut leaves out the least interesting.
    entries.sort_by(|a, b| share_left(a).partial_cmp(&share_left(b)).unwrap_or(Ordering::Equal));
    let truncated = entries.len() > LIMIT_ENTRIES_MAX;
    entries.truncate(LIMIT_ENTRIES_MAX);
    Json(json!({"limits": entries, "truncated": truncated, "totals": control.limit_totals()}))
}

fn share_left(entry: &LimitEntry) -> f64 {
    entry.tokens_remaining / entry.capacity.max(1) as f64
}

async fn client<C: Control>(State(control): State<Arc<C>>, name: Result<Path<String>, PathRejection>) -> Answer {
    let name = client_name(name)?;
    let limits = control.client(&name).await.ok_or_else(no_such_key)?;
    Ok(Json(match name {
        ClientName::Ip(ip) => json!({"ip": ip, "limits": limits}),
        ClientName::Key(key) => json!({"key": key, "limits": limits}),
    }))
}

async fn reset_client<C: Control>(State(control): State<Arc<C>>, name: Result<Path<String>, PathRejection>) -> Answer {
    let reset = control.reset_client(&client_name(name)?).await;
    let reset = reset.map_err(|why| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "limit_store_unavailable", why))?;
    let reset = reset.ok_or_else(no_such_key)?;
    Ok(Json(json!({"reset": reset})))
}

fn client_name(name: Result<Path<String>, PathRejection>) -> Result<ClientName, Problem> {
    let Ok(Path(name)) = name else {
        return Err(Problem::bad_request("bad_client", "The path names no address and no key."));
    };
    Ok(match name.parse::<IpAddr>() {
        Ok(ip) => ClientName::Ip(ip.to_canonical()),
        Err(_) => ClientName::Key(name),
    })
}

fn no_such_key() -> Problem {
    let detail = "The path names no IP address, e.g. 192.0.2.7, and no key of the configuration.";
    Problem::new(StatusCode::NOT_FOUND, "no_client", detail)
}

async fn log<C: Control>(State(control): State<Arc<C>>) -> Json<LogStatus> {
    Json(control.log())
}

async fn reload<C: Control>(State(control): State<Arc<C>>) -> Answer {
    // In a task of its own: a client that leaves must not stop a reload half way.
    let reload = tokio::spawn(async move { control.reload().await });
    match reload.await {
        Ok(Ok(generation)) => Ok(Json(json!({"generation": generation}))),
        Ok(Err(problems)) => {
            let detail = "The new configuration has problems; the old one serves on.";
            let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "reload_refused", detail);
            Err(problem.with("problems", json!(problems)))
        }
        Err(error) => {
            log::error!("reload failed: {error}");
            let detail = "The reload failed; the old configuration serves on. The gateway's own messages say more.";
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail))
        }
    }
}
