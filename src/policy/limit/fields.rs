//! The fields `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-10), one member a limit, in the order they are written.
//! `q` is what can be admitted at once, `w` the seconds in which it comes back, `r` what is left, `t` the seconds until there is more.
//! `t` may be larger than `w`: a sliding window forgets a slot (1/16 of it) as a whole, so what was used at the beginning of
//! one comes back that much later.
//! Names are quoted once, when the limit is compiled, so nothing a client sends can reach these fields.

use std::cmp::Reverse;
use std::time::Duration;

use http::HeaderValue;
use smallvec::SmallVec;

use super::algorithm::{Standing, seconds_up};
use super::config::{Algorithm, Limit, Window};
use super::table::nanoseconds;
use crate::refusal::LegacyFields;

/// A structured field's string (RFC 9651, section 3.3.3); what can't be in one becomes `?`.
fn quoted(name: &str) -> String {
    let mut quoted = String::from("\"");
    for character in name.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            ' '..='~' => quoted.push(character),
            _ => quoted.push('?'),
        }
    }
    quoted + "\""
}

/// The member of `RateLimit-Policy` for one limit: `"default";q=100;w=60`. A month has no fixed length, so no `w`.
pub(super) fn policy_member(name: &str, limit: &Limit) -> String {
    let name = quoted(name);
    let count = u64::from(limit.rate.count.max(1));
    let second = Duration::from_secs(1);
    let length = match limit.rate.window {
        Window::Rolling(span) => span.0.max(second),
        Window::Day => second * 86_400,
        Window::Month => return format!("{name};q={count}"),
    };
    match limit.algorithm() {
        // A whole burst is back after so many windows.
        Algorithm::TokenBucket => {
            let burst = limit.rate.burst.map_or(count, u64::from);
            let refill = u128::from(nanoseconds(length)) * u128::from(burst) / u128::from(count);
            format!("{name};q={burst};w={}", seconds_up(u64::try_from(refill).unwrap_or(u64::MAX)).max(1))
        }
        Algorithm::SlidingWindow | Algorithm::FixedWindow | Algorithm::SlidingLog => {
            format!("{name};q={count};w={}", seconds_up(nanoseconds(length)))
        }
    }
}

/// The constant beginning of a limit's member in `RateLimit`.
pub(super) fn state_begins(name: &str) -> String {
    quoted(name) + ";r="
}

/// `RateLimit`: where the client stands with each limit, given with its [`state_begins`]. `None` without limits.
pub(super) fn state<'a>(standings: impl Iterator<Item = (&'a str, Standing)>) -> Option<HeaderValue> {
    // On the stack: the value itself is the only allocation.
    let mut text: SmallVec<[u8; 256]> = SmallVec::new();
    for (begins, standing) in standings {
        if !text.is_empty() {
            text.extend_from_slice(b", ");
        }
        text.extend_from_slice(begins.as_bytes());
        push_decimal(&mut text, standing.remaining);
        if standing.more_in > 0 {
            text.extend_from_slice(b";t=");
            push_decimal(&mut text, seconds_up(standing.more_in));
        }
    }
    if text.is_empty() { None } else { HeaderValue::from_bytes(&text).ok() }
}

/// The older fields, of the limit of which least is left; of several the one that takes longest to give more.
pub(super) fn legacy(standings: impl Iterator<Item = (u64, Standing)>) -> Option<Box<LegacyFields>> {
    let least = standings.min_by_key(|(_, standing)| (standing.remaining, Reverse(standing.more_in)));
    least.map(|(capacity, standing)| {
        let (remaining, reset) = (standing.remaining.into(), seconds_up(standing.more_in).into());
        Box::new(LegacyFields { limit: capacity.into(), remaining, reset })
    })
}

fn push_decimal(text: &mut SmallVec<[u8; 256]>, mut number: u64) {
    let mut digits = [b'0'; 20]; // as many as u64::MAX has
    let mut begin = digits.len();
    loop {
        begin -= 1;
        digits[begin] += (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    text.extend_from_slice(&digits[begin..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Per, Rate, Span};

    fn limit(count: u32, window: Window, burst: Option<u32>, per: &[Per]) -> Limit {
        Limit::of(Rate { count, window, burst }, per.to_vec())
    }

    #[test]
    fn policies_say_quota_and_window() {
        for (limit, expected) in [
            (limit(100, Window::Rolling(Span::seconds(60)), None, &[]), "\"n\";q=100;w=60"),
            (limit(10, Window::Rolling(Span::seconds(1)), Some(100), &[]), "\"n\";q=100;w=10"),
            (limit(3, Window::Rolling(Span::seconds(1)), Some(1), &[]), "\"n\";q=1;w=1"),
            (limit(5, Window::Rolling(Span(Duration::from_millis(1_500))), None, &[]), "\"n\";q=5;w=2"),
            (limit(1_000, Window::Day, None, &[]), "\"n\";q=1000;w=86400"),
            (limit(1_000, Window::Month, None, &[]), "\"n\";q=1000"),
        ] {
            assert_eq!(policy_member("n", &limit), expected);
        }
    }

    #[test]
    fn names_are_quoted_safely() {
        for (name, expected) in
            [("a b", r#""a b""#), (r#"a"b\c"#, r#""a\"b\\c""#), ("ä\r\n", r#""???""#), ("", r#""""#)]
        {
            assert_eq!(quoted(name), expected);
        }
    }

    #[test]
    fn the_state_lists_every_limit_and_rounds_up() {
        let standing = |remaining, more_in| Standing { remaining, more_in };
        let members = [("a", standing(63, 36_000_000_001)), ("b", standing(0, 1)), ("c", standing(9, 0))];
        let members = members.map(|(name, standing)| (state_begins(name), standing));
        assert_eq!(
            state(members.iter().map(|(begins, standing)| (&**begins, *standing))).unwrap(),
            "\"a\";r=63;t=37, \"b\";r=0;t=1, \"c\";r=9"
        );
        assert_eq!(state(std::iter::empty()), None);
        for number in [0, 1, 9, 10, 1_234_567_890, u64::MAX] {
            assert_eq!(state([("n;r=", standing(number, 0))].into_iter()).unwrap(), format!("n;r={number}"));
        }
    }
}
