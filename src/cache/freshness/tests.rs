//! Cases, and a naive model of RFC 9111 that the decision has to agree with.
//! The model is written from the RFC's text, without a look at the code.

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
    decide(StatusCode::from_u16(status).unwrap(), &headers(answer), asked, &rules, times)
        .map(|freshness| freshness.remaining.as_secs())
}

fn ttl(seconds: u64) -> Rules {
    Rules { ttl: Duration::from_secs(seconds), ..Rules::default() }
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
    assert!(Asked::of(&request, true, false).no_store);
    assert!(Asked::of(&request, false, true).authorization);
    assert!(!Asked::of(&request, false, false).authorization);
    assert!(Asked::of(&headers(&[("x-original-url", "/admin")]), false, false).unkeyed);
    let hiding = |connection| {
        let request = headers(&[("accept-language", "fr"), ("keep-alive", "5"), ("connection", connection)]);
        Asked::of(&request, false, false).unkeyed
    };
    assert!(hiding("close, Accept-Language"));
    assert!(!hiding("keep-alive") && !hiding("accept-encoding"));
}

#[test]
fn max_shortens_and_never_lengthens() {
    let rules = Rules { max: Some(Duration::from_secs(10)), ..ttl(30) };
    let check = |answer: &[(&'static str, &str)], wanted| {
        assert_eq!(decide_at(200, answer, Asked::default(), rules.clone()), Ok(wanted))
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
    let freshness = decide(StatusCode::OK, &answer, Asked::default(), &Rules::default(), times).unwrap();
    assert_eq!((freshness.remaining.as_secs(), freshness.age.as_secs()), (46, 14));
}

#[test]
fn a_field_for_shared_caches_stands_before_all_others() {
    let expires = date(100);
    let check = |answer: Lines<'_>, wanted| {
        assert_eq!(decide_at(200, answer, Asked::default(), ttl(0)), wanted, "{answer:?}");
    };
    check(&[("cdn-cache-control", "max-age=60"), ("cache-control", "no-store"), ("expires", &expires)], Ok(60));
    check(&[("cdn-cache-control", "no-store"), ("cache-control", "max-age=60")], Err(Unstorable::NoStore));
    check(&[("cdn-cache-control", "foo"), ("expires", &expires)], Err(Unstorable::Silent));
    check(&[("cdn-cache-control", "max-age='1'"), ("cache-control", "max-age=60")], Ok(60));
}

#[test]
fn a_part_of_the_time_since_it_was_modified() {
    let hour_ago = date(-3600);
    let long_ago = date(-3600 * 24 * 365 * 20);
    let tomorrow = date(3600 * 24);
    let rules = Rules { heuristic_percent: 10, ..ttl(30) };
    let check = |status, answer: Lines<'_>, wanted| {
        assert_eq!(decide_at(status, answer, Asked::default(), rules.clone()), wanted, "{status} {answer:?}");
    };
    check(200, &[("last-modified", &hour_ago)], Ok(360));
    check(200, &[("last-modified", &hour_ago), ("age", "60")], Ok(300));
    check(200, &[("last-modified", &long_ago)], Ok(HEURISTIC_MAX.as_secs()));
    check(200, &[("last-modified", &tomorrow)], Ok(30));
    check(200, &[("last-modified", &hour_ago), ("cache-control", "max-age=5")], Ok(5));
    check(201, &[("last-modified", &hour_ago)], Err(Unstorable::Silent));
    check(599, &[("last-modified", &hour_ago), ("cache-control", "public")], Ok(360));
    let cookie = Asked { cookie: true, ..Asked::default() };
    assert_eq!(decide_at(200, &[("last-modified", &hour_ago)], cookie, rules.clone()), Err(Unstorable::Cookie));
}

#[test]
fn what_the_route_says_against_the_upstream() {
    let always = Rules { always: Some(Duration::from_secs(90)), ..ttl(0) };
    let check = |answer: Lines<'_>, wanted| {
        assert_eq!(decide_at(200, answer, Asked::default(), always.clone()), wanted, "{answer:?}");
    };
    check(&[], Ok(90));
    check(&[("cache-control", "no-cache")], Ok(90));
    check(&[("cache-control", "max-age=5"), ("age", "60")], Ok(90));
    check(&[("cache-control", "no-store")], Err(Unstorable::NoStore));
    check(&[("cache-control", "private")], Err(Unstorable::Private));
    let listed = Rules { statuses: vec![StatusCode::BAD_REQUEST], ..ttl(30) };
    assert_eq!(decide_at(400, &[], Asked::default(), listed.clone()), Ok(30));
    assert_eq!(decide_at(200, &[], Asked::default(), listed), Err(Unstorable::Silent));
    let cookies = Rules { set_cookie: true, ..ttl(30) };
    assert_eq!(decide_at(200, &[("set-cookie", "a=b")], Asked::default(), cookies), Ok(30));
}

#[test]
fn how_long_a_stale_answer_may_be_used() {
    let route = Rules {
        stale_while_revalidate: Duration::from_secs(7),
        stale_if_error: Duration::from_secs(8),
        ..Rules::default()
    };
    let check = |control: &str, wanted: Result<(u64, u64), Unstorable>| {
        let times = Times { asked: at(0), answered: at(0) };
        let answer = headers(&[("cache-control", control)]);
        let windows = decide(StatusCode::OK, &answer, Asked::default(), &route, times)
            .map(|fresh| (fresh.stale_while_revalidate.as_secs(), fresh.stale_if_error.as_secs()));
        assert_eq!(windows, wanted, "{control}");
    };
    check("max-age=60", Ok((7, 8)));
    check("max-age=0", Ok((7, 8)));
    check("max-age=60, stale-while-revalidate=1, stale-if-error=0", Ok((1, 0)));
    check("max-age=60, stale-while-revalidate=x", Ok((0, 8)));
    for forbids in ["must-revalidate", "proxy-revalidate"] {
        check(&format!("max-age=60, {forbids}, stale-if-error=60"), Ok((0, 0)));
    }
    check("s-maxage=60, stale-if-error=60", Ok((0, 0)));
    check("no-cache, stale-if-error=60", Err(Unstorable::Stale));
}

/// An answer as the words it is made of, for the naive model.
#[derive(Clone, Debug)]
struct Story {
    status: u16,
    words: Vec<Word>,
    /// `CDN-Cache-Control`.
    targeted: Vec<Word>,
    expires: Option<i64>,
    date: Option<i64>,
    last_modified: Option<i64>,
    age: Option<u64>,
    etag: bool,
    cookie_set: bool,
    authorization: bool,
    cookie_sent: bool,
    rules: Rules,
}

type Word = (&'static str, Option<u64>);

/// How it may be used.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Use {
    Fresh,
    WhileRevalidating,
    OnError,
}

fn any_words() -> impl Strategy<Value = Vec<Word>> {
    let plain = ["no-store", "private", "no-cache", "public", "must-revalidate", "proxy-revalidate", "must-understand"];
    let plain = proptest::sample::select(plain.to_vec()).prop_map(|word| (word, None));
    let timed = ["max-age", "s-maxage", "stale-while-revalidate", "stale-if-error", "max-age", "unknown"];
    let timed =
        (proptest::sample::select(timed.to_vec()), 0_u64..100).prop_map(|(word, seconds)| (word, Some(seconds)));
    proptest::collection::vec(prop_oneof![plain, timed.clone(), timed], 0..4)
}

fn any_rules() -> impl Strategy<Value = Rules> {
    let spans = (0_u64..60, proptest::option::of(0_u64..60), proptest::option::weighted(0.1, 1_u64..60));
    let windows = (0_u64..60, 0_u64..60);
    let rest = (0_u32..30, any::<bool>(), proptest::option::of(Just(vec![StatusCode::FOUND])));
    (spans, windows, rest).prop_map(|((ttl, max, always), windows, (percent, set_cookie, statuses))| Rules {
        ttl: Duration::from_secs(ttl),
        max: max.map(Duration::from_secs),
        always: always.map(Duration::from_secs),
        heuristic_percent: percent,
        statuses: statuses.unwrap_or_default(),
        set_cookie,
        stale_while_revalidate: Duration::from_secs(windows.0),
        stale_if_error: Duration::from_secs(windows.1),
    })
}

fn any_story() -> impl Strategy<Value = Story> {
    let status = proptest::sample::select(vec![200_u16, 204, 206, 301, 302, 304, 404, 500]);
    let times = (
        proptest::option::of(-100_i64..100),
        proptest::option::of(-100_i64..10),
        proptest::option::of(-500_i64..10),
        proptest::option::of(0_u64..100),
    );
    let rarely = || proptest::bool::weighted(0.2);
    let words = (any_words(), prop_oneof![3 => Just(Vec::new()), 1 => any_words()]);
    (status, words, times, (any::<bool>(), rarely(), rarely(), rarely()), any_rules()).prop_map(
        |(status, (words, targeted), times, flags, rules)| Story {
            status,
            words,
            targeted,
            expires: times.0,
            date: times.1,
            last_modified: times.2,
            age: times.3,
            etag: flags.0,
            cookie_set: flags.1,
            authorization: flags.2,
            cookie_sent: flags.3,
            rules,
        },
    )
}

impl Story {
    /// Of the field that counts (RFC 9213 section 2.2).
    fn words(&self) -> &[Word] {
        if self.targeted.is_empty() { &self.words } else { &self.targeted }
    }

    fn says(&self, word: &str) -> bool {
        self.words().iter().any(|(said, _)| *said == word)
    }

    /// `Some(None)`: there twice with different numbers. In a dictionary the last one counts (RFC 9651 section 3.2).
    fn seconds(&self, word: &str) -> Option<Option<i64>> {
        let said: Vec<u64> =
            self.words().iter().filter(|(name, _)| *name == word).map(|(_, seconds)| seconds.unwrap()).collect();
        let last = said.last()?.cast_signed();
        if self.targeted.is_empty() {
            Some(said.iter().all(|other| other == &said[0]).then_some(last))
        } else {
            Some(Some(last))
        }
    }

    /// May a shared cache have it at all? RFC 9111 section 3.
    fn may_be_stored(&self) -> bool {
        let understood = [200, 204, 301, 404].contains(&self.status);
        let forbidden = if self.says("must-understand") { !understood } else { self.says("no-store") };
        let shared_in_spite_of_authorization =
            self.says("public") || self.says("must-revalidate") || self.seconds("s-maxage").flatten().is_some();
        ![206, 304].contains(&self.status)
            && !forbidden
            && !self.says("private")
            && (self.rules.set_cookie || !self.cookie_set)
            && (!self.authorization || shared_in_spite_of_authorization)
    }

    /// Seconds from now on for which it is fresh, below zero where it has been stale for so long; none where nothing says
    /// how long. RFC 9111 sections 4.2.1 to 4.2.3.
    fn fresh_for(&self) -> Option<i64> {
        let date = self.date.unwrap_or(0);
        let stated_age = self.age.unwrap_or(0).cast_signed();
        let age = (-date - 1).max(0).max(stated_age);
        let expires = self.expires.filter(|_| self.targeted.is_empty());
        let said = self.seconds("s-maxage").or_else(|| self.seconds("max-age")).map(Option::unwrap_or_default);
        let said = said.or_else(|| expires.map(|expires| expires - date));
        if let Some(always) = self.rules.always {
            return Some(always.as_secs().cast_signed());
        }
        if self.says("no-cache") {
            return Some(0);
        }
        if let Some(lifetime) = said {
            return Some(lifetime - age);
        }
        let listed = if self.rules.statuses.is_empty() {
            [200, 204, 301, 404].contains(&self.status)
        } else {
            self.rules.statuses.iter().any(|status| *status == self.status)
        };
        let unchanged_for = self.last_modified.map(|modified| date - modified).filter(|past| *past >= 0);
        if self.cookie_sent {
            return None;
        }
        match unchanged_for {
            Some(past) if self.rules.heuristic_percent > 0 && (listed || self.says("public")) => {
                Some(past * i64::from(self.rules.heuristic_percent) / 100 - age)
            }
            _ if listed && !self.rules.ttl.is_zero() => Some(self.rules.ttl.as_secs().cast_signed() - stated_age),
            _ => None,
        }
    }

    /// How a shared cache may use it without asking, so many seconds after it came. Straight from the RFCs' text.
    fn use_after(&self, seconds: i64) -> Vec<Use> {
        let Some(fresh_for) = self.fresh_for().filter(|_| self.may_be_stored()) else { return Vec::new() };
        let max = self.rules.max.map_or(i64::MAX, |max| max.as_secs().cast_signed());
        let fresh_for = fresh_for.max(0).min(max);
        if seconds < fresh_for {
            return vec![Use::Fresh];
        }
        let revalidates = ["no-cache", "must-revalidate", "proxy-revalidate"].iter().any(|word| self.says(word));
        if self.rules.always.is_none() && (revalidates || self.seconds("s-maxage").is_some()) {
            return Vec::new();
        }
        let windows = [
            (Use::WhileRevalidating, "stale-while-revalidate", self.rules.stale_while_revalidate),
            (Use::OnError, "stale-if-error", self.rules.stale_if_error),
        ];
        let open = windows.into_iter().filter(|(_, word, route)| {
            let said = self.seconds(word).map(Option::unwrap_or_default);
            seconds < fresh_for + said.unwrap_or(route.as_secs().cast_signed())
        });
        open.map(|(how, ..)| how).collect()
    }

    fn headers(&self) -> HeaderMap {
        let mut answer = HeaderMap::new();
        for (field, words) in [("cache-control", &self.words), ("cdn-cache-control", &self.targeted)] {
            for (word, seconds) in words {
                let text = seconds.map_or_else(|| (*word).to_owned(), |seconds| format!("{word}={seconds}"));
                answer.append(field, text.parse().unwrap());
            }
        }
        let mut set = |name: &'static str, value: Option<String>| {
            if let Some(value) = value {
                answer.insert(name, value.parse().unwrap());
            }
        };
        set("expires", self.expires.map(date));
        set("date", self.date.map(date));
        set("last-modified", self.last_modified.map(date));
        set("age", self.age.map(|age| age.to_string()));
        set("etag", self.etag.then(|| "\"1\"".to_owned()));
        set("set-cookie", self.cookie_set.then(|| "a=b".to_owned()));
        answer
    }
}

fn uses(freshness: Freshness, seconds: i64) -> Vec<Use> {
    let after = Duration::from_secs(seconds.unsigned_abs());
    if after < freshness.remaining {
        return vec![Use::Fresh];
    }
    let windows =
        [(Use::WhileRevalidating, freshness.stale_while_revalidate), (Use::OnError, freshness.stale_if_error)];
    windows.into_iter().filter(|(_, window)| after < freshness.remaining + *window).map(|(how, _)| how).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16_384))]
    #[test]
    fn agrees_with_a_naive_reading_of_the_rfc(story in any_story()) {
        let asked = Asked { authorization: story.authorization, cookie: story.cookie_sent, ..Asked::default() };
        let times = Times { asked: at(0), answered: at(0) };
        let status = StatusCode::from_u16(story.status).unwrap();
        let decision = decide(status, &story.headers(), asked, &story.rules, times);
        for seconds in [0, 1, 5, 20, 50, 99, 150, 250] {
            let used = decision.map_or(Vec::new(), |freshness| uses(freshness, seconds));
            prop_assert_eq!(&used, &story.use_after(seconds), "after {} s: {:?}", seconds, decision);
        }
    }
}
