//! One request and its response, from first byte to log: what the phases tell each other, and the record it ends in.
//! Exactly one record an exchange: in the last phase, or here, when the task ends before (panic, shutdown).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::header::ORIGIN;
use http::{HeaderName, Method, StatusCode};
use pingora_cache::CacheKey;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use smallvec::SmallVec;
use uuid::Uuid;

use super::attempt::Attempt;
use super::compressing::Compressing;
use super::connection::Connection;
use super::flow::Flow;
use super::tunnel::Tunnel;
use super::{Parts, internal, timeouts};
use crate::cache::Part;
use crate::cache::crowd::Refresh;
use crate::config::Pattern;
use crate::keys::KeyEntry;
use crate::policy::cache::CacheTurn;
use crate::policy::concurrency::Place;
use crate::policy::cors::{self, Fields};
use crate::record::{self, CacheResult, Record, Retries, Timeout};
use crate::refusal::{RateLimitFields, Refusal};
use crate::runtime::{Route, Runtime};
use crate::upstream::{self, Try};

/// What one exchange has come to know.
pub struct Exchange {
    pub(super) parts: Arc<Parts>,
    /// The configuration that answers, from the first phase to the last.
    pub(super) runtime: Arc<Runtime>,
    pub(super) connection: Option<Arc<Connection>>,
    /// Whether the front has asked the flood guard.
    pub(super) is_counted: bool,
    pub(super) started: Instant,
    pub(super) started_at: SystemTime,
    pub(super) facts: Facts,
    /// What `admit` said, where it was asked before Pingora was entered.
    pub(super) admission: Option<Result<(), Refusal>>,
    pub(super) admitted: Option<Admitted>,
    /// The endpoint, as soon as a route is known, admitted or not.
    pub(super) route: Option<Arc<Route>>,
    pub(super) key: Option<Arc<KeyEntry>>,
    /// What the gateway decided instead of an instance.
    pub(super) refusal: Option<Refusal>,
    pub(super) limit_name: Option<Arc<str>>,
    pub(super) observed: Option<Arc<str>>,
    /// Its place among those that its route serves at once; free again when the exchange has ended, however it did.
    pub(super) place: Option<Place>,
    /// Its place among those that its service bears at once.
    pub(super) seat: Option<upstream::Place>,
    /// The try that was begun before Pingora asks for its peer.
    pub(super) begun: Option<(Try, Attempt)>,
    /// Instances that were tried, in order; only the last one can be in flight.
    pub(super) tried: SmallVec<[Try; 2]>,
    pub(super) attempts: u16,
    /// The try that is under way.
    pub(super) attempt: Attempt,
    /// Which time-out the last try has missed, if it has missed one.
    pub(super) timeout: Option<Timeout>,
    /// When the request was complete, and with it the client's part.
    pub(super) complete: Option<Instant>,
    /// The body of the answer.
    pub(super) flow: Option<Flow>,
    /// Where the connection was upgraded.
    pub(super) tunnel: Option<Tunnel>,
    pub(super) retries: Retries,
    /// How long the next try has to wait.
    pub(super) wait: Option<Duration>,
    pub(super) upstream_started: Option<Instant>,
    pub(super) upstream_time: Option<Duration>,
    /// Bytes of the request body on this try.
    pub(super) body_bytes: u64,
    pub(super) compressing: Compressing,
    pub(super) cache_turn: CacheTurn,
    /// A part of an answer that is being stored.
    pub(super) part: Option<Box<Part>>,
    pub(super) cache: Option<CacheResult>,
    pub(super) cache_key: Option<CacheKey>,
    /// Held where this exchange refreshes what is stored.
    pub(super) refresh: Option<Refresh>,
    recorded: bool,
}

/// What the request says of itself, in the one form that everything reads.
#[derive(Clone)]
pub(super) struct Facts {
    pub method: Method,
    pub protocol: &'static str,
    pub client_ip: IpAddr,
    pub from_trusted_proxy: bool,
    pub request_id: Uuid,
    pub client_request_id: Option<Box<str>>,
    /// Lower case, without port; empty where HTTP/1.0 names none.
    pub host: Box<str>,
    /// The normal form, as the log keeps it.
    pub path: Arc<str>,
    pub user_agent: Option<Box<str>>,
}

/// The proof that a request passed every check: only `admit` makes one.
pub(super) struct Admitted {
    pub route: Arc<Route>,
    pub pattern: Arc<Pattern>,
    /// The path in its normal form, whole.
    pub path: Arc<str>,
    /// The header that held the key.
    pub key_header: Option<HeaderName>,
    /// The query without the parameters that may hold a key, where it differs from what came.
    pub query: Option<Vec<u8>>,
    /// Where the client stands with the route's limits.
    pub limit_fields: Option<RateLimitFields>,
}

/// What the client was sent, as the last phase knows it.
pub(super) struct Sent {
    pub status: Option<u16>,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl Exchange {
    pub(super) fn new(parts: &Arc<Parts>, connection: Option<Arc<Connection>>, is_counted: bool) -> Self {
        parts.exchange_begins();
        Self {
            parts: Arc::clone(parts),
            runtime: parts.live.load(),
            connection,
            is_counted,
            admission: None,
            started: Instant::now(),
            started_at: SystemTime::now(),
            facts: Facts::default(),
            admitted: None,
            route: None,
            key: None,
            refusal: None,
            limit_name: None,
            observed: None,
            place: None,
            seat: None,
            begun: None,
            tried: SmallVec::new(),
            attempts: 0,
            attempt: Attempt::default(),
            timeout: None,
            complete: None,
            flow: None,
            tunnel: None,
            retries: Retries::default(),
            wait: None,
            upstream_started: None,
            upstream_time: None,
            body_bytes: 0,
            compressing: Compressing::default(),
            cache_turn: CacheTurn::default(),
            part: None,
            cache: None,
            cache_key: None,
            refresh: None,
            recorded: false,
        }
    }

    /// The proof of admission.
    ///
    /// # Errors
    /// A fault of the gateway, where a phase is reached without it.
    pub(super) fn admitted(&self) -> Result<&Admitted, Refusal> {
        self.admitted.as_ref().ok_or(Refusal::Internal("phase reached before admission"))
    }

    /// The peer of the next try: another instance than before, with what is left of the route's time.
    pub(super) async fn next_peer(&mut self, session: &mut Session) -> Result<Box<HttpPeer>> {
        self.end_try();
        let begun = match self.begun.take() {
            Some(begun) => Ok(begun),
            None => self.begin_try(session).await,
        };
        let route = &self.admitted().map_err(|refusal| internal(&refusal))?.route;
        let (now, pool) = (Instant::now(), route.service.pool());
        let left = route.timeout.saturating_sub(now.duration_since(self.waiting_since()));
        if left.is_zero() {
            self.timeout = Some(Timeout::Route);
            return Err(self.give_up(Refusal::UpstreamTimeout));
        }
        let (instance, attempt) = match begun {
            Ok(begun) => begun,
            Err(refusal) => return Err(self.give_up(refusal)),
        };
        if self.attempts == 0 && route.retry.is_some() {
            pool.retries.request(now);
        }
        let mut peer = instance.peer();
        self.timeout = timeouts::shorten(&mut peer, route, left);
        self.attempt = attempt;
        self.tried.push(instance);
        self.attempts += 1;
        self.body_bytes = 0; // a body that was kept is sent again from its beginning
        self.upstream_started.get_or_insert(now);
        Ok(peer)
    }

    pub(super) fn give_up(&mut self, refusal: Refusal) -> Box<Error> {
        let error = Error::explain(ErrorType::HTTPStatus(refusal.status().as_u16()), refusal.reason());
        self.refusal = Some(refusal);
        error
    }

    /// What the route's CORS policy puts on an answer of the gateway's own.
    pub(super) fn cors_fields(&self, request: &RequestHeader, refusal: &Refusal) -> Fields {
        let Some(cors) = self.route.as_ref().and_then(|route| route.cors.as_ref()) else { return Fields::new() };
        match (refusal, cors::preflight(request)) {
            (Refusal::Preflight, Some(method)) => cors.answer_preflight(&request.headers, &method),
            _ => cors.fields(request.headers.get(ORIGIN)),
        }
    }

    /// The last try got no answer, or half of one; `why` where its instance is to blame.
    pub(super) fn try_failed(&mut self, why: Option<&str>) {
        if why.is_some() {
            self.attempt.failed();
        }
        if let (Some(route), Some(tried)) = (&self.route, self.tried.last_mut()) {
            route.service.pool().failed(tried, why);
        }
    }

    /// The last try, if there is one, is not in flight any more.
    pub(super) fn end_try(&mut self) {
        let has_left = self.tried.last_mut().is_some_and(Try::end);
        if let Some(seat) = self.seat.as_ref().filter(|_| has_left) {
            seat.has_left_an_instance();
        }
    }

    /// Whether there is an instance that was not tried.
    pub(super) fn has_other_instance(&self) -> bool {
        self.route.as_ref().is_some_and(|route| route.service.pool().has_other(&self.tried))
    }

    /// Counts a piece of the request body.
    ///
    /// # Errors
    /// When the body is larger than the route admits.
    pub(super) fn take_body(&mut self, bytes: usize) -> Result<()> {
        self.body_bytes += bytes as u64;
        let bytes_max = self.admitted().map_err(|refusal| internal(&refusal))?.route.body_bytes_max;
        if self.body_bytes > bytes_max {
            let mut error = self.give_up(Refusal::BodyTooLarge { bytes_max });
            error.as_down();
            return Err(error);
        }
        Ok(())
    }

    /// The header of an answer came; the last one counts.
    pub(super) fn upstream_answered(&mut self, status: StatusCode) {
        self.upstream_time = self.upstream_started.map(|started| started.elapsed());
        if let (Some(route), Some(tried)) = (&self.route, self.tried.last_mut()) {
            route.service.pool().answered(tried, status);
        }
        if status == StatusCode::SWITCHING_PROTOCOLS
            && let (Some(connection), Some(tried)) = (&self.connection, self.tried.last())
        {
            self.tunnel = Some(Tunnel::watch(connection, tried));
        }
        self.attempt.answered(status);
    }

    /// No client asked for this exchange.
    pub(super) fn makes_no_record(&mut self) {
        self.recorded = true;
    }

    /// Turns the exchange into its record, once.
    pub(super) fn record(&mut self, sent: &Sent, decided_by: &'static str) {
        self.begun = None;
        if let Some(last) = self.tried.last_mut() {
            last.end();
        }
        self.seat = None; // at last: who waits for it finds room at the instance, too
        if std::mem::replace(&mut self.recorded, true) {
            return;
        }
        self.place = None;
        let record = self.make_record(sent, decided_by);
        self.parts.metrics.observe(&record);
        self.parts.log.record(record);
    }

    fn make_record(&mut self, sent: &Sent, decided_by: &'static str) -> Record {
        let route = self.route.as_ref();
        let facts = std::mem::take(&mut self.facts);
        Record {
            started: self.started_at,
            duration: self.started.elapsed(),
            endpoint: route.map_or_else(|| Arc::clone(&self.parts.no_endpoint), |route| Arc::clone(&route.endpoint)),
            method: facts.method,
            status: sent.status.unwrap_or(CLIENT_CLOSED),
            request_id: facts.request_id,
            client_request_id: facts.client_request_id,
            host: (!facts.host.is_empty()).then_some(facts.host),
            path: facts.path,
            protocol: facts.protocol,
            consumer: self.key.as_ref().map(|key| Arc::clone(&key.consumer)),
            key: self.key.as_ref().map(|key| Arc::clone(&key.name)),
            client_ip: facts.client_ip,
            service: route.map(|route| Arc::clone(&route.service.name)),
            instance: self.tried.last().map(|instance| Arc::clone(&instance.label)),
            attempts: self.attempts,
            retries: self.retries,
            upstream_time: self.upstream_time,
            timeout: self.timeout.filter(|_| decided_by == Refusal::UpstreamTimeout.reason()),
            cache: self.cache,
            decided_by,
            blocked: self.refusal.as_ref().is_some_and(Refusal::is_blocked),
            limit_name: self.limit_name.take(),
            observed: self.observed.take(),
            bytes_in: sent.bytes_in,
            bytes_out: sent.bytes_out,
            user_agent: facts.user_agent,
            generation: self.runtime.generation,
        }
    }
}

/// The status in the log where the client left before there was one.
const CLIENT_CLOSED: u16 = 499;

impl Drop for Exchange {
    fn drop(&mut self) {
        let sent = Sent { status: None, bytes_in: self.body_bytes, bytes_out: 0 };
        self.record(&sent, record::DECIDED_BY_ABORTED);
        self.parts.exchange_ends();
    }
}

impl Default for Facts {
    fn default() -> Self {
        Self {
            method: Method::GET,
            protocol: "HTTP/1.1",
            client_ip: IpAddr::from([0, 0, 0, 0]),
            from_trusted_proxy: false,
            request_id: Uuid::nil(),
            client_request_id: None,
            host: Box::default(),
            path: Arc::default(),
            user_agent: None,
        }
    }
}
