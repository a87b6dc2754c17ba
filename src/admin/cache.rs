//! The cache: what it did and holds, and what is purged from it. Where no index names what is wanted, every stored answer is
//! looked at, so that runs beside the threads that serve. Not here: what is stored and how long (`policy/cache`).

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use http::{StatusCode, Uri};
use serde::Deserialize;
use serde_json::json;

use super::api::Answer;
use super::cached::{CacheStatus, CachedUrl};
use super::control::{CacheScope, Control};
use super::problem::Problem;

const FIX: &str = "Name what to purge: {\"all\": true}, {\"url\": \"http://HOST/PATH\"}, {\"prefix\": \"http://HOST/PATH\"}, {\"route\": \"PATTERN OR NAME\"}, {\"tag\": \"TAG\"} or {\"consumer\": \"NAME\"}, as body or query; {\"soft\": true} beside it only makes it stale.";

/// Of the largest and the hottest answers: how many are shown unless the question says so, and at most.
const TOP: usize = 10;
const TOP_MAX: usize = 1_000;

/// The query of `/admin/cache`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shown {
    top: Option<usize>,
}

/// The query of `/admin/cache/show`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    url: String,
}

/// Does something that takes a while.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    // In a task of its own: a client that leaves must not stop a purge half way.
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        log::error!("a question to the cache failed: {error}");
        let detail = "The question failed. The gateway's own messages say more.";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    })
}

/// `GET /admin/cache`
pub(super) async fn status<C: Control>(
    State(control): State<Arc<C>>,
    query: Result<Query<Shown>, QueryRejection>,
) -> Result<Json<CacheStatus>, Problem> {
    let Query(shown) = query.map_err(|rejection| Problem::bad_request("bad_request", rejection.body_text()))?;
    let top = shown.top.unwrap_or(TOP);
    if top > TOP_MAX {
        return Err(Problem::bad_request("bad_request", format!("top: at most {TOP_MAX}.")));
    }
    aside(move || control.cache(top)).await.map(Json)
}

/// `GET /admin/cache/show`
pub(super) async fn show<C: Control>(
    State(control): State<Arc<C>>,
    query: Result<Query<Asked>, QueryRejection>,
) -> Result<Json<CachedUrl>, Problem> {
    let bad = |why: String| Problem::bad_request("bad_request", why);
    let Query(asked) = query.map_err(|rejection| bad(format!("{}: ?url=http://HOST/PATH", rejection.body_text())))?;
    aside(move || control.cached(&asked.url)).await?.map(Json).map_err(bad)
}

/// The body or query: one scope, and how.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    all: Option<bool>,
    route: Option<String>,
    url: Option<String>,
    prefix: Option<String>,
    tag: Option<String>,
    consumer: Option<String>,
    soft: Option<bool>,
}

type Given = Result<Query<Wanted>, QueryRejection>;

impl Wanted {
    /// Exactly one, and one that names something.
    fn scope(self) -> Option<CacheScope> {
        let all = self.all.unwrap_or_default().then_some(CacheScope::All);
        let named = [
            self.route.map(CacheScope::Route),
            self.url.map(CacheScope::Url),
            self.prefix.map(CacheScope::Prefix),
            self.tag.filter(|tag| !tag.is_empty()).map(CacheScope::Tag),
            self.consumer.filter(|consumer| !consumer.is_empty()).map(CacheScope::Consumer),
        ];
        let mut scopes = all.into_iter().chain(named.into_iter().flatten());
        let scope = scopes.next()?;
        scopes.next().is_none().then_some(scope)
    }
}

/// What was purged, and whether softly.
async fn run<C: Control>(control: Arc<C>, query: Given, uri: &Uri, body: &Bytes) -> Result<(u64, bool), Problem> {
    let asked_in_query = uri.query().is_some_and(|query| !query.is_empty());
    let wanted = match (asked_in_query, body.trim_ascii()) {
        (true, []) => query.map(|Query(wanted)| wanted).map_err(|rejection| rejection.body_text()),
        (false, []) => Ok(Wanted::default()),
        (true, _) => Err("There is a body and a query.".into()),
        (false, body) => serde_json::from_slice(body).map_err(|error| format!("The body can't be read: {error}.")),
    };
    let wanted = wanted.map_err(|why| Problem::bad_request("bad_request", format!("{why} {FIX}")))?;
    let soft = wanted.soft.unwrap_or_default();
    let scope = wanted.scope().ok_or_else(|| Problem::bad_request("bad_request", FIX))?;
    let purged = aside(move || control.purge_cache(&scope, soft)).await?;
    Ok((purged.map_err(|why| Problem::bad_request("bad_request", why))?, soft))
}

/// `POST /admin/cache/purge`
pub(super) async fn purge<C: Control>(State(control): State<Arc<C>>, query: Given, uri: Uri, body: Bytes) -> Answer {
    let (purged, soft) = run(control, query, &uri, &body).await?;
    Ok(Json(json!({"purged": purged, "soft": soft})))
}

/// `POST /admin/cache/clear`: the same, with the name that the number had first.
pub(super) async fn clear<C: Control>(State(control): State<Arc<C>>, query: Given, uri: Uri, body: Bytes) -> Answer {
    let (cleared, _) = run(control, query, &uri, &body).await?;
    Ok(Json(json!({"cleared": cleared})))
}
