//! The result of a run: every round of every contender, and what is said about them (`figures.rs`).
//! It is written and read as JSON; `tables.rs` makes text and Markdown of it.

pub mod figures;
pub mod page;
pub mod tables;

use serde::{Deserialize, Serialize};

pub use figures::Figures;

use crate::job::{Job, Kind};
use crate::load::Load;
use crate::machine::Machine;

#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// The day, in the machine's time zone.
    pub taken: String,
    /// As it was typed.
    pub command: String,
    pub machine: Machine,
    pub settings: Settings,
    /// Contenders and load generators.
    pub programs: Vec<Program>,
    pub rows: Vec<RowReport>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub rounds: u32,
    /// Of load in a measurement.
    pub seconds: u32,
    pub connections: u32,
    /// Requests a second in J8.
    pub rate: u32,
    /// Connections in J7.
    pub idle_connections: u32,
    /// Client addresses in J9.
    pub addresses: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Program {
    pub name: String,
    pub is_installed: bool,
    /// What it says of its version, or why it is not there.
    pub version: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct RowReport {
    pub id: String,
    pub job: Job,
    pub title: String,
    pub what: String,
    pub kind: Kind,
    /// Whether it is held against the first row of its job, of the same contender.
    pub is_beside_first: bool,
    pub entries: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Entry {
    pub name: String,
    pub is_reference: bool,
    /// What it was asked for instead of the row's work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub does: Option<String>,
    /// Measurements that did not count, and were made again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repeated: Vec<String>,
    #[serde(flatten)]
    pub outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub figures: Option<Figures>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    Measured {
        rounds: Vec<Sample>,
    },
    /// It does not offer this.
    CanNot {
        why: String,
    },
    /// It is not installed.
    Missing {
        why: String,
    },
    /// Its work was not done.
    Failed {
        why: String,
    },
}

/// One contender in one round.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub answers: u64,
    /// CPU time per answer, of all its processes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_us: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p999_us: Option<f64>,
    /// Resident memory of all its processes after the load.
    pub memory_bytes: u64,
    pub processes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Idle>,
}

/// Resident memory before and after connections were opened, each of which asked once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Idle {
    pub connections: u32,
    pub before_bytes: u64,
    pub after_bytes: u64,
}

impl Sample {
    /// What a load generator says.
    pub fn of(load: &Load) -> Self {
        Self {
            answers: load.answers,
            per_second: Some(load.per_second()),
            p50_us: Some(load.p50_us),
            p99_us: Some(load.p99_us),
            p999_us: Some(load.p999_us),
            ..Self::default()
        }
    }
}

impl Report {
    #[cfg(test)]
    pub fn empty() -> Self {
        let (settings, machine) = (Settings::default(), Machine::read());
        let (taken, command) = (String::new(), String::new());
        Self { taken, command, machine, settings, programs: Vec::new(), rows: Vec::new() }
    }

    /// Fills in the figures, which follow from the samples.
    pub fn compute(&mut self) {
        for row in 0..self.rows.len() {
            let first = self.rows.iter().position(|other| other.job == self.rows[row].job);
            let first = first.filter(|_| self.rows[row].is_beside_first);
            for entry in 0..self.rows[row].entries.len() {
                let figures = figures::figures(&self.rows[row], first.map(|first| &self.rows[first]), entry);
                self.rows[row].entries[entry].figures = figures;
            }
        }
    }

    /// What went wrong, one text each.
    pub fn failures(&self) -> Vec<&str> {
        let mut failures: Vec<&str> = Vec::new();
        for entry in self.rows.iter().flat_map(|row| &row.entries) {
            // What failed at the start fails in every row of its setup.
            if let Outcome::Failed { why } = &entry.outcome
                && !failures.contains(&why.as_str())
            {
                failures.push(why);
            }
        }
        failures
    }
}

impl RowReport {
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }
}

impl Entry {
    /// All rounds; none when there are no figures.
    pub fn rounds(&self) -> &[Sample] {
        match &self.outcome {
            Outcome::Measured { rounds } => rounds,
            _ => &[],
        }
    }
}
