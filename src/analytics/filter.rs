//! Filters: which requests a question is about. Values of one parameter are alternatives, parameters restrict each other.
//! The same for usage and for single requests; `(none)` stands for requests without a consumer, key, service or instance.

use super::parameters::Parameters;
use crate::store::usage::Dimension;

/// What stands for a missing consumer, key, service or instance.
pub(super) const NONE: &str = "(none)";

/// What has a name in a series, in the order of [`Filter::texts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Endpoint,
    Method,
    DecidedBy,
    Consumer,
    Key,
    Service,
    Instance,
}

impl Part {
    pub(super) const ALL: [(&'static str, Self); 7] = [
        ("endpoint", Self::Endpoint),
        ("method", Self::Method),
        ("decided_by", Self::DecidedBy),
        ("consumer", Self::Consumer),
        ("key", Self::Key),
        ("service", Self::Service),
        ("instance", Self::Instance),
    ];

    /// Whether a request may be without.
    fn may_be_missing(self) -> bool {
        matches!(self, Self::Consumer | Self::Key | Self::Service | Self::Instance)
    }

    /// What the roll-ups tell apart by it.
    pub(super) fn dimension(self) -> Dimension {
        match self {
            Self::Endpoint => Dimension::Endpoint,
            Self::Method => Dimension::Method,
            Self::DecidedBy => Dimension::DecidedBy,
            Self::Consumer => Dimension::Consumer,
            Self::Key => Dimension::Key,
            Self::Service => Dimension::Service,
            Self::Instance => Dimension::Instance,
        }
    }

    /// The column of `api_logs`.
    pub(super) fn column(self) -> &'static str {
        match self {
            Self::Method => "http_method",
            other => Self::ALL[other as usize].0,
        }
    }
}

/// Which requests are meant; by default all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// For each part the values that are meant, none for a request without; empty for all.
    pub(super) texts: [Vec<Option<String>>; 7],
    /// Statuses, first to last each; empty for all.
    pub(super) statuses: Vec<(u16, u16)>,
}

impl Filter {
    /// Takes the parameters named after the parts, and `status`.
    pub(super) fn take(parameters: &mut Parameters) -> Result<Self, String> {
        let mut filter = Self::default();
        for (name, part) in Part::ALL {
            let values = parameters.many(name).into_iter();
            let meant = |value: String| (value != NONE || !part.may_be_missing()).then_some(value);
            filter.texts[part as usize] = values.map(meant).collect();
        }
        for text in parameters.listed("status") {
            filter.statuses.push(statuses(&text).map_err(|why| format!("status: {why}"))?);
        }
        Ok(filter)
    }

    /// Whether a text of a part is meant.
    pub(super) fn admits(&self, part: Part, text: Option<&str>) -> bool {
        let meant = &self.texts[part as usize];
        meant.is_empty() || meant.iter().any(|value| value.as_deref() == text)
    }

    /// Whether a status is meant.
    pub(super) fn admits_status(&self, status: u16) -> bool {
        self.statuses.is_empty() || self.statuses.iter().any(|(first, last)| (*first..=*last).contains(&status))
    }

    /// The values of a part that are meant, none for a request without; empty for all.
    pub(super) fn values(&self, part: Part) -> &[Option<String>] {
        &self.texts[part as usize]
    }

    /// The parts that are restricted at all.
    pub(super) fn parts(&self) -> impl Iterator<Item = Part> {
        Part::ALL.into_iter().map(|(_, part)| part).filter(|part| !self.texts[*part as usize].is_empty())
    }
}

/// `404`, `5xx`, `500-503`.
fn statuses(text: &str) -> Result<(u16, u16), String> {
    let wrong = || format!("`{text}` is no status: write 404, 5xx or 500-503");
    // Instances may answer with numbers that have no class (RFC 9110 section 15).
    let status = |text: &str| match text.parse() {
        Ok(number @ 100..=999_u16) if text.len() == 3 => Ok(number),
        _ => Err(wrong()),
    };
    if let Some(class) = text.strip_suffix("xx").or_else(|| text.strip_suffix("XX")) {
        return match class.parse() {
            Ok(class @ 1..=5_u16) if text.len() == 3 => Ok((class * 100, class * 100 + 99)),
            _ => Err(format!("`{text}` is no class of statuses: there are 1xx, 2xx, 3xx, 4xx and 5xx")),
        };
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (status(first)?, status(last)?);
    if first <= last { Ok((first, last)) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_numbers_classes_and_ranges() {
        for (text, expected) in [
            ("404", Some((404, 404))),
            ("5xx", Some((500, 599))),
            ("500-503", Some((500, 503))),
            ("5XX", Some((500, 599))),
        ] {
            assert_eq!(statuses(text).ok(), expected, "{text}");
        }
        for text in [
            "", "xx", "5x", "55xx", "abc", "503-500", "4-5", "-", "+404", "4xx-5xx", "000", "099", "000-200", "0xx",
            "6xx", "9XX",
        ] {
            assert!(statuses(text).is_err(), "{text}");
        }
    }

    #[test]
    fn none_is_a_value_only_where_something_can_be_missing() {
        let pairs = [("consumer", "(none)"), ("consumer", "acme"), ("endpoint", "(none)"), ("status", "404,5xx")];
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let filter = Filter::take(&mut Parameters::new(pairs)).unwrap();
        assert!(filter.admits(Part::Consumer, None) && filter.admits(Part::Consumer, Some("acme")));
        assert!(!filter.admits(Part::Consumer, Some("other")) && filter.admits(Part::Key, None));
        assert!(filter.admits(Part::Endpoint, Some("(none)")) && !filter.admits(Part::Endpoint, Some("/a")));
        assert!(filter.admits_status(404) && filter.admits_status(599) && !filter.admits_status(200));
        assert_eq!(filter.parts().collect::<Vec<_>>(), [Part::Endpoint, Part::Consumer]);
    }
}
