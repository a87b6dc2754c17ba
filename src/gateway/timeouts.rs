//! The times a try may take: what is left for it, when its header is due, and which of them ended it.
//! The client's own time is not counted: up to the end of the request's body only its gaps are bounded. Not here: how a deadline is kept
//! (`deadline.rs`), and the speed of a body (`flow.rs`).

use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::{Error, ErrorSource, ErrorType, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::deadline;
use super::exchange::Exchange;
use super::flow::{self, Flow};
use crate::record::Timeout;
use crate::runtime::Route;

/// Shortens what connecting may take to what is left of the route's time; also which time-out that then is, if it is none of the service's.
pub(super) fn shorten(peer: &mut HttpPeer, route: &Route, left: Duration) -> Option<Timeout> {
    let try_timeout = route.retry.as_ref().and_then(|retry| retry.try_timeout());
    let (left, timeout) = match try_timeout {
        Some(of_try) if of_try < left => (of_try, Timeout::Try),
        _ => (left, Timeout::Route),
    };
    let options = &mut peer.options;
    let is_shorter = options.total_connection_timeout.is_none_or(|timeout| left < timeout);
    at_most(&mut options.connection_timeout, left);
    at_most(&mut options.total_connection_timeout, left);
    if options.alpn.get_max_http_version() > 1 {
        // One connection for many: it can't be shut down for one of them, but there one read is the whole header.
        at_most(&mut options.read_timeout, left);
    }
    is_shorter.then_some(timeout)
}

fn at_most(timeout: &mut Option<Duration>, left: Duration) {
    *timeout = Some(timeout.map_or(left, |timeout| timeout.min(left)));
}

/// Pingora has one bound for each read, of the answer's header and of what is behind it. A tunnel or stream is silent like an idle connection, not
/// like a slow answer.
pub(super) fn bear_silence(peer: &mut HttpPeer, session: &Session, idle: Duration) {
    if session.is_upgrade_req() || flow::asks_for_stream(&session.req_header().headers) {
        peer.options.read_timeout = peer.options.read_timeout.max(Some(idle));
    }
}

/// For how long the client has kept answers waiting on its connection; none where that is not known.
fn stalled(session: &Session) -> Option<Duration> {
    session.as_downstream().stream().map(|stream| stream.get_write_pending_time())
}

impl Exchange {
    /// Since when the client waits.
    pub(super) fn waiting_since(&self) -> Instant {
        self.complete.unwrap_or(self.started)
    }

    /// The try has a connection.
    pub(super) fn connected(&mut self, peer: &HttpPeer, socket: RawFd, reused: bool) {
        if let Some(tried) = self.tried.last() {
            tried.connected(reused);
        }
        let is_its_own = peer.options.alpn.get_max_http_version() == 1;
        deadline::connected(is_its_own.then_some(socket));
        self.timeout = Some(Timeout::Response);
        self.flow = None;
    }

    /// The last byte of the request is on its way: from now on the header is due.
    pub(super) fn request_sent(&mut self) {
        let (Some(route), Some(tried)) = (&self.route, self.tried.last()) else { return };
        let now = Instant::now();
        let has_sent_body = self.complete.is_none() && self.body_bytes > 0;
        let try_begun = if has_sent_body { now } else { tried.begun() };
        let complete = *self.complete.get_or_insert(if has_sent_body { now } else { self.started });
        let mut due = (now + route.service.config().timeouts.response.0, Timeout::Response);
        let of_route = (complete + route.timeout, Timeout::Route);
        let try_timeout = route.retry.as_ref().and_then(|retry| retry.try_timeout());
        let of_try = try_timeout.map(|timeout| (try_begun + timeout, Timeout::Try));
        for other in std::iter::once(of_route).chain(of_try) {
            if other.0 < due.0 {
                due = other;
            }
        }
        deadline::sent(due.0, due.1);
    }

    /// The header of the final answer has come.
    ///
    /// # Errors
    /// When that was too late.
    pub(super) fn header_came(&mut self, session: &Session, response: &ResponseHeader) -> Result<()> {
        if let Some(timeout) = deadline::ended() {
            self.timeout = Some(timeout);
            return Err(late("the header came too late"));
        }
        let is_stream = response.status == http::StatusCode::SWITCHING_PROTOCOLS || flow::is_stream(&response.headers);
        self.timeout = Some(if is_stream { Timeout::Idle } else { Timeout::BetweenBytes });
        if !is_stream && let (Some(route), Some(stalled)) = (&self.route, stalled(session)) {
            self.flow = Some(Flow::begin(&route.service.config().timeouts, Instant::now(), stalled));
        }
        Ok(())
    }

    /// A piece of the answer's body has come.
    ///
    /// # Errors
    /// When the body is too slow.
    pub(super) fn piece_came(&mut self, session: &Session, bytes: usize) -> Result<()> {
        let (Some(flow), Some(stalled)) = (&mut self.flow, stalled(session)) else { return Ok(()) };
        flow.piece(bytes, Instant::now(), stalled).map_err(|timeout| {
            self.timeout = Some(timeout);
            late("the body is too slow")
        })
    }

    /// The error of a try; a time-out of ours, where that is what ended it.
    pub(super) fn why_it_failed(&mut self, error: Box<Error>) -> Box<Error> {
        let missed = deadline::ended();
        if let Some(timeout) = missed.filter(|_| *error.esource() != ErrorSource::Downstream) {
            self.timeout = Some(timeout);
            return late("no complete header in time");
        }
        if *error.etype() == ErrorType::WriteTimedout {
            self.timeout = Some(Timeout::Write);
        }
        error
    }

    /// No connection in time; Pingora has one time-out for TCP and TLS together.
    pub(super) fn connect_failed(&mut self) {
        if self.timeout.is_some() {
            return;
        }
        let (Some(route), Some(tried)) = (&self.route, self.tried.last()) else { return };
        let service = route.service.config();
        let in_handshake = service.tls.is_some() && tried.begun().elapsed() > service.timeouts.connect.0;
        self.timeout = Some(if in_handshake { Timeout::Tls } else { Timeout::Connect });
    }
}

fn late(what: &'static str) -> Box<Error> {
    Error::explain(ErrorType::ReadTimedout, what).into_up()
}
