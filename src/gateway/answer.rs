//! Writes refusals to clients: the only place where an answer of the gateway's own becomes bytes.
//! A refusal is no fault of the connection, so wherever it is safe the connection stays open.

use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, EXPECT, HeaderValue, TRANSFER_ENCODING,
};
use http::{HeaderMap, Method, StatusCode};
use pingora_core::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;
use uuid::Uuid;

use super::wire::Wire;
use crate::policy::cors::Fields;
use crate::policy::headers::written;
use crate::refusal::Refusal;

/// An unread body up to this size is read and dropped; a larger one costs the client its connection.
pub(super) const DRAINED_BYTES_MAX: u64 = 64 << 10;

/// How long an unread body may take to arrive.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Answers with `refusal`, with what CORS says of it, and ends the response.
///
/// # Errors
/// Pingora's, when the client can't be written to.
pub(super) async fn refuse(session: &mut Session, refusal: &Refusal, request_id: Uuid, cors: Fields) -> Result<()> {
    if matches!(refusal, Refusal::ClientClosed) {
        return Ok(());
    }
    let is_empty = refusal.status() == StatusCode::NO_CONTENT;
    let body = if is_empty { Bytes::new() } else { Bytes::from(refusal.body(request_id)) };
    let mut header = header(refusal, request_id, body.len())?;
    if is_empty {
        // Neither a length nor a type of nothing (RFC 9110 section 8.6).
        header.remove_header(&CONTENT_LENGTH);
        header.remove_header(&CONTENT_TYPE);
    }
    for (name, value) in cors {
        header.append_header(name, value)?;
    }
    let without_body = is_empty || session.req_header().method == Method::HEAD;
    keep_open_where_safe(session);
    // `respond_error` would close the client's connection, so the response is written here.
    session.write_response_header(Box::new(header), without_body).await?;
    if !without_body {
        session.write_response_body(Some(body), true).await?;
    }
    Ok(())
}

fn header(refusal: &Refusal, request_id: Uuid, body_bytes: usize) -> Result<ResponseHeader> {
    // Without a map of spellings: all names are ours, and in lower case.
    let mut header = ResponseHeader::build_no_case(refusal.status(), Some(8))?;
    for (name, value) in refusal.headers() {
        header.append_header(name, value)?;
    }
    header.insert_header(CONTENT_LENGTH, HeaderValue::from(body_bytes))?;
    header.insert_header(CACHE_CONTROL, HeaderValue::from_static("no-store"))?;
    let mut id = Uuid::encode_buffer();
    header.insert_header(written::X_REQUEST_ID, &*request_id.hyphenated().encode_lower(&mut id))?;
    Ok(header)
}

/// Lets Pingora read and drop a small unread body instead of closing the connection.
fn keep_open_where_safe(session: &mut Session) {
    if can_drain(&session.req_header().headers) {
        session.set_close_on_response_before_downstream_finish(false);
        session.set_total_drain_timeout(Some(DRAIN_TIMEOUT));
        session.set_read_timeout(Some(DRAIN_TIMEOUT));
    }
}

/// Whether a body that nobody reads is known to be small. A client that expects `100 Continue` may never send it,
/// and its next request would be taken for the body.
fn can_drain(headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    !headers.contains_key(EXPECT)
        && !headers.contains_key(TRANSFER_ENCODING)
        && length.is_some_and(|length| length <= DRAINED_BYTES_MAX)
}

/// How an answer that never reaches Pingora is written.
pub(super) struct Raw {
    /// Whether the connection goes on after it.
    pub keeps_open: bool,
    /// Not after HEAD.
    pub has_body: bool,
}

/// A whole HTTP/1.1 answer, for what never reaches Pingora; and the bytes of its body.
pub(super) fn raw(refusal: &Refusal, request_id: Uuid, raw: &Raw) -> (BytesMut, u64) {
    let body = refusal.body(request_id);
    let status = refusal.status();
    let mut wire = Wire::begin(status, status.canonical_reason().unwrap_or("Refused"));
    for (name, value) in &refusal.headers() {
        wire.field(name.as_str(), value.as_bytes());
    }
    wire.field(CONTENT_LENGTH.as_str(), HeaderValue::from(body.len()).as_bytes());
    wire.field(CACHE_CONTROL.as_str(), b"no-store");
    let mut id = Uuid::encode_buffer();
    wire.field(written::X_REQUEST_ID, request_id.hyphenated().encode_lower(&mut id).as_bytes());
    wire.field(DATE.as_str(), httpdate::fmt_http_date(SystemTime::now()).as_bytes());
    wire.field(CONNECTION.as_str(), if raw.keeps_open { b"keep-alive" } else { b"close" });
    let mut answer = wire.end();
    if !raw.has_body {
        return (answer, 0);
    }
    answer.extend_from_slice(&body);
    (answer, body.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&'static str, &'static str)], drains: bool) {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        assert_eq!(can_drain(&headers), drains, "{headers:?}");
    }

    #[test]
    fn only_a_body_that_is_known_to_be_small_and_to_come_is_drained() {
        check(&[("content-length", "10")], true);
        check(&[("content-length", "70000")], false);
        check(&[("transfer-encoding", "chunked")], false);
        check(&[("content-length", "10"), ("expect", "100-continue")], false);
        check(&[], false);
    }

    #[test]
    fn a_raw_answer_is_a_whole_one() {
        let (answer, _) = raw(&Refusal::HeaderTooLarge, Uuid::nil(), &Raw { keeps_open: false, has_body: true });
        let answer = String::from_utf8(answer.to_vec()).unwrap();
        let (header, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(header.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\n"), "{header}");
        assert!(header.contains(&format!("Content-Length: {}\r\n", body.len())), "{header}");
        assert!(header.ends_with("Connection: close"), "{header}");
    }
}
