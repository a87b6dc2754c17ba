//! Problem: every "no" of the admin API, as problem details (RFC 9457).
//! The data path's answers are in `refusal.rs`; these have their own reasons, in the same form.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use serde_json::{Map, Value, json};

/// Why the admin API does not do what was asked.
#[derive(Clone, Debug)]
pub(super) struct Problem {
    /// The status of the answer.
    pub status: StatusCode,
    reason: &'static str,
    detail: String,
    members: Map<String, Value>,
}

impl Problem {
    /// `reason` is a stable word, `detail` says what is wrong and what would be right.
    pub fn new(status: StatusCode, reason: &'static str, detail: impl Into<String>) -> Self {
        Self { status, reason, detail: detail.into(), members: Map::new() }
    }

    /// A request that can't be understood.
    pub fn bad_request(reason: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason, detail)
    }

    /// A request without the right token.
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "no_token", detail)
    }

    /// Adds a member to the body.
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.members.insert(name.into(), value);
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({
            "type": format!("urn:tollgate:admin:{}", self.reason),
            "title": self.status.canonical_reason().unwrap_or("Refused"),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "reason": self.reason,
        });
        if let Value::Object(object) = &mut body {
            object.extend(self.members);
        }
        let kind = HeaderValue::from_static("application/problem+json");
        let mut response = (self.status, [(CONTENT_TYPE, kind)], body.to_string() + "\n").into_response();
        let header = match self.status {
            StatusCode::UNAUTHORIZED => Some((WWW_AUTHENTICATE, "Bearer realm=\"tollgate admin\"")),
            StatusCode::SERVICE_UNAVAILABLE => Some((RETRY_AFTER, "1")),
            _ => None,
        };
        response.headers_mut().extend(header.map(|(name, value)| (name, HeaderValue::from_static(value))));
        response
    }
}
