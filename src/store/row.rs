//! A row: one record in the form that every store and the JSON lines take.
//! Here a record becomes storable: text is cut to its column at a character's border, the address is masked as
//! `log.client_ip` says, times are UTC. Borrows from the record; copies nothing but what it has to change.
//! The lengths are those of `conf/sql/mysql`, in bytes, so they hold for its columns in characters, too.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::usage::Minute;
use crate::config::ClientIp;
use crate::record::{Record, Timeout};

/// The columns of `api_logs` that hold what a record says, `run` and `sequence` left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row<'a> {
    /// Start of the request, UTC.
    pub timestamp: Moment,
    /// The minute of the roll-ups that `timestamp` lies in.
    pub minute: Minute,
    /// At most 200 bytes.
    pub endpoint: &'a str,
    /// At most 32 bytes.
    pub http_method: &'a str,
    /// The method in the roll-ups: of HTTP's registry, or `OTHER`.
    pub method_label: &'a str,
    /// The status the client was sent.
    pub status_code: u16,
    /// Response time in microseconds; the column has milliseconds.
    pub response_time: u64,
    /// Status 500 and above.
    pub is_error: bool,
    /// Refused by flood guard, auth, access, limit or body size; in the roll-ups only.
    pub is_blocked: bool,
    /// The UUID's bytes.
    pub request_id: [u8; 16],
    /// At most 128 bytes.
    #[serde(borrow)]
    pub client_request_id: Option<&'a str>,
    /// At most 255 bytes.
    #[serde(borrow)]
    pub host: Option<&'a str>,
    /// At most 2,048 bytes.
    pub path: &'a str,
    /// `HTTP/1.0`, `HTTP/1.1` or `HTTP/2`.
    pub protocol: &'a str,
    /// At most 255 bytes.
    #[serde(borrow)]
    pub consumer: Option<&'a str>,
    /// The key's name, at most 255 bytes.
    #[serde(borrow)]
    pub key: Option<&'a str>,
    /// As much of the address as `log.client_ip` keeps; IPv4 in IPv6 is written as IPv4.
    pub client_ip: Option<IpAddr>,
    /// At most 255 bytes.
    #[serde(borrow)]
    pub service: Option<&'a str>,
    /// At most 255 bytes.
    #[serde(borrow)]
    pub instance: Option<&'a str>,
    /// Tries at instances.
    pub attempts: u16,
    /// To the header of the instance's answer, in microseconds; the column has milliseconds.
    pub upstream_time: Option<u64>,
    /// What the cache did.
    #[serde(borrow)]
    pub cache: Option<&'a str>,
    /// `upstream`, `cache`, or the reason of a refusal.
    pub decided_by: &'a str,
    /// At most 255 bytes.
    #[serde(borrow)]
    pub limit_name: Option<&'a str>,
    /// At most 255 bytes.
    #[serde(borrow)]
    pub observed: Option<&'a str>,
    /// Bytes of the request body.
    pub bytes_in: i64,
    /// Bytes of the answer's body.
    pub bytes_out: i64,
    /// At most 256 bytes.
    #[serde(borrow)]
    pub user_agent: Option<&'a str>,
    /// The configuration that answered.
    pub generation: u32,
}

impl<'a> Row<'a> {
    /// The storable form of a record.
    pub fn of(record: &'a Record, client_ip: ClientIp) -> Self {
        Self {
            timestamp: Moment::of(record.started),
            minute: Minute::of(record.started),
            endpoint: cut(&record.endpoint, 200),
            http_method: cut(record.method.as_str(), 32),
            method_label: record.method_label(),
            status_code: record.status,
            response_time: microseconds(record.duration),
            is_error: record.is_error(),
            is_blocked: record.blocked,
            request_id: *record.request_id.as_bytes(),
            client_request_id: record.client_request_id.as_deref().map(|text| cut(text, 128)),
            host: record.host.as_deref().map(|text| cut(text, 255)),
            path: cut(&record.path, 2_048),
            protocol: cut(record.protocol, 16),
            consumer: record.consumer.as_deref().map(|text| cut(text, 255)),
            key: record.key.as_deref().map(|text| cut(text, 255)),
            client_ip: kept_address(record.client_ip, client_ip),
            service: record.service.as_deref().map(|text| cut(text, 255)),
            instance: record.instance.as_deref().map(|text| cut(text, 255)),
            attempts: record.attempts,
            upstream_time: record.upstream_time.map(microseconds),
            cache: record.cache.map(|result| result.as_str()),
            decided_by: cut(record.decided_by, 64),
            limit_name: record
                .timeout
                .map(Timeout::as_str)
                .or_else(|| record.limit_name.as_deref().map(|text| cut(text, 255))),
            observed: record.observed.as_deref().map(|text| cut(text, 255)),
            bytes_in: i64::try_from(record.bytes_in).unwrap_or(i64::MAX),
            bytes_out: i64::try_from(record.bytes_out).unwrap_or(i64::MAX),
            user_agent: record.user_agent.as_deref().map(|text| cut(text, 256)),
            generation: record.generation,
        }
    }

    /// The column: milliseconds, in steps of a microsecond.
    pub fn response_time_ms(&self) -> f64 {
        milliseconds(self.response_time)
    }

    /// The column: milliseconds, in steps of a microsecond.
    pub fn upstream_ms(&self) -> Option<f64> {
        self.upstream_time.map(milliseconds)
    }

    /// Bytes this row takes in a statement, at most.
    pub fn bytes_max(&self) -> usize {
        let length = |text: Option<&str>| text.map_or(0, str::len);
        // Numbers, times, ids and the length before each text come to less than 192.
        192 + self.endpoint.len()
            + self.http_method.len()
            + length(self.client_request_id)
            + length(self.host)
            + self.path.len()
            + self.protocol.len()
            + length(self.consumer)
            + length(self.key)
            + length(self.service)
            + length(self.instance)
            + length(self.cache)
            + self.decided_by.len()
            + length(self.limit_name)
            + length(self.observed)
            + length(self.user_agent)
    }
}

/// A time in UTC, in microseconds, between the years 1970 and 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Moment {
    /// 1970 to 9999.
    pub year: u16,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
    /// 0 to 999,999.
    pub microsecond: u32,
}

impl Moment {
    /// The microsecond of a time; a clock before 1970 or after 9999 is taken as the nearest that a database takes.
    pub fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let timestamp = i64::try_from(since).ok().and_then(|since| jiff::Timestamp::from_microsecond(since).ok());
        let timestamp = timestamp.unwrap_or(jiff::Timestamp::MAX);
        let utc = jiff::tz::Offset::UTC.to_datetime(timestamp);
        // None of these can be negative here.
        Self {
            year: utc.year().unsigned_abs(),
            month: utc.month().unsigned_abs(),
            day: utc.day().unsigned_abs(),
            hour: utc.hour().unsigned_abs(),
            minute: utc.minute().unsigned_abs(),
            second: utc.second().unsigned_abs(),
            microsecond: utc.subsec_nanosecond().unsigned_abs() / 1_000,
        }
    }

    /// The bytes that `Display` writes, made without formatting: every row has one.
    pub fn text(self) -> [u8; 26] {
        let mut text = *b"0000-00-00 00:00:00.000000";
        let mut put = |start: usize, end: usize, mut number: u32| {
            for digit in text[start..end].iter_mut().rev() {
                *digit = b'0' + (number % 10) as u8;
                number /= 10;
            }
        };
        put(0, 4, self.year.into());
        put(5, 7, self.month.into());
        put(8, 10, self.day.into());
        put(11, 13, self.hour.into());
        put(14, 16, self.minute.into());
        put(17, 19, self.second.into());
        put(20, 26, self.microsecond);
        text
    }

    /// RFC 3339 with microseconds, e.g. `2026-03-01T12:30:05.000123Z`.
    pub fn rfc3339(self) -> impl fmt::Display {
        fmt::from_fn(move |out| self.write(out, 'T', "Z"))
    }

    fn write(self, out: &mut fmt::Formatter<'_>, between: char, end: &str) -> fmt::Result {
        let Self { year, month, day, hour, minute, second, microsecond } = self;
        write!(out, "{year:04}-{month:02}-{day:02}{between}{hour:02}:{minute:02}:{second:02}.{microsecond:06}{end}")
    }
}

/// As the databases write it, e.g. `2026-03-01 12:30:05.000123`.
impl fmt::Display for Moment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(out, ' ', "")
    }
}

/// The bytes of an address, 4 or 16 of them, in `room`.
pub fn address_bytes(address: IpAddr, room: &mut [u8; 16]) -> &[u8] {
    match address {
        IpAddr::V4(address) => {
            room[..4].copy_from_slice(&address.octets());
            &room[..4]
        }
        IpAddr::V6(address) => {
            *room = address.octets();
            room
        }
    }
}

/// What `log.client_ip` keeps of an address: all, /24 and /48, or nothing.
fn kept_address(address: IpAddr, keep: ClientIp) -> Option<IpAddr> {
    match (keep, address.to_canonical()) {
        (ClientIp::None, _) => None,
        (ClientIp::Full, address) => Some(address),
        (ClientIp::Masked, IpAddr::V4(address)) => {
            Some(Ipv4Addr::from_bits(address.to_bits() & (u32::MAX << (32 - 24))).into())
        }
        (ClientIp::Masked, IpAddr::V6(address)) => {
            Some(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << (128 - 48))).into())
        }
    }
}

/// The beginning of a text, at most so many bytes, ending at a character's border.
fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Milliseconds in steps of a microsecond, so that a value reads as it was measured (1.5, not 1.4999999).
fn milliseconds(microseconds: u64) -> f64 {
    // Exact up to 285 years, far beyond any exchange.
    #[allow(clippy::cast_precision_loss)]
    let microseconds = microseconds as f64;
    microseconds / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_is_cut_at_a_characters_border() {
        for (text, bytes_max, kept) in
            [("abc", 3, "abc"), ("abc", 2, "ab"), ("aä", 2, "a"), ("aä", 3, "aä"), ("\u{1f600}", 3, ""), ("", 5, "")]
        {
            assert_eq!(cut(text, bytes_max), kept, "{text} to {bytes_max}");
        }
    }

    proptest! {
        #[test]
        fn cutting_keeps_a_prefix_within_the_bound(text in ".*", bytes_max in 0_usize..64) {
            let kept = cut(&text, bytes_max);
            prop_assert!(kept.len() <= bytes_max && text.starts_with(kept));
            prop_assert!(text.len() <= bytes_max || kept.len() + 4 > bytes_max);
        }
    }

    #[test]
    fn addresses_are_masked_as_configured() {
        for (address, keep, kept) in [
            ("192.0.2.77", ClientIp::Full, Some("192.0.2.77")),
            ("192.0.2.77", ClientIp::Masked, Some("192.0.2.0")),
            ("::ffff:192.0.2.77", ClientIp::Masked, Some("192.0.2.0")),
            ("::ffff:192.0.2.77", ClientIp::Full, Some("192.0.2.77")),
            ("2001:db8:1:2:3:4:5:6", ClientIp::Masked, Some("2001:db8:1::")),
            ("2001:db8:1:2:3:4:5:6", ClientIp::None, None),
        ] {
            let kept: Option<IpAddr> = kept.map(|text| text.parse().unwrap());
            assert_eq!(kept_address(address.parse().unwrap(), keep), kept, "{address} {keep:?}");
        }
    }

    #[test]
    fn times_are_utc_with_microseconds() {
        let moment = Moment::of(UNIX_EPOCH + Duration::new(1_709_210_096, 7_891));
        assert_eq!(moment.to_string(), "2024-02-29 12:34:56.000007");
        assert_eq!(&moment.text(), b"2024-02-29 12:34:56.000007");
        assert_eq!(moment.rfc3339().to_string(), "2024-02-29T12:34:56.000007Z");
    }

    #[test]
    fn impossible_clocks_stay_storable() {
        assert_eq!(Moment::of(UNIX_EPOCH - Duration::from_secs(5)).to_string(), "1970-01-01 00:00:00.000000");
        assert_eq!(Moment::of(UNIX_EPOCH + Duration::from_secs(1 << 40)).year, 9999);
    }
}
