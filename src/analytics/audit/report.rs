//! The audit of a store: its ledger beside one ordered scan of its rows; as a table and as JSON.
//! Not here: what is a finding (`audit.rs`).

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde::Serialize;

use super::{Counted, Finding, Ledger, RunAudit, State, audit};
use crate::analytics::sheet::{Cell, Sheet, Style, Tint, column};
use crate::analytics::text::{count, printable};
use crate::store::read::{Position, Reader, StoredBatch, Unreadable};

/// The result of an audit.
#[derive(Debug, Serialize)]
pub struct Audit {
    runs: Vec<RunAudit>,
    findings: Vec<Finding>,
}

impl Audit {
    /// Reads the ledger and every row's identity.
    ///
    /// # Errors
    /// The store can't be read, or not in time.
    pub fn of(reader: &mut Reader, now: Timestamp) -> Result<Self, Unreadable> {
        let mut counting = Counting::new(reader.batches()?);
        let (runs, drops, removed) = (reader.runs()?, reader.drops()?, reader.removed()?.requests);
        reader.positions(&mut |position| {
            counting.count(position);
            Ok(())
        })?;
        let Counting { batches, strays, .. } = counting;
        let (runs, findings) = audit(&Ledger { runs, batches, drops, strays, removed }, now);
        Ok(Self { runs, findings })
    }

    /// Whether everything is explained.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// One JSON object.
    pub fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// A line for each run and each finding.
    pub fn table(&self, style: Style) -> String {
        let columns = vec![
            column("run", false, 0),
            column("node", true, 2),
            column("started, UTC", false, 1),
            column("state", true, 0),
            column("stored to", false, 0),
            column("rows", false, 3),
            column("dropped", false, 0),
            column("remark", true, 0),
        ];
        let row = |run: &RunAudit| -> Vec<Cell> {
            let state = match run.state {
                State::Alive => "alive",
                State::Closed => "closed",
                State::KilledAndClosed => "killed, closed",
                State::Killed => "killed",
            };
            let bad = |is_bad: bool| if is_bad { Tint::Bad } else { Tint::Plain };
            vec![
                Cell::from(run.run.to_string()),
                Cell::from(printable(&run.node)),
                Cell::from(run.started.strftime("%Y-%m-%d %H:%M:%S").to_string()),
                Cell { text: state.to_owned(), tint: bad(run.state == State::Killed) },
                Cell::from(count(run.stored_to)),
                Cell::from(count(run.rows)),
                Cell { text: count(run.dropped), tint: bad(run.dropped > 0) },
                Cell::from(run.remark.clone()),
            ]
        };
        let mut text = Sheet { columns, rows: self.runs.iter().map(row).collect() }.render(style);
        for Finding { run, detail, .. } in &self.findings {
            text += &(style.paint(&format!("run {run}: {detail}"), Tint::Bad) + "\n");
        }
        text += &match self.findings.len() {
            0 => style.paint("no findings: every record is accounted for\n", Tint::Good),
            1 => "1 finding\n".to_owned(),
            findings => format!("{} findings\n", count(findings as u64)),
        };
        text
    }
}

/// Rows on their way to their batches.
struct Counting {
    batches: Vec<Counted>,
    strays: BTreeMap<u32, u64>,
    /// Of each run: its batches, and the one of the row before, which most likely has the next row, too.
    runs: HashMap<u32, (usize, usize, usize)>,
}

impl Counting {
    /// The batches in the order of run and first number.
    fn new(batches: Vec<StoredBatch>) -> Self {
        let mut runs: HashMap<u32, (usize, usize, usize)> = HashMap::new();
        for (place, batch) in batches.iter().enumerate() {
            runs.entry(batch.run).or_insert((place, place, place)).1 = place + 1;
        }
        let batches = batches.into_iter().map(|batch| Counted { batch, found: 0 }).collect();
        Self { batches, strays: BTreeMap::new(), runs }
    }

    fn count(&mut self, position: Position) {
        let Position { run, sequence, .. } = position;
        let holds = |counted: &Counted| (counted.batch.first..=counted.batch.last).contains(&sequence);
        if let Some((first, end, last_used)) = self.runs.get_mut(&run) {
            if !holds(&self.batches[*last_used]) {
                let of_run = &self.batches[*first..*end];
                let after = of_run.partition_point(|counted| counted.batch.first <= sequence);
                *last_used = *first + after.saturating_sub(1);
            }
            if holds(&self.batches[*last_used]) {
                self.batches[*last_used].found += 1;
                return;
            }
        }
        *self.strays.entry(run).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_in_their_batch() {
        let batch = |run, first, last| StoredBatch {
            run,
            first,
            last,
            rows: last - first + 1,
            oldest: Timestamp::UNIX_EPOCH,
            newest: Timestamp::UNIX_EPOCH,
            written: Timestamp::UNIX_EPOCH,
        };
        let mut counting = Counting::new(vec![batch(1, 1, 10), batch(1, 21, 30), batch(3, 1, 5)]);
        for (run, sequence) in [(1, 1), (1, 10), (3, 5), (1, 11), (1, 30), (1, 21), (1, 31), (1, 5), (2, 1), (3, 0)] {
            counting.count(Position { timestamp: Timestamp::UNIX_EPOCH, run, sequence });
        }
        assert_eq!(counting.batches.iter().map(|counted| counted.found).collect::<Vec<_>>(), [3, 2, 1]);
        assert_eq!(counting.strays, BTreeMap::from([(1, 2), (2, 1), (3, 1)]));
    }
}
