//! Whether an answer may be stored by a shared cache, and for how long it is fresh: RFC 9111 sections 3, 4.2 and 5.
//! Pure: headers and times in, a decision out. Where the RFC leaves a choice, the one that serves less is taken.
//! What the upstream allows is never exceeded, and not shortened unless the route's `max` says so;
//! the route's `ttl` counts only where the upstream says nothing about freshness.

use std::time::{Duration, SystemTime};

use http::header::{
    AGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION, COOKIE, DATE, ETAG, EXPIRES, LAST_MODIFIED, SET_COOKIE, TE, UPGRADE,
};
use http::{HeaderMap, HeaderName, StatusCode};

use super::cache_control::{Directives, Seconds, names, parse_seconds};
use super::vary;

/// Statuses that the route's `ttl` may make fresh: "heuristically cacheable", RFC 9110 section 15.1, without 206.
const TTL_STATUSES: [u16; 11] = [200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501];

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
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// Freshness where the upstream says nothing about it.
    pub ttl: Duration,
    /// Never fresh for longer than this, counted from when the answer came.
    pub max: Option<Duration>,
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
}

impl Unstorable {
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
        }
    }
}

impl Asked {
    /// Reads the client's request.
    pub fn of(request: &HeaderMap, authorization_reaches_instance: bool) -> Self {
        Self {
            no_store: request.get_all(CACHE_CONTROL).iter().any(|line| names(line.as_bytes(), b"no-store")),
            authorization: authorization_reaches_instance && request.contains_key(AUTHORIZATION),
            cookie: request.contains_key(COOKIE),
            unkeyed: UNKEYED.iter().any(|name| request.contains_key(*name)) || hides_from_instance(request),
        }
    }
}

/// Whether the answer may be stored, and how long it is fresh.
pub fn decide(
    status: StatusCode,
    answer: &HeaderMap,
    asked: Asked,
    rules: Rules,
    times: Times,
) -> Result<Freshness, Unstorable> {
    let directives = Directives::of(answer);
    forbidden(status, answer, asked, directives).map_or(Ok(()), Err)?;
    let dates = Dates::of(answer, times);
    let lifetime = match (directives.s_maxage, directives.max_age) {
        (Seconds::Said(seconds), _) | (Seconds::Unsaid, Seconds::Said(seconds)) => Some(Duration::from_secs(seconds)),
        (Seconds::Invalid, _) | (Seconds::Unsaid, Seconds::Invalid) => Some(Duration::ZERO),
        (Seconds::Unsaid, Seconds::Unsaid) => dates.expires_after,
    };
    let mut remaining = match lifetime {
        _ if directives.no_cache => Duration::ZERO,
        Some(lifetime) => lifetime.saturating_sub(dates.age),
        None if rules.ttl.is_zero() || !TTL_STATUSES.contains(&status.as_u16()) => return Err(Unstorable::Silent),
        None if asked.cookie => return Err(Unstorable::Cookie),
        // The upstream promised nothing that its clock could shorten; only an age that it states counts.
        None => rules.ttl.saturating_sub(dates.stated_age),
    };
    if let Some(max) = rules.max {
        remaining = remaining.min(max);
    }
    let confirmable = status == StatusCode::OK && (answer.contains_key(ETAG) || answer.contains_key(LAST_MODIFIED));
    if remaining.is_zero() && !confirmable {
        return Err(Unstorable::Stale);
    }
    Ok(Freshness { remaining, age: dates.age })
}

fn forbidden(status: StatusCode, answer: &HeaderMap, asked: Asked, directives: Directives) -> Option<Unstorable> {
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
    } else if directives.no_store {
        Some(Unstorable::NoStore)
    } else if directives.private {
        Some(Unstorable::Private)
    } else if answer.contains_key(SET_COOKIE) {
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
}

impl Dates {
    fn of(answer: &HeaderMap, times: Times) -> Self {
        let delay = times.answered.duration_since(times.asked).unwrap_or_default();
        // The first member counts, an invalid one is ignored (RFC 9111 section 5.1).
        let stated = answer.get(AGE).and_then(|age| {
            let first = age.as_bytes().split(|byte| *byte == b',').next().unwrap_or_default();
            parse_seconds(first.trim_ascii()).map(Duration::from_secs)
        });
        let date = answer.get(DATE).and_then(|date| parse_date(date.as_bytes()));
        // A date names a whole second; the answer may have been made at its end.
        let apparent = date
            .and_then(|date| times.answered.duration_since(date).ok())
            .map_or(Duration::ZERO, |past| past.saturating_sub(Duration::from_secs(1)));
        Self {
            age: apparent.max(stated.unwrap_or_default().saturating_add(delay)),
            stated_age: stated.map_or(Duration::ZERO, |age| age.saturating_add(delay)),
            expires_after: expires_after(answer, date.unwrap_or(times.answered)),
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
    let expires = parse_date(first.as_bytes());
    Some(expires.and_then(|expires| expires.duration_since(date).ok()).unwrap_or_default())
}

fn parse_date(value: &[u8]) -> Option<SystemTime> {
    httpdate::parse_http_date(std::str::from_utf8(value).ok()?.trim()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Lines<'a> = &'a [(&'static str, &'a str)];

    const NOW: u64 = 1_800_000_000;

    fn at(seconds: i64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(NOW.checked_add_signed(seconds).unwrap())
    }

    fn date(seconds: i64) -> String {
        httpdate::fmt_http_date(at(seconds))
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn decide_at(status: u16, answer: &[(&'static str, &str)], asked: Asked, rules: Rules) -> Result<u64, Unstorable> {
        let times = Times { asked: at(0), answered: at(0) };
        decide(StatusCode::from_u16(status).unwrap(), &headers(answer), asked, rules, times)
            .map(|freshness| freshness.remaining.as_secs())
    }

    fn ttl(seconds: u64) -> Rules {
        Rules { ttl: Duration::from_secs(seconds), max: None }
    }

    #[test]
    fn what_the_upstream_says_about_freshness() {
        let past_date = date(-10);
        let expires = date(100);
        let past = date(-100);
        let cases: &[(Lines<'_>, Result<u64, Unstorable>)] = &[
            (&[], Ok(30)),
            (&[("cache-control", "public")], Ok(30)),
            (&[("cache-control", "max-age=60")], Ok(60)),
            (&[("cache-control", "max-age=60, s-maxage=10")], Ok(10)),
            (&[("cache-control", "max-age=60, s-maxage=x")], Err(Unstorable::Stale)),
            (&[("cache-control", "max-age=60"), ("age", "20")], Ok(40)),
            (&[("cache-control", "max-age=60"), ("age", "20, 50")], Ok(40)),
            (&[("cache-control", "max-age=60"), ("age", "x")], Ok(60)),
            (&[("cache-control", "max-age=60"), ("age", "60")], Err(Unstorable::Stale)),
            (&[("cache-control", "max-age=60"), ("date", &past_date)], Ok(51)),
            (&[("cache-control", "max-age=60"), ("date", &past_date), ("age", "30")], Ok(30)),
            (&[("expires", &expires)], Ok(100)),
            (&[("expires", &expires), ("date", &past_date)], Ok(101)),
            (&[("expires", &expires), ("cache-control", "max-age=5")], Ok(5)),
            (&[("expires", "0")], Err(Unstorable::Stale)),
            (&[("expires", &past)], Err(Unstorable::Stale)),
            (&[("expires", &expires), ("expires", &past)], Err(Unstorable::Stale)),
            (&[("cache-control", "max-age=0")], Err(Unstorable::Stale)),
            (&[("cache-control", "max-age=0"), ("etag", "\"1\"")], Ok(0)),
            (&[("cache-control", "no-cache"), ("last-modified", &past)], Ok(0)),
            (&[("cache-control", "no-cache, max-age=60")], Err(Unstorable::Stale)),
            (&[("pragma", "no-cache")], Err(Unstorable::Stale)),
            (&[("age", "10")], Ok(20)),
            (&[("date", &past)], Ok(30)),
        ];
        for (answer, wanted) in cases {
            assert_eq!(decide_at(200, answer, Asked::default(), ttl(30)), *wanted, "{answer:?}");
        }
    }

    #[test]
    fn what_is_never_stored() {
        let fresh = ("cache-control", "max-age=60");
        let cases: &[(u16, Lines<'_>, Unstorable)] = &[
            (200, &[("cache-control", "no-store, max-age=60")], Unstorable::NoStore),
            (200, &[("cache-control", "private, max-age=60")], Unstorable::Private),
            (200, &[("cache-control", "private=\"x\", max-age=60")], Unstorable::Private),
            (200, &[fresh, ("set-cookie", "a=b")], Unstorable::SetCookie),
            (200, &[fresh, ("vary", "*")], Unstorable::Vary),
            (200, &[fresh, ("vary", "accept, X-Forwarded-For")], Unstorable::Vary),
            (200, &[fresh, ("vary", "x-consumer")], Unstorable::Vary),
            (206, &[fresh], Unstorable::Status),
            (304, &[fresh], Unstorable::Status),
            (101, &[fresh], Unstorable::Status),
            (500, &[("cache-control", "max-age=60, must-understand")], Unstorable::Status),
            (500, &[], Unstorable::Silent),
            (302, &[("cache-control", "public")], Unstorable::Silent),
        ];
        for (status, answer, wanted) in cases {
            assert_eq!(decide_at(*status, answer, Asked::default(), ttl(30)), Err(*wanted), "{status} {answer:?}");
        }
        for status in [200, 302, 404, 500, 599] {
            assert_eq!(decide_at(status, &[fresh], Asked::default(), ttl(0)), Ok(60), "{status}");
        }
        assert_eq!(decide_at(200, &[], Asked::default(), ttl(0)), Err(Unstorable::Silent));
    }

    #[test]
    fn what_the_request_forbids() {
        let authorized = Asked { authorization: true, ..Asked::default() };
        let check =
            |control, wanted| assert_eq!(decide_at(200, &[("cache-control", control)], authorized, ttl(30)), wanted);
        check("max-age=60", Err(Unstorable::Authorization));
        check("proxy-revalidate, max-age=60", Err(Unstorable::Authorization));
        check("max-age=60, s-maxage=x", Err(Unstorable::Authorization));
        check("public, max-age=60", Ok(60));
        check("must-revalidate, max-age=60", Ok(60));
        check("s-maxage=60", Ok(60));
        let cookie = Asked { cookie: true, ..Asked::default() };
        assert_eq!(decide_at(200, &[], cookie, ttl(30)), Err(Unstorable::Cookie));
        assert_eq!(decide_at(200, &[("cache-control", "max-age=60")], cookie, ttl(30)), Ok(60));
        let request = headers(&[("cache-control", "max-age=0, No-Store"), ("authorization", "Basic x")]);
        assert!(Asked::of(&request, true).no_store);
        assert!(Asked::of(&request, true).authorization);
        assert!(!Asked::of(&request, false).authorization);
        assert!(Asked::of(&headers(&[("x-original-url", "/admin")]), false).unkeyed);
        let hiding = |connection| {
            let request = headers(&[("accept-language", "fr"), ("keep-alive", "5"), ("connection", connection)]);
            Asked::of(&request, false).unkeyed
        };
        assert!(hiding("close, Accept-Language"));
        assert!(!hiding("keep-alive") && !hiding("accept-encoding"));
    }

    #[test]
    fn max_shortens_and_never_lengthens() {
        let rules = Rules { ttl: Duration::from_secs(30), max: Some(Duration::from_secs(10)) };
        let check = |answer: &[(&'static str, &str)], wanted| {
            assert_eq!(decide_at(200, answer, Asked::default(), rules), Ok(wanted))
        };
        check(&[("cache-control", "max-age=60")], 10);
        check(&[("cache-control", "max-age=60"), ("age", "45")], 10);
        check(&[("cache-control", "max-age=5")], 5);
        check(&[], 10);
    }

    #[test]
    fn the_time_an_answer_took_counts_as_age() {
        let times = Times { asked: at(-4), answered: at(0) };
        let answer = headers(&[("cache-control", "max-age=60"), ("age", "10")]);
        let freshness = decide(StatusCode::OK, &answer, Asked::default(), Rules::default(), times).unwrap();
        assert_eq!((freshness.remaining.as_secs(), freshness.age.as_secs()), (46, 14));
    }

    /// An answer as the words it is made of, for the naive model.
    #[derive(Clone, Debug)]
    struct Story {
        status: u16,
        words: Vec<(&'static str, Option<u64>)>,
        expires: Option<i64>,
        date: Option<i64>,
        age: Option<u64>,
        etag: bool,
        cookie_set: bool,
        authorization: bool,
        ttl: u64,
        max: Option<u64>,
    }

    fn any_story() -> impl Strategy<Value = Story> {
        let word = prop_oneof![
            Just(("no-store", None)),
            Just(("private", None)),
            Just(("no-cache", None)),
            Just(("public", None)),
            Just(("must-revalidate", None)),
            Just(("immutable", None)),
            (0_u64..100).prop_map(|seconds| ("max-age", Some(seconds))),
            (0_u64..100).prop_map(|seconds| ("s-maxage", Some(seconds))),
        ];
        let status = proptest::sample::select(vec![200_u16, 204, 206, 301, 302, 304, 404, 500]);
        let times =
            (proptest::option::of(-100_i64..100), proptest::option::of(-100_i64..10), proptest::option::of(0_u64..100));
        let flags = (any::<bool>(), proptest::bool::weighted(0.1), proptest::bool::weighted(0.3));
        let rules = (0_u64..60, proptest::option::of(0_u64..60));
        (status, proptest::collection::vec(word, 0..4), times, flags, rules).prop_map(
            |(status, words, (expires, date, age), (etag, cookie_set, authorization), (ttl, max))| Story {
                status,
                words,
                expires,
                date,
                age,
                etag,
                cookie_set,
                authorization,
                ttl,
                max,
            },
        )
    }

    impl Story {
        fn says(&self, word: &str) -> bool {
            self.words.iter().any(|(said, _)| *said == word)
        }

        /// `Some(None)`: there twice with different numbers.
        fn seconds(&self, word: &str) -> Option<Option<u64>> {
            let mut said = self.words.iter().filter(|(name, _)| *name == word).map(|(_, seconds)| seconds.unwrap());
            let first = said.next()?;
            Some(said.all(|other| other == first).then_some(first))
        }

        /// May a shared cache use it without asking, so many seconds after it came? Straight from the RFC's text.
        fn usable_after(&self, seconds: u64) -> bool {
            let may_store = !matches!(self.status, 206 | 304)
                && !self.says("no-store")
                && !self.says("private")
                && !self.cookie_set
                && (!self.authorization
                    || self.says("public")
                    || self.says("must-revalidate")
                    || self.seconds("s-maxage").flatten().is_some());
            if !may_store || self.says("no-cache") || self.max.is_some_and(|max| seconds >= max) {
                return false;
            }
            let date = self.date.unwrap_or(0);
            let apparent_age = (-date - 1).max(0);
            let initial_age = apparent_age.max(self.age.map_or(0, |age| age as i64));
            let current_age = initial_age + seconds as i64;
            if let Some(shared) = self.seconds("s-maxage") {
                shared.is_some_and(|lifetime| lifetime as i64 > current_age)
            } else if let Some(all) = self.seconds("max-age") {
                all.is_some_and(|lifetime| lifetime as i64 > current_age)
            } else if let Some(expires) = self.expires {
                expires - date > current_age
            } else {
                let listed = matches!(self.status, 200 | 204 | 301 | 404);
                listed && self.ttl > self.age.unwrap_or(0) + seconds
            }
        }

        fn headers(&self) -> HeaderMap {
            let mut answer = HeaderMap::new();
            for (word, seconds) in &self.words {
                let text = seconds.map_or_else(|| (*word).to_owned(), |seconds| format!("{word}={seconds}"));
                answer.append(CACHE_CONTROL, text.parse().unwrap());
            }
            let mut set = |name: &'static str, value: Option<String>| {
                if let Some(value) = value {
                    answer.insert(name, value.parse().unwrap());
                }
            };
            set("expires", self.expires.map(date));
            set("date", self.date.map(date));
            set("age", self.age.map(|age| age.to_string()));
            set("etag", self.etag.then(|| "\"1\"".to_owned()));
            set("set-cookie", self.cookie_set.then(|| "a=b".to_owned()));
            answer
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn agrees_with_a_naive_reading_of_the_rfc(story in any_story()) {
            let asked = Asked { authorization: story.authorization, ..Asked::default() };
            let rules = Rules { ttl: Duration::from_secs(story.ttl), max: story.max.map(Duration::from_secs) };
            let times = Times { asked: at(0), answered: at(0) };
            let status = StatusCode::from_u16(story.status).unwrap();
            let decision = decide(status, &story.headers(), asked, rules, times);
            for seconds in [0, 1, 5, 20, 50, 99, 150, 250] {
                let used = decision.is_ok_and(|freshness| freshness.remaining > Duration::from_secs(seconds));
                prop_assert_eq!(used, story.usable_after(seconds), "after {} s: {:?}", seconds, decision);
            }
        }
    }
}
