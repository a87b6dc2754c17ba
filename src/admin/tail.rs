//! `GET /admin/tail`: records as they come, as server-sent events. An event is one JSON line of the request log; an event `missed`
//! says how many lines a follower was too slow for. A stream ends before its connection has to: clients connect again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{Stream, unfold};
use http::StatusCode;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::control::Control;
use super::problem::Problem;
use super::questions::{Given, bad, parameters};
use crate::analytics::{printable_json, wanted};
use crate::request_log::{FOLLOWERS_MAX, Following};

/// How long one stream lasts; less than a connection may.
pub(super) const LASTS: Duration = Duration::from_secs(280);

/// An event that holds nothing keeps proxies between from ending a stream.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Follows the log.
pub(super) async fn tail<C: Control>(
    State(control): State<Arc<C>>,
    given: Given,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let wanted = wanted(parameters(given)?).map_err(bad)?;
    let following = control.follow(Box::new(wanted)).ok_or_else(|| {
        let detail = format!("{FOLLOWERS_MAX} follow already; try again when one has left.");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail)
    })?;
    let until = Instant::now() + LASTS;
    let events = unfold((following, until), |(mut following, until)| async move {
        let event = next(&mut following, until).await?;
        Some((Ok(event), (following, until)))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// The next event; none at the end.
async fn next(following: &mut Following, until: Instant) -> Option<Event> {
    match following.missed() {
        0 => {}
        missed => return Some(Event::default().event("missed").data(json!({"missed": missed}).to_string())),
    }
    let line = timeout_at(until, following.next()).await.ok()??;
    Some(Event::default().data(printable_json(&String::from_utf8_lossy(&line))))
}
