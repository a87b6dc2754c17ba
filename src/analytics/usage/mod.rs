//! Usage: how many requests, how fast, with which errors; of everything, and by what tells them apart.
//! Answered from the roll-ups alone, in whole minutes: a plan says what to read (`plan.rs`), what is read is gathered into
//! groups (`gather.rs`), and a report says so as JSON, CSV or a table (`rank.rs`, `report.rs`, `table.rs`).

mod figures;
mod gather;
mod plan;
mod rank;
mod report;
mod share;
mod table;

use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;
use rustc_hash::FxHashMap;

use super::filter::{Filter, Part};
use super::parameters::{Parameters, word};
use super::window::{Window, Zone, timestamp};
use crate::store::read::{Reader, Removed, StoredRun, Unreadable};
use crate::store::usage::{Dimension, Minute, Reading};
use figures::{COLUMNS, Figures};
use gather::{Gather, Sum, Timeline, Value};
use plan::{Grain, Plan};
use report::Label;
pub use report::{Answer, Summary, Usage};
use share::Gathered;

/// Groups of an answer, unless `top` says otherwise.
const TOP: u32 = 1_000;
const TOP_MAX: u32 = 100_000;

/// What requests are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    Text(Part),
    Status,
    Hour,
    Day,
}

impl By {
    const COUNT: usize = 10;
    const WORDS: [(&'static str, Self); Self::COUNT] = [
        ("endpoint", Self::Text(Part::Endpoint)),
        ("consumer", Self::Text(Part::Consumer)),
        ("key", Self::Text(Part::Key)),
        ("status", Self::Status),
        ("service", Self::Text(Part::Service)),
        ("instance", Self::Text(Part::Instance)),
        ("method", Self::Text(Part::Method)),
        ("hour", Self::Hour),
        ("day", Self::Day),
        ("decided_by", Self::Text(Part::DecidedBy)),
    ];

    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, by)| *by == self).map_or("", |(word, _)| word)
    }
}

/// What groups are put in order by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    /// A figure, the highest first: its place in [`COLUMNS`].
    Figure(usize),
    /// What they are told apart by, the first first.
    Label(usize),
    /// All of that.
    Labels,
}

/// A question about usage.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    window: Window,
    zone: Zone,
    filter: Filter,
    by: Vec<By>,
    top: u32,
    sort: Sort,
    /// Whether the window before is answered as well.
    compare: bool,
    /// Whether it is about the last hour, the last 24 hours and all time instead.
    summary: bool,
}

impl Question {
    /// Takes all parameters of a question about usage.
    ///
    /// # Errors
    /// What can't be understood, or does not go together.
    pub fn take(parameters: &mut Parameters, now: Timestamp) -> Result<Self, String> {
        let summary = parameters.flag("summary")?;
        let compare = parameters.parsed("compare", |text| word(text, &[("previous", ())]))?.is_some();
        let mut by = Vec::new();
        for text in parameters.listed("by") {
            let text = text.replace('-', "_");
            let next = word(&text, &By::WORDS).map_err(|why| format!("by: {why}"))?;
            if !by.contains(&next) {
                by.push(next);
            }
        }
        let top = parameters.number("top", TOP_MAX)?;
        let sort = parameters.one("sort")?;
        if summary {
            let no =
                ["last", "from", "to"].into_iter().find(|name| parameters.one(name).is_ok_and(|value| value.is_some()));
            if no.is_some() || compare || !by.is_empty() || top.is_some() || sort.is_some() {
                return Err("summary: it has its own windows, and no groups".to_owned());
            }
        }
        let (window, zone) = Window::take(parameters, now)?;
        let filter = Filter::take(parameters)?;
        if by.is_empty() {
            by.push(By::Text(Part::Endpoint));
        }
        let has_times = by.iter().any(|by| matches!(by, By::Hour | By::Day));
        if compare && has_times {
            return Err("compare: two windows have no hour and no day in common".to_owned());
        }
        if compare && window.from.is_none() {
            return Err("compare: there is no window before all time".to_owned());
        }
        let sort = match sort {
            Some(text) => sort_of(&text, &by).map_err(|why| format!("sort: {why}"))?,
            None if has_times && top.is_none() => Sort::Labels,
            None => Sort::Figure(0),
        };
        Ok(Self { window, zone, filter, by, top: top.unwrap_or(TOP), sort, compare, summary })
    }

    /// Reads the answer.
    ///
    /// # Errors
    /// The store can't be read, or not in time.
    pub fn answer(&self, reader: &mut Reader, now: Timestamp) -> Result<Answer, Unreadable> {
        let stored = Stored { runs: reader.runs()?, removed: reader.removed()?, span: reader.span()? };
        if self.summary {
            return self.summary(reader, &stored, now).map(Answer::Summary);
        }
        self.usage(reader, &stored, now).map(Box::new).map(Answer::Usage)
    }

    fn usage(&self, reader: &mut Reader, stored: &Stored, now: Timestamp) -> Result<Usage, Unreadable> {
        let mut notes = Vec::new();
        let asked = stored.minutes(&self.window, now, &mut notes);
        let read = self.read(reader, stored, asked)?;
        let mut before = None;
        let mut previous = None;
        if self.compare {
            let length = read.plan.window.end.0 - read.plan.window.start.0;
            let start = Minute(read.plan.window.start.0.saturating_sub(length));
            if stored.span.as_ref().is_none_or(|span| span.start > start) {
                notes.push("the log does not reach back over the whole window before".to_owned());
            }
            let read = self.read(reader, stored, start..read.plan.window.start)?;
            notes.extend(read.plan.notes);
            previous = Some((read.plan.window, Figures::of(&read.total)));
            before = Some(read.groups);
        }
        notes.splice(..0, read.plan.notes);
        if self.by.contains(&By::Day) && !self.zone.has_whole_hours(&read.plan.window) {
            let name = self.zone.name();
            notes.push(format!(
                "days of {name} begin within an hour of UTC: such an hour counts to the day it begins in"
            ));
        }
        notes.dedup();
        let (groups, left_out) = rank::first(read.groups, before, self.sort, self.top as usize);
        Ok(Usage {
            window: read.plan.window,
            zone: self.zone.clone(),
            notes,
            by: self.by.clone(),
            totals: Figures::of(&read.total),
            groups,
            left_out,
            timeline: read.timeline,
            previous,
        })
    }

    fn summary(&self, reader: &mut Reader, stored: &Stored, now: Timestamp) -> Result<Summary, Unreadable> {
        let mut notes = Vec::new();
        let mut frames = Vec::new();
        for (title, last) in [("last hour", "1h"), ("last 24 hours", "24h"), ("all time", "all")] {
            let window = Window::last(last, now).unwrap_or_default();
            let asked = stored.minutes(&window, now, &mut notes);
            let question = Self { by: Vec::new(), ..self.clone() };
            let read = question.read(reader, stored, asked)?;
            notes.extend(read.plan.notes);
            frames.push((title, read.plan.window, Figures::of(&read.total)));
        }
        notes.dedup();
        Ok(Summary { zone: self.zone.clone(), notes, frames })
    }

    /// What is read for the groups and the filter.
    fn reading(&self) -> Reading {
        let by = self.by.iter().filter_map(|by| match by {
            By::Text(part) => Some(part.dimension()),
            By::Status => Some(Dimension::Status),
            By::Hour | By::Day => None,
        });
        let filtered = self.filter.parts().map(Part::dimension);
        let status = (!self.filter.statuses.is_empty()).then_some(Dimension::Status);
        let needed: Vec<_> = by.chain(filtered).chain(status).collect();
        Reading::of(&needed, self.filter.values(Part::Consumer), self.filter.values(Part::Key))
    }

    fn read(&self, reader: &mut Reader, stored: &Stored, asked: Range<Minute>) -> Result<Read, Unreadable> {
        let step = stored.step(&asked);
        let needs_hours = self.by.contains(&By::Hour) || (self.by.contains(&By::Day) && !self.zone.is_utc());
        let grain = if needs_hours { step.min(Grain::Hour) } else { step };
        let plan = Plan::of(asked, grain, &stored.runs, &stored.removed, &self.zone);
        let timeline = Timeline::over(&plan.window, step);
        let new = || Gather::new(&self.by, &self.filter, &self.zone, timeline.clone());
        let Gathered { groups, timeline } = share::gather(reader, &plan, &self.reading(), &new)?;
        let mut total = Sum::default();
        groups.values().for_each(|sum| total.merge(sum));
        Ok(Read { groups, total, timeline, plan })
    }
}

/// What one window holds.
struct Read {
    groups: FxHashMap<Vec<Label>, Sum>,
    total: Sum,
    timeline: Timeline,
    plan: Plan,
}

/// What is known of a store before its usage is read.
struct Stored {
    runs: Vec<StoredRun>,
    removed: Removed,
    span: Option<Range<Minute>>,
}

impl Stored {
    /// The whole minutes of a window; ends that are missing are those of the log.
    fn minutes(&self, window: &Window, now: Timestamp, notes: &mut Vec<String>) -> Range<Minute> {
        let floor = |time: Timestamp| Minute::of(time.into());
        let ceil = |time: Timestamp| {
            let minute = floor(time);
            if timestamp(minute) < time { Minute(minute.0.saturating_add(1)) } else { minute }
        };
        let span = self.span.clone().unwrap_or(floor(now)..ceil(now));
        let from = window.from.map_or(span.start, floor);
        let to = window.to.map_or_else(|| span.end.max(ceil(now)), ceil);
        let is_widened = window.from.is_some_and(|time| time != timestamp(from))
            || window.to.is_some_and(|time| time != timestamp(to));
        if is_widened {
            notes.push("the window is widened to whole minutes".to_owned());
        }
        from..to.max(from)
    }

    /// The steps in which a window is shown as a line: fine enough to see something, coarse enough to be read at once.
    fn step(&self, window: &Range<Minute>) -> Grain {
        let length = window.end.0.saturating_sub(window.start.0);
        let is_kept = |removed: Timestamp| timestamp(window.start) >= removed;
        if length <= 2 * Minute::HOUR && is_kept(self.removed.minutes) {
            Grain::Minute
        } else if length <= 8 * Minute::DAY && is_kept(self.removed.hours) {
            Grain::Hour
        } else {
            Grain::Day
        }
    }
}

/// A figure by its name, with or without its unit; or something in `by`.
fn sort_of(text: &str, by: &[By]) -> Result<Sort, String> {
    let text = text.replace('-', "_");
    if let Some(place) = by.iter().position(|by| by.word() == text) {
        return Ok(Sort::Label(place));
    }
    let is_meant = |name: &str| name == text || name.rsplit_once('_').is_some_and(|(name, _)| name == text);
    if let Some(place) = COLUMNS.iter().position(|column| is_meant(column.name)) {
        return Ok(Sort::Figure(place));
    }
    let names: Vec<&str> = by.iter().map(|by| by.word()).chain(COLUMNS.iter().map(|column| column.name)).collect();
    Err(format!("`{text}` is none of {}", names.join(", ")))
}

impl From<Value<'_>> for Label {
    fn from(value: Value<'_>) -> Self {
        match value {
            Value::Text(text) => Self::Text(Arc::clone(text)),
            Value::Missing => Self::Missing,
            Value::Status(status) => Self::Status(status),
            Value::Hour(hour) => Self::Hour(hour),
            Value::Day(day) => Self::Day(day),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
