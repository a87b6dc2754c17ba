//! Fresh hits over HTTP/1, answered before Pingora is entered: a stored answer in memory, to a plain request, costs a fraction of what it costs behind it.
//! The request is admitted here as everywhere, once. What can't be answered here goes on to Pingora with what `admit` said.
//! Not here: which stored answer it is and what the cache says of it (`policy/cache/at_hand.rs`).

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes, BytesMut};
use http::Method;
use http::header::CONNECTION;
use pingora_core::Result;
use pingora_core::protocols::Stream;
use pingora_http::RequestHeader;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use uuid::Uuid;

use super::connection::Connection;
use super::current::Current;
use super::exchange::{Exchange, Sent};
use super::parts::Parts;
use super::pieces::Pieces;
use super::wire::Wire;
use super::{admit, forward, plain};
use crate::policy::cache::{AtHand, CacheRule};
use crate::policy::headers::written::X_REQUEST_ID;
use crate::policy::path;
use crate::record::{CacheResult, DECIDED_BY_CACHE};
use crate::refusal::Refusal;
use crate::runtime::Runtime;

const KEEP_ALIVE: &[u8] = b"keep-alive";

/// What becomes of a request that the front has read.
pub(super) enum Outcome {
    /// It is answered, and the next one may come.
    Answered,
    /// Its client is gone.
    Gone,
    /// Pingora has to answer it: its header, and what is known of it.
    LeftToPingora(BytesMut, Current),
}

/// Answers a request from memory, where that may be done without asking anybody.
pub(super) async fn try_answer(
    parts: &Arc<Parts>,
    connection: &Arc<Connection>,
    is_counted: bool,
    stream: &mut Stream,
    head: BytesMut,
) -> Outcome {
    let only_read = || Current::Read { connection: Arc::clone(connection), is_counted };
    let has_caches = || parts.live.with(|runtime| runtime.has_caches);
    if !plain::begins_plain(&head) || !has_caches() || parts.is_draining() {
        return Outcome::LeftToPingora(head, only_read());
    }
    let head = head.freeze();
    let read = parts.live.with(|runtime| plain::read(&head, |host, target| is_cached(runtime, host, target)));
    let Some(mut request) = read else { return Outcome::LeftToPingora(thaw(head), only_read()) };
    let mut exchange = Box::new(Exchange::new(parts, Some(Arc::clone(connection)), is_counted));
    exchange.facts = admit::facts(&request, &exchange);
    let admission = admit::admit(&request, &mut exchange).await;
    let route = exchange.admitted.as_ref().map(|admitted| Arc::clone(&admitted.route));
    let rule = route.as_ref().and_then(|route| route.cache.as_ref());
    let found = rule.and_then(|rule| exchange.find_at_hand(rule, &mut request));
    let Some((hit, header)) = found else {
        drop(request); // it holds parts of the header
        exchange.admission = Some(admission);
        return Outcome::LeftToPingora(thaw(head), Current::Begun(exchange));
    };
    hit.is_served();
    let header_bytes = header.len();
    let mut pieces = Pieces::new(header, hit.body());
    let all = pieces.remaining();
    let written = write(stream, &mut pieces, exchange.runtime.config.connections.body_timeout.0).await;
    let body_bytes = (all - pieces.remaining()).saturating_sub(header_bytes) as u64;
    exchange.cache = Some(CacheResult::Hit);
    let decided_by = if written.is_ok() { DECIDED_BY_CACHE } else { Refusal::ClientClosed.reason() };
    let sent = Sent { status: Some(hit.status().as_u16()), bytes_in: 0, bytes_out: body_bytes };
    exchange.record(&sent, decided_by);
    if written.is_ok() { Outcome::Answered } else { Outcome::Gone }
}

/// Whether the route of a request has a cache. What has no route is refused behind Pingora.
fn is_cached(runtime: &Runtime, host: &[u8], target: &[u8]) -> bool {
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let (Ok(host), Ok(path)) = (std::str::from_utf8(host), path::normalise(path)) else { return false };
    let Some(host) = admit::host_of(host) else { return false };
    runtime.routes.find(&host, &path, &Method::GET).is_ok_and(|found| found.route.cache.is_some())
}

/// The bytes of a header of which no part is held any more.
fn thaw(head: Bytes) -> BytesMut {
    head.try_into_mut().unwrap_or_else(|head| BytesMut::from(&*head))
}

impl Exchange {
    /// The stored answer to an admitted request, and its header as this client gets it; none where there is none, or it is not to
    /// be used as it is.
    fn find_at_hand<'a>(&mut self, rule: &'a CacheRule, request: &mut RequestHeader) -> Option<(AtHand<'a>, BytesMut)> {
        if let Some(compress) = self.admitted.as_ref().and_then(|admitted| admitted.route.compress.as_ref()) {
            compress.choose(request).ok()?;
        }
        rule.forget_capability(request);
        let key = self.make_cache_key(request)?;
        // Read again: admission may have waited.
        let hit = rule.at_hand(request, &key, SystemTime::now())?;
        let header = match self.header_as_stored(&hit) {
            Some(header) => header,
            None => self.header_by_rules(&hit, request).ok()?,
        };
        Some((hit, header))
    }

    /// Where no rule of the route touches it: the stored fields, and what is different for every client.
    fn header_as_stored(&mut self, hit: &AtHand<'_>) -> Option<BytesMut> {
        let leaves_it = self.admitted.as_ref().is_some_and(|admitted| admitted.route.leaves_answers());
        if !leaves_it {
            return None;
        }
        let limits = forward::limit_fields(self);
        let is_replaced = |name: &str| name == X_REQUEST_ID || limits.iter().any(|(limit, _)| *limit == name);
        let mut wire = Wire::begin(hit.status(), hit.reason());
        hit.tell(is_replaced, |name, value| wire.field(name, value));
        let mut id = Uuid::encode_buffer();
        wire.field(X_REQUEST_ID, self.facts.request_id.hyphenated().encode_lower(&mut id).as_bytes());
        limits.iter().for_each(|(name, value)| wire.field(name, value.as_bytes()));
        wire.field(CONNECTION.as_str(), KEEP_ALIVE);
        Some(wire.end())
    }

    fn header_by_rules(&mut self, hit: &AtHand<'_>, request: &RequestHeader) -> Result<BytesMut> {
        let mut header = hit.header()?;
        forward::prepare_response(request, &mut header, self)?;
        header.insert_header(CONNECTION, KEEP_ALIVE)?;
        Ok(Wire::of(&header))
    }
}

/// Writes all of it; whatever the client takes next, it has as much time for it as for a piece of a body.
async fn write(stream: &mut Stream, pieces: &mut Pieces, time: Duration) -> io::Result<()> {
    while pieces.has_remaining() {
        if within(time, stream.write_buf(pieces)).await? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    within(time, stream.flush()).await
}

/// What is done at once needs no clock.
async fn within<T>(time: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let mut work = pin!(work);
    if let Poll::Ready(done) = std::future::poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await {
        return done;
    }
    timeout(time, work).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
