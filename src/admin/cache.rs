//! The cache: what is purged from it. A purge looks at every stored answer where no index names them, so it runs beside the
//! threads that serve. Not here: what is stored and how long (`policy/cache`).

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use http::{StatusCode, Uri};
use serde::Deserialize;
use serde_json::json;

use super::api::Answer;
use super::control::{CacheScope, Control};
use super::problem::Problem;

const FIX: &str = "Name what to purge: {\"all\": true}, {\"url\": \"http://HOST/PATH\"}, {\"prefix\": \"http://HOST/PATH\"}, {\"route\": \"PATTERN OR NAME\"}, {\"tag\": \"TAG\"} or {\"consumer\": \"NAME\"}, as body or query; {\"soft\": true} beside it only makes it stale.";

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
    // In a task of its own: a client that leaves must not stop a purge half way.
    match tokio::task::spawn_blocking(move || control.purge_cache(&scope, soft)).await {
        Ok(Ok(purged)) => Ok((purged, soft)),
        Ok(Err(why)) => Err(Problem::bad_request("bad_request", why)),
        Err(error) => {
            log::error!("a purge failed: {error}");
            let detail = "The purge failed. The gateway's own messages say more.";
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail))
        }
    }
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
