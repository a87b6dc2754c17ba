//! Windows of time: half-open, from an instant to another, either end may be missing. What people write is read in a zone
//! that is named, UTC unless said otherwise; a time that exists twice or never in that zone is refused.
//! Not here: to which minutes a window is widened (`usage/plan.rs`).

use std::ops::Range;

use jiff::civil::DateTime;
use jiff::fmt::temporal::Pieces;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::parameters::Parameters;
use crate::store::usage::Minute;

/// Windows that end now, unless one is named.
const LAST: &str = "24h";

/// The zone in which times are read and shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone {
    zone: TimeZone,
    name: String,
}

impl Default for Zone {
    fn default() -> Self {
        Self { zone: TimeZone::UTC, name: "UTC".to_owned() }
    }
}

impl Zone {
    /// A zone of the IANA database, such as `Europe/Berlin`.
    fn named(name: &str) -> Result<Self, String> {
        if name.eq_ignore_ascii_case("utc") {
            return Ok(Self::default());
        }
        let zone = TimeZone::get(name).map_err(|_| {
            format!("`{name}` is no time zone of this machine's database; write one such as Europe/Berlin")
        })?;
        Ok(Self { zone, name: name.to_owned() })
    }

    /// As it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether its days are the days of the roll-ups.
    pub fn is_utc(&self) -> bool {
        self.zone == TimeZone::UTC
    }

    fn civil(&self, time: Timestamp) -> DateTime {
        self.zone.to_datetime(time)
    }

    /// Whether every hour of the clock there begins with an hour of UTC, everywhere in this window.
    pub(super) fn has_whole_hours(&self, window: &Range<Minute>) -> bool {
        let (start, end) = (timestamp(window.start), timestamp(window.end));
        let changes = self.zone.following(start).take_while(|change| change.timestamp() < end);
        let offsets = [self.zone.to_offset(start)].into_iter().chain(changes.map(|change| change.offset()));
        offsets.into_iter().all(|offset| offset.seconds() % 3_600 == 0)
    }

    /// The day a minute lies in, as days since the year 1970.
    pub(super) fn day(&self, minute: Minute) -> u32 {
        let date = self.civil(timestamp(minute)).date();
        let days = date.since(jiff::civil::date(1970, 1, 1)).map(|span| span.get_days()).unwrap_or_default();
        u32::try_from(days).unwrap_or_default()
    }

    /// A day as people write it.
    pub(super) fn date(day: u32) -> String {
        let date = jiff::civil::date(1970, 1, 1).checked_add(jiff::Span::new().days(i64::from(day)));
        date.map_or_else(|_| day.to_string(), |date| date.to_string())
    }

    /// RFC 3339, with this zone's offset.
    pub fn rfc3339(&self, time: Timestamp) -> String {
        if self.is_utc() {
            return time.to_string();
        }
        time.display_with_offset(self.zone.to_offset(time)).to_string()
    }

    /// `2026-03-01 12:30`, without the zone.
    pub fn minute(&self, minute: Minute) -> String {
        self.civil(timestamp(minute)).strftime("%Y-%m-%d %H:%M").to_string()
    }

    /// `2026-03-01 12:30:05.123`, without the zone.
    pub fn millisecond(&self, time: Timestamp) -> String {
        self.civil(time).strftime("%Y-%m-%d %H:%M:%S%.3f").to_string()
    }

    /// The instant a text means: RFC 3339 with an offset, or a date or date and time in this zone.
    fn instant(&self, text: &str) -> Result<Timestamp, String> {
        if let Ok(instant) = text.parse::<Timestamp>() {
            return Ok(instant);
        }
        let too_far = || format!("`{text}` can't be reckoned with: write a time from year 0000 to 9999-12-30");
        let civil: DateTime = text.parse().map_err(|_| match Pieces::parse(text) {
            // Well written, so it is the instant that is too far away.
            Ok(pieces) if pieces.time().is_some() && pieces.offset().is_some() => too_far(),
            _ => format!("`{text}` is no time: write 2026-03-01, 2026-03-01 12:30 or 2026-03-01T12:30:00+01:00"),
        })?;
        let instant = self.zone.to_ambiguous_timestamp(civil);
        if instant.is_ambiguous() {
            let name = &self.name;
            return Err(format!(
                "`{text}` exists twice or never in {name}: its clocks are changed then; write it with an offset"
            ));
        }
        instant.unambiguous().map_err(|_| too_far())
    }
}

/// When a minute begins.
pub(super) fn timestamp(minute: Minute) -> Timestamp {
    Timestamp::from_second(i64::from(minute.0) * 60).unwrap_or(Timestamp::MAX)
}

/// From one instant to another, the end not included; none is the beginning, or the end, of everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Window {
    /// Included.
    pub from: Option<Timestamp>,
    /// Not included.
    pub to: Option<Timestamp>,
}

impl Window {
    /// Takes `last`, `from`, `to` and `zone`.
    pub(super) fn take(parameters: &mut Parameters, now: Timestamp) -> Result<(Self, Zone), String> {
        let zone = parameters.parsed("zone", Zone::named)?.unwrap_or_default();
        let last = parameters.one("last")?;
        let from = parameters.parsed("from", |text| zone.instant(text))?;
        let to = parameters.parsed("to", |text| zone.instant(text))?;
        let window = match (last, from, to) {
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
                return Err("last: a window either ends now (last), or has ends of its own (from, to)".to_owned());
            }
            (last, None, None) => {
                Self::last(last.as_deref().unwrap_or(LAST), now).map_err(|why| format!("last: {why}"))?
            }
            (None, from, to) => Self { from, to },
        };
        match (window.from, window.to) {
            (Some(from), Some(to)) if from >= to => Err("from: the window ends before it begins".to_owned()),
            // Without an end it would hold what clocks that run ahead have written; those who want that say so.
            (Some(from), None) if from >= now => Err("from: the window begins in the future".to_owned()),
            (Some(_), None) => Ok((Self { to: Some(now), ..window }, zone)),
            _ => Ok((window, zone)),
        }
    }

    /// The window of `15m`, `1h`, `7d` or `all`, ending now.
    pub(super) fn last(text: &str, now: Timestamp) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::default());
        }
        let wrong = || format!("`{text}` is no window: write one such as 15m, 1h, 24h, 7d or all");
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let minutes = match unit {
            "m" | "min" => 1,
            "h" => 60,
            "d" => 24 * 60,
            _ => return Err(wrong()),
        };
        let minutes = number.parse::<i64>().ok().filter(|number| *number > 0).and_then(|n| n.checked_mul(minutes));
        let length = minutes.and_then(SignedDuration::try_from_mins).ok_or_else(wrong)?;
        let from = now.checked_sub(length).unwrap_or(Timestamp::UNIX_EPOCH).max(Timestamp::UNIX_EPOCH);
        Ok(Self { from: Some(from), to: Some(now) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-03-29T12:34:56.5Z";

    #[track_caller]
    fn check(pairs: &[(&str, &str)], expected: Result<(Option<&str>, Option<&str>), &str>) {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let found = Window::take(&mut Parameters::new(pairs), NOW.parse().unwrap());
        let time = |text: Option<&str>| text.map(|text| text.parse::<Timestamp>().unwrap());
        match (found, expected) {
            (Ok((window, _)), Ok((from, to))) => assert_eq!(window, Window { from: time(from), to: time(to) }),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
            (found, expected) => panic!("{found:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn windows_end_now_or_have_ends_of_their_own() {
        check(&[], Ok((Some("2026-03-28T12:34:56.5Z"), Some(NOW))));
        for (last, from) in [
            ("15m", "2026-03-29T12:19:56.5Z"),
            ("15min", "2026-03-29T12:19:56.5Z"),
            ("1h", "2026-03-29T11:34:56.5Z"),
            ("7d", "2026-03-22T12:34:56.5Z"),
            ("9999999d", "1970-01-01T00:00:00Z"),
        ] {
            check(&[("last", last)], Ok((Some(from), Some(NOW))));
        }
        check(&[("last", "all")], Ok((None, None)));
        check(
            &[("from", "2026-03-01"), ("to", "2026-03-02")],
            Ok((Some("2026-03-01T00:00:00Z"), Some("2026-03-02T00:00:00Z"))),
        );
        check(&[("from", "2026-03-01 12:30")], Ok((Some("2026-03-01T12:30:00Z"), Some(NOW))));
        check(&[("to", "2026-03-01T12:30:05+02:00")], Ok((None, Some("2026-03-01T10:30:05Z"))));
    }

    #[test]
    fn what_can_not_be_meant_is_refused() {
        for last in ["", "1", "h", "0h", "1w", "-1h", "1.5h", "99999999999999999999d", "999999999999999999d"] {
            check(&[("last", last)], Err("is no window"));
        }
        check(&[("last", "1h"), ("from", "2026-03-01")], Err("either ends now"));
        check(&[("from", "2026-03-02"), ("to", "2026-03-02")], Err("ends before it begins"));
        check(&[("from", "2027-01-01")], Err("in the future"));
        check(&[("from", "yesterday")], Err("is no time"));
        for far in ["9999-12-31", "9999-12-31 00:00", "9999-12-31T00:00:00Z", "-009999-01-01"] {
            check(&[("to", far)], Err("can't be reckoned with"));
        }
        check(&[("to", "9999-12-30")], Ok((None, Some("9999-12-30T00:00:00Z"))));
        check(&[("zone", "Mars/Olympus")], Err("no time zone"));
    }

    #[test]
    fn zones_are_explicit() {
        let berlin = ("zone", "Europe/Berlin");
        check(&[berlin, ("from", "2026-03-01 12:30")], Ok((Some("2026-03-01T11:30:00Z"), Some(NOW))));
        check(&[berlin, ("from", "2026-03-01T12:30:00Z")], Ok((Some("2026-03-01T12:30:00Z"), Some(NOW))));
        // Clocks went from 02:00 to 03:00, and in autumn from 03:00 to 02:00.
        check(&[berlin, ("from", "2026-03-29 02:30")], Err("twice or never"));
        check(&[berlin, ("from", "2025-10-26 02:30")], Err("twice or never"));
        let zone = Zone::named("Europe/Berlin").unwrap();
        let minute = Minute::of(std::time::SystemTime::from("2026-06-30T22:30:00Z".parse::<Timestamp>().unwrap()));
        assert_eq!(
            (zone.minute(minute), Zone::date(zone.day(minute))),
            ("2026-07-01 00:30".into(), "2026-07-01".into())
        );
        assert_eq!(zone.rfc3339(timestamp(minute)), "2026-07-01T00:30:00+02:00");
        assert_eq!(Zone::default().rfc3339(timestamp(minute)), "2026-06-30T22:30:00Z");
        // Half an hour in winter only, whose ends this window has not.
        let lord_howe = Zone::named("Australia/Lord_Howe").unwrap();
        let at = |text: &str| Minute::of(std::time::SystemTime::from(text.parse::<Timestamp>().unwrap()));
        for (from, to, is_whole) in [
            ("2026-01-01T00:00:00Z", "2026-11-20T00:00:00Z", false),
            ("2026-01-01T00:00:00Z", "2026-04-04T15:00:00Z", true),
            ("2026-05-01T00:00:00Z", "2026-06-01T00:00:00Z", false),
        ] {
            assert_eq!(lord_howe.has_whole_hours(&(at(from)..at(to))), is_whole, "{from} to {to}");
        }
        assert!(zone.has_whole_hours(&(minute..minute)));
        assert!(!Zone::named("Asia/Kolkata").unwrap().has_whole_hours(&(minute..minute)));
    }
}
