//! Whether an answer may be stored by a shared cache, and for how long it is fresh: RFC 9111 sections 3, 4.2 and 5.
//! Pure: headers and times in, a decision out. Where the RFC leaves a choice, the one that serves less is taken.
//! What the upstream allows is not shortened unless the route's `max` says so, and never exceeded unless its `override` does;
//! the route's `ttl` and `heuristic` count only where the upstream says nothing about freshness.

use std::time::{Duration, SystemTime};

use http::header::{
    AGE, AUTHORIZATION, CONNECTION, COOKIE, DATE, ETAG, EXPIRES, LAST_MODIFIED, SET_COOKIE, TE, UPGRADE,
};
use http::{HeaderMap, HeaderName, StatusCode};

use super::cache_control::{Directives, Seconds, parse_seconds};
use super::{dates, vary};

/// Statuses that `ttl` and `heuristic` may make fresh unless the route says which: "heuristically cacheable", RFC 9110
/// section 15.1, without 206.
pub const TTL_STATUSES: [u16; 11] = [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501];

/// An answer that was changed long ago is not taken to stay as it is for ever (RFC 9111 section 4.2.2).
const HEURISTIC_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Request headers that some frameworks take for the method or the path. They reach the instance but are not in the
/// key, so what was answered to them is not stored.
const UNKEYED: [&str; 6] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
    "x-original-host",
];

/// Fields that the gateway itself writes on the way to the instance: the client's request does not show what the
/// instance saw, so an answer that varies by them is not stored.
const WRITTEN_BY_GATEWAY: [&str; 4] = ["forwarded", "x-real-ip", "x-request-id", "x-consumer"];

/// What the route says.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Freshness where the upstream says nothing about it.
    pub ttl: Duration,
    /// Never fresh for longer than this, counted from when the answer came.
    pub max: Option<Duration>,
    /// Fresh for so long, whatever the upstream says about freshness.
    pub always: Option<Duration>,
    /// Where the upstream says nothing: this part, in percent, of the time since `Last-Modified`.
    pub heuristic_percent: u32,
    /// Which statuses `ttl` and `heuristic` are for; [`TTL_STATUSES`] where none are named.
    pub statuses: Vec<StatusCode>,
    /// Whether an answer that sets a cookie may be stored.
    pub set_cookie: bool,
    /// Used where the upstream does not say how long a stale answer may be used while another one is fetched.
    pub stale_while_revalidate: Duration,
    /// Used where the upstream does not say how long a stale answer may be used instead of an error.
    pub stale_if_error: Duration,
}

/// What counts about the request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// `Cache-Control: no-store`.
    pub no_store: bool,
    /// The instance saw `Authorization`.
    pub authorization: bool,
    /// `Cookie`.
    pub cookie: bool,
    /// A header that may change the answer and is not in the key.
    pub unkeyed: bool,
}

/// When the request went out and when the answer's header came.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Before anything was sent to an instance.
    pub asked: SystemTime,
    /// Now.
    pub answered: SystemTime,
}

/// What to keep of an answer that may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// How long it may be used without asking again; zero: only after asking.
    pub remaining: Duration,
    /// How old it already was (`corrected_initial_age`).
    pub age: Duration,
    /// How long it may be used after that while another one is fetched.
    pub stale_while_revalidate: Duration,
    /// How long it may be used after that instead of an error.
    pub stale_if_error: Duration,
}

/// Why an answer is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unstorable {
    /// The request said `no-store`.
    RequestNoStore,
    /// The request has a header that may change the answer and is not in the key.
    RequestUnkeyed,
    /// The answer said `no-store`.
    NoStore,
    /// The answer said `private`.
    Private,
    /// The answer sets a cookie.
    SetCookie,
    /// The answer varies by what a request does not show.
    Vary,
    /// The instance saw `Authorization`, and the answer does not say that it may be stored all the same.
    Authorization,
    /// Not a final, complete answer, or a status that `must-understand` excludes.
    Status,
    /// The upstream says nothing about freshness, and neither does the route for such an answer.
    Silent,
    /// Only the route's `ttl` would make it fresh, and the request had a cookie.
    Cookie,
    /// Stale already, and nothing to confirm it with.
    Stale,
    /// Its end is only told by the end of the connection.
    CloseDelimited,
    /// Larger than the route's `body_max`.
    TooLarge,
    /// The request has a method, a range or a condition whose answer is not the whole thing.
    NotWhole,
    /// Too much is being received at once.
    NoRoom,
    /// It has more or longer tags than are kept.
    Tags,
}

impl Unstorable {
    /// Every one, in the order of their declaration.
    pub const ALL: [Self; 16] = [
        Self::RequestNoStore,
        Self::RequestUnkeyed,
        Self::NoStore,
        Self::Private,
        Self::SetCookie,
        Self::Vary,
        Self::Authorization,
        Self::Status,
        Self::Silent,
        Self::Cookie,
        Self::Stale,
        Self::CloseDelimited,
        Self::TooLarge,
        Self::NotWhole,
        Self::NoRoom,
        Self::Tags,
    ];

    /// The word in `Cache-Status` and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RequestNoStore => "request_no_store",
            Self::RequestUnkeyed => "request_unkeyed_header",
            Self::NoStore => "no_store",
            Self::Private => "private",
            Self::SetCookie => "set_cookie",
            Self::Vary => "vary",
            Self::Authorization => "authorization",
            Self::Status => "status",
            Self::Silent => "no_freshness",
            Self::Cookie => "cookie",
            Self::Stale => "stale",
            Self::CloseDelimited => "close_delimited",
            Self::TooLarge => "too_large",
            Self::NotWhole => "not_whole",
            Self::NoRoom => "no_room",
            Self::Tags => "tags",
        }
    }

    /// Whether another request for the same thing may well be answered with something that is stored.
    pub const fn is_of_this_request(self) -> bool {
        match self {
            Self::RequestNoStore | Self::RequestUnkeyed | Self::Authorization | Self::NotWhole | Self::NoRoom => true,
            Self::NoStore
            | Self::Private
            | Self::SetCookie
            | Self::Vary
            | Self::Status
            | Self::Silent
            | Self::Cookie
            | Self::Stale
            | Self::CloseDelimited
            | Self::TooLarge
            | Self::Tags => false,
        }
    }
}

impl Asked {
    /// Reads the client's request; `no_store` is what it wishes.
    pub fn of(request: &HeaderMap, no_store: bool, authorization_reaches_instance: bool) -> Self {
        Self {
            no_store,
            authorization: authorization_reaches_instance && request.contains_key(AUTHORIZATION),
            cookie: request.contains_key(COOKIE),
            unkeyed: is_unkeyed(request),
        }
    }
}

/// Whether the request has a header that may change the answer and is not in the key.
pub fn is_unkeyed(request: &HeaderMap) -> bool {
    // Six look-ups cost more than a look at each of a few names.
    let is_one = |name: &HeaderName| name.as_str().starts_with("x-") && UNKEYED.contains(&name.as_str());
    request.keys().any(is_one) || hides_from_instance(request)
}

/// Whether the answer may be stored, and how long it is fresh.
pub fn decide(
    status: StatusCode,
    answer: &HeaderMap,
    asked: Asked,
    rules: &Rules,
    times: Times,
) -> Result<Freshness, Unstorable> {
    let directives = Directives::of(answer);
    forbidden(status, answer, asked, rules, &directives).map_or(Ok(()), Err)?;
    let dates = Dates::of(answer, times);
    let mut remaining = match (rules.always, said_lifetime(&directives, &dates)) {
        (Some(always), _) => always,
        _ if directives.no_cache => Duration::ZERO,
        (None, Some(lifetime)) => lifetime.saturating_sub(dates.age),
        (None, None) => silent_lifetime(status, asked, rules, &directives, &dates)?,
    };
    if let Some(max) = rules.max {
        remaining = remaining.min(max);
    }
    let confirmable = status == StatusCode::OK && (answer.contains_key(ETAG) || answer.contains_key(LAST_MODIFIED));
    let (stale_while_revalidate, stale_if_error) = stale_windows(rules, &directives);
    if remaining.is_zero() && !confirmable && stale_while_revalidate.is_zero() && stale_if_error.is_zero() {
        return Err(Unstorable::Stale);
    }
    Ok(Freshness { remaining, age: dates.age, stale_while_revalidate, stale_if_error })
}

/// What the upstream says about freshness (RFC 9111 section 4.2.1); what can't be read says "none".
fn said_lifetime(directives: &Directives, dates: &Dates) -> Option<Duration> {
    match (directives.s_maxage, directives.max_age) {
        (Seconds::Said(seconds), _) | (Seconds::Unsaid, Seconds::Said(seconds)) => Some(Duration::from_secs(seconds)),
        (Seconds::Invalid, _) | (Seconds::Unsaid, Seconds::Invalid) => Some(Duration::ZERO),
        (Seconds::Unsaid, Seconds::Unsaid) if directives.targeted => None,
        (Seconds::Unsaid, Seconds::Unsaid) => dates.expires_after,
    }
}

/// What is left of the freshness that the route gives where the upstream says nothing: a part of the time for which the
/// answer had not changed when it was made, where that is known; else `ttl`.
fn silent_lifetime(
    status: StatusCode,
    asked: Asked,
    rules: &Rules,
    directives: &Directives,
    dates: &Dates,
) -> Result<Duration, Unstorable> {
    let is_listed = if rules.statuses.is_empty() {
        TTL_STATUSES.contains(&status.as_u16())
    } else {
        rules.statuses.contains(&status)
    };
    let unchanged_for = dates.unchanged_for.filter(|_| rules.heuristic_percent > 0);
    let remaining = match unchanged_for {
        // `public` says that any status may be (RFC 9111 section 4.2.2).
        Some(past) if is_listed || directives.public => {
            // Dates name whole seconds.
            let part = past.as_secs().saturating_mul(rules.heuristic_percent.into()) / 100;
            Duration::from_secs(part).min(HEURISTIC_MAX).saturating_sub(dates.age)
        }
        _ if rules.ttl.is_zero() || !is_listed => return Err(Unstorable::Silent),
        // The upstream promised nothing that its clock could shorten; only an age that it states counts.
        _ => rules.ttl.saturating_sub(dates.stated_age),
    };
    if asked.cookie { Err(Unstorable::Cookie) } else { Ok(remaining) }
}

/// What the upstream says about the use of stale answers (RFC 5861), or else the route, unless the upstream forbids it.
fn stale_windows(rules: &Rules, directives: &Directives) -> (Duration, Duration) {
    if rules.always.is_none() && directives.forbids_stale() {
        return (Duration::ZERO, Duration::ZERO);
    }
    let window = |said: Seconds, otherwise: Duration| match said {
        Seconds::Said(seconds) => Duration::from_secs(seconds),
        Seconds::Invalid => Duration::ZERO,
        Seconds::Unsaid => otherwise,
    };
    (
        window(directives.stale_while_revalidate, rules.stale_while_revalidate),
        window(directives.stale_if_error, rules.stale_if_error),
    )
}

fn forbidden(
    status: StatusCode,
    answer: &HeaderMap,
    asked: Asked,
    rules: &Rules,
    directives: &Directives,
) -> Option<Unstorable> {
    let final_and_whole = status.as_u16() >= 200 && !matches!(status.as_u16(), 206 | 304);
    let understood = !directives.must_understand || TTL_STATUSES.contains(&status.as_u16());
    let stored_despite_authorization =
        directives.public || directives.must_revalidate || matches!(directives.s_maxage, Seconds::Said(_));
    if asked.no_store {
        Some(Unstorable::RequestNoStore)
    } else if asked.unkeyed {
        Some(Unstorable::RequestUnkeyed)
    } else if !final_and_whole || !understood {
        Some(Unstorable::Status)
    } else if directives.no_store && !directives.must_understand {
        Some(Unstorable::NoStore)
    } else if directives.private {
        Some(Unstorable::Private)
    } else if !rules.set_cookie && answer.contains_key(SET_COOKIE) {
        Some(Unstorable::SetCookie)
    } else if asked.authorization && !stored_despite_authorization {
        Some(Unstorable::Authorization)
    } else if vary::nominated(answer).is_none_or(|names| names.iter().any(written_by_gateway)) {
        Some(Unstorable::Vary)
    } else {
        None
    }
}

/// Whether `Connection` names a field of the request: it is taken away on the way to the instance, so the answer is to
/// another request than the one whose fields choose the variant.
fn hides_from_instance(request: &HeaderMap) -> bool {
    let named = request.get_all(CONNECTION).iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    named
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .any(|name| request.contains_key(&name) && ![TE, UPGRADE].contains(&name) && name.as_str() != "keep-alive")
}

fn written_by_gateway(name: &HeaderName) -> bool {
    name.as_str().starts_with("x-forwarded-") || WRITTEN_BY_GATEWAY.contains(&name.as_str())
}

/// What `Date`, `Age` and `Expires` say, as lengths of time.
struct Dates {
    age: Duration,
    stated_age: Duration,
    expires_after: Option<Duration>,
    /// From `Last-Modified` to `Date`.
    unchanged_for: Option<Duration>,
}

impl Dates {
    fn of(answer: &HeaderMap, times: Times) -> Self {
        let delay = times.answered.duration_since(times.asked).unwrap_or_default();
        // The first member counts, an invalid one is ignored (RFC 9111 section 5.1).
        let stated = answer.get(AGE).and_then(|age| {
            let first = age.as_bytes().split(|byte| *byte == b',').next().unwrap_or_default();
            parse_seconds(first.trim_ascii()).map(Duration::from_secs)
        });
        let date_of = |name| answer.get(name).and_then(|date| dates::parse(date.as_bytes()));
        let date = date_of(DATE);
        let made = date.unwrap_or(times.answered);
        // A date names a whole second; the answer may have been made at its end.
        let apparent = date
            .and_then(|date| times.answered.duration_since(date).ok())
            .map_or(Duration::ZERO, |past| past.saturating_sub(Duration::from_secs(1)));
        Self {
            age: apparent.max(stated.unwrap_or_default().saturating_add(delay)),
            stated_age: stated.map_or(Duration::ZERO, |age| age.saturating_add(delay)),
            expires_after: expires_after(answer, made),
            unchanged_for: date_of(LAST_MODIFIED).and_then(|modified| made.duration_since(modified).ok()),
        }
    }
}

/// `None` where there is no `Expires`; zero where it is invalid or there are several (RFC 9111 section 5.3).
fn expires_after(answer: &HeaderMap, date: SystemTime) -> Option<Duration> {
    let mut lines = answer.get_all(EXPIRES).iter();
    let first = lines.next()?;
    if lines.any(|line| line != first) {
        return Some(Duration::ZERO);
    }
    let expires = dates::parse(first.as_bytes());
    Some(expires.and_then(|expires| expires.duration_since(date).ok()).unwrap_or_default())
}

#[cfg(test)]
mod tests;
