//! The spool on real files: order, bounds, restart, and damage at every byte.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use proptest::prelude::*;
use sha2::Digest;
use uuid::Uuid;

use super::*;
use crate::store::usage::{Minute, Series, Tally};
use crate::store::{Drops, Moment, Totals};

pub(super) fn run(number: u64) -> Run {
    Run {
        id: Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0000 + u128::from(number)),
        node: format!("edge-{number}"),
        version: "1.2.3".to_owned(),
        started: UNIX_EPOCH + Duration::new(1_772_366_400 + number, 5),
    }
}

/// What a row borrows from.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    texts: [String; 5],
    optional: [Option<String>; 9],
    numbers: [u64; 4],
    flags: [bool; 2],
    address: Option<IpAddr>,
    request_id: [u8; 16],
}

impl Sample {
    pub(super) fn row(&self) -> Row<'_> {
        let [endpoint, http_method, path, protocol, decided_by] = self.texts.each_ref().map(String::as_str);
        let [client_request_id, host, consumer, key, service, instance, cache, limit_name, user_agent] =
            self.optional.each_ref().map(Option::as_deref);
        let [one, two, three, four] = self.numbers;
        Row {
            timestamp: Moment::of(UNIX_EPOCH + Duration::from_micros(one >> 16)),
            minute: Minute(two as u32),
            endpoint,
            http_method,
            method_label: http_method,
            status_code: three as u16,
            response_time: one,
            is_error: self.flags[0],
            is_blocked: self.flags[1],
            request_id: self.request_id,
            client_request_id,
            host,
            path,
            protocol,
            consumer,
            key,
            client_ip: self.address,
            service,
            instance,
            attempts: four as u16,
            upstream_time: self.flags[0].then_some(two),
            cache,
            decided_by,
            limit_name,
            observed: user_agent,
            bytes_in: three as i64,
            bytes_out: four as i64,
            user_agent,
            generation: one as u32,
        }
    }
}

pub(super) fn sample() -> impl Strategy<Value = Sample> {
    let texts = prop::array::uniform5(".{0,40}");
    let optional = prop::array::uniform9(prop::option::of(".{0,20}"));
    let parts = (texts, optional, any::<[u64; 4]>(), any::<[bool; 2]>(), any::<Option<IpAddr>>(), any::<[u8; 16]>());
    parts.prop_map(|(texts, optional, numbers, flags, address, request_id)| Sample {
        texts,
        optional,
        numbers,
        flags,
        address,
        request_id,
    })
}

pub(super) fn increments() -> impl Strategy<Value = Increments<String>> {
    let one =
        (0_u32..3, "[a-c]{0,2}", any::<u16>(), prop::option::of("[a-c]"), prop::collection::vec(0_u64..1 << 40, 0..5));
    prop::collection::vec(one, 0..6).prop_map(|all| {
        let mut increments = Increments::default();
        for (minute, endpoint, status, key, times) in all {
            let series = Series { endpoint, status, key, method: "GET".to_owned(), ..Series::default() };
            let mut tally = Tally { count: times.len() as u64, bytes_out: 1 << 60, ..Tally::default() };
            times.iter().for_each(|time| tally.histogram.add(*time));
            increments.tallies.insert((Minute(minute), series), tally);
        }
        increments
    })
}

/// A row as most are.
pub(super) fn sample_row(path: &str) -> Row<'_> {
    Row {
        timestamp: Moment::of(UNIX_EPOCH + Duration::from_micros(1_772_366_400_000_250)),
        minute: Minute(29_539_440),
        endpoint: "/api/user_service/*",
        http_method: "GET",
        method_label: "GET",
        status_code: 200,
        response_time: 12_345,
        is_error: false,
        is_blocked: false,
        request_id: [7; 16],
        client_request_id: None,
        host: Some("api.example"),
        path,
        protocol: "HTTP/1.1",
        consumer: Some("acme"),
        key: Some("acme-2026"),
        client_ip: Some([192, 0, 2, 77].into()),
        service: Some("user_service"),
        instance: Some("127.0.0.1:9101"),
        attempts: 1,
        upstream_time: Some(11_000),
        cache: Some("miss"),
        decided_by: "upstream",
        limit_name: None,
        observed: None,
        bytes_in: 3,
        bytes_out: 512,
        user_agent: Some("test/1 \u{1f600}"),
        generation: 1,
    }
}

/// A folder for what is done a thousand times over: in memory, where there is such a place.
fn fast_folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

const LARGE: u64 = 1 << 30;

fn open_with(folder: &Path, bytes_max: u64, full: SpoolFull, number: u64) -> (Spool, Vec<Finding>) {
    Spool::open(folder, bytes_max, full, &run(number)).unwrap()
}

fn open(folder: &Path, number: u64) -> (Spool, Vec<Finding>) {
    open_with(folder, LARGE, SpoolFull::DropNew, number)
}

/// Appends the records `first` to `last`, each with its number as its path.
fn append(spool: &mut Spool, first: u64, last: u64) -> Appended {
    let paths: Vec<String> = (first..=last).map(|number| format!("/{number}")).collect();
    let rows: Vec<Row<'_>> = paths.iter().map(|path| sample_row(path)).collect();
    spool.append(first, &rows, &Increments::default(), SystemTime::now())
}

fn taken(spool: &mut Spool, first: u64, last: u64) {
    let appended = append(spool, first, last);
    assert!(matches!(appended.outcome, Outcome::Taken) && appended.dropped.is_empty(), "{appended:?}");
}

/// Checks that every row is the one of its number; the run and numbers.
fn numbers(frame: &Frame) -> (Uuid, u64, u64) {
    for (number, row) in (frame.first()..).zip(frame.rows().unwrap()) {
        let path = format!("/{number}");
        assert_eq!(row, sample_row(&path));
    }
    assert!(frame.unrecorded().unwrap().tallies.is_empty());
    (frame.run().id, frame.first(), frame.last())
}

/// Replays all; the bounds of every batch.
fn replay(spool: &mut Spool) -> Vec<(u64, u64)> {
    let mut replayed = Vec::new();
    while let Some(frame) = spool.oldest().unwrap() {
        let (_, first, last) = numbers(&frame);
        replayed.push((first, last));
        spool.done().unwrap();
    }
    assert!(spool.is_empty() && spool.bytes() == 0 && spool.oldest_written().is_none());
    replayed
}

fn bounds(ranges: &[Range]) -> Vec<(u64, u64)> {
    ranges.iter().map(|range| (range.first, range.last)).collect()
}

fn files(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths.filter(|path| path.to_string_lossy().ends_with(suffix)).collect();
    paths.sort();
    paths
}

fn segment_file(folder: &Path) -> PathBuf {
    let files = files(folder, ".segment");
    assert_eq!(files.len(), 1);
    files[0].clone()
}

#[test]
fn batches_come_back_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, findings) = open(folder.path(), 1);
    assert!(findings.is_empty() && spool.is_empty() && spool.oldest().unwrap().is_none());
    taken(&mut spool, 1, 3);
    taken(&mut spool, 4, 4);
    assert_eq!((spool.records(), spool.recovered()), (4, 0));
    assert!(spool.oldest_written().unwrap().elapsed().unwrap() < Duration::from_secs(60));
    // Asked twice, the same is given; what is put in between comes later.
    assert_eq!(numbers(&spool.oldest().unwrap().unwrap()), (run(1).id, 1, 3));
    taken(&mut spool, 5, 9);
    assert_eq!(numbers(&spool.oldest().unwrap().unwrap()), (run(1).id, 1, 3));
    spool.done().unwrap();
    // Done twice is done once.
    spool.done().unwrap();
    assert_eq!(spool.records(), 6);
    assert_eq!(replay(&mut spool), [(4, 4), (5, 9)]);
    taken(&mut spool, 10, 10);
    assert_eq!(replay(&mut spool), [(10, 10)]);
    assert!(files(folder.path(), ".segment").is_empty());
}

#[test]
fn what_waits_survives_restarts() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(folder.path(), 1);
    (1..=5).for_each(|number| taken(&mut spool, number, number));
    spool.oldest().unwrap();
    spool.done().unwrap();
    spool.sync_all().unwrap();
    drop(spool);
    let (mut spool, findings) = open(folder.path(), 2);
    assert_eq!((findings.as_slice(), spool.records(), spool.recovered()), (&[][..], 4, 4));
    taken(&mut spool, 1, 2);
    drop(spool);
    let (mut spool, findings) = open(folder.path(), 3);
    assert_eq!((findings.as_slice(), spool.recovered()), (&[][..], 6));
    let mut replayed = Vec::new();
    while let Some(frame) = spool.oldest().unwrap() {
        replayed.push(numbers(&frame));
        assert_eq!(**frame.run(), run(if replayed.len() <= 4 { 1 } else { 2 }));
        spool.done().unwrap();
    }
    let (one, two) = (run(1).id, run(2).id);
    assert_eq!(replayed, [(one, 2, 2), (one, 3, 3), (one, 4, 4), (one, 5, 5), (two, 1, 2)]);
}

#[test]
fn a_full_spool_takes_nothing_new() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = open_with(folder.path(), 4_000, SpoolFull::DropNew, 1);
    spool.segment_bytes = 1_000;
    let mut next = 1;
    let refused = loop {
        let appended = append(&mut spool, next, next + 1);
        assert!(appended.dropped.is_empty());
        match appended.outcome {
            Outcome::Taken => next += 2,
            outcome => break outcome,
        }
    };
    assert!(matches!(refused, Outcome::Full));
    assert!(next > 6 && spool.bytes() <= 4_000 && spool.records() == next - 1);
    assert!(spool.segments.len() > 2);
    // There is room again when a segment is done with.
    for _ in 0..2 {
        spool.oldest().unwrap();
        spool.done().unwrap();
    }
    taken(&mut spool, next, next);
    assert_eq!(replay(&mut spool).last(), Some(&(next, next)));
}

#[test]
fn a_full_spool_drops_its_oldest_segments() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = open_with(folder.path(), 4_000, SpoolFull::DropOld, 1);
    spool.segment_bytes = 1_000;
    let mut dropped = Vec::new();
    for number in 1..=40 {
        let appended = append(&mut spool, number, number);
        assert!(matches!(appended.outcome, Outcome::Taken));
        dropped.extend(bounds(&appended.dropped));
        assert!(spool.bytes() <= 4_000);
    }
    let replayed = replay(&mut spool);
    let numbers: Vec<u64> = dropped.iter().chain(&replayed).flat_map(|(first, last)| *first..=*last).collect();
    assert_eq!(numbers, (1..=40).collect::<Vec<_>>());
    assert!(dropped.len() > 2 && replayed.len() > 4);
}

#[test]
fn what_is_in_hand_is_not_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = open_with(folder.path(), 2_000, SpoolFull::DropOld, 1);
    spool.segment_bytes = 500;
    (1..=4).for_each(|number| taken(&mut spool, number, number));
    assert_eq!(numbers(&spool.oldest().unwrap().unwrap()).1, 1);
    let dropped: Vec<_> = (5..=12).flat_map(|number| bounds(&append(&mut spool, number, number).dropped)).collect();
    assert!(!dropped.is_empty() && dropped.iter().all(|(first, _)| *first > 1), "{dropped:?}");
    assert_eq!(numbers(&spool.oldest().unwrap().unwrap()).1, 1);
    spool.done().unwrap();
    let replayed = replay(&mut spool);
    assert_eq!((replayed[0].0, replayed.last()), (dropped.last().unwrap().1 + 1, Some(&(12, 12))));
}

#[test]
fn the_segment_that_is_written_may_be_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = open_with(folder.path(), 900, SpoolFull::DropOld, 1);
    spool.segment_bytes = 450;
    (1..=2).for_each(|number| taken(&mut spool, number, number));
    spool.oldest().unwrap();
    // Now the first would have room again, but its file is not the one that is written.
    spool.segment_bytes = 10_000;
    assert_eq!(bounds(&append(&mut spool, 3, 4).dropped), [(2, 2)]);
    assert_eq!(replay(&mut spool), [(1, 1), (3, 4)]);
}

#[test]
fn a_batch_that_comes_late_has_a_segment_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(folder.path(), 1);
    let batches = [(1, 2), (5, 6), (3, 4), (7, 8)];
    batches.iter().for_each(|(first, last)| taken(&mut spool, *first, *last));
    assert_eq!(files(folder.path(), ".segment").len(), 2);
    drop(spool);
    let (mut spool, findings) = open(folder.path(), 2);
    assert_eq!((findings.as_slice(), spool.holds_earlier_runs()), (&[][..], true));
    assert_eq!(replay(&mut spool), batches);
    assert!(!spool.holds_earlier_runs());
}

#[test]
fn a_batch_larger_than_the_spool_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = open_with(folder.path(), 1_000, SpoolFull::DropOld, 1);
    taken(&mut spool, 1, 1);
    let appended = append(&mut spool, 2, 20);
    assert!(matches!(appended.outcome, Outcome::Full) && appended.dropped.is_empty());
    assert_eq!(replay(&mut spool), [(1, 1)]);
}

#[test]
fn a_torn_tail_costs_itself_only() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(folder.path(), 1);
    let mut ends = vec![spool.beginning.len() as u64];
    for (first, last) in [(1, 2), (3, 3), (4, 6)] {
        taken(&mut spool, first, last);
        ends.push(spool.bytes());
    }
    let path = segment_file(folder.path());
    let bytes = std::fs::read(&path).unwrap();
    for length in 0..=bytes.len() {
        let torn = fast_folder();
        std::fs::write(torn.path().join(path.file_name().unwrap()), &bytes[..length]).unwrap();
        let (mut spool, findings) = open(torn.path(), 2);
        let whole = ends.iter().skip(1).filter(|end| **end <= length as u64).count();
        let is_torn = length > PROGRESS && !ends.contains(&(length as u64));
        assert_eq!(findings.len(), usize::from(is_torn), "{length}: {findings:?}");
        assert_eq!(spool.recovered(), [0, 2, 3, 6][whole]);
        // The head alone tells what was torn.
        if is_torn && length as u64 >= ends[whole] + frame::HEAD_BYTES as u64 {
            let Lost::Exactly(lost) = &findings[0].lost else { panic!("{findings:?}") };
            assert_eq!(bounds(lost), [(1, 2), (3, 3), (4, 6)][whole..=whole]);
        }
        taken(&mut spool, 7, 8);
        drop(spool);
        // It is told once.
        let (mut spool, findings) = open(torn.path(), 3);
        assert_eq!(findings, []);
        let mut expected = [(1, 2), (3, 3), (4, 6)][..whole].to_vec();
        expected.push((7, 8));
        assert_eq!(replay(&mut spool), expected, "{length}");
    }
}

const PROGRESS: usize = segment::PROGRESS_BYTES as usize;

#[test]
fn a_flipped_byte_costs_one_batch_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(folder.path(), 1);
    let batches = [(1, 1), (2, 3), (4, 4)];
    batches.iter().for_each(|(first, last)| taken(&mut spool, *first, *last));
    let path = segment_file(folder.path());
    let bytes = std::fs::read(&path).unwrap();
    for place in 0..bytes.len() {
        let damaged = fast_folder();
        let mut flipped = bytes.clone();
        flipped[place] ^= 1 << (place % 8);
        std::fs::write(damaged.path().join(path.file_name().unwrap()), &flipped).unwrap();
        let (mut spool, findings) = open(damaged.path(), 2);
        let recovered = spool.recovered();
        assert_eq!(findings.len(), usize::from(place >= PROGRESS), "{place}");
        assert!(findings.iter().all(|finding| finding.run.id == run(1).id));
        assert_eq!(files(damaged.path(), ".damaged").len(), findings.len());
        drop(spool);
        // It is mended, so it is told once.
        let (again, findings_again) = open(damaged.path(), 3);
        spool = again;
        assert_eq!((findings_again.as_slice(), spool.recovered()), (&[][..], recovered), "{place}");
        let replayed = replay(&mut spool);
        let missing: Vec<_> = batches.iter().filter(|batch| !replayed.contains(batch)).copied().collect();
        assert!(replayed.len() + missing.len() == 3 && missing.len() <= 1, "{place}: {replayed:?}");
        match findings.first().map(|finding| &finding.lost) {
            None => assert!(missing.is_empty()),
            Some(Lost::Exactly(lost)) => assert_eq!(bounds(lost), missing),
            Some(Lost::AtMost(lost)) => assert_eq!(vec![(lost.first, lost.last)], missing),
            // Nothing before it, or nothing behind it.
            Some(Lost::Unknown) => assert!(missing.is_empty() || missing == [(1, 1)] || missing == [(4, 4)]),
        }
    }
}

#[test]
fn damage_that_comes_later_is_stepped_over() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(folder.path(), 1);
    let mut ends = Vec::new();
    for number in 1..=6 {
        taken(&mut spool, number, number);
        ends.push(spool.bytes() as usize);
    }
    let path = segment_file(folder.path());
    // A payload, then a head.
    for place in [ends[1] - 1, ends[3] + 5] {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[place] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let mut replayed = Vec::new();
    while let Some(frame) = spool.oldest().unwrap() {
        replayed.push(frame.first());
        spool.done().unwrap();
    }
    assert_eq!(replayed, [1, 3, 4, 6]);
    let lost: Vec<_> = spool.take_findings().into_iter().map(|finding| finding.lost).collect();
    let exactly = |number| Lost::Exactly(vec![Range { run: Arc::new(run(1)), first: number, last: number }]);
    assert_eq!(lost, [exactly(2), exactly(5)]);
    assert!(spool.is_empty());
    assert_eq!(files(folder.path(), ".damaged").len(), 1);
}

#[test]
fn a_segment_that_is_gone_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(folder.path(), 1);
    taken(&mut spool, 1, 5);
    std::fs::remove_file(segment_file(folder.path())).unwrap();
    for _ in 1..READ_TRIES {
        assert!(spool.oldest().is_err());
    }
    assert!(spool.oldest().unwrap().is_none() && spool.is_empty());
    let findings = spool.take_findings();
    assert_eq!(findings[0].lost, Lost::Exactly(vec![Range { run: Arc::new(run(1)), first: 1, last: 5 }]));
    taken(&mut spool, 6, 6);
    assert_eq!(replay(&mut spool), [(6, 6)]);
}

#[test]
fn only_a_few_damaged_segments_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    for number in 1..=10 {
        let (mut spool, _) = open(folder.path(), number);
        taken(&mut spool, 1, 1);
        drop(spool);
        let path = segment_file(folder.path());
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    let (_, findings) = open(folder.path(), 11);
    assert_eq!(findings.len(), 1);
    let kept = files(folder.path(), ".damaged");
    assert_eq!(kept.len(), damaged::FILES_MAX);
    assert!(kept.last().unwrap().to_string_lossy().contains("0000000010-"));
}

#[test]
fn a_full_disk_leaves_nothing_half_written() {
    for room in (0..1_200).step_by(3) {
        let folder = fast_folder();
        let (mut spool, _) = open(folder.path(), 1);
        spool.disk.room = Some(room);
        let mut expected = Vec::new();
        for number in 1..=4 {
            match append(&mut spool, number, number).outcome {
                Outcome::Taken => expected.push((number, number)),
                Outcome::Full => panic!("{room}"),
                Outcome::Failed(error) => assert_eq!(error.kind(), io::ErrorKind::StorageFull),
            }
        }
        assert_eq!(spool.records(), expected.len() as u64);
        assert_eq!(spool.segments.len(), usize::from(!expected.is_empty()));
        // There is room again, or the process ends first.
        spool.disk.room = None;
        if room % 2 == 0 {
            taken(&mut spool, 5, 5);
            expected.push((5, 5));
        }
        drop(spool);
        let (mut spool, findings) = open(folder.path(), 2);
        assert_eq!(findings, [], "{room}");
        assert_eq!(replay(&mut spool), expected);
    }
}

#[test]
fn a_folder_has_one_owner() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/spool");
    let (spool, _) = open(&path, 1);
    let error = Spool::open(&path, LARGE, SpoolFull::DropNew, &run(2)).unwrap_err();
    for part in [&path.display().to_string(), &format!("process {}", std::process::id())] {
        assert!(error.contains(part), "{error}");
    }
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&path.join("lock"))), (0o700, 0o640));
    drop(spool);
    open(&path, 2);
}

#[test]
fn another_process_has_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let lock = folder.path().join("lock");
    // A tool of the distribution that locks a file, says so, and waits for the end of its input.
    let mut holder = Command::new("flock")
        .args([lock.as_os_str(), "sh".as_ref(), "-c".as_ref(), "echo $$ > \"$0\"; echo; cat".as_ref()])
        .arg(&lock)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    let pid = std::fs::read_to_string(&lock).unwrap();
    let error = Spool::open(folder.path(), LARGE, SpoolFull::DropNew, &run(1)).unwrap_err();
    assert!(error.contains(&format!("process {} has the folder", pid.trim())), "{error}");
    drop(holder.stdin.take());
    holder.wait().unwrap();
    open(folder.path(), 1);
}

#[test]
fn a_folder_that_cant_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("spool")] {
        let error = Spool::open(&path, LARGE, SpoolFull::DropNew, &run(1)).unwrap_err();
        assert!(error.contains("log.spool") && error.contains(&path.display().to_string()), "{error}");
    }
}

#[test]
fn files_that_are_not_ours_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let left = ["notes.txt", "rejected.jsonl", "x.segment", "1-x.segment"];
    left.iter().for_each(|name| std::fs::write(folder.path().join(name), "x").unwrap());
    std::fs::write(folder.path().join("0000000001-x.segment.tmp"), "x").unwrap();
    let (mut spool, findings) = open(folder.path(), 1);
    assert_eq!(findings, []);
    taken(&mut spool, 1, 1);
    assert!(left.iter().all(|name| folder.path().join(name).exists()));
    assert!(files(folder.path(), ".tmp").is_empty());
}

fn beat(accepted: u64) -> Beat {
    let drops = Drops {
        id: 1,
        after: 7,
        count: 2,
        reason: "queue_full".to_owned(),
        numbered: false,
        since: UNIX_EPOCH + Duration::from_secs(1),
        until: UNIX_EPOCH + Duration::from_millis(2_500),
    };
    Beat { totals: Totals { accepted, last: accepted, ..Totals::default() }, drops: vec![drops], has_ended: false }
}

#[test]
fn runs_that_did_not_end_in_order_are_known() {
    let folder = tempfile::tempdir().unwrap();
    for number in [2, 1, 3] {
        let (spool, _) = open(folder.path(), number);
        let file = spool.run_file();
        file.save(&beat(number)).unwrap();
        file.save(&beat(number * 10)).unwrap();
        assert!(spool.earlier_runs().iter().all(|(earlier, _)| earlier.id != run(number).id));
        if number == 3 {
            file.remove().unwrap();
            file.remove().unwrap();
        }
    }
    let (mut spool, findings) = open(folder.path(), 4);
    assert_eq!(findings, []);
    assert_eq!(spool.earlier_runs(), [(run(1), beat(10)), (run(2), beat(20))]);
    spool.forget_run(&run(1)).unwrap();
    assert_eq!(spool.earlier_runs(), [(run(2), beat(20))]);
    drop(spool);
    assert_eq!(open(folder.path(), 5).0.earlier_runs(), [(run(2), beat(20))]);
}

#[test]
fn a_run_file_that_cant_be_read_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(format!("{}.run", run(1).id)), "{\"run\":").unwrap();
    let (spool, findings) = open(folder.path(), 2);
    assert!(spool.earlier_runs().is_empty());
    assert_eq!((findings.len(), findings[0].run.id), (1, run(1).id));
    drop(spool);
    assert_eq!(open(folder.path(), 2).1, []);
}

#[test]
fn the_run_of_a_damaged_segment_is_known_from_its_file() {
    for has_run_file in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let (mut spool, _) = open(folder.path(), 1);
        if has_run_file {
            spool.run_file().save(&beat(1)).unwrap();
        }
        (1..=2).for_each(|number| taken(&mut spool, number, number));
        // Replay stands behind the first; then the run's own frame is damaged.
        spool.oldest().unwrap();
        spool.done().unwrap();
        drop(spool);
        let path = segment_file(folder.path());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[PROGRESS + frame::HEAD_BYTES + 20] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let (mut spool, findings) = open(folder.path(), 2);
        assert_eq!(findings[0].lost, Lost::Exactly(vec![]));
        let frame = spool.oldest().unwrap().unwrap();
        assert_eq!(numbers(&frame), (run(1).id, 2, 2));
        assert_eq!(frame.run().node, if has_run_file { "edge-1" } else { "" });
    }
}

#[test]
fn a_gap_is_not_more_than_its_neighbours_leave() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(folder.path(), 1);
    taken(&mut spool, 1, 2);
    let begin = spool.bytes() as usize;
    taken(&mut spool, 3, 4);
    taken(&mut spool, 5, 9);
    let end = spool.bytes() as usize;
    taken(&mut spool, 10, 12);
    drop(spool);
    let path = segment_file(folder.path());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[begin..end].fill(0);
    std::fs::write(&path, bytes).unwrap();
    let (mut spool, findings) = open(folder.path(), 2);
    let lost = Lost::AtMost(Range { run: Arc::new(run(1)), first: 3, last: 9 });
    assert_eq!(findings.iter().map(|finding| &finding.lost).collect::<Vec<_>>(), [&lost]);
    assert!(findings[0].to_string().ends_with("at most 7 records are lost"), "{}", findings[0]);
    assert_eq!(replay(&mut spool), [(1, 2), (10, 12)]);
}

#[test]
fn bytes_that_are_too_many_or_missing_cost_what_they_hit() {
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(folder.path(), 1);
    taken(&mut spool, 1, 2);
    let end = spool.bytes() as usize;
    (3..=4).for_each(|number| taken(&mut spool, number, number));
    drop(spool);
    let path = segment_file(folder.path());
    let bytes = std::fs::read(&path).unwrap();
    let check = |bytes: &[u8], lost: &[(u64, u64)], left: &[(u64, u64)]| {
        std::fs::write(&path, bytes).unwrap();
        let (mut spool, findings) = open(folder.path(), 2);
        let [Finding { lost: Lost::Exactly(found), .. }] = &*findings else { panic!("{findings:?}") };
        assert_eq!(bounds(found), lost);
        assert_eq!(replay(&mut spool), left);
    };
    check(&[&bytes[..end], &[b'x'; 50], &bytes[end..]].concat(), &[], &[(1, 2), (3, 3), (4, 4)]);
    check(&[&bytes[..end + 50], &bytes[end + 60..]].concat(), &[(3, 3)], &[(1, 2), (4, 4)]);
}

/// Where this fails the format has changed: old segments would be misread, unless it has new kinds (`frame.rs`).
#[test]
fn the_format_is_fixed() {
    let mut bytes = Vec::new();
    let series = Series { endpoint: "/a".to_owned(), status: 429, ..Series::default() };
    let mut unrecorded = Increments::default();
    unrecorded.tallies.insert((Minute(3), series), Tally { count: 2, ..Tally::default() });
    frame::encode_batch(&mut bytes, 5, &[sample_row("/users")], &unrecorded, UNIX_EPOCH).unwrap();
    // No CRC: that of something with its own CRC behind it is always the same.
    let digest = |bytes: &[u8]| u64::from_be_bytes(*sha2::Sha256::digest(bytes).first_chunk().unwrap());
    assert_eq!((bytes.len(), digest(&bytes)), (248, 15_337_001_934_887_978_296));
    let beginning = segment::beginning(&run(1)).unwrap();
    assert_eq!((beginning.len(), digest(&beginning)), (84, 6_299_528_893_690_425_478));
}

#[derive(Clone, Debug)]
enum Step {
    Append(u64),
    Replay,
    /// The store failed: the batch is not done.
    Try,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1_u64..6).prop_map(Step::Append),
        3 => Just(Step::Replay),
        1 => Just(Step::Try),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Every record is replayed or told as dropped, once, and in order, whatever comes between.
    #[test]
    fn every_batch_is_replayed_once_or_told(steps in steps(), full: bool) {
        let full = if full { SpoolFull::DropOld } else { SpoolFull::DropNew };
        let folder = fast_folder();
        let open = |number: u64| {
            let (mut spool, findings) = open_with(folder.path(), 5_000, full, number);
            assert_eq!(findings, []);
            spool.segment_bytes = 900;
            spool
        };
        let (mut number, mut next) = (1, 1);
        let mut spool = open(number);
        let mut waiting: VecDeque<(Uuid, u64, u64)> = VecDeque::new();
        for step in steps {
            match step {
                Step::Append(count) => {
                    let appended = append(&mut spool, next, next + count - 1);
                    for range in &appended.dropped {
                        let of_range = |(id, first, last): &(Uuid, u64, u64)| {
                            *id == range.run.id && *first >= range.first && *last <= range.last
                        };
                        let records: u64 = waiting.iter().filter(|batch| of_range(batch)).map(|(_, first, last)| last - first + 1).sum();
                        prop_assert_eq!(records, range.records());
                        waiting.retain(|batch| !of_range(batch));
                    }
                    if matches!(appended.outcome, Outcome::Taken) {
                        waiting.push_back((run(number).id, next, next + count - 1));
                    } else {
                        prop_assert!(full == SpoolFull::DropNew);
                    }
                    next += count;
                }
                Step::Replay => {
                    let frame = spool.oldest().unwrap();
                    prop_assert_eq!(frame.as_ref().map(numbers), waiting.pop_front());
                    spool.done().unwrap();
                }
                Step::Try => {
                    let frame = spool.oldest().unwrap();
                    prop_assert_eq!(frame.as_ref().map(numbers), waiting.front().copied());
                }
                Step::Restart => {
                    drop(spool);
                    (number, next) = (number + 1, 1);
                    spool = open(number);
                    prop_assert_eq!(spool.recovered(), spool.records());
                }
            }
            let records: u64 = waiting.iter().map(|(_, first, last)| last - first + 1).sum();
            prop_assert_eq!(spool.records(), records);
            prop_assert_eq!(spool.is_empty(), waiting.is_empty());
            prop_assert!(spool.bytes() <= 5_000);
            let on_disk: u64 = files(folder.path(), ".segment").iter().map(|path| path.metadata().unwrap().len()).sum();
            prop_assert_eq!(spool.bytes(), on_disk);
        }
    }
}

/// Figures, not a test: `cargo test --release --lib spool_speed -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn spool_speed() {
    const BATCHES: u64 = 1_000;
    const ROWS: u64 = 1_000;
    let folder = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(folder.path(), 1);
    let rows = vec![sample_row("/api/user_service/users/12345/orders"); ROWS as usize];
    let say = |what: &str, began: Instant, bytes: u64| {
        let seconds = began.elapsed().as_secs_f64();
        let (rows, megabytes) = ((BATCHES * ROWS) as f64 / seconds, bytes as f64 / seconds / 1e6);
        println!("{what}: {rows:.0} rows/s, {megabytes:.0} MB/s, {:.2} us a row", 1e6 / rows);
    };
    let began = Instant::now();
    for batch in 0..BATCHES {
        let appended = spool.append(batch * ROWS + 1, &rows, &Increments::default(), SystemTime::now());
        assert!(matches!(appended.outcome, Outcome::Taken));
    }
    let bytes = spool.bytes();
    say("append", began, bytes);
    let began = Instant::now();
    spool.sync_all().unwrap();
    println!("sync: {:.3} s; {} bytes a row", began.elapsed().as_secs_f64(), bytes / (BATCHES * ROWS));
    drop(spool);
    let began = Instant::now();
    let (mut spool, _) = open(folder.path(), 2);
    assert_eq!(spool.recovered(), BATCHES * ROWS);
    say("open", began, bytes);
    let began = Instant::now();
    while let Some(frame) = spool.oldest().unwrap() {
        assert_eq!(frame.rows().unwrap().len() as u64, ROWS);
        spool.done().unwrap();
    }
    say("replay", began, bytes);
}
