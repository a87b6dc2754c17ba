//! The answer to a question about usage, as plain values: as JSON (docs/analytics.md has its shape) and as CSV.
//! Not here: tables for people (`table.rs`).

use std::ops::Range;
use std::sync::Arc;

use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

use super::By;
use super::figures::{COLUMNS, Figure, Figures, rounded};
use super::gather::Timeline;
use crate::analytics::filter::NONE;
use crate::analytics::text::{csv, printable, printable_json};
use crate::analytics::window::{Zone, timestamp};
use crate::store::usage::Minute;

/// One of the things a group is told apart by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Label {
    Text(Arc<str>),
    Missing,
    Status(u16),
    Hour(Minute),
    /// See [`Zone::day`].
    Day(u32),
}

impl Label {
    /// As people write it; text as the log has it.
    pub(super) fn shown(&self, zone: &Zone) -> String {
        match self {
            Self::Text(text) => text.to_string(),
            Self::Missing => NONE.to_owned(),
            Self::Status(status) => status.to_string(),
            Self::Hour(hour) => zone.minute(*hour),
            Self::Day(day) => Zone::date(*day),
        }
    }
}

/// Requests that have something in common.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Group {
    pub(super) labels: Vec<Label>,
    pub(super) figures: Figures,
    /// In the window before, where that was asked for.
    pub(super) before: Option<Figures>,
}

/// The usage of a window.
#[derive(Debug)]
pub struct Usage {
    pub(super) window: Range<Minute>,
    pub(super) zone: Zone,
    pub(super) notes: Vec<String>,
    pub(super) by: Vec<By>,
    pub(super) totals: Figures,
    pub(super) groups: Vec<Group>,
    pub(super) left_out: usize,
    pub(super) timeline: Timeline,
    pub(super) previous: Option<(Range<Minute>, Figures)>,
}

/// The last hour, the last 24 hours and all time.
#[derive(Debug)]
pub struct Summary {
    pub(super) zone: Zone,
    pub(super) notes: Vec<String>,
    pub(super) frames: Vec<(&'static str, Range<Minute>, Figures)>,
}

/// An answer.
#[derive(Debug)]
pub enum Answer {
    /// One window.
    Usage(Box<Usage>),
    /// Three of them.
    Summary(Summary),
}

impl Answer {
    /// One JSON object.
    pub fn json(&self) -> String {
        let json = match self {
            Self::Usage(usage) => serde_json::to_string(usage),
            Self::Summary(summary) => serde_json::to_string(summary),
        };
        printable_json(&json.unwrap_or_default())
    }

    /// A header, and a line for each group or window. On a terminal text is escaped as in tables.
    pub fn csv(&self, is_on_terminal: bool) -> String {
        match self {
            Self::Usage(usage) => usage.csv(is_on_terminal),
            Self::Summary(summary) => summary.csv(),
        }
    }
}

/// The ends of a window, as JSON.
struct Ends<'a>(&'a Range<Minute>, &'a Zone);

impl Serialize for Ends<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(window, zone) = self;
        let mut map = serializer.serialize_map(Some(3))?;
        map.serialize_entry("from", &zone.rfc3339(timestamp(window.start)))?;
        map.serialize_entry("to", &zone.rfc3339(timestamp(window.end)))?;
        map.serialize_entry("zone", zone.name())?;
        map.end()
    }
}

impl Serialize for Usage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("window", &Ends(&self.window, &self.zone))?;
        map.serialize_entry("notes", &self.notes)?;
        map.serialize_entry("by", &self.by.iter().map(|by| by.word()).collect::<Vec<_>>())?;
        map.serialize_entry("totals", &self.totals)?;
        map.serialize_entry("groups", &Groups(self))?;
        map.serialize_entry("groups_left_out", &self.left_out)?;
        let steps = Steps { timeline: &self.timeline, zone: &self.zone };
        map.serialize_entry("timeline", &steps)?;
        if let Some((window, totals)) = &self.previous {
            map.serialize_entry("previous", &Frame { name: None, window, zone: &self.zone, totals })?;
        }
        map.end()
    }
}

struct Groups<'a>(&'a Usage);

impl Serialize for Groups<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.groups.len()))?;
        for group in &self.0.groups {
            list.serialize_element(&OneGroup(self.0, group))?;
        }
        list.end()
    }
}

struct OneGroup<'a>(&'a Usage, &'a Group);

impl Serialize for OneGroup<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(usage, group) = self;
        let mut map = serializer.serialize_map(None)?;
        for (by, label) in usage.by.iter().zip(&group.labels) {
            match label {
                Label::Missing => map.serialize_entry(by.word(), &())?,
                Label::Status(status) => map.serialize_entry(by.word(), status)?,
                Label::Hour(hour) => map.serialize_entry(by.word(), &usage.zone.rfc3339(timestamp(*hour)))?,
                other => map.serialize_entry(by.word(), &other.shown(&usage.zone))?,
            }
        }
        group.figures.members(&mut map)?;
        if usage.previous.is_some() {
            map.serialize_entry("previous", &group.before)?;
        }
        map.end()
    }
}

struct Steps<'a> {
    timeline: &'a Timeline,
    zone: &'a Zone,
}

impl Serialize for Steps<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("step", self.timeline.step.word())?;
        map.serialize_entry("from", &self.zone.rfc3339(timestamp(self.timeline.from)))?;
        map.serialize_entry("requests", &self.timeline.requests)?;
        map.serialize_entry("errors", &self.timeline.errors)?;
        map.end()
    }
}

/// A window and what it holds in all.
struct Frame<'a> {
    name: Option<&'static str>,
    window: &'a Range<Minute>,
    zone: &'a Zone,
    totals: &'a Figures,
}

impl Serialize for Frame<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if let Some(name) = self.name {
            map.serialize_entry("name", name)?;
        }
        map.serialize_entry("window", &Ends(self.window, self.zone))?;
        map.serialize_entry("totals", self.totals)?;
        map.end()
    }
}

impl Serialize for Summary {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let frame = |(name, window, totals)| Frame { name: Some(name), window, zone: &self.zone, totals };
        let frames: Vec<_> = self.frames.iter().map(|(name, window, totals)| frame((*name, window, totals))).collect();
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("notes", &self.notes)?;
        map.serialize_entry("summary", &frames)?;
        map.end()
    }
}

/// A figure in a CSV file: a number, or nothing.
fn number(figure: Figure) -> String {
    match figure {
        Figure::Count(number) | Figure::Bytes(number) => number.to_string(),
        Figure::Percent(number) | Figure::Milliseconds(number) => {
            number.map(|number| rounded(number).to_string()).unwrap_or_default()
        }
    }
}

impl Usage {
    fn csv(&self, is_on_terminal: bool) -> String {
        let label = |text: &str| if is_on_terminal { csv(&printable(text)) } else { csv(text) };
        let names = COLUMNS.iter().map(|column| column.name.to_owned());
        let mut header: Vec<String> = self.by.iter().map(|by| by.word().to_owned()).chain(names.clone()).collect();
        if self.previous.is_some() {
            header.extend(names.map(|name| format!("previous_{name}")));
        }
        let mut text = header.join(",") + "\n";
        for group in &self.groups {
            let mut line: Vec<String> = group.labels.iter().map(|one| label(&one.shown(&self.zone))).collect();
            line.extend(COLUMNS.iter().map(|column| number((column.of)(&group.figures))));
            if self.previous.is_some() {
                let before = group.before.clone().unwrap_or_default();
                line.extend(COLUMNS.iter().map(|column| number((column.of)(&before))));
            }
            text += &(line.join(",") + "\n");
        }
        text
    }
}

impl Summary {
    fn csv(&self) -> String {
        let names: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
        let mut text = format!("window,from,to,{}\n", names.join(","));
        for (title, window, totals) in &self.frames {
            let end = |minute: Minute| self.zone.rfc3339(timestamp(minute));
            let figures: Vec<String> = COLUMNS.iter().map(|column| number((column.of)(totals))).collect();
            text += &format!("{title},{},{},{}\n", end(window.start), end(window.end), figures.join(","));
        }
        text
    }
}
