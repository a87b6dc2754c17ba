//! How often: `100/min per key`, `10/s burst 100`, and the long form of a limit.
//! What a rate means while counting is in `policy/limit.rs`.

use std::fmt;

use schemars::JsonSchema;
use serde::de::value::MapAccessDeserializer;
use serde::{Deserialize, Deserializer, Serialize, de};

use super::limits::{LimitStore, Zone};
use super::problems::did_you_mean;
use super::short_forms::OneOrMany;
use super::text::text_form;
use super::units::{Span, split};

/// `routes.X.limit[]`; the short form is `COUNT/WINDOW [burst N] [per WHAT [and WHAT]]`.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields, transform = short_form_of_a_limit)]
pub struct Limit {
    /// Requests per window, with a burst for a token bucket: `100/min`, `10/s burst 100`.
    pub rate: Rate,
    /// What is counted together.
    #[schemars(default = "Per::defaults", with = "OneOrMany<Per>")]
    pub per: Vec<Per>,
    /// A request header each of whose values counts by itself, as part of `per`; without it the address counts.
    #[schemars(default, with = "Option<String>")]
    #[serde(serialize_with = "header_name")]
    pub header: Option<http::HeaderName>,
    /// The policy's name in `RateLimit`, log and metrics; made of dimension and window when left out.
    #[schemars(default)]
    pub name: Option<String>,
    /// What one request takes from the limit.
    #[schemars(default = "Limit::default_cost")]
    pub cost: u32,
    /// Whether the limit refuses, or only counts and logs.
    #[schemars(default)]
    pub mode: Mode,
    /// `sliding_window`, or `token_bucket` with a burst, or `day` and `month` by the calendar; `fixed_window` only when asked for.
    #[schemars(default)]
    pub algorithm: Option<Algorithm>,
    /// The time zone of `day`, `month` and `fixed_window`; UTC when left out.
    #[schemars(default)]
    pub zone: Option<Zone>,
    /// Where it is counted; in this process when left out.
    #[schemars(default)]
    pub store: Option<LimitStore>,
}

/// Requests per window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests, at least 1.
    pub count: u32,
    /// In how long.
    pub window: Window,
    /// Tokens of a token bucket; none for a window.
    pub burst: Option<u32>,
}

/// The window of a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// The last so much time: `s`, `10s`, `min`, `5min`, `h`, `24h`.
    Rolling(Span),
    /// The calendar day in the limit's zone.
    Day,
    /// The calendar month in the limit's zone.
    Month,
}

/// What is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// The client's address; an IPv6 /64 counts as one.
    Ip,
    /// The key; without one, the address.
    Key,
    /// The consumer; without one, the address.
    Consumer,
    /// Every request of the route.
    Route,
    /// Every request of the route's service.
    Service,
    /// Every request.
    All,
}

/// `mode`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Refuses what is over the limit.
    #[default]
    Enforce,
    /// Counts and logs what would have been refused.
    Observe,
}

/// `algorithm`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// Never more than the count in any window.
    SlidingWindow,
    /// A burst, filled again at the rate (GCRA).
    TokenBucket,
    /// Windows that begin at multiples of their length, or by the calendar.
    FixedWindow,
    /// A sliding window that remembers every request by itself; only in `limits.store`.
    SlidingLog,
}

impl Limit {
    /// The algorithm that holds: the written one, or what the rate implies.
    pub fn algorithm(&self) -> Algorithm {
        match (self.algorithm, self.rate.burst, self.rate.window) {
            (Some(algorithm), ..) => algorithm,
            (None, Some(_), _) => Algorithm::TokenBucket,
            (None, None, Window::Day | Window::Month) => Algorithm::FixedWindow,
            (None, None, Window::Rolling(_)) => Algorithm::SlidingWindow,
        }
    }
    const fn default_cost() -> u32 {
        1
    }

    /// The name in `RateLimit`, log and metrics: the written one, or what is counted together and the window: `consumer-60s`,
    /// `ip-key-10s`, `consumer-day`. In a plan with the plan's name before it, since a route's limits count beside it.
    pub fn policy_name(&self, plan: Option<&str>) -> String {
        if let Some(name) = &self.name {
            return name.clone();
        }
        let mut name = plan.map(|plan| format!("{plan}-")).unwrap_or_default();
        for what in self.per.iter().map(|per| per.word()).chain(self.header.as_ref().map(http::HeaderName::as_str)) {
            name.push_str(what);
            name.push('-');
        }
        match self.rate.window {
            Window::Rolling(span) if span.0.subsec_millis() > 0 => name + &format!("{}ms", span.0.as_millis()),
            Window::Rolling(span) => name + &format!("{}s", span.0.as_secs()),
            Window::Day => name + "day",
            Window::Month => name + "month",
        }
    }

    /// A limit of this rate, everything else as it is when left out.
    pub fn of(rate: Rate, per: Vec<Per>) -> Self {
        Self {
            rate,
            per,
            header: None,
            name: None,
            cost: Self::default_cost(),
            mode: Mode::default(),
            algorithm: None,
            zone: None,
            store: None,
        }
    }
}

fn header_name<S: serde::Serializer>(name: &Option<http::HeaderName>, serializer: S) -> Result<S::Ok, S::Error> {
    name.as_ref().map(http::HeaderName::as_str).serialize(serializer)
}

impl Per {
    /// By consumer.
    pub(super) fn defaults() -> Vec<Self> {
        vec![Self::Consumer]
    }
}

text_form!(Rate, "a rate such as `100/min`, `10/10s` or `10/s burst 100`", "");

const WINDOWS: &str = "s, min, h (with a number before it: 10s, 5min), day or month";
const WINDOW_MAX_SECONDS: u64 = 31 * 86_400;

impl Rate {
    /// Reads `100/min` and `10/s burst 100`.
    ///
    /// # Errors
    /// What is wrong with the text, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        match parse(text)? {
            (rate, None) => Ok(rate),
            (_, Some(_)) => Err(format!("`{text}`: `per` does not belong here")),
        }
    }
}

impl Limit {
    /// Reads the short form, `COUNT/WINDOW [burst N] [per WHAT [and WHAT]]`.
    ///
    /// # Errors
    /// What is wrong with the text, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (rate, per) = parse(text)?;
        let per = per.unwrap_or_else(Per::defaults);
        Ok(Self::of(rate, per))
    }
}

/// Reads a rate, and `per` where it is written.
///
/// # Errors
/// What is wrong with the text, and what would be right.
pub fn parse(text: &str) -> Result<(Rate, Option<Vec<Per>>), String> {
    let mut words = text.split_whitespace();
    let first = words.next().unwrap_or_default();
    let Some((count, window)) = first.split_once('/') else {
        return Err(match first.parse::<u64>() {
            Ok(count) => format!("`{text}` has no window: write {count}/s, {count}/min or {count}/h"),
            Err(_) if first.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                format!("`{text}` is no rate such as 100/min, and no name of a limit")
            }
            Err(_) => format!("`{text}` is no rate: write COUNT/WINDOW, such as 100/min or 10/10s"),
        });
    };
    let count = whole(count)
        .ok_or_else(|| format!("`{text}`: `{count}` is no count: write a whole number from 1, such as 100/min"))?;
    let window = Window::parse(window)?;
    let (mut burst, mut per) = (None, None);
    while let Some(word) = words.next() {
        match word {
            "burst" if burst.is_none() && per.is_none() => {
                let number = words.next().unwrap_or_default();
                burst =
                    Some(whole(number).ok_or_else(|| format!("`{text}`: after `burst` comes a whole number from 1"))?);
            }
            "per" if per.is_none() => per = Some(Per::parse_list(&mut words)?),
            _ => {
                return Err(format!(
                    "`{text}`: `{word}` is not understood: write COUNT/WINDOW [burst N] [per WHAT [and WHAT]]"
                ));
            }
        }
    }
    if burst.is_some() && !matches!(window, Window::Rolling(_)) {
        return Err(format!("`{text}`: a burst goes with windows of s, min or h, not with the calendar"));
    }
    Ok((Rate { count, window, burst }, per))
}

fn whole(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number > 0)
}

impl Window {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = |hint: String| Err(format!("`{text}` is no window: {hint}"));
        let (number, unit) = split(text);
        let seconds = match unit {
            "s" => 1,
            "min" => 60,
            "h" => 3_600,
            "day" if number.is_empty() => return Ok(Self::Day),
            "month" if number.is_empty() => return Ok(Self::Month),
            "day" | "month" => return wrong(format!("calendar windows have no number; {WINDOWS}")),
            "d" | "days" => return wrong("write 24h for any 24 hours, or day for the calendar's".to_owned()),
            "m" => return wrong(format!("`m` may be minutes or months: write {number}min or month")),
            "ms" => return wrong("the shortest is 1s".to_owned()),
            "sec" | "second" | "seconds" => return wrong(format!("write {number}s")),
            "minute" | "minutes" | "mins" => return wrong(format!("write {number}min")),
            "hour" | "hours" | "hr" => return wrong(format!("write {number}h")),
            _ => return wrong(format!("write {WINDOWS}")),
        };
        let number = if number.is_empty() { Some(1) } else { number.parse::<u64>().ok() };
        match number.and_then(|number| number.checked_mul(seconds)) {
            Some(0) => wrong("the shortest is 1s".to_owned()),
            Some(seconds) if seconds <= WINDOW_MAX_SECONDS => Ok(Self::Rolling(Span::seconds(seconds))),
            _ => wrong("the longest is 744h".to_owned()),
        }
    }
}

impl Per {
    const WORDS: [(&'static str, Self); 6] = [
        ("ip", Self::Ip),
        ("key", Self::Key),
        ("consumer", Self::Consumer),
        ("route", Self::Route),
        ("service", Self::Service),
        ("all", Self::All),
    ];

    /// The word for it in the file.
    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, per)| *per == self).map_or("", |(word, _)| word)
    }

    fn parse(text: &str) -> Result<Self, String> {
        Self::WORDS.iter().find(|(word, _)| *word == text).map(|(_, per)| *per).ok_or_else(|| {
            let hint = did_you_mean(text, Self::WORDS.iter().map(|(word, _)| *word));
            format!("`{text}` is nothing to count by{hint}: ip, key, consumer, route, service or all")
        })
    }

    /// `WHAT [and WHAT]`, to the end.
    pub(super) fn parse_list<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<Vec<Self>, String> {
        let mut list = vec![Self::parse(words.next().unwrap_or_default())?];
        while let Some(word) = words.next() {
            if word != "and" {
                return Err(format!(
                    "`{word}` is not understood after `per {}`: write `and` between two",
                    list[list.len() - 1].word()
                ));
            }
            list.push(Self::parse(words.next().unwrap_or_default())?);
        }
        Ok(list)
    }
}

impl fmt::Display for Window {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Day => out.write_str("day"),
            Self::Month => out.write_str("month"),
            Self::Rolling(span) => {
                let seconds = span.0.as_secs();
                let (number, unit) = match seconds {
                    seconds if seconds % 3_600 == 0 => (seconds / 3_600, "h"),
                    seconds if seconds % 60 == 0 => (seconds / 60, "min"),
                    seconds => (seconds, "s"),
                };
                if number == 1 { out.write_str(unit) } else { write!(out, "{number}{unit}") }
            }
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.count, self.window)?;
        self.burst.map_or(Ok(()), |burst| write!(out, " burst {burst}"))
    }
}

/// A rate that may carry its `per`: `100/min per key`.
struct RateText(Rate, Option<Vec<Per>>);

impl<'de> Deserialize<'de> for RateText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = RateText;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a rate such as `100/min`")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<RateText, E> {
                parse(text).map(|(rate, per)| RateText(rate, per)).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// The long form as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename = "Limit")]
struct LongForm {
    rate: RateText,
    #[serde(default)]
    per: Option<OneOrMany<Per>>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default = "Limit::default_cost")]
    cost: u32,
    #[serde(default)]
    mode: Mode,
    #[serde(default)]
    algorithm: Option<Algorithm>,
    #[serde(default)]
    header: Option<String>,
    #[serde(default)]
    zone: Option<Zone>,
    #[serde(default)]
    store: Option<LimitStore>,
}

impl LongForm {
    fn limit(self) -> Result<Limit, String> {
        let header = self.header.map(|name| match name.parse::<http::HeaderName>() {
            Ok(header) => Ok(header),
            Err(_) => Err(format!("`{name}` is no header name")),
        });
        let header = header.transpose()?;
        let per = match (self.rate.1, self.per) {
            (Some(_), Some(_)) => return Err("`per` is written twice, in `rate` and beside it".to_owned()),
            (Some(per), None) => per,
            (None, Some(OneOrMany(per))) => per,
            // The header alone says who is counted together.
            (None, None) if header.is_some() => Vec::new(),
            (None, None) => Per::defaults(),
        };
        Ok(Limit {
            rate: self.rate.0,
            per,
            header,
            name: self.name,
            cost: self.cost,
            mode: self.mode,
            algorithm: self.algorithm,
            zone: self.zone,
            store: self.store,
        })
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Limit;
            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a limit such as `100/min per key`, or a map with `rate`")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Limit, E> {
                Limit::parse(text).map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Limit, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Limit, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Limit, A::Error> {
                LongForm::deserialize(MapAccessDeserializer::new(map))?.limit().map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

fn short_form_of_a_limit(schema: &mut schemars::Schema) {
    super::short_forms::or_text(schema, "COUNT/WINDOW [burst N] [per WHAT [and WHAT]], e.g. `100/min per key`");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(text: &str) -> String {
        match Limit::parse(text) {
            Ok(limit) => {
                let per: Vec<&str> = limit.per.iter().map(|per| per.word()).collect();
                format!("{} per {}", limit.rate, per.join(" and "))
            }
            Err(error) => error,
        }
    }

    #[test]
    fn short_forms_say_what_they_mean() {
        assert_eq!(limit("100/min"), "100/min per consumer");
        assert_eq!(limit("10/10s per ip"), "10/10s per ip");
        assert_eq!(limit("10/s burst 100 per key and route"), "10/s burst 100 per key and route");
        assert_eq!(limit("5/60min"), "5/h per consumer");
        assert_eq!(limit("1000000/month per consumer"), "1000000/month per consumer");
        assert_eq!(limit("1/24h"), "1/24h per consumer");
    }

    #[test]
    fn mistakes_are_answered_with_the_right_form() {
        for (text, part) in [
            ("100", "has no window"),
            ("100/m", "min or month"),
            ("100/minute", "write min"),
            ("0/min", "from 1"),
            ("-5/min", "from 1"),
            ("10/0s", "the shortest is 1s"),
            ("10/100ms", "the shortest is 1s"),
            ("10/2d", "24h"),
            ("10/3day", "no number"),
            ("10/1000h", "744h"),
            ("10/s burst", "after `burst`"),
            ("10/day burst 5", "calendar"),
            ("10/s per", "nothing to count by"),
            ("10/s per consumr", "did you mean `consumer`"),
            ("10/s per key route", "write `and`"),
            ("10/s brust 5", "not understood"),
            ("api", "no name of a limit"),
            ("", "is no rate"),
        ] {
            assert!(limit(text).contains(part), "{text}: {}", limit(text));
        }
    }

    #[test]
    fn names_are_made_of_dimension_and_window() {
        for (text, plan, expected) in [
            ("1/min", None, "consumer-60s"),
            ("1/10s per ip", None, "ip-10s"),
            ("1/s burst 5 per ip and key", None, "ip-key-1s"),
            ("1/day", None, "consumer-day"),
            ("1/month per all", Some("gold"), "gold-all-month"),
        ] {
            assert_eq!(Limit::parse(text).unwrap().policy_name(plan), expected);
        }
        let limit = Limit::parse("1/min per ip").unwrap();
        let header =
            Limit { header: Some(http::HeaderName::from_static("x-tenant")), per: Vec::new(), ..limit.clone() };
        assert_eq!(header.policy_name(None), "x-tenant-60s");
        assert_eq!(Limit { name: Some("users".into()), ..limit }.policy_name(Some("gold")), "users");
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read_again(count in 1u32.., seconds in 1u64..WINDOW_MAX_SECONDS, burst in proptest::option::of(1u32..)) {
            let rate = Rate { count, window: Window::Rolling(Span::seconds(seconds)), burst };
            proptest::prop_assert_eq!(Rate::parse(&rate.to_string()), Ok(rate));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = Limit::parse(&text);
        }
    }
}
