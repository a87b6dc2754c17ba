//! What a request may ask for in its query: status, size, delay and cache headers of the answer.
//! Only shapes answers; failures an operator switches on are in `control.rs`.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Deserialize;

/// Bytes of a sized body, at most.
const BYTES_MAX: usize = 64 << 20;

/// The query parameters that shape an answer; others are the service's own and ignored here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Wishes {
    /// `Cache-Control`
    cache_control: Option<String>,
    /// `Vary`
    vary: Option<String>,
    /// `ETag`, quoted when it is not; a matching `If-None-Match` is answered with 304.
    etag: Option<String>,
    /// `Set-Cookie`
    set_cookie: Option<String>,
    /// `Age`
    age: Option<String>,
    /// `Expires`
    expires: Option<String>,
    /// `Last-Modified`
    last_modified: Option<String>,
    /// The status instead of the usual one.
    status: Option<u16>,
    /// A body of so many bytes instead of the usual one.
    bytes: Option<usize>,
    /// Milliseconds before the answer.
    delay_ms: u64,
}

impl Wishes {
    /// How long the answer has to wait; at most a minute.
    pub fn delay(&self) -> Duration {
        Duration::from_millis(self.delay_ms.min(60_000))
    }

    /// An answer of the wanted size, where one is wanted.
    pub fn instead(&self) -> Option<Response> {
        let bytes = self.bytes?;
        Some(([(header::CONTENT_TYPE, "application/octet-stream")], vec![b'x'; bytes.min(BYTES_MAX)]).into_response())
    }

    /// Gives the answer the wanted status and headers.
    pub fn shape(&self, mut answer: Response, if_none_match: Option<&HeaderValue>) -> Response {
        if let Some(status) = self.status.and_then(|status| StatusCode::from_u16(status).ok()) {
            *answer.status_mut() = status;
        }
        let etag = self.etag.as_ref().map(|etag| if etag.contains('"') { etag.clone() } else { format!("\"{etag}\"") });
        if let (Some(etag), Some(asked)) = (&etag, if_none_match)
            && matches(etag, asked)
        {
            answer = StatusCode::NOT_MODIFIED.into_response();
        }
        for (name, value) in [
            (header::CACHE_CONTROL, &self.cache_control),
            (header::VARY, &self.vary),
            (header::ETAG, &etag),
            (header::SET_COOKIE, &self.set_cookie),
            (header::AGE, &self.age),
            (header::EXPIRES, &self.expires),
            (header::LAST_MODIFIED, &self.last_modified),
        ] {
            set(&mut answer, name, value.as_deref());
        }
        answer
    }
}

fn set(answer: &mut Response, name: HeaderName, value: Option<&str>) {
    if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
        answer.headers_mut().insert(name, value);
    }
}

/// Weak comparison of RFC 9110, 13.1.2.
fn matches(etag: &str, asked: &HeaderValue) -> bool {
    let etag = etag.trim_start_matches("W/");
    asked.to_str().is_ok_and(|asked| {
        asked.split(',').map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == etag)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(etag: &str, asked: &str, same: bool) {
        assert_eq!(matches(etag, &HeaderValue::from_str(asked).unwrap()), same, "{etag} in {asked}");
    }

    #[test]
    fn an_etag_is_found_in_a_list() {
        check("\"a\"", "\"b\", \"a\"", true);
    }

    #[test]
    fn weak_and_strong_are_the_same() {
        check("W/\"a\"", "\"a\"", true);
    }

    #[test]
    fn another_etag_does_not_match() {
        check("\"a\"", "\"ab\"", false);
    }

    #[test]
    fn a_star_matches_all() {
        check("\"a\"", "*", true);
    }
}
