//! Ranking: which groups an answer shows, and in which order. Only what is shown becomes figures: percentiles of a hundred
//! thousand groups would take longer than to read them.

use std::cmp::Ordering;

use rustc_hash::FxHashMap;

use super::Sort;
use super::figures::{COLUMNS, Figures};
use super::gather::Sum;
use super::report::{Group, Label};

/// A group, and in the place of its figures what they are made of.
struct Candidate {
    labels: Vec<Label>,
    sum: Sum,
    before: Option<Sum>,
    /// What it is put in order by, the highest first.
    figure: f64,
}

/// The first groups of a window, each with what it was in the window before where that was asked for; and how many others
/// there are. Groups that are equal in what they are sorted by are in the order of their labels, so that the same question
/// has the same answer.
pub(super) fn first(
    groups: FxHashMap<Vec<Label>, Sum>,
    mut before: Option<FxHashMap<Vec<Label>, Sum>>,
    sort: Sort,
    top: usize,
) -> (Vec<Group>, usize) {
    let mut candidates: Vec<Candidate> = Vec::with_capacity(groups.len());
    for (labels, sum) in groups {
        let before = before.as_mut().and_then(|before| before.remove(&labels));
        candidates.push(Candidate { figure: sort.figure(&sum), labels, sum, before });
    }
    for (labels, sum) in before.into_iter().flatten() {
        let gone = Sum::default();
        candidates.push(Candidate { figure: sort.figure(&gone), labels, sum: gone, before: Some(sum) });
    }
    let left_out = candidates.len().saturating_sub(top);
    if left_out > 0 && top > 0 {
        candidates.select_nth_unstable_by(top - 1, |a, b| a.compare(b, sort));
    }
    candidates.truncate(top);
    candidates.sort_unstable_by(|a, b| a.compare(b, sort));
    (candidates.into_iter().map(Candidate::group).collect(), left_out)
}

impl Sort {
    fn figure(self, sum: &Sum) -> f64 {
        match self {
            Self::Figure(place) => {
                let column = &COLUMNS[place];
                let figures = if column.is_percentile { Figures::of(sum) } else { Figures::without_percentiles(sum) };
                (column.of)(&figures).value().unwrap_or(-1.0)
            }
            Self::Label(_) | Self::Labels => 0.0,
        }
    }
}

impl Candidate {
    fn compare(&self, other: &Self, sort: Sort) -> Ordering {
        let first = match sort {
            Sort::Figure(_) => other.figure.total_cmp(&self.figure),
            Sort::Label(place) => self.labels[place].cmp(&other.labels[place]),
            Sort::Labels => Ordering::Equal,
        };
        first.then_with(|| self.labels.cmp(&other.labels))
    }

    fn group(self) -> Group {
        let before = self.before.as_ref().map(Figures::of);
        Group { figures: Figures::of(&self.sum), labels: self.labels, before }
    }
}
