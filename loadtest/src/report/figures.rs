//! From samples to figures: medians over the rounds, and ratios within a round, because machines drift.
//! A figure that does not apply is absent, never zero.

use serde::{Deserialize, Serialize};

use crate::compare::DIRECT;
use crate::contenders::{BARE, BARE_DRESSED, TOLLGATE};
use crate::report::{Entry, RowReport, Sample};

/// What is said about one contender in one row.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Figures {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us_min: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us_max: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p999_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<f64>,
    /// CPU, or memory of a connection, as a multiple of tollgate's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of_tollgate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of_bare: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over_bare_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of_bare_dressed: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over_bare_dressed_us: Option<f64>,
    /// CPU as a multiple of its own in the first row of the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of_first: Option<f64>,
    /// Latency over what the upstream itself has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub added_p50_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub added_p99_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub added_p999_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_before_bytes: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_connection: Option<f64>,
}

/// Of one entry of a row; `first` is the row it is held against, besides.
pub fn figures(row: &RowReport, first: Option<&RowReport>, entry: usize) -> Option<Figures> {
    let own = &row.entries[entry];
    if own.rounds().is_empty() {
        return None;
    }
    let of = |pick: fn(&Sample) -> Option<f64>| median(own.rounds().iter().filter_map(pick));
    let cost: fn(&Sample) -> Option<f64> = |sample| per_connection(sample).or(sample.cpu_us);
    let beside = |name: &str| row.entry(name).filter(|other| other.name != own.name && own.name != DIRECT);
    let ratio = |name: &str| beside(name).and_then(|other| within(own, other, cost, |a, b| a / b));
    let over = |name: &str| beside(name).and_then(|other| within(own, other, |sample| sample.cpu_us, |a, b| a - b));
    let added =
        |pick: fn(&Sample) -> Option<f64>| beside(DIRECT).and_then(|other| within(own, other, pick, |a, b| a - b));
    let cpu = || own.rounds().iter().filter_map(|sample| sample.cpu_us);
    Some(Figures {
        cpu_us: of(|sample| sample.cpu_us),
        cpu_us_min: cpu().min_by(f64::total_cmp),
        cpu_us_max: cpu().max_by(f64::total_cmp),
        per_second: of(|sample| sample.per_second),
        p50_us: of(|sample| sample.p50_us),
        p99_us: of(|sample| sample.p99_us),
        p999_us: of(|sample| sample.p999_us),
        memory_bytes: of(|sample| Some(sample.memory_bytes as f64)),
        of_tollgate: if own.name == TOLLGATE { Some(1.0) } else { ratio(TOLLGATE) },
        of_bare: ratio(BARE),
        over_bare_us: over(BARE),
        of_bare_dressed: ratio(BARE_DRESSED),
        over_bare_dressed_us: over(BARE_DRESSED),
        of_first: first
            .and_then(|first| first.entry(&own.name))
            .and_then(|other| within(own, other, |sample| sample.cpu_us, |a, b| a / b)),
        added_p50_us: added(|sample| sample.p50_us),
        added_p99_us: added(|sample| sample.p99_us),
        added_p999_us: added(|sample| sample.p999_us),
        idle_before_bytes: of(|sample| sample.idle.map(|idle| idle.before_bytes as f64)),
        bytes_per_connection: of(per_connection),
    })
}

fn per_connection(sample: &Sample) -> Option<f64> {
    let idle = sample.idle?;
    Some((idle.after_bytes as f64 - idle.before_bytes as f64) / f64::from(idle.connections))
}

/// The median of what is taken round by round; none unless both have every round.
fn within(own: &Entry, other: &Entry, pick: fn(&Sample) -> Option<f64>, take: impl Fn(f64, f64) -> f64) -> Option<f64> {
    if own.rounds().len() != other.rounds().len() {
        return None;
    }
    let pairs = own.rounds().iter().zip(other.rounds());
    median(pairs.filter_map(|(own, other)| Some(take(pick(own)?, pick(other)?))))
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => None,
        n if n % 2 == 1 => Some(values[n / 2]),
        n => Some(f64::midpoint(values[n / 2 - 1], values[n / 2])),
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::job::{Job, Kind};
    use crate::report::{Idle, Outcome};

    /// An entry with these CPU microseconds in its rounds.
    pub fn entry(name: &str, cpu: &[f64]) -> Entry {
        let rounds = cpu
            .iter()
            .map(|cpu| Sample { cpu_us: Some(*cpu), p50_us: Some(*cpu * 10.0), ..Sample::default() })
            .collect();
        let is_reference = name.starts_with(BARE);
        Entry {
            name: name.to_owned(),
            is_reference,
            does: None,
            repeated: Vec::new(),
            outcome: Outcome::Measured { rounds },
            figures: None,
        }
    }

    pub fn row(id: &str, entries: Vec<Entry>) -> RowReport {
        let (title, what) = (String::new(), String::new());
        RowReport { id: id.to_owned(), job: Job::J1, title, what, kind: Kind::Closed, is_beside_first: false, entries }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        // The machine was half as fast in the second round; that is no difference between the two.
        let row = row("J1", vec![entry(BARE, &[20.0, 40.0, 20.0]), entry(TOLLGATE, &[22.0, 44.0, 22.0])]);
        let tollgate = figures(&row, None, 1).unwrap();
        assert_eq!((tollgate.cpu_us, tollgate.over_bare_us), (Some(22.0), Some(2.0)));
        assert!((tollgate.of_bare.unwrap() - 1.1).abs() < 1e-9);
        assert_eq!(
            (tollgate.cpu_us_min, tollgate.cpu_us_max, tollgate.of_tollgate),
            (Some(22.0), Some(44.0), Some(1.0))
        );
        let bare = figures(&row, None, 0).unwrap();
        assert!((bare.of_tollgate.unwrap() - 20.0 / 22.0).abs() < 1e-9);
        assert_eq!(bare.of_bare, None);
    }

    #[test]
    fn a_contender_without_all_rounds_has_no_ratio() {
        let row = row("J1", vec![entry(BARE, &[20.0]), entry(TOLLGATE, &[22.0, 44.0])]);
        assert_eq!(figures(&row, None, 1).unwrap().of_bare, None);
    }

    #[test]
    fn a_contender_without_rounds_has_no_figures() {
        let mut failed = entry("nginx", &[]);
        failed.outcome = Outcome::Failed { why: "x".into() };
        assert_eq!(figures(&row("J1", vec![failed]), None, 0), None);
    }

    #[test]
    fn scale_is_held_against_the_same_contenders_first_row() {
        let first = row("J9-base", vec![entry("nginx", &[10.0, 30.0]), entry(TOLLGATE, &[40.0, 40.0])]);
        let scale = row("J9-keys", vec![entry(TOLLGATE, &[44.0, 44.0]), entry("nginx", &[11.0, 33.0])]);
        assert!((figures(&scale, Some(&first), 1).unwrap().of_first.unwrap() - 1.1).abs() < 1e-9);
    }

    #[test]
    fn added_latency_is_over_the_upstream_itself() {
        let row = row("J8", vec![entry(DIRECT, &[10.0, 12.0, 11.0]), entry(TOLLGATE, &[16.0, 18.0, 18.0])]);
        assert_eq!(figures(&row, None, 1).unwrap().added_p50_us, Some(60.0));
        assert_eq!(figures(&row, None, 0).unwrap().of_tollgate, None);
    }

    #[test]
    fn idle_connections_are_compared_by_their_memory() {
        let idle = |name: &str, after_bytes: u64| {
            let idle = Some(Idle { connections: 100, before_bytes: 1_000, after_bytes });
            let mut entry = entry(name, &[]);
            entry.outcome = Outcome::Measured { rounds: vec![Sample { idle, ..Sample::default() }] };
            entry
        };
        let row = row("J7", vec![idle(TOLLGATE, 501_000), idle("nginx", 51_000)]);
        let nginx = figures(&row, None, 1).unwrap();
        assert_eq!((nginx.bytes_per_connection, nginx.of_tollgate), (Some(500.0), Some(0.1)));
    }

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
        assert_eq!(median([].into_iter()), None);
    }
}
