//! From Pingora's errors to refusals, and which tries may be repeated.
//! Pure decisions; the hooks of `mod.rs` carry them out.

use http::Method;
use http::header::EXPECT;
use pingora_core::protocols::http::v2::client::PING_TIMEDOUT;
use pingora_core::{Error, ErrorSource, ErrorType, RetryType};
use pingora_http::{RequestHeader, ResponseHeader};

use crate::record::RetryReason;
use crate::refusal::Refusal;

/// Tries of one request at most where no `retry` is written: the first, one after a failed connect, one after an instance closed the connection
/// before it answered.
const ATTEMPTS_MAX: u16 = 3;

/// What a client is told when an exchange ends in `error`.
pub(super) fn refusal(error: &Error) -> Refusal {
    use ErrorType::*;
    match (error.esource(), error.etype()) {
        (ErrorSource::Downstream, ReadTimedout) => Refusal::ClientTimeout,
        // `H2Error`: the client reset the stream or closed the connection while its request was read.
        (ErrorSource::Downstream, WriteTimedout | WriteError | ReadError | ConnectionClosed | H2Error) => {
            Refusal::ClientClosed
        }
        (ErrorSource::Downstream, _) => Refusal::BadBody,
        (_, ConnectTimedout | ReadTimedout | WriteTimedout | TLSHandshakeTimedout) => Refusal::UpstreamTimeout,
        (ErrorSource::Upstream, etype) if *etype == PING_TIMEDOUT => Refusal::UpstreamTimeout,
        (
            _,
            ConnectRefused | ConnectNoRoute | ConnectError | TLSHandshakeFailure | InvalidCert | HandshakeError
            | TLSWantX509Lookup | ConnectProxyFailure | SocketError,
        ) => Refusal::UpstreamConnect,
        (ErrorSource::Upstream, ConnectionClosed | ReadError | WriteError | H2Error) => Refusal::UpstreamClosed,
        (ErrorSource::Upstream, _) => Refusal::UpstreamInvalid,
        (ErrorSource::Internal | ErrorSource::Unset, _) => Refusal::Internal("the request failed inside the gateway"),
    }
}

/// Whether an instance that did not answer in time was still waiting for the client: Pingora's time-out begins again
/// with each piece of the body that is passed on, so for all that time none came.
/// A client that expects `100 Continue` waits for the instance instead.
pub(super) fn client_stalled(
    error: &Error,
    body_done: bool,
    request: &RequestHeader,
    answer: Option<&ResponseHeader>,
) -> bool {
    *error.esource() == ErrorSource::Upstream
        && *error.etype() == ErrorType::ReadTimedout
        && !body_done
        && !request.headers.contains_key(EXPECT)
        && answer.is_none()
}

/// How a try failed that had a connection; none where it was not the instance that failed.
pub(super) fn retry_reason(error: &Error) -> Option<RetryReason> {
    if *error.esource() != ErrorSource::Upstream {
        return None;
    }
    Some(match error.etype() {
        ErrorType::ReadTimedout | ErrorType::WriteTimedout => RetryReason::Timeout,
        etype if *etype == PING_TIMEDOUT => RetryReason::Timeout,
        _ if is_closed(error) => RetryReason::Closed,
        _ => RetryReason::Invalid,
    })
}

/// Whether a failed connect is tried on another instance: nothing was sent, so any method may be.
pub(super) fn may_reconnect(attempts: u16, has_other_instance: bool) -> bool {
    attempts < ATTEMPTS_MAX && has_other_instance
}

/// Whether the connection was closed or reset, or the HTTP/2 stream was.
pub(super) fn is_closed(error: &Error) -> bool {
    use ErrorType::*;
    matches!(error.etype(), ConnectionClosed | ReadError | WriteError | H2Error)
}

/// Whether an HTTP/2 instance says that it did nothing with the request: it refused the stream, or goes away, or wants HTTP/1.1
/// (RFC 9113 sections 8.7 and 9.2). Any method may be sent again.
pub(super) fn is_unprocessed(error: &Error) -> bool {
    matches!(error.etype(), ErrorType::H2Error | ErrorType::H2Downgrade) && error.retry == RetryType::Decided(true)
}

/// Whether a try that failed after something may have been sent is repeated: an idempotent request, kept whole,
/// when the instance closed the connection before the first byte of an answer (RFC 9110 section 9.2.2). A try is
/// `hopeful` on a pooled connection, which may just have been too old, and where there is another instance.
pub(super) fn may_resend(error: &Error, method: &Method, attempts: u16, hopeful: bool, kept_whole: bool) -> bool {
    let is_safe = is_unprocessed(error) || hopeful && is_closed(error) && method.is_idempotent();
    attempts < ATTEMPTS_MAX && kept_whole && is_safe && *error.esource() == ErrorSource::Upstream
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: Box<Error>, reason: &str) {
        assert_eq!(refusal(&error).reason(), reason, "{error}");
    }

    #[test]
    fn timeouts_of_instances_are_504() {
        for etype in [ErrorType::ConnectTimedout, ErrorType::ReadTimedout, ErrorType::WriteTimedout] {
            check(Error::new_up(etype), "upstream_timeout");
        }
    }

    #[test]
    fn every_error_has_its_reason() {
        check(Error::new_up(ErrorType::ConnectRefused), "upstream_connect");
        check(Error::new_up(ErrorType::ConnectionClosed), "upstream_closed");
        check(Error::new_up(ErrorType::ReadError), "upstream_closed");
        check(Error::new_up(ErrorType::H2Error), "upstream_closed");
        check(Error::new_up(PING_TIMEDOUT), "upstream_timeout");
        check(Error::new_up(ErrorType::InvalidHTTPHeader), "upstream_invalid");
        check(Error::new_down(ErrorType::ReadTimedout), "client_timeout");
        check(Error::new_down(ErrorType::ConnectionClosed), "client_closed");
        check(Error::new_down(ErrorType::H2Error), "client_closed");
        check(Error::new_down(ErrorType::InvalidHTTPHeader), "bad_body");
        check(Error::new_in(ErrorType::InternalError), "internal");
    }

    #[test]
    fn a_client_that_stops_sending_is_not_the_instances_fault() {
        let late = Error::new_up(ErrorType::ReadTimedout);
        let mut request = RequestHeader::build("POST", b"/", None).unwrap();
        let answer = ResponseHeader::build(200, None).unwrap();
        assert!(client_stalled(&late, false, &request, None));
        assert!(!client_stalled(&late, true, &request, None));
        assert!(!client_stalled(&late, false, &request, Some(&answer)));
        assert!(!client_stalled(&Error::new_up(ErrorType::WriteTimedout), false, &request, None));
        request.insert_header(EXPECT, "100-continue").unwrap();
        assert!(!client_stalled(&late, false, &request, None));
    }

    #[test]
    fn connect_failures_are_retried_where_there_is_another_instance() {
        assert!(may_reconnect(1, true));
        assert!(!may_reconnect(1, false));
        assert!(!may_reconnect(ATTEMPTS_MAX, true));
    }

    #[test]
    fn only_what_can_not_have_happened_twice_is_sent_again() {
        let closed = Error::new_up(ErrorType::ConnectionClosed);
        assert!(may_resend(&closed, &Method::GET, 1, true, true));
        assert!(!may_resend(&closed, &Method::POST, 1, true, true));
        assert!(!may_resend(&closed, &Method::GET, 1, true, false));
        assert!(!may_resend(&closed, &Method::GET, ATTEMPTS_MAX, true, true));
        assert!(!may_resend(&Error::new_up(ErrorType::ReadTimedout), &Method::GET, 1, true, true));
        assert!(!may_resend(&closed, &Method::GET, 1, false, true));
        let mut refused = Error::new_up(ErrorType::H2Error);
        assert!(!may_resend(&refused, &Method::POST, 1, true, true));
        refused.set_retry(true);
        assert!(may_resend(&refused, &Method::POST, 1, false, true));
        assert!(!may_resend(&refused, &Method::POST, 1, false, false));
    }
}
