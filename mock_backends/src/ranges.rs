//! One range of an answer, where a request asks for it (RFC 9110 section 14). Several at once, and what is no range, get the whole.
//! Not here: which answer it is.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};

/// What a GET asks for: a range, and of which answer alone.
#[derive(Debug)]
pub struct Asked {
    range: (Option<usize>, Option<usize>),
    if_range: Option<HeaderValue>,
}

impl Asked {
    /// Of a request with one `Range` of one range.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let range = headers.get(header::RANGE)?.to_str().ok()?.strip_prefix("bytes=")?.trim();
        let (first, last) = range.split_once('-')?;
        let number = |text: &str| if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) };
        let range = (number(first)?, number(last)?);
        let is_range = match range {
            (None, None) => false,
            (Some(first), Some(last)) => first <= last,
            _ => true,
        };
        is_range.then(|| Self { range, if_range: headers.get(header::IF_RANGE).cloned() })
    }

    /// The range of an answer; all of one that is no 200, or not the one of `If-Range`.
    pub async fn of_answer(&self, answer: Response) -> Response {
        let headers = answer.headers();
        let is_meant = |wanted: &HeaderValue| {
            [header::ETAG, header::LAST_MODIFIED].iter().any(|name| headers.get(name) == Some(wanted))
        };
        if answer.status() != StatusCode::OK || !self.if_range.as_ref().is_none_or(is_meant) {
            return answer;
        }
        let (mut head, body) = answer.into_parts();
        // Answers are made in memory, and as large as they may be.
        let Ok(whole) = axum::body::to_bytes(body, usize::MAX).await else {
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        };
        let length = whole.len();
        let range = match self.range {
            (None, last) => length.saturating_sub(last.unwrap_or_default())..length,
            (Some(first), last) => first..last.map_or(length, |last| last.saturating_add(1).min(length)),
        };
        head.headers.remove(header::CONTENT_LENGTH);
        let (status, said, body) = if range.is_empty() {
            head.headers.remove(header::CONTENT_TYPE);
            (StatusCode::RANGE_NOT_SATISFIABLE, format!("bytes */{length}"), Body::empty())
        } else {
            let said = format!("bytes {}-{}/{length}", range.start, range.end - 1);
            (StatusCode::PARTIAL_CONTENT, said, Body::from(whole.slice(range)))
        };
        head.status = status;
        if let Ok(said) = said.parse() {
            head.headers.insert(header::CONTENT_RANGE, said);
        }
        Response::from_parts(head, body)
    }
}
