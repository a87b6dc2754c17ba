//! Keys over the admin API: the same steps as `tollgate keys`, on the key store of the configuration in force, behind the same
//! guard as everything here. A key is in one answer only: the one to the request that made it.
//! Stores block, so they are asked beside the threads that serve; a step that was begun runs to its end.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::control::Control;
use super::problem::Problem;
use super::questions::{Given, READERS_MAX, Readers, TIME_MAX, bad, parameters, unreadable};
use crate::analytics::{Format, Inventory, question};
use crate::config::{Config, Digest, Expiry, KeyStoreUrl, Span, StoreUrl};
use crate::keys::life::{Life, Secret, Wanted};
use crate::keys::{digest_of, scan};
use crate::store::keys::{ConsumerChange, KeyStore, Unchanged};
use crate::store::read::Reader;

type Name = Result<Path<String>, PathRejection>;

/// The body of `POST /admin/keys`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddRequest {
    name: String,
    consumer: Option<String>,
    plan: Option<String>,
    labels: Option<Vec<String>>,
    expires: Option<Expiry>,
    /// A key that exists; at most one of the two.
    secret: Option<String>,
    sha256: Option<Digest>,
    #[serde(default)]
    weak_ok: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RotateRequest {
    name: Option<String>,
    #[serde(rename = "for")]
    overlap: Option<Span>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpireRequest {
    /// `null` is never.
    at: Option<Expiry>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ConsumerRequest {
    /// `none` takes it away.
    plan: Option<String>,
    labels: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckRequest {
    text: String,
}

impl AddRequest {
    fn wanted(self) -> Result<Wanted, Problem> {
        let secret = match (self.secret, self.sha256) {
            (None, None) => Secret::Made,
            (Some(secret), None) => Secret::Brought(secret, self.weak_ok),
            (None, Some(digest)) => Secret::Digest(digest),
            (Some(_), Some(_)) => return Err(bad("A key is brought as `secret` or as `sha256`, not as both.")),
        };
        let expires = self.expires.map(|expires| expires.0);
        let Self { name, consumer, plan, labels, .. } = self;
        Ok(Wanted { name, consumer, plan, labels, expires, secret })
    }
}

/// `GET /admin/keys`
pub(super) async fn list<C: Control>(
    State(control): State<Arc<C>>,
    Extension(readers): Extension<Readers>,
    given: Given,
) -> Result<Response, Problem> {
    let take = |parameters: &mut _, _| crate::analytics::flag(parameters, "all");
    let (all, _) = question(parameters(given)?, &Format::FOR_PROGRAMS[..1], take, Timestamp::now()).map_err(bad)?;
    let mut inventory = inventory(&*control, readers, 30).await?;
    if !all {
        inventory.leave_out_revoked();
    }
    Ok(written(&inventory))
}

/// `GET /admin/keys/unused`
pub(super) async fn unused<C: Control>(
    State(control): State<Arc<C>>,
    Extension(readers): Extension<Readers>,
    given: Given,
) -> Result<Response, Problem> {
    let take = |parameters: &mut _, _| crate::analytics::days(parameters, "for", 90);
    let (days, _) = question(parameters(given)?, &Format::FOR_PROGRAMS[..1], take, Timestamp::now()).map_err(bad)?;
    let mut inventory = inventory(&*control, readers, days).await?;
    if inventory.keys.iter().any(|item| item.requests.is_none()) {
        return Err(Problem::new(StatusCode::NOT_FOUND, "no_log", inventory.notes.join("; ")));
    }
    inventory.keep_unused(Timestamp::now());
    Ok(written(&inventory))
}

/// `GET /admin/keys/{name}`
pub(super) async fn show<C: Control>(
    State(control): State<Arc<C>>,
    Extension(readers): Extension<Readers>,
    name: Name,
) -> Result<Response, Problem> {
    let name = named(name)?;
    let mut inventory = inventory(&*control, readers, 30).await?;
    inventory.keys.retain(|item| item.name == name);
    if inventory.keys.is_empty() {
        let detail = format!("There is no key named `{name}`.");
        return Err(Problem::new(StatusCode::NOT_FOUND, "no_key", detail));
    }
    Ok(written(&inventory))
}

/// `POST /admin/keys`
pub(super) async fn add<C: Control>(State(control): State<Arc<C>>, body: Bytes) -> Result<Response, Problem> {
    let wanted = read::<AddRequest>(&body)?.wanted()?;
    let added = step(control, move |life| life.add(wanted)).await?;
    Ok((StatusCode::CREATED, Json(json!(added))).into_response())
}

/// `POST /admin/keys/{name}/rotate`
pub(super) async fn rotate<C: Control>(
    State(control): State<Arc<C>>,
    name: Name,
    body: Bytes,
) -> Result<Response, Problem> {
    const USUAL: Span = Span::seconds(7 * 86_400);
    let name = named(name)?;
    let request = if body.is_empty() { RotateRequest::default() } else { read(&body)? };
    let added = step(control, move |life| life.rotate(&name, request.name, request.overlap.unwrap_or(USUAL))).await?;
    Ok((StatusCode::CREATED, Json(json!(added))).into_response())
}

/// `POST /admin/keys/{name}/expire`
pub(super) async fn expire<C: Control>(
    State(control): State<Arc<C>>,
    name: Name,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    let (name, request) = (named(name)?, read::<ExpireRequest>(&body)?);
    let end = request.at.map(|at| at.0);
    let answer = json!({"name": name, "expires": end});
    step(control, move |life| life.expire(&name, end)).await?;
    Ok(Json(answer))
}

/// `POST /admin/keys/{name}/revoke`
pub(super) async fn revoke<C: Control>(State(control): State<Arc<C>>, name: Name) -> Result<Json<Value>, Problem> {
    let name = named(name)?;
    let answer = json!({"name": name, "revoked": true});
    step(control, move |life| life.revoke(&name)).await?;
    Ok(Json(answer))
}

/// `POST /admin/consumers/{name}`
pub(super) async fn consumer<C: Control>(
    State(control): State<Arc<C>>,
    name: Name,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    let (name, request) = (named(name)?, read::<ConsumerRequest>(&body)?);
    let answer = json!({"consumer": name, "plan": request.plan, "labels": request.labels});
    let plan = request.plan.map(|plan| Some(plan).filter(|plan| plan != "none"));
    step(control, move |life| life.consumer(&name, ConsumerChange { plan, labels: request.labels })).await?;
    Ok(Json(answer))
}

/// `POST /admin/keys/check`: which keys are in a text. The keys themselves are not in the answer.
pub(super) async fn check<C: Control>(State(control): State<Arc<C>>, body: Bytes) -> Result<Json<Value>, Problem> {
    let CheckRequest { text } = read(&body)?;
    let config = control.config();
    let stored = ask(move || stored(&config)).await?;
    let config = control.config();
    let name_of = |key: &str| {
        let digest = digest_of(key.as_bytes());
        let of_file = config.keys.iter().find(|(_, key)| key.sha256 == digest).map(|(name, _)| name);
        of_file.or_else(|| stored.iter().find(|key| key.sha256 == digest).map(|key| &key.name))
    };
    let found: Vec<Value> = scan::candidates(&text)
        .into_iter()
        .map(|one| {
            json!({"line": one.line, "column": one.column, "key": scan::shown(one.text), "checksum": one.is_key,
                   "name": name_of(one.text)})
        })
        .collect();
    Ok(Json(json!({"found": found})))
}

fn named(name: Name) -> Result<String, Problem> {
    name.map(|Path(name)| name).map_err(|_| bad("The path names no key."))
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    // A parser's error names a place and a field; what it quotes is of our grammar, or a word where a number should be.
    serde_json::from_slice(body).map_err(|error| bad(format!("The body can't be read: {error}.")))
}

fn written(inventory: &Inventory) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], inventory.json()).into_response()
}

/// One step in the life of a key. It runs to its end even when the client leaves.
async fn step<C: Control, T: Send + 'static>(
    control: Arc<C>,
    step: impl FnOnce(&mut Life<'_>) -> Result<T, Unchanged> + Send + 'static,
) -> Result<T, Problem> {
    let done = ask(move || {
        let config = control.config();
        let mut store = open(&config)?;
        let done = step(&mut Life::new(&mut store, &config)).map_err(|why| match why {
            Unchanged::No(why) => Problem::new(StatusCode::CONFLICT, "not_done", why),
            Unchanged::Failed(failure) => away(failure.message()),
        })?;
        control.keys_changed();
        Ok(done)
    });
    done.await
}

/// Every key with its use, where there is a log.
async fn inventory<C: Control>(control: &C, Readers(readers): Readers, days: u32) -> Result<Inventory, Problem> {
    let Ok(slot) = readers.try_acquire_owned() else {
        let detail = format!("{READERS_MAX} questions to the request log are being answered; ask again.");
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail));
    };
    let config = control.config();
    ask(move || {
        let _slot = slot;
        let now = Timestamp::now();
        let mut inventory = Inventory::of(&config.keys, &stored(&config)?, days, now);
        if config.log.store == StoreUrl::None {
            inventory.notes.push("there is no request log, so nothing is known of their use".to_owned());
            return Ok(inventory);
        }
        let mut reader = Reader::open(&config.log.store, TIME_MAX).map_err(|why| unreadable(&why))?;
        inventory.add_use(&mut reader, now).map_err(|why| unreadable(&why))?;
        Ok(inventory)
    })
    .await
}

fn stored(config: &Config) -> Result<Vec<crate::store::keys::StoredKey>, Problem> {
    match config.key_store {
        KeyStoreUrl::None => Ok(Vec::new()),
        _ => Ok(open(config)?.read().map_err(|failure| away(failure.message()))?.keys),
    }
}

fn open(config: &Config) -> Result<KeyStore, Problem> {
    let url = config.key_store.database(&config.log.store);
    let store = KeyStore::open(&url).map_err(|failure| away(failure.message()))?;
    store.ok_or_else(|| {
        let detail = "The configuration has no `key_store`: its keys are in the file.";
        Problem::new(StatusCode::CONFLICT, "no_key_store", detail)
    })
}

fn away(why: &str) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "key_store_away", format!("The key store can't be used now: {why}."))
}

async fn ask<T: Send + 'static>(work: impl FnOnce() -> Result<T, Problem> + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
        log::error!("a question to the key store failed: {error}");
        let detail = "It failed. The gateway's own messages say more.";
        Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail))
    })
}
