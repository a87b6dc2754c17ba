//! The audit: whether the database alone accounts for every record of every run. The rules are here, pure, over what was
//! read; reading, and how the result is shown, is in `audit/report.rs`.
//! A finding is something that nothing in the database explains. What a living gateway still has in hand, what waits in a
//! spool, and what a kill took before anyone could say so, is told without being one.

mod report;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::store::read::{StoredBatch, StoredDrops, StoredRun};

pub use report::Audit;

/// A run that was heard of within this time is alive: it says so every 10 s.
const ALIVE: SignedDuration = SignedDuration::from_secs(60);

/// What was read.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    pub(super) runs: Vec<StoredRun>,
    /// By run and first number.
    pub(super) batches: Vec<Counted>,
    pub(super) drops: Vec<StoredDrops>,
    /// Rows that are in no batch, by run.
    pub(super) strays: BTreeMap<u32, u64>,
    /// Requests before this time were removed by retention.
    pub(super) removed: Timestamp,
}

/// A batch, and how many of its rows there are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counted {
    pub(super) batch: StoredBatch,
    pub(super) found: u64,
}

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// It was heard of within the last minute.
    Alive,
    /// It ended and said so.
    Closed,
    /// It ended without a word, and the next start on its spool has closed it.
    KilledAndClosed,
    /// It ended without a word.
    Killed,
}

/// What nothing explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Two batches hold the same numbers.
    Overlap,
    /// Numbers are in no batch and in no checkpoint.
    Gap,
    /// A batch has fewer rows than were stored with it, or the batches have fewer than the run has stored.
    MissingRows,
    /// A batch has more rows than were stored with it, or rows have no batch.
    ExtraRows,
    /// Records were dropped, and the checkpoints say another number.
    Drops,
    /// Rows were left out of batches, and the checkpoints say another number.
    Rejected,
    /// A batch has no run.
    UnknownRun,
}

/// Something that nothing explains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) run: u32,
    pub(super) kind: Kind,
    pub(super) detail: String,
}

/// How a run stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct RunAudit {
    pub(super) run: u32,
    pub(super) node: String,
    #[serde(serialize_with = "as_text")]
    pub(super) started: Timestamp,
    pub(super) state: State,
    /// The highest number that is stored.
    pub(super) stored_to: u64,
    /// Rows that were stored, including those that retention has removed since.
    pub(super) rows: u64,
    /// By all checkpoints.
    pub(super) dropped: u64,
    /// By its last beat.
    pub(super) spooled: u64,
    /// Accepted by its last beat, and at that time neither stored nor spooled nor dropped.
    pub(super) pending: u64,
    /// What follows from that, in a sentence.
    pub(super) remark: String,
}

/// RFC 3339, UTC.
fn as_text<S: serde::Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(time)
}

/// All runs, and everything that nothing explains.
pub(super) fn audit(ledger: &Ledger, now: Timestamp) -> (Vec<RunAudit>, Vec<Finding>) {
    let mut findings = Vec::new();
    let mut runs = Vec::new();
    let all = All {
        recovered: ledger.runs.iter().fold(0, |sum, run| sum.saturating_add(run.totals.recovered)),
        checkpoints: ledger.drops.iter().fold(0, |sum, drops| sum.saturating_add(drops.count)),
    };
    for run in &ledger.runs {
        let of_run = Run::of(ledger, run);
        runs.push(of_run.audit(now, all, &mut findings));
        of_run.rows(ledger.removed, &mut findings);
    }
    rejected(ledger, &mut findings);
    let is_known = |run: u32| ledger.runs.iter().any(|known| known.run == run);
    for (run, count) in &ledger.strays {
        let detail = format!("{count} rows of api_logs are in no batch");
        findings.push(Finding { run: *run, kind: Kind::ExtraRows, detail });
    }
    let mut unknown: Vec<u32> = ledger.batches.iter().map(|counted| counted.batch.run).collect();
    unknown.retain(|run| !is_known(*run));
    unknown.dedup();
    for run in unknown {
        findings.push(Finding {
            run,
            kind: Kind::UnknownRun,
            detail: "batches of a run that log_runs lacks".to_owned(),
        });
    }
    findings.sort_by_key(|finding| (finding.run, finding.kind));
    (runs, findings)
}

/// What all runs have together.
#[derive(Clone, Copy, Debug)]
struct All {
    /// Records that were found in the spool of another run.
    recovered: u64,
    /// Records in checkpoints.
    checkpoints: u64,
}

/// A run and everything of it.
struct Run<'l> {
    run: &'l StoredRun,
    batches: &'l [Counted],
    drops: Vec<&'l StoredDrops>,
}

impl<'l> Run<'l> {
    fn of(ledger: &'l Ledger, run: &'l StoredRun) -> Self {
        let first = ledger.batches.partition_point(|counted| counted.batch.run < run.run);
        let end = ledger.batches.partition_point(|counted| counted.batch.run <= run.run);
        let drops = ledger.drops.iter().filter(|drops| drops.run == run.run).collect();
        Self { run, batches: &ledger.batches[first..end], drops }
    }

    fn state(&self, now: Timestamp) -> State {
        let was_killed = self.drops.iter().any(|drops| drops.reason == "killed");
        match self.run.closed {
            Some(_) if was_killed => State::KilledAndClosed,
            Some(_) => State::Closed,
            None if now.duration_since(self.run.beat) <= ALIVE => State::Alive,
            None => State::Killed,
        }
    }

    /// Records of this run were stored before there was a ledger, which then took them over as one range.
    fn is_older_than_the_ledger(&self) -> bool {
        self.batches.iter().any(|counted| is_older_than_the_ledger(&counted.batch))
    }

    fn audit(&self, now: Timestamp, all: All, findings: &mut Vec<Finding>) -> RunAudit {
        let state = self.state(now);
        let totals = self.run.totals;
        let dropped = self.checkpoints();
        let made = totals.accepted.saturating_add(totals.recovered);
        let settled = totals.written.saturating_add(totals.spooled).saturating_add(totals.dropped);
        let pending = made.saturating_sub(settled);
        let stored_to = self.batches.iter().map(|counted| counted.batch.last).max().unwrap_or_default();
        let unexplained = self.numbers(stored_to, state, findings);
        self.written(findings);
        // Totals and checkpoints are written together; only what is lost of another run has its checkpoint later.
        let agree = match state {
            State::Closed | State::KilledAndClosed => self.drops_agree(all),
            State::Alive | State::Killed => totals.dropped <= dropped.saturating_add(totals.recovered),
        };
        if !self.is_older_than_the_ledger() && !agree {
            let detail = format!("{} records were dropped, the checkpoints say {dropped}", totals.dropped);
            findings.push(self.finding(Kind::Drops, detail));
        }
        let remark = match state {
            State::Alive if pending > 0 => format!("{pending} records pending"),
            State::Killed => {
                format!(
                    "killed after number {stored_to}, at most {pending} of the records that its last beat knew are lost"
                )
            }
            State::KilledAndClosed => {
                let lost = self.drops.iter().filter(|drops| drops.reason == "killed").map(|drops| drops.count);
                let lost = lost.fold(0, u64::saturating_add);
                format!(
                    "killed after number {stored_to}; {lost} records of its last beat lost, and what it accepted after that"
                )
            }
            State::Closed => format!("closed after number {}", totals.last),
            State::Alive => String::new(),
        };
        // A later run stores what waits, and does not come back to say so here.
        let waits = match state {
            State::Alive | State::Killed => totals.spooled > 0,
            State::Closed => totals.spooled > 0 && unexplained > 0,
            State::KilledAndClosed => false,
        };
        let spool = if waits { format!("{} records wait in the spool", totals.spooled) } else { String::new() };
        let remark = [remark, spool].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
        RunAudit {
            run: self.run.run,
            node: self.run.node.clone(),
            started: self.run.started,
            state,
            stored_to,
            rows: self.batches.iter().fold(0, |sum, counted| sum.saturating_add(counted.batch.rows)),
            dropped,
            spooled: totals.spooled,
            pending,
            remark,
        }
    }

    /// Whether the batches have all that the run has stored, by its own count, which is written with them: what it stored of the
    /// spools of earlier runs is in their batches.
    fn written(&self, findings: &mut Vec<Finding>) {
        let rows = self.batches.iter().fold(0_u64, |sum, counted| sum.saturating_add(counted.batch.rows));
        let own = self.run.totals.written.saturating_sub(self.run.totals.recovered);
        // A gap in the numbers says it already.
        let is_said = findings.iter().any(|finding| finding.run == self.run.run && finding.kind == Kind::Gap);
        if rows < own && !is_said && !self.is_older_than_the_ledger() {
            let detail = format!("{own} records were stored, the batches have {rows}");
            findings.push(self.finding(Kind::MissingRows, detail));
        }
    }

    fn checkpoints(&self) -> u64 {
        self.drops.iter().fold(0, |sum, drops| sum.saturating_add(drops.count))
    }

    /// Whether what was counted as dropped is what the checkpoints say. What a later run found in the spool and lost, it counts
    /// itself, but the checkpoint is with the run that had made it.
    fn drops_agree(&self, all: All) -> bool {
        let (counted, checkpoints) = (self.run.totals.dropped, self.checkpoints());
        match counted.checked_sub(checkpoints) {
            Some(more) => more <= self.run.totals.recovered.min(all.checkpoints.saturating_sub(checkpoints)),
            None => checkpoints - counted <= all.recovered,
        }
    }

    /// Whether the ranges follow each other from 1 to the last number. How many numbers nothing but the spool explains.
    fn numbers(&self, stored_to: u64, state: State, findings: &mut Vec<Finding>) -> u64 {
        let mut missing = Vec::new();
        // What was stored before there was a ledger need not begin with 1: retention may have been there.
        let mut next = self
            .batches
            .first()
            .map_or(1, |first| if is_older_than_the_ledger(&first.batch) { first.batch.first } else { 1 });
        for Counted { batch, .. } in self.batches {
            if batch.first < next {
                let to = batch.last.min(next - 1);
                let detail = format!("numbers {} to {to} are in two batches", batch.first);
                findings.push(self.finding(Kind::Overlap, detail));
            } else {
                missing.extend(self.unexplained(next, batch.first - 1));
            }
            next = next.max(batch.last.saturating_add(1));
        }
        // The numbers after the last that is stored: a living run has them in hand, a killed one may have lost them.
        if matches!(state, State::Closed | State::KilledAndClosed) {
            missing.extend(self.unexplained(stored_to + 1, self.run.totals.last));
        }
        let count = missing.iter().fold(0_u64, |sum, (first, last)| sum.saturating_add(last - first + 1));
        // A spool is written and replayed in whole batches; a kill takes what has no number yet as well.
        let killed = self.drops.iter().filter(|drops| drops.reason == "killed" && !drops.numbered);
        let killed = killed.fold(0_u64, |sum, drops| sum.saturating_add(drops.count));
        let spooled = if state == State::KilledAndClosed { 0 } else { self.run.totals.spooled };
        if count > spooled.saturating_add(killed) {
            for (first, last) in missing {
                let detail = format!("numbers {first} to {last} are in no batch and in no checkpoint");
                findings.push(self.finding(Kind::Gap, detail));
            }
        }
        count
    }

    /// What of some numbers is in no checkpoint.
    fn unexplained(&self, first: u64, last: u64) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = self
            .drops
            .iter()
            .filter(|drops| drops.numbered && drops.count > 0)
            .map(|drops| (drops.after.saturating_add(1), drops.after.saturating_add(drops.count)))
            .collect();
        ranges.sort_unstable();
        let mut unexplained = Vec::new();
        let mut next = first;
        for (from, to) in ranges {
            if from > next && next <= last {
                unexplained.push((next, last.min(from - 1)));
            }
            next = next.max(to.saturating_add(1));
        }
        if next <= last {
            unexplained.push((next, last));
        }
        unexplained
    }

    /// Whether every batch has the rows that were stored with it, as far as retention has left them.
    fn rows(&self, removed: Timestamp, findings: &mut Vec<Finding>) {
        for Counted { batch, found } in self.batches {
            let StoredBatch { first, last, rows, .. } = batch;
            let may_be_removed = batch.oldest < removed;
            if found > rows {
                let detail = format!("numbers {first} to {last}: {found} rows, {rows} were stored");
                findings.push(self.finding(Kind::ExtraRows, detail));
            } else if found < rows && !may_be_removed {
                let detail = format!("numbers {first} to {last}: {} of {rows} rows are missing", rows - found);
                findings.push(self.finding(Kind::MissingRows, detail));
            }
        }
    }

    fn finding(&self, kind: Kind, detail: String) -> Finding {
        Finding { run: self.run.run, kind, detail }
    }
}

/// A batch is stored after its requests; only what a migration took over was "stored" with its newest one.
fn is_older_than_the_ledger(batch: &StoredBatch) -> bool {
    batch.written == batch.newest
}

/// Whether the rows that batches lack are those of the checkpoints `rejected`. Those of a run that was killed may be in a
/// checkpoint of the run that found them in the spool, so that only all runs together have to agree.
fn rejected(ledger: &Ledger, findings: &mut Vec<Finding>) {
    let mut lacking: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    for Counted { batch, .. } in ledger.batches.iter().filter(|counted| !is_older_than_the_ledger(&counted.batch)) {
        let numbers = batch.last.saturating_sub(batch.first).saturating_add(1);
        lacking.entry(batch.run).or_default().0 += numbers.saturating_sub(batch.rows);
    }
    for drops in ledger.drops.iter().filter(|drops| drops.reason == "rejected") {
        lacking.entry(drops.run).or_default().1 += drops.count;
    }
    let sums = lacking.values().fold((0, 0), |sum, (lacking, said)| (sum.0 + lacking, sum.1 + said));
    if sums.0 == sums.1 {
        return;
    }
    for (run, (lacking, said)) in lacking.into_iter().filter(|(_, (lacking, said))| lacking != said) {
        let detail = format!("batches lack {lacking} rows, the checkpoints say that {said} were rejected");
        findings.push(Finding { run, kind: Kind::Rejected, detail });
    }
}
