//! Each finding, and what looks like one and is explained: a run, its ranges and checkpoints, and what the audit says.

use super::*;
use crate::store::Totals;
use crate::store::usage::Minute;

const NOW: i64 = 1_000_000;
/// What is said of the run that [`ledger`] makes.
const CLOSED: &str = "closed after number 30";

/// A closed run with 30 records in two batches, all of which are there; tests change what they are about.
fn ledger() -> Ledger {
    let run = StoredRun {
        run: 1,
        node: "gate".to_owned(),
        version: "1".to_owned(),
        started: second(0),
        beat: second(900),
        closed: Some(second(900)),
        totals: Totals { accepted: 30, recovered: 0, written: 30, spooled: 0, dropped: 0, last: 30 },
        hours_until: Minute(0),
        days_until: Minute(0),
    };
    Ledger { runs: vec![run], batches: vec![batch(1, 20), batch(21, 30)], ..Ledger::default() }
}

fn second(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn batch(first: u64, last: u64) -> Counted {
    let rows = last - first + 1;
    let batch =
        StoredBatch { run: 1, first, last, rows, oldest: second(100), newest: second(200), written: second(201) };
    Counted { batch, found: rows }
}

fn drops(reason: &str, after: u64, count: u64, numbered: bool) -> StoredDrops {
    StoredDrops { run: 1, after, count, reason: reason.to_owned(), numbered }
}

#[track_caller]
fn check(change: impl FnOnce(&mut Ledger), expected: &[(Kind, &str)], remark: &str) {
    let mut ledger = ledger();
    change(&mut ledger);
    let (runs, findings) = audit(&ledger, second(NOW));
    let found: Vec<(Kind, &str)> = findings.iter().map(|finding| (finding.kind, finding.detail.as_str())).collect();
    assert_eq!(found, expected);
    assert_eq!(runs[0].remark, remark);
}

#[test]
fn a_run_with_everything_stored_is_clean() {
    check(|_| {}, &[], CLOSED);
}

#[test]
fn a_gap_is_found() {
    check(
        |ledger| ledger.batches[1] = batch(25, 30),
        &[(Kind::Gap, "numbers 21 to 24 are in no batch and in no checkpoint")],
        CLOSED,
    );
    check(
        |ledger| ledger.batches[0] = batch(2, 20),
        &[(Kind::Gap, "numbers 1 to 1 are in no batch and in no checkpoint")],
        CLOSED,
    );
    check(
        |ledger| ledger.batches.truncate(1),
        &[(Kind::Gap, "numbers 21 to 30 are in no batch and in no checkpoint")],
        CLOSED,
    );
    check(
        |ledger| ledger.batches.clear(),
        &[(Kind::Gap, "numbers 1 to 30 are in no batch and in no checkpoint")],
        CLOSED,
    );
}

#[test]
fn a_numbered_checkpoint_explains_a_gap() {
    let drop = |ledger: &mut Ledger, after, count, numbered| {
        ledger.batches[1] = batch(25, 30);
        ledger.drops = vec![drops("spool_full", after, count, numbered)];
        (ledger.runs[0].totals.written, ledger.runs[0].totals.dropped) = (26, count);
    };
    check(|ledger| drop(ledger, 20, 4, true), &[], CLOSED);
    check(
        |ledger| drop(ledger, 21, 2, true),
        &[
            (Kind::Gap, "numbers 21 to 21 are in no batch and in no checkpoint"),
            (Kind::Gap, "numbers 24 to 24 are in no batch and in no checkpoint"),
        ],
        CLOSED,
    );
    check(
        |ledger| drop(ledger, 20, 4, false),
        &[(Kind::Gap, "numbers 21 to 24 are in no batch and in no checkpoint")],
        CLOSED,
    );
}

#[test]
fn records_without_numbers_leave_no_gap() {
    let change = |ledger: &mut Ledger| {
        ledger.drops = vec![drops("queue_full", 20, 7, false)];
        ledger.runs[0].totals.dropped = 7;
    };
    check(change, &[], CLOSED);
}

#[test]
fn an_overlap_is_found() {
    check(
        |ledger| ledger.batches[1] = batch(19, 30),
        &[(Kind::Overlap, "numbers 19 to 20 are in two batches")],
        CLOSED,
    );
}

#[test]
fn missing_rows_are_found_within_retention() {
    let missing = (Kind::MissingRows, "numbers 21 to 30: 3 of 10 rows are missing");
    check(|ledger| ledger.batches[1].found = 7, &[missing], CLOSED);
    let removed = |second_removed: i64| {
        move |ledger: &mut Ledger| {
            ledger.batches[1].found = 7;
            ledger.removed = second(second_removed);
        }
    };
    check(removed(100), &[missing], CLOSED);
    check(removed(101), &[], CLOSED);
    check(removed(300), &[], CLOSED);
}

#[test]
fn rows_that_nobody_stored_are_found() {
    check(
        |ledger| ledger.batches[1].found = 11,
        &[(Kind::ExtraRows, "numbers 21 to 30: 11 rows, 10 were stored")],
        CLOSED,
    );
    check(
        |ledger| {
            ledger.strays.insert(1, 2);
        },
        &[(Kind::ExtraRows, "2 rows of api_logs are in no batch")],
        CLOSED,
    );
}

#[test]
fn drops_without_a_checkpoint_are_found() {
    let finding = (Kind::Drops, "5 records were dropped, the checkpoints say 0");
    check(|ledger| ledger.runs[0].totals.dropped = 5, &[finding], CLOSED);
    // They are written together, so what holds for an ended run holds for one that lives, or was killed.
    let open = |age: i64, recovered: u64| {
        move |ledger: &mut Ledger| {
            ledger.runs[0].totals = Totals { accepted: 35, dropped: 5, recovered, ..ledger.runs[0].totals };
            (ledger.runs[0].closed, ledger.runs[0].beat) = (None, second(NOW - age));
        }
    };
    let finding = (Kind::Drops, "5 records were dropped, the checkpoints say 0");
    check(open(30, 0), &[finding], "");
    let killed = "killed after number 30, at most 0 of the records that its last beat knew are lost";
    check(open(100, 0), &[finding], killed);
    // Of another run's: the checkpoint comes when that one is closed.
    check(open(30, 5), &[], "5 records pending");
}

#[test]
fn rejected_rows_are_in_a_checkpoint() {
    let change = |count: u64| {
        move |ledger: &mut Ledger| {
            ledger.batches[1].batch.rows = 8;
            ledger.batches[1].found = 8;
            ledger.runs[0].totals = Totals { written: 28, dropped: count, ..ledger.runs[0].totals };
            ledger.drops = vec![drops("rejected", 30, count, false)];
        }
    };
    check(change(2), &[], CLOSED);
    check(change(1), &[(Kind::Rejected, "batches lack 2 rows, the checkpoints say that 1 were rejected")], CLOSED);
}

#[test]
fn rows_that_a_later_run_could_not_store_are_counted_there() {
    // Run 1 left ten records in its spool; run 2 found two of them to be unstorable, and counts them.
    let change = |counted: u64| {
        move |ledger: &mut Ledger| {
            ledger.batches[1].batch.rows = 8;
            ledger.batches[1].found = 8;
            ledger.runs[0].totals = Totals { written: 20, spooled: 10, ..ledger.runs[0].totals };
            ledger.drops = vec![drops("rejected", 30, 2, false)];
            let totals = Totals { recovered: 10, written: 10 - counted, dropped: counted, ..Totals::default() };
            ledger.runs.push(StoredRun { run: 2, totals, ..ledger.runs[0].clone() });
        }
    };
    check(change(2), &[], CLOSED);
    check(change(3), &[(Kind::Drops, "3 records were dropped, the checkpoints say 0")], CLOSED);
}

#[test]
fn a_living_run_may_have_records_pending() {
    let change = |ledger: &mut Ledger| {
        ledger.runs[0].totals = Totals { accepted: 50, last: 40, ..ledger.runs[0].totals };
        (ledger.runs[0].closed, ledger.runs[0].beat) = (None, second(NOW - 60));
    };
    check(change, &[], "20 records pending");
}

#[test]
fn a_run_that_fell_silent_was_killed() {
    let change = |ledger: &mut Ledger| {
        ledger.runs[0].totals = Totals { accepted: 50, last: 40, ..ledger.runs[0].totals };
        (ledger.runs[0].closed, ledger.runs[0].beat) = (None, second(NOW - 61));
    };
    check(change, &[], "killed after number 30, at most 20 of the records that its last beat knew are lost");
    let with_spool = |ledger: &mut Ledger| {
        change(ledger);
        ledger.runs[0].totals.spooled = 15;
    };
    check(
        with_spool,
        &[],
        "killed after number 30, at most 5 of the records that its last beat knew are lost; 15 records wait in the spool",
    );
}

#[test]
fn a_kill_that_was_closed_says_what_was_lost() {
    let change = |numbered: bool| {
        move |ledger: &mut Ledger| {
            ledger.runs[0].totals = Totals { accepted: 50, dropped: 20, last: 40, ..ledger.runs[0].totals };
            ledger.drops = vec![drops("killed", 30, 20, numbered)];
        }
    };
    check(
        change(true),
        &[],
        "killed after number 30; 20 records of its last beat lost, and what it accepted after that",
    );
    check(
        change(false),
        &[],
        "killed after number 30; 20 records of its last beat lost, and what it accepted after that",
    );
}

#[test]
fn a_batch_that_is_taken_from_the_end_is_a_finding_however_the_run_ended() {
    let change = |closed: bool, age: i64, killed: u64| {
        move |ledger: &mut Ledger| {
            ledger.batches.pop();
            (ledger.runs[0].closed, ledger.runs[0].beat) = (closed.then(|| second(NOW)), second(NOW - age));
            ledger.runs[0].totals.dropped = killed;
            if closed {
                ledger.drops = vec![drops("killed", 30, killed, false)];
            }
        }
    };
    let found = |ledger: &Ledger| {
        let (_, findings) = audit(ledger, second(NOW));
        findings.into_iter().map(|finding| finding.detail).collect::<Vec<_>>()
    };
    for (closed, age, killed) in [(false, 1, 0), (false, 100, 0), (true, 100, 10)] {
        let mut ledger = ledger();
        let rows = ledger.batches.last().unwrap().batch.rows;
        change(closed, age, killed)(&mut ledger);
        let said = format!("30 records were stored, the batches have {}", 30 - rows);
        assert!(found(&ledger).contains(&said), "{:?}", found(&ledger));
    }
}

#[test]
fn what_waits_in_the_spool_of_a_closed_run_is_said() {
    let change = |spooled: u64| {
        move |ledger: &mut Ledger| {
            ledger.batches.truncate(1);
            ledger.runs[0].totals = Totals { written: 20, spooled, ..ledger.runs[0].totals };
        }
    };
    check(change(10), &[], "closed after number 30; 10 records wait in the spool");
    let gap = (Kind::Gap, "numbers 21 to 30 are in no batch and in no checkpoint");
    check(change(9), &[gap], "closed after number 30; 9 records wait in the spool");
}

#[test]
fn what_was_stored_before_the_ledger_is_taken_as_it_is() {
    let change = |ledger: &mut Ledger| {
        let mut old = batch(5, 20);
        (old.batch.rows, old.found, old.batch.written) = (10, 10, old.batch.newest);
        ledger.batches[0] = old;
        ledger.runs[0].totals.dropped = 6;
    };
    check(change, &[], CLOSED);
}

#[test]
fn batches_without_a_run_are_found() {
    let mut ledger = ledger();
    ledger.runs.clear();
    let (runs, findings) = audit(&ledger, second(NOW));
    assert!(runs.is_empty());
    assert_eq!(findings.iter().map(|finding| finding.kind).collect::<Vec<_>>(), [Kind::UnknownRun]);
}
