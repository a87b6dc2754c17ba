//! Every answer about usage beside a naive one over the same records: any window, any grouping, any filter, with whatever is
//! packed, and whatever retention has removed. And what answers look like.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use serde_json::Value as Json;

use super::*;
use crate::analytics::tests::database::{Counts, Database, Statements};
use crate::analytics::{Format, Style, question};
use crate::store::usage::{Series, Tally};

/// The first minute of the records: 2026-03-01.
const BASE: u32 = 20_513 * Minute::DAY;
const DAYS: u32 = 12;
/// After all of them.
const NOW: Minute = Minute(BASE + (DAYS + 1) * Minute::DAY);

#[derive(Clone, Debug)]
struct Record {
    run: u32,
    minute: Minute,
    series: Series<String>,
    duration: u64,
    blocked: bool,
}

impl Record {
    fn tally(&self) -> Tally {
        let mut tally = Tally {
            count: 1,
            errors: u64::from(self.series.status >= 500),
            blocked: u64::from(self.blocked),
            bytes_in: self.duration % 7,
            bytes_out: self.duration % 11,
            duration: self.duration,
            ..Tally::default()
        };
        tally.histogram.add(self.duration);
        tally
    }
}

/// Anywhere, or within minutes of where a day begins: that is where something could be counted twice, or not at all.
fn minute() -> impl Strategy<Value = u32> {
    let borders = (0..DAYS, 0..2 * Minute::HOUR).prop_map(|(day, minute)| day * Minute::DAY + minute);
    let ends = (1..=DAYS, 1..=2 * Minute::HOUR).prop_map(|(day, minute)| day * Minute::DAY - minute);
    prop_oneof![0..DAYS * Minute::DAY, borders, ends]
}

prop_compose! {
    fn record()(
        run in 1_u32..=2, minute in minute(), endpoint in 0..3, key in prop::option::of(0..3),
        status in prop::sample::select(vec![200_u16, 404, 500, 503]), duration in 0_u64..2_000_000, blocked: bool,
        method in prop::sample::select(vec!["GET", "POST"]), decided_by in prop::sample::select(vec!["upstream", "cache"]),
        service in prop::option::of(0..2), instance in prop::option::of(0..2),
    ) -> Record {
        let series = Series {
            endpoint: format!("/e{endpoint}"),
            method: method.to_owned(),
            status,
            decided_by: decided_by.to_owned(),
            consumer: key.map(|key| format!("c{}", key / 2)),
            key: key.map(|key| format!("k{key}")),
            service: service.map(|service| format!("s{service}")),
            instance: instance.map(|instance| format!("i{instance}")),
        };
        Record { run, minute: Minute(BASE + minute), series, duration, blocked }
    }
}

/// How far the two runs are packed (hours, days), and what retention has removed (minutes, hours), in minutes from BASE.
#[derive(Clone, Debug)]
struct Shape {
    packed: [(u32, u32); 2],
    gone: (u32, u32),
}

prop_compose! {
    fn shape()(hours in [0..=DAYS * 24, 0..=DAYS * 24], days in [0..=DAYS, 0..=DAYS], gone in (0..=DAYS * Minute::DAY, 0..=DAYS * Minute::DAY)) -> Shape {
        let packed = [0, 1].map(|run: usize| {
            let hours = hours[run] * Minute::HOUR;
            (hours, (days[run] * Minute::DAY).min(hours - hours % Minute::DAY))
        });
        // Only what is packed is removed, by every run.
        let [first, second] = packed;
        Shape { packed, gone: (gone.0.min(first.0.min(second.0)), gone.1.min(first.1.min(second.1))) }
    }
}

fn statements(records: &[Record], shape: &Shape) -> Statements {
    let mut log = Statements::default();
    let gone = (Minute(BASE + shape.gone.0), Minute(BASE + shape.gone.1));
    log.removed("minutes", gone.0);
    log.removed("hours", gone.1);
    for (run, (hours, days)) in (1_u32..).zip(shape.packed) {
        let (hours_until, days_until) = (Minute(BASE + hours), Minute(BASE + days));
        log.run(run, NOW, hours_until, days_until);
        let mut counts = Counts::new();
        for record in records.iter().filter(|record| record.run == run) {
            counts.entry((record.minute, record.series.clone())).or_default().merge(&record.tally());
        }
        for ((minute, series), tally) in counts.iter().filter(|((minute, _), _)| *minute >= gone.0) {
            log.minute(run, *minute, series, tally);
        }
        // Retention takes whole hours.
        let kept = gone.1.floor(Minute::HOUR);
        let part = |from: Minute, to: Minute| -> Counts {
            let is_in = |minute: &Minute| (from..to).contains(minute);
            counts
                .iter()
                .filter(|((minute, _), _)| is_in(minute))
                .map(|(key, tally)| (key.clone(), tally.clone()))
                .collect()
        };
        log.packed(run, Minute::HOUR, &part(kept, hours_until));
        log.packed(run, Minute::DAY, &part(Minute(0), days_until));
    }
    log
}

fn ask(pairs: &[(&str, String)]) -> Result<Question, String> {
    let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    question(Parameters::new(pairs), &Format::ALL, Question::take, timestamp(NOW)).map(|(question, _)| question)
}

fn usage(reader: &mut Reader, pairs: &[(&str, String)]) -> Usage {
    let answer = ask(pairs).unwrap().answer(reader, timestamp(NOW)).unwrap_or_else(|why| panic!("{why}"));
    let Answer::Usage(usage) = answer else { panic!("a summary") };
    *usage
}

/// What naive counting finds.
#[derive(Debug, Default)]
struct Naive {
    numbers: [u64; 7],
    times: Vec<u64>,
}

fn label(record: &Record, by: By, usage: &Usage, gone: u32) -> Label {
    let text = |text: &Option<String>| text.as_deref().map_or(Label::Missing, |text| Label::Text(text.into()));
    let series = &record.series;
    match by {
        By::Text(Part::Endpoint) => Label::Text(series.endpoint.as_str().into()),
        By::Text(Part::Key) => text(&series.key),
        By::Text(Part::Consumer) => text(&series.consumer),
        By::Text(Part::Instance) => text(&series.instance),
        By::Text(Part::Service) => text(&series.service),
        By::Text(Part::Method) => Label::Text(series.method.as_str().into()),
        By::Text(Part::DecidedBy) => Label::Text(series.decided_by.as_str().into()),
        By::Status => Label::Status(series.status),
        By::Day => Label::Day(record.minute.0 / Minute::DAY),
        By::Hour => {
            let days = usage.window.start.ceil(Minute::DAY)
                ..usage.window.end.floor(Minute::DAY).min(Minute(BASE + gone).ceil(Minute::DAY));
            let length = if days.contains(&record.minute) { Minute::DAY } else { Minute::HOUR };
            Label::Hour(record.minute.floor(length))
        }
    }
}

/// Parameters that restrict a question; those of one name are alternatives.
type Filters = Vec<(&'static str, &'static str)>;

fn filters() -> impl Strategy<Value = Filters> {
    let all = vec![
        ("endpoint", "/e0"),
        ("endpoint", "/e1"),
        ("consumer", "c0"),
        ("consumer", "c1"),
        ("consumer", "(none)"),
        ("key", "k0"),
        ("key", "k2"),
        ("key", "(none)"),
        ("service", "s0"),
        ("service", "s1"),
        ("service", "(none)"),
        ("instance", "i0"),
        ("instance", "i1"),
        ("instance", "(none)"),
        ("method", "GET"),
        ("method", "POST"),
        ("decided_by", "upstream"),
        ("decided_by", "cache"),
        ("status", "5xx"),
        ("status", "404"),
        ("status", "200,500-502"),
    ];
    prop::sample::subsequence(all, 0..=5)
}

/// Whether a question with these parameters is about a record, as a person would say.
fn is_meant(record: &Record, filters: &Filters) -> bool {
    let series = &record.series;
    let holds = |(name, value): (&str, &str)| match (name, value) {
        ("status", "5xx") => series.status >= 500,
        ("status", "404") => series.status == 404,
        ("status", _) => series.status == 200 || (500..=502).contains(&series.status),
        ("endpoint", value) => series.endpoint == value,
        ("method", value) => series.method == value,
        ("decided_by", value) => series.decided_by == value,
        (name, value) => {
            let text = match name {
                "consumer" => &series.consumer,
                "key" => &series.key,
                "service" => &series.service,
                _ => &series.instance,
            };
            text.as_deref().unwrap_or("(none)") == value
        }
    };
    filters.iter().all(|(name, _)| filters.iter().any(|filter| filter.0 == *name && holds(*filter)))
}

fn compare(usage: &Usage, records: &[Record], filters: &Filters, gone: u32) {
    let mut naive: BTreeMap<Vec<Label>, Naive> = BTreeMap::new();
    let (mut requests, mut errors) = (0, 0);
    let is_counted = |record: &&Record| usage.window.contains(&record.minute) && is_meant(record, filters);
    for record in records.iter().filter(is_counted) {
        let labels = usage.by.iter().map(|by| label(record, *by, usage, gone)).collect();
        let group = naive.entry(labels).or_default();
        let tally = record.tally();
        let numbers = [1, tally.errors, tally.blocked, tally.bytes_in, tally.bytes_out, tally.duration, 0];
        group.numbers.iter_mut().zip(numbers).for_each(|(sum, more)| *sum += more);
        group.times.push(record.duration);
        requests += 1;
        errors += tally.errors;
    }
    let found: BTreeMap<_, _> = usage.groups.iter().map(|group| (group.labels.clone(), &group.figures)).collect();
    assert_eq!(found.keys().collect::<Vec<_>>(), naive.keys().collect::<Vec<_>>());
    for (labels, mut naive) in naive {
        let figures = found[&labels];
        let exact = Figures::of(&Sum { numbers: naive.numbers, ..Sum::default() });
        for column in COLUMNS.iter().filter(|column| !column.name.starts_with('p')) {
            assert_eq!((column.of)(figures), (column.of)(&exact), "{} of {labels:?}", column.name);
        }
        naive.times.sort_unstable();
        for (column, share) in COLUMNS.iter().filter(|column| column.name.starts_with('p')).zip([0.5, 0.95, 0.99]) {
            let rank = ((share * naive.times.len() as f64).ceil() as usize).clamp(1, naive.times.len());
            let exact = naive.times[rank - 1] as f64 / 1_000.0;
            let found = (column.of)(figures).value().unwrap();
            assert!((found - exact).abs() <= exact / 32.0 + 1e-6, "{}: {found} instead of {exact}", column.name);
        }
    }
    assert_eq!(
        (usage.timeline.requests.iter().sum::<u64>(), usage.timeline.errors.iter().sum::<u64>()),
        (requests, errors)
    );
    assert_eq!(usage.totals.requests, requests);
}

fn window() -> impl Strategy<Value = (u32, u32)> {
    let end = DAYS * Minute::DAY + 60;
    prop_oneof![
        (0..end, 0..end),
        // Long enough to be read in days.
        (0..3 * Minute::DAY, 9 * Minute::DAY..end),
        (0..end).prop_flat_map(|from| (Just(from), from..from + 200)),
        (0..=DAYS, 0..=DAYS).prop_map(|(from, to)| (from * Minute::DAY, to * Minute::DAY)),
        (0..=DAYS * 24, 0..=DAYS * 24).prop_map(|(from, to)| (from * Minute::HOUR, to * Minute::HOUR)),
    ]
    .prop_filter_map("not empty", |(a, b)| (a != b).then(|| (a.min(b), a.max(b))))
}

pub fn groupings() -> impl Strategy<Value = Vec<&'static str>> {
    prop::sample::subsequence(By::WORDS.map(|(word, _)| word).to_vec(), 1..=4)
}

fn pairs(window: (u32, u32), by: &[&str], filters: &Filters) -> Vec<(&'static str, String)> {
    let end = |minute: u32| timestamp(Minute(BASE + minute)).to_string();
    let mut pairs =
        vec![("from", end(window.0)), ("to", end(window.1)), ("by", by.join(",")), ("top", "100000".to_owned())];
    pairs.extend(filters.iter().map(|(name, value)| (*name, (*value).to_owned())));
    pairs
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn every_answer_is_that_of_naive_counting(
        records in prop::collection::vec(record(), 0..120), shape in shape(),
        questions in prop::collection::vec((window(), groupings(), filters()), 1..12),
    ) {
        let database = Database::with(&statements(&records, &shape).0);
        for (window, by, filters) in questions {
            let pairs = pairs(window, &by, &filters);
            let found = usage(&mut database.reader(), &pairs);
            let asked = Minute(BASE + window.0)..Minute(BASE + window.1);
            prop_assert!(found.window.start <= asked.start && found.window.end >= asked.end);
            prop_assert!(found.window == asked || shape.gone != (0, 0));
            prop_assert_eq!(found.window == asked, !found.notes.iter().any(|note| note.contains("widened")));
            compare(&found, &records, &filters, shape.gone.1);
        }
    }
}

/// Records, and questions about them, for another store.
pub fn same_answers(fill: impl FnOnce(&str), reader: impl Fn() -> Reader) {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut tree = |strategy: &dyn Fn(&mut proptest::test_runner::TestRunner) -> Vec<Record>| strategy(&mut runner);
    let records = tree(&|runner| prop::collection::vec(record(), 300..301).new_tree(runner).unwrap().current());
    let shape =
        Shape { packed: [(11 * Minute::DAY, 10 * Minute::DAY), (250 * Minute::HOUR, 9 * Minute::DAY)], gone: (90, 0) };
    fill(&statements(&records, &shape).0);
    for window in
        [(0, DAYS * Minute::DAY), (61, 16_000), (61, 5_000), (100, 130), (Minute::DAY, 3 * Minute::DAY), (2_999, 4_001)]
    {
        for by in [&["endpoint"][..], &["key", "status"], &["hour"], &["day", "instance", "consumer"]] {
            for filters in
                [vec![], vec![("service", "s0"), ("service", "(none)"), ("method", "POST"), ("status", "5xx")]]
            {
                let found = usage(&mut reader(), &pairs(window, by, &filters));
                compare(&found, &records, &filters, 0);
            }
        }
    }
}

fn at(minute: u32, endpoint: &str, status: u16, milliseconds: u64) -> Record {
    let series = Series {
        endpoint: endpoint.to_owned(),
        method: "GET".to_owned(),
        status,
        decided_by: "upstream".to_owned(),
        ..Series::default()
    };
    Record { run: 1, minute: Minute(NOW.0 - minute), series, duration: milliseconds * 1_000, blocked: false }
}

/// Nothing is packed.
fn minutes(records: &[Record]) -> Database {
    Database::with(&statements(records, &Shape { packed: [(0, 0); 2], gone: (0, 0) }).0)
}

fn text(pairs: &[(&str, &str)]) -> Vec<(&'static str, String)> {
    // Names are few, and tests end.
    pairs.iter().map(|(name, value)| (&*Box::leak((*name).to_owned().into_boxed_str()), (*value).to_owned())).collect()
}

fn json(database: &Database, pairs: &[(&str, &str)]) -> Json {
    let answer = ask(&text(pairs)).unwrap().answer(&mut database.reader(), timestamp(NOW)).unwrap();
    serde_json::from_str(&answer.json()).unwrap()
}

fn some() -> Database {
    // 1 to 100 ms in the last hour, a tenth of them errors; and fewer in the hour before.
    let mut records: Vec<Record> =
        (1..=100).map(|ms| at(10, "/a/*", if ms % 10 == 0 { 500 } else { 200 }, ms)).collect();
    records.push(at(5, "=orders", 404, 7));
    records.extend((0..50).map(|_| at(70, "/a/*", 200, 10)));
    records.push(at(70, "/gone", 200, 10));
    minutes(&records)
}

#[test]
fn an_answer_as_json() {
    let found = json(&some(), &[("last", "1h")]);
    assert_eq!(
        found["window"],
        serde_json::json!({"from": "2026-03-13T23:00:00Z", "to": "2026-03-14T00:00:00Z", "zone": "UTC"})
    );
    assert_eq!(
        (&found["by"], &found["notes"], &found["groups_left_out"]),
        (&serde_json::json!(["endpoint"]), &serde_json::json!([]), &serde_json::json!(0))
    );
    let group = &found["groups"][0];
    for (name, value) in [
        ("endpoint", serde_json::json!("/a/*")),
        ("requests", 100.into()),
        ("errors", 10.into()),
        ("error_rate_percent", 10.0.into()),
        ("blocked", 0.into()),
        ("average_ms", 50.5.into()),
    ] {
        assert_eq!(group[name], value, "{name}");
    }
    assert!((group["p95_ms"].as_f64().unwrap() - 95.0).abs() < 3.0, "{group}");
    assert_eq!(found["totals"]["requests"], 101);
    assert_eq!(found["timeline"]["step"], "minute");
    assert_eq!(found["timeline"]["requests"][50], 100);
    assert!(found.get("previous").is_none());
}

#[test]
fn windows_are_compared() {
    let found = json(&some(), &[("last", "1h"), ("compare", "previous")]);
    assert_eq!(found["previous"]["window"]["from"], "2026-03-13T22:00:00Z");
    assert_eq!(found["previous"]["totals"]["requests"], 51);
    let group =
        |name: &str| found["groups"].as_array().unwrap().iter().find(|group| group["endpoint"] == name).unwrap();
    assert_eq!(group("/a/*")["previous"]["requests"], 50);
    assert_eq!((&group("/gone")["requests"], &group("/gone")["previous"]["requests"]), (&0.into(), &1.into()));
    assert_eq!(group("=orders")["previous"], Json::Null);
    assert!(found["notes"][0].as_str().unwrap().contains("does not reach back"));
    let usage = usage(&mut some().reader(), &text(&[("last", "1h"), ("compare", "previous")]));
    let table = Answer::Usage(Box::new(usage)).table(Style::default());
    assert!(table.contains("| 100 ▲ 100% |") && table.contains("compared with 2026-03-13 22:00 to"), "{table}");
}

#[test]
fn the_order_and_the_number_of_groups_are_as_asked() {
    let endpoints = |pairs: &[(&str, &str)]| -> Vec<String> {
        let found = json(&some(), pairs);
        found["groups"].as_array().unwrap().iter().map(|group| group["endpoint"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(endpoints(&[]), ["/a/*", "/gone", "=orders"]);
    assert_eq!(endpoints(&[("sort", "p95")]), ["/a/*", "/gone", "=orders"]);
    assert_eq!(endpoints(&[("sort", "endpoint"), ("top", "2")]), ["/a/*", "/gone"]);
    assert_eq!(endpoints(&[("sort", "error_rate"), ("top", "1")]), ["/a/*"]);
    assert_eq!(json(&some(), &[("top", "1")])["groups_left_out"], 2);
    assert_eq!(json(&some(), &[("top", "1")])["totals"]["requests"], 152);
}

#[test]
fn a_summary_has_three_windows() {
    let found = json(&some(), &[("summary", "true")]);
    let frames: Vec<_> = found["summary"]
        .as_array()
        .unwrap()
        .iter()
        .map(|frame| (frame["name"].as_str().unwrap(), frame["totals"]["requests"].as_u64().unwrap()))
        .collect();
    assert_eq!(frames, [("last hour", 101), ("last 24 hours", 152), ("all time", 152)]);
    let answer = ask(&text(&[("summary", "true")])).unwrap().answer(&mut some().reader(), timestamp(NOW)).unwrap();
    let table = answer.table(Style::default());
    assert!(table.contains("| last hour | last 24 hours | all time |"), "{table}");
    assert!(answer.csv(false).starts_with("window,from,to,requests,"), "{}", answer.csv(false));
}

#[test]
fn an_answer_as_table_and_csv() {
    let answer = ask(&text(&[("last", "1h")])).unwrap().answer(&mut some().reader(), timestamp(NOW)).unwrap();
    let table = answer.table(Style::default());
    for part in [
        "Requests: 2026-03-13 23:00 to 2026-03-14 00:00 UTC\n",
        "requests ▁",
        "errors   ▁",
        "| /a/*     |      100 |",
        "10.00%",
        "| total    |      101 |",
    ] {
        assert!(table.contains(part), "{part} in\n{table}");
    }
    for width in [60, 80, 120] {
        let table = answer.table(Style { width: Some(width), colours: false });
        let lines = table.lines().filter(|line| !line.starts_with("not shown"));
        assert!(lines.clone().count() > 5 && lines.clone().all(|line| line.chars().count() <= width), "{table}");
    }
    let csv = answer.csv(false);
    assert!(csv.starts_with("endpoint,requests,errors,error_rate_percent,blocked,average_ms,p50_ms,"), "{csv}");
    assert!(csv.contains("\n/a/*,100,10,10,0,50.5,") && csv.contains("\n\"'=orders\",1,0,0,0,7,"), "{csv}");
    let nothing =
        ask(&text(&[("endpoint", "/nowhere")])).unwrap().answer(&mut some().reader(), timestamp(NOW)).unwrap();
    assert!(nothing.table(Style::default()).starts_with("No requests: 2026-03-13"));
}

#[test]
fn days_are_those_of_the_zone() {
    let records: Vec<Record> = [30, 90, 150].into_iter().map(|minutes| at(minutes, "/a", 200, 1)).collect();
    let days = |zone: &str| -> Vec<(String, u64)> {
        let found = json(&minutes(&records), &[("by", "day"), ("zone", zone)]);
        found["groups"]
            .as_array()
            .unwrap()
            .iter()
            .map(|group| (group["day"].as_str().unwrap().to_owned(), group["requests"].as_u64().unwrap()))
            .collect()
    };
    assert_eq!(days("UTC"), [("2026-03-13".to_owned(), 3)]);
    // 23:30, 22:30 and 21:30 UTC.
    assert_eq!(days("Europe/Berlin"), [("2026-03-13".to_owned(), 2), ("2026-03-14".to_owned(), 1)]);
    let hours = json(&minutes(&records), &[("by", "hour"), ("zone", "Europe/Berlin")]);
    assert_eq!(hours["groups"][0]["hour"], "2026-03-13T22:00:00+01:00");
}

#[test]
fn what_does_not_go_together_is_refused() {
    for (pairs, why) in [
        (&[("by", "colour")][..], "by: `colour` is none of endpoint,"),
        (&[("sort", "key")], "sort: `key` is none of endpoint, requests,"),
        (&[("compare", "next")], "compare:"),
        (&[("compare", "previous"), ("last", "all")], "no window before all time"),
        (&[("compare", "previous"), ("by", "hour")], "no hour and no day in common"),
        (&[("summary", "true"), ("by", "key")], "its own windows"),
        (&[("summary", "true"), ("last", "1h")], "its own windows"),
        (&[("top", "0")], "top:"),
        (&[("status", "6x")], "status:"),
        (&[("colour", "red")], "there is no parameter `colour`"),
        (&[("format", "xml")], "format:"),
    ] {
        let found = ask(&text(pairs)).unwrap_err();
        assert!(found.contains(why), "{found}");
    }
}

#[test]
fn an_empty_log_has_an_answer() {
    let found = json(&Database::with(""), &[("last", "all")]);
    assert_eq!((&found["totals"]["requests"], &found["totals"]["p50_ms"]), (&0.into(), &Json::Null));
    assert_eq!(json(&Database::with(""), &[("summary", "true")])["summary"][2]["totals"]["requests"], 0);
}

#[test]
fn every_line_fits_the_terminal() {
    let database = some();
    let mut asked = vec![text(&[("summary", ""), ("zone", "America/Argentina/Buenos_Aires")])];
    for by in ["endpoint", "endpoint,consumer,key,status,service,instance,method,hour,day,decided_by"] {
        asked.push(text(&[("by", by), ("last", "30d"), ("zone", "Asia/Kolkata")]));
        asked.push(text(&[
            ("by", "endpoint,status"),
            ("last", "1h"),
            ("compare", "previous"),
            ("zone", "Asia/Kolkata"),
        ]));
    }
    asked.retain(|pairs| ask(pairs).is_ok());
    assert!(asked.len() >= 3);
    for pairs in asked {
        let answer = ask(&pairs).unwrap().answer(&mut database.reader(), timestamp(NOW)).unwrap();
        for width in [40, 50, 60, 80, 120] {
            let table = answer.table(Style { width: Some(width), colours: false });
            assert!(table.lines().all(|line| line.chars().count() <= width), "{width}, {pairs:?}:\n{table}");
            let coloured = answer.table(Style { width: Some(width), colours: true });
            assert_eq!(coloured.lines().count(), table.lines().count(), "{coloured}");
            for title in ["last hour", "last 24 hours", "all time"] {
                assert!(pairs[0].0 != "summary" || table.contains(title), "{title}: {table}");
            }
        }
    }
}
