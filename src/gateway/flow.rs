//! The speed of an answer's body: gaps up to `between_bytes`, and at least `rate_min` over each such time. Looked at when a piece arrives; a silence
//! without an end is Pingora's to notice. What the client keeps waiting is not held against the instance.
//! Tunnels, event streams and gRPC live as long as bytes flow. Not here: the time up to the header (`deadline.rs`).

use std::time::{Duration, Instant};

use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap};

use crate::config::Timeouts;
use crate::record::Timeout;

/// The body of an answer on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    gap_max: Duration,
    /// Bytes that each `gap_max` has to bring at least.
    bytes_min: u64,
    last: Instant,
    /// How long the client had kept everything waiting when the last piece came.
    stalled: Duration,
    window: Window,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    begun: Instant,
    stalled: Duration,
    bytes: u64,
}

impl Flow {
    pub fn begin(timeouts: &Timeouts, now: Instant, stalled: Duration) -> Self {
        let gap_max = timeouts.between_bytes.0;
        // Both are at most what a configuration may say, so the product is far from the end of 64 bits for all but absurd rates.
        let bytes_min = (timeouts.rate_min.0 as f64 * gap_max.as_secs_f64()) as u64;
        Self { gap_max, bytes_min, last: now, stalled, window: Window { begun: now, stalled, bytes: 0 } }
    }

    /// A piece has come; `stalled` is for how long the client has kept answers waiting in all.
    ///
    /// # Errors
    /// Which bound was broken.
    pub fn piece(&mut self, bytes: usize, now: Instant, stalled: Duration) -> Result<(), Timeout> {
        let waited = |since: Instant, before: Duration| {
            now.saturating_duration_since(since).saturating_sub(stalled.saturating_sub(before))
        };
        if waited(self.last, self.stalled) > self.gap_max {
            return Err(Timeout::BetweenBytes);
        }
        (self.last, self.stalled) = (now, stalled);
        self.window.bytes += bytes as u64;
        let passed = waited(self.window.begun, self.window.stalled);
        if passed < self.gap_max {
            return Ok(());
        }
        // A window ends with the piece that comes after its time, so it may be longer than that.
        let needed = self.bytes_min as f64 * (passed.as_secs_f64() / self.gap_max.as_secs_f64());
        if (self.window.bytes as f64) < needed {
            return Err(Timeout::RateMin);
        }
        self.window = Window { begun: now, stalled, bytes: 0 };
        Ok(())
    }
}

/// Whether the client asks for an answer that may be silent for long.
pub(super) fn asks_for_stream(request: &HeaderMap) -> bool {
    let accepts = |value: &http::HeaderValue| contains(value.as_bytes(), b"text/event-stream");
    request.get(ACCEPT).is_some_and(accepts) || is_grpc(request)
}

/// Whether the answer is one that may be silent for long.
pub(super) fn is_stream(answer: &HeaderMap) -> bool {
    let is_events = |value: &http::HeaderValue| starts_with(value.as_bytes(), b"text/event-stream");
    answer.get(CONTENT_TYPE).is_some_and(is_events) || is_grpc(answer)
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| starts_with(value.as_bytes(), b"application/grpc"))
}

fn starts_with(value: &[u8], word: &[u8]) -> bool {
    value.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
}

fn contains(value: &[u8], word: &[u8]) -> bool {
    value.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Size, Span};

    /// Pieces as `(ms since the last, of which the client stalled, bytes)`, with gaps up to 1 s and 100 bytes/s; which one breaks a bound, and which.
    fn play(pieces: &[(u64, u64, usize)]) -> Option<(usize, Timeout)> {
        let timeouts = Timeouts { between_bytes: Span::seconds(1), rate_min: Size(100), ..Timeouts::default() };
        let mut now = Instant::now();
        let mut stalled = Duration::ZERO;
        let mut flow = Flow::begin(&timeouts, now, stalled);
        for (place, (millis, stall, bytes)) in pieces.iter().enumerate() {
            now += Duration::from_millis(*millis);
            stalled += Duration::from_millis(*stall);
            if let Err(timeout) = flow.piece(*bytes, now, stalled) {
                return Some((place, timeout));
            }
        }
        None
    }

    #[test]
    fn a_gap_is_bounded() {
        assert_eq!(play(&[(900, 0, 200), (900, 0, 200), (1_100, 0, 200)]), Some((2, Timeout::BetweenBytes)));
    }

    #[test]
    fn a_drip_is_too_slow() {
        assert_eq!(play(&[(400, 0, 10), (400, 0, 10), (400, 0, 10)]), Some((2, Timeout::RateMin)));
        assert_eq!(play(&[(400, 0, 50); 30]), None);
    }

    #[test]
    fn what_the_client_keeps_waiting_is_not_held_against_the_instance() {
        assert_eq!(play(&[(5_000, 4_500, 60), (3_000, 2_900, 50), (800, 300, 60)]), None);
        assert_eq!(play(&[(5_000, 3_500, 60)]), Some((0, Timeout::BetweenBytes)));
    }

    #[test]
    fn streams_are_known_by_what_they_are_called() {
        let headers = |name: http::HeaderName, value: &'static str| {
            HeaderMap::from_iter([(name, http::HeaderValue::from_static(value))])
        };
        assert!(asks_for_stream(&headers(ACCEPT, "text/html, Text/Event-Stream;q=0.9")));
        assert!(asks_for_stream(&headers(CONTENT_TYPE, "application/grpc+proto")));
        assert!(!asks_for_stream(&headers(ACCEPT, "*/*")));
        assert!(is_stream(&headers(CONTENT_TYPE, "text/event-stream; charset=utf-8")));
        assert!(!is_stream(&headers(CONTENT_TYPE, "text/html")));
    }
}
