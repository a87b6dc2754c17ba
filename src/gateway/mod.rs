//! The data path: one short method a phase of Pingora's `ProxyHttp`, in the order in which they run.
//! The order of the policies is `admit`'s; what a phase does in detail is in the file it calls.
//! Invariant: nothing touches the cache or an instance without the proof that `admit` makes.

mod admit;
mod answer;
mod attempt;
mod balance_key;
mod caching;
mod compressing;
mod connection;
mod current;
mod dated;
mod deadline;
mod exchange;
mod failure;
mod flood;
mod flow;
mod forward;
mod front;
mod hit;
mod parts;
mod pieces;
mod plain;
mod query;
mod refreshing;
mod retrying;
mod timeouts;
mod tunnel;
mod wire;

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, Version, header};
use pingora_cache::key::HashBinary;
use pingora_cache::storage::HitHandler;
use pingora_cache::{CacheKey, CacheMeta, ForcedFreshness, RespCacheable};
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};

pub use connection::Census;
pub use front::{Entrance, Front, Listener};
pub use parts::Parts;

use self::exchange::{Exchange, Sent};
use self::retrying::Failed;
use crate::policy::cors;
use crate::policy::headers::remove_hop_by_hop;
use crate::record::{DECIDED_BY_CACHE, DECIDED_BY_UPSTREAM, RetryReason};
use crate::refusal::Refusal;
use crate::upstream::speak_http1;

/// The gateway in Pingora's hooks.
pub struct Gateway(pub Arc<Parts>);

#[async_trait]
impl ProxyHttp for Gateway {
    /// In a box: Pingora moves it from phase to phase.
    type CTX = Box<Exchange>;

    fn new_ctx(&self) -> Self::CTX {
        current::begin_exchange(&self.0)
    }

    /// For stale answers that are refreshed in the background.
    fn allow_spawning_subrequest(&self, _session: &Session, _exchange: &Self::CTX) -> bool {
        true
    }

    /// None: Pingora's own modules cost every request a box.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    /// The facts of the request, and the time its client may take with it.
    async fn early_request_filter(&self, session: &mut Session, exchange: &mut Self::CTX) -> Result<()> {
        if exchange.admission.is_none() {
            exchange.facts = admit::facts(session.req_header(), exchange);
        }
        let body_timeout = exchange.runtime.config.connections.body_timeout.0;
        session.set_read_timeout(Some(body_timeout));
        session.set_write_timeout(Some(body_timeout));
        session.set_total_drain_timeout(Some(body_timeout));
        if self.0.is_draining() {
            session.set_keepalive(None);
        }
        Ok(())
    }

    /// Admission; `true` where the request was refused.
    async fn request_filter(&self, session: &mut Session, exchange: &mut Self::CTX) -> Result<bool> {
        let admitted = match exchange.admission.take() {
            Some(admission) => admission,
            None if exchange.inherit(session) => Ok(()),
            None => admit::admit(session.req_header(), exchange).await,
        };
        let Err(refusal) = admitted else { return exchange.choose_coding(session).map(|()| false) };
        admit::name_path(session.req_header(), exchange);
        let cors = exchange.cors_fields(session.req_header(), &refusal);
        answer::refuse(session, exchange.refusal.insert(refusal), exchange.facts.request_id, cors).await?;
        Ok(true)
    }

    fn request_cache_filter(&self, session: &mut Session, exchange: &mut Self::CTX) -> Result<()> {
        exchange.look_in_cache(session);
        Ok(())
    }

    fn cache_key_callback(&self, _session: &Session, exchange: &mut Self::CTX) -> Result<CacheKey> {
        exchange.cache_key().ok_or_else(|| Error::explain(ErrorType::InternalError, "a cache key without a rule"))
    }

    async fn cache_hit_filter(
        &self,
        session: &mut Session,
        meta: &CacheMeta,
        _hit: &mut HitHandler,
        is_fresh: bool,
        exchange: &mut Self::CTX,
    ) -> Result<Option<ForcedFreshness>> {
        let (freshness, refresh) = exchange.cache_hit(session, meta, is_fresh);
        if let Some(refresh) = refresh {
            exchange.refresh_in_background(session, refresh);
        }
        Ok(freshness)
    }

    fn cache_miss(&self, session: &mut Session, exchange: &mut Self::CTX) {
        exchange.cache_miss(session);
    }

    fn cache_vary_filter(
        &self,
        meta: &CacheMeta,
        _exchange: &mut Self::CTX,
        request: &RequestHeader,
    ) -> Option<HashBinary> {
        crate::policy::cache::CacheRule::variance(meta, request)
    }

    fn response_cache_filter(
        &self,
        session: &Session,
        response: &ResponseHeader,
        exchange: &mut Self::CTX,
    ) -> Result<RespCacheable> {
        Ok(exchange.decide_storing(session, response))
    }

    /// On errors only: what is served while another one is fetched was decided when it was found.
    fn should_serve_stale(&self, session: &mut Session, exchange: &mut Self::CTX, error: Option<&Error>) -> bool {
        error.is_some_and(|error| exchange.serves_stale(session, error))
    }

    /// Breakers, once more than for each try, and the first try where a place is needed for it: a refusal from here leaves the client's connection open, which Pingora would close after a failed try.
    async fn proxy_upstream_filter(&self, session: &mut Session, exchange: &mut Self::CTX) -> Result<bool> {
        let Some(pool) = exchange.route.as_ref().map(|route| route.service.pool()) else { return Ok(true) };
        let is_bounded = pool.is_bounded();
        let breakers = attempt::breakers_refuse(&pool);
        drop(pool);
        // With something stale at hand the try is made in vain, and what is stale is served instead of an error.
        let has_stale = session.cache.can_serve_stale_error();
        let refusal = match exchange.only_if_cached().or(breakers.filter(|_| !has_stale)) {
            Some(refusal) => refusal,
            None if is_bounded => match exchange.begin_try(session).await {
                Ok(begun) => {
                    exchange.begun = Some(begun);
                    return Ok(true);
                }
                Err(Refusal::ClientClosed) => return Err(exchange.give_up(Refusal::ClientClosed)),
                Err(_) if has_stale => return Ok(true),
                Err(refusal) => refusal,
            },
            None => return Ok(true),
        };
        let cors = exchange.cors_fields(session.req_header(), &refusal);
        answer::refuse(session, exchange.refusal.insert(refusal), exchange.facts.request_id, cors).await?;
        Ok(false)
    }

    /// The next instance. Called once a try.
    async fn upstream_peer(&self, session: &mut Session, exchange: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        if let Some(wait) = exchange.wait.take() {
            exchange.end_try();
            tokio::time::sleep(wait).await;
        }
        let mut peer = exchange.next_peer(session).await?;
        timeouts::bear_silence(&mut peer, session, exchange.runtime.config.connections.idle_timeout.0);
        if session.is_upgrade_req() {
            speak_http1(&mut peer);
        }
        Ok(peer)
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        peer: &HttpPeer,
        socket: RawFd,
        _digest: Option<&Digest>,
        exchange: &mut Self::CTX,
    ) -> Result<()> {
        exchange.connected(peer, socket, reused);
        Ok(())
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        exchange: &mut Self::CTX,
        mut error: Box<Error>,
    ) -> Box<Error> {
        error.as_up();
        exchange.connect_failed();
        exchange.try_failed(Some(failure::refusal(&error).reason()));
        let otherwise = failure::may_reconnect(exchange.attempts, exchange.has_other_instance());
        let failed = Failed { reason: RetryReason::Connect, answer: None, unprocessed: true, otherwise };
        error.set_retry(exchange.tries_again(session, &failed));
        error
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        request: &mut RequestHeader,
        exchange: &mut Self::CTX,
    ) -> Result<()> {
        let admitted = exchange.admitted().map_err(|refusal| internal(&refusal))?;
        forward::prepare_request(request, exchange, admitted)
    }

    /// Bounds the body, which is counted as it comes.
    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        exchange: &mut Self::CTX,
    ) -> Result<()> {
        // An empty last chunk would be written twice to an HTTP/1.1 instance, and the second would
        // be taken for the beginning of its next answer.
        if end_of_stream && body.as_ref().is_some_and(Bytes::is_empty) {
            *body = None;
        }
        exchange.take_body(body.as_ref().map_or(0, Bytes::len))?;
        if end_of_stream {
            exchange.request_sent();
        }
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        exchange: &mut Self::CTX,
    ) -> Result<()> {
        if response.status == StatusCode::SWITCHING_PROTOCOLS && !session.as_downstream().is_upgrade_req() {
            // Pingora would open a tunnel that nobody asked for.
            return Err(Error::explain(ErrorType::InvalidHTTPHeader, "101 to a request without Upgrade").into_up());
        }
        if response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS {
            remove_hop_by_hop(response);
            return caching::pass_at_once(session, response).await; // the final answer is due as before
        }
        exchange.header_came(session, response)?;
        exchange.upstream_answered(response.status);
        if exchange.tries_again_after(session, response) {
            return Err(retrying::thrown_away(response.status));
        }
        if exchange.route.as_ref().is_some_and(|route| route.cors.is_some()) {
            cors::remove_claims(response);
        }
        exchange.compress_answer(session, response)?;
        exchange.cache_sees_answer(session, response);
        remove_hop_by_hop(response);
        Ok(())
    }

    /// Bounds how slow the body may be, and compresses it.
    fn upstream_response_body_filter(
        &self,
        session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        exchange: &mut Self::CTX,
    ) -> Result<Option<Duration>> {
        if !end_of_stream {
            exchange.piece_came(session, body.as_ref().map_or(0, Bytes::len))?;
        }
        exchange.compress_piece(body, end_of_stream)?;
        exchange.keep_part(body.as_ref(), end_of_stream);
        Ok(None)
    }

    fn upstream_response_trailer_filter(
        &self,
        _session: &mut Session,
        _trailers: &mut HeaderMap,
        exchange: &mut Self::CTX,
    ) -> Result<()> {
        exchange.compressed_all()
    }

    /// Also of answers from the cache: what is different for every client is put in here.
    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        exchange: &mut Self::CTX,
    ) -> Result<()> {
        if response.status.is_informational() {
            return Ok(());
        }
        if session.req_header().version == Version::HTTP_10 {
            // HTTP/1.0 knows no chunks (RFC 9112 section 6.1): the end of the connection ends the body.
            response.remove_header(&header::TRANSFER_ENCODING);
        }
        exchange.say_cache_status(session, response)?;
        forward::prepare_response(session.req_header(), response, exchange)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        exchange: &mut Self::CTX,
        client_reused: bool,
    ) -> Box<Error> {
        let mut error = exchange.why_it_failed(error);
        if retrying::is_thrown_away(&error) {
            return error; // decided, and told, when its header came
        }
        exchange.cache_turn.broke_off(session);
        if failure::client_stalled(&error, session.is_body_done(), session.req_header(), session.response_written()) {
            error.as_down(); // the instance is not to blame: it waits for the rest of the body, too
        }
        if *error.esource() == pingora_core::ErrorSource::Upstream {
            // A pooled connection may just have been too old.
            let is_stale = client_reused && failure::is_closed(&error) && session.response_written().is_none();
            let is_to_blame = !is_stale && !failure::is_unprocessed(&error);
            exchange.try_failed(is_to_blame.then(|| failure::refusal(&error).reason()));
        }
        let (attempts, hopeful) = (exchange.attempts, client_reused || exchange.has_other_instance());
        let (method, kept_whole) = (&session.req_header().method, retrying::is_whole(session));
        let otherwise = failure::may_resend(&error, method, attempts, hopeful, kept_whole);
        let unprocessed = failure::is_unprocessed(&error);
        let again = failure::retry_reason(&error).is_some_and(|reason| {
            exchange.tries_again(session, &Failed { reason, answer: None, unprocessed, otherwise })
        });
        error.set_retry(again);
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, exchange: &mut Self::CTX) -> FailToProxy {
        let refusal = exchange.refusal.take().unwrap_or_else(|| failure::refusal(error));
        if matches!(refusal, Refusal::Internal(_)) {
            log::error!("request {}: {error}", exchange.facts.request_id);
        } else {
            log::debug!("request {}: {error}", exchange.facts.request_id);
        }
        // Pingora ends the client's connection after a failed try. The client is told, or its next request would be lost.
        session.set_keepalive(None);
        // After 101 the bytes are the tunnel's: nothing of ours may get between them.
        let answered = session.response_written().is_some_and(|response| {
            !response.status.is_informational() || response.status == StatusCode::SWITCHING_PROTOCOLS
        });
        let cors = exchange.cors_fields(session.req_header(), &refusal);
        if !answered && let Err(error) = answer::refuse(session, &refusal, exchange.facts.request_id, cors).await {
            log::debug!("request {}: the client could not be answered: {error}", exchange.facts.request_id);
        }
        let error_code = exchange.refusal.insert(refusal).status().as_u16();
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    /// The end of the exchange, however it ended: its record.
    async fn logging(&self, session: &mut Session, error: Option<&Error>, exchange: &mut Self::CTX) {
        let sent = Sent {
            status: session.response_written().map(|response| response.status.as_u16()),
            bytes_in: session.body_bytes_read() as u64,
            bytes_out: session.body_bytes_sent() as u64,
        };
        exchange.note_cache_result(session);
        if error.is_none() {
            exchange.attempt.ended();
        }
        let decided_by = match (&exchange.refusal, error) {
            (Some(refusal), _) => refusal.reason(),
            (None, Some(error)) => failure::refusal(error).reason(),
            (None, None) if exchange.is_cache_hit() => DECIDED_BY_CACHE,
            (None, None) => DECIDED_BY_UPSTREAM,
        };
        exchange.record(&sent, decided_by);
    }

    /// What went wrong is in the record and in metrics; a line an error would be a second log, without bounds.
    fn suppress_error_log(&self, _session: &Session, _exchange: &Self::CTX, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _exchange: &Self::CTX,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }

    /// For Pingora's own lines: nothing of the query string, which may hold secrets.
    fn request_summary(&self, session: &Session, exchange: &Self::CTX) -> String {
        format!("{} request {}", session.req_header().method, exchange.facts.request_id)
    }
}

fn internal(refusal: &Refusal) -> Box<Error> {
    Error::explain(ErrorType::InternalError, refusal.detail().into_owned())
}
