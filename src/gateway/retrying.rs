//! Another try of a request: whether the route's policy, the body, the time and the service's budget leave one.
//! Where no `retry` is written, `failure.rs` decides alone. Not here: which instance is next (`attempt.rs`).

use std::time::{Duration, Instant, SystemTime};

use http::StatusCode;
use pingora_core::{Error, ErrorType};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::exchange::Exchange;
use crate::policy::retry::{self, Tried};
use crate::record::RetryReason;

/// A try that failed.
pub(super) struct Failed {
    pub reason: RetryReason,
    /// A bad status, and when it says to come again.
    pub answer: Option<(StatusCode, Option<Duration>)>,
    /// Whether the instance did nothing with the request for sure.
    pub unprocessed: bool,
    /// What is done where no `retry` is written.
    pub otherwise: bool,
}

impl Exchange {
    /// Whether the request is tried again; how long that waits is kept until the next try begins.
    pub(super) fn tries_again(&mut self, session: &Session, failed: &Failed) -> bool {
        let Some(route) = self.route.clone() else { return false };
        let Some(retry) = &route.retry else {
            if failed.otherwise {
                self.retries.count(failed.reason);
            }
            return failed.otherwise;
        };
        let now = Instant::now();
        let tried = Tried {
            attempts: self.attempts,
            reason: failed.reason,
            status: failed.answer.map(|(status, _)| status),
            retry_after: failed.answer.and_then(|(_, after)| after),
            is_idempotent: failed.unprocessed
                || retry::is_idempotent(&session.req_header().method, &session.req_header().headers),
            is_whole: is_whole(session),
            left: route.timeout.saturating_sub(now.duration_since(self.waiting_since())),
        };
        let Some(wait) = retry.wait(&tried, chance()) else { return false };
        // Nobody to ask: what has come so far says more than "no instance".
        let pool = route.service.pool();
        let is_open = pool.breakers.service.as_ref().is_some_and(|breaker| !breaker.is_ready(now));
        if is_open || !pool.has_other(&[]) {
            return false;
        }
        if !pool.retries.retry(retry.budget(), now) {
            self.retries.over_budget = true;
            return false;
        }
        self.retries.count(failed.reason);
        self.wait = Some(wait);
        true
    }

    /// Whether this answer is thrown away for another try.
    pub(super) fn tries_again_after(&mut self, session: &Session, response: &ResponseHeader) -> bool {
        let retry = self.route.as_ref().and_then(|route| route.retry.as_ref());
        if !retry.is_some_and(|retry| retry.is_for(response.status)) {
            return false;
        }
        let after = retry::retry_after(&response.headers, SystemTime::now());
        let answer = Some((response.status, after));
        self.tries_again(session, &Failed { reason: RetryReason::Status, answer, unprocessed: false, otherwise: false })
    }
}

/// Stands for an answer that is thrown away for another try.
pub(super) fn thrown_away(status: StatusCode) -> Box<Error> {
    let mut error = Error::explain(ErrorType::HTTPStatus(status.as_u16()), "tried again").into_up();
    error.set_retry(true);
    error
}

/// Whether the error stands for an answer that is thrown away.
pub(super) fn is_thrown_away(error: &Error) -> bool {
    matches!(error.etype(), ErrorType::HTTPStatus(_)) && error.retry()
}

/// Whether the request could be sent again as it came: its body, if any, is kept whole (64 KiB at most), and the client has seen nothing of an answer.
pub(super) fn is_whole(session: &Session) -> bool {
    !session.as_ref().retry_buffer_truncated() && session.response_written().is_none()
}

/// From 0 to 1.
fn chance() -> f64 {
    // Without the system's random source every wait is half of its ceiling.
    getrandom::u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX))
}
