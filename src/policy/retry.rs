//! Retry: whether a try that failed is followed by another one, and after how long. Pure: time, chance and facts come with the call.
//! Not here: what a service may be asked more for it (`upstream/retry_budget.rs`), and where the next try goes (`upstream`).

use std::time::{Duration, SystemTime};

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, Method, StatusCode};

use crate::config;
use crate::record::RetryReason;

/// Says that the instance tells repetitions of a request apart, whatever its method (draft-ietf-httpapi-idempotency-key-header-07).
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// When a request of a route is tried again.
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    config: config::Retry,
}

/// A try that failed, and what it means to repeat it.
#[derive(Clone, Debug)]
pub struct Tried {
    /// Tries so far, this one included.
    pub attempts: u16,
    /// How it failed.
    pub reason: RetryReason,
    /// The answer's status, where it was a bad one.
    pub status: Option<StatusCode>,
    /// What the answer says about when to come again.
    pub retry_after: Option<Duration>,
    /// Whether asking twice does no more than asking once.
    pub is_idempotent: bool,
    /// Whether the whole request is at hand, and nothing of an answer has reached the client.
    pub is_whole: bool,
    /// What is left of the route's time.
    pub left: Duration,
}

impl Retry {
    /// Compiles the policy of a route.
    pub fn compile(config: &config::Retry) -> Self {
        Self { config: config.clone() }
    }

    /// How long to wait before the next try; none where there is none. `chance` is from 0 to 1.
    pub fn wait(&self, tried: &Tried, chance: f64) -> Option<Duration> {
        let may_be_sent = match tried.reason {
            RetryReason::Connect => true, // nothing was sent
            RetryReason::Closed | RetryReason::Timeout | RetryReason::Invalid | RetryReason::Status => {
                tried.is_idempotent
            }
        };
        let is_listed = tried.status.is_none_or(|status| self.config.statuses.contains(&status.as_u16()));
        if tried.attempts >= self.config.attempts || !tried.is_whole || !may_be_sent || !is_listed {
            return None;
        }
        let wait = self.backoff(tried.attempts, chance).max(tried.retry_after.unwrap_or_default());
        (wait < tried.left).then_some(wait)
    }

    /// Exponential with full jitter: anything between nothing and the ceiling, which doubles with each try.
    fn backoff(&self, attempts: u16, chance: f64) -> Duration {
        let doubled = 1_u32.checked_shl(u32::from(attempts.saturating_sub(1))).unwrap_or(u32::MAX);
        let ceiling = self.config.base_delay.0.saturating_mul(doubled).min(self.config.delay_max.0);
        ceiling.mul_f64(chance.clamp(0.0, 1.0))
    }

    /// How long one try may take.
    pub fn try_timeout(&self) -> Option<Duration> {
        self.config.try_timeout.map(|timeout| timeout.0)
    }

    /// Whether an answer with this status may be followed by another try.
    pub fn is_for(&self, status: StatusCode) -> bool {
        self.config.statuses.contains(&status.as_u16())
    }

    /// The part of a service's requests that may be tried again in percent, and how many always may in ten seconds.
    pub fn budget(&self) -> (u32, u32) {
        (self.config.budget.0, self.config.budget_floor)
    }
}

/// Whether asking twice does no more than asking once (RFC 9110 section 9.2.2), or the client says so.
pub fn is_idempotent(method: &Method, headers: &HeaderMap) -> bool {
    method.is_idempotent() || headers.contains_key(&IDEMPOTENCY_KEY)
}

/// What an answer says about when to come again: seconds or a date (RFC 9110 section 10.2.3).
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => httpdate::parse_http_date(text).ok().map(|date| date.duration_since(now).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;
    use crate::config::Span;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn policy() -> Retry {
        let config = config::Retry { attempts: 4, delay_max: Span(MS(300)), ..config::Retry::default() };
        Retry::compile(&config)
    }

    fn tried(reason: RetryReason) -> Tried {
        Tried {
            attempts: 1,
            reason,
            status: None,
            retry_after: None,
            is_idempotent: true,
            is_whole: true,
            left: Duration::from_secs(30),
        }
    }

    fn check(tried: &Tried, again: bool) {
        assert_eq!(policy().wait(tried, 0.5).is_some(), again, "{tried:?}");
    }

    #[test]
    fn what_was_not_sent_may_be_sent_by_any_method() {
        check(&Tried { is_idempotent: false, ..tried(RetryReason::Connect) }, true);
        for reason in [RetryReason::Closed, RetryReason::Timeout, RetryReason::Invalid, RetryReason::Status] {
            check(&Tried { is_idempotent: false, ..tried(reason) }, false);
            check(&tried(reason), true);
        }
    }

    #[test]
    fn half_a_body_or_half_an_answer_ends_it() {
        check(&Tried { is_whole: false, ..tried(RetryReason::Connect) }, false);
        check(&Tried { is_whole: false, ..tried(RetryReason::Closed) }, false);
    }

    #[test]
    fn attempts_count_tries_the_first_included() {
        check(&Tried { attempts: 3, ..tried(RetryReason::Timeout) }, true);
        check(&Tried { attempts: 4, ..tried(RetryReason::Timeout) }, false);
    }

    #[test]
    fn only_listed_statuses_are_asked_for_again() {
        let status = |code: u16| Tried { status: StatusCode::from_u16(code).ok(), ..tried(RetryReason::Status) };
        check(&status(503), true);
        check(&status(500), false);
        check(&status(404), false);
    }

    #[test]
    fn what_the_instance_asks_for_is_waited_for_unless_it_is_longer_than_the_client_waits() {
        let asks = |seconds| Tried { retry_after: Some(Duration::from_secs(seconds)), ..tried(RetryReason::Status) };
        assert_eq!(policy().wait(&asks(2), 0.5), Some(Duration::from_secs(2)));
        check(&asks(30), false);
    }

    #[test]
    fn an_idempotency_key_makes_a_post_idempotent() {
        let mut headers = HeaderMap::new();
        assert!(is_idempotent(&Method::PUT, &headers) && !is_idempotent(&Method::POST, &headers));
        headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_static("1"));
        assert!(is_idempotent(&Method::POST, &headers));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let read = |text: &str| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(text).unwrap())]);
            retry_after(&headers, now)
        };
        assert_eq!(read("7"), Some(Duration::from_secs(7)));
        assert_eq!(read(&httpdate::fmt_http_date(now + Duration::from_secs(9))), Some(Duration::from_secs(9)));
        assert_eq!(read(&httpdate::fmt_http_date(now - Duration::from_secs(9))), Some(Duration::ZERO));
        assert_eq!(read("soon"), None);
    }

    proptest! {
        #[test]
        fn waits_stay_below_their_ceiling_and_within_the_time(
            attempts in 1_u16..20, chance in 0.0..=1.0, left_ms in 0_u64..1_000,
        ) {
            let tried = Tried { attempts, left: MS(left_ms), ..tried(RetryReason::Timeout) };
            let ceiling = MS(100 << (attempts - 1).min(8)).min(MS(300));
            match policy().wait(&tried, chance) {
                Some(wait) => prop_assert!(attempts < 4 && wait <= ceiling && wait < MS(left_ms)),
                None => prop_assert!(attempts >= 4 || ceiling.mul_f64(chance) >= MS(left_ms)),
            }
        }
    }
}
