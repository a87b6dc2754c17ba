//! Questions to the request log: the same as `tollgate usage` and `tollgate requests`, with the same parameters.
//! Reading blocks, so it runs beside the threads that serve; few questions at once, each for a bounded time, because the
//! store's first task is to take the log. Not here: what the questions mean (`analytics`).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use jiff::Timestamp;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::control::Control;
use super::problem::Problem;
use crate::analytics::requests::{self, Requests};
use crate::analytics::{Format, Parameters, question, usage};
use crate::store::read::{Reader, Unreadable};

/// Questions at once; more are refused.
pub(super) const READERS_MAX: usize = 2;

/// How long one may take.
pub(super) const TIME_MAX: Duration = Duration::from_secs(30);

/// Who may read.
#[derive(Clone, Debug)]
pub(super) struct Readers(pub(super) Arc<Semaphore>);

impl Default for Readers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(READERS_MAX)))
    }
}

pub(super) type Given = Result<Query<Vec<(String, String)>>, QueryRejection>;

pub(super) fn bad(why: impl Into<String>) -> Problem {
    Problem::bad_request("bad_request", why)
}

pub(super) fn parameters(given: Given) -> Result<Parameters, Problem> {
    let Query(pairs) = given.map_err(|rejection| bad(rejection.body_text()))?;
    Ok(Parameters::new(pairs))
}

pub(super) fn unreadable(why: &Unreadable) -> Problem {
    let (status, reason) = match why {
        Unreadable::Absent(_) => (StatusCode::NOT_FOUND, "no_log"),
        Unreadable::Failed(_) => (StatusCode::SERVICE_UNAVAILABLE, "log_away"),
        Unreadable::TooLong(_) => (StatusCode::SERVICE_UNAVAILABLE, "too_long"),
        Unreadable::TooLarge(_) => (StatusCode::BAD_REQUEST, "too_large"),
    };
    Problem::new(status, reason, why.to_string())
}

/// Reads on a thread of its own; the slot is free again when the reading has ended, not when the client has left.
async fn read<C: Control, T: Send + 'static>(
    control: &C,
    Readers(readers): Readers,
    read: impl FnOnce(&mut Reader) -> Result<T, Unreadable> + Send + 'static,
) -> Result<T, Problem> {
    let Ok(slot) = readers.try_acquire_owned() else {
        let detail = format!("{READERS_MAX} questions to the request log are being answered; ask again.");
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail));
    };
    let store = control.log_store();
    let reading = tokio::task::spawn_blocking(move || {
        let _slot = slot;
        read(&mut Reader::open(&store, TIME_MAX)?)
    });
    match reading.await {
        Ok(answer) => answer.map_err(|why| unreadable(&why)),
        Err(error) => {
            log::error!("a question to the request log failed: {error}");
            let detail = "The question failed. The gateway's own messages say more.";
            Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail))
        }
    }
}

fn written(format: Format, text: String) -> Response {
    let kind = match format {
        Format::Csv => "text/csv; charset=utf-8; header=present",
        Format::Json | Format::Table => "application/json",
    };
    ([(CONTENT_TYPE, HeaderValue::from_static(kind))], text).into_response()
}

/// `GET /admin/usage`
pub(super) async fn usage<C: Control>(
    State(control): State<Arc<C>>,
    Extension(readers): Extension<Readers>,
    given: Given,
) -> Result<Response, Problem> {
    let now = Timestamp::now();
    let (question, format) =
        question(parameters(given)?, &Format::FOR_PROGRAMS, usage::Question::take, now).map_err(bad)?;
    let text = read(&*control, readers, move |reader| {
        let answer = question.answer(reader, now)?;
        Ok(if format == Format::Csv { answer.csv(false) } else { answer.json() })
    });
    Ok(written(format, text.await?))
}

/// `GET /admin/requests`
pub(super) async fn requests<C: Control>(
    State(control): State<Arc<C>>,
    Extension(readers): Extension<Readers>,
    given: Given,
) -> Result<Response, Problem> {
    let (question, format) =
        question(parameters(given)?, &Format::FOR_PROGRAMS, requests::Question::take, Timestamp::now()).map_err(bad)?;
    let text = read(&*control, readers, move |reader| {
        let page = question.answer(reader)?;
        Ok(if format == Format::Csv { page.csv(false) } else { page.json() })
    });
    Ok(written(format, text.await?))
}

/// `GET /admin/requests/{id}`
pub(super) async fn request<C: Control>(
    State(control): State<Arc<C>>,
    Extension(readers): Extension<Readers>,
    id: Result<Path<String>, PathRejection>,
    given: Given,
) -> Result<Response, Problem> {
    question(parameters(given)?, &Format::FOR_PROGRAMS[..1], |_, _| Ok(()), Timestamp::now()).map_err(bad)?;
    let id = id.ok().and_then(|Path(id)| id.parse::<Uuid>().ok());
    let id = id.ok_or_else(|| Problem::bad_request("bad_id", "The last part of the path is no request id, a UUID."))?;
    let page = read(&*control, readers, move |reader| Requests::with_id(reader, id)).await?;
    if page.requests.is_empty() {
        let detail = format!("There is no request {id} in the log, or no longer.");
        return Err(Problem::new(StatusCode::NOT_FOUND, "no_request", detail));
    }
    Ok(written(Format::Json, page.json()))
}
