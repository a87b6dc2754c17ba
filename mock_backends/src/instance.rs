//! One instance: what it serves, how it feels at the moment, and how often it was asked.
//! Every request but the control ones passes `live`, which counts, delays, fails and shapes;
//! the handlers below it only know their answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, Path, Query, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use http::{HeaderMap, Method, StatusCode, Uri, header};
use rand::Rng;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::arrivals::Arrivals;
use crate::catalog::{self, ITEMS};
use crate::control::problem;
use crate::failure::{Failure, Failures, Wanted};
use crate::line::Line;
use crate::options::{Latency, Place, Service};
use crate::ranges::Asked;
use crate::wishes::Wishes;

/// Paths counted one by one; further ones share a counter, so that clients can't grow the table without end.
const PATHS_MAX: usize = 10_000;

/// Of an answer that is cut in its body: enough for every header.
const BYTES_BEFORE_CUT: u64 = 1_000;

/// One instance of one service.
pub struct Instance {
    /// What `X-Instance` says.
    pub name: String,
    /// What it serves.
    pub service: Service,
    /// How it fails at the moment.
    pub failures: Arc<watch::Sender<Failures>>,
    /// How long answers take at the moment.
    pub latency: Mutex<Latency>,
    /// What reached it.
    pub arrivals: Arrivals,
    error_rate: f64,
    hits: Mutex<BTreeMap<String, u64>>,
    created: AtomicU64,
}

impl Instance {
    /// A healthy instance.
    pub fn new(place: &Place, latency: Latency, error_rate: f64, arrivals: Arrivals) -> Self {
        Self {
            name: place.name.clone(),
            service: place.service,
            failures: Arc::default(),
            latency: Mutex::new(latency),
            arrivals,
            error_rate,
            hits: Mutex::new(BTreeMap::new()),
            created: AtomicU64::new(ITEMS),
        }
    }

    /// Requests so far by path, control requests left out.
    pub fn hits(&self) -> BTreeMap<String, u64> {
        self.hits.lock().map(|hits| hits.clone()).unwrap_or_default()
    }

    fn count(&self, path: &str) {
        let Ok(mut hits) = self.hits.lock() else { return };
        let path = if hits.len() < PATHS_MAX || hits.contains_key(path) { path } else { "(other)" };
        *hits.entry(path.to_owned()).or_default() += 1;
    }

    /// Switches a failure on, for the time it says.
    ///
    /// # Errors
    /// What is wrong with the wish.
    pub fn fails(&self, wanted: Wanted) -> Result<(), String> {
        let mut next = self.failures.borrow().clone();
        let lasts = wanted.apply(&mut next)?;
        let change = next.changes;
        self.failures.send_replace(next);
        if let Some(lasts) = lasts {
            let failures = Arc::clone(&self.failures);
            tokio::spawn(async move {
                tokio::time::sleep(lasts).await;
                // Not what was switched on in the meantime.
                failures.send_if_modified(|now| {
                    let is_same = now.changes == change;
                    if is_same {
                        now.mend();
                    }
                    is_same
                });
            });
        }
        Ok(())
    }

    fn pause(&self) -> Duration {
        one_of(self.latency.lock().map(|latency| *latency).unwrap_or_default())
    }

    fn stumbles(&self) -> bool {
        self.error_rate > 0.0 && rand::rng().random_bool(self.error_rate)
    }
}

fn one_of(Latency { from, to }: Latency) -> Duration {
    if from == to { from } else { rand::rng().random_range(from..=to) }
}

/// What clients of the service ask for.
pub fn router(instance: &Arc<Instance>) -> Router {
    let items = catalog::collection(instance.service);
    Router::new()
        .route(&format!("/{items}"), get(list).post(create))
        .route(&format!("/{items}/{{id}}"), get(item))
        .route("/hello", get(hello))
        .route("/data", get(data))
        .route("/health", get(health))
        .route("/echo", any(echo))
        .route("/echo/{*below}", any(echo))
        .fallback(unknown)
        .layer(from_fn_with_state(Arc::clone(instance), live))
        .with_state(Arc::clone(instance))
}

/// Counts, delays, fails and shapes: everything an answer goes through, whatever was asked.
async fn live(
    State(instance): State<Arc<Instance>>,
    ConnectInfo(line): ConnectInfo<Line>,
    wishes: Result<Query<Wishes>, axum::extract::rejection::QueryRejection>,
    request: Request,
    next: Next,
) -> Response {
    instance.count(request.uri().path());
    instance.arrivals.note(&request);
    let is_first = line.begins_request();
    let wishes = match wishes {
        Ok(Query(wishes)) => wishes,
        Err(error) => return instance.signed(problem(StatusCode::BAD_REQUEST, &error.body_text())),
    };
    tokio::time::sleep(instance.pause() + wishes.delay()).await;
    let failure = instance.failures.borrow().of(request.uri().path());
    let failed = match failure {
        Some(failure) => fail(&instance, failure, &line, is_first).await,
        None if instance.stumbles() => Some(problem(StatusCode::INTERNAL_SERVER_ERROR, "one of the occasional errors")),
        None => None,
    };
    let response = match failed {
        Some(failed) => failed,
        None => {
            let if_none_match = request.headers().get(header::IF_NONE_MATCH).cloned();
            let asked = Asked::of(request.headers()).filter(|_| *request.method() == Method::GET);
            let answer = wishes.instead().unwrap_or(next.run(request).await);
            let answer = wishes.shape(answer, if_none_match.as_ref());
            match asked {
                Some(asked) => asked.of_answer(answer).await,
                None => answer,
            }
        }
    };
    instance.signed(response)
}

/// The answer of a failure, or none where a good answer is still to be given.
async fn fail(instance: &Instance, failure: Failure, line: &Line, is_first: bool) -> Option<Response> {
    match failure {
        Failure::Errors { status, retry_after } => {
            let mut answer = problem(status, "this instance was told to fail");
            if let Some(seconds) = retry_after {
                answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            }
            Some(answer)
        }
        Failure::Hang => {
            // Until something is switched, or the client gives up.
            let mut failures = instance.failures.subscribe();
            let before = failures.borrow_and_update().changes;
            let _ = failures.wait_for(|now| now.changes != before).await;
            Some(problem(StatusCode::INTERNAL_SERVER_ERROR, "this instance was told to hang"))
        }
        Failure::Slow(latency) => {
            tokio::time::sleep(one_of(latency)).await;
            None
        }
        Failure::Drip(pause) => {
            line.drip(pause);
            None
        }
        Failure::Stale if is_first => None,
        Failure::Stale => Some(cut(line, 0, false)),
        // A connection that stood before is no better than a new one.
        Failure::Reset | Failure::Refuse | Failure::Close => Some(cut(line, 0, true)),
        Failure::ResetBody => Some(cut(line, BYTES_BEFORE_CUT, true)),
        Failure::Truncate => Some(cut(line, BYTES_BEFORE_CUT, false)),
        Failure::Garbage => {
            line.garble();
            Some(StatusCode::OK.into_response())
        }
    }
}

/// A long answer, of which only so many bytes are written.
fn cut(line: &Line, bytes: u64, is_reset: bool) -> Response {
    line.cut_after(bytes, is_reset);
    vec![b'x'; 64 << 10].into_response()
}

impl Instance {
    /// Names the instance on the answer.
    pub fn signed(&self, mut response: Response) -> Response {
        if let Ok(name) = self.name.parse() {
            response.headers_mut().insert("x-instance", name);
        }
        response
    }
}

async fn list(State(instance): State<Arc<Instance>>) -> Json<Value> {
    let items: Vec<Value> = (1..=ITEMS).filter_map(|id| catalog::item(instance.service, id)).collect();
    Json(json!({ catalog::collection(instance.service): items, "total": ITEMS }))
}

async fn item(State(instance): State<Arc<Instance>>, Path(id): Path<String>) -> Response {
    match id.parse().ok().and_then(|id| catalog::item(instance.service, id)) {
        Some(item) => Json(item).into_response(),
        None => problem(StatusCode::NOT_FOUND, &format!("no {} with the id {id}", instance.service.name())),
    }
}

async fn create(State(instance): State<Arc<Instance>>, body: Bytes) -> Response {
    let Ok(Value::Object(mut item)) = serde_json::from_slice(&body) else {
        return problem(StatusCode::BAD_REQUEST, "the body has to be a JSON object");
    };
    let id = instance.created.fetch_add(1, Ordering::Relaxed) + 1;
    item.insert("id".into(), id.into());
    let place = format!("/{}/{id}", catalog::collection(instance.service));
    (StatusCode::CREATED, [(header::LOCATION, place)], Json(Value::Object(item))).into_response()
}

async fn hello(State(instance): State<Arc<Instance>>, headers: HeaderMap) -> Json<Value> {
    let wanted = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or("en");
    let (language, greeting) = catalog::greeting(wanted);
    let message = format!("{greeting} from the {} service", instance.service.name());
    Json(json!({ "message": message, "language": language, "instance": instance.name }))
}

async fn data(State(instance): State<Arc<Instance>>) -> Json<Value> {
    let hits: u64 = instance.hits().values().sum();
    Json(
        json!({ "service": instance.service.name(), "instance": instance.name, "serial": hits, "values": [3, 1, 4, 1, 5, 9] }),
    )
}

async fn health(State(instance): State<Arc<Instance>>) -> Json<Value> {
    Json(json!({ "status": "ok", "instance": instance.name }))
}

async fn echo(
    State(instance): State<Arc<Instance>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Json<Value> {
    let mut received: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, value) in &headers {
        received.entry(name.as_str()).or_default().push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    Json(json!({
        "instance": instance.name,
        "method": method.as_str(),
        "path": uri.path(),
        "query": uri.query(),
        "headers": received,
        "body": String::from_utf8_lossy(&body),
    }))
}

async fn unknown(uri: Uri) -> Response {
    problem(StatusCode::NOT_FOUND, &format!("nothing at {}", uri.path()))
}
