//! Instances over the admin API: they register themselves and say that they are still there, leave, and are drained.
//! A change is in force, and kept over a restart, when the answer comes. Not here: what it means for requests (`upstream`).

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::control::{Control, InstanceChange, InstanceChanged, NotChanged};
use super::problem::Problem;
use super::questions::bad;
use crate::config::{Instance, Span};
use crate::upstream::Address;

/// What of the TTL is right: shorter, and a busy moment ends a registration; longer, and it is none.
const TTL_MIN: Span = Span::seconds(1);
const TTL_MAX: Span = Span::seconds(86_400);

type Which = Result<Path<(String, String)>, PathRejection>;

/// The body of `PUT /admin/services/{service}/instances/{address}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RegisterRequest {
    weight: u16,
    backup: bool,
    ttl: Span,
}

impl Default for RegisterRequest {
    fn default() -> Self {
        Self { weight: 1, backup: false, ttl: Span::seconds(30) }
    }
}

/// `PUT /admin/services/{service}/instances/{address}`
pub(super) async fn register<C: Control>(
    State(control): State<Arc<C>>,
    which: Which,
    body: Bytes,
) -> Result<Response, Problem> {
    let (service, address) = named(which)?;
    let request = match body.trim_ascii() {
        [] => RegisterRequest::default(),
        body => serde_json::from_slice(body).map_err(|error| bad(format!("The body can't be read: {error}.")))?,
    };
    let RegisterRequest { weight, backup, ttl } = request;
    Instance { weight, backup, ..Instance::at(&address.to_string()) }.check().map_err(bad)?;
    if !(TTL_MIN..=TTL_MAX).contains(&ttl) {
        return Err(bad(format!("`ttl`: {ttl} is not from {TTL_MIN} to {TTL_MAX}.")));
    }
    let change = InstanceChange::Register { weight, backup, ttl };
    let changed = changed(control, &service, &address, change).await?;
    let status = if changed.is_new { StatusCode::CREATED } else { StatusCode::OK };
    let answer = json!({"service": service, "address": address, "weight": weight, "backup": backup, "ttl": ttl});
    Ok((status, Json(answer)).into_response())
}

/// `DELETE /admin/services/{service}/instances/{address}`
pub(super) async fn remove<C: Control>(State(control): State<Arc<C>>, which: Which) -> Result<Json<Value>, Problem> {
    let (service, address) = named(which)?;
    let changed = changed(control, &service, &address, InstanceChange::Remove).await?;
    Ok(told(&service, &address, &changed))
}

/// `POST /admin/services/{service}/instances/{address}/drain`
pub(super) async fn drain<C: Control>(State(control): State<Arc<C>>, which: Which) -> Result<Json<Value>, Problem> {
    let (service, address) = named(which)?;
    let changed = changed(control, &service, &address, InstanceChange::Drain).await?;
    Ok(told(&service, &address, &changed))
}

/// `POST /admin/services/{service}/instances/{address}/undrain`
pub(super) async fn undrain<C: Control>(State(control): State<Arc<C>>, which: Which) -> Result<Json<Value>, Problem> {
    let (service, address) = named(which)?;
    let changed = changed(control, &service, &address, InstanceChange::Undrain).await?;
    Ok(told(&service, &address, &changed))
}

fn named(which: Which) -> Result<(String, Address), Problem> {
    const SHAPE: &str = "The path names no instance: /admin/services/NAME/instances/10.0.0.1:8080.";
    let Path((service, address)) = which.map_err(|_| bad(SHAPE))?;
    let address = Address::parse(&address).map_err(|why| bad(format!("{why}.")))?;
    Ok((service, address))
}

fn told(service: &str, address: &Address, changed: &InstanceChanged) -> Json<Value> {
    let mut answer = json!({
        "service": service,
        "address": address,
        "state": changed.state,
        "in_flight": changed.in_flight,
        "service_usable": changed.is_service_usable,
    });
    if !changed.is_service_usable {
        answer["warning"] =
            json!("The service has no instance left that may be used: its requests get 503 `no_instance`.");
    }
    Json(answer)
}

async fn changed<C: Control>(
    control: Arc<C>,
    service: &str,
    address: &Address,
    change: InstanceChange,
) -> Result<InstanceChanged, Problem> {
    let (name, at) = (service.to_owned(), address.clone());
    // In a task of its own: it runs to its end even when the client leaves.
    let changing = tokio::spawn(async move { control.change_instance(&name, &at, change).await });
    let changed = changing.await.unwrap_or_else(|error| Err(NotChanged::Unkept(error.to_string())));
    let problem = |status, reason, detail: String| Problem::new(status, reason, detail);
    changed.map_err(|why| match why {
        NotChanged::NoService => {
            problem(StatusCode::NOT_FOUND, "no_service", format!("There is no service `{service}`."))
        }
        NotChanged::NoInstance => {
            problem(StatusCode::NOT_FOUND, "no_instance", format!("`{service}` has no instance {address}."))
        }
        NotChanged::NotRegistered => {
            let detail =
                format!("{address} did not register: it is listed elsewhere, so it can be drained, but not removed.");
            problem(StatusCode::CONFLICT, "not_registered", detail)
        }
        NotChanged::NoRegistration => {
            let detail =
                format!("Instances of `{service}` don't register: that is `discover: {{registration: true}}`.");
            problem(StatusCode::CONFLICT, "no_registration", detail)
        }
        NotChanged::Full(max) => {
            let detail = format!("`{service}` has {max} registered instances, and can't have more.");
            problem(StatusCode::CONFLICT, "too_many_instances", detail)
        }
        NotChanged::Unkept(why) => {
            problem(StatusCode::INTERNAL_SERVER_ERROR, "state_unwritable", format!("Nothing has changed: {why}."))
        }
    })
}
