//! Detail: how much a packed value tells apart. Beside the value that tells apart everything there are outlines, each a fraction
//! of it. Not here: which of them a question reads, and how they are made (`outlines.rs`). No SQL.

use super::Series;

/// What tells requests apart, beside time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dimension {
    /// See [`Series`].
    Endpoint,
    /// See [`Series`].
    Method,
    /// See [`Series`].
    Status,
    /// See [`Series`].
    DecidedBy,
    /// See [`Series`].
    Consumer,
    /// See [`Series`].
    Key,
    /// See [`Series`].
    Service,
    /// See [`Series`].
    Instance,
}

/// An outline, or everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Status, service and instance.
    Instances,
    /// Endpoint, method, status, decided_by and service.
    Routes,
    /// Status, consumer and key.
    Consumers,
    /// Everything but consumer and key.
    Targets,
    /// Endpoint, status, consumer and key.
    Callers,
    /// Everything.
    Full,
}

impl Detail {
    /// The outlines, the smallest first.
    pub const OUTLINES: [Self; 5] = [Self::Instances, Self::Routes, Self::Consumers, Self::Targets, Self::Callers];

    /// The smallest that tells apart all of these.
    pub fn of(needed: &[Dimension]) -> Self {
        let knows = |detail: &Self| needed.iter().all(|dimension| detail.tells_apart(*dimension));
        Self::OUTLINES.into_iter().find(knows).unwrap_or(Self::Full)
    }

    /// The name of the outline.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Instances => "instances",
            Self::Routes => "routes",
            Self::Consumers => "consumers",
            Self::Targets => "targets",
            Self::Callers => "callers",
            Self::Full => "full",
        }
    }

    fn tells_apart(self, dimension: Dimension) -> bool {
        use Dimension::{Consumer, DecidedBy, Endpoint, Instance, Key, Method, Service, Status};
        match self {
            Self::Instances => matches!(dimension, Status | Service | Instance),
            Self::Routes => matches!(dimension, Endpoint | Method | Status | DecidedBy | Service),
            Self::Consumers => matches!(dimension, Status | Consumer | Key),
            Self::Targets => !matches!(dimension, Consumer | Key),
            Self::Callers => matches!(dimension, Endpoint | Status | Consumer | Key),
            Self::Full => true,
        }
    }

    /// A series without what is not told apart.
    pub(super) fn outline<'a>(self, series: &Series<&'a str>) -> Series<&'a str> {
        let text = |dimension, text: &'a str| if self.tells_apart(dimension) { text } else { "" };
        let optional = |dimension, text: Option<&'a str>| text.filter(|_| self.tells_apart(dimension));
        Series {
            endpoint: text(Dimension::Endpoint, series.endpoint),
            method: text(Dimension::Method, series.method),
            status: if self.tells_apart(Dimension::Status) { series.status } else { 0 },
            decided_by: text(Dimension::DecidedBy, series.decided_by),
            consumer: optional(Dimension::Consumer, series.consumer),
            key: optional(Dimension::Key, series.key),
            service: optional(Dimension::Service, series.service),
            instance: optional(Dimension::Instance, series.instance),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_reads_the_smallest_that_knows_what_it_asks() {
        use Dimension::{Consumer, DecidedBy, Endpoint, Instance, Key, Method, Service, Status};
        for (needed, expected) in [
            (&[][..], Detail::Instances),
            (&[Status, Instance], Detail::Instances),
            (&[Status, Endpoint], Detail::Routes),
            (&[Method, DecidedBy, Service], Detail::Routes),
            (&[Key, Consumer, Status], Detail::Consumers),
            (&[Key, Endpoint], Detail::Callers),
            (&[Key, Method], Detail::Full),
            (&[Instance, Method], Detail::Targets),
            (&[Instance, Key], Detail::Full),
        ] {
            assert_eq!(Detail::of(needed), expected, "{needed:?}");
        }
    }

    #[test]
    fn an_outline_keeps_what_it_tells_apart() {
        let series = Series {
            endpoint: "/a",
            method: "GET",
            status: 200,
            decided_by: "upstream",
            consumer: Some("acme"),
            key: Some("k"),
            service: Some("s"),
            instance: Some("i"),
        };
        let instances = Series { status: 200, service: Some("s"), instance: Some("i"), ..Series::default() };
        assert_eq!(Detail::Instances.outline(&series), instances);
        assert_eq!(Detail::Routes.outline(&series), Series { consumer: None, key: None, instance: None, ..series });
        let consumers = Series { status: 200, consumer: Some("acme"), key: Some("k"), ..Series::default() };
        assert_eq!(Detail::Consumers.outline(&series), consumers);
        assert_eq!(Detail::Targets.outline(&series), Series { consumer: None, key: None, ..series });
        assert_eq!(Detail::Full.outline(&series), series);
    }
}
