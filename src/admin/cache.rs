//! The cache: what it did and holds, and what is purged from it. Where no index names what is wanted, every stored answer is
//! looked at, so that runs beside the threads that serve. Not here: what is stored and how long (`policy/cache`).

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use http::{StatusCode, Uri};
use serde::Deserialize;
use serde_json::json;

use super::api::Answer;
use super::cached::{CacheStatus, CachedUrl};
use super::control::{CacheScope, Control};
use super::problem::Problem;
use super::questions::{Given, bad, parameters};
use crate::analytics::Parameters;

const FIX: &str = "Name what to purge: {\"all\": true}, {\"url\": \"http://HOST/PATH\"}, {\"prefix\": \"http://HOST/PATH\"}, {\"route\": \"PATTERN OR NAME\"}, {\"tag\": \"TAG\"} or {\"consumer\": \"NAME\"}, as body or query; {\"soft\": true} beside it only makes it stale.";

/// Of the largest and the hottest answers: how many are shown unless the question says so, and at most.
const TOP: usize = 10;
const TOP_MAX: usize = 1_000;

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
    given: Given,
) -> Result<Json<CacheStatus>, Problem> {
    let top = top(parameters(given)?).map_err(bad)?;
    aside(move || control.cache(top)).await.map(Json)
}

fn top(mut given: Parameters) -> Result<usize, String> {
    let number = |text: &str| {
        let number = text.parse().ok().filter(|number| *number <= TOP_MAX);
        number.ok_or_else(|| format!("`{text}` is no number from 0 to {TOP_MAX}"))
    };
    let top = given.parsed("top", number)?;
    given.finish()?;
    Ok(top.unwrap_or(TOP))
}

/// `GET /admin/cache/show`
pub(super) async fn show<C: Control>(State(control): State<Arc<C>>, given: Given) -> Result<Json<CachedUrl>, Problem> {
    let url = url(parameters(given)?).map_err(bad)?;
    aside(move || control.cached(&url)).await?.map(Json).map_err(bad)
}

fn url(mut given: Parameters) -> Result<String, String> {
    let url = given.one("url")?;
    given.finish()?;
    url.ok_or_else(|| "url: missing: ?url=http://HOST/PATH".to_owned())
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

impl Wanted {
    fn of(mut given: Parameters) -> Result<Self, String> {
        // Written out: a name alone purges nothing.
        let word = |text: &str| text.parse().map_err(|_| format!("`{text}` is neither true nor false"));
        let wanted = Self {
            all: given.parsed("all", word)?,
            route: given.one("route")?,
            url: given.one("url")?,
            prefix: given.one("prefix")?,
            tag: given.one("tag")?,
            consumer: given.one("consumer")?,
            soft: given.parsed("soft", word)?,
        };
        given.finish()?;
        Ok(wanted)
    }

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
        (true, []) => Wanted::of(parameters(query)?).map_err(|why| format!("{why}.")),
        (false, []) => Ok(Wanted::default()),
        (true, _) => Err("There is a body and a query.".into()),
        (false, body) => serde_json::from_slice(body).map_err(|error| format!("The body can't be read: {error}.")),
    };
    let wanted = wanted.map_err(|why| bad(format!("{why} {FIX}")))?;
    let soft = wanted.soft.unwrap_or_default();
    let scope = wanted.scope().ok_or_else(|| bad(FIX))?;
    let purged = aside(move || control.purge_cache(&scope, soft)).await?;
    Ok((purged.map_err(bad)?, soft))
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
