//! The baseline: what tollgate cost beside bare Pingora when it was last recorded, as ratios only, and whether it got worse.
//! Ratios hold, within some percent, on other machines; microseconds do not.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::contenders::{BARE, BARE_DRESSED, TOLLGATE};
use crate::report::Report;

/// A ratio may be this much worse than the baseline's.
pub const TOLERANCE: f64 = 0.05;

/// The rows that have a baseline: those with a reference, under load.
pub const ROWS: [&str; 8] = ["J1", "J2", "J3", "J4-401", "J4-404", "J4-429", "J5", "J6"];

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// For whoever opens the file.
    pub what: String,
    pub taken: String,
    /// CPU per request of tollgate as a multiple of a reference's, by row and reference.
    pub ratios: BTreeMap<String, BTreeMap<String, f64>>,
}

/// A ratio that is worse than it may be.
#[derive(Debug, PartialEq)]
pub struct Worse {
    pub row: String,
    pub reference: String,
    pub baseline: f64,
    pub now: f64,
}

impl Baseline {
    /// The ratios of a report; an error when one is missing.
    pub fn of(report: &Report) -> Result<Self, Box<dyn Error>> {
        let mut ratios = BTreeMap::new();
        for id in ROWS {
            let row = report.rows.iter().find(|row| row.id == id);
            let figures = row.and_then(|row| row.entry(TOLLGATE)).and_then(|entry| entry.figures.as_ref());
            let figures = figures.ok_or_else(|| format!("{id}: no figures of tollgate, so there is no baseline"))?;
            let of = [(BARE, figures.of_bare), (BARE_DRESSED, figures.of_bare_dressed)];
            let of: BTreeMap<String, f64> =
                of.into_iter().filter_map(|(name, ratio)| Some((name.to_owned(), rounded(ratio?)))).collect();
            if of.is_empty() {
                return Err(format!("{id}: tollgate was not measured beside bare Pingora").into());
            }
            ratios.insert(id.to_owned(), of);
        }
        let what = "CPU per request of tollgate as a multiple of bare Pingora's (J3: of bare proxying, J4: of its own 401); \
                    written by `loadtest compare --baseline-out`, checked by `make bench-check`";
        Ok(Self { what: what.to_owned(), taken: report.taken.clone(), ratios })
    }

    pub fn read(path: &Path) -> Result<Self, Box<dyn Error>> {
        let place = path.display();
        let text =
            fs::read_to_string(path).map_err(|error| format!("{place}: {error}; `make bench-record` writes it"))?;
        let baseline: Self = serde_json::from_str(&text).map_err(|error| format!("{place}: {error}"))?;
        for id in ROWS {
            let ratios = baseline.ratios.get(id).filter(|ratios| !ratios.is_empty());
            let ratios = ratios.ok_or_else(|| format!("{place}: no ratio for {id}; `make bench-record` writes it"))?;
            if let Some((name, ratio)) = ratios.iter().find(|(_, ratio)| !(ratio.is_finite() && **ratio > 0.0)) {
                return Err(format!("{place}: {id} beside {name}: {ratio} is no ratio").into());
            }
        }
        Ok(baseline)
    }

    pub fn write(&self, path: &Path) -> Result<(), Box<dyn Error>> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()).into())
    }

    /// What is worse now. A ratio that the baseline has and this run does not is an error: nothing passes by not being measured.
    pub fn worse(&self, now: &Self) -> Result<Vec<Worse>, String> {
        let mut worse = Vec::new();
        for (row, ratios) in &self.ratios {
            for (reference, baseline) in ratios {
                let measured = now.ratios.get(row).and_then(|ratios| ratios.get(reference));
                let now = *measured.ok_or_else(|| format!("{row}: not measured beside {reference}"))?;
                if now > baseline * (1.0 + TOLERANCE) {
                    let (row, reference) = (row.clone(), reference.clone());
                    worse.push(Worse { row, reference, baseline: *baseline, now });
                }
            }
        }
        Ok(worse)
    }
}

impl std::fmt::Display for Worse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { row, reference, baseline, now } = self;
        let percent = (now / baseline - 1.0) * 100.0;
        write!(f, "{row}: {now:.3} x {reference}, the baseline is {baseline:.3}: {percent:.1}% worse")
    }
}

fn rounded(ratio: f64) -> f64 {
    (ratio * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::figures::tests::{entry, row};

    /// All rows, in which tollgate costs `cost` and bare Pingora 20.
    fn report(cost: &[(&str, f64)]) -> Report {
        let rows = ROWS.map(|id| {
            let cost = cost.iter().find(|(other, _)| *other == id).map_or(30.0, |(_, cost)| *cost);
            let rounds = |cost: f64| [cost, cost * 2.0, cost];
            let entries =
                vec![entry(BARE, &rounds(20.0)), entry(BARE_DRESSED, &rounds(24.0)), entry(TOLLGATE, &rounds(cost))];
            row(id, entries)
        });
        let mut report = Report::empty();
        report.rows = rows.into();
        report.compute();
        report
    }

    #[test]
    fn the_same_result_passes() {
        let baseline = Baseline::of(&report(&[])).unwrap();
        assert_eq!(baseline.ratios["J1"], BTreeMap::from([(BARE.to_owned(), 1.5), (BARE_DRESSED.to_owned(), 1.25)]));
        assert_eq!(baseline.worse(&baseline), Ok(vec![]));
    }

    #[test]
    fn a_result_within_the_tolerance_passes_and_a_better_one() {
        let baseline = Baseline::of(&report(&[])).unwrap();
        let now = Baseline::of(&report(&[("J1", 31.4), ("J2", 20.0)])).unwrap();
        assert_eq!(baseline.worse(&now), Ok(vec![]));
    }

    #[test]
    fn a_worse_result_fails_and_is_named() {
        let baseline = Baseline::of(&report(&[])).unwrap();
        let now = Baseline::of(&report(&[("J4-404", 31.6)])).unwrap();
        let worse = baseline.worse(&now).unwrap();
        let texts: Vec<String> = worse.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "J4-404: 1.580 x bare, the baseline is 1.500: 5.3% worse",
                "J4-404: 1.317 x bare dressed, the baseline is 1.250: 5.4% worse",
            ]
        );
    }

    #[test]
    fn what_was_not_measured_does_not_pass() {
        let baseline = Baseline::of(&report(&[])).unwrap();
        let mut now = Baseline::of(&report(&[])).unwrap();
        now.ratios.remove("J5");
        assert!(baseline.worse(&now).unwrap_err().starts_with("J5: not measured"));
        let mut half = report(&[]);
        half.rows.pop();
        assert!(Baseline::of(&half).is_err());
    }

    #[test]
    fn a_file_is_read_back_and_a_broken_one_is_refused() {
        let path = std::env::temp_dir().join(format!("loadtest-baseline-{}.json", std::process::id()));
        let mut baseline = Baseline::of(&report(&[])).unwrap();
        baseline.write(&path).unwrap();
        assert_eq!(Baseline::read(&path).unwrap(), baseline);
        baseline.ratios.get_mut("J1").unwrap().insert(BARE.to_owned(), 0.0);
        baseline.write(&path).unwrap();
        assert!(Baseline::read(&path).unwrap_err().to_string().contains("J1 beside bare: 0 is no ratio"));
        baseline.ratios.remove("J6");
        baseline.write(&path).unwrap();
        assert!(Baseline::read(&path).is_err());
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn every_row_of_the_baseline_is_a_row_of_a_job() {
        assert!(ROWS.iter().all(|id| crate::job::row(id).is_some_and(|row| row.reference.is_some())));
    }
}
